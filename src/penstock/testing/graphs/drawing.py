"""Draws flows at random."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from penstock.testing.graphs.bodies import ABORTING, COMPLETING, RAISED, RETURNED, SHAPES
from penstock.testing.graphs.description import ALWAYS, Argument, Graph, Node, Source

T = TypeVar("T")

_OFTEN = ("Cancelled", "Cancelled", "SystemExit")  # few of all deeds end a run so


class Choices(Protocol):
    """Where chance comes from: `random.Random` and Hypothesis can both be it."""

    def __call__(self, options: int, /) -> int:
        """A number below `options`; the smaller, the simpler."""
        ...


def draw_flow(choices: Choices, most: int = 10, *, immediate: bool = False) -> Node:
    """A flow with at most so many nodes below it, at any depth.

    Give `immediate` of a runner's capabilities: one that executes at once executes a synchronous task inside an
    asynchronous one on the event loop, where it may not wait. So there it has nothing to wait for.
    """
    return _Drawing(choices, most, immediate).flow()


@dataclass(frozen=True)
class _Place:
    """The body that nodes are drawn for."""

    depth: int = 0
    is_async: bool = False
    on_loop: bool = False  # on the background loop, as are synchronous bodies inside it that are executed at once


class _Drawing:
    def __init__(self, choices: Choices, most: int, immediate: bool) -> None:
        self._choices = choices
        self._left = most
        self._immediate = immediate

    def _of(self, options: Sequence[T]) -> T:
        return options[self._choices(len(options))]

    def _chance(self, percent: int) -> bool:
        return self._choices(100) >= 100 - percent

    def flow(self) -> Node:
        node = Node(kind="flow", is_async=self._chance(20), called=True)
        node = replace(node, inner=self._graph(_Place(is_async=node.is_async)))
        node = replace(node, deed=self._deed(node, percent=15), until=self._until(), retries=self._retries())
        return replace(node, called=False, forgives=True if self._chance(35) else None)

    # --- graphs -------------------------------------------------------------------------------------------------------

    def _graph(self, place: _Place) -> Graph:
        nodes: list[Node] = []
        number = 1 + self._choices(4 if place.depth else 8)
        while len(nodes) < number and self._left > 0:
            self._left -= 1
            nodes.append(self._node(nodes, place))
        looks_at = tuple(n for n in range(len(nodes)) if self._chance(30)) if self._chance(60) else None
        returnable = [number for number, node in enumerate(nodes) if not node.called]
        returns = self._returned(returnable) if returnable and self._chance(20) else None
        return Graph(tuple(nodes), looks_at, returns)

    def _returned(self, numbers: Sequence[int]) -> Argument:
        shape = self._of(SHAPES)
        number = 1 if shape == "bare" else 1 + self._choices(3)
        return Argument(shape, tuple(Source(self._of(numbers), allowed=self._chance(20)) for _ in range(number)))

    # --- nodes --------------------------------------------------------------------------------------------------------

    def _node(self, earlier: list[Node], place: _Place) -> Node:
        node = self._mapped(earlier) if self._chance(30) else Node()
        node = replace(node, kind="flow" if self._chance(15) else "task", is_async=self._chance(30))
        if not node.is_map and not node.is_async and not place.is_async:
            node = replace(node, called=self._chance(12))
        may_wait = node.kind == "flow" or node.is_async or not place.on_loop
        if may_wait and place.depth < 2 and self._chance(45 if node.kind == "flow" else 15):
            on_loop = self._immediate and node.kind == "task" and node.is_async
            node = replace(node, inner=self._graph(_Place(place.depth + 1, node.is_async, on_loop)))
        node = self._with_items(node)
        if earlier:
            node = self._with_inputs(node, earlier)
        node = replace(node, deed=self._deed(node, percent=40), until=self._until(), retries=self._retries())
        return self._with_options(node)

    def _mapped(self, earlier: Sequence[Node]) -> Node:
        allowed = self._chance(30)
        lists = [number for number, node in enumerate(earlier) if node.items or node.is_map]
        if lists and self._chance(75):
            return Node(over=self._of(lists), map_allowed=allowed)
        number = 1 + self._choices(3)
        elements = [self._source(earlier) if earlier and self._chance(25) else None for _ in range(number)]
        return Node(elements=tuple(elements), map_allowed=allowed)

    def _with_items(self, node: Node) -> Node:
        node = replace(node, is_generator=not node.called and self._chance(12))
        if not node.is_generator and (node.is_map or not self._chance(15)):
            return node
        inner = None if node.inner is None else replace(node.inner, returns=None)  # it has one value to return
        return replace(node, items=1 + self._choices(3), inner=inner)

    def _with_inputs(self, node: Node, earlier: Sequence[Node]) -> Node:
        arguments = tuple(self._argument(earlier) for _ in range(self._choices(3)))
        return replace(node, arguments=arguments, wait_for=self._argument(earlier) if self._chance(15) else None)

    def _argument(self, earlier: Sequence[Node]) -> Argument:
        shape = self._of(SHAPES)
        number = 1 if shape == "bare" else 1 + self._choices(3)
        return Argument(shape, tuple(self._source(earlier) for _ in range(number)), self._chance(15))

    def _source(self, earlier: Sequence[Node]) -> Source:
        number = len(earlier) - 1 - self._choices(len(earlier))
        elements = earlier[number].elements
        element = self._choices(len(elements)) if elements and self._chance(30) else None
        return Source(number, element, self._chance(30))

    def _with_options(self, node: Node) -> Node:
        node = replace(node, tags_around=("around",) if self._chance(10) else (), slow=self._chance(20))
        if node.kind == "flow":
            return replace(node, forgives=self._of((None, None, None, True, False)), own_runner=self._chance(40))
        doers = (self._choices(2),) if node.is_map and self._chance(60) else ()
        return replace(node, doers=doers, picky=self._chance(10), own_tags=("own",) if self._chance(10) else ())

    # --- behaviour ----------------------------------------------------------------------------------------------------

    def _until(self) -> int:
        return 1 + self._choices(2) if self._chance(50) else ALWAYS

    def _retries(self) -> int:
        return self._of((0, 0, 0, 1, 2))

    def _deed(self, node: Node, percent: int) -> str:
        # A body that raises while something below it has not started cancels that: when is a matter of luck. So it
        # waits first; and what a coroutine can wait for without looking at it, or blocking, is not everything.
        waits = node.inner is None or node.inner.looks_at is None or not node.is_async
        if not self._chance(percent) or not waits:
            return "value"
        return self._of([deed for deed in (*RAISED, *RETURNED, *_OFTEN) if _is_fit(deed, node)])


def _is_fit(deed: str, node: Node) -> bool:
    if node.called and deed in ABORTING:
        return False
    if node.is_generator and deed in RETURNED:
        return False
    if deed == "StopIteration":  # Python itself makes something else of it
        return not node.is_async and not node.is_generator
    return not node.items or deed not in COMPLETING  # there is a list if there is anything
