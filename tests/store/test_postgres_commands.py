"""Every command of the command line, on a store in Postgres."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import click.testing
import pytest
from test_postgres_flows import Machine, appears

from penstock.cli import COMMANDS, main
from postgres_server import Server

SCRIPT = """
import sys, time
from pathlib import Path
from penstock import flow, get_run_logger, task

HERE = Path(__file__).parent

@task(persist_result=True)
def double(number):
    get_run_logger().info("number %d", number)
    if number == 2 and not (HERE / "good").exists():
        raise ValueError("not good")
    return 2 * number

@flow(persist_result=True)
def sums(number: int = 3):
    return sum(future.result() for future in double.map(range(number)))

@flow(persist_result=True)
def waits(number: int = 2):
    done = sums(number)
    (HERE / "waiting").touch()
    while not (HERE / "go").exists():
        time.sleep(0.01)
    return done

if __name__ == "__main__":
    globals()[sys.argv[1]](return_state=True)
"""

HAND_MADE = {"ui", "cancel", "watch", "resume", "retry", "rerun", "run", "rm", "prune"}  # below, and in tests/ui

ASKED = [
    ["ls"],
    ["ls", "--state", "failed", "--text", "SUM", "--limit", "1"],
    ["show", "@last"],
    ["show", "@last-failed", "--json"],
    ["show", "@last/double-0[1]"],
    ["logs", "@last"],
    ["logs", "@last", "--task", "double", "--level", "info", "--grep", "number", "--since", "1h"],
    ["logs", "@last", "--follow", "--json"],
    ["result", "@last/double-0[1]"],
    ["explain", "@last"],
    ["explain", "@last/double-0[2]"],
    ["graph", "@last", "--json"],
    ["export", "@last", "--html", "--output", "-"],
    ["export", "@last", "--trace", "--output", "-"],
    ["watch", "@last"],
    ["prune", "--keep", "1d", "--dry-run"],
    ["doctor"],
    ["config", "show"],
    ["version"],
    ["completion", "bash"],
]
REFUSED = [["check"], ["backup", "copy"]]


@pytest.fixture(scope="module")
def one(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """A machine on which a run has failed. Nobody may change its record."""
    place = tmp_path_factory.mktemp("commands")
    script = place / "shop.py"
    script.write_text(SCRIPT)
    machine = Machine(place, server.new_database(), script)
    assert machine.runs(str(script), "sums").returncode == 0
    return machine


@pytest.fixture
def another(server: Server, tmp_path: Path) -> Machine:
    script = tmp_path / "shop.py"
    script.write_text(SCRIPT)
    return Machine(tmp_path, server.new_database(), script)


@pytest.fixture
def typed(one: Machine, monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str]], click.testing.Result]:
    monkeypatch.setenv("PENSTOCK_STORE_URL", one.url)
    monkeypatch.setenv("PENSTOCK_HOME", str(one.home))
    return lambda words: click.testing.CliRunner().invoke(main, words)


@pytest.mark.parametrize("words", ASKED, ids=" ".join)
def test_what_only_looks(words: list[str], typed: Callable[[list[str]], click.testing.Result]) -> None:
    done = typed(words)
    # A run that is watched says by its status how it ended, and this one has failed.
    assert done.exit_code == (1 if words[0] == "watch" else 0), done.output
    if "--json" in words:
        assert all(json.loads(line) for line in ([done.stdout] if words[0] != "logs" else done.stdout.splitlines()))
    assert done.stdout


@pytest.mark.parametrize("words", REFUSED, ids=" ".join)
def test_what_is_for_files_says_so(words: list[str], typed: Callable[[list[str]], click.testing.Result]) -> None:
    done = typed(words)
    assert done.exit_code == 2 and "this is for stores in a directory" in done.stderr


def test_none_is_left_out() -> None:
    looked_at = {words[0] for words in (*ASKED, *REFUSED)}
    assert {*COMMANDS} - looked_at - HAND_MADE == {"init"}, "init writes a file of settings and opens no store"


def test_going_on_from_a_run(another: Machine) -> None:
    assert another.runs(str(another.script), "sums").returncode == 0
    (another.script.parent / "good").touch()
    for words, resumed in ((["retry", "@last"], True), (["rerun", "@last"], False), (["run", "shop:sums"], False)):
        before = another.sees("ls")["runs"][0]["id"]
        done = another.types(*words)
        assert done.returncode == 0, done.stderr
        latest = another.sees("ls")["runs"][0]
        assert latest["status"] == "COMPLETED" and (latest["resumed_from"] == before) is resumed
    assert another.types("result", "@last", "--json").returncode == 0
    first = another.sees("ls")["runs"][-1]["id"]
    assert another.types("rm", first, "--yes").returncode == 0
    assert len(another.sees("ls")["runs"]) == 3
    assert another.types("prune", "--latest", "1", "--yes").returncode == 0
    assert len(another.sees("ls")["runs"]) == 1


def test_a_run_that_goes_on_is_followed_cancelled_and_resumed(another: Machine) -> None:
    (another.script.parent / "good").touch()
    process = another.starts(str(another.script), "waits")
    appears(another.script.parent / "waiting", process)
    # They may begin before or after what follows: they see all of it in any case.
    followers = [
        another.starts("-m", "penstock.cli", *words) for words in (["watch", "@last"], ["logs", "@last", "-f"])
    ]
    done = another.types("cancel", "@last")
    assert done.returncode == 0, done.stderr
    process.communicate(timeout=30)
    watched, logged = (follower.communicate(timeout=30) for follower in followers)
    assert "CANCELLED" in watched[0] + watched[1]
    assert "number 1" in logged[0]
    (another.script.parent / "go").touch()
    done = another.types("resume", "@last")
    assert done.returncode == 0, done.stderr
    assert another.sees("ls")["runs"][0]["status"] == "COMPLETED"


def test_a_store_that_cannot_be_reached(
    typed: Callable[[list[str]], click.testing.Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENSTOCK_STORE_URL", "postgresql://me:S3cret@localhost:1/x")
    for words in (
        ["ls"],
        ["show", "@last"],
        ["logs", "@last"],
        ["cancel", "@last"],
        ["rm", "@last", "--yes"],
        ["prune", "--latest", "1", "--yes"],
    ):
        done = typed(words)
        assert done.exit_code == 5, (words, done.output)
        assert "postgresql://me@localhost:1/x" in done.stderr and "S3cret" not in done.output
    done = typed(["doctor"])
    assert done.exit_code != 0 and "postgresql://me@localhost:1/x" in done.output and "S3cret" not in done.output
