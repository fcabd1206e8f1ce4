"""How another process of this host asks for a run to be cancelled: with a file in the store's directory.

The file is empty and named after the run. Whoever owns the run takes it away, which is the answer; the recorder's
thread looks for it while runs go on. A file needs no port, works for every run that is recorded, and only those
who may write to the store can leave one.
"""

from __future__ import annotations

import os
from contextlib import suppress

LOOK_EVERY = 0.2  # seconds


class Mailbox:
    """The requests in one store's directory. Thread-safe, as file systems are."""

    def __init__(self, home: str | os.PathLike[str]) -> None:
        self._directory = os.path.join(os.path.abspath(home), "cancel")

    def post(self, run_id: str) -> None:
        """Ask for the run with this id to be cancelled. Raises `OSError` if the directory cannot be written."""
        os.makedirs(self._directory, mode=0o700, exist_ok=True)
        with suppress(FileExistsError):  # somebody has asked before
            os.close(os.open(self._path(run_id), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))

    def requests(self) -> list[str]:
        """The ids of runs that somebody wants to be cancelled: in any process."""
        try:
            return os.listdir(self._directory)
        except OSError:
            return []

    def take(self, run_id: str) -> bool:
        """Remove a request; False if it has been removed, by the owner of the run or by whoever asked."""
        try:
            os.unlink(self._path(run_id))
        except OSError:
            return False
        return True

    def _path(self, run_id: str) -> str:
        return os.path.join(self._directory, run_id)
