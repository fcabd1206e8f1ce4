"""Limits on how much happens at once, and how often: `concurrency`, `rate_limit`, `set_limit`."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Iterable, Sequence
from types import TracebackType

from penstock import settings
from penstock._engine import limits
from penstock._engine.context import current_run
from penstock._engine.leasing import Lease
from penstock._engine.limits import Limit
from penstock._engine.sources import Source
from penstock.exceptions import ConfigurationError
from penstock.store import owners
from penstock.store.leases import Leases

__all__ = ["concurrency", "rate_limit", "set_limit"]

logger = logging.getLogger("penstock.concurrency")

_warned: set[str] = set()
_NOTHING = limits.Limits()  # for those who name none


def concurrency(
    names: str | Iterable[str],
    occupy: int = 1,
    *,
    limit: int | None = None,
    timeout_seconds: float | None = None,
    strict: bool = False,
) -> Occupancy:
    """Hold slots of one or more concurrency limits: `with concurrency(…):` or `async with concurrency(…):`.

    Entering waits until `occupy` slots of every named limit are free and takes them all at once; leaving
    gives them back. Who came first is served first, whatever the size of the request. `with` blocks the
    thread, `async with` only the coroutine. The object is thread-safe and can be entered any number of times.

    Args:
        names: One name or several; with no names nothing is limited.
        occupy: How many slots to take of each.
        limit: How many slots each of the names has, as `set_limit` would define it. Without it, a name that
            has not been defined limits nothing, which is said once in a warning.
        timeout_seconds: How long to wait at most; None = as long as it takes, 0 = not at all.
        strict: Make it an error if a name has not been defined.

    Raises:
        ValueError: `occupy` is less than 1 or more than the limit.
        TimeoutError: On entering: there was no room in time; tells who holds the slots.
        ConfigurationError: On entering, if `strict`: a name has not been defined.

    Example:
        >>> from penstock.concurrency import concurrency
        >>> with concurrency("database", limit=2):
        ...     print("at most two of us are here")
        at most two of us are here
    """
    return Occupancy(_names(names), _amount(occupy, limit), limit, _timeout(timeout_seconds), strict)


def rate_limit(
    names: str | Iterable[str],
    occupy: int = 1,
    *,
    per_second: float | None = None,
    timeout_seconds: float | None = None,
    strict: bool = False,
) -> None:
    """Block until one or more rate limits let `occupy` more through. Who came first goes first.

    It blocks the thread: in a coroutine, write `await asyncio.to_thread(rate_limit, "api")`. Thread-safe.

    Args:
        names: One name or several; with no names nothing is limited.
        occupy: For how many to ask; more than one makes those who come next wait longer.
        per_second: How many each of the names lets through per second, at even distances. Without it, a name
            that has not been defined (see `set_limit`) limits nothing, which is said once in a warning.
        timeout_seconds: How long to wait at most; None = as long as it takes, 0 = not at all.
        strict: Make it an error if a name has not been defined.

    Raises:
        ValueError: `occupy` is less than 1 or more than the limit, `per_second` is not positive.
        TimeoutError: The turn did not come in time.
        ConfigurationError: If `strict`: a name has not been defined.

    Example:
        >>> from penstock.concurrency import rate_limit
        >>> for page in range(3):
        ...     rate_limit("api", per_second=100)
        ...     print("request", page)
        request 0
        request 1
        request 2
    """
    wanted, amount, timeout = _names(names), _amount(occupy, None), _timeout(timeout_seconds)
    if per_second is not None:
        rate = _rate(per_second)
        for name in wanted:
            limits.of().define_rate(name, rate)
    if not wanted:
        return
    table = limits.of()
    found = table.rates(wanted)
    _report_undefined("rate limit", "set_limit({!r}, 10, per_second=5)", wanted, found, strict)
    if found:
        _pass(Lease(table, found, amount, _holder()), timeout)


def set_limit(name: str, limit: int | None, per_second: float | None = None) -> None:
    """Define what `name` allows, from now on: also for those who hold or wait already.

    It holds in all processes of this machine that use the same store, until it is defined anew. Thread-safe.

    Args:
        name: The limit's name. A limit named `tag:x` applies to every task run tagged `x`.
        limit: How many slots `concurrency(name)` has, and how many `rate_limit(name)` lets through at once
            after a quiet time. None = there is no such limit (any more). Whoever holds more than a lowered
            limit keeps it; whoever waits for more than it gets a `ValueError`.
        per_second: How many `rate_limit(name)` lets through per second; None = any number.

    Example:
        >>> from penstock.concurrency import set_limit
        >>> set_limit("database", 5)
        >>> set_limit("api", 10, per_second=2.5)
        >>> set_limit("database", None)
    """
    if _names(name) != (name,):
        raise ValueError("A limit needs a name")
    rate = None if per_second is None else _rate(per_second)
    capacity = None if limit is None else _capacity(limit)
    table = limits.of()
    table.define_slots(name, capacity)
    table.define_rate(name, rate, capacity)


class Occupancy:
    """What `concurrency` returns: holds slots while a `with` or `async with` block is being executed."""

    def __init__(
        self, names: tuple[str, ...], amount: int, limit: int | None, timeout: float | None, strict: bool
    ) -> None:
        self._names = names
        self._amount = amount
        self._limit = limit
        self._timeout = timeout
        self._strict = strict
        # Whoever leaves pops any of them: leases of one object differ in nothing but their holders' names.
        self._leases: list[Lease] = []

    def __enter__(self) -> None:
        lease = self._lease()
        try:
            lease.wait(self._timeout)
            self._leases.append(lease)
        except BaseException:  # an interrupt included: the block will not be entered, so it cannot be left
            lease.release()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leases.pop().release()

    async def __aenter__(self) -> None:
        lease = self._lease()
        try:
            await lease.rest(self._timeout)
            self._leases.append(lease)
        except BaseException:  # cancellation included: it may come after the slots were granted
            lease.release()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leases.pop().release()

    def _lease(self) -> Lease:
        table = limits.of() if self._names else _NOTHING
        if self._limit is not None:
            for name in self._names:
                table.define_slots(name, self._limit)
        found = table.slots(self._names)
        _report_undefined("concurrency limit", "set_limit({!r}, 10)", self._names, found, self._strict)
        return Lease(table, found, self._amount, _holder())


def _pass(lease: Lease, timeout: float | None) -> None:
    try:
        lease.wait(timeout)
    finally:
        lease.release()  # nothing is held, but an interrupted wait must not leave its place in line behind


def _holder() -> str:
    run = current_run.get()
    return f"thread {threading.current_thread().name!r}" if run is None else f"{run.plan.kind} run {run.name!r}"


def _report_undefined(kind: str, cure: str, names: Iterable[str], found: Sequence[Limit[Source]], strict: bool) -> None:
    defined = {limit.name for limit in found}
    for name in names:
        if name in defined:
            continue
        message = f"No {kind} is defined for {name!r}"
        cure_for_name = cure.format(name)
        if strict:
            raise ConfigurationError(f"{message}: define it with {cure_for_name}")
        if name not in _warned:
            _warned.add(name)
            logger.warning("%s, so it limits nothing: define it with %s", message, cure_for_name)


def _names(names: str | Iterable[str]) -> tuple[str, ...]:
    wanted = [names] if isinstance(names, str) else list(names or ())
    for name in wanted:
        if not isinstance(name, str):
            raise TypeError(f"The names of limits must be strings, got {name!r}")
    return tuple(dict.fromkeys(name for name in wanted if name))


def _amount(occupy: int, limit: int | None) -> int:
    if _whole("occupy", occupy) < 1:
        raise ValueError(f"occupy must be at least 1, got {occupy}")
    if limit is not None and occupy > _capacity(limit):
        raise ValueError(f"occupy={occupy} is more than limit={limit}: it could never be granted")
    return occupy


def _capacity(limit: int) -> int:
    if _whole("limit", limit) < 1:
        raise ValueError(f"limit must be at least 1, got {limit}; None removes the limit")
    return limit


def _whole(option: str, value: int) -> int:
    if not isinstance(value, int):
        raise TypeError(f"{option} must be a whole number, got {value!r}")
    return value


def _rate(per_second: float) -> float:
    if not 0 < per_second < math.inf:
        raise ValueError(f"per_second must be a positive number, got {per_second!r}")
    return per_second


def _timeout(seconds: float | None) -> float | None:
    if seconds is not None and not seconds >= 0:
        raise ValueError(f"timeout_seconds must not be negative, got {seconds!r}")
    return seconds


_FRESH = 0.5  # seconds for which a directory that had to be looked for is believed
_homes: dict[tuple[str | None, ...], tuple[float, str]] = {}


def _home() -> str:
    """The store whose limits hold here: on a worker, that of the flow's process."""
    configured = (settings.overrides.get() or {}).get("PENSTOCK_HOME")
    if configured is None and (home := owners.worked_for()) is not None:
        return home
    configured = os.environ.get("PENSTOCK_HOME") if configured is None else configured
    if configured and configured[0] == os.sep:
        return configured
    # The search takes longer than everything else that is done for a slot.
    place = configured, os.getcwd(), os.environ.get("XDG_STATE_HOME"), os.environ.get("HOME")
    known = _homes.get(place)
    if known is None or known[0] < time.monotonic():
        known = _homes[place] = time.monotonic() + _FRESH, os.fspath(settings.home())
    return known[1]


limits.find_home = _home
limits.open_ledger = Leases
