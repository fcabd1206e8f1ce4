"""What a lifecycle can wait for.

A request answers once: `arm(run)` starts the wait, and when it is over somebody calls `deliver(run, request,
answer)`. The two at the end are carried out by the driver itself, because how to do so depends on its colour.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from penstock._engine.upstream import promise_of

if TYPE_CHECKING:
    from penstock._core.graph import Link
    from penstock._engine.run import Run

_logger = logging.getLogger("penstock")


def deliver(run: Run, request: Any, answer: Any) -> bool:
    """Answer the request that `run` waits for; False if it does not wait for this one any more."""
    with run.lock:
        if run.pending is not request:
            return False
        run.pending = None
        driver = run.driver
    assert driver is not None
    driver.resume(run, answer)
    return True


class Ended:
    """Wait until every upstream has ended."""

    __slots__ = ("_missing", "links")

    def __init__(self, links: Sequence[Link]) -> None:
        self.links = links

    def arm(self, run: Run) -> None:
        promises = [promise_of(link.upstream) for link in self.links]
        # Counted down by whichever threads end the upstreams; list.pop is atomic. The extra one is ours, so that
        # nobody answers before all are watched.
        self._missing = [None] * (len(promises) + 1)
        for promise, link in zip(promises, self.links, strict=True):
            self._watch(run, promise, link)
        self._count_down(run)

    def _watch(self, run: Run, promise: Any, link: Link) -> None:
        def ended(_: object) -> None:
            if self._stops(promise, link):
                deliver(run, self, link)
            else:
                self._count_down(run)

        if promise.done or not promise.subscribe(ended):
            ended(None)

    def _count_down(self, run: Run) -> None:
        self._missing.pop()
        if not self._missing:
            deliver(run, self, None)

    def _stops(self, promise: Any, link: Link) -> bool:
        return False


class Inputs(Ended):
    """Wait until every upstream has completed, or until one that is required has not: that one is the answer."""

    __slots__ = ()

    def _stops(self, promise: Any, link: Link) -> bool:
        return link.required and promise.failed


class Childless:
    """Wait until everything that the body submitted has ended."""

    __slots__ = ()

    def arm(self, run: Run) -> None:
        with run.lock:
            if run.children:
                run.on_childless = lambda: deliver(run, self, None)
                return
        deliver(run, self, None)


class Sleep:
    """Let some seconds pass without a thread."""

    __slots__ = ("_seconds",)

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def arm(self, run: Run) -> None:
        if self._seconds > 0:
            run.engine.clock.call_later(self._seconds, lambda: deliver(run, self, None))
        else:
            deliver(run, self, None)


class Acquire:
    """Stand in line for the limits that the run's tags name."""

    __slots__ = ()

    def arm(self, run: Run) -> None:
        run.engine.acquire_limits(run, lambda: deliver(run, self, None))


class Awaited:
    """Await something that a user's callback returned; the answer is an `Outcome`."""

    __slots__ = ("awaitable",)

    def __init__(self, awaitable: Awaitable[Any]) -> None:
        self.awaitable = awaitable


class Aside:
    """Call a function that may block for a moment, without stopping an event loop."""

    __slots__ = ("_action",)

    def __init__(self, action: Callable[[], object]) -> None:
        self._action = action

    def perform(self) -> None:
        """Call it; what it raises (a runner that cannot be closed) is logged: the run has its outcome already."""
        try:
            self._action()
        except Exception:
            _logger.exception("trouble after a run had ended, which changes nothing for it")
