"""All that is recorded about one run, for those who write it somewhere else."""

from __future__ import annotations

import math
import time
from typing import NamedTuple

from penstock import tallies
from penstock.cli.outcome import groups_of, lasted
from penstock.store.base import AttemptRow, EdgeRow, LogRow, Reader, RunRow, StateCount

PAGE = 20_000  # runs
LAST_MOMENT = 253_402_300_799.0  # the end of the year 9999: later ones no calendar knows


class Whole(NamedTuple):
    """A run with everything below it."""

    run: RunRow
    below: list[RunRow]
    counts: list[StateCount]
    attempts: dict[str, list[AttemptRow]]  # by id of the run
    edges: list[EdgeRow]
    logs: list[LogRow]
    more_logs: bool  # there are earlier lines
    seen: float  # when it was read, in seconds since the epoch

    @property
    def runs(self) -> list[RunRow]:
        return [self.run, *self.below]


def read_whole(reader: Reader, run: RunRow, log_lines: int) -> Whole:
    """Read everything, but of the log the last `log_lines` only."""
    attempts: dict[str, list[AttemptRow]] = {}
    for attempt in reader.attempts(run.id):
        attempts.setdefault(attempt.run_id, []).append(attempt)
    logs = reader.logs(run.id, limit=log_lines + 1)
    shown = logs[-log_lines:] if log_lines else []
    return Whole(
        run,
        _below(reader, run),
        reader.counts(run.id),
        attempts,
        reader.edges(run.id),
        shown,
        len(logs) > log_lines,
        time.time(),
    )


def _below(reader: Reader, run: RunRow) -> list[RunRow]:
    """Every run below, in order of creation. In pages: a store gives up on an answer that takes long."""
    latest_first: list[RunRow] = []
    while True:
        page = reader.runs(below=run.id, before=latest_first[-1] if latest_first else None, limit=PAGE)
        latest_first += page
        if len(page) < PAGE:
            return latest_first[::-1]


def how_it_went(whole: Whole) -> str:
    """`in 4.2 s · 26 task runs (1 failed and handled, 3 cached, 2 retried)`: what is to be said after the state."""
    run = whole.run
    took = None if run.ended is None else lasted(run)
    return tallies.sentence("", "", took, groups_of(whole.counts), handled=run.status == "COMPLETED").strip()


def moment_of(seconds: float | None) -> float | None:
    """A recorded time, if it is one."""
    usable = seconds is not None and math.isfinite(seconds) and 0 <= seconds <= LAST_MOMENT
    return seconds if usable else None


def microseconds(seconds: float | None, begin: float) -> int | None:
    """A recorded time, counted from `begin`; None if it is none."""
    usable = moment_of(seconds)
    return None if usable is None else round((usable - begin) * 1e6)
