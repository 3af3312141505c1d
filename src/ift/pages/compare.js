"use strict";
// Filters and sorts rows that are on the page already; what they say is never taken apart or put together here.
const byId = (id) => document.getElementById(id);
const list = byId("rows");
if (list) {
  const numbers = (text) => text.split(",").map((t) => (t === "" ? null : Number(t)));
  const rows = [...list.children].map((element, index) => ({
    element,
    index,
    text: [...element.querySelectorAll(".text")].map((e) => e.textContent).join(" ").toLowerCase(),
    category: element.dataset.category,
    differ: element.dataset.differ === "1",
    first: numbers(element.dataset.first),
    gap: numbers(element.dataset.gap),
  }));
  const update = () => {
    const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const category = byId("category").value;
    const show = byId("show").value;
    const metric = Number(byId("metric").value || 0);
    const sort = byId("sort").value;
    const shown = rows.filter((row) => {
      const gap = row.gap[metric];
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
      const [x, y] = [a[key][metric], b[key][metric]];
      if (x === null || y === null) return (x === null) - (y === null) || a.index - b.index;
      return sign * (x - y) || a.index - b.index;
    };
    const orders = {
      file: (a, b) => a.index - b.index,
      low: by("first", 1),
      high: by("first", -1),
      gain: by("gap", -1),
      loss: by("gap", 1),
    };
    shown.sort(orders[sort]);
    const visible = new Set(shown);
    rows.forEach((row) => { row.element.hidden = !visible.has(row); });
    list.append(...shown.map((row) => row.element));
    byId("count").textContent = `${shown.length} of ${rows.length}`;
  };
  byId("controls").addEventListener("input", update);
  update();
}
