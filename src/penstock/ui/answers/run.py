"""The header of a run: what it is, how it went, what failed in it, where its time went."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from penstock import tallies
from penstock.cli.failures import BLOCKED, user_line
from penstock.cli.outcome import lasted
from penstock.store.base import RunRow
from penstock.ui.answers import groups, spent
from penstock.ui.answers.documents import (
    LONG,
    LONGEST,
    Document,
    block,
    document,
    error,
    fate,
    finite,
    info,
    line,
    parameters,
    table,
    tags,
    title,
)
from penstock.ui.asking import Asked
from penstock.ui.records import Records

ERRORS = 5
DEEPEST = 50
LIVES = 50


def answer(records: Records, asked: Asked) -> Document:
    records.look_for_deaths()
    run = records.get(asked["id"])
    found = groups.of(records, run)
    return document(
        **header(records, run, found),
        groups=groups.as_document(found),
        errors=_errors(records, run, found),
        lives=_lives(records, run),
        where=spent.where(records, run, found),
    )


def header(records: Records, run: RunRow, found: Sequence[groups.Group]) -> Document:
    """What there is to say about any run."""
    return {
        "run": facts(run),
        "outcome": outcome(run, found),
        "parents": table("id title kind", _parents(records, run)),
        "parameters": table("name value", parameters(run)),
        "info": table("name value", info(run)),
    }


def facts(run: RunRow) -> Document:
    as_they_are = (
        *("id", "kind", "status", "created", "ready", "started", "ended", "attempts", "parent_id", "root_id"),
        *("flow_run_id", "resumed_from", "map_index"),
    )
    short = ("name", "run_name", "key", "version", "error_type")
    return {
        **{name: finite(getattr(run, name)) for name in as_they_are},
        **{name: line(getattr(run, name)) for name in short},
        "title": title(run),
        "state": line(run.state_name),
        "fate": fate(run),
        "message": block(run.message),
        "tags": tags(run),
        "error": block(run.error or (run.message if run.error_type else None)),
        "traceback": block(run.traceback, LONGEST),
        "user_line": user_line(run.traceback or "") or None,
        "result": block(run.result) if run.status == "COMPLETED" else None,
    }


def outcome(run: RunRow, found: Sequence[groups.Group]) -> str:
    state = line(tallies.state_words(run.status, run.state_name)) or ""
    took = None if run.ended is None else lasted(run)
    return tallies.sentence(title(run), state, took, groups.tallied(found), handled=run.status == "COMPLETED")


def _parents(records: Records, run: RunRow) -> list[tuple[str, str, str]]:
    found: list[tuple[str, str, str]] = []
    above = run.parent_id
    while above is not None and len(found) < DEEPEST:
        row = records.reader.get(above)
        if row is None:
            break
        found.append((row.id, title(row), row.kind))
        above = row.parent_id
    return found[::-1]


def _errors(records: Records, run: RunRow, found: Sequence[groups.Group]) -> Document:
    """Of each task the run that failed first; the run's own error is among its facts."""
    rows = sorted(_first_failures(records, found), key=lambda row: (row.ended or 0.0, row.id))
    cells = (
        (
            row.id,
            title(row),
            line(row.name),
            line(row.state_name),
            row.ended,
            line(row.error_type),
            line(row.error or row.message, LONG),
            user_line(row.traceback or "") or None,
        )
        for row in rows[:ERRORS]
    )
    bad = sum(group.bad() for group in found)
    return table("id title name state ended error_type error user_line", cells, more=bad - min(len(rows), ERRORS))


def _first_failures(records: Records, found: Sequence[groups.Group]) -> Iterator[RunRow]:
    ids = [group.firsts[state] for group in found for state in groups.BAD if state in group.firsts]
    for run_id in ids[:50]:
        row = records.reader.get(run_id)
        if row is not None and row.state_name != BLOCKED:
            yield row


def _lives(records: Records, run: RunRow) -> Document:
    rows = records.reader.lives(run.id) if run.id == run.root_id else []
    cells: list[tuple[Any, ...]] = [
        (row.id, title(row), line(row.state_name), fate(row), row.created, row.resumed_from, error(row)) for row in rows
    ]
    return table("id title state fate created resumed_from error", cells[:LIVES] if len(rows) > 1 else [])
