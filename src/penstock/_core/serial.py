"""Values on their way to another process: pickled, large buffers apart; what cannot be pickled is named.

Functions and classes that the other process cannot import (those of `__main__`, a notebook or a closure) travel by
value. Buffers from `LARGE` on are left out of the pickle (protocol 5): they go through shared memory, see `channel`.
"""

from __future__ import annotations

import pickle
from collections import ChainMap
from collections.abc import Iterator, Sequence
from functools import cache
from types import CodeType
from typing import Any, ClassVar, NamedTuple, cast

from penstock._core.errors import describe, text_of
from penstock.exceptions import SerializationError

LARGE = 256 * 1024  # bytes
MOST_BUFFERS = 200  # of one pickle; the kernel hands over 253 descriptors at once
_PLAIN = frozenset({type(None), bool, int, float, str, bytes})
_DEEPEST = 20  # levels that are searched for what cannot be pickled


class Packed(NamedTuple):
    """A pickle and the buffers that belong to it."""

    data: bytes
    buffers: Sequence[Any] = ()


def pack(value: Any, what: str, *, plain: bool = False, apart: bool = True) -> Packed:
    """Pickle `value`; raises `SerializationError` that says where inside `what` the culprit is.

    `plain`: it is known to consist of plain data, which costs a tenth. Without `apart` the pickle is complete.
    """
    if plain:
        return Packed(pickle.dumps(value, 5))
    buffers: list[Any] = []

    def keep_apart(buffer: pickle.PickleBuffer) -> bool:
        large = buffer.raw().nbytes >= LARGE and len(buffers) < MOST_BUFFERS
        if large:
            buffers.append(buffer)
        return not large

    try:
        return Packed(_dumps(value, keep_apart if apart else None), buffers)
    except BaseException as error:  # SystemExit included: it is the value's code that raises it, not the program
        raise _explained(value, what, error) from error


def _dumps(value: Any, buffer_callback: Any) -> bytes:
    sink = _Sink()
    _pickler_class()(sink, 5, buffer_callback=buffer_callback).dump(value)
    return b"".join(sink.parts)


class _Sink:
    """What a pickler writes to."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []

    def write(self, part: Any) -> None:
        self.parts.append(bytes(part))


@cache
def _pickler_class() -> Any:
    """cloudpickle's, which is loaded when something is sent, but for the file names of functions sent by value.

    It hides them, so that equal functions make equal pickles; a traceback from the worker must show them.
    """
    import cloudpickle

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        # Not a copy: libraries register their types when they are imported.
        dispatch_table: ClassVar[Any] = ChainMap(
            {CodeType: _reduce_code}, cast(Any, cloudpickle.Pickler.dispatch_table)
        )

    return Pickler


def _reduce_code(code: CodeType) -> Any:
    reduce_code = _pickler_class().__base__.dispatch_table[CodeType]
    function, arguments = reduce_code(code)
    return function, tuple(code.co_filename if item == "<dynamic-code>" else item for item in arguments)


def unpack(packed: Packed) -> Any:
    """The value again. Raises what its code raises; `SerializationError` for what is no `Exception`."""
    try:
        return pickle.loads(packed.data, buffers=packed.buffers)
    except Exception:
        raise
    except BaseException as error:
        raise SerializationError(f"rebuilding a value raised {describe(error)}") from error


def is_plain(value: Any) -> bool:
    """Whether anybody can pickle and rebuild it, and nobody's code is executed by that."""
    return type(value) in _PLAIN


def _explained(value: Any, what: str, error: BaseException) -> SerializationError:
    path, culprit = _find(value, what, _DEEPEST)
    name = f"{type(culprit).__module__}.{type(culprit).__qualname__}".removeprefix("builtins.")
    cure = ": return list(...) instead" if hasattr(type(culprit), "gi_frame") else ""
    return SerializationError(f"{path} cannot be sent to another process ({name}): {text_of(error)}{cure}", path=path)


def _find(value: Any, path: str, levels: int) -> tuple[str, Any]:
    """The innermost part of `value` that cannot be pickled."""
    for place, part in _parts(value) if levels else ():
        if not _works(part):
            return _find(part, f"{path}{place}", levels - 1)
    return path, value


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        yield from ((f"[{key!r}]", item) for key, item in value.items())
    elif isinstance(value, list | tuple | set | frozenset):
        yield from ((f"[{number}]", item) for number, item in enumerate(value))
    elif getattr(value, "__closure__", None):
        names = value.__code__.co_freevars
        yield from ((f".{name}", cell.cell_contents) for name, cell in zip(names, value.__closure__, strict=True))
    else:
        yield from ((f".{name}", item) for name, item in getattr(value, "__dict__", {}).items())


def _works(value: Any) -> bool:
    try:
        _dumps(value, lambda _: None)
    except BaseException:
        return False
    return True
