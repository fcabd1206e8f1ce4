"""What the tests of the process pool have executed in workers: light, because every worker imports it by name."""

from __future__ import annotations

import ctypes
import os
import sys
import time
from pathlib import Path
from pickle import PickleBuffer
from typing import Any

KINDS = ("exception", "exit", "_exit", "segfault", "hang")
FOREVER = 60.0


def misbehave(kind: str) -> None:
    if kind == "exception":
        raise ValueError("bad")
    if kind == "exit":
        sys.exit(7)
    if kind == "_exit":
        os._exit(3)
    if kind == "segfault":
        ctypes.string_at(0)
    if kind == "hang":
        time.sleep(FOREVER)


class BadToUnpack:
    """Misbehaves when it is rebuilt."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __reduce__(self) -> Any:
        return misbehave, (self.kind,)


class BadState:
    """Misbehaves when it is rebuilt, a little later."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __setstate__(self, state: dict[str, str]) -> None:
        misbehave(state["kind"])


class BadToPack:
    """Misbehaves when it is pickled."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __reduce__(self) -> Any:
        misbehave(self.kind)


class BadElsewhere:
    """Misbehaves when it is rebuilt in another process than the one that made it."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.pid = os.getpid()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if os.getpid() != self.pid:
            misbehave(self.kind)


class BadError(Exception):
    """An exception that misbehaves when it is rebuilt."""

    def __reduce__(self) -> Any:
        return misbehave, self.args


def fail_badly(kind: str) -> None:
    raise BadError(kind)


def shared_memory() -> set[str]:
    """Its names, but those of multiprocessing's semaphores: a Dask cluster of other tests makes some now and then."""
    return {name for name in os.listdir("/dev/shm") if not name.startswith(("sem.mp-", "PostgreSQL."))}


class WithBlob(Exception):
    """An exception that carries a large buffer."""


class Blob:
    """Travels with its bytes apart from the pickle, as arrays do."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Blob, (PickleBuffer(self.data),)

    @property
    def content(self) -> bytes:
        return bytes(self.data)


def blob(fill: int = 1, size: int = 300_000) -> Blob:
    return Blob(bytearray([fill]) * size)


def append(path: str, line: object) -> None:
    """One line more; whole also if several processes write."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{line}\n".encode())
    os.close(descriptor)


def lines(path: Any) -> list[str]:
    path = Path(path)
    return path.read_text().splitlines() if path.exists() else []


def wait_for_file(path: Any, seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while not os.path.exists(path):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True


def hold_interpreter_lock() -> None:
    """A call of C code that never ends and keeps the interpreter lock."""
    ctypes.PyDLL(None).sleep(int(FOREVER))


# --- processes --------------------------------------------------------------------------------------------------------


def children(pid: int | None = None) -> list[int]:
    """The processes that `pid` has started, but for those that have ended."""
    parent, found = pid or os.getpid(), []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            state, above = _status(int(entry))
            if above == parent and state not in "ZX":
                found.append(int(entry))
    return found


def is_alive(pid: int) -> bool:
    return _status(pid)[0] not in "ZX"


def _status(pid: int) -> tuple[str, int]:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return "X", 0
    return fields[0], int(fields[1])
