"""Task runners: where the tasks of a flow run are executed."""

from __future__ import annotations

from penstock.task_runners.base import TaskRunner
from penstock.task_runners.sequential import SequentialTaskRunner
from penstock.task_runners.threads import ThreadPoolTaskRunner

ConcurrentTaskRunner = ThreadPoolTaskRunner

__all__ = ["ConcurrentTaskRunner", "SequentialTaskRunner", "TaskRunner", "ThreadPoolTaskRunner"]
