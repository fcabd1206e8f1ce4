"""A flow that did not complete goes on as a new run, and repeats nothing that was kept."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from penstock import flow, resume, runtime, task
from penstock.cache_policies import INPUTS, NO_CACHE
from penstock.exceptions import ResumeError
from penstock.settings import home
from penstock.store.base import RunRow
from penstock.store.sqlite import SQLiteReader

failing: set[object] = set()  # what fails
calls: list[object] = []  # what was executed


@pytest.fixture(autouse=True)
def fresh() -> None:
    failing.clear()
    calls.clear()


@task
def load(x: int) -> int:
    calls.append(("load", x))
    if x in failing:
        raise ValueError(f"load {x}")
    return 10 * x


@task
def add(values: list[int]) -> int:
    calls.append("add")
    return sum(values)


@flow(persist_result=True)
def total(n: int) -> int:
    values = load.map(range(n))
    values.wait()
    return add(values.result())


@flow
def forgetful(n: int) -> int:
    values = load.map(range(n))
    values.wait()
    return add(values.result())


@flow(persist_result=True)
async def total_async(n: int) -> int:
    values = await asyncio.gather(*(load_async(x) for x in range(n)))
    return sum(values)


@task
async def load_async(x: int) -> int:
    calls.append(("load", x))
    await asyncio.sleep(0)
    if x in failing:
        raise ValueError(f"load {x}")
    return 10 * x


def last_run(flow_name: str | None = None) -> RunRow:
    reader = SQLiteReader(home())
    try:
        return reader.runs(name=flow_name, limit=1)[0]
    finally:
        reader.close()


def test_a_half_finished_map_runs_what_failed_and_what_depends_on_it() -> None:
    failing.update({3, 7})
    with pytest.raises(ValueError, match="load 3"):
        total(10)
    assert len(calls) == 10
    calls.clear()
    failing.clear()
    old = last_run()
    assert resume(old.id) == 450
    assert sorted(map(str, calls)) == ["('load', 3)", "('load', 7)", "add"]
    new = last_run()
    assert new.resumed_from == old.id
    assert new.status == "COMPLETED"
    assert old.status == "FAILED"


def test_any_number_of_lives() -> None:
    failing.update(range(5))
    for life in range(5):
        with pytest.raises((ValueError, ExceptionGroup)):
            resume(last_run().id) if life else total(5)
        calls.clear()
        failing.discard(life)
    assert resume(last_run().id) == 100
    assert calls == [("load", 4), "add"]


def test_an_older_life_is_gone_on_with_by_what_its_heirs_completed() -> None:
    failing.update({0, 1})
    with pytest.raises((ValueError, ExceptionGroup)):
        total(3)
    first = last_run()
    failing.discard(0)
    with pytest.raises((ValueError, ExceptionGroup)):
        resume(first.id)
    failing.clear()
    calls.clear()
    assert resume(first.id) == 30
    assert calls == [("load", 1), "add"]
    with pytest.raises(ResumeError, match="has completed"):
        resume(first.id)


def test_asynchronous_flows() -> None:
    failing.add(1)
    with pytest.raises(ValueError, match="load 1"):
        asyncio.run(total_async(3))
    failing.clear()
    calls.clear()
    assert asyncio.run(resume(last_run().id)) == 30
    assert calls == [("load", 1)]


@task
def roll(sides: int) -> int:
    calls.append("roll")
    return len(calls)


@flow(persist_result=True)
def dice() -> list[int]:
    rolls = [roll.with_options(cache_policy=NO_CACHE)(6) for _ in range(3)]
    check(0)
    return rolls


@task
def check(x: object) -> None:
    if x in failing:
        raise ValueError("check")


def test_equal_calls_are_told_apart_by_their_number() -> None:
    failing.add(0)
    with pytest.raises(ValueError, match="check"):
        dice()
    failing.clear()
    assert calls == ["roll"] * 3
    assert resume(last_run().id) == [1, 2, 3]
    assert calls == ["roll"] * 3


def test_a_flow_that_is_retried_serves_what_it_kept() -> None:
    attempts = []

    @flow(persist_result=True, retries=1)
    def main() -> list[int]:
        attempts.append(1)
        rolls = [roll.with_options(cache_policy=NO_CACHE)(6) for _ in range(2)]
        if len(attempts) == 1:
            raise ValueError("again")
        return rolls

    assert main() == [1, 2]
    assert calls == ["roll", "roll"]


@flow
def inner(x: int) -> int:
    return load(x) + load(x + 1)


@flow(persist_result=True)
def outer() -> int:
    parts = [inner(0), inner(2), inner(4)]
    check(0)
    return sum(parts)


def test_subflows_are_restored_whole_or_entered() -> None:
    failing.add(5)
    with pytest.raises(ValueError, match="load 5"):
        outer()
    assert len(calls) == 6
    failing.clear()
    calls.clear()
    assert resume(last_run("outer").id) == 150
    assert calls == [("load", 5)]
    reader = SQLiteReader(home())
    new = last_run("outer")
    states = [(row.name, row.state_name) for row in reader.children(new.id)]
    reader.close()
    assert states == [("inner", "Cached"), ("inner", "Cached"), ("inner", "Completed"), ("check", "Completed")]


@task
def parent(x: int) -> int:
    calls.append("parent")
    inside = load(x)
    check(0)
    return inside


@flow(persist_result=True)
def nested() -> int:
    return parent(1)


def test_tasks_inside_tasks_are_restored() -> None:
    failing.add(0)
    with pytest.raises(ValueError, match="check"):
        nested()
    failing.clear()
    calls.clear()
    assert resume(last_run().id) == 10
    assert calls == ["parent"]


def test_tasks_that_are_to_run_in_any_case() -> None:
    failing.add(2)
    with pytest.raises((ValueError, ExceptionGroup)):
        total(3)
    failing.clear()
    calls.clear()
    assert resume(last_run().id, rerun="load") == 30
    assert len(calls) == 4


@flow(persist_result=True)
def chain() -> int:
    first = load.submit(1)
    second = add.submit([first])
    check(second.result() - 10)
    return second.result()


def test_from_a_task_on() -> None:
    failing.add(0)
    with pytest.raises(ValueError, match="check"):
        chain()
    run = last_run()
    calls.clear()
    failing.clear()
    assert resume(run.id, from_task="load") == 10
    assert calls == [("load", 1), "add"]


def test_what_cannot_be_restored_is_said_before_it_starts(caplog: pytest.LogCaptureFixture) -> None:
    failing.add(2)
    with pytest.raises((ValueError, ExceptionGroup)):
        forgetful(4)
    failing.clear()
    caplog.clear()
    with caplog.at_level(logging.INFO, "penstock"):
        assert resume(last_run().id) == 60
    lines = [record.getMessage() for record in caplog.records]
    said = next(index for index, line in enumerate(lines) if "3 task runs of load completed" in line)
    assert "persist_result=True" in lines[said]
    assert said < next(index for index, line in enumerate(lines) if line.endswith("started"))


def test_parameters_are_those_of_the_old_run_but_for_those_given() -> None:
    failing.add(1)
    with pytest.raises((ValueError, ExceptionGroup)):
        total(2)
    failing.clear()
    calls.clear()
    assert resume(last_run().id, parameters={"n": 3}) == 30
    assert sorted(map(str, calls)) == ["('load', 1)", "('load', 2)", "add"]


@flow(persist_result=True)
def odd(path: Path, values: tuple[int, ...]) -> str:
    check(0)
    return f"{path} {values}"


@flow
def odder(path: Path) -> str:
    check(0)
    return str(path)


def test_parameters_that_json_cannot_hold() -> None:
    failing.add(0)
    with pytest.raises(ValueError, match="check"):
        odd(Path("a"), (1, 2))
    with pytest.raises(ValueError, match="check"):
        odder(Path("a"))
    failing.clear()
    assert resume(last_run("odd").id) == "a (1, 2)"
    with pytest.raises(ResumeError, match=r"Parameter 'path' .* parameters="):
        resume(last_run("odder").id)
    assert resume(last_run("odder").id, parameters={"path": Path("b")}) == "b"


def test_what_is_refused() -> None:
    with pytest.raises(ResumeError, match="no run"):
        resume("0" * 32)
    with pytest.raises(ResumeError, match="not the id of a run"):
        resume("brave-otter")
    assert total(1) == 0
    with pytest.raises(ResumeError, match="has completed"):
        resume(last_run().id)

    @flow
    def local() -> None:
        check(0)

    failing.add(0)
    with pytest.raises(ValueError, match="check"):
        local()
    failing.clear()
    with pytest.raises(ResumeError, match="flow="):
        resume(last_run("local").id)
    assert resume(last_run("local").id, flow=local) is None


@flow
def alive() -> None:
    with pytest.raises(ResumeError, match="outside of flows"):
        resume(runtime.flow_run.id)


def test_inside_of_a_flow() -> None:
    alive()


def test_return_state() -> None:
    failing.add(0)
    with pytest.raises((ValueError, ExceptionGroup)):
        total(1)
    state: Any = resume(last_run().id, return_state=True)
    assert state.is_failed()


@flow(persist_result=True)
def cached_total() -> int:
    values = [load.with_options(cache_policy=INPUTS)(x) for x in range(3)]
    check("check")
    return sum(values)


def test_what_is_to_run_in_any_case_does_not_come_from_the_cache_either() -> None:
    assert cached_total() == 30
    failing.add("check")
    with pytest.raises(ValueError, match="check"):
        cached_total.with_options(name="again")()
    failing.clear()
    calls.clear()
    assert resume(last_run("again").id, flow=cached_total, rerun="load") == 30
    assert calls == [("load", 0), ("load", 1), ("load", 2)]


def test_of_a_thousand_what_failed_runs_again_and_what_depends_on_it() -> None:
    failing.update(range(50, 1000, 97))
    with pytest.raises(ValueError, match="load 50"):
        total(1000)
    assert len(failing) == 10
    expected = sorted(str(("load", x)) for x in failing)
    failing.clear()
    calls.clear()
    assert resume(last_run().id) == 10 * sum(range(1000))
    assert sorted(map(str, calls)) == [*expected, "add"]
