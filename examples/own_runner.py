"""A task runner of one's own, over the process pool of the standard library. docs/own_runner.md explains it."""

import math
import multiprocessing
import signal
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Self

from penstock import flow, task
from penstock.task_runners import Capabilities, TaskRunner


class PoolTaskRunner(TaskRunner):
    capabilities = Capabilities(shares_memory=False, can_interrupt=False, outlives_workers=True)

    def __init__(self, workers: int = 2) -> None:
        self.workers = workers

    @property
    def slots(self) -> int:
        return self.workers

    def start(self) -> None:
        self._threads = ThreadPoolExecutor(self.workers)  # each of them waits for one worker
        self._pool = self._new_pool()

    def _new_pool(self) -> ProcessPoolExecutor:
        spawn = multiprocessing.get_context("spawn")  # a fork would copy locks that threads hold
        ignore = (signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; this one decides
        return ProcessPoolExecutor(self.workers, spawn, initializer=signal.signal, initargs=ignore)

    def execute(self, call: Any) -> Future[Any]:
        return self._threads.submit(self._execute_in_pool, call)

    def _execute_in_pool(self, call: Any) -> Any:
        while True:
            pool = self._pool
            try:
                return pool.submit(call.execute).result()
            except BrokenProcessPool:  # a worker has died, and the others with it
                if self._pool is pool:
                    self._pool = self._new_pool()
                if call.claimed:  # it was sent, so the body may have begun
                    raise

    def close(self, *, cancel: bool = False) -> None:
        pool, self._pool = self._pool, None
        self._threads.shutdown(wait=False, cancel_futures=cancel)
        for worker in list((pool._processes or {}).values()):  # Python 3.14 has `pool.kill_workers()`
            worker.kill()  # nobody waits for what it may still do
        pool.shutdown()

    def duplicate(self) -> Self:
        return type(self)(self.workers)

    def _settings(self) -> tuple[Any, ...]:
        return (self.workers,)


@task
def count_primes(start: int, stop: int) -> int:
    return sum(all(n % d for d in range(2, math.isqrt(n) + 1)) for n in range(max(2, start), stop))


@flow(task_runner=PoolTaskRunner(workers=2))
def primes(stop: int = 100_000, parts: int = 8) -> int:
    edges = [stop * part // parts for part in range(parts + 1)]
    return sum(count_primes.map(edges[:-1], edges[1:]).result())


if __name__ == "__main__":  # the workers of a pool import this file, too
    print(primes())
