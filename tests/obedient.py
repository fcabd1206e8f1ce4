"""Other processes of this machine that do what they are told, line by line."""

from __future__ import annotations

import ast
import contextlib
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

_LOOP = """
import multiprocessing, os, subprocess, sys, threading, time
{prologue}
for line in sys.stdin:
    print(repr(eval(line)), flush=True)
"""


class Process:
    """Evaluates expressions; answers with what can be written as a literal."""

    def __init__(self, prologue: str) -> None:
        pipe = subprocess.PIPE
        self._popen = subprocess.Popen(
            [sys.executable, "-c", _LOOP.format(prologue=prologue)], stdin=pipe, stdout=pipe, text=True, bufsize=1
        )
        self.pid = self._popen.pid

    def __call__(self, expression: str) -> Any:
        self.begin(expression)
        return self.answer()

    def begin(self, expression: str) -> None:
        """Do not wait for the answer."""
        assert self._popen.stdin is not None
        self._popen.stdin.write(expression + "\n")

    def answer(self) -> Any:
        assert self._popen.stdout is not None
        return ast.literal_eval(self._popen.stdout.readline())

    def kill(self) -> None:
        self._popen.kill()
        self._popen.wait(10)

    def end(self) -> None:
        """Let it come to the end of its program."""
        with self._popen as popen:
            assert popen.stdin is not None
            popen.stdin.close()


@contextlib.contextmanager
def start_processes(prologue: str) -> Iterator[Callable[[], Process]]:
    """What starts them; they are killed at the end. `prologue` is executed first."""
    started: list[Process] = []

    def start() -> Process:
        started.append(Process(prologue))
        return started[-1]

    try:
        yield start
    finally:
        for process in started:
            process.kill()
            process.end()


def wait_until(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = monotonic() + seconds
    while not condition():
        assert monotonic() < deadline
        threading.Event().wait(0.002)
