// What the pages do when there is JavaScript. Nothing here is needed: each page works without.
import htmx from "htmx.org";
import "htmx-ext-sse";
import uPlot from "uplot";

window.htmx = htmx;
document.documentElement.classList.add("js");

const shortNumber = new Intl.NumberFormat(undefined, { notation: "compact", maximumFractionDigits: 1 });
const wholeNumber = new Intl.NumberFormat();
const dateTime = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
const dateOnly = new Intl.DateTimeFormat(undefined, { dateStyle: "medium" });

// Moments in the reader's own zone; UTC stays on hover.
function localTimes(root) {
  for (const element of root.querySelectorAll("time[datetime]:not([data-ago])")) {
    const at = new Date(element.dateTime);
    if (!Number.isNaN(at.getTime())) element.textContent = (element.hasAttribute("data-day") ? dateOnly : dateTime).format(at);
  }
}

// Copy buttons appear where the clipboard can be used.
function copyButtons(root) {
  for (const button of root.querySelectorAll("button[data-copy]")) {
    if (!navigator.clipboard) continue;
    button.hidden = false;
    button.addEventListener("click", async () => {
      const source = document.getElementById(button.dataset.copy);
      await navigator.clipboard.writeText(source.value ?? source.textContent);
      const label = button.querySelector("span") ?? button;
      const before = label.textContent;
      label.textContent = "Copied";
      setTimeout(() => { label.textContent = before; }, 1500);
    });
  }
}

// A chart is drawn from the table beside it, which stays for screen readers and for those who want figures.
function charts(root) {
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  for (const figure of root.querySelectorAll("figure[data-chart]")) {
    const rows = [...figure.querySelectorAll("tbody tr")];
    const plot = figure.querySelector(".plot");
    if (!rows.length || !plot) continue;
    const labels = rows.map((row) => row.cells[0].dataset.short || row.cells[0].textContent.trim());
    const values = rows.map((row) => Number(row.cells[1].dataset.value));
    const target = document.createElement("div");
    target.className = "plot";
    plot.replaceWith(target);
    const axis = { stroke: () => colour("--ink-3"), grid: { show: false }, ticks: { show: false }, font: "12px sans-serif" };
    const make = () => new uPlot({
      width: target.clientWidth, height: 190, padding: [8, 8, 0, 0], cursor: { y: false, points: { show: false }, drag: { x: false, y: false } },
      scales: { x: { time: false, range: [-0.6, values.length - 0.4] }, y: { range: (_, __, most) => [0, Math.max(most * 1.08, 1)] } },
      axes: [
        { ...axis, size: 30, splits: () => labels.map((_, index) => index).filter((i) => labels.length <= 12 || i % 5 === 0), values: (_, at) => at.map((i) => labels[i]) },
        { ...axis, size: 52, incrs: [1, 2, 2.5, 5].flatMap((n) => Array.from({ length: 15 }, (_, e) => n * 10 ** e)).filter(Number.isInteger).sort((a, b) => a - b), grid: { stroke: colour("--line"), width: 1 }, values: (_, at) => at.map((v) => shortNumber.format(v)) },
      ],
      series: [
        { label: "When", value: (_, i) => (i == null ? "–" : labels[Math.round(i)]) },
        { label: figure.dataset.chart, fill: colour("--accent"), stroke: colour("--accent"), value: (_, v) => (v == null ? "–" : wholeNumber.format(v)), points: { show: false }, paths: uPlot.paths.bars({ size: [0.62, 56], radius: 0.12 }) },
      ],
    }, [labels.map((_, index) => index), values], target);
    let drawn = make();
    let width = target.clientWidth;
    new ResizeObserver(() => {
      if (target.clientWidth && target.clientWidth !== width) {
        width = target.clientWidth;
        drawn.setSize({ width, height: 190 });
      }
    }).observe(target);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
      drawn.destroy();
      drawn = make();
    });
  }
}

function enhance(root) {
  localTimes(root);
  copyButtons(root);
  charts(root);
  for (const form of root.querySelectorAll("form[data-auto]")) form.addEventListener("change", () => form.requestSubmit());
  for (const form of root.querySelectorAll("form[method=post]")) {
    // A second click does not send a form again while the first is on its way.
    form.addEventListener("submit", (event) => {
      if (form.dataset.sent) event.preventDefault();
      form.dataset.sent = "1";
    });
  }
}

addEventListener("pageshow", () => { for (const form of document.forms) delete form.dataset.sent; });
document.addEventListener("htmx:afterSettle", (event) => { localTimes(event.target); });
document.addEventListener("htmx:sseMessage", (event) => { localTimes(event.target); });
if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", () => enhance(document));
else enhance(document);
