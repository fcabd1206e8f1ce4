"""Throwing away, copying, checking."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
import threading
from contextlib import closing
from pathlib import Path

import pytest
from recorder_doubles import in_child
from test_migration import old_store

from penstock.exceptions import StoreUnavailable
from penstock.store import pruning
from penstock.store.base import AttemptRow, EdgeRow, LogRow, ResultRow, RunRow, StoreMissing
from penstock.store.sqlite import SQLiteReader, SQLiteStore
from penstock.store.upkeep import Problem, Pruned, backup, check, prune
from penstock.testing.store_suite import batch, child_row, kept_row, result_row, run_row

NOW = 1_000_000.0
DAY = 86400.0


@pytest.fixture(autouse=True)
def now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning.time, "time", lambda: NOW)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def write(home: Path, *rows: RunRow | AttemptRow | EdgeRow | LogRow | ResultRow) -> None:
    with closing(SQLiteStore(home)) as store:
        store.write(batch(*rows))


def finished(number: int, *, ended: float, **changes: object) -> RunRow:
    return run_row(number, kind="flow", status="FAILED", created=ended - 1, ended=ended, **changes)


def roots(home: Path) -> list[int]:
    with closing(SQLiteReader(home)) as reader:
        return [int(row.id, 16) for row in reader.runs(limit=100_000)]


def results(home: Path) -> list[int]:
    with closing(sqlite3.connect(home / "penstock.db")) as connection:
        return [int(address, 16) for (address,) in connection.execute("SELECT address FROM results ORDER BY address")]


def put_file(home: Path, name: str, size: int = 10, age: float = 0.0) -> ResultRow:
    """Make a file for a large value, and return the fields of the row that refers to it."""
    path = home / "results" / name
    home.mkdir(mode=0o700, exist_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.write_bytes(b"x" * size)
    path.chmod(0o600)
    os.utime(path, (NOW - age, NOW - age))
    return result_row(0, path=name, size=size, sealed=None)


# Which runs go.


def test_old_runs_go(home: Path) -> None:
    write(home, *(finished(number, ended=NOW - number * DAY) for number in range(1, 6)), run_row(9))
    assert prune(home, older_than=3.5 * DAY)[:2] == (2, 2)
    assert roots(home) == [1, 2, 3, 9]


def test_all_but_the_latest_go(home: Path) -> None:
    write(home, *(finished(number, ended=NOW - number * DAY) for number in range(1, 6)))
    assert prune(home, keep=2).root_runs == 3
    assert roots(home) == [1, 2]
    assert prune(home, keep=2).root_runs == 0
    assert prune(home, keep=0).root_runs == 2


def test_each_bound_holds(home: Path) -> None:
    write(home, *(finished(number, ended=NOW - number * DAY) for number in range(1, 6)))
    assert prune(home, keep=4, older_than=2.5 * DAY).root_runs == 3
    assert roots(home) == [1, 2]


def test_without_a_bound_no_run_goes(home: Path) -> None:
    write(home, finished(1, ended=1.0))
    assert prune(home) == Pruned(0, 0, 0, 0, 0)
    assert roots(home) == [1]


def test_what_has_not_ended_stays_with_all_its_lives(home: Path) -> None:
    first = finished(1, ended=10.0)
    rival = finished(2, ended=20.0, resumed_from=first.id)
    second = finished(3, ended=30.0, resumed_from=first.id)
    live = run_row(4, kind="flow", resumed_from=second.id, created=40.0)
    write(home, first, rival, second, live, finished(5, ended=50.0), run_row(6, created=60.0))
    assert prune(home, older_than=0, keep=0, max_bytes=0).root_runs == 1
    assert sorted(roots(home)) == [1, 2, 3, 4, 6]


def test_all_that_is_theirs_goes_with_runs(home: Path) -> None:
    flow, other = finished(1, ended=10.0), finished(2, ended=NOW)
    for number, root in ((10, flow), (20, other)):
        subflow = child_row(number, root, kind="flow", ended=9.0)
        task = child_row(number + 1, subflow, ended=9.0, attempts=2)
        attempt = AttemptRow(task.id, 1, 1.0, 2.0, "Failed")
        write(
            home, root, subflow, task, attempt, EdgeRow(task.id, subflow.id, "data"), LogRow(task.id, 1.0, 20, "x", "y")
        )
    assert prune(home, older_than=DAY)[:2] == (1, 3)
    with closing(sqlite3.connect(home / "penstock.db")) as connection:
        tables = ("runs", "earlier_attempts", "edges", "logs")
        counts = [connection.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0] for table in tables]
    assert counts == [3, 1, 1, 1]
    assert check(home) == []


def test_a_tree_larger_than_a_transaction_goes(home: Path) -> None:
    flow = finished(1, ended=10.0)
    middle = [child_row(number, flow, ended=9.0) for number in range(2, 1000)]
    leaves = [child_row(2000 + number, task, ended=9.0) for number, task in enumerate(middle)]
    write(home, flow, *middle, *leaves)
    assert prune(home, older_than=0)[:2] == (1, 1997)
    assert check(home) == []
    assert roots(home) == []


def test_who_goes_on_from_a_run_meanwhile_keeps_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = finished(1, ended=10.0)
    write(home, first, finished(2, ended=20.0))
    remove_runs = pruning.Pruning._remove_runs

    def resume_first(*arguments: object) -> None:
        monkeypatch.undo()
        write(home, run_row(3, kind="flow", resumed_from=first.id))
        remove_runs(*arguments)  # type: ignore

    monkeypatch.setattr(pruning.Pruning, "_remove_runs", resume_first)
    assert prune(home, keep=0).root_runs == 1
    assert sorted(roots(home)) == [1, 3]


def test_killed_while_pruning_it_can_be_done_later(home: Path) -> None:
    flow = finished(1, ended=10.0)
    tasks = [child_row(number, flow, ended=9.0) for number in range(2, 2000)]
    write(home, flow, *tasks)

    def die_in_the_middle() -> None:
        def die(*_: object) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        pruning.Pruning._unlink = die  # type: ignore  # after the first transaction
        prune(home, older_than=0)

    assert in_child(die_in_the_middle) == -signal.SIGKILL
    assert check(home) == []
    with closing(SQLiteReader(home)) as reader:
        assert 0 < len(reader.tree(flow.id, limit=5000)) < len(tasks)
    assert prune(home, older_than=0).root_runs == 1
    assert (roots(home), check(home)) == ([], [])


@pytest.mark.parametrize("bounds", [{"older_than": -1.0}, {"keep": -1}, {"max_bytes": -1}])
def test_bounds_below_zero_are_refused(home: Path, bounds: dict[str, int]) -> None:
    write(home, finished(1, ended=1.0))
    with pytest.raises(ValueError, match="cannot be negative"):
        prune(home, **bounds)  # type: ignore[arg-type]
    assert roots(home) == [1]


def test_there_must_be_a_store(home: Path) -> None:
    for action in (prune, check, lambda place: backup(place, home / "copy")):
        with pytest.raises(StoreMissing, match="there is no run store at"):
            action(home)
    assert not home.exists()


# Which results go.


def test_results_go_with_the_last_run_that_needs_them(home: Path) -> None:
    first, second = finished(1, ended=10.0), finished(2, ended=NOW)
    made = [kept_row(number, first) for number in (10, 11)]
    restored = kept_row(20, second, result_key=made[0].result_key)
    large = put_file(home, "11.sealed")
    write(home, first, second, *made, restored, result_row(10), large._replace(address=made[1].id))
    assert prune(home, older_than=DAY)[2:4] == (1, 1)
    assert results(home) == [10]
    assert not (home / "results" / "11.sealed").exists()
    assert prune(home, keep=0)[:3] == (1, 2, 1)
    assert results(home) == []


def test_parameters_go_with_their_run(home: Path) -> None:
    first, second = finished(1, ended=10.0), finished(2, ended=NOW)
    kept = [result_row(0, address=f"{run.id}.parameters", cache_key=None) for run in (first, second)]
    write(home, first, second, *kept)
    assert prune(home, older_than=DAY)[:3] == (1, 1, 1)
    with closing(SQLiteReader(home)) as reader:
        assert [reader.result(row.address) is None for row in kept] == [True, False]


def test_results_that_may_answer_to_a_cache_key_stay_until_they_are_old(home: Path) -> None:
    old, young = finished(1, ended=10.0), finished(2, ended=20.0)
    values = [result_row(10, cache_key="a", created=10.0), result_row(20, cache_key="b", created=NOW - 10)]
    bare = result_row(21, created=NOW - 10)
    write(home, old, young, kept_row(10, old), kept_row(20, young), kept_row(21, young), *values, bare)
    assert prune(home, older_than=DAY)[:3] == (2, 5, 2)
    assert results(home) == [20]
    assert prune(home, older_than=5.0).results == 1


def test_without_an_age_they_go_with_their_run(home: Path) -> None:
    old = finished(1, ended=10.0)
    write(home, old, kept_row(10, old), result_row(10, cache_key="a", created=NOW))
    assert prune(home, keep=0).results == 1


def test_expired_results_go_unless_somebody_may_go_on_from_their_run(home: Path) -> None:
    done, failed = finished(1, ended=NOW), finished(2, ended=NOW)
    live = run_row(3, kind="flow", resumed_from=failed.id)
    runs = [kept_row(10, done), kept_row(20, failed), kept_row(30, live)]
    borrowed = [kept_row(12, done, result_key="b" * 32), kept_row(22, failed, result_key="c" * 32)]
    values = [result_row(number, expires=NOW - 1) for number in (10, 20, 30)]
    others = [result_row(0, address=letter * 32, expires=NOW - 1) for letter in "bc"]
    lasting = result_row(40, expires=NOW + 1, cache_key="k")
    write(home, done, failed, live, *runs, *borrowed, *values, *others, lasting, kept_row(40, done))
    assert prune(home).results == 2
    assert results(home) == [20, 30, 40, int("c" * 32, 16)]


def test_files_that_nobody_refers_to_go_after_a_day(home: Path) -> None:
    flow = finished(1, ended=NOW)
    write(home, flow, kept_row(10, flow), put_file(home, "kept", age=9 * DAY)._replace(address=f"{10:032x}"))
    put_file(home, "new", age=0.5 * DAY)
    put_file(home, "a/old", size=70, age=2 * DAY)
    put_file(home, ".penstock-1-2", age=2 * DAY)
    wanted = Pruned(0, 0, 0, 2, 80)
    assert [problem.what for problem in check(home)] == ["files", "files"]
    assert prune(home, dry_run=True) == wanted
    assert prune(home) == wanted
    assert sorted(name for name, _, _ in pruning.files_in(str(home / "results"))) == ["kept", "new"]


def test_what_nobody_refers_to_in_a_directory_of_the_users_stays(home: Path, tmp_path: Path) -> None:
    flow = finished(1, ended=10.0)
    elsewhere = tmp_path / "values"
    elsewhere.mkdir(mode=0o700)
    for name in ("mine", "of-another-store"):
        (elsewhere / name).write_bytes(b"x")
        (elsewhere / name).chmod(0o600)
        os.utime(elsewhere / name, (1, 1))
    write(home, flow, kept_row(10, flow), result_row(10, path="mine", size=1, sealed=None))
    assert check(home, results=elsewhere) == []
    assert prune(home, keep=0, results=elsewhere).files == 1
    assert [file.name for file in elsewhere.iterdir()] == ["of-another-store"]


def test_a_path_that_leaves_the_directory_is_not_followed(home: Path) -> None:
    flow = finished(1, ended=10.0)
    precious = home / "precious"
    (home / "results").mkdir(parents=True)
    precious.write_bytes(b"x")
    write(home, flow, kept_row(10, flow), result_row(10, path="../precious", size=1, sealed=None))
    assert prune(home, keep=0)[2:4] == (1, 0)
    assert precious.exists()


# Space.


def fill(home: Path, flows: int, tasks: int) -> None:
    with closing(SQLiteStore(home)) as store:
        for number in range(1, flows + 1):
            flow = finished(10_000 * number, ended=1000.0 * number)
            rows = [child_row(10_000 * number + at, flow, ended=9.0, error="e" * 500) for at in range(1, tasks + 1)]
            store.write(batch(flow, *rows))


def test_space_is_given_back(home: Path) -> None:
    fill(home, 4, 2000)
    before = (home / "penstock.db").stat().st_size
    foreseen = prune(home, keep=1, dry_run=True)
    assert (home / "penstock.db").stat().st_size == before
    pruned = prune(home, keep=1)
    assert pruned[:4] == foreseen[:4] == (3, 6003, 0, 0)
    assert (home / "penstock.db").stat().st_size == before - pruned.bytes < 0.3 * before
    assert 0.9 < foreseen.bytes / pruned.bytes < 1.1


def test_the_oldest_go_until_the_store_is_small_enough(home: Path) -> None:
    fill(home, 6, 500)
    whole = (home / "penstock.db").stat().st_size
    foreseen = prune(home, max_bytes=whole // 2, dry_run=True)
    pruned = prune(home, max_bytes=whole // 2)
    assert (home / "penstock.db").stat().st_size <= whole // 2
    assert len(roots(home)) == 6 - pruned.root_runs >= 2
    assert roots(home) == sorted(roots(home), reverse=True)
    assert abs(foreseen.root_runs - pruned.root_runs) <= 1
    assert prune(home, max_bytes=whole // 2).root_runs == 0


def test_large_values_count(home: Path) -> None:
    for number in (1, 2, 3):
        flow = finished(number, ended=10.0 * number)
        large = put_file(home, f"{number}", size=1_000_000)
        write(home, flow, kept_row(10 * number, flow), large._replace(address=f"{10 * number:032x}"))
    assert prune(home, max_bytes=1_500_000, dry_run=True)[:4] == (2, 4, 2, 2)


def test_a_store_of_the_first_version_gets_smaller_too(home: Path) -> None:
    old_store(home)
    with closing(sqlite3.connect(home / "penstock.db")) as connection:
        connection.execute("INSERT INTO runs (id, message) VALUES ('x', ?)", ("x" * 3_000_000,))
        connection.execute("DELETE FROM runs WHERE id = 'x'")
        connection.commit()
    assert (home / "penstock.db").stat().st_size > 3_000_000
    assert prune(home, dry_run=True).runs == 0
    assert prune(home, older_than=0)[:2] == (1, 39)
    assert (home / "penstock.db").stat().st_size < 200_000
    with closing(sqlite3.connect(home / "penstock.db")) as connection:
        assert connection.execute("PRAGMA auto_vacuum").fetchone() == (2,)


def test_others_write_meanwhile(home: Path) -> None:
    fill(home, 10, 1000)
    written, done = [0], threading.Event()

    def go_on_writing() -> None:
        with closing(SQLiteStore(home)) as store:
            while not done.is_set():
                written[0] += 1
                store.write(batch(run_row(10**6 + written[0])), patience=5.0)

    thread = threading.Thread(target=go_on_writing)
    thread.start()
    try:
        assert prune(home, older_than=0).root_runs == 10
    finally:
        done.set()
        thread.join()
    assert len(roots(home)) == written[0] >= 10  # between transactions somebody else has a turn
    assert check(home) == []


# Copies.


def test_a_copy_is_a_store(home: Path, tmp_path: Path) -> None:
    flow = run_row(1, kind="flow")
    write(home, flow, kept_row(10, flow), put_file(home, "deep/10")._replace(address=f"{10:032x}"))
    (home / "results.key").write_bytes(b"k" * 32)
    (home / "results.key").chmod(0o600)
    put_file(home, "stray")
    with closing(SQLiteStore(home)) as store:
        store.write(batch(run_row(2)))  # in the log only
        backup(home, tmp_path / "copy")
        store.write(batch(run_row(3)))
    copy = tmp_path / "copy"
    names = {file.relative_to(copy).as_posix(): stat.S_IMODE(file.stat().st_mode) for file in copy.rglob("*")}
    assert names == {
        "penstock.db": 0o600,
        "results.key": 0o600,
        "results": 0o700,
        "results/deep": 0o700,
        "results/deep/10": 0o600,
    }
    assert stat.S_IMODE(copy.stat().st_mode) == 0o700
    assert (copy / "results" / "deep" / "10").read_bytes() == b"x" * 10
    assert roots(copy) == [2, 1]
    assert check(copy) == []
    write(copy, run_row(4))
    assert roots(copy) == [4, 2, 1]


def test_nothing_is_overwritten(home: Path, tmp_path: Path) -> None:
    write(home, run_row(1))
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "penstock.db").write_bytes(b"precious")
    with pytest.raises(FileExistsError, match="is not empty"):
        backup(home, tmp_path / "copy")
    assert (tmp_path / "copy" / "penstock.db").read_bytes() == b"precious"


def test_a_copy_made_while_others_write_is_of_one_moment(home: Path, tmp_path: Path) -> None:
    """Every transaction writes a run together with its log line: in a copy there is none without the other."""
    done = threading.Event()
    write(home, run_row(1))

    def go_on_writing() -> None:
        number = 1
        with closing(SQLiteStore(home)) as store:
            while not done.is_set():
                number += 1
                store.write(batch(run_row(number), LogRow(run_row(number).id, 1.0, 20, "x", "y")), patience=5.0)

    thread = threading.Thread(target=go_on_writing)
    thread.start()
    try:
        for number in range(5):
            backup(home, tmp_path / f"{number}")
    finally:
        done.set()
        thread.join()
    for number in range(5):
        with closing(sqlite3.connect(tmp_path / f"{number}" / "penstock.db")) as connection:
            [(runs,)] = connection.execute("SELECT COUNT(*) FROM runs")
            [(lines,)] = connection.execute("SELECT COUNT(*) FROM logs")
        assert runs == lines + 1


def test_a_newer_store_is_not_copied(home: Path, tmp_path: Path) -> None:
    write(home, run_row(1))
    with closing(sqlite3.connect(home / "penstock.db")) as connection:
        connection.execute("PRAGMA user_version = 3")
    with pytest.raises(StoreUnavailable, match="written by a newer penstock"):
        backup(home, tmp_path / "copy")
    [problem] = check(home)
    assert problem.what == "database" and "written by a newer penstock" in problem.text


# Checks.


def told(home: Path, **options: bool) -> list[str]:
    return [f"{problem.what}: {problem.text}" for problem in check(home, **options)]


def test_a_sound_store_has_no_problems(home: Path) -> None:
    flow = run_row(1, kind="flow")
    write(home, flow, kept_row(10, flow), put_file(home, "10")._replace(address=f"{10:032x}"), result_row(11))
    put_file(home, "new")
    before = (home / "penstock.db").read_bytes()
    assert told(home) == told(home, thorough=True) == []
    assert (home / "penstock.db").read_bytes() == before


def test_an_old_store_has_no_problems(home: Path) -> None:
    assert told(old_store(home)) == []


def test_results_that_are_not_as_recorded(home: Path) -> None:
    short, gone = put_file(home, "short", size=5), put_file(home, "gone")
    (home / "results" / "gone").unlink()
    write(home, short._replace(size=6), gone._replace(address="b"), result_row(7, size=3))
    assert told(home) == [
        f"results: the value at {7:032x} has 8 bytes instead of 3",
        f"results: {home}/results/short has 5 bytes instead of 6",
        f"results: {home}/results/gone is not there",
    ]


def test_records_of_runs_that_are_not_there(home: Path) -> None:
    orphan = child_row(2, run_row(1))
    lone = (AttemptRow("x", 1, 1.0, 2.0, "Failed"), EdgeRow("x", "y", "data"), LogRow("x", 1.0, 20, "x", "y"))
    write(home, orphan, *lone)
    assert told(home) == [
        "records: 1 runs whose parent is not there",
        "records: 1 attempts of runs that are not there",
        "records: 1 dependencies of runs that are not there",
        "records: 1 log lines of runs that are not there",
    ]


def test_modes_that_let_others_in(home: Path) -> None:
    write(home, put_file(home, "1"))
    open_to_all = [home, home / "penstock.db", home / "results", home / "results" / "1"]
    for path in open_to_all:
        path.chmod(0o755 if path.is_dir() else 0o644)
    assert told(home) == [
        f"modes: {path} is open to other users (mode {'755' if path.is_dir() else '644'})."
        f" Type: chmod {'700' if path.is_dir() else '600'} {path}"
        for path in open_to_all
    ]


@pytest.mark.parametrize("thorough", [False, True])
def test_a_damaged_database(home: Path, thorough: bool) -> None:
    fill(home, 1, 3000)
    with open(home / "penstock.db", "r+b") as file:
        for page in range(20, 60):
            file.seek(4096 * page)
            file.write(os.urandom(4096))
    problems = check(home, thorough=thorough)
    assert {problem.what for problem in problems} == {"database"}


def test_an_index_that_lies_is_found_by_a_thorough_check(home: Path) -> None:
    write(home, run_row(1, run_name="otter"))
    with closing(sqlite3.connect(home / "penstock.db")) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("UPDATE sqlite_master SET sql = replace(sql, 'run_name, created', 'name, created')")
        connection.commit()
    assert told(home) == []
    assert any("named_runs" in text for text in told(home, thorough=True))


def test_something_else_in_place_of_the_database(home: Path) -> None:
    home.mkdir(mode=0o700)
    (home / "penstock.db").write_bytes(b"hello, world\n" * 500)
    (home / "penstock.db").chmod(0o600)
    assert check(home) == [Problem("database", f"{home}/penstock.db: file is not a database")]
