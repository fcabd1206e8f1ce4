"""Task runners: where the tasks of a flow run are executed."""

from __future__ import annotations

import importlib
from typing import Any

from penstock.task_runners.base import Capabilities, TaskRunner
from penstock.task_runners.sequential import SequentialTaskRunner
from penstock.task_runners.threads import ThreadPoolTaskRunner

ConcurrentTaskRunner = ThreadPoolTaskRunner

__all__ = ["Capabilities", "ConcurrentTaskRunner", "SequentialTaskRunner", "TaskRunner", "ThreadPoolTaskRunner"]


def __getattr__(name: str) -> Any:
    """Runners that not every program needs are loaded when they are asked for."""
    module, package, extra = _ON_DEMAND.get(name, (None, None, None))
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(f"penstock.task_runners.{module}"), name)
    except ModuleNotFoundError as error:
        if package is None or error.name != package:
            raise
        raise ImportError(f'{name} needs the {package!r} package: pip install "penstock[{extra}]"') from None


_ON_DEMAND: dict[str, tuple[str, str | None, str | None]] = {
    "ProcessPoolTaskRunner": ("processes", None, None),
    "DaskTaskRunner": ("dask", "distributed", "dask"),
    "get_dask_client": ("dask", "distributed", "dask"),
    "RayTaskRunner": ("ray", "ray", "ray"),
    "remote_options": ("ray", "ray", "ray"),
}
"""Where they are, and the package of which extra they need."""
