"""Bodies on threads of this process: the default runner."""

from __future__ import annotations

import os
import threading
from concurrent.futures import Future as StandardFuture
from typing import Any, Self

from penstock import settings
from penstock.task_runners.base import Call, Capabilities, TaskRunner, at_shutdown
from penstock.task_runners.pool import Pool


class ThreadPoolTaskRunner(TaskRunner):
    """Executes tasks on threads, as many at once as there are slots; also known as `ConcurrentTaskRunner`.

    With `max_workers` the flow run has a pool of its own, whose slots are one budget for synchronous and
    asynchronous bodies together. Without it, all flow runs of the process share one pool (setting
    `PENSTOCK_TASKS_RUNNER_THREAD_POOL_MAX_WORKERS`, 256) and asynchronous tasks are not counted. Threads are
    created when needed and reused; a body that waits for other tasks holds no slot, so nested submission cannot
    deadlock. Arguments and results are passed as the very same objects.

    Raises `ValueError` if `max_workers` is not an integer of at least 1.
    """

    capabilities = Capabilities(runs_async=True)  # it counts them, though they run on the background loop

    def __init__(self, max_workers: int | None = None) -> None:
        if max_workers is not None and (type(max_workers) is not int or max_workers < 1):
            raise ValueError(f"max_workers must be greater than 0, as an int; got {max_workers!r}")
        self.max_workers = max_workers
        self._pool: Pool | None = None

    @property
    def slots(self) -> int:
        return self.max_workers or settings.current().tasks_runner_thread_pool_max_workers

    def start(self) -> None:
        self._pool = shared_pool() if self.max_workers is None else Pool(self.max_workers)

    def execute(self, call: Call) -> StandardFuture[Any] | None:
        if call.needs_thread or self.max_workers is not None:
            assert self._pool is not None
            self._pool.put(call, call.was_released)
        else:
            call.perform()
        return None

    def close(self, *, cancel: bool = False) -> None:
        pool, self._pool = self._pool, None
        if pool is not None and self.max_workers is not None:
            pool.close()

    def duplicate(self) -> Self:
        return type(self)(self.max_workers)

    def _settings(self) -> tuple[Any, ...]:
        return (self.max_workers,)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(max_workers={self.max_workers})"


_shared: Pool | None = None
_shared_lock = threading.Lock()


def shared_pool() -> Pool:
    """The pool of all runners of the default size in this process."""
    global _shared
    with _shared_lock:
        if _shared is None:
            _shared = Pool(settings.current().tasks_runner_thread_pool_max_workers)
        return _shared


@at_shutdown
def close_shared_pool() -> None:
    """End the shared pool's idle threads; the next flow run gets a new pool."""
    global _shared
    with _shared_lock:
        pool, _shared = _shared, None
    if pool is not None:
        pool.close()


def _forget_shared_pool() -> None:
    """In a forked child: the pool's threads did not come along, and its lock may have been held."""
    global _shared, _shared_lock
    _shared, _shared_lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_shared_pool)
