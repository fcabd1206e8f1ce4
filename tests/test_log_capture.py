"""How lines get to their runs, next to what a program does with `logging` and `print` itself."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from penstock import flow, get_run_logger, task
from penstock.testing import isolated_store

OWN = logging.getLogger("of_a_program")


@pytest.fixture(autouse=True)
def own_factory() -> Iterator[None]:
    before = logging.getLogRecordFactory()
    OWN.setLevel(logging.INFO)
    yield
    OWN.setLevel(logging.NOTSET)
    logging.setLogRecordFactory(before)


def said(body: Callable[[], Any], **options: Any) -> list[str]:
    """The lines that are recorded when this is the body of a task."""
    with isolated_store() as store:
        flow(name="around")(lambda: task(name="body", **options)(body)())()
    (root,) = store.runs()
    (run,) = store.tree(root.id)
    return [line.message for line in store.logs(run.id)]


def speak() -> None:
    OWN.info("own")
    get_run_logger().info("run")


def mark(make: Callable[..., logging.LogRecord]) -> Callable[..., logging.LogRecord]:
    def factory(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        record.marked = getattr(record, "marked", 0) + 1
        return record

    return factory


def test_a_factory_of_the_programs_own(caplog: pytest.LogCaptureFixture) -> None:
    """Set before the first flow or between two, made of ours or not: lines are recorded once, the factory is used."""
    assert said(speak) == ["own", "run"]
    for make in (lambda: logging.LogRecord, logging.getLogRecordFactory, logging.getLogRecordFactory):
        logging.setLogRecordFactory(mark(make()))
        for _ in range(2):
            caplog.clear()
            assert said(speak) == ["own", "run"]
            assert min(record.marked for record in caplog.records if record.name == OWN.name) >= 1


def test_records_that_are_made_by_hand_are_not_lines() -> None:
    def body() -> None:
        logging.makeLogRecord({"msg": "never logged", "levelno": 10})
        OWN.info("logged")

    assert said(body) == ["logged"]


def test_extra_facts_of_the_programs_own(caplog: pytest.LogCaptureFixture) -> None:
    def body() -> None:
        OWN.info("own", extra={"flow_run_id": "theirs", "attempt": "theirs"})
        get_run_logger().info("run", extra={"rows": 7})

    assert said(body) == ["own", "run"]
    own, run = [record for record in caplog.records if record.getMessage() in ("own", "run")]
    assert (own.flow_run_id, run.rows, run.task_run_name) == ("theirs", 7, "body-0")  # type: ignore[attr-defined]


def test_a_line_belongs_to_where_it_was_written(caplog: pytest.LogCaptureFixture) -> None:
    assert said(lambda: [speak(), print("printed")], log_prints=True) == ["own", "run", "printed"]
    places = {(record.filename, record.funcName) for record in caplog.records if record.name == "penstock.task_runs"}
    assert {place for place, _ in places} == {"test_log_capture.py"}


def test_a_wrapper_may_say_whose_line_it_is(caplog: pytest.LogCaptureFixture) -> None:
    def wrapper() -> None:
        get_run_logger().info("wrapped", stacklevel=2)

    def caller() -> None:
        wrapper()

    said(caller)
    (record,) = [record for record in caplog.records if record.message == "wrapped"]
    assert record.funcName == "caller"


def test_a_printed_traceback_is_lines_of_the_log() -> None:
    def body() -> None:
        try:
            raise ValueError("wrong")
        except ValueError:
            traceback.print_exc()

    lines = said(body, log_prints=True)
    assert lines[0] == "Traceback (most recent call last):" and lines[-1] == "ValueError: wrong"
    assert not any(line.endswith("\n") for line in lines)


class Failing(logging.Handler):
    """Says so on standard error, by `print`, as handlers do."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            raise OSError("disk full")
        except OSError:
            self.handleError(record)


def test_a_handlers_trouble_is_not_logged(capsys: pytest.CaptureFixture[str]) -> None:
    """It would come back to the handler."""
    handler = Failing()
    OWN.addHandler(handler)
    try:
        assert said(lambda: OWN.info("line"), log_prints=True) == ["line"]
    finally:
        OWN.removeHandler(handler)
    errors = capsys.readouterr().err
    assert errors.count("--- Logging error ---") == 1 and "OSError: disk full" in errors


def test_prints_to_standard_error_are_captured_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(lambda: print("an error", file=sys.stderr), log_prints=True) == ["an error"]
    assert "an error" not in capsys.readouterr().err
