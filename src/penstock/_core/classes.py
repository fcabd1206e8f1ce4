"""Classes of data by name: what a serialized value may bring back to life.

A name is found as pickle finds it, by importing its module, but never by calling anything: no `__getattr__` of a
module, no descriptor of a class. A module that is not loaded is imported only if its source, which is read first,
defines something of that name that can be a class of data.
"""

from __future__ import annotations

import ast
import dataclasses
import enum
import importlib
import importlib.machinery
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from penstock._core.containers import inherited, is_model, namespace


def name_of(cls: type) -> str:
    """The name under which `find` finds the class; raises LookupError if it does not, and for no class of data."""
    module, qualname = cls.__module__, cls.__qualname__
    if not is_data(cls):
        raise LookupError(f"{module}.{qualname} is no class of data")
    loaded = sys.modules.get(module)
    if loaded is None or not _is_dotted(qualname) or _inside(loaded, qualname) is not cls:
        raise LookupError(f"the class {module}.{qualname} cannot be found by its name")
    return f"{module}:{qualname}"


def find(name: str) -> type:
    """The class of data with this name; raises LookupError if there is none, and what importing its module raises."""
    module, _, qualname = name.partition(":")
    if not (_is_dotted(module) and _is_dotted(qualname)):
        raise LookupError(f"{name!r} is no name of a class")
    found = _inside(_module(module, qualname.partition(".")[0]), qualname)
    if not isinstance(found, type) or not is_data(found):
        raise LookupError(f"there is no class of data {name}")
    return found


def is_data(cls: type) -> bool:
    return (
        isinstance(cls, enum.EnumType)
        or issubclass(cls, BaseException)
        or is_model(cls)
        or is_named_tuple(cls)
        or "__dataclass_fields__" in inherited(cls)
    )


def is_named_tuple(cls: type) -> bool:
    fields = inherited(cls).get("_fields")
    return issubclass(cls, tuple) and type(fields) is tuple and all(type(field) is str for field in fields)


def is_dataclass(cls: type) -> bool:
    return dataclasses.is_dataclass(cls)


def _is_dotted(name: str) -> bool:
    return all(part.isidentifier() for part in name.split("."))


def _inside(module: ModuleType, qualname: str) -> Any:
    first, *rest = qualname.split(".")
    found = vars(module).get(first)
    for part in rest:
        found = namespace(found).get(part) if isinstance(found, type) else None
    return found


def _module(name: str, wanted: str) -> ModuleType:
    if name in sys.modules:
        return sys.modules[name]
    if not {wanted, "*"} & _defined(name):
        raise LookupError(f"the module {name} is not loaded, and defines no class of data {wanted}")
    return importlib.import_module(name)


def _defined(module: str) -> frozenset[str]:
    """What the source of a module defines, on its outermost level, that may be classes of data; without importing it.

    Classes of data have a base, a metaclass or a decorator, or are made by a call: `Point = namedtuple(...)`. Others
    come from the module that really defines them, and say that they are of this one; "*" if that may be any.
    """
    spec = _spec(module)
    source = getattr(spec.loader, "get_source", lambda _: None)(module) if spec is not None else None
    return frozenset(_definitions(ast.parse(source).body)) if source else frozenset()


def _spec(module: str) -> importlib.machinery.ModuleSpec | None:
    """Not `importlib.util.find_spec`, which imports the packages that the module is in."""
    path, spec = None, None
    parts = module.split(".")
    for length in range(1, len(parts) + 1):
        name = ".".join(parts[:length])
        finders = (getattr(finder, "find_spec", lambda *_: None) for finder in sys.meta_path)
        spec = next(filter(None, (find_spec(name, path) for find_spec in finders)), None)
        if spec is None:
            return None
        path = spec.submodule_search_locations
    return spec


def _definitions(statements: list[ast.stmt]) -> Iterator[str]:
    for statement in statements:
        match statement:
            case ast.ClassDef(name=name) if statement.bases or statement.keywords or statement.decorator_list:
                yield name
            case ast.ClassDef(name=name, body=body) if any(isinstance(inner, ast.ClassDef) for inner in body):
                yield name  # a class of data may be inside
            case ast.Assign(targets=targets, value=ast.Call()):
                yield from (target.id for target in targets if isinstance(target, ast.Name))
            case ast.ImportFrom(names=names):
                yield from (alias.asname or alias.name for alias in names)
            case ast.If(body=body, orelse=orelse) | ast.Try(body=body, orelse=orelse):
                handlers = statement.handlers if isinstance(statement, ast.Try) else []
                yield from _definitions([*body, *orelse, *(part for handler in handlers for part in handler.body)])
            case _:
                pass
