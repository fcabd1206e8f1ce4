"""The list of root runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from penstock import tallies
from penstock.store.base import RunRow
from penstock.store.text import as_parameters
from penstock.ui.answers import groups
from penstock.ui.answers.documents import (
    FATES,
    Document,
    columns,
    document,
    error,
    fate,
    line,
    parameters_line,
    tags,
)
from penstock.ui.asking import Asked, as_cursor
from penstock.ui.records import Records, TookTooLong

COUNTING = 0.06  # seconds, by the clock of the records, that counting the tasks of the runs may take in one answer
_COLUMNS = "id kind name run_name state status fate created started ended tags message error parameters resumed_from"


def answer(records: Records, asked: Asked) -> Document:
    records.look_for_deaths()
    limit = asked["limit"]
    rows = _found(records, asked, limit + 1)
    page = rows[:limit]
    return document(
        columns=columns(_COLUMNS, map(_cells, page)),
        tasks=_tasks(records, page),
        next=as_cursor(page[-1].created, page[-1].id) if len(rows) > limit else None,
    )


def _found(records: Records, asked: Asked, limit: int) -> list[RunRow]:
    wanted = {"name": asked["flow"], "states": asked["state"], "tags": asked["tag"], "text": asked["text"]}
    patterns = as_parameters({**wanted, "since": asked["since"], "until": asked["until"]})
    name, value = asked["parameter"] or (None, None)
    created, last = asked["after"] or (None, None)
    place: dict[str, Any] = {"created": created, "id": last, "parameter": name, "value": _part(value) if value else "%"}
    del patterns["below"], patterns["kind"]
    rows = [RunRow._make(row) for row in records.ask_roots("root_runs", limit=limit, **patterns, **place)]
    return [shown for row in rows if (shown := records.reader.get(row.id)) is not None] if _unfinished(rows) else rows


def _part(text: str) -> str:
    pattern: str = as_parameters({"text": text})["text"]
    return pattern


def _unfinished(rows: Sequence[RunRow]) -> bool:
    return any(row.ended is None for row in rows)


def _cells(row: RunRow) -> tuple[Any, ...]:
    return (
        row.id,
        row.kind,
        line(row.name),
        line(row.run_name),
        line(row.state_name),
        row.status,
        fate(row),
        row.created,
        row.started,
        row.ended,
        tags(row),
        line(row.message),
        error(row),
        parameters_line(row),
        row.resumed_from,
    )


def _tasks(records: Records, rows: Sequence[RunRow]) -> dict[str, list[int | None]]:
    """How many tasks by what has become of them. Where there was no time to count them, null: the next answer goes on,
    for those of runs that have ended are counted once."""
    until = records.clock() + COUNTING
    counted = [_counted(records, row, until) for row in rows]
    return {
        name: [None if numbers is None else numbers.get(name, 0) for numbers in counted] for name in (*FATES, "retried")
    }


def _counted(records: Records, row: RunRow, until: float) -> dict[str, int] | None:
    if records.clock() > until and not records.remembers(row, ("groups",)):
        return None
    try:
        return tallies.total(groups.tallied(groups.of(records, row)), "task").numbers
    except TookTooLong:
        return None
