"""A clock that a test moves by hand, so that delays and deadlines take no real time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from heapq import heappop, heappush
from itertools import count
from typing import Self

from penstock._engine import clock as clocks
from penstock.futures import Gate

ROUNDING = 1e-9  # seconds: three steps of 0.1 are to reach a call that is due after 0.3


class ManualClock:
    """Time that stands still until `advance` is called.

    In a `with` block the whole process goes by it, but for the `timeout` of waits. All methods are thread-safe.

    Example:
        >>> clock = ManualClock()
        >>> timer = clock.call_later(60, lambda: print("a minute later"))
        >>> clock.advance(59)
        >>> clock.advance(1)
        a minute later
    """

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        """Start at the wall-clock time `now`, in seconds since the epoch; `monotonic` starts at 0."""
        self._epoch = now
        self._elapsed = 0.0
        self._changed = threading.Condition()
        self._advancing = threading.RLock()  # reentrant: a callback may advance the clock too
        self._heap: list[tuple[float, int, _ManualTimer]] = []
        self._numbers = count()
        self._in_use = ExitStack()

    def __enter__(self) -> Self:
        self._in_use.enter_context(clocks.use(self))
        return self

    def __exit__(self, *exception: object) -> None:
        self._in_use.close()

    def now(self) -> float:
        """Return the wall-clock time in seconds since the epoch."""
        return self._epoch + self.monotonic()

    def monotonic(self) -> float:
        """Return how many seconds this clock has been advanced by."""
        return self._elapsed

    def call_later(self, seconds: float, callback: Callable[[], object]) -> clocks.Timer:
        """Have `advance` call `callback` when it gets to that moment; never called from here."""
        timer = _ManualTimer(self, callback)
        with self._changed:
            heappush(self._heap, (self.monotonic() + seconds, next(self._numbers), timer))
            self._changed.notify_all()
        return timer

    def wait(self, gate: Gate, seconds: float) -> bool:
        """Let this thread wait until `gate` is opened; False after that many seconds of real time."""
        return gate.wait(seconds)

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass: make all calls that fall due, in order, in this thread.

        During a call the clock shows the moment that the call was asked for. Calls that callbacks ask for are
        made too if they fall due in that time. What a callback raises ends the advance and is raised here.
        Another thread that advances waits for its turn. A negative number is a `ValueError`.
        """
        check_forward(seconds)
        with self._advancing:
            until = self._elapsed + seconds
            while (callback := self._next_due(until)) is not None:
                callback()
            self._elapsed = max(self._elapsed, until)

    def timers(self) -> int:
        """Return how many calls are waiting for their moment."""
        with self._changed:
            return self._waiting()

    def wait_for_timers(self, number: int = 1, timeout: float = 5.0) -> None:
        """Block until at least `number` calls are waiting, for `timeout` real seconds at most.

        For a test whose other thread is about to go to sleep: advance the clock once it has.
        `TimeoutError` if it does not.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._waiting() >= number, timeout):
                raise TimeoutError(
                    f"{number} timer(s) expected, {self._waiting()} waiting after {timeout:g} s of real time"
                )

    def _waiting(self) -> int:
        return sum(timer.callback is not None for _, _, timer in self._heap)

    def _next_due(self, until: float) -> Callable[[], object] | None:
        """Take out the first call that is due by `until` and move the clock to its moment."""
        with self._changed:
            while self._heap and self._heap[0][0] <= until + ROUNDING:
                moment, _, timer = heappop(self._heap)
                callback = timer.take()
                if callback is not None:
                    self._elapsed = max(self._elapsed, min(moment, until))
                    return callback
        return None

    def _cancel(self, timer: _ManualTimer) -> bool:
        with self._changed:
            return timer.take() is not None


def check_forward(seconds: float) -> None:
    if not seconds >= 0:
        raise ValueError(f"Time can only go forward: seconds must not be negative, got {seconds!r}")


class _ManualTimer:
    __slots__ = ("callback", "clock")

    def __init__(self, clock: ManualClock, callback: Callable[[], object]) -> None:
        self.clock = clock
        self.callback: Callable[[], object] | None = callback

    def cancel(self) -> bool:
        return self.clock._cancel(self)

    def take(self) -> Callable[[], object] | None:
        """Give the callback away; None if it has been. The caller holds the clock's lock."""
        callback, self.callback = self.callback, None
        return callback
