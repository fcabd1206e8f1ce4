"""What travels to a worker in another process, and what comes back.

A household is what all visits of one task have in common as long as its flow run lasts: the function, and the facts
about the runs around it that code may ask for. It is pickled once. A visit is one attempt. Everything that is decided
about the run (retries, time limits, hooks, its record) stays at home; see `visit` for the other side.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

from penstock._core.outcome import Outcome
from penstock._core.serial import Packed, pack
from penstock._engine import capture
from penstock._engine.context import current_tags
from penstock.exceptions import SerializationError

if TYPE_CHECKING:
    from penstock._engine.attempt import Call
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


class Household(NamedTuple):
    """What the visits of one task have in common."""

    fn: Any
    name: str
    key: str
    is_async: bool
    is_generator: bool
    log_prints: bool
    version: str | None
    ancestors: Sequence[Ancestor]  # nearest first
    settings: Settings
    levels: dict[str, int]  # of the loggers at home


class Visit(NamedTuple):
    """One attempt: what differs from visit to visit."""

    id: int
    run_name: str
    tags: frozenset[str]
    context_tags: frozenset[str]
    attempt: int
    parameters: dict[str, Any]


class Stray(NamedTuple):
    """A failure below a visiting run that nobody there looked at: accounted for at home."""

    id: int
    kind: str
    name: str
    created: float
    error: BaseException


class Report(NamedTuple):
    """What a visit brings home."""

    outcome: Outcome
    strays: Sequence[Stray]
    started: float
    ended: float


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
    ancestors = [_describe(ancestor) for ancestor in run.ancestors() if ancestor is not run]
    household = Household(
        plan.portable or plan.fn,
        plan.name,
        plan.key,
        plan.is_async,
        plan.is_generator,
        plan.log_prints,
        plan.version,
        ancestors,
        run.engine.settings,
        capture.levels(),
    )
    return pack(household, plan.name)


def pack_visit(call: Call) -> Packed:
    """The attempt with its arguments. Raises `SerializationError` that names the argument."""
    run = call.run
    tags: frozenset[str] = frozenset() if run.context is None else run.context.get(current_tags, frozenset())
    visit = Visit(run.id, run.name, run.tags, tags, run.attempt + (not call.claimed), run.parameters)
    try:
        return pack(tuple(visit), run.plan.name)
    except SerializationError:
        for name, value in run.parameters.items():  # said again, with a path that begins at the parameter
            pack(value, name)
        raise


def _describe(run: Run) -> Ancestor:
    plan = run.plan
    shown = {name: value if _is_small(value) else type(value).__name__ for name, value in run.parameters.items()}
    return Ancestor(
        plan.kind, plan.name, run.name, plan.key, plan.version, run.id, run.tags, shown, run.created, run.attempt
    )


def _is_small(value: Any) -> bool:
    return type(value) in _PLAIN and len(str(value)) <= _LONGEST
