"""The background event loop: where submitted asynchronous bodies and asynchronous callbacks run.

One loop on one thread serves the whole process, so thousands of concurrent awaits need no threads. asyncio is
imported here, when the loop is first needed, and nowhere on the way of a synchronous program.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any

from penstock._core.machine import Event
from penstock._core.outcome import Outcome
from penstock._engine import clock
from penstock.futures import Gate, loop_waiter
from penstock.task_runners.base import here

if TYPE_CHECKING:
    import asyncio

_TURN = 0.1  # seconds that a loop which works may need for its next turn
_Start = tuple[Callable[[], Coroutine[Any, Any, Any]], Context]


class BackgroundLoop:
    """An event loop on a thread of its own. All methods are thread-safe and do not block."""

    def __init__(self) -> None:
        import asyncio

        self._loop = asyncio.new_event_loop()
        self._starting: deque[_Start] = deque()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._retiring = False
        self._thread = threading.Thread(target=self._serve, name="penstock-loop", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        here.background_loop = True
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    def start(self, body: Callable[[], Coroutine[Any, Any, Any]], context: Context | None) -> None:
        """Begin `body()` as a task of the loop, inside `context`."""
        self._starting.append((body, copy_context() if context is None else context))
        if len(self._starting) == 1:  # else the loop has been called and has not looked yet
            self._loop.call_soon_threadsafe(self._begin)

    def _begin(self) -> None:
        for _ in range(len(self._starting)):
            try:
                body, context = self._starting.popleft()
            except IndexError:  # this loop was stuck, and another one has taken over
                return
            task = self._loop.create_task(body(), context=context)
            # The loop itself keeps only weak references to its tasks.
            self._tasks.add(task)
            task.add_done_callback(self._ended)
        if self._starting:
            self._loop.call_soon(self._begin)

    def take_over(self, stuck: BackgroundLoop) -> None:
        """Begin what has been waiting for a loop that does not get round to it."""
        while stuck._starting:
            try:
                self.start(*stuck._starting.popleft())
            except IndexError:
                return

    def run(self, awaitable: Awaitable[Any], done: Callable[[Outcome], object]) -> None:
        """Await something; `done` is called with the outcome, on the loop's thread."""

        async def report() -> None:
            done(await outcome_of(awaitable))

        self.start(report, None)

    def runs(self, event_loop: asyncio.AbstractEventLoop) -> bool:
        return self._loop is event_loop

    def stop(self) -> None:
        """Cancel what is left and end the thread. Blocks for a moment; a loop that is stuck is left behind."""
        try:
            self._loop.call_soon_threadsafe(self._cancel_all)
        except RuntimeError:
            return
        self.retire()
        self._thread.join(1.0)

    def retire(self) -> None:
        """End the thread as soon as everything that has begun is over."""
        self._retiring = True
        self._loop.call_soon_threadsafe(self._ended, None)

    def _cancel_all(self) -> None:
        for task in self._tasks:
            task.cancel()

    def _ended(self, task: asyncio.Task[Any] | None) -> None:
        if task is not None:
            self._tasks.discard(task)
        if self._retiring and not self._tasks:
            self._loop.stop()


_background: BackgroundLoop | None = None
_lock = threading.Lock()


def background() -> BackgroundLoop:
    """The process's background loop, started at the first call."""
    global _background
    with _lock:
        if _background is None:
            _background = BackgroundLoop()
        return _background


def replace(stuck: BackgroundLoop) -> None:
    """Leave a loop that a body blocks to that body; what has not begun, and what comes, gets a new one."""
    global _background
    with _lock:
        if _background is not stuck:
            return
        _background = BackgroundLoop()
    _background.take_over(stuck)
    stuck.retire()


def replace_if_stuck(event_loop: asyncio.AbstractEventLoop) -> None:
    """If this is the background loop and it takes no turns, use another one from now on. Does not block."""
    stuck = _background
    if stuck is None or not stuck.runs(event_loop):
        return
    turns: list[bool] = []
    event_loop.call_soon_threadsafe(turns.append, True)

    def look() -> None:
        if not turns:
            replace(stuck)

    clock.get().call_later(_TURN, look)


def stop_background() -> None:
    global _background
    with _lock:
        loop, _background = _background, None
    if loop is not None:
        loop.stop()


def _after_fork_in_child() -> None:
    global _background, _lock
    _background, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def run_elsewhere(awaitable: Awaitable[Any], done: Callable[[Outcome], object]) -> None:
    """Await something on another thread, while this one may block; `done` is called with the outcome."""
    if not here.background_loop:
        background().run(awaitable, done)
        return
    import asyncio

    def work() -> None:
        done(asyncio.run(outcome_of(awaitable)))

    threading.Thread(target=work, name="penstock-aside", daemon=True).start()


def outcome_elsewhere(awaitable: Awaitable[Any]) -> Outcome:
    """Await something on another thread while this one blocks."""
    gate = Gate()
    outcomes: list[Outcome] = []

    def done(outcome: Outcome) -> None:
        outcomes.append(outcome)
        gate.open()

    run_elsewhere(awaitable, done)
    gate.wait()
    return outcomes[0]


async def outcome_of(awaitable: Awaitable[Any]) -> Outcome:
    """Await something and turn what happens into a value."""
    try:
        return Outcome(Event.RETURNED, await awaitable)
    except BaseException as error:
        return Outcome(Event.RAISED, error=error)


async def aside(action: Callable[[], object]) -> BaseException | None:
    """Call a function that may block for a moment on a thread, so that the running loop is not stopped.

    Awaited to its end also if the coroutine is cancelled meanwhile; the cancellation is returned.
    """
    waiter, wake = loop_waiter()

    def work() -> None:
        try:
            action()
        finally:
            wake()

    threading.Thread(target=work, name="penstock-aside", daemon=True).start()
    return await uncancelled(waiter)


async def uncancelled(waiter: asyncio.Future[None]) -> BaseException | None:
    """Await `waiter` whatever happens; return the cancellation that the coroutine got meanwhile, if any."""
    asyncio = sys.modules["asyncio"]
    cancellation = None
    while not waiter.done():
        try:
            await asyncio.shield(waiter)
        except asyncio.CancelledError as error:
            cancellation = error
    return cancellation
