"""Which keys may name a result: they are used as relative names of files, on whatever system that is."""

from __future__ import annotations

import re

from penstock.exceptions import ConfigurationError
from penstock.results import files

LONGEST = 1024  # bytes; what object stores allow
LONGEST_PART = 255  # bytes; what file systems allow
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]) *(\..*)?", re.IGNORECASE)  # files of Windows


def check_key(key: str) -> None:
    """Raises `ConfigurationError` for a key that cannot safely be the relative name of a file."""
    wrong = _fault(key) if isinstance(key, str) else f"it is no text but a {type(key).__name__}"
    if wrong:
        raise ConfigurationError(f"A result cannot be kept under the key {shown(key)}: {wrong}.")


def shown(key: object) -> str:
    shown = repr(key)
    return shown if len(shown) <= 200 else f"{shown[:200]}..."


def _fault(key: str) -> str | None:
    if _CONTROL.search(key) or "\\" in key:
        return "it has a backslash or a control character in it"
    try:
        parts = [part.encode() for part in key.split("/")]
    except UnicodeEncodeError:
        return "it cannot be written as UTF-8"
    if not files.is_inside(key):
        return "it is empty, or one of its parts is empty, '.' or '..'"
    if sum(map(len, parts)) + len(parts) - 1 > LONGEST or max(map(len, parts)) > LONGEST_PART:
        return f"it is longer than {LONGEST} bytes, or one of its parts is longer than {LONGEST_PART}"
    return next(filter(None, map(_fault_of_part, key.split("/"))), None)


def _fault_of_part(part: str) -> str | None:
    if _DEVICE.fullmatch(part):
        return f"{part!r} is the name of a device on some systems"
    return f"names that begin with {files.TEMPORARY!r} are taken" if part.startswith(files.TEMPORARY) else None
