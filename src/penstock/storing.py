"""Which store there is: a file in the home directory, or a database that the settings name."""

from __future__ import annotations

import os
from importlib import import_module
from types import ModuleType
from typing import Protocol, cast

from penstock.settings.table import without_password
from penstock.store.base import Reader, Store
from penstock.store.sqlite import SQLiteReader, SQLiteStore


class SharedStore(Store, Protocol):
    """A store that other machines use as well. It carries what on one machine goes by files in the home."""

    def about(self) -> tuple[str, float, int]:
        """The version of the server, how many seconds its clock is ahead of ours, the bytes that the store takes."""
        ...

    def beat(self) -> None:
        """Say that the owners who write here are there. Call it now and then; never raises."""
        ...

    def post(self, run_id: str) -> None:
        """Ask for the run with this id to be cancelled."""
        ...

    def requests(self) -> list[str]:
        """The ids of runs that somebody wants to be cancelled."""
        ...

    def take(self, run_id: str) -> bool:
        """Remove a request; False if it has been removed."""
        ...


def open_store(home: str | os.PathLike[str], url: str | None = None) -> Store:
    """The store in the database at `url`, else the one in `home`. Nothing is connected to or made before it is used."""
    return SQLiteStore(home) if url is None else shared_store(url)


def open_reader(home: str | os.PathLike[str], url: str | None = None) -> Reader:
    """Likewise, for reading only."""
    return SQLiteReader(home) if url is None else cast("Reader", _postgres().PostgresReader(url))


def shared_store(url: str) -> SharedStore:
    """The store in the database at `url`."""
    return cast("SharedStore", _postgres().PostgresStore(url))


def _postgres() -> ModuleType:
    return import_module("penstock.store.postgres")  # most programs have no need of it, nor what it needs


def name_of(home: str | os.PathLike[str], url: str | None = None) -> str:
    """The name of a store for people; no password is in it."""
    return os.fspath(home) if url is None else without_password(url)
