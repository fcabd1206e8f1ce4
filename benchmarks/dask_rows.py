"""Tasks on a Dask cluster, over the same cluster used by hand."""

from __future__ import annotations

from typing import Any

from distributed import Client, LocalCluster

from benchmarks.bodies import LARGE, consume, noop, produce
from benchmarks.measure import Reading, compare, timed
from penstock import flow, task
from penstock.task_runners import DaskTaskRunner

WORKERS = 2
NOOPS = 5_000


def dask_noops() -> Reading:
    step = task(noop)
    with _cluster() as cluster, Client(cluster) as client:
        ours = flow(task_runner=DaskTaskRunner(cluster=cluster))(lambda: step.map(range(NOOPS)).result())
        bare = timed(lambda: client.gather(client.map(noop, range(NOOPS), pure=False)))
        a, b, ratio = compare(timed(ours), bare, rounds=5)
    return Reading(f"{a / NOOPS * 1e6:.0f} µs, bare {b / NOOPS * 1e6:.0f} µs", ratio, ratio)


def dask_array() -> Reading:
    make, use = task(produce), task(consume)
    with _cluster() as cluster, Client(cluster) as client:
        ours = flow(task_runner=DaskTaskRunner(cluster=cluster))(lambda: use.submit(make.submit(LARGE)).result())

        def bare() -> Any:
            return client.submit(consume, client.submit(produce, LARGE, pure=False), pure=False).result()

        assert ours() == bare() == LARGE
        a, b, ratio = compare(timed(ours), timed(bare), rounds=7)
    return Reading(f"{a * 1e3:.0f} ms, bare {b * 1e3:.0f} ms", ratio, ratio)


def _cluster() -> LocalCluster:
    return LocalCluster(n_workers=WORKERS, threads_per_worker=1, dashboard_address=None)
