"""The command `penstock`: looks at what was recorded. It reads the store, and changes nothing, but for one thing:
runs whose process has died are recorded as crashed (`recovery`).

Exit status: 0 done; 2 the command line was wrong; 3 no such run or store; 5 the store cannot be read. With
`--json`, standard output is one JSON document; everything else goes to standard error.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path

import click

from penstock import recovery, settings
from penstock.cli import listing, showing
from penstock.cli.text import as_json
from penstock.exceptions import ConfigurationError, ResumeError, StoreUnavailable
from penstock.store.base import Reader, RunRow, StoreMissing

EVERYTHING = sys.maxsize
STATUSES = ("PENDING", "RUNNING", "WAITING", "COMPLETED", "FAILED", "CRASHED", "CANCELLED")

_store = click.option(
    "--store",
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory of the run store, instead of PENSTOCK_HOME.",
)
_json = click.option("--json", "json_wanted", is_flag=True, help="Print one JSON document.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="penstock", message="%(prog)s %(version)s")
def main() -> None:
    """Look at recorded flow runs and task runs, and go on with those that did not complete."""
    # A name that the terminal's encoding lacks must not end the command.
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


@main.command()
@click.option("-n", "--limit", type=click.IntRange(min=1), default=20, show_default=True, help="How many.")
@click.option("--name", help="Only runs of this flow or task.")
@click.option("--status", type=click.Choice(STATUSES, case_sensitive=False), help="Only runs in this status.")
@_json
@_store
def ls(limit: int, name: str | None, status: str | None, json_wanted: bool, store: Path | None) -> None:
    """List the latest runs: flow runs, and task runs called outside any flow."""
    with _Opened(store) as reader:
        try:
            # One more than shown: the ids printed must tell the last one from its predecessor, too.
            rows = reader.runs(name=name, status=status, limit=limit + 1)
        except StoreMissing as nothing:
            click.echo(f"{nothing}: nothing was recorded yet.", err=True)
            rows = []
        if json_wanted:
            click.echo(as_json(listing.as_document(reader, rows[:limit])))
        elif rows:
            click.echo(listing.as_table(reader, rows, limit))


@main.command()
@click.argument("run")
@click.option(
    "-n",
    "--limit",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="How many task runs, and how many log lines. JSON holds all.",
)
@_json
@_store
def show(run: str, limit: int, json_wanted: bool, store: Path | None) -> None:
    """Show one run and everything below it.

    RUN is an id or the beginning of one, a run name, or @last.
    """
    with _Opened(store) as reader:
        row = _the_run(reader, run)
        if json_wanted:
            click.echo(as_json(showing.as_document(reader, row, EVERYTHING)))
        else:
            click.echo(showing.as_text(reader, row, limit))


@main.command()
@click.argument("run")
@click.option("--rerun", multiple=True, metavar="TASK", help="Execute tasks of this name in any case.")
@click.option("--from-task", multiple=True, metavar="TASK", help="Likewise, and all that depend on their futures.")
@_store
def resume(run: str, rerun: tuple[str, ...], from_task: tuple[str, ...], store: Path | None) -> None:
    """Go on with a flow run that did not complete: a new run, which repeats nothing whose result was kept.

    RUN is an id or the beginning of one, a run name, or @last. The flow runs in this process. Exit status: 0 it has
    completed, 1 failed, 2 it cannot be resumed, 4 cancelled, 5 crashed.
    """
    with _Opened(store) as reader:
        row = _the_run(reader, run)
    if store is not None:
        os.environ["PENSTOCK_HOME"] = str(store)
    try:
        # Loads the whole library, which the other commands do without.
        raise SystemExit(import_module("penstock.cli.resuming").carry_out(row, rerun, from_task))
    except ResumeError as error:
        raise click.UsageError(str(error)) from error


class NotFound(click.ClickException):
    """There is no such run, or no store."""

    exit_code = 3


class Unreadable(click.ClickException):
    """There is a store, but it cannot be read."""

    exit_code = 5


class _Opened:
    """The store as a context: closed at the end, its troubles turned into exit statuses."""

    def __init__(self, directory: Path | None) -> None:
        try:
            self._reader = recovery.open_reader(directory or settings.home())
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


def _the_run(reader: Reader, text: str) -> RunRow:
    found = reader.find(text, limit=10)
    if not found:
        raise NotFound(f"no run has the id or name {text!r}. Type: penstock ls")
    if len(found) > 1:
        candidates = "\n".join(f"  {row.id}  {listing.title(row)}" for row in found)
        raise click.UsageError(f"{text!r} is the beginning of several ids:\n{candidates}")
    return found[0]
