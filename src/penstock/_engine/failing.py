"""Failed runs: whether somebody has looked at them, and what is said about them.

That is: which one, with what, where in the user's code, and how many of a map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from penstock._core.errors import add_note, brief, describe
from penstock._core.tracebacks import place
from penstock.exceptions import CrashedRun, UpstreamTaskError
from penstock.states import Status

if TYPE_CHECKING:
    from penstock._engine.engine import Engine
    from penstock._engine.run import Run

_NAMED_AT_MOST = 10  # failed runs listed in one message
_SHOWN_OF_A_MAP = 3


def is_settled(run: Run) -> bool:
    """Whether somebody has looked at the run, or at every run that could not start because of it."""
    ahead, seen = [run], {run}
    while ahead:
        other = ahead.pop()
        if other.looked:
            continue
        if not other.blocked:
            return False
        ahead.extend(blocked for blocked in other.blocked if blocked not in seen)
        seen.update(other.blocked)
    return True


def describe_end(run: Any) -> str:
    """How a run ended, for a message about another one: "'extract-1' failed with ValueError: x (etl.py:12)"."""
    if run.status is Status.CANCELLED:
        return f"{run.name!r} was cancelled"
    verb = "crashed" if run.status is Status.CRASHED else "failed"
    where = _place(run)
    return f"{run.name!r} {verb} with {describe(_original(run.error))}" + (f" ({where})" if where else "")


def _original(error: BaseException) -> BaseException:
    """What made a run crash, instead of that it crashed."""
    return error.__cause__ if isinstance(error, CrashedRun) and error.__cause__ is not None else error


def _place(run: Any) -> str | None:
    """Where in the user's code it went wrong; the exception itself may tell where somebody asked for the result."""
    error = _original(run.error)
    return place(error, run.trace if error is run.error and hasattr(run, "trace") else error.__traceback__)


def list_failures(runs: Sequence[Any]) -> str:
    """The first of them on one line."""
    named = [f"{run.name} ({describe(run.error)}){_at(run)}" for run in runs[:_NAMED_AT_MOST]]
    more = len(runs) - len(named)
    return ", ".join(named) + (f" and {more} more" if more else "")


def _at(run: Any) -> str:
    where = _place(run)
    return f" at {where}" if where else ""


def count(runs: Sequence[Any]) -> str:
    """How many they are, and of what: "3 of 100 runs of 'load'", "2 task runs"."""
    whole = _size_of_map(runs[0])
    if whole and all(_is_sibling(run, runs[0]) for run in runs):
        return f"{len(runs)} of {whole} runs of {runs[0].plan.name!r}"
    kind = "task run" if all(run.plan.kind == "task" for run in runs) else "run"
    return f"{len(runs)} {kind}{'s' * (len(runs) > 1)}"


def _size_of_map(run: Any) -> int:
    """How many runs its `.map()` call has made; 0 if it comes from none, or if that is not known here."""
    return 0 if getattr(run, "index", None) is None else run.plan.map_sizes.get(run.number, 0)


def _is_sibling(run: Any, other: Any) -> bool:
    return run.plan is other.plan and getattr(run, "number", None) == other.number


def note_origin(root: Run) -> None:
    """Note on the exception of a root run which run below it raised it, and which others of the same map failed."""
    assert root.error is not None
    origin = _origin(root.engine, root.error)
    if origin is None:
        return
    lines = [] if origin.error is not root.error else _about_run(origin)
    lines += _about_map(origin)
    if lines:
        add_note(root.error, "\n".join(lines))


def _about_run(origin: Run) -> list[str]:
    """Which one it was, unless the traceback says it by leading through the body, or it has been said already."""
    unseen = not is_settled(origin)
    if unseen or not (origin.index is not None or origin.attempt > 1 or origin.status is Status.CRASHED):
        return []
    attempt = f", attempt {origin.attempt}" if origin.attempt > 1 else ""
    return [f"raised in {origin.plan.kind} run {origin.name!r}{attempt}"]


def _origin(engine: Engine, error: BaseException) -> Run | None:
    """The innermost run with this exception, or with the one that kept a run from starting."""
    wanted = error.__cause__ if isinstance(error, UpstreamTaskError) else error
    for failed in engine.failures:
        if failed.error is wanted and hasattr(failed, "engine"):
            inner = None if failed.engine is engine else _origin(failed.engine, error)
            return inner or failed
    return None


def _about_map(origin: Run) -> list[str]:
    if not _size_of_map(origin) or origin.home is None:
        return []
    siblings = [failed for failed in origin.home.failures if _is_sibling(failed, origin)]
    siblings.sort(key=lambda run: run.index or 0)
    shown, more = siblings[:_SHOWN_OF_A_MAP], len(siblings) - _SHOWN_OF_A_MAP
    if len(siblings) > 1 and len({f"{brief(run.error)}{_at(run)}" for run in siblings if run.error}) == 1:
        names = ", ".join(run.name for run in shown) + (f" and {more} more" if more > 0 else "")
        return [f"{count(siblings)} failed alike: {names}"]
    lines = [f"  {run.name}: {brief(run.error)}{_at(run)}" for run in shown if run.error]
    return [f"{count(siblings)} failed:", *lines, *([f"  and {more} more"] if more > 0 else [])]
