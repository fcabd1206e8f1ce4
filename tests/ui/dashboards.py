"""What the tests of the dashboard have in common: the application without sockets, and a real server."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from penstock.ui import asking, routes
from penstock.ui.actions import Actions
from penstock.ui.app import Dashboard
from penstock.ui.front import File
from penstock.ui.guard import Rules
from penstock.ui.records import Records
from penstock.ui.server import Server, Wish

HOST, TOKEN = "127.0.0.1:8000", "t0ken-of-the-tests-0123456789abcdef"
FRONT = {
    "/index.html": File(b'<!doctype html><title>penstock</title><script src="./assets/a.js"></script>', "text/html"),
    "/assets/a.js": File(b"", "text/javascript; charset=utf-8"),
}
SCRIPT = Path(__file__).with_name("example_store.py")


class Place(NamedTuple):
    """Of a store: its directory, or, with a URL, a database and the directory that belongs to it."""

    home: Path
    url: str | None = None


def place_of(store: Path | Place) -> Place:
    return store if isinstance(store, Place) else Place(store)


def make_example(store: Path | Place) -> None:
    """In a process of its own, like everything that the dashboard shows."""
    place = place_of(store)
    variables = {**os.environ, "PENSTOCK_STORE_URL": place.url or "none"}
    subprocess.run([sys.executable, str(SCRIPT), str(place.home)], env=variables, check=True, capture_output=True)


class Response:
    def __init__(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)

    def json(self) -> Any:
        return json.loads(self.body)


Headers = list[tuple[str, str]]


class Asked:
    """The application, asked without any socket. Each request runs in an event loop of its own."""

    def __init__(
        self, home: Path, actions: Actions | None = None, token: str | None = TOKEN, url: str | None = None
    ) -> None:
        self.rules = Rules(frozenset({HOST, "[::1]:8000", "localhost:8000"}), token, actions is not None)
        self.dashboard = Dashboard(str(home), self.rules, FRONT, actions, url)

    def __enter__(self) -> Asked:
        return self

    def __exit__(self, *_: object) -> None:
        self.dashboard.close()

    def ask(self, method: str, target: str, headers: Headers, body: bytes = b"") -> Response:
        return asyncio.run(_answered(self.dashboard, scope_of(method, target, headers), body))

    def get(self, target: str, *others: tuple[str, str]) -> Response:
        return self.ask("GET", target, [*good_headers(), *others])

    def json(self, target: str) -> Any:
        response = self.get(target)
        assert response.status == 200, response.body
        return response.json()


def scope_of(method: str, target: str, headers: Headers) -> dict[str, Any]:
    """A request as ASGI tells it."""
    path, _, query = target.partition("?")
    return {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers],
        "client": ("127.0.0.1", 1),
        "scheme": "http",
    }


async def _answered(dashboard: Dashboard, scope: dict[str, Any], body: bytes) -> Response:
    sent: list[dict[str, Any]] = []
    over = asyncio.Event()
    parts = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> dict[str, Any]:
        part = next(parts, None)
        if part is None:
            await over.wait()
            return {"type": "http.disconnect"}
        return part

    async def send(message: Any) -> None:
        sent.append(dict(message))
        # Of a stream the beginning is enough.
        if message["type"] == "http.response.body" and message.get("body"):
            over.set()

    await dashboard.guarded(scope, receive, send)
    start = sent[0]
    headers = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in start["headers"]]
    return Response(start["status"], headers, b"".join(one.get("body", b"") for one in sent[1:]))


def good_headers(method: str = "GET") -> Headers:
    headers = [("host", HOST), ("authorization", f"Bearer {TOKEN}"), ("sec-fetch-site", "same-origin")]
    if method == "POST":
        headers += [("origin", f"http://{HOST}"), ("content-type", "application/json")]
    return headers


def without(headers: Headers, name: str) -> Headers:
    return [one for one in headers if one[0] != name]


class Looked:
    """The answers themselves, without HTTP."""

    def __init__(self, home: Path, url: str | None = None) -> None:
        self.records = Records(home, url)

    def __call__(self, path: str, query: str = "") -> Any:
        found = routes.find("GET", path)
        assert found is not None and found.route.answer is not None, path
        values = {name: asking.in_path(name, routes.IN_PATH[name], text) for name, text in found.in_path.items()}
        document = found.route.answer(self.records, {**asking.read(query, found.route.parameters), **values})
        return json.loads(json.dumps(document, allow_nan=False))

    def run(self, name: str, number: int = 0) -> str:
        """The id of a root run, counted from the latest."""
        rows = self.records.reader.runs(name=name, kind="flow", limit=number + 1)
        return rows[number].id


def rows_of(table: Any) -> list[dict[str, Any]]:
    columns = table["columns"]
    return [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]


# --- a real server ---


class Running:
    def __init__(self, server: Server) -> None:
        self.server = server
        self.port = 0 if server.address.startswith("unix:") else server.port
        self.token = server.token

    def connection(self, timeout: float = 20.0) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}", "Origin": f"http://127.0.0.1:{self.port}"}

    def json(self, target: str) -> Any:
        connection = self.connection()
        try:
            connection.request("GET", target, headers=self.headers())
            response = connection.getresponse()
            body = response.read()
            assert response.status == 200, body
            return json.loads(body)
        finally:
            connection.close()

    def post(self, target: str, document: object) -> tuple[int, Any]:
        connection = self.connection()
        try:
            headers = {**self.headers(), "Content-Type": "application/json"}
            connection.request("POST", target, json.dumps(document), headers)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def events(self, target: str) -> Iterator[tuple[str, Any]]:
        """The events of a stream until it ends."""
        connection = self.connection(60.0)
        try:
            connection.request("GET", target, headers=self.headers())
            response = connection.getresponse()
            assert response.status == 200, response.read()
            yield from _events(response)
        finally:
            connection.close()


def _events(response: http.client.HTTPResponse) -> Iterator[tuple[str, Any]]:
    name = ""
    for raw in response:
        line = raw.decode("ascii").rstrip("\n")
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


@contextmanager
def running(store: Path | Place, **wish: Any) -> Iterator[Running]:
    """A server in a thread of this process, on a port that is free."""
    place = place_of(store)
    server = Server(Wish(str(place.home), place.url, **wish), FRONT)
    ready = threading.Event()
    thread = threading.Thread(target=server.serve, args=(ready.set,), name="dashboard")
    thread.start()
    try:
        assert ready.wait(20)
        yield Running(server)
    finally:
        server.stop()
        thread.join(20)
        assert not thread.is_alive()
