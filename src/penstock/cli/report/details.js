// All about one run, in words.

const MANY = 12;

function runButton(run) {
  return make("button", { class: "link", type: "button", onclick: () => openDetails(run) }, titleOf(run));
}

// Buttons for the first of many, and one that shows the others.
function buttons(numbers, label = runButton) {
  const box = make("div", { class: "many" }, numbers.slice(0, MANY).map(label));
  if (numbers.length > MANY) {
    const more = make("button", { type: "button", class: "link" }, `and ${(numbers.length - MANY).toLocaleString("en")} more`);
    more.addEventListener("click", () => more.replaceWith(...numbers.slice(MANY, MANY + 1000).map(label)));
    box.append(more);
  }
  return box;
}

function part(title, ...content) {
  return [make("h3", {}, title), ...content];
}

function valueTable(pairs, label) {
  const rows = pairs.map(([name, value]) => make("tr", {}, make("th", { scope: "row" }, make("span", { class: "text" }, name)), make("td", {}, value)));
  return make("table", { class: "values", "aria-label": label }, make("tbody", {}, rows));
}

function steps(run) {
  const items = segments(run).map(([kind, from, to, attempt]) => {
    const which = attempt && kind !== "retry" && runs.attempts[run] > 1 ? `attempt ${attempt}: ` : "";
    const error = (errorsOf.get(run) || []).find((one) => one.number === attempt);
    const why = error && (kind === "failed" || kind === "crashed") ? ` (${saidOf(error).split("\n")[0]})` : "";
    const length = to > from || attempt ? duration(to - from) : "";
    const sign = make("span", { class: `s-${kind}`, "aria-hidden": "true" }, SIGNS[kind]);
    return make("li", {}, sign, make("span", { class: "number" }, length), make("span", { class: "text said" }, which + STEPS[kind] + why));
  });
  return make("ul", { class: "steps" }, items);
}

function facts(run) {
  const pairs = [
    ["state", runs.state[run]],
    ["of", `${runs.kind[run]} ${runs.name[run]}`],
    ["id", runs.id[run]],
    ["created", moment(BEGIN + runs.created[run])],
    ["started", Number.isNaN(runs.started[run]) ? "never" : `${duration(runs.started[run])} after the beginning`],
    ["message", messages.get(run) || ""],
    ["tags", tagsOf(run)],
    ["result", runs.result[run] || ""],
  ];
  return pairs.filter(([, value]) => value !== "");
}

function tagsOf(run) {
  return STRINGS[RECORD.runs.tags[run]];
}

function detailsOf(run) {
  const found = [part("What happened", steps(run)), part("Facts", valueTable(facts(run), "Facts"))];
  const parameters = parametersOf(run);
  if (parameters.length) found.push(part("Parameters", valueTable(parameters, "Parameters")));
  for (const error of errorsOf.get(run) || []) found.push(part(runs.attempts[run] > 1 ? `Error of attempt ${error.number}` : "Error", errorBody(error)));
  if (runs.parent[run] >= 0) found.push(part("Called by", buttons([runs.parent[run]])));
  const label = (edge, other) => make("span", {}, runButton(other), edge.parameter ? ` (${STRINGS[edge.parameter]})` : "");
  if (upstreams.has(run)) found.push(part("Waited for", buttons(upstreams.get(run), (edge) => label(edge, edge.up))));
  if (downstreams.has(run)) found.push(part("Was waited for by", buttons(downstreams.get(run), (edge) => label(edge, edge.down))));
  const lines = linesOf(run);
  if (lines) found.push(part("Log", make("button", { type: "button", onclick: () => showLog(run) }, `Show its ${plural(lines, "line")}`)));
  return found;
}

function openDetails(run) {
  const dialog = $("details");
  const close = make("button", { type: "button", onclick: () => dialog.close() }, "Close");
  const title = make("h2", { id: "details-title" }, titleOf(run));
  dialog.replaceChildren(make("div", { class: "line" }, title, close), badge(kinds[run], runs.state[run]));
  fill(dialog, detailsOf(run));
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
}

function startDetails() {
  $("details").addEventListener("click", (event) => {
    if (event.target === $("details")) $("details").close();
  });
}
