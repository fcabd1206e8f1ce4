"""What it costs to keep values, against one SQLite transaction for each row in the same run."""

from __future__ import annotations

import itertools
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks.measure import Reading, compare, timed
from penstock import flow, task
from penstock.cache_policies import INPUTS, NO_CACHE
from penstock.task_runners import ThreadPoolTaskRunner

RUNS = 500
THREADS = 8
ROW = ("0" * 32, "a task run", 0.0, b"x" * 250)


def serial(durability: str) -> Reading:
    """Direct calls, each kept before it returns."""
    return _against_rows(_in_flow(_call_all, durability), durability, RUNS)


def threads(durability: str) -> Reading:
    """Submitted to eight threads: those that end at the same time share a transaction."""
    return _against_rows(_in_flow(_map_all, durability), durability, RUNS * 4)


def hits() -> Reading:
    """Direct calls that the cache answers."""
    step = task(cache_policy=INPUTS)(_value)

    @flow
    def ours() -> None:
        for _ in range(RUNS):
            step(1)

    return _against_rows(ours, "process", RUNS)


def _value(x: int) -> int:
    return x


def _in_flow(body: Callable[[Any], None], durability: str) -> Callable[[], Any]:
    step = task(cache_policy=NO_CACHE)(_value)
    runner = ThreadPoolTaskRunner(max_workers=THREADS)
    return flow(persist_result=True, durability=durability, task_runner=runner)(lambda: body(step))


def _call_all(step: Any) -> None:
    for i in range(RUNS):
        step(i)


def _map_all(step: Any) -> None:
    step.map(range(RUNS * 4)).result()


def _against_rows(ours: Callable[[], Any], durability: str, count: int) -> Reading:
    with tempfile.TemporaryDirectory() as directory, closing(_database(directory, durability)) as database:
        numbers = itertools.count()

        def bare() -> None:
            for _ in range(count):
                database.execute("INSERT INTO rows VALUES (?, ?, ?, ?, ?)", (next(numbers), *ROW))

        a, b, ratio = compare(timed(ours), timed(bare), rounds=5)
    return Reading(f"{count / a:,.0f} per second, one row per transaction {count / b:,.0f}", ratio, ratio)


def _database(directory: str, durability: str) -> sqlite3.Connection:
    connection = sqlite3.connect(Path(directory, "rows.db"), isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA synchronous = {'FULL' if durability == 'power' else 'NORMAL'}")
    connection.execute("CREATE TABLE rows (number INTEGER PRIMARY KEY, id TEXT, name TEXT, time REAL, value BLOB)")
    return connection
