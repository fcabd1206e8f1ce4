"""Measuring: two things in turn, several times, so that a change in the machine's mood touches both alike."""

from __future__ import annotations

import gc
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Work = Callable[[], float]  # does the work once and returns what it cost
# An installed package has its bytecode; a shell that forbids writing it would have it compiled at every start.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


@dataclass(frozen=True)
class Reading:
    """The outcome of one row: `value` is compared with the budget, in the unit of the budget."""

    measured: str
    value: float
    ratio: float | None = None


def compare(ours: Work, bare: Work, rounds: int = 11) -> tuple[float, float, float]:
    """Median cost of `ours` and of `bare`, and the median of the ratios of neighbouring measurements."""
    ours(), bare()  # the first time pays for imports, threads and the store's file
    pairs = [(_quiet(ours), _quiet(bare)) for _ in range(rounds)]
    ratios = [a / b for a, b in pairs]
    return (
        statistics.median(a for a, _ in pairs),
        statistics.median(b for _, b in pairs),
        statistics.median(ratios),
    )


def _quiet(work: Work) -> float:
    gc.collect()  # the garbage of the neighbour is not this one's cost
    return work()


def timed(work: Callable[[], object]) -> Work:
    """Wall time of a call, in seconds."""

    def run() -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    return run


def python(*arguments: str) -> Sequence[str]:
    return [sys.executable, *arguments]


def process_cpu(command: Sequence[str]) -> Work:
    """User and system time of a whole child process, in seconds."""

    def run() -> float:
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENVIRONMENT)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            raise subprocess.CalledProcessError(child.returncode, command)
        return usage.ru_utime + usage.ru_stime

    return run


def process_time(command: Sequence[str]) -> Work:
    """Wall time of a whole child process, in seconds."""
    return timed(lambda: subprocess.run(command, check=True, capture_output=True, env=ENVIRONMENT))
