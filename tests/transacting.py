"""For the tests of transactions: tasks with hooks, and a look into the store from outside."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from penstock import task
from penstock.task_runners import ProcessPoolTaskRunner, SequentialTaskRunner, TaskRunner, ThreadPoolTaskRunner

LARGE = "x" * 100_000


class Row(NamedTuple):
    name: str
    state: str
    status: str
    result_key: str | None


class Kept:
    """What is in a store, read from outside."""

    def __init__(self, home: Path) -> None:
        self.runs: dict[str, Row] = {}
        self.addresses: set[str] = set()
        with contextlib.suppress(sqlite3.OperationalError):  # it is only about to be made
            self._read(home / "penstock.db")
        directory = home / "results"
        self.files = {path.name for path in directory.iterdir()} if directory.is_dir() else set[str]()

    def _read(self, path: Path) -> None:
        with closing(sqlite3.connect(path)) as connection:
            found = connection.execute("select run_name, state_name, status, result_key from runs")
            self.runs = {name: Row(name, *rest) for name, *rest in found}
            self.addresses = {address for (address,) in connection.execute("select address from results")}

    def states(self, *names: str) -> list[str]:
        return [self.runs[name].state for name in names]

    def has(self, name: str) -> bool:
        """Whether the run's result can be found."""
        key = self.runs[name].result_key if name in self.runs else None
        return key is not None and key in self.addresses


def hooked(log: list[str], name: str, value: Any = None, **options: Any) -> Any:
    """A task with both kinds of hooks that note what happens."""

    def body() -> Any:
        log.append(f"run {name}")
        return value

    made = task(name=name, **options)(body)
    made.on_commit(lambda txn: log.append(f"commit {name}"))
    made.on_rollback(lambda txn: log.append(f"rollback {name}"))
    return made


@task
def fail(message: str = "no") -> None:
    raise ValueError(message)


def outcome(fn: Callable[[], Any]) -> BaseException | None:
    try:
        fn()
    except BaseException as error:
        return error
    return None


RUNNERS: dict[str, Callable[[], TaskRunner]] = {
    "sequential": SequentialTaskRunner,
    "threads": ThreadPoolTaskRunner,
    "one thread": lambda: ThreadPoolTaskRunner(max_workers=1),
    "processes": lambda: ProcessPoolTaskRunner(max_workers=2),
}
every_runner = pytest.mark.parametrize("runner", RUNNERS)


class Shelf:
    """A storage of the user's."""

    def __init__(self) -> None:
        self.items: dict[str, bytes] = {}
        self.broken = False

    def read(self, key: str) -> bytes:
        return self.items[key]

    def write(self, key: str, data: bytes) -> None:
        if self.broken:
            raise OSError("no space")
        self.items[key] = data

    def exists(self, key: str) -> bool:
        return key in self.items
