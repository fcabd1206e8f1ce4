"""Throwing away old records, and giving the space back.

Others may write meanwhile: everything happens in short transactions. Each asks again what is needed, because somebody
may have begun to go on from a run since the last one. A tree is removed from its leaves to its root, so that who dies
on the way leaves a tree that can be removed later.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from itertools import islice
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, NamedTuple

from penstock.results.files import is_inside, is_leftover, remove
from penstock.store.base import StoreMissing
from penstock.store.filelock import held
from penstock.store.files import LOCK, RESULTS, database_in, size_of
from penstock.store.opening import as_unavailable, connect_writing, statements
from penstock.store.sqlite import SQLiteStore

if TYPE_CHECKING:
    from sqlite3 import Connection

FRESH = 86400.0  # seconds for which a file that no record refers to may yet get one
PORTION = 1000  # rows removed in one transaction
PAGES = 1000  # of the database, given back in one transaction
TURN = 0.011  # seconds between transactions: whoever waits for the lock looks every 0.01 s
PATIENCE = 10.0  # seconds to wait for others who write
REBUILD_PATIENCE = 60_000  # milliseconds


class Pruned(NamedTuple):
    """What was removed; in a dry run, what would be."""

    root_runs: int
    runs: int  # root runs included
    results: int
    files: int
    bytes: int  # given back to the file system; in a dry run about what the removed things take up


def prune(
    home: str | os.PathLike[str],
    *,
    older_than: float | None = None,
    keep: int | None = None,
    max_bytes: int | None = None,
    dry_run: bool = False,
    results: str | os.PathLike[str] | None = None,
) -> Pruned:
    """Remove finished root runs from the store in `home`, with all that is theirs, and give disk space back.

    Root runs go that ended more than `older_than` seconds ago; that are not among the latest `keep`; and, oldest
    first, as many as it takes for the store to be no larger than `max_bytes`. None of these: only what nobody needs.
    A run that has not ended stays, with all runs that it goes on from or that went on from one of these.

    Values go with the last run that needs them; but those with a cache key that are younger than `older_than` go on
    answering to it. Expired values go, unless somebody may go on from their run right now. Files of values that no
    record refers to go after a day, if they are in `home`.

    `results` is the directory of large values, by default the one in `home`. Other processes may write meanwhile.
    (An exception is the first time in a store made by penstock 0.1.0: it is rebuilt, which they wait for.)
    """
    if any(bound is not None and bound < 0 for bound in (older_than, keep, max_bytes)):
        raise ValueError("older_than, keep and max_bytes cannot be negative")
    if not os.path.exists(database_in(home)):
        raise StoreMissing(f"there is no run store at {database_in(home)}")
    with closing(SQLiteStore(home)) as store:
        pruning = Pruning(store, os.path.abspath(home), results, older_than)
        return pruning.forecast(keep, max_bytes) if dry_run else pruning.run(keep, max_bytes)


def remove_runs(
    home: str | os.PathLike[str], root_ids: Iterable[str], *, results: str | os.PathLike[str] | None = None
) -> Pruned:
    """Remove these root runs from the store in `home`, with all that is theirs, and give disk space back.

    Values go as well, unless another run needs them. A run that has not ended stays, with all runs that it goes on from
    or that went on from one of these; and ids that are not those of root runs are passed over. Otherwise like `prune`.
    """
    if not os.path.exists(database_in(home)):
        raise StoreMissing(f"there is no run store at {database_in(home)}")
    with closing(SQLiteStore(home)) as store:
        return Pruning(store, os.path.abspath(home), results, None).remove(root_ids)


class Pruning:
    def __init__(
        self,
        store: Any,  # of either kind
        home: str,
        results: str | os.PathLike[str] | None,
        older_than: float | None,
    ) -> None:
        self._store = store
        self._home = home
        self._own = os.path.join(home, RESULTS)
        self._results = self._own if results is None else os.path.abspath(results)
        self._now = time.time()
        self._limit = None if older_than is None else self._now - older_than
        self._counts = {"root_runs": 0, "runs": 0, "results": 0, "files": 0, "bytes": 0}
        self._sql = statements("upkeep.sql")

    def run(self, keep: int | None, max_bytes: int | None) -> Pruned:
        before = self._size()
        self._remove_trees(self._surplus(keep), self._limit)
        self._sweep_results()
        if max_bytes is not None:
            self._shrink(max_bytes)
        self._sweep_files()
        return self._finished(before)

    def remove(self, root_ids: Iterable[str]) -> Pruned:
        before = self._size()
        finished = {root for root, _ in self._ask("candidates", keep=0)}
        self._remove_trees([root for root in dict.fromkeys(root_ids) if root in finished], None)
        return self._finished(before)

    def _finished(self, before: int) -> Pruned:
        self._give_space_back()
        self._counts["bytes"] += max(0, before - self._size())
        return Pruned(**self._counts)

    def _size(self) -> int:
        return size_of(database_in(self._home))

    def forecast(self, keep: int | None, max_bytes: int | None) -> Pruned:
        """What `run` would do. Changes nothing."""
        used, files = self._used()
        [(all_runs,)] = self._ask("number_of_runs")
        gone: dict[str, int] = {root: len(ids) for root, ids in self._trees(self._surplus(keep))}
        unneeded = self._foreseen(gone, self._limit)

        def weight() -> int:
            of_runs: int = sum(gone.values()) * used // max(1, all_runs)
            return of_runs + sum(size for path, size in unneeded.values() if path is not None)

        for root, ids in self._trees(self._surplus(0)) if max_bytes is not None else ():
            if used + files - weight() <= (max_bytes or 0):
                break
            gone.setdefault(root, len(ids))
            unneeded |= self._foreseen(gone, None)
        leftovers = list(self._leftovers())
        large = sum(path is not None for path, _ in unneeded.values())
        return Pruned(
            len(gone),
            sum(gone.values()),
            len(unneeded),
            large + len(leftovers),
            weight() + sum(size for _, _, size in leftovers),
        )

    # Runs.

    def _surplus(self, keep: int | None) -> list[str]:
        """Finished root runs that are too old, or too many; oldest first."""
        surplus = {} if keep is None else {root: None for root, _ in self._ask("candidates", keep=keep)}
        if self._limit is not None:
            aged = self._ask("candidates", keep=0)
            surplus |= {root: None for root, ended in aged if ended < self._limit}
        return list(surplus)

    def _trees(self, roots: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
        """Each root run that is not needed, with the ids of its tree: leaves first."""
        needed = self._needed()
        for root in roots:
            if root not in needed:
                yield root, [run_id for (run_id,) in self._ask("tree_of", root_id=root)][::-1]

    def _needed(self, connection: Connection | None = None) -> set[str]:
        found = self._ask("needed") if connection is None else connection.execute(self._sql["needed"])
        return {run_id for (run_id,) in found}

    def _remove_trees(self, roots: Iterable[str], serving_since: float | None) -> None:
        for portion in _portions(self._trees(roots)):
            self._remove_runs(portion, serving_since)

    def _remove_runs(self, portion: list[tuple[str, str]], serving_since: float | None) -> None:
        with self._store.transaction(PATIENCE, forget=True) as connection:
            needed = self._needed(connection)
            ids = [run_id for root, run_id in portion if root not in needed]
            facts: dict[str, Any] = {"ids": json.dumps(ids)}
            addresses = [address for (address,) in connection.execute(self._sql["addresses_of"], facts)]
            for name in ("remove_attempts", "remove_edges", "remove_logs", "remove_runs"):
                connection.execute(self._sql[name], facts)
            files = self._remove_results(connection, addresses, needed, serving_since)
        self._counts["runs"] += len(ids)
        self._counts["root_runs"] += sum(root == run_id for root, run_id in portion if root not in needed)
        self._unlink(files)
        self._let_others_write()

    def _shrink(self, max_bytes: int) -> None:
        for portion in _portions(self._trees(self._surplus(0)), PORTION // 10):
            if sum(self._used()) <= max_bytes:
                return
            self._remove_runs(portion, None)

    def _used(self) -> tuple[int, int]:
        [(database, files)] = self._ask("used")
        return database, files

    # Results.

    def _sweep_results(self) -> None:
        for addresses in self._pages_of_addresses():
            facts = self._facts(addresses, self._needed(), self._limit)
            if self._store.ask(self._sql["unneeded_results"], facts):
                with self._store.transaction(PATIENCE) as connection:
                    files = self._remove_results(connection, addresses, self._needed(connection), self._limit)
                self._unlink(files)

    def _remove_results(
        self, connection: Connection, addresses: list[str], needed: set[str], serving_since: float | None
    ) -> list[tuple[str, int]]:
        """Remove those that nobody needs; return the names and sizes of their files, to be deleted after the commit."""
        facts = self._facts(addresses, needed, serving_since)
        unneeded = list(connection.execute(self._sql["unneeded_results"], facts))
        doomed = json.dumps([address for address, _, _ in unneeded])
        connection.execute(self._sql["remove_results"], {"addresses": doomed})
        self._counts["results"] += len(unneeded)
        return [(path, size) for _, path, size in unneeded if path is not None]

    def _foreseen(self, gone: Iterable[str], serving_since: float | None) -> dict[str, tuple[str | None, int]]:
        needed = self._needed()
        found: dict[str, tuple[str | None, int]] = {}
        for addresses in self._pages_of_addresses():
            facts = self._facts(addresses, needed, serving_since, gone)
            found |= {row[0]: row[1:] for row in self._store.ask(self._sql["unneeded_results"], facts)}
        return found

    def _pages_of_addresses(self) -> Iterator[list[str]]:
        after = ""
        while page := [address for (address,) in self._ask("addresses", after=after, limit=PORTION)]:
            yield page
            after = page[-1]

    def _facts(
        self, addresses: Iterable[str], needed: set[str], serving_since: float | None, gone: Iterable[str] = ()
    ) -> dict[str, object]:
        lists = {"addresses": list(addresses), "needed": list(needed), "gone": list(gone)}
        return {
            **{name: json.dumps(values) for name, values in lists.items()},
            "now": self._now,
            "serving_since": serving_since,
        }

    # Files.

    def _sweep_files(self) -> None:
        for directory, name, size in self._leftovers():
            self._unlink([(name, size)], directory)

    def _leftovers(self) -> Iterator[tuple[str, str, int]]:
        """Directory, name and size of files that no record refers to, or that were never finished."""
        known = {path for path, _ in self._ask("paths")}
        for name, size, changed in files_in(self._own):
            stray = name not in known and changed < self._now - FRESH
            if stray or is_leftover(self._own, name):
                yield self._own, name, size
        for name in os.listdir(self._home):
            path = os.path.join(self._home, name)
            if is_leftover(self._home, name) or (name.endswith("-backup.part") and _age(path) > FRESH):
                yield self._home, name, size_of(path)

    def _unlink(self, files: list[tuple[str, int]], directory: str | None = None) -> None:
        for name, size in files:
            with suppress(OSError):
                if is_inside(name):
                    remove(self._results if directory is None else directory, name)
                    self._counts["files"] += 1
                    self._counts["bytes"] += size

    # Space.

    def _give_space_back(self) -> None:
        [(kind, free)] = self._ask("free_pages")
        if kind == 0:
            self._rebuild()
            return
        for start in range(0, free, PAGES):
            self._give_pages_back(min(PAGES, free - start))

    def _give_pages_back(self, number: int) -> None:
        with self._store.transaction(PATIENCE) as connection:
            # One by one: of a statement without columns the sqlite3 module takes the first step only.
            for _ in range(number):
                connection.execute("PRAGMA incremental_vacuum(1)")
        self._let_others_write()

    def _let_others_write(self) -> None:
        self._store.checkpoint()
        time.sleep(TURN)

    def _rebuild(self) -> None:
        """Made by a version that did not provide for giving space back: copy everything, once."""
        path = database_in(self._home)
        lock = os.path.join(self._home, LOCK)
        # `connect_writing` says what is to be provided for; the copy is made accordingly.
        with (
            as_unavailable(path),
            held(lock, PATIENCE),
            closing(connect_writing(path, REBUILD_PATIENCE)) as connection,
        ):
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()

    def _ask(self, name: str, **parameters: object) -> list[tuple[Any, ...]]:
        rows: list[tuple[Any, ...]] = self._store.ask(self._sql[name], parameters)
        return rows


def files_in(directory: str) -> Iterator[tuple[str, int, float]]:
    """Name below `directory`, size, and time of the last change of each file in it."""
    for folder, _, names in os.walk(directory):
        for name in names:
            path = os.path.join(folder, name)
            with suppress(OSError):
                found = os.lstat(path)
                yield PurePath(os.path.relpath(path, directory)).as_posix(), found.st_size, found.st_mtime


def _portions(trees: Iterable[tuple[str, list[str]]], size: int = PORTION) -> Iterator[list[tuple[str, str]]]:
    """Runs in portions, each run with its root."""
    runs = ((root, run_id) for root, ids in trees for run_id in ids)
    while portion := list(islice(runs, size)):
        yield portion


def _age(path: str) -> float:
    try:
        return time.time() - os.stat(path).st_mtime
    except OSError:
        return 0.0
