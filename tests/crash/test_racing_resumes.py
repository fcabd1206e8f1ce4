"""Several processes resume the same crashed run at the same moment: one goes on with it, the others are told so."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from crash_oracle import TRUTHS, Scene, State, examine
from supervising import KillAt, Supervisor
from sweeping import PATIENCE, Stage, Stages, examine_when_free, profile
from test_kill_sweep import Say


@dataclass
class Crashed:
    """A run that died half-way, not yet recorded as crashed: each race gets a copy."""

    home: Path
    run_id: str
    kept: frozenset[str]


def begin_and_die(stage: Stage, scene: Scene) -> None:
    environment = scene.begin_life()
    if stage.server.can_supervise:
        points = [point for point in profile(stage, "short", "process") if point.file == "acknowledgement"]
        child = stage.server.fork("begin", environment, supervised=True, flow="short")
        assert child.listener is not None
        number = points[len(points) // 2].number
        supervisor = Supervisor(child.listener, child.pid, scene.home, scene.watched, KillAt(number))
        child.go()
        supervisor.run(PATIENCE)
    else:
        child = stage.server.fork("die_half_way", environment, flow="short", acknowledgements=4)
        child.go()
    child.wait()


@pytest.fixture(scope="module")
def crashed(stages: Stages) -> Iterator[Crashed]:
    for _ in range(10):  # calls are not always as many, and so it may complete before the one that it was to die at
        scene = stages.first.scene()
        begin_and_die(stages.first, scene)
        copy = scene.directory / "copy"
        shutil.copytree(scene.home, copy)
        state = examine(copy)
        scene.close()
        if state.root is not None and state.root.status == "CRASHED":
            break
    assert state.root is not None and state.root.status == "CRASHED" and state.kept
    yield Crashed(scene.home, state.root.id, frozenset(state.kept))


@dataclass
class Race:
    """What came of one."""

    outcomes: list[dict[str, Any]]
    wrong: list[str]


def race(stage: Stage, crashed: Crashed, racers: int, mutant: str | None = None) -> Race:
    scene = stage.scene()
    shutil.copytree(crashed.home, scene.home)
    children = []
    for number in range(racers):
        environment = scene.begin_life() | {"CRASH_OUTCOME": str(scene.directory / f"outcome-{number}")}
        children.append(stage.server.fork("race", environment, run_id=crashed.run_id, mutant=mutant))
    for child in children:
        child.go()
    statuses = [child.wait() for child in children]
    outcomes = [json.loads((scene.directory / f"outcome-{number}").read_text()) for number in range(racers)]
    found = Race(outcomes, list(_wrong(scene, crashed, outcomes, examine_when_free(scene.home))))
    if any(statuses):
        found.wrong.append(f"exit codes {statuses}")
    scene.close()
    if not found.wrong:
        shutil.rmtree(scene.directory)
    return found


def _wrong(scene: Scene, crashed: Crashed, outcomes: list[dict[str, Any]], state: State) -> Iterator[str]:
    won = [outcome for outcome in outcomes if outcome["outcome"] == "won"]
    refused = [outcome for outcome in outcomes if outcome["outcome"] == "refused"]
    if len(won) != 1 or len(refused) != len(outcomes) - 1:
        yield f"{len(won)} won, {len(refused)} were refused: {outcomes}"
    for outcome in won:
        if outcome["details"] != TRUTHS["short"]:
            yield f"the answer is {outcome['details']}"
    executed = Counter(name for _, name in scene.executed())
    for name, times in executed.items():
        if times > 1 or name in crashed.kept:
            yield f"{name} was executed {times} times although {'it was kept' if name in crashed.kept else 'once'}"
    if not state.is_complete or state.root is None or state.root.resumed_from != crashed.run_id:
        yield f"the latest run is {state.root}"
    yield from state.findings.all


@pytest.mark.timeout(300)
def test_one_of_those_who_resume_a_run_goes_on_with_it(crashed: Crashed, stages: Stages, full: bool, say: Say) -> None:
    rounds = 10 if full else 3
    races = [race(stages.first, crashed, racers) for racers in ([2] * 7 + [4] * 3) * rounds]
    refused = [outcome for one in races for outcome in one.outcomes if outcome["outcome"] == "refused"]
    seconds = sorted(outcome["seconds"] for outcome in refused)
    say(
        f"{len(races)} races, {sum(len(one.outcomes) for one in races)} processes: {len(seconds)} refused, after "
        f"{1000 * seconds[len(seconds) // 2]:.0f} ms in the middle and {1000 * seconds[-1]:.0f} ms at most"
    )
    assert [line for one in races for line in one.wrong] == []
    assert seconds[-1] < 1  # 0.1 on a machine that has nothing else to do


def test_a_race_without_a_referee_is_noticed(crashed: Crashed, stages: Stages) -> None:
    assert any(race(stages.first, crashed, 2, "claim_without_looking").wrong for _ in range(5))
