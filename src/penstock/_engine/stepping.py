"""The body of a generator task, taken one step at a time: each step is entered and left like a whole body."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from penstock._core.outcome import Outcome
from penstock._engine import interrupt
from penstock._engine.attempt import Call, call_user, judge
from penstock._engine.context import current_run
from penstock.exceptions import CancelSignal

if TYPE_CHECKING:
    from collections.abc import Iterator


class Stepper:
    """Iterates over a user's generator on behalf of a call. Its methods do not raise what the generator raises."""

    def __init__(self, call: Call) -> None:
        self.over = False
        self._skipped = False
        self._call = call
        self._generator: Any = None
        self._value: Any = None
        self._error: BaseException | None = None

    def first(self) -> Any:
        """Run to the first item."""
        run = self._call.run
        run.engine.about_to_run(run)
        args, kwargs = run.plan.binder.call(run.parameters)
        self._generator = run.plan.fn(*args, **kwargs)  # runs nothing of the user's yet
        return self.send(None)

    def send(self, value: Any) -> Any:
        return self._step(self._generator.send, value)

    def throw(self, error: BaseException) -> Any:
        return self._step(self._generator.throw, error)

    def close(self) -> None:
        """The consumer wants no more: the run completes."""
        self._step(self._generator.close)
        self.over = True

    def _step(self, advance: Callable[..., Any], *value: Any) -> Any:
        try:
            with self._entered():
                return call_user(advance, value, {})
        except StopIteration as end:
            self._value, self.over = end.value, True
        except BaseException as error:
            self._error, self.over = error, True

    @contextmanager
    def _entered(self) -> Iterator[None]:
        call = self._call
        if call.stopping:
            raise CancelSignal
        token = current_run.set(call.run)
        interrupt.enter(call)
        try:
            yield
        finally:
            call.pause()
            current_run.reset(token)

    async def first_async(self) -> Any:
        run = self._call.run
        await run.engine.about_to_run_async(run)
        args, kwargs = run.plan.binder.call(run.parameters)
        self._generator = run.plan.fn(*args, **kwargs)
        return await self.step_async("asend", None)

    async def step_async(self, method: str, value: Any) -> Any:
        call = self._call
        token = current_run.set(call.run)
        call.asyncio_task = task = sys.modules["asyncio"].current_task()
        try:
            if call.stopping:
                raise CancelSignal
            return await getattr(self._generator, method)(value)
        except StopAsyncIteration:
            self.over = True
        except BaseException as error:
            self._error, self.over = error, True
            if call.cancelled:
                task.uncancel()  # the request was ours and has arrived
        finally:
            call.asyncio_task = None
            current_run.reset(token)

    async def close_async(self) -> None:
        self.over = True
        try:
            await self._generator.aclose()
        except BaseException as error:
            self._error = error

    def skip(self) -> None:
        """There is nothing to iterate over: the run was cancelled before it could begin."""
        self.over = self._skipped = True

    def outcome(self) -> Outcome | None:
        """What the iteration came to; None if there was none."""
        if self._skipped:
            return None
        self._call.end()
        return judge(self._call, self._value, self._error)
