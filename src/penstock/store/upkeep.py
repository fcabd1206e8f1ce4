"""Looking after a store: throwing old records away, copying it, checking it."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple

from penstock.exceptions import StoreUnavailable
from penstock.results.files import is_inside, read, write
from penstock.store.base import StoreMissing
from penstock.store.files import DATABASE, RESULTS, database_in, sync_names
from penstock.store.lastcommit import missing_from
from penstock.store.opening import as_unavailable, connect, connect_reading, copy_database, statements
from penstock.store.pruning import FRESH, Pruned, files_in, prune, remove_runs

if TYPE_CHECKING:
    from sqlite3 import Connection

__all__ = ["Problem", "Pruned", "backup", "check", "prune", "remove_runs"]

_KEY = "results.key"


class Problem(NamedTuple):
    """Something about a store that is not as it should be."""

    what: str  # "database", "records", "results", "files", "modes"
    text: str  # for people


def backup(
    home: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    results: str | os.PathLike[str] | None = None,
) -> None:
    """Copy the store in `home`, as it is at one moment, into the new or empty directory `target`: another home.

    Others may write meanwhile. Copied are records, large values (from the directory `results`, by default the one
    in `home`) and the key without which values cannot be read: keep the copy as safe as the store.
    Everything is on the disk when this returns. Raises `FileExistsError` if there is something in `target`.
    """
    source, target = os.path.abspath(home), os.path.abspath(target)
    with as_unavailable(source):
        connection, _ = connect_reading(database_in(source))
    with closing(connection):
        os.makedirs(target, mode=0o700, exist_ok=True)
        if os.listdir(target):
            raise FileExistsError(f"{target} is not empty")
        copy = os.path.join(target, DATABASE)
        with as_unavailable(copy):
            copy_database(connection, copy)
    _copy_files(source if results is None else os.path.abspath(results), source, target, results is None)
    sync_names(target)


def _copy_files(results: str, source: str, target: str, inside: bool) -> None:
    directory = os.path.join(results, RESULTS) if inside else results
    # From the copy, so that exactly the files are there that its records refer to.
    with as_unavailable(target), closing(connect(os.path.join(target, DATABASE), "ro&immutable=1")) as connection:
        names = [name for name, _ in connection.execute(statements("upkeep.sql")["paths"])]
    for name in filter(is_inside, names):
        try:
            write(os.path.join(target, RESULTS), name, read(directory, name), durable=True)
        except FileNotFoundError:
            continue  # pruned since, or lost before: `check` tells
    if os.path.exists(os.path.join(source, _KEY)):
        write(target, _KEY, read(source, _KEY), durable=True)


def check(
    home: str | os.PathLike[str],
    *,
    thorough: bool = False,
    results: str | os.PathLike[str] | None = None,
) -> list[Problem]:
    """Return what is wrong with the store in `home`; nothing is changed, and no value is looked at.

    `thorough` also compares indexes with tables. Holds a snapshot for as long as it takes, during which the log of a
    store that is being written grows. Raises `StoreMissing` if there is none.
    """
    source = os.path.abspath(home)
    path = database_in(source)
    directory = os.path.join(source, RESULTS) if results is None else os.path.abspath(results)
    if not os.path.exists(path):
        raise StoreMissing(f"there is no run store at {path}")
    problems = list(_modes(source, directory))
    try:
        with as_unavailable(path), closing(connect_reading(path)[0]) as connection:
            damage = list(_database(connection, thorough))
            # What a damaged database says of its records means nothing.
            found = [] if damage else [*_records(connection, source), *_results(connection, directory, results is None)]
    except StoreUnavailable as error:  # no database, or of a newer penstock
        return [*problems, Problem("database", str(error))]
    return problems + damage + found


def _modes(home: str, results: str) -> Iterator[Problem]:
    looked_at = [home, *(entry.path for entry in os.scandir(home) if entry.name.startswith(("penstock.", _KEY)))]
    if os.path.isdir(results):
        looked_at += [results, *(os.path.join(results, name) for name, _, _ in files_in(results))]
    for path in looked_at:
        mode = stat.S_IMODE(os.lstat(path).st_mode)
        if mode & 0o077:
            wanted = "700" if os.path.isdir(path) else "600"
            yield Problem("modes", f"{path} is open to other users (mode {mode:o}). Type: chmod {wanted} {path}")


def _database(connection: Connection, thorough: bool) -> Iterator[Problem]:
    for (text,) in connection.execute("PRAGMA integrity_check" if thorough else "PRAGMA quick_check"):
        if text != "ok":
            yield Problem("database", f"SQLite says: {text}")


def _records(connection: Connection, home: str) -> Iterator[Problem]:
    if missing := missing_from(connection, home):
        yield Problem("records", f"records are missing: {missing}")
    belongings = {
        "lone_runs": "runs whose parent is not there",
        "lone_attempts": "attempts of runs that are not there",
        "lone_edges": "dependencies of runs that are not there",
        "lone_logs": "log lines of runs that are not there",
    }
    for name, text in belongings.items():
        [(number,)] = connection.execute(statements("upkeep.sql")[name])
        if number:
            yield Problem("records", f"{number} {text}")


def _results(connection: Connection, directory: str, own: bool) -> Iterator[Problem]:
    queries = statements("upkeep.sql")
    for address, size, found in connection.execute(queries["wrong_sizes"]):
        yield Problem("results", f"the value at {address} has {found} bytes instead of {size}")
    there = {name: (size, changed) for name, size, changed in files_in(directory)}
    wanted = dict(connection.execute(queries["paths"]).fetchall())
    for name, size in wanted.items():
        if name not in there:
            yield Problem("results", f"{directory}/{name} is not there")
        elif there[name][0] != size:
            yield Problem("results", f"{directory}/{name} has {there[name][0]} bytes instead of {size}")
    if own:  # other stores may keep values in a directory of the user's
        yield from _strays(directory, there, wanted)


def _strays(directory: str, there: dict[str, tuple[int, float]], wanted: dict[str, int]) -> Iterator[Problem]:
    for name in sorted(there.keys() - wanted.keys()):
        if time.time() - there[name][1] > FRESH:
            yield Problem("files", f"{directory}/{name} belongs to no record. It goes when the store is pruned")
