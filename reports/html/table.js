"use strict";
// Sorting of tables, and tabs. All data is in the page itself.
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
