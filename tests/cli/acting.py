"""What the tests of commands that act have in common: scripts, and the command in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path

from penstock.recovery import open_reader
from penstock.settings import home
from penstock.store.base import RunRow, StoreMissing

PENSTOCK = [sys.executable, "-m", "penstock.cli"]
RUNNERS = ("sequential", "threads", "processes", "dask", "ray")


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))
    return path


def penstock(
    *arguments: object, directory: Path, typed: str | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    command = [*PENSTOCK, *map(str, arguments)]
    everything = {**os.environ, **environment}
    return subprocess.run(
        command, cwd=directory, input=typed, capture_output=True, text=True, check=False, env=everything
    )


def start(command: Sequence[object], directory: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*map(str, command)],
        cwd=directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def stopped(process: subprocess.Popen[str], number: signal.Signals) -> subprocess.Popen[str]:
    process.send_signal(number)
    process.wait(30)
    return process


def wait_for(is_so: Callable[[], object], seconds: float = 50.0) -> None:
    until = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < until, "it did not come about"
        time.sleep(0.01)


def recorded(limit: int = 50) -> list[RunRow]:
    """Root runs, the latest first."""
    with closing(open_reader(home())) as reader, suppress(StoreMissing):
        return reader.runs(limit=limit)
    return []


def below(run: RunRow) -> list[RunRow]:
    with closing(open_reader(home())) as reader:
        return reader.tree(run.id)
