"""Classes of data for the tests of JSON: they must be found by name."""

from __future__ import annotations

import enum
from collections import namedtuple
from dataclasses import InitVar, dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

import pydantic

T = TypeVar("T")

Pair = namedtuple("Pair", ["left", "right"])


class Named(NamedTuple):
    x: Any
    y: Any = 2


class Color(enum.Enum):
    RED = 1
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1


class Word(enum.StrEnum):
    HI = "hi"


class Access(enum.Flag):
    READ = 1
    WRITE = 2
    RUN = 4


@dataclass
class Point:
    x: Any
    y: Any = 0


@dataclass(frozen=True, slots=True)
class Frozen:
    x: Any
    y: Any = 0


@dataclass(frozen=True)
class Strict:
    """A dataclass that would notice being constructed again."""

    x: Any
    scale: InitVar[int] = 1
    scaled: Any = field(init=False, default=None)

    made = 0

    def __post_init__(self, scale: int) -> None:
        type(self).made += 1
        object.__setattr__(self, "scaled", self.x * scale)


@dataclass
class Box(Generic[T]):
    content: T


@dataclass
class Crate(Box[int]):
    label: str = ""


class Outer:
    @dataclass
    class Inner:
        x: Any


class Model(pydantic.BaseModel):
    x: Any
    y: Any = 2
    _hidden: Any = pydantic.PrivateAttr(default=None)


class Open(pydantic.BaseModel, extra="allow"):
    x: int = 0


class Root(pydantic.RootModel[list[int]]):
    pass


class Checked(pydantic.BaseModel):
    x: int

    @pydantic.field_validator("x")
    @classmethod
    def positive(cls, value: int) -> int:
        if value < 0:
            raise ValueError("negative")
        return value


class Failure(Exception):
    def __init__(self, code: int, *, detail: Any) -> None:
        super().__init__(f"code {code}")
        self.detail = detail


class DiskFailure(OSError):
    def __init__(self, disk: str) -> None:
        super().__init__(5, "broken", disk)
        self.disk = disk


@dataclass
class DataFailure(Exception):
    code: int


class Both(Failure, TimeoutError):
    pass


class Odd(ValueError, OSError):
    """The builtin class that makes it is not the one that initializes it."""


@dataclass
class Swelling(dict):  # type: ignore[type-arg]
    """Derives from a builtin class, whose content is no attribute."""

    x: int = 0


class Extended(Named):
    """A named tuple that can have attributes."""


class Plain:
    """No class of data."""

    made = 0

    def __init__(self, *args: Any) -> None:
        type(self).made += 1


def make_anything(*args: Any) -> None:
    Plain.made += 1
