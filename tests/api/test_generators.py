"""Generator tasks and flows: lazy when called, run to the end when submitted."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from penstock import Future, flow, get_run_logger, runtime, tags, task
from penstock.exceptions import (
    FlowRunTimeoutError,
    ParameterBindError,
    TaskRunTimeoutError,
    UpstreamTaskError,
)
from penstock.states import StateType
from penstock.task_runners import SequentialTaskRunner, ThreadPoolTaskRunner

both_kinds = pytest.mark.parametrize("decorate", [task, flow], ids=["task", "flow"])
RUNNERS = [
    pytest.param(None, id="default"),
    pytest.param(ThreadPoolTaskRunner(max_workers=1), id="one slot"),
    pytest.param(SequentialTaskRunner(), id="sequential"),
]
HOOKS = ("on_running", "on_completion", "on_failure", "on_cancellation", "on_crashed")


class Boom(Exception):
    pass


class Journal:
    """Hooks that note how runs end, and the final states they saw."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.states: list[Any] = []

    def hooks(self) -> dict[str, Any]:
        return {name: [self._noting(name)] for name in HOOKS}

    def _noting(self, name: str) -> Any:
        def note(definition: Any, run: Any, state: Any) -> None:
            self.events.append(name.removeprefix("on_"))
            self.states.append(state)

        return note


@pytest.fixture
def journal() -> Journal:
    return Journal()


def numbers(log: Any, count: int = 3) -> Iterator[int]:
    log.append("start")
    try:
        for number in range(count):
            log.append(number)
            yield number
        log.append("exhausted")
        return "returned"
    finally:
        log.append("finally")


async def anumbers(log: Any, count: int = 3) -> AsyncIterator[int]:
    log.append("start")
    try:
        for number in range(count):
            log.append(number)
            await asyncio.sleep(0)
            yield number
        log.append("exhausted")
    finally:
        log.append("finally")


def collect(iterable: Any) -> list[Any]:
    """The items of a generator of either kind."""
    if hasattr(iterable, "__anext__"):

        async def main() -> list[Any]:
            return [item async for item in iterable]

        return asyncio.run(main())
    return list(iterable)


# --- called directly ---------------------------------------------------------------------------------------


@both_kinds
def test_items_come_lazily(decorate: Any, journal: Journal) -> None:
    log: list[Any] = []
    made = decorate(**journal.hooks())(numbers)
    items = made(log)
    assert log == [] and journal.events == []  # nothing runs before the first item is asked for
    assert next(items) == 0
    assert log == ["start", 0] and journal.events == ["running"]
    assert next(items) == 1
    assert log == ["start", 0, 1] and journal.events == ["running"]
    assert next(items) == 2
    with pytest.raises(StopIteration) as end:
        next(items)
    assert end.value.value == "returned"
    assert log[-2:] == ["exhausted", "finally"]
    assert journal.events == ["running", "completion"]
    with pytest.raises(StopIteration):
        next(items)
    assert journal.events == ["running", "completion"]


@both_kinds
def test_async_items_come_lazily(decorate: Any, journal: Journal) -> None:
    log: list[Any] = []
    made = decorate(**journal.hooks())(anumbers)

    async def main() -> None:
        items = made(log)
        assert hasattr(items, "__anext__") and log == []
        assert await anext(items) == 0
        assert log == ["start", 0] and journal.events == ["running"]
        assert [item async for item in items] == [1, 2]
        with pytest.raises(StopAsyncIteration):
            await anext(items)

    asyncio.run(main())
    assert log[-2:] == ["exhausted", "finally"]
    assert journal.events == ["running", "completion"]


@both_kinds
@pytest.mark.parametrize("body", [numbers, anumbers])
def test_the_run_is_running_while_it_is_iterated(decorate: Any, body: Any) -> None:
    from penstock.context import get_run_context

    @decorate
    def sync() -> Iterator[Any]:
        context: Any = get_run_context()
        yield (context.task_run if decorate is task else context.flow_run).state.name

    @decorate
    async def asynchronous() -> AsyncIterator[Any]:
        context: Any = get_run_context()
        yield (context.task_run if decorate is task else context.flow_run).state.name

    assert collect(sync() if body is numbers else asynchronous()) == ["Running"]


@both_kinds
def test_the_return_value_travels_in_stop_iteration(decorate: Any) -> None:
    made = decorate(numbers)

    def outer() -> Any:
        return (yield from made([]))

    delegating = outer()
    assert [next(delegating) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(StopIteration) as end:
        next(delegating)
    assert end.value.value == "returned"


@both_kinds
@pytest.mark.parametrize("how", ["close", "break and drop"])
def test_an_early_close_completes_the_run(decorate: Any, how: str, journal: Journal) -> None:
    log: list[Any] = []
    items = decorate(**journal.hooks())(numbers)(log)
    assert next(items) == 0
    if how == "close":
        items.close()
        items.close()
    else:
        del items
        gc.collect()
    assert log == ["start", 0, "finally"]
    assert journal.events == ["running", "completion"]
    assert journal.states[-1].type is StateType.COMPLETED


@both_kinds
def test_an_early_aclose_completes_the_run(decorate: Any, journal: Journal) -> None:
    log: list[Any] = []

    async def main() -> None:
        items = decorate(**journal.hooks())(anumbers)(log)
        assert await anext(items) == 0
        await items.aclose()

    asyncio.run(main())
    assert log == ["start", 0, "finally"]
    assert journal.events == ["running", "completion"]


@both_kinds
def test_an_async_generator_left_by_break_is_completed(decorate: Any, journal: Journal) -> None:
    log: list[Any] = []

    async def main() -> None:
        async for item in decorate(**journal.hooks())(anumbers)(log):
            assert item == 0
            break
        for _ in range(1000):  # the loop closes dropped generators a little later
            if journal.events[1:]:
                break
            await asyncio.sleep(0.001)

    asyncio.run(main())
    assert log == ["start", 0, "finally"]
    assert journal.events == ["running", "completion"]


@both_kinds
def test_a_generator_closed_before_its_first_item_runs_nothing(decorate: Any, journal: Journal) -> None:
    log: list[Any] = []
    items = decorate(**journal.hooks())(numbers)(log)
    items.close()
    assert log == [] and journal.events == []


@both_kinds
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_an_exception_fails_the_run_and_reaches_the_consumer(decorate: Any, kind: str, journal: Journal) -> None:
    error = Boom("late")

    @decorate(**journal.hooks())
    def fail() -> Iterator[int]:
        yield 1
        raise error

    @decorate(**journal.hooks())
    async def afail() -> AsyncIterator[int]:
        yield 1
        raise error

    seen: list[int] = []

    def consume() -> None:
        seen.extend(fail())

    async def aconsume() -> None:
        async for item in afail():
            seen.append(item)  # noqa: PERF401 - it must see each item before the failure

    with pytest.raises(Boom) as caught:
        consume() if kind == "sync" else asyncio.run(aconsume())
    assert caught.value is error
    assert journal.events == ["running", "failure"]
    assert journal.states[-1].type is StateType.FAILED
    if kind == "async":
        assert seen == [1]


@both_kinds
def test_send_and_throw_are_forwarded(decorate: Any, journal: Journal) -> None:
    @decorate(**journal.hooks())
    def echo() -> Any:
        got = []
        while True:
            try:
                got.append((yield len(got)))
            except Boom as error:
                got.append(str(error))
            if got[-1] == "stop":
                return got

    items = echo()
    assert next(items) == 0
    assert items.send("a") == 1
    assert items.throw(Boom("thrown")) == 2
    with pytest.raises(StopIteration) as end:
        items.send("stop")
    assert end.value.value == ["a", "thrown", "stop"]
    assert journal.events == ["running", "completion"]


@both_kinds
def test_asend_and_athrow_are_forwarded(decorate: Any) -> None:
    got: list[Any] = []

    @decorate
    async def echo() -> Any:
        while True:
            try:
                got.append((yield len(got)))
            except Boom as error:
                got.append(str(error))

    async def main() -> None:
        items = echo()
        assert await anext(items) == 0
        assert await items.asend("a") == 1
        assert await items.athrow(Boom("thrown")) == 2
        await items.aclose()

    asyncio.run(main())
    assert got == ["a", "thrown"]


@both_kinds
def test_a_thrown_exception_that_is_not_caught_fails_the_run(decorate: Any, journal: Journal) -> None:
    error = Boom("in")
    log: list[Any] = []
    items = decorate(**journal.hooks())(numbers)(log)
    next(items)
    with pytest.raises(Boom) as caught:
        items.throw(error)
    assert caught.value is error
    assert log == ["start", 0, "finally"]
    assert journal.events == ["running", "failure"]


@both_kinds
@pytest.mark.parametrize("body", [numbers, anumbers])
def test_return_state_is_refused_at_the_call(decorate: Any, body: Any) -> None:
    log: list[Any] = []
    with pytest.raises(ValueError, match="return_state"):
        decorate(body)(log, return_state=True)
    assert log == []


@both_kinds
@pytest.mark.parametrize("body", [numbers, anumbers])
def test_arguments_are_bound_at_the_call(decorate: Any, body: Any) -> None:
    with pytest.raises(ParameterBindError):
        decorate(body)()
    with pytest.raises(ParameterBindError):
        decorate(body)([], 1, 2)


@both_kinds
def test_tags_and_position_are_those_of_the_iteration(decorate: Any) -> None:
    @decorate
    def where() -> Iterator[Any]:
        yield sorted((runtime.task_run if decorate is task else runtime.flow_run).tags)
        yield threading.get_ident()

    with tags("a"):
        assert list(where()) == [["a"], threading.get_ident()]


def test_the_consumers_context_is_its_own_between_items() -> None:
    @task
    def inner() -> Iterator[Any]:
        yield runtime.task_run.name
        yield runtime.task_run.name

    @task
    def plain() -> Any:
        return runtime.task_run.name

    @flow
    def main() -> Any:
        seen = []
        for name in inner():
            seen += [name, runtime.task_run.name, plain()]
        return seen

    assert main() == ["inner-0", None, "plain-0", "inner-0", None, "plain-1"]


def test_two_generators_are_iterated_in_turns() -> None:
    @task
    def count(n: int) -> Iterator[Any]:
        for i in range(n):
            yield runtime.task_run.name, i

    @flow
    def main() -> Any:
        return list(zip(count(2), count(2), strict=True))

    assert main() == [(("count-0", 0), ("count-1", 0)), (("count-0", 1), ("count-1", 1))]


def test_a_flow_iterates_over_its_tasks() -> None:
    @task
    def source() -> Iterator[int]:
        yield from range(4)

    @task
    def square(x: int) -> int:
        return x * x

    @flow
    def main() -> Iterator[Any]:
        for number in source():
            get_run_logger().info("got %s", number)
            yield square.submit(number).result()

    assert list(main()) == [0, 1, 4, 9]


def ending(fn: Any) -> Any:
    """What `fn` returns or raises. In a thread, because a wait for ever could not be interrupted."""
    outcome: list[Any] = []

    def target() -> None:
        try:
            outcome.append(fn())
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    thread.join(3)
    assert outcome, "it hangs"
    return outcome[0]


@pytest.mark.parametrize("outer", ["flow", "task"])
@pytest.mark.parametrize("inner", ["task", "flow"])
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_an_exception_in_the_consumers_loop_ends_everything(
    outer: str, inner: str, kind: str, journal: Journal
) -> None:
    # The traceback keeps the consumer's frame alive, and with it the generator: nobody closes it.
    log: list[Any] = []
    items: Any = (task if inner == "task" else flow)(**journal.hooks())(numbers if kind == "sync" else anumbers)

    def consume() -> None:
        for item in items(log):
            raise Boom(f"at {item}")

    async def aconsume() -> None:
        async for item in items(log):
            raise Boom(f"at {item}")

    decorated: Any = (task if outer == "task" else flow)(consume if kind == "sync" else aconsume)
    error = ending(decorated if kind == "sync" else lambda: asyncio.run(decorated()))
    assert isinstance(error, Boom) and str(error) == "at 0"
    assert log == ["start", 0, "finally"]
    assert journal.events == ["running", "completion"]


def test_a_flow_that_keeps_a_generator_open_ends(journal: Journal) -> None:
    # No run is unfinished below a finished one: the generator is closed with the run that iterated over it.
    log: list[Any] = []
    kept: list[Any] = []
    made = task(**journal.hooks())(numbers)

    @flow
    def main() -> str:
        kept.append(made(log))
        next(kept[0])
        return "ended"

    assert ending(main) == "ended"
    assert log == ["start", 0, "finally"]
    assert journal.events == ["running", "completion"]
    assert list(kept[0]) == []


def test_what_a_generator_submitted_is_over_when_it_is() -> None:
    gate, done = threading.Event(), []

    @task
    def slow() -> None:
        gate.wait(10)
        done.append("child")

    @task
    def parent() -> Iterator[int]:
        slow.submit()
        yield 1

    @flow
    def main() -> None:
        for _ in parent():
            threading.Timer(0.02, gate.set).start()
        done.append("parent")

    main()
    assert done == ["child", "parent"]


@pytest.mark.parametrize("runner", RUNNERS)
def test_upstreams_are_waited_for_at_the_first_item(runner: Any) -> None:
    @task
    def source() -> int:
        return 2

    @task
    def bad() -> None:
        raise Boom("bad")

    made = task(numbers)

    @flow(task_runner=runner)
    def main() -> Any:
        items = list(made([], source.submit()))
        broken = bad.submit()
        with pytest.raises(UpstreamTaskError, match="Boom: bad"):
            list(made([], broken))
        with pytest.raises(UpstreamTaskError):
            next(made([], wait_for=[broken]))
        return items

    assert main() == [0, 1]


# --- retries and timeouts ----------------------------------------------------------------------------------


@both_kinds
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_retry_yields_again_from_the_start(decorate: Any, kind: str, journal: Journal) -> None:
    attempts: list[int] = []

    @decorate(retries=2, **journal.hooks())
    def flaky() -> Iterator[int]:
        attempts.append(1)
        yield from (0, 1)
        if len(attempts) < 3:
            raise Boom("again")
        yield 2

    @decorate(retries=2, **journal.hooks())
    async def aflaky() -> AsyncIterator[int]:
        attempts.append(1)
        yield 0
        yield 1
        if len(attempts) < 3:
            raise Boom("again")
        yield 2

    assert collect(flaky() if kind == "sync" else aflaky()) == [0, 1, 0, 1, 0, 1, 2]
    assert journal.events == ["running"] * 3 + ["completion"]


@both_kinds
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_time_limit_ends_the_iteration(decorate: Any, kind: str, journal: Journal) -> None:
    error = TaskRunTimeoutError if decorate is task else FlowRunTimeoutError
    log: list[Any] = []

    @decorate(timeout_seconds=0.05, **journal.hooks())
    def slow() -> Iterator[int]:
        try:
            yield 0
            for _ in range(2000):  # seconds, but not for ever: a wait that nobody interrupts must fail the test
                time.sleep(0.001)
        finally:
            log.append("finally")

    @decorate(timeout_seconds=0.05, **journal.hooks())
    async def aslow() -> AsyncIterator[int]:
        try:
            yield 0
            await asyncio.sleep(2)
        finally:
            log.append("finally")

    began = time.monotonic()
    with pytest.raises(error, match=r"exceeded timeout of 0\.05 second"):
        collect(slow() if kind == "sync" else aslow())
    assert time.monotonic() - began < 1  # the body would take two seconds
    assert log == ["finally"]
    assert journal.events == ["running", "failure"]
    assert journal.states[-1].name == "TimedOut"


@both_kinds
def test_a_time_limit_that_passes_between_items_is_noticed(decorate: Any, journal: Journal) -> None:
    @decorate(timeout_seconds=0.02, **journal.hooks())
    def items() -> Iterator[int]:
        yield 0
        yield 1

    iteration = items()
    assert next(iteration) == 0
    time.sleep(0.06)  # the consumer takes its time
    with pytest.raises(TimeoutError):
        next(iteration)
    assert journal.states[-1].name == "TimedOut"


# --- submitted ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("body", [numbers, anumbers])
@both_kinds
def test_a_submitted_generator_gives_the_list_of_its_items(decorate: Any, body: Any, runner: Any) -> None:
    made = decorate(body)
    log: list[Any] = []

    @flow(task_runner=runner)
    def main() -> Any:
        future = made.submit(log)
        assert isinstance(future, Future)
        assert future.result() == [0, 1, 2]
        assert log[-1] == "finally"
        state = made.submit([], count=1, return_state=True)
        assert (state.type, state.result()) == (StateType.COMPLETED, [0])
        assert made.submit([], count=0).result() == []
        return made.submit([], 2)

    assert main() == [0, 1]


@pytest.mark.parametrize("body", [numbers, anumbers])
def test_a_mapped_generator_gives_lists(body: Any) -> None:
    made = task(body)

    @flow
    def main() -> Any:
        return made.map([[], []], [1, 2])

    assert main() == [[0], [0, 1]]


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_submitted_generator_fails_retries_and_times_out(kind: str) -> None:
    attempts: list[int] = []

    def body() -> Iterator[int]:
        attempts.append(1)
        yield 1
        if len(attempts) < 3:
            raise Boom("again")

    async def abody() -> AsyncIterator[int]:
        attempts.append(1)
        yield 1
        if len(attempts) < 3:
            raise Boom("again")

    async def aslow() -> AsyncIterator[int]:
        yield 1
        await asyncio.sleep(2)

    def slow() -> Iterator[int]:
        yield 1
        for _ in range(2000):
            time.sleep(0.001)

    chosen, chosen_slow = (body, slow) if kind == "sync" else (abody, aslow)

    @flow
    def checked() -> None:
        assert isinstance(task(chosen).submit().exception(), Boom)
        assert task(retries=1)(chosen).submit().result() == [1]
        began = time.monotonic()
        future = task(timeout_seconds=0.03)(chosen_slow).submit()
        assert isinstance(future.exception(), TaskRunTimeoutError)
        assert future.state.name == "TimedOut"
        assert time.monotonic() - began < 1

    checked()


# --- functions that return generators ----------------------------------------------------------------------


@pytest.mark.parametrize("runner", RUNNERS)
def test_a_returned_generator_object_passes_through_untouched(runner: Any) -> None:
    log: list[Any] = []
    made: list[Any] = []

    @task
    def give() -> Any:
        made.append(numbers(log))
        return made[-1]

    @flow(task_runner=runner)
    def main() -> Any:
        direct, submitted = give(), give.submit().result()
        assert direct is made[0] and submitted is made[1]
        state = give(return_state=True)
        assert state.result() is made[2]
        assert log == []
        passed = task(lambda x: x is made[3]).submit(give.submit()).result()
        assert passed is True and log == []
        return direct

    assert list(main()) == [0, 1, 2]
    assert give() is made[-1]


def test_a_returned_async_generator_object_passes_through() -> None:
    @task
    async def give() -> Any:
        return anumbers([])

    async def main() -> Any:
        return [item async for item in await give()]

    assert asyncio.run(main()) == [0, 1, 2]


def test_generators_as_arguments_arrive_unconsumed() -> None:
    given = (x for x in [1, 2, 3])

    @task
    def take(items: Any) -> Any:
        return items is given, list(items)

    assert take(given) == (True, [1, 2, 3])
