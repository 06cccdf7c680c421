"use strict";
// The overview looks for news by itself; what it is sent is escaped already.
const again = async () => {
  if (document.hidden) return;
  const away = document.getElementById("away");
  try {
    const answer = await fetch("/cards", { cache: "no-store" });
    if (!answer.ok) throw new Error(answer.status);
    const runs = document.getElementById("runs"), text = await answer.text();
    const at = document.activeElement && document.activeElement.getAttribute("href");
    runs.innerHTML = text;
    document.title = runs.querySelector("header").dataset.title;
    // Who steps from card to card by keyboard stays where they are.
    if (at) for (const link of runs.querySelectorAll("a")) if (link.getAttribute("href") === at) link.focus();
    away.hidden = true;
  } catch (error) {
    away.hidden = false;
  }
};
setInterval(again, 5000);
document.addEventListener("visibilitychange", again);
