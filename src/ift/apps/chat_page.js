// The chat: what chat_talk.js holds, shown; questions to the server, by its API alone. All text goes in as text.
const STORE = "ift chat";
const NUMBERS = ["temperature", "top_p", "top_k", "repetition_penalty", "max_tokens", "seed"];
const TEXTS = ["model", "beside", "stop-text"];
const ALTERNATIVES = 3; // of each token
const WIDE = window.matchMedia("(min-width: 900px)");

let models = []; // of the server: {id, single_turns, review, max_model_len}; another server's lack what is ours
let talk = newTalk();
let aloneByHand = null; // what a person chose, over what the models are tuned on
let running = null; // {turn, controller, left}: the answers on their way
let editing = null; // the turn whose question is in the box
let draft = ""; // what was in the box before
let previous = null; // the talk that a new one took the place of
let remembered = {}; // settings of the last visit

const value = (id) => byId(id).value;
const chosen = () => [value("model"), value("beside")].filter(Boolean);
const about = (model) => models.find((one) => one.id === model) ?? {};

function say(words, { heard = false } = {}) { // heard: by screen readers alone, as it stands beside the answer
  byId("status").classList.toggle("heard", heard);
  byId("status").textContent = words;
}

function following(act) { // who reads the end goes on to see it
  const isAtEnd = innerHeight + scrollY > document.documentElement.scrollHeight - 80;
  act();
  if (isAtEnd) window.scrollTo(0, document.documentElement.scrollHeight);
}

// -- asking

function ask() {
  const question = value("box").trim();
  if (!question || running || !checkedSettings()) return;
  if (!models.length) return void connect(); // the server was away when the page was opened
  const parent = editing ? parentOf(talk, editing) : path(talk).at(-1) ?? talk;
  const turn = add(parent, newTurn(question, value("system").trim(), byId("alone").checked));
  byId("box").value = editing ? draft : "";
  editing = null;
  start(turn);
}

function again(turn) {
  if (running || !checkedSettings()) return;
  start(add(parentOf(talk, turn), newTurn(turn.question, value("system").trim(), byId("alone").checked)));
  const fixed = value("seed") !== "" ? "the seed is set" : Number(value("temperature")) === 0 && value("temperature") ? "temperature is 0" : "";
  if (fixed) say(`${fixed}: the answer will be the same.`.replace(/^./, (letter) => letter.toUpperCase()));
}

async function start(turn) {
  const turns = path(talk);
  const before = turns.slice(0, turns.indexOf(turn));
  turn.answers = chosen().map(newAnswer);
  running = { turn, controller: new AbortController() };
  say("");
  draw();
  keep();
  byId("box").focus();
  window.scrollTo(0, document.documentElement.scrollHeight);
  await Promise.all(articles.get(turn).sides.map((side) => stream(side, messagesOf(before, turn, side.answer.model), running.controller.signal)));
  running = null;
  following(draw);
  keep();
  say(turn.answers.map(announced).join(" "), { heard: true });
  if (document.activeElement === document.body) byId("box").focus();
}

function announced(answer) {
  const [why, tokens] = facts(answer);
  return `Answer of ${answer.model}: ${[why, tokens].filter(Boolean).join(", ")}.`;
}

function bodyFor(answer, messages) {
  const given = Object.fromEntries(NUMBERS.filter((id) => value(id) !== "").map((id) => [id, Number(value(id))]));
  const stops = value("stop-text").replaceAll("\\n", "\n");
  answer.seed = given.seed ?? crypto.getRandomValues(new Uint32Array(1))[0]; // it can be had again
  return {
    model: answer.model, messages, ...given, seed: answer.seed, ...(stops ? { stop: stops } : {}),
    stream: true, stream_options: { include_usage: true }, logprobs: true, top_logprobs: ALTERNATIVES,
  };
}

async function stream(side, messages, signal) {
  const { answer } = side;
  const begin = performance.now();
  let firstAt = 0;
  let finish = "";
  let isDue = false;
  const most = Number(value("max_tokens") || byId("max_tokens").placeholder);
  answer.tokenList = [];
  const show = () => { // once a frame, however fast the tokens come
    if (isDue) return;
    isDue = true;
    requestAnimationFrame(() => {
      isDue = false;
      following(() => drawAnswer(side));
    });
  };
  try {
    const response = await request("v1/chat/completions", bodyFor(answer, messages), signal);
    for await (const event of eventsOf(response)) {
      const choice = event.choices?.[0];
      if (event.usage) answer.tokens = event.usage.completion_tokens;
      if (!choice) continue;
      const scored = choice.logprobs?.content ?? [];
      const piece = choice.delta?.content ?? "";
      if (piece || scored.length) {
        firstAt ||= performance.now();
        answer.first = (firstAt - begin) / 1000;
        answer.seconds = (performance.now() - firstAt) / 1000;
        answer.tokens += scored.length || 1;
      }
      answer.text += piece;
      answer.tokenList.push(...scored);
      finish = choice.finish_reason ?? finish;
      show();
    }
    answer.why = finish || "lost";
  } catch (error) {
    answer.why = signal.aborted ? "stopped" : finish || (answer.text ? "lost" : "error");
    answer.error = signal.aborted || finish ? "" : error instanceof Problem ? error.message : "the connection was lost before the answer was whole";
    if (!signal.aborted && !(error instanceof Problem || error instanceof TypeError)) console.warn(error);
  }
  if (answer.why === "length" && answer.tokens < most) answer.why = "context";
  answer.pieces = answer.tokenList.length ? piecesOf(answer.tokenList, answer.text) : null;
  delete answer.tokenList;
  following(() => drawAnswer(side));
}

async function request(where, body, signal) { // relative: behind a proxy the page has a path of its own
  const headers = { "Content-Type": "application/json", ...(value("key") ? { Authorization: `Bearer ${value("key")}` } : {}) };
  let response;
  try {
    response = await fetch(where, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Problem("no connection to the server (has it ended?)");
  }
  if (response.status === 401) {
    byId("key-field").hidden = false;
    openPanel();
    byId("key").focus();
  }
  if (!response.ok) throw new Problem(await refusal(response));
  return response;
}

function show(turn, by) { // another version
  const parent = parentOf(talk, turn);
  const at = parent.shown + by;
  if (running || !parent.children[at]) return;
  parent.shown = at;
  draw();
  keep();
  const other = articleOf(parent.children[at]);
  const same = other.querySelector(`[data-step="${by}"]`);
  (same.disabled ? other.querySelector("[data-step]:not(:disabled)") : same)?.focus();
}

function edit(turn) {
  draft = editing ? draft : value("box");
  editing = turn;
  byId("box").value = turn.question;
  draw();
  byId("box").focus();
}

function endEdit() {
  byId("box").value = draft;
  editing = null;
  draw();
  byId("box").focus();
}

// -- settings

function checkedSettings() {
  const wrong = NUMBERS.map(byId).find(({ validity }) => validity.badInput || validity.rangeOverflow || validity.rangeUnderflow);
  if (!wrong) return true;
  openPanel();
  wrong.focus();
  say(`${wrong.labels[0].textContent.trim()} must be a number from ${wrong.min} to ${wrong.max}.`);
  return false;
}

function settingsChanged() {
  const single = chosen().filter((model) => about(model).single_turns);
  if (aloneByHand === null) byId("alone").checked = single.length > 0;
  byId("alone-note").textContent = single.length ? `${single.join(" and ")}: tuned on single questions, without earlier turns` : "";
  byId("legend").hidden = !byId("colours").checked;
  byId("talking").textContent = chosen().join(" beside ") || "Chat";
  byId("greeting").textContent = chosen().length ? `Ask ${chosen().join(" and ")} something` : "Ask something";
  const context = about(value("model")).max_model_len;
  byId("facts").textContent = [context ? `it reads up to ${context.toLocaleString("en")} tokens` : "", single.length ? "each question is asked alone" : ""].filter(Boolean).join(" · ");
  draw();
  keep();
}

function openPanel() {
  if (WIDE.matches) return;
  document.body.classList.add("panel-open");
  for (const one of document.querySelectorAll("header, main, footer")) one.inert = true;
  byId("close-panel").focus();
}

function closePanel() {
  document.body.classList.remove("panel-open");
  for (const one of document.querySelectorAll("header, main, footer")) one.inert = false;
}

// -- what this browser keeps, and files

function keep() {
  const settings = Object.fromEntries([...NUMBERS, ...TEXTS].map((id) => [id, value(id)]));
  if (!models.length) Object.assign(settings, { model: remembered.model, beside: remembered.beside });
  talk.system = value("system");
  const whole = { talk, previous, settings: { ...settings, colours: byId("colours").checked, aloneByHand } };
  try {
    localStorage.setItem(STORE, JSON.stringify(whole));
  } catch { // full: without the probabilities it may fit; forbidden: the talk is in this page alone
    try {
      localStorage.setItem(STORE, JSON.stringify(whole, (name, one) => (name === "pieces" || name === "tokenList" ? null : one)));
    } catch (error) {
      console.warn(error);
    }
  }
}

function recall() {
  try {
    const stored = JSON.parse(localStorage.getItem(STORE)) ?? {};
    remembered = stored.settings ?? {};
    for (const id of [...NUMBERS, "stop-text"]) if (isText(remembered[id])) byId(id).value = remembered[id];
    byId("colours").checked = remembered.colours === true;
    aloneByHand = typeof remembered.aloneByHand === "boolean" ? remembered.aloneByHand : null;
    if (aloneByHand !== null) byId("alone").checked = aloneByHand;
    if (stored.talk) open(checkedTurns(stored.talk, newTalk()));
    if (stored.previous) previous = checkedTurns(stored.previous, newTalk());
  } catch (error) {
    console.warn(error);
  }
}

function open(other) {
  if (path(talk).length) previous = talk;
  talk = other;
  editing = null;
  byId("system").value = talk.system;
  draw();
}

function download() {
  talk.system = value("system").trim();
  const address = URL.createObjectURL(new Blob([`${JSON.stringify(exported(talk), null, 2)}\n`], { type: "application/json" }));
  make("a", { href: address, download: `talk-${new Date().toISOString().slice(0, 16).replace(":", "")}.json` }).click();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}

async function upload() {
  const [file] = byId("file").files;
  if (!file) return;
  try {
    open(imported(JSON.parse(await file.text())));
    keep();
    say(`${path(talk).length} turns from ${file.name}.`);
    closePanel();
  } catch (error) {
    say(`${file.name} cannot be read: ${error instanceof SyntaxError ? "it is not JSON" : error.message}.`);
  }
  byId("file").value = "";
}

async function connect() {
  let found;
  try {
    found = (await (await request("v1/models")).json()).data;
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    say(`${error.message}.`.replace(/^./, (letter) => letter.toUpperCase()));
    return;
  }
  models = found;
  const options = () => models.map(({ id }) => make("option", { value: id, textContent: id }));
  byId("model").replaceChildren(...options());
  byId("beside").replaceChildren(make("option", { value: "", textContent: "nothing" }), ...options());
  byId("beside-field").hidden = models.length < 2;
  for (const id of ["model", "beside"]) if (models.some((model) => model.id === remembered[id])) byId(id).value = remembered[id];
  say("");
  settingsChanged();
}

// -- what a person does

byId("ask").addEventListener("submit", (event) => { event.preventDefault(); ask(); });
byId("box").addEventListener("input", readyToSend);
byId("box").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  if (!event.repeat) ask();
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || event.isComposing) return;
  if (running) running.controller.abort();
  else if (editing) endEdit();
  else closePanel();
});
byId("stop").addEventListener("click", () => { running?.controller.abort(); byId("box").focus(); });
byId("cancel-edit").addEventListener("click", endEdit);
byId("new").addEventListener("click", () => {
  const { system } = talk;
  open({ ...newTalk(), system });
  keep();
  say("A new talk.");
  byId("box").focus();
});
byId("bring-back").addEventListener("click", () => { open(previous); keep(); byId("box").focus(); });
byId("export").addEventListener("click", download);
byId("import").addEventListener("click", () => byId("file").click());
byId("file").addEventListener("change", upload);
byId("open-panel").addEventListener("click", openPanel);
byId("close-panel").addEventListener("click", () => { closePanel(); byId("open-panel").focus(); });
byId("key").addEventListener("change", connect);
byId("alone").addEventListener("change", () => { aloneByHand = byId("alone").checked; keep(); });
for (const id of ["model", "beside", "colours", "system", "stop-text", ...NUMBERS]) byId(id).addEventListener("change", settingsChanged);
WIDE.addEventListener("change", closePanel);
window.addEventListener("pagehide", keep);
recall();
connect();
