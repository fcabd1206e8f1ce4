"""Task runners: where the tasks of a flow run are executed."""

from __future__ import annotations

import importlib
from typing import Any

from penstock.task_runners.base import TaskRunner
from penstock.task_runners.sequential import SequentialTaskRunner
from penstock.task_runners.threads import ThreadPoolTaskRunner

ConcurrentTaskRunner = ThreadPoolTaskRunner

__all__ = ["ConcurrentTaskRunner", "SequentialTaskRunner", "TaskRunner", "ThreadPoolTaskRunner"]


def __getattr__(name: str) -> Any:
    """Runners that not every program needs are loaded when they are asked for."""
    if name == "ProcessPoolTaskRunner":
        return importlib.import_module("penstock.task_runners.processes").ProcessPoolTaskRunner
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
