"""Flows as data. A flow is a `Node` of kind "flow"; its `inner` graph has the nodes that its body submits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

ALWAYS = 99  # more attempts than any node has
ROOT = "g"  # what the outermost flow is called; its nodes are "g.0", "g.1", ..., those inside the first "g.0.0", ...


class _Brief:
    """Shows the fields that differ from their defaults: what is left of a flow is to be read, and typed in again."""

    def __repr__(self) -> str:
        told = [(field, getattr(self, field.name)) for field in fields(self)]  # type: ignore[arg-type]
        shown = [f"{field.name}={value!r}" for field, value in told if value != field.default]
        return f"{type(self).__name__}({', '.join(shown)})"


@dataclass(frozen=True, repr=False)
class Source(_Brief):
    """What one place of an argument refers to: an earlier node of the same graph, or one element of its list."""

    node: int
    element: int | None = None
    allowed: bool = False  # under `allow_failure`


@dataclass(frozen=True, repr=False)
class Argument(_Brief):
    """One argument: sources in a container, or a single bare one."""

    shape: str
    sources: tuple[Source, ...]
    allowed: bool = False  # `allow_failure` around the whole


@dataclass(frozen=True, repr=False)
class Node(_Brief):
    """One submission. What it is mapped over, if it is, are `elements`, or the list of the earlier node `over`."""

    kind: str = "task"  # or "flow"
    is_async: bool = False
    is_generator: bool = False
    called: bool = False  # directly, with return_state=True; its State is what others get
    arguments: tuple[Argument, ...] = ()
    wait_for: Argument | None = None
    elements: tuple[Source | None, ...] | None = None  # None stands for some text
    over: int | None = None
    map_allowed: bool = False  # `allow_failure` around what it is mapped over
    items: int = 0  # it gives a list of so many
    deed: str = "value"  # what its attempts do: see `bodies`
    until: int = ALWAYS  # the last attempt that does the deed; later ones return a value
    doers: tuple[int, ...] = ()  # the elements of a map that do it; none: all
    retries: int = 0
    picky: bool = False  # tried again after a ValueError only
    own_tags: tuple[str, ...] = ()
    tags_around: tuple[str, ...] = ()
    forgives: bool | None = None  # of a flow: on_unobserved_failure="warn" or "fail"
    own_runner: bool = False  # of a flow: the runner that is checked, rather than threads
    slow: bool = False
    inner: Graph | None = None

    @property
    def is_map(self) -> bool:
        return self.elements is not None or self.over is not None


@dataclass(frozen=True, repr=False)
class Graph(_Brief):
    """What a body submits, and what it does with the futures."""

    nodes: tuple[Node, ...]
    looks_at: tuple[int, ...] | None = None  # the nodes that it waits for and reads the states of; None: all
    returns: Argument | None = None  # futures that it returns

    @property
    def looked_at(self) -> Sequence[int]:
        return range(len(self.nodes)) if self.looks_at is None else self.looks_at


def misbehaves(node: Node, attempt: int, index: int | None) -> bool:
    """Whether an attempt does the node's deed."""
    concerned = index is None or not node.doers or index in node.doers
    return concerned and node.deed != "value" and attempt <= node.until


def width(nodes: Sequence[Node], number: int) -> int:
    """How many elements the list of a node has, if it comes to be."""
    node = nodes[number]
    if node.over is not None:
        return width(nodes, node.over)
    return node.items if node.elements is None else len(node.elements)
