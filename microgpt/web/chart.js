"use strict";
// Charts for the pages of microgpt: curves over steps, heat maps, labels in a plane. Everything that they show can be read
// with the pointer and with the arrow keys; colours come from page.css. No other script is needed.
//
//   charts.curves(host, {label, xLabel, yLabel, height, fromZero, series: [{name, kind, x, y, dots}]})
//   charts.heatMaps(host, {label, labels, maps: [{title, rows}], describe})
//   charts.plane(host, {label, xLabel, yLabel, points: [{label, x, y, marked}]})
//
// host is an element; a second call draws into the same host again.
const charts = (() => {
  const SVG = "http://www.w3.org/2000/svg";
  const kept = new WeakMap(); // host -> what was drawn into it

  function element(name, attributes = {}, text) {
    const found = ["svg", "g", "path", "line", "text", "circle", "rect", "clipPath"].includes(name)
      ? document.createElementNS(SVG, name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) found.setAttribute(key, value);
    if (text !== undefined) found.textContent = text;
    return found;
  }

  // What a host keeps from one drawing to the next. It is drawn again when its width or the colour scheme changes.
  function prepare(host, spec, draw, build) {
    let state = kept.get(host);
    if (!state) {
      state = { host, at: null };
      kept.set(host, state);
      host.classList.add("chart");
      build(state);
      state.width = host.clientWidth;
      new ResizeObserver(() => {
        if (host.clientWidth && Math.abs(host.clientWidth - state.width) > 1) {
          state.width = host.clientWidth;
          state.draw();
        }
      }).observe(host);
      matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => state.draw());
    }
    state.spec = spec;
    state.draw = () => draw(state);
    if (!state.width) state.width = host.clientWidth;
    state.draw();
    if (state.at !== null) state.show(state.at);
  }

  // A surface on which the pointer and the arrow keys choose what is read out: to a screen reader it is a slider.
  function surface(state, node, { find, move, show, hide }) {
    node.tabIndex = 0;
    node.setAttribute("role", "slider");
    state.show = (at) => { state.at = at; show(at); };
    const leave = () => { state.at = null; hide(); };
    node.addEventListener("pointermove", (event) => {
      const box = node.getBoundingClientRect();
      const at = find(event.clientX - box.left, event.clientY - box.top);
      if (at === null) leave(); else state.show(at);
    });
    node.addEventListener("pointerleave", () => { if (document.activeElement !== node) leave(); });
    node.addEventListener("blur", leave);
    node.addEventListener("keydown", (event) => {
      const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1], PageUp: [-10, 0],
        PageDown: [10, 0], Home: [-Infinity, 0], End: [Infinity, 0] }[event.key];
      if (event.key === "Escape") leave();
      if (!steps) return;
      event.preventDefault();
      const at = move(state.at, ...steps);
      if (at !== null) state.show(at);
    });
  }

  function say(node, text) {
    node.setAttribute("aria-valuetext", text);
  }

  function number(value) {
    if (value === null || value === undefined || !Number.isFinite(value)) return "–";
    const size = Math.abs(value);
    return size !== 0 && (size < 1e-3 || size >= 1e6) ? value.toExponential(2) : String(+value.toPrecision(4));
  }

  // A round distance between about this many ticks, at least `least`.
  function tickStep(low, high, about, least = 0) {
    const span = high - low || 1, size = 10 ** Math.floor(Math.log10(span / about));
    return Math.max(least, size * ([1, 2, 5].find((m) => span / (size * m) <= about) || 10));
  }

  function ticks(low, high, step) {
    const found = [];
    for (let i = Math.ceil(low / step - 1e-9); i <= Math.floor(high / step + 1e-9); i++) found.push(+(i * step).toPrecision(12));
    return found;
  }

  // Of many points the lowest and the highest of each stretch, in their order.
  function thinned(points, most) {
    if (points.length <= most) return points;
    const found = [points[0]], stretches = Math.max(1, most >> 1), n = points.length;
    for (let i = 0; i < stretches; i++) {
      let low = null, high = null;
      for (let j = Math.floor((i * n) / stretches); j < Math.floor(((i + 1) * n) / stretches); j++) {
        if (low === null || points[j][1] < points[low][1]) low = j;
        if (high === null || points[j][1] > points[high][1]) high = j;
      }
      for (const j of low === high ? [low] : [Math.min(low, high), Math.max(low, high)]) if (j > 0) found.push(points[j]);
    }
    if (found[found.length - 1] !== points[n - 1]) found.push(points[n - 1]);
    return found;
  }

  // ---- curves ----

  function buildCurves(state) {
    state.caption = element("figcaption", { class: "legend" });
    state.svg = element("svg", { class: "plot" });
    state.frame = element("g");
    state.inside = element("svg");
    state.cursor = element("line", { class: "cursor", visibility: "hidden" });
    state.svg.append(state.frame, state.inside, state.cursor);
    state.host.append(state.caption, state.svg);
    surface(state, state.svg, {
      find: (px) => (state.scale ? Math.round(Math.min(state.scale.x1, Math.max(state.scale.x0, state.scale.stepAt(px)))) : null),
      move: (at, dx, dy) => {
        if (!state.scale) return null;
        const { x0, x1 } = state.scale, unit = Math.max(1, Math.round((x1 - x0) / 100));
        const next = at === null && Number.isFinite(dx) ? (dx < 0 ? x1 : x0) : (at || 0) + (dx - dy) * unit;
        return Math.min(x1, Math.max(x0, next));
      },
      show: (x) => showStep(state, x),
      hide: () => {
        state.cursor.setAttribute("visibility", "hidden");
        for (const output of state.outputs || []) output.textContent = "";
        if (state.where) state.where.textContent = "";
      },
    });
  }

  function showStep(state, x) {
    if (!state.scale) return;
    const px = state.scale.px(x), said = [];
    state.cursor.setAttribute("x1", px);
    state.cursor.setAttribute("x2", px);
    state.cursor.setAttribute("visibility", "visible");
    state.where.textContent = `at ${state.spec.xLabel} ${x.toLocaleString("en")}`;
    state.spec.series.forEach((series, i) => {
      const near = nearest(series.x, x), value = near === null ? null : series.y[near];
      state.outputs[i].textContent = near === null ? "" : number(value);
      if (near !== null) said.push(`${series.name} ${number(value)}`);
    });
    say(state.svg, `${state.where.textContent}: ${said.join(", ")}`);
    state.svg.setAttribute("aria-valuenow", x);
  }

  function nearest(xs, x) {
    if (!xs.length) return null;
    let low = 0, high = xs.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (xs[middle] < x) low = middle + 1; else high = middle;
    }
    return low > 0 && x - xs[low - 1] <= xs[low] - x ? low - 1 : low;
  }

  function legend(state) {
    const names = state.spec.series.map((series) => `${series.kind} ${series.name}`).join("\n");
    if (state.names === names) return;
    state.names = names;
    state.outputs = [];
    state.where = element("span", { class: "where" });
    state.caption.replaceChildren();
    for (const series of state.spec.series) {
      const key = element("span", { class: "key" }), mark = element("svg", { width: 22, height: 10, "aria-hidden": "true" });
      mark.append(element("line", { class: `curve ${series.kind}`, x1: 1, x2: 21, y1: 5, y2: 5 }));
      const output = element("output");
      state.outputs.push(output);
      key.append(mark, `${series.name} `, output);
      state.caption.append(key);
    }
    state.caption.append(state.where);
  }

  function drawCurves(state) {
    const { spec, svg } = state, width = Math.max(200, Math.round(state.width)), height = typeof spec.height === "function" ? spec.height() : spec.height || 260;
    legend(state);
    const shown = spec.series.map((series) => {
      const points = [];
      for (let i = 0; i < series.x.length; i++) if (Number.isFinite(series.y[i])) points.push([series.x[i], series.y[i]]);
      return { ...series, points };
    });
    let x0 = Infinity, x1 = -Infinity, low = Infinity, high = -Infinity;
    const noisy = [];
    for (const series of shown) {
      for (const [x, y] of series.points) {
        if (x < x0) x0 = x;
        if (x > x1) x1 = x;
        if (y < low) low = y;
        if (y > high) high = y;
        if (series.noisy) noisy.push(y);
      }
    }
    state.scale = null;
    if (x0 === Infinity) {
      setFrame(state, "none", width, height, () => [element("text", { class: "tick", x: 8, y: height / 2 }, "There is no finite number to draw.")]);
      state.inside.replaceChildren();
      return;
    }
    if (spec.xMax > x1) x1 = spec.xMax;
    if (noisy.length > 50) { // a few hard documents may not squeeze everything else into a line
      noisy.sort((a, b) => a - b);
      high = noisy[Math.floor(0.998 * (noisy.length - 1))];
    }
    if (spec.fromZero) low = Math.min(0, low);
    // The axis ends at ticks, so that it stays where it is while a slider is dragged.
    const step = tickStep(low, high, height > 200 ? 5 : 3);
    low = Math.floor(low / step + 1e-9) * step;
    high = Math.max(low + step, Math.ceil(high / step - 1e-9) * step);
    const left = leftOf(ticks(low, high, step)), right = 12, top = 8, bottom = 36, wide = width - left - right, tall = height - top - bottom;
    const px = (x) => left + (wide * (x - x0)) / (x1 - x0 || 1);
    const py = (y) => top + (tall * (high - y)) / (high - low);
    state.scale = { x0, x1, px, stepAt: (at) => x0 + ((at - left) / wide) * (x1 - x0) };
    setFrame(state, `${low} ${high} ${x0} ${x1}`, width, height, () => {
      const nodes = ticks(low, high, step).flatMap((y) => [
        element("line", { class: "grid", x1: left, x2: left + wide, y1: py(y).toFixed(1), y2: py(y).toFixed(1) }),
        element("text", { class: "tick", x: left - 6, y: (py(y) + 4).toFixed(1), "text-anchor": "end" }, number(y))]);
      for (const x of ticks(x0, x1, tickStep(x0, x1, Math.max(2, Math.floor(wide / 90)), 1))) {
        const anchor = px(x) > left + wide - 14 ? "end" : "middle"; // or its half would be cut off
        const at = anchor === "end" ? width - 1 : px(x);
        nodes.push(element("text", { class: "tick", x: at.toFixed(1), y: height - 20, "text-anchor": anchor }, x.toLocaleString("en")));
      }
      for (const [name, value] of Object.entries({ x: left, y: top, width: wide, height: tall, viewBox: `${left} ${top} ${wide} ${tall}` })) {
        state.inside.setAttribute(name, value);
      }
      state.cursor.setAttribute("y1", top);
      state.cursor.setAttribute("y2", top + tall);
      return [...nodes, ...axisNames(spec, left, top, wide, tall, height)];
    });
    svg.setAttribute("aria-valuemin", x0);
    svg.setAttribute("aria-valuemax", x1);
    svg.setAttribute("aria-valuenow", x1);
    say(svg, shown.filter((series) => series.points.length)
      .map((series) => `${series.name} ends at ${number(series.points[series.points.length - 1][1])}`).join(", "));
    const paths = [];
    for (const series of shown) {
      const points = thinned(series.points, 2 * wide), few = points.length <= 300 ? " few" : "";
      const places = points.map(([x, y]) => `${Math.round(px(x) * 10) / 10} ${Math.round(py(y) * 10) / 10}`);
      paths.push([`curve ${series.kind}${few}`, places.length ? `M${places.join("L")}` : ""]);
      if (series.dots || points.length === 1) { // a line needs two ends to be seen
        paths.push([`curve ${series.kind} dots`, places.map((place) => `M${place}h0`).join("")]);
      }
    }
    while (state.inside.children.length > paths.length) state.inside.lastChild.remove();
    paths.forEach(([kind, d], i) => {
      const path = state.inside.children[i] || state.inside.appendChild(element("path"));
      path.setAttribute("class", kind);
      path.setAttribute("d", d);
    });
  }

  // Axes, grid and labels: made again only if something about them has changed.
  function setFrame(state, key, width, height, make) {
    const { svg, spec } = state, whole = [key, width, height, spec.label, spec.xLabel, spec.yLabel].join("\n");
    if (state.frameKey === whole) return;
    state.frameKey = whole;
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("height", height);
    svg.setAttribute("aria-label", spec.label);
    state.frame.replaceChildren(...make());
  }

  // Room for the name of the axis and the labels of its ticks.
  function leftOf(values) {
    return 26 + Math.ceil(6.4 * Math.max(...values.map((value) => number(value).length)));
  }

  function axisNames(spec, left, top, wide, tall, height) {
    const middle = top + tall / 2;
    return [element("text", { class: "axis", x: left + wide, y: height - 4, "text-anchor": "end" }, spec.xLabel),
      element("text", { class: "axis", x: 12, y: middle, "text-anchor": "middle", transform: `rotate(-90 12 ${middle})` }, spec.yLabel)];
  }

  // ---- heat maps: the lower triangles of attention, all heads on one canvas ----

  function buildMaps(state) {
    state.canvas = element("canvas", { class: "maps" });
    state.output = element("output", { class: "readout" });
    state.host.append(state.canvas, state.output);
    surface(state, state.canvas, {
      find: (px, py) => cellAt(state, px, py),
      move: (at, dx, dy) => {
        const { maps } = state.spec;
        if (!maps.length) return null;
        let [map, row, column] = at || [0, 0, -1];
        if (Math.abs(dx) >= 10) { // the next head
          map = Math.min(maps.length - 1, Math.max(0, map + Math.sign(dx)));
          return [map, Math.min(row, maps[map].rows.length - 1), column];
        }
        row = Math.min(maps[map].rows.length - 1, Math.max(0, row + dy));
        column = Math.min(maps[map].rows[row].length - 1, Math.max(0, column + dx));
        return [map, row, column];
      },
      show: ([map, row, column]) => {
        const found = state.spec.maps[map], value = found && found.rows[row] && found.rows[row][column];
        if (value === undefined) return;
        const { labels } = state.spec;
        const text = `${found.title}: reading “${labels[row]}”, it attends to “${labels[column]}” with ${value.toFixed(3)}`;
        state.output.textContent = text;
        say(state.canvas, text);
        drawMaps(state, [map, row, column]);
      },
      hide: () => { state.output.textContent = ""; drawMaps(state); },
    });
  }

  function cellAt(state, px, py) {
    const g = state.grid;
    if (!g) return null;
    const column = Math.floor(px / g.stepX), row = Math.floor(py / g.stepY), map = row * g.across + column;
    if (column >= g.across || map >= state.spec.maps.length) return null;
    const t = Math.floor((px - column * g.stepX - g.left) / g.cell), p = Math.floor((py - row * g.stepY - g.top) / g.cell);
    const rows = state.spec.maps[map].rows;
    return p >= 0 && p < rows.length && t >= 0 && t < rows[p].length ? [map, p, t] : null;
  }

  function drawMaps(state, marked) {
    const { spec, canvas } = state, n = spec.labels.length, style = getComputedStyle(state.host);
    const ink = style.getPropertyValue("--ink"), soft = style.getPropertyValue("--soft"), line = style.getPropertyValue("--line");
    const colour = style.getPropertyValue("--heat"), width = Math.max(160, Math.floor(state.width));
    const left = 18, top = 38, gap = 16;
    const room = Math.max(1, Math.min(spec.maps.length, Math.floor((width + gap) / (108 + gap))));
    const fitting = Math.ceil(spec.maps.length / Math.ceil(spec.maps.length / room)); // as many in each row
    const cell = Math.max(5, Math.min(20, Math.floor(((width + gap) / fitting - gap - left) / n)));
    const stepX = left + n * cell + gap, stepY = top + n * cell + 10;
    const across = Math.max(1, Math.min(fitting, Math.floor((width + gap) / stepX))), down = Math.ceil(spec.maps.length / across);
    state.grid = { left, top, cell, stepX, stepY, across };
    const ratio = Math.min(3, window.devicePixelRatio || 1), height = Math.max(1, down * stepY), needed = Math.min(width, across * stepX);
    canvas.width = Math.round(needed * ratio);
    canvas.height = Math.round(height * ratio);
    canvas.style.width = `${needed}px`;
    canvas.style.height = `${height}px`;
    canvas.setAttribute("aria-label", spec.label);
    canvas.setAttribute("aria-roledescription", "heat maps");
    canvas.setAttribute("aria-valuenow", 0);
    if (!canvas.hasAttribute("aria-valuetext")) say(canvas, `${spec.maps.length} heads; arrow keys read the cells, Page Down the next head`);
    const c = canvas.getContext("2d");
    c.scale(ratio, ratio);
    c.textBaseline = "middle";
    const font = Math.max(8, Math.min(13, cell + 1));
    spec.maps.forEach((map, i) => {
      const x = (i % across) * stepX, y = Math.floor(i / across) * stepY;
      c.textAlign = "left";
      c.fillStyle = soft;
      c.font = "12px system-ui, sans-serif";
      c.fillText(map.title, x + left, y + 10);
      c.font = `${font}px system-ui, sans-serif`;
      c.textAlign = "center";
      spec.labels.forEach((label, t) => {
        c.fillStyle = marked && marked[0] === i && marked[2] === t ? ink : soft;
        c.fillText(label.slice(0, 1), x + left + (t + 0.5) * cell, y + top - 9);
        c.fillStyle = marked && marked[0] === i && marked[1] === t ? ink : soft;
        c.fillText(label.slice(0, 1), x + 9, y + top + (t + 0.5) * cell);
      });
      map.rows.forEach((row, p) => row.forEach((weight, t) => {
        const at = [x + left + t * cell, y + top + p * cell, cell - 1, cell - 1];
        c.globalAlpha = 1;
        c.fillStyle = line;
        c.fillRect(...at);
        c.globalAlpha = Math.min(1, Math.max(0, weight));
        c.fillStyle = colour;
        c.fillRect(...at);
      }));
      c.globalAlpha = 1;
      if (marked && marked[0] === i) {
        c.strokeStyle = ink;
        c.lineWidth = 1.5;
        c.strokeRect(x + left + marked[2] * cell - 0.5, y + top + marked[1] * cell - 0.5, cell, cell);
      }
    });
  }

  // ---- labels in a plane ----

  function buildPlane(state) {
    state.svg = element("svg", { class: "plot" });
    state.frame = element("g");
    state.inside = element("g");
    state.svg.append(state.frame, state.inside);
    state.output = element("output", { class: "readout" });
    state.host.append(state.svg, state.output);
    surface(state, state.svg, {
      find: (px, py) => {
        let best = null, far = 40;
        (state.places || []).forEach(([x, y], i) => {
          const away = Math.hypot(x - px, y - py);
          if (away < far) [best, far] = [i, away];
        });
        return best;
      },
      move: (at, dx, dy) => {
        const n = state.spec.points.length;
        if (!n) return null;
        return at === null ? 0 : Math.min(n - 1, Math.max(0, at + dx + dy));
      },
      show: (i) => {
        const point = state.spec.points[i];
        if (!point) return;
        const near = state.spec.points.map((other, j) => [Math.hypot(other.x - point.x, other.y - point.y), j])
          .filter(([, j]) => j !== i).sort((a, b) => a[0] - b[0]).slice(0, 3).map(([, j]) => state.spec.points[j].label);
        const text = `“${point.label}” at ${number(point.x)}, ${number(point.y)}; nearest: ${near.join(" ")}`;
        state.output.textContent = text;
        say(state.svg, text);
        state.svg.querySelectorAll(".point").forEach((node, j) => node.classList.toggle("chosen", j === i));
      },
      hide: () => {
        state.output.textContent = "";
        for (const node of state.svg.querySelectorAll(".chosen")) node.classList.remove("chosen");
      },
    });
  }

  function drawPlane(state) {
    const { spec, svg } = state, width = Math.max(200, Math.round(state.width)), height = spec.height || Math.min(380, width);
    const xs = spec.points.map((point) => point.x), ys = spec.points.map((point) => point.y);
    const ends = (values, about) => {
      const low = Math.min(...values, 0), high = Math.max(...values, 0), step = tickStep(low, high, about) / 2;
      return [Math.floor(low / step + 1e-9) * step, Math.ceil(high / step - 1e-9) * step, 2 * step];
    };
    const [y0, y1, stepY] = ends(ys, 5), left = leftOf(ticks(y0, y1, stepY)), right = 16, top = 14, bottom = 38;
    const wide = width - left - right, tall = height - top - bottom, [x0, x1, stepX] = ends(xs, Math.max(2, Math.floor(wide / 90)));
    const px = (x) => left + (wide * (x - x0)) / (x1 - x0 || 1), py = (y) => top + (tall * (y1 - y)) / (y1 - y0 || 1);
    svg.setAttribute("aria-valuenow", 0);
    if (!svg.hasAttribute("aria-valuetext")) say(svg, `${spec.points.length} tokens; arrow keys read them`);
    setFrame(state, [x0, x1, y0, y1].join(" "), width, height, () => [
      ...ticks(y0, y1, stepY).flatMap((y) => [
        element("line", { class: "grid", x1: left, x2: left + wide, y1: py(y).toFixed(1), y2: py(y).toFixed(1) }),
        element("text", { class: "tick", x: left - 6, y: (py(y) + 4).toFixed(1), "text-anchor": "end" }, number(y))]),
      ...ticks(x0, x1, stepX).flatMap((x) => [
        element("line", { class: "grid", y1: top, y2: top + tall, x1: px(x).toFixed(1), x2: px(x).toFixed(1) }),
        element("text", { class: "tick", x: px(x).toFixed(1), y: height - 22, "text-anchor": "middle" }, number(x))]),
      ...axisNames(spec, left, top, wide, tall, height)]);
    state.places = apart(spec.points.map((point) => [px(point.x), py(point.y)]), 17, [left, width - right, top, top + tall]);
    const { inside } = state;
    while (inside.children.length > spec.points.length) inside.lastChild.remove();
    spec.points.forEach((point, i) => {
      let group = inside.children[i];
      if (!group) {
        group = inside.appendChild(element("g"));
        group.append(element("circle", { r: 9 }), element("text", { y: 4, "text-anchor": "middle" }));
      }
      group.setAttribute("class", point.marked ? "point marked" : "point");
      group.setAttribute("transform", `translate(${state.places[i].map((place) => Math.round(place * 10) / 10)})`);
      if (group.lastChild.textContent !== point.label) group.lastChild.textContent = point.label;
    });
  }

  // Places for labels, moved until they are about so far apart, within [x0, x1, y0, y1].
  function apart(places, distance, [x0, x1, y0, y1]) {
    if (places.length > 200) return places; // more would not fit anyway
    for (let round = 0; round < 20; round++) {
      let moved = false;
      for (let i = 0; i < places.length; i++) {
        for (let j = 0; j < i; j++) {
          const dx = places[i][0] - places[j][0] || 0.01, dy = places[i][1] - places[j][1], far = Math.hypot(dx, dy);
          if (far >= distance) continue;
          const push = (distance - far) / far / 2;
          moved = true;
          places[i] = [places[i][0] + dx * push, places[i][1] + dy * push];
          places[j] = [places[j][0] - dx * push, places[j][1] - dy * push];
        }
      }
      if (!moved) break;
    }
    return places.map(([x, y]) => [Math.min(x1, Math.max(x0, x)), Math.min(y1, Math.max(y0, y))]);
  }

  return {
    element,
    number,
    curves: (host, spec) => prepare(host, spec, drawCurves, buildCurves),
    heatMaps: (host, spec) => prepare(host, spec, (state) => drawMaps(state), buildMaps),
    plane: (host, spec) => prepare(host, spec, drawPlane, buildPlane),
  };
})();
