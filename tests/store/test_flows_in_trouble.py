"""Flows whose records cannot be written: the work is done all the same, and one warning says what is wrong."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from penstock.store.base import Batch
from penstock.store.sqlite import SQLiteReader, SQLiteStore
from penstock.testing.store_suite import run_row

SCRIPT = """
import os, resource, shutil, sys, threading
from penstock import flow, task

home, trouble = os.environ["PENSTOCK_HOME"], sys.argv[1]
step = threading.Event()

@task
def double(n):
    return 2 * n

@flow
def main():
    total = sum(double.map(range(300)).result())
    if trouble == "deleted":
        while not os.path.exists(os.path.join(home, "penstock.db-wal")):
            step.wait(0.01)
        step.wait(0.3)  # records are at most that late
        shutil.rmtree(home)
    return total + sum(double.map(range(300)).result())

if trouble == "read-only" and os.getuid() == 0:  # nothing is read-only to root
    os.environ["PENSTOCK_HOME"] = home + "-before"
    main()  # imports everything, which nobody else may be able to read
    os.environ["PENSTOCK_HOME"] = home
    os.setuid(65534)
if trouble == "full":
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
print(main(), flush=True)
if trouble == "full":
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
"""
RESULT = f"{2 * 2 * sum(range(300))}\n"


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory that other users can get at, unlike tmp_path."""
    path = Path(tempfile.mkdtemp(prefix="penstock-test-"))
    path.chmod(0o755)
    yield path / "home"
    shutil.rmtree(path)


def start(home: Path, trouble: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), trouble],
        env={**os.environ, "PENSTOCK_HOME": str(home), "PENSTOCK_LOGGING_LEVEL": "WARNING"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def one_line(errors: str) -> str:
    lines = [line for line in errors.splitlines() if "WARNING" in line or "Traceback" in line]
    assert len([line for line in lines if "were lost" not in line]) == 1, errors
    return lines[0]


def recorded(home: Path) -> int:
    with closing(SQLiteReader(home)) as reader:
        (root,) = [row for row in reader.runs() if row.kind == "flow" and row.name == "main"]
        assert root.status == "COMPLETED"
        return sum(count.number for count in reader.counts(root.id) if count.status == "COMPLETED")


def make_store(home: Path) -> None:
    with closing(SQLiteStore(home)) as store:
        store.write(Batch([run_row(7)], [], [], [], []))


def test_read_only(home: Path) -> None:
    make_store(home)
    home.chmod(0o555)
    for file in home.iterdir():
        file.chmod(0o444)
    output, errors = start(home, "read-only").communicate(timeout=30)
    assert output == RESULT
    assert "Cannot record runs" in one_line(errors)
    assert "records were lost" in errors


def test_full(home: Path) -> None:
    """As soon as there is room again, everything is recorded."""
    output, errors = start(home, "full").communicate(timeout=30)
    assert output == RESULT
    assert "Cannot record runs" in one_line(errors)
    assert "were lost" not in errors
    assert recorded(home) == 600


def test_locked_by_another_process(home: Path) -> None:
    """For as long as the whole flow takes, and longer: it waits for the lock when it has nothing else to do."""
    make_store(home)
    with closing(sqlite3.connect(home / "penstock.db", isolation_level=None, check_same_thread=False)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        process = start(home, "locked")
        assert process.stdout is not None
        assert process.stdout.readline() == RESULT  # long before the lock is given up
        timer = threading.Timer(0.3, holder.rollback)
        timer.start()
        _, errors = process.communicate(timeout=30)
        timer.join()
    assert errors == "" or "Cannot record runs" in one_line(errors)
    assert recorded(home) == 600


def test_deleted(home: Path) -> None:
    output, errors = start(home, "deleted").communicate(timeout=30)
    assert output == RESULT
    assert "The run store was deleted or replaced" in one_line(errors)
    assert recorded(home) >= 300
