"""The HTML report: what it says, that it asks for nothing, and that nothing recorded can act in it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result
from example_runs import CACHED, ETL, LOAD, NOON, RETRIED, TRACEBACK, flow_row, large, task_row

from browser import NARROW, WIDE, Visit, contrast, visiting
from penstock.cli import main
from penstock.cli import whole as whole_module
from penstock.cli.text import printable_lines
from penstock.store.base import AttemptRow, EdgeRow, LogRow, RunRow
from penstock.store.sqlite import SQLiteStore
from penstock.testing.store_suite import batch

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).parents[2]


@pytest.fixture
def store(own_store: Path) -> Iterator[SQLiteStore]:
    with closing(SQLiteStore(own_store)) as store:
        yield store


def penstock(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def exported(*arguments: object) -> str:
    result = penstock("export", *arguments, "--html", "-o", "-")
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout


def record_in(html: str) -> dict[str, Any]:
    """What the page knows."""
    [text] = re.findall(r'<script type="application/json" id="record">(.*?)</script>', html)
    document: dict[str, Any] = json.loads(text)
    return document


# The file.


def test_a_report_is_a_file_named_after_the_run(
    store: SQLiteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write(ETL)
    monkeypatch.chdir(tmp_path)
    result = penstock("export", "brave-otter", "--html")
    assert (result.exit_code, result.stdout) == (0, "")
    assert re.fullmatch(r"Wrote etl/brave-otter to etl-brave-otter.html \(\d+ kB\)\n", result.stderr)
    assert (tmp_path / "etl-brave-otter.html").read_text("ascii").startswith("<!DOCTYPE html>")
    assert penstock("export", "brave-otter/load-0", "--html").exit_code == 0
    assert (tmp_path / "load-0.html").exists()


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("../../etc/passwd", "etl-.._.._etc_passwd.html"),
        ("a b\n\x1b[2J\u202e", "etl-a_b_2J_.html"),
        ("lädt-🚰", "etl-lädt-_.html"),
        ("x" * 500, f"etl-{'x' * 116}.html"),
    ],
)
def test_a_recorded_name_leads_nowhere_else(
    store: SQLiteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, file: str
) -> None:
    store.write(batch(flow_row(run_name=name)))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert penstock("export", "@last", "--html").exit_code == 0
    assert os.listdir() == [file]


def test_a_report_goes_where_it_is_wanted(store: SQLiteStore, tmp_path: Path) -> None:
    store.write(ETL)
    target = tmp_path / "report.html"
    target.write_text("an older one")
    assert penstock("export", "@last", "--html", "-o", target).exit_code == 0
    assert "brave-otter" in target.read_text("ascii")
    result = penstock("export", "@last", "--html", "-o", tmp_path / "no" / "where.html")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "where.html cannot be written: No such file or directory" in result.stderr


def test_a_report_goes_into_a_pipe(store: SQLiteStore, tmp_path: Path) -> None:
    store.write(ETL)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with subprocess.Popen(["cat", fifo], stdout=subprocess.PIPE, text=True) as reader:
        assert penstock("export", "@last", "--html", "-o", fifo).exit_code == 0
        assert reader.stdout is not None
        assert "brave-otter" in reader.stdout.read()
    assert fifo.is_fifo()


def test_what_is_wrong_with_the_command_line_is_said(store: SQLiteStore, own_store: Path) -> None:
    result = penstock("export", "@last")
    assert (result.exit_code, "say what to write: --html or --trace" in result.stderr) == (2, True)
    result = penstock("export", "@last", "--html", "x.html")
    assert (result.exit_code, "unexpected argument x.html" in result.stderr) == (2, True)
    assert "type -o x.html" in result.stderr
    assert penstock("export", "@last", "--html").exit_code == 3
    assert not own_store.exists()


def test_the_wheel_has_all_parts_of_the_page(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, ROOT]
    subprocess.run(command, check=True, capture_output=True)
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        shipped = {Path(name).name for name in archive.namelist() if name.startswith("penstock/cli/report/")}
    sources = {path.name for path in (ROOT / "src" / "penstock" / "cli" / "report").iterdir() if path.is_file()}
    assert shipped == sources
    assert {"report.html", "report.css", "page.js", "__init__.py"} < shipped


# What it holds.


def test_the_policy_of_the_page_allows_its_own_parts_and_nothing_else(store: SQLiteStore) -> None:
    store.write(ETL)
    html = exported("@last")
    [policy] = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', html)
    digest = r"'sha256-[A-Za-z0-9+/]{43}='"
    assert re.fullmatch(
        rf"default-src 'none'; style-src {digest}; script-src {digest}; img-src data:; base-uri 'none';"
        " form-action 'none'",
        policy,
    )
    assert html.count("<script") == 2
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", html)


def test_attempts_errors_and_blocked_runs_are_told_apart(store: SQLiteStore) -> None:
    store.write(ETL)
    record = record_in(exported("@last"))
    strings, errors = record["strings"], record["errors"]
    titles = [record["runs"]["title"][run] for run in errors["run"]]
    places = [strings[number] for number in errors["place"]]
    told = list(
        zip(titles, errors["number"], errors["final"], [strings[n] for n in errors["type"]], places, strict=True)
    )
    line = "/home/me/etl.py:12 in load: return rows[key]"
    assert sorted(told) == [
        ("fetch-0[7]", 1, False, "KeyError", line),
        ("fetch-0[7]", 2, False, "TimeoutError", ""),
        ("load-0", 1, False, "OSError", ""),
        ("load-0", 2, True, "KeyError", line),
        ("send-0", 1, True, "Crashed", ""),
    ]
    assert record["went"] == (
        "in 10.0 s · 8 task runs (1 failed and handled, 1 crashed and handled, 1 blocked, 1 cancelled, 1 cached,"
        " 2 retried), 1 subflow run"
    )


def test_the_last_log_lines_are_there_and_that_there_are_more(store: SQLiteStore) -> None:
    store.write(ETL)
    logs = record_in(exported("@last", "--log-lines", 2))["logs"]
    assert (logs["message"], logs["more"]) == (["price is not there", "worker lost"], True)
    logs = record_in(exported("@last", "--log-lines", 4))["logs"]
    assert (len(logs["message"]), logs["more"]) == (4, False)
    assert record_in(exported("@last", "--log-lines", 0))["logs"]["message"] == []


def test_damaged_and_odd_records_are_exported_anyway(store: SQLiteStore) -> None:
    odd = flow_row(
        parameters="{broken", tags="null", info="NaN", created=float("inf"), started=1e300, ended=float("-inf"), key=""
    )
    stray = task_row(2, odd, "odd-0", 1.0, created=float("nan"), parameters="[1]", status="constructor", error_type="X")
    lost = EdgeRow(stray.id, "f" * 32, "data")
    store.write(batch(odd, stray, lost, LogRow(odd.id, float("inf"), 17, "", "")))
    runs = record_in(exported("@last"))["runs"]
    assert runs["started"][0] is None
    assert runs["parameters"] == ["{broken", "[1]"]


def test_runs_are_read_page_by_page(store: SQLiteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write(ETL)
    whole = exported("@last")
    for size in (1, 2, 3, 9, 10):
        monkeypatch.setattr(whole_module, "PAGE", size)
        assert record_in(exported("@last"))["runs"] == record_in(whole)["runs"]


def test_ten_thousand_runs_are_a_megabyte_or_two(store: SQLiteStore) -> None:
    store.write(large(10_000))
    assert len(exported("@last")) < 2_000_000


# In a browser.


@contextmanager
def visit(browser: Browser, tmp_path: Path, html: str, **options: Any) -> Iterator[Visit]:
    file = tmp_path / "report.html"
    file.write_text(html, "ascii")
    with visiting(browser, file, **options) as there:
        there.page.locator("#rows .row").first.wait_for()
        yield there


@pytest.fixture
def page(browser: Browser, store: SQLiteStore, tmp_path: Path) -> Iterator[Page]:
    """The report of the flow in which everything has happened."""
    store.write(ETL)
    with visit(browser, tmp_path, exported("@last"), timezone_id="UTC") as there:
        yield there.page


def shown(page: Page, part: str, cell: str) -> list[str]:
    """One cell of each row of a list, from top to bottom, once it has been drawn."""
    found: list[str] = page.evaluate(
        """([part, cell]) => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => {
            const rows = [...document.querySelectorAll(`#${part} .row:not([hidden])`)];
            rows.sort((one, other) => one.getAttribute("aria-rowindex") - other.getAttribute("aria-rowindex"));
            done(rows.map(row => row.querySelector(cell).textContent));
        })))""",
        [part, cell],
    )
    return found


def shown_runs(page: Page) -> list[str]:
    return shown(page, "rows", ".cell:first-child")


def open_run(page: Page, name: str) -> None:
    page.locator("#rows .row").filter(has=page.get_by_text(name, exact=True)).click()


def test_the_top_tells_the_truth(page: Page) -> None:
    assert page.locator("h1").inner_text() == "etl/brave-otter"
    assert page.locator("#outcome").inner_text() == (
        "✓ Completed in 10.0 s · 8 task runs (1 failed and handled, 1 crashed and handled, 1 blocked, 1 cancelled,"
        " 1 cached, 2 retried), 1 subflow run"
    )
    facts = page.locator("#facts").inner_text()
    assert "2023-11-15 12:00:00 UTC" in facts and "laptop" in facts and "nightly, shop" in facts and "v7" in facts
    assert page.title().startswith("etl/brave-otter: Completed in 10.0 s")
    parts = page.locator("nav a").all_inner_texts()
    assert parts == ["Errors", "By task", "Timeline", "Tasks", "Log", "Parameters"]


def test_errors_begin_with_the_users_line(page: Page) -> None:
    from playwright.sync_api import expect

    boxes = page.locator(".error")
    assert boxes.locator("h3").all_inner_texts() == ["✕ KeyError in 1 run", "☠︎ Crashed in 1 run"]
    lines = boxes.first.inner_text().splitlines()
    assert lines[1:3] == ["/home/me/etl.py:12 in load: return rows[key]", "KeyError: 'price'"]
    boxes.first.locator("summary").click()
    assert boxes.first.locator("pre").inner_text() == TRACEBACK.rstrip("\n")
    page.get_by_text("3 failed attempts that another one followed").click()
    expect(boxes.locator("h3")).to_have_count(5)
    assert boxes.locator("h3").all_inner_texts()[2:] == [
        "↻ OSError 1 attempt in 1 run",
        "↻ KeyError 1 attempt in 1 run",
        "↻ TimeoutError 1 attempt in 1 run",
    ]


def test_tasks_are_filtered(page: Page) -> None:
    everything = [
        "etl/brave-otter",
        "extract-0",
        "load-0",
        "report-0",
        "clean-0",
        "fetch-0[7]",
        "send-0",
        "wait-0",
        "part/quick-heron",
        "page-0",
    ]
    assert shown_runs(page) == everything
    page.get_by_label("Find").first.fill("too slow")  # an error of an attempt
    assert shown_runs(page) == ["fetch-0[7]"]
    assert page.locator("#run-count").inner_text() == "1 of 10 runs"
    page.get_by_label("Find").first.fill("N=3")  # a parameter
    assert shown_runs(page) == ["load-0"]
    page.locator("#run-text").fill("")
    page.get_by_label("State").select_option(label="Cached (1)")
    assert shown_runs(page) == ["clean-0"]
    page.get_by_label("State").select_option(label="retried (2)")
    assert shown_runs(page) == ["load-0", "fetch-0[7]"]
    page.locator("#run-name").select_option(label="load (1)")
    assert shown_runs(page) == ["load-0"]
    page.locator("#run-text").fill("nothing is like this")
    assert page.locator("#rows .none").inner_text() == "No run is like that."
    page.get_by_role("button", name="Show all").click()
    assert len(shown_runs(page)) == 10


def test_tasks_are_sorted(page: Page) -> None:
    page.get_by_role("button", name="Duration").click()
    assert shown_runs(page)[:3] == ["etl/brave-otter", "fetch-0[7]", "load-0"]
    assert page.get_by_role("columnheader", name="Duration").get_attribute("aria-sort") == "descending"
    page.get_by_role("button", name="Duration").click()
    assert shown_runs(page)[-3:] == ["etl/brave-otter", "report-0", "clean-0"]  # those that never ran come last
    page.get_by_role("button", name="Run", exact=True).click()
    assert shown_runs(page)[0] == "etl/brave-otter"


def test_the_log_is_searched(page: Page) -> None:
    lines = ["begin", "two", "lines, the second with Price", "price is not there", "worker lost"]
    assert shown(page, "lines", ".message") == lines
    page.get_by_label("Find").nth(1).fill("PRICE")
    assert shown(page, "lines", ".message") == lines[1:4]
    assert page.locator("#lines mark").all_inner_texts() == ["Price", "price"]
    page.get_by_label("Level").select_option(label="WARNING and above")
    assert page.locator("#log-count").inner_text() == "1 of 4 lines"
    page.get_by_label("Find").nth(1).fill("")
    assert shown(page, "lines", ".message") == [*lines[1:3], lines[4]]


def test_the_log_of_one_run(page: Page) -> None:
    open_run(page, "load-0")
    page.get_by_role("button", name="Show its 2 lines").click()
    assert page.locator("#log-count").inner_text() == "2 of 4 lines"
    assert not page.locator("dialog").is_visible()
    page.get_by_role("button", name="of load-0 only: show all").click()
    assert page.locator("#log-count").inner_text() == "4 lines"


def steps_of(page: Page, run: str) -> list[str]:
    open_run(page, run)
    found = [" ".join(step.split()) for step in page.locator("dialog .steps li").all_inner_texts()]
    page.keyboard.press("Escape")
    return found


def test_what_happened_to_a_run_is_told_in_words(page: Page) -> None:
    assert steps_of(page, RETRIED.run_name) == [
        "… 100 ms waited for its inputs",
        "… 400 ms waited to be started",
        "✕ 500 ms attempt 1: failed (KeyError: 'price')",
        "↻ 500 ms waited to try again",
        "✕ 500 ms attempt 2: failed (TimeoutError: too slow)",
        "↻ 500 ms waited to try again",
        "✓ 1.0 s attempt 3: completed",
    ]
    assert steps_of(page, CACHED.run_name)[-1] == "◆ found its result"
    assert steps_of(page, "report-0")[-1] == "□ did not start: an input failed"
    assert steps_of(page, "send-0")[-1] == "☠︎ 500 ms crashed (The worker is gone)"


def test_everything_about_a_run(page: Page) -> None:
    open_run(page, "load-0")
    dialog = page.get_by_role("dialog", name="load-0")
    text = dialog.inner_text()
    assert "extract-0 (rows)" in text and "report-0 (wait_for)" in text and LOAD.id in text
    assert "/home/me/etl.py:12 in load: return rows[key]" in text
    dialog.get_by_role("button", name="extract-0").click()
    assert page.get_by_role("dialog", name="extract-0").is_visible()
    page.get_by_role("button", name="Close").click()
    assert not page.locator("dialog").is_visible()


def test_all_of_it_is_within_reach_of_the_keyboard(page: Page) -> None:
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
    wanted = {"theme", "Timeline", "run-text", "run-state", "run-name", "run-clear", "zoom-in", "zoom-out", "zoom-all"}
    assert wanted | {"lanes", "rows", "lines", "log-text", "log-level", "Traceback", "load-0"} <= reached


@pytest.mark.parametrize("part", ["lanes", "rows"])
def test_a_run_is_chosen_and_opened_by_keys(page: Page, part: str) -> None:
    page.locator(f"#{part}").focus()
    for key in ("ArrowDown", "ArrowDown", "End", "ArrowUp", "Home", "ArrowDown"):
        page.keyboard.press(key)
    page.keyboard.press("Enter")
    assert page.get_by_role("dialog", name="extract-0").is_visible()
    page.keyboard.press("Escape")
    assert page.locator("#rows .row[aria-selected=true]").locator(".cell").first.inner_text() == "extract-0"


def test_the_timeline_is_zoomed_by_keys(page: Page) -> None:
    window = page.locator("#window")
    page.locator("#lanes").focus()
    for key, text in (
        ("+", "2.5 s to 7.5 s of 10.0 s"),
        ("ArrowRight", "3.1 s to 8.1 s of 10.0 s"),
        ("ArrowLeft", "2.5 s to 7.5 s of 10.0 s"),
        ("0", "10.0 s in all"),
    ):
        page.keyboard.press(key)
        window.filter(has_text=text).wait_for()
    page.get_by_role("button", name="Zoom in").click()
    window.filter(has_text="2.5 s to 7.5 s of 10.0 s").wait_for()


def colours_of_lane(page: Page, run: str) -> set[tuple[int, ...]]:
    """Which colours the timeline shows in the lane of a run, right of its label."""
    return {
        tuple(colour)
        for colour in page.evaluate(
            """name => {
            const canvas = document.querySelector('#lanes canvas');
            const order = [...document.querySelectorAll('#rows .row:not([hidden])')];
            const place = order.find(row => row.textContent.startsWith(name)).getAttribute('aria-rowindex') - 2;
            const scale = canvas.width / canvas.clientWidth;
            const left = Math.round(222 * scale);
            const data = canvas.getContext('2d').getImageData(left, Math.round((place * 20 + 10) * scale),
              canvas.width - left, 1).data;
            const found = new Set();
            for (let at = 0; at < data.length; at += 4)
              if (data[at + 3] === 255) found.add([data[at], data[at + 1], data[at + 2]].join());
            return [...found].map(text => text.split(',').map(Number));
        }""",
            run,
        )
    }


def colour_of(page: Page, kind: str) -> tuple[int, ...]:
    text = page.locator(f"#legend [data-kind={kind}]").evaluate("element => getComputedStyle(element).color")
    return tuple(map(int, re.findall(r"\d+", text)))


def test_every_attempt_and_every_wait_is_a_segment(page: Page) -> None:
    wanted = {colour_of(page, kind) for kind in ("slot", "failed", "retry", "completed")}
    assert wanted <= colours_of_lane(page, "fetch-0[7]")
    assert colour_of(page, "failed") not in colours_of_lane(page, "extract-0")
    assert colour_of(page, "cached") in colours_of_lane(page, "clean-0")
    assert colour_of(page, "crashed") in colours_of_lane(page, "send-0")
    words = page.locator("#legend li").all_inner_texts()
    assert "ran and failed" in words and "waits to try again" in words and "cached: found its result" in words


@pytest.mark.parametrize("viewport", [WIDE, NARROW], ids=["wide", "narrow"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_accessible_and_nothing_sticks_out(
    browser: Browser, store: SQLiteStore, tmp_path: Path, scheme: str, viewport: Any
) -> None:
    store.write(ETL)
    options = {"color_scheme": scheme, "viewport": viewport, "bypass_csp": True}
    with visit(browser, tmp_path, exported("@last"), **options) as there:
        assert there.violations() == []
        width = there.page.evaluate("document.documentElement.scrollWidth")
        assert width == viewport["width"]
        open_run(there.page, "load-0")
        assert there.violations() == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_states_can_be_read_in_both_themes(browser: Browser, store: SQLiteStore, tmp_path: Path, scheme: str) -> None:
    store.write(ETL)
    with visit(browser, tmp_path, exported("@last"), color_scheme="dark" if scheme == "light" else "light") as there:
        there.page.get_by_label("Colours").select_option(scheme)
        there.page.get_by_label("Find").first.focus()
        background = there.page.locator("body").evaluate("element => getComputedStyle(element).backgroundColor")
        assert background == {"light": "rgb(255, 255, 255)", "dark": "rgb(16, 21, 27)"}[scheme]
        colours = there.page.locator("#rows .badge").evaluate_all(
            "elements => elements.map(element => getComputedStyle(element).color)"
        )
        assert len(set(colours)) >= 5
        assert min(contrast(colour, background) for colour in colours) >= 4.5


def test_ten_thousand_runs_are_drawn_on_demand(browser: Browser, store: SQLiteStore, tmp_path: Path) -> None:
    store.write(large(10_000))
    with visit(browser, tmp_path, exported("@last")) as there:
        page = there.page
        assert page.locator("#run-count").inner_text() == "10,001 runs"
        assert page.evaluate("document.querySelectorAll('*').length") < 1500
        page.locator("#rows").focus()
        page.keyboard.press("End")
        page.locator("#rows .row[aria-selected=true]", has_text="load-0[9999]").wait_for()
        page.locator("#lines").evaluate("element => { element.scrollTop = element.scrollHeight }")
        page.locator("#lines .row", has_text="loading 9990").wait_for()
        page.get_by_label("State").select_option(label="Failed (10)")
        assert shown_runs(page)[:2] == ["load-0[500]", "load-0[1497]"]
        assert page.locator(".error h3").first.inner_text() == "✕ KeyError in 10 runs"
        assert page.evaluate("document.querySelectorAll('*').length") < 1500


def test_a_run_that_goes_on(browser: Browser, store: SQLiteStore, tmp_path: Path) -> None:
    unfinished = {"status": "RUNNING", "state_name": "Running", "ended": None}
    flow = flow_row(**unfinished)
    waiting = {"status": "WAITING", "state_name": "AwaitingRetry", "ended": None}
    again = task_row(2, flow, "again-0", 1.0, **waiting)
    late = task_row(
        3, flow, "late-0", 1.0, started=None, attempts=0, status="PENDING", state_name="Pending", ended=None
    )
    store.write(batch(flow, again, late, AttemptRow(again.id, 1, NOON + 1, NOON + 2, "Failed", "OSError", "x")))
    with visit(browser, tmp_path, exported("@last")) as there:
        assert there.page.locator("#outcome").inner_text().startswith("▶︎ Running · 2 task runs (")
        *_, failed, waiting = steps_of(there.page, "again-0")
        assert failed == "✕ 1.0 s failed (OSError: x)" and waiting.endswith("waited to try again")
        assert steps_of(there.page, "late-0")[-1].endswith("waits")


def test_a_task_run_alone_and_a_run_without_anything(browser: Browser, store: SQLiteStore, tmp_path: Path) -> None:
    bare = flow_row(
        started=None, ready=None, ended=NOON, info=None, parameters="{}", tags="[]", result=None, attempts=0
    )
    store.write(ETL)
    store.write(batch(bare._replace(id="f" * 32, root_id="f" * 32, run_name="bare")))
    with visit(browser, tmp_path, exported("bare")) as there:
        assert there.page.locator("nav a").all_inner_texts() == ["Timeline", "Tasks", "Log", "Parameters"]
    with visit(browser, tmp_path, exported(LOAD.id)) as there:
        assert there.page.locator("h1").inner_text() == "load-0"


# Nothing recorded may act.

HOSTILE = [
    "<script>window.hit = 1</script>",
    "</script><script>window.hit = 2</script>",
    "</ScRiPt ><img src=x onerror='window.hit = 3'>",
    "<!--<script>",
    "--><svg onload='window.hit = 4'></svg>",
    "\"'><iframe srcdoc='<script>parent.hit = 5</script>'></iframe>",
    "javascript:window.hit = 6",
    "${window.hit = 7} $script {{constructor.constructor('window.hit = 8')()}} %s %(x)s {0}",
    "<base href='//evil.example/'><meta http-equiv=refresh content='0;url=//evil.example'>",
    "<link rel=stylesheet href=//evil.example/x.css><style>*{display:none}</style>",
    "]]> \\u003cscript\\u003e \\x3cscript\\x3e &lt;script&gt; &#60;script&#62;",
    "line\u2028window.hit = 9\u2029//\u001b[2J\u202e\ufeff",
    "__proto__",
    "constructor",
]
ALL = "\n".join(HOSTILE)


def hostile_rows() -> list[Any]:
    """One flow run with a task run for each text, which is in every field of it that holds text."""
    facts = {"host": ALL, "pid": ALL, "python": ALL, "script": ALL, ALL: ALL}
    flow = everywhere(flow_row(run_name="x"), ALL)._replace(info=json.dumps(facts), resumed_from=ALL)
    tasks = [everywhere(task_row(number, flow, "x", number), text) for number, text in enumerate(HOSTILE, start=2)]
    rows: list[Any] = [flow, *tasks]
    for text, run in zip(HOSTILE, tasks, strict=True):
        rows += [
            AttemptRow(run.id, 1, NOON, NOON + 1, text, text, text, TRACEBACK.replace("load", text) + text),
            EdgeRow(run.id, flow.id, "data", text),
            LogRow(run.id, NOON, 20, text, text),
        ]
    return rows


def everywhere(row: RunRow, text: str) -> RunRow:
    return row._replace(
        kind="flow" if row.parent_id is None else "task",
        name=text,
        run_name=text,
        key=text,
        status="FAILED",
        state_name=f"in {text}",
        attempts=2,
        message=text,
        error_type=text,
        error=text,
        traceback=TRACEBACK.replace("load", text) + text,
        result=text,
        parameters=json.dumps({text: text, "n": text}),
        tags=json.dumps([text]),
        version=text,
    )


def assert_unharmed(page: Page) -> None:
    """No script but ours has run, and no element is there that we do not make."""
    assert page.evaluate("window.hit") is None
    tags = set(page.evaluate("[...document.querySelectorAll('*')].map(element => element.tagName.toLowerCase())"))
    assert tags & {"img", "svg", "iframe", "base", "object", "embed", "form"} == set()
    counts = {tag: page.locator(tag).count() for tag in ("script", "style", "link", "meta")}
    assert counts == {"script": 2, "style": 1, "link": 1, "meta": 4}
    attributes = page.evaluate("[...document.querySelectorAll('*')].flatMap(element => element.getAttributeNames())")
    assert [name for name in attributes if name.startswith("on")] == []
    assert page.locator("a:not([href^='#'])").count() == 0


def test_nothing_that_was_recorded_acts(browser: Browser, store: SQLiteStore, tmp_path: Path) -> None:
    store.write(batch(*hostile_rows()))
    html = exported("@last")
    assert html.lower().count("<script") == html.lower().count("</script") == 2 and "evil" in html
    with visit(browser, tmp_path, html) as there:
        page = there.page
        assert_unharmed(page)
        for part in ("#rows .row", "#lines .row"):
            for place in range(min(6, page.locator(part).count())):
                page.locator(part).nth(place).click()
                for summary in page.locator("dialog summary").all():
                    summary.click()
                assert_unharmed(page)
                page.keyboard.press("Escape")
        page.locator("#lanes").hover(position={"x": 500, "y": 30})
        page.locator("#log-text").fill("<script>")
        assert page.locator("#lines mark").first.inner_text() == "<script>"
        page.locator("#run-text").fill("</script>")
        assert_unharmed(page)


def test_what_was_recorded_is_shown_word_for_word(browser: Browser, store: SQLiteStore, tmp_path: Path) -> None:
    store.write(batch(*hostile_rows()))
    with visit(browser, tmp_path, exported("@last")) as there:
        page = there.page
        for place, text in enumerate(map(printable_lines, HOSTILE)):  # what moves or hides others is escaped
            page.locator(f"#rows .row[aria-rowindex='{place + 3}']").click()
            assert page.locator("#details-title").text_content() == text
            said = page.locator("dialog td").all_text_contents()
            assert said.count(text) == 5  # message, tags, result, two parameters
            assert f"{text}: {text}" in page.locator("dialog .said").all_text_contents()
            page.keyboard.press("Escape")
