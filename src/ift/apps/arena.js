// One battle at a time. All text from models and people goes into the page as text; names come with the reply to a vote.
const WINS = { model_a: "A won", model_b: "B won", tie: "a tie", "tie (bothbad)": "both bad" };
const sides = [byId("side-a"), byId("side-b")];
const part = (side, name) => side.querySelector(`.${name}`);
const tabs = { rows: byId("tab-rows"), ask: byId("tab-ask"), board: byId("tab-board") };

let view = "rows"; // where battles come from: rows, ask
let isBoard = false; // the leaderboard is over it
let battle = null; // the one on the page
let stage = "empty"; // empty, thinking, vote (it may be voted on), sent, told (names are seen)
let winner = ""; // what was said of it
let loaded = false;

function draw() {
  const isVote = stage === "vote";
  for (const [name, tab] of Object.entries(tabs)) {
    tab?.setAttribute("aria-pressed", String(isBoard ? name === "board" : name === view));
  }
  byId("board").hidden = !isBoard;
  byId("ask").hidden = isBoard || view !== "ask" || stage !== "empty";
  byId("battle").hidden = isBoard || stage === "empty";
  byId("nothing").hidden = isBoard || view !== "rows" || stage !== "empty" || !loaded;
  document.querySelector("footer").hidden = isBoard || (view === "ask" && ["empty", "thinking"].includes(stage));
  document.querySelector("footer").classList.toggle("told", stage === "told");
  for (const button of document.querySelectorAll("[data-winner]")) {
    button.disabled = !isVote;
    button.setAttribute("aria-pressed", String(["sent", "told"].includes(stage) && button.dataset.winner === winner));
  }
  byId("skip").hidden = stage === "told";
  byId("skip").disabled = !isVote;
  byId("next").hidden = stage !== "told";
  for (const side of sides) part(side, "thinking").hidden = stage !== "thinking";
}

function progress({ rows, done, votes, same }) {
  byId("progress").value = done;
  const left = rows ? ` · ${rows - done} of ${rows} left` : "";
  byId("progress-text").textContent = `${votes} ${votes === 1 ? "vote" : "votes"}${left}`;
  byId("progress-text").title = same ? `${same} more rows where both said the same are noted as ties` : "";
}

function fill(said) { // a battle that may be voted on, or none
  loaded = true;
  progress(said.progress);
  battle = said.battle ? said : null;
  stage = battle ? "vote" : "empty";
  if (battle) {
    question(battle.source, battle.instruction, battle.input);
    battle.answers.forEach((text, i) => answer(sides[i], text));
    window.scrollTo(0, 0);
  }
  draw();
}

function question(source, instruction, input) {
  byId("source").textContent = source;
  byId("asked").textContent = instruction;
  byId("given").textContent = input;
  byId("given").hidden = !input;
}

function answer(side, text) {
  part(side, "said").textContent = text || "(empty)";
  part(side, "said").classList.toggle("soft", !text);
  part(side, "who").textContent = "";
  part(side, "outcome").hidden = true;
  side.classList.remove("won", "lost");
}

function vote(said) {
  if (stage !== "vote" || isBoard) return;
  stage = "sent";
  winner = said;
  draw();
  send("/vote", { battle: battle.battle, winner }, tell);
}

function tell(said) { // who was who
  progress(said.progress);
  if (!battle || said.battle !== battle.battle) return;
  stage = "told";
  winner = said.winner;
  for (const side of sides) {
    const won = winner === side.dataset.side;
    part(side, "who").textContent = said.names[side.dataset.side];
    part(side, "outcome").hidden = !won && winner.startsWith("model");
    part(side, "outcome").textContent = won ? "won" : WINS[winner];
    part(side, "outcome").className = `chip outcome ${won ? "good" : winner === "tie" ? "" : "bad"}`;
    side.classList.toggle("won", won);
    side.classList.toggle("lost", !won && winner !== "tie");
  }
  draw();
}

const next = (value = {}) => send("/next", value, fill);

function goOn() {
  if (stage !== "told" || isBoard) return;
  if (view === "rows") next();
  else askAgain();
}

function skip() {
  if (stage !== "vote" || isBoard) return;
  if (view === "rows") next({ skip: battle.battle });
  else askAgain();
}

const undo = () => send("/undo", {}, (said) => {
  if (!said.battle) return progress(said.progress);
  isBoard = false;
  view = said.source === "typed in" && tabs.ask ? "ask" : "rows";
  fill(said);
});

// -- what is typed in

function askAgain() {
  battle = null;
  stage = "empty";
  draw();
  byId("instruction").focus();
}

async function ask(event) {
  event.preventDefault();
  const instruction = byId("instruction").value;
  const input = byId("input").value;
  if (!instruction.trim() || stage === "thinking") return;
  byId("problem").textContent = "";
  question("typed in", instruction, input);
  for (const side of sides) {
    answer(side, " ");
    part(side, "said").textContent = "";
  }
  battle = null;
  stage = "thinking";
  draw();
  const start = Date.now();
  try {
    const { job } = await post("/ask", { instruction, input });
    for (;;) {
      const said = await post("/asked", { job });
      if (view !== "ask" || stage !== "thinking") return; // the person went elsewhere
      if (said.problem) throw new Error(said.problem);
      if (said.battle) {
        byId("instruction").value = "";
        byId("input").value = "";
        byId("instruction").blur();
        fill(said);
        return;
      }
      byId("source").textContent = `typed in · ${said.doing} · ${Math.round((Date.now() - start) / 1000)} s`;
      await new Promise((go) => setTimeout(go, 300));
    }
  } catch (error) {
    stage = "empty";
    byId("problem").textContent = error.message;
    draw();
    byId("instruction").focus();
  }
}

// -- the leaderboard

function element(name, text, kind) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

function line(cells) {
  const row = element("tr");
  row.append(...cells);
  return row;
}

// an end of an interval is null where the battles so far do not bound it
const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
const whole = (value) => (isNumber(value) ? value.toFixed(0) : "–");
const percent = (share) => (isNumber(share) ? `${(100 * share).toFixed(0)} %` : "–");

function between(low, high, write) {
  if (isNumber(low) && isNumber(high)) return `${write(low)} to ${write(high)}`;
  if (isNumber(low)) return `above ${write(low)}`;
  return isNumber(high) ? `below ${write(high)}` : "not known yet";
}

const SVG = "http://www.w3.org/2000/svg";
function interval(standing, low, high) { // the interval as a line, the rating as a dot; an open end goes to the edge
  const at = (value) => 4 + (192 * (value - low)) / (high - low || 1);
  const drawing = document.createElementNS(SVG, "svg");
  drawing.setAttribute("viewBox", "0 0 200 16");
  drawing.setAttribute("class", "dots r0");
  drawing.setAttribute("aria-hidden", "true"); // the numbers stand beside it
  const [x1, x2] = [isNumber(standing.low) ? at(standing.low) : 0, isNumber(standing.high) ? at(standing.high) : 200];
  const shapes = [["line", { x1, x2, y1: 8, y2: 8 }]];
  if (isNumber(standing.rating)) shapes.push(["circle", { cx: at(standing.rating), cy: 8, r: 4 }]);
  for (const [name, values] of shapes) {
    const shape = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(values)) shape.setAttribute(key, value);
    drawing.append(shape);
  }
  return drawing;
}

function head(text, kind) {
  const cell = element(text ? "th" : "td", text, kind);
  if (text) cell.scope = "col";
  return cell;
}

function measured(kind, number, ends) { // a number with its interval beside it, on a phone below it
  const cell = element("td", undefined, kind);
  cell.append(element("b", number), " ");
  if (ends) cell.append(element("span", ends, "between"));
  return cell;
}

const MATRIX = 15; // models
function board(said) {
  const all = said.leaderboard;
  byId("board-text").textContent = said.battles;
  byId("standings").replaceChildren(line([
    head(""), head("model"), head("rating, 95 % interval"), head("", "drawn"), head("win rate"), head("battles"), head("Elo", "elo"),
  ]));
  const ends = all.flatMap((s) => [s.low, s.rating, s.high]).filter(isNumber);
  const [low, high] = [Math.min(...ends), Math.max(...ends)];
  for (const s of all) {
    const drawn = element("td", undefined, "drawn");
    drawn.append(interval(s, low, high));
    const name = element("th", s.model, said.ours.includes(s.model) ? "name ours" : "name");
    name.scope = "row";
    const wins = isNumber(s.win_low) && isNumber(s.win_high) ? between(s.win_low, s.win_high, percent) : "";
    byId("standings").append(line([
      element("td", s.rank ?? "–", "n soft"),
      name,
      measured("n rating", whole(s.rating), between(s.low, s.high, whole)),
      drawn,
      measured("n", percent(s.win_rate), wins),
      element("td", s.battles.toLocaleString("en"), "n"),
      element("td", whole(s.elo), "n elo"),
    ]));
  }
  const shown = all.slice(0, MATRIX);
  byId("matrix").replaceChildren(line([head(""), ...shown.map((s, i) => head(String(i + 1), "n"))]));
  shown.forEach((s, i) => {
    const cells = shown.map((_, j) => {
      const share = said.win_rates[i][j];
      const cell = element("td", share === null ? (i === j ? "" : "–") : percent(share), "n cell");
      if (share !== null && Math.round(100 * share) !== 50) {
        cell.classList.add(share < 0.5 ? "below" : "above");
        cell.style.setProperty("--far", `${Math.min(100, 350 * Math.abs(share - 0.5))}%`);
      }
      return cell;
    });
    const name = element("th", `${i + 1}  ${s.model}`, "name");
    name.scope = "row";
    byId("matrix").append(line([name, ...cells]));
  });
  byId("board-notes").replaceChildren(...said.notes.map((note) => element("li", note)));
  if (all.length > MATRIX) byId("board-notes").append(element("li", `The win rates are of the first ${MATRIX} models.`));
}

async function showBoard() {
  byId("board-text").textContent = "computing";
  try {
    board(await post("/standings", {}));
  } catch (error) {
    byId("board-text").textContent = error.message;
  }
}

// -- which part is seen

function open(name) {
  if (!tabs[name]) return;
  const wasBoard = isBoard;
  isBoard = name === "board" && !isBoard; // the same key opens and closes it
  if (isBoard) showBoard();
  else if (name === "rows" && view !== "rows") {
    view = "rows";
    stage = "empty";
    next();
  } else if (name === "ask" && (view !== "ask" || !wasBoard) && stage !== "thinking") {
    view = "ask";
    askAgain();
  }
  draw();
}

const KEYS = {
  1: () => vote("model_a"), 2: () => vote("model_b"), 3: () => vote("tie"), 4: () => vote("tie (bothbad)"),
  a: () => vote("model_a"), b: () => vote("model_b"), t: () => vote("tie"), x: () => vote("tie (bothbad)"),
  ArrowLeft: () => vote("model_a"), ArrowRight: () => vote("model_b"),
  " ": goOn, Enter: goOn, n: goOn, s: skip, u: undo, l: () => open("board"), i: () => open("ask"), r: () => open("rows"),
};

document.addEventListener("keydown", (event) => {
  if (event.target.matches("textarea")) {
    if (event.key === "Escape") event.target.blur();
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) ask(event);
    return;
  }
  const act = meant(event, KEYS);
  const onControl = event.target.matches("button, summary") && (event.key === " " || event.key === "Enter");
  if (!act || onControl || event.repeat) return;
  event.preventDefault();
  act();
});
for (const button of document.querySelectorAll("[data-winner]")) {
  button.addEventListener("click", () => { button.blur(); vote(button.dataset.winner); });
}
for (const [name, tab] of Object.entries(tabs)) tab?.addEventListener("click", () => { tab.blur(); open(name); });
for (const [id, act] of Object.entries({ undo, skip, next: goOn })) {
  byId(id).addEventListener("click", () => { byId(id).blur(); act(); });
}
byId("ask").addEventListener("submit", ask);

view = tabs.rows ? "rows" : "ask";
if (tabs.rows) next();
else send("/next", {}, (said) => { loaded = true; progress(said.progress); });
draw();
