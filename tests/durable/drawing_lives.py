"""Draws the flows of `lives`: small choices, so that Hypothesis can make them smaller, or a seed be enough."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from lives import Step

Pick = Callable[[int], int]  # a number below this one; 0 is the plainest


class Program(NamedTuple):
    """A flow, and how its function is written."""

    steps: tuple[Step, ...]
    is_async: bool = False
    retries: int = 0


def draw_program(pick: Pick, most: int = 6, *, gathers: bool = True) -> Program:
    """`gathers`: coroutines may wait in tasks of their own, of whose slots a small pool knows nothing."""
    is_async = pick(4) == 3
    steps = _Drawing(pick, gathers).steps(1 + pick(most), 2, is_async)
    return Program(steps, is_async, retries=int(pick(6) == 5))


class _Drawing:
    def __init__(self, pick: Pick, gathers: bool) -> None:
        self._pick = pick
        self._hows = ("submit", "call", "gather") if gathers else ("submit", "call")

    def steps(self, number: int, depth: int, in_async: bool) -> tuple[Step, ...]:
        steps: list[Step] = []
        for _ in range(number):
            steps.append(self._step(steps, depth, in_async))
        return tuple(steps)

    def _step(self, before: Sequence[Step], depth: int, in_async: bool) -> Step:
        pick = self._pick
        kinds = ("task", "task", "map", "generator", "nest", "flow") if depth else ("task", "map", "generator")
        kind = kinds[pick(len(kinds))]
        over = self._over(before) if kind == "map" else None
        has_steps = kind in ("nest", "flow")
        # What is synchronous and waits must not be executed in a coroutine's thread, as some runners do.
        is_async = kind != "generator" and (bool(pick(2)) or (has_steps and in_async))
        return Step(
            kind=kind,
            how=self._hows[pick(len(self._hows))],
            is_async=is_async,
            uses=tuple(number for number in range(len(before)) if pick(3) == 2),
            over=over,
            copies=self._copies(kind, over),
            keep=("default", "no_cache", "inputs", "off")[pick(4)],
            odd=pick(6) == 5,
            fails=max(0, pick(5) - 2),
            late=bool(pick(2)),
            # A nest that is retried repeats what is in it; a generator, for who iterates over it, what it has yielded.
            retries=int(pick(5) == 4 and kind not in ("nest", "generator")),
            inner=self.steps(1 + pick(3), depth - 1, is_async) if has_steps else (),
        )

    def _over(self, before: Sequence[Step]) -> int | None:
        several = [number for number, step in enumerate(before) if step.kind in ("map", "generator")]
        choice = self._pick(1 + len(several))
        return several[choice - 1] if choice else None

    def _copies(self, kind: str, over: int | None) -> int:
        if kind == "map":
            return 1 if over is not None else self._pick(4)
        return 1 if kind == "generator" else max(1, self._pick(4) - 1 + int(kind == "task"))
