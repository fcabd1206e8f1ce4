"""How kept results are written: `"pickle"`, `"json"`, either of them compressed, or in a way of one's own.

A package offers a serializer to all its users by an entry point in the group `penstock.serializers`, whose name is the
serializer's `type`:

    [project.entry-points."penstock.serializers"]
    arrow = "my_package:ArrowSerializer"

Then `result_serializer="arrow"` works, and so does `"compressed/arrow"`.
"""

from __future__ import annotations

import importlib
import json
import pickle
import sys
from collections.abc import Callable, Iterator
from datetime import date, datetime, time, timedelta, timezone
from functools import cache
from typing import Any, Protocol

from penstock._core import serial
from penstock._core.errors import describe
from penstock._core.tagged import Codec, Kind
from penstock.exceptions import ConfigurationError, SerializationError

__all__ = ["CompressedSerializer", "JSONSerializer", "PickleSerializer", "Serializer"]

GROUP = "penstock.serializers"
_WHAT = "result"  # how errors call the value that they are about


class Serializer(Protocol):
    """Turns values into bytes and back. Its methods may be called from any thread.

    `type` is stored with each value, and tells who can read it. Raise anything if a value cannot be written or read.
    """

    type: str

    def dumps(self, obj: Any, /) -> bytes: ...

    def loads(self, blob: bytes, /) -> Any: ...


def get_serializer(spec: Any, option: str = "result_serializer") -> Serializer:
    """The serializer that a user means: a name, a `Serializer`, or a class of them.

    Raises `ConfigurationError` that says `option`, and which names there are.
    """
    if isinstance(spec, str):
        return _named(spec, option)
    made = _made(spec, option) if isinstance(spec, type) else spec
    methods = [getattr(made, name, None) for name in ("dumps", "loads")]
    if not isinstance(getattr(made, "type", None), str) or not all(map(callable, methods)):
        raise ConfigurationError(
            f"{option}={spec!r} is no serializer: it needs a text `type` and methods dumps(value) and loads(bytes)."
        )
    found: Serializer = made
    return found


def _named(name: str, option: str) -> Serializer:
    prefix, _, inner = name.rpartition("/")
    if prefix == "compressed":
        return CompressedSerializer(_named(inner, option))
    made = _BUILT_IN[name]() if name in _BUILT_IN else _third_party(name, option)
    if made is None:
        known = ", ".join(repr(known) for known in _names())
        raise ConfigurationError(f"{option}={name!r} is not known: it must be one of {known}, or a serializer.")
    return made


def _names() -> Iterator[str]:
    simple = sorted({*_BUILT_IN, *(entry.name for entry in _entry_points())})
    yield from simple
    yield from (f"compressed/{name}" for name in simple)


def _entry_points() -> Any:
    from importlib.metadata import entry_points  # slow to load, and few need it

    return entry_points(group=GROUP)


def _third_party(name: str, option: str) -> Serializer | None:
    entry = next((entry for entry in _entry_points() if entry.name == name), None)
    if entry is None:
        return None
    try:
        made = get_serializer(entry.load(), option)
    except Exception as error:
        raise ConfigurationError(f"{option}={name!r}: {entry.value} cannot be used: {describe(error)}") from error
    if made.type != name:
        raise ConfigurationError(
            f"{option}={name!r}: {entry.value} has the type {made.type!r}, and could not be found again by that."
        )
    return made


def _made(cls: type, option: str) -> Any:
    try:
        return cls()
    except Exception as error:
        raise ConfigurationError(f"{option}={cls.__qualname__} cannot be made: {describe(error)}") from error


# --- pickle ---


class PickleSerializer:
    """Anything that pickle or cloudpickle can write: functions and classes of scripts, notebooks and closures, too.

    Objects whose class is defined in a script have it with them. Where a script is running that defines it as well,
    they are of that class.

    Never load bytes from somebody you do not trust: to load a pickle is to execute it.
    """

    type: str = "pickle"

    def dumps(self, obj: Any, /) -> bytes:
        """Raises `SerializationError` that says which part cannot be pickled; its `path` leads there."""
        if serial.is_plain(obj):
            return serial.pack(obj, _WHAT, plain=True).data
        sink = _Sink()
        try:
            _pickler_class()(sink, 5).dump(obj)
        except BaseException as error:  # SystemExit included: it is the value's code that raises it, not the program
            raise _unpicklable(obj, error) from error
        return b"".join(sink.parts)

    def loads(self, blob: bytes, /) -> Any:
        """Raises what the value's code raises; `SerializationError` for what is no `Exception`."""
        return serial.unpack(serial.Packed(blob))

    def __repr__(self) -> str:
        return "PickleSerializer()"


class _Sink:
    """What a pickler writes to: large buffers as they are, without gathering them twice."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []

    def write(self, part: Any) -> None:
        self.parts.append(bytes(part))


@cache
def _pickler_class() -> Any:
    """The pickler for what travels to other processes, but for the classes of scripts.

    cloudpickle writes those by value, which makes a new class each time one is read: its objects would not be
    instances of the script's class when the same script asks for them the next day. By reference, only that script
    could read them at all.
    """

    class Pickler(serial._pickler_class()):  # type: ignore[misc]
        def reducer_override(self, obj: Any) -> Any:
            if isinstance(obj, type) and _class_of_script(obj.__module__, obj.__qualname__) is obj:
                return _script_class, (obj.__qualname__, _by_value(obj))
            return super().reducer_override(obj)

    return Pickler


def _by_value(cls: type) -> bytes | None:
    try:
        return serial.pack(cls, _WHAT, apart=False).data
    except SerializationError:
        return None  # one of its methods uses a lock of the script's, for example


def _class_of_script(module: str, qualname: str) -> Any:
    found: Any = sys.modules.get(module) if module == "__main__" else None
    for part in qualname.split("."):
        found = getattr(found, "__dict__", {}).get(part)
    return found


def _script_class(qualname: str, by_value: bytes | None) -> Any:
    found = _class_of_script("__main__", qualname)
    if isinstance(found, type):
        return found
    if by_value is None:
        raise AttributeError(f"the class {qualname} is defined in a script that is not running")
    return pickle.loads(by_value)


def _unpicklable(obj: Any, error: BaseException) -> SerializationError:
    try:
        serial.pack(obj, _WHAT, apart=False)
    except SerializationError as explained:
        path = explained.path
        return SerializationError(f"{path} cannot be pickled: {describe(explained.__cause__ or error)}", path=path)
    return SerializationError(f"{_WHAT} cannot be pickled: {describe(error)}", path=_WHAT)


# --- JSON ---


class JSONSerializer:
    """JSON that a human can read, and that brings back each value with its exact type.

    Covers None, bool, int, float, str, bytes, complex; lists, tuples, sets, dicts with any keys; dates and times,
    time zones, UUIDs, decimals, paths; enums, dataclasses, named tuples, pydantic models and exceptions whose class
    can be imported. No instances of other classes, no objects that contain themselves; what is in there twice comes
    back as two.

    To load it executes nothing but the import of modules whose source defines a class of data of the wanted name, the
    comparisons of keys and set members, and what objects do when they go away.

    >>> JSONSerializer().dumps({"when": (1, 2.5)})
    b'{"when":{"$tuple":[1,2.5]}}'
    """

    type: str = "json"

    def dumps(self, obj: Any, /) -> bytes:
        """Raises `SerializationError` that says which part cannot be written; its `path` leads there."""
        tree = _codec().encode(obj, _WHAT)
        try:
            return json.dumps(tree, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
        except RecursionError:
            raise SerializationError(f"{_WHAT} is nested too deeply to be written as JSON", path=_WHAT) from None

    def loads(self, blob: bytes, /) -> Any:
        """Raises `SerializationError` for anything that `dumps` has not written, and for classes that are gone."""
        try:
            tree = json.loads(str(blob, "utf-8"), parse_constant=_refuse)
        except (ValueError, RecursionError) as error:
            raise SerializationError(f"a value cannot be read from JSON: {describe(error)}") from error
        return _codec().decode(tree)

    def __repr__(self) -> str:
        return "JSONSerializer()"


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


@cache
def _codec() -> Codec:
    """Made when it is used: half of these modules are slow to load."""
    import pathlib
    from binascii import a2b_base64, b2a_base64
    from decimal import Decimal
    from uuid import UUID
    from zoneinfo import ZoneInfo

    paths = (pathlib.PurePosixPath, pathlib.PureWindowsPath, pathlib.PosixPath, pathlib.WindowsPath)
    kinds: dict[type, Kind] = {
        bytes: Kind("bytes", lambda x: b2a_base64(x, newline=False).decode("ascii"), a2b_base64),
        UUID: Kind("UUID", lambda x: x.hex, UUID),
        Decimal: Kind("Decimal", str, Decimal),
        ZoneInfo: Kind("ZoneInfo", _zone_key, ZoneInfo),
        **{cls: Kind(cls.__name__, _path_text, cls) for cls in paths},
        **_TIMES,
    }
    return Codec(kinds)


def _path_text(path: Any) -> str:
    text = str(path)
    if type(path)(text) != path:  # in some Pythons, Windows paths with several colons
        raise LookupError("this path cannot be told from another by its text")
    return text


def _zone_key(zone: Any) -> str:
    if zone.key is None:
        raise LookupError("a time zone without a name cannot be found again")
    key: str = zone.key
    return key


def _moment(cls: Any) -> Callable[[Any], Any]:
    def make(parts: Any) -> Any:
        text, fold, zone = parts
        return cls.fromisoformat(text).replace(fold=fold, tzinfo=zone)

    return make


_TIMES: dict[type, Kind] = {
    date: Kind("date", date.isoformat, date.fromisoformat),
    datetime: Kind("datetime", lambda x: [x.replace(tzinfo=None).isoformat(), x.fold, x.tzinfo], _moment(datetime)),
    time: Kind("time", lambda x: [x.replace(tzinfo=None).isoformat(), x.fold, x.tzinfo], _moment(time)),
    timedelta: Kind("timedelta", lambda x: [x.days, x.seconds, x.microseconds], lambda parts: timedelta(*parts)),
    timezone: Kind("timezone", lambda x: list(x.__getinitargs__()), lambda parts: timezone(*parts)),
}


# --- compressed ---

_LARGEST = 4 * 2**30  # bytes


class CompressedSerializer:
    """Another serializer's output, compressed with `"zlib"` (fast) or `"lzma"` (small).

    Reads both, whichever it writes with. Neither writes nor reads what has more than `largest` bytes when it is
    expanded, so that a few bytes cannot fill the memory.

    >>> CompressedSerializer("json").type
    'compressed/json'
    """

    def __init__(
        self, serializer: Serializer | str = "pickle", compressionlib: str = "zlib", *, largest: int = _LARGEST
    ) -> None:
        if compressionlib not in _MARKS:
            known = ", ".join(map(repr, _MARKS))
            raise ConfigurationError(f"compressionlib={compressionlib!r} is not known: it must be one of {known}.")
        self.serializer = get_serializer(serializer, "serializer")
        self.compressionlib = compressionlib
        self.largest = largest
        self.type = f"compressed/{self.serializer.type}"

    def dumps(self, obj: Any, /) -> bytes:
        data = self.serializer.dumps(obj)
        if len(data) > self.largest:
            raise SerializationError(f"{_WHAT} has {len(data):,} bytes, more than {self.largest:,}", path=_WHAT)
        library = importlib.import_module(self.compressionlib)  # lzma may be missing
        return b"".join((_MARKS[self.compressionlib], len(data).to_bytes(8, "big"), library.compress(data)))

    def loads(self, blob: bytes, /) -> Any:
        """Raises `SerializationError` for what is not compressed by `dumps`, and what the other serializer raises."""
        size = int.from_bytes(blob[1:9], "big")
        if size > self.largest:
            raise SerializationError(f"a compressed value has {size:,} bytes, more than {self.largest:,}")
        try:
            data = _expanded(bytes(blob[:1]), memoryview(blob)[9:], size)
        except Exception as error:  # each library has its own
            raise SerializationError(f"a compressed value cannot be expanded: {describe(error)}") from error
        return self.serializer.loads(data)

    def __repr__(self) -> str:
        return f"CompressedSerializer({self.serializer!r}, {self.compressionlib!r})"


_MARKS = {"zlib": b"z", "lzma": b"x"}
_LZMA_MEMORY = 128 * 2**20  # bytes; its own settings need up to 65 MiB to be read


def _expanded(mark: bytes, body: memoryview, size: int) -> bytes:
    expander: Any
    if mark == _MARKS["zlib"]:
        import zlib

        expander = zlib.decompressobj()
    elif mark == _MARKS["lzma"]:
        import lzma

        expander = lzma.LZMADecompressor(memlimit=_LZMA_MEMORY)
    else:
        raise ValueError("compressed by something unknown")
    # One byte more than announced: never more, whatever it would become.
    data: bytes = expander.decompress(body, size + 1)
    if len(data) != size or not expander.eof or expander.unused_data:
        raise ValueError("it does not have the size that it says")
    return data


_BUILT_IN: dict[str, Callable[[], Serializer]] = {"pickle": PickleSerializer, "json": JSONSerializer}
