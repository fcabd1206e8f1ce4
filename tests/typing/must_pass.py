"""Checked, never run: what users write and what the type checkers must make of it, without any error."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar, assert_type

from penstock import Future, FutureList, State, allow_failure, as_completed, flow, quote, task, unmapped, wait
from penstock.flows import Flow
from penstock.futures import DoneAndNotDoneFutures
from penstock.task_runners import ThreadPoolTaskRunner
from penstock.tasks import NotSet, Task
from penstock.testing import MakeStub, RecordedRuns, SkippingClock, Stub, stub

T = TypeVar("T")
U = TypeVar("U")


@dataclass
class Report:
    title: str


@task
def one(x: int) -> int:
    return x + 1


@task
def two(y: int) -> str:
    return str(y)


@task(name="with options", retries=3, tags=["a"], retry_delay_seconds=[1, 2.5])
def configured(title: str, *, size: int = 3) -> Report:
    return Report(title * size)


@task
def add(a: int, b: int) -> int:
    return a + b


@task
def total(values: list[int]) -> int:
    return sum(values)


@task
async def fetch(url: str) -> bytes:
    return url.encode()


@task
def nothing() -> None: ...


class Loader:
    @task
    def load(self, path: str) -> list[int]:
        return [len(path)]

    @task
    async def load_later(self, path: str) -> list[int]:
        return [len(path)]

    @task
    @classmethod
    def of_class(cls, path: str) -> int:
        return len(path)

    @classmethod
    @task(retries=1)
    def also_of_class(cls, path: str) -> int:
        return len(path)

    @task
    @staticmethod
    def static(path: str) -> int:
        return len(path)

    @staticmethod
    @flow
    def static_flow(path: str) -> int:
        return len(path)


def calls() -> None:
    assert_type(one(1), int)
    assert_type(two(y=1), str)
    assert_type(configured("a"), Report)
    assert_type(configured("a", size=4), Report)
    coroutine: Coroutine[Any, Any, bytes] = fetch("u")
    coroutine.close()


def submissions() -> None:
    assert_type(one.submit(1), Future[int])
    assert_type(two.submit(y=1), Future[str])
    assert_type(configured.submit("a", size=4), Future[Report])
    assert_type(fetch.submit("u"), Future[bytes])
    assert_type(nothing.submit(), Future[None])
    assert_type(one.submit(1).result(), int)
    assert_type(one.submit(1, wait_for=[two.submit(1)]), Future[int])
    assert_type(one.submit(1).state, State[int])


def futures_in_place_of_values() -> None:
    first = one.submit(1)
    assert_type(two.submit(first), Future[str])
    assert_type(two.submit(one.submit(1)), Future[str])
    assert_type(two.submit(y=first), Future[str])
    assert_type(add.submit(first, 2), Future[int])
    assert_type(add.submit(1, first), Future[int])
    assert_type(add.submit(first, first), Future[int])
    assert_type(add.submit(1, b=first), Future[int])
    assert_type(add.submit(a=first, b=2), Future[int])
    assert_type(total.submit([first, first]), Future[int])
    assert_type(fetch.submit(two.submit(first)), Future[bytes])
    assert_type(two.submit(allow_failure(first)), Future[str])
    assert_type(add.submit(1, b=allow_failure(first)), Future[int])
    assert_type(configured.submit(two.submit(first), size=first), Future[Report])


def maps() -> None:
    assert_type(one.map([1, 2, 3]), FutureList[int])
    assert_type(one.map(range(3)).result(), list[int])
    assert_type(two.map(one.map([1, 2])), FutureList[str])
    assert_type(add.map([1, 2], 3), FutureList[int])
    assert_type(total.map(unmapped([1, 2])), FutureList[int])
    assert_type(fetch.map(["a", "b"]), FutureList[bytes])
    assert_type(one.map([1])[0], Future[int])
    assert_type(one.map([1, 2])[:1], FutureList[int])
    assert_type(one.map([1]) + one.map([2]), FutureList[int])
    for future in one.imap(range(10), max_pending=4):
        assert_type(future, Future[int])


def methods(loader: Loader) -> None:
    assert_type(loader.load("p"), list[int])
    assert_type(Loader.load(loader, "p"), list[int])
    assert_type(loader.load.submit("p"), Future[list[int]])
    assert_type(loader.load.map(["p", "q"]), FutureList[list[int]])
    assert_type(loader.load_later.submit("p"), Future[list[int]])
    assert_type(total.submit(loader.load.submit("p")), Future[int])


def class_and_static_methods(loader: Loader) -> None:
    assert_type(Loader.of_class("p"), int)
    assert_type(loader.of_class.submit("p"), Future[int])
    assert_type(Loader.also_of_class.submit("p"), Future[int])
    assert_type(Loader.static("p"), int)
    assert_type(loader.static.submit("p"), Future[int])
    assert_type(loader.static_flow("p"), int)


def functions() -> None:
    function: Callable[[int], int] = one.fn
    assert_type(function(1), int)


def options() -> None:
    one.with_options(retries=NotSet, tags=None)
    again = one.with_options(name="again", retries=2)
    assert_type(again(1), int)
    assert_type(again.submit(1), Future[int])
    later = fetch.with_options(timeout_seconds=3, remote_options={"num_cpus": 2})
    assert_type(later.submit("u"), Future[bytes])


def states() -> None:
    assert_type(one(1, return_state=True), State[int])
    assert_type(one.submit(1, return_state=True), State[int])
    assert_type(one.map([1], return_state=True), list[State[int]])


def waiting() -> None:
    futures = one.map([1, 2])
    outcome = wait(futures, timeout=3)
    assert_type(outcome, DoneAndNotDoneFutures[int])
    assert_type(outcome.done, set[Future[int]])
    assert_type([future.result() for future in wait(futures).not_done], list[int])
    for future in as_completed(futures):
        assert_type(future, Future[int])
    assert_type(futures.wait(), None)
    stored: list[Future[int]] = []
    stored.extend(futures)


@flow
def pipeline(start: int, *, label: str = "x") -> str:
    return two.submit(one.submit(start)).result() + label


@flow(name="other", task_runner=ThreadPoolTaskRunner(max_workers=2), log_prints=True)
def other(report: Report) -> Report:
    return report


@flow
async def gathering(urls: list[str]) -> list[bytes]:
    assert_type(await fetch("u"), bytes)
    assert_type(await fetch.submit("u"), bytes)
    assert_type(await one.submit(1), int)
    assert_type(await fetch.map(urls), list[bytes])
    async for future in as_completed(fetch.map(urls)):
        assert_type(future, Future[bytes])
    async for lazy in fetch.imap(urls):
        assert_type(lazy, Future[bytes])
    return await asyncio.gather(*[fetch(url) for url in urls])


def flows() -> None:
    assert_type(pipeline(1), str)
    assert_type(pipeline(1, label="y"), str)
    assert_type(other(Report("a")), Report)
    assert_type(pipeline(1, return_state=True), State[str])
    assert_type(pipeline(one.submit(1)), str)
    assert_type(pipeline.submit(1), Future[str])
    assert_type(pipeline.submit(one.submit(1)), Future[str])
    assert_type(pipeline.map([1, 2]), FutureList[str])
    assert_type(gathering.submit(["u"]), Future[list[bytes]])
    assert_type(pipeline.with_options(name="again")(1), str)


async def async_flows() -> None:
    assert_type(await gathering(["u"]), list[bytes])
    state = await gathering(["u"], return_state=True)
    assert_type(state, State[list[bytes]])


async def futures_in_asyncio() -> None:
    first, second = await asyncio.gather(one.submit(1), two.submit(1))
    assert_type(first, int)
    assert_type(second, str)
    values = await asyncio.gather(*one.map([1]))
    assert_type(values, list[int])
    value = await asyncio.wait_for(one.submit(1), 3)
    assert_type(value, int)


@task
def mean(values: Sequence[float], weights: Iterable[float] = ()) -> float:
    return sum(values) / len(values)


def reductions() -> None:
    mapped = one.map([1, 2])
    assert_type(total.submit(mapped), Future[int])
    assert_type(total.submit(values=mapped), Future[int])
    assert_type(mean.submit(mapped, weights=mapped), Future[float])
    assert_type(list(mapped), list[Future[int]])
    assert_type(dict(zip("ab", mapped, strict=True)), dict[str, Future[int]])
    assert_type([future.result() for future in reversed(mapped)], list[int])
    assert_type(mapped.pop(), Future[int])


@task
def later(x: int) -> Future[int]:
    return one.submit(x)


@task
def untyped(x: Any) -> Any:
    return x


def other_results() -> None:
    assert_type(later.submit(1), Future[int])
    assert_type(later(1, return_state=True), State[int])
    assert_type(untyped.submit(1), Future[Any])
    untyped(1, return_state=True).is_failed()


@task
def numbers(n: int) -> Iterator[int]:
    yield from range(n)


@task
async def lines(n: int) -> AsyncIterator[str]:
    for i in range(n):
        yield str(i)


@task
def counted(n: int) -> Generator[int, None, str]:
    yield from range(n)
    return "done"


async def generators() -> None:
    assert_type(counted.submit(3), Future[list[int]])
    assert_type(lines.submit(3), Future[list[str]])
    assert_type(counted.map([3]), FutureList[list[int]])
    for number in numbers(3):
        assert_type(number, int)
    async for line in lines(3):
        assert_type(line, str)


def wrappers(future: Future[int]) -> None:
    kept: list[Future[dict[str, int]]] = []
    assert_type(kept, list[Future[dict[str, int]]])
    assert_type(quote(future).unquote(), Future[int])


@task
def first_of(items: Sequence[T]) -> T:
    return items[0]


@task
def pair(a: T, b: U) -> tuple[T, U]:
    return a, b


@task
def many(*numbers: int, **names: str) -> int:
    return sum(numbers)


@task
def positional(x: int, /, y: str = "") -> int:
    return x


lower = task(str.lower)
length = task(len)
binary = task(partial(int, base=2))


def other_functions() -> None:
    assert_type(first_of([1]), int)
    assert_type(first_of.submit(["a"]), Future[str])
    assert_type(pair.submit(1, "a"), Future[tuple[int, str]])
    assert_type(many.submit(1, 2, k="x"), Future[int])
    assert_type(many.submit(one.submit(1), k=two.submit(1)), Future[int])
    assert_type(positional.submit(1, y="a"), Future[int])
    assert_type(lower.submit("A"), Future[str])
    assert_type(length.submit([1]), Future[int])
    assert_type(binary.submit("101"), Future[int])


class Source(Generic[T]):
    @task
    def read(self, key: T) -> T:
        return key

    @task
    def items(self, n: int) -> Generator[int, None, None]:
        yield n

    @flow
    def copy(self, n: int) -> str:
        return str(n)

    @flow
    async def copy_later(self, n: int) -> str:
        return str(n)

    @flow
    @classmethod
    def copy_all(cls, n: int) -> str:
        return str(n)


class Names(Source[str]): ...


def more_methods(source: Source[int], names: Names) -> None:
    assert_type(source.read(1), int)
    assert_type(source.read.submit(1), Future[int])
    assert_type(names.read.submit("x"), Future[str])
    assert_type(source.read.with_options(retries=2)(1), int)
    assert_type(source.items.submit(1), Future[list[int]])
    assert_type(source.copy(1), str)
    assert_type(source.copy.submit(1), Future[str])
    assert_type(source.copy(1, return_state=True), State[str])
    assert_type(source.copy.with_options(name="x").submit(one.submit(1)), Future[str])
    assert_type(source.copy_later.submit(1), Future[str])
    assert_type(Names.copy_all(1), str)
    assert_type(source.copy_all.submit(1), Future[str])


async def more_awaiting(source: Source[int]) -> None:
    assert_type(await source.copy_later(1), str)
    assert_type(await source.copy_later(1, return_state=True), State[str])
    assert_type(await fetch("u", return_state=True), State[bytes])
    assert_type(await fetch.with_options(retries=2)("u"), bytes)
    async with asyncio.TaskGroup() as group:
        fetching = group.create_task(fetch("u"))
    assert_type(fetching.result(), bytes)


def states_and_waits() -> None:
    done = one.submit(1)
    assert_type(counted.submit(3, return_state=True), State[list[int]])
    assert_type(counted.map([3], return_state=True), list[State[list[int]]])
    assert_type(fetch.submit("u", return_state=True), State[bytes])
    assert_type(fetch.map(["u"], return_state=True), list[State[bytes]])
    assert_type(fetch.submit("u", wait_for=[done]), Future[bytes])
    assert_type(counted.submit(3, wait_for=[done]), Future[list[int]])
    assert_type(positional.map(one.map([1]), y=unmapped("a"), wait_for=[done]), FutureList[int])
    assert_type(one.map(done), FutureList[int])
    assert_type(one.submit(1, wait_for=done), Future[int])
    assert_type(one.submit(1, wait_for=one.map([2])), Future[int])
    assert_type(one.submit(1, wait_for=(done, done.state, allow_failure(done))), Future[int])
    assert_type(one.submit(1, wait_for=None), Future[int])
    assert_type(one.submit(2, wait_for={done}, return_state=True), State[int])


class Readable:
    """Has what a future has not, and yet a future of one is accepted for it."""

    def __iter__(self) -> Iterator[str]:
        yield ""

    def __getitem__(self, index: int) -> str:
        return ""

    def __contains__(self, item: object) -> bool:
        return True


@task
def read_all(sources: Iterable[Readable], one: Readable, container: dict[str, int] | None = None) -> Readable:
    return one


def futures_of_containers() -> None:
    readable = read_all.submit([Readable()], Readable())
    assert_type(read_all.submit([readable], readable, {}), Future[Readable])
    assert_type(read_all.submit(readable, one=readable, container=readable), Future[Readable])
    assert_type(mean.submit(total.submit([1])), Future[float])


def tasks_as_values() -> None:
    exact: Task[[int], int] = one
    anything: Sequence[Task[..., Any] | Flow[..., Any]] = [one, fetch, pipeline]
    function: Callable[[int], int] = one
    coroutine_function: Callable[[str], Coroutine[Any, Any, bytes]] = fetch
    print(exact, anything, function, coroutine_function)


@one.on_failure
def hook(task: Any, run: Any, state: Any) -> None: ...


def tests(penstock_stub: MakeStub, penstock_runs: RecordedRuns, penstock_clock: SkippingClock) -> None:
    assert_type(penstock_stub(one, returns=3), Stub)
    with stub(pipeline, side_effect=[OSError, "x"], times=2) as stubbed:
        assert_type(stubbed.count, int)
        assert_type(stubbed.calls, list[dict[str, Any]])
    assert_type(penstock_runs["one"].states, list[str])
    assert_type(penstock_runs["one"][0].attempts, int)
    penstock_clock.advance(60)
