"""Process runners in whole programs: scripts without a main guard, signals, sudden deaths, small machines."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import process_bodies as bodies
import pytest

from penstock.store.base import RunRow
from penstock.store.sqlite import SQLiteReader

PRELUDE = f"""
import sys
sys.path.append({os.path.dirname(bodies.__file__)!r})
import json, os, signal, threading, time
import process_bodies as bodies
from penstock import flow, get_run_logger, task
from penstock.task_runners import ProcessPoolTaskRunner

def say(value): print(json.dumps(value), flush=True)
"""


class Program:
    """A script in a process of its own, with a store of its own."""

    def __init__(self, directory: Path, code: str, **variables: str) -> None:
        self.home = directory / "home"
        script = directory / "script.py"
        script.write_text(PRELUDE + textwrap.dedent(code))
        self.process = subprocess.Popen(
            [sys.executable, str(script)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=directory,
            env={**os.environ, "PENSTOCK_HOME": str(self.home), **variables},
            start_new_session=True,
        )
        self.errors = ""
        self.seconds = 0.0

    def hear(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.communicate(timeout=5)[1]
        return json.loads(line)

    def end(self, timeout: float = 6) -> list[Any]:
        """Wait for it; what it has said."""
        began = time.monotonic()
        try:
            output, self.errors = self.process.communicate(timeout=timeout)
        finally:
            self.kill()
        self.seconds = time.monotonic() - began
        return [json.loads(line) for line in output.splitlines()]

    def check(self) -> Any:
        """Wait for it; it has to end well and to have said one thing."""
        said = self.end()
        assert self.process.returncode == 0, self.errors
        (value,) = said
        return value

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()

    def rows(self) -> tuple[RunRow, list[RunRow], list[str]]:
        reader = SQLiteReader(self.home)
        try:
            (root,) = reader.runs()
            logs = [log.message for log in reader.logs(root.id)]
            return root, reader.tree(root.id, limit=1_000_000), logs
        finally:
            reader.close()


Start = Callable[..., Program]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    programs: list[Program] = []
    shared = bodies.shared_memory()

    def start(code: str, **variables: str) -> Program:
        programs.append(Program(tmp_path, code, **variables))
        return programs[-1]

    yield start
    for program in programs:
        program.kill()
    assert bodies.shared_memory() <= shared


def wait_for_end(pids: list[int], seconds: float = 5) -> None:
    deadline = time.monotonic() + seconds
    while alive := [pid for pid in pids if bodies.is_alive(pid)]:
        if time.monotonic() > deadline:
            for pid in alive:
                os.kill(pid, signal.SIGKILL)
            pytest.fail(f"still alive after {seconds} s: {alive}")
        time.sleep(0.005)


# --- what is in a script ----------------------------------------------------------------------------------------------


def test_everything_in_a_script_travels_by_value(start: Start) -> None:
    program = start("""
        import dataclasses, enum, typing

        FACTOR = 3

        @dataclasses.dataclass
        class Point:
            x: int
            def doubled(self): return Point(self.x * 2)

        class Color(enum.Enum):
            RED = 1

        class Pair(typing.NamedTuple):
            a: int
            b: int

        class Trouble(Exception): pass

        def helper(x): return x * FACTOR

        def adder(n):
            def add(x): return helper(x) + n
            return add

        @task
        def points(p): return [p.doubled(), Point(7)], Color.RED, Pair(1, 2)

        @task
        def apply(fn, x): return fn(x)

        @task
        def fail(): raise Trouble("mine")

        @task
        def recursive(n): return [n] if n == 0 else [n, *recursive.fn(n - 1)]

        closure = task(adder(100))

        @flow(task_runner=ProcessPoolTaskRunner(2))
        def main():
            (first, second), color, pair = points.submit(Point(4)).result()
            return {
                "point": (type(first) is Point, type(second) is Point, isinstance(first, Point), first == Point(8)),
                "enum": color is Color.RED,
                "named": (type(pair) is Pair, pair == (1, 2)),
                "lambda": apply.submit(lambda x: x + FACTOR, 4).result(),
                "function": apply.submit(helper, 5).result(),
                "closure": closure.submit(1).result(),
                "made there": apply.submit(adder(1), 2).result(),
                "error": type(fail.submit().exception()) is Trouble,
                "recursive": recursive.submit(2).result(),
                "here": __name__,
            }

        say(main())
    """)
    assert program.check() == {
        "point": [True] * 4,
        "enum": True,
        "named": [True, True],
        "lambda": 7,
        "function": 15,
        "closure": 103,
        "made there": 7,
        "error": True,
        "recursive": [2, 1, 0],
        "here": "__main__",
    }


def test_modules_beside_the_script_are_found(start: Start, tmp_path: Path) -> None:
    (tmp_path / "beside_it.py").write_text("from penstock import task\n@task\ndef double(x): return 2 * x\n")
    program = start("""
        import beside_it
        say(flow(task_runner=ProcessPoolTaskRunner(1))(lambda: beside_it.double.submit(4).result())())
    """)
    assert program.check() == 8


def test_files_in_the_working_directory_do_not_disturb_workers(start: Start, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "socket.py").write_text("raise RuntimeError('not for you')\n")
    program = start(f"""
        os.chdir({str(elsewhere)!r})

        @task
        def work(): return os.path.basename(os.getcwd())

        say(flow(task_runner=ProcessPoolTaskRunner(1))(lambda: work.submit().result())())
    """)
    assert program.check() == "elsewhere"


def test_a_script_from_standard_input(tmp_path: Path) -> None:
    code = (
        PRELUDE + "say(flow(task_runner=ProcessPoolTaskRunner(1))(lambda: task(lambda x: x + 1).submit(1).result())())"
    )
    environment = {**os.environ, "PENSTOCK_HOME": str(tmp_path)}
    command = [sys.executable, "-"]
    done = subprocess.run(command, input=code, capture_output=True, text=True, timeout=6, env=environment)
    assert (done.returncode, done.stdout) == (0, "2\n"), done.stderr


def test_lines_are_shown_once(start: Start) -> None:
    program = start("""
        @task(log_prints=True)
        def work():
            get_run_logger().warning("first line")
            print("second line")
            return 1

        say(flow(task_runner=ProcessPoolTaskRunner(1))(lambda: work.submit().result())())
    """)
    assert program.check() == 1
    assert [program.errors.count(line) for line in ("first line", "second line")] == [1, 1]


def test_prints_without_capture_reach_the_terminal(start: Start) -> None:
    program = start("""
        @task
        def work(): print(json.dumps("printed there"))

        flow(task_runner=ProcessPoolTaskRunner(1))(lambda: work.submit().result())()
    """)
    assert program.check() == "printed there"


def test_a_pool_inside_a_worker(start: Start) -> None:
    program = start("""
        @task
        def pid(): return os.getpid()

        @flow(task_runner=ProcessPoolTaskRunner(1))
        def inner(): return pid.submit().result(), os.getpid()

        @task
        def outer(): return inner()

        @flow(task_runner=ProcessPoolTaskRunner(1))
        def main(): return *outer.submit().result(), os.getpid(), bodies.children()[1:]

        say(main())
    """)
    *pids, left = program.check()
    assert len(set(pids)) == 3
    assert left == []
    _, below, _ = program.rows()
    assert sorted((row.kind, row.name, row.status) for row in below) == [
        ("flow", "inner", "COMPLETED"),
        ("task", "outer", "COMPLETED"),
        ("task", "pid", "COMPLETED"),
    ]


def test_large_bytes_need_a_sane_amount_of_memory(start: Start) -> None:
    """They are in the pickle itself: some copies are made on the way, but not many, and they do not stay."""
    program = start("""
        def status(name):
            with open("/proc/self/status") as file:
                return next(int(line.split()[1]) / 1000 for line in file if line.startswith(name))

        @task
        def echo(value): return value

        @task
        def facts(): return status("VmHWM"), status("VmRSS")

        @flow(task_runner=ProcessPoolTaskRunner(1))
        def main():
            facts.submit().result()
            before, mine = facts.submit().result()[1], status("VmRSS")
            for _ in range(3):
                assert len(echo.submit(b"x" * 50_000_000).result()) == 50_000_000
            peak, rest = facts.submit().result()
            return peak - before, rest - before, status("VmHWM") - mine, status("VmRSS") - mine

        say(main())
    """)
    peak_there, rest_there, peak_here, rest_here = program.check()
    assert max(peak_there, peak_here) < 50 * 7
    assert max(rest_there, rest_here) < 50 * 2.5


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "let go"])
def test_large_results_do_not_use_up_descriptors(start: Start, kept: bool) -> None:
    program = start(f"""
        import resource
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

        @task
        def make(n): return bodies.blob(n)

        @flow(task_runner=ProcessPoolTaskRunner(1))
        def main():
            if {kept}:
                return [one.content[0] for one in make.map(range(100)).result()]
            return [make.submit(n).result().content[0] for n in range(100)]

        say(main())
    """)
    assert program.check() == list(range(100))


def test_programs_with_many_open_files(start: Start) -> None:
    program = start("""
        import resource
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 3000), most))
        files = [open("/dev/null") for _ in range(1100)]

        @task
        def work(n): return n

        say(sum(flow(task_runner=ProcessPoolTaskRunner(1))(lambda: work.map(range(300)).result())()))
    """)
    assert program.check() == sum(range(300))


# --- the end of the parent --------------------------------------------------------------------------------------------

STUCK = {
    "idle": "return",
    "sleeps": "time.sleep(60)",
    "holds the lock": "bodies.hold_interpreter_lock()",
    "swallows": "\n".join(
        [
            "while True:",
            "                try: time.sleep(60)",
            "                except BaseException: pass",
        ]
    ),
}


@pytest.mark.parametrize("doing", STUCK)
def test_no_worker_survives_its_parent(start: Start, doing: str) -> None:
    program = start(f"""
        @task
        def work(n, data):
            bodies.append("pids", os.getpid())
            {STUCK[doing]}

        @flow(task_runner=ProcessPoolTaskRunner(2))
        def main():
            futures = work.map(range(2), bodies.blob().data and [bodies.blob()] * 2)
            if {doing == "idle"}:
                futures.result()
            while len(bodies.lines("pids")) < 2:
                time.sleep(0.005)
            say(bodies.children())
            threading.Event().wait()

        main()
    """)
    pids = program.hear()
    assert pids
    program.process.kill()
    program.process.wait()
    wait_for_end(pids)


def test_no_grandchild_pool_survives(start: Start) -> None:
    program = start("""
        @task
        def work():
            bodies.append("pids", os.getpid())
            bodies.hold_interpreter_lock()

        @flow(task_runner=ProcessPoolTaskRunner(1))
        def inner(): work.submit().result()

        @task
        def outer():
            bodies.append("pids", os.getpid())
            inner()

        @flow(task_runner=ProcessPoolTaskRunner(1))
        def main():
            future = outer.submit()
            while len(bodies.lines("pids")) < 2:
                time.sleep(0.005)
            say([int(line) for line in bodies.lines("pids")])
            future.result()

        main()
    """)
    pids = program.hear()
    program.process.kill()
    program.process.wait()
    wait_for_end(pids)


FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


def check_interrupted(program: Program, pids: list[int], seconds: float = 6) -> tuple[RunRow, list[RunRow]]:
    program.end(seconds)
    assert program.process.returncode in (130, -signal.SIGINT), program.errors[-3000:]
    wait_for_end(pids, max(0.1, seconds - program.seconds))
    root, below, _ = program.rows()
    assert (root.status, root.state_name) == ("CRASHED", "Crashed")
    assert {row.status for row in below} <= FINAL
    assert all(row.ended is not None for row in below)
    return root, below


@pytest.mark.timeout(60)
def test_an_interrupt_in_the_middle_of_a_large_map(start: Start) -> None:
    program = start("""
        @task
        def work(n):
            time.sleep(0.0002)
            bodies.append("executed", n)
            return n

        @flow(task_runner=ProcessPoolTaskRunner(2))
        def main():
            futures = work.map(range(40_000))
            futures[2000].result()
            say(bodies.children())
            futures.result()

        main()
    """)
    pids = program.hear()
    assert len(pids) == 2
    executed = program.home.parent / "executed"
    os.killpg(program.process.pid, signal.SIGINT)  # as a terminal does it
    before = len(bodies.lines(executed))
    _, below = check_interrupted(program, pids, 4)
    assert len(below) == 40_000
    assert {row.status for row in below} <= {"COMPLETED", "CANCELLED"}
    assert len(bodies.lines(executed)) - before < 2000, "cancelled runs are not executed"


@pytest.mark.parametrize("doing", ["sleeps", "holds the lock", "swallows"])
def test_an_interrupt_while_bodies_are_stuck(start: Start, doing: str) -> None:
    program = start(
        f"""
        @task
        def work(n):
            bodies.append("pids", os.getpid())
            {STUCK[doing]}

        @flow(task_runner=ProcessPoolTaskRunner(2))
        def main():
            futures = work.map(range(10))
            while len(bodies.lines("pids")) < 2:
                time.sleep(0.005)
            say(bodies.children())
            futures.result()

        main()
    """,
        PENSTOCK_CANCEL_GRACE_SECONDS="0.3",
    )
    pids = program.hear()
    os.killpg(program.process.pid, signal.SIGINT)
    _, below = check_interrupted(program, pids, 4)
    assert {row.status for row in below} == {"CANCELLED"}


def test_an_interrupt_while_a_worker_is_being_made_ready(start: Start) -> None:
    program = start(
        """
        def initialize():
            bodies.append("pids", os.getpid())
            time.sleep(60)

        @task
        def work(n): return n

        @flow(task_runner=ProcessPoolTaskRunner(1, initialize))
        def main():
            futures = work.map(range(10))
            while not bodies.lines("pids"):
                time.sleep(0.005)
            say(bodies.children())
            futures.result()

        main()
    """,
        PENSTOCK_CANCEL_GRACE_SECONDS="0.3",
    )
    pids = program.hear()
    os.killpg(program.process.pid, signal.SIGINT)
    _, below = check_interrupted(program, pids, 4)
    assert {row.status for row in below} == {"CANCELLED"}
