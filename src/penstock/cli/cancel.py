"""`penstock cancel`."""

from __future__ import annotations

import time
from pathlib import Path

import click

from penstock import flows
from penstock.cli.common import Opened, Unreadable, json_option, store_option, title
from penstock.cli.completing import run_argument
from penstock.cli.running import use_store
from penstock.cli.selecting import RUN_HELP, the_run
from penstock.cli.text import as_json, fields_of
from penstock.store.base import Reader, RunRow

_TURN = 0.05  # seconds between looks at the record


@click.command(epilog=RUN_HELP)
@run_argument
@click.option(
    "--wait",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for its end; 0: not at all.",
)
@json_option
@store_option
def cancel(run: str, wait: float, json_wanted: bool, store: Path | None) -> None:
    """Cancel a run that is going on, in whatever process of this machine, and wait for its end.

    If the runs are in a Postgres database, the process may be on any machine that uses it.

    It need not have been started by this command: `python script.py` will do. What the run started ends first; a body
    that does not stop in time (PENSTOCK_CANCEL_GRACE_SECONDS) is written off, if it is on a thread, or killed with its
    process. The run is then CANCELLED. One that has ended already stays as it is.

    The exit status is 0 if the run has ended, and 5 if it has not, or if its process does not answer.

    For example, the run that was started last; and one by its name, without waiting:

    \b
        penstock cancel @last
        penstock cancel etl/brave-otter --wait 0
    """
    with Opened(store) as reader:
        row = the_run(reader, run)
        was_over = row.ended is not None
        if not was_over:
            use_store(store)
            _ask(row)
            row = _awaited(reader, row, wait)
    if json_wanted:
        click.echo(as_json({"run": fields_of(row)}))
    click.echo(_said(row, was_over), err=True)
    if row.ended is None and wait:
        raise SystemExit(Unreadable.exit_code)


def _ask(row: RunRow) -> None:
    try:
        flows.cancel_run(row.id)
    except LookupError as error:
        raise _Unanswered(str(error)) from error
    except OSError as error:
        raise _Unanswered(f"the request cannot be left in the store: {error}") from error


class _Unanswered(click.ClickException):
    """The run's process does not answer."""

    exit_code = Unreadable.exit_code


def _awaited(reader: Reader, row: RunRow, seconds: float) -> RunRow:
    """The run when it has ended, or when the time is over."""
    until = time.monotonic() + seconds
    while True:
        row = reader.get(row.id) or row
        if row.ended is not None or time.monotonic() >= until:
            return row
        time.sleep(_TURN)


def _said(row: RunRow, was_over: bool) -> str:
    if was_over:
        return f"{title(row)} had ended already: {row.state_name}"
    if row.ended is None:
        return f"{title(row)} was asked to stop, and has not ended yet. Type: penstock watch {row.id}"
    return f"{title(row)}: {row.state_name}"
