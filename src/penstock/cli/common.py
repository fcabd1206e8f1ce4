"""What the commands share: options, the store as a context, exit statuses."""

from __future__ import annotations

from pathlib import Path

import click

from penstock import recovery, settings
from penstock.cli.text import printable
from penstock.exceptions import ConfigurationError, StoreUnavailable
from penstock.store.base import Reader, RunRow, StoreMissing

STATUSES = ("PENDING", "RUNNING", "WAITING", "COMPLETED", "FAILED", "CRASHED", "CANCELLED")
EXIT_STATUSES = {"COMPLETED": 0, "FAILED": 1, "CANCELLED": 4, "CRASHED": 5}
"""A command that runs a flow says by its exit status how the flow ended."""
INTERRUPTED = 130
"""The exit status after Ctrl-C."""

store_option = click.option(
    "--store",
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory of the run store, instead of PENSTOCK_HOME.",
)
json_option = click.option("--json", "json_wanted", is_flag=True, help="Print one JSON document.")


class NotFound(click.ClickException):
    """There is no such run, flow, file or store."""

    exit_code = 3


class Unreadable(click.ClickException):
    """There is a store, but it cannot be read."""

    exit_code = 5


def url_beside(directory: Path | None) -> str | None:
    """Where the runs are, if that is not a directory: whoever names one means the store in it."""
    return settings.store_url() if directory is None else None


def directory_of(directory: Path | None) -> Path:
    """Where the store is, and what belongs to it: the directory that was named, else that of the setting."""
    try:
        home = directory or settings.home()
    except ConfigurationError as error:
        raise click.UsageError(str(error)) from error
    if home.is_file():
        raise click.UsageError(
            f"{home} is a file, not a directory: let PENSTOCK_HOME name the directory of the run store"
        )
    return home


class Opened:
    """The store as a context: closed at the end, its troubles turned into exit statuses."""

    def __init__(self, directory: Path | None) -> None:
        self.home = directory_of(directory)
        try:
            self._reader = recovery.open_reader(self.home, url_beside(directory))
        except ConfigurationError as error:
            raise click.UsageError(str(error)) from error

    def __enter__(self) -> Reader:
        return self._reader

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._reader.close()
        if isinstance(error, StoreMissing):
            raise NotFound(str(error)) from error
        if isinstance(error, StoreUnavailable):
            raise Unreadable(str(error)) from error


def title(row: RunRow) -> str:
    """`etl/brave-otter` for a flow run; a task run's name says which task it is of."""
    return printable(f"{row.name}/{row.run_name}" if row.kind == "flow" else row.run_name)
