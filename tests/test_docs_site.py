"""The pages as they are built: without a warning, complete, and with nothing that would be loaded from elsewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from browser import NARROW, visiting
from pages import DOCS, ROOT
from penstock.settings.reference import entries
from test_public_surface import PUBLIC

pytestmark = pytest.mark.timeout(300)  # it is built once, in seconds


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `make docs` builds it: links that lead nowhere are warnings, and warnings are errors."""
    target = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--fresh-env", "-b", "html"]
    done = subprocess.run([*command, str(DOCS), str(target)], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return target


class Resources(HTMLParser):
    """What a browser loads by itself to show a page; not what a reader may click on."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if name in ("src", "srcset", "data", "poster", "action") or (
                name == "href" and tag in ("link", "use", "image")
            ):
                self.found.append(value or "")


def loads(site: Path) -> Iterator[tuple[Path, str]]:
    for page in site.rglob("*.html"):
        yield from ((page, url) for url in Resources(page.read_text("utf-8")).found)
    for sheet in [*site.rglob("*.css"), *site.rglob("*.html")]:
        text = sheet.read_text("utf-8")
        yield from ((sheet, url) for url in re.findall(r"""(?:url\(|@import)\s*["']?([^"')\s;]+)""", text))


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    urls = list(loads(site))
    assert len(urls) > 100
    foreign = re.compile(r"^\s*(?:[a-z]+:)?//|^(?!data:)[a-z]+:", re.I)
    assert [(page.name, url) for page, url in urls if foreign.search(url)] == []


def test_what_is_loaded_is_there(site: Path) -> None:
    for page, url in loads(site):
        path = url.partition("?")[0].partition("#")[0]
        assert not path or url.startswith("data:") or (page.parent / path).exists(), (page, url)


def test_the_check_sees_what_is_foreign() -> None:
    page = (
        '<link href="https://a.example/x.css"><script src="//b.example/x.js"></script><a href="https://c.example">c</a>'
    )
    assert Resources(page).found == ["https://a.example/x.css", "//b.example/x.js"]


@pytest.mark.parametrize("module", sorted({module for module, _ in PUBLIC}))
def test_every_public_name_is_on_its_page(module: str, site: Path) -> None:
    name = module.rpartition(".")[2]
    page = (site / "api" / f"{name}.html").read_text("utf-8")
    for public in (name for owner, name in PUBLIC if owner == module):
        explained = f'id="{module}.{public}"' in page
        assert explained or re.search(rf'href="[^"]+\.{public}"|href="{public}.html"', page), public


def test_every_setting_is_on_its_page(site: Path) -> None:
    page = (site / "settings.html").read_text("utf-8")
    assert [entry.variable for entry in entries() if entry.variable not in page] == []


def test_the_life_of_a_run_is_drawn(site: Path) -> None:
    assert '<svg class="machine"' in (site / "life.html").read_text("utf-8")


def test_nothing_is_left_to_be_filled_in(site: Path) -> None:
    assert [page.name for page in site.rglob("*.html") if "<!-- generated" in page.read_text("utf-8")] == []


class TestInABrowser:
    @pytest.mark.parametrize("page", ["index", "tutorial", "life", "commands", "api/futures"])
    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_a_page_opens_from_the_disk_without_a_network(
        self, page: str, scheme: str, site: Path, browser: Any
    ) -> None:
        with visiting(browser, site / f"{page}.html", color_scheme=scheme) as visit:
            colours = "getComputedStyle(document.body).backgroundColor.match(/[0-9]+/g).slice(0, 3).map(Number)"
            assert (sum(visit.page.evaluate(colours)) > 384) is (scheme == "light")

    @pytest.mark.parametrize("page", ["tutorial", "options", "life", "api/tasks"])
    def test_a_page_fits_a_phone(self, page: str, site: Path, browser: Any) -> None:
        with visiting(browser, site / f"{page}.html", viewport=NARROW) as visit:
            assert visit.page.evaluate("document.documentElement.scrollWidth") <= NARROW["width"]

    def test_the_search_finds_pages(self, site: Path, browser: Any) -> None:
        with visiting(browser, site / "index.html") as visit:
            visit.page.goto(f"{(site / 'search.html').as_uri()}?q=pauses")
            visit.page.locator("#search-results li a", has_text="Retry what fails").first.wait_for()
