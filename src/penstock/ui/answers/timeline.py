"""What ran when: for each group how many of its runs were at what in each bin of time, and of one group every attempt.

What a run did is told by four moments: created, started, started for the last time, ended. The store counts how many
runs have all four in the same bins, which are few; from these numbers, and sums of the moments, follows exactly how
many were at it in each bin and for how long, however long they took.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from penstock import tallies
from penstock.store.base import AttemptRow, RunRow
from penstock.ui.answers.documents import Document, columns, document, fate, group_id, line, name_of_group, named, title
from penstock.ui.asking import Asked, Refused
from penstock.ui.records import Records

STATES = ("queued", "running", "completed", "cached", "failed", "retried", "crashed", "blocked", "cancelled")
MOST_GROUPS = 200
MOST_CELLS = 4_000
MOST_BINS = 1_000
LEAST_BINS = 8
EARLIER = 20_000  # attempts that were followed by others
SHORTEST = 1e-6  # seconds of a whole timeline


@dataclass
class Cover:
    """How many were at something, bin by bin."""

    bins: int
    change: dict[int, int] = field(default_factory=dict)  # of the number of those that were at it at some time
    whole: dict[int, int] = field(default_factory=dict)  # of the number of those that filled the bin, but for `parts`
    parts: dict[int, float] = field(default_factory=dict)  # seconds

    def add(self, number: int, first: int, last: int, at_first: float, at_last: float) -> None:
        """`number` were at it from bin `first`, on average `at_first` seconds after its beginning, to bin `last`.

        -1 and `bins` are outside.
        """
        if last < 0 or first >= self.bins:
            return
        start, end = max(first, 0), min(last, self.bins - 1)
        _more(self.change, start, number)
        _more(self.change, end + 1, -number)
        _more(self.whole, start, number)
        if first >= 0:
            self.parts[start] = self.parts.get(start, 0.0) - number * at_first
        if last < self.bins:
            _more(self.whole, end, -number)
            self.parts[end] = self.parts.get(end, 0.0) + number * at_last

    def cells(self, seconds: float) -> Iterator[tuple[int, int, float]]:
        """Bins with their number and busy seconds. `seconds`: of a bin."""
        moments = sorted({*self.change, *self.whole, *self.parts})
        number = whole = 0
        for place, one in enumerate(moments):
            number += self.change.get(one, 0)
            whole += self.whole.get(one, 0)
            until = moments[place + 1] if place + 1 < len(moments) else one + 1
            for bin_ in range(one, min(until, self.bins)):
                if number:
                    yield bin_, number, max(0.0, whole * seconds + (self.parts.get(bin_, 0.0) if bin_ == one else 0.0))


def _more(numbers: dict[int, int], place: int, by: int) -> None:
    numbers[place] = numbers.get(place, 0) + by


@dataclass
class Lane:
    """One group."""

    place: str
    kind: str
    name: str
    total: int = 0
    begin: float | None = None
    end: float | None = None
    goes_on: bool = False
    covers: dict[str, Cover] = field(default_factory=dict)  # by state

    @property
    def id(self) -> str:
        return group_id(self.place, self.kind, self.name)


class Scale(NamedTuple):
    """Where a picture begins and ends, and how many bins it has."""

    begin: float
    end: float
    bins: int

    @property
    def width(self) -> float:
        return (self.end - self.begin) / self.bins

    def place(self, moment: float) -> tuple[int, float]:
        """The bin of a moment, and how many seconds after the bin's beginning it is."""
        if moment < self.begin:
            return -1, 0.0
        if moment >= self.end:
            return self.bins, 0.0
        bin_ = min(int((moment - self.begin) / self.width), self.bins - 1)
        return bin_, moment - self.begin - bin_ * self.width


def answer(records: Records, asked: Asked) -> Document:
    run = records.get(asked["id"])
    now = time.time()
    begin = run.created if run.started is None else run.started
    scale = _scale(asked, begin, now if run.ended is None else run.ended)

    def make() -> list[Lane]:
        return _lanes(records, run, scale, now)

    # Of a run that has ended, the picture of all of it is asked for again and again; others rarely come again.
    is_whole = asked["from"] is None and asked["to"] is None
    lanes = records.once(run, ("lanes", scale.bins), make) if is_whole else make()
    shown, wanted = lanes[:MOST_GROUPS], asked["open"]
    return document(
        begin=begin,
        end=run.ended,
        **{"from": scale.begin, "to": scale.end},
        bin=scale.width,
        states=STATES,
        groups=_groups(shown, scale),
        more=len(lanes) - len(shown),
        open=None if wanted is None else _open(records, run, asked, {one.id: one.total for one in lanes}),
    )


def _scale(asked: Asked, begin: float, end: float) -> Scale:
    start = begin if asked["from"] is None else asked["from"]
    stop = max(end, start + SHORTEST) if asked["to"] is None else asked["to"]
    if stop <= start:
        raise Refused("to must be later than from")
    return Scale(start, stop, min(asked["width"], MOST_BINS))


def _lanes(records: Records, run: RunRow, scale: Scale, now: float) -> list[Lane]:
    lanes: dict[str, Lane] = {}
    facts = {"begin": scale.begin, "end": scale.end}
    is_dead = run.status == "CRASHED"
    rows = records.ask_below(run, "bins", bins=scale.bins, scale=1 / scale.width, **facts)
    for row in rows:
        _count(lanes, row, scale, (run.ended or now) if is_dead else now, is_dead)
    if any(row[-1] > 1 or row[3] == "WAITING" for row in rows):
        _count_earlier(lanes, records.ask_below(run, "earlier", limit=EARLIER, **facts), scale)
    return _in_order(lanes.values())


def _count_earlier(lanes: dict[str, Lane], attempts: Iterable[tuple[Any, ...]], scale: Scale) -> None:
    for place, kind, name, started, ended in attempts:
        lane = lanes.setdefault(group_id(place, kind, name), Lane(place, kind, name))
        _add(lane, "retried", scale, 1, scale.place(started), scale.place(ended))


def _in_order(lanes: Iterable[Lane]) -> list[Lane]:
    return sorted(lanes, key=lambda lane: (lane.begin is None, lane.begin or 0.0, lane.id))


def _cover(lane: Lane, state: str, scale: Scale) -> Cover:
    return lane.covers.setdefault(state, Cover(scale.bins))


def _count(lanes: dict[str, Lane], row: Sequence[Any], scale: Scale, now: float, is_dead: bool) -> None:
    place, kind, name, status, state_name, *bins = row[:9]
    number, *sums, created, ended, _ = row[9:]
    lane = lanes.setdefault(group_id(place, kind, name), Lane(place, kind, name))
    lane.total += number
    lane.begin = created if lane.begin is None else min(lane.begin, created)
    lane.goes_on = lane.goes_on or (ended is None and not is_dead)
    lane.end = ended if lane.end is None else max(lane.end, ended or lane.end)
    # On average each, after the beginning of its bin; None: it has not come to that.
    made, began, again, over = (
        None if bin_ is None or total is None else (bin_, total / number - bin_ * scale.width)
        for bin_, total in zip(bins, sums, strict=True)
    )
    state = "crashed" if is_dead and ended is None else tallies.fate(status, state_name)
    last = over or scale.place(now)
    if made is not None and (began is not None or over is None):
        _add(lane, "queued", scale, number, made, began or last)
    if again is not None:
        # What waits for its next attempt has no attempt at this moment.
        at_work = state if over is not None or is_dead else "running"
        if over is not None or is_dead or status == "RUNNING":
            _add(lane, at_work, scale, number, again, last)
    elif over is not None:
        _add(lane, state, scale, number, over, over)


def _add(lane: Lane, state: str, scale: Scale, number: int, first: tuple[int, float], last: tuple[int, float]) -> None:
    _cover(lane, state, scale).add(number, first[0], last[0], first[1], last[1])


def _groups(lanes: Sequence[Lane], scale: Scale) -> Document:
    cells = [(*named(lane), lane.total, lane.begin, None if lane.goes_on else lane.end) for lane in lanes]
    found = [[*_cells(lane, scale)] for lane in lanes]
    joined = _coarser(found, sum(map(len, found)))
    return {
        "columns": columns("group place kind name total begin end", cells),
        "bins": [columns("bin state number busy", rows) for rows in joined[1]],
        "joined": joined[0],
    }


def _cells(lane: Lane, scale: Scale) -> Iterator[tuple[int, int, int, float]]:
    for number, state in enumerate(STATES):
        cover = lane.covers.get(state)
        if cover is not None:
            for bin_, many, busy in cover.cells(scale.width):
                yield bin_, number, many, float(f"{busy:.3g}")


def _coarser(
    lanes: list[list[tuple[int, int, int, float]]], total: int
) -> tuple[int, list[list[tuple[int, int, int, float]]]]:
    """Bins next to each other together, so many that an answer holds them all."""
    factor = 1
    while total / factor > MOST_CELLS and factor < MOST_BINS // LEAST_BINS:
        factor *= 2
    return factor, [_joined(rows, factor) for rows in lanes] if factor > 1 else lanes


def _joined(rows: Iterable[tuple[int, int, int, float]], factor: int) -> list[tuple[int, int, int, float]]:
    found: dict[tuple[int, int], tuple[int, float]] = {}
    for bin_, state, number, busy in rows:
        most, so_far = found.get((bin_ // factor, state), (0, 0.0))
        found[bin_ // factor, state] = max(most, number), so_far + busy
    return [(bin_, state, number, float(f"{busy:.3g}")) for (bin_, state), (number, busy) in found.items()]


# --- one group, run by run ---


def _open(records: Records, run: RunRow, asked: Asked, totals: Mapping[str, int]) -> Document:
    place = {"first": asked["first"], "created": None, "id": None}
    found = records.ask_below(run, "members", group=asked["open"], limit=asked["rows"], **place)
    rows = records.shown(run, map(RunRow._make, found))
    attempts: dict[str, list[AttemptRow]] = {}
    ids = [row.id for row in rows if row.attempts > 1 or (row.attempts and row.status == "WAITING")]
    for one in records.ask("attempts_of", ids=json.dumps(ids)) if ids else ():
        attempts.setdefault(one[0], []).append(AttemptRow._make(one))
    segments = (
        (number, *segment) for number, row in enumerate(rows) for segment in _segments(row, attempts.get(row.id, []))
    )
    names = "id title fate state created ended"
    cells = ((row.id, title(row), fate(row), line(row.state_name), row.created, row.ended) for row in rows)
    return {
        "group": name_of_group(asked["open"]),
        "first": asked["first"],
        "total": totals.get(asked["open"], 0),
        "columns": columns(names, cells),
        "segments": columns("row kind from to", segments),
    }


def _segments(row: RunRow, attempts: Sequence[AttemptRow]) -> Iterator[tuple[str, float | None, float | None]]:
    """What a run did, one after the other."""
    yield "queued", row.created, row.started or row.ended
    before: float | None = None
    earlier = [one for one in attempts if row.ended is None or one.number < row.attempts]
    over = [one for one in earlier if one.ended is not None]
    for attempt in over:
        if before is not None:
            yield "waiting", before, attempt.started
        yield "retried", attempt.started, attempt.ended
        before = attempt.ended
    goes_on = row.ended is None and row.status == "RUNNING"
    if before is not None:
        yield "waiting", before, row.attempt_started if row.ended is not None or goes_on else None
    if row.ended is not None or goes_on:
        yield fate(row), row.ended if row.started is None else row.attempt_started, row.ended
