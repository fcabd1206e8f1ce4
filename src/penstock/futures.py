"""Futures: handles on runs that may still be going on.

A future knows no engine. It talks to its run through the `Promise` protocol: are you done, tell me when you
are, let this thread wait for you. Whatever the engine has to do around a wait (hand the worker's slot on,
notice a deadlock) hides behind `Promise.block`.
"""

from __future__ import annotations

import logging
import sys
import time
from _thread import allocate_lock
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION
from importlib import import_module
from itertools import count
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, SupportsIndex, TypeVar, cast, overload
from uuid import UUID

from penstock import states
from penstock._core import graph
from penstock.states import State

if TYPE_CHECKING:
    import asyncio

    from penstock._typing import AwaitableStandIn, ListOfFutures

__all__ = [
    "DoneAndNotDoneFutures",
    "Future",
    "FutureList",
    "as_completed",
    "resolve_futures_to_results",
    "resolve_futures_to_states",
    "wait",
]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
if not TYPE_CHECKING:
    AwaitableStandIn, ListOfFutures = Generic, list
_logger = logging.getLogger("penstock.futures")
monotonic = time.monotonic  # by which timeouts of waits are measured; a test may replace it


class Gate:
    """A one-shot wait for one thread: a bare lock, because a `threading.Event` costs ten times as much."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = allocate_lock()
        self._lock.acquire()

    def open(self, _: object = None) -> None:
        """Let the waiter through. Thread-safe; opening twice is harmless."""
        try:
            self._lock.release()
        except RuntimeError:
            pass

    def wait(self, timeout: float | None = None) -> bool:
        """Block until opened; False after `timeout` seconds. Signals are handled while waiting."""
        if timeout is None:
            # A signal that comes just before the lock is waited for would be heard at the end of the wait only.
            while not self._lock.acquire(timeout=_TURN):
                pass
            return True
        return self._lock.acquire(timeout=min(max(timeout, 0), _LONGEST_WAIT))


_TURN = 1.0  # seconds of a wait after which signals are looked for
_LONGEST_WAIT = 9_000_000.0  # seconds; locks refuse longer timeouts than the platform can count


class Waitable(Protocol):
    """What can be waited for: something that will have happened, or will have failed to."""

    @property
    def done(self) -> bool: ...
    @property
    def failed(self) -> bool: ...
    def subscribe(self, callback: Callable[[Any], None]) -> bool:
        """Have `callback(self)` called at the end; False, and no call, if the end has been already."""
        ...

    def unsubscribe(self, callback: Callable[[Any], None]) -> None: ...
    def block(self, gate: Gate, timeout: float | None, among: Sequence[Waitable]) -> bool:
        """Let this thread wait at `gate`, which opens when something about `among` happens."""
        ...

    async def rest(self, waiter: asyncio.Future[None], among: Sequence[Waitable]) -> None:
        """`block` for a coroutine."""
        ...


class Answer(Waitable, Protocol):
    """What has a value, or an exception, when it can be waited for no longer."""

    def outcome(self, raise_on_failure: bool) -> Any: ...


class Promise(Answer, Protocol):
    """What a future needs of the run behind it."""

    @property
    def looked(self) -> bool: ...
    @looked.setter
    def looked(self, looked: bool, /) -> None: ...

    @property
    def ended(self) -> float | None: ...
    @property
    def label(self) -> str: ...
    @property
    def cancelled(self) -> bool: ...
    @property
    def kept(self) -> Sequence[Any]:
        """What of its value has stayed with a task runner: `outcome` fetches it, and blocks meanwhile."""
        ...

    def arriving(self) -> Answer:
        """What to wait for to have a kept value without blocking."""
        ...

    def outcome(self, raise_on_failure: bool) -> Any: ...
    def shorten(self, error: BaseException) -> None:
        """Hide the library's frames of an exception; the bare `raise` that follows adds none."""
        ...

    def state(self) -> State[Any]: ...
    def cancel(self) -> bool: ...
    def uuid(self, kind: str) -> UUID | None: ...


def _never(promise: Waitable) -> bool:
    return False


def _is_bad(promise: Waitable) -> bool:
    return promise.failed


class Countdown:
    """Calls `wake` once: when every promise is done, or when `enough` says so of one that is."""

    __slots__ = ("_arrivals", "_enough", "_missing", "_wake", "pending")

    def __init__(
        self,
        promises: Iterable[Waitable],
        wake: Callable[[], object],
        enough: Callable[[Waitable], bool] = _never,
    ) -> None:
        self._wake = wake
        self._enough = enough
        self._arrivals = count(1)  # `next` on it is atomic: finishing threads need no lock
        self.pending = [promise for promise in promises if not promise.done]
        self._missing = len(self.pending)

    def start(self) -> None:
        if not self.pending:
            self._wake()
        for promise in self.pending:
            if not promise.subscribe(self._arrived):
                self._arrived(promise)

    def _arrived(self, promise: Waitable) -> None:
        if next(self._arrivals) == self._missing or self._enough(promise):
            self._wake()

    def stop(self) -> None:
        """Leave nothing behind on promises that are still going on."""
        for promise in self.pending:
            promise.unsubscribe(self._arrived)


def await_all(promises: Sequence[Waitable], timeout: float | None, enough: Callable[[Waitable], bool] = _never) -> bool:
    """Block until all are done or one is `enough`; False after `timeout` seconds."""
    if any(promise.done and enough(promise) for promise in promises):
        return True
    gate = Gate()
    countdown = Countdown(promises, gate.open, enough)
    if not countdown.pending:
        return True
    countdown.start()
    opened = False
    try:
        opened = countdown.pending[0].block(gate, timeout, countdown.pending)
    finally:
        if not opened:
            countdown.stop()
    return opened


def await_one(promise: Waitable, timeout: float | None) -> bool:
    gate = Gate()
    if not promise.subscribe(gate.open):
        return True
    opened = False
    try:
        opened = promise.block(gate, timeout, (promise,))
    finally:
        if not opened:
            promise.unsubscribe(gate.open)
    return opened


async def await_in_loop(promises: Sequence[Waitable], enough: Callable[[Waitable], bool] = _never) -> None:
    """The coroutine's `await_all`."""
    if any(promise.done and enough(promise) for promise in promises):
        return
    waiter, wake = loop_waiter()
    countdown = Countdown(promises, wake, enough)
    if not countdown.pending:
        return
    countdown.start()
    try:
        await countdown.pending[0].rest(waiter, countdown.pending)
    finally:
        if not waiter.done() or waiter.cancelled():
            countdown.stop()


def loop_waiter() -> tuple[asyncio.Future[None], Callable[[], None]]:
    """A future of the running loop, and the thread-safe function that completes it."""
    # A loop is running, so asyncio has been imported by whoever runs it: `import penstock` need not.
    loop = sys.modules["asyncio"].get_running_loop()
    waiter = loop.create_future()

    def complete() -> None:
        if not waiter.done():
            waiter.set_result(None)

    def wake() -> None:
        try:
            loop.call_soon_threadsafe(complete)
        except RuntimeError:
            pass  # the loop was closed while the run went on: nobody waits any more

    return waiter, wake


class Future(graph.Upstream, AwaitableStandIn[T_co]):
    """The result of a submitted run, present or still to come.

    Futures are made by `.submit()` and `.map()`, never by hand. Every method is thread-safe. A future is an
    argument like any other: give it to the next task, which then starts when the value is there. It cannot
    be pickled; it works across processes as a task argument because the engine replaces it by its value.

        >>> from penstock import flow, task
        >>> @task
        ... def one(): return 1
        >>> @flow
        ... def total(): return one.submit().result() + 1
        >>> total()
        2
    """

    __slots__ = ("__weakref__", "_alive", "_promise")

    def __init__(self, promise: Promise) -> None:
        self._promise = promise
        self._alive = states._ALIVE

    @property
    def task_run_id(self) -> UUID | None:
        """The id of the task run; None for a submitted flow."""
        return self._promise.uuid("task")

    @property
    def flow_run_id(self) -> UUID | None:
        """The id of the flow run if a flow was submitted, else None."""
        return self._promise.uuid("flow")

    @property
    def state(self) -> State[T_co]:
        """The exact state at this moment. Does not block. Reading a final state counts as looking at the run."""
        promise = self._promise
        if promise.done:
            promise.looked = True
        return promise.state()

    def result(self, timeout: float | None = None, raise_on_failure: bool = True) -> T_co:
        """Block until the run has ended; return its value or raise its own exception object.

        `timeout` is in seconds; zero or less only looks. With `raise_on_failure=False` the exception is
        returned instead of raised. Raises `TimeoutError` if the run is still going on after `timeout`. A value
        that the task runner has kept where it was made is fetched, whatever time that takes; raises what
        prevents it.
        """
        promise = self._promise
        try:
            if not promise.done:
                self._await_end(timeout)
            return cast(T_co, promise.outcome(raise_on_failure))
        except BaseException as error:
            promise.shorten(error)
            raise

    def _await_end(self, timeout: float | None) -> None:
        if not await_one(self._promise, timeout):
            raise TimeoutError(f"{self._promise.label} did not complete within {timeout:g} seconds")

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Block like `result`; return what it would raise, or None if the run completed."""
        promise = self._promise
        if not promise.done:
            self._await_end(timeout)
        promise.looked = True
        return cast(BaseException, promise.outcome(False)) if promise.failed else None

    def wait(self, timeout: float | None = None) -> None:
        """Block until the run has ended or `timeout` seconds have passed. Never raises because of the run."""
        if not self._promise.done:
            await_one(self._promise, timeout)

    def done(self) -> bool:
        """Has the run ended, its hooks included? Does not block."""
        return self._promise.done

    def cancelled(self) -> bool:
        """Did the run end cancelled? Does not block, and does not count as looking at it."""
        return self._promise.done and self._promise.cancelled

    def cancel(self) -> bool:
        """Ask for the run to be cancelled: False if it has ended already, else True.

        A request, not the fact: see `cancelled`. A run that has not started ends at once; a running one is
        asked to stop. Does not block.
        """
        return self._promise.cancel()

    def add_done_callback(self, fn: Callable[[Future[T_co]], object]) -> None:
        """Call `fn(future)` when the run has ended: now if it has, else on the thread that ends it.

        Callbacks run in the order of registration, after the final state is visible. What they raise is
        logged and affects nothing.
        """

        def call(_: object) -> None:
            try:
                fn(self)
            except Exception:
                _logger.exception("a done-callback of %s failed", self._promise.label)

        if not self._promise.subscribe(call):
            call(None)

    def __await__(self) -> Generator[Any, None, T_co]:
        promise = self._promise
        try:
            if not promise.done:
                yield from await_in_loop([promise]).__await__()
            if promise.kept:
                return cast(T_co, (yield from _values_in_loop([promise]).__await__())[0])
            return cast(T_co, promise.outcome(True))
        except Exception as error:
            promise.shorten(error)
            raise

    def __repr__(self) -> str:
        return f"<Future of {self._promise.label}>"

    def _repr_html_(self) -> str:
        return str(import_module("penstock.notebooks").of_future(self))

    def __reduce__(self) -> Any:
        raise TypeError(
            f"{self!r} cannot be pickled: pass the future itself as a task argument, or its value, future.result()"
        )


class FutureList(ListOfFutures[T]):
    """The futures of one `.map()` call, in submission order, with bulk operations.

    A list in every way; slices and sums are `FutureList`s too. Given to a task it arrives as a plain list of
    values.
    """

    _rebuild_as = list

    def __init__(self, futures: Iterable[Future[T]] = (), /) -> None:
        super().__init__(futures)
        self._alive = states._ALIVE  # an empty one must not be overlooked where no future exists: it arrives as a list

    def wait(self, timeout: float | None = None) -> None:
        """Block until every run has ended or `timeout` seconds have passed. Never raises because of a run."""
        check_timeout(timeout)
        await_all(_promises(self), timeout)

    def result(self, timeout: float | None = None, raise_on_failure: bool = True) -> list[T]:
        """Block until all have ended; return the values in submission order.

        Raises the first failure, in time, as soon as it happens; with `raise_on_failure=False` exceptions
        take their places in the list instead. Raises `TimeoutError` after `timeout` seconds.
        """
        check_timeout(timeout)
        promises = _promises(self)
        try:
            return _results(promises, timeout, raise_on_failure)
        except BaseException as error:
            for promise in promises[:1]:
                promise.shorten(error)
            raise

    def cancel(self) -> None:
        """Ask for every run that has not ended to be cancelled. Does not block."""
        for future in reversed(self):  # a slot that a cancelled run leaves must not start one that is still to come
            future.cancel()

    def __await__(self) -> Generator[Any, None, list[T]]:
        promises = _promises(self)
        try:
            yield from await_in_loop(promises, _is_bad).__await__()
            _raise_first_failure(promises)
            return (yield from _values_in_loop(promises).__await__())
        except Exception as error:
            for promise in promises[:1]:
                promise.shorten(error)
            raise

    @overload
    def __getitem__(self, index: SupportsIndex, /) -> Future[T]: ...
    @overload
    def __getitem__(self, index: slice, /) -> FutureList[T]: ...
    def __getitem__(self, index: SupportsIndex | slice, /) -> Future[T] | FutureList[T]:
        found = super().__getitem__(index)
        return FutureList(found) if isinstance(found, list) else found

    def _repr_html_(self) -> str:
        return str(import_module("penstock.notebooks").of_futures(self))

    def __add__(self, other: Iterable[Future[T]], /) -> FutureList[T]:  # type: ignore[override]
        return FutureList([*self, *other])


def _promises(futures: Iterable[Future[Any]]) -> list[Promise]:
    return [future._promise for future in futures]


def _results(promises: Sequence[Promise], timeout: float | None, raise_on_failure: bool) -> list[Any]:
    if not await_all(promises, timeout, _is_bad if raise_on_failure else _never):
        raise TimeoutError(f"Timed out waiting for all futures to complete within {timeout:g} seconds")
    if raise_on_failure:
        _raise_first_failure(promises)
    answers = _answers(promises)
    if answers is not promises:
        await_all(answers, None)
    return [answer.outcome(raise_on_failure) for answer in answers]


def _raise_first_failure(promises: Sequence[Promise]) -> None:
    for promise in promises:
        promise.looked = True
    bad = [promise for promise in promises if promise.done and promise.failed]
    if bad:
        min(bad, key=lambda promise: promise.ended or 0.0).outcome(True)


def _answers(promises: Sequence[Promise]) -> Sequence[Answer]:
    """Where each of these ended runs has its value; those that are kept elsewhere are on their way, all at once."""
    if not any(promise.kept for promise in promises):
        return promises
    return [promise.arriving() if promise.kept else promise for promise in promises]


async def _values_in_loop(promises: Sequence[Promise]) -> list[Any]:
    answers = _answers(promises)
    if answers is not promises:
        await await_in_loop(answers)
    return [answer.outcome(True) for answer in answers]


def check_timeout(timeout: float | None) -> None:
    if timeout is not None and not timeout >= 0:
        raise ValueError(f"'timeout' must be a non-negative number, got {timeout!r}")


class DoneAndNotDoneFutures(NamedTuple, Generic[T]):
    """What `wait` returns."""

    done: set[Future[T]]
    not_done: set[Future[T]]


def wait(
    futures: Iterable[Future[T]], timeout: float | None = None, return_when: str = ALL_COMPLETED
) -> DoneAndNotDoneFutures[T]:
    """Block until the futures are done; return the named 2-tuple of sets `(done, not_done)`.

    `timeout` is in seconds. `return_when` takes the constants of `concurrent.futures`. Never raises because
    of a run. Thread-safe; in a coroutine use `await futures` or `async for future in as_completed(futures)`.
    """
    check_timeout(timeout)
    members = _members(futures, "wait")
    promises = _promises(members)
    if return_when == FIRST_COMPLETED:
        await_all(promises, timeout, lambda promise: True)
    elif return_when == FIRST_EXCEPTION:
        await_all(promises, timeout, _is_bad)
    elif return_when == ALL_COMPLETED:
        await_all(promises, timeout)
    else:
        raise ValueError(f"'return_when' must be a constant of concurrent.futures, got {return_when!r}")
    done = {future for future in members if future.done()}
    return DoneAndNotDoneFutures(done, set(members) - done)


def as_completed(futures: Iterable[Future[T]], timeout: float | None = None) -> Completions[T]:
    """Iterate over the futures as they end, each once; usable with `for` and with `async for`.

    Those that have ended come first. `timeout` is in seconds from this call, the time spent in the loop body
    included; `TimeoutError` is raised when it runs out.
    """
    check_timeout(timeout)
    return Completions(_members(futures, "as_completed"), timeout)


def _members(futures: Iterable[Future[T]], function: str) -> list[Future[T]]:
    if isinstance(futures, Future):
        raise TypeError(f"{function}() takes an iterable of futures: write {function}([future])")
    members = list(dict.fromkeys(futures))
    for member in members:
        if not isinstance(member, Future):
            raise TypeError(
                f"{function}() takes futures, got {type(member).__name__}: write {function}([future]), "
                "with the futures that .submit() and .map() return"
            )
    return members


class Completions(Generic[T]):
    """The iterator of `as_completed`: one object for both kinds of loop."""

    def __init__(self, futures: Sequence[Future[T]], timeout: float | None) -> None:
        self._deadline = None if timeout is None else monotonic() + timeout
        self._total = self._left = len(futures)
        # Appended by finishing threads, popped by the consumer; both ends of a deque are atomic.
        self._ready: deque[Future[T]] = deque()
        self._wake: Callable[[], None] | None = None
        self._pending: dict[Promise, Future[T]] = {}
        for future in sorted(futures, key=_end_time):
            if not future._promise.done:
                self._pending[future._promise] = future
            if not future._promise.subscribe(self._arrived):
                self._pending.pop(future._promise, None)
                self._ready.append(future)

    def _arrived(self, promise: Promise) -> None:
        self._ready.append(self._pending.pop(promise))
        wake = self._wake
        if wake is not None:
            wake()

    def __iter__(self) -> Iterator[Future[T]]:
        return self

    def __next__(self) -> Future[T]:
        if not self._left:
            raise StopIteration
        while not self._ready:
            gate = Gate()
            self._wake = gate.open
            if not self._ready:  # looked at again: a run may have ended before it could see the gate
                self._block(gate)
        return self._pop()

    def _block(self, gate: Gate) -> None:
        pending = list(self._pending)
        remaining = self._remaining()
        if not pending or pending[0].block(gate, remaining, pending) or self._ready:
            return
        raise self._timed_out()

    def __aiter__(self) -> AsyncIterator[Future[T]]:
        return self

    async def __anext__(self) -> Future[T]:
        if not self._left:
            raise StopAsyncIteration
        while not self._ready:
            waiter, self._wake = loop_waiter()
            if not self._ready:
                await self._rest(waiter)
        return self._pop()

    async def _rest(self, waiter: asyncio.Future[None]) -> None:
        pending = list(self._pending)
        if not pending:
            return
        try:
            async with sys.modules["asyncio"].timeout(self._remaining()):
                await pending[0].rest(waiter, pending)
        except TimeoutError:
            if not self._ready:
                raise self._timed_out() from None

    def _pop(self) -> Future[T]:
        self._left -= 1
        return self._ready.popleft()

    def _remaining(self) -> float | None:
        return None if self._deadline is None else max(0.0, self._deadline - monotonic())

    def _timed_out(self) -> TimeoutError:
        return TimeoutError(f"{self._left} (of {self._total}) futures unfinished")


def _end_time(future: Future[Any]) -> float:
    return (future._promise.ended or 0.0) if future._promise.done else float("inf")


def resolve_futures_to_states(expr: Any) -> Any:
    """Block until every future in `expr` has ended; return `expr` with each replaced by its final State.

    Looks inside the containers that task arguments are searched in. Without futures the same object comes
    back. `quote(...)` stays as it is.
    """
    return graph.replace(expr, lambda upstream: upstream if isinstance(upstream, State) else _final_state(upstream))


def resolve_futures_to_results(expr: Any) -> Any:
    """Like `resolve_futures_to_states`, with values; raises a failed run's own exception."""
    return graph.replace(expr, lambda upstream: upstream.result())  # type: ignore[union-attr]


def _final_state(upstream: Any) -> Any:
    if isinstance(upstream, FutureList):
        return [_final_state(future) for future in upstream]
    upstream.wait()
    return upstream.state


def __getattr__(name: str) -> Any:
    if name == "PrefectFuture":  # the names in the import lines that people bring along
        return Future
    if name == "PrefectFutureList":
        return FutureList
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
