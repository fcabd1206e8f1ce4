"""The command `penstock`: looks at what was recorded, and runs, cancels and resumes flows.

What looks reads the store and never unpickles; it changes nothing, but for one thing: runs whose process has died
are recorded as crashed (`recovery`). Commands that print a listing take `--json`: then standard output is one JSON
document and everything else goes to standard error.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import click

from penstock.cli.common import INTERRUPTED
from penstock.cli.text import colour_wanted

COMMANDS = {
    "run": ("penstock.cli.run:run", "Run a flow in this process."),
    "ls": ("penstock.cli.ls:ls", "List the latest runs."),
    "show": ("penstock.cli.show:show", "Show one run: how it went, what failed and where."),
    "logs": ("penstock.cli.logs:logs", "Print the log of a run, or follow it."),
    "result": ("penstock.cli.result:result", "Print the result of a run, if it was kept."),
    "explain": ("penstock.cli.explain:explain", "Say why a run ran, waited, was tried again or missed the cache."),
    "graph": ("penstock.cli.graph:graph", "Print which tasks a run or a flow calls, and what flows where."),
    "watch": ("penstock.cli.watch:watch", "Follow a run of any process to its end."),
    "ui": ("penstock.cli.ui:ui", "Show all runs in a browser."),
    "resume": ("penstock.cli.resume:resume", "Go on with a run that did not complete."),
    "retry": ("penstock.cli.resume:retry", "Run again what failed in a run, and nothing else."),
    "rerun": ("penstock.cli.resume:rerun", "Run a flow afresh with the parameters of a run."),
    "cancel": ("penstock.cli.cancel:cancel", "Cancel a run of any process of this machine."),
    "export": ("penstock.cli.export:export", "Write a run into one file: an HTML report, or a trace."),
    "rm": ("penstock.cli.rm:rm", "Remove runs from the record."),
    "prune": ("penstock.cli.prune:prune", "Remove old runs, and values that have expired."),
    "backup": ("penstock.cli.store:backup", "Copy the store while it is in use."),
    "check": ("penstock.cli.store:check", "Look whether the store is whole."),
    "doctor": ("penstock.cli.doctor:doctor", "Look for trouble in the store and around it."),
    "config": ("penstock.cli.config:config", "Show the settings, and where each comes from."),
    "init": ("penstock.cli.init:init", "Give a project a record of its own."),
    "completion": ("penstock.cli.completion:completion", "Print a script that completes commands in a shell."),
    "version": ("penstock.cli.version:version", "Print the versions of penstock, Python and SQLite."),
}
"""Where each command is, and its line in the help.

A module is imported when its command is typed: most need little, some the whole library. The lines are here because
the help of all commands would have to import every one of them.
"""


class Commands(click.Group):
    """The commands of `COMMANDS`, in that order."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise SystemExit(INTERRUPTED) from None  # click's own status for it would mean that a flow has failed


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="penstock", message="%(prog)s %(version)s")
def main() -> None:
    """Look at recorded flow runs and task runs; run flows, cancel them, and go on with those that did not complete.

    Exit status: 0 done, or the flow completed; 1 the flow failed, or check or doctor found a problem; 2 the command
    line was wrong; 3 no such run, flow, file or store; 4 cancelled; 5 crashed, or the store cannot be read; 130 and
    143 ended by a signal.
    """
    click.get_current_context().color = colour_wanted()
    # A name that the terminal's encoding lacks must not end the command.
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
