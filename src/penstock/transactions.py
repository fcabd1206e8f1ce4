"""Transactions: work that counts as a whole, or is undone as a whole.

How a transaction comes about and ends is told in `_engine.transacting`, and what of it is stored in `_engine.staging`.
Here is what a user has to do with: blocks, their records, and runs as the engine sees them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextvars import Token
from datetime import UTC, datetime
from enum import StrEnum
from importlib import import_module
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from uuid import uuid4

from penstock import calls, settings
from penstock._core.machine import Reason
from penstock._engine import keeping
from penstock._engine.context import current_run, current_transaction
from penstock._engine.past import Label
from penstock._engine.record import Snapshot
from penstock._engine.staging import Entry, Later, Postponed, aside, drive, drive_in_loop, stand_in
from penstock._engine.transacting import OVER, Asked, Hook, Node, Progress, around
from penstock.exceptions import ConfigurationError, MissingResult, ResultCorrupt, StoreUnavailable
from penstock.states import Status

if TYPE_CHECKING:
    from penstock._engine.archive import Archive
    from penstock._engine.recorder import Recorder
    from penstock._engine.run import Run
    from penstock._engine.staging import Part, Steps
    from penstock.results.sealed import Header
    from penstock.results.store import ResultRecord, ResultStore
    from penstock.store.base import ResultRow

__all__ = ["CommitMode", "IsolationLevel", "Transaction", "get_transaction", "transaction"]

_LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)  # what has expired counts as absent
_RECORD = "transaction:"  # how the cache keys of records of transactions begin


def _process_home() -> tuple[Recorder, Archive]:
    """The store for transactions outside any run."""
    recorder = calls.process_recorder()
    return recorder, calls.archive_for(settings.home(), recorder, settings.current())


class CommitMode(StrEnum):
    """When a transaction commits."""

    LAZY = "LAZY"  # with the outermost one around it
    EAGER = "EAGER"  # at its own end; each run inside as soon as it has completed
    OFF = "OFF"  # only if it is told to: what has not been committed by hand is rolled back at its end


def _mode(option: CommitMode | str) -> CommitMode:
    try:
        return CommitMode(option)
    except ValueError:
        raise ConfigurationError(
            f"'commit_mode' must be one of {', '.join(mode.name for mode in CommitMode)}; got {option!r}"
        ) from None


class IsolationLevel(StrEnum):
    """What transactions with the same key see of each other."""

    READ_COMMITTED = "READ_COMMITTED"  # records that are there
    SERIALIZABLE = "SERIALIZABLE"  # one goes on at a time


class Answer(int):
    """True or False; may be awaited, which gives the same."""

    def __await__(self) -> Generator[None, None, bool]:
        return bool(self)
        yield

    def __repr__(self) -> str:
        return repr(bool(self))


class Transaction(Node):
    """What is committed, or rolled back, as a whole. A context manager, for `with` and for `async with`.

    Entered once. What a hook of a task gets is the transaction of that task run, which sees the values of those around
    it. Hooks may be added to the lists `on_commit_hooks` and `on_rollback_hooks`; they are called with the transaction.
    Thread-safe.
    """

    __slots__ = (
        *("_is_apart", "_lock_holder", "_place", "_rows", "_token", "_value", "commit_mode", "isolation_level", "key"),
        *("overwrite", "store", "write_on_commit"),
    )

    def __init__(
        self,
        key: str | None = None,
        store: ResultStore | None = None,
        commit_mode: CommitMode | str | None = None,
        isolation_level: IsolationLevel | str | None = None,
        overwrite: bool = False,
        write_on_commit: bool = True,
        logger: logging.Logger | logging.LoggerAdapter[Any] | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(key, str | None):
            raise TypeError(f"'key' must be a string; got {type(key).__name__}")
        self.key = key
        self.store = store
        self.commit_mode = None if commit_mode is None else _mode(commit_mode)
        self.isolation_level = None if isolation_level is None else IsolationLevel(isolation_level)
        self.overwrite = overwrite
        self.write_on_commit = write_on_commit
        self.logger = logger
        self._value: Any = None
        self._rows: Sequence[ResultRow] = ()  # of a result: the run's, or the record
        self._is_apart = False  # something of it is where only expiry can undo it
        self._place: tuple[Recorder, Archive] | None = None  # where the record is
        self._token: Token[Any] | None = None
        self._lock_holder: str | None = None

    # --- what the user may do in the block --------------------------------------------------------------------------

    def stage(self, value: Any, on_rollback_hooks: Iterable[Hook] = (), on_commit_hooks: Iterable[Hook] = ()) -> None:
        """Say what the record is to hold if the transaction has a key; add hooks. Nothing once it is over."""
        if self._state in OVER:
            return
        self._value = value
        self.on_rollback_hooks.extend(on_rollback_hooks or ())
        self.on_commit_hooks.extend(on_commit_hooks or ())
        self._state = Progress.STAGED

    def read(self) -> ResultRecord[Any] | None:
        """The record that an earlier transaction with this key has left; None if there is none. Blocks."""
        if self.key is None:
            return None
        if self.store is not None:
            try:
                return self.store.read(self.key)
            except MissingResult:
                return None
        found = self._find_record(self._home()[1])
        if found is None:
            return None
        results = import_module("penstock.results.store")  # slow to load, and only for who reads
        header, payload = found
        value = self._home()[1].serializer(header.serializer).loads(bytes(payload))
        created = datetime.fromtimestamp(header.created, UTC)
        record: ResultRecord[Any] = results.ResultRecord(
            value, results.ResultMetadata(self.key, created, None, header.serializer)
        )
        return record

    def commit(self) -> Answer:
        """Commit now what is inside, also what is to wait for a transaction around this one.

        False if it is over already, or had to be rolled back: because something inside has failed, a hook did, or
        the record could not be written. Blocks: it waits for what was submitted inside. The answer may be awaited.
        """
        return Answer(drive(self._decide(commit=True)))

    def rollback(self) -> Answer:
        """Undo now what is inside; the transaction around this one is rolled back at its end.

        False if it is over already. Blocks: it waits for what was submitted inside. The answer may be awaited.
        """
        return Answer(drive(self._decide(commit=False)))

    def _decide(self, commit: bool) -> Steps:
        if self._state in OVER:
            return False
        yield from self._settle(everything=False)
        if commit and not self._is_doomed:
            return (yield from self._commit())
        yield from self._undo()
        return not commit

    # --- the block --------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._prepare()
        drive(self._begin())
        return self._enter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            drive(self._leave(error, everything=False))
        finally:
            self._exit()

    async def __aenter__(self) -> Self:
        self._prepare()
        await drive_in_loop(self._begin())
        return self._enter()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await drive_in_loop(self._leave(error, everything=True))
        finally:
            self._exit()

    def _prepare(self) -> None:
        """Find the place in the tree, and what has not been said is as above."""
        if not self.is_pending():
            raise RuntimeError("A transaction can be entered once: make another one with transaction()")
        self._entered_in = run = current_run.get()
        above: Transaction | None = around(run)
        self._parent = above if above is not None or run is None or run.memo is None else run.memo.transaction
        if above is not None:
            self._place_below(above)
            self.store = self.store or above.store
            self.commit_mode = self.commit_mode or above.commit_mode
            self.isolation_level = self.isolation_level or above.isolation_level
        self.commit_mode = self.commit_mode or CommitMode.LAZY
        if self.key is not None and self.isolation_level is IsolationLevel.SERIALIZABLE and self._locks is None:
            raise ConfigurationError(
                "isolation_level=SERIALIZABLE needs a lock manager: give the transaction "
                "store=ResultStore(lock_manager=FileSystemLockManager(path))"
            )
        if self.key is not None and self.store is None:
            self._home()

    @property
    def _locks(self) -> Any:
        return None if self.store is None else self.store.lock_manager

    def _begin(self) -> Steps:
        if self.key is None:
            return
        if self.isolation_level is IsolationLevel.SERIALIZABLE:
            yield from self._take_lock()
        try:
            known = not self.overwrite and (yield from aside(self._has_record))
        except BaseException:
            self._give_lock_back()
            raise
        if known:
            self._state, self._closed = Progress.COMMITTED, True

    def _enter(self) -> Self:
        if self._state is Progress.PENDING:
            self._state = Progress.ACTIVE
        self._token = current_transaction.set(self)
        return self

    def _exit(self) -> None:
        self._give_lock_back()
        token, self._token = self._token, None
        if token is not None:
            try:
                current_transaction.reset(token)
            except ValueError:  # a generator that was entered here is closed somewhere else
                pass

    def _leave(self, error: BaseException | None, everything: bool) -> Steps:
        try:
            yield from self._settle(everything)
        except BaseException:  # interrupted while it waited
            if self._state not in OVER:
                yield from self._undo()
            raise
        if self._state in OVER:
            return
        if error is not None or self._is_doomed:
            yield from self._undo()
        elif self.commit_mode is CommitMode.OFF:
            yield from self._undo(dooms=False)
        elif self.commit_mode is CommitMode.EAGER or self._above is None:
            yield from self._commit()
        else:
            yield from self._hand_over(self._above, failed=False)
        if self._entered_in is None:  # else the run around sees to that
            recorder, _ = self._home()
            yield from aside(recorder.barrier)

    # --- the tree ---------------------------------------------------------------------------------------------------

    def _join(self, run: Run) -> bool:
        """For the engine, where the run is made: let it be part of the transaction, unless its caller is not."""
        above = around(run.parent)
        if above is None:
            return False
        memo = keeping.memo_of(run)
        memo.transaction = RunTransaction(run, above)
        memo.staged = above.commit_mode is not CommitMode.EAGER
        above._begun(run)
        return True

    @property
    def _label(self) -> str:
        return "The transaction" if self.key is None else f"The transaction {self.key!r}"

    # --- the record -------------------------------------------------------------------------------------------------

    def _home(self) -> tuple[Recorder, Archive]:
        run = self._entered_in
        # Remembered: what follows may be carried out on a thread with another context, and so with other settings.
        if self._place is None:
            found: tuple[Recorder, Archive] = _process_home() if run is None else self._home_of(run)
            self._place = found
        return self._place

    def _home_of(self, run: Run) -> tuple[Recorder, Archive]:
        if run.engine.archive is None:
            raise ConfigurationError(
                "a transaction with a key has no place for its record here: give it one, store=ResultStore(...)"
            )
        return run.engine.recorder, run.engine.archive

    def _has_record(self) -> bool:
        if self.store is not None:
            return self.store.exists(self.key or "")
        return self._find_record(self._home()[1]) is not None

    def _find_record(self, archive: Archive) -> tuple[Header, Any] | None:
        try:
            latest = archive.latest(f"{_RECORD}{self.key}", None, time.time())
            return None if latest is None else (latest.header, latest.payload)
        except (ResultCorrupt, StoreUnavailable, LookupError, OSError) as error:
            self._log(logging.WARNING, f"{self._label}: its record counts as absent: {error}")
            return None

    def write_apart(self) -> None:
        """Write what cannot be part of a transaction of the store. Raises what prevents that."""
        if self._leaves_record and self.store is not None:
            self.store.write(self.key or "", self._value)
            self._is_apart = True

    def take_back_apart(self) -> None:
        if self._is_apart and self.store is not None:
            self.store.write(self.key or "", None, _LONG_AGO)

    @property
    def _leaves_record(self) -> bool:
        return self.key is not None and self.write_on_commit

    def contribute(self, part: Callable[[Recorder], Part]) -> None:
        """Add to what is written to the store at once. Raises what prevents that."""
        if not self._leaves_record or self.store is not None:
            return
        recorder, archive = self._home()
        label = Label(uuid4().hex, f"{_RECORD}{self.key}", "transaction", time.time(), None, None)
        _, rows = archive.keep(label, self._value, archive.serializer("pickle"), None, durable=False)
        self._rows = list(rows)
        mine = part(recorder)
        mine.add(archive, rows)
        mine.waits = True

    def take_back(self, part: Callable[[Recorder], Part]) -> None:
        """Name what is to vanish from the store."""
        if self._rows:
            recorder, archive = self._home()
            part(recorder).add(archive, self._rows)

    # --- the lock ---------------------------------------------------------------------------------------------------

    def _take_lock(self) -> Steps:
        holder = uuid4().hex
        # Meanwhile others have this thread's slot: what is inside the transaction that holds the lock may need it.
        yield from aside(lambda: self._locks.acquire_lock(self.key, holder), lends=True)
        self._lock_holder = holder

    def _give_lock_back(self) -> None:
        holder, self._lock_holder = self._lock_holder, None
        if holder is not None:
            self._locks.release_lock(self.key, holder)


# --- runs -------------------------------------------------------------------------------------------------------------


class RunTransaction(Transaction):
    """That of one run: made with the run if it is made inside another one, else when somebody asks for it."""

    __slots__ = ("_attempts", "_engine", "_entry", "_held", "_keeping", "_later", "_memo", "_subject", "concluded")

    def __init__(self, run: Run, above: Transaction | None) -> None:
        super().__init__(commit_mode=CommitMode.EAGER if above is None else above.commit_mode)
        self._state = Progress.ACTIVE
        if above is not None:
            self._place_below(above)
            self.store, self.isolation_level, self.logger = above.store, above.isolation_level, above.logger
        elif run.parent is not None and run.parent.memo is not None:
            self._parent = run.parent.memo.transaction
        self._engine = run.engine
        self._memo: keeping.Memo = keeping.memo_of(run)
        self._keeping: Any = run.plan.keeping
        self._subject: Run | None = run  # when that is over, what stands in for it, if anything will be called
        self._attempts = 0  # that it took
        self._entry: Entry | None = None  # in the record, if it has completed
        self._held = False  # the result is not stored
        self._later: list[Later] | None = None
        self.concluded = False

    @property
    def _now(self) -> int:
        return self._attempts if self._subject is None else self._subject.attempt

    @property
    def _scope(self) -> Run | None:
        return self._subject

    @property
    def _label(self) -> str:
        run = self._subject
        return "The transaction of a run" if run is None else f"The transaction of {run.plan.kind} run {run.name!r}"

    @property
    def _asked(self) -> Asked | None:
        memo = self._memo
        if memo.key is None or memo.place is None or not (self._rows or self._later):
            return None
        return Asked(memo.place.storage, memo.key)

    # --- for the engine ---------------------------------------------------------------------------------------------

    def holds_back(self) -> bool:
        """The run is sealed: whether its result is not to be stored before the transaction commits."""
        if self._state in OVER:
            return self._state is Progress.ROLLED_BACK
        above = self._above
        if above is None or (above._closed and not above.is_rolled_back()):
            return False
        return above.is_rolled_back() or self.commit_mode is not CommitMode.EAGER or self._is_doomed

    @property
    def place(self) -> Any:
        """Where the result is, or will be."""
        return self._memo.place

    def answer(self, key: str, storage: Any) -> RunTransaction | None:
        """A run inside the transaction whose staged result answers to this key."""
        asked = Asked(None if storage is None else storage.uri, key)
        above = self._above
        while above is not None:
            found = above._answer(asked)
            if isinstance(found, RunTransaction):
                return found
            above = above._above
        return None

    def open(self, archive: Archive) -> Any:
        """The staged value. Raises like `Archive.read`."""
        assert self._memo.place is not None
        sealed = self._later[0].data if self._later else archive.sealed_in(self._rows[0])
        _, payload = archive.unseal(sealed, self._memo.place.key, of_key=bool(self._later))
        return self._keeping.serializer.loads(bytes(payload))

    def later(self, storage: Any) -> Any:
        """A stand-in for a custom storage: what is written to it is written when the transaction commits."""
        if storage is None:
            return None
        self._later = []
        return Postponed(storage, self._later)

    def hold(self, rows: Sequence[ResultRow]) -> None:
        """The rows of the run's result."""
        self._rows = rows

    def conclude(self, run: Run) -> Steps:
        """The run is sealed, and its result is staged or stored."""
        completed = run.status is Status.COMPLETED
        memo, self.concluded = self._memo, True
        self._held = memo.staged
        storage = None if memo.place is None or run.reason is Reason.CACHED else memo.place.storage
        self._is_apart = storage is not None and not memo.staged
        if completed:
            self._add_hooks(run)
            self._write_down(run)
        if completed and not self._held:
            yield from self._commit()
            self._let_go(run)
        else:
            self._let_go(run)
            yield from self._end_inside(completed)
        if self.is_rolled_back():
            memo.place = None

    def _add_hooks(self, run: Run) -> None:
        hooks = run.plan.hooks
        if hooks.get("on_commit"):
            self.on_commit_hooks.extend(hooks["on_commit"])
        if hooks.get("on_rollback"):
            self.on_rollback_hooks.extend(hooks["on_rollback"])

    def _let_go(self, run: Run) -> None:
        """The run is over. Its value is not to live as long as the transaction."""
        self._attempts = run.attempt
        self._subject = stand_in(run) if self._commit_hooks or self._rollback_hooks or self._children else None

    def _end_inside(self, completed: bool) -> Steps:
        if self._above is not None and not self.is_rolled_back():
            yield from self._hand_over(self._above, failed=not completed)
        elif self._rollback_hooks or completed:
            yield from self._undo()
        else:
            self._state = Progress.ROLLED_BACK

    def _write_down(self, run: Run) -> None:
        """Record the run as it has ended, and remember what has been recorded."""
        self._entry = Entry(Snapshot(run))
        if not self._memo.recorded:
            self._memo.recorded = True
            run.engine.recorder.finish(run, self._entry)

    # --- the record -------------------------------------------------------------------------------------------------

    def write_apart(self) -> None:
        for storage, key, data, durable in self._later or ():
            storage.write(key, data, durable=durable)
            self._is_apart = True

    def take_back_apart(self) -> None:
        place, archive = self._memo.place, self._engine.archive
        if self._is_apart and place is not None and archive is not None and self._entry is not None:
            gone = Label(self._entry.row.id, place.key, self._entry.row.key, 0.0, 0.0, None)
            archive.keep(gone, None, self._keeping.serializer, self._keeping.storage, durable=False)

    def contribute(self, part: Callable[[Recorder], Part]) -> None:
        if not self._held or self._entry is None or self._memo.place is None:
            return
        self._memo.staged = False
        position, result_key, storage, code = self._memo.columns()
        row = self._entry.row._replace(position=position, result_key=result_key, result_storage=storage, code=code)
        mine = part(self._engine.recorder)
        mine.replace(self._entry, row)
        mine.add(self._engine.archive, self._rows)
        durability = self._keeping.durability
        mine.power = mine.power or durability == "power"
        mine.waits = mine.waits or durability != "memory"

    def take_back(self, part: Callable[[Recorder], Part]) -> None:
        mine = part(self._engine.recorder)
        if self._entry is not None:
            self._memo.undone = True
            row = self._entry.row._replace(state_name="RolledBack", result_key=None, result_storage=None, code=None)
            mine.replace(self._entry, row)
        mine.add(self._engine.archive, self._rows)
        self._later = None


def _own(run: Run) -> RunTransaction:
    memo = keeping.memo_of(run)
    if memo.transaction is None:
        made = RunTransaction(run, None)
        with run.lock:  # two threads may ask at once
            memo.transaction = memo.transaction or made
    own: RunTransaction = memo.transaction
    return own


keeping.own_transaction = _own


# --- for users --------------------------------------------------------------------------------------------------------


def get_transaction() -> Transaction | None:
    """The transaction around the caller; inside a task, that of its run. None outside of both."""
    run = current_run.get()
    found: Transaction | None = around(run)
    if found is not None or run is None:
        return found
    if run.plan.kind == "task" or (run.memo is not None and run.memo.transaction is not None):
        return _own(run)
    return None


def transaction(
    key: str | None = None,
    store: ResultStore | None = None,
    commit_mode: CommitMode | str | None = None,
    isolation_level: IsolationLevel | str | None = None,
    overwrite: bool = False,
    write_on_commit: bool = True,
    logger: logging.Logger | logging.LoggerAdapter[Any] | None = None,
) -> Transaction:
    """Make one transaction of the runs in a block: `with transaction() as txn:` or `async with transaction() as txn:`.

    Leaving the block waits for the runs that were submitted in it. If all of them have completed, and the block has
    not raised, their results are stored at once, and `on_commit` hooks are called; else `on_rollback` hooks of those
    that completed, newest first, and no result is kept. A failed attempt that is followed by another one changes
    nothing; a run's final failure does, also if the caller catches it. Blocks nest: what is inside another one shares
    its fate, and dooms it by failing.

    Args:
        key: Makes the block idempotent: committing leaves a record with this key, and `txn.is_committed()` is True on
            entering if there is one. The block is executed all the same: leave it if it is not to be.
        store: Where the record is; by default in penstock's own store.
        commit_mode: See `CommitMode`; by default that of the transaction around this one, else LAZY.
        isolation_level: SERIALIZABLE: of the transactions with this key one goes on at a time. Needs a `store` with a
            lock manager. By default that of the transaction around this one, else READ_COMMITTED.
        overwrite: Take no notice of a record that is there.
        write_on_commit: Whether committing leaves a record.
        logger: Where to log, instead of with the run.

    Raises `ConfigurationError` on entering: SERIALIZABLE without a lock manager.

    >>> from penstock import flow, task
    >>> @task
    ... def write(name): print("write", name)
    >>> @write.on_rollback
    ... def delete(txn): print("delete", txn.get("name"))
    >>> @flow
    ... def publish():
    ...     with transaction() as txn:
    ...         txn.set("name", "a.txt")
    ...         write("a.txt")
    ...         raise ValueError("not good enough")
    >>> publish(return_state=True).name
    write a.txt
    delete a.txt
    'Failed'
    """
    return Transaction(key, store, commit_mode, isolation_level, overwrite, write_on_commit, logger)
