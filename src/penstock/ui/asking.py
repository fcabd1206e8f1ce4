"""What a request may say: each route names its parameters, and how their texts are understood."""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote

LONGEST_TEXT = 1_000
LONGEST_QUERY = 8_000
MOST_VALUES = 20
LARGEST_WHOLE = 2**63 - 1  # of stores
RUN_ID = re.compile(r"[0-9a-f]{32}")

Asked = Mapping[str, Any]


class Refused(Exception):
    """A parameter cannot be understood, or is not known."""


class Parameter(NamedTuple):
    """`parse` raises ValueError if a text is not `expected`."""

    expected: str
    parse: Callable[[str], Any]
    default: Any = None
    needed: bool = False
    many: bool = False


def read(query: str, parameters: Mapping[str, Parameter]) -> dict[str, Any]:
    """The values that a query string gives to parameters. Decoded once. Raises `Refused`."""
    if len(query) > LONGEST_QUERY:
        raise Refused(f"the query is longer than {LONGEST_QUERY} characters")
    given: dict[str, list[str]] = {}
    for name, text in split(query):
        given.setdefault(name, []).append(text)
    for name in given:
        if name not in parameters:
            raise Refused(f"there is no parameter {name[:50]!r} here; there are: {', '.join(parameters) or 'none'}")
    return {name: _value(name, kind, given.get(name, [])) for name, kind in parameters.items()}


def split(query: str) -> Sequence[tuple[str, str]]:
    """The names and values of a query string."""
    try:
        return parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=50)
    except ValueError as error:
        raise Refused("the query is no list of names and values in UTF-8") from error


def _value(name: str, kind: Parameter, texts: Sequence[str]) -> Any:
    texts = [text for text in texts if text != ""]
    if len(texts) > (MOST_VALUES if kind.many else 1):
        raise Refused(f"{name} is given {len(texts)} times")
    if not texts:
        if kind.needed:
            raise Refused(f"{name} is missing: {kind.expected}")
        return kind.default
    values = [parsed(name, kind, text) for text in texts]
    return values if kind.many else values[0]


def parsed(name: str, kind: Parameter, text: str) -> Any:
    try:
        return kind.parse(text)
    except (ValueError, OverflowError, TypeError, KeyError) as error:
        raise Refused(f"{name} must be {kind.expected}; got {text[:50]!r}") from error


def in_path(name: str, kind: Parameter, segment: str) -> Any:
    """The value of a part of the path. Decoded once, and never a path of anything."""
    try:
        text = unquote(segment, errors="strict")
    except UnicodeDecodeError as error:
        raise Refused(f"{name} is not in UTF-8") from error
    return parsed(name, kind, text)


# --- kinds ---


def text() -> Parameter:
    return Parameter(f"a text of up to {LONGEST_TEXT} characters", _text)


def texts() -> Parameter:
    return text()._replace(many=True, default=())


def _text(given: str) -> str:
    if len(given) > LONGEST_TEXT or "\0" in given:
        raise ValueError
    return given


def moment() -> Parameter:
    return Parameter("a time in seconds since the epoch", _moment)


def _moment(given: str) -> float:
    number = float(given)
    if not math.isfinite(number):
        raise ValueError
    return number


def whole(least: int, most: int, default: int | None) -> Parameter:
    def parse(given: str) -> int:
        if not re.fullmatch(r"-?[0-9]{1,18}", given):
            raise ValueError
        number = int(given)
        if number < least:
            raise ValueError
        return min(number, most)

    end = f", at most {most} (beyond that it is {most})" if most <= 10_000 else ""
    return Parameter(f"a whole number, at least {least}{end}", parse, default)


def one_of(*names: str, default: str | None = None, needed: bool = False) -> Parameter:
    known = {name: name for name in names}
    return Parameter(f"one of {', '.join(names)}", known.__getitem__, default, needed)


def run_id(*, needed: bool = False) -> Parameter:
    return Parameter("the id of a run: 32 hexadecimal digits", _run_id, needed=needed)


def _run_id(given: str) -> str:
    if not RUN_ID.fullmatch(given):
        raise ValueError
    return given


def pair() -> Parameter:
    return Parameter("name=value", _pair)


def _pair(given: str) -> tuple[str, str]:
    name, found, value = _text(given).partition("=")
    if not found:
        raise ValueError
    return name.strip(), value.strip()


def cursor() -> Parameter:
    return Parameter("what an answer has called next", from_cursor)


def as_cursor(value: object, run_id: str) -> str:
    """The place of the last row of a page: what it is sorted by, and its id."""
    return base64.urlsafe_b64encode(json.dumps([value, run_id]).encode()).decode().rstrip("=")


def from_cursor(given: str) -> tuple[float | str | None, str]:
    if len(given) > 2 * LONGEST_TEXT:
        raise ValueError
    value, run_id = json.loads(base64.urlsafe_b64decode(given + "=" * (-len(given) % 4)))
    if isinstance(value, bool) or not isinstance(value, int | float | str | None):
        raise ValueError
    if isinstance(value, int) and abs(value) > LARGEST_WHOLE:
        raise ValueError
    if isinstance(value, str):
        value.encode()  # half a character is a ValueError, as it would be for the store
    return value, _run_id(run_id)
