"""Dask clusters for tests, in processes of their own: what a test does to one harms nobody else's threads."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

ANY_PORT: dict[str, Any] = {"dashboard_address": None, "scheduler_kwargs": {"dashboard_address": "127.0.0.1:0"}}

_CODE = """
import sys
import dask
from distributed import LocalCluster

dask.config.set({"distributed.deploy.lost-worker-timeout": "1h"})  # tests kill workers more often than people do
if __name__ == "__main__":
    cluster = LocalCluster(**eval(sys.argv[1]))
    print(cluster.scheduler_address, flush=True)
    sys.stdin.read()
"""

_WORKER = """
import asyncio, sys
from distributed import Worker

async def main():
    async with Worker(sys.argv[1], nthreads=1, dashboard_address="127.0.0.1:0") as worker:
        await worker.finished()

asyncio.run(main())
"""


@contextmanager
def another_worker(address: str) -> Iterator[int]:
    """The process of a worker that has nobody who would start it again."""
    process = subprocess.Popen([sys.executable, "-c", _WORKER, address], stderr=subprocess.DEVNULL, env=_environment())
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


@contextmanager
def running_cluster(**options: Any) -> Iterator[str]:
    """The address of a `LocalCluster(**options)`; of two workers with one thread each, unless they say otherwise."""
    process = subprocess.Popen(
        [sys.executable, "-c", _CODE, repr({**ANY_PORT, "n_workers": 2, "threads_per_worker": 1, **options})],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=_environment(),
        start_new_session=True,
    )
    assert process.stdin is not None and process.stdout is not None
    with process.stdin, process.stdout:
        try:
            yield process.stdout.readline().strip()
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # workers as well: to close it in good order takes its time
            process.wait()
