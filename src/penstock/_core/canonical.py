"""Values as bytes: the same bytes for the same value in every process, other bytes for every other value.

Each value becomes a tag and what follows; how far it reaches is known from its beginning, so that no two sequences of
values run into the same bytes. The tag is the type: `1`, `1.0` and `True` differ, and so do `[1]` and `(1,)`. What has
no order (dictionaries, sets) is sorted by its bytes. Nothing depends on the hash seed, on addresses, or on whether two
places share one object.

Anything longer than `LARGE` is replaced by its digest as soon as it is complete, and remembered: memory stays small,
and an object that occurs a million times is read once.

What is not known here is no part of a key (`Unhashable`). Guessing, by pickling say, would give keys that never come
again (an address, a counter) or, worse, the key of another value.
"""

from __future__ import annotations

import functools
import struct
import sys
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from types import BuiltinFunctionType, EllipsisType, FunctionType, MemberDescriptorType, ModuleType, NoneType
from typing import Any
from weakref import WeakKeyDictionary

from penstock._core.containers import is_model, mro, namespace
from penstock._core.forms import FORMS, OPEN, WHOLE, family

KEPT_AT = "__penstock_code__"  # where functions, and what is made to look like them, keep what is known of their code
LARGE = 512  # bytes; what is longer stands as its digest
DEEPEST = 100  # levels; each takes up to five frames of the stack
LONGEST_PATH = 120
_HEAP_TYPE = 1 << 9
_NAN = struct.pack(">d", float("nan"))
# A path's class depends on the machine; what it means depends on the family only.
_TAGS = {
    **dict.fromkeys(("pathlib.PosixPath", "pathlib.PurePosixPath"), "posix path"),
    **dict.fromkeys(("pathlib.WindowsPath", "pathlib.PureWindowsPath"), "windows path"),
}

Way = Callable[["Encoder", Any], bytes]


class Unhashable(TypeError):
    """A value that cannot be part of a cache key.

    `path` is its place ("config.client", "xs[3]", "d['a']"), `kind` the name of its type, `why` more about it or "".
    """

    def __init__(self, kind: str = "", path: str = "", why: str = "") -> None:
        super().__init__(kind, path, why)
        self.kind, self.path, self.why = kind, path, why

    def __str__(self) -> str:
        place = f"{self.path}: " if self.path else ""
        return f"{place}{self.kind} cannot be part of a cache key" + (f" ({self.why})" if self.why else "")

    def __reduce__(self) -> tuple[Any, ...]:
        return Unhashable, (self.kind, self.path, self.why)

    def below(self, step: str) -> Unhashable:
        """The same, seen from one level further out."""
        self.path = (step + self.path)[:LONGEST_PATH]
        return self


# --- Digests ---


def _load_blake2b(data: Any, /, *, digest_size: int) -> Any:
    """Stands in until the first digest: hashlib takes milliseconds to load, and most programs compute no key."""
    global blake2b
    from hashlib import blake2b as real

    blake2b = real
    return real(data, digest_size=digest_size)


blake2b: Callable[..., Any] = _load_blake2b


def short_digest(data: bytes) -> str:
    """128 bits as 32 hex digits."""
    digest: str = blake2b(data, digest_size=16).hexdigest()
    return digest


def long_digest(data: Any) -> bytes:
    digest: bytes = blake2b(data, digest_size=32).digest()
    return digest


def combine(*parts: str) -> str:
    """32 hex digits for a sequence of strings; another sequence gives others."""
    return short_digest(b"k%d:" % len(parts) + b"".join([of_str(part) for part in parts]))


# --- Leaves ---


def of_str(value: str) -> bytes:
    try:
        data = value.encode()
    except UnicodeEncodeError:
        data = value.encode("utf-8", "surrogatepass")
    if len(data) > LARGE:
        return b"S%d:" % len(data) + long_digest(data)
    return b"s%d:" % len(data) + data


def of_bytes(value: bytes) -> bytes:
    if len(value) > LARGE:
        return b"B%d:" % len(value) + long_digest(value)
    return b"b%d:" % len(value) + value


def _of_double(value: float) -> bytes:
    return _NAN if value != value else struct.pack(">d", value)


LEAVES: dict[type, Callable[[Any], bytes]] = {
    NoneType: lambda _: b"n",
    bool: lambda value: b"y" if value else b"z",
    int: lambda value: b"i%x;" % value,  # decimal digits are limited in number, and slow
    float: lambda value: b"f" + _of_double(value),
    complex: lambda value: b"c" + _of_double(value.real) + _of_double(value.imag),
    str: of_str,
    bytes: of_bytes,
    EllipsisType: lambda _: b".",
    type(NotImplemented): lambda _: b"_",
}


# --- Names ---

_assumed_main: str | None = None


def assume_main(name: str) -> None:
    """Let `__main__` be called `name` here: for workers whose own main program is another one than their owner's."""
    global _assumed_main
    _assumed_main = name


def main_name() -> str:
    """What the main program would be imported as; "__main__" if it cannot be imported."""
    if _assumed_main is not None:
        return _assumed_main
    main = sys.modules.get("__main__")
    spec_name = getattr(getattr(main, "__spec__", None), "name", None)
    if isinstance(spec_name, str):
        return spec_name
    file = getattr(main, "__file__", None)
    if not isinstance(file, str) or file.startswith("<"):  # such as "<stdin>"
        return "__main__"
    name = file.replace("\\", "/").rpartition("/")[2]
    return name.rpartition(".")[0] or name


def module_name(name: Any) -> str:
    """A module's name in every process: a script's is that under which it would be imported."""
    if name in ("__main__", "__mp_main__"):
        return main_name()
    return name if isinstance(name, str) else "?"


def type_name(cls: type) -> str:
    return f"{module_name(cls.__module__)}.{cls.__qualname__}"


def kind_of(value: Any) -> str:
    """The name of a value's type, for messages."""
    cls = type(value)
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


def reference_name(value: Any) -> str:
    """Module and qualified name of a function, class or module."""
    if isinstance(value, ModuleType):
        return module_name(value.__name__)
    name = getattr(value, "__qualname__", None) or getattr(value, "__name__", "?")
    return f"{module_name(_module_of(value))}.{name}"


def _module_of(value: Any) -> Any:
    # numpy's universal functions do not say where they come from.
    return getattr(value, "__module__", None) or type(value).__module__


def _is_found_by_name(value: Any) -> bool:
    names = getattr(value, "__qualname__", None) or getattr(value, "__name__", None)
    if not isinstance(names, str):
        return False
    found: Any = sys.modules.get(_module_of(value))
    for name in names.split("."):
        found = getattr(found, name, None)
    return found is value


def is_python_class(cls: type) -> bool:
    return bool(cls.__flags__ & _HEAP_TYPE)


# --- Everything else ---


class Encoder:
    """Turns values into bytes; one for each digest. Subclasses decide about code and about unknown objects."""

    __slots__ = ("_active", "_memo")

    def __init__(self) -> None:
        self._active: set[int] = set()
        # With the objects: an address may be given away again as soon as its object is gone.
        self._memo: dict[int, tuple[Any, bytes]] = {}

    def encode(self, value: Any) -> bytes:
        leaf = LEAVES.get(type(value))
        if leaf is not None:
            return leaf(value)
        known = self._memo.get(id(value))
        return self._encode_new(value) if known is None else known[1]

    def _encode_new(self, value: Any) -> bytes:
        me, active, cls = id(value), self._active, type(value)
        if me in active:
            return self.circular(value)
        if len(active) >= DEEPEST:
            return self.too_deep(value)
        active.add(me)
        try:
            data = (_CONTAINERS.get(cls) or _way(cls))(self, value)
        finally:
            active.discard(me)
        if len(data) > LARGE:
            data = b"#" + long_digest(data)
            self._memo[me] = value, data
        return data

    def digest(self, value: Any, path: str = "") -> str:
        try:
            return short_digest(self.encode(value))
        except Unhashable as error:
            raise error.below(path) from None
        except RecursionError:
            raise Unhashable(kind_of(value), path, "it is nested too deeply for what is left of the stack") from None
        except RuntimeError as error:  # another thread changes what is being read
            raise Unhashable(kind_of(value), path, str(error)) from None

    def circular(self, value: Any) -> bytes:
        raise Unhashable(kind_of(value), why="it contains itself")

    def too_deep(self, value: Any) -> bytes:
        raise Unhashable(kind_of(value), why=f"it is nested more than {DEEPEST} levels deep")

    def unknown(self, value: Any) -> bytes:
        # An object of a class written in Python has state that its name says nothing about.
        if callable(value) and not is_python_class(type(value)) and _is_found_by_name(value):
            return self.reference(value)
        raise Unhashable(kind_of(value))

    def reference(self, value: Any) -> bytes:
        return b"r" + of_str(reference_name(value))

    def function(self, value: FunctionType) -> bytes:
        return self.reference(value)

    def a_class(self, value: type) -> bytes:
        return self.reference(value)

    def tag(self, cls: type) -> bytes:
        return b"o" + of_str(_TAGS.get(family(cls)) or type_name(cls))

    def items(self, items: Iterable[tuple[Any, Any]], step: Callable[[Any], str]) -> bytes:
        """Keys and values in an order of their own. `step` writes a place among them."""
        pairs: list[tuple[bytes, bytes]] = []
        for key, value in items:
            try:
                name = self.encode(key)
            except Unhashable as error:
                raise error.below(f".keys()[{len(pairs)}]") from None
            try:
                pairs.append((name, self.encode(value)))
            except Unhashable as error:
                raise error.below(step(key)) from None
        pairs.sort()
        return b"d%d:" % len(pairs) + b"".join([part for pair in pairs for part in pair])

    def state(self, value: Any, slots: Iterable[str], skipped: frozenset[str]) -> bytes:
        """The attributes of an object, read without running code of its class."""
        held = {**_attributes(value), **dict(_slot_values(value, slots))}
        for name in skipped & held.keys():
            del held[name]
        return self.items(held.items(), ".{}".format)


def _item_step(key: Any) -> str:
    return f"[{repr(key)[:40]}]" if type(key) in LEAVES else f"[<{kind_of(key)}>]"


def _sequence(encoder: Encoder, value: list[Any] | tuple[Any, ...]) -> bytes:
    parts: list[bytes] = []
    try:
        for item in value:
            parts.append(encoder.encode(item))  # noqa: PERF401  # how many there are says which one failed
    except Unhashable as error:
        raise error.below(f"[{len(parts)}]") from None
    return (b"l%d:" if type(value) is list else b"t%d:") % len(parts) + b"".join(parts)


def _set(encoder: Encoder, value: set[Any] | frozenset[Any]) -> bytes:
    try:
        parts = sorted(map(encoder.encode, value))
    except Unhashable as error:
        raise error.below("{...}") from None
    return (b"e%d:" if type(value) is set else b"E%d:") % len(parts) + b"".join(parts)


_CONTAINERS: dict[type, Way] = {
    list: _sequence,
    tuple: _sequence,
    dict: lambda encoder, value: encoder.items(value.items(), _item_step),
    set: _set,
    frozenset: _set,
}


def _attributes(value: Any) -> dict[str, Any]:
    try:
        found: dict[str, Any] = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return {}
    return found


def _slots_of(bases: Iterable[type]) -> tuple[str, ...]:
    return tuple(name for base in bases for name, member in namespace(base).items() if _is_slot(member))


def _is_slot(member: Any) -> bool:
    return type(member) is MemberDescriptorType


def _slot_values(value: Any, names: Iterable[str]) -> Iterator[tuple[str, Any]]:
    for name in names:
        slot: Any = next(found for base in mro(type(value)) if _is_slot(found := namespace(base).get(name)))
        try:
            yield name, slot.__get__(value)
        except AttributeError:
            pass  # never set


# --- How objects of a class are encoded ---

_hashers: dict[type, Callable[[Any], Any]] = {}
_ways: WeakKeyDictionary[type, Way] = WeakKeyDictionary()


def register_hasher(cls: type, fn: Callable[[Any], Any], /) -> None:
    """Let objects of a class be part of cache keys: as `fn(value)`, which must say all that matters about them.

    It is used for subclasses, too, except for those that have their own. What `fn` returns is hashed in its place,
    together with the name of the type; plain data is best.
    """
    if not isinstance(cls, type):
        raise TypeError(f"the first argument must be a class; got {kind_of(cls)}")
    if cls is object or cls in LEAVES or cls in _CONTAINERS:
        raise TypeError(f"how {cls.__name__} is hashed cannot be changed")
    if not callable(fn):
        raise TypeError("the second argument must be a function")
    _hashers[cls] = fn
    _ways.clear()


def _way(cls: type) -> Way:
    way = _ways.get(cls)
    if way is None:
        way = _ways[cls] = _own_way(cls) or _known_way(cls) or _unknown
    return way


def _unknown(encoder: Encoder, value: Any) -> bytes:
    return encoder.unknown(value)


def _own_way(cls: type) -> Way | None:
    """By a registered function, or by the class's own `__penstock_hash__`."""
    for base in mro(cls):
        if base in _hashers:
            return _by_form(_hashers[base])
        if "__penstock_hash__" in namespace(base):
            return _by_form(namespace(base)["__penstock_hash__"])
    return None


def _by_form(form: Callable[[Any], Any]) -> Way:
    return lambda encoder, value: encoder.tag(type(value)) + b"=" + encoder.encode(_formed(form, value))


def _formed(form: Callable[[Any], Any], value: Any) -> Any:
    try:
        return form(value)
    except Exception as error:
        raise Unhashable(kind_of(value), why=f"{type(error).__name__}: {error}") from error


def _known_way(cls: type) -> Way | None:
    if issubclass(cls, Enum):
        return _member
    special = _SPECIAL.get(cls) or (_SPECIAL[type] if issubclass(cls, type) else None)
    if special is not None:
        return special
    if hasattr(cls, "n_sequence_fields"):  # such as os.stat_result: a tuple, with more fields behind it
        return _by_form(lambda value: value.__reduce__()[1])
    known = [base for base in mro(cls) if family(base) in FORMS]
    # numpy's strings are strings first, but more than strings.
    base = next((base for base in known if family(base) in OPEN), known[0] if known else None)
    if base is None:
        return _plain_way(cls) if hasattr(cls, "__dataclass_fields__") or is_model(cls) else None
    above = mro(cls)[: mro(cls).index(base)]
    if family(base) not in OPEN and not all(map(is_python_class, above)):
        return None  # a class written in C may hold what nobody sees: a pandas Timestamp is a datetime and more
    form = FORMS[family(base)]
    if family(base) in WHOLE:
        return _by_form(form)
    slots, skipped = _slots_of(above), _computed(cls)
    return lambda encoder, value: (
        encoder.tag(type(value)) + b"+" + encoder.encode(_formed(form, value)) + encoder.state(value, slots, skipped)
    )


def _plain_way(cls: type) -> Way:
    """For objects whose attributes are all that there is: dataclasses, pydantic models."""
    slots, skipped = _slots_of(mro(cls)), _computed(cls)
    return lambda encoder, value: encoder.tag(type(value)) + b"-" + encoder.state(value, slots, skipped)


def attributes_of(encoder: Encoder, value: Any) -> bytes:
    """Any object as what its attributes say: nothing, for an object that hides its state."""
    return _plain_way(type(value))(encoder, value)


def _computed(cls: type) -> frozenset[str]:
    """Attributes that are there or not, depending on whether somebody has asked for them."""
    members = ((name, member) for base in mro(cls) for name, member in namespace(base).items())
    return frozenset(name for name, member in members if isinstance(member, functools.cached_property)) | {KEPT_AT}


def _member(encoder: Encoder, value: Enum) -> bytes:
    data = encoder.tag(type(value)) + encoder.encode(value._name_)
    try:
        return data + encoder.encode(value._value_)
    except Unhashable:
        return data + b"?"  # members are told apart by their names


def _builtin(encoder: Encoder, value: Any) -> bytes:
    owner = value.__self__
    if owner is None or isinstance(owner, ModuleType):
        return encoder.reference(value)
    return b"m" + of_str(value.__name__) + encoder.encode(owner)


def _memory(encoder: Encoder, value: memoryview) -> bytes:
    content = value if value.c_contiguous else value.tobytes()
    return b"M" + of_str(value.format) + encoder.encode(value.shape) + long_digest(content)


_SPECIAL: dict[type, Way] = {
    FunctionType: lambda encoder, value: encoder.function(value),
    type: lambda encoder, value: encoder.a_class(value),
    ModuleType: lambda encoder, value: encoder.reference(value),
    BuiltinFunctionType: _builtin,
    memoryview: _memory,
}
