"""A real browser for tests of pages: the system's Chromium, driven by Playwright, without a network.

Where there is none the tests that ask for it are skipped. Nothing is ever downloaded.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NAMES = ("chromium", "chromium-browser", "google-chrome")
WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 400, "height": 800}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One for the tests of a module, and not longer: while it is there no other event loop can run in this thread."""
    path = next((found for name in NAMES if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip("there is no Chromium here; on Debian: apt-get install chromium")
    from playwright.sync_api import sync_playwright  # takes a moment, and few tests need it

    # Beside the emulated network of each context: names lead nowhere, and neither would an address.
    names = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
    blocked = [names, "--proxy-server=127.0.0.1:9", "--disable-background-networking"]
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=blocked)
        yield launched
        launched.close()


class Visit:
    """A page, and what it did that it should not. `own`: how addresses begin that it may ask for."""

    def __init__(self, page: Page, own: str) -> None:
        self.trouble: list[str] = []
        self.page = page
        self._own = own
        self.page.on("console", lambda message: self._note(message.type, message.text))
        self.page.on("pageerror", lambda error: self._note("error", str(error)))
        self.page.on("request", lambda request: self._asked(request.url))

    def _note(self, kind: str, text: str) -> None:
        if kind == "error":
            self.trouble.append(f"{kind}: {text}")

    def _asked(self, url: str) -> None:
        if not url.startswith((self._own, "data:")):
            self.trouble.append(f"request: {url}")

    def violations(self) -> list[str]:
        """Which rules of accessibility the page breaks, as it is now. Its security policy must be bypassed for that."""
        import axe_playwright_python

        [script] = Path(axe_playwright_python.__file__).parent.glob("axe*.js")
        self.page.evaluate(script.read_text("utf-8"))
        found: list[dict[str, Any]] = self.page.evaluate("axe.run().then(result => result.violations)")
        return [f"{rule['id']}: {rule['help']}: {[node['target'] for node in rule['nodes'][:3]]}" for rule in found]


@contextmanager
def visiting(browser: Browser, file: Path, **options: Any) -> Iterator[Visit]:
    """Open a file in a window of its own; at the end, nothing may have gone wrong in it.

    Options are those of a browser context: `viewport`, `color_scheme`, `bypass_csp`, ...
    """
    context = browser.new_context(offline=True, **{"viewport": WIDE, **options})
    context.set_default_timeout(10_000)
    try:
        visit = Visit(context.new_page(), "file:")
        visit.page.goto(file.as_uri())
        yield visit
        assert visit.trouble == []
    finally:
        context.close()


def contrast(one: str, other: str) -> float:
    """How well two colours, as browsers say them (`rgb(1, 2, 3)`), can be told apart: 1 to 21."""
    lighter, darker = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    channels = [int(number) / 255 for number in re.findall(r"\d+", colour)[:3]]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
