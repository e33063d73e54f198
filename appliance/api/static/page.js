"use strict";
// The page works without this: it filters the operations, and opens what an anchor points to.
const filter = document.getElementById("filter");
const operations = [...document.querySelectorAll("details")].map((element) => {
  const text = element.querySelector("summary").textContent + " " + element.id;
  return { element, text: text.toLowerCase() };
});
const sections = [...document.querySelectorAll("section.tag")];

function apply() {
  const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const { element, text } of operations) {
    element.hidden = !words.every((word) => text.includes(word));
  }
  for (const section of sections) {
    const empty = !section.querySelector("details:not([hidden])");
    section.hidden = empty;
    document.querySelector(`nav a[href="#${section.id}"]`).parentElement.hidden = empty;
  }
}

function show() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target === null) return;
  if (target.hidden) {
    filter.value = "";
    apply();
  }
  if (target instanceof HTMLDetailsElement) target.open = true;
  target.scrollIntoView();
}

filter.hidden = false;
filter.addEventListener("input", apply);
addEventListener("hashchange", show);
addEventListener("keydown", (event) => {
  const typing = event.target instanceof HTMLInputElement;
  if (event.key === "/" && !typing) {
    event.preventDefault();
    filter.focus();
  }
  if (event.key === "Escape" && event.target === filter) {
    filter.value = "";
    apply();
  }
});
document.addEventListener("toggle", (event) => {
  if (event.target.open) history.replaceState(null, "", `#${event.target.id}`);
}, true);
show();
