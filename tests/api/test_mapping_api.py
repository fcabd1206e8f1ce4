"""`.map()`: what is mapped, what is shared, and lists whose length is not known yet."""

from __future__ import annotations

import asyncio
import io
import logging
import operator
import re
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic
import pytest
from roots import RUNNERS, in_flow

from penstock import (
    Future,
    FutureList,
    allow_failure,
    as_completed,
    flow,
    opaque,
    quote,
    task,
    unmapped,
    wait,
)
from penstock.exceptions import (
    CancelledRun,
    MappingLengthMismatch,
    MappingMissingIterable,
    ParameterBindError,
    UpstreamTaskError,
)
from penstock.states import Completed, Failed, State, StateType
from penstock.store.sqlite import SQLiteReader
from penstock.task_runners import ThreadPoolTaskRunner
from placeless import placeless

ERROR = ValueError("x")


@pytest.fixture(params=RUNNERS)
def runner(request: pytest.FixtureRequest) -> Any:
    return RUNNERS[request.param]()


@task
def add(x: Any, y: Any = 10) -> Any:
    return x + y


@task
async def add_async(x: Any, y: Any = 10) -> Any:
    return x + y


@flow
def add_flow(x: Any, y: Any = 10) -> Any:
    return x + y


@task
def give(x: Any, *rest: Any, **named: Any) -> Any:
    return quote((x, rest, named))


@task
def number(n: Any) -> Any:
    return n


@task
def bad() -> None:
    raise ERROR


@task
def bad_if_even(n: int) -> int:
    if n % 2 == 0:
        raise ValueError(n)
    return n


@dataclass
class Settings:
    a: int = 1


class Model(pydantic.BaseModel):
    a: int = 1


class Held:
    """A task that gives its value when told."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.task = task(self._body, name="held")

    def _body(self, value: Any = None) -> Any:
        self.gate.wait(5)
        if isinstance(value, Exception):
            raise value
        return value

    def submit(self, value: Any = None) -> Future[Any]:
        return self.task.submit(value)  # type: ignore[no-any-return]

    def open(self) -> None:
        self.gate.set()


@pytest.fixture
def held() -> Iterator[Held]:
    made = Held()
    yield made
    made.open()


def first_arguments(mapped: Any) -> list[Any]:
    return [item.value[0] for item in mapped.result()]


# --- binding ------------------------------------------------------------------------------------------------


class TestArguments:
    @pytest.mark.parametrize("mapped", [add, add_async, add_flow])
    def test_defaults_are_added_for_each_child(self, mapped: Any, runner: Any) -> None:
        assert in_flow(lambda: mapped.map([1, 2, 3]).result(), task_runner=runner) == [11, 12, 13]

    def test_defaults_are_never_mapped(self) -> None:
        @task
        def pair(x: int, items: Any = (1, 2, 3)) -> Any:
            return x, items

        assert in_flow(lambda: pair.map([1]).result()) == [(1, (1, 2, 3))]

    def test_var_positional_maps_per_position(self) -> None:
        @task
        def va(*args: Any) -> Any:
            return args

        assert in_flow(lambda: va.map([1, 2], [3, 4]).result()) == [(1, 3), (2, 4)]
        assert in_flow(lambda: va.map([1, 2], "s", unmapped([5])).result()) == [(1, "s", [5]), (2, "s", [5])]

    def test_var_keywords_are_parameters(self) -> None:
        @task
        def kw(**kwargs: Any) -> Any:
            return kwargs

        assert in_flow(lambda: kw.map(a=[1, 2], b="s").result()) == [{"a": 1, "b": "s"}, {"a": 2, "b": "s"}]

    def test_everything_together(self) -> None:
        @task
        def mixed(a: Any, /, b: Any, *c: Any, d: Any = 4, **e: Any) -> Any:
            return a, b, c, d, e

        found = in_flow(lambda: mixed.map([1, 2], "b", [3, 4], d=[5, 6], e=unmapped([7])).result())
        assert found == [(1, "b", (3,), 5, {"e": [7]}), (2, "b", (4,), 6, {"e": [7]})]

    @pytest.mark.parametrize("function", [operator.add, lambda a, b: a + b, max])
    def test_any_callable(self, function: Any) -> None:
        expected = list(map(function, [1, 2], [30, 40]))
        assert in_flow(lambda: task(function).map([1, 2], [30, 40]).result()) == expected

    def test_methods(self) -> None:
        class Scale:
            factor = 3

            @task
            def times(self, n: int) -> int:
                return n * self.factor

        assert in_flow(lambda: Scale().times.map([1, 2]).result()) == [3, 6]

    def test_wrong_arguments(self) -> None:
        def body() -> None:
            for call in (lambda: add.map(), lambda: add.map([1], [2], [3]), lambda: add.map([1], z=[2])):
                with pytest.raises((ParameterBindError, MappingMissingIterable)):
                    call()
            with pytest.raises(ParameterBindError):
                add.map([1], x=[2])
            with pytest.raises(ParameterBindError):
                add.map(y=[2])

        in_flow(body)


class Iterable:
    def __iter__(self) -> Iterator[int]:
        return iter([1, 2])


class OldIterable:
    def __getitem__(self, index: int) -> int:
        return [1, 2][index]


class Array:
    """Like an array: `iter` goes over the first axis, and comparing or testing it is an error."""

    def __iter__(self) -> Iterator[Any]:
        return iter([1, 2])

    def __bool__(self) -> bool:
        raise ValueError("the truth value of an array is ambiguous")

    def __eq__(self, other: object) -> Any:
        raise ValueError("elementwise")

    __hash__ = None  # type: ignore[assignment]


class TestMapped:
    @pytest.mark.parametrize(
        "make",
        [
            lambda: [1, 2],
            lambda: (1, 2),
            lambda: {1, 2},
            lambda: frozenset((1, 2)),
            lambda: {1: "a", 2: "b"},
            lambda: range(1, 3),
            lambda: (n for n in (1, 2)),
            lambda: iter([1, 2]),
            lambda: {1: "a", 2: "b"}.keys(),
            lambda: {"a": 1, "b": 2}.values(),
            lambda: zip([1], strict=False) and iter((1, 2)),
            Iterable,
            OldIterable,
            Array,
            lambda: [number.submit(1), number.submit(2)],
            lambda: number.map([1, 2]),
            lambda: FutureList([number.submit(1), number.submit(2)]),
            lambda: [Completed(data=1), 2],
            lambda: number.submit([1, 2]),
            lambda: Completed(data=[1, 2]),
            lambda: quote([1, 2]),
            lambda: opaque([1, 2]),
            lambda: allow_failure([1, 2]),
        ],
    )
    @pytest.mark.parametrize("mapped", [add, add_flow])
    def test_iterables(self, mapped: Any, make: Callable[[], Any]) -> None:
        assert in_flow(lambda: mapped.map(make(), 1).result()) == [2, 3]

    @pytest.mark.parametrize(
        "thing",
        [
            "text",
            b"bytes",
            bytearray(b"bytes"),
            memoryview(b"bytes"),
            5,
            None,
            object(),
            len,
            Settings(),
            Model(),
            io.StringIO("a\nb"),
            io.BytesIO(b"a\nb"),
        ],
    )
    def test_static(self, thing: Any) -> None:
        found = in_flow(lambda: give.map([1, 2], thing, named=thing).result())
        assert [(x.value[1][0] is thing, x.value[2]["named"] is thing) for x in found] == [(True, True)] * 2

    def test_open_files_are_static(self) -> None:
        with tempfile.NamedTemporaryFile("w+") as named, tempfile.TemporaryFile() as plain:
            found = in_flow(lambda: give.map([1], named, plain).result())
            assert found[0].value[1] == (named, plain)

    def test_unmapped_is_shared_by_reference(self) -> None:
        whole = [1, 2, 3]
        found = in_flow(lambda: give.map([1, 2], unmapped(whole)).result())
        assert all(x.value[1][0] is whole for x in found)

    def test_unmapped_future_inside(self) -> None:
        def body() -> Any:
            return give.map([1, 2], unmapped([number.submit(5)]), k=unmapped(number.submit(6))).result()

        found = in_flow(body)
        assert [(x.value[1], x.value[2]) for x in found] == [(([5],), {"k": 6})] * 2

    def test_iterators_are_consumed_once(self) -> None:
        iterator = iter([1, 2, 3])
        assert in_flow(lambda: add.map(iterator).result()) == [11, 12, 13]
        assert list(iterator) == []

    def test_nested_futures_of_elements(self) -> None:
        found = in_flow(lambda: first_arguments(give.map([{"a": number.submit(1)}, [number.submit(2)]])))
        assert found == [{"a": 1}, [2]]

    def test_futures_in_a_list_are_passed_on_without_waiting(self, held: Held) -> None:
        def body() -> Any:
            futures = add.map([held.submit(1), 5], 1)
            assert len(futures) == 2
            assert futures[1].result(timeout=5) == 6
            assert not futures[0].done()
            held.open()
            return futures.result()

        assert in_flow(body) == [2, 6]

    def test_data_frames_warn_once(self, caplog: pytest.LogCaptureFixture) -> None:
        frame_class: Any = type(
            "DataFrame", (), {"__module__": "pandas.core.frame", "__iter__": lambda self: iter(["a", "b"])}
        )

        def body() -> Any:
            return first_arguments(give.map(frame_class())), first_arguments(give.map(frame_class()))

        with caplog.at_level(logging.WARNING):
            assert in_flow(body) == (["a", "b"], ["a", "b"])
        (record,) = [record for record in caplog.records if "itertuples" in record.getMessage()]
        assert record.levelno == logging.WARNING
        assert "df.itertuples()" in record.getMessage()
        assert "unmapped(df)" in record.getMessage()


class TestRefused:
    def test_nothing_to_map(self) -> None:
        def body() -> None:
            with pytest.raises(MappingMissingIterable) as caught:
                add.map(5, y=unmapped([1]))
            assert isinstance(caught.value, ValueError)
            text = str(caught.value)
            start = (
                "No iterable parameters were received. "
                "Parameters for map must include at least one iterable. Parameters: {"
            )
            assert text.startswith(start)
            assert "x" in text.partition("{")[2]
            for call in (lambda: add.map("text"), lambda: add.map(Model()), lambda: add.map(unmapped([1]))):
                with pytest.raises(MappingMissingIterable):
                    call()

        in_flow(body)

    def test_different_lengths(self) -> None:
        submitted = []

        def body() -> None:
            noting = task(lambda x, y: submitted.append(x))
            with pytest.raises(MappingLengthMismatch) as caught:
                noting.map(x=[1, 2, 3], y=(n for n in range(2)))
            assert isinstance(caught.value, ValueError)
            text = str(caught.value)
            assert text.startswith("Received iterable parameters with different lengths.")
            assert text.endswith("Got lengths: {'x': 3, 'y': 2}")
            with pytest.raises(MappingLengthMismatch, match=re.escape("{'x': 0, 'y': 1}")):
                noting.map([], [1])

        in_flow(body)
        assert submitted == []

    def test_a_refused_map_takes_no_name(self) -> None:
        """Nothing was submitted, so nothing is to be waited for, seen or accounted for."""

        def body() -> str:
            with pytest.raises(MappingMissingIterable):
                add.map(5)
            return "well"

        assert in_flow(body) == "well"

    def test_exception_of_the_input(self) -> None:
        def source() -> Iterator[int]:
            yield 1
            raise KeyError("input")

        submitted = []

        def body() -> None:
            with pytest.raises(KeyError):
                task(submitted.append).map(source())

        in_flow(body)
        assert submitted == []

    def test_empty(self, runner: Any) -> None:
        def body() -> Any:
            futures = add.map([])
            futures.wait()
            return type(futures), list(futures), futures.result(), add.map([], return_state=True)

        assert in_flow(body, task_runner=runner) == (FutureList, [], [], [])

    @pytest.mark.parametrize("method", ["map", "imap"])
    def test_outside_a_run(self, method: str) -> None:
        with pytest.raises(RuntimeError, match=rf"`add\.{method}\(\)` needs a running flow: call it inside"):
            getattr(add, method)([1])

    def test_in_a_task_outside_a_flow(self) -> None:
        @task
        def root() -> Any:
            return add.map([1, 2])

        assert root() == [11, 12]


# --- the children -------------------------------------------------------------------------------------------


class TestChildren:
    def test_kind_of_list(self) -> None:
        def body() -> None:
            futures = add.map([1, 2, 3])
            assert type(futures) is FutureList
            assert all(type(future) is Future for future in futures)
            assert len({future.task_run_id for future in futures}) == 3

        in_flow(body)

    def test_names(self) -> None:
        def body() -> Any:
            plain = add.submit(0)
            first, second = add.map([1, 2]), add.map([3])
            return [repr(future) for future in (plain, *first, *second)]

        names = [re.search("'(.*)'", shown).group(1) for shown in in_flow(body)]  # type: ignore[union-attr]
        assert names == ["add-0", "add-1[0]", "add-1[1]", "add-2[0]"]

    def test_return_state(self) -> None:
        def body() -> Any:
            return quote(bad_if_even.map([1, 2], return_state=True))

        states = in_flow(body).value
        assert type(states) is list
        assert all(isinstance(state, State) for state in states)
        assert [state.type for state in states] == [StateType.COMPLETED, StateType.FAILED]

    def test_start_in_order_of_submission(self) -> None:
        order = []

        def body() -> None:
            task(order.append).map(range(50)).wait()

        in_flow(body, task_runner=ThreadPoolTaskRunner(max_workers=1))
        assert order == list(range(50))

    def test_wait_for_applies_to_every_child(self, held: Held) -> None:
        def body() -> Any:
            upstream = held.submit()
            futures = add.map([1, 2], wait_for=(f for f in [upstream]))
            futures.wait(timeout=0.02)
            assert [future.done() for future in futures] == [False, False]
            held.open()
            return futures.result()

        assert in_flow(body) == [11, 12]

    def test_one_failure_leaves_the_others(self, runner: Any) -> None:
        found = in_flow(lambda: bad_if_even.map(range(4)).result(raise_on_failure=False), task_runner=runner)
        assert [type(x) for x in found] == [ValueError, int, ValueError, int]

    def test_failed_elements_block_only_their_children(self, runner: Any) -> None:
        def body() -> Any:
            return add.map(bad_if_even.map(range(4))).result(raise_on_failure=False)

        found = in_flow(body, task_runner=runner)
        assert [type(x) for x in found] == [UpstreamTaskError, int, UpstreamTaskError, int]
        assert found[1::2] == [11, 13]

    def test_chains_of_maps(self, runner: Any) -> None:
        def body() -> Any:
            futures = number.map(range(20))
            for _ in range(5):
                futures = add.map(futures, 1)
            return task(sum).submit(futures).result()

        assert in_flow(body, task_runner=runner) == sum(range(5, 25))

    @pytest.mark.parametrize("workers", [1, 2, 4])
    def test_nested_maps(self, workers: int) -> None:
        @task
        def inner(n: int) -> int:
            return n

        @task
        def outer(n: int) -> int:
            return sum(inner.map(range(n)).result())

        @task
        def outermost(n: int) -> int:
            return sum(outer.map(range(n)).result())

        def body() -> Any:
            return outermost.map(range(6)).result()

        expected = [sum(sum(range(b)) for b in range(a)) for a in range(6)]
        assert in_flow(body, task_runner=ThreadPoolTaskRunner(max_workers=workers)) == expected

    def test_many(self) -> None:
        assert in_flow(lambda: number.map(range(2_000)).result()) == list(range(2_000))

    def test_allow_failure_wraps_each_element_again(self, runner: Any) -> None:
        def body() -> Any:
            futures = bad_if_even.map(range(3))
            return first_arguments(give.map(allow_failure(futures)))

        found = in_flow(body, task_runner=runner)
        assert [type(x) for x in found] == [ValueError, int, ValueError]

    def test_quote_maps_raw_futures(self) -> None:
        def body() -> bool:
            futures = [number.submit(1), number.submit(2)]
            first, second = first_arguments(give.map(quote(futures)))
            return first is futures[0] and second is futures[1]

        assert in_flow(body)

    @pytest.mark.parametrize("wrap", [lambda x: allow_failure(unmapped(x)), lambda x: unmapped(allow_failure(x))])
    def test_unmapped_and_allow_failure_in_either_order(self, wrap: Any) -> None:
        def body() -> Any:
            return [x.value[1] for x in give.map([1, 2], wrap([bad.submit(), 3])).result()]

        assert in_flow(body) == [([ERROR, 3],), ([ERROR, 3],)]

    def test_asynchronous_flow(self) -> None:
        @flow
        async def main() -> Any:
            futures = add_async.map(await number.map([1, 2]))
            return await futures

        assert asyncio.run(main()) == [11, 12]


# --- a future as the whole argument -------------------------------------------------------------------------


class TestWholeFuture:
    def test_done_ones_are_replaced_first(self) -> None:
        def body() -> Any:
            source = number.submit([1, 2])
            source.wait()
            return type(add.map(source)), add.map(source).result()

        assert in_flow(body) == (FutureList, [11, 12])

    def test_static_value(self) -> None:
        def body() -> Any:
            source = number.submit(5)
            source.wait()
            with pytest.raises(MappingMissingIterable):
                add.map(source)
            return add.map([1, 2], source).result()

        assert in_flow(body) == [6, 7]

    def test_does_not_block(self, held: Held) -> None:
        def body() -> Any:
            futures = add.map(held.submit([1, 2, 3]))
            assert isinstance(futures, FutureList)
            held.open()
            return futures.result()

        assert in_flow(body) == [11, 12, 13]

    def test_static_when_not_iterable(self, held: Held) -> None:
        def body() -> Any:
            futures = add.map([1, 2], held.submit(5))
            held.open()
            return futures.result()

        assert in_flow(body) == [6, 7]

    @pytest.mark.parametrize(
        ("use", "expected"),
        [
            (len, 2),
            (lambda fs: [f.result() for f in fs], [11, 12]),
            (lambda fs: fs[1].result(), 12),
            (lambda fs: fs[:1].result(), [11]),
            (bool, True),
            (lambda fs: fs == list(fs), True),
            (lambda fs: fs != [], True),
            (lambda fs: len(wait(fs).done), 2),
            (lambda fs: sorted(f.result() for f in as_completed(fs)), [11, 12]),
            (lambda fs: len(list(reversed(fs))), 2),
            (lambda fs: len(fs + fs), 4),
            (lambda fs: fs[0] in fs, True),
            (lambda fs: next(iter(fs)).result(), 11),
            (lambda fs: (fs.wait(), [f.done() for f in fs])[1], [True, True]),
            (lambda fs: fs.result(timeout=5, raise_on_failure=False), [11, 12]),
        ],
    )
    def test_what_needs_elements_waits_for_them(self, held: Held, use: Any, expected: Any) -> None:
        def body() -> Any:
            futures = add.map(held.submit([1, 2]))
            threading.Timer(0.02, held.open).start()
            return use(futures)

        assert in_flow(body) == expected

    def test_repr_does_not_wait(self, held: Held) -> None:
        def body() -> str:
            return repr(add.map(held.submit([1, 2])))

        timer = threading.Timer(0.05, held.open)
        timer.start()
        assert "FutureList" in in_flow(body)
        timer.join()

    def test_timeouts(self, held: Held) -> None:
        def body() -> None:
            futures = add.map(held.submit([1, 2]))
            with pytest.raises(
                TimeoutError, match=r"Timed out waiting for all futures to complete within 0\.01 seconds"
            ):
                futures.result(timeout=0.01)
            assert futures.wait(timeout=0.01) is None
            held.open()
            assert futures.result(timeout=5) == [11, 12]

        in_flow(body)

    def test_as_argument(self, held: Held) -> None:
        def body() -> Any:
            futures = add.map(held.submit([1, 2]))
            total = task(sum).submit(futures)
            nested = number.submit({"a": [futures]})
            again = add.map(futures, 1)
            after = number.submit("after", wait_for=futures)
            inside = number.submit("after", wait_for=[futures])
            assert not any(future.done() for future in (total, nested, after, inside))
            held.open()
            return total.result(), nested.result(), again.result(), after.result(), inside.result()

        assert in_flow(body) == (23, {"a": [[11, 12]]}, [12, 13], "after", "after")

    def test_waits_for_all_elements(self, held: Held) -> None:
        """Not for the expansion only."""
        second = Held()

        def body() -> Any:
            futures = second.task.map(held.submit([1, 2]))
            after = number.submit("after", wait_for=futures)
            held.open()
            assert len(futures) == 2
            after.wait(0.02)
            assert not after.done()
            second.open()
            return after.result()

        assert in_flow(body) == "after"

    @pytest.mark.parametrize("kind", [flow, task])
    def test_as_return_value(self, held: Held, kind: Any) -> None:
        @kind
        def main() -> Any:
            futures = add.map(held.submit([1, 2]))
            threading.Timer(0.02, held.open).start()
            return {"futures": futures}

        assert main() == {"futures": [11, 12]}

    def test_dropped(self, held: Held) -> None:
        log = []

        def body() -> None:
            task(log.append).map(held.submit([1, 2]))
            threading.Timer(0.02, held.open).start()

        in_flow(body)
        assert sorted(log) == [1, 2]

    def test_awaited(self, held: Held) -> None:
        @flow
        async def main() -> Any:
            futures = add.map(held.submit([1, 2]))
            asyncio.get_running_loop().call_later(0.02, held.open)
            return await futures

        assert asyncio.run(main()) == [11, 12]

    def test_cancelled_before_expansion(self, held: Held) -> None:
        bodies = []

        def body() -> str:
            futures = task(bodies.append).map(held.submit([1, 2]))
            futures.cancel()
            held.open()
            futures.wait(timeout=5)
            with pytest.raises(CancelledRun):
                futures.result(timeout=5)
            return "well"

        assert in_flow(body) == "well"
        assert bodies == []

    def test_conflicts_visible_at_once(self, held: Held) -> None:
        def body() -> None:
            pending = held.submit([1, 2])
            with pytest.raises(MappingLengthMismatch):
                give.map([1, 2], [1, 2, 3], k=pending)
            with pytest.raises(ParameterBindError):
                add.map(pending, 1, 2)
            held.open()

        in_flow(body)

    def test_conflicts_found_later(self, held: Held) -> None:
        def body() -> None:
            pending = held.submit([1, 2])
            lengths, nothing = add.map(pending, [1, 2, 3]), add.map(held.submit(5))
            held.open()
            for futures, error in ((lengths, MappingLengthMismatch), (nothing, MappingMissingIterable)):
                for use in (lambda fs: fs.result(), len, list):
                    with pytest.raises(error):
                        use(futures)  # type: ignore[operator]

        in_flow(body)

    def test_conflict_that_nobody_looks_at(self, held: Held) -> None:
        @flow
        def main() -> None:
            add.map(held.submit([1, 2]), [1, 2, 3])
            held.open()

        with pytest.raises(MappingLengthMismatch):
            main()
        state = main(return_state=True)
        assert state.type is StateType.FAILED

    def test_conflict_blocks_dependents(self, held: Held) -> None:
        def body() -> Any:
            futures = add.map(held.submit([1, 2]), [1, 2, 3])
            blocked = number.submit(futures)
            held.open()
            return blocked.exception(timeout=5)

        error = in_flow(body)
        assert isinstance(error, UpstreamTaskError)
        assert isinstance(error.__cause__, MappingLengthMismatch)

    def test_failed_future(self, held: Held) -> None:
        def body() -> Any:
            pending = held.submit(ERROR)
            futures = add.map(pending)
            held.open()
            with pytest.raises(UpstreamTaskError) as caught:
                futures.result(timeout=5)
            with pytest.raises(UpstreamTaskError):
                len(futures)
            return caught.value

        error = in_flow(body)
        assert error.__cause__ is ERROR
        assert error.task_run_name == "held-0"

    def test_failed_future_that_is_done(self) -> None:
        def body() -> Any:
            source = bad.submit()
            source.wait()
            try:
                futures = add.map(source)
                futures.result()
            except UpstreamTaskError as error:
                return error

        assert in_flow(body).__cause__ is ERROR

    def test_failed_future_counts_once(self, held: Held) -> None:
        """The list that could not be made is blocked, not a failure of its own."""

        @flow
        def main() -> None:
            add.map(held.submit(ERROR))
            held.open()

        state = main(return_state=True)
        assert state.type is StateType.FAILED
        assert placeless(state.message) == "1 task run failed and nobody looked at it: held-0 (ValueError: x)"
        assert state.data is ERROR

    def test_unmapped_never_delays(self, held: Held) -> None:
        def body() -> Any:
            futures = add.map([1, 2], unmapped(held.submit(5)))
            assert len(futures) == 2
            assert type(futures) is FutureList
            assert not any(future.done() for future in futures)
            held.open()
            return futures.result()

        assert in_flow(body) == [6, 7]

    def test_allow_failure(self, held: Held) -> None:
        """The exception of a whole future stands for the argument and is static."""

        def body() -> Any:
            pending = held.submit(ERROR)
            futures = give.map([1, 2], allow_failure(pending))
            elements = give.map(allow_failure(held.submit([7, 8])))
            held.open()
            return [x.value[1] for x in futures.result()], first_arguments(elements)

        assert in_flow(body) == ([(ERROR,), (ERROR,)], [7, 8])

    def test_allow_failure_when_done(self) -> None:
        def body() -> Any:
            source = bad.submit()
            source.wait()
            return [x.value[1] for x in give.map([1, 2], allow_failure(source)).result()]

        assert in_flow(body) == [(ERROR,), (ERROR,)]

    def test_whole_failed_state(self) -> None:
        def body() -> None:
            with pytest.raises(UpstreamTaskError):
                add.map(Failed(data=ERROR)).result()

        in_flow(body)

    def test_several(self, held: Held) -> None:
        def body() -> Any:
            futures = add.map(held.submit([1, 2]), held.submit([10, 20]))
            held.open()
            return futures.result()

        assert in_flow(body) == [11, 22]

    def test_a_value_that_is_a_future_again(self) -> None:
        def body() -> Any:
            @task
            def futures() -> Any:
                return [number.submit(1), number.submit(2)]

            return add.map(futures.submit()).result()

        assert in_flow(body) == [11, 12]

    def test_unexpanded_map_over_unexpanded_map(self, held: Held) -> None:
        def body() -> Any:
            futures = add.map(add.map(add.map(held.submit([1, 2]))))
            held.open()
            return futures.result()

        assert in_flow(body) == [31, 32]

    def test_names_are_those_of_the_call(self, held: Held) -> None:
        def body() -> Any:
            first = add.map(held.submit([1, 2]))
            second = add.submit(5)
            held.open()
            return [repr(future) for future in (*first, second)]

        shown = in_flow(body)
        assert ["add-0[0]" in shown[0], "add-0[1]" in shown[1], "add-1" in shown[2]] == [True] * 3

    def test_context_is_that_of_the_call(self, held: Held) -> None:
        from penstock import runtime, tags

        @task
        def tagged(_: int) -> Any:
            return sorted(runtime.task_run.tags)

        def body() -> Any:
            with tags("inside"):
                futures = tagged.map(held.submit([1]))
            held.open()
            return futures.result()

        assert in_flow(body) == [["inside"]]

    def test_flow_fails_before_expansion(self, held: Held) -> None:
        """What has not started never will."""
        bodies = []

        @flow
        def main() -> None:
            task(bodies.append).map(held.submit([1, 2]))
            threading.Timer(0.02, held.open).start()
            raise ERROR

        with pytest.raises(ValueError):
            main()
        assert bodies == []


def test_what_was_mapped_over_is_recorded_as_an_upstream(own_store: Path) -> None:
    @task
    def names() -> list[int]:
        return [1, 2]

    @task
    def pair(x: int, y: list[int]) -> None: ...

    @flow(task_runner=RUNNERS["threads"]())
    def body() -> None:
        add.map(names.submit()).wait()  # expands later
        done = names.submit()
        done.wait()
        pair.map(x=done, y=unmapped(names.submit())).wait()
        add.map(names(return_state=True)).wait()
        list(add.imap(names.submit(), names.submit()))

    body()
    reader = SQLiteReader(own_store)
    (root,) = reader.runs()
    called = {row.id: row.run_name for row in reader.tree(root.id)}
    edges = {(called[edge.upstream_id], called[edge.downstream_id], edge.parameter) for edge in reader.edges(root.id)}
    reader.close()
    assert edges == {
        *(("names-0", f"add-0[{index}]", "x") for index in range(2)),
        *(("names-1", f"pair-0[{index}]", "x") for index in range(2)),
        *(("names-2", f"pair-0[{index}]", "y") for index in range(2)),
        *(("names-3", f"add-1[{index}]", "x") for index in range(2)),
        *(("names-4", f"add-2[{index}]", "x") for index in range(2)),
        *(("names-5", f"add-2[{index}]", "y") for index in range(2)),
    }
