"""`penstock completion`: scripts that shells take, and what they offer."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner
from example_runs import ETL, FLOW, NOON, flow_row

from penstock.cli import COMMANDS, main
from penstock.store.sqlite import SQLiteStore
from penstock.testing.store_suite import batch

PENSTOCK = Path(sys.executable).with_name("penstock")
PLACES = {
    "bash": "~/.local/share/bash-completion/completions/penstock",
    "zsh": "~/.zfunc/_penstock",
    "fish": "~/.config/fish/completions/penstock.fish",
}


@pytest.fixture
def store(own_store: Path) -> Iterator[SQLiteStore]:
    with closing(SQLiteStore(own_store)) as store:
        yield store


@pytest.mark.parametrize("shell", PLACES)
def test_a_script_for_each_shell(shell: str) -> None:
    result = CliRunner().invoke(main, ["completion", shell])
    assert (result.exit_code, "_PENSTOCK_COMPLETE" in result.stdout) == (0, True)
    assert f"penstock completion {shell} > {PLACES[shell]}" in result.stderr
    if path := shutil.which(shell):
        checked = subprocess.run([path, "-n"], input=result.stdout, text=True, capture_output=True)
        assert (checked.returncode, checked.stderr) == (0, "")


def test_shells_that_are_not_known() -> None:
    assert CliRunner().invoke(main, ["completion", "powershell"]).exit_code == 2
    assert CliRunner().invoke(main, ["completion"]).exit_code == 2


def offered(*words: str) -> list[str]:
    """What fish is offered for the last word."""
    environment = {
        **os.environ,
        "_PENSTOCK_COMPLETE": "fish_complete",
        "COMP_WORDS": " ".join(["penstock", *words[:-1]]),
        "COMP_CWORD": words[-1],
    }
    done = subprocess.run([PENSTOCK], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return [line.removeprefix("plain,") for line in done.stdout.splitlines() if line]


def test_commands_are_offered() -> None:
    assert [line.split("\t")[0] for line in offered("expo")] == ["export"]
    assert "--html" in [line.split("\t")[0] for line in offered("export", "--h")]


def test_runs_are_offered_by_name(store: SQLiteStore) -> None:
    store.write(ETL)
    store.write(batch(flow_row(2, name="report", run_name="calm-heron", created=NOON + 60, state_name="Failed")))
    shortcuts = ["@last", "@last-failed"]
    names = [line.split("\t")[0] for line in offered("export", "")]
    assert names == [*shortcuts, "report/calm-heron", "etl/brave-otter"]
    assert offered("rm", "report")[0].startswith("report/calm-heron\tFailed, 2023-11-15 ")
    assert [line.split("\t")[0] for line in offered("rm", "@")] == shortcuts
    assert [line.split("\t")[0] for line in offered("rm", "brave")] == ["brave-otter"]
    assert [line.split("\t")[0] for line in offered("rm", "01a20001")] == [FLOW.id]
    assert offered("rm", "zebra") == []


def test_every_command_that_takes_a_run_offers_them(store: SQLiteStore) -> None:
    store.write(ETL)
    shell = ShellComplete(main, {}, "penstock", "_PENSTOCK_COMPLETE")
    commands = {name: main.get_command(click.Context(main), name) for name in COMMANDS}
    takes = {
        name
        for name, command in commands.items()
        if command is not None and any(parameter.name in ("run", "runs") for parameter in command.params)
    }
    assert {"show", "logs", "watch", "resume", "cancel", "explain", "result", "export", "rm"} <= takes
    for name in takes:
        assert [item.value for item in shell.get_completions([name], "brave")] == ["brave-otter"], name


def test_where_there_is_nothing_only_shortcuts_are_offered(own_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert offered("rm", "") == ["@last", "@last-failed"]
    assert not own_store.exists()
    own_store.mkdir()
    (own_store / "penstock.db").write_bytes(b"no database at all" * 100)
    assert offered("rm", "") == ["@last", "@last-failed"]
    monkeypatch.setenv("PENSTOCK_PROGRESS", "loud")
    assert offered("rm", "") == ["@last", "@last-failed"]


def test_the_help_of_all_commands_fits_and_imports_none_of_them() -> None:
    program = (
        "import contextlib, sys; from penstock.cli import COMMANDS, main\n"
        "with contextlib.suppress(SystemExit): main(['--help'])\n"
        "sys.exit(str([where for where, _ in COMMANDS.values() if where.partition(':')[0] in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50)
    assert done.stderr.strip() == "[]"
    assert all(len(line) < 80 for line in done.stdout.splitlines())
    listed = done.stdout.partition("Commands:\n")[2].splitlines()
    assert [line.split()[0] for line in listed] == list(COMMANDS)
