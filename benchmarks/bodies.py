"""What is executed on clusters. Their workers import this module, and get to know no more of the benchmarks."""

from __future__ import annotations

from typing import Any

LARGE = 100_000_000  # bytes


def noop(x: Any) -> Any:
    return x


def produce(size: int) -> Any:
    import numpy

    return numpy.ones(size, dtype="u1")


def consume(array: Any) -> int:
    return int(array.nbytes)
