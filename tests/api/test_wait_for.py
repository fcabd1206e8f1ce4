"""`wait_for=`: upstreams that are not arguments."""

from __future__ import annotations

import asyncio
import threading
from collections import ChainMap, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import pytest
from roots import give_flow, in_flow

from penstock import (
    Future,
    FutureList,
    flow,
    task,
)
from penstock.states import Completed

ERROR = ValueError("x")


@dataclass(frozen=True, slots=True)
class Frozen:
    a: Any
    b: list[Any]


@task
def number(n: Any = 1) -> Any:
    return n


@task
def bad() -> None:
    raise ERROR


@pytest.fixture
def late() -> Iterator[Any]:
    """A task that ends when told, and the log that it writes into."""
    gate, log = threading.Event(), []

    @task
    def held(name: str = "held") -> str:
        gate.wait(5)
        log.append(name)
        return name

    held.gate, held.log = gate, log  # type: ignore[attr-defined]
    yield held
    gate.set()


FORMS: dict[str, Callable[[list[Any]], Any]] = {
    "list": lambda fs: fs,
    "tuple": tuple,
    "set": set,
    "generator": lambda fs: (f for f in fs),
    "iterator": iter,
    "filter": lambda fs: filter(None, fs),
    "values": lambda fs: dict(enumerate(fs)).values(),
    "keys": lambda fs: dict.fromkeys(fs).keys(),
    "items": lambda fs: dict(enumerate(fs)).items(),
    "dict": lambda fs: dict(enumerate(fs)),
    "nested": lambda fs: [[f] for f in fs],
    "with plain values": lambda fs: [None, 1, "text", b"bytes", object(), *fs, {}],
    "future list": FutureList,
    "deque": deque,
    "dataclass": lambda fs: Frozen(fs[0], fs),
    "nested twice": lambda fs: ([{"a": fs}],),
}


class TestWaitFor:
    @pytest.mark.parametrize("form", FORMS)
    def test_forms(self, late: Any, form: str) -> None:
        @task
        def after(name: str) -> None:
            late.log.append(name)

        @flow
        def sub(name: str) -> None:
            late.log.append(name)

        def body() -> None:
            futures = [late.submit("a"), late.submit("b")]
            after.submit("task", wait_for=FORMS[form](futures))
            sub.submit("flow", wait_for=FORMS[form](futures))
            after.map(["child"], wait_for=FORMS[form](futures))
            late.gate.set()
            after("direct", wait_for=FORMS[form](futures))
            assert {"a", "b"} <= set(late.log[:2])

        in_flow(body)
        assert sorted(late.log[:2]) == ["a", "b"]
        assert sorted(late.log[2:]) == ["child", "direct", "flow", "task"]

    def test_one_future(self, late: Any) -> None:
        def body() -> Any:
            future = late.submit()
            waiting = number.submit(wait_for=future)
            waiting.wait(0.02)
            assert not waiting.done()
            late.gate.set()
            return waiting.result()

        assert in_flow(body) == 1

    def test_one_state(self) -> None:
        assert number(7, wait_for=Completed()) == 7
        assert in_flow(lambda: number.submit(7, wait_for=[Completed(), Completed(data=2)]).result()) == 7

    def test_drained_once_at_the_call(self, late: Any) -> None:
        drawn = []

        def source(futures: list[Any]) -> Iterator[Any]:
            for future in futures:
                drawn.append(future)
                yield future

        def body() -> None:
            futures = [late.submit(), late.submit()]
            children = number.map([1, 2, 3], wait_for=source(futures))
            assert drawn == futures
            late.gate.set()
            assert children.result() == [1, 2, 3]

        in_flow(body)

    @pytest.mark.parametrize("empty", [None, [], (), {}, iter([]), [[], {}], [None]])
    def test_nothing_to_wait_for(self, empty: Any) -> None:
        assert number(3, wait_for=empty) == 3

    @pytest.mark.parametrize(
        "make",
        [
            lambda f: [1, iter([f])],
            lambda f: [1, (x for x in [f])],
            lambda f: [1, ChainMap({"a": f})],
            lambda f: [1, MappingProxyType({"a": f})],
        ],
    )
    def test_what_would_be_lost_silently_is_an_error(self, make: Any) -> None:
        def body() -> None:
            future = number.submit()
            for submit in (number, number.submit, give_flow, give_flow.submit):
                with pytest.raises(TypeError, match=r"wait_for\[1\]|\[1\]"):
                    submit(1, wait_for=make(future))
            with pytest.raises(TypeError, match=r"\[1\]"):
                number.map([1], wait_for=make(future))
            with pytest.raises(TypeError, match=r"\[1\]"):
                number.imap([1], wait_for=make(future))

        in_flow(body)

    def test_foreign_awaitables_are_errors(self) -> None:
        import concurrent.futures

        async def coroutine() -> None: ...

        @flow
        async def main() -> None:
            one = coroutine()
            two = asyncio.ensure_future(asyncio.sleep(0))
            three: Any = concurrent.futures.Future()
            for thing in (one, two, three):
                with pytest.raises(TypeError, match=r"\[0\]"):
                    number.submit(wait_for=[thing])
                with pytest.raises(TypeError, match=r"wait_for=\[x\]"):
                    number.submit(wait_for=thing)
            await one
            await two

        asyncio.run(main())

    @pytest.mark.parametrize("whole", [5, object(), "text", b"bytes", ChainMap(), MappingProxyType({}), len])
    def test_not_a_future_nor_an_iterable(self, whole: Any) -> None:
        with pytest.raises(TypeError, match=r"wait_for=\[x\]"):
            number(wait_for=whole)

    def test_no_run_is_made_of_a_refused_call(self) -> None:
        def body() -> Any:
            with pytest.raises(TypeError):
                number.submit(wait_for=5)
            future: Future[Any] = number.submit()
            return future.result(), repr(future)

        value, shown = in_flow(body)
        assert value == 1
        assert "number-" in shown

    def test_each_must_complete(self) -> None:
        def body() -> Any:
            waits = [number.submit(), bad.submit()]
            return [future.state.name for future in number.map([1, 2], wait_for=waits) if future.wait() is None]

        assert in_flow(body) == ["UpstreamFailed", "UpstreamFailed"]
