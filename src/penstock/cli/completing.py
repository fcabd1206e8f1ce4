"""What a shell offers where a run is to be typed."""

from __future__ import annotations

from contextlib import closing

import click
from click.shell_completion import CompletionItem

from penstock import settings
from penstock.cli.common import title, url_beside
from penstock.cli.text import moment, printable
from penstock.exceptions import PenstockError
from penstock.store.base import RunRow
from penstock.storing import open_reader

OFFERED = 50
SHORTCUTS = ("@last", "@last-failed")


def complete_runs(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """For `shell_complete`: the names of the latest runs, or the ids if an id has been begun. Never fails."""
    shortcuts = [CompletionItem(text) for text in SHORTCUTS if text.startswith(incomplete)]
    return shortcuts + [item for row in _latest(ctx, incomplete) for item in _items(row, incomplete)]


def _latest(ctx: click.Context, incomplete: str) -> list[RunRow]:
    if incomplete.startswith("@"):
        return []
    try:
        # Not by way of `recovery`: somebody who presses a key does not ask who has died.
        directory = ctx.params.get("store")
        with closing(open_reader(directory or settings.home(), url_beside(directory))) as reader:
            return reader.runs(limit=OFFERED)
    except PenstockError:
        return []


def _items(row: RunRow, incomplete: str) -> list[CompletionItem]:
    about = f"{printable(row.state_name)}, {moment(row.created)}"
    names = [title(row), printable(row.run_name)]
    if incomplete:
        names.append(row.id)
    return [CompletionItem(name, help=about) for name in dict.fromkeys(names) if name.startswith(incomplete)][:1]


run_argument = click.argument("run", shell_complete=complete_runs)
