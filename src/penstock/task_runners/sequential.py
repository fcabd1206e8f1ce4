"""Bodies one after another, in the submitting thread."""

from __future__ import annotations

from concurrent.futures import Future as StandardFuture
from typing import Any, Self

from penstock.task_runners.base import Call, Capabilities, TaskRunner


class SequentialTaskRunner(TaskRunner):
    """Executes each task when it is submitted, in the calling thread: `.submit` returns a future that is done.

    For debugging, and for code that must not run concurrently. Asynchronous tasks run on the background loop
    while `.submit` blocks.
    """

    capabilities = Capabilities(immediate=True)

    def execute(self, call: Call) -> StandardFuture[Any] | None:
        call.perform()
        return None

    def duplicate(self) -> Self:
        return type(self)()

    def __repr__(self) -> str:
        return "SequentialTaskRunner()"
