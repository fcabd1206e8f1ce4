"""One attempt: calls the user's function once and turns whatever happens into an `Outcome`. Never raises.

This is what a worker executes. It decides nothing (retries, states and records are the engine's), but it is
where a body can be asked to stop. `Call.thread` and `Call.gate` tell where the body is; they are set under the
run's lock and only while the body is entered, so that nobody interrupts a thread that has left it.
"""

from __future__ import annotations

import sys
from _thread import get_ident
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from penstock._core.errors import describe
from penstock._core.machine import RETURNED, RUN, STARTED, Event, step
from penstock._core.outcome import Outcome
from penstock._engine import interrupt, sending, signals, travel
from penstock._engine.context import current_run
from penstock._engine.requests import deliver
from penstock.exceptions import (
    CancelledRun,
    CancelSignal,
    FlowRunTimeoutError,
    TaskRunTimeoutError,
    TerminationSignal,
)

if TYPE_CHECKING:
    import asyncio
    from concurrent.futures import Future as StandardFuture

    from penstock._core.serial import Packed
    from penstock._engine.clock import Timer
    from penstock._engine.run import Run
    from penstock.futures import Gate
    from penstock.task_runners.base import Away, LoopSlot, Worker


class Call:
    """One attempt at a run's body, as a runner sees it: to be performed once, and reported on once."""

    __slots__ = (
        *(
            "asyncio_task",
            "away",
            "cancelled",
            "claimed",
            "ended",
            "expired",
            "gate",
            "loop_thread",
            "on_worker",
            "outer",
        ),
        *("resting", "run", "slot", "stopping", "thread", "timer", "wishes", "worker"),
    )

    def __init__(self, run: Run) -> None:
        self.run = run
        self.claimed = False  # somebody has begun to execute it
        self.on_worker = False  # a runner executes it, not the caller itself
        self.worker: Worker | None = None  # the pool's thread that executes it; None: not a pool's
        self.slot: LoopSlot | None = None  # what an asynchronous body holds, if they are counted
        self.resting = 0  # its coroutines that wait for runs; while any does, the slot is lent
        self.thread: int | None = None  # where a synchronous body is running
        self.loop_thread: int | None = None  # of the event loop that runs it
        self.asyncio_task: asyncio.Task[Any] | None = None  # in which an asynchronous body is running
        self.away: Away | None = None  # the process that executes it
        self.wishes: Any = None  # of the user as to where; only its runner understands them
        self.outer: Call | None = None  # the body that the thread was in before
        self.gate: Gate | None = None  # where the body is blocked while it waits for the engine
        self.stopping = False  # the body has been asked to stop
        self.cancelled = False  # by cancelling the asyncio task that it runs in
        self.expired = False  # because its time is over
        self.timer: Timer | None = None
        self.ended = False

    @property
    def needs_thread(self) -> bool:
        return not self.run.plan.is_async

    @property
    def was_released(self) -> bool:
        """Whether the run had to wait for something: such a call goes before those that never did."""
        return bool(self.run.links) or self.run.attempt > 0

    def arm(self, run: Run) -> None:
        run.engine.execute(self)

    def perform(self) -> None:
        """Execute the body on this thread (an asynchronous one on the background loop) and report."""
        self.run.engine.perform(self)

    def execute(self) -> Outcome | None:
        """Execute the body on this thread and return its outcome; None if the run has been cancelled."""
        # By way of `self`: cloudpickle sends this very function along with what `__reduce__` makes of the call.
        return self.carry_out()

    def carry_out(self) -> Outcome | None:
        self.on_worker = True
        context = self.run.context
        if context is None or not self.begin():
            return None
        if self.run.attempt > 1:
            context = context.copy()  # an attempt that was written off may still be inside the first one
        return context.run(run_body, self)

    def report(self, outcome: Outcome | None) -> None:
        """Hand in what `execute` returned."""
        if outcome is not None:
            deliver(self.run, self, outcome)

    def reported(self, result: StandardFuture[Outcome | None]) -> None:
        """The runner that executed the call has its outcome, or has lost it."""
        self.run.engine.receive(self, result)

    def __reduce__(self) -> Any:
        """A runner sends the call to another process: it has begun, as far as anybody here can know.

        Raises `SerializationError`, with which the run fails.
        """
        return sending.send(self).__reduce__()

    # --- bodies in other processes ------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The task's."""
        return self.run.plan.name

    @property
    def key(self) -> str:
        return self.run.plan.key

    @property
    def remote_options(self) -> Mapping[str, Any]:
        """The task's, for Ray."""
        return self.run.plan.remote_options

    def ask(self, question: Callable[[], Any]) -> Any:
        """The answer where the task was submitted: in the context of that."""
        context = self.run.context
        return question() if context is None else context.copy().run(question)

    @property
    def is_over(self) -> bool:
        """Whether there is nothing to execute any more: the run has been cancelled."""
        return self.run.status.final or self.run.engine.closing

    @property
    def in_a_hurry(self) -> bool:
        """Whether its beginning matters to others than itself: a time limit starts then, or a hook is to be called."""
        plan = self.run.plan
        return plan.timeout is not None or bool(plan.hooks["on_running"])

    @property
    def may_block(self) -> bool:
        """Whether what follows the body calls user code, which may wait for other runs, or waits for the store."""
        plan = self.run.plan
        return any(plan.hooks.values()) or plan.condition is not None or plan.keeping is not None

    def pack(self) -> tuple[Packed, Packed | None, Packed]:
        """What to send: what all calls of this task share, what those of its map share, and the rest.

        Raises `SerializationError`.
        """
        plan = self.run.plan
        if plan.household is None:
            plan.household = travel.pack_household(self.run)
        visit, common = travel.pack_visit(self)
        return plan.household, common, visit

    def board(self, away: Away) -> bool:
        """From now on `away` sees to the call; False if it has been begun already, or is not to be any more."""
        with self.run.lock:
            if self.claimed or self.is_over:
                return False
            self.away = away
            return True

    def leave(self) -> bool:
        """Nobody sees to the call any more; False if it is said to have begun: then it stays where it is."""
        with self.run.lock:
            if self.claimed:
                return False
            self.away = None
            return True

    def start_away(self) -> bool:
        """The body is next, in another process; False if the run has been cancelled meanwhile."""
        if not self.begin():
            return False
        self.run.engine.about_to_run(self.run)
        return True

    def arrive(self, report: Any) -> None:
        """The body has ended in another process."""
        self.run.engine.arrive(self, report)

    def lose(self, error: BaseException) -> None:
        """The process that executed the body is gone."""
        self.run.engine.lose(self, error)

    def refuse(self, error: BaseException) -> None:
        """The body cannot be executed there."""
        self.run.engine.refuse(self, error)

    def note(self, message: Any) -> None:
        """Something that the body has sent home."""
        self.run.engine.note(message)

    # --- the attempt ----------------------------------------------------------------------------------------------

    def begin(self, *, if_away: bool = False) -> bool:
        """Take the call and start the attempt; False if somebody else has, or if the run is cancelled.

        With `if_away`, only if it is in the hands of another process at this moment.
        """
        run = self.run
        if run.engine.closing and run.engine.root is not run and self.away is None:
            run.engine.cancel(run)  # its turn has not come yet; without this, others would start until it comes
        with run.lock:
            if (if_away and self.away is None) or self.claimed or step(run, STARTED, run.plan) is not RUN:
                return False
            self.claimed = True
            run.call = self
        engine = run.engine
        run.started = engine.now()
        if run.first_started is None:
            run.first_started = run.started
        if run.ticket is None:
            engine.recorder.touch(run)
        if run.plan.timeout is not None:
            self.timer = engine.clock.call_later(run.plan.timeout, self._expire)
        return True

    def end(self) -> None:
        """The body is left: from here on nobody interrupts this thread for it."""
        with self.run.lock:
            self.ended = True
            thread, self.thread = self.thread, None
        if thread is not None:
            interrupt.leave(self, thread)
        if self.timer is not None:
            self.timer.cancel()

    def pause(self) -> None:
        """The thread leaves the body for now: a generator has handed out an item."""
        with self.run.lock:
            thread, self.thread = self.thread, None
        if thread is not None:
            interrupt.leave(self, thread)

    def ask_to_stop(self) -> bool:
        """Interrupt the body, now or as soon as that is safe; False if it has ended or has been asked before."""
        asked = self.mark_as_stopping()
        if asked:
            self.interrupt()
        return asked

    def mark_as_stopping(self) -> bool:
        """Let the body hear that it is to stop when it next asks; False if it has ended or has been asked before."""
        with self.run.lock:
            if self.ended or self.stopping:
                return False
            self.stopping = True
            return True

    def interrupt(self) -> None:
        """Interrupt the body, which is to stop, now or as soon as that is safe."""
        with self.run.lock:
            if self.ended:
                return
            gate = self.gate
        if self.away is not None:
            self.away.ask_to_stop(self)
        elif gate is not None:
            gate.open()
        elif self.asyncio_task is not None:
            self._cancel_soon(self.asyncio_task)
        else:
            interrupt.stop_thread(self)

    def _cancel_soon(self, task: asyncio.Task[Any]) -> None:
        try:
            task.get_loop().call_soon_threadsafe(self._cancel, task)
        except RuntimeError:
            pass  # the loop is closed, so nothing of the task executes any more

    def _cancel(self, task: asyncio.Task[Any]) -> None:
        """On the loop's thread: nothing moves meanwhile, so a body that has ended is not cancelled any more."""
        if self.asyncio_task is task and not self.ended:
            self.cancelled = True
            task.cancel()

    def _expire(self) -> None:
        self.expired = True
        self.run.engine.expire(self)


def call_user(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The frame below all user code of a body: where an interruption of the thread is safe."""
    return fn(*args, **kwargs)


interrupt.mark_safe(call_user)
_NOTHING: Any = object()


def run_body(call: Call) -> Outcome:
    """Execute the synchronous body of a call that has begun, on this thread."""
    run = call.run
    token = current_run.set(run)
    value, error = _NOTHING, None
    try:
        run.engine.about_to_run(run)
        args, kwargs = run.plan.binder.call(run.parameters)
        interrupt.enter(call)
        try:
            value = call_user(run.plan.fn, args, kwargs)
            if run.plan.is_generator:
                value = call_user(list, (value,), {})
        except BaseException as raised:
            error = raised
        call.end()
    except CancelSignal as late:  # it was on its way when the body ended; the outcome stands
        call.end()
        interrupt.leave(call, get_ident())
        error = error or (late if value is _NOTHING else None)
    finally:
        current_run.reset(token)
    return judge(call, value, error)


async def run_body_async(call: Call) -> Outcome | None:
    """Execute an asynchronous body in this coroutine; None if there is nothing to execute any more."""
    if not call.begin():
        return None
    run = call.run
    token = current_run.set(run)
    value, error = _NOTHING, None
    task = sys.modules["asyncio"].current_task()
    try:
        await run.engine.about_to_run_async(run)
        args, kwargs = run.plan.binder.call(run.parameters)
        call.asyncio_task, call.loop_thread = task, get_ident()
        if call.stopping:
            raise CancelSignal
        value = await _call_user_async(run, args, kwargs)
    except BaseException as raised:
        error = raised
    finally:
        call.end()
        current_run.reset(token)
    if call.cancelled and task is not None:
        task.uncancel()  # the request was ours and has arrived
    return judge(call, value, error)


async def _call_user_async(run: Run, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if run.plan.is_generator:
        return [item async for item in run.plan.fn(*args, **kwargs)]
    return await run.plan.fn(*args, **kwargs)


def judge(call: Call, value: Any, error: BaseException | None) -> Outcome:
    """What the end of a body means."""
    if call.expired:
        return Outcome(Event.TIMED_OUT, error=_timed_out(call, error))
    if error is None:
        return Outcome(RETURNED, value)
    _show_user_frames_only(error)
    if _is_stop(call, error):
        return Outcome(Event.STOPPED, error=error)
    if isinstance(error, TimeoutError):
        return Outcome(Event.TIMED_OUT, error=error)
    if isinstance(error, Exception):
        return Outcome(Event.RAISED, error=error)
    return Outcome(Event.CRASHED, error=error)


def _is_stop(call: Call, error: BaseException) -> bool:
    if isinstance(error, CancelSignal):
        return True
    asked = call.stopping or call.run.cancel_asked
    return asked and (isinstance(error, CancelledRun) or type(error).__name__ == "CancelledError")


def _timed_out(call: Call, error: BaseException | None) -> TimeoutError:
    """The timeout's exception with the traceback of the interruption: it tells where the body was."""
    timeout = timeout_error(call.run)
    if error is not None and (isinstance(error, CancelSignal) or type(error).__name__ == "CancelledError"):
        _show_user_frames_only(error)
        timeout.__traceback__ = error.__traceback__
    return timeout


def timeout_error(run: Run) -> TimeoutError:
    kind = TaskRunTimeoutError if run.plan.kind == "task" else FlowRunTimeoutError
    return kind(f"{run.label} exceeded timeout of {run.plan.timeout:g} second(s)")


def _show_user_frames_only(error: BaseException) -> None:
    """Begin the traceback at the user's function: the frames above it are the engine's and the same for all."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_globals.get("__name__") == __name__:
        trace = trace.tb_next
    if trace is not None:
        BaseException.with_traceback(error, trace)  # also of one that refuses to have attributes set


_ABORTS: tuple[tuple[type[BaseException], str], ...] = (
    (KeyboardInterrupt, "was aborted by an interrupt signal."),
    (TerminationSignal, "was aborted by a termination signal."),
    (SystemExit, "was ended by a Python system exit call."),
    (GeneratorExit, "was closed before it had ended."),
)


def crash_message(run: Run, error: BaseException | None) -> str:
    """One sentence about what ended a run that crashed."""
    subject = f"{run.plan.kind.capitalize()} run"
    for kind, text in _ABORTS:
        if isinstance(error, kind):
            return f"{subject} {text}"
    if type(error).__name__ == "CancelledError":  # a signal arrives in a coroutine as the cancellation of its task
        by_signal = signals.reason()
        return f"{subject} was {f'aborted by {by_signal}' if by_signal else 'cancelled by the runtime environment'}."
    return f"{subject} crashed with {'an unknown error' if error is None else describe(error)}"
