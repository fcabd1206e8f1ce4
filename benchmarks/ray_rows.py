"""Tasks on Ray, over the same Ray used by hand."""

from __future__ import annotations

from typing import Any

import ray

from benchmarks.bodies import LARGE, consume, noop, produce
from benchmarks.measure import Reading, compare, timed
from penstock import flow, task
from penstock.task_runners import RayTaskRunner
from penstock.task_runners.ray import connected

CPUS = {"num_cpus": 2, "log_to_driver": False}
NOOPS = 10_000


def ray_noops() -> Reading:
    step, bare_step = task(noop), ray.remote(noop)
    ours = flow(task_runner=RayTaskRunner())(lambda: step.map(range(NOOPS)).result())
    with connected("local", CPUS):
        bare = timed(lambda: ray.get([bare_step.remote(i) for i in range(NOOPS)]))
        a, b, ratio = compare(timed(ours), bare, rounds=5)
    return Reading(f"{a / NOOPS * 1e6:.0f} µs, bare {b / NOOPS * 1e6:.0f} µs", ratio, ratio)


def ray_array() -> Reading:
    make, use = task(produce), task(consume)
    bare_make, bare_use = ray.remote(produce), ray.remote(consume)
    ours = flow(task_runner=RayTaskRunner())(lambda: use.submit(make.submit(LARGE)).result())

    def bare() -> Any:
        return ray.get(bare_use.remote(bare_make.remote(LARGE)))

    with connected("local", CPUS):
        assert ours() == bare() == LARGE
        a, b, ratio = compare(timed(ours), timed(bare), rounds=11)
    return Reading(f"{a * 1e3:.0f} ms, bare {b * 1e3:.0f} ms", ratio, ratio)
