"""The dashboard as a process: what it imports, what it listens on, what it refuses to start with, how it ends."""

from __future__ import annotations

import os
import re
import signal
import socket
import stat
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from dashboards import FRONT, running

from penstock.cli import main
from penstock.exceptions import ConfigurationError
from penstock.ui import front, guard
from penstock.ui.server import Server, Wish, check


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A front end, whether or not the real one was built."""
    static = tmp_path / "static"
    (static / "assets").mkdir(parents=True)
    (static / "index.html").write_text("<!doctype html>")
    return static


RUN = """
    import sys
    from penstock.ui import front, server
    front.files.__defaults__ = (sys.argv.pop(1),)
    from penstock.cli import main
    main(["ui", *sys.argv[1:]])
"""


@contextmanager
def started(static: Path, *options: object) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command in a process of its own, and the address that it prints."""
    command = [sys.executable, "-c", textwrap.dedent(RUN), str(static), *map(str, options)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stderr is not None
    try:
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait(20)
        process.stdout.close()
        process.stderr.close()


def _listening(pid: int) -> set[str]:
    """Addresses of the sockets on which a process listens, by the kernel's own table."""
    inodes = set()
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            inodes.add(os.readlink(f"/proc/{pid}/fd/{name}").removeprefix("socket:[").removesuffix("]"))
        except FileNotFoundError:
            pass
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                found.add(fields[1].split(":")[0])
    return found


LOOPBACK = {"0100007F", "00000000000000000000000001000000"}


def test_the_command_from_start_to_end(built: Path, own_store: Path) -> None:
    with started(built, "--store", own_store) as (process, address):
        found = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/#token=([\w-]{43})", address)
        assert found is not None, address
        assert _listening(process.pid) <= LOOPBACK
        assert "0100007F" in _listening(process.pid)
        assert found[2] not in Path(f"/proc/{process.pid}/cmdline").read_text()
        with started(built, "--store", own_store) as (_, other):
            assert found[2] not in other
        process.send_signal(signal.SIGINT)
        assert process.wait(20) in (0, 130, -signal.SIGINT)
        _, errors = process.communicate()
        assert "Traceback" not in errors and found[2] not in errors


def test_a_unix_socket_is_for_its_owner(built: Path, own_store: Path, tmp_path: Path) -> None:
    path = tmp_path / "ui.sock"
    with started(built, "--store", own_store, "--socket", path) as (process, address):
        assert address.startswith(f"unix:{path}#token=")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert _listening(process.pid) == set()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert client.recv(100).startswith(b"HTTP/1.1 200")
        process.send_signal(signal.SIGTERM)
        process.wait(20)
        assert not path.exists()


def test_a_file_in_the_place_of_the_socket_stays(own_store: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    with pytest.raises(OSError, match="is no socket"):
        Server(Wish(str(own_store), socket=str(tmp_path / "precious")), FRONT)
    assert (tmp_path / "precious").read_text() == "x"


GOOD = "Zk3vT9qLxW0aRb7cYd2eNf"


@pytest.mark.parametrize(
    ("wish", "problem"),
    [
        ({"host": "0.0.0.0"}, "other machines"),
        ({"host": "::"}, "other machines"),
        ({"host": "192.168.1.5"}, "other machines"),
        ({"host": "example.org"}, "other machines"),
        ({"host": "0.0.0.0", "no_token": True}, "everybody"),
        ({"host": "0.0.0.0", "token": "short"}, "easy to guess"),
        ({"host": "0.0.0.0", "token": "a" * 64}, "easy to guess"),
        ({"host": "0.0.0.0", "token": "0123456789abcdef" * 2 + "\n"}, "one word"),
        ({"token": "0123456789abcdef0123456789abcde"}, "easy to guess"),
        ({"token": "\xe9" * 40}, "one word"),
        ({"no_token": True, "allow_actions": True}, "actions need a token"),
    ],
)
def test_what_would_let_others_in_is_refused(wish: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        check(Wish("/nowhere", **wish))


@pytest.mark.parametrize(
    "wish",
    [
        {},
        {"host": "127.0.0.2"},
        {"host": "::1"},
        {"host": "localhost", "no_token": True},
        {"host": "0.0.0.0", "token": GOOD},
        {"token": "0123456789abcdef" * 2},
    ],
)
def test_what_keeps_others_out_is_not(wish: dict[str, Any]) -> None:
    check(Wish("/nowhere", **wish))


def test_names_under_which_it_is_opened(own_store: Path) -> None:
    server = Server(Wish(str(own_store), allow_host=("box.example", "proxy.example:443")), FRONT)
    port = server.port
    expected = {f"127.0.0.1:{port}", f"localhost:{port}", f"box.example:{port}", "box.example", "proxy.example:443"}
    assert expected <= server.hosts <= {*expected, f"[::1]:{port}"}
    server.stop()
    server.serve()


# --- what arrives over the wire ---


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET http://{host}/api/runs HTTP/1.1\r\nHost: {host}\r\n", 403),
        (b"GET http://evil.example/ HTTP/1.1\r\nHost: {host}\r\n", 403),
        (b"GET / HTTP/1.1\r\n", 400),
        (b"GET / HTTP/1.0\r\n", 403),
        (b"GET / HTTP/1.1\r\nHost: {host}\r\nHost: evil.example\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: evil.example\r\n", 403),
        (b"CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n", 403),
        (b"GET / HTTP/1.1\r\nHost: {host}\r\nX: " + b"y" * 17_000 + b"\r\n", 431),
        (b"nonsense\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n", 200),
        (b"GET /api/runs HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n", 401),
        (b"GET /healthz HTTP/1.1\r\nHost: {host}\r\nX-Forwarded-Host: evil\r\nX-Forwarded-For: 1.2.3.4\r\n", 200),
    ],
)
def test_strange_requests_over_the_wire(request_: bytes, status: int, own_store: Path) -> None:
    with running(own_store) as server, socket.create_connection(("127.0.0.1", server.port), 10) as client:
        client.sendall(request_.replace(b"{host}", b"127.0.0.1:%d" % server.port) + b"\r\n")
        client.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: client.recv(10_000), b""))
    head = answer.partition(b"\r\n\r\n")[0].decode("latin-1").lower()
    assert answer.split(b" ")[1] == b"%d" % status, answer[:300]
    for name, value in guard.HEADERS:
        assert f"{name.decode()}: {value.decode()}".lower() in head
    assert "access-control" not in head and "server:" not in head


def test_a_second_start_has_another_token(own_store: Path) -> None:
    with running(own_store) as server:
        first = server.token
    with running(own_store) as server:
        connection = server.connection()
        connection.request("GET", "/api/about", headers={"Authorization": f"Bearer {first}"})
        assert connection.getresponse().status == 401
        connection.close()


# --- what is imported, and what is not ---

CRAWL = """
    import importlib.abc, json, sys
    FORBIDDEN = ("cloudpickle", "penstock._engine", "penstock.serializers", "penstock.results", "penstock.resuming",
                 "penstock.flows", "penstock.tasks", "penstock.cli.result", "penstock.cli.kept", "dill", "joblib")
    sys.modules.pop("penstock.ui", None)

    class Hook(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path, target=None):
            if watching and any(name == one or name.startswith(one + ".") for one in FORBIDDEN):
                raise AssertionError(f"{name} was imported")

    import penstock  # its public names are loaded when they are used
    before = set(sys.modules)
    watching = True
    sys.meta_path.insert(0, Hook())
    sys.path.insert(0, TESTS)
    import pickle
    def refuse(*_): raise AssertionError("something was unpickled")
    pickle.loads = pickle.load = pickle.Unpickler = refuse
    import penstock.ui.server
    from pathlib import Path
    from dashboards import Asked, good_headers, Looked, rows_of
    from penstock.ui.routes import ROUTES
    from urllib.parse import quote
    home = Path(sys.argv[1])
    asked = Asked(home)
    look = Looked(home)
    for run in rows_of(look("/api/runs")):
        ids = [run["id"], *look(f"/api/runs/{run['id']}/tasks")["columns"]["id"][:30]]
        for route in ROUTES:
            for run_id in ids if "{id}" in route.path else [run["id"]]:
                path = route.path.replace("{id}", run_id).replace("{name}", quote(run["name"]))
                path = path.replace("{file}", "a.js")
                query = f"?a={run_id}&b={run_id}" if "compare" in path and "api" in path else ""
                query = f"?view=run&id={run_id}" if route.kind == "live" else query
                if route.kind != "action" and "{" not in path:
                    status = asked.get(path + query).status
                    assert status == 200 or path == "/api/actions", (path, status)
    loaders = ("penstock.serializers", "penstock.results", "cloudpickle")
    assert not [name for name in sys.modules if name.startswith(loaders)]
    print(json.dumps(sorted(name for name in set(sys.modules) - before if name.startswith("penstock"))))
"""


def test_nothing_is_unpickled_and_nothing_that_could_is_imported(example: Path) -> None:
    script = f"TESTS = {str(Path(__file__).parent)!r}\n" + textwrap.dedent(CRAWL)
    result = subprocess.run([sys.executable, "-c", script, str(example)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "penstock.ui.answers.runs" in result.stdout


def test_the_example_has_something_to_unpickle(example: Path) -> None:
    import sqlite3

    connection = sqlite3.connect(f"file:{example}/penstock.db?mode=ro", uri=True)
    (number,) = connection.execute("SELECT COUNT(*) FROM results").fetchone()
    connection.close()
    assert number > 3


# --- the command line ---


def test_without_the_packages_it_says_what_to_install(own_store: Path) -> None:
    script = "import sys; sys.modules['uvicorn'] = None; from penstock.cli import main; main(['ui'])"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert 'pip install "penstock[ui]"' in result.stderr and "Traceback" not in result.stderr


def test_without_the_pages_it_says_how_to_build_them(
    own_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(front.files, "__defaults__", (str(tmp_path),))
    result = CliRunner().invoke(main, ["ui"])
    assert result.exit_code == 1
    assert "make ui" in result.stderr


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--host", "0.0.0.0"], "--token-file"),
        (["--no-token", "--allow-actions"], "leave out"),
        (["--host", "not a name"], "--token-file"),
    ],
)
def test_wrong_options(options: list[str], problem: str, own_store: Path) -> None:
    result = CliRunner().invoke(main, ["ui", *options])
    assert result.exit_code == 2
    assert problem in result.stderr


def test_a_token_that_others_may_read_is_none(own_store: Path, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(GOOD)
    token.chmod(0o644)
    result = CliRunner().invoke(main, ["ui", "--token-file", str(token)])
    assert result.exit_code == 2
    assert "chmod 600" in result.stderr


def test_a_port_that_is_taken(own_store: Path, built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front.files, "__defaults__", (str(built),))
    with socket.create_server(("127.0.0.1", 0)) as other:
        result = CliRunner().invoke(main, ["ui", "--port", str(other.getsockname()[1])])
    assert result.exit_code == 1
    assert "in use" in result.stderr


def test_the_files_of_the_front_end_are_read_once(built: Path) -> None:
    (built / "assets" / "x.js").write_text("1")
    (built / "assets" / "x.map").write_text("not served")
    found = front.files(str(built))
    assert set(found) == {"/index.html", "/assets/x.js"}
    page = front.File(b'<script src="./assets/x.js">', "text/html")
    assert front.at_depth(page, "/runs/x").content == b'<script src="../assets/x.js">'
    assert front.at_depth(page, "/").content == page.content
