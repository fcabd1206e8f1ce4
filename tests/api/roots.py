"""Root runs of every kind around one body, and every way of passing an argument.

What the contract says of one of them holds for all.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any

from penstock import State, flow, quote, task
from penstock.task_runners import SequentialTaskRunner, ThreadPoolTaskRunner

Body = Callable[[], Any]

RUNNERS: dict[str, Callable[[], Any]] = {
    "threads": ThreadPoolTaskRunner,
    "one-worker": lambda: ThreadPoolTaskRunner(max_workers=1),
    "sequential": SequentialTaskRunner,
}


def patiently(condition: Callable[[], bool]) -> None:
    """Wait for something that no event tells about."""
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def run(definition: Any, *args: Any, **kwargs: Any) -> Any:
    """Call a flow or task of either color."""
    answer = definition(*args, **kwargs)
    return asyncio.run(answer) if inspect.iscoroutine(answer) else answer


def made(kind: Any, body: Body, color: str, **options: Any) -> Any:
    """A flow or task, synchronous or asynchronous, with this body."""

    async def asynchronous() -> Any:
        return body()

    def synchronous() -> Any:
        return body()

    return kind(**options)(asynchronous if color == "async" else synchronous)


def _submitted(subject: Any) -> State[Any]:
    @flow
    def outer() -> Any:
        future = subject.submit()
        future.wait()
        return quote(future.state)

    state: State[Any] = outer().value
    return state


def _called_inside(subject: Any) -> State[Any]:
    @flow
    def outer() -> Any:
        return quote(subject(return_state=True))

    state: State[Any] = outer().value
    return state


ROUTES: dict[str, Callable[[Body], State[Any]]] = {
    "sync flow": lambda body: run(made(flow, body, "sync"), return_state=True),
    "async flow": lambda body: run(made(flow, body, "async"), return_state=True),
    "subflow": lambda body: _called_inside(made(flow, body, "sync")),
    "submitted flow": lambda body: _submitted(made(flow, body, "sync")),
    "submitted async flow": lambda body: _submitted(made(flow, body, "async")),
    "root task": lambda body: run(made(task, body, "sync"), return_state=True),
    "async root task": lambda body: run(made(task, body, "async"), return_state=True),
}
"""Each runs the body as a root run, or as the root of a subflow's engine, and gives its final State."""


def in_flow(body: Body, **options: Any) -> Any:
    @flow(**options)
    def main() -> Any:
        return quote(body())

    return main().value


@task
def give(x: Any) -> Any:
    return quote(x)  # so that what arrived leaves the task as it is


@task
async def give_async(x: Any) -> Any:
    return quote(x)


@flow(validate_parameters=False)
def give_flow(x: Any) -> Any:
    return quote(x)


@flow(validate_parameters=False)
async def give_async_flow(x: Any) -> Any:
    return quote(x)


async def _awaited(value: Any) -> Any:
    return await value


WAYS: dict[str, Callable[[Any], Any]] = {
    "call": lambda x: give(x).value,
    "submit": lambda x: give.submit(x).result().value,
    "keyword": lambda x: give.submit(x=x).result().value,
    "async call": lambda x: asyncio.run(_awaited(give_async(x))).value,
    "async submit": lambda x: give_async.submit(x).result().value,
    "subflow": lambda x: give_flow(x).value,
    "async subflow": lambda x: asyncio.run(_awaited(give_async_flow(x))).value,
    "submitted subflow": lambda x: give_flow.submit(x).result().value,
    "submitted async subflow": lambda x: give_async_flow.submit(x).result().value,
}
"""The ways by which an argument reaches a body, as seen by the body; to be used inside a flow."""
