"""Transactions: what the store, and storages, keep of them; records and locks."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from penstock import flow, task, transaction
from penstock.cache_policies import INPUTS
from penstock.exceptions import ConfigurationError
from penstock.locking import FileSystemLockManager, MemoryLockManager
from penstock.results import ResultStore
from penstock.store.sqlite import SQLiteStore
from penstock.task_runners import ThreadPoolTaskRunner
from penstock.transactions import IsolationLevel, Transaction, get_transaction
from transacting import LARGE, Kept, Shelf, hooked, outcome

# --- one store transaction, and death ---------------------------------------------------------------------------------


SCRIPT = """
    import os, signal, sys
    from penstock import flow, task, transaction, resume

    @task(persist_result=True)
    def small(x):
        print("small", x, flush=True)
        return x

    @task(persist_result=True)
    def large(x):
        print("large", x, flush=True)
        return "x" * 100_000

    @flow(persist_result=True)
    def f(die):
        before = small(0)
        with transaction():
            small(1)
            large.submit(2).wait()
            if die == "inside":
                os.kill(os.getpid(), signal.SIGKILL)
        if die == "after":
            os.kill(os.getpid(), signal.SIGKILL)
"""


def run_script(tmp_path: Path, *lines: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "script.py").write_text(textwrap.dedent(SCRIPT))
    program = "import sys; sys.path.insert(0, '.'); from script import *; " + "; ".join(lines)
    return subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=50)


@pytest.mark.parametrize("die", ["inside", "after"])
def test_after_a_kill_the_store_has_all_of_it_or_nothing(die: str, tmp_path: Path, own_store: Path) -> None:
    died = run_script(tmp_path, f"f({die!r})")
    assert died.returncode == -signal.SIGKILL, died.stderr
    kept = Kept(own_store)
    assert kept.has("small-0")
    assert kept.has("small-1") is kept.has("large-0") is (die == "after")
    with closing(sqlite3.connect(own_store / "penstock.db")) as connection:
        (run_id,) = connection.execute("select id from runs where kind = 'flow'").fetchone()
    resumed = run_script(tmp_path, f"resume({run_id!r}, parameters={{'die': ''}})")
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout == ("small 1\nlarge 2\n" if die == "inside" else "")
    assert Kept(own_store).has("large-0")


def test_an_unwritable_store_rolls_back_and_raises_nothing(
    own_store: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    log: list[str] = []
    good = hooked(log, "good", 1, persist_result=True)
    write = SQLiteStore.write

    def refuse(self: Any, batch: Any, **options: Any) -> None:
        if batch.results:
            raise sqlite3.OperationalError("disk full")
        write(self, batch, **options)

    @flow
    def f() -> bool:
        with transaction() as txn:
            assert good() == 1
            monkeypatch.setattr(SQLiteStore, "write", refuse)
        return txn.is_rolled_back()

    assert f()
    assert log == ["run good", "rollback good"]
    assert "cannot be committed" in caplog.text and "disk full" in caplog.text
    monkeypatch.undo()
    os.environ["PENSTOCK_HOME"] = str(own_store)
    kept = Kept(own_store)
    assert kept.states("good-0") == ["RolledBack"]
    assert not kept.addresses


def test_a_failing_commit_hook_rolls_back_what_was_stored(own_store: Path, caplog: pytest.LogCaptureFixture) -> None:
    log: list[str] = []
    first = hooked(log, "first", 1, persist_result=True)
    second = hooked(log, "second", LARGE, persist_result=True, result_serializer="json")
    third = hooked(log, "third")

    @second.on_commit
    def explode(txn: Transaction) -> None:
        raise RuntimeError("hook is broken")

    @flow
    def f() -> bool:
        with transaction("key") as txn:
            first(), second(), third()
        return txn.is_rolled_back()

    assert f()
    assert log[3:] == ["commit first", "commit second", "rollback third", "rollback second", "rollback first"]
    kept = Kept(own_store)
    assert kept.states("first-0", "second-0", "third-0") == ["RolledBack"] * 3
    assert not kept.addresses and not kept.files
    assert "explode" in caplog.text and "hook is broken" in caplog.text
    with transaction("key") as txn:
        assert not txn.is_committed()


def test_a_failing_rollback_hook_keeps_nothing_from_being_undone(caplog: pytest.LogCaptureFixture) -> None:
    log: list[str] = []
    first, second = hooked(log, "first"), hooked(log, "second")

    @second.on_rollback
    def explode(txn: Transaction) -> None:
        raise SystemExit(3)

    @flow
    def f() -> None:
        with transaction():
            first(), second()
            raise ValueError

    assert isinstance(outcome(f), ValueError)
    assert log[2:] == ["rollback second", "rollback first"]
    assert "explode" in caplog.text


def test_a_value_that_is_not_in_memory_survives_its_rollback(own_store: Path, caplog: pytest.LogCaptureFixture) -> None:
    @task(persist_result=True, cache_result_in_memory=False, on_commit=[lambda txn: 1 / 0])
    def one() -> int:
        return 1

    @flow
    def f(inside: bool) -> int:
        if not inside:
            return one.submit().result()
        with transaction() as txn:
            future = one.submit()
            assert future.result() == 1
        assert txn.is_rolled_back()
        return future.result()

    assert f(False) == 1
    assert f(True) == 1
    assert not Kept(own_store).addresses
    assert "ZeroDivisionError" in caplog.text


def test_durability_memory_is_committed_without_waiting(own_store: Path) -> None:
    @task(persist_result=True)
    def one() -> int:
        return 1

    @flow(durability="memory")
    def f() -> None:
        with transaction() as txn:
            one()
        assert txn.is_committed()

    f()
    assert Kept(own_store).has("one-0")


# --- custom storages --------------------------------------------------------------------------------------------------


def test_a_custom_storage_is_written_at_commit(own_store: Path) -> None:
    shelf = Shelf()

    @task(result_storage=shelf, result_storage_key="answer", cache_policy=INPUTS)
    def answer() -> int:
        return 42

    @flow
    def f(fails: bool) -> None:
        with transaction():
            assert answer() == 42
            assert not shelf.items
            if fails:
                raise ValueError

    outcome(lambda: f(True))
    assert not shelf.items
    f(False)
    assert list(shelf.items) == ["answer"]
    assert Kept(own_store).runs["answer-0"].result_key == "answer"


def test_a_custom_storage_that_fails_rolls_back_what_others_have_taken(own_store: Path) -> None:
    log: list[str] = []
    shelf, broken = Shelf(), Shelf()
    first = hooked(log, "first", 1, result_storage=shelf, result_storage_key="first")
    second = hooked(log, "second", 2, result_storage=broken, result_storage_key="second")

    @flow
    def f(works: bool) -> bool:
        with transaction() as txn:
            first(), second()
        return txn.is_committed()

    broken.broken = True
    assert not f(False)
    assert log[2:] == ["rollback second", "rollback first"]
    log.clear()
    broken.broken = False
    assert f(True)
    assert log[:2] == ["run first", "run second"]  # neither came from the storage


# --- staged results ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [1, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("storage", [False, True], ids=["store", "storage"])
def test_a_staged_result_answers_inside_and_nowhere_else(value: Any, storage: bool, own_store: Path) -> None:
    calls: list[int] = []
    log: list[str] = []
    options: dict[str, Any] = {"result_storage": Shelf()} if storage else {}

    @task(cache_policy=INPUTS, **options)
    def compute(x: int) -> Any:
        calls.append(x)
        return value

    compute.on_rollback(lambda txn: log.append(txn.get("who", "?")))

    @task
    def below() -> Any:
        with transaction():
            return compute(1)

    @flow
    def f(fails: bool) -> None:
        with transaction() as txn:
            txn.set("who", "me")
            assert compute(1) == compute(1) == value
            assert compute(1, return_state=True).name == "Cached"
            assert below() == value
            assert calls == [1]
            thread = threading.Thread(target=lambda: outside.append(compute(1)))  # in no run, in no transaction
            thread.start()
            thread.join()
            assert calls == [1, 1] and outside == [value]
            if fails:
                raise ValueError

    outside: list[Any] = []
    outcome(lambda: f(True))
    assert log == ["me"] * 4
    compute(1)
    assert calls == [1, 1]  # the one outside was kept at once


def test_a_staged_result_of_one_transaction_is_not_for_another() -> None:
    calls: list[int] = []

    @task(cache_policy=INPUTS)
    def compute(x: int) -> int:
        calls.append(x)
        return x

    @flow
    def f() -> None:
        with pytest.raises(ValueError), transaction():
            compute(1)
            raise ValueError
        with transaction():
            compute(1)
        with transaction():
            compute(1)

    f()
    assert calls == [1, 1]


def test_equal_questions_at_once_do_not_wait_for_the_end_of_a_transaction() -> None:
    calls: list[str] = []
    computing, others_wait = threading.Event(), threading.Event()

    @task(cache_policy=INPUTS)
    def compute(x: int) -> int:
        calls.append(threading.current_thread().name)
        if len(calls) == 1:
            computing.set()
            others_wait.wait(10)
        return x

    answers: list[int] = []

    def other() -> None:
        computing.wait(10)
        threading.Timer(0.05, others_wait.set).start()
        answers.append(compute(1))

    @flow
    def f() -> None:
        thread = threading.Thread(target=other)
        thread.start()
        with transaction():
            compute(1)
            thread.join(10)
            assert answers == [1]  # although the transaction goes on

    f()
    assert len(calls) == 2


def test_a_value_that_cannot_be_kept_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    @task(persist_result=True)
    def odd() -> Any:
        return threading.Lock()

    @flow
    def f() -> bool:
        with transaction() as txn:
            odd()
        return txn.is_committed()

    assert f()
    assert "not kept" in caplog.text


def test_values_do_not_stay_in_memory_until_the_end() -> None:
    import gc
    import weakref

    class Value:
        pass

    alive: list[weakref.ref[Value]] = []

    @task
    def make() -> Value:
        value = Value()
        alive.append(weakref.ref(value))
        return value

    make.on_commit(lambda txn: None)

    @flow
    def f() -> None:
        with transaction():
            for _ in range(3):
                make.submit().wait()
                make()
            gc.collect()
            assert [ref() for ref in alive[:-1]] == [None] * 5

    f()


# --- records ----------------------------------------------------------------------------------------------------------


def stores(tmp_path: Path) -> list[ResultStore | None]:
    return [None, ResultStore(tmp_path / "records")]


@pytest.mark.parametrize("which", [0, 1], ids=["own store", "ResultStore"])
@pytest.mark.parametrize("where", ["in a flow", "in a task", "outside"])
@pytest.mark.parametrize("way", ["with", "async with"])
def test_a_key_makes_a_section_idempotent(which: int, where: str, way: str, tmp_path: Path) -> None:
    store = stores(tmp_path)[which]
    log: list[Any] = []

    def section(fails: bool = False) -> None:
        with transaction(key="load", store=store) as txn:
            log.append((txn.is_committed(), None if (record := txn.read()) is None else record.result))
            txn.stage({"rows": 3})
            if fails:
                raise ValueError

    async def section_in_loop(fails: bool = False) -> None:
        async with transaction(key="load", store=store) as txn:
            log.append((txn.is_committed(), None if (record := txn.read()) is None else record.result))
            txn.stage({"rows": 3})
            if fails:
                raise ValueError

    def run(fails: bool = False) -> None:
        if way == "with":
            body: Callable[..., Any] = section
        else:
            body = section_in_loop
        if where == "in a flow":
            body = flow(body)
        elif where == "in a task":
            body = task(body)
        error = outcome(lambda: asyncio.run(body(fails)) if way == "async with" else body(fails))
        assert isinstance(error, ValueError) is fails

    run(fails=True)
    run()
    run()
    assert log == [(False, None), (False, None), (True, {"rows": 3})]


def test_a_record_without_a_value_and_one_that_is_overwritten() -> None:
    with transaction("k") as txn:
        assert not txn.is_committed()
    with transaction("k") as txn:
        assert txn.is_committed()
        record = txn.read()
        assert record is not None and record.result is None and record.metadata.storage_key == "k"
    with transaction("k", overwrite=True) as txn:
        assert not txn.is_committed()
        txn.stage("new")
    with transaction("k") as txn:
        assert txn.is_committed() and txn.read().result == "new"  # type: ignore[union-attr]
    with transaction("other") as txn:
        assert not txn.is_committed()


def test_write_on_commit_false_leaves_no_record() -> None:
    log: list[str] = []
    with transaction("k", write_on_commit=False) as txn:
        txn.on_commit_hooks.append(lambda txn: log.append("commit"))
    assert txn.is_committed() and log == ["commit"]
    with transaction("k") as txn:
        assert not txn.is_committed()


def test_the_record_of_an_inner_section_waits_for_the_outer_one() -> None:
    def f(fails: bool) -> None:
        with transaction():
            with transaction("inner"):
                pass
            if fails:
                raise ValueError

    outcome(lambda: f(True))
    with transaction("inner", write_on_commit=False) as txn:
        assert not txn.is_committed()
    f(False)
    with transaction("inner") as txn:
        assert txn.is_committed()


def test_a_value_that_cannot_be_written_rolls_back(caplog: pytest.LogCaptureFixture) -> None:
    log: list[str] = []
    good = hooked(log, "good")

    @flow
    def f() -> bool:
        with transaction("k") as txn:
            good()
            txn.stage(threading.Lock())
        return txn.is_rolled_back()

    assert f()
    assert log == ["run good", "rollback good"]
    assert "'k' cannot be committed" in caplog.text


def test_a_failing_commit_hook_takes_a_record_in_a_result_store_back(tmp_path: Path) -> None:
    store = ResultStore(tmp_path / "records")
    with transaction("k", store=store) as txn:
        txn.on_commit_hooks.append(lambda txn: 1 / 0)
    assert txn.is_rolled_back()
    assert not store.exists("k")


def test_runs_in_a_section_that_is_committed_already_are_on_their_own(own_store: Path) -> None:
    log: list[str] = []
    a = hooked(log, "a", 1, persist_result=True)
    with transaction("k"):
        pass

    @flow
    def f() -> None:
        with transaction("k") as txn:
            assert txn.is_committed()
            a()
            assert log == ["run a", "commit a"] and Kept(own_store).has("a-0")
            raise ValueError

    outcome(f)
    assert log == ["run a", "commit a"]


def test_a_damaged_record_counts_as_absent(own_store: Path, caplog: pytest.LogCaptureFixture) -> None:
    with transaction("k"):
        pass
    with closing(sqlite3.connect(own_store / "penstock.db")) as connection:
        connection.execute("update results set sealed = x'00' || sealed")
        connection.commit()
    with transaction("k") as txn:
        assert not txn.is_committed()
    assert "counts as absent" in caplog.text


# --- isolation --------------------------------------------------------------------------------------------------------


def test_serializable_needs_a_lock_manager(tmp_path: Path) -> None:
    for store in stores(tmp_path):
        with pytest.raises(ConfigurationError, match="lock_manager"):
            transaction("k", store, isolation_level=IsolationLevel.SERIALIZABLE).__enter__()
    assert get_transaction() is None


@pytest.mark.parametrize("manager", ["memory", "files"])
@pytest.mark.parametrize("way", ["with", "async with"])
def test_serializable_sections_go_on_one_at_a_time(manager: str, way: str, tmp_path: Path) -> None:
    locks = MemoryLockManager() if manager == "memory" else FileSystemLockManager(tmp_path / "locks")
    store = ResultStore(tmp_path / "records", lock_manager=locks)
    done: list[bool] = []
    guard = threading.Lock()

    def section() -> None:
        with transaction("k", store, isolation_level="SERIALIZABLE") as txn:
            assert guard.acquire(blocking=False)
            done.append(txn.is_committed())
            guard.release()

    async def section_in_loop() -> None:
        async with transaction("k", store, isolation_level="SERIALIZABLE") as txn:
            assert guard.acquire(blocking=False)
            await asyncio.sleep(0)
            done.append(txn.is_committed())
            guard.release()

    if way == "with":
        threads = [threading.Thread(target=section) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    else:

        async def several() -> None:
            await asyncio.gather(*(section_in_loop() for _ in range(4)))

        asyncio.run(several())
    assert sorted(done) == [False, True, True, True]
    assert not locks.is_locked("k")


def test_waiting_for_the_lock_lends_the_slot(tmp_path: Path) -> None:
    store = ResultStore(tmp_path / "records", lock_manager=MemoryLockManager())
    entered = threading.Event()

    @task
    def leaf() -> None: ...

    @task
    def before() -> None: ...

    @task
    def section(first: bool) -> bool:
        if not first:
            entered.wait(10)
        with transaction("k", store, isolation_level="SERIALIZABLE") as txn:
            if first:
                entered.set()
                leaf.submit(wait_for=[before.submit()]).wait()
            return txn.is_committed()

    @flow(task_runner=ThreadPoolTaskRunner(max_workers=2))
    def f() -> list[bool]:
        return section.map([True, False, False]).result()

    assert sorted(f()) == [False, True, True]
