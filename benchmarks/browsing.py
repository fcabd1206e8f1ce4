"""What a browser does with the dashboard on a run of 100,000 tasks: Debian's Chromium, no screen, no graphics card."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from penstock import flow, task
from penstock.task_runners import ThreadPoolTaskRunner

TASKS = 100_000
FRAMES = 120

PAINTED = """() => new Promise(done => {
  const look = () => {
    const canvas = document.querySelector('.lanes canvas');
    const drawn = canvas && document.querySelector('table[aria-label], .legend li');
    drawn ? requestAnimationFrame(() => done(performance.now())) : setTimeout(look, 5);
  };
  look();
})"""

# One movement for each frame; the longest tenth is what somebody notices.
MOVING = """([frames, kind]) => new Promise(done => {
  const lanes = document.querySelector('.lanes');
  const box = lanes.getBoundingClientRect();
  const place = {clientX: box.left + box.width * .6, clientY: box.top + 12, bubbles: true, cancelable: true};
  const times = [];
  let last = performance.now();
  const step = () => {
    const now = performance.now();
    times.push(now - last);
    last = now;
    if (times.length > frames) {
      times.sort((a, b) => a - b);
      return done(times[Math.floor(times.length * .9)]);
    }
    const back = times.length % 40 > 20 ? 1 : -1;
    const turn = kind === 'zoom' ? {deltaY: 40 * back} : {deltaX: 60 * back};
    lanes.dispatchEvent(new WheelEvent('wheel', {...place, ...turn}));
    if (kind === 'scroll') lanes.scrollTop += 1500 * back * -1;
    requestAnimationFrame(step);
  };
  requestAnimationFrame(step);
})"""


@task
def step(number: int) -> int:
    if number % 5000 == 4999:
        raise ValueError(number)
    return number


@flow
def large() -> int:
    futures = step.map(range(TASKS))
    futures.wait()
    return sum(future.state.is_completed() for future in futures)


@contextmanager
def served() -> Iterator[str]:
    """The dashboard on a store with that run."""
    large.with_options(task_runner=ThreadPoolTaskRunner(max_workers=8))()
    command = [sys.executable, "-m", "penstock.cli", "ui", "--port", "0", "--no-token"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as server:
        assert server.stdout is not None
        try:
            yield next(found[0] for line in server.stdout if (found := re.search(r"http://[\d.:]+", line)))
        finally:
            server.terminate()


@contextmanager
def opened() -> Iterator[tuple[Any, list[str], float]]:
    """The timeline of the run in a browser: the page, what it asked the server, milliseconds to its first drawing."""
    from playwright.sync_api import sync_playwright

    with served() as address, sync_playwright() as playwright:
        options = ["--enable-precise-memory-info", "--js-flags=--expose-gc"]
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=options)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(f"{address}/runs")
        page.locator("tr[data-row] a").first.wait_for()
        path = page.locator("tr[data-row] a").first.get_attribute("href")
        asked: list[str] = []
        page.on("request", lambda request: "/api/" in request.url and asked.append(request.url))
        page.goto(f"{address}{path}")
        painted = page.evaluate(PAINTED)
        page.wait_for_timeout(500)
        yield page, asked, painted
        browser.close()


def first_paint() -> float:
    with opened() as (_, _, painted):
        return painted


def requests() -> float:
    with opened() as (_, asked, _):
        return len([url for url in asked if "/api/about" not in url])


def frame(kind: str) -> float:
    """Milliseconds that nine of ten frames keep to, with the 100,000 rows of the group open."""
    with opened() as (page, _, _):
        _open_group(page)
        for _ in range(3 if kind == "pan" else 0):  # who sees all of it has nowhere to go
            page.keyboard.press("+")
        return float(page.evaluate(MOVING, [FRAMES, kind]))


def heap() -> float:
    """MB after a tour through all views."""
    with opened() as (page, _, _):
        _open_group(page)
        page.evaluate(MOVING, [FRAMES, "scroll"])
        for key in "2341":
            page.keyboard.press(key)
            page.wait_for_timeout(700)
            page.mouse.wheel(0, 5000)
            page.wait_for_timeout(300)
        return float(page.evaluate("performance.memory.usedJSHeapSize")) / 2**20


def _open_group(page: Any) -> None:
    page.locator(".lanes").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.get_by_role("table", name="Runs of step").wait_for(state="attached")


zooming, panning, scrolling = (partial(frame, kind) for kind in ("zoom", "pan", "scroll"))
