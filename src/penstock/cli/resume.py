"""`penstock resume`: the script or module of the flow is imported, the flow goes on in this process."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

import penstock.resuming
from penstock.cli.common import EXIT_STATUSES, Opened, store_option, the_run
from penstock.exceptions import ResumeError
from penstock.states import State
from penstock.store.base import RunRow


@click.command()
@click.argument("run")
@click.option("--rerun", multiple=True, metavar="TASK", help="Execute tasks of this name in any case.")
@click.option("--from-task", multiple=True, metavar="TASK", help="Likewise, and all that depend on their futures.")
@store_option
def resume(run: str, rerun: tuple[str, ...], from_task: tuple[str, ...], store: Path | None) -> None:
    """Go on with a flow run that did not complete: a new run, which repeats nothing whose result was kept.

    RUN is an id or the beginning of one, a run name, or @last. The flow runs in this process.
    """
    with Opened(store) as reader:
        row = the_run(reader, run)
    if store is not None:
        os.environ["PENSTOCK_HOME"] = str(store)
    try:
        raise SystemExit(carry_out(row, rerun, from_task))
    except ResumeError as error:
        raise click.UsageError(str(error)) from error


def carry_out(row: RunRow, rerun: Sequence[str], from_task: Sequence[str]) -> int:
    """Resume the run; the exit status. Raises `ResumeError` if it cannot be resumed."""
    make_importable(row)
    state: Any = penstock.resuming.resume(row.id, rerun=rerun, from_task=from_task, return_state=True)
    if asyncio.iscoroutine(state):
        state = asyncio.run(state)
    if not isinstance(state, State):
        return _exhaust(state)
    if not state.is_completed():
        click.echo(f"{state.name}: {state.message}. Type: penstock show @last", err=True)
    return EXIT_STATUSES[state.type.value]


def make_importable(row: RunRow) -> None:
    """Let imports find what the flow's process found: the script that it ran, and what was beside it."""
    script = json.loads(row.info or "{}").get("script")
    for directory in (os.getcwd(), script and os.path.dirname(script)):
        if directory and directory not in sys.path:
            sys.path.insert(0, directory)


def _exhaust(items: Any) -> int:
    """A generator flow hands out its items; what is asked for here is that it gets to its end."""
    if hasattr(items, "__aiter__"):
        asyncio.run(_exhaust_async(items))
    else:
        for _ in items:
            pass
    return 0


async def _exhaust_async(items: Any) -> None:
    async for _ in items:
        pass
