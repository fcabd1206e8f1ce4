"""What travels to a worker in another process, and what comes back.

A household is what all visits of one task have in common as long as its flow run lasts: the function, and the facts
about the runs around it that code may ask for. It is pickled once. A visit is one attempt. Everything that is decided
about the run (retries, time limits, hooks, its record) stays at home; see `visit` for the other side.
"""

from __future__ import annotations

from _thread import allocate_lock
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

from penstock._core.canonical import main_name
from penstock._core.machine import Event
from penstock._core.outcome import Outcome
from penstock._core.serial import LARGE, Packed, is_plain, pack
from penstock._engine import capture, substitutes
from penstock._engine.context import current_tags
from penstock.exceptions import SerializationError
from penstock.settings import overrides

if TYPE_CHECKING:
    from penstock._engine.attempt import Call
    from penstock._engine.engine import Engine
    from penstock._engine.run import Run
    from penstock.settings import Settings

_PLAIN = (type(None), bool, int, float, str)
_LONGEST = 200  # characters of a flow's parameter that travels as it is; of a longer one, its short form does


class Ancestor(NamedTuple):
    """What a worker knows of a run around the visiting one."""

    kind: str
    name: str
    run_name: str
    key: str
    version: str | None
    id: int
    tags: frozenset[str]
    parameters: dict[str, Any]
    created: float
    attempt: int
    position: str | None


class Keeps(NamedTuple):
    """What a worker needs to know to keep the values of tasks that the visiting body calls, and to find kept ones."""

    home: str  # directory of the store; on another host there is none
    defaults: Any
    lives: Sequence[str]
    rerun: frozenset[str]
    starts: frozenset[str]
    entered: frozenset[str]
    main: str  # under which name the script at home would be imported


class Household(NamedTuple):
    """What the visits of one task have in common."""

    fn: Any
    name: str
    key: str
    is_async: bool
    is_generator: bool
    log_prints: bool
    forgives: bool  # failures that nobody looked at, where a flow does not say otherwise
    version: str | None
    ancestors: Sequence[Ancestor]  # the flow runs around it, nearest first
    settings: Settings
    overrides: Mapping[str, str] | None  # of settings, in the context of the flow
    levels: dict[str, int]  # of the loggers at home
    home: str  # the process
    keeps: Keeps | None
    substitutes: Sequence[tuple[Any, Any]]  # for functions that the body may call
    timeout: float | None = None  # seconds for one attempt, if it is to be stopped there and not from home


class Visit(NamedTuple):
    """One attempt: what differs from visit to visit."""

    id: int
    run_name: str
    tags: frozenset[str]
    context_tags: frozenset[str]
    attempt: int
    parameters: dict[str, Any]
    position: str | None  # where it is in the tree of runs; None: nobody has asked yet


class Stray(NamedTuple):
    """A failure below a visiting run that nobody there looked at: accounted for at home."""

    id: int
    kind: str
    name: str
    created: float
    error: BaseException


class Report(NamedTuple):
    """What a visit brings home: an outcome and what belongs to it, flat, because every task pays for its pickling."""

    event: int
    value: Any
    error: BaseException | None
    message: str | None
    state: Any
    strays: Sequence[Stray]
    started: float
    ended: float

    @property
    def is_plain(self) -> bool:
        return self.error is None and self.state is None and not self.strays and is_plain(self.value)

    def outcome(self) -> Outcome:
        return Outcome(Event(self.event), self.value, self.error, self.message, self.state)


class Unseen:
    """A stray as the flow run at home accounts for it: like a failed run that nobody has looked at."""

    looked = False
    blocked = None

    def __init__(self, stray: Stray) -> None:
        self.id, self.name, self.created, self.error = stray.id, stray.name, stray.created, stray.error
        self.plan = SimpleNamespace(kind=stray.kind)
        self.label = f"{stray.kind.capitalize()} run {stray.name!r}"


def pack_household(run: Run) -> Packed:
    """Everything but the attempt itself. Raises `SerializationError` if the function cannot be pickled."""
    plan = run.plan
    ancestors = [_describe(ancestor) for ancestor in run.ancestors() if ancestor.plan.kind == "flow"]
    household = Household(
        plan.portable or plan.fn,
        plan.name,
        plan.key,
        plan.is_async,
        plan.is_generator,
        plan.log_prints,
        run.engine.forgives,
        plan.version,
        ancestors,
        run.engine.settings,
        None if run.context is None else run.context.get(overrides),
        capture.levels(),
        capture.this_process(),
        _keeps(run.engine),
        substitutes.packing_list(run.engine.substitutes),
    )
    return pack(household, plan.name)


def pack_visit(call: Call) -> tuple[Packed, Packed | None]:
    """The attempt with its arguments, and those that it has in common with the rest of its map, if that pays.

    Among the handles of the first are the values that the runner has kept; they are not sent.
    Raises `SerializationError` that names the argument.
    """
    run = call.run
    tags: frozenset[str] = frozenset() if run.context is None else run.context.get(current_tags, frozenset())
    common = None if run.shared is None else run.shared.packed()
    parameters = run.parameters if common is None else run.shared.own_of(run.parameters)  # type: ignore[union-attr]
    handles: list[Any] | None = None if run.kept_inputs is None else []
    position = run.engine.position_abroad(run)
    visit = Visit(run.id, run.name, run.tags, tags, run.attempt + (not call.claimed), parameters, position)
    try:
        plain = all(map(is_plain, parameters.values()))
        return pack(tuple(visit), run.plan.name, plain=plain, handles=handles), common
    except SerializationError as error:
        refused = error
    for name, value in parameters.items():  # said again, with a path that begins at the parameter
        pack(value, name, handles=handles)
    raise refused


class Shared:
    """The arguments that all children of one `map` call have in common. They hold no futures."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.names = frozenset(values)
        self._values = values
        self._packed: Packed | None = None
        self._packing = allocate_lock()
        self._pays: bool | None = None

    def packed(self) -> Packed | None:
        """All of them, pickled once; None if they are so small that each child may as well have its own copy."""
        with self._packing:
            if self._pays is None:
                packed = pack(self._values, "unmapped")
                self._pays = bool(packed.buffers) or len(packed.data) >= LARGE
                self._packed = packed if self._pays else None
            return self._packed

    def own_of(self, parameters: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in parameters.items() if name not in self.names}


def _keeps(engine: Engine) -> Keeps | None:
    if engine.home is None:
        return None
    past = engine.past
    return Keeps(engine.home, engine.defaults, past.lives, past.rerun, past.starts, past.entered, main_name())


def _describe(run: Run) -> Ancestor:
    plan = run.plan
    shown = {name: value if _is_small(value) else type(value).__name__ for name, value in run.parameters.items()}
    position = None if run.memo is None else run.memo.position
    return Ancestor(
        plan.kind,
        plan.name,
        run.name,
        plan.key,
        plan.version,
        run.id,
        run.tags,
        shown,
        run.created,
        run.attempt,
        position,
    )


def _is_small(value: Any) -> bool:
    return type(value) in _PLAIN and len(str(value)) <= _LONGEST
