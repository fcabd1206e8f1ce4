"""Python values as JSON and back, each with its exact type.

What JSON has is written as it is: None, booleans, numbers, texts, lists, dicts whose keys are texts. Everything else
becomes an object with one key, the name of its kind after a dollar sign: `{"$tuple": [1, 2]}`. A dict that could be
taken for one of these, or has other keys, is a list of pairs: `{"$dict": [[1, "x"]]}`.

Kinds for single types come from a table; families of classes (enums, exceptions, models, named tuples, dataclasses)
are written with the name of the class, see `classes`. They are rebuilt from their state: no constructor, validator or
`__setstate__` of theirs is called. What may run is what a class does when its objects are compared or hashed (as
members of a set, as keys), and when they go away.
"""

from __future__ import annotations

import builtins
import enum
from collections.abc import Callable, Mapping
from math import isfinite
from types import MemberDescriptorType
from typing import Any, NamedTuple

from penstock._core import classes
from penstock._core.containers import inherited, is_model, mro
from penstock._core.errors import describe
from penstock.exceptions import SerializationError

MARK = "$"
_LONG = 2000  # bits; how many decimal digits Python is willing to read is a setting


class _Cannot(Exception):
    """A value cannot be written; `steps` lead to it from within, as indices and keys."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.steps: list[Any] = []


class _Step(str):
    """A step in its final form."""


class Kind(NamedTuple):
    """How values of one kind are taken apart and put together."""

    tag: str
    take: Callable[[Any], Any]  # from the value to its parts: a list, dict or text of what can be written
    make: Callable[[Any], Any]  # and back; raises anything for parts that it has not made
    # From the value and the steps inside its parts to the step that a reader understands, and how many steps that is.
    place: Callable[[Any, list[Any]], tuple[str, int]] | None = None


class Codec:
    """Writes what its table of kinds, and the families, cover."""

    def __init__(self, kinds: Mapping[type, Kind]) -> None:
        self._kinds = {**_CONTAINERS, **kinds}
        self._makers = {kind.tag: kind.make for kind in (*self._kinds.values(), *_FAMILIES.values(), *_SPECIAL)}

    def encode(self, value: Any, what: str) -> Any:
        """`value` as what the json module writes. Raises `SerializationError` that says where inside `what` is what."""
        try:
            return _Encoder(self._kinds).encode(value)
        except _Cannot as error:
            path = what + "".join(map(_shown_step, reversed(error.steps)))
            raise SerializationError(f"{path} cannot be written as JSON: {error}", path=path) from error.__cause__
        except RecursionError:
            raise SerializationError(f"{what} is nested too deeply to be written as JSON", path=what) from None

    def decode(self, tree: Any) -> Any:
        """The value again. Raises `SerializationError` for what `encode` does not write, and for classes that are gone.

        Only classes of data are looked for, and nothing else is ever called.
        """
        try:
            return self._decode(tree)
        except SerializationError:
            raise
        except RecursionError:
            raise SerializationError("a value is nested too deeply to be read from JSON") from None
        except (Exception, SystemExit) as error:  # the exit is that of a module which was imported
            raise SerializationError(f"a value cannot be read from JSON: {describe(error)}") from error

    def _decode(self, tree: Any) -> Any:
        if type(tree) is list:
            return [self._decode(part) for part in tree]
        if type(tree) is not dict:
            return tree
        marked = [key for key in tree if key.startswith(MARK)]
        if not marked:
            return {key: self._decode(part) for key, part in tree.items()}
        make = self._makers.get(marked[0].removeprefix(MARK))
        if make is None or len(tree) > 1:
            raise SerializationError(f"a value cannot be read from JSON: there is no kind {marked[0]!r}")
        return make(self._decode(tree[marked[0]]))


def _shown_step(step: Any) -> str:
    return step if type(step) is _Step else f"[{step!r}]"


class _Encoder:
    def __init__(self, kinds: Mapping[type, Kind]) -> None:
        self._kinds = kinds
        self._open: set[int] = set()  # what is being written: to meet it again would never end

    def encode(self, value: Any) -> Any:
        cls = type(value)
        if value is None or cls is bool:
            return value
        if cls is str:
            return value if _is_text(value) else _tagged(_TEXT, _TEXT.take(value))
        if cls is int:
            return value if value.bit_length() <= _LONG else _tagged(_INTEGER, _INTEGER.take(value))
        if cls is float:
            return value if isfinite(value) else _tagged(_FLOAT, _FLOAT.take(value))
        if id(value) in self._open:
            raise _Cannot("it contains itself")
        self._open.add(id(value))
        try:
            return self._compound(value, cls)
        finally:
            self._open.discard(id(value))

    def _compound(self, value: Any, cls: type) -> Any:
        if cls is list:
            return self._list(value)
        if cls is dict and all(type(key) is str and _is_text(key) and key[:1] != MARK for key in value):
            return self._dict(value)
        return self._kind(value, self._kinds.get(cls) or _family(cls))

    def _kind(self, value: Any, kind: Kind | None) -> Any:
        if kind is None:
            raise _Cannot(f"there is no way to write a {_class_name(type(value))}")
        try:
            return _tagged(kind, self.encode(kind.take(value)))
        except _Cannot as error:
            if kind.place is not None and error.steps:
                step, length = kind.place(value, error.steps[::-1])
                error.steps[-length:] = [_Step(step)]
            raise
        except LookupError as error:
            raise _Cannot(str(error.args[0])) from error

    def _list(self, values: list[Any]) -> list[Any]:
        written: list[Any] = []
        try:
            written.extend(map(self.encode, values))  # up to the one that fails
        except _Cannot as error:
            error.steps.append(len(written))
            raise
        return written

    def _dict(self, values: dict[str, Any]) -> dict[str, Any]:
        written: dict[str, Any] = {}
        key = ""
        try:
            for key, value in values.items():
                written[key] = self.encode(value)
        except _Cannot as error:
            error.steps.append(key)
            raise
        return written


def _tagged(kind: Kind, parts: Any) -> dict[str, Any]:
    return {MARK + kind.tag: parts}


def _class_name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}".removeprefix("builtins.")


def _is_text(value: str) -> bool:
    """Not so with lone surrogates in it: two of them, next to each other, come back from JSON as one character."""
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


# --- kinds of the language itself ---


def _place_in_dict(value: dict[Any, Any], steps: list[Any]) -> tuple[str, int]:
    number, part = steps[:2]
    key = list(value)[number]
    return (f"[{key!r}]" if part == 1 and type(key) in _SHOWN_KEYS else f".items()[{number}][{part}]"), 2


_SHOWN_KEYS = (str, int, float, bool, bytes, type(None))
_TEXT = Kind("str", lambda x: list(map(ord, x)), lambda parts: "".join(map(chr, parts)))
_INTEGER = Kind("int", hex, lambda parts: int(parts, 16))
_FLOAT = Kind("float", repr, float)  # nan, inf, -inf
_SPECIAL = (_TEXT, _INTEGER, _FLOAT)
_CONTAINERS: dict[type, Kind] = {
    tuple: Kind("tuple", list, tuple),
    set: Kind("set", list, set, lambda _, __: ("{…}", 1)),
    frozenset: Kind("frozenset", list, frozenset, lambda _, __: ("{…}", 1)),
    dict: Kind("dict", lambda x: [list(item) for item in x.items()], dict, _place_in_dict),
    complex: Kind("complex", lambda x: [x.real, x.imag], lambda parts: complex(*parts)),
}


# --- families of classes ---


def _family(cls: type) -> Kind | None:
    return next((kind for belongs, kind in _FAMILIES.items() if belongs(cls)), None)


def _found(name: Any, belongs: Callable[[type], bool]) -> Any:
    cls = classes.find(name)
    if _family(cls) is not _FAMILIES[belongs]:
        raise LookupError(f"{name} is a class of another kind")
    return cls


def _is_enum(cls: type) -> bool:
    return isinstance(cls, enum.EnumType)


def _take_member(member: enum.Enum) -> list[Any]:
    cls = type(member)
    if cls.__members__.get(member._name_) is member:
        return [classes.name_of(cls), member._name_]
    if isinstance(member, enum.Flag):  # several at once
        return [classes.name_of(cls), member._value_]
    raise LookupError(f"it is no member of {_class_name(cls)}")


def _make_member(parts: Any) -> enum.Enum:
    name, member = parts
    cls = _found(name, _is_enum)
    found: enum.Enum = cls.__members__[member] if type(member) is str else _flags(cls, member)
    return found


def _flags(cls: Any, value: Any) -> Any:
    if not issubclass(cls, enum.Flag) or type(value) is not int:
        raise LookupError(f"{_class_name(cls)} has no member {value!r}")
    found = cls(value)
    if found._value_ != value:  # Python 3.11.2 leaves out what the class does not know
        raise LookupError(f"{_class_name(cls)} has no member {value!r}")
    return found


def _is_exception(cls: type) -> bool:
    return issubclass(cls, BaseException)


def _is_builtin(cls: type) -> bool:
    return cls is getattr(builtins, cls.__name__, None)


def _builtin_base(cls: type) -> Any:
    """The class that gives it its layout. It makes one without calling anybody's code."""
    base: Any = cls
    while not _is_builtin(base):
        base = base.__base__
    return base


def _take_exception(error: BaseException) -> list[Any]:
    cls = type(error)
    _, arguments, *state = _builtin_base(cls).__reduce__(error)
    held = dict(state[0]) if state and state[0] else {}
    held.pop("args", None)  # some Pythons have them in both places
    return [classes.name_of(cls), list(arguments), held, error.__cause__, error.__suppress_context__]


def _make_exception(parts: Any) -> BaseException:
    name, arguments, held, cause, suppress = parts
    cls = _found(name, _is_exception)
    base = _builtin_base(cls)
    error: BaseException = base.__new__(cls, *arguments)
    initial: Any = next(filter(_is_builtin, mro(cls)))  # another one, if the class derives from several
    initial.__init__(error, *arguments)
    if type(error) is not cls:
        raise LookupError(f"{name} makes a {_class_name(type(error))}")
    _give(error, held, inherited(base))
    error.__cause__ = cause
    error.__suppress_context__ = suppress
    return error


def _place_in_exception(_: Any, steps: list[Any]) -> tuple[str, int]:
    match steps:
        case [1, number, *_]:
            return f".args[{number}]", 2
        case [2, name, *_]:
            return f".{name}", 2
        case _:
            return ".__cause__", 1


def _is_plain_dataclass(cls: type) -> bool:
    return classes.is_dataclass(cls) and not issubclass(cls, (tuple, BaseException, enum.Enum)) and not is_model(cls)


def _take_fields(x: Any) -> list[Any]:
    cls = type(x)
    try:
        object.__new__(cls)
    except TypeError:
        raise LookupError(f"{_class_name(cls)} derives from a built-in class") from None
    held = {name: slot.__get__(x) for name, slot in _slots(cls).items() if _is_set(slot, x)}
    return [classes.name_of(cls), {**held, **_attributes(x)}]


def _make_fields(parts: Any) -> Any:
    name, held = parts
    cls = _found(name, _is_plain_dataclass)
    twin = object.__new__(cls)
    _give(twin, held, inherited(cls))
    return twin


def _place_in_fields(_: Any, steps: list[Any]) -> tuple[str, int]:
    return f".{steps[1]}", 2


_MODEL_SLOTS = ("__pydantic_fields_set__", "__pydantic_extra__", "__pydantic_private__")


def _take_model(x: Any) -> list[Any]:
    cls = type(x)
    slots = _slots(cls)
    held = {name: slots[name].__get__(x) for name in _MODEL_SLOTS if name in slots and _is_set(slots[name], x)}
    private = held.get("__pydantic_private__")
    if private is not None:
        held["__pydantic_private__"] = {
            name: part for name, part in private.items() if type(part).__name__ != "PydanticUndefinedType"
        }
    return [classes.name_of(cls), _attributes(x), held]


def _make_model(parts: Any) -> Any:
    name, fields, held = parts
    cls = _found(name, is_model)
    twin = object.__new__(cls)
    _give(twin, fields, {})
    _give(twin, {slot: held[slot] for slot in _MODEL_SLOTS if slot in held}, inherited(cls))
    return twin


def _take_named(x: Any) -> list[Any]:
    if _attributes(x):
        raise LookupError(f"this {_class_name(type(x))} has attributes besides its fields")
    return [classes.name_of(type(x)), list(tuple.__iter__(x))]


def _make_named(parts: Any) -> Any:
    name, values = parts
    cls = _found(name, classes.is_named_tuple)
    if len(values) != len(cls._fields):
        raise LookupError(f"{name} has {len(cls._fields)} fields")
    return tuple.__new__(cls, values)


def _place_in_named(x: Any, steps: list[Any]) -> tuple[str, int]:
    return f".{type(x)._fields[steps[1]]}", 2


_FAMILIES: dict[Callable[[type], bool], Kind] = {
    _is_enum: Kind("enum", _take_member, _make_member),
    _is_exception: Kind("exception", _take_exception, _make_exception, _place_in_exception),
    is_model: Kind("model", _take_model, _make_model, _place_in_fields),
    classes.is_named_tuple: Kind("namedtuple", _take_named, _make_named, _place_in_named),
    _is_plain_dataclass: Kind("dataclass", _take_fields, _make_fields, _place_in_fields),
}


# --- what objects hold, read and written past their classes ---


def _dict_of(x: Any) -> dict[str, Any] | None:
    try:
        held: dict[str, Any] = object.__getattribute__(x, "__dict__")
    except AttributeError:
        return None  # slots only
    return held


def _attributes(x: Any) -> dict[str, Any]:
    held = _dict_of(x) or {}
    return {name: part for name, part in held.items() if name != "__orig_class__"}  # of Generic: types, no data


def _slots(cls: type) -> dict[str, MemberDescriptorType]:
    return {name: member for name, member in inherited(cls).items() if type(member) is MemberDescriptorType}


def _is_set(slot: MemberDescriptorType, x: Any) -> bool:
    try:
        slot.__get__(x)
    except AttributeError:
        return False
    return True


def _give(x: Any, held: Mapping[str, Any], members: Mapping[str, Any]) -> None:
    """Set attributes where they are kept: slots and fields of built-in classes through their descriptors."""
    own = _dict_of(x)
    for name, value in held.items():
        member = members.get(name)
        if isinstance(member, MemberDescriptorType):
            member.__set__(x, value)
        elif own is not None:
            own[name] = value
        else:
            raise LookupError(f"{_class_name(type(x))} has no attribute {name}")
