"""Locks by name, for work that must not be done twice at the same time.

A holder is a text of the caller's choice: who acquires a lock as the same holder again has it still. A lock that was
acquired with `hold_timeout` is free after that many seconds, whatever its holder does; every lock is free when the
process that holds it ends, however it ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from threading import Condition, Lock, Timer
from time import monotonic, sleep
from typing import Any, NamedTuple

from penstock.store.filelock import try_to_lock

__all__ = ["FileSystemLockManager", "MemoryLockManager"]

_Seconds = float | None


class _Grip(NamedTuple):
    """A hold on a lock of this process."""

    holder: str
    until: float  # by the monotonic clock


class MemoryLockManager:
    """Locks between the threads of this process: there is one such manager. Thread-safe; a forked child has none.

    >>> locks = MemoryLockManager()
    >>> locks.acquire_lock("report", holder="me"), locks.acquire_lock("report", holder="you", acquire_timeout=0)
    (True, False)
    >>> locks.release_lock("report", holder="me")
    """

    _instance: MemoryLockManager | None = None
    _changed: Condition
    _grips: dict[str, _Grip]

    def __new__(cls) -> MemoryLockManager:
        with _making:
            if cls._instance is None:
                cls._instance = super().__new__(cls)
                cls._instance._forget()
            return cls._instance

    def acquire_lock(
        self, key: str, holder: str, acquire_timeout: _Seconds = None, hold_timeout: _Seconds = None
    ) -> bool:
        """Wait until the lock is free, or the holder's already, and take it; False if that takes too long.

        Times are seconds; without `acquire_timeout` there is no end to waiting.
        """
        with self._changed:
            free = self._wait(lambda: self._grip(key), acquire_timeout, holder)
            # A holder who acquires it again keeps its time, unless it gives another.
            if free and (hold_timeout is not None or self._grip(key) is None):
                self._grips[key] = _Grip(holder, _deadline(hold_timeout))
            return free

    def release_lock(self, key: str, holder: str) -> None:
        """Give it back. Raises ValueError if this holder does not have it (any more)."""
        with self._changed:
            if not self._has(key, holder):
                raise _not_held(key, holder)
            del self._grips[key]
            self._changed.notify_all()

    def is_locked(self, key: str) -> bool:
        with self._changed:
            return self._grip(key) is not None

    def is_lock_holder(self, key: str, holder: str) -> bool:
        with self._changed:
            return self._has(key, holder)

    def wait_for_lock(self, key: str, timeout: _Seconds = None) -> bool:
        """Wait until nobody has the lock, without taking it; False if that takes more than `timeout` seconds."""
        with self._changed:
            return self._wait(lambda: self._grip(key), timeout)

    def _wait(self, grip: Callable[[], _Grip | None], timeout: _Seconds, holder: str | None = None) -> bool:
        deadline = _deadline(timeout)
        while (current := grip()) is not None and current.holder != holder:
            now = monotonic()
            if now >= deadline:
                return False
            patience = min(deadline, current.until) - now
            self._changed.wait(None if patience == float("inf") else patience)
        return True

    def _has(self, key: str, holder: str) -> bool:
        grip = self._grip(key)
        return grip is not None and grip.holder == holder

    def _grip(self, key: str) -> _Grip | None:
        grip = self._grips.get(key)
        if grip is not None and grip.until <= monotonic():
            del self._grips[key]
            return None
        return grip

    def _forget(self) -> None:
        self._changed, self._grips = Condition(), {}

    def __reduce__(self) -> tuple[Any, ...]:
        return MemoryLockManager, ()


_making = Lock()


class _Hold(NamedTuple):
    """A lock file that this process has locked."""

    descriptor: int
    holder: str
    timer: Timer | None = None


class _Table:
    """What this process holds in one directory."""

    guard: Lock
    holds: dict[str, _Hold]

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        self.guard, self.holds = Lock(), {}


class FileSystemLockManager:
    """Locks between the processes of this machine, as files in a directory, which is made if it is missing.

    The kernel frees a lock when its holder dies. `hold_timeout` is kept by the holding process itself: one that is
    stopped (SIGSTOP) keeps its locks until it goes on. A lock is released in the process that acquired it; holders of
    the same name in two processes exclude each other. Managers of one directory are one. Thread-safe. Not for
    directories on a network: there, what other machines lock may go unnoticed.

    >>> import tempfile
    >>> locks = FileSystemLockManager(tempfile.mkdtemp())
    >>> locks.acquire_lock("report", holder="me", hold_timeout=60)
    True
    >>> locks.release_lock("report", holder="me")
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self._directory = os.path.abspath(os.path.expanduser(directory))
        with _making:
            self._table = _tables.setdefault(self._directory, _Table())

    def acquire_lock(
        self, key: str, holder: str, acquire_timeout: _Seconds = None, hold_timeout: _Seconds = None
    ) -> bool:
        """Wait until the lock is free, or the holder's already, and take it; False if that takes too long.

        Times are seconds; without `acquire_timeout` there is no end to waiting. Raises OSError.
        """
        os.makedirs(self._directory, mode=0o700, exist_ok=True)
        return any(self._take(key, holder, hold_timeout) for _ in _tries(acquire_timeout))

    def release_lock(self, key: str, holder: str) -> None:
        """Give it back. Raises ValueError if this holder does not have it (any more), or not from this manager."""
        with self._table.guard:
            hold = self._table.holds.get(key)
            if hold is None or hold.holder != holder:
                raise _not_held(key, holder)
            self._let_go(key, hold)

    def is_locked(self, key: str) -> bool:
        return self._holder(key) is not None

    def is_lock_holder(self, key: str, holder: str) -> bool:
        return self._holder(key) == holder

    def wait_for_lock(self, key: str, timeout: _Seconds = None) -> bool:
        """Wait until nobody has the lock, without taking it; False if that takes more than `timeout` seconds."""
        return any(not self.is_locked(key) for _ in _tries(timeout))

    def _take(self, key: str, holder: str, hold_timeout: _Seconds) -> bool:
        with self._table.guard:
            hold = self._table.holds.get(key)
            if hold is not None:
                if hold.holder != holder:
                    return False
                if hold_timeout is not None:
                    self._table.holds[key] = hold._replace(timer=self._timed(key, hold, hold_timeout))
                return True
            descriptor = try_to_lock(self._path(key))
            if descriptor is not None:
                self._keep(key, _Hold(descriptor, holder), hold_timeout)
            return descriptor is not None

    def _keep(self, key: str, hold: _Hold, hold_timeout: _Seconds) -> None:
        _open.add(hold.descriptor)
        try:
            os.ftruncate(hold.descriptor, 0)
            os.pwrite(hold.descriptor, hold.holder.encode("utf-8", "surrogatepass"), 0)
            self._table.holds[key] = hold._replace(timer=self._timed(key, hold, hold_timeout))
        except BaseException:
            self._let_go(key, hold)
            raise

    def _timed(self, key: str, hold: _Hold, hold_timeout: _Seconds) -> Timer | None:
        if hold.timer is not None:
            hold.timer.cancel()
        if hold_timeout is None:
            return None
        timer = Timer(hold_timeout, self._expire, (key, hold.descriptor))
        timer.daemon, timer.name = True, "penstock lock"
        timer.start()
        return timer

    def _expire(self, key: str, descriptor: int) -> None:
        with self._table.guard:
            hold = self._table.holds.get(key)
            if hold is not None and hold.descriptor == descriptor:
                self._let_go(key, hold)

    def _let_go(self, key: str, hold: _Hold) -> None:
        self._table.holds.pop(key, None)
        if hold.timer is not None:
            hold.timer.cancel()
        # While it is locked: whoever opened it before finds out, see `_locked`.
        with contextlib.suppress(OSError):
            os.unlink(self._path(key))
        _open.discard(hold.descriptor)
        # Unlocked by name: a process forked meanwhile may have a copy of the descriptor.
        fcntl.flock(hold.descriptor, fcntl.LOCK_UN)
        os.close(hold.descriptor)

    def _holder(self, key: str) -> str | None:
        with self._table.guard:
            hold = self._table.holds.get(key)
        return self._holder_elsewhere(key) if hold is None else hold.holder

    def _holder_elsewhere(self, key: str) -> str | None:
        try:
            descriptor = os.open(self._path(key), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return os.pread(descriptor, 4096, 0).decode("utf-8", "replace")
        else:
            return None
        finally:
            os.close(descriptor)

    def _path(self, key: str) -> str:
        from hashlib import blake2b  # only for who locks

        name = blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
        return os.path.join(self._directory, f"{name}.lock")

    def __reduce__(self) -> tuple[Any, ...]:
        return FileSystemLockManager, (self._directory,)

    def __repr__(self) -> str:
        return f"FileSystemLockManager({self._directory!r})"


def _tries(timeout: _Seconds) -> Iterator[None]:
    """Pauses in between, ever longer; at least three tries, because to look at a lock is to have it for an instant."""
    deadline, pause = _deadline(timeout), 0.0005
    for _ in range(2):
        yield
        sleep(pause)
    yield
    while (left := deadline - monotonic()) > 0:
        sleep(min(pause, left))
        pause = min(2 * pause, 0.02)
        yield


def _deadline(timeout: _Seconds) -> float:
    return float("inf") if timeout is None else monotonic() + timeout


def _not_held(key: str, holder: str) -> ValueError:
    return ValueError(f"{holder!r} does not hold the lock {key!r}")


_tables: dict[str, _Table] = {}
_open: set[int] = set()  # descriptors of locked files


def _leave_to_parent() -> None:
    """In a forked child: the locks are the parent's, and a copy of a descriptor must not keep one when it dies."""
    global _making
    _making = Lock()
    for descriptor in _open:
        os.close(descriptor)
    _open.clear()
    for table in _tables.values():
        table.forget()
    if MemoryLockManager._instance is not None:
        MemoryLockManager._instance._forget()


os.register_at_fork(after_in_child=_leave_to_parent)
