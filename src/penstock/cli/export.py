"""`penstock export`."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import click

from penstock.cli.common import Opened, store_option, title
from penstock.cli.completing import run_argument
from penstock.cli.selecting import RUN_HELP, the_run
from penstock.cli.text import printable
from penstock.cli.whole import Whole, read_whole
from penstock.store.base import RunRow

FORMS = {"html": ("penstock.cli.report:as_html", "html"), "trace": ("penstock.cli.trace:as_trace", "trace.json")}
"""Of each form, what writes it, and how its files end."""

_UNSAFE = re.compile(r"[^\w.=+@-]+")
_LONGEST_NAME = 120  # characters, before the ending


@click.command(epilog=RUN_HELP, context_settings={"allow_extra_args": True})
@run_argument
@click.option("--html", "form", flag_value="html", help="One HTML file: timeline, tasks, log, errors, parameters.")
@click.option("--trace", "form", flag_value="trace", help="A trace for https://ui.perfetto.dev or chrome://tracing.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Where to write it; - is standard output. Left out: a file named after the run, here.",
)
@click.option(
    "--log-lines",
    type=click.IntRange(min=0),
    default=20_000,
    show_default=True,
    help="How many log lines the HTML holds: the last ones.",
)
@store_option
def export(run: str, form: str | None, output: Path | None, log_lines: int, store: Path | None) -> None:
    """Write a run, with everything below it, into one file that can be sent to somebody.

    The HTML report needs neither network nor penstock: it opens in any browser of the last years, from the disk, and it
    asks for nothing from anywhere. Whoever gets it sees the recorded parameters, log lines and errors, so look at it
    before you send it. The trace shows what ran when, for Perfetto and other viewers of Chrome's trace format.

    A file of that name is replaced.

    Example: penstock export @last-failed --html -o failed.html
    """
    if surplus := click.get_current_context().args:
        raise click.UsageError(f"unexpected argument {surplus[0]}: if it is the file to write, type -o {surplus[0]}")
    if form is None:
        raise click.UsageError("say what to write: --html or --trace")
    with Opened(store) as reader:
        row = the_run(reader, run)
        whole = read_whole(reader, row, log_lines if form == "html" else 0)
    writer, ending = FORMS[form]
    module, _, name = writer.partition(":")
    as_text: Callable[[Whole], str] = getattr(import_module(module), name)
    text = as_text(whole)
    target = output or Path(_file_name(row, ending))
    _write(target, text)
    if str(target) != "-":
        click.echo(f"Wrote {title(row)} to {printable(target)} ({_size(len(text))})", err=True)


def _file_name(run: RunRow, ending: str) -> str:
    name = f"{run.name}-{run.run_name}" if run.kind == "flow" else run.run_name
    return f"{_UNSAFE.sub('_', name)[:_LONGEST_NAME].lstrip('.-') or 'run'}.{ending}"


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{max(1, round(count / 1e3))} kB"


def _write(target: Path, text: str) -> None:
    """All of the file or nothing: who looks at the old one meanwhile sees that. `-` is standard output."""
    try:
        replaceable = target.is_file() or not target.exists()  # a pipe is there, and no file
        with click.open_file(str(target), "w", encoding="ascii", atomic=replaceable) as file:
            file.write(text)
    except OSError as error:
        raise click.ClickException(f"{target} cannot be written: {error.strerror or error}") from error
