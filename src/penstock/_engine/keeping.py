"""Finished work stays finished: a run's value is looked for before its body runs, and kept before anybody hears of it.

There are two places to look. The *past* has what earlier lives of the same root run completed, by position among its
runs: that is how a flow is resumed, and how it is retried. The *cache* has what any run computed, by key: equal
questions have equal keys. What a key is made of is decided above the engine, in `caching`.

A position is told by the parent's position, the task's identity, its inputs, and a number among equals. So it is the
same in every life of a flow whose body asks for the same things, in whatever order they come to an end.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple

from penstock._core.errors import describe
from penstock._core.keys import Unhashable, combine, digest_of
from penstock._core.machine import MISS, Command, Event
from penstock._core.outcome import Outcome
from penstock._engine import ending, record
from penstock._engine.arrival import Arrivals
from penstock._engine.computing import Turn, computing
from penstock._engine.past import Label, Place
from penstock._engine.record import Snapshot
from penstock._engine.requests import Aside
from penstock._engine.upstream import runs_behind
from penstock.exceptions import ResultCorrupt, StoreUnavailable
from penstock.states import Status
from penstock.store.base import Batch

if TYPE_CHECKING:
    from penstock._engine.archive import Archive
    from penstock._engine.run import Run
    from penstock.results.storages import Storage
    from penstock.serializers import Serializer
    from penstock.store.base import ResultRow

_ROOT = "0" * 32
_UNKNOWN = "?"  # stands for inputs that cannot be compared
_placing = Lock()


class Question(NamedTuple):
    """What a run asks for, as far as the cache can tell."""

    key: str | None  # equal questions have equal keys; None: it is not to be answered by the cache
    inputs: str | None  # digest of the arguments; None: they cannot be compared
    code: str | None = None  # digest of the function
    ingredients: dict[str, Any] | None = None  # what the key was made of, for explanations


@dataclass(frozen=True, slots=True, eq=False)
class Keeping:
    """How the values of one definition are kept, inside one engine."""

    serializer: Serializer
    archive: Archive
    storage: Storage | None  # None: the store of the record
    durability: str  # memory, process, power
    in_memory: bool
    expiration: float | None  # seconds
    refresh: bool
    compare: Callable[[Run], str | None]  # digest of the arguments; None: they cannot be compared
    ask: Callable[[Run], Question]
    lock_manager: Any = None


class Memo:
    """What a run remembers about keeping values: its own, and those of the runs below it."""

    __slots__ = (
        *("code", "counts", "forced", "holds", "ingredients", "key", "place", "position", "recorded", "staged"),
        *("transaction", "undone", "unknown"),
    )

    def __init__(self) -> None:
        self.position: str | None = None
        self.counts: dict[tuple[str, str], Iterator[int]] = {}  # of its children, by what they ask for
        self.key: str | None = None
        self.code: str | None = None
        self.ingredients: dict[str, Any] | None = None
        self.place: Place | None = None  # where the value is kept
        self.holds = False  # others wait for the value rather than compute it, too
        self.forced = False  # it was not to be restored, so what depends on it is not to be either
        self.recorded = False  # as it has ended
        self.unknown = False  # its inputs cannot be compared: nobody will look for its value
        self.transaction: Any = None  # its own, if it is part of another one or somebody has asked for it
        self.undone = False  # the transaction that the run was part of has been rolled back
        self.staged = False  # the value is not kept before the transaction around it commits

    def columns(self) -> tuple[str | None, str | None, str | None, str | None]:
        """position, result_key, result_storage, code: the last columns of the run's row."""
        if self.place is None or self.staged:
            return self.position, None, None, None
        position = None if self.unknown else self.position
        return position, self.place.key, self.place.storage, self.code


def memo_of(run: Run) -> Memo:
    with run.lock:
        if run.memo is None:
            run.memo = Memo()
        return run.memo


def position_of(run: Run, inputs: str | None = None) -> str:
    """The run's place in its root run's tree. `inputs`: digest of its arguments; None: they cannot be compared."""
    memo = memo_of(run)
    if memo.position is not None:
        return memo.position
    parent = run.parent
    if parent is None:
        memo.position = _ROOT
        return _ROOT
    above = position_of(parent)
    if run.plan.keeping is None:  # nobody has compared them yet
        inputs = _digest(run.parameters)
    with _placing:
        if memo.position is None:
            memo.position = _place(run, parent, above, inputs)
        return memo.position


wanted = False
"""Whether a task or flow of this program asks for its values to be kept. Set from above: see `keeping_options`."""


def position_abroad(run: Run) -> str | None:
    """The position, for a process that executes the run; None where nobody will ask for it.

    Only here can it be told, and what will be called inside is not known: so it is worked out for all runs as soon as
    values are kept at all.
    """
    if wanted or run.engine.outermost.memo is not None:
        return position_of(run)
    return None if run.memo is None else run.memo.position


def _digest(parameters: dict[str, Any]) -> str | None:
    try:
        return digest_of(parameters)
    except Unhashable:
        return None


def _place(run: Run, parent: Run, above: str, inputs: str | None) -> str:
    kind = (run.plan.key, inputs or _UNKNOWN)
    number = next(memo_of(parent).counts.setdefault(kind, count()))
    return combine("position", above, *kind, str(number))


own_transaction: Any = None
"""Makes the transaction of a run that is part of no other one. Set from above: see `transactions`."""


def forget_children(run: Run) -> None:
    """Another attempt at the run follows, which asks for the same things again."""
    if run.memo is not None:
        run.memo.counts.clear()


# --- before the body --------------------------------------------------------------------------------------------


def look_up(run: Run) -> Generator[Any, Any, Command]:
    """Find the value that the run would compute, or have it computed: by this run, or by one that is at it already."""
    keeping = run.plan.keeping
    memo = memo_of(run)
    if run.parent is None and run.plan.kind == "flow":
        _keep_parameters(run)
        return run.advance(MISS)
    memo.forced = _is_forced(run)
    if run.engine.past.lives and _remember(run, keeping):
        return _hit(run)
    try:
        question = keeping.ask(run)
    except Exception as error:  # a storage key's template does not fit the parameters
        return run.fail(Event.REFUSED, error)
    memo.key, memo.code, memo.ingredients = question.key, question.code, question.ingredients
    position = _settle_position(run, question.inputs)
    if question.key is None:
        return run.advance(MISS)
    again = keeping.refresh or memo.forced or run.engine.past.executes(run.plan.name, position)
    return (yield from _look_in_cache(run, keeping, question.key, again))


def _remember(run: Run, keeping: Keeping) -> bool:
    """Take the value from the past, if another life has computed it and it may be used."""
    past, memo = run.engine.past, memo_of(run)
    inputs = keeping.compare(run)
    position = _settle_position(run, inputs)
    if inputs is None or memo.forced or past.executes(run.plan.name, position):
        return False
    found = past.at(position)
    if found is None or not _restore(run, found.place):
        return False
    memo.code = found.code
    return True


def _settle_position(run: Run, inputs: str | None) -> str:
    memo_of(run).unknown = inputs is None
    return position_of(run, inputs)


def _keep_parameters(run: Run) -> None:
    """Those of a flow that the record itself cannot give back, for another life."""
    if record.is_plain(run.parameters):
        return
    now = run.engine.now()
    label = Label(record.parameters_address(run.hex), None, run.plan.key, now, None, None)
    archive = run.plan.keeping.archive
    try:
        _, rows = archive.keep(label, run.parameters, archive.serializer("pickle"), None, durable=False)
    except Exception as error:
        warn(run, f"its parameters are not kept, so resuming it will take `parameters=`: {describe(error)}")
        return
    batch = Batch.empty()
    batch.results.extend(rows)
    run.engine.recorder.add(record.Foreign(batch))


def _is_forced(run: Run) -> bool:
    """Whether somebody wants the run to be executed, or a run that it depends on."""
    starts = run.engine.past.starts
    if not starts:
        return False
    upstreams = (promise for link in run.links for promise in runs_behind(link.upstream))
    return run.plan.name in starts or any(_was_forced(promise, starts) for promise in upstreams)


def _was_forced(promise: Any, starts: frozenset[str]) -> bool:
    if not hasattr(promise, "memo"):  # a State, behind which there is no run
        return False
    return promise.plan.name in starts or (promise.memo is not None and promise.memo.forced)


def _look_in_cache(run: Run, keeping: Keeping, key: str, again: bool) -> Generator[Any, Any, Command]:
    """`again`: it is to be computed whatever the cache says."""
    turn = Turn(key, run.plan.keeping.archive.locks, keeping.lock_manager)
    while True:
        answer = True if turn.take(run) else (yield turn)
        if answer is None:  # cancelled
            return run.advance(MISS)
        if type(answer) is Outcome:
            return ending.crash(run, answer)
        if not again and (_find_staged(run, keeping, key) or (yield from _find_kept(run, keeping, key))):
            computing.leave(run, found=True)
            return _hit(run)
        if answer:
            return run.advance(MISS)


def _find_staged(run: Run, keeping: Keeping, key: str) -> bool:
    """What a transaction has staged is there for what is part of it, and for nobody else."""
    transaction = memo_of(run).transaction
    staged = None if transaction is None else transaction.answer(key, keeping.storage)
    return staged is not None and _restore(run, staged.place, lambda: staged.open(run.plan.keeping.archive))


def _find_kept(run: Run, keeping: Keeping, key: str) -> Generator[Any, Any, bool]:
    found: list[tuple[Place, Any]] = []  # a slow storage may answer when the run has been cancelled, and ended
    if keeping.storage is None:
        _fetch(run, keeping, key, found)
    else:
        yield Aside(lambda: _fetch(run, keeping, key, found))
    if not found:
        return False
    memo_of(run).place, run.value = found[0]
    return True


def _fetch(run: Run, keeping: Keeping, key: str, found: list[tuple[Place, Any]]) -> None:
    with _absent_if_unreadable(run):
        latest = keeping.archive.latest(key, keeping.storage, run.engine.now())
        if latest is not None:
            value = keeping.archive.load(latest.header, latest.payload, keeping.serializer)
            found.append((latest.place, value))


def _restore(run: Run, place: Place, read: Callable[[], Any] | None = None) -> bool:
    """Take the value from where it is kept; False if nothing of use is there, which is said."""
    keeping = run.plan.keeping
    with _absent_if_unreadable(run):
        run.value = keeping.archive.read(place, run.engine.now(), keeping.serializer) if read is None else read()
        memo_of(run).place = place
        return True
    return False


@contextmanager
def _absent_if_unreadable(run: Run) -> Iterator[None]:
    try:
        yield
    except (ResultCorrupt, StoreUnavailable, LookupError, OSError) as error:
        warn(run, f"its kept result counts as absent: {error}")
    except Exception as error:  # of a storage, or a serializer: a class that is gone, for example
        warn(run, f"its kept result cannot be read: {describe(error)}")


def _hit(run: Run) -> Command:
    command = run.advance(Event.HIT)
    if command is Command.IGNORE:  # it was cancelled meanwhile
        run.value = None
        memo_of(run).place = None
    return command


# --- after the body ---------------------------------------------------------------------------------------------


def conclude(run: Run) -> Generator[Any, Any, None]:
    """The run is sealed: if it has completed, have its value and its record stored before anybody hears of it."""
    memo = memo_of(run)
    completed = run.status is Status.COMPLETED
    if memo.transaction is None and completed and run.plan.hooks.get("on_commit"):
        own_transaction(run)
    if memo.transaction is not None:
        memo.staged = memo.transaction.holds_back()
    if run.plan.keeping is not None and completed and memo.place is None:
        yield from _preserve(run)
    # Who waits outside the transaction does not wait for its end, but computes the value itself.
    computing.leave(run, found=memo.place is not None and not memo.staged)
    if memo.transaction is not None:
        yield from memo.transaction.conclude(run)
    keeping = run.plan.keeping
    if memo.place is not None and not memo.staged and keeping is not None and not keeping.in_memory:
        run.value = keeping.archive.stored(memo.place, keeping.serializer, run.shown_result or "")
        run.kept = (run.value,)


def _preserve(run: Run) -> Generator[Any, Any, None]:
    if run.kept:
        arrivals = Arrivals(run.kept)
        answer = yield arrivals
        if answer is not True or arrivals.error is not None:
            warn(run, f"its result could not be fetched, so it is not kept: {arrivals.error or 'cancelled'}")
            return
        value = arrivals.take(run.kept[0])
    else:
        value = run.value
    yield Aside(lambda: _store(run, value))  # pickling, files and the commit may take a while


def _store(run: Run, value: Any) -> None:
    rows = _keep(run, value)
    if rows is not None:
        _record(run, rows)


def _keep(run: Run, value: Any) -> Sequence[ResultRow] | None:
    """Seal the value and write it, unless it is small: then it goes with the record. None if it cannot be kept."""
    keeping: Keeping = run.plan.keeping
    memo = memo_of(run)
    try:
        storage = memo.transaction.later(keeping.storage) if memo.staged else keeping.storage
        place, rows = keeping.archive.keep(
            _label(run, keeping, memo), value, keeping.serializer, storage, durable=keeping.durability == "power"
        )
    except Exception as error:
        warn(run, f"its result is not kept: {describe(error)}")
        return None
    memo.place = place
    return rows


def _label(run: Run, keeping: Keeping, memo: Memo) -> Label:
    assert run.ended is not None
    expires = None if keeping.expiration is None else run.ended + keeping.expiration
    return Label(run.hex, memo.key, run.plan.key, run.ended, expires, memo.ingredients)


def _record(run: Run, rows: Sequence[ResultRow]) -> None:
    engine, durability, memo = run.engine, run.plan.keeping.durability, memo_of(run)
    if memo.transaction is not None:
        memo.transaction.hold(rows)
        if memo.staged:
            return
    engine.recorder.finish(run, Snapshot(run, rows, power=durability == "power"))
    memo.recorded = True
    if durability == "memory":
        run.plan.keeping.archive.unsettled = True
        return
    _commit(run)


def _commit(run: Run) -> None:
    if run.engine.recorder.commit():
        return
    archive = run.plan.keeping.archive
    archive.unsettled = True
    if not archive.refused:  # else a full disk would be told for each of thousands of results
        archive.refused = True
        warn(run, "its result is not stored yet, nor will further ones be while the run store cannot be written")


def warn(run: Run, message: str) -> None:
    run.engine.log(logging.WARNING, f"{run.label}: {message}", run)
