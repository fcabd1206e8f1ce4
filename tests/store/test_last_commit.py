"""Commits that vanished with the log of the database are missed."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from recorder_doubles import in_child, warnings

from penstock.store import lastcommit, upkeep
from penstock.store.base import RunRow
from penstock.store.sqlite import SQLiteStore
from penstock.testing.store_suite import batch, run_row

LOST = "Records are missing in {path}: run {run.id}, written at 20"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def die_after(home: Path, action: Callable[[SQLiteStore], object]) -> None:
    """Use a store in a process that dies, so that nobody moves the log into the database."""
    assert in_child(lambda: action(SQLiteStore(home))) == 0


def write_and_move_log(store: SQLiteStore) -> None:
    store.write(batch(*(run_row(number) for number in range(1, 50))))
    store.checkpoint()


def lost(home: Path, run: RunRow) -> str:
    return LOST.format(path=home / "penstock.db", run=run)


def open_and_write(home: Path, run: RunRow) -> None:
    with closing(SQLiteStore(home)) as store:
        store.write(batch(run))


def test_a_store_that_lost_nothing_says_nothing(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    die_after(home, lambda store: store.write(batch(run_row(1), run_row(2, ended=3.0))))
    open_and_write(home, run_row(3))
    open_and_write(home, run_row(4))
    assert warnings(caplog) == []
    assert upkeep.check(home) == []


def test_a_deleted_log_is_missed_once(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    def write_more(store: SQLiteStore) -> None:
        write_and_move_log(store)
        store.write(batch(run_row(60), run_row(61)))

    die_after(home, write_more)
    (home / "penstock.db-wal").unlink()
    assert [problem.what for problem in upkeep.check(home)] == ["records"]
    open_and_write(home, run_row(70))
    [warning] = warnings(caplog)
    assert warning.startswith(lost(home, run_row(61)))
    assert "is not there. The power failed, or the log" in warning
    open_and_write(home, run_row(71))
    assert len(warnings(caplog)) == 1
    assert upkeep.check(home) == []


def test_a_lost_end_of_a_run_is_missed(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    def write_more(store: SQLiteStore) -> None:
        write_and_move_log(store)
        store.write(batch(run_row(7, ended=9.0, status="COMPLETED")))

    die_after(home, write_more)
    (home / "penstock.db-wal").unlink()
    open_and_write(home, run_row(70))
    [warning] = warnings(caplog)
    assert warning.startswith(lost(home, run_row(7)))
    assert "has not ended there" in warning


def test_a_log_damaged_anywhere_is_missed(home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def write_more(store: SQLiteStore) -> None:
        write_and_move_log(store)
        for number in range(60, 80):
            store.write(batch(run_row(number)))

    die_after(home, write_more)
    size = (home / "penstock.db-wal").stat().st_size
    for place in random.Random(7).sample(range(size // 2), 20):
        copy = tmp_path / str(place)
        shutil.copytree(home, copy)
        (copy / "penstock.db-shm").unlink()
        with open(copy / "penstock.db-wal", "r+b") as log:
            log.seek(place)
            byte = log.read(1)
            log.seek(place)
            log.write(bytes([byte[0] ^ 0x10]))
        caplog.clear()
        with closing(SQLiteStore(copy)) as store:
            store.write(batch(run_row(90)))
            complete = store.get(run_row(79).id) is not None
        assert complete != any(text.startswith(lost(copy, run_row(79))) for text in warnings(caplog)), place


def test_the_note_may_lag_behind(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    def write_and_die_before_the_note(store: SQLiteStore) -> None:
        store.write(batch(run_row(1)))
        lastcommit.LastCommit.note = lambda *_: os._exit(0)  # type: ignore
        store.write(batch(run_row(1, ended=2.0), run_row(2)))

    die_after(home, write_and_die_before_the_note)
    open_and_write(home, run_row(3))
    assert warnings(caplog) == []
    with closing(SQLiteStore(home)) as store:
        assert store.runs() == [run_row(3), run_row(2), run_row(1, ended=2.0)]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"run": 7, "ended": 1}', b"\xff" * 200, b"null"])
def test_a_broken_note_proves_nothing(home: Path, caplog: pytest.LogCaptureFixture, content: bytes) -> None:
    open_and_write(home, run_row(1))
    (home / "penstock.last").write_bytes(content)
    open_and_write(home, run_row(2))
    assert warnings(caplog) == []


def test_a_note_that_cannot_be_written_is_no_trouble(home: Path, tmp_path: Path) -> None:
    home.mkdir()
    (home / "penstock.last").symlink_to(tmp_path / "elsewhere")
    open_and_write(home, run_row(1))
    assert not (tmp_path / "elsewhere").exists()


def test_odd_rows_are_not_missed(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    open_and_write(home, run_row(1, ended=float("nan")))
    open_and_write(home, run_row(2, id="a\0b"))
    open_and_write(home, run_row(3, id='"' * 40))
    open_and_write(home, run_row(3, id="x" * 400))
    open_and_write(home, run_row(4, id="\udc80"))
    open_and_write(home, run_row(5))
    assert warnings(caplog) == []


def test_a_claim_that_failed_is_not_missed(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    with closing(SQLiteStore(home)) as store:
        store.write(batch(run_row(1), run_row(2, resumed_from=run_row(1).id)))
        assert store.claim(run_row(3, resumed_from=run_row(1).id), [run_row(1).id]) is not None
    open_and_write(home, run_row(4))
    assert warnings(caplog) == []


def test_neither_a_deleted_store_nor_another_one_in_its_place_is_missed(
    home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    open_and_write(tmp_path / "other", run_row(9))
    with closing(SQLiteStore(home)) as store:
        store.write(batch(run_row(1)))
        os.replace(tmp_path / "other" / "penstock.db", home / "penstock.db")
        store.write(batch(run_row(2)))
    (home / "penstock.db").unlink()
    open_and_write(home, run_row(3))
    assert warnings(caplog) == []


def test_pruned_runs_are_not_missed(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    open_and_write(home, run_row(1, ended=2.0, status="COMPLETED"))
    assert upkeep.prune(home, older_than=0).runs == 1
    open_and_write(home, run_row(3))
    assert warnings(caplog) == []
