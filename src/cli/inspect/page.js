"use strict";
(() => {
  const table = document.getElementById("images");
  const bodies = () => Array.from(table.tBodies);
  const found = document.getElementById("found");
  const count = () => {
    const shown = bodies().filter((body) => !body.hidden).length;
    found.textContent = shown + " of " + table.tBodies.length + " images";
  };
  document.getElementById("search").addEventListener("input", (event) => {
    const words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const body of bodies()) {
      const text = body.textContent.toLowerCase();
      body.hidden = !words.every((word) => text.includes(word));
    }
    count();
  });
  table.tHead.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    const head = button.closest("th");
    const up = head.getAttribute("aria-sort") !== "ascending";
    for (const other of table.tHead.querySelectorAll("th")) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const key = (body) => body.rows[0].cells[head.cellIndex];
    const compare = (a, b) => {
      const [x, y] = [key(a), key(b)];
      return "value" in x.dataset ? x.dataset.value - y.dataset.value : x.textContent.localeCompare(y.textContent);
    };
    const sorted = bodies().sort((a, b) => (up ? compare(a, b) : compare(b, a)));
    table.append(...sorted);
  });
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = Array.from(document.querySelectorAll("details:not([open])"));
    for (const details of closed) details.open = true;
  });
  addEventListener("afterprint", () => {
    for (const details of closed) details.open = false;
  });
  document.getElementById("tools").hidden = false;
  count();
})();
