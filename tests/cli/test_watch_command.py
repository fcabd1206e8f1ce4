"""`penstock watch`: a run of another process, followed to its end."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen

import pytest
from acting import PENSTOCK, below, penstock, recorded, start, wait_for, write
from click.testing import CliRunner
from looking import FLOW

from penstock.cli import main
from penstock.cli.watch import groups_of
from penstock.store.base import Tally
from penstock.store.sqlite import SQLiteStore
from penstock.testing.store_suite import batch, child_row
from progress.terminals import Terminal

SCRIPT = """
    import logging
    import sys
    import time
    from pathlib import Path
    from penstock import flow, task

    HERE = Path(__file__).parent

    def wait_for(name):
        while not (HERE / name).exists():
            time.sleep(0.01)

    @task(retries=1)
    def extract(n):
        if n == 0:
            logging.getLogger("shop").warning("row %d is odd", n)
            raise ValueError(n)
        if n > 2:
            wait_for("go")
            logging.getLogger("shop").warning("row %d at last", n)

    @task
    def load(n): ...

    @flow
    def part():
        load.map(range(2)).wait()

    @flow
    def shop(way):
        part()
        states = extract.map(range(6), return_state=True)
        if way == "fails":
            raise KeyError(way)

    if __name__ == "__main__":
        shop(sys.argv[1])
"""


@contextmanager
def script(tmp_path: Path, way: str = "completes") -> Iterator[Popen[str]]:
    """A flow half of whose tasks have ended, one of them failed; the others go on when there is a file `go`."""
    path = write(tmp_path / "shop.py", SCRIPT)
    process = start([sys.executable, path, way], tmp_path)
    try:
        wait_for(lambda: process.poll() is not None or _ended() == 3)
        assert process.poll() is None, process.communicate()
        yield process
    finally:
        process.kill()
        process.communicate()


def _ended() -> int:
    return sum(row.name == "extract" and row.ended is not None for run in recorded() for row in below(run))


def watch(tmp_path: Path, *options: str) -> tuple[Popen[str], str]:
    """The command, and the first line that it has printed."""
    process = start([*PENSTOCK, "watch", "@last", *options], tmp_path)
    assert process.stdout is not None
    return process, process.stdout.readline()


def rest(process: Popen[str]) -> tuple[str, str]:
    """Not `communicate`: it does not know what `readline` has left in the buffer."""
    assert process.stdout is not None and process.stderr is not None
    with process:
        return process.stdout.read(), process.stderr.read()


def go_on(tmp_path: Path) -> None:
    (tmp_path / "go").touch()


# --- in a pipe ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("way", "status"), [("completes", 0), ("fails", 1)])
def test_lines_where_there_is_no_terminal(tmp_path: Path, way: str, status: int) -> None:
    with script(tmp_path, way):
        watching, first = watch(tmp_path, "--limit", "1")
        go_on(tmp_path)
        others, said = rest(watching)
    assert (watching.returncode, said) == (status, "")
    name = f"shop/{recorded()[0].run_name}"
    assert first.startswith(f"{name} after ")
    assert "part 1/1; part/load 2/2; extract 3/6 (3 running, 1 failed, 1 retried)" in first
    *log, last = others.splitlines()
    assert ["row 0 is odd" in line for line in log] == [True, False, False, False]
    assert sorted(line[-9:] for line in log[1:]) == [f"{n} at last" for n in (3, 4, 5)]
    state = "COMPLETED" if way == "completes" else "FAILED"
    assert last.startswith(f"{name} {state} in ")
    assert "· 8 task runs (1 failed" in last and "1 retried), 1 subflow run" in last


def test_the_death_of_the_process_is_seen(tmp_path: Path) -> None:
    with script(tmp_path) as process:
        watching, _ = watch(tmp_path)
        process.kill()
        printed, _ = rest(watching)
    assert watching.returncode == 5
    assert f"shop/{recorded()[0].run_name} CRASHED in " in printed


def test_a_cancelled_run(tmp_path: Path) -> None:
    with script(tmp_path):
        watching, _ = watch(tmp_path)
        assert penstock("cancel", "@last", directory=tmp_path).returncode == 0
        rest(watching)
    assert watching.returncode == 4


def test_the_end_of_the_command_is_none_of_the_run(tmp_path: Path) -> None:
    with script(tmp_path) as process:
        watching, _ = watch(tmp_path)
        watching.send_signal(signal.SIGINT)
        _, said = rest(watching)
        run = recorded()[0]
        assert (watching.returncode, said) == (130, f"shop/{run.run_name} goes on. Type: penstock watch {run.id}\n")
        assert run.ended is None
        go_on(tmp_path)
        process.wait(30)
    assert recorded()[0].status == "COMPLETED"


def test_json(tmp_path: Path) -> None:
    with script(tmp_path):
        watching = start([*PENSTOCK, "watch", "@last", "--json"], tmp_path)
        go_on(tmp_path)
        printed, said = watching.communicate(timeout=30)
    assert (watching.returncode, said) == (0, "")
    run = json.loads(printed)["run"]
    assert (run["id"], run["status"]) == (recorded()[0].id, "COMPLETED")


# --- on a terminal ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [80, 120])
def test_a_picture_on_a_terminal(tmp_path: Path, columns: int) -> None:
    command = write(tmp_path / "command.py", "from penstock.cli import main\nmain(['watch', '@last'])")
    with script(tmp_path), Terminal(command, columns, 24, {}) as terminal:
        wait_for(lambda: any("3/6" in line for line in terminal.look()))
        name = f"shop/{recorded()[0].run_name}"
        shown = [line for line in terminal.look() if line]
        assert sum("row 0 is odd" in line for line in shown) == 2
        assert [line.split()[0] for line in shown[-4:]] == [name, "part", "load", "extract"]
        assert shown[-4].split()[3:7] == ["done", "running", "failed", "retried"]
        assert shown[-1].split()[2:6] == ["3/6", "3", "1", "1"]
        go_on(tmp_path)
        left = terminal.end()
    assert terminal.status == 0
    assert [sum(f"row {n} at last" in line for line in left) for n in (3, 4, 5)] == [1, 1, 1]
    # The picture stays once, complete, under all lines; the outcome is the last.
    text = "\n".join(left)
    assert text.count("6/6") == 1 and text.count("  extract  ") == 1
    assert text.index("5 at last") < text.index("6/6") < text.index(f"{name} COMPLETED in ")


# --- what is recorded ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("status", "exit_status"), [("COMPLETED", 0), ("FAILED", 1), ("CANCELLED", 4), ("CRASHED", 5)])
def test_a_run_that_has_ended(store: SQLiteStore, status: str, exit_status: int) -> None:
    store.write(batch(FLOW._replace(status=status, state_name=status.capitalize()), child_row(2, FLOW)))
    result = CliRunner().invoke(main, ["watch", "brave-otter"])
    assert (result.exit_code, result.stderr) == (exit_status, "")
    assert result.stdout == f"etl/brave-otter {status} in 4.2 s · 1 task run (1 running)\n"


def test_a_run_that_is_not_there(store: SQLiteStore) -> None:
    store.write(batch(FLOW))
    assert CliRunner().invoke(main, ["watch", "calm-heron"]).exit_code == 3


def test_groups_are_in_the_order_of_their_first_runs_and_inside_each_other() -> None:
    done, runs, blocked = ("COMPLETED", "Completed"), ("RUNNING", "Running"), ("FAILED", "UpstreamFailed")
    deep = [Tally("/".join(["again"] * depth), "flow", "again", *done, 1, 0, 9.0 + depth) for depth in range(12)]
    groups = groups_of(
        [
            *deep,
            Tally("", "task", "late", *done, 2, 0, 8.0),
            Tally("", "flow", "part", *runs, 1, 0, 3.0),
            Tally("part", "task", "load", *done, 3, 2, 5.0),
            Tally("part", "task", "load", *blocked, 1, 0, 4.0),
            Tally("", "task", "load", *runs, 1, 1, 2.0),
        ]
    )
    shown = [("/".join((*group.path, group.name)), group.numbers) for group in groups]
    assert shown[:4] == [
        ("load", {"running": 1, "retried": 1}),
        ("part", {"running": 1}),
        ("part/load", {"blocked": 1, "completed": 3, "retried": 2}),
        ("late", {"completed": 2}),
    ]
    assert [numbers["completed"] for _, numbers in shown[4:]] == [1] * 8 + [4]
