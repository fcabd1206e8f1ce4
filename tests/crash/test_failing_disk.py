"""A full disk and a broken one, at every write: the answer is right or an error says why; nothing wrong is read back.

`PENSTOCK_TEST_SWEEP=full` takes every call in turn.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence

import pytest
from enduring import FAULTS, FOR_EVER, Endurance, Fault, complaints, endure, figures
from supervising import WATCHED, Point
from sweeping import Stages, choose, profile
from test_kill_sweep import NO_SUPERVISOR, Say


def faults(points: Sequence[Point], level: str, error: int, number: int | None) -> Iterator[Fault]:
    """Once, and from then on, in turn; half of the writes before are carried out by half."""
    able = [point for point in points if point.call in FAULTS[error] and point.file not in WATCHED]
    for n, point in enumerate(able if number is None else choose(able, number)):
        writes = point.call in ("write", "pwrite64")
        yield Fault(point, error, FOR_EVER if n % 2 else 1, writes and n % 4 < 2, level)


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("level", ["process", "power"])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO], ids=["full", "broken"])
def test_a_disk_may_fail_at_any_write(error: int, level: str, stages: Stages, full: bool, say: Say) -> None:
    if not stages.first.server.can_supervise:
        pytest.skip(NO_SUPERVISOR)
    points = profile(stages.first, "threads", level)
    endured = stages.each(endure, faults(points, level, error, None if full else 16))
    say(f"{errno.errorcode[error]}, {level}: {figures(endured)}")
    assert complaints(endured) == []
    # What fails once is tried again, apart from the file of a large value; half a write counts as a failure.
    assert all(one.not_kept <= 1 + one.fault.half for one in endured if one.fault.times == 1)


@pytest.mark.parametrize(
    ("mutant", "times", "finds"),
    [
        ("write_files_in_place", 1, lambda one: "not readable" in str(one.wrong)),
        ("keep_quiet", FOR_EVER, lambda one: "nobody was told" in str(one.wrong)),
    ],
)
def test_what_is_broken_is_found(mutant: str, times: int, finds: Callable[[Endurance], bool], stages: Stages) -> None:
    if not stages.first.server.can_supervise:
        pytest.skip(NO_SUPERVISOR)
    first = profile(stages.first, "threads", "process", mutant)[0]
    endured = stages.each(
        endure,
        [Fault(first, errno.ENOSPC, times, half, mutant=mutant, file="results/*") for half in (False, True)],
    )
    assert any(finds(one) for one in endured), complaints(endured)
