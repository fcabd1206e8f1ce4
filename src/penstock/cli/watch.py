"""`penstock watch`."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import click

from penstock import tallies
from penstock.cli.common import EXIT_STATUSES, NotFound, Opened, json_option, store_option, title
from penstock.cli.completing import run_argument
from penstock.cli.logs import Log, Speaker, Wanted
from penstock.cli.outcome import lasted, outcome
from penstock.cli.selecting import RUN_HELP, the_run
from penstock.cli.text import as_json, fields_of
from penstock.progress import lines
from penstock.progress.pace import Pace
from penstock.progress.screen import Screen
from penstock.store.base import LineRow, Reader, RunRow, Tally

_PAUSE = 0.3  # seconds between two looks, at least
_REST = 4  # times what a look has taken
_EVERY = 10.0  # seconds between two lines about how it gets on, where there is no terminal
_DEEPEST = 8  # levels of subflows that are told apart


@click.command(epilog=RUN_HELP)
@run_argument
@click.option(
    "-n",
    "--limit",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    help="Lines of the log from before; those that follow are shown in any case.",
)
@json_option
@store_option
def watch(run: str, limit: int, json_wanted: bool, store: Path | None) -> None:
    """Follow a run to its end, in whatever process it goes on. The exit status says how it ended.

    On a terminal the numbers of task runs by state stay below the lines of the log; elsewhere there is a line about
    them every ten seconds. With --json the run is printed when it has ended, and nothing before. Ctrl-C ends the
    command and not the run.

    For example, the run that was started last, and what is known about it if it does not complete:

    \b
        penstock watch @last || penstock show @last
    """
    with Opened(store) as reader:
        row = the_run(reader, run)
        view = _Silence() if json_wanted else _Picture() if _is_terminal() else _Lines()
        try:
            row = _follow(reader, row, view, limit)
        except KeyboardInterrupt:
            click.echo(f"{title(row)} goes on. Type: penstock watch {row.id}", err=True)
            raise
        finally:
            view.close()
        click.echo(as_json({"run": fields_of(row)}) if json_wanted else outcome(row, reader.counts(row.id)))
    raise SystemExit(EXIT_STATUSES[row.status])


def _is_terminal() -> bool:
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def _follow(reader: Reader, row: RunRow, view: _View, limit: int) -> RunRow:
    """Look until the run has ended; as it is then."""
    log = Log(reader, row, Wanted(logging.NOTSET, None, None, None))
    speak = Speaker(row, json_wanted=False)
    pace = Pace(row.started or row.created)
    fresh: Iterable[LineRow] = deque(log.fresh(), limit)
    while True:
        before = time.monotonic()
        groups = groups_of(reader.tally(row.id))
        pace.note(groups, time.time())
        view.look(row, groups)
        if view.speaks:
            speak(line for line in fresh if not _is_of_the_run(line, row))
        if row.ended is not None:
            return row
        time.sleep(max(_PAUSE, _REST * (time.monotonic() - before)))
        # The run is looked at first: all that it said was recorded before its end was.
        row = _now(reader, row)
        fresh = log.fresh()


def _now(reader: Reader, row: RunRow) -> RunRow:
    now = reader.get(row.id)
    if now is None:
        raise NotFound(f"{title(row)} has been removed from the store")
    return now


def _is_of_the_run(line: LineRow, row: RunRow) -> bool:
    """Whether it is about the beginning or the end of the run, which is shown anyway."""
    return line.run_id == row.id and line.logger == "penstock.flow_runs" and line.level == logging.INFO


# --- numbers ----------------------------------------------------------------------------------------------------


def groups_of(tally: Sequence[Tally]) -> list[tallies.Group]:
    """The runs of each task or flow, in the order in which the first were called, each before those inside it."""
    found: dict[tuple[tuple[str, ...], str, str], tallies.Group] = {}
    for one in sorted(tally, key=lambda one: one.created):
        path = tuple(one.place.split("/") if one.place else ())[:_DEEPEST]
        group = found.setdefault((path, one.kind, one.name), tallies.Group(one.name, one.kind, path))
        group.add(tallies.fate(one.status, one.state_name), one.number)
        if one.retried:
            group.add("retried", one.retried)
    return list(_inside((), list(found.values())))


def _inside(path: tuple[str, ...], groups: Sequence[tallies.Group]) -> Iterator[tallies.Group]:
    for group in groups:
        if group.path == path:
            yield group
            if group.kind == "flow":
                yield from _inside((*path, group.name), groups)


# --- how it is shown --------------------------------------------------------------------------------------------


class _View(Protocol):
    speaks: bool  # there are lines of the log

    def look(self, row: RunRow, groups: Sequence[tallies.Group]) -> None: ...
    def close(self) -> None: ...


class _Silence:
    speaks = False

    def look(self, row: RunRow, groups: Sequence[tallies.Group]) -> None: ...
    def close(self) -> None: ...


class _Picture:
    """On a terminal: below everything else, and there to stay at the end."""

    speaks = True

    def __init__(self) -> None:
        self._screen = Screen(sys.stdout)
        self._paint = lines.painter()
        self._last: list[str] = []
        self._screen.open()

    def look(self, row: RunRow, groups: Sequence[tallies.Group]) -> None:
        width, height = self._screen.size()
        picture = lines.Picture(title(row), lasted(row) or 0.0, groups)
        self._last = [self._paint(line) for line in lines.lines([picture], width, height, plain=self._screen.plain)]
        self._screen.show(self._last)

    def close(self) -> None:
        self._screen.show(())
        self._screen.leave(self._last)
        self._screen.close()


class _Lines:
    """Elsewhere: a line now and then."""

    speaks = True

    def __init__(self) -> None:
        self._due = 0.0

    def look(self, row: RunRow, groups: Sequence[tallies.Group]) -> None:
        now = time.monotonic()
        if row.ended is not None or now < self._due:
            return
        self._due = now + _EVERY
        click.echo(f"{title(row)} after {tallies.duration(lasted(row))}: {tallies.in_words(groups)}")

    def close(self) -> None: ...
