"""A run does not end well while a failure below it was neither seen nor handled."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED
from functools import partial
from typing import Any

import pytest
from roots import ROUTES, RUNNERS

from penstock import Future, FutureList, State, allow_failure, as_completed, flow, quote, task, wait
from penstock.exceptions import CancelledRun, CrashedRun, TaskRunTimeoutError, UpstreamTaskError
from penstock.states import Failed, StateType
from penstock.task_runners import ThreadPoolTaskRunner
from placeless import placeless

COMPLETED, FAILED, CANCELLED, CRASHED = (
    StateType.COMPLETED,
    StateType.FAILED,
    StateType.CANCELLED,
    StateType.CRASHED,
)
ERROR = ValueError("x")
# Some bodies block on unfinished work inside an event loop: allowed, with a warning that has its own test.
blocking_in_a_loop = pytest.mark.filterwarnings("ignore:this wait blocks:RuntimeWarning")


@pytest.fixture(autouse=True)
def fresh_error() -> None:
    """`ERROR` is one object, to be compared by identity; notes of other tests do not belong on it."""
    ERROR.__dict__.pop("__notes__", None)
    ERROR.__traceback__ = None


@pytest.fixture(params=RUNNERS)
def runner(request: pytest.FixtureRequest) -> Any:
    return RUNNERS[request.param]()


@task
def bad() -> None:
    raise ERROR


@task
def fine() -> int:
    return 1


@task
def use(*values: Any) -> Any:
    return values


@task
async def bad_async() -> None:
    raise ERROR


@pytest.fixture(params=ROUTES)
def ended(request: pytest.FixtureRequest) -> Callable[[Callable[[], Any]], State[Any]]:
    """The final State of a root run with the given body."""
    return ROUTES[request.param]


def _caught(action: Callable[[], Any]) -> None:
    with pytest.raises(ValueError):
        action()


def _final_state_in_done(future: Future[Any]) -> None:
    done, _ = wait([future])
    for member in done:
        assert member.state.is_failed()


def _final_state_as_completed(future: Future[Any]) -> None:
    for member in as_completed([future]):
        assert member.state.is_failed()


def _final_state(future: Future[Any]) -> None:
    future.wait()
    assert future.state.is_failed()


NOT_LOOKING: dict[str, Callable[[Future[Any]], Any]] = {
    "nothing": lambda f: None,
    "wait": lambda f: f.wait(),
    "wait with timeout": lambda f: f.wait(5),
    "wait()": lambda f: wait([f]) and None,
    "wait first": lambda f: wait([f], return_when=FIRST_COMPLETED) and None,
    "as_completed": lambda f: list(as_completed([f])) and None,
    "done": lambda f: f.wait() or bool(f.done()),
    "cancelled": lambda f: f.wait() or bool(f.cancelled()),
    "cancel too late": lambda f: f.wait() or bool(f.cancel()),
    "repr": lambda f: f.wait() or repr(f),
    "id": lambda f: str(f.task_run_id),
    "callback": lambda f: f.add_done_callback(lambda _: None),
    "passed on": lambda f: use.submit(f) and None,
    "passed on in a list": lambda f: use.submit([f]) and None,
    "passed on in wait_for": lambda f: use.submit(wait_for=[f]) and None,
    "passed on twice": lambda f: use.submit(use.submit(f)) and None,
    "passed on and waited for": lambda f: use.submit(f).wait(),
    "mapped": lambda f: use.map([f, 1]) and None,
}
LOOKING: dict[str, Callable[[Future[Any]], Any]] = {
    "result, caught": lambda f: _caught(f.result),
    "result not raised": lambda f: isinstance(f.result(raise_on_failure=False), ValueError),
    "exception": lambda f: f.exception() is ERROR,
    "state": _final_state,
    "state of wait().done": _final_state_in_done,
    "state of as_completed": _final_state_as_completed,
    "list result, caught": lambda f: _caught(FutureList([f]).result),
    "allow_failure": lambda f: use.submit(allow_failure(f)) and None,
    "allow_failure in a list": lambda f: use.submit([allow_failure(f)]) and None,
    "allow_failure around a list": lambda f: use.submit(allow_failure([f])) and None,
    "allow_failure in wait_for": lambda f: use.submit(wait_for=[allow_failure(f)]) and None,
    "quoted return": lambda f: quote(f),
    "blocked one looked at": lambda f: use.submit(f).exception() and None,
    "blocked one's state": lambda f: _final_state(use.submit(wait_for=[f])),
    "end of the chain looked at": lambda f: use.submit(use.submit(f)).exception() and None,
    "root looked at": lambda f: use.submit(f) and use.submit(wait_for=[f]) and f.exception() and None,
}
RETURNING: dict[str, Callable[[Future[Any]], Any]] = {
    "alone": lambda f: f,
    "list": lambda f: [f, fine.submit()],
    "dict": lambda f: {"a": [f]},
    "tuple": lambda f: (1, {2: (f,)}),
    "twice": lambda f: [f, f],
    "blocked": lambda f: [f, use.submit(f)],
}


def _handle(handling: Callable[[Future[Any]], Any]) -> Any:
    return handling(bad.submit())


@blocking_in_a_loop
class TestLooking:
    def test_not_looking_fails_the_run(self, ended: Any) -> None:
        text = "1 task run failed and nobody looked at it: bad-0 (ValueError: x)"
        states = {name: ended(partial(_handle, handling)) for name, handling in NOT_LOOKING.items()}
        told = {name: placeless(state) for name, state in states.items()}
        assert told == dict.fromkeys(states, str(Failed(message=text)))
        assert all(state.data is ERROR for state in states.values())

    def test_a_note_names_the_run(self, ended: Any) -> None:
        ended(lambda: bad.submit() and None)
        assert [note for note in ERROR.__notes__ if "bad-0" in note]

    def test_looking_is_enough(self, ended: Any) -> None:
        found = {name: str(ended(partial(_handle, handling))) for name, handling in LOOKING.items()}
        assert found == dict.fromkeys(LOOKING, "Completed()")

    def test_returning_is_failing(self, ended: Any) -> None:
        states = {name: ended(partial(_handle, handling)) for name, handling in RETURNING.items()}
        assert {name: (state.type, state.data) for name, state in states.items()} == dict.fromkeys(
            RETURNING, (FAILED, ERROR)
        )

    def test_on_every_runner(self, runner: Any) -> None:
        @flow(task_runner=runner)
        def main(handling: Any) -> Any:
            return handling(bad.submit())

        handlings = NOT_LOOKING | LOOKING | RETURNING
        found = {name: main(handling, return_state=True).type for name, handling in handlings.items()}
        assert found == {name: COMPLETED if name in LOOKING else FAILED for name in handlings}

    def test_quoted_deeper_in_the_return_value(self) -> None:
        @flow
        def main() -> Any:
            return {"f": [quote(bad.submit())]}

        quoted = main()["f"][0]
        assert isinstance(quoted, quote)
        assert quoted.value.exception() is ERROR

    def test_uncaught_result(self, ended: Any) -> None:
        state = ended(lambda: bad.submit().result())
        assert state.type is FAILED
        assert state.data is ERROR
        assert not hasattr(ERROR, "__notes__")

    def test_asynchronous_task(self, ended: Any) -> None:
        state = ended(lambda: bad_async.submit() and None)
        assert placeless(state.message) == "1 task run failed and nobody looked at it: bad_async-0 (ValueError: x)"

    def test_return_state(self, ended: Any) -> None:
        def body() -> bool:
            states = [bad.submit(return_state=True), *use.map([1], return_state=True), bad(return_state=True)]
            return states[0].is_failed() and states[2].is_failed()

        assert ended(body).result() is True

    def test_direct_call_caught(self, ended: Any) -> None:
        assert ended(lambda: _caught(bad)).type is COMPLETED

    @pytest.mark.parametrize(
        "look",
        [
            lambda futures: _caught(futures.result),
            lambda futures: futures.result(raise_on_failure=False),
            lambda futures: [future.exception() for future in futures],
            lambda futures: futures.wait() or ([future.state for future in futures] and None),
        ],
    )
    def test_list_looks_at_all_members(self, look: Callable[[Any], Any]) -> None:
        @task
        def fails(n: int) -> None:
            raise ValueError(n)

        @flow
        def main() -> str:
            futures = fails.map(range(5))
            look(futures)
            return "seen"

        assert main() == "seen"

    def test_list_wait_does_not_look(self) -> None:
        @flow
        def main() -> None:
            task(lambda n: bad.fn()).map([1]).wait()

        with pytest.raises(ValueError) as caught:
            main()
        assert caught.value is ERROR

    def test_failed_result_look_that_timed_out(self) -> None:
        """Nobody has seen the failure if the look came too early."""
        gate = threading.Event()

        @task
        def later() -> None:
            gate.wait(5)
            raise ERROR

        @flow
        def main() -> None:
            future = later.submit()
            with pytest.raises(TimeoutError):
                future.result(timeout=0)
            with pytest.raises(TimeoutError):
                future.exception(timeout=0)
            assert not future.state.is_final()
            gate.set()

        assert main(return_state=True).data is ERROR

    def test_looking_in_another_thread(self) -> None:
        @flow
        def main() -> str:
            future = bad.submit()
            thread = threading.Thread(target=future.exception)
            thread.start()
            thread.join()
            return "seen"

        assert main() == "seen"

    def test_looking_in_a_callback(self) -> None:
        @flow
        def main() -> str:
            bad.submit().add_done_callback(lambda future: future.exception())
            return "seen"

        assert main() == "seen"

    def test_another_task_looks(self) -> None:
        @task
        def look(future: Any) -> bool:
            return future.exception() is ERROR

        @flow
        def main() -> bool:
            return look.submit(quote(bad.submit())).result()

        assert main() is True


class TestLookingInCoroutines:
    @pytest.mark.parametrize("kind", [flow, task])
    def test_await_looks(self, kind: Any) -> None:
        @kind
        async def main() -> str:
            with pytest.raises(ValueError) as caught:
                await bad.submit()
            assert caught.value is ERROR
            with pytest.raises(ValueError):
                await bad_async()
            with pytest.raises(ValueError):
                await task(lambda n: bad.fn()).map([1])
            await asyncio.gather(bad.submit(), return_exceptions=True)
            async for future in as_completed([bad.submit()]):
                assert future.state.is_failed()
            return "seen"

        assert asyncio.run(main()) == "seen"

    def test_gathered_states(self) -> None:
        @flow
        async def main() -> list[bool]:
            states = await asyncio.gather(*[bad_async(return_state=True) for _ in range(3)])
            return [state.is_failed() for state in states]

        assert asyncio.run(main()) == [True, True, True]

    def test_iterating_does_not_look(self) -> None:
        @flow
        async def main() -> None:
            async for _ in as_completed([bad.submit()]):
                pass

        with pytest.raises(ValueError) as caught:
            asyncio.run(main())
        assert caught.value is ERROR

    def test_awaiting_in_time_only(self) -> None:
        @flow
        async def main() -> None:
            bad_async.submit()

        with pytest.raises(ValueError) as caught:
            asyncio.run(main())
        assert caught.value is ERROR


class TestSettled:
    """Over the graph: a blocked run takes over the duty."""

    def test_one_blocked_run_of_two_is_not_enough(self) -> None:
        @flow
        def main() -> None:
            future = bad.submit()
            first, second = use.submit(future), use.submit(future)
            second.wait()
            assert first.exception() is not None

        assert main(return_state=True).data is ERROR

    def test_all_blocked_runs_are(self) -> None:
        @flow
        def main() -> str:
            future = bad.submit()
            for blocked in [use.submit(future), use.submit(wait_for=future)]:
                assert isinstance(blocked.exception(), UpstreamTaskError)
            return "seen"

        assert main() == "seen"

    def test_both_ends_of_a_diamond(self) -> None:
        @flow
        def main() -> str:
            future = bad.submit()
            left, right = use.submit(future), use.submit(future)
            assert use.submit(left, right).exception().__cause__ is ERROR  # type: ignore[union-attr]
            assert {left.state.name, right.state.name} == {"UpstreamFailed"}
            return "seen"

        assert main() == "seen"

    def test_looking_at_the_root_settles_a_long_chain(self) -> None:
        @flow
        def main() -> str:
            future = bad.submit()
            last = future
            for _ in range(100):
                last = use.submit(last)
            assert future.exception() is ERROR
            return "seen"

        assert main() == "seen"

    def test_blocked_runs_are_not_listed(self) -> None:
        @flow
        def main() -> None:
            future = bad.submit()
            use.submit(use.submit(future))
            use.submit(future)

        message = placeless(main(return_state=True).message)
        assert message == "1 task run failed and nobody looked at it: bad-0 (ValueError: x)"

    def test_cancelled_runs_owe_nothing_nor_what_they_block(self) -> None:
        started, gate = threading.Event(), threading.Event()

        @task
        def running() -> None:
            started.set()
            gate.wait(5)

        @flow(task_runner=ThreadPoolTaskRunner(max_workers=1))
        def main() -> str:
            running.submit()
            started.wait(5)
            queued = fine.submit()
            blocked = use.submit(queued)
            assert queued.cancel()
            blocked.wait()
            assert queued.cancelled()
            gate.set()
            return "well"

        state = main(return_state=True)
        assert (state.type, state.result()) == (COMPLETED, "well")

    def test_hand_made_failure(self) -> None:
        @task
        def says_so() -> Any:
            return Failed(message="on purpose")

        @flow
        def main() -> None:
            says_so.submit()

        state = main(return_state=True)
        assert state.message == ("1 task run failed and nobody looked at it: says_so-0 (FailedRun: on purpose)")

    def test_blocked_by_a_given_failed_state(self) -> None:
        """There is no other run to blame, so the blocked one answers for it."""

        @flow
        def main() -> None:
            use.submit(Failed(message="given"))

        assert main(return_state=True).type is FAILED

    @pytest.mark.parametrize("kind", ["exit", "timeout"])
    def test_other_ways_to_fail(self, kind: str) -> None:
        @task(timeout_seconds=0.02 if kind == "timeout" else None)
        def ends_badly() -> None:
            if kind == "exit":
                raise SystemExit(2)
            while True:
                time.sleep(0.001)

        @flow
        def main() -> None:
            ends_badly.submit()

        with pytest.raises(CrashedRun if kind == "exit" else TaskRunTimeoutError):
            main()
        state = main(return_state=True)
        assert state.type is FAILED
        assert "ends_badly-0" in str(state.message)


def test_cancelled_run_error_is_never_charged() -> None:
    """A cancelled run that somebody asks about answers `CancelledRun`; nobody else has to."""
    started, gate = threading.Event(), threading.Event()

    @task
    def running() -> None:
        started.set()
        gate.wait(5)

    @flow(task_runner=ThreadPoolTaskRunner(max_workers=1))
    def main() -> str:
        running.submit()
        started.wait(5)
        queued = fine.submit()
        queued.cancel()
        with pytest.raises(CancelledRun):
            queued.result()
        gate.set()
        return "well"

    assert main() == "well"
