"""`penstock ui`: what it says of an address that it cannot have, and of a store that is not there."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
from looking import penstock

from penstock.ui import front, server


@pytest.fixture(autouse=True)
def built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A front end, whether or not the real one was built."""
    (tmp_path / "static" / "assets").mkdir(parents=True)
    (tmp_path / "static" / "index.html").write_text("<!doctype html>")
    monkeypatch.setattr(front.files, "__defaults__", (str(tmp_path / "static"),))


@pytest.mark.parametrize("options", [(), ("--host", "127.0.0.1")], ids=["default", "host"])
def test_a_port_in_use_is_named(own_store: Path, options: tuple[str, ...]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        result = penstock("ui", "--port", port, *options)
    assert result.exit_code == 1
    said = f"port {port} of 127.0.0.1 cannot be had: Address already in use; leave out --port to get a free one"
    assert result.stderr == f"Error: {said}\n"


def test_a_socket_that_cannot_be_had_is_named(own_store: Path, tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "ui.sock"
    result = penstock("ui", "--socket", path)
    assert result.exit_code == 1
    assert result.stderr == f"Error: the socket {path} cannot be had: No such file or directory\n"


@pytest.mark.parametrize("options", [("--port", 80), ("--host", "127.0.0.1")], ids=["port", "host"])
def test_a_socket_is_in_place_of_a_port(own_store: Path, tmp_path: Path, options: tuple[Any, ...]) -> None:
    result = penstock("ui", *options, "--socket", tmp_path / "ui.sock")
    assert result.exit_code == 2
    assert "--socket is in place of --port and --host" in result.stderr


def test_a_store_that_is_not_there_is_waited_for(
    tmp_path: Path, own_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server.Server, "_run", lambda self, ready: ready())  # serves nobody
    missing = tmp_path / "missing"
    result = penstock("ui", "--store", missing)
    assert (result.exit_code, result.stdout.startswith("http://127.0.0.1:")) == (0, True), result.output
    note = f"There is no directory {missing} yet: its runs are shown when there are any."
    assert result.stderr.splitlines() == [note, "Ctrl-C ends it."]
    missing.mkdir()
    assert penstock("ui", "--store", missing).stderr == "Ctrl-C ends it.\n"
    assert penstock("ui").stderr == "Ctrl-C ends it.\n"
