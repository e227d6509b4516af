"use strict";
// The page reads the same without this: it sorts and filters the lines of the iterations.
const table = document.getElementById("iterations");
const lines = [...table.tBodies];
const heads = [...table.tHead.rows[0].cells];
const key = (line, column) => line.rows[0].cells[column].dataset.key;

function sort(column) {
  const head = heads[column], before = head.getAttribute("aria-sort");
  const down = before ? before === "ascending" : head.dataset.first === "descending";
  heads.forEach((other) => other.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  lines.sort((one, other) => {
    const [a, b] = [key(one, column), key(other, column)];
    if (a === "" || b === "") return (a === "") - (b === ""); // what is not known comes last
    return down ? b - a : a - b;
  });
  table.append(...lines);
}

heads.forEach((head, column) => {
  const button = document.createElement("button");
  button.append(...head.childNodes);
  button.addEventListener("click", () => sort(column));
  head.append(button);
});

const bar = document.getElementById("filter");
bar.hidden = false;
bar.querySelector("input").addEventListener("input", (event) => {
  const words = event.currentTarget.value.toLowerCase().split(/\s+/);
  const found = lines.filter((line) => {
    const text = line.dataset.words.toLowerCase();
    line.hidden = !words.every((word) => text.includes(word));
    return !line.hidden;
  });
  bar.querySelector("output").value = `${found.length} of ${lines.length}`;
});
