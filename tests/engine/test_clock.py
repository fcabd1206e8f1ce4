"""The system clock's timers, and the clock that tests move by hand."""

from __future__ import annotations

import contextvars
import gc
import logging
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock._engine import clock as clocks
from penstock._engine.clock import Clock, SystemClock
from penstock.testing.clock import ManualClock


@pytest.fixture
def system() -> Iterator[SystemClock]:
    clock = SystemClock()
    yield clock
    clock.stop()


@pytest.fixture
def manual() -> ManualClock:
    return ManualClock()


def timer_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "penstock-timers"]


class TestSystemClock:
    def test_reads_the_machine(self, system: SystemClock) -> None:
        assert abs(system.now() - time.time()) < 1
        assert abs(system.monotonic() - time.monotonic()) < 1

    def test_calls_once_and_not_early(self, system: SystemClock) -> None:
        called = threading.Event()
        start = time.monotonic()
        timer = system.call_later(0.02, called.set)
        assert called.wait(5)
        assert time.monotonic() - start >= 0.02
        assert timer.cancel() is False

    def test_one_daemon_thread_serves_all_and_starts_with_the_first_timer(self, system: SystemClock) -> None:
        before = set(timer_threads())
        seen: list[threading.Thread] = []
        done = threading.Event()
        assert set(timer_threads()) == before
        system.call_later(0, lambda: seen.append(threading.current_thread()))
        system.call_later(0.001, lambda: (seen.append(threading.current_thread()), done.set()))
        assert done.wait(5)
        (own,) = set(timer_threads()) - before
        assert seen == [own, own]
        assert own.daemon

    def test_order_is_by_moment_then_by_request(self, system: SystemClock) -> None:
        calls: list[str] = []
        go, done = threading.Event(), threading.Event()
        system.call_later(0, lambda: go.wait(5))  # everything is due when the thread looks again
        system.call_later(0.002, lambda: calls.append("late"))
        for name in ("first", "second", "third"):
            system.call_later(-1, lambda name=name: calls.append(name))
        system.call_later(0.003, done.set)
        go.set()
        assert done.wait(5)
        assert calls == ["first", "second", "third", "late"]

    def test_equal_moments_keep_the_order_of_request(
        self, system: SystemClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls: list[int] = []
        go, done = threading.Event(), threading.Event()
        monkeypatch.setattr(clocks, "time", SimpleNamespace(monotonic=lambda: 5.0))
        system.call_later(0, lambda: go.wait(5))
        for number in range(20):
            system.call_later(0, lambda number=number: calls.append(number))
        system.call_later(0, done.set)
        go.set()
        assert done.wait(5)
        assert calls == list(range(20))

    def test_an_earlier_timer_wakes_the_thread(self, system: SystemClock) -> None:
        called = threading.Event()
        system.call_later(3000, lambda: None)
        wait_until(lambda: system._alarm > 0)  # the thread is asleep
        system.call_later(0.001, called.set)
        assert called.wait(5)

    def test_cancel_is_true_once(self, system: SystemClock) -> None:
        calls: list[int] = []
        done = threading.Event()
        timer = system.call_later(0.001, lambda: calls.append(1))
        assert [timer.cancel(), timer.cancel()] == [True, False]
        system.call_later(0.002, done.set)
        assert done.wait(5)
        assert calls == []

    def test_cancelled_timers_do_not_pile_up(self, system: SystemClock) -> None:
        keep = [system.call_later(3000, lambda: None) for _ in range(10)]
        longest = 0
        for _ in range(20_000):
            system.call_later(60, lambda: None).cancel()
            longest = max(longest, len(system._heap))
        assert longest <= 2 * clocks.FEWEST_TO_SWEEP
        assert all(timer.cancel() for timer in keep)

    def test_sweeping_keeps_the_living(self, system: SystemClock) -> None:
        go, done = threading.Event(), threading.Event()
        calls: list[int] = []
        system.call_later(0, lambda: go.wait(5))
        timers = [system.call_later(0.001 + i / 1e6, lambda i=i: calls.append(i)) for i in range(500)]
        for i, timer in enumerate(timers):
            if i % 7:
                timer.cancel()
        assert len(system._heap) < 300
        system.call_later(0.01, done.set)
        go.set()
        assert done.wait(5)
        assert calls == list(range(0, 500, 7))

    @pytest.mark.parametrize("cancelled", [True, False])
    def test_what_a_callback_holds_is_let_go(self, system: SystemClock, cancelled: bool) -> None:
        class Thing:
            def touch(self) -> None: ...

        thing = Thing()
        ref = weakref.ref(thing)
        timer = system.call_later(3000 if cancelled else 0, thing.touch)
        del thing
        if cancelled:
            timer.cancel()
        wait_until(lambda: ref() is None)

    @pytest.mark.parametrize("error", [ValueError("broken"), SystemExit(3)])
    def test_what_a_callback_raises_is_logged(
        self, system: SystemClock, caplog: pytest.LogCaptureFixture, error: BaseException
    ) -> None:
        def fail() -> None:
            raise error

        done = threading.Event()
        system.call_later(0, fail)
        system.call_later(0.001, done.set)
        assert done.wait(5)
        (record,) = caplog.records
        assert record.levelno == logging.ERROR
        assert record.exc_info is not None and record.exc_info[1] is error

    def test_callbacks_may_use_the_clock(self, system: SystemClock) -> None:
        done = threading.Event()
        other = system.call_later(3000, lambda: None)
        system.call_later(0, lambda: other.cancel() and system.call_later(0, done.set))
        assert done.wait(5)

    def test_callbacks_do_not_see_the_context_of_whoever_set_them(self, system: SystemClock) -> None:
        variable = contextvars.ContextVar("variable", default="outside")
        seen: list[str] = []
        done = threading.Event()
        variable.set("inside")
        system.call_later(0, lambda: (seen.append(variable.get()), done.set()))
        assert done.wait(5)
        assert seen == ["outside"]

    def test_endless_and_meaningless_delays(self, system: SystemClock) -> None:
        assert system.call_later(float("inf"), lambda: None).cancel() is True
        with pytest.raises(ValueError, match="nan"):
            system.call_later(float("nan"), lambda: None)

    def test_stop_forgets_timers_and_ends_the_thread(self, system: SystemClock) -> None:
        before = set(timer_threads())
        calls: list[int] = []
        system.call_later(0.005, lambda: calls.append(1))
        system.stop()
        system.stop()
        assert set(timer_threads()) == before
        again = threading.Event()
        system.call_later(0.01, again.set)
        assert again.wait(5)
        assert calls == []

    def test_stop_from_a_callback(self, system: SystemClock) -> None:
        before = set(timer_threads())
        done = threading.Event()
        system.call_later(0, lambda: (system.stop(), done.set()))
        assert done.wait(5)
        wait_until(lambda: set(timer_threads()) == before)

    def test_a_signal_handler_may_set_timers_while_its_thread_sweeps(self, system: SystemClock) -> None:
        # Stand-in for the handler: code that runs when the sweep looks at an entry.
        added: list[threading.Event] = []

        class Meddler(clocks._HeapTimer):
            __slots__ = ()

            @property
            def callback(self) -> Callable[[], object]:
                if not added:
                    added.append(threading.Event())
                    system.call_later(0, added[0].set)
                return lambda: None

        system.call_later(3000, lambda: None)
        meddler = Meddler.__new__(Meddler)
        with system._lock:
            system._heap.append((time.monotonic() + 4000, 10**9, meddler))
            system._sweep()
        assert added[0].wait(5)
        assert len(system._heap) >= 2

    def test_many_threads(self, system: SystemClock) -> None:
        calls: list[tuple[int, int]] = []
        start = threading.Barrier(8)

        def work(worker: int) -> None:
            start.wait(5)
            for number in range(200):
                timer = system.call_later(0.001, lambda number=number: calls.append((worker, number)))
                if number % 2:
                    kept = timer.cancel()
                    assert kept or (worker, number) in calls

        threads = [threading.Thread(target=work, args=(worker,)) for worker in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wait_until(lambda: len({call for call in calls if call[1] % 2 == 0}) == 800)
        assert len(set(calls)) == len(calls)


FORK = """
import os, threading
from penstock._engine.clock import SystemClock
clock = SystemClock()
fired = threading.Event()
clock.call_later(0.2, fired.set)
clock._lock.acquire()  # as if another thread had held it at that moment
child = os.fork()
if child == 0:
    inherited = len(clock._heap)
    own = threading.Event()
    worker = threading.Thread(target=lambda: clock.call_later(0, own.set))
    worker.start()
    worker.join(5)
    os._exit(0 if inherited == 0 and own.wait(5) and not fired.wait(0.25) else 1)
clock._lock.release()
_, status = os.waitpid(child, 0)
assert fired.wait(5)
raise SystemExit(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_starts_without_timers() -> None:
    subprocess.run([sys.executable, "-W", "ignore", "-c", FORK], check=True, timeout=30)


class TestManualClock:
    def test_time_stands_still(self, manual: ManualClock) -> None:
        assert (manual.now(), manual.monotonic()) == (1_700_000_000.0, 0.0)
        manual.advance(2.5)
        assert (manual.now(), manual.monotonic()) == (1_700_000_002.5, 2.5)

    def test_wall_clock_can_be_chosen(self) -> None:
        assert ManualClock(now=5.0).now() == 5.0

    def test_calls_are_made_in_order_in_the_thread_that_advances(self, manual: ManualClock) -> None:
        calls: list[tuple[str, float, threading.Thread]] = []

        def note(name: str) -> Callable[[], None]:
            return lambda: calls.append((name, manual.monotonic(), threading.current_thread()))

        for name, delay in (("c", 2), ("a", 1), ("b", 1), ("never", 3), ("now", -1)):
            manual.call_later(delay, note(name))
        assert calls == []
        manual.advance(2)
        here = threading.current_thread()
        assert calls == [("now", 0.0, here), ("a", 1.0, here), ("b", 1.0, here), ("c", 2.0, here)]
        assert manual.timers() == 1

    def test_calls_asked_for_by_calls(self, manual: ManualClock) -> None:
        moments: list[float] = []

        def tick() -> None:
            moments.append(manual.monotonic())
            manual.call_later(1, tick)

        manual.call_later(1, tick)
        manual.advance(3.5)
        assert moments == [1.0, 2.0, 3.0]
        assert manual.monotonic() == 3.5

    def test_a_call_may_advance_the_clock(self, manual: ManualClock) -> None:
        calls: list[str] = []
        manual.call_later(1, lambda: (manual.advance(5), calls.append("outer")))
        manual.call_later(4, lambda: calls.append("inner"))
        manual.advance(2)
        assert calls == ["inner", "outer"]
        assert manual.monotonic() == 6.0

    def test_rounding_errors_do_not_delay_a_call(self, manual: ManualClock) -> None:
        moments: list[float] = []
        manual.call_later(0.1 + 0.2, lambda: moments.append(manual.monotonic()))
        manual.advance(0.3)
        assert moments == [0.3]

    def test_cancel(self, manual: ManualClock) -> None:
        timer = manual.call_later(1, lambda: pytest.fail("was cancelled"))
        assert [timer.cancel(), timer.cancel()] == [True, False]
        assert manual.timers() == 0
        manual.advance(2)
        fired = manual.call_later(0, lambda: None)
        manual.advance(0)
        assert fired.cancel() is False

    def test_what_a_call_raises_comes_out_of_advance(self, manual: ManualClock) -> None:
        manual.call_later(1, lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            manual.advance(5)
        assert manual.monotonic() == 1.0

    @pytest.mark.parametrize("seconds", [-1, float("nan")])
    def test_time_goes_forward(self, manual: ManualClock, seconds: float) -> None:
        with pytest.raises(ValueError, match="forward"):
            manual.advance(seconds)

    def test_wait_for_timers(self, manual: ManualClock) -> None:
        called = threading.Event()

        def work() -> None:
            wait_until(lambda: bool(manual._changed._waiters))  # the other thread waits already
            manual.call_later(60, called.set)

        thread = threading.Thread(target=work)
        thread.start()
        manual.wait_for_timers()
        manual.advance(60)
        thread.join()
        assert called.is_set()
        with pytest.raises(TimeoutError, match=r"2 timer\(s\) expected, 0 waiting"):
            manual.wait_for_timers(2, timeout=0.001)

    def test_a_thread_that_advances_waits_for_its_turn(self, manual: ManualClock) -> None:
        calls: list[str] = []
        other = threading.Thread(target=lambda: manual.advance(1))

        def first() -> None:
            other.start()
            other.join(0.02)
            calls.append("first")

        manual.call_later(1, first)
        manual.call_later(2, lambda: calls.append("second"))
        manual.advance(1)
        other.join()
        assert calls == ["first", "second"]
        assert manual.monotonic() == 2.0

    def test_threads_that_advance_lose_no_call(self, manual: ManualClock) -> None:
        calls: list[int] = []
        for number in range(400):
            manual.call_later(number, lambda number=number: calls.append(number))
        threads = [threading.Thread(target=lambda: [manual.advance(1) for _ in range(100)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert calls == list(range(400))
        assert manual.monotonic() == 400.0

    @given(st.lists(st.tuples(st.integers(0, 20), st.booleans())), st.lists(st.integers(0, 7)))
    def test_against_a_sorted_list(self, timers: list[tuple[int, bool]], steps: list[int]) -> None:
        manual = ManualClock()
        calls: list[int] = []
        for number, (delay, cancelled) in enumerate(timers):
            timer = manual.call_later(delay, lambda number=number: calls.append(number))
            if cancelled:
                timer.cancel()
        for step in (0, *steps):
            manual.advance(step)
        due = [(d, n) for n, (d, cancelled) in enumerate(timers) if not cancelled and d <= sum(steps)]
        assert calls == [number for _, number in sorted(due)]


class TestCurrentClock:
    def test_the_system_clock_is_the_default(self) -> None:
        assert isinstance(clocks.get(), SystemClock)

    def test_use_is_process_wide_and_ends_with_the_block(self, manual: ManualClock) -> None:
        seen: list[Clock] = []
        default = clocks.get()
        with clocks.use(manual):
            thread = threading.Thread(target=lambda: seen.append(clocks.get()))
            thread.start()
            thread.join()
        assert seen == [manual]
        assert clocks.get() is default

    def test_use_ends_when_the_block_raises(self, manual: ManualClock) -> None:
        default = clocks.get()
        with pytest.raises(KeyError), clocks.use(manual):
            raise KeyError
        assert clocks.get() is default


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        gc.collect()
        assert time.monotonic() < deadline
        time.sleep(0.001)
