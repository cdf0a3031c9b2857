"use strict";
// Details of a run: decompressed and filled with images when first opened. Also links to runs, and printing.
const read = (id) => JSON.parse(document.getElementById(id).textContent);
let stored = null; // images of the page, parsed when the first one is shown
const images = () => stored ??= read("images");

function draw(root) { // each image is stored once, also if several runs show it; `data-image` is its position
  all("img[data-image]", root).forEach((image) => {
    image.src = images()[image.dataset.image];
    image.removeAttribute("data-image");
  });
}

function choosePair(run, pair) { // shows the wrong images of one label and one prediction; "" shows all
  const select = run.querySelector("select.pairs");
  if (!select) return;
  select.value = pair;
  all(".mistakes > figure", run).forEach((one) => one.classList.toggle("gone", pair !== "" && one.dataset.pair !== pair));
}
document.addEventListener("change", (event) => {
  if (event.target.matches("select.pairs")) choosePair(event.target.closest("details"), event.target.value);
});
document.addEventListener("click", (event) => {
  const cell = event.target.closest && event.target.closest("button[data-pair]");
  if (!cell) return;
  const run = cell.closest("details");
  choosePair(run, cell.dataset.pair);
  const wrong = run.querySelector(".wrong");
  if (wrong) wrong.scrollIntoView({ block: "nearest" });
});

async function unpack(run) { // the markup of a closed run is compressed
  const packed = run.dataset.packed;
  if (packed) {
    delete run.dataset.packed;
    const bytes = Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    run.insertAdjacentHTML("beforeend", await new Response(stream).text());
  }
  draw(run);
}
all("#runs > details").forEach((run) => {
  run.addEventListener("toggle", () => { if (run.open) unpack(run); });
  if (run.open) unpack(run);
});

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

let opened = []; // printing opens the runs whose markup is not compressed; other closed runs are not printed
addEventListener("beforeprint", () => {
  opened = all("#runs > details:not([open]):not(.gone):not([data-packed])");
  opened.forEach((run) => { run.open = true; draw(run); });
});
addEventListener("afterprint", () => opened.forEach((run) => { run.open = false; }));
