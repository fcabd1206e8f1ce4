"""Programs on a real pseudo-terminal, with an emulator that says what a person would see."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import pyte

PATIENCE = 30.0  # seconds for a program to get anywhere
# A terminal of today, whatever surrounds the tests.
FRESH: dict[str, str | None] = {
    "TERM": "xterm-256color",
    **dict.fromkeys(("CI", "COLORTERM", "COLUMNS", "FORCE_COLOR", "NO_COLOR", "PENSTOCK_PROGRESS")),
}
QUIET = 0.03  # seconds without output after which what has been written has arrived

PRELUDE = """
import os, sys, threading, time, logging
from penstock import flow, task
from penstock.logging import get_run_logger
from penstock.progress import following
from penstock.task_runners import ProcessPoolTaskRunner, ThreadPoolTaskRunner

following._PATIENCE, following._PAUSE, following._REST = 0.0, 0.04, 1

def picture():
    "Block until a picture that is drawn after this call has been seen."
    view = following._pictures._view
    while view._screen is None:
        time.sleep(0.002)
    screen, seen = view._screen, []
    show = screen.show
    screen.show = lambda lines: (show(lines), seen.append(lines))
    while len(seen) < 2 or not screen._drawn:
        time.sleep(0.002)
    del screen.show

def checkpoint():
    "Let the test look at the screen."
    os.write(int(os.environ["CHECKPOINT"]), b"x")
    os.read(int(os.environ["GO_ON"]), 1)
"""


# The program's session gets the terminal as its own: only then does Ctrl-C mean something.
LAUNCHER = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"


class Terminal:
    """One program and its terminal."""

    def __init__(self, script: Path, columns: int, rows: int, environment: dict[str, str | None]) -> None:
        self.screen = pyte.HistoryScreen(columns, rows, history=10_000, ratio=0.5)
        self.raw = b""
        self.status: int | None = None
        self._stream = pyte.ByteStream(self.screen)
        self._terminal, theirs = pty.openpty()
        self._reached, reach = os.pipe()
        wait, self._go_on = os.pipe()
        variables = {**FRESH, "CHECKPOINT": str(reach), "GO_ON": str(wait), **environment}
        resize(theirs, columns, rows)
        self._program = subprocess.Popen(
            [sys.executable, "-IS", "-c", LAUNCHER, sys.executable, str(script)],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={name: value for name, value in {**os.environ, **variables}.items() if value is not None},
            pass_fds=(reach, wait),
            start_new_session=True,
        )
        for end in (theirs, reach, wait):
            os.close(end)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._program.kill()
        self._program.wait()
        for end in (self._terminal, self._reached, self._go_on):
            if end >= 0:
                os.close(end)

    def at_checkpoint(self) -> list[str]:
        """What is on the screen when the program gets to its next checkpoint."""
        self._read_until(self._reached)
        assert os.read(self._reached, 1)
        return self.look()

    def go_on(self) -> None:
        os.write(self._go_on, b"x")

    def look(self) -> list[str]:
        """What is on the screen now."""
        while select.select([self._terminal], [], [], QUIET)[0] and self._read():
            pass
        return [line.rstrip() for line in self.screen.display]

    def type(self, keys: bytes) -> None:
        os.write(self._terminal, keys)

    def resize(self, columns: int, rows: int) -> None:
        resize(self._terminal, columns, rows)
        self.screen.resize(rows, columns)

    def hang_up(self) -> None:
        """The terminal goes away, as it does when its window is closed."""
        os.close(self._terminal)
        self._terminal = -1

    def join(self) -> None:
        self.status = self._program.wait(PATIENCE)

    def end(self) -> list[str]:
        """Everything that was ever written and not taken away, once the program has ended."""
        self._read_until(None)
        self.join()
        return self.transcript()

    def transcript(self) -> list[str]:
        gone = ["".join(row[n].data for n in range(self.screen.columns)) for row in self.screen.history.top]
        lines = [line.rstrip() for line in [*gone, *self.screen.display]]
        while lines and not lines[-1]:
            lines.pop()
        return lines

    def _read_until(self, signalled: int | None) -> None:
        deadline = time.monotonic() + PATIENCE
        while True:
            ready, _, _ = select.select([self._terminal, *([] if signalled is None else [signalled])], [], [], 1.0)
            if self._terminal in ready and not self._read():
                assert signalled is None, f"the program has ended:\n{chr(10).join(self.transcript())}"
                return
            if signalled in ready:
                return
            assert time.monotonic() < deadline, f"nothing happens:\n{chr(10).join(self.transcript())}"

    def _read(self) -> bool:
        try:
            data = os.read(self._terminal, 65536)
        except OSError:  # nobody has the other end open any more
            return False
        self.raw += data
        self._stream.feed(data)
        return bool(data)


def resize(terminal: int, columns: int, rows: int) -> None:
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


@contextmanager
def program(
    directory: Path, body: str, columns: int = 80, rows: int = 24, **environment: str | None
) -> Iterator[Terminal]:
    """A program on a terminal. It is ended with the block, if it has not ended by then."""
    script = directory / "program.py"
    script.write_text(PRELUDE + body)
    with Terminal(script, columns, rows, environment) as terminal:
        yield terminal
