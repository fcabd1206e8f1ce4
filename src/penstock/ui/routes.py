"""Everything that the dashboard answers: the one table that the application, and the tests of who may ask for what,
are made from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from penstock.ui import asking
from penstock.ui.answers import about, compare, flows, graph, logs, run, runs, task, tasks, timeline
from penstock.ui.asking import Parameter
from penstock.ui.records import Records

PAGE, ASSET, READ, LIVE, ACTION, HEALTH = "page", "asset", "read", "live", "action", "health"
"""Kinds of routes: what somebody needs who asks for one is decided by its kind."""

ACTIONS = ("cancel", "retry", "resume")
LEVELS = ("debug", "info", "warning", "error", "critical")

Answer = Callable[[Records, Mapping[str, Any]], dict[str, Any]]


class Route(NamedTuple):
    """`path`: segments in braces are parameters. `answer`: of kind READ only."""

    method: str
    path: str
    kind: str
    answer: Answer | None = None
    parameters: Mapping[str, Parameter] = {}


class Found(NamedTuple):
    route: Route
    in_path: Mapping[str, str]  # not decoded yet


_ID: Mapping[str, Parameter] = {"id": asking.run_id(needed=True)}
IN_PATH: Mapping[str, Parameter] = {
    **_ID,
    "name": asking.text(),
    "file": asking.text(),
    "action": asking.one_of(*ACTIONS),
}
"""What a parameter in a path may be."""

_RUNS: Mapping[str, Parameter] = {
    "flow": asking.text(),
    "state": asking.texts(),
    "tag": asking.texts(),
    "text": asking.text(),
    "parameter": asking.pair(),
    "since": asking.moment(),
    "until": asking.moment(),
    "after": asking.cursor(),
    "limit": asking.whole(1, 200, 50),
}
_TIMELINE: Mapping[str, Parameter] = {
    "from": asking.moment(),
    "to": asking.moment(),
    "width": asking.whole(10, 2000, 800),
    "open": asking.text(),
    "first": asking.whole(0, 10**9, 0),
    "rows": asking.whole(1, 200, 100),
}
_GRAPH: Mapping[str, Parameter] = {"group": asking.text(), "after": asking.cursor()}
_TASKS: Mapping[str, Parameter] = {
    "state": asking.texts(),
    "name": asking.text(),
    "group": asking.text(),
    "text": asking.text(),
    "sort": asking.one_of(*tasks.SORTS, default="created"),
    "direction": asking.one_of("asc", "desc", default="asc"),
    "after": asking.cursor(),
    "limit": asking.whole(1, 200, 100),
}
_LOGS: Mapping[str, Parameter] = {
    "after": asking.whole(0, 2**62, None),
    "before": asking.whole(0, 2**62, None),
    "around": asking.whole(0, 2**62, None),
    "level": asking.one_of(*LEVELS),
    "task": asking.text(),
    "text": asking.text(),
    "limit": asking.whole(1, 500, 200),
}
_TASK: Mapping[str, Parameter] = {"after": asking.cursor()}
_HISTORY: Mapping[str, Parameter] = {"limit": asking.whole(1, 200, 50)}
_COMPARE: Mapping[str, Parameter] = {"a": asking.run_id(needed=True), "b": asking.run_id(needed=True)}

VIEWS: Mapping[str, tuple[Answer, Mapping[str, Parameter]]] = {
    "runs": (runs.answer, _RUNS),
    "run": (run.answer, _ID),
    "timeline": (timeline.answer, {**_ID, **_TIMELINE}),
    "graph": (graph.answer, {**_ID, **_GRAPH}),
    "tasks": (tasks.answer, {**_ID, **_TASKS}),
    "logs": (logs.answer, {**_ID, **_LOGS}),
    "task": (task.answer, {**_ID, **_TASK}),
    "flow": (flows.history, {"name": asking.text()._replace(needed=True), **_HISTORY}),
}
"""What can be followed live."""

ROUTES = (
    Route("GET", "/healthz", HEALTH),
    Route("GET", "/", PAGE),
    Route("GET", "/runs", PAGE),
    Route("GET", "/runs/{id}", PAGE),
    Route("GET", "/tasks/{id}", PAGE),
    Route("GET", "/flows", PAGE),
    Route("GET", "/flows/{name}", PAGE),
    Route("GET", "/compare", PAGE),
    Route("GET", "/about", PAGE),
    Route("GET", "/assets/{file}", ASSET),
    Route("GET", "/api/about", READ, about.answer),
    Route("GET", "/api/runs", READ, runs.answer, _RUNS),
    Route("GET", "/api/runs/{id}", READ, run.answer),
    Route("GET", "/api/runs/{id}/timeline", READ, timeline.answer, _TIMELINE),
    Route("GET", "/api/runs/{id}/graph", READ, graph.answer, _GRAPH),
    Route("GET", "/api/runs/{id}/tasks", READ, tasks.answer, _TASKS),
    Route("GET", "/api/runs/{id}/logs", READ, logs.answer, _LOGS),
    Route("GET", "/api/tasks/{id}", READ, task.answer, _TASK),
    Route("GET", "/api/flows", READ, flows.answer),
    Route("GET", "/api/flows/{name}", READ, flows.history, _HISTORY),
    Route("GET", "/api/compare", READ, compare.answer, _COMPARE),
    Route("GET", "/api/live", LIVE),
    Route("GET", "/api/actions", READ, None, {"run": asking.run_id()}),
    Route("POST", "/api/actions/{action}", ACTION),
)


def find(method: str, path: str) -> Found | None:
    """The route for a path as it was sent. Parts that are the same are the same byte for byte."""
    for route in ROUTES:
        if route.method == method and (values := _match(route, path)) is not None:
            return Found(route, values)
    return None


def methods_of(path: str) -> list[str]:
    return sorted({route.method for route in ROUTES if _match(route, path) is not None})


def _match(route: Route, path: str) -> dict[str, str] | None:
    wanted, given = route.path.split("/"), path.split("/")
    if len(wanted) != len(given):
        return None
    values: dict[str, str] = {}
    for part, segment in zip(wanted, given, strict=True):
        if part.startswith("{") and segment:
            values[part[1:-1]] = segment
        elif part != segment:
            return None
    return values
