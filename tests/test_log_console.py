"""Log lines on standard error: what a program gets that has not set up logging, and what one gets that has."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

PRELUDE = """
import logging, sys
from penstock import flow, get_run_logger, task

own = logging.getLogger("app.etl")

class Broken:
    def __str__(self):
        raise ValueError("no text")

@task(log_prints=True)
def extract(n):
    get_run_logger().info("row %d", n)
    own.warning("odd")
    own.info("not said by default")
    print("printed", n)

@flow(flow_run_name="brave-otter")
def etl():
    extract.map([7]).result()
"""


def run(body: str, tmp_path: Path, **environment: str) -> list[str]:
    """The lines on standard error of a program that begins with the prelude."""
    script = tmp_path / "program.py"
    script.write_text(PRELUDE + body)
    variables = {"PENSTOCK_HOME": str(tmp_path / "home"), "PATH": "", "PENSTOCK_PROGRESS": "off", **environment}
    done = subprocess.run(
        [sys.executable, script], env=variables, capture_output=True, text=True, timeout=50, errors="surrogateescape"
    )
    assert done.returncode == 0, done.stderr
    return done.stderr.splitlines()


def untimed(lines: list[str]) -> list[str]:
    return [
        re.sub(r" in \d+ ms| in [\d.]+ s", " in a while", re.sub(r"^\d\d:\d\d:\d\d\.\d{3} \| ", "", line))
        for line in lines
    ]


EXPECTED = [
    "INFO    | etl/brave-otter started",
    "INFO    | etl/brave-otter · extract-0[0] - row 7",
    "WARNING | etl/brave-otter · extract-0[0] - odd",
    "INFO    | etl/brave-otter · extract-0[0] - printed 7",
    "INFO    | etl/brave-otter COMPLETED in a while · 1 task run",
]


# --- text -------------------------------------------------------------------------------------------------------------


def test_a_line_has_time_level_run_and_task_run(tmp_path: Path) -> None:
    lines = run("etl()", tmp_path)
    assert all(re.match(r"\d\d:\d\d:\d\d\.\d{3} \| ", line) for line in lines)
    assert untimed(lines) == EXPECTED


def test_lines_that_have_nothing_to_do_with_runs_are_as_ever(tmp_path: Path) -> None:
    lines = run("own.warning('before'); etl(); own.warning('after'); own.info('never')", tmp_path)
    assert (lines[0], lines[-1]) == ("before", "after")
    assert untimed(lines[1:-1]) == EXPECTED


@pytest.mark.parametrize(("level", "said"), [("WARNING", EXPECTED[2:3]), ("ERROR", EXPECTED[2:3]), ("INFO", EXPECTED)])
def test_the_level_is_that_of_the_librarys_loggers(tmp_path: Path, level: str, said: list[str]) -> None:
    assert untimed(run("etl()", tmp_path, PENSTOCK_LOGGING_LEVEL=level)) == said


def test_a_level_that_the_program_has_set_counts(tmp_path: Path) -> None:
    lines = run("logging.getLogger('penstock').setLevel('ERROR'); etl(); own.setLevel('INFO'); etl()", tmp_path)
    assert [line.rpartition(" - ")[2] for line in lines] == ["odd", "odd", "not said by default"]


def test_a_traceback_follows_its_line(tmp_path: Path) -> None:
    body = """
@task
def fails():
    try:
        {}["key"]
    except KeyError:
        get_run_logger().exception("was not there")
flow(flow_run_name="x")(fails.fn).with_options(name="f")()
"""
    lines = run(body, tmp_path)
    assert lines[1].endswith(" | ERROR   | f/x - was not there")
    assert lines[2] == "Traceback (most recent call last):" and lines[-2] == "KeyError: 'key'"


def test_a_line_that_cannot_be_formatted_says_where_it_is(tmp_path: Path) -> None:
    body = """
@flow(flow_run_name="x")
def f():
    own.warning("%d rows", "many")
    own.warning(Broken())
    own.warning("%s", Broken())
f()
"""
    _, wrong, broken, other, _ = untimed(run(body, tmp_path))
    assert re.fullmatch(r"WARNING \| f/x - %d rows \(cannot be formatted: TypeError: .+, in .+program\.py:\d+\)", wrong)
    assert "<__main__.Broken> (cannot be formatted: ValueError: no text, in " in broken
    assert other.startswith("WARNING | f/x - %s (cannot be formatted: ValueError: no text, in ")


def test_any_text_can_be_said(tmp_path: Path) -> None:
    body = """
@flow(flow_run_name="x")
def f():
    own.warning("a\\nb"); own.warning("n\\0l"); own.warning("half \\ud800 of a pair"); own.warning("x" * 10_000_000)
f()
"""
    _, a, b, nul, half, long, _ = untimed(run(body, tmp_path, PYTHONIOENCODING="utf-8:backslashreplace"))
    assert (a, b, nul) == ("WARNING | f/x - a", "b", "WARNING | f/x - n\0l")
    assert half == r"WARNING | f/x - half \ud800 of a pair"
    assert len(long) == len("WARNING | f/x - ") + 10_000_000


# --- programs that have set up logging --------------------------------------------------------------------------------


def test_handlers_of_the_root_logger_take_over(tmp_path: Path) -> None:
    lines = run("logging.basicConfig(format='%(levelname)s:%(name)s:%(message)s', level='INFO'); etl()", tmp_path)
    assert untimed(lines) == [
        "INFO:penstock.flow_runs:etl/brave-otter started",
        "INFO:penstock.task_runs:row 7",
        "WARNING:app.etl:odd",
        "INFO:app.etl:not said by default",
        "INFO:penstock.task_runs:printed 7",
        "INFO:penstock.flow_runs:etl/brave-otter COMPLETED in a while · 1 task run",
    ]


def test_set_up_between_two_flows(tmp_path: Path) -> None:
    lines = run("etl(); logging.basicConfig(format='mine %(message)s'); etl()", tmp_path)
    assert untimed(lines[:5]) == EXPECTED
    assert [line.split()[0] for line in lines[5:]] == ["mine"] * 5


def test_handlers_of_the_librarys_logger_take_over(tmp_path: Path) -> None:
    body = """
handler = logging.StreamHandler()
handler.setFormatter(logging.Formatter("<%(message)s>"))
logging.getLogger("penstock").addHandler(handler)
etl()
"""
    lines = run(body, tmp_path)
    assert untimed(lines)[1:4] == ["<row 7>", EXPECTED[2], "<printed 7>"]


def test_nothing_is_added_to_any_logger(tmp_path: Path) -> None:
    body = """
etl()
loggers = [logging.root, *(logging.getLogger(name) for name in list(logging.root.manager.loggerDict))]
assert not any(logger.handlers for logger in loggers if not logger.name.startswith(("asyncio", "concurrent")))
assert logging.root.level == logging.WARNING and logging.getLogger("penstock").propagate
"""
    run(body, tmp_path)


def test_a_handler_may_use_our_formats(tmp_path: Path) -> None:
    body = """
from penstock.logging import JsonFormatter, TextFormatter
for formatter in (TextFormatter(), JsonFormatter()):
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    logging.root.addHandler(handler)
own.warning("early")
etl()
"""
    lines = run(body, tmp_path)
    assert untimed(lines[::2]) == ["WARNING | penstock - early", *EXPECTED]
    assert [json.loads(line)["message"] for line in lines[1::2]][:3] == ["early", "etl/brave-otter started", "row 7"]


def test_logging_config_does_not_switch_the_record_off(tmp_path: Path) -> None:
    """`dictConfig` disables all loggers that are there already, unless it is told not to."""
    body = """
import logging.config
logging.config.dictConfig({
    "version": 1,
    "formatters": {"plain": {"format": "%(levelname)s %(message)s"}},
    "handlers": {"all": {"class": "logging.StreamHandler", "formatter": "plain"}},
    "root": {"level": "INFO", "handlers": ["all"]},
})
etl()
"""
    assert untimed(run(body, tmp_path)) == [
        "INFO etl/brave-otter started",
        "INFO row 7",
        "INFO printed 7",
        "INFO etl/brave-otter COMPLETED in a while · 1 task run",
    ]


# --- JSON -------------------------------------------------------------------------------------------------------------


def parsed(body: str, tmp_path: Path, **environment: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run(body, tmp_path, PENSTOCK_LOGGING_FORMAT="json", **environment)]


KEYS = ["time", "level", "logger", "message", "flow_run_id", "flow_run_name", "task_run_id", "task_run_name", "attempt"]


def test_json_lines(tmp_path: Path) -> None:
    started, row, odd, printed, ended = parsed("etl()", tmp_path)
    assert all(list(line) == [*KEYS, "exception"] for line in (started, row, odd, printed, ended))
    assert datetime.fromisoformat(row["time"]).utcoffset() is not None
    named = {"flow_run_name": "brave-otter", "task_run_name": "extract-0[0]", "attempt": 1, "exception": None}
    assert row == {**row, **named, "level": "INFO", "logger": "penstock.task_runs", "message": "row 7"}
    assert odd == {**odd, **named, "level": "WARNING", "logger": "app.etl", "message": "odd"}
    assert printed == {**printed, **named, "message": "printed 7"}
    assert row["flow_run_id"] == odd["flow_run_id"] == started["flow_run_id"] == ended["flow_run_id"] is not None
    assert row["task_run_id"] == odd["task_run_id"] is not None
    assert (started["task_run_id"], started["attempt"], ended["attempt"]) == (None, None, 1)


def test_everything_is_json_then(tmp_path: Path) -> None:
    body = """
etl()
own.warning("outside")

@flow(flow_run_name="x")
def f():
    own.warning("%d", "no number")
    own.warning("a\\nb\\0\\ud800")
    try:
        raise ValueError("wrong")
    except ValueError:
        own.exception("failed")
f()
"""
    lines = parsed(body, tmp_path)
    outside, _, wrong, odd, failed, _ = lines[5:]
    assert outside == {
        **dict.fromkeys(outside),
        "level": "WARNING",
        "logger": "app.etl",
        "message": "outside",
        "time": outside["time"],
    }
    assert "cannot be formatted" in wrong["message"] and odd["message"] == "a\nb\0\ud800"
    assert failed["exception"].endswith("ValueError: wrong") and "program.py" in failed["exception"]
    assert failed["flow_run_name"] == "x"


@pytest.mark.parametrize("runner", ["threads", "processes"])
def test_a_later_attempt_says_so(tmp_path: Path, runner: str) -> None:
    body = """
from penstock.runtime import task_run

@task(retries=1)
def again():
    own.warning("attempt %d", task_run.run_count)
    if task_run.run_count == 1:
        raise ValueError

@flow(flow_run_name="x")
def f():
    again.submit().result()

if __name__ == "__main__":
    f()
"""
    lines = [line for line in parsed(body, tmp_path, PENSTOCK_RUNNER=runner) if line["logger"] == "app.etl"]
    assert [(line["message"], line["attempt"], line["task_run_name"], line["flow_run_name"]) for line in lines] == [
        ("attempt 1", 1, "again-0", "x"),
        ("attempt 2", 2, "again-0", "x"),
    ]
