"""Concurrency limits and rate limits: who may go on now, and who stands in line.

A request stands in the lines of all limits that it names at once. It is admitted when it is the first in
every one of them and every one has room, and then takes from all of them in one step. So nobody is overtaken,
nobody holds one limit while waiting for another, and the request that came first of all is first in all of
its lines: it waits for nothing but running work, which is why requests cannot block each other for good.

The line does not know what it hands out. A limit's `Source` does: `Slots` are taken and given back, a `Rate`
is used up and grows again with time. Sources live in this process.

There is one way to wait, `Request.notify`, and three kinds of callers build on it: the engine is called back,
a thread waits for a lock (`Lease.wait`), a coroutine for a future (`Lease.rest`).

Hazard: Ctrl-C, a time limit or a cancellation may raise at any line of code here. So a request exists before
it takes anything, what it holds is written down in one place only (the sources), and `release` may be called
at any time and any number of times: calling it again puts right what was left half done. A `Lease` that is
dropped gives back what it holds. The lock is reentrant because a signal handler may cancel the very request
that its thread is in the middle of admitting.
"""

from __future__ import annotations

import logging
import os
import sys
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from math import inf
from threading import RLock
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from penstock._engine import clock, waiting
from penstock.futures import Gate

if TYPE_CHECKING:
    import asyncio

logger = logging.getLogger("penstock.limits")

HOLDERS_NAMED = 10
INSTANT = 1e-6  # seconds: a shorter pause is only the rounding error of the clock

_ADVICE = "use `async with concurrency(...)` or `await asyncio.to_thread(rate_limit, ...)`"


class Source(Protocol):
    """What a limit hands out. Every method is called under the lock of the limits."""

    @property
    def defined(self) -> bool:
        """False: there is nothing to keep to, and everybody may pass."""
        ...

    @property
    def most(self) -> int | None:
        """The largest amount that can ever be had at once; None = any."""
        ...

    def pause(self, request: Request) -> float:
        """Return in how many seconds there is room: 0 = now, infinity = when somebody gives back."""
        ...

    def take(self, request: Request) -> None: ...

    def give(self, request: Request) -> None:
        """Take back what `request` holds, if it holds anything."""
        ...

    def describe(self, name: str) -> str:
        """Tell a person what stands in the way."""
        ...


class Slots:
    """A number of places that are held and given back."""

    def __init__(self) -> None:
        self.capacity: int | None = None
        self.holders: dict[Request, int] = {}

    @property
    def defined(self) -> bool:
        return self.capacity is not None

    @property
    def most(self) -> int | None:
        return self.capacity

    def pause(self, request: Request) -> float:
        if self.capacity is None:
            return 0.0
        # Added up each time: a counter beside the dictionary could be left wrong by an interrupt. The request
        # itself is among the holders if an interrupt struck while it was being admitted.
        others = sum(self.holders.values()) - self.holders.get(request, 0)
        return 0.0 if others + request.amount <= self.capacity else inf

    def take(self, request: Request) -> None:
        self.holders[request] = request.amount

    def give(self, request: Request) -> None:
        self.holders.pop(request, None)

    def describe(self, name: str) -> str:
        holders = [request.holder for request in self.holders]
        named = ", ".join(holders[:HOLDERS_NAMED])
        more = f" and {len(holders) - HOLDERS_NAMED} more" if len(holders) > HOLDERS_NAMED else ""
        by = f", held by {named}{more}" if holders else ""
        return f"concurrency limit {name!r} ({sum(self.holders.values())} of {self.capacity} slots taken{by})"


class Rate:
    """So many per second. The bookkeeping is one number: the moment at which everything taken is paid for.

    `burst` says how much may be taken on credit. Without it, each request waits until the ones before it are
    paid for, so requests pass at even distances, and a large one makes the next one wait long.
    """

    def __init__(self) -> None:
        self.per_second: float | None = None
        self.burst: int | None = None
        self.paid_at = -inf

    @property
    def defined(self) -> bool:
        return self.per_second is not None

    @property
    def most(self) -> int | None:
        return self.burst

    def pause(self, request: Request) -> float:
        if self.per_second is None:
            return 0.0
        credit = 0 if self.burst is None else self.burst - request.amount
        pause = self.paid_at - credit / self.per_second - clock.get().monotonic()
        return pause if pause > INSTANT else 0.0

    def take(self, request: Request) -> None:
        if self.per_second is not None:
            self.paid_at = max(self.paid_at, clock.get().monotonic()) + request.amount / self.per_second

    def give(self, request: Request) -> None:
        """Nothing: what has passed has passed."""

    def describe(self, name: str) -> str:
        return f"rate limit {name!r} ({self.per_second:g} per second)"


S_co = TypeVar("S_co", bound=Source, covariant=True)


class Limit(Generic[S_co]):
    """A name, what it hands out, and the line in front of it."""

    __slots__ = ("line", "name", "source")

    def __init__(self, name: str, source: S_co) -> None:
        self.name = name
        self.source = source
        # An ordered dictionary: looking at the front and leaving from the middle both cost the same for a
        # line of any length. A plain one gets slow at the front once many have left from there.
        self.line: OrderedDict[Request, None] = OrderedDict()

    def first(self) -> Request | None:
        return next(iter(self.line), None)

    def too_much(self, request: Request) -> ValueError | None:
        """Return what to tell a request that can never be admitted."""
        most = self.source.most
        if most is None or request.amount <= most:
            return None
        return ValueError(f"occupy={request.amount} is more than the limit {self.name!r} allows ({most})")


class Request:
    """Somebody's wish to pass some limits. It holds nothing, and is in no line, until it is submitted.

    Methods do not block and are thread-safe.
    """

    __slots__ = (
        "_table",
        "amount",
        "closed",
        "error",
        "granted",
        "holder",
        "limits",
        "notified",
        "notify",
        "timer",
    )

    def __init__(
        self,
        table: Limits,
        limits: Sequence[Limit[Source]],
        amount: int,
        notify: Callable[[], object],
        holder: str,
    ) -> None:
        self._table = table
        self.limits = limits
        self.amount = amount
        self.notify = notify
        self.holder = holder  # for people: who holds or waits
        self.granted = False
        self.closed = False  # cancelled, refused or given back
        self.notified = False
        self.error: Exception | None = None
        self.timer: clock.Timer | None = None  # when to look again, while first in line for a rate

    def submit(self) -> bool:
        """Take what was asked for and return True, or stand in line and return False. Call it once.

        If it was False, `notify` is called once, when the request is granted or when it is refused (then
        `error` is set), unless `cancel` or `release` comes first. The call comes from whatever thread made
        room: it must be short, must not block and must not run user code. A request for more than a limit's
        capacity is a `ValueError`.
        """
        return self._table.submit(self)

    def cancel(self) -> bool:
        """Leave the line; False if it is too late for that: the request was granted, or is over."""
        return self._table.withdraw(self)

    def refuse(self, error: Exception) -> bool:
        """Leave the line and be notified of `error`; False if it is too late for that."""
        return self._table.withdraw(self, error)

    def release(self) -> None:
        """Give back what was granted, or leave the line. Calling it again does no harm."""
        try:
            self._table.close(self)
        except BaseException:  # an interrupt: see the module's docstring
            self._table.close(self)
            raise


class Limits:
    """The limits of one process and everybody who wants to pass them. Thread-safe; nothing here blocks."""

    def __init__(self) -> None:
        self._lock = RLock()
        self._slots: dict[str, Limit[Slots]] = {}
        self._rates: dict[str, Limit[Rate]] = {}
        self._settled: deque[Request] = deque()  # decided under the lock, to be notified without it

    # --- definitions ------------------------------------------------------------------------------------

    def define_slots(self, name: str, capacity: int | None) -> None:
        """Let `capacity` slots of `name` be held at once; None = the limit is no longer defined.

        Holders keep what they have: if that is more than `capacity`, nobody enters until it is less. Who
        waits for more than `capacity` is refused with a `ValueError`.
        """
        with self._lock:
            limit = self._slots.setdefault(name, Limit(name, Slots()))
            if limit.source.capacity == capacity:  # the common case: each user of the limit defines it
                return
            limit.source.capacity = capacity
            self._redefined(limit)
        self._notify()

    def define_rate(self, name: str, per_second: float | None, burst: int | None = None) -> None:
        """Let `name` be passed `per_second` times, see `Rate`; None = the rate is no longer defined."""
        with self._lock:
            limit = self._rates.setdefault(name, Limit(name, Rate()))
            if (limit.source.per_second, limit.source.burst) == (per_second, burst):
                return
            limit.source.per_second, limit.source.burst = per_second, burst
            self._redefined(limit)
        self._notify()

    def slots(self, names: Iterable[str]) -> list[Limit[Slots]]:
        """Return the concurrency limits that are defined for `names`, ordered by name."""
        return _defined(self._slots, names)

    def rates(self, names: Iterable[str]) -> list[Limit[Rate]]:
        """Return the rate limits that are defined for `names`, ordered by name."""
        return _defined(self._rates, names)

    def tag_slots(self, tags: Iterable[str]) -> list[Limit[Slots]]:
        """Return the concurrency limits that apply to a task run with `tags`: those named `tag:…`."""
        return _defined(self._slots, [f"tag:{tag}" for tag in tags]) if self._slots else []

    # --- the lines --------------------------------------------------------------------------------------

    def submit(self, request: Request) -> bool:
        with self._lock:
            if request.closed:
                return False
            for limit in request.limits:
                error = limit.too_much(request)
                if error is not None:
                    raise error
            for limit in request.limits:
                limit.line[request] = None
            if self._may_pass(request):
                self._grant(request)
            return request.granted

    def withdraw(self, request: Request, error: Exception | None = None) -> bool:
        with self._lock:
            if request.granted or request.closed:
                return False
            self._withdraw(request, error)
            self._admit_next(request.limits)
        self._notify()
        return True

    def close(self, request: Request) -> None:
        self._close(request)
        self._notify()

    def explain(self, request: Request, waited: float) -> str:
        """Describe what `request` has been waiting for, and why in vain."""
        with self._lock:
            obstacles = [
                limit.source.describe(limit.name) + _ahead(limit, request)
                for limit in request.limits
                if limit.first() is not request or limit.source.pause(request) > 0
            ]
        return f"Timed out after {waited:g} s waiting for {' and '.join(obstacles)}"

    def forget_holders(self) -> None:
        """Start afresh in a forked child: its parent's requests are not its own. Definitions stay."""
        self._lock = RLock()  # the old one may have been held by a thread that did not come along
        self._settled.clear()
        limits: list[Limit[Source]] = [*self._slots.values(), *self._rates.values()]
        for limit in limits:
            holders = limit.source.holders if isinstance(limit.source, Slots) else ()
            for request in (*limit.line, *holders):
                request.closed = True
                self._drop(request)

    def _close(self, request: Request) -> None:
        with self._lock:
            request.closed = True
            self._drop(request)
            self._admit_next(request.limits)

    def _look(self, request: Request) -> None:
        with self._lock:
            self._admit_next(request.limits)
        self._notify()

    def _notify(self) -> None:
        """Tell those whose requests were settled. Called without the lock: they have locks of their own."""
        while self._settled:
            try:
                request = self._settled.popleft()
            except IndexError:  # another thread was faster
                return
            if request.notified or not (request.granted or request.error):
                continue  # it is here twice, or was cancelled, because something struck while it was settled
            request.notified = True
            try:
                request.notify()
            except Exception:  # for instance an event loop that was closed: nobody will use the slots
                logger.exception("Could not tell %s that its turn has come", request.holder)
                self._close(request)

    # The rest is called with the lock held.

    def _redefined(self, limit: Limit[Source]) -> None:
        for request in list(limit.line):
            error = limit.too_much(request)
            if error is not None:
                self._withdraw(request, error)
                self._admit_next(request.limits)
        self._admit_next([limit])

    def _withdraw(self, request: Request, error: Exception | None) -> None:
        request.closed = True
        request.error = error
        self._drop(request)
        if error is not None:
            self._settled.append(request)

    def _drop(self, request: Request) -> None:
        for limit in request.limits:
            limit.line.pop(request, None)
            limit.source.give(request)
        if request.timer is not None:
            request.timer.cancel()

    def _admit_next(self, limits: Iterable[Limit[Source]]) -> None:
        """Something changed at `limits`: admit who is first in line, then who is first after that."""
        changed = list(limits)
        while changed:
            request = changed.pop().first()
            if request is not None and self._may_pass(request):
                self._settled.append(request)
                self._grant(request)
                changed.extend(request.limits)

    def _may_pass(self, request: Request) -> bool:
        """Is it the turn of `request`, and is there room? If only time is missing, look again then."""
        pause = 0.0
        for limit in request.limits:
            if limit.first() is not request and request in limit.line:
                return False
            pause = max(pause, limit.source.pause(request))
        if pause > 0:
            self._look_again(request, pause)
        return pause == 0

    def _grant(self, request: Request) -> None:
        # Out of the lines comes last: if an interrupt strikes before, the next look at a line finds it again.
        for limit in request.limits:
            limit.source.take(request)
        request.granted = not request.closed
        for limit in request.limits:
            limit.line.pop(request, None)
        if request.closed:  # by a signal handler, since it was found to be the first
            self._drop(request)

    def _look_again(self, request: Request, pause: float) -> None:
        if request.timer is not None:
            request.timer.cancel()
        if pause < inf:
            request.timer = clock.get().call_later(pause, partial(self._look, request))


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


T = TypeVar("T", bound=Limit[Source])


def _defined(table: dict[str, T], names: Iterable[str]) -> list[T]:
    found = [table[name] for name in sorted(names) if name in table]
    return [limit for limit in found if limit.source.defined]


def _ahead(limit: Limit[Source], request: Request) -> str:
    ahead = 0
    for other in limit.line:
        if other is request:
            break
        ahead += 1
    return f" with {ahead} ahead in line" if ahead else ""


shared = Limits()
"""The limits of this process."""

if sys.platform != "win32":
    os.register_at_fork(after_in_child=shared.forget_holders)
