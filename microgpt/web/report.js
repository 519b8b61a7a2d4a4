"use strict";
// The page of a report: draws the curves and heat maps of its data.
{
  const data = JSON.parse(document.getElementById("data").textContent);
  const scope = { xLabel: "step" };
  charts.curves(document.getElementById("loss"), { ...scope, label: "loss by step, in nats per token", yLabel: "loss (nats per token)", height: 320,
    series: data.loss });
  charts.curves(document.getElementById("rates"), { ...scope, label: "learning rate by step", yLabel: "learning rate", height: 150, fromZero: true,
    series: data.rates });
  const figures = document.querySelectorAll(".attention"), slider = document.getElementById("look");
  if (figures.length) {
    // One slider for all runs: each shows what it logged last by that step.
    const steps = [...new Set(data.attention.flatMap((run) => run.steps))].sort((a, b) => a - b);
    const draw = () => {
      const step = steps[slider.value];
      document.getElementById("looked").textContent = step.toLocaleString("en");
      slider.setAttribute("aria-valuetext", `after step ${step}`);
      data.attention.forEach((run, i) => {
        const look = Math.max(0, run.steps.filter((known) => known <= step).length - 1);
        const label = `attention of ${run.name} over “${run.labels.slice(1).join("")}” after step ${run.steps[look]}`;
        charts.heatMaps(figures[i], { label, labels: run.labels, maps: run.maps[look].map((rows, j) => ({ title: run.titles[j], rows })) });
      });
    };
    slider.max = steps.length - 1;
    slider.value = slider.max; // after the maximum, which bounds it
    slider.addEventListener("input", draw);
    draw();
  }
  document.documentElement.dataset.ready = "yes";
}
