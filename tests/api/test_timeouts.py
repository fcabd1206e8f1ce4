"""Time limits: whoever waits is released in time, whatever the body does, and nothing of it comes back later."""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock import allow_failure, as_completed, flow, task, wait
from penstock._engine import clock as clocks
from penstock.exceptions import (
    CrashedRun,
    FlowRunTimeoutError,
    PenstockError,
    TaskRunTimeoutError,
    UpstreamTaskError,
)
from penstock.states import StateType
from penstock.store.sqlite import SQLiteReader
from penstock.task_runners import SequentialTaskRunner, ThreadPoolTaskRunner
from penstock.testing.clock import ManualClock

SOON = 0.05  # seconds: the limits of bodies that are to run into them
LATE = 0.5  # seconds after the deadline by which everybody is released


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


@pytest.fixture
def gate() -> Iterator[Gate]:
    """What stuck bodies wait for; opened in the end, so that their threads go away."""
    gate = Gate()
    yield gate
    gate.set()


@pytest.fixture
def alarm() -> Iterator[None]:
    """SIGALRM as a plain program has it: the test runner uses it for time limits of its own."""
    handler = signal.signal(signal.SIGALRM, signal.SIG_DFL)
    remaining = signal.setitimer(signal.ITIMER_REAL, 0)
    yield
    assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, *remaining)


@pytest.fixture
def clock() -> Iterator[ManualClock]:
    clock = ManualClock()
    with clocks.use(clock):
        yield clock


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_TIMEOUT_GRACE_SECONDS", "0.05")
    monkeypatch.setenv("PENSTOCK_CANCEL_GRACE_SECONDS", "0.05")


class Stopwatch:
    def __init__(self) -> None:
        self.began = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began


def spin() -> None:
    """Can be interrupted between two bytecodes; else it returns after a while, for the sake of the tests."""
    until = time.monotonic() + 6
    while time.monotonic() < until:
        time.sleep(0.001)


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


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


# --- options ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [task, flow], ids=["task", "flow"])
@pytest.mark.parametrize(("value", "error"), [(-1, ValueError), (-0.1, ValueError), ("1", TypeError)])
def test_wrong_limits_are_refused_at_decoration(kind: Any, value: Any, error: Any) -> None:
    with pytest.raises(error, match="timeout_seconds"):
        kind(timeout_seconds=value)(lambda: None)


@pytest.mark.parametrize("kind", [task, flow], ids=["task", "flow"])
@pytest.mark.parametrize("value", [0, 0.0, None])
def test_0_is_no_limit(kind: Any, value: Any) -> None:
    assert kind(timeout_seconds=value)(lambda: time.sleep(0.01) or "fine")() == "fine"
    limited = kind(timeout_seconds=0.001)(lambda: time.sleep(0.01) or "fine")
    assert limited.with_options(timeout_seconds=value)() == "fine"


@pytest.mark.parametrize("kind", [task, flow], ids=["task", "flow"])
def test_a_body_that_ends_in_time_is_not_disturbed(kind: Any, alarm: None) -> None:
    assert kind(timeout_seconds=5)(lambda: "fine")() == "fine"
    with pytest.raises(ValueError, match="mine"):
        kind(timeout_seconds=5)(lambda: _raise(ValueError("mine")))()


def _raise(error: BaseException) -> Any:
    raise error


# --- what a timeout looks like --------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["main", "thread"])
@pytest.mark.parametrize("way", ["direct", "submitted", "one worker", "sequential", "mapped"])
def test_the_error_of_a_task(way: str, where: str, hurried: None) -> None:
    one_worker = ThreadPoolTaskRunner(1 if way == "one worker" else None)
    work = task(name="x", timeout_seconds=0.03)(lambda n: spin())

    @flow(task_runner=SequentialTaskRunner() if way == "sequential" else one_worker)
    def main() -> None:
        if way == "direct":
            work(1)
        future = work.map([1])[0] if way == "mapped" else work.submit(1)
        future.wait()
        error = future.result(raise_on_failure=False)
        with pytest.raises(TaskRunTimeoutError) as raised:
            future.result()
        assert raised.value is error
        raise raised.value

    with pytest.raises(TaskRunTimeoutError) as raised:
        main() if where == "main" else in_thread(main)
    assert isinstance(raised.value, TimeoutError)
    assert isinstance(raised.value, PenstockError)
    suffix = "[0]" if way == "mapped" else ""
    assert str(raised.value) == f"Task run 'x-0{suffix}' exceeded timeout of 0.03 second(s)"


def test_the_names_of_the_states(hurried: None) -> None:
    seen: list[Any] = []
    slow = task(timeout_seconds=0.03)(spin)

    @flow
    def main() -> None:
        states = (slow(return_state=True), slow.submit(return_state=True))
        seen.extend((state.type, state.name, state.message) for state in states)

    main()
    assert seen == [
        (StateType.FAILED, "TimedOut", f"Task run 'spin-{n}' exceeded timeout of 0.03 second(s)") for n in (0, 1)
    ]


@pytest.mark.parametrize("seconds", [0.01, 0.05, 0.125])
def test_the_limit_in_the_message_is_as_written(seconds: float, hurried: None) -> None:
    with pytest.raises(TaskRunTimeoutError) as raised:
        task(name="x", timeout_seconds=seconds)(spin)()
    assert str(raised.value) == f"Task run 'x' exceeded timeout of {seconds} second(s)"


def test_the_record_of_a_timeout(own_store: Path, hurried: None) -> None:
    slow = task(timeout_seconds=0.02, retries=1)(spin)

    @flow
    def main() -> None:
        slow.submit().exception()

    main()
    reader = SQLiteReader(own_store)
    try:
        (root,) = reader.runs()
        (run,) = reader.tree(root.id)
        assert (run.status, run.state_name, run.error_type) == ("FAILED", "TimedOut", "TaskRunTimeoutError")
        attempts = [row for row in reader.attempts(root.id) if row.run_id == run.id]
        assert [(row.number, row.state_name) for row in attempts] == [(1, "TimedOut"), (2, "TimedOut")]
    finally:
        reader.close()


@pytest.mark.parametrize(
    "error",
    [TimeoutError("mine"), TimeoutError(), TimeoutError("s"), type("Mine", (TimeoutError,), {})()],
)
@pytest.mark.parametrize("limit", [None, 5])
def test_a_timeout_error_of_any_origin_is_a_timeout(error: Exception, limit: float | None) -> None:
    work = task(timeout_seconds=limit)(lambda: _raise(error))

    @flow
    def main() -> Any:
        states = [work(return_state=True), work.submit(return_state=True)]
        return all((state.name, state.data) == ("TimedOut", error) for state in states)

    assert main() is True


def test_running_into_the_limit_of_a_wait_is_a_timeout(gate: Gate) -> None:
    held = task(lambda: gate.wait(5))

    @task
    def impatient() -> None:
        try:
            held.submit().result(timeout=0.01)
        finally:
            gate.set()

    @flow
    def main() -> str:
        return impatient.submit(return_state=True).name

    assert main() == "TimedOut"


# --- direct calls on the main thread --------------------------------------------------------------------------------


def _queue() -> None:
    queue.Queue[None]().get()


def _lock() -> None:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def _socket() -> None:
    left, right = socket.socketpair()
    with left, right:
        left.recv(1)


def _process() -> None:
    process = subprocess.Popen(["sleep", "30"])
    try:
        process.wait()
    finally:
        process.kill()
        process.wait()


BLOCKING = [lambda: time.sleep(30), _queue, _lock, _socket, _process, spin]
blocking = pytest.mark.parametrize("body", BLOCKING, ids=["sleep", "queue", "lock", "socket", "process", "spin"])


@blocking
@pytest.mark.parametrize("in_flow", [False, True])
def test_blocking_calls_are_interrupted_on_the_main_thread(alarm: None, body: Any, in_flow: bool) -> None:
    work = task(timeout_seconds=SOON)(body)
    call = flow(lambda: work()) if in_flow else work
    watch = Stopwatch()
    with pytest.raises(TaskRunTimeoutError):
        call()
    assert SOON <= watch.seconds < SOON + LATE


@blocking
def test_a_flow_is_interrupted_on_the_main_thread(alarm: None, body: Any) -> None:
    main = flow(name="x", flow_run_name="mine", timeout_seconds=SOON)(body)
    watch = Stopwatch()
    with pytest.raises(FlowRunTimeoutError) as raised:
        main()
    assert SOON <= watch.seconds < SOON + LATE
    assert str(raised.value) == "Flow run 'mine' exceeded timeout of 0.05 second(s)"
    state = main(return_state=True)
    assert (state.type, state.name) == (StateType.FAILED, "TimedOut")


def test_the_clean_up_of_an_interrupted_body_runs(alarm: None) -> None:
    events: list[str] = []

    @task(timeout_seconds=SOON)
    def work() -> None:
        try:
            time.sleep(30)
        except Exception:
            events.append("an ordinary `except` must not swallow it")
        finally:
            events.append("finally")

    with pytest.raises(TaskRunTimeoutError):
        work()
    assert events == ["finally"]


@pytest.mark.parametrize("has_alarm", [False, True])
def test_of_nested_limits_the_inner_one_may_expire(request: Any, has_alarm: bool) -> None:
    if has_alarm:
        request.getfixturevalue("alarm")
    inner = task(name="inner", timeout_seconds=SOON)(spin)

    @task(name="outer", timeout_seconds=30)
    def outer() -> str:
        with pytest.raises(TaskRunTimeoutError, match="'inner"):
            inner()
        return "fine"

    @flow(timeout_seconds=30)
    def main() -> str:
        return outer()

    assert main() == "fine"


@pytest.mark.parametrize("has_alarm", [False, True])
@pytest.mark.parametrize("inner_limit", [None, SOON + 0.01, 30])
def test_of_nested_limits_the_outer_one_may_expire(
    request: Any, has_alarm: bool, inner_limit: float | None, hurried: None
) -> None:
    if has_alarm:
        request.getfixturevalue("alarm")
    inner_ends: list[Any] = []
    inner = task(
        name="inner",
        timeout_seconds=inner_limit,
        on_cancellation=[lambda t, r, s: inner_ends.append(s.name)],
        on_failure=[lambda t, r, s: inner_ends.append(s.name)],
    )(spin)
    after: list[int] = []

    @task(name="outer", timeout_seconds=SOON)
    def outer() -> None:
        inner()
        after.append(1)

    @flow(timeout_seconds=30)
    def main() -> str:
        with pytest.raises(TaskRunTimeoutError, match="'outer"):
            outer()
        return "fine"

    assert main() == "fine"
    assert inner_ends == ["Cancelled"]
    assert after == []


@pytest.mark.parametrize("has_alarm", [False, True])
def test_the_limit_of_a_flow_ends_a_direct_call_in_it(request: Any, has_alarm: bool, hurried: None) -> None:
    if has_alarm:
        request.getfixturevalue("alarm")
    inner = task(timeout_seconds=30)(spin)

    @flow(timeout_seconds=SOON)
    def main() -> None:
        inner()

    with pytest.raises(FlowRunTimeoutError):
        main()


def test_a_body_that_goes_on_after_its_caller_timed_out_is_not_hit_again(alarm: None) -> None:
    """What was meant for one body must not arrive in the code after it."""
    slow = task(timeout_seconds=0.01)(spin)

    @flow
    def main() -> int:
        for _ in range(20):
            with pytest.raises(TaskRunTimeoutError):
                slow()
            for _ in range(100):
                pass
        time.sleep(0.05)
        return 1

    assert main() == 1


def test_an_alarm_handler_of_the_users_is_left_alone() -> None:
    calls: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: calls.append(number))
    timer = signal.setitimer(signal.ITIMER_REAL, 30)
    try:
        mine = signal.getsignal(signal.SIGALRM)
        with pytest.raises(TaskRunTimeoutError):
            task(timeout_seconds=0.03)(spin)()
        assert signal.getsignal(signal.SIGALRM) is mine
        assert 0 < signal.getitimer(signal.ITIMER_REAL)[0] <= 30
        assert calls == []
    finally:
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, *timer)


# --- direct calls on other threads ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [task, flow], ids=["task", "flow"])
def test_a_direct_call_on_another_thread_is_interrupted_between_bytecodes(kind: Any, hurried: None) -> None:
    work = kind(timeout_seconds=SOON)(spin)
    watch = Stopwatch()
    with pytest.raises(TimeoutError) as raised:
        in_thread(work)
    assert type(raised.value) is (TaskRunTimeoutError if kind is task else FlowRunTimeoutError)
    assert watch.seconds < SOON + LATE


def test_a_blocking_call_on_another_thread_is_warned_about_and_its_result_discarded(
    gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    """The caller's own thread is in it, so it cannot be left; the warning comes while it is stuck."""
    returned: list[str] = []

    @task(name="stuck", timeout_seconds=SOON)
    def stuck() -> str:
        _wait_in_c(gate)
        returned.append("returned")
        return "too late"

    class Opener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno == logging.WARNING:
                gate.set()

    opener = Opener()
    logging.getLogger("penstock").addHandler(opener)
    try:
        with pytest.raises(TaskRunTimeoutError):
            in_thread(stuck)
    finally:
        logging.getLogger("penstock").removeHandler(opener)
    (warning,) = warnings_in(caplog)
    assert "'stuck'" in warning
    assert f"{__file__}:" in warning
    assert ".submit()" in warning


def _wait_in_c(gate: Gate) -> None:
    """Wait where no exception arrives: inside one call of a lock."""
    with gate.lock:  # given back even if an interruption has been waiting
        pass


# --- submitted synchronous tasks ------------------------------------------------------------------------------------


def test_a_submitted_task_is_interrupted_between_bytecodes(caplog: pytest.LogCaptureFixture) -> None:
    ended = threading.Event()

    @task(timeout_seconds=SOON)
    def slow() -> None:
        try:
            spin()
        finally:
            ended.set()

    @flow
    def main() -> float:
        watch = Stopwatch()
        with pytest.raises(TaskRunTimeoutError):
            slow.submit().result()
        assert ended.is_set()
        return watch.seconds

    assert SOON <= main() < SOON + LATE
    assert warnings_in(caplog) == []


@pytest.mark.parametrize("workers", [None, 1])
def test_a_stuck_thread_is_written_off_in_time(
    gate: Gate, caplog: pytest.LogCaptureFixture, workers: int | None
) -> None:
    threads: list[str] = []

    @task(name="stuck", timeout_seconds=SOON)
    def stuck() -> str:
        threads.append(threading.current_thread().name)
        _wait_in_c(gate)
        return "too late"

    @task
    def other() -> str:
        return threading.current_thread().name

    @flow(task_runner=ThreadPoolTaskRunner(workers))
    def main() -> None:
        watch = Stopwatch()
        future, queued = stuck.submit(), other.submit()
        assert isinstance(future.exception(), TaskRunTimeoutError)
        assert watch.seconds < SOON + LATE
        assert queued.result() not in threads
        assert not gate.is_set()
        gate.set()
        for thread in threading.enumerate():
            if thread.name in threads:
                thread.join(5)
        assert future.state.name == "TimedOut"
        assert isinstance(future.exception(), TaskRunTimeoutError), "what came too late is discarded"
        assert other.submit().result()

    main()
    (warning,) = warnings_in(caplog)
    assert "'stuck-0'" in warning
    assert f"still running in thread {threads[0]} at {__file__}:" in warning


@pytest.mark.parametrize("workers", [None, 1, 2])
def test_many_stuck_threads_do_not_use_up_a_pool(gate: Gate, workers: int | None, hurried: None) -> None:
    stuck = task(timeout_seconds=0.01)(lambda n: _wait_in_c(gate))

    @flow(task_runner=ThreadPoolTaskRunner(workers))
    def main() -> str:
        errors = stuck.map(range(6)).result(raise_on_failure=False)
        assert [type(error) for error in errors] == [TaskRunTimeoutError] * 6
        return task(lambda: "fine").submit().result(5)

    assert main() == "fine"


@pytest.mark.parametrize("value", ["value", None])
def test_a_body_that_swallows_the_interruption_cannot_rescue_its_value(value: Any) -> None:
    @task(timeout_seconds=SOON)
    def stubborn() -> Any:
        try:
            spin()
        except BaseException:
            return value

    @flow
    def main() -> str:
        return stubborn.submit(return_state=True).name

    assert main() == "TimedOut"
    assert in_thread(lambda: stubborn(return_state=True)).name == "TimedOut"
    assert stubborn(return_state=True).name == "TimedOut"


def test_another_error_while_being_interrupted_is_still_a_timeout() -> None:
    @task(timeout_seconds=SOON)
    def clumsy() -> Any:
        try:
            spin()
        finally:
            raise ValueError("while cleaning up")

    @flow
    def main() -> Any:
        state = clumsy.submit(return_state=True)
        return state.name, type(state.data)

    assert main() == ("TimedOut", TaskRunTimeoutError)


def test_a_value_returned_within_the_grace_is_discarded() -> None:
    @task(timeout_seconds=0.01)
    def late() -> str:
        time.sleep(0.05)
        return "too late"

    @flow
    def main() -> str:
        return late.submit(return_state=True).name

    assert main() == "TimedOut"
    assert in_thread(lambda: late(return_state=True)).name == "TimedOut"


def test_what_a_written_off_body_does_later_changes_nothing(gate: Gate, hurried: None) -> None:
    events: list[Any] = []
    done = threading.Event()

    @task(timeout_seconds=0.02)
    def stuck() -> None:
        try:
            _wait_in_c(gate)
        except BaseException:
            pass  # the interruption has been waiting for the end of the blocking call
        try:
            events.append(other.submit(5))
        except BaseException as error:
            events.append(type(error))
        finally:
            done.set()

    other = task(lambda x: x)

    @flow
    def main() -> str:
        assert isinstance(stuck.submit().exception(), TaskRunTimeoutError)
        gate.set()
        assert done.wait(5)
        return "fine"

    assert main() == "fine"
    assert len(events) == 1


def test_written_off_threads_do_not_keep_the_interpreter_alive(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
            import time
            from penstock import flow, task

            @task(timeout_seconds=0.05)
            def stuck(): time.sleep(60)

            @task(timeout_seconds=0.05)
            async def astuck(): time.sleep(60)

            @flow
            def main():
                return [type(f.exception()).__name__ for f in (stuck.submit(), astuck.submit())]

            print(*main())
        """)
    )
    environment = {**os.environ, "PENSTOCK_HOME": str(tmp_path / "home")}
    watch = Stopwatch()
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=environment, timeout=30)
    assert (done.stdout, done.returncode) == ("TaskRunTimeoutError TaskRunTimeoutError\n", 0), done.stderr
    assert watch.seconds < 5


def test_deadlines_that_coincide_with_the_end_leave_no_trace(hurried: None) -> None:
    """A body that ends just when its time is over has either end, and the next body on its thread is not hit."""

    @task(timeout_seconds=0.01)
    def close(n: int) -> int:
        until = time.monotonic() + 0.0098 + n % 5 * 0.0001
        while time.monotonic() < until:
            pass
        return n

    quiet = task(lambda n: sum(range(2000)) and n)

    @flow(task_runner=ThreadPoolTaskRunner(max_workers=2))
    def main() -> None:
        closes, quiets = [], []
        for n in range(80):
            closes.append(close.submit(n))
            quiets.append(quiet.submit(n))
        for n, future in enumerate(closes):
            state = (future.wait(), future.state)[1]
            assert state.name in ("Completed", "TimedOut"), state
            if state.name == "Completed":
                assert state.result() == n
        assert [future.result() for future in quiets] == list(range(80))

    main()


# --- asynchronous tasks ---------------------------------------------------------------------------------------------


async def _sleep() -> None:
    await asyncio.sleep(6)


def run_async(way: str, body: Any, **options: Any) -> Any:
    """The final state of an asynchronous task in a flow: submitted, or awaited in the flow's own loop."""
    work = task(name="work", **options)(body)
    states: list[Any] = []

    @flow
    def main() -> None:
        states.append(work.submit(return_state=True))

    @flow
    async def amain() -> None:
        states.append(await work(return_state=True))
        await asyncio.sleep(0)  # a cancellation that is left over would arrive here
        current = asyncio.current_task()
        assert current is not None
        assert current.cancelling() == 0

    main() if way == "submitted" else asyncio.run(amain())
    return states[0]


both = pytest.mark.parametrize("way", ["submitted", "direct"])


@both
def test_an_async_body_is_cancelled_at_its_await(way: str) -> None:
    events: list[str] = []

    async def body() -> None:
        try:
            await asyncio.sleep(6)
        except asyncio.CancelledError:
            events.append("cancelled")
            raise
        finally:
            events.append("finally")

    watch = Stopwatch()
    state = run_async(way, body, timeout_seconds=SOON)
    assert watch.seconds < SOON + LATE
    assert (state.type, state.name) == (StateType.FAILED, "TimedOut")
    assert str(state.data) == "Task run 'work-0' exceeded timeout of 0.05 second(s)"
    assert type(state.data) is TaskRunTimeoutError
    assert events == ["cancelled", "finally"]


@both
def test_a_swallowed_cancellation_does_not_rescue_the_value(way: str) -> None:
    async def body() -> str:
        try:
            await asyncio.sleep(6)
        except asyncio.CancelledError:
            pass
        return "rescued"

    assert run_async(way, body, timeout_seconds=SOON).name == "TimedOut"


@both
def test_an_async_body_that_does_not_end_is_left_behind(way: str, caplog: pytest.LogCaptureFixture) -> None:
    go_on, ended = threading.Event(), threading.Event()

    async def body() -> str:
        while not go_on.is_set():
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                pass
        ended.set()
        return "too late"

    work = task(name="work", timeout_seconds=SOON)(body)

    def check(state: Any, seconds: float) -> None:
        assert state.name == "TimedOut"
        assert seconds < SOON + LATE
        assert not ended.is_set()

    @flow
    def main() -> None:
        watch = Stopwatch()
        check(work.submit(return_state=True), watch.seconds)
        go_on.set()
        assert ended.wait(5)

    @flow
    async def amain() -> None:
        watch = Stopwatch()
        check(await work(return_state=True), watch.seconds)
        go_on.set()
        while not ended.is_set():
            await asyncio.sleep(0.001)

    try:
        in_thread(main if way == "submitted" else lambda: asyncio.run(amain()), 2)
    finally:
        go_on.set()
    (warning,) = warnings_in(caplog)
    assert "'work-0'" in warning
    assert "still running" in warning


def test_a_background_loop_that_is_blocked_is_replaced(gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    @task(timeout_seconds=SOON)
    async def blocks() -> str:
        _wait_in_c(gate)
        return "too late"

    @task
    async def other() -> int:
        await asyncio.sleep(0.001)
        return threading.get_ident()

    @flow
    def main() -> None:
        first = other.submit().result()
        watch = Stopwatch()
        future = blocks.submit()
        assert isinstance(future.exception(), TaskRunTimeoutError)
        assert watch.seconds < SOON + LATE
        second = other.submit().result(5)
        assert second != first
        gate.set()
        assert other.submit().result(5) == second

    in_thread(main)
    assert f"still running in thread penstock-loop at {__file__}:" in caplog.text


def test_one_of_many_coroutines_times_out_alone() -> None:
    slow = task(timeout_seconds=SOON)(_sleep)

    @task
    async def quick(n: int) -> int:
        await asyncio.sleep(SOON * 2)
        return n

    @flow
    async def main() -> Any:
        return await asyncio.gather(quick(1), slow(return_state=True), quick(2), return_exceptions=True)

    state = asyncio.run(main(return_state=True))
    assert state.result()[0] == 1
    assert state.result()[2] == 2
    assert state.result()[1].name == "TimedOut"


@both
def test_async_attempts_have_a_limit_each(way: str) -> None:
    made: list[int] = []

    async def body() -> str:
        made.append(1)
        if len(made) < 3:
            await asyncio.sleep(6)
        return "fine"

    assert run_async(way, body, timeout_seconds=SOON, retries=2).result() == "fine"
    assert len(made) == 3


def test_a_limit_of_asyncios_inside_a_body_is_the_bodys_own_business() -> None:
    async def body() -> str:
        try:
            async with asyncio.timeout(0.01):
                await asyncio.sleep(6)
        except TimeoutError:
            return "caught"
        return "not reached"

    assert run_async("direct", body, timeout_seconds=30).result() == "caught"
    assert run_async("submitted", body, timeout_seconds=30).result() == "caught"


# --- the clock ------------------------------------------------------------------------------------------------------


def test_waiting_for_inputs_and_for_a_slot_does_not_count(clock: ManualClock, gate: Gate) -> None:
    started = threading.Event()

    @task
    def first() -> int:
        started.set()
        gate.wait(5)
        return 1

    work = task(timeout_seconds=5)(lambda *args: "fine")

    @flow(task_runner=ThreadPoolTaskRunner(max_workers=1))
    def main() -> Any:
        upstream = first.submit()
        futures = [work.submit(), work.submit(upstream), work.submit(wait_for=[upstream])]
        assert started.wait(5)
        clock.advance(1000)
        gate.set()
        return [future.result() for future in futures]

    assert main() == ["fine"] * 3


def test_retry_delays_do_not_count_and_every_attempt_has_the_whole_limit(clock: ManualClock) -> None:
    made: list[int] = []

    @task(timeout_seconds=60, retries=2, retry_delay_seconds=1000)
    def flaky() -> str:
        made.append(1)
        clock.advance(50)
        if len(made) < 3:
            raise ValueError
        return "fine"

    @flow
    def main() -> str:
        future = flaky.submit()
        for n in (1, 2):
            while len(made) < n or future.state.name != "AwaitingRetry" or not clock.timers():
                time.sleep(0.001)
            clock.advance(1000)
        return future.result(5)

    assert main() == "fine"


def test_the_clock_stops_when_the_body_returns(clock: ManualClock, gate: Gate) -> None:
    """What the body has submitted may take longer than the body's own limit."""
    returned = threading.Event()
    child = task(lambda: gate.wait(5))

    @task(timeout_seconds=5)
    def parent() -> str:
        child.submit()
        returned.set()
        return "fine"

    @flow
    def main() -> str:
        future = parent.submit()
        assert returned.wait(5)
        while clock.timers():
            time.sleep(0.001)
        clock.advance(1000)
        assert not future.done()
        gate.set()
        return future.result(5)

    assert main() == "fine"


def test_a_limit_that_was_met_leaves_no_timer(clock: ManualClock) -> None:
    @flow(timeout_seconds=60)
    def main() -> None:
        task(timeout_seconds=60)(lambda: None).submit().result()

    main()
    assert clock.timers() == 0


def test_waiting_in_a_body_counts(hurried: None) -> None:
    child = task(spin)
    children: list[Any] = []

    @task(timeout_seconds=SOON)
    def waits() -> None:
        children.append(child.submit())
        children[0].result()

    @flow
    def main() -> str:
        return waits.submit(return_state=True).name

    assert in_thread(lambda: main.with_options(on_unobserved_failure="warn")()) == "TimedOut"
    assert children[0].state.name == "Cancelled"


# --- retries and dependents -----------------------------------------------------------------------------------------


def test_a_timeout_is_tried_again(hurried: None) -> None:
    made: list[int] = []

    @task(timeout_seconds=SOON, retries=2)
    def slow() -> str:
        made.append(1)
        if len(made) < 3:
            spin()
        return "fine"

    @flow
    def main() -> str:
        return slow.submit().result()

    assert main() == "fine"


def test_an_attempt_that_was_written_off_is_tried_again_elsewhere(gate: Gate, hurried: None) -> None:
    made: list[str] = []

    @task(timeout_seconds=SOON, retries=1)
    def stuck() -> str:
        made.append(threading.current_thread().name)
        if len(made) == 1:
            _wait_in_c(gate)
            return "too late"
        return "fine"

    @flow(task_runner=ThreadPoolTaskRunner(max_workers=1))
    def main() -> str:
        future = stuck.submit()
        value = future.result(5)
        gate.set()
        time.sleep(0.01)
        assert future.result() == value
        return value

    assert main() == "fine"
    assert len(set(made)) == 2, "the second attempt ran on the thread that is stuck"


def test_dependents_proceed(hurried: None) -> None:
    slow = task(name="slow", timeout_seconds=SOON)(spin)
    work = task(name="work")(lambda x: x)

    @flow
    def main() -> Any:
        future = slow.submit()
        blocked, allowed = work.submit(future), work.submit(allow_failure(future))
        error = blocked.exception()
        assert isinstance(error, UpstreamTaskError)
        assert "'slow-0'" in str(error)
        assert error.__cause__ is future.exception()
        assert allowed.result() is future.exception()
        return blocked.state.name

    assert main() == "UpstreamFailed"


# --- generators -----------------------------------------------------------------------------------------------------


def test_generators_have_limits(hurried: None) -> None:
    @task(timeout_seconds=SOON)
    def numbers() -> Iterator[int]:
        yield 1
        spin()

    got: list[int] = []

    def consume() -> None:
        items = numbers()
        got.append(next(items))
        next(items)

    watch = Stopwatch()
    with pytest.raises(TaskRunTimeoutError):
        in_thread(consume)
    with pytest.raises(TaskRunTimeoutError):
        consume()
    assert watch.seconds < 2
    assert got == [1, 1]

    @flow
    def main() -> str:
        return numbers.submit(return_state=True).name

    assert main() == "TimedOut"


def test_async_generators_have_limits() -> None:
    @task(timeout_seconds=SOON)
    async def numbers() -> Any:
        yield 1
        await asyncio.sleep(6)

    got: list[int] = []

    async def consume() -> None:
        items = numbers()
        got.append(await anext(items))
        await anext(items)

    with pytest.raises(TaskRunTimeoutError):
        in_thread(lambda: asyncio.run(consume()))
    assert got == [1]


# --- flows ----------------------------------------------------------------------------------------------------------

WAITS: dict[str, Callable[[Any], Any]] = {
    "result": lambda future: future.result(),
    "result with timeout": lambda future: future.result(30),
    "wait": lambda future: future.wait(),
    "wait()": lambda future: wait([future]),
    "as_completed": lambda future: list(as_completed([future])),
    "exception": lambda future: future.exception(),
}


@pytest.mark.parametrize("how", WAITS)
@pytest.mark.parametrize("where", ["alarm", "main", "thread"])
def test_a_flow_that_waits_is_released(request: Any, hurried: None, how: str, where: str) -> None:
    if where == "alarm":
        request.getfixturevalue("alarm")
    futures: list[Any] = []
    work = task(spin)

    @flow(timeout_seconds=SOON)
    def main() -> None:
        futures.append(work.submit())
        WAITS[how](futures[0])
        futures.append("the body went on")

    watch = Stopwatch()
    with pytest.raises(FlowRunTimeoutError):
        in_thread(main) if where == "thread" else main()
    assert watch.seconds < SOON + 1
    (future,) = futures
    assert future.state.name == "Cancelled"


def test_a_flow_that_times_out_ends_its_runs(hurried: None, gate: Gate) -> None:
    stuck = task(name="stuck")(lambda: _wait_in_c(gate))
    polite = task(name="polite")(spin)
    apolite = task(name="apolite")(_sleep)
    futures: dict[str, Any] = {}

    @flow(timeout_seconds=SOON, task_runner=ThreadPoolTaskRunner(max_workers=3))
    def main() -> None:
        futures["polite"] = polite.submit()
        futures["async"] = apolite.submit()
        futures["stuck"] = stuck.submit()
        futures["queued"] = polite.submit()
        futures["blocked"] = polite.submit(wait_for=[futures["stuck"]])
        spin()

    watch = Stopwatch()
    with pytest.raises(FlowRunTimeoutError):
        main()
    assert watch.seconds < 2
    names = {name: future.state.name for name, future in futures.items()}
    assert names == {
        "polite": "Cancelled",
        "async": "Cancelled",
        "stuck": "Crashed",
        "queued": "Cancelled",
        "blocked": "Cancelled",
    }
    error = futures["stuck"].exception()
    assert isinstance(error, CrashedRun)
    assert "did not stop within 0.05 s; still running in thread" in str(error)
    assert f"{__file__}:" in str(error)


def test_the_caller_of_a_flow_is_released_whatever_its_tasks_do(gate: Gate) -> None:
    stuck = task(lambda: _wait_in_c(gate))

    @flow(timeout_seconds=SOON)
    def main() -> None:
        stuck.submit().result()

    watch = Stopwatch()
    with pytest.raises(FlowRunTimeoutError):
        main()
    assert watch.seconds < SOON + 4


def test_an_async_flow_has_a_limit(hurried: None) -> None:
    futures: list[Any] = []

    @flow(timeout_seconds=SOON)
    async def main() -> None:
        futures.append(task(_sleep).submit())
        await asyncio.sleep(6)

    async def run() -> None:
        with pytest.raises(FlowRunTimeoutError):
            await main()
        await asyncio.sleep(0)
        assert (await main(return_state=True)).name == "TimedOut"

    asyncio.run(run())
    assert [future.state.name for future in futures] == ["Cancelled"] * 2


def test_an_async_flow_that_awaits_a_task_has_a_limit(hurried: None) -> None:
    sleeper = task(_sleep)

    @flow(timeout_seconds=SOON)
    async def main(way: str) -> None:
        await (sleeper.submit() if way == "submitted" else sleeper())

    for way in ("submitted", "direct"):
        watch = Stopwatch()
        with pytest.raises(FlowRunTimeoutError):
            asyncio.run(main(way))
        assert watch.seconds < 2


@pytest.mark.parametrize("way", ["direct", "submitted"])
@pytest.mark.parametrize("is_async", [False, True])
def test_a_subflow_has_a_limit_of_its_own(hurried: None, way: str, is_async: bool) -> None:
    inner: Any = flow(flow_run_name="inner", timeout_seconds=SOON)(_sleep if is_async else spin)

    @flow
    def main() -> Any:
        state = inner.submit(return_state=True) if way == "submitted" else inner(return_state=True)
        return state.name, type(state.data)

    @flow
    async def amain() -> Any:
        state = await inner(return_state=True)
        return state.name, type(state.data)

    result = asyncio.run(amain()) if is_async and way == "direct" else main()
    assert result == ("TimedOut", FlowRunTimeoutError)


def test_the_limit_of_a_flow_ends_its_subflows(hurried: None) -> None:
    inside: list[Any] = []
    subflows: list[Any] = []
    work = task(spin)

    @flow
    def inner() -> None:
        inside.append(work.submit())
        inside[0].result()

    @flow(timeout_seconds=SOON)
    def main() -> None:
        subflows.append(inner.submit())
        subflows[0].wait()

    with pytest.raises(FlowRunTimeoutError):
        main()
    assert [future.state.name for future in (*inside, *subflows)] == ["Cancelled", "Cancelled"]


def test_a_flow_that_times_out_is_tried_again(hurried: None) -> None:
    made: list[int] = []
    work = task(lambda: "fine")

    @flow(timeout_seconds=SOON, retries=1)
    def main() -> str:
        made.append(1)
        if len(made) == 1:
            spin()
        return work.submit().result()

    assert main() == "fine"
    assert len(made) == 2


def test_a_task_that_times_out_leaves_its_flow_alone(hurried: None) -> None:
    slow = task(timeout_seconds=SOON)(spin)

    @flow(timeout_seconds=30)
    def main() -> str:
        assert isinstance(slow.submit().exception(), TaskRunTimeoutError)
        with pytest.raises(TaskRunTimeoutError):
            slow()
        return "fine"

    assert main() == "fine"
