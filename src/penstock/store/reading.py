"""The reading half of a store that answers in SQL: which statement answers what, and what its rows become."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar, Unpack

from penstock.store.base import (
    AttemptRow,
    EdgeRow,
    KeptRow,
    LineRow,
    LogRow,
    ResultRow,
    RunRow,
    StateCount,
    Tally,
    Wanted,
)
from penstock.store.inserting import clean
from penstock.store.text import as_parameters, id_prefix, possible_names

PAGE = 10_000  # rows that are read at once where there may be many

_Row = TypeVar("_Row")


class AnswersInSQL:
    """The queries of `queries.sql` as the methods of `Reader`. Who inherits knows how to ask a database."""

    def statement(self, name: str) -> str:
        """The query of this name, as this database understands it."""
        raise NotImplementedError

    def ask(self, statement: str, parameters: dict[str, object]) -> list[tuple[Any, ...]]:
        """Return the rows that answer a statement; for queries that are not among those of `Reader`."""
        raise NotImplementedError

    def _query(self, name: str, make: Callable[[Any], _Row], /, **parameters: object) -> list[_Row]:
        return [make(row) for row in self.ask(self.statement(name), parameters)]

    def get(self, run_id: str) -> RunRow | None:
        rows = self._query("get", RunRow._make, run_id=run_id)
        return rows[0] if rows else None

    def find(self, text: str, *, limit: int = 10) -> list[RunRow]:
        if text == "@last":
            return self._query("last", RunRow._make)
        return self._find_by_id(id_prefix(text), limit) or self._find_by_name(str(clean(text)))

    def _find_by_id(self, prefix: str, limit: int) -> list[RunRow]:
        if not prefix:
            return []
        for query in ("roots_by_prefix", "runs_by_prefix"):
            if found := self._query(query, RunRow._make, text=prefix, limit=limit):
                return found
        return []

    def _find_by_name(self, text: str) -> list[RunRow]:
        for name, run_name in possible_names(text):
            if found := self._query("by_name", RunRow._make, text=run_name, name=name):
                return found
        return []

    def inside(self, run_id: str, text: str, *, limit: int = 10) -> list[RunRow]:
        prefix = id_prefix(text)
        return self._query("inside", RunRow._make, run_id=run_id, text=clean(text), prefix=prefix, limit=limit)

    def runs(self, *, before: RunRow | None = None, limit: int = 50, **wanted: Unpack[Wanted]) -> list[RunRow]:
        place = {"created": before and before.created, "id": before and before.id}
        filters = {name: clean(value) for name, value in as_parameters(wanted).items()}
        return self._query("runs", RunRow._make, limit=limit, **filters, **place)

    def children(self, run_id: str) -> list[RunRow]:
        return self._query("children", RunRow._make, run_id=run_id)

    def tree(self, run_id: str, *, limit: int = 1000) -> list[RunRow]:
        """As `Reader.tree`. Reads page by page: a snapshot of 100,000 rows would last too long."""
        rows: list[RunRow] = []
        while len(rows) < limit:
            place = {"created": rows[-1].created, "id": rows[-1].id} if rows else {"created": None, "id": None}
            page = self._query("tree", RunRow._make, run_id=run_id, limit=min(PAGE, limit - len(rows)), **place)
            rows += page
            if len(page) < PAGE:
                break
        return rows

    def counts(self, run_id: str) -> list[StateCount]:
        return self._query("counts", StateCount._make, run_id=run_id)

    def tally(self, run_id: str) -> list[Tally]:
        return self._query("tally", Tally._make, run_id=run_id)

    def failures(self, run_id: str, *, limit: int = 100) -> list[RunRow]:
        return self._query("failures", RunRow._make, run_id=run_id, limit=limit)

    def attempts(self, run_id: str) -> list[AttemptRow]:
        return self._query("attempts", AttemptRow._make, run_id=run_id)

    def edges(self, run_id: str) -> list[EdgeRow]:
        return self._query("edges", EdgeRow._make, run_id=run_id)

    def logs(self, run_id: str, *, limit: int = 1000) -> list[LogRow]:
        return self._query("logs", LogRow._make, run_id=run_id, limit=limit)

    def line_numbers(self, run_id: str | None = None) -> tuple[int, int]:
        if run_id is None:
            [(last,)] = self._query("last_line", tuple)
            return 0, last or 0
        [(first, last)] = self._query("line_numbers", tuple, run_id=run_id)
        return first or 0, last or 0

    def lines(
        self, run: RunRow, after: int, last: int, *, level: int = 0, since: float | None = None, name: str | None = None
    ) -> list[LineRow]:
        place = {"run_id": run.id, "is_root": run.parent_id is None, "after": after, "last": last}
        return self._query("lines", LineRow._make, level=level, since=since, name=clean(name), **place)

    def result(self, address: str) -> ResultRow | None:
        rows = self._query("result", ResultRow._make, address=address)
        return rows[0] if rows else None

    def cached(self, cache_key: str) -> ResultRow | None:
        rows = self._query("cached", ResultRow._make, cache_key=cache_key)
        return rows[0] if rows else None

    def results_of(self, task_key: str, *, limit: int = 20) -> list[ResultRow]:
        return self._query("results_of", ResultRow._make, task_key=task_key, limit=limit)

    def kept(self, root_ids: Sequence[str]) -> Iterator[KeptRow]:
        """As `Reader.kept`. Reads page by page: a snapshot of 100,000 rows would last too long."""
        for root_id in root_ids:
            yield from self._kept_of(root_id)

    def _kept_of(self, root_id: str) -> Iterator[KeptRow]:
        place = 0
        while place is not None:
            # One value for all rows: each row that SQLite hands out is a chance to lose the GIL.
            [(place, rows)] = self._query("kept", tuple, root_id=root_id, place=place, limit=PAGE)
            yield from map(KeptRow._make, json.loads(rows))

    def not_kept(self, root_ids: Sequence[str]) -> dict[str, int]:
        return dict(self._query("not_kept", tuple, roots=json.dumps(root_ids)))

    def lost(self, root_ids: Sequence[str], now: float) -> dict[str, int]:
        return dict(self._query("lost", tuple, roots=json.dumps(root_ids), now=now))

    def lives(self, run_id: str) -> list[RunRow]:
        return self._query("lives", RunRow._make, run_id=run_id)

    def unfinished(self, owner: str | None = None) -> list[RunRow]:
        return self._query("unfinished", RunRow._make, owner=owner)

    def owners(self) -> list[str]:
        return [owner for (owner,) in self._query("owners", tuple)]
