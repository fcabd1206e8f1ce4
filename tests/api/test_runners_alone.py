"""A runner without a flow: `with runner:` stands for one."""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import pytest

from penstock import flow, runtime, task, unmapped
from penstock.exceptions import CancelledRun, ParameterBindError
from penstock.task_runners import SequentialTaskRunner, TaskRunner, ThreadPoolTaskRunner
from penstock.testing import isolated_store

RUNNERS = [SequentialTaskRunner(), ThreadPoolTaskRunner(), ThreadPoolTaskRunner(max_workers=1)]
every_runner = pytest.mark.parametrize("template", RUNNERS, ids=repr)


@task
def double(x: int) -> int:
    return 2 * x


@task
def plus(x: int, y: Any) -> Any:
    return x + sum(y)


@every_runner
def test_submit_and_map_take_arguments_by_name(template: TaskRunner) -> None:
    with template.duplicate() as runner:
        first = runner.submit(double, {"x": 3})
        second = runner.submit(double, {"x": first}, wait_for=[first])
        mapped = runner.map(plus, {"x": [1, 2], "y": unmapped([10])})
        assert (first.result(), second.result(), mapped.result()) == (6, 12, [11, 12])


@every_runner
def test_leaving_waits_for_everything(template: TaskRunner) -> None:
    done: list[int] = []

    @task
    def slow(x: int) -> None:
        time.sleep(0.005)
        done.append(x)

    with template.duplicate() as runner:
        runner.map(slow, {"x": range(5)})
    assert sorted(done) == [0, 1, 2, 3, 4]


def test_it_is_recorded_as_a_flow_run_named_after_the_runner() -> None:
    with isolated_store() as store:
        with ThreadPoolTaskRunner() as runner:
            runner.submit(double, {"x": 3}).result()
        (root,) = store.runs()
        assert (root.kind, root.name, root.status) == ("flow", "threadpool", "COMPLETED")
        assert [row.name for row in store.children(root.id)] == ["double"]


def test_a_failure_that_nobody_looked_at_is_raised_at_the_end() -> None:
    error = KeyError("k")

    @task
    def bad() -> None:
        raise error

    with pytest.raises(KeyError) as caught, ThreadPoolTaskRunner() as runner:
        runner.submit(bad, {})
    assert caught.value is error


def test_an_exception_in_the_block_goes_on_and_cancels_what_has_not_started() -> None:
    gate = threading.Event()
    error = ValueError("mine")
    futures: list[Any] = []
    with pytest.raises(ValueError) as caught, ThreadPoolTaskRunner(max_workers=1) as runner:
        held = runner.submit(task(gate.wait), {"timeout": 5})
        while held.state.name != "Running":
            time.sleep(0.001)
        futures.append(runner.submit(double, {"x": 1}))
        threading.Timer(0.01, gate.set).start()
        raise error
    assert caught.value is error
    assert isinstance(futures[0].exception(), CancelledRun)


def test_cancel_all() -> None:
    gate = threading.Event()
    with ThreadPoolTaskRunner(max_workers=1) as runner:
        held = runner.submit(task(gate.wait), {"timeout": 5})
        while held.state.name != "Running":
            time.sleep(0.001)
        queued = runner.submit(double, {"x": 1})
        runner.cancel_all()
        gate.set()
        assert isinstance(queued.exception(), CancelledRun)
        held.wait()


def test_inside_a_flow_it_is_a_subflow() -> None:
    @task
    def parent() -> Any:
        return runtime.task_run.name, runtime.flow_run.parent_flow_run_id

    @flow
    def main() -> Any:
        with ThreadPoolTaskRunner() as runner:
            return runtime.flow_run.id, runner.submit(parent, {}).result()

    outer, (name, parent_id) = main()
    assert (name, parent_id) == ("parent-0", outer)


def test_wrong_use_is_an_error() -> None:
    runner = ThreadPoolTaskRunner()
    with pytest.raises(RuntimeError, match="Task runner is not started"):
        runner.submit(double, {"x": 1})
    with runner, pytest.raises(RuntimeError, match="This task runner is already started"):
        runner.__enter__()
    with runner:  # it can be used again
        assert runner.submit(double, {"x": 1}).result() == 2
        with pytest.raises(ParameterBindError):
            runner.submit(double, {"y": 1})


def test_a_forked_child_has_a_pool_of_its_own() -> None:
    @flow
    def main() -> int:
        return int(double.submit(21).result())

    assert main() == 42
    child = os.fork()
    if child == 0:
        os._exit(0 if main() == 42 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
