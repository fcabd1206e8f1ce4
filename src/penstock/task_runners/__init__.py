"""Task runners: where the tasks of a flow run are executed."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from penstock.task_runners.base import Capabilities, TaskRunner
from penstock.task_runners.sequential import SequentialTaskRunner
from penstock.task_runners.threads import ThreadPoolTaskRunner

ConcurrentTaskRunner = ThreadPoolTaskRunner

__all__ = ["Capabilities", "ConcurrentTaskRunner", "SequentialTaskRunner", "TaskRunner", "ThreadPoolTaskRunner"]


def named(name: str, workers: int | None = None) -> TaskRunner:
    """A runner by the name that it has in settings and on the command line, with so many workers; None: its default.

    Raises `ValueError` if it cannot have that many, `ImportError` if its package is missing.
    """
    class_name, with_workers = _NAMED[name]
    make = globals().get(class_name) or __getattr__(class_name)
    runner: TaskRunner = make() if workers is None else make(**with_workers(workers))
    return runner


def _sequential(workers: int) -> dict[str, Any]:
    if workers != 1:
        raise ValueError(f"SequentialTaskRunner executes one task at a time, so it cannot have {workers} workers")
    return {}


_NAMED: dict[str, tuple[str, Callable[[int], dict[str, Any]]]] = {
    "sequential": ("SequentialTaskRunner", _sequential),
    "threads": ("ThreadPoolTaskRunner", lambda workers: {"max_workers": workers}),
    "processes": ("ProcessPoolTaskRunner", lambda workers: {"max_workers": workers}),
    "dask": ("DaskTaskRunner", lambda workers: {"cluster_kwargs": {"n_workers": workers, "threads_per_worker": 1}}),
    "ray": ("RayTaskRunner", lambda workers: {"init_kwargs": {"num_cpus": workers}}),
}
"""Their classes, and the arguments that give them a number of workers."""


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
