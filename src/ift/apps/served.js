"use strict";
// What the pages of the local server share: requests to it, and that nothing a person gave is lost without a word.
const byId = (id) => document.getElementById(id);
const TOKEN = new URLSearchParams(location.search).get("token") || "";
const PAUSES = [1, 2, 4, 8, 15, 30]; // seconds before each new attempt; after the last one the person decides
const AWAY = 4; // seconds between attempts while there is no server at all: it may come back after an hour

class Refused extends Error {} // a reply by which trying again would change nothing
class Away extends Error {} // no reply

// addresses are relative: behind a proxy the page has a path of its own
async function post(path, value) {
  const headers = { "Content-Type": "application/json", "X-Token": TOKEN };
  let response;
  try {
    response = await fetch(path.slice(1), { method: "POST", headers, body: JSON.stringify(value) });
  } catch {
    throw new Away("no connection to the server (has it ended?)");
  }
  if (response.ok) return response.json();
  if ([502, 503, 504].includes(response.status)) throw new Away(`no connection to the server (status ${response.status})`);
  const isOurs = response.headers.get("Content-Type")?.startsWith("text/plain");
  const problem = (isOurs && (await response.text()).trim()) || `status ${response.status}`;
  throw response.status < 500 ? new Refused(problem) : new Error(problem);
}

// one request after the other, so that the server gets them in the order in which they were given
let queue = Promise.resolve();
let waiting = 0;
let unsaved = () => ""; // a page may say what is not even sent so far
function send(path, value, then) {
  waiting += 1;
  if (byId("again").hidden) showSaved("saving", "");
  queue = queue.then(async () => {
    const reply = await delivered(path, value);
    waiting -= 1;
    then(reply);
    showState();
  }).catch(showMistake);
}

function showState() {
  if (waiting) showSaved("saving", "");
  else showSaved(unsaved() || "saved", unsaved() ? "partly" : "good");
}

async function delivered(path, value) {
  for (let attempt = 0; ; attempt += 1) {
    try {
      return await post(path, value);
    } catch (error) { // the server was stopped, or the disk is full
      if (error instanceof Refused || (attempt >= PAUSES.length && !(error instanceof Away))) {
        showSaved(`NOT SAVED: ${error.message}`, "bad");
        await pressed(byId("again"));
        showSaved("saving", "");
        attempt = -1;
      } else {
        showSaved(`NOT SAVED, trying again: ${error.message}`, "bad");
        const pause = PAUSES[Math.min(attempt, PAUSES.length - 1)];
        await new Promise((go) => setTimeout(go, 1000 * (error instanceof Away ? Math.min(pause, AWAY) : pause)));
      }
    }
  }
}

async function pressed(button) {
  button.hidden = false;
  await new Promise((go) => button.addEventListener("click", go, { once: true }));
  button.hidden = true;
}

function showSaved(text, kind) {
  if (byId("saved").textContent !== text) byId("saved").textContent = text; // a screen reader says each change
  byId("saved").className = `chip ${kind}`;
}

// What a key means on this page: { r: act, 1: act, "/": act }. The letter that the key gives counts, so that every Latin
// layout works by its labels; where a layout has no such letters or digits (Russian, Hebrew, French digits), the place
// of the key counts. Nothing with Ctrl, Alt or Meta, nothing while something is being typed.
function meant(event, keys) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return undefined;
  if (event.target.matches("textarea, select, input:not([type=checkbox])")) return undefined;
  const isLetter = /^[a-z]$/i.test(event.key);
  const key = isLetter ? event.key.toLowerCase() : event.key;
  if (event.shiftKey) return isLetter ? undefined : keys[key]; // a French 1, a German /
  if (keys[key]) return keys[key];
  if (/^[a-z0-9,.;]$/i.test(event.key)) return undefined; // , . ; stand where others have letters (Dvorak)
  return keys[event.code.replace(/^Key|^Digit/, "").toLowerCase()];
}

// a mistake of this page's own script: the person must not go on as if all were well
function showMistake(error) {
  console.error(error);
  byId("mistake").textContent = `This page has made a mistake, load it again: ${error?.message ?? error}`;
  byId("mistake").hidden = false;
}

window.addEventListener("error", (event) => showMistake(event.error ?? event.message));
window.addEventListener("unhandledrejection", (event) => showMistake(event.reason));
window.addEventListener("beforeunload", (event) => { if (waiting || unsaved()) event.preventDefault(); });
// a held Enter or Space would press a button again and again
document.addEventListener("keydown", (event) => {
  if (event.repeat && (event.key === "Enter" || event.key === " ") && event.target.matches("button")) event.preventDefault();
});
