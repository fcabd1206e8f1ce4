"""What single settings do: those that no other test is about."""

from __future__ import annotations

import logging
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from penstock import calls, flow, task
from penstock.cli import main
from penstock.settings import home, temporary_settings
from penstock.states import StateType
from penstock.store.base import LogRow
from penstock.store.sqlite import SQLiteReader, SQLiteStore
from penstock.task_runners import ProcessPoolTaskRunner
from penstock.testing.store_suite import batch, run_row

RUNNERS = {"threads": None, "processes": ProcessPoolTaskRunner}
DAY = 86400.0


@task
def fails() -> None:
    raise ValueError("x")


@pytest.mark.parametrize(("setting", "ends"), [("fail", StateType.FAILED), ("warn", StateType.COMPLETED)])
def test_on_unobserved_failure(setting: str, ends: StateType) -> None:
    @flow
    def forgets() -> int:
        fails.submit()
        return 1

    @flow
    def outer() -> Any:
        return forgets(return_state=True).type

    with temporary_settings({"flows_default_on_unobserved_failure": setting}):
        assert forgets(return_state=True).type is ends
        strict = forgets.with_options(on_unobserved_failure="fail")
        assert strict(return_state=True).type is StateType.FAILED
        forgiving = forgets.with_options(on_unobserved_failure="warn")
        assert forgiving(return_state=True).type is StateType.COMPLETED
        assert outer() is ends or ends is StateType.FAILED


@task(persist_result=True)
def inner() -> bytes:
    return b"i" * 200


@task(persist_result=True)
def makes() -> bytes:
    inner()
    return b"o" * 200


@pytest.mark.parametrize("runner", RUNNERS)
def test_inline_bytes(runner: str) -> None:
    """Of values that the process of the flow keeps, and of those that a worker keeps."""

    @flow(task_runner=RUNNERS[runner])
    def makes_one() -> None:
        makes.submit().result()

    def kept() -> int:
        makes_one()
        directory = home() / "results"
        return len([path for path in directory.rglob("*") if path.is_file()]) if directory.exists() else 0

    assert kept() == 0
    with temporary_settings({"results_inline_bytes": 100}):
        assert kept() == 2
    assert kept() == 2


def lines() -> list[str]:
    with closing(SQLiteReader(home())) as reader:
        (root,) = reader.runs()
        found: list[LogRow] = reader.logs(root.id)
    return [row.message for row in found if row.logger == "mine"]


@task
def speaks() -> None:
    logger = logging.getLogger("mine")
    logger.setLevel(1)
    for level in (5, 10, 20, 30):
        logger.log(level, "line of level %d", level)


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize(("setting", "first"), [(None, 5), ("DEBUG", 10), ("WARNING", 30)])
def test_record_level(runner: str, setting: str | None, first: int, caplog: pytest.LogCaptureFixture) -> None:
    @flow(task_runner=RUNNERS[runner])
    def talks() -> None:
        speaks.submit().wait()

    with temporary_settings({"logging_record_level": setting}):
        talks()
    assert lines() == [f"line of level {level}" for level in (5, 10, 20, 30) if level >= first]
    if runner == "threads":  # handlers get all of them
        assert len([record for record in caplog.records if record.name == "mine"]) == 4


def test_window() -> None:
    @flow
    def does_nothing() -> None: ...

    with temporary_settings({"store_window_seconds": 0.5}):
        does_nothing()
        assert calls.process_recorder().window == 0.5
    does_nothing()
    assert calls.process_recorder().window == 0.05


def test_patience(caplog: pytest.LogCaptureFixture) -> None:
    """A store that somebody else has locked counts as failing after that time."""

    @flow
    def does_nothing() -> None: ...

    does_nothing()
    with closing(sqlite3.connect(home() / "penstock.db", isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        with temporary_settings({"store_patience_seconds": 0.02}):
            does_nothing()
        assert any("Cannot record runs" in record.getMessage() for record in caplog.records)
        holder.execute("ROLLBACK")


def test_keep_days(own_store: Path) -> None:
    now = time.time()
    rows = [run_row(number, ended=now - number * DAY, created=now - number * DAY) for number in (1, 3)]
    with closing(SQLiteStore(own_store)) as store:
        store.write(batch(*rows))

    def prune(*options: str) -> list[str]:
        assert CliRunner().invoke(main, ["prune", "--yes", *options]).exit_code == 0
        with closing(SQLiteReader(own_store)) as reader:
            return [row.id for row in reader.runs()]

    assert len(prune()) == 2
    with temporary_settings({"store_keep_days": 2}):
        assert len(prune("--keep", "4d")) == 2
        assert prune() == [rows[0].id]
