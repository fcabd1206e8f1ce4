"""Tasks that wait for tasks, at any depth, with any number of workers: nothing may wait for ever."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from penstock import flow, task
from penstock.task_runners import ThreadPoolTaskRunner

few_workers = pytest.mark.parametrize("workers", [1, 2, 4])


@task
def fib(n: int) -> int:
    if n < 2:
        return n
    left, right = fib.submit(n - 1), fib.submit(n - 2)
    return int(left.result()) + int(right.result())


@few_workers
def test_recursive_submission(workers: int) -> None:
    @flow(task_runner=ThreadPoolTaskRunner(max_workers=workers))
    def main() -> int:
        return int(fib.submit(12).result())

    assert main() == 144


@task
def nested(depth: int, n: int) -> Any:
    if depth == 0:
        return n
    return nested.map([depth - 1] * 3, range(3)).result()


@few_workers
def test_maps_four_deep(workers: int) -> None:
    @flow(task_runner=ThreadPoolTaskRunner(max_workers=workers))
    def main() -> Any:
        return nested.submit(4, 0).result()

    expected: Any = [0, 1, 2]
    for _ in range(3):
        expected = [expected] * 3
    assert main() == expected


@few_workers
def test_a_chain_that_is_submitted_in_reverse(workers: int) -> None:
    """Each run is submitted before the one that it waits for has even started."""
    order: list[int] = []
    gate = threading.Event()
    held = task(gate.wait)
    note = task(order.append)

    @flow(task_runner=ThreadPoolTaskRunner(max_workers=workers))
    def main() -> None:
        waited_for: Any = held.submit(10)
        futures = []
        for n in range(2_000):
            waited_for = note.submit(n, wait_for=[waited_for])
            futures.append(waited_for)
        gate.set()
        for future in reversed(futures):
            future.result()

    main()
    assert order == list(range(2_000))


@few_workers
def test_threads_are_bounded_by_workers_and_blocked_bodies(workers: int) -> None:
    lock = threading.Lock()
    inside: set[int] = set()  # bodies that have begun to wait, or are about to
    threads: list[int] = []
    waiting: list[int] = [0]

    @task
    def leaf() -> int:
        names = [thread.name for thread in threading.enumerate()]
        threads.append(sum(name.startswith("penstock-worker") for name in names))
        return 1

    @task
    def waits() -> int:
        with lock:
            inside.add(threading.get_ident())
            waiting.append(len(inside))
        total = sum(future.result() for future in [leaf.submit() for _ in range(5)])
        with lock:
            inside.discard(threading.get_ident())
        return total

    @flow(task_runner=ThreadPoolTaskRunner(max_workers=workers))
    def main() -> int:
        return sum(future.result() for future in [waits.submit() for _ in range(20)])

    assert main() == 100
    assert max(threads) <= workers + max(waiting)


def test_the_elevator_example_ends_every_time() -> None:
    floors: list[int] = []
    stop = task(floors.append)
    for workers in (1, 3) * 20:
        floors.clear()

        @flow(task_runner=ThreadPoolTaskRunner(max_workers=workers))
        def elevator() -> None:
            for future in [stop.submit(floor) for floor in range(10, 0, -1)]:
                future.wait()

        elevator()
        assert sorted(floors) == list(range(1, 11))
