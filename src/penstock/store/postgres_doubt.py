"""Log lines of which nobody can say whether they were committed: the connection was lost before the answer came.

Rows of other tables have keys: written twice they are there once. Lines have only the number that the server gives
them, so whoever writes them again first asks what has become of the transaction. The server knows that by its number,
which is in the answer with which each transaction begins.
"""

from __future__ import annotations

from penstock.store.base import LogRow
from penstock.store.postgres_link import Link


class Doubt:
    """About the last transaction of one writer, and about lines of earlier ones that are offered again."""

    def __init__(self) -> None:
        self._open: tuple[str, str] | None = None  # the store, and the number of the transaction
        self._lines: list[LogRow] = []
        self._there: dict[int, LogRow] = {}  # by identity: two lines may say the same

    def begin(self, store: str, transaction: str, offered: list[LogRow]) -> None:
        """What is missing of these lines is about to be committed."""
        self._lines = self.missing(offered)
        self._open = (store, transaction) if self._lines else None

    def end(self, offered: list[LogRow]) -> None:
        """It was committed: nobody will offer these lines again."""
        self._open, self._lines = None, []
        if self._there:
            for line in offered:
                self._there.pop(id(line), None)

    def settle(self, link: Link, store: str) -> None:
        """Find out about what is open, in a transaction that has the turn: so the one in question is over."""
        if self._open is None:
            return
        before, transaction = self._open
        if before == store and link.ask("fate", {"transaction": transaction}) == [("committed",)]:
            self._there.update((id(line), line) for line in self._lines)
        self._open, self._lines = None, []

    def missing(self, offered: list[LogRow]) -> list[LogRow]:
        """Of lines that are offered, those that are not there; the list itself, if that is all of them."""
        return [line for line in offered if id(line) not in self._there] if self._there else offered
