"""Runners whose workers go on from flow to flow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

from penstock.task_runners import TaskRunner


class Lasting(TaskRunner):
    """Goes on from flow to flow: what takes long to start is started once. Else it is the runner that it is given."""

    def __init__(self, runner: TaskRunner) -> None:
        self._runner = runner
        self.capabilities = runner.capabilities

    @property
    def slots(self) -> int:
        return self._runner.slots

    def execute(self, call: Any) -> Any:
        return self._runner.execute(call)

    def duplicate(self) -> Self:
        return type(self)(self._runner)


@contextmanager
def lasting(runner: TaskRunner) -> Iterator[TaskRunner]:
    runner.start()
    try:
        yield Lasting(runner)
    finally:
        runner.close()
