"""What went wrong in a run: the errors where they began, each with the user's line."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from itertools import takewhile

from penstock.cli.common import title
from penstock.cli.text import COLOURS, Shade, coloured, printable
from penstock.store.base import AttemptRow, Reader, RunRow

LOOKED_AT = 1000  # failures of a run
EACH_SHOWN = 3  # failures of a task
PARTS_SHOWN = 3  # exceptions of a group
ATTEMPTS_SHOWN = 5
BLOCKED_SHOWN = 3
FARTHEST = 100  # runs between a failure and what was blocked by it

BLOCKED = "UpstreamFailed"
# Lines of a group of exceptions have a margin of blanks and bars.
_FRAME = re.compile(
    r'^(?P<margin>[ |]*)File "(?P<file>[^"\n]+)", line (?P<line>\d+), in (?P<function>.+)\n'
    r"(?:(?P=margin)  (?P<code>.*))?",
    re.MULTILINE,
)
_CHAINED = re.compile(
    r"\n\n(?:The above exception was the direct cause of the following exception"
    r"|During handling of the above exception, another exception occurred):\n\n"
)
_PART = re.compile(r"^[ |]*(?:\+-)?\+-{16} (?:\d+|\.\.\.) -{16}$", re.MULTILINE)  # begins each exception of a group
_HEADER = re.compile(r"(?:Exception Group )?Traceback \(most recent call last\):")
_LEFT_OUT = re.compile(r"and (\d+) more exceptions?")  # by Python itself, which prints fifteen
_LIBRARIES = re.compile(r"[/\\](site-packages|dist-packages|penstock|lib[/\\]python[\d.]+)[/\\]|^<frozen ")


def errors(reader: Reader, run: RunRow, typed: str) -> str:
    """The section about errors; empty if there are none. `typed`: what the user has typed to name the run."""
    below = reader.failures(run.id, limit=LOOKED_AT)
    lines = [*_own(reader, run, below), *_by_task(reader, below, typed), *_blocked(reader, run, typed)]
    return "\n".join(["Errors", *lines]) if lines else ""


def _own(reader: Reader, run: RunRow, below: Sequence[RunRow]) -> Iterator[str]:
    """Of the run itself, unless it only repeats that of a run below."""
    if run.state_name == BLOCKED:
        for culprit in culprits(reader, run):
            yield from told(reader, culprit, "because of ")
    elif (run.error_type, run.error) not in {(row.error_type, row.error) for row in below}:
        yield from told(reader, run)


def _by_task(reader: Reader, rows: Sequence[RunRow], typed: str) -> Iterator[str]:
    tasks: dict[str, list[RunRow]] = {}
    for row in rows:
        tasks.setdefault(row.name, []).append(row)
    for name, failed in tasks.items():
        for row in failed[:EACH_SHOWN]:
            yield from told(reader, row)
        if len(failed) > EACH_SHOWN:
            number = "more" if len(rows) == LOOKED_AT else f"{len(failed) - EACH_SHOWN:,} more"
            yield f"  ... and {number} of {printable(name)}: {_listing(typed, name, 'failed')}"


def _blocked(reader: Reader, run: RunRow, typed: str) -> Iterator[str]:
    rows = reader.runs(below=run.id, states=[BLOCKED], limit=BLOCKED_SHOWN + 1)
    if rows:
        names = ", ".join(title(row) for row in reversed(rows[:BLOCKED_SHOWN]))
        more = f", ...: {_listing(typed, None, BLOCKED)}" if len(rows) > BLOCKED_SHOWN else ""
        yield f"  not started because of these: {names}{more}"


def _listing(typed: str, name: str | None, state: str) -> str:
    named = [] if name is None else ["--name", name]
    return shlex.join(["penstock", "ls", "--in", typed, *named, "--state", state])


def told(reader: Reader, row: RunRow, how: str = "") -> Iterator[str]:
    """The errors of a run's attempts."""
    ends: Sequence[AttemptRow | RunRow] = [row]
    if row.attempts > 1:
        ends = [attempt for attempt in reader.attempts(row.id) if attempt.run_id == row.id]
    # A run without attempts was refused or cancelled before it could start.
    for end in ends[-ATTEMPTS_SHOWN:] or [row]:
        yield from _error(row, end, how)


def _error(row: RunRow, end: AttemptRow | RunRow, how: str) -> Iterator[str]:
    if end.error_type is None:
        return
    which = ""
    if isinstance(end, AttemptRow) and row.attempts > 1:
        which = f", attempt {end.number} of {row.attempts}"
    error = coloured(
        Shade(f"{printable(end.error_type)}: {printable(end.error or row.message or '')}", COLOURS["FAILED"])
    )
    yield f"  {how}{title(row)}{which}: {error}"
    if place := user_line(end.traceback or ""):
        yield f"    {place}"
    yield from (f"    {part}" for part in parts(end.traceback or ""))


def culprits(reader: Reader, run: RunRow) -> list[RunRow]:
    """The runs that a blocked one could not start because of: they failed, crashed or were cancelled themselves."""
    found: dict[str, RunRow] = {}
    seen = {run.id}
    ahead = [run.id]
    while ahead and len(seen) < FARTHEST:
        for row in bad_upstreams(reader, ahead.pop()):
            if row.id not in seen:
                seen.add(row.id)
                (ahead.append(row.id) if row.state_name == BLOCKED else found.update({row.id: row}))
    return list(found.values())


def bad_upstreams(reader: Reader, run_id: str) -> Iterator[RunRow]:
    for edge in reader.edges(run_id):
        row = reader.get(edge.upstream_id) if edge.downstream_id == run_id else None
        if row is not None and row.status in ("FAILED", "CRASHED", "CANCELLED"):
            yield row


def user_line(traceback: str) -> str:
    """The last line of the traceback that is in the user's own code: `etl.py:12 in load`.

    Of a group of exceptions it is where the group was raised, else a line of the first one in it that has any.
    """
    texts = [text for link in reversed(_CHAINED.split(traceback)) for text in _PART.split(link)]
    every = [list(_FRAME.finditer(text)) for text in texts]
    own = [[frame for frame in frames if not _LIBRARIES.search(frame["file"])] for frames in every]
    frames = next(filter(None, [*own, *every]), None)
    if frames is None:
        return ""
    last = frames[-1]
    shown = f": {last['code'].strip()}" if last["code"] else ""
    return printable(f"{last['file']}:{last['line']} in {last['function']}{shown}")


def parts(traceback: str) -> Iterator[str]:
    """Of a group of exceptions the first ones in it, `ValueError: a`, and how many more there are."""
    errors = [_error_in(text) for text in _texts_of_parts(_CHAINED.split(traceback)[-1])]
    yield from map(printable, errors[:PARTS_SHOWN])
    more = sum(int(left_out[1]) if (left_out := _LEFT_OUT.fullmatch(error)) else 1 for error in errors[PARTS_SHOWN:])
    if more:
        yield f"and {more:,} more"


def _texts_of_parts(traceback: str) -> list[str]:
    """The tracebacks of the exceptions of a group, each without its margin and without those of groups in it."""
    first = _PART.search(traceback)
    if first is None:
        return []
    column = first[0].index("+--")
    margin = first[0][:column].replace("+-", "  ")
    found: list[list[str]] = [[]]
    for line in takewhile(lambda line: line.startswith(margin), traceback[first.end() + 1 :].split("\n")):
        if line.startswith("+--", column):
            found.append([])
        elif line.startswith("|", column):
            found[-1].append(line[column + 2 :])
    return ["\n".join(lines) for lines in found if lines]


def _error_in(traceback: str) -> str:
    """The error that the traceback ends with; of a text of many lines the first one."""
    lines = _CHAINED.split(traceback)[-1].split("\n")
    return next((line for line in lines if line and not line[0].isspace() and not _HEADER.fullmatch(line)), "")
