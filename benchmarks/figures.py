"""Figures beside their budgets, and what processes have used of the processor."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Figure:
    """A row of the table of what was promised."""

    what: str
    budget: str
    measured: str
    holds: bool

    def __str__(self) -> str:
        return f"| {self.what} | {self.budget} | {self.measured} | {'ok' if self.holds else 'MISSED'} |"


def at_most(what: str, bound: float, unit: str, measured: float, *others: str) -> Figure:
    """`others`: said behind the figure."""
    said = ", ".join([f"{measured:.3g} {unit}".strip(), *others])
    return Figure(what, f"≤ {bound:g} {unit}".strip(), said, measured <= bound)


def percentile(values: Iterable[float], share: float) -> float:
    in_order = sorted(values)
    return in_order[min(len(in_order) - 1, int(len(in_order) * share))]


# --- processes, by what the kernel tells of them ---


def descendants(of: int) -> list[int]:
    """Processes that `of` has started, and what these have started."""
    children: dict[int, list[int]] = {}
    for directory in Path("/proc").glob("[0-9]*"):
        if fields := _stat(int(directory.name)):
            children.setdefault(int(fields[1]), []).append(int(directory.name))
    found = [of]
    for one in found:
        found += children.get(one, [])
    return found[1:]


def command_of(process: int) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def used(processes: Sequence[int]) -> float:
    """Seconds of the processor, of these that are still there."""
    fields = [found for one in processes if (found := _stat(one))]
    return sum(int(one[11]) + int(one[12]) for one in fields) / TICKS


def _stat(process: int) -> list[str]:
    """Fields behind the name of the program: state, parent, ..."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
