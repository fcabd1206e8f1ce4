"""`penstock ui`."""

from __future__ import annotations

import os
import webbrowser
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from penstock.cli.common import directory_of, store_option, url_beside
from penstock.exceptions import ConfigurationError

WITHOUT_PACKAGES = 'The dashboard needs two more packages. Type: pip install "penstock[ui]"'
WITHOUT_PAGES = (
    "The pages of the dashboard were not built: installing from source without npm leaves them out. Install Node.js and"
    " type `make ui` where the source is, or install a released wheel, which has them"
)


@click.command()
@click.option("--port", type=click.IntRange(0, 65535), default=0, show_default="one that is free", help="Port.")
@click.option("--host", metavar="ADDRESS", help="Address to listen on. Default: 127.0.0.1 and ::1, for this machine.")
@click.option("--socket", "socket_path", type=click.Path(path_type=Path), help="A Unix socket, in place of a port.")
@click.option("--open", "open_wanted", is_flag=True, help="Open the page in a browser.")
@click.option(
    "--token-file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="File that holds the token."
)
@click.option("--no-token", is_flag=True, help="Whoever reaches the port may look. On this machine only.")
@click.option("--allow-host", multiple=True, metavar="NAME", help="A further name under which it is opened.")
@click.option("--allow-actions", is_flag=True, help="Let the page cancel, retry and resume runs.")
@store_option
def ui(
    port: int,
    host: str | None,
    socket_path: Path | None,
    open_wanted: bool,
    token_file: Path | None,
    no_token: bool,
    allow_host: tuple[str, ...],
    allow_actions: bool,
    store: Path | None,
) -> None:
    """Show all runs in a browser: those that go on as they do, and those that have ended.

    The command prints an address to open and serves it until Ctrl-C. It reads the store and needs nothing else:
    neither the scripts nor the network. The page can be reached from this machine only, and needs the token in the
    address, which is a new one at each start. With --allow-actions it can also cancel, retry and resume runs, which it
    does with the commands of these names, in the directory in which this one was typed.

    For example, here; and on a machine that is reached by ssh -L 8000:localhost:8000:

    \b
        penstock ui --open
        penstock ui --port 8000
    """
    if socket_path is not None and (port or host):
        raise click.UsageError("--socket is in place of --port and --host: leave out either that or these")
    server_module = _server_module()
    home, url = _place(store)
    wish = server_module.Wish(
        home=str(home),
        url=url,
        host=host,
        port=port,
        socket=None if socket_path is None else str(socket_path),
        token=None if token_file is None else _token(token_file),
        no_token=no_token,
        allow_host=allow_host,
        allow_actions=allow_actions,
    )
    server = _server(server_module, wish)
    if store is not None and not store.exists():
        click.echo(f"There is no directory {store} yet: its runs are shown when there are any.", err=True)

    def ready() -> None:
        click.echo(server.address)
        click.echo("Ctrl-C ends it.", err=True)
        if open_wanted and socket_path is None:
            webbrowser.open(server.address)

    server.serve(ready)


def _server_module() -> Any:
    try:
        return import_module("penstock.ui.server")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] not in ("starlette", "uvicorn", "anyio", "h11"):
            raise
        raise click.ClickException(WITHOUT_PACKAGES) from error


def _place(store: Path | None) -> tuple[Path, str | None]:
    try:
        return directory_of(store), url_beside(store)
    except ConfigurationError as error:
        raise click.UsageError(str(error)) from error


def _token(file: Path) -> str:
    if os.stat(file).st_mode & 0o077:
        raise click.UsageError(f"others may read {file}: type chmod 600 {file}")
    return file.read_text("utf-8").strip()


def _server(module: Any, wish: Any) -> Any:
    try:
        return module.Server(wish)
    except ConfigurationError as error:
        raise click.UsageError(str(error)) from error
    except module.NotBuilt as error:
        raise click.ClickException(WITHOUT_PAGES) from error
    except OSError as error:
        raise click.ClickException(_taken(wish, error.strerror or str(error))) from error


def _taken(wish: Any, reason: str) -> str:
    if wish.socket is not None:
        return f"the socket {wish.socket} cannot be had: {reason}"
    host = wish.host or "127.0.0.1"
    if not wish.port:
        return f"no port of {host} can be had: {reason}"
    return f"port {wish.port} of {host} cannot be had: {reason}; leave out --port to get a free one"
