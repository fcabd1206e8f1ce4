"""Files that hold values: replaced whole or not at all, and read only if they are plain files below their directory.

Names may have several parts (`a/b`). Each directory on the way is opened relative to the one above it and without
following links, so what somebody planted there leads nowhere. The directory itself is the user's choice, and may be
a link.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager

from penstock.exceptions import ResultCorrupt

Directory = str | os.PathLike[str]

TEMPORARY = ".penstock-"
"""How the names of unfinished files begin."""

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OLD = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_MOMENT = 60.0  # seconds; far more than pass between making a file and locking it


def write(directory: Directory, name: str, data: bytes, *, durable: bool) -> None:
    """Put `data` into a file, mode 0600, in the place of one that is there. Directories are made with mode 0700.

    Readers see the old or the new file. With `durable` it survives power failure once this returns. Raises OSError if
    it cannot be done, and leaves nothing behind; ValueError for a name that leaves the directory.
    """
    *inner, last = _checked(name)
    with _folder(directory, inner, make=True, durable=durable) as folder:
        _replace(folder, last, data, durable)


def read(directory: Directory, name: str, limit: int | None = None) -> bytes:
    """Return what is in a file.

    Raises FileNotFoundError if there is none, OSError if it cannot be read, and `ResultCorrupt` if it is no plain file,
    has more than `limit` bytes, or the name leaves the directory.
    """
    with _to_be_read(directory, name) as descriptor:
        return _contents(descriptor, name, limit)


def beginning(directory: Directory, name: str, size: int) -> bytes:
    """Return the first `size` bytes of a file, or all if it has fewer. Raises like `read`."""
    with _to_be_read(directory, name) as descriptor, open(descriptor, "rb", closefd=False) as file:
        return file.read(size)


@contextmanager
def _to_be_read(directory: Directory, name: str) -> Iterator[int]:
    if not is_inside(name):
        raise ResultCorrupt(name, "its name leaves the directory")
    *inner, last = name.split("/")
    try:
        with _folder(directory, inner) as folder, _opened(folder, last, name) as descriptor:
            yield descriptor
    except NotADirectoryError:
        raise ResultCorrupt(name, "what should be a directory on the way to it is none") from None


def exists(directory: Directory, name: str) -> bool:
    """Whether `read` would find a plain file."""
    *inner, last = _checked(name)
    try:
        with _folder(directory, inner) as folder:
            return stat.S_ISREG(os.stat(last, dir_fd=folder, follow_symlinks=False).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def remove(directory: Directory, name: str) -> None:
    """Delete a file; it is all right if there is none. Raises OSError, and ValueError like `write`."""
    *inner, last = _checked(name)
    with contextlib.suppress(FileNotFoundError), _folder(directory, inner) as folder:
        os.unlink(last, dir_fd=folder)


def is_leftover(directory: Directory, name: str) -> bool:
    """Whether a file was left unfinished by a process that has died."""
    if not name.rpartition("/")[2].startswith(TEMPORARY):
        return False
    try:
        descriptor = os.open(os.path.join(directory, name), _OLD)
    except OSError:
        return False
    try:
        return _is_abandoned(descriptor)
    finally:
        os.close(descriptor)


def temporary_name() -> str:
    return f"{TEMPORARY}{os.getpid()}-{os.urandom(8).hex()}"


def is_inside(name: str) -> bool:
    """Whether a name stays in its directory."""
    return "\0" not in name and not {"", ".", ".."} & set(name.split("/"))


def _checked(name: str) -> list[str]:
    if not is_inside(name):
        raise ValueError(f"{name!r} is no name of a file inside its directory")
    return name.split("/")


# --- directories ---


@contextmanager
def _folder(directory: Directory, inner: list[str], *, make: bool = False, durable: bool = False) -> Iterator[int]:
    """A descriptor of the directory that a file is in."""
    if make:
        _make(os.path.abspath(directory), durable)
    folder = os.open(directory, _FOLDER)
    try:
        for part in inner:
            if make:
                _make_inside(folder, part, durable)
            above, folder = folder, os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
            os.close(above)
        yield folder
    finally:
        os.close(folder)


def _make(directory: str, durable: bool) -> None:
    if os.path.isdir(directory):
        return
    parent, name = os.path.split(directory)
    _make(parent, durable)
    with _folder(parent, []) as folder:
        _make_inside(folder, name, durable)


def _make_inside(folder: int, name: str, durable: bool) -> None:
    try:
        os.mkdir(name, 0o700, dir_fd=folder)
    except FileExistsError:
        return
    if durable:
        os.fsync(folder)


# --- writing ---


def _replace(folder: int, name: str, data: bytes, durable: bool) -> None:
    temporary = temporary_name()
    descriptor = os.open(temporary, _NEW, 0o600, dir_fd=folder)
    try:
        try:
            _fill(descriptor, data, durable)
        finally:
            os.close(descriptor)  # before it gets its name: a network file system tells of a full disk only now
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=folder)
        raise
    if durable:
        os.fsync(folder)


def _fill(descriptor: int, data: bytes, durable: bool) -> None:
    with contextlib.suppress(OSError):  # a file system without locks; then it is never taken for a leftover
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
    if durable:
        # Not tried again if it fails: the kernel may have dropped what it could not write, and would then say yes.
        os.fsync(descriptor)


def _is_abandoned(descriptor: int) -> bool:
    """The lock tells, not the process id: that may be of another container, or have a new owner."""
    if time.time() - os.fstat(descriptor).st_mtime < _MOMENT:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


# --- reading ---


@contextmanager
def _opened(folder: int, last: str, name: str) -> Iterator[int]:
    # Asked before it is opened, because opening a device may already do something; and again after it, because it may
    # have been exchanged.
    _check_kind(os.stat(last, dir_fd=folder, follow_symlinks=False), name)
    descriptor = os.open(last, _OLD, dir_fd=folder)
    try:
        _check_kind(os.fstat(descriptor), name)
        yield descriptor
    finally:
        os.close(descriptor)


def _check_kind(found: os.stat_result, name: str) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise ResultCorrupt(name, "it is no plain file")


def _contents(descriptor: int, name: str, limit: int | None) -> bytes:
    with open(descriptor, "rb", closefd=False) as file:
        data = file.read(-1 if limit is None else limit + 1)
    if limit is not None and len(data) > limit:
        raise ResultCorrupt(name, f"it has more than {limit} bytes")
    return data
