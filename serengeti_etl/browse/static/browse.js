"use strict";

// Without this file everything works but the keys, what the shard says, and choosing at once.

function fillProvenance(section) {
  const status = section.querySelector(".check");
  const list = section.querySelector("dl");
  const say = (text, kind) => {
    status.textContent = text;
    status.className = `check ${kind}`;
  };
  say("reading the shard …", "");
  fetch(section.dataset.from)
    .then((response) => response.json())
    .then((found) => {
      for (const [term, value] of Object.entries(found.facts)) {
        const row = document.createElement("div");
        const name = document.createElement("dt");
        const text = document.createElement("dd");
        name.textContent = term;
        text.textContent = value;
        row.append(name, text);
        list.append(row);
      }
      section.querySelector("pre").textContent = found.said;
      if (found.problem) say(found.problem, "wrong");
      else say("✓ read from the shard just now; bytes and checksum agree with the index", "right");
    })
    .catch((error) => say(`the shard could not be read: ${error.message}`, "wrong"));
}

function submitAtOnce(form) {
  form.classList.add("at-once");
  form.addEventListener("submit", () => {
    for (const field of form.elements) if (field.value === "") field.disabled = true;
  });
  form.addEventListener("change", (event) => {
    if (event.target.validity.valid) form.requestSubmit();
  });
  // Back out of a page the browser may show the form as it was left.
  window.addEventListener("pageshow", () => {
    for (const field of form.elements) field.disabled = false;
    form.reset();
  });
}

const keys = { ArrowLeft: "a[rel=prev]", ArrowRight: "a[rel=next]", Escape: "a.back" };
document.addEventListener("keydown", (event) => {
  if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
  if (event.target.closest("input, select, textarea")) return;
  const link = keys[event.key] && document.querySelector(keys[event.key]);
  if (link) link.click();
});

for (const section of document.querySelectorAll("[data-from]")) fillProvenance(section);
for (const form of document.forms) submitAtOnce(form);
