"""The runner of the examples, and others that somebody might write over the pools of the standard library."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from examples.own_runner import PoolTaskRunner

from penstock import flow, task
from penstock.exceptions import TaskRunTimeoutError, WorkerLost
from penstock.task_runners import Capabilities
from penstock.testing import runner_bodies, runner_deaths, runner_suite, runner_travel
from penstock.testing.checking import Check
from penstock.testing.conformance import run_check
from penstock.testing.diary import Diary, new_diary


class PlainPoolTaskRunner(PoolTaskRunner):
    """Hands everything over at once: the pool holds more calls than it has workers."""

    def execute(self, call: Any) -> Future[Any]:
        future: Future[Any] = self._pool.submit(call.execute)
        return future


class CoroutinePoolTaskRunner(PoolTaskRunner):
    """Executes coroutines in its processes, too."""

    capabilities = Capabilities(shares_memory=False, runs_async=True, can_interrupt=False, outlives_workers=True)


@pytest.mark.parametrize(
    "check",
    [
        runner_suite.executes_many_runs,
        runner_suite.goes_down_long_chains,
        runner_suite.ends_bodies_that_take_too_long,
        runner_travel.refuses_arguments_that_cannot_be_sent,
        runner_travel.refuses_functions_that_cannot_be_sent,
        runner_bodies.calls_hooks_in_the_process_of_the_flow,
        runner_deaths.writes_off_bodies_that_ignore_their_cancellation,
    ],
    ids=lambda check: check.__name__,
)
def test_a_pool_may_be_handed_everything_at_once(check: Check) -> None:
    run_check(check, PlainPoolTaskRunner)


@pytest.mark.parametrize(
    "check",
    [
        runner_suite.runs_asynchronous_tasks,
        runner_bodies.mixes_asynchronous_tasks_with_others,
        runner_bodies.lets_asynchronous_tasks_submit_tasks,
        runner_bodies.tells_coroutines_about_their_runs,
        runner_bodies.records_lines_of_many_bodies_in_order,
        runner_bodies.ends_coroutines_that_take_too_long,
        runner_travel.crashes_runs_that_want_to_exit,
        runner_deaths.survives_coroutines_that_kill,
    ],
    ids=lambda check: check.__name__,
)
def test_coroutines_can_be_executed_in_processes(check: Check) -> None:
    run_check(check, lambda: CoroutinePoolTaskRunner(1))


def test_a_worker_that_dies_costs_what_was_begun() -> None:
    """A broken pool takes all of its workers along; what had not been handed over is executed by the next one."""

    @task
    def step(number: int) -> int:
        if number == 5:
            os._exit(3)
        return number

    @flow(task_runner=PoolTaskRunner(2))
    def steps() -> list[Any]:
        return step.map(range(30)).result(raise_on_failure=False)

    found = steps()
    lost = [number for number, value in enumerate(found) if isinstance(value, WorkerLost)]
    assert 5 in lost and len(lost) <= 2
    assert [value for value in found if not isinstance(value, WorkerLost)] == [n for n in range(30) if n not in lost]


def test_a_body_that_can_be_interrupted_frees_its_worker_when_its_time_is_over() -> None:
    @task(timeout_seconds=0.2)
    def slow(diary: Diary) -> None:
        try:
            for _ in range(2000):
                time.sleep(0.01)
        finally:
            diary.write("finally")

    @task
    def quick() -> str:
        return "quick"

    @flow(task_runner=PoolTaskRunner(1))
    def both() -> str:
        quick.submit().result()  # so that the worker is there
        before = time.monotonic()
        future = slow.submit(diary)
        assert type(future.exception()) is TaskRunTimeoutError
        result: str = quick.submit().result()
        assert time.monotonic() - before < 10
        return result

    with new_diary() as diary:
        assert both() == "quick"
        assert diary.words() == ["finally"]


PROGRAM = """
import sys, time
from examples.own_runner import PoolTaskRunner
from penstock import flow, task

@task(timeout_seconds=0.2)
def stuck():
    time.sleep(600)

@flow(task_runner=PoolTaskRunner(1))
def main():
    print(type(stuck.submit().exception()).__name__)

if __name__ == "__main__":
    main()
    print("over")
"""


def test_a_program_ends_although_a_body_does_not(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM, "utf-8")
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, str(program)],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=25,
        check=True,
    )
    assert done.stdout.split() == ["TaskRunTimeoutError", "over"], done.stderr
    assert "Traceback" not in done.stderr
