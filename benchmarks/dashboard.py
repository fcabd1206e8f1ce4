"""What the dashboard's answers take, and what it takes from those who write: at the sizes that it promises."""

from __future__ import annotations

import http.client
import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from penstock import flow, get_run_logger, task
from penstock.settings import home
from penstock.store.base import Batch, LogRow
from penstock.store.files import database_in, log_of, size_of
from penstock.store.sqlite import SQLiteStore
from penstock.task_runners import ThreadPoolTaskRunner
from penstock.testing.store_suite import child_row, run_row
from penstock.ui import asking, routes
from penstock.ui.records import Records

TASKS, LOUD, LINES_EACH = 100_000, 50_000, 20
LARGEST = 200_000  # bytes of an answer
REPEATS = 5
VIEWS = (
    ("", ""),
    ("/timeline", ""),
    ("/timeline", "width=2000"),
    ("/timeline", "open=step&rows=200"),
    ("/timeline", "open=step&rows=200&first=50000"),
    ("/graph", ""),
    ("/graph", "group=step"),
    ("/tasks", "limit=200"),
    ("/tasks", "limit=200&sort=duration&direction=desc"),
    ("/tasks", "limit=200&sort=name"),
    ("/tasks", "text=nowhere"),
    ("/tasks", "state=failed"),
    ("/logs", "limit=500"),
    ("/logs", "level=error"),
    ("/logs", "text=nowhere"),
)


@task
def step(number: int) -> int:
    if number % 1000 == 999:
        raise ValueError(number)
    return number


@task
def say(number: int) -> None:
    logger = get_run_logger()
    for line in range(LINES_EACH):
        logger.info("task %d says line %d", number, line)


@flow(task_runner=ThreadPoolTaskRunner(max_workers=8))
def large() -> None:
    step.map(range(TASKS)).wait()


@flow(task_runner=ThreadPoolTaskRunner(max_workers=8))
def loud() -> None:
    say.map(range(LOUD)).wait()


def the_slowest_answer() -> float:
    """CPU time in ms, each at its best, for somebody who remembers nothing; all of them are small enough."""
    logging.getLogger("penstock").setLevel(logging.CRITICAL)
    logging.getLogger("penstock").addHandler(logging.NullHandler())
    large(return_state=True)  # a hundred of them fail
    logging.getLogger("penstock").setLevel(logging.INFO)
    loud()
    costs: dict[str, float] = {}
    for target, query in _targets():
        sizes, times = zip(*(_asked(target, query) for _ in range(REPEATS)), strict=True)
        assert max(sizes) <= LARGEST, (target, query, max(sizes))
        costs[f"{target}?{query}"] = min(times)
        print(f"{min(times):8.1f} ms {max(sizes) / 1000:8.1f} kB  {target}?{query}", file=sys.stderr)
    return max(costs.values())


def _targets() -> Iterator[tuple[str, str]]:
    records = Records(home())
    rows = {row.name: row.id for row in records.reader.runs(limit=10)}
    child = records.reader.tree(rows["large"], limit=1)[0].id
    records.close()
    yield from (("/api/runs", ""), ("/api/runs", "text=nowhere"), ("/api/flows", ""), ("/api/flows/large", ""))
    for run_id in rows.values():
        yield from ((f"/api/runs/{run_id}{view}", query) for view, query in VIEWS)
    yield f"/api/tasks/{child}", ""


def _asked(target: str, query: str) -> tuple[int, float]:
    found = routes.find("GET", target)
    assert found is not None and found.route.answer is not None
    values = {name: asking.in_path(name, routes.IN_PATH[name], text) for name, text in found.in_path.items()}
    records = Records(home())
    records.version()  # it is connected
    if "first=" in query:  # who scrolls has had the beginning before
        found.route.answer(records, {**asking.read("", found.route.parameters), **values})
    began = time.thread_time()
    document = found.route.answer(records, {**asking.read(query, found.route.parameters), **values})
    body = json.dumps(document, separators=(",", ":"))
    took = time.thread_time() - began
    records.close()
    return len(body), took * 1000


# --- what it costs those who write ---

SECONDS, EVERY, ROWS = 8.0, 0.02, 50
LARGEST_LOG = 64 * 2**20


def delay_of_commits() -> float:
    """By how many ms the 99th percentile of a commit grows, when the largest views of its run are open."""
    writer = _Writer(SQLiteStore(home()))
    writer.write_for(SECONDS)  # until there is something to look at
    alone = writer.write_for(SECONDS)
    with _opened(writer.root.id):
        watched = writer.write_for(SECONDS)
    writer.store.close()
    assert writer.largest_log < LARGEST_LOG, writer.largest_log
    print(f"alone {alone:.2f} ms, watched {watched:.2f} ms, log {writer.largest_log / 2**20:.1f} MB", file=sys.stderr)
    return watched - alone


class _Writer:
    """A run that goes on, and on."""

    def __init__(self, store: SQLiteStore) -> None:
        self.store = store
        now = time.time()
        self.root = run_row(1, kind="flow", status="RUNNING", state_name="Running", created=now, started=now)
        self._number = 2
        self.largest_log = 0

    def write_for(self, seconds: float) -> float:
        """The 99th percentile of the commits, in ms."""
        until = time.monotonic() + seconds
        costs = []
        while time.monotonic() < until:
            batch = self._batch()
            began = time.perf_counter()
            self.store.write(batch, patience=10)
            costs.append(time.perf_counter() - began)
            self.largest_log = max(self.largest_log, size_of(log_of(database_in(home()))))
            time.sleep(EVERY)
        return sorted(costs)[int(len(costs) * 0.99)] * 1000

    def _batch(self) -> Batch:
        batch = Batch.empty()
        now = time.time()
        done: Mapping[str, Any] = {
            "status": "COMPLETED",
            "state_name": "Completed",
            "started": now,
            "ended": now + 0.01,
        }
        batch.runs.append(self.root)
        for _ in range(ROWS):
            row = child_row(self._number, self.root, created=now, ready=now, attempt_started=now, **done)
            self._number += 1
            batch.runs.append(row)
            batch.logs.append(LogRow(row.id, now, 20, "benchmark", "it was here"))
        return batch


@contextmanager
def _opened(run_id: str) -> Iterator[None]:
    command = [sys.executable, "-m", "penstock.cli", "ui", "--store", str(home()), "--no-token"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert server.stdout is not None
    port = int(server.stdout.readline().rpartition(":")[2].rstrip("/\n"))
    views = (f"run&id={run_id}", f"timeline&id={run_id}", f"tasks&id={run_id}", f"logs&id={run_id}&after=0", "runs")
    readers = [threading.Thread(target=_read, args=(port, view), daemon=True) for view in views]
    for reader in readers:
        reader.start()
    try:
        yield
    finally:
        server.terminate()
        server.wait()
        for reader in readers:
            reader.join(10)


def _read(port: int, view: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", f"/api/live?view={view}")
    response = connection.getresponse()
    try:
        while response.read1(65536):
            pass
    except (OSError, http.client.HTTPException):
        pass
