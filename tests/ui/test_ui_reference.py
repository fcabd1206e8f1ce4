"""The reference of the HTTP interface says what can be asked for, with which parameters, and what is in the answers."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from dashboards import Asked, good_headers
from test_ui_security import _done, _Recorded

from pages import DOCS
from penstock.ui import app, live, wire
from penstock.ui.guard import AT_ONCE, AT_ONCE_OF_ONE
from penstock.ui.routes import ACTION, LIVE, ROUTES, VIEWS, Route

sys.path.insert(0, str(DOCS / "_ext"))
import dashboard_api

PAGE = (DOCS / "dashboard_api.md").read_text("utf-8")
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S))
TOLD = [route for route in ROUTES if dashboard_api.is_told(route)]


def title(route: Route) -> str:
    return f"{route.method} {route.path}"


def test_every_request_has_its_section() -> None:
    assert [name for name in SECTIONS if name.startswith(("GET", "POST"))] == [title(route) for route in TOLD]
    for route in TOLD:
        mark = "dashboard-views" if route.kind == LIVE else f"dashboard-request {title(route)}"
        assert f"<!-- generated: {mark} -->" in SECTIONS[title(route)]


def test_every_parameter_has_a_meaning() -> None:
    named = {(route.path, name) for route in TOLD for name in [*route.parameters, *re.findall(r"{(\w+)}", route.path)]}
    told = {(path, name) for path, name in named if dashboard_api.meaning(path, name)}
    assert told == named
    of_views = {name for _, asked in VIEWS.values() for name in asked}
    assert {name for _, name in named} | of_views | {"file"} >= set(dashboard_api.MEANINGS)
    assert set(dashboard_api.SPECIAL) <= named


def test_the_tables_are_made_from_the_routes() -> None:
    text = dashboard_api.request("GET", "/api/runs/{id}/tasks")
    assert "`{id}`" in text and "at most 200" in text and "default `created`" in text and "may be repeated" in text
    for route in ROUTES:
        assert (f"`{title(route)}`" in dashboard_api.routes()) == (route.kind != "page")
    for name in VIEWS:
        assert f"| `{name}` |" in dashboard_api.views()
    with pytest.raises(ValueError, match="unpack"):
        dashboard_api.request("GET", "/api/nothing")


# --- what is in the answers ---


def rows(section: str) -> list[dict[str, str]]:
    """The tables about answers: of each, what is said about each place."""
    tables = re.findall(r"^\| in the answer.*?\|\n\|---\|---\|\n((?:\|.*\n)*)", section, re.M)
    found = []
    for table in tables:
        told: dict[str, str] = {}
        for places, said in re.findall(r"^\| (.*?) \| (.*) \|$", table, re.M):
            told.update(dict.fromkeys(re.findall(r"`([\w.]+)`", places), said))
        found.append(told)
    return found


def faults(told: dict[str, str], answer: dict[str, Any]) -> Iterator[str]:
    """Where a table and an answer differ."""
    for place, said in told.items():
        value = at(answer, place)
        if value is None:
            yield f"there is no {place}"
        elif wrong := names_of(value) ^ names_in(said, value):
            yield f"{place}: {sorted(wrong)}"
    yield from (f"{place} is not told" for place in places_of(answer) if not is_told(place, told))


def at(answer: Any, place: str) -> Any:
    for part in place.split("."):
        answer = answer.get(part) if isinstance(answer, dict) else None
    return "null" if answer is None and place.rpartition(".")[2] in NULLS else answer


NULLS = {"end", "next", "nonce", "before", "after", "open", "where"}
VALUES = {"true", "sqlite", "postgres", "data", "wait_for", "bin", "after", "before", "states", "waiting"}


def names_of(value: Any) -> set[str]:
    value = value[0] if isinstance(value, list) and value and isinstance(value[0], dict) else value
    return set(value) if isinstance(value, dict) else set()


def names_in(said: str, value: Any) -> set[str]:
    """The names that are told about an object."""
    names = set(re.findall(r"`([\w]+)`", said))
    if "(#fates)" in said:
        names |= set(re.findall(r"`(\w+)`", SECTIONS["Fates"])) - {"fates"}
    if "(#a-run)" in said:
        names |= {
            name for line in re.findall(r"^\| (`.*?) \|", SECTIONS["A run"], re.M) for name in line.split("`")[1::2]
        }
    return names - (VALUES - names_of(value)) if names_of(value) else set()


def places_of(answer: dict[str, Any], around: str = "") -> Iterator[str]:
    for name, value in answer.items():
        if isinstance(value, dict) and name not in ("columns", "fates"):
            yield from places_of(value, f"{around}{name}.")
        elif around + name != "schema":
            yield around + name


def is_told(place: str, told: dict[str, str]) -> bool:
    """By itself, or with the object that it is a part of."""
    parts = place.split(".")
    return any(".".join(parts[:end]) in told for end in range(1, len(parts) + 1))


def answers(asked: Asked) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """One for each table: the section, which of its tables, the answer."""
    run_id = asked.json("/api/runs?flow=etl&text=tuesday")["columns"]["id"][0]
    task_id = asked.json(f"/api/runs/{run_id}/tasks?name=load")["columns"]["id"][0]
    for route in TOLD:
        target = route.path.replace("{name}", "etl")
        if route.kind in (LIVE, ACTION) or "actions" in target:
            continue
        target = target.replace("{id}", task_id if "tasks" in route.path.split("{")[0] else run_id)
        query = {"/api/compare": f"?a={run_id}&b={run_id}", f"/api/runs/{run_id}/timeline": "?open=load"}
        yield title(route), 0, asked.json(target + query.get(target, ""))
        if target.endswith("/graph"):
            yield title(route), 1, asked.json(f"{target}?group=load")


def test_the_answers_are_as_the_page_says(asked: Asked) -> None:
    found = [
        f"{name}: {one}"
        for name, which, answer in answers(asked)
        for one in faults(rows(SECTIONS[name])[which], answer)
    ]
    assert found == []


def test_the_answers_about_actions_are_as_the_page_says(example: Any, tmp_path: Any) -> None:
    actions = _Recorded(str(tmp_path))
    with Asked(example, actions) as asked:
        run_id = asked.json("/api/runs")["columns"]["id"][0]
        body = b'{"run": "%s", "nonce": "%s"}' % (run_id.encode(), asked.json("/api/about")["nonce"].encode())
        answer = asked.ask("POST", "/api/actions/cancel", good_headers("POST"), body)
        assert answer.status == 202
        _done(actions)
        assert [*faults(rows(SECTIONS["POST /api/actions/{action}"])[0], answer.json())] == []
        assert [*faults(rows(SECTIONS["GET /api/actions"])[0], asked.json("/api/actions"))] == []


@pytest.mark.parametrize(
    ("told", "answer"),
    [
        ({"a": "x"}, {"b": 1, "a": 1}),
        ({"a": "x"}, {}),
        ({"columns": "`a`, `b`"}, {"columns": {"a": []}}),
        ({"columns": "`a`"}, {"columns": {"a": [], "b": []}}),
        ({"run": "[a run](#a-run)"}, {"run": {"id": "x"}}),
        ({"x.fates": "[fates](#fates)"}, {"x": {"fates": {"failed": [1]}}}),
        ({"x.more": "x"}, {"x": {"more": 1, "less": 2}}),
    ],
    ids=range(7),
)
def test_a_wrong_table_is_found(told: dict[str, str], answer: dict[str, Any]) -> None:
    assert [*faults(told, answer)]


def test_the_numbers_on_the_page_are_those_of_the_server() -> None:
    text = " ".join(PAGE.split())
    assert f"{AT_ONCE} requests are answered at once, {AT_ONCE_OF_ONE[LIVE]} streams of one address" in text
    assert (app.LONGEST_LINE, app.LONGEST_ANSWER, wire.PATIENCE, live.BEAT, 1 / live.PAUSE) == (1, 5, 10, 15, 2)
