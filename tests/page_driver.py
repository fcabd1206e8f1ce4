"""Executes the Python blocks of one page, one after the other, each as the main program: see pages.py.

One process for all blocks of a page, because starting Python and importing penstock takes longer than most of them.
Reads one JSON line for each block, and answers with one: what it printed, and the traceback if it raised.
"""

from __future__ import annotations

import contextlib
import json
import linecache
import os
import sys
import tempfile
import traceback
from collections.abc import Iterator
from typing import IO, Any


def execute(path: str, continued: bool) -> dict[str, str]:
    """Run the file as a script; with `continued`, in the namespace of the script before it."""
    if not continued:
        sys.modules["__main__"] = type(sys)("__main__")
        sys.modules["__main__"].__file__ = path
    module = sys.modules["__main__"]
    with open(path, encoding="utf-8") as file:
        source = file.read()
    linecache.checkcache()
    printed, error = [""], ""
    with printing_into(printed):
        try:
            exec(compile(source, path, "exec", dont_inherit=True), module.__dict__)
        except BaseException:
            error = traceback.format_exc()
    return {"printed": printed[0], "error": error}


@contextlib.contextmanager
def printing_into(printed: list[str]) -> Iterator[None]:
    """What goes to standard output meanwhile, also from processes that are started in the block."""
    with tempfile.TemporaryFile() as file:
        sys.stdout.flush()
        before = os.dup(1)
        os.dup2(file.fileno(), 1)
        try:
            yield
        finally:
            sys.stdout.flush()
            os.dup2(before, 1)
            os.close(before)
            file.seek(0)
            printed[0] = file.read().decode()


def main(orders: IO[str], answers: IO[str]) -> None:
    sys.argv = [""]
    sys.path.insert(0, os.getcwd())
    for line in orders:
        order: dict[str, Any] = json.loads(line)
        print(json.dumps(execute(**order)), file=answers, flush=True)


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)  # in the order in which a terminal shows it
    main(sys.stdin, os.fdopen(os.dup(1), "w"))
