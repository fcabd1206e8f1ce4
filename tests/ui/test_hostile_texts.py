"""Texts that try to become part of the page: in every field that a program can write, on every page.

Each page is compared with the same page of a store that has texts of the same shape that do no harm: it must be made of
the same elements, and the texts must be there as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import pytest
from click.testing import CliRunner
from hostile import ALL, OTHERS, TEXTS, flow_of, harmless, rows, shown, task_of
from touring import STATIC, Site, Tab, raw, served, touring

from browser import visiting
from penstock import flow, task
from penstock.cli import main
from penstock.cli.text import printable_lines
from penstock.settings import temporary_settings
from penstock.store.sqlite import SQLiteStore

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.xdist_group("dashboard")

TAME = tuple(harmless(number) for number in range(len(TEXTS)))
TABS = ("timeline", "graph", "tasks", "logs", "parameters", "where")
SHORT, LONGEST = 200, 1_000  # characters of a text on one line, of a parameter of a request
NOTHING = "^$"
UNSEEN = "[\\u0000-\\u0008\\u000b-\\u001f\\u007f-\\u009f\\u061c\\u200b-\\u200f\\u2028-\\u202e\\u2060-\\u2069\\ufeff]"

# How many elements of each kind there are, and everything that should not be: what ran, what leads elsewhere. How many
# rows of a long table are there depends on their place on the screen; of these it is told what they are made of.
FOUND = """([unseen, inside]) => {
  const elements = {};
  const wrong = [];
  for (const element of document.querySelectorAll(inside)) {
    const row = element.closest(':is(tr[data-row], .line, .list .row)');
    if (!row) elements[element.tagName] = (elements[element.tagName] ?? 0) + 1;
    if (row === element) elements[[...row.querySelectorAll('*')].map(({tagName}) => tagName).join(' ')] = 1;
    for (const {name, value} of element.attributes) {
      const leads = ['href', 'src', 'action', 'data', 'ping', 'poster', 'srcset', 'formaction', 'xlink:href'];
      if (leads.includes(name) && value !== 'data:,' && new URL(value, location).origin !== location.origin)
        wrong.push(`${element.tagName} ${name}=${value}`);
      if (name.startsWith('on') || name === 'srcdoc' || (name === 'style' && /url|expression|import/i.test(value)))
        wrong.push(`${element.tagName} ${name}=${value}`);
    }
  }
  const strange = document.body.textContent.match(new RegExp(unseen));
  if (strange) wrong.push(`character ${strange[0].codePointAt(0).toString(16)}`);
  if (window.hit !== undefined) wrong.push(`ran: ${window.hit}`);
  if (Object.keys(Object.prototype).length || ({}).polluted) wrong.push('a prototype');
  return [elements, wrong];
}"""
# One run after the other, by keys: what the dialog about it is called, and is made of.
OPENED = """number => {
  const rows = document.getElementById('rows');
  const press = key => rows.dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true}));
  const found = [];
  for (const part of ['errors', 'names', 'log', 'parameters']) document.getElementById(part).style.display = 'none';
  press('Home');
  for (let run = 0; run < number; run++) {
    press('ArrowDown');
    press('Enter');
    const elements = {};
    for (const {tagName} of document.querySelectorAll('dialog *')) elements[tagName] = (elements[tagName] ?? 0) + 1;
    found.push([document.getElementById('details-title').textContent, elements]);
    document.querySelector('dialog').close();
  }
  return found;
}"""
TEXTS_OF = "selector => [...document.querySelectorAll(selector)].map(element => element.textContent)"
HERE = "path => { history.pushState(null, '', path); scrollTo(0, 0); }"  # as a click on a link does
SCROLL = "([box, by]) => (box ? document.querySelector(box) : document.scrollingElement).scrollBy(0, by)"
# How many answers the page waits for, but those that may never end.
COUNTING = """
  const ask = window.fetch;
  window.waiting = 0;
  window.fetch = async (...what) => {
    if (String(what[0]).includes('/api/live')) return ask(...what);
    window.waiting++;
    try {
      const answer = await ask(...what);
      await answer.clone().text();
      return answer;
    } finally {
      setTimeout(() => window.waiting--, 5);
    }
  };
"""
# Once there is something to see and nothing is waited for; false if that takes too long. `asks`: there may be another
# answer to the same question, which is asked after the next drawing.
READY = """async ([there, asks]) => {
  const end = performance.now() + 30000;
  if (asks) await new Promise(requestAnimationFrame);
  while (performance.now() < end) {
    await new Promise(done => setTimeout(done, 1));
    const is = selector => document.querySelector(selector);
    if (!window.waiting && is('main h1') && !is('.loading') && is(there)) return true;
  }
  return false;
}"""
THERE = {  # by a part of the address, what is there when there is something to see
    "tab=timeline": ".legend li, .trouble",
    "tab=graph": ".graph svg, .trouble",
    "tab=tasks": "tr[data-row], .empty, .trouble",
    "tab=logs": ".line, .empty, .trouble",
    "/flows/": ".trend .u-over, .empty, .trouble",
    "/runs?": "tr[data-row], .empty, .trouble",
}


def of_page(page: Page, unseen: str = UNSEEN, inside: str = "*") -> dict[str, int]:
    """Elements by their names. Nothing has run, nothing leads elsewhere, and there is no character that is `unseen`."""
    elements, wrong = page.evaluate(FOUND, [unseen, inside])
    assert wrong == [], page.url
    return dict(elements)


class Walk:
    """Through the pages of a store. A page that refuses what an address says is fine, if it says so harmlessly."""

    def __init__(self, tab: Tab) -> None:
        self.tab = tab
        self.page = tab.page
        self.dialogs: list[str] = []
        self.page.on("dialog", self._spoke)
        self.page.on("request", self._begun)
        self.page.add_init_script(COUNTING)

    def _spoke(self, dialog: Any) -> None:
        self.dialogs.append(dialog.message)
        dialog.dismiss()

    def _begun(self, request: Any) -> None:
        path = request.url.removeprefix(self.tab.site.address)
        if not path.startswith(("/api/", "/assets/")) and not request.is_navigation_request() and path != "data:,":
            self.tab.trouble.append(f"request: {request.url}")

    def open(self, path: str) -> dict[str, int]:
        self.tab.go(path)
        return self.look(path)

    def step(self, path: str, unseen: str = UNSEEN) -> dict[str, int]:
        """To another page without loading all of it."""
        self.page.evaluate(HERE, path)
        return self.look(path, unseen)

    def look(self, path: str, unseen: str = UNSEEN) -> dict[str, int]:
        there = next((there for part, there in THERE.items() if part in path), "main h1")
        is_new = path.startswith(("/tasks/", "/flows/"))
        assert self.page.evaluate(READY, [there, not is_new]), self.page.url
        refused = "Failed to load resource: the server responded with a status of 4"
        self.tab.trouble = [one for one in self.tab.trouble if refused not in one]
        return of_page(self.page, unseen)

    def texts(self, selector: str) -> list[str]:
        found: list[str] = self.page.evaluate(TEXTS_OF, selector)
        return found

    def scrolled(self, rows: str, box: str | None) -> Iterator[None]:
        """Page by page to the end of what is there."""
        self.page.evaluate(SCROLL, [box, -1e9])
        self.look("")
        before = None
        while (now := self.texts(rows)) != before:
            before = now
            yield
            self.page.evaluate(SCROLL, [box, 600])
            self.look("")


@contextmanager
def stored(home: Path, texts: Sequence[str]) -> Iterator[Site]:
    if not (STATIC / "index.html").exists():
        pytest.skip("the front end was not built; type: make ui")
    with closing(SQLiteStore(home)) as store:
        store.write(rows(texts))
    with served(home) as site:
        yield site


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    place = tmp_path_factory.mktemp("texts")
    return place / "hostile", place / "tame"


@pytest.fixture(scope="module")
def hostile(homes: tuple[Path, Path]) -> Iterator[Site]:
    with stored(homes[0], TEXTS) as site:
        yield site


@pytest.fixture(scope="module")
def tame(homes: tuple[Path, Path]) -> Iterator[Site]:
    with stored(homes[1], TAME) as site:
        yield site


@pytest.fixture
def both(browser: Browser, hostile: Site, tame: Site) -> Iterator[tuple[Walk, Walk]]:
    with touring(browser, hostile) as one, touring(browser, tame) as other:
        walks = Walk(one), Walk(other)
        yield walks
        assert walks[0].dialogs == []


def short(text: str, longest: int = SHORT) -> str:
    said = shown(text)
    return said if len(said) <= longest else f"{said[: longest - 1]}…"


def test_there_are_two_hundred_texts_and_none_is_there_twice() -> None:
    assert len({*TEXTS}) == len({*TAME}) == 200


def test_pages_that_show_many_of_them(both: tuple[Walk, Walk]) -> None:
    paths = [
        "/runs?",
        "/flows",
        "/flows/all",
        "/about",
        f"/compare?a={ALL}&b={OTHERS[0]}",
        f"/runs/{OTHERS[0]}?tab=graph",
    ]
    paths += [f"/runs/{run}?tab={tab}" for run in (ALL, OTHERS[0]) for tab in TABS]
    paths += [f"/runs/{run}" for run in OTHERS]
    for walk in both:
        walk.open(f"/runs/{ALL}?tab=timeline")
    for path in paths:
        one, other = (walk.step(path) for walk in both)
        assert one == other, path


LISTS = (
    ("/runs?", "tr[data-row] a", "tr[data-row]", None),
    (f"/runs/{ALL}?tab=tasks", "tr[data-row] a", "tr[data-row]", None),
    (f"/runs/{ALL}?tab=logs", ".line .message", ".line", ".lines"),
)


def test_each_of_them_is_shown_as_it_is_in_long_tables(both: tuple[Walk, Walk]) -> None:
    walk = both[0]
    for path, names, row, box in LISTS:
        walk.open(path)
        seen: set[str] = set()
        for _ in walk.scrolled(row, box):
            seen.update(walk.texts(names))
        wanted = {short(text)[:150] if box is None else _in_a_line(text) for text in TEXTS}
        assert wanted <= {one[:150] for one in seen}, path
    walk.step(f"/runs/{ALL}?tab=parameters")
    cells = {*walk.texts("table.values th"), *walk.texts("table.values td")}
    assert {short(text) for text in TEXTS} <= cells


def _in_a_line(text: str) -> str:
    """As the log has it: of a long one the end, and all on one line."""
    kept = text if len(text) <= 4_000 else f"…{text[-4_000:]}"
    return " ⏎ ".join(map(shown, kept.replace("\t", "    ").split("\n")))[:150]


def test_a_page_for_each_of_them(both: tuple[Walk, Walk]) -> None:
    walk, other = both
    expected: dict[Any, dict[str, int]] = {}
    for one in both:
        one.open(f"/runs/{ALL}?tab=timeline")  # which measures colours by an element that stays
        one.step(f"/runs/{ALL}?tab=graph")
    for number, text in enumerate(TEXTS):
        paths = [(f"/tasks/{task_of(number)}", f"/tasks/{task_of(number)}")]
        if "\0" not in text:  # which no address has
            paths.append((f"/flows/{quote(text, safe='')}", f"/flows/{quote(TAME[number], safe='')}"))
        for mine, theirs in paths:
            kind = (mine[:6], number % 2, re.sub("x+", "x", TAME[number][4:]), min(len(shown(text)) // 100, 20))
            found = walk.step(mine)
            if kind not in expected:
                expected[kind] = other.step(theirs)
            assert found == expected[kind], (text, mine)
            refused = ["This cannot be shown"] if len(text) > LONGEST else None
            assert walk.texts("h1") in ([short(text)], refused), mine


QUERIES = (
    "/runs?text={}&flow={}&tag={}&state={}",
    "/runs?parameter={}={}&text={}",
    f"/runs/{ALL}?tab=tasks&text={{}}",
    f"/runs/{ALL}?tab=tasks&group={{}}&state={{}}&sort={{}}",
    f"/runs/{ALL}?tab=logs&text={{}}&task={{}}",
    f"/runs/{ALL}?tab=timeline&open={{}}",
    f"/runs/{ALL}?tab=graph&group={{}}",
    f"/runs/{ALL}?tab={{}}&line={{}}",
    "/compare?a={}&b={}",
    "/runs/{}?tab={}",
    "/tasks/{}",
)


def test_addresses_that_carry_them(both: tuple[Walk, Walk]) -> None:
    walk, other = both
    for one in both:
        one.open(f"/runs/{ALL}?tab=timeline")
    known = {"MARK"}  # what was looked for is marked in what was found
    for query in QUERIES:
        known |= names_of(other.step(query.replace("{}", quote(TAME[5]))))
    for number, text in enumerate(TEXTS):
        query = QUERIES[number % len(QUERIES)].replace("{}", quote(text, safe=""))
        assert names_of(walk.step(query, NOTHING)) <= known, (query, text)


def names_of(elements: dict[str, int]) -> set[str]:
    return {*" ".join(elements).split()}


def test_pages_that_are_not_there_name_them_as_data(both: tuple[Walk, Walk]) -> None:
    walk, other = both
    for number, text in enumerate(TEXTS):
        encoded = quote(text, safe="")
        for path in (f"/nowhere/{encoded}", f"/assets/{encoded}", f"/api/runs?{encoded}=1", f"/{encoded}"):
            with raw(walk.tab.site, path) as answer:
                assert answer.status >= 400, path
                assert answer.getheader("content-type") == "application/json"
                assert answer.getheader("x-content-type-options") == "nosniff"
        if number % 20 == 0 and "\0" not in text and len(text) < LONGEST:
            one, another = (
                here.open(f"/{quote(said, safe='')}?{urlencode({'x': said})}")
                for here, said in ((walk, text), (other, TAME[number]))
            )
            assert one == another, text


# --- what is made of runs elsewhere -----------------------------------------------------------------------------------


def test_the_report_of_a_run_that_is_full_of_them(
    browser: Browser, hostile: Site, tame: Site, homes: tuple[Path, Path], tmp_path: Path
) -> None:
    seen = [_report(browser, home, tmp_path) for home in homes]
    for one, other in zip(seen[0][0], seen[1][0], strict=True):
        assert one == other
    assert seen[0][1] == [printable_lines(text.replace("\0", "\\x00")) for text in TEXTS]  # NUL: as the store keeps it


def _report(browser: Browser, home: Path, directory: Path) -> tuple[list[dict[str, int]], list[str]]:
    """Elements of the page, and of what it says about each run; titles of these."""
    file = directory / f"{home.name}.html"
    result = CliRunner().invoke(main, ["export", ALL, "--html", "-o", str(file), "--store", str(home)])
    assert result.exit_code == 0, result.output
    with visiting(browser, file) as visit:
        page = visit.page
        page.locator("#rows .row").first.wait_for()
        elements = [of_page(page, NOTHING)]
        opened = page.evaluate(OPENED, len(TEXTS))
        elements += [found for _, found in opened]
        elements.append(of_page(page, NOTHING))
    return elements, [title for title, _ in opened]


def test_a_report_is_a_file_in_this_directory_whatever_the_run_is_called(
    homes: tuple[Path, Path], hostile: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for number in range(len(TEXTS)):
        result = CliRunner().invoke(main, ["export", flow_of(number), "--trace", "--store", str(homes[0])])
        assert result.exit_code == 0, result.output
    names = [path.name for path in tmp_path.iterdir()]
    assert [name for name in names if not re.fullmatch(r"[\w=+@][\w.=+@-]*\.trace\.json", name)] == []


def test_what_notebooks_show(browser: Browser, tmp_path: Path) -> None:
    counts = []
    for name, texts in (("hostile", TEXTS), ("tame", TAME)):
        with ThreadPoolExecutor(1) as other:  # this one has the event loop of the browser
            pieces = other.submit(_shown_in_notebooks, tmp_path / name, texts).result()
        file = tmp_path / f"{name}.html"
        file.write_text("<!doctype html><meta charset=utf-8><title>x</title><body>" + "\n".join(pieces), "utf-8")
        with visiting(browser, file) as visit:
            counts.append(of_page(visit.page, NOTHING))
    assert counts[0] == counts[1]
    assert counts[0]["CODE"] >= len(TEXTS)


def _shown_in_notebooks(home: Path, texts: Sequence[str]) -> list[str]:
    kinds = [type(text.replace("\0", "")[:100], (Exception,), {}) for text in texts]
    shown: list[str] = []

    @flow(name=re.sub("[/%&<>]", "", texts[0]), description=texts[1])
    def whole() -> None:
        for text, kind in zip(texts, kinds, strict=True):
            fails = task(name=text, description=text)(_fail)
            futures = [fails.submit(text, kind), task(name=text)(_give).submit(text)]
            for future in futures:
                future.wait()
                shown.extend([future._repr_html_(), future.state._repr_html_()])
            shown.append(fails._repr_html_())

    with temporary_settings({"home": str(home), "logging_level": "CRITICAL"}):
        state = whole(return_state=True)
        assert state.is_completed(), state.message
        return [whole._repr_html_(), state._repr_html_(), *shown]


def _fail(text: str, kind: type[Exception]) -> None:
    raise kind(text)


def _give(text: str) -> str:
    return text
