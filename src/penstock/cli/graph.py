"""`penstock graph`."""

from __future__ import annotations

from pathlib import Path

import click

from penstock.cli import bodies, recorded
from penstock.cli.common import NotFound, Opened, store_option
from penstock.cli.drawing import FORMATS, Graph
from penstock.cli.places import TARGET_HELP
from penstock.cli.selecting import RUN_HELP, the_run
from penstock.cli.sources import is_target


@click.command(epilog=f"{RUN_HELP} {TARGET_HELP}")
@click.argument("what", metavar="RUN|TARGET")
@click.option(
    "--format", "form", type=click.Choice(list(FORMATS)), default="mermaid", show_default=True, help="Language."
)
@click.option(
    "--each", is_flag=True, help="Each run, or each place of a call, by itself, not those of a task together."
)
@click.option("--json", "json_wanted", is_flag=True, help="The same as --format json.")
@store_option
def graph(what: str, form: str, each: bool, json_wanted: bool, store: Path | None) -> None:
    """Print a graph: which tasks and flows a run has called, and whose results went into which.

    Of a RUN that is what was recorded: all runs of a task in one place are one node, with how
    many there were. Arrows are results that another run received; dashed ones are wait_for. What a run has called is
    in a box with its name.

    Of a TARGET it is what the source of the flow says. Nothing is executed, so
    conditions and loops are not decided: what may be called is shown as if it were, and what the source calls in ways
    that are only known when it runs is not.

    The default is a Mermaid flowchart, which goes into Markdown. For example, a picture by Graphviz instead:

    \b
        penstock graph @last --format dot | dot -Tsvg -o run.svg
        penstock graph etl.py:etl
    """
    found = _of_target(what, store, each) if is_target(what) else _of_run(what, store, each)
    click.echo(FORMATS["json" if json_wanted else form](found))


def _of_run(text: str, store: Path | None, each: bool) -> Graph:
    with Opened(store) as reader:
        return recorded.graph_of(reader, the_run(reader, text), each=each)


def _of_target(text: str, store: Path | None, each: bool) -> Graph:
    """A run may have a name that looks like a target."""
    try:
        return bodies.graph_of_source(text, each=each)
    except NotFound as nothing:
        try:
            return _of_run(text, store, each)
        except NotFound:
            raise nothing from None
