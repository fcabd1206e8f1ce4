"""Stores of earlier versions: read as they are, brought up to date by the first write, whole at every moment."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from penstock.exceptions import StoreUnavailable
from penstock.store import opening
from penstock.store.base import AttemptRow, EdgeRow, LogRow, RunRow
from penstock.store.sqlite import SQLiteReader, SQLiteStore
from penstock.testing.store_suite import batch, child_row, result_row, run_row

V1 = Path(__file__).with_name("schema_v1.sql").read_text()
V1_COLUMNS = RunRow._fields[: RunRow._fields.index("owner")]

FLOW = run_row(1, kind="flow", run_name="brave-otter", status="FAILED", state_name="Failed", ended=9.0, error="no")
TASKS = [child_row(number, FLOW, attempts=2, ended=float(number), message="dönè") for number in range(2, 40)]
LIVE = run_row(50, kind="flow")
FIRST = AttemptRow(TASKS[0].id, 1, 1.0, 2.0, "Failed", "ValueError", "no", "Traceback…")
EDGE = EdgeRow(TASKS[1].id, TASKS[0].id, "data", "x")
LINES = [LogRow(task.id, 1.0, 20, "penstock", f"line of {task.run_name}") for task in TASKS]

WRITE_ONCE = """
import sys
from penstock.store.sqlite import SQLiteStore
from penstock.testing.store_suite import batch, run_row
SQLiteStore(sys.argv[1]).write(batch(run_row(60)))
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return old_store(tmp_path / "home")


def old_store(home: Path) -> Path:
    """Make a store as version 1 did, at rest."""
    home.mkdir(mode=0o700)
    (home / "penstock.db").touch(0o600)
    with closing(sqlite3.connect(home / "penstock.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(f"BEGIN;\n{V1}\nCOMMIT;")
        fill(connection, "runs", V1_COLUMNS, [row[: len(V1_COLUMNS)] for row in (FLOW, *TASKS, LIVE)])
        fill(connection, "earlier_attempts", AttemptRow._fields, [FIRST])
        fill(connection, "edges", EdgeRow._fields, [EDGE])
        fill(connection, "logs", LogRow._fields, LINES)
    return home


def fill(connection: sqlite3.Connection, table: str, columns: tuple[str, ...], rows: list[tuple[object, ...]]) -> None:
    places = ", ".join("?" * len(columns))
    connection.executemany(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({places})", rows)


def check_content(reader: SQLiteReader) -> None:
    assert reader.find("brave-otter") == [FLOW]
    assert reader.find(FLOW.id[:31]) == [row for row in reader.runs(limit=99) if row.id[:31] == FLOW.id[:31]]
    assert reader.tree(FLOW.id) == TASKS
    assert FIRST in reader.attempts(FLOW.id)
    assert reader.edges(FLOW.id) == [EDGE]
    assert reader.logs(FLOW.id) == LINES
    assert reader.counts(FLOW.id)[0].number == len(TASKS)


def structure(path: Path) -> tuple[int, dict[str, str], dict[str, list[tuple[object, ...]]]]:
    """Version, what was made by which statement (without comments and spaces), and the columns of the tables."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        made = dict(connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL"))
        columns = {name: connection.execute(f"PRAGMA table_xinfo({name})").fetchall() for name in made}
    bare = {name: re.sub(r"\s+", "", re.sub(r"--.*", "", sql)) for name, sql in made.items()}
    return version, bare, columns


def test_what_a_migration_makes_is_what_the_schema_says(home: Path, tmp_path: Path) -> None:
    for place in (home, tmp_path / "fresh"):
        with closing(SQLiteStore(place)) as store:
            store.write(batch(run_row(60)))
    assert structure(home / "penstock.db") == structure(tmp_path / "fresh" / "penstock.db")


def test_everything_is_still_there_after_a_migration(home: Path) -> None:
    with closing(SQLiteStore(home)) as store:
        store.write(batch(run_row(60), result_row(60)))
        check_content(store)
        assert store.runs() == [run_row(60), LIVE, FLOW]
        assert store.result(run_row(60).id) == result_row(60)
        assert store.unfinished() == [run_row(60), LIVE]


def test_a_copy_of_the_old_store_is_kept(home: Path) -> None:
    with closing(SQLiteStore(home)) as store:
        store.write(batch(run_row(60)))
    copy = home / "penstock.db.v1-backup"
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert {file.name for file in home.iterdir()} == {"penstock.db", "penstock.last", "penstock.lock", copy.name}
    restored = home / "restored"
    restored.mkdir()
    shutil.copy(copy, restored / "penstock.db")
    assert structure(restored / "penstock.db")[0] == 1
    with closing(SQLiteReader(restored)) as reader:
        check_content(reader)
        assert reader.runs() == [LIVE, FLOW]


def test_a_reader_reads_an_old_store_and_does_not_touch_it(home: Path) -> None:
    before = (home / "penstock.db").read_bytes()
    with closing(SQLiteReader(home)) as reader:
        check_content(reader)
        assert reader.runs() == [LIVE, FLOW]
        assert reader.unfinished() == [LIVE]
        assert reader.lives(FLOW.id) == [FLOW]
        assert (reader.owners(), reader.result("a"), reader.cached("k"), reader.results_of("t")) == ([], None, None, [])
        assert (list(reader.kept([FLOW.id])), reader.not_kept([FLOW.id])) == ([], {})
        with closing(SQLiteStore(home)) as store:
            assert (home / "penstock.db").read_bytes() == before
            store.write(batch(run_row(60, owner="me")))
        assert reader.owners() == ["me"]  # it sees what has become of the store
        check_content(reader)


def test_somebody_without_rights_may_read_an_old_store_at_rest() -> None:
    if os.getuid() != 0:
        pytest.skip("needs root to become somebody else")
    home = old_store(Path("/tmp") / f"penstock-old-{os.getpid()}")  # tmp_path is closed to others
    try:
        home.chmod(0o555)
        (home / "penstock.db").chmod(0o444)
        child = os.fork()
        if child == 0:
            os.setuid(65534)
            os._exit(SQLiteReader(home).runs() != [LIVE, FLOW])
        assert os.waitpid(child, 0)[1] == 0
    finally:
        shutil.rmtree(home)


def test_without_room_for_the_copy_nothing_is_changed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (home / "penstock.db").read_bytes()

    def full(path: str) -> None:
        raise OSError(28, "No space left on device", path)

    monkeypatch.setattr(opening, "sync_file", full)
    with closing(SQLiteStore(home)) as store:
        with pytest.raises(StoreUnavailable, match="No space left"):
            store.write(batch(run_row(60)))
        assert {file.name for file in home.iterdir()} == {"penstock.db", "penstock.lock"}
        assert (home / "penstock.db").read_bytes() == before
        check_content(store)
        monkeypatch.undo()
        store.write(batch(run_row(60)))
        check_content(store)


def test_two_processes_that_open_an_old_store_migrate_it_once(home: Path) -> None:
    processes = [subprocess.Popen([sys.executable, "-c", WRITE_ONCE, str(home)]) for _ in range(3)]
    assert [process.wait(30) for process in processes] == [0, 0, 0]
    with closing(SQLiteReader(home)) as reader:
        check_content(reader)
        assert reader.runs() == [run_row(60), LIVE, FLOW]


# Death on the way.


def die_at_statement(home: Path, number: int) -> bool:
    """Begin to write in a child that is killed when SQLite begins the statement of that number; False if it lived."""
    child = os.fork()
    if child == 0:
        connect = sqlite3.connect

        def connect_to_die(*arguments: object, **options: object) -> sqlite3.Connection:
            connection = connect(*arguments, **options)  # type: ignore
            connection.set_trace_callback(count)
            return connection  # type: ignore

        def count(_: str) -> None:
            nonlocal number
            number -= 1
            if number < 0:
                os.kill(os.getpid(), signal.SIGKILL)

        sqlite3.connect = connect_to_die  # type: ignore
        SQLiteStore(home).write(batch(run_row(60)))
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def check_is_old_or_new(home: Path, fresh: Path) -> int:
    version, made, columns = structure(home / "penstock.db")
    if version == 2:
        assert (version, made, columns) == structure(fresh / "penstock.db")
    else:
        assert version == 1
        assert not {"results", "dead_owners", "kept_runs"} & made.keys()
        assert len(columns["runs"]) == len(V1_COLUMNS)
    with closing(SQLiteStore(home)) as store:
        check_content(store)
        store.write(batch(run_row(60)))
        check_content(store)
        assert store.runs() == [run_row(60), LIVE, FLOW]
    assert not list(home.glob("*.part*"))
    assert structure(home / "penstock.db") == structure(fresh / "penstock.db")
    return version


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    with closing(SQLiteStore(tmp_path / "fresh")) as store:
        store.write(batch(run_row(60)))
    return tmp_path / "fresh"


def test_killed_at_any_statement_it_is_the_old_store_or_the_new_one(tmp_path: Path, fresh: Path) -> None:
    seen = []
    for number in range(1000):
        home = old_store(tmp_path / f"{number}")
        killed = die_at_statement(home, number)
        seen.append(check_is_old_or_new(home, fresh))
        if not killed:
            break
    assert len(seen) > 25
    assert set(seen) == {1, 2}
    assert seen == sorted(seen)


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
@pytest.mark.parametrize(
    ("call", "step"),
    [("pwrite64", 7), ("fdatasync", 2), ("fsync", 1), ("rename", 1), ("ftruncate", 1), ("unlink", 2)],
)
def test_killed_at_system_calls_it_is_the_old_store_or_the_new_one(
    tmp_path: Path, fresh: Path, call: str, step: int
) -> None:
    seen = []
    for number in range(1, 200, step):
        home = old_store(tmp_path / f"{number}")
        inject = f"--inject={call}:signal=SIGKILL:when={number}"
        command = ["strace", "-f", "-qq", "-o", os.devnull, f"--trace={call}", inject]
        done = subprocess.run([*command, sys.executable, "-c", WRITE_ONCE, str(home)], capture_output=True, text=True)
        if "ptrace" in done.stderr.lower():
            pytest.skip(f"strace may not trace here: {done.stderr}")
        seen.append(check_is_old_or_new(home, fresh))
        if done.returncode == 0:
            break
    assert seen == sorted(seen)
    assert seen[0] == 1
    assert seen[-1] == 2
