"use strict";
// Searches, filters, sorts and pages lists of rows that are on the page already; a text is never taken apart here.
const ROWS = matchMedia("(max-width: 760px)").matches ? 5 : 20; // on a page of a list
for (const list of document.querySelectorAll(".list")) {
  const part = (name) => list.querySelector(`[data-part=${name}]`);
  const pager = list.querySelector(".pager");
  const holder = list.querySelector(".rows");
  const rows = [...holder.children].map((element, index) => ({
    element,
    index,
    text: [...element.querySelectorAll(".said")].map((e) => e.textContent).join(" ").toLowerCase(),
    category: element.dataset.category,
    kinds: element.dataset.kinds.split(" "),
    numbers: element.dataset.numbers.split(",").map((t) => (t === "" ? null : Number(t))),
  }));
  let shown = rows;
  let first = 0;

  // choices that no row has are none
  for (const option of [...part("kind").options]) {
    if (option.value && !rows.some((row) => row.kinds.includes(option.value))) option.remove();
  }
  for (const option of [...part("order").options]) {
    if (option.value && !rows.some((row) => row.numbers[parseInt(option.value, 10)] !== null)) option.remove();
  }

  function order(value) { // rows without the number come last, whatever the direction
    if (!value) return (a, b) => a.index - b.index;
    const place = parseInt(value, 10);
    const sign = value.endsWith("+") ? 1 : -1;
    return (a, b) => {
      const [x, y] = [a.numbers[place], b.numbers[place]];
      if (x === null || y === null) return (x === null) - (y === null) || a.index - b.index;
      return sign * (x - y) || a.index - b.index;
    };
  }

  function choose() {
    const words = part("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const category = part("category")?.value;
    const kind = part("kind").value;
    shown = rows.filter((row) => (!kind || row.kinds.includes(kind)) && (!category || row.category === category)
      && words.every((word) => row.text.includes(word)));
    shown.sort(order(part("order").value));
    first = 0;
    draw();
  }

  function draw() {
    const now = shown.slice(first, first + ROWS);
    const visible = new Set(now);
    for (const row of rows) row.element.hidden = !visible.has(row);
    holder.append(...now.map((row) => row.element));
    pager.hidden = false;
    const [previous, next] = pager.querySelectorAll("button");
    previous.disabled = first === 0;
    next.disabled = first + ROWS >= shown.length;
    previous.hidden = next.hidden = shown.length <= ROWS;
    const all = shown.length === rows.length ? rows.length : `${shown.length} of ${rows.length}`;
    part("count").textContent = shown.length > ROWS ? `${first + 1} to ${first + now.length} of ${all}` : String(all);
    now.forEach((row) => fold(row.element));
  }

  pager.addEventListener("click", (event) => {
    const step = Number(event.target.dataset?.step);
    if (!step) return;
    first += step * ROWS;
    draw();
    list.scrollIntoView();
  });
  list.querySelector(".controls").addEventListener("input", choose);
  choose();
}

// a long text is folded, with a button that opens it
function fold(element) {
  for (const text of element.querySelectorAll(".said:not(.seen)")) {
    text.classList.add("seen", "folded");
    if (text.scrollHeight <= text.clientHeight + 30) {
      text.classList.remove("folded");
      continue;
    }
    const button = document.createElement("button");
    button.className = "unfold";
    button.textContent = "show all of it";
    button.setAttribute("aria-expanded", "false");
    button.addEventListener("click", () => {
      const isFolded = text.classList.toggle("folded");
      button.textContent = isFolded ? "show all of it" : "show less";
      button.setAttribute("aria-expanded", String(!isFolded));
    });
    text.after(button);
  }
}
