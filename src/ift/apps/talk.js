"use strict";
// What pages of the local server share: how they talk to it, and that nothing a person gave is lost on the way.
const byId = (id) => document.getElementById(id);
const TOKEN = new URLSearchParams(location.search).get("token") || "";

async function post(path, value) {
  const headers = { "Content-Type": "application/json", "X-Token": TOKEN };
  const response = await fetch(path, { method: "POST", headers, body: JSON.stringify(value) });
  if (!response.ok) throw new Error((await response.text()).trim());
  return response.json();
}

// one request after the other, so that the server has them in the order in which they were given
let queue = Promise.resolve();
let waiting = 0;
function send(path, value, then) {
  waiting += 1;
  saved("saving", "");
  queue = queue.then(async () => {
    const said = await taken(path, value);
    waiting -= 1;
    then(said);
    if (waiting === 0) saved("saved", "good");
  }).catch(reportError);
}

async function taken(path, value) {
  for (;;) {
    try {
      return await post(path, value);
    } catch (error) { // the server was stopped, or the disk is full: what is not saved is sent until it is
      saved(`NOT SAVED, trying again: ${error.message}`, "bad");
      await new Promise((go) => setTimeout(go, 1000));
    }
  }
}

function saved(text, kind) {
  byId("saved").textContent = text;
  byId("saved").className = `chip ${kind}`;
}

window.addEventListener("beforeunload", (event) => { if (waiting) event.preventDefault(); });
