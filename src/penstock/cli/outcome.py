"""How runs went, in one sentence."""

from __future__ import annotations

import time
from collections.abc import Sequence

from penstock import tallies
from penstock.cli.common import title
from penstock.cli.text import coloured, duration, printable, state_of
from penstock.store.base import RunRow, StateCount


def outcome(run: RunRow, counts: Sequence[StateCount]) -> str:
    """`etl/brave-otter COMPLETED in 4.2 s · 26 task runs (1 failed and handled, 3 cached, 2 retried)`."""
    state = coloured(state_of(run), printable(tallies.state_words(run.status, run.state_name)))
    took = None if run.ended is None else lasted(run)
    return tallies.sentence(title(run), state, took, groups_of(counts), handled=run.status == "COMPLETED")


def task_summary(counts: Sequence[StateCount]) -> str:
    """`26 (1 failed, 3 cached)`: how many tasks, and what there is to know about them."""
    tasks = tallies.total(groups_of(counts), "task")
    if not tasks.total:
        return "-"
    noun = "task run"
    return f"{tasks.total:,}{tallies.counts(tasks, noun).removeprefix(tallies.plural(tasks.total, noun))}"


def groups_of(counts: Sequence[StateCount]) -> list[tallies.Group]:
    """The same numbers as a group for each kind of run."""
    groups: dict[str, tallies.Group] = {}
    for count in counts:
        group = groups.setdefault(count.kind, tallies.Group("", count.kind))
        group.add(tallies.fate(count.status, count.state_name), count.number)
        if count.retried:
            group.add("retried", count.retried)
    return list(groups.values())


def lasted(row: RunRow) -> float | None:
    """Seconds from the first start to the end, or to now while the run goes on; None if it never started."""
    if row.started is None:
        return None
    return (time.time() if row.ended is None else row.ended) - row.started


def elapsed(row: RunRow) -> str:
    return duration(lasted(row))
