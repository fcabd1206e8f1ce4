"""Every runner keeps the contract of runners: ours, and one that somebody else might write."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self

import pytest
from examples.own_runner import PoolTaskRunner

from penstock.task_runners import (
    DaskTaskRunner,
    ProcessPoolTaskRunner,
    RayTaskRunner,
    SequentialTaskRunner,
    TaskRunner,
    ThreadPoolTaskRunner,
)
from penstock.task_runners.base import here
from penstock.testing import ScriptedRunner
from penstock.testing.checking import Check
from penstock.testing.conformance import RUNNER_CHECKS, run_check


class ExecutorTaskRunner(TaskRunner):
    """A third party's: the standard library's thread pool, and nothing else."""

    def __init__(self, size: int) -> None:
        self.size = size

    @property
    def slots(self) -> int:
        return self.size

    def start(self) -> None:
        self._executor = ThreadPoolExecutor(self.size)

    def execute(self, call: Any) -> Future[Any]:
        return self._executor.submit(call.execute)

    def close(self, *, cancel: bool = False) -> None:
        self._executor.shutdown(wait=False, cancel_futures=cancel)

    def duplicate(self) -> Self:
        return type(self)(self.size)

    def _settings(self) -> tuple[Any, ...]:
        return (self.size,)


class EagerRunner(ScriptedRunner):
    """Executes what it is given before the hand-over returns: the earliest end that there can be."""

    def execute(self, call: Any) -> Any:
        if here.background_loop and not call.needs_thread:
            return call.perform()  # the loop cannot run one coroutine to its end while it is inside another
        reported = super().execute(call)
        self.step(call.run.name)
        return reported


RUNNERS: dict[str, Callable[[], TaskRunner]] = {
    "sequential": SequentialTaskRunner,
    "threads": ThreadPoolTaskRunner,
    "threads-1": lambda: ThreadPoolTaskRunner(max_workers=1),
    "threads-2": lambda: ThreadPoolTaskRunner(max_workers=2),
    "eager": EagerRunner,
    "processes-1": lambda: ProcessPoolTaskRunner(max_workers=1),
    "processes-2": lambda: ProcessPoolTaskRunner(max_workers=2),
    "third-party-1": lambda: ExecutorTaskRunner(1),
    "third-party-4": lambda: ExecutorTaskRunner(4),
    "own-pool": PoolTaskRunner,
}


@pytest.mark.parametrize("check", RUNNER_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", RUNNERS)
def test_contract(name: str, check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.testing.runner_suite.SECONDS", 10.0)
    run_check(check, RUNNERS[name])


@pytest.mark.parametrize("check", RUNNER_CHECKS, ids=lambda check: check.__name__)
def test_contract_on_dask(check: Check, dask_address: str) -> None:
    run_check(check, lambda: DaskTaskRunner(address=dask_address))


@pytest.mark.parametrize("check", RUNNER_CHECKS, ids=lambda check: check.__name__)
def test_contract_on_ray(check: Check, running_ray: None) -> None:
    run_check(check, RayTaskRunner)
