"""The life of every run, written once: flows and tasks, direct and submitted, synchronous and asynchronous.

`lifecycle(run)` is a generator. It asks the machine what comes next and yields a *request* wherever a run has to
wait: for its inputs, for a limit, for the body, for a delay, for its children. A driver (see `drive`) carries
the request out in its own way (blocking, awaiting, or with a callback) and sends the answer in. Nothing here
blocks, and nothing here knows which colour the caller has.

If the run is cancelled while it waits, the answer None comes early; the machine then says IGNORE to whatever we
ask next, which leads to the end. If whoever drives the run is interrupted, the answer is an `Outcome`.
"""

from __future__ import annotations

import random
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any

from penstock._core.machine import ATTEMPT, DELAY, READY, Command, Event
from penstock._core.outcome import Outcome
from penstock._engine import ending, keeping
from penstock._engine.arrival import Arrivals
from penstock._engine.attempt import Call
from penstock._engine.requests import Acquire, Aside, Childless, Inputs, Sleep
from penstock._engine.upstream import kept_among
from penstock._engine.waiting import refuse_circular_inputs

if TYPE_CHECKING:
    from penstock._engine.plan import Hook
    from penstock._engine.run import Run
    from penstock._engine.upstream import Take
    from penstock.task_runners.base import Kept

Life = Generator[Any, Any, None]
Step = Generator[Any, Any, Command]

_OVER = (Command.FINISH, Command.IGNORE)


def lifecycle(run: Run) -> Life:
    """From submission to the end."""
    # One frame for the plain case: a generator that delegates is one more object for each waiting run.
    command = (yield from _await_inputs(run)) if run.links else _prepare(run)
    while command not in _OVER:
        if command is ATTEMPT:
            outcome = yield Call(run)
            if run.lease is not None:
                run.engine.release_limits(run)
            if outcome is None:
                break
            if ending.leaves_something(run, outcome):
                outcome = yield from ending.wind_up(run, outcome)
            if run.plan.condition is not None and run.attempt <= run.plan.retries:
                run.retryable = yield from _wants_retry(run, run.plan.condition, outcome)
            command = ending.settle(run, outcome)
        elif command is DELAY:
            command = yield from _delay(run)
        elif command is Command.ACQUIRE:
            command = yield from _acquire(run)
        else:
            command = yield from keeping.look_up(run)
    if run.lease is not None:
        run.engine.release_limits(run)
    hooks = ending.seal(run)
    if run.memo is not None:
        yield from keeping.conclude(run)
    if hooks:
        yield from _fire(run, hooks)
    if run.engine.root is run:
        yield from _close_engine(run)
    else:
        ending.hand_over(run)
    ending.conclude(run)


def _await_inputs(run: Run) -> Step:
    try:
        refuse_circular_inputs(run)
    except ValueError as error:
        return run.fail(Event.REFUSED, error)
    blocker = yield Inputs(run.links)
    if type(blocker) is Outcome:
        return ending.crash(run, blocker)
    if blocker is not None:
        return ending.block(run, blocker)
    kept = () if run.inputs is None else kept_among(run.inputs.links)
    return (yield from _bring(run, kept)) if kept else _prepare(run)


def _bring(run: Run, kept: Sequence[Kept]) -> Step:
    """Some inputs have stayed where they were made: what the run needs here comes home first."""
    lacking = run.engine.lacking(run, kept)
    arrivals = Arrivals(lacking)
    if lacking or callable(run.plan.run_name):  # which may ask `runtime` for the others, on this thread
        answer = yield arrivals
        if answer is not True:
            return run.advance(READY) if answer is None else ending.crash(run, answer)
    if len(lacking) < len(kept):
        run.kept_inputs = run.inputs
    return _prepare(run, arrivals.take)


def _prepare(run: Run, take: Take | None = None) -> Command:
    try:
        run.engine.resolve(run, take)
    except Exception as error:
        return run.fail(Event.REFUSED, error)
    return run.advance(READY)


def _fire(run: Run, hooks: Sequence[Hook]) -> Life:
    yield from ending.fire(run, hooks)
    while run.children:  # a hook has submitted something
        yield Childless()


def _close_engine(run: Run) -> Life:
    engine = run.engine
    yield Aside(engine.close)
    ending.hand_over(run)
    if engine.is_outermost:
        yield Aside(engine.recorder.barrier)


def _wants_retry(run: Run, condition: Hook, outcome: Outcome) -> Generator[Any, Any, bool]:
    if outcome.event not in (Event.RAISED, Event.TIMED_OUT, Event.LOST):
        return True
    state = ending.preview(run, outcome)
    answer = yield from ending.ask(run, condition, run.plan.definition, run.view(), state)
    return bool(answer)


def _delay(run: Run) -> Step:
    answer = yield Sleep(run.plan.retry.delay_before(run.attempt + 1, random.random()))
    if type(answer) is Outcome:
        return ending.crash(run, answer)
    return run.advance(Event.DELAY_OVER)


def _acquire(run: Run) -> Step:
    answer = yield Acquire()
    if type(answer) is Outcome:
        return ending.crash(run, answer)
    return run.advance(Event.GRANTED)
