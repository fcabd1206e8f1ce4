"""Ctrl-C and SIGTERM: the outermost run on the main thread ends in order before the program does.

The first signal raises an exception in the flow's body, at a place where that is safe (see `interrupt`): at once,
if the body is there; else when it next calls into the engine, or when we look again. The run then ends like any
run whose body raised, asking everything it started to stop. The second signal ends the process at once, unless
that is a notebook's kernel.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from penstock._core import notebook
from penstock._core.machine import Event
from penstock._engine import clock, interrupt
from penstock.exceptions import TerminationSignal
from penstock.futures import Gate

if TYPE_CHECKING:
    from penstock._core.outcome import Outcome
    from penstock._engine.run import Run

_LOOK_AGAIN = 0.005  # seconds

interrupt.mark_interruptible(Gate.wait)
_guard: Guard | None = None
last_act: Callable[[], object] = int
"""Called right before the second signal ends the process, at any point of the program: it must take no lock."""


class Guard:
    """Handles signals for one root run that executes on the main thread."""

    def __init__(self, run: Run) -> None:
        self.received: signal.Signals | None = None
        self._run = run
        self._previous: dict[signal.Signals, Any] = {}
        # A synchronous run in a loop's thread, as in a notebook's cell, blocks the loop: its task hears of nothing.
        self._task: Any = _current_asyncio_task() if run.plan.is_async else None
        self._delivered = False  # the body has been told
        self.swallowed = False  # and has returned all the same
        self._repeats = 0  # signals on their way that are ours: looking again
        self._repeating = threading.Lock()
        self._over = False

    def install(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) not in (
                None,
                signal.SIG_IGN,
            ):  # None: not Python's, so not ours to restore
                self._previous[number] = signal.signal(number, self._on_signal)
        interrupt.arm_alarm()

    def restore(self) -> None:
        with self._repeating:
            self._over = True
        interrupt.disarm_alarm()
        for number, handler in self._previous.items():
            if signal.getsignal(number) == self._on_signal:
                signal.signal(number, handler)

    def pass_on(self) -> None:
        """After the run has ended: the program's own handler gets the signal, once."""
        if self.received is signal.SIGTERM:
            signal.raise_signal(signal.SIGTERM)
        elif self.received is signal.SIGINT and self._task is None:
            handler = self._previous[signal.SIGINT]
            unheard = not self._delivered or self.swallowed
            if callable(handler) and (handler is not signal.default_int_handler or unheard):
                handler(signal.SIGINT, None)  # the default one raises KeyboardInterrupt, which the body has not seen

    def struck(self, run: Run, event: Event) -> bool:
        """Whether the body ended because of the signal: it was told, or what it waited for was cancelled."""
        if self._run is not run or self.received is None or event is Event.CRASHED:
            return False
        return self._delivered or (event is not Event.RETURNED and self._task is None)

    def deliver(self) -> None:
        """Raise what the signal asks for, unless that has been done. Where this is called, raising is safe."""
        if self.received is not None and not self._delivered and self._task is None:
            self._delivered = True
            raise _exception_for(self.received)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._repeats:
            self._repeats -= 1
        elif self.received is not None and notebook.shell() is None:
            last_act()
            os._exit(128 + number)
        elif self.received is not None:
            return  # a kernel is to live on, however often somebody presses the button
        else:
            self.received = signal.Signals(number)
            self._run.engine.refuse_new_runs()
            if self._task is None:
                # Not here: the signal may have come while this thread holds a lock.
                clock.get().call_later(0, self._run.engine.cancel_all_below)
        if self._task is not None:
            self._cancel_task(number, frame)
        elif interrupt.is_safe(frame, waits_too=True):
            self.deliver()
        elif not self._delivered:
            clock.get().call_later(_LOOK_AGAIN, self._repeat)

    def _repeat(self) -> None:
        assert self.received is not None and interrupt.MAIN is not None
        with self._repeating:  # after `restore` it would be a signal of its own
            if not self._over:
                self._repeats += 1
                signal.pthread_kill(interrupt.MAIN, self.received)

    def _cancel_task(self, number: int, frame: FrameType | None) -> None:
        """Nothing may be raised inside an event loop: cancel the task that the run is part of."""
        handler = self._previous[signal.Signals(number)]
        loop = self._task.get_loop()
        if callable(handler) and handler is not signal.default_int_handler:
            handler(number, frame)  # asyncio.run has one of its own, which also makes it raise KeyboardInterrupt
            loop.call_soon_threadsafe(_nothing)  # that of notebooks does not wake the loop, which may sleep
        else:
            loop.call_soon_threadsafe(self._task.cancel)


def _nothing() -> None: ...


def _exception_for(number: signal.Signals | None) -> BaseException:
    return KeyboardInterrupt() if number is signal.SIGINT else TerminationSignal()


def _current_asyncio_task() -> Any:
    asyncio = sys.modules.get("asyncio")
    if asyncio is None or asyncio._get_running_loop() is None:
        return None
    return asyncio.current_task()


def reason() -> str | None:
    """What to call the signal that is ending the program; None if there is none."""
    if _guard is None or _guard.received is None:
        return None
    return "an interrupt signal" if _guard.received is signal.SIGINT else "a termination signal"


def interruption_of(run: Run, outcome: Outcome) -> BaseException | None:
    """What ended the body of `run`, if it was a signal whatever the body made of it; None if it was not."""
    if _guard is None or not _guard.struck(run, outcome.event):
        return None
    _guard.swallowed = True
    return _exception_for(_guard.received)


def raise_pending() -> None:
    """Called where the user's code enters the engine: a signal that came at a bad moment is heard now."""
    if _guard is not None and threading.get_ident() == interrupt.MAIN:
        _guard.deliver()


@contextmanager
def guard(run: Run) -> Iterator[None]:
    """Around the call of a root run: make it known to the process and, on the main thread, answer to signals."""
    global _guard
    if run.parent is not None:
        yield
        return
    interrupt.roots[run] = None
    mine = None
    try:
        if _guard is None and threading.get_ident() == interrupt.MAIN:
            mine = _guard = Guard(run)
            mine.install()
        yield
    finally:
        del interrupt.roots[run]
        if mine is not None:
            mine.restore()
            _guard = None
            mine.pass_on()
