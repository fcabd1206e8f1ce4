"""The store in an SQLite file.

Rules that the code keeps, each for a reason that is not visible in it:

* One writing connection per process, one thread at a time. Every transaction starts with BEGIN IMMEDIATE: one
  that reads first and then wants to write can fail at once, whatever the busy timeout.
* Writing and checkpointing happen under a lock file. SQLite before 3.51.3 can lose or corrupt data when two
  checkpoints race with a commit, and most machines have such a version. Hence no automatic checkpoints.
* Nothing else in this process may open the database file: closing any descriptor of it drops the POSIX locks
  that SQLite holds. `os.stat` is fine.
* Many rows per statement. The sqlite3 module gives the GIL away and takes it back for every row of an
  `executemany`, and next to a busy thread each taking costs up to 5 ms.
* Files are made with mode 0600 before SQLite sees them; it gives the same mode to its -wal and -shm files.

`sqlite3` is imported where it is used: importing penstock must not load it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from functools import cache, lru_cache
from itertools import chain
from threading import Lock
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from penstock.exceptions import StoreUnavailable
from penstock.store.base import (
    AttemptRow,
    Batch,
    EdgeRow,
    LogRow,
    RunRow,
    StateCount,
    StoreLocked,
    StoreMissing,
)
from penstock.store.filelock import held
from penstock.store.text import id_prefix

if TYPE_CHECKING:
    from sqlite3 import Connection

DATABASE = "penstock.db"
LOCK = "penstock.lock"
SCHEMA_VERSION = 1
CHECKPOINT_ROWS = 10_000  # rows after which the write-ahead log is moved into the database
LARGE_WAL = 32 * 2**20  # bytes beyond which a checkpoint also waits for readers, to start the log anew
LONGEST_TEXT = 1_000_000  # characters; longer values are cut if a batch needs cleaning
ROWS_PER_STATEMENT = 1024

_Row = TypeVar("_Row")
_Values = Sequence[object]


class SQLiteReader:
    """Reads the store in `home`, which others may be writing. Never creates or changes it. Thread-safe."""

    def __init__(self, home: str | os.PathLike[str]) -> None:
        self._path = os.path.join(os.path.abspath(home), DATABASE)
        self._reading = Lock()
        self._connection: Connection | None = None
        self._opened = _Opened.nothing()

    def get(self, run_id: str) -> RunRow | None:
        rows = self._query("get", RunRow._make, run_id=run_id)
        return rows[0] if rows else None

    def find(self, text: str, *, limit: int = 10) -> list[RunRow]:
        if text == "@last":
            return self._query("last", RunRow._make)
        return self._find_by_id(id_prefix(text), limit) or self._query("by_name", RunRow._make, text=_clean(text))

    def _find_by_id(self, prefix: str, limit: int) -> list[RunRow]:
        if not prefix:
            return []
        for query in ("roots_by_prefix", "runs_by_prefix"):
            if found := self._query(query, RunRow._make, text=prefix, limit=limit):
                return found
        return []

    def runs(
        self,
        *,
        kind: str | None = None,
        name: str | None = None,
        status: str | None = None,
        since: float | None = None,
        before: RunRow | None = None,
        limit: int = 50,
    ) -> list[RunRow]:
        place = {"created": before and before.created, "id": before and before.id}
        filters = {"kind": kind, "name": name, "status": status, "since": since}
        return self._query("runs", RunRow._make, limit=limit, **filters, **place)

    def children(self, run_id: str) -> list[RunRow]:
        return self._query("children", RunRow._make, run_id=run_id)

    def tree(self, run_id: str, *, limit: int = 1000) -> list[RunRow]:
        return self._query("tree", RunRow._make, run_id=run_id, limit=limit)

    def counts(self, run_id: str) -> list[StateCount]:
        return self._query("counts", StateCount._make, run_id=run_id)

    def attempts(self, run_id: str) -> list[AttemptRow]:
        return self._query("attempts", AttemptRow._make, run_id=run_id)

    def edges(self, run_id: str) -> list[EdgeRow]:
        return self._query("edges", EdgeRow._make, run_id=run_id)

    def logs(self, run_id: str, *, limit: int = 1000) -> list[LogRow]:
        return self._query("logs", LogRow._make, run_id=run_id, limit=limit)

    def close(self) -> None:
        with self._reading:
            self._disconnect()

    def _query(self, name: str, make: Callable[[Any], _Row], /, **parameters: object) -> list[_Row]:
        if self._opened.pid != os.getpid():
            self._reading = Lock()  # a thread of the parent process may have held the old one
        with self._reading, _as_unavailable(self._path):
            found = self._connected().execute(queries()[name], parameters).fetchall()
        return [make(row) for row in found]

    def _connected(self) -> Connection:
        if self._connection is None or self._opened != _Opened.now(self._path):
            self._disconnect()
            self._connection = _connect_reading(self._path)
            self._opened = _Opened.now(self._path)
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            _let_go(self._connection, self._opened)
            self._connection = None


class SQLiteStore(SQLiteReader):
    """The run store in the directory `home`, which is made at the first write.

    Reading is thread-safe; writing is for one thread at a time. Survives a fork: the child opens its own.
    """

    def __init__(self, home: str | os.PathLike[str]) -> None:
        super().__init__(home)
        self._lock_path = os.path.join(os.path.dirname(self._path), LOCK)
        self._writer: Connection | None = None
        self._writing = _Opened.nothing()
        self._generation = 0
        self._unchecked = 0  # rows written since the last checkpoint
        self._timeout = -1  # the writing connection's, in milliseconds

    @property
    def generation(self) -> int:
        return self._generation

    def write(self, batch: Batch, *, patience: float = 1.0) -> None:
        deadline = monotonic() + patience
        with _as_unavailable(self._path), self._locked(patience):
            try:
                connection = self._writable(deadline)
                self._give_up_at(deadline, connection)
                _write(connection, batch)
            except BaseException:
                # Whatever failed, an fsync perhaps, is not to be trusted again.
                self._close_writer()
                raise
        self._unchecked += batch.size
        if self._unchecked >= CHECKPOINT_ROWS:
            self._checkpoint(connection)

    def close(self) -> None:
        super().close()
        if self._writer is None:
            return
        try:
            with self._locked(patience=1.0):
                self._close_writer()
        except (StoreLocked, OSError):
            # Not under the lock, but safe: SQLite checkpoints here only if nobody else has the file open.
            self._close_writer()

    @contextmanager
    def _locked(self, patience: float) -> Iterator[None]:
        home = os.path.dirname(self._path)
        if not os.path.isdir(home):
            os.makedirs(home, mode=0o700, exist_ok=True)
        with held(self._lock_path, patience):
            yield

    def _writable(self, deadline: float) -> Connection:
        before, now = self._writing, _Opened.now(self._path)
        if self._writer is None or before != now:
            self._close_writer()
            # Compared while the old file was open: its inode number may be given to the new one.
            replaced = before.database not in (None, now.database)
            if replaced and before.wal == now.wal:
                _remove_log(self._path)  # it is the old database's: the new one must not meet it
            self._writer = _connect_writing(self._path, int(1000 * max(0.0, deadline - monotonic())))
            self._writing = _Opened.now(self._path)
            self._generation += replaced
        return self._writer

    def _give_up_at(self, deadline: float, connection: Connection) -> None:
        # In steps, because it rarely has to be said then: each statement is a chance to lose the GIL.
        timeout = max(0, math.ceil(10 * (deadline - monotonic()))) * 100
        if timeout != self._timeout:
            _set_timeout(connection, timeout)
            self._timeout = timeout

    def _close_writer(self) -> None:
        if self._writer is not None:
            connection, self._writer = self._writer, None
            self._unchecked = 0
            self._timeout = -1
            _let_go(connection, self._writing)

    def _checkpoint(self, connection: Connection) -> None:
        import sqlite3

        mode = "TRUNCATE" if _size(_wal(self._path)) > LARGE_WAL else "PASSIVE"
        try:
            with self._locked(patience=0.0):
                self._unchecked = 0
                self._give_up_at(monotonic() + 0.1, connection)  # TRUNCATE waits for readers
                connection.execute(f"PRAGMA wal_checkpoint({mode})")
        except StoreLocked:
            pass  # somebody writes: after the next batch then
        except (sqlite3.Error, OSError):
            # The batch is committed and stays so; if the trouble lasts, the next write meets and reports it.
            self._close_writer()


# Opening and closing.


_Identity = tuple[int, int]  # device and inode


class _Opened(NamedTuple):
    """Which files a connection was opened on, and by which process: it is good for nothing else."""

    pid: int
    path: str
    database: _Identity | None
    wal: _Identity | None

    @classmethod
    def now(cls, path: str) -> _Opened:
        return cls(os.getpid(), path, _identity(path), _identity(_wal(path)))

    @classmethod
    def nothing(cls) -> _Opened:
        return cls(os.getpid(), "", None, None)


def _connect_writing(path: str, timeout: int) -> Connection:
    """Open the store for writing, made if it does not exist. The caller holds the lock."""
    _prepare_file(path)
    connection = _connect(path, "rw")
    try:
        _set_timeout(connection, timeout)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        if _known_version(connection, path) == 0:
            connection.executescript(f"BEGIN IMMEDIATE;\n{_text('schema.sql')}\nCOMMIT;")
    except BaseException:
        connection.close()
        raise
    return connection


def _connect_reading(path: str) -> Connection:
    if not os.path.exists(path):
        raise StoreMissing(f"there is no run store at {path}")
    connection = _connect(path, _reading_mode(path))
    try:
        connection.execute("PRAGMA query_only = ON")
        if _known_version(connection, path) == 0:
            raise StoreMissing(f"{path} holds no records yet")
    except BaseException:
        connection.close()
        raise
    return connection


def _reading_mode(path: str) -> str:
    """Without leave to write in the directory SQLite cannot make a -shm file; at rest it needs none."""
    resting = not _size(_wal(path)) and not os.access(os.path.dirname(path), os.W_OK)
    return "ro&immutable=1" if resting else "ro"


def _connect(path: str, mode: str) -> Connection:
    import sqlite3

    escaped = path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    uri = f"file:{escaped}?mode={mode}"
    return sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)


def _prepare_file(path: str) -> None:
    """Make the file if it is missing; refuse it, untouched, if it is not a store that this version knows."""
    if _size(path):
        # Read-only, because closing a writing connection would move a left-over log into the file.
        with closing(_connect(path, "ro")) as connection:
            _known_version(connection, path)
    elif not os.path.exists(path):
        _remove_log(path)  # a deleted database's: who still has it open would share its index with us
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))


def _remove_log(path: str) -> None:
    for leftover in (_wal(path), f"{path}-shm"):
        with suppress(FileNotFoundError):
            os.unlink(leftover)


def _known_version(connection: Connection, path: str) -> int:
    """Return the version of the schema, 0 if there is none yet; refuse what this penstock cannot read."""
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > SCHEMA_VERSION:
        raise StoreUnavailable(
            f"{path} was written by a newer penstock: its schema is version {version}, this penstock knows"
            f" version {SCHEMA_VERSION}. Type: pip install --upgrade penstock"
        )
    if version == 0 and connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]:
        raise StoreUnavailable(f"{path} is an SQLite database, but not a run store")
    return version


def _let_go(connection: Connection, opened: _Opened) -> None:
    """Close `connection`. One that a fork inherited is the parent's to close, and stays open for good."""
    if opened.pid == os.getpid():
        connection.close()
        return
    import ctypes

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))


# Writing.


def _write(connection: Connection, batch: Batch) -> None:
    """Write `batch` in one transaction. If this raises, the connection must be closed, which rolls back."""
    connection.execute("BEGIN IMMEDIATE")
    _insert(connection, _RUNS, batch.runs)
    _insert(connection, _ATTEMPTS, batch.attempts)
    _insert(connection, _EDGES, batch.edges)
    _insert(connection, _LOGS, batch.logs)
    connection.execute("COMMIT")


class _Table(NamedTuple):
    name: str
    columns: tuple[str, ...]
    on_conflict: str


_REPLACE = ", ".join(f"{column} = excluded.{column}" for column in RunRow._fields if column != "id")
_RUNS = _Table("runs", RunRow._fields, f"ON CONFLICT (id) DO UPDATE SET {_REPLACE}")
_ATTEMPTS = _Table("earlier_attempts", AttemptRow._fields, "ON CONFLICT DO NOTHING")
_EDGES = _Table("edges", EdgeRow._fields, "ON CONFLICT DO NOTHING")
_LOGS = _Table("logs", LogRow._fields, "")


def _insert(connection: Connection, table: _Table, rows: Sequence[_Values]) -> None:
    at = 0
    size = _rows_per_statement(connection, table)
    while at < len(rows):
        # Powers of two: a few statements that stay prepared serve every number of rows.
        while size > len(rows) - at:
            size //= 2
        _insert_columns(connection, table, list(zip(*rows[at : at + size], strict=False)))
        at += size


def _insert_columns(connection: Connection, table: _Table, columns: list[tuple[object, ...]]) -> None:
    rows = len(columns[0])
    # Columns that are empty in every row are left out: to bind a None takes longer than anything else.
    empty = (None,) * rows
    used = [place for place, column in enumerate(columns) if column != empty]
    statement = _statement(table, tuple(table.columns[place] for place in used), rows)
    values = list(chain.from_iterable(zip(*(columns[place] for place in used), strict=False)))
    _execute(connection, statement, values)


def _rows_per_statement(connection: Connection, table: _Table) -> int:
    import sqlite3

    most = connection.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER) // len(table.columns)
    return int(min(ROWS_PER_STATEMENT, 1 << (most.bit_length() - 1)))


@lru_cache(maxsize=64)
def _statement(table: _Table, columns: tuple[str, ...], rows: int) -> str:
    row = f"({', '.join('?' * len(columns))})"
    into = f"INSERT INTO {table.name} ({', '.join(columns)})"
    return f"{into} VALUES {', '.join([row] * rows)} {table.on_conflict}"


def _execute(connection: Connection, statement: str, values: list[object]) -> None:
    """Insert `values`; if something refuses one of them, insert what can be made of them instead."""
    import sqlite3

    refusals = (
        ValueError,
        OverflowError,
        sqlite3.InterfaceError,
        sqlite3.ProgrammingError,
        sqlite3.DataError,
    )
    # NUL is accepted, but then length() and LIKE see half of the text.
    if "\0" not in "".join([value for value in values if type(value) is str]):
        try:
            connection.execute(statement, values)
            return
        except refusals:
            pass
    connection.execute(statement, [_clean(value) for value in values])


def _clean(value: object) -> object:
    """Return a value that SQLite takes: control and broken characters escaped, numbers in range."""
    if value is None:
        return None
    if isinstance(value, int):
        return max(-(2**63), min(int(value), 2**63 - 1))
    if isinstance(value, float):
        return float(value) if value == value else 0.0
    text = str.__str__(value)[:LONGEST_TEXT] if isinstance(value, str) else f"<{type(value).__qualname__}>"
    return text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode()


# Small things.


@cache
def queries() -> dict[str, str]:
    """The statements of queries.sql by name."""
    named = _text("queries.sql").split("-- name: ")[1:]
    return {name: statement for name, _, statement in (block.partition("\n") for block in named)}


def _text(name: str) -> str:
    with open(os.path.join(os.path.dirname(__file__), name), encoding="utf-8") as file:
        return file.read()


def _set_timeout(connection: Connection, milliseconds: int) -> None:
    connection.execute(f"PRAGMA busy_timeout = {milliseconds}")


def _wal(path: str) -> str:
    return f"{path}-wal"


def _identity(path: str) -> _Identity | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


@contextmanager
def _as_unavailable(path: str) -> Iterator[None]:
    """Turn the ways in which SQLite and the file system fail into `StoreUnavailable`."""
    import sqlite3

    try:
        yield
    except sqlite3.Error as error:
        busy = getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
        raise (StoreLocked if busy else StoreUnavailable)(f"{path}: {error}") from error
    except OSError as error:
        raise StoreUnavailable(f"{path}: {error.strerror or error}") from error
