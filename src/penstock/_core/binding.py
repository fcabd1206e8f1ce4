"""Arguments: bound to parameters, turned back into a call, put into run names, shown in the record.

`Binder` and `short_parameters` run once for every submitted task, so both have a fast road for the usual case
and a general one for the rest.
"""

from __future__ import annotations

import inspect
import re
import sys
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from enum import Enum
from functools import lru_cache
from json.encoder import encode_basestring_ascii
from string import Formatter
from typing import Any

from penstock._core.serial import Reference
from penstock.exceptions import ParameterBindError, ReservedArgumentError

_EMPTY = inspect.Parameter.empty
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_ANYTHING = inspect.Signature(
    [
        inspect.Parameter("args", inspect.Parameter.VAR_POSITIONAL),
        inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD),
    ]
)


class Binder:
    """The parameters of one function. Read-only once built, so threads may share it.

    A callable without a signature (many builtins have none) counts as `(*args, **kwargs)`.
    """

    __slots__ = (
        "_keywords",
        "_label",
        "_only_named",
        "_positional",
        "_template",
        "_var_named",
        "_var_positional",
        "names",
        "signature",
    )

    def __init__(self, fn: Callable[..., Any]) -> None:
        self.signature = _signature(fn)
        self._label = getattr(fn, "__name__", type(fn).__name__)
        by_kind: dict[Any, list[str]] = {}
        for parameter in self.signature.parameters.values():
            by_kind.setdefault(parameter.kind, []).append(parameter.name)
        kinds = inspect.Parameter
        self.names = tuple(self.signature.parameters)
        self._positional = tuple(name for kind in _POSITIONAL for name in by_kind.get(kind, ()))
        self._only_named = tuple(by_kind.get(kinds.KEYWORD_ONLY, ()))
        self._var_positional = next(iter(by_kind.get(kinds.VAR_POSITIONAL, ())), None)
        self._var_named = next(iter(by_kind.get(kinds.VAR_KEYWORD, ())), None)
        # Values in signature order, to be overwritten in place. Those of required parameters never show.
        self._template = {name: parameter.default for name, parameter in self.signature.parameters.items()}
        # A positional-only name may also be a key of **kwargs: such cases are left to `Signature.bind`.
        plain = by_kind.keys() <= {kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY}
        self._keywords = self._expected_keywords() if plain else ()

    def _expected_keywords(self) -> tuple[tuple[frozenset[str], frozenset[str]], ...]:
        """For each number of positional arguments: the names that keywords must give, and that they may."""
        return tuple(
            (frozenset(name for name in rest if self._template[name] is _EMPTY), frozenset(rest))
            for rest in (self.names[given:] for given in range(len(self._positional) + 1))
        )

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Name -> value in signature order, defaults applied.

        `*args` is one entry under its name, a tuple; `**kwargs` likewise, a dict. Arguments that do not fit
        raise `ParameterBindError`.
        """
        given = len(args)
        if given < len(self._keywords):
            needed, possible = self._keywords[given]
            if not (kwargs or needed) or needed <= kwargs.keys() <= possible:
                bound = self._template.copy()
                names = self.names
                for place, value in enumerate(args):
                    bound[names[place]] = value
                bound.update(kwargs)
                return bound
        complete = self._bind(args, kwargs)
        complete.apply_defaults()
        return dict(complete.arguments)

    def bind_partial_names(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """What was given, without defaults, one entry for each argument.

        The elements of `*args` are called `args[0]`, `args[1]`, ..., those of `**kwargs` by their own names.
        The first `len(args)` entries are the positional arguments, in order. A missing or surplus argument
        raises `ParameterBindError`, as in `bind`.
        """
        given: dict[str, Any] = {}
        for name, value in self._bind(args, kwargs).arguments.items():
            if name == self._var_positional:
                given.update((f"{name}[{index}]", item) for index, item in enumerate(value))
            elif name == self._var_named:
                given.update(value)
            else:
                given[name] = value
        return given

    def call(self, parameters: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The positional and keyword arguments that pass `parameters` (complete, as `bind` made them)."""
        args = list(map(parameters.__getitem__, self._positional))
        if self._var_positional is not None:
            args.extend(parameters[self._var_positional])
        kwargs = {}
        for name in self._only_named:
            kwargs[name] = parameters[name]
        if self._var_named is not None:
            kwargs.update(parameters[self._var_named])
        return tuple(args), kwargs

    def _bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> inspect.BoundArguments:
        try:
            return self.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise ParameterBindError(f"{self._label}{self._shown()}: {error}") from None

    def _shown(self) -> str:
        """The signature without annotations, defaults in their short form: it has to fit into a message."""
        shown = [
            parameter.replace(annotation=_EMPTY, default=_shown_default(parameter.default))
            for parameter in self.signature.parameters.values()
        ]
        return str(inspect.Signature(shown))


class _Shown:
    """A value whose repr is a given text."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def _shown_default(default: Any) -> Any:
    return default if default is _EMPTY else _Shown(short(default))


def _signature(fn: Callable[..., Any]) -> inspect.Signature:
    try:
        if sys.version_info >= (3, 14):
            import annotationlib

            # Python 3.14 evaluates annotations here; a name imported only for type checkers must not fail.
            return inspect.signature(fn, annotation_format=annotationlib.Format.FORWARDREF)
        return inspect.signature(fn)
    except (TypeError, ValueError):
        return _ANYTHING


def check_reserved(names: Iterable[str], reserved: Iterable[str]) -> None:
    """Raise `ReservedArgumentError` if a parameter has one of the names that calls use themselves."""
    taken = set(reserved)
    for name in names:
        if name in taken:
            raise ReservedArgumentError(f"{name!r} is a reserved argument name and cannot be used.")


# --- run names ---

NAME_LIMIT = 1000
"""Longest run name, in characters. A template can easily format a whole data set."""


def check_name_option(option: object, label: str) -> None:
    """Raise `TypeError` unless `option` is None, a template or a callable. `label` is the option's name."""
    if option is not None and not isinstance(option, str) and not callable(option):
        raise TypeError(f"Expected string or callable for {label!r}; got {type(option).__name__} instead.")


def render_name(option: str | Callable[..., Any], parameters: Mapping[str, Any], label: str) -> str:
    """The run name that `option` makes of `parameters`, at most `NAME_LIMIT` characters.

    A template is a `str.format` text over the parameters; one that fails raises `ValueError` naming it. A
    callable gets no arguments, or the parameters if it has a parameter of that name; what it raises is
    passed on, and a result that is not a string raises `TypeError`.
    """
    name = _fill_template(option, parameters, label) if isinstance(option, str) else _ask(option, parameters, label)
    return name if len(name) <= NAME_LIMIT else name[: NAME_LIMIT - 1] + "…"


def name_uses(option: str | Callable[..., Any], names: Iterable[str]) -> bool:
    """Whether the values of some of these parameters may be needed for `render_name`."""
    if isinstance(option, str):
        return any(re.search(rf"\{{{name}\b", option) for name in names)
    return _wants_parameters(option)


def _wants_parameters(option: Callable[..., Any]) -> bool:
    return "parameters" in _signature(option).parameters


def _ask(option: Callable[..., Any], parameters: Mapping[str, Any], label: str) -> str:
    name = option(parameters=dict(parameters)) if _wants_parameters(option) else option()
    if not isinstance(name, str):
        raise TypeError(f"The callable given as {label!r} must return a string; it returned {type(name).__name__}.")
    return name


class _Template(Formatter):
    """`str.format` without the way from a parameter into the interpreter, `{x.__class__.__init__...}`."""

    def get_field(self, field_name: str, args: Any, kwargs: Any) -> Any:
        if ".__" in field_name:
            raise AttributeError(f"{field_name!r}: names that start with two underscores are not available")
        return super().get_field(field_name, args, kwargs)

    def get_value(self, key: int | str, args: Any, kwargs: Mapping[str, Any]) -> Any:
        if isinstance(key, int):
            raise LookupError("a field needs the name of a parameter, as in {x}")
        if key not in kwargs:
            raise LookupError(f"no parameter {key!r} (there are: {', '.join(kwargs) or 'none'})")
        return kwargs[key]


def _fill_template(template: str, parameters: Mapping[str, Any], label: str) -> str:
    try:
        return _Template().vformat(template, (), parameters)
    except Exception as error:
        raise ValueError(f"{label} template {template!r} failed: {type(error).__name__}: {error}") from error


# --- values in the record ---
#
# What follows may be handed any object of the user's, on a hot path, so it must not run code of theirs: a
# repr can be slow, fail, block or print a password. Only the reprs of exact built-in and standard library
# types are used; instances are read past their `__getattribute__`; types are told apart by identity, because
# even hashing a class can call its metaclass.

SHORT_LIMIT = 200
"""Longest representation of a value, in characters."""

MASK = "********"
_DEPTH = 4
_SMALL = 10**18
_MOST_BITS = 600  # an int of 180 digits; beyond 4,300 digits str() refuses, long before that nobody reads it

_SECRET = re.compile(
    r"passw(or)?d|passphrase|secret|token(?![a-z])|(api|private|access)_?key|authorization|credential",
    re.IGNORECASE,
)


@lru_cache(maxsize=4096)
def _is_secret(name: str) -> bool:
    return _SECRET.search(name) is not None


def short(value: object) -> str:
    """`value` for a human to recognize, in at most `SHORT_LIMIT` characters.

    Built-in values look as their repr does, shortened; anything unknown is shown by its class:
    `<module.Class>`. Never raises and never runs user code.
    """
    if type(value) is int and -_SMALL < value < _SMALL:
        return repr(value)
    if value is None:
        return "None"
    if type(value) is str and len(value) < SHORT_LIMIT:
        text = repr(value)
        if len(text) <= SHORT_LIMIT:
            return text
    sketch = _Sketch()
    try:
        sketch.add(value, 0)
    except Exception:  # for instance: another thread changed the dict that is being walked
        return _angled(type(value))[:SHORT_LIMIT]
    text = "".join(sketch.parts)
    return text if len(text) <= SHORT_LIMIT else text[: SHORT_LIMIT - 1] + "…"


def short_parameters(parameters: Mapping[str, Any]) -> str:
    """A JSON object, name -> `short(value)`, in ASCII. Values of parameters named like secrets are masked."""
    entries = [
        f"{encode_basestring_ascii(name)}:{encode_basestring_ascii(MASK if _is_secret(name) else short(value))}"
        for name, value in parameters.items()
    ]
    return "{" + ",".join(entries) + "}"


class _Sketch:
    """Text in the making. Walking a value stops when the room is used up, whatever the value's size."""

    __slots__ = ("parts", "room")

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.room = SHORT_LIMIT

    def write(self, text: str) -> None:
        self.parts.append(text)
        self.room -= len(text)

    def add(self, value: Any, depth: int) -> None:
        _DRAW.get(id(type(value)), _draw_other)(self, value, depth)

    def add_entries(self, opening: str, entries: Iterable[tuple[str, Any]], closing: str, depth: int) -> None:
        """Write `opening`, the entries (a label and a value each) and `closing`. The depth bounds cycles."""
        self.write(opening)
        separator = ""
        for label, value in entries if depth < _DEPTH else [("…", _NOTHING)]:
            if self.room < 0:
                return
            self.write(separator + label)
            self.add(value, depth + 1)
            separator = ", "
        self.write(closing)


_Draw = Callable[[_Sketch, Any, int], None]


class _Nothing:
    """The value of an entry that consists of its label."""


_NOTHING = _Nothing()


def _draw_nothing(sketch: _Sketch, value: Any, depth: int) -> None:
    return


def _draw_repr(sketch: _Sketch, value: Any, depth: int) -> None:
    sketch.write(repr(value))


def _draw_int(sketch: _Sketch, value: int, depth: int) -> None:
    bits = value.bit_length()
    sketch.write(repr(value) if bits <= _MOST_BITS else f"<int of {bits} bits>")


def _draw_text(sketch: _Sketch, value: str | bytes | bytearray, depth: int) -> None:
    # A text that is cut here is longer than the whole sketch may be, so the ellipsis comes at the end.
    sketch.write(repr(value[: SHORT_LIMIT + 1]))


def _draw_list(sketch: _Sketch, value: list[Any], depth: int) -> None:
    sketch.add_entries("[", (("", item) for item in value), "]", depth)


def _draw_tuple(sketch: _Sketch, value: tuple[Any, ...], depth: int) -> None:
    sketch.add_entries("(", (("", item) for item in value), ",)" if len(value) == 1 else ")", depth)


def _draw_set(sketch: _Sketch, value: Iterable[Any], depth: int) -> None:
    name = "" if type(value) is set else "frozenset("
    if not value:
        sketch.write(f"{type(value).__name__}()")
    else:
        sketch.add_entries(name + "{", (("", item) for item in value), "})" if name else "}", depth)


def _draw_dict(sketch: _Sketch, value: dict[Any, Any], depth: int) -> None:
    sketch.add_entries("{", _dict_entries(value), "}", depth)


def _dict_entries(value: dict[Any, Any]) -> Iterable[tuple[str, Any]]:
    for key, item in value.items():
        secret = type(key) is str and _is_secret(key)
        yield f"{short(key)}: {MASK if secret else ''}", _NOTHING if secret else item


def _draw_range(sketch: _Sketch, value: range, depth: int) -> None:
    bounds = [value.start, value.stop] if value.step == 1 else [value.start, value.stop, value.step]
    sketch.add_entries("range(", (("", bound) for bound in bounds), ")", 0)


def _draw_function(sketch: _Sketch, value: Any, depth: int) -> None:
    sketch.write(_dotted(value.__module__, value.__qualname__))


def _draw_method(sketch: _Sketch, value: types.MethodType, depth: int) -> None:
    sketch.add(value.__func__, depth)


def _draw_class(sketch: _Sketch, value: type, depth: int) -> None:
    sketch.write(_dotted(*_class_names(value)))


def _draw_other(sketch: _Sketch, value: Any, depth: int) -> None:
    kind = type(value)
    module, name = _class_names(kind)
    draw = _STANDARD.get((module, name))
    if draw is not None and getattr(sys.modules.get(module), name, None) is kind:
        draw(sketch, value, depth)
    elif issubclass(kind, type):
        _draw_class(sketch, value, depth)
    elif issubclass(kind, Reference):
        sketch.write(value.shown)
    elif issubclass(kind, Enum):
        member = _attribute(value, "_name_")
        sketch.write(f"{name}.{member}" if type(member) is str else name)
    elif _static(kind, "__dataclass_fields__") is not None:
        sketch.add_entries(f"{name}(", _dataclass_entries(value), ")", depth)
    else:
        _draw_opaque(sketch, value, depth)


def _draw_opaque(sketch: _Sketch, value: Any, depth: int) -> None:
    kind = type(value)
    module, name = _class_names(kind)
    if (module.partition(".")[0], name) in _ARRAYS:
        _draw_array(sketch, value, depth)
    elif module == "numpy" and issubclass(kind, sys.modules["numpy"].generic):
        plain = value.item()  # a numpy scalar as Python's own; the few that have none answer themselves
        sketch.add(plain, depth) if type(plain) is not kind else sketch.write(_angled(kind))
    else:
        sketch.write(_angled(kind))


def _dataclass_entries(value: Any) -> Iterable[tuple[str, Any]]:
    for field in fields(type(value)):
        if not field.repr:
            continue
        if _is_secret(field.name):
            yield f"{field.name}={MASK}", _NOTHING
        else:
            yield f"{field.name}=", _attribute(value, field.name)


def _draw_array(sketch: _Sketch, value: Any, depth: int) -> None:
    """The known array classes answer these two without touching their data."""
    sketch.write(f"<{_dotted(*_class_names(type(value)))}")
    for attribute in ("shape", "dtype"):
        found = getattr(value, attribute, None)
        if found is not None:
            sketch.write(f" {attribute}={found}")
    sketch.write(">")


def _draw_moment(sketch: _Sketch, value: Any, depth: int) -> None:
    """A datetime or time. The repr of one asks its time zone, which may be a class of the user's."""
    zone = type(value.tzinfo)
    if _class_names(zone) in _ZONES:
        sketch.write(repr(value))
    else:
        sketch.write(f"{repr(value.replace(tzinfo=None))[:-1]}, tzinfo={_angled(zone)})")


def _draw_fraction(sketch: _Sketch, value: Any, depth: int) -> None:
    sketch.add_entries("Fraction(", [("", value.numerator), ("", value.denominator)], ")", 0)


def _static(kind: type, name: str) -> Any:
    """The class attribute, past metaclass and descriptors; None if there is none."""
    for base in type.__getattribute__(kind, "__mro__"):
        members = type.__getattribute__(base, "__dict__")
        if name in members:
            return members[name]
    return None


def _attribute(value: Any, name: str) -> Any:
    """The instance attribute, past properties, `__getattr__` and the like; `_NOTHING` if there is none."""
    try:
        members = object.__getattribute__(value, "__dict__")
    except AttributeError:
        members = {}
    if name in members:
        return members[name]
    slot = _static(type(value), name)
    return slot.__get__(value) if type(slot) is types.MemberDescriptorType else _NOTHING


_QUALNAME = type.__dict__["__qualname__"]
_MODULE = type.__dict__["__module__"]


def _class_names(kind: type) -> tuple[str, str]:
    """Module and qualified name, past a metaclass that answers otherwise."""
    module = _MODULE.__get__(kind)
    return (module if type(module) is str else "?"), _QUALNAME.__get__(kind)


def _dotted(module: object, name: str) -> str:
    return f"{module}.{name}" if type(module) is str else name


def _angled(kind: type) -> str:
    return f"<{_dotted(*_class_names(kind))}>"


_DRAW: dict[int, _Draw] = {
    id(kind): draw
    for draw, kinds in {
        _draw_nothing: (_Nothing,),
        _draw_repr: (type(None), bool, float, complex, type(...), type(NotImplemented)),
        _draw_int: (int,),
        _draw_text: (str, bytes, bytearray),
        _draw_list: (list,),
        _draw_tuple: (tuple,),
        _draw_set: (set, frozenset),
        _draw_dict: (dict,),
        _draw_range: (range,),
        _draw_function: (types.FunctionType, types.BuiltinFunctionType),
        _draw_method: (types.MethodType,),
        _draw_class: (type,),
    }.items()
    for kind in kinds
}
"""By the id of the class: see above for why not by the class. These classes are never freed."""

# By name, so that none of these modules has to be loaded.
_STANDARD: dict[tuple[str, str], _Draw] = {
    ("datetime", "date"): _draw_repr,
    ("datetime", "timedelta"): _draw_repr,
    ("datetime", "timezone"): _draw_repr,
    ("datetime", "datetime"): _draw_moment,
    ("datetime", "time"): _draw_moment,
    ("zoneinfo", "ZoneInfo"): _draw_repr,
    ("decimal", "Decimal"): _draw_repr,
    ("fractions", "Fraction"): _draw_fraction,
    ("uuid", "UUID"): _draw_repr,
    **{
        (module, name): _draw_repr
        for module in ("pathlib", "pathlib._local")
        for name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")
    },
}
_ZONES = {("builtins", "NoneType"), ("datetime", "timezone"), ("zoneinfo", "ZoneInfo")}
_ARRAYS = {
    ("numpy", "ndarray"),
    ("pandas", "DataFrame"),
    ("pandas", "Series"),
    ("polars", "DataFrame"),
    ("polars", "Series"),
    ("torch", "Tensor"),
}
