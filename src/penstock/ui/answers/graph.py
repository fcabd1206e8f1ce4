"""The graph of a run: groups and what went from one to another; and of one group the runs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from penstock.store.base import RunRow
from penstock.ui.answers import groups
from penstock.ui.answers.documents import (
    Document,
    by_fate,
    columns,
    document,
    error,
    fate,
    group_id,
    line,
    name_of_group,
    named,
    table,
    title,
)
from penstock.ui.asking import Asked, as_cursor
from penstock.ui.records import Records, TookTooLong

PAGE = 200
MOST_EDGES = 1_000


def answer(records: Records, asked: Asked) -> Document:
    run = records.get(asked["id"])
    return _of_groups(records, run) if asked["group"] is None else _of_runs(records, run, asked)


def _of_groups(records: Records, run: RunRow) -> Document:
    found = groups.of(records, run)
    shown = found[: groups.MOST]
    edges, are_all = records.once(run, ("edges",), lambda: _edges(records, run))
    known = {group.id for group in shown}
    nodes = (
        (*named(group), group.total, group.busy, group.began, None if group.unfinished else group.ended)
        for group in shown
    )
    arrows = (
        (name_of_group(source), name_of_group(target), kind, number)
        for source, target, kind, number in edges
        if source in known and target in known
    )
    fates = by_fate([group.numbers for group in shown])
    return document(
        nodes=table("group place kind name total seconds begin end", nodes, fates=fates),
        edges=table("from to kind number", arrows, all=are_all),
        more=len(found) - len(shown),
    )


def _edges(records: Records, run: RunRow) -> tuple[list[tuple[str, str, str, int]], bool]:
    """From group to group, of a kind, how many; and whether these are all."""
    try:
        rows = records.ask_below(run, "edges")
    except TookTooLong:
        return [], False
    return [(group_id(*row[:3]), group_id(*row[3:6]), row[6], row[7]) for row in rows], True


def _of_runs(records: Records, run: RunRow, asked: Asked) -> Document:
    group = asked["group"]
    created, last = asked["after"] or (None, None)
    place = {"first": 0, "created": created, "id": last}
    found = records.ask_below(run, "members", group=group, limit=PAGE + 1, **place)
    rows = records.shown(run, map(RunRow._make, found[:PAGE]))
    total = sum(one.total for one in groups.of(records, run) if one.id == group)
    more = as_cursor(rows[-1].created, rows[-1].id) if len(found) > PAGE else None
    ids = json.dumps([row.id for row in rows])
    edges = records.ask("edges_into", ids=ids, limit=MOST_EDGES + 1)
    names = "id title fate state created started ended attempts error"
    return document(
        group=name_of_group(group),
        total=total,
        nodes={"columns": columns(names, map(_node, rows)), "next": more},
        edges=table(
            "to from kind parameter from_title from_group",
            _arrows(edges[:MOST_EDGES]),
            more=max(0, len(edges) - MOST_EDGES),
        ),
    )


def _node(row: RunRow) -> tuple[Any, ...]:
    moments = row.created, row.started, row.ended
    return row.id, title(row), fate(row), line(row.state_name), *moments, row.attempts, error(row)


def _arrows(edges: Sequence[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
    """Without the places of what is outside the group: finding these would take a walk through the whole tree."""
    for down, up, kind, parameter, run_name, run_kind, name in edges:
        title = f"{name}/{run_name}" if run_kind == "flow" else run_name
        yield down, up, kind, line(parameter), line(title), line(group_id("", run_kind, name))
