"use strict";
// The page of `microgpt play`: draws a run, and compares two.
const $ = (id) => document.getElementById(id);
let shown = null, pins = { a: null, b: null };

// ---- drawing ----

const count = (values) => Array.from(values, (_, i) => i + 1);

function lossSeries(losses, average, validation) {
  const x = count(losses), found = [{ name: "loss of each step", kind: "each", x, y: losses, noisy: true }];
  if (average) found.push({ name: "moving average", kind: "run0", x, y: average });
  if (validation.length) {
    found.push({ name: "validation", kind: "val alone", dots: true, x: validation.map(([step]) => step), y: validation.map(([, loss]) => loss) });
  }
  return found;
}

function drawLoss(series, steps) {
  charts.curves($("loss"), { label: "loss by step, in nats per token", xLabel: "step", yLabel: "loss (nats per token)",
    height: () => (matchMedia("(max-width: 760px)").matches ? 180 : 270), xMax: steps, series });
}

function showProgress(found, live) {
  live.losses.push(...found.losses);
  live.validation = found.validation;
  $("progress").hidden = $("stop").hidden = false;
  $("progress").value = found.step / found.steps;
  $("status").textContent = `step ${found.step.toLocaleString("en")} of ${found.steps.toLocaleString("en")}; a change cancels this run`;
  drawLoss(lossSeries(live.losses, null, live.validation), found.steps);
}

function showError(message) {
  $("error").textContent = message;
  $("error").hidden = false;
  $("progress").hidden = $("stop").hidden = true;
  $("status").textContent = "";
}

function lastTenth(losses) {
  const part = losses.slice(-Math.max(1, Math.round(losses.length / 10)));
  return part.every(Number.isFinite) ? part.reduce((sum, loss) => sum + loss, 0) / part.length : null;
}

function showResult(result, at) {
  shown = result;
  const { settings: asked } = result;
  $("error").hidden = !result.diverged && !result.samples_error;
  $("error").textContent = result.diverged || result.samples_error || "";
  $("progress").hidden = $("stop").hidden = true;
  drawLoss(lossSeries(result.losses, result.average, result.validation), asked.steps);
  const val = result.validation.length ? result.validation[result.validation.length - 1][1] : null;
  $("loss-summary").textContent = `last tenth: ${charts.number(lastTenth(result.losses))}`
    + (result.validation.length ? `; validation: ${charts.number(val)} on ${result.val_docs.toLocaleString("en")} documents` : "");
  drawSamples($("samples"), result.samples);
  drawWord(result.word);
  drawEmbeddings(result);
  $("command").textContent = result.command.join("\n");
  $("save-lines").hidden = asked.text !== "lines";
  drawComparison();
  const said = `${result.losses.length.toLocaleString("en")} steps on ${result.docs.toLocaleString("en")} documents, `
    + `${result.num_params.toLocaleString("en")} parameters: ${result.is_new ? `${(1000 * result.seconds).toFixed(0)} ms` : "trained before"}`;
  $("status").textContent = said;
  requestAnimationFrame(() => setTimeout(() => { // the picture is on the screen
    const took = performance.now() - at;
    performance.measure("change to picture", { start: at, end: at + took });
    if (shown === result) $("status").textContent = `${said}; ${took.toFixed(0)} ms from the change to the picture`;
  }));
}

function drawSamples(list, samples, others) {
  while (list.children.length > samples.length) list.lastChild.remove();
  samples.forEach((text, i) => {
    const item = list.children[i] || list.appendChild(document.createElement("li"));
    item.textContent = text || "(empty)";
    item.classList.toggle("same", others !== undefined && others[i] === text);
  });
}

const headTitle = (word, i) => `layer ${Math.floor(i / word.n_head)}, head ${i % word.n_head}`;

function drawMaps(host, word, label) {
  host.hidden = Boolean(word.error) || !word.heads;
  if (host.hidden) return;
  charts.heatMaps(host, { label, labels: word.labels, maps: word.attention.map((rows, i) => ({ title: headTitle(word, i), rows })) });
}

function drawWord(word) {
  const message = word.error || (word.heads ? (word.heads > word.attention.length ? `The first ${word.attention.length} of ${word.heads} heads:` : "")
    : "A model without layers has no attention.");
  $("word-error").textContent = message;
  $("word-error").hidden = !message;
  $("word-error").classList.toggle("error", Boolean(word.error));
  $("word").setAttribute("aria-invalid", Boolean(word.error));
  drawMaps($("attention"), word, `attention over “${word.text}”`);
  if (word.error) {
    $("next").replaceChildren();
    $("prefix").textContent = word.error;
    return;
  }
  const position = $("position"), atEnd = position.value === position.max, last = word.tokens.length - 1;
  position.max = last;
  if (atEnd || +position.value > last) position.value = last;
  drawNext();
}

function drawNext() {
  const { word } = shown;
  if (word.error) return;
  const at = +$("position").value, prefix = [...word.text].slice(0, at).join(""), actual = word.tokens[at + 1];
  $("prefix").textContent = at ? `after “${prefix}”` : "at the beginning";
  $("position").setAttribute("aria-valuetext", $("prefix").textContent);
  const list = $("next"), rows = word.next[at];
  while (list.children.length > rows.length) list.lastChild.remove();
  rows.forEach(([token, model, drawn], i) => {
    const item = list.children[i] || list.appendChild(buildBar()), button = item.firstChild, [name, track, value] = button.children;
    const ends = token === word.vocabulary.length - 1;
    name.textContent = ends ? "end" : word.names[token];
    track.children[0].style.width = `${100 * model}%`;
    track.children[1].style.width = `${100 * drawn}%`;
    value.textContent = `${(100 * model).toFixed(1)} %`;
    button.classList.toggle("actual", token === actual);
    button.dataset.text = prefix + word.vocabulary[token];
    button.setAttribute("aria-label", `${name.textContent}: ${(100 * model).toFixed(1)} percent by the model, `
      + `${(100 * drawn).toFixed(1)} percent in samples${token === actual ? ", the word's own" : ""}`);
  });
}

function buildBar() {
  const item = document.createElement("li"), button = charts.element("button", { type: "button" });
  const track = charts.element("span", { class: "track" });
  track.append(charts.element("span", { class: "model" }), charts.element("span", { class: "drawn" }));
  button.append(charts.element("span"), track, charts.element("span", { class: "value" }));
  item.append(button);
  return item;
}

function drawEmbeddings({ embeddings, word }) {
  $("embeddings").hidden = !embeddings;
  if (!embeddings) return;
  const marked = new Set(word.error ? [] : word.labels);
  charts.plane($("embeddings"), {
    label: "token embeddings in the plane", xLabel: `first principal component (${(100 * embeddings.share[0]).toFixed(0)} % of the variance)`,
    yLabel: `second (${(100 * embeddings.share[1]).toFixed(0)} %)`,
    points: embeddings.labels.map((label, i) => ({ label, x: embeddings.x[i], y: embeddings.y[i], marked: marked.has(label) })),
  });
}

// ---- two runs ----

// In words, where two results first differ; and whether they are the same.
function compare(a, b) {
  const common = Math.min(a.losses.length, b.losses.length);
  for (let i = 0; i < common; i++) {
    if (!Object.is(a.losses[i], b.losses[i])) {
      return [false, `They first differ at step ${(i + 1).toLocaleString("en")}, in the loss: ${a.losses[i]} and ${b.losses[i]}.`];
    }
  }
  if (a.losses.length !== b.losses.length) {
    return [false, `All ${common.toLocaleString("en")} losses that both have are the same to the last bit; one run is longer.`];
  }
  const tensors = Object.keys(a.digests).filter((name) => a.digests[name] !== b.digests[name]);
  if (tensors.length) return [false, `All losses are the same to the last bit; after the last step these tensors differ: ${tensors.join(", ")}.`];
  const sample = a.samples.findIndex((text, i) => text !== b.samples[i]);
  const same = `same bits: all ${common.toLocaleString("en")} losses and all ${Object.keys(a.digests).length} tensors`;
  if (sample >= 0 || a.samples.length !== b.samples.length) {
    return [false, `The training has the ${same}. The samples first differ in number ${sample < 0 ? Math.min(a.samples.length, b.samples.length) + 1 : sample + 1}.`];
  }
  return [true, `The ${same}, and all ${a.samples.length} samples.`.replace("The s", "S")];
}

function drawComparison() {
  const a = pins.a || (pins.b && shown), b = pins.b || (pins.a && shown);
  $("comparison").hidden = !a;
  $("unpin").hidden = !a;
  $("pin-a").setAttribute("aria-pressed", Boolean(pins.a));
  $("pin-b").setAttribute("aria-pressed", Boolean(pins.b));
  if (!a) return;
  const nameA = pins.a ? "A" : "shown", nameB = pins.b ? "B" : "shown";
  const [same, text] = compare(a, b);
  $("verdict").textContent = text;
  $("verdict").className = `verdict ${same ? "same" : "differ"}`;
  $("name-b").textContent = pins.b ? "B" : "The run that is shown";
  const rows = Object.keys({ ...a.settings, ...b.settings }).filter((name) => a.settings[name] !== b.settings[name] && name !== "lines").map((name) => {
    const row = document.createElement("tr");
    row.append(charts.element("th", { scope: "row" }, name), ...[a, b].map((run) => charts.element("td", {}, String(run.settings[name] ?? "–"))));
    return row;
  });
  const head = document.createElement("tr");
  head.append(document.createElement("td"), ...[nameA, nameB].map((name) => charts.element("th", { scope: "col" }, name)));
  $("differing").tHead.replaceChildren(head);
  $("differing").tBodies[0].replaceChildren(...rows);
  $("differing").hidden = !rows.length;
  const series = [];
  [[a, nameA], [b, nameB]].forEach(([run, name], i) => {
    series.push({ name: `${name}: moving average`, kind: `run${i}`, x: count(run.average), y: run.average });
    if (run.validation.length) {
      series.push({ name: `${name}: validation`, kind: `val run${i}`, dots: true, x: run.validation.map(([x]) => x), y: run.validation.map(([, y]) => y) });
    }
  });
  charts.curves($("both"), { label: "losses of both runs by step", xLabel: "step", yLabel: "loss (nats per token)", height: 240, series });
  drawSamples($("samples-a"), a.samples, b.samples);
  drawSamples($("samples-b"), b.samples, a.samples);
  drawMaps($("attention-a"), a.word, `attention of A over “${a.word.text}”`);
  drawMaps($("attention-b"), b.word, `attention of ${nameB} over “${b.word.text}”`);
}
