"""`.imap()`: map lazily, with a bounded number of runs at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from penstock.futures import Future, Gate, await_all, await_in_loop, loop_waiter
from penstock.maps import MapCall

if TYPE_CHECKING:
    from penstock._core.mapping import Arguments
    from penstock._engine.run import Run

T = TypeVar("T")


class _Arrivals:
    """Where runs report that they have ended. They know this and not the iterator, which may be dropped before."""

    __slots__ = ("ready", "wake")

    def __init__(self) -> None:
        self.ready: deque[Any] = deque()  # promises that are done; appended by finishing threads
        self.wake: Callable[[], None] | None = None

    def note(self, promise: Any) -> None:
        self.ready.append(promise)
        wake = self.wake
        if wake is not None:
            wake()


class Pulled(Generic[T]):
    """The iterator that `.imap()` returns: `for` and `async for` give the futures of runs that have ended.

    Used by one thread or coroutine at a time. `close()`, or dropping the iterator, cancels the runs that have
    not started.
    """

    def __init__(self, call: MapCall, max_pending: int | None, ordered: bool) -> None:
        self._call = call
        # Whole arguments that must have their values before anything starts.
        self._unresolved = [call.source(promise) for promise in call.unresolved()]
        self._calls = iter(()) if self._unresolved else call.pull()
        self._room = _checked(max_pending, call.parent)
        self._ordered = ordered
        self._index = 0
        self._pending: dict[Any, Future[T]] = {}  # by promise, in the order of submission
        self._arrivals = _Arrivals()
        self._error: Exception | None = None  # what the input raised
        self._exhausted = False

    def _resolved(self) -> None:
        self._unresolved = []
        self._calls = self._call.pull()

    def _refill(self) -> None:
        while not self._exhausted and len(self._pending) < self._room:
            try:
                arguments = next(self._calls)
            except StopIteration:
                self._exhausted = True
            except Exception as error:
                self._exhausted, self._error = True, error
            else:
                self._submit(arguments)

    def _submit(self, arguments: Arguments) -> None:
        future = self._call.start(arguments, self._index)
        self._index += 1
        promise = future._promise
        self._pending[promise] = future
        if not promise.subscribe(self._arrivals.note):
            self._arrivals.note(promise)

    def _next_ready(self) -> Future[T] | None:
        """The future to hand out now; None: none is done yet."""
        if self._ordered:
            first = next(iter(self._pending))
            return self._pending.pop(first) if first.done else None
        ready = self._arrivals.ready
        return self._pending.pop(ready.popleft()) if ready else None

    def _end(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def __iter__(self) -> Iterator[Future[T]]:
        return self

    def __next__(self) -> Future[T]:
        if self._unresolved:
            await_all(self._unresolved, None)
            self._resolved()
        self._refill()
        if not self._pending:
            self._end()
            raise StopIteration
        while True:
            gate = Gate()
            self._arrivals.wake = gate.open
            future = self._next_ready()  # after the gate is in place: no run can end unseen
            if future is not None:
                return self._handed_out(future)
            next(iter(self._pending)).block(gate, None, list(self._pending))

    def __aiter__(self) -> AsyncIterator[Future[T]]:
        return self

    async def __anext__(self) -> Future[T]:
        if self._unresolved:
            await await_in_loop(self._unresolved)
            self._resolved()
        self._refill()
        if not self._pending:
            self._end()
            raise StopAsyncIteration
        while True:
            waiter, self._arrivals.wake = loop_waiter()
            future = self._next_ready()
            if future is not None:
                return self._handed_out(future)
            await next(iter(self._pending)).rest(waiter, list(self._pending))

    def _handed_out(self, future: Future[T]) -> Future[T]:
        self._arrivals.wake = None
        if self._ordered:
            self._arrivals.ready.clear()
        return future

    def close(self) -> None:
        """Take no more input and cancel the runs that have not started. Does not block."""
        self._exhausted = True
        for promise in list(self._pending):
            if not promise.has_started:
                promise.cancel()

    async def aclose(self) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_pending"):
            self.close()


def _checked(max_pending: int | None, parent: Run) -> int:
    if max_pending is None:
        return 2 * parent.engine.runner.slots
    if type(max_pending) is not int or max_pending < 1:
        raise ValueError(f"'max_pending' must be an integer of at least 1, got {max_pending!r}")
    return max_pending
