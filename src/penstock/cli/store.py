"""`penstock backup` and `penstock check`; and what the commands that look after a store share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path

import click

from penstock import settings
from penstock.cli.common import NotFound, Unreadable, directory_of, json_option, store_option, url_beside
from penstock.cli.text import as_json, printable, table
from penstock.exceptions import ConfigurationError, StoreUnavailable
from penstock.store import upkeep
from penstock.store.base import StoreMissing
from penstock.store.upkeep import Pruned
from penstock.storing import name_of


@contextmanager
def the_store(directory: Path | None, instead: str | None = None) -> Iterator[Path]:
    """The directory of the store. What goes wrong with it in the block becomes an exit status.

    A usage error if `instead` is given and the store is a database of Postgres: it says what to do then.
    """
    try:
        url = url_beside(directory)
        if url is not None and instead is not None:
            raise click.UsageError(
                f"this is for stores in a directory (--store), and the runs are in {name_of('', url)}: {instead}"
            )
        yield directory_of(directory)
    except ConfigurationError as error:
        raise click.UsageError(str(error)) from error
    except StoreMissing as error:
        raise NotFound(str(error)) from error
    except StoreUnavailable as error:
        raise Unreadable(str(error)) from error


def pruning_of(directory: Path | None) -> tuple[Callable[..., Pruned], Callable[..., Pruned]]:
    """`prune` and `remove_runs` for the store that is used here."""
    url = url_beside(directory)
    if url is None:
        return upkeep.prune, upkeep.remove_runs
    other = import_module("penstock.store.postgres_pruning")  # most have no need of it, nor what it needs
    return partial(other.prune, url), partial(other.remove_runs, url)


def results_directory() -> Path | None:
    """Where large results are, if not in the store."""
    return settings.current().results_local_storage_path


def may(question: str, yes: bool, command: str) -> None:
    """Go on only if somebody agrees, or has agreed beforehand."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"there is no terminal to ask on. To go on without a question, type: {command} --yes")
    if not click.confirm(question, err=True):
        click.echo("Nothing was removed.", err=True)
        raise SystemExit(1)


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@store_option
def backup(directory: Path, store: Path | None) -> None:
    """Copy the store, as it is at one moment, into a directory that is new or empty.

    Flows may run and record meanwhile. Copied are the records, the kept results and the key that these are sealed with,
    so keep the copy as safe as the store. To use it, name it by --store or PENSTOCK_HOME.

    Example: penstock backup /mnt/backups/penstock-monday
    """
    with the_store(store, "to copy it, type pg_dump --schema=penstock") as home:
        try:
            upkeep.backup(home, directory, results=results_directory())
        except FileExistsError as error:
            raise click.UsageError(f"{printable(error)}: name a new directory") from error
        except OSError as error:
            raise click.ClickException(f"{directory} cannot be written: {error.strerror or error}") from error
        key = settings.current().results_key_path
    click.echo(f"Copied {printable(home)} to {printable(directory)}", err=True)
    if key is not None:
        click.echo(f"The key of the results is not in the copy. It is {printable(key)}", err=True)


@click.command()
@click.option("--thorough", is_flag=True, help="Compare indexes with tables, too; takes several times as long.")
@json_option
@store_option
def check(thorough: bool, json_wanted: bool, store: Path | None) -> None:
    """Look whether the store is whole: the database, the records, the files of results, and who may read them.

    Nothing is changed, and no result is opened. Exit status 0 if nothing is wrong, else 1. More about the surroundings
    of the store is in penstock doctor.

    Example: penstock check --thorough
    """
    with the_store(store, "to look whether it is whole, type pg_amcheck --schema=penstock") as home:
        problems = upkeep.check(home, thorough=thorough, results=results_directory())
    if json_wanted:
        click.echo(as_json({"store": str(home), "problems": [problem._asdict() for problem in problems]}))
    elif problems:
        click.echo(table(("ABOUT", "PROBLEM"), [(problem.what, printable(problem.text)) for problem in problems]))
    else:
        click.echo(f"No problem was found in {printable(home)}", err=True)
    raise SystemExit(1 if problems else 0)
