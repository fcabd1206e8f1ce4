"""What it costs those who write that dashboards are open on their run."""

from __future__ import annotations

import http.client
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from benchmarks.figures import Figure, at_most, percentile
from penstock.settings import home
from penstock.store.base import Batch, LogRow
from penstock.store.files import database_in, log_of, size_of
from penstock.store.sqlite import SQLiteStore
from penstock.testing.store_suite import child_row, run_row

SECONDS, TURNS, EVERY, ROWS = 5.0, 4, 0.02, 50
BEFORE = 20_000  # task runs that are there when it begins
LARGEST_CHANGE, LARGEST_LOG = 50, 64  # ms, MB
TABS = (("run", "timeline", "runs"), ("run", "tasks"), ("run", "logs"))  # what each tab holds open


def commits() -> Iterator[Figure]:
    """In turns without and with dashboards, so that the growing store and the machine's mood touch both alike."""
    writer = _Writer(SQLiteStore(home()))
    writer.write(BEFORE)
    alone: list[float] = []
    watched: list[float] = []
    for _ in range(TURNS):
        alone += writer.write_for(SECONDS)
        with _opened(writer.root.id) as looks:
            watched += writer.write_for(SECONDS)
        assert min(looks.values()) and sum(looks.values()) > 2 * len(looks), looks  # they were told of changes
    writer.store.close()
    for share, name in ((0.5, "p50"), (0.99, "p99")):
        one, other = percentile(alone, share) * 1000, percentile(watched, share) * 1000
        said = f"{one:.2f} ms without, {other:.2f} ms with", f"{len(watched)} commits of {ROWS} task runs"
        what = f"commits of a busy run while {len(TABS)} tabs are open on it: {name} grows"
        yield at_most(what, LARGEST_CHANGE, "ms", max(0.0, other - one), *said)
    yield at_most("the same: largest write-ahead log", LARGEST_LOG, "MB", writer.largest_log / 2**20)


class _Writer:
    """A run that goes on, and on."""

    def __init__(self, store: SQLiteStore) -> None:
        self.store = store
        now = time.time()
        self.root = run_row(1, kind="flow", status="RUNNING", state_name="Running", created=now, started=now)
        self._number = 2
        self.largest_log = 0

    def write(self, rows: int) -> None:
        for _ in range(rows // ROWS):
            self.store.write(self._batch(), patience=10)

    def write_for(self, seconds: float) -> list[float]:
        """What each commit took."""
        until = time.monotonic() + seconds
        costs = []
        while time.monotonic() < until:
            batch = self._batch()
            began = time.perf_counter()
            self.store.write(batch, patience=10)
            costs.append(time.perf_counter() - began)
            self.largest_log = max(self.largest_log, size_of(log_of(database_in(home()))))
            time.sleep(EVERY)
        return costs

    def _batch(self) -> Batch:
        batch = Batch.empty()
        now = time.time()
        times = dict.fromkeys(("created", "ready", "started", "attempt_started"), now)
        done: Mapping[str, Any] = {"status": "COMPLETED", "state_name": "Completed", "ended": now + 0.01, **times}
        batch.runs.append(self.root)
        for _ in range(ROWS):
            row = child_row(self._number, self.root, **done)
            self._number += 1
            batch.runs.append(row)
            batch.logs.append(LogRow(row.id, now, 20, "benchmark", "it was here"))
        return batch


@contextmanager
def _opened(run_id: str) -> Iterator[dict[str, int]]:
    """A dashboard for each tab; how many events each view was sent."""
    looks: dict[str, int] = {}
    with ExitStack() as stack:
        for tab, views in enumerate(TABS):
            port = stack.enter_context(_served())
            for view in views:
                asked = "" if view == "runs" else f"&id={run_id}" + ("&after=0" if view == "logs" else "")
                stack.enter_context(_read(port, view + asked, looks, f"{tab} {view}"))
        yield looks


@contextmanager
def _served() -> Iterator[int]:
    command = [sys.executable, "-u", "-m", "penstock.cli", "ui", "--store", str(home()), "--no-token", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout is not None
        try:
            yield next(int(found[1]) for line in server.stdout if (found := re.search(r"http://[\d.]+:(\d+)", line)))
        finally:
            server.terminate()


@contextmanager
def _read(port: int, view: str, looks: dict[str, int], name: str) -> Iterator[None]:
    looks[name] = 0
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", f"/api/live?view={view}")
    response = connection.getresponse()

    def listen() -> None:
        while line := response.readline():
            looks[name] += line.startswith(b"data:")

    reader = threading.Thread(target=listen)
    reader.start()
    yield
    connection.sock.shutdown(2)
    reader.join(10)
