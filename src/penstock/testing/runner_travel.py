"""Checks of task runners: what a body is given, what comes back of it, and what is recorded meanwhile."""

from __future__ import annotations

import os
import pickle
import sys
import threading
from typing import Any

from penstock.annotations import allow_failure
from penstock.exceptions import SerializationError
from penstock.task_runners.base import TaskRunner
from penstock.tasks import task
from penstock.testing.checking import (
    Check,
    contains,
    echo,
    ended,
    in_flow,
    is_or_tells_of,
    named,
    same,
    still_works,
    told,
)
from penstock.testing.isolation import isolated_store

# --- exceptions -------------------------------------------------------------------------------------------------------


class _Demanding(Exception):
    """Cannot be made again from its `args`."""

    def __init__(self, code: int, *, reason: str) -> None:
        super().__init__(f"{reason} ({code})")
        self.code = code


class _Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class _Locked(Exception):
    """Cannot be pickled."""

    def __init__(self, text: str = "") -> None:
        super().__init__(text)
        self.lock = threading.Lock()


class _Unlike(Exception):
    """Pickled without complaint, and then something else."""

    def __reduce__(self) -> Any:
        return str, ("no exception",)


class _Frozen(Exception):
    """Cannot be changed, so it takes no notes."""

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(name)


def _failing(runner: TaskRunner, raising: Any) -> BaseException:
    """Submit a task that fails; check that the run has failed and nothing else; return its exception."""

    def body() -> Any:
        future = task(name="failing")(raising).submit()
        found = future.exception()
        ended(future, "FAILED")
        still_works()
        return [found]  # not the exception itself: that would be a failed flow

    (found,) = in_flow(runner, body)
    assert isinstance(found, BaseException)
    return found


def fails_with_exceptions_that_need_arguments(runner: TaskRunner) -> None:
    def demand() -> None:
        raise _Demanding(7, reason="too much")

    found = _failing(runner, demand)
    is_or_tells_of(found, _Demanding)
    contains(str(found), "too much (7)")
    assert getattr(found, "code", 7) == 7


def fails_with_exceptions_that_cannot_be_shown(runner: TaskRunner) -> None:
    def mumble() -> None:
        raise _Unspeakable("x")

    is_or_tells_of(_failing(runner, mumble), _Unspeakable)


def fails_with_exceptions_that_hold_locks(runner: TaskRunner) -> None:
    def lock() -> None:
        raise _Locked("held")

    found = _failing(runner, lock)
    is_or_tells_of(found, _Locked)
    contains(str(found), "held")
    assert type(found) is _Locked or not runner.capabilities.shares_memory, "the exception was replaced"


def hands_on_exceptions_that_hold_locks(runner: TaskRunner) -> None:
    """What `allow_failure` passes can be passed."""

    @task
    def lock() -> None:
        raise _Locked("held")

    @task
    def look(error: Any) -> str:
        is_or_tells_of(error, _Locked)
        return "seen"

    same(in_flow(runner, lambda: look.submit(allow_failure(lock.submit())).result()), "seen")


def fails_with_exceptions_that_turn_into_something_else(runner: TaskRunner) -> None:
    def pretend() -> None:
        raise _Unlike("honest")

    found = _failing(runner, pretend)
    is_or_tells_of(found, _Unlike)
    contains(str(found), "honest")


def fails_with_exceptions_that_take_no_notes(runner: TaskRunner) -> None:
    def freeze() -> None:
        raise _Frozen("stiff")

    found = _failing(runner, freeze)
    is_or_tells_of(found, _Frozen)
    contains(str(found), "stiff")


def fails_with_exceptions_of_local_classes(runner: TaskRunner) -> None:
    class Local(ValueError):
        pass

    def raise_local() -> None:
        error = Local("from here")
        error.detail = [1, 2]  # type: ignore[attr-defined]
        raise error

    found = _failing(runner, raise_local)
    assert isinstance(found, Local), f"{found!r} is not of the class that the flow knows"
    same((str(found), found.detail), ("from here", [1, 2]))  # type: ignore[attr-defined]


def fails_with_groups_of_exceptions(runner: TaskRunner) -> None:
    def several() -> None:
        raise ExceptionGroup("two", [ValueError("one"), _Locked("other")])

    found = _failing(runner, several)
    is_or_tells_of(found, ExceptionGroup)
    contains(told(found), "two", "one", "other")


def keeps_tracebacks_and_causes(runner: TaskRunner) -> None:
    """What Python prints about an exception leads to the line that raised it; so does the record."""

    def raise_it_down_here() -> None:
        try:
            raise KeyError("the cause")
        except KeyError as cause:
            raise ValueError("the effect") from cause

    with isolated_store() as store:
        found = _failing(runner, raise_it_down_here)
    facts = ("raise_it_down_here", "KeyError: 'the cause'", 'raise ValueError("the effect") from cause')
    contains(told(found), *facts)
    row = named(store, "failing-0")
    same((row.error_type, row.error), ("ValueError", "the effect"))
    contains(row.traceback, *facts)


def hides_the_frames_of_the_library(runner: TaskRunner) -> None:
    """Between the line that calls a task and the line in it that raised there is nothing that a user could change."""

    def raise_it() -> None:
        raise ValueError("deep down")

    def around() -> None:
        task(raise_it)()

    text = told(_failing(runner, around))
    contains(text, "in around", "in raise_it")
    assert "_engine" not in text, f"frames of the library in {text!r:.1000}"


def keeps_notes_of_exceptions(runner: TaskRunner) -> None:
    def note() -> None:
        error = ValueError("noted")
        error.add_note("a note of the body's")
        raise error

    contains(told(_failing(runner, note)), "a note of the body's")


def crashes_runs_that_want_to_exit(runner: TaskRunner) -> None:
    """Also from a coroutine; the program goes on."""

    @task
    def leave() -> None:
        sys.exit("enough")

    @task
    async def leave_later() -> None:
        raise SystemExit(3)

    def body() -> None:
        for leaving in (leave, leave_later):
            future = leaving.submit()
            future.wait()
            ended(future, "CRASHED")
            contains(future.state.message, "was ended by a Python system exit call")
            future.exception()
        still_works()

    in_flow(runner, body)


# --- what cannot be sent ----------------------------------------------------------------------------------------------


class _Unbuildable:
    """Pickled without complaint, and then cannot be rebuilt."""

    def __reduce__(self) -> Any:
        return _refuse, ()


def _refuse() -> None:
    raise LookupError("cannot be rebuilt here")


def _unsendable(error: BaseException | None, path: str) -> None:
    assert isinstance(error, SerializationError), f"expected SerializationError, got {error!r:.1000}"
    same(error.path, path)
    contains(str(error), path, "lock")


def refuses_arguments_that_cannot_be_sent(runner: TaskRunner) -> None:
    if runner.capabilities.shares_memory:
        return

    def body() -> None:
        before = echo.submit("before")
        future = echo.submit({"some": [1, threading.Lock()]})
        after = echo.submit("after")
        _unsendable(future.exception(), "value['some'][1]")
        ended(future, "FAILED")
        same((before.result(), after.result()), ("before", "after"))
        still_works()

    in_flow(runner, body)


def refuses_results_that_cannot_be_sent(runner: TaskRunner) -> None:
    if runner.capabilities.shares_memory:
        return

    @task
    def lock() -> Any:
        return {"some": [1, threading.Lock()]}

    def body() -> None:
        future = lock.submit()
        _unsendable(future.exception(), "return value['some'][1]")
        ended(future, "FAILED")
        still_works()

    in_flow(runner, body)


def refuses_values_that_are_too_deep(runner: TaskRunner) -> None:
    if runner.capabilities.shares_memory:
        return

    @task
    def bury() -> Any:
        return _deep()

    def body() -> None:
        for future in (echo.submit([_deep()]), bury.submit()):
            error = future.exception()
            assert isinstance(error, SerializationError), f"expected SerializationError, got {error!r:.1000}"
            ended(future, "FAILED")
        still_works()

    in_flow(runner, body)


def _deep() -> Any:
    value: Any = []
    for _ in range(100_000):
        value = [value]
    return value


def refuses_functions_that_cannot_be_sent(runner: TaskRunner) -> None:
    if runner.capabilities.shares_memory:
        return
    held = threading.Lock()

    @task(name="holder")
    def holder() -> None:
        held.acquire()

    def body() -> None:
        futures = [holder.submit(), holder.submit()]
        for future in futures:
            error = future.exception()
            assert isinstance(error, SerializationError), f"expected SerializationError, got {error!r:.1000}"
            contains(str(error), "holder", "held", "lock")
            ended(future, "FAILED")
        still_works()

    in_flow(runner, body)


def fails_runs_whose_arguments_cannot_be_rebuilt(runner: TaskRunner) -> None:
    if runner.capabilities.shares_memory:
        return

    def body() -> None:
        futures = echo.map([1, _Unbuildable(), 2])
        first, error, last = futures.result(raise_on_failure=False)
        same((first, last), (1, 2))
        contains(told(error), "cannot be rebuilt here")
        ended(futures[1], "FAILED")
        still_works()

    in_flow(runner, body)


def fails_runs_whose_results_cannot_be_rebuilt(runner: TaskRunner) -> None:
    if runner.capabilities.shares_memory:
        return

    @task
    def build(number: int) -> Any:
        return [_Unbuildable()] if number % 2 else number

    def body() -> None:
        futures = build.map(range(4))
        found = futures.result(raise_on_failure=False)
        same([found[0], found[2]], [0, 2])
        for error in (found[1], found[3]):
            assert isinstance(error, SerializationError), f"expected SerializationError, got {error!r:.1000}"
            contains(str(error), "return value", "cannot be rebuilt here")
        ended(futures[1], "FAILED")
        still_works()

    in_flow(runner, body)


def does_not_try_again_what_cannot_be_sent_forever(runner: TaskRunner) -> None:
    """Retries apply to a result that cannot be sent like to any failure: they come to an end."""
    if runner.capabilities.shares_memory:
        return

    @task(retries=2)
    def lock() -> Any:
        return threading.Lock()

    def body() -> None:
        future = lock.submit()
        _unsendable(future.exception(), "return value")
        ended(future, "FAILED")

    with isolated_store() as store:
        in_flow(runner, body)
    same(named(store, "lock-0").attempts, 3)


def carries_large_values(runner: TaskRunner) -> None:
    """Megabytes there and back, as bytes and as buffers of their own; what a body changes in them stays there."""

    @task
    def turn(data: Any) -> Any:
        if not isinstance(data, bytes):
            data.reverse()
        return data

    def body() -> None:
        data = bytes(range(256)) * 8192
        same(turn.submit(data).result() == data, True)
        turned = turn.submit(bytearray(data)).result()
        same((type(turned), bytes(turned) == data[::-1]), (bytearray, True))
        same([len(each) for each in turn.map([data] * 4).result()], [len(data)] * 4)

    in_flow(runner, body)


def carries_buffers_apart_from_pickles(runner: TaskRunner) -> None:
    @task
    def double(data: Any) -> Any:
        return pickle.PickleBuffer(bytes(data) * 2)

    def body() -> None:
        data = os.urandom(1 << 20)
        value = double.submit(pickle.PickleBuffer(bytearray(data))).result()
        same(bytes(value) == data * 2, True)

    in_flow(runner, body)


CHECKS: tuple[Check, ...] = (
    fails_with_exceptions_that_need_arguments,
    fails_with_exceptions_that_cannot_be_shown,
    fails_with_exceptions_that_hold_locks,
    hands_on_exceptions_that_hold_locks,
    fails_with_exceptions_that_turn_into_something_else,
    fails_with_exceptions_that_take_no_notes,
    fails_with_exceptions_of_local_classes,
    fails_with_groups_of_exceptions,
    keeps_tracebacks_and_causes,
    hides_the_frames_of_the_library,
    keeps_notes_of_exceptions,
    crashes_runs_that_want_to_exit,
    refuses_arguments_that_cannot_be_sent,
    refuses_results_that_cannot_be_sent,
    refuses_values_that_are_too_deep,
    refuses_functions_that_cannot_be_sent,
    fails_runs_whose_arguments_cannot_be_rebuilt,
    fails_runs_whose_results_cannot_be_rebuilt,
    does_not_try_again_what_cannot_be_sent_forever,
    carries_large_values,
    carries_buffers_apart_from_pickles,
)
