"""`penstock explain`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from penstock.cli import causes, hits
from penstock.cli.common import Opened, json_option, store_option
from penstock.cli.completing import run_argument
from penstock.cli.outcome import outcome
from penstock.cli.selecting import RUN_HELP, the_run
from penstock.cli.text import as_json, fields_of
from penstock.store.base import Reader, RunRow

HEADINGS = {
    "ran": "Why it ran",
    "waited": "What it waited for",
    "attempts": "Attempts",
    "longest": "What it took so long for",
    "cache": "Cache",
}


@click.command(epilog=RUN_HELP)
@run_argument
@json_option
@store_option
def explain(run: str, json_wanted: bool, store: Path | None) -> None:
    """Explain from the record why a run ran or did not, what it waited for, why it was tried again, what the cache did.

    A miss of the cache is compared with earlier results of the same task: it says which part of the key is another one.
    What the cache would do about a call that has not been made, `task.explain_cache(...)` says in Python.

    For example, a task run in the run that was started last:

    \b
        penstock explain '@last/load-0[3]'
    """
    opened = Opened(store)
    with opened as reader:
        row = the_run(reader, run)
        explanation = _explanation(reader, row, opened.home)
        if json_wanted:
            click.echo(as_json({"run": fields_of(row), "explanation": explanation}))
        else:
            click.echo("\n\n".join([outcome(row, reader.counts(row.id)), *_sections(explanation)]))


def _explanation(reader: Reader, run: RunRow, home: Path) -> dict[str, list[str]]:
    """Sentences by subject, as in `HEADINGS`."""
    return {
        "ran": list(causes.of_running(reader, run)),
        "waited": list(causes.of_waiting(reader, run)),
        "attempts": list(causes.of_attempts(reader, run)),
        "longest": list(causes.of_lasting(reader, run)),
        "cache": list(hits.told(reader, run, home)),
    }


def _sections(explanation: dict[str, list[str]]) -> Iterator[str]:
    for subject, sentences in explanation.items():
        if sentences:
            yield "\n".join([HEADINGS[subject], *(f"  {sentence}" for sentence in sentences)])
