// What went wrong, where it began: the user's line first. The same error in many runs is one entry.

const SHOWN_ERRORS = 10;

function errorBody(error) {
  const body = [];
  if (error.place) body.push(make("div", { class: "place text" }, error.place));
  body.push(make("div", { class: "said text" }, saidOf(error)));
  if (error.traceback) body.push(make("details", {}, make("summary", {}, "Traceback"), make("pre", { tabindex: "0" }, error.traceback)));
  return body;
}

function groupsOfErrors() {
  const groups = new Map();
  for (const error of errors) {
    const key = JSON.stringify([error.final, error.type, error.place]);
    if (groups.has(key)) groups.get(key).push(error);
    else groups.set(key, [error]);
  }
  // Those that ended their runs first; the flow's own tells the least of what its tasks did not tell.
  const rank = (group) => [group[0].final ? 0 : 1, group[0].run === 0 ? 1 : 0, -group.length];
  const ordered = [...groups.values()].map((group) => [rank(group), group]);
  ordered.sort(([one], [other]) => one[0] - other[0] || one[1] - other[1] || one[2] - other[2]);
  return ordered.map(([, group]) => group);
}

function countOf(group) {
  const where = `in ${plural(new Set(group.map((error) => error.run)).size, "run")}`;
  return group[0].final ? where : `${plural(group.length, "attempt")} ${where}`;
}

function errorBox(group) {
  const [first] = group;
  const title = make("h3", {}, badge(first.final ? kinds[first.run] : "retry", first.type), " ", make("span", { class: "text" }, countOf(group)));
  const box = make("div", { class: first.final ? "error" : "error handled" }, title, errorBody(first));
  const numbers = [...new Set(group.map((error) => error.run))];
  return fill(box, buttons(numbers));
}

function startErrors() {
  const groups = groupsOfErrors();
  if (!groups.length) return;
  $("errors").hidden = false;
  showErrors($("errors-body"), groups.filter(([first]) => first.final));
  const earlier = groups.filter(([first]) => !first.final);
  if (!earlier.length) return;
  const number = earlier.reduce((sum, group) => sum + group.length, 0);
  const box = make("details", { class: "earlier" }, make("summary", {}, `${plural(number, "failed attempt")} that another one followed`));
  box.addEventListener("toggle", () => showErrors(box, earlier), { once: true });
  $("errors-body").append(box);
}

function showErrors(place, groups) {
  fill(place, groups.slice(0, SHOWN_ERRORS).map(errorBox));
  const rest = groups.slice(SHOWN_ERRORS);
  if (!rest.length) return;
  const more = make("button", { type: "button" }, `Show ${plural(rest.length, "more error")}`);
  more.addEventListener("click", () => more.replaceWith(...rest.slice(0, 500).map(errorBox)));
  place.append(more);
}
