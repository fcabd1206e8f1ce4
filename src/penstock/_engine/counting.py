"""How many runs below a root run have come to which end, by name: for its last line, and for progress.

An end costs one entry in a table. What the entries mean, and what goes on at the moment, is worked out when somebody
asks: that goes through the runs that have not ended.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from importlib import import_module
from operator import attrgetter
from threading import Lock
from typing import TYPE_CHECKING, Any

from penstock._core.machine import CACHED, UPSTREAM, Reason
from penstock._engine.run import Run
from penstock.states import Status

if TYPE_CHECKING:
    from collections.abc import Iterator

    from penstock.store.base import RunRow
    from penstock.tallies import Group

_DEEPEST = 8  # levels of subflows that are told apart: a flow that calls itself may have thousands
_REASONS = {"Cached": CACHED, "UpstreamFailed": UPSTREAM}
_FACTS = attrgetter("plan", "status", "reason", "attempt")
_FATES = {(Status.COMPLETED, CACHED): "cached", (Status.FAILED, UPSTREAM): "blocked"}


class Ends:
    """The runs that one engine has seen end, and those inside subflows that are over."""

    __slots__ = ("_below", "_lock", "_numbers", "names", "unhandled")

    def __init__(self) -> None:
        self._numbers: Counter[tuple[str, str, Status, Reason, bool, bool]] = Counter()
        self._below: dict[str, Ends] = {}  # by name of the subflow
        self._lock = Lock()
        self.names: dict[tuple[str, str], None] = {}  # kind and name, in the order in which they were first shown
        self.unhandled = 0  # failures that the flow forgives although nobody has looked at them

    def count(self, run: Run) -> None:
        """A run has ended: its status is final."""
        plan = run.plan
        with self._lock:
            self._numbers[plan.kind, plan.name, run.status, run.reason, run.attempt > 1, False] += 1

    def count_row(self, row: RunRow) -> None:
        """A run has ended in another process."""
        reason = _REASONS.get(row.state_name, Reason.NONE)
        with self._lock:
            self._numbers[row.kind, row.name, Status[row.status], reason, row.attempts > 1, False] += 1

    def absorb(self, name: str, inner: Ends) -> None:
        """A subflow is over: what it has counted is part of the whole."""
        with self._lock:
            self._below.setdefault(name, Ends())._add(inner, _DEEPEST)
            self.unhandled += inner.unhandled

    def _add(self, other: Ends, levels: int) -> None:
        self.names.update(other.names)
        self._numbers.update(other._numbers)
        for name, below in other._below.items():
            (self._below.setdefault(name, Ends()) if levels else self)._add(below, levels - 1)

    def start_over(self) -> None:
        """Another attempt at the root run follows. What has failed in this one nobody will have handled."""
        with self._lock:
            self._numbers = Counter({(*key[:-1], True): number for key, number in self._numbers.items()})
            for below in self._below.values():
                below.start_over()


class _Level:
    """The runs directly inside a flow run, or inside those of one subflow's name; and what is inside these."""

    def __init__(self) -> None:
        self.numbers: dict[tuple[str, str], dict[str, int]] = {}
        self.below: dict[str, _Level] = {}

    def inside(self, name: str) -> _Level:
        return self.below.setdefault(name, _Level())

    def add(self, kind: str, name: str, fates: Sequence[str], number: int) -> None:
        numbers = self.numbers.setdefault((kind, name), {})
        for fate in fates:
            numbers[fate] = numbers.get(fate, 0) + number

    def take(self, ends: Ends) -> None:
        for key in ends.names:
            self.numbers.setdefault(key, {})
        with ends._lock:
            counted, below = list(ends._numbers.items()), list(ends._below.items())
        for (kind, name, status, reason, retried, earlier), number in counted:
            fate = _fate(status, reason)
            notes = ["retried"] * retried + [f"{fate} earlier"] * earlier
            self.add(kind, name, [fate, *notes], number)
        for name, inner in below:
            self.inside(name).take(inner)

    def look(self, run: Run) -> None:
        """Add the runs below `run` that have not ended."""
        children = [child for child in run.living_children() if type(child) is Run]
        for (plan, status, reason, attempt), number in Counter(map(_FACTS, children)).items():
            if not status.final:  # else it is counted as ended already, or will be in a moment
                self.add(plan.kind, plan.name, [_fate(status, reason), *["retried"] * (attempt > 1)], number)
        for child in [child for child in children if child.children or child.engine is not run.engine]:
            if child.engine is run.engine:
                self.look(child)
                continue
            inner = self.inside(child.plan.name)
            inner.take(child.engine.ends)
            inner.look(child)

    def groups(self, path: tuple[str, ...], group: Any) -> Iterator[Group]:
        for (kind, name), numbers in self.numbers.items():
            if numbers:
                yield group(name, kind, path, numbers)
            if kind == "flow" and name in self.below:
                yield from self.below[name].groups((*path, name), group)


def _fate(status: Status, reason: Reason) -> str:
    return _FATES.get((status, reason)) or status.name.lower()


def groups(root: Run, *, living: bool) -> list[Group]:
    """What has become of the runs below a root run, by name; with those that have not ended, if `living`."""
    level = _Level()
    level.take(root.engine.ends)
    if living:
        level.look(root)
    root.engine.ends.names.update(dict.fromkeys(level.numbers))
    return list(level.groups((), import_module("penstock.tallies").Group))
