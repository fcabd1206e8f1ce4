"""Which processes live: a locked file for each process and store, `<home>/owners/<token>`.

The owner of runs, and every process that works for it, has the file open and holds a shared lock (`flock`) on it. The
kernel drops a lock when its process is gone, however it went, and not before: a process that is stopped, or that
sleeps with its laptop, keeps it. So whoever can get the exclusive lock knows that nobody is left who could still do
anything for the runs of that owner. A file that is missing is nobody's.

* Descriptors are close-on-exec, and a forked child closes its copies: else whatever a task starts would keep a dead
  owner alive. A child is a process of its own, with a token of its own.
* Only one process looks at a time (`owners/lock`): to look is to take the lock for a moment, which somebody else who
  looks would take for life.
* While the record of a dead owner is corrected the exclusive lock is held: whoever comes second waits for the first,
  and a worker that comes too late cannot get its shared lock.
"""

from __future__ import annotations

import atexit
import fcntl
import functools
import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from threading import RLock
from typing import NamedTuple

from penstock.exceptions import PenstockError
from penstock.store.base import StoreLocked
from penstock.store.filelock import held

DIRECTORY = "owners"
_LOOKING = "lock"  # in that directory
_PATIENCE = 0.2  # seconds for somebody else who looks; longer: it was stopped in the middle of that
_BURIAL = 1.0  # seconds for somebody else who corrects the record
_TURN = 0.002
_DIGITS = frozenset("0123456789abcdef")

_Home = str | os.PathLike[str]
_Identity = tuple[int, int]  # device and inode


class OwnerGone(PenstockError):
    """The process that this one was to work for is dead, and its runs are recorded as crashed."""


class Facts(NamedTuple):
    """What people want to know about an owner."""

    host: str
    pid: int
    started: float  # since the epoch


class Tie(NamedTuple):
    """What a worker needs to know to keep an owner alive. Can be sent to other processes and machines."""

    machine: str
    directory: str
    place: _Identity  # of the directory: elsewhere it may be another one of the same name
    token: str


class _Lock:
    """An open file on which this process holds a shared lock."""

    __slots__ = ("descriptor", "identity", "path", "token", "users")

    def __init__(self, token: str, path: str, descriptor: int) -> None:
        self.token = token
        self.path = path
        self.descriptor = descriptor
        self.identity = _identity(os.fstat(descriptor))
        self.users = 1

    def is_in_place(self) -> bool:
        try:
            return _identity(os.stat(self.path)) == self.identity
        except OSError:
            return False


_own: dict[str, _Lock] = {}
_joined: dict[Tie, _Lock] = {}
_open: set[int] = set()  # every descriptor here, for the children
_changes = 0
_changing = RLock()  # reentrant: a signal handler may come in the middle


# --- for owners -----------------------------------------------------------------------------------------------


def own(home: _Home) -> str:
    """The token of this process for the store in `home`. The first call makes the file.

    From then on the process counts as alive until it is gone, or `disown`. A later call costs a look at the file, which
    is made again if somebody has deleted it. Thread-safe. Raises `OSError` if there can be no such file: what is
    recorded then must name no owner, for it would be taken for dead.
    """
    mine = _own.get(os.fspath(home))
    if mine is None or not mine.is_in_place():
        with _changing:
            mine = _take_possession(os.fspath(home))
    return mine.token


def _take_possession(home: str) -> _Lock:
    before = _own.get(home)
    if before is not None and before.is_in_place():
        return before
    token = os.urandom(16).hex() if before is None else before.token
    directory = os.path.abspath(os.path.join(home, DIRECTORY))
    os.makedirs(os.path.dirname(directory), mode=0o700, exist_ok=True)
    with suppress(FileExistsError):
        os.mkdir(directory, 0o700)
    mine = _own[home] = _make(token, os.path.join(directory, token))
    if before is not None:
        _close(before.descriptor)
    return mine


def _make(token: str, path: str) -> _Lock:
    while True:
        descriptor = _opened(path, os.O_RDWR | os.O_CREAT)
        try:
            # Whoever looks may have found the new file before it was locked, and removed it.
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            lock = _Lock(token, path, descriptor)
            if lock.is_in_place():
                facts = {"host": os.uname().nodename, "pid": os.getpid(), "started": time.time()}
                os.pwrite(descriptor, json.dumps(facts).encode(), 0)
                return lock
        except BaseException:
            _close(descriptor)
            raise
        _close(descriptor)


def disown(home: _Home) -> None:
    """Everything is recorded: the process need not count as alive any more. Removes the file, but not from workers."""
    global _changes
    with _changing:
        mine = _own.pop(os.fspath(home), None)
        if mine is not None:
            _changes += 1
            _let_go(mine)


def changes() -> int:
    """Another number whenever a token of this process is no longer its token."""
    return _changes


@atexit.register  # this module is imported before the recorder's, whose last words are therefore written earlier
def disown_all() -> None:
    """`disown` every store."""
    for home in list(_own):
        disown(home)


def _let_go(lock: _Lock) -> None:
    with suppress(OSError):
        # Gives up the shared lock in any case. Who gets in between finds everything recorded.
        if _try(lock.descriptor, fcntl.LOCK_EX) and lock.is_in_place():
            os.unlink(lock.path)
    _close(lock.descriptor)


# --- for workers ----------------------------------------------------------------------------------------------


def ties() -> tuple[Tie, ...]:
    """What a worker of this process has to `join`: the files of this process, and those that it has joined itself."""
    with _changing:
        for home in list(_own):
            with suppress(OSError):
                own(home)  # makes it again if it was deleted
        mine = [_tie(lock) for lock in _own.values() if lock.is_in_place()]
        return (*mine, *(tie for tie, lock in _joined.items() if lock.is_in_place()))


def _tie(lock: _Lock) -> Tie:
    directory = os.path.dirname(lock.path)
    return Tie(machine(), directory, _identity(os.stat(directory)), lock.token)


def join(ties: Iterable[Tie]) -> None:
    """Keep owners alive from now on, for the rest of this process or until `leave`. Counted.

    Raises `OwnerGone` if one of them is dead: then nothing of its work may be executed here, and nothing is held. Ties
    to a directory that this machine does not have are passed over: there is no file that could be locked.
    """
    taken: list[Tie] = []
    try:
        taken.extend(tie for tie in ties if _join(tie))
    except BaseException:
        leave(taken)
        raise


def _join(tie: Tie) -> bool:
    with _changing:
        known = _joined.get(tie)
        if known is not None:
            known.users += 1
            return True
        if not _is_here(tie):
            return False
        _joined[tie] = _shared(tie.token, os.path.join(tie.directory, tie.token))
        return True


def leave(ties: Iterable[Tie]) -> None:
    """Undo one `join`."""
    with _changing:
        for tie in ties:
            lock = _joined.get(tie)
            if lock is None:
                continue
            lock.users -= 1
            if not lock.users:
                _close(_joined.pop(tie).descriptor)


@contextmanager
def joined(ties: Iterable[Tie]) -> Iterator[None]:
    """`join` for the duration of the block."""
    ties = tuple(ties)
    join(ties)
    try:
        yield
    finally:
        leave(ties)


def worked_for() -> str | None:
    """The home of an owner that this process works for, if it does."""
    for tie in list(_joined):
        return os.path.dirname(tie.directory)
    return None


def _shared(token: str, path: str) -> _Lock:
    try:
        descriptor = _opened(path, os.O_RDONLY)
    except FileNotFoundError:
        raise OwnerGone("The process that this worker belongs to is gone") from None
    lock = _Lock(token, path, descriptor)
    if _try(descriptor, fcntl.LOCK_SH) and lock.is_in_place():
        return lock
    _close(descriptor)
    raise OwnerGone("The process that this worker belongs to is gone")


def _is_here(tie: Tie) -> bool:
    try:
        return tie.machine == machine() and _identity(os.stat(tie.directory)) == tuple(tie.place)
    except OSError:
        return False


@functools.cache
def machine() -> str:
    """This machine since it was started, for comparison: containers on it have it in common, as they do the kernel."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return os.uname().nodename


# --- for those who look ---------------------------------------------------------------------------------------


def tokens(home: _Home) -> list[str]:
    """The owners that have a file, dead or alive."""
    try:
        return [name for name in os.listdir(os.path.join(home, DIRECTORY)) if _is_token(name)]
    except OSError:
        return []


def facts(home: _Home, token: str) -> Facts | None:
    """About an owner, dead or alive; None if nothing is known."""
    try:
        with open(_path(home, token), encoding="utf-8") as file:
            found = json.load(file)
        return Facts(str(found["host"]), int(found["pid"]), float(found["started"]))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def is_alive(home: _Home, token: str) -> bool:
    """Whether the owner, or somebody who works for it, lives. In case of doubt it does. Takes some microseconds."""
    if not _is_token(token) or _is_held_here(home, token):
        return True
    try:
        with _looking(home):
            descriptor = _claimed(_path(home, token), create=False)
    except (FileNotFoundError, _InBurial):
        return False
    except (_Alive, OSError):  # or not ours to look at
        return True
    _drop(descriptor)
    return False


@contextmanager
def bury(home: _Home, token: str) -> Iterator[bool]:
    """Hold the lock of a dead owner while its record is corrected; then remove its file, unless the block raises.

    Yields False, and there is nothing to correct, if it lives. Likewise if somebody else has corrected it meanwhile,
    who is waited for.
    """
    if not _is_token(token) or _is_held_here(home, token):
        yield False
        return
    path = _path(home, token)
    try:
        descriptor = _claimed_for_burial(home, path)
    except _Alive:
        yield False
        return
    try:
        yield True
        with suppress(OSError):
            os.unlink(path)
    finally:
        _drop(descriptor)


def _claimed_for_burial(home: _Home, path: str) -> int:
    """Like `_claimed`; waits for somebody else who buries it, after whom there is nothing left to do."""
    with suppress(OSError):
        os.mkdir(os.path.dirname(path), 0o700)  # gone with the files of all owners
    deadline = time.monotonic() + _BURIAL
    another = False
    while True:
        try:
            with _looking(home):
                return _claimed(path, create=not another)
        except _InBurial:
            another = True
        except OSError:
            # Done by now; or nobody can write here, the record neither, of which the caller will hear.
            if another or os.path.exists(path):
                raise _Alive from None
            return _NOTHING
        if time.monotonic() > deadline:
            raise _Alive
        time.sleep(_TURN)


class _Alive(Exception):
    """Somebody holds the shared lock, or in any case there is nothing to be done."""


class _InBurial(Exception):
    """Somebody else corrects the record."""


_NOTHING = -1  # in the place of a descriptor


def _claimed(path: str, create: bool) -> int:
    """A descriptor that holds the exclusive lock: the owner is dead. Call it alone, see `_looking`.

    Raises `_Alive` or `_InBurial`, or `OSError` if there is no file that could be locked.
    """
    while True:
        descriptor = _opened(path, os.O_RDWR | os.O_CREAT if create else os.O_RDONLY)
        try:
            _claim(descriptor)
            if _is_at(path, descriptor):
                return descriptor
        except BaseException:
            _close(descriptor)
            raise
        _drop(descriptor)  # it was removed, or made again, before it was locked


def _claim(descriptor: int) -> None:
    if _try(descriptor, fcntl.LOCK_EX):
        return
    if not _try(descriptor, fcntl.LOCK_SH):
        raise _InBurial
    # Somebody else has a shared lock, and nobody who looks has one now: unless a burial has ended in between.
    if not _try(descriptor, fcntl.LOCK_EX):
        raise _Alive


@contextmanager
def _looking(home: _Home) -> Iterator[None]:
    with ExitStack() as stack:
        with suppress(StoreLocked, OSError):  # a directory that nobody can write to: then without
            stack.enter_context(held(os.path.join(home, DIRECTORY, _LOOKING), _PATIENCE))
        yield


# --- small things ---------------------------------------------------------------------------------------------


def _is_token(text: str) -> bool:
    return len(text) == 32 and _DIGITS.issuperset(text)


def _is_held_here(home: _Home, token: str) -> bool:
    mine = _own.get(os.fspath(home))
    if mine is not None and mine.token == token:
        return True
    return any(tie.token == token for tie in list(_joined))


def _path(home: _Home, token: str) -> str:
    return os.path.join(os.path.abspath(home), DIRECTORY, token)


def _identity(found: os.stat_result) -> _Identity:
    return found.st_dev, found.st_ino


def _is_at(path: str, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except OSError:
        return False


def _opened(path: str, flags: int) -> int:
    with _changing:  # so that no fork sees a descriptor that is not noted
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        _open.add(descriptor)
        return descriptor


def _close(descriptor: int) -> None:
    with _changing:
        if descriptor in _open:
            _open.discard(descriptor)
            os.close(descriptor)


def _drop(descriptor: int) -> None:
    """Unlocked by name: a process forked meanwhile may have a copy of the descriptor."""
    if descriptor != _NOTHING:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        _close(descriptor)


def _try(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _start_afresh() -> None:
    """In a forked child: its copies must not keep anybody alive. Closed and not unlocked: the lock is the parent's."""
    global _changing, _changes
    _changing = RLock()
    _changes += 1
    for descriptor in _open:
        with suppress(OSError):
            os.close(descriptor)
    for table in (_open, _own, _joined):
        table.clear()


def _end_pause() -> None:
    _changing.release()


def _pause() -> None:
    _changing.acquire()


os.register_at_fork(before=_pause, after_in_parent=_end_pause, after_in_child=_start_afresh)
