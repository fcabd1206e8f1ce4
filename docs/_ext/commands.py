"""The reference of the command line in Markdown, from the commands themselves."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

import click

from penstock.cli import main


def page() -> str:
    """All commands, each with its help text, arguments and options."""
    with click.Context(main, info_name="penstock") as context:
        return "\n".join(_below(context, main, 2))


def _section(context: click.Context, command: click.Command, level: int) -> Iterator[str]:
    yield f"{'#' * level} {context.command_path}\n"
    yield f"```text\n{' '.join([context.command_path, *command.collect_usage_pieces(context)])}\n```\n"
    yield prose(command.help or "")
    yield from _options(context, command)
    yield prose(command.epilog or "")
    yield from _below(context, command, level + 1)


def _below(context: click.Context, command: click.Command, level: int) -> Iterator[str]:
    """The commands of a group."""
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            if not below.hidden:
                with click.Context(below, info_name=name, parent=context) as inner:
                    yield from _section(inner, below, level)


def prose(help_text: str) -> str:
    """A help text as Markdown. What click leaves as it is, behind a backspace, is a listing, as is an example."""
    parts = []
    for paragraph in inspect.cleandoc(help_text).replace("\f", "").split("\n\n"):
        listing = paragraph.startswith("\b")
        text, example = ("", paragraph) if listing else _split_at_example(paragraph)
        parts.append(coded(text))
        if example:
            parts.append(f"```text\n{inspect.cleandoc(example.removeprefix(chr(8)))}\n```")
    return "\n\n".join(filter(None, parts)) + "\n"


def _split_at_example(paragraph: str) -> tuple[str, str]:
    found = re.search(r"(?:Example|[Ff]or example): (?=penstock )", paragraph)
    return (paragraph, "") if found is None else (paragraph[: found.end()], " ".join(paragraph[found.end() :].split()))


def coded(text: str) -> str:
    """Options and variables as code, where the text has them without quotes around."""
    return re.sub(r"(?<![\w`-])(--?[a-zA-Z][\w-]*|PENSTOCK_\w+)(?![\w`])", r"`\1`", text)


def _options(context: click.Context, command: click.Command) -> Iterator[str]:
    records = [parameter.get_help_record(context) for parameter in command.params]
    rows = [
        f"| `{names.replace('|', chr(92) + '|')}` | {_cell(text)} |" for names, text in filter(None, records) if text
    ]
    if rows:
        yield "\n".join(["| option | |", "|---|---|", *rows]) + "\n"


def _cell(text: str) -> str:
    return coded(" ".join(text.split())).replace("|", "\\|")
