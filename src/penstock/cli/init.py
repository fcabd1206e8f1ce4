"""`penstock init`."""

from __future__ import annotations

import json
import os
import re
from itertools import groupby
from pathlib import Path

import click

from penstock.cli.text import printable
from penstock.settings.files import OWN, SHARED
from penstock.settings.reference import Entry, entries
from penstock.settings.table import KNOWN

HOME = ".penstock"
_IGNORED = "# Runs and results of penstock. Not for version control.\n*\n"
_TOP = """\
# Settings of penstock, for this directory and those below it. All are commented out: what they say is the default.
# An environment variable wins over a line here. What is in force, and why: penstock config show
"""


@click.command()
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path), default=".")
def init(directory: Path) -> None:
    """Make a directory the home of a project: its runs are recorded there, in .penstock, rather than in your own home.

    Also writes a penstock.toml in which all settings are commented out, unless there are settings already. What is
    there stays as it is, so it does no harm to do this twice.

    Example: penstock init
    """
    try:
        lines = [_make_home(directory / HOME), _make_settings(directory)]
    except OSError as error:
        raise click.ClickException(f"{error.filename or directory}: {error.strerror or error}") from error
    if variable := os.environ.get("PENSTOCK_HOME"):
        lines.append(f"PENSTOCK_HOME is set, and wins: runs are recorded in {variable}")
    click.echo("\n".join(map(printable, lines)))


def _make_home(home: Path) -> str:
    existed = home.is_dir()
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        with open(home / ".gitignore", "x", encoding="utf-8") as file:
            file.write(_IGNORED)
    except FileExistsError:
        if existed:
            return f"{home} is there already"
    return f"{home}/.gitignore is made" if existed else f"{home} is made: runs are recorded there"


def _make_settings(directory: Path) -> str:
    target = directory / OWN
    if _is_elsewhere(directory / SHARED):
        return f"{directory / SHARED} has settings already: no {OWN} is made"
    try:
        with open(target, "x", encoding="utf-8") as file:
            file.write(commented())
    except FileExistsError:
        return f"{target} is there already"
    return f"{target} is made: all settings, commented out"


def _is_elsewhere(shared: Path) -> bool:
    try:
        return re.search(r"^\s*\[tool\.penstock\b", shared.read_text("utf-8"), re.MULTILINE) is not None
    except (FileNotFoundError, UnicodeDecodeError):
        return False


def commented() -> str:
    """A penstock.toml that says nothing yet."""
    parts = [_TOP]
    # What only the user himself may set is refused in the file of a project.
    allowed = [entry for entry in entries() if not KNOWN[entry.variable].metadata["yours"]]
    for table, group in groupby(allowed, lambda entry: entry.key.rpartition(".")[0]):
        parts += [f"\n[{table}]\n" if table else "\n", "\n".join(map(_setting, group))]
    return "".join(parts)


def _setting(entry: Entry) -> str:
    key = entry.key.rpartition(".")[2]
    return f"# {entry.help}\n# {key} = {_as_toml(KNOWN[entry.variable].default)}  # {entry.expected}\n"


def _as_toml(value: object) -> str:
    """A default as one would write it. There is no way to write that something is unset."""
    return "..." if value in (None, ()) else json.dumps(value)
