"""Transactions: hooks, values, and who is in which one."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from penstock import flow, get_run_logger, runtime, tags, task, transaction
from penstock.cache_policies import INPUTS
from penstock.context import with_context
from penstock.task_runners import ProcessPoolTaskRunner, ThreadPoolTaskRunner
from penstock.transactions import CommitMode, IsolationLevel, Transaction, get_transaction
from transacting import LARGE, RUNNERS, Kept, Shelf, every_runner, fail, hooked, outcome

# --- hooks ------------------------------------------------------------------------------------------------------------


def test_a_task_outside_any_transaction_is_one_of_its_own(own_store: Path) -> None:
    log: list[str] = []

    def note(name: str) -> Any:
        return lambda *_: log.append(f"{name} {Kept(own_store).has('one')}")

    @task(persist_result=True, on_commit=[note("commit")], on_completion=[note("completion")])
    def one() -> int:
        return 1

    assert one() == 1
    assert log == ["commit True", "completion True"]


def test_a_failing_commit_hook_undoes_a_task_of_its_own(own_store: Path, caplog: pytest.LogCaptureFixture) -> None:
    log: list[str] = []
    shelf = Shelf()
    one = hooked(log, "one", LARGE, persist_result=True)
    two = hooked(log, "two", 2, result_storage=shelf, result_storage_key="two")
    for each in (one, two):
        each.on_commit(lambda txn: 1 / 0)
    assert one() == LARGE and two() == 2
    assert log == ["run one", "commit one", "rollback one", "run two", "commit two", "rollback two"]
    kept = Kept(own_store)
    assert kept.states("one", "two") == ["RolledBack", "RolledBack"]
    assert not kept.addresses and not kept.files
    log.clear()
    two()
    assert log[0] == "run two"  # not from the storage
    assert "ZeroDivisionError" in caplog.text


def test_a_task_that_fails_outside_calls_no_hooks() -> None:
    log: list[str] = []
    bad = fail.with_options(
        on_commit=[lambda txn: log.append("commit")], on_rollback=[lambda txn: log.append("rollback")]
    )
    outcome(bad)
    assert log == []


def test_hooks_added_by_hand_are_called_although_the_task_fails() -> None:
    log: list[str] = []

    @task
    def bad() -> None:
        txn = get_transaction()
        assert txn is not None
        txn.on_rollback_hooks.append(lambda txn: log.append(txn.get("half")))
        txn.set("half", "done")
        raise ValueError

    outcome(bad)
    assert log == ["done"]
    log.clear()

    @flow
    def f() -> None:
        with transaction():
            bad()

    outcome(f)
    assert log == ["done"]


def test_hooks_of_the_block_are_called_newest_first_on_rollback() -> None:
    log: list[str] = []

    def f(fails: bool) -> None:
        with transaction() as txn:
            txn.on_rollback_hooks.append(lambda txn: log.append("rollback 1"))
            txn.stage(
                None,
                on_rollback_hooks=[lambda txn: log.append("rollback 2")],
                on_commit_hooks=[lambda txn: log.append("commit")],
            )
            assert txn.is_staged()
            if fails:
                raise ValueError

    f(False)
    outcome(lambda: f(True))
    assert log == ["commit", "rollback 2", "rollback 1"]


@every_runner
def test_hooks_are_called_in_the_process_of_the_flow_and_inside_the_run(
    runner: str, caplog: pytest.LogCaptureFixture, own_store: Path
) -> None:
    log: list[Any] = []

    @task(name="good")
    def good() -> int:
        return os.getpid()

    @good.on_commit
    @good.on_rollback
    def hook(txn: Transaction) -> None:
        get_run_logger().warning("from the hook")
        log.append((os.getpid(), runtime.task_run.name, txn is get_transaction()))

    @flow(task_runner=RUNNERS[runner]())
    def f(fails: bool) -> None:
        with transaction():
            assert (good.submit().result() == os.getpid()) is (runner != "processes")
            if fails:
                raise ValueError

    f(False)
    outcome(lambda: f(True))
    assert log == [(os.getpid(), "good-0", True)] * 2
    with closing(sqlite3.connect(own_store / "penstock.db")) as connection:
        lines = connection.execute(
            "select run_name from logs join runs on runs.id = logs.run_id where logs.message = 'from the hook'"
        ).fetchall()
    assert lines == [("good-0",)] * 2


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("way", ["with", "async with"])
def test_asynchronous_hooks(way: str, fails: bool) -> None:
    log: list[str] = []

    @task
    async def good() -> None:
        await asyncio.sleep(0)

    @good.on_commit
    async def committed(txn: Transaction) -> None:
        await asyncio.sleep(0)
        log.append("commit")

    @good.on_rollback
    async def undone(txn: Transaction) -> None:
        await asyncio.sleep(0)
        log.append("rollback")

    @flow
    async def f() -> None:
        if way == "with":
            with transaction():
                await good()
                if fails:
                    raise ValueError
        else:
            async with transaction():
                good.submit()
                await good()
                if fails:
                    raise ValueError

    outcome(lambda: asyncio.run(f()))
    times = 1 if way == "with" else 2
    assert log == (["rollback"] if fails else ["commit"]) * times


@every_runner
def test_hooks_may_call_and_submit_tasks(runner: str, own_store: Path) -> None:
    log: list[str] = []

    @task
    def clean(name: str) -> str:
        return name

    @task(name="good")
    def good() -> None: ...

    @good.on_commit
    @good.on_rollback
    def hook(txn: Transaction) -> None:
        future = clean.submit("submitted")
        log.append(clean("called"))
        log.append(future.result())
        clean.submit("not waited for")

    @flow(task_runner=RUNNERS[runner]())
    def f(fails: bool) -> None:
        with transaction():
            good.submit().wait()
            if fails:
                raise ValueError

    f(False)
    outcome(lambda: f(True))
    assert log == ["called", "submitted"] * 2
    kept = Kept(own_store)
    assert {row.state for name, row in kept.runs.items() if name.startswith("clean")} == {"Completed"}


def test_hooks_of_a_task_outside_any_flow_may_call_tasks(own_store: Path) -> None:
    log: list[str] = []
    clean = hooked(log, "clean")

    @task
    def good() -> None: ...

    @good.on_commit
    @good.on_rollback
    def hook(txn: Transaction) -> None:
        clean()
        clean.submit().wait()

    good()
    assert log == ["run clean", "commit clean"] * 2
    log.clear()
    with pytest.raises(ValueError), transaction():
        good()
        assert log == []
        raise ValueError
    assert log == ["run clean", "commit clean"] * 2
    assert Kept(own_store).states("good") == ["RolledBack"]


def test_hooks_given_as_options_and_cleared() -> None:
    log: list[str] = []
    one = task(on_commit=[lambda txn: log.append("commit")], on_rollback=[lambda txn: None])(lambda: 1)
    one.with_options(on_commit=None)()
    assert log == []
    one.with_options(name="two")()
    assert log == ["commit"]
    with pytest.raises(TypeError, match="Expected iterable for 'on_commit'; got function instead"):
        task(on_commit=lambda txn: None)(lambda: 1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="Expected callables in 'on_rollback'"):
        task(on_rollback=[1])(lambda: 1)  # type: ignore[list-item]


# --- values -----------------------------------------------------------------------------------------------------------


def test_values_are_copies_and_children_see_those_of_parents() -> None:
    with transaction() as outer:
        items = [1, [2]]
        outer.set("items", items)
        copied = outer.get("items")
        assert copied == items and copied is not items and copied[1] is not items[1]
        outer.set("nothing", None)
        with transaction() as inner:
            assert inner.get("items") == items and inner.get_parent() is outer
            inner.set("items", "mine")
            inner.set("own", 1)
            assert inner.get("items") == "mine"
            assert inner.get("nothing", "default") is None
        assert outer.get("items") == items
        assert outer.get("own", "default") == "default"
        with pytest.raises(ValueError, match="'own'"):
            outer.get("own")


@pytest.mark.parametrize("runner", ["sequential", "threads"])
def test_hooks_see_values_of_the_task_and_of_the_block(runner: str) -> None:
    log: list[Any] = []

    @task
    def good(x: int) -> None:
        txn = get_transaction()
        assert txn is not None
        txn.set("x", x)
        assert txn.get("before") == "b"

    @good.on_rollback
    def undo(txn: Transaction) -> None:
        log.append((txn.get("x"), txn.get("before"), txn.get("after")))

    @flow(task_runner=RUNNERS[runner]())
    def f() -> None:
        with transaction() as txn:
            txn.set("before", "b")
            good.submit(1).wait()
            good(2)
            assert txn.get("x", None) is None
            txn.set("after", "a")
            raise ValueError

    outcome(f)
    assert log == [(2, "b", "a"), (1, "b", "a")]


@every_runner
def test_a_task_has_a_transaction_also_outside_any(runner: str) -> None:
    log: list[Any] = []

    @task
    def good() -> Any:
        txn = get_transaction()
        assert txn is not None and txn is get_transaction()
        txn.set("x", 1)
        return txn.get("x")

    good.on_commit(lambda txn: log.append(txn.get("x", "in another process")))

    @flow(task_runner=RUNNERS[runner]())
    def f() -> Any:
        assert get_transaction() is None
        return good.submit().result()

    assert f() == 1
    assert log == (["in another process"] if runner == "processes" else [1])


def test_get_transaction_is_the_innermost_one() -> None:
    assert get_transaction() is None
    with transaction() as outer:
        assert get_transaction() is outer
        with transaction() as inner:
            assert get_transaction() is inner
        assert get_transaction() is outer
    assert get_transaction() is None
    with pytest.raises(ValueError), transaction():
        raise ValueError
    assert get_transaction() is None


# --- contexts ---------------------------------------------------------------------------------------------------------


def test_transactions_of_threads_do_not_mix() -> None:
    log: list[str] = []
    both = threading.Barrier(2, timeout=10)

    def work(name: str, fails: bool) -> None:
        one = hooked(log, name)
        with transaction() as txn:
            both.wait()
            assert get_transaction() is txn
            one()
            both.wait()
            if fails:
                raise ValueError

    threads = [
        threading.Thread(target=lambda: outcome(lambda: work("good", False))),
        threading.Thread(target=lambda: outcome(lambda: work("bad", True))),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(log) == ["commit good", "rollback bad", "run bad", "run good"]


def test_transactions_of_coroutines_do_not_mix() -> None:
    log: list[str] = []

    @flow
    async def f() -> list[Any]:
        entered = [asyncio.Event(), asyncio.Event()]

        async def work(number: int, fails: bool) -> None:
            one = hooked(log, str(number))
            async with transaction() as txn:
                entered[number].set()
                await asyncio.gather(*(event.wait() for event in entered))
                one.submit()
                assert get_transaction() is txn
                if fails:
                    raise ValueError

        return await asyncio.gather(work(0, False), work(1, True), return_exceptions=True)

    results = asyncio.run(f())
    assert results[0] is None and isinstance(results[1], ValueError)
    assert sorted(log) == ["commit 0", "rollback 1", "run 0", "run 1"]


def test_async_with_waits_for_coroutines_that_others_await() -> None:
    log: list[str] = []

    @task
    async def slow() -> None:
        await asyncio.sleep(0.05)
        log.append("ran")

    slow.on_commit(lambda txn: log.append("commit"))

    @flow
    async def f() -> None:
        async with transaction():
            going_on = asyncio.create_task(slow())
            await asyncio.sleep(0)
        log.append("left")
        await going_on

    asyncio.run(f())
    assert log == ["ran", "commit", "left"]


def test_a_cancelled_block_is_rolled_back() -> None:
    log: list[str] = []
    good = hooked(log, "good")

    @flow
    async def f() -> None:
        async def work() -> None:
            async with transaction():
                good()
                await asyncio.sleep(10)

        going_on = asyncio.create_task(work())
        await asyncio.sleep(0.01)
        going_on.cancel()
        with pytest.raises(asyncio.CancelledError):
            await going_on

    asyncio.run(f())
    assert log == ["run good", "rollback good"]


def test_gathered_calls_belong_to_it(own_store: Path) -> None:
    log: list[str] = []

    @task(persist_result=True)
    async def double(x: int) -> int:
        await asyncio.sleep(0)
        return 2 * x

    double.on_commit(lambda txn: log.append("commit"))

    @flow
    async def f() -> list[int]:
        async with transaction():
            values = await asyncio.gather(*(double(x) for x in range(3)))
            assert log == [] and not Kept(own_store).addresses
        return values

    assert asyncio.run(f()) == [0, 2, 4]
    assert log == ["commit"] * 3
    assert len(Kept(own_store).addresses) == 3


def test_with_in_a_coroutine_says_what_to_write_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock._engine.waiting._warned", False)
    log: list[str] = []
    slow = hooked(log, "slow")
    gate = threading.Event()

    @task
    def wait() -> None:
        gate.wait(10)

    @flow
    async def f() -> None:
        with transaction():
            slow.submit(wait_for=[wait.submit()])
            threading.Timer(0.05, gate.set).start()

    with pytest.warns(RuntimeWarning, match="async with transaction"):
        asyncio.run(f())
    assert log == ["run slow", "commit slow"]


def test_with_on_the_background_loop_is_refused_where_it_would_block() -> None:
    log: list[str] = []
    good = hooked(log, "good")
    gate = threading.Event()

    @task
    def wait() -> None:
        gate.wait(10)

    @task
    async def blocks() -> None:
        try:
            with transaction():
                good()
                wait.submit()
        finally:
            gate.set()

    @task
    async def does_not() -> None:
        async with transaction():
            good()
            wait.submit()

    @flow
    def f() -> BaseException | None:
        error = blocks.submit().exception()
        does_not.submit().result()
        return error

    error = f()
    assert isinstance(error, RuntimeError) and "async with transaction()" in str(error)
    assert log == ["run good", "rollback good", "run good", "commit good"]


def test_a_call_that_is_never_awaited_is_not_waited_for() -> None:
    @task
    async def never() -> None: ...

    @flow
    async def f() -> bool:
        async with transaction() as txn:
            never().close()
        return txn.is_committed()

    assert asyncio.run(f())


def test_outside_any_run(own_store: Path) -> None:
    log: list[str] = []
    a = hooked(log, "a", 1, persist_result=True)

    @flow
    def f() -> None:
        a.submit()

    with transaction() as txn:
        a()
        f()
        assert log == ["run a", "run a"] and not Kept(own_store).addresses
    assert txn.is_committed()
    assert log[2:] == ["commit a", "commit a"]
    assert len(Kept(own_store).addresses) == 2
    with pytest.raises(ValueError), transaction():
        a()
        raise ValueError
    assert log[4:] == ["run a", "rollback a"]
    assert Kept(own_store).states("a") == ["RolledBack"]  # by the end of the block


def test_inside_a_task_in_another_process(own_store: Path) -> None:
    @task(persist_result=True)
    def inner(x: int) -> int:
        return x

    @task
    def outer(fails: bool) -> str:
        from penstock import transaction
        from penstock.transactions import Transaction

        with transaction() as txn:
            inner(1)
            inner.submit(2)
            if fails:
                raise ValueError("in the worker")
        assert isinstance(txn, Transaction) and txn.is_committed()
        return "committed"

    @flow(task_runner=ProcessPoolTaskRunner(max_workers=1), on_unobserved_failure="warn")
    def f(fails: bool) -> Any:
        return outer.submit(fails).result(raise_on_failure=False)

    assert f(False) == "committed"
    kept = Kept(own_store)
    names = [name for name in kept.runs if name.startswith("inner")]
    assert len(names) == 2 and all(kept.has(name) for name in names)
    before = kept.addresses
    assert isinstance(f(True), ValueError)
    kept = Kept(own_store)
    assert kept.addresses == before
    with closing(sqlite3.connect(own_store / "penstock.db")) as connection:
        states = connection.execute("select state_name from runs where name = 'inner' order by state_name").fetchall()
    assert states == [("Completed",), ("Completed",), ("RolledBack",), ("RolledBack",)]


def test_threads_of_the_user_belong_with_context() -> None:
    log: list[str] = []
    good = hooked(log, "good")

    @flow
    def f() -> None:
        with transaction():
            thread = threading.Thread(target=with_context(good))
            thread.start()
            thread.join()
            raise ValueError

    outcome(f)
    assert log == ["run good", "rollback good"]


def test_a_consumer_of_a_generator_is_not_in_the_transaction_of_its_body() -> None:
    log: list[str] = []
    inner, mine = hooked(log, "inner"), hooked(log, "mine")

    @task
    def produce() -> Iterator[int]:
        with transaction():
            yield 1
            inner()
            yield 2
            raise ValueError

    @flow
    def f() -> None:
        steps = produce()
        next(steps)
        mine()
        next(steps)
        outcome(lambda: next(steps))

    f()
    assert log == ["run mine", "commit mine", "run inner", "rollback inner"]


def test_a_generator_that_is_closed_in_another_context_leaves_it_alone() -> None:
    def produce() -> Iterator[int]:
        with transaction():
            yield 1

    steps = produce()
    thread = threading.Thread(target=next, args=(steps,))
    thread.start()
    thread.join()
    with transaction() as txn:
        steps.close()
        assert get_transaction() is txn


def test_is_entered_once() -> None:
    with transaction() as txn, pytest.raises(RuntimeError, match="once"):
        txn.__enter__()
    with pytest.raises(RuntimeError, match="once"):
        txn.__enter__()


def test_a_body_that_waits_at_the_end_of_a_block_lends_its_slot() -> None:
    @task
    def leaf() -> int:
        return 1

    @task
    def branch() -> bool:
        with transaction() as txn:
            leaf.submit()
        return txn.is_committed()

    @flow(task_runner=ThreadPoolTaskRunner(max_workers=1))
    def f() -> bool:
        return branch.submit().result()

    assert f()


# --- forms ------------------------------------------------------------------------------------------------------------


def test_modes_and_levels_by_name() -> None:
    txn = transaction(commit_mode="LAZY", isolation_level="READ_COMMITTED")
    assert txn.commit_mode is CommitMode.LAZY and txn.isolation_level is IsolationLevel.READ_COMMITTED
    assert txn.is_pending()
    with pytest.raises(ValueError):
        transaction(commit_mode="sometimes")
    with pytest.raises(TypeError, match="'key' must be a string"):
        transaction(key=3)  # type: ignore[arg-type]


def test_answers_may_be_awaited() -> None:
    async def f() -> None:
        async with transaction() as txn:
            assert (await txn.commit()) is True
            assert (await txn.commit()) is False
            assert (await txn.rollback()) is False
            assert repr(txn.rollback()) == "False"

    asyncio.run(f())


def test_a_logger_of_the_user(caplog: pytest.LogCaptureFixture) -> None:
    mine = logging.getLogger("mine")
    with caplog.at_level(logging.INFO), transaction("k", logger=mine, write_on_commit=False) as txn:
        txn.rollback()
    assert ("mine", "The transaction 'k' is rolled back") in [(line.name, line.message) for line in caplog.records]


def test_tags_and_transactions_are_independent() -> None:
    @task
    def seen() -> list[str]:
        return runtime.task_run.tags  # type: ignore[no-any-return]

    @flow
    def f() -> list[str]:
        with tags("a"), transaction(), tags("b"):
            return seen.submit().result()

    assert f() == ["a", "b"]


# --- code of users ----------------------------------------------------------------------------------------------------


def test_a_file_is_deleted_when_a_check_of_it_fails(tmp_path: Path) -> None:
    path = tmp_path / "side-effect.txt"

    @task
    def write_file(contents: str) -> None:
        path.write_text(contents)

    @write_file.on_rollback
    def delete_file(transaction: Transaction) -> None:
        path.unlink()

    @task
    def quality_test() -> None:
        if len(path.read_text().splitlines()) < 2:
            raise ValueError("Not enough data!")

    @flow(log_prints=True)
    def pipeline(contents: str) -> None:
        with transaction():
            write_file(contents)
            quality_test()

    with pytest.raises(ValueError, match="Not enough"):
        pipeline("hello")
    assert not path.exists()
    pipeline(contents="hello\nworld")
    assert path.exists()


def test_one_hook_for_several_tasks_and_both_ends() -> None:
    branches = {"main"}

    @task
    def load(branch: str) -> None:
        txn = get_transaction()
        assert txn is not None
        txn.set("branch", branch)
        branches.add(branch)

    @task
    def check(branch: str, good: bool) -> None:
        get_transaction().set("branch", branch)  # type: ignore[union-attr]
        assert good

    @task
    def merge(branch: str) -> None:
        get_transaction().set("branch", branch)  # type: ignore[union-attr]
        branches.add("merged")

    @load.on_rollback
    @check.on_rollback
    @merge.on_commit
    def delete_branch(transaction: Transaction) -> None:
        branches.discard(transaction.get("branch"))

    @flow
    def publish(good: bool) -> None:
        with transaction():
            load("new")
            check("new", good)
            merge("new")

    assert isinstance(outcome(lambda: publish(False)), AssertionError)
    assert branches == {"main"}
    publish(True)
    assert branches == {"main", "merged"}


def test_hooks_read_what_the_block_in_a_task_has_set_and_call_tasks() -> None:
    log: list[str] = []

    @task
    def begin(job: str) -> None:
        log.append(f"begin {job}")

    @task
    def end(job: str) -> None:
        log.append(f"end {job}")

    @begin.on_commit
    @begin.on_rollback
    def always(txn: Transaction) -> None:
        end(txn.get("job"))

    @task
    def work(fails: bool) -> None:
        with transaction() as txn:
            txn.set("job", "12345")
            begin("12345")
            if fails:
                raise ValueError

    work(False)
    outcome(lambda: work(True))
    assert log == ["begin 12345", "end 12345"] * 2


def test_an_eager_block_in_an_asynchronous_task() -> None:
    @task(cache_policy=INPUTS)
    async def clean(text: str) -> str:
        return text.strip()

    @task
    async def process(text: str) -> list[str]:
        with transaction(commit_mode=CommitMode.EAGER):
            async with asyncio.TaskGroup() as group:
                parts = [group.create_task(clean(part)) for part in text.split(",")]
            return [part.result() for part in parts]

    @flow
    async def f() -> list[list[str]]:
        async with asyncio.TaskGroup() as group:
            texts = [group.create_task(process(text)) for text in ("a , b", "b, c")]
        return [text.result() for text in texts]

    assert asyncio.run(f()) == [["a", "b"], ["b", "c"]]
