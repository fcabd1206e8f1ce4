"""Where settings come from that are no variables: a project's files, and the user's own.

This is asked at the start of every root run, so what was found once is believed as long as nothing has changed: making,
renaming or removing a file changes the time of its directory, writing it changes its own. What the files say is
understood by `reading`, which is loaded when there is one.
"""

from __future__ import annotations

import logging
import os
import re
import stat
import time
from functools import cache, lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

from penstock.exceptions import ConfigurationError

if TYPE_CHECKING:
    from penstock.settings.reading import Layer

OWN, SHARED, USERS = "penstock.toml", "pyproject.toml", "config.toml"
"""The two files of a project, and the user's. What comes first wins."""

ABSENT, USED, NO_TABLE, BROKEN = "not there", "used", "has no [tool.penstock]", "cannot be used"
NOT_YOURS, NO_FILE = "ignored: belongs to another user", "ignored: is no file"
"""What can be said of a file that was looked for."""

# Whether a pyproject.toml may hold our table. Most do not, and are spared the parser. Not compiled here: that takes a
# third of the time that it takes to load this module.
_TABLE = rb"""\btool["']?\s*(?:[\]=]|\.\s*["']?penstock)"""
# Times of files are rounded, in the worst case (FAT) to two seconds: a second change may leave a time as it is.
_ROUNDING = 3_000_000_000  # nanoseconds
_MOST_LEVELS = 256
_log = logging.getLogger("penstock")


class Candidate(NamedTuple):
    """A file that was looked for."""

    path: str
    fate: str
    layer: Layer | None = None
    error: str | None = None


class Surroundings(NamedTuple):
    """What there is around the working directory."""

    files: tuple[Candidate, ...]  # all that were looked for
    layers: tuple[Layer, ...]  # what they say; what comes first wins
    directory: str | None  # the nearest `.penstock` of yours
    error: str | None  # the first


_Stamp = tuple[int, int, int, int] | None


class _Level:
    """What one directory holds of what is looked for in it, and which files are to be looked for above it."""

    def __init__(self, directory: str, names: tuple[str, ...], home_wanted: bool) -> None:
        # Stamped before anything is looked at: a change meanwhile is seen next time.
        self._stamps: dict[str, _Stamp] = {directory: _stamp(directory)}
        self.files = tuple(self._candidate(os.path.join(directory, name)) for name in names)
        self.home = _home_in(directory) if home_wanted else None
        found = {os.path.basename(candidate.path) for candidate in self.files if candidate.layer or candidate.error}
        is_root = os.path.lexists(os.path.join(directory, ".git"))
        self.names_above = () if is_root else tuple(name for name in names if name not in found)
        latest = max(max(stamp[:2]) if stamp else 0 for stamp in self._stamps.values())
        self._is_settled = latest < time.time_ns() - _ROUNDING

    def is_as_it_was(self) -> bool:
        return self._is_settled and all(_stamp(path) == stamp for path, stamp in self._stamps.items())

    def _candidate(self, path: str) -> Candidate:
        stamp = _stamp(path)
        if stamp is None:
            return Candidate(path, ABSENT)
        self._stamps[path] = stamp
        try:
            return _read(path)
        except OSError as error:
            return Candidate(path, BROKEN, None, f"{path} cannot be read: {error.strerror}.")
        except ConfigurationError as error:
            return Candidate(path, BROKEN, None, str(error))


_levels: dict[tuple[str, tuple[str, ...], bool], _Level] = {}


def survey() -> Surroundings:
    """The surroundings as they are now. Does not raise: what is wrong with a file is in its candidate."""
    levels: list[_Level] = []
    names: tuple[str, ...] = (OWN, SHARED)
    home = None
    for directory in _chain(_working_directory()):
        level = _level(directory, names, home is None)
        levels.append(level)
        names, home = level.names_above, home or level.home
        if home and not names:
            break
    users = _level(_user_directory(os.environ.get("XDG_CONFIG_HOME"), os.environ.get("HOME")), (USERS,), False)
    return _put_together(*levels, users)


def around() -> Surroundings:
    """The surroundings as they are now. Raises `ConfigurationError` if a file cannot be used."""
    found = survey()
    if found.error is not None:
        raise ConfigurationError(found.error)
    return found


def _level(directory: str, names: tuple[str, ...], home_wanted: bool) -> _Level:
    known = _levels.get((directory, names, home_wanted))
    if known is not None and known.is_as_it_was():
        return known
    if len(_levels) > _MOST_LEVELS:
        _levels.clear()
    level = _levels[directory, names, home_wanted] = _Level(directory, names, home_wanted)
    return level


@lru_cache(maxsize=16)
def _put_together(*levels: _Level) -> Surroundings:
    """Those of the working directory and above it come first, the user's last."""
    order = [OWN, SHARED, USERS]
    found = [candidate for level in levels for candidate in level.files]
    found.sort(key=lambda candidate: order.index(os.path.basename(candidate.path)))
    homes = (level.home for level in levels if level.home)
    errors = (candidate.error for candidate in found if candidate.error)
    layers = tuple(candidate.layer for candidate in found if candidate.layer)
    return Surroundings(tuple(found), layers, next(homes, None), next(errors, None))


def user_file() -> str:
    """The user's own file; it need not exist."""
    return os.path.join(_user_directory(os.environ.get("XDG_CONFIG_HOME"), os.environ.get("HOME")), USERS)


@lru_cache(maxsize=8)
def _user_directory(configured: str | None, home: str | None) -> str:
    if configured is None or not os.path.isabs(configured):  # the specification has relative ones ignored
        configured = os.path.expanduser(os.path.join("~", ".config"))
    return os.path.join(configured, "penstock")


def _working_directory() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # deleted under our feet
        return None


@lru_cache(maxsize=8)
def _chain(directory: str | None) -> tuple[str, ...]:
    """A directory and those above it."""
    found = []
    while directory is not None:
        found.append(directory)
        above = os.path.dirname(directory)
        directory = None if above == directory else above
    return tuple(found)


def _stamp(path: str) -> _Stamp:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino


def _home_in(level: str) -> str | None:
    directory = os.path.join(level, ".penstock")
    if not os.path.isdir(directory):
        return None
    # A directory that somebody else left in /tmp must not be trusted: cached results are unpickled.
    if not _belongs_to(directory, _me()):
        _warn_foreign(directory, f"set PENSTOCK_HOME={directory}")
        return None
    return directory


def _read(path: str) -> Candidate:
    if not stat.S_ISREG(os.stat(path).st_mode):
        return Candidate(path, NO_FILE)
    if not _belongs_to(path, _me(), 0):  # root could exchange our code as well, and owns what images are made of
        _warn_foreign(path, "make it yours (chown)")
        return Candidate(path, NOT_YOURS)
    with open(path, "rb") as file:
        content = file.read()
    if os.path.basename(path) == SHARED and not re.search(_TABLE, content):
        return Candidate(path, NO_TABLE)
    layer: Layer | None = import_module("penstock.settings.reading").layer(path, content)
    return Candidate(path, NO_TABLE if layer is None else USED, layer)


def _me() -> int | None:
    getuid = getattr(os, "getuid", None)  # not on Windows
    return None if getuid is None else int(getuid())


def _belongs_to(path: str, *users: int | None) -> bool:
    """Whether it does, and a link that leads to it as well."""
    return None in users or {os.stat(path).st_uid, os.lstat(path).st_uid} <= set(users)


@cache  # once for each path
def _warn_foreign(path: str, cure: str) -> None:
    _log.warning("Ignored %s: it belongs to another user. To use it, %s", path, cure)
