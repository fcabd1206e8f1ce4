"""The context of the code that is executing: which run, which tags."""

from __future__ import annotations

import contextvars
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, ParamSpec, Self, TypeVar

from penstock._core.policy import check_tags
from penstock._engine.context import current_run, current_tags
from penstock._engine.run import Run, RunView
from penstock.exceptions import MissingContextError

__all__ = ["FlowRunContext", "TagsContext", "TaskRunContext", "get_run_context", "tags", "with_context"]

P = ParamSpec("P")
R = TypeVar("R")


class _RunContext:
    """What is known about the run around the caller; read from the run when it is asked for."""

    _kind: str

    def __init__(self, run: Run) -> None:
        self._run = run

    @classmethod
    def get(cls) -> Self | None:
        """The context of the nearest run of this kind; None outside of any."""
        run = current_run.get()
        while run is not None and run.plan.kind != cls._kind:
            run = run.parent if cls._kind == "flow" else None
        return None if run is None else cls(run)

    @property
    def parameters(self) -> dict[str, Any]:
        return self._run.view().parameters

    @property
    def start_time(self) -> datetime | None:
        started = self._run.started
        return None if started is None else datetime.fromtimestamp(started, UTC)


class TaskRunContext(_RunContext):
    """Inside a task run: `task`, `task_run`, `parameters`, `start_time`."""

    _kind = "task"

    @property
    def task(self) -> Any:
        return self._run.plan.definition

    @property
    def task_run(self) -> RunView:
        return self._run.view()


class FlowRunContext(_RunContext):
    """Inside a flow run, also in its tasks: `flow`, `flow_run`, `parameters`, `start_time`."""

    _kind = "flow"

    @property
    def flow(self) -> Any:
        return self._run.plan.definition

    @property
    def flow_run(self) -> RunView:
        return self._run.view()


class TagsContext:
    """The tags that `with tags(...)` blocks around the caller add up to."""

    def __init__(self, current_tags: frozenset[str]) -> None:
        self.current_tags = set(current_tags)

    @classmethod
    def get(cls) -> TagsContext:
        return cls(current_tags.get())


def get_run_context() -> TaskRunContext | FlowRunContext:
    """The context of the task run around the caller, else of the flow run; raises `MissingContextError`."""
    context = TaskRunContext.get() or FlowRunContext.get()
    if context is None:
        raise MissingContextError(
            "There is no run here: call get_run_context() inside a function decorated with @flow or @task"
        )
    return context


@contextmanager
def tags(*new_tags: str) -> Iterator[set[str]]:
    """Add tags to the runs that are called or submitted inside the block; blocks nest and add up.

    >>> with tags("nightly"):
    ...     with tags("eu") as current:
    ...         sorted(current)
    ['eu', 'nightly']
    """
    merged = current_tags.get() | check_tags(new_tags)
    token = current_tags.set(merged)
    try:
        yield set(merged)
    finally:
        current_tags.reset(token)


def with_context(fn: Callable[P, R]) -> Callable[P, R]:
    """Wrap `fn` so that it carries the caller's context into a thread or an executor of the user's.

    Each call gets a copy of the context, so the wrapper may be called many times and at once.
    """
    context = contextvars.copy_context()

    @functools.wraps(fn)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        return context.copy().run(fn, *args, **kwargs)

    return call
