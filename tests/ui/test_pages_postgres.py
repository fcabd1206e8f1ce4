"""The pages in a real browser, of a store in a database: the same as of a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from dashboards import Place, make_example
from test_pages import every_page
from touring import STATIC, Site, served, touring

from postgres_server import Server

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.xdist_group("dashboard")


@pytest.fixture
def site(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    if not (STATIC / "index.html").exists():
        pytest.skip("the front end was not built; type: make ui")
    place = Place(tmp_path / "home", server.new_database())
    make_example(place)
    monkeypatch.setenv("PENSTOCK_STORE_URL", str(place.url))
    with served(place.home) as site:
        yield site


def test_every_page_is_there(browser: Browser, site: Site) -> None:
    with touring(browser, site) as visit:
        for name, path in every_page(site).items():
            visit.go(path)
            assert visit.page.locator("main h1").inner_text(), name
            assert not visit.page.get_by_text("given up after").count(), name
        visit.go("/about")
        assert "postgresql://" in visit.page.locator("main").inner_text()
