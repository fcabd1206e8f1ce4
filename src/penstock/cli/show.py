"""`penstock show`."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click

from penstock.cli.common import Opened, json_option, store_option, the_run, title
from penstock.cli.ls import elapsed, summary
from penstock.cli.text import as_json, duration, fields_of, moment, plural, printable, table, unpacked
from penstock.store.base import AttemptRow, EdgeRow, LogRow, Reader, RunRow

EVERYTHING = sys.maxsize
UPSTREAMS_SHOWN = 3
_FRAME = re.compile(r'^  File "(?P<file>[^"\n]+)", line (?P<line>\d+), in (?P<function>.+)\n', re.MULTILINE)
_LIBRARIES = re.compile(r"[/\\](site-packages|dist-packages|penstock|lib[/\\]python[\d.]+)[/\\]|^<frozen ")


@click.command()
@click.argument("run")
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
    """Show one run and everything below it.

    RUN is an id or the beginning of one, a run name, or @last.
    """
    with Opened(store) as reader:
        row = the_run(reader, run)
        if json_wanted:
            click.echo(as_json(as_document(reader, row, EVERYTHING)))
        else:
            click.echo(as_text(reader, row, limit))


class _Record(NamedTuple):
    """All there is about one run and those below it."""

    run: RunRow
    below: list[RunRow]
    attempts: list[AttemptRow]
    edges: list[EdgeRow]
    logs: list[LogRow]


def as_document(reader: Reader, run: RunRow, limit: int) -> dict[str, Any]:
    record = _read(reader, run, limit)
    return {
        "run": fields_of(run),
        "runs": [fields_of(row) for row in record.below],
        "attempts": [fields_of(row) for row in record.attempts],
        "edges": [fields_of(row) for row in record.edges],
        "logs": [fields_of(row) for row in record.logs],
    }


def as_text(reader: Reader, run: RunRow, limit: int) -> str:
    record = _read(reader, run, limit)
    counts = reader.counts(run.id)
    total = sum(count.number for count in counts)
    parts = [
        _header(run, summary(counts)),
        _runs_table(record),
        f"... and {total - limit:,} more: --limit {total}" if total > limit else "",
        _failures(record),
        _log(record),
    ]
    return "\n\n".join(part for part in parts if part)


def _read(reader: Reader, run: RunRow, limit: int) -> _Record:
    return _Record(
        run,
        reader.tree(run.id, limit=limit),
        reader.attempts(run.id),
        reader.edges(run.id),
        reader.logs(run.id, limit=limit),
    )


# The run itself.


def _header(run: RunRow, tasks: str) -> str:
    facts = [(label, text) for label, text in _facts(run, tasks) if text not in ("", "-")]
    width = max(len(label) for label, _ in facts)
    return "\n".join([f"{title(run)}: {printable(run.state_name)}", *(f"  {k:<{width}}  {v}" for k, v in facts)])


def _facts(run: RunRow, tasks: str) -> Iterator[tuple[str, str]]:
    yield "id", run.id
    yield run.kind, printable(run.key) + (f", version {printable(run.version)}" if run.version else "")
    yield "started", moment(run.started)
    yield "duration", elapsed(run)
    yield "attempts", str(run.attempts) if run.attempts != 1 else ""
    yield "parent", run.parent_id or ""
    yield "resumes", run.resumed_from or ""
    yield "parameters", _parameters(run)
    yield "tags", ", ".join(map(printable, unpacked(run.tags) or ()))
    yield "result", printable(run.result or "")
    yield "message", printable(run.message or "")
    yield "tasks", tasks


def _parameters(run: RunRow) -> str:
    parameters = unpacked(run.parameters)
    if not isinstance(parameters, dict):
        return printable(parameters or "")
    return ", ".join(f"{printable(name)}={printable(value)}" for name, value in parameters.items())


# The runs below it.


def _runs_table(record: _Record) -> str:
    if not record.below:
        return ""
    names = {row.id: title(row) for row in (record.run, *record.below)}
    upstreams: dict[str, list[str]] = {}
    for edge in record.edges:
        upstreams.setdefault(edge.downstream_id, []).append(names.get(edge.upstream_id, edge.upstream_id))
    begin = record.run.started or record.run.created
    lines = [_run_line(row, depth, begin, upstreams.get(row.id, ())) for row, depth in _in_tree_order(record)]
    return table(("RUN", "STATE", "ATTEMPTS", "START", "DURATION", "WAITED FOR"), lines)


def _run_line(row: RunRow, depth: int, begin: float, upstreams: Sequence[str]) -> tuple[str, ...]:
    start = "-" if row.started is None else f"+{duration(row.started - begin)}"
    shown = ", ".join(upstreams[:UPSTREAMS_SHOWN])
    if len(upstreams) > UPSTREAMS_SHOWN:
        shown += f" and {len(upstreams) - UPSTREAMS_SHOWN:,} more"
    state = printable(row.state_name)
    return ("  " * depth + title(row), state, str(row.attempts), start, elapsed(row), shown)


def _in_tree_order(record: _Record) -> Iterator[tuple[RunRow, int]]:
    """Each run right below the one that called it, with its depth."""
    children: dict[str | None, list[RunRow]] = {}
    for row in record.below:
        children.setdefault(row.parent_id, []).append(row)
    waiting = [(row, 0) for row in reversed(children.get(record.run.id, []))]
    while waiting:
        row, depth = waiting.pop()
        yield row, depth
        waiting += [(child, depth + 1) for child in reversed(children.get(row.id, []))]


# What went wrong.


def _failures(record: _Record) -> str:
    """The errors where they began: of the runs that these blocked, the table tells enough."""
    ends: dict[str, list[AttemptRow | RunRow]] = {}
    for attempt in record.attempts:
        ends.setdefault(attempt.run_id, []).append(attempt)
    rows = [row for row in (record.run, *record.below) if row.state_name != "UpstreamFailed"]
    # A run without attempts was refused or cancelled before it could start.
    lines = [line for row in rows for end in ends.get(row.id, [row]) for line in _failure(row, end)]
    return "\n".join(["Errors", *lines]) if lines else ""


def _failure(run: RunRow, end: AttemptRow | RunRow) -> Iterator[str]:
    if end.error_type is None:
        return
    which = ""
    if isinstance(end, AttemptRow) and run.attempts > 1:
        which = f", attempt {end.number} of {run.attempts}"
    yield f"  {title(run)}{which}: {printable(end.error_type)}: {printable(end.error or run.message or '')}"
    if place := user_line(end.traceback or ""):
        yield f"    {place}"


def user_line(traceback: str) -> str:
    """The last line of the traceback that is in the user's own code: `etl.py:12 in load`."""
    frames = list(_FRAME.finditer(traceback))
    own = [frame for frame in frames if not _LIBRARIES.search(frame["file"])] or frames
    if not own:
        return ""
    code = traceback[own[-1].end() :].partition("\n")[0]
    shown = f": {code.strip()}" if code.startswith("    ") else ""
    return printable(f"{own[-1]['file']}:{own[-1]['line']} in {own[-1]['function']}{shown}")


# What was said.


def _log(record: _Record) -> str:
    names = {row.id: title(row) for row in (record.run, *record.below)}
    lines = [f"  {_log_line(row, names.get(row.run_id, row.run_id))}" for row in record.logs]
    return "\n".join([f"Log ({plural(len(lines), 'line')})", *lines]) if lines else ""


def _log_line(row: LogRow, name: str) -> str:
    time = f"{moment(row.time, '%H:%M:%S')}.{int(row.time % 1 * 1000):03d}"
    return f"{time} {logging.getLevelName(row.level):<8} {name}  {printable(row.message)}"
