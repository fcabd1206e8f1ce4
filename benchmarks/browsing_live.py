"""What a window on a run of the promised size uses while it goes on, and while nothing happens in it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from benchmarks.browsing import INSIDE, REQUESTS, ROWS, TABS, Visit, idle, visiting
from benchmarks.figures import Figure, at_most

CHANGING = 10  # seconds
WATCHED = ("timeline", "tasks", "logs", "graph")


def finished(browser: Any, known: Mapping[str, str]) -> Iterator[Figure]:
    for tab in ("timeline", "tasks", "logs"):
        with visiting(browser) as visit:
            visit.open(f"/runs/{known['loud']}?tab={tab}")
            visit.shows(ROWS[tab])
            yield from idle(visit, f"idle tab of a finished run, {tab}")


def live(browser: Any) -> Iterator[Figure]:
    with _going_on() as run, visiting(browser) as visit:
        visit.open("/runs")
        link = visit.page.locator("tr[data-row] a[href*='/runs/']").first
        link.wait_for()
        path = link.get_attribute("href").partition("?")[0]
        for tab in TABS:
            visit.page.evaluate(INSIDE, f"{path}?tab={tab}")
            visit.shows(ROWS[tab]) if tab not in ("where", "logs") else visit.page.wait_for_timeout(1000)
        for tab in WATCHED:
            yield from _requests(visit, run, path, tab)
        for tab in WATCHED:
            visit.open(f"{path}?tab={tab}")
            visit.page.wait_for_timeout(4000)
            yield from idle(visit, f"idle tab of a live run of 100,000 in which nothing happens, {tab}")


def _requests(visit: Visit, run: subprocess.Popen[str], path: str, tab: str) -> Iterator[Figure]:
    session = visit.page.context.new_cdp_session(visit.page)
    session.send("Network.enable")
    asked: list[str] = []
    pushed: list[int] = []
    session.on("Network.requestWillBeSent", lambda event: asked.append(event["request"]["url"]))
    session.on("Network.dataReceived", lambda event: pushed.append(event["dataLength"]))
    visit.open(f"{path}?tab={tab}")
    visit.page.wait_for_timeout(4000)
    opening = [url for url in asked if "/api/" in url and "/api/about" not in url]
    asked.clear()
    pushed.clear()
    _tell(run, f"work {CHANGING}")
    visit.page.wait_for_timeout(CHANGING * 1000)
    said = f"{len(pushed)} pieces of {sum(pushed) / 1000:.0f} kB in all were pushed; {len(opening)} to open it"
    refreshing = len([url for url in asked if "/api/" in url])
    yield at_most(f"requests while a run of 100,000 changes for {CHANGING} s, {tab}", REQUESTS, "", refreshing, said)
    assert run.stdout is not None and run.stdout.readline() == "rests\n"
    session.detach()


@contextmanager
def _going_on() -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "benchmarks.large_runs", "--going-on"]
    environment = {**os.environ, "PENSTOCK_PROGRESS": "off"}  # which would say from time to time that it goes on
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
    with subprocess.Popen(command, env=environment, **pipes) as run:
        assert run.stdout is not None and run.stdin is not None
        assert run.stdout.readline() == "rests\n"
        try:
            yield run
        finally:
            run.stdin.close()


def _tell(run: subprocess.Popen[str], what: str) -> None:
    assert run.stdin is not None
    run.stdin.write(what + "\n")
    run.stdin.flush()
