"""Functions that are called instead of those of tasks and flows: how tests replace what must not be called.

What is replaced is the function, by identity, and not a definition or a name: so it does not matter how a task was
imported, and the copies that `with_options` makes are meant, too. A run looks at its plan only, as ever: plans are made
with the substitute inside. To workers they travel in the household of every task: what a body calls is not known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from penstock._engine.plan import Plan


class Substitute(NamedTuple):
    """What is called instead of a function."""

    original: Callable[..., Any]  # kept alive: it is known by its id
    portable: Any  # what to pickle in its place; unpickled, it is the original there, or None if there is none
    function: Callable[..., Any]


Substitutes = Mapping[int, Substitute]

active: dict[int, Substitute] = {}
"""Those of this process, by id of the original. Set from above: see `testing.stubs`."""


def put_into(plan: Plan, substitutes: Substitutes) -> Plan:
    """Let runs of this plan call the substitute, if its function has one.

    What that returns is not the task's own result, so it is neither kept nor looked for in a cache.
    """
    found = substitutes.get(id(plan.fn))
    if found is not None:
        plan.fn, plan.portable = found.function, None
        plan.cached, plan.keeping = False, None
    return plan


def packing_list(substitutes: Substitutes) -> Sequence[tuple[Any, Any]]:
    return [(one.portable, one.function) for one in substitutes.values()]


def unpacked(pairs: Sequence[tuple[Any, Any]]) -> Substitutes:
    return {id(original): Substitute(original, None, function) for original, function in pairs if original is not None}
