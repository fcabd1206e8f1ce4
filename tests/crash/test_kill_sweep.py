"""kill -9 at every system call of the store and result path, and at random instants: what was acknowledged stays.

A flow of some 30 task runs dies at a chosen call, is resumed in a fresh process, dies again perhaps, is resumed again,
until it completes. After every death the store is examined. `PENSTOCK_TEST_SWEEP=full` takes every call in turn.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator

import pytest
from supervising import KillAt, Point, Victim
from sweeping import Case, Kill, Stages, Sweep, Traced, choose, profile

NO_SUPERVISOR = "this kernel, or what stands before it, does not hand over system calls (seccomp user notification)"
NO_STRACE = "strace is missing: apt-get install strace"

Say = Callable[[str], None]

# Which flow, at which level, and how many points of it by default and in full; None: all.
SWEEPS = [
    ("threads", "process", 32, None),
    ("threads", "power", 32, None),
    ("processes", "process", 8, 250),
    ("processes", "power", 8, 250),
]


def cases(flow: str, level: str, points: list[Point], mutant: str | None = None) -> Iterator[Case]:
    for seed, point in enumerate(points):
        # Every second write is carried out by half before its process dies.
        half = point.call in ("write", "pwrite64") and seed % 2 == 1
        victim: Victim = "owner" if seed % 3 else "everybody"
        yield Case(flow, level, KillAt(point.number, half, victim), seed, mutant)


def assert_nothing_is_lost(sweep: Sweep) -> None:
    assert sweep.complaints() == []


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("flow", "level", "some", "many"), SWEEPS)
def test_a_process_may_die_at_any_system_call(
    flow: str, level: str, some: int, many: int | None, stages: Stages, full: bool, say: Say
) -> None:
    if not stages.first.server.can_supervise:
        pytest.skip(NO_SUPERVISOR)
    points = profile(stages.first, flow, level)
    number = some if not full else many
    chosen = points if number is None else choose(points, number)
    sweep = stages.carry_out(cases(flow, level, chosen))
    say(f"{flow}, {level}: {len(chosen)} of {len(points)} points; {sweep.figures()}")
    if full:
        say(f"    died at: {sweep.kinds()}")
    assert_nothing_is_lost(sweep)
    assert sum(bool(course.deaths) for course in sweep.courses) > len(chosen) * 0.8


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("flow", "level", "seconds"), [("threads", "process", 0.1), ("processes", "power", 0.4)])
def test_a_process_may_die_at_any_instant(
    flow: str, level: str, seconds: float, stages: Stages, full: bool, say: Say
) -> None:
    chance = random.Random(1)
    number = 300 if full else 6
    sweep = stages.carry_out(Case(flow, level, chance.uniform(0, seconds), seed) for seed in range(number))
    say(f"{flow}, {level}, any instant: {sweep.figures()}")
    assert_nothing_is_lost(sweep)


@pytest.mark.timeout(3600)
def test_a_worker_may_die_at_any_of_its_calls(stages: Stages, full: bool, say: Say) -> None:
    """Workers write, too: what is nested in their tasks. Whoever is left goes on with the same store."""
    if not stages.first.server.can_supervise:
        pytest.skip(NO_SUPERVISOR)
    points = [point for point in profile(stages.first, "processes", "process") if point.worker]
    chosen = points if full else choose(points, 8)
    sweep = stages.carry_out(
        Case("processes", "process", KillAt(point.number, victim="caller"), seed) for seed, point in enumerate(chosen)
    )
    say(f"processes, a worker dies: {len(chosen)} of {len(points)} points; {sweep.figures()}")
    assert_nothing_is_lost(sweep)


TRACED = [
    *(("pwrite64", number) for number in (1, 5, 12, 40, 90, 160)),
    *(("fdatasync", number) for number in (1, 2, 4)),
    *(("flock", number) for number in (1, 4, 20)),
    *((call, 1) for call in ("renameat", "renameat2", "rename", "fsync", "ftruncate", "unlink")),
]


@pytest.mark.timeout(3600)
def test_a_process_may_die_by_the_hand_of_strace(stages: Stages, full: bool, say: Say) -> None:
    """The same deaths, brought about by another tool: so little depends on one way of counting calls."""
    if shutil.which("strace") is None:
        pytest.skip(NO_STRACE)
    supervised = stages.first.server.can_supervise
    kills: list[Kill] = [Traced(call, number) for call, number in (TRACED if full or not supervised else TRACED[::3])]
    sweep = stages.carry_out(
        Case("threads", level, kill, seed) for level in ("process", "power") for seed, kill in enumerate(kills)
    )
    say(f"threads, strace: {sweep.figures()}")
    assert_nothing_is_lost(sweep)
    assert any(isinstance(death, Traced) for course in sweep.courses for death in course.deaths)


MUTANTS: list[tuple[str, Callable[[Sweep], int]]] = [
    ("acknowledge_before_commit", lambda sweep: sweep.lost),
    ("write_files_late", lambda sweep: sweep.lost),
    ("restore_nothing", lambda sweep: sweep.repeated),
]


@pytest.mark.parametrize(("mutant", "found"), MUTANTS)
def test_the_sweep_finds_what_is_broken(mutant: str, found: Callable[[Sweep], int], stages: Stages, say: Say) -> None:
    if not stages.first.server.can_supervise:
        pytest.skip(NO_SUPERVISOR)
    points = profile(stages.first, "threads", "process", mutant)
    acknowledgements = [point for point in points if point.file == "acknowledgement"]
    sweep = stages.carry_out(cases("threads", "process", acknowledgements[3::4], mutant))
    say(f"{mutant}: {sweep.figures()}")
    assert found(sweep) > 0
