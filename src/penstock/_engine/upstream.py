"""The runs that a run depends on, as the engine sees them: futures, lists still to expand, and given States."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from penstock import states
from penstock.exceptions import UnfinishedRun, UpstreamTaskError
from penstock.states import State, StateType, Status

if TYPE_CHECKING:
    from penstock._core.graph import Link
    from penstock._engine.run import Run
    from penstock.task_runners.base import Kept

Take: TypeAlias = "Callable[[Kept], Any]"


def promise_of(upstream: Any) -> Any:
    """What to subscribe to for an upstream found among arguments."""
    return _Given(upstream) if isinstance(upstream, State) else upstream._promise


def runs_behind(upstream: Any) -> list[Any]:
    """The runs whose ends make that of an upstream: of a list that was still to come, its elements."""
    promise = promise_of(upstream)
    return getattr(promise, "elements", None) or [promise]


class _Given:
    """A State given as an argument, in the part of a run that ended long ago."""

    done = True
    name = "state"

    def __init__(self, state: State[Any]) -> None:
        self._given = state
        self.looked = True
        self.failed = not state.is_completed()
        self.status = {
            StateType.CRASHED: Status.CRASHED,
            StateType.CANCELLED: Status.CANCELLED,
        }.get(state.type, Status.FAILED)
        self.error = state_error(state) if self.failed else None

    def culprit(self) -> Any:
        return self

    @property
    def kept(self) -> Sequence[Kept]:
        stand_in = self._given._stand_in
        return () if stand_in is None else (stand_in,)

    def given(self, take: Take | None = None) -> Any:
        return value_of(self._given, take)

    def note_blocked(self, run: Run) -> None: ...
    def uuid(self, kind: str) -> Any:
        return self._given.state_details.task_run_id if kind == "task" else None

    def state(self) -> State[Any]:
        return self._given

    def subscribe(self, callback: Any) -> bool:
        return False


def state_error(state: State[Any]) -> BaseException:
    if not state.is_final():
        return UnfinishedRun(f"Run is in {state.type.name} state, its result is not available.")
    return states.get_state_exception(state)


def value_of(upstream: Any, take: Take | None = None) -> Any:
    """The value that takes an upstream's place; the exception object if it did not complete.

    For a value that a runner has kept, `take` says what it is to be; without it, the `Kept`.
    """
    if not isinstance(upstream, State):
        return upstream._promise.given(take)
    if not upstream.is_completed():
        return state_error(upstream)
    stand_in = upstream._stand_in
    return upstream.result() if stand_in is None else stand_in if take is None else take(stand_in)


def kept_among(links: Iterable[Link]) -> list[Kept]:
    """The values of upstreams that have stayed with a runner."""
    found: list[Kept] = []
    for link in links:
        kept = promise_of(link.upstream).kept
        if kept:
            found.extend(kept)
    return found


def is_given(culprit: Any) -> bool:
    """Whether a hand-made State, behind which there is no run, kept a run from starting."""
    return isinstance(culprit, _Given) and culprit.state().state_details == states.StateDetails()


def upstream_error(promise: Any, message: str) -> UpstreamTaskError:
    """The error of what could not start because the run behind `promise` did not complete."""
    culprit = promise.culprit()
    error = UpstreamTaskError(
        message, task_run_id=culprit.uuid("task"), task_run_name=culprit.name, state=culprit.state()
    )
    error.__cause__ = culprit.error
    return error
