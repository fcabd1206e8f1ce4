"""How fast it goes: what got done lately, and when the rest will be."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from penstock.tallies import Group

_WINDOW = 15.0  # seconds that count as lately
_STEP = 0.5  # seconds between two notes that are kept
_FEW = 5  # ends: fewer say little about lately, so the average since the beginning stands in

_Key = tuple[tuple[str, ...], str, str]


class _Notes(NamedTuple):
    taken: deque[tuple[float, int]]  # when, and how many were done: the first is the beginning
    over: list[tuple[float, int]]  # when there was nothing left to do


class Pace:
    """Notes of one flow run, made now and then."""

    def __init__(self, began: float) -> None:
        """`began`: seconds, from whatever moment."""
        self._groups: dict[_Key, _Notes] = {}
        self._before = began

    def note(self, groups: Sequence[Group], now: float) -> None:
        """Work out rate and time left of each group."""
        for group in groups:
            # One that is new has begun since the last time.
            begun = _Notes(deque([(self._before, 0)]), [])
            _note(group, self._groups.setdefault((group.path, group.kind, group.name), begun), now)
        self._before = now


def _note(group: Group, notes: _Notes, now: float) -> None:
    taken, over = notes
    done, remaining = _done(group), group.total - group.ended
    if not remaining:
        if not over or over[0][1] != done:
            over[:] = [(now, done)]
        group.rate = _rate(taken[0], over[0])
        return
    if now - taken[-1][0] >= _STEP:
        taken.append((now, done))
    while len(taken) > 2 and taken[1][0] < now - _WINDOW:
        del taken[1]
    few = done - taken[1][1] < _FEW if len(taken) > 1 else True
    group.rate = _rate(taken[0 if few else 1], (now, done))
    group.left = remaining / group.rate if group.rate else None


def _done(group: Group) -> int:
    """What took its time: what is cached, blocked or cancelled says nothing about the rest."""
    return group.number("completed", "failed", "crashed")


def _rate(since: tuple[float, int], until: tuple[float, int]) -> float | None:
    seconds, done = until[0] - since[0], until[1] - since[1]
    return done / seconds if seconds > 0 and done > 0 else None
