"""What the files of settings say: TOML in, values and where they stand out. Loaded when there is such a file.

The key of a setting is its name. Where that begins with the name of a table, it may stand in the table without it.
Every key must be known and every value valid, also one that something else overrides.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import Field
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from penstock.exceptions import ConfigurationError
from penstock.settings.files import OWN, SHARED, user_file
from penstock.settings.table import KNOWN, PATH, PREFIX, TABLES, Kind, as_text, key_of, suggestion, unfit, value_of

_FIELDS = {entry.name: entry for entry in KNOWN.values()}
# Nothing is matched in two ways: a line that somebody has made for the purpose must not take for ever.
_PART = r"""[\w-]++|"[^"]*+"|'[^']*+'"""
_HEADER = re.compile(rf"\s*\[+\s*((?:{_PART}|[\s.])++)\]")
_KEY = re.compile(rf"\s*((?:{_PART})(?:\s*\.\s*(?:{_PART}))*)\s*=")
_AT = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")
_TYPES: dict[str, tuple[type, ...]] = {"string": (str,), "boolean": (bool,), "integer": (int,), "number": (int, float)}

_Path = tuple[str, ...]


class Given(NamedTuple):
    """A value, and where it was given: the file with the line."""

    value: Any
    origin: str


class Layer:
    """What one file says. Compared by identity: the same content of the same file gives the same object."""

    def __init__(self, path: str, values: Mapping[str, Given]) -> None:
        self.path = path
        self.is_projects = is_projects(path)
        self.values = values


@lru_cache(maxsize=16)
def layer(path: str, content: bytes) -> Layer | None:
    """What the file says; None for a pyproject.toml without our table.

    Raises `ConfigurationError` that names file and line.
    """
    document = _parsed(path, content)
    above: _Path = ("tool", "penstock") if os.path.basename(path) == SHARED else ()
    for name in above:
        if name not in document:
            return None
        document = document[name]
        if not isinstance(document, dict):
            raise ConfigurationError(f"{path}: {name} = {_shown(document)} is not valid: expected a table.")
    file = _File(path, _lines(content.decode()), above)
    values: dict[str, Given] = {}
    for key, value in _leaves(document):
        field = file.field(key)
        if field.name in values:
            raise ConfigurationError(f"{file.place(key)}: {field.name} is set a second time.")
        values[field.name] = Given(file.value(field, key, value), file.place(key))
    return Layer(path, values)


def _parsed(path: str, content: bytes) -> Any:
    try:
        return tomllib.loads(content.decode())
    except tomllib.TOMLDecodeError as error:
        text = str(error)
        place = _AT.search(text)
        line = (place and place[1]) or len(content.rstrip().splitlines())
        raise ConfigurationError(f"{path}:{line}: this is not valid TOML: {_AT.sub('', text)}.") from error
    except (ValueError, RecursionError) as error:  # no UTF-8; a number of thousands of digits; too deep
        raise ConfigurationError(f"{path}: this is not valid TOML: {error}.") from error


def _leaves(document: Mapping[str, Any], above: _Path = ()) -> Iterator[tuple[_Path, Any]]:
    """The keys that are not tables, with what is above them. An empty table counts if it is none of ours."""
    for name, value in document.items():
        if isinstance(value, dict) and (value or name in TABLES):
            yield from _leaves(value, (*above, name))
        else:
            yield (*above, name), value


def _lines(text: str) -> dict[_Path, int]:
    """In which line the keys stand: nearly always, for who only looks at the beginnings of lines."""
    found: dict[_Path, int] = {}
    table: _Path = ()
    for number, line in enumerate(text.split("\n"), 1):
        if header := _HEADER.match(line):
            table = _parts(header[1])
            found.setdefault(table, number)
        elif key := _KEY.match(line):
            found.setdefault((*table, *_parts(key[1])), number)
    return found


def _parts(key: str) -> _Path:
    return tuple(part.strip("\"'") for part in re.findall(_PART, key))


class _File(NamedTuple):
    """A file that is being understood."""

    path: str
    lines: Mapping[_Path, int]
    above: _Path  # our table

    def place(self, key: _Path) -> str:
        """The file, with the line of the key or of the table that it is inside."""
        whole = (*self.above, *key)
        lines = (self.lines[whole[:end]] for end in range(len(whole), 0, -1) if whole[:end] in self.lines)
        return ":".join([self.path, *(str(line) for line in islice(lines, 1))])

    def field(self, key: _Path) -> Field[Any]:
        """The setting that a key means."""
        name = "_".join(key)
        if name not in _FIELDS or (len(key) > 1 and ".".join(key) != key_of(name)):
            hint = suggestion(name, key_of)
            raise ConfigurationError(f"{self.place(key)}: there is no setting {'.'.join(key)!r}.{hint}")
        return _FIELDS[name]

    def value(self, field: Field[Any], key: _Path, value: Any) -> Any:
        """What a value means that was written for a setting."""
        kind: Kind = field.metadata["kind"]
        shown = kind.shown(value)
        said = f"{self.place(key)}: {'.'.join(key)} = {_shown(shown)}"
        if field.metadata["yours"] and is_projects(self.path):
            raise ConfigurationError(
                f"{said}: this is not for the files of a project, which others may have written. Set "
                f"{PREFIX}{field.name.upper()}, or write it into {user_file()}."
            )
        if not _fits(value, kind.schema):
            raise unfit(field, said)
        try:
            meant = value_of(field, as_text(value))
        except Exception as error:
            raise unfit(field, said) from (error if shown == value else None)
        return self._located(meant, said) if kind is PATH else meant

    def _located(self, path: Path, said: str) -> Path:
        """A path as seen from the file. A project's stay inside it: its file may have come with a stranger's code."""
        directory = os.path.dirname(self.path)
        whole = directory / path
        if is_projects(self.path) and not _is_inside(os.path.realpath(whole), os.path.realpath(directory)):
            raise ConfigurationError(
                f"{said}: in the files of a project, paths must lead to places below {directory}. For others, set the "
                f"environment variable, or write it into {user_file()}."
            )
        return whole


def _shown(value: object) -> str:
    return json.dumps(value, default=str, ensure_ascii=False)


def is_projects(path: str) -> bool:
    """Whether a file belongs to a project, and not to the user alone."""
    return os.path.basename(path) in (OWN, SHARED)


def _is_inside(path: str, directory: str) -> bool:
    return path != directory and os.path.commonpath((path, directory)) == directory


def _fits(value: object, schema: Mapping[str, Any]) -> bool:
    """Whether a value is of the type that the schema asks for. Whether it is valid is for who parses it."""
    if "anyOf" in schema:
        return any(_fits(value, choice) for choice in schema["anyOf"])
    if schema["type"] == "array":
        return isinstance(value, list) and all(_fits(item, schema["items"]) for item in value)
    return type(value) in _TYPES[schema["type"]] and value != ""
