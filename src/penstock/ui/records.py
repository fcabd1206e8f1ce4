"""The store as the dashboard reads it: by a connection that can do nothing else, and for a short time only.

A statement may use `QUICK` seconds of a processor; those few that look at every run of a tree may use `THOROUGH`, which
is still less than what is in the way of those who write. Text of statements is never made of what a request says.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from threading import Lock, local
from typing import TYPE_CHECKING, Any, TypeVar

from penstock import recovery
from penstock.exceptions import StoreUnavailable
from penstock.store.base import Reader, RunRow
from penstock.store.opening import statements
from penstock.store.sqlite import READ_TRIES, SQLiteReader

if TYPE_CHECKING:
    from sqlite3 import Connection

QUICK, THOROUGH = 0.2, 0.8  # seconds of a processor
REMEMBERED = 2_000  # values about runs that have ended
LOOK_FOR_DEATHS = 5.0  # seconds between two looks at which processes have died
_VIEWS = os.path.join(os.path.dirname(__file__), "views.sql")

Made = TypeVar("Made")


class TookTooLong(StoreUnavailable):
    """A question would have taken longer to answer than it may."""


class Window(SQLiteReader):
    """A reader whose connection is for looking only, whatever it is asked."""

    def __init__(self, home: str | os.PathLike[str]) -> None:
        super().__init__(home)
        self._asking = local()  # of each thread, because several may be in line for the connection
        self._out_of_time = 0.0
        self._closed_to: object = None

    def ask_within(self, seconds: float, statement: str, parameters: dict[str, object]) -> list[tuple[Any, ...]]:
        """As `ask`; `seconds` of a processor at most."""
        self._asking.seconds = seconds
        try:
            return self.ask(statement, parameters)
        finally:
            del self._asking.seconds

    def _fetched(self, statement: str, parameters: dict[str, object]) -> list[tuple[Any, ...]]:
        """Again, if it was others who had the processor for all of the time that a reader may keep a snapshot."""
        seconds = getattr(self._asking, "seconds", QUICK)
        for _ in range(READ_TRIES):
            self._out_of_time = time.thread_time() + seconds
            rows = self._fetched_in_time(statement, parameters)
            if rows is not None:
                return rows
            if time.thread_time() > self._out_of_time:
                break
        raise TookTooLong(
            f"looking for this was given up after {seconds:g} s: it would be in the way of runs"
            " that go on. Ask for less: a shorter time, a task, no text"
        )

    def _connected(self) -> Connection:
        connection = super()._connected()
        if self._closed_to is not connection:
            connection.execute("PRAGMA trusted_schema = OFF")
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


class Records:
    """What the answers are made from. Thread-safe."""

    def __init__(self, home: str | os.PathLike[str]) -> None:
        self.home = os.path.abspath(home)
        self._window = Window(home)
        self.reader: Reader = recovery.Truthful(self._window, home)
        self._remembered: OrderedDict[tuple[Any, ...], Any] = OrderedDict()
        self._remembering = Lock()
        self._looked = 0.0

    def get(self, run_id: str) -> RunRow:
        """Raises LookupError if there is none."""
        row = self.reader.get(run_id)
        if row is None:
            raise LookupError(f"there is no run {run_id}")
        return row

    def ask(self, query: str, /, *, within: float = QUICK, **parameters: object) -> list[tuple[Any, ...]]:
        """The rows that answer one of the queries in views.sql."""
        return self._window.ask_within(within, statement(query), parameters)

    def ask_sorted(self, query: str, sort: str, direction: str, /, **parameters: object) -> list[tuple[Any, ...]]:
        """Likewise, of a query with SORT. Both are of this library, and not of whoever asks."""
        after = {"asc": ">", "desc": "<"}[direction]
        text = statement(query).replace("SORT", sort).replace("DIRECTION", direction).replace("AFTER", after)
        return self._window.ask_within(THOROUGH, text, parameters)

    def version(self) -> object:
        """Another one whenever somebody has written."""
        return self._window.ask("PRAGMA data_version", {})

    def look_for_deaths(self) -> None:
        """Have runs of dead processes recorded as crashed, now and then."""
        if time.monotonic() - self._looked > LOOK_FOR_DEATHS:
            self._looked = time.monotonic()
            recovery.recover(self.home)

    def shown(self, root: RunRow, rows: Iterable[RunRow]) -> list[RunRow]:
        """Runs below `root` as they are to be shown: what a dead process has left unfinished has crashed."""
        if root.status != "CRASHED":
            return [*rows]
        return [row if row.ended is not None else self.reader.get(row.id) or row for row in rows]

    def once(self, run: RunRow, what: tuple[Any, ...], make: Callable[[], Made]) -> Made:
        """What `make` returns; of a run that has ended it is made once, for it does not change any more."""
        if run.ended is None:
            return make()
        key = (run.id, run.ended, *what)
        with self._remembering:
            if key in self._remembered:
                self._remembered.move_to_end(key)
                found: Made = self._remembered[key]
                return found
        made = make()
        with self._remembering:
            self._remembered[key] = made
            while len(self._remembered) > REMEMBERED:
                self._remembered.popitem(last=False)
        return made

    def always(self, run: RunRow, what: tuple[Any, ...], make: Callable[[], Made]) -> Made | Any:
        """What `make` returns, which does not change once it is something."""
        key = (run.id, *what)
        with self._remembering:
            if key in self._remembered:
                return self._remembered[key]
        made = make()
        if made:
            with self._remembering:
                self._remembered[key] = made
        return made

    def remembers(self, run: RunRow, what: tuple[Any, ...]) -> bool:
        return (run.id, run.ended, *what) in self._remembered

    def close(self) -> None:
        self.reader.close()


def statement(name: str) -> str:
    views = statements(_VIEWS)
    return views[name].replace("{parents}", views["parents"])
