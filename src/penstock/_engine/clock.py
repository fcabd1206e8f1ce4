"""Time: reading it, and having something called later.

Everything in the package that waits for a moment (retry delays, deadlines, rate limits) asks the current
clock, `get()`, so that a test can put a clock of its own in place with `use()` and let an hour pass at once.

The system clock keeps its timers in one heap that one thread serves. Most timers are deadlines that are
cancelled because the work ended in time, so cancelling must be cheap: the entry stays in the heap, marked,
and marked entries are swept out once they are the majority.

Hazard: a signal handler or a finalizer may set or cancel a timer while its own thread is in the middle of
doing the same. The lock is therefore reentrant, and every change of the heap is either one atomic call into
C or, where it is a loop, written so that a change from inside the loop survives.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from heapq import heappop, heappush
from itertools import count
from math import inf
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Protocol
from weakref import WeakSet

if TYPE_CHECKING:
    from penstock.futures import Gate

logger = logging.getLogger("penstock.clock")

LONGEST_SLEEP = 3600.0  # waits of the operating system are bounded (49 days on Windows): wake up and look again
FEWEST_TO_SWEEP = 64


class Timer(Protocol):
    """A call that is due at some moment."""

    def cancel(self) -> bool:
        """Make sure that the call is not begun any more; False if it was begun, or had been cancelled.

        Does not wait for a call that is being made. Thread-safe.
        """
        ...


class Clock(Protocol):
    """What the package wants from time."""

    def now(self) -> float:
        """Return the wall-clock time in seconds since the epoch: for people and for the record."""
        ...

    def monotonic(self) -> float:
        """Return seconds since some fixed moment; never goes back: for measuring and for deadlines."""
        ...

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Timer:
        """Have `callback` called once, `seconds` from now; at once if that is not positive. Thread-safe.

        The call comes from a thread of the clock's choice, which serves all timers one after the other: the
        callback must be short and must not block. What it raises is logged. Calls come in the order of their
        moments, and in the order they were asked for where moments are equal.
        """
        ...

    def wait(self, gate: Gate, seconds: float) -> bool:
        """Let this thread wait until `gate` is opened; False after that many seconds: for the `timeout` of a wait."""
        ...


class SystemClock:
    """The machine's time. All methods are thread-safe, and safe in signal handlers and finalizers.

    The thread is started by the first timer and is a daemon: timers keep no interpreter alive. A forked child
    starts without timers.
    """

    def __init__(self) -> None:
        _clocks.add(self)
        self._forget()

    def _forget(self) -> None:
        self._lock = threading.RLock()
        self._heap: list[tuple[float, int, _HeapTimer]] = []
        self._numbers = count()
        self._cancelled = 0  # marked entries in the heap; may be too high, which only means an early sweep
        self._thread: threading.Thread | None = None
        self._bell: SimpleQueue[None] = SimpleQueue()
        self._alarm = -inf  # when the thread will look at the heap without being called

    now = staticmethod(time.time)  # called several times for every task

    def monotonic(self) -> float:
        return time.monotonic()

    def call_later(self, seconds: float, callback: Callable[[], object]) -> Timer:
        timer = _HeapTimer(self, callback)
        deadline = time.monotonic() + seconds
        if deadline != deadline:
            raise ValueError("seconds must be a number, got nan")  # it would break the order of the heap
        with self._lock:
            heappush(self._heap, (deadline, next(self._numbers), timer))
            if self._thread is None:
                self._start()
            elif deadline < self._alarm:
                self._alarm = deadline
                self._bell.put(None)
        return timer

    def wait(self, gate: Gate, seconds: float) -> bool:
        return gate.wait(seconds)

    def stop(self) -> None:
        """Forget all timers and end the thread, waiting for the call it is making, if any.

        The clock can be used again afterwards. May be called by a timer's callback, which then runs on.
        """
        with self._lock:
            thread, self._thread = self._thread, None
            self._heap.clear()
            self._cancelled = 0
            self._bell.put(None)
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _start(self) -> None:
        # A bell of its own: a predecessor on its way out must not hear the calls for this thread.
        self._bell = SimpleQueue()
        self._alarm = -inf
        self._thread = threading.Thread(target=self._serve, args=(self._bell,), name="penstock-timers", daemon=True)
        try:
            self._thread.start()
        except BaseException:
            self._thread = None
            raise

    def _serve(self, bell: SimpleQueue[None]) -> None:
        """Make the calls that are due, sleep until the next one is; return when another thread took over."""
        while True:
            with self._lock:
                if self._bell is not bell or self._thread is None:
                    return
                callback, pause = self._next_due()
            if callback is not None:
                _call(callback)
                continue
            try:
                bell.get(timeout=pause)
            except Empty:
                pass

    def _next_due(self) -> tuple[Callable[[], object] | None, float]:
        """Take out the call that is due now; if there is none, settle how long to sleep."""
        self._alarm = -inf
        now = time.monotonic()
        while self._heap and self._heap[0][0] <= now:
            callback = heappop(self._heap)[2].take()
            if callback is not None:
                return callback, 0.0
            self._cancelled -= 1
        wake_at = min(self._heap[0][0], now + LONGEST_SLEEP) if self._heap else now + LONGEST_SLEEP
        self._alarm = wake_at
        return None, wake_at - now

    def _cancel(self, timer: _HeapTimer) -> bool:
        with self._lock:
            if timer.take() is None:
                return False
            self._cancelled += 1
            if self._cancelled > FEWEST_TO_SWEEP and self._cancelled * 2 > len(self._heap):
                self._sweep()
            return True

    def _sweep(self) -> None:
        # No comprehension over the heap: it would lose a timer that a signal handler adds meanwhile.
        old, self._heap = self._heap, []
        self._cancelled = 0
        for entry in old:
            if entry[2].callback is not None:
                heappush(self._heap, entry)


class _HeapTimer:
    """One entry of the heap. Its callback is gone once it has been called or cancelled."""

    __slots__ = ("callback", "clock")

    def __init__(self, clock: SystemClock, callback: Callable[[], object]) -> None:
        self.clock = clock
        self.callback: Callable[[], object] | None = callback

    def cancel(self) -> bool:
        return self.clock._cancel(self)

    def take(self) -> Callable[[], object] | None:
        """Give the callback away; None if it has been. The caller holds the clock's lock."""
        callback, self.callback = self.callback, None
        return callback


def _call(callback: Callable[[], object]) -> None:
    try:
        callback()
    except BaseException:  # SystemExit included: one callback must not take everybody's timers with it
        logger.exception("The timer callback %r failed", callback)


_clocks: WeakSet[SystemClock] = WeakSet()


def _forget_timers() -> None:
    """Start afresh in a forked child: the thread did not come along, and the lock may have been held."""
    for clock in _clocks:
        clock._forget()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_forget_timers)

_current: Clock = SystemClock()


def get() -> Clock:
    """Return the clock that this process goes by."""
    return _current


def stop_timers() -> None:
    """Forget all timers of the current clock and end its thread, if it has one."""
    stop = getattr(_current, "stop", None)
    if stop is not None:
        stop()


@contextmanager
def use(clock: Clock) -> Iterator[None]:
    """Let the whole process, all threads of it, go by `clock` inside the `with` block. For tests.

    Timers that were set before stay with the clock they were set on.
    """
    global _current
    before, _current = _current, clock
    try:
        yield
    finally:
        _current = before
