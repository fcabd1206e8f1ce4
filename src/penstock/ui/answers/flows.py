"""All flows, and the history of one: its runs, and what became of each task in each of them."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from penstock import tallies
from penstock.store.base import RunRow
from penstock.ui.answers import groups
from penstock.ui.answers.documents import Document, by_fate, columns, document, fate, line, parameters_line, table
from penstock.ui.asking import Asked
from penstock.ui.records import Records, TookTooLong

LOOKED_AT = 2_000  # root runs
MOST_TASKS = 100
MOST_CELLS = 4_000
COUNTING = 0.06  # seconds, by the clock of the records, that counting may take in one answer
WORST_FIRST = ("crashed", "failed", "cancelled", "blocked", "running", "waiting", "pending", "completed", "cached")


def answer(records: Records, asked: Asked) -> Document:
    records.look_for_deaths()
    rows = records.ask_roots("names_of_roots", limit=LOOKED_AT)
    flows: dict[str, list[tuple[Any, ...]]] = {}
    for row in rows:
        flows.setdefault(row[0], []).append(row)
    names = "name runs last_id last_run last_state last_fate last_created last_ended median"
    return document(
        columns=columns(names, (_flow(name, found) for name, found in flows.items())),
        fates=by_fate([_numbers(found) for found in flows.values()]),
        looked_at=len(rows),
    )


def _flow(name: str, rows: Sequence[tuple[Any, ...]]) -> tuple[Any, ...]:
    _, run_id, run_name, status, state_name, created, _, ended = rows[0]
    lasted = [end - start for *_, start, end in rows if start is not None and end is not None]
    median = statistics.median(lasted) if lasted else None
    state = line(state_name)
    return (
        line(name),
        len(rows),
        run_id,
        line(run_name),
        state,
        tallies.fate(status, state_name),
        created,
        ended,
        median,
    )


def _numbers(rows: Sequence[tuple[Any, ...]]) -> dict[str, int]:
    numbers: dict[str, int] = {}
    for _, _, _, status, state_name, *_ in rows:
        one = tallies.fate(status, state_name)
        numbers[one] = numbers.get(one, 0) + 1
    return numbers


# --- one flow ---


def history(records: Records, asked: Asked) -> Document:
    records.look_for_deaths()
    rows = records.reader.runs(name=asked["name"], kind="flow", limit=asked["limit"])
    counted = [*_counted(records, rows)]
    tasks = _tasks(counted)
    cells = [*_cells(counted, tasks)][:MOST_CELLS]
    return document(
        name=line(asked["name"]),
        runs=table("id run_name state fate created started ended parameters version", map(_run, rows)),
        tasks=table("group name kind", ((line(one.id), line(one.name), one.kind) for one in tasks.values())),
        cells=columns("task run fate number bad seconds wall", cells),
        counted=len(counted),
    )


def _run(row: RunRow) -> tuple[Any, ...]:
    state, version = line(row.state_name), line(row.version)
    return (
        row.id,
        line(row.run_name),
        state,
        fate(row),
        row.created,
        row.started,
        row.ended,
        parameters_line(row),
        version,
    )


def _counted(records: Records, rows: Sequence[RunRow]) -> Iterator[list[groups.Group]]:
    """The latest of them, as many as there is time for; the next answer goes on."""
    until = records.clock() + COUNTING
    for row in rows:
        if records.clock() > until and not records.remembers(row, ("groups",)):
            return
        try:
            yield groups.of(records, row)
        except TookTooLong:
            return


def _tasks(counted: Sequence[Sequence[groups.Group]]) -> dict[str, groups.Group]:
    found: dict[str, groups.Group] = {}
    for run in counted:
        for group in run:
            found.setdefault(group.id, group)
    return dict([*found.items()][:MOST_TASKS])


def _cells(counted: Sequence[Sequence[groups.Group]], tasks: dict[str, groups.Group]) -> Iterator[tuple[Any, ...]]:
    places = {group_id: place for place, group_id in enumerate(tasks)}
    for number, run in enumerate(counted):
        for group in run:
            if group.id in places:
                worst = next(name for name in WORST_FIRST if group.numbers.get(name))
                took = None if None in (group.began, group.ended) else (group.ended or 0.0) - (group.began or 0.0)
                yield places[group.id], number, worst, group.total, group.bad(), group.busy, took
