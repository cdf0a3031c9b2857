"use strict";
// Compares two runs on the images that both were evaluated on.
const compared = document.getElementById("compare");

function setUpComparison() {
  let runs, sets, pictures;
  const [first, second, kind] = ["first", "second", "kind"].map((name) => compared.querySelector(`[name=${name}]`));
  const list = compared.querySelector(".mistakes"), summary = compared.querySelector("output");
  const more = compared.querySelector("button.more");
  const kinds = {
    first: (one) => one.right[0] && !one.right[1], second: (one) => !one.right[0] && one.right[1],
    both: (one) => !one.right[0] && !one.right[1], differ: (one) => one.names[0] !== one.names[1],
  };
  const percent = (value) => `${value}%`;
  let chosen = [], shown = 0;

  function pairs() { // the images of both runs, matched by name
    const [a, b] = [first, second].map((select) => runs[select.value]);
    const [setA, setB] = [sets[a.set], sets[b.set]];
    const places = a.set === b.set ? null : new Map(setB.files.map((file, i) => [file, i]));
    return setA.files.flatMap((file, i) => {
      const j = places ? places.get(file) : i;
      if (j === undefined) return [];
      const label = setA.classes[setA.labels[i]];
      const names = [setA.classes[a.predictions[i]], setB.classes[b.predictions[j]]];
      return [{ file, label, names, confidence: [a.confidence[i], b.confidence[j]], right: names.map((name) => name === label) }];
    });
  }

  function figure({ file, label, names, confidence, right }) {
    const part = document.createElement("figure");
    const place = Object.hasOwn(pictures, file) ? pictures[file] : null;
    const image = document.createElement(place === null ? "p" : "img");
    if (place === null) {
      image.className = "missing";
      image.textContent = "no image stored";
    } else {
      Object.assign(image, { src: images()[place], alt: "", width: 128, height: 128 });
    }
    const caption = document.createElement("figcaption");
    const lines = [["", `label ${label}`], ...[0, 1].map((i) =>
      [right[i] ? "right" : "wrong-answer", `${"AB"[i]} ${right[i] ? "✓" : "✗"} ${names[i]} ${percent(confidence[i])}`])];
    for (const [kindOf, text] of lines) {
      const line = document.createElement("div");
      line.className = kindOf;
      line.textContent = text;
      caption.append(line);
    }
    const small = document.createElement("small");
    small.textContent = file;
    caption.append(small);
    part.append(image, caption);
    return part;
  }

  function showMore() {
    list.append(...chosen.slice(shown, shown + 60).map(figure));
    shown = Math.min(shown + 60, chosen.length);
    more.hidden = shown === chosen.length;
    more.textContent = `Show more (${chosen.length - shown} left)`;
  }

  function update() {
    const found = pairs();
    const count = (test) => found.filter(test).length;
    summary.textContent = `${found.length} images in common: both right ${count((one) => one.right[0] && one.right[1])}, `
      + `only A right ${count(kinds.first)}, only B right ${count(kinds.second)}, both wrong ${count(kinds.both)}`;
    chosen = found.filter(kinds[kind.value]).sort((a, b) => Math.max(...b.confidence) - Math.max(...a.confidence));
    list.replaceChildren();
    shown = 0;
    showMore();
  }
  more.addEventListener("click", showMore);
  new IntersectionObserver((seen, observer) => { // the first comparison is computed when it becomes visible
    if (!seen.some((one) => one.isIntersecting)) return;
    observer.disconnect();
    ({ sets, pictures, runs } = read("comparison"));
    [first, second, kind].forEach((select) => select.addEventListener("change", update));
    update();
  }).observe(compared);
}
if (compared) setUpComparison();
