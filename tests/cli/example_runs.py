"""Recorded runs for tests of commands: one flow in which everything has happened, and a large one."""

from __future__ import annotations

import json
from typing import Any

from penstock.store.base import AttemptRow, Batch, EdgeRow, LogRow, RunRow
from penstock.testing.store_suite import batch, child_row, run_row

NOON = 1_700_049_600.0  # 2023-11-15 12:00:00 UTC

TRACEBACK = """Traceback (most recent call last):
  File "/venv/lib/python3.11/site-packages/penstock/_engine/attempt.py", line 9, in call
    return fn(x)
  File "/home/me/etl.py", line 12, in load
    return rows[key]
           ~~~~^^^^^
  File "/usr/lib/python3.11/collections/__init__.py", line 5, in __missing__
    raise KeyError(key)
KeyError: 'price'
"""


def flow_row(number: int = 1, **changes: Any) -> RunRow:
    """A flow run of 10 seconds that has completed."""
    facts = {
        "id": f"01a2{number:04x}" + "0" * 24,
        "kind": "flow",
        "name": "etl",
        "run_name": "brave-otter",
        "key": "shop:etl",
        "status": "COMPLETED",
        "state_name": "Completed",
        "created": NOON,
        "ready": NOON,
        "started": NOON + 0.01,
        "attempt_started": NOON + 0.01,
        "ended": NOON + 10,
        "result": "42",
        "parameters": json.dumps({"day": "'monday'", "limit": "3"}),
        "tags": '["nightly", "shop"]',
        "version": "v7",
        "info": json.dumps({"host": "laptop", "pid": 4242, "python": "3.11.7", "script": "/home/me/etl.py"}),
    }
    row = run_row(number, **{**facts, **changes})
    return row._replace(root_id=row.id)


def task_row(number: int, parent: RunRow, run_name: str, at: float, length: float = 1.0, **changes: Any) -> RunRow:
    """A task run that waited for 0.1 s until its inputs were there, and for 0.4 s until it was started `at` seconds."""
    start = NOON + at
    facts = {
        "id": parent.root_id[:-5] + f"{number:05x}",
        "name": run_name.partition("-")[0],
        "run_name": run_name,
        "status": "COMPLETED",
        "state_name": "Completed",
        "created": start - 0.5,
        "ready": start - 0.4,
        "started": start,
        "attempt_started": start,
        "ended": start + length,
        "result": f"'result of {run_name}'",
        "parameters": json.dumps({"n": str(number)}),
    }
    return child_row(number, parent, **{**facts, **changes})


FAILED = {"status": "FAILED", "state_name": "Failed", "result": None}
KEY_ERROR = {"error_type": "KeyError", "error": "'price'", "traceback": TRACEBACK}
NEVER = {"attempts": 0, "started": None, "attempt_started": None, "result": None}

FLOW = flow_row()
EXTRACT = task_row(2, FLOW, "extract-0", 1.0)
LOAD = task_row(3, FLOW, "load-0", 2.5, 2.0, attempts=2, attempt_started=NOON + 4, **FAILED, **KEY_ERROR)
REPORT = task_row(
    4, FLOW, "report-0", 4.0, 0.5, **NEVER, status="FAILED", state_name="UpstreamFailed", message="load-0 failed"
)
CACHED = task_row(5, FLOW, "clean-0", 5.0, 0.0, **{**NEVER, "result": "'kept'"}, state_name="Cached")
RETRIED = task_row(6, FLOW, "fetch-0[7]", 5.0, 3.0, attempts=3, attempt_started=NOON + 7, map_index=7)
CRASHED = task_row(7, FLOW, "send-0", 6.0, 0.5, status="CRASHED", state_name="Crashed", message="The worker is gone")
CANCELLED = task_row(8, FLOW, "wait-0", 6.5, 0.5, status="CANCELLED", state_name="Cancelled")
SUBFLOW = task_row(9, FLOW, "quick-heron", 8.0, 1.5, kind="flow", name="part", key="shop:part")
NESTED = task_row(10, SUBFLOW, "page-0", 8.5, 0.5)

ETL: Batch = batch(
    FLOW,
    EXTRACT,
    LOAD,
    REPORT,
    CACHED,
    RETRIED,
    CRASHED,
    CANCELLED,
    SUBFLOW,
    NESTED,
    AttemptRow(LOAD.id, 1, NOON + 2.5, NOON + 3, "Failed", "OSError", "reset by peer"),
    AttemptRow(RETRIED.id, 1, NOON + 5, NOON + 5.5, "Failed", "KeyError", "'price'", TRACEBACK),
    AttemptRow(RETRIED.id, 2, NOON + 6, NOON + 6.5, "TimedOut", "TimeoutError", "too slow"),
    EdgeRow(LOAD.id, EXTRACT.id, "data", "rows"),
    EdgeRow(REPORT.id, LOAD.id, "wait_for"),
    LogRow(FLOW.id, NOON + 0.25, 20, "penstock", "begin"),
    LogRow(LOAD.id, NOON + 3.5, 30, "shop", "two\nlines, the second with Price"),
    LogRow(LOAD.id, NOON + 3.6, 10, "shop", "price is not there"),
    LogRow(CRASHED.id, NOON + 6.25, 40, "shop", "worker lost"),
)
"""One flow run in which everything has happened."""


def large(number: int) -> Batch:
    """A flow run that has mapped over `number` items, a hundred at a time: every 97th is retried, every 997th fails."""
    flow = flow_row(run_name="busy-beaver", ended=NOON + number / 100 + 1)
    rows: list[Any] = [flow]
    for index in range(number):
        at = 0.5 + index / 100
        load = task_row(index + 2, flow, f"load-0[{index}]", at, 0.9, map_index=index)
        if index % 997 == 500:
            load = load._replace(**FAILED, **KEY_ERROR)._replace(error=f"{index}", traceback=TRACEBACK + f"at {index}")
        if index % 97 == 13:
            load = load._replace(attempts=2, attempt_started=NOON + at + 0.5)
            rows.append(AttemptRow(load.id, 1, NOON + at, NOON + at + 0.2, "Failed", "OSError", f"{index}: reset"))
        rows.append(load)
        if index % 10 == 0:
            rows.append(LogRow(load.id, NOON + at, 20, "shop", f"loading {index}"))
    return batch(*rows)
