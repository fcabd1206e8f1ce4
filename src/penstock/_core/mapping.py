"""From the arguments of one `map` call to the arguments of its children.

An argument is *mapped* if `iter()` works on it and nothing says that it is one thing; else it is *static*
and every child gets the same object. Top-level futures have been replaced by their values before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any, NamedTuple, TypeAlias

from penstock._core.binding import short_parameters
from penstock._core.containers import inherited, is_model
from penstock._core.graph import Upstream
from penstock.annotations import Annotation, carries, strip, unmapped
from penstock.exceptions import MappingLengthMismatch, MappingMissingIterable
from penstock.states import State

Arguments: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword arguments of one call."""


class Expansion(NamedTuple):
    """The children of a `map` call."""

    calls: list[Arguments]
    static: frozenset[str]  # names of the arguments that all children share
    frames: tuple[str, ...]  # names of mapped data frames: iterating over one yields its column names


class Pull(NamedTuple):
    """The children of an `imap` call, made when they are asked for."""

    calls: Iterator[Arguments]
    static: frozenset[str]
    frames: tuple[str, ...]


def expand(args: tuple[Any, ...], kwargs: dict[str, Any], names: Sequence[str]) -> Expansion:
    """Return the arguments of every child; `names` are those of the positional arguments, for messages.

    Iterators are consumed. Raises `MappingMissingIterable` if there is nothing to map over and
    `MappingLengthMismatch` if the lengths differ.
    """
    columns = _columns(args, kwargs, names)
    _list_elements(columns)
    _refuse_nothing(columns, args, kwargs, names)
    return Expansion(list(_rows(columns, len(args), kwargs)), *_summary(columns))


def snapshot(args: tuple[Any, ...], kwargs: dict[str, Any], names: Sequence[str]) -> Arguments:
    """The arguments of a call that cannot be expanded yet, with what they hold now: iterators are consumed.

    Raises `MappingLengthMismatch` if lengths that can be seen already differ.
    """
    columns = _columns(args, kwargs, names)
    _list_elements(columns)
    values = [column.snapshot() for column in columns]
    return tuple(values[: len(args)]), dict(zip(kwargs, values[len(args) :], strict=True))


def pull(args: tuple[Any, ...], kwargs: dict[str, Any], names: Sequence[str]) -> Pull:
    """Like `expand`, but elements are taken when the next child is asked for; the shortest ends it.

    What an iterable raises reaches whoever asked for the child.
    """
    columns = _columns(args, kwargs, names)
    _refuse_nothing(columns, args, kwargs, names)
    return Pull(_rows(columns, len(args), kwargs), *_summary(columns))


@dataclass(slots=True)
class _Column:
    """One argument over all children."""

    name: str
    value: Any  # what every child gets, if static
    elements: Iterable[Any] | None = None  # None: static
    wrappers: Sequence[Annotation[Any]] = ()  # put around each element again, outermost first
    frame: bool = False
    held: bool = False  # marked as static by the user

    def cells(self) -> Iterator[Any]:
        if self.elements is None:
            return repeat(self.value)
        cells = iter(self.elements)
        for wrapper in reversed(self.wrappers):
            cells = map(wrapper.rewrap, cells)
        return cells

    def snapshot(self) -> Any:
        """The argument as it is now; a frame stays a frame."""
        if self.held:
            return unmapped(self.value)
        if self.elements is None or self.frame:
            return self.value
        value: Any = self.elements
        for wrapper in reversed(self.wrappers):
            value = wrapper.rewrap(value)
        return value


def _columns(args: tuple[Any, ...], kwargs: dict[str, Any], names: Sequence[str]) -> list[_Column]:
    return [_column(name, value) for name, value in _named(args, kwargs, names)]


def _named(args: tuple[Any, ...], kwargs: dict[str, Any], names: Sequence[str]) -> list[tuple[str, Any]]:
    return [*zip(names, args, strict=True), *kwargs.items()]


def _list_elements(columns: list[_Column]) -> None:
    lengths = {}
    for column in columns:
        if column.elements is not None:
            column.elements = elements = list(column.elements)
            lengths[column.name] = len(elements)
    if len(set(lengths.values())) > 1:
        raise MappingLengthMismatch(
            "Received iterable parameters with different lengths. Parameters for map must all be the same "
            f"length; wrap what every call shall get whole in unmapped(). Got lengths: {lengths}"
        )


def _refuse_nothing(
    columns: list[_Column], args: tuple[Any, ...], kwargs: dict[str, Any], names: Sequence[str]
) -> None:
    if all(column.elements is None for column in columns):
        raise MappingMissingIterable(
            "No iterable parameters were received. Parameters for map must include at least one iterable. "
            f"Parameters: {short_parameters(dict(_named(args, kwargs, names)))}"
        )


def _column(name: str, value: Any) -> _Column:
    wrappers, core = strip(value)
    if carries(wrappers, unmapped):
        # Unwrapped here, once, rather than in each child; the other annotations keep their effect.
        for wrapper in reversed([w for w in wrappers if not isinstance(w, unmapped)]):
            core = wrapper.rewrap(core)
        return _Column(name, core, held=True)
    elements = _iterated(core)
    if elements is None:
        return _Column(name, value)
    return _Column(name, value, elements, wrappers, _is_frame(type(core)))


_WHOLE = (str, bytes, bytearray, memoryview, Upstream, State)


def _iterated(x: Any) -> Iterator[Any] | None:
    """Return an iterator over what children get one by one; None if `x` is static."""
    cls = type(x)
    if issubclass(cls, _WHOLE) or is_model(cls) or _is_file(cls):
        return None
    try:
        elements: Iterator[Any] = iter(x)
    except TypeError:
        return None
    return elements


def _is_file(cls: type) -> bool:
    # By shape, which covers compressed, remote and spooled files too; one wrapper in the standard library
    # hides its shape behind __getattr__.
    if cls.__name__ == "_TemporaryFileWrapper":
        return True
    return {"read", "readline"} <= inherited(cls).keys()


def _is_frame(cls: type) -> bool:
    # By name: importing pandas or polars to ask would cost more than most programs.
    return any(
        base.__name__ == "DataFrame" and base.__module__.partition(".")[0] in ("pandas", "polars")
        for base in cls.__mro__
    )


def _rows(columns: list[_Column], positional: int, kwargs: dict[str, Any]) -> Iterator[Arguments]:
    # Static columns have no end, so the shortest mapped one ends the rows.
    cells = [column.cells() for column in columns]
    if not kwargs:
        return ((row, {}) for row in zip(*cells, strict=False))
    keywords = tuple(kwargs)
    firsts: Iterable[tuple[Any, ...]] = zip(*cells[:positional], strict=False) if positional else repeat(())
    rows = zip(firsts, zip(*cells[positional:], strict=False), strict=False)
    return ((first, dict(zip(keywords, rest, strict=False))) for first, rest in rows)


def _summary(columns: list[_Column]) -> tuple[frozenset[str], tuple[str, ...]]:
    static = frozenset(column.name for column in columns if column.elements is None)
    return static, tuple(column.name for column in columns if column.frame)
