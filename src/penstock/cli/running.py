"""Carrying out a flow for a command: in this process, with the outcome as exit status."""

from __future__ import annotations

import asyncio
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import click

from penstock import _raising, settings, task_runners
from penstock.cli.common import EXIT_STATUSES, INTERRUPTED, Opened, title
from penstock.cli.text import as_json, fields_of, plural
from penstock.exceptions import ConfigurationError, ParameterBindError, ParameterTypeError, ResumeError
from penstock.flows import Flow

_ENDS = ("on_completion", "on_failure", "on_cancellation", "on_crashed")
_WRONG_USE = (ConfigurationError, ParameterBindError, ParameterTypeError, ResumeError)


def use_store(directory: Path | None) -> None:
    """Let this process and those that it starts use the store in `directory`; None: the one that they find."""
    if directory is not None:
        os.environ["PENSTOCK_HOME"] = str(directory.absolute())
        os.environ["PENSTOCK_STORE_URL"] = "none"  # nor the database that a file of settings may name


@contextmanager
def wrong_use() -> Iterator[None]:
    """What the library says about wrong arguments, as the usage error of a command."""
    try:
        yield
    except _WRONG_USE as error:
        raise click.UsageError(str(error)) from error


class Performance:
    """One run of a flow, from its call to its report. Leaves the flow that it is given as it was."""

    def __init__(self, flow: Flow[..., Any]) -> None:
        self.flow = flow.with_options()
        self._run_id: str | None = None
        self._status: str | None = None
        for end in _ENDS:
            getattr(self.flow, end)(self._note)

    def _note(self, flow: Any, run: Any, state: Any) -> None:
        self._run_id, self._status = run.id.hex, state.type.value

    def carry_out(self, call: Callable[[Flow[..., Any]], Any], *, restores: bool, json_wanted: bool) -> int:
        """The exit status. `call` is what calls the flow it is given, or resumes a run of it.

        Raises a usage error if that is refused.
        """
        _check_the_setting()
        with _output_elsewhere() if json_wanted else _output_by_lines():
            interrupted = self._perform(call)
        if self._run_id is not None:
            self._report(self._run_id, restores, json_wanted)
        if interrupted:
            return INTERRUPTED
        return EXIT_STATUSES[self._status or "COMPLETED"]

    def _perform(self, call: Callable[[Flow[..., Any]], Any]) -> bool:
        """Whether it was interrupted."""
        try:
            _take_to_its_end(self.flow, call(self.flow))
        except KeyboardInterrupt:
            return True
        except BaseException as error:
            if self._status is None:
                with wrong_use():
                    raise
            _raising.leave(error)
            traceback.print_exception(error)
        return False

    def _report(self, run_id: str, restores: bool, json_wanted: bool) -> None:
        try:
            with Opened(None) as reader:
                row = reader.get(run_id)
                tasks = [count for count in reader.counts(run_id) if count.kind == "task"]
        except click.ClickException as error:  # it says nothing about how the flow ended
            click.echo(f"Warning: {error.message}", err=True)
            return
        restored = sum(count.number for count in tasks if count.state_name == "Cached")
        if restores:
            total = plural(sum(count.number for count in tasks), "task run")
            click.echo(f"{restored:,} of {total} restored", err=True)
        if row is not None and row.status != "COMPLETED":
            click.echo(f"Type: penstock show {title(row)}", err=True)
        if json_wanted and row is not None:
            click.echo(as_json({"run": fields_of(row), "restored": restored}))


def _check_the_setting() -> None:
    """Raise a usage error if the flow cannot have the runner of the setting."""
    with wrong_use():
        name = settings.current().runner
    if name is not None:
        runner_named(name, None, f"the setting runner={name}: ")


def runner_named(name: str, workers: int | None, whence: str = "") -> task_runners.TaskRunner:
    """A new task runner; a usage error if it cannot be had. `whence`: begins the error."""
    try:
        return task_runners.named(name, workers)
    except (ImportError, ValueError) as error:
        raise click.UsageError(f"{whence}{error}") from error


def _take_to_its_end(flow: Flow[..., Any], result: Any) -> None:
    """A generator flow hands out its items; what is asked for here is that it gets to its end."""
    if flow.isasync:
        asyncio.run(_exhaust(result) if flow.isgenerator else result)
    elif flow.isgenerator:
        for _ in result:
            pass


async def _exhaust(items: Any) -> None:
    async for _ in items:
        pass


@contextmanager
def _output_by_lines() -> Iterator[None]:
    """SIGTERM ends this process as it ends any other: what is still in a buffer then is lost."""
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(line_buffering=True)
    yield


@contextmanager
def _output_elsewhere() -> Iterator[None]:
    """Send to standard error what the flow prints, here and in processes that it starts."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
