// What was recorded, from columns to what can be asked. Times are milliseconds since the run was created.

const RECORD = JSON.parse($("record").textContent);
const STRINGS = RECORD.strings;
const COUNT = RECORD.runs.id.length;
const BEGIN = RECORD.begin;

const times = { created: [], ready: [], started: [], ended: [] };
for (let run = 0, before = 0; run < COUNT; run++) {
  let previous = before;
  for (const [name, column] of Object.entries(times)) {
    const difference = RECORD.runs[name][run];
    if (difference !== null) previous += difference;
    column.push(difference === null ? NaN : previous / 1000);
    if (name === "created") before = previous;
  }
}

const say = (column) => column.map((number) => STRINGS[number]);
const runs = {
  id: RECORD.runs.id.map((end, run) => STRINGS[RECORD.runs.block[run]] + end),
  parent: RECORD.runs.parent,
  kind: say(RECORD.runs.kind),
  name: say(RECORD.runs.name),
  title: RECORD.runs.title,
  status: say(RECORD.runs.status),
  state: say(RECORD.runs.state),
  attempts: RECORD.runs.attempts,
  result: RECORD.runs.result,
  ...times,
};
const messages = new Map(RECORD.runs.messages);

function rowsOf(table) {
  const names = Object.keys(table);
  return table[names[0]].map((_, place) => Object.fromEntries(names.map((name) => [name, table[name][place]])));
}

function grouped(rows, key) {
  const groups = new Map();
  for (const row of rows) {
    const group = groups.get(row[key]);
    if (group) group.push(row);
    else groups.set(row[key], [row]);
  }
  return groups;
}

const errors = rowsOf(RECORD.errors).map((row) => ({
  ...row,
  type: STRINGS[row.type],
  place: STRINGS[row.place],
  traceback: [STRINGS[row.frames], row.last].filter(Boolean).join("\n"),
}));
const errorsOf = grouped(errors, "run");
const attemptsOf = grouped(rowsOf(RECORD.attempts), "run");
const edges = rowsOf(RECORD.edges);
const upstreams = grouped(edges, "down");
const downstreams = grouped(edges, "up");

// To the latest moment that anything is known of; of a run that goes on that is when the report was made.
const UNFINISHED = ["PENDING", "RUNNING", "WAITING"];
const goesOn = UNFINISHED.includes(runs.status[0]);
const NOW = goesOn ? RECORD.made - BEGIN : runs.ended.reduce((last, time) => (time > last ? time : last), 0);
const END = Math.max(NOW, runs.started.reduce((last, time) => (time > last ? time : last), 0), 0.001);

const depths = new Int32Array(COUNT);
const hasChildren = new Uint8Array(COUNT);
for (let run = 1; run < COUNT; run++) {
  const parent = runs.parent[run];
  if (parent < 0 || parent === run) continue;
  depths[run] = depths[parent] + 1;
  hasChildren[parent] = 1;
}

function titleOf(run) {
  return runs.kind[run] === "flow" ? `${runs.name[run]}/${runs.title[run]}` : runs.title[run];
}

function parametersOf(run) {
  const recorded = RECORD.runs.parameters[run];
  if (typeof recorded === "string") return [["", recorded]];
  return STRINGS[recorded[0]].map((name, place) => [name, recorded[place + 1]]);
}

// How a run, or an attempt, looks: one of the keys of SIGNS.
function kindOf(status, state) {
  if (state === "Cached") return "cached";
  if (state === "UpstreamFailed") return "blocked";
  if (state === "AwaitingRetry") return "retry";
  const known = ["COMPLETED", "FAILED", "CRASHED", "CANCELLED", "RUNNING"];
  return known.includes(status) ? status.toLowerCase() : "waiting";
}

const kinds = runs.status.map((status, run) => kindOf(status, runs.state[run]));

function endOf(run) {
  if (!Number.isNaN(runs.ended[run])) return runs.ended[run];
  return UNFINISHED.includes(runs.status[run]) ? NOW : NaN;
}

function durationOf(run) {
  return endOf(run) - runs.started[run];
}

// Until the first attempt; of a run without one, until it ended.
function waitOf(run) {
  const until = Number.isNaN(runs.started[run]) ? endOf(run) : runs.started[run];
  return until - runs.created[run];
}

// What happened to a run, one after the other: [kind, from, to, attempt].
function segments(run) {
  const found = [];
  const last = Number.isNaN(endOf(run)) ? runs.created[run] : endOf(run);
  const first = Number.isNaN(runs.started[run]) ? last : runs.started[run];
  const ready = Number.isNaN(runs.ready[run]) ? first : Math.min(runs.ready[run], first);
  if (ready > runs.created[run]) found.push(["inputs", runs.created[run], ready, 0]);
  if (first > ready) found.push(["slot", ready, first, 0]);
  if (Number.isNaN(runs.started[run])) found.push([kinds[run], last, last, 0]);
  else found.push(...attemptSegments(run, last));
  return found;
}

function attemptSegments(run, last) {
  const recorded = attemptsOf.get(run) || [];
  if (!recorded.length) return [[kinds[run] === "retry" ? "failed" : kinds[run], runs.started[run], last, 1]];
  const found = [];
  let before = NaN;
  for (const one of recorded) {
    const from = one.started === null ? before : one.started / 1000;
    const final = one.number === runs.attempts[run] && kinds[run] !== "retry";
    const to = one.ended === null ? last : one.ended / 1000;
    if (from > before) found.push(["retry", before, from, one.number]);
    found.push([final ? kinds[run] : one.state === "Crashed" ? "crashed" : "failed", from, to, one.number]);
    before = to;
  }
  if (kinds[run] === "retry" && last > before) found.push(["retry", before, last, recorded.length + 1]);
  return found;
}

const STEPS = {
  inputs: "waited for its inputs", slot: "waited to be started", retry: "waited to try again", running: "is running",
  completed: "completed", failed: "failed", crashed: "crashed", cancelled: "cancelled", cached: "found its result",
  blocked: "did not start: an input failed", waiting: "waits",
};

// A crash may have no exception, and goes by the name of the state then.
function saidOf(error) {
  if (error.type === runs.state[error.run]) return error.text || error.type;
  return `${error.type}: ${error.text}`;
}

function noteOf(run) {
  const last = (errorsOf.get(run) || []).at(-1);
  if (last && last.final) return saidOf(last);
  return messages.get(run) || "";
}

const haystacks = [];
function haystackOf(run) {
  if (haystacks[run] === undefined) {
    const said = (errorsOf.get(run) || []).map(saidOf);
    const given = parametersOf(run).map(([name, value]) => `${name}=${value}`);
    const words = [titleOf(run), runs.name[run], runs.id[run], runs.state[run], noteOf(run), runs.result[run] || ""];
    haystacks[run] = [...words, ...said, ...given].join("\n").toLowerCase();
  }
  return haystacks[run];
}

// The runs that are shown, in which order, and which one is chosen; whoever draws them listens.
const view = {
  order: Array.from({ length: COUNT }, (_, run) => run),
  chosen: -1,
  listeners: [],
  show(order) {
    this.order = order;
    this.chosen = order.length ? Math.min(Math.max(this.chosen, -1), order.length - 1) : -1;
    for (const listener of this.listeners) listener("order");
  },
  choose(place) {
    if (!this.order.length) return;
    this.chosen = Math.min(Math.max(place, 0), this.order.length - 1);
    for (const listener of this.listeners) listener("chosen");
  },
};
