"""The command line: `python -m benchmarks [ROW ...]` prints the table, `--profile ROW` where the time goes.

Exit status 1 if a row could not be measured. Being over budget is for the reader to judge: a busy machine
would fail a good change.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import pstats
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.measure import Reading
from benchmarks.rows import BODIES, ROWS, Row, in_flow

BY_NAME = {row.name: row for row in ROWS}
HEADER = "| what | measured | ratio | budget | ok? |\n|---|---|---|---|---|"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure what penstock costs.")
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"all by default: {' '.join(BY_NAME)}")
    parser.add_argument("--profile", action="store_true", help=f"show where the time goes: {' '.join(BODIES)}")
    arguments = parser.parse_args()
    known = BODIES if arguments.profile else BY_NAME
    names = arguments.rows or list(known)
    if unknown := set(names) - set(known):
        parser.error(f"unknown: {' '.join(sorted(unknown))}; there are: {' '.join(known)}")
    if arguments.profile:
        return profile_apart(names)
    return table([BY_NAME[name] for name in names])


def table(rows: list[Row]) -> int:
    print(HEADER)
    failed = False
    for row in rows:
        try:
            reading = measure_apart(row)
        except RuntimeError as error:
            failed = True
            print(f"{row.name}: {error}", file=sys.stderr)
            print(f"| {row.what} | failed | | {limit(row)} | no |", flush=True)
        else:
            print(line(row, reading), flush=True)
    return int(failed)


def limit(row: Row) -> str:
    return "" if row.budget is None else f"≤ {row.budget:g} {row.unit}"


def line(row: Row, reading: Reading) -> str:
    ratio = "" if reading.ratio is None else f"{reading.ratio:.2f}"
    verdict = "" if row.budget is None else "yes" if reading.value <= row.budget else "NO"
    return f"| {row.what} | {reading.measured} | {ratio} | {limit(row)} | {verdict} |"


def measure_apart(row: Row) -> Reading:
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as home:
        child = apart("measure", row.name, home, capture_output=True, text=True)
        if child.returncode:
            raise RuntimeError(f"exit status {child.returncode}\n{child.stderr}")
        if row.records and not Path(home, "penstock.db").exists():
            raise RuntimeError("nothing was recorded, so the figure would not be comparable")
    return Reading(**json.loads(child.stdout.splitlines()[-1]))


def profile_apart(names: list[str]) -> int:
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as home:
        return max(apart("profile", name, home).returncode for name in names)


def apart(function: str, name: str, home: str, **options: Any) -> subprocess.CompletedProcess[Any]:
    """Call one of the two functions below in a fresh process, with a store in `home`.

    So no row inherits another's threads, caches or garbage, and the store is closed before `home` goes away.
    """
    code = f"import benchmarks.__main__ as main; main.{function}({name!r})"
    return subprocess.run([sys.executable, "-c", code], env=os.environ | {"PENSTOCK_HOME": home}, **options)


def measure(name: str) -> None:
    print(json.dumps(asdict(BY_NAME[name].measure())))


def profile(name: str) -> None:
    """Three runs under cProfile. It follows the submitting thread only, not the workers or the writer."""
    work = in_flow(BODIES[name])
    work()
    with cProfile.Profile() as profiler:
        for _ in range(3):
            work()
    pstats.Stats(profiler).sort_stats("tottime").print_stats(25)


if __name__ == "__main__":
    sys.exit(main())
