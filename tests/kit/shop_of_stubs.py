"""Tasks that cannot be called: what is returned for them comes from a stub."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

from penstock import flow, task


@task
def load(path: str, times: int = 1) -> Any:
    raise RuntimeError("the real one was called")


@task
def size(path: str) -> int:
    return len(path)


@task
def twice(path: str) -> list[int]:
    return [load(path), load.submit(path).result()]


@task
async def fetch(url: str) -> bytes:
    raise RuntimeError("the real one was called")


@task
def numbers() -> Iterator[int]:
    raise RuntimeError("the real one was called")
    yield


@task
async def lines() -> AsyncIterator[str]:
    raise RuntimeError("the real one was called")
    yield


@task
def odd(first: int, /, *rest: int, key: int, **others: int) -> int:
    raise RuntimeError("the real one was called")


class Loader:
    @task
    def load(self, path: str) -> Any:
        raise RuntimeError("the real one was called")


@flow
def etl(path: str) -> Any:
    raise RuntimeError("the real one was called")
