"""`penstock resume`, `penstock retry` and `penstock rerun`: another run for one that is recorded, in this process."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from penstock import resuming
from penstock.cli import parameters, running, targets
from penstock.cli.common import Opened, json_option, store_option, title
from penstock.cli.completing import run_argument
from penstock.cli.selecting import RUN_HELP, the_run
from penstock.flows import Flow
from penstock.store.base import RunRow


@click.command(epilog=RUN_HELP)
@run_argument
@parameters.param_option
@click.option("--rerun", multiple=True, metavar="TASK", help="Execute tasks of this name in any case.")
@click.option("--from-task", multiple=True, metavar="TASK", help="Likewise, and all that depend on their futures.")
@json_option
@store_option
def resume(
    run: str,
    params: tuple[str, ...],
    rerun: tuple[str, ...],
    from_task: tuple[str, ...],
    json_wanted: bool,
    store: Path | None,
) -> None:
    """Go on with a flow run that failed, crashed or was cancelled, and repeat nothing whose result was kept.

    It is a new run, in this process, with the recorded parameters, and those of --param in place of some. The exit
    status says how it ended. For a run that completed although tasks of it failed there is `penstock retry`.

    For example, the last run that failed; and with one of its tasks executed in any case:

    \b
        penstock resume @last-failed
        penstock resume etl/brave-otter --rerun report
    """
    again = _Again(run, store)

    def call(flow: Flow[..., Any]) -> Any:
        values = again.parameters(params)
        return resuming.resume(again.row.id, flow=flow, parameters=values, rerun=rerun, from_task=from_task)

    raise SystemExit(again.carry_out(call, json_wanted))


@click.command(epilog=RUN_HELP)
@run_argument
@parameters.param_option
@json_option
@store_option
def retry(run: str, params: tuple[str, ...], json_wanted: bool, store: Path | None) -> None:
    """Run again what failed in a flow run, and what was never executed: a new run, which restores all kept results.

    This is `penstock resume`, also for a run that completed: a flow may do so although tasks of it failed. Completed
    tasks that called a failed one, and subflows with one in them, are executed again, too.

    For example, the run that was started last:

    \b
        penstock retry @last
    """
    again = _Again(run, store)

    def call(flow: Flow[..., Any]) -> Any:
        return resuming.retry(again.row.id, flow=flow, parameters=again.parameters(params))

    raise SystemExit(again.carry_out(call, json_wanted))


@click.command(epilog=RUN_HELP)
@run_argument
@parameters.param_option
@json_option
@store_option
def rerun(run: str, params: tuple[str, ...], json_wanted: bool, store: Path | None) -> None:
    """Run a flow again with the parameters that a run of it had, and those of --param in place of some.

    Nothing is restored; what the tasks themselves cache for other runs is found, as always.

    For example, the run that was started last, as it was and for another day:

    \b
        penstock rerun @last
        penstock rerun @last --param day=tuesday
    """
    again = _Again(run, store)

    def call(flow: Flow[..., Any]) -> Any:
        return resuming.rerun(again.row.id, flow=flow, parameters=again.parameters(params))

    raise SystemExit(again.carry_out(call, json_wanted, restores=False))


class _Again:
    """The run that was named, and its flow."""

    def __init__(self, run: str, store: Path | None) -> None:
        with Opened(store) as reader:
            self.row = the_run(reader, run)
        _refuse_parts(self.row)
        running.use_store(store)
        _make_importable(self.row)
        found = resuming.definition_named(self.row.key)
        if not isinstance(found, Flow):
            raise click.UsageError(f"flow {self.row.key!r} cannot be imported: type this where its module is found")
        _have_main(found, self.row)
        self._flow = found

    def parameters(self, params: tuple[str, ...]) -> dict[str, Any]:
        values = parameters.from_options(self._flow, params)
        parameters.refuse_unknown(self._flow, values)
        return values

    def carry_out(self, call: Callable[[Flow[..., Any]], Any], json_wanted: bool, *, restores: bool = True) -> int:
        return running.Performance(self._flow).carry_out(call, restores=restores, json_wanted=json_wanted)


def _refuse_parts(row: RunRow) -> None:
    if row.id != row.root_id:
        command = click.get_current_context().info_name
        raise click.UsageError(f"{title(row)} is part of another run. Type: penstock {command} {row.root_id}")
    if row.kind != "flow":
        raise click.UsageError(f"{title(row)} is a {row.kind} run, and only flow runs can be run again")


def _make_importable(row: RunRow) -> None:
    """Load the script that defines the flow; else let imports find what the flow's process found."""
    script = _script_of(row)
    if script is not None and row.key.startswith(f"{os.path.basename(script).removesuffix('.py')}."):
        targets.load_script(script)
        return
    for directory in (script and os.path.dirname(script), script and _above_packages(script), os.getcwd()):
        if directory:
            targets.add_to_path(directory)


def _have_main(flow: Flow[..., Any], row: RunRow) -> None:
    """What was the main program by `python -m` is it again: there the classes of kept values are looked for."""
    module = sys.modules.get(flow.__module__)
    if module is not None and getattr(module, "__file__", None) == _script_of(row):
        sys.modules["__main__"] = module


def _script_of(row: RunRow) -> str | None:
    """The main program of the run's process, if it is still there."""
    script = json.loads(row.info or "{}").get("script")
    return script if script is not None and os.path.isfile(script) else None


def _above_packages(script: str) -> str:
    """The directory in which the outermost package is found that the file is part of."""
    directory = os.path.dirname(script)
    while os.path.isfile(os.path.join(directory, "__init__.py")):
        directory = os.path.dirname(directory)
    return directory
