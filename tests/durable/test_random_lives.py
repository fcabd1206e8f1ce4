"""Random flows fail, are resumed, and complete in the end: with the right value, and nothing that was kept repeated."""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from drawing_lives import Program, draw_program
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lives import Judge, open_notes, whole, whole_async

from lasting import lasting
from penstock import resume
from penstock.settings import home
from penstock.store.sqlite import SQLiteReader
from penstock.task_runners import ProcessPoolTaskRunner, SequentialTaskRunner, TaskRunner, ThreadPoolTaskRunner

# Where a runner executes a synchronous body in a coroutine's thread, its waits block that thread's event loop.
pytestmark = pytest.mark.filterwarnings("ignore:this wait blocks:RuntimeWarning")

MOST_LIVES = 80


class Case(NamedTuple):
    make: Callable[[], TaskRunner]
    examples: int
    seeds: int
    gathers: bool = True


CASES = {
    "sequential": Case(SequentialTaskRunner, 25, 25),
    "threads": Case(ThreadPoolTaskRunner, 25, 25),
    "threads-1": Case(lambda: ThreadPoolTaskRunner(max_workers=1), 15, 15, gathers=False),
    "processes": Case(lambda: ProcessPoolTaskRunner(max_workers=2), 15, 25, gathers=False),
}


def live_through(program: Program, runner: TaskRunner, directory: str) -> None:
    """Call the flow and resume it until it completes; each life is judged."""
    with open_notes(directory):
        _live_through(program, runner, directory)


def _live_through(program: Program, runner: TaskRunner, directory: str) -> None:
    judge = Judge(directory, program.steps, program.retries)
    definition: Any = whole_async if program.is_async else whole
    definition = definition.with_options(task_runner=runner, retries=program.retries)
    run_id = None
    for _ in range(MOST_LIVES):
        if run_id is None:
            state = definition(directory, program.steps, return_state=True)
        else:
            state = resume(run_id, flow=definition, return_state=True)
        if program.is_async:
            state = asyncio.run(state)
        run_id, rows = _record()
        judge.life_is_over(state, rows)
        if state.is_completed():
            judge.judge_value(state.result())
            return
    pytest.fail(f"not completed after {MOST_LIVES} lives")


def _record() -> tuple[str, list[Any]]:
    reader = SQLiteReader(home())
    try:
        root = reader.runs(kind="flow", limit=1)[0]
        return root.id, reader.tree(root.id, limit=100_000)
    finally:
        reader.close()


@st.composite
def programs(draw: Any, gathers: bool) -> Program:
    return draw_program(lambda options: draw(st.integers(0, options - 1)), gathers=gathers)


@pytest.mark.parametrize("name", CASES)
def test_lives_end_as_they_should(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    healthy = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]

    @settings(derandomize=True, deadline=None, max_examples=case.examples, suppress_health_check=healthy)
    @given(programs(case.gathers))
    def lives_end_as_they_should(program: Program) -> None:
        live_through(program, template, tempfile.mkdtemp(dir=tmp_path))

    with lasting(case.make()) as template:
        lives_end_as_they_should()


@pytest.mark.parametrize("name", CASES)
def test_seeded_lives_end_as_they_should(name: str, tmp_path: Path) -> None:
    """The same without Hypothesis, whose flows are the simpler ones."""
    case = CASES[name]
    first = 1000 * list(CASES).index(name)
    with lasting(case.make()) as template:
        for seed in range(first, first + case.seeds):
            program = draw_program(random.Random(seed).randrange, gathers=case.gathers)
            try:
                live_through(program, template, tempfile.mkdtemp(dir=tmp_path))
            except BaseException as error:
                error.add_note(f"with seed {seed}: {program}")
                raise
