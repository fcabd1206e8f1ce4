"""`penstock version`."""

from __future__ import annotations

import platform
import sqlite3
from importlib.metadata import version as installed

import click

from penstock.cli.common import json_option
from penstock.cli.text import as_json


@click.command()
@json_option
def version(json_wanted: bool) -> None:
    """Print the versions of penstock, and of Python and SQLite, on which it depends.

    Example: penstock version --json
    """
    found = {
        "penstock": installed("penstock"),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "platform": platform.platform(),
    }
    if json_wanted:
        click.echo(as_json(found))
    else:
        click.echo("\n".join(f"{name:<9} {value}" for name, value in found.items()))
