"""Facts about the runs around the caller: `runtime.flow_run.name`, `runtime.task_run.tags`, ..."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from penstock._engine.context import current_run
from penstock._engine.run import Run

__all__ = ["flow_run", "task_run"]

_Getter = Callable[[Run], Any]


def _id(run: Run | None) -> str | None:
    return None if run is None else str(run.view().id)


def _root(run: Run) -> Run | None:
    root = run.flow
    for ancestor in run.ancestors():
        root = ancestor if ancestor.plan.kind == "flow" else root
    return root


_COMMON: dict[str, tuple[_Getter, Any]] = {
    "id": (lambda run: str(run.view().id), None),
    "name": (lambda run: run.name, None),
    "tags": (lambda run: sorted(run.tags), []),
    "parameters": (lambda run: run.view().parameters, {}),
    "run_count": (lambda run: run.attempt, 0),
}
_FLOW: dict[str, tuple[_Getter, Any]] = {
    **_COMMON,
    "flow_name": (lambda run: run.plan.name, None),
    "flow_version": (lambda run: run.plan.version, None),
    "scheduled_start_time": (lambda run: datetime.fromtimestamp(run.created, UTC), None),
    "parent_flow_run_id": (lambda run: _id(run.parent.flow if run.parent is not None else None), None),
    "root_flow_run_id": (lambda run: _id(_root(run)), None),
}
_TASK: dict[str, tuple[_Getter, Any]] = {**_COMMON, "task_name": (lambda run: run.plan.name, None)}


class _Facts:
    """Attributes that are looked up when they are asked for. Outside a run: None, [], {} or 0.

    A variable such as PENSTOCK__RUNTIME__TASK_RUN__NAME stands in for the real value, cast to its type.
    """

    def __init__(self, kind: str, getters: dict[str, tuple[_Getter, Any]]) -> None:
        self._kind = kind
        self._getters = getters

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self._getters:
            raise AttributeError(f"penstock.runtime.{self._kind}_run has no attribute {name!r}")
        getter, missing = self._getters[name]
        run = self._run()
        value = getter(run) if run is not None else (missing if missing is None else type(missing)(missing))
        override = os.environ.get(f"PENSTOCK__RUNTIME__{self._kind.upper()}_RUN__{name.upper()}")
        return value if override is None else _cast(override, value)

    def __dir__(self) -> list[str]:
        return sorted(self._getters)

    def __reduce__(self) -> str:
        return f"{self._kind}_run"  # the one of the process that a script's task travels to

    def _run(self) -> Run | None:
        run = current_run.get()
        if self._kind == "flow":
            return None if run is None else run.flow
        return run if run is not None and run.plan.kind == "task" else None


def _cast(text: str, value: Any) -> Any:
    if isinstance(value, bool):
        return text.strip().lower() in ("1", "true", "yes", "on")
    if isinstance(value, int | float):
        return type(value)(text)
    if isinstance(value, datetime):
        return datetime.fromisoformat(text)
    if isinstance(value, dict):
        return json.loads(text)
    if isinstance(value, list):
        return [part.strip() for part in text.split(",") if part.strip()]
    return text


flow_run: Any = _Facts("flow", _FLOW)
task_run: Any = _Facts("task", _TASK)
