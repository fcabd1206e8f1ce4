// Elements and words. Recorded text reaches the page through `make` and `fill` only: as text nodes.

const $ = (id) => document.getElementById(id);

function fill(element, ...children) {
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined) element.append(child instanceof Node ? child : String(child));
  }
  return element;
}

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "onclick") element.addEventListener("click", value);
    else if (value !== false && value !== null) element.setAttribute(name, value === true ? "" : value);
  }
  return fill(element, ...children);
}

function plural(number, word) {
  return `${number.toLocaleString("en")} ${word}${number === 1 ? "" : "s"}`;
}

function duration(ms) {
  if (!Number.isFinite(ms)) return "-";
  const length = Math.max(0, ms);
  if (length === 0) return "0 ms";
  if (length < 0.01) return "< 0.01 ms";
  if (length < 9.995) return `${length.toFixed(length < 0.995 ? 2 : 1)} ms`;
  if (length < 999.5) return `${length.toFixed(0)} ms`;
  if (length < 59950) return `${(length / 1000).toFixed(1)} s`;
  const seconds = Math.round(length / 1000);
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
  return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
}

const two = (number) => String(number).padStart(2, "0");

function day(time) {
  return `${time.getFullYear()}-${two(time.getMonth() + 1)}-${two(time.getDate())}`;
}

function clock(time) {
  return `${two(time.getHours())}:${two(time.getMinutes())}:${two(time.getSeconds())}`;
}

function zone(time) {
  const minutes = -time.getTimezoneOffset();
  const hours = `${two(Math.floor(Math.abs(minutes) / 60))}:${two(Math.abs(minutes) % 60)}`;
  return minutes === 0 ? "UTC" : `UTC${minutes < 0 ? "-" : "+"}${hours}`;
}

// `ms` since the epoch, in the reader's time zone.
function moment(ms) {
  if (!Number.isFinite(ms)) return "-";
  const time = new Date(ms);
  return `${day(time)} ${clock(time)} ${zone(time)}`;
}

// Names of states never stand alone as colours: each has a sign and its word.
const SIGNS = {
  completed: "\u2713", cached: "\u25c6", failed: "\u2715", blocked: "\u25a1", crashed: "\u2620\ufe0e", cancelled: "\u2298",
  running: "\u25b6\ufe0e", waiting: "\u2026", retry: "\u21bb", inputs: "\u2026", slot: "\u2026",
};

function badge(kind, text) {
  return make("span", { class: `badge s-${kind}` }, `${SIGNS[kind] || ""} `, make("span", { class: "text" }, text));
}
