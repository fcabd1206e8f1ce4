"""The command `penstock`: looks at what was recorded, and runs, cancels and resumes flows.

What looks reads the store and never unpickles; it changes nothing, but for one thing: runs whose process has died
are recorded as crashed (`recovery`). Commands that print a listing take `--json`: then standard output is one JSON
document and everything else goes to standard error.
"""

from __future__ import annotations

import sys
from importlib import import_module

import click

COMMANDS = {
    "ls": "penstock.cli.ls:ls",
    "show": "penstock.cli.show:show",
    "resume": "penstock.cli.resume:resume",
}
"""Where each command is. A module is imported when its command is typed: most need little, some the whole library."""


class Commands(click.Group):
    """The commands of `COMMANDS`, in that order."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="penstock", message="%(prog)s %(version)s")
def main() -> None:
    """Look at recorded flow runs and task runs; run flows, cancel them, and go on with those that did not complete.

    Exit status: 0 done, or the flow completed; 1 the flow failed; 2 the command line was wrong; 3 no such run, flow,
    file or store; 4 cancelled; 5 crashed, or the store cannot be read; 130 and 143 ended by a signal.
    """
    # A name that the terminal's encoding lacks must not end the command.
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
