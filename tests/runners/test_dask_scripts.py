"""Dask runners in whole programs: scripts without a main guard, memory, signals, sudden deaths, what is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import process_bodies as bodies
import pytest
from test_process_scripts import PRELUDE, STUCK, Program, Start, check_interrupted, wait_for_end

IMPORTS = """
import numpy as np
from penstock import unmapped
from penstock.task_runners import DaskTaskRunner

def dask(workers=2): return DaskTaskRunner(cluster_kwargs={"n_workers": workers, "threads_per_worker": 1})

"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    programs: list[Program] = []

    def start(code: str, **variables: str) -> Program:
        programs.append(Program(tmp_path, IMPORTS + textwrap.dedent(code), **variables))
        return programs[-1]

    yield start
    for program in programs:
        program.kill()


def check(program: Program, seconds: float = 20) -> Any:
    """Wait for it; it has to end well and to have said one thing."""
    said = program.end(seconds)
    assert program.process.returncode == 0, program.errors
    (value,) = said
    return value


@pytest.fixture
def boxes(tmp_path: Path) -> Path:
    """A directory for temporary files of the program's own, in which nothing may be left."""
    path = tmp_path / "tmp"
    path.mkdir()
    return path


# --- the main guard ---------------------------------------------------------------------------------------------------

UNGUARDED = """
@task
def work(n): return n

@flow(task_runner=dask(1))
def main(): return sum(work.map(range(5)).result())

say(main())
"""


def test_a_script_without_a_guard_fails_at_once(start: Start) -> None:
    program = start(UNGUARDED)
    assert program.end(20) == []
    assert program.process.returncode == 1
    said = (
        "RuntimeError: DaskTaskRunner() starts processes that import this script, which would run it again. "
        "Put what starts the flow under a guard:\n\n"
        '    if __name__ == "__main__":\n'
        "        say(main())\n"
    )
    assert said in program.errors
    assert program.errors.count("which would run it again") == 1
    root, below, _ = program.rows()
    assert (root.status, root.error_type) == ("FAILED", "RuntimeError")
    assert {row.status for row in below} <= {"FAILED", "CANCELLED"}


GUARDS = {
    "guarded": UNGUARDED.replace("say(main())", 'if __name__ == "__main__":\n    say(main())'),
    "in a function": UNGUARDED.replace(
        "say(main())", 'def start():\n    say(main())\n\nif __name__ == "__main__":\n    start()'
    ),
    "no processes": UNGUARDED.replace(
        "dask(1)", 'DaskTaskRunner(cluster_kwargs={"processes": False, "n_workers": 1, "threads_per_worker": 1})'
    ),
}


@pytest.mark.parametrize("how", GUARDS)
def test_a_script_with_a_guard_runs_and_says_nothing_of_dask(start: Start, boxes: Path, how: str) -> None:
    program = start(GUARDS[how], TMPDIR=str(boxes))
    assert program.end(20) == [10]
    assert program.process.returncode == 0
    started, ended = program.errors.splitlines()
    assert (" | INFO    | main/" in started, "COMPLETED" in ended) == (True, True)
    assert list(boxes.glob("*.box*")) == []


@pytest.mark.parametrize("guarded", [False, True])
def test_a_module_that_is_run_by_its_name(tmp_path: Path, guarded: bool) -> None:
    (tmp_path / "job.py").write_text(PRELUDE + IMPORTS + (GUARDS["guarded"] if guarded else UNGUARDED))
    done = subprocess.run(
        [sys.executable, "-m", "job"],
        capture_output=True,
        text=True,
        timeout=20,
        cwd=tmp_path,
        env={**os.environ, "PENSTOCK_HOME": str(tmp_path)},
    )
    assert done.stdout == ("10\n" if guarded else "")
    assert done.stderr.count('    if __name__ == "__main__":\n        say(main())\n') == (not guarded)
    assert ("spawn_main" in done.stderr) is False


def test_a_package_that_is_run_by_its_name_needs_no_guard(tmp_path: Path) -> None:
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "__main__.py").write_text(PRELUDE + IMPORTS + UNGUARDED)
    done = subprocess.run(
        [sys.executable, "-m", "job"],
        capture_output=True,
        text=True,
        timeout=20,
        cwd=tmp_path,
        env={**os.environ, "PENSTOCK_HOME": str(tmp_path)},
    )
    assert (done.stdout, done.returncode) == ("10\n", 0), done.stderr


@pytest.mark.parametrize("how", ["-", "-c"])
def test_a_program_without_a_file_needs_no_guard(tmp_path: Path, how: str) -> None:
    code = PRELUDE + IMPORTS + UNGUARDED
    done = subprocess.run(
        [sys.executable, how, *([code] if how == "-c" else [])],
        input=code if how == "-" else None,
        capture_output=True,
        text=True,
        timeout=20,
        env={**os.environ, "PENSTOCK_HOME": str(tmp_path)},
    )
    assert (done.returncode, done.stdout) == (0, "10\n"), done.stderr
    assert len(done.stderr.splitlines()) == 2


def test_everything_in_a_script_travels_by_value(start: Start) -> None:
    program = start(
        """
        import dataclasses

        FACTOR = 3

        @dataclasses.dataclass
        class Point:
            x: int

        class Trouble(Exception): pass

        def helper(x): return x * FACTOR

        @task
        def points(p): return Point(helper(p.x))

        @task
        def fail(): raise Trouble("mine")

        @flow(task_runner=dask(1))
        def main():
            point, error = points.submit(Point(4)).result(), fail.submit().exception()
            return type(point) is Point, point == Point(12), type(error) is Trouble

        if __name__ == "__main__":
            FACTOR = 5  # the workers have imported 3
            FACTOR = 3
            say(main())
        """,
    )
    assert check(program) == [True, True, True]


# --- memory -----------------------------------------------------------------------------------------------------------

STATUS = """
def status(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1000 for line in file if line.startswith(name))

"""


def test_large_values_between_tasks_never_pass_through_the_program(start: Start) -> None:
    program = start(
        STATUS
        + """
@task
def make(): return np.ones(200_000_000, np.uint8)

@task
def total(array): return int(array.sum(dtype=np.int64))

@flow(task_runner=dask())
def main():
    total.submit(np.ones(10, np.uint8)).result()
    before = status("VmRSS")
    made = make.submit()
    assert total.map([made, made]).result() == [200_000_000] * 2
    return status("VmHWM") - before

if __name__ == "__main__":
    say(main())
""",
    )
    assert check(program) < 60


@pytest.mark.timeout(60)
def test_a_large_map_needs_a_sane_amount_of_memory(start: Start) -> None:
    program = start(
        STATUS
        + """
@task
def work(n): return n

@task
def peak(): return status("VmHWM")

@flow(task_runner=dask())
def main():
    before, there = status("VmRSS"), peak.submit().result()
    assert sum(work.map(range(25_000)).result()) == sum(range(25_000))
    return status("VmHWM") - before, peak.submit().result() - there

if __name__ == "__main__":
    say(main())
""",
    )
    here, there = check(program, 50)
    assert here < 125, "5 kB for a task"
    assert there < 30


def test_flows_one_after_another_leave_nothing_behind(start: Start, boxes: Path) -> None:
    program = start(
        """
        import gc

        @task
        def work(n): return n

        @flow
        def main():
            return sum(work.map(range(50)).result())

        def facts():
            gc.collect()
            return len(threading.enumerate()), len(os.listdir("/proc/self/fd")), len(bodies.children())

        if __name__ == "__main__":
            found = []
            for _ in range(3):
                main.with_options(task_runner=dask(1))()
                found.append(facts())
            say(found)
        """,
        TMPDIR=str(boxes),
    )
    _, second, third = check(program)
    assert third[0] <= second[0]
    assert third[1] <= second[1]
    assert third[2] == second[2] <= 1, "multiprocessing's resource tracker"
    assert list(boxes.glob("*.box*")) == []


# --- lines ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("processes", [True, False])
def test_lines_are_shown_once(start: Start, processes: bool) -> None:
    program = start(
        f"""
        runner = DaskTaskRunner(cluster_kwargs={{"n_workers": 1, "threads_per_worker": 1, "processes": {processes}}})

        @task(log_prints=True)
        def work():
            get_run_logger().warning("first line")
            print("second line")
            return 1

        if __name__ == "__main__":
            say(flow(task_runner=runner)(lambda: work.submit().result())())
        """,
    )
    assert check(program) == 1
    assert [program.errors.count(line) for line in ("first line", "second line")] == [1, 1]


# --- the end of the program -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("doing", STUCK)
def test_no_worker_survives_the_program(start: Start, doing: str) -> None:
    program = start(
        f"""
        @task
        def work(n):
            bodies.append("pids", os.getpid())
            {STUCK[doing]}

        @flow(task_runner=dask())
        def main():
            futures = work.map(range(2))
            if {doing == "idle"}:
                futures.result()
            while len(bodies.lines("pids")) < 2:
                time.sleep(0.005)
            say(bodies.children())
            threading.Event().wait()

        if __name__ == "__main__":
            main()
        """,
    )
    pids = program.hear()
    assert len(pids) >= 2
    program.process.kill()
    program.process.wait()
    wait_for_end(pids)


@pytest.mark.timeout(60)
def test_an_interrupt_in_the_middle_of_a_large_map(start: Start, boxes: Path) -> None:
    program = start(
        """
        @task
        def work(n):
            time.sleep(0.0002)
            bodies.append("executed", n)
            return n

        @flow(task_runner=dask())
        def main():
            futures = work.map(range(10_000))
            futures[500].result()
            say(bodies.children())
            futures.result()

        if __name__ == "__main__":
            main()
        """,
        TMPDIR=str(boxes),
    )
    pids = program.hear()
    executed = program.home.parent / "executed"
    os.killpg(program.process.pid, signal.SIGINT)  # as a terminal does it
    before = len(bodies.lines(executed))
    _, below = check_interrupted(program, pids)
    assert len(below) == 10_000
    assert [(row.run_name, row.error) for row in below if row.status not in ("COMPLETED", "CANCELLED")] == []
    assert len(bodies.lines(executed)) - before < 2000, "cancelled runs are not executed"
    assert list(boxes.glob("*.box*")) == []


@pytest.mark.parametrize("doing", ["sleeps", "holds the lock", "swallows"])
def test_an_interrupt_while_bodies_are_stuck(start: Start, boxes: Path, doing: str) -> None:
    program = start(
        f"""
        @task
        def work(n):
            bodies.append("pids", os.getpid())
            {STUCK[doing]}

        @flow(task_runner=dask())
        def main():
            futures = work.map(range(10))
            while len(bodies.lines("pids")) < 2:
                time.sleep(0.005)
            say(bodies.children())
            futures.result()

        if __name__ == "__main__":
            main()
        """,
        PENSTOCK_CANCEL_GRACE_SECONDS="0.3",
        TMPDIR=str(boxes),
    )
    pids = program.hear()
    os.killpg(program.process.pid, signal.SIGINT)
    _, below = check_interrupted(program, pids)
    assert {row.status for row in below} <= {"CANCELLED", "CRASHED"}
    assert list(boxes.glob("*.box*")) == []


def test_a_request_to_terminate(start: Start) -> None:
    program = start(
        """
        @task
        def work(n):
            bodies.append("pids", os.getpid())
            while True:
                time.sleep(0.005)

        @flow(task_runner=dask())
        def main():
            futures = work.map(range(10))
            while len(bodies.lines("pids")) < 2:
                time.sleep(0.005)
            say(bodies.children())
            futures.result()

        if __name__ == "__main__":
            main()
        """,
    )
    pids = program.hear()
    program.process.terminate()
    program.end()
    assert program.process.returncode in (143, -signal.SIGTERM), program.errors[-3000:]
    wait_for_end(pids, 2)
    root, below, _ = program.rows()
    assert root.status == "CRASHED"
    assert {row.status for row in below} == {"CANCELLED"}


def test_an_interrupt_while_nothing_can_be_reached(start: Start) -> None:
    program = start(
        """
        @task
        def work(): return 1

        @flow(task_runner=DaskTaskRunner(address="tcp://127.0.0.1:1"))
        def main():
            future = work.submit()
            say("waiting")
            future.result()

        main()
        """,
    )
    assert program.hear() == "waiting"
    time.sleep(0.3)
    os.killpg(program.process.pid, signal.SIGINT)
    check_interrupted(program, [])


def test_the_death_of_a_program_frees_the_cluster(start: Start, dask_address: str, tmp_path: Path) -> None:
    """What had not begun never does."""
    file = str(tmp_path / "executed")
    program = start(
        f"""
        @task
        def work(n):
            bodies.append({file!r}, n)
            time.sleep(0.3)

        @flow(task_runner=DaskTaskRunner(address={dask_address!r}))
        def main():
            futures = work.map(range(200))
            while len(bodies.lines({file!r})) < 2:
                time.sleep(0.005)
            say("now")
            threading.Event().wait()

        main()
        """,
    )
    assert program.hear() == "now"
    program.process.kill()
    program.process.wait()
    time.sleep(1.0)
    executed = len(bodies.lines(file))
    time.sleep(0.7)
    assert len(bodies.lines(file)) == executed < 10
