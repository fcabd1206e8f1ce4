"""Sync and async together: which loop, which thread, what blocks, what is refused."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import pytest

import penstock._engine.waiting
from penstock import Future, FutureList, as_completed, flow, get_run_logger, runtime, task, wait
from penstock.exceptions import CancelledRun, CrashedRun, MissingContextError, UpstreamTaskError
from penstock.states import StateType
from penstock.task_runners import SequentialTaskRunner, ThreadPoolTaskRunner

RUNNERS = [
    pytest.param(None, id="default"),
    pytest.param(ThreadPoolTaskRunner(max_workers=1), id="one slot"),
    pytest.param(SequentialTaskRunner(), id="sequential"),
]
every_runner = pytest.mark.parametrize("runner", RUNNERS)


class Boom(Exception):
    pass


@task
def double(x: int) -> int:
    return 2 * x


@task
async def adouble(x: int) -> int:
    await asyncio.sleep(0)
    return 2 * x


@task
async def current_loop() -> Any:
    return asyncio.get_running_loop()


@pytest.fixture
def first_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a fresh process, where nobody has been warned about blocking a loop."""
    monkeypatch.setattr(penstock._engine.waiting, "_warned", False)


# --- awaiting direct calls ---------------------------------------------------------------------------------


def test_direct_async_calls_interleave_at_awaits_as_coroutines_do() -> None:
    printed: list[str] = []

    @task
    async def show(values: str) -> None:
        for value in values:
            printed.append(value)
            await asyncio.sleep(0)

    @flow
    async def main() -> None:
        await show("12")
        await asyncio.gather(show("abcd"), show("6789"))

    asyncio.run(main())
    assert " ".join(printed) == "1 2 a 6 b 7 c 8 d 9"


def test_gathered_calls_run_on_the_loop_of_the_flow() -> None:
    @flow
    async def main() -> Any:
        loops = await asyncio.gather(*[current_loop() for _ in range(5)])
        return set(loops) == {asyncio.get_running_loop()}

    assert asyncio.run(main()) is True


@pytest.mark.parametrize("by", ["argument", "nested argument", "wait_for"])
def test_a_direct_async_call_awaits_its_upstreams_without_blocking_the_loop(by: str) -> None:
    @flow
    async def main() -> Any:
        gate = threading.Event()

        @task
        def slow() -> int:
            gate.wait(10)
            return 5

        @task
        async def then(x: Any = None) -> Any:
            return x

        future = slow.submit()
        arguments = {
            "argument": {"x": future},
            "nested argument": {"x": [future]},
            "wait_for": {"wait_for": [future]},
        }
        call = asyncio.ensure_future(then(**arguments[by]))
        for _ in range(5):  # the loop goes round while the call waits
            await asyncio.sleep(0)
        assert not call.done() and not future.done()
        gate.set()
        return await call

    expected = {"argument": 5, "nested argument": [5], "wait_for": None}
    assert asyncio.run(main()) == expected[by]


def test_a_blocked_direct_async_call_raises() -> None:
    @task
    def bad() -> None:
        raise Boom("b")

    @flow
    async def main() -> None:
        future = bad.submit()
        with pytest.raises(UpstreamTaskError, match=r"adouble-0.*bad-0.*Boom: b"):
            await adouble(future)
        state = await adouble(1, wait_for=[future], return_state=True)
        assert (state.type, state.name) == (StateType.FAILED, "UpstreamFailed")

    asyncio.run(main())


def test_contexts_of_gathered_tasks_are_their_own() -> None:
    @task
    async def name() -> Any:
        before = runtime.task_run.name
        await asyncio.sleep(0)
        return before, runtime.task_run.name

    @flow
    async def main() -> Any:
        got = await asyncio.gather(name(), name())
        assert runtime.task_run.name is None
        return got

    assert asyncio.run(main()) == [("name-0", "name-0"), ("name-1", "name-1")]


# --- submitting --------------------------------------------------------------------------------------------


@every_runner
def test_submitted_async_tasks_share_one_background_loop(runner: Any) -> None:
    @flow(task_runner=runner)
    def main() -> Any:
        return [current_loop.submit() for _ in range(4)]

    @flow(task_runner=runner)
    async def amain() -> Any:
        mine = asyncio.get_running_loop()
        loop = await current_loop.submit()
        assert loop is not mine
        return loop

    first = main()
    assert set(map(id, first)) == {id(first[0])}
    assert asyncio.run(amain()) is first[0]


@every_runner
def test_sync_and_async_tasks_feed_each_other(runner: Any) -> None:
    @flow(task_runner=runner)
    def main() -> Any:
        x: Any = 1
        for _ in range(5):
            x = adouble.submit(double.submit(x))
        return x

    @flow(task_runner=runner)
    async def amain() -> Any:
        x: Any = 1
        for _ in range(5):
            x = adouble.submit(double.submit(x))
        return await x

    assert main() == 1024
    assert asyncio.run(amain()) == 1024


def test_thousands_of_awaits_at_once_need_no_threads() -> None:
    count = 3000
    there: list[int] = []
    all_there = threading.Event()

    @task
    async def meet(release: Any) -> int:
        there.append(1)
        if len(there) == count:
            all_there.set()
        while not all_there.is_set():
            await asyncio.sleep(0.01)
        return 1

    @flow
    def main() -> Any:
        before = threading.active_count()
        futures = [meet.submit(None) for _ in range(count)]
        assert all_there.wait(30)
        assert threading.active_count() - before <= 3
        return sum(future.result() for future in futures)

    assert main() == count


@every_runner
@pytest.mark.filterwarnings("ignore:this wait blocks")
def test_submitted_tasks_are_awaited_in_async_flows(runner: Any) -> None:
    @flow(task_runner=runner)
    async def main() -> Any:
        first = await double.submit(1)
        many = await asyncio.gather(double.submit(2), adouble.submit(3))
        mapped = await double.map([1, 2])
        return first, many, mapped

    assert asyncio.run(main()) == (2, [4, 6], [2, 4])


def test_objects_made_on_the_background_loop_are_shared_by_submitted_tasks() -> None:
    @task
    async def make() -> Any:
        return asyncio.get_running_loop().create_future()

    @task
    async def fill(shared: Any) -> None:
        shared.set_result("filled")

    @task
    async def use(shared: Any) -> Any:
        return await shared

    @flow
    def main() -> Any:
        shared = make.submit()
        used = use.submit(shared)
        fill.submit(shared).result()
        return used.result()

    assert main() == "filled"


def test_a_user_loop_inside_a_task_is_left_alone() -> None:
    # A synchronous task may run a loop of its own.
    @task
    def own_loop(x: int) -> int:
        async def inner() -> int:
            return await adouble(x)

        return asyncio.run(inner())

    @flow
    def main() -> Any:
        return own_loop(1), own_loop.map([1, 2, 3]).result()

    assert main() == (2, [2, 4, 6])


# --- one budget for both kinds of body ---------------------------------------------------------------------


@pytest.mark.parametrize("how", ["await future", "await list", "as_completed", "direct", "argument"])
def test_an_async_task_that_awaits_holds_no_slot(how: str) -> None:
    @task
    async def parent(depth: int) -> int:
        if depth == 0:
            return 1
        if how == "await future":
            return await parent.submit(depth - 1)
        if how == "await list":
            return sum(await parent.map([depth - 1, depth - 1]))
        if how == "as_completed":
            return sum([await done async for done in as_completed([parent.submit(depth - 1)])])
        if how == "direct":
            return await adouble(await double.submit(1)) - 3
        return await adouble(parent.submit(depth - 1)) // 2

    @flow(task_runner=ThreadPoolTaskRunner(max_workers=1))
    def main() -> int:
        return parent.submit(3).result()

    assert main() == (8 if how == "await list" else 1)


def test_an_explicit_size_counts_both_kinds_of_bodies() -> None:
    running, most = [0], [0]
    lock = threading.Lock()

    def enter(by: int) -> None:
        with lock:
            running[0] += by
            most[0] = max(most[0], running[0])

    @task
    def body(x: int) -> None:
        enter(1)
        time.sleep(0.002)
        enter(-1)

    @task
    async def abody(x: int) -> None:
        enter(1)
        await asyncio.sleep(0.002)
        enter(-1)

    @flow(task_runner=ThreadPoolTaskRunner(max_workers=2))
    def main() -> None:
        wait([*body.map(range(20)), *abody.map(range(20))])

    main()
    assert most == [2]


# --- sync inside async -------------------------------------------------------------------------------------


def test_sync_tasks_and_subflows_run_inline_in_an_async_flow() -> None:
    where = task(threading.get_ident)
    sub = flow(threading.get_ident)

    @flow
    async def main() -> Any:
        return {where(), sub(), threading.get_ident()}

    assert len(asyncio.run(main())) == 1


def test_a_sync_subflow_with_submitted_work_runs_in_an_async_flow() -> None:
    @flow
    def sub() -> int:
        return sum(double.map([1, 2]).result()) + adouble.submit(1).result()

    @flow
    async def main() -> int:
        return sub()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        assert asyncio.run(main()) == 8


def test_async_subflows_are_gathered() -> None:
    meet: list[Any] = []

    @flow
    async def sub(n: int) -> int:
        meet.append(n)
        while len(meet) < 3:
            await asyncio.sleep(0)
        return await adouble(n)

    @flow
    async def main() -> Any:
        return await asyncio.gather(sub(1), sub(2), sub(3))

    assert asyncio.run(main()) == [2, 4, 6]


def test_an_async_submitted_task_calls_sync_and_async_tasks() -> None:
    @task
    async def mixed() -> Any:
        return double(1), await adouble(2), threading.get_ident() == double_thread()

    double_thread = task(threading.get_ident)

    @flow
    def main() -> Any:
        return mixed.submit()

    assert main() == (2, 4, True)


# --- forgotten awaits --------------------------------------------------------------------------------------


def test_an_async_task_called_in_a_sync_flow_is_a_coroutine_that_runs_nothing() -> None:
    ran: list[int] = []

    @task
    async def work() -> None:
        ran.append(1)

    @flow
    def main() -> None:
        coroutine = work()
        assert asyncio.iscoroutine(coroutine)
        coroutine.close()

    main()
    assert ran == []


@pytest.mark.parametrize("kind", ["flow", "task", "submitted task", "subflow"])
@pytest.mark.parametrize("what", ["task", "flow", "plain"])
def test_returning_a_coroutine_from_a_sync_function_fails(kind: str, what: str) -> None:
    @flow
    async def aflow(x: int) -> int:
        return x

    async def plain(x: int) -> int:
        return x

    source: Any = {"task": adouble, "flow": aflow, "plain": plain}[what]

    def body() -> Any:
        return source(1)

    def run() -> Any:
        if kind == "flow":
            return flow(body)()
        if kind == "task":
            return task(body)()
        inner: Any = task(body) if kind == "submitted task" else flow(body)
        return flow(lambda: inner.submit().result())()

    with pytest.raises(TypeError) as caught:
        run()
    assert "coroutine" in str(caught.value)
    assert "async" in str(caught.value) and ".submit()" in str(caught.value)
    gc.collect()  # a coroutine that nobody closed would warn now, and warnings are errors


def test_an_async_flow_may_return_a_submitted_future() -> None:
    @flow
    async def main() -> Any:
        return adouble.submit(2)

    assert asyncio.run(main()) == 4


# --- blocking in a loop ------------------------------------------------------------------------------------


BLOCKING = {
    "result": lambda future: future.result(5),
    "exception": lambda future: future.exception(),
    "wait": lambda future: future.wait(),
    "function wait": lambda future: wait([future]),
    "as_completed": lambda future: list(as_completed([future])),
    "list result": lambda future: FutureList([future]).result(),
    "list wait": lambda future: FutureList([future]).wait(),
}
every_blocking = pytest.mark.parametrize("how", list(BLOCKING))


@every_blocking
def test_blocking_in_a_running_loop_works_and_warns_once(how: str, first_warning: None) -> None:
    gate = threading.Event()

    @task
    def slow() -> int:
        gate.wait(10)
        return 1

    @flow
    async def main() -> Any:
        for round_number in range(2):
            gate.clear()
            future = slow.submit()
            threading.Timer(0.02, gate.set).start()
            if round_number == 0:
                with pytest.warns(RuntimeWarning) as caught:
                    BLOCKING[how](future)
                [warning] = caught
                for spelling in ("await fut", "await futures", "async for"):
                    assert spelling in str(warning.message)
                assert "as_completed" in str(warning.message)
            else:
                BLOCKING[how](future)  # a second warning would be an error here
            assert future.done() and future.result() == 1

    asyncio.run(main())


def test_the_warning_points_at_the_users_line(first_warning: None) -> None:
    @task
    def slow() -> None:
        time.sleep(0.02)

    @flow
    async def main() -> Any:
        future = slow.submit()
        with pytest.warns(RuntimeWarning) as caught:
            future.result()
        return caught[0].filename

    assert asyncio.run(main()) == __file__


@every_blocking
def test_finished_work_is_looked_at_without_a_warning(how: str, first_warning: None) -> None:
    @flow
    async def main() -> Any:
        future = double.submit(1)
        await future
        if how.startswith("list"):
            futures = FutureList([future])
            await futures
            return getattr(futures, how.removeprefix("list "))()
        return BLOCKING[how](future)

    asyncio.run(main())


@every_blocking
@every_runner
def test_blocking_on_the_background_loop_is_refused_at_once(how: str, runner: Any, first_warning: None) -> None:
    gate = threading.Event()

    @task
    async def slow() -> int:
        await asyncio.to_thread(gate.wait, 10)
        return 1

    @task
    async def careless() -> Any:
        if isinstance(runner, SequentialTaskRunner):
            return None  # there submit itself blocks
        future = slow.submit()
        try:
            with pytest.raises(RuntimeError) as caught:
                BLOCKING[how](future)
        finally:
            gate.set()
        message = str(caught.value)
        assert "await fut" in message and "await futures" in message and "as_completed" in message
        return None

    @flow(task_runner=runner)
    def main() -> Any:
        return careless.submit()

    main()


def test_submitting_to_a_sequential_runner_from_the_background_loop_does_not_hang() -> None:
    # A corner: either it works or submitting is refused. Waiting for ever is no option.
    @task
    async def parent() -> Any:
        return await adouble.submit(1)

    @flow(task_runner=SequentialTaskRunner())
    def main() -> Any:
        future = parent.submit()
        error = future.exception()
        return "refused" if isinstance(error, RuntimeError) else future.result()

    assert main() in ("refused", 2)


# --- asyncio's own tools -----------------------------------------------------------------------------------


def test_a_cancelled_asyncio_task_ends_the_run_crashed() -> None:
    states: list[Any] = []
    started = asyncio.Event()

    @task(on_crashed=[lambda t, r, s: states.append(s)])
    async def forever() -> None:
        started.set()
        await asyncio.Event().wait()

    @flow
    async def main() -> str:
        running = asyncio.ensure_future(forever())
        await started.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        return "went on"

    assert asyncio.run(main()) == "went on"
    [state] = states
    assert state.type is StateType.CRASHED
    assert "cancelled by the runtime environment" in state.message


@pytest.mark.parametrize("tool", ["timeout", "wait_for", "TaskGroup"])
def test_asyncio_tools_around_direct_calls(tool: str) -> None:
    states: list[Any] = []

    @task(on_crashed=[lambda t, r, s: states.append((s.type, s.message))])
    async def forever() -> None:
        await asyncio.Event().wait()

    @task
    async def fail() -> None:
        raise Boom("group")

    @flow
    async def main() -> str:
        if tool == "timeout":
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await forever()
        elif tool == "wait_for":
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(forever(), 0.01)
        else:
            with pytest.raises(ExceptionGroup) as caught:
                async with asyncio.TaskGroup() as group:
                    group.create_task(forever())
                    group.create_task(fail())
            assert [str(error) for error in caught.value.exceptions] == ["group"]
        return "went on"

    assert asyncio.run(main()) == "went on"
    assert states == [(StateType.CRASHED, "Task run was cancelled by the runtime environment.")]


def test_a_cancelled_flow_ends_crashed_and_propagates() -> None:
    states: list[Any] = []

    @flow(on_crashed=[lambda f, r, s: states.append((s.type, s.message))])
    async def main() -> None:
        await asyncio.Event().wait()

    async def outside() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await main()

    asyncio.run(outside())
    assert states == [(StateType.CRASHED, "Flow run was cancelled by the runtime environment.")]


def test_a_cancelled_wait_for_inputs_ends_the_run_crashed_before_its_body() -> None:
    gate, ran, states = threading.Event(), [], []

    @task
    def slow() -> None:
        gate.wait(10)

    @task(on_crashed=[lambda t, r, s: states.append(s.type)])
    async def then(x: Any) -> None:
        ran.append(1)

    @flow
    async def main() -> None:
        future = slow.submit()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(then(future), 0.01)
        gate.set()
        await future

    asyncio.run(main())
    assert ran == [] and states == [StateType.CRASHED]


@pytest.mark.parametrize("kind", ["flow", "task", "flow in flow", "task in flow"])
def test_a_cancellation_after_the_body_does_not_leave_the_run_unfinished(kind: str) -> None:
    kept: list[Any] = []

    def cancel_caller(definition: Any, run: Any, state: Any) -> None:
        kept.append(run)
        current = asyncio.current_task()
        assert current is not None
        current.cancel()

    async def body() -> int:
        return 1

    decorate: Any = flow if kind.startswith("flow") else task
    inner: Any = decorate(on_completion=[cancel_caller])(body)

    @flow
    async def around() -> str:
        with pytest.raises(asyncio.CancelledError):
            await inner()
            await asyncio.sleep(0)
        return "went on"

    async def outside() -> None:
        with pytest.raises(asyncio.CancelledError):
            await inner()
            await asyncio.sleep(0)

    asyncio.run(around() if kind.endswith("in flow") else outside())
    [run] = kept
    assert run.state.type is StateType.COMPLETED
    with pytest.raises(MissingContextError):  # no run is active any more
        get_run_logger()


def test_return_state_does_not_swallow_asyncio_cancellation() -> None:
    @task
    async def forever() -> None:
        await asyncio.Event().wait()

    @flow
    async def main() -> str:
        running = asyncio.ensure_future(forever(return_state=True))
        await asyncio.sleep(0)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        return "went on"

    assert asyncio.run(main()) == "went on"


def test_cancelling_an_awaiter_does_not_cancel_the_run() -> None:
    gate = threading.Event()

    @task
    async def slow() -> int:
        await asyncio.to_thread(gate.wait, 10)
        return 7

    @flow
    async def main() -> Any:
        future = slow.submit()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await future
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.ensure_future(_await(future)), 0.01)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                assert await double.map([]) == []  # nothing to wait for: this one ends at once
                await FutureList([future])
        assert not future.done() and future.state.type is StateType.RUNNING
        gate.set()
        return await future

    assert asyncio.run(main()) == 7


async def _await(future: Any) -> Any:
    return await future


def test_awaiting_a_cancelled_run_raises_cancelled_run() -> None:
    @task
    async def forever() -> None:
        await asyncio.Event().wait()

    @flow
    async def main() -> str:
        future = forever.submit()
        assert future.cancel() is True
        with pytest.raises(CancelledRun) as caught:
            await future
        assert not isinstance(caught.value, asyncio.CancelledError)
        assert future.cancelled()
        return "went on"

    assert asyncio.run(main()) == "went on"


@pytest.mark.parametrize("how", ["direct", "submitted"])
def test_a_raised_cancelled_error_is_a_crash(how: str) -> None:
    @task
    async def odd() -> None:
        raise asyncio.CancelledError("by hand")

    @flow
    async def main() -> Any:
        if how == "direct":
            with pytest.raises(asyncio.CancelledError):
                await odd()
            return None
        future = odd.submit()
        with pytest.raises(CrashedRun):
            await future
        return future.state.type

    assert asyncio.run(main()) in (None, StateType.CRASHED)


def test_a_system_exit_in_a_submitted_async_task_stops_neither_loop_nor_program() -> None:
    @task
    async def leave() -> None:
        raise SystemExit(3)

    @flow
    def main() -> Any:
        future = leave.submit()
        error = future.exception()
        return error, adouble.submit(4).result()

    error, after = main()
    assert type(error) is CrashedRun and isinstance(error.__cause__, SystemExit)
    assert after == 8


# --- awaiting from elsewhere -------------------------------------------------------------------------------


def test_futures_are_awaited_by_a_loop_that_did_not_make_them() -> None:
    @flow
    def main() -> Any:
        future = adouble.submit(2)

        async def elsewhere() -> Any:
            return await future, await double.map([1])

        return asyncio.run(elsewhere())

    assert main() == (4, [2])


def test_a_loop_that_closes_while_it_waits_does_no_harm() -> None:
    gate = threading.Event()

    @task
    def slow() -> int:
        gate.wait(10)
        return 1

    @flow
    def main() -> Any:
        future = slow.submit()

        async def give_up() -> None:
            async with asyncio.timeout(0.01):
                await future

        with pytest.raises(TimeoutError):
            asyncio.run(give_up())
        gate.set()
        return future

    assert main() == 1


def test_many_coroutines_await_one_future() -> None:
    gate = threading.Event()

    @task
    def slow() -> object:
        gate.wait(10)
        return object()

    @flow
    async def main() -> Any:
        future: Future[Any] = slow.submit()
        waiting = [asyncio.ensure_future(_await(future)) for _ in range(20)]
        await asyncio.sleep(0)
        gate.set()
        return len(set(map(id, await asyncio.gather(*waiting))))

    assert asyncio.run(main()) == 1


def test_async_hooks_fire_for_sync_and_async_tasks() -> None:
    fired: list[str] = []

    async def hook(t: Any, run: Any, state: Any) -> None:
        await asyncio.sleep(0)
        fired.append(run.name)

    options: Any = {"on_running": [hook], "on_completion": [hook]}
    one = task(name="one", **options)(double.fn)
    two = task(name="two", **options)(adouble.fn)

    @flow
    def main() -> None:
        one(1)
        one.submit(1).result()
        two.submit(1).result()

    main()
    asyncio.run(two(1))
    assert fired == ["one-0"] * 2 + ["one-1"] * 2 + ["two-0"] * 2 + ["two"] * 2


# --- notebooks ---------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:this wait blocks")
@every_runner
def test_sync_flows_work_where_a_loop_is_running(runner: Any) -> None:
    """A notebook cell is synchronous code called by a running loop."""

    @flow(task_runner=runner)
    def main() -> Any:
        return double.submit(1).result(), adouble.submit(2).result(), double.map([1, 2]).result()

    async def cell() -> Any:
        first = main()
        second = main()
        return first, second

    assert asyncio.run(cell()) == ((2, 4, [2, 4]),) * 2


def test_async_flows_are_awaited_in_a_cell(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            import asyncio
            from penstock import flow, task
            @task
            async def at(x): return x
            @flow
            async def main():
                return await at(1) + await at.submit(2)
            async def cell():
                print(await main(), await main())
            asyncio.run(cell())
            """
        )
    )
    done = subprocess.run([sys.executable, "-W", "error", script], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, "3 3\n", done.stderr)
    assert "Traceback" not in done.stderr and "Warning" not in done.stderr


def test_what_a_body_gathers_lends_its_slot() -> None:
    @task
    def leaf(x: int) -> int:
        return x

    @task
    async def inner(x: int) -> int:
        return x

    @task
    async def outer() -> list[int]:
        return await asyncio.gather(inner(leaf.submit(1)), inner(leaf.submit(2)), inner(3))

    @flow(task_runner=ThreadPoolTaskRunner(max_workers=1))
    def main() -> list[list[int]]:
        return [future.result() for future in [outer.submit() for _ in range(3)]]

    assert main() == [[1, 2, 3]] * 3


def test_a_body_that_ends_while_something_of_it_rests_gives_its_slot_back_once() -> None:
    gate = threading.Event()
    at_once, most = [0], [0]

    @task
    def blocked() -> None:
        gate.wait(5)

    @task
    async def careless() -> None:
        left = asyncio.ensure_future(wait_for_it())
        await asyncio.sleep(0.01)
        left.add_done_callback(lambda _: None)

    async def wait_for_it() -> None:
        await blocked.submit()

    @task
    def count() -> None:
        at_once[0] += 1
        most[0] = max(most[0], at_once[0])
        time.sleep(0.002)
        at_once[0] -= 1

    @flow(task_runner=ThreadPoolTaskRunner(max_workers=2))
    def main() -> None:
        careless.submit()
        counts = [count.submit() for _ in range(20)]
        for future in counts[:5]:
            future.result()
        gate.set()
        for future in counts:
            future.result()

    main()
    assert most[0] <= 2
