"""Runs that go on, in the browser: what is seen is true at any time, and at the end it is what the store says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from touring import STATIC, Site, Tab, served, touring

from penstock.recovery import open_reader

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.xdist_group("dashboard")


@pytest.fixture
def site(own_store: Path) -> Iterator[Site]:
    if not (STATIC / "index.html").exists():
        pytest.skip("the front end was not built; type: make ui")
    with served(own_store) as site:
        yield site


@contextmanager
def started(script: Path, store: Path) -> Iterator[subprocess.Popen[bytes]]:
    """In another process; at the end it is over, or is stopped."""
    command, environment = [sys.executable, str(script)], {**os.environ, "PENSTOCK_HOME": str(store)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
        process.wait(60)
    finally:
        process.kill()
        process.wait(30)


# --- followed to its end ----------------------------------------------------------------------------------------------

BUSY = """
import time
from penstock import flow, task, get_run_logger, runtime
from penstock.task_runners import ThreadPoolTaskRunner

@task(retries=1, retry_delay_seconds=0.05)
def work(number):
    time.sleep(0.01)
    if number % 100 == 7 and runtime.task_run.run_count == 1:
        raise OSError("once")
    if number % 500 == 3:
        raise ValueError(f"never {number}")
    if number % 10 == 0:
        get_run_logger().info("at %d", number)
    return number

@flow(task_runner=ThreadPoolTaskRunner(max_workers=8))
def busy(number=2000):
    futures = work.map(range(number))
    futures.wait()
    done = sum(future.state.is_completed() for future in futures)
    get_run_logger().info("that was the last line")
    return done

if __name__ == "__main__":
    busy()
"""


def test_a_run_of_two_thousand_tasks_is_followed_to_its_end(
    browser: Browser, site: Site, own_store: Path, tmp_path: Path
) -> None:
    script = tmp_path / "busy.py"
    script.write_text(BUSY, "utf-8")
    with touring(browser, site) as visit, touring(browser, site) as lines:
        visit.go("/runs?flow=busy")
        with started(script, own_store):
            row = visit.page.locator("tr[data-row='0']")
            row.get_by_text("Running").wait_for()  # it appears by itself
            row.locator("a").first.click()
            visit.page.wait_for_url("**/runs/*")
            run = visit.page.url.split("?")[0].rsplit("/", 1)[1]
            lines.go(f"/runs/{run}?tab=logs")
            lines.page.get_by_role("button", name="Following").wait_for()
            lines.page.keyboard.press("f")
            lines.page.get_by_role("button", name=re.compile(r"^Follow($| \()")).wait_for()
            lines.page.keyboard.press("f")
            lines.page.get_by_role("button", name="Following").wait_for()
            visit.page.get_by_text(re.compile(r"RUNNING.*2,000 task runs \(\d.* running")).first.wait_for()
            ended = re.compile(r"COMPLETED in .* · 2,000 task runs \(4 failed and handled, 2\d retried\)")
            visit.page.get_by_text(ended).wait_for(timeout=40_000)
        visit.page.locator(".titleline").get_by_text("Completed").wait_for()
        _says_what_the_store_says(visit, own_store, run)
        _has_all_lines(lines, own_store, run)
        asked = [path for path in visit.asked if "/live" in path]
        assert len(asked) < 12, asked  # pushed, not asked for again and again


def _says_what_the_store_says(visit: Tab, store: Path, run: str) -> None:
    with closing(open_reader(store)) as reader:
        tasks = reader.children(run)
    numbers = Counter(task.status for task in tasks)
    assert numbers == {"COMPLETED": 1996, "FAILED": 4}
    retried = sum(task.attempts > 1 for task in tasks)
    outcome = visit.page.locator(".outcome").inner_text()
    assert outcome.endswith(f"2,000 task runs (4 failed and handled, {retried} retried)")
    assert visit.page.locator(".head .bar").get_attribute("aria-label") == "1,996 completed, 4 failed"
    table = visit.page.get_by_role("table", name="The timeline as a table")
    cells = [cell.inner_text() for cell in table.locator("tbody tr").locator("th, td").all()]
    assert cells[:3] == ["work", "2,000", "1,996 completed, 4 failed"]
    assert "not yet" not in cells
    visit.page.get_by_role("link", name="Tasks").click()
    visit.page.get_by_text("2,000 task runs", exact=True).wait_for()
    rows = visit.page.get_by_role("table", name="Task runs")
    assert rows.get_attribute("aria-rowcount") == "2001"
    last = max(tasks, key=lambda task: (task.created, task.id))
    visit.until("(scrollTo(0, 1e9), document.querySelector('tr[data-row=\"1999\"]'))")
    words = rows.locator("tr[data-row='1999']").inner_text()
    assert last.run_name in words
    assert (last.state_name or "") in words


def _has_all_lines(lines: Tab, store: Path, run: str) -> None:
    lines.page.get_by_text("that was the last line").wait_for()
    lines.page.get_by_text(re.compile("COMPLETED in")).last.wait_for()
    with closing(open_reader(store)) as reader:
        number = len(reader.logs(run, limit=10_000))
    assert number > 200
    box = lines.page.locator(".lines")
    lines.until("number => document.querySelector('.lines .space').offsetHeight === 20 * number", arg=number)
    top, height, seen = box.evaluate("e => [e.scrollTop, e.scrollHeight, e.clientHeight]")
    assert top + seen >= height - 40  # it followed


def test_a_store_that_does_not_exist_yet(browser: Browser, site: Site, own_store: Path, tmp_path: Path) -> None:
    script = tmp_path / "small.py"
    script.write_text("from penstock import flow\n@flow\ndef small():\n    return 1\nsmall()\n", "utf-8")
    with touring(browser, site, bypass_csp=True) as visit:
        visit.go("/flows")
        visit.page.get_by_text("No flow has been recorded yet").wait_for()
        assert visit.violations() == []
        visit.go("/runs")
        visit.page.get_by_text("Nothing has been recorded yet").wait_for()
        assert visit.violations() == []
        with started(script, own_store):
            visit.page.locator("tr[data-row='0']").get_by_text("Completed").wait_for()


# --- rows that are far down -------------------------------------------------------------------------------------------

LONG = """
import time
from pathlib import Path
from penstock import flow, task
from penstock.task_runners import ThreadPoolTaskRunner

HERE = Path(__file__).parent

def await_(name):
    while not (HERE / name).exists():
        time.sleep(0.02)

@task
def work(number):
    if number >= 300:
        await_("go")
    if number == 799:
        await_("end")

@flow(task_runner=ThreadPoolTaskRunner(max_workers=2))
def long():
    work.map(range(800)).wait()

if __name__ == "__main__":
    long()
"""

STATE = "row => document.querySelector(`tr[data-row='${row}'] .state`)?.innerText"


def test_rows_that_are_scrolled_to_stay_true_while_the_run_goes_on(
    browser: Browser, site: Site, own_store: Path, tmp_path: Path
) -> None:
    script = tmp_path / "long.py"
    script.write_text(LONG, "utf-8")
    with started(script, own_store), touring(browser, site) as visit:
        visit.go("/runs?flow=long")
        visit.page.locator("tr[data-row='0'] a").first.click()
        visit.page.wait_for_url("**/runs/*")
        visit.page.get_by_text("800 task runs (2 running)").wait_for()
        visit.page.keyboard.press("3")
        visit.page.wait_for_selector("tr[data-row='5']")
        for row in (190, 390, 560):
            _scrolled_to(visit, row)
        assert visit.page.evaluate(STATE, 560) == "Pending"
        visit.page.wait_for_timeout(300)
        visit.asked.clear()
        (tmp_path / "go").touch()
        visit.until(f"() => ({STATE})(560) === 'Completed'")
        assert "RUNNING" in visit.page.locator(".outcome").inner_text()
        assert visit.asked == []  # pushed, by the stream that was there
        _scrolled_to(visit, 330)  # loaded when it was pending, and not looked at since
        visit.until(f"() => ({STATE})(330) === 'Completed'")
        _scrolled_to(visit, 5)
        assert visit.page.evaluate(STATE, 5) == "Completed"
        (tmp_path / "end").touch()
        visit.page.locator(".titleline").get_by_text("Completed").wait_for()
        _scrolled_to(visit, 700)
        visit.until(f"() => ({STATE})(700) === 'Completed'")
        rows = visit.page.evaluate("[...document.querySelectorAll('tr[data-row] a')].map(one => one.innerText)")
        assert len(set(rows)) == len(rows)


def _scrolled_to(visit: Tab, row: int) -> None:
    """Rows are 30 pixels high; there may be no more than have been loaded."""
    visit.until(
        "row => (scrollTo(0, row * 30), document.querySelector(`tr[data-row='${row}']`))", arg=row, seconds=20.0
    )
    visit.page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def test_the_end_of_a_run_leaves_the_reader_where_he_is(
    browser: Browser, site: Site, own_store: Path, tmp_path: Path
) -> None:
    script = tmp_path / "long.py"
    script.write_text(LONG, "utf-8")
    (tmp_path / "go").touch()
    with started(script, own_store), touring(browser, site, color_scheme="dark", bypass_csp=True) as visit:
        visit.go("/runs?flow=long")
        visit.page.locator("tr[data-row='0']").get_by_text("Running").wait_for()
        assert visit.violations() == []
        visit.page.locator("tr[data-row='0'] a").first.click()
        visit.page.wait_for_url("**/runs/*")
        visit.page.get_by_text("800 task runs (1 running)").wait_for()
        assert visit.violations() == []
        visit.page.keyboard.press("3")
        visit.page.wait_for_selector("tr[data-row='5']")
        for row in (190, 390, 560):
            _scrolled_to(visit, row)
        before = visit.page.evaluate("scrollY")
        (tmp_path / "end").touch()
        visit.page.locator(".titleline").get_by_text("Completed").wait_for(state="attached")
        visit.page.wait_for_timeout(500)  # for what should not come
        assert visit.page.evaluate("scrollY") == before
        assert visit.page.evaluate(STATE, 570) == "Completed"


# --- the process is gone ----------------------------------------------------------------------------------------------

KILLED = """
import time
from penstock import flow, task

@task
def fine():
    return 1

@task
def endless():
    time.sleep(600)

@flow
def doomed():
    fine()
    endless()

if __name__ == "__main__":
    doomed()
"""


def test_a_run_whose_process_was_just_killed_is_shown_to_its_end(
    browser: Browser, site: Site, own_store: Path, tmp_path: Path
) -> None:
    script = tmp_path / "killed.py"
    script.write_text(KILLED, "utf-8")
    with touring(browser, site) as visit:
        visit.go("/runs?flow=doomed")
        with started(script, own_store) as process:
            visit.page.locator("tr[data-row='0'] [aria-label*='1 running']").wait_for()
            process.kill()
            process.wait(30)
            visit.page.locator("tr[data-row='0'] a").first.click()
            visit.page.get_by_text(re.compile(r"CRASHED in (?!0 ms).* · 2 task runs \(1 crashed\)")).wait_for()
        table = visit.page.get_by_role("table", name="The timeline as a table")
        table.get_by_text("1 crashed").wait_for(state="attached")
        assert table.locator("tbody tr").count() == 2
        assert "not yet" not in (table.text_content() or "")
