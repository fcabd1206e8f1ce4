"""Results that stay where they were made: who gets them, who gets what stands for them, and when they come home."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future as StandardFuture
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import pytest

from penstock import State, allow_failure, as_completed, flow, quote, runtime, task, unmapped, wait
from penstock._core import serial
from penstock._core.machine import Event
from penstock.context import get_run_context
from penstock.exceptions import MissingResult, UpstreamTaskError, WorkerLost
from penstock.futures import resolve_futures_to_results, resolve_futures_to_states
from penstock.states import StateType
from penstock.task_runners import ThreadPoolTaskRunner, base
from penstock.task_runners.base import Capabilities, Kept
from penstock.testing import isolated_store


class Big:
    """A value that stays where it was made."""

    def __init__(self, content: Any) -> None:
        self.content = content

    def __repr__(self) -> str:
        raise AssertionError("showing a value runs no code of its class")


@dataclass
class There(Kept):
    """A dataclass, like the values that are searched for futures and shown by their fields."""

    holder: Any
    value: Any
    far: Far
    shown: str = "<big>"

    def fetch(self) -> Any:
        assert not threading.current_thread().name.startswith("far"), "the runner's own thread must not wait"
        self.far.fetched.append(threading.current_thread())
        if not self.far.gate.wait(10):
            raise AssertionError("nobody opened the gate")
        if self.far.lost is not None:
            raise self.far.lost
        return self.value


class Far:
    """Where `FarRunner` executes bodies: what is the same for all flow runs of a test."""

    def __init__(self) -> None:
        self.fetched: list[threading.Thread] = []
        self.kept: weakref.WeakSet[Holder] = weakref.WeakSet()
        self.gate = threading.Event()  # fetching waits for it
        self.gate.set()
        self.lost: BaseException | None = None  # fetching raises it
        self.sent: list[serial.Packed] = []  # visits
        self.is_open = 0

    @property
    def fetches(self) -> int:
        return len(self.fetched)


class Holder:
    """What is alive as long as its `Kept` is; those have an equality of their own and are not hashable."""


class FarRunner(base.TaskRunner):
    """Pickles calls and executes each on a thread of its own; keeps results that are big, or lists."""

    capabilities = Capabilities(shares_memory=False, runs_async=True, keeps_values=True)

    def __init__(self, far: Far) -> None:
        self.far = far

    def start(self) -> None:
        self.far.is_open += 1

    def close(self, *, cancel: bool = False) -> None:
        self.far.is_open -= 1

    def duplicate(self) -> Self:
        return type(self)(self.far)

    def execute(self, call: Any) -> StandardFuture[Any] | None:
        threading.Thread(target=self._serve, args=(call,), name="far", daemon=True).start()
        return None

    def _serve(self, call: Any) -> None:
        if not call.board(self):
            return
        try:
            household, common, visit = call.pack()
        except Exception as error:
            call.refuse(error)
            return
        if call.start_away():
            self.far.sent.append(visit)
            call.arrive(self._visit(call, household, common, visit))

    def _visit(self, call: Any, household: serial.Packed, common: serial.Packed | None, visit: serial.Packed) -> Any:
        assert all(kept.holder is self for kept in visit.handles)
        home = base.open_home(serial.unpack(household), ThreadPoolTaskRunner, call.note)
        facts = serial.unpack(visit, [kept.value for kept in visit.handles])
        report = home.visit(facts, {} if common is None else serial.unpack(common), lambda: False)
        if report.event != Event.RETURNED or type(report.value) not in (Big, list):
            return report
        kept = There(self, report.value, self.far)
        kept.alive = Holder()  # type: ignore[attr-defined]
        self.far.kept.add(kept.alive)  # type: ignore[attr-defined]
        return report._replace(value=kept)

    def ask_to_stop(self, call: Any) -> None: ...
    def kill(self, call: Any) -> None: ...
    def where(self, call: Any) -> str:
        return "far away"


@pytest.fixture(autouse=True)
def root_logger() -> Iterator[None]:
    """A worker's logger sends lines home; this process is at home."""
    before = logging.root.handlers[:]
    yield
    logging.root.handlers[:] = before


executed: list[Any] = []  # here, and so found by functions that are pickled by reference


@pytest.fixture
def far() -> Far:
    executed.clear()
    return Far()


def in_flow(far: Far, body: Callable[[], Any], **options: Any) -> Any:
    return flow(task_runner=FarRunner(far), **options)(body)()


@task
def make(content: Any = 1) -> Any:
    return Big(content)


@task
def grow(big: Any) -> Any:
    assert type(big) is Big
    return Big(big.content + 1)


@task
def look(value: Any) -> Any:
    """Where it stands, a `Big` by its content."""
    return tuple(map(look.fn, value)) if type(value) in (list, tuple) else value.content


@task
async def look_later(value: Any) -> Any:
    await asyncio.sleep(0)
    return value.content


@task
def make_list(length: int) -> list[int]:
    return list(range(length))


@task
def double(value: Any) -> Any:
    return 2 * value


@task
def fail() -> None:
    raise LookupError("lost its way")


@task(retries=2)
def stubborn(big: Any) -> Any:
    executed.append(big.content)
    if len(executed) < 3:
        raise ValueError("again")
    return big.content


@task
def remember() -> None:
    executed.append(threading.current_thread().name)


# --- between tasks --------------------------------------------------------------------------------------------------


def test_a_chain_of_tasks_fetches_nothing(far: Far) -> None:
    def body() -> int:
        future = make.submit(1)
        for _ in range(5):
            future = grow.submit(future)
        return look.submit(future).result()

    assert in_flow(far, body) == 6
    assert far.fetches == 0
    assert [len(visit.handles) for visit in far.sent] == [0, 1, 1, 1, 1, 1, 1]


def test_a_value_is_not_in_the_pickle(far: Far) -> None:
    content = "content that is nowhere else"

    def body() -> Any:
        return look.submit(make.submit(content)).result()

    assert in_flow(far, body) == content
    maker, looker = far.sent
    assert content.encode() in maker.data
    assert content.encode() not in looker.data


def test_asynchronous_tasks_get_it_as_well(far: Far) -> None:
    assert in_flow(far, lambda: look_later.submit(make.submit(3)).result()) == 3
    assert far.fetches == 0


class Pair(NamedTuple):
    left: Any
    right: Any


@dataclass
class Parcel:
    inside: Any
    label: str = "parcel"


def test_containers_hold_them_at_any_depth(far: Far) -> None:
    @task
    def unpack(parcel: Any, more: Any) -> Any:
        (pair,) = parcel.inside["deep"]
        assert type(pair) is Pair and parcel.label == "parcel"
        return pair.left.content, pair.right.content, look.fn(more), pair.left is more[0]

    def body() -> Any:
        futures = make.map([1, 2, 3])
        parcel = Parcel({"deep": [Pair(futures[0], futures[1])]})
        return unpack.submit(parcel, futures).result()

    assert in_flow(far, body) == (1, 2, (1, 2, 3), True)
    assert far.fetches == 0
    assert len(far.sent[-1].handles) == 3  # each once, although two are used twice


def test_states_are_arguments_as_well(far: Far) -> None:
    def body() -> Any:
        state = make.submit(7, return_state=True)
        return look.submit([state]).result()

    assert in_flow(far, body) == (7,)
    assert far.fetches == 0


def test_a_list_that_is_still_to_come(far: Far) -> None:
    @task
    def slow_list() -> list[int]:
        return [4, 5]

    def body() -> Any:
        return look.submit(make.map(slow_list.submit())).result()

    assert in_flow(far, body) == (4, 5)
    assert far.fetches == 1  # the list that was mapped over


def test_under_allow_failure_too(far: Far) -> None:
    @task
    def compare(values: Any) -> Any:
        return tuple(type(value).__name__ for value in values)

    def body() -> Any:
        return compare.submit(allow_failure([make.submit(1), fail.submit()])).result()

    assert in_flow(far, body) == ("Big", "LookupError")
    assert far.fetches == 0


def test_every_attempt_gets_it(far: Far) -> None:
    assert in_flow(far, lambda: stubborn.submit(make.submit(8)).result()) == 8
    assert executed == [8, 8, 8]
    assert far.fetches == 0


def test_what_is_shared_and_what_is_kept(far: Far) -> None:
    """The arguments that all children of a map have in common travel apart from those that are kept."""

    @task
    def use(number: int, text: str, big: Any) -> Any:
        return number + len(text) + big.content

    def body() -> Any:
        return use.map([1, 2, 3], text=unmapped("x" * 300_000), big=unmapped(make.submit(10))).result()

    assert in_flow(far, body) == [300_011, 300_012, 300_013]
    assert far.fetches == 0


def test_the_culprit_is_named_beside_a_kept_value(far: Far) -> None:
    def body() -> Any:
        return look.submit([make.submit(1), {"lock": threading.Lock()}]).exception()

    error = in_flow(far, lambda: quote(body())).value
    assert type(error).__name__ == "SerializationError"
    assert error.path == "value[1]['lock']"


# --- at home --------------------------------------------------------------------------------------------------------


def test_result_fetches(far: Far) -> None:
    def body() -> Any:
        future = make.submit(2)
        wait([future])
        assert future.done() and far.fetches == 0
        assert future.exception() is None and far.fetches == 0
        return future.result().content, future.result(raise_on_failure=False).content

    assert in_flow(far, body) == (2, 2)
    assert far.fetches == 2
    assert threading.current_thread() not in far.fetched


def test_state_fetches_when_it_is_asked(far: Far) -> None:
    def body() -> Any:
        future = make.submit(2)
        future.wait()
        state = future.state
        assert state.is_completed() and repr(state) == "Completed(message=None, type=COMPLETED, data=<big>)"
        assert future.state is state and far.fetches == 0
        return state.result().content, state.data.content, resolve_futures_to_states([future])[0].result().content

    assert in_flow(far, body) == (2, 2, 2)
    assert far.fetches == 3


def test_lists_fetch_all_at_once(far: Far) -> None:
    def body() -> Any:
        futures = make.map(range(20))
        futures.wait()
        far.gate.clear()
        threading.Timer(0.05, far.gate.set).start()
        first = [big.content for big in futures.result()]
        assert far.fetches == 20
        return first, [big.content for big in futures.result(raise_on_failure=False)]

    assert in_flow(far, body) == (list(range(20)), list(range(20)))
    assert len(set(far.fetched)) == 40


def test_a_list_with_a_failure_fetches_nothing(far: Far) -> None:
    @task
    def some(n: int) -> Any:
        if n == 1:
            raise LookupError("no one")
        return Big(n)

    def body() -> Any:
        futures = some.map(range(3))
        futures.wait()
        with pytest.raises(LookupError):
            futures.result()
        assert far.fetches == 0
        first, error, last = futures.result(raise_on_failure=False)
        return first.content, str(error), last.content

    assert in_flow(far, body) == (0, "no one", 2)


def test_expressions_and_completions(far: Far) -> None:
    def body() -> Any:
        futures = make.map([1, 2])
        assert sorted(future.result().content for future in as_completed(futures)) == [1, 2]
        return look.fn(resolve_futures_to_results({"a": futures})["a"])

    assert in_flow(far, body) == (1, 2)


def test_a_direct_call_gets_the_value(far: Far) -> None:
    assert in_flow(far, lambda: look(make.submit(4))) == 4
    assert far.fetches == 1


def test_a_subflow_gets_the_value(far: Far) -> None:
    @flow
    def inner(big: Big) -> Any:
        assert type(big) is Big
        return big.content, runtime.flow_run.parameters["big"].content

    def body() -> Any:
        future = make.submit(4)
        return inner(future), inner.submit(future).result()

    assert in_flow(far, body) == ((4, 4), (4, 4))
    assert far.fetches == 2


def test_a_flow_with_another_runner_gets_the_value(far: Far) -> None:
    """What one runner has kept means nothing to another one, not even to one of the same kind."""

    @flow(task_runner=FarRunner(far))
    def inner(outside: Any) -> Any:
        return look.submit(outside).result(), look.submit([outside, make.submit(5)]).result()

    assert in_flow(far, lambda: inner(quote(make.submit(4)))) == (4, (4, 5))
    assert far.fetches == 2
    assert len(far.sent[-1].handles) == 1


def test_a_task_on_threads_gets_the_value(far: Far) -> None:
    @flow(task_runner=ThreadPoolTaskRunner(max_workers=1))
    def inner(outside: Any) -> Any:
        later = look_later.submit(outside)
        return look.submit(outside).result(), look.map([outside] * 40).result(), later.result()

    assert in_flow(far, lambda: inner(quote(make.submit(4)))) == (4, [4] * 40, 4)


def test_an_asynchronous_body_that_stays_at_home_gets_the_value(far: Far) -> None:
    class SynchronousOnly(FarRunner):
        capabilities = Capabilities(shares_memory=False, keeps_values=True)

    body = flow(task_runner=SynchronousOnly(far))(lambda: look_later.submit(make.submit(4)).result())
    assert body() == 4
    assert far.fetches == 1


def test_a_flow_returns_values(far: Far) -> None:
    def body() -> Any:
        return {"one": make.submit(1), "more": make.map([2, 3])}

    found = in_flow(far, body)
    assert (found["one"].content, [big.content for big in found["more"]]) == (1, [2, 3])
    assert far.is_open == 0

    assert in_flow(far, lambda: make.submit(5)).content == 5


def test_a_flow_that_returns_states_has_their_values(far: Far) -> None:
    """They are there before the runner is closed."""

    def body() -> Any:
        futures = make.map([1, 2])
        futures.wait()
        return [future.state for future in futures]

    states = in_flow(far, body)
    fetches = far.fetches
    far.lost = WorkerLost("gone")
    assert [state.result().content for state in states] == [1, 2]
    assert far.fetches == fetches == 2

    far.lost = None
    assert in_flow(far, lambda: ["beside", make.submit(3, return_state=True)])[1].result().content == 3


def test_a_generator_gets_the_value(far: Far) -> None:
    @task
    def count(big: Big) -> Iterator[int]:
        yield from range(big.content)

    assert in_flow(far, lambda: tuple(count(make.submit(3)))) == (0, 1, 2)


def test_a_runner_used_alone(far: Far) -> None:
    with FarRunner(far) as runner:
        future = runner.submit(make, {"content": 3})
        assert runner.submit(look, {"value": future}).result() == 3
        assert far.fetches == 0
        assert future.result().content == 3
    assert future.result().content == 3  # this runner's values outlive it


def test_done_callbacks_may_ask(far: Far) -> None:
    found: list[int] = []

    def body() -> None:
        futures = make.map(range(5))
        for future in futures:
            future.add_done_callback(lambda done: found.append(done.result().content))
        futures.wait()

    in_flow(far, body)
    assert sorted(found) == [0, 1, 2, 3, 4]


# --- maps -----------------------------------------------------------------------------------------------------------


@task
async def triple(value: int) -> int:
    return 3 * value


def test_map_over_a_kept_list(far: Far) -> None:
    def body() -> Any:
        done, going_on = make_list.submit(3), make_list.submit(2)
        done.wait()
        return double.map(done).result(), triple.map(going_on).result(), double.map(done.state).result()

    assert in_flow(far, body) == ([0, 2, 4], [0, 3], [0, 2, 4])
    assert far.fetches == 3


def test_map_does_not_wait_for_the_list(far: Far) -> None:
    def body() -> Any:
        done = make_list.submit(3)
        done.wait()
        far.gate.clear()
        futures = double.map(done)
        assert "unexpanded" in repr(futures)
        far.gate.set()
        return futures

    assert in_flow(far, body) == [0, 2, 4]


def test_a_list_that_cannot_be_fetched_fails_the_map(far: Far) -> None:
    far.lost = WorkerLost("gone")

    def body() -> Any:
        done = make_list.submit(3)
        done.wait()
        for futures in (double.map(done), double.map(make_list.submit(3))):
            with pytest.raises(WorkerLost, match="gone"):
                futures.result()
        with pytest.raises(WorkerLost, match="gone"):
            next(double.imap(done))

    in_flow(far, body)


def test_imap_over_a_kept_list(far: Far) -> None:
    def body() -> Any:
        done = make_list.submit(3)
        done.wait()
        return [
            [future.result() for future in double.imap(numbers, ordered=True)]
            for numbers in (done, make_list.submit(2))
        ]

    assert list(in_flow(far, body)) == [[0, 2, 4], [0, 2]]
    assert far.fetches == 2


def test_imap_in_a_coroutine(far: Far) -> None:
    @flow(task_runner=FarRunner(far))
    async def main() -> Any:
        done = make_list.submit(3)
        await done
        return [await future async for future in double.imap(done, ordered=True)]

    assert asyncio.run(main()) == [0, 2, 4]


# --- coroutines -----------------------------------------------------------------------------------------------------


async def _turns(until: Callable[[], bool]) -> int:
    """How often the loop comes round meanwhile."""
    turns = 0
    while not until():
        await asyncio.sleep(0.001)
        turns += 1
    return turns


def test_awaiting_does_not_block_the_loop(far: Far) -> None:
    @flow(task_runner=FarRunner(far))
    async def main() -> Any:
        future, futures = make.submit(1), make.map([2, 3])
        await asyncio.to_thread(wait, [future, *futures])
        far.gate.clear()
        one, more = asyncio.ensure_future(_value(future)), asyncio.ensure_future(_value(futures))
        await _turns(lambda: far.fetches == 3)
        assert await _turns(iter([False] * 5 + [True]).__next__) == 5
        far.gate.set()
        return (await one).content, [big.content for big in await more]

    assert asyncio.run(main()) == (1, [2, 3])


async def _value(awaitable: Any) -> Any:
    return await awaitable


def test_an_awaited_call_does_not_block_the_loop(far: Far) -> None:
    @flow(task_runner=FarRunner(far))
    async def main() -> Any:
        future = make.submit(1)
        await asyncio.to_thread(future.wait)
        far.gate.clear()
        call = asyncio.ensure_future(look_later(future))
        await _turns(lambda: far.fetches == 1)
        far.gate.set()
        return await call

    assert asyncio.run(main()) == 1


def test_result_in_a_coroutine_is_advised_against(far: Far, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock._engine.waiting._warned", False)

    @flow(task_runner=FarRunner(far))
    async def main() -> Any:
        future = make.submit(1)
        await asyncio.to_thread(future.wait)
        far.gate.clear()
        threading.Timer(0.05, far.gate.set).start()
        with pytest.warns(RuntimeWarning, match="use `await fut`"):
            return future.result().content

    assert asyncio.run(main()) == 1


def test_result_on_the_background_loop_works(far: Far) -> None:
    """It cannot wait for anything that this loop would have to do."""

    class SynchronousOnly(FarRunner):
        capabilities = Capabilities(shares_memory=False, keeps_values=True)

    @task
    async def inside(outside: Any) -> Any:
        return outside.result().content

    def body() -> Any:
        future = make.submit(1)
        future.wait()
        return inside.submit(quote(future)).result()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert flow(task_runner=SynchronousOnly(far))(body)() == 1


# --- names, hooks, facts --------------------------------------------------------------------------------------------


def test_a_run_name_made_of_the_value(far: Far) -> None:
    @task(task_run_name="of {big.content}, {again[0].content}")
    def named(big: Any, again: Any = None) -> Any:
        return runtime.task_run.name, big.content

    def body() -> Any:
        return named.submit(make.submit(4), [make.submit(5)]).result()

    assert in_flow(far, body) == ("of 4, 5", 4)
    assert far.fetches == 2


def test_a_run_name_made_by_a_callable(far: Far) -> None:
    def name(parameters: dict[str, Any]) -> str:
        return f"of {parameters['big'].content}"

    def plain_name() -> str:
        assert not threading.current_thread().name.startswith("far")
        return f"asks {runtime.task_run.parameters['big'].content}"

    def body() -> Any:
        future = make.submit(4)
        runs = [task(task_run_name=option)(_named).submit(future) for option in (name, plain_name)]
        return [run.result() for run in runs]

    assert in_flow(far, body) == ["of 4", "asks 4"]
    assert far.fetches == 2


def _named(big: Any) -> Any:
    return runtime.task_run.name


def test_a_run_name_that_does_not_need_the_value(far: Far) -> None:
    @task(task_run_name="fold {fold} of {{big}}")
    def named(big: Any, fold: int) -> Any:
        return runtime.task_run.name, big.content

    @task(task_run_name="fold {fold}")
    def plain(big: Any, fold: int) -> Any:
        return runtime.task_run.name, big.content

    assert in_flow(far, lambda: plain.submit(make.submit(4), 2).result()) == ("fold 2", 4)
    assert far.fetches == 0
    assert in_flow(far, lambda: named.submit(make.submit(4), 2).result()) == ("fold 2 of {big}", 4)


def test_hooks_see_values(far: Far) -> None:
    seen: list[Any] = []

    def on_end(task: Any, run: Any, state: State[Any]) -> None:
        seen.append((run.parameters["big"].content, state.result().content))
        seen.append(run.parameters["big"] is run.parameters["big"])
        seen.append(runtime.task_run.parameters["big"].content)
        seen.append(get_run_context().parameters["big"].content)

    def on_start(task: Any, run: Any, state: State[Any]) -> None:
        seen.append(run.parameters["big"].content)

    hooked = task(on_running=[on_start], on_completion=[on_end])(grow.fn)
    in_flow(far, lambda: hooked.submit(make.submit(1)).wait())
    assert seen == [1, (1, 2), True, 1, 1]


def test_retry_conditions_see_values(far: Far) -> None:
    seen: list[Any] = []

    def condition(task: Any, run: Any, state: State[Any]) -> bool:
        seen.append((run.parameters["value"].content, type(state.data)))
        return False

    @task(retries=3, retry_condition_fn=condition)
    def bad(value: Any) -> None:
        raise KeyError(value.content)

    in_flow(far, lambda: bad.submit(make.submit(6)).exception() and None)
    assert seen == [(6, KeyError)]


def test_the_record_shows_the_short_text(far: Far) -> None:
    with isolated_store() as store:
        in_flow(far, lambda: look.submit([make.submit(1)]).wait())
        rows = {row.run_name: row for row in store.children(store.runs()[0].id)}
    assert rows["make-0"].result == "<big>"
    assert rows["look-0"].parameters == '{"value":"[<big>]"}'
    assert far.fetches == 0


# --- what goes wrong ------------------------------------------------------------------------------------------------


def test_whoever_asks_gets_the_error(far: Far) -> None:
    far.lost = WorkerLost("gone", worker="w")

    def body() -> None:
        future = make.submit(1)
        for ask in (future.result, lambda: future.result(raise_on_failure=False), lambda: future.state.result()):
            future.wait()
            with pytest.raises(WorkerLost, match="gone") as caught:
                ask()
            assert caught.value is far.lost
        with pytest.raises(WorkerLost):
            make.map([1, 2]).result()
        assert future.state.is_completed()

    in_flow(far, body)


def test_whoever_awaits_gets_the_error(far: Far) -> None:
    far.lost = WorkerLost("gone")

    @flow(task_runner=FarRunner(far))
    async def main() -> None:
        for awaitable in (make.submit(1), make.map([1, 2])):
            with pytest.raises(WorkerLost, match="gone"):
                await awaitable

    asyncio.run(main())


def test_what_would_end_the_program_is_told_as_an_error(far: Far) -> None:
    far.lost = SystemExit("enough")
    with pytest.raises(MissingResult, match="SystemExit: enough"):
        in_flow(far, lambda: make.submit(1).result())


def test_a_run_that_needs_the_value_here_fails(far: Far) -> None:
    far.lost = WorkerLost("gone")
    started: list[Any] = []

    @task
    def here(value: Any) -> None:
        started.append(value)

    @flow
    def inner(value: Any) -> None:
        started.append(value)

    @task(task_run_name="of {value.content}")
    def named(value: Any) -> None:
        started.append(value)

    def body() -> Any:
        future = make.submit(1)
        after = [double.submit(run) for run in (named.submit(future), inner.submit(future))]
        for run in after:
            with pytest.raises(UpstreamTaskError, match="WorkerLost: gone") as caught:
                run.result()
            assert caught.value.__cause__ is far.lost
        with pytest.raises(WorkerLost, match="gone"):
            here(future)
        return here(future, return_state=True)

    assert in_flow(far, lambda: quote(body())).value.type is StateType.FAILED
    assert started == []


def test_a_flow_that_fails_fetches_nothing(far: Far) -> None:
    with pytest.raises(LookupError):
        in_flow(far, lambda: [make.submit(1), fail.submit()])
    assert far.fetches == 0


def test_a_flow_that_cannot_return_the_value_fails(far: Far) -> None:
    far.lost = WorkerLost("gone")
    for body in (lambda: [make.submit(1)], lambda: make.submit(1, return_state=True)):
        with pytest.raises(WorkerLost, match="gone"):
            in_flow(far, body)


def test_others_do_not_care(far: Far) -> None:
    """The value is lost for us; the runner still has it."""
    far.lost = WorkerLost("gone")
    assert in_flow(far, lambda: look.submit(make.submit(1)).result()) == 1


def test_a_run_can_be_cancelled_while_its_input_is_fetched(far: Far) -> None:
    @flow
    def inner(value: Any) -> None:
        raise AssertionError("was cancelled")

    def body() -> Any:
        future = make.submit(1)
        future.wait()
        far.gate.clear()
        run = inner.submit(future)
        assert run.cancel()
        run.wait()
        far.gate.set()
        return run.state.type

    assert in_flow(far, body) is StateType.CANCELLED


def test_a_body_that_fetches_can_be_cancelled(far: Far) -> None:
    waiting = threading.Event()

    @flow
    def inner(outside: Any) -> None:
        waiting.set()
        outside.result()

    def body() -> Any:
        future = make.submit(1)
        future.wait()
        far.gate.clear()
        run = inner.submit(quote(future))
        waiting.wait(5)
        run.cancel()
        run.wait()
        cancelled = run.cancelled()
        far.gate.set()
        return cancelled

    assert in_flow(far, body) is True


# --- memory and threads ---------------------------------------------------------------------------------------------


def test_what_nobody_can_ask_for_is_let_go(far: Far) -> None:
    def body() -> None:
        first = make.submit(1)
        second = grow.submit(first)
        second.wait()
        assert len(far.kept) == 2
        far.sent.clear()
        del first
        gc.collect()
        assert len(far.kept) == 1
        second.state.result()
        del second
        gc.collect()
        assert len(far.kept) == 0

    in_flow(far, body)


def test_few_are_fetched_at_a_time(far: Far) -> None:
    """The others wait without threads, and whoever is told waits for more without being in their way."""

    def body() -> Any:
        source = make.submit(1)
        source.wait()
        far.gate.clear()
        runs = [task(task_run_name="{value.content}")(_content).submit(source) for _ in range(60)]
        for run in runs:
            run.add_done_callback(lambda done: results.append(source.result().content + done.result()))
        fetching = [thread for thread in threading.enumerate() if thread.name == "penstock-fetch"]
        far.gate.set()
        wait(runs)
        return len(fetching)

    results: list[int] = []
    assert 1 <= in_flow(far, body) <= 16
    assert results == [2] * 60


def _content(value: Any) -> Any:
    return value.content


def test_a_body_is_not_executed_here_because_somebody_waits_for_it(far: Far) -> None:
    """A task on a thread that waits for one that is on its way to another process must not begin it once more."""
    released = threading.Event()

    class Slow(FarRunner):
        def _serve(self, call: Any) -> None:
            assert call.board(self)
            household, common, visit = call.pack()
            released.wait(5)
            assert call.start_away()
            call.arrive(self._visit(call, household, common, visit))

    @task
    def waiter(outside: Any) -> None:
        threading.Timer(0.05, released.set).start()
        outside.result()

    @flow(task_runner=ThreadPoolTaskRunner(max_workers=1))
    def inner(outside: Any) -> None:
        waiter.submit(quote(outside)).result()

    @flow(task_runner=Slow(far))
    def main() -> None:
        inner(quote(remember.submit()))

    main()
    assert executed == ["far"]
