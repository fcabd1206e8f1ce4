"""Transactions: what counts as a whole, and what is undone as a whole."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from penstock import flow, runtime, task, transaction
from penstock.cache_policies import INPUTS
from penstock.calls import process_recorder
from penstock.futures import Gate
from penstock.states import StateType
from penstock.task_runners import ThreadPoolTaskRunner
from penstock.transactions import CommitMode, Transaction, get_transaction
from transacting import LARGE, RUNNERS, Kept, every_runner, fail, hooked, outcome

# --- commit and rollback ----------------------------------------------------------------------------------------------


def test_results_are_stored_at_the_end_of_the_block(own_store: Path) -> None:
    log: list[str] = []
    small, large = hooked(log, "small", 1, persist_result=True), hooked(log, "large", LARGE, persist_result=True)

    @flow
    def f() -> None:
        with transaction() as txn:
            small(), large()
            assert txn.is_active() and not txn.is_committed()
            assert log == ["run small", "run large"]
            assert process_recorder().barrier()
            kept = Kept(own_store)
            assert not kept.addresses
            assert kept.runs["small-0"][1:] == ("Completed", "COMPLETED", None)
        assert txn.is_committed()
        assert log[2:] == ["commit small", "commit large"]
        kept = Kept(own_store)  # before the flow is over
        assert kept.has("small-0") and kept.has("large-0")

    f()
    kept = Kept(own_store)
    assert kept.states("small-0", "large-0") == ["Completed", "Completed"]
    assert kept.has("small-0") and kept.has("large-0") and len(kept.files) == 1


def test_an_exception_rolls_back_newest_first(own_store: Path) -> None:
    log: list[str] = []
    first, second = hooked(log, "first", 1, persist_result=True), hooked(log, "second", LARGE, persist_result=True)
    error = ValueError("enough")

    @flow
    def f() -> None:
        with transaction() as txn:
            first(), second()
            seen.append(txn)
            raise error

    seen: list[Transaction] = []
    assert outcome(f) is error
    assert seen[0].is_rolled_back()
    assert log == ["run first", "run second", "rollback second", "rollback first"]
    kept = Kept(own_store)
    assert kept.runs["first-0"][1:] == ("RolledBack", "COMPLETED", None)
    assert kept.runs["second-0"][1:] == ("RolledBack", "COMPLETED", None)
    assert not kept.addresses and not kept.files


@pytest.mark.parametrize("how", ["raised", "caught", "returned as a state", "never looked at"])
@every_runner
def test_a_failed_run_rolls_back_all_but_itself(how: str, runner: str, own_store: Path) -> None:
    log: list[str] = []
    good = hooked(log, "good", 1)
    bad = fail.with_options(
        name="bad",
        on_rollback=[lambda txn: log.append("rollback bad")],
        on_commit=[lambda txn: log.append("commit bad")],
    )

    @flow(task_runner=RUNNERS[runner](), on_unobserved_failure="warn")
    def f() -> str:
        with transaction():
            good()
            if how == "raised":
                bad()
            elif how == "caught":
                assert outcome(bad) is not None
            elif how == "returned as a state":
                assert bad(return_state=True).is_failed()
            else:
                bad.submit()
        return "went on"

    assert isinstance(outcome(f), ValueError) is (how == "raised")
    assert log == ["run good", "rollback good"]
    assert Kept(own_store).states("good-0", "bad-0") == ["RolledBack", "Failed"]


@every_runner
def test_submitted_runs_are_waited_for_and_belong(runner: str, own_store: Path) -> None:
    log: list[str] = []
    done: list[bool] = []

    @task(persist_result=True)
    def double(x: int) -> int:
        return 2 * x

    double.on_commit(lambda txn: log.append("commit"))
    double.on_rollback(lambda txn: log.append("rollback"))

    @flow(task_runner=RUNNERS[runner]())
    def f(fails: bool) -> None:
        with transaction():
            futures = double.map([1, 2, 3])
            total = double.submit(futures[2])
            if fails:
                raise ValueError
        done.extend(future.done() for future in (*futures, total))

    f(False)
    assert done == [True] * 4
    assert log == ["commit"] * 4
    kept = Kept(own_store)
    assert all(kept.has(name) for name in kept.runs if name.startswith("double"))
    log.clear()
    assert isinstance(outcome(lambda: f(True)), ValueError)
    assert log == ["rollback"] * 4
    assert len(Kept(own_store).addresses) == 4  # of the first flow


def test_a_submitted_run_that_fails_late_rolls_back(own_store: Path) -> None:
    log: list[str] = []
    good = hooked(log, "good")
    gate = threading.Event()

    @task
    def slow() -> None:
        gate.wait(10)
        raise ValueError

    @flow(on_unobserved_failure="warn")
    def f() -> None:
        with transaction():
            good.submit()
            slow.submit()
            threading.Timer(0.05, gate.set).start()

    f()
    assert log == ["run good", "rollback good"]


def test_a_run_that_was_cancelled_or_crashed_or_blocked_rolls_back() -> None:
    log: list[str] = []
    good = hooked(log, "good")

    @task
    def exits() -> None:
        raise SystemExit(3)

    @task
    def never() -> None:
        raise AssertionError

    @flow(task_runner=ThreadPoolTaskRunner(max_workers=1), on_unobserved_failure="warn")
    def f(how: str) -> None:
        before = fail.submit()
        before.wait()
        with transaction():
            good()
            if how == "crashed":
                exits.submit().wait()
            elif how == "blocked":
                never.submit(wait_for=[before]).wait()
            else:
                gate = Gate()
                held = task(gate.wait).submit()
                future = never.submit()
                assert future.cancel()
                gate.open()
                held.wait()

    for how in ("crashed", "blocked", "cancelled"):
        log.clear()
        f(how)
        assert log == ["run good", "rollback good"], how


@every_runner
def test_an_attempt_that_is_tried_again_changes_nothing(runner: str, tmp_path: Path, own_store: Path) -> None:
    log: list[str] = []
    good = hooked(log, "good")
    marker = str(tmp_path / "tried")

    @task(retries=1, persist_result=True)
    def flaky(marker: str) -> int:
        if not os.path.exists(marker):
            open(marker, "w").close()
            raise ValueError("once")
        return 7

    flaky.on_commit(lambda txn: log.append("commit flaky"))

    @flow(task_runner=RUNNERS[runner]())
    def f() -> int:
        with transaction() as txn:
            good()
            value: int = flaky.submit(marker).result()
        assert txn.is_committed()
        return value

    assert f() == 7
    assert log == ["run good", "commit good", "commit flaky"]
    assert Kept(own_store).has("flaky-0")


def test_what_failed_in_an_attempt_that_is_tried_again_is_forgiven() -> None:
    log: list[str] = []
    inner = hooked(log, "inner")
    tries: list[int] = []

    @task(retries=1)
    def outer() -> None:
        tries.append(1)
        inner()
        if len(tries) == 1:
            fail()

    @flow
    def f(times: int) -> bool:
        tries[:] = [1] * (1 - times)
        with transaction() as txn:
            outer()
        return txn.is_committed()

    assert f(1)
    assert log == ["run inner", "run inner", "commit inner", "commit inner"]


def test_what_failed_in_the_last_attempt_is_not_forgiven() -> None:
    log: list[str] = []
    inner = hooked(log, "inner")

    @task(retries=1)
    def outer() -> None:
        inner()
        outcome(fail)

    outer.on_rollback(lambda txn: log.append("rollback outer"))

    @flow
    def f() -> bool:
        with transaction() as txn:
            outer()
        return txn.is_rolled_back()

    assert f()
    assert log == ["run inner", "rollback outer", "rollback inner"]


def test_only_the_last_failure_of_a_retried_task_counts_and_once() -> None:
    log: list[str] = []
    good = hooked(log, "good")

    @flow
    def f() -> None:
        with transaction():
            good()
            fail.with_options(retries=2)()

    assert isinstance(outcome(f), ValueError)
    assert log == ["run good", "rollback good"]


def test_the_fate_of_a_subflow_is_that_of_the_block() -> None:
    log: list[str] = []
    good = hooked(log, "good")

    @flow
    def sub(fails: bool) -> None:
        good.submit().wait()
        if fails:
            raise ValueError

    @flow
    def f(fails: bool, submit: bool) -> None:
        with transaction():
            call = sub.submit if submit else sub
            outcome(lambda: call(fails, return_state=True))

    for submit in (False, True):
        log.clear()
        f(False, submit)
        assert log == ["run good", "commit good"]
        log.clear()
        f(True, submit)
        assert log == ["run good", "rollback good"]


def test_a_cached_run_is_part_of_it_too(own_store: Path) -> None:
    log: list[str] = []
    calls: list[int] = []

    @task(cache_policy=INPUTS)
    def square(x: int) -> int:
        calls.append(x)
        return x * x

    square.on_rollback(lambda txn: log.append("rollback"))

    @flow
    def before() -> int:
        return square(3)

    @flow
    def f() -> None:
        with transaction():
            assert square(3) == 9
            raise ValueError

    before()
    outcome(f)
    assert calls == [3]
    assert log == ["rollback"]
    assert before() == 9 and calls == [3]  # what was kept before is kept


def test_a_map_that_is_not_expanded_yet_is_waited_for() -> None:
    log: list[str] = []
    gate = threading.Event()

    @task
    def numbers() -> list[int]:
        gate.wait(10)
        return [1, 2, 3]

    @task
    def note(x: int) -> None:
        log.append(f"run {x}")

    note.on_commit(lambda txn: log.append("commit"))

    @flow(task_runner=ThreadPoolTaskRunner(max_workers=1))
    def f() -> None:
        outside = numbers.submit()
        with transaction():
            note.map(outside)
            threading.Timer(0.05, gate.set).start()
        assert sorted(log) == ["commit"] * 3 + ["run 1", "run 2", "run 3"]

    f()


def test_a_lazy_map_belongs_to_it() -> None:
    log: list[str] = []

    @task
    def note(x: int) -> None:
        log.append("run")

    note.on_rollback(lambda txn: log.append("rollback"))

    @flow
    def f() -> None:
        with transaction():
            for _ in note.imap(range(3), max_pending=1):
                pass
            raise ValueError

    outcome(f)
    assert log == ["run"] * 3 + ["rollback"] * 3


def test_cancelled_while_it_waits_at_its_end_it_is_rolled_back() -> None:
    log: list[str] = []
    good = hooked(log, "good")
    waits = threading.Event()

    @task
    def slow() -> None:
        waits.set()
        while True:
            threading.Event().wait(0.01)

    @flow
    def inner() -> None:
        with transaction():
            good()
            slow.submit()

    @flow(on_unobserved_failure="warn")
    def f() -> None:
        future = inner.submit()
        waits.wait(10)
        future.cancel()
        future.wait()

    f()
    assert log == ["run good", "rollback good"]


def test_the_state_in_the_record_is_completed_under_another_name(own_store: Path) -> None:
    @flow
    def f() -> None:
        with transaction():
            hooked([], "good")()
            raise ValueError

    outcome(f)
    row = Kept(own_store).runs["good-0"]
    assert (row.state, row.status) == ("RolledBack", StateType.COMPLETED)


# --- nesting ----------------------------------------------------------------------------------------------------------


def test_children_commit_before_parents_at_the_outermost_end(own_store: Path) -> None:
    log: list[str] = []
    a, b, c = (hooked(log, name, name, persist_result=True) for name in "abc")

    @flow
    def f() -> None:
        with transaction() as outer:
            outer.on_commit_hooks.append(lambda txn: log.append("commit outer"))
            a()
            with transaction() as inner:
                inner.on_commit_hooks.append(lambda txn: log.append("commit inner"))
                b()
            assert inner.is_staged() and not inner.is_committed()
            assert not Kept(own_store).addresses
            c()
        assert inner.is_committed() and outer.is_committed()

    f()
    assert log[3:] == ["commit a", "commit b", "commit inner", "commit c", "commit outer"]
    assert len(Kept(own_store).addresses) == 3


def test_rolling_back_the_parent_rolls_back_the_child() -> None:
    log: list[str] = []
    a, b, c = (hooked(log, name) for name in "abc")

    @flow
    def f() -> None:
        with transaction():
            a()
            with transaction() as inner:
                inner.on_rollback_hooks.append(lambda txn: log.append("rollback inner"))
                b()
            c()
            fail()

    assert isinstance(outcome(f), ValueError)
    assert log[3:] == ["rollback c", "rollback inner", "rollback b", "rollback a"]


def test_a_child_that_rolls_back_dooms_its_parent() -> None:
    log: list[str] = []
    a, b, c = (hooked(log, name) for name in "abc")

    @flow
    def f() -> None:
        with transaction() as outer:
            a()
            try:
                with transaction() as inner:
                    b()
                    raise ValueError
            except ValueError:
                assert inner.is_rolled_back() and not outer.is_rolled_back()
                assert log[-1] == "rollback b"
            c()
        assert outer.is_rolled_back()

    f()
    assert log == ["run a", "run b", "rollback b", "run c", "rollback c", "rollback a"]


def test_a_failure_that_was_caught_in_the_child_dooms_both() -> None:
    @flow
    def f() -> list[bool]:
        with transaction() as outer:
            with transaction() as inner:
                outcome(fail)
            assert inner.is_rolled_back()
        return [outer.is_rolled_back(), inner.is_rolled_back()]

    assert f() == [True, True]


def test_tasks_called_by_tasks_share_the_fate() -> None:
    log: list[str] = []
    leaf = hooked(log, "leaf")

    @task
    def branch() -> None:
        leaf.submit()
        with transaction():
            leaf()

    branch.on_commit(lambda txn: log.append("commit branch"))
    branch.on_rollback(lambda txn: log.append("rollback branch"))

    @flow
    def f(fails: bool) -> None:
        with transaction():
            branch.submit().wait()
            assert "commit leaf" not in log
            if fails:
                raise ValueError

    f(False)
    assert log[2:] == ["commit leaf", "commit leaf", "commit branch"]
    log.clear()
    outcome(lambda: f(True))
    assert log[2:] == ["rollback branch", "rollback leaf", "rollback leaf"]


def test_what_a_failed_task_had_called_is_rolled_back_and_the_task_itself_not() -> None:
    log: list[str] = []
    leaf = hooked(log, "leaf")

    @task
    def branch() -> None:
        leaf()
        raise ValueError

    branch.on_rollback(lambda txn: log.append("rollback branch"))

    @flow
    def f() -> None:
        with transaction():
            outcome(branch)
            assert log == ["run leaf"]

    f()
    assert log == ["run leaf", "rollback leaf"]


# --- modes ------------------------------------------------------------------------------------------------------------


def test_eager_commits_each_run_as_it_completes(own_store: Path) -> None:
    log: list[str] = []
    a, b = hooked(log, "a", 1, persist_result=True), hooked(log, "b", 2, persist_result=True)

    @flow
    def f(fails: bool) -> None:
        with transaction(commit_mode=CommitMode.EAGER) as txn:
            a()
            assert log == ["run a", "commit a"] and Kept(own_store).has("a-0")
            with transaction() as inner:
                b.submit()
            assert inner.is_committed() and not txn.is_committed()
            if fails:
                raise ValueError

    f(False)
    log.clear()
    outcome(lambda: f(True))
    assert log == ["run a", "commit a", "run b", "commit b"]  # what is committed stays
    assert Kept(own_store).states("a-0", "b-0") == ["Completed", "Completed"]


def test_eager_inside_lazy_stays_when_the_outer_one_fails() -> None:
    log: list[str] = []
    a, b = hooked(log, "a"), hooked(log, "b")

    @flow
    def f() -> None:
        with transaction():
            a()
            with transaction(commit_mode="EAGER"):
                b()
            assert log[-1] == "commit b"
            raise ValueError

    outcome(f)
    assert log == ["run a", "run b", "commit b", "rollback a"]


def test_lazy_inside_eager_waits_for_its_own_end_only() -> None:
    log: list[str] = []
    a = hooked(log, "a")

    @flow
    def f() -> None:
        with transaction(commit_mode=CommitMode.EAGER):
            with transaction(commit_mode=CommitMode.LAZY):
                a()
                assert log == ["run a"]
            log.append("left")

    f()
    assert log == ["run a", "left", "commit a"]


def test_an_eager_run_whose_hook_fails_is_rolled_back_and_dooms(own_store: Path) -> None:
    log: list[str] = []
    a = hooked(log, "a", LARGE, persist_result=True)
    a.on_commit(lambda txn: 1 / 0)

    @flow
    def f() -> bool:
        with transaction(commit_mode=CommitMode.EAGER) as txn:
            assert a() == LARGE
        return txn.is_rolled_back()

    assert f()
    assert log == ["run a", "commit a", "rollback a"]
    kept = Kept(own_store)
    assert kept.states("a-0") == ["RolledBack"] and not kept.addresses and not kept.files


def test_off_commits_nothing(own_store: Path) -> None:
    log: list[str] = []
    a = hooked(log, "a", 1, persist_result=True)

    @flow
    def f() -> None:
        with transaction() as outer:
            with transaction("key", commit_mode=CommitMode.OFF) as txn:
                a()
            assert txn.is_rolled_back()
        assert outer.is_committed()  # it was to be so: that is no failure

    f()
    assert log == ["run a", "rollback a"]
    assert not Kept(own_store).addresses
    with transaction("key") as txn:
        assert not txn.is_committed()


def test_off_commits_by_hand() -> None:
    log: list[str] = []
    a = hooked(log, "a")

    @flow
    def f() -> None:
        with transaction(commit_mode="OFF") as txn:
            a()
            assert txn.commit()
            assert not txn.commit() and not txn.rollback()
        assert txn.is_committed()

    f()
    assert log == ["run a", "commit a"]


def test_commit_by_hand_does_not_wait_for_the_outer_one(own_store: Path) -> None:
    log: list[str] = []
    a, b = hooked(log, "a", 1, persist_result=True), hooked(log, "b", 2, persist_result=True)

    @flow
    def f() -> None:
        with transaction():
            with transaction() as inner:
                a.submit()
                assert inner.commit()
                assert log == ["run a", "commit a"] and Kept(own_store).has("a-0")
                b()
                assert log[2:] == ["run b", "commit b"]  # what comes later is on its own
            raise ValueError

    outcome(f)
    assert log[4:] == []


def test_rollback_by_hand() -> None:
    log: list[str] = []
    a, b = hooked(log, "a"), hooked(log, "b")

    @flow
    def f() -> None:
        with transaction() as outer:
            with transaction() as txn:
                a.submit()
                assert txn.rollback()
                assert txn.is_rolled_back() and log == ["run a", "rollback a"]
                assert not txn.rollback() and not txn.commit()
                log.append("the rest of the block")
                a()
                assert log[2:] == ["the rest of the block", "run a", "rollback a"]  # nothing of it is to stay
            b()
        assert outer.is_rolled_back()

    f()
    assert log[5:] == ["run b", "rollback b"]


def test_commit_by_hand_of_what_has_failed_rolls_back() -> None:
    log: list[str] = []
    a = hooked(log, "a")

    @flow
    def f() -> None:
        with transaction() as txn:
            a()
            outcome(fail)
            assert not txn.commit()
            assert txn.is_rolled_back()

    f()
    assert log == ["run a", "rollback a"]


def test_a_task_can_roll_itself_back() -> None:
    log: list[str] = []

    @task(persist_result=True)
    def regrets() -> int:
        txn = get_transaction()
        assert txn is not None
        txn.rollback()
        return 1

    regrets.on_rollback(lambda txn: log.append("rollback"))
    regrets.on_commit(lambda txn: log.append("commit"))

    @flow
    def f() -> bool:
        with transaction() as txn:
            assert regrets() == 1
        return txn.is_rolled_back()

    assert f()
    assert log == ["rollback"]


# --- any tree ---------------------------------------------------------------------------------------------------------


Tree = Any
trees: st.SearchStrategy[Tree] = st.recursive(
    st.sampled_from(["good", "bad"]),
    lambda below: st.tuples(st.sampled_from(["block", "task", "submit"]), st.lists(below, max_size=3)),
    max_leaves=8,
)


def has_bad(tree: Tree) -> bool:
    return tree == "bad" if isinstance(tree, str) else any(map(has_bad, tree[1]))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(trees, max_size=4))
def test_all_of_any_tree_or_nothing(forest: list[Tree]) -> None:
    completed: list[str] = []
    committed: list[str] = []
    undone: list[str] = []
    lock = threading.Lock()

    @task
    def leaf() -> None:
        with lock:
            completed.append(runtime.task_run.id)

    def name_of(txn: Transaction) -> str:
        return str(runtime.task_run.id)

    leaf.on_commit(lambda txn: committed.append(name_of(txn)))
    leaf.on_rollback(lambda txn: undone.append(name_of(txn)))

    @task
    def inner(forest: list[Tree]) -> None:
        grow(forest)

    def grow(forest: list[Tree]) -> None:
        for tree in forest:
            if tree == "good":
                leaf()
            elif tree == "bad":
                outcome(fail)
            elif tree[0] == "block":
                with transaction():
                    grow(tree[1])
            elif tree[0] == "task":
                inner(tree[1])
            else:
                inner.submit(tree[1])

    @flow
    def f() -> bool:
        with transaction() as txn:
            grow(forest)
        return txn.is_committed()

    assert f() is not any(map(has_bad, forest))
    gone, kept = (undone, committed) if any(map(has_bad, forest)) else (committed, undone)
    assert sorted(gone) == sorted(completed) and kept == []


def test_a_future_shows_that_its_run_was_rolled_back() -> None:
    @task
    def step() -> int:
        return 1

    @flow
    def main() -> tuple[str, int]:
        with pytest.raises(ValueError, match="no"), transaction():
            future = step.submit()
            assert future.result() == 1
            assert future.state.name == "Completed"
            raise ValueError("no")
        return future.state.name, future.result()

    assert main() == ("RolledBack", 1)
