"""The recorder and processes: forks, ends, and others who write to the same store."""

from __future__ import annotations

import shutil
import sqlite3
import threading
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from recorder_doubles import Run, Store, in_child, python, wait_until, warnings

from penstock._engine.recorder import Recorder, close_recorders, recorder_for
from penstock.store.sqlite import SQLiteReader, SQLiteStore
from penstock.testing.store_suite import batch, child_row, run_row


@pytest.fixture
def store() -> Store:
    return Store()


# One recorder per process and store.


def test_there_is_one_recorder_per_home(tmp_path: Path) -> None:
    made: list[Store] = []

    def open_store() -> Store:
        made.append(Store())
        return made[-1]

    one, other = recorder_for(tmp_path / "a", open_store), recorder_for(tmp_path / "b", open_store)
    assert recorder_for(str(tmp_path / "a"), open_store) is one is not other
    one.touch(Run(run_row(1)))
    close_recorders()
    assert len(made) == 1 and made[0].runs() == [run_row(1)]
    assert recorder_for(tmp_path / "a", open_store) is not one
    close_recorders()


def test_a_forked_child_records_its_own_and_leaves_the_rest_to_the_parent(tmp_path: Path) -> None:
    recorder = recorder_for(tmp_path, lambda: SQLiteStore(tmp_path))
    recorder.touch(Run(run_row(1)))
    assert recorder.barrier()
    recorder.window = 60  # what is touched now stays in the queue during the fork
    waiting = Run(run_row(2, status="PENDING"))
    recorder.touch(waiting)
    young = Run(run_row(4, status="PENDING"))
    young.ticket = [young]
    recorder._young.append((0, young.ticket))

    def record_in_child() -> None:
        assert waiting.ticket is young.ticket is None
        recorder.touch(Run(run_row(3)))
        assert recorder.barrier()
        with closing(SQLiteReader(tmp_path)) as reader:
            assert {row.id for row in reader.runs()} == {run_row(1).id, run_row(3).id}
        close_recorders()

    assert in_child(record_in_child) == 0
    assert recorder.barrier()
    close_recorders()
    with closing(SQLiteReader(tmp_path)) as reader:
        assert len(reader.runs()) == 4


def test_a_fork_waits_for_the_end_of_a_transaction(tmp_path: Path, store: Store) -> None:
    """SQLite in the child would believe for ever that a transaction is open."""
    recorder = recorder_for(tmp_path, lambda: store)
    store.may_write.clear()
    recorder.touch(Run(run_row(1)))
    wait_until(lambda: store.offers == 1)
    timer = threading.Timer(0.05, store.may_write.set)
    timer.start()

    def look_in_child() -> None:
        assert len(store.batches) == 1

    assert in_child(look_in_child) == 0
    timer.join()
    assert recorder.barrier()
    close_recorders()


def test_a_fork_in_the_middle_of_writing_does_not_hang_the_child(tmp_path: Path) -> None:
    recorder = recorder_for(tmp_path, lambda: SQLiteStore(tmp_path))
    recorder.window = 0
    busy = threading.Event()

    def keep_busy() -> None:
        number = 1000
        while not busy.wait(0.0005):
            recorder.touch(Run(run_row(number)))
            number += 1

    thread = threading.Thread(target=keep_busy)
    thread.start()

    def record_in_child(number: int) -> None:
        recorder.touch(Run(run_row(number)))
        assert recorder.barrier(patience=10)
        close_recorders()

    try:
        ended = [in_child(partial(record_in_child, number)) for number in range(10)]
    finally:
        busy.set()
        thread.join()
    assert ended == [0] * 10
    assert recorder.barrier()
    close_recorders()
    with closing(SQLiteReader(tmp_path)) as reader:
        assert None not in [reader.get(run_row(number).id) for number in range(10)]


SCRIPT = """
    import sys
    from penstock._engine.recorder import recorder_for
    from penstock.store.sqlite import SQLiteStore
    from penstock.testing.store_suite import run_row

    class Run:
        ticket = None
        unstarted = power = False
        def __init__(self, row):
            self.row = row
        def taken(self, ticket):
            self.ticket = None
            return ticket[0]
        def rows(self, batch):
            batch.runs.append(self.row)

    home = sys.argv[1]
    recorder = recorder_for(home, lambda: SQLiteStore(home))
    recorder.touch(Run(run_row(1)))
"""


def test_a_process_that_just_ends_has_recorded_everything(tmp_path: Path) -> None:
    script = python(SCRIPT, tmp_path)
    assert script.communicate() == ("", "")
    with closing(SQLiteReader(tmp_path)) as reader:
        assert reader.runs() == [run_row(1)]


def test_a_process_that_ends_while_the_store_is_locked_waits_for_it(tmp_path: Path) -> None:
    with closing(SQLiteStore(tmp_path)) as store:
        store.write(batch(run_row(7)))
    holder = sqlite3.connect(tmp_path / "penstock.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    impatient = """
    recorder.lock_patience = 0.2
    print(recorder.barrier(0.05), flush=True)
    """
    script = python(SCRIPT + impatient, tmp_path)
    assert script.stdout is not None and script.stderr is not None
    assert script.stdout.readline() == "False\n"  # a flow would go on
    warning = script.stderr.readline()
    assert "Cannot record runs" in warning and "database is locked" in warning
    assert script.poll() is None
    holder.close()
    assert script.communicate() == ("", "")
    assert script.returncode == 0
    with closing(SQLiteReader(tmp_path)) as reader:
        assert len(reader.runs()) == 2


def test_a_store_deleted_while_a_flow_runs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    home = tmp_path / "home"
    recorder = Recorder(lambda: SQLiteStore(home), window=0.001)
    flow = Run(run_row(1, kind="flow"))
    recorder.touch(flow)
    assert recorder.barrier()
    shutil.rmtree(home)
    recorder.touch(Run(child_row(2, flow.row)))
    assert recorder.barrier()
    recorder.close()
    assert [text.partition(":")[0] for text in warnings(caplog)] == ["The run store was deleted or replaced"]
    with closing(SQLiteReader(home)) as reader:
        assert reader.runs() == [flow.row]
        assert reader.children(flow.row.id) == [child_row(2, flow.row)]


WRITER = (
    SCRIPT
    + """
    import threading
    from penstock.testing.store_suite import child_row

    first, count = int(sys.argv[2]), int(sys.argv[3])
    flow = run_row(first, kind="flow")
    recorder.touch(Run(flow))

    def work(start):
        for number in range(start, start + count):
            run = Run(child_row(number, flow))
            recorder.touch(run)
            run.row = run.row._replace(status="COMPLETED", state_name="Completed", ended=1.0)
            recorder.touch(run)

    threads = [threading.Thread(target=work, args=(first + 1 + n * count,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert recorder.barrier(patience=30)
"""
)


def test_four_processes_of_eight_threads_and_a_reader_share_a_store(tmp_path: Path) -> None:
    each = 1600
    with closing(SQLiteStore(tmp_path)) as store:
        store.write(batch(run_row(0)))
    firsts = [1_000_000 * n for n in range(1, 5)]
    writers = [python(WRITER, tmp_path, first, each) for first in firsts]
    seen = 0
    with closing(SQLiteReader(tmp_path)) as reader:
        while any(writer.poll() is None for writer in writers):
            found = sum(count.number for first in firsts for count in reader.counts(run_row(first).id))
            assert found >= seen
            seen = found
        assert [writer.communicate()[1] for writer in writers] == [""] * 4
        for first in firsts:
            (count,) = reader.counts(run_row(first).id)
            assert count == ("task", "COMPLETED", "Completed", 8 * each, 0)
    with closing(sqlite3.connect(tmp_path / "penstock.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
