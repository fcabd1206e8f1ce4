// The log. A message of several lines takes several rows: all rows have the same height.

const LEVELS = [[10, "DEBUG"], [20, "INFO"], [30, "WARNING"], [40, "ERROR"], [50, "CRITICAL"]];
const LOG = RECORD.logs;
const LINES = LOG.message.map((message) => message.replace(/\n+$/, "").split("\n"));
const LONGEST_LINE = 4000; // characters of a row: longer ones go on in the next

const log = { list: null, rows: [], run: -1, text: "" };

function levelName(level) {
  const named = LEVELS.find(([number]) => number === level);
  return named ? named[1] : `Level ${level}`;
}

function levelKind(level) {
  return level >= 40 ? "l-error" : level >= 30 ? "l-warning" : level < 20 ? "l-debug" : "l-info";
}

const linesPerRun = new Map();
for (const run of LOG.run) linesPerRun.set(run, (linesPerRun.get(run) || 0) + 1);

function linesOf(run) {
  return linesPerRun.get(run) || 0;
}

function pieces(line) {
  if (line.length <= LONGEST_LINE) return [line];
  const found = [];
  for (let at = 0; at < line.length; at += LONGEST_LINE) found.push(line.slice(at, at + LONGEST_LINE));
  return found;
}

function applyLogFilter() {
  log.text = $("log-text").value.trim().toLowerCase();
  const least = Number($("log-level").value);
  log.rows = [];
  let number = 0;
  LOG.message.forEach((message, entry) => {
    if (LOG.level[entry] < least || (log.run >= 0 && LOG.run[entry] !== log.run)) return;
    if (log.text && !`${message}\n${STRINGS[LOG.logger[entry]]}`.toLowerCase().includes(log.text)) return;
    number++;
    LINES[entry].flatMap(pieces).forEach((text, place) => log.rows.push([entry, place, text]));
  });
  const total = LOG.message.length;
  const earlier = LOG.more ? " (the record holds earlier ones)" : "";
  $("log-count").textContent = (number === total ? plural(total, "line") : `${number.toLocaleString("en")} of ${plural(total, "line")}`) + earlier;
  $("log-run").hidden = log.run < 0;
  if (log.run >= 0) $("log-run").textContent = `of ${titleOf(log.run)} only: show all`;
  log.list.scroller.scrollTop = 0;
  log.list.show(log.rows.length, total ? "No line is like that." : "Nothing was logged.");
}

// `text` with every place marked where the search was found.
function marked(text) {
  if (!log.text) return [text];
  const found = [];
  const lower = text.toLowerCase();
  let at = 0;
  if (lower.length !== text.length) return [text]; // a letter that has no lower case of one letter
  for (let next = lower.indexOf(log.text); next >= 0; next = lower.indexOf(log.text, at)) {
    found.push(text.slice(at, next), make("mark", {}, text.slice(next, next + log.text.length)));
    at = next + log.text.length;
  }
  return [...found, text.slice(at)];
}

function drawLine(row, place) {
  const [entry, line, text] = log.rows[place];
  const time = LOG.time[entry] === null ? NaN : BEGIN + LOG.time[entry] / 1000;
  const at = new Date(time);
  const first = line === 0;
  const shown = first && Number.isFinite(time) ? `${clock(at)}.${String(at.getMilliseconds()).padStart(3, "0")}` : " ".repeat(12);
  const level = LOG.level[entry];
  fill(
    row,
    make("div", { role: "gridcell", class: "cell time" }, shown),
    make("div", { role: "gridcell", class: `cell level ${levelKind(level)}` }, first ? levelName(level) : ""),
    make("div", { role: "gridcell", class: "cell who" }, first ? titleOf(LOG.run[entry]) : ""),
    make("div", { role: "gridcell", class: `cell message ${levelKind(level)}` }, marked(text)),
  );
  if (first) row.title = `${moment(time)} ${titleOf(LOG.run[entry])} (${STRINGS[LOG.logger[entry]]})`;
  else row.removeAttribute("title");
}

function showLog(run) {
  log.run = run;
  $("log-text").value = "";
  $("log-level").value = "0";
  $("details").close();
  applyLogFilter();
  $("log").scrollIntoView();
  $("lines").focus({ preventScroll: true });
}

function startLog() {
  const there = new Set(LOG.level);
  fill($("log-level"), make("option", { value: "0" }, "all"));
  for (const [number, name] of LEVELS) {
    if ([...there].some((level) => level >= number)) $("log-level").append(make("option", { value: number }, number === 50 ? name : `${name} and above`));
  }
  log.list = new List($("lines"), {
    height: 20,
    label: "Log lines",
    columns: 4,
    head: null,
    draw: drawLine,
    open: (place) => openDetails(LOG.run[log.rows[place][0]]),
  });
  for (const id of ["log-text", "log-level"]) $(id).addEventListener("input", applyLogFilter);
  $("log-run").addEventListener("click", () => {
    log.run = -1;
    applyLogFilter();
  });
  applyLogFilter();
}
