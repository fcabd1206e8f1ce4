"""Why a run ran, waited, was tried again and took long: sentences from its record."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from penstock.cli.common import title
from penstock.cli.failures import BLOCKED, culprits, parts, user_line
from penstock.cli.outcome import elapsed
from penstock.cli.text import duration, moment, plural, printable, unpacked
from penstock.store.base import AttemptRow, EdgeRow, Reader, RunRow

NOTABLE = 0.005  # seconds; shorter waits are what starting costs
LONG = 0.05  # seconds; longer waits are worth a look at what else was going on
LINKS_SHOWN = 10
NAMED = 3


# --- why it ran -------------------------------------------------------------------------------------------------


def of_running(reader: Reader, run: RunRow) -> Iterator[str]:
    yield _started_by(run) if run.parent_id is None else _called_by(reader, run, run.parent_id)
    if run.resumed_from is not None:
        yield f"It goes on from {_named(reader, run.resumed_from)}."
    if run.state_name == "Cached":
        yield "Its body did not run: its result was there already."
    elif run.state_name == BLOCKED:
        yield from _blocked_by(reader, run)
    elif run.attempts == 0:
        yield f"Its body has not run: it is {printable(run.state_name)}{_because(run)}."
    elif run.ended is not None and run.status != "COMPLETED":
        yield f"It ended as {printable(run.state_name)}{_because(run)}."


def _started_by(run: RunRow) -> str:
    info: Any = unpacked(run.info)
    if not isinstance(info, dict) or "pid" not in info:
        return f"It was called at {moment(run.created)}, outside any other run."
    process = f"Process {printable(info['pid'])} on {printable(info.get('host'))}"
    script = f", {printable(info['script'])}," if info.get("script") else ""
    return f"{process}{script} called it at {moment(run.created)}."


def _called_by(reader: Reader, run: RunRow, parent_id: str) -> str:
    item = "" if run.map_index is None else f", for item [{run.map_index}] of a map"
    return f"{_named(reader, parent_id)} called it{item}, at {moment(run.created)}."


def _named(reader: Reader, run_id: str) -> str:
    row = reader.get(run_id)
    return f"run {run_id}" if row is None else title(row)


def _blocked_by(reader: Reader, run: RunRow) -> Iterator[str]:
    found = culprits(reader, run)
    if not found:
        yield f"Its body did not run{_because(run)}."
    for culprit in found[:NAMED]:
        place = user_line(culprit.traceback or "")
        where = f", at {place}" if place else ""
        state = printable(culprit.state_name)
        yield f"Its body did not run because {title(culprit)} is {state}: {_error(culprit)}{where}"
        yield from _parts(culprit)
    if len(found) > NAMED:
        yield f"... and because of {plural(len(found) - NAMED, 'other run')}."


def _because(run: RunRow) -> str:
    return f": {printable(run.message).rstrip('.')}" if run.message else ""


def _error(row: RunRow | AttemptRow) -> str:
    if row.error_type is None:
        return printable(getattr(row, "message", None) or row.state_name)
    return f"{printable(row.error_type)}: {printable(row.error or '')}"


def _parts(row: RunRow | AttemptRow) -> Iterator[str]:
    return (f"  {part}" for part in parts(row.traceback or ""))


# --- what it waited for -----------------------------------------------------------------------------------------


def of_waiting(reader: Reader, run: RunRow) -> Iterator[str]:
    yield from _for_inputs(reader, run)
    if run.ready is not None and run.started is not None and run.started - run.ready >= NOTABLE:
        yield f"{duration(run.started - run.ready)} with all its inputs there, {_for_a_place(reader, run)}."
    elif run.ready is not None and run.started is None and run.ended is None:
        yield f"It has its inputs, and still waits {_for_a_place(reader, run)}."
    for before, after in pairwise(_attempts(reader, run)):
        if before.ended is not None and after.started is not None:
            waited = duration(after.started - before.ended)
            yield f"{waited} between the attempts {before.number} and {after.number}: its retry delay, and a place."
    if run.state_name == "AwaitingRetry":
        yield f"It waits for attempt {run.attempts + 1}: its retry delay."


def _for_inputs(reader: Reader, run: RunRow) -> Iterator[str]:
    edges = {edge.upstream_id: edge for edge in reader.edges(run.id) if edge.downstream_id == run.id}
    rows = [row for row in map(reader.get, edges) if row is not None]
    missing = [row for row in rows if row.ended is None]
    if run.ended is None and missing:
        yield f"It waits for {', '.join(f'{title(row)} ({printable(row.state_name)})' for row in missing[:NAMED])}" + (
            f" and {len(missing) - NAMED:,} more." if len(missing) > NAMED else "."
        )
    until = run.ready or run.ended or run.created
    late = [row for row in rows if run.created < _end(row) < until + NOTABLE]
    if late and until - run.created >= NOTABLE:
        last = max(late, key=_end)
        others = f"; of {len(late):,} it was the last to end" if len(late) > 1 else ""
        what = f"{title(last)} ({_use(edges[last.id])})"
        yield f"{duration(until - run.created)} for {what}, which took {elapsed(last)}{others}."


def _use(edge: EdgeRow) -> str:
    return "wait_for" if edge.kind == "wait_for" else f"its argument {printable(edge.parameter or '')}"


def _for_a_place(reader: Reader, run: RunRow) -> str:
    """The record does not say which of them it was."""
    things = ["for a free worker of its task runner"]
    if run.tags != "[]":
        things.append(f"for a limit on its tags ({', '.join(map(printable, unpacked(run.tags) or ()))})")
    if run.result_key is not None:
        things.append("for another run that was at the same result")
    what = " or ".join(things)
    if run.ready is None or run.started is None or run.started - run.ready < LONG or run.parent_id is None:
        return what
    others = [
        row
        for row in reader.children(run.parent_id)
        if row.id != run.id
        and row.started is not None
        and row.started < run.started
        and (row.ended is None or row.ended > run.ready)
    ]
    return f"{what}; meanwhile, {plural(len(others), 'other run')} beside it went on" if others else what


# --- attempts ---------------------------------------------------------------------------------------------------


def of_attempts(reader: Reader, run: RunRow) -> Iterator[str]:
    for attempt in _attempts(reader, run):
        took = (
            ""
            if attempt.started is None or attempt.ended is None
            else f" after {duration(attempt.ended - attempt.started)}"
        )
        error = f": {_error(attempt)}" if attempt.error_type is not None else ""
        place = user_line(attempt.traceback or "")
        yield f"{attempt.number}: {printable(attempt.state_name)}{took}{error}{f', at {place}' if place else ''}"
        yield from _parts(attempt)


def _attempts(reader: Reader, run: RunRow) -> list[AttemptRow]:
    return [attempt for attempt in reader.attempts(run.id) if attempt.run_id == run.id]


# --- what it took so long for -----------------------------------------------------------------------------------


def of_lasting(reader: Reader, run: RunRow) -> Iterator[str]:
    """The chain of runs below it that ended last, each the one that the next had to wait for longest."""
    rows = {row.id: row for row in reader.children(run.id) if row.ended is not None and row.started is not None}
    if not rows:
        return
    upstreams: dict[str, list[RunRow]] = {}
    for edge in reader.edges(run.id):
        if edge.upstream_id in rows:
            upstreams.setdefault(edge.downstream_id, []).append(rows[edge.upstream_id])
    chain = _chain(max(rows.values(), key=_end), upstreams)
    for row in chain[-LINKS_SHOWN:]:
        begin = run.started or run.created
        yield f"{title(row)} took {elapsed(row)}, until {duration(_end(row) - begin)} after the start."
    if len(chain) > LINKS_SHOWN:
        yield f"(the last of a chain of {len(chain):,})"


def _chain(last: RunRow, upstreams: dict[str, list[RunRow]]) -> Sequence[RunRow]:
    chain = [last]
    while before := upstreams.get(chain[-1].id):
        chain.append(max(before, key=_end))
    return chain[::-1]


def _end(row: RunRow) -> float:
    return row.ended or 0.0
