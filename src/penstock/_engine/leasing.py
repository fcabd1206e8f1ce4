"""Waiting for limits: in a thread, and in a coroutine."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from penstock._engine import clock, waiting
from penstock._engine.limits import Limit, Limits, Request
from penstock._engine.sources import Source
from penstock.futures import Gate

if TYPE_CHECKING:
    import asyncio

_ADVICE = "use `async with concurrency(...)` or `await asyncio.to_thread(rate_limit, ...)`"


class Lease:
    """A request on behalf of code that waits for it, without a runner's slot, and whatever it was granted.

    Gives back what it holds when it is dropped: an interrupt can strike when the `with` statement has not yet
    got hold of its context manager, or on the first line of `__exit__`.
    """

    __slots__ = ("_table", "request")

    def __init__(self, table: Limits, limits: Sequence[Limit[Source]], amount: int, holder: str) -> None:
        self._table = table
        self.request = Request(table, limits, amount, _nobody, holder)

    def wait(self, timeout: float | None) -> None:
        """Block this thread until the request is granted; `TimeoutError` after `timeout` seconds.

        If this raises, the caller must `release`.
        """
        gate = Gate()
        self.request.notify = gate.open
        if self.request.submit():
            return
        timer = self._expire_after(timeout)
        try:
            waiting.block(gate, None, advice=_ADVICE)
        finally:
            timer.cancel()
        self._check()

    async def rest(self, timeout: float | None) -> None:
        """`wait` for a coroutine of asyncio: other coroutines run meanwhile."""
        import asyncio  # by now it is loaded; this module must not be the one to load it

        loop = asyncio.get_running_loop()
        woken = loop.create_future()
        self.request.notify = lambda: loop.call_soon_threadsafe(_wake, woken)
        if self.request.submit():
            return
        timer = self._expire_after(timeout)
        try:
            await waiting.rest(woken)
        finally:
            timer.cancel()
        self._check()

    def release(self) -> None:
        """Give back what was granted, or leave the line. Calling it again does no harm."""
        self.request.release()

    def __del__(self) -> None:
        request: Request | None = getattr(self, "request", None)  # an interrupt may strike in __init__ too
        if request is not None and not request.closed and not sys.is_finalizing():
            # Not here and now: a finalizer runs in the middle of whatever its thread is doing.
            clock.get().call_later(0, request.release)

    def _expire_after(self, timeout: float | None) -> clock.Timer:
        if timeout is None:
            return _NEVER
        if timeout <= 0:
            self._expire(timeout)
            return _NEVER
        return clock.get().call_later(timeout, partial(self._expire, timeout))

    def _expire(self, timeout: float) -> None:
        self.request.refuse(TimeoutError(self._table.explain(self.request, timeout)))

    def _check(self) -> None:
        if self.request.error is not None:
            raise self.request.error


class _Never:
    """The timer of somebody who waits for ever."""

    def cancel(self) -> bool:
        return False


_NEVER = _Never()


def _nobody() -> None:
    """Whom a request notifies before anybody waits for it."""


def _wake(woken: asyncio.Future[None]) -> None:
    if not woken.done():  # it is done if the coroutine was cancelled meanwhile
        woken.set_result(None)
