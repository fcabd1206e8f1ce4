"""What modules define, read from their source: tasks, flows, functions. Nothing is imported or executed."""

from __future__ import annotations

import ast
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import click

from penstock.cli.common import NotFound
from penstock.cli.places import is_file, split

Function = ast.FunctionDef | ast.AsyncFunctionDef
_DECORATORS = {
    **dict.fromkeys(("penstock.task", "penstock.Task", "penstock.tasks.task", "penstock.tasks.Task"), "task"),
    **dict.fromkeys(("penstock.flow", "penstock.Flow", "penstock.flows.flow", "penstock.flows.Flow"), "flow"),
}
_LIBRARIES = ("site-packages", "dist-packages", f"{os.sep}python{sys.version_info[0]}")
_TARGET = re.compile(r".+\.py(:[^:/]+)?|[\w.]+:[^:/]+")


def is_target(text: str) -> bool:
    """Whether it looks like a file or module with a flow, rather than a run."""
    return _TARGET.fullmatch(text) is not None


@dataclass(frozen=True, slots=True, eq=False)
class Callee:
    """Something that a body may call."""

    kind: str  # task, flow, function
    name: str  # as runs of it are called
    function: Function | None  # None: its source is not known
    module: Module


@dataclass(eq=False)
class Module:
    """The source of a module."""

    path: str
    package: str  # that relative imports start from; empty if there is none
    roots: Sequence[str]  # directories in which imports are looked for
    tree: ast.Module
    known: dict[str, Module | None] = field(default_factory=dict)  # modules that were looked for
    _asked: set[str] = field(default_factory=set)  # names: some lead in circles

    def named(self, name: str) -> Callee | None:
        """What the module calls `name`; None if that is nothing that can be called, or nobody knows."""
        bound = self._bindings.get(name)
        if isinstance(bound, Function):
            return self.defined(bound)
        if bound is None or name in self._asked:
            return None
        self._asked.add(name)
        try:
            return self._imported(bound) if isinstance(bound, str) else self.callee(bound)
        finally:
            self._asked.discard(name)

    def flows(self) -> dict[str, Callee]:
        """The module's flows by the names that it has for them: its own, if it has any, else those that it imports."""
        found = {
            name: made for name in self._bindings if (made := self.named(name)) is not None and made.kind == "flow"
        }
        own = {name: made for name, made in found.items() if not isinstance(self._bindings[name], str)}
        return own or found

    def defined(self, function: Function) -> Callee:
        """The task, flow or function that a definition makes."""
        for decorator in function.decorator_list:
            kind = self._kind(decorator)
            if kind is not None:
                return Callee(kind, _given_name(decorator) or _usual_name(kind, function.name), function, self)
        return Callee("function", function.name, function, self)

    def callee(self, expression: ast.expr) -> Callee | None:
        """What an expression stands for: a name, `module.name`, `task(fn)`, `one.with_options(...)`, `self.method`."""
        match expression:
            case ast.Name(id=name):
                return self.named(name)
            case ast.Attribute(attr=attribute):
                dotted = self._dotted(expression)
                return self._methods.get(attribute) if dotted is None else self._imported(dotted)
            case ast.Call(func=ast.Attribute(attr="with_options", value=base)):
                made = self.callee(base)
                given = _given_name(expression)
                return made if made is None or given is None else Callee(made.kind, given, made.function, made.module)
            case ast.Call(func=maker, args=[wrapped, *_]):
                return self._made(expression, maker, wrapped)
        return None

    def _made(self, call: ast.Call, maker: ast.expr, wrapped: ast.expr) -> Callee | None:
        """By `task(fn, ...)` or `task(...)(fn)`."""
        kind, inner = self._kind(maker), self.callee(wrapped)
        if kind is None or inner is None:
            return None
        name = _given_name(call) or _given_name(maker) or _usual_name(kind, inner.name)
        return Callee(kind, name, inner.function, inner.module)

    def _kind(self, decorator: ast.expr) -> str | None:
        maker = decorator.func if isinstance(decorator, ast.Call) else decorator
        return _DECORATORS.get(self._dotted(maker) or "")

    def _dotted(self, expression: ast.expr) -> str | None:
        """What an imported name stands for: `penstock.task` for `ps.task` after `import penstock as ps`."""
        if isinstance(expression, ast.Attribute):
            before = self._dotted(expression.value)
            return None if before is None else f"{before}.{expression.attr}"
        bound = self._bindings.get(expression.id) if isinstance(expression, ast.Name) else None
        return bound if isinstance(bound, str) else None

    @cached_property
    def _bindings(self) -> dict[str, Function | ast.expr | str]:
        """What the names of the module stand for: definitions, expressions, and the full names of imported things."""
        return dict(_bindings(self.tree.body, self.package))

    @cached_property
    def _methods(self) -> dict[str, Callee]:
        """Tasks and flows that are defined in classes, by name: an object's class is not known."""
        classes = [node for node in ast.walk(self.tree) if isinstance(node, ast.ClassDef)]
        functions = [node for found in classes for node in found.body if isinstance(node, Function)]
        return {node.name: made for node in functions if (made := self.defined(node)).kind != "function"}

    def _imported(self, dotted: str) -> Callee | None:
        """What is imported by this full name; None if the module's source is not found."""
        place, _, name = dotted.rpartition(".")
        module = self.other(place) if place else None
        return None if module is None else module.named(name)

    def other(self, dotted: str) -> Module | None:
        if dotted not in self.known:
            self.known[dotted] = None  # for modules that import each other
            self.known[dotted] = next(_found(dotted, self.roots, self.known), None)
        return self.known[dotted]

    def is_unknown(self, expression: ast.expr) -> bool:
        """Whether it is imported from where nobody looks."""
        dotted = self._dotted(expression)
        return dotted is not None and "." in dotted and self.other(dotted.rpartition(".")[0]) is None


def _bindings(body: Sequence[ast.stmt], package: str) -> Iterator[tuple[str, Function | ast.expr | str]]:
    for statement in body:
        match statement:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                yield statement.name, statement
            case ast.Import(names=names):
                yield from (
                    (a.asname or a.name.partition(".")[0], a.name if a.asname else a.name.partition(".")[0])
                    for a in names
                )
            case ast.ImportFrom(names=names):
                place = _place(statement, package)
                yield from ((alias.asname or alias.name, f"{place}.{alias.name}") for alias in names)
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                yield name, value
            case ast.If() | ast.Try() | ast.With():
                yield from _bindings(
                    [node for node in ast.iter_child_nodes(statement) if isinstance(node, ast.stmt)], package
                )


def _place(statement: ast.ImportFrom, package: str) -> str:
    if not statement.level:
        return statement.module or ""
    parts = package.split(".")
    above = parts[: len(parts) - statement.level + 1]
    return ".".join([*above, *filter(None, [statement.module])])


def _given_name(call: ast.expr) -> str | None:
    for keyword in call.keywords if isinstance(call, ast.Call) else ():
        if keyword.arg == "name" and isinstance(keyword.value, ast.Constant) and isinstance(keyword.value.value, str):
            return keyword.value.value
    return None


def _usual_name(kind: str, function: str) -> str:
    return function.replace("_", "-") if kind == "flow" else function


# --- finding ----------------------------------------------------------------------------------------------------


def flow_in(target: str) -> tuple[Callee, str]:
    """The flow that a target names, and how to call it for people. Raises `NotFound` or a usage error."""
    place, name = split(target)
    module = _script(place) if is_file(place) else _module(place)
    flows = module.flows()
    chosen = [made for bound, made in flows.items() if name in ("", bound, made.name)]
    if not chosen:
        what = f"no flow {name!r}; it has {', '.join(flows) or 'none'}" if name else "no function with @flow"
        raise NotFound(f"the source of {place} has {what}")
    if len(chosen) > 1:
        raise click.UsageError(
            f"{place} has several flows. Name one of them: {', '.join(f'{place}:{n}' for n in flows)}"
        )
    return chosen[0], f"{place}:{chosen[0].name}"


def _script(path: str) -> Module:
    directory = os.path.dirname(os.path.abspath(path))
    return _parsed(path, "", _roots(directory), {})


def _module(dotted: str) -> Module:
    found = next(_found(dotted, _roots(), {}), None)
    if found is None:
        raise NotFound(f"there is no source of a module {dotted!r}, here or where Python looks for modules")
    return found


def _roots(*first: str) -> list[str]:
    """Where imports are looked for: among the user's own modules, not in what is installed."""
    return [
        *first,
        os.getcwd(),
        *(place for place in sys.path if place and not any(map(place.__contains__, _LIBRARIES))),
    ]


def _found(dotted: str, roots: Sequence[str], known: dict[str, Module | None]) -> Iterator[Module]:
    inner = os.path.join(*dotted.split(".")) if dotted else ""
    for root in roots if inner else ():
        for path, package in ((f"{inner}.py", dotted.rpartition(".")[0]), (os.path.join(inner, "__init__.py"), dotted)):
            if os.path.isfile(os.path.join(root, path)):
                yield _parsed(os.path.join(root, path), package, roots, known)


def _parsed(path: str, package: str, roots: Sequence[str], known: dict[str, Module | None]) -> Module:
    try:
        with open(path, "rb") as file:
            tree = ast.parse(file.read(), path)
    except OSError as error:
        raise NotFound(f"{path}: {error.strerror}") from error
    except (SyntaxError, ValueError) as error:
        raise click.UsageError(f"{path} cannot be read: {error}") from error
    return Module(path, package, roots, tree, known)
