"""A task runner used alone: the `with` block is the body of a flow run."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any

from penstock import calls, generators, maps
from penstock.flows import Flow

if TYPE_CHECKING:
    from penstock.definitions import Definition
    from penstock.futures import Future, FutureList
    from penstock.task_runners.base import TaskRunner


class Session:
    """The run that tasks submitted to a runner are part of, from entering the block to leaving it."""

    def __init__(self, runner: TaskRunner) -> None:
        self._run = calls.flow_run(Flow(_block, name=runner.name), runner, {}, ())
        self._steps = generators.iterate(lambda: self._run, return_state=False, is_async=False)

    def __enter__(self) -> None:
        next(self._steps)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._steps.close()
            return
        try:
            self._steps.throw(error)
        except BaseException as raised:
            if raised is not error:
                raise

    def submit(self, task: Definition, parameters: dict[str, Any], wait_for: Any) -> Future[Any]:
        return task.start(self._run, (), parameters, calls.find_waits(wait_for), task.next_number(self._run))

    def map(self, task: Definition, parameters: dict[str, Any], wait_for: Any) -> FutureList[Any]:
        return maps.submit_all(task, self._run, (), parameters, calls.find_waits(wait_for))

    def cancel_all(self) -> None:
        self._run.engine.cancel_all_below()  # those first that have not started


def _block() -> Iterator[None]:
    yield
