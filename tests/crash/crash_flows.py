"""The flows that are killed. Each body leaves a line when it is executed, each caller one when it has the result.

The lines of callers go into a pipe that the test holds: nobody who dies can take them back, or grade himself.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Callable, Iterator

from penstock import flow, task
from penstock.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner

BODIES, ACKNOWLEDGEMENTS, LIFE = "CRASH_BODIES", "CRASH_ACKNOWLEDGEMENTS", "CRASH_LIFE"


def _say(where: str, line: str) -> None:
    """In one write, so that lines of several threads and processes do not mix."""
    file = os.open(os.environ[where], os.O_WRONLY | os.O_APPEND)
    try:
        os.write(file, f"{os.environ[LIFE]} {line}\n".encode())
    finally:
        os.close(file)


def executed(run_name: str) -> None:
    _say(BODIES, run_name)


def acknowledge(run_name: str) -> None:
    _say(ACKNOWLEDGEMENTS, run_name)


def answer(value: object) -> None:
    _say(ACKNOWLEDGEMENTS, f"answer {json.dumps(value)}")


# --- what the tasks compute, without tasks ---


def blob(x: int) -> bytes:
    """Too large to be part of the record."""
    return random.Random(x).randbytes(70_000 + 40_000 * x)


def fingerprint(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=8).hexdigest()


LOADED, STEPS, LARGE, PARTS = range(10), range(4), range(3), range(2)
CHAINED = 3 * len(STEPS)


def truths() -> dict[str, object]:
    """Run name -> what the run returns."""
    found: dict[str, object] = {f"load-{x}": 10 * x for x in LOADED}
    found |= {f"step-{n}-{n * (n - 1) // 2}": n * (n + 1) // 2 for n in STEPS}
    found |= {f"fetch-{x}": blob(x) for x in LARGE}
    found |= {f"measure-{len(blob(x))}": fingerprint(blob(x)) for x in LARGE}
    for part in PARTS:
        found |= {f"inside-{part}-{x}": 100 * part + x for x in range(3)}
        found[f"part-{part}"] = 300 * part + 3
    found |= {"within-7": 70, "around-7": 71}
    found["main"] = list(_answer())
    found["short"] = [10 * x for x in LOADED]
    return found


def _answer() -> Iterator[object]:
    yield [10 * x for x in LOADED]
    yield sum(STEPS)
    yield [fingerprint(blob(x)) for x in LARGE]
    yield [300 * part + 3 for part in PARTS]
    yield 71


# --- the same, with tasks ---


@task(task_run_name="load-{x}")
def load(x: int) -> int:
    executed(f"load-{x}")
    return 10 * x


@task(task_run_name="step-{n}-{total}")
def step(n: int, total: int) -> int:
    executed(f"step-{n}-{total}")
    return total + n


@task(task_run_name="fetch-{x}")
def fetch(x: int) -> bytes:
    executed(f"fetch-{x}")
    return blob(x)


@task(task_run_name=lambda: f"measure-{_size()}")
def measure(data: bytes) -> str:
    executed(f"measure-{len(data)}")
    return fingerprint(data)


def _size() -> int:
    from penstock import runtime

    return len(runtime.task_run.parameters["data"])


@task(task_run_name="inside-{part}-{x}")
def inside(part: int, x: int) -> int:
    executed(f"inside-{part}-{x}")
    return 100 * part + x


@flow(flow_run_name="part-{number}")
def part(number: int) -> int:
    values = []
    for x in range(3):
        values.append(inside(number, x))
        acknowledge(f"inside-{number}-{x}")
    return sum(values)


@task(task_run_name="within-{x}")
def within(x: int) -> int:
    executed(f"within-{x}")
    return 10 * x


@task(task_run_name="around-{x}")
def around(x: int) -> int:
    executed(f"around-{x}")
    value = within(x)
    acknowledge(f"within-{x}")
    return value + 1


def _all() -> list[object]:
    nested = around.submit(7)
    large = fetch.map(LARGE)
    measured = measure.map(large)
    loaded = _loaded()
    total = 0
    for n in STEPS:
        name = f"step-{n}-{total}"
        total = step(n, total)
        acknowledge(name)
    for x, data in zip(LARGE, large, strict=True):
        data.wait()
        if data.state.is_completed():  # its worker may have died
            acknowledge(f"fetch-{x}")
    fingerprints = []
    for x, measurement in zip(LARGE, measured, strict=True):
        fingerprints.append(measurement.result())
        acknowledge(f"measure-{len(blob(x))}")
    parts = []
    for number in PARTS:
        parts.append(part(number))
        acknowledge(f"part-{number}")
    last = nested.result()
    acknowledge("around-7")
    return [loaded, total, fingerprints, parts, last]


def _loaded() -> list[object]:
    loaded: list[object] = []
    for x, future in zip(LOADED, load.map(LOADED), strict=True):
        loaded.append(future.result())
        acknowledge(f"load-{x}")
    return loaded


def _threads() -> TaskRunner:
    return ThreadPoolTaskRunner(max_workers=4)


@flow(flow_run_name="main", persist_result=True, task_runner=_threads())
def main() -> list[object]:
    return _all()


@flow(flow_run_name="main", persist_result=True, task_runner=ProcessPoolTaskRunner(max_workers=2))
def main_in_processes() -> list[object]:
    return _all()


@flow(flow_run_name="short", persist_result=True, task_runner=_threads())
def short() -> list[object]:
    return _loaded()


FLOWS: dict[str, Callable[[], list[object]]] = {"threads": main, "processes": main_in_processes, "short": short}
