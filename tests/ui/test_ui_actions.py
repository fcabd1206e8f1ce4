"""Cancel, retry and resume from the pages: of runs that a plain script has started in another process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from dashboards import rows_of
from touring import STATIC, Site, Tab, served, touring

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.xdist_group("dashboard")

SCRIPT = """
import sys, time
from pathlib import Path
from penstock import flow, task

HERE = Path(__file__).parent

def done(what):
    with open(HERE / "done", "a") as file:
        file.write(what + "\\n")

@task(persist_result=True)
def fetch(number):
    done(f"fetch {number}")
    return number

@task(persist_result=True)
def load(number):
    done(f"load {number}")
    if number == 2 and not (HERE / "good").exists():
        raise ValueError("there is no 2")
    return number

@task
def hold(numbers):
    (HERE / "holds").touch()
    while not (HERE / "go").exists():
        time.sleep(0.02)
    return sum(numbers)

@flow
def shop(is_held: bool = False):
    numbers = fetch.map(range(3)).result()
    if is_held:
        hold.submit(numbers).result()
    return sum(load.map(numbers).result())

if __name__ == "__main__":
    shop(is_held="held" in sys.argv)
"""


class Shop:
    """The script, what its tasks have done, and the dashboard beside it."""

    def __init__(self, directory: Path, site: Site) -> None:
        self.directory = directory
        self.site = site
        self.script = directory / "shop.py"
        self.script.write_text(SCRIPT, "utf-8")

    @contextmanager
    def going_on(self) -> Iterator[subprocess.Popen[bytes]]:
        """Its run has fetched everything, and stays in the task `hold` until `go`."""
        process = self._start("held")
        try:
            awaited((self.directory / "holds").exists)
            yield process
        finally:
            process.kill()
            process.wait(30)

    def fail(self) -> None:
        assert self._start().wait(60) == 1

    def go(self) -> None:
        (self.directory / "go").touch()

    def mend(self) -> None:
        (self.directory / "good").touch()

    def done(self) -> list[str]:
        return sorted((self.directory / "done").read_text().splitlines())

    def run(self) -> str:
        return self.site.run_of("shop")

    def act(self, action: str, run: str) -> tuple[int, Any]:
        return self.site.post(f"/api/actions/{action}", {"run": run, "nonce": self.site.ask("/api/about")["nonce"]})

    def told(self, run: str) -> dict[str, Any]:
        """What the last command for a run has said, when it has ended."""

        def ended() -> dict[str, Any] | None:
            last, *_ = rows_of(self.site.ask(f"/api/actions?run={run}"))
            return last if last["status"] is not None else None

        found: dict[str, Any] = awaited(ended)
        return found

    def _start(self, *arguments: str) -> subprocess.Popen[bytes]:
        home = self.site.ask("/api/about")["home"]
        environment = {**os.environ, "PENSTOCK_HOME": home, "PENSTOCK_CANCEL_GRACE_SECONDS": "0.2"}
        command = [sys.executable, str(self.script), *arguments]
        return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def awaited(look: Callable[[], Any], seconds: float = 30.0) -> Any:
    end = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return found


@pytest.fixture
def shop(own_store: Path, tmp_path: Path) -> Iterator[Shop]:
    if not (STATIC / "index.html").exists():
        pytest.skip("the front end was not built; type: make ui")
    with served(own_store, "--allow-actions") as site:
        yield Shop(tmp_path, site)


ALL = ["fetch 0", "fetch 1", "fetch 2", "load 0", "load 1", "load 2"]


def state(tab: Tab, name: str) -> None:
    """Wait for it."""
    tab.page.locator(".titleline").get_by_text(name, exact=True).wait_for(timeout=30_000)


def confirmed(tab: Tab, button: str) -> None:
    dialog = tab.page.get_by_role("dialog")
    dialog.get_by_role("button", name=button, exact=True).click()
    dialog.wait_for(state="detached")


# --- in the browser ---------------------------------------------------------------------------------------------------


def test_a_run_that_goes_on_is_cancelled(browser: Browser, shop: Shop) -> None:
    with shop.going_on() as process, touring(browser, shop.site) as tab:
        tab.go("/runs")
        tab.page.locator("tr[data-row='0'] a").first.click()
        state(tab, "Running")
        tab.choose("Cancel")
        confirmed(tab, "Cancel the run")
        state(tab, "Cancelled")  # the page says so by itself
        tab.page.get_by_role("status").get_by_text("Cancel is done.").wait_for()
        tab.page.get_by_role("button", name="Resume").wait_for()
        assert tab.page.get_by_role("button", name="Cancel").count() == 0
        assert process.wait(30) != 0
    assert shop.site.ask(f"/api/runs/{shop.run()}")["run"]["status"] == "CANCELLED"


def test_what_failed_is_run_again_and_nothing_else(browser: Browser, shop: Shop) -> None:
    shop.fail()
    assert shop.done() == ALL
    failed = shop.run()
    shop.mend()
    with touring(browser, shop.site) as tab:
        tab.go(f"/runs/{failed}")
        state(tab, "Failed")
        assert "there is no 2" in tab.page.locator(".errors").inner_text()
        tab.choose("Retry")
        confirmed(tab, "Retry")
        status = tab.page.get_by_role("status")
        status.get_by_text("Retry is done.").wait_for(timeout=30_000)
        assert shop.done() == [*ALL, "load 2"]
        assert shop.run() != failed
        status.get_by_role("link").click()
        tab.page.wait_for_url(f"**/runs/{shop.run()}")
        state(tab, "Completed")
        tab.page.get_by_text("One of 2 lives of this work").click()
        tab.page.locator(".lives").get_by_text("Failed", exact=True).wait_for()
        tab.page.get_by_role("link", name="compare", exact=True).click()
        tab.page.get_by_role("heading", name="Compare two runs").wait_for()


def test_a_run_whose_process_was_killed_is_gone_on_with(browser: Browser, shop: Shop) -> None:
    shop.mend()
    with shop.going_on() as process, touring(browser, shop.site) as tab:
        killed = shop.run()
        tab.go(f"/runs/{killed}")
        state(tab, "Running")
        process.send_signal(signal.SIGKILL)
        state(tab, "Crashed")  # by itself, too
        shop.go()
        tab.choose("Resume")
        confirmed(tab, "Resume")
        status = tab.page.get_by_role("status")
        status.get_by_text("Resume is done.").wait_for(timeout=30_000)
        status.get_by_text("Completed", exact=True).wait_for()
        assert shop.done() == ALL


def test_an_action_that_comes_too_late_tells_why(browser: Browser, shop: Shop) -> None:
    shop.mend()
    with shop.going_on() as process, touring(browser, shop.site) as tab:
        tab.go(f"/runs/{shop.run()}")
        tab.choose("Cancel")
        shop.go()
        assert process.wait(30) == 0
        confirmed(tab, "Cancel the run")
        tab.page.get_by_role("status").get_by_text("had ended already: Completed").wait_for()
        state(tab, "Completed")


def test_an_action_that_is_refused_tells_why(browser: Browser, shop: Shop) -> None:
    shop.fail()
    shop.script.unlink()
    with touring(browser, shop.site) as tab:
        tab.go(f"/runs/{shop.run()}")
        tab.choose("Retry")
        confirmed(tab, "Retry")
        status = tab.page.get_by_role("status")
        status.get_by_text("Retry was not possible").wait_for()
        status.get_by_text("cannot be imported").wait_for()


def test_the_question_is_answered_with_the_keyboard(browser: Browser, shop: Shop) -> None:
    with shop.going_on(), touring(browser, shop.site, bypass_csp=True) as tab:
        page, keyboard = tab.page, tab.page.keyboard
        tab.go(f"/runs/{shop.run()}")
        page.get_by_role("button", name="Cancel", exact=True).focus()
        keyboard.press("Enter")
        page.get_by_role("dialog").wait_for()
        assert tab.violations() == []
        assert page.evaluate("document.activeElement.innerText") == "Leave it"  # not what cannot be undone
        keyboard.press("Escape")
        page.get_by_role("dialog").wait_for(state="detached")
        assert page.evaluate("document.activeElement.innerText") == "Cancel"
        keyboard.press("Enter")
        page.get_by_role("dialog").wait_for()
        keyboard.press("Shift+Tab")
        assert page.evaluate("document.activeElement.innerText") == "Cancel the run"
        keyboard.press("Enter")
        state(tab, "Cancelled")


# --- without one ------------------------------------------------------------------------------------------------------


def test_retry_and_resume_by_themselves(shop: Shop) -> None:
    shop.fail()
    failed = shop.run()
    shop.mend()
    assert shop.act("retry", failed)[0] == 202
    assert shop.told(failed)["status"] == 0
    again = shop.run()
    assert shop.site.ask(f"/api/runs/{again}")["run"]["resumed_from"] == failed
    assert shop.done() == [*ALL, "load 2"]
    assert shop.act("resume", again)[0] == 202  # nothing failed in it
    assert "nothing to resume" in shop.told(again)["output"]
    assert shop.told(again)["status"] == 2


def test_who_only_looks_has_no_buttons_and_cannot_act(browser: Browser, shop: Shop) -> None:
    shop.fail()
    run = shop.run()
    with served(Path(shop.site.ask("/api/about")["home"])) as site, touring(browser, site) as tab:
        tab.go(f"/runs/{run}")
        state(tab, "Failed")
        tab.page.wait_for_timeout(200)  # for what should not come
        assert tab.page.locator(".actions").count() == 0
        for action in ("cancel", "retry", "resume"):
            status, answer = site.post(f"/api/actions/{action}", {"run": run, "nonce": "x"})
            assert status == 403
            assert "--allow-actions" in answer["error"]["hint"]
    assert shop.done() == ALL
