"""The write-ahead log stays small, as far as those who read the store let it."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from recorder_doubles import python, warnings

from penstock.exceptions import StoreUnavailable
from penstock.store import reading, sqlite
from penstock.store.base import LogRow
from penstock.store.sqlite import ALLOWED_LOG, SQLiteReader, SQLiteStore
from penstock.testing.store_suite import batch, child_row, result_row, run_row

MEGABYTE = 2**20
READ_FOREVER = """
    import sqlite3, sys
    connection = sqlite3.connect(sys.argv[1], isolation_level=None)
    connection.execute("BEGIN")
    print(connection.execute("SELECT COUNT(*) FROM runs").fetchone()[0], flush=True)
    sys.stdin.readline()
    connection.execute("COMMIT")
    print("done", flush=True)
    sys.stdin.readline()
"""
READ_AGAIN_AND_AGAIN = """
    import sqlite3, sys, threading, time
    connection = sqlite3.connect(sys.argv[1], isolation_level=None)
    stop = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.readline(), stop.set()), daemon=True).start()
    reads = 0
    while not stop.is_set():
        connection.execute("BEGIN")
        connection.execute("SELECT COUNT(*) FROM runs").fetchone()
        if not reads:
            print("reading", flush=True)
        stop.wait(float(sys.argv[2]))
        connection.execute("COMMIT")
        reads += 1
    print(reads, flush=True)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "home" / "penstock.db"


@pytest.fixture
def store(path: Path) -> Iterator[SQLiteStore]:
    with closing(SQLiteStore(path.parent)) as store:
        store.write(batch(run_row(1)))
        yield store


def log_size(path: Path) -> int:
    return Path(f"{path}-wal").stat().st_size


def write_megabytes(store: SQLiteStore, number: int, path: Path, start: int = 0) -> int:
    """Write about so many, one at a time; return the largest size that the log has had."""
    largest = 0
    for at in range(start, start + number):
        values = [result_row(100 * at + n, sealed=b"x" * 60_000, size=60_000) for n in range(17)]
        store.write(batch(*values))
        largest = max(largest, log_size(path))
    return largest


def test_large_values_do_not_make_the_log_large(path: Path, store: SQLiteStore) -> None:
    assert write_megabytes(store, 100, path) < 20 * MEGABYTE
    assert path.stat().st_size > 90 * MEGABYTE


def test_nor_do_long_texts_in_small_batches(path: Path, store: SQLiteStore) -> None:
    for _ in range(100):
        store.write(batch(LogRow("a", 1.0, 20, "x", "y" * MEGABYTE)))
    assert log_size(path) <= ALLOWED_LOG


def test_readers_that_are_never_absent_do_not_make_it_large(path: Path, store: SQLiteStore) -> None:
    """Two processes whose snapshots overlap: at no moment is nobody reading."""
    readers = [python(READ_AGAIN_AND_AGAIN, path, seconds) for seconds in (0.21, 0.29)]
    for reader in readers:
        assert reader.stdout is not None and reader.stdout.readline() == "reading\n"
    assert write_megabytes(store, 150, path) <= ALLOWED_LOG
    for reader in readers:
        assert int(reader.communicate("\n")[0]) > 0


def test_a_foreign_reader_that_stays_is_complained_of_and_the_log_shrinks_when_it_goes(
    path: Path, store: SQLiteStore, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    wait = store._worth_waiting
    monkeypatch.setattr(sqlite, "LONG_WAIT", 0.2)
    monkeypatch.setattr(store, "_worth_waiting", lambda size: waits.append(wait(size)) or waits[-1])
    reader = python(READ_FOREVER, path)
    assert reader.stdout is not None and reader.stdin is not None
    assert reader.stdout.readline() == "1\n"
    assert write_megabytes(store, 110, path) > ALLOWED_LOG  # SQLite cannot begin it anew below a reader
    assert 2 <= waits.count(sqlite.LONG_WAIT) <= 4  # at 48 MB, at 52, at 68: nobody waits for it all the time
    [warning] = warnings(caplog)
    assert f"has been reading the run store {path} for long" in warning
    # All that was written can be read, and the database has what the reader lets it have.
    assert store.result(result_row(100).address) is not None
    reader.stdin.write("\n")
    reader.stdin.flush()
    assert reader.stdout.readline() == "done\n"
    assert write_megabytes(store, 12, path, start=200) > 0
    assert log_size(path) < 20 * MEGABYTE
    reader.communicate("\n")
    assert len(warnings(caplog)) == 1


# Our own readers.


@pytest.fixture
def large(store: SQLiteStore, monkeypatch: pytest.MonkeyPatch) -> str:
    """A run whose tree takes longer to walk than a reader may."""
    flow = run_row(1, kind="flow")
    store.write(batch(*(child_row(number, flow) for number in range(2, 30_000))))
    monkeypatch.setattr(sqlite, "LONGEST_READ", 0.001)
    return flow.id


def test_a_read_that_takes_long_is_given_up(path: Path, store: SQLiteStore, large: str) -> None:
    with closing(SQLiteReader(path.parent)) as reader:
        with pytest.raises(StoreUnavailable, match=r"reading was given up after 3 times 0\.001 seconds"):
            reader.counts(large)
        assert reader.get(large) is not None  # it can be used again
        assert not is_read(path)


def test_a_query_is_interrupted_although_it_has_not_handed_out_a_row(
    path: Path, store: SQLiteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = run_row(1, kind="flow")
    store.write(batch(*(child_row(number, flow) for number in range(2, 30_000))))
    asked = []

    def at_once(reader: SQLiteReader) -> bool:
        asked.append(reader)
        return len(asked) == 1

    monkeypatch.setattr(SQLiteReader, "_too_late", at_once)
    assert store.counts(flow.id)[0].number == 29_998
    assert len(asked) > 5  # the answer is one row


def test_a_read_that_hands_out_rows_slowly_is_given_up(
    path: Path, store: SQLiteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(SQLiteReader(path.parent)) as reader:
        reader.runs()
        store.write(batch(run_row(2)))
        moments = iter([True, False, False])
        monkeypatch.setattr(reader, "_too_late", lambda: next(moments))
        assert len(reader.runs()) == 2  # at the second attempt
        assert not is_read(path)


def test_values_by_the_hundred_thousand_are_read_page_by_page(
    path: Path, store: SQLiteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "PAGE", 10)
    flow = run_row(1, kind="flow")
    kept = {"status": "COMPLETED", "ended": 1.0, "result_key": "k"}
    store.write(batch(*(child_row(number, flow, **kept) for number in range(2, 37))))
    found = store.kept([flow.id])
    next(found)
    assert not is_read(path)  # between pages nobody holds a snapshot
    assert len(list(found)) == 34


def is_read(path: Path) -> bool:
    """Whether a snapshot is open that keeps the log from beginning anew."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA busy_timeout = 0")
        connection.execute("CREATE TABLE IF NOT EXISTS scratch (x)")
        connection.execute("DROP TABLE scratch")
        busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        return bool(busy)


def test_is_read_sees_a_snapshot(path: Path, store: SQLiteStore) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN")
        connection.execute("SELECT * FROM runs").fetchall()
        assert is_read(path)
    assert not is_read(path)


def test_reading_in_threads_does_not_hold_up_the_writer(path: Path, store: SQLiteStore) -> None:
    flow = run_row(1, kind="flow")
    store.write(batch(*(child_row(number, flow) for number in range(2, 5000))))
    done = threading.Event()

    def read() -> None:
        with closing(SQLiteReader(path.parent)) as reader:
            while not done.is_set():
                reader.tree(flow.id)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert write_megabytes(store, 80, path) <= ALLOWED_LOG
    done.set()
    for thread in threads:
        thread.join()
