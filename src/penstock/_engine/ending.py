"""How attempts and runs end: what a body's end means, what must be over first, who is told.

In this order: the children of the body are ended or waited for; what the body returned is looked into; failures
that nobody looked at are counted; the machine decides; hooks run; the record is handed over; waiters are woken.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any

from penstock import states
from penstock._core import graph
from penstock._core.binding import short
from penstock._core.errors import add_note, describe, text_of
from penstock._core.machine import COMPLETED, DELAY, UPSTREAM, Command, Event
from penstock._core.outcome import Outcome
from penstock._engine import signals
from penstock._engine.arrival import Arrivals
from penstock._engine.attempt import crash_message
from penstock._engine.computing import computing
from penstock._engine.context import current_run
from penstock._engine.failing import count, describe_end, is_settled, list_failures, note_origin
from penstock._engine.record import Snapshot
from penstock._engine.requests import Awaited, Childless, Ended
from penstock._engine.upstream import (
    is_given,
    kept_among,
    promise_of,
    runs_behind,
    state_error,
    upstream_error,
    value_of,
)
from penstock.annotations import quote
from penstock.exceptions import CancelledRun, CancelSignal, CrashedRun, FailedRun, InternalError
from penstock.states import State, StateType, Status
from penstock.task_runners.base import Kept

if TYPE_CHECKING:
    from penstock._core.graph import Link
    from penstock._engine.run import Run
    from penstock._engine.upstream import Take

_logger = logging.getLogger("penstock")
_NO_PARAMETERS: dict[str, Any] = {}

_EVENTS = {
    StateType.COMPLETED: Event.RETURNED,
    StateType.FAILED: Event.RAISED,
    StateType.CRASHED: Event.LOST,
    StateType.CANCELLED: Event.STOPPED,
}
_HOOKS = {
    Status.COMPLETED: "on_completion",
    Status.FAILED: "on_failure",
    Status.CRASHED: "on_crashed",
    Status.CANCELLED: "on_cancellation",
}


# --- before a body could start ----------------------------------------------------------------------------------


def crash(run: Run, outcome: Outcome) -> Command:
    """Whoever drives the run was interrupted while the run waited."""
    if isinstance(outcome.error, CancelSignal):
        return run.advance(Event.CANCEL_ASKED)
    message = crash_message(run, outcome.error)
    return run.fail(Event.CRASHED, _crashed(message, outcome.error), message)


def _crashed(message: str, cause: BaseException | None) -> CrashedRun:
    if isinstance(cause, CrashedRun):
        return cause
    error = CrashedRun(message)
    error.__cause__ = cause
    return error


def block(run: Run, link: Link) -> Command:
    """An upstream did not complete, so the run cannot start."""
    promise = promise_of(link.upstream)
    culprit = promise.culprit()
    promise.note_blocked(run)
    run.blamed = culprit
    message = f"{run.label} did not run: upstream {describe_end(culprit)}"
    return run.fail(Event.BLOCKED, upstream_error(promise, message), message)


# --- when a body has ended --------------------------------------------------------------------------------------


_PLAIN = frozenset({type(None), bool, int, float, str, bytes})


def leaves_something(run: Run, outcome: Outcome) -> bool:
    """Whether there is anything to wind up: for most tasks there is not."""
    return bool(run.children) or type(outcome.value) not in _PLAIN or run.engine.root is run


def wind_up(run: Run, outcome: Outcome) -> Generator[Any, Any, Outcome]:
    """See to it that everything the body left behind is over, and work out what the attempt amounts to."""
    interruption = signals.interruption_of(run, outcome)
    if interruption is not None:
        outcome = Outcome(Event.CRASHED, error=interruption)  # the signal, not the body, has the last word
    if run.children:
        yield from _close_generators(run)
    while run.children:
        if outcome.event is not Event.RETURNED:
            run.engine.wind_down(run, outcome.event)
        interrupted = yield Childless()
        if type(interrupted) is Outcome:
            outcome = interrupted
    if outcome.event is Event.RETURNED and (states.any_alive() or inspect.iscoroutine(outcome.value)):
        outcome = yield from _look_into(run, outcome)
    if run.engine.failures and run.engine.root is run:
        outcome = _account_for_failures(run, outcome)
    return outcome


def _close_generators(run: Run) -> Generator[Any, Any, None]:
    """Generator runs that the body has not iterated to their ends: nobody else ever will."""
    for child in run.living_children():
        reference = getattr(child, "generator", None)
        generator: Any = None if reference is None else reference()
        if hasattr(generator, "aclose"):
            yield Awaited(generator.aclose())
        elif generator is not None:
            try:
                generator.close()
            except Exception:  # executing on another thread, or it refuses to end: waited for like any child
                _logger.debug("%s could not be closed", run.label, exc_info=True)


def _look_into(run: Run, outcome: Outcome) -> Generator[Any, Any, Outcome]:
    value = outcome.value
    if issubclass(type(value), Kept):
        return outcome  # it was looked into where it was made
    if inspect.iscoroutine(value):
        return _unawaited(run, value)
    found = graph.find({"return": value}, keep_quotes=True)
    for quoted in _quotes_in(value):
        _look_at(graph.find({"return": quoted.value}))
    return outcome if found is None else (yield from _with_upstreams(outcome, found))


def _with_upstreams(outcome: Outcome, found: graph.Inputs) -> Generator[Any, Any, Outcome]:
    """The body returned futures or States, or something that holds some."""
    futures = [link for link in found.links if not isinstance(link.upstream, State)]
    if futures:
        _look_at(found)
    pending = [link for link in futures if not promise_of(link.upstream).done]
    if pending:
        yield Ended(pending)
    failure = _failure_among(futures)
    if failure is not None:
        return failure
    arrivals = yield from _bring_home(found.links)
    if isinstance(arrivals, Outcome):
        return arrivals
    value = outcome.value
    if isinstance(value, State) or (not isinstance(value, graph.Upstream) and states.is_state_iterable(value)):
        return _by_state(states.return_value_to_state(value))
    return _by_futures(found, arrivals.take) if futures else outcome


def _bring_home(links: Sequence[Link]) -> Generator[Any, Any, Arrivals | Outcome]:
    """Fetch what runners have kept of what the body returned: they may be closed when somebody asks for it."""
    arrivals = Arrivals(kept_among(links))
    if arrivals:
        answer = yield arrivals
        if type(answer) is Outcome:
            return answer
        if arrivals.error is not None:
            return Outcome(Event.RAISED, error=arrivals.error)
    for link in links if arrivals else ():
        if isinstance(link.upstream, State) and link.upstream._stand_in is not None:
            link.upstream._data = arrivals.take(link.upstream._stand_in)
    return arrivals


_OPENED = frozenset({quote, list, tuple, set, dict})


def _quotes_in(value: Any) -> list[quote[Any]]:
    """The quotes in a returned value, also inside plain containers: to return them is to look at what they hold."""
    quotes, ahead, seen = [], [value], set()
    while ahead:
        item = ahead.pop()
        if isinstance(item, quote):
            quotes.append(item)
        elif type(item) in _OPENED and id(item) not in seen:
            seen.add(id(item))
            members = item.values() if isinstance(item, dict) else item
            if not _OPENED.isdisjoint(map(type, members)):
                ahead.extend(member for member in members if type(member) in _OPENED)
    return quotes


def _unawaited(run: Run, coroutine: Any) -> Outcome:
    coroutine.close()
    kind = run.plan.kind
    return Outcome(
        Event.RAISED,
        error=TypeError(
            f"{run.label} returned a coroutine that nobody awaits: make the {kind} `async def` and await the "
            "call, or use `.submit()`, whose future is resolved by itself"
        ),
    )


def _by_state(state: State[Any]) -> Outcome:
    """The body returned a state, or states: it says itself how it ended."""
    if not state.is_final():
        return Outcome(Event.RAISED, error=state_error(state))
    if state.is_completed():
        return Outcome(Event.RETURNED, state.data, message=state.message, state=state)
    try:
        error = states.get_state_exception(state)
    except ValueError:  # states of runs that go on: none of them is bad
        error = FailedRun(state.message or "Run failed.")
    return Outcome(_EVENTS[state.type], error=error, message=state.message, state=state)


def _look_at(found: graph.Inputs | None) -> None:
    for link in found.links if found is not None else ():
        promise_of(link.upstream).looked = True


def _by_futures(found: graph.Inputs, take: Take) -> Outcome:
    """The body returned futures that have completed: their values take their places. States beside them stay."""
    resolved = found.resolve(lambda source: source if isinstance(source, State) else value_of(source, take))
    return Outcome(Event.RETURNED, resolved["return"])


def _failure_among(futures: Sequence[Link]) -> Outcome | None:
    """What returned futures mean that did not complete; None if all have."""
    required = [run for link in futures if link.required for run in runs_behind(link.upstream)]
    bad = [promise for promise in required if promise.failed]
    if not bad:
        return None
    roots = [promise for promise in bad if promise.culprit() is promise or promise.culprit() not in bad]
    message = f"{len(bad)}/{len(required)} returned task runs failed: {list_failures(bad)}"
    event = Event.STOPPED if all(promise.cancelled for promise in bad) else Event.RAISED
    return Outcome(event, error=_one_error(message, [promise.error for promise in roots]), message=message)


def _one_error(message: str, errors: Sequence[BaseException]) -> BaseException:
    distinct = list({id(error): error for error in errors}.values())  # exceptions need not be hashable
    if len(distinct) == 1:
        return distinct[0]
    return BaseExceptionGroup(message, distinct)


def _account_for_failures(run: Run, outcome: Outcome) -> Outcome:
    """A run must not end well while a failure below it was neither seen nor handled."""
    unseen = [one for one in run.engine.failures if not is_settled(one) and not _goes_on(one, outcome.error)]
    unseen.sort(key=lambda failed: (failed.created, failed.id))
    if not unseen:
        return outcome
    them = "nobody looked at it" if len(unseen) == 1 else "nobody looked at them"
    message = f"{count(unseen)} failed and {them}: {list_failures(unseen)}"
    if outcome.event is not Event.RETURNED:
        if outcome.error is not None:
            add_note(outcome.error, message)
        run.engine.log(logging.WARNING, message, run)
        return outcome
    if run.plan.forgives:
        run.engine.log(logging.WARNING, message, run)
        return outcome
    error = _one_error(message, [failed.error for failed in unseen if failed.error is not None])
    if len(unseen) == 1:
        kind, name = unseen[0].plan.kind, unseen[0].name
        add_note(error, f"raised in {kind} run {name!r}, which failed and nobody looked at it")
    return Outcome(Event.RAISED, error=error, message=message)


def _goes_on(failed: Run, error: BaseException | None) -> bool:
    """Whether what ended the run, a signal to the program, is what has ended the body: then that is seen."""
    return error is not None and failed.error is not None and failed.error.__cause__ is error


# --- the machine decides ----------------------------------------------------------------------------------------


def settle(run: Run, outcome: Outcome) -> Command:
    """Tell the machine how the attempt ended, and keep what belongs to that."""
    error = outcome.error
    run.message = outcome.message
    if error is not None:
        message, error = _explain(run, outcome, error)
        run.message = message if outcome.state is None else outcome.message  # a hand-made state is shown as it is
        run.blame(error)
    run.value = outcome.value
    if issubclass(type(outcome.value), Kept):
        run.kept = (outcome.value,)
    run.public = None if outcome.state is None else outcome.state.told_of(run.details())
    command = run.advance(outcome.event)
    if command is DELAY:
        run.engine.note_retry(run, error)
        run.close_attempt(error)
        if run.engine.root is run:
            run.engine.reopen()  # only the last attempt decides
    return command


def _explain(run: Run, outcome: Outcome, error: BaseException) -> tuple[str, BaseException]:
    event, message = outcome.event, outcome.message
    if event is Event.CRASHED:
        message = message or crash_message(run, error)
        return message, _crashed(message, error)
    if event is Event.STOPPED and not isinstance(error, CancelledRun):
        message = f"{run.label} was cancelled."
        return message, CancelledRun(message)
    if event is Event.RAISED and message is None:
        colon = ":" if run.plan.kind == "flow" else ""
        message = f"{run.plan.kind.capitalize()} run encountered an exception{colon} {describe(error)}"
    return message or text_of(error), error


def preview(run: Run, outcome: Outcome) -> State[Any]:
    """The state that the run would have if it were not tried again: for the retry condition."""
    name = "TimedOut" if outcome.event is Event.TIMED_OUT else None
    return outcome.state or states.Failed(
        name=name, message="" if outcome.error is None else text_of(outcome.error), data=outcome.error
    )


# --- the end ----------------------------------------------------------------------------------------------------


def seal(run: Run) -> Sequence[Callable[..., Any]]:
    """The run's final status is known: complete its facts. Returns the hooks to be called now."""
    run.ended = run.engine.now()
    if run.error is not None or run.status is not COMPLETED:
        _seal_badly(run)
    run.shown_result = short(run.value)
    if run.home is not None:
        run.home.note_end(run)
    if run.reason is UPSTREAM:
        return ()
    return run.plan.hooks[_HOOKS[run.status]]


def _seal_badly(run: Run) -> None:
    if run.error is None:  # cancelled before it could start
        run.message = run.message or f"{run.label} was cancelled."
        run.error = CancelledRun(run.message)
    if run.parent is None:
        note_origin(run)
    if run.status is Status.CANCELLED or (run.reason is UPSTREAM and not is_given(run.blamed)):
        return  # nobody's fault, or that of the run that is to blame
    run.note_failure()


def hand_over(run: Run) -> None:
    """Record the end. From here on the run keeps its outcome and nothing else: not its arguments, not its inputs."""
    run.parameters = _NO_PARAMETERS
    run.inputs = run.kept_inputs = run.context = run.call = run.driver = run.shared = None
    run.links = ()
    if run.memo is None or not run.memo.recorded:
        run.engine.recorder.finish(run, Snapshot(run))


def conclude(run: Run) -> None:
    """Wake everybody who waits for the run."""
    run.conclude()
    if run.parent is not None:
        run.parent.release(run)


def collapse(run: Run, error: BaseException) -> None:
    """The engine itself has failed with this run: end it anyhow, so that nobody waits for it for ever."""
    _logger.critical("internal error in %s; please report it", run.label, exc_info=error)
    run.value = run.public = None
    run.kept = ()
    run.error = InternalError(f"{run.label}: {describe(error)}")
    run.error.__cause__ = error
    with run.lock:
        run.status = Status.CRASHED  # the only place beside the machine: its rules no longer hold here
    run.ended = run.engine.now()
    run.note_failure()
    computing.leave(run, found=False)
    hand_over(run)
    conclude(run)


# --- user callbacks ---------------------------------------------------------------------------------------------


def fire(run: Run, hooks: Sequence[Callable[..., Any]]) -> Generator[Any, Any, None]:
    """Call the hooks one after the other; what they raise is logged and changes nothing."""
    view, state = run.view(), run.state()
    for hook in hooks:
        yield from ask(run, hook, run.plan.definition, view, state)


def ask(run: Run, fn: Callable[..., Any], *args: Any) -> Generator[Any, Any, Any]:
    """Call `fn` inside the run's context, await it if need be; None if it raised, which is logged."""
    try:
        answer = _call_inside(run, fn, args)
        if not inspect.isawaitable(answer):
            return answer
        result = yield Awaited(_await_inside(run, answer))
        if result.error is not None:
            raise result.error
        return result.value
    except BaseException:  # SystemExit as well: a callback must not end a worker, or the run that it is about
        name = getattr(fn, "__name__", repr(fn))
        token = current_run.set(run)  # the line belongs to it
        _logger.exception("%s: %s raised an exception, which changes nothing for the run", run.label, name)
        current_run.reset(token)
        return None


def _call_inside(run: Run, fn: Callable[..., Any], args: Sequence[Any]) -> Any:
    token = current_run.set(run)
    try:
        return fn(*args)
    finally:
        current_run.reset(token)


async def _await_inside(run: Run, awaitable: Awaitable[Any]) -> Any:
    token = current_run.set(run)
    try:
        return await awaitable
    finally:
        current_run.reset(token)
