"""`.imap()`: a map whose input is pulled only as fast as its results are taken."""

from __future__ import annotations

import asyncio
import gc
import itertools
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from roots import RUNNERS, in_flow, patiently

from penstock import Future, allow_failure, flow, quote, task, unmapped
from penstock.exceptions import (
    MappingMissingIterable,
    ParameterBindError,
    ReservedArgumentError,
    UpstreamTaskError,
)
from penstock.states import StateType
from penstock.task_runners import SequentialTaskRunner, ThreadPoolTaskRunner

ERROR = ValueError("x")


@pytest.fixture(params=RUNNERS)
def runner(request: pytest.FixtureRequest) -> Any:
    return RUNNERS[request.param]()


@task
def number(n: Any, plus: Any = 0) -> Any:
    return n + plus


@task
async def number_async(n: Any, plus: Any = 0) -> Any:
    await asyncio.sleep(0)
    return n + plus


class Source:
    """An endless input that counts what was taken, and where."""

    def __init__(self) -> None:
        self.taken = 0
        self.threads: set[int] = set()

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        self.threads.add(threading.get_ident())
        self.taken += 1
        return self.taken - 1


class Gates:
    """A task each of whose runs ends when it is told."""

    def __init__(self, count: int) -> None:
        self.gates = [threading.Event() for _ in range(count)]
        self.task = task(self._body, name="gated")

    def _body(self, n: int) -> int:
        assert self.gates[n].wait(5)
        return n

    def open(self, *numbers: int) -> None:
        for n in numbers:
            self.gates[n].set()


@pytest.fixture
def gates() -> Iterator[Gates]:
    made = Gates(10)
    yield made
    made.open(*range(10))


class TestResults:
    @pytest.mark.parametrize("mapped", [number, number_async])
    @pytest.mark.parametrize("ordered", [True, False])
    def test_every_one_once(self, runner: Any, mapped: Any, ordered: bool) -> None:
        def body() -> Any:
            return [future.result() for future in mapped.imap(range(100), ordered=ordered)]

        found = in_flow(body, task_runner=runner)
        assert (found if ordered else sorted(found)) == list(range(100))

    def test_yields_futures_that_are_done(self, runner: Any) -> None:
        def body() -> None:
            for future in number.imap([1, 2, 3]):
                assert type(future) is Future
                assert future.done()

        in_flow(body, task_runner=runner)

    def test_completion_order(self, gates: Gates) -> None:
        def body() -> Any:
            found = []
            iterator = gates.task.imap(range(3))
            for n in (2, 0, 1):
                gates.open(n)
                found.append(next(iterator).result())
            with pytest.raises(StopIteration):
                next(iterator)
            return found

        assert in_flow(body) == [2, 0, 1]

    def test_submission_order(self, gates: Gates) -> None:
        def body() -> Any:
            iterator = gates.task.imap(range(3), ordered=True)
            gates.open(2, 1)
            threading.Timer(0.02, gates.open, [0]).start()
            return [future.result() for future in iterator]

        assert in_flow(body) == [0, 1, 2]

    @pytest.mark.parametrize("mapped", [number, number_async])
    @pytest.mark.parametrize("ordered", [True, False])
    def test_in_coroutines(self, mapped: Any, ordered: bool) -> None:
        @flow
        async def main() -> Any:
            iterator = mapped.imap(range(50), ordered=ordered, max_pending=4)
            return [await future async for future in iterator]

        found = asyncio.run(main())
        assert (found if ordered else sorted(found)) == list(range(50))

    def test_awaiting_leaves_the_loop_free(self, gates: Gates) -> None:
        @flow
        async def main() -> Any:
            async def opener() -> None:
                await asyncio.sleep(0.01)
                gates.open(0, 1)

            opening = asyncio.ensure_future(opener())
            found = [await future async for future in gates.task.imap(range(2))]
            await opening
            return sorted(found)

        assert asyncio.run(main()) == [0, 1]

    def test_names(self) -> None:
        def body() -> Any:
            number.submit(0)
            return [repr(future) for future in number.imap([5, 6], ordered=True)]

        shown = in_flow(body)
        assert "number-1[0]" in shown[0]
        assert "number-1[1]" in shown[1]

    def test_in_nested_tasks(self) -> None:
        @task
        def inner(n: int) -> int:
            return sum(future.result() for future in number.imap(range(n)))

        def body() -> Any:
            return [future.result() for future in inner.imap(range(6), ordered=True)]

        for workers in (1, 2):
            found = in_flow(body, task_runner=ThreadPoolTaskRunner(max_workers=workers))
            assert found == [sum(range(n)) for n in range(6)]

    def test_two_at_a_time(self) -> None:
        def body() -> Any:
            pairs = zip(number.imap(range(20), ordered=True), number.imap(range(20), ordered=True), strict=True)
            return [(one.result(), two.result()) for one, two in pairs]

        found = in_flow(body, task_runner=ThreadPoolTaskRunner(max_workers=1))
        assert found == [(n, n) for n in range(20)]


class TestArguments:
    def test_the_shortest_ends_it(self) -> None:
        def body() -> Any:
            return sorted(future.result() for future in number.imap([1, 2, 3], [10, 20]))

        assert in_flow(body) == [11, 22]

    def test_endless_and_short(self) -> None:
        def body() -> Any:
            return sorted(future.result() for future in number.imap(itertools.count(), plus=[10, 20]))

        assert in_flow(body) == [10, 21]

    @pytest.mark.parametrize("plus", [5, unmapped(5)])
    def test_static(self, plus: Any) -> None:
        assert in_flow(lambda: sorted(f.result() for f in number.imap([1, 2], plus))) == [6, 7]

    def test_var_positional_maps_per_position(self) -> None:
        va = task(lambda *args: args)
        assert in_flow(lambda: [f.result() for f in va.imap([1, 2], [3, 4], ordered=True)]) == [
            (1, 3),
            (2, 4),
        ]

    def test_futures_among_the_elements(self) -> None:
        def body() -> Any:
            return sorted(f.result() for f in number.imap([number.submit(1), 2], unmapped(number.submit(10))))

        assert in_flow(body) == [11, 12]

    def test_allow_failure(self) -> None:
        def body() -> Any:
            bad = task(lambda: {}["k"])
            seen = task(lambda x: type(x).__name__)
            return [f.result() for f in seen.imap(allow_failure([bad.submit(), 1]), ordered=True)]

        assert in_flow(body) == ["KeyError", "int"]

    def test_whole_future(self) -> None:
        """A future as the whole argument stands for its value, as in `map`."""

        def body() -> Any:
            return [f.result() for f in number.imap(task(lambda: [1, 2]).submit(), ordered=True)]

        assert in_flow(body) == [1, 2]

    def test_map_as_input(self) -> None:
        def body() -> Any:
            return [f.result() for f in number.imap(number.map([1, 2]), 1, ordered=True)]

        assert in_flow(body) == [2, 3]

    def test_wait_for(self, gates: Gates) -> None:
        def body() -> Any:
            upstream = gates.task.submit(0)
            iterator = number.imap([1, 2], wait_for=iter([upstream]))
            threading.Timer(0.02, gates.open, [0]).start()
            for future in iterator:
                assert upstream.done()
                future.result()
            return "waited"

        assert in_flow(body) == "waited"

    def test_wrong_ones(self) -> None:
        def body() -> None:
            with pytest.raises(MappingMissingIterable):
                number.imap(5)
            with pytest.raises(ParameterBindError):
                number.imap([1], z=[2])
            for wrong in (0, -1):
                with pytest.raises(ValueError, match="max_pending"):
                    number.imap([1], max_pending=wrong)

        in_flow(body)

    @pytest.mark.parametrize("name", ["max_pending", "ordered"])
    def test_reserved_names(self, name: str) -> None:
        taken = task(eval(f"lambda {name}: {name}"))

        def body() -> Any:
            assert taken.map([1]).result() == [1]
            with pytest.raises(ReservedArgumentError, match=f"'{name}' is a reserved argument name"):
                taken.imap([1])

        in_flow(body)

    def test_empty(self) -> None:
        assert in_flow(lambda: list(number.imap([]))) == []

        @flow
        async def main() -> Any:
            return [future async for future in number.imap([])]

        assert asyncio.run(main()) == []


class TestLaziness:
    @pytest.mark.parametrize("ordered", [True, False])
    def test_at_most_max_pending(self, ordered: bool, runner: Any) -> None:
        source = Source()

        def body() -> None:
            iterator = number.imap(source, max_pending=3, ordered=ordered)
            for handed_out in range(1, 20):
                next(iterator).result()
                assert source.taken - handed_out <= 3
            iterator.close()

        in_flow(body, task_runner=runner)
        assert source.taken <= 22

    def test_nothing_is_taken_before_it_is_asked_for(self) -> None:
        source = Source()

        def body() -> None:
            iterator = number.imap(source, max_pending=2)
            assert source.taken <= 2
            iterator.close()

        in_flow(body)
        assert source.taken <= 2

    def test_default_is_twice_the_slots(self) -> None:
        source = Source()

        def body() -> None:
            iterator = number.imap(source)
            next(iterator)
            iterator.close()

        in_flow(body, task_runner=ThreadPoolTaskRunner(max_workers=3))
        assert source.taken == 6

    def test_taken_in_the_consumers_thread(self) -> None:
        source = Source()

        def body() -> None:
            iterator = number.imap(source, max_pending=2)
            for _ in range(20):
                next(iterator)
            iterator.close()

        in_flow(body)
        assert source.threads == {threading.get_ident()}

    def test_slow_consumer(self, gates: Gates) -> None:
        """Results pile up to the bound, not beyond it."""
        source = Source()

        def body() -> None:
            iterator = number.imap(source, max_pending=2)
            first = next(iterator)
            patiently(first.done)
            threading.Event().wait(0.02)
            assert source.taken <= 3
            iterator.close()

        in_flow(body)

    def test_one_pending_is_sequential(self) -> None:
        running, most, lock = 0, 0, threading.Lock()

        @task
        def counted(n: int) -> int:
            nonlocal running, most
            with lock:
                running += 1
                most = max(most, running)
            with lock:
                running -= 1
            return n

        def body() -> Any:
            return [future.result() for future in counted.imap(range(50), max_pending=1)]

        assert in_flow(body) == list(range(50))
        assert most == 1

    def test_memory_is_bounded(self) -> None:
        class Big:
            pass

        arguments: list[weakref.ref[Big]] = []

        def source() -> Iterator[Big]:
            for _ in range(100):
                big = Big()
                arguments.append(weakref.ref(big))
                yield big
                del big

        @task
        def same(big: Big) -> Big:
            return big

        def body() -> int:
            most = 0
            for future in same.imap(source(), max_pending=4):
                del future
                gc.collect(1)  # all generations would take the test suite's whole heap each time
                most = max(most, sum(ref() is not None for ref in arguments))
            return most

        assert in_flow(body, task_runner=ThreadPoolTaskRunner(max_workers=2)) <= 10


class TestEnds:
    def test_failed_children_do_not_stop_it(self, runner: Any) -> None:
        @task
        def odd_only(n: int) -> int:
            if n % 2 == 0:
                raise ValueError(n)
            return n

        def body() -> Any:
            return [future.exception() is None for future in odd_only.imap(range(6), ordered=True)]

        assert in_flow(body, task_runner=runner) == [False, True] * 3

    def test_failures_nobody_looks_at(self) -> None:
        @flow
        def main() -> None:
            for _ in task(lambda n: {}["k"]).imap([1, 2]):
                pass

        with pytest.raises(ExceptionGroup) as caught:
            main()
        assert [type(error) for error in caught.value.exceptions] == [KeyError, KeyError]

    def test_blocked_children(self) -> None:
        def body() -> Any:
            upstream = task(lambda: {}["k"]).submit()
            return [type(f.exception()) for f in number.imap([upstream, 1], ordered=True)]

        assert in_flow(body) == [UpstreamTaskError, type(None)]

    @pytest.mark.parametrize("ordered", [True, False])
    def test_exception_of_the_input_comes_last(self, ordered: bool) -> None:
        def source() -> Iterator[int]:
            yield 1
            yield 2
            raise ERROR

        def body() -> Any:
            found = []
            iterator = number.imap(source(), ordered=ordered)
            with pytest.raises(ValueError) as caught:
                for future in iterator:
                    value = future.result()
                    found.append(value)
            assert caught.value is ERROR
            assert list(iterator) == []
            return sorted(found)

        assert in_flow(body) == [1, 2]

    def test_exception_of_the_input_in_a_coroutine(self) -> None:
        def source() -> Iterator[int]:
            yield 1
            raise ERROR

        @flow
        async def main() -> Any:
            found = []
            with pytest.raises(ValueError) as caught:
                async for future in number.imap(source()):
                    value = await future
                    found.append(value)
            assert caught.value is ERROR
            return found

        assert asyncio.run(main()) == [1]

    @pytest.mark.parametrize("how", ["close", "drop", "break"])
    def test_closing_cancels_what_has_not_started(self, gates: Gates, how: str) -> None:
        started = []

        @task
        def gated(n: int) -> int:
            started.append(n)
            if n == 1:
                assert gates.gates[1].wait(5)
            return n

        def body() -> str:
            iterator = gated.imap(range(10), max_pending=5)
            if how == "break":
                for future in iterator:
                    assert future.result() == 0
                    break
            else:
                assert next(iterator).result() == 0
            patiently(lambda: 1 in started)
            if how == "close":
                iterator.close()
            del iterator
            gc.collect()
            gates.open(1)
            return "well"

        assert in_flow(body, task_runner=ThreadPoolTaskRunner(max_workers=1)) == "well"
        assert started == [0, 1]

    def test_closed_ones_are_at_their_end(self) -> None:
        def body() -> None:
            iterator = number.imap(itertools.count(), max_pending=2)
            next(iterator)
            iterator.close()
            iterator.close()
            assert len(list(iterator)) <= 2

        in_flow(body)

    def test_aclose(self) -> None:
        @flow
        async def main() -> str:
            iterator = number.imap(itertools.count(), max_pending=2)
            await anext(iterator)
            await iterator.aclose()
            return "well"

        assert asyncio.run(main()) == "well"

    def test_abandoned_in_a_failing_flow(self) -> None:
        @flow
        def main() -> None:
            for _ in number.imap(itertools.count(), max_pending=2):
                raise ERROR

        with pytest.raises(ValueError) as caught:
            main()
        assert caught.value is ERROR

    def test_sequential_runner_executes_while_pulling(self) -> None:
        executed = []

        def body() -> None:
            iterator = task(executed.append).imap(itertools.count(), max_pending=2)
            next(iterator)
            assert executed == [0, 1]
            iterator.close()

        in_flow(body, task_runner=SequentialTaskRunner())

    def test_states(self) -> None:
        def body() -> Any:
            return quote([future.state.type for future in number.imap([1, 2])])

        assert in_flow(body).value == [StateType.COMPLETED] * 2
