"use strict";
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const header = button.closest("th");
    const rows = header.closest("table").tBodies[0];
    const column = header.cellIndex;
    const numeric = header.classList.contains("number");
    // Numbers start with the largest, words with the first letter.
    const now = header.getAttribute("aria-sort");
    const order = now === null ? (numeric ? "descending" : "ascending")
      : now === "ascending" ? "descending" : "ascending";
    for (const other of header.parentNode.children) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", order);
    const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
    const sign = order === "ascending" ? 1 : -1;
    const sorted = [...rows.rows].sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === "" || y === "") return (x === "") - (y === "");  // empty cells stay last
      return sign * (numeric ? x - y : x.localeCompare(y, undefined, { numeric: true }));
    });
    rows.append(...sorted);
  });
}
const tip = document.getElementById("tip");
for (const mark of document.querySelectorAll(".tip")) {
  const title = mark.querySelector("title");
  const text = title ? title.textContent : mark.title;
  // Else the browser shows it a second time.
  if (title) title.remove();
  mark.removeAttribute("title");
  mark.setAttribute("aria-label", text);
  const show = (x, y) => {
    tip.textContent = text;
    tip.hidden = false;
    tip.style.left = Math.max(8, Math.min(x + 14, innerWidth - tip.offsetWidth - 8)) + "px";
    tip.style.top = Math.max(8, Math.min(y + 14, innerHeight - tip.offsetHeight - 8)) + "px";
  };
  mark.addEventListener("pointermove", (event) => show(event.clientX, event.clientY));
  mark.addEventListener("pointerleave", () => { tip.hidden = true; });
}
