"""A clock on which waiting takes no time, and everything happens in the order in which it would anyway."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from penstock import as_completed, concurrency, flow, rate_limit, task, wait
from penstock._engine import clock as clocks
from penstock.cache_policies import INPUTS
from penstock.concurrency import set_limit
from penstock.task_runners import ProcessPoolTaskRunner, SequentialTaskRunner, ThreadPoolTaskRunner
from penstock.testing import ManualClock, RecordedRuns, SkippingClock

HOUR = 3600.0


@pytest.fixture(autouse=True)
def clock(penstock_clock: SkippingClock) -> SkippingClock:
    return penstock_clock


@pytest.fixture(autouse=True)
def hardly_any_time() -> Iterator[None]:
    """Of real time. Every test here waits for hours, so a busy machine does not make one fail."""
    started = time.monotonic()
    yield
    assert time.monotonic() - started < 30


@task
def sleep(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@task
async def sleep_async(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


def failing_twice(**options: Any) -> Any:
    outcomes = iter([OSError("one"), OSError("two"), "done"])

    @task(name="failing", retries=2, **options)
    def failing() -> str:
        outcome = next(outcomes)
        if isinstance(outcome, OSError):
            raise outcome
        return outcome

    return failing


def failing_twice_async(**options: Any) -> Any:
    outcomes = iter([OSError("one"), OSError("two"), "done"])

    @task(name="failing", retries=2, **options)
    async def failing() -> str:
        outcome = next(outcomes)
        if isinstance(outcome, OSError):
            raise outcome
        return outcome

    return failing


def lasts(clock: SkippingClock, seconds: float) -> None:
    """Check how much time has passed, but for the moments in which something was done."""
    assert seconds - 0.01 <= clock.monotonic() < seconds + 30


class TestRetryDelays:
    @pytest.mark.parametrize("runner", [SequentialTaskRunner, ThreadPoolTaskRunner])
    def test_of_submitted_tasks(self, clock: SkippingClock, penstock_runs: RecordedRuns, runner: Any) -> None:
        failing = failing_twice(retry_delay_seconds=[HOUR, 2 * HOUR])
        assert flow(task_runner=runner)(lambda: failing.submit().result())() == "done"
        lasts(clock, 3 * HOUR)
        assert penstock_runs["failing"][0].seconds == pytest.approx(3 * HOUR, abs=30)

    def test_of_direct_calls(self, clock: SkippingClock) -> None:
        failing = failing_twice(retry_delay_seconds=HOUR)
        assert flow(lambda: failing())() == "done"
        lasts(clock, 2 * HOUR)

    def test_of_tasks_outside_flows(self, clock: SkippingClock) -> None:
        assert failing_twice(retry_delay_seconds=HOUR)() == "done"
        lasts(clock, 2 * HOUR)

    def test_of_flows(self, clock: SkippingClock) -> None:
        outcomes = iter([OSError(), "done"])

        @flow(retries=1, retry_delay_seconds=HOUR)
        def main() -> object:
            outcome = next(outcomes)
            if isinstance(outcome, OSError):
                raise outcome
            return outcome

        assert main() == "done"
        lasts(clock, HOUR)

    def test_of_many_at_once(self, clock: SkippingClock) -> None:
        tasks = [failing_twice(retry_delay_seconds=HOUR) for _ in range(50)]
        assert flow(lambda: [future.result() for future in [one.submit() for one in tasks]])() == ["done"] * 50
        lasts(clock, 2 * HOUR)

    def test_in_an_asynchronous_flow(self, clock: SkippingClock) -> None:
        one, two, three = (failing_twice_async(retry_delay_seconds=n * HOUR) for n in (1, 2, 3))

        @flow
        async def main() -> list[str]:
            submitted = three.submit()
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one()), group.create_task(two())]
            return [task.result() for task in tasks] + [await submitted]

        assert asyncio.run(main()) == ["done"] * 3
        lasts(clock, 6 * HOUR)

    def test_with_a_runner_of_processes(self, clock: SkippingClock, penstock_runs: RecordedRuns) -> None:
        broken = task(retries=1, retry_delay_seconds=HOUR)(int).with_options(name="broken")
        main = flow(task_runner=ProcessPoolTaskRunner(1))(lambda: broken.submit("x").result())
        with pytest.raises(ValueError, match="invalid literal"):
            main()
        assert penstock_runs["broken"].attempts == [2]
        lasts(clock, HOUR)


class TestTimeLimits:
    @pytest.mark.parametrize("sleeping", [sleep, sleep_async], ids=["threads", "loop"])
    def test_of_submitted_tasks(self, clock: SkippingClock, sleeping: Any) -> None:
        limited = sleeping.with_options(timeout_seconds=HOUR)
        assert flow(lambda: limited.submit(2 * HOUR, return_state=True).name)() == "TimedOut"
        lasts(clock, HOUR)

    def test_of_direct_calls(self, clock: SkippingClock) -> None:
        limited = sleep.with_options(timeout_seconds=HOUR)
        assert flow(lambda: limited(2 * HOUR, return_state=True).name)() == "TimedOut"
        lasts(clock, HOUR)

    def test_of_direct_asynchronous_calls(self, clock: SkippingClock) -> None:
        @flow
        async def main() -> str:
            return (await sleep_async.with_options(timeout_seconds=HOUR)(2 * HOUR, return_state=True)).name

        assert asyncio.run(main()) == "TimedOut"
        lasts(clock, HOUR)

    def test_of_flows(self, clock: SkippingClock, penstock_runs: RecordedRuns) -> None:
        main = flow(timeout_seconds=HOUR, name="main")(lambda: sleep.submit(2 * HOUR).result())
        assert main(return_state=True).name == "TimedOut"
        assert penstock_runs["sleep"].states == ["Cancelled"]
        lasts(clock, HOUR)

    def test_that_are_kept(self, clock: SkippingClock) -> None:
        limited = sleep.with_options(timeout_seconds=HOUR)
        assert flow(lambda: limited.map([1, HOUR - 1]).result())() == [1, HOUR - 1]

    def test_a_body_that_does_something_is_not_out_of_time(self, clock: SkippingClock) -> None:
        """Another run's delay is not skipped while a body is at work: its time limit would be over."""
        started, delayed = threading.Event(), threading.Event()

        @task(timeout_seconds=60)
        def busy() -> str:
            started.set()
            return "delayed" if delayed.wait(0.05) else "went on"

        @task(retries=1, retry_delay_seconds=HOUR)
        def other() -> None:
            if not started.is_set():
                started.wait()
                raise OSError
            delayed.set()

        @flow
        def main() -> str:
            other.submit()
            return busy.submit().result()

        assert main() == "went on"
        lasts(clock, HOUR)


class TestWaits:
    @pytest.mark.parametrize(
        "give_up",
        [
            lambda future: future.result(timeout=HOUR),
            lambda future: next(as_completed([future], timeout=HOUR)),
        ],
        ids=["result", "as_completed"],
    )
    def test_that_end_too_early(self, clock: SkippingClock, give_up: Callable[[Any], Any]) -> None:
        @flow
        def main() -> float:
            future = sleep.submit(2 * HOUR)
            with pytest.raises(TimeoutError):
                give_up(future)
            return clock.monotonic()

        assert main() == pytest.approx(HOUR, abs=30)
        lasts(clock, 2 * HOUR)

    def test_that_last_long_enough(self) -> None:
        assert flow(lambda: sleep.submit(HOUR).result(timeout=2 * HOUR))() == HOUR

    def test_for_one_after_the_other(self) -> None:
        @flow
        def main() -> list[float]:
            ended: list[float] = []
            with pytest.raises(TimeoutError, match=r"1 \(of 3\) futures unfinished"):
                for future in as_completed(sleep.map([3 * HOUR, HOUR, 2 * HOUR]), timeout=2.5 * HOUR):
                    ended.append(future.result())  # noqa: PERF401  # what has come counts, although an error follows
            return ended

        assert main() == [HOUR, 2 * HOUR]

    def test_for_some(self) -> None:
        @flow
        def main() -> int:
            return len(wait(sleep.map([HOUR, 3 * HOUR]), timeout=2 * HOUR).done)

        assert main() == 1

    def test_in_coroutines(self, clock: SkippingClock) -> None:
        @flow
        async def main() -> str:
            future = sleep.submit(3 * HOUR)
            try:
                async with asyncio.timeout(HOUR):
                    await future
            except TimeoutError:
                pass
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(sleep_async(2 * HOUR), HOUR)
            return f"{clock.monotonic() / HOUR:.0f}"

        assert asyncio.run(main()) == "2"
        lasts(clock, 3 * HOUR)


class TestLimits:
    def test_rates(self, clock: SkippingClock) -> None:
        set_limit("api", 1, per_second=1 / HOUR)

        @task
        def ask() -> None:
            rate_limit("api")

        flow(lambda: [ask.submit() for _ in range(4)])()
        lasts(clock, 3 * HOUR)

    def test_slots(self, clock: SkippingClock) -> None:
        @task
        def alone() -> None:
            with concurrency("db", limit=1):
                time.sleep(HOUR)

        flow(lambda: [alone.submit() for _ in range(3)])()
        lasts(clock, 3 * HOUR)


class TestOrder:
    def test_everything_happens_in_the_order_of_its_time(self, clock: SkippingClock) -> None:
        order: list[str] = []

        @task
        def note(name: str, hours: float) -> None:
            time.sleep(hours * HOUR)
            order.append(name)

        @task
        async def note_async(name: str, hours: float) -> None:
            await asyncio.sleep(hours * HOUR)
            order.append(name)

        @task(retries=1, retry_delay_seconds=2.5 * HOUR)
        def again() -> None:
            order.append("again")
            if order.count("again") == 1:
                raise OSError

        @flow
        def main() -> None:
            again.submit()
            for name, hours in (("d", 4), ("b", 2), ("c", 3), ("a", 1)):
                (note if name in "ac" else note_async).submit(name, hours)

        main()
        assert order == ["again", "a", "b", "again", "c", "d"]

    def test_the_record_tells_how_long_it_would_have_taken(self, penstock_runs: RecordedRuns) -> None:
        flow(lambda: sleep.map([HOUR, 2 * HOUR]).result(), name="main")()
        assert [round(run.seconds or 0, -2) for run in penstock_runs["sleep"]] == [HOUR, 2 * HOUR]


class TestByHand:
    def test_advance(self, clock: SkippingClock, penstock_runs: RecordedRuns) -> None:
        cached = task(cache_policy=INPUTS, cache_expiration=timedelta(days=1), name="cached")(lambda x: x)
        cached(1)
        clock.advance(24 * HOUR - 60)
        cached(1)
        clock.advance(60)
        cached(1)
        assert penstock_runs["cached"].states == ["Completed", "Cached", "Completed"]

    def test_time_passes_as_usual_while_nothing_waits(self, clock: SkippingClock) -> None:
        called = threading.Event()
        clock.call_later(0.02, called.set)
        assert called.wait(10)
        assert clock.monotonic() < 10

    def test_a_failing_timer_does_not_stop_the_others(
        self, clock: SkippingClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        called = threading.Event()
        clock.call_later(0.0, lambda: 1 / 0)
        clock.call_later(0.01, called.set)
        assert called.wait(10)
        assert "A timer callback failed" in caplog.text

    def test_a_manual_clock_in_use(self, clock: SkippingClock) -> None:
        manual = ManualClock()
        with manual as same:
            assert same is manual is clocks.get()
        assert clocks.get() is clock


class TestWhatIsLeftAlone:
    def test_sleeping_outside_of_runs(self, clock: SkippingClock) -> None:
        started = time.perf_counter()
        time.sleep(0.02)
        assert time.perf_counter() - started >= 0.02

    def test_threads_that_a_body_has_started(self) -> None:
        @task
        def work() -> float:
            started = time.perf_counter()
            with ThreadPoolExecutor(1) as pool:
                pool.submit(time.sleep, 0.02).result()
            return time.perf_counter() - started

        assert flow(lambda: work.submit().result())() >= 0.02

    @pytest.mark.parametrize(
        "work",
        [
            lambda: asyncio.to_thread(threading.Event().wait, 0.05),
            lambda: asyncio.wait_for(asyncio.to_thread(threading.Event().wait, 0.05), HOUR),
            lambda: asyncio.create_subprocess_exec("sleep", "0.05"),
            lambda: asyncio.wait([asyncio.get_running_loop().run_in_executor(None, threading.Event().wait, 0.05)]),
            lambda: _read_from_a_server(),
            lambda: _wait_for_a_protocol(),
            lambda: _wait_for_callbacks(),
        ],
        ids=["thread", "thread with a limit", "process", "executor", "socket", "protocol", "callbacks"],
    )
    def test_what_an_event_loop_does_besides(self, clock: SkippingClock, work: Callable[[], Any]) -> None:
        """None of it is interrupted by a time limit, and none of it lets another run's delay be skipped."""
        failing = failing_twice_async(retry_delay_seconds=HOUR)

        @flow
        async def main() -> float:
            future = failing.submit()
            result = await asyncio.wait_for(work(), 60)
            if isinstance(result, asyncio.subprocess.Process):
                await asyncio.wait_for(result.wait(), 60)
            before = clock.monotonic()
            await future
            return before

        assert asyncio.run(main()) < 60
        lasts(clock, 2 * HOUR)

    def test_what_came_before_it_and_what_comes_after(self, clock: SkippingClock) -> None:
        """An event loop may live longer than the clock, and then another clock comes."""

        async def both() -> None:
            for _ in range(2):
                with SkippingClock() as inner:
                    await flow(sleep_async.fn)(HOUR)
                    lasts(inner, HOUR)
            started = time.monotonic()
            await asyncio.sleep(0.02)
            assert 0.02 <= time.monotonic() - started < 10

        asyncio.run(both())


async def _read_from_a_server() -> bytes:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read(100))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"x")
        writer.write_eof()
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
    return answer


async def _wait_for_a_protocol() -> None:
    """What the coroutine waits for is an event among coroutines; behind that is a pipe, which a thread writes to."""
    arrived = asyncio.Event()

    class Protocol(asyncio.Protocol):
        def data_received(self, data: bytes) -> None:
            arrived.set()

    reading, writing = os.pipe()
    with open(reading, "rb", 0) as file:
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(Protocol, file)
        timer = threading.Timer(0.05, os.write, (writing, b"x"))
        timer.start()
        await arrived.wait()
        timer.join()
        os.close(writing)
        transport.close()


async def _wait_for_callbacks() -> None:
    """No task does anything, but the loop does."""
    loop, arrived = asyncio.get_running_loop(), asyncio.Event()

    def hop(left: int) -> None:
        if left:
            loop.call_soon(hop, left - 1)
        else:
            arrived.set()

    hop(20_000)
    await arrived.wait()


def test_it_is_put_away_with_the_fixture(clock: SkippingClock) -> None:
    sleeping = time.sleep
    with SkippingClock() as other:
        assert clocks.get() is other
    assert time.sleep is sleeping
    assert clocks.get() is clock
