"""A file that bodies write words into and wait for words in, wherever they are executed."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_LOOK = 0.002  # seconds between two looks for a word


@dataclass(frozen=True)
class Diary:
    """Words in the order in which they were written. Safe with threads and processes; pickled as its path."""

    path: str

    def write(self, word: str) -> None:
        """Append `word`, which has no line breaks."""
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            os.write(descriptor, f"{word}\n".encode())  # one call, so that two words never mix
        finally:
            os.close(descriptor)

    def words(self) -> list[str]:
        with open(self.path, encoding="utf-8") as file:
            return file.read().split("\n")[:-1]

    def wait_for(self, word: str, seconds: float = 30.0) -> bool:
        """Block until somebody has written `word`; False if nobody has after that many seconds."""
        deadline = time.monotonic() + seconds
        while word not in self.words():
            if time.monotonic() > deadline:
                return False
            time.sleep(_LOOK)
        return True


@contextmanager
def new_diary() -> Iterator[Diary]:
    """An empty diary, thrown away at the end of the block."""
    directory = tempfile.mkdtemp(prefix="penstock-diary-")
    try:
        path = os.path.join(directory, "words")
        with open(path, "xb"):
            pass
        yield Diary(path)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
