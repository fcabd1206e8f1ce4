"""Checks of task runners: what can be a body, what it is told, and what it leaves in the record."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

from penstock import runtime
from penstock.annotations import allow_failure, unmapped
from penstock.context import tags
from penstock.exceptions import CancelledRun, TaskRunTimeoutError
from penstock.flows import flow
from penstock.futures import Future, wait
from penstock.logging import get_run_logger
from penstock.settings import current, temporary_settings
from penstock.states import Completed, Failed
from penstock.task_runners.base import TaskRunner
from penstock.tasks import task
from penstock.testing.checking import (
    Check,
    add,
    contains,
    echo,
    ended,
    fail,
    in_flow,
    lines,
    named,
    same,
    say,
    still_works,
    users,
)
from penstock.testing.diary import Diary, new_diary
from penstock.testing.isolation import isolated_store

# --- what can be a task -----------------------------------------------------------------------------------------------


class _Counter:
    def __init__(self, start: int) -> None:
        self.start = start

    @task(name="up")
    def up(self, by: int = 1) -> int:
        return self.start + by

    @task(name="later")
    async def later(self, by: int) -> int:
        return self.start - by

    @task(name="of_class")
    @classmethod
    def of_class(cls, word: str) -> str:
        return f"{cls.__name__} {word}"

    @task(name="static")
    @staticmethod
    def static(word: str) -> str:
        return word * 2


def runs_methods(runner: TaskRunner) -> None:
    def body() -> None:
        counter = _Counter(10)
        same((counter.up.submit().result(), counter.up.submit(by=5).result()), (11, 15))
        same(counter.later.submit(3).result(), 7)
        same(counter.up.map([1, 2]).result(), [11, 12])
        same(
            (_Counter.of_class.submit("x").result(), counter.of_class.submit("y").result()),
            ("_Counter x", "_Counter y"),
        )
        same((_Counter.static.submit("x").result(), counter.static.submit("y").result()), ("xx", "yy"))

    in_flow(runner, body)


def runs_methods_of_local_classes(runner: TaskRunner) -> None:
    class Local:
        def __init__(self, word: str) -> None:
            self.word = word

        @task
        def say(self, mark: str) -> str:
            return self.word + mark

    same(in_flow(runner, lambda: Local("hey").say.submit("!").result()), "hey!")


def runs_lambdas_and_partial_functions(runner: TaskRunner) -> None:
    from functools import partial

    offset = 5

    def body() -> None:
        same(task(name="lambda")(lambda x: x + offset).submit(1).result(), 6)
        same(task(name="partial")(partial(int, base=2)).submit("101").result(), 5)

    in_flow(runner, body)


def runs_generators(runner: TaskRunner) -> None:
    """A submitted generator has the list of its items for a value."""

    @task
    def count(n: int) -> Iterator[int]:
        yield from range(n)

    @task
    async def count_later(n: int) -> AsyncIterator[int]:
        for number in range(n):
            yield number

    @task
    def stumble() -> Iterator[int]:
        yield 1
        raise ValueError("stumbled")

    def body() -> None:
        same((count.submit(3).result(), count_later.submit(3).result()), ([0, 1, 2], [0, 1, 2]))
        same(str(stumble.submit().exception()), "stumbled")

    in_flow(runner, body)


def mixes_asynchronous_tasks_with_others(runner: TaskRunner) -> None:
    """They feed each other, down a chain and side by side."""

    @task
    async def twice(number: int) -> int:
        await asyncio.sleep(0)
        return 2 * number

    def body() -> None:
        future: Any = add.submit(0)
        for _ in range(5):
            future = add.submit(twice.submit(future))
        same(future.result(), 63)
        mapped = twice.map(add.map(range(20)))
        same(add.map(mapped).result(), [2 * number + 3 for number in range(20)])

    in_flow(runner, body)


def lets_asynchronous_tasks_submit_tasks(runner: TaskRunner) -> None:
    @task
    async def outer() -> Any:
        first = add.submit(1)
        return [await first, await say.submit(add.submit(first)), sum([await each for each in add.map([1, 2])])]

    same(in_flow(runner, lambda: outer.submit().result()), [2, 3, 5])


def hands_failures_to_those_who_allow_them(runner: TaskRunner) -> None:
    """`allow_failure` passes the exception, or only the fact that the run has ended."""

    def body() -> None:
        bad = fail.submit(ValueError("boom"))
        (got,) = echo.submit([allow_failure(bad)]).result()
        same((type(got), str(got)), (ValueError, "boom"))
        same(echo.submit("after", wait_for=[allow_failure(bad)]).result(), "after")

    in_flow(runner, body)


def maps_over_futures_and_constants(runner: TaskRunner) -> None:
    def body() -> None:
        numbers = add.map([1, 2, 3])
        same(add.map(numbers, unmapped(echo.submit(10))).result(), [12, 13, 14])
        same(add.map(echo.submit([1, 2]), b=5).result(), [6, 7])

    in_flow(runner, body)


# --- what a body is told, and what it tells ---------------------------------------------------------------------------


@task(name="ask", tags="own")
def _ask(word: str, number: int = 4) -> dict[str, Any]:
    run, around = runtime.task_run, runtime.flow_run
    return {
        "task": (run.task_name, run.name, run.id, run.tags, run.parameters, run.run_count),
        "flow": (around.flow_name, around.name, around.id, around.tags, around.parameters, around.run_count),
        "more": (around.flow_version, around.parent_flow_run_id, around.root_flow_run_id, around.scheduled_start_time),
    }


def tells_bodies_about_their_runs(runner: TaskRunner) -> None:
    """`runtime` knows the task run and the flow run around it as the flow does."""

    @flow(name="asking", version="1.2", task_runner=runner)
    def asking(place: str, size: int) -> None:
        around = runtime.flow_run
        with tags("around"):
            future = _ask.submit("x")
        found = future.result()
        parameters = {"word": "x", "number": 4}
        same(found["task"], ("ask", "ask-0", str(future.task_run_id), ["around", "outer", "own"], parameters, 1))
        same(found["flow"], ("asking", around.name, around.id, ["outer"], {"place": "here", "size": 3}, 1))
        same(found["more"], ("1.2", None, around.id, around.scheduled_start_time))

    with tags("outer"):
        asking("here", 3)


def tells_coroutines_about_their_runs(runner: TaskRunner) -> None:
    @task
    async def ask() -> tuple[str, str]:
        return runtime.task_run.name, runtime.flow_run.flow_name

    def body() -> None:
        same([ask.submit().result() for _ in range(2)], [("ask-0", "check"), ("ask-1", "check")])

    in_flow(runner, body)


def gives_bodies_the_surroundings_of_the_flow(runner: TaskRunner) -> None:
    """Environment variables and the working directory are those of the flow's process, as it is then."""
    if not runner.capabilities.same_surroundings:
        return

    @task
    def look() -> tuple[str | None, str]:
        return os.environ.get("PENSTOCK_CHECK"), os.getcwd()

    def body() -> Any:
        return look.submit().result()

    os.environ["PENSTOCK_CHECK"] = "of the flow's"
    try:
        same(in_flow(runner, body), ("of the flow's", os.getcwd()))
    finally:
        del os.environ["PENSTOCK_CHECK"]
    same(in_flow(runner, body), (None, os.getcwd()))


def records_lines_of_many_bodies_in_order(runner: TaskRunner) -> None:
    """Each run has its own lines, logged and printed, by functions and coroutines, in the order in which they came."""

    @task(log_prints=True)
    def talk(number: int) -> None:
        for line in range(5):
            get_run_logger().info("%d logs %d", number, line)
            print(number, "prints", line)  # noqa: T201

    @task(log_prints=True)
    async def chat(number: int) -> None:
        for line in range(5):
            print(number, "prints", line)  # noqa: T201
            logging.getLogger("penstock.check").info("%d logs %d", number, line)

    def body() -> None:
        talk.map(range(5))
        chat.map(range(5))

    with isolated_store() as store:
        in_flow(runner, body)
    for number in range(5):
        order = [[f"{number} logs {line}", f"{number} prints {line}"] for line in range(5)]
        same(lines(store, f"talk-0[{number}]"), [text for pair in order for text in pair])
        same(lines(store, f"chat-0[{number}]"), [text for pair in order for text in reversed(pair)])


def records_lines_of_bodies_that_fail(runner: TaskRunner) -> None:
    """With their levels and, from `logger.exception`, the traceback."""

    @task
    def stumble() -> None:
        logger = get_run_logger()
        logger.debug("not recorded")
        logger.warning("careful")
        try:
            raise KeyError("lost")
        except KeyError:
            logger.exception("stumbled")
        raise ValueError("boom")

    with isolated_store() as store:
        in_flow(runner, lambda: str(stumble.submit().exception()))
    lines = store.logs(named(store, "stumble-0").id)
    same([(line.level, line.message.split("\n")[0]) for line in lines][:2], [(30, "careful"), (40, "stumbled")])
    contains(lines[1].message, "KeyError: 'lost'")


def records_lines_of_loggers_that_do_not_propagate(runner: TaskRunner) -> None:
    """Libraries have such loggers, with handlers of their own."""

    @task
    def talk() -> None:
        stubborn = logging.getLogger("penstock_check.stubborn")
        stubborn.addHandler(logging.NullHandler())
        stubborn.propagate = False
        stubborn.error("recorded all the same")

    with isolated_store() as store:
        in_flow(runner, lambda: talk.submit().result())
    same(lines(store, "talk-0"), ["recorded all the same"])


class _Unspeakable:
    def __repr__(self) -> str:
        raise RuntimeError("no text")


def logs_without_harm_what_cannot_be_shown(runner: TaskRunner) -> None:
    """A line with something odd in it must not become an exception in the body."""

    @task
    def talk() -> None:
        get_run_logger().info("first", extra={"odd": _Unspeakable()})
        get_run_logger().info("second", extra={"lock": threading.Lock()})

    with isolated_store() as store:
        in_flow(runner, lambda: talk.submit().result())
    same(lines(store, "talk-0"), ["first", "second"])


def counts_runs_of_the_whole_tree(runner: TaskRunner) -> None:
    """The last line of a flow run counts what it, its tasks and its subflows have called."""

    @flow(name="inner", task_runner=runner)
    def inner() -> None:
        add.map([1, 2, 3]).result()

    @task
    def outer() -> None:
        add.submit(1).result()
        inner()

    with isolated_store() as store:
        in_flow(runner, lambda: outer.submit().result())
    (root,) = store.runs()
    last = [line.message for line in store.logs(root.id) if line.run_id == root.id][-1]
    contains(last, "5 task runs, 1 subflow run")


def gives_bodies_the_settings_of_the_flow(runner: TaskRunner) -> None:
    @task
    def look() -> float:
        return current().cancel_grace_seconds

    with temporary_settings({"PENSTOCK_CANCEL_GRACE_SECONDS": 1.25}):
        same(in_flow(runner, lambda: look.submit().result()), 1.25)


def keeps_no_run_behind_one_that_takes_long(runner: TaskRunner) -> None:
    """A worker that is idle takes over what another one has not begun."""
    if runner.capabilities.shares_memory or runner.slots < 2:
        return

    @task
    def step(diary: Diary, number: int) -> bool:
        diary.write(str(number))
        return diary.wait_for("99", 2) if number == 0 else True

    def body() -> None:
        step.map(unmapped(diary), range(100, 140)).result()  # now they are known to be quick
        same(step.map(unmapped(diary), range(100)).result(), [True] * 100)

    with new_diary() as diary:
        in_flow(runner, body)


def records_runs_below_tasks(runner: TaskRunner) -> None:
    """Runs that a task submitted are its children in the record, with their states and lines."""

    @task
    def inner(number: int) -> int:
        get_run_logger().info("inner %d", number)
        if number == 2:
            raise ValueError("two")
        return number

    @task
    def outer() -> list[str]:
        return [str(each) for each in inner.map(range(3)).result(raise_on_failure=False)]

    with isolated_store() as store:
        same(in_flow(runner, lambda: outer.submit().result()), ["0", "1", "two"])
    children = store.children(named(store, "outer-0").id)
    same(sorted((row.name, row.status) for row in children), [("inner", "COMPLETED")] * 2 + [("inner", "FAILED")])
    lines = sorted(line.message for row in children for line in store.logs(row.id))
    same(lines, ["inner 0", "inner 1", "inner 2"])


def fails_flows_with_unseen_failures_below_tasks(runner: TaskRunner) -> None:
    """A failure that nobody looked at is not lost because it happened below a task."""

    @task
    def outer() -> str:
        fail.submit(ValueError("unseen"))
        return "fine"

    def body() -> Any:
        return outer.submit().result()

    try:
        in_flow(runner, body)
    except ValueError as error:
        same(str(error), "unseen")
    else:
        raise AssertionError("the flow has completed")


# --- what a run does at home ------------------------------------------------------------------------------------------


def calls_hooks_in_the_process_of_the_flow(runner: TaskRunner) -> None:
    """Hooks see the run before and after its body, wherever that is executed."""
    called: list[tuple[str, str]] = []

    def note(definition: Any, run: Any, state: Any) -> None:
        called.append((run.name, state.name))

    hooks: Any = {"on_running": [note], "on_completion": [note], "on_failure": [note]}

    def body() -> None:
        task(name="good", **hooks)(lambda: None).submit().result()
        task(name="bad", **hooks)(lambda: int("x")).submit().exception()

    in_flow(runner, body)
    same(called, [("good-0", "Running"), ("good-0", "Completed"), ("bad-0", "Running"), ("bad-0", "Failed")])


def asks_retry_conditions_in_the_process_of_the_flow(runner: TaskRunner) -> None:
    asked: list[str] = []

    def condition(definition: Any, run: Any, state: Any) -> bool:
        asked.append(state.message)
        return len(asked) < 2

    @task(retries=5, retry_condition_fn=condition)
    def bad() -> None:
        raise ValueError("again")

    in_flow(runner, lambda: str(bad.submit().exception()))
    same(asked, ["again", "again"])


def understands_states_that_bodies_return(runner: TaskRunner) -> None:
    @task
    def judge(number: int) -> Any:
        return Failed(message="judged") if number else Completed(message="fine", data=7)

    def body() -> None:
        good, bad = judge.submit(0), judge.submit(1)
        same((good.result(), good.state.message), (7, "fine"))
        contains(str(bad.exception()), "judged")
        ended(bad, "FAILED")

    in_flow(runner, body)


def resolves_futures_that_bodies_return(runner: TaskRunner) -> None:
    @task
    def outer() -> Any:
        return [add.submit(1), {"two": add.submit(add.submit(1))}]

    same(in_flow(runner, lambda: outer.submit().result()), [2, {"two": 3}])


def hands_lines_to_the_handlers_of_the_program(runner: TaskRunner) -> None:
    """A line that a body logs reaches the handlers at home, once, and only from its logger's level on."""
    logger = logging.getLogger("penstock_check.of_a_program")
    handler = _Keeping()

    @task
    def talk() -> None:
        theirs = logging.getLogger("penstock_check.of_a_program")
        theirs.debug("first %s", "line")
        logging.getLogger("penstock_check.quiet").info("no line")
        theirs.info("second line")

    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logging.getLogger("penstock_check.quiet").setLevel(logging.ERROR)
    try:
        with isolated_store() as store:
            in_flow(runner, lambda: talk.submit().result())
    finally:
        logger.removeHandler(handler)
        for name in ("of_a_program", "quiet"):
            logging.getLogger(f"penstock_check.{name}").setLevel(logging.NOTSET)
    same(handler.kept, ["first line", "second line"])
    same(lines(store, "talk-0"), ["first line", "second line"])


class _Keeping(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.kept: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.kept.append(record.getMessage())


# --- bodies that are stopped ------------------------------------------------------------------------------------------


@task(name="pin")
def _pin(diary: Diary) -> None:
    """Keep a slot until everything is submitted, if this is not executed at once."""
    diary.wait_for("submitted", 0.2)


@task(name="step")
def _step(diary: Diary, number: int, blocked: int) -> None:
    if number < blocked and diary.wait_for("submitted", 0.2):
        diary.write("entered")
        diary.wait_for("go on")
    diary.write(str(number))


def never_calls_bodies_of_cancelled_runs(runner: TaskRunner) -> None:
    """Wherever a run waits for its turn: once it is cancelled, its body is not called any more."""
    blocked = min(runner.slots, 4)

    def body() -> None:
        _step.map(unmapped(diary), range(100, 140), 0).result()  # now they are known to be quick
        for _ in range(blocked):
            _pin.submit(diary)
        futures = _step.map(unmapped(diary), range(100), blocked)
        diary.write("submitted")
        if futures[0].done():
            return
        assert diary.wait_for("entered"), "the first body was not called"
        cancelled = [future for future in futures[blocked:] if future.cancel()]
        wait(cancelled, 5.0)
        assert all(map(Future.done, cancelled)), "a run that had not started was cancelled, and is not over"
        called = len(diary.words())
        diary.write("go on")
        wait(futures)
        late = diary.words()[called:]
        assert len(late) <= 1 + 2 * blocked, f"{len(cancelled)} runs were cancelled, and then came {late}"
        still_works()

    with new_diary() as diary:
        in_flow(runner, body)


def cancels_coroutines_that_are_running(runner: TaskRunner) -> None:
    if runner.capabilities.runs_async and not runner.capabilities.can_interrupt:
        return

    @task(retries=3)
    async def victim(diary: Diary) -> None:
        if not diary.wait_for("submitted", 0.2):
            return  # executed at once
        diary.write("entered")
        try:
            await asyncio.sleep(20)
        finally:
            diary.write("finally")

    def body() -> None:
        future = victim.submit(diary)
        diary.write("submitted")
        if future.done():
            return
        assert diary.wait_for("entered"), "the body was not called"
        assert future.cancel(), "the run has ended already"
        same(type(future.exception()), CancelledRun)
        ended(future, "CANCELLED")
        same(diary.words(), ["submitted", "entered", "finally"])
        still_works()

    with new_diary() as diary:
        in_flow(runner, body)


def ends_coroutines_that_take_too_long(runner: TaskRunner) -> None:
    @task(timeout_seconds=0.1)
    async def slow() -> None:
        await asyncio.sleep(20)

    def body() -> None:
        before = time.monotonic()
        future = slow.submit()
        same(type(future.exception()), TaskRunTimeoutError)
        ended(future, "FAILED", "TimedOut")
        took = time.monotonic() - before
        assert took < 1.0, f"released after {took:.2f} s"
        still_works()

    in_flow(runner, body)


def cancels_bodies_with_the_tasks_that_they_wait_for(runner: TaskRunner) -> None:
    """Both are asked to stop, see their `finally` blocks through, and are recorded Cancelled."""
    if not runner.capabilities.can_interrupt:
        return

    @task
    @users
    def inner(diary: Diary) -> None:
        try:
            diary.write("entered")
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline:
                time.sleep(0.005)
        finally:
            diary.write("inner")

    @task(retries=1)
    @users
    def outer(diary: Diary) -> None:
        if not diary.wait_for("submitted", 0.2):
            return  # executed at once
        try:
            inner.submit(diary).result()
        finally:
            diary.write("outer")

    def body() -> None:
        future = outer.submit(diary)
        diary.write("submitted")
        if future.done():
            return
        assert diary.wait_for("entered"), "the inner body was not called"
        assert future.cancel(), "the run has ended already"
        same(type(future.exception()), CancelledRun)
        same(sorted(diary.words()), ["entered", "inner", "outer", "submitted"])
        still_works()

    with new_diary() as diary, isolated_store() as store:
        in_flow(runner, body)
        was_entered = "entered" in diary.words()
    if was_entered:
        same((named(store, "inner-0").status, named(store, "outer-0").status), ("CANCELLED", "CANCELLED"))


CHECKS: tuple[Check, ...] = (
    runs_methods,
    runs_methods_of_local_classes,
    runs_lambdas_and_partial_functions,
    runs_generators,
    mixes_asynchronous_tasks_with_others,
    lets_asynchronous_tasks_submit_tasks,
    hands_failures_to_those_who_allow_them,
    maps_over_futures_and_constants,
    tells_bodies_about_their_runs,
    tells_coroutines_about_their_runs,
    gives_bodies_the_surroundings_of_the_flow,
    records_lines_of_many_bodies_in_order,
    records_lines_of_bodies_that_fail,
    records_lines_of_loggers_that_do_not_propagate,
    logs_without_harm_what_cannot_be_shown,
    counts_runs_of_the_whole_tree,
    gives_bodies_the_settings_of_the_flow,
    keeps_no_run_behind_one_that_takes_long,
    records_runs_below_tasks,
    fails_flows_with_unseen_failures_below_tasks,
    calls_hooks_in_the_process_of_the_flow,
    asks_retry_conditions_in_the_process_of_the_flow,
    understands_states_that_bodies_return,
    resolves_futures_that_bodies_return,
    hands_lines_to_the_handlers_of_the_program,
    never_calls_bodies_of_cancelled_runs,
    cancels_coroutines_that_are_running,
    ends_coroutines_that_take_too_long,
    cancels_bodies_with_the_tasks_that_they_wait_for,
)
