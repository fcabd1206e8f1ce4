"""One run by itself: its attempts, what it waited for, and what waited for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from penstock.cli.failures import user_line
from penstock.store.base import AttemptRow, RunRow
from penstock.ui.answers import groups
from penstock.ui.answers.documents import LONG, LONGEST, Document, block, document, fate, line, table, title
from penstock.ui.answers.run import header
from penstock.ui.asking import Asked, as_cursor
from penstock.ui.records import THOROUGH, Records

MOST = 100
LATEST = 50  # attempts, and how much their tracebacks may take together
ALL_TRACEBACKS = 100_000


def answer(records: Records, asked: Asked) -> Document:
    run = records.get(asked["id"])
    found = groups.of(records, run)
    return document(
        **header(records, run, found),
        attempts=_attempts(records, run),
        upstreams=_upstreams(records, run),
        downstreams=_downstreams(records, run, asked["after"]),
        children=sum(group.total for group in found),
    )


def _attempts(records: Records, run: RunRow) -> Document:
    rows = [AttemptRow._make(row) for row in records.ask("attempts_of", ids=f'["{run.id}"]')][-LATEST:]
    longest = min(LONGEST, ALL_TRACEBACKS // max(1, len(rows)))
    cells = (
        (
            row.number,
            line(row.state_name),
            _fate(run, row),
            row.started,
            row.ended,
            line(row.error_type),
            block(row.error, LONG // 2),
            user_line(row.traceback or "") or None,
            block(row.traceback, longest),
        )
        for row in rows
    )
    return table("number state fate started ended error_type error user_line traceback", cells)


def _fate(run: RunRow, attempt: AttemptRow) -> str:
    return fate(run) if attempt.number == run.attempts else "retried"


def _upstreams(records: Records, run: RunRow) -> Document:
    rows = records.ask("upstreams", run_id=run.id, limit=MOST + 1)
    cells = ((*_neighbour(row), row[2].started, row[2].ended, line(row[2].result)) for row in _split(rows[:MOST]))
    return table("kind parameter id title fate state started ended result", cells, more=len(rows) > MOST)


def _downstreams(records: Records, run: RunRow, after: tuple[Any, str] | None) -> Document:
    created, last = after or (run.created, run.id)
    place = {"parent_id": run.parent_id, "created": created, "id": last}
    rows = records.ask("downstreams", within=THOROUGH, run_id=run.id, limit=MOST + 1, **place)
    page = [*_split(rows[:MOST])]
    more = as_cursor(page[-1][2].created, page[-1][2].id) if len(rows) > MOST else None
    return table("kind parameter id title fate state", map(_neighbour, page), next=more)


def _split(rows: Sequence[tuple[Any, ...]]) -> Iterator[tuple[str, str | None, RunRow]]:
    for kind, parameter, *cells in rows:
        yield kind, parameter, RunRow._make(cells)


def _neighbour(row: tuple[str, str | None, RunRow]) -> tuple[Any, ...]:
    kind, parameter, run = row
    return kind, line(parameter), run.id, title(run), fate(run), line(run.state_name)
