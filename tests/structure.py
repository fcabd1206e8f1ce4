"""Reads the library's source as syntax trees: which module imports what, and how big things are."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

PACKAGE = "penstock"
Function = ast.FunctionDef | ast.AsyncFunctionDef
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
BLOCKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.Try, ast.TryStar, ast.With, ast.AsyncWith, ast.Match)
STATEMENTS = (ast.stmt, ast.excepthandler, ast.match_case)


@dataclass(frozen=True)
class Import:
    """One import statement's target; type-only imports (under TYPE_CHECKING) never become one."""

    target: str  # dotted; for `from a import b`: "a.b"
    line: int
    late: bool  # inside a function


@dataclass(frozen=True)
class Module:
    name: str
    source: str
    is_package: bool = False

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.source)

    @cached_property
    def imports(self) -> tuple[Import, ...]:
        return tuple(self._imports(self.tree, late=False))

    @property
    def functions(self) -> Iterator[Function]:
        return (node for node in ast.walk(self.tree) if isinstance(node, FUNCTIONS))

    def code_lines(self, function: Function) -> int:
        """Lines of the body that are neither docstring, blank nor comment."""
        body = function.body[1:] if ast.get_docstring(function) is not None else function.body
        if not body:
            return 0
        lines = self.source.splitlines()[body[0].lineno - 1 : function.end_lineno]
        return sum(1 for line in lines if line.strip() and not line.strip().startswith("#"))

    def _imports(self, node: ast.AST, late: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno, late) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = self._absolute(node)
            yield from (Import(f"{base}.{alias.name}", node.lineno, late) for alias in node.names)
        late = late or isinstance(node, (*FUNCTIONS, ast.Lambda))
        for child in _run_time_children(node):
            yield from self._imports(child, late)

    def _absolute(self, node: ast.ImportFrom) -> str:
        if node.level == 0:
            return node.module or ""
        parts = self.name.split(".")
        base = parts[: len(parts) - node.level + self.is_package]
        return ".".join([*base, node.module] if node.module else base)


def _run_time_children(node: ast.AST) -> Iterable[ast.AST]:
    if isinstance(node, ast.If) and _is_type_checking(node.test):
        return node.orelse
    return ast.iter_child_nodes(node)


def _is_type_checking(test: ast.expr) -> bool:
    name = test.id if isinstance(test, ast.Name) else getattr(test, "attr", None)
    return name == "TYPE_CHECKING"


@dataclass
class Library:
    """All modules of the package by name."""

    modules: dict[str, Module] = field(default_factory=dict)

    @classmethod
    def read(cls, root: Path) -> Library:
        return cls.of(_load(path, root) for path in sorted(root.rglob("*.py")))

    @classmethod
    def of(cls, modules: Iterable[Module]) -> Library:
        return cls({module.name: module for module in modules})

    def own_imports(self, module: Module) -> Iterator[tuple[str, Import]]:
        """Imports of the package's own modules, each with the module that it reaches."""
        for imported in module.imports:
            if imported.target == PACKAGE or imported.target.startswith(PACKAGE + "."):
                yield self._module_of(imported.target), imported

    def _module_of(self, target: str) -> str:
        """`penstock.states.State` and `penstock.states` both reach the module `penstock.states`."""
        while target not in self.modules and "." in target:
            target = target.rpartition(".")[0]
        return target


def _load(path: Path, root: Path) -> Module:
    parts = [PACKAGE, *path.relative_to(root).with_suffix("").parts]
    is_package = parts[-1] == "__init__"
    return Module(".".join(parts[:-1] if is_package else parts), path.read_text("utf-8"), is_package)


def nesting(function: Function) -> int:
    """Depth of blocks within blocks; `elif` is no deeper than `if`, and nested functions count on their own.

    A match statement needs two indents to say what an if-chain says in one, so the first one is free.
    """
    return _deepest(function.body, depth=0, free_match=True)


def _deepest(nodes: Iterable[ast.AST], depth: int, free_match: bool) -> int:
    return max((_depth(node, depth, free_match) for node in nodes), default=depth)


def _depth(node: ast.AST, depth: int, free_match: bool) -> int:
    if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
        return depth
    if isinstance(node, ast.Match) and free_match:
        free_match = False
    elif isinstance(node, BLOCKS):
        depth += 1
    return _deepest(_parts(node), depth, free_match)


def _parts(node: ast.AST) -> Iterable[ast.AST]:
    """The statements directly inside, with the chain of an `elif` brought up to the level of its `if`."""
    if not isinstance(node, ast.If):
        return (child for child in ast.iter_child_nodes(node) if isinstance(child, STATEMENTS))
    parts = list(node.body)
    while len(node.orelse) == 1 and isinstance(node.orelse[0], ast.If):
        node = node.orelse[0]
        parts += node.body
    return parts + node.orelse
