"""The power fails: at level "power" what was acknowledged stays, at level "process" some of it goes; nothing breaks.

The cut is simulated, at its worst: every file holds what it held when it was last synced. See `power_cut`.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from supervising import KillAt, Point
from sweeping import Case, Stages, Sweep, choose, profile
from test_kill_sweep import NO_SUPERVISOR, Say


def cuts(stages: Stages, flow: str, level: str, number: int | None) -> Sweep:
    """Half of them are soon after an acknowledgement."""
    if not stages.first.server.can_supervise:
        pytest.skip(NO_SUPERVISOR)
    points = profile(stages.first, flow, level)
    chosen = points
    if number is not None:
        after = list(_soon_after_acknowledgements(points))
        step = max(1, 2 * len(after) // number)
        chosen = sorted({*choose(points, number // 2), *after[::step]})
    return stages.carry_out(
        Case(flow, level, KillAt(point.number), seed, cut=True) for seed, point in enumerate(chosen)
    )


def _soon_after_acknowledgements(points: list[Point]) -> Iterator[Point]:
    for index, point in enumerate(points):
        if point.file == "acknowledgement":
            yield from points[index + 1 : index + 4 : 2]


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("flow", "some", "many"), [("threads", 16, None), ("processes", 6, 250)])
def test_level_power_loses_nothing(
    flow: str, some: int, many: int | None, stages: Stages, full: bool, say: Say
) -> None:
    sweep = cuts(stages, flow, "power", many if full else some)
    say(f"{flow}, power cuts at level power: {sweep.figures()}")
    assert sweep.complaints() == []


@pytest.mark.timeout(3600)
def test_level_process_loses_some_and_the_store_stays_whole(stages: Stages, full: bool, say: Say) -> None:
    """That it loses some also shows that the cuts are real."""
    sweep = cuts(stages, "threads", "process", 250 if full else 12)
    say(f"threads, power cuts at level process: {sweep.figures()}")
    assert [line for course in sweep.courses for line in course.findings.stuck] == []
    assert sweep.lost
