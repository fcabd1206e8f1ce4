"""Runs of the sizes that the dashboard promises to show, as the engine records them.

`python -m benchmarks.large_runs DIRECTORY` makes a store with all of them, to look at by hand.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time

from penstock import flow, get_run_logger, tags, task
from penstock.runtime import task_run
from penstock.settings import home, temporary_settings
from penstock.task_runners import ThreadPoolTaskRunner

WIDE, LOUD, LINES_EACH = 100_000, 50_000, 20  # task runs, task runs, log lines of each of these
DAYS = 200  # runs of a flow that is run each day
THREADS = ThreadPoolTaskRunner(max_workers=8)


@task(retries=1, retry_delay_seconds=0)
def fetch(number: int) -> int:
    """One of a hundred fails at first, one of a thousand for good."""
    if number % 1000 == 999 or (number % 100 == 50 and task_run.run_count == 1):
        raise ValueError(f"row {number} is not there")
    return number


@task
def clean(row: int) -> int:
    return row


@task
def say(number: int) -> None:
    logger = get_run_logger()
    for line in range(LINES_EACH):
        logger.log(logging.WARNING if line % 10 == 9 else logging.INFO, "task %d says line %d", number, line)


@flow(task_runner=THREADS)
def wide(number: int = WIDE) -> None:
    """Half of the task runs need a value of the other half; those whose value is missing are blocked."""
    rows = fetch.map(range(number // 2))
    clean.map(rows).wait()


@flow(task_runner=THREADS)
def loud(number: int = LOUD) -> None:
    say.map(range(number)).wait()


@flow
def daily(day: int) -> None:
    """Ten tasks, of which on some days one fails."""
    for number in range(10):
        fetch.with_options(name=f"step-{number}", retries=0)(999 if (day, number) == (day // 20 * 20, 7) else day)


@flow(task_runner=THREADS)
def going_on(number: int = WIDE) -> None:
    """Has run many tasks, then does what its standard input says: `work SECONDS`, or the end."""
    fetch.map(range(number)).wait()
    print("rests", flush=True)
    for line in sys.stdin:
        until = time.monotonic() + float(line.split()[1])
        while time.monotonic() < until:
            fetch.map(range(20)).wait()
            say(1)
            time.sleep(0.1)
        print("rests", flush=True)


def make() -> None:
    """Record all of them in the store of this process."""
    logging.getLogger("penstock").addHandler(logging.NullHandler())
    for day in range(DAYS):
        with tags("nightly", f"day {day % 7}"):
            daily(day, return_state=True)
    wide(return_state=True)
    logging.getLogger("penstock").setLevel(logging.INFO)
    loud()


def made_in(directory: str) -> float:
    """Seconds that a process takes to make all of them in `directory`."""
    began = time.monotonic()
    environment = {**os.environ, "PENSTOCK_HOME": directory, "PENSTOCK_LOGGING_LEVEL": "CRITICAL"}
    subprocess.run([sys.executable, "-m", "benchmarks.large_runs", directory], env=environment, check=True)
    return time.monotonic() - began


def main() -> None:
    if sys.argv[1:] == ["--going-on"]:
        logging.getLogger("penstock").addHandler(logging.NullHandler())
        going_on(return_state=True)
        return
    with temporary_settings({"home": sys.argv[1], "progress": "off"}):
        make()
        print(f"made in {home()}", file=sys.stderr)


if __name__ == "__main__":
    main()
