"""What the tests of the commands that look have in common: a recorded flow in which much happened, and how to ask."""

from __future__ import annotations

import json
from typing import Any

from click.testing import CliRunner, Result
from example_runs import NOON as NOON
from example_runs import TRACEBACK as TRACEBACK

from penstock.cli import main
from penstock.store.base import AttemptRow, EdgeRow, LogRow, RunRow
from penstock.testing.store_suite import batch, child_row, run_row

FLOW = run_row(
    1,
    id="01a2" + "0" * 28,
    root_id="01a2" + "0" * 28,
    kind="flow",
    name="etl",
    run_name="brave-otter",
    key="shop:etl",
    status="FAILED",
    state_name="Failed",
    created=NOON,
    started=NOON,
    ended=NOON + 4.2,
    error_type="KeyError",
    error="'price'",
    traceback=TRACEBACK,
    message="1/3 states failed.",
    parameters='{"day": "\'monday\'", "n": "3"}',
    tags='["nightly", "shop"]',
    version="v7",
)


def task(number: int, run_name: str, parent: RunRow = FLOW, **changes: object) -> RunRow:
    times = {"created": NOON + number, "started": NOON + number, "ended": NOON + number + 0.5}
    done = {"status": "COMPLETED", "state_name": "Completed"}
    return child_row(number, parent, run_name=run_name, **{**times, **done, **changes})


EXTRACT = task(2, "extract-0")
LOAD = task(3, "load-0", status="FAILED", state_name="Failed", attempts=2)._replace(
    error_type="KeyError", error="'price'", traceback=TRACEBACK
)
REPORT = task(4, "report-0", state_name="UpstreamFailed", status="FAILED", attempts=0, started=None)._replace(
    error_type="UpstreamTaskError", error="load-0 failed"
)
NESTED = task(5, "page-0", EXTRACT)
ETL = batch(
    FLOW,
    EXTRACT,
    LOAD,
    REPORT,
    NESTED,
    AttemptRow(LOAD.id, 1, NOON + 3, NOON + 3.1, "Failed", "OSError", "reset\x1b[31m"),
    EdgeRow(LOAD.id, EXTRACT.id, "data", "rows"),
    EdgeRow(REPORT.id, LOAD.id, "wait_for"),
    LogRow(FLOW.id, NOON + 0.25, 20, "penstock", "begin"),
    LogRow(LOAD.id, NOON + 3.5, 30, "shop", "two\nlines \x1b[2J"),
)


def penstock(*arguments: object, **options: Any) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], **options)


def document(*arguments: object) -> Any:
    """What a command prints with --json, which must be all that it prints."""
    result = penstock(*arguments, "--json")
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    return json.loads(result.stdout)
