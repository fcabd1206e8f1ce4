"""Futures and States as arguments: where they are found, and what takes their place."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import ChainMap, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import MappingProxyType, SimpleNamespace
from typing import Any, NamedTuple
from unittest.mock import MagicMock

import pydantic
import pytest
from roots import RUNNERS, WAYS, give, give_flow, in_flow

from penstock import (
    FutureList,
    State,
    flow,
    quote,
    task,
)
from penstock.states import Completed, StateType
from penstock.task_runners import ThreadPoolTaskRunner


class Point(NamedTuple):
    x: Any
    y: Any = 2


@dataclass
class Plain:
    a: Any
    b: Any = 2
    computed: Any = field(default="not set", init=False)

    def __post_init__(self) -> None:
        self.computed = ("from", type(self.a).__name__)


@dataclass(frozen=True, slots=True)
class Frozen:
    a: Any
    b: list[Any]


class Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)
    a: Any
    items: list[Any] = []
    _secret: str = pydantic.PrivateAttr(default="unset")


class Names(list[Any]):
    label = "plain"


class Table(dict[Any, Any]):
    label = "plain"


class Pair(tuple[Any, ...]):
    pass


class Bag(set[Any]):
    pass


@task
def number(n: Any = 1) -> Any:
    return n


@pytest.fixture(params=WAYS)
def arrived(request: pytest.FixtureRequest) -> Callable[[Any], Any]:
    """What a body gets for an argument, inside a flow."""
    return WAYS[request.param]


@pytest.fixture(params=RUNNERS)
def runner(request: pytest.FixtureRequest) -> Any:
    return RUNNERS[request.param]()


def wrap_at_depth(value: Any, depth: int) -> Any:
    for _ in range(depth):
        value = [value]
    return value


# --- where they are found -----------------------------------------------------------------------------------

SEARCHED: dict[str, tuple[Callable[[Any], Any], Any]] = {
    "alone": (lambda f: f, 1),
    "list": (lambda f: [f, 2], [1, 2]),
    "tuple": (lambda f: (f, 2), (1, 2)),
    "set": (lambda f: {f, 2}, {1, 2}),
    "frozenset": (lambda f: frozenset({f}), frozenset({1})),
    "dict value": (lambda f: {"a": f}, {"a": 1}),
    "dict key": (lambda f: {f: "a"}, {1: "a"}),
    "ordered": (lambda f: OrderedDict(a=f, b=2), OrderedDict(a=1, b=2)),
    "deque": (lambda f: deque([f], maxlen=3), deque([1], maxlen=3)),
    "defaultdict": (lambda f: defaultdict(list, a=f), defaultdict(list, a=1)),
    "named tuple": (lambda f: Point(f), Point(1)),
    "values view": (lambda f: {"a": f}.values(), [1]),
    "keys view": (lambda f: {f: 1}.keys(), [1]),
    "items view": (lambda f: {"a": f}.items(), [("a", 1)]),
    "list subclass": (lambda f: Names([f]), Names([1])),
    "dict subclass": (lambda f: Table(a=f), Table(a=1)),
    "tuple subclass": (lambda f: Pair([f, 2]), Pair([1, 2])),
    "set subclass": (lambda f: Bag([f]), Bag([1])),
    "frozen dataclass": (lambda f: Frozen(f, [f]), Frozen(1, [1])),
    "model": (lambda f: Model(a=f, items=[f]), Model(a=1, items=[1])),
    "future list": (lambda f: FutureList([f, f]), [1, 1]),
    "mixed": (lambda f: {"a": [(f, {"b": {f}})]}, {"a": [(1, {"b": {1}})]}),
    "deep": (lambda f: wrap_at_depth(f, 3), [[[1]]]),
}


class TestFound:
    def test_in_every_container(self, arrived: Any) -> None:
        found = in_flow(lambda: {name: arrived(make(number.submit())) for name, (make, _) in SEARCHED.items()})
        assert found == {name: expected for name, (_, expected) in SEARCHED.items()}
        assert {name: type(value) for name, value in found.items()} == {
            name: type(expected) for name, (_, expected) in SEARCHED.items()
        }

    def test_in_return_values(self) -> None:
        for kind in (flow, task):
            for make, expected in SEARCHED.values():
                made = kind(lambda make=make: make(number.submit()))()
                assert (made, type(made)) == (expected, type(expected))

    def test_in_submitted_return_values(self) -> None:
        @task
        def returns(make: Any) -> Any:
            return make(number.submit())

        found = in_flow(lambda: [returns.submit(make).result() for make, _ in SEARCHED.values()])
        assert found == [expected for _, expected in SEARCHED.values()]

    def test_states_are_found_like_futures(self, arrived: Any) -> None:
        state = Completed(data=1)
        for make, expected in SEARCHED.values():
            if make is not SEARCHED["future list"][0]:
                assert in_flow(lambda make=make: arrived(make(state))) == expected

    def test_in_wait_for(self, arrived: Any) -> None:
        order = []

        @task
        def slow() -> None:
            time.sleep(0.01)
            order.append("slow")

        @task
        def after() -> None:
            order.append("after")

        def body() -> None:
            for make, _ in SEARCHED.values():
                after.submit(wait_for=make(slow.submit())).wait()

        in_flow(body)
        assert order == ["slow", "after"] * len(SEARCHED)

    def test_very_deep(self) -> None:
        def body() -> Any:
            return give.submit(wrap_at_depth(number.submit(7), 5_000)).result().value

        value = in_flow(body)
        for _ in range(5_000):
            (value,) = value
        assert value == 7

    def test_extras_are_kept(self, arrived: Any) -> None:
        def body() -> Any:
            f = number.submit()
            names, table, model = Names([f]), Table(a=f), Model(a=f)
            names.label, table.label, model._secret = "mine", "ours", "kept"
            plain = Plain(f)
            return arrived([defaultdict(int, a=f), deque([f], maxlen=4), names, table, model, plain])

        factory, bounded, names, table, model, plain = in_flow(body)
        assert factory["missing"] == 0
        assert bounded.maxlen == 4
        assert (names, names.label) == ([1], "mine")
        assert (table, table.label) == ({"a": 1}, "ours")
        assert (model.a, model._secret) == (1, "kept")
        assert (plain.a, plain.computed) == (1, ("from", "Future"))  # __post_init__ did not run again

    def test_the_callers_container_is_not_touched(self) -> None:
        def body() -> Any:
            f = number.submit()
            mine = {"a": [f]}
            return give.submit(mine).result().value, mine, f

        given, mine, future = in_flow(body)
        assert given == {"a": [1]}
        assert mine["a"][0] is future

    def test_shared_and_circular_references(self, arrived: Any) -> None:
        def body() -> Any:
            shared = [number.submit()]
            ring: dict[str, Any] = {"left": shared, "right": shared}
            ring["self"] = ring
            return arrived(ring)

        ring = in_flow(body)
        assert ring["left"] == [1]
        assert ring["left"] is ring["right"]
        assert ring["self"] is ring

    def test_one_future_many_times(self, arrived: Any) -> None:
        value = object()

        def body() -> Any:
            f = number.submit(value)
            return arrived([f, (f,), {"f": f}])

        one, (two,), three = in_flow(body)
        assert one is two is three["f"] is value

    def test_changed_after_submission(self) -> None:
        """The container counts as it was when it was submitted."""
        gate = threading.Event()

        @task
        def late() -> int:
            gate.wait(5)
            return 1

        def body() -> Any:
            mine = [late.submit()]
            taken = give.submit(mine)
            mine.append(number.submit(2))
            gate.set()
            return taken.result().value

        assert in_flow(body) == [1]


class Holder:
    def __init__(self, held: Any) -> None:
        self.held = held


class TestNotFound:
    @pytest.mark.parametrize(
        "make",
        [
            lambda f: Holder(f),
            lambda f: SimpleNamespace(f=f),
            lambda f: iter([f]),
            lambda f: (x for x in [f]),
            lambda f: ChainMap({"a": f}),
            lambda f: MappingProxyType({"a": f}),
            lambda f: lambda: f,
            lambda f: MagicMock(held=f),
            lambda f: "text",
            lambda f: bytearray(b"text"),
        ],
    )
    def test_passed_on_as_it_is(self, arrived: Any, make: Any) -> None:
        def body() -> bool:
            thing = make(number.submit())
            return arrived(thing) is thing

        assert in_flow(body)

    @pytest.mark.parametrize("name", [name for name in SEARCHED if not name.endswith("view")])
    def test_nothing_inside_means_the_same_object(self, name: str) -> None:
        def body() -> bool:
            kept = number.submit()  # alive, so that a search takes place
            thing = SEARCHED[name][0](3)
            same = [way(thing) is thing for way in WAYS.values()]
            kept.wait()
            return all(same)

        if name == "future list":
            return  # it cannot hold anything else
        assert in_flow(body)

    def test_the_very_same_objects_on_both_ways(self, arrived: Any, runner: Any) -> None:
        class Odd:
            def __eq__(self, other: object) -> bool:
                raise AssertionError

            def __bool__(self) -> bool:
                raise AssertionError

            __hash__ = None  # type: ignore[assignment]

        odd = Odd()
        assert in_flow(lambda: [arrived(number.submit(quote(odd)))], task_runner=runner)[0] is odd

    def test_siblings_of_a_future_keep_identity(self, arrived: Any) -> None:
        inner = [1, 2]

        def body() -> Any:
            return arrived({"f": number.submit(), "inner": inner})

        assert in_flow(body)["inner"] is inner

    def test_iterators_arrive_unconsumed(self, arrived: Any) -> None:
        taken = []

        def source() -> Iterator[int]:
            taken.append(1)
            yield 1

        def body() -> Any:
            number.submit().wait()
            iterator = arrived([source()])[0]
            assert taken == []
            return list(iterator)

        assert in_flow(body) == [1]


class TestUnresolvable:
    def test_names_the_place_and_the_cure(self) -> None:
        def body() -> Any:
            future = give.submit({"a": [1, 2, 3, {number.submit([])}]})
            return future.exception(), future.state

        error, state = in_flow(body)
        assert (state.type, state.name) == (StateType.FAILED, "Failed")
        text = str(error)
        assert text.startswith("Failed to resolve inputs in parameter 'x' at x['a'][3]")
        assert "unhashable" in text
        assert text.endswith("wrap the argument in quote() or opaque()")
        assert state.message == text

    def test_direct_call(self) -> None:
        def body() -> None:
            with pytest.raises(ValueError, match="Failed to resolve inputs in parameter 'x'"):
                give({number.submit([])})
            state = give({number.submit([])}, return_state=True)
            assert state.is_failed()

        in_flow(body)

    def test_quote_cures_it(self) -> None:
        assert len(in_flow(lambda: give.submit(quote({number.submit([])})).result().value)) == 1


class TestDependingOnItself:
    def test_own_future(self) -> None:
        box: list[Any] = []
        ready = threading.Event()

        @task
        def looks_at_itself() -> Any:
            ready.wait(5)
            return box[0].result()

        def body() -> Any:
            box.append(looks_at_itself.submit())
            ready.set()
            return box[0].exception(timeout=5)

        error = in_flow(body)
        assert isinstance(error, ValueError)
        assert str(error).startswith("Discovered a task depending on itself.")

    def test_own_future_in_a_coroutine(self) -> None:
        box: list[Any] = []
        ready = threading.Event()

        @task
        async def looks_at_itself() -> Any:
            ready.wait(5)
            return await box[0]

        def body() -> Any:
            box.append(looks_at_itself.submit())
            ready.set()
            return box[0].exception(timeout=5)

        assert "depending on itself" in str(in_flow(body))

    def test_each_other(self) -> None:
        box: dict[str, Any] = {}
        ready = threading.Event()

        @task
        def looks_at(name: str) -> Any:
            ready.wait(5)
            return box[name].result()

        def body() -> Any:
            box["a"], box["b"] = looks_at.submit("b"), looks_at.submit("a")
            ready.set()
            return [box[name].exception(timeout=5) for name in "ab"]

        errors = in_flow(body)
        assert all("depending on itself" in str(error) for error in errors)

    def test_a_child_waits_for_its_parent(self) -> None:
        box: list[Any] = []
        ready = threading.Event()

        @task
        def child() -> Any:
            return box[0].result()

        @task
        def parent() -> Any:
            ready.wait(5)
            return repr(child.submit().exception())

        def body() -> Any:
            box.append(parent.submit())
            ready.set()
            return box[0].result(timeout=5)

        assert "depending on itself" in in_flow(body)

    @pytest.mark.parametrize("between", [0, 1, 3])
    def test_child_that_depends_on_its_parent(self, between: int) -> None:
        """The parent cannot end before its child, nor the child start before its parent has ended."""
        box: list[Any] = []
        ready = threading.Event()

        @task
        def parent() -> Any:
            ready.wait(5)
            number.submit(wait_for=[box[-1]])

        def body() -> Any:
            box.append(parent.submit())
            for _ in range(between):
                box.append(number.submit(box[-1]))
            ready.set()
            box[0].wait(timeout=5)
            assert box[0].done()

        with pytest.raises(ValueError, match=r"Discovered a task depending on itself\."):
            in_flow(body)

    def test_mutated_wait_for(self) -> None:
        gate = threading.Event()

        @task
        def late() -> None:
            gate.wait(5)

        def body() -> Any:
            waits: list[Any] = [late.submit()]
            future = number.submit(5, wait_for=waits)
            waits.append(future)
            gate.set()
            return future.result(timeout=5)

        assert in_flow(body) == 5

    def test_own_state_as_argument_is_no_upstream(self) -> None:
        """A run-record object is an ordinary value."""
        from penstock.context import get_run_context

        @task
        def record() -> Any:
            return quote(get_run_context().task_run)

        def body() -> bool:
            thing = record().value
            return bool(give.submit([thing]).result().value[0] is thing)

        assert in_flow(body)


# --- what takes their place ---------------------------------------------------------------------------------


class TestSubstitution:
    def test_start_as_soon_as_inputs_are_there(self, runner: Any) -> None:
        def body() -> Any:
            total = number.submit(0)
            for n in range(20):
                total = add.submit(total, n)
            return total.result()

        add = task(lambda a, b: a + b)
        assert in_flow(body, task_runner=runner) == sum(range(20))

    def test_waiting_holds_no_slot(self) -> None:
        gate = threading.Event()

        @task
        async def late() -> int:
            while not gate.is_set():
                await asyncio.sleep(0.001)
            return 3

        # The asynchronous one runs in a flow of its own: the single slot is for those that wait.
        @flow
        def source() -> Any:
            return late.submit().result()

        def body() -> Any:
            upstream = source.submit()
            waiting = [number.submit(upstream) for _ in range(10)]
            assert number.submit("passes").result(timeout=5) == "passes"
            gate.set()
            return [future.result() for future in waiting]

        assert in_flow(body, task_runner=ThreadPoolTaskRunner(max_workers=1)) == [3] * 10

    def test_threads_are_not_held_either(self) -> None:
        gate = threading.Event()

        @task
        def late() -> int:
            gate.wait(5)
            return 1

        def body() -> Any:
            upstream = late.submit()
            before = threading.active_count()
            futures = [number.submit(upstream) for _ in range(300)]
            during = threading.active_count()
            gate.set()
            assert {future.result() for future in futures} == {1}
            return during - before

        assert in_flow(body) <= 1

    def test_several_upstreams_in_any_order(self) -> None:
        gates = [threading.Event() for _ in range(3)]

        @task
        def late(n: int) -> int:
            gates[n].wait(5)
            return n

        def body(order: tuple[int, ...]) -> Any:
            for gate in gates:
                gate.clear()
            futures = [late.submit(n) for n in range(3)]
            taken = give.submit(futures)
            for n in order:
                assert not taken.done()
                gates[n].set()
                futures[n].wait()
            return taken.result().value

        for order in [(0, 1, 2), (2, 1, 0), (1, 2, 0)]:
            assert in_flow(lambda order=order: body(order)) == [0, 1, 2]

    @pytest.mark.parametrize(
        ("state", "value"),
        [(Completed(data=5), 5), (Completed(), None), (Completed(name="Skipped", data=[1]), [1])],
    )
    def test_states(self, arrived: Any, state: State[Any], value: Any) -> None:
        assert in_flow(lambda: arrived(state)) == value
        assert in_flow(lambda: arrived([state])) == [value]

    def test_state_outside_a_flow(self) -> None:
        assert give(Completed(data=5)).value == 5
        assert give_flow([Completed(data=5)]).value == [5]

    def test_across_engines(self) -> None:
        """A future of the parent flow is an argument like any other in its subflows and their tasks."""

        @flow
        def sub(future: Any) -> Any:
            return number.submit(future)

        def body() -> Any:
            future = number.submit(4)
            return sub(quote(future)), sub.submit(quote(future)).result(), sub(future)

        assert in_flow(body) == (4, 4, 4)

    def test_asynchronous_call_does_not_block_its_loop(self) -> None:
        gate = threading.Event()
        log = []

        @task
        def late() -> str:
            gate.wait(5)
            return "late"

        @task
        async def after(x: Any) -> Any:
            log.append(x)
            return x

        async def ticks() -> None:
            await asyncio.sleep(0.01)
            log.append("tick")
            gate.set()

        @flow
        async def main() -> Any:
            future = late.submit()
            return await asyncio.gather(after(future), after("w", wait_for=[future]), ticks())

        assert asyncio.run(main()) == ["late", "w", None]
        assert log[0] == "tick"

    def test_released_by_the_last_upstream_goes_first(self) -> None:
        order, gate = [], threading.Event()

        @task
        def note(name: str, *_: Any) -> None:
            order.append(name)

        @task
        def first() -> None:
            gate.wait(5)
            order.append("first")

        def body() -> None:
            upstream = first.submit()
            for n in range(3):
                note.submit(f"fresh {n}")
            note.submit("released", upstream)
            gate.set()

        in_flow(body, task_runner=ThreadPoolTaskRunner(max_workers=1))
        assert order == ["first", "released", "fresh 0", "fresh 1", "fresh 2"]
