"""What the answers of the dashboard take, whatever it is asked, about runs of the sizes that it promises to show.

Each is asked of a dashboard that has just been started, and so remembers nothing, over HTTP.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from typing import Any, NamedTuple
from urllib.parse import urlencode

from benchmarks.figures import Figure, at_most
from penstock.settings import home
from penstock.ui import routes
from penstock.ui.records import Records
from penstock.ui.server import Server, Wish

MILLISECONDS, KILOBYTES = 200, 200
TRIES = 3
SORTS, DIRECTIONS = ("created", "duration", "name", "state", "attempts"), ("asc", "desc")
ZOOMS = (0.5, 0.1, 0.01, 0.0001)  # shares of a run that are looked at
TASKS = {
    "first": "name=fetch",
    "one with an input": "name=clean",
    "failed": "state=failed",
    "blocked": "state=blocked",
    "retried": "sort=attempts&direction=desc",
}
PAGES = ("/", "/runs", "/flows", "/compare", "/about", "/healthz")


class Cost(NamedTuple):
    processor: float  # ms
    wall: float
    size: float  # kB
    answer: bytes


class Known(NamedTuple):
    """What there is to ask for."""

    runs: dict[str, str]  # latest run by name of the flow
    spans: dict[str, tuple[float, float]]
    tasks: dict[str, str]  # some of the wide one


def answers() -> Iterator[Figure]:
    known = _known()
    targets = [*_targets(known)]
    _check_all_routes_are_there(targets)
    slowest = 0.0
    for target in targets:
        cost = _cost(target)
        slowest = max(slowest, cost.processor)
        yield _figure(_legible(target, known), cost)
    for what, query in (("finds nothing", "text=nowhere"), ("finds one in 50,000", "text=task+25000+says+line+7")):
        yield from _whole_search(f"/api/runs/{known.runs['loud']}/logs?limit=500&{query}", what)
    yield at_most("slowest answer, processor", MILLISECONDS, "ms", slowest)


def _figure(what: str, cost: Cost) -> Figure:
    holds = max(cost.processor, cost.wall) <= MILLISECONDS and cost.size <= KILOBYTES
    measured = f"{cost.processor:.0f} ms, by the clock {cost.wall:.0f} ms, {cost.size:.1f} kB"
    return Figure(what, f"≤ {MILLISECONDS} ms, {KILOBYTES} kB", measured, holds)


def _known() -> Known:
    records = Records(home())
    runs = {row.name: row for row in reversed(records.reader.runs(limit=50))}
    records.close()
    spans = {name: (row.created, row.ended or row.created) for name, row in runs.items()}
    tasks = {
        what: _document(f"/api/runs/{runs['wide'].id}/tasks?limit=1&{query}")["columns"]["id"][0]
        for what, query in TASKS.items()
    }
    return Known({name: row.id for name, row in runs.items()}, spans, tasks)


def _legible(target: str, known: Known) -> str:
    for name, run_id in {**known.tasks, **known.runs}.items():
        target = target.replace(run_id, f"{{{name}}}")
    return target if len(target) < 140 else f"{target[:140]}…"


def _check_all_routes_are_there(targets: list[str]) -> None:
    asked = {found.route.path for one in targets if (found := routes.find("GET", one.partition("?")[0]))}
    missing = {one.path for one in routes.ROUTES if one.kind in (routes.READ, routes.LIVE)} - asked
    assert not missing, missing


# --- what is asked ---


def _targets(known: Known) -> Iterator[str]:
    yield from (*PAGES, "/api/about", "/api/actions", *_of_the_store(known))
    for name in ("wide", "loud"):
        yield from _of_a_run(known, name)
        yield from _of_its_logs(f"/api/runs/{known.runs[name]}/logs")
    yield from (f"/api/tasks/{task}" for task in known.tasks.values())
    wide, loud = known.runs["wide"], known.runs["loud"]
    yield f"/api/compare?a={wide}&b={loud}"
    for view in ("run", "timeline", "graph", "tasks", "logs"):
        yield f"/api/live?view={view}&id={wide}" + ("&after=0" if view == "logs" else "")
    yield f"/api/live?view=task&id={next(iter(known.tasks.values()))}"
    yield from ("/api/live?view=runs", "/api/live?view=flow&name=daily&limit=200")


def _of_the_store(known: Known) -> Iterator[str]:
    yield from ("/api/runs", "/api/runs?limit=200", "/api/flows", "/api/flows/daily?limit=200")
    yield from ("/api/flows/wide", "/api/flows/loud", "/api/flows/nowhere")
    for query in ("text=nowhere", "flow=daily", "state=failed&limit=200", "tag=nightly&tag=day+3", "parameter=day=7"):
        yield f"/api/runs?{query}"
    begin, end = known.spans["wide"]
    yield f"/api/runs?since={begin:.3f}&until={end:.3f}"
    yield _after("/api/runs?limit=200")


def _of_a_run(known: Known, name: str) -> Iterator[str]:
    run = f"/api/runs/{known.runs[name]}"
    first, last = ("fetch", "clean") if name == "wide" else ("say", "say")
    yield from (run, f"{run}/graph", f"{run}/graph?group={first}", _after(f"{run}/graph?group={last}"))
    yield from (f"{run}/timeline", f"{run}/timeline?width=2000")
    for first_row in (0, 25_000, 49_800):
        yield f"{run}/timeline?width=2000&open={last}&rows=200&first={first_row}"
    begin, end = known.spans[name]
    for share in ZOOMS:
        middle = begin + (end - begin) / 2
        zoomed = urlencode({"width": 2000, "from": middle, "to": middle + share * (end - begin), "open": last})
        yield f"{run}/timeline?{zoomed}"
    for sort, direction in product(SORTS, DIRECTIONS):
        yield f"{run}/tasks?limit=200&sort={sort}&direction={direction}"
        yield _last_page(f"{run}/tasks?limit=200", sort, direction)
    for query in ("text=nowhere", "text=49999", "state=failed", "state=blocked", f"group={last}", f"name={last}"):
        yield f"{run}/tasks?limit=200&{query}"
        yield f"{run}/tasks?limit=200&{query}&sort=duration&direction=desc"


def _of_its_logs(logs: str) -> Iterator[str]:
    bounds = _document(logs)
    middle = (bounds["first"] + bounds["last"]) // 2
    for place in ("", "after=0", f"around={middle}", f"before={middle}", f"after={middle}"):
        yield f"{logs}?limit=500&{place}".rstrip("&")
        yield f"{logs}?limit=500&text=line+7&{place}".rstrip("&")
    for query in ("level=warning", "level=error", "task=say", "task=say-0[49999]", "task=nowhere", "text=nowhere"):
        yield f"{logs}?limit=500&{query}"
    yield f"{logs}?limit=500&level=warning&task=say&text=line+19"


def _after(target: str) -> str:
    """The page behind that one."""
    document = _document(target)
    behind = document["next"] if "next" in document else document["nodes"]["next"]
    return f"{target}&{urlencode({'after': behind})}" if behind else target


def _last_page(target: str, sort: str, direction: str) -> str:
    """The first page in the other direction ends where the last one begins."""
    other = "desc" if direction == "asc" else "asc"
    behind = _document(f"{target}&sort={sort}&direction={other}")["next"]
    return f"{target}&sort={sort}&direction={direction}&{urlencode({'after': behind})}"


def _document(target: str) -> Any:
    with _started() as port:
        return json.loads(_asked(port, target).answer)


# --- what it takes ---


def _cost(target: str) -> Cost:
    costs = []
    for _ in range(TRIES):
        with _started() as port:
            costs.append(_asked(port, target))
    processor, wall = min(one.processor for one in costs), min(one.wall for one in costs)
    return Cost(processor, wall, max(one.size for one in costs), costs[0].answer)


@contextmanager
def _started() -> Iterator[int]:
    """The port of a dashboard in a thread of this process."""
    server = Server(Wish(str(home()), no_token=True))
    ready = threading.Event()
    thread = threading.Thread(target=server.serve, args=(ready.set,))
    thread.start()
    ready.wait(20)
    _asked(server.port, "/api/runs/" + "0" * 32)  # it has opened the store
    yield server.port
    server.stop()
    thread.join()


def _asked(port: int, target: str) -> Cost:
    """The processor's time is that of both sides."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    processor, wall = time.process_time(), time.perf_counter()
    connection.request("GET", target)
    response = connection.getresponse()
    body = _event(response) if target.startswith("/api/live") else response.read()
    cost = Cost((time.process_time() - processor) * 1000, (time.perf_counter() - wall) * 1000, len(body) / 1000, body)
    assert response.status == 200 or "0" * 32 in target or "/actions" in target, (target, response.status, body)
    connection.close()
    return cost


def _event(response: http.client.HTTPResponse) -> bytes:
    """The first that is more than a sign of life."""
    lines: list[bytes] = []
    while line := response.readline():
        lines.append(line)
        if line.startswith(b"data:"):
            break
    return b"".join(lines)


def _whole_search(target: str, what: str) -> Iterator[Figure]:
    """Backwards through the whole log, as somebody does who scrolls until there is nothing more."""
    with _started() as port:
        found, worst, spent, number, cursor = 0, 0.0, 0.0, 0, None
        while number == 0 or cursor is not None:
            cost = _asked(port, target if cursor is None else f"{target}&before={cursor}")
            document = json.loads(cost.answer)
            found, cursor = found + len(document["columns"]["seq"]), document["before"]
            worst, spent, number = max(worst, cost.processor), spent + cost.wall, number + 1
    said = f"{number} answers, {spent / 1000:.1f} s in all, {found} lines found"
    yield at_most(f"a search through 1,000,000 lines that {what}: slowest answer", MILLISECONDS, "ms", worst, said)
