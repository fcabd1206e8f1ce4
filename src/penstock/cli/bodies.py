"""Which tasks and flows the body of a flow calls, and whose results go into which, by its source.

Nothing is executed, so this is what may happen: both ways of each condition, loops more than once, whatever is in a
container as if all of it were taken out. What is followed: names, containers, unpacking, attributes and methods of
what was made from results, comprehensions, and plain functions whose source is at hand.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from penstock.cli.drawing import SOURCE, Edge, Graph, Node
from penstock.cli.sources import Callee, Function, Module, flow_in

_WAYS = ("submit", "map", "imap")
_DEEPEST = 8  # plain functions that call each other

Sources = frozenset[str]
"""Ids of the nodes whose results a value may come from."""
_NONE: Sources = frozenset()


def graph_of_source(target: str, *, each: bool) -> Graph:
    """With `each`, a node for each place of a call; else one for each task or flow."""
    flow, title = flow_in(target)
    graph = Graph(title, SOURCE)
    root = Node("0", "flow", flow.name, None, facts={"lines": [], "ways": []})
    graph.nodes[root.id] = root
    if flow.function is not None:
        _Body(_Drawing(graph, each), flow.module).read(flow.function.body)
    for node in graph.nodes.values():
        ways = [way for way in ("map", "imap") if way in node.facts["ways"]]
        places = len(node.facts["lines"])
        node.note = ", ".join([*ways, *([f"{places} places"] if places > 1 else [])])
    return graph


@dataclass(slots=True)
class _Drawing:
    graph: Graph
    each: bool
    known: dict[tuple[object, ...], str] = field(default_factory=dict)
    open: list[Function] = field(default_factory=list)  # plain functions that are being read

    def node(self, callee: Callee, way: str, call: ast.Call) -> Node:
        place = (call.lineno, call.col_offset) if self.each else ()
        node_id = self.known.setdefault(
            (callee.module.path, callee.kind, callee.name, *place), str(len(self.known) + 1)
        )
        facts: dict[str, list[Any]] = {"lines": [], "ways": []}
        node = self.graph.nodes.setdefault(node_id, Node(node_id, callee.kind, callee.name, "0", facts=facts))
        for fact, value in (("lines", call.lineno), ("ways", way)):
            if value not in node.facts[fact]:
                node.facts[fact].append(value)
        return node


class _Body:
    """One body, or the body of a plain function that it calls."""

    def __init__(self, drawing: _Drawing, module: Module) -> None:
        self._drawing = drawing
        self._module = module
        self._values: dict[str, Sources] = {}
        self._callees: dict[str, Callee] = {}  # that local names stand for
        self._maybe = 0  # conditions and loops around
        self.returned = _NONE

    def read(self, body: Iterable[ast.stmt]) -> None:
        for statement in body:
            self._statement(statement)

    # --- statements ---

    def _statement(self, statement: ast.stmt) -> None:
        match statement:
            case ast.Assign(targets=targets, value=value):
                self._assign(targets, value)
            case ast.AnnAssign(target=target, value=ast.expr() as value):
                self._assign([target], value)
            case ast.AugAssign(target=target, value=value):
                with self._perhaps():
                    self._bind(target, self._sources(value))
            case ast.Return(value=value):
                self.returned |= self._sources(value)
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                self._callees[statement.name] = self._module.defined(statement)
            case ast.For() | ast.AsyncFor() | ast.While():
                self._loop(statement)
            case ast.With(items=items, body=body) | ast.AsyncWith(items=items, body=body):
                for item in items:
                    self._bind(item.optional_vars, self._sources(item.context_expr))
                self.read(body)
            case ast.ClassDef():
                pass
            case _:
                with self._perhaps():
                    self._parts(statement)

    def _assign(self, targets: list[ast.expr], value: ast.expr) -> None:
        callee = self._callee(value)
        if callee is not None and isinstance(targets[0], ast.Name):
            self._callees[targets[0].id] = callee
            return
        if (
            isinstance(targets[0], ast.Tuple)
            and isinstance(value, ast.Tuple)
            and len(targets[0].elts) == len(value.elts)
        ):
            for target, part in zip(targets[0].elts, value.elts, strict=True):
                self._assign([target], part)
            return
        sources = self._sources(value)
        for target in targets:
            self._bind(target, sources)

    def _loop(self, loop: ast.For | ast.AsyncFor | ast.While) -> None:
        with self._perhaps():
            for _ in range(2):  # what one round makes may go into the next
                if isinstance(loop, ast.While):
                    self._sources(loop.test)
                else:
                    self._bind(loop.target, self._sources(loop.iter))
                self.read(loop.body)
            self.read(loop.orelse)

    def _parts(self, node: ast.AST) -> None:
        """Whatever is inside a statement of which nothing particular is known: an if, a try, an expression."""
        for part in ast.iter_child_nodes(node):
            if isinstance(part, ast.stmt):
                self._statement(part)
            elif isinstance(part, ast.expr):
                self._sources(part)
            else:
                self._parts(part)

    @contextmanager
    def _perhaps(self) -> Iterator[None]:
        self._maybe += 1
        yield
        self._maybe -= 1

    def _bind(self, target: ast.expr | None, sources: Sources) -> None:
        match target:
            case ast.Name(id=name):
                self._callees.pop(name, None)
                self._values[name] = (self._values.get(name, _NONE) if self._maybe else _NONE) | sources
            case ast.Tuple(elts=parts) | ast.List(elts=parts):
                for part in parts:
                    self._bind(part, sources)
            case ast.Starred(value=inner):
                self._bind(inner, sources)
            case ast.Attribute(value=inner) | ast.Subscript(value=inner):
                self._add_to(inner, sources)

    def _add_to(self, container: ast.expr, sources: Sources) -> None:
        """Something is put into what a name stands for."""
        while isinstance(container, ast.Attribute | ast.Subscript):
            container = container.value
        if isinstance(container, ast.Name) and sources:
            self._values[container.id] = self._values.get(container.id, _NONE) | sources

    # --- expressions ---

    def _sources(self, expression: ast.AST | None) -> Sources:
        match expression:
            case None:
                return _NONE
            case ast.Name(id=name):
                return self._values.get(name, _NONE)
            case ast.Call():
                return self._call(expression)
            case ast.NamedExpr(target=target, value=value):
                sources = self._sources(value)
                self._bind(target, sources)
                return sources
            case ast.ListComp(elt=item) | ast.SetComp(elt=item) | ast.GeneratorExp(elt=item):
                return self._comprehended(expression.generators, [item])
            case ast.DictComp(key=key, value=value):
                return self._comprehended(expression.generators, [key, value])
            case ast.IfExp(test=test, body=one, orelse=other):
                self._sources(test)
                return self._all([one, other])
            case ast.Yield(value=value) | ast.YieldFrom(value=value):
                self.returned |= self._sources(value)
                return _NONE
        return self._all(ast.iter_child_nodes(expression))

    def _comprehended(self, generators: list[ast.comprehension], made: list[ast.expr]) -> Sources:
        with self._perhaps():
            for generator in generators:
                self._bind(generator.target, self._sources(generator.iter))
                self._all(generator.ifs)
            return self._all(made)

    def _all(self, expressions: Iterable[ast.AST]) -> Sources:
        return _NONE.union(*[self._sources(expression) for expression in expressions])

    def _callee(self, expression: ast.expr) -> Callee | None:
        if isinstance(expression, ast.Name) and (expression.id in self._callees or expression.id in self._values):
            return self._callees.get(expression.id)
        return self._module.callee(expression)

    def _call(self, call: ast.Call) -> Sources:
        way, target = "call", call.func
        if isinstance(target, ast.Attribute) and target.attr in _WAYS:
            way, target = target.attr, target.value
        callee = self._callee(target)
        if callee is None and way != "call" and self._module.is_unknown(target):
            callee = Callee("task", ast.unparse(target).rpartition(".")[2], None, self._module)
        if callee is not None and callee.kind != "function":
            return self._node(callee, way, call)
        if callee is not None and callee.function is not None and way == "call":
            return self._inside(callee, callee.function, call)
        given = self._all([*call.args, *call.keywords])
        if isinstance(call.func, ast.Attribute):  # `found.append(one)`
            self._add_to(call.func.value, given)
        return given | self._sources(call.func)

    def _node(self, callee: Callee, way: str, call: ast.Call) -> Sources:
        arguments = [(self._sources(argument), "data") for argument in call.args]
        for keyword in call.keywords:
            kind = "wait_for" if keyword.arg == "wait_for" else "data"
            arguments.append((self._sources(keyword.value), kind))
        node = self._drawing.node(callee, way, call)
        for sources, kind in arguments:
            for source in sources:
                self._drawing.graph.edges[Edge(source, node.id, kind)] = 1
        return frozenset((node.id,))

    def _inside(self, callee: Callee, function: Function, call: ast.Call) -> Sources:
        """The body of a plain function, with what it is given."""
        given = [self._sources(argument) for argument in call.args]
        named = {keyword.arg: self._sources(keyword.value) for keyword in call.keywords}
        everything = _NONE.union(*given, *named.values())
        if function in self._drawing.open or len(self._drawing.open) >= _DEEPEST:
            return everything
        body = _Body(self._drawing, callee.module)
        if self._callees.get(callee.name) is callee:  # it sees the names around it
            body._values.update(self._values)
            body._callees.update(self._callees)
        spread = None in named or any(isinstance(argument, ast.Starred) for argument in call.args)
        body._receive(function.args, given, named, everything if spread else None)
        self._drawing.open.append(function)
        body.read(function.body)
        self._drawing.open.pop()
        return body.returned

    def _receive(
        self, parameters: ast.arguments, given: list[Sources], named: dict[str | None, Sources], spread: Sources | None
    ) -> None:
        """Bind parameters. `spread`: with `*` or `**` in the call, any of them may be anything."""
        by_place = [*parameters.posonlyargs, *parameters.args]
        for place, parameter in enumerate([*by_place, *parameters.kwonlyargs]):
            positional = given[place] if place < min(len(given), len(by_place)) else _NONE
            sources = named.get(parameter.arg, positional) if spread is None else spread
            self._values[parameter.arg] = sources
            self._callees.pop(parameter.arg, None)
        for rest in (parameters.vararg, parameters.kwarg):
            if rest is not None:
                self._values[rest.arg] = _NONE.union(*given, *named.values())
