"use strict";
// The page of trainings. It asks for what is new every two seconds while it is in view, and draws what has changed.
const EVERY = 2000; // milliseconds between two requests
const SOON = 30; // while the server is still reading
const MOST = Number(document.body.dataset.most);
const FIRST = 4; // runs that are drawn when a page is opened
const SETTINGS = 8; // columns of the list
const CHARTS = ["train/loss", "val/loss", "lr", "grad_norm", "tokens_per_second"];
const CALLED = { "train/loss": "training loss", "val/loss": "validation loss", lr: "learning rate", grad_norm: "gradient norm", tokens_per_second: "tokens per second" };
const LIVE = ["running", "starting", "answering"];
const SILENT = { silent: "no sign of life" };

const runs = new Map(); // id -> line of the list, with its curves and the elements of its row
const keys = {}; // of the tables and the run that the page has
const tables = { compare: null, columns: null };
const view = { serial: "", version: 0, chosen: [], open: 0, charts: [...CHARTS], sort: ["", 0], answered: false };
const kept = (name) => { try { return JSON.parse(sessionStorage.getItem(name)); } catch { return null; } };
const keep = (name, value) => { try { sessionStorage.setItem(name, JSON.stringify(value)); } catch { /* a browser that keeps nothing */ } };

// -- asking ----------------------------------------------------------------------------------------------------------
let timer = 0;
let asking = false;
let again = false;

function soon(pause = 0) {
  clearTimeout(timer);
  if (asking) again = true;
  else if (!document.hidden) timer = setTimeout(ask, pause);
}

async function ask() {
  asking = true;
  again = false;
  let pause = EVERY;
  try {
    const reply = await post("/news", request());
    byId("link").hidden = true;
    if (reply.serial) {
      take(reply);
      if (reply.behind) pause = SOON;
    }
    byId("reading").textContent = reply.behind ? `reading ${reply.behind.toLocaleString("en")} more` : "";
    view.answered = true;
  } catch (error) {
    const restarted = error instanceof Refused ? ": open the address that the command printed" : "; trying again";
    byId("link").textContent = `not up to date: ${error.message}${restarted}`;
    byId("link").hidden = false;
    if (error instanceof Refused) pause = 10 * EVERY;
  } finally {
    asking = false;
    soon(again ? 0 : pause);
  }
}

function request() {
  const curves = view.chosen.filter((id) => runs.has(id)).map((id) => {
    const { generation = 0, full = 0, changes = 0 } = runs.get(id).curves ?? {};
    return [id, generation, full, changes];
  });
  return {
    serial: view.serial, since: view.version, curves, names: view.charts, open: view.open, keys,
    compare: view.chosen, columns: columnRuns(),
  };
}

document.addEventListener("visibilitychange", () => soon());

function take(reply) {
  if (reply.serial !== view.serial) { // another server: it numbers runs anew
    const names = [...(view.serial ? view.chosen.map((id) => runs.get(id)?.name) : kept("chosen") ?? [])];
    runs.clear();
    byId("runs").tBodies[0].replaceChildren();
    Object.assign(view, { serial: reply.serial, chosen: [], open: 0, wanted: new Set(names) });
    for (const name of Object.keys(keys)) delete keys[name];
    tables.compare = tables.columns = null;
  }
  view.version = reply.version;
  byId("whole").hidden = reply.whole;
  for (const line of reply.runs ?? []) {
    const run = runs.get(line.id) ?? { curves: null, row: null };
    runs.set(line.id, Object.assign(run, line));
    run.changed = true;
  }
  for (const id of reply.gone ?? []) {
    runs.get(id)?.row?.tr.remove();
    runs.delete(id);
    view.chosen = view.chosen.filter((each) => each !== id);
    if (view.open === id) open(0);
  }
  const before = view.chosen.length;
  if (view.wanted && runs.size) chooseFirst();
  for (const [id, fresh] of Object.entries(reply.curves ?? {})) merge(runs.get(Number(id)), fresh);
  for (const name of ["compare", "columns"]) {
    if (reply[name]) {
      tables[name] = reply[name];
      keys[name] = reply[name].key;
    }
  }
  if (reply.runs || reply.gone || reply.columns) drawList();
  if (reply.curves || reply.gone || reply.runs) drawCurves();
  if (reply.compare || reply.gone) drawCompare();
  if (reply.open && reply.open.id === view.open) {
    keys.open = reply.open.key;
    drawDetails(reply.open);
  } else if (reply.runs) drawHead();
  if (view.chosen.length !== before) again = true;
}

// buckets that nothing is added to any more are not sent again
function merge(run, fresh) {
  if (!run) return;
  const old = run.curves;
  const same = old && old.generation === fresh.generation && fresh.since > 0;
  const joined = (before, after) => (same ? [...before.slice(0, fresh.since), ...after] : after);
  const axes = {};
  for (const [name, values] of Object.entries(fresh.axes)) axes[name] = joined(old?.axes[name] ?? [], values);
  const series = {};
  for (const [name, parts] of Object.entries(fresh.series)) {
    series[name] = {};
    for (const [part, values] of Object.entries(parts)) series[name][part] = joined(old?.series[name]?.[part] ?? [], values);
  }
  run.curves = { ...fresh, axes, series };
}

// -- which runs are drawn --------------------------------------------------------------------------------------------
function chooseFirst() {
  const named = [...runs.values()].filter((run) => view.wanted.has(run.name)).map((run) => run.id);
  view.wanted = null;
  const newest = [...runs.values()].filter((run) => run.step > 0 || LIVE.includes(run.state));
  newest.sort((a, b) => LIVE.includes(b.state) - LIVE.includes(a.state) || b.began - a.began);
  view.chosen = (named.length ? named : newest.slice(0, FIRST).map((run) => run.id)).slice(0, MOST);
}

function choose(id, wanted) {
  view.chosen = view.chosen.filter((each) => each !== id);
  if (wanted) view.chosen.push(id);
  if (view.chosen.length > MOST) view.chosen.shift();
  keep("chosen", view.chosen.map((each) => runs.get(each).name));
  if (!wanted) runs.get(id).curves = null;
  if (view.chosen.length < 2) {
    tables.compare = null;
    delete keys.compare;
  }
  drawList();
  drawCurves();
  drawCompare();
  soon();
}

// a run keeps its colour as long as it is drawn
const slots = [];
function colour() {
  for (let i = 0; i < MOST; i += 1) if (!view.chosen.includes(slots[i])) slots[i] = undefined;
  for (const id of view.chosen) if (!slots.includes(id)) slots[slots.findIndex((each, i) => each === undefined && i < MOST)] = id;
  for (const run of runs.values()) {
    const slot = slots.indexOf(run.id);
    run.colour = slot < 0 ? "" : `r${slot % 8}`;
    run.dash = slot < 0 ? "" : DASHES[Math.floor(slot / 8) % DASHES.length];
  }
}
slots.length = MOST;
slots.fill(undefined);

// -- the list --------------------------------------------------------------------------------------------------------
const when = new Intl.DateTimeFormat(undefined, { dateStyle: "short", timeStyle: "short" });
const COLUMNS = [
  { name: "run", value: (run) => run.name, first: 1 },
  { name: "state", value: (run) => run.state, first: 1 },
  { name: "progress", value: (run) => (run.steps ? run.step / run.steps : null), first: -1 },
  { name: "time left", value: (run) => run.left, told: duration, first: 1, number: true },
  { name: "train loss", value: (run) => run.train_loss, told, first: 1, number: true },
  { name: "best val loss", value: (run) => run.val_loss, told, first: 1, number: true },
  { name: "at step", value: (run) => run.best_step, told, first: -1, number: true, wide: true },
  { name: "test loss", value: (run) => run.test_loss, told, first: 1, number: true },
  { name: "exact match", value: (run) => run.exact_match, told: (v) => (v === null ? "–" : `${(100 * v).toFixed(1)} %`), first: -1, number: true, wide: true },
  { name: "tokens/s", value: (run) => run.speed, told, first: -1, number: true },
  { name: "trained for", value: (run) => run.took, told: duration, first: -1, number: true, wide: true },
  { name: "began", value: (run) => run.began || null, told: (v) => (v ? when.format(1000 * v) : "–"), first: -1, number: true, wide: true },
];

function columns() {
  const settings = (tables.columns?.rows ?? []).slice(0, SETTINGS).map(([key, values]) => {
    const of = new Map(tables.columns.ids.map((id, i) => [id, values[i]]));
    const numbers = values.every((each) => each === "–" || each === "null" || Number.isFinite(Number(each)));
    const value = (run) => {
      const text = of.get(run.id);
      return text === undefined || text === "–" || text === "null" ? null : numbers ? Number(text) : text;
    };
    return { name: key, value, told: (_, run) => of.get(run.id) ?? "–", first: 1, number: numbers, setting: true };
  });
  return [...COLUMNS, ...settings];
}

function columnRuns() {
  const shown = [...runs.values()].filter((run) => !byId("place").value || run.place === byId("place").value);
  const places = new Set([...runs.values()].map((run) => run.place));
  return byId("place").value || places.size === 1 ? shown.map((run) => run.id).sort((a, b) => a - b) : [];
}

function drawList() {
  colour();
  drawChoices();
  const shown = columns();
  const head = byId("runs").tHead.rows[0];
  const names = ["", ...shown.map((column) => column.name)];
  if ([...head.cells].map((cell) => cell.dataset.name).join("\n") !== names.join("\n")) {
    head.replaceChildren(...names.map((name, i) => {
      const { number, wide } = shown[i - 1] ?? {};
      const th = element("th", { scope: "col", className: [number ? "n" : "", wide ? "wide" : "", i ? "" : "choose"].join(" ") });
      th.dataset.name = name;
      if (i) th.append(element("button", { textContent: name, onclick: () => sortBy(name) }));
      else th.append(element("span", { textContent: "drawn", className: "note" }));
      return th;
    }));
    for (const run of runs.values()) run.changed = true;
  }
  const [by, sign] = view.sort;
  for (const th of head.cells) {
    if (th.dataset.name) th.setAttribute("aria-sort", th.dataset.name !== by ? "none" : sign > 0 ? "ascending" : "descending");
  }
  for (const run of runs.values()) drawRow(run, shown);
  const rows = sorted(shown);
  const body = byId("runs").tBodies[0];
  if (rows.length !== body.rows.length || rows.some((run, i) => body.rows[i] !== run.row.tr)) {
    const focus = document.activeElement;
    body.replaceChildren(...rows.map((run) => run.row.tr));
    if (body.contains(focus)) focus.focus({ preventScroll: true });
  }
  byId("none").hidden = runs.size > 0;
  const count = {};
  for (const run of runs.values()) count[run.state] = (count[run.state] ?? 0) + 1;
  const order = ["running", "starting", "answering", "finished", "stopped", "failed", "silent"];
  const parts = order.filter((state) => count[state]).map((state) => `${count[state]} ${SILENT[state] ?? state}`);
  const summary = parts.join(" · ") || "no runs so far";
  if (byId("summary").textContent !== summary) byId("summary").textContent = summary; // a screen reader says each change
  document.title = count.running ? `${count.running} running · Trainings · ift` : "Trainings · ift";
}

function drawChoices() {
  const fill = (select, first, values, words = (value) => value) => {
    const options = values.map((value) => element("option", { value, textContent: words(value) }));
    const same = select.options.length === values.length + 1 && values.every((value, i) => select.options[i + 1].textContent === words(value));
    if (same) return;
    const { value } = select;
    select.replaceChildren(element("option", { value: "", textContent: first }), ...options);
    select.value = values.includes(value) ? value : "";
  };
  const count = new Map();
  for (const run of runs.values()) count.set(run.place, (count.get(run.place) ?? 0) + 1);
  const places = [...count.keys()].filter(Boolean).sort();
  fill(byId("place"), "every folder", places, (value) => `${value} (${count.get(value)})`);
  byId("place").hidden = count.size < 2;
  fill(byId("kind"), "every state", [...new Set([...runs.values()].map((run) => run.state))].sort(), (value) => SILENT[value] ?? value);
}

function sorted(shown) {
  const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const rows = [...runs.values()].filter((run) => {
    if (byId("place").value && run.place !== byId("place").value) return false;
    if (byId("kind").value && run.state !== byId("kind").value) return false;
    const text = `${run.name} ${SILENT[run.state] ?? run.state} ${run.why}`.toLowerCase();
    return words.every((word) => text.includes(word));
  });
  const [by, sign] = view.sort;
  const column = shown.find((each) => each.name === by);
  const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), undefined, { numeric: true }));
  return rows.sort((a, b) => {
    if (!column) return LIVE.includes(b.state) - LIVE.includes(a.state) || b.began - a.began || b.id - a.id;
    const [x, y] = [column.value(a), column.value(b)];
    return (x === null) - (y === null) || (x === null ? 0 : sign * compare(x, y)) || b.began - a.began || b.id - a.id;
  });
}

// a press on a column's name sorts by it, best first; the next press turns it round
function sortBy(name) {
  const column = columns().find((each) => each.name === name);
  view.sort = view.sort[0] === name ? [name, -view.sort[1]] : [name, column.first];
  drawList();
}

function drawRow(run, shown) {
  const drawn = view.chosen.includes(run.id);
  if (!run.row) {
    const box = element("input", { type: "checkbox", onchange: () => choose(run.id, box.checked) });
    const name = element("button", { className: "open name", onclick: () => open(view.open === run.id ? 0 : run.id) });
    run.row = { tr: element("tr"), box, name };
    run.changed = true;
  }
  const { tr, box, name } = run.row;
  tr.className = `${run.state} ${run.colour}`;
  box.checked = drawn;
  name.setAttribute("aria-pressed", String(view.open === run.id));
  if (!run.changed) return;
  run.changed = false;
  box.setAttribute("aria-label", `draw ${run.name}`);
  name.textContent = run.name;
  const cells = shown.map((column) => {
    if (column.name === "run") return element("th", { scope: "row" }, name);
    const value = column.value(run);
    const td = element("td", { className: [column.number ? "n" : "", column.wide ? "wide" : "", column.setting ? "set" : ""].join(" ") });
    if (column.name === "state") {
      td.append(element("span", { className: `chip ${run.state}`, textContent: SILENT[run.state] ?? run.state }));
      if (run.why && run.state !== "running") td.append(element("div", { className: "why", textContent: run.why }));
    } else if (column.name === "progress") {
      if (run.steps) td.append(element("progress", { max: run.steps, value: run.step, "aria-label": `progress of ${run.name}` }));
      td.append(element("span", { className: "steps", textContent: run.steps ? `${run.step.toLocaleString("en")} of ${run.steps.toLocaleString("en")}` : run.step ? `${run.step.toLocaleString("en")} steps` : "" }));
    } else td.textContent = column.told(value, run);
    return td;
  });
  const focus = document.activeElement;
  tr.replaceChildren(element("td", { className: "choose" }, box), ...cells);
  if (tr.contains(focus)) focus.focus({ preventScroll: true });
}

for (const id of ["search", "place", "kind"]) {
  byId(id).addEventListener("input", () => {
    if (id === "place") {
      tables.columns = null;
      delete keys.columns;
      soon();
    }
    drawList();
  });
}

// -- curves ----------------------------------------------------------------------------------------------------------
const figures = new Map(); // name of a number -> its figure

function drawCurves() {
  colour();
  const chosen = view.chosen.map((id) => runs.get(id)).filter(Boolean);
  byId("drawn").hidden = !runs.size;
  byId("legend").replaceChildren(...chosen.map((run) => {
    const mark = shape("svg", { viewBox: "0 0 26 8", "aria-hidden": "true" }, shape("line", { x1: 0, x2: 26, y1: 4, y2: 4, "stroke-dasharray": run.dash }));
    const away = element("button", { textContent: "×", "aria-label": `draw ${run.name} no more`, onclick: () => choose(run.id, false) });
    return element("li", { className: `${run.colour} name` }, mark, run.name, away);
  }));
  const names = [...new Set(chosen.flatMap((run) => run.names))].filter((name) => !view.charts.includes(name)).sort();
  const options = [...byId("more").options].slice(1).map((option) => option.value);
  if (options.join("\n") !== names.join("\n")) {
    byId("more").replaceChildren(byId("more").options[0], ...names.map((name) => element("option", { value: name, textContent: name })));
  }
  byId("more").disabled = !names.length;
  const axis = byId("axis").value;
  const how = { axis, smoothing: Number(byId("smooth").value), log: byId("log").checked };
  for (const [name, figure] of figures) {
    if (!view.charts.includes(name)) {
      figure.root.remove();
      figures.delete(name);
    }
  }
  for (const name of view.charts) {
    const figure = figures.get(name) ?? newFigure(name);
    const called = CALLED[name] ?? name;
    figure.drawn = drawChart(figure.svg, `${called} over ${AXES[axis].name}: arrow keys read the values, the numbers stand below`, chosen, name, how);
    figure.svg.toggleAttribute("hidden", !figure.drawn);
    figure.nothing.hidden = Boolean(figure.drawn);
    figure.nothing.textContent = chosen.length ? "none of these runs has it so far" : "no run is drawn: choose some in the list";
    figure.numbers.hidden = !figure.drawn;
    if (!figure.drawn) figure.reading.hidden = true;
    else if (figure.at !== null) read(figure, figure.at);
    drawNumbers(figure);
  }
}

function newFigure(name) {
  const called = CALLED[name] ?? name;
  const svg = shape("svg", { class: "plot", role: "img", tabindex: "0", focusable: "true" });
  const reading = element("div", { className: "reading", role: "status", hidden: true });
  const nothing = element("p", { className: "nothing", hidden: true });
  const table = element("table");
  const numbers = element("details", { ontoggle: () => drawNumbers(figures.get(name)) }, element("summary", { textContent: `numbers of ${called}` }),
    element("div", { className: "scroll", role: "region", tabIndex: 0, "aria-label": `numbers of ${called}` }, table));
  const head = element("div", { className: "head" }, element("h3", { textContent: called, className: "name" }));
  if (!CHARTS.includes(name)) head.append(element("button", { className: "remove", textContent: "×", "aria-label": `draw ${called} no more`, onclick: () => show(name, false) }));
  const root = element("figure", { className: "card" }, head, svg, nothing, reading, numbers);
  const figure = { name, root, svg, reading, nothing, table, numbers, drawn: null, at: null };
  figures.set(name, figure);
  byId("charts").append(root);
  const place = (event) => {
    if (!figure.drawn) return;
    const box = svg.getBoundingClientRect();
    const { left, right } = figure.drawn;
    const inner = box.width - EDGE.left - EDGE.right;
    const share = Math.min(1, Math.max(0, (event.clientX - box.left - EDGE.left) / inner));
    read(figure, left + share * (right - left));
  };
  svg.addEventListener("pointermove", place);
  svg.addEventListener("pointerdown", place);
  svg.addEventListener("pointerleave", () => read(figure, null));
  svg.addEventListener("blur", () => read(figure, null));
  svg.addEventListener("keydown", (event) => {
    if (!figure.drawn || event.ctrlKey || event.altKey || event.metaKey) return;
    const points = figure.drawn.lines[0].points;
    const now = figure.at === null ? -1 : points.indexOf(nearest(points, figure.at));
    const next = { ArrowRight: now + 1, ArrowLeft: now < 0 ? points.length - 1 : now - 1, Home: 0, End: points.length - 1, PageDown: now + 20, PageUp: now - 20 }[event.key];
    if (event.key === "Escape") read(figure, null);
    if (next === undefined) return;
    event.preventDefault();
    read(figure, points[Math.min(points.length - 1, Math.max(0, next))].x);
  });
  return figure;
}

// what each curve is at a place of the axis
function read(figure, at) {
  figure.at = at;
  figure.svg.querySelector(".cursor")?.remove();
  figure.reading.hidden = at === null;
  if (at === null) return;
  const { lines, x, left, right, height } = figure.drawn;
  const points = lines.map((line) => nearest(line.points, at));
  const spot = nearest(lines[0].points, at).x;
  figure.svg.append(shape("line", { class: "cursor", x1: x(spot), x2: x(spot), y1: EDGE.top, y2: height - EDGE.bottom }));
  const axis = byId("axis").value;
  figure.reading.className = `reading ${(spot - left) / (right - left) > 0.5 ? "left" : "right"}`;
  const entries = lines.map((line, i) => ({ line, point: points[i] })).sort((a, b) => b.point.y - a.point.y).slice(0, 10);
  figure.reading.replaceChildren(
    element("div", { className: "soft", textContent: `${AXES[axis].name} ${AXES[axis].told(spot)}` }),
    ...entries.map(({ line, point }) => {
      const wide = point.high > point.low ? ` (${told(point.low)} to ${told(point.high)})` : "";
      return element("div", { className: line.run.colour }, element("i", { className: "swatch" }), element("span", { className: "name", textContent: line.run.name }), element("b", { textContent: told(point.y) + wide }));
    }),
  );
}

// the same as a table: for who cannot see the drawing, and for who wants the numbers
function drawNumbers(figure) {
  if (!figure?.numbers.open || !figure.drawn) return;
  const { lines, left, right } = figure.drawn;
  const axis = byId("axis").value;
  const of = (words, value) => element("tr", {}, element("th", { scope: "row", textContent: words }), ...lines.map((line) => element("td", { textContent: value(line.points) })));
  const head = element("tr", {}, element("th", { scope: "col", textContent: AXES[axis].name }), ...lines.map((line) => element("th", { scope: "col", className: "name", textContent: line.run.name })));
  const by = (order) => (points) => {
    const best = points.reduce((a, b) => (order(b, a) ? b : a));
    return [best, order(best, best)];
  };
  const least = (points) => by((a, b) => a.low < b.low)(points)[0];
  const most = (points) => by((a, b) => a.high > b.high)(points)[0];
  const places = ticks(left, right, 12).filter((each) => each >= left && each <= right);
  figure.table.replaceChildren(
    element("thead", {}, head),
    element("tbody", {},
      of("last", (points) => told(points.at(-1).raw)),
      of("least", (points) => `${told(least(points).low)} at ${AXES[axis].told(least(points).x)}`),
      of("largest", (points) => `${told(most(points).high)} at ${AXES[axis].told(most(points).x)}`),
      ...places.map((place) => of(AXES[axis].told(place), (points) => (place < points[0].x || place > points.at(-1).x ? "–" : told(nearest(points, place).raw)))),
    ),
  );
}

function show(name, wanted) {
  view.charts = view.charts.filter((each) => each !== name);
  if (wanted) view.charts.push(name);
  for (const run of runs.values()) run.curves = null; // another choice of numbers: they come whole
  drawCurves();
  soon();
}

for (const id of ["axis", "smooth", "log"]) byId(id).addEventListener("input", drawCurves);
byId("more").addEventListener("input", () => {
  if (byId("more").value) show(byId("more").value, true);
  byId("more").value = "";
});
let width = 0;
new ResizeObserver(() => {
  if (byId("charts").clientWidth !== width) drawCurves();
  width = byId("charts").clientWidth;
}).observe(byId("charts"));

// -- settings, and one run whole -------------------------------------------------------------------------------------
function drawCompare() {
  const table = view.chosen.length > 1 ? tables.compare : null;
  byId("compare").hidden = !table?.rows.length;
  if (!table) return;
  const [head, body] = [byId("compare").querySelector("thead tr"), byId("compare").querySelector("tbody")];
  const ids = table.ids.filter((id) => runs.has(id));
  head.replaceChildren(element("th", { scope: "col", textContent: "setting" }), ...ids.map((id) => element("th", { scope: "col", className: `name ${runs.get(id).colour}` }, element("i", { className: "swatch" }), runs.get(id).name)));
  body.replaceChildren(...table.rows.map(([key, values]) => element("tr", {}, element("th", { scope: "row", textContent: key }),
    ...table.ids.map((id, i) => [id, values[i]]).filter(([id]) => runs.has(id)).map(([, value]) => element("td", { textContent: value })))));
  byId("compare-more").textContent = table.more ? `and ${table.more} more` : "";
}

function open(id) {
  view.open = id;
  delete keys.open;
  byId("details").hidden = true;
  drawList();
  if (id) soon();
}

function drawHead() {
  const run = runs.get(view.open);
  if (!run) return;
  byId("details-title").textContent = run.name;
  byId("details-why").textContent = `${SILENT[run.state] ?? run.state}${run.why ? `: ${run.why}` : ""}`;
}

function drawDetails(details) {
  const fresh = byId("details").hidden;
  byId("details").hidden = false;
  drawHead();
  const run = runs.get(view.open);
  byId("problems").replaceChildren(...[...new Set([...run.problems, ...details.problems])].map((textContent) => element("li", { textContent })));
  byId("facts").replaceChildren(...details.facts.map(([name, value]) => element("div", { className: "card tile" }, element("b", { textContent: value }), element("span", { textContent: name }))));
  byId("answers").hidden = !details.samples.length;
  const chosen = byId("question").value;
  byId("question").replaceChildren(...details.samples.map((each, i) => element("option", { value: String(i), textContent: `${each.instruction} ${each.input}`.trim().slice(0, 90) })));
  byId("question").value = Number(chosen) < details.samples.length && chosen !== "" ? chosen : "0";
  view.samples = details.samples;
  drawAnswers();
  byId("data").hidden = !details.data.length;
  byId("report").textContent = details.data.join("\n");
  if (fresh) {
    byId("details-title").focus({ preventScroll: true });
    byId("details").scrollIntoView({ block: "start" });
  }
}

function drawAnswers() {
  const sample = view.samples?.[Number(byId("question").value)];
  if (!sample) return;
  byId("asked").textContent = [sample.instruction, sample.input].filter(Boolean).join("\n");
  byId("reference").textContent = sample.reference || "none";
  byId("moments").replaceChildren(...[...sample.answers].reverse().map((answer) => {
    const loss = answer.loss === null ? "" : `, reference loss ${told(answer.loss)}`;
    const text = element("div", { className: "text", dir: "auto", textContent: answer.response });
    if (!answer.response) text.replaceChildren(element("span", { className: "soft", textContent: "(empty)" }));
    return element("li", {}, element("div", { className: "when", textContent: `step ${answer.step.toLocaleString("en")}${loss}` }), text);
  }));
  byId("left-out").textContent = sample.left_out ? `${sample.left_out} more between these` : "";
}

byId("question").addEventListener("input", drawAnswers);
byId("close").addEventListener("click", () => {
  const name = runs.get(view.open)?.row.name;
  open(0);
  name?.focus();
});

soon();
