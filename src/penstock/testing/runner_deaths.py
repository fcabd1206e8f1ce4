"""Checks of task runners: bodies that take their worker with them, or that nothing can stop but killing that."""

from __future__ import annotations

import os
import pickle
import re
import threading
import time
from typing import Any

from penstock.annotations import unmapped
from penstock.exceptions import CancelledRun, CrashedRun, TaskRunTimeoutError, WorkerLost
from penstock.futures import Future
from penstock.settings import temporary_settings
from penstock.task_runners.base import TaskRunner
from penstock.tasks import task
from penstock.testing.checking import Check, add, contains, echo, ended, in_flow, same, still_works, users
from penstock.testing.diary import Diary, new_diary
from penstock.testing.isolation import isolated_store

_EXITCODE = 7


class _Deadly:
    """Ends the process that rebuilds it, if that is not the one in which it was made."""

    def __init__(self) -> None:
        self.home = os.getpid()

    def __setstate__(self, state: dict[str, Any]) -> None:
        if os.getpid() != state["home"]:
            os._exit(_EXITCODE)
        self.__dict__.update(state)


def _keep_the_interpreter() -> None:
    """Compute for about ten seconds without ever giving the interpreter lock away."""
    re.match(r"(a+)+$", "a" * 29 + "b")


def _can_lose_workers(runner: TaskRunner) -> bool:
    return runner.capabilities.can_kill or runner.capabilities.outlives_workers


def _is_lost(runner: TaskRunner, future: Future[Any], exitcode: int | None = None) -> WorkerLost:
    error = future.exception()
    assert isinstance(error, WorkerLost), f"expected WorkerLost, got {error!r}"
    ended(future, "CRASHED")
    assert exitcode is None or error.exitcode in (None, exitcode), f"exit code {error.exitcode}"
    if runner.capabilities.can_kill:  # it knows its workers
        assert error.worker, "the worker has no name"
    return error


@task(name="exit")
def _exit() -> None:
    os._exit(_EXITCODE)


# --- workers that die -------------------------------------------------------------------------------------------------


def crashes_runs_whose_workers_die(runner: TaskRunner) -> None:
    """Without retries the run is CRASHED with WorkerLost; the runner goes on, again and again."""
    if not _can_lose_workers(runner):
        return

    def body() -> None:
        for _ in range(3):
            _is_lost(runner, _exit.submit(), _EXITCODE)
            still_works()

    in_flow(runner, body)


def retries_attempts_that_were_lost(runner: TaskRunner) -> None:
    """A lost attempt counts, is recorded as lost, and is followed by another one if retries are left."""
    if not _can_lose_workers(runner):
        return

    @task(retries=2)
    def third_time_lucky(diary: Diary) -> str:
        diary.write("called")
        if len(diary.words()) < 3:
            os._exit(_EXITCODE)
        return "survived"

    with new_diary() as diary, isolated_store() as store:
        same(in_flow(runner, lambda: third_time_lucky.submit(diary).result()), "survived")
        same(diary.words(), ["called"] * 3)
    (root,) = store.runs()
    (row,) = store.children(root.id)
    same((row.status, row.attempts), ("COMPLETED", 3))
    attempts = sorted(store.attempts(row.id), key=lambda attempt: attempt.number)
    same([(each.number, each.error_type) for each in attempts][:2], [(1, "WorkerLost"), (2, "WorkerLost")])


def crashes_runs_whose_attempts_were_all_lost(runner: TaskRunner) -> None:
    if not _can_lose_workers(runner):
        return

    @task(retries=2)
    def never(diary: Diary) -> None:
        diary.write("called")
        os._exit(_EXITCODE)

    def body() -> None:
        _is_lost(runner, never.submit(diary), _EXITCODE)
        still_works()

    with new_diary() as diary:
        in_flow(runner, body)
        same(diary.words(), ["called"] * 3)


def spares_bystanders_of_workers_that_die(runner: TaskRunner) -> None:
    """Whatever else was to be executed there is executed, once."""
    if not runner.capabilities.can_kill:
        return

    @task
    def step(diary: Diary, number: int) -> int:
        diary.write(str(number))
        if number in (100, 200):
            os._exit(_EXITCODE)
        return number

    def body() -> None:
        futures = step.map(unmapped(diary), range(300))
        found = futures.result(raise_on_failure=False)
        for number, (future, value) in enumerate(zip(futures, found, strict=True)):
            if number in (100, 200):
                _is_lost(runner, future, _EXITCODE)
            else:
                same(value, number)

    with new_diary() as diary:
        in_flow(runner, body)
        same(sorted(map(int, diary.words())), list(range(300)))


def survives_segmentation_faults(runner: TaskRunner) -> None:
    if not _can_lose_workers(runner):
        return

    @task
    def fault() -> None:
        import ctypes
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        ctypes.string_at(0)

    def body() -> None:
        error = _is_lost(runner, fault.submit())
        if error.exitcode is not None:
            contains(str(error), "SIGSEGV" if os.name == "posix" else "exit code")
        still_works()

    in_flow(runner, body)


def survives_arguments_that_kill(runner: TaskRunner) -> None:
    """A worker that dies while it rebuilds what was sent to it is one that dies with its run."""
    if not runner.capabilities.can_kill:
        return

    def body() -> None:
        futures = [echo.submit(1), echo.submit(_Deadly()), echo.submit(2)]
        _is_lost(runner, futures[1], _EXITCODE)
        same((futures[0].result(), futures[2].result()), (1, 2))
        still_works()

    in_flow(runner, body)


def survives_coroutines_that_kill(runner: TaskRunner) -> None:
    if not _can_lose_workers(runner) or not runner.capabilities.runs_async:
        return

    @task
    async def leave() -> None:
        os._exit(_EXITCODE)

    def body() -> None:
        _is_lost(runner, leave.submit(), _EXITCODE)
        still_works()

    in_flow(runner, body)


def loses_tasks_with_the_tasks_below_them(runner: TaskRunner) -> None:
    """A task that was submitted by a task and ends its worker costs no more than the outer attempt."""
    if not _can_lose_workers(runner):
        return

    @task(retries=1)
    def outer(diary: Diary) -> str:
        diary.write("outer")
        if len(diary.words()) == 1:
            _exit.submit().result()
        return "survived"

    with new_diary() as diary:
        same(in_flow(runner, lambda: outer.submit(diary).result()), "survived")
        same(diary.words(), ["outer", "outer"])


def replaces_workers_that_die_while_idle(runner: TaskRunner) -> None:
    """Nothing was executed, so nothing is lost: neither a task that the worker knows nor one that is new to it."""
    if not _can_lose_workers(runner):
        return

    @task
    def doom() -> None:
        threading.Timer(0.15, os._exit, (_EXITCODE,)).start()  # by then it is known that this has ended

    def body() -> None:
        for number in range(2):
            doom.submit().result(timeout=5)
            time.sleep(0.25)
            same(add.submit(number).result(timeout=5), number + 1)

    in_flow(runner, body)


def spares_bystanders_whose_arguments_are_large(runner: TaskRunner) -> None:
    """A worker that dies while it is being sent more work has not begun that."""
    if not runner.capabilities.can_kill:
        return

    @task
    def step(data: Any, number: int) -> int:
        if number == 100:
            os._exit(_EXITCODE)
        return number

    def body() -> None:
        small, large = (pickle.PickleBuffer(bytearray(size)) for size in (1 << 20, 1 << 23))
        step.map([small] * 20, range(20)).result()  # now they are known to be quick
        futures = step.map([large] * 20, range(100, 120))
        _is_lost(runner, futures[0], _EXITCODE)
        same([future.result(timeout=5) for future in futures[1:]], list(range(101, 120)))

    in_flow(runner, body)


def keeps_lines_of_workers_that_die(runner: TaskRunner) -> None:
    """What a body had logged before it died is what one looks for then."""
    if not runner.capabilities.can_kill:
        return

    @task(log_prints=True)
    def last_words() -> None:
        print("last words")  # noqa: T201
        os._exit(_EXITCODE)

    with isolated_store() as store:
        in_flow(runner, lambda: _is_lost(runner, last_words.submit()))
    (root,) = store.runs()
    (row,) = store.children(root.id)
    same(row.status, "CRASHED")
    contains(" ".join(line.message for line in store.logs(row.id)), "last words")


def ends_although_a_worker_died_unwatched(runner: TaskRunner) -> None:
    """Nobody waits for the run, and nobody looks at it: the flow ends, and says so."""
    if not _can_lose_workers(runner):
        return

    def body() -> None:
        _exit.submit()

    try:
        in_flow(runner, body)
    except WorkerLost as error:
        assert error.exitcode in (None, _EXITCODE), f"exit code {error.exitcode}"
    else:
        raise AssertionError("the flow has completed")


# --- bodies that nothing else can stop --------------------------------------------------------------------------------


def kills_bodies_that_take_too_long(runner: TaskRunner) -> None:
    """Also those that keep the interpreter lock; the attempt is TimedOut as if it had been stopped gently."""
    if not runner.capabilities.can_kill:
        return

    @task(timeout_seconds=0.1)
    def stuck() -> None:
        _keep_the_interpreter()

    def body() -> None:
        still_works()  # there is a worker
        before = time.monotonic()
        future = stuck.submit()
        error = future.exception()
        took = time.monotonic() - before
        assert isinstance(error, TaskRunTimeoutError), f"expected TaskRunTimeoutError, got {error!r}"
        ended(future, "FAILED", "TimedOut")
        assert took < 1.5, f"released after {took:.2f} s"
        still_works()

    in_flow(runner, body)


def retries_attempts_that_were_killed(runner: TaskRunner) -> None:
    if not runner.capabilities.can_kill:
        return

    @task(retries=1, timeout_seconds=0.5)
    def stuck_once(diary: Diary) -> str:
        diary.write("called")
        if len(diary.words()) == 1:
            _keep_the_interpreter()
        return "survived"

    with new_diary() as diary:
        same(in_flow(runner, lambda: stuck_once.submit(diary).result()), "survived")
        same(diary.words(), ["called", "called"])


def spares_bystanders_of_bodies_that_are_killed(runner: TaskRunner) -> None:
    if not runner.capabilities.can_kill:
        return

    @task(timeout_seconds=0.1)
    def stuck() -> None:
        _keep_the_interpreter()

    def body() -> None:
        victims = [stuck.submit(), stuck.submit()]
        bystanders = echo.map(range(50))
        same(bystanders.result(), list(range(50)))
        for victim in victims:
            same(type(victim.exception()), TaskRunTimeoutError)

    in_flow(runner, body)


def interrupts_calls_of_the_operating_system(runner: TaskRunner) -> None:
    """A body that sleeps or waits for input is interrupted at once, and not killed."""
    if not runner.capabilities.interrupts_calls:
        return

    @task
    @users
    def sleep(diary: Diary) -> None:
        diary.write("entered")
        try:
            time.sleep(20)
        finally:
            diary.write("finally")

    def body() -> None:
        future = sleep.submit(diary)
        assert diary.wait_for("entered", 5), "the body was not called"
        before = time.monotonic()
        assert future.cancel(), "the run has ended already"
        same(type(future.exception()), CancelledRun)
        took = time.monotonic() - before
        assert took < 1, f"released after {took:.2f} s"
        same(diary.words(), ["entered", "finally"])

    with new_diary() as diary:
        in_flow(runner, body)


def kills_bodies_that_ignore_their_cancellation(runner: TaskRunner) -> None:
    """A body that cannot be interrupted is killed when its time of grace is over; the run is CANCELLED."""
    if not runner.capabilities.can_kill:
        return

    @task(retries=3)
    def stuck(diary: Diary) -> None:
        diary.write("entered")
        _keep_the_interpreter()

    def body() -> None:
        future = stuck.submit(diary)
        assert diary.wait_for("entered", 5), "the body was not called"
        before = time.monotonic()
        assert future.cancel(), "the run has ended already"
        same(type(future.exception()), CancelledRun)
        ended(future, "CANCELLED")
        took = time.monotonic() - before
        assert took < 2, f"released after {took:.2f} s"
        still_works()

    with new_diary() as diary, temporary_settings({"PENSTOCK_CANCEL_GRACE_SECONDS": 0.2}):
        in_flow(runner, body)
        same(diary.words(), ["entered"])


# --- bodies that nothing at all can stop ------------------------------------------------------------------------------


def writes_off_bodies_that_take_too_long(runner: TaskRunner) -> None:
    """Where nobody can be killed: the run is TimedOut in time, whatever its body does later."""
    if runner.capabilities.can_kill or runner.capabilities.immediate:
        return

    @task(timeout_seconds=0.1)
    def stuck() -> str:
        time.sleep(1.2)  # one call of the operating system, which nothing interrupts on other threads
        return "late"

    def body() -> None:
        still_works()  # the runner is ready
        future = stuck.submit()
        before = time.monotonic()
        same(type(future.exception()), TaskRunTimeoutError)
        took = time.monotonic() - before
        assert took < 1.0, f"released after {took:.2f} s"
        still_works()
        ended(future, "FAILED", "TimedOut")

    in_flow(runner, body)


def writes_off_bodies_that_ignore_their_cancellation(runner: TaskRunner) -> None:
    """Where nobody can be killed: the run is CRASHED after its time of grace, whatever its body does later."""
    if runner.capabilities.can_kill:
        return

    @task(retries=3)
    def stuck(diary: Diary) -> str:
        if diary.wait_for("submitted", 0.2):
            diary.write("entered")
            time.sleep(0.8)
        return "late, or executed at once"

    def body() -> None:
        future = stuck.submit(diary)
        diary.write("submitted")
        if future.done():
            return
        assert diary.wait_for("entered", 10), "the body was not called"
        before = time.monotonic()
        assert future.cancel(), "the run has ended already"
        error = future.exception()
        took = time.monotonic() - before
        assert took < 0.7, f"released after {took:.2f} s"
        same(type(error), CrashedRun)
        contains(str(error), "did not stop within 0.1 s")
        time.sleep(0.8)
        still_works()
        ended(future, "CRASHED")
        same(diary.words(), ["submitted", "entered"])

    with new_diary() as diary, temporary_settings({"PENSTOCK_CANCEL_GRACE_SECONDS": 0.1}):
        in_flow(runner, body)


CHECKS: tuple[Check, ...] = (
    crashes_runs_whose_workers_die,
    retries_attempts_that_were_lost,
    crashes_runs_whose_attempts_were_all_lost,
    spares_bystanders_of_workers_that_die,
    survives_segmentation_faults,
    survives_arguments_that_kill,
    survives_coroutines_that_kill,
    loses_tasks_with_the_tasks_below_them,
    replaces_workers_that_die_while_idle,
    spares_bystanders_whose_arguments_are_large,
    keeps_lines_of_workers_that_die,
    ends_although_a_worker_died_unwatched,
    kills_bodies_that_take_too_long,
    retries_attempts_that_were_killed,
    spares_bystanders_of_bodies_that_are_killed,
    interrupts_calls_of_the_operating_system,
    kills_bodies_that_ignore_their_cancellation,
    writes_off_bodies_that_take_too_long,
    writes_off_bodies_that_ignore_their_cancellation,
)
