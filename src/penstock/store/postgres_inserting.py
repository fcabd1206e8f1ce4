"""How rows get into Postgres: those of a table as one JSON array, which the server takes apart.

Measured with 1,000 runs, against 31 ms: `json` instead of `jsonb` 217 ms, arrays and `unnest` 127 ms, one statement for
each row 70 ms, COPY into a temporary table 33 ms, but that takes three times as long for few rows and no part in a
pipeline, with which a transaction is two round trips.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from penstock.store import inserting
from penstock.store.base import Batch, RunRow
from penstock.store.inserting import clean

ROWS_PER_STATEMENT = 1024
LONGEST_ARRAY = 32_000_000  # characters of JSON; the server has an end at 256 MB
LONGEST_TEXT = 8_000_000  # characters of a text that has to be cleaned

_WHOLE = {"map_index", "attempts", "number", "level", "size"}
_REAL = {"created", "ready", "started", "attempt_started", "ended", "time", "expires"}
_BYTES = {"sealed"}

Order = tuple[str, Sequence[object]]
"""A statement with its values."""


class _Table(NamedTuple):
    name: str
    columns: tuple[str, ...]
    on_conflict: str

    @property
    def into(self) -> str:
        return f"INSERT INTO {self.name} ({', '.join(self.columns)})"

    @property
    def from_json(self) -> str:
        cells = ", ".join(f"(cells ->> {place})::{_type(column)}" for place, column in enumerate(self.columns))
        return f"{self.into} SELECT {cells} FROM jsonb_array_elements(%s::jsonb) AS rows (cells) {self.on_conflict}"

    @property
    def from_values(self) -> str:
        return f"{self.into} VALUES ({', '.join(['%s'] * len(self.columns))}) {self.on_conflict}"


def _type(column: str) -> str:
    if column in _BYTES:
        return "bytea"
    return "bigint" if column in _WHOLE else "double precision" if column in _REAL else "text"


_RUNS, _ATTEMPTS, _EDGES, _LOGS, _RESULTS = (_Table(*table) for table in inserting.TABLES)
_TABLES = (_RUNS, _ATTEMPTS, _EDGES, _LOGS)
_FROM_JSON = {table.name: table.from_json for table in _TABLES}
_RESULT_FROM_VALUES = _RESULTS.from_values


def orders_for(batch: Batch, *, cleaned: bool = False) -> list[Order]:
    """What stores the rows of a batch. `cleaned`: something in it was refused, so store what can be made of it.

    Raises ValueError or TypeError for what JSON has no words for.
    """
    orders: list[Order] = []
    lists: tuple[Iterable[Sequence[object]], ...] = (_latest(batch.runs), batch.attempts, batch.edges, batch.logs)
    for table, rows in zip(_TABLES, lists, strict=True):
        arrays = _arrays([_cleaned(table, row) for row in rows] if cleaned else rows)
        orders += [(_FROM_JSON[table.name], (array,)) for array in arrays]
    results = [_cleaned(_RESULTS, row) for row in batch.results] if cleaned else batch.results
    return orders + [(_RESULT_FROM_VALUES, row) for row in results]


def _latest(rows: Sequence[RunRow]) -> Iterable[RunRow]:
    """Of each run the row that would be left: one statement may not change a row twice."""
    latest: dict[str, RunRow] = {}
    for row in rows:
        before = latest.get(row.id)
        if before is None or before.ended is None or row.ended is not None:
            latest[row.id] = row
    return latest.values()


def _arrays(rows: Iterable[Sequence[object]]) -> Iterator[str]:
    rows = list(rows)
    for at in range(0, len(rows), ROWS_PER_STATEMENT):
        yield from _array(rows[at : at + ROWS_PER_STATEMENT])


def _array(rows: list[Sequence[object]]) -> Iterator[str]:
    array = json.dumps(rows, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    if len(array) <= LONGEST_ARRAY or len(rows) == 1:
        yield array
        return
    middle = len(rows) // 2
    yield from _array(rows[:middle])
    yield from _array(rows[middle:])


def _cleaned(table: _Table, row: Sequence[object]) -> list[Any]:
    return [_fit(_type(column), clean(value)) for column, value in zip(table.columns, row, strict=True)]


def _fit(kind: str, value: object) -> object:
    """A value that its column takes; NULL if there is none."""
    if value is None or kind == "bytea":
        return value if isinstance(value, bytes) else None
    if kind == "text":
        return str(value)[:LONGEST_TEXT]
    if not isinstance(value, int | float):
        return None
    if kind == "bigint":
        return clean(int(value)) if math.isfinite(value) else None
    number = float(value)
    return number if math.isfinite(number) else f"{number}".replace("inf", "Infinity")
