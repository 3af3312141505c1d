// Turns as they stand on the chat page. All text goes in as text.
const LEVELS = [0.9, 0.6, 0.3, 0.1]; // the colours' borders, as the legend has them
const articles = new WeakMap(); // turn to how it is shown
const percent = (share) => { // 100 %, 99.7 %, 50 %, 5.0 %, 0.40 %
  const number = 100 * share;
  const digits = number >= 99.95 ? 0 : number >= 99.5 ? 1 : number >= 10 ? 0 : number >= 1 ? 1 : 2;
  return `${number.toFixed(digits)} %`;
};

function make(name, properties = {}, ...inside) {
  const { kind, label, ...rest } = properties;
  const made = Object.assign(document.createElement(name), rest);
  if (kind) made.className = kind;
  if (label) made.setAttribute("aria-label", label);
  made.append(...inside);
  return made;
}

const button = (words, label, onclick, kind = "small") => make("button", { type: "button", textContent: words, label, title: label, onclick, kind });

function draw() { // nodes of turns that stay are not touched: a screen reader would read them again
  const log = byId("log");
  const wanted = path(talk).map(articleOf);
  const there = [...log.children];
  const same = wanted.findIndex((article, i) => article !== there[i]);
  const kept = same < 0 ? wanted.length : same;
  for (const article of there.slice(kept)) article.remove();
  log.append(...wanted.slice(kept));
  for (const turn of path(talk)) refresh(turn);
  byId("empty").hidden = wanted.length > 0;
  byId("bring-back").hidden = !previous;
  const isBusy = running !== null;
  log.setAttribute("aria-busy", String(isBusy));
  for (const one of log.querySelectorAll("[data-idle]")) one.disabled = isBusy || one.dataset.idle === "end";
  for (const id of ["new", "import", "export"]) byId(id).disabled = isBusy || (id !== "import" && !wanted.length);
  byId("stop").hidden = !isBusy;
  byId("go").hidden = isBusy;
  byId("editing").hidden = !editing;
  readyToSend();
}

const readyToSend = () => { byId("go").disabled = !value("box").trim(); };

function articleOf(turn) {
  if (!articles.has(turn)) articles.set(turn, makeArticle(turn));
  return articles.get(turn).article;
}

function makeArticle(turn) {
  const idle = (one) => { one.dataset.idle = ""; return one; };
  const parts = { place: make("span", { kind: "n" }), sides: [] };
  const step = (by, words, label) => {
    const one = idle(button(words, label, () => show(turn, by)));
    one.dataset.step = by;
    return one;
  };
  parts.switcher = make("span", { kind: "switcher" }, step(-1, "‹", "the version before"), parts.place, step(1, "›", "the next version"));
  const tools = make("div", { kind: "tools" }, parts.switcher,
    make("span", { kind: "note", textContent: turn.alone && parentOf(talk, turn) !== talk ? "asked alone" : "" }),
    idle(button("Edit", "edit the question", () => edit(turn))), idle(button("Ask again", "ask again: another answer", () => again(turn))));
  const question = make("div", { kind: "question" }, make("div", { kind: "text", dir: "auto", textContent: turn.question }), tools);
  const side = make("div", { kind: "side" }, ...turn.answers.map((answer, number) => {
    const shown = sideOf(turn, answer, number);
    parts.sides.push(shown);
    return shown.box;
  }));
  parts.article = make("article", { kind: "turn", label: "question and answer" }, question, side);
  return parts;
}

function sideOf(turn, answer, number) {
  const said = make("div", { kind: "said" });
  const chance = make("p", { kind: "chance note", hidden: true });
  const meta = make("span", { kind: "note n meta" });
  const copy = button("Copy", `copy the answer of ${answer.model}`, async () => {
    await navigator.clipboard.writeText(answer.text);
    say("Copied.");
  });
  copy.hidden = !navigator.clipboard;
  const rate = button("Review", `send the answer of ${answer.model} to the review`, () => openRating(turn, answer, box, rate));
  const after = make("div", { kind: "tools after" }, meta, copy, rate);
  const name = make("b", { kind: "name", textContent: answer.model || "imported" });
  const box = make("div", { kind: `answer r${number}` }, make("div", { kind: "label" }, name), said, chance, after);
  return { answer, box, said, chance, meta, copy, rate, drawn: "" };
}

function refresh(turn) {
  const { place, switcher, sides } = articles.get(turn);
  const { children } = parentOf(talk, turn);
  const version = children.indexOf(turn);
  switcher.hidden = children.length < 2;
  place.textContent = `${version + 1} / ${children.length}`;
  switcher.firstChild.dataset.idle = version ? "" : "end";
  switcher.lastChild.dataset.idle = version < children.length - 1 ? "" : "end";
  for (const side of sides) drawAnswer(side);
}

function drawAnswer(side) {
  const { answer, said, meta } = side;
  const pieces = byId("colours").checked ? (answer.tokenList ? piecesOf(answer.tokenList, answer.text) : answer.pieces) : null;
  const state = pieces ? `tokens ${pieces.length} ${answer.text.length}` : `text ${answer.text.length} ${answer.why}`;
  if (side.drawn !== state) {
    if (pieces) drawTokens(side, pieces);
    else drawProse(said, answer);
    side.chance.hidden = true;
    side.drawn = state;
  }
  meta.textContent = [...facts(answer), byId("colours").checked && !pieces && answer.text ? "no probabilities known" : ""]
    .filter(Boolean).join(" · ").replace(/(\d) /g, "$1\u00a0"); // a number stays with its unit
  side.box.classList.toggle("failed", answer.why === "error" || answer.why === "lost");
  side.copy.hidden = !answer.text || !answer.why || !navigator.clipboard;
  side.rate.hidden = !answer.text || !answer.why || !about(answer.model).review;
}

// paragraphs, and code between lines of three backquotes; what is there already grows, so that a selection stays
function drawProse(said, answer) {
  if (!said.classList.contains("prose")) said.replaceChildren();
  said.className = "said prose";
  said.removeAttribute("tabindex");
  said.removeAttribute("role");
  said.removeAttribute("aria-label");
  const parts = answer.text.split(/^```[^\n`]*$\n?/m).map((part, i) => [i % 2 === 1, part.replace(/\n$/, "")]).filter(([, part]) => part);
  if (!parts.length) parts.push([false, answer.why === "" ? "…" : "(no text)"]);
  parts.forEach(([isCode, part], i) => {
    let node = said.children[i];
    if (!node || (node.tagName === "PRE") !== isCode) {
      const made = make(isCode ? "pre" : "div", isCode ? { kind: "code", dir: "ltr" } : { kind: "text", dir: "auto" }, "");
      if (node) node.replaceWith(made);
      else said.append(made);
      node = made;
    }
    if (!node.firstChild) node.append("");
    const { data } = node.firstChild;
    if (part.startsWith(data)) node.firstChild.appendData(part.slice(data.length));
    else node.firstChild.data = part;
    node.classList.toggle("soft", !answer.text);
  });
  while (said.children.length > parts.length) said.lastChild.remove();
}

function drawTokens(side, pieces) {
  const { said } = side;
  if (!said.classList.contains("tokens")) said.replaceChildren();
  said.className = "said text tokens";
  said.tabIndex = 0;
  said.setAttribute("role", "group");
  said.setAttribute("aria-label", "tokens by their probability; left and right arrows go through them");
  while (said.children.length > pieces.length) said.lastChild.remove();
  pieces.forEach(([words, share, others], i) => {
    let token = said.children[i];
    if (!token) said.append(token = make("span"));
    if (token.textContent !== words) token.textContent = words;
    const level = LEVELS.findIndex((border) => share >= border);
    token.className = `p${level < 0 ? LEVELS.length : level}`;
    token.title = chanceOf(words, share, others);
  });
  const pick = (place) => {
    const tokens = [...said.children];
    if (!tokens[place]) return;
    said.querySelector(".picked")?.classList.remove("picked");
    tokens[place].classList.add("picked");
    side.chance.textContent = tokens[place].title;
    side.chance.hidden = false;
  };
  said.onclick = (event) => pick([...said.children].indexOf(event.target));
  said.onkeydown = (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    pick([...said.children].findIndex((one) => one.classList.contains("picked")) + by);
  };
}

const quoted = (words) => `“${words.replaceAll("\n", "↵")}”`;
function chanceOf(words, share, others) {
  const instead = others.map(([other, of]) => `${quoted(other)} ${percent(of)}`).join(", ");
  return `${quoted(words)} ${percent(share)}${instead ? `; instead: ${instead}` : ""}`;
}

function facts(answer) { // why it ended and how fast it was
  const why = {
    "": "answering", stop: "ended by itself", length: `cut at ${answer.tokens} tokens`, context: "cut: the model's context is full",
    stopped: "stopped by you", lost: answer.error || "the connection was lost", error: answer.error, imported: "imported",
  }[answer.why] ?? answer.why;
  const speed = answer.tokens > 1 && answer.seconds > 0 ? `${((answer.tokens - 1) / answer.seconds).toFixed(1)} tokens/s` : "";
  const first = answer.first === null ? "" : `first after ${answer.first.toFixed(2)} s`;
  return [why, answer.tokens && answer.why !== "length" ? `${answer.tokens} ${answer.tokens === 1 ? "token" : "tokens"}` : "", speed, first];
}

// -- what a person says of an answer

function openRating(turn, answer, box, opener) {
  const open = box.querySelector(".rating");
  if (open) return open.remove();
  const form = byId("rating").content.firstElementChild.cloneNode(true);
  const [said, comment] = [form.querySelector("[data-part=said]"), form.querySelector("textarea")];
  const id = [...crypto.getRandomValues(new Uint8Array(9))].map((b) => b.toString(16).padStart(2, "0")).join("");
  let verdict = null;
  form.onclick = (event) => {
    if (!event.target.dataset.verdict) return;
    verdict = event.target.dataset.verdict;
    for (const one of form.querySelectorAll("[data-verdict]")) one.setAttribute("aria-pressed", String(one === event.target));
  };
  form.onsubmit = async (event) => {
    event.preventDefault();
    const turns = path(talk);
    const messages = messagesOf(turns.slice(0, turns.indexOf(turn)), turn, answer.model);
    try {
      const { file } = await (await request("review", { model: answer.model, messages, answer: answer.text, verdict, comment: comment.value, id })).json();
      form.remove();
      opener.textContent = "Sent ✓";
      say(`Kept in ${file} (ift review ${file} shows it).`);
      byId("box").focus();
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      said.textContent = error.message;
    }
  };
  box.append(form);
  form.querySelector("button").focus();
}
