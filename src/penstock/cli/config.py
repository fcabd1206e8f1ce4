"""`penstock config`: the settings, where they come from, and how to write them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import click

from penstock import settings
from penstock.cli.common import json_option
from penstock.cli.text import as_json, printable, table
from penstock.exceptions import ConfigurationError
from penstock.settings import files, reference
from penstock.settings.table import suggestion


@click.group()
def config() -> None:
    """Show the settings: their values, the files that they come from, the schema of those files.

    For example, all values:

    \b
        penstock config show
    """


@config.command()
@click.argument("names", metavar="[SETTING]...", nargs=-1)
@json_option
def show(names: tuple[str, ...], json_wanted: bool) -> None:
    """Show settings, each with its value and where that comes from: a variable, a file with the line, the default.

    SETTING is a name as in the first column; without any, all are shown. Home is shown as it is in force, wherever it
    comes from. Arguments in code, which go before all of these, are not known here. For example, one of them:

    \b
        penstock config show tasks_default_retries
    """
    try:
        found = settings.stated()
    except ConfigurationError as error:
        raise click.UsageError(str(error)) from error
    for name in set(names) - {one.name for one in found}:
        raise click.UsageError(f"there is no setting {name!r}.{suggestion(name, str)}")
    wanted = [one for one in found if not names or one.name in names]
    if json_wanted:
        click.echo(as_json({"settings": [{**one._asdict(), "value": _plain(one.value)} for one in wanted]}))
    else:
        rows = [(one.name, reference.shown(one.value), one.where or one.source) for one in wanted]
        _echo_table(("SETTING", "VALUE", "ORIGIN"), rows)


@config.command()
@json_option
def path(json_wanted: bool) -> None:
    """Show which files are looked for here, those that win first, and what was found.

    A project's files are looked for in the working directory and above it, up to the root of the repository (the
    directory that holds .git), and the first of each name is used. For example:

    \b
        penstock config path
    """
    found = [(one.path, one.error or one.fate) for one in files.survey().files]
    if json_wanted:
        click.echo(as_json({"files": [{"path": path, "found": fate} for path, fate in found]}))
    else:
        _echo_table(("FILE", "FOUND"), found)


@config.command()
def schema() -> None:
    """Print the JSON schema of penstock.toml, which is also that of the table [tool.penstock] in pyproject.toml.

    Editors that know the schema complete and check what is written. For example, to keep it for one:

    \b
        penstock config schema > penstock.schema.json
    """
    click.echo(json.dumps(reference.schema(), indent=2))


def _plain(value: Any) -> Any:
    return value if isinstance(value, bool | int | float | tuple | None) else str(value)


def _echo_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    click.echo(table(header, [[printable(cell) for cell in row] for row in rows]))
