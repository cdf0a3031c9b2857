"use strict";
// Tooltips of points and of the curve that is nearest to the pointer. A click opens the run.
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

function distance(at, a, b) { // squared distance from a point to the line segment between a and b
  const [x, y] = [b.x - a.x, b.y - a.y], length = x * x + y * y;
  const share = length ? Math.max(0, Math.min(1, ((at.x - a.x) * x + (at.y - a.y) * y) / length)) : 0;
  return (a.x + share * x - at.x) ** 2 + (a.y + share * y - at.y) ** 2;
}

all(".curves").forEach((chart) => {
  let near = null, curves = null;
  const mark = (part) => {
    if (near) near.classList.remove("near");
    near = part;
    if (near) near.classList.add("near");
  };
  chart.addEventListener("pointermove", (event) => {
    curves ??= all(".curve", chart).map((part) => ({ part, line: [...part.firstElementChild.points] }));
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(chart.getScreenCTM().inverse());
    let least = 30 * 30, found = null;
    for (const { part, line } of curves) {
      if (part.classList.contains("gone")) continue;
      for (let i = 0; i < line.length; i += 1) {
        const far = distance(at, line[i], line[Math.min(i + 1, line.length - 1)]);
        if (far < least) { least = far; found = part; }
      }
    }
    mark(found);
    if (found) show(found, event.clientX, event.clientY); else hide();
  });
  chart.addEventListener("pointerleave", () => { mark(null); hide(); });
  chart.addEventListener("click", () => { if (near) go(near); });
});
