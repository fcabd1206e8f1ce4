"""What the tests of limits share: callers, other threads, and a look at the lines."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from penstock import concurrency as _function
from penstock._engine import clock as clocks
from penstock._engine import limits
from penstock._engine.limits import Limits, Request
from penstock.testing.clock import ManualClock

MODULE = sys.modules[_function.__module__]  # the attribute `penstock.concurrency` is the function


@contextlib.contextmanager
def fresh_limits() -> Iterator[ManualClock]:
    """Limits of the test's own, and time that it moves by hand."""
    clock = ManualClock()
    with pytest.MonkeyPatch.context() as patch, clocks.use(clock):
        table = Limits()
        patch.setattr(limits, "of", lambda home=None: table)
        patch.setattr(MODULE, "_warned", set())
        yield clock


class Caller:
    """Somebody who wants slots and notes what becomes of it."""

    def __init__(self, table: Limits, *names: str, amount: int = 1) -> None:
        self.told = 0
        self.request = Request(table, table.slots(names), amount, self._tell, "a test")

    def _tell(self) -> None:
        self.told += 1

    def submit(self) -> Caller:
        assert self.request.submit() is self.request.granted
        return self

    @property
    def granted(self) -> bool:
        return self.request.granted


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.0005)


def waiting(name: str) -> int:
    (limit,) = limits.of().slots([name]) or limits.of().rates([name])
    return len(limit.line)


def held(name: str) -> int:
    (limit,) = limits.of().slots([name])
    return sum(limit.source.holders.values())


@contextlib.contextmanager
def in_thread(work: Callable[[], object]) -> Iterator[threading.Thread]:
    thread = threading.Thread(target=work)
    thread.start()
    yield thread
    thread.join(5)
    assert not thread.is_alive()
