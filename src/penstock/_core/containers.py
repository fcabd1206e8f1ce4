"""The containers that are searched for futures: how each type is read and rebuilt.

Reading and rebuilding go through the built-in base class or the object's storage, never through methods of a
user's class (`copy.copy` of a subclass aside): those may be slow, raise, validate, or refuse.
"""

from __future__ import annotations

import copy
import dataclasses
import reprlib
import sys
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from types import MemberDescriptorType
from typing import Any

# Read through `type` itself, so that a metaclass cannot interfere.
mro: Callable[[type], tuple[type, ...]] = type.__dict__["__mro__"].__get__
namespace: Callable[[type], Mapping[str, Any]] = type.__dict__["__dict__"].__get__


def is_model(cls: type) -> bool:
    """Whether `cls` is a pydantic model class; does not import pydantic."""
    model = getattr(sys.modules.get("pydantic.main"), "BaseModel", None)
    return model is not None and any(base is model for base in mro(cls))


def inherited(cls: type) -> dict[str, Any]:
    """Return what the class and its bases define, without asking the class itself."""
    found: dict[str, Any] = {}
    for base in reversed(mro(cls)):
        found.update(namespace(base))
    return found


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Kind:
    """How containers of one type are read and rebuilt.

    Kinds whose parts have names read as an alternation of name and part, as `dict` does.
    """

    contents: Callable[[Any], Iterable[Any]]
    # Puts the parts into the shell; if there is none, makes a new container out of (original, parts).
    fill: Callable[[Any, list[Any]], Any]
    # Makes a new, still empty one: circular references need something to point to.
    shell: Callable[[Any], Any] | None = None
    step: Callable[[list[Any], int], str] = lambda _parts, index: f"[{index}]"  # a part's place, for messages
    converts: bool = False  # rebuilt even if nothing inside is replaced


def _pairs(parts: list[Any]) -> Iterator[tuple[Any, Any]]:
    return zip(parts[::2], parts[1::2], strict=True)


def _item_step(parts: list[Any], index: int) -> str:
    if index % 2 == 0:
        return ".keys()"
    key = parts[index - 1]
    shown = reprlib.repr(key) if type(key) in (str, int, float, bool, bytes) else f"<{type(key).__name__}>"
    return f"[{shown}]"


def _field_step(parts: list[Any], index: int) -> str:
    return f".{parts[index - 1]}"


def _member_step(_parts: list[Any], _index: int) -> str:
    return "{…}"


def _dict_contents(x: Any) -> Iterable[Any]:
    return chain.from_iterable(dict.items(x))


def _ordered_contents(x: Any) -> Iterable[Any]:
    return chain.from_iterable(OrderedDict.items(x))  # dict.items would miss move_to_end


def _dict_fill(shell: Any, parts: list[Any]) -> None:
    dict.update(shell, _pairs(parts))


def _ordered_fill(shell: Any, parts: list[Any]) -> None:
    for key, value in _pairs(parts):
        OrderedDict.__setitem__(shell, key, value)


_LIST = Kind(list.__iter__, list.extend, lambda _x: [])
AS_LIST = dataclasses.replace(_LIST, converts=True)
_VIEW = dataclasses.replace(_LIST, contents=iter)
DICT = Kind(_dict_contents, _dict_fill, lambda _x: {}, _item_step)

_d: dict[str, str] = {}
_o: OrderedDict[str, str] = OrderedDict()
EXACT: dict[type, Kind] = {
    list: _LIST,
    tuple: Kind(tuple.__iter__, lambda _x, parts: tuple(parts)),
    set: Kind(set.__iter__, set.update, lambda _x: set(), _member_step),
    frozenset: Kind(frozenset.__iter__, lambda _x, parts: frozenset(parts), None, _member_step),
    dict: DICT,
    defaultdict: dataclasses.replace(DICT, shell=lambda x: defaultdict(x.default_factory)),
    OrderedDict: Kind(_ordered_contents, _ordered_fill, lambda _x: OrderedDict(), _item_step),
    deque: Kind(deque.__iter__, deque.extend, lambda x: deque(maxlen=x.maxlen)),
    **dict.fromkeys(map(type, (_d.keys(), _d.values(), _d.items())), _VIEW),
    **dict.fromkeys(map(type, (_o.keys(), _o.values(), _o.items())), _VIEW),
}


# Subclasses are copied whole and refilled through the base class: their own methods may have ideas.


def _twin(x: Any) -> Any:
    twin = copy.copy(x)
    if twin is x:  # so do classes that call themselves immutable: refilling would destroy the caller's object
        raise TypeError(f"copy.copy() of a {type(x).__name__} returns the object itself")
    return twin


def _emptied(x: Any, clear: Callable[[Any], None]) -> Any:
    twin = _twin(x)
    clear(twin)
    return twin


def _copied(base: type, clear: Callable[[Any], None]) -> Kind:
    return dataclasses.replace(EXACT[base], shell=lambda x: _emptied(x, clear))


def _with_attributes(base: Any) -> Kind:
    def build(x: Any, parts: list[Any]) -> Any:
        return _carry_over(x, base.__new__(type(x), parts))

    return dataclasses.replace(EXACT[base], fill=build)


SUBCLASSED: tuple[tuple[type, Kind], ...] = (
    (list, _copied(list, list.clear)),
    (OrderedDict, _copied(OrderedDict, OrderedDict.clear)),
    (dict, _copied(dict, dict.clear)),
    (tuple, _with_attributes(tuple)),
    (set, _copied(set, set.clear)),
    (frozenset, _with_attributes(frozenset)),
    (deque, _copied(deque, deque.clear)),
)


def _slots(cls: type) -> Iterator[tuple[str, MemberDescriptorType]]:
    for base in reversed(mro(cls)):
        for name, member in namespace(base).items():
            if type(member) is MemberDescriptorType:
                yield name, member


def _attributes(x: Any) -> dict[str, Any]:
    try:
        found: dict[str, Any] = object.__getattribute__(x, "__dict__")
    except AttributeError:
        return {}  # slots only
    return found


def _carry_over(x: Any, twin: Any) -> Any:
    """Copy all attributes without running code of the class; frozen classes do not notice."""
    attributes = _attributes(x)
    if attributes:
        _attributes(twin).update(attributes)
    for _, slot in _slots(type(x)):
        try:
            slot.__set__(twin, slot.__get__(x))
        except AttributeError:
            pass  # this slot was never set
    return twin


def dataclass_kind(cls: type) -> Kind:
    names = [field.name for field in dataclasses.fields(cls)]
    slots = dict(_slots(cls))

    def contents(x: Any) -> Iterable[Any]:
        held = _attributes(x)
        for name in names:
            try:
                value = slots[name].__get__(x) if name in slots else held[name]
            except (AttributeError, KeyError):
                continue  # init=False and never set
            yield name
            yield value

    def fill(twin: Any, parts: list[Any]) -> None:
        for name, value in _pairs(parts):
            if name in slots:
                slots[name].__set__(twin, value)
            else:
                _attributes(twin)[name] = value

    return Kind(contents, fill, lambda x: _carry_over(x, object.__new__(type(x))), _field_step)


def _model_extras(x: Any) -> dict[str, Any]:
    try:
        return object.__getattribute__(x, "__pydantic_extra__") or {}
    except AttributeError:
        return {}  # made by something that skipped pydantic's constructors


def _model_contents(x: Any) -> Iterable[Any]:
    return chain.from_iterable(chain(_attributes(x).items(), _model_extras(x).items()))


def _model_fill(twin: Any, parts: list[Any]) -> None:
    fields, extras = _attributes(twin), _model_extras(twin)
    for name, value in _pairs(parts):
        (fields if name in fields else extras)[name] = value


MODEL = Kind(_model_contents, _model_fill, _twin, _field_step)
