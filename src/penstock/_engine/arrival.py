"""How values come home that a runner has kept where they were made.

To fetch one may take long, may fail, and may need the very thread that would wait for it. So it is done on a thread
of its own, and whoever wants the value waits for its `Arrival` as for a run: with a slot to lend, stoppable, and in a
coroutine without blocking the loop.
"""

from __future__ import annotations

import os
import threading
from _thread import allocate_lock
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from penstock._core.errors import describe
from penstock._engine import waiting
from penstock._engine.requests import deliver
from penstock._engine.upstream import kept_among, value_of
from penstock.exceptions import MissingResult
from penstock.futures import Countdown, Gate, Waitable, await_all
from penstock.task_runners.base import Kept, here

if TYPE_CHECKING:
    import asyncio

    from penstock._core.graph import Inputs
    from penstock._engine.run import Run

_AT_ONCE = 16  # values that are fetched at the same time


class Happening:
    """Something that will have happened, without a run."""

    def __init__(self, label: str, causes: Sequence[Any] = ()) -> None:
        self.label = label
        self.causes = causes  # runs that must end first
        self.done = False
        self.failed = self.cancelled = False
        self.ended: float | None = None
        self._lock = allocate_lock()
        self._callbacks: list[Callable[[Any], None]] = []

    def happen(self) -> None:
        with self._lock:
            self.done = True
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback(self)

    def subscribe(self, callback: Callable[[Any], None]) -> bool:
        with self._lock:
            if not self.done:
                self._callbacks.append(callback)
            return not self.done

    def unsubscribe(self, callback: Callable[[Any], None]) -> None:
        with self._lock:
            if callback in self._callbacks:
                self._callbacks.remove(callback)

    def block(self, gate: Gate, timeout: float | None, among: Sequence[Waitable]) -> bool:
        return waiting.block(gate, timeout, self.causes)

    async def rest(self, waiter: asyncio.Future[None], among: Sequence[Waitable]) -> None:
        await waiting.rest(waiter)


class Arrival(Happening):
    """A kept value on its way home, from the moment that this is made."""

    def __init__(self, kept: Kept) -> None:
        super().__init__("value that its task runner keeps")
        self._value: Any = None
        self.error: Exception | None = None
        self._trace: Any = None
        _fetchers.start(lambda: self._fetch(kept), self.happen)

    def _fetch(self, kept: Kept) -> None:
        try:
            self._value = kept.fetch()
        except Exception as error:
            self._fail(error)
        except BaseException as error:  # it is not whoever asks that is to end
            lost = MissingResult(f"The value could not be fetched: {describe(error)}")
            lost.__cause__ = error
            self._fail(lost)

    def _fail(self, error: Exception) -> None:
        self.error, self._trace, self.failed = error, error.__traceback__, True

    def outcome(self, raise_on_failure: bool = True) -> Any:
        """The value, once it is here. Raises what prevented that in any case: the run did not fail."""
        if self.error is not None:
            raise self.error.with_traceback(self._trace)
        return self._value

    def block(self, gate: Gate, timeout: float | None, among: Sequence[Waitable]) -> bool:
        # No reason to refuse: nothing that the background loop could do is waited for.
        return waiting.block(gate, timeout, advice="" if here.background_loop else waiting.ADVICE)


class _Fetchers:
    """Threads that fetch, so many at a time; what has to wait for its turn is no thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free = _AT_ONCE
        self._line: deque[tuple[Callable[[], object], Callable[[], object]]] = deque()

    def start(self, fetch: Callable[[], object], done: Callable[[], object]) -> None:
        """Call `fetch` and then `done` on another thread. Does not block."""
        with self._lock:
            if not self._free:
                self._line.append((fetch, done))
                return
            self._free -= 1
        self._begin(fetch, done)

    def _begin(self, fetch: Callable[[], object], done: Callable[[], object]) -> None:
        threading.Thread(target=self._work, args=(fetch, done), name="penstock-fetch", daemon=True).start()

    def _work(self, fetch: Callable[[], object], done: Callable[[], object]) -> None:
        fetch()
        # The turn is over before anybody is told: what follows may be code of the user's that waits for another value.
        with self._lock:
            following = self._line.popleft() if self._line else None
            if following is None:
                self._free += 1
        if following is not None:
            self._begin(*following)
        done()


_fetchers = _Fetchers()


def fetchers() -> _Fetchers:
    """The threads for what may block for a while where nobody may wait."""
    return _fetchers


def _forget() -> None:
    """In a forked child: the threads did not come along."""
    global _fetchers
    _fetchers = _Fetchers()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


class Arrivals:
    """The values of several `Kept` on their way home.

    As a request, what a run waits for. It is answered with True, on a thread that may wait for other values: also if
    there are none here.
    """

    def __init__(self, kept: Iterable[Kept]) -> None:
        self._kept = {id(one): one for one in kept}  # holds them: an id is only good while its object lives
        self._arrivals = {key: Arrival(one) for key, one in self._kept.items()}

    def arm(self, run: Run) -> None:
        if self._arrivals:
            Countdown(self._arrivals.values(), lambda: deliver(run, self, True)).start()
        else:
            _fetchers.start(lambda: None, lambda: deliver(run, self, True))

    def __len__(self) -> int:
        return len(self._arrivals)

    @property
    def error(self) -> Exception | None:
        """What prevented one of them from coming, once all have come or failed to."""
        return next((arrival.error for arrival in self._arrivals.values() if arrival.error is not None), None)

    def wait(self) -> Arrivals:
        """Block until all are here."""
        await_all(list(self._arrivals.values()), None)
        return self

    def take(self, kept: Kept) -> Any:
        """What is to be in the place of `kept`: its value, or itself if it is none of these. May raise."""
        arrival = self._arrivals.get(id(kept))
        return kept if arrival is None else arrival.outcome()


def fetch(kept: Kept) -> Any:
    """The value. Blocks; raises what prevents that."""
    return Arrivals([kept]).wait().take(kept)


def with_values(inputs: Inputs) -> dict[str, Any]:
    """Parameters with all their values, also those that a runner has kept. Blocks; may raise."""
    take = Arrivals(kept_among(inputs.links)).wait().take
    return inputs.resolve(lambda upstream: value_of(upstream, take))
