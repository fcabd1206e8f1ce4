"""`penstock resume`: a script that was killed goes on from the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from acting import RUNNERS, penstock, recorded, write
from click.testing import CliRunner

from penstock.cli import main as command

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
    assert all(type(day) is Day for day in days)
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
    assert "3 of 4 task runs restored" in done.stderr
    assert notes(script) == ["answer 3", *loaded]
    again = penstock("resume", "@last", directory=elsewhere)
    assert again.returncode == 2
    assert "has completed" in again.stderr
    runs = recorded()
    assert [run.status for run in runs] == ["COMPLETED", "FAILED", "CRASHED"]
    assert [run.resumed_from for run in runs] == [runs[1].id, runs[2].id, None]


def test_a_run_that_is_not_there() -> None:
    assert CliRunner().invoke(command, ["resume", "brave-otter"]).exit_code == 3


# --- where the flow is found ----------------------------------------------------------------------------------------

RESUMED = """
    import os
    from dataclasses import dataclass
    from pathlib import Path
    from penstock import flow, task

    HERE = Path(__file__).parent

    @dataclass
    class Day:
        number: int

    @task
    def load(number: int) -> Day:
        with (HERE / "notes").open("a") as file:
            file.write(f"load {number}\\n")
        return Day(number)

    @task
    def look(days: list[Day]) -> int:
        return sum(day.number for day in days if type(day) is Day)

    @flow(persist_result=True)
    def etl(n: int, way: str = "down") -> None:
        days = load.map(range(n)).result()
        if way == "down":
            raise ValueError(way)
        print(look.submit(days).result(), way)
"""


@pytest.mark.parametrize("runner", RUNNERS)
def test_a_run_of_the_command_is_resumed(tmp_path: Path, runner: str) -> None:
    write(tmp_path / "here" / "my-etl.py", RESUMED)
    failed = penstock("run", "my-etl.py:etl", "-p", "n=3", directory=tmp_path / "here")
    assert failed.returncode == 1
    done = penstock("resume", "@last", "--param", "way=up", directory=tmp_path, PENSTOCK_RUNNER=runner)
    assert (done.returncode, done.stdout) == (0, "3 up\n"), done.stderr
    assert notes(tmp_path / "here" / "my-etl.py") == ["load 0", "load 1", "load 2"]


@pytest.mark.parametrize("started", [["-m", "shop.flows.etl"], ["-c", "from shop.flows.etl import etl; etl(3)"]])
def test_a_module_is_found_again(tmp_path: Path, started: list[str]) -> None:
    root = tmp_path / "here"
    write(root / "shop" / "flows" / "etl.py", RESUMED + '\n    if __name__ == "__main__": etl(3)')
    write(root / "shop" / "flows" / "__init__.py", "")
    write(root / "shop" / "__init__.py", "")
    subprocess.run([sys.executable, *started], cwd=root, capture_output=True, check=False)
    elsewhere = penstock("resume", "@last", "-p", "way=up", directory=tmp_path)
    if started[0] == "-c":  # which leaves nothing to find it by
        assert elsewhere.returncode == 2
        assert "cannot be imported: type this where its module is found" in elsewhere.stderr
        elsewhere = penstock("resume", "@last", "-p", "way=up", directory=root)
    assert (elsewhere.returncode, elsewhere.stdout) == (0, "3 up\n"), elsewhere.stderr


def test_a_module_that_was_run_by_the_command_is_found_again(tmp_path: Path) -> None:
    write(tmp_path / "here" / "shop" / "etl.py", RESUMED)
    write(tmp_path / "here" / "shop" / "__init__.py", "")
    assert penstock("run", "shop.etl", "-p", "n=3", directory=tmp_path / "here").returncode == 1
    done = penstock("resume", "@last", "-p", "way=up", directory=tmp_path)
    assert (done.returncode, done.stdout) == (0, "3 up\n"), done.stderr


def test_what_cannot_be_resumed(tmp_path: Path) -> None:
    path = write(tmp_path / "my_etl.py", RESUMED)
    penstock("run", path, "-p", "n=1", directory=tmp_path)
    run = recorded()[0]
    cases = {
        ("@last/load",): f"load-0[0] is part of another run. Type: penstock resume {run.id}",
        ("@last", "-p", "m=1"): "flow 'etl' has no parameter 'm'. Its parameters: n, way",
        ("@last", "--rerun", "laod"): "has no task 'laod'",
    }
    for arguments, words in cases.items():
        refused = penstock("resume", *arguments, directory=tmp_path)
        assert (refused.returncode, words in refused.stderr) == (2, True), refused.stderr
    path.write_text(path.read_text() + "\netl(1)\n")
    refused = penstock("resume", "@last", directory=tmp_path)
    assert (refused.returncode, "starts a flow while it is loaded" in refused.stderr) == (2, True)
    path.unlink()
    refused = penstock("resume", "@last", directory=tmp_path)
    assert (refused.returncode, "'my_etl.etl' cannot be imported" in refused.stderr) == (2, True), refused.stderr
    assert [each.id for each in recorded()] == [run.id]


def test_json(tmp_path: Path) -> None:
    write(tmp_path / "my_etl.py", RESUMED)
    penstock("run", "my_etl.py", "-p", "n=2", directory=tmp_path)
    done = penstock("resume", "@last", "-p", "way=up", "--json", directory=tmp_path)
    document = json.loads(done.stdout)
    assert (document["restored"], document["run"]["resumed_from"]) == (2, recorded()[1].id)
    assert (document["run"]["status"], document["run"]["parameters"]) == ("COMPLETED", {"n": "2", "way": "'up'"})
