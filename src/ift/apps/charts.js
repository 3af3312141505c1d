"use strict";
// Curves of several runs over each other, as SVG: the drawing alone. Every text is a text node; every number comes as a
// number, null where there is none.
const SVG = "http://www.w3.org/2000/svg";
const DASHES = ["", "7 3", "2 3", "9 3 2 3"]; // eight colours and four of these: as many runs as are drawn
const EDGE = { left: 56, right: 12, top: 8, bottom: 22 };

function shape(kind, attributes, ...children) {
  const made = document.createElementNS(SVG, kind);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function element(kind, attributes = {}, ...children) {
  const made = document.createElement(kind);
  for (const [name, value] of Object.entries(attributes)) {
    if (name in made && name !== "role") made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

// a number as a person reads it: four digits, no more
function told(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e7)) return value.toExponential(2).replace(".00e", "e").replace(/(\.\d)0e/, "$1e");
  return size >= 1000 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(4)));
}

function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  const whole = Math.round(seconds);
  if (whole < 100) return `${seconds < 10 && seconds % 1 ? seconds.toFixed(1) : whole} s`;
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor((whole % 3600) / 60)];
  if (hours >= 48) return `${(whole / 86400).toFixed(1)} days`;
  return hours ? `${hours} h ${minutes} min` : `${minutes} min ${whole % 60} s`;
}

const AXES = {
  step: { name: "steps", told: (value) => Math.round(value).toLocaleString("en") },
  tokens: { name: "tokens", told: (value) => (value >= 1e6 ? `${told(value / 1e6)} M` : value >= 1e4 ? `${told(value / 1e3)} k` : told(value)) },
  seconds: { name: "time of training", told: duration },
};

// round numbers from low to high, about so many
function ticks(low, high, most) {
  if (!(high > low)) return [low];
  const power = 10 ** Math.floor(Math.log10((high - low) / most));
  const step = [1, 2, 5, 10, 20].map((each) => each * power).find((each) => (high - low) / each <= most);
  const found = [];
  for (let k = Math.ceil(low / step); k * step <= high * (1 + 1e-12); k += 1) found.push(Number((k * step).toPrecision(12)));
  return found;
}

function logTicks(low, high) {
  const steps = high / low < 1e3 ? [1, 2, 5] : [1];
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += 1) {
    for (const step of steps) found.push(Number(`${step}e${power}`));
  }
  const inside = found.filter((each) => each >= low && each <= high);
  const every = Math.ceil(inside.length / 7);
  return inside.length > 1 ? inside.filter((_, i) => i % every === 0) : ticks(low, high, 4);
}

// points of one run's curve: where it has a value, smoothed by an exponential mean that knows how little it began with
function pointsOf(curves, name, axis, smoothing, log) {
  const series = curves.series[name];
  const points = [];
  if (!series) return points;
  let mean = 0;
  let weight = 0;
  series.mean.forEach((value, i) => {
    const x = curves.axes[axis][i];
    if (value === null || x === null || (log && value <= 0)) return;
    mean = mean * smoothing + value * (1 - smoothing);
    weight = weight * smoothing + (1 - smoothing);
    const low = series.low?.[i] ?? value;
    points.push({ x, raw: value, y: smoothing ? mean / weight : value, low: log && low <= 0 ? value : low, high: series.high?.[i] ?? value });
  });
  return points;
}

// The drawing of one number: { svg, lines, x, axis } where lines are { run, points } and x places a value of the axis.
function drawChart(svg, label, runs, name, { axis, smoothing, log }) {
  const width = svg.clientWidth || 460;
  const height = svg.clientHeight || 220;
  const lines = runs
    .map((run) => ({ run, points: run.curves ? pointsOf(run.curves, name, axis, smoothing, log) : [] }))
    .filter((line) => line.points.length);
  svg.replaceChildren();
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("aria-label", label);
  if (!lines.length) return null;
  const every = lines.flatMap((line) => line.points);
  const range = (values) => values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);
  let [left, right] = range(every.map((point) => point.x));
  if (left === right) [left, right] = [left - (left ? Math.abs(left) * 0.05 : 0.5), right + (right ? Math.abs(right) * 0.05 : 0.5)];
  else if (left > 0 && left < right / 4) left = 0;
  const scale = log ? Math.log : (value) => value;
  let [bottom, top] = [range(every.map((point) => point.low))[0], range(every.map((point) => point.high))[1]];
  if (log) [bottom, top] = [bottom / 1.1, top * 1.1];
  else {
    const room = (top - bottom) * 0.06 || Math.abs(top) * 0.1 || 1;
    const zero = bottom >= 0 && bottom < top / 2;
    [bottom, top] = [zero ? 0 : bottom - room, top + room];
  }
  const inner = { width: width - EDGE.left - EDGE.right, height: height - EDGE.top - EDGE.bottom };
  const x = (value) => EDGE.left + ((value - left) / (right - left)) * inner.width;
  const y = (value) => EDGE.top + ((scale(top) - scale(value)) / (scale(top) - scale(bottom))) * inner.height;
  for (const tick of log ? logTicks(bottom, top) : ticks(bottom, top, 5)) {
    svg.append(shape("line", { class: "grid", x1: EDGE.left, x2: width - EDGE.right, y1: y(tick), y2: y(tick) }));
    svg.append(shape("text", { x: EDGE.left - 7, y: y(tick) + 4, "text-anchor": "end" }, told(tick)));
  }
  const places = ticks(left, right, Math.max(2, Math.floor(inner.width / 70)));
  for (const tick of places) {
    const anchor = x(tick) > width - 30 ? "end" : "middle";
    svg.append(shape("text", { x: x(tick), y: height - 6, "text-anchor": anchor }, AXES[axis].told(tick)));
  }
  const path = (points, value) => points.map((point, i) => `${i ? "L" : "M"}${x(point.x).toFixed(1)} ${y(value(point)).toFixed(1)}`).join("");
  for (const { run, points } of lines) {
    const group = shape("g", { class: run.colour });
    if (points.some((point) => point.low !== point.high)) {
      const back = path([...points].reverse(), (point) => point.low).replace("M", "L");
      group.append(shape("path", { class: "band", d: `${path(points, (point) => point.high)}${back}Z` }));
    }
    if (smoothing) group.append(shape("path", { class: "raw", d: path(points, (point) => point.raw) }));
    group.append(shape("path", { d: path(points, (point) => point.y), "stroke-dasharray": run.dash }));
    if (points.length <= 40) for (const point of points) group.append(shape("circle", { cx: x(point.x).toFixed(1), cy: y(point.y).toFixed(1), r: 2.4 }));
    svg.append(group);
  }
  return { lines, x, left, right, height };
}

function nearest(points, at) {
  let [low, high] = [0, points.length - 1];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (points[middle].x < at) low = middle + 1;
    else high = middle;
  }
  return low > 0 && at - points[low - 1].x < points[low].x - at ? points[low - 1] : points[low];
}
