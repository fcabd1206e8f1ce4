"""The store as the answers of the dashboard read it: through a window, by the queries of views.sql.

Text of statements is never made of what a request says.
"""

from __future__ import annotations

import json
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from threading import Lock
from typing import Any, TypeVar

from penstock import recovery, storing
from penstock.store.base import Reader, RunRow, StoreMissing
from penstock.ui.window import QUICK, THOROUGH, TookTooLong, Window
from penstock.ui.window_postgres import PostgresWindow
from penstock.ui.window_sqlite import SQLiteWindow

__all__ = ["QUICK", "THOROUGH", "Records", "TookTooLong"]

REMEMBERED = 2_000  # values about runs that have ended
LOOK_FOR_DEATHS = 5.0  # seconds between two looks at which processes have died

Made = TypeVar("Made")


class Records:
    """What the answers are made from: the store in the database at `url`, else the one in `home`. Thread-safe."""

    def __init__(self, home: str | os.PathLike[str], url: str | None = None) -> None:
        self.home = os.path.abspath(home)
        self.url = url
        self._window: Window = SQLiteWindow(home) if url is None else PostgresWindow(url)
        self.clock = self._window.clock
        self.reader: Reader = recovery.Truthful(self._window, home)
        self._store = storing.open_store(home, url)  # written to only if somebody has died
        self._remembered: OrderedDict[tuple[Any, ...], Any] = OrderedDict()
        self._remembering = Lock()
        self._looked = 0.0
        self._walked: tuple[object, str] = (None, "")

    def get(self, run_id: str) -> RunRow:
        """Raises LookupError if there is none. One that is seen to have crashed is recorded so; what cannot be recorded
        has not ended, for who follows it."""
        row = self._get(run_id)
        if row.status != "CRASHED" or self._is_recorded(run_id):
            return row
        recovery.recover(self.home, self._store)
        row = self._get(run_id)
        return row if self._is_recorded(run_id) else row._replace(ended=None)

    def _get(self, run_id: str) -> RunRow:
        row = self.reader.get(run_id)
        if row is None:
            raise LookupError(f"there is no run {run_id}")
        return row

    def _is_recorded(self, run_id: str) -> bool:
        row = self._window.get(run_id)
        return row is not None and row.ended is not None

    def ask(self, query: str, /, *, within: float = QUICK, **parameters: object) -> list[tuple[Any, ...]]:
        """The rows that answer one of the queries in views.sql."""
        return self._window.ask_within(within, self._window.view(query), parameters)

    def ask_below(self, run: RunRow, query: str, /, **parameters: object) -> list[tuple[Any, ...]]:
        """Likewise, of one with {parents}: about everything below a run."""
        return self.ask(query, within=THOROUGH, parents=self._parents(run), **parameters)

    def ask_roots(self, query: str, /, **parameters: Any) -> list[tuple[Any, ...]]:
        """Likewise, of a list of root runs: where there is no store yet, there are none."""
        try:
            return self.ask(query, **parameters)
        except StoreMissing:
            return []

    def ask_sorted(
        self, run: RunRow, query: str, sort: str, direction: str, /, **parameters: object
    ) -> list[tuple[Any, ...]]:
        """As `ask_below`, of a query with SORT. Both are of this library, and not of whoever asks."""
        after = {"asc": ">", "desc": "<"}[direction]
        text = self._window.view(query).replace("SORT", sort).replace("DIRECTION", direction).replace("AFTER", after)
        return self._window.ask_within(THOROUGH, text, {"parents": self._parents(run), **parameters})

    def _parents(self, run: RunRow) -> str:
        """For {parents}. Only those of one run are kept, for the next question about it: there can be very many."""
        known = (run.id, run.ended or self.version())  # asked before it is looked
        key, text = self._walked
        if key != known:
            text = json.dumps(dict(self.ask("walk", within=THOROUGH, run_id=run.id)))
            self._walked = known, text
        return text

    def version(self) -> object:
        """Another one whenever somebody has written, or has made the store."""
        try:
            return self._window.version()
        except StoreMissing:
            return "missing"

    def look_for_deaths(self) -> None:
        """Have runs of dead processes recorded as crashed, now and then."""
        if time.monotonic() - self._looked > LOOK_FOR_DEATHS:
            self._looked = time.monotonic()
            recovery.recover(self.home, self._store)

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
        self._store.close()
