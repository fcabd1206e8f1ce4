"""One computation per key: who asks a question that is being answered waits for the answer.

Within a process a table says which run computes a key. Between processes, the lock on one byte of a file does, whose
place follows from the key; the operating system gives it back when its holder dies.

A wait here must never be the reason why what is waited for cannot end. A run inside one that computes a key may wait
for a second run, which waits, somewhere below, for the first key: such a run computes by itself.
"""

from __future__ import annotations

import os
from collections import deque
from threading import Lock
from typing import TYPE_CHECKING, Any

from penstock._engine.requests import deliver

if TYPE_CHECKING:
    from penstock._engine.run import Run

_LOOK_AGAIN = 0.02  # seconds between looks at a key that another process computes
_PLACES = 2**60


class Locks:
    """Keys that this process computes, as other processes see it. The methods are called by one thread at a time."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._descriptor: int | None = None
        self._pid = 0

    def take(self, key: str) -> bool:
        """Lock the key; False if another process has it. Where there is nothing to lock, everybody computes."""
        import fcntl

        try:
            fcntl.lockf(self._opened(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _place(key))
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True

    def release(self, key: str) -> None:
        import fcntl

        if self._descriptor is not None and self._pid == os.getpid():
            try:
                fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, _place(key))
            except OSError:
                self.close()

    def close(self) -> None:
        """Closing any descriptor of the file gives back all locks of this process on it: there is only this one."""
        if self._descriptor is not None and self._pid == os.getpid():
            os.close(self._descriptor)
        self._descriptor = None

    def _opened(self) -> int:
        if self._descriptor is None or self._pid != os.getpid():
            os.makedirs(os.path.dirname(self._path), mode=0o700, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            self._descriptor, self._pid = os.open(self._path, flags, 0o600), os.getpid()
        return self._descriptor


def _place(key: str) -> int:
    from zlib import crc32

    data = key.encode("utf-8", "surrogatepass")
    return ((crc32(data) << 32) | crc32(data, 0x5EED)) % _PLACES


class _Entry:
    """A key that is being computed."""

    __slots__ = ("elsewhere", "holder", "locked", "turn", "waiting")

    def __init__(self, holder: Run, turn: Turn) -> None:
        self.holder = holder
        self.turn = turn
        self.locked = turn.lock(holder)  # against other processes
        self.elsewhere = not self.locked  # one of them computes it; the holder is next
        self.waiting: deque[tuple[Run, Turn]] = deque()


class Turn:
    """The wait for one's turn to compute a key.

    As a request, answered with True: it is this run's turn; or False: somebody has computed it, look again.
    """

    def __init__(self, key: str, locks: Locks, manager: Any) -> None:
        self.key = key
        self.locks = locks
        self.manager = manager

    def take(self, run: Run) -> bool:
        """Whether it is the run's turn now. If not, wait for it: the run is in line already."""
        return computing.take(run, self)

    def arm(self, run: Run) -> None:
        computing.arm(run, self)

    def lock(self, run: Run) -> bool:
        if self.manager is not None and not self.manager.acquire_lock(self.key, run.hex, acquire_timeout=0):
            return False
        if self.locks.take(self.key):
            return True
        self._unlock_managed(run)
        return False

    def unlock(self, run: Run) -> None:
        self.locks.release(self.key)
        self._unlock_managed(run)

    def _unlock_managed(self, run: Run) -> None:
        if self.manager is not None:
            self.manager.release_lock(self.key, run.hex)


class Computing:
    """The keys that are being computed in this process. Thread-safe."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._entries: dict[str, _Entry] = {}
        self._held: dict[Run, str] = {}

    def take(self, run: Run, turn: Turn) -> bool:
        with self._lock:
            if run in self._held:
                return not self._entries[self._held[run]].elsewhere
            entry = self._entries.get(turn.key)
            if entry is not None:
                return self._would_wait_for_itself(run, entry)
            entry = self._entries[turn.key] = _Entry(run, turn)
            if entry.elsewhere and any(ancestor in self._held for ancestor in run.ancestors()):
                # Between processes nobody can see who waits for whom: who is waited for does not wait there.
                entry.elsewhere = False
            self._held[run] = turn.key
            return not entry.elsewhere

    def arm(self, run: Run, turn: Turn) -> None:
        with self._lock:
            entry = self._entries.get(turn.key)
            if entry is not None and entry.holder is not run:
                entry.waiting.append((run, turn))
                return
        if entry is None:
            deliver(run, turn, False)  # it was computed since
        else:
            self._watch(run, turn)

    def _watch(self, run: Run, turn: Turn) -> None:
        """Another process computes the key: look again and again whether it has."""
        with self._lock:
            entry = self._entries.get(turn.key)
            waits = entry is not None and entry.holder is run and run.pending is turn
            if entry is not None and waits:
                entry.locked = turn.lock(run)
                entry.elsewhere = not entry.locked
        if entry is None or not waits:
            self.leave(run, found=False)  # cancelled meanwhile
        elif entry.locked:
            deliver(run, turn, True)
        else:
            run.engine.clock.call_later(_LOOK_AGAIN, lambda: self._watch(run, turn))

    def leave(self, run: Run, *, found: bool) -> None:
        """The run has done with its key. `found`: whoever waits will find the value; else the next one computes it."""
        with self._lock:
            key = self._held.pop(run, None)
            if key is None:
                return
            entry = self._entries[key]
            if found or not entry.waiting:
                self._close(key, entry, run)
        if found:
            for waiter, turn in entry.waiting:
                deliver(waiter, turn, False)
        elif entry.waiting:
            self._pass_on(key, entry, run)

    def _close(self, key: str, entry: _Entry, run: Run) -> None:
        del self._entries[key]
        if entry.locked:
            entry.turn.unlock(run)

    def _pass_on(self, key: str, entry: _Entry, run: Run) -> None:
        with self._lock:
            if entry.locked:
                entry.turn.unlock(run)
            heir, turn = entry.waiting.popleft()
            waiting, entry = entry.waiting, _Entry(heir, turn)
            entry.waiting = waiting
            self._entries[key] = entry
            self._held[heir] = key
        if entry.elsewhere:
            self._watch(heir, turn)
        elif not deliver(heir, turn, True):  # it has been cancelled, and is at its end or past it
            self.leave(heir, found=False)

    def _would_wait_for_itself(self, run: Run, entry: _Entry) -> bool:
        own = [ancestor for ancestor in run.ancestors() if ancestor in self._held]
        if not own:
            return False
        ahead, seen = [entry], set()
        while ahead:
            other = ahead.pop()
            if other.holder in own:
                return True
            if id(other) in seen:
                continue
            seen.add(id(other))
            ahead.extend(self._waited_for_below(other.holder))
        return False

    def _waited_for_below(self, holder: Run) -> list[_Entry]:
        return [
            entry
            for entry in self._entries.values()
            if any(holder in waiter.ancestors() for waiter, _ in entry.waiting)
        ]


computing = Computing()


def _forget() -> None:
    """In a forked child: what the parent computes is none of its business."""
    global computing
    computing.__init__()  # type: ignore[misc]  # the name has been imported elsewhere


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
