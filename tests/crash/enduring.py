"""A life on a disk that fails, and what is left of it when the disk is well again."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field

from crash_oracle import TRUTHS, Findings, Scene, State, losses
from supervising import FailFrom, Point, Supervisor
from sweeping import MESSAGES, PATIENCE, Stage, examine_when_free

_MAKING = frozenset({"openat", "open", "mkdir", "mkdirat", "link", "linkat", "rename", "renameat", "renameat2"})
_WRITING = frozenset({"write", "pwrite64", "writev", "pwritev", "ftruncate", "fallocate"})
_SYNCING = frozenset({"fsync", "fdatasync"})
_REMOVING = frozenset({"unlink", "unlinkat"})

FAULTS: dict[int, frozenset[str]] = {
    errno.ENOSPC: _WRITING | _MAKING,
    errno.EIO: _WRITING | _MAKING | _SYNCING | _REMOVING,
}
"""What may fail how."""

FOR_EVER = 10**9

_REASONS = [os.strerror(number) for number in FAULTS] + ["disk I/O error", "disk is full", "unable to open database"]
_REASONS += ["not kept: ", "Cannot record runs: "]  # and then SQLite's reason, which may be any


@dataclass(frozen=True)
class Fault:
    """From this point on calls fail, so many of them."""

    point: Point
    error: int
    times: int
    half: bool = False
    level: str = "process"
    flow: str = "threads"
    mutant: str | None = None
    file: str | None = None  # only calls on this one

    def __str__(self) -> str:
        how_long = "once" if self.times == 1 else "from then on"
        half = ", after half a write" if self.half else ""
        return f"{self.flow}/{self.level} {errno.errorcode[self.error]} at {self.point}, {how_long}{half}"


@dataclass
class Endurance:
    """What came of a fault."""

    fault: Fault
    status: int = 0
    failed: int = 0  # calls
    answered: bool = False
    said: bool = False  # anything about what is wrong with the disk
    acknowledged: int = 0
    not_kept: int = 0  # acknowledged task runs
    wrong: list[str] = field(default_factory=list)
    messages: str = ""


def endure(stage: Stage, fault: Fault) -> Endurance:
    """A life with the fault; then the same store on a disk that works, to the end. Files stay if that goes wrong."""
    scene = stage.scene()
    found = Endurance(fault)
    try:
        _live(stage, scene, found)
        _look(stage, scene, found)
    finally:
        scene.close()
    if not found.wrong:
        shutil.rmtree(scene.directory)
    return found


def _live(stage: Stage, scene: Scene, found: Endurance) -> None:
    fault = found.fault
    decide = FailFrom(fault.point.number, fault.error, FAULTS[fault.error], fault.times, fault.half, fault.file)
    found.status = _one(stage, scene, found, decide, "begin", flow=fault.flow, mutant=fault.mutant)
    found.failed = decide.failed
    found.messages = scene.messages
    found.said = any(reason in found.messages for reason in _REASONS)


def _one(stage: Stage, scene: Scene, found: Endurance, decide: FailFrom | None, work: str, **arguments: object) -> int:
    environment = scene.begin_life() | {"PENSTOCK_RESULTS_DURABILITY": found.fault.level}
    child = stage.server.fork(work, environment, supervised=decide is not None, **arguments)
    child.go()
    if decide is not None:
        assert child.listener is not None
        supervisor = Supervisor(child.listener, child.pid, scene.home, scene.watched, decide)
        if not supervisor.run(PATIENCE):
            found.wrong.append("it hangs")
    return child.wait()


def _look(stage: Stage, scene: Scene, found: Endurance) -> None:
    acknowledged = scene.acknowledged()
    answers = [line.removeprefix("answer ") for line in acknowledged if line.startswith("answer ")]
    found.answered = bool(answers)
    found.acknowledged = len(acknowledged)
    if any(json.loads(answer) != TRUTHS["main"] for answer in answers):
        found.wrong.append(f"the flow returned {answers[0][:80]}")
    if found.status != (0 if answers else 1):
        found.wrong.append(f"exit code {found.status}: {scene.messages[-MESSAGES:]}")
    if not answers and not found.said:
        found.wrong.append(f"there is no answer, and no reason why: {scene.messages[-MESSAGES:]}")
    state = examine_when_free(scene.home)
    lost = losses(acknowledged, state, ())
    found.not_kept = len(lost.lost)
    if lost.lost and not found.said:
        found.wrong.append(f"{found.not_kept} are not kept, and nobody was told: {lost.lost[0]}")
    found.wrong += state.findings.wrong + state.findings.stuck + lost.wrong
    if not state.findings.stuck:
        _complete(stage, scene, found, state)


def _complete(stage: Stage, scene: Scene, found: Endurance, state: State) -> None:
    """On a disk that works the run is gone on with, or begun anew if there is none."""
    if state.is_complete:
        return
    if state.root is None:
        status = _one(stage, scene, found, None, "begin", flow=found.fault.flow)
    else:
        status = _one(stage, scene, found, None, "go_on", run_id=state.root.id)
    after = examine_when_free(scene.home)
    acknowledged = scene.acknowledged()
    lost: Findings = losses(acknowledged, after, state.kept)
    found.wrong += after.findings.all + lost.all
    if status or not after.is_complete or not acknowledged[-1].startswith("answer "):
        found.wrong.append(f"it cannot be gone on with: exit code {status}\n{scene.messages[-MESSAGES:]}")


def figures(endured: Sequence[Endurance]) -> str:
    failed = sum(bool(one.failed) for one in endured)
    return (
        f"{failed} faults, {sum(one.failed for one in endured)} failed calls: "
        f"{sum(one.answered for one in endured)} right answers, "
        f"{sum(not one.answered for one in endured)} errors that say why, "
        f"{sum(one.said for one in endured)} with a warning; "
        f"of {sum(one.acknowledged for one in endured)} acknowledged {sum(one.not_kept for one in endured)} not kept, "
        f"and said so; {sum(len(one.wrong) for one in endured)} wrong"
    )


def complaints(endured: Sequence[Endurance]) -> list[str]:
    return [f"{one.fault}: {line}" for one in endured for line in one.wrong]
