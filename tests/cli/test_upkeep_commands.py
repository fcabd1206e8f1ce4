"""`penstock rm`, `prune`, `backup`, `check`, `version`: what they remove, when they ask, what they say."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from example_runs import ETL, FLOW, LOAD, NOON, flow_row, task_row

from penstock.cli import main
from penstock.store.base import ResultRow
from penstock.store.sqlite import SQLiteReader, SQLiteStore
from penstock.store.upkeep import check
from penstock.testing.store_suite import batch, result_row

DAY = 86400.0
PENSTOCK = Path(sys.executable).with_name("penstock")


@pytest.fixture
def store(own_store: Path) -> Iterator[SQLiteStore]:
    with closing(SQLiteStore(own_store)) as store:
        yield store


def penstock(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def names(home: Path) -> list[str]:
    with closing(SQLiteReader(home)) as reader:
        return [row.run_name for row in reader.runs()]


def addresses(home: Path) -> list[str]:
    with closing(sqlite3.connect(home / "penstock.db")) as connection:
        return [address for (address,) in connection.execute("SELECT address FROM results ORDER BY address")]


def write_two(store: SQLiteStore) -> None:
    """The flow run in which everything has happened, and one that is older."""
    store.write(ETL)
    older = flow_row(2, run_name="calm-heron", created=NOON - DAY, started=NOON - DAY, ended=NOON - DAY + 5)
    store.write(batch(older, task_row(2, older, "extract-0", -DAY)))


def at_a_terminal(answer: str, *arguments: object) -> tuple[int, str]:
    """Run the command in a terminal, and type the answer; its exit status, and what the terminal showed."""
    master, slave = os.openpty()
    with subprocess.Popen([PENSTOCK, *map(str, arguments)], stdin=slave, stdout=slave, stderr=slave) as process:
        os.close(slave)
        os.write(master, f"{answer}\n".encode())
        shown = b""
        try:
            while part := os.read(master, 4096):
                shown += part
        except OSError:  # that is how a terminal ends
            pass
        os.close(master)
    return process.returncode, shown.decode()


# rm


def test_rm_removes_a_run_with_everything_below_it(store: SQLiteStore, own_store: Path) -> None:
    write_two(store)
    result = penstock("rm", "brave-otter", "--yes")
    assert result.exit_code == 0
    announced = result.stderr.splitlines()
    assert announced[0] == "To be removed, with log and kept results:"
    assert announced[1].startswith(f"  {FLOW.id}  etl/brave-otter COMPLETED in 10.0 s · 8 task runs (1 failed")
    assert result.stdout.startswith("Removed 1 run, 9 runs below, 0 kept results: ")
    assert names(own_store) == ["calm-heron"]
    assert check(own_store) == []
    with closing(SQLiteReader(own_store)) as reader:
        assert reader.tree(FLOW.id) == reader.logs(FLOW.id) == reader.edges(FLOW.id) == reader.attempts(FLOW.id) == []


def test_rm_removes_several_each_once(store: SQLiteStore, own_store: Path) -> None:
    write_two(store)
    result = penstock("rm", "brave-otter", FLOW.id, "etl/calm-heron", "--yes")
    assert result.stdout.startswith("Removed 2 runs, 10 runs below,")
    assert names(own_store) == []


def test_rm_removes_results_that_no_other_run_needs(store: SQLiteStore, own_store: Path) -> None:
    mine, other = flow_row(), flow_row(2, run_name="calm-heron")
    kept = {number: task_row(number, mine, f"load-{number}", 1.0) for number in (2, 3)}
    rows = {number: row._replace(result_key=row.id) for number, row in kept.items()}
    borrowing = task_row(4, other, "load-0", 1.0, result_key=rows[2].id, state_name="Cached")
    unrelated = result_row(9, cache_key="answers to a key", created=NOON)
    results: list[ResultRow] = [result_row(0, address=row.id) for row in rows.values()]
    store.write(batch(mine, other, *rows.values(), borrowing, *results, unrelated))
    assert "1 kept result:" in penstock("rm", "brave-otter", "--yes").stdout
    assert addresses(own_store) == sorted([rows[2].id, unrelated.address])


def test_rm_refuses_what_must_stay(store: SQLiteStore, own_store: Path) -> None:
    write_two(store)
    running = flow_row(3, run_name="busy-beaver", status="RUNNING", state_name="Running", ended=None)
    store.write(batch(running._replace(resumed_from=FLOW.id)))
    for arguments, message in (
        (["busy-beaver"], f"etl/busy-beaver has not ended. To end it, type: penstock cancel {running.id}"),
        (["brave-otter/load-0"], f"load-0 is inside another run. Type: penstock rm {FLOW.id}"),
        (["brave-otter"], f"etl/busy-beaver ({running.id}) goes on from etl/brave-otter, and has not ended"),
        (["calm-heron", "busy-beaver"], "etl/busy-beaver has not ended"),
    ):
        result = penstock("rm", *arguments, "--yes")
        assert (result.exit_code, result.stdout) == (2, "")
        assert message in result.stderr
    assert penstock("rm", "nobody", "--yes").exit_code == 3
    assert penstock("rm").exit_code == 2
    assert len(names(own_store)) == 3


def test_rm_never_removes_more_than_was_announced(store: SQLiteStore, own_store: Path) -> None:
    """Ids of other runs than root runs do nothing, whoever passes them."""
    from penstock.store.upkeep import remove_runs

    write_two(store)
    assert remove_runs(own_store, [LOAD.id, "f" * 32]).runs == 0
    assert penstock("show", LOAD.id).exit_code == 0


def test_rm_without_a_terminal_asks_for_yes(store: SQLiteStore, own_store: Path) -> None:
    write_two(store)
    result = penstock("rm", "brave-otter", "calm-heron")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "there is no terminal to ask on" in result.stderr
    assert "type: penstock rm brave-otter calm-heron --yes" in result.stderr
    assert len(names(own_store)) == 2


@pytest.mark.parametrize(
    ("answer", "status", "left"), [("y", 0, ["calm-heron"]), ("", 1, ["brave-otter", "calm-heron"])]
)
def test_rm_asks_at_a_terminal(store: SQLiteStore, own_store: Path, answer: str, status: int, left: list[str]) -> None:
    write_two(store)
    code, shown = at_a_terminal(answer, "rm", "brave-otter")
    assert code == status, shown
    assert "etl/brave-otter" in shown and "Remove this? [y/N]:" in shown
    assert ("Nothing was removed" in shown) == (status == 1)
    assert names(own_store) == left


# prune


def test_prune_removes_what_is_old(store: SQLiteStore, own_store: Path) -> None:
    now = time.time()
    for number, age in enumerate((1, 10, 40), start=1):
        ended = now - age * DAY
        store.write(batch(flow_row(number, run_name=f"run-{age}", created=ended - 1, ended=ended)))
    dry = penstock("prune", "--keep", "30d", "--dry-run")
    assert (dry.exit_code, dry.stderr) == (0, "")
    assert dry.stdout.startswith("Would remove 1 run, 0 runs below, 0 kept results, 0 files: ")
    assert names(own_store) == ["run-1", "run-10", "run-40"]
    result = penstock("prune", "--keep", "30d", "--yes")
    assert result.stderr.startswith("To be removed: 1 run,") and result.stdout.startswith("Removed 1 run,")
    assert names(own_store) == ["run-1", "run-10"]
    assert penstock("prune", "--latest", 1, "--yes").exit_code == 0
    assert names(own_store) == ["run-1"]
    assert penstock("prune", "--keep", "30d").stdout == "There is nothing to remove\n"


def test_prune_to_a_size(store: SQLiteStore, own_store: Path) -> None:
    for number in range(1, 5):
        flow = flow_row(number, run_name=f"run-{number}", created=NOON + number, ended=NOON + number + 1)
        store.write(batch(flow, *(task_row(at, flow, f"t-{at}", 1.0, error="e" * 1000) for at in range(2, 500))))
    assert penstock("prune", "--max-size", "1.2MB", "--yes").exit_code == 0
    assert names(own_store) == ["run-4"] or names(own_store) == ["run-4", "run-3"]
    assert (own_store / "penstock.db").stat().st_size <= 1_200_000


def test_prune_as_json(store: SQLiteStore) -> None:
    write_two(store)
    document = json.loads(penstock("prune", "--latest", 1, "--dry-run", "--json").stdout)
    assert document == {
        "schema": 1,
        "dry_run": True,
        "root_runs": 1,
        "runs": 2,
        "results": 0,
        "files": 0,
        "bytes": document["bytes"],
    }
    removed = penstock("prune", "--latest", 1, "--yes", "--json")
    assert json.loads(removed.stdout)["dry_run"] is False and "To be removed" in removed.stderr


def test_prune_without_a_bound_removes_no_run(store: SQLiteStore, own_store: Path) -> None:
    write_two(store)
    store.write(batch(result_row(9, expires=1.0)))
    assert penstock("prune", "--yes").stdout.startswith("Removed 0 runs, 0 runs below, 1 kept result,")
    assert (len(names(own_store)), addresses(own_store)) == (2, [])


def test_prune_asks(store: SQLiteStore, own_store: Path) -> None:
    write_two(store)
    result = penstock("prune", "--latest", 0, "--max-size", "1GB")
    assert result.exit_code == 2
    assert "type: penstock prune --latest 0 --max-size ... --yes" in result.stderr
    code, shown = at_a_terminal("n", "prune", "--latest", 0)
    assert (code, "Nothing was removed" in shown) == (1, True)
    assert len(names(own_store)) == 2
    code, shown = at_a_terminal("y", "prune", "--latest", 0)
    assert (code, names(own_store)) == (0, [])


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--keep", "a while", "'a while' is no time"),
        ("--latest", "-1", "-1 is not in the range"),
        ("--max-size", "much", "'much' is no size: it is a number with kB, MB, GB or TB, as in 500MB"),
    ],
)
def test_bounds_that_are_none(store: SQLiteStore, option: str, value: str, message: str) -> None:
    write_two(store)
    result = penstock("prune", option, value)
    assert (result.exit_code, message in result.stderr) == (2, True), result.stderr


@pytest.mark.parametrize(
    ("text", "number"), [("500MB", 5 * 10**8), ("2 GB", 2 * 10**9), ("1.5k", 1500), ("7", 7), ("1TiB", 10**12)]
)
def test_sizes(text: str, number: int) -> None:
    from penstock.cli.prune import Size

    assert Size().convert(text, None, None) == number


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (9949, "9.9 kB"), (10_500, "10 kB"), (999_600, "1.0 MB"),
     (2.5e9, "2.5 GB"), (7e15, "7000 TB")],
)  # fmt: skip
def test_sizes_are_said(number: float, text: str) -> None:
    from penstock.cli.text import size

    assert size(number) == text


# backup, check


def test_a_backup_is_a_store(store: SQLiteStore, own_store: Path, tmp_path: Path) -> None:
    write_two(store)
    result = penstock("backup", tmp_path / "copy")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == f"Copied {own_store} to {tmp_path}/copy\n"
    assert names(tmp_path / "copy") == ["brave-otter", "calm-heron"]
    again = penstock("backup", tmp_path / "copy")
    assert (again.exit_code, f"{tmp_path}/copy is not empty: name a new directory" in again.stderr) == (2, True)


def test_a_backup_that_cannot_be_made(store: SQLiteStore, own_store: Path, tmp_path: Path) -> None:
    assert penstock("backup", tmp_path / "copy").exit_code == 3  # nothing is there yet
    write_two(store)
    (tmp_path / "file").touch()
    result = penstock("backup", tmp_path / "file" / "copy")
    assert (result.exit_code, "cannot be written: Not a directory" in result.stderr) == (1, True), result.stderr


def test_a_backup_says_where_the_key_is(store: SQLiteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_two(store)
    monkeypatch.setenv("PENSTOCK_RESULTS_KEY_PATH", str(tmp_path / "key"))
    result = penstock("backup", tmp_path / "copy")
    assert result.stderr.splitlines()[1] == f"The key of the results is not in the copy. It is {tmp_path}/key"


def test_check_of_a_whole_store(store: SQLiteStore, own_store: Path) -> None:
    assert penstock("check").exit_code == 3
    write_two(store)
    result = penstock("check", "--thorough")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", f"No problem was found in {own_store}\n")
    assert json.loads(penstock("check", "--json").stdout) == {"schema": 1, "store": str(own_store), "problems": []}


def test_check_lists_problems(store: SQLiteStore, own_store: Path) -> None:
    write_two(store)
    store.write(batch(result_row(9, path="gone", size=3, sealed=None)))
    os.chmod(own_store / "penstock.db", 0o644)
    result = penstock("check")
    assert (result.exit_code, result.stderr) == (1, "")
    lines = [line.split("  ")[0] for line in result.stdout.splitlines()]
    assert lines == ["ABOUT", "modes", "results"]
    problems = json.loads(penstock("check", "--json").stdout)["problems"]
    assert problems[1] == {"what": "results", "text": f"{own_store}/results/gone is not there"}


def test_a_store_that_is_none(own_store: Path) -> None:
    own_store.mkdir()
    (own_store / "penstock.db").write_bytes(b"no database at all" * 100)
    assert penstock("prune", "--latest", 1, "--yes").exit_code == 5
    assert penstock("rm", "@last", "--yes").exit_code == 5
    assert penstock("backup", own_store / "copy").exit_code == 5
    assert "file is not a database" in penstock("check").stdout


# version


def test_version() -> None:
    from importlib.metadata import version

    document = json.loads(penstock("version", "--json").stdout)
    assert document["penstock"] == version("penstock") and document["sqlite"] == sqlite3.sqlite_version
    assert penstock("version").stdout.splitlines()[0].split() == ["penstock", version("penstock")]


# None of them opens what was kept.


def test_keeping_house_never_unpickles(own_store: Path, tmp_path: Path) -> None:
    """A kept value whose unpickling would leave a trace."""
    script = f"""
from pathlib import Path
from penstock import flow

class Trap:
    def __reduce__(self):
        return Path({str(tmp_path / "sprung")!r}).touch, ()

@flow(persist_result=True)
def main(trap):
    return Trap()

main(Trap())
"""
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    assert len(addresses(own_store)) == 2
    for arguments in (
        ["export", "@last", "--html", "-o", "-"],
        ["export", "@last", "--trace", "-o", "-"],
        ["check", "--thorough"],
        ["doctor"],
        ["backup", str(tmp_path / "copy")],
        ["prune", "--latest", "0", "--dry-run"],
        ["rm", "@last", "--yes"],
    ):
        result = penstock(*arguments)
        assert result.exit_code == 0, result.output
    assert addresses(own_store) == []
    assert not (tmp_path / "sprung").exists()
