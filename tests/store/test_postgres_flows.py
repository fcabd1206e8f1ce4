"""Flows and commands with a store in Postgres: from several processes, homes and hosts, and with the server failing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from penstock.store.postgres import PostgresReader
from postgres_server import Server

SCRIPT = """
import os, sys, time
from pathlib import Path
from penstock import flow, get_run_logger, task
from penstock.task_runners import ProcessPoolTaskRunner

HERE = Path(__file__).parent


def until(name):
    while not (HERE / name).exists():
        time.sleep(0.01)


@task(persist_result=True)
def large(number):
    get_run_logger().info("number %d", number)
    (HERE / f"made-{number}-{time.time_ns()}").touch()
    return bytes([number]) * 200_000


@task(retries=1)
def length(value):
    return len(value)


@flow(persist_result=True)
def etl(number=3):
    return sum(future.result() for future in length.map(large.map(range(number))))


@flow(task_runner=ProcessPoolTaskRunner(max_workers=2), persist_result=True)
def etl_in_processes(number=3):
    return sum(future.result() for future in length.map(large.map(range(number))))


@flow(persist_result=True)
def waits(number=2):
    done = sum(future.result() for future in length.map(large.map(range(number))))
    (HERE / "waiting").touch()
    until("go")
    return done


if __name__ == "__main__":
    print(globals()[sys.argv[1]]())
"""

OTHER_HOST = """
import os
names = os.uname_result(("Linux", "other-host", "6", "1", "x86_64"))
os.uname = lambda: names
"""


class Machine:
    """A machine that uses the database: a home of its own, and the same script."""

    def __init__(self, place: Path, url: str, script: Path) -> None:
        self.home, self.url, self.script = place / "home", url, script
        self._processes: list[subprocess.Popen[str]] = []
        self.environment = {name: text for name, text in os.environ.items() if not name.startswith("PENSTOCK")}
        self.environment |= {"PENSTOCK_HOME": str(self.home), "PENSTOCK_STORE_URL": url, "NO_COLOR": "1"}
        self.environment["PYTHONPATH"] = str(script.parent)

    def starts(self, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            env=self.environment,
            cwd=self.script.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._processes.append(process)
        return process

    def stop(self) -> None:
        """Leave nothing running, whatever has failed."""
        for process in self._processes:
            if process.poll() is None:
                process.kill()
                process.communicate()

    def runs(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        process = self.starts(*arguments)
        out, errors = process.communicate(timeout=50)
        return subprocess.CompletedProcess(arguments, process.returncode, out, errors)

    def types(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.runs("-m", "penstock.cli", *arguments)

    def sees(self, *arguments: str) -> Any:
        done = self.types(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def url(server: Server) -> str:
    return server.new_database()


@pytest.fixture
def make(url: str, tmp_path: Path) -> Iterator[Callable[[str], Machine]]:
    script = tmp_path / "work" / "script.py"
    script.parent.mkdir()
    script.write_text(SCRIPT)

    def make(name: str) -> Machine:
        (tmp_path / name).mkdir()
        machines.append(Machine(tmp_path / name, url, script))
        return machines[-1]

    machines: list[Machine] = []
    yield make
    for machine in machines:
        machine.stop()


@pytest.fixture
def one(make: Callable[[str], Machine]) -> Machine:
    return make("one")


@pytest.fixture
def two(make: Callable[[str], Machine]) -> Machine:
    """Another machine: of another name, with another home."""
    machine = make("two")
    site = machine.home.parent / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(OTHER_HOST)
    machine.environment["PYTHONPATH"] += os.pathsep + str(site)
    return machine


@pytest.fixture
def reader(url: str) -> Iterator[PostgresReader]:
    with closing(PostgresReader(url)) as reader:
        yield reader


def appears(path: Path, process: subprocess.Popen[str]) -> None:
    while not path.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def made(machine: Machine) -> int:
    """How often the task `large` was executed."""
    return len(list(machine.script.parent.glob("made-*")))


@pytest.mark.parametrize("name", ["etl", "etl_in_processes"])
def test_a_whole_flow(name: str, one: Machine, two: Machine) -> None:
    done = one.runs(str(one.script), name)
    assert (done.returncode, done.stdout) == (0, "600000\n"), done.stderr
    assert "WARNING" not in done.stderr
    assert not (one.home / "penstock.db").exists() and not (one.home / "results").exists()
    (run,) = two.sees("ls")["runs"]
    assert (run["status"], run["info"]["host"]) == ("COMPLETED", os.uname().nodename)
    shown = two.types("show", "@last")
    assert shown.returncode == 0 and "large-0[2]" in shown.stdout, shown.stderr
    logged = two.types("logs", "@last")
    assert [line for line in logged.stdout.splitlines() if "number 1" in line], logged.stderr
    assert two.types("graph", "@last").returncode == 0


def test_another_machine_goes_on_with_what_one_has_finished(one: Machine, two: Machine) -> None:
    process = one.starts(str(one.script), "waits")
    appears(one.script.parent / "waiting", process)
    (run,) = two.sees("ls")["runs"]
    assert run["status"] == "RUNNING"  # it does not declare the living dead
    process.kill()
    process.communicate()
    (run,) = two.sees("ls")["runs"]
    assert run["status"] == "RUNNING"  # it may come back, for all that this machine knows
    (run,) = one.sees("ls")["runs"]
    assert run["status"] == "CRASHED"  # its own machine knows better
    (one.script.parent / "go").touch()
    two.home.mkdir()
    shutil.copy(one.home / "results.key", two.home)
    done = two.types("resume", "@last")
    assert done.returncode == 0, done.stderr
    assert made(one) == 2  # the values were found in the database
    latest, crashed = two.sees("ls")["runs"]
    assert (latest["status"], latest["resumed_from"]) == ("COMPLETED", crashed["id"])
    assert latest["info"]["host"] == "other-host"


def test_without_the_key_values_count_as_absent_and_it_is_said_why(one: Machine, two: Machine) -> None:
    assert one.runs(str(one.script), "etl").returncode == 0
    done = two.types("result", "@last")
    assert done.returncode != 0
    assert "the key that it was sealed with is gone" in done.stderr
    two.home.mkdir(exist_ok=True)
    (two.home / "results.key").write_bytes(b"x" * 32)
    (two.home / "results.key").chmod(0o600)
    done = two.types("result", "@last")
    assert done.returncode != 0
    assert "sealed with another key (see PENSTOCK_RESULTS_KEY_PATH)" in done.stderr


def test_another_machine_cancels(one: Machine, two: Machine) -> None:
    process = one.starts(str(one.script), "waits")
    appears(one.script.parent / "waiting", process)
    done = two.types("cancel", "@last")
    assert done.returncode == 0, done.stderr
    process.communicate(timeout=30)
    (run,) = two.sees("ls")["runs"]
    assert run["status"] == "CANCELLED"


def test_two_processes_write_while_somebody_reads(one: Machine, two: Machine, reader: PostgresReader) -> None:
    processes = [one.starts(str(one.script), "etl"), two.starts(str(two.script), "etl_in_processes")]
    seen: list[int] = []
    while any(process.poll() is None for process in processes):
        if not seen:
            time.sleep(0.01)
        try:
            _, last = reader.line_numbers()
        except Exception:  # nothing there yet
            continue
        lines = [line for run in reader.runs() for line in reader.lines(run, seen[-1] if seen else 0, last)]
        seen += sorted({line.number for line in lines} - set(seen))
    for process in processes:
        assert process.communicate()[0] == "600000\n"
        assert process.returncode == 0
    roots = reader.runs()
    assert [root.status for root in roots] == ["COMPLETED"] * 2
    assert [sum(count.number for count in reader.counts(root.id)) for root in roots] == [6, 6]


class TestTrouble:
    """A failing store never fails the work: one warning."""

    def test_no_server(self, one: Machine) -> None:
        one.environment["PENSTOCK_STORE_URL"] = "postgresql://me:S3cret@localhost:1/nowhere"
        done = one.runs(str(one.script), "etl")
        assert (done.returncode, done.stdout) == (0, "600000\n")
        assert done.stderr.count("Cannot record runs: postgresql://me@localhost:1/nowhere: ") == 1
        assert "S3cret" not in done.stderr
        listed = one.types("ls")
        assert listed.returncode == 5 and "S3cret" not in listed.stderr

    @pytest.fixture
    def own_server(self) -> Iterator[Server]:
        from postgres_server import running_server

        with running_server() as running:
            yield running

    def test_the_server_dies_in_the_middle_and_comes_back(self, own_server: Server, one: Machine, two: Machine) -> None:
        url = own_server.new_database()
        one.environment["PENSTOCK_STORE_URL"] = two.environment["PENSTOCK_STORE_URL"] = url
        process = one.starts(str(one.script), "waits")
        appears(one.script.parent / "waiting", process)
        own_server.kill()
        own_server.start()
        (run,) = two.sees("ls")["runs"]
        assert run["status"] == "RUNNING"  # nobody is dead because the server was
        (one.script.parent / "go").touch()
        out, errors = process.communicate(timeout=30)
        assert (process.returncode, out) == (0, "400000\n"), errors
        assert "WARNING" not in errors
        (run,) = two.sees("ls")["runs"]
        assert run["status"] == "COMPLETED"
        assert two.sees("show", "@last")["run"]["status"] == "COMPLETED"

    def test_the_server_dies_for_good(self, own_server: Server, one: Machine) -> None:
        one.environment["PENSTOCK_STORE_URL"] = own_server.new_database()
        process = one.starts(str(one.script), "waits")
        appears(one.script.parent / "waiting", process)
        own_server.kill()
        (one.script.parent / "go").touch()
        out, errors = process.communicate(timeout=30)
        assert (process.returncode, out) == (0, "400000\n")
        assert errors.count("Cannot record runs: ") == 1
        assert "records were lost" in errors and "Traceback" not in errors


def test_commands_for_stores_in_directories_say_so(one: Machine) -> None:
    assert one.runs(str(one.script), "etl").returncode == 0
    for command in (["check"], ["backup", "copy"]):
        done = one.types(*command)
        assert done.returncode == 2 and "this is for stores in a directory" in done.stderr
    elsewhere = one.home.parent / "elsewhere"
    done = one.types("ls", "--store", str(elsewhere))
    assert f"there is no run store at {elsewhere}/penstock.db" in done.stderr


def test_old_runs_are_removed_with_their_values(one: Machine, two: Machine, reader: PostgresReader) -> None:
    for _ in range(2):
        assert one.runs(str(one.script), "etl").returncode == 0
    removed, kept = (run["id"] for run in one.sees("ls")["runs"])
    values = [row.result_key for row in reader.tree(removed) if row.result_key is not None]
    foreseen = two.sees("prune", "--latest", "1", "--dry-run")
    done = two.types("rm", removed, "--yes")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Removed 1 run, 6 runs below, 7 kept results")
    assert reader.get(removed) is None and reader.tree(removed) == [] and reader.logs(removed) == []
    assert [value for value in values if reader.result(value)] == []
    assert len([row for row in reader.tree(kept) if reader.result(row.result_key or "")]) == 6
    assert (foreseen["root_runs"], foreseen["runs"], foreseen["results"]) == (1, 7, 7)
    assert foreseen["bytes"] > 0
    done = two.types("prune", "--latest", "0", "--yes")
    assert done.returncode == 0, done.stderr
    assert reader.runs() == []
    done = two.types("prune", "--max-size", "1MB", "--yes")
    assert done.returncode == 5 and "cannot be made smaller by that" in done.stderr


def test_doctor_looks_at_the_server(one: Machine) -> None:
    assert one.runs(str(one.script), "etl").returncode == 0
    done = one.types("doctor")
    assert done.returncode == 0, done.stdout
    assert "Postgres 1" in done.stdout


def test_a_writer_that_is_killed_leaves_whole_transactions(one: Machine, reader: PostgresReader) -> None:
    process = one.starts(str(one.script), "waits")
    appears(one.script.parent / "waiting", process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    (run,) = one.sees("ls")["runs"]
    assert run["status"] == "CRASHED"
    assert {row.status for row in reader.tree(run["id"])} == {"COMPLETED"}
