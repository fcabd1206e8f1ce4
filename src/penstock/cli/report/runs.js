// The filter over timeline and table, the table, and its summary by name.

const COLUMNS = [
  { title: "Run", key: null, text: (run) => titleOf(run) },
  { title: "State", key: (run) => runs.state[run] },
  { title: "Attempts", key: (run) => runs.attempts[run], wide: true, number: true, text: (run) => runs.attempts[run] },
  { title: "Start", key: (run) => runs.started[run], wide: true, number: true, text: (run) => `${Number.isNaN(runs.started[run]) ? "" : "+"}${duration(runs.started[run])}` },
  { title: "Waited", key: waitOf, wide: true, number: true, text: (run) => duration(waitOf(run)) },
  { title: "Duration", key: durationOf, number: true, text: (run) => duration(durationOf(run)) },
  { title: "Note", key: noteOf, wide: true, text: (run) => noteOf(run).split("\n")[0] },
];
const sorting = { column: 0, down: false };

function counted(values) {
  const numbers = new Map();
  for (const value of values) numbers.set(value, (numbers.get(value) || 0) + 1);
  return [...numbers].sort((one, other) => other[1] - one[1]);
}

function choices(select, all, options) {
  fill(select, make("option", { value: "" }, all));
  options.forEach(([text, number], place) => fill(select, make("option", { value: place + 1 }, `${text} (${number.toLocaleString("en")})`)));
}

const STATES = counted(runs.state);
const NAMES = counted(runs.name);
const RETRIED = runs.attempts.filter((number) => number > 1).length;

function isWanted() {
  const text = $("run-text").value.trim().toLowerCase();
  const name = $("run-name").value && NAMES[$("run-name").value - 1][0];
  const state = $("run-state").value;
  const retried = state === "retried";
  const wanted = state && !retried && STATES[state - 1][0];
  return (run) =>
    (!wanted || runs.state[run] === wanted) &&
    (!retried || runs.attempts[run] > 1) &&
    (!name || runs.name[run] === name) &&
    (!text || haystackOf(run).includes(text));
}

function compared(key, down) {
  const sign = down ? -1 : 1;
  return (one, other) => {
    const [a, b] = [key(one), key(other)];
    if (typeof a === "string") return sign * (!a - !b || (a < b ? -1 : a > b ? 1 : 0)) || one - other;
    return Number.isNaN(a) - Number.isNaN(b) || sign * (a - b) || one - other;
  };
}

function applyFilter() {
  const wanted = isWanted();
  const order = [];
  for (let run = 0; run < COUNT; run++) if (wanted(run)) order.push(run);
  const { key } = COLUMNS[sorting.column];
  if (key) order.sort(compared(key, sorting.down));
  else if (sorting.down) order.reverse();
  $("run-count").textContent = order.length === COUNT ? plural(COUNT, "run") : `${order.length.toLocaleString("en")} of ${plural(COUNT, "run")}`;
  view.show(order);
}

let table;

function startRuns() {
  choices($("run-state"), "all", STATES);
  if (RETRIED) $("run-state").append(make("option", { value: "retried" }, `retried (${RETRIED.toLocaleString("en")})`));
  choices($("run-name"), "all", NAMES);
  table = new List($("rows"), {
    height: 28,
    label: "Runs",
    columns: COLUMNS.length,
    head: heading(),
    draw: drawRow,
    open: (place) => openDetails(view.order[place]),
    choose: (place) => view.choose(place),
  });
  view.listeners.push((what) => {
    table.chosen = view.chosen;
    if (what === "order") {
      table.scroller.scrollTop = 0;
      table.show(view.order.length, "No run is like that.");
    } else table.reveal();
  });
  for (const id of ["run-text", "run-state", "run-name"]) $(id).addEventListener("input", applyFilter);
  $("run-clear").addEventListener("click", () => narrow({}));
  applyFilter();
}

function narrow({ text = "", state = "", name = "" }) {
  $("run-text").value = text;
  $("run-state").value = state;
  $("run-name").value = name;
  applyFilter();
}

function heading() {
  const cells = COLUMNS.map((column, place) => {
    const button = make("button", { type: "button", onclick: () => sortBy(place) }, column.title, make("span", { class: "arrow", "aria-hidden": "true" }));
    const classes = ["cell", column.wide && "wide", column.number && "number"].filter(Boolean).join(" ");
    return make("div", { role: "columnheader", "aria-sort": "none", class: classes }, button);
  });
  return make("div", { role: "rowgroup", class: "head" }, make("div", { role: "row", class: "headrow" }, cells));
}

function sortBy(place) {
  sorting.down = sorting.column === place ? !sorting.down : COLUMNS[place].number === true && place > 3;
  sorting.column = place;
  document.querySelectorAll("#rows [role=columnheader]").forEach((cell, at) => {
    cell.setAttribute("aria-sort", at !== place ? "none" : sorting.down ? "descending" : "ascending");
    cell.querySelector(".arrow").textContent = at !== place ? "" : sorting.down ? " \u25bc" : " \u25b2";
  });
  applyFilter();
}

function drawRow(row, place) {
  const run = view.order[place];
  for (const column of COLUMNS) {
    const classes = ["cell", column.wide && "wide", column.number && "number"].filter(Boolean).join(" ");
    const cell = make("div", { role: "gridcell", class: classes });
    fill(cell, column.title === "State" ? badge(kinds[run], runs.state[run]) : column.text(run));
    if (column.title === "Run" && sorting.column === 0) cell.style.paddingLeft = `${Math.min(depths[run], 6) * 12}px`;
    row.append(cell);
  }
}

// By name: what a map of ten thousand comes to.

function medianOf(lengths) {
  lengths.sort((one, other) => one - other);
  return lengths.length ? lengths[Math.floor((lengths.length - 1) / 2)] : NaN;
}

function summaryOf(name, members) {
  const lengths = members.map(durationOf).filter(Number.isFinite);
  const total = lengths.reduce((sum, length) => sum + length, 0);
  const median = medianOf(lengths);
  const states = counted(members.map((run) => runs.state[run]));
  const retried = members.filter((run) => runs.attempts[run] > 1).length;
  const shown = states.map(([state, number]) => {
    const run = members.find((one) => runs.state[one] === state);
    return badge(kinds[run], `${number.toLocaleString("en")} ${state}`);
  });
  if (retried) shown.push(badge("retry", `${retried.toLocaleString("en")} retried`));
  return [
    make("th", { scope: "row" }, make("button", { class: "link", type: "button", onclick: () => showOnly(name) }, name)),
    make("td", { class: "number" }, members.length.toLocaleString("en")),
    make("td", {}, shown),
    make("td", { class: "number" }, duration(median)),
    make("td", { class: "number" }, duration(lengths.at(-1))),
    make("td", { class: "number narrow-off" }, duration(lengths.length ? total : NaN)),
  ];
}

function showOnly(name) {
  narrow({ name: NAMES.findIndex(([one]) => one === name) + 1 });
  $("timeline").scrollIntoView();
  $("lanes").focus({ preventScroll: true });
}

function startNames() {
  const groups = new Map();
  for (let run = 1; run < COUNT; run++) {
    const group = groups.get(runs.name[run]);
    if (group) group.push(run);
    else groups.set(runs.name[run], [run]);
  }
  if (!groups.size) return;
  const titles = [["Task", ""], ["Runs", "number"], ["States", ""], ["Median", "number"], ["Longest", "number"], ["Sum", "number narrow-off"]];
  const head = make("thead", {}, make("tr", {}, titles.map(([title, kind]) => make("th", { scope: "col", class: kind }, title))));
  const body = make("tbody", {}, [...groups].map(([name, members]) => make("tr", {}, summaryOf(name, members))));
  fill($("names-body"), make("table", {}, head, body)).setAttribute("aria-label", "Tasks by name");
  $("names").hidden = false;
}
