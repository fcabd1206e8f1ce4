"""Errors as `show` and `explain` tell them: of a group of exceptions its place, and the first errors in it."""

from __future__ import annotations

import traceback
from pathlib import Path

import pytest
from looking import ETL, LOAD, TRACEBACK, penstock

import penstock as ps
from penstock.cli.failures import parts, user_line
from penstock.settings import temporary_settings
from penstock.store.sqlite import SQLiteStore
from penstock.testing.store_suite import batch


def group_of(*errors: Exception) -> ExceptionGroup:
    try:
        raise ExceptionGroup("many things", errors)
    except ExceptionGroup as group:
        return group


def raised(error: Exception, cause: Exception | None = None) -> Exception:
    try:
        raise error from cause
    except Exception as caught:
        return caught


def trace_of(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


def place_here(line: str, function: str) -> str:
    lines = [text.strip() for text in Path(__file__).read_text().split("\n")]
    number = lines.index(line) + 1
    return f"{__file__}:{number} in {function}: {line}"


GROUPED = place_here('raise ExceptionGroup("many things", errors)', "group_of")
RAISED = place_here("raise error from cause", "raised")


def test_the_place_of_a_group_is_where_it_was_raised() -> None:
    assert user_line(trace_of(group_of(ValueError("a"), raised(KeyError("b"))))) == GROUPED
    assert user_line(trace_of(raised(OSError("c"), cause=group_of(ValueError("a"))))) == RAISED
    assert user_line(trace_of(raised(group_of(raised(ValueError("a"))), cause=raised(OSError("c"))))) == GROUPED


def test_a_group_that_no_user_has_raised_has_the_place_of_the_first_in_it() -> None:
    deep = group_of(ValueError("a"))
    assert user_line(trace_of(ExceptionGroup("x", [ValueError("a"), deep, raised(KeyError("b"))]))) == GROUPED
    assert user_line(trace_of(ExceptionGroup("x", [ValueError("a")]))) == ""


def test_the_first_errors_of_a_group_are_told() -> None:
    two = group_of(ValueError("a"), KeyError("b"))
    assert list(parts(trace_of(two))) == ["ValueError: a", "KeyError: 'b'"]
    inner = group_of(*(OSError(str(number)) for number in range(5)))
    chained = raised(KeyError("late"), cause=raised(ValueError("early")))
    many = group_of(chained, inner, ValueError("two\nlines \x1b[2J"), *map(ValueError, range(4)))
    told = ["KeyError: 'late'", "ExceptionGroup: many things (5 sub-exceptions)", "ValueError: two", "and 4 more"]
    assert list(parts(trace_of(many))) == told
    assert list(parts(trace_of(raised(many, cause=two)))) == told
    last = group_of(ValueError("a"), raised(KeyError("b")), ExceptionGroup("c", [inner]), inner)
    assert list(parts(trace_of(last)))[2:] == ["ExceptionGroup: c (1 sub-exception)", "and 1 more"]
    assert list(parts(trace_of(group_of(*map(ValueError, range(20))))))[2:] == ["ValueError: 2", "and 17 more"]
    assert list(parts(trace_of(group_of(ValueError("\x1b[2J"))))) == ["ValueError: \\x1b[2J"]
    assert list(parts(trace_of(raised(OSError("c"), cause=two)))) == list(parts(TRACEBACK)) == list(parts("")) == []


def test_a_blocked_run_tells_the_parts_of_what_it_was_blocked_by(store: SQLiteStore) -> None:
    store.write(ETL)
    store.write(batch(LOAD._replace(error_type="ExceptionGroup", traceback=trace_of(group_of(ValueError("a"))))))
    said = penstock("explain", "@last/report-0").stdout
    assert f", at {GROUPED}\n    ValueError: a\n" in said


@ps.task
def many_things() -> None:
    raise ExceptionGroup("many things", [ValueError("a"), KeyError("b")])


@ps.flow(name="grouping")
def grouping() -> None:
    many_things()


@pytest.mark.parametrize("runner", ["threads", "processes"])
def test_a_group_has_its_place_and_its_parts(runner: str) -> None:
    with temporary_settings({"runner": runner}), pytest.raises(ExceptionGroup):
        grouping()
    place = place_here('raise ExceptionGroup("many things", [ValueError("a"), KeyError("b")])', "many_things")
    shown = penstock("show", "@last").stdout
    said = ["  many_things-0: ExceptionGroup: many things (2 sub-exceptions)", f"    {place}"]
    assert "\n".join([*said, "    ValueError: a", "    KeyError: 'b'", ""]) in shown
    explained = penstock("explain", "@last/many_things-0").stdout
    assert f", at {place}\n    ValueError: a\n    KeyError: 'b'\n" in explained
