"""A run does not end before everything that it started has ended."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from roots import ROUTES, RUNNERS, patiently

from penstock import Future, State, flow, quote, task
from penstock.states import StateType
from penstock.task_runners import ThreadPoolTaskRunner

COMPLETED, FAILED, CANCELLED, CRASHED = (
    StateType.COMPLETED,
    StateType.FAILED,
    StateType.CANCELLED,
    StateType.CRASHED,
)
ERROR = ValueError("x")
# Some bodies block on unfinished work inside an event loop: allowed, with a warning that has its own test.


@pytest.fixture(autouse=True)
def fresh_error() -> None:
    """`ERROR` is one object, to be compared by identity; notes of other tests do not belong on it."""
    ERROR.__dict__.pop("__notes__", None)
    ERROR.__traceback__ = None


@pytest.fixture(params=RUNNERS)
def runner(request: pytest.FixtureRequest) -> Any:
    return RUNNERS[request.param]()


@task
def fine() -> int:
    return 1


@task
def use(*values: Any) -> Any:
    return values


@pytest.fixture(params=ROUTES)
def ended(request: pytest.FixtureRequest) -> Callable[[Callable[[], Any]], State[Any]]:
    """The final State of a root run with the given body."""
    return ROUTES[request.param]


# --- structured exit --------------------------------------------------------------------------------


class TestExit:
    def test_waits_for_what_was_submitted_and_dropped(self, ended: Any) -> None:
        left, log = threading.Event(), []

        @task
        def late() -> None:
            left.wait(5)
            time.sleep(0.02)
            log.append("late")

        def body() -> str:
            try:
                late.submit()
                gc.collect()
                return "value"
            finally:
                left.set()

        state = ended(body)
        assert (state.type, state.result(), log) == (COMPLETED, "value", ["late"])

    def test_waits_for_submitted_asynchronous_tasks(self, ended: Any) -> None:
        log = []

        @task
        async def late() -> None:
            await asyncio.sleep(0.03)
            log.append("late")

        ended(late.submit)
        assert log == ["late"]

    def test_waits_for_grandchildren(self, ended: Any) -> None:
        log = []

        @task
        def grandchild() -> None:
            time.sleep(0.03)
            log.append("grandchild")

        @task
        def child() -> None:
            grandchild.submit()

        ended(lambda: child.submit() and None)
        assert log == ["grandchild"]

    def test_waits_for_submitted_flows(self, ended: Any) -> None:
        log = []

        @flow
        def late() -> None:
            time.sleep(0.03)
            log.append("late")

        ended(lambda: late.submit() and None)
        assert log == ["late"]

    def test_waits_for_asyncio_tasks_that_call_tasks(self) -> None:
        log = []
        kept = []

        @task
        async def late() -> None:
            await asyncio.sleep(0.03)
            log.append("late")

        @flow
        async def main() -> None:
            kept.append(asyncio.create_task(late()))
            await asyncio.sleep(0)
            log.append("returned")

        asyncio.run(main())
        assert log == ["returned", "late"]

    def test_future_of_a_parent_is_not_done_before_its_children(self) -> None:
        gate, order = threading.Event(), []

        @task
        def child() -> None:
            gate.wait(5)

        @task
        def parent() -> str:
            child.submit().add_done_callback(lambda _: order.append("child"))
            return "p"

        @flow
        def main() -> str:
            future = parent.submit()
            future.add_done_callback(lambda _: order.append("parent"))
            future.wait(0.05)
            assert not future.done()
            assert future.state.type is StateType.RUNNING
            gate.set()
            return future.result()

        assert main() == "p"
        assert order == ["child", "parent"]

    def test_direct_call_returns_after_its_children(self) -> None:
        log = []

        @task
        def child() -> None:
            time.sleep(0.03)
            log.append("child")

        @task
        def parent() -> None:
            child.submit()
            log.append("parent")

        @flow
        def main() -> None:
            parent()
            log.append("main")

        main()
        assert log == ["parent", "child", "main"]

    def test_returning_parent_holds_no_slot(self) -> None:
        gate = threading.Event()

        @task
        def child() -> None:
            assert gate.wait(5)

        @task
        def parent() -> None:
            child.submit()

        @flow(task_runner=ThreadPoolTaskRunner(max_workers=2))
        def main() -> None:
            one = parent.submit()
            task(gate.set).submit(wait_for=[])  # needs the slot that the parent held
            one.result()

        main()

    @pytest.mark.parametrize("submit", [True, False])
    def test_timeout_of_a_parent_counts_its_body_only(self, submit: bool) -> None:
        @task
        def child() -> None:
            time.sleep(0.25)

        @task(timeout_seconds=0.1)
        def parent() -> str:
            child.submit()
            return "in time"

        @flow
        def main() -> str:
            return parent.submit().result() if submit else parent()

        assert main() == "in time"

    def test_dropped_futures_run_on_every_runner(self, runner: Any) -> None:
        log = []

        @task
        def note(n: int) -> None:
            log.append(n)

        @flow(task_runner=runner)
        def main() -> None:
            for n in range(20):
                note.submit(n)
            gc.collect()

        main()
        assert sorted(log) == list(range(20))

    def test_submitting_after_the_end_is_refused(self) -> None:
        escaped = []

        @flow
        def main() -> None:
            from penstock.context import with_context

            escaped.append(with_context(fine.submit))

        main()
        with pytest.raises(RuntimeError, match="has ended"):
            escaped[0]()


class TestExitByException:
    def test_queued_and_waiting_runs_are_cancelled_and_running_ones_waited_for(self) -> None:
        started, futures, bodies = threading.Event(), {}, []

        @task
        def running(gate: threading.Event) -> str:
            started.set()
            gate.wait(5)
            return "ended well"

        @task
        def never(*_: Any) -> None:
            bodies.append("never")

        @flow(task_runner=ThreadPoolTaskRunner(max_workers=1))
        def main() -> None:
            gate = threading.Event()
            futures["running"] = running.submit(gate)
            started.wait(5)
            futures["queued"] = never.submit()
            futures["dependent"] = never.submit(futures["running"])
            futures["waiting"] = never.submit(wait_for=[futures["running"]])
            # Only its cancellation lets the running one go on.
            futures["waiting"].add_done_callback(lambda _: gate.set())
            raise ERROR

        with pytest.raises(ValueError) as caught:
            main()
        assert caught.value is ERROR
        assert {name: future.state.type for name, future in futures.items()} == {
            "running": COMPLETED,
            "queued": CANCELLED,
            "dependent": CANCELLED,
            "waiting": CANCELLED,
        }
        assert futures["running"].result() == "ended well"
        assert bodies == []

    def test_any_root(self, ended: Any) -> None:
        """Every kind of root run cancels what waits and waits for what runs."""
        started, gate, futures = threading.Event(), threading.Event(), []

        @task
        def running() -> str:
            started.set()
            gate.wait(5)
            return "ended well"

        def body() -> None:
            futures.append(running.submit())
            started.wait(5)
            futures.append(use.submit(futures[0]))
            futures[1].add_done_callback(lambda _: gate.set())
            raise ERROR

        state = ended(body)
        assert state.type is FAILED
        assert state.data is ERROR
        assert [future.state.type for future in futures] == [COMPLETED, CANCELLED]

    def test_runs_in_a_retry_delay_are_cancelled(self) -> None:
        futures = []

        @task(retries=3, retry_delay_seconds=60)
        def flaky() -> None:
            raise KeyError("first")

        @flow
        def main() -> None:
            futures.append(flaky.submit())
            patiently(lambda: futures[0].state.name == "AwaitingRetry")
            raise ERROR

        before = time.monotonic()
        with pytest.raises(ValueError):
            main()
        assert time.monotonic() - before < 5
        assert futures[0].state.type is CANCELLED
        assert futures[0].cancelled()

    def test_a_task_that_raises_cancels_its_own_children_only(self) -> None:
        started, gate, futures = threading.Event(), threading.Event(), {}

        @task
        def hold() -> None:
            started.set()
            gate.wait(5)

        @task
        def parent(sibling: Any) -> None:
            futures["child"] = use.submit(wait_for=[sibling])
            raise ERROR

        @flow
        def main() -> None:
            held = hold.submit()
            futures["other"] = use.submit(wait_for=[held])
            future = parent.submit(quote(held))
            assert future.exception() is ERROR
            gate.set()

        main()
        assert futures["child"].state.type is CANCELLED
        assert futures["other"].state.type is COMPLETED

    def test_children_of_an_attempt_are_over_before_the_next(self) -> None:
        attempts: list[list[Future[Any]]] = []
        seen = []

        @task
        def slow() -> None:
            time.sleep(0.03)

        def body() -> str:
            seen.extend(future.done() for futures in attempts for future in futures)
            one = slow.submit()
            attempts.append([one, use.submit(one)])
            if len(attempts) == 1:
                raise ERROR
            return "second"

        assert flow(retries=1)(body)() == "second"
        assert seen == [True, True]
        assert attempts[0][1].state.type is CANCELLED
        assert [future.state.type for future in attempts[1]] == [COMPLETED, COMPLETED]

        attempts.clear()
        seen.clear()
        assert task(retries=1)(body)() == "second"
        assert seen == [True, True]

    def test_children_of_a_submitted_tasks_attempt(self) -> None:
        attempts: list[Future[Any]] = []

        @task(retries=1)
        def parent() -> list[bool]:
            done = [future.done() for future in attempts]
            one = task(time.sleep).submit(0.02)
            attempts.append(use.submit(one))
            if len(attempts) == 1:
                raise ERROR
            return done

        @flow
        def main() -> list[bool]:
            return parent.submit().result()

        assert main() == [True]
        assert [future.state.type for future in attempts] == [CANCELLED, COMPLETED]

    def test_system_exit_in_a_flow(self) -> None:
        futures, hold, gate = [], threading.Event(), threading.Event()

        @task
        def running() -> None:
            hold.set()
            gate.wait(5)

        @flow
        def main() -> None:
            futures.append(running.submit())
            hold.wait(5)
            futures.append(use.submit(futures[0]))
            futures[1].add_done_callback(lambda _: gate.set())
            raise SystemExit(3)

        with pytest.raises(SystemExit) as caught:
            main()
        assert caught.value.code == 3
        assert futures[0].done()
        assert futures[1].state.type is CANCELLED

    def test_unstarted_subflows_are_cancelled(self) -> None:
        started, gate, futures, bodies = threading.Event(), threading.Event(), [], []

        @task
        def running() -> None:
            started.set()
            gate.wait(5)

        @flow
        def sub(_: Any) -> None:
            bodies.append("sub")

        @flow
        def main() -> None:
            held = running.submit()
            started.wait(5)
            futures.append(sub.submit(held))
            futures[0].add_done_callback(lambda _: gate.set())
            raise ERROR

        with pytest.raises(ValueError):
            main()
        assert futures[0].state.type is CANCELLED
        assert bodies == []

    def test_many_unstarted(self) -> None:
        """Cancelling some must not start, or fail, others."""
        started, futures = threading.Event(), []

        @task
        def running(gate: threading.Event) -> None:
            started.set()
            gate.wait(5)

        @flow(task_runner=ThreadPoolTaskRunner(max_workers=1))
        def main() -> None:
            gate = threading.Event()
            held = running.submit(gate)
            started.wait(5)
            for _ in range(50):
                futures.append(use.submit(futures[-1] if futures else held))
            futures.extend(fine.submit() for _ in range(50))
            futures[-1].add_done_callback(lambda _: gate.set())
            raise ERROR

        with pytest.raises(ValueError):
            main()
        assert {future.state.type for future in futures} == {CANCELLED}
