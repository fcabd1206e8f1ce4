"""`penstock logs`."""

from __future__ import annotations

import json
import logging
import re
import time
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import click

from penstock.cli.common import Opened, store_option
from penstock.cli.completing import run_argument
from penstock.cli.lines import form_of, line_text
from penstock.cli.selecting import RUN_HELP, the_run
from penstock.cli.text import SCHEMA, fields_of, printable
from penstock.cli.times import TIME_HELP, Moment
from penstock.store.base import LineRow, Reader, RunRow

SPAN = 20_000  # numbers of lines that are asked for at once
HELD_BACK = 10_000  # lines whose runs are not recorded yet
POLL = 0.3  # seconds between looks at a run that goes on
LEVELS = ("debug", "info", "warning", "error", "critical")


@click.command(epilog=f"{RUN_HELP} {TIME_HELP}")
@run_argument
@click.option("-f", "--follow", is_flag=True, help="Go on with new lines until the run has ended.")
@click.option("-n", "--limit", type=click.IntRange(min=0), help="Only the last lines, so many; then what follows.")
@click.option("--level", type=click.Choice(LEVELS, case_sensitive=False), help="Only lines of this level and above.")
@click.option("--task", metavar="NAME", help="Only lines of this task or flow, or of the run with this name.")
@click.option("--grep", metavar="REGEX", help="Only lines whose message has a match for this. (?i) is for any case.")
@click.option("--since", type=Moment(), help="Only lines written at this time or later.")
@click.option("--json", "json_wanted", is_flag=True, help="JSON Lines: one document for each line of the log.")
@store_option
def logs(
    run: str,
    follow: bool,
    limit: int | None,
    level: str | None,
    task: str | None,
    grep: str | None,
    since: float | None,
    json_wanted: bool,
    store: Path | None,
) -> None:
    """Print the log of a run and of everything below it: what the library and the bodies have said, in order.

    With --follow, the command goes on until the run has ended, however it ended, and then exits with 0. Unlike that of
    other commands, the output of --json is JSON Lines: a log that goes on cannot be one document.

    For example, the log of the run that goes on right now; and where something was wrong in the tasks called load:

    \b
        penstock logs @last --follow
        penstock logs @last --task load --level warning
    """
    with Opened(store) as reader:
        row = the_run(reader, run)
        wanted = Wanted(logging.getLevelNamesMapping()[(level or "notset").upper()], task, _pattern(grep), since)
        log = Log(reader, row, wanted)
        say = Speaker(row, json_wanted)
        say(deque(log.fresh(), limit))
        while follow and row.ended is None:
            time.sleep(POLL)
            # The run is looked at first: all that it said was recorded before its end was.
            row = reader.get(row.id) or row._replace(ended=time.time())
            say(log.fresh())
    if not say.anything:
        click.echo(f"No line of the log is of that kind. How the run went: penstock show {row.id[:12]}", err=True)


def _pattern(grep: str | None) -> re.Pattern[str] | None:
    try:
        return None if grep is None else re.compile(grep)
    except re.error as error:
        raise click.BadParameter(f"{grep!r} is no regular expression: {error}", param_hint="--grep") from error


class Wanted(NamedTuple):
    """Which lines somebody wants to see."""

    level: int
    name: str | None
    pattern: re.Pattern[str] | None
    since: float | None


class Log:
    """The lines of a run and of those below it, of which more may come."""

    def __init__(self, reader: Reader, run: RunRow, wanted: Wanted) -> None:
        self._reader = reader
        self._run = run
        self._wanted = wanted
        first, _ = reader.line_numbers(run.id)
        self._at = first - 1 if first else max(0, reader.line_numbers()[1] - SPAN)
        self._unknown: deque[LineRow] = deque(maxlen=HELD_BACK)

    def fresh(self) -> Iterator[LineRow]:
        """What was written since the last time."""
        yield from self._now_known()
        _, last = self._reader.line_numbers() if self._run.ended is None else self._reader.line_numbers(self._run.id)
        while self._at < last:
            upto = min(self._at + SPAN, last)
            level, name, _, since = self._wanted
            page = self._reader.lines(self._run, self._at, upto, level=level, name=name, since=since)
            self._at = upto
            self._unknown.extend(line for line in page if line.kind is None)
            yield from (line for line in page if line.kind is not None and self._matches(line))

    def _now_known(self) -> Iterator[LineRow]:
        """Lines that were there before their runs: a task on a worker may say something before it is recorded."""
        waiting = list(self._unknown)
        self._unknown.clear()
        for line in waiting:
            row = self._reader.get(line.run_id)
            if row is None:
                self._unknown.append(line)
            elif self._wanted.name in (None, row.name, row.run_name) and self._is_inside(row):
                known = line._replace(kind=row.kind, name=row.name, run_name=row.run_name)
                if self._matches(known):
                    yield known

    def _matches(self, line: LineRow) -> bool:
        return self._wanted.pattern is None or self._wanted.pattern.search(line.message) is not None

    def _is_inside(self, row: RunRow | None) -> bool:
        while row is not None and row.id != self._run.id:
            row = None if row.parent_id is None else self._reader.get(row.parent_id)
        return row is not None


class Speaker:
    """Prints lines; empty pages not at all."""

    def __init__(self, run: RunRow, json_wanted: bool) -> None:
        self._as_text = _as_json if json_wanted else self._for_people
        self._run = run
        self.anything = False  # has been said

    def __call__(self, lines: Iterable[LineRow]) -> None:
        self._form = form_of(self._run)  # anew: a run that is followed may go on past midnight
        page = [self._as_text(line) for line in lines]
        if page:
            self.anything = True
            click.echo("\n".join(page))

    def _for_people(self, line: LineRow) -> str:
        name = f"{line.name}/{line.run_name}" if line.kind == "flow" else line.run_name
        first, *others = line.message.split("\n")
        head = line_text(line._replace(message=first), printable(name), self._form)
        return "\n".join([head, *(f"    {printable(other)}" for other in others)])


def _as_json(line: LineRow) -> str:
    level = logging.getLevelName(line.level)
    return json.dumps({"schema": SCHEMA, **fields_of(line), "level_name": level}, allow_nan=False)
