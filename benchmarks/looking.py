"""The commands that look, at a store in which much has happened."""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks.measure import process_cpu, python
from penstock.settings import home
from penstock.store.base import Batch, RunRow
from penstock.store.sqlite import SQLiteStore
from penstock.testing.store_suite import child_row, run_row

RUNS, TASKS = 100_000, 20_000
NOWHERE = (
    ["--flow", "rare"],
    ["--state", "crashed"],
    ["--tag", "none"],
    ["--text", "nowhere"],
    ["--until", "2001-01-01"],
)
"""Filters that keep few runs or none: all are looked at."""


def ls_of_many_runs() -> float:
    """CPU time of the slowest filter, beyond what the command takes without any, in ms."""
    _write_many_runs()
    plain = _cpu("ls")
    return max(_cpu("ls", *arguments) for arguments in NOWHERE) - plain


def show_of_a_large_run() -> float:
    """CPU time in all, in ms."""
    with_tasks = run_row(1, kind="flow", name="etl", run_name="big")
    batch = Batch.empty()
    batch.runs.append(with_tasks)
    batch.runs.extend(child_row(number, with_tasks, **_done(number)) for number in range(2, TASKS + 2))
    _write(batch)
    return _cpu("show", "@last")


def _write_many_runs() -> None:
    for first in range(1, RUNS, 10_000):
        batch = Batch.empty()
        batch.runs.extend(_flow(number) for number in range(first, first + 10_000))
        batch.runs.extend(child_row(RUNS + row.map_index, row, **_done(1)) for row in batch.runs[:] if row.map_index)
        _write(batch)


def _flow(number: int) -> RunRow:
    name = "rare" if number % 20_000 == 0 else f"etl-{number % 5}"
    facts = {"parameters": f'{{"day": "\'monday\'", "n": "{number}"}}', "tags": '["nightly"]', "map_index": number}
    done = {**_done(number), "message": "All states completed.", "info": '{"host": "box", "pid": 12345}'}
    return run_row(
        number, kind="flow", name=name, run_name=f"brave-otter-{number}", created=1.7e9 + number, **facts, **done
    )


def _done(number: int) -> dict[str, object]:
    return {"status": "COMPLETED", "state_name": "Completed", "started": 1.7e9 + number, "ended": 1.7e9 + number + 1}


def _write(batch: Batch) -> None:
    store = SQLiteStore(home())
    store.write(batch)
    store.close()


def _cpu(*arguments: str) -> float:
    measure = process_cpu(python("-m", "penstock.cli", *arguments))
    assert Path(os.environ["PENSTOCK_HOME"], "penstock.db").exists()
    return min(measure() for _ in range(5)) * 1e3
