"""Retries: what is tried again, after which pause, what the pause costs, and what is on record afterwards."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from penstock import as_completed, flow, get_run_logger, runtime, task
from penstock._engine import clock as clocks
from penstock.exceptions import CancelledRun, CrashedRun, FailedRun, UpstreamTaskError
from penstock.flows import Flow
from penstock.states import Cancelled, Completed, Crashed, Failed, State, StateType
from penstock.store.sqlite import SQLiteReader
from penstock.task_runners import SequentialTaskRunner, ThreadPoolTaskRunner
from penstock.tasks import exponential_backoff
from penstock.testing.clock import ManualClock

WAYS = [
    "direct",
    "submitted",
    "one worker",
    "sequential",
    "async direct",
    "async submitted",
    "async sequential",
]
FLOW_WAYS = ["direct", "async direct", "subflow", "submitted", "async submitted"]
every_way = pytest.mark.parametrize("way", WAYS)
every_flow_way = pytest.mark.parametrize("way", FLOW_WAYS)


class HastyClock(ManualClock):
    """Notes the pauses it is asked for, and lets them pass at once."""

    def __init__(self) -> None:
        super().__init__()
        self.pauses: list[float] = []

    def call_later(self, seconds: float, callback: Callable[[], object]) -> clocks.Timer:
        self.pauses.append(seconds)
        timer = super().call_later(0, callback)
        threading.Thread(target=self.advance, args=(0,), daemon=True).start()
        return timer


@pytest.fixture
def hasty() -> Iterator[HastyClock]:
    clock = HastyClock()
    with clocks.use(clock):
        yield clock


@pytest.fixture
def clock() -> Iterator[ManualClock]:
    clock = ManualClock()
    with clocks.use(clock):
        yield clock


class Attempts:
    """A body that goes through `ends`, one for each attempt: an exception is raised, anything else returned."""

    def __init__(self, *ends: Any) -> None:
        self.ends = ends
        self.made = 0

    def __call__(self) -> Any:
        end = self.ends[min(self.made, len(self.ends) - 1)]
        self.made += 1
        if isinstance(end, BaseException):
            raise end
        return end


def within(seconds: float, call: Callable[[], Any]) -> Any:
    """What `call` returns; a failure, and no hang, if it does not return in time."""
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(call()), daemon=True)
    thread.start()
    thread.join(seconds)
    assert answers, f"raised, or still running after {seconds} s"
    return answers[0]


def runner_for(way: str) -> Any:
    if "sequential" in way:
        return SequentialTaskRunner()
    return ThreadPoolTaskRunner(max_workers=1 if way == "one worker" else None)


def function_for(way: str, body: Callable[[], Any]) -> Any:
    def fn() -> Any:
        return body()

    async def afn() -> Any:
        await asyncio.sleep(0)
        return body()

    return afn if way.startswith("async") else fn


def run_task(way: str, body: Callable[[], Any], **options: Any) -> State[Any]:
    """The final state of one run of a task, started in this way inside a flow."""
    t: Any = task(name="work", **options)(function_for(way, body))
    states: list[State[Any]] = []

    @flow(task_runner=runner_for(way))
    def main() -> None:
        states.append(t(return_state=True) if way == "direct" else t.submit(return_state=True))

    @flow
    async def amain() -> None:
        states.append(await t(return_state=True))

    asyncio.run(amain()) if way == "async direct" else main()
    return states[0]


def run_flow(way: str, body: Callable[[], Any], **options: Any) -> State[Any]:
    """The final state of one run of a flow, started in this way."""
    f: Any = flow(name="work", **options)(function_for(way, body))
    if way == "direct":
        return f(return_state=True)  # type: ignore[no-any-return]
    if way == "async direct":
        return asyncio.run(f(return_state=True))
    states: list[State[Any]] = []

    @flow
    def main() -> None:
        states.append(f(return_state=True) if way == "subflow" else f.submit(return_state=True))

    within(5, lambda: main() or True)
    return states[0]


# --- how often --------------------------------------------------------------------------------------------------


@every_way
@pytest.mark.parametrize("retries", [0, 1, 3])
def test_there_are_at_most_retries_plus_1_attempts(way: str, retries: int) -> None:
    errors = [ValueError(n) for n in range(retries + 1)]
    attempts = Attempts(*errors)
    state = run_task(way, attempts, retries=retries)
    assert attempts.made == retries + 1
    assert (state.type, state.name) == (StateType.FAILED, "Failed")
    assert state.data is errors[-1], "the last attempt's exception is the run's"


@every_way
def test_there_are_no_attempts_after_one_that_succeeds(way: str) -> None:
    attempts = Attempts(ValueError(), ValueError(), "fine")
    state = run_task(way, attempts, retries=5)
    assert (state.result(), attempts.made) == ("fine", 3)
    assert (state.type, state.name) == (StateType.COMPLETED, "Completed")


@every_flow_way
def test_flows_are_tried_again(way: str) -> None:
    attempts = Attempts(ValueError(1), ValueError(2), "fine")
    state = run_flow(way, attempts, retries=2)
    assert (state.result(), attempts.made) == ("fine", 3)


@every_flow_way
def test_flows_give_up(way: str) -> None:
    errors = [ValueError(1), KeyError(2)]
    attempts = Attempts(*errors)
    state = run_flow(way, attempts, retries=1)
    assert attempts.made == 2
    assert state.data is errors[-1]


@every_way
def test_a_thousand_retries_are_no_problem(way: str) -> None:
    attempts = Attempts(*map(ValueError, range(1000)), "fine")
    state = run_task(way, attempts, retries=1000)
    assert (state.result(), attempts.made) == ("fine", 1001)


@pytest.mark.parametrize("kind", [task, flow], ids=["task", "flow"])
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"retries": -1}, ValueError, "retries"),
        ({"retry_delay_seconds": -1}, ValueError, "retry_delay_seconds"),
        ({"retry_delay_seconds": [1, -1]}, ValueError, "retry_delay_seconds"),
        ({"retry_delay_seconds": "1"}, TypeError, "retry_delay_seconds"),
        ({"retry_delay_seconds": {1, 2}}, TypeError, "retry_delay_seconds"),
        ({"retries": 60, "retry_delay_seconds": [1] * 51}, ValueError, "more than 50 retry delays per task"),
        (
            {"retries": 60, "retry_delay_seconds": exponential_backoff(1)},
            ValueError,
            "more than 50 retry delays per task",
        ),
        ({"retries": 2, "retry_delay_seconds": lambda retries: 3}, TypeError, "retry_delay_seconds"),
    ],
)
def test_wrong_options_are_refused_at_decoration(kind: Any, options: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        kind(**options)(lambda: None)


def test_fifty_delays_are_allowed() -> None:
    task(retries=50, retry_delay_seconds=[1] * 50)(lambda: None)
    task(retries=51, retry_delay_seconds=1)(lambda: None)


def test_wrong_jitter_is_refused_at_decoration() -> None:
    with pytest.raises(ValueError, match="retry_jitter_factor"):
        task(retry_jitter_factor=-0.1)(lambda: None)


# --- pauses -----------------------------------------------------------------------------------------------------

PAUSES = [
    pytest.param(3, 2.5, [2.5, 2.5, 2.5], id="number"),
    pytest.param(3, [1, 2, 3], [1, 2, 3], id="list"),
    pytest.param(4, (1, 2), [1, 2, 2, 2], id="short tuple repeats its last"),
    pytest.param(2, [1, 2, 3, 4], [1, 2], id="extra ones are unused"),
    pytest.param(3, lambda retries: [retries * 10, 1], [30, 1, 1], id="callable"),
    pytest.param(4, exponential_backoff(3), [3, 6, 12, 24], id="exponential"),
]


@every_way
@pytest.mark.parametrize(("retries", "delay", "pauses"), PAUSES)
def test_the_pauses_of_a_task(hasty: HastyClock, way: str, retries: int, delay: Any, pauses: list[float]) -> None:
    run_task(way, Attempts(ValueError()), retries=retries, retry_delay_seconds=delay)
    assert hasty.pauses == pauses


@every_flow_way
@pytest.mark.parametrize(("retries", "delay", "pauses"), PAUSES)
def test_the_pauses_of_a_flow(hasty: HastyClock, way: str, retries: int, delay: Any, pauses: list[float]) -> None:
    run_flow(way, Attempts(ValueError()), retries=retries, retry_delay_seconds=delay)
    assert hasty.pauses == pauses


@every_way
def test_jitter_spreads_the_pauses_and_is_bounded(hasty: HastyClock, way: str) -> None:
    run_task(way, Attempts(ValueError()), retries=60, retry_delay_seconds=10, retry_jitter_factor=0.5)
    assert len(hasty.pauses) == 60
    assert all(5 <= pause <= 15 for pause in hasty.pauses)
    assert min(hasty.pauses) < 10 < max(hasty.pauses)
    assert len(set(hasty.pauses)) > 50


def test_large_jitter_never_makes_a_pause_negative(hasty: HastyClock) -> None:
    run_task("submitted", Attempts(ValueError()), retries=60, retry_delay_seconds=1, retry_jitter_factor=3)
    assert all(0 <= pause <= 4 for pause in hasty.pauses)
    assert max(hasty.pauses) > 2


def test_no_jitter_is_exact(hasty: HastyClock) -> None:
    run_task("submitted", Attempts(ValueError()), retries=2, retry_delay_seconds=1, retry_jitter_factor=0)
    assert hasty.pauses == [1, 1]


@pytest.mark.parametrize("way", ["submitted", "one worker", "async submitted"])
def test_the_states_on_the_way(clock: ManualClock, way: str) -> None:
    """Pending, Running, AwaitingRetry, Retrying, Completed."""
    seen: list[tuple[Any, str]] = []
    futures: list[Any] = []
    in_body, go_on = threading.Event(), threading.Event()
    attempts = Attempts(ValueError(), "fine")

    def look() -> None:
        state = futures[0].state
        seen.append((state.type, state.name))

    def body() -> Any:
        in_body.set()
        assert go_on.wait(5)
        look()
        return attempts()

    t: Any = task(name="work", retries=1, retry_delay_seconds=60)(function_for(way, body))
    gate = task(lambda: go_on.wait(5))

    @flow(task_runner=runner_for(way))
    def main() -> Any:
        futures.append(t.submit(wait_for=[gate.submit()]))
        look()
        go_on.set()
        clock.wait_for_timers()
        look()
        clock.advance(59)
        assert futures[0].state.name == "AwaitingRetry"
        assert not futures[0].done()
        clock.advance(1)
        value = futures[0].result()
        look()
        return value

    assert main() == "fine"
    assert seen == [
        (StateType.PENDING, "Pending"),
        (StateType.RUNNING, "Running"),
        (StateType.SCHEDULED, "AwaitingRetry"),
        (StateType.RUNNING, "Retrying"),
        (StateType.COMPLETED, "Completed"),
    ]


# --- what a pause costs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_async", [False, True])
def test_a_pause_holds_no_slot(clock: ManualClock, is_async: bool) -> None:
    attempts = Attempts(ValueError(), "fine")
    flaky: Any = task(retries=1, retry_delay_seconds=60)(function_for("async" if is_async else "direct", attempts))
    other = task(lambda: threading.get_ident())

    @flow(task_runner=ThreadPoolTaskRunner(max_workers=1))
    def main() -> Any:
        future = flaky.submit()
        clock.wait_for_timers()
        for _ in range(3):
            other.submit().result(5)
        assert future.state.name == "AwaitingRetry"
        clock.advance(60)
        return future.result(5)

    assert main() == "fine"


def test_a_thousand_pauses_need_no_threads(clock: ManualClock) -> None:
    flaky = task(retries=1, retry_delay_seconds=60)(lambda n: 1 / 0)

    @flow(task_runner=ThreadPoolTaskRunner(max_workers=2))
    def main() -> Any:
        before = threading.active_count()
        futures = flaky.map(range(1000))
        clock.wait_for_timers(1000, timeout=30)
        assert threading.active_count() <= before + 4
        clock.advance(60)
        return len([1 for error in futures.result(raise_on_failure=False) if isinstance(error, ZeroDivisionError)])

    assert main() == 1000


def test_a_direct_call_gives_its_workers_slot_back_during_a_pause(clock: ManualClock) -> None:
    attempts = Attempts(ValueError(), "fine")
    flaky = task(retries=1, retry_delay_seconds=60)(lambda: attempts())
    outer = task(lambda: flaky())
    other = task(lambda: "other")

    @flow(task_runner=ThreadPoolTaskRunner(max_workers=1))
    def main() -> Any:
        future = outer.submit()
        clock.wait_for_timers()
        assert other.submit().result(5) == "other"
        assert not future.done()
        clock.advance(60)
        return future.result(5)

    assert main() == "fine"


def test_an_async_direct_call_does_not_block_the_loop_during_a_pause(clock: ManualClock) -> None:
    attempts = Attempts(ValueError(), "fine")

    @task(retries=1, retry_delay_seconds=60)
    async def flaky() -> Any:
        return attempts()

    @flow
    async def main() -> Any:
        running = asyncio.ensure_future(flaky())
        while not clock.timers():
            await asyncio.sleep(0)
        for _ in range(10):
            await asyncio.sleep(0)
        assert not running.done()
        clock.advance(60)
        return await running

    assert asyncio.run(main()) == "fine"


def test_the_next_attempt_queues_again(clock: ManualClock) -> None:
    """With the only worker busy, an attempt that is due waits like everybody else."""
    attempts, started, gate = Attempts(ValueError(), "fine"), threading.Event(), threading.Event()
    flaky = task(retries=1, retry_delay_seconds=60)(lambda: attempts())

    @task
    def busy() -> None:
        started.set()
        gate.wait(5)

    @flow(task_runner=ThreadPoolTaskRunner(max_workers=1))
    def main() -> Any:
        future = flaky.submit()
        clock.wait_for_timers()
        other = busy.submit()
        assert started.wait(5)
        clock.advance(60)
        with pytest.raises(TimeoutError):
            future.result(0.02)
        assert attempts.made == 1
        gate.set()
        other.wait()
        return future.result(5)

    assert main() == "fine"


@pytest.mark.parametrize("is_async", [False, True])
def test_a_run_can_be_cancelled_during_a_pause(clock: ManualClock, is_async: bool) -> None:
    attempts, hooks = Attempts(ValueError()), []
    options: Any = {
        "retries": 5,
        "retry_delay_seconds": 60,
        "on_cancellation": [lambda t, r, s: hooks.append(s.name)],
        "on_failure": [lambda t, r, s: hooks.append(s.name)],
    }
    flaky: Any = task(**options)(function_for("async" if is_async else "direct", attempts))
    dependent = task(lambda x: x)

    @flow
    def main() -> None:
        future = flaky.submit()
        after = dependent.submit(future)
        clock.wait_for_timers()
        assert future.cancel() is True
        assert future.done()
        assert future.cancelled()
        with pytest.raises(CancelledRun):
            future.result()
        assert isinstance(after.exception(5), UpstreamTaskError)
        assert future.cancel() is False
        clock.advance(600)
        assert future.state.name == "Cancelled"

    main()
    assert attempts.made == 1
    assert hooks == ["Cancelled"]


def test_a_flow_whose_body_raised_does_not_wait_for_pauses(clock: ManualClock) -> None:
    attempts = Attempts(ValueError())
    flaky = task(retries=5, retry_delay_seconds=3600)(lambda: attempts())
    futures = []

    @flow
    def main() -> None:
        futures.append(flaky.submit())
        clock.wait_for_timers()
        raise KeyError("stop")

    with pytest.raises(KeyError, match="stop"):
        main()
    assert futures[0].state.name == "Cancelled"
    assert attempts.made == 1


# --- the condition ------------------------------------------------------------------------------------------------


class Condition:
    """Notes what it is asked, and answers."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.asked: list[tuple[Any, Any, State[Any]]] = []

    def __call__(self, task: Any, run: Any, state: State[Any]) -> Any:
        self.asked.append((task, run, state))
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer

    async def ask(self, task: Any, run: Any, state: State[Any]) -> Any:
        await asyncio.sleep(0)
        return self(task, run, state)

    def extra(self, extra: str, task: Any, run: Any, state: State[Any]) -> Any:
        return self(task, run, state)


@every_way
@pytest.mark.parametrize(("answer", "made"), [(True, 3), ("yes", 3), (1, 3), (False, 1), (None, 1), ("", 1), (0, 1)])
@pytest.mark.parametrize("form", ["object", "async", "partial", "method"])
def test_the_condition_decides(way: str, answer: Any, made: int, form: str) -> None:
    condition, attempts = Condition(answer), Attempts(ValueError())
    fn = {
        "object": condition,
        "async": condition.ask,
        "partial": partial(condition.extra, "more"),
        "method": condition.__call__,
    }[form]
    state = run_task(way, attempts, retries=2, retry_condition_fn=fn)
    assert (attempts.made, state.name) == (made, "Failed")


@every_way
def test_the_condition_is_asked_about_task_run_and_state(way: str) -> None:
    condition, errors = Condition(True), [ValueError(1), TimeoutError(2), ValueError(3)]
    state = run_task(way, Attempts(*errors), retries=2, retry_condition_fn=condition, tags=["x"])
    assert len(condition.asked) == 2, "nobody is asked after the last attempt"
    for number, (t, run, seen) in enumerate(condition.asked):
        assert t.name == "work"
        assert (run.id, run.run_count, list(run.tags)) == (state.state_details.task_run_id, number + 1, ["x"])
        assert seen.type is StateType.FAILED
        assert seen.data is errors[number]
    assert [seen.name for _, _, seen in condition.asked] == ["Failed", "TimedOut"]


@every_way
def test_the_condition_may_change_its_mind(way: str) -> None:
    answers = iter([True, True, False, True])
    attempts = Attempts(ValueError())
    run_task(way, attempts, retries=9, retry_condition_fn=lambda t, r, s: next(answers))
    assert attempts.made == 3


@every_way
@pytest.mark.parametrize("is_async", [False, True])
def test_a_condition_that_raises_is_logged_and_means_no(
    way: str, is_async: bool, caplog: pytest.LogCaptureFixture
) -> None:
    condition, error, attempts = Condition(KeyError("condition")), ValueError("body"), None
    attempts = Attempts(error)
    fn = condition.ask if is_async else condition
    state = run_task(way, attempts, retries=2, retry_condition_fn=fn)
    assert (attempts.made, state.data) == (1, error)
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert "work-0" in record.getMessage()
    assert record.exc_info is not None
    assert record.exc_info[0] is KeyError


def test_a_condition_with_the_wrong_signature_means_no() -> None:
    attempts = Attempts(ValueError())
    run_task("submitted", attempts, retries=2, retry_condition_fn=lambda: True)
    assert attempts.made == 1


@every_way
@pytest.mark.parametrize("retries", [0, 3])
def test_the_condition_is_not_asked_when_there_is_nothing_to_decide(way: str, retries: int) -> None:
    condition = Condition(True)
    run_task(way, Attempts("fine"), retries=retries, retry_condition_fn=condition)
    run_task(way, Attempts(ValueError()), retries=0, retry_condition_fn=condition)
    assert condition.asked == []


def test_the_condition_is_asked_about_returned_states() -> None:
    condition, bad = Condition(True), Failed(message="bad", name="Mine")
    run_task("submitted", Attempts(bad, "fine"), retries=2, retry_condition_fn=condition)
    ((_, _, state),) = condition.asked
    assert (state.type, state.name, state.message) == (StateType.FAILED, "Mine", "bad")


def test_a_condition_that_is_not_callable_is_refused() -> None:
    with pytest.raises(TypeError, match="retry_condition_fn"):
        task(retry_condition_fn=3)(lambda: None)  # type: ignore[call-overload]


# --- what is tried again ------------------------------------------------------------------------------------------


@every_way
@pytest.mark.parametrize(
    "end",
    [
        ValueError(),
        TimeoutError("late"),
        Failed(),
        Crashed(),
        FailedRun("x"),
        StopIteration(),
        UpstreamTaskError("x"),
    ],
    ids=lambda end: type(end).__name__ if isinstance(end, Exception) else end.name,
)
def test_exceptions_and_bad_states_are_tried_again(way: str, end: Any) -> None:
    attempts = Attempts(end, "fine")
    state = run_task(way, attempts, retries=1)
    assert (attempts.made, state.result()) == (2, "fine")


@every_way
def test_a_bad_state_that_stays_bad_is_the_end(way: str) -> None:
    attempts = Attempts(Failed(message="m", name="Mine"))
    state = run_task(way, attempts, retries=2)
    assert (attempts.made, state.type, state.name, state.message) == (3, StateType.FAILED, "Mine", "m")


@every_way
@pytest.mark.parametrize("end", [Cancelled(), Completed(name="Skipped"), None], ids=["Cancelled", "Skipped", "None"])
def test_what_is_no_failure_is_not_tried_again(way: str, end: Any) -> None:
    attempts = Attempts(end, AssertionError("a second attempt"))
    state = run_task(way, attempts, retries=2)
    assert attempts.made == 1
    assert state.name == (end.name if end is not None else "Completed")


@pytest.mark.parametrize("way", ["submitted", "one worker", "async submitted"])
@pytest.mark.parametrize("end", [SystemExit(3), KeyboardInterrupt()], ids=["exit", "interrupt"])
def test_exit_and_interrupt_are_not_tried_again(way: str, end: BaseException) -> None:
    attempts = Attempts(end)
    t: Any = task(retries=2)(function_for(way, attempts))

    @flow(task_runner=runner_for(way))
    def main() -> Any:
        error = t.submit().exception()
        assert isinstance(error, CrashedRun)
        return error.__cause__

    assert within(5, lambda: [main()]) == [end]
    assert attempts.made == 1


@pytest.mark.parametrize("kind", [task, flow], ids=["task", "flow"])
@pytest.mark.parametrize("end", [SystemExit(3), KeyboardInterrupt()], ids=["exit", "interrupt"])
def test_direct_calls_that_crash_are_not_tried_again(kind: Any, end: BaseException) -> None:
    attempts = Attempts(end)
    with pytest.raises(type(end)):
        kind(retries=2)(lambda: attempts())()
    assert attempts.made == 1


def test_a_blocked_run_is_not_tried_again() -> None:
    attempts, hooks = Attempts("never"), []
    failing = task(lambda: 1 / 0)
    work = task(retries=3, on_running=[lambda t, r, s: hooks.append(r)])(lambda x: attempts())

    @flow
    def main() -> str:
        future = work.submit(failing.submit())
        assert isinstance(future.exception(), UpstreamTaskError)
        return future.state.name

    assert main() == "UpstreamFailed"
    assert (attempts.made, hooks) == (0, [])


def test_dependents_wait_for_the_last_attempt() -> None:
    attempts = Attempts(ValueError(), ValueError(), 5)
    flaky = task(retries=2)(lambda: attempts())
    double = task(lambda x: 2 * x)

    @flow
    def main() -> int:
        future = flaky.submit()
        assert [f.result() for f in as_completed([future])] == [5]
        return double.submit(future).result()

    assert main() == 10


def test_arguments_are_the_same_in_every_attempt() -> None:
    seen: list[Any] = []

    @task(retries=2)
    def flaky(x: Any, y: Any) -> None:
        seen.append((x, y))
        raise ValueError

    value: list[int] = []

    @flow
    def main() -> None:
        flaky.submit(task(lambda: value).submit(), y=value).wait()
        raise KeyError

    with pytest.raises(KeyError):
        main()
    assert all(x is value and y is value for x, y in seen)
    assert len(seen) == 3


def test_a_generator_that_is_submitted_starts_over() -> None:
    attempts = Attempts(ValueError(), "end")

    @task(retries=1)
    def numbers() -> Iterator[Any]:
        yield 1
        yield attempts()

    @flow
    def main() -> Any:
        return numbers.submit().result()

    assert main() == [1, "end"]


def test_a_generator_called_directly_yields_again_from_the_start() -> None:
    attempts = Attempts(ValueError(), "end")

    @task(retries=1)
    def numbers() -> Iterator[Any]:
        yield 1
        yield attempts()

    assert list(numbers()) == [1, 1, "end"]


# --- what is on record --------------------------------------------------------------------------------------------


def rows_of(home: Path, run_name: str) -> tuple[Any, list[Any], list[Any]]:
    reader = SQLiteReader(home)
    try:
        (root,) = reader.runs()
        run = next(row for row in [root, *reader.tree(root.id)] if row.run_name == run_name)
        attempts = [row for row in reader.attempts(root.id) if row.run_id == run.id]
        logs = [row for row in reader.logs(root.id) if row.run_id == run.id]
        return run, attempts, logs
    finally:
        reader.close()


@pytest.mark.parametrize("way", ["direct", "submitted", "async direct", "async submitted", "sequential"])
def test_every_attempt_is_recorded_with_its_traceback(own_store: Path, way: str) -> None:
    attempts = Attempts(ValueError("one"), TimeoutError("two"), "fine")
    run_task(way, attempts, retries=2)
    run, rows, _ = rows_of(own_store, "work-0")
    assert (run.attempts, run.state_name) == (3, "Completed")
    assert [(row.number, row.state_name, row.error_type, row.error) for row in rows] == [
        (1, "Failed", "ValueError", "one"),
        (2, "TimedOut", "TimeoutError", "two"),
        (3, "Completed", None, None),
    ]
    assert "ValueError: one" in rows[0].traceback
    assert "in __call__" in rows[0].traceback
    assert "TimeoutError: two" in rows[1].traceback
    assert all(row.started <= row.ended for row in rows)


def test_the_log_of_every_attempt_is_recorded(own_store: Path) -> None:
    @task(name="work", retries=1)
    def work() -> None:
        get_run_logger().info("attempt %s", runtime.task_run.run_count)
        raise ValueError

    @flow
    def main() -> None:
        work.submit().exception()

    main()
    _, rows, logs = rows_of(own_store, "work-0")
    mine = [log for log in logs if log.message.startswith("attempt")]
    assert [log.message for log in mine] == ["attempt 1", "attempt 2"]
    for row, log in zip(rows, mine, strict=True):
        assert row.started <= log.time <= row.ended


def test_the_attempts_of_a_flow_are_recorded(own_store: Path) -> None:
    run_flow("direct", Attempts(ValueError("one"), "fine"), retries=1, flow_run_name="mine")
    run, rows, _ = rows_of(own_store, "mine")
    assert (run.attempts, run.state_name) == (2, "Completed")
    assert [(row.number, row.state_name, row.error) for row in rows] == [
        (1, "Failed", "one"),
        (2, "Completed", None),
    ]


# --- retries of flows ---------------------------------------------------------------------------------------------


def test_the_attempts_of_a_flow_are_one_run() -> None:
    seen = []

    @flow(retries=2)
    def main() -> str:
        seen.append((runtime.flow_run.id, runtime.flow_run.name, runtime.flow_run.run_count))
        if len(seen) < 3:
            raise ValueError
        return "fine"

    assert main() == "fine"
    ids, names, counts = zip(*seen, strict=True)
    assert (len(set(ids)), len(set(names)), counts) == (1, 1, (1, 2, 3))


def _returned_failure(failing: Any) -> Any:
    return failing.submit()


def _returned_failures(failing: Any) -> Any:
    return [failing.submit(), failing.submit()]


def _failed_state(failing: Any) -> Any:
    return Failed(message="mine")


def _state_of_a_run(failing: Any) -> Any:
    return failing(return_state=True)


def _unobserved(failing: Any) -> Any:
    failing.submit()


def _coroutine(failing: Any) -> Any:
    return asyncio.sleep(0)


@pytest.mark.parametrize(
    "end", [_returned_failure, _returned_failures, _failed_state, _state_of_a_run, _unobserved, _coroutine]
)
@pytest.mark.parametrize("is_async", [False, True])
def test_any_failed_outcome_of_a_flow_is_tried_again(end: Any, is_async: bool) -> None:
    failing = task(name="failing")(lambda: 1 / 0)
    bodies: list[int] = []

    def body() -> Any:
        bodies.append(1)
        return end(failing) if len(bodies) == 1 else "fine"

    main: Flow[..., Any] = flow(retries=1)(function_for("async" if is_async else "direct", body))
    result = asyncio.run(main()) if is_async else main()
    assert (result, len(bodies)) == ("fine", 2)


def test_a_flow_returned_as_cancelled_is_not_tried_again() -> None:
    attempts = Attempts(Cancelled(), "fine")
    assert run_flow("direct", attempts, retries=3).name == "Cancelled"
    assert attempts.made == 1


def test_invalid_parameters_are_not_tried_again() -> None:
    attempts = Attempts("fine")

    @flow(retries=3)
    def main(n: int) -> Any:
        return attempts()

    with pytest.raises(TypeError):
        main("x")  # type: ignore[arg-type]
    assert attempts.made == 0


def test_only_the_last_attempt_decides() -> None:
    """Failures of the first attempt, looked at or not, do not count in the second one."""
    failing = task(name="failing")(lambda: 1 / 0)
    bodies: list[int] = []

    @flow(retries=1)
    def main() -> str:
        bodies.append(1)
        if len(bodies) == 1:
            failing.submit()
            failing.submit().wait()
            raise ValueError
        return "fine"

    assert main() == "fine"
    assert len(bodies) == 2


def test_the_last_attempt_may_be_the_bad_one() -> None:
    failing = task(name="failing")(lambda: 1 / 0)
    bodies: list[int] = []

    @flow(retries=1)
    def main() -> None:
        bodies.append(1)
        if len(bodies) == 1:
            raise ValueError
        failing.submit()

    state = main(return_state=True)
    assert isinstance(state.data, ZeroDivisionError)
    assert "1 task run failed and nobody looked at it: failing-0" in (state.message or "")


def test_the_numbers_of_task_runs_go_on() -> None:
    names: list[str] = []
    work = task(name="work")(lambda: names.append(runtime.task_run.name))

    @flow(retries=1)
    def main() -> None:
        work()
        work.submit().result()
        if len(names) == 2:
            raise ValueError

    main()
    assert names == ["work-0", "work-1", "work-2", "work-3"]


def test_before_an_attempt_the_children_of_the_one_before_have_ended() -> None:
    events: list[str] = []
    started, gate = threading.Event(), threading.Event()
    futures: list[Any] = []

    @task
    def slow() -> None:
        started.set()
        gate.wait(5)
        events.append("slow ended")

    never = task(lambda: events.append("never"))

    @flow(retries=1, task_runner=ThreadPoolTaskRunner(max_workers=1))
    def main() -> None:
        events.append("attempt")
        if len(events) == 1:
            futures.append(slow.submit())
            assert started.wait(5)
            futures.append(never.submit())
            futures[1].add_done_callback(lambda f: gate.set())
            raise ValueError

    main()
    assert events == ["attempt", "slow ended", "attempt"]
    assert [future.state.name for future in futures] == ["Completed", "Cancelled"]


def test_a_flow_awaits_its_pause_in_the_loop(clock: ManualClock) -> None:
    attempts = Attempts(ValueError(), "fine")

    @flow(retries=1, retry_delay_seconds=60)
    async def main() -> Any:
        return attempts()

    async def run() -> Any:
        running = asyncio.ensure_future(main())
        while not clock.timers():
            await asyncio.sleep(0)
        clock.advance(60)
        return await running

    assert asyncio.run(run()) == "fine"


def test_a_paused_subflow_shows_that_it_waits(clock: ManualClock) -> None:
    attempts = Attempts(ValueError(), "fine")
    inner = flow(retries=1, retry_delay_seconds=60)(lambda: attempts())

    @flow
    def main() -> Any:
        future = inner.submit()
        clock.wait_for_timers()
        assert (future.state.type, future.state.name) == (StateType.SCHEDULED, "AwaitingRetry")
        clock.advance(60)
        return future.result()

    assert within(5, main) == "fine"


def test_tasks_are_tried_again_in_every_attempt_of_their_flow() -> None:
    made = []

    @task(retries=1)
    def failing() -> None:
        made.append(runtime.task_run.name)
        raise ValueError

    @flow(retries=1)
    def main() -> None:
        failing()

    with pytest.raises(ValueError):
        main()
    assert made == ["failing-0", "failing-0", "failing-1", "failing-1"]
