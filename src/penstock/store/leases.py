"""Limits that processes have in common: a small file for each in `<home>/limits/`, and one lock for all of them.

A file says what the limit allows, and has a row for each process: how much it holds, and since when it waits. A process
writes no row but its own, each with one write of some bytes, so whatever kills it, and when, rows are whole. Nothing is
ever added up in a file: what is taken is the sum over the rows of processes that live (`owners`).

Everything is done under the lock, which no process has for longer than some microseconds; it is one for all limits
because a request may be for several, and then takes all or none.
"""

from __future__ import annotations

import fcntl
import math
import os
import struct
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from penstock.store import owners

DIRECTORY = "limits"
_LOCK = "lock"
_HEADER = struct.Struct("<8sdddd")  # magic, two numbers of the definition, paid until, said when
_HEAD = 256  # bytes for the header; the limit's name comes behind it, for people
_ROW = struct.Struct("<16sIqQd84s")  # token, pid, held, ticket of the first in line or 0, last look, who
_MAGIC = b"limit 1\n"
_MOST_OPEN = 64  # files
_CHECK_EVERY = 0.05  # seconds
_TICK = 50_000_000  # nanoseconds in which a directory may change once more without its time telling so
_LONGEST = 100  # characters of a name that is a file's
_SAFE = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_")
NOBODY = (1 << 64) - 1  # a ticket that is later than all
ASLEEP = 1.0  # seconds without a look at its limits: a process that stands in line is passed over

Definition = tuple[float | None, float | None]
_UNDEFINED: Definition = (None, None)


class Row(NamedTuple):
    """What a process has to do with a limit."""

    token: bytes
    pid: int
    held: int
    ticket: int
    looked: float
    who: bytes

    @property
    def matters(self) -> bool:
        return bool(self.held or self.ticket)


class Sheet:
    """One limit's file. Call it with the lock of its `Leases`, but for `definition` and `changed`."""

    def __init__(self, book: Leases, path: str, name: str) -> None:
        self._book = book
        self._path = path
        self._name = name
        self._data = b""
        self._place: int | None = None  # of the row of this process
        self._rows: list[Row] = []  # of all the others
        self._written: tuple[int, int, str] | None = None

    # --- what it allows ---------------------------------------------------------------------------------------

    def definition(self) -> Definition | None:
        """The two numbers that define the limit; (None, None) if it is not defined, None if the file is new."""
        return _defined(os.pread(self._descriptor, _HEADER.size, 0))

    def define(self, numbers: Definition) -> None:
        self._write_header(numbers, *self.paid())

    def paid(self) -> tuple[float, float]:
        """Of a rate: until when everything taken is paid for, and when that was written."""
        header = _header(self._data)
        if header is None or math.isnan(header[3]):
            return -math.inf, -math.inf
        return header[3], header[4]

    def pay(self, until: float, now: float) -> None:
        self._write_header(_defined(self._data) or _UNDEFINED, until, now)

    def _write_header(self, numbers: Definition, paid: float, now: float) -> None:
        first, second = (math.nan if number is None else number for number in numbers)
        header = _HEADER.pack(_MAGIC, first, second, paid, now)
        if len(self._data) < _HEAD:
            header = (header + self._name.encode("utf-8", "replace"))[:_HEAD].ljust(_HEAD, b"\0")
        os.pwrite(self._descriptor, header, 0)
        self._data = header + self._data[len(header) :]

    # --- the others -------------------------------------------------------------------------------------------

    def load(self) -> Definition | None:
        """Read everything; what the limit allows, None if the file is new."""
        data = _whole(self._descriptor)
        if data != self._data:
            self._data = data
            self._parse(data)
        return _defined(data)

    def changed(self) -> bool:
        """Whether anybody has written since this process did, or has read it. Needs no lock."""
        return _whole(self._descriptor) != self._data

    def _parse(self, data: bytes) -> None:
        mine = self._book.token
        self._rows, place, self._place = [], _HEAD, None
        for row in _rows(data):
            if row.token == mine:
                self._place = place
            elif row.matters:
                self._rows.append(row)
            place += _ROW.size
        if self._place is None:
            self._written = None

    @property
    def has_company(self) -> bool:
        """Whether another process holds something of it, or waits."""
        return bool(self._rows)

    @property
    def is_listed(self) -> bool:
        """Whether this process has a row; nobody else takes it as long as it holds something."""
        return self._place is not None

    def held_elsewhere(self) -> int:
        return sum(row.held for row in self._rows) if self._rows else 0

    def first_elsewhere(self) -> int:
        """The ticket of whoever came first of those in other processes, `NOBODY` if there is none.

        Who has not looked for a while cannot take its turn: it was stopped, and the others go on without it.
        """
        if not self._rows:
            return NOBODY
        awake = time.monotonic() - ASLEEP
        return min((row.ticket for row in self._rows if row.ticket and row.looked >= awake), default=NOBODY)

    def holders(self) -> list[str]:
        """Who has it in other processes, for people."""
        return [_described(row) for row in self._rows if row.held]

    def ahead(self, ticket: int) -> int:
        """How many processes have somebody in line who came before."""
        return sum(0 < row.ticket < ticket for row in self._rows)

    def drop_dead(self) -> bool:
        """Remove the rows of processes that are gone; whether there were any."""
        dead = {row.token for row in self._rows if not owners.is_alive(self._book.home, row.token.hex())}
        if not dead:
            return False
        place = _HEAD
        for row in _rows(self._data):
            if row.token in dead:
                os.pwrite(self._descriptor, bytes(_ROW.size), place)
            place += _ROW.size
        self.load()
        return True

    # --- this process -----------------------------------------------------------------------------------------

    def write(self, held: int, ticket: int, who: str) -> None:
        """Say what this process holds and since when it waits, unless that is what it has said."""
        content = (held, ticket, who)
        if content != self._written:
            self._write_row(content)
            self._written = content

    def look(self) -> None:
        """Say that this process still looks at it."""
        if self._written is not None:
            self._write_row(self._written)

    def _write_row(self, content: tuple[int, int, str]) -> None:
        held, ticket, who = content
        if self._place is None:
            if not (held or ticket):
                return
            self._place = self._free_place()
        row = _ROW.pack(self._book.token, os.getpid(), held, ticket, time.monotonic(), who.encode()[:84])
        os.pwrite(self._descriptor, row, self._place)
        data, end = self._data, self._place + _ROW.size
        self._data = data[: self._place].ljust(self._place, b"\0") + row + data[end:]

    def _free_place(self) -> int:
        """Where nobody has anything to say; who thinks that the row is theirs sees that it is not any more."""
        self.drop_dead()
        place = _HEAD
        for row in _rows(self._data):
            if not row.matters:
                return place
            place += _ROW.size
        return place

    @property
    def _descriptor(self) -> int:
        return self._book.descriptor_of(self._path)

    def forget(self) -> None:
        """The file may be another one."""
        self._data, self._place, self._rows, self._written = b"", None, [], None


class Leases:
    """The limits in one store, as this process has a part in them. For one thread at a time.

    Every method may raise `OSError`.
    """

    def __init__(self, home: str) -> None:
        self.home = home
        self.token = b""  # of this process
        self._directory = os.path.join(os.path.abspath(home), DIRECTORY)
        self._lock_path = os.path.join(self._directory, _LOCK)
        self._lock: int | None = None
        self._locked = False
        self._check_at = 0.0  # whether the files are still there
        self._changes = 0  # as `owners` counts them, when the token was had
        self._sheets: dict[str, Sheet] = {}
        self._missing: set[str] = set()
        self._missing_at: int = -1  # modification of the directory
        self._open: OrderedDict[str, int] = OrderedDict()
        _books.append(self)

    # --- the lock ---------------------------------------------------------------------------------------------

    def lock(self) -> bool:
        """Be the only process that has to do with limits. Blocks. Whether the files are new to this process.

        If it has the lock already, because an interrupt has kept it from giving it back, this does nothing.
        """
        if self._locked:
            return False
        if self._changes != owners.changes():
            self.close()
        afresh = False
        while True:
            afresh |= self._open_lock()
            assert self._lock is not None
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            self._locked = True
            if time.monotonic() < self._check_at or self._is_in_place():
                return afresh
            self.close()  # somebody has deleted the directory

    def is_current(self) -> bool:
        return self._lock is not None and self._changes == owners.changes()

    def unlock(self) -> None:
        """Also if it is not locked."""
        if self._lock is not None:
            fcntl.flock(self._lock, fcntl.LOCK_UN)
        self._locked = False

    def _open_lock(self) -> bool:
        if self._lock is not None:
            return False
        self._changes = owners.changes()
        token = bytes.fromhex(owners.own(self.home))
        os.makedirs(self._directory, mode=0o700, exist_ok=True)
        self._lock = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        self.token = token
        return True

    def _is_in_place(self) -> bool:
        assert self._lock is not None
        self._check_at = time.monotonic() + _CHECK_EVERY
        try:
            return os.path.samestat(os.stat(self._lock_path), os.fstat(self._lock))
        except FileNotFoundError:
            return False

    def ticket(self) -> int:
        """A number that is larger than those that were had before, in all processes; call it with the lock."""
        return time.monotonic_ns()

    # --- the sheets -------------------------------------------------------------------------------------------

    def sheet(self, kind: str, name: str, *, create: bool) -> Sheet | None:
        """The file of a limit; None if there is none, and none is to be made. Needs no lock."""
        path = os.path.join(self._directory, _file_name(kind, name))
        found = self._sheets.get(path)
        if found is None and (create or self._exists(path)):
            found = self._sheets[path] = Sheet(self, path, name)
        return found

    def _exists(self, path: str) -> bool:
        try:
            modified = os.stat(self._directory).st_mtime_ns
        except OSError:
            return False
        if modified != self._missing_at:
            self._missing.clear()
            self._missing_at = modified
        if path in self._missing:
            return False
        if os.path.exists(path):
            return True
        if time.time_ns() - modified > _TICK:
            self._missing.add(path)
        return False

    def descriptor_of(self, path: str) -> int:
        descriptor = self._open.get(path)
        if descriptor is None:
            os.makedirs(self._directory, mode=0o700, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            self._open[path] = descriptor
            if len(self._open) > _MOST_OPEN:
                os.close(self._open.popitem(last=False)[1])
        return descriptor

    def rest(self) -> None:
        """The process is about to end, or has nothing to do with limits for a while: what it holds is free."""
        self.close()
        owners.disown(self.home)

    def close(self) -> None:
        """Let go of all files, which unlocks them; they are opened again when they are needed."""
        descriptors = [*self._open.values(), *([] if self._lock is None else [self._lock])]
        self._open.clear()
        self._lock = None
        self._check_at = 0.0
        self._locked = False
        for sheet in self._sheets.values():
            sheet.forget()
        for descriptor in descriptors:
            with suppress(OSError):
                os.close(descriptor)


_books: list[Leases] = []


def _let_go() -> None:
    """In a forked child: a copy of the descriptor must not keep the lock, and the rows are the parent's."""
    for book in _books:
        book.close()


os.register_at_fork(after_in_child=_let_go)


def _whole(descriptor: int) -> bytes:
    size = 4096
    while len(data := os.pread(descriptor, size, 0)) == size:
        size *= 4
    return data


def _header(data: bytes) -> tuple[bytes, float, float, float, float] | None:
    if len(data) < _HEADER.size or not data.startswith(_MAGIC):
        return None
    return _HEADER.unpack_from(data)


def _defined(data: bytes) -> Definition | None:
    header = _header(data)
    if header is None:
        return None
    return _number(header[1]), _number(header[2])


def _number(value: float) -> float | None:
    return value if 0 < value < math.inf else None


def _rows(data: bytes) -> Iterator[Row]:
    end = len(data) - (len(data) - _HEAD) % _ROW.size if len(data) > _HEAD else _HEAD
    return map(Row._make, _ROW.iter_unpack(memoryview(data)[_HEAD:end]))


def _described(row: Row) -> str:
    who = row.who.rstrip(b"\0").decode(errors="replace")
    return f"{who or 'somebody'} in process {row.pid}"


def _file_name(kind: str, name: str) -> str:
    """Readable, and no two names have the same, also where capitals make no difference."""
    readable = "".join(c if c in _SAFE else "".join(f"%{byte:02x}" for byte in _encoded(c)) for c in name)
    if len(readable) > _LONGEST:
        from hashlib import blake2b  # slow to load

        readable = f"{readable[:_LONGEST]}%{blake2b(_encoded(name), digest_size=16).hexdigest()}"
    return f"{kind}-{readable}"


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
