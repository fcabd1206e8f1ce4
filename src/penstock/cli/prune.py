"""`penstock prune`."""

from __future__ import annotations

import re
import time
from pathlib import Path

import click

from penstock import settings
from penstock.cli.common import json_option, store_option
from penstock.cli.store import may, pruning_of, results_directory, the_store
from penstock.cli.text import as_json, plural, size
from penstock.cli.times import TIME_HELP, Moment
from penstock.store.pruning import Pruned

_SIZE = re.compile(r"(?P<number>\d+(\.\d+)?) ?(?P<unit>|[kMGT])i?B?")
_POWERS = {"": 0, "k": 1, "M": 2, "G": 3, "T": 4}


class Size(click.ParamType[int]):
    """A number of bytes."""

    name = "SIZE"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        found = _SIZE.fullmatch(str(value).strip())
        if found is None:
            self.fail(f"{str(value)!r} is no size: it is a number with kB, MB, GB or TB, as in 500MB", param, ctx)
        return int(float(found["number"]) * 1000 ** _POWERS[found["unit"]])


@click.command(epilog=TIME_HELP)
@click.option("--keep", type=Moment(), help="Remove runs that ended before TIME, as in --keep 30d.")
@click.option("--latest", type=click.IntRange(min=0), metavar="N", help="Remove all runs but the N latest.")
@click.option("--max-size", type=Size(), help="Remove the oldest runs until the store is no larger: 500MB, 2GB.")
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@store_option
def prune(
    keep: float | None,
    latest: int | None,
    max_size: int | None,
    dry_run: bool,
    yes: bool,
    json_wanted: bool,
    store: Path | None,
) -> None:
    """Remove finished runs, with all that is below them, and results that no run needs any more.

    Each of --keep, --latest and --max-size is a bound of its own; the setting store_keep_days stands for --keep where
    that is not given. Without any, no run is removed: only results that have expired or belong to nobody. Runs that
    have not ended stay, as do those that they go on from. Results that may still answer to a cache key stay for as long
    as --keep says.

    It says what would go, and asks. Other processes may go on recording meanwhile.

    Example: penstock prune --keep 30d --dry-run
    """
    with the_store(store) as home:
        prune_store, _ = pruning_of(store)
        older_than = _seconds_kept() if keep is None else max(0.0, time.time() - keep)
        bounds = {"older_than": older_than, "keep": latest, "max_bytes": max_size}
        found = prune_store(home, **bounds, results=results_directory(), dry_run=True)
        if any(found) and not dry_run:
            click.echo(f"To be removed: {_said(found)}", err=True)
            may("Remove this?", yes, _command())
            found = prune_store(home, **bounds, results=results_directory())
    if json_wanted:
        click.echo(as_json({"dry_run": dry_run, **found._asdict()}))
    elif any(found):
        click.echo(f"{'Would remove' if dry_run else 'Removed'} {_said(found)}")
    else:
        click.echo("There is nothing to remove")


def _seconds_kept() -> float | None:
    """What the setting says about `--keep`."""
    days = settings.current().store_keep_days
    return None if days is None else days * 86400


def _command() -> str:
    """What was typed, near enough."""
    context = click.get_current_context()
    options = [
        f"--{name.replace('_', '-')} {context.params[name] if name == 'latest' else '...'}"
        for name in ("keep", "latest", "max_size")
        if context.params[name] is not None
    ]
    return " ".join(["penstock prune", *options])


def _said(found: Pruned) -> str:
    inner = found.runs - found.root_runs
    return (
        f"{plural(found.root_runs, 'run')}, {plural(inner, 'run')} below, {plural(found.results, 'kept result')},"
        f" {plural(found.files, 'file')}: {size(found.bytes)}"
    )
