"""What it costs to show the progress of a flow on a terminal."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator

from benchmarks.measure import compare
from penstock import flow, task
from penstock.settings import temporary_settings
from penstock.task_runners import ThreadPoolTaskRunner

ITEMS = 10_000
ROUNDS = 9


@task
def busy(_: int) -> None:
    until = time.thread_time() + 0.0003
    while time.thread_time() < until:
        pass


@flow(task_runner=ThreadPoolTaskRunner(max_workers=4))
def work() -> None:
    busy.map(range(ITEMS)).result()


@contextlib.contextmanager
def terminal() -> Iterator[None]:
    """Standard error is a terminal, and another process reads it."""
    ours, theirs = os.openpty()
    before, sys.stderr = sys.stderr, open(theirs, "w", buffering=1)  # noqa: SIM115
    os.environ["TERM"] = "xterm-256color"
    os.environ.pop("CI", None)
    reader = subprocess.Popen(["cat"], stdin=ours, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        sys.stderr.close()
        sys.stderr = before
        reader.kill()
        reader.wait()
        os.close(ours)


def seconds(progress: str) -> float:
    """Processor time of one map: it is what a machine that has other things to do measures best."""
    with temporary_settings({"progress": progress}):
        before = time.process_time()
        work()
        return time.process_time() - before


def cost_of_progress() -> float:
    """The time of a map of which a picture is shown, as a multiple of one without."""
    with terminal():
        ratio = compare(lambda: seconds("auto"), lambda: seconds("off"), ROUNDS)[2]
    assert "penstock.progress.screen" in sys.modules, "nothing was shown"
    return ratio
