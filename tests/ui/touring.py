"""The dashboard as a person sees it: the real server in a process of its own, a real browser."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import penstock.ui
from browser import WIDE, Visit

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

STATIC = Path(penstock.ui.__file__).parent / "static"
ADDRESS = re.compile(r"(http://[\d.:]+)/(?:#token=(\S+))?$")
SETTLED = "document.querySelector('main h1') && !document.querySelector('.loading')"
DRAWN = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"


class Site:
    """A dashboard that is served: its address, and what it answers."""

    def __init__(self, address: str, token: str) -> None:
        self.address = address
        self.token = token

    def url(self, path: str = "/") -> str:
        return f"{self.address}{path}#token={self.token}"

    def ask(self, path: str) -> Any:
        request = urllib.request.Request(self.address + path, headers={"Authorization": f"Bearer {self.token}"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def post(self, path: str, document: object) -> tuple[int, Any]:
        """The status and the answer, whatever they are."""
        headers = {"Authorization": f"Bearer {self.token}", "Origin": self.address, "Content-Type": "application/json"}
        request = urllib.request.Request(self.address + path, json.dumps(document).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as refusal:
            with refusal:
                return refusal.code, json.load(refusal)

    def run_of(self, flow: str, **fields: object) -> str:
        """The latest run of a flow that has these fields."""
        columns = self.ask(f"/api/runs?limit=200&flow={flow}")["columns"]
        wanted = [
            run
            for place, run in enumerate(columns["id"])
            if all(columns[name][place] == value for name, value in fields.items())
        ]
        return str(wanted[0])


@contextmanager
def raw(
    site: Site, path: str, headers: Mapping[str, str] | None = None, sockets: list[socket.socket] | None = None
) -> Iterator[http.client.HTTPResponse]:
    """The answer to a program without the token, unless that is in the headers; its socket is added to `sockets`."""
    with closing(http.client.HTTPConnection(site.address.removeprefix("http://"), timeout=30)) as connection:
        connection.request("GET", path, headers=dict(headers or {}))
        if sockets is not None:
            sockets.append(connection.sock)
        with closing(connection.getresponse()) as answer:
            yield answer


@contextmanager
def served(store: Path, *options: str) -> Iterator[Site]:
    """Start `penstock ui` on the store in `store`; it must stop without a complaint when it is told to."""
    command = [sys.executable, "-m", "penstock.cli", "ui", "--port", "0", *options]
    environment = {**os.environ, "PENSTOCK_HOME": str(store), "PYTHONUNBUFFERED": "1"}
    server = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield _site(server)
    finally:
        server.terminate()
        said, _ = server.communicate(timeout=20)
        assert "Traceback" not in said, said


def _site(server: subprocess.Popen[str]) -> Site:
    assert server.stdout is not None
    said = ""
    for line in server.stdout:
        said += line
        if found := ADDRESS.search(line.strip()):
            return Site(found[1], found[2] or "")
    raise AssertionError(f"it did not start:\n{said}")


class Tab(Visit):
    """A tab that shows a dashboard."""

    def __init__(self, page: Page, site: Site) -> None:
        self.site = site
        self.asked: list[str] = []  # of the server's answers
        super().__init__(page, site.address)

    def _asked(self, url: str) -> None:
        super()._asked(url)
        if url.startswith(f"{self.site.address}/api/"):
            self.asked.append(url.removeprefix(self.site.address))

    def go(self, path: str) -> None:
        """As somebody does who follows a link there; then there is something to see."""
        self.page.goto("about:blank")  # a change of what is behind the # would not load anything
        self.page.goto(self.site.url(path))
        self.settle()

    def settle(self) -> None:
        self.until(SETTLED)
        self.page.evaluate(DRAWN)

    def choose(self, name: str) -> None:
        """Press a button."""
        self.page.get_by_role("button", name=name, exact=True).click()

    def until(self, condition: str, *, arg: object = None, seconds: float = 15.0) -> None:
        """Wait until JavaScript says so. (Playwright's own way to do this is stopped by the security policy.)"""
        end = time.monotonic() + seconds
        while not self.page.evaluate(condition, arg):
            assert time.monotonic() < end, (self.page.url, condition)
            self.page.wait_for_timeout(20)


@contextmanager
def touring(browser: Browser, site: Site, **options: Any) -> Iterator[Tab]:
    """A window on the dashboard; at the end, nothing may have gone wrong in it."""
    context = browser.new_context(**{"viewport": WIDE, **options})
    context.set_default_timeout(15_000)
    try:
        tab = Tab(context.new_page(), site)
        yield tab
        assert not tab.trouble, tab.trouble
    finally:
        context.close()
