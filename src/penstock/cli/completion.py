"""`penstock completion`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

_VARIABLE = "_PENSTOCK_COMPLETE"
_PLACES = {
    "bash": "~/.local/share/bash-completion/completions/penstock",
    "zsh": "~/.zfunc/_penstock",
    "fish": "~/.config/fish/completions/penstock.fish",
}
_HINTS = {"zsh": "\nIn ~/.zshrc, before compinit: fpath+=~/.zfunc", "bash": "\nIt needs bash 4.4, and bash-completion."}


@click.command()
@click.argument("shell", type=click.Choice(list(_PLACES)))
def completion(shell: str) -> None:
    """Print a script that lets a shell complete the commands of penstock, their options, and the names of runs.

    Where to put it is said on standard error; shells that are started after that complete.

    Example: penstock completion bash > ~/.local/share/bash-completion/completions/penstock
    """
    kind = get_completion_class(shell)
    assert kind is not None
    root = click.get_current_context().find_root()
    made = kind(root.command, {}, "penstock", _VARIABLE)
    # Not `source()`: it looks for a bash of its own, and the script may be for another machine.
    click.echo(made.source_template % made.source_vars())
    place = _PLACES[shell]
    folder = place.rpartition("/")[0]
    hint = f"To install it: mkdir -p {folder} && penstock completion {shell} > {place}{_HINTS.get(shell, '')}"
    click.echo(hint, err=True)
