"""`penstock ls`: which runs it lists, in which pages."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import pytest
from looking import ETL, FLOW, LOAD, NOON, REPORT, document, penstock, task

from penstock.cli.times import seconds_of
from penstock.store.base import RunRow
from penstock.store.sqlite import SQLiteStore
from penstock.testing.store_suite import batch, run_row

pytestmark = pytest.mark.usefixtures("greenwich")

HOUR = 3600.0


def root(number: int, hours_ago: float = 0.0, **changes: Any) -> RunRow:
    usual = {"kind": "flow", "name": "etl", "status": "COMPLETED", "state_name": "Completed"}
    return run_row(number, created=NOON - hours_ago * HOUR, **{**usual, **changes})


@pytest.fixture
def store(store: SQLiteStore, monkeypatch: pytest.MonkeyPatch) -> SQLiteStore:
    monkeypatch.setattr(time, "time", lambda: NOON)
    store.write(
        batch(
            root(1, 50.0, status="FAILED", state_name="Failed", error="disk is full", tags='["nightly"]'),
            root(2, 30.0, name="report", run_name="for Zürich", parameters='{"city": "\'Z\\u00fcrich\'"}'),
            root(3, 13.0, status="FAILED", state_name="TimedOut", tags='["nightly", "slow"]'),
            root(4, 1.0, state_name="Skipped", message="nothing new"),
            root(5, 0.1, kind="task", name="etl", status="RUNNING", state_name="Running"),
        )
    )
    return store


def listed(*arguments: object) -> list[int]:
    return [int(run["id"], 16) for run in document("ls", *arguments)["runs"]]


@pytest.mark.parametrize(
    ("arguments", "numbers"),
    [
        ([], [5, 4, 3, 2, 1]),
        (["--flow", "etl"], [4, 3, 1]),
        (["--name", "etl"], [5, 4, 3, 1]),
        (["--state", "failed"], [3, 1]),
        (["--state", "FAILED", "--state", "running"], [5, 3, 1]),
        (["--state", "timedout"], [3]),
        (["--state", "Skipped"], [4]),
        (["--status", "completed"], [4, 2]),
        (["--tag", "nightly"], [3, 1]),
        (["--tag", "nightly", "--tag", "slow"], [3]),
        (["--since", "2h"], [5, 4]),
        (["--since", "2d"], [5, 4, 3, 2]),
        (["--since", "today"], [5, 4]),
        (["--since", "yesterday", "--until", "today"], [3, 2]),
        (["--until", "2023-11-14T07:00"], [2, 1]),
        (["--text", "DISK"], [1]),
        (["--text", "zürich"], [2]),
        (["--text", "ZÜRICH"], []),
        (["--text", "nothing"], [4]),
        (["--flow", "etl", "--state", "failed", "--since", "1d"], [3]),
        (["--limit", "2"], [5, 4]),
    ],
)
def test_runs_are_listed_that_are_all_that_was_asked_for(
    store: SQLiteStore, arguments: list[str], numbers: list[int]
) -> None:
    assert listed(*arguments) == numbers


def test_pages_follow_one_another(store: SQLiteStore) -> None:
    seen, before = [], None
    while True:
        page = document("ls", "-n", 2, *(["--before", before] if before else []))
        seen += [int(run["id"], 16) for run in page["runs"]]
        before = page["next"]
        if before is None:
            break
    assert seen == [5, 4, 3, 2, 1]


def test_the_next_page_is_named_on_standard_error(store: SQLiteStore) -> None:
    result = penstock("ls", "-n", 3)
    assert result.stderr == f"There are more: --before {3:032x}\n"
    assert result.stdout.count("\n") == 4
    assert penstock("ls", "-n", 5).stderr == ""


def test_a_state_that_nobody_knows_is_a_slip(store: SQLiteStore) -> None:
    result = penstock("ls", "--state", "faild")
    assert result.exit_code == 2
    assert "no run is in a state of the name 'faild': did you mean failed?" in result.stderr
    result = penstock("ls", "--state", "great")
    assert "Known states are pending, running" in result.stderr and "UpstreamFailed" in result.stderr
    assert penstock("ls", "--state", "AwaitingRetry").exit_code == 0  # it is only that none is


def test_what_runs_inside_another(store: SQLiteStore) -> None:
    store.write(ETL)
    result = penstock("ls", "--in", "brave-otter", "--state", "failed")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        "RUN       STATE           ATTEMPTS  STARTED              DURATION  ERROR",
        "report-0  UpstreamFailed  0         2023-11-15 12:00:04  -         UpstreamTaskError: load-0 failed",
        "load-0    Failed          2         2023-11-15 12:00:03  500 ms    KeyError: 'price'",
    ]
    assert [run["id"] for run in document("ls", "--in", "brave-otter", "--name", "load", "-n", 2)["runs"]] == [
        f"{5:032x}",
        REPORT.id,
    ]
    assert document("ls", "--in", "brave-otter", "--before", REPORT.id, "-n", 1)["runs"][0]["id"] == LOAD.id
    assert penstock("ls", "--in", "nobody").exit_code == 3


def test_a_mapped_task_is_counted_by_the_page(store: SQLiteStore) -> None:
    store.write(batch(FLOW, *(task(n, f"load-0[{n}]") for n in range(100, 130))))
    result = penstock("ls", "--in", "brave-otter")
    assert result.stdout.count("\n") == 21
    assert f"--before {110:032x}" in result.stderr


NOW = datetime(2024, 5, 31, 12, 30, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("45s", "2024-05-31T12:29:15"),
        ("10m", "2024-05-31T12:20:00"),
        ("2h", "2024-05-31T10:30:00"),
        ("1.5h", "2024-05-31T11:00:00"),
        ("3d", "2024-05-28T12:30:00"),
        ("1w", "2024-05-24T12:30:00"),
        ("today", "2024-05-31T00:00:00"),
        ("yesterday", "2024-05-30T00:00:00"),
        ("2024-05-01", "2024-05-01T00:00:00"),
        ("2024-05-01 08:15", "2024-05-01T08:15:00"),
        ("2024-05-01T08:15:00+02:00", "2024-05-01T06:15:00"),
        ("2024-05-01T08:15Z", "2024-05-01T08:15:00"),
    ],
)
def test_moments(text: str, moment: str) -> None:
    assert datetime.fromtimestamp(seconds_of(text, NOW), UTC).replace(tzinfo=None).isoformat() == moment


@pytest.mark.parametrize("text", ["soon", "2x", "-3d", "", "2024-13-01", "tomorrow"])
def test_what_is_no_moment(store: SQLiteStore, text: str) -> None:
    result = penstock("ls", "--since", text)
    assert result.exit_code == 2
    assert "is no time. A TIME is how long ago" in result.stderr.replace("\n", " ")
