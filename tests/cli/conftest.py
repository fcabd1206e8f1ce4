"""What several tests of the command line need."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from penstock.store.sqlite import SQLiteStore


@pytest.fixture
def greenwich(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Local time is that of Greenwich."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "UTC")
        time.tzset()
        yield
    time.tzset()


@pytest.fixture
def store(own_store: Path) -> Iterator[SQLiteStore]:
    """The store that the command finds by itself."""
    with closing(SQLiteStore(own_store)) as store:
        yield store
