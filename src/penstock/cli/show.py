"""`penstock show`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click

from penstock.cli import failures, kept
from penstock.cli.common import Opened, json_option, store_option, title
from penstock.cli.completing import run_argument
from penstock.cli.kept import Kept
from penstock.cli.lines import form_of, line_text
from penstock.cli.outcome import elapsed, outcome
from penstock.cli.selecting import RUN_HELP, the_run
from penstock.cli.text import (
    as_json,
    duration,
    fields_of,
    moment,
    plural,
    printable,
    size,
    state_of,
    table,
    terminal_width,
    unpacked,
)
from penstock.store.base import AttemptRow, EdgeRow, LogRow, Reader, RunRow

EVERYTHING = sys.maxsize
UPSTREAMS_SHOWN = 3
NEIGHBOURS_SHOWN = 20
RETRIED_SHOWN = 5


@click.command(epilog=RUN_HELP)
@run_argument
@click.option(
    "-n",
    "--limit",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="How many task runs, and how many log lines. JSON holds all.",
)
@json_option
@store_option
def show(run: str, limit: int, json_wanted: bool, store: Path | None) -> None:
    """Show one run: how it went, what failed in it and where, everything below it, and its log.

    Of a task run also its attempts, what it waited for, what waited for it, and whether its result is kept.
    For example, the run that failed last, and a task run in it:

    \b
        penstock show @last-failed
        penstock show '@last-failed/load-0[3]'
    """
    opened = Opened(store)
    with opened as reader:
        row = the_run(reader, run)
        if json_wanted:
            click.echo(as_json(as_document(reader, row, opened.home)))
        else:
            click.echo("\n\n".join(part for part in _sections(reader, row, run, limit, opened.home) if part))


def as_document(reader: Reader, run: RunRow, home: Path) -> dict[str, Any]:
    value = kept.about(reader, run, home)
    return {
        "run": fields_of(run),
        "runs": [fields_of(row) for row in reader.tree(run.id, limit=EVERYTHING)],
        "attempts": [fields_of(row) for row in reader.attempts(run.id)],
        "edges": [fields_of(row) for row in reader.edges(run.id)],
        "downstreams": [fields_of(row) for row in _downstream_edges(reader, run)],
        "kept": None if value is None else value._asdict(),
        "logs": [fields_of(row) for row in reader.logs(run.id, limit=EVERYTHING)],
    }


def _sections(reader: Reader, run: RunRow, typed: str, limit: int, home: Path) -> Iterator[str]:
    below = _Below.of(reader, run, limit)
    yield _header(reader, run, home)
    yield failures.errors(reader, run, typed)
    yield _attempts(reader, run)
    yield _neighbours(reader, "waited for", _upstreams(reader, run))
    yield _neighbours(reader, "waited for by", _downstreams(reader, run))
    yield _runs_table(below)
    yield f"... and {below.total - limit:,} more: --limit {below.total}" if below.total > limit else ""
    yield _retried(reader, below)
    yield _log(reader, run, reader.logs(run.id, limit=limit), {row.id: title(row) for row in (run, *below.rows)})


# The run itself.


def _header(reader: Reader, run: RunRow, home: Path) -> str:
    facts = [(label, text) for label, text in _facts(reader, run, home) if text not in ("", "-")]
    width = max(len(label) for label, _ in facts)
    return "\n".join([outcome(run, reader.counts(run.id)), *(f"  {label:<{width}}  {text}" for label, text in facts)])


def _facts(reader: Reader, run: RunRow, home: Path) -> Iterator[tuple[str, str]]:
    value = kept.about(reader, run, home)
    yield "id", run.id
    yield run.kind, printable(run.key) + (f", version {printable(run.version)}" if run.version else "")
    yield "in", "" if run.parent_id is None else _name_of(reader, run.parent_id)
    yield "started", moment(run.started)
    yield "duration", elapsed(run)
    yield "attempts", str(run.attempts) if run.attempts != 1 else ""
    yield "resumes", "" if run.resumed_from is None else _name_of(reader, run.resumed_from)
    yield "parameters", _parameters(run)
    yield "tags", ", ".join(map(printable, unpacked(run.tags) or ()))
    yield "result", printable(run.result or "") if run.status == "COMPLETED" else ""
    yield "kept", "" if value is None else ", ".join(_kept(value, run))
    yield "cache key", "" if value is None else printable(value.cache_key or "")
    yield "message", printable(run.message or "")


def _name_of(reader: Reader, run_id: str) -> str:
    row = reader.get(run_id)
    return run_id if row is None else f"{title(row)}, {run_id}"


def _parameters(run: RunRow) -> str:
    parameters = unpacked(run.parameters)
    if not isinstance(parameters, dict):
        return printable(parameters or "")
    return ", ".join(f"{printable(name)}={printable(value)}" for name, value in parameters.items())


def _kept(value: Kept, run: RunRow) -> Iterator[str]:
    place = "the run store" if value.storage is None else printable(f"{value.storage} under {value.key}")
    bytes_in = "" if value.size is None else f"{size(value.size)} "
    yield f"{bytes_in}in {place}" + ("" if value.serializer is None else f" as {printable(value.serializer)}")
    if value.computed_by not in (None, run.id):
        yield f"computed by {value.computed_by}"
    if value.expires is not None:
        yield f"until {moment(value.expires)}"
    if value.trouble is not None:
        yield printable(value.trouble)


# Of a task run: its attempts, and what is before and after it.


def _attempts(reader: Reader, run: RunRow) -> str:
    if run.attempts < 2:
        return ""
    rows = [row for row in reader.attempts(run.id) if row.run_id == run.id]
    begin = run.started or run.created
    lines = [
        (str(row.number), printable(row.state_name), _after(begin, row.started), _took(row), printable(row.error or ""))
        for row in rows
    ]
    return table(("ATTEMPT", "STATE", "START", "DURATION", "ERROR"), lines, terminal_width())


def _took(row: AttemptRow) -> str:
    return "-" if row.started is None or row.ended is None else duration(row.ended - row.started)


def _upstreams(reader: Reader, run: RunRow) -> list[tuple[str, EdgeRow]]:
    return [(edge.upstream_id, edge) for edge in reader.edges(run.id) if edge.downstream_id == run.id]


def _downstreams(reader: Reader, run: RunRow) -> list[tuple[str, EdgeRow]]:
    return [(edge.downstream_id, edge) for edge in _downstream_edges(reader, run)]


def _downstream_edges(reader: Reader, run: RunRow) -> list[EdgeRow]:
    """Runs wait for others of the same tree only; nothing in it waits for its root."""
    edges = [] if run.parent_id is None else reader.edges(run.root_id)
    return [edge for edge in edges if edge.upstream_id == run.id]


def _neighbours(reader: Reader, heading: str, found: Sequence[tuple[str, EdgeRow]]) -> str:
    if not found:
        return ""
    rows = [(reader.get(run_id), edge) for run_id, edge in found[:NEIGHBOURS_SHOWN]]
    lines = [(title(row), state_of(row), _how(edge), elapsed(row)) for row, edge in rows if row is not None]
    more = f"\n... and {len(found) - NEIGHBOURS_SHOWN:,} more" if len(found) > NEIGHBOURS_SHOWN else ""
    return table((heading.upper(), "STATE", "AS", "DURATION"), lines, terminal_width()) + more


def _how(edge: EdgeRow) -> str:
    return "wait_for" if edge.kind == "wait_for" else printable(edge.parameter or edge.kind)


# The runs below it.


class _Below(NamedTuple):
    """The first of the runs below a run, and what these waited for."""

    run: RunRow
    rows: list[RunRow]
    total: int
    upstreams: dict[str, list[str]]  # names

    @classmethod
    def of(cls, reader: Reader, run: RunRow, limit: int) -> _Below:
        rows = reader.tree(run.id, limit=limit)
        total = sum(count.number for count in reader.counts(run.id))
        return cls(run, rows, total, _names_of_upstreams(reader, run, rows))


def _names_of_upstreams(reader: Reader, run: RunRow, rows: Sequence[RunRow]) -> dict[str, list[str]]:
    """At most as many as are shown, and one more."""
    names = {row.id: title(row) for row in (run, *rows)}
    found: dict[str, list[str]] = {row.id: [] for row in rows}
    for edge in reader.edges(run.id) if rows else ():
        known = found.get(edge.downstream_id)
        if known is not None:
            known.append(_name(reader, edge.upstream_id, names) if len(known) < UPSTREAMS_SHOWN else "")
    return found


def _name(reader: Reader, run_id: str, names: dict[str, str]) -> str:
    if run_id not in names:
        row = reader.get(run_id)
        names[run_id] = run_id if row is None else title(row)
    return names[run_id]


def _runs_table(below: _Below) -> str:
    if not below.rows:
        return ""
    begin = below.run.started or below.run.created
    lines = [_run_line(row, depth, begin, below.upstreams[row.id]) for row, depth in _in_tree_order(below)]
    return table(("RUN", "STATE", "ATTEMPTS", "START", "DURATION", "WAITED FOR"), lines, terminal_width())


def _run_line(row: RunRow, depth: int, begin: float, upstreams: Sequence[str]) -> tuple[str, ...]:
    shown = ", ".join(upstreams[:UPSTREAMS_SHOWN])
    if len(upstreams) > UPSTREAMS_SHOWN:
        shown += f" and {len(upstreams) - UPSTREAMS_SHOWN:,} more"
    start = _after(begin, row.started)
    return ("  " * depth + title(row), state_of(row), str(row.attempts), start, elapsed(row), shown)


def _after(begin: float, moment: float | None) -> str:
    return "-" if moment is None else f"+{duration(moment - begin)}"


def _in_tree_order(below: _Below) -> Iterator[tuple[RunRow, int]]:
    """Each run right below the one that called it, with its depth."""
    children: dict[str | None, list[RunRow]] = {}
    for row in below.rows:
        children.setdefault(row.parent_id, []).append(row)
    waiting = [(row, 0) for row in reversed(children.get(below.run.id, []))]
    while waiting:
        row, depth = waiting.pop()
        yield row, depth
        waiting += [(child, depth + 1) for child in reversed(children.get(row.id, []))]


def _retried(reader: Reader, below: _Below) -> str:
    """What came right in the end; of the others the errors tell."""
    again = [row for row in below.rows if row.attempts > 1 and row.status not in ("FAILED", "CRASHED")]
    lines = [line for row in again[:RETRIED_SHOWN] for line in failures.told(reader, row)]
    if len(again) > RETRIED_SHOWN:
        lines.append(f"  ... and {len(again) - RETRIED_SHOWN:,} more")
    return "\n".join(["Tried again", *lines]) if lines else ""


# What was said.


def _log(reader: Reader, run: RunRow, rows: Sequence[LogRow], names: dict[str, str]) -> str:
    form = form_of(run)
    lines = [f"  {line_text(row, _name(reader, row.run_id, names), form)}" for row in rows]
    return "\n".join([f"Log ({plural(len(lines), 'line')})", *lines]) if lines else ""
