// The timeline: an overview of the whole run above one lane for each run that is shown. Drawn on canvases, of which only
// what can be seen; the table of tasks says the same in words.

const LANE = matchMedia("(pointer: coarse)").matches ? 28 : 20;
const SHAPES = ["completed", "running", "failed", "crashed", "cancelled", "cached", "blocked", "retry", "slot", "inputs"];
const WORDS = {
  completed: "ran and completed", running: "is running", failed: "ran and failed", crashed: "crashed", cancelled: "cancelled",
  cached: "cached: found its result", blocked: "not started: an input failed", retry: "waits to try again",
  slot: "waits to be started", inputs: "waits for its inputs",
};

const lanes = { scroller: $("lanes"), canvas: $("lanes").querySelector("canvas"), spacer: $("lanes").querySelector(".spacer") };
const range = { from: 0, to: END };
const paint = {};

// `light-dark` in a custom property has no value of its own: ask an element that uses it.
function readPaint() {
  for (const probe of document.querySelectorAll("#legend li")) paint[probe.dataset.kind] = getComputedStyle(probe).color;
  const style = getComputedStyle(document.body);
  Object.assign(paint, { text: style.color, page: style.backgroundColor });
  paint.soft = getComputedStyle($("window")).color;
  paint.line = getComputedStyle($("top").nextElementSibling).borderBottomColor;
  paint.font = style.fontFamily;
}

function fitted(canvas, height) {
  const width = canvas.parentElement.clientWidth;
  const scale = devicePixelRatio || 1;
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  canvas.style.height = `${height}px`;
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale);
  pen.clearRect(0, 0, width, height);
  return [pen, width];
}

// Lines from corner to corner: `lean` 1 to the right, -1 to the left.
function hatched(pen, x, y, width, height, lean) {
  pen.save();
  pen.beginPath();
  pen.rect(x, y, width, height);
  pen.clip();
  pen.beginPath();
  for (let at = x - height; at < x + width + height; at += 6) {
    pen.moveTo(at, y + height);
    pen.lineTo(at + lean * height, y);
  }
  pen.strokeStyle = paint.page;
  pen.lineWidth = 1.4;
  pen.stroke();
  pen.restore();
}

function diamond(pen, x, y, size) {
  pen.beginPath();
  pen.moveTo(x, y - size);
  pen.lineTo(x + size, y);
  pen.lineTo(x, y + size);
  pen.lineTo(x - size, y);
  pen.closePath();
  pen.fill();
}

function line(pen, x, y, width, thickness, dash) {
  pen.beginPath();
  pen.setLineDash(dash);
  pen.lineWidth = thickness;
  pen.moveTo(x, y);
  pen.lineTo(x + width, y);
  pen.stroke();
  pen.setLineDash([]);
}

// One segment. What ran is a bar, what waited a line; each kind differs by its shape, too.
function drawSegment(pen, kind, x, y, width, height, slim) {
  pen.fillStyle = pen.strokeStyle = paint[kind] || paint.waiting;
  const middle = y + height / 2;
  if (kind === "inputs") line(pen, x, middle, width, 1, [1, 3]);
  else if (kind === "slot" || kind === "waiting") line(pen, x, middle, width, 2, []);
  else if (kind === "retry") line(pen, x, middle, width, 2, [5, 3]);
  else if (kind === "cached" && width < 1) diamond(pen, x, middle, Math.min(5, height / 2));
  else if (width < 1 && kind === "blocked") pen.strokeRect(x - 3.5, middle - 3.5, 7, 7);
  else drawBar(pen, kind, x, slim ? middle - 2 : y, Math.max(width, 2), slim ? 4 : height);
}

function drawBar(pen, kind, x, y, width, height) {
  pen.fillRect(x, y, width, height);
  if (kind === "failed") hatched(pen, x, y, width, height, 1);
  if (kind === "crashed") hatched(pen, x, y, width, height, -1);
  if (kind === "cancelled") pen.clearRect(x + 1, y + height / 2 - 1, Math.max(0, width - 2), 2);
  if (kind === "running") {
    pen.beginPath();
    pen.moveTo(x + width, y);
    pen.lineTo(x + width + 5, y + height / 2);
    pen.lineTo(x + width, y + height);
    pen.fill();
  }
}

function legend() {
  const seen = new Set();
  for (let run = 0; run < COUNT; run++) for (const [kind] of segments(run)) seen.add(kind);
  for (const kind of SHAPES.filter((one) => seen.has(one))) {
    const canvas = make("canvas", { "aria-hidden": "true" });
    canvas.style.width = "26px";
    const item = make("li", { class: `s-${kind}`, "data-kind": kind }, canvas, make("span", {}, WORDS[kind]));
    $("legend").append(item);
  }
}

function drawLegend() {
  for (const item of document.querySelectorAll("#legend li")) {
    const canvas = item.querySelector("canvas");
    const scale = devicePixelRatio || 1;
    canvas.width = 26 * scale;
    canvas.height = 12 * scale;
    canvas.style.height = "12px";
    const pen = canvas.getContext("2d");
    pen.scale(scale, scale);
    const point = item.dataset.kind === "cached" || item.dataset.kind === "blocked";
    drawSegment(pen, item.dataset.kind, point ? 13 : 1, 1, point ? 0 : 20, 10, false);
  }
}

// The overview: how many task runs were running, on average over each pixel of time.

function busy(width) {
  const sums = new Float64Array(width);
  const slice = END / width;
  for (let run = 0; run < COUNT; run++) {
    if (runs.kind[run] === "flow" && COUNT > 1) continue;
    for (const [kind, from, to, attempt] of segments(run)) {
      if (attempt && kind !== "retry") spread(sums, from / slice, to / slice);
    }
  }
  return sums;
}

function spread(sums, from, to) {
  const first = Math.max(0, Math.floor(from));
  const last = Math.min(sums.length - 1, Math.floor(to));
  for (let at = first; at <= last; at++) sums[at] += Math.max(0, Math.min(to, at + 1) - Math.max(from, at));
}

let overview = null;

function drawOverview() {
  const height = 64;
  const [pen, width] = fitted($("overview"), height);
  const left = labelWidth(width);
  const room = Math.max(1, width - left);
  if (!overview || overview.length !== room) overview = busy(room);
  const most = overview.reduce((top, sum) => Math.max(top, sum), 0);
  pen.fillStyle = paint.text;
  pen.font = `12px ${paint.font}`;
  pen.fillText("running at once", 8, 20, left - 16);
  pen.fillText(`up to ${most.toFixed(most < 9.5 ? 1 : 0).replace(/\.0$/, "")}`, 8, 38, left - 16);
  pen.translate(left, 0);
  pen.fillStyle = paint.completed || paint.soft;
  for (let x = 0; x < room; x++) {
    const share = most ? (overview[x] / most) * (height - 12) : 0;
    pen.fillRect(x, height - 7 - share, 1, share);
  }
  drawFailures(pen, room, height);
  drawWindow(pen, room, height);
}

function drawFailures(pen, width, height) {
  const marked = new Set();
  for (const error of errors) {
    const at = error.final ? endOf(error.run) : (attemptsOf.get(error.run) || []).find((one) => one.number === error.number)?.ended / 1000;
    if (Number.isFinite(at)) marked.add(Math.min(width - 1, Math.floor((at / END) * width)));
  }
  pen.fillStyle = paint.failed || paint.text;
  for (const x of marked) {
    pen.beginPath();
    pen.moveTo(x - 3, height);
    pen.lineTo(x + 3, height);
    pen.lineTo(x, height - 6);
    pen.fill();
  }
}

function drawWindow(pen, width, height) {
  const left = (range.from / END) * width;
  const right = (range.to / END) * width;
  if (right - left > width - 1) return;
  pen.globalAlpha = 0.65;
  pen.fillStyle = paint.page;
  pen.fillRect(0, 0, left, height);
  pen.fillRect(right, 0, width - right, height);
  pen.globalAlpha = 1;
  pen.strokeStyle = paint.text;
  pen.strokeRect(left + 0.5, 0.5, Math.max(2, right - left - 1), height - 1);
}

// The axis and the lanes.

const STEPS_OF_TIME = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 15e3, 3e4, 6e4, 12e4, 3e5, 6e5, 9e5, 18e5, 36e5, 72e5];

function labelWidth(width) {
  return Math.min(220, Math.max(104, Math.round(width * 0.26)));
}

function stepFor(length, room) {
  const least = length / Math.max(1, Math.floor(room / 90));
  const fine = [1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.5];
  const step = [...fine, ...STEPS_OF_TIME].find((one) => one >= least);
  return step || Math.ceil(least / 36e5) * 36e5;
}

function tickText(ms, step) {
  if (ms === 0) return "0";
  if (step < 1) return `${ms.toFixed(3).replace(/\.?0+$/, "")} ms`;
  if (ms < 1000) return `${ms.toFixed(0)} ms`;
  if (step < 1000) return `${(ms / 1000).toFixed(step < 10 ? 3 : step < 100 ? 2 : 1)} s`;
  const seconds = Math.round(ms / 1000);
  if (seconds < 60) return `${seconds} s`;
  const rest = seconds % 60 ? ` ${seconds % 60} s` : "";
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min${rest}`;
  return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
}

function ticks(width) {
  const left = labelWidth(width);
  const length = range.to - range.from;
  const step = stepFor(length, width - left);
  const found = [];
  for (let at = Math.ceil(range.from / step) * step; at <= range.to; at += step) {
    found.push([left + ((at - range.from) / length) * (width - left), tickText(at, step)]);
  }
  return found;
}

function drawAxis() {
  const [pen, width] = fitted($("axis"), 24);
  pen.font = `12px ${paint.font}`;
  pen.textBaseline = "middle";
  pen.fillStyle = paint.soft;
  pen.strokeStyle = paint.line;
  for (const [x, text] of ticks(width)) {
    pen.fillRect(x, 18, 1, 6);
    const room = pen.measureText(text).width;
    pen.fillText(text, Math.min(x - (x + room / 2 > width ? 0 : Math.min(room / 2, x - labelWidth(width))), width - room - 4), 10);
  }
}

function drawLanes() {
  const height = Math.min(Math.max(view.order.length * LANE, LANE), Math.max(160, Math.round(innerHeight * 0.55)));
  lanes.scroller.style.height = `${height}px`;
  lanes.spacer.style.height = `${view.order.length * LANE}px`;
  const [pen, width] = fitted(lanes.canvas, height);
  const left = labelWidth(width);
  pen.fillStyle = paint.line;
  for (const [x] of ticks(width)) pen.fillRect(x, 0, 0.5, height);
  const top = lanes.scroller.scrollTop;
  const first = Math.floor(top / LANE);
  const last = Math.min(view.order.length, first + Math.ceil(height / LANE) + 1);
  for (let place = first; place < last; place++) drawLane(pen, place, place * LANE - top, left, width);
}

function drawLane(pen, place, y, left, width) {
  const run = view.order[place];
  if (place === view.chosen) {
    pen.globalAlpha = 0.16;
    pen.fillStyle = paint.text;
    pen.fillRect(0, y, width, LANE);
    pen.globalAlpha = 1;
  }
  drawLabel(pen, run, y, left);
  pen.save();
  pen.beginPath();
  pen.rect(left, y, width - left, LANE);
  pen.clip();
  const scale = (width - left) / (range.to - range.from);
  for (const [kind, from, to] of segments(run)) {
    if (to < range.from || from > range.to) continue;
    const x = left + Math.max(from - range.from, -2 / scale) * scale;
    const end = left + Math.min(to - range.from, range.to - range.from + 2 / scale) * scale;
    drawSegment(pen, kind, x, y + 3, end - x, LANE - 6, hasChildren[run] === 1);
  }
  pen.restore();
}

function drawLabel(pen, run, y, left) {
  const indent = 8 + Math.min(depths[run], 6) * 10;
  pen.save();
  pen.beginPath();
  pen.rect(0, y, left - 6, LANE);
  pen.clip();
  pen.font = `12px ${paint.font}`;
  pen.textBaseline = "middle";
  pen.fillStyle = paint[kinds[run]] || paint.text;
  pen.fillText(SIGNS[kinds[run]], indent, y + LANE / 2 + 1);
  pen.fillStyle = paint.text;
  pen.fillText(shortened(pen, titleOf(run), left - indent - 23), indent + 15, y + LANE / 2 + 1);
  pen.restore();
}

// `text` in `room` pixels. What is left out is left out in the middle: names that belong together differ at their ends.
function shortened(pen, text, room) {
  const letter = pen.measureText("n").width;
  const fits = Math.max(4, Math.floor(room / letter));
  if (text.length <= fits || pen.measureText(text.slice(0, 500)).width <= room) return text.slice(0, 500);
  const end = Math.min(9, Math.ceil(fits * 0.6));
  return `${text.slice(0, fits - end - 1)}\u2026${text.slice(-end)}`;
}

let drawing = false;

function drawTimeline() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    readPaint();
    drawLegend();
    drawOverview();
    drawAxis();
    drawLanes();
    const whole = range.from <= 0 && range.to >= END;
    $("window").textContent = whole ? `${duration(END)} in all` : `${duration(range.from)} to ${duration(range.to)} of ${duration(END)}`;
  });
}

// Moving about.

function look(from, to) {
  const length = Math.min(END, Math.max(to - from, Math.min(END, 0.01)));
  range.from = Math.min(Math.max(0, from), END - length);
  range.to = range.from + length;
  drawTimeline();
}

function zoom(factor, around = (range.from + range.to) / 2) {
  look(around - (around - range.from) * factor, around + (range.to - around) * factor);
}

function timeAt(event) {
  const width = lanes.scroller.clientWidth;
  const left = labelWidth(width);
  const share = (event.clientX - lanes.scroller.getBoundingClientRect().left - left) / (width - left);
  return range.from + Math.min(Math.max(share, 0), 1) * (range.to - range.from);
}

function placeAt(event) {
  const y = event.clientY - lanes.scroller.getBoundingClientRect().top + lanes.scroller.scrollTop;
  const place = Math.floor(y / LANE);
  return place < view.order.length ? place : -1;
}

function revealLane() {
  const top = view.chosen * LANE;
  const { scroller } = lanes;
  if (top < scroller.scrollTop) scroller.scrollTop = top;
  else if (top + LANE > scroller.scrollTop + scroller.clientHeight) scroller.scrollTop = top + LANE - scroller.clientHeight;
}

const KEYS = {
  ArrowDown: () => view.choose(view.chosen + 1),
  ArrowUp: () => view.choose(view.chosen - 1),
  PageDown: () => view.choose(view.chosen + 10),
  PageUp: () => view.choose(view.chosen - 10),
  Home: () => view.choose(0),
  End: () => view.choose(view.order.length - 1),
  ArrowLeft: () => look(range.from - (range.to - range.from) / 8, range.to - (range.to - range.from) / 8),
  ArrowRight: () => look(range.from + (range.to - range.from) / 8, range.to + (range.to - range.from) / 8),
  "+": () => zoom(0.5),
  "=": () => zoom(0.5),
  "-": () => zoom(2),
  0: () => look(0, END),
  Enter: () => view.chosen >= 0 && openDetails(view.order[view.chosen]),
};

function tip(event) {
  const place = placeAt(event);
  const box = $("tip");
  box.hidden = place < 0 || event.pointerType === "touch";
  if (box.hidden) return;
  const run = view.order[place];
  const steps = segments(run).map(([kind, from, to]) => (to > from ? `${STEPS[kind]}: ${duration(to - from)}` : STEPS[kind]));
  box.textContent = [titleOf(run), `${runs.state[run]}, started after ${duration(runs.started[run])}`, ...steps.slice(0, 8)].join("\n");
  const chart = box.parentElement.getBoundingClientRect();
  const right = event.clientX - chart.left + 14;
  box.style.left = `${Math.max(4, right + box.offsetWidth > chart.width ? event.clientX - chart.left - box.offsetWidth - 10 : right)}px`;
  box.style.top = `${Math.min(event.clientY - chart.top + 14, chart.height - box.offsetHeight - 4)}px`;
}

function brush(canvas) {
  let start = null;
  const timeOf = (event) => {
    const box = canvas.getBoundingClientRect();
    const left = labelWidth(box.width);
    return Math.min(Math.max((event.clientX - box.left - left) / (box.width - left), 0), 1) * END;
  };
  canvas.addEventListener("pointerdown", (event) => {
    start = timeOf(event);
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    const now = timeOf(event);
    if (start !== null && now !== start) look(Math.min(start, now), Math.max(start, now));
  });
  canvas.addEventListener("pointerup", () => (start = null));
  canvas.addEventListener("dblclick", () => look(0, END));
}

function wheel(event) {
  const sideways = Math.abs(event.deltaX) > Math.abs(event.deltaY) || event.shiftKey;
  if (event.ctrlKey || event.metaKey) zoom(event.deltaY > 0 ? 1.25 : 0.8, timeAt(event));
  else if (sideways) {
    const by = ((event.deltaX || event.deltaY) / lanes.scroller.clientWidth) * (range.to - range.from);
    look(range.from + by, range.to + by);
  } else return;
  event.preventDefault();
}

function startTimeline() {
  legend();
  lanes.scroller.setAttribute("aria-label", `Timeline of ${plural(COUNT, "run")}`);
  lanes.scroller.addEventListener("scroll", drawTimeline, { passive: true });
  lanes.scroller.addEventListener("wheel", wheel, { passive: false });
  lanes.scroller.addEventListener("pointermove", tip);
  lanes.scroller.addEventListener("pointerleave", () => ($("tip").hidden = true));
  lanes.scroller.addEventListener("click", (event) => {
    const place = placeAt(event);
    if (place < 0) return;
    view.choose(place);
    openDetails(view.order[place]);
  });
  lanes.scroller.addEventListener("keydown", (event) => {
    if (!(event.key in KEYS) || event.ctrlKey || event.metaKey || event.altKey) return;
    KEYS[event.key]();
    event.preventDefault();
  });
  brush($("overview"));
  $("zoom-in").addEventListener("click", () => zoom(0.5));
  $("zoom-out").addEventListener("click", () => zoom(2));
  $("zoom-all").addEventListener("click", () => look(0, END));
  view.listeners.push((what) => {
    if (what === "order") lanes.scroller.scrollTop = 0;
    else revealLane();
    drawTimeline();
  });
  new ResizeObserver(drawTimeline).observe($("timeline"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawTimeline);
  drawTimeline();
}
