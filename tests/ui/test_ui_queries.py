"""What a request says reaches the store as a value, never as a statement, a path or the name of anything."""

from __future__ import annotations

import json
import os
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from dashboards import Asked, Looked, Place

from penstock.exceptions import StoreUnavailable
from penstock.store.base import Reader
from penstock.store.opening import statements
from penstock.store.postgres_link import dialect, translated
from penstock.storing import open_store
from penstock.testing.store_suite import batch, run_row
from penstock.ui import asking, routes, window_sqlite
from penstock.ui.asking import Refused
from penstock.ui.records import Records, TookTooLong
from penstock.ui.window import view
from penstock.ui.window_postgres import PostgresWindow
from penstock.ui.window_sqlite import SQLiteWindow

ON_BOTH_STORES = True
VIEWS = str(Path(window_sqlite.__file__).with_name("views.sql"))
NASTY = (
    *(
        "'",
        '"',
        "';--",
        "' OR '1'='1",
        "\\",
        "%",
        "_",
        "\\%",
        "?",
        ":name",
        "{parents}",
        "SORT",
        "$.x",
        '"$"',
        "\u2019",
    ),
    *("\u2019", "\u02bc", "a' UNION SELECT sealed FROM results --", "1; DROP TABLE runs", "[]", "null", "\x1b[2J", "*"),
    *(
        "\u202e",
        "%00",
        "x" * 1000,
        "\ud7ff",
        "\U0001f600",
        "-1",
        "1e999",
        "NaN",
        "0x10",
        "../../etc/passwd",
        "\r\nX-Y: z",
    ),
)
FILTERS = [
    ("/api/runs", "flow"),
    ("/api/runs", "state"),
    ("/api/runs", "tag"),
    ("/api/runs", "text"),
    ("/api/runs/{}/tasks", "name"),
    ("/api/runs/{}/tasks", "group"),
    ("/api/runs/{}/tasks", "state"),
    ("/api/runs/{}/tasks", "text"),
    ("/api/runs/{}/logs", "task"),
    ("/api/runs/{}/logs", "text"),
    ("/api/runs/{}/timeline", "open"),
    ("/api/runs/{}/graph", "group"),
]


@pytest.mark.parametrize(("path", "name"), FILTERS)
def test_a_filter_is_nothing_but_a_text(path: str, name: str, look: Looked, reader: Reader) -> None:
    run_id = look.run("etl")
    for text in NASTY:
        document = look(path.format(run_id), f"{name}={quote(text)}")
        if path == "/api/runs" and name == "text":
            expected = [row.id for row in reader.runs(limit=100, text=text)]
            assert document["columns"]["id"] == expected, text
        elif path.endswith("/tasks") and name == "text":
            expected = [row.id for row in reader.runs(below=run_id, limit=100, text=text)]
            assert sorted(document["columns"]["id"]) == sorted(expected), text
        elif "columns" in document and path.endswith(("/tasks", "/runs")):
            assert not document["columns"]["id"], text


def test_a_parameter_is_looked_for_by_its_name(look: Looked) -> None:
    for text in (one[:500] for one in NASTY):
        assert not look("/api/runs", f"parameter={quote(text)}%3D1")["columns"]["id"]
        found = look("/api/runs", f"parameter=day%3D{quote(text)}")["columns"]["id"]
        assert bool(found) == (text == "'"), text


@pytest.mark.parametrize("text", [*NASTY, "e30", "W10", "WyJ4IiwieSJd", "WzEsICJ4Il0=", "[1, 2]", "A" * 3000])
def test_a_cursor_is_one_or_nothing(text: str, look: Looked) -> None:
    with pytest.raises(Refused, match="after must be"):
        look("/api/runs", f"after={quote(text)}")


@pytest.mark.parametrize("value", [[], {}, True, [[1], "0" * 32]], ids=repr)
def test_a_cursor_holds_a_value(value: Any, look: Looked) -> None:
    with pytest.raises(Refused):
        look("/api/runs", f"after={asking.as_cursor(value, '0' * 32)}")


def test_a_cursor_of_another_sort_is_refused(look: Looked) -> None:
    run_id = look.run("wide")
    cursor = look(f"/api/runs/{run_id}/tasks", "sort=name&limit=1")["next"]
    with pytest.raises(Refused, match="same sort"):
        look(f"/api/runs/{run_id}/tasks", f"sort=created&after={cursor}")


@pytest.mark.parametrize("path", sorted({route.path for route in routes.ROUTES if route.parameters}))
def test_parameters_are_those_of_the_table(path: str, asked: Asked) -> None:
    target = path.replace("{id}", "0" * 32).replace("{name}", "etl")
    for query in ("unknown=1", "limit=1&limit=2&unknown", "sort=created%20DESC", "direction=;", "%FF=1", "width=%FF"):
        assert asked.get(f"{target}?{query}").status in (400, 404), query
    assert asked.get(f"{target}?{'x' * 9000}").status in (400, 414)


@pytest.mark.parametrize(
    "text", ["..", "%2e%2e", "0" * 31, "0" * 33, "G" * 32, "0" * 31 + "%30", "x%00", "A" * 32, "con"]
)
def test_an_id_has_32_digits(text: str, asked: Asked) -> None:
    status = asked.get(f"/api/runs/{text}").status
    assert status == (404 if text == "0" * 31 + "%30" else 400)


def test_no_path_of_a_request_is_opened(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    asked.get("/api/runs")
    opened: list[str] = []

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if watching and event in ("open", "os.listdir", "os.scandir"):
            opened.append(str(arguments[0]))

    watching = True
    sys.addaudithook(hook)
    try:
        for path in ("..%2f..%2fetc%2fpasswd", "%2fetc%2fpasswd", "a.js%00", "....//etc", "%252e%252e", "nul", "~root"):
            for base in ("/assets/", "/api/runs/", "/api/flows/", "/flows/", "/api/actions/", "/tasks/"):
                asked.get(base + path)
    finally:
        watching = False
    home = str(asked.dashboard._records.home)  # where a file is; a database is nowhere
    assert [name for name in opened if not name.startswith(home)] == []


# --- the connection ---


@pytest.fixture
def window(shown: Place) -> Iterator[SQLiteWindow | PostgresWindow]:
    window = SQLiteWindow(shown.home) if shown.url is None else PostgresWindow(shown.url)
    yield window
    window.close()


@pytest.fixture
def file_window(example: Path) -> Iterator[SQLiteWindow]:
    window = SQLiteWindow(example)
    yield window
    window.close()


@pytest.mark.parametrize(
    "text",
    [
        "INSERT INTO runs (id) VALUES ('x')",
        "DELETE FROM runs",
        "UPDATE runs SET name = 'x'",
        "DROP TABLE runs",
        "CREATE TABLE x (y)",
        "CREATE TEMP TABLE x (y)",
        "ATTACH DATABASE '/tmp/x.db' AS other",
        "PRAGMA query_only = OFF",
        "PRAGMA journal_mode",
        "PRAGMA data_version = 3",
        "PRAGMA table_info(runs)",
        "VACUUM INTO '/tmp/x.db'",
        "SELECT load_extension('x')",
        "BEGIN IMMEDIATE",
        "REINDEX",
        "ANALYZE",
    ],
)
def test_the_connection_only_looks(text: str, file_window: SQLiteWindow) -> None:
    file_window.ask("SELECT 1 FROM runs, json_each('[1]') LIMIT 1", {})
    with pytest.raises(StoreUnavailable, match=r"not authorized|prohibited|authorization denied"):
        file_window.ask(text, {})


def test_who_allows_everything_is_stopped_by_the_file(
    file_window: SQLiteWindow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(window_sqlite, "_only_looks", lambda *_: sqlite3.SQLITE_OK)
    with pytest.raises(StoreUnavailable, match="readonly"):
        file_window.ask("DELETE FROM runs", {})


def test_what_takes_long_is_given_up(window: SQLiteWindow | PostgresWindow) -> None:
    endless = "WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x > 0) SELECT COUNT(*) FROM n"
    for _ in range(2):
        with pytest.raises(TookTooLong, match=r"after 0\.[26] s"):
            window.ask(endless, {})
        with pytest.raises(TookTooLong, match=r"after 0\.[39] s"):
            window.ask_within(0.3, endless, {})
        assert window.ask("SELECT 1", {}) == [(1,)]


def test_a_busy_machine_is_no_long_question(file_window: SQLiteWindow, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others had the processor for all of the time that a snapshot may last: it is looked again."""
    answers = iter([None, None, [(1,)], None, None, None])
    monkeypatch.setattr(file_window, "_fetched_in_time", lambda *_: next(answers))
    assert file_window.ask("SELECT 1", {}) == [(1,)]
    with pytest.raises(TookTooLong):
        file_window.ask("SELECT 1", {})


def test_the_version_is_another_one_when_somebody_has_written(own: Place) -> None:
    with closing(open_store(*own)) as store, closing(Records(*own)) as records:
        store.write(batch(run_row(1)))
        # A server has other business as well now and then, which is not worse than a look too many.
        assert any(records.version() == records.version() for _ in range(5))
        before = records.version()
        store.write(batch(run_row(2)))
        assert records.version() != before


def test_the_statements_are_those_of_the_files(shown: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is asked: their texts are known before."""
    seen: set[str] = set()
    kind = SQLiteWindow if shown.url is None else PostgresWindow
    ask: Callable[..., Any] = kind.ask

    def spy(self: object, text: str, parameters: dict[str, object]) -> Any:
        seen.add(text)
        return ask(self, text, parameters)

    monkeypatch.setattr(kind, "ask", spy)
    look = Looked(*shown)
    run_id = look.run("etl")
    for path, name in FILTERS:
        for text in NASTY:
            look(path.format(run_id), f"{name}={quote(text)}")
    for sort in routes.tasks.SORTS:
        look(f"/api/runs/{run_id}/tasks", f"sort={sort}&direction=desc")
    look.records.close()
    if shown.url is None:
        known = {*statements("queries.sql").values(), *map(view, statements(VIEWS))}
    else:
        known = {*map(dialect, [*statements("queries.sql"), "vouches"])}
        known |= {translated(view(name, "views_postgres.sql")) for name in statements(VIEWS)}
    built = {text for text in seen if text not in known}
    assert len(built) <= 2 * len(routes.tasks.SORTS)
    assert not [text for text in built if any(len(nasty) > 9 and nasty in text for nasty in NASTY)]


def test_no_answer_needs_more_than_looking(example: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    denied: list[Any] = []
    rule = window_sqlite._only_looks

    def spy(*arguments: Any) -> int:
        answer = rule(*arguments)
        if answer != sqlite3.SQLITE_OK:
            denied.append(arguments)
        return answer

    monkeypatch.setattr(window_sqlite, "_only_looks", spy)
    look = Looked(example)
    run_id = look.run("etl")
    for path in ("", "/timeline", "/graph", "/tasks", "/logs"):
        look(f"/api/runs/{run_id}{path}")
    look("/api/runs", "state=failed&tag=x&parameter=a%3Db&text=c")
    look("/api/compare", f"a={run_id}&b={run_id}")
    look.records.version()
    look.records.close()
    assert denied == []


ODD = (
    *(
        "{",
        "",
        "[1]",
        '"x"',
        '{"a": 1}, {"b": 2}',
        '{"a": 1}]',
        '{"a": "\\u0000"}',
        '{"a": "\\ud800"}',
        '{"a": "\\udc00x"}',
    ),
    *('{"a": "\\ud800\\u0041"}', '{"a": {"b": 1}}', "null", '{"b": 1}', '{"a": null}', "\x00", "\ud800"),
)


def test_a_damaged_record_harms_no_answer(own: Place) -> None:
    """Nothing of a row is believed to be what it should be."""
    store = open_store(*own)
    odd = run_row(1, kind="flow", parameters="{", tags='{"a": 1}', info="[1]", message="\x00\ud800", ended=None)
    store.write(batch(odd._replace(name="\x1b]0;x\x07", created=float("inf"), version="<script>")))
    store.close()
    look = Looked(*own)
    document = look("/api/runs")
    (run_id,) = document["columns"]["id"]
    for path in ("", "/graph", "/tasks", "/logs"):
        look(f"/api/runs/{run_id}{path}")
    look(f"/api/tasks/{run_id}")
    look.records.close()
    assert "\x1b" not in json.dumps(document)


def test_runs_are_found_by_parameters_and_tags_whatever_others_have(own: Place) -> None:
    good = run_row(99, parameters='{"a": "Caf\\u00e9 \\ud83d\\ude00 100% \\"x\\\\y\\"", "b": "2"}', tags='["x", "y"]')
    with closing(open_store(*own)) as store:
        store.write(batch(*(run_row(n, parameters=text, tags=text[:1]) for n, text in enumerate(ODD, 1)), good))
    look = Looked(*own)
    with closing(look.records):
        for part in ("cAF\u00e9", "\U0001f600", "100%", '"x\\y"', ""):
            found = look("/api/runs", f"parameter=a%3D{quote(part)}&limit=200")["columns"]["id"]
            assert good.id in found and (not part or found == [good.id]), part
        for part in ("CAF\u00c9", "100_", "xx", "2"):  # letters beyond ASCII are those they are
            assert good.id not in look("/api/runs", f"parameter=a%3D{quote(part)}")["columns"]["id"], part
        assert look("/api/runs", "tag=y&tag=x")["columns"]["id"] == [good.id]
        assert look("/api/runs", "tag=X")["columns"]["id"] == []


def test_a_store_that_is_not_there(tmp_path: Path) -> None:
    with Asked(tmp_path / "nothing") as asked:
        for path in ("/api/runs", "/api/flows"):  # nothing was recorded yet
            assert asked.json(path)["columns"]["name"] == []
        response = asked.get(f"/api/runs/{'0' * 32}")
        assert response.status == 404
        assert "there is no run store" in response.json()["error"]["message"]
    assert not os.path.exists(tmp_path / "nothing")


def test_dead_processes_are_looked_for_now_and_then(example: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from penstock import recovery

    looks: list[object] = []
    monkeypatch.setattr(recovery, "recover", lambda *which: looks.append(which))
    found = Records(example)
    for _ in range(3):
        found.look_for_deaths()
    found.close()
    assert len(looks) == 1
