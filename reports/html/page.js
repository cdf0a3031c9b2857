"use strict";
// Sorting, filtering, tabs, tooltips, and links that open a run. All data is in the page itself.
const all = (selector, root = document) => [...root.querySelectorAll(selector)];

function sort(button) {
  const head = button.closest("th"), table = head.closest("table"), column = head.cellIndex;
  const falling = head.hasAttribute("aria-sort")
    ? head.getAttribute("aria-sort") === "ascending" : head.hasAttribute("data-falling");
  const numeric = head.classList.contains("number"), body = table.tBodies[0];
  const rows = [...body.rows].map((row) => {
    const text = row.cells[column].dataset.order;
    return { row, value: text === undefined ? null : numeric ? Number(text) : text };
  });
  const compare = (a, b) => numeric ? a - b : a.localeCompare(b, undefined, { numeric: true });
  rows.sort((a, b) => a.value === null || b.value === null
    ? (a.value === null) - (b.value === null) // unknown values stay at the end
    : compare(a.value, b.value) * (falling ? -1 : 1));
  all("th[aria-sort]", table).forEach((other) => other.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", falling ? "descending" : "ascending");
  body.append(...rows.map(({ row }) => row));
}
all(".sortable thead button").forEach((button) => button.addEventListener("click", () => sort(button)));

function choose(tab) {
  all(".tab").forEach((part) => part.classList.toggle("gone", part.dataset.tab !== tab));
  all(".tabs button").forEach((button) => button.setAttribute("aria-pressed", button.dataset.tab === tab));
}
all(".tabs button").forEach((button) => button.addEventListener("click", () => choose(button.dataset.tab)));
if (document.querySelector(".tabs")) choose("0");

const filter = document.getElementById("filter");
filter.addEventListener("input", () => {
  const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
  all("[data-find]").forEach((part) => part.classList.toggle("gone", !words.every((w) => part.dataset.find.includes(w))));
  const shown = all("#runs > details:not(.gone)").length;
  document.getElementById("shown").textContent = words.length ? `${shown} shown` : "";
});

const tip = document.getElementById("tip");
function show(part, x, y) {
  tip.textContent = part.dataset.tip;
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(x + 14, innerWidth - box.width - 4))}px`;
  tip.style.top = `${y + 14 + box.height > innerHeight ? Math.max(4, y - box.height - 10) : y + 14}px`;
}
const hide = () => { tip.hidden = true; };
const go = (part) => { if (part.dataset.run !== "0") location.hash = `run-${part.dataset.run}`; };

all(".point").forEach((part) => {
  part.addEventListener("pointermove", (event) => show(part, event.clientX, event.clientY));
  part.addEventListener("pointerleave", hide);
  part.addEventListener("focus", () => {
    const box = part.getBoundingClientRect();
    show(part, box.left + box.width / 2, box.top + box.height / 2);
  });
  part.addEventListener("blur", hide);
  part.addEventListener("click", (event) => { if (event.pointerType !== "touch") go(part); });
  part.addEventListener("keydown", (event) => { if (event.key === "Enter") go(part); });
});

all(".curves").forEach((chart) => { // highlight the curve nearest to the pointer
  let near = null, curves = null;
  const mark = (part) => {
    if (near) near.classList.remove("near");
    near = part;
    if (near) near.classList.add("near");
  };
  chart.addEventListener("pointermove", (event) => {
    curves ??= all(".curve", chart).map((part) => ({ part, line: part.firstElementChild.points }));
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(chart.getScreenCTM().inverse());
    let least = 40 * 40, found = null;
    for (const { part, line } of curves) {
      if (part.classList.contains("gone")) continue;
      for (let i = 0; i < line.length; i += 1) {
        const far = (line[i].x - at.x) ** 2 + (line[i].y - at.y) ** 2;
        if (far < least) { least = far; found = part; }
      }
    }
    mark(found);
    if (found) show(found, event.clientX, event.clientY); else hide();
  });
  chart.addEventListener("pointerleave", () => { mark(null); hide(); });
  chart.addEventListener("click", () => { if (near) go(near); });
});

async function unpack(run) { // a closed run holds compressed markup, unpacked on first opening
  const packed = run.dataset.packed;
  if (!packed) return;
  delete run.dataset.packed;
  const bytes = Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  run.insertAdjacentHTML("beforeend", await new Response(stream).text());
}
all("#runs > details").forEach((run) => run.addEventListener("toggle", () => { if (run.open) unpack(run); }));

function arrive() {
  const run = /^#run-\d+$/.test(location.hash) && document.querySelector(location.hash);
  if (run) { run.open = true; run.scrollIntoView(); }
}
addEventListener("hashchange", arrive);
document.addEventListener("click", (event) => { // a second click on the same link does not change the hash
  const link = event.target.closest && event.target.closest("a[href^='#run-']");
  if (link && link.getAttribute("href") === location.hash) arrive();
});
arrive();

let opened = []; // print opens the runs whose markup is not compressed; other closed runs are not printed
addEventListener("beforeprint", () => {
  opened = all("#runs > details:not([open]):not(.gone):not([data-packed])");
  opened.forEach((run) => { run.open = true; });
});
addEventListener("afterprint", () => opened.forEach((run) => { run.open = false; }));
