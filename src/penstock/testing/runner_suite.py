"""What every task runner must do, as checks that can be run against any of them.

Nothing in them depends on how many bodies run at once, or where: a runner with one slot passes, and so does one that
executes in the submitting thread, or in other processes. What a runner says that it cannot do is not asked of it.
"""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from penstock.annotations import unmapped
from penstock.context import TaskRunContext, tags
from penstock.exceptions import CancelledRun, CrashedRun, TaskRunTimeoutError, UpstreamTaskError
from penstock.flows import flow
from penstock.futures import Future, as_completed, wait
from penstock.task_runners.base import TaskRunner
from penstock.tasks import task
from penstock.testing import runner_bodies, runner_deaths, runner_travel
from penstock.testing.checking import Check, add, echo, ended, fail, in_flow, same, say, users
from penstock.testing.diary import Diary, new_diary
from penstock.testing.isolation import isolated_store

Make = Callable[[], TaskRunner]

SECONDS = 30.0  # for one check: a runner that hangs fails


def check_runner(make: Callable[[], TaskRunner]) -> None:
    """Run every check with a fresh runner from `make`; AssertionError names the check and what was wrong.

    Records go to a throw-away store. A check that has not ended after 30 seconds fails; its thread, a daemon, is
    left behind. To have one test for each check, see `penstock.testing.conformance`.

    >>> from penstock.task_runners import ThreadPoolTaskRunner
    >>> check_runner(lambda: ThreadPoolTaskRunner(max_workers=2))
    """
    for check in CHECKS:
        run_check(check, make)


def run_check(check: Check, make: Callable[[], TaskRunner]) -> None:
    """Run one check with a fresh runner, in a thread of its own."""
    errors: list[BaseException] = []

    def work() -> None:
        try:
            check(make())
        except BaseException as error:
            errors.append(error)

    with isolated_store():
        context = contextvars.copy_context()
        thread = threading.Thread(target=context.run, args=(work,), name=f"check {check.__name__}", daemon=True)
        thread.start()
        thread.join(SECONDS)
        assert not thread.is_alive(), f"{check.__name__}: not done after {SECONDS:g} seconds"
    if errors:
        errors[0].add_note(f"in the check {check.__name__!r}")
        raise errors[0]


# --- results ----------------------------------------------------------------------------------------------------------


def returns_values(runner: TaskRunner) -> None:
    """A future has the body's value; with shared memory the very object, also of arguments."""
    value = {"some": [1, 2, 3]}

    def body() -> Any:
        future = echo.submit(value)
        future.wait()
        return future.state.result()

    returned = in_flow(runner, body)
    same(returned, value)
    assert returned is value or not runner.capabilities.shares_memory, "the result is a copy"


def completes_runs(runner: TaskRunner) -> None:
    """The state of a run that returned is Completed, and its future is done."""

    def body() -> None:
        future = echo.submit(None)
        same(future.result(), None)
        same((future.done(), future.cancelled(), future.exception()), (True, False, None))
        ended(future, "COMPLETED")

    in_flow(runner, body)


def starts_again_for_every_flow_run(runner: TaskRunner) -> None:
    """The runner of a flow is a template: the flow can be called many times."""

    @flow(task_runner=runner)
    def plus_one(number: int) -> Any:
        return add.submit(number).result()

    for number in range(3):
        same(plus_one(number), number + 1)


def duplicates_are_equal(runner: TaskRunner) -> None:
    copy = runner.duplicate()
    assert type(copy) is type(runner) and copy is not runner, f"duplicate() gave {copy!r}"
    same(copy, runner)
    same(hash(copy), hash(runner))
    assert runner.name, "the runner has no name"
    assert runner.slots >= 1, f"slots: {runner.slots}"


def executes_many_runs(runner: TaskRunner) -> None:
    def body() -> int:
        return sum(add.map(range(500)).result())

    same(in_flow(runner, body), sum(range(1, 501)))


# --- failures ---------------------------------------------------------------------------------------------------------


def fails_runs_with_their_own_exception(runner: TaskRunner) -> None:
    error = ValueError("boom")

    def body() -> Any:
        future = fail.submit(error)
        found = future.exception()
        ended(future, "FAILED")
        same(future.state.message, "Task run encountered an exception ValueError: boom")
        return found

    found = in_flow(runner, body)
    same((type(found), str(found)), (ValueError, "boom"))
    assert found is error or not runner.capabilities.shares_memory, "the exception is a copy"


def survives_base_exceptions(runner: TaskRunner) -> None:
    """SystemExit and its like crash the run whose body raises them: neither the flow nor the runner's workers."""
    errors = [SystemExit(3), GeneratorExit(), BaseException("odd")]
    if not runner.capabilities.immediate:  # there the interrupt is also the submitting program's
        errors.append(KeyboardInterrupt())

    def body() -> None:
        for error in errors:
            future = fail.submit(error)
            found = future.exception()
            assert isinstance(found, CrashedRun), f"{error!r} gave {found!r}"
            same(type(found.__cause__), type(error))
            ended(future, "CRASHED")
        same(echo.submit("still there").result(), "still there")

    in_flow(runner, body)


def blocks_what_depends_on_failures(runner: TaskRunner) -> None:
    """What needs the value of a run that failed does not run, directly or down a chain."""

    def body() -> None:
        bad = fail.submit(ValueError("boom"))
        blocked = echo.submit(bad)
        below = echo.submit("x", wait_for=[blocked])
        for future in (blocked, below):
            error = future.exception()
            assert isinstance(error, UpstreamTaskError), f"expected UpstreamTaskError, got {error!r}"
            same(error.task_run_name, "fail-0")
            ended(future, "FAILED", "UpstreamFailed")

    in_flow(runner, body)


def retries(runner: TaskRunner) -> None:
    """A run is tried again as often as it may be, and each attempt is counted."""

    @task(retries=2)
    def third_time_lucky(diary: Diary) -> int:
        context = TaskRunContext.get()
        assert context is not None
        diary.write(str(context.task_run.run_count))
        attempts = len(diary.words())
        if attempts < 3:
            raise ValueError(attempts)
        return attempts

    @task(retries=1, retry_delay_seconds=0.01)
    def never(diary: Diary) -> None:
        diary.write("never")
        raise ValueError("never")

    def body() -> tuple[int, BaseException | None]:
        return third_time_lucky.submit(diary).result(), never.submit(diary).exception()

    with new_diary() as diary:
        value, error = in_flow(runner, body)
        same((value, str(error)), (3, "never"))
        same(diary.words(), ["1", "2", "3", "never", "never"])


def ends_bodies_that_take_too_long(runner: TaskRunner) -> None:
    """A run past its time limit is TimedOut within half a second, and the runner goes on."""

    @task(timeout_seconds=0.1)
    @users
    def slow() -> None:
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            time.sleep(0.005)

    def body() -> None:
        same(echo.submit("first").result(), "first")  # there is a worker
        before = time.monotonic()
        future = slow.submit()
        error = future.exception()
        took = time.monotonic() - before
        assert isinstance(error, TaskRunTimeoutError), f"expected TaskRunTimeoutError, got {error!r}"
        ended(future, "FAILED", "TimedOut")
        assert took < 1.0, f"released after {took:.2f} s"
        same(echo.submit("next").result(), "next")

    in_flow(runner, body)


# --- dependencies -----------------------------------------------------------------------------------------------------


def replaces_futures_by_values(runner: TaskRunner) -> None:
    def body() -> Any:
        one, two = echo.submit(1), say.submit(2)
        return echo.submit({"sum": [add.submit(one, two)], "both": (one, two)}).result()

    same(in_flow(runner, body), {"sum": [3], "both": (1, 2)})


def waits_for_what_it_is_told_to(runner: TaskRunner) -> None:
    @task
    def note(diary: Diary, word: str) -> None:
        diary.write(word)

    def body() -> None:
        first = note.submit(diary, "first")
        second = note.map(unmapped(diary), ["second", "second"], wait_for=[first])
        note.submit(diary, "third", wait_for=second).result()

    with new_diary() as diary:
        in_flow(runner, body)
        same(diary.words(), ["first", "second", "second", "third"])


def goes_down_long_chains(runner: TaskRunner) -> None:
    def body() -> Any:
        future = add.submit(0)
        for _ in range(300):
            future = add.submit(future)
        return future.result()

    same(in_flow(runner, body), 301)


def maps(runner: TaskRunner) -> None:
    """Values come in the order of the input, whatever the order of the ends; failures take their places."""

    @task
    def half(number: int) -> int:
        if number % 2:
            raise ValueError(number)
        return number // 2

    def body() -> Any:
        return half.map([4, 1, 2]).result(raise_on_failure=False)

    first, error, last = in_flow(runner, body)
    same((first, str(error), last), (2, "1", 1))


def tells_when_runs_end(runner: TaskRunner) -> None:
    """`wait`, `as_completed` and callbacks see every run."""
    called: list[Future[Any]] = []

    def body() -> None:
        futures = add.map([1, 2, 3])
        for future in futures:
            future.add_done_callback(called.append)
        same(sorted(future.result() for future in as_completed(futures)), [2, 3, 4])
        same(wait(futures).done, set(futures))

    in_flow(runner, body)
    same(len(called), 3)


def ends_after_everything_submitted(runner: TaskRunner) -> None:
    """A flow does not end before the tasks that nobody waited for."""

    @task
    def slowly(diary: Diary) -> None:
        time.sleep(0.02)
        diary.write("task")

    def body() -> None:
        slowly.submit(diary)
        slowly.submit(diary)

    with new_diary() as diary:
        in_flow(runner, body)
        same(diary.words(), ["task", "task"])


# --- nesting ----------------------------------------------------------------------------------------------------------


def lets_tasks_submit_tasks(runner: TaskRunner) -> None:
    """Tasks that wait for tasks cannot use up the slots: also on one of them this does not deadlock."""

    @task
    def fibonacci(n: int) -> Any:
        if n < 2:
            return n
        first, second = fibonacci.submit(n - 1), fibonacci.submit(n - 2)
        return first.result() + second.result()

    same(in_flow(runner, lambda: fibonacci.submit(7).result()), 13)


def lets_tasks_wait_for_chains(runner: TaskRunner) -> None:
    """What a task waits for may itself wait for something that needs the task's slot."""

    @task
    def outer() -> Any:
        ready = add.submit(1)
        return sum(add.map([ready, ready]).result()) + add.submit(add.submit(ready)).result()

    same(in_flow(runner, lambda: outer.submit().result()), 10)


def runs_subflows_in_tasks(runner: TaskRunner) -> None:
    @flow(task_runner=runner)
    def inner(n: int) -> int:
        return sum(add.map(range(n)).result())

    @task
    def through(n: int) -> Any:
        return inner(n)

    same(in_flow(runner, lambda: (inner(3), through.submit(2).result())), (6, 3))


# --- asynchronous tasks -----------------------------------------------------------------------------------------------


def runs_asynchronous_tasks(runner: TaskRunner) -> None:
    """A coroutine function is a task like any other: values, exceptions, retries."""

    @task(retries=1)
    async def second_time(diary: Diary) -> str:
        diary.write("called")
        if len(diary.words()) < 2:
            raise ValueError("first")
        return "second"

    @task
    async def bad() -> None:
        raise ValueError("async")

    def body() -> None:
        same(say.map(["a", "b"]).result(), ["a", "b"])
        same(second_time.submit(diary).result(), "second")
        same(str(bad.submit().exception()), "async")

    with new_diary() as diary:
        in_flow(runner, body)
        same(diary.words(), ["called", "called"])


def serves_asynchronous_flows(runner: TaskRunner) -> None:
    """In a coroutine futures are awaited; the loop is not blocked."""
    import asyncio

    async def body() -> list[Any]:
        both = add.submit(1), say.submit(add.submit(2))
        return [await future for future in both]

    same(asyncio.run(flow(name="check", task_runner=runner)(body)()), [2, 3])


# --- context ----------------------------------------------------------------------------------------------------------

_variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="outside")


@task(name="look", tags="own")
def _look() -> tuple[str, list[str], str]:
    context = TaskRunContext.get()
    assert context is not None, "the body has no task run context"
    seen = _variable.get()
    _variable.set("changed inside")
    return seen, context.task_run.tags, context.task_run.name


def carries_the_context(runner: TaskRunner) -> None:
    """A body sees the tags of its submission, with shared memory its context variables; changes stay inside."""
    shared = runner.capabilities.shares_memory

    def body() -> None:
        with tags("around"):
            _variable.set("first")
            first = _look.submit()
        _variable.set("second")
        second = _look.submit()
        same(first.result(), ("first" if shared else "outside", ["around", "own"], "look-0"))
        same(second.result(), ("second" if shared else "outside", ["own"], "look-1"))
        same(_variable.get(), "second")

    in_flow(runner, body)


def records_log_lines(runner: TaskRunner) -> None:
    """Lines logged in a body belong to its run, in order."""

    @task
    def talk() -> None:
        for number in range(3):
            logging.getLogger("elsewhere").error("line %d", number)

    handler = logging.NullHandler()
    logging.getLogger("elsewhere").addHandler(handler)
    try:
        with isolated_store() as store:
            in_flow(runner, lambda: talk.submit().result())
    finally:
        logging.getLogger("elsewhere").removeHandler(handler)
    (root,) = store.runs()
    (child,) = store.children(root.id)
    same([line.message for line in store.logs(child.id)], ["line 0", "line 1", "line 2"])


# --- cancellation -----------------------------------------------------------------------------------------------------


def cancels_runs_that_have_not_started(runner: TaskRunner) -> None:
    """A run whose inputs are not there ends Cancelled at once; its body is never called."""

    @task
    def gate(diary: Diary) -> None:
        diary.wait_for("go on", 0.2)

    @task
    def never(diary: Diary) -> None:
        diary.write("called")

    def body() -> None:
        waiting = never.submit(diary, wait_for=[gate.submit(diary)])
        if not waiting.cancel():
            return  # it was executed at once
        ended(waiting, "CANCELLED")
        assert waiting.cancelled()
        diary.write("go on")
        same(type(waiting.exception()), CancelledRun)

    with new_diary() as diary:
        in_flow(runner, body)
        same(diary.words(), ["go on"] if "go on" in diary.words() else ["called"])


def cancels_runs_that_are_running(runner: TaskRunner) -> None:
    """A running body is interrupted, sees its `finally` blocks through, and is not tried again."""
    if not runner.capabilities.can_interrupt:
        return

    @task(retries=3)
    @users
    def victim(diary: Diary) -> str:
        if not diary.wait_for("submitted", 0.2):
            diary.write("entered")
            return "executed at once"
        try:
            diary.write("entered")
            while True:
                time.sleep(0.005)
        finally:
            diary.write("finally")

    def body() -> None:
        future = victim.submit(diary)
        diary.write("submitted")
        assert diary.wait_for("entered"), "the body was not called"
        if future.cancel():
            same(type(future.exception()), CancelledRun)
            ended(future, "CANCELLED")
            same(diary.words(), ["submitted", "entered", "finally"])
        same(echo.submit("next").result(), "next")

    with new_diary() as diary:
        in_flow(runner, body)


CHECKS: tuple[Check, ...] = (
    returns_values,
    completes_runs,
    starts_again_for_every_flow_run,
    duplicates_are_equal,
    executes_many_runs,
    fails_runs_with_their_own_exception,
    survives_base_exceptions,
    blocks_what_depends_on_failures,
    retries,
    ends_bodies_that_take_too_long,
    replaces_futures_by_values,
    waits_for_what_it_is_told_to,
    goes_down_long_chains,
    maps,
    tells_when_runs_end,
    ends_after_everything_submitted,
    lets_tasks_submit_tasks,
    lets_tasks_wait_for_chains,
    runs_subflows_in_tasks,
    runs_asynchronous_tasks,
    serves_asynchronous_flows,
    carries_the_context,
    records_log_lines,
    cancels_runs_that_have_not_started,
    cancels_runs_that_are_running,
    *runner_bodies.CHECKS,
    *runner_travel.CHECKS,
    *runner_deaths.CHECKS,
)
