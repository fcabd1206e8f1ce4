"""`penstock ls`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import click

from penstock.cli.common import STATUSES, Opened, json_option, store_option, title
from penstock.cli.outcome import elapsed, task_summary
from penstock.cli.selecting import the_run
from penstock.cli.text import as_json, fields_of, printable, state_of, table, terminal_width, when
from penstock.cli.times import TIME_HELP, Moment
from penstock.store.base import Reader, RunRow, StateCount, StoreMissing, Wanted

SHORTEST_ID = 8
STATE_NAMES = (
    *("AwaitingConcurrencySlot", "AwaitingRetry", "Cached", "Cancelling", "Retrying", "RolledBack", "TimedOut"),
    "UpstreamFailed",
)
"""Of states that the library makes, where they are not those of the statuses. Users make others."""


@click.command(epilog=TIME_HELP)
@click.option("-n", "--limit", type=click.IntRange(min=1), default=20, show_default=True, help="How many.")
@click.option("--flow", metavar="NAME", help="Only runs of the flow with this name.")
@click.option("--name", metavar="NAME", help="Only runs of the flow or task with this name.")
@click.option(
    *("--state", "--status", "states"),
    multiple=True,
    metavar="STATE",
    help="Only runs in this status, such as failed, or in a state of this name, such as TimedOut. May be repeated.",
)
@click.option(
    "--tag", "tags", multiple=True, metavar="TAG", help="Only runs with this tag. Repeated: with all of them."
)
@click.option("--since", type=Moment(), help="Only runs created at this time or later.")
@click.option("--until", type=Moment(), help="Only runs created before this time.")
@click.option("--text", metavar="TEXT", help="Only runs with this in names, parameters, message or error; in any case.")
@click.option("--in", "inside", metavar="RUN", help="Runs inside this one, at any depth: task runs and subflow runs.")
@click.option("--before", metavar="RUN", help="The page after the one that ended with this run.")
@json_option
@store_option
def ls(
    limit: int,
    flow: str | None,
    inside: str | None,
    before: str | None,
    json_wanted: bool,
    store: Path | None,
    **filters: Any,
) -> None:
    """List the latest runs: flow runs, and task runs called outside any flow. With --in, the runs inside one.

    A run is listed if it is all that the options ask for. For example, the runs of the flow etl that failed in the
    last two days:

    \b
        penstock ls --flow etl --state failed --since 2d
    """
    if flow is not None:
        filters.update(kind="flow", name=flow)
    nothing = "" if json_wanted else "No such run was recorded."
    with Opened(store) as reader:
        try:
            rows = _rows(reader, limit, inside, before, cast(Wanted, filters))
        except StoreMissing as missing:
            if store is not None:  # whoever names a place means that there is something
                raise
            rows, nothing = [], f"{missing}: nothing was recorded yet."
        _check_states(filters["states"], rows)
        if not rows and nothing:
            click.echo(nothing, err=True)
        if json_wanted:
            click.echo(as_json(as_document(reader, rows, limit)))
            return
        if rows:
            click.echo((as_table if inside is None else _tasks_table)(reader, rows, limit))
        if len(rows) > limit:
            click.echo(f"There are more: --before {rows[limit - 1].id}", err=True)


def _rows(reader: Reader, limit: int, inside: str | None, before: str | None, filters: Wanted) -> list[RunRow]:
    wanted: Wanted = {**filters, "below": inside and the_run(reader, inside).id}
    last = None if before is None else the_run(reader, before)
    # One more than shown: the ids printed must tell the last one from its predecessor, too.
    return reader.runs(before=last, limit=limit + 1, **wanted)


def _check_states(states: Sequence[str], rows: Sequence[RunRow]) -> None:
    """Nothing in a state that nobody knows: a name that was mistyped, rather than one that a user has made."""
    known = {name.lower(): name for name in (*map(str.lower, STATUSES), *STATE_NAMES)}
    strange = [state for state in states if state.lower() not in known]
    if rows or not strange:
        return
    near: list[str] = import_module("difflib").get_close_matches(strange[0].lower(), known, n=1)
    hint = f": did you mean {known[near[0]]}?" if near else f". Known states are {', '.join(known.values())}"
    raise click.UsageError(f"no run is in a state of the name {strange[0]!r}{hint}")


def as_document(reader: Reader, rows: Sequence[RunRow], limit: int) -> dict[str, Any]:
    """The first `limit` of `rows`; if there are more, `next` is what --before takes for these."""
    runs = [{**fields_of(row), "tasks": _by_state(reader.counts(row.id))} for row in rows[:limit]]
    return {"runs": runs, "next": rows[limit - 1].id if len(rows) > limit else None}


def _by_state(counts: Sequence[StateCount]) -> dict[str, int]:
    numbers: dict[str, int] = {}
    for count in counts:
        if count.kind == "task":
            numbers[count.state_name] = numbers.get(count.state_name, 0) + count.number
    return numbers


def as_table(reader: Reader, rows: Sequence[RunRow], limit: int) -> str:
    """The first `limit` of `rows`; those after them only have a say in how long the ids must be."""
    width = unique_width([row.id for row in rows])
    lines = [
        (row.id[:width], title(row), state_of(row), _start(row), elapsed(row), task_summary(reader.counts(row.id)))
        for row in rows[:limit]
    ]
    return table(("ID", "RUN", "STATE", "STARTED", "DURATION", "TASKS"), lines, terminal_width())


def _tasks_table(reader: Reader, rows: Sequence[RunRow], limit: int) -> str:
    """Runs inside one are named by it and by what is in the first column."""
    lines = [
        (title(row), state_of(row), str(row.attempts), _start(row), elapsed(row), " ".join(_error(row)))
        for row in rows[:limit]
    ]
    return table(("RUN", "STATE", "ATTEMPTS", "STARTED", "DURATION", "ERROR"), lines, terminal_width())


def _start(row: RunRow) -> str:
    return when(row.started or row.created)


def _error(row: RunRow) -> Iterator[str]:
    if row.error_type is not None:
        yield f"{printable(row.error_type)}:"
        yield printable(row.error or row.message or "")


def unique_width(ids: Sequence[str]) -> int:
    """How many digits tell the ids from each other, at least `SHORTEST_ID`."""
    for width in range(SHORTEST_ID, 32):
        if len({run_id[:width] for run_id in ids}) == len(ids):
            return width
    return 32
