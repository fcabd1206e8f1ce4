"""Throwing away old records in Postgres: as in the file, but that giving space back is the server's business."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from typing import Any

from penstock.exceptions import StoreUnavailable
from penstock.store.postgres import PostgresStore
from penstock.store.postgres_link import dialect
from penstock.store.pruning import TURN, Pruned, Pruning

_Path = str | os.PathLike[str]


def prune(
    url: str,
    home: _Path,
    *,
    older_than: float | None = None,
    keep: int | None = None,
    max_bytes: int | None = None,
    dry_run: bool = False,
    results: _Path | None = None,
) -> Pruned:
    """As `pruning.prune`, but that `max_bytes` is refused, and bytes are about those that can be used again."""
    if max_bytes is not None:
        raise StoreUnavailable("A database cannot be made smaller by that: name a time or a number of runs instead")
    with closing(PostgresStore(url)) as store:
        pruning = _Pruning(store, os.path.abspath(home), results, older_than)
        return pruning.forecast(keep, None) if dry_run else pruning.run(keep, None)


def remove_runs(url: str, home: _Path, root_ids: Iterable[str], *, results: _Path | None = None) -> Pruned:
    """As `pruning.remove_runs`."""
    with closing(PostgresStore(url)) as store:
        return _Pruning(store, os.path.abspath(home), results, None).remove(root_ids)


class _Dialect(Mapping[str, str]):
    """Statements by name, as `dialect` has them."""

    def __getitem__(self, name: str) -> str:
        return dialect(name)

    def __iter__(self) -> Iterator[str]:
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError


class _Pruning(Pruning):
    def __init__(self, store: PostgresStore, home: str, results: _Path | None, older_than: float | None) -> None:
        os.makedirs(home, mode=0o700, exist_ok=True)
        super().__init__(store, home, results, older_than)
        self._sql: Any = _Dialect()
        [(self._runs,)] = self._ask("number_of_runs")

    def _size(self) -> int:
        """What the store would take up without what is free in it now: about that share of it that is left."""
        used, _ = self._used()
        runs: int = self._runs
        return used * (runs - self._counts["runs"]) // max(1, runs)

    def _give_space_back(self) -> None:
        pass

    def _let_others_write(self) -> None:
        time.sleep(TURN)
