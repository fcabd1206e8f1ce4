"""The recorder: everything touched arrives, once, in order, and a store that fails harms nobody."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Iterator
from time import monotonic

import pytest
from recorder_doubles import Run, Store, wait_until, warnings

from penstock._engine import recorder as recorder_module
from penstock._engine.recorder import Backlog, Recorder
from penstock.exceptions import StoreUnavailable
from penstock.store.base import AttemptRow, Batch, EdgeRow, LogRow, StoreLocked
from penstock.testing.store_suite import batch, child_row, run_row


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def recorder(store: Store) -> Iterator[Recorder]:
    recorder = Recorder(lambda: store, window=0.001)
    yield recorder
    store.error = None
    store.may_write.set()
    recorder.close()


def runs(count: int, **changes: object) -> list[Run]:
    return [Run(run_row(number, **changes)) for number in range(1, count + 1)]


# What arrives.


def test_what_was_touched_is_stored_when_the_barrier_returns(recorder: Recorder, store: Store) -> None:
    for run in runs(3):
        recorder.touch(run)
    recorder.log(LogRow(run_row(1).id, 1.0, 20, "x", "hello"))
    assert recorder.barrier()
    assert store.runs() == [run_row(3), run_row(2), run_row(1)]
    assert store.logs(run_row(1).id) == [LogRow(run_row(1).id, 1.0, 20, "x", "hello")]


def test_it_is_stored_without_a_barrier_too(recorder: Recorder, store: Store) -> None:
    recorder.touch(Run(run_row(1)))
    wait_until(lambda: store.runs() == [run_row(1)])


def test_a_short_run_is_one_row(store: Store) -> None:
    recorder = Recorder(lambda: store, window=60)
    run = Run(run_row(1))
    recorder.touch(run)
    run.end()
    recorder.touch(run)
    assert recorder.barrier()
    recorder.close()
    assert [written.runs for written in store.batches] == [[run.row]]
    assert run.snapshots == 1


def test_a_barrier_does_not_wait_for_work_to_gather(store: Store) -> None:
    recorder = Recorder(lambda: store, window=60)
    for number in range(1, 6):
        recorder.touch(Run(run_row(number)))
        assert recorder.barrier(patience=5)
        wait_until(lambda: recorder._asleep)
    recorder.close()
    assert len(store.batches) == 5


def test_what_is_touched_while_the_writer_falls_asleep_wakes_it(recorder: Recorder) -> None:
    recorder._queue.append([Run(run_row(1))])  # touched before `_asleep` was set: without ringing
    recorder._sleep()
    assert not recorder._asleep


def test_a_run_that_changes_again_is_written_again(recorder: Recorder, store: Store) -> None:
    run = Run(run_row(1))
    recorder.touch(run)
    assert recorder.barrier()
    assert run.ticket is None
    run.end()
    recorder.touch(run)
    assert recorder.barrier()
    assert store.get(run.row.id) == run.row
    assert len(store.batches) == 2


def test_a_change_during_the_snapshot_is_not_lost(recorder: Recorder, store: Store) -> None:
    class Hasty(Run):
        def rows(self, batch: Batch) -> None:
            super().rows(batch)
            if self.snapshots == 1:  # another thread, just now
                self.end()
                recorder.touch(self)

    run = Hasty(run_row(1))
    recorder.touch(run)
    assert recorder.barrier()
    assert recorder.barrier()
    assert store.get(run.row.id) == run.row


def test_attempts_and_edges_travel_with_their_run(recorder: Recorder, store: Store) -> None:
    class Retried(Run):
        def rows(self, batch: Batch) -> None:
            super().rows(batch)
            batch.attempts.append(AttemptRow(self.row.id, 1, 1.0, 2.0, "Failed"))
            batch.edges.append(EdgeRow(self.row.id, "b" * 32, "data", "x"))

    run = Retried(run_row(1, attempts=2))
    recorder.touch(run)
    assert recorder.barrier()
    assert [attempt.number for attempt in store.attempts(run.row.id)] == [1, 2]
    assert store.edges(run.row.id) == [EdgeRow(run.row.id, "b" * 32, "data", "x")]


def test_a_run_that_cannot_be_described_does_not_stop_the_others(
    recorder: Recorder, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Run):
        def rows(self, batch: Batch) -> None:
            raise RuntimeError("no row today")

    recorder.touch(Broken(run_row(1)))
    recorder.touch(Run(run_row(2)))
    assert recorder.barrier()
    assert store.runs() == [run_row(2)]
    assert "A run could not be recorded" in caplog.text and "no row today" in caplog.text


def test_many_threads_lose_nothing(recorder: Recorder, store: Store) -> None:
    def work(first: int) -> None:
        for number in range(first, first + 500):
            run = Run(run_row(number))
            recorder.touch(run)
            run.end()
            recorder.touch(run)

    threads = [threading.Thread(target=work, args=(1000 * n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert recorder.barrier()
    found = store.runs(limit=10_000)
    assert len(found) == 4000
    assert {row.status for row in found} == {"COMPLETED"}


def test_a_large_queue_is_written_in_chunks(recorder: Recorder, store: Store, monkeypatch) -> None:
    monkeypatch.setattr(recorder_module, "CHUNK", 10)
    store.may_write.clear()
    for run in runs(35):
        recorder.touch(run)
    store.may_write.set()
    assert recorder.barrier()
    assert len(store.runs()) == 35
    assert max(written.size for written in store.batches) <= 10


def test_many_barriers_share_a_transaction(recorder: Recorder, store: Store) -> None:
    store.may_write.clear()
    recorder.touch(Run(run_row(100)))
    wait_until(lambda: store.offers == 1)

    def work(number: int) -> None:
        recorder.touch(Run(run_row(number)))
        assert recorder.barrier(patience=10)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(20)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(recorder._queue) == 40)
    store.may_write.set()
    for thread in threads:
        thread.join()
    assert [len(written.runs) for written in store.batches] == [1, 20]


def test_an_idle_recorder_does_nothing(recorder: Recorder, store: Store) -> None:
    assert recorder.barrier()
    assert recorder._thread is None and store.offers == 0
    recorder.touch(Run(run_row(1)))
    assert recorder.barrier()
    assert recorder._thread is not None
    wait_until(lambda: recorder._asleep)  # for the bell, without a timeout
    assert store.offers == 1


def test_a_closed_recorder_starts_again(recorder: Recorder, store: Store) -> None:
    recorder.touch(Run(run_row(1)))
    recorder.close()
    assert store.closed and store.runs() == [run_row(1)]
    recorder.touch(Run(run_row(2)))
    assert recorder.barrier()
    assert store.runs() == [run_row(2), run_row(1)]


def test_closing_without_a_thread_writes_too(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_thread(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    recorder = Recorder(lambda: store)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        recorder.touch(Run(run_row(1)))
        assert not recorder.barrier(patience=0.01)
    recorder.close()
    assert store.runs() == [run_row(1)]


# Runs that wait to start.


def test_a_run_that_waits_is_written_when_somebody_waits_for_it(recorder: Recorder, store: Store) -> None:
    run = Run(run_row(1))
    run.unstarted = True
    recorder.touch(run)
    assert recorder.barrier()
    assert store.runs() == [run_row(1)]


def test_a_run_that_has_ended_is_not_kept_alive_by_the_queue(store: Store) -> None:
    recorder = Recorder(lambda: store, window=60)
    try:
        queued, unqueued = Run(run_row(1)), Run(run_row(2))
        recorder.touch(queued)
        gone = [weakref.ref(run) for run in (queued, unqueued)]
        recorder.finish(queued, Run(run_row(1, status="COMPLETED", ended=9.0)))
        recorder.finish(unqueued, Run(run_row(2, status="COMPLETED", ended=9.0)))
        del queued, unqueued
        assert [ref() for ref in gone] == [None, None]
        assert recorder.barrier()
        assert sorted(row.status for row in store.runs()) == ["COMPLETED", "COMPLETED"]
    finally:
        recorder.close()


def test_a_run_that_waits_long_is_written_too(recorder: Recorder, store: Store) -> None:
    run = Run(run_row(1))
    run.unstarted = True
    recorder.touch(run)
    wait_until(lambda: store.runs() == [run_row(1)])
    assert run.ticket is None


def test_a_run_that_starts_soon_is_written_once(store: Store) -> None:
    recorder = Recorder(lambda: store, window=0)
    store.may_write.clear()
    recorder.touch(Run(run_row(9)))
    wait_until(lambda: store.offers == 1)
    run = Run(run_row(1))
    run.unstarted = True
    recorder.touch(run)
    run.unstarted = False
    run.end()
    recorder.touch(run)
    store.may_write.set()
    assert recorder.barrier()
    recorder.close()
    assert run.snapshots == 1
    assert store.get(run.row.id) == run.row


# A store that fails.


def test_a_failing_store_is_reported_once_and_caught_up_with(
    recorder: Recorder, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "penstock.store")
    store.error = StoreUnavailable("/x/penstock.db: disk is full")
    for run in runs(3):
        recorder.touch(run)
        assert not recorder.barrier()
    assert warnings(caplog) == [
        "Cannot record runs: /x/penstock.db: disk is full. Work goes on; up to 100,000 records are kept in"
        " memory and written when that is possible again"
    ]
    store.error = None
    assert recorder.barrier()
    assert len(store.runs()) == 3
    assert caplog.messages[-1] == "Runs are recorded again"
    assert len(warnings(caplog)) == 1


def test_the_writer_survives_any_error_of_the_store(recorder: Recorder, store: Store) -> None:
    store.error = ZeroDivisionError("a bug")
    recorder.touch(Run(run_row(1)))
    assert not recorder.barrier()
    store.error = None
    assert recorder.barrier()
    assert store.runs() == [run_row(1)]


def test_a_failing_store_is_tried_again_without_being_asked(
    recorder: Recorder, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "RETRY", 0.001)
    store.error = StoreUnavailable("gone")
    recorder.touch(Run(run_row(1)))
    assert not recorder.barrier()
    store.error = None
    wait_until(lambda: store.runs() == [run_row(1)])


def test_a_store_that_cannot_be_opened(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    there = threading.Event()

    def open_store() -> Store:
        if not there.is_set():
            raise StoreUnavailable("no such place")
        return store

    recorder = Recorder(open_store, window=0.001)
    recorder.touch(Run(run_row(1)))
    stored_at_first = recorder.barrier()
    there.set()
    recorder.close()
    assert not stored_at_first
    assert "Cannot record runs: no such place." in warnings(caplog)[0]
    assert store.runs() == [run_row(1)]


def test_a_barrier_gives_up_on_a_store_that_takes_nothing(recorder: Recorder, store: Store) -> None:
    store.may_write.clear()
    recorder.touch(Run(run_row(1)))
    start = monotonic()
    assert not recorder.barrier(patience=0.02)
    assert monotonic() - start < 1
    store.may_write.set()
    assert recorder.barrier()


def test_a_barrier_waits_for_a_store_that_is_only_slow(
    recorder: Recorder, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "CHUNK", 1)
    write = store.write

    def write_slowly(batch: Batch, *, patience: float = 1.0, power: bool = False) -> None:
        threading.Event().wait(0.02)
        write(batch)

    monkeypatch.setattr(store, "write", write_slowly)
    for run in runs(10):
        recorder.touch(run)
    assert recorder.barrier(patience=0.1)  # half of what all of it takes
    assert len(store.runs()) == 10


def test_touching_never_waits_for_the_store(recorder: Recorder, store: Store) -> None:
    store.may_write.clear()
    start = monotonic()
    for run in runs(1000):
        recorder.touch(run)
        recorder.log(LogRow(run.row.id, 1.0, 20, "x", "y"))
    assert monotonic() - start < 1
    store.may_write.set()


def test_beyond_the_bound_finished_runs_are_dropped_and_counted(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    recorder = Recorder(lambda: store, window=0.001, backlog=10)
    store.error = StoreUnavailable("gone")
    flow = Run(run_row(0, kind="flow"))
    recorder.touch(flow)
    for number in range(1, 30):
        recorder.touch(Run(child_row(number, flow.row, ended=9.0)))
    assert not recorder.barrier()
    store.error = None
    assert recorder.barrier()
    recorder.close()
    kept = [row.id for row in store.tree(flow.row.id)]
    assert kept == [run_row(number).id for number in range(21, 30)]
    assert store.get(flow.row.id) == flow.row
    assert warnings(caplog)[1:] == ["20 records were lost while runs could not be recorded"]


def test_a_locked_store_gets_time_at_the_end(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    recorder = Recorder(lambda: store, window=0.001)
    store.error = StoreLocked("locked")
    recorder.touch(Run(run_row(1)))
    assert not recorder.barrier()
    timer = threading.Timer(0.1, lambda: setattr(store, "error", None))
    timer.start()
    recorder.close(timeout=5)
    timer.join()
    assert store.runs() == [run_row(1)]
    assert len(warnings(caplog)) == 1


@pytest.mark.parametrize(("error", "again"), [(StoreUnavailable("full"), False), (StoreLocked("locked"), True)])
def test_what_cannot_be_stored_in_the_end_is_reported(
    store: Store, caplog: pytest.LogCaptureFixture, error: Exception, again: bool
) -> None:
    recorder = Recorder(lambda: store, window=0.001)
    store.error = error
    recorder.touch(Run(run_row(1)))
    recorder.log(LogRow(run_row(1).id, 1.0, 20, "x", "y"))
    assert not recorder.barrier()
    before = store.offers
    recorder.close(timeout=0.3)
    assert store.closed
    assert (store.offers - before > 2) == again  # one attempt may be repeated at once, in case the store just vanished
    assert warnings(caplog)[1:] == ["2 records were lost while runs could not be recorded"]


# A store that begins afresh.


def test_live_runs_are_written_again_to_a_fresh_store(recorder: Recorder, store: Store) -> None:
    flow, done = Run(run_row(1, kind="flow")), Run(run_row(2, ended=3.0))
    recorder.touch(flow)
    recorder.touch(done)
    assert recorder.barrier()
    store.begin_afresh()
    recorder.touch(Run(child_row(3, flow.row)))
    assert recorder.barrier()
    assert store.get(flow.row.id) == flow.row
    assert store.get(done.row.id) is None


def test_a_fresh_store_never_gets_an_older_version_last(recorder: Recorder, store: Store) -> None:
    flow = Run(run_row(1, kind="flow"))
    recorder.touch(flow)
    assert recorder.barrier()
    store.begin_afresh()
    flow.end()
    recorder.touch(flow)
    assert recorder.barrier()
    assert store.get(flow.row.id) == flow.row


def test_a_fresh_store_gets_the_version_that_is_waiting(
    recorder: Recorder, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder_module, "CHUNK", 1)
    flow = Run(run_row(1, kind="flow"))
    recorder.touch(flow)
    assert recorder.barrier()
    store.error = StoreUnavailable("gone")
    recorder.touch(Run(run_row(2)))
    flow.end()
    recorder.touch(flow)
    assert not recorder.barrier()
    store.begin_afresh()
    assert recorder.barrier()
    assert store.get(flow.row.id) == flow.row


# The backlog.


def test_the_backlog_keeps_the_latest_version_and_the_order() -> None:
    backlog = Backlog()
    backlog.add(batch(run_row(1), run_row(2), LogRow("a", 1.0, 20, "x", "1")))
    backlog.add(batch(run_row(1, status="FAILED"), LogRow("a", 2.0, 20, "x", "2")))
    first = backlog.first(1)
    assert first == batch(run_row(1, status="FAILED"), LogRow("a", 1.0, 20, "x", "1"))
    backlog.forget(first)
    assert backlog.first(10) == batch(run_row(2), LogRow("a", 2.0, 20, "x", "2"))
    assert backlog.size == 2


def test_a_full_backlog_drops_finished_runs_with_all_that_is_theirs() -> None:
    backlog = Backlog()
    done, live = run_row(1, ended=2.0), run_row(2)
    of_each = [
        row
        for run in (done, live)
        for row in (
            run,
            AttemptRow(run.id, 1, 1.0, 2.0, "Failed"),
            EdgeRow(run.id, "b" * 32, "data"),
            LogRow(run.id, 1.0, 20, "x", "y"),
        )
    ]
    backlog.add(batch(*of_each))
    backlog.trim(8)
    assert (backlog.size, backlog.dropped) == (8, 0)
    backlog.trim(7)
    assert backlog.first(10) == batch(*of_each[4:])
    assert backlog.dropped == 4


def test_a_backlog_of_live_runs_drops_log_lines() -> None:
    backlog = Backlog()
    lines = [LogRow("a", float(n), 20, "x", "y") for n in range(10)]
    backlog.add(batch(run_row(1), *lines))
    backlog.trim(4)
    assert backlog.first(10) == batch(run_row(1), *lines[-3:])
    assert backlog.dropped == 7
