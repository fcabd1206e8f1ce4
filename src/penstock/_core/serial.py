"""Values on their way to another process: pickled, large buffers apart; what cannot be pickled is named.

Functions and classes that the other process cannot import (those of `__main__`, a notebook or a closure) travel by
value. Buffers from `LARGE` on are left out of the pickle (protocol 5): they go through shared memory, see `channel`.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from penstock.exceptions import SerializationError

LARGE = 256 * 1024  # bytes
_PLAIN = frozenset({type(None), bool, int, float, str, bytes})
_DEEPEST = 20  # levels that are searched for what cannot be pickled


class Packed(NamedTuple):
    """A pickle and the buffers that belong to it."""

    data: bytes
    buffers: Sequence[Any] = ()


def pack(value: Any, what: str, *, plain: bool = False) -> Packed:
    """Pickle `value`; raises `SerializationError` that says where inside `what` the culprit is.

    `plain`: it is known to consist of plain data, which costs a tenth.
    """
    if plain:
        return Packed(pickle.dumps(value, 5))
    import cloudpickle

    buffers: list[Any] = []

    def keep_apart(buffer: pickle.PickleBuffer) -> bool:
        apart = buffer.raw().nbytes >= LARGE
        if apart:
            buffers.append(buffer)
        return not apart

    try:
        return Packed(cloudpickle.dumps(value, protocol=5, buffer_callback=keep_apart), buffers)
    except Exception as error:
        raise _explained(value, what, error) from error


def unpack(packed: Packed) -> Any:
    return pickle.loads(packed.data, buffers=packed.buffers)


def is_plain(value: Any) -> bool:
    """Whether anybody can pickle and rebuild it, and nobody's code is executed by that."""
    return type(value) in _PLAIN


def _explained(value: Any, what: str, error: Exception) -> SerializationError:
    path, culprit = _find(value, what, _DEEPEST)
    name = f"{type(culprit).__module__}.{type(culprit).__qualname__}".removeprefix("builtins.")
    cure = ": return list(...) instead" if hasattr(type(culprit), "gi_frame") else ""
    return SerializationError(f"{path} cannot be sent to another process ({name}): {error}{cure}", path=path)


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
    import cloudpickle

    try:
        cloudpickle.dumps(value, protocol=5, buffer_callback=lambda _: None)
    except Exception:
        return False
    return True
