"""A process whose every change to files can be its last, or can fail: what its supervisor sees, and decides.

Points are numbered from 1, in the order in which the calls arrive, over all threads and descendants of the process.
"""

from __future__ import annotations

import os
import re
import select
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Literal, NamedTuple, Protocol

import seccomp_notify
from seccomp_notify import Notice

_BY_NAME = {
    # call: (argument with the descriptor of the directory, argument with the name)
    "open": (None, 0), "openat": (0, 1), "rename": (None, 1), "renameat": (2, 3), "renameat2": (2, 3),
    "unlink": (None, 0), "unlinkat": (0, 1), "link": (None, 1), "linkat": (2, 3), "mkdir": (None, 0),
    "mkdirat": (0, 1), "rmdir": (None, 0),
}  # fmt: skip
_NONE = 2**32 - 100  # AT_FDCWD
_TOKEN = re.compile(r"[0-9a-f]{32}|\.penstock-\d+-[0-9a-f]+")


class Point(NamedTuple):
    """One call that changes a file, or a lock."""

    number: int
    call: str
    file: str  # within the home, or `acknowledgement` or `body` for the files with which the test watches
    worker: bool = False  # it is made by a process that the owner has started

    @property
    def kind(self) -> tuple[str, str]:
        return self.call, self.file


Victim = Literal["owner", "everybody", "caller"]
"""Who dies: the process under test, that and all that it has started, or the one among them that makes the call."""


class Decide(Protocol):
    def __call__(self, point: Point, /) -> Action: ...


@dataclass(frozen=True)
class Action:
    """What becomes of a call."""

    kill: Victim | None = None
    half: bool = False  # of what is to be written, only the first half is
    error: int | None = None


GO_ON = Action()


def let_live(_: Point) -> Action:
    return GO_ON


@dataclass(frozen=True)
class KillAt:
    """A process dies before the call is carried out; with `half`, in the middle of a write."""

    number: int
    half: bool = False
    victim: Victim = "owner"

    def __call__(self, point: Point) -> Action:
        # Never half a line of a witness: that would accuse the innocent.
        half = self.half and point.file not in WATCHED
        return Action(kill=self.victim, half=half) if point.number >= self.number else GO_ON


@dataclass
class FailFrom:
    """Calls fail from a number on, the first of them `times` times. For one life."""

    number: int
    error: int
    calls: frozenset[str]
    times: int = 1
    half: bool = False  # of the write before, half was still carried out
    file: str | None = None  # only those on this one
    failed: int = 0

    def __call__(self, point: Point) -> Action:
        if point.number < self.number or point.call not in self.calls or not self._is_meant(point.file):
            return GO_ON
        if self.half and point.call in ("write", "pwrite64"):
            self.half = False
            return Action(half=True)
        if self.failed >= self.times:
            return GO_ON
        self.failed += 1
        return Action(error=self.error)

    def _is_meant(self, file: str) -> bool:
        return file not in WATCHED and self.file in (None, file)


ACKNOWLEDGEMENT, BODY = "acknowledgement", "body"
WATCHED = (ACKNOWLEDGEMENT, BODY)


@dataclass
class Supervisor:
    """Sees to one process and all that it starts. For one thread."""

    listener: int
    pid: int  # which nobody waits for before the end of `run`
    home: Path
    watched: dict[str, str]  # path -> what its points are called
    decide: Decide
    on_sync: Callable[[str], None] | None = None  # hears of the files that are synced
    points: list[Point] = field(default_factory=list)
    struck: Point | None = None  # where something else was decided than to go on, first
    killed: Victim | None = None
    _owners: dict[int, bool] = field(default_factory=dict)  # thread -> whether it is one of the owner's

    def run(self, seconds: float) -> bool:
        """Until nobody is left, of all processes; False, and all are killed, if that takes longer. Once only."""
        try:
            if self._see_to_the_end(seconds):
                return True
            _kill_everybody(self.pid)
            self._see_to_the_end(5.0)
            return False
        finally:
            os.close(self.listener)

    def _see_to_the_end(self, seconds: float) -> bool:
        deadline = monotonic() + seconds
        poll = select.poll()
        poll.register(self.listener, select.POLLIN)
        while (left := deadline - monotonic()) > 0:
            for _, event in poll.poll(1000 * left):
                if event & select.POLLIN:
                    self._see()
                elif event & (select.POLLHUP | select.POLLERR):
                    return True
        return False

    def _see(self) -> None:
        notice = seccomp_notify.receive(self.listener)
        if notice is None:
            return
        path = None if self.killed in ("owner", "everybody") else _path_of(notice)
        action = GO_ON if path is None else self._decided(notice, path)
        self._do(action, notice)

    def _decided(self, notice: Notice, path: str) -> Action:
        point = self._point(notice, path)
        action = GO_ON
        if point is not None:
            self.points.append(point)
            action = GO_ON if self.killed else self.decide(point)
            self.struck = self.struck or (None if action is GO_ON else point)
        if self.on_sync is not None and not action.kill and notice.name in ("fsync", "fdatasync"):
            self.on_sync(path)
        return action

    def _do(self, action: Action, notice: Notice) -> None:
        written = _write_half(notice) if action.half else 0
        if action.kill:
            self._kill(action.kill, notice)
        if action.error is not None:
            seccomp_notify.answer(self.listener, notice, error=action.error)
        elif written and not action.kill:
            seccomp_notify.answer(self.listener, notice, value=written)
        else:  # whoever was killed will not hear it
            seccomp_notify.answer(self.listener, notice)

    def _kill(self, victim: Victim, notice: Notice) -> None:
        self.killed = victim
        if victim == "everybody":
            _kill_everybody(self.pid)
        else:
            with suppress(OSError):  # it has gone already
                _kill(self.pid if victim == "owner" else seccomp_notify.process_of(notice.thread))

    def _point(self, notice: Notice, path: str) -> Point | None:
        file = self.watched.get(path)
        if file is None:
            if not path.startswith(f"{self.home}/") and path != str(self.home):
                return None
            file = _TOKEN.sub("*", os.path.relpath(path, self.home))
        elif notice.name != "write":
            return None
        return Point(len(self.points) + 1, notice.name, file, not self._is_owners(notice.thread))

    def _is_owners(self, thread: int) -> bool:
        if thread not in self._owners:  # remembered for one life: in a long one numbers would come round
            self._owners[thread] = os.path.exists(f"/proc/{self.pid}/task/{thread}")
        return self._owners[thread]


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _kill_everybody(pid: int) -> None:
    """Children first: an orphan would be somebody else's child."""
    with suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            for child in Path(f"/proc/{pid}/task/{thread}/children").read_text().split():
                _kill_everybody(int(child))
    _kill(pid)


def _path_of(notice: Notice) -> str | None:
    """The file that a call is about. None if the caller has gone meanwhile."""
    with suppress(OSError):
        if notice.name not in _BY_NAME:
            return _target(notice, notice.arguments[0])
        directory, name = _BY_NAME[notice.name]
        path = _text(notice, notice.arguments[name])
        if not path.startswith("/"):
            path = os.path.join(_folder(notice, directory), path)
        return os.path.normpath(path)
    return None


def _folder(notice: Notice, argument: int | None) -> str:
    descriptor = _NONE if argument is None else notice.arguments[argument] % 2**32
    if descriptor == _NONE:
        return os.readlink(f"/proc/{notice.thread}/cwd")
    return _target(notice, descriptor)


def _target(notice: Notice, descriptor: int) -> str:
    return os.readlink(f"/proc/{notice.thread}/fd/{descriptor}").removesuffix(" (deleted)")


def _text(notice: Notice, address: int) -> str:
    text = b""
    while b"\0" not in text:  # page by page: the next one may not be there
        text += _memory(notice, address + len(text), 4096 - (address + len(text)) % 4096)
    return text.partition(b"\0")[0].decode(errors="replace")


def _memory(notice: Notice, address: int, size: int) -> bytes:
    with open(f"/proc/{notice.thread}/mem", "rb", buffering=0) as memory:
        memory.seek(address)
        return memory.read(size)


def _write_half(notice: Notice) -> int:
    """Carry out half of a write in the place of whoever asked for it; how much that was, 0 if it is no such call."""
    if notice.name not in ("write", "pwrite64") or notice.arguments[2] < 2:
        return 0
    descriptor, address, size, offset, *_ = notice.arguments
    with suppress(OSError):  # it is not open for writing, or whoever asked has died: then there is no half
        half = _memory(notice, address, size // 2)
        file = seccomp_notify.borrow(notice.thread, descriptor)
        try:
            return os.write(file, half) if notice.name == "write" else os.pwrite(file, half, offset)
        finally:
            os.close(file)
    return 0
