"""Resuming a large run: how long until it goes on, and until everything is restored."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path

from penstock import flow, resume, task
from penstock.settings import home
from penstock.store.sqlite import SQLiteReader

RUNS = 100_000
failing = True
began: list[float] = []
executed = 0


@task
def step(x: int) -> int:
    global executed
    executed += 1
    return x


@task
def last(count: int) -> int:
    if failing:
        raise ValueError("told to fail")
    return count


@flow(persist_result=True, durability="memory")
def large() -> int:
    began.append(time.perf_counter())
    return last(len(step.map(range(RUNS)).result()))


def until_it_goes_on() -> float:
    """Seconds from `resume` to the first line of the flow, with 100,000 task runs to be restored."""
    global failing
    logging.disable()
    try:
        large()
    except ValueError:
        failing = False
    reader = SQLiteReader(Path(home()))
    run = reader.runs(limit=1)[0]
    reader.close()
    assert executed == RUNS
    start = time.perf_counter()
    assert resume(run.id) == RUNS
    assert executed == RUNS, "something ran again"
    print(f"all of them restored {time.perf_counter() - began[-1]:.1f} s after that", file=sys.stderr, flush=True)
    return began[-1] - start
