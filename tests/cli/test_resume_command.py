"""`penstock resume`: a script that was killed goes on from the command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from penstock.cli import main as command
from penstock.settings import home
from penstock.store.sqlite import SQLiteReader

SCRIPT = """
import os, signal
from dataclasses import dataclass
from pathlib import Path
from penstock import flow, task

HERE = Path(__file__).parent

@dataclass
class Day:
    number: int

def note(what):
    with (HERE / "notes").open("a") as file:
        file.write(f"{what}\\n")

@task
def load(number: int) -> Day:
    note(f"load {number}")
    return Day(number)

@task
def total(days: list[Day]) -> int:
    if not (HERE / "heal").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    if (HERE / "fail").exists():
        raise ValueError("told to fail")
    return sum(day.number for day in days)

@flow(persist_result=True)
def MODE etl(n: int) -> None:
    note(f"answer {total(load.map(range(n)).result())}")

if __name__ == "__main__":
    START
"""


@pytest.fixture(params=["sync", "async"])
def script(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "my_etl.py"
    text = SCRIPT.replace("def MODE", "def" if request.param == "sync" else "async def")
    path.write_text(
        text.replace("START", "etl(3)" if request.param == "sync" else "import asyncio; asyncio.run(etl(3))")
    )
    assert subprocess.run([sys.executable, path], capture_output=True, check=False).returncode == -9
    return path


def penstock(*arguments: str, directory: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "penstock.cli", *arguments]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)


def notes(script: Path) -> list[str]:
    return sorted((script.parent / "notes").read_text().splitlines())


def test_a_killed_script_is_resumed_from_anywhere(script: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    loaded = ["load 0", "load 1", "load 2"]
    assert notes(script) == loaded
    (script.parent / "heal").touch()
    (script.parent / "fail").touch()
    failed = penstock("resume", "@last", directory=elsewhere)
    assert failed.returncode == 1, failed.stderr
    (script.parent / "fail").unlink()
    done = penstock("resume", "@last", directory=elsewhere)
    assert done.returncode == 0, done.stderr
    assert "3 cached" in done.stderr
    assert notes(script) == ["answer 3", *loaded]
    again = penstock("resume", "@last", directory=elsewhere)
    assert again.returncode == 2
    assert "has completed" in again.stderr
    reader = SQLiteReader(home())
    runs = reader.runs()
    reader.close()
    assert [run.status for run in runs] == ["COMPLETED", "FAILED", "CRASHED"]
    assert [run.resumed_from for run in runs] == [runs[1].id, runs[2].id, None]


def test_a_run_that_is_not_there() -> None:
    from click.testing import CliRunner

    assert CliRunner().invoke(command, ["resume", "brave-otter"]).exit_code == 3
