"""Runs and stores that tests control, and processes to try things in."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from time import monotonic

import pytest

from penstock._engine.recorder import Recordable, Ticket
from penstock.store.base import Batch, RunRow
from penstock.store.memory import MemoryStore


class Run:
    """A run whose row is set by hand."""

    def __init__(self, row: RunRow) -> None:
        self.ticket: Ticket | None = None
        self.lock = threading.Lock()
        self.unstarted = self.power = False
        self.row = row
        self.snapshots = 0

    def taken(self, ticket: Ticket) -> Recordable:
        self.ticket = None
        return ticket[0]

    def rows(self, batch: Batch) -> None:
        self.snapshots += 1
        batch.runs.append(self.row)

    def end(self) -> None:
        self.row = self.row._replace(status="COMPLETED", state_name="Completed", ended=9.0)


class Store(MemoryStore):
    """A memory store that remembers batches and can be made to fail, to wait, and to begin afresh."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[Batch] = []
        self.powers: list[bool] = []
        self.writers: list[int] = []
        self.error: Exception | None = None
        self.may_write = threading.Event()
        self.may_write.set()
        self.offers = 0
        self.closed = False

    def write(self, batch: Batch, *, patience: float = 1.0, power: bool = False) -> None:
        self.offers += 1
        assert self.may_write.wait(10)
        if self.error is not None:
            raise self.error
        self.batches.append(batch)
        self.powers.append(power)
        self.writers.append(threading.get_ident())
        super().write(batch)

    def close(self) -> None:
        self.closed = True

    def begin_afresh(self) -> None:
        self.__dict__.update(Store().__dict__, generation=self.generation + 1)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = monotonic() + 5
    while not condition():
        assert monotonic() < deadline
        threading.Event().wait(0.001)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "penstock.store" and record.levelno >= logging.WARNING
    ]


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def in_child(action: Callable[[], None]) -> int:
    """The exit status of a child that does it."""
    return os.waitstatus_to_exitcode(os.waitpid(child_doing(action), 0)[1])


def child_doing(action: Callable[[], None]) -> int:
    child = os.fork()
    if child == 0:
        try:
            action()
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    return child
