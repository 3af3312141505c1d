// Talks and answers of the chat page, without a word of how they are shown.
//
// A talk is a tree of turns: {question, system, alone, answers, children, shown}. What was edited or asked again stands
// beside the turn that it came from, so what follows a turn always follows the answers that it was given after.
const FORMAT = 1; // of an exported file
const newTalk = () => ({ system: "", children: [], shown: 0 });
const newTurn = (question, system, alone) => ({ question, system, alone, answers: [], children: [], shown: 0 });
// why: "" while it comes; stop, length, context (it is full), stopped (by the person), lost (no end came), error
const newAnswer = (model) => ({ model, text: "", why: "", error: "", tokens: 0, first: null, seconds: 0, seed: null, pieces: null });

function path(talk) { // the turns that are seen, oldest first
  const turns = [];
  for (let at = talk; at.children.length; turns.push(at)) at = at.children[at.shown];
  return turns;
}

function parentOf(talk, turn) {
  const turns = path(talk);
  return turns[turns.indexOf(turn) - 1] ?? talk;
}

function add(parent, turn) {
  parent.shown = parent.children.push(turn) - 1;
  return turn;
}

// what a model said, or, where it was not asked, another one
function answerOf(turn, model) {
  const own = turn.answers.filter((answer) => answer.model === model);
  return (own.length ? own : turn.answers).find((answer) => answer.text)?.text ?? "";
}

function messagesOf(before, turn, model) { // as the model is asked
  const messages = turn.system ? [{ role: "system", content: turn.system }] : [];
  for (const earlier of turn.alone ? [] : before) {
    const content = answerOf(earlier, model);
    if (content) messages.push({ role: "user", content: earlier.question }, { role: "assistant", content });
  }
  return [...messages, { role: "user", content: turn.question }];
}

// -- files: the turns that are seen as messages, which `ift chat` and other programs read, and the whole tree

function exported(talk) {
  const turns = path(talk).filter((turn) => turn.answers.length && turn.answers.every((answer) => answer.text));
  const models = [...new Set(turns.at(-1)?.answers.map((answer) => answer.model) ?? [""])];
  const [messages, ...others] = models.map((model) => [
    ...(talk.system ? [{ role: "system", content: talk.system }] : []),
    ...turns.flatMap((turn) => [
      { role: "user", content: turn.question }, { role: "assistant", content: answerOf(turn, model) },
    ]),
  ]);
  return { format: FORMAT, models, messages, ...(others.length ? { others } : {}), talk };
}

function imported(value) { // a talk; throws an Error that says what is wrong
  const isMessages = (list) => Array.isArray(list) && list.every((m) => isText(m?.role) && isText(m?.content));
  if (value?.format > FORMAT) throw new Error("a newer release wrote this file");
  if (value?.talk) return checkedTurns(value.talk, newTalk());
  const sides = [value?.messages, ...(Array.isArray(value?.others) ? value.others : [])];
  if (!sides.every(isMessages)) throw new Error('no talk in it (a file that was exported here, or {"messages": [...]})');
  const talk = newTalk();
  talk.system = sides[0].find((message) => message.role === "system")?.content ?? "";
  const said = sides.map((side) => side.filter((message) => message.role !== "system"));
  let at = talk;
  for (let i = 0; i + 1 < said[0].length; i += 2) {
    if (said[0][i].role !== "user" || said[0][i + 1].role !== "assistant") throw new Error("user and assistant do not take turns");
    at = add(at, newTurn(said[0][i].content, talk.system, false));
    at.answers = said.filter((side) => isText(side[i + 1]?.content)).map((side, number) => {
      const name = Array.isArray(value.models) && isText(value.models[number]) ? value.models[number] : `imported ${number + 1}`;
      return { ...newAnswer(name), text: side[i + 1].content, why: "imported" };
    });
  }
  if (at === talk) throw new Error("no question with an answer in it");
  return talk;
}

const isText = (value) => typeof value === "string";
const text = (value) => (isText(value) ? value : "");
const count = (value) => (Number.isFinite(value) ? value : 0);
const orNull = (value) => (Number.isFinite(value) ? value : null);
const list = (value) => (Array.isArray(value) ? value : []);

function checkedTurns(value, into) { // known fields alone: a file may hold anything
  into.system = text(value.system);
  for (const child of list(value.children)) {
    if (!isText(child?.question)) throw new Error("a turn without a question");
    const turn = newTurn(child.question, text(child.system), child.alone === true);
    turn.answers = list(child.answers).slice(0, 2).map((answer) => ({
      model: text(answer?.model), text: text(answer?.text), why: text(answer?.why) || "lost", error: text(answer?.error),
      tokens: count(answer?.tokens), first: orNull(answer?.first), seconds: count(answer?.seconds), seed: orNull(answer?.seed),
      pieces: Array.isArray(answer?.pieces) ? answer.pieces.map(checkedPiece) : null,
    }));
    into.children.push(checkedTurns(child, turn));
  }
  into.shown = Math.min(Math.max(0, Math.trunc(count(value.shown))), Math.max(0, into.children.length - 1));
  return into;
}

function checkedPiece(piece) {
  const share = (value) => Math.min(1, Math.max(0, count(value)));
  return [text(piece?.[0]), share(piece?.[1]), list(piece?.[2]).slice(0, 5).map((other) => [text(other?.[0]), share(other?.[1])])];
}

// -- the stream of an answer

class Problem extends Error {} // its message is for the person

async function* eventsOf(response) { // the JSON of each event; ends at [DONE], else with a Problem
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new Problem("the connection was lost before the answer was whole");
    const lines = (waiting + value).split("\n");
    waiting = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data:")) continue; // comments keep the connection alive
      const data = line.slice(5).trim();
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new Problem(`the server could not go on: ${event.error.message}`);
      yield event;
    }
  }
}

async function refusal(response) { // a reply that is no answer, in plain words
  let error = {};
  try {
    error = (await response.json()).error ?? {};
  } catch { /* a proxy's page, or nothing */ }
  const said = text(error.message) || `status ${response.status}`;
  const seconds = Number(response.headers.get("Retry-After")) || 0;
  const later = seconds ? `try again in ${seconds} s` : "try again soon";
  if (error.code === "context_length_exceeded") {
    return `this is longer than the model can read: ${said}. Shorten it, ask the question alone, or begin a new talk`;
  }
  if (response.status === 401 || response.status === 403) return `the server wants its key: ${said}`;
  if (response.status === 429) return `the server is busy: ${said.replace(/ \(.*\)$/, "")}; ${later}`;
  if (response.status === 503) return `the server takes no questions now: ${said}; ${later}`;
  if (response.status >= 500) return `the server failed: ${said}`;
  return `the server does not take this: ${said}`;
}

// Tokens as pieces of whole characters, each with how probable it was and what else was: [text, probability, [[text,
// probability], ...]]. Tokens that share a character are one piece. Those outside of the answer's own text, as the end
// of a template, are left out; null where the tokens are not those of the text.
function piecesOf(tokens, whole) {
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  const found = [];
  let [part, sum] = [0, 0];
  for (const token of tokens) {
    const shown = token.bytes ? decoder.decode(new Uint8Array(token.bytes), { stream: true }) : token.token;
    [part, sum] = [part + 1, sum + (token.logprob ?? 0)];
    if (!shown) continue;
    const others = part > 1 ? [] : (token.top_logprobs ?? []).filter((other) => other.token !== token.token);
    found.push([shown, Math.exp(sum), others.map((other) => [other.token, Math.exp(other.logprob)])]);
    [part, sum] = [0, 0];
  }
  if (part) found.push([decoder.decode(), Math.exp(sum), []]); // cut within a character
  const start = found.map(([shown]) => shown).join("").indexOf(whole);
  if (start < 0) return null;
  const kept = [];
  let place = -start; // of the piece, in the text
  for (const [shown, ...more] of found) {
    const inside = shown.slice(Math.max(0, -place), Math.max(0, whole.length - place));
    if (inside) kept.push([inside, ...more]);
    place += shown.length;
  }
  return kept;
}
