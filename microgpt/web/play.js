"use strict";
// The page of `microgpt play`: reads the settings, asks the server for the run, draws what comes back.
const $ = (id) => document.getElementById(id);

// name, label, where, what the slider goes through; the number beside it takes any value that the server allows.
const range = (first, last, step = 1) => Array.from({ length: Math.round((last - first) / step) + 1 }, (_, i) => +(first + i * step).toFixed(6));
const CONTROLS = [
  ["steps", "steps", "run", [10, 20, 50, ...range(100, 3000, 100), ...range(3500, 10000, 500)]],
  ["learning_rate", "learning rate", "run", [1e-4, 2e-4, 5e-4, 0.001, 0.002, 0.003, 0.005, 0.007, 0.01, 0.015, 0.02, 0.03, 0.05, 0.07, 0.1, 0.2, 0.5, 1]],
  ["seed", "seed", "run", range(0, 100)],
  ["n_embd", "n_embd: numbers per token", "model", [4, 8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 128]],
  ["n_head", "n_head: attention heads", "model", [1, 2, 4, 8, 16]],
  ["n_layer", "n_layer: layers", "model", range(0, 6)],
  ["block_size", "block_size: positions", "model", [2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 32, 48, 64, 96, 128]],
  ["temperature", "temperature", "sampling", [0.05, ...range(0.1, 2, 0.1), 2.5, 3, 5]],
  ["top_k", "top-k (0: all)", "sampling", range(0, 30)],
];
const sliders = {};
let about, shown = null, pins = { a: null, b: null };

// ---- settings ----

function buildControls() {
  for (const [name, label, where, values] of CONTROLS) {
    const row = charts.element("div", { class: "control" });
    const whole = !["learning_rate", "temperature"].includes(name), [least, most] = about.limits[name];
    const field = charts.element("input", { type: "number", id: name, step: whole ? 1 : "any", min: name === "top_k" ? 0 : least, max: most });
    const slider = charts.element("input", { type: "range", min: 0, max: values.length - 1, step: 1, "aria-label": `${label}, slider` });
    row.append(charts.element("label", { for: name }, label), field, slider);
    $(where).append(row);
    sliders[name] = { slider, values };
    slider.addEventListener("input", (event) => {
      field.value = values[slider.value];
      slider.setAttribute("aria-valuetext", field.value);
      changed(event, name);
    });
    field.addEventListener("input", (event) => {
      if (field.value === "" || !field.validity.valid) return;
      placeSlider(name);
      changed(event, name);
    });
  }
}

function placeSlider(name) {
  const { slider, values } = sliders[name], value = +$(name).value;
  slider.value = values.reduce((best, candidate, i) => (Math.abs(candidate - value) < Math.abs(values[best] - value) ? i : best), 0);
  slider.setAttribute("aria-valuetext", $(name).value);
}

// The number of heads must divide n_embd: what was not moved gives way.
function keepDivisible(name) {
  const embd = +$("n_embd").value, head = +$("n_head").value;
  if (!(embd > 0 && head > 0) || embd % head === 0) return;
  if (name === "n_head") $("n_embd").value = Math.ceil(embd / head) * head;
  else $("n_head").value = Math.max(...sliders.n_head.values.filter((value) => embd % value === 0 && value <= head));
  placeSlider(name === "n_head" ? "n_embd" : "n_head");
}

function lineCount() {
  return $("lines").value.split(/\r\n|\r|\n/).filter((line) => line.trim()).length;
}

function validationFraction() {
  const chosen = $("validation").value;
  if (chosen !== "auto") return chosen === "" ? null : +chosen;
  const documents = $("text").value === "lines" ? lineCount() : about.documents[$("text").value];
  return documents < 10 ? null : Math.min(0.1, +(100 / documents).toPrecision(1));
}

function settings() {
  const found = { text: $("text").value, word: $("word").value, val_fraction: validationFraction() };
  for (const [name] of CONTROLS) found[name] = +$(name).value;
  if (!found.top_k) found.top_k = null;
  if (found.text === "lines") found.lines = $("lines").value;
  return found;
}

function apply(values) {
  for (const [name] of CONTROLS) {
    const value = values[name];
    $(name).value = value === null || value === undefined ? 0 : value;
    placeSlider(name);
  }
  $("text").value = [...$("text").options].some((option) => option.value === values.text) ? values.text : "names";
  $("lines").value = values.lines;
  $("pasting").hidden = $("text").value !== "lines";
  $("word").value = values.word;
  $("validation").value = [...$("validation").options].some((option) => option.value === values.validation) ? values.validation : "auto";
}

// Settings as the part of a link after #; those that are the page's own are left out.
function fragment() {
  const found = new URLSearchParams(), values = { ...settings(), validation: $("validation").value };
  delete values.val_fraction;
  for (const [name, value] of Object.entries(values)) {
    const own = name === "validation" ? "auto" : about.defaults[name];
    if (value !== own && !(name === "lines" && value.length > 20000)) found.set(name, value === null ? 0 : value);
  }
  return found.toString();
}

function fromFragment() {
  const found = { ...about.defaults, validation: "auto" };
  for (const [name, value] of new URLSearchParams(location.hash.slice(1))) {
    if (name in found) found[name] = CONTROLS.some(([known]) => known === name) ? +value : value;
  }
  apply(found);
}

// ---- one request at a time: a newer change waits for a run that is about to end, and cancels one that is not ----

const PATIENCE = 80; // ms
let wanted = null, running = null, number = 0, settling = 0;

function changed(event, name) {
  if (name === "n_embd" || name === "n_head") keepDivisible(name);
  wanted = { at: event && event.timeStamp ? event.timeStamp : performance.now(), settings: settings() };
  clearTimeout(settling);
  settling = setTimeout(settled, 600);
  if (!running) ask();
  else if (performance.now() - running.began > PATIENCE) running.abort();
}

async function ask() {
  const { at, settings: asked } = wanted, mine = ++number, controller = new AbortController();
  wanted = null;
  running = { began: performance.now(), abort: () => { controller.abort(); } };
  const patience = setTimeout(() => { if (wanted && running) running.abort(); }, PATIENCE);
  try {
    const response = await fetch("run", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(asked),
      signal: controller.signal });
    if (!response.ok) throw new Error((await response.json()).error);
    await read(response, asked, at);
  } catch (error) {
    if (error.name !== "AbortError" && !wanted) showError(error instanceof TypeError ? "The server does not answer: has it ended?" : error.message);
  } finally {
    clearTimeout(patience);
    if (mine === number) running = null;
    if (wanted) ask();
  }
}

async function read(response, asked, at) {
  const reader = response.body.getReader(), decoder = new TextDecoder();
  let rest = "", live = { losses: [], validation: [] };
  for (;;) {
    const { done, value } = await reader.read();
    rest += done ? decoder.decode() : decoder.decode(value, { stream: true });
    const lines = rest.split("\n");
    rest = lines.pop();
    for (const line of lines) {
      const found = JSON.parse(line);
      if (found.kind === "progress") showProgress(found, live);
      if (found.kind === "result") showResult({ ...found, settings: asked }, at);
    }
    if (done) return;
  }
}

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
  $("progress").hidden = false;
  $("progress").value = found.step / found.steps;
  $("status").textContent = `step ${found.step.toLocaleString("en")} of ${found.steps.toLocaleString("en")}; a change cancels this run`;
  drawLoss(lossSeries(live.losses, null, live.validation), found.steps);
}

function showError(message) {
  $("error").textContent = message;
  $("error").hidden = false;
  $("progress").hidden = true;
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
  $("progress").hidden = true;
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
    + `${result.num_params.toLocaleString("en")} parameters: ${(1000 * result.seconds).toFixed(0)} ms`;
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
    return [false, `All ${common.toLocaleString("en")} losses that both have are the same to the last bit; one run goes on.`];
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

// ---- the rest ----

// Some time after the last change: what need not follow every movement of a slider.
function settled() {
  history.replaceState(null, "", `#${fragment()}`);
  if (!shown || running) {
    settling = setTimeout(settled, 600);
    return;
  }
  $("spoken").textContent = `${$("status").textContent}. ${$("loss-summary").textContent}. First sample: ${shown.samples[0] || "none"}.`;
  const link = $("save-lines");
  if (!link.hidden) {
    URL.revokeObjectURL(link.href);
    link.href = URL.createObjectURL(new Blob([$("lines").value.replace(/\r\n?/g, "\n") + "\n"], { type: "text/plain" }));
  }
}

async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
    $("copied").textContent = `${what} copied.`;
  } catch {
    $("copied").textContent = text; // to select by hand
  }
}

async function start() {
  about = await (await fetch("about")).json();
  buildControls();
  for (const [name, label] of Object.entries(about.texts)) $("text").append(charts.element("option", { value: name }, label));
  fromFragment();
  $("word").addEventListener("input", (event) => { $("position").value = $("position").max; changed(event); });
  $("position").addEventListener("input", drawNext);
  $("next").addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    $("word").value = button.dataset.text;
    $("position").value = $("position").max; // it stays at the end, and drawWord moves the end
    changed(event);
  });
  for (const name of ["text", "validation"]) {
    $(name).addEventListener("change", (event) => {
      $("pasting").hidden = $("text").value !== "lines";
      if ($("text").value === "lines" && !$("lines").value.trim()) $("lines").focus();
      changed(event);
    });
  }
  $("lines").addEventListener("input", (event) => changed(event));
  $("open").addEventListener("change", async (event) => {
    const [file] = $("open").files;
    if (!file) return;
    $("lines").value = await file.text();
    changed(event);
  });
  $("settings").addEventListener("submit", (event) => event.preventDefault());
  $("reset").addEventListener("click", (event) => { apply({ ...about.defaults, validation: "auto" }); changed(event); });
  $("copy-command").addEventListener("click", () => copy($("command").textContent, "The commands are"));
  $("copy-link").addEventListener("click", () => copy(`${location.href.split("#")[0]}#${fragment()}`, "The link is"));
  $("pin-a").addEventListener("click", () => { pins.a = shown; drawComparison(); });
  $("pin-b").addEventListener("click", () => { pins.b = shown; drawComparison(); });
  $("unpin").addEventListener("click", () => { pins = { a: null, b: null }; drawComparison(); });
  window.addEventListener("hashchange", (event) => { fromFragment(); changed(event); });
  $("unpin").hidden = true;
  changed(null);
}

start().catch((error) => showError(`The page could not begin: ${error.message}`));
