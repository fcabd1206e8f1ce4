"""How a run is written down: its row, its past attempts, what it depended on. Runs on the recorder's thread."""

from __future__ import annotations

import json
import traceback
from typing import TYPE_CHECKING, Any

from penstock._engine.ids import as_hex
from penstock.store.base import AttemptRow, Batch, EdgeRow, RunRow

if TYPE_CHECKING:
    from penstock._core.graph import Link
    from penstock._engine.run import Run

_NO_TAGS = "[]"


def add_rows(run: Run, batch: Batch) -> None:
    """Append what is to be recorded of `run` now."""
    edges, run.fresh_edges = run.fresh_edges, ()
    for link in edges:
        batch.edges.extend(_edges(run, link))
    past, run.past = run.past, []
    batch.attempts.extend(past)
    batch.runs.append(_row(run))


def _row(run: Run) -> RunRow:
    plan, status = run.plan, run.status
    error_type, error, trace = _described(run.error) if status.final else (None, None, None)
    flow = run.flow if plan.kind == "task" else (run.parent.flow if run.parent is not None else None)
    return RunRow(
        id=as_hex(run.id),
        root_id=as_hex(_root(run).id),
        parent_id=None if run.parent is None else as_hex(run.parent.id),
        flow_run_id=None if flow is None else as_hex(flow.id),
        kind=plan.kind,
        name=plan.name,
        run_name=run.name,
        key=plan.key,
        map_index=run.index,
        status=status.name,
        state_name=run.state_name(),
        attempts=run.attempt,
        created=run.created,
        ready=run.ready,
        started=run.started,
        attempt_started=run.started,
        ended=run.ended,
        message=run.message if status.final else None,
        error_type=error_type,
        error=error,
        traceback=trace,
        result=run.shown_result,
        parameters=run.shown or "{}",
        tags=json.dumps(sorted(run.tags)) if run.tags else _NO_TAGS,
        version=plan.version,
        info=run.engine.facts if run.parent is None else None,
    )


def _root(run: Run) -> Run:
    while run.parent is not None:
        run = run.parent
    return run


def attempt_row(run: Run, error: BaseException | None) -> AttemptRow:
    """The attempt that has just ended and will be followed by another."""
    name = "TimedOut" if isinstance(error, TimeoutError) else "Failed"
    return AttemptRow(
        as_hex(run.id), run.attempt, run.started, run.engine.clock.now(), name, *_described(error)
    )


def _described(error: BaseException | None) -> tuple[str | None, str | None, str | None]:
    if error is None:
        return None, None, None
    return type(error).__name__, _text(error), _traceback(error)


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as broken:
        return f"(its text cannot be shown: {type(broken).__name__})"


def _traceback(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(error))
    except Exception as broken:
        return f"(the traceback cannot be shown: {type(broken).__name__})"


def _edges(run: Run, link: Link) -> list[EdgeRow]:
    kind, parameter = ("wait_for", None) if link.parameter == "wait_for" else ("data", link.parameter)
    return [EdgeRow(as_hex(run.id), upstream, kind, parameter) for upstream in _upstream_ids(link.upstream)]


def _upstream_ids(upstream: Any) -> list[str]:
    if isinstance(upstream, list):
        return [] if upstream._expansion is not None else [i for f in upstream for i in _upstream_ids(f)]
    promise = getattr(upstream, "_promise", None)
    if promise is not None:
        return [as_hex(promise.id)]
    given = upstream.state_details.task_run_id or upstream.state_details.flow_run_id
    return [] if given is None else [given.hex]
