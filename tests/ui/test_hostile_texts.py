"""Texts that try to become part of the page: in every field that a program can write, on every page."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from touring import STATIC, Site, Tab, served, touring

from penstock.store.base import AttemptRow, Batch, EdgeRow, LogRow, RunRow
from penstock.store.sqlite import SQLiteStore

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.xdist_group("dashboard")

HOSTILE = [
    "<script>window.hit=1</script>",
    "<img src=x onerror=window.hit=2>",
    "<svg onload=window.hit=3>",
    "<svg><script>window.hit=4</script></svg>",
    "<iframe srcdoc='<script>parent.hit=5</script>'></iframe>",
    "<body onload=window.hit=6>",
    "<input autofocus onfocus=window.hit=7>",
    "<details open ontoggle=window.hit=8>",
    "<a href='javascript:window.hit=9'>here</a>",
    "javascript:window.hit=10",
    "data:text/html,<script>window.hit=11</script>",
    "</script><script>window.hit=12</script>",
    "</title><script>window.hit=13</script>",
    "</style><script>window.hit=14</script>",
    "</textarea><script>window.hit=15</script>",
    "--><script>window.hit=16</script>",
    "]]><script>window.hit=17</script>",
    "'-(window.hit=18)-'",
    '"onmouseover="window.hit=19',
    '" style="background:url(//evil.example/20)',
    "{{constructor.constructor('window.hit=21')()}}",
    "${window.hit=22}",
    "<link rel=stylesheet href=//evil.example/23>",
    "<meta http-equiv=refresh content='0;url=//evil.example/24'>",
    "<base href=//evil.example/25>",
    "<form action=//evil.example/26><button>go</button></form>",
    "<math><mtext><img src=x onerror=window.hit=27></mtext></math>",
    "&lt;script&gt;window.hit=28&lt;/script&gt;",
    '{"__html":"<b>29</b>","dangerouslySetInnerHTML":{"__html":"<img src=x onerror=window.hit=29>"}}',
    "\u202e<script>window.hit=30</script>\u2066\x00\x1b]0;x\x07",
]
MADE = "script, iframe, img, base, meta, link, object, embed, math, form[action], style, textarea, [onload], [onerror]"


def row(which: str, text: str, root: str, parent: str | None = None) -> RunRow:
    """A flow run, or a task run below `parent`, with the text wherever there can be one."""
    texts = (
        "name",
        "run_name",
        "key",
        "state_name",
        "message",
        "error_type",
        "error",
        "traceback",
        "result",
        "version",
    )
    times = dict.fromkeys(("created", "ready", "started", "attempt_started"), 1000.0)
    fields: dict[str, Any] = {
        **{"id": which, "root_id": root, "parent_id": parent, "flow_run_id": parent, "map_index": None},
        **{"kind": "task" if parent else "flow", "status": "FAILED" if parent else "COMPLETED", "attempts": 2},
        **{**dict.fromkeys(texts, text), **times, "ended": 1001.0},
        "version": text,
        "parameters": json.dumps({text: text, "value": text}),
        "tags": json.dumps([text]),
        "info": json.dumps({"host": text, "pid": text, text: text}),
    }
    return RunRow(**fields)


def ids(number: int) -> tuple[str, str]:
    """Of the root run and the task run with the text of this number."""
    return f"{number + 100:032x}", f"{number + 200:032x}"


ALL = f"{1:032x}"  # a root run with a task for each text


def hostile_rows() -> Batch:
    batch = Batch.empty()
    batch.runs.append(row(ALL, HOSTILE[0], ALL))
    for number, text in enumerate(HOSTILE):
        flow, task = ids(number)
        batch.runs.extend([row(flow, text, flow), row(task, text, ALL, ALL)])
        batch.attempts.append(AttemptRow(task, 1, 1000.0, 1000.1, "Failed", text, text, text))
        batch.edges.append(EdgeRow(task, ids(number - 1 if number else 1)[1], "data", text))
        batch.logs.append(LogRow(task, 1000.0, 40, text, text))
    return batch


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    if not (STATIC / "index.html").exists():
        pytest.skip("the front end was not built; type: make ui")
    home: Path = tmp_path_factory.mktemp("hostile") / "store"
    with closing(SQLiteStore(home)) as store:
        store.write(hostile_rows())
    with served(home) as site:
        yield site


def pages() -> Iterator[str]:
    yield from ("/runs", "/flows", "/about", f"/compare?a={ALL}&b={ids(3)[0]}")
    yield from (f"/runs/{ALL}?tab={tab}" for tab in ("timeline", "graph", "tasks", "logs", "parameters", "where"))
    for number, text in enumerate(HOSTILE):
        yield f"/tasks/{ids(number)[1]}"
        if "\x00" in text:  # is no text of an address
            continue
        encoded = quote(text, safe="")
        yield f"/flows/{encoded}"
        if number % 5 == 0:
            yield f"/runs?text={encoded}&flow={encoded}&tag={encoded}"
            yield f"/runs/{ALL}?tab=timeline&open={encoded}&tag={encoded}"
            yield f"/runs/{ALL}?tab=graph&group={encoded}"


def harmless(tab: Tab) -> None:
    """Nothing ran, and no element came of a text."""
    assert tab.page.evaluate("window.hit") is None, tab.page.url
    assert tab.page.locator(f"body :is({MADE})").count() == 0, tab.page.url
    assert not tab.page.evaluate("[...document.links].some(a => !/^https?:/.test(a.protocol))")


@pytest.mark.timeout(180)
def test_nothing_becomes_of_texts_that_look_like_markup(browser: Browser, hostile: Site) -> None:
    with touring(browser, hostile) as tab:
        dialogs: list[str] = []
        tab.page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
        for path in pages():
            tab.go(path)
            harmless(tab)
        assert dialogs == []


def test_they_are_shown_as_they_are(browser: Browser, hostile: Site) -> None:
    with touring(browser, hostile) as tab:
        text = HOSTILE[1]
        tab.go(f"/tasks/{ids(1)[1]}")
        assert tab.page.locator("main").inner_text().count(text) >= 6
        tab.go(f"/runs/{ALL}?tab=logs")
        tab.page.locator(".line").get_by_text(text).first.wait_for()
        tab.go(f"/flows/{quote(text, safe='')}")
        tab.page.get_by_role("heading", name=text).wait_for()
