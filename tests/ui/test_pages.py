"""The pages of the dashboard in a real browser: what is on them, for whom, and what must never happen there."""

from __future__ import annotations

import gzip
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import quote

import pytest
from dashboards import make_example
from touring import STATIC, Site, Tab, raw, served, touring

from browser import NARROW

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Route

pytestmark = pytest.mark.xdist_group("dashboard")  # one server and one browser for all of them

KILOBYTES = 150


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    if not (STATIC / "index.html").exists():
        pytest.skip("the front end was not built; type: make ui")
    store = tmp_path_factory.mktemp("dashboard") / "store"
    make_example(store)
    with served(store) as site:
        yield site


def every_page(site: Site) -> dict[str, str]:
    """The path of each page, with all its tabs, in a form in which there is much on it."""
    run, broken = site.run_of("etl", fate="completed", tags=["nightly", "tuesday"]), site.run_of("broken")
    tasks = site.ask(f"/api/runs/{run}/tasks?limit=200")["columns"]
    failed = tasks["id"][tasks["fate"].index("failed")]
    retried = tasks["id"][next(row for row, attempts in enumerate(tasks["attempts"]) if attempts > 1)]
    line = site.ask(f"/api/runs/{run}/logs")["columns"]["seq"][3]
    tabs = ("timeline", "graph", "tasks", "logs", "parameters", "where")
    return {
        "runs": "/",
        "filtered": "/runs?flow=etl&tag=nightly&text=monday",
        "nothing found": "/runs?text=nothing+is+like+this",
        **{tab: f"/runs/{run}?tab={tab}" for tab in tabs},
        "opened": f"/runs/{run}?open=load",
        "group": f"/runs/{broken}?tab=graph&group=report",
        "broken": f"/runs/{broken}",
        "failed": f"/tasks/{failed}",
        "retried": f"/tasks/{retried}",
        "lines": f"/tasks/{retried}?tab=logs",
        "flows": "/flows",
        "flow": "/flows/etl",
        "line": f"/runs/{run}?tab=logs&line={line}",
        "compare nothing": "/compare",
        "compare": f"/compare?a={run}&b={site.run_of('etl', tags=[])}",
        "about": "/about",
        "nothing there": f"/runs/{32 * '0'}",
    }


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_page_obeys_the_rules_of_accessibility(browser: Browser, site: Site, theme: str) -> None:
    with touring(browser, site, color_scheme=theme, bypass_csp=True) as visit:
        for name, path in every_page(site).items():
            visit.go(path)
            if name == "opened":
                visit.page.get_by_role("table", name="Runs of load").wait_for(state="attached")
            assert visit.violations() == [], name
        visit.go("/runs")
        visit.page.keyboard.press("?")
        visit.page.wait_for_selector("dialog[open]")
        assert visit.violations() == []


def test_behind_every_canvas_there_is_a_table(browser: Browser, site: Site) -> None:
    tables = {"timeline": "The timeline as a table", "opened": "Runs of load", "flow": "Runs of etl, latest first"}
    pages = every_page(site)
    with touring(browser, site) as visit:
        for name, table in tables.items():
            visit.go(pages[name])
            visit.page.get_by_role("table", name=table).locator("tbody tr").first.wait_for(state="attached")
        for name, path in pages.items():
            visit.go(path)
            canvases = visit.page.locator("main canvas").count()
            assert canvases == visit.page.locator("main [aria-hidden] canvas, main canvas[aria-hidden]").count()
            assert not canvases or visit.page.locator("main table").count(), name


def test_every_page_keeps_to_its_security_policy_and_asks_nobody_else(browser: Browser, site: Site) -> None:
    with touring(browser, site) as visit:  # a breach of the policy is an error on the console
        for path in every_page(site).values():
            visit.go(path)
            assert visit.page.locator("main h1").inner_text()
            assert "token" not in visit.page.url


def test_no_page_is_wider_than_a_phone(browser: Browser, site: Site) -> None:
    with touring(browser, site, viewport=NARROW) as visit:
        for name, path in every_page(site).items():
            visit.go(path)
            assert visit.page.evaluate("document.documentElement.scrollWidth") <= NARROW["width"], name


DEEP = """
from penstock import flow, task
from penstock.states import Completed

@task
def leaf(number):
    return number

@flow
def nested(depth: int):
    leaf(depth)
    if depth:
        nested(depth - 1)

@flow(flow_run_name="long-" + "x" * 295)
def longname():
    pass

@flow
def skipped():
    return Completed(name="Skipped", message="nothing to do today")

if __name__ == "__main__":
    nested(30)
    longname()
    skipped()
"""


@pytest.fixture(scope="module")
def odd(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Runs that are deep, have a name that never ends, or say more than how they ended."""
    directory = tmp_path_factory.mktemp("odd")
    script = directory / "deep.py"
    script.write_text(DEEP, "utf-8")
    environment = {**os.environ, "PENSTOCK_HOME": str(directory / "store"), "PENSTOCK_STORE_URL": "none"}
    subprocess.run([sys.executable, str(script)], env=environment, check=True, capture_output=True)
    with served(directory / "store") as site:
        yield site


INSIDE = """() => {
    const frame = document.querySelector(".graph").getBoundingClientRect();
    const seen = one => one.top >= frame.top && one.bottom <= frame.bottom && one.left >= frame.left;
    return [...document.querySelectorAll(".graph .node")].filter(one => seen(one.getBoundingClientRect())).length;
}"""


def test_a_deep_run_can_be_looked_at(browser: Browser, odd: Site) -> None:
    run = odd.run_of("nested")
    groups = odd.ask(f"/api/runs/{run}/graph")["nodes"]["columns"]["group"]
    assert len(set(groups)) == len(groups) == 61
    with touring(browser, odd, viewport=NARROW) as visit:
        visit.go(f"/runs/{run}?tab=graph")
        visit.page.locator(".graph .node").first.wait_for()
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= NARROW["width"]
        assert visit.page.evaluate(INSIDE) > 1
        titles = visit.page.evaluate("[...document.querySelectorAll('.graph .node .title')].map(e => e.textContent)")
        assert "nested\u00d729/leaf" in titles
        assert len(set(titles)) == len(titles)


def test_what_a_state_says_is_shown(browser: Browser, odd: Site) -> None:
    with touring(browser, odd) as visit:
        visit.go(f"/runs/{odd.run_of('skipped')}")
        visit.page.get_by_text("nothing to do today").wait_for()


def test_a_name_that_never_ends_does_not_fill_the_page(browser: Browser, odd: Site) -> None:
    run = odd.run_of("longname")
    with touring(browser, odd, viewport=NARROW) as visit:
        visit.go(f"/runs/{run}")
        visit.page.get_by_text("This run called no task.").wait_for()
        for part in (".crumbs", "h1", ".outcome"):
            box = visit.page.locator(f"main {part}").bounding_box()
            assert box is not None and box["height"] < 70, part
        assert (visit.page.locator(".outcome [title]").get_attribute("title") or "").startswith("longname/long-xxx")


def test_what_was_not_found_out_is_left_out_of_where_the_time_went(browser: Browser, site: Site) -> None:
    def without(route: Route) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, body=re.sub(r'"engine":[^,]+', '"engine":null', answer.text()))

    run = site.run_of("etl")
    with touring(browser, site) as visit:
        table = visit.page.get_by_role("table", name="Where the time went")
        visit.go(f"/runs/{run}?tab=where")
        assert "rest" in table.locator("th").all_inner_texts()
        visit.page.route("**/api/live?view=run*", without)
        visit.go(f"/runs/{run}?tab=where")
        assert table.locator("th").all_inner_texts() == ["wall time", "user code", "queue", "inputs", "retries"]


def test_tasks_that_only_one_of_two_runs_has_are_not_compared(browser: Browser, site: Site) -> None:
    with touring(browser, site) as visit:
        visit.go(f"/compare?a={site.run_of('etl')}&b={site.run_of('broken')}")
        row = visit.page.get_by_role("table", name="Tasks", exact=True).locator("tr").filter(has_text="extract")
        assert row.locator("td").all_inner_texts()[-3:] == ["-", "-", "-"]


def test_a_page_takes_two_requests_at_most(browser: Browser, site: Site) -> None:
    with touring(browser, site) as visit:
        for name, path in every_page(site).items():
            visit.asked.clear()
            visit.go(path)
            visit.page.wait_for_timeout(300)  # for requests that should not come
            answers = [asked for asked in visit.asked if not asked.startswith("/api/about")]
            assert len(answers) <= 2, (name, answers)


def test_what_happened_is_told_on_the_pages(browser: Browser, site: Site) -> None:
    pages = every_page(site)
    with touring(browser, site) as visit:
        visit.go(pages["timeline"])
        visit.page.get_by_text("1 failed and handled").wait_for()
        assert "KeyError" in visit.page.locator(".errors").inner_text()
        assert re.search(r"example_store\.py:\d+ in load", visit.page.locator(".errors .place").inner_text())
        table = visit.page.get_by_role("table", name="The timeline as a table")
        table.get_by_text("11 completed, 1 failed").first.wait_for(state="attached")
        visit.go(pages["broken"])
        errors = visit.page.locator(".errors").inner_text().splitlines()
        assert re.search(r"example_store\.py:\d+ in broken", errors[0])  # the user's own line first
        assert errors[1].startswith("UpstreamTaskError")
        assert any("slow-0" in line for line in errors)
        visit.go(pages["opened"])
        runs = visit.page.get_by_role("table", name="Runs of load")
        runs.get_by_text("load-0[7]").wait_for(state="attached")
        visit.go(pages["retried"])
        attempts = visit.page.get_by_role("table", name="Attempts")
        for state in ("Failed", "Completed"):
            attempts.get_by_text(state).first.wait_for(state="attached")
        visit.go(pages["compare"])
        visit.page.locator("main").get_by_text("'tuesday'").first.wait_for(state="attached")


# --- the keyboard -----------------------------------------------------------------------------------------------------


def test_everything_can_be_reached_with_the_keyboard_alone(browser: Browser, site: Site) -> None:
    with touring(browser, site) as visit:
        keyboard, page = visit.page.keyboard, visit.page
        visit.go("/runs")
        page.wait_for_selector("tr[data-row]")
        keyboard.press("/")
        keyboard.type("tuesday")
        page.wait_for_url("**text=tuesday")
        visit.until("document.querySelectorAll('tr[data-row]').length === 1")
        keyboard.press("Escape")
        keyboard.press("j")
        visit.until("document.activeElement.closest('tr[data-row]')")
        keyboard.press("Enter")
        page.wait_for_url("**/runs/*")
        visit.settle()
        keyboard.press("3")
        page.wait_for_url("**tab=tasks")
        page.wait_for_selector("tr[data-row='5']")
        for row in range(3):
            keyboard.press("j")
            visit.until("(row) => document.activeElement.closest('tr')?.dataset.row === row", arg=str(row))
        keyboard.press("k")
        visit.until("document.activeElement.closest('tr')?.dataset.row === '1'")
        keyboard.press("Enter")
        page.wait_for_url("**/tasks/*")
        visit.settle()
        keyboard.press("g")
        keyboard.press("f")
        page.wait_for_url("**/flows")
        keyboard.press("?")
        page.wait_for_selector("dialog[open]")
        keyboard.press("Escape")
        page.wait_for_selector("dialog", state="detached")
        before = page.evaluate("document.documentElement.dataset.theme")
        keyboard.press("t")
        assert page.evaluate("document.documentElement.dataset.theme") != before


def test_the_timeline_is_walked_zoomed_and_opened_with_the_keyboard(browser: Browser, site: Site) -> None:
    with touring(browser, site) as visit:
        keyboard, page = visit.page.keyboard, visit.page
        visit.go(every_page(site)["timeline"])
        page.get_by_role("table", name="The timeline as a table").wait_for(state="attached")
        page.locator(".lanes").focus()
        whole = page.locator("output").inner_text()
        keyboard.press("+")
        visit.until("whole => document.querySelector('output').innerText !== whole", arg=whole)
        keyboard.press("0")
        visit.until("whole => document.querySelector('output').innerText === whole", arg=whole)
        keyboard.press("ArrowDown")
        keyboard.press("ArrowDown")
        page.get_by_text(re.compile("^load: .*1 failed")).wait_for(state="attached")
        keyboard.press("Enter")
        page.wait_for_url("**open=load")
        page.get_by_role("table", name="Runs of load").wait_for(state="attached")
        for _ in range(8):
            keyboard.press("ArrowDown")
        page.get_by_text("load-0[7], Failed").wait_for(state="attached")
        keyboard.press("Enter")
        page.wait_for_url("**/tasks/*")


def test_the_help_sheet_says_what_the_keys_do(browser: Browser, site: Site) -> None:
    with touring(browser, site) as visit:
        visit.go("/runs")
        visit.page.keyboard.press("?")
        said = visit.page.locator(".keys dt").all_inner_texts()
        keys = Keys(visit, every_page(site))
        assert [text.split() for text in said] == [name.split() for name in keys.TOLD]
        for method in keys.TOLD.values():
            getattr(keys, method)()


class Keys:
    """Tries what the help sheet tells."""

    TOLD: ClassVar = {
        **{"?": "sheet", "/": "search", "j k": "rows", "Enter": "rows", "x": "choose", "Esc": "escape"},
        **{"g r": "places", "g f": "places", "g c": "places", "g a": "places", "1 … 6": "tabs", "f": "follow"},
        **{"t": "theme", "+ \u2212": "zoom", "← →": "move", "↑ ↓": "walk", "0": "zoom"},
    }

    def __init__(self, visit: Tab, pages: Mapping[str, str]) -> None:
        self.visit, self.page, self.pages = visit, visit.page, pages

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def sheet(self) -> None:
        self.visit.go("/runs?state=failed")
        self.press("?")
        self.page.wait_for_selector("dialog[open]")
        self.press("Escape")
        self.page.wait_for_selector("dialog", state="detached")
        assert self.page.url.endswith("state=failed")  # it closed the sheet, and nothing else

    def search(self) -> None:
        for name in ("runs", "tasks", "logs"):
            self.visit.go(self.pages[name])
            self.press("/")
            self.visit.until("document.activeElement.type === 'search'")

    def rows(self) -> None:
        self.visit.go("/runs")
        self.page.wait_for_selector("tr[data-row]")
        for key, row in (("j", "0"), ("j", "1"), ("k", "0")):
            self.press(key)
            self.visit.until("row => document.activeElement.closest('tr')?.dataset.row === row", arg=row)
        self.press("Enter")
        self.page.wait_for_url("**/runs/*")

    def choose(self) -> None:
        self.visit.go("/runs")
        self.page.wait_for_selector("tr[data-row]")
        for row in ("0", "1"):
            self.press("j")
            self.visit.until("row => document.activeElement.closest('tr')?.dataset.row === row", arg=row)
            self.press("x")
        self.page.get_by_role("link", name="Compare the two").click()
        self.page.wait_for_url("**/compare?a=*")

    def escape(self) -> None:
        self.visit.go(self.pages["filtered"])
        self.press("/", "Escape")
        self.visit.until("document.activeElement === document.body")
        self.press("Escape")
        self.page.wait_for_url("**/runs")

    def places(self) -> None:
        for key, path in (("f", "flows"), ("c", "compare"), ("a", "about"), ("r", "runs")):
            self.press("g", key)
            self.page.wait_for_url(f"**/{path}")

    def tabs(self) -> None:
        self.visit.go(self.pages["timeline"])
        for number, tab in enumerate(("timeline", "graph", "tasks", "logs", "parameters", "where"), 1):
            self.press(str(number))
            self.page.wait_for_url(f"**tab={tab}*")
        self.visit.go(self.pages["failed"])
        self.press("2")
        self.page.wait_for_url("**tab=logs")
        self.press("1")
        self.visit.until("!location.search")

    def follow(self) -> None:
        """Of a run that has ended there is nothing to follow; see the tests of live pages."""

    def theme(self) -> None:
        seen = set()
        for _ in range(3):
            self.press("t")
            seen.add(self.page.evaluate("document.documentElement.dataset.theme"))
        assert seen == {"system", "light", "dark"}

    def timeline(self) -> None:
        self.visit.go(self.pages["timeline"])
        table = self.page.get_by_role("table", name="The timeline as a table")
        table.locator("tbody tr").first.wait_for(state="attached")
        self.page.locator(".lanes").focus()

    def zoom(self) -> None:
        self.timeline()
        whole = self.span()
        for key in ("-", "0"):
            self.press("+", "+")
            self.changed(whole)
            self.press(*((key,) * 2))
            self.visit.until("was => document.querySelector('output').innerText === was", arg=whole)

    def move(self) -> None:
        self.timeline()
        self.press("+")
        for key in ("ArrowLeft", "ArrowRight"):
            before = self.span()
            self.press(key)
            self.changed(before)

    def walk(self) -> None:
        self.timeline()
        for key, task in (("ArrowDown", "extract"), ("ArrowDown", "load"), ("ArrowUp", "extract")):
            self.press(key)
            self.page.locator("[aria-live]").get_by_text(re.compile(f"^{task}: ")).wait_for(state="attached")
        self.press("Enter")
        self.page.wait_for_url("**open=extract")

    def span(self) -> str:
        return str(self.page.locator("output").inner_text())

    def changed(self, before: str) -> None:
        self.visit.until("was => document.querySelector('output').innerText !== was", arg=before)


# --- the way in -------------------------------------------------------------------------------------------------------


def test_a_tab_without_the_token_asks_for_it_and_gets_in_with_it(browser: Browser, site: Site) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{site.address}/flows")
    page.get_by_role("heading", name="This tab has no access yet").wait_for()
    page.get_by_label("Address or token").fill(site.url())
    page.get_by_role("button", name="Open").click()
    page.get_by_role("link", name="broken").first.wait_for()
    other = context.new_page()  # a second tab of the same browser asks the first one
    other.goto(f"{site.address}/runs")
    other.wait_for_selector("tr[data-row]")
    context.close()


def test_a_page_without_access_is_for_everybody_too(browser: Browser, site: Site) -> None:
    for theme in ("light", "dark"):
        with touring(browser, Site(site.address, "wrong"), color_scheme=theme, bypass_csp=True) as visit:
            visit.page.goto(f"{site.address}/flows")
            visit.page.get_by_role("heading", name="This tab has no access yet").wait_for()
            assert visit.violations() == []
            visit.trouble.clear()  # the browser writes refusals down


def test_an_address_at_which_there_is_nothing(browser: Browser, site: Site) -> None:
    with touring(browser, site, bypass_csp=True) as visit:
        visit.page.goto(site.url("/no/such/page"))
        visit.page.get_by_role("heading", name="There is no such page").wait_for()
        assert visit.violations() == []
        visit.page.get_by_role("link", name="All runs").click()
        visit.page.wait_for_selector("tr[data-row]")
        visit.trouble.clear()


def test_filters_and_tabs_are_in_the_address(browser: Browser, site: Site) -> None:
    with touring(browser, site) as visit:
        visit.go("/runs")
        visit.page.get_by_label("State").select_option("failed")
        visit.page.wait_for_url("**state=failed")
        visit.until("document.querySelectorAll('tr[data-row]').length === 2")
        visit.page.reload()
        visit.until("document.querySelectorAll('tr[data-row]').length === 2")
        visit.page.locator("tr[data-row='0'] a").first.click()
        visit.page.wait_for_url("**/runs/*")
        visit.page.go_back()
        visit.page.wait_for_url("**state=failed")


def test_it_works_behind_a_proxy_that_puts_a_prefix_before_the_paths(browser: Browser, site: Site) -> None:
    with proxied(site, "/tools/penstock") as address, touring(browser, Site(address, site.token)) as visit:
        visit.go("/flows/etl")
        visit.page.get_by_role("link", name="Runs", exact=True).click()
        visit.page.wait_for_selector("tr[data-row]")
        assert visit.page.url.startswith(f"{address}/runs")


class Proxy(ThreadingHTTPServer):
    """In front of a dashboard, under a prefix."""

    daemon_threads = False

    def __init__(self, site: Site, prefix: str) -> None:
        super().__init__(("127.0.0.1", 0), Forwarder)
        self.site, self.prefix = site, prefix
        self.behind: list[socket.socket] = []


class Forwarder(BaseHTTPRequestHandler):
    server: Proxy

    def do_GET(self) -> None:
        headers = {"Authorization": self.headers.get("Authorization", "")}
        with raw(self.server.site, self.path.removeprefix(self.server.prefix), headers, self.server.behind) as answer:
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name not in ("transfer-encoding", "connection", "date", "server"):
                    self.send_header(name, value)
            self.end_headers()
            while part := answer.read1(65536):
                self.wfile.write(part)
                self.wfile.flush()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def proxied(site: Site, prefix: str) -> Iterator[str]:
    with Proxy(site, prefix) as proxy:
        thread = Thread(target=proxy.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{proxy.server_port}{prefix}"
        proxy.shutdown()
        thread.join()
        for connection in proxy.behind:  # streams would stay open
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


# --- what is shipped --------------------------------------------------------------------------------------------------


def test_the_front_end_is_small() -> None:
    packed = {path.name: len(gzip.compress(path.read_bytes(), 9)) for path in STATIC.rglob("*") if path.is_file()}
    assert sum(packed.values()) <= KILOBYTES * 1000, packed


def test_the_page_has_no_script_style_or_handler_in_it_and_only_relative_addresses() -> None:
    page = (STATIC / "index.html").read_text("utf-8")
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:|<base", page)
    assert re.findall(r"<script[^>]*>([^<]*)</script>", page) == [""]
    assert all(address.startswith("./") for address in re.findall(r"(?:src|href)=\"([^\"]*)\"", page))


def test_the_shipped_scripts_make_no_markup_from_texts_and_know_no_other_place() -> None:
    for script in STATIC.rglob("*.js"):
        text = script.read_text("utf-8")
        assert not re.search(r"\beval\(|new Function\(|document\.write|insertAdjacentHTML|outerHTML=", text), (
            script.name
        )
        addresses = set(re.findall(r"https?://[\w.-]+", text)) - {"http://www.w3.org"}
        assert addresses <= {"http://127.0.0.1"}, script.name


def test_each_file_is_served_and_nothing_else(site: Site) -> None:
    with raw(site, "/runs/x") as page:
        [script] = re.findall(r"src=\"\.\./(assets/[^\"]+\.js)\"", page.read().decode())
    for path, status in ((f"/{script}", 200), (f"/assets/{quote('../index.html', safe='')}", 404)):
        with raw(site, path) as answer:
            assert answer.status == status
