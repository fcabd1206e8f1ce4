"""How a run is written down: its row, its past attempts, what it depended on.

Runs on the recorder's thread while the run goes on, and at the run's end on the thread that ends it.
"""

from __future__ import annotations

import functools
import json
import math
import os
import platform
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from penstock._core.errors import text_of, traceback_of
from penstock._engine.ids import as_hex
from penstock._unexpanded import UnexpandedFutureList
from penstock.states import Status
from penstock.store.base import AttemptRow, Batch, EdgeRow, ResultRow, RunRow

if TYPE_CHECKING:
    from penstock._core.graph import Link
    from penstock._engine.run import Run

_NO_TAGS = "[]"
_STATUS_NAMES = {status: status.name for status in Status}
_NO_ERROR = (None, None, None)
LONGEST_PARAMETERS = 64_000  # characters
_PLAIN = frozenset({type(None), bool, int, float, str})


class Snapshot:
    """What is to be recorded of a run, without the run."""

    __slots__ = ("_attempts", "_edges", "_results", "_row", "power")

    unstarted = False

    def __init__(self, run: Run, results: Sequence[ResultRow] = (), power: bool = False) -> None:
        self._results = results
        self.power = power
        links, run.fresh_edges = run.fresh_edges, ()
        self._edges = [row for link in links for row in _edges(run, link)] if links else ()
        self._attempts, run.past = run.past, ()
        self._row = _row(run)

    def taken(self, ticket: object) -> Snapshot:
        return self

    def rows(self, batch: Batch) -> None:
        batch.edges.extend(self._edges)
        batch.attempts.extend(self._attempts)
        batch.runs.append(self._row)
        batch.results.extend(self._results)


def process_facts() -> dict[str, Any]:
    """What tells the process that a root run belongs to."""
    facts = {"host": platform.node(), "pid": os.getpid(), "python": platform.python_version()}
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    return facts if script is None else {**facts, "script": os.path.abspath(script)}


@functools.cache
def _process_facts(pid: int) -> str:
    return json.dumps(process_facts())


def root_facts(run: Run | None = None) -> str:
    """What else the record says of a root run: its process, and the parameters of a flow, for another life."""
    facts = _process_facts(os.getpid())
    if run is not None and run.engine.script is not None:
        facts = json.dumps({**process_facts(), "script": run.engine.script})
    if run is None or not is_plain(run.parameters):
        return facts
    text = json.dumps(run.parameters)
    return f'{facts[:-1]}, "parameters": {text}}}' if len(text) <= LONGEST_PARAMETERS else facts


def is_plain(value: Any) -> bool:
    """Whether JSON gives back the very same value."""
    try:
        return _is_plain(value)
    except RecursionError:
        return False


def _is_plain(value: Any) -> bool:
    kind = type(value)
    if kind is dict:
        return all(type(key) is str and _is_plain(item) for key, item in value.items())
    if kind is list:
        return all(map(_is_plain, value))
    return kind in _PLAIN and (kind is not float or math.isfinite(value))


def parameters_address(run_id: str) -> str:
    """Under which address the parameters of a flow run are kept that JSON cannot give back."""
    return f"{run_id}.parameters"


class Foreign:
    """Rows that were made in another process, or apart from a run."""

    __slots__ = ("_batch",)

    unstarted = power = False

    def __init__(self, batch: Batch) -> None:
        self._batch = batch

    def taken(self, ticket: object) -> Foreign:
        return self

    def rows(self, batch: Batch) -> None:
        batch.runs.extend(self._batch.runs)
        batch.attempts.extend(self._batch.attempts)
        batch.edges.extend(self._batch.edges)
        batch.logs.extend(self._batch.logs)
        batch.results.extend(self._batch.results)


def _row(run: Run) -> RunRow:
    plan, status, parent, engine = run.plan, run.status, run.parent, run.engine
    error = run.error
    error_type, text, trace = _NO_ERROR if error is None or not status.final else _described(error)
    # By position: one call with 26 keywords costs as much as the rest of the row.
    row = RunRow(
        as_hex(run.id),
        engine.outermost.hex,
        None if parent is None else parent.hex,
        engine.flow_hex if engine.root is not run else engine.outer_flow_hex,
        plan.kind,
        plan.name,
        run.name,
        plan.key,
        run.index,
        _STATUS_NAMES[status],
        run.state_name(),
        run.attempt,
        run.created,
        run.ready,
        run.first_started,
        run.started,
        run.ended,
        run.message if status.final else None,
        error_type,
        text,
        trace,
        run.shown_result,
        run.shown or "{}",
        json.dumps(sorted(run.tags)) if run.tags else _NO_TAGS,
        plan.version,
        engine.facts if parent is None else None,
    )
    return row if parent is not None and run.memo is None else _completed(run, row)


def _completed(run: Run, row: RunRow) -> RunRow:
    """With what only root runs have, and runs whose values are kept."""
    engine = run.engine
    if run.parent is None:
        row = row._replace(owner=engine.owner, resumed_from=engine.resumed_from)
    if run.memo is None:
        return row
    position, result_key, result_storage, code = run.memo.columns()
    return row._replace(position=position, result_key=result_key, result_storage=result_storage, code=code)


def attempt_row(run: Run, error: BaseException | None) -> AttemptRow:
    """The attempt that has just ended and will be followed by another."""
    name = "TimedOut" if isinstance(error, TimeoutError) else "Failed"
    return AttemptRow(as_hex(run.id), run.attempt, run.started, run.engine.now(), name, *_described(error))


def _described(error: BaseException | None) -> tuple[str | None, str | None, str | None]:
    if error is None:
        return None, None, None
    return type(error).__name__, text_of(error), traceback_of(error)


def _edges(run: Run, link: Link) -> list[EdgeRow]:
    kind, parameter = ("wait_for", None) if link.parameter == "wait_for" else ("data", link.parameter)
    return [EdgeRow(as_hex(run.id), upstream, kind, parameter) for upstream in _upstream_ids(link.upstream)]


def _upstream_ids(upstream: Any) -> list[str]:
    if isinstance(upstream, UnexpandedFutureList):
        return [] if upstream._expansion is not None else [i for f in upstream for i in _upstream_ids(f)]
    promise = getattr(upstream, "_promise", None)
    if promise is not None:
        return [as_hex(promise.id)]
    given = upstream.state_details.task_run_id or upstream.state_details.flow_run_id
    return [] if given is None else [given.hex]
