"""`penstock run`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

import click

from penstock import context, settings
from penstock.cli import parameters, running, targets
from penstock.cli.common import json_option, store_option
from penstock.cli.places import TARGET_HELP
from penstock.flows import Flow

RUNNERS = ("sequential", "threads", "processes", "dask", "ray")


@click.command(epilog=TARGET_HELP)
@click.argument("target")
@parameters.param_option
@click.option(
    "--params", "params_file", type=click.File("rb"), help="JSON file with one object, or TOML file; - for JSON."
)
@click.option("--runner", type=click.Choice(RUNNERS), help="Where its tasks are executed.")
@click.option("-j", "--workers", type=click.IntRange(min=1), help="How many at once. Needs --runner.")
@click.option("--name", help="Name of the run.")
@click.option("--tag", "tags", multiple=True, help="Tag of all its runs. May be given several times.")
@json_option
@store_option
def run(
    target: str,
    params: tuple[str, ...],
    params_file: BinaryIO | None,
    runner: str | None,
    workers: int | None,
    name: str | None,
    tags: tuple[str, ...],
    json_wanted: bool,
    store: Path | None,
) -> None:
    """Run a flow in this process. The exit status says how it ended.

    A file is executed as by `python file.py`, except for what it has under `if __name__ == "__main__":`; a module is
    imported, also from the working directory.

    A VALUE is JSON if it can be read as JSON, else text; the flow's annotations decide about the rest. --param goes
    before --params. --runner is for this flow and not for flows that it calls: the setting PENSTOCK_RUNNER is for all.

    For example, with a text and a list; and with values from a file, and the tasks in four processes:

    \b
        penstock run etl.py:etl --param day=monday --param 'shops=["north", "south"]'
        penstock run etl.py --params monday.json --runner processes -j 4
    """
    running.use_store(store)
    with running.wrong_use():
        settings.current()  # refused here if they are wrong, and not when the flow is called
        flow = _with_options(targets.load(target), runner, workers, name)
        values = {**parameters.from_file(params_file)} if params_file is not None else {}
        values.update(parameters.from_options(flow, params))
        parameters.check(flow, values)
    # The setting would go before the runner that was asked for.
    overridden: dict[str, object] = {} if runner is None else {"runner": None}
    with context.tags(*tags), settings.temporary_settings(overridden):
        performance = running.Performance(flow)
        status = performance.carry_out(lambda flow: flow(**values), restores=False, json_wanted=json_wanted)
    raise SystemExit(status)


def _with_options(flow: Flow[..., Any], runner: str | None, workers: int | None, name: str | None) -> Flow[..., Any]:
    options: dict[str, Any] = {}
    if runner is not None:
        options["task_runner"] = running.runner_named(runner, workers)
    elif workers is not None:
        raise click.UsageError("-j needs --runner: it is the number of that runner's workers")
    if name is not None:
        options["flow_run_name"] = name.replace("{", "{{").replace("}", "}}")
    return flow.with_options(**options)
