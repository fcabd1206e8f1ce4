"""Calls that wait for workers elsewhere, and how they are told what became of them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from penstock.exceptions import WorkerLost


class Backlog:
    """A queue of calls that hands them out in batches. Not thread-safe: its owner sees to that.

    Small tasks travel in batches, because a message costs as much as they do. How many make a batch follows from how
    long such a task was seen to take.
    """

    def __init__(self, batch_seconds: float, most: int, seconds_per_call: dict[str, float] | None = None) -> None:
        self._batch_seconds = batch_seconds  # about how long a worker is to be busy with what it is sent at once
        self._most = most
        self._seconds_per_call = {} if seconds_per_call is None else seconds_per_call  # by task, measured
        self._released: deque[Any] = deque()
        self._fresh: deque[Any] = deque()

    def __bool__(self) -> bool:
        return bool(self._released or self._fresh)

    def add(self, call: Any) -> None:
        (self._released if call.was_released else self._fresh).append(call)

    def add_back(self, calls: list[Any]) -> None:
        """Calls that a worker had and did not begin: they are next."""
        self._released.extendleft(reversed(calls))

    def take(self, workers: int, most: int | None = None) -> list[Any]:
        """The calls that one of so many workers is to have at once."""
        queue = self._released or self._fresh
        batch = [queue.popleft()]
        size = self._size(batch[0], workers, len(queue), self._most if most is None else most)
        while len(batch) < size and queue and _go_together(batch[0], queue[0]):
            batch.append(queue.popleft())
        return batch

    def _size(self, call: Any, workers: int, waiting: int, most: int) -> int:
        seconds = self._seconds_per_call.get(call.key)
        if call.in_a_hurry or seconds is None:
            return 1
        # A fair share at most: the others are not to be idle at the end.
        return min(int(self._batch_seconds / max(seconds, 1e-6)), most, waiting // (2 * workers))

    def note_speed(self, key: str, seconds: float) -> None:
        before = self._seconds_per_call.get(key, seconds)
        # Slowness counts at once, quickness gradually: a batch that is too long holds others up.
        self._seconds_per_call[key] = max(seconds, 0.8 * before + 0.2 * seconds)

    def never_batch(self, key: str) -> None:
        """Such a task is to travel alone from now on."""
        self._seconds_per_call[key] = float("inf")


class Lanes:
    """Backlogs side by side, one for each set of wishes: what has to wait for something special holds nobody up."""

    def __init__(self, batch_seconds: float, most: int, rank: Callable[[Any], tuple[float, str]]) -> None:
        self._make = partial(Backlog, batch_seconds, most, {})
        self._rank = rank  # of wishes: how urgent they are, and among which others
        self._lanes: dict[str, tuple[tuple[float, str], Backlog]] = {}

    def names(self) -> list[tuple[str, str]]:
        """Of those that are not empty, and their kinds; the most urgent first."""
        by_urgency = sorted(self._lanes.items(), key=lambda lane: -lane[1][0][0])
        return [(name, kind) for name, ((_, kind), _) in by_urgency]

    def __contains__(self, name: str) -> bool:
        return name in self._lanes

    def add(self, call: Any) -> None:
        self._of(call).add(call)

    def add_back(self, calls: list[Any]) -> None:
        for call in reversed(calls):
            self._of(call).add_back([call])

    def _of(self, call: Any) -> Backlog:
        name = lane_of(call)
        if name not in self._lanes:
            self._lanes[name] = self._rank(call.wishes), self._make()
        return self._lanes[name][1]

    def take(self, name: str, workers: int) -> list[Any]:
        _, lane = self._lanes[name]
        batch = lane.take(workers)
        if not lane:
            del self._lanes[name]
        return batch

    def note_speed(self, key: str, seconds: float) -> None:
        self._make().note_speed(key, seconds)

    def never_batch(self, key: str) -> None:
        self._make().never_batch(key)


def lane_of(call: Any) -> str:
    """Wishes are a dictionary of anything. Of equal ones that do not look alike, each has a lane of its own."""
    return repr(call.wishes)


def _go_together(first: Any, other: Any) -> bool:
    return bool(other.key == first.key and not other.in_a_hurry and other.wishes == first.wishes)


def is_wanted(call: Any) -> bool:
    """Whether to send a call; one that has been asked to stop before it could be sent is over."""
    if call.ended:
        return False
    if call.claimed and call.stopping:
        apart(call, call.lose, WorkerLost("Stopped before it began"))
        return False
    return not (call.is_over and call.leave())


def apart(call: Any, action: Callable[[Any], object], argument: Any) -> None:
    """Tell `call` how it has ended; on a thread of its own, if that calls user code.

    What follows a body may wait for other calls of the very worker that this thread looks after.
    """
    if call.may_block:
        threading.Thread(target=action, args=(argument,), name="penstock-aside", daemon=True).start()
    else:
        action(argument)
