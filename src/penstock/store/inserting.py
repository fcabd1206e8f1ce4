"""How rows get into SQLite.

Many rows per statement. The sqlite3 module gives the GIL away and takes it back for every row of an `executemany`,
and next to a busy thread each taking costs up to 5 ms.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from penstock.store.base import AttemptRow, Batch, EdgeRow, LogRow, ResultRow, RunRow

if TYPE_CHECKING:
    from sqlite3 import Connection

LONGEST_TEXT = 100_000_000  # characters that fit into SQLite's billion bytes however they are escaped
ROWS_PER_STATEMENT = 1024

_Values = Sequence[object]


def insert_batch(connection: Connection, batch: Batch) -> None:
    """Insert all rows. The caller has begun a transaction, which ends badly if this raises."""
    _insert(connection, _RUNS, batch.runs)
    _insert(connection, _ATTEMPTS, batch.attempts)
    _insert(connection, _EDGES, batch.edges)
    _insert(connection, _LOGS, batch.logs)
    _insert(connection, _RESULTS, batch.results)


class _Table(NamedTuple):
    name: str
    columns: tuple[str, ...]
    on_conflict: str


def _replacing(columns: tuple[str, ...]) -> str:
    key, *others = columns
    return f"ON CONFLICT ({key}) DO UPDATE SET {', '.join(f'{column} = excluded.{column}' for column in others)}"


# What has ended stays so, whichever order rows arrive in; a later last word, of a hook perhaps, is welcome.
_STAYS_ENDED = "WHERE runs.ended IS NULL OR excluded.ended IS NOT NULL"

_RUNS = _Table("runs", RunRow._fields, f"{_replacing(RunRow._fields)} {_STAYS_ENDED}")
_ATTEMPTS = _Table("earlier_attempts", AttemptRow._fields, "ON CONFLICT DO NOTHING")
_EDGES = _Table("edges", EdgeRow._fields, "ON CONFLICT DO NOTHING")
_LOGS = _Table("logs", LogRow._fields, "")
_RESULTS = _Table("results", ResultRow._fields, _replacing(ResultRow._fields))
TABLES = (_RUNS, _ATTEMPTS, _EDGES, _LOGS, _RESULTS)  # which row replaces which is the same in every store


def _insert(connection: Connection, table: _Table, rows: Sequence[_Values]) -> None:
    at = 0
    size = _rows_per_statement(connection, table)
    while at < len(rows):
        # Powers of two: a few statements that stay prepared serve every number of rows.
        while size > len(rows) - at:
            size //= 2
        _insert_columns(connection, table, list(zip(*rows[at : at + size], strict=False)))
        at += size


def _insert_columns(connection: Connection, table: _Table, columns: list[tuple[object, ...]]) -> None:
    rows = len(columns[0])
    # Columns that are empty in every row are left out: to bind a None takes longer than anything else.
    empty = (None,) * rows
    used = [place for place, column in enumerate(columns) if column != empty]
    statement = _statement(table, tuple(table.columns[place] for place in used), rows)
    values = list(chain.from_iterable(zip(*(columns[place] for place in used), strict=False)))
    _execute(connection, statement, values, any(_has_nul(columns[place]) for place in used))


def _has_nul(column: tuple[object, ...]) -> bool:
    try:
        text = "".join(column)  # type: ignore[arg-type]  # most are all text, and this is the fast way to know
    except TypeError:
        text = "".join([value for value in column if type(value) is str])
    return "\0" in text


def _rows_per_statement(connection: Connection, table: _Table) -> int:
    import sqlite3

    most = connection.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER) // len(table.columns)
    return int(min(ROWS_PER_STATEMENT, 1 << (most.bit_length() - 1)))


@lru_cache(maxsize=64)
def _statement(table: _Table, columns: tuple[str, ...], rows: int) -> str:
    row = f"({', '.join('?' * len(columns))})"
    into = f"INSERT INTO {table.name} ({', '.join(columns)})"
    return f"{into} VALUES {', '.join([row] * rows)} {table.on_conflict}"


def _execute(connection: Connection, statement: str, values: list[object], has_nul: bool) -> None:
    """Insert `values`; if something refuses one of them, insert what can be made of them instead."""
    import sqlite3

    refusals = (
        ValueError,
        OverflowError,
        sqlite3.InterfaceError,
        sqlite3.ProgrammingError,
        sqlite3.DataError,
    )
    # NUL is accepted, but then length() and LIKE see half of the text.
    if not has_nul:
        try:
            connection.execute(statement, values)
            return
        except refusals:
            pass
    connection.execute(statement, [clean(value) for value in values])


def clean(value: object) -> object:
    """Return a value that SQLite takes: control and broken characters escaped, numbers in range."""
    if value is None or isinstance(value, bytes):
        return value
    if isinstance(value, int):
        return max(-(2**63), min(int(value), 2**63 - 1))
    if isinstance(value, float):
        return float(value) if value == value else 0.0
    text = str.__str__(value)[:LONGEST_TEXT] if isinstance(value, str) else f"<{type(value).__qualname__}>"
    return text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode()
