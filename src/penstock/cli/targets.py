"""What a TARGET is: a flow, named by the file or the module that defines it.

A file is executed as `python file.py` would, as the main program of this process, except for what it has under
`if __name__ == "__main__":`. So all that depends on being the main program is the same either way: under which names
tasks and results are recorded, that functions and classes of the script travel to workers by value, and which class
the values of an earlier run are of. Importing it under its own name would make a difference in each of these.
"""

from __future__ import annotations

import ast
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

import click

from penstock import _raising, calls
from penstock.cli.common import NotFound
from penstock.cli.places import is_file, split
from penstock.definitions import Definition
from penstock.flows import Flow

_MAIN = "__main__"


def load(target: str) -> Flow[..., Any]:
    """The flow that `target` means. What defines it becomes the main program of this process.

    Raises `NotFound` if there is no such file, module or flow, a usage error if it cannot be loaded or if the target
    could mean several flows.
    """
    place, name = split(target)
    if is_file(place):
        module = load_script(place)
    else:
        module = load_module(place)
        sys.modules[_MAIN] = module
    flows = _flows_of(module)
    return _named(module, place, name, flows) if name else _only(place, flows)


# --- files ------------------------------------------------------------------------------------------------------


def load_script(path: str) -> ModuleType:
    """Execute a script as the main program, but for what is under its main guard.

    Raises `NotFound`, or a usage error if the script cannot be executed or starts a flow.
    """
    path = os.path.abspath(path)
    module = ModuleType(_MAIN)
    module.__file__ = path
    with _refusing_flows(path), _loading(path):
        code = _without_guard(path)
        sys.modules[_MAIN] = module
        sys.argv[:] = [path]
        sys.path.insert(0, os.path.dirname(path))
        exec(code, module.__dict__)
    return module


def _without_guard(path: str) -> Any:
    try:
        with open(path, "rb") as file:
            tree = ast.parse(file.read(), path)
    except OSError as error:
        raise NotFound(f"{path}: {error.strerror}") from error
    tree.body = [kept for statement in tree.body for kept in _kept(statement)]
    return compile(tree, path, "exec", dont_inherit=True)


def _kept(statement: ast.stmt) -> list[ast.stmt]:
    if isinstance(statement, ast.If) and any(map(_is_guard, ast.walk(statement.test))):
        return statement.orelse
    return [statement]


def _is_guard(test: ast.AST) -> bool:
    """Whether it is `__name__ == "__main__"`, either way round."""
    if not (isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.Eq)):
        return False
    sides = [test.left, *test.comparators]
    named = any(isinstance(side, ast.Name) and side.id == "__name__" for side in sides)
    return named and any(isinstance(side, ast.Constant) and side.value == _MAIN for side in sides)


@contextmanager
def _refusing_flows(path: str) -> Iterator[None]:
    """A flow that the script starts by itself would run a second time when it is called."""
    calls.refusal = (
        f'{os.path.basename(path)} starts a flow while it is loaded: put that under\n\n    if __name__ == "{_MAIN}":\n'
    )
    try:
        yield
    finally:
        calls.refusal = None


@contextmanager
def _loading(path: str) -> Iterator[None]:
    try:
        yield
    except (click.ClickException, KeyboardInterrupt):
        raise
    except BaseException as error:  # SystemExit included: `load` has asked for a flow
        _raising.leave(error)
        traceback.print_exception(error)
        raise click.UsageError(f"{path} cannot be loaded{_cure(error)}") from error


def _cure(error: BaseException) -> str:
    if isinstance(error, ImportError) and "relative import" in str(error):
        return ": it is part of a package. Name it as package.module:flow"
    return ""


# --- modules ----------------------------------------------------------------------------------------------------


def load_module(name: str) -> ModuleType:
    """Import a module, also from the working directory. Raises `NotFound`; a usage error if that fails."""
    add_to_path(os.getcwd())
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise click.UsageError(f"module {name!r} cannot be imported: {error}") from error
        hint = f". If it is a file, type {name}.py" if os.path.isfile(f"{name}.py") else ""
        raise NotFound(f"there is no module {error.name!r}{hint}") from error
    except Exception as error:
        _raising.leave(error)
        traceback.print_exception(error)
        raise click.UsageError(f"module {name!r} cannot be imported") from error


def add_to_path(directory: str) -> None:
    """Let imports look in a directory first."""
    if directory not in sys.path:
        sys.path.insert(0, directory)


# --- flows ------------------------------------------------------------------------------------------------------


def _flows_of(module: ModuleType) -> dict[str, Flow[..., Any]]:
    """The module's flows by the names that it has for them: its own, if it has any, else those that it imports."""
    names: dict[int, str] = {}
    for name, value in vars(module).items():
        if isinstance(value, Flow):
            names.setdefault(id(value), name)
    flows = {name: vars(module)[name] for name in names.values()}
    own = {name: flow for name, flow in flows.items() if flow.__module__ == module.__name__}
    return own or flows


def _only(place: str, flows: dict[str, Flow[..., Any]]) -> Flow[..., Any]:
    if not flows:
        raise NotFound(f"{place} has no flow: no function of it has the decorator @flow")
    if len(flows) > 1:
        targets = "".join(f"\n  {place}:{name}" for name in flows)
        raise click.UsageError(f"{place} has several flows. Name one of them:{targets}")
    return next(iter(flows.values()))


def _named(module: ModuleType, place: str, name: str, flows: dict[str, Flow[..., Any]]) -> Flow[..., Any]:
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    if isinstance(found, Flow):
        return found
    by_name = [flow for flow in flows.values() if flow.name == name]
    if by_name:
        return by_name[0]
    if found is not None:
        kind = found.kind if isinstance(found, Definition) else type(found).__name__
        raise click.UsageError(f"{name!r} of {place} is no flow, but a {kind}")
    raise NotFound(f"{place} has no flow {name!r}; it has {', '.join(flows) or 'none'}")
