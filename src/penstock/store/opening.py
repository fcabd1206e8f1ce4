"""Connections to the database of a store, and the version of its schema.

A store is made and brought up to date by whoever opens it for writing. Whoever only reads changes nothing: an older
store is read as it is. A newer one is refused, untouched, by both.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import cache
from typing import TYPE_CHECKING

from penstock.exceptions import StoreUnavailable
from penstock.store.base import StoreLocked, StoreMissing
from penstock.store.files import Opened, log_of, make_private, remove_log, size_of, sync_file
from penstock.store.lastcommit import remove_note

if TYPE_CHECKING:
    from sqlite3 import Connection

SCHEMA_VERSION = 2
_MIGRATION = re.compile(r"(\d{4})_to_(\d{4})\.sql")


def connect_writing(path: str, timeout: int) -> Connection:
    """Open the store for writing, made if it does not exist, migrated if it is old. The caller holds the lock."""
    _prepare_file(path)
    connection = connect(path, "rw")
    try:
        set_timeout(connection, timeout)
        # Has an effect before the first table is made only. Lets pruning give space back without a copy of it all.
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        _bring_up_to_date(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def connect_reading(path: str) -> tuple[Connection, int]:
    """Open the store for reading; also return the version of its schema. An older one is made to look like ours."""
    if not os.path.exists(path):
        raise StoreMissing(f"there is no run store at {path}")
    connection = connect(path, _reading_mode(path))
    try:
        version = known_version(connection, path)
        if version == 0:
            raise StoreMissing(f"{path} holds no records yet")
        if version < SCHEMA_VERSION:
            connection.execute("PRAGMA temp_store = MEMORY")
            connection.executescript(file_text("migrations", f"{version:04}_seen_as_{SCHEMA_VERSION:04}.sql"))
        connection.execute("PRAGMA query_only = ON")
    except BaseException:
        connection.close()
        raise
    return connection, version


def connect(path: str, mode: str) -> Connection:
    import sqlite3

    escaped = path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    uri = f"file:{escaped}?mode={mode}"
    return sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)


def known_version(connection: Connection, path: str) -> int:
    """Return the version of the schema, 0 if there is none yet; refuse what this penstock cannot read.

    Raises `StoreMissing` if the store is half made and the connection may not write.
    """
    version = _version(connection, path)
    if version > SCHEMA_VERSION:
        raise StoreUnavailable(
            f"{path} was written by a newer penstock: its schema is version {version}, this penstock knows"
            f" version {SCHEMA_VERSION}. Type: pip install --upgrade penstock"
        )
    if version == 0 and connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]:
        version = _version(connection, path)  # somebody may have made the store between the two looks
        if version == 0:
            raise StoreUnavailable(f"{path} is an SQLite database, but not a run store")
    return version


def _version(connection: Connection, path: str) -> int:
    import sqlite3

    try:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])
    except sqlite3.OperationalError as error:
        # There is a rollback journal only until the store is in WAL mode. Whoever writes next will roll it back.
        if getattr(error, "sqlite_errorcode", 0) != sqlite3.SQLITE_READONLY_ROLLBACK:
            raise
        raise StoreMissing(f"{path} holds no records yet: whoever made it died in the middle of that") from None


def let_go(connection: Connection, opened: Opened) -> None:
    """Close `connection`. One that a fork inherited is the parent's to close, and stays open for good."""
    if opened.pid == os.getpid():
        connection.close()
        return
    import ctypes

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))


def set_timeout(connection: Connection, milliseconds: int) -> None:
    connection.execute(f"PRAGMA busy_timeout = {milliseconds}")


def copy_database(connection: Connection, target: str) -> None:
    """Copy the database behind `connection`, as it is at one moment, to the file `target` (mode 0600), all or nothing.

    Holds a snapshot while it copies: the log grows with what others write meanwhile.
    """
    import sqlite3

    part = f"{target}.part"
    with suppress(FileNotFoundError):
        os.unlink(part)
    make_private(part)
    try:
        with closing(sqlite3.connect(part)) as copy:
            # In one step: copying in several begins again whenever somebody has written in between.
            connection.backup(copy)
        sync_file(part)
        os.replace(part, target)
        sync_file(os.path.dirname(target))
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(part)
        raise


@contextmanager
def as_unavailable(path: str) -> Iterator[None]:
    """Turn the ways in which SQLite and the file system fail into `StoreUnavailable`."""
    import sqlite3

    try:
        yield
    except sqlite3.Error as error:
        busy = getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
        raise (StoreLocked if busy else StoreUnavailable)(f"{path}: {error}") from error
    except OSError as error:
        raise StoreUnavailable(f"{path}: {error.strerror or error}") from error


@cache
def statements(name: str) -> dict[str, str]:
    """The statements in a file of this package by name: each follows a line `-- name: it`."""
    named = file_text(name).split("-- name: ")[1:]
    return {name: statement for name, _, statement in (block.partition("\n") for block in named)}


def _prepare_file(path: str) -> None:
    """Make the file if it is missing; refuse it, untouched, if it is not a store that this version knows."""
    if size_of(path):
        # Read-only, because closing a writing connection would move a left-over log into the file. Without a log,
        # and with writers locked out, also without the files that SQLite would make and leave beside it.
        mode = "ro" if size_of(log_of(path)) else "ro&immutable=1"
        with closing(connect(path, mode)) as connection, suppress(StoreMissing):
            known_version(connection, path)
    elif not os.path.exists(path):
        remove_log(path)  # a deleted database's: who still has it open would share its index with us
        remove_note(os.path.dirname(path))
        make_private(path)


def _reading_mode(path: str) -> str:
    """Without leave to write in the directory SQLite cannot make a -shm file; at rest it needs none."""
    resting = not size_of(log_of(path)) and not os.access(os.path.dirname(path), os.W_OK)
    return "ro&immutable=1" if resting else "ro"


def _bring_up_to_date(connection: Connection, path: str) -> None:
    version = known_version(connection, path)
    if version == SCHEMA_VERSION:
        return
    if version == 0:
        script = file_text("schema.sql")
    else:
        copy_database(connection, f"{path}.v{version}-backup")
        script = "\n".join(file_text("migrations", name) for name in _steps_from(version))
    # One transaction, the number of the version included: who dies in it leaves the old store.
    connection.executescript(f"BEGIN IMMEDIATE;\n{script}\nCOMMIT;")


def _steps_from(version: int) -> list[str]:
    names = sorted(os.listdir(os.path.join(os.path.dirname(__file__), "migrations")))
    steps = [(int(found[1]), name) for name in names if (found := _MIGRATION.fullmatch(name))]
    return [name for start, name in steps if start >= version]


def file_text(*names: str) -> str:
    """What is in a file of this package."""
    with open(os.path.join(os.path.dirname(__file__), *names), encoding="utf-8") as file:
        return file.read()
