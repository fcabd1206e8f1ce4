"""A clock that skips the time in which everything waits."""

from __future__ import annotations

import logging
import sys
import threading
import time
from _thread import get_ident
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Self
from weakref import WeakSet

from penstock import futures
from penstock._engine import clock as clocks
from penstock._engine import waiting
from penstock._engine.attempt import Call
from penstock._engine.context import current_run
from penstock.exceptions import CancelSignal
from penstock.futures import Gate
from penstock.testing import looking
from penstock.testing.clock import ManualClock, check_forward

_TURN = 0.001  # seconds between looks
_LOOKS = 3  # that have to agree: a thread may be on its way from one wait to the next

_sleep = time.sleep
_logger = logging.getLogger("penstock.clock")


class SkippingClock(ManualClock):
    """A clock on which waiting takes no time: whenever all runs wait, it goes on to the next moment that one waits for.

    In a `with` block the whole process goes by it. Retry delays, time limits, rates, `timeout=` of waits, and, inside
    of tasks and flows, `time.sleep` and everything that asyncio does with time then pass at once, in the right
    order; the records tell how long they would have taken. While anything goes on in a body, time passes as usual. It
    does, too, for what happens in other processes, and for a `sleep` that was imported by name.

    `advance` lets time pass that nobody waits for: a day, until something in the cache has expired.

    >>> from penstock import flow, task
    >>> outcomes = iter([OSError("not yet"), OSError("not yet"), "done"])
    >>> @task(retries=2, retry_delay_seconds=3600)
    ... def fetch():
    ...     outcome = next(outcomes)
    ...     if isinstance(outcome, OSError):
    ...         raise outcome
    ...     return outcome
    >>> with SkippingClock() as clock:
    ...     fetch()
    'done'
    >>> clock.monotonic() > 7200
    True
    """

    def __init__(self) -> None:
        """Start at the present time."""
        super().__init__(time.time())
        self._began = time.monotonic()
        self._skipped = 0.0
        self._loops: WeakSet[Any] = WeakSet()
        self._found: tuple[looking.Finding, set[Any]] | None = None  # at the latest look
        self._agreed = 0  # looks before it that found the same
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        super().__enter__()
        self._in_use.callback(self._stop)
        self._replace(time, "sleep", _sleep_by_the_clock)
        self._replace(futures, "monotonic", self.monotonic)
        self._thread = threading.Thread(target=self._serve, name="penstock-skipping-clock", daemon=True)
        self._thread.start()
        return self

    def _replace(self, module: Any, name: str, value: Any) -> None:
        self._in_use.callback(setattr, module, name, getattr(module, name))
        setattr(module, name, value)

    def _stop(self) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def monotonic(self) -> float:
        """Return how many seconds have passed since this clock was made, whether skipped or not."""
        return time.monotonic() - self._began + self._skipped

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass: skip to each moment at which a call is due, and make that, in this thread."""
        check_forward(seconds)
        with self._advancing:
            until = self.monotonic() + seconds
            while (moment := self._next_moment()) is not None and moment <= until:
                self._skip_to(moment)
                self._make_due_calls()
            self._skip_to(until)

    def wait(self, gate: Gate, seconds: float) -> bool:
        """Let this thread wait until `gate` is opened, or until the clock has got so far: False then."""
        over: list[bool] = []

        def end() -> None:
            over.append(True)
            gate.open()

        timer = self.call_later(seconds, end)
        try:
            gate.wait()
        finally:
            timer.cancel()
        return not over

    def _skip_to(self, moment: float) -> None:
        # One assignment, by which event loops go, too: nobody must see that time has passed for some only.
        self._skipped += max(0.0, moment - self.monotonic())
        for loop in self._loops:
            with suppress(RuntimeError):  # it has been closed
                loop.call_soon_threadsafe(_look_at_the_time)

    def _make_due_calls(self) -> None:
        while (callback := self._next_due(self.monotonic())) is not None:
            callback()

    def _serve(self) -> None:
        while not self._over.wait(_TURN):
            try:
                with self._advancing:
                    self._take_turn()
            except BaseException:  # of a call: nobody else makes the others
                _logger.exception("A timer callback failed")

    def _take_turn(self) -> None:
        self._make_due_calls()
        found = looking.look() if clocks.get() is self else None  # else what waits goes by another clock
        self._agreed = self._agreed + 1 if found is not None and found == self._found else 0
        self._found = found
        if found is not None and self._agreed >= _LOOKS - 1:
            self._agreed = 0
            self._skip(found[1])

    def _skip(self, loops: set[Any]) -> None:
        for loop in loops:
            if loop not in self._loops:
                self._loops.add(loop)
                loop.time = _time_by(self, loop.time() - self.monotonic())
        here = self._next_moment()
        there = [moment - loop.time() for loop in loops if (moment := looking.next_call(loop)) is not None]
        moments = [self.monotonic() + pause for pause in there] + ([] if here is None else [here])
        if moments:
            self._skip_to(min(moments))
            self._make_due_calls()

    def _next_moment(self) -> float | None:
        """When the next call is due."""
        with self._changed:
            return min((moment for moment, _, timer in self._heap if timer.callback is not None), default=None)

    def sleep(self, call: Call, seconds: float) -> None:
        """Let the thread of a body sleep, which keeps its slot: time can be skipped meanwhile, and the body stopped."""
        gate = Gate()
        timer = self.call_later(seconds, gate.open)
        with call.run.lock:
            if call.stopping:
                raise CancelSignal
            call.gate = gate
        try:
            gate.wait()
        finally:
            call.gate = None
            timer.cancel()
        waiting.stop_if_asked(call)


def _time_by(clock: SkippingClock, ahead: float) -> Callable[[], float]:
    """The time of an event loop. A loop that outlives the clock keeps it: what is scheduled there goes by it."""
    return lambda: clock.monotonic() + ahead


def _look_at_the_time() -> None:
    """Nothing to do for an event loop but to see what is due."""


def _sleep_by_the_clock(seconds: float) -> None:
    """In the place of `time.sleep`: for bodies of this process, and for nobody else."""
    clock, run = clocks.get(), current_run.get()
    call = None if run is None else run.call
    ours = sys._getframe(1).f_globals.get("__name__", "").startswith("penstock.")
    if not isinstance(clock, SkippingClock) or call is None or call.thread != get_ident() or ours or not seconds > 0:
        _sleep(seconds)
    else:
        clock.sleep(call, seconds)
