"""`penstock resume`: the script or module of the flow is imported, the flow goes on in this process."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from penstock.resuming import resume
from penstock.states import State
from penstock.store.base import RunRow

# A command that runs a flow says by its exit status how the flow ended.
STATUSES = {"COMPLETED": 0, "FAILED": 1, "CANCELLED": 4, "CRASHED": 5}


def carry_out(row: RunRow, rerun: Sequence[str], from_task: Sequence[str]) -> int:
    """Resume the run; the exit status. Raises `ResumeError` if it cannot be resumed."""
    make_importable(row)
    state: Any = resume(row.id, rerun=rerun, from_task=from_task, return_state=True)
    if asyncio.iscoroutine(state):
        state = asyncio.run(state)
    if not isinstance(state, State):
        return _exhaust(state)
    if not state.is_completed():
        click.echo(f"{state.name}: {state.message}. Type: penstock show @last", err=True)
    return STATUSES[state.type.value]


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
