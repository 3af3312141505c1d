// Shows one answer at a time and sends each rating at once. Text from models goes into the page as text. The page knows
// of every answer how it is rated (kinds), and the texts of those that were looked at or come next (cards).
const { review: REVIEW, version: VERSION } = document.body.dataset;
const n = Number(document.body.dataset.n);
const VERDICTS = { r: "right", p: "partly", w: "wrong" };
const WORDS = { ".": "not rated", s: "rated without a verdict", ...VERDICTS };
const AHEAD = 8; // answers whose texts are fetched before they are looked at
const KEPT = 300; // cards
const EVERY = 5; // seconds between two looks at what has changed elsewhere

const address = new URLSearchParams(location.search);
let rater = address.get("rater") ?? document.body.dataset.rater;
let kinds = [];
let seen = [];
let shown = null; // places that were found, or null for all
let current = null; // a place
let cards = new Map();
let fetching = new Map(); // place to the promise of its card
let own = 0; // which rater's page this is by now: replies to what another one asked for come too late
let mine = []; // [place, key, id] of what this page can take back, the newest last
let searches = 0;
let isAway = false;

const places = () => (shown === null ? n : shown.length);
const placeAt = (i) => (shown === null ? i : shown[i]);
function positionOf(place) { // of the first shown place that is not before this one
  if (shown === null) return place;
  let [low, high] = [0, shown.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (shown[middle] < place) low = middle + 1;
    else high = middle;
  }
  return low;
}
const card = () => (current === null ? undefined : cards.get(current));
const hasVerdict = (place) => kinds[place] in VERDICTS;
const kindOf = (rating) => rating.verdict?.[0] ?? (rating.stars || rating.comment ? "s" : ".");
const newId = () => [...crypto.getRandomValues(new Uint8Array(9))].map((b) => b.toString(16).padStart(2, "0")).join("");

// -- what is kept in this tab until the server has it: requests, and a comment that is being typed

const kept = (name) => `ift ${REVIEW} ${name}`;
function recall(name, otherwise) {
  try {
    return JSON.parse(sessionStorage.getItem(kept(name))) ?? otherwise;
  } catch {
    return otherwise;
  }
}
function keep(name, value) {
  try {
    if (value === null) sessionStorage.removeItem(kept(name));
    else sessionStorage.setItem(kept(name), JSON.stringify(value));
  } catch (error) { // storage is full or forbidden: what was given is still in this page
    console.warn(error);
  }
}
let outbox = recall("outbox", []); // {path, value}; an answer goes by its key: it may stand elsewhere tomorrow
const pending = new Map(); // place to how many requests on it are under way
const drafts = recall("drafts", {}); // a rater and a key to a comment that is not sent so far
const draftName = (now) => `${rater} ${now?.key}`;
const draftOf = (now) => drafts[draftName(now)];
function setDraft(now, text) {
  if (text === undefined) delete drafts[draftName(now)];
  else drafts[draftName(now)] = text;
  keep("drafts", drafts);
}
unsaved = () => (draftOf(card()) === undefined ? "" : "comment not saved yet");

function deliver(path, value, place, then) {
  const sent = { path, value };
  outbox.push(sent);
  keep("outbox", outbox);
  pending.set(place, (pending.get(place) ?? 0) + 1);
  send(path, value, (reply) => {
    outbox = outbox.filter((other) => other !== sent);
    keep("outbox", outbox);
    pending.set(place, pending.get(place) - 1);
    then(reply);
  });
}

// -- texts

async function load(wanted) {
  const missing = wanted.filter((place) => !cards.has(place) && !fetching.has(place));
  if (!missing.length) return;
  const asked = own;
  const ask = { rater, version: VERSION, items: missing, others: byId("status").value === "differ" };
  const reply = post("/items", ask).then(({ items }) => {
    if (asked !== own) return;
    for (const each of items) cards.set(each.item, each);
    for (const place of [...cards.keys()].slice(0, Math.max(0, cards.size - KEPT))) {
      if (place !== current && !pending.get(place)) cards.delete(place);
    }
  }).finally(() => { if (asked === own) missing.forEach((place) => fetching.delete(place)); });
  missing.forEach((place) => fetching.set(place, reply));
  await reply;
}

async function see(place) { // the texts of an answer, and then those that come next
  try {
    await (fetching.get(place) ?? load([place]));
    if (place !== current) return;
    draw();
    const at = positionOf(place);
    const next = Array.from({ length: AHEAD }, (_, i) => at + 1 + i).filter((i) => i < places()).map(placeAt);
    const unrated = nextUnrated(place);
    const wanted = [...new Set([unrated, ...next, ...(at ? [placeAt(at - 1)] : [])])].filter((each) => each !== null);
    for (let i = 0; i < wanted.length && place === current; i += 2) await load(wanted.slice(i, i + 2)); // the next ones first
  } catch (error) {
    if (place === current && !cards.has(place)) {
      byId("where").textContent = `answer ${place + 1}: ${error.message}`;
      setTimeout(() => { if (place === current) see(place); }, 1000 * AWAY);
    }
  }
}

function put(id, text) {
  byId(id).textContent = text;
  byId(id).hidden = !text;
}
function putPieces(id, pieces, tag) {
  byId(id).replaceChildren(...pieces.map(([isShared, text]) => (isShared ? text : element(tag, text))));
}
function element(name, text, kind = "") {
  const made = document.createElement(name);
  made.textContent = text;
  made.className = kind;
  return made;
}

// -- what is seen

let drawn = null; // the card whose texts stand on the page
function draw() {
  const now = card();
  byId("item").hidden = current === null;
  byId("item").setAttribute("aria-busy", String(!now));
  byId("nothing").hidden = current !== null;
  if (now && now !== drawn) drawTexts(now);
  if (!now) drawn = null;
  for (const id of ["chips", "instruction", "input", "with-reference", "response", "others"]) {
    byId(id).classList.toggle("away", !now);
  }
  if (current !== null) byId("where").textContent = `${(current + 1).toLocaleString("en")} of ${n.toLocaleString("en")}${now ? "" : ", loading"}`;
  const rating = now?.rating ?? { verdict: null, stars: null, comment: "" };
  for (const button of document.querySelectorAll("footer [data-verdict]")) {
    button.setAttribute("aria-pressed", String(button.dataset.verdict === rating.verdict));
    button.disabled = !now;
  }
  for (const button of document.querySelectorAll("footer [data-stars]")) {
    button.setAttribute("aria-pressed", String(Number(button.dataset.stars) <= (rating.stars || 0)));
    button.disabled = !now;
  }
  byId("comment").disabled = !now;
  if (document.activeElement !== byId("comment")) byId("comment").value = draftOf(now) ?? rating.comment;
  byId("undo").disabled = !mine.length;
  drawProgress();
}

function drawTexts(now) {
  drawn = now;
  put("instruction", now.instruction);
  put("input", now.input);
  byId("with-reference").hidden = !now.reference.length;
  putPieces("reference", now.reference, "u");
  putPieces("response", now.response, "i");
  if (!now.response.length || now.response.every(([, text]) => !text)) byId("response").append(element("span", "(empty)", "soft"));
  const chips = [[now.category, "chip"], [now.stopped && `stopped: ${now.stopped}`, "chip partly"], ...now.judged.map((text) => [text, "chip"])];
  byId("chips").replaceChildren(...chips.filter(([text]) => text).map(([text, kind]) => element("span", text, kind)));
  byId("others").replaceChildren(...now.others.map((said) => element("li",
    `${said.rater}: ${[said.verdict, said.stars && `${said.stars} stars`, said.comment].filter(Boolean).join(", ")}`)));
}

function drawProgress() {
  const count = { ".": 0, s: 0, r: 0, p: 0, w: 0 };
  for (const kind of kinds) count[kind] += 1;
  byId("progress").value = n - count["."];
  byId("progress-text").textContent = `${(n - count["."]).toLocaleString("en")} of ${n.toLocaleString("en")} rated: ${
    Object.entries(VERDICTS).map(([key, name]) => `${count[key]} ${name}`).join(", ")}`;
  drawMap();
}

// The map: a square for each answer that is shown, or, where they are too many, columns of the shares of many.
const SQUARE = 13;
const ROWS = 6;
let layout = { isSquares: true, columns: 1, width: 1 };
function drawMap() {
  const map = byId("map");
  const width = map.parentElement.clientWidth - parseFloat(getComputedStyle(map.parentElement).paddingLeft) * 2;
  const total = places();
  const columns = Math.max(1, Math.floor(width / SQUARE));
  const isSquares = total <= columns * ROWS;
  const height = isSquares ? Math.max(1, Math.ceil(total / columns)) * SQUARE : 2 * SQUARE;
  layout = { isSquares, columns: isSquares ? columns : Math.min(Math.floor(width), total), width: Math.floor(width) };
  const scale = window.devicePixelRatio || 1;
  map.hidden = !total;
  map.width = Math.floor(width * scale);
  map.height = height * scale;
  map.style.width = `${Math.floor(width)}px`;
  map.style.height = `${height}px`;
  const style = getComputedStyle(document.documentElement);
  const colours = Object.fromEntries(Object.entries({ ".": "line", s: "soft", r: "right", p: "partly", w: "wrong" })
    .map(([kind, name]) => [kind, style.getPropertyValue(`--${name}`)]));
  const ink = style.getPropertyValue("--ink");
  const pen = map.getContext("2d");
  pen.scale(scale, scale);
  const at = current === null ? -1 : positionOf(current);
  if (isSquares) {
    for (let i = 0; i < total; i += 1) {
      const [x, y] = [(i % columns) * SQUARE + 1, Math.floor(i / columns) * SQUARE + 1];
      pen.fillStyle = colours[kinds[placeAt(i)]];
      pen.fillRect(x, y, SQUARE - 2, SQUARE - 2);
      if (i === at) {
        pen.strokeStyle = ink;
        pen.lineWidth = 2;
        pen.strokeRect(x, y, SQUARE - 2, SQUARE - 2);
      }
    }
  } else {
    const many = total / layout.columns;
    const edge = (x) => Math.round((x * layout.width) / layout.columns); // whole pixels, else seams show
    for (let x = 0; x < layout.columns; x += 1) {
      const [first, last] = [Math.floor(x * many), Math.floor((x + 1) * many)];
      const count = { r: 0, p: 0, w: 0, s: 0, ".": 0 };
      for (let i = first; i < last; i += 1) count[kinds[placeAt(i)]] += 1;
      let y = height;
      for (const [kind, number] of Object.entries(count)) {
        const tall = (height * number) / (last - first || 1);
        pen.fillStyle = colours[kind];
        pen.fillRect(edge(x), y - tall, edge(x + 1) - edge(x), tall);
        y -= tall;
      }
    }
    pen.fillStyle = ink;
    if (at >= 0) pen.fillRect(Math.floor((at / total) * layout.width) - 1, 0, 3, height);
  }
  if (current !== null) {
    map.setAttribute("aria-valuenow", String(current + 1));
    map.setAttribute("aria-valuetext", `answer ${current + 1} of ${n}, ${WORDS[kinds[current]]}`);
  }
}

// -- moving

function show(place) {
  keepComment();
  current = place;
  byId("comment").blur();
  byId("notice").hidden = true;
  byId("jump").value = place === null ? "" : place + 1;
  draw();
  if (place === null) return;
  showStateOfDraft();
  window.scrollTo(0, 0);
  see(place);
}

function move(step) {
  if (!places()) return;
  const at = current === null ? 0 : positionOf(current) + step;
  show(placeAt(Math.min(places() - 1, Math.max(0, at))));
}

function goTo(place) { // where a filter hides it, the next one that is shown
  if (places()) show(placeAt(Math.min(places() - 1, positionOf(Math.min(n - 1, Math.max(0, place))))));
}

function nextUnrated(from) { // the next without a verdict, from the beginning again after the last; or null
  const at = positionOf(from);
  for (let i = 1; i <= places(); i += 1) {
    const place = placeAt((at + i) % places());
    if (place !== from && !hasVerdict(place)) return place;
  }
  return null;
}
const goOn = () => { if (current !== null) show(nextUnrated(current) ?? current); };

// -- finding

let typing;
function filterSoon() {
  clearTimeout(typing);
  typing = setTimeout(filter, 150);
}

async function filter() {
  const status = byId("status").value;
  const category = byId("category")?.value ?? "";
  const words = byId("search").value;
  const search = (searches += 1);
  keepComment();
  if ((status === "differ") !== cards.withOthers) forgetCards();
  try {
    if (status === "all" && !category && !words.trim()) shown = null;
    else {
      byId("found").textContent = "searching";
      await queue; // what was given is searched as well
      const ask = { rater, version: VERSION, status, words, category: category === "" ? null : Number(category) };
      const found = (await post("/find", ask)).shown;
      if (search !== searches) return;
      shown = found;
    }
    byId("found").textContent = shown === null ? "" : `${places().toLocaleString("en")} found`;
    const at = current === null ? 0 : positionOf(current);
    show(places() ? placeAt(at < places() ? at : 0) : null);
  } catch (error) {
    if (search === searches) byId("found").textContent = `not searched: ${error.message}`;
  }
}

// -- rating

function rate(change) {
  const now = card();
  if (!now || now !== drawn) return; // nobody rates what they do not see
  const was = now.rating;
  const fields = Object.entries(change).filter(([name, value]) => was[name] !== value);
  if (!fields.length) return;
  now.rating = { ...was, ...change };
  kinds[current] = kindOf(now.rating);
  const place = current;
  const pairs = fields.map(([name, to]) => [name, [was[name], to]]);
  const value = { key: now.key, rater, id: newId(), change: Object.fromEntries(pairs), seen };
  mine.push([place, now.key, value.id]);
  byId("notice").hidden = true;
  deliver("/rate", value, place, (reply) => rated(place, value, reply));
  draw();
}

function rated(place, value, reply) { // what holds now, by the server
  if (value.rater !== rater) return;
  if (!reply.step) mine = mine.filter(([, , id]) => id !== value.id);
  const comment = value.change?.comment?.[1];
  if (reply.taken && comment !== undefined && draftOf(value) === comment) setDraft(value);
  learn(reply, place);
  if (!reply.taken) tellOther(place, value, reply);
}

function tellOther(place, value, reply) {
  const { verdict, stars, comment } = reply.rating;
  const holds = [verdict, stars && `${stars} stars`, comment && `“${comment}”`].filter(Boolean).join(", ") || "nothing";
  const isComment = value.change?.comment !== undefined;
  const yours = isComment
    ? "Your comment is in the field, not saved: change or leave it once more to replace that one."
    : "What you gave was not taken: give it again to replace that.";
  tell(`Answer ${place + 1} was rated in another tab in the meantime: ${holds}. ${yours}`);
}

function tell(text) {
  byId("notice").textContent = text;
  byId("notice").hidden = false;
}

// what the server says has changed; about: the place that was asked about, of which it says what holds
function learn(reply, about = null) {
  if (reply.version !== VERSION) {
    tell("The answers are others by now (the server was started again): load this page again.");
    return;
  }
  seen = reply.seen;
  const news = about === null ? reply.changed : [...reply.changed, [about, reply.rating]];
  for (const [place, rating] of news) {
    if (pending.get(place)) continue; // the reply to that comes later
    kinds[place] = kindOf(rating);
    const had = cards.get(place);
    if (!had) continue;
    const isOther = ["verdict", "stars", "comment"].some((name) => had.rating[name] !== rating[name]);
    had.rating = rating;
    if (isOther && place === current && place !== about) tell(`This answer has just been rated in another tab: ${WORDS[kinds[place]]}.`);
  }
  draw();
}

function verdict(name) {
  const now = card();
  if (!now || now !== drawn) return;
  rate({ verdict: now.rating.verdict === name ? null : name });
  if (byId("go-on").checked && now.rating.verdict) goOn();
}

function stars(number) {
  const now = card();
  if (now) rate({ stars: now.rating.stars === number ? null : number });
}

function keepComment() {
  const now = card();
  const text = draftOf(now);
  if (!now || text === undefined) return;
  if (text === now.rating.comment && !pending.get(current)) setDraft(now);
  else rate({ comment: text });
  showStateOfDraft();
}

function showStateOfDraft() { // a comment that is being typed is not saved
  if (!waiting && byId("again").hidden && byId("saved").textContent) showState();
}

function undo() {
  keepComment();
  const last = mine.pop();
  if (!last) return;
  const [place, key, id] = last;
  const value = { key, id, rater, seen };
  deliver("/undo", value, place, (reply) => {
    if (value.rater !== rater) return;
    learn(reply, place);
    if (current !== place) show(place);
    if (!reply.taken) tellOther(place, value, reply);
  });
  draw();
}

// -- who rates

async function begin(name) {
  const asked = (own += 1);
  const there = await post("/open", { rater: name, version: VERSION });
  if (asked !== own) return;
  rater = there.rater;
  forgetCards();
  kinds = [...there.kinds];
  mine = there.steps;
  seen = there.seen;
  byId("rater").value = rater;
  byId("raters").replaceChildren(...there.raters.map((other) => element("option", other)));
  if (rater === (address.get("rater") ?? document.body.dataset.rater)) return;
  address.set("rater", rater); // a page that is loaded again is the same person's
  history.replaceState(null, "", `?${address}`);
}

function forgetCards() {
  cards = new Map();
  cards.withOthers = byId("status").value === "differ";
  fetching = new Map();
  own += 1;
  drawn = null;
}

async function changeRater() {
  keepComment();
  const was = rater;
  await queue;
  try {
    await begin(byId("rater").value);
  } catch (error) {
    byId("rater").value = was;
    byId("found").textContent = `the rater is the same: ${error.message}`;
    return;
  }
  byId("rater").blur();
  await filter();
  if (byId("agreement").open) drawPairs();
}

async function drawPairs() {
  const names = ["raters", "of", "answers", "the same", "kappa"];
  try {
    await queue;
    const { pairs } = await post("/agreement", { rater });
    const head = document.createElement("tr");
    head.append(...names.map((name) => element("th", name)));
    const lines = pairs.map((pair) => {
      const line = document.createElement("tr");
      line.append(element("td", `${pair.one} and ${pair.other}`, "name"), element("td", pair.what), element("td", pair.n.toLocaleString("en"), "n"),
        element("td", `${(100 * pair.same).toFixed(0)} %`, "n"), element("td", pair.kappa === null ? "–" : pair.kappa.toFixed(2), "n"));
      return line;
    });
    byId("pairs").replaceChildren(head, ...lines);
    if (!lines.length) byId("pairs").replaceChildren(element("caption", "No two people have rated the same two answers so far."));
  } catch (error) {
    byId("pairs").replaceChildren(element("caption", error.message));
  }
}

async function look() { // what has changed elsewhere, and whether the server is there
  const asked = own;
  try {
    const reply = await post("/news", { rater, version: VERSION, seen });
    if (asked === own && reply.changed.length) learn(reply);
    if (isAway) {
      isAway = false;
      showState();
    }
  } catch (error) {
    if (!waiting && byId("again").hidden) {
      isAway = true;
      showSaved(`${error.message}; what you give is kept in this tab and sent when it is back`, "bad");
    }
  }
}

// -- keys and buttons

const KEYS = {
  ...Object.fromEntries(Object.entries(VERDICTS).map(([key, name]) => [key, () => verdict(name)])),
  ...Object.fromEntries([1, 2, 3, 4, 5].map((number) => [String(number), () => stars(number)])),
  ArrowRight: () => move(1), ArrowLeft: () => move(-1), j: () => move(1), k: () => move(-1),
  n: goOn, u: undo,
  c: () => byId("comment").focus(),
  g: () => byId("jump").select(),
  "/": () => byId("search").focus(),
};
const HELD = [KEYS.ArrowRight, KEYS.ArrowLeft, KEYS.j, KEYS.k]; // a held key goes through answers; it rates one alone

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && event.target.matches("textarea, input, select")) event.target.blur();
  const act = meant(event, KEYS);
  if (!act) return;
  event.preventDefault();
  if (!event.repeat || HELD.includes(act)) act();
});
byId("comment").addEventListener("input", () => {
  if (current === null || !card()) return;
  setDraft(card(), byId("comment").value);
  showStateOfDraft();
  if (!byId("saved").textContent) showState();
});
byId("comment").addEventListener("blur", keepComment);
for (const id of ["search", "status", "category"]) byId(id)?.addEventListener("input", filterSoon);
byId("jump").addEventListener("change", () => { if (byId("jump").value) goTo(Number(byId("jump").value) - 1); });
byId("jump").addEventListener("keydown", (event) => { if (event.key === "Enter") byId("jump").blur(); });
byId("rater").addEventListener("change", changeRater);
byId("agreement").addEventListener("toggle", () => { if (byId("agreement").open) drawPairs(); });
for (const button of document.querySelectorAll("footer [data-verdict]")) {
  button.addEventListener("click", () => verdict(button.dataset.verdict));
}
for (const button of document.querySelectorAll("footer [data-stars]")) {
  button.addEventListener("click", () => stars(Number(button.dataset.stars)));
}
byId("previous").addEventListener("click", () => move(-1));
byId("next").addEventListener("click", () => move(1));
byId("undo").addEventListener("click", undo);
byId("map").addEventListener("click", (event) => {
  const { isSquares, columns, width } = layout;
  const box = byId("map").getBoundingClientRect();
  const [x, y] = [event.clientX - box.left, event.clientY - box.top];
  const i = isSquares
    ? Math.floor(y / SQUARE) * columns + Math.min(columns - 1, Math.floor(x / SQUARE)) : Math.floor((x / width) * places());
  if (i < places()) show(placeAt(i));
});
byId("map").addEventListener("keydown", (event) => {
  const far = Math.max(1, Math.round(places() / 20));
  const steps = { PageDown: far, PageUp: -far, Home: -n, End: n, ArrowDown: 1, ArrowUp: -1 };
  if (event.key in steps) {
    event.preventDefault();
    move(steps[event.key]);
  }
});
window.addEventListener("resize", drawMap);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawMap);
document.addEventListener("visibilitychange", () => {
  if (document.hidden) keepComment(); // the tab may be closed next
  else look();
});
setInterval(() => { if (!document.hidden && !waiting) look(); }, 1000 * EVERY);

async function start() {
  for (const { path, value } of outbox.splice(0)) deliver(path, value, null, () => {}); // from before this tab was loaded
  await queue;
  for (;;) {
    try {
      await begin(rater);
      break;
    } catch (error) {
      showSaved(error.message, "bad");
      if (error instanceof Refused) {
        if (!rater) return;
        rater = ""; // the address named a rater that is none
      } else await new Promise((go) => setTimeout(go, 1000 * AWAY));
    }
  }
  showSaved("", "");
  const first = kinds.indexOf(".");
  show(n ? Math.max(0, first) : null);
}
start();
