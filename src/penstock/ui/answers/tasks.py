"""The table of everything below a run."""

from __future__ import annotations

import json
from typing import Any

from penstock import tallies
from penstock.store.base import RunRow
from penstock.store.text import as_parameters
from penstock.ui.answers.documents import (
    Document,
    columns,
    document,
    error,
    fate,
    group_id,
    line,
    parameters_line,
)
from penstock.ui.asking import Asked, Refused, as_cursor
from penstock.ui.records import Records

SORTS = {
    "created": "created",
    "duration": "COALESCE(ended - started, -1)",
    "name": "name",
    "state": "state_name",
    "attempts": "attempts",
}
_TEXTS = ("name", "state")  # sorts by texts; the others are by numbers
_STATES = {**{name: [name.upper()] for name in tallies.FATES if name != "cached"}, "blocked": ["UpstreamFailed"]}
_COLUMNS = (
    "id kind name run_name place group state status fate attempts created started ended duration parameters error"
    " parent_id"
)


def answer(records: Records, asked: Asked) -> Document:
    run = records.get(asked["id"])
    limit, sort = asked["limit"], asked["sort"]
    value, last = asked["after"] or (None, None)
    if asked["after"] is not None and isinstance(value, str) != (sort in _TEXTS):
        raise Refused("after must be what an answer with the same sort has called next")
    rows = records.ask_sorted(
        run,
        "tasks",
        SORTS[sort],
        asked["direction"],
        name=asked["name"],
        group=asked["group"],
        value=value,
        id=last,
        limit=limit + 1,
        **_filters(asked),
    )
    places = [row[1] for row in rows[:limit]]
    page = records.shown(run, (RunRow._make(row[2:]) for row in rows[:limit]))
    return document(
        columns=columns(_COLUMNS, map(_cells, places, page)),
        next=as_cursor(rows[limit - 1][0], page[-1].id) if len(rows) > limit else None,
    )


def _filters(asked: Asked) -> dict[str, Any]:
    states = [name for state in asked["state"] for name in _STATES.get(state, [state])]
    patterns = as_parameters({"text": asked["text"]})
    return {"states": json.dumps(states), "text": patterns["text"], "json_text": patterns["json_text"]}


def _cells(place: str, row: RunRow) -> tuple[Any, ...]:
    took = None if row.ended is None or row.started is None else row.ended - row.started
    return (
        row.id,
        row.kind,
        line(row.name),
        line(row.run_name),
        line(place),
        line(group_id(place, row.kind, row.name)),
        line(row.state_name),
        row.status,
        fate(row),
        row.attempts,
        row.created,
        row.started,
        row.ended,
        took,
        parameters_line(row),
        error(row),
        row.parent_id,
    )
