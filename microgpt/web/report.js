"use strict";
// The page is whole without this: it adds the numbers under the pointer, and attention at earlier steps.
for (const plot of document.querySelectorAll(".plot")) {
  const data = JSON.parse(plot.querySelector(".data").textContent);
  const chart = plot.querySelector(".chart"), cursor = plot.querySelector(".cursor");
  const outputs = plot.querySelectorAll("output"), at = plot.querySelector(".at");
  chart.addEventListener("pointermove", (event) => {
    const box = chart.getBoundingClientRect();
    const px = ((event.clientX - box.left) / box.width) * data.width;
    const share = Math.min(1, Math.max(0, (px - data.left) / data.wide));
    const x = Math.round(data.x0 + share * (data.x1 - data.x0));
    cursor.setAttribute("x1", data.left + share * data.wide);
    cursor.setAttribute("x2", data.left + share * data.wide);
    cursor.setAttribute("visibility", "visible");
    at.textContent = "at step " + x;
    data.curves.forEach((points, i) => {
      let low = 0, high = points.length - 1;
      while (low < high) {
        const middle = (low + high) >> 1;
        if (points[middle][0] < x) low = middle + 1; else high = middle;
      }
      if (low > 0 && x - points[low - 1][0] <= points[low][0] - x) low--;
      outputs[i].textContent = points.length ? points[low][1].toPrecision(4) : "";
    });
  });
  chart.addEventListener("pointerleave", () => {
    cursor.setAttribute("visibility", "hidden");
    at.textContent = "";
    for (const output of outputs) output.textContent = "";
  });
}
for (const figure of document.querySelectorAll(".attention")) {
  const data = JSON.parse(figure.querySelector(".data").textContent);
  const cells = figure.querySelectorAll(".cell"), output = figure.querySelector("output");
  figure.querySelector("input").addEventListener("input", (event) => {
    const look = Number(event.target.value);
    output.textContent = data.steps[look];
    cells.forEach((cell, i) => {
      const weight = data.weights[look][i], title = cell.firstChild;
      cell.setAttribute("fill-opacity", weight);
      title.textContent = title.textContent.replace(/[^:]*$/, " " + weight);
    });
  });
}
document.documentElement.dataset.ready = "yes";
