"""Concurrency limits and rate limits: who may go on now, and who stands in line.

A request stands in the lines of all limits that it names at once. It is admitted when it is the first in
every one of them and every one has room, and then takes from all of them in one step. So nobody is overtaken,
nobody holds one limit while waiting for another, and the request that came first of all is first in all of
its lines: it waits for nothing but running work, which is why requests cannot block each other for good.

The line does not know what it hands out. A limit's `Source` does: `Slots` are taken and given back, a `Rate`
is used up and grows again with time.

Other processes that use the same store are in the same lines. What they need to know is in a sheet for each limit:
how much a process holds, and the ticket of the one who is first in its line. Tickets are numbered through all
processes, so whoever finds that nobody elsewhere has an earlier one, and that there is room, may pass; the sheets are
read, and written if something has changed, under a lock. Who is not the first waits in its own process; a thread
(`company.Watch`) looks whether the others have moved on, and whether they live.

There is one way to wait, `Request.notify`, and three kinds of callers build on it: the engine is called back,
a thread waits for a lock (`leasing.Lease`), a coroutine for a future.

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
from time import monotonic
from typing import Any, Generic, TypeVar

from penstock._engine import clock
from penstock._engine.company import ALONE, NOBODY, STEADY, UNDEFINED, Definition, Ledger, Sheet, Watch
from penstock._engine.sources import Rate, Slots, Source

logger = logging.getLogger("penstock.limits")

MOMENT = 0.005  # seconds


S_co = TypeVar("S_co", bound=Source, covariant=True)
S = TypeVar("S", bound=Source)
T = TypeVar("T")


class Limit(Generic[S_co]):
    """A name, what it hands out, and the line in front of it."""

    __slots__ = ("line", "loaded", "name", "rest", "sheet", "source")

    def __init__(self, name: str, source: S_co) -> None:
        self.name = name
        self.source = source
        self.sheet: Sheet | None = None  # None: this process is alone
        self.rest = NOBODY  # the earliest ticket in other processes
        self.loaded = 0  # when the sheet was read: see `Limits._load`
        # An ordered dictionary: looking at the front and leaving from the middle both cost the same for a
        # line of any length. A plain one gets slow at the front once many have left from there.
        self.line: OrderedDict[Request, None] = OrderedDict()

    def forget_company(self) -> None:
        """What other processes have is not known any more."""
        self.rest = NOBODY
        self.source.forget_company()

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
        "ticket",
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
        self.ticket = NOBODY  # its number among those who wait, in all processes
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
    """The limits of one store and everybody in this process who wants to pass them. Thread-safe.

    Nothing here blocks, but for the moment that another process needs to do the same.
    """

    def __init__(self, ledger: Ledger | None = None) -> None:
        """Without a `ledger`, this process is alone."""
        self._ledger = ledger
        self._lock = RLock()
        self._slots: dict[str, Limit[Slots]] = {}
        self._rates: dict[str, Limit[Rate]] = {}
        self._settled: deque[Request] = deque()  # decided under the lock, to be notified without it
        self._visit = 0  # to the sheets
        self._touched: dict[Limit[Source], None] = {}  # to be written down
        self._redefinitions: list[Limit[Source]] = []  # by other processes, as they are found
        self._tags: dict[frozenset[str], list[Limit[Slots]]] = {}  # what `tag_slots` has found
        self._tags_until = 0.0  # then it looks again
        self._is_apart = False  # the files cannot be had just now
        self._trouble = False  # which has been said
        self._watch = Watch(self._look_around)

    # --- definitions ------------------------------------------------------------------------------------

    def define_slots(self, name: str, capacity: int | None) -> None:
        """Let `capacity` slots of `name` be held at once; None = the limit is no longer defined.

        Holders keep what they have: if that is more than `capacity`, nobody enters until it is less. Who
        waits for more than `capacity` is refused with a `ValueError`.
        """
        self._define(self._slots, name, Slots, (capacity, None))

    def define_rate(self, name: str, per_second: float | None, burst: int | None = None) -> None:
        """Let `name` be passed `per_second` times, see `Rate`; None = the rate is no longer defined."""
        self._define(self._rates, name, Rate, (per_second, burst if per_second is not None else None))

    def slots(self, names: Iterable[str]) -> list[Limit[Slots]]:
        """Return the concurrency limits that are defined for `names`, ordered by name."""
        return self._find(self._slots, names, Slots)

    def rates(self, names: Iterable[str]) -> list[Limit[Rate]]:
        """Return the rate limits that are defined for `names`, ordered by name."""
        return self._find(self._rates, names, Rate)

    def tag_slots(self, tags: Iterable[str]) -> list[Limit[Slots]]:
        """Return the concurrency limits that apply to a task run with `tags`: those named `tag:…`."""
        if self._ledger is None:
            return self.slots([f"tag:{tag}" for tag in tags]) if self._slots else []
        return self._of_tags(frozenset(tags))

    def _of_tags(self, tags: frozenset[str]) -> list[Limit[Slots]]:
        """Believed for a moment: each tagged task run asks more than once."""
        now = monotonic()
        if now > self._tags_until:
            self._tags.clear()
            self._tags_until = now + MOMENT
        found = self._tags.get(tags)
        if found is None:
            found = self._tags[tags] = self.slots([f"tag:{tag}" for tag in tags])
        return found

    def _define(self, table: dict[str, Limit[S]], name: str, make: Callable[[], S], numbers: Definition) -> None:
        with self._lock:
            limit = self._known(table, name, make, create=numbers != UNDEFINED)
            if limit is None or self._definition(limit) == numbers == limit.source.definition:
                return  # the common case: each user of the limit defines it
        self._exclusively(self._redefine, limit, numbers)
        self._tags.clear()
        self._notify()

    def _redefine(self, limit: Limit[Source], numbers: Definition) -> None:
        self._load(limit)
        limit.source.define(numbers)
        if limit.sheet is not None and not self._is_apart:
            try:
                limit.sheet.define(numbers)
            except OSError as error:
                self._part(error)
        self._redefined(limit)

    def _find(self, table: dict[str, Limit[S]], names: Iterable[str], make: Callable[[], S]) -> list[Limit[S]]:
        if self._ledger is None:
            found = [table[name] for name in sorted(names) if name in table]
            return [limit for limit in found if limit.source.defined]
        with self._lock:
            known = [self._known(table, name, make, create=False) for name in sorted(names)]
            return [limit for limit in known if limit is not None and self._definition(limit) != UNDEFINED]

    def _known(self, table: dict[str, Limit[S]], name: str, make: Callable[[], S], *, create: bool) -> Limit[S] | None:
        limit = table.get(name)
        if limit is not None and (limit.sheet is not None or self._ledger is None):
            return limit
        source = make() if limit is None else limit.source
        sheet = self._sheet(source.kind, name, create=create)
        if limit is None and (create or sheet is not None):
            limit = table.setdefault(name, Limit(name, source))
        if limit is not None and sheet is not None:
            limit.sheet = sheet
        return limit

    def _definition(self, limit: Limit[Source]) -> Definition:
        """As it is now; another process may have changed it."""
        if limit.sheet is not None:
            try:
                return limit.sheet.definition() or limit.source.definition
            except OSError as error:
                self._part(error)
        return limit.source.definition

    # --- the lines --------------------------------------------------------------------------------------

    def submit(self, request: Request) -> bool:
        return self._exclusively(self._submit, request)

    def withdraw(self, request: Request, error: Exception | None = None) -> bool:
        is_in_line = self._exclusively(self._leave, request, error)
        self._notify()
        return is_in_line

    def close(self, request: Request) -> None:
        self._close(request)
        self._notify()

    def explain(self, request: Request, waited: float) -> str:
        """Describe what `request` has been waiting for, and why in vain."""
        obstacles = self._exclusively(self._obstacles, request)
        return f"Timed out after {waited:g} s waiting for {' and '.join(obstacles)}"

    def forget_holders(self) -> None:
        """Start afresh in a forked child: its parent's requests are not its own. Definitions stay."""
        self._lock = RLock()  # the old one may have been held by a thread that did not come along
        self._watch.start_afresh()
        self._settled.clear()
        limits: list[Limit[Source]] = [*self._slots.values(), *self._rates.values()]
        for limit in limits:
            holders = limit.source.holders if isinstance(limit.source, Slots) else ()
            for request in (*limit.line, *holders):
                request.closed = True
                self._drop(request)
        self._touched.clear()  # the sheets that it has now say nothing of this process

    def rest(self) -> None:
        """Let go of files and threads, until they are needed again."""
        self._watch.end()
        if self._ledger is not None:
            with self._lock:
                self._ledger.rest()

    def _close(self, request: Request) -> None:
        try:
            is_back = self._give_back(request)
        except OSError as error:
            self._part(error)
            is_back = False
        if not is_back:
            self._exclusively(self._shut, request)

    def _give_back(self, request: Request) -> bool:
        """Without keeping others out, if nobody here waits: a process may write its own row at any time.

        Whoever reads meanwhile sees more taken than is. False: not so simple.
        """
        if self._ledger is None or self._lock._is_owned():  # type: ignore[attr-defined]
            return False
        with self._lock:
            sheets = [(limit, limit.sheet) for limit in request.limits if limit.sheet is not None]
            if any(limit.line or limit in self._touched for limit in request.limits) or self._is_apart:
                return False
            if not (self._ledger.is_current() and all(sheet.is_listed for _, sheet in sheets)):
                return False
            request.closed = True
            for limit, sheet in sheets:
                limit.source.give(request)
                self._touched[limit] = None
                if limit.source.kind == Slots.kind:
                    sheet.write(limit.source.tell(sheet), 0, limit.source.who())
                del self._touched[limit]
            return True

    def _look(self, request: Request) -> None:
        self._exclusively(self._admit_next, request.limits)
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

    # --- other processes --------------------------------------------------------------------------------

    def _exclusively(self, action: Callable[..., T], *arguments: Any) -> T:
        """Call `action` while nobody else, here or in another process, has to do with limits."""
        is_nested = self._lock._is_owned()  # type: ignore[attr-defined]  # by a signal handler
        with self._lock:
            if self._ledger is None or is_nested:
                return action(*arguments)
            try:
                self._begin(self._ledger)
                return action(*arguments)
            finally:
                self._end(self._ledger)

    def _begin(self, ledger: Ledger) -> None:
        self._visit += 1
        try:
            if ledger.lock():
                self._touched.update(dict.fromkeys(self._all()))  # nobody knows yet what this process holds
            self._is_apart = False
        except OSError as error:
            self._part(error)

    def _end(self, ledger: Ledger) -> None:
        """An interrupt may strike here: then the next one who comes does it, for instance when it gives back."""
        try:
            while self._redefinitions:
                self._redefined(self._redefinitions.pop())
            while self._touched and not self._is_apart:
                limit = next(iter(self._touched))
                self._write(limit)
                self._touched.pop(limit, None)
        except OSError as error:
            self._part(error)
        finally:
            ledger.unlock()

    def _write(self, limit: Limit[Source]) -> None:
        self._load(limit)
        if limit.sheet is None or self._is_apart:
            return
        held = limit.source.tell(limit.sheet)
        first = limit.first()
        limit.sheet.write(held, 0 if first is None else first.ticket, limit.source.who() if held else "")

    def _load(self, limit: Limit[Source]) -> None:
        """Learn what other processes have written; once for each time that they are kept out."""
        if limit.sheet is None or limit.loaded == self._visit or self._is_apart:
            return
        try:
            definition = limit.sheet.load()
            if definition is None:
                definition = limit.source.definition
                limit.sheet.define(definition)
        except OSError as error:
            self._part(error)
            return
        limit.loaded = self._visit
        limit.rest = limit.sheet.first_elsewhere()
        limit.source.learn(limit.sheet)
        if definition != limit.source.definition:
            limit.source.define(definition)
            self._redefinitions.append(limit)

    def _part(self, error: OSError) -> None:
        """Go on alone, for now: what cannot be shared still holds here."""
        self._is_apart = True
        for limit in self._all():
            limit.forget_company()
        if not self._trouble:
            self._trouble = True
            logger.warning("Limits hold in this process only, because what others use cannot be had: %s", error)

    def _sheet(self, kind: str, name: str, *, create: bool) -> Sheet | None:
        if self._ledger is None:
            return None
        try:
            return self._ledger.sheet(kind, name, create=create)
        except OSError as error:
            self._part(error)
            return None

    def _all(self) -> list[Limit[Source]]:
        return [*self._slots.values(), *self._rates.values()]

    def _look_around(self, is_time: bool) -> float | None:
        """Move on if others have; see `Watch`."""
        waited_for = [limit for limit in self._all() if limit.line]
        if not waited_for:
            return None
        shared = [limit for limit in waited_for if limit.sheet is not None]
        changed = any(limit.sheet.changed() for limit in shared if limit.sheet is not None)
        has_company = any(limit.sheet.has_company for limit in shared if limit.sheet is not None)
        if changed or has_company or is_time:
            self._exclusively(self._look_at, shared, is_time)
            self._notify()
        return 0 if changed else STEADY if has_company else ALONE

    # The rest is called with the lock held.

    def _submit(self, request: Request) -> bool:
        if request.closed:
            return False
        for limit in request.limits:
            self._load(limit)
            error = limit.too_much(request)
            if error is not None:
                raise error
        for limit in request.limits:
            limit.line[request] = None
        if self._may_pass(request) or (self._has_buried(request) and self._may_pass(request)):
            self._grant(request)
        elif self._ledger is not None:
            self._line_up(request, self._ledger)
        return request.granted

    def _line_up(self, request: Request, ledger: Ledger) -> None:
        """Other processes are to know that it waits, if it is the first here."""
        has_company = False
        if not self._is_apart:
            try:
                request.ticket = ledger.ticket()
            except OSError as error:
                self._part(error)
        for limit in request.limits:
            self._touched[limit] = None
            has_company |= limit.sheet is not None and limit.sheet.has_company
        self._watch.begin(hurry=has_company)

    def _has_buried(self, request: Request) -> bool:
        """Whether there were dead processes in the way of a request that is the first in its lines."""
        found = False
        for limit in request.limits:
            if limit.sheet is not None and limit.sheet.has_company and limit.first() is request:
                found |= self._drop_dead(limit, limit.sheet)
        return found

    def _drop_dead(self, limit: Limit[Source], sheet: Sheet) -> bool:
        if self._is_apart or not sheet.drop_dead():
            return False
        limit.rest = sheet.first_elsewhere()
        limit.source.learn(sheet)
        return True

    def _look_at(self, limits: Sequence[Limit[Source]], is_time: bool) -> None:
        for limit in limits:
            if limit.sheet is None:
                continue
            self._load(limit)
            self._drop_dead(limit, limit.sheet)
            if is_time and not self._is_apart:
                limit.sheet.look()
        self._admit_next(limits)

    def _leave(self, request: Request, error: Exception | None) -> bool:
        if request.granted or request.closed:
            return False
        self._withdraw(request, error)
        self._admit_next(request.limits)
        return True

    def _shut(self, request: Request) -> None:
        request.closed = True
        self._drop(request)
        self._admit_next(request.limits)

    def _obstacles(self, request: Request) -> list[str]:
        for limit in request.limits:
            self._load(limit)
        return [
            limit.source.describe(limit.name) + _ahead(limit, request)
            for limit in request.limits
            if limit.first() is not request or limit.rest < request.ticket or limit.source.pause(request) > 0
        ]

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
            self._touched[limit] = None
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
            self._load(limit)
            if limit.rest < request.ticket:
                return False
            pause = max(pause, limit.source.pause(request))
        if pause > 0:
            self._look_again(request, pause)
        return pause == 0

    def _grant(self, request: Request) -> None:
        # Out of the lines comes last: if an interrupt strikes before, the next look at a line finds it again.
        for limit in request.limits:
            self._touched[limit] = None
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


def _ahead(limit: Limit[Source], request: Request) -> str:
    ahead = 0
    for other in limit.line:
        if other is request:
            break
        ahead += 1
    if limit.sheet is not None:
        ahead += limit.sheet.ahead(request.ticket)
    return f" with {ahead} ahead in line" if ahead else ""


_tables: dict[str, Limits] = {}  # by the directory, and by other names of it
_opening = RLock()


def of(home: str | os.PathLike[str] | None = None) -> Limits:
    """The limits of the store in `home`; None: of the one that the settings name here and now."""
    name = find_home() if home is None else os.fspath(home)
    table = _tables.get(name)
    if table is None:
        with _opening:
            place = os.path.realpath(name) if name else name  # one directory is one store, whatever it is called
            table = _tables.get(place) or Limits(open_ledger(place))
            _tables[place] = _tables[name] = table
    return table


def _no_store() -> str:
    return ""


def _no_ledger(home: str) -> Ledger | None:
    return None


find_home: Callable[[], str] = _no_store
"""Set by `penstock`: the engine knows no implementation of a store."""

open_ledger: Callable[[str], Ledger | None] = _no_ledger
"""Likewise."""


def rest() -> None:
    """Let go of files and threads, until they are needed again."""
    for table in set(_tables.values()):
        table.rest()


def _forget_holders() -> None:
    global _opening
    _opening = RLock()
    for table in set(_tables.values()):
        table.forget_holders()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_forget_holders)
