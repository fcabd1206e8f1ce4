"""Direct calls, `.submit`, and flow calls: what they return and raise, where they run and are legal."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from penstock import (
    Future,
    State,
    allow_failure,
    flow,
    get_run_logger,
    quote,
    runtime,
    tags,
    task,
)
from penstock.context import FlowRunContext, TaskRunContext, with_context
from penstock.exceptions import (
    CancelledRun,
    CrashedRun,
    FailedRun,
    ParameterBindError,
    UnfinishedRun,
    UpstreamTaskError,
)
from penstock.states import Cancelled, Completed, Crashed, Failed, Running, StateType
from penstock.task_runners import SequentialTaskRunner, ThreadPoolTaskRunner
from placeless import placeless

ambient: contextvars.ContextVar[str] = contextvars.ContextVar("ambient", default="nothing")


class Boom(Exception):
    pass


# Ways to run a task inside a flow that must not differ in what comes out. Each is called in a flow's body.
def directly(t: Any, *args: Any, **kwargs: Any) -> Any:
    return asyncio.run(t(*args, **kwargs)) if t.isasync else t(*args, **kwargs)


def submitted(t: Any, *args: Any, **kwargs: Any) -> Any:
    made = t.submit(*args, **kwargs)
    return made.result() if isinstance(made, Future) else made


def in_flow(body: Callable[[], Any], runner: Any = None) -> Any:
    """The value that `body` returns inside a flow; passes on what it raises."""
    box: list[Any] = []

    @flow(task_runner=runner)
    def main() -> None:
        box.append(body())

    main()
    return box[0]


def run_direct(t: Any, *args: Any, **kwargs: Any) -> Any:
    return in_flow(lambda: directly(t, *args, **kwargs))


def run_outside(t: Any, *args: Any, **kwargs: Any) -> Any:
    return directly(t, *args, **kwargs)


def run_submitted(t: Any, *args: Any, **kwargs: Any) -> Any:
    return in_flow(lambda: submitted(t, *args, **kwargs))


def run_sequential(t: Any, *args: Any, **kwargs: Any) -> Any:
    return in_flow(lambda: submitted(t, *args, **kwargs), SequentialTaskRunner())


def run_in_task(t: Any, *args: Any, **kwargs: Any) -> Any:
    """Submitted by a task on a pool with a single slot."""

    @task
    def parent() -> Any:
        return quote(submitted(t, *args, **kwargs))

    return in_flow(lambda: parent.submit().result().value, ThreadPoolTaskRunner(max_workers=1))


def run_from_root_task(t: Any, *args: Any, **kwargs: Any) -> Any:
    @task
    def root() -> Any:
        return quote(submitted(t, *args, **kwargs))

    return root().value


def run_in_async_flow(t: Any, *args: Any, **kwargs: Any) -> Any:
    @flow
    async def main() -> Any:
        if kwargs.get("return_state"):
            # Awaiting the future is the loop's way; there is no such way to a State.
            future = t.submit(*args, **{name: value for name, value in kwargs.items() if name != "return_state"})
            try:
                await future
            except Exception:
                pass
            return quote(future.state)
        return quote(await t.submit(*args, **kwargs))

    return asyncio.run(main()).value


WAYS = [
    run_direct,
    run_outside,
    run_submitted,
    run_sequential,
    run_in_task,
    run_from_root_task,
    run_in_async_flow,
]
every_way = pytest.mark.parametrize("run", WAYS)
COLOURS = ["sync", "async"]


def coloured(colour: str, fn: Callable[..., Any], **options: Any) -> Any:
    """A task with the body `fn`, as a plain function or as a coroutine function."""
    if colour == "sync":
        return task(**options)(functools.wraps(fn)(lambda *args, **kwargs: fn(*args, **kwargs)))

    @functools.wraps(fn)
    async def body(*args: Any, **kwargs: Any) -> Any:
        await asyncio.sleep(0)
        return fn(*args, **kwargs)

    return task(**options)(body)


every_colour = pytest.mark.parametrize("colour", COLOURS)


# --- the same outcome on every road ------------------------------------------------------------------------


@every_way
@every_colour
def test_the_value_comes_back_as_the_same_object(run: Any, colour: str) -> None:
    value = object()
    assert run(coloured(colour, lambda x: x), value) is value
    assert run(coloured(colour, lambda: None)) is None


@every_way
@every_colour
def test_the_own_exception_object_is_raised(run: Any, colour: str) -> None:
    error = Boom("no")

    def fail() -> None:
        raise error

    with pytest.raises(Boom) as caught:
        run(coloured(colour, fail))
    assert caught.value is error


@every_way
@every_colour
def test_return_state_of_a_completed_run(run: Any, colour: str) -> None:
    state = run(coloured(colour, lambda x: x + 1), 1, return_state=True)
    assert isinstance(state, State)
    assert (state.type, state.name) == (StateType.COMPLETED, "Completed")
    assert state.result() == 2
    assert state.state_details.task_run_id is not None


@every_way
@every_colour
def test_return_state_of_a_failed_run(run: Any, colour: str) -> None:
    error = Boom("no")

    def fail() -> None:
        raise error

    state = run(coloured(colour, fail), return_state=True)
    assert (state.type, state.name) == (StateType.FAILED, "Failed")
    assert state.message == "Task run encountered an exception Boom: no"
    with pytest.raises(Boom) as caught:
        state.result()
    assert caught.value is error
    assert state.result(raise_on_failure=False) is error


@every_way
@every_colour
def test_a_timeout_error_of_any_origin_is_a_timeout(run: Any, colour: str) -> None:
    def fail() -> None:
        raise TimeoutError("mine")

    state = run(coloured(colour, fail), return_state=True)
    assert (state.type, state.name) == (StateType.FAILED, "TimedOut")
    with pytest.raises(TimeoutError, match=r"^mine$"):
        state.result()


@every_way
@every_colour
@pytest.mark.parametrize(
    ("state", "error", "text"),
    [
        (Failed(message="m"), FailedRun, "m"),
        (Failed(data="text"), FailedRun, "text"),
        (Failed(data=Boom("kept"), name="Rotten"), Boom, "kept"),
        (Failed(), FailedRun, ""),
        (Crashed(message="m"), CrashedRun, "m"),
        (Cancelled(message="m"), CancelledRun, "m"),
        (Running(), UnfinishedRun, ""),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_a_bad_hand_made_state_raises(run: Any, colour: str, state: Any, error: Any, text: str) -> None:
    made = coloured(colour, lambda: state)
    with pytest.raises(error) as caught:
        run(made)
    assert text in str(caught.value)
    got = run(made, return_state=True)
    assert isinstance(got, State)
    if state.is_final():
        assert (got.type, got.name) == (state.type, state.name)
    else:
        assert got.type is StateType.FAILED


@every_way
@every_colour
def test_a_good_hand_made_state_gives_its_data(run: Any, colour: str) -> None:
    value = object()
    assert run(coloured(colour, lambda: Completed(data=value))) is value
    assert run(coloured(colour, lambda: Completed())) is None
    state = run(coloured(colour, lambda: Completed(data=5, name="Skipped", message="m")), return_state=True)
    assert (state.type, state.name, state.message, state.result()) == (StateType.COMPLETED, "Skipped", "m", 5)


@every_way
@every_colour
def test_arguments_are_bound_before_any_run_exists(run: Any, colour: str) -> None:
    hooked: list[int] = []
    hook = [lambda *_: hooked.append(1)]

    def body(x: int, *, y: int = 2) -> None:
        hooked.append(2)

    t = coloured(colour, body, name="my_task", on_running=hook, on_failure=hook, on_crashed=hook)
    for args, kwargs, word in [
        ((), {}, "x"),
        ((1, 2), {}, "positional"),
        ((1,), {"z": 3}, "z"),
        ((1,), {"x": 1}, "x"),
    ]:
        with pytest.raises(ParameterBindError) as caught:
            run(t, *args, **kwargs)
        assert isinstance(caught.value, TypeError)
        assert "(x: int, *, y: int = 2)" in str(caught.value) or "(x, *, y=2)" in str(caught.value)
        assert word in str(caught.value).split(")", 1)[-1]
    assert hooked == []


@every_way
@every_colour
def test_defaults_are_applied_and_nothing_is_coerced(run: Any, colour: str) -> None:
    seen: list[Any] = []

    def note(t: Any, task_run: Any, state: Any) -> None:
        seen.append(task_run.name)

    def body(x: int, y: str = "d", *rest: int, z: float = 0.5, **more: Any) -> Any:
        return x, y, rest, z, more, dict(runtime.task_run.parameters)

    t = coloured(colour, body, task_run_name="{x}-{y}-{z}", on_completion=[note])
    *values, parameters = run(t, "3")
    assert values == ["3", "d", (), 0.5, {}]
    assert parameters["x"] == "3" and parameters["y"] == "d" and parameters["z"] == 0.5
    assert run(t, 1, "b", 7, 8, z=1.5, k=9)[:5] == (1, "b", (7, 8), 1.5, {"k": 9})
    assert seen == ["3-d-0.5", "1-b-1.5"]


@every_way
def test_a_blocked_run_raises_and_never_gives_none(run: Any) -> None:
    bad = Failed(message="sour", data=Boom("sour"))
    t = task(lambda x=1: "ran")
    for kwargs in ({"x": bad}, {"wait_for": [bad]}, {"wait_for": bad}, {"x": [1, {"k": bad}]}):
        with pytest.raises(UpstreamTaskError, match="sour"):
            run(t, **kwargs)
        state = run(t, **kwargs, return_state=True)
        assert (state.type, state.name) == (StateType.FAILED, "UpstreamFailed")
        with pytest.raises(UpstreamTaskError):
            state.result()
    assert run(t, x=Completed(data=3)) == "ran"


@every_way
@every_colour
def test_a_crash_is_crashed(run: Any, colour: str) -> None:
    class Strange(BaseException):
        pass

    cause = Strange("odd")

    def crash() -> None:
        raise cause

    t = coloured(colour, crash)
    if run in (run_direct, run_outside):
        with pytest.raises(Strange) as raised:
            run(t)
        assert raised.value is cause
    else:
        with pytest.raises(CrashedRun) as caught:
            run(t)
        assert caught.value.__cause__ is cause
        assert run(t, return_state=True).type is StateType.CRASHED


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("return_state", [False, True])
@every_colour
def test_interruptions_of_the_caller_propagate_through_direct_calls(
    interruption: type[BaseException], return_state: bool, colour: str
) -> None:
    states: list[Any] = []

    def body() -> None:
        raise interruption("now")

    t = coloured(colour, body, on_crashed=[lambda t, r, s: states.append((s.type, s.message))])
    with pytest.raises(interruption) as caught:
        directly(t, return_state=return_state)
    assert caught.value.args == ("now",)
    [(kind, message)] = states
    assert kind is StateType.CRASHED
    assert {KeyboardInterrupt: "interrupt signal", SystemExit: "system exit call"}[interruption] in message


@every_way
@pytest.mark.parametrize("outcome", ["value", "error"])
def test_tasks_resolve_what_they_return(run: Any, outcome: str) -> None:
    error = Boom("deep")

    @task
    def child() -> int:
        if outcome == "error":
            raise error
        return 3

    @task
    def parent() -> Any:
        return {"a": [child.submit()]}

    if outcome == "value":
        assert run(parent) == {"a": [3]}
    else:
        with pytest.raises(Boom) as caught:
            run(parent)
        assert caught.value is error


# --- where bodies run --------------------------------------------------------------------------------------


def test_a_direct_call_runs_in_the_callers_thread() -> None:
    where = task(threading.get_ident)
    assert where() == threading.get_ident()

    @flow
    def main() -> None:
        assert where() == threading.get_ident()
        assert where.submit().result() != threading.get_ident()

        @task
        def nested() -> bool:
            return where() == threading.get_ident()

        assert nested.submit().result()

    main()


def test_a_direct_async_call_runs_in_the_callers_loop() -> None:
    @task
    async def loop_of() -> Any:
        return asyncio.get_running_loop()

    @flow
    async def main() -> None:
        mine = asyncio.get_running_loop()
        assert await loop_of() is mine
        assert await loop_of.submit() is not mine

    asyncio.run(main())


@pytest.mark.parametrize("runner", [None, ThreadPoolTaskRunner(max_workers=1)], ids=["default", "one slot"])
def test_submit_returns_at_once(runner: Any) -> None:
    gate = threading.Event()
    t = task(lambda x=0: gate.wait(10))

    @task
    async def at() -> None:
        await asyncio.sleep(0)

    @flow(task_runner=runner)
    def main() -> list[bool]:
        futures = [t.submit() for _ in range(3)]  # with one slot, two must wait for it
        dependent = t.submit(futures[0])
        waiting = at.submit(wait_for=[futures[1]])
        assert not futures[0].done() and not dependent.done() and not waiting.done()
        assert dependent.state.type is StateType.PENDING
        gate.set()
        return [future.result() for future in (*futures, dependent, waiting)]

    assert main() == [True, True, True, True, None]


@every_colour
def test_submit_is_a_plain_function_that_gives_a_future(colour: str) -> None:
    t = coloured(colour, lambda x: x)

    @flow
    def main() -> Any:
        future = t.submit(4)
        assert type(future) is Future
        return future

    assert main() == 4

    @flow
    async def amain() -> Any:
        future = t.submit(4)
        assert type(future) is Future
        return await future

    assert asyncio.run(amain()) == 4


@every_colour
def test_the_sequential_runner_is_done_when_submit_returns(colour: str) -> None:
    order: list[str] = []

    def body(name: str) -> int:
        order.append(name)
        return threading.get_ident()

    t = coloured(colour, body)

    @flow(task_runner=SequentialTaskRunner())
    def main() -> None:
        first = t.submit("a")
        assert first.done()
        order.append("b")
        if colour == "sync":
            assert first.result() == threading.get_ident()
        assert [future.done() for future in t.map(["c", "d"])] == [True, True]

    main()
    assert order == ["a", "b", "c", "d"]


# --- where submitting is legal -----------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["submit", "map", "imap"])
def test_submitting_needs_a_run(method: str) -> None:
    @task
    def my_task(x: int) -> int:
        return x

    with pytest.raises(RuntimeError) as caught:
        getattr(my_task, method)([1])
    assert str(caught.value) == (
        f"`my_task.{method}()` needs a running flow: call it inside a function decorated with @flow, "
        "or call `my_task()` directly"
    )


@pytest.mark.parametrize("method", ["submit", "map"])
def test_submitting_a_flow_needs_a_run(method: str) -> None:
    @flow
    def f(x: Any) -> Any:
        return x

    with pytest.raises(RuntimeError, match=f"f.{method}.*needs a running flow"):
        getattr(f, method)([1])


def in_thread(fn: Callable[[], Any]) -> Any:
    box: list[Any] = []

    def target() -> None:
        try:
            box.append(fn())
        except BaseException as error:
            box.append(error)

    thread = threading.Thread(target=target)
    thread.start()
    thread.join(10)
    return box[0]


def test_submitting_in_a_users_thread_names_with_context() -> None:
    t = task(lambda x: x)

    @flow
    def main() -> Any:
        refused = in_thread(lambda: t.submit(1))
        accepted = in_thread(with_context(lambda: t.submit(2).result()))
        return refused, accepted

    refused, accepted = main()
    assert type(refused) is RuntimeError
    assert "penstock.context.with_context(fn)" in str(refused)
    assert accepted == 2


def test_submitting_after_the_run_has_ended_is_refused() -> None:
    # The contract is silent; a silent loss or a hang would be the alternatives.
    t = task(lambda x: x)
    late: list[Any] = []

    @flow
    def main() -> None:
        late.append(with_context(lambda: t.submit(1)))

    main()
    with pytest.raises(RuntimeError):
        late[0]()


def test_submitting_at_any_depth_on_one_slot() -> None:
    @task
    def down(n: int) -> int:
        return 0 if n == 0 else 1 + down.submit(n - 1).result()

    assert in_flow(lambda: down.submit(30).result(), ThreadPoolTaskRunner(max_workers=1)) == 30
    assert in_flow(lambda: down.submit(30).result(), SequentialTaskRunner()) == 30
    assert down(30) == 30


def test_a_task_outside_any_flow_is_a_root_run_with_threads() -> None:
    meet = threading.Barrier(2, timeout=10)

    @task
    def child(x: int) -> int:
        meet.wait()  # passes only if two bodies run at once
        return x

    @task
    def root() -> Any:
        assert FlowRunContext.get() is None
        assert TaskRunContext.get() is not None
        return child.map([1, 2])

    assert root() == [1, 2]


def test_an_async_task_outside_any_flow_can_submit() -> None:
    child = task(lambda x: x * 2)

    @task
    async def root() -> Any:
        return await child.map([1, 2])

    assert asyncio.run(root()) == [2, 4]


# --- context -----------------------------------------------------------------------------------------------


@every_colour
def test_the_context_is_copied_at_submission(colour: str) -> None:
    gate = threading.Event()

    def body() -> Any:
        gate.wait(10)
        before = ambient.get()
        ambient.set("changed in the body")
        return before, sorted(runtime.task_run.tags)

    t = task(body) if colour == "sync" else None

    async def abody() -> Any:
        return await asyncio.to_thread(gate.wait, 10) and (ambient.get(), sorted(runtime.task_run.tags))

    t = t or task(abody)

    @flow
    def main() -> Any:
        ambient.set("at submission")
        with tags("a", "b"):
            future = t.submit()
        ambient.set("later")
        with tags("c"):
            gate.set()
            result = future.result()
        assert ambient.get() == "later"
        return result

    ambient.set("outside")
    assert main() == ("at submission", ["a", "b"])


def test_changes_in_a_submitted_body_do_not_leak_out() -> None:
    def body() -> None:
        ambient.set("leaked")

    def check() -> None:
        ambient.set("mine")
        task(body).submit().result()
        assert ambient.get() == "mine"
        task(body).submit().result()
        assert ambient.get() == "mine"

    in_flow(check)
    in_flow(check, SequentialTaskRunner())
    in_flow(check, ThreadPoolTaskRunner(max_workers=1))


def test_a_reused_thread_sees_nothing_of_the_task_before() -> None:
    @task
    def look() -> str:
        before = ambient.get()
        ambient.set("stale")
        return before

    ambient.set("fresh")
    assert in_flow(lambda: [look.submit().result() for _ in range(5)], ThreadPoolTaskRunner(1)) == ["fresh"] * 5


# --- flow calls --------------------------------------------------------------------------------------------


def test_a_sync_flow_runs_in_the_calling_thread() -> None:
    assert flow(threading.get_ident)() == threading.get_ident()
    assert in_thread(lambda: flow(threading.get_ident)() == threading.get_ident()) is True


def test_an_async_flow_gives_a_real_coroutine() -> None:
    @flow
    async def f(x: int) -> int:
        await asyncio.sleep(0)
        return x

    coroutine = f(1)
    assert asyncio.iscoroutine(coroutine)
    assert asyncio.run(coroutine) == 1

    async def main() -> Any:
        return await asyncio.gather(f(2), f(3)), await f(4)

    assert asyncio.run(main()) == ([2, 3], 4)


def test_a_coroutine_that_is_never_awaited_starts_nothing() -> None:
    ran: list[int] = []

    @flow
    async def f() -> None:
        ran.append(1)

    f().close()
    assert ran == []


@pytest.mark.parametrize("colour", COLOURS)
def test_flows_return_values_states_and_errors(colour: str) -> None:
    error = Boom("x")

    def body(fail: bool = False) -> Any:
        if fail:
            raise error
        return 7

    if colour == "sync":
        f: Any = flow(body)
        call = f
    else:

        async def abody(fail: bool = False) -> Any:
            return body(fail)

        f = flow(abody)

        def call(*args: Any, **kwargs: Any) -> Any:
            return asyncio.run(f(*args, **kwargs))

    assert call() == 7
    state = call(return_state=True)
    assert (state.type, state.name, state.result()) == (StateType.COMPLETED, "Completed", 7)
    assert state.state_details.flow_run_id is not None
    with pytest.raises(Boom) as caught:
        call(fail=True)
    assert caught.value is error
    failed = call(True, return_state=True)
    assert (failed.type, failed.message) == (
        StateType.FAILED,
        "Flow run encountered an exception: Boom: x",
    )
    assert failed.result(raise_on_failure=False) is error


def test_a_flow_binds_its_arguments_before_any_run_exists() -> None:
    fired: list[int] = []

    @flow(on_failure=[lambda *_: fired.append(1)])
    def f(x: int) -> None: ...

    for args, kwargs in [((), {}), ((1, 2), {}), ((1,), {"y": 2})]:
        with pytest.raises(ParameterBindError, match="f"):
            f(*args, **kwargs)
        with pytest.raises(ParameterBindError):
            f(*args, return_state=True, **kwargs)
    assert fired == []


def test_a_flow_waits_for_and_is_blocked_by_its_upstreams() -> None:
    order: list[str] = []
    gate = threading.Event()

    @task
    def first() -> int:
        gate.wait(10)
        order.append("first")
        return 5

    @task
    def bad() -> None:
        raise Boom("bad")

    @flow
    def inner(x: int = 0) -> int:
        order.append("inner")
        return x

    @flow
    def main() -> Any:
        future = first.submit()
        threading.Timer(0.02, gate.set).start()
        got = inner(future), inner(wait_for=[future])
        broken = bad.submit()
        for kwargs in ({"x": broken}, {"wait_for": [broken]}):
            with pytest.raises(UpstreamTaskError, match=r"bad-0.*Boom: bad"):
                inner(**kwargs)
            state = inner(**kwargs, return_state=True)
            assert (state.type, state.name) == (StateType.FAILED, "UpstreamFailed")
        return got

    assert main() == (5, 0)
    assert order == ["first", "inner", "inner"]


def test_flow_runs_at_once_in_threads_do_not_mix() -> None:
    meet = threading.Barrier(8, timeout=10)

    @task
    def who(n: int) -> Any:
        meet.wait()
        return n, runtime.flow_run.id

    @flow
    def main(n: int) -> Any:
        return who.submit(n).result(), runtime.flow_run.id

    results: dict[int, Any] = {}
    threads = [
        threading.Thread(target=lambda n=n: results.__setitem__(n, main(n)))  # type: ignore[misc]
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(results) == list(range(8))
    assert all(got == (n, flow_id) for n, (got, flow_id) in results.items())
    assert len({flow_id for _, flow_id in results.values()}) == 8


def test_flow_runs_at_once_in_loops_do_not_mix() -> None:
    @task
    async def who(n: int) -> Any:
        await asyncio.sleep(0)
        return n, runtime.flow_run.id

    @flow
    async def main(n: int) -> Any:
        got = await asyncio.gather(who(n), who(n))
        got.append(await who.submit(n))
        return got, runtime.flow_run.id

    async def everything() -> Any:
        return await asyncio.gather(*[main(n) for n in range(20)])

    for n, (got, flow_id) in enumerate(asyncio.run(everything())):
        assert got == [(n, flow_id)] * 3


def test_flows_work_in_several_loops_one_after_another_and_at_once() -> None:
    child = task(lambda x: x + 1)

    @flow
    async def main(x: int) -> int:
        return await child.submit(x)

    assert [asyncio.run(main(n)) for n in range(3)] == [1, 2, 3]
    results: list[Any] = []
    threads = [threading.Thread(target=lambda: results.append(asyncio.run(main(1)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert results == [2] * 4


def test_a_flow_opens_no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    assert in_flow(lambda: task(lambda: 1).submit().result()) == 1


@pytest.mark.parametrize("trouble", ["a file in its place", "unwritable", "deleted", "garbage"])
def test_a_broken_store_changes_no_outcome(
    trouble: str, own_store: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    child = task(lambda x: x + 1)

    @flow
    def main() -> Any:
        before = child.submit(1).result()
        if trouble == "deleted":
            shutil.rmtree(own_store, ignore_errors=True)
        return before, child.map([1, 2, 3]).result()

    if trouble == "a file in its place":
        own_store.write_text("not a directory")
    elif trouble == "unwritable":
        monkeypatch.setenv("PENSTOCK_HOME", "/proc/nowhere/penstock")
    elif trouble == "garbage":
        own_store.mkdir()
        for path in ("penstock.db", "runs.db", "penstock.sqlite", "runs.sqlite"):
            (own_store / path).write_bytes(b"garbage" * 1000)
    for _ in range(2):
        assert main() == (2, [2, 3, 4])
    with pytest.raises(Boom):
        in_flow(lambda: task(_boom)())
    warnings = [record for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) <= 1
    if trouble != "deleted":
        assert len(warnings) == 1
    assert not [record for record in caplog.records if record.levelno > 30 and "boom" not in record.getMessage()]


def _boom() -> None:
    raise Boom("boom")


def test_a_one_task_flow_ends_at_once() -> None:
    ended: list[float] = []

    @task
    def t() -> None: ...

    @flow
    def main() -> None:
        t.submit().result()
        ended.append(time.monotonic())

    main()  # the first run of a process also opens the store
    best = float("inf")
    for _ in range(5):
        main()
        best = min(best, time.monotonic() - ended[-1])
    assert best < 0.05


def test_a_script_exits_at_once(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import time\nfrom penstock import flow, task\n"
        "@task\ndef t(x): return x\n"
        "@task\nasync def at(x): return x\n"
        "@flow\ndef main():\n    print(t.submit(1).result(), at.submit(2).result(), t.map([1, 2]).result())\n"
        "main()\nprint(time.time())\n"
    )
    environment = dict(os.environ)
    best = float("inf")
    for _ in range(3):
        done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, timeout=30)
        ended = time.time()
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[0] == "1 2 [1, 2]"
        best = min(best, ended - float(done.stdout.splitlines()[1]))
    assert best < 0.3  # far from the second that joining helper threads would take


def test_a_script_whose_flow_failed_ends_with_a_traceback(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from penstock import flow, task\n@task\ndef t(): raise ValueError('lost')\n"
        "@flow\ndef main(): t.submit()\nmain()\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert done.stderr.rstrip().splitlines()[-2].startswith("ValueError: lost") or "ValueError: lost" in done.stderr


# --- arguments ---------------------------------------------------------------------------------------------


def test_direct_calls_take_futures_and_states_as_arguments() -> None:
    add = task(lambda x, y: x + y)

    def body() -> Any:
        future = add.submit(1, 2)
        state = add(3, 4, return_state=True)
        return add(future, state), add([future], [state])

    assert in_flow(body) == (10, [3, 7])


def test_direct_calls_wait_for_pending_upstreams() -> None:
    gate, order = threading.Event(), []

    @task
    def slow() -> int:
        gate.wait(10)
        order.append("slow")
        return 1

    @task
    def then(x: int = 0) -> int:
        order.append("then")
        return x

    def body() -> Any:
        future = slow.submit()
        threading.Timer(0.02, gate.set).start()
        return then(wait_for=[future]), then(future)

    assert in_flow(body) == (0, 1)
    assert order == ["slow", "then", "then"]


def test_a_blocked_direct_call_names_the_root_failure_and_runs_nothing() -> None:
    ran: list[Any] = []
    hook = [lambda *_: ran.append("hook")]

    @task
    def extract() -> None:
        raise ValueError("x")

    @task(retries=2, on_running=hook, on_failure=hook, on_completion=hook, on_crashed=hook)
    def load(x: Any = None) -> None:
        ran.append("body")

    def body() -> Any:
        bad = extract.submit()
        between = load.submit(bad)
        with pytest.raises(UpstreamTaskError) as caught:
            load(between)
        error = caught.value
        assert placeless(error) == ("Task run 'load-1' did not run: upstream 'extract-0' failed with ValueError: x")
        assert error.task_run_name == "extract-0"
        assert error.task_run_id == bad.task_run_id
        assert error.state is not None and error.state.type is StateType.FAILED
        assert error.__cause__ is bad.exception()

    in_flow(body)
    assert ran == []


def test_allow_failure_lets_a_direct_call_go_on() -> None:
    error = Boom("e")

    @task
    def bad() -> None:
        raise error

    identity = task(lambda x=None: x)

    def body() -> Any:
        future = bad.submit()
        assert identity(allow_failure(future)) is error
        assert identity(wait_for=[allow_failure(future)]) is None

    in_flow(body)


def test_logging_works_in_every_kind_of_run() -> None:
    @task
    def t() -> None:
        get_run_logger().info("hello")

    for run in WAYS:
        run(t)


# --- raising again and again -------------------------------------------------------------------------------


def test_looking_twice_does_not_grow_the_traceback() -> None:
    @task
    def bad() -> None:
        raise Boom("x")

    def body() -> Any:
        future = bad.submit()
        lengths = []
        for _ in range(5):
            try:
                future.result()
            except Boom as error:
                trace, length = error.__traceback__, 0
                while trace is not None:
                    trace, length = trace.tb_next, length + 1
                lengths.append(length)
        return lengths

    assert len(set(in_flow(body))) == 1
