"""A task runner that does nothing by itself: the test decides what is executed, and when."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future as StandardFuture
from functools import partial
from typing import Any, Self

from penstock._core.outcome import Outcome
from penstock._engine import loop
from penstock._engine.attempt import Call, run_body_async
from penstock.task_runners.base import Capabilities, TaskRunner

_Reported = StandardFuture[Outcome | None]
_Report = Callable[[], None]


class ScriptedRunner(TaskRunner):
    """Keeps tasks back until the test has them executed, one by one, in the order that the test wants.

    Whatever can happen at the same time in production can so be made to happen in a given order. All flow runs
    of a flow that was given the runner share one script, so that the test can talk to the runner it made. `step`
    executes a task on the calling thread; everything that follows from its end (dependents that become ready,
    hooks, callbacks) has happened when it returns. Asynchronous tasks are executed on the background loop while
    `step` blocks.

    The flow's body is usually the script, because its own thread waits for nobody:

    >>> from penstock import flow, task
    >>> @task
    ... def say(word): print(word)
    >>> runner = ScriptedRunner()
    >>> @flow(task_runner=runner)
    ... def talk():
    ...     say.map(["one", "two", "three"])
    ...     runner.step("say-0[2]")
    ...     runner.run_all()
    >>> talk()
    three
    one
    two

    A flow whose body has ended waits for the tasks that are kept back: for ever, unless another thread has them
    executed. A task that waits for another one inside its body must be stepped by a thread of its own.
    """

    capabilities = Capabilities(runs_async=True)

    def __init__(self) -> None:
        self._script = _Script()

    @property
    def pending(self) -> list[str]:
        """The names of the task runs that are kept back, in the order in which they became ready."""
        return [call.run.name for call in self._script.waiting()]

    def step(self, name: str | None = None, *, report: bool = True) -> None:
        """Execute the task run `name`, or the first one; returns when its body has ended.

        With `report=False` the flow does not learn of the end before `report(name)` is called. Raises
        `LookupError` if no such run is kept back.
        """
        call, reported = self._script.take(name)
        tell = partial(reported.set_result, _execute(call))
        if report:
            tell()
        else:
            self._script.hold(call.run.name, tell)

    def report(self, name: str) -> None:
        """Report the end of a run that was executed by `step(name, report=False)`."""
        self._script.release(name)()

    def lose(self, name: str | None = None, error: BaseException | None = None) -> None:
        """Pretend that the worker died that had been given the run `name`, or the first one.

        `error` is what the runner's machinery reports. Raises `LookupError` if no such run is kept back.
        """
        _, reported = self._script.take(name)
        reported.set_exception(error or OSError("the worker died, says the script"))

    def run_all(self) -> int:
        """Execute what is kept back, and what becomes ready by that, until nothing is left; returns how many."""
        number = 0
        while self._script.waiting():
            self.step()
            number += 1
        return number

    # --- what the engine calls ------------------------------------------------------------------------------------

    def execute(self, call: Any) -> _Reported:
        return self._script.add(call)

    def duplicate(self) -> Self:
        same = type(self)()
        same._script = self._script
        return same

    def _settings(self) -> tuple[Any, ...]:
        return (self._script,)


class _Script:
    """The calls that were handed over and not executed, and the reports that are held back. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: list[tuple[Call, _Reported]] = []
        self._held: dict[str, _Report] = {}

    def add(self, call: Call) -> _Reported:
        reported: _Reported = StandardFuture()
        with self._lock:
            self._calls.append((call, reported))
        return reported

    def waiting(self) -> list[Call]:
        with self._lock:
            self._calls = [entry for entry in self._calls if not _is_over(entry[0])]
            return [call for call, _ in self._calls]

    def take(self, name: str | None) -> tuple[Call, _Reported]:
        self.waiting()
        with self._lock:
            for index, (call, _) in enumerate(self._calls):
                if name in (None, call.run.name):
                    return self._calls.pop(index)
            kept = [call.run.name for call, _ in self._calls]
        raise LookupError(f"No task run {name or 'at all'} is kept back; these are: {', '.join(kept) or 'none'}")

    def hold(self, name: str, report: _Report) -> None:
        with self._lock:
            self._held[name] = report

    def release(self, name: str) -> _Report:
        with self._lock:
            if name not in self._held:
                held = ", ".join(self._held) or "none"
                raise LookupError(f"No report of {name!r} is held back; these are: {held}")
            return self._held.pop(name)


def _is_over(call: Call) -> bool:
    """Whether nobody wants the body to be executed any more: its run was cancelled, or somebody else has it."""
    return call.claimed or call.run.pending is not call


def _execute(call: Call) -> Outcome | None:
    if call.needs_thread:
        return call.execute()
    ended = threading.Event()
    outcomes: list[Outcome | None] = []

    async def body() -> None:
        try:
            outcomes.append(await run_body_async(call))
        finally:
            ended.set()

    loop.background().start(body, call.run.context)
    ended.wait()
    return outcomes[0]
