"""Looking at the store in a file. Its limits are seconds of a processor, which looking takes from this process: on the
clock, a busy machine would refuse what is cheap.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from penstock.store.sqlite import READ_TRIES, SQLiteReader
from penstock.ui.window import Allowance, too_long, view

if TYPE_CHECKING:
    from sqlite3 import Connection


CACHE = 64 * 1024  # KiB: also what SQLite sorts without temporary files, which 100,000 runs need a third of


class SQLiteWindow(SQLiteReader):
    """As `Window`."""

    clock = staticmethod(time.thread_time)

    def __init__(self, home: str | os.PathLike[str]) -> None:
        super().__init__(home)
        self._allowance = Allowance()
        self._out_of_time = 0.0
        self._closed_to: object = None

    def view(self, name: str) -> str:
        return view(name)

    def ask_within(self, seconds: float, view: str, parameters: dict[str, object]) -> list[tuple[Any, ...]]:
        self._allowance.seconds = seconds
        try:
            return self.ask(view, parameters)
        finally:
            del self._allowance.seconds

    def version(self) -> object:
        return self.ask("PRAGMA data_version", {})

    def _fetched(self, statement: str, parameters: dict[str, object]) -> list[tuple[Any, ...]]:
        """Again, if it was others who had the processor for all of the time that a reader may keep a snapshot."""
        seconds = self._allowance.seconds
        for _ in range(READ_TRIES):
            self._out_of_time = time.thread_time() + seconds
            rows = self._fetched_in_time(statement, parameters)
            if rows is not None:
                return rows
            if time.thread_time() > self._out_of_time:
                break
        raise too_long(seconds)

    def _connected(self) -> Connection:
        connection = super()._connected()
        if self._closed_to is not connection:
            connection.execute("PRAGMA trusted_schema = OFF")
            connection.execute(f"PRAGMA cache_size = -{CACHE}")
            connection.set_authorizer(_only_looks)
            self._closed_to = connection
        return connection

    def _too_late(self) -> bool:
        return super()._too_late() or time.thread_time() > self._out_of_time


def _only_looks(action: int, first: str | None, second: str | None, *_: object) -> int:
    """SQLite asks about everything that a statement would do, when it is prepared."""
    import sqlite3

    looks = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
    if action in looks and second != "load_extension":
        return sqlite3.SQLITE_OK
    if action == sqlite3.SQLITE_PRAGMA and first == "data_version" and second is None:
        return sqlite3.SQLITE_OK
    if action == sqlite3.SQLITE_UPDATE and first == "sqlite_master":
        # Asked for when a connection first uses json_each. The file is read-only, and so is its schema.
        return sqlite3.SQLITE_OK
    return sqlite3.SQLITE_DENY
