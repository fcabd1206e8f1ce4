"""Runs whose process has died are crashed for whoever looks; those of living processes never are."""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from time import monotonic, perf_counter, time
from uuid import UUID

import pytest

from penstock import flow
from penstock.exceptions import StoreUnavailable
from penstock.flows import cancel_run
from penstock.recovery import Truthful, is_orphan, open_reader, recover
from penstock.store import owners
from penstock.store.base import RunRow
from penstock.store.sqlite import SQLiteReader

PROLOGUE = """
import ctypes, multiprocessing, os, subprocess, sys, threading, time
from penstock import flow, task
from penstock.task_runners import DaskTaskRunner, ProcessPoolTaskRunner

FORK = multiprocessing.get_context("fork")

def say(*words):
    sys.stdout.write(" ".join(map(str, words)) + "\\n")
    sys.stdout.flush()

@task
def done(x):
    return x

@task
def hold():
    say("holding", os.getpid())
    threading.Event().wait()
"""
THREADS = """
@flow
def main():
    done(1)
    futures = hold.submit(), done.submit(2)
    futures[1].result()
    done.submit(futures[0])
    hold()

main()
"""


class Script:
    """A program that can be talked to: it says things, and goes on when it is told to."""

    def __init__(self, code: str) -> None:
        source = textwrap.dedent(PROLOGUE) + textwrap.dedent(code)
        pipe = subprocess.PIPE
        self._popen = subprocess.Popen(
            [sys.executable, "-c", source], stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, bufsize=1
        )
        self.pid = self._popen.pid

    def hear(self) -> list[str]:
        assert self._popen.stdout is not None
        return self._popen.stdout.readline().split()

    def go_on(self) -> None:
        assert self._popen.stdin is not None
        self._popen.stdin.write("go on\n")

    def kill(self) -> None:
        self._popen.kill()
        self._popen.wait(10)

    def wait(self) -> int:
        return self._popen.wait(20)

    def close(self) -> None:
        with self._popen:
            self._popen.kill()


@pytest.fixture
def start() -> Iterator[Callable[[str], Script]]:
    started: list[Script] = []

    def start(code: str) -> Script:
        started.append(Script(code))
        return started[-1]

    yield start
    for script in started:
        script.close()


def wait_until(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = monotonic() + seconds
    while not condition():
        assert monotonic() < deadline
        threading.Event().wait(0.002)


def recorded(home: Path) -> RunRow | None:
    """The latest root run as it is in the record."""
    with closing(SQLiteReader(home)) as reader:
        try:
            return next(iter(reader.find("@last")), None)
        except StoreUnavailable:  # it is being made
            return None


def seen(home: Path) -> list[RunRow]:
    """The latest root run and those below it, as people see them."""
    with closing(open_reader(home)) as reader:
        (run,) = reader.find("@last")
        return [run, *reader.tree(run.id)]


def going_on(start: Callable[[str], Script], home: Path) -> Script:
    """A flow that has recorded what it has come to, and goes on."""
    script = start(THREADS)
    assert [script.hear()[0], script.hear()[0]] == ["holding", "holding"]
    wait_until(lambda: _is_recorded(home))
    return script


def _is_recorded(home: Path) -> bool:
    if recorded(home) is None:
        return False
    with closing(SQLiteReader(home)) as reader:
        (run,) = reader.find("@last")
        states = sorted(row.status for row in reader.tree(run.id))
        return states == ["COMPLETED", "COMPLETED", "PENDING", "RUNNING", "RUNNING"]


def killed(start: Callable[[str], Script], home: Path) -> Script:
    script = going_on(start, home)
    script.kill()
    return script


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "penstock.store"]


# --- dying ---


def test_the_first_look_after_a_death_finds_everything_crashed(
    start: Callable[[str], Script], own_store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    script = killed(start, own_store)
    begun = perf_counter()
    root, *below = seen(own_store)
    assert perf_counter() - begun < 1
    message = f"The process that owned this run (pid {script.pid} on {os.uname().nodename}) is gone"
    assert (root.status, root.state_name, root.message) == ("CRASHED", "Crashed", message)
    assert root.ended is not None
    states = sorted((row.name, row.status) for row in below)
    assert states == [
        ("done", "COMPLETED"), ("done", "COMPLETED"), ("done", "CRASHED"), ("hold", "CRASHED"), ("hold", "CRASHED")
    ]  # fmt: skip
    (warning,) = warnings(caplog)
    assert f"Process {script.pid} on {os.uname().nodename}" in warning and root.id in warning and "0.1 s" in warning
    assert recorded(own_store) == root, "it is recorded, not only shown"
    caplog.clear()
    assert (seen(own_store)[0], recover(own_store), warnings(caplog)) == (root, [], [])
    assert owners.tokens(own_store) == []


def test_the_command_line_tells_the_truth(start: Callable[[str], Script], own_store: Path) -> None:
    killed(start, own_store)
    command = [sys.executable, "-m", "penstock.cli", "ls", "--json"]
    first, second = (subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(2))
    (run,) = json.loads(first.stdout)["runs"]
    assert (run["status"], run["tasks"]) == ("CRASHED", {"Completed": 2, "Crashed": 3})
    assert "ended without having finished" in first.stderr and second.stderr == ""


def test_the_next_program_that_records_something_reports_the_death(
    start: Callable[[str], Script], own_store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    script = killed(start, own_store)

    @flow
    def another() -> None: ...

    another()
    wait_until(lambda: any(f"Process {script.pid} on" in line for line in warnings(caplog)))  # by the recorder's thread
    with closing(SQLiteReader(own_store)) as reader:
        assert {row.name: row.status for row in reader.runs()} == {"main": "CRASHED", "another": "COMPLETED"}


def test_many_who_look_at_the_same_time_declare_once(start: Callable[[str], Script], own_store: Path) -> None:
    killed(start, own_store)
    lookers = [
        start(
            """
            from penstock import settings
            from penstock.recovery import recover
            from penstock.store.sqlite import SQLiteReader
            say("ready")
            input()
            losses = recover(settings.home())
            say(len(losses), SQLiteReader(settings.home()).find("@last")[0].status)
            """
        )
        for _ in range(4)
    ]
    for looker in lookers:
        assert looker.hear() == ["ready"]
    for looker in lookers:
        looker.go_on()
    answers = [looker.hear() for looker in lookers]
    assert sorted(found for found, _ in answers) == ["0", "0", "0", "1"]
    assert {status for _, status in answers} == {"CRASHED"}


@pytest.mark.parametrize(
    "child",
    [
        "subprocess.Popen(['sleep', '60'], close_fds=False).pid",
        "os.fork() or threading.Event().wait()",
        "(c := FORK.Process(target=time.sleep, args=(60,)), c.start(), c.pid)[2]",
    ],
)
@pytest.mark.parametrize("runner", ["", "task_runner=ProcessPoolTaskRunner(1)"])
def test_what_tasks_have_started_keeps_nobody_alive(
    child: str, runner: str, start: Callable[[str], Script], own_store: Path
) -> None:
    script = start(
        f"""
        @task
        def leave_a_child():
            say("child", {child})
            threading.Event().wait()

        @flow({runner})
        def main():
            leave_a_child.submit().result()

        main()
        """
    )
    pid = int(script.hear()[1])
    try:
        wait_until(lambda: recorded(own_store) is not None)
        script.kill()
        wait_until(lambda: seen(own_store)[0].status == "CRASHED", 5)
        os.kill(pid, 0)  # it lives
    finally:
        os.kill(pid, signal.SIGKILL)


# --- living ---


def test_a_stopped_process_is_left_alone(start: Callable[[str], Script], own_store: Path) -> None:
    script = start(
        """
        @task
        def ask():
            say("holding")
            input()

        @flow
        def main():
            ask()

        main()
        """
    )
    script.hear()
    wait_until(lambda: recorded(own_store) is not None)
    os.kill(script.pid, signal.SIGSTOP)
    assert [row.status for row in seen(own_store)] == ["RUNNING", "RUNNING"]
    assert recover(own_store) == []
    script.go_on()
    os.kill(script.pid, signal.SIGCONT)
    assert script.wait() == 0
    assert [row.status for row in seen(own_store)] == ["COMPLETED", "COMPLETED"]
    assert owners.tokens(own_store) == []


WORKERS = """
@task
def outlive_the_parent():
    ctypes.CDLL(None).prctl(1, 0)  # else the system ends this process with its parent
    say("holding", os.getpid())
    threading.Event().wait()

@flow(task_runner=ProcessPoolTaskRunner(1))
def main():
    outlive_the_parent.submit().result()

main()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="prctl")
def test_an_owner_is_not_dead_before_its_last_worker_is(start: Callable[[str], Script], own_store: Path) -> None:
    script = start(WORKERS)
    worker = int(script.hear()[1])
    wait_until(lambda: recorded(own_store) is not None and len(seen(own_store)) == 2)
    os.kill(worker, signal.SIGSTOP)
    try:
        script.kill()
        assert [row.status for row in seen(own_store)] == ["RUNNING", "RUNNING"]
    finally:
        os.kill(worker, signal.SIGCONT)
    wait_until(lambda: seen(own_store)[0].status == "CRASHED", 5)
    assert not _lives(worker)


def test_workers_are_gone_soon_after_their_parent(start: Callable[[str], Script], own_store: Path) -> None:
    script = start(
        """
        @flow(task_runner=ProcessPoolTaskRunner(2))
        def main():
            for future in [hold.submit(), hold.submit()]:
                future.result()

        main()
        """
    )
    workers = [int(script.hear()[1]) for _ in range(2)]
    wait_until(lambda: recorded(own_store) is not None)
    script.kill()
    wait_until(lambda: not any(map(_lives, workers)), 5)
    assert {row.status for row in seen(own_store)} == {"CRASHED"}


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_dask_worker_keeps_an_owner_alive_while_it_executes(
    start: Callable[[str], Script], own_store: Path, tmp_path: Path, dask_address: str
) -> None:
    script = start(
        f"""
        @task
        def await_file(path):
            open(path + ".begun", "w").close()
            while not os.path.exists(path):
                time.sleep(0.005)

        @flow(task_runner=DaskTaskRunner(address={dask_address!r}))
        def main():
            await_file.submit({str(tmp_path / "go")!r}).result()

        main()
        """
    )
    wait_until((tmp_path / "go.begun").exists, 20)
    wait_until(lambda: recorded(own_store) is not None)
    script.kill()
    try:
        assert seen(own_store)[0].status == "RUNNING"
    finally:
        (tmp_path / "go").touch()
    wait_until(lambda: seen(own_store)[0].status == "CRASHED", 5)


# --- where the record cannot be corrected ---


@pytest.fixture
def unwritable(start: Callable[[str], Script], own_store: Path) -> Iterator[Path]:
    """A store with a run whose process is dead; nobody can write to it, whatever their permissions."""
    killed(start, own_store)
    lock = own_store / "penstock.lock"
    lock.unlink()
    lock.mkdir()
    yield own_store
    if lock.is_dir():
        lock.rmdir()


def test_the_truth_is_shown_where_it_cannot_be_recorded(unwritable: Path, caplog: pytest.LogCaptureFixture) -> None:
    root, *below = seen(unwritable)
    assert (root.status, root.state_name) == ("CRASHED", "Crashed")
    assert root.message is not None and root.message.startswith("The process that owned this run (pid ")
    assert sorted(row.status for row in below) == ["COMPLETED"] * 2 + ["CRASHED"] * 3
    raw = recorded(unwritable)
    assert raw is not None and raw.status == "RUNNING" and is_orphan(unwritable, SQLiteReader(unwritable), raw)
    assert warnings(caplog) == [], "it is said when it is recorded"
    (unwritable / "penstock.lock").rmdir()
    (loss,) = recover(unwritable)
    assert loss.runs == [root.id]
    assert recorded(unwritable) == root._replace(ended=recorded(unwritable).ended, error_type="CrashedRun")  # type: ignore[union-attr]


def test_filters_and_numbers_are_those_of_what_is_shown(unwritable: Path) -> None:
    with closing(open_reader(unwritable)) as reader:
        (run,) = reader.runs(states=["CRASHED"])
        assert (reader.runs(states=["RUNNING"]), reader.runs(states=["COMPLETED"])) == ([], [])
        assert {count.state_name: count.number for count in reader.counts(run.id)} == {"Completed": 2, "Crashed": 3}
        assert (reader.unfinished(), reader.owners()) == ([], [])
        assert reader.get(run.id) == run
        assert {row.status for row in reader.children(run.id)} == {"COMPLETED", "CRASHED"}


def test_what_is_shown_of_living_runs_is_what_is_recorded(start: Callable[[str], Script], own_store: Path) -> None:
    script = going_on(start, own_store)
    with closing(SQLiteReader(own_store)) as reader:
        shown = Truthful(reader, own_store)
        (run,) = reader.find("@last")
        assert shown.find("@last") == [run]
        assert shown.tree(run.id) == reader.tree(run.id)
        assert shown.counts(run.id) == reader.counts(run.id)
        assert shown.runs(states=["RUNNING"]) == [run]
    script.kill()


def test_a_reader_says_when_it_first_saw_that_a_process_was_gone(
    start: Callable[[str], Script], own_store: Path
) -> None:
    script = going_on(start, own_store)
    with closing(SQLiteReader(own_store)) as reader:
        shown = Truthful(reader, own_store)
        (run,) = shown.find("@last")
        killed = time()
        script.kill()
        (dead,) = shown.find("@last")
        assert (run.ended, dead.status) == (None, "CRASHED")
        assert dead.ended is not None and killed <= dead.ended <= time()
        assert {row.ended for row in shown.tree(run.id) if row.status == "CRASHED"} == {dead.ended}


# --- small things ---


def test_where_nothing_was_recorded_nothing_is_made(tmp_path: Path) -> None:
    assert recover(tmp_path / "none") == []
    assert list(tmp_path.glob("none*")) == []


def test_files_of_the_dead_that_recorded_nothing_are_swept(start: Callable[[str], Script], own_store: Path) -> None:
    script = start("from penstock.store import owners; say(owners.own(os.environ['PENSTOCK_HOME'])); input()")
    script.hear()
    script.kill()
    assert len(owners.tokens(own_store)) == 1
    assert recover(own_store) == []
    assert owners.tokens(own_store) == []
    assert not (own_store / "penstock.db").exists()


def test_a_look_costs_next_to_nothing_if_nobody_has_died(start: Callable[[str], Script], own_store: Path) -> None:
    script = going_on(start, own_store)

    def look() -> float:
        begun = perf_counter()
        assert recover(own_store) == []
        return perf_counter() - begun

    took = statistics.median(look() for _ in range(30))
    script.kill()
    assert took < 0.01, "measured: 0.5 ms; the bound is for busy machines"


def test_a_dead_run_cannot_be_cancelled_and_that_is_said_at_once(
    start: Callable[[str], Script], own_store: Path
) -> None:
    killed(start, own_store)
    run = recorded(own_store)
    assert run is not None
    begun = perf_counter()
    state = cancel_run(UUID(run.id))
    assert perf_counter() - begun < 1
    assert (state.type, state.name) == ("CRASHED", "Crashed")
    assert "is gone" in (state.message or "")
