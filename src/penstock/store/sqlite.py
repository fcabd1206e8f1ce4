"""The store in an SQLite file.

Rules that the code keeps, each for a reason that is not visible in it:

* One writing connection per process and store object, one thread at a time. Every transaction starts with BEGIN
  IMMEDIATE: one that reads first and then wants to write can fail at once, whatever the busy timeout.
* Writing and checkpointing happen under a lock file. SQLite before 3.51.3 can lose or corrupt data when two
  checkpoints race with a commit, and most machines have such a version. Hence no automatic checkpoints.
* Nothing else in this process may open the database file: see `files`.
* Few statements per transaction: each is a chance to lose the GIL, and next to a busy thread taking it back costs
  up to 5 ms.
* Files are made with mode 0600 before SQLite sees them; it gives the same mode to its -wal and -shm files.

The size of the write-ahead log. It can begin anew only when no reader uses it, so no reader of ours keeps a snapshot
for longer than `LONGEST_READ`. A log beyond `LARGE_LOG` is begun anew as soon as its readers have finished, and beyond
`HUGE_LOG` writers wait for them, for a little longer than that. Against a foreign reader that keeps a
snapshot for longer there is no remedy in SQLite: the log grows as long as that lasts, which a warning says.

`sqlite3` is imported where it is used: importing penstock must not load it.
"""

from __future__ import annotations

import json
import math
import os
from _thread import LockType
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from logging import getLogger
from threading import Lock
from time import monotonic
from typing import TYPE_CHECKING, Any

from penstock.exceptions import StoreUnavailable
from penstock.store.base import (
    Batch,
    OwnerDeclaredDead,
    RunRow,
    StoreLocked,
)
from penstock.store.filelock import held
from penstock.store.files import LOCK, Opened, database_in, log_of, remove_log, size_of, sync_names
from penstock.store.inserting import clean, insert_batch
from penstock.store.lastcommit import LastCommit, remove_note
from penstock.store.opening import (
    SCHEMA_VERSION,
    as_unavailable,
    connect_reading,
    connect_writing,
    known_version,
    let_go,
    set_timeout,
    statements,
)
from penstock.store.reading import AnswersInSQL

if TYPE_CHECKING:
    from sqlite3 import Connection

CHECKPOINT_ROWS = 10_000  # rows after which the write-ahead log is moved into the database
GROWTH = 4 * 2**20  # bytes by which the log may grow before that
LOOK_ROWS = 64  # rows after which it is worth a look at the size of the log
LARGE_LOG = 32 * 2**20  # bytes beyond which a checkpoint also waits for readers, to begin the log anew
HUGE_LOG = 48 * 2**20  # bytes beyond which it waits for as long as a reader of ours can take
ALLOWED_LOG = 64 * 2**20  # bytes beyond which somebody must be told
LONGEST_READ = 1.0  # seconds for which a reader may keep a snapshot
SHORT_WAIT, LONG_WAIT = 0.05, 2 * LONGEST_READ + 0.2  # seconds for readers to finish, and for those who came since
READ_TRIES = 3
UNREADABLE = 60.0  # seconds for which a store is not read again that SQLite could not even begin to read
FORGET_THE_DEAD = 7 * 86400.0  # seconds after which a process that seemed dead is dead

_logger = getLogger("penstock.store")


class SQLiteReader(AnswersInSQL):
    """Reads the store in `home`, which others may be writing. Never creates or changes it. Thread-safe.

    Reads stores of older versions as they are.
    """

    def __init__(self, home: str | os.PathLike[str]) -> None:
        self._path = database_in(home)
        self._reading = Lock()
        self._connection: Connection | None = None
        self._opened = Opened.nothing()
        self._version = SCHEMA_VERSION
        self._deadline = 0.0
        self._unreadable_until = 0.0

    def vouches_for(self, owner: str) -> bool:
        """As `Reader.vouches_for`. The file knows of no processes."""
        return False

    def statement(self, name: str) -> str:
        return statements("queries.sql")[name]

    def close(self) -> None:
        with self._reading:
            self._disconnect()

    def ask(self, statement: str, parameters: dict[str, object]) -> list[tuple[Any, ...]]:
        """Return the rows that answer a statement; for queries that are not among those of `Reader`."""
        if self._opened.pid != os.getpid():
            self._reading = Lock()  # a thread of the parent process may have held the old one
        with self._reading, as_unavailable(self._path):
            return self._fetched_if_readable(statement, parameters)

    def _fetched_if_readable(self, statement: str, parameters: dict[str, object]) -> list[tuple[Any, ...]]:
        import sqlite3

        if monotonic() < self._unreadable_until:
            raise StoreUnavailable(f"{self._path}: a moment ago it could not be read; it will be tried again later")
        try:
            return self._fetched(statement, parameters)
        except sqlite3.OperationalError as error:
            # On a full disk there may be no index of the log, and SQLite waits ten seconds for somebody to make it.
            if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_PROTOCOL:
                self._unreadable_until = monotonic() + UNREADABLE
            raise

    def _fetched(self, statement: str, parameters: dict[str, object]) -> list[tuple[Any, ...]]:
        for _ in range(READ_TRIES):
            rows = self._fetched_in_time(statement, parameters)
            if rows is not None:
                return rows
        raise StoreUnavailable(
            f"{self._path}: reading was given up after {READ_TRIES} times {LONGEST_READ:g} seconds: for longer it"
            " would be in the way of those who write"
        )

    def _fetched_in_time(self, statement: str, parameters: dict[str, object]) -> list[tuple[Any, ...]] | None:
        import sqlite3

        connection = self._connected()
        if self._version < SCHEMA_VERSION:
            statement = statement.replace(" INDEXED BY root_runs", "")  # a view has no index
        self._deadline = monotonic() + LONGEST_READ
        try:
            rows = []
            for row in connection.execute(statement, parameters):
                rows.append(row)
                if self._too_late():  # handing out rows takes long if other threads are busy
                    return None
            return rows
        except sqlite3.OperationalError as error:
            if getattr(error, "sqlite_errorcode", 0) != sqlite3.SQLITE_INTERRUPT:
                raise
            return None
        finally:
            if self._version < SCHEMA_VERSION:
                self._disconnect()  # the store may be brought up to date, which this connection would not see

    def _too_late(self) -> bool:
        return monotonic() > self._deadline

    def _connected(self) -> Connection:
        if self._connection is None or self._opened != Opened.now(self._path):
            self._disconnect()
            self._connection, self._version = connect_reading(self._path)
            self._connection.set_progress_handler(self._too_late, 20_000)
            self._opened = Opened.now(self._path)
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            let_go(self._connection, self._opened)
            self._connection = None


class SQLiteStore(SQLiteReader):
    """The run store in the directory `home`, which is made at the first write. Thread-safe.

    Survives a fork: the child opens its own. An older store is brought up to date by the first write.
    """

    def __init__(self, home: str | os.PathLike[str]) -> None:
        super().__init__(home)
        self._home = os.path.dirname(self._path)
        self._lock_path = os.path.join(self._home, LOCK)
        self._using = Lock()  # held while the writing connection is used
        self._writer: Connection | None = None
        self._last: LastCommit | None = None
        self._writing = Opened.nothing()
        self._generation = 0
        self._unchecked = 0  # rows written since the last checkpoint
        self._unseen = 0  # rows written since the last look at the log
        self._log_size = 0  # bytes, after the last checkpoint
        self._wait_from = HUGE_LOG  # bytes from which on it is worth a long wait for readers
        self._respite = GROWTH  # bytes of growth before the next long wait, should this one be in vain
        self._complained = False  # about a reader that never ends
        self._durable = False  # a power cut leaves the names of the files
        self._timeout = -1  # the writing connection's, in milliseconds
        self._change = -1  # number of the last change by others that we have looked at
        self._dead = "[]"  # JSON array: owners that are dead by record

    @property
    def generation(self) -> int:
        return self._generation

    def write(self, batch: Batch, *, patience: float = 1.0, power: bool = False) -> None:
        with self.transaction(patience, power=power, runs=batch.runs) as connection:
            if self._dead != "[]":
                _refuse_the_dead(connection, batch, self._path)
            insert_batch(connection, batch)
        self._wrote(batch)

    def declare_dead(self, owner: str, now: float, message: str, *, patience: float = 1.0) -> list[str]:
        orders = statements("orders.sql")
        facts = {"owner": owner, "now": now, "message": clean(message), "old": now - FORGET_THE_DEAD}
        with self.transaction(patience) as connection:
            roots = [root for (root,) in connection.execute(orders["roots_of"], facts)]
            if roots:
                connection.execute(orders["crash"], facts)
            for order in ("bury", "forget_the_dead"):
                connection.execute(orders[order], facts)
            self._change = -1  # the list of the dead is another one now
        return roots

    def claim(self, row: RunRow, lives: Sequence[str], *, patience: float = 1.0) -> RunRow | None:
        batch = Batch.empty()
        taken = statements("orders.sql")["taken"]
        with self.transaction(patience, runs=batch.runs) as connection:
            found = connection.execute(taken, {"lives": json.dumps(lives), "origin": row.resumed_from}).fetchone()
            if found is None:
                batch.runs.append(row)
                insert_batch(connection, batch)
        return None if found is None else RunRow._make(found)

    def drop_results(self, addresses: Sequence[str], *, patience: float = 1.0) -> None:
        with self.transaction(patience) as connection:
            connection.execute(statements("orders.sql")["drop_results"], {"addresses": json.dumps(addresses)})

    @contextmanager
    def transaction(
        self, patience: float = 1.0, *, power: bool = False, runs: Sequence[RunRow] = (), forget: bool = False
    ) -> Iterator[Connection]:
        """Run the `with` block in a transaction, under the store's lock; an exception rolls it back.

        `runs` are the rows that it will have written, so that their loss would be noticed; with `forget` it removes
        rows, and none will be missed. With `power` the commit survives a power cut. Waits and raises like `write`, of
        which this is the foundation.
        """
        deadline = monotonic() + patience
        with self._alone(), as_unavailable(self._path), self._locked(patience):
            try:
                connection = self._writable(deadline)
                self._give_up_at(deadline, connection)
                if forget and self._last is not None:
                    self._last.forget()
                if power:
                    connection.execute("PRAGMA synchronous = FULL")
                connection.execute("BEGIN IMMEDIATE")
                self._look_around(connection)
                yield connection
                connection.execute("COMMIT")
                if power:
                    self._withstand(connection)
            except BaseException:
                # Whatever failed, an fsync perhaps, is not to be trusted again.
                self._close_writer()
                raise
            if self._last is not None:
                self._last.note(runs)

    def close(self) -> None:
        super().close()
        with self._alone():
            self._let_go_of_writer()

    def _let_go_of_writer(self) -> None:
        if self._writer is None:
            return
        try:
            with self._locked(patience=1.0):
                self._close_writer()
        except (StoreLocked, OSError):
            # Not under the lock, but safe: SQLite checkpoints here only if nobody else has the file open.
            self._close_writer()

    # The writing connection.

    def _alone(self) -> LockType:
        if self._writing.pid != os.getpid():
            self._using = Lock()  # as for `_reading`
        return self._using

    def _locked(self, patience: float) -> AbstractContextManager[None]:
        if not os.path.isdir(self._home):
            os.makedirs(self._home, mode=0o700, exist_ok=True)
        return held(self._lock_path, patience)

    def _withstand(self, connection: Connection) -> None:
        """The commit withstands a power cut; see to it that the files can be found after one."""
        connection.execute("PRAGMA synchronous = NORMAL")
        if not self._durable:
            sync_names(self._home)
            self._durable = True

    def _writable(self, deadline: float) -> Connection:
        before, now = self._writing, Opened.now(self._path)
        if self._writer is None or before != now:
            self._close_writer()
            # Compared while the old file was open: its inode number may be given to the new one.
            replaced = before.database not in (None, now.database)
            if replaced:
                self._forget_the_old_one(before, now)
            self._writer = connect_writing(self._path, int(1000 * max(0.0, deadline - monotonic())))
            self._writing = Opened.now(self._path)
            self._generation += replaced
            self._last = LastCommit(self._home)
            self._last.compare(self._writer, self._path)
        return self._writer

    def _forget_the_old_one(self, before: Opened, now: Opened) -> None:
        remove_note(self._home)
        if before.log == now.log:
            remove_log(self._path)  # it is the old database's: the new one must not meet it

    def _give_up_at(self, deadline: float, connection: Connection) -> None:
        # In steps, because it rarely has to be said then: each statement is a chance to lose the GIL.
        timeout = max(0, math.ceil(10 * (deadline - monotonic()))) * 100
        if timeout != self._timeout:
            set_timeout(connection, timeout)
            self._timeout = timeout

    def _close_writer(self) -> None:
        if self._writer is not None:
            connection, self._writer = self._writer, None
            self._unchecked = self._log_size = 0
            self._wait_from, self._respite = HUGE_LOG, GROWTH
            self._durable = False
            self._timeout = self._change = -1
            if self._last is not None:
                self._last.close()
            let_go(connection, self._writing)

    def _look_around(self, connection: Connection) -> None:
        """See what other processes have done to the store since our last transaction."""
        [change] = connection.execute("PRAGMA data_version").fetchone()
        if change != self._change:
            version, self._dead = connection.execute(statements("orders.sql")["guard"]).fetchone()
            if version != SCHEMA_VERSION:
                known_version(connection, self._path)
            self._change = change

    # The write-ahead log.

    def _wrote(self, batch: Batch) -> None:
        weight = batch.size + sum(row.size for row in batch.results if row.sealed is not None) // 1024
        self._unchecked += weight
        self._unseen += weight
        if self._unchecked >= CHECKPOINT_ROWS or (self._unseen >= LOOK_ROWS and self._has_grown()):
            self.checkpoint()

    def _has_grown(self) -> bool:
        self._unseen = 0
        return size_of(log_of(self._path)) > self._log_size + GROWTH

    def checkpoint(self) -> None:
        """Move the log into the database, as far as readers let it, unless somebody else is writing."""
        import sqlite3

        try:
            with self._alone(), self._locked(patience=0.0):
                if self._writer is not None:
                    self._move_log(self._writer)
        except StoreLocked:
            pass  # after the next batch then
        except (sqlite3.Error, OSError):
            # What is committed stays so; if the trouble lasts, the next write meets and reports it.
            self._close_writer()

    def _move_log(self, connection: Connection) -> None:
        self._unchecked = 0
        wait = self._worth_waiting(size_of(log_of(self._path)))
        self._give_up_at(monotonic() + wait, connection)
        connection.execute(f"PRAGMA wal_checkpoint({'TRUNCATE' if wait else 'PASSIVE'})").fetchone()
        self._log_size = size_of(log_of(self._path))
        if self._log_size <= HUGE_LOG:
            self._wait_from, self._respite = HUGE_LOG, GROWTH
        elif wait == LONG_WAIT:
            # Whoever reads for so long may go on for hours: everybody's writing is not to wait all the time.
            self._wait_from = self._log_size + self._respite
            self._respite *= 4
            self._complain()

    def _worth_waiting(self, size: int) -> float:
        if size > self._wait_from:
            return LONG_WAIT
        return SHORT_WAIT if size > LARGE_LOG else 0.0

    def _complain(self) -> None:
        if self._log_size > ALLOWED_LOG and not self._complained:
            self._complained = True
            _logger.warning(
                "Some program has been reading the run store %s for long, in one transaction. Until it is done the"
                " log beside it can only grow: it has %.0f MB now",
                self._path,
                self._log_size / 2**20,
            )


def _refuse_the_dead(connection: Connection, batch: Batch, path: str) -> None:
    owners = {row.owner for row in batch.runs if row.owner is not None}
    roots = {row.root_id for row in batch.runs}
    facts = {"owners": json.dumps(list(owners)), "roots": json.dumps(list(roots))}
    if found := connection.execute(statements("orders.sql")["among_the_dead"], facts).fetchone():
        raise OwnerDeclaredDead(
            f"{path}: the process that owns these runs seemed dead, and they were recorded as crashed"
            f" (owner {found[0]})"
        )
