// Shows one answer at a time and sends each rating at once. Text from models is on the page already, as text.
const VERDICTS = { r: "right", p: "partly", w: "wrong" };

const items = [...document.querySelectorAll(".item")].map((element, index) => {
  const dot = document.createElement("button");
  dot.title = `answer ${index + 1}`;
  dot.addEventListener("click", () => show(items[index]));
  byId("map").append(dot);
  const { key, category, verdict, stars, comment, same } = element.dataset;
  const text = [...element.querySelectorAll(".text")].map((e) => e.textContent).join(" ").toLowerCase();
  const rating = { verdict: verdict || null, stars: stars ? Number(stars) : null, comment };
  return { element, dot, key, category, rating, same: same === "1", text };
});
const byKey = new Map(items.map((item) => [item.key, item]));
let shown = items;
let current = null;

const isRated = ({ rating }) => Boolean(rating.verdict || rating.stars || rating.comment);

function draw() {
  for (const item of items) {
    item.element.hidden = item !== current;
    item.dot.className = item.rating.verdict || (isRated(item) ? "rated" : "");
    item.dot.classList.toggle("current", item === current);
    item.dot.hidden = !shown.includes(item);
  }
  byId("nothing").hidden = current !== null;
  const rating = current ? current.rating : { verdict: null, stars: null, comment: "" };
  for (const button of document.querySelectorAll("footer [data-verdict]")) {
    button.setAttribute("aria-pressed", String(button.dataset.verdict === rating.verdict));
  }
  for (const button of document.querySelectorAll("footer [data-stars]")) {
    button.setAttribute("aria-pressed", String(Number(button.dataset.stars) <= (rating.stars || 0)));
  }
  if (document.activeElement !== byId("comment")) byId("comment").value = rating.comment;
  const rated = items.filter(isRated).length;
  const counts = Object.values(VERDICTS).map((v) => `${items.filter((i) => i.rating.verdict === v).length} ${v}`);
  byId("progress").value = rated;
  byId("progress-text").textContent = `${rated} of ${items.length} rated: ${counts.join(", ")}`;
}

function show(item) {
  keepComment();
  current = item || null;
  byId("comment").blur();
  draw();
  if (current) window.scrollTo(0, 0);
}

function move(step) {
  if (shown.length) show(shown[Math.min(shown.length - 1, Math.max(0, shown.indexOf(current) + step))]);
}

function nextUnrated() {
  const at = shown.indexOf(current);
  const order = [...shown.slice(at + 1), ...shown.slice(0, at + 1)];
  show(order.find((item) => !item.rating.verdict) || current);
}

function filter() {
  const status = byId("status").value;
  const category = byId("category").value;
  const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  shown = items.filter((item) => {
    const fits = {
      all: true,
      unrated: !isRated(item),
      comment: Boolean(item.rating.comment),
      "wrong-words": !item.same,
    }[status] ?? item.rating.verdict === status;
    return fits && (!category || item.category === category) && words.every((word) => item.text.includes(word));
  });
  show(shown.includes(current) ? current : shown[0]);
}

function rate(change) {
  if (!current) return;
  current.rating = { ...current.rating, ...change };
  send("/rate", { key: current.key, ...current.rating }, () => {});
  draw();
}

function verdict(name) {
  rate({ verdict: current && current.rating.verdict === name ? null : name });
  if (byId("go-on").checked && current && current.rating.verdict) nextUnrated();
}

function stars(number) {
  rate({ stars: current && current.rating.stars === number ? null : number });
}

function keepComment() {
  const text = byId("comment").value;
  if (current && text !== current.rating.comment) rate({ comment: text });
}

const undo = () => send("/undo", {}, (said) => {
  const item = byKey.get(said.key);
  if (!item) return;
  item.rating = { verdict: said.verdict, stars: said.stars, comment: said.comment };
  current = item;
  draw();
});

const KEYS = {
  ...Object.fromEntries(Object.entries(VERDICTS).map(([key, name]) => [key, () => verdict(name)])),
  ...Object.fromEntries([1, 2, 3, 4, 5].map((n) => [String(n), () => stars(n)])),
  ArrowRight: () => move(1), ArrowLeft: () => move(-1), j: () => move(1), k: () => move(-1),
  n: nextUnrated, u: undo,
  c: () => byId("comment").focus(),
  "/": () => byId("search").focus(),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.matches("textarea, input[type=search], select")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if (KEYS[event.key]) {
    event.preventDefault();
    KEYS[event.key]();
  }
});
byId("comment").addEventListener("blur", keepComment);
for (const id of ["search", "status", "category"]) byId(id).addEventListener("input", filter);
for (const button of document.querySelectorAll("footer [data-verdict]")) {
  button.addEventListener("click", () => verdict(button.dataset.verdict));
}
for (const button of document.querySelectorAll("footer [data-stars]")) {
  button.addEventListener("click", () => stars(Number(button.dataset.stars)));
}
byId("previous").addEventListener("click", () => move(-1));
byId("next").addEventListener("click", () => move(1));
byId("undo").addEventListener("click", undo);

shown = items;
current = items.find((item) => !isRated(item)) || items[0] || null;
draw();
