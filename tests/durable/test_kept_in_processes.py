"""Keeping values in worker processes, and between processes that know nothing of each other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from penstock import flow, resume, task
from penstock.cache_policies import INPUTS
from penstock.settings import home
from penstock.store.base import RunRow
from penstock.store.sqlite import SQLiteReader
from penstock.task_runners import ProcessPoolTaskRunner

NOTES = "executed"


def note(directory: Path, what: str) -> None:
    with (directory / NOTES).open("a") as file:
        file.write(f"{what}\n")


def notes(directory: Path) -> list[str]:
    path = directory / NOTES
    return path.read_text().splitlines() if path.exists() else []


def rows(**filters: Any) -> list[RunRow]:
    reader = SQLiteReader(home())
    try:
        return reader.runs(**filters)
    finally:
        reader.close()


@task
def inside(directory: Path, x: int) -> int:
    note(directory, f"inside {x}")
    return 10 * x


@task
def outside(directory: Path, x: int) -> int:
    note(directory, f"outside {x}")
    total = inside(directory, x) + inside.submit(directory, x + 1).result()
    if (directory / "fail").exists():
        raise ValueError("told to fail")
    return total


@flow(persist_result=True, task_runner=ProcessPoolTaskRunner(max_workers=2))
def nested(directory: Path) -> int:
    futures = outside.map([directory] * 2, [1, 10])
    futures.wait()
    return sum(futures.result())


def test_what_tasks_in_workers_have_completed_is_restored(tmp_path: Path) -> None:
    (tmp_path / "fail").touch()
    with pytest.raises(ValueError, match="told to fail"):
        nested(tmp_path)
    assert sorted(notes(tmp_path)) == [
        "inside 1", "inside 10", "inside 11", "inside 2", "outside 1", "outside 10",
    ]  # fmt: skip
    (tmp_path / "fail").unlink()
    (tmp_path / NOTES).unlink()
    assert resume(rows(limit=1)[0].id) == 240
    assert sorted(notes(tmp_path)) == ["outside 1", "outside 10"]


@task(cache_policy=INPUTS)
def cached(directory: Path, x: int) -> int:
    note(directory, f"cached {x}")
    return x


@task
def ask_twice(directory: Path) -> list[str]:
    return [cached(directory, 1, return_state=True).name for _ in range(2)]


@flow(task_runner=ProcessPoolTaskRunner(max_workers=1))
def asking(directory: Path) -> list[str]:
    return ask_twice.submit(directory).result()


def test_workers_share_the_cache(tmp_path: Path) -> None:
    assert asking(tmp_path) == ["Completed", "Cached"]
    assert asking(tmp_path) == ["Cached", "Cached"]
    assert cached(tmp_path, 1, return_state=True).name == "Cached"
    assert notes(tmp_path) == ["cached 1"]


SCRIPT = """
import sys, time
from pathlib import Path
from penstock import task
from penstock.cache_policies import INPUTS

directory = Path(sys.argv[1])

@task(cache_policy=INPUTS)
def slow(x):
    with (directory / "executed").open("a") as file:
        file.write("executed\\n")
    (directory / "started").touch()
    while not (directory / "go").exists():
        time.sleep(0.01)
    if sys.argv[2:] == ["die"]:
        import os, signal
        os.kill(os.getpid(), signal.SIGKILL)
    return x

(directory / f"ready-{sys.argv[-1]}").touch()
print(slow(1, return_state=True).name)
"""


def start(directory: Path, *arguments: str) -> subprocess.Popen[str]:
    script = directory / "script.py"
    script.write_text(SCRIPT)
    return subprocess.Popen([sys.executable, script, directory, *arguments], stdout=subprocess.PIPE, text=True)


def wait_for(path: Path) -> None:
    import time

    for _ in range(2000):
        if path.exists():
            return
        time.sleep(0.01)
    raise TimeoutError(path)


@pytest.mark.parametrize(("first", "names"), [("live", ["Completed", "Cached"]), ("die", ["", "Completed"])])
def test_two_processes_compute_a_key_once(tmp_path: Path, first: str, names: list[str]) -> None:
    one = start(tmp_path, first)
    wait_for(tmp_path / "started")
    two = start(tmp_path, "second")
    wait_for(tmp_path / "ready-second")
    (tmp_path / "go").touch()
    outputs = [process.communicate(timeout=30)[0].strip() for process in (one, two)]
    assert outputs == names
    assert len(notes(tmp_path)) == (1 if first == "live" else 2)
