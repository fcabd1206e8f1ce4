"""`Recorder.commit`: what was handed in before is stored when it returns, and nobody waits for more than that."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from recorder_doubles import Run, Store, wait_until

from penstock._engine.record import Foreign
from penstock._engine.recorder import Recorder
from penstock.exceptions import StoreUnavailable
from penstock.store.base import Batch, OwnerDeclaredDead, ResultRow
from penstock.testing.store_suite import run_row


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def recorder(store: Store) -> Iterator[Recorder]:
    recorder = Recorder(lambda: store, window=60)  # the writer thread would come too late
    yield recorder
    store.error = None
    store.may_write.set()
    recorder.close()


def test_the_calling_thread_writes(recorder: Recorder, store: Store) -> None:
    recorder.touch(Run(run_row(1)))
    assert recorder.commit()
    assert store.runs() == [run_row(1)]
    assert store.writers == [threading.get_ident()]


def test_everything_that_was_handed_in_before_is_there(recorder: Recorder, store: Store) -> None:
    for number in range(1, 6):
        recorder.touch(Run(run_row(number)))
    assert recorder.commit()
    assert len(store.runs()) == 5
    assert len(store.batches) == 1


def test_runs_that_only_wait_may_be_late(recorder: Recorder, store: Store) -> None:
    waiting = Run(run_row(1))
    waiting.unstarted = True
    recorder.touch(waiting)
    recorder.touch(Run(run_row(2)))
    assert recorder.commit()
    assert [row.id for row in store.runs()] == [run_row(2).id]


def test_threads_that_commit_at_the_same_time_share_a_transaction(recorder: Recorder, store: Store) -> None:
    store.may_write.clear()
    first = threading.Thread(target=lambda: recorder.touch(Run(run_row(1))) or recorder.commit())
    first.start()
    wait_until(lambda: store.offers == 1)  # it is in the middle of writing
    answers = []

    def commit(number: int) -> None:
        recorder.touch(Run(run_row(number)))
        answers.append(recorder.commit())

    others = [threading.Thread(target=commit, args=(number,)) for number in range(2, 10)]
    for thread in others:
        thread.start()
    wait_until(lambda: len(recorder._queue) == 16)  # a run and a place in the queue of each
    store.may_write.set()
    for thread in (first, *others):
        thread.join(10)
    assert answers == [True] * 8
    assert [len(batch.runs) for batch in store.batches] == [1, 8]


def test_nobody_is_told_before_it_is_stored(recorder: Recorder, store: Store) -> None:
    store.may_write.clear()
    told = threading.Event()
    thread = threading.Thread(target=lambda: (recorder.touch(Run(run_row(1))), recorder.commit(), told.set()))
    thread.start()
    wait_until(lambda: store.offers == 1)
    assert not told.wait(0.05)
    assert store.runs() == []
    store.may_write.set()
    thread.join(10)
    assert told.is_set()
    assert store.runs() == [run_row(1)]


def test_a_store_that_fails_is_told_and_not_waited_for_again(recorder: Recorder, store: Store) -> None:
    store.error = StoreUnavailable("full")
    recorder.touch(Run(run_row(1)))
    assert not recorder.commit()
    offers = store.offers
    recorder.touch(Run(run_row(2)))
    assert not recorder.commit()
    assert store.offers == offers
    store.error = None
    assert recorder.barrier()
    assert len(store.runs()) == 2


def test_power_is_for_the_batch_that_asks_for_it(recorder: Recorder, store: Store) -> None:
    for number, power in ((1, False), (2, True), (3, False)):
        run = Run(run_row(number))
        run.power = power
        recorder.touch(run)
        assert recorder.commit()
    assert store.powers == [False, True, False]


def test_power_is_not_used_up_by_what_was_left_over(recorder: Recorder, store: Store) -> None:
    store.error = StoreUnavailable("full")
    recorder.touch(Run(run_row(1)))
    assert not recorder.commit()
    store.error = None
    run = Run(run_row(2))
    run.power = True
    recorder.touch(run)
    assert recorder.barrier()
    assert [len(batch.runs) for batch in store.batches] == [1, 1]
    assert store.powers[-1]


def test_heavy_values_are_written_in_several_transactions(recorder: Recorder, store: Store) -> None:
    for number in range(1, 31):
        batch = Batch.empty()
        batch.results.append(ResultRow(f"{number:032x}", None, "k", 1.0, None, 1_000_000, None, b"x"))
        recorder.add(Foreign(batch))
    assert recorder.commit()
    assert [len(batch.results) for batch in store.batches] == [9, 9, 9, 3]


def test_what_a_process_that_counts_as_dead_has_to_say_is_dropped(recorder: Recorder, store: Store) -> None:
    store.error = OwnerDeclaredDead("gone")
    recorder.touch(Run(run_row(1)))
    assert not recorder.commit()
    assert recorder._backlog.size == 0


def test_with_nothing_to_write_nothing_is_written(recorder: Recorder, store: Store) -> None:
    assert recorder.commit()
    assert store.batches == []
