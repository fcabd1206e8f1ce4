"""Something else in the place of a task's function, wherever it is called."""

from __future__ import annotations

import sys
import threading
import time
import types
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import shop_of_stubs as shop

from penstock import flow, task, transaction
from penstock.cache_policies import INPUTS
from penstock.exceptions import SerializationError
from penstock.task_runners import (
    DaskTaskRunner,
    ProcessPoolTaskRunner,
    RayTaskRunner,
    SequentialTaskRunner,
    TaskRunner,
    ThreadPoolTaskRunner,
)
from penstock.testing import MakeStub, RecordedRuns, Stub, stub

In = Callable[[Callable[..., Any]], Any]


def lengths(path: str, times: int) -> int:
    return len(path) * times


def in_flow_on(runner: TaskRunner | type[TaskRunner]) -> In:
    """Call something as the body of a flow."""
    return lambda body: flow(name="main", task_runner=runner)(body)()


class OnARunner:
    def test_submitted(self, in_flow: In, penstock_runs: RecordedRuns) -> None:
        with stub(shop.load, returns=5) as load:
            assert in_flow(lambda: shop.load.submit("a").result()) == 5
        assert (load.count, load.calls) == (1, [{"path": "a", "times": 1}])
        assert penstock_runs["load"].states == ["Completed"]

    def test_called(self, in_flow: In) -> None:
        with stub(shop.load, returns=5) as load:
            assert in_flow(lambda: shop.load("a", times=2)) == 5
        assert load.calls == [{"path": "a", "times": 2}]

    def test_mapped(self, in_flow: In) -> None:
        with stub(shop.load, side_effect=lengths) as load:
            assert in_flow(lambda: shop.load.map(["a", "bb", "ccc"], times=2).result()) == [2, 4, 6]
        assert sorted(call["path"] for call in load.calls) == ["a", "bb", "ccc"]

    def test_copies_with_other_options(self, in_flow: In, penstock_runs: RecordedRuns) -> None:
        copy = shop.load.with_options(name="copy", tags=["x"])
        with stub(shop.load, returns=5):
            assert in_flow(lambda: copy.submit("a").result()) == 5
        with stub(copy, returns=6):
            assert in_flow(lambda: shop.load.submit("a").result()) == 6
        assert penstock_runs["copy"][0].tags == ["x"]

    def test_called_and_submitted_by_another_task(self, in_flow: In, penstock_runs: RecordedRuns) -> None:
        with stub(shop.load, side_effect=[1, 2]) as load:
            assert in_flow(lambda: shop.twice.submit("deep").result()) == [1, 2]
        assert load.calls == [{"path": "deep", "times": 1}] * 2
        assert penstock_runs["load"].states == ["Completed"] * 2
        assert penstock_runs["load"][0].parent == "twice-0"

    def test_called_by_a_task_that_travels_by_value(self, in_flow: In) -> None:
        inner = task(lambda x: 1 / 0, name="inner")
        outer = task(lambda x: inner(x), name="outer")
        with stub(inner, returns=9) as stubbed:
            assert in_flow(lambda: outer.submit(3).result()) == 9
        assert stubbed.calls == [{"x": 3}]

    def test_retried(self, in_flow: In, penstock_runs: RecordedRuns) -> None:
        with stub(shop.load, side_effect=[OSError("one"), OSError, 7], times=3):
            assert in_flow(lambda: shop.load.with_options(retries=2).submit("a").result()) == 7
        assert penstock_runs["load"].attempts == [3]
        assert penstock_runs["load"][0].attempt_states == ["Failed", "Failed", "Completed"]

    def test_asynchronous(self, in_flow: In) -> None:
        with stub(shop.fetch, returns=b"x") as fetch:
            assert in_flow(lambda: shop.fetch.submit("url").result()) == b"x"
        assert fetch.calls == [{"url": "url"}]

    def test_generators(self, in_flow: In) -> None:
        with stub(shop.numbers, returns=[1, 2]):
            assert in_flow(lambda: shop.numbers.submit().result()) == [1, 2]
            assert in_flow(lambda: list(shop.numbers())) == [1, 2]

    def test_a_stub_that_cannot_travel_is_no_matter_to_others(self, in_flow: In) -> None:
        lock = threading.Lock()
        with stub(shop.load, side_effect=lambda path, times: lock):
            assert in_flow(lambda: shop.size.submit("abc").result()) == 3


class TestOnThisMachine(OnARunner):
    @pytest.fixture(
        params=[SequentialTaskRunner, ThreadPoolTaskRunner, ProcessPoolTaskRunner], ids=lambda kind: kind.__name__
    )
    def in_flow(self, request: pytest.FixtureRequest) -> In:
        return in_flow_on(request.param)


class TestOnDask(OnARunner):
    @pytest.fixture
    def in_flow(self, dask_address: str) -> In:
        return in_flow_on(DaskTaskRunner(address=dask_address))


class TestOnRay(OnARunner):
    @pytest.fixture
    def in_flow(self, running_ray: None) -> In:
        return in_flow_on(RayTaskRunner)


def test_a_stub_of_a_task_that_workers_cannot_import_is_no_matter_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("known_here_only")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec("from penstock import task\n@task\ndef work(): ...", module.__dict__)
    main = flow(task_runner=ProcessPoolTaskRunner(1))(lambda: shop.size.submit("abc").result())
    with stub(module.work, returns=1):
        assert main() == 3


def test_what_is_called_instead_can_be_asked_to_stop(caplog: pytest.LogCaptureFixture) -> None:
    def spin(path: str, times: int) -> None:
        while True:
            time.sleep(0.001)

    limited = shop.load.with_options(timeout_seconds=0.05)
    with stub(shop.load, side_effect=spin):
        assert flow(lambda: limited.submit("a", return_state=True).name)() == "TimedOut"
    assert "did not stop" not in caplog.text


def test_a_stub_that_cannot_travel_says_so() -> None:
    lock = threading.Lock()
    main = flow(task_runner=ProcessPoolTaskRunner(1))(lambda: shop.load.submit("a").result())
    message = r"the stub of 'load'\.function\.lock cannot be sent to another process \(_thread\.lock\)"
    with (
        stub(shop.load, side_effect=lambda path, times: bool(lock)) as load,
        pytest.raises(SerializationError, match=message.replace(r"\.function", r".*")),
    ):
        main()
    assert load.count == 1


class TestWhatItDoes:
    def test_nothing_said(self) -> None:
        with stub(shop.load):
            assert shop.load("a") is None

    @pytest.mark.parametrize("raises", [ValueError("no"), ValueError])
    def test_raises(self, raises: Any, penstock_runs: RecordedRuns) -> None:
        with stub(shop.load, raises=raises), pytest.raises(ValueError):
            shop.load("a")
        assert penstock_runs["load"].states == ["Failed"]

    def test_an_exception_can_be_returned(self) -> None:
        error = ValueError("no")
        with stub(shop.load, returns=error):
            assert shop.load("a") is error

    def test_too_few_items(self) -> None:
        with stub(shop.load, side_effect=[1]), pytest.raises(AssertionError, match=r"'load' has 1 item\(s\), but was"):
            assert shop.load("a") == 1
            shop.load("b")

    def test_asynchronous_functions(self) -> None:
        async def answer(url: str) -> bytes:
            return url.encode()

        @flow
        async def main() -> bytes:
            return await shop.fetch("x") + await shop.fetch.submit("y")

        with stub(shop.fetch, side_effect=answer):
            assert run(main()) == b"xy"
        with stub(shop.fetch, raises=OSError("no route")), pytest.raises(OSError, match="no route"):
            run(main())

    def test_asynchronous_generators(self) -> None:
        async def items() -> AsyncIterator[str]:
            for item in "ab":
                yield item

        @flow
        async def main() -> list[str]:
            return [line async for line in shop.lines()] + await shop.lines.submit()

        with stub(shop.lines, returns=["x"]):
            assert run(main()) == ["x", "x"]
        with stub(shop.lines, side_effect=items):
            assert run(main()) == ["a", "b", "a", "b"]

    def test_a_generator_function(self) -> None:
        def items() -> Iterator[int]:
            yield from (4, 5)

        with stub(shop.numbers, side_effect=items):
            assert list(shop.numbers()) == [4, 5]

    def test_methods(self) -> None:
        loader = shop.Loader()
        with stub(loader.load, returns=3) as load:
            assert loader.load("a") == shop.Loader().load("b") == 3
        assert [call["path"] for call in load.calls] == ["a", "b"]
        with stub(shop.Loader.load, side_effect=lambda self, path: path):
            assert loader.load("c") == "c"

    def test_flows(self, penstock_runs: RecordedRuns) -> None:
        @flow
        def outer() -> Any:
            return shop.etl("a")

        with stub(shop.etl, returns="etl"):
            assert outer() == "etl"
        assert penstock_runs["etl"].states == ["Completed"]

    def test_all_kinds_of_parameters(self) -> None:
        with stub(shop.odd, returns=1) as odd:
            shop.odd(1, 2, 3, key=4, more=5)
        assert odd.calls == [{"first": 1, "rest": (2, 3), "key": 4, "others": {"more": 5}}]

    def test_wrong_arguments_are_refused_as_ever(self) -> None:
        with stub(shop.load, returns=1) as load, pytest.raises(TypeError, match="missing a required argument: 'path'"):
            shop.load()  # type: ignore[call-arg]
        assert load.count == 0


class TestWhenAndWhere:
    def test_it_ends(self) -> None:
        with stub(shop.size, returns=7) as size:
            pass
        assert shop.size("abc") == 3
        assert size.calls == []

    def test_it_ends_when_the_block_raises(self) -> None:
        with pytest.raises(KeyError), stub(shop.size, returns=7, times=1):
            raise KeyError
        assert shop.size("abc") == 3

    def test_the_innermost_counts(self) -> None:
        with stub(shop.size, returns=1) as outer:
            with stub(shop.size, returns=2):
                assert shop.size("a") == 2
            assert shop.size("a") == 1
        assert outer.count == 1

    def test_other_tasks_are_left_alone(self) -> None:
        with stub(shop.load, returns=1):
            assert shop.size("abc") == 3

    @pytest.mark.parametrize(("times", "context"), [(1, nullcontext()), (2, pytest.raises(AssertionError))])
    def test_times(self, times: int, context: AbstractContextManager[Any]) -> None:
        with context, stub(shop.load, returns=1, times=times):
            shop.load("a")

    def test_the_fixture(self, penstock_stub: MakeStub) -> None:
        made: Stub = penstock_stub(shop.load, returns=1)
        assert shop.load("a") == 1
        assert repr(made) == "<stub of 'load', called 1 time(s)>"

    def test_not_inside_of_a_flow(self) -> None:
        @flow
        def main() -> None:
            with stub(shop.load):
                pass

        with pytest.raises(RuntimeError, match="enter it before the flow is called"):
            main()

    @pytest.mark.parametrize(
        ("what", "error", "message"),
        [
            ({"task": lengths}, TypeError, r"got function: decorate the function with @task"),
            ({"task": shop.load, "returns": 1, "raises": OSError}, TypeError, "got returns and raises"),
            ({"task": shop.load, "side_effect": []}, ValueError, "side_effect is empty"),
        ],
        ids=["no task", "two answers", "no items"],
    )
    def test_wrong_use(self, what: dict[str, Any], error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message), stub(**what):
            pass


class TestWhatIsKept:
    def test_its_result_is_not_taken_for_the_tasks_own(self, penstock_runs: RecordedRuns) -> None:
        calls: list[int] = []
        counted = task(cache_policy=INPUTS, name="counted")(lambda x: calls.append(x) or x)

        assert counted(1) == 1
        with stub(counted, returns="stubbed"):
            assert counted(1) == counted(2) == "stubbed"
        assert (counted(1), counted(2)) == (1, 2)
        assert penstock_runs["counted"].states == ["Completed", "Completed", "Completed", "Cached", "Completed"]

    def test_hooks_of_transactions_are_called(self) -> None:
        undone: list[str] = []
        saved = task(lambda: None, name="save", on_rollback=[lambda transaction: undone.append("save")])

        @flow
        def main() -> None:
            with transaction():
                saved()
                raise ValueError

        with stub(saved, returns=1), pytest.raises(ValueError):
            main()
        assert undone == ["save"]


def run(coroutine: Any) -> Any:
    import asyncio

    return asyncio.run(coroutine)
