"""A note of what was committed last, in a small file beside the database.

SQLite takes a write-ahead log that was deleted for an empty one, and ends a damaged one silently before the damage:
what had been committed is gone, and nobody is told. The note tells. It names the run whose row was written last.
If the database does not know that row, or knows it only unfinished, then commits are missing.

The note is written after the commit, under the store's lock, without fsync: it may lag behind the database, which
proves nothing, but is never ahead of it. It costs one `pwrite` per transaction. A counter in the database would say
how many transactions are missing, but costs each transaction another statement and another page in the log.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from logging import getLogger
from typing import TYPE_CHECKING

from penstock.store.base import RunRow

if TYPE_CHECKING:
    from sqlite3 import Connection

NOTE = "penstock.last"
_SIZE = 128  # bytes, always: a shorter note leaves nothing of a longer one

_logger = getLogger("penstock.store")


class LastCommit:
    """The note in the directory `home`, open for writing. Trouble with it is no trouble: then it lags."""

    def __init__(self, home: str) -> None:
        self._descriptor = -1
        with suppress(OSError):
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
            self._descriptor = os.open(os.path.join(home, NOTE), flags, 0o600)

    def note(self, runs: Sequence[RunRow]) -> None:
        """These rows have been committed, the last one last."""
        if not runs or self._descriptor < 0:
            return
        run = runs[-1]
        # Another kind of id may read differently in the note, or in the database.
        if len(run.id) == 32 and run.id.isascii() and run.id.isalnum():
            # NaN is no end: SQLite makes it NULL.
            ended = "true" if run.ended is not None and run.ended == run.ended else "false"
            self._write(f'{{"run": "{run.id}", "ended": {ended}}}')

    def forget(self) -> None:
        """Any row may be missing from now on."""
        self._write("{}")

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def compare(self, connection: Connection, path: str) -> None:
        """Warn if the database lacks what was committed; once, because the note is forgotten then."""
        if (missing := missing_from(connection, os.path.dirname(path))) is not None:
            _logger.warning("Records are missing in %s: %s", path, missing)
            self.forget()

    def _write(self, text: str) -> None:
        try:
            os.pwrite(self._descriptor, text.encode().ljust(_SIZE - 1) + b"\n", 0)
        except OSError:
            pass


def remove_note(home: str) -> None:
    """What was committed last is of no interest: the database is gone, or another one."""
    with suppress(FileNotFoundError):
        os.unlink(os.path.join(home, NOTE))


def missing_from(connection: Connection, home: str) -> str | None:
    """Say what the database lacks although it was committed; None if nothing is known to be missing."""
    path = os.path.join(home, NOTE)
    noted = _read(path)
    if noted is None:
        return None
    run_id, ended = noted
    found = connection.execute("SELECT ended FROM runs WHERE id = ?", (run_id,)).fetchone()
    if found is not None and (found[0] is not None or not ended):
        return None
    at = datetime.fromtimestamp(os.stat(path).st_mtime).isoformat(" ", "seconds")
    what = "is not there" if found is None else "has not ended there"
    return (
        f"run {run_id}, written at {at}, {what}. The power failed, or the log of the database (the file that ends in"
        " -wal) was deleted or damaged; what was recorded shortly before that time may be gone, too"
    )


def _read(path: str) -> tuple[str, bool] | None:
    try:
        with open(path, "rb") as file:
            facts = json.loads(file.read(_SIZE))
        run_id, ended = facts["run"], facts["ended"]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return (run_id, ended) if isinstance(run_id, str) and isinstance(ended, bool) else None
