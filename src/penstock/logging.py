"""Loggers for code inside runs, and formatters for handlers of your own."""

from __future__ import annotations

import logging
from typing import Any

from penstock._engine import interrupt
from penstock._engine.console import JsonFormatter, TextFormatter
from penstock._engine.context import current_run
from penstock.exceptions import MissingContextError

__all__ = ["JsonFormatter", "TextFormatter", "get_run_logger"]


def get_run_logger() -> logging.LoggerAdapter[logging.Logger]:
    """The logger of the run that the caller is part of; its lines are recorded with the run.

    In a thread that knows of no run it is the logger of the only root run of the process, or a plain one if
    there are several. Raises `MissingContextError` if no run is active. Does not block; thread-safe.
    """
    run = current_run.get() or interrupt.sole_root_run()
    if run is not None:
        adapter = _RunAdapter(logging.getLogger(f"penstock.{run.plan.kind}_runs"), run.log_extra())
        adapter.run = run
        return adapter
    if interrupt.runs_are_active():
        return logging.LoggerAdapter(logging.getLogger("penstock"), {})
    raise MissingContextError(
        "There is no run here: call get_run_logger() inside a function decorated with @flow or @task"
    )


class _RunAdapter(logging.LoggerAdapter[logging.Logger]):
    """Adds the run's ids and names to each line, next to what the caller adds."""

    run: Any = None

    def log(self, *args: Any, **kwargs: Any) -> None:
        kwargs["stacklevel"] = kwargs.get("stacklevel", 1) + 1  # the line is the caller's, not ours
        if current_run.get() is not None:
            super().log(*args, **kwargs)
            return
        token = current_run.set(self.run)  # in a thread that knows of no run: the line is recorded with this one
        try:
            super().log(*args, **kwargs)
        finally:
            current_run.reset(token)

    def process(self, msg: Any, kwargs: Any) -> tuple[Any, Any]:
        kwargs["extra"] = {**(self.extra or {}), **(kwargs.get("extra") or {})}
        return msg, kwargs
