"""Where the time of a run went that has ended, and which runs it was that everything waited for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from penstock.store.base import RunRow
from penstock.ui.answers.documents import Document, finite, table, title
from penstock.ui.answers.groups import Group
from penstock.ui.records import THOROUGH, Records

MANY = 20_000  # runs
STEPS = 100  # of the critical path


def where(records: Records, run: RunRow, groups: Sequence[Group]) -> Document | None:
    """None while the run goes on, and if it called nothing."""
    if run.ended is None or run.started is None or not groups:
        return None
    return records.once(run, ("where",), lambda: _where(records, run, groups))


def _where(records: Records, run: RunRow, groups: Sequence[Group]) -> Document:
    wall = max(0.0, (run.ended or 0.0) - (run.started or 0.0))
    tasks = [group for group in groups if group.kind == "task"]
    retrying = sum(group.between for group in tasks)
    user = max(0.0, sum(group.busy for group in tasks) - retrying)
    covered = _covered(records, run, sum(group.total for group in groups))
    path = _critical_path(records, run)
    return {
        "wall": finite(wall),
        "user": finite(user),
        "queue": finite(sum(group.queued for group in tasks)),
        "waiting": finite(sum(group.waited for group in tasks)),
        "retrying": finite(retrying),
        "engine": None if covered is None else finite(max(0.0, wall - covered)),
        "parallel": finite(user / wall) if wall else None,
        "critical_path": table("id title started ended waited", path),
    }


def _covered(records: Records, run: RunRow, total: int) -> float | None:
    """Sorting the runs by their starts takes long where they are many."""
    if total > MANY:
        return None
    [(covered,)] = records.ask("covered", within=THOROUGH, run_id=run.id)
    return covered or 0.0


def _critical_path(records: Records, run: RunRow) -> list[tuple[Any, ...]]:
    """Backwards from the run that ended last: each had to wait for the end of the one before it, as its input, or
    because the body called one after the other."""
    found: list[RunRow] = []
    row = _one(records.ask("last_child", within=THOROUGH, run_id=run.id))
    while row is not None and len(found) < STEPS:
        found.append(row)
        row = _cause(records, row)
    found.reverse()
    ends = [run.started or run.created, *(one.ended or 0.0 for one in found)]
    return [
        (one.id, title(one), one.started, one.ended, max(0.0, (one.started or end) - end))
        for one, end in zip(found, ends, strict=False)
    ]


def _cause(records: Records, row: RunRow) -> RunRow | None:
    inputs = [RunRow._make(cells[2:]) for cells in records.ask("upstreams", run_id=row.id, limit=1000)]
    late = [one for one in inputs if one.ended is not None and one.started is not None]
    if late:
        last = max(late, key=lambda one: one.ended or 0.0)
        if (last.ended or 0.0) > row.created:
            return last
    return _one(records.ask("before", parent_id=row.parent_id, created=row.created))


def _one(rows: Sequence[tuple[Any, ...]]) -> RunRow | None:
    return RunRow._make(rows[0]) if rows else None
