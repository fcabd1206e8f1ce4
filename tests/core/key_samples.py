"""Values whose digests must be the same in every process, and a program that prints these digests as JSON."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import json
import operator
import pathlib
import re
import types
import uuid
from collections.abc import Callable
from typing import Any, NamedTuple

from penstock._core.code import code_digest
from penstock._core.keys import digest_of

UTC = datetime.timezone.utc  # noqa: UP017  # compared with the class's own spelling


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Access(enum.Flag):
    READ = 1
    WRITE = 2


class Point(NamedTuple):
    x: int
    y: int


@dataclasses.dataclass
class Config:
    name: str
    tags: set[str]

    @functools.cached_property
    def shout(self) -> str:
        return self.name.upper()


@dataclasses.dataclass(slots=True)
class Slotted:
    a: int
    b: int = 2


class Words(list[str]):
    pass


LIMITS = {"low": {"b", "a", "c"}, "high": frozenset({"x", "y", "z"})}


def scale(x: int, by: int = 3) -> int:
    """Multiply."""
    return x * by + len(LIMITS)


def make(letters: str) -> dict[str, Any]:
    """The samples by name; names, sets and dictionaries in the order of `letters`, which must not matter."""
    return {
        "none": None,
        "numbers": [1, -1, 0, 2**100, True, 1.5, -0.0, float("nan"), float("inf"), 1 + 2j],
        "text": ["", "é", "\ud800", "a" * 2000, b"", b"\0", b"b" * 2000, bytearray(b"c")],
        "set": set(letters),
        "frozen": frozenset(letters),
        "nested sets": {frozenset({letter, letter * 2}) for letter in letters},
        "dict": {letter: {letter} for letter in letters},
        "ordered": collections.OrderedDict.fromkeys("abc", 1),
        "default": collections.defaultdict(list, {letter: [letter] for letter in letters}),
        "counter": collections.Counter(letters),
        "deque": collections.deque([1, 2], maxlen=3),
        "ranges": [range(3), slice(1, None, 2), ...],
        "dates": [
            datetime.date(2024, 1, 2),
            datetime.datetime(2024, 1, 2, 3, 4, 5, 6, tzinfo=UTC),
            datetime.datetime(2024, 1, 2, fold=1),
            datetime.time(1, 2),
            datetime.timedelta(1, 2, 3),
            UTC,
        ],
        "exact": [decimal.Decimal("1.10"), fractions.Fraction(1, 3), uuid.UUID(int=5)],
        "paths": [pathlib.Path("a/b"), pathlib.PureWindowsPath("a/b")],
        "patterns": [re.compile("a+"), re.compile(b"a+", re.DOTALL)],
        "enum": [Colour.RED, Access.READ | Access.WRITE],
        "objects": [Config("c", set(letters)), Slotted(1), Point(1, 2), Words(["a"]), types.SimpleNamespace(a=1)],
        "classes": [int, Colour, Config, list[int], int | None],
        "functions": [len, str.upper, scale, lambda x: x + 1, functools.partial(scale, by=4), operator.itemgetter(1)],
        "bound": [Config("c", set()).__eq__, "abc".upper],
        "modules": [json, re],
        "errors": [ValueError("a", 1), FileNotFoundError(2, "no", "file")],
    }


def digests(letters: str = "abcdefghij") -> dict[str, str]:
    found = {name: digest_of(value) for name, value in make(letters).items()}
    return found | {"code": code_digest(scale)}


def optional_digests() -> dict[str, str]:
    """Of the types of other libraries, where there are any."""
    found: dict[str, str] = {}
    for make_all in (_numpy, _pydantic):
        try:
            found |= {name: digest_of(value) for name, value in make_all().items()}
        except ImportError:
            continue
    return found


def _numpy() -> dict[str, Any]:
    import numpy

    return {
        "array": numpy.arange(6).reshape(2, 3),
        "objects": numpy.array([{"b", "a", "c"}, None], dtype=object),
        "scalar": numpy.float32(1.5),
    }


def _pydantic() -> dict[str, Any]:
    import pydantic

    model: Callable[..., Any] = pydantic.create_model("Model", tags=(set[str], ...))
    return {"model": model(tags={"b", "a", "c"})}


def everything() -> dict[str, str]:
    return digests("jihgfedcba") | optional_digests()


if __name__ == "__main__":
    print(json.dumps(everything()))
