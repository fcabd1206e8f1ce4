"""Futures and States inside arguments: find them once, put their values in their place later.

The walk has two stages. The first answers the common case, "nothing in here", level by level: all containers
of one depth are chained and the distinct types of their elements collected in one pass at C speed, so an
argument of five million ints costs one pass and no Python code per element. Only if an upstream or an
annotation turns up does the second stage build a `_Node` for each container that can lead to one, with a
snapshot of its parts and edges to what must be replaced; containers that turn out to hold nothing are
dropped again. `Inputs.resolve` works on these nodes alone.

Objects of the user are looked at through their type only. No `__eq__`, `__bool__`, `__len__`,
`__getattr__` or `__iter__` of theirs runs while looking, because they may be slow, raise, or lie (mocks,
lazy proxies, arrays). Everything is iterative: depth is limited by memory, not by recursion.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from enum import Enum
from itertools import chain, compress, starmap
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

from penstock import states
from penstock._core.containers import (
    AS_LIST,
    DICT,
    EXACT,
    MODEL,
    SUBCLASSED,
    Kind,
    dataclass_kind,
    inherited,
    is_model,
    mro,
    namespace,
)
from penstock.annotations import Annotation, allow_failure, carries, opaque, quote, strip


class Upstream:
    """Marks what stands for the value of a run: a future, or a list of futures that is not known yet."""

    __slots__ = ()


Source: TypeAlias = Upstream | states.State[Any]


class Link(NamedTuple):
    """One distinct upstream, and how the parameters use it."""

    upstream: Source
    parameter: str  # where it was found first
    required: bool  # used outside allow_failure somewhere: the run cannot start without its value
    allowed: bool  # used under allow_failure somewhere


# What a type means to the walk ------------------------------------------------------------------------


class _Mark(Enum):
    PLAIN = "passed on as it is"
    LOST = "passed on as it is, although it may lead to futures: an error inside wait_for"
    UPSTREAM = "replaced by its value"
    ANNOTATION = "unwrapped"


# Plain names: before Python 3.12 each `_Mark.LOST` costs a call of Python code.
_PASSED, _LOST, _UPSTREAM, _ANNOTATION = _Mark


def _is_lost(cls: type, members: dict[str, Any]) -> bool:
    if any(namespace(base).get("__module__") == "unittest.mock" for base in mro(cls)):
        return False  # has every method there is
    if members.keys() & {"__next__", "__anext__", "__await__"}:
        return True  # iterators, coroutines, asyncio's tasks and futures
    if {"result", "add_done_callback"} <= members.keys():
        return True  # futures of other libraries
    return cls is MappingProxyType or any(base is Mapping for base in mro(cls))


def _classify(cls: type) -> Kind | _Mark:
    if issubclass(cls, Upstream | states.State):
        return _UPSTREAM
    if issubclass(cls, Annotation):
        return _ANNOTATION
    members = inherited(cls)
    for base, kind in SUBCLASSED:
        if issubclass(cls, base):
            return AS_LIST if base is list and members.get("_rebuild_as") is list else kind
    if "__dataclass_fields__" in members:
        return dataclass_kind(cls)
    if is_model(cls):
        return MODEL
    return _LOST if _is_lost(cls, members) else _PASSED


class _Unhashable:
    """Stands for the types in a container if one of them cannot be in a set (`__eq__` in a metaclass)."""


# Annotations send stage one to stage two, which looks at each part.
_FIXED: dict[type, Kind | _Mark] = {**EXACT, _Unhashable: _ANNOTATION}
_KINDS = dict(_FIXED)
_PLAIN: set[type] = set()
_SKIPPED: set[type] = set()  # plain and lost
_FLAT: set[type] = set()  # those and upstreams: no need to look into anything
_REMEMBERED_TYPES = 2_000  # a program that makes classes without end must not fill the memory through us


def _forget() -> None:
    for known in (_PLAIN, _SKIPPED, _FLAT):
        known.clear()
    for cls in _KINDS.keys() - _FIXED.keys():  # not clear(): other threads rely on the fixed ones
        _KINDS.pop(cls, None)


def _kind_of(cls: type) -> Kind | _Mark:
    try:
        return _KINDS[cls]
    except KeyError:
        pass
    except TypeError:
        return _classify(cls)
    if len(_KINDS) >= _REMEMBERED_TYPES:
        _forget()
    kind = _KINDS[cls] = _classify(cls)
    if kind is _PASSED:
        _PLAIN.add(cls)
    if kind is _PASSED or kind is _LOST:
        _SKIPPED.add(cls)
    if isinstance(kind, _Mark) and kind is not _ANNOTATION:
        _FLAT.add(cls)
    return kind


def _types(parts: Iterable[Any]) -> set[type]:
    try:
        return set(map(type, parts))
    except TypeError:
        return {_Unhashable}


def _contents(x: Any) -> Iterable[Any]:
    kind = _kind_of(type(x))
    assert isinstance(kind, Kind)
    return kind.contents(x)


def _opened(types: set[type], skipped: set[type]) -> dict[type, Kind | _Mark]:
    """Return those of the types that are not passed on as they are."""
    opened: dict[type, Kind | _Mark] = {}
    for cls in types - skipped:
        kind = _kind_of(cls)
        if kind is not _PASSED and (kind is not _LOST or skipped is _PLAIN):
            opened[cls] = kind
    return opened


# Stage one: is there anything? --------------------------------------------------------------------------


class _Level:
    """The parts of all containers of one depth, in one line that can be read again."""

    __slots__ = ("_containers",)

    def __init__(self, containers: Iterable[Any]) -> None:
        self._containers = containers

    def __iter__(self) -> Iterator[Any]:
        return chain.from_iterable(map(_contents, self._containers))


def _holds_nothing(values: Iterable[Any]) -> bool:
    """Whether nothing would be replaced in the values, at any depth."""
    seen: dict[int, Any] = {}  # keeps the objects: an id is only good while its object lives
    level = values
    while True:
        types = _types(level)
        opened = _opened(types, _SKIPPED)
        if not opened:
            return True
        for kind in opened.values():
            if isinstance(kind, _Mark) or kind.converts:
                return False
        inner = level
        if len(opened) < len(types):
            inner = compress(level, map(opened.__contains__, map(type, level)))
        fresh = {id(x): x for x in inner if id(x) not in seen}
        seen.update(fresh)
        level = _Level(fresh.values())


# Stage two: where? --------------------------------------------------------------------------------------


class _Node:
    """A container that may have to be rebuilt, as it was when it was walked."""

    __slots__ = ("changed", "edges", "kind", "open", "original", "parents", "parts")

    def __init__(self, original: Any, kind: Kind, parts: list[Any], open: Iterable[int]) -> None:
        self.original = original
        self.kind = kind
        self.parts = parts  # a snapshot, free of annotations once walked
        self.open = iter(open)  # indices of parts not walked yet
        self.edges: list[tuple[int, Any, bool]] = []  # index, upstream or node, whether under allow_failure
        self.parents: list[_Node] = []
        self.changed = kind.converts


def _opened_node(x: Any, kind: Kind, skipped: set[type]) -> _Node | None:
    """Return a node for a container; None if none of its parts needs a look."""
    types = _types(kind.contents(x))
    opened = {} if types <= skipped else _opened(types, skipped)
    if not opened and not kind.converts:
        return None
    parts = list(kind.contents(x))
    indices: Iterable[int] = range(len(parts))
    if _Unhashable not in opened:
        indices = compress(indices, map(opened.__contains__, map(type, parts)))
    return _Node(x, kind, parts, indices)


class _Walk:
    """One walk from a root through everything that is searched."""

    __slots__ = ("_keep_quotes", "_known", "_skipped", "root")

    def __init__(self, root: _Node, *, keep_quotes: bool = False, refuse_lost: bool = False) -> None:
        self.root = root
        self._keep_quotes = keep_quotes
        self._skipped = _PLAIN if refuse_lost else _SKIPPED
        self._known: dict[int, _Node | None] = {}  # by id of the container; None: holds nothing

    def nodes(self) -> list[_Node]:
        """Return the nodes that change, each after what it contains (cycles aside); the root is the last."""
        finished = []
        stack = [self.root]
        while stack:
            child = self._next_child(stack[-1])
            if child is None:
                finished.append(stack.pop())
            else:
                stack.append(child)
        return _pruned(finished)

    def _next_child(self, node: _Node) -> _Node | None:
        for index in node.open:
            value = node.parts[index]
            kind = _kind_of(type(value))
            if kind is _ANNOTATION:
                child = self._unwrap(node, index, value)
            else:
                child = self._follow(node, index, value, kind, False)
            if child is not None:
                return child
        return None

    def _unwrap(self, node: _Node, index: int, value: Annotation[Any]) -> _Node | None:
        wrappers, core = strip(value)
        if carries(wrappers, quote):
            kept = next(w for w in wrappers if isinstance(w, quote)) if self._keep_quotes else core
            node.changed = node.changed or kept is not value
            node.parts[index] = kept
            return None
        node.changed = True
        node.parts[index] = core
        kind = _kind_of(type(core))
        if carries(wrappers, opaque) and kind is not _UPSTREAM:
            return None
        return self._follow(node, index, core, kind, carries(wrappers, allow_failure))

    def _follow(self, node: _Node, index: int, value: Any, kind: Kind | _Mark, allowed: bool) -> _Node | None:
        """Look at one part; return the container there if this is the first time that it is met."""
        if kind is _UPSTREAM:
            node.edges.append((index, value, allowed))
            node.changed = True
        elif isinstance(kind, Kind):
            return self._enter(node, index, value, kind, allowed)
        elif kind is _LOST and self._skipped is _PLAIN:
            place = _shown([*_steps(self.root, node), node.kind.step(node.parts, index)])
            raise TypeError(
                f"{place} is a {type(value).__name__}: futures "
                "that it leads to would not be waited for. Pass the futures themselves, as in wait_for=[*x]"
            )
        return None

    def _enter(self, node: _Node, index: int, x: Any, kind: Kind, allowed: bool) -> _Node | None:
        first = id(x) not in self._known
        if first:
            self._known[id(x)] = _opened_node(x, kind, self._skipped)
        child = self._known[id(x)]
        if child is None:
            return None
        node.edges.append((index, child, allowed))
        child.parents.append(node)
        return child if first else None


def _pruned(nodes: list[_Node]) -> list[_Node]:
    """Drop the nodes that cannot reach anything that changes, and the edges to them."""
    stack = [node for node in nodes if node.changed]
    while stack:
        for parent in stack.pop().parents:
            if not parent.changed:
                parent.changed = True
                stack.append(parent)
    changed = [node for node in nodes if node.changed]
    for node in changed:
        node.edges = [edge for edge in node.edges if type(edge[1]) is not _Node or edge[1].changed]
        node.parents.clear()  # up and down references would leave the arguments to the cyclic collector
    return changed


def _links(root: _Node) -> tuple[Link, ...]:
    """Return each upstream once, in the order of the arguments."""
    found: dict[int, list[Any]] = {}
    seen: set[tuple[int, bool]] = set()
    for index, top, annotated in root.edges:
        stack = [(top, annotated)]
        while stack:
            target, allowed = stack.pop()
            if type(target) is not _Node:
                link = found.setdefault(id(target), [target, root.parts[index - 1], False, False])
                link[3 if allowed else 2] = True
            elif (id(target), allowed) not in seen:
                seen.add((id(target), allowed))
                stack.extend((inner, allowed or under) for _, inner, under in reversed(target.edges))
    return tuple(starmap(Link, found.values()))


def _steps(root: _Node, node: _Node) -> list[str]:
    """Return the way to a node, as code: `x`, `['a']`, `[3]`."""
    came_from: dict[int, tuple[_Node, int]] = {}
    line = deque([root])
    while line and id(node) not in came_from:
        here = line.popleft()
        for index, target, _ in here.edges:
            if type(target) is _Node and id(target) not in came_from:
                came_from[id(target)] = (here, index)
                line.append(target)
    steps: list[str] = []
    while node is not root:
        node, index = came_from[id(node)]
        steps.append(node.parts[index - 1] if node is root else node.kind.step(node.parts, index))
    return steps[::-1]


def _shown(steps: list[str]) -> str:
    path = "".join(steps)
    return path if len(path) <= 200 else f"{path[:100]}…{path[-100:]}"


# Substitution -------------------------------------------------------------------------------------------


class Inputs(ABC):
    """What a walk found: the upstreams, and how to put their values in their places."""

    __slots__ = ("links",)

    links: tuple[Link, ...]

    @property
    @abstractmethod
    def names(self) -> Collection[str]:
        """The parameters that hold upstreams."""

    def resolve(self, value_of: Callable[[Source], Any]) -> dict[str, Any]:
        """Return the parameters with values for upstreams, without annotations.

        `value_of` is asked once for each upstream, in order, before anything is rebuilt; what it raises
        passes through. Raises `ValueError` if a container cannot be rebuilt.
        """
        return self._rebuilt({id(link.upstream): value_of(link.upstream) for link in self.links})

    @abstractmethod
    def _rebuilt(self, values: dict[int, Any]) -> dict[str, Any]: ...


class _Flat(Inputs):
    """Parameters that are upstreams themselves: by far the commonest case, at a third of the cost."""

    __slots__ = ("_parameters", "_uses")

    def __init__(self, parameters: dict[str, Any], skip: Collection[str]) -> None:
        self._parameters = parameters.copy()
        self._uses = {
            name: value for name, value in parameters.items() if _kind_of(type(value)) is _UPSTREAM and name not in skip
        }
        first: dict[int, Link] = {}
        for name, value in self._uses.items():
            if id(value) not in first:
                first[id(value)] = Link(value, name, True, False)
        self.links = tuple(first.values())

    @property
    def names(self) -> Collection[str]:
        return self._uses.keys()

    def _rebuilt(self, values: dict[int, Any]) -> dict[str, Any]:
        resolved = self._parameters.copy()
        for name, value in self._uses.items():
            resolved[name] = values[id(value)]
        return resolved


class _Nested(Inputs):
    """Everything else."""

    __slots__ = ("_nodes",)

    def __init__(self, nodes: list[_Node]) -> None:
        self._nodes = nodes  # the parameters themselves are the last
        self.links = _links(nodes[-1])

    @property
    def names(self) -> Collection[str]:
        root = self._nodes[-1]
        return {root.parts[index - 1] for index, _, _ in root.edges}

    def _rebuilt(self, values: dict[int, Any]) -> dict[str, Any]:
        resolved: dict[str, Any] = _Rebuild(self._nodes, values).run()
        return resolved


class _Rebuild:
    """Makes new containers out of nodes.

    What can be created empty is created first, so that circular references have something to point to; then
    each is filled after its parts (they must be complete where they are hashed). Only something that can
    not exist without its parts, such as a tuple, can be lacking at that moment: whoever contains it waits.
    """

    __slots__ = ("_made", "_nodes")

    def __init__(self, nodes: list[_Node], made: dict[int, Any]) -> None:
        self._nodes = nodes
        self._made = made  # by id of upstream or node: what takes its place

    def run(self) -> Any:
        for node in self._nodes:
            self._guarded(self._create, node)
        waiting: dict[int, list[_Node]] = defaultdict(list)
        missing: dict[int, int] = {}
        for node in self._nodes:
            lacks = {id(target) for _, target, _ in node.edges if id(target) not in self._made}
            missing[id(node)] = len(lacks)
            for lacking in lacks:
                waiting[lacking].append(node)
            if not lacks:
                self._finish(node, waiting, missing)
        return self._made[id(self._nodes[-1])]

    def _create(self, node: _Node) -> None:
        if node.kind.shell is not None:
            self._made[id(node)] = node.kind.shell(node.original)

    def _finish(self, node: _Node, waiting: dict[int, list[_Node]], missing: dict[int, int]) -> None:
        ready = [node]
        while ready:
            node = ready.pop()
            self._guarded(self._fill, node)
            for waiter in waiting.pop(id(node), ()):
                missing[id(waiter)] -= 1
                if not missing[id(waiter)]:
                    ready.append(waiter)

    def _fill(self, node: _Node) -> None:
        parts = node.parts.copy()
        for index, target, _ in node.edges:
            parts[index] = self._made[id(target)]
        if node.kind.shell is None:
            self._made[id(node)] = node.kind.fill(node.original, parts)
        else:
            node.kind.fill(self._made[id(node)], parts)

    def _guarded(self, act: Callable[[_Node], None], node: _Node) -> None:
        try:
            act(node)
        except Exception as error:
            steps = _steps(self._nodes[-1], node)
            raise ValueError(
                f"Failed to resolve inputs in parameter {steps[0]!r} at {_shown(steps)}: "
                f"{type(error).__name__}: {error}; wrap the argument in quote() or opaque()"
            ) from error


def find(parameters: dict[str, Any], *, keep_quotes: bool = False, skip: Collection[str] = ()) -> Inputs | None:
    """Return what must be replaced or unwrapped in the parameters; None if nothing.

    Containers that lead to something are remembered as they are now: changing them later has no effect.
    With `keep_quotes` a `quote` object stays where it is instead of being unwrapped. The parameters named
    in `skip` are not looked at.
    """
    if not states.any_alive():
        return None
    values = [value for name, value in parameters.items() if name not in skip] if skip else parameters.values()
    types = _types(values)
    if types <= _SKIPPED:
        return None
    if types <= _FLAT:
        return _Flat(parameters, skip)
    if _holds_nothing(values):
        return None
    parts = list(chain.from_iterable(parameters.items()))
    opened = [index for index in range(1, len(parts), 2) if parts[index - 1] not in skip]
    nodes = _Walk(_Node(parameters, DICT, parts, opened), keep_quotes=keep_quotes).nodes()
    return _Nested(nodes) if nodes else None


def replace(expr: Any, value_of: Callable[[Source], Any]) -> Any:
    """Return `expr` with values for upstreams; the same object if it holds none. `quote` stays."""
    found = find({"expr": expr}, keep_quotes=True)
    return expr if found is None else found.resolve(value_of)["expr"]


def find_waits(wait_for: Any) -> tuple[Link, ...]:
    """Return the upstreams in a `wait_for=` argument; iterators are drained.

    Raises `TypeError` for what cannot be searched but may lead to futures: they would silently not be
    waited for.
    """
    if wait_for is None:
        return ()
    wrappers, whole = strip(wait_for)
    if carries(wrappers, quote):
        return ()
    kind = _kind_of(type(whole))
    allowed = carries(wrappers, allow_failure)
    if kind is _UPSTREAM:
        return (Link(whole, "wait_for", not allowed, allowed),)
    if carries(wrappers, opaque):
        return ()
    searched = whole if isinstance(kind, Kind) else _drained(whole)
    parts = ["wait_for", allow_failure(searched) if allowed else searched]
    nodes = _Walk(_Node({}, DICT, parts, [1]), refuse_lost=True).nodes()
    return _links(nodes[-1]) if nodes else ()


def _drained(whole: Any) -> list[Any]:
    members = inherited(type(whole))
    refused = _is_lost(type(whole), members) and "__next__" not in members
    if not refused and not issubclass(type(whole), str | bytes | bytearray):
        try:
            elements = iter(whole)
        except TypeError:
            pass
        else:
            return list(elements)
    raise TypeError(
        f"'wait_for' takes a future, a State, or an iterable of them, as in wait_for=[x]; got {type(whole).__name__}"
    )
