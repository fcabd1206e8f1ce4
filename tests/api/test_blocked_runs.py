"""A run whose upstream did not complete does not run."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from roots import RUNNERS, give, give_async_flow, give_flow, in_flow, run

from penstock import (
    State,
    flow,
    quote,
    task,
)
from penstock.exceptions import CancelledRun, CrashedRun, FailedRun, UnfinishedRun, UpstreamTaskError
from penstock.states import Cancelled, Crashed, Failed, Pending, Running, StateType
from penstock.task_runners import ThreadPoolTaskRunner
from placeless import placeless

ERROR = ValueError("x")


@task
def number(n: Any = 1) -> Any:
    return n


@task
def bad() -> None:
    raise ERROR


@pytest.fixture(params=RUNNERS)
def runner(request: pytest.FixtureRequest) -> Any:
    return RUNNERS[request.param]()


class TestBlocked:
    def test_state_and_error(self, runner: Any) -> None:
        bodies = []

        @task(retries=3, on_running=[lambda *_: bodies.append("hook")])
        def load(*_: Any) -> None:
            bodies.append("body")

        load.on_failure(lambda *_: bodies.append("on_failure"))
        load.on_completion(lambda *_: bodies.append("on_completion"))

        @task
        def extract() -> None:
            raise ERROR

        def body() -> Any:
            upstream = extract.submit()
            return upstream, load.submit(upstream), load.submit(wait_for=[upstream])

        @flow(task_runner=runner)
        def main() -> Any:
            return quote([f for f in body() if f.wait() is None and f.state])

        upstream, by_argument, by_wait = main().value
        for n, future in enumerate([by_argument, by_wait]):
            state = future.state
            assert (state.type, state.name) == (StateType.FAILED, "UpstreamFailed")
            text = f"Task run 'load-{n}' did not run: upstream 'extract-0' failed with ValueError: x"
            assert placeless(state.message) == text
            error = future.result(raise_on_failure=False)
            assert isinstance(error, UpstreamTaskError)
            assert isinstance(error, FailedRun)
            assert future.exception() is error
            assert state.data is error
            with pytest.raises(UpstreamTaskError) as caught:
                future.result()
            assert caught.value is error
            assert str(error) == state.message
            assert error.__cause__ is ERROR
            assert (error.task_run_name, error.task_run_id) == ("extract-0", upstream.task_run_id)
            assert error.state == upstream.state
        assert bodies == []

    def test_down_a_chain(self, runner: Any) -> None:
        def body() -> Any:
            last = bad.submit()
            for _ in range(5):
                last = number.submit(last)
            return last.exception(), last.state

        error, state = in_flow(body, task_runner=runner)
        assert placeless(state.message) == "Task run 'number-4' did not run: upstream 'bad-0' failed with ValueError: x"
        assert error.__cause__ is ERROR

    def test_first_in_order_of_arguments(self) -> None:
        @task
        def fails(n: int) -> None:
            raise ValueError(n)

        def body() -> Any:
            futures = [fails.submit(n) for n in range(3)]
            for future in futures:
                future.exception()
            return give.submit([number.submit(), futures[2], futures[0]]).exception()

        assert "'fails-2'" in str(in_flow(body))

    def test_as_soon_as_one_has_failed(self) -> None:
        gate = threading.Event()

        @task
        def late() -> None:
            gate.wait(5)

        def body() -> Any:
            blocked = give.submit([late.submit(), bad.submit()])
            error = blocked.exception(timeout=5)
            gate.set()
            return error

        assert isinstance(in_flow(body), UpstreamTaskError)

    def test_by_a_crash(self) -> None:
        @task
        def leaves() -> None:
            raise SystemExit(1)

        def body() -> Any:
            upstream = leaves.submit()
            return number.submit(upstream).exception(), number.submit(upstream).state, upstream.exception()

        error, _, cause = in_flow(body)
        assert isinstance(error, UpstreamTaskError)
        assert "'leaves-0' crashed" in str(error)
        assert isinstance(cause, CrashedRun)
        assert error.__cause__ is cause

    def test_by_a_cancelled_run(self) -> None:
        gate, started = threading.Event(), threading.Event()

        @task
        def hold() -> None:
            started.set()
            gate.wait(5)

        def body() -> Any:
            hold.submit()
            started.wait(5)
            queued = number.submit()
            blocked = number.submit(queued)
            queued.cancel()
            error = blocked.exception(timeout=5)
            gate.set()
            return error, blocked.state

        error, state = in_flow(body, task_runner=ThreadPoolTaskRunner(max_workers=1))
        assert (state.type, state.name) == (StateType.FAILED, "UpstreamFailed")
        assert isinstance(error.__cause__, CancelledRun)
        assert "'number-0' was cancelled" in str(error)

    @pytest.mark.parametrize("way", ["call", "async call"])
    def test_direct_call(self, way: str) -> None:
        bodies = []

        @task
        def never(_: Any = None) -> None:
            bodies.append(1)

        @task
        async def never_async(_: Any = None) -> None:
            bodies.append(1)

        called = never if way == "call" else never_async

        def body() -> Any:
            upstream = bad.submit()
            for arguments in ({"_": upstream}, {"wait_for": [upstream]}, {"_": [upstream]}):
                with pytest.raises(UpstreamTaskError) as caught:
                    run(called, **arguments)
                assert caught.value.__cause__ is ERROR
            return run(called, upstream, return_state=True)

        state = in_flow(body)
        assert (state.type, state.name) == (StateType.FAILED, "UpstreamFailed")
        assert bodies == []

    @pytest.mark.parametrize("made", [give_flow, give_async_flow])
    def test_subflow(self, made: Any) -> None:
        def body() -> Any:
            upstream = bad.submit()
            with pytest.raises(UpstreamTaskError) as caught:
                run(made, upstream)
            assert caught.value.__cause__ is ERROR
            with pytest.raises(UpstreamTaskError):
                run(made, 1, wait_for=upstream)
            future = made.submit(1, wait_for=[upstream])
            return run(made, [upstream], return_state=True), future.exception(), future.state

        state, error, submitted = in_flow(body)
        for blocked in (state, submitted):
            assert (blocked.type, blocked.name) == (StateType.FAILED, "UpstreamFailed")
            assert "did not run: upstream 'bad-0' failed with ValueError: x" in str(blocked.message)
        assert error.__cause__ is ERROR

    @pytest.mark.parametrize(
        ("state", "cause"),
        [
            (Failed(data=ERROR), ValueError),
            (Failed(message="m"), FailedRun),
            (Crashed(), CrashedRun),
            (Cancelled(), CancelledRun),
            (Pending(), UnfinishedRun),
            (Running(), UnfinishedRun),
        ],
    )
    def test_by_a_given_state(self, state: State[Any], cause: type[Exception]) -> None:
        def body() -> Any:
            future = number.submit(state)
            with pytest.raises(UpstreamTaskError):
                number(wait_for=[state])
            return future.exception(), future.state

        error, blocked = in_flow(body)
        assert isinstance(error, UpstreamTaskError)
        assert type(error.__cause__) is cause
        assert blocked.name == "UpstreamFailed"

    def test_timed_out_upstream(self) -> None:
        @task(timeout_seconds=0.01)
        def slow() -> None:
            while True:
                time.sleep(0.001)

        error = in_flow(lambda: number.submit(slow.submit()).exception())
        assert isinstance(error.__cause__, TimeoutError)

    def test_blocked_runs_do_not_block_their_siblings(self, runner: Any) -> None:
        def body() -> Any:
            upstream = bad.submit()
            futures = [number.submit(upstream), number.submit(2)]
            return [future.exception() is None for future in futures]

        assert in_flow(body, task_runner=runner) == [False, True]
