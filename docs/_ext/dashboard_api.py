"""The reference of the dashboard's HTTP interface, from the one table of what it answers."""

from __future__ import annotations

from collections.abc import Mapping

from penstock.ui.asking import Parameter
from penstock.ui.guard import PRIVATE
from penstock.ui.routes import ACTION, IN_PATH, LIVE, PAGE, ROUTES, VIEWS, Route

MEANINGS = {
    "a": "one run",
    "action": "what to do",
    "after": "where the page in front of this one has ended: its `next`",
    "b": "the other run",
    "direction": "of the sort",
    "file": "name of a file of the pages",
    "first": "how many runs of the open group to leave out",
    "flow": "name of the flow",
    "from": "beginning of the picture; left out: of the run",
    "group": "a [group](#words)",
    "id": "of the run",
    "level": "the least level",
    "limit": "how many rows at most",
    "name": "of the task or flow",
    "open": "the [group](#words) whose runs are wanted one by one",
    "parameter": "name of a parameter, and a part of its value",
    "rows": "how many runs of the open group at most",
    "run": "whose actions; left out: all",
    "since": "only runs that were created then or later",
    "sort": "by what",
    "state": "a state (`TimedOut`), status (`FAILED`) or [fate](#words), in any case",
    "tag": "which the runs must have; several: all of them",
    "text": "a part of the name, run name, a parameter, the message or the error, in any case (of ASCII)",
    "to": "end of the picture; left out: of the run, or now",
    "until": "only runs that were created before",
    "width": "how many bins at most",
}
SPECIAL = {
    ("/api/runs/{id}/logs", "after"): "only lines with greater numbers: the first ones of them",
    ("/api/runs/{id}/logs", "before"): "only lines with smaller numbers: the last ones of them",
    ("/api/runs/{id}/logs", "around"): "lines in front of this number and behind it",
    ("/api/runs/{id}/logs", "task"): "name of a task, run name or id of a run",
    ("/api/runs/{id}/logs", "text"): "a part of the message, in any case (of ASCII)",
    ("/api/runs/{id}/graph", "after"): "likewise, among the runs of a group",
    ("/api/tasks/{id}", "after"): "where the page of downstream runs in front of this one has ended",
    ("/api/flows/{name}", "limit"): "how many of the latest runs at most",
}


def routes() -> str:
    """What can be asked for, and whether that needs the token."""
    rows = [f"| {_linked(route)} | {_needs(route)} |" for route in ROUTES if route.kind != PAGE]
    return "\n".join(["| request | needs |", "|---|---|", *rows])


def _linked(route: Route) -> str:
    name = title(route)
    anchor = "".join(char for char in name.lower() if char.isalnum() or char in " -_").replace(" ", "-")
    return f"[`{name}`](#{anchor})" if is_told(route) else f"`{name}`"


def _needs(route: Route) -> str:
    if route.kind == ACTION:
        return "the token, `Origin`, a nonce, and `penstock ui --allow-actions`"
    return "the token" if route.kind in PRIVATE else "nothing"


def title(route: Route) -> str:
    return f"{route.method} {route.path}"


def is_told(route: Route) -> bool:
    """Whether it has a section of its own: pages and their files are for browsers."""
    return route.path.startswith("/api/") or route.path == "/healthz"


def request(method: str, path: str) -> str:
    """The parameters of a request. Raises LookupError if there is no such request."""
    (route,) = [route for route in ROUTES if (route.method, route.path) == (method, path)]
    in_path = {name: kind for name, kind in IN_PATH.items() if f"{{{name}}}" in path}
    return _table(path, {**in_path, **route.parameters}, in_path)


def _table(path: str, parameters: Mapping[str, Parameter], in_path: Mapping[str, Parameter]) -> str:
    if not parameters:
        return "Without parameters."
    rows = [
        f"| `{f'{{{name}}}' if name in in_path else name}` | {meaning(path, name)} | {_value(kind, name in in_path)} |"
        for name, kind in parameters.items()
    ]
    return "\n".join(["| parameter | | value |", "|---|---|---|", *rows])


def meaning(path: str, name: str) -> str:
    return SPECIAL.get((path, name)) or MEANINGS[name]


def _value(kind: Parameter, is_in_path: bool) -> str:
    notes = [kind.expected]
    if kind.default not in (None, ()):
        notes.append(f"default `{kind.default}`")
    if kind.many:
        notes.append("may be repeated")
    if kind.needed and not is_in_path:
        notes.append("needed")
    return "; ".join(notes)


def views() -> str:
    """What can be followed, and by which parameters."""
    rows = [f"| `{name}` | {', '.join(f'`{one}`' for one in asked)} |" for name, (_, asked) in VIEWS.items()]
    assert any(route.kind == LIVE for route in ROUTES)
    return "\n".join(["| `view` | parameters |", "|---|---|", *rows])
