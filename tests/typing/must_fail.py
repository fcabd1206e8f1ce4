"""Checked, never run: each line marked `# error` must be refused by both type checkers, and no other line."""

from __future__ import annotations

from collections.abc import Generator

from penstock import FutureList, flow, task
from penstock.flows import Flow
from penstock.tasks import Task


@task
def one(x: int) -> int:
    return x + 1


@task
def two(y: int, z: str = "") -> str:
    return str(y) + z


@task
async def fetch(url: str) -> bytes:
    return url.encode()


@task
def many(n: int) -> Generator[int, None, None]:
    yield n


@flow
def pipeline(start: int) -> str:
    return two(start)


class Loader:
    @task
    def load(self, path: str) -> int:
        return len(path)

    @flow
    def copy(self, n: int) -> str:
        return str(n)

    @task
    @classmethod
    def count(cls, n: int) -> int:
        return n


def wrong_arguments_of_a_call(loader: Loader) -> None:
    one("a")  # error
    one()  # error
    one(1, 2)  # error
    one(y=1)  # error
    two(1, z=2)  # error
    pipeline("a")  # error
    loader.load(1)  # error


def wrong_arguments_of_submit(loader: Loader) -> None:
    one.submit("a")  # error
    one.submit()  # error
    one.submit(1, 2)  # error
    one.submit(y=1)  # error
    two.submit(1, 2)  # error
    two.submit(1, z=2)  # error
    fetch.submit(1)  # error
    pipeline.submit("a")  # error
    loader.load.submit(1)  # error
    Loader.load.submit("p")  # error
    one.submit(one.map([1]))  # error


def wrong_use_of_results() -> None:
    a: str = one(1)  # error
    c: str = one.submit(1).result()  # error
    d: FutureList[str] = one.map([1])  # error
    e: list[str] = one.map([1]).result()  # error
    f: bytes = fetch("u")  # error
    g: int = pipeline(1)  # error
    one(1).upper()  # error
    one.submit(1, wait_for=[]).result().upper()  # error
    one(1, return_state=True).upper()  # error
    one.map([1]).results()  # error
    print(a, c, d, e, f, g)


def a_future_is_not_its_value() -> None:
    numbers = many.submit(3)
    numbers[0]  # error
    numbers[0] = 1  # error
    for number in numbers:  # error
        print(number)
    print(3 in numbers)  # error


def wrong_waits() -> None:
    one.submit(1, wait_for=3)  # error
    one.map([1], wait_for=3)  # error
    one(1, wait_for=one)  # error


def wrong_options_do_not_change_the_rest(loader: Loader) -> None:
    one.with_options(retries=3).submit("a")  # error
    loader.load.with_options(retries=3).submit(1)  # error
    loader.copy.with_options(name="x")("a")  # error
    loader.count.submit("a")  # error
    Loader.count("a")  # error
    loader.copy.submit("a")  # error


def wrong_functions(loader: Loader) -> None:
    a: Task[[str], int] = one  # error
    b: Flow[[int], str] = two  # error
    c: str = loader.load.submit("p").result()  # error
    d: list[str] = many.submit(1).result()  # error
    e: str = many.submit(1, return_state=True).result()  # error
    f: int = loader.copy.submit(1).result()  # error
    g: FutureList[int] = fetch.map(["u"])  # error
    print(a, b, c, d, e, f, g)


def misspelt_options() -> None:
    one.with_options(retry=3)  # error
    one.with_options(retries="3")  # error
    pipeline.with_options(tags=["a"])  # error
    one.with_options(remote_options=3)  # error
    pipeline.with_options(remote_options={"num_cpus": 2})  # error


async def wrong_use_of_await() -> None:
    a: str = await fetch("u")  # error
    b: str = await one.submit(1)  # error
    await one(1)  # error
    print(a, b)


@task(retrys=3)  # error
def misspelt() -> None: ...


@flow(task_runner=3)  # error
def no_runner() -> None: ...
