"""`penstock retry` and `penstock rerun`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from acting import below, penstock, recorded, write

SCRIPT = """
    import asyncio
    from pathlib import Path
    from penstock import flow, task
    from penstock.cache_policies import NO_CACHE

    HERE = Path(__file__).parent

    def note(what):
        with (HERE / "notes").open("a") as file:
            file.write(f"{what}\\n")

    @task(cache_policy=NO_CACHE)
    def load(name):
        note(f"load {name}")
        if name == "bad" and not (HERE / "heal").exists():
            raise ValueError(name)
        return name

    @task(cache_policy=NO_CACHE)
    def report(names):
        note(f"report {' '.join(names)}")

    @flow
    def part(name):
        note(f"part {name}")
        report([name])
        return load.submit(name, return_state=True).type.name

    @task
    def call(name):
        note(f"call {name}")
        return load.submit(name, return_state=True).type.name

    @task
    def deep(name):
        note(f"deep {name}")
        return call(name)

    @flow(persist_result=True)
    def etl(names: list[str], way: str = "on") -> None:
        states = load.map(names, return_state=True)
        report([state.result() for state in states if state.is_completed()])
        for name in names:
            part(name)
            deep.submit(name).result()
        if way == "down":
            raise KeyError(way)

    @flow
    async def plain(n: int = 1, day: object = None):
        note(f"plain {n} {day}")
        yield load("x")

    class Unrecordable: ...
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    return write(tmp_path / "shop.py", SCRIPT)


def noted(script: Path) -> list[str]:
    path = script.parent / "notes"
    lines = path.read_text().splitlines()
    path.unlink()
    return sorted(lines)


FIRST = ["call a", "call bad", "deep a", "deep bad", "load a", "load a", "load a", "load bad", "load bad", "load bad"]
FIRST += ["part a", "part bad", "report a", "report a", "report bad"]


@pytest.fixture
def first(script: Path) -> str:
    """A run that has completed although something in it failed."""
    done = penstock("run", "shop.py:etl", "-p", 'names=["a", "bad"]', directory=script.parent)
    assert done.returncode == 0, done.stderr
    assert noted(script) == FIRST
    return recorded()[0].id


# --- retry --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("runner", ["threads", "processes"])
def test_what_failed_is_run_again_though_the_flow_completed(script: Path, first: str, runner: str) -> None:
    done = penstock("retry", "@last", directory=script.parent, PENSTOCK_RUNNER=runner)
    assert done.returncode == 0, done.stderr
    # What is around a failure is entered, what has completed in there stays.
    still = ["call bad", "deep bad", "load bad", "load bad", "load bad", "part bad"]
    assert noted(script) == still
    assert "4 of 9 task runs restored" in done.stderr
    (script.parent / "heal").touch()
    assert penstock("retry", "@last", directory=script.parent).returncode == 0
    assert noted(script) == [*still, "report a bad"]
    third, second, _ = recorded()
    assert (third.resumed_from, second.resumed_from) == (second.id, first)
    assert {run.status for run in below(third)} == {"COMPLETED"}


def test_a_run_without_failures_is_not_retried(script: Path, first: str) -> None:
    (script.parent / "heal").touch()
    penstock("retry", first, directory=script.parent)
    done = recorded()[0].id
    refused = penstock("retry", done, directory=script.parent)
    assert refused.returncode == 2
    assert f"and nothing in it failed. `penstock rerun {done}`" in refused.stderr
    refused = penstock("retry", first, directory=script.parent)
    assert (refused.returncode, "has completed" in refused.stderr) == (2, True)
    assert len(recorded()) == 2


def test_a_retry_that_fails_is_gone_on_with(script: Path, first: str) -> None:
    failed = penstock("retry", "@last", "-p", "way=down", directory=script.parent)
    assert failed.returncode == 1
    noted(script)
    (script.parent / "heal").touch()
    resumed = penstock("resume", "@last", "-p", "way=on", directory=script.parent)
    assert resumed.returncode == 0, resumed.stderr
    # `resume` does not look into what has completed.
    assert noted(script) == ["load bad", "report a bad"]


def test_a_failed_run_is_retried_like_a_resumed_one(script: Path) -> None:
    penstock("run", "shop.py:etl", "-p", 'names=["a"]', "-p", "way=down", directory=script.parent)
    noted(script)
    done = penstock("retry", "@last", "-p", "way=on", "--json", directory=script.parent)
    assert (done.returncode, json.loads(done.stdout)["restored"]) == (0, 3), done.stderr
    assert not (script.parent / "notes").exists()


ODD = """
    async def main():
        async for _ in plain(2, Unrecordable()):
            pass

    if __name__ == "__main__":
        asyncio.run(main())
"""


# --- rerun --------------------------------------------------------------------------------------------------------


def test_rerun_executes_everything_again(script: Path, first: str) -> None:
    done = penstock("rerun", "@last", directory=script.parent)
    assert done.returncode == 0, done.stderr
    assert "restored" not in done.stderr
    assert noted(script) == FIRST
    again = recorded()[0]
    assert (again.resumed_from, again.id != first) == (None, True)
    assert again.parameters == recorded()[1].parameters


def test_rerun_with_other_parameters(script: Path, first: str) -> None:
    failed = penstock("rerun", first, "-p", 'names=["b"]', "-p", "way=down", directory=script.parent)
    assert failed.returncode == 1
    assert noted(script) == ["call b", "deep b", "load b", "load b", "load b", "part b", "report b", "report b"]
    assert penstock("rerun", "@last", directory=script.parent).returncode == 1


def test_rerun_of_a_run_whose_parameters_are_not_recorded(script: Path) -> None:
    write(script.parent / "odd.py", SCRIPT + ODD)
    subprocess.run([sys.executable, "odd.py"], cwd=script.parent, check=True, capture_output=True)
    noted(script)
    refused = penstock("rerun", "@last", directory=script.parent)
    assert (refused.returncode, "Parameter 'n' of run" in refused.stderr) == (2, True), refused.stderr
    done = penstock("rerun", "@last", "-p", "n=3", "-p", "day=x", directory=script.parent)
    assert done.returncode == 0, done.stderr
    assert noted(script) == ["load x", "plain 3 x"]


def test_runs_that_are_not_there(script: Path) -> None:
    for command in ("retry", "rerun"):
        assert penstock(command, "brave-otter", directory=script.parent).returncode == 3
