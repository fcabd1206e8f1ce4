"""The three ways to carry out a lifecycle: with callbacks, blocking the caller, or awaiting.

Each takes the lifecycle's requests one by one. Waiting is the same for all (`request.arm`, then somebody delivers
the answer); how to call the body, and what to do with the thread meanwhile, is what differs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from penstock._core.machine import BODY_CRASHED, Event
from penstock._core.outcome import Outcome
from penstock._engine import ending, loop, waiting
from penstock._engine.arrival import fetchers
from penstock._engine.attempt import Call, run_body, run_body_async
from penstock._engine.lifecycle import lifecycle
from penstock._engine.requests import Aside, Awaited, deliver
from penstock._engine.trampoline import bounce
from penstock.exceptions import CancelSignal, TerminationSignal
from penstock.futures import Gate, loop_waiter
from penstock.task_runners.base import here

if TYPE_CHECKING:
    from penstock._engine.lifecycle import Life
    from penstock._engine.run import Driver, Run


def _wait_for_answer(run: Run, request: Any) -> bool:
    """Note what the run waits for; False if it was cancelled before it could wait."""
    with run.lock:
        if run.status.final and run.ended is None:
            return False
        run.pending = request
        return True


def _take_over(run: Run, driver: Driver, life: Callable[[Run], Life] = lifecycle) -> None:
    """From here on the run's parent waits for it; raises `RuntimeError` if the parent has ended."""
    if run.parent is not None:
        run.parent.adopt(run)
    run.engine.recorder.touch(run)
    run.driver = driver
    run.lifecycle = life(run)


# --- callbacks: submitted runs ----------------------------------------------------------------------------------


class Callback:
    """Goes on with a run on whatever thread has the answer; the submitting thread does not wait."""

    def start(self, run: Run) -> None:
        _take_over(run, self)
        _go_on(run, None)

    def resume(self, run: Run, value: Any) -> None:
        bounce(_go_on, run, value)


callback = Callback()


def _next_request(run: Run, value: Any) -> Any:
    """Send an answer to the run's lifecycle; the next request, or None at its end."""
    life = run.lifecycle
    assert life is not None
    try:
        return life.send(value)
    except StopIteration:
        pass
    except BaseException as error:
        ending.collapse(run, error)
    run.lifecycle = None
    return None


def _go_on(run: Run, value: Any) -> None:
    while True:
        request = _next_request(run, value)
        if request is None:
            return
        if type(request) is Aside and not here.background_loop:
            request.perform()
        elif _wait_for_answer(run, request):
            break
        value = None
    if isinstance(request, Aside):
        fetchers().start(request.perform, lambda: deliver(run, request, None))
    elif isinstance(request, Awaited):
        loop.background().run(request.awaitable, lambda outcome: deliver(run, request, outcome))
    else:
        request.arm(run)


# --- blocking: direct calls of synchronous functions, and runners that execute at once --------------------------


class Blocking:
    """Goes on with a run in the calling thread, which waits whenever the run has to."""

    __slots__ = ("_advice", "_answer", "_gate", "_life", "escaped")

    def __init__(self, advice: str = waiting.ADVICE, life: Callable[[Run], Life] = lifecycle) -> None:
        self._advice = advice
        self._life = life
        self.escaped: BaseException | None = None  # what must go on to the caller besides the run's own outcome

    def drive(self, run: Run) -> None:
        """Take the run to its end. Blocks; does not raise."""
        request = self.begin(run)
        while request is not None:
            request = _next_request(run, self.carry_out(run, request))

    def begin(self, run: Run) -> Any:
        """Start the lifecycle; its first request."""
        _take_over(run, self, self._life)
        return _next_request(run, None)

    def go_on(self, run: Run, value: Any) -> Any:
        return _next_request(run, value)

    def carry_out(self, run: Run, request: Any) -> Any:
        if type(request) is Call and request.needs_thread:
            return self._perform(run, request)
        if type(request) is Aside:
            return request.perform()
        return self._wait(run, request)

    def _perform(self, run: Run, call: Call) -> Outcome | None:
        if not call.begin():
            return None
        outcome = run_body(call) if run.context is None else run.context.run(run_body, call)
        if outcome.event is BODY_CRASHED:
            self.escaped = outcome.error
        return outcome

    def _wait(self, run: Run, request: Any) -> Any:
        self._gate = Gate()
        if not _wait_for_answer(run, request):
            return None
        try:
            if type(request) is Awaited:
                loop.run_elsewhere(request.awaitable, lambda outcome: deliver(run, request, outcome))
                self._gate.wait()
            else:
                request.arm(run)
                self._block(run)
        except BaseException as error:
            return self._interrupted(run, error)
        return self._answer

    def _block(self, run: Run) -> None:
        if self.escaped is None:
            waiting.block(self._gate, None, (run,), advice=self._advice)
        else:  # the body around has been asked to stop; it hears of that when this run has ended
            waiting.without_slot(self._gate, None)

    def _interrupted(self, run: Run, error: BaseException) -> Outcome:
        with run.lock:
            run.pending = None
        self.escaped = error
        return Outcome(Event.STOPPED if isinstance(error, CancelSignal) else BODY_CRASHED, error=error)

    def resume(self, run: Run, value: Any) -> None:
        self._answer = value
        self._gate.open()


# --- awaiting: direct calls of asynchronous functions -----------------------------------------------------------


class Awaiting:
    """Goes on with a run in the calling coroutine, which awaits whenever the run has to."""

    __slots__ = ("_answer", "_wake", "escaped")

    def __init__(self) -> None:
        self.escaped: BaseException | None = None

    async def drive(self, run: Run) -> None:
        """Take the run to its end. Does not raise."""
        request = self.begin(run)
        while request is not None:
            request = _next_request(run, await self.carry_out(run, request))

    def begin(self, run: Run) -> Any:
        """Start the lifecycle; its first request."""
        _take_over(run, self)
        return _next_request(run, None)

    def go_on(self, run: Run, value: Any) -> Any:
        return _next_request(run, value)

    async def carry_out(self, run: Run, request: Any) -> Any:
        if type(request) is Call and run.plan.timeout is not None:
            return await self._perform_apart(run, request)
        if type(request) is Call:
            outcome = await run_body_async(request)
            if outcome is not None and outcome.event is BODY_CRASHED:
                self.escaped = outcome.error
            return outcome
        if type(request) is Aside:
            self.escaped = await loop.aside(request.perform) or self.escaped
            return None
        if type(request) is Awaited:
            return await self._await_callback(request)
        return await self._wait(run, request)

    async def _await_callback(self, request: Awaited) -> Outcome:
        outcome = await loop.outcome_of(request.awaitable)
        if isinstance(outcome.error, sys.modules["asyncio"].CancelledError):
            self.escaped = outcome.error  # it was the caller's: the callback only happened to be what it awaited
        return outcome

    async def _perform_apart(self, run: Run, call: Call) -> Any:
        """A body with a time limit gets a task of its own: if it does not end, the caller leaves it behind."""
        waiter, self._wake = loop_waiter()
        if not _wait_for_answer(run, call):
            return None
        task = sys.modules["asyncio"].create_task(_perform_and_report(call))
        try:
            await waiter
        except BaseException as error:
            task.cancel()
            with run.lock:
                run.pending = None
            self.escaped = error
            return Outcome(Event.CRASHED, error=error)
        return self._answer

    async def _wait(self, run: Run, request: Any) -> Any:
        waiter, self._wake = loop_waiter()
        if not _wait_for_answer(run, request):
            return None
        try:
            request.arm(run)
            await waiting.rest(waiter)
        except BaseException as error:
            with run.lock:
                run.pending = None
            self.escaped = error
            return Outcome(BODY_CRASHED, error=error)
        return self._answer

    def resume(self, run: Run, value: Any) -> None:
        self._answer = value
        self._wake()


async def _perform_and_report(call: Call) -> None:
    call.report(await run_body_async(call))


# --- helpers ----------------------------------------------------------------------------------------------------


def execute_at_once(run: Run) -> None:
    """Take a submitted run to its end in this thread.

    Only a signal to the program comes out of it, and what the body is to hear that has submitted the run.
    """
    driver = Blocking(advice="")
    driver.drive(run)
    if isinstance(driver.escaped, KeyboardInterrupt | TerminationSignal | CancelSignal):
        raise driver.escaped
    around = None if run.parent is None else run.parent.call
    if around is not None and around.stopping:  # to be raised in it, once it is the innermost body: too late, maybe
        waiting.tell_to_stop(around)


def fire_now(run: Run, hooks: Sequence[Callable[..., Any]]) -> None:
    """Call hooks from a synchronous body's thread."""
    steps = ending.fire(run, hooks)
    value: Any = None
    while True:
        try:
            request = steps.send(value)
        except StopIteration:
            return
        value = loop.outcome_elsewhere(request.awaitable)


async def fire_in_loop(run: Run, hooks: Sequence[Callable[..., Any]]) -> None:
    """Call hooks from an asynchronous body's coroutine."""
    steps = ending.fire(run, hooks)
    value: Any = None
    while True:
        try:
            request = steps.send(value)
        except StopIteration:
            return
        value = await loop.outcome_of(request.awaitable)
