"""Values on their way to another process: pickled, large buffers apart; what cannot be pickled is named.

Functions and classes that the other process cannot import (those of `__main__`, a notebook or a closure) travel by
value. Buffers from `LARGE` on are left out of the pickle (protocol 5): they go through shared memory, see `channel`.
So are values that are elsewhere already: what stands for them at home, a `Reference`, becomes a number.
"""

from __future__ import annotations

import pickle
from collections import ChainMap
from collections.abc import Iterator, Sequence
from functools import cache
from types import CodeType
from typing import Any, ClassVar, NamedTuple, cast

from penstock._core import tracebacks
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
    handles: Sequence[Any] = ()  # what stands for values that are elsewhere: not in the pickle


class Reference:
    """Stands for a value that is elsewhere.

    No abstract base class: whether something is one of these is asked about every part of what is pickled.
    """

    shown: str  # what `short` would say of the value


def pack(value: Any, what: str, *, plain: bool = False, apart: bool = True, handles: list[Any] | None = None) -> Packed:
    """Pickle `value`; raises `SerializationError` that says where inside `what` the culprit is.

    `plain`: it is known to consist of plain data, which costs a tenth. Without `apart` the pickle has all buffers in
    it. The references in `value` are left out and added to `handles`; without such a list it must not hold any.
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
        data = _dumps(value, keep_apart if apart else None, handles)
        return Packed(data, buffers, () if handles is None else handles)
    except BaseException as error:  # SystemExit included: it is the value's code that raises it, not the program
        cause = error if tracebacks.leads_to_user(error) else None  # else it repeats what is said already
        raise _explained(value, what, error) from cause


def _dumps(value: Any, buffer_callback: Any, handles: list[Any] | None) -> bytes:
    sink = _Sink()
    pickler = (_pickler_class() if handles is None else _referring_class())(sink, 5, buffer_callback=buffer_callback)
    if handles is not None:
        pickler.refer_to(handles)
    pickler.dump(value)
    return b"".join(sink.parts)


class _Sink:
    """What a pickler writes to."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []

    def write(self, part: Any) -> None:
        self.parts.append(bytes(part))


class _Source:
    """What an unpickler reads from."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        self._at = 0

    def read(self, size: int) -> bytes:
        part = self._data[self._at : self._at + size]
        self._at += size
        return bytes(part)

    def readline(self) -> bytes:
        raise pickle.UnpicklingError("not a pickle of ours: they have no lines")


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


@cache
def _referring_class() -> Any:
    """The pickler for what may hold references. It asks about every object, which takes its time."""

    class Referring(_pickler_class()):  # type: ignore[misc]
        def refer_to(self, handles: list[Any]) -> None:
            self._handles = handles
            self._known = {id(handle): index for index, handle in enumerate(handles)}

        def persistent_id(self, part: Any) -> int | None:
            if not issubclass(type(part), Reference):
                return None
            if id(part) not in self._known:
                self._known[id(part)] = len(self._handles)
                self._handles.append(part)
            return self._known[id(part)]

    return Referring


def _reduce_code(code: CodeType) -> Any:
    reduce_code = _pickler_class().__base__.dispatch_table[CodeType]
    function, arguments = reduce_code(code)
    return function, tuple(code.co_filename if item == "<dynamic-code>" else item for item in arguments)


def unpack(packed: Packed, given: Sequence[Any] = ()) -> Any:
    """The value again. Raises what its code raises; `SerializationError` for what is no `Exception`.

    `given` are the values that its handles stand for, in their order.
    """
    try:
        if given:
            return _Unpickler(packed, given).load()
        return pickle.loads(packed.data, buffers=packed.buffers)
    except Exception:
        raise
    except BaseException as error:
        raise SerializationError(f"rebuilding a value raised {describe(error)}") from error


class _Unpickler(pickle.Unpickler):
    """Puts values in the places of references."""

    def __init__(self, packed: Packed, given: Sequence[Any]) -> None:
        super().__init__(_Source(packed.data), buffers=packed.buffers)
        self._given = given

    def persistent_load(self, index: int) -> Any:
        return self._given[index]


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
        _dumps(value, lambda _: None, [])
    except BaseException:
        return False
    return True
