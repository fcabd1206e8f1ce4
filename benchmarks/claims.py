"""What must hold at sizes that a test suite cannot afford: `python -m benchmarks.claims [CLAIM ...]`.

Each claim runs in a process of its own, with a store that is written to, and prints its figures beside their bounds.
Those about the dashboard share one store, which is made once for each command: see `large_runs`.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import browsing, committing, dashboard, large_runs, looking, resuming, watching
from benchmarks.figures import Figure, at_most
from penstock import flow, task, unmapped
from penstock._core.serial import Packed
from penstock.task_runners import ThreadPoolTaskRunner
from penstock.testing import isolated_store


@dataclass(frozen=True)
class Claim:
    what: str
    unit: str
    bound: float
    measure: Callable[[], float]

    def figures(self) -> Iterable[Figure]:
        yield at_most(self.what, self.bound, self.unit, self.measure())


@dataclass(frozen=True)
class Claims:
    """Several that are measured together. `needs_large_runs`: in the store that has them."""

    figures: Callable[[], Iterable[Figure]]
    needs_large_runs: bool = False


@task
def noop(x: object) -> object:
    return x


def peak() -> float:
    """The most memory that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def resident() -> float:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


# --- memory ---


def a_million_mapped_lazily() -> float:
    @flow
    def main() -> int:
        return sum(1 for _ in noop.imap(range(1_000_000)))

    assert main() == 1_000_000
    return peak()


def an_endless_generator() -> float:
    @flow
    def main() -> list[object]:
        return [future.result() for future in itertools.islice(noop.imap(itertools.count(), ordered=True), 10_000)]

    assert main() == list(range(10_000))
    return peak()


def large_results_one_by_one() -> float:
    @task
    def megabyte(n: int) -> bytes:
        return bytes(2**20)

    @flow
    def main() -> float:
        for n in range(1_000):
            megabyte.submit(n).result()
        before = resident()
        for n in range(100_000):
            megabyte.submit(n).result()
        return resident() - before

    return main()


# --- arguments ---


def a_long_list() -> float:
    numbers = list(range(5_000_000))

    @flow
    def main() -> float:
        alive = noop.submit(0)  # without a future in the process nothing is looked at
        costs = []
        for _ in range(5):
            started = time.perf_counter()
            future = noop.submit(numbers)
            costs.append(time.perf_counter() - started)
            assert future.result() is numbers
        alive.wait()
        return min(costs) / len(numbers) * 1e9

    return main()


def a_long_list_without_futures() -> float:
    numbers = list(range(5_000_000))
    same = task(lambda x: x is numbers)

    @flow
    def main() -> float:
        started = time.perf_counter()
        assert same(numbers)
        return (time.perf_counter() - started) * 1e3

    return main()


# --- event loops ---


def sleeping_tasks() -> float:
    @task
    async def nap(_: int) -> None:
        await asyncio.sleep(1)

    @flow
    def main() -> None:
        nap.map(range(10_000)).result()

    started = time.perf_counter()
    main()
    return time.perf_counter() - started - 1


def a_loop_that_awaits() -> float:
    @task
    def work(n: int) -> int:
        time.sleep(0.001)
        return n

    @flow(task_runner=ThreadPoolTaskRunner(max_workers=4))
    async def main() -> float:
        worst = 0.0
        futures = work.map(range(1_000))
        gathered = asyncio.ensure_future(wait_for_all(futures))
        while not gathered.done():
            started = time.perf_counter()
            await asyncio.sleep(0.001)
            worst = max(worst, time.perf_counter() - started - 0.001)
        assert await gathered == list(range(1_000))
        return worst * 1e3

    async def wait_for_all(futures: object) -> object:
        return await futures  # type: ignore[misc]

    return asyncio.run(main())


# --- large values and other processes ---


def an_array_for_a_thousand() -> float:
    """MB that go to two workers of a process pool."""
    import numpy

    from penstock.task_runners import ProcessPoolTaskRunner, processes

    sent, lay_out = [0], processes.lay_out

    def counting(packed: Packed) -> list[int]:
        sent[0] += sum(buffer.raw().nbytes for buffer in packed.buffers)
        return lay_out(packed)

    processes.lay_out = counting
    total = flow(task_runner=ProcessPoolTaskRunner(2))(
        lambda: sum(size_of.map(range(1_000), unmapped(numpy.ones(200_000_000, "u1"))).result())
    )
    assert total() == 1_000 * 200_000_000
    return sent[0] / 1e6


@task
def size_of(_: int, array: Any) -> int:
    return int(array.nbytes)


def an_array_that_stays() -> float:
    """MB by which this process grows while 200 MB pass from task to task on a Dask cluster."""
    from penstock.task_runners import DaskTaskRunner

    @flow(task_runner=DaskTaskRunner(cluster_kwargs={"n_workers": 2, "threads_per_worker": 1}))
    def main() -> float:
        assert size_of.submit(0, make_array.submit(1_000_000)).result() == 1_000_000
        before = peak()
        arrays = [make_array.submit(200_000_000) for _ in range(2)]
        assert size_of.map([0, 1], unmapped(arrays[0])).result() == [200_000_000] * 2
        assert sum_up.submit(arrays).result() == 400_000_000
        return peak() - before

    return main()


@task
def make_array(size: int) -> Any:
    import numpy

    return numpy.ones(size, "u1")


@task
def sum_up(arrays: list[Any]) -> int:
    return sum(int(array.sum()) for array in arrays)


# --- tests ---


def a_store_for_each_test() -> float:
    """What a test that runs a flow pays for a store of its own, beside the flow itself."""
    one = flow(name="one")(lambda: noop(1))

    def seconds(places: Iterable[AbstractContextManager[object]]) -> float:
        taken = []
        for place in places:
            started = time.perf_counter()
            with place:
                one()
            taken.append(time.perf_counter() - started)
        return statistics.median(taken)

    with isolated_store():
        bare = seconds(nullcontext() for _ in range(200))
    return (seconds(isolated_store() for _ in range(200)) - bare) * 1e3


CLAIMS: dict[str, Claim | Claims] = {
    "imap": Claim("1,000,000 no-ops through imap: peak memory", "MB", 300, a_million_mapped_lazily),
    "endless": Claim("10,000 from an endless generator: peak memory", "MB", 300, an_endless_generator),
    "results": Claim("100,000 tasks one by one, 1 MB each: growth", "MB", 50, large_results_one_by_one),
    "list": Claim("a list of 5,000,000 as argument, a future alive: per element", "ns", 25, a_long_list),
    "no-future": Claim("the same, no future alive: the whole call", "ms", 5, a_long_list_without_futures),
    "sleepers": Claim("10,000 async tasks sleeping 1 s: over the ideal", "s", 1.5, sleeping_tasks),
    "shared": Claim("200 MB for a process map of 1,000, 2 workers: sent", "MB", 401, an_array_for_a_thousand),
    "stays": Claim("200 MB between tasks on Dask: growth of the flow's process", "MB", 20, an_array_that_stays),
    "resume": Claim("100,000 task runs to restore: until the flow goes on", "s", 2, resuming.until_it_goes_on),
    "isolation": Claim("a store of its own for a test that runs a flow", "ms", 5, a_store_for_each_test),
    "progress": Claim("10,000 items of 0.3 ms with progress on a terminal", "x", 1.01, watching.cost_of_progress),
    "ls": Claim("`ls` with a filter that keeps none of 100,000 runs: CPU", "ms", 150, looking.ls_of_many_runs),
    "show": Claim("`show` of a run of 20,000 tasks: CPU", "ms", 500, looking.show_of_a_large_run),
    "ui": Claims(dashboard.answers, needs_large_runs=True),
    "ui-commits": Claims(committing.commits),
    "ui-browser": Claims(browsing.in_a_browser, needs_large_runs=True),
    "loop": Claim("a loop awaiting 1,000 futures: longest pause", "ms", 50, a_loop_that_awaits),
}


def main() -> int:
    wanted = sys.argv[1:] or list(CLAIMS)
    names = [name for one in wanted for name in ([one] if one in CLAIMS else [n for n in CLAIMS if n.startswith(one)])]
    with tempfile.TemporaryDirectory(prefix="penstock-claims-") as directory:
        large = Path(directory, "large")
        if any(_needs_large_runs(name) for name in names):
            print(f"the large runs were made in {large_runs.made_in(str(large)):.0f} s\n", flush=True)
        print("| what | budget | measured | |\n|---|---|---|---|", flush=True)
        hold = [_holds(name, large if _needs_large_runs(name) else Path(directory, name)) for name in names]
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    print(f"\nLoad of this machine in the last 1, 5, 15 minutes: {load}, on {os.cpu_count()} processors.")
    return int(not all(hold))


def _needs_large_runs(name: str) -> bool:
    return getattr(CLAIMS[name], "needs_large_runs", False)


def _holds(name: str, home: Path) -> bool:
    """Measured in a process of its own, which prints its figures as they come."""
    code = f"import benchmarks.claims as claims; claims.measure({name!r})"
    environment = os.environ | {"PENSTOCK_HOME": str(home), "PENSTOCK_LOGGING_LEVEL": "WARNING"}
    return subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0


def measure(name: str) -> None:
    """Print the figures of a claim; the exit status tells whether they all hold."""
    missed = False
    for figure in CLAIMS[name].figures():
        print(figure, flush=True)
        missed = missed or not figure.holds
    sys.exit(missed)


if __name__ == "__main__":
    sys.exit(main())
