"""Cancellation: a request and what becomes of it; and runs that end because their caller is torn out of them."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock import FutureList, as_completed, flow, quote, runtime, task, unmapped, wait
from penstock._engine import clock as clocks
from penstock.concurrency import concurrency, rate_limit, set_limit
from penstock.exceptions import CancelledRun, CancelSignal, CrashedRun, PenstockError, UpstreamTaskError
from penstock.flows import cancel_run
from penstock.states import Cancelled, State, StateType
from penstock.store.sqlite import SQLiteReader
from penstock.task_runners import SequentialTaskRunner, ThreadPoolTaskRunner
from penstock.testing.clock import ManualClock

SPIN = 6  # seconds after which bodies give up being cancelled, so that a failing test ends


class Gate(threading.Event):
    """An event that can also be waited for in one blocking call, where no exception arrives."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()
        self.lock.acquire()

    def set(self) -> None:
        if not self.is_set():
            super().set()
            self.lock.release()

    def wait_in_c(self) -> None:
        with self.lock:
            pass


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.set()


@pytest.fixture
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_CANCEL_GRACE_SECONDS", "0.05")


@pytest.fixture
def clock() -> Iterator[ManualClock]:
    clock = ManualClock()
    with clocks.use(clock):
        yield clock


def spin(*_: Any) -> str:
    until = time.monotonic() + SPIN
    while time.monotonic() < until:
        time.sleep(0.001)
    return "not cancelled"


async def aspin(*_: Any) -> str:
    await asyncio.sleep(SPIN)
    return "not cancelled"


def in_thread(call: Callable[[], Any], seconds: float = 5) -> Any:
    """What `call` returns or raises on a thread of its own; a failure, and no hang, if it takes too long."""
    answers: list[Any] = []

    def run() -> None:
        try:
            answers.append((call(), None))
        except BaseException as error:
            answers.append((None, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert answers, f"still running after {seconds} s"
    value, error = answers[0]
    if error is not None:
        raise error
    return value


def until(condition: Callable[[], Any], seconds: float = 5) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.001)


def facts(future: Any) -> tuple[StateType, str]:
    return future.state.type, future.state.name


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


CANCELLED = (StateType.CANCELLED, "Cancelled")


# --- runs that have not started -----------------------------------------------------------------------------------


def check_cancelled_at_once(future: Any) -> None:
    assert future.cancel() is True
    assert future.done()
    assert future.cancelled()
    assert facts(future) == CANCELLED
    assert future.cancel() is False
    with pytest.raises(CancelledRun) as raised:
        future.result()
    assert isinstance(raised.value, PenstockError)
    assert not isinstance(raised.value, asyncio.CancelledError)
    assert future.exception() is raised.value
    assert future.result(raise_on_failure=False) is raised.value
    assert future.state.data is raised.value


@pytest.mark.parametrize("is_async", [False, True])
def test_a_run_that_waits_for_a_slot_is_cancelled_at_once(gate: Gate, is_async: bool) -> None:
    bodies: list[int] = []
    held = task(lambda: gate.wait(5))

    async def abody() -> None:
        bodies.append(1)

    queued: Any = task(abody if is_async else lambda: bodies.append(1))

    @flow(task_runner=ThreadPoolTaskRunner(max_workers=1))
    def main() -> None:
        first = held.submit()
        check_cancelled_at_once(queued.submit())
        gate.set()
        first.result()

    main()
    assert bodies == []


@pytest.mark.parametrize("how", ["argument", "wait_for"])
def test_a_run_that_waits_for_inputs_is_cancelled_at_once(gate: Gate, how: str) -> None:
    held = task(lambda: gate.wait(5))
    work = task(lambda x=None: x)

    @flow
    def main() -> None:
        upstream = held.submit()
        future = work.submit(upstream) if how == "argument" else work.submit(wait_for=[upstream])
        check_cancelled_at_once(future)
        assert not upstream.done()
        gate.set()
        assert upstream.result() is True

    main()


def test_a_run_that_waits_for_a_limit_is_cancelled_at_once(gate: Gate) -> None:
    set_limit("tag:cancel-limited", 1)
    held = task(tags=["cancel-limited"])(lambda: gate.wait(5))

    @flow
    def main() -> None:
        first = held.submit()
        until(lambda: first.state.name == "Running")
        second, third = held.submit(), held.submit()
        until(lambda: third.state.name == "AwaitingConcurrencySlot")
        check_cancelled_at_once(second)
        gate.set()
        assert (first.result(), third.result()) == (True, True)

    try:
        main()
    finally:
        set_limit("tag:cancel-limited", None)


def test_a_submitted_flow_that_waits_for_inputs_is_cancelled_at_once(gate: Gate) -> None:
    held = task(lambda: gate.wait(5))
    inner = flow(lambda x: x)

    @flow
    def main() -> None:
        upstream = held.submit()
        check_cancelled_at_once(inner.submit(upstream))
        gate.set()

    main()


def test_dependents_of_a_cancelled_run_are_blocked(gate: Gate) -> None:
    bodies: list[int] = []
    held = task(lambda: gate.wait(5))
    middle = task(name="middle")(lambda x: bodies.append(1))
    last = task(name="last")(lambda x: bodies.append(2))

    @flow
    def main() -> str:
        first = held.submit()
        second = middle.submit(first)
        third = last.submit(second)
        fourth = last.submit(0, wait_for=[third])
        second.cancel()
        for future in (third, fourth):
            error = future.exception(5)
            assert isinstance(error, UpstreamTaskError)
            assert error.task_run_name == "middle-0"
            assert facts(future) == (StateType.FAILED, "UpstreamFailed")
            assert error.__cause__ is second.exception()
        gate.set()
        return "fine"

    assert main() == "fine"
    assert bodies == []


def test_cancelled_runs_and_what_they_blocked_owe_nothing(gate: Gate) -> None:
    held = task(lambda: gate.wait(5))
    work = task(lambda x: x)

    @flow
    def main() -> str:
        first = held.submit()
        second = work.submit(first)
        work.submit(second)
        second.cancel()
        gate.set()
        return "fine"

    assert main() == "fine"


# --- running bodies -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [None, 1])
def test_a_running_thread_gets_a_cancel_signal(workers: int | None) -> None:
    events: list[Any] = []
    started = threading.Event()

    @task(retries=5, retry_condition_fn=lambda t, r, s: events.append("asked") or True)
    def work() -> None:
        started.set()
        try:
            spin()
        except Exception:
            events.append("an ordinary `except` must not see it")
        except CancelSignal as signal:
            events.append(type(signal))
            raise
        finally:
            events.append("finally")

    @flow(task_runner=ThreadPoolTaskRunner(workers))
    def main() -> None:
        future = work.submit()
        assert started.wait(5)
        assert future.cancel() is True
        with pytest.raises(CancelledRun):
            future.result(5)
        assert facts(future) == CANCELLED
        assert events == [CancelSignal, "finally"]
        assert task(lambda: "next").submit().result(5) == "next"

    main()
    assert len(events) == 2, "a cancelled run is never tried again"


@pytest.mark.parametrize("workers", [None, 1])
def test_a_running_coroutine_is_cancelled_at_its_await(workers: int | None) -> None:
    events: list[Any] = []
    started = threading.Event()

    @task(retries=5)
    async def work() -> None:
        started.set()
        try:
            await asyncio.sleep(SPIN)
        except asyncio.CancelledError:
            events.append("cancelled")
            raise
        finally:
            await asyncio.sleep(0)
            events.append("cleaned up")

    @flow(task_runner=ThreadPoolTaskRunner(workers))
    def main() -> None:
        future = work.submit()
        assert started.wait(5)
        assert future.cancel() is True
        with pytest.raises(CancelledRun):
            future.result(5)
        assert facts(future) == CANCELLED

    main()
    assert events == ["cancelled", "cleaned up"]


def test_awaiting_a_cancelled_run_raises_our_error_not_asyncios() -> None:
    started = threading.Event()

    @task
    async def work() -> None:
        started.set()
        await asyncio.sleep(SPIN)

    @flow
    async def main() -> str:
        future = work.submit()
        while not started.is_set():
            await asyncio.sleep(0)
        future.cancel()
        with pytest.raises(CancelledRun):
            await future
        current = asyncio.current_task()
        assert current is not None
        assert current.cancelling() == 0
        return "fine"

    assert asyncio.run(main()) == "fine"


def test_a_run_shows_that_it_is_being_cancelled(gate: Gate) -> None:
    started = threading.Event()

    @task
    def work() -> str:
        started.set()
        try:
            gate.wait_in_c()
        except CancelSignal:
            pass
        return "done"

    @flow
    def main() -> Any:
        future = work.submit()
        assert started.wait(5)
        assert future.cancel() is True
        assert facts(future) == (StateType.CANCELLING, "Cancelling")
        assert not future.done()
        assert not future.cancelled()
        assert future.cancel() is True, "a second request is a request as well"
        gate.set()
        return future.exception(5)

    in_thread(main)


def test_a_body_that_returns_before_it_notices_has_completed(gate: Gate) -> None:
    """`cancel()` is a request, `cancelled()` the fact."""
    started, noticed = threading.Event(), threading.Event()

    @task
    async def work() -> str:
        started.set()
        gate.wait(5)  # blocks the loop, so the cancellation cannot arrive
        noticed.set()
        return "done"

    @flow
    def main() -> None:
        future = work.submit()
        assert started.wait(5)
        assert future.cancel() is True
        gate.set()
        assert future.result(5) == "done"
        assert not future.cancelled()
        assert future.cancel() is False
        assert future.state.name == "Completed"

    main()


@pytest.mark.parametrize("end", ["value", "error"])
def test_a_finished_run_cannot_be_cancelled(end: str) -> None:
    work = task(lambda: 1 if end == "value" else 1 / 0)

    @flow
    def main() -> str:
        future = work.submit()
        future.wait()
        before = future.state
        assert future.cancel() is False
        assert not future.cancelled()
        assert future.state == before
        return before.name

    assert main() == ("Completed" if end == "value" else "Failed")


WAITS: dict[str, Callable[[Any], Any]] = {
    "result": lambda future: future.result(),
    "result with timeout": lambda future: future.result(30),
    "exception": lambda future: future.exception(),
    "wait": lambda future: future.wait(),
    "wait()": lambda future: wait([future]),
    "as_completed": lambda future: list(as_completed([future])),
    "list": lambda future: FutureList([future, future]).result(),
    "list wait": lambda future: FutureList([future]).wait(),
}


@pytest.mark.parametrize("how", WAITS)
def test_a_body_that_waits_for_other_runs_is_cancelled(gate: Gate, how: str) -> None:
    started = threading.Event()
    other = task(name="other")(lambda: gate.wait(5))

    @task
    def waits(future: Any) -> str:
        started.set()
        WAITS[how](future)
        return "not cancelled"

    @flow
    def main() -> None:
        held = other.submit()
        future = waits.submit(quote(held))
        assert started.wait(5)
        time.sleep(0.005)
        future.cancel()
        with pytest.raises(CancelledRun):
            future.result(5)
        assert facts(future) == CANCELLED
        assert not held.done(), "what somebody else submitted goes on"
        gate.set()
        assert held.result() is True

    main()


@pytest.mark.parametrize("how", ["concurrency", "rate_limit", "async concurrency"])
def test_a_body_that_waits_for_a_limit_is_cancelled(gate: Gate, how: str, short_grace: None) -> None:
    name = f"cancelled-{how}"
    started = threading.Event()

    @task
    def waits() -> str:
        started.set()
        if how == "rate_limit":
            rate_limit(name)
        else:
            with concurrency(name):
                pass
        return "not cancelled"

    @task
    async def awaits() -> str:
        started.set()
        async with concurrency(name):
            return "not cancelled"

    @flow
    def main() -> None:
        future = (awaits if how.startswith("async") else waits).submit()
        assert started.wait(5)
        time.sleep(0.005)
        future.cancel()
        with pytest.raises(CancelledRun):
            future.result(5)
        assert facts(future) == CANCELLED

    if how == "rate_limit":
        set_limit(name, 1, per_second=0.01)
        rate_limit(name)
        in_thread(main)
    else:
        with concurrency(name, limit=1):
            in_thread(main)
        with concurrency(name, timeout_seconds=0):
            pass  # the cancelled run has left the line


def test_children_of_a_cancelled_run_end_first(gate: Gate) -> None:
    events: list[str] = []
    started = threading.Event()

    def note(t: Any, run: Any, state: Any) -> None:
        events.append(f"{run.name} {state.name}")

    child = task(name="child", on_cancellation=[note])(spin)
    never = task(name="never", on_cancellation=[note])(lambda x: x)

    @task(name="parent", on_cancellation=[note])
    def parent() -> None:
        first = child.submit()
        never.submit(first)
        started.set()
        spin()

    @flow
    def main() -> None:
        future = parent.submit()
        assert started.wait(5)
        future.cancel()
        with pytest.raises(CancelledRun):
            future.result(5)

    in_thread(main)
    assert sorted(events[:-1]) == ["child-0 Cancelled", "never-0 Cancelled"]
    assert events[-1] == "parent-0 Cancelled"


@pytest.mark.parametrize("way", ["submitted", "direct"])
@pytest.mark.parametrize("is_async", [False, True])
def test_a_task_called_directly_is_cancelled_with_its_caller(way: str, is_async: bool) -> None:
    ends: list[str] = []
    started = threading.Event()

    def note(t: Any, run: Any, state: Any) -> None:
        ends.append(f"{run.name} {state.name}")

    def inner_body() -> str:
        started.set()
        return spin()

    async def ainner_body() -> str:
        started.set()
        return await aspin()

    inner: Any = task(name="inner", on_cancellation=[note])(ainner_body if is_async else inner_body)

    def body() -> None:
        inner.submit().result() if way == "submitted" else inner()

    async def abody() -> None:
        await (inner.submit() if way == "submitted" else inner())

    outer: Any = task(name="outer", on_cancellation=[note])(abody if is_async else body)

    @flow
    def main() -> None:
        future = outer.submit()
        assert started.wait(5)
        future.cancel()
        with pytest.raises(CancelledRun):
            future.result(5)

    in_thread(main)
    assert ends == ["inner-0 Cancelled", "outer-0 Cancelled"]


@pytest.mark.parametrize("is_async", [False, True])
def test_a_submitted_subflow_is_cancelled_with_its_tasks(is_async: bool) -> None:
    started = threading.Event()
    inside: list[Any] = []
    work = task(spin)

    def body() -> None:
        inside.append(work.submit())
        started.set()
        inside[0].result()

    async def abody() -> None:
        inside.append(work.submit())
        started.set()
        await inside[0]

    inner: Any = flow(abody if is_async else body)

    @flow
    def main() -> None:
        future = inner.submit()
        assert started.wait(5)
        assert future.cancel() is True
        with pytest.raises(CancelledRun):
            future.result(5)
        assert facts(future) == CANCELLED
        assert facts(inside[0]) == CANCELLED

    in_thread(main)


def test_a_cancelled_task_may_cancel_another_and_itself(gate: Gate) -> None:
    futures: list[Any] = []
    ready = threading.Event()

    @task
    def suicidal() -> str:
        ready.wait(5)
        futures[0].cancel()
        return spin()

    @flow
    def main() -> None:
        futures.append(suicidal.submit())
        ready.set()
        with pytest.raises(CancelledRun):
            futures[0].result(5)

    in_thread(main)


def test_many_threads_may_cancel_at_once() -> None:
    started = threading.Event()

    @task
    def work() -> str:
        started.set()
        return spin()

    @flow
    def main() -> None:
        future = work.submit()
        assert started.wait(5)
        threads = [threading.Thread(target=future.cancel) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with pytest.raises(CancelledRun):
            future.result(5)

    in_thread(main)


def test_a_list_of_futures_is_cancelled_whole() -> None:
    started = threading.Barrier(4, timeout=5)

    @task
    def work(n: int, gate: Any) -> int:
        if n == 0:
            return 0
        started.wait()
        spin()
        return n

    @flow(task_runner=ThreadPoolTaskRunner(max_workers=3))
    def main() -> list[Any]:
        futures = work.map(range(6), unmapped(None))
        futures[0].wait()
        started.wait()
        futures.cancel()
        results = futures.result(5, raise_on_failure=False)
        return [result if isinstance(result, int) else type(result) for result in results]

    assert in_thread(main) == [0, *[CancelledRun] * 5]


def test_cancelling_a_list_that_is_not_expanded_yet(gate: Gate) -> None:
    bodies: list[int] = []
    numbers = task(lambda: gate.wait(5) and [1, 2, 3])
    work = task(bodies.append)

    @flow
    def main() -> None:
        futures = work.map(numbers.submit())
        futures.cancel()
        gate.set()
        futures.wait(5)

    in_thread(main)
    assert bodies == []


def test_cancellations_race_with_ends() -> None:
    """Whatever wins, the state is CANCELLED or COMPLETED, and the next body on the thread is not hit."""
    work = task(lambda n: sum(range(n)))
    quiet = task(lambda n: sum(range(500)) and n)

    @flow(task_runner=ThreadPoolTaskRunner(max_workers=2))
    def main() -> None:
        for n in range(150):
            future, other = work.submit(n * 20), quiet.submit(n)
            for _ in range(n % 7 * 10):
                pass
            future.cancel()
            assert other.result(5) == n
            future.wait(5)
            assert future.state.name in ("Completed", "Cancelled"), future.state
            assert future.cancelled() == (future.state.name == "Cancelled")

    in_thread(main, 20)


# --- bodies that do not stop --------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [None, 1])
def test_a_body_that_does_not_stop_is_written_off(
    gate: Gate, short_grace: None, caplog: pytest.LogCaptureFixture, workers: int | None
) -> None:
    threads: list[str] = []
    hooks: list[str] = []
    started = threading.Event()

    @task(
        retries=3,
        on_crashed=[lambda t, r, s: hooks.append("crashed")],
        on_cancellation=[lambda t, r, s: hooks.append("cancelled")],
    )
    def stuck() -> str:
        threads.append(threading.current_thread().name)
        started.set()
        gate.wait_in_c()
        return "too late"

    @flow(task_runner=ThreadPoolTaskRunner(workers))
    def main() -> None:
        future = stuck.submit()
        assert started.wait(5)
        future.cancel()
        with pytest.raises(CrashedRun) as raised:
            future.result(5)
        assert facts(future) == (StateType.CRASHED, "Crashed")
        assert not future.cancelled(), "CANCELLED always means that nothing of it executes any more"
        place = f"did not stop within 0.05 s; still running in thread {threads[0]} at {__file__}:"
        assert place in str(raised.value)
        assert place in (future.state.message or "")
        assert task(lambda: "next").submit().result(5) == "next"
        gate.set()

    in_thread(main)
    assert hooks == ["crashed"]
    assert len(threads) == 1
    assert any("still running in thread" in warning for warning in warnings_in(caplog))


def test_the_grace_is_3_seconds_by_default(gate: Gate, clock: ManualClock) -> None:
    started = threading.Event()

    @task
    def stuck() -> None:
        started.set()
        gate.wait_in_c()

    @flow
    def main() -> None:
        future = stuck.submit()
        assert started.wait(5)
        future.cancel()
        clock.advance(2.9)
        assert not future.done()
        clock.advance(0.2)
        assert future.wait(5) is None
        assert isinstance(future.exception(0), CrashedRun)
        assert "did not stop within 3 s" in str(future.exception())

    in_thread(main)


def test_a_coroutine_that_ignores_its_cancellation_is_written_off(gate: Gate, short_grace: None) -> None:
    started = threading.Event()

    @task
    async def stubborn() -> str:
        started.set()
        while not gate.is_set():
            try:
                await asyncio.sleep(0.002)
            except asyncio.CancelledError:
                pass
        return "too late"

    @flow
    def main() -> None:
        future = stubborn.submit()
        assert started.wait(5)
        future.cancel()
        with pytest.raises(CrashedRun, match="did not stop within"):
            future.result(5)
        gate.set()

    in_thread(main)


@pytest.mark.parametrize("return_state", [False, True])
def test_a_flow_that_returns_a_cancelled_future_is_cancelled(gate: Gate, return_state: bool) -> None:
    held = task(lambda: gate.wait(5))
    work = task(lambda x: x)

    @flow
    def main() -> Any:
        first = held.submit()
        second = work.submit(first)
        second.cancel()
        gate.set()
        return second

    if return_state:
        state = main(return_state=True)
        assert (state.type, state.name) == CANCELLED
    else:
        with pytest.raises(CancelledRun):
            main()


def test_the_sequential_runner_has_nothing_to_cancel() -> None:
    @flow(task_runner=SequentialTaskRunner())
    def main() -> bool:
        return task(lambda: 1).submit().cancel()

    assert main() is False


# --- cancel_run ---------------------------------------------------------------------------------------------------


class Running:
    """A flow that is running in a thread: waits in `body` until it is cancelled."""

    def __init__(self, body: Callable[[Running], Any], is_async: bool = False, **options: Any) -> None:
        self.started = threading.Event()
        self.id = ""
        self.hooks: list[str] = []
        self.outcome: Any = None
        self.futures: list[Any] = []

        def fn() -> Any:
            self.id = runtime.flow_run.id
            return body(self)

        async def afn() -> Any:
            self.id = runtime.flow_run.id
            return await body(self)

        self.flow: Any = flow(
            on_cancellation=[lambda f, r, s: self.hooks.append(s.name)],
            on_crashed=[lambda f, r, s: self.hooks.append(s.name)],
            on_failure=[lambda f, r, s: self.hooks.append(s.name)],
            **options,
        )(afn if is_async else fn)
        self._is_async = is_async
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self.started.wait(5)

    def _run(self) -> None:
        try:
            self.outcome = asyncio.run(self.flow()) if self._is_async else self.flow()
        except BaseException as error:
            self.outcome = error

    def end(self) -> Any:
        self._thread.join(5)
        assert not self._thread.is_alive(), "the flow still runs"
        return self.outcome


def _spins(running: Running) -> str:
    running.started.set()
    return spin()


def _waits(running: Running) -> Any:
    future = task(spin).submit()
    running.futures.append(future)
    until(lambda: future.state.name == "Running")
    running.started.set()
    return future.result()


def _winds_up(running: Running) -> str:
    """The body returns while its task still runs."""
    running.futures.append(task(spin).submit())
    until(lambda: running.futures[0].state.name == "Running")
    running.started.set()
    return "body over"


def _calls(running: Running) -> Any:
    def body() -> str:
        running.started.set()
        return spin()

    return task(body)()


def _in_subflow(running: Running) -> Any:
    return flow(lambda: _waits(running))()


def _in_submitted_subflow(running: Running) -> Any:
    return flow(lambda: _waits(running)).submit().result()


async def _awaits(running: Running) -> Any:
    running.started.set()
    await asyncio.sleep(SPIN)


async def _awaits_task(running: Running) -> Any:
    running.futures.append(task(aspin).submit())
    running.started.set()
    return await running.futures[0]


async def _awaits_call(running: Running) -> Any:
    running.started.set()
    return await task(aspin)()


BODIES = [
    (_spins, False),
    (_waits, False),
    (_calls, False),
    (_in_subflow, False),
    (_in_submitted_subflow, False),
    (_awaits, True),
    (_awaits_task, True),
    (_awaits_call, True),
]
every_body = pytest.mark.parametrize(("body", "is_async"), BODIES, ids=lambda value: getattr(value, "__name__", ""))


@every_body
@pytest.mark.parametrize("form", [str, uuid.UUID])
def test_a_flow_run_is_cancelled_by_its_id(
    own_store: Path, body: Any, is_async: bool, form: Callable[[str], Any]
) -> None:
    running = Running(body, is_async)
    cancel_run(form(running.id))
    assert isinstance(running.end(), CancelledRun)
    assert running.hooks == ["Cancelled"]
    reader = SQLiteReader(own_store)
    try:
        (root,) = reader.runs()
        assert (root.status, root.state_name) == ("CANCELLED", "Cancelled")
        below = reader.tree(root.id)
        assert {row.status for row in below} <= {"CANCELLED"}, below
        assert all(row.ended <= root.ended for row in below), "children end first"
    finally:
        reader.close()


def test_a_flow_whose_body_has_returned_completes_when_its_tasks_have_stopped() -> None:
    running = Running(_winds_up)
    until(lambda: running.futures[0].state.name == "Running")
    time.sleep(0.005)
    cancel_run(running.id)
    assert running.end() == "body over"
    assert running.futures[0].state.name == "Cancelled"
    assert running.hooks == []


def test_no_new_task_starts_in_a_flow_that_is_cancelled() -> None:
    bodies: list[int] = []
    go_on = threading.Event()
    work = task(lambda: bodies.append(1))

    def body(running: Running) -> None:
        running.started.set()
        try:
            spin()
        finally:
            go_on.wait(5)
            running.futures.append(work.submit())

    running = Running(body)
    cancel_run(running.id)
    go_on.set()
    assert isinstance(running.end(), CancelledRun)
    assert bodies == []
    assert [future.state.name for future in running.futures] == ["Cancelled"]


def test_cancelling_a_flow_does_not_try_it_again() -> None:
    running = Running(_spins, retries=5)
    cancel_run(running.id)
    assert isinstance(running.end(), CancelledRun)


def test_a_flow_can_be_cancelled_between_its_attempts(clock: ManualClock) -> None:
    def body(running: Running) -> None:
        running.started.set()
        raise ValueError

    running = Running(body, retries=5, retry_delay_seconds=3600)
    clock.wait_for_timers()
    cancel_run(running.id)
    assert isinstance(running.end(), CancelledRun)
    assert running.hooks == ["Cancelled"]


def test_a_task_run_is_cancelled_by_its_id() -> None:
    def body(running: Running) -> str:
        running.futures.append(task(spin).submit())
        until(lambda: running.futures[0].state.name == "Running")
        running.started.set()
        assert isinstance(running.futures[0].exception(), CancelledRun)
        return "the flow goes on"

    running = Running(body)
    cancel_run(running.futures[0].task_run_id)
    assert running.end() == "the flow goes on"


def test_a_subflow_run_is_cancelled_by_its_id() -> None:
    def body(running: Running) -> str:
        inner = flow(lambda: _waits(running)).submit()
        running.futures.append(inner)
        assert isinstance(inner.exception(), CancelledRun)
        return "the flow goes on"

    running = Running(body)
    until(lambda: any(future.flow_run_id for future in running.futures))  # its body may run before its future is here
    inner = next(future for future in running.futures if future.flow_run_id)
    cancel_run(inner.flow_run_id)
    assert running.end() == "the flow goes on"


def test_a_root_task_run_is_cancelled_by_its_id() -> None:
    ids: list[str] = []

    @task
    def alone() -> str:
        ids.append(runtime.task_run.id)
        return spin()

    def cancel() -> None:
        until(lambda: ids)
        cancel_run(ids[0])

    threading.Thread(target=cancel).start()
    with pytest.raises(CancelledRun):
        in_thread(alone)


def test_the_main_thread_can_be_cancelled() -> None:
    ids: list[str] = []

    @flow
    def main() -> str:
        ids.append(runtime.flow_run.id)
        return spin()

    def cancel() -> None:
        until(lambda: ids)
        cancel_run(ids[0])

    canceller = threading.Thread(target=cancel)
    canceller.start()
    with pytest.raises(CancelledRun):
        main()
    canceller.join()


def test_an_unknown_id_is_a_lookup_error() -> None:
    unknown = str(uuid.uuid4())
    with pytest.raises(LookupError, match=unknown):
        cancel_run(unknown)

    @flow
    def main() -> None:
        with pytest.raises(LookupError):
            cancel_run(uuid.uuid4())

    main()


@pytest.mark.parametrize("end", ["Completed", "Failed", "Cancelled"])
def test_cancelling_a_finished_run_returns_its_state_unchanged(end: str) -> None:
    states: list[State[Any]] = []
    ids: list[str] = []

    @flow
    def main() -> Any:
        ids.append(runtime.flow_run.id)
        if end == "Failed":
            raise ValueError("mine")
        if end == "Cancelled":
            return Cancelled()
        return 5

    states.append(main(return_state=True))
    returned = cancel_run(ids[0])
    assert isinstance(returned, State)
    assert (returned.type, returned.name) == (states[0].type, end)
    assert returned.message == states[0].message


def test_a_finished_task_of_a_live_flow_is_returned_unchanged() -> None:
    @flow
    def main() -> None:
        future = task(lambda: 5).submit()
        future.result()
        assert future.task_run_id is not None
        returned = cancel_run(future.task_run_id)
        assert (returned.type, returned.name) == (StateType.COMPLETED, "Completed")

    main()


def test_a_stuck_task_does_not_keep_a_cancelled_flow(gate: Gate, short_grace: None, own_store: Path) -> None:
    def body(running: Running) -> Any:
        running.futures.append(task(gate.wait_in_c).submit())
        until(lambda: running.futures[0].state.name == "Running")
        running.started.set()
        return running.futures[0].result()

    running = Running(body)
    cancel_run(running.id)
    assert isinstance(running.end(), CancelledRun)
    assert running.futures[0].state.name == "Crashed"
    assert running.hooks == ["Cancelled"]
    gate.set()


def test_a_run_of_another_process_is_cancelled(tmp_path: Path, own_store: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
            import time
            from penstock import flow, runtime, task
            from penstock.exceptions import CancelledRun

            @task
            def work():
                print(runtime.flow_run.id, flush=True)
                for _ in range(10_000):
                    time.sleep(0.001)

            @flow(on_cancellation=[lambda flow, run, state: print("hook", state.name, flush=True)])
            def main():
                work.submit().result()

            try:
                main()
            except CancelledRun:
                print("CancelledRun")
        """)
    )
    process = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PENSTOCK_HOME": str(own_store)},
    )
    try:
        assert process.stdout is not None
        run_id = process.stdout.readline().strip()
        cancel_run(run_id)
        output, errors = process.communicate(timeout=6)
    finally:
        process.kill()
        process.wait()
    assert output == "hook Cancelled\nCancelledRun\n", errors


# --- callers that are torn out ------------------------------------------------------------------------------------

ABORTS = [
    (KeyboardInterrupt(), "was aborted by an interrupt signal."),
    (SystemExit(3), "Python system exit call."),
    (asyncio.CancelledError(), "was cancelled by the runtime environment."),
]
aborts = pytest.mark.parametrize(("error", "text"), ABORTS, ids=["interrupt", "exit", "asyncio"])


@aborts
@pytest.mark.parametrize("kind", [task, flow], ids=["task", "flow"])
@pytest.mark.parametrize("return_state", [False, True])
def test_what_is_raised_in_the_callers_thread_goes_on(
    own_store: Path, kind: Any, error: BaseException, text: str, return_state: bool
) -> None:
    states: list[State[Any]] = []

    @kind(on_crashed=[lambda t, r, s: states.append(s)])
    def work() -> None:
        raise error

    with pytest.raises(type(error)) as raised:
        work(return_state=return_state)
    assert raised.value is error
    (state,) = states
    assert (state.type, state.name) == (StateType.CRASHED, "Crashed")
    kind_name = "Task" if kind is task else "Flow"
    assert (state.message or "").startswith(f"{kind_name} run")
    assert (state.message or "").endswith(text)
    assert isinstance(state.data, CrashedRun)
    assert state.data.__cause__ is error
    reader = SQLiteReader(own_store)
    try:
        (root,) = reader.runs()
        assert (root.status, root.state_name) == ("CRASHED", "Crashed")
    finally:
        reader.close()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)], ids=["interrupt", "exit"])
@pytest.mark.parametrize("is_async", [False, True])
def test_nothing_of_the_kind_surfaces_raw_from_a_worker(error: BaseException, is_async: bool) -> None:
    def body() -> None:
        raise error

    async def abody() -> None:
        raise error

    work: Any = task(abody if is_async else body)

    @flow
    def main() -> str:
        future = work.submit()
        with pytest.raises(CrashedRun) as raised:
            future.result(5)
        assert raised.value.__cause__ is error
        future.wait()
        assert future.state.type is StateType.CRASHED
        return task(lambda: "next").submit().result(5)

    assert in_thread(main) == "next"


@pytest.mark.parametrize("kind", [task, flow], ids=["task", "flow"])
@pytest.mark.parametrize("how", ["cancel", "timeout", "wait_for", "group"])
def test_asyncio_cancellation_of_a_direct_call(kind: Any, how: str) -> None:
    states: list[State[Any]] = []
    cleaned: list[int] = []

    @kind(retries=3, on_crashed=[lambda t, r, s: states.append(s)])
    async def work() -> None:
        try:
            await asyncio.sleep(SPIN)
        finally:
            cleaned.append(1)

    async def main() -> None:
        if how == "cancel":
            running = asyncio.ensure_future(work())
            await asyncio.sleep(0.01)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
        elif how == "timeout":
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await work()
        elif how == "wait_for":
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(work(), 0.01)
        else:
            with pytest.raises(ExceptionGroup):
                async with asyncio.TaskGroup() as group:
                    group.create_task(work())
                    await asyncio.sleep(0.01)
                    raise ValueError

    asyncio.run(main())
    (state,) = states
    assert (state.type, cleaned) == (StateType.CRASHED, [1])
    kind_name = "Task" if kind is task else "Flow"
    assert state.message == f"{kind_name} run was cancelled by the runtime environment."


def test_asyncio_cancellation_of_a_flow_ends_its_tasks() -> None:
    futures: list[Any] = []

    @flow
    async def main() -> None:
        futures.append(task(aspin).submit())
        futures.append(task(spin).submit())
        futures.append(task(lambda x: x).submit(futures[0]))
        await futures[0]

    async def run() -> None:
        running = asyncio.ensure_future(main())
        while len(futures) < 3:
            await asyncio.sleep(0.001)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    in_thread(lambda: asyncio.run(run()))
    assert [future.state.name for future in futures] == ["Cancelled"] * 3


def test_cancelling_a_coroutine_that_awaits_a_future_does_not_cancel_the_run(gate: Gate) -> None:
    held = task(lambda: gate.wait(5))

    @flow
    async def main() -> str:
        future = held.submit()

        async def waiter() -> Any:
            return await future

        waiting = asyncio.ensure_future(waiter())
        await asyncio.sleep(0.005)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert not future.done()
        gate.set()
        return str(await future)

    assert asyncio.run(main()) == "True"


def test_generator_exit_is_no_crash() -> None:
    states: list[str] = []

    @task(
        on_completion=[lambda t, r, s: states.append(s.name)],
        on_crashed=[lambda t, r, s: states.append(s.name)],
    )
    def numbers() -> Iterator[int]:
        yield 1
        yield 2

    generator = numbers()
    assert next(generator) == 1
    generator.close()
    assert states == ["Completed"]


def test_an_exception_in_the_caller_after_the_body_does_not_overwrite_the_outcome() -> None:
    """A Ctrl-C that arrives while the flow waits for its tasks, after its body has returned."""
    states: list[Any] = []
    started = threading.Event()

    @task(on_completion=[lambda t, r, s: states.append(s.name)])
    def quick() -> int:
        return 5

    @flow
    def main() -> None:
        future = quick.submit()
        future.wait()
        started.set()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        main()
    assert states == ["Completed"]


def test_an_interruption_leaves_nothing_pending_in_the_interpreter() -> None:
    """Else every loop of the program would be slower from then on, and a tracer's thread would never return."""
    script = """
        import sys, threading, time
        from penstock import flow, task
        started = threading.Event()

        @task
        def quick():
            started.set()
            time.sleep(0.01)  # the request arrives while this is going on; the body then ends by itself

        @flow
        def main():
            future = quick.submit()
            started.wait()
            future.cancel()
            future.wait()

        main()
        sys.settrace(lambda *_: None)
        (lambda: None)()
        sys.settrace(None)
        print("returned")
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=20)
    assert done.stdout == "returned\n", done.stderr
