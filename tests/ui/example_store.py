"""A store in which much has happened, made by real flows: `python tests/ui/example_store.py DIRECTORY`.

For looking at the dashboard by hand, and for its tests. Everything in it is recorded by the engine as usual.
"""

from __future__ import annotations

import argparse
import logging
import os
import time
from pathlib import Path

from penstock import allow_failure, flow, get_run_logger, runtime, tags, task
from penstock.cache_policies import INPUTS
from penstock.settings import temporary_settings
from penstock.task_runners import ThreadPoolTaskRunner


@task(persist_result=True)
def extract(day: str) -> list[int]:
    get_run_logger().info("reading %s", day)
    return list(range(12))


@task(tags=["shop"])
def load(row: int, day: str) -> int:
    logger = get_run_logger()
    logger.debug("row %d of %s", row, day)
    if row == 7 and day == "tuesday":
        logger.error("there is no price in row %d", row)
        raise KeyError("price")
    return row * 2


@task(retries=2, retry_delay_seconds=0.02)
def fetch(page: int) -> int:
    if page % 3 == 0 and runtime.task_run.run_count == 1:
        get_run_logger().warning("page %d: connection reset", page)
        raise OSError(f"page {page}: connection reset by peer")
    return page


@task(persist_result=True, cache_policy=INPUTS)
def clean(text: str) -> str:
    return text.strip()


@task(timeout_seconds=0.05)
def slow() -> None:
    time.sleep(5)


@task
def check(rows: list[int], limit: int) -> int:
    return min(len(rows), limit)


@task
def report(values: list[int], note: str = "") -> str:
    return f"<b>{sum(values)}</b> {note}"


@flow
def pages(first: int, last: int) -> list[int]:
    """A subflow."""
    return fetch.map(range(first, last)).result()


@flow(persist_result=True)
def etl(day: str = "monday") -> str:
    """Extract, load, report; on Tuesdays a row is missing, and the flow goes on all the same."""
    rows = extract.submit(day)
    loaded = load.map(rows, day=day)
    loaded.wait()
    checked = [check.submit(rows, limit) for limit in (5, 10, 15)]
    for text in (" a ", " b ", " a "):
        clean(text)
    found = pages(0, 6)
    good = [future.result() for future in loaded if future.state.is_completed()]
    return report.submit([*good, *found, *checked], note=f"{day} </script><img src=x onerror=alert(1)>").result()


@flow
def broken(limit: int = 3) -> None:
    """Fails: what it waits for timed out, and what depends on that is blocked."""
    late = slow.submit()
    after = report.submit(late)
    report.submit([limit], note=allow_failure(late)).wait()
    after.result()


@task
def step(number: int, after: object = None) -> int:
    if number % 1000 == 999:
        raise ValueError(f"step {number} is not possible")
    return number


@flow
def wide(number: int = 2_000) -> int:
    """Maps over many; a few fail, which nobody minds."""
    first = step.map(range(number))
    second = step.map(range(0, number, 2), after=allow_failure(first[0]))
    first.wait()
    second.wait()
    return sum(future.state.is_completed() for future in [*first, *second])


def make(directory: str | os.PathLike[str], *, width: int = 2_000) -> None:
    """Record into the store in `directory`: several flows, one run of `width` tasks."""
    with temporary_settings({"home": str(directory), "logging_level": "DEBUG", "progress": "off"}):
        for day in ("monday", "tuesday", "wednesday"):
            with tags("nightly", day):
                etl(day)
        for _ in range(2):
            broken(return_state=True)
        wide.with_options(task_runner=ThreadPoolTaskRunner(max_workers=8))(width)
        etl("monday")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    given = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    make(given.directory)


if __name__ == "__main__":
    main()
