"""What the code of a function is made of, as digests: its body, defaults, closure, and what it refers to.

*Followed* is what the function's own module defines: functions and classes by what they say, variables by their
values, from there on to whatever those refer to. Other modules are referred to by name only. Names are looked up
where the function would look them up, and in the state they are in: so the digest is that of the code that runs, not
of a file that may have changed.

Three decisions:

- A variable that the followed code itself changes (`seen.append(x)`, `cache[x] = y`, `global n; n += 1`) is state and
  no part of the digest, or a task that counts its calls would never find its own result. Any other variable counts by
  its present value, also a list that somebody else appends to.
- An object that is unhashable as an argument counts here by its type, if its class is defined in the same module also
  by its attributes: a logger or a client among the variables must not forbid caching.
- A digest is worked out once and kept on the function, with what it came from. Each call makes sure that all of that
  is still there: code objects, defaults, cells and variables are compared by identity, what is mutable is digested
  again. The price of a large mutable constant is therefore paid at each call.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from itertools import repeat
from operator import is_
from types import BuiltinFunctionType, CellType, EllipsisType, FunctionType, MethodType, ModuleType, NoneType
from typing import Any

from penstock._core.canonical import (
    KEPT_AT,
    Encoder,
    Unhashable,
    attributes_of,
    combine,
    is_python_class,
    long_digest,
    module_name,
    of_str,
    reference_name,
    short_digest,
    type_name,
)
from penstock._core.containers import namespace
from penstock._core.source import body_of, instructions_of, names_of

_MOST_CLASSES = 256
_MISSING: Any = type("missing", (), {})()
# Values that cannot change, whose identity therefore answers for them.
_CONSTANT = {
    *(NoneType, bool, int, float, complex, str, bytes, EllipsisType, range),
    *(FunctionType, BuiltinFunctionType, ModuleType),
}
# What is in the namespace of a class without having been written there, or comes and goes.
_INCIDENTAL = {
    *(
        "__module__",
        "__dict__",
        "__weakref__",
        "__slotnames__",
        "__doc__",
        "__qualname__",
        "__firstlineno__",
        "__static_attributes__",
    ),
    *("__abstractmethods__", "_abc_impl", "__annotate__", "__annotate_func__", "__annotations_cache__"),
    *("__signature__", "__private_attributes__", "__class_vars__", "__dataclass_params__", KEPT_AT),
}


# What modules know about themselves; it depends on who has imported them, and from where.
_OF_MODULES = {
    *("__name__", "__file__", "__doc__", "__spec__", "__loader__", "__package__", "__path__", "__cached__"),
    *("__builtins__", "__annotations__", "__debug__"),
}
_WRAPPERS = (staticmethod, classmethod, property)


# --- Identity ---


def identity_of(fn: Callable[..., Any], name: str | None = None, *, strict: bool = False) -> str:
    """The name of a function in every process: module and qualified name.

    A script has the name under which it would be imported. What has no name of its own adds what tells it from others:
    lambdas and local functions a digest of their code, partials and callable objects one of what is bound to them.
    If that is unhashable it counts by its type; `strict` raises `Unhashable` instead, for those who must not confuse
    two such objects. `name` is for what has no name at all. The `self` of a method is no part of its identity.
    """
    fn = fn.__func__ if isinstance(fn, MethodType) else fn
    if isinstance(fn, functools.partial):
        return (
            f"{identity_of(fn.func, name, strict=strict)}({_bound_to(fn, (fn.args, fn.keywords), 'partial', strict)})"
        )
    if not _has_own_name(fn):
        return f"{type_name(type(fn))}({_bound_to(fn, fn, name or type(fn).__qualname__, strict)})"
    kept = fn.__dict__.get(KEPT_AT) if isinstance(fn, FunctionType) else None
    if kept is not None and kept.identity and kept.belongs_to(fn):
        return str(kept.identity)
    plain = reference_name(fn)
    return f"{plain}#{code_digest(fn)[:16]}" if "<" in plain else plain


def _has_own_name(fn: Any) -> bool:
    if isinstance(fn, FunctionType | BuiltinFunctionType | type | functools._lru_cache_wrapper):
        return True
    return not is_python_class(type(fn)) and isinstance(getattr(fn, "__name__", None), str)


def _bound_to(fn: Any, state: Any, path: str, strict: bool) -> str:
    if strict:
        return ValueEncoder(fn).digest(state, path)
    return short_digest(_Survey(_home_of(fn)).part(state))


def _home_of(fn: Any) -> str:
    while isinstance(fn, functools.partial):
        fn = fn.func
    return module_name((fn if _has_own_name(fn) else type(fn)).__module__)


# --- Digests ---


def code_parts(fn: Callable[..., Any]) -> dict[str, str]:
    """The parts of the code of `fn` by name: "body", "default x", "closure y", "helper foo", "constant LIMIT"."""
    return dict(_capture(fn).parts)


def code_digest(fn: Callable[..., Any]) -> str:
    """32 hex digits for all parts of the code. Cheap if nothing has changed since the last call."""
    return _capture(fn).digest


class ValueEncoder(Encoder):
    """Encodes arguments: functions and classes count by name and code.

    `bare`: a callable object that may be of any class; it counts by its attributes.
    """

    __slots__ = ("_bare",)

    def __init__(self, bare: Any = None) -> None:
        super().__init__()
        self._bare = bare

    def function(self, value: FunctionType) -> bytes:
        return b"F" + of_str(identity_of(value)) + of_str(code_digest(value))

    def a_class(self, value: type) -> bytes:
        return self.reference(value) + (of_str(code_digest(value)) if is_python_class(value) else b"-")

    def unknown(self, value: Any) -> bytes:
        if value is self._bare and value is not None and is_python_class(type(value)):
            return attributes_of(self, value)
        return super().unknown(value)


class Capture:
    """What is known of the code of `owner`. Pickled, it is what was known then, for the same code elsewhere."""

    __slots__ = ("_home", "_sources", "code", "digest", "identity", "owner", "parts")

    def __init__(self, owner: Any, parts: dict[str, str], identity: str = "", code: bytes = b"") -> None:
        self.owner = owner
        self.parts = parts
        self.digest = combine(*(text for part in sorted(parts.items()) for text in part))
        self.identity = identity  # as the process saw it that this comes from; "" if that is this one
        self.code = code
        self._sources = Sources()
        self._home = ""

    def made_from(self, sources: Sources, home: str) -> Capture:
        self._sources, self._home = sources, home
        return self

    def belongs_to(self, fn: Any) -> bool:
        """Whether this is about `fn`: `functools.wraps` copies it to functions that it says nothing about."""
        if self.owner is None and self.code == instructions_of(fn.__code__):
            self.owner = fn
        return self.owner is fn

    def is_current(self) -> bool:
        if not self._sources.are_the_same():
            return False
        mutable = self._sources.mutable
        if not mutable:
            return True
        survey = _Survey(self._home)
        return all(survey.part(read()) == before for read, before in mutable)

    def __reduce__(self) -> tuple[Any, ...]:
        owner = self.owner
        if not isinstance(owner, FunctionType):
            return Capture, (None, self.parts, self.identity, self.code)
        return Capture, (None, self.parts, self.identity or identity_of(owner), instructions_of(owner.__code__))


def carry(fn: Callable[..., Any]) -> Capture:
    """What `remember` needs in another process, pickled or not, so that `fn` has the same identity and digest there.

    A function that is pickled by value takes it along anyway, if it has been worked out before.
    """
    return _capture(fn)


def remember(fn: Callable[..., Any], carried: Capture) -> None:
    """Believe what another process knew of the code of `fn`, provided that the function is the same here."""
    fn = fn.__func__ if isinstance(fn, MethodType) else fn
    if isinstance(fn, FunctionType):
        fn.__dict__[KEPT_AT] = Capture(None, carried.parts, carried.identity, carried.code)


_classes: dict[type, Capture] = {}


def _capture(fn: Any) -> Capture:
    fn = fn.__func__ if isinstance(fn, MethodType) else fn
    if isinstance(fn, FunctionType):
        kept = fn.__dict__.get(KEPT_AT)
        if kept is None or not (kept.belongs_to(fn) and kept.is_current()):
            kept = fn.__dict__[KEPT_AT] = _Survey(_home_of(fn)).of(fn)
        return kept
    if not isinstance(fn, type):
        return _Survey(_home_of(fn)).of(fn)
    known = _classes.get(fn)
    if known is None or not known.is_current():
        if len(_classes) >= _MOST_CLASSES:
            _classes.clear()
        known = _classes[fn] = _Survey(_home_of(fn)).of(fn)
    return known


# --- What the code refers to ---


class _Survey(Encoder):
    """Goes through everything that a function's code refers to in its module. Encodes code by name, and follows it."""

    __slots__ = ("_changed", "_found", "_queue", "_seen", "_sources", "_variables", "home")

    def __init__(self, home: str) -> None:
        super().__init__()
        self.home = home
        self._seen: dict[int, Any] = {}
        self._queue: list[Any] = []
        self._found: dict[str, set[bytes]] = {}
        self._variables: dict[tuple[int, str], tuple[dict[str, Any], str]] = {}
        self._changed: set[str] = set()  # variables that the code itself changes
        self._sources = Sources()

    def of(self, root: Any) -> Capture:
        if isinstance(root, FunctionType):
            self._seen[id(root)] = root
            self._found |= {name: {data} for name, data in self._function_parts(root).items()}
        else:
            self._found["body"] = {self.part(root)}
        self._follow_all()
        for name in self._changed:
            self._found.pop(f"constant {name}", None)
        self._sources.settle(self._changed)
        parts = {name: short_digest(b"".join(sorted(data))) for name, data in self._found.items()}
        return Capture(root, parts).made_from(self._sources, self.home)

    def _follow_all(self) -> None:
        done = 0
        while self._queue or done < len(self._variables):
            while self._queue:
                self._follow(self._queue.pop())
            for scope, name in list(self._variables.values())[done:]:
                done += 1
                self._follow_variable(scope, name)

    def _follow(self, value: Any) -> None:
        parts = self._class_parts(value) if isinstance(value, type) else self._function_parts(value)
        data = b"".join([of_str(name) + data for name, data in sorted(parts.items())])
        self._found.setdefault(f"helper {value.__qualname__}", set()).add(long_digest(data))

    def _function_parts(self, fn: FunctionType) -> dict[str, bytes]:
        code, sources = fn.__code__, self._sources
        names = names_of(code)
        sources.functions.append((fn, code, fn.__defaults__, _keywords(fn)))
        parts = {"body": body_of(code, fn.__globals__)}
        for name, value in _defaults(fn):
            parts[f"default {name}"] = data = self.part(value)
            sources.add_value(value, data)
        for name, cell in zip(code.co_freevars, fn.__closure__ or (), strict=True):
            if name not in names.changed_cells and name != "__class__":
                value = _content(cell)
                parts[f"closure {name}"] = data = self.part(value)
                sources.add_cell(cell, value, data)
        if module_name(fn.__globals__.get("__name__")) == self.home:
            scope = fn.__globals__
            self._variables |= {(id(scope), name): (scope, name) for name in sorted(names.globals - _OF_MODULES)}
            self._changed |= names.changed_globals
        return parts

    def _class_parts(self, cls: type) -> dict[str, bytes]:
        space, parts = namespace(cls), {"bases": self.part(cls.__bases__)}
        self._sources.spaces.append((space, len(space)))
        for name, member in _members(cls):
            parts[name] = data = self.part(member)
            self._sources.add_name(space, name, member, data)
        return parts

    def _follow_variable(self, scope: dict[str, Any], name: str) -> None:
        value = scope.get(name, _MISSING)
        data = b"" if value is _MISSING else self.part(value)
        self._sources.add_variable(scope, name, value, data)
        # A function or class that is found under its own name says the same as a part of its own.
        is_helper = isinstance(value, FunctionType | type) and value.__qualname__ == name and self._is_home(value)
        if data and not is_helper:
            self._found.setdefault(f"constant {name}", set()).add(data)

    def part(self, value: Any) -> bytes:
        try:
            return self.encode(value)
        except (Unhashable, RuntimeError):
            return self._by_type(value)

    def _is_home(self, value: Any) -> bool:
        return module_name(value.__module__) == self.home

    def _push(self, value: Any) -> None:
        # A local function of another module, a decorator's, can lead back to this one.
        if id(value) not in self._seen and (self._is_home(value) or "<" in value.__qualname__):
            self._seen[id(value)] = value
            self._queue.append(value)

    def function(self, value: FunctionType) -> bytes:
        self._push(value)
        name = self.reference(value)
        return name + body_of(value.__code__, value.__globals__) if b"<" in name else name

    def a_class(self, value: type) -> bytes:
        if is_python_class(value):
            self._push(value)
        return self.reference(value)

    def tag(self, cls: type) -> bytes:
        if is_python_class(cls):
            self._push(cls)
        return super().tag(cls)

    def unknown(self, value: Any) -> bytes:
        cls = type(value)
        if is_python_class(cls) and self._is_home(cls):
            return attributes_of(self, value)
        try:
            return super().unknown(value)
        except Unhashable:
            return self._by_type(value)

    def circular(self, value: Any) -> bytes:
        return b"@" + of_str(type_name(type(value)))

    def too_deep(self, value: Any) -> bytes:
        return self._by_type(value)

    def _by_type(self, value: Any) -> bytes:
        return b"?" + of_str(type_name(type(value)))


def _defaults(fn: FunctionType) -> Iterator[tuple[str, Any]]:
    code, values = fn.__code__, fn.__defaults__ or ()
    yield from zip(code.co_varnames[code.co_argcount - len(values) : code.co_argcount], values, strict=True)
    yield from (fn.__kwdefaults__ or {}).items()


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return _MISSING


def _members(cls: type) -> Iterator[tuple[str, Any]]:
    """What somebody has written into a class, and of what decorators and metaclasses have added what says something."""
    own = namespace(cls)
    is_enum, is_dataclass = "_member_map_" in own, "__dataclass_fields__" in own
    for name, member in list(own.items()):
        if name in _INCIDENTAL or (name == "__annotations__" and not member):
            continue
        if is_enum and name != "_member_map_" and (name.startswith("_") or name in own["_member_map_"]):
            continue
        if name.startswith("__pydantic_") and name != "__pydantic_fields__":
            continue
        if is_dataclass and isinstance(member, FunctionType) and member.__code__.co_filename == "<string>":
            continue  # made from the fields
        yield name, member


# --- Whether it is still so ---

_Reader = Callable[[], Any]


class Sources:
    """The objects that a capture was made from, as they were."""

    __slots__ = ("_variables", "cells", "functions", "mutable", "names", "spaces")

    def __init__(self) -> None:
        self.functions: list[tuple[FunctionType, Any, Any, list[Any]]] = []
        self.spaces: list[tuple[Mapping[str, Any], int]] = []  # of classes, and how many members they had
        self.names: list[tuple[Callable[..., Any], tuple[str, ...], tuple[Any, ...]]] = []
        self.cells: list[tuple[CellType, Any]] = []
        self.mutable: list[tuple[_Reader, bytes]] = []  # identity does not answer for these
        self._variables: list[tuple[Mapping[str, Any], str, Any, bytes]] = []

    def add_value(self, value: Any, data: bytes) -> None:
        if not _is_constant(value):
            self.mutable.append((lambda: value, data))

    def add_cell(self, cell: CellType, value: Any, data: bytes) -> None:
        if _is_constant(value):
            self.cells.append((cell, value))
        else:
            self.mutable.append((functools.partial(_content, cell), data))

    def add_name(self, space: Mapping[str, Any], name: str, value: Any, data: bytes) -> None:
        self._variables.append((space, name, value, data))

    add_variable = add_name

    def settle(self, changed: set[str]) -> None:
        """Sort out the variables, once it is known which of them do not count."""
        tables: dict[int, tuple[Mapping[str, Any], dict[str, Any]]] = {}
        for space, name, value, data in self._variables:
            if isinstance(space, dict) and name in changed:
                continue
            if _is_constant(value):
                tables.setdefault(id(space), (space, {}))[1][name] = value
            else:  # not kept: the object may be large, and somebody may want to be rid of it
                self.mutable.append((functools.partial(space.get, name, _MISSING), data))
        self.names = [(space.get, tuple(table), tuple(table.values())) for space, table in tables.values()]
        self._variables.clear()

    def are_the_same(self) -> bool:
        for fn, code, defaults, keywords in self.functions:
            if fn.__code__ is not code or fn.__defaults__ is not defaults or not _same(_keywords(fn), keywords):
                return False
        for get, names, values in self.names:
            if not all(map(is_, map(get, names, repeat(_MISSING)), values)):
                return False
        for cell, value in self.cells:
            if _content(cell) is not value:
                return False
        return all(len(space) == size for space, size in self.spaces) if self.spaces else True


def _keywords(fn: FunctionType) -> list[Any]:
    return list(fn.__kwdefaults__.values()) if fn.__kwdefaults__ else []


def _same(now: list[Any], before: list[Any]) -> bool:
    return len(now) == len(before) and all(map(is_, now, before))


def _is_constant(value: Any) -> bool:
    cls = type(value)
    if cls is tuple or cls is frozenset:
        return all(map(_is_constant, value))
    return cls in _CONSTANT or value is _MISSING or isinstance(value, type) or cls in _WRAPPERS
