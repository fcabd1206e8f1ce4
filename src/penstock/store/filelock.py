"""A lock between processes that its holder's death releases: `flock` on a file of its own."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic, sleep

from penstock.store.base import StoreLocked

_held: set[int] = set()


@contextmanager
def held(path: str, patience: float) -> Iterator[None]:
    """Hold the lock on `path` (mode 0600, made if missing) for the duration of the `with` block.

    Waits `patience` seconds for the holder, then raises `StoreLocked`; OSError if the file cannot be opened.
    Not reentrant. The file stays: removing it would let two processes lock two files of the same name.
    """
    descriptor = _acquire(path, monotonic() + patience)
    _held.add(descriptor)
    try:
        yield
    finally:
        _held.discard(descriptor)
        # Unlocked by name: a process forked meanwhile may have a copy of the descriptor.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _acquire(path: str, deadline: float) -> int:
    pause = 0.0005
    while (descriptor := try_to_lock(path)) is None:
        if monotonic() >= deadline:
            raise StoreLocked(f"{path} is locked by another process")
        sleep(pause)
        pause = min(2 * pause, 0.01)
    return descriptor


def try_to_lock(path: str) -> int | None:
    """Return a descriptor of the file, made if missing, that holds its lock; None if somebody else has it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), os.stat(path)):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(descriptor)
        raise
    # Taken, or the file was deleted between opening and locking, and the lock on it excludes nobody.
    os.close(descriptor)
    return None


def _let_go() -> None:
    """In a forked child: a copy of the descriptor must not keep the lock when the parent dies."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)
