"""The single writer: runs and log lines go into a queue, one thread carries them to the store in batches.

On the way of a run there is only `touch`: put a ticket for the run into a queue. The writer thread sleeps until
something is touched, lets work gather for `WINDOW` seconds, then takes a snapshot of every run in the queue
and writes all of them in one transaction. A run that was created and has ended within one window is one row.

Order: the engine changes a run first and touches it after that; the writer takes the ticket away first and its
snapshot after that. So a change is either in the snapshot or the run is in the queue again.

The queue must not keep what a run returned alive: a loop over large results would be as large as all results of
a window. So a run that ends leaves the last snapshot on its ticket, in its own place.

When the store fails
--------------------
A store that is read-only, full, locked, or gone never fails the work that is being recorded. There is one
warning. Records stay in memory (`BACKLOG` of them; then those of the runs that finished first are dropped,
and counted) and are offered to the store again every `RETRY` seconds, and whenever somebody waits at a
barrier. A barrier gives up when the store has taken nothing for a second. `close`, which also happens at
interpreter exit, is more patient with a store that is only locked, and says what was lost in the end.

If the store was deleted or replaced, and thus had to begin afresh, there is a warning, and the runs that have not
ended are written to it once more, so that their children do not dangle.
"""

from __future__ import annotations

import atexit
import os
import threading
from _thread import LockType
from collections import deque
from collections.abc import Callable
from itertools import islice
from logging import getLogger
from time import monotonic
from typing import Any, Protocol, TypeVar

from penstock._engine.mailbox import LOOK_EVERY
from penstock.store.base import (
    AttemptRow,
    Batch,
    EdgeRow,
    LogRow,
    OwnerDeclaredDead,
    ResultRow,
    RunRow,
    Store,
    StoreLocked,
    StoreMissing,
)

WINDOW = 0.05  # seconds in which work gathers before it is written
YOUTH = 4  # windows that the first row of a run that waits to start may be late
CHUNK = 4096  # runs and log lines taken from the queue for one transaction: others wait for it
HEAVY = 8_000_000  # bytes of kept values beyond which a transaction takes no more
BACKLOG = 100_000  # records kept in memory while the store cannot be written
RETRY = 1.0  # seconds between attempts to write to a failing store
PATIENCE = 1.0  # seconds that a barrier waits for a store that takes nothing
LOCK_PATIENCE = 5.0  # seconds that one attempt waits for a locked store; longer: nobody waits for it
EXIT_PATIENCE = 30.0  # seconds that `close` waits for a locked store
STUCK = 10.0  # seconds after which `close` believes that a write will never return

_logger = getLogger("penstock.store")
T = TypeVar("T")


class Recordable(Protocol):
    """What the writer needs of a run, or of a snapshot."""

    @property
    def unstarted(self) -> bool:
        """Whether it only waits: then its first row may be a little late, and often is also its last."""
        ...

    @property
    def power(self) -> bool:
        """Whether it must survive a power failure from the moment that it is committed."""
        ...

    def taken(self, ticket: Ticket) -> Recordable:
        """The writer has the ticket: a later touch needs a new one. Returns what is on the ticket then."""
        ...

    def rows(self, batch: Batch) -> None:
        """Append the current row, and the attempts and edges not handed out before, to `batch`.

        Called on the writer thread, while other threads may change the run.
        """
        ...


Ticket = list[Recordable]
"""A run's place in the queue: one item, the run, or once that has ended its last snapshot."""


class Touchable(Recordable, Protocol):
    """A run that goes on."""

    ticket: Ticket | None  # in the queue, if it is
    lock: LockType


class _Marker:
    """A place in the queue. Settled once everything before it is stored, or could not be."""

    __slots__ = ("everything", "settled", "stored")

    def __init__(self, *, everything: bool = True) -> None:
        self.everything = everything  # also the runs that only wait, whose rows may be late
        self.settled = threading.Event()
        self.stored = False

    def settle(self, stored: bool) -> None:
        self.stored = stored
        self.settled.set()


class Backlog:
    """Rows that the store has not taken yet: the latest version of each run, the rest in order."""

    def __init__(self) -> None:
        self.runs: dict[str, RunRow] = {}
        self.attempts: list[AttemptRow] = []
        self.edges: list[EdgeRow] = []
        self.logs: list[LogRow] = []
        self.results: list[ResultRow] = []
        self.dropped = 0

    @property
    def size(self) -> int:
        return len(self.runs) + len(self.attempts) + len(self.edges) + len(self.logs) + len(self.results)

    def add(self, batch: Batch) -> None:
        self.runs.update((row.id, row) for row in batch.runs)
        self.attempts += batch.attempts
        self.edges += batch.edges
        self.logs += batch.logs
        self.results += batch.results

    def first(self, count: int) -> Batch:
        """Return the oldest rows, `count` of each table at most."""
        runs = list(islice(self.runs.values(), count))
        return Batch(runs, self.attempts[:count], self.edges[:count], self.logs[:count], self.results[:count])

    def forget(self, batch: Batch) -> None:
        """Remove what `first` returned."""
        for row in batch.runs:
            del self.runs[row.id]
        del self.attempts[: len(batch.attempts)]
        del self.edges[: len(batch.edges)]
        del self.logs[: len(batch.logs)]
        del self.results[: len(batch.results)]

    def trim(self, bound: int) -> None:
        """Get down to `bound` rows: the runs that finished go first, then log lines, oldest first."""
        before = self.size
        if before <= bound:
            return
        finished = (row.id for row in self.runs.values() if row.ended is not None)
        self._drop_runs(set(islice(finished, before - bound)))
        del self.logs[: max(0, self.size - bound)]
        self.dropped += before - self.size

    def _drop_runs(self, ids: set[str]) -> None:
        self.runs = {key: row for key, row in self.runs.items() if key not in ids}
        self.attempts = [row for row in self.attempts if row.run_id not in ids]
        self.edges = [row for row in self.edges if row.downstream_id not in ids]
        self.logs = [row for row in self.logs if row.run_id not in ids]
        self.results = [row for row in self.results if row.address not in ids]


class Recorder:
    """Carries what happens to a store. One per process and store, shared by all engines; thread-safe.

    No method raises because of the store. Nothing is opened and no thread is started before the first touch.
    """

    send_home: Callable[[Any], object] | None = None  # this is home: see `visit.Relay`

    def __init__(
        self,
        open_store: Callable[[], Store],
        *,
        window: float = WINDOW,
        backlog: int = BACKLOG,
        watch: Callable[[], object] | None = None,
    ) -> None:
        """`watch` is called now and then, on the writer thread, while recorded runs go on."""
        self._open_store = open_store
        self._watch = watch
        self.greet: Callable[[Store], object] | None = None  # called once, when the store has been written to first
        self.farewells: list[Callable[[], object]] = []  # called when it has closed
        self.window = window
        self.lock_patience = LOCK_PATIENCE
        self._bound = backlog
        self._store: Store | None = None
        self._began_afresh = False  # the store has vanished once, which has been said
        self._queue: deque[Ticket | LogRow | _Marker] = deque()
        self._put = self._queue.append
        self._start_afresh()

    def _start_afresh(self) -> None:
        self._asleep = True  # nobody will look at the queue unless woken
        self._closing = False
        self._hurry = False  # somebody waits at a barrier
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._writing = threading.Lock()  # held while the queue is emptied and the store is used
        self._turnstile = threading.Lock()
        self._bell = threading.Event()
        self._backlog = Backlog()
        self._young: list[tuple[int, Ticket]] = []  # taken from the queue, and not yet written
        self._round = 0
        self._taken = 0  # from the queue, so far
        self._paused = False
        self._live: dict[str, RunRow] = {}  # stored runs that have not ended
        self._watch_at = 0.0
        self._generation = 0
        self._commits = 0
        self._power = False  # something that is to be written next must survive a power failure
        self._trouble: Exception | None = None

    # For engines.

    def touch(self, run: Touchable) -> None:
        """Record `run` as it will be in a moment. Call it after each change; never blocks."""
        if run.ticket is None:
            ticket: Ticket = [run]
            run.ticket = ticket
            self._put(ticket)
            if self._asleep:
                self._wake()

    def finish(self, run: Touchable, snapshot: Recordable) -> None:
        """Record the last snapshot of a run. From here on the recorder does not know the run; never blocks."""
        with run.lock:
            if run.ticket is not None:
                run.ticket[0] = snapshot
                return
        self.add(snapshot)

    def log(self, row: LogRow) -> None:
        """Record a log line. Never blocks."""
        self._put(row)
        if self._asleep:
            self._wake()

    def add(self, rows: Recordable) -> None:
        """Record rows that are complete. Never blocks."""
        self._put([rows])
        if self._asleep:
            self._wake()

    def barrier(self, patience: float = PATIENCE) -> bool:
        """Block until everything touched before is committed; False if the store could not take it.

        A store that makes progress is waited for, however long it takes. One that takes nothing for
        `patience` seconds is not.
        """
        if self._asleep and not self._queue and not self._young:
            return True
        marker = _Marker()
        self._put(marker)
        self._hurry = True
        self._wake()
        commits = self._commits
        while not marker.settled.wait(patience):
            if commits == self._commits:
                return False
            commits = self._commits
        return marker.stored

    def commit(self) -> bool:
        """Have what was handed in before committed, by this thread; False if the store cannot take it.

        Threads that commit at the same time share a transaction. Blocks for as long as that takes, but not for a store
        that is known to be in trouble.
        """
        marker = _Marker(everything=False)
        self._put(marker)
        while not marker.settled.is_set():
            if self._trouble is not None or self._closing:
                self._wake()
                return False
            self._flush_chunk(CHUNK, until=marker)
        return marker.stored

    def get(self, run_id: str) -> RunRow | None:
        """What is recorded of a run, in whatever process; None if nothing is. Blocks, as `barrier` does."""
        self.barrier()
        try:
            return self.reader.get(run_id)
        except StoreMissing:
            return None

    @property
    def reader(self) -> Store:
        """The store, for reading: what has been committed. Its methods may raise `StoreUnavailable`."""
        store = self._store
        if store is None:
            with self._writing:
                store = self._opened()
        return store

    def exclusively(self, action: Callable[[Store], T]) -> T:
        """Call `action` with the store while nobody else in this process writes to it. May raise `StoreUnavailable`."""
        with self._writing:
            return action(self._opened())

    def _opened(self) -> Store:
        if self._store is None:
            self._store = self._open_store()
            self._generation = self._store.generation
        return self._store

    def close(self, timeout: float = EXIT_PATIENCE) -> None:
        """Write what is left, let go of the store. Blocks for `timeout` seconds if the store is locked.

        A recorder that is touched after that starts again.
        """
        if self._stop_thread():
            try:
                self._flush_until(monotonic() + timeout)
            finally:
                self._report_loss()
                self._release_store()
                for farewell in self.farewells:
                    farewell()

    # The writer thread.

    def _wake(self) -> None:
        # Touches that come before the writer gets a turn must not all ring: whoever wakes it says so at once.
        self._asleep = False
        if self._thread is None:
            self._start_thread()
        self._bell.set()

    def _start_thread(self) -> None:
        with self._starting:
            if self._thread is not None or self._closing:
                return
            thread = threading.Thread(target=self._work, name="penstock-recorder", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # no more threads, or the interpreter is shutting down
                self._failed(error)
            else:
                self._thread = thread

    def _stop_thread(self) -> bool:
        """Tell the thread to stop; False if it hangs in the store, which then must be left alone."""
        with self._starting:
            self._closing = True
            thread = self._thread
        self._bell.set()
        if thread is not None:
            thread.join(STUCK)
        return thread is None or not thread.is_alive()

    def _work(self) -> None:
        while not self._closing:
            if self._queue or self._young or self._backlog.size:
                self._gather()
            else:
                self._sleep()
            self._meet()
            self._look_out()

    def _gather(self) -> None:
        # A barrier says so beside ringing: its ring may be the one that ended our sleep.
        if not self._hurry:
            self._bell.wait(RETRY if self._trouble else self.window)
        self._bell.clear()
        self._hurry = False
        if not self._closing:  # else the rest is for `close`
            self._flush()

    def _sleep(self) -> None:
        self._asleep = True
        if not self._queue:  # else somebody touched before we were asleep, and did not ring
            self._bell.wait(LOOK_EVERY if self._watch is not None and self._live else None)
            self._bell.clear()
        self._asleep = False

    def _meet(self) -> None:
        if self._store is None or self.greet is None:
            return
        greet, self.greet = self.greet, None
        try:
            with self._writing:
                greet(self._store)
        except Exception as error:
            _logger.warning("Cannot see whether runs were left behind by processes that died: %s", error)

    def _look_out(self) -> None:
        if self._watch is None or not self._live or monotonic() < self._watch_at:
            return
        self._watch_at = monotonic() + LOOK_EVERY
        try:
            self._watch()
        except Exception:  # without this thread nothing is ever recorded again
            _logger.exception("Could not look for requests of other processes")

    def _flush_until(self, deadline: float) -> None:
        while not self._flush() and isinstance(self._trouble, StoreLocked) and monotonic() < deadline:
            self._bell.wait(0.05)

    def _flush(self) -> bool:
        """Offer everything that is in the queue now to the store; True if it has taken all of it."""
        waiting = len(self._queue)
        while True:
            before = self._taken
            stored = self._flush_chunk(min(waiting, CHUNK))
            waiting -= self._taken - before
            if waiting <= 0:
                return stored

    def _flush_chunk(self, count: int, until: _Marker | None = None) -> bool:
        with self._turnstile:
            pass  # a fork that waits to happen goes first: locks alone are not fair
        with self._writing:
            if until is not None and until.settled.is_set():
                return True  # by the thread that held the lock
            batch, markers = self._take(count)
            self._ripen(batch, everything=any(marker.everything for marker in markers) or self._closing)
            stored = self._offer(batch)
            for marker in markers:
                marker.settle(stored)
        return stored

    def _take(self, count: int) -> tuple[Batch, list[_Marker]]:
        batch, markers = Batch.empty(), []
        left, weight = min(count, len(self._queue)), 0
        while left > 0 and weight <= HEAVY:
            left -= 1
            self._taken += 1
            item = self._queue.popleft()
            if isinstance(item, LogRow):
                batch.logs.append(item)
            elif isinstance(item, _Marker):
                markers.append(item)
            elif item[0].unstarted:
                self._young.append((self._round, item))
            else:
                weight += self._read(item, batch)
        return batch, markers

    def _read(self, ticket: Ticket, batch: Batch) -> int:
        """Add what is on a ticket to the batch; how many bytes of kept values that were."""
        before = len(batch.results)
        try:
            taken = ticket[0].taken(ticket)
            taken.rows(batch)
            if taken.power:
                self._power = True
        except Exception:
            _logger.exception("A run could not be recorded")
        if len(batch.results) == before:
            return 0
        return sum(row.size for row in batch.results[before:] if row.path is None)

    def _ripen(self, batch: Batch, everything: bool) -> None:
        """Take the runs that have started or waited for long enough; all, if somebody waits for them."""
        self._round += 1
        young, self._young = self._young, []
        for born, ticket in young:
            if not everything and ticket[0].unstarted and self._round - born < YOUTH:
                self._young.append((born, ticket))
            else:
                self._read(ticket, batch)

    def _offer(self, batch: Batch) -> bool:
        # Whatever a store raises, this thread has to survive: without it nothing is ever recorded again.
        try:
            self._offer_backlog()
            if batch.size:
                self._write(batch)
        except StoreLocked as error:
            self._backlog.add(batch)
            return self._keep_for_later(error)
        except OwnerDeclaredDead as error:  # for good: somebody else may have gone on with the runs
            self._backlog.dropped += batch.size
            return self._keep_for_later(error)
        except Exception:
            self._backlog.add(batch)
        return self._catch_up()

    def _catch_up(self) -> bool:
        """Write what is left over: the live runs for a store that began afresh, or, once more, what did not go in.

        A second attempt at once, because a store that is being deleted takes nothing just for a moment.
        """
        try:
            self._offer_backlog()
        except Exception as error:
            return self._keep_for_later(error)
        self._power = False
        self._recovered()
        return True

    def _keep_for_later(self, error: Exception) -> bool:
        self._backlog.trim(self._bound)
        self._failed(error)
        return False

    def _offer_backlog(self) -> None:
        while self._backlog.size:
            part = self._backlog.first(CHUNK)
            self._write(part)
            self._backlog.forget(part)

    def _write(self, batch: Batch) -> None:
        store = self._opened()
        store.write(batch, patience=self.lock_patience, power=self._power)
        self._commits += 1
        self._remember_live(batch)
        if self._generation != store.generation:
            self._generation = store.generation
            if self._trouble is None and not self._began_afresh:  # else that has been said
                self._began_afresh = True
                _logger.warning(
                    "The run store was deleted or replaced: what had been recorded there is gone, runs that go on are"
                    " recorded anew"
                )
            for row in self._live.values():  # what is in the backlog is newer
                self._backlog.runs.setdefault(row.id, row)

    def _release_store(self) -> None:
        with self._writing:
            if self._store is not None:
                self._store.close()
                self._store = None
            self._start_afresh()

    def _remember_live(self, batch: Batch) -> None:
        for row in batch.runs:
            if row.ended is None:
                self._live[row.id] = row
            else:
                self._live.pop(row.id, None)

    # What the user hears of it.

    def _failed(self, error: Exception) -> None:
        if self._trouble is None:
            _logger.warning(
                "Cannot record runs: %s. Work goes on; up to %s records are kept in memory and written when"
                " that is possible again",
                error,
                f"{self._bound:,}",
            )
        self._trouble = error

    def _recovered(self) -> None:
        if self._trouble is not None:
            self._trouble = None
            _logger.info("Runs are recorded again")
            self._report_dropped()

    def _report_dropped(self) -> None:
        if self._backlog.dropped:
            _logger.warning("%s records were lost while runs could not be recorded", f"{self._backlog.dropped:,}")
            self._backlog.dropped = 0

    def _report_loss(self) -> None:
        self._backlog.dropped += self._backlog.size
        self._report_dropped()

    # Around a fork.

    def _pause(self) -> None:
        """Let no transaction be open during the fork: to the child it would seem never to end.

        Gives up after a while: a writer that only waits for a locked store does no harm.
        """
        self._turnstile.acquire()
        self._paused = self._writing.acquire(timeout=PATIENCE)

    def _resume(self) -> None:
        if self._paused:
            self._writing.release()
        self._turnstile.release()

    def _start_in_child(self) -> None:
        """The thread is not there, and what was waiting is the parent's to write."""
        for item in (*self._queue, *(ticket for _, ticket in self._young)):
            if isinstance(item, list):
                item[0].taken(item)
        self._queue.clear()
        self._start_afresh()


# One recorder per process and store.

_recorders: dict[str, Recorder] = {}
_opening = threading.Lock()


def recorder_for(
    home: str | os.PathLike[str], open_store: Callable[[], Store], watch: Callable[[], object] | None = None
) -> Recorder:
    """Return the recorder of the store that lives in `home`; the first call makes it, with the other arguments.

    After a fork the same object works in the child, with a thread and a connection of its own.
    """
    key = os.fspath(home)
    recorder = _recorders.get(key)
    if recorder is None:
        with _opening:
            recorder = _recorders.setdefault(key, Recorder(open_store, watch=watch))
    return recorder


def close_recorder(home: str | os.PathLike[str]) -> None:
    """Close the recorder of the store that lives in `home`, if there is one, and forget it."""
    with _opening:
        recorder = _recorders.pop(os.fspath(home), None)
    if recorder is not None:
        recorder.close()


@atexit.register
def close_recorders(timeout: float = EXIT_PATIENCE) -> None:
    """Close every recorder of this process. Runs at interpreter exit."""
    with _opening:
        recorders = list(_recorders.values())
        _recorders.clear()
    for recorder in recorders:
        recorder.close(timeout)


def _before_fork() -> None:
    for recorder in list(_recorders.values()):
        recorder._pause()


def _after_fork_in_parent() -> None:
    for recorder in list(_recorders.values()):
        recorder._resume()


def _after_fork_in_child() -> None:
    global _opening
    _opening = threading.Lock()
    for recorder in _recorders.values():
        recorder._start_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
