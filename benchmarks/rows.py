"""The rows of the budget table. Each is measured in a process of its own, with a store that is written to."""

from __future__ import annotations

import asyncio
import gc
import importlib
import pickle
import subprocess
import time
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure import Reading, compare, process_cpu, process_time, python, timed
from penstock import flow, task
from penstock.task_runners import ProcessPoolTaskRunner, ThreadPoolTaskRunner

TASKS = 10_000
CHAIN = 2_000
CALLS = 2_000
WORKERS = 8
PROCESSES = 2
LARGE = 100_000_000  # bytes


@dataclass(frozen=True)
class Row:
    name: str
    what: str
    budget: float | None
    unit: str
    measure: Callable[[], Reading]
    records: bool = True  # leaves a store behind; if it does not, recording was off and the figure is void


def noop(x: Any) -> Any:
    return x


def in_flow(body: Callable[[Any], Any]) -> Callable[[], Any]:
    """A flow of `WORKERS` threads around `body`, which is given the no-op task."""
    step = task(noop)
    return flow(task_runner=ThreadPoolTaskRunner(max_workers=WORKERS))(lambda: body(step))


def in_pool(body: Callable[[ThreadPoolExecutor], Any]) -> Callable[[], Any]:
    def run() -> Any:
        with ThreadPoolExecutor(WORKERS) as pool:
            return body(pool)

    return run


# --- whole processes ---


def importing() -> Reading:
    ours, bare = process_cpu(python("-c", "import penstock")), process_cpu(python("-c", "pass"))
    a, b, ratio = compare(ours, bare, rounds=15)
    return Reading(f"{a * 1e3:.0f} ms CPU, bare {b * 1e3:.0f} ms", (a - b) * 1e3, ratio)


def hello() -> Reading:
    script = Path(__file__).with_name("hello.py")
    ours, bare = process_time(python(str(script))), process_time(python("-c", "import asyncio, sqlite3"))
    a, b, ratio = compare(ours, bare, rounds=15)
    return Reading(f"{a * 1e3:.0f} ms, bare {b * 1e3:.0f} ms", ratio, ratio)


def looking() -> Reading:
    """Of the commands that only read, the one that takes longest to say something about a small run."""
    script = Path(__file__).with_name("hello.py")
    subprocess.run(python(str(script)), check=True, capture_output=True)
    asked = {name: [name, "@last"] for name in ("show", "logs", "explain", "graph")}
    asked |= {"ls": ["ls"], "graph of a source": ["graph", f"{script}:hello"]}
    bare = process_cpu(python("-c", "pass"))
    costs = {
        name: compare(process_cpu(python("-m", "penstock.cli", *command)), bare)[0] for name, command in asked.items()
    }
    slowest = max(costs, key=costs.__getitem__)
    return Reading(f"{slowest}: {costs[slowest] * 1e3:.0f} ms CPU", costs[slowest] * 1e3)


# --- tasks on threads ---


def gather(step: Any) -> None:
    for future in [step.submit(i) for i in range(TASKS)]:
        future.result()


def bare_gather(pool: ThreadPoolExecutor, count: int = TASKS) -> None:
    for future in [pool.submit(noop, i) for i in range(count)]:
        future.result()


def call(step: Any) -> None:
    for i in range(CALLS):
        step(i)


def bare_round_trips(pool: ThreadPoolExecutor) -> None:
    for i in range(CALLS):
        pool.submit(noop, i).result()


def map_all(step: Any) -> None:
    step.map(range(TASKS)).result()


def bare_map(pool: ThreadPoolExecutor) -> None:
    list(pool.map(noop, range(TASKS)))


def chain(step: Any) -> None:
    future = step.submit(0)
    for _ in range(CHAIN - 1):
        future = step.submit(future)
    future.result()


def bare_submits(pool: ThreadPoolExecutor) -> None:
    bare_gather(pool, CHAIN)


# --- tasks in processes ---


class Array:
    """A block of memory that pickles as arrays do: out of band, where that is offered."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __reduce_ex__(self, protocol: int) -> Any:
        return Array, (pickle.PickleBuffer(self.data) if protocol >= 5 else bytearray(self.data),)


def produce(size: int) -> Array:
    return Array(bytearray(size))


def consume(array: Array) -> int:
    return memoryview(array.data).nbytes


def processes() -> Reading:
    step = task(noop)
    ours = flow(task_runner=ProcessPoolTaskRunner(PROCESSES))(lambda: step.map(range(TASKS)).result())

    def bare() -> Any:
        with ProcessPoolExecutor(PROCESSES) as pool:
            return list(pool.map(noop, range(TASKS)))

    a, b, ratio = compare(timed(ours), timed(bare), rounds=5)
    return Reading(f"{a / TASKS * 1e6:.1f} µs, bare {b / TASKS * 1e6:.1f} µs", ratio, ratio)


def arrays() -> Reading:
    make, use = task(produce), task(consume)
    ours = flow(task_runner=ProcessPoolTaskRunner(PROCESSES))(lambda: use.submit(make.submit(LARGE)).result())

    def bare() -> int:
        with ProcessPoolExecutor(PROCESSES) as pool:
            return pool.submit(consume, pool.submit(produce, LARGE).result()).result()

    assert ours() == bare() == LARGE
    a, b, ratio = compare(timed(ours), timed(bare), rounds=7)
    return Reading(f"{a * 1e3:.0f} ms, bare {b * 1e3:.0f} ms", ratio, ratio)


BODIES: dict[str, Callable[[Any], None]] = {"direct": call, "submit": gather, "map": map_all, "chain": chain}


def per_task(ours: Callable[[Any], None], bare: Callable[[ThreadPoolExecutor], None], count: int) -> Reading:
    a, b, ratio = compare(timed(in_flow(ours)), timed(in_pool(bare)))
    return Reading(f"{a / count * 1e6:.1f} µs, bare {b / count * 1e6:.1f} µs", ratio, ratio)


# --- memory and the event loop ---


def memory() -> Reading:
    def body(step: Any) -> int:
        for _ in range(2):  # the first round fills caches and buffers that stay
            before = traced()
            gather(step)
            time.sleep(0.5)  # records are written behind: what is still queued is not kept for ever
        return traced() - before

    tracemalloc.start()
    kept = in_flow(body)() / TASKS
    return Reading(f"{kept:.0f} bytes a task", kept)


def traced() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def sleepers() -> Reading:
    nap = task(sleep_one_second)
    ours = flow(lambda: nap.map(range(TASKS)).result())
    a, b, ratio = compare(timed(ours), timed(lambda: asyncio.run(bare_sleepers())), rounds=3)
    return Reading(f"{a:.2f} s, bare {b:.2f} s", a, ratio)


async def sleep_one_second(_: int) -> None:
    await asyncio.sleep(1)


async def bare_sleepers() -> None:
    await asyncio.gather(*[sleep_one_second(i) for i in range(TASKS)])


# --- tasks on clusters ---


def clusters(engine: str, what: str) -> Callable[[], Reading]:
    """A row that needs an extra: its module is imported when it is measured."""
    return lambda: getattr(importlib.import_module(f"benchmarks.{engine}_rows"), f"{engine}_{what}")()


# --- values that are kept ---


def kept(what: str, *arguments: Any) -> Callable[[], Reading]:
    return lambda: getattr(importlib.import_module("benchmarks.durable_rows"), what)(*arguments)


ROWS = [
    Row("import", "`import penstock` over bare Python", 60, "ms CPU", importing, records=False),
    Row("hello", "process of one flow, one task; over `import asyncio, sqlite3`", 2.5, "x", hello),
    Row("look", "start of a command that only reads", 150, "ms CPU", looking),
    Row(
        "direct",
        "direct task call; over a pool round trip",
        1,
        "x",
        lambda: per_task(call, bare_round_trips, CALLS),
    ),
    Row(
        "submit",
        "submit 10k no-ops, gather; over the bare pool",
        1.5,
        "x",
        lambda: per_task(gather, bare_gather, TASKS),
    ),
    Row(
        "map",
        "map 10k no-ops, gather; over the bare pool",
        1.5,
        "x",
        lambda: per_task(map_all, bare_map, TASKS),
    ),
    Row(
        "chain",
        "chain of 2,000 submits; over bare submits",
        3,
        "x",
        lambda: per_task(chain, bare_submits, CHAIN),
    ),
    Row("processes", "map 10k no-ops in 2 processes; over the bare process pool", 0.25, "x", processes),
    Row("array", "100 MB from one process to another; over the bare process pool", 0.5, "x", arrays),
    Row("dask", "map 5k no-ops on 2 Dask workers; over bare `client.map`", 0.5, "x", clusters("dask", "noops")),
    Row("dask-array", "100 MB between two tasks on Dask; over bare `submit`", None, "x", clusters("dask", "array")),
    Row("ray", "map 10k no-ops on 2 CPUs of Ray; over bare `remote`", 0.7, "x", clusters("ray", "noops")),
    Row("ray-array", "100 MB between two tasks on Ray; over bare `remote`", None, "x", clusters("ray", "array")),
    Row("kept", "direct calls, each result kept; over one row per transaction", None, "x", kept("serial", "process")),
    Row("kept-power", "likewise, safe from power failures", None, "x", kept("serial", "power")),
    Row("kept-8", "mapped over 8 threads, each result kept", None, "x", kept("threads", "process")),
    Row("kept-8-power", "likewise, safe from power failures", None, "x", kept("threads", "power")),
    Row("hits", "direct calls that the cache answers; over one row per transaction", None, "x", kept("hits")),
    Row("memory", "kept of a finished task, its future dropped", 1024, "bytes", memory),
    Row("sleepers", "10k async tasks sleeping 1 s; over `asyncio.gather`", 1.5, "s", sleepers),
]
