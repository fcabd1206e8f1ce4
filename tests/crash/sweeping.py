"""A run from its first life to its completion, with a death at a chosen point on the way."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep
from typing import Any, TypeVar

import crash_lives
from crash_oracle import Findings, Scene, State, examine, losses, repeats
from fork_server import Child, ForkServer
from power_cut import Disk
from supervising import Decide, KillAt, Point, Supervisor, let_live

PATIENCE = 30.0  # seconds after which a life hangs
MESSAGES = 600  # characters of them that are shown
WORKERS_LEAVE = 8.0  # seconds that the workers of a dead process may take to go


@dataclass(frozen=True)
class Traced:
    """The process dies at one of its system calls, by the hand of `strace`. Each thread counts for itself."""

    call: str
    number: int


_Part = TypeVar("_Part")
_Result = TypeVar("_Result")
Kill = Decide | Traced | float | None
"""How a life ends: at a call that the plan names, at one that strace counts, after so many seconds, or by itself."""


@dataclass(frozen=True)
class Case:
    """How a run lives and first dies."""

    flow: str
    level: str
    kill: Kill
    seed: int = 0  # for the deaths that follow
    mutant: str | None = None
    cut: bool = False  # the power fails, too: what was not synced is gone

    def __str__(self) -> str:
        return f"{self.flow}/{self.level} {self.kill} seed={self.seed} cut={self.cut}"


@dataclass
class Course:
    """What came of a case."""

    case: Case
    findings: Findings = field(default_factory=Findings)
    deaths: list[Point | Traced | float] = field(default_factory=list)
    acknowledged: int = 0
    lives: int = 0
    points: list[Point] = field(default_factory=list)  # of the first life


class Stage:
    """Where cases are carried out. For one thread at a time; holds a fork server until it is closed."""

    def __init__(self, directory: Path) -> None:
        self.server = ForkServer()
        self._directory = directory
        self._number = 0

    def close(self) -> None:
        self.server.close()

    def scene(self) -> Scene:
        self._number += 1
        return Scene(self._directory / f"{id(self):x}-{self._number}")

    def carry_out(self, case: Case) -> Course:
        """All lives of a run, the last of which nobody disturbs. The files stay if something is wrong."""
        scene = self.scene()
        course = Course(case)
        try:
            _Lives(self, scene, course).live()
        finally:
            scene.close()
        if not course.findings.all:
            shutil.rmtree(scene.directory)
        return course


class _Lives:
    def __init__(self, stage: Stage, scene: Scene, course: Course) -> None:
        self.stage = stage
        self.scene = scene
        self.course = course
        self.chance = random.Random(course.case.seed)
        self.latest: str | None = None  # id of the root run
        self.kept: set[str] = set()
        self.done: dict[str, int] = {}  # run name -> life in which it was acknowledged or kept

    def live(self) -> None:
        kill: Kill = self.course.case.kill
        run_id: str | None = None
        for _ in range(8):
            status, died = self.one(run_id, kill)
            state = self._judge(status)
            if self.course.findings.stuck:
                return
            if state.is_complete:
                self._check_answer(state)
                break
            if not died:
                self._is_stuck(f"an undisturbed life ended with exit code {status}")
                return
            if state.root is not None:
                run_id = state.root.id
            kill = self._another_death()
        else:
            self._is_stuck("it does not come to an end")
        self.course.findings += repeats(self.scene, self.done)

    def _check_answer(self, state: State) -> None:
        assert state.root is not None
        if state.root.run_name not in state.kept:  # if it is, it has been compared
            self._is_stuck("it is complete, and its answer is not kept")

    def _is_stuck(self, what: str) -> None:
        self.course.findings.stuck.append(f"{what}\n{self.scene.messages[-MESSAGES:]}")

    def _another_death(self) -> Kill:
        """Every second life ends before its time, too, somewhere."""
        if self.course.lives > 5 or self.chance.random() < 0.5:
            return None
        if self.stage.server.can_supervise:
            return KillAt(self.chance.randrange(1, 400))
        return self.chance.uniform(0, 0.2)

    def one(self, run_id: str | None, kill: Kill) -> tuple[int, bool]:
        """One life; its exit code, and whether it was ended."""
        environment = self.scene.begin_life() | {"PENSTOCK_RESULTS_DURABILITY": self.course.case.level}
        self.course.lives += 1
        arguments: dict[str, Any] = {"mutant": self.course.case.mutant}
        if run_id is None:
            work, arguments["flow"] = "begin", self.course.case.flow
        else:
            work, arguments["run_id"] = "go_on", run_id
        if isinstance(kill, Traced):
            return self._traced(kill, environment, work, arguments)
        supervised = callable(kill)
        child = self.stage.server.fork(work, environment, supervised=supervised, **arguments)
        return self._supervised(child, kill) if callable(kill) else self._timed(child, kill)

    def _supervised(self, child: Child, decide: Decide) -> tuple[int, bool]:
        assert child.listener is not None
        disk = Disk(self.scene.directory) if self.course.case.cut else None
        on_sync = None if disk is None else disk.sync
        supervisor = Supervisor(child.listener, child.pid, self.scene.home, self.scene.watched, decide, on_sync)
        child.go()
        if not supervisor.run(PATIENCE):
            self._is_stuck("it hangs")
        status = child.wait()
        if self.course.lives == 1:
            self.course.points = supervisor.points
        if supervisor.killed and supervisor.struck is not None:
            self.course.deaths.append(supervisor.struck)
        if disk is not None:
            if supervisor.killed:
                disk.restart(self.scene.home)
            disk.close()
        return status, supervisor.killed is not None

    def _timed(self, child: Child, seconds: float | None) -> tuple[int, bool]:
        child.go()
        if seconds is not None:
            sleep(seconds)
            child.kill()
        status = child.wait()
        if status == -signal.SIGKILL and seconds is not None:
            self.course.deaths.append(seconds)
        return status, status == -signal.SIGKILL

    def _traced(
        self, kill: Traced, environment: dict[str, str], work: str, arguments: dict[str, Any]
    ) -> tuple[int, bool]:
        """In an interpreter of its own: strace follows what it has started."""
        strace = ["strace", "-f", "-qq", "-o", "/dev/null", "--seccomp-bpf", "-e", f"trace={kill.call}"]
        strace += ["-e", f"inject={kill.call}:signal=SIGKILL:when={kill.number}"]
        with self.scene.messages_file.open("w") as messages:
            status = subprocess.run(
                [*strace, sys.executable, crash_lives.__file__, work, json.dumps(arguments)],
                env={**os.environ, **environment},
                stdout=messages,
                stderr=messages,
                timeout=PATIENCE,
            ).returncode
        if status == -signal.SIGKILL:
            self.course.deaths.append(kill)
        return status, status == -signal.SIGKILL

    def _judge(self, status: int) -> State:
        acknowledged = self.scene.acknowledged()
        self.course.acknowledged += len(acknowledged)
        state = examine_when_free(self.scene.home)
        self.course.findings += state.findings + losses(acknowledged, state, self.kept)
        if state.root is not None and state.root.id != self.latest:  # else it died before its run was recorded
            self.latest = state.root.id
            # Where a worker dies first, the flow may have failed of that before its own process died.
            by_itself = ("FAILED",) if getattr(self.course.case.kill, "victim", "") == "caller" else ()
            if status == -signal.SIGKILL and state.root.status not in ("CRASHED", "COMPLETED", *by_itself):
                self._is_stuck(f"it was killed, and its run is {state.root.status}")
        self.kept.update(state.kept)
        for name in (*acknowledged, *state.kept):
            self.done.setdefault(name, self.scene.life)
        return state


def examine_when_free(home: Path) -> State:
    """Workers of a dead process may take some time to notice; until they are gone its run goes on, by record."""
    deadline = monotonic() + WORKERS_LEAVE
    while True:
        state = examine(home)
        waits = state.root is not None and state.root.ended is None
        if not waits or monotonic() > deadline:
            return state
        sleep(0.05)


# --- many ---


def profile(stage: Stage, flow: str, level: str, mutant: str | None = None) -> list[Point]:
    """The points of a life that nobody disturbs."""
    course = stage.carry_out(Case(flow, level, let_live, mutant=mutant))
    assert mutant is not None or not course.findings.all, course.findings.all
    return course.points


def choose(points: Sequence[Point], number: int) -> list[Point]:
    """So many of the points: of each kind the first and the last, then evenly."""
    kinds: dict[tuple[str, str], list[Point]] = defaultdict(list)
    for point in points:
        kinds[point.kind].append(point)
    ends = {found[index].number for found in kinds.values() for index in (0, -1)}
    first = sorted(ends)[: number * 2 // 3] if len(ends) > number else sorted(ends)
    rest = [point.number for point in points if point.number not in set(first)]
    more = max(0, number - len(first))
    chosen = {*first, *(rest[int((n + 0.5) * len(rest) / more)] for n in range(more) if rest)}
    return [point for point in points if point.number in chosen]


@dataclass
class Sweep:
    """The courses of many cases, and what they add up to."""

    courses: list[Course]

    def count(self, part: Callable[[Findings], list[str]]) -> int:
        return sum(len(part(course.findings)) for course in self.courses)

    @property
    def lost(self) -> int:
        return self.count(lambda findings: findings.lost + findings.wrong)

    @property
    def repeated(self) -> int:
        return self.count(lambda findings: findings.repeated)

    @property
    def stuck(self) -> int:
        return self.count(lambda findings: findings.stuck)

    def figures(self) -> str:
        deaths = [death for course in self.courses for death in course.deaths]
        calls = sum(not isinstance(death, float) for death in deaths)
        return (
            f"{calls} deaths at system calls, {len(deaths) - calls} at random instants, {len(self.courses)} runs, "
            f"{sum(course.lives for course in self.courses)} lives, "
            f"{sum(course.acknowledged for course in self.courses)} acknowledged: "
            f"{self.lost} lost, {self.repeated} repeated, {self.stuck} not resumable"
        )

    def kinds(self) -> str:
        """At which calls the processes died."""
        found = Counter(death.kind for course in self.courses for death in course.deaths if isinstance(death, Point))
        return ", ".join(f"{call} {file} {number}" for (call, file), number in sorted(found.items()))

    def complaints(self) -> list[str]:
        return [f"{course.case} {course.deaths}: {line}" for course in self.courses for line in course.findings.all]


class Stages:
    """Two cases at a time: half of each is waiting."""

    def __init__(self, directory: Path, number: int = 2) -> None:
        self.all = [Stage(directory) for _ in range(number)]

    def carry_out(self, cases: Iterable[Case]) -> Sweep:
        return Sweep(self.each(Stage.carry_out, cases))

    def each(self, play: Callable[[Stage, _Part], _Result], parts: Iterable[_Part]) -> list[_Result]:
        """`play` each part, on whichever stage is free."""
        free = list(self.all)

        def on_one(part: _Part) -> _Result:
            stage = free.pop()
            try:
                return play(stage, part)
            finally:
                free.append(stage)

        with ThreadPoolExecutor(len(free)) as pool:
            return list(pool.map(on_one, parts))

    @property
    def first(self) -> Stage:
        return self.all[0]

    def close(self) -> None:
        for stage in self.all:
            stage.close()
