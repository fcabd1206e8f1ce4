"""The key that kept values are sealed with: 32 random bytes in a file that only its owner can read."""

from __future__ import annotations

import contextlib
import os
import stat

from penstock.exceptions import ConfigurationError
from penstock.results.files import temporary_name

NAME = "results.key"
SIZE = 32  # bytes

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OLD = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_Path = str | os.PathLike[str]


def secret_of(home: _Path, path: _Path | None = None) -> bytes:
    """Return the key in the file `path`, by default `results.key` in `home`; make it if there is none.

    Processes that make it at the same time get the same one. Raises `ConfigurationError` if the file is not to be
    trusted, or is none; OSError if it can neither be read nor made.
    """
    place = os.path.join(home, NAME) if path is None else os.fspath(path)
    try:
        return _read(place)
    except FileNotFoundError:
        _make(place)
        return _read(place)


def _read(place: str) -> bytes:
    try:
        descriptor = os.open(place, _OLD)
    except FileNotFoundError:
        raise
    except OSError as error:  # a link, somebody else's, a socket
        raise ConfigurationError(f"The key of kept results cannot be read: {error}") from error
    try:
        _check(place, os.fstat(descriptor))
        key = os.read(descriptor, SIZE + 1)
    finally:
        os.close(descriptor)
    if len(key) != SIZE:
        raise ConfigurationError(_complaint(place, f"has {len(key)} bytes instead of {SIZE}", "move it away"))
    return key


def _check(place: str, found: os.stat_result) -> None:
    mode = stat.S_IMODE(found.st_mode)
    if not stat.S_ISREG(found.st_mode):
        raise ConfigurationError(_complaint(place, "is no plain file", "move it away"))
    if found.st_uid != os.geteuid():
        raise ConfigurationError(_complaint(place, f"belongs to the user with id {found.st_uid}", "move it away"))
    if found.st_size > SIZE:
        raise ConfigurationError(_complaint(place, f"has {found.st_size} bytes instead of {SIZE}", "move it away"))
    if mode & 0o077:
        cure = f"chmod 600 it if nobody else has read it yet, otherwise move it away (it has mode {mode:04o})"
        raise ConfigurationError(_complaint(place, "can be used by others", cure))


def _complaint(place: str, wrong: str, cure: str) -> str:
    lost = "Without it a new one is made, and what was kept so far counts as absent."
    return f"{place}, the key of kept results, {wrong}: {cure}. {lost}"


def _make(place: str) -> None:
    directory = os.path.dirname(place) or os.curdir
    os.makedirs(directory, mode=0o700, exist_ok=True)
    temporary = os.path.join(directory, temporary_name())
    descriptor = os.open(temporary, _NEW, 0o600)
    try:
        try:
            _fill(descriptor)
        finally:
            os.close(descriptor)
        # Linked, not renamed: of two processes that do this, the second must get the first one's key.
        with contextlib.suppress(FileExistsError):
            os.link(temporary, place)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
    _sync(directory)


def _fill(descriptor: int) -> None:
    written = os.write(descriptor, os.urandom(SIZE))
    if written != SIZE:
        raise OSError(f"only {written} of {SIZE} bytes of the key of kept results could be written")
    # Always, whatever level is asked for: a key that a power failure takes away takes all values with it.
    os.fsync(descriptor)


def _sync(directory: str) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
