"use strict";
// The page of `microgpt play`: reads the settings and asks the server for the run. play_draw.js draws what comes back.

// name, label, where, what the slider goes through; the number beside it takes any value that the server allows.
const range = (first, last, step = 1) => Array.from({ length: Math.round((last - first) / step) + 1 }, (_, i) => +(first + i * step).toFixed(6));
const CONTROLS = [
  ["steps", "steps", "run", [10, 20, 50, ...range(100, 3000, 100), ...range(3500, 10000, 500)]],
  ["learning_rate", "learning rate", "run", [1e-4, 2e-4, 5e-4, 0.001, 0.002, 0.003, 0.005, 0.007, 0.01, 0.015, 0.02, 0.03, 0.05, 0.07, 0.1, 0.2, 0.5, 1]],
  ["seed", "seed", "run", range(0, 100)],
  ["warmup", "warmup: steps", "optimizer", [0, 5, 10, 20, 50, ...range(100, 1000, 100)]],
  ["weight_decay", "weight decay", "optimizer", [0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5]],
  ["clip", "clip: norm (0: off)", "optimizer", [0, 0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 10]],
  ["n_embd", "n_embd: width", "model", [4, 8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 128]],
  ["n_head", "n_head: attention heads", "model", [1, 2, 4, 8, 16]],
  ["n_layer", "n_layer: layers", "model", range(0, 6)],
  ["block_size", "block_size: positions", "model", [2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 32, 48, 64, 96, 128]],
  ["temperature", "temperature", "sampling", [0.05, ...range(0.1, 2, 0.1), 2.5, 3, 5]],
  ["top_k", "top-k (0: all)", "sampling", range(0, 30)],
];
const FRACTIONS = ["learning_rate", "weight_decay", "clip", "temperature"];
const OPTIONAL = ["top_k", "clip"]; // 0: null, none
const OPTIMIZER = ["schedule", "warmup", "weight_decay", "clip"];
const sliders = {};
let about;

// ---- settings ----

function buildControls() {
  for (const [name, label, where, values] of CONTROLS) {
    const row = charts.element("div", { class: "control" });
    const [least, most] = about.limits[name];
    const field = charts.element("input", { type: "number", id: name, step: FRACTIONS.includes(name) ? "any" : 1,
      min: OPTIONAL.includes(name) ? 0 : least, max: most });
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

function settings() {
  const found = { schedule: $("schedule").value, text: $("text").value, split: $("split").value, word: $("word").value };
  found.val_fraction = $("validation").value === "auto" ? "auto" : +$("validation").value || null;
  for (const [name] of CONTROLS) found[name] = +$(name).value;
  for (const name of OPTIONAL) found[name] = found[name] || null;
  found.warmup = Math.max(0, Math.min(found.warmup, found.steps - 1)); // a run that is shorter, while its steps are typed, say
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
  $("schedule").value = ["cosine", "constant"].includes(values.schedule) ? values.schedule : "linear";
  if (OPTIMIZER.some((name) => values[name] !== about.defaults[name])) $("optimizer").open = true; // what is set is seen
  $("lines").value = values.lines;
  $("split").value = ["paragraphs", "chunks"].includes(values.split) ? values.split : "lines";
  fitText();
  $("word").value = values.word;
  $("validation").value = [...$("validation").options].some((option) => option.value === values.validation) ? values.validation : "auto";
}

// What belongs to the chosen text: a field to paste into, and how it is split.
function fitText() {
  $("pasting").hidden = $("text").value !== "lines";
  $("split").disabled = $("text").value === "names";
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

// Ends the run that trains, without another.
function stop() {
  if (!running) return;
  running.abort();
  $("progress").hidden = $("stop").hidden = true;
  $("status").textContent = `stopped: ${$("status").textContent.replace(/;.*/, "")}`;
}

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
  for (const name of ["schedule", "text", "split", "validation"]) {
    $(name).addEventListener("change", (event) => {
      fitText();
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
  $("stop").addEventListener("click", stop);
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
