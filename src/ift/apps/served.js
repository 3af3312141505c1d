"use strict";
// What the pages of the local server share: requests to it, and that nothing a person gave is lost without a word.
const byId = (id) => document.getElementById(id);
const TOKEN = new URLSearchParams(location.search).get("token") || "";
const PAUSES = [1, 2, 4, 8, 15, 30]; // seconds before each new attempt; after the last one the person decides

class Refused extends Error {} // a reply by which trying again would change nothing

async function post(path, value) {
  const headers = { "Content-Type": "application/json", "X-Token": TOKEN };
  const response = await fetch(path, { method: "POST", headers, body: JSON.stringify(value) });
  if (response.ok) return response.json();
  const problem = (await response.text()).trim() || `status ${response.status}`;
  throw response.status < 500 ? new Refused(problem) : new Error(problem);
}

// one request after the other, so that the server gets them in the order in which they were given
let queue = Promise.resolve();
let waiting = 0;
function send(path, value, then) {
  waiting += 1;
  if (byId("again").hidden) showSaved("saving", "");
  queue = queue.then(async () => {
    const reply = await delivered(path, value);
    waiting -= 1;
    showSaved(waiting ? "saving" : "saved", waiting ? "" : "good");
    then(reply);
  }).catch(showMistake);
}

async function delivered(path, value) {
  for (let attempt = 0; ; attempt += 1) {
    try {
      return await post(path, value);
    } catch (error) { // the server was stopped, or the disk is full
      if (error instanceof Refused || attempt >= PAUSES.length) {
        showSaved(`NOT SAVED: ${error.message}`, "bad");
        await pressed(byId("again"));
        showSaved("saving", "");
        attempt = -1;
      } else {
        showSaved(`NOT SAVED, trying again: ${error.message}`, "bad");
        await new Promise((go) => setTimeout(go, 1000 * PAUSES[attempt]));
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
  byId("saved").textContent = text;
  byId("saved").className = `chip ${kind}`;
}

// a mistake of this page's own script: the person must not go on as if all were well
function showMistake(error) {
  console.error(error);
  byId("mistake").textContent = `This page has made a mistake, load it again: ${error?.message ?? error}`;
  byId("mistake").hidden = false;
}

window.addEventListener("error", (event) => showMistake(event.error ?? event.message));
window.addEventListener("unhandledrejection", (event) => showMistake(event.reason));
window.addEventListener("beforeunload", (event) => { if (waiting) event.preventDefault(); });
