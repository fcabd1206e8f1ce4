"""Both stores keep the contract of stores."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from penstock.store.base import Store
from penstock.store.memory import MemoryStore
from penstock.store.sqlite import SQLiteStore
from penstock.testing.store_suite import CHECKS, Check, check_store, run_row


@pytest.fixture(params=["memory", "sqlite"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Store]:
    if request.param == "memory":
        return MemoryStore
    return lambda: SQLiteStore(tmp_path / "home")


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract(make: Callable[[], Store], check: Check) -> None:
    with closing(make()) as store:
        check(store)


def test_check_store_runs_every_check_on_a_fresh_store() -> None:
    made: list[MemoryStore] = []

    def make_and_remember() -> MemoryStore:
        made.append(MemoryStore())
        return made[-1]

    check_store(make_and_remember)
    assert len(made) == len(CHECKS) > 10


def test_check_store_finds_a_store_that_forgets() -> None:
    class Forgetful(MemoryStore):
        def get(self, run_id: str) -> None:
            return None

    with pytest.raises(AssertionError, match="expected RunRow"):
        check_store(Forgetful)


def test_sqlite_tables_have_the_columns_of_the_rows(tmp_path: Path) -> None:
    import sqlite3

    from penstock.store import base

    with closing(SQLiteStore(tmp_path)) as store:
        store.write(base.Batch([run_row(1)], [], [], [], []))
        with closing(sqlite3.connect(tmp_path / "penstock.db")) as connection:
            for table, row in (
                ("runs", base.RunRow),
                ("earlier_attempts", base.AttemptRow),
                ("attempts", base.AttemptRow),
                ("edges", base.EdgeRow),
                ("results", base.ResultRow),
            ):
                columns = [column[1] for column in connection.execute(f"PRAGMA table_info({table})")]
                assert tuple(columns) == row._fields
