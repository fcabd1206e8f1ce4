"""What only the SQLite store has: files, other processes, and the ways in which a disk lets one down."""

from __future__ import annotations

import fcntl
import os
import re
import resource
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from time import monotonic

import pytest
from recorder_doubles import in_child, python

from penstock.exceptions import StoreUnavailable
from penstock.store import filelock, files
from penstock.store.base import LogRow, OwnerDeclaredDead, StoreLocked
from penstock.store.filelock import held
from penstock.store.opening import statements
from penstock.store.sqlite import CHECKPOINT_ROWS, FORGET_THE_DEAD, SQLiteReader, SQLiteStore
from penstock.testing.store_suite import batch, child_row, run_row

HOLD_EXCLUSIVELY = """
    import sqlite3, sys
    connection = sqlite3.connect(sys.argv[1], isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    print("locked", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "home" / "penstock.db"


@pytest.fixture
def store(path: Path) -> Iterator[SQLiteStore]:
    with closing(SQLiteStore(path.parent)) as store:
        yield store


# Files.


def test_files_are_private_whatever_the_umask(path: Path) -> None:
    before = os.umask(0)
    try:
        with closing(SQLiteStore(path.parent)) as store:
            store.write(batch(run_row(1)))
            modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    finally:
        os.umask(before)
    names = ("penstock.db", "penstock.db-wal", "penstock.db-shm", "penstock.lock", "penstock.last")
    assert modes == dict.fromkeys(names, 0o600)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_nothing_is_made_before_the_first_write(path: Path, store: SQLiteStore) -> None:
    with pytest.raises(StoreUnavailable, match=f"there is no run store at {path}"):
        store.runs()
    assert not path.parent.exists()


def test_an_open_connection_writes_ahead_and_never_checkpoints_by_itself(store: SQLiteStore) -> None:
    store.write(batch(run_row(1)))
    assert store._writer is not None
    ask = {
        name: store._writer.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("journal_mode", "synchronous", "wal_autocheckpoint", "user_version", "auto_vacuum")
    }
    wanted = {"journal_mode": "wal", "synchronous": 1, "wal_autocheckpoint": 0, "user_version": 2, "auto_vacuum": 2}
    assert ask == wanted


def test_every_write_is_one_immediate_transaction(store: SQLiteStore) -> None:
    store.write(batch(run_row(1)))
    assert store._writer is not None
    seen: list[str] = []
    store._writer.set_trace_callback(lambda statement: seen.append(statement.split(" (")[0]))
    store.write(batch(run_row(2), LogRow(run_row(2).id, 1.0, 20, "x", "y")))
    # How long to wait for a lock is said again if opening the store took a while.
    begin, look, *inserts, commit = [statement for statement in seen if not statement.startswith("PRAGMA busy")]
    assert (begin, inserts, commit) == ("BEGIN IMMEDIATE", ["INSERT INTO runs", "INSERT INTO logs"], "COMMIT")
    assert look == "PRAGMA data_version"


def test_a_commit_that_is_to_survive_a_power_cut_is_synchronous_and_no_other(
    path: Path, store: SQLiteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    directories: list[str] = []
    monkeypatch.setattr(files, "sync_file", directories.append)
    seen: list[str] = []
    store.write(batch(run_row(1)))
    assert store._writer is not None
    store._writer.set_trace_callback(lambda statement: seen.append(statement.split(" (")[0]))
    store.write(batch(run_row(2)), power=True)
    assert seen.index("PRAGMA synchronous = FULL") < seen.index("BEGIN IMMEDIATE")
    assert seen[-2:] == ["COMMIT", "PRAGMA synchronous = NORMAL"]
    assert directories[0] == str(path.parent) and directories[-1] == "/"
    seen.clear()
    store.write(batch(run_row(3)))
    assert not [statement for statement in seen if "synchronous" in statement]
    store.write(batch(run_row(4)), power=True)
    assert directories.count("/") == 1  # once


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
@pytest.mark.parametrize("power", [False, True])
def test_a_synchronous_commit_reaches_the_disk(path: Path, tmp_path: Path, power: bool) -> None:
    code = f"""
        import sys
        from penstock.store.sqlite import SQLiteStore
        from penstock.testing.store_suite import batch, run_row
        store = SQLiteStore(sys.argv[1])
        for number in range(10):
            store.write(batch(run_row(number)), power={power})
        """
    trace = tmp_path / "trace"
    command = ["strace", "-f", "-y", "-qq", "-o", str(trace), "--trace=fdatasync,fsync", sys.executable, "-c"]
    done = subprocess.run([*command, textwrap.dedent(code), str(path.parent)], capture_output=True, text=True)
    if "ptrace" in done.stderr.lower():
        pytest.skip(f"strace may not trace here: {done.stderr}")
    assert done.returncode == 0, done.stderr
    calls = trace.read_text()
    assert calls.count("penstock.db-wal>") >= 10 if power else calls.count("penstock.db-wal>") <= 3


def test_the_log_is_moved_into_the_database_now_and_then(path: Path, store: SQLiteStore) -> None:
    for _ in range(3 * CHECKPOINT_ROWS // 5000):
        store.write(batch(*(LogRow("a", 1.0, 20, "x", "y" * 500) for _ in range(5000))))
    assert path.stat().st_size > 10_000_000
    assert Path(f"{path}-wal").stat().st_size < 14_000_000


def test_closing_leaves_one_self_contained_file(path: Path, store: SQLiteStore) -> None:
    store.write(batch(run_row(1)))
    store.close()
    assert {file.name for file in path.parent.iterdir()} == {"penstock.db", "penstock.lock", "penstock.last"}
    store.write(batch(run_row(2)))  # it can be used again
    assert len(store.runs()) == 2


@pytest.mark.parametrize("file", ["queries.sql", "orders.sql", "upkeep.sql"])
def test_statements_are_answered_from_the_indexes(store: SQLiteStore, file: str) -> None:
    store.write(batch(run_row(1)))
    assert store._writer is not None
    # A check looks at everything.
    whole = {"used", "number_of_runs", "paths", "lone_runs", "lone_attempts", "lone_edges", "lone_logs", "wrong_sizes"}
    for name, query in statements(file).items():
        parameters = dict.fromkeys(re.findall(r":([a-z_]+)", query), 1)
        plan = store._writer.execute(f"EXPLAIN QUERY PLAN {query}", parameters).fetchall()
        scans = [step[3] for step in plan if step[3].startswith("SCAN")]
        small = ("below", "tree", "latest", "lives", "CONSTANT", "(subquery", "json_each", "pragma_", "dead_owners")
        allowed = (*small, "runs USING INDEX root_runs", "runs USING INDEX unfinished_runs")
        bad = [scan for scan in scans if not scan.removeprefix("SCAN ").startswith(allowed)]
        assert not bad or name in whole, (name, bad)


@pytest.mark.parametrize("name", ["a b", "100%", "what?", "#1", "käse", "%41", "a&b=c"])
def test_any_directory_name_will_do(tmp_path: Path, name: str) -> None:
    with closing(SQLiteStore(tmp_path / name)) as store:
        store.write(batch(run_row(1)))
        assert store.runs() == [run_row(1)]
    assert [found.name for found in tmp_path.iterdir() if found.is_dir()] == [name]


def test_a_relative_path_survives_a_change_of_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with closing(SQLiteStore("home")) as store:
        monkeypatch.chdir("/")
        store.write(batch(run_row(1)))
    assert (tmp_path / "home" / "penstock.db").exists()


# Files that are not what they should be.


def test_a_newer_store_is_refused_and_not_touched(path: Path, store: SQLiteStore) -> None:
    store.write(batch(run_row(1)))
    store.close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 7")
    before = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    wanted = r"schema is version 7, this penstock knows version 2\. Type: pip install --upgrade penstock"
    with pytest.raises(StoreUnavailable, match=wanted):
        store.write(batch(run_row(2)))
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == before
    with pytest.raises(StoreUnavailable, match=wanted):
        store.runs()
    store.close()
    assert {name: (path.parent / name).read_bytes() for name in before} == before


def test_a_store_made_newer_while_it_is_open_is_not_written_any_more(path: Path, store: SQLiteStore) -> None:
    store.write(batch(run_row(1)))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 3")
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="schema is version 3, this penstock knows version 2"):
            store.write(batch(run_row(2)))
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT COUNT(*) FROM runs").fetchone() == (1,)


def test_another_database_is_refused_and_not_touched(path: Path, store: SQLiteStore) -> None:
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE customers (name)")
    before = path.read_bytes()
    with pytest.raises(StoreUnavailable, match=f"{path} is an SQLite database, but not a run store"):
        store.write(batch(run_row(1)))
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"hello, world\n" * 500, b"SQLite format 3\0"])
def test_a_file_that_is_no_database_is_refused(path: Path, store: SQLiteStore, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(StoreUnavailable, match=f"{path}: file is not a database"):
        store.write(batch(run_row(1)))
    assert path.read_bytes() == content


def test_an_empty_file_is_a_store_without_records(path: Path, store: SQLiteStore) -> None:
    path.parent.mkdir()
    path.touch()
    with pytest.raises(StoreUnavailable, match="holds no records yet"):
        store.runs()
    store.write(batch(run_row(1)))
    assert len(store.runs()) == 1


@pytest.mark.parametrize("occupied", ["penstock.db", "penstock.lock"])
def test_a_directory_in_place_of_a_file(path: Path, store: SQLiteStore, occupied: str) -> None:
    (path.parent / occupied).mkdir(parents=True)
    with pytest.raises(StoreUnavailable, match=str(path)):
        store.write(batch(run_row(1)))


def test_a_file_in_place_of_the_directory(path: Path, store: SQLiteStore) -> None:
    path.parent.touch()
    with pytest.raises(StoreUnavailable, match="File exists"):
        store.write(batch(run_row(1)))


def test_a_link_in_place_of_the_lock_file_is_not_followed(path: Path, store: SQLiteStore) -> None:
    path.parent.mkdir()
    path.with_suffix(".lock").symlink_to(path.parent / "elsewhere")
    with pytest.raises(StoreUnavailable, match="symbolic links"):
        store.write(batch(run_row(1)))
    assert not (path.parent / "elsewhere").exists()


# Deleted and replaced.


def test_a_deleted_store_begins_afresh(path: Path, store: SQLiteStore) -> None:
    store.write(batch(run_row(1)))
    assert len(store.runs()) == 1
    shutil.rmtree(path.parent)
    store.write(batch(run_row(2)))
    assert store.generation == 1
    assert store.runs() == [run_row(2)]


def test_deleting_only_the_database_file_loses_the_old_log_too(path: Path, store: SQLiteStore) -> None:
    store.write(batch(run_row(1)))
    path.unlink()
    store.write(batch(run_row(2)))
    assert (store.generation, store.runs()) == (1, [run_row(2)])


def test_a_log_left_by_a_dead_process_does_not_enter_a_new_store(path: Path, store: SQLiteStore) -> None:
    def die_without_closing() -> None:
        SQLiteStore(path.parent).write(batch(run_row(1)))

    assert in_child(die_without_closing) == 0
    path.unlink()
    store.write(batch(run_row(2)))
    assert store.runs() == [run_row(2)]


def test_the_index_of_a_deleted_store_is_not_shared_with_who_still_has_it_open(path: Path, store: SQLiteStore) -> None:
    other = python(
        """
        import sys
        from penstock.store.sqlite import SQLiteStore
        from penstock.testing.store_suite import batch, run_row
        store = SQLiteStore(sys.argv[1])
        store.write(batch(*(run_row(number) for number in range(100, 400))))
        print("open", flush=True)
        sys.stdin.readline()
        """,
        path.parent,
    )
    assert other.stdout is not None and other.stdout.readline() == "open\n"
    path.unlink()
    store.write(batch(run_row(2)))
    store.write(batch(run_row(3)))
    assert store.runs() == [run_row(3), run_row(2)]
    other.communicate("\n")
    assert store.runs() == [run_row(3), run_row(2)]


def test_a_replaced_store_is_used_from_then_on(tmp_path: Path, path: Path, store: SQLiteStore) -> None:
    with closing(SQLiteStore(tmp_path / "other")) as other:
        other.write(batch(run_row(7)))
    store.write(batch(run_row(1)))
    os.replace(tmp_path / "other" / "penstock.db", path)
    store.write(batch(run_row(2)))
    assert store.generation == 1
    assert store.runs() == [run_row(7), run_row(2)]


def test_letting_go_of_a_deleted_store_spares_the_log_of_its_successor(path: Path) -> None:
    """Two processes share a store; it is deleted; the other one makes it anew, then we notice."""

    def notice_late() -> None:
        store = SQLiteStore(path.parent)
        store.write(batch(run_row(1)))
        shutil.rmtree(path.parent)
        other = python(
            f"""
            import sys
            from penstock.store.sqlite import SQLiteStore
            from penstock.testing.store_suite import batch, run_row
            store = SQLiteStore({str(path.parent)!r})
            store.write(batch(run_row(2)))
            print("made", flush=True)
            sys.stdin.readline()
            store.write(batch(run_row(4)))
            store.close()
            """
        )
        assert other.stdout is not None and other.stdin is not None
        assert other.stdout.readline() == "made\n"
        log = os.stat(f"{path}-wal").st_ino
        store.write(batch(run_row(3)))
        assert os.stat(f"{path}-wal").st_ino == log
        other.communicate("\n")
        assert other.returncode == 0
        assert store.runs() == [run_row(4), run_row(3), run_row(2)]
        store.close()

    assert in_child(notice_late) == 0


# Other processes.


def test_a_store_that_another_process_locks_is_reported_in_time(path: Path, store: SQLiteStore) -> None:
    store.write(batch(run_row(1)))
    holder = python(HOLD_EXCLUSIVELY, path)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "locked\n"
    start = monotonic()
    with pytest.raises(StoreLocked, match="database is locked"):
        store.write(batch(run_row(2)), patience=0.05)
    assert 0.04 < monotonic() - start < 1
    holder.communicate("\n")
    store.write(batch(run_row(2)))
    assert store.generation == 0
    assert len(store.runs()) == 2


def test_a_held_lock_file_is_reported_in_time(path: Path, store: SQLiteStore) -> None:
    store.write(batch(run_row(1)))
    locked = pytest.raises(StoreLocked, match=r"penstock\.lock is locked by another process")
    with held(str(path.with_suffix(".lock")), 1.0), locked:
        store.write(batch(run_row(2)), patience=0.01)
    store.write(batch(run_row(2)))


def test_a_lock_file_that_was_deleted_and_made_again_excludes(tmp_path: Path) -> None:
    lock = str(tmp_path / "lock")
    with held(lock, 0.0):
        os.unlink(lock)
        # The name is free, and so is the lock; then it is taken.
        with held(lock, 0.0), pytest.raises(StoreLocked), held(lock, 0.0):
            pass


def test_a_lock_on_a_file_deleted_meanwhile_is_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = str(tmp_path / "lock")
    flock = fcntl.flock

    def delete_first(descriptor: int, operation: int) -> None:
        monkeypatch.undo()
        os.unlink(lock)
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", delete_first)
    with held(lock, 1.0), pytest.raises(StoreLocked), held(lock, 0.0):
        pass


def test_a_copy_of_the_descriptor_does_not_prolong_the_lock(tmp_path: Path) -> None:
    lock = str(tmp_path / "lock")
    with held(lock, 0.0):
        copy = os.dup(*filelock._held)
    with held(lock, 0.0):
        pass
    os.close(copy)


def test_a_forked_child_does_not_keep_the_lock_of_a_parent_that_dies(tmp_path: Path) -> None:
    lock = str(tmp_path / "lock")
    started, go = os.pipe(), os.pipe()

    def die_holding_the_lock() -> None:
        with held(lock, 0.0):
            if os.fork() == 0:
                os.write(started[1], b"x")
                os.read(go[0], 1)
            os._exit(0)

    assert in_child(die_holding_the_lock) == 0
    os.read(started[0], 1)
    with held(lock, 0.0):
        pass
    os.write(go[1], b"x")
    for end in (*started, *go):
        os.close(end)


def test_a_forked_child_writes_through_a_connection_of_its_own(path: Path, store: SQLiteStore) -> None:
    store.write(batch(run_row(1)))
    assert len(store.runs()) == 1

    inherited = store._writer
    assert inherited is not None

    def write_in_child() -> None:
        store.write(batch(run_row(2)))
        assert inherited.execute("SELECT 1").fetchone() == (1,)  # still open: it is not ours to close
        assert store.generation == 0
        assert len(store.runs()) == 2
        store.close()

    assert in_child(write_in_child) == 0
    store.write(batch(run_row(3)))
    assert len(store.runs()) == 3
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_forked_child_can_read_although_a_thread_was_reading(store: SQLiteStore) -> None:
    store.write(batch(run_row(1)))

    def read_in_child() -> None:
        signal.alarm(5)
        assert store.runs() == [run_row(1)]

    with store._reading:
        assert in_child(read_in_child) == 0


def test_reading_goes_on_while_another_thread_writes(path: Path, store: SQLiteStore) -> None:
    store.write(batch(run_row(0, kind="flow")))
    done = threading.Event()

    def read() -> list[int]:
        with closing(SQLiteReader(path.parent)) as reader:
            while not done.is_set():
                seen.append(len(reader.children(run_row(0).id)))
        return seen

    seen: list[int] = []
    thread = threading.Thread(target=read)
    thread.start()
    for number in range(1, 100):
        store.write(batch(child_row(number, run_row(0, kind="flow"))))
    done.set()
    thread.join()
    assert seen == sorted(seen)
    assert len(store.children(run_row(0).id)) == 99


def test_what_another_process_declared_dead_is_refused(path: Path, store: SQLiteStore) -> None:
    flow = run_row(1, kind="flow", owner="zombie")
    store.write(batch(flow))
    with closing(SQLiteStore(path.parent)) as other:
        assert other.declare_dead("zombie", 5.0, "gone") == [flow.id]
        for _ in range(2):
            with pytest.raises(OwnerDeclaredDead, match="owner zombie"):
                store.write(batch(child_row(2, flow, status="COMPLETED", ended=9.0)))
        # Long after that nobody can be alive who was dead then.
        other.declare_dead("another", 5.0 + FORGET_THE_DEAD + 1, "gone")
    store.write(batch(child_row(2, flow, status="COMPLETED", ended=9.0)))


def test_of_two_processes_that_go_on_from_a_run_one_does(path: Path, store: SQLiteStore) -> None:
    rounds = 25
    store.write(batch(*(run_row(number, status="FAILED", ended=1.0) for number in range(rounds))))
    code = """
        import sys
        from penstock.store.sqlite import SQLiteStore
        from penstock.testing.store_suite import run_row
        store = SQLiteStore(sys.argv[1])
        print("ready", flush=True)
        for line in sys.stdin:
            number = int(line)
            mine = run_row(1000 * int(sys.argv[2]) + number, resumed_from=run_row(number).id)
            print("won" if store.claim(mine, [mine.resumed_from]) is None else "lost", flush=True)
        store.close()
        """
    processes = [python(code, path.parent, number) for number in (1, 2)]
    inputs = [process.stdin for process in processes if process.stdin is not None]
    outputs = [process.stdout for process in processes if process.stdout is not None]
    assert [output.readline() for output in outputs] == ["ready\n"] * 2
    for number in range(rounds):
        for pipe in inputs:
            pipe.write(f"{number}\n")
            pipe.flush()
        assert sorted(output.readline() for output in outputs) == ["lost\n", "won\n"]
        assert len(store.lives(run_row(number).id)) == 2
    assert [process.communicate()[1] for process in processes] == ["", ""]


# Places where writing fails. The tests may run as root, whom permission bits do not stop.


def test_a_full_disk_is_reported_and_the_store_stays_whole(path: Path) -> None:
    def fill() -> None:
        store = SQLiteStore(path.parent)
        store.write(batch(run_row(1)))
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
        with pytest.raises(StoreUnavailable, match=str(path)):
            store.write(batch(*(LogRow("a", 1.0, 20, "x", "y" * 1000) for _ in range(1000))))
        assert store.runs() == [run_row(1)]
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        store.write(batch(run_row(2)))
        assert (store.generation, len(store.runs()), store.logs("a")) == (0, 2, [])
        store.close()

    assert in_child(fill) == 0


def test_somebody_without_rights_may_read_a_store_at_rest_but_not_write(tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("needs root to become somebody else")
    home = Path("/tmp") / f"penstock-test-{os.getpid()}"  # tmp_path is closed to others
    home.mkdir()
    try:
        with closing(SQLiteStore(home)) as store:
            store.write(batch(run_row(1)))
        home.chmod(0o555)
        (home / "penstock.db").chmod(0o444)

        def as_nobody() -> None:
            os.setuid(65534)
            assert SQLiteReader(home).runs() == [run_row(1)]
            with pytest.raises(StoreUnavailable, match="Permission denied"):
                SQLiteStore(home).write(batch(run_row(2)))

        assert in_child(as_nobody) == 0
    finally:
        shutil.rmtree(home)


def test_a_missing_column_value_does_not_spoil_the_batch(store: SQLiteStore) -> None:
    odd = run_row(1)._replace(created=None, attempts="two", name=object(), tags=["x"])  # type: ignore
    store.write(batch(odd, run_row(2)))
    found = store.get(odd.id)
    assert found is not None and found.name == "<object>" and found.attempts == "two"
    assert store.get(run_row(2).id) == run_row(2)


def test_nul_is_escaped_because_it_hides_text_from_sql(store: SQLiteStore) -> None:
    store.write(batch(run_row(1, run_name="a\0b")))
    assert [row.run_name for row in store.runs()] == ["a\\x00b"]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("a\0b", "a\\x00b"),
        ("\udc80", "\\udc80"),
        (2**63, 2**63 - 1),
        (-(2**70), -(2**63)),
    ],
)
def test_cleaned_values(store: SQLiteStore, given: object, kept: object) -> None:
    broken = "\udc80"  # bytes alone would be taken as they are
    store.write(batch(run_row(1, message=broken, attempts=given)))
    found = store.get(run_row(1).id)
    assert found is not None and found.attempts == kept
