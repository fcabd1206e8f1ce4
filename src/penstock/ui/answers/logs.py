"""The log of a run and of everything below it, a page at a time, by the numbers that lines have in the store.

Looking for lines goes through the log in spans, newest or oldest first, for a limited time: what was found until then
is handed out, and where to go on.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

from penstock.store.base import LineRow, RunRow
from penstock.store.text import as_parameters
from penstock.ui.answers.documents import Document, block, columns, document, line
from penstock.ui.asking import Asked, Refused
from penstock.ui.records import THOROUGH, Records, TookTooLong

FIRST_SPAN, LARGEST_SPAN = 5_000, 40_000  # numbers that are looked through at once
SEARCHING = 0.15  # seconds, by the clock of the records, for one answer, but for the first span
LARGEST = 150_000  # characters of all messages in one answer
LONGEST = 4_000  # of one

_COLUMNS = "seq time level logger message run_id title name"


def answer(records: Records, asked: Asked) -> Document:
    places = [name for name in ("after", "before", "around") if asked[name] is not None]
    if len(places) > 1:
        raise Refused(f"only one of {', '.join(places)} can be given")
    search = Search(records, records.get(asked["id"]), asked)
    limit = asked["limit"]
    if asked["around"] is not None:
        half = limit // 2
        return search.page(search.before(asked["around"], half), search.after(asked["around"] - 1, limit - half))
    if asked["after"] is not None:
        return search.page(Found([], asked["after"] + 1, True), search.after(asked["after"], limit))
    before = search.last + 1 if asked["before"] is None else asked["before"]
    return search.page(search.before(before, limit), Found([], before - 1, True))


class Found(NamedTuple):
    """`upto`: the last number that was looked at. `whole`: the search was not given up before its time."""

    lines: list[LineRow]
    upto: int
    whole: bool


class Search:
    """`first`, `last`: the numbers between which the run's lines are; of a run that goes on there may come more."""

    def __init__(self, records: Records, run: RunRow, asked: Asked) -> None:
        self._records = records
        self._until = self._records.clock() + SEARCHING
        self.first, self.last = _bounds(records, run)
        level = logging.getLevelNamesMapping()[asked["level"].upper()] if asked["level"] else 0
        self._filters = {
            "level": level,
            "task": asked["task"],
            "text": as_parameters({"text": asked["text"]})["text"],
            "root_id": run.root_id,
            "inside": None if run.id == run.root_id else run.id,
        }

    def after(self, seq: int, limit: int) -> Found:
        """The first lines behind a number, in order."""
        lines: list[LineRow] = []
        at, span = max(seq, self.first - 1), FIRST_SPAN
        while at < self.last and len(lines) < limit:
            upto = min(at + span, self.last)
            page = self._look("lines_after", at, upto + 1, limit - len(lines))
            lines += page
            at = page[-1].number if len(lines) == limit else upto
            span = min(2 * span, LARGEST_SPAN)
            if self._records.clock() > self._until and len(lines) < limit and at < self.last:
                return Found(lines, at, False)
        return _cut(lines, at)

    def before(self, seq: int, limit: int) -> Found:
        """The last lines in front of a number, in order."""
        lines: list[LineRow] = []
        at, span = min(seq, self.last + 1), FIRST_SPAN
        while at > self.first and len(lines) < limit:
            downto = max(at - span, self.first)
            page = self._look("lines_before", downto - 1, at, limit - len(lines))
            lines += page
            at = page[-1].number if len(lines) == limit else downto
            span = min(2 * span, LARGEST_SPAN)
            if self._records.clock() > self._until and len(lines) < limit and at > self.first:
                return Found(lines[::-1], at, False)
        found = _cut(lines, at)
        return found._replace(lines=found.lines[::-1])

    def _look(self, query: str, low: int, high: int, limit: int) -> list[LineRow]:
        try:
            rows = self._records.ask(query, low=low, high=high, limit=limit, **self._filters)
        except TookTooLong:  # so many in a row are not of this run
            if high - low <= 2:
                raise
            rows = self._records.ask(query, within=THOROUGH, low=low, high=high, limit=limit, **self._filters)
        return [LineRow._make(row) for row in rows]

    def page(self, before: Found, after: Found) -> Document:
        """Lines in front of a place and behind it."""
        lines = [*before.lines, *after.lines]
        return document(
            columns=as_columns(lines),
            first=self.first,
            last=self.last,
            before=before.upto if before.upto > self.first > 0 else None,
            after=after.upto if after.upto < self.last else None,
            complete=before.whole and after.whole,
        )


def _bounds(records: Records, run: RunRow) -> tuple[int, int]:
    """Looking through the whole tree is worth it once: the first number stays what it is, and while a run goes on, the
    last one is that of the whole log."""

    def bounds() -> tuple[int, int]:
        [(first, last)] = records.ask_below(run, "line_bounds", run_id=run.id)
        return first or 0, last or 0

    if run.ended is not None:
        return records.once(run, ("lines",), bounds)
    first = records.always(run, ("first line",), lambda: bounds()[0])
    [(last,)] = records.ask("last_line")
    return first, (last or 0) if first else 0


def _cut(lines: Sequence[LineRow], upto: int) -> Found:
    """As many of the lines as an answer may hold."""
    total = 0
    for place, one in enumerate(lines):
        total += min(len(one.message), LONGEST)
        if total > LARGEST and place:
            return Found([*lines[:place]], lines[place - 1].number, True)
    return Found([*lines], upto, True)


def as_columns(lines: Sequence[LineRow]) -> dict[str, list[Any]]:
    return columns(_COLUMNS, map(_cells, lines))


def _cells(one: LineRow) -> tuple[Any, ...]:
    name = f"{one.name}/{one.run_name}" if one.kind == "flow" else one.run_name
    message = block(one.message, LONGEST)
    return one.number, one.time, one.level, line(one.logger), message, one.run_id, line(name), line(one.name)
