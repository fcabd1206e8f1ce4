// The page as a whole: what is said at the top and at the bottom.

function fact(name, value) {
  return value ? make("div", {}, make("dt", {}, name), make("dd", {}, value)) : null;
}

function startTop() {
  document.title = `${titleOf(0)}: ${runs.state[0]} ${RECORD.went}`;
  fill($("title"), titleOf(0));
  fill($("outcome"), badge(kinds[0], runs.state[0]), ` ${RECORD.went}`);
  const { root } = RECORD;
  fill(
    $("facts"),
    fact("started", moment(BEGIN + runs.started[0])),
    fact("ended", Number.isNaN(runs.ended[0]) ? "" : moment(BEGIN + runs.ended[0])),
    fact("version", root.version),
    fact("tags", tagsOf(0)),
    fact("host", root.facts.host),
    fact("script", root.facts.script),
    fact("id", root.id),
  );
}

function startParameters() {
  const given = parametersOf(0);
  if (given.length) fill($("parameters-body"), valueTable(given, "Parameters"));
  else fill($("parameters-body"), make("p", { class: "help" }, "It takes none."));
  const { root } = RECORD;
  const more = [
    ["result", runs.result[0]], ["message", messages.get(0)], [runs.kind[0], root.key], ["resumes", root.resumed],
    ["called by", root.parent], ["python", root.facts.python], ["process", root.facts.pid],
  ].filter(([, value]) => value);
  fill($("parameters-body"), make("h3", {}, "Other facts"), valueTable(more, "Other facts"));
}

function startParts() {
  for (const section of document.querySelectorAll("main > section:not([hidden])")) {
    const link = make("a", { href: `#${section.id}` }, section.querySelector("h2").textContent);
    $("parts").append(make("li", {}, link));
  }
}

function startTheme() {
  $("theme").addEventListener("input", () => {
    document.documentElement.style.colorScheme = $("theme").value;
    drawTimeline();
  });
}

startTop();
startErrors();
startNames();
startDetails();
startParameters();
startTheme();
startParts();
startTimeline();
startRuns();
startLog();
fill($("made"), `Made by penstock ${RECORD.penstock} on ${moment(RECORD.made)}. This file needs no network and sends nothing.`);
