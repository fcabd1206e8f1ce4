"""`.imap()`: map lazily, with a bounded number of runs at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from penstock.futures import Future, Gate, loop_waiter

if TYPE_CHECKING:
    from penstock._core.graph import Link
    from penstock._core.mapping import Pull
    from penstock._engine.run import Run
    from penstock.definitions import Definition

T = TypeVar("T")


class Pulled(Generic[T]):
    """The iterator that `.imap()` returns: `for` and `async for` give the futures of runs that have ended.

    Used by one thread or coroutine at a time. `close()`, or dropping the iterator, cancels the runs that have
    not started.
    """

    def __init__(
        self,
        definition: Definition,
        parent: Run,
        pull: Pull,
        waits: Sequence[Link],
        max_pending: int | None,
        ordered: bool,
    ) -> None:
        self._definition = definition
        self._parent = parent
        self._calls = pull.calls
        self._waits = waits
        self._room = _checked(max_pending, parent)
        self._ordered = ordered
        self._number = definition.next_number(parent)
        self._index = 0
        self._pending: dict[Any, Future[T]] = {}  # by promise, in the order of submission
        self._ready: deque[Any] = deque()  # promises that are done; appended by finishing threads
        self._error: Exception | None = None  # what the input raised
        self._exhausted = False
        self._wake: Any = None

    def _refill(self) -> None:
        while not self._exhausted and len(self._pending) < self._room:
            try:
                args, kwargs = next(self._calls)
            except StopIteration:
                self._exhausted = True
            except Exception as error:
                self._exhausted, self._error = True, error
            else:
                self._submit(args, kwargs)

    def _submit(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        start = self._definition.start
        future = start(self._parent, args, kwargs, self._waits, self._number, self._index)
        self._index += 1
        promise = future._promise
        self._pending[promise] = future
        if not promise.subscribe(self._arrived):
            self._arrived(promise)

    def _arrived(self, promise: Any) -> None:
        self._ready.append(promise)
        wake = self._wake
        if wake is not None:
            wake()

    def _next_ready(self) -> Future[T] | None:
        """The future to hand out now; None: none is done yet."""
        if self._ordered:
            first = next(iter(self._pending))
            return self._pending.pop(first) if first.done else None
        return self._pending.pop(self._ready.popleft()) if self._ready else None

    def _end(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def __iter__(self) -> Iterator[Future[T]]:
        return self

    def __next__(self) -> Future[T]:
        self._refill()
        if not self._pending:
            self._end()
            raise StopIteration
        while True:
            gate = Gate()
            self._wake = gate.open
            future = self._next_ready()  # after the gate is in place: no run can end unseen
            if future is not None:
                return self._handed_out(future)
            next(iter(self._pending)).block(gate, None, list(self._pending))

    def __aiter__(self) -> AsyncIterator[Future[T]]:
        return self

    async def __anext__(self) -> Future[T]:
        self._refill()
        if not self._pending:
            self._end()
            raise StopAsyncIteration
        while True:
            waiter, self._wake = loop_waiter()
            future = self._next_ready()
            if future is not None:
                return self._handed_out(future)
            await next(iter(self._pending)).rest(waiter, list(self._pending))

    def _handed_out(self, future: Future[T]) -> Future[T]:
        self._wake = None
        if self._ordered:
            self._ready.clear()
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
