"""`penstock rm`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import click

from penstock import recovery
from penstock.cli.common import store_option, title, url_beside
from penstock.cli.completing import complete_runs
from penstock.cli.outcome import outcome
from penstock.cli.selecting import RUN_HELP, the_run
from penstock.cli.store import may, pruning_of, results_directory, the_store
from penstock.cli.text import plural, size
from penstock.store.base import Reader, RunRow


@click.command(epilog=RUN_HELP)
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, shell_complete=complete_runs)
@click.option("--yes", is_flag=True, help="Do not ask.")
@store_option
def rm(runs: tuple[str, ...], yes: bool, store: Path | None) -> None:
    """Remove runs from the record: with all that is below them, their log, and results that no other run needs.

    Only whole runs are removed, and only when they have ended, and no other run is going on from them. It says what
    would go, and asks.

    Example: penstock rm brave-otter 01a2
    """
    with the_store(store) as home, closing(recovery.open_reader(home, url_beside(store))) as reader:
        rows = {row.id: row for row in (the_run(reader, text) for text in runs)}
        for row in rows.values():
            _refuse_what_must_stay(reader, row)
        click.echo(_announcement(reader, list(rows.values())), err=True)
        may("Remove this?", yes, " ".join(["penstock rm", *runs]))
        _, remove_runs = pruning_of(store)
        removed = remove_runs(home, rows, results=results_directory())
    inner = removed.runs - removed.root_runs
    click.echo(
        f"Removed {plural(removed.root_runs, 'run')}, {plural(inner, 'run')} below,"
        f" {plural(removed.results, 'kept result')}: {size(removed.bytes)}"
    )


def _refuse_what_must_stay(reader: Reader, row: RunRow) -> None:
    if row.parent_id is not None:
        raise click.UsageError(f"{title(row)} is inside another run. Type: penstock rm {row.root_id}")
    if row.ended is None:
        raise click.UsageError(f"{title(row)} has not ended. To end it, type: penstock cancel {row.id}")
    for other in reader.lives(row.id):
        if other.ended is None:
            raise click.UsageError(f"{title(other)} ({other.id}) goes on from {title(row)}, and has not ended")


def _announcement(reader: Reader, rows: Sequence[RunRow]) -> str:
    lines = [f"  {row.id}  {outcome(row, reader.counts(row.id))}" for row in rows]
    return "\n".join(["To be removed, with log and kept results:", *lines])
