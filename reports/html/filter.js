"use strict";
// The search box shows the parts of the page whose `data-find` contains every word.
const filter = document.getElementById("filter");
filter.addEventListener("input", () => {
  const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
  const parts = [...document.querySelectorAll("[data-find]")];
  parts.forEach((part) => part.classList.toggle("gone", !words.every((word) => part.dataset.find.includes(word))));
  const counted = parts.filter((part) => part.matches("[data-counted]"));
  const shown = counted.filter((part) => !part.classList.contains("gone")).length;
  document.getElementById("shown").textContent = words.length ? `${shown} of ${counted.length} shown` : "";
});
