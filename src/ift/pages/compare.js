"use strict";
// Sorts tables, filters and sorts rows that are on the page already; what they say is never taken apart or put together here.
const byId = (id) => document.getElementById(id);

// -- tables: a press on a column's name sorts by it, best first; the next press turns it round
for (const table of document.querySelectorAll("table.sorted")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const numeric = "numeric" in head.dataset;
    const first = numeric && head.dataset.better !== "-1" ? "descending" : "ascending";
    head.querySelector("button").addEventListener("click", () => {
      const now = head.getAttribute("aria-sort");
      const way = now === "none" ? first : now === "ascending" ? "descending" : "ascending";
      heads.forEach((each) => each.setAttribute("aria-sort", each === head ? way : "none"));
      const sign = way === "ascending" ? 1 : -1;
      const key = (row) => row.cells[column].dataset.key;
      const compare = (a, b) => (numeric ? Number(a) - Number(b) : a.localeCompare(b, undefined, { numeric: true }));
      const rows = [...body.rows];
      // lines without the number come last, whatever the direction
      rows.sort((a, b) => (key(a) === "") - (key(b) === "") || sign * compare(key(a), key(b)));
      body.append(...rows);
    });
  });
}

for (const button of document.querySelectorAll("button.copy")) {
  const label = button.textContent;
  button.addEventListener("click", async () => {
    const area = button.nextElementSibling;
    area.select();
    let done = true;
    try {
      await navigator.clipboard.writeText(area.value);
    } catch {
      done = document.execCommand("copy");
    }
    button.textContent = done ? "copied" : "selected: copy it with Ctrl+C";
    setTimeout(() => { button.textContent = label; }, 2000);
  });
}

// -- which runs are shown in drawings and answers
const choices = byId("runs");
const showRuns = () => {
  for (const box of choices.querySelectorAll("input")) {
    for (const each of document.querySelectorAll(`[data-run="${box.value}"]`)) each.toggleAttribute("hidden", !box.checked);
  }
};
choices.addEventListener("input", showRuns);
showRuns();

// -- answers side by side
const list = byId("rows");
// rows at a time: as many as are some screens of answers
const step = () => Math.max(5, Math.floor(40 / choices.querySelectorAll("input:checked").length));
if (list) {
  const rows = [...list.children].map((element, index) => ({
    element,
    index,
    text: [...element.querySelectorAll(".text")].map((e) => e.textContent).join(" ").toLowerCase(),
    category: element.dataset.category,
    differ: element.dataset.differ === "1",
    values: element.dataset.values.split(";").map((each) => each.split(",").map((t) => (t === "" ? null : Number(t)))),
  }));
  let limit = step();
  const update = () => {
    const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const category = byId("category").value;
    const show = byId("show").value;
    const metric = Number(byId("metric").value || 0);
    const other = Number(byId("other").value);
    const sort = byId("sort").value;
    const value = {
      first: (row) => row.values[metric][0],
      gap: (row) => {
        const [a, b] = [row.values[metric][0], row.values[metric][other]];
        return a === null || b === null ? null : b - a;
      },
      spread: (row) => {
        const there = row.values[metric].filter((each) => each !== null);
        return there.length ? Math.max(...there) - Math.min(...there) : null;
      },
    };
    const shown = rows.filter((row) => {
      const gap = value.gap(row);
      const fits = {
        all: true,
        differ: row.differ,
        first: gap !== null && gap < 0,
        last: gap !== null && gap > 0,
        equal: gap === 0,
      }[show];
      return fits && (!category || row.category === category) && words.every((word) => row.text.includes(word));
    });
    // rows without the number come last, whatever the direction
    const by = (key, sign) => (a, b) => {
      const [x, y] = [value[key](a), value[key](b)];
      if (x === null || y === null) return (x === null) - (y === null) || a.index - b.index;
      return sign * (x - y) || a.index - b.index;
    };
    const orders = {
      file: (a, b) => a.index - b.index,
      low: by("first", 1),
      high: by("first", -1),
      gain: by("gap", -1),
      loss: by("gap", 1),
      spread: by("spread", -1),
    };
    shown.sort(orders[sort]);
    const visible = new Set(shown.slice(0, limit));
    rows.forEach((row) => { row.element.hidden = !visible.has(row); });
    list.append(...shown.map((row) => row.element));
    byId("count").textContent = `${shown.length} of ${rows.length}`;
    byId("more").hidden = shown.length <= limit;
  };
  byId("controls").addEventListener("input", () => { limit = step(); update(); });
  byId("more").addEventListener("click", () => { limit += step(); update(); });
  choices.addEventListener("input", () => { limit = step(); update(); });
  update();
}
