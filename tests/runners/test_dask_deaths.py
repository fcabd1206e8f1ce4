"""Workers of a Dask cluster that die, bodies that do not stop: what they cost, and whom."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import process_bodies as bodies
import pytest
from test_dask import SMALL, eventually, in_flow, pid, total
from test_process_records import record
from test_processes import within

from dask_clusters import another_worker, running_cluster
from penstock import get_run_logger, task, unmapped
from penstock.exceptions import CancelledRun, CrashedRun, TaskRunTimeoutError, WorkerLost
from penstock.task_runners import DaskTaskRunner


@pytest.fixture(scope="module")
def address(dask_address: str) -> str:
    return dask_address


@pytest.fixture(scope="module")
def single() -> Iterator[str]:
    """A cluster of one worker with one thread."""
    with running_cluster(n_workers=1) as address:
        yield address


DEATHS: dict[str, Callable[[], Any]] = {
    "exits": lambda: os._exit(3),
    "is killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "faults": lambda: ctypes.string_at(0),
}


def ends(futures: Any) -> list[tuple[str, Any]]:
    return [(future.state.type, future.exception()) for future in futures]


# --- workers that die -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("death", "retries"), [("exits", 0), ("is killed", 1), ("faults", 0)])
def test_a_death_costs_the_attempt_that_was_executed_and_no_other(
    address: str, tmp_path: Path, death: str, retries: int
) -> None:
    """In the middle of batches of quick tasks."""
    file = str(tmp_path / "executed")
    fatal = 350
    die = DEATHS[death]

    @task(retries=retries)
    def work(n: int) -> int:
        bodies.append(file, n)
        if n == fatal and bodies.lines(file).count(str(n)) == 1:
            die()
        return n

    def body() -> Any:
        futures = work.map(range(700))
        futures.wait()
        return ends(futures)

    answers = in_flow(body, address, 20)
    lost = [n for n, (kind, _) in enumerate(answers) if kind != "COMPLETED"]
    assert lost == ([] if retries else [fatal])
    if not retries:
        kind, error = answers[fatal]
        assert (kind, type(error)) == ("CRASHED", WorkerLost)
        assert error.worker.startswith("tcp://127.0.0.1:")
    executed = Counter(map(int, bodies.lines(file)))
    assert executed.pop(fatal) == 1 + retries
    assert executed == {n: 1 for n in range(700) if n != fatal}


def test_every_third_task_ends_its_worker(single: str, tmp_path: Path) -> None:
    """On a cluster without another one."""
    file = str(tmp_path / "executed")

    @task
    def work(n: int) -> int:
        bodies.append(file, n)
        if n % 3 == 2:
            os._exit(1)
        return n

    def body() -> Any:
        futures = work.map(range(9))
        futures.wait()
        return [future.state.type for future in futures], ends(futures)

    states, errors = in_flow(body, single, 20)
    assert states == ["CRASHED" if n % 3 == 2 else "COMPLETED" for n in range(9)], errors
    assert sorted(map(int, bodies.lines(file))) == list(range(9))
    assert {type(error) for _, error in errors[2::3]} == {WorkerLost}


def test_a_worker_that_was_killed_while_it_had_nothing_to_do_costs_nothing(single: str) -> None:
    def body() -> Any:
        before = pid.submit().result()
        os.kill(before, signal.SIGKILL)
        return before, pid.submit().result(), pid.map(range(3)).result()

    before, after, later = in_flow(body, single)
    assert before != after
    assert later == [after] * 3


def test_small_results_outlive_their_worker(single: str, tmp_path: Path) -> None:
    file = str(tmp_path / "executed")

    @task
    def work(n: int) -> tuple[int, int]:
        bodies.append(file, n)
        return n, os.getpid()

    def body() -> Any:
        futures = work.map(range(5))
        futures.wait()
        os.kill(futures[0].result()[1], signal.SIGKILL)
        dependent = work.submit(futures[4])
        return [n for n, _ in futures.result()], dependent.result()[0][0]

    assert in_flow(body, single) == ([0, 1, 2, 3, 4], 4)
    assert len(bodies.lines(file)) == 6


def test_a_large_result_that_is_lost_with_its_worker(single: str, tmp_path: Path) -> None:
    """Nobody makes it again, and nobody waits for ever."""
    file = str(tmp_path / "executed")

    @task
    def large() -> Any:
        bodies.append(file, os.getpid())
        return np.ones(1_000_000, np.uint8)

    def body() -> Any:
        made = large.submit()
        used = total.submit(made).result()
        (worker,) = bodies.lines(file)
        os.kill(int(worker), signal.SIGKILL)
        eventually(lambda: bodies.is_alive(int(worker)), False)
        dependent = total.submit(made)
        chained = total.submit(large_copy.submit(made))
        errors = []
        for ask in (made.result, dependent.result, chained.result):
            try:
                errors.append(ask())
            except Exception as error:
                errors.append(error)
        return used, made.state.type, dependent.state.type, errors, pid.submit().result()

    @task
    def large_copy(array: Any) -> Any:
        return array.copy()

    used, made, dependent, errors, _ = in_flow(body, single)
    assert (used, made, dependent) == (1_000_000, "COMPLETED", "FAILED")
    assert isinstance(errors[0], WorkerLost)
    assert "lost with the worker" in str(errors[0])
    assert all("lost with the worker" in str(error) for error in errors), errors
    assert len(bodies.lines(file)) == 1, "it was not executed again"


def test_what_many_tasks_share_outlives_the_worker_that_has_it(single: str, tmp_path: Path) -> None:
    file = str(tmp_path / "executed")

    @task
    def take(array: Any, n: int) -> int:
        bodies.append(file, n)
        if n == 20:
            os._exit(1)
        return int(array[n])

    def body() -> Any:
        futures = take.map(unmapped(np.ones(1_000_000, np.uint8)), range(60))
        futures.wait()
        return ends(futures)

    answers = in_flow(body, single, 20)
    assert [n for n, (kind, _) in enumerate(answers) if kind != "COMPLETED"] == [20]
    assert Counter(bodies.lines(file)) == Counter(map(str, range(60)))


def test_large_arguments_outlive_the_worker_that_has_them(single: str, tmp_path: Path) -> None:
    file = str(tmp_path / "executed")

    @task
    def size(array: Any, n: int) -> int:
        bodies.append(file, n)
        if n == 2:
            os._exit(1)
        return len(array)

    def body() -> Any:
        futures = size.map([np.ones(1_000_000 + n, np.uint8) for n in range(8)], range(8))
        futures.wait()
        return ends(futures)

    answers = in_flow(body, single, 20)
    assert [(n, error) for n, (kind, error) in enumerate(answers) if kind != "COMPLETED" and n != 2] == []
    assert Counter(bodies.lines(file)) == Counter(map(str, range(8)))


def test_lines_before_a_death_are_kept_in_order(
    address: str, own_store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    @task(log_prints=True)
    def die() -> None:
        for n in range(200):
            get_run_logger().warning("number %d", 2 * n)
            print("number", 2 * n + 1)
        os._exit(3)

    with caplog.at_level(logging.INFO):
        error = in_flow(lambda: die.submit().exception(), address)
    assert isinstance(error, WorkerLost)
    _, below, logs = record(own_store)
    mine = [log for log in logs if log.run_id == below["die-0"].id and log.message.startswith("number")]
    assert [log.message for log in mine] == [f"number {n}" for n in range(400)]
    shown = [line.getMessage() for line in caplog.records if line.getMessage().startswith("number")]
    assert shown == [f"number {n}" for n in range(400)]


def test_a_lost_attempt_is_followed_by_another_one(address: str, own_store: Path, tmp_path: Path) -> None:
    file = str(tmp_path / "attempts")

    @task(retries=2, retry_delay_seconds=0.01)
    def third_time_lucky() -> str:
        bodies.append(file, "")
        if len(bodies.lines(file)) < 3:
            os._exit(1)
        return "lucky"

    assert in_flow(lambda: third_time_lucky.submit().result(), address) == "lucky"
    _, below, _ = record(own_store)
    assert below["third_time_lucky-0"].attempts == 3


def test_a_task_is_lost_with_the_tasks_below_it(address: str, tmp_path: Path) -> None:
    file = str(tmp_path / "executed")

    @task
    def die() -> None:
        bodies.append(file, "die")
        os._exit(1)

    @task
    def inner(n: int) -> int:
        bodies.append(file, "inner")
        return n

    @task
    def outer() -> Any:
        bodies.append(file, "outer")
        future = die.submit()
        error = future.exception()
        return type(error).__name__, sum(inner.map(range(3)).result())

    def body() -> Any:
        future = outer.submit()
        future.wait()
        return future.state.type, future.exception(), pid.submit().result() > 0

    state, error, goes_on = in_flow(body, address)
    assert goes_on
    if state == "COMPLETED":  # the task below was executed by the other worker
        assert Counter(bodies.lines(file)) == {"outer": 1, "die": 1, "inner": 3}
    else:
        assert isinstance(error, WorkerLost)
        assert Counter(bodies.lines(file))["outer"] == 1


def test_the_last_worker_dies_and_nobody_replaces_it(tmp_path: Path) -> None:
    """What it was executing is over at once; what has not begun waits for a worker that may come."""
    file = str(tmp_path / "pids")

    @task
    def work() -> None:
        bodies.append(file, os.getpid())
        time.sleep(bodies.FOREVER)

    def body(address: str) -> Any:
        with another_worker(address) as worker:
            running, waiting = work.submit(), pid.submit()
            eventually(lambda: bodies.lines(file), [str(worker)], 10)
            os.kill(worker, signal.SIGKILL)
            running.wait(3)
        state = running.state.type
        with another_worker(address) as worker:
            return state, running.exception(0), waiting.result(8) == worker

    with running_cluster(n_workers=0) as address:
        state, error, went_on = in_flow(lambda: body(address), address, 20)
    assert (state, type(error), went_on) == ("CRASHED", WorkerLost, True)


def test_the_scheduler_dies(tmp_path: Path) -> None:
    """The flow ends, and with it everything."""

    @task
    def work(n: int) -> int:
        time.sleep(0.01)
        if n == 20:
            bodies.append(file, os.getppid())
        return n

    def body() -> Any:
        futures = work.map(range(1000))
        eventually(lambda: len(bodies.lines(file)), 1, 10)
        os.kill(int(bodies.lines(file)[0]), signal.SIGKILL)
        futures.wait(8)
        return {future.state.type for future in futures}

    file = str(tmp_path / "scheduler")
    with running_cluster() as cluster:
        assert in_flow(body, cluster, 20) <= {"COMPLETED", "CRASHED", "FAILED"}


# --- bodies that do not stop ------------------------------------------------------------------------------------------


def be_busy() -> None:
    deadline = time.monotonic() + bodies.FOREVER
    while time.monotonic() < deadline:
        pass


def keep_the_interpreter() -> None:
    """Like a regular expression that takes for ever."""
    ctypes.PyDLL(None).sleep(int(bodies.FOREVER))


STUCK: dict[str, Callable[[], Any]] = {
    "is busy": be_busy,
    "sleeps": lambda: time.sleep(bodies.FOREVER),
    "keeps the interpreter": keep_the_interpreter,
}


@pytest.mark.parametrize("how", STUCK)
def test_time_limits_hold_whatever_the_body_does(how: str) -> None:
    """The future is done in time, what follows goes on, and the end of the flow does not wait either."""
    stuck_body = STUCK[how]

    @task(timeout_seconds=0.3)
    def stuck() -> None:
        stuck_body()

    def body() -> Any:
        pid.map(range(4)).result()
        future = stuck.submit()
        others = pid.map(range(20))
        began = time.monotonic()
        future.wait(5)
        took = time.monotonic() - began
        return took, future.state.name, future.exception(0), others.result(), pid.submit().result()

    took, name, error, others, _ = in_flow(body, DaskTaskRunner(cluster_kwargs={**SMALL, "n_workers": 2}), 20)
    assert (name, type(error)) == ("TimedOut", TaskRunTimeoutError)
    assert took < 0.3 + 0.5 + 0.2
    assert len(others) == 20


@pytest.mark.parametrize("how", ["sleeps", "keeps the interpreter"])
def test_the_end_of_a_flow_does_not_wait_for_what_was_left_behind(how: str) -> None:
    stuck_body = STUCK[how]

    @task(timeout_seconds=0.3)
    def stuck() -> None:
        stuck_body()

    def body() -> Any:
        pid.submit().result()
        return type(stuck.submit().exception()), time.monotonic()

    kind, ended = in_flow(body, DaskTaskRunner(cluster_kwargs=SMALL))
    assert kind is TaskRunTimeoutError
    assert time.monotonic() - ended < 2.5


def test_what_was_left_behind_has_no_place_on_the_cluster(single: str) -> None:
    """Neither in the same flow, nor in the next one."""

    @task(timeout_seconds=0.2)
    def stuck() -> None:
        time.sleep(bodies.FOREVER)

    def body() -> Any:
        return type(stuck.submit().exception()), pid.submit().result()

    assert in_flow(body, single, 5)[0] is TaskRunTimeoutError
    assert in_flow(lambda: type(stuck.submit().exception()), single, 5) is TaskRunTimeoutError
    assert in_flow(lambda: pid.submit().result(), single, 3)


# --- cancelling -------------------------------------------------------------------------------------------------------


def test_a_running_body_is_interrupted_and_sees_its_end_through(single: str, tmp_path: Path) -> None:
    started, ended = str(tmp_path / "started"), str(tmp_path / "ended")

    @task(retries=3)
    def endless() -> None:
        bodies.append(started, "")
        try:
            while True:
                time.sleep(0.005)
        finally:
            bodies.append(ended, "finally")

    def body() -> Any:
        future = endless.submit()
        assert bodies.wait_for_file(started)
        assert future.cancel() is True
        return type(future.exception(3)), future.state.name, pid.submit().result() > 0

    assert in_flow(body, single) == (CancelledRun, "Cancelled", True)
    assert (len(bodies.lines(started)), bodies.lines(ended)) == (1, ["finally"])


def test_a_running_coroutine_is_cancelled(single: str, tmp_path: Path) -> None:
    started = str(tmp_path / "started")

    @task
    async def endless() -> None:
        bodies.append(started, "")
        await asyncio.sleep(bodies.FOREVER)

    def body() -> Any:
        future = endless.submit()
        assert bodies.wait_for_file(started)
        future.cancel()
        return type(future.exception(3)), future.state.name, pid.submit().result() > 0

    assert in_flow(body, single) == (CancelledRun, "Cancelled", True)


@pytest.mark.parametrize("how", ["sleeps", "keeps the interpreter"])
def test_a_body_that_does_not_stop_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    monkeypatch.setenv("PENSTOCK_CANCEL_GRACE_SECONDS", "0.2")
    started = str(tmp_path / "started")
    stuck_body = STUCK[how]

    @task(retries=3)
    def stubborn() -> None:
        bodies.append(started, "")
        stuck_body()

    def body() -> Any:
        future = stubborn.submit()
        assert bodies.wait_for_file(started)
        others = pid.map(range(3))
        future.cancel()
        return type(future.exception(3)), future.state.type, len(others.result())

    answer = in_flow(body, DaskTaskRunner(cluster_kwargs=SMALL), 20)
    assert answer == (CrashedRun, "CRASHED", 3)
    assert len(bodies.lines(started)) == 1
    (warning,) = [line.getMessage() for line in caplog.records if "did not stop" in line.getMessage()]
    assert re.search(r"still running in tcp://127.0.0.1:\d+$", warning)


def test_cancelled_runs_that_wait_are_never_executed(single: str, tmp_path: Path) -> None:
    """Whether they have been sent to the cluster or not."""
    gate, started, done = (str(tmp_path / name) for name in ("gate", "started", "done"))

    @task
    def work(n: int) -> None:
        if n >= 0:
            bodies.append(done, n)

    @task
    def hold() -> None:
        bodies.append(started, "")
        bodies.wait_for_file(gate)

    def body() -> Any:
        work.map([-1] * 300).result()  # now it is known to be quick
        holding = hold.submit()
        assert bodies.wait_for_file(started)
        futures = work.map(range(3000))
        futures.cancel()
        futures.wait(5)
        names = {future.state.name for future in futures}
        bodies.append(gate, "")
        holding.result()
        return names

    assert in_flow(body, single, 20) == {"Cancelled"}
    assert bodies.lines(done) == []


def test_cancelled_runs_in_a_batch_are_not_executed(single: str, tmp_path: Path) -> None:
    gate, started, done = (str(tmp_path / name) for name in ("gate", "started", "done"))

    @task
    def work(n: int) -> None:
        if n == 200:
            bodies.append(started, "")
            bodies.wait_for_file(gate)
        if n > 200:
            bodies.append(done, n)

    def body() -> Any:
        futures = work.map(range(600))
        assert bodies.wait_for_file(started)
        waiting = futures[201:]
        for future in waiting:
            future.cancel()
        waiting.wait(5)
        states = {future.state.name for future in waiting}
        bodies.append(gate, "")
        futures[200].result()
        return states

    assert in_flow(body, single, 20) == {"Cancelled"}
    assert bodies.lines(done) == []


def test_everything_of_a_runner_is_cancelled(single: str, tmp_path: Path) -> None:
    started = str(tmp_path / "started")

    @task
    def work(n: int) -> None:
        bodies.append(started, n)
        while True:
            time.sleep(0.005)

    def use() -> Any:
        with DaskTaskRunner(address=single) as runner:
            futures = runner.map(work, {"n": range(100)})
            assert bodies.wait_for_file(started)
            runner.cancel_all()
            futures.wait(5)
            return {future.state.name for future in futures}

    assert within(10, use) == {"Cancelled"}
    assert len(bodies.lines(started)) == 1


def test_a_task_is_cancelled_with_the_tasks_below_it(address: str, tmp_path: Path) -> None:
    started, ended = str(tmp_path / "started"), str(tmp_path / "ended")

    @task
    def inner(n: int) -> None:
        bodies.append(started, n)
        try:
            while True:
                time.sleep(0.005)
        finally:
            bodies.append(ended, n)

    @task
    def outer() -> None:
        inner.map(range(20)).result()

    def body() -> Any:
        future = outer.submit()
        assert bodies.wait_for_file(started)
        future.cancel()
        future.wait(8)
        return future.state.name

    assert in_flow(body, address, 15) == "Cancelled"
    assert sorted(bodies.lines(started)) == sorted(bodies.lines(ended))
    assert len(bodies.lines(started)) <= 2
