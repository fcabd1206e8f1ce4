"""What the tests of the Ray runner have executed in workers: light, because every worker imports it by name."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import ray

from penstock import task


@task
def pid(*_: Any) -> int:
    return os.getpid()


@task
def resources() -> dict[str, float]:
    return {name: amount for name, amount in ray.get_runtime_context().get_assigned_resources().items() if amount}


@task
def make_array(size: int) -> Any:
    import numpy

    return numpy.ones(size, "u1")


@task
def add_up(array: Any, *_: Any) -> int:
    array += 0  # it is the body's own
    return int(array.sum())


@task
def spin(entered: str) -> None:
    Path(entered).touch()
    while True:
        time.sleep(0.005)


@task
def touch(path: str) -> None:
    Path(path).touch()


@task
def die() -> None:
    os._exit(3)


@task
def fibonacci(n: int) -> int:
    if n < 2:
        return n
    first, second = fibonacci.submit(n - 1), fibonacci.submit(n - 2)
    return int(first.result() + second.result())


@task
def say(text: str) -> None:
    print(text, file=sys.stderr)
