"""What a browser does with runs of the sizes that the dashboard promises: Chromium without screen or graphics card."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from benchmarks.figures import Figure, at_most, command_of, descendants, percentile, used
from benchmarks.large_runs import LINES_EACH, LOUD, WIDE
from penstock.settings import home
from penstock.ui.records import Records

FIRST_PAINT, FRAME, HEAP, REQUESTS = 1000, 1000 / 30, 100, 2  # ms, ms, MB
IDLE, IDLE_SECONDS = 2.0, 10  # % of one processor
FRAMES = 150
TABS = ("timeline", "graph", "tasks", "logs", "parameters", "where")
ROWS = {
    "timeline": ".legend li",
    "graph": "section svg",
    "tasks": "tr[data-row]",
    "logs": ".line, .lines .empty",
    "parameters": "table.values td",
    "where": "section[aria-label='Where the time went'] *",
}

# When the first element was there that holds data, and drawn.
WATCH = """selector => {
  const look = () => {
    if (window.drawn || !document.querySelector(selector)) return;
    window.drawn = -1;
    requestAnimationFrame(() => requestAnimationFrame(() => { window.drawn = performance.now(); }));
  };
  new MutationObserver(look).observe(document, {childList: true, subtree: true});
}"""
PAINTED = """() => [performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? -1, window.drawn ?? -1]"""

# One movement for each frame, back and forth.
MOVE = """([frames, kind]) => new Promise(done => {
  const lanes = document.querySelector('.lanes');
  const box = lanes.getBoundingClientRect();
  const place = {clientX: box.left + box.width * .6, clientY: box.top + 12, bubbles: true, cancelable: true};
  const times = [];
  let last = performance.now();
  const step = now => {
    times.push(now - last);
    last = now;
    if (times.length > frames) return done(times.slice(1));
    const back = times.length % 40 > 20 ? 1 : -1;
    if (kind === 'scroll') lanes.scrollTop -= 1500 * back;
    else lanes.dispatchEvent(new WheelEvent('wheel', {...place, ...(kind === 'zoom' ? {deltaY: 40 * back}
                                                                                   : {deltaX: 60 * back})}));
    requestAnimationFrame(step);
  };
  requestAnimationFrame(step);
})"""
# A screenful for every third frame, down or up; also how often there was nothing to see.
SCROLL = """([frames, selector, rows, down]) => new Promise(done => {
  const box = selector ? document.querySelector(selector) : document.scrollingElement;
  const middle = () => {
    const {left, top, width, height} = selector ? box.getBoundingClientRect()
      : {left: 0, top: 0, width: innerWidth, height: innerHeight};
    return !!document.elementFromPoint(left + width / 2, top + height / 2)?.closest(rows);
  };
  const times = [];
  let empty = 0;
  let last = performance.now();
  const step = now => {
    times.push(now - last);
    last = now;
    empty += middle() ? 0 : 1;
    if (times.length > frames) return done([times.slice(1), empty]);
    box.scrollBy(0, down * innerHeight / 3);
    requestAnimationFrame(step);
  };
  requestAnimationFrame(step);
})"""
SHOWN = """rows => {
  const seen = [...document.querySelectorAll(rows)].filter(row => {
    const {top, bottom} = row.getBoundingClientRect();
    return bottom > 0 && top < innerHeight && row.textContent.trim();
  });
  return seen.length;
}"""
INSIDE = "path => history.pushState(null, '', path)"  # as a click on a link there does


@dataclass
class Visit:
    """A page of a dashboard."""

    page: Any
    address: str
    token: str
    server: int  # process

    def open(self, path: str) -> None:
        self.page.goto("about:blank")
        self.page.goto(f"{self.address}{path}#token={self.token}")

    def until(self, condition: str, *arguments: Any, seconds: float = 30) -> None:
        """The page's security policy forbids Playwright's own way to wait for a condition."""
        end = time.monotonic() + seconds
        while not self.page.evaluate(condition, *arguments):
            assert time.monotonic() < end, (self.page.url, condition)
            self.page.wait_for_timeout(10)

    def shows(self, selector: str) -> None:
        self.page.locator(selector).first.wait_for(state="attached", timeout=30_000)

    def processes(self, kind: str = "") -> list[int]:
        mine = [one for one in descendants(os.getpid()) if "chrom" in command_of(one)]
        return [one for one in mine if kind in command_of(one)]


@contextmanager
def served() -> Iterator[tuple[str, str, int]]:
    """Address, token and process of a dashboard that has just been started."""
    command = [sys.executable, "-m", "penstock.cli", "ui", "--port", "0"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as server:
        assert server.stdout is not None
        try:
            found = next(
                found for line in server.stdout if (found := re.search(r"(http://[\d.:]+)/#token=(\S+)", line))
            )
            yield found[1], found[2], server.pid
        finally:
            server.terminate()


@contextmanager
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium")
        yield browser
        browser.close()


@contextmanager
def visiting(browser: Any, watched: str | None = None) -> Iterator[Visit]:
    """A fresh window on a fresh dashboard; `watched`: of what the first drawing is to be noted."""
    with served() as (address, token, server):
        context = browser.new_context(viewport={"width": 1280, "height": 900})
        context.set_default_timeout(60_000)
        page = context.new_page()
        if watched is not None:
            page.add_init_script(f"({WATCH})({watched!r})")
        yield Visit(page, address, token, server)
        context.close()


def runs() -> dict[str, str]:
    """Latest run by name of the flow."""
    records = Records(home())
    found = {row.name: row.id for row in reversed(records.reader.runs(limit=50))}
    records.close()
    return found


def in_a_browser() -> Iterator[Figure]:
    from benchmarks import browsing_live  # which uses what is above

    known = runs()
    with chromium() as browser:
        yield from _first_paints(browser, known)
        yield from _timelines(browser, known)
        yield from _tables(browser, known)
        yield from _logs(browser, known)
        yield from _heap(browser, known)
        yield from browsing_live.finished(browser, known)
        yield from browsing_live.live(browser)


def _first_paints(browser: Any, known: Mapping[str, str]) -> Iterator[Figure]:
    paths = {"/runs": "tr[data-row]", "/flows/daily": "table td .cell"}
    paths |= {f"/runs/{known[name]}?tab={tab}": ROWS[tab] for name in ("wide", "loud") for tab in TABS}
    paths[f"/compare?a={known['wide']}&b={known['loud']}"] = "main table td"
    for path, rows in paths.items():
        with visiting(browser, rows) as visit:
            visit.open(path)
            visit.until("() => window.drawn > 0")
            painted, drawn = visit.page.evaluate(PAINTED)
        what = path.replace(known["wide"], "{wide}").replace(known["loud"], "{loud}")
        yield at_most(f"{what}: first data drawn", FIRST_PAINT, "ms", drawn, f"first paint {painted:.0f} ms")


def _timelines(browser: Any, known: Mapping[str, str]) -> Iterator[Figure]:
    for name, group in (("wide", "clean"), ("loud", "say")):
        for opened in (False, True):
            with visiting(browser) as visit:
                visit.open(f"/runs/{known[name]}" + (f"?tab=timeline&open={group}" if opened else ""))
                visit.shows(ROWS["timeline"])
                if opened:
                    visit.page.get_by_role("table", name=f"Runs of {group}").wait_for(state="attached")
                for kind in ("zoom", "pan", "scroll")[: 3 if opened else 2]:
                    yield _moving(visit, kind, f"{name}, {'opened' if opened else 'groups'}")


def _moving(visit: Visit, kind: str, what: str) -> Figure:
    page = visit.page
    page.wait_for_timeout(500)
    page.locator(".lanes").focus()
    page.keyboard.press("0")
    for _ in range(3 if kind == "pan" else 0):  # who sees all of it has nowhere to go
        page.keyboard.press("+")
    return _frames(f"{kind} the timeline, {what}: 90th percentile of frames", page.evaluate(MOVE, [FRAMES, kind]))


def _frames(what: str, times: list[float], *others: str) -> Figure:
    ninth, last = percentile(times, 0.9), percentile(times, 0.99)
    figure = at_most(what, round(FRAME, 1), "ms", ninth, f"99th {last:.0f} ms", *others)
    return Figure(figure.what, figure.budget, figure.measured, figure.holds and last <= 3 * FRAME)


def _tables(browser: Any, known: Mapping[str, str]) -> Iterator[Figure]:
    rows = "tr[data-row]"
    with visiting(browser) as visit:
        page = visit.page
        visit.open(f"/runs/{known['wide']}?tab=tasks")
        visit.shows(rows)
        times, empty = page.evaluate(SCROLL, [FRAMES, None, rows, 1])
        yield _frames("scroll down the task table: 90th percentile of frames", times, f"{empty} without rows")
        began = time.monotonic()
        seconds = {}
        for what, wanted in (("middle", WIDE // 2), ("end", WIDE - 1)):
            _scroll_to_row(visit, wanted)
            seconds[what] = time.monotonic() - began
            page.wait_for_timeout(500)  # what is still being loaded for the end belongs to the way there
            times, empty = page.evaluate(SCROLL, [FRAMES, None, rows, -1])
            yield _frames(f"scroll at its {what}", times, f"{empty} without rows", f"there in {seconds[what]:.1f} s")
        visit.open(f"/runs/{known['wide']}?tab=tasks&sort=created&direction=desc")
        visit.shows(rows)
        yield at_most("rows at its end, by turning the order", 1, "rows missing", int(not page.evaluate(SHOWN, rows)))


def _scroll_to_row(visit: Visit, wanted: int) -> None:
    """By going to the end of what there is, again and again."""
    end = time.monotonic() + 120
    while (
        visit.page.evaluate(
            """() => {
                 scrollTo(0, document.scrollingElement.scrollHeight);
                 return Math.max(0, ...[...document.querySelectorAll('tr[data-row]')].map(row => row.dataset.row));
               }"""
        )
        < wanted
    ):
        assert time.monotonic() < end, f"row {wanted} was not reached"
        visit.page.wait_for_timeout(5)


def _logs(browser: Any, known: Mapping[str, str]) -> Iterator[Figure]:
    lines = LOUD * LINES_EACH
    for what, place in (("end", ""), ("middle", f"&line={lines // 2}"), ("begin", "&line=1")):
        with visiting(browser) as visit:
            visit.open(f"/runs/{known['loud']}?tab=logs{place}")
            visit.shows(".line")
            visit.page.wait_for_timeout(300)
            seen = visit.page.evaluate(SHOWN, ".line")
            down = 1 if what == "begin" else -1
            times, empty = visit.page.evaluate(SCROLL, [FRAMES, ".lines", ".line", down])
            found = f"{seen} lines at first, {empty} frames without"
            figure = _frames(f"scroll through the log from its {what}", times, found)
            yield Figure(figure.what, figure.budget, figure.measured, figure.holds and seen > 10)


def _heap(browser: Any, known: Mapping[str, str]) -> Iterator[Figure]:
    with visiting(browser) as visit:
        page = visit.page
        visit.open("/runs")
        visit.shows("tr[data-row]")
        for name, group in (("wide", "clean"), ("loud", "say")):
            for tab in TABS:
                page.evaluate(INSIDE, f"/runs/{known[name]}?tab={tab}")
                visit.shows(ROWS[tab])
                page.wait_for_timeout(200)
                _wander(visit, tab)
            page.evaluate(INSIDE, f"/runs/{known[name]}?tab=timeline&open={group}")
            page.get_by_role("table", name=f"Runs of {group}").wait_for(state="attached")
            page.evaluate(MOVE, [FRAMES, "scroll"])
        for path in ("/flows/daily", f"/compare?a={known['wide']}&b={known['loud']}", "/about", "/runs"):
            page.evaluate(INSIDE, path)
            page.wait_for_timeout(1000)
        yield at_most("heap after a tour through all pages and tabs", HEAP, "MB", heap(page))


def _wander(visit: Visit, tab: str) -> None:
    """Through what can be scrolled: a dozen pages of it."""
    if tab == "tasks":
        _scroll_to_row(visit, 2_500)
    if tab == "logs":
        visit.page.evaluate(SCROLL, [FRAMES, ".lines", ".line", -1])
    if tab == "timeline":
        visit.page.evaluate(MOVE, [FRAMES, "zoom"])


def heap(page: Any) -> float:
    """MB that are in use after all garbage was collected, what typed arrays and strings keep outside included."""
    session = page.context.new_cdp_session(page)
    session.send("HeapProfiler.enable")
    session.send("HeapProfiler.collectGarbage")
    usage = session.send("Runtime.getHeapUsage")
    session.detach()
    return float(sum(usage.get(name, 0) for name in ("usedSize", "backingStorageSize"))) / 2**20


def idle(visit: Visit, what: str) -> Iterator[Figure]:
    """What a window and its dashboard use of a processor while nothing happens."""
    visit.page.wait_for_timeout(3000)
    kinds = {"renderer": visit.processes("--type=renderer"), "server": [visit.server], "browser": visit.processes()}
    before = {name: used(found) for name, found in kinds.items()}
    visit.page.wait_for_timeout(IDLE_SECONDS * 1000)
    share = {name: (used(found) - before[name]) / IDLE_SECONDS * 100 for name, found in kinds.items()}
    said = (
        f"renderer {share['renderer']:.1f} %, server {share['server']:.1f} %, all of Chromium {share['browser']:.1f} %"
    )
    yield at_most(f"{what}: processor", IDLE, "%", share["renderer"] + share["server"], said)
