"""The files of a store: which there are, which of them somebody has open, and how they are looked after.

Nothing here opens the database file: closing any descriptor of it would drop the POSIX locks that SQLite holds
in this process. `os.stat` is fine.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import NamedTuple

DATABASE = "penstock.db"
LOCK = "penstock.lock"
RESULTS = "results"  # the directory of large results

Identity = tuple[int, int]  # device and inode


class Opened(NamedTuple):
    """Which files a connection was opened on, and by which process: it is good for nothing else."""

    pid: int
    path: str
    database: Identity | None
    log: Identity | None

    @classmethod
    def now(cls, path: str) -> Opened:
        return cls(os.getpid(), path, _identity(path), _identity(log_of(path)))

    @classmethod
    def nothing(cls) -> Opened:
        return cls(os.getpid(), "", None, None)


def database_in(home: str | os.PathLike[str]) -> str:
    return os.path.join(os.path.abspath(home), DATABASE)


def log_of(path: str) -> str:
    """The write-ahead log of the database at `path`."""
    return f"{path}-wal"


def size_of(path: str) -> int:
    """Bytes, 0 if there is no such file."""
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def remove_log(path: str) -> None:
    """Remove what SQLite keeps beside a database that is gone."""
    for leftover in (log_of(path), f"{path}-shm"):
        with suppress(FileNotFoundError):
            os.unlink(leftover)


def make_private(path: str) -> None:
    """Make an empty file with mode 0600; FileExistsError if there is one. SQLite gives its -wal and -shm that mode."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))


def sync_file(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_names(directory: str) -> None:
    """Make sure that a power cut leaves the names in `directory`, and its own: each directory holds the next."""
    while True:
        # Of a directory that we may not read we have made nothing.
        with suppress(PermissionError):
            sync_file(directory)
        above = os.path.dirname(directory)
        if above == directory:
            return
        directory = above


def _identity(path: str) -> Identity | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
