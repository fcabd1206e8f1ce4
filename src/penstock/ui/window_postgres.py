"""Looking at the store in a database. Its limits are seconds on the clock of the server, which does the work and knows
no other. That clock goes on while the server does other things, so a statement has `PATIENCE` times as many: nobody who
writes has to wait for somebody who reads.
"""

from __future__ import annotations

import time
from typing import Any

from penstock.store.postgres import PostgresReader
from penstock.store.postgres_link import GivenUp, Link, translated
from penstock.ui.window import Allowance, too_long, view

PATIENCE = 3  # as often as looking at a file is tried on a busy machine

# Equal only if the same transactions can be seen. Each that writes has a number, which is in it from its beginning to
# its end. The place in the server's log would not do: it moves before what was written can be seen.
_VERSION = "SELECT pg_current_snapshot()"


class PostgresWindow(PostgresReader):
    """As `Window`."""

    clock = staticmethod(time.monotonic)

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._allowance = Allowance()

    def view(self, name: str) -> str:
        return view(name, "views_postgres.sql")

    def ask_within(self, seconds: float, view: str, parameters: dict[str, object]) -> list[tuple[Any, ...]]:
        self._allowance.seconds = seconds
        try:
            return self.ask(translated(view), parameters)
        finally:
            del self._allowance.seconds

    def version(self) -> object:
        return self.ask(_VERSION, {})

    def _answer(self, link: Link, statement: str, values: dict[str, object]) -> list[tuple[Any, ...]]:
        seconds = PATIENCE * self._allowance.seconds
        try:
            return link.look(statement, values, seconds)
        except GivenUp as error:
            raise too_long(seconds) from error
