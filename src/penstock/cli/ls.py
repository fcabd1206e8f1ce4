"""`penstock ls`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from penstock.cli.common import STATUSES, Opened, json_option, store_option, title
from penstock.cli.text import as_json, duration, fields_of, moment, printable, table
from penstock.store.base import Reader, RunRow, StateCount, StoreMissing

SHORTEST_ID = 8


@click.command()
@click.option("-n", "--limit", type=click.IntRange(min=1), default=20, show_default=True, help="How many.")
@click.option("--name", help="Only runs of this flow or task.")
@click.option("--status", type=click.Choice(STATUSES, case_sensitive=False), help="Only runs in this status.")
@json_option
@store_option
def ls(limit: int, name: str | None, status: str | None, json_wanted: bool, store: Path | None) -> None:
    """List the latest runs: flow runs, and task runs called outside any flow."""
    with Opened(store) as reader:
        try:
            # One more than shown: the ids printed must tell the last one from its predecessor, too.
            rows = reader.runs(name=name, status=status, limit=limit + 1)
        except StoreMissing as nothing:
            click.echo(f"{nothing}: nothing was recorded yet.", err=True)
            rows = []
        if json_wanted:
            click.echo(as_json(as_document(reader, rows[:limit])))
        elif rows:
            click.echo(as_table(reader, rows, limit))


def as_table(reader: Reader, rows: Sequence[RunRow], limit: int) -> str:
    """The first `limit` of `rows`; those after them only have a say in how long the ids must be."""
    width = unique_width([row.id for row in rows])
    lines = [_line(reader, row, width) for row in rows[:limit]]
    return table(("ID", "RUN", "STATE", "STARTED", "DURATION", "TASKS"), lines)


def as_document(reader: Reader, rows: Sequence[RunRow]) -> dict[str, Any]:
    return {"runs": [{**fields_of(row), "tasks": _by_state(reader.counts(row.id))} for row in rows]}


def unique_width(ids: Sequence[str]) -> int:
    """How many digits tell the ids from each other, at least `SHORTEST_ID`."""
    for width in range(SHORTEST_ID, 32):
        if len({run_id[:width] for run_id in ids}) == len(ids):
            return width
    return 32


def elapsed(row: RunRow) -> str:
    """From the first start to the end, or to now while the run goes on."""
    if row.started is None:
        return "-"
    return duration((time.time() if row.ended is None else row.ended) - row.started)


def summary(counts: Sequence[StateCount]) -> str:
    """`26 (1 Failed, 3 Cached)`: how many tasks, and what there is to know about them."""
    by_state = _by_state(counts)
    total = sum(by_state.values())
    if not total:
        return "-"
    notable = [f"{number:,} {printable(state)}" for state, number in by_state.items() if state != "Completed"]
    return f"{total:,} ({', '.join(notable)})" if notable else f"{total:,}"


def _line(reader: Reader, row: RunRow, width: int) -> tuple[str, ...]:
    started = moment(row.started or row.created)
    tasks = summary(reader.counts(row.id))
    return (row.id[:width], title(row), printable(row.state_name), started, elapsed(row), tasks)


def _by_state(counts: Sequence[StateCount]) -> dict[str, int]:
    numbers: dict[str, int] = {}
    for count in counts:
        if count.kind == "task":
            numbers[count.state_name] = numbers.get(count.state_name, 0) + count.number
    return numbers
