"""Hooks: which fire when, what they are given, and that nothing they do changes an outcome."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from penstock import flow, get_run_logger, runtime, task
from penstock.context import FlowRunContext, TaskRunContext, get_run_context
from penstock.exceptions import CancelledRun, CrashedRun, ParameterTypeError, UpstreamTaskError
from penstock.states import Cancelled, Completed, Crashed, Failed, State, StateType
from penstock.task_runners import SequentialTaskRunner, ThreadPoolTaskRunner

HOOKS = ["on_running", "on_completion", "on_failure", "on_cancellation", "on_crashed"]
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


class Log:
    """Notes which hooks fire, in order."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.calls: list[tuple[str, Any, Any, State[Any]]] = []

    def hooks(self) -> dict[str, list[Callable[..., Any]]]:
        return {name: [partial(self._note, name)] for name in HOOKS}

    def _note(self, name: str, definition: Any, run: Any, state: State[Any]) -> None:
        self.events.append(name)
        self.calls.append((name, definition, run, state))


def runner_for(way: str) -> Any:
    if "sequential" in way:
        return SequentialTaskRunner()
    return ThreadPoolTaskRunner(max_workers=1 if way == "one worker" else None)


def run_task(way: str, body: Callable[[], Any], **options: Any) -> tuple[Any, State[Any]]:
    """The task, and the state in which a run of it ended that was started in this way inside a flow."""
    if way.startswith("async"):

        async def fn() -> Any:
            await asyncio.sleep(0)
            return body()
    else:
        fn = body  # type: ignore[assignment]
    t: Any = task(name="work", **options)(fn)
    states: list[State[Any]] = []

    @flow(task_runner=runner_for(way))
    def main() -> None:
        states.append(t(return_state=True) if way == "direct" else t.submit(return_state=True))

    @flow
    async def amain() -> None:
        states.append(await t(return_state=True))

    asyncio.run(amain()) if way == "async direct" else main()
    return t, states[0]


def run_flow(way: str, body: Callable[[], Any], **options: Any) -> tuple[Any, State[Any]]:
    """The flow, and the state in which a run of it ended that was started in this way."""
    if way.startswith("async"):

        async def fn() -> Any:
            await asyncio.sleep(0)
            return body()
    else:
        fn = body  # type: ignore[assignment]
    f: Any = flow(name="work", **options)(fn)
    if way == "direct":
        return f, f(return_state=True)
    if way == "async direct":
        return f, asyncio.run(f(return_state=True))
    states: list[State[Any]] = []

    @flow
    def main() -> None:
        states.append(f(return_state=True) if way == "subflow" else f.submit(return_state=True))

    main()
    return f, states[0]


def within(seconds: float, call: Callable[[], Any]) -> Any:
    """What `call` returns; a failure, and no hang, if it does not return in time."""
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(call()), daemon=True)
    thread.start()
    thread.join(seconds)
    assert answers, f"raised, or still running after {seconds} s"
    return answers[0]


def boom() -> None:
    raise ValueError("boom")


def late() -> None:
    raise TimeoutError("late")


def leave() -> None:
    raise SystemExit(3)


# --- which hooks fire -------------------------------------------------------------------------------------------

ENDS = [
    pytest.param(lambda: 1, ["on_running", "on_completion"], "Completed", id="value"),
    pytest.param(lambda: Completed(name="Skipped"), ["on_running", "on_completion"], "Skipped", id="label"),
    pytest.param(boom, ["on_running", "on_failure"], "Failed", id="exception"),
    pytest.param(late, ["on_running", "on_failure"], "TimedOut", id="TimeoutError"),
    pytest.param(lambda: Failed(message="m"), ["on_running", "on_failure"], "Failed", id="failed state"),
    pytest.param(lambda: Cancelled(), ["on_running", "on_cancellation"], "Cancelled", id="cancelled state"),
    pytest.param(lambda: Crashed(), ["on_running", "on_crashed"], "Crashed", id="crashed state"),
]


@every_way
@pytest.mark.parametrize(("body", "events", "name"), ENDS)
def test_the_hooks_of_a_task_run_by_its_end(way: str, body: Any, events: list[str], name: str) -> None:
    log = Log()
    _, state = run_task(way, body, **log.hooks())
    assert state.name == name
    assert log.events == events


@every_flow_way
@pytest.mark.parametrize(("body", "events", "name"), ENDS)
def test_the_hooks_of_a_flow_run_by_its_end(way: str, body: Any, events: list[str], name: str) -> None:
    log = Log()
    _, state = run_flow(way, body, **log.hooks())
    assert state.name == name
    assert log.events == events


@pytest.mark.parametrize("way", ["submitted", "one worker"])
def test_a_system_exit_in_a_submitted_task_fires_on_crashed(way: str) -> None:
    log = Log()
    _, state = run_task(way, leave, **log.hooks())
    assert state.name == "Crashed"
    assert log.events == ["on_running", "on_crashed"]


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()], ids=["exit", "interrupt"])
@pytest.mark.parametrize("kind", [task, flow], ids=["task", "flow"])
def test_a_direct_call_that_crashes_fires_on_crashed(kind: Any, error: BaseException) -> None:
    log = Log()

    @kind(retries=2, **log.hooks())
    def work() -> None:
        raise error

    with pytest.raises(type(error)):
        work()
    assert log.events == ["on_running", "on_crashed"]
    assert isinstance(log.calls[-1][3].data, CrashedRun)


@pytest.mark.parametrize("kind", [task, flow], ids=["task", "flow"])
def test_asyncio_cancellation_fires_on_crashed(kind: Any) -> None:
    log = Log()

    @kind(retries=2, **log.hooks())
    async def work() -> None:
        await asyncio.sleep(30)

    async def main() -> None:
        running = asyncio.ensure_future(work())
        while not log.events:
            await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(main())
    assert log.events == ["on_running", "on_crashed"]
    state = log.calls[-1][3]
    assert "was cancelled by the runtime environment" in (state.message or "")


@every_way
def test_on_running_fires_for_every_attempt_and_on_failure_once(way: str) -> None:
    log = Log()
    _, state = run_task(way, boom, retries=2, **log.hooks())
    assert state.name == "Failed"
    assert log.events == ["on_running"] * 3 + ["on_failure"]
    running, states = [call[2].run_count for call in log.calls], [call[3] for call in log.calls]
    assert running == [1, 2, 3, 3]
    assert [s.name for s in states] == ["Running", "Retrying", "Retrying", "Failed"]


@every_flow_way
def test_on_running_of_a_flow_fires_for_every_attempt(way: str) -> None:
    log = Log()
    _, state = run_flow(way, boom, retries=2, **log.hooks())
    assert state.name == "Failed"
    assert log.events == ["on_running"] * 3 + ["on_failure"]
    assert [call[3].name for call in log.calls] == ["Running", "Retrying", "Retrying", "Failed"]


@every_way
def test_a_retry_that_succeeds_fires_no_failure(way: str) -> None:
    log = Log()
    attempts = iter([boom, lambda: "fine"])
    _, state = run_task(way, lambda: next(attempts)(), retries=3, **log.hooks())
    assert state.result() == "fine"
    assert log.events == ["on_running", "on_running", "on_completion"]


@every_way
def test_a_timeout_fires_on_failure(way: str) -> None:
    log, stop = Log(), threading.Event()

    if way.startswith("async"):

        @task(timeout_seconds=0.02, **log.hooks())
        async def work() -> None:
            await asyncio.sleep(30)
    else:

        @task(timeout_seconds=0.02, **log.hooks())
        def work() -> None:  # type: ignore[misc]
            while not stop.wait(0.001):
                pass

    @flow(task_runner=runner_for(way))
    def main() -> State[Any]:
        return work(return_state=True) if way == "direct" else work.submit(return_state=True)

    @flow
    async def amain() -> Any:
        return await work(return_state=True)  # type: ignore[misc]

    with pytest.raises(TimeoutError):
        asyncio.run(amain()) if way == "async direct" else main()
    assert log.events == ["on_running", "on_failure"]
    assert log.calls[-1][3].name == "TimedOut"


@pytest.mark.parametrize("way", ["submitted", "one worker", "sequential", "async submitted", "direct"])
def test_a_blocked_run_fires_no_hooks(way: str) -> None:
    log, failing = Log(), task(boom)
    work: Any = task(**log.hooks())(_async_identity if way == "async submitted" else _identity)

    @flow(task_runner=runner_for(way))
    def main() -> State[Any]:
        upstream = failing.submit()
        state = work(upstream, return_state=True) if way == "direct" else work.submit(upstream, return_state=True)
        assert isinstance(state.data, UpstreamTaskError)
        return Completed(data=state.name)

    assert main() == "UpstreamFailed"
    assert log.events == []


def _identity(x: Any) -> Any:
    return x


async def _async_identity(x: Any) -> Any:
    return x


def test_a_blocked_subflow_fires_no_hooks() -> None:
    log, failing = Log(), task(boom)

    @flow(**log.hooks())
    def inner(x: Any) -> None: ...

    @flow
    def main() -> list[str]:
        upstream = failing.submit()
        return [inner(upstream, return_state=True).name, inner.submit(upstream, return_state=True).name]

    assert main() == ["UpstreamFailed", "UpstreamFailed"]
    assert log.events == []


@pytest.mark.parametrize("is_async", [False, True])
def test_invalid_parameters_fire_on_failure_and_nothing_else(is_async: bool) -> None:
    log = Log()

    if is_async:

        @flow(retries=2, **log.hooks())
        async def main(n: int) -> None: ...

        with pytest.raises(ParameterTypeError):
            asyncio.run(main("x"))  # type: ignore[arg-type]
    else:

        @flow(retries=2, **log.hooks())
        def main(n: int) -> None: ...  # type: ignore[misc]

        with pytest.raises(ParameterTypeError):
            main("x")  # type: ignore[arg-type]
    assert log.events == ["on_failure"]
    assert isinstance(log.calls[0][3].data, ParameterTypeError)


def test_arguments_that_do_not_bind_fire_nothing() -> None:
    log = Log()

    @flow(**log.hooks())
    def main(n: int) -> None: ...

    with pytest.raises(TypeError):
        main()  # type: ignore[call-arg]
    assert log.events == []


def test_a_run_cancelled_before_it_starts_fires_on_cancellation_only() -> None:
    log, gate = Log(), threading.Event()
    held = task(lambda: gate.wait(5))
    queued = task(**log.hooks())(lambda: None)

    @flow(task_runner=ThreadPoolTaskRunner(max_workers=1))
    def main() -> str:
        first = held.submit()
        second = queued.submit()
        assert second.cancel() is True
        assert log.events == ["on_cancellation"]
        gate.set()
        first.wait()
        return second.state.name

    assert main() == "Cancelled"
    assert log.events == ["on_cancellation"]
    assert isinstance(log.calls[0][3].data, CancelledRun)


@pytest.mark.parametrize("is_async", [False, True])
def test_a_running_task_that_is_cancelled_fires_on_cancellation(is_async: bool) -> None:
    log, started, never = Log(), threading.Event(), threading.Event()

    def body() -> None:
        started.set()
        while not never.wait(0.001):
            pass

    async def abody() -> None:
        started.set()
        await asyncio.sleep(30)

    work: Any = task(retries=2, **log.hooks())(abody if is_async else body)

    @flow
    def main() -> str:
        future = work.submit()
        assert started.wait(5)
        future.cancel()
        with pytest.raises(CancelledRun):
            future.result(5)
        return future.state.name

    assert main() == "Cancelled"
    assert log.events == ["on_running", "on_cancellation"]


def test_an_unobserved_failure_fires_on_failure_of_the_flow() -> None:
    log = Log()

    @flow(**log.hooks())
    def main() -> None:
        task(boom).submit()

    with pytest.raises(ValueError):
        main()
    assert log.events == ["on_running", "on_failure"]


# --- what hooks are given, and where they run ---------------------------------------------------------------------


@every_way
def test_a_hook_of_a_task_gets_task_run_and_state(way: str) -> None:
    log = Log()
    t, state = run_task(way, lambda: 5, tags=["x"], **log.hooks())
    (_, first, run, running), (_, last, ended_run, completed) = log.calls
    assert first is t
    assert last is t
    assert (run.name, run.run_count, list(run.tags)) == ("work-0", 1, ["x"])
    assert (running.type, running.name) == (StateType.RUNNING, "Running")
    assert ended_run.id == run.id == state.state_details.task_run_id
    assert ended_run.flow_run_id == state.state_details.flow_run_id
    assert completed == state
    assert completed.result() == 5


@every_flow_way
def test_a_hook_of_a_flow_gets_flow_run_and_state(way: str) -> None:
    log = Log()
    f, state = run_flow(way, lambda: 5, flow_run_name="run", **log.hooks())
    (_, first, run, running), (_, last, ended_run, completed) = log.calls
    assert first is f
    assert last is f
    assert (run.name, run.run_count) == ("run", 1)
    assert running.name == "Running"
    assert ended_run.id == run.id == state.state_details.flow_run_id
    assert completed == state


@every_way
def test_a_failure_hook_gets_the_very_exception(way: str) -> None:
    error, log = ValueError("mine"), Log()

    def fail() -> None:
        raise error

    run_task(way, fail, **log.hooks())
    assert log.calls[-1][3].data is error
    assert "ValueError: mine" in (log.calls[-1][3].message or "")


def test_hooks_see_the_parameters() -> None:
    seen: list[Any] = []

    @task(on_completion=[lambda task, run, state: seen.append((get_run_context().parameters, run.parameters))])
    def work(x: int, y: int = 2) -> None: ...

    @flow
    def main() -> None:
        work(1)
        work.submit(3).result()

    main()
    assert seen == [({"x": n, "y": 2},) * 2 for n in (1, 3)]


@every_way
@pytest.mark.parametrize("hook_is_async", [False, True])
def test_hooks_run_inside_the_runs_context(way: str, hook_is_async: bool, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[tuple[str, Any]] = []

    def look(task: Any, run: Any, state: Any) -> None:
        context = TaskRunContext.get()
        around = FlowRunContext.get()
        assert context is not None
        assert around is not None
        seen.append((runtime.task_run.name, context.task_run.id == run.id))
        get_run_logger().info("from the hook: %s", state.name)

    async def alook(task: Any, run: Any, state: Any) -> None:
        await asyncio.sleep(0)
        look(task, run, state)

    hook = alook if hook_is_async else look
    run_task(way, lambda: 1, on_running=[hook], on_completion=[hook])
    assert seen == [("work-0", True)] * 2
    lines = [record for record in caplog.records if record.getMessage().startswith("from the hook")]
    assert [line.getMessage() for line in lines] == ["from the hook: Running", "from the hook: Completed"]
    assert {line.name for line in lines} == {"penstock.task_runs"}
    assert {line.task_run_name for line in lines} == {"work-0"}  # type: ignore[attr-defined]


@every_flow_way
@pytest.mark.parametrize("hook_is_async", [False, True])
def test_hooks_of_flows_run_inside_the_runs_context(
    way: str, hook_is_async: bool, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[str] = []

    def look(flow: Any, run: Any, state: Any) -> None:
        seen.append(runtime.flow_run.name)
        get_run_logger().info("from the hook")

    async def alook(flow: Any, run: Any, state: Any) -> None:
        await asyncio.sleep(0)
        look(flow, run, state)

    hook = alook if hook_is_async else look
    run_flow(way, lambda: 1, flow_run_name="mine", on_running=[hook], on_completion=[hook])
    assert seen == ["mine", "mine"]
    lines = [record for record in caplog.records if record.getMessage() == "from the hook"]
    assert [line.flow_run_name for line in lines] == ["mine", "mine"]  # type: ignore[attr-defined]


class HookObject:
    def __init__(self, calls: list[str]) -> None:
        self.calls = calls

    def __call__(self, definition: Any, run: Any, state: Any) -> None:
        self.calls.append("object")

    def method(self, definition: Any, run: Any, state: Any) -> None:
        self.calls.append("method")

    async def amethod(self, definition: Any, run: Any, state: Any) -> None:
        self.calls.append("async method")


@every_way
def test_any_callable_is_a_hook_and_they_run_in_order(way: str) -> None:
    calls: list[str] = []
    lock = threading.Lock()  # hooks need not be picklable

    def with_lock(which: str, task: Any, run: Any, state: Any) -> None:
        with lock:
            calls.append(which)

    async def with_await(which: str, task: Any, run: Any, state: Any) -> None:
        await asyncio.sleep(0.001)
        calls.append(which)

    hooks = [
        partial(with_lock, "partial"),
        partial(with_await, "async partial"),
        HookObject(calls),
        HookObject(calls).method,
        HookObject(calls).amethod,
        lambda task, run, state: calls.append("lambda"),
    ]
    run_task(way, lambda: 1, on_completion=hooks)
    assert calls == ["partial", "async partial", "object", "method", "async method", "lambda"]


@every_flow_way
def test_hooks_of_flows_run_in_order(way: str) -> None:
    calls: list[int] = []

    async def second(flow: Any, run: Any, state: Any) -> None:
        await asyncio.sleep(0.001)
        calls.append(2)

    hooks = [lambda f, r, s: calls.append(1), second, lambda f, r, s: calls.append(3)]
    run_flow(way, lambda: 1, on_completion=hooks)
    assert calls == [1, 2, 3]


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("hook_is_async", [False, True])
def test_hooks_have_finished_before_the_future_is_done(is_async: bool, hook_is_async: bool) -> None:
    in_hook, go_on, events = threading.Event(), threading.Event(), []

    def slow(task: Any, run: Any, state: Any) -> None:
        in_hook.set()
        assert go_on.wait(5)
        events.append("hook")

    async def aslow(task: Any, run: Any, state: Any) -> None:
        in_hook.set()
        while not go_on.is_set():
            await asyncio.sleep(0.001)
        events.append("hook")

    async def anything() -> None: ...

    work: Any = task(on_completion=[aslow if hook_is_async else slow])(anything if is_async else lambda: None)
    after = task(lambda x: events.append("dependent"))

    @flow
    def main() -> None:
        future = work.submit()
        dependent = after.submit(future)
        future.add_done_callback(lambda f: events.append("callback"))
        assert in_hook.wait(5)
        assert not future.done()
        with pytest.raises(TimeoutError):
            future.result(0)
        assert events == []
        go_on.set()
        future.result()
        assert events[0] == "hook"
        dependent.result()

    main()
    assert sorted(events) == ["callback", "dependent", "hook"]


def test_on_running_comes_before_the_body_and_others_after_it() -> None:
    events: list[str] = []

    @task(
        on_running=[lambda t, r, s: events.append("running")],
        on_completion=[lambda t, r, s: events.append("completed")],
    )
    def work() -> None:
        events.append("body")

    work()
    assert events == ["running", "body", "completed"]


def test_the_hooks_of_a_task_end_before_those_of_its_flow() -> None:
    events: list[str] = []
    work = task(on_completion=[lambda t, r, s: events.append("task")])(lambda: None)

    @flow(on_completion=[lambda f, r, s: events.append("flow")])
    def main() -> None:
        work.submit()

    main()
    assert events == ["task", "flow"]


# --- hooks that misbehave -----------------------------------------------------------------------------------------


async def _afail(definition: Any, run: Any, state: Any) -> None:
    await asyncio.sleep(0)
    raise KeyError("hook")


def _fail(definition: Any, run: Any, state: Any) -> None:
    raise KeyError("hook")


@every_way
@pytest.mark.parametrize("hook", [_fail, _afail, lambda: None, lambda t, r, s, more: None])
@pytest.mark.parametrize("body", [lambda: 1, boom])
def test_an_error_in_a_hook_is_logged_and_changes_nothing(
    way: str, hook: Any, body: Any, caplog: pytest.LogCaptureFixture
) -> None:
    log = Log()
    options = {name: [hook, *hooks] for name, hooks in log.hooks().items()}
    _, state = run_task(way, body, **options)
    end = "on_failure" if body is boom else "on_completion"
    assert state.name == ("Failed" if body is boom else "Completed")
    assert log.events == ["on_running", end]
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 2
    for record in errors:
        assert "work-0" in record.getMessage()
        assert record.exc_info is not None
        assert record.exc_info[0] in (KeyError, TypeError)
        assert record.exc_info[2] is not None


@every_flow_way
@pytest.mark.parametrize("hook", [_fail, _afail])
def test_an_error_in_a_hook_of_a_flow_changes_nothing(way: str, hook: Any, caplog: pytest.LogCaptureFixture) -> None:
    log = Log()
    options = {name: [hook, *hooks] for name, hooks in log.hooks().items()}
    _, state = run_flow(way, lambda: 1, flow_run_name="mine", **options)
    assert state.result() == 1
    assert log.events == ["on_running", "on_completion"]
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [("mine" in record.getMessage(), record.exc_info is not None) for record in errors] == [(True, True)] * 2


@pytest.mark.parametrize("way", ["submitted", "one worker", "async submitted"])
@pytest.mark.parametrize("where", ["on_running", "on_completion"])
@pytest.mark.parametrize("hook_is_async", [False, True])
def test_a_system_exit_in_a_hook_is_an_error_like_any_other(
    way: str, where: str, hook_is_async: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def hook(task: Any, run: Any, state: Any) -> None:
        raise SystemExit(5)

    async def ahook(task: Any, run: Any, state: Any) -> None:
        raise SystemExit(5)

    async def one() -> int:
        return 1

    t: Any = task(**{where: [ahook if hook_is_async else hook]})(one if "async" in way else lambda: 1)

    @flow(task_runner=runner_for(way))
    def main() -> Any:
        return t.submit().result()

    assert within(3, main) == 1
    assert [record for record in caplog.records if record.levelno == logging.ERROR]


@every_way
def test_what_a_hook_returns_is_ignored(way: str) -> None:
    _, state = run_task(way, lambda: 1, on_completion=[lambda t, r, s: Failed()], on_running=[lambda t, r, s: 2])
    assert state.result() == 1


@pytest.mark.parametrize("where", ["on_running", "on_completion"])
def test_a_hook_of_a_sync_task_called_on_the_background_loop_may_be_async(where: str) -> None:
    calls: list[str] = []

    async def hook(task: Any, run: Any, state: Any) -> None:
        await asyncio.sleep(0)
        calls.append(state.name)

    inner = task(**{where: [hook]})(lambda: 1)

    @task
    async def outer() -> int:
        return inner()

    @flow
    def main() -> Any:
        return outer.submit().result()

    assert within(3, main) == 1
    assert calls == ["Running" if where == "on_running" else "Completed"]


@pytest.mark.parametrize("way", ["direct", "submitted", "one worker", "sequential"])
@pytest.mark.parametrize("where", ["on_running", "on_completion"])
def test_a_hook_may_call_a_task(way: str, where: str) -> None:
    helper = task(lambda: "helped")
    seen: list[Any] = []
    _, state = run_task(way, lambda: 1, **{where: [lambda t, r, s: seen.append(helper())]})
    assert state.result() == 1
    assert seen == ["helped"]


# --- declaring hooks ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HOOKS)
@pytest.mark.parametrize("kind", [task, flow], ids=["task", "flow"])
def test_a_hook_decorator_appends_and_returns_the_function(kind: Any, name: str) -> None:
    work = kind(**{name: [_fail]})(lambda: None)

    def hook(definition: Any, run: Any, state: Any) -> None: ...

    assert getattr(work, name)(hook) is hook
    with pytest.raises(TypeError, match="Expected callables"):
        getattr(work, name)(3)


def test_decorated_hooks_fire_after_those_given_as_option() -> None:
    calls: list[str] = []

    @task(on_completion=[lambda t, r, s: calls.append("option")])
    def work() -> None: ...

    @work.on_completion
    def first(task: Any, run: Any, state: Any) -> None:
        calls.append("first")

    @work.on_completion
    async def second(task: Any, run: Any, state: Any) -> None:
        calls.append("second")

    work()
    assert calls == ["option", "first", "second"]


def test_with_options_keeps_clears_or_replaces_hooks() -> None:
    calls: list[str] = []
    work = task(on_completion=[lambda t, r, s: calls.append("old")])(lambda: None)
    work.with_options(retries=1)()
    work.with_options(on_completion=[])()
    work.with_options(on_completion=None)()
    work.with_options(on_completion=[lambda t, r, s: calls.append("new")])()
    work()
    assert calls == ["old", "new", "old"]


def test_a_hook_added_to_a_copy_does_not_reach_the_original() -> None:
    calls: list[str] = []
    original = task(on_completion=[lambda t, r, s: calls.append("shared")])(lambda: None)
    copy = original.with_options(name="copy")
    copy.on_completion(lambda t, r, s: calls.append("copy"))
    original()
    assert calls == ["shared"]


@pytest.mark.parametrize("name", HOOKS)
@pytest.mark.parametrize("kind", [task, flow], ids=["task", "flow"])
def test_wrong_hooks_are_refused_at_decoration(kind: Any, name: str) -> None:
    with pytest.raises(TypeError) as raised:
        kind(**{name: _fail})(lambda: None)
    assert str(raised.value).startswith(f"Expected iterable for '{name}'; got function instead.")
    with pytest.raises(TypeError) as raised:
        kind(**{name: [_fail, 3]})(lambda: None)
    assert str(raised.value).startswith(f"Expected callables in '{name}'; got int instead.")
