"""Each answer against the records themselves: everything is counted again here, in the plainest way."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click
import pytest
from dashboards import Looked, rows_of

from penstock import tallies
from penstock.cli.outcome import outcome
from penstock.store.base import Reader, RunRow
from penstock.ui.answers import compare
from penstock.ui.answers.documents import block, line

LARGEST = 200_000
ON_BOTH_STORES = True


def everything(reader: Reader, run_id: str) -> list[RunRow]:
    return reader.tree(run_id, limit=10**6)


def places(reader: Reader, run_id: str) -> dict[str, str]:
    """Of each run below, the names of the flows around it."""
    inside = {run_id: ""}
    found: dict[str, str] = {}
    for row in everything(reader, run_id):
        found[row.id] = inside[str(row.parent_id)]
        inside[row.id] = found[row.id] + (f"{row.name}/" if row.kind == "flow" else "")
    return found


def group_of(row: RunRow, place: str) -> str:
    return place + row.name + ("/" if row.kind == "flow" else "")


def fate(row: RunRow) -> str:
    return tallies.fate(row.status, row.state_name)


def pages(look: Looked, path: str, query: str, limit: int) -> Iterator[Any]:
    after = ""
    for _ in range(1000):
        page = look(path, f"{query}&limit={limit}{after}")
        yield page
        if page["next"] is None:
            return
        after = f"&after={page['next']}"
    raise AssertionError("the pages do not end")


# --- the list ---


def test_the_list_of_runs(look: Looked, reader: Reader) -> None:
    found = list(itertools.chain.from_iterable(rows_of(page) for page in pages(look, "/api/runs", "", 3)))
    rows = reader.runs(limit=100)
    assert [one["id"] for one in found] == [row.id for row in rows]
    for one, row in zip(found, rows, strict=True):
        assert one["tags"] == json.loads(row.tags)
        assert (one["state"], one["status"], one["fate"]) == (row.state_name, row.status, fate(row))
        assert (one["created"], one["started"], one["ended"]) == (row.created, row.started, row.ended)


def test_the_list_says_how_the_tasks_went(look: Looked, reader: Reader) -> None:
    document = look("/api/runs")
    for place, run_id in enumerate(document["columns"]["id"]):
        rows = [row for row in everything(reader, run_id) if row.kind == "task"]
        expected = Counter(map(fate, rows))
        assert {name: numbers[place] for name, numbers in document["tasks"].items() if name != "retried"} == {
            name: expected[name] for name in tallies.FATES
        }
        assert document["tasks"]["retried"][place] == sum(row.attempts > 1 for row in rows)


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("flow=etl", lambda row: row.name == "etl"),
        ("flow=et", lambda row: False),
        ("state=failed", lambda row: row.status == "FAILED"),
        ("state=failed&state=Completed", lambda row: True),
        ("tag=nightly&tag=tuesday", lambda row: {"nightly", "tuesday"} <= set(json.loads(row.tags))),
        ("text=TUESDAY", lambda row: "tuesday" in row.parameters),
        ("text=%25", lambda row: "%" in row.parameters + (row.error or "") + (row.message or "")),
        ("parameter=day%3Dtues", lambda row: "tuesday" in json.loads(row.parameters).get("day", "")),
        ("parameter=nothing%3Dtues", lambda row: False),
        ("since=0&until=1", lambda row: False),
    ],
)
def test_the_list_is_filtered(query: str, wanted: Any, look: Looked, reader: Reader) -> None:
    assert look("/api/runs", query)["columns"]["id"] == [row.id for row in reader.runs(limit=100) if wanted(row)]


def test_counting_that_takes_too_long_is_left_for_later(look: Looked, monkeypatch: pytest.MonkeyPatch) -> None:
    from penstock.ui.answers import runs

    monkeypatch.setattr(runs, "COUNTING", -1.0)
    first = look("/api/runs")
    assert set(first["tasks"]["completed"]) == {None}
    monkeypatch.undo()
    assert None not in look("/api/runs")["tasks"]["completed"]
    monkeypatch.setattr(runs, "COUNTING", -1.0)
    assert None not in look("/api/runs")["tasks"]["completed"], "what was counted is remembered"


# --- the run ---


@pytest.mark.parametrize("name", ["etl", "broken", "wide"])
def test_the_header_of_a_run(name: str, look: Looked, reader: Reader) -> None:
    run_id = look.run(name, 1 if name == "etl" else 0)
    run, rows, where = reader.get(run_id), everything(reader, run_id), places(reader, run_id)
    assert run is not None
    document = look(f"/api/runs/{run_id}")
    assert document["outcome"] == click.unstyle(outcome(run, reader.counts(run_id)))
    groups = rows_of(document["groups"])
    for place, group in enumerate(groups):
        members = [row for row in rows if group_of(row, where[row.id]) == group["group"]]
        assert (group["total"], group["retried"]) == (len(members), sum(row.attempts > 1 for row in members))
        assert group["created"] == min(row.created for row in members)
        numbers = {fate: column[place] for fate, column in document["groups"]["fates"].items()}
        assert numbers == {one: sum(fate(row) == one for row in members) for one in tallies.FATES}
    assert sum(group["total"] for group in groups) == len(rows)
    assert {one["name"]: one["value"] for one in rows_of(document["parameters"])} == json.loads(run.parameters)


def test_the_errors_of_a_run_name_the_line_of_the_user(look: Looked) -> None:
    document = look(f"/api/runs/{look.run('wide')}")
    (error,) = rows_of(document["errors"])
    assert error["title"] == "step-0[999]" and error["error"] == "step 999 is not possible"
    assert "example_store.py" in error["user_line"] and "raise ValueError" in error["user_line"]
    assert document["errors"]["more"] == 1


def test_where_the_time_went(look: Looked, reader: Reader) -> None:
    run_id = look.run("etl")
    run, rows = reader.get(run_id), everything(reader, run_id)
    assert run is not None and run.ended is not None and run.started is not None
    where = look(f"/api/runs/{run_id}")["where"]
    assert where["wall"] == pytest.approx(run.ended - run.started)
    tried = [one for one in reader.attempts(run_id) if one.run_id in {row.id for row in rows if row.kind == "task"}]
    user = sum((one.ended or 0) - one.started for one in tried if one.started is not None)
    assert where["user"] == pytest.approx(user, abs=1e-4)
    pauses = sum(row.ended - row.started for row in rows if row.attempts > 1) - sum(
        (one.ended or 0) - (one.started or 0)
        for one in tried
        if next(row for row in rows if row.id == one.run_id).attempts > 1
    )
    assert where["retrying"] == pytest.approx(pauses, abs=1e-4) and pauses > 0.03
    assert 0 <= where["engine"] <= where["wall"]
    path = rows_of(where["critical_path"])
    assert path[-1]["title"] == "report-0"
    assert all(one["ended"] <= other["started"] + 1e-6 for one, other in itertools.pairwise(path))


def test_a_run_inside_another(look: Looked, reader: Reader) -> None:
    root = look.run("etl")
    inner = next(row for row in everything(reader, root) if row.kind == "flow")
    document = look(f"/api/runs/{inner.id}")
    assert [one["id"] for one in rows_of(document["parents"])] == [root]
    assert [(one["group"], one["total"]) for one in rows_of(document["groups"])] == [("fetch", 6)]


# --- the timeline ---


STEP = 1e-3  # of a bin: how far from the plain sum a busy time may be


def _intervals(row: RunRow, attempts: list[Any]) -> Iterator[tuple[str, float, float]]:
    ended = row.ended
    assert ended is not None
    if row.started is None:
        yield fate(row), ended, ended
        return
    yield "queued", row.created, row.started
    for one in attempts:
        last = one.number == row.attempts
        yield fate(row) if last else "retried", one.started, one.ended


@pytest.mark.parametrize("name", ["etl", "broken", "wide"])
@pytest.mark.parametrize("window", [(0.0, 1.0), (0.2, 0.7), (-1.0, 3.0), (0.9, 1.5)])
@pytest.mark.parametrize("width", [10, 97])
def test_the_timeline(name: str, window: tuple[float, float], width: int, look: Looked, reader: Reader) -> None:
    run_id = look.run(name)
    run = reader.get(run_id)
    assert run is not None and run.ended is not None
    length = run.ended - run.created
    begin, end = run.created + window[0] * length, run.created + window[1] * length
    document = look(f"/api/runs/{run_id}/timeline", f"from={begin!r}&to={end!r}&width={width}")
    assert (document["from"], document["to"], document["groups"]["joined"]) == (begin, end, 1)
    bin_ = document["bin"]
    expected: dict[tuple[str, str, int], list[float]] = {}
    attempts: dict[str, list[Any]] = {}
    for one in reader.attempts(run_id):
        attempts.setdefault(one.run_id, []).append(one)
    where = places(reader, run_id)
    for row in everything(reader, run_id):
        for state, start, stop in _intervals(row, attempts.get(row.id, [])):
            if start >= end or stop < begin:
                continue
            for place in range(max(0, int((start - begin) / bin_)), min(width - 1, int((stop - begin) / bin_)) + 1):
                low, high = begin + place * bin_, begin + (place + 1) * bin_
                cell = expected.setdefault((group_of(row, where[row.id]), state, place), [0, 0.0])
                cell[0] += 1
                cell[1] += max(0.0, min(high, stop) - max(low, start))
    found = {}
    groups = rows_of({"columns": document["groups"]["columns"]})
    for group, cells in zip(groups, document["groups"]["bins"], strict=True):
        for one in rows_of({"columns": cells}):
            found[group["group"], document["states"][one["state"]], one["bin"]] = (one["number"], one["busy"])
    assert {key: cell[0] for key, cell in expected.items()} == {key: cell[0] for key, cell in found.items()}
    for key, (number, busy) in found.items():
        assert busy == pytest.approx(expected[key][1], rel=0.01, abs=STEP * bin_ * number), key


@pytest.mark.parametrize("name", ["etl", "broken", "wide"])
def test_a_timeline_begins_with_the_start_of_its_run(name: str, look: Looked, reader: Reader) -> None:
    run_id = look.run(name)
    run = reader.get(run_id)
    assert run is not None and run.started is not None
    document = look(f"/api/runs/{run_id}/timeline")
    assert document["begin"] == document["from"] == run.started > run.created
    shown, where = {row["group"] for row in rows_of(document["groups"])}, places(reader, run_id)
    assert shown == {group_of(row, where[row.id]) for row in everything(reader, run_id)}


def test_a_timeline_of_too_many_cells_has_wider_bins(look: Looked, monkeypatch: pytest.MonkeyPatch) -> None:
    from penstock.ui.answers import timeline

    path = f"/api/runs/{look.run('wide')}/timeline"
    fine = look(path, "width=400")
    monkeypatch.setattr(timeline, "MOST_CELLS", 50)
    coarse = look(path, "width=400")
    factor = coarse["groups"]["joined"]
    assert factor > 1
    busy = [sum(map(sum, (cells["busy"] for cells in one["groups"]["bins"]))) for one in (fine, coarse)]
    assert busy[0] == pytest.approx(busy[1], rel=0.02)


def test_an_open_group_shows_every_attempt(look: Looked, reader: Reader) -> None:
    run_id = look.run("etl")
    document = look(f"/api/runs/{run_id}/timeline", f"open={quote('pages/fetch')}&rows=4")["open"]
    rows = rows_of(document)
    assert [one["title"] for one in rows] == [f"fetch-0[{n}]" for n in range(4)]
    assert document["total"] == 6
    segments = rows_of({"columns": document["segments"]})
    kinds = [[one["kind"] for one in segments if one["row"] == n] for n in range(4)]
    assert kinds[0] == kinds[3] == ["queued", "retried", "waiting", "completed"]
    assert kinds[1] == kinds[2] == ["queued", "completed"]
    for one, other in itertools.pairwise(segments):
        assert one["row"] != other["row"] or one["to"] == pytest.approx(other["from"], abs=1e-6)
    rest = look(f"/api/runs/{run_id}/timeline", f"open={quote('pages/fetch')}&first=4")["open"]
    assert [one["title"] for one in rows_of(rest)] == ["fetch-0[4]", "fetch-0[5]"]


# --- graph ---


@pytest.mark.parametrize("name", ["etl", "broken", "wide"])
def test_the_graph_of_groups(name: str, look: Looked, reader: Reader) -> None:
    run_id = look.run(name)
    document = look(f"/api/runs/{run_id}/graph")
    where, rows = places(reader, run_id), {row.id: row for row in everything(reader, run_id)}
    expected = Counter(
        (
            group_of(rows[edge.upstream_id], where[edge.upstream_id]),
            group_of(rows[edge.downstream_id], where[edge.downstream_id]),
            edge.kind,
        )
        for edge in reader.edges(run_id)
        if edge.downstream_id in rows and edge.upstream_id in rows
    )
    assert {(one["from"], one["to"], one["kind"]): one["number"] for one in rows_of(document["edges"])} == expected
    assert sum(document["nodes"]["columns"]["total"]) == len(rows)


def test_a_group_opens_into_its_runs(look: Looked, reader: Reader) -> None:
    run_id = look.run("wide")
    found: list[str] = []
    after = ""
    while True:
        document = look(f"/api/runs/{run_id}/graph", f"group=step{after}")
        found += document["nodes"]["columns"]["id"]
        if document["nodes"]["next"] is None:
            break
        assert len(document["nodes"]["columns"]["id"]) == 200
        after = f"&after={document['nodes']['next']}"
    assert found == [row.id for row in everything(reader, run_id)] and document["total"] == 3000
    edges = rows_of(look(f"/api/runs/{look.run('etl')}/graph", "group=check")["edges"])
    assert len(edges) == 3 and {one["from_title"] for one in edges} == {"extract-0"}


# --- the table ---


SORTED = {
    "created": lambda row: (row.created, row.id),
    "duration": lambda row: (-1.0 if row.started is None else row.ended - row.started, row.id),
    "name": lambda row: (row.name, row.id),
    "state": lambda row: (row.state_name, row.id),
    "attempts": lambda row: (row.attempts, row.id),
}


@pytest.mark.parametrize("sort", SORTED)
@pytest.mark.parametrize("direction", ["asc", "desc"])
@pytest.mark.parametrize("name", ["etl", "wide"])
def test_the_table_page_by_page(sort: str, direction: str, name: str, look: Looked, reader: Reader) -> None:
    run_id = look.run(name)
    query, limit = f"sort={sort}&direction={direction}", 7 if name == "etl" else 200
    found = itertools.chain.from_iterable(
        page["columns"]["id"] for page in pages(look, f"/api/runs/{run_id}/tasks", query, limit)
    )
    rows = sorted(everything(reader, run_id), key=SORTED[sort], reverse=direction == "desc")
    assert list(found) == [row.id for row in rows]


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("state=failed", lambda row: row.status == "FAILED"),
        ("state=cached&state=CRASHED", lambda row: row.state_name == "Cached"),
        ("name=load", lambda row: row.name == "load"),
        ("group=pages/fetch", lambda row: row.name == "fetch"),
        ("group=fetch", lambda row: False),
        ("group=pages/", lambda row: row.kind == "flow"),
        ("text=PRICE", lambda row: "price" in (row.error or "").lower()),
        ("text=row_", lambda row: False),
    ],
)
def test_the_table_is_filtered(query: str, wanted: Any, look: Looked, reader: Reader) -> None:
    run_id = look.run("etl", 2)
    expected = [row.id for row in everything(reader, run_id) if wanted(row)]
    assert look(f"/api/runs/{run_id}/tasks", query)["columns"]["id"] == expected


# --- logs ---


def _lines(reader: Reader, run_id: str) -> list[Any]:
    run = reader.get(run_id)
    assert run is not None
    first, last = reader.line_numbers(run_id)
    return reader.lines(run, first - 1, last)


@pytest.mark.parametrize("direction", ["after", "before"])
def test_the_log_page_by_page(direction: str, look: Looked, reader: Reader) -> None:
    run_id = look.run("wide")
    expected = [one.number for one in _lines(reader, run_id)]
    found: list[list[int]] = []
    place: int | None = 0 if direction == "after" else 10**9
    while place is not None:
        page = look(f"/api/runs/{run_id}/logs", f"{direction}={place}&limit=500")
        found.append(page["columns"]["seq"])
        place = page[direction]
        assert page["complete"]
    in_order = found if direction == "after" else found[::-1]
    assert list(itertools.chain.from_iterable(in_order)) == expected


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("", lambda one: True),
        ("level=warning", lambda one: one.level >= 30),
        ("text=PAGE%203", lambda one: "page 3" in one.message),
        ("text=%25", lambda one: "%" in one.message),
        ("task=fetch", lambda one: one.name == "fetch"),
        ("task=fetch-0%5B3%5D", lambda one: one.run_name == "fetch-0[3]"),
        ("task=fetch&level=warning&text=reset", lambda one: one.name == "fetch" and one.level >= 30),
    ],
)
def test_the_log_is_filtered(query: str, wanted: Any, look: Looked, reader: Reader) -> None:
    run_id = look.run("etl", 2)
    document = look(f"/api/runs/{run_id}/logs", f"{query}&limit=500")
    expected = [one for one in _lines(reader, run_id) if wanted(one)]
    assert document["columns"]["seq"] == [one.number for one in expected]
    assert document["columns"]["message"] == [block(one.message) for one in expected]


def test_the_log_around_a_line(look: Looked, reader: Reader) -> None:
    run_id = look.run("wide")
    numbers = [one.number for one in _lines(reader, run_id)]
    document = look(f"/api/runs/{run_id}/logs", f"around={numbers[1000]}&limit=21")
    assert document["columns"]["seq"] == numbers[990:1011]
    earlier = look(f"/api/runs/{run_id}/logs", f"before={document['before']}&limit=5")
    assert earlier["columns"]["seq"] == numbers[985:990]
    later = look(f"/api/runs/{run_id}/logs", f"after={document['after']}&limit=5")
    assert later["columns"]["seq"] == numbers[1011:1016]


def test_a_search_that_takes_too_long_says_where_to_go_on(look: Looked, monkeypatch: pytest.MonkeyPatch) -> None:
    from penstock.ui.answers import logs

    run_id = look.run("wide")
    expected = look(f"/api/runs/{run_id}/logs", "text=FAILED")["columns"]["seq"]
    monkeypatch.setattr(logs, "FIRST_SPAN", 100)
    monkeypatch.setattr(logs, "SEARCHING", 0.0)
    found: list[int] = []
    place = "before=1000000"
    looks = 0
    while True:
        looks += 1
        page = look(f"/api/runs/{run_id}/logs", f"text=FAILED&{place}")
        found = page["columns"]["seq"] + found
        if page["before"] is None:
            break
        place = f"before={page['before']}"
    assert found == expected and looks > 3


def test_the_log_of_a_run_inside(look: Looked, reader: Reader) -> None:
    inner = next(row for row in everything(reader, look.run("etl")) if row.kind == "flow")
    document = look(f"/api/runs/{inner.id}/logs")
    assert document["columns"]["seq"] == [one.number for one in _lines(reader, inner.id)] != []


# --- one task, flows, comparing ---


def test_a_task_with_its_attempts_and_neighbours(look: Looked, reader: Reader) -> None:
    rows = everything(reader, look.run("etl", 2))
    retried = next(row for row in rows if row.attempts == 2)
    document = look(f"/api/tasks/{retried.id}")
    first, last = rows_of(document["attempts"])
    assert (first["fate"], last["fate"], first["error_type"]) == ("retried", "completed", "OSError")
    assert "example_store.py" in first["user_line"] and "OSError" in first["traceback"]
    assert [one["kind"] for one in rows_of(document["parents"])] == ["flow", "flow"]
    extract = next(row for row in rows if row.name == "extract")
    document = look(f"/api/tasks/{extract.id}")
    downstreams = rows_of(document["downstreams"])
    waited = sorted(row.run_name for row in rows if row.name in ("check", "load"))
    assert sorted(one["title"] for one in downstreams) == waited
    document = look(f"/api/tasks/{downstreams[0]['id']}")
    assert [one["title"] for one in rows_of(document["upstreams"])] == ["extract-0"]


def test_the_flows_and_the_history_of_one(look: Looked, reader: Reader) -> None:
    roots = reader.runs(limit=100)
    flows = {one["name"]: one for one in rows_of(look("/api/flows"))}
    assert {name: one["runs"] for name, one in flows.items()} == Counter(row.name for row in roots)
    history = look("/api/flows/etl")
    assert [one["id"] for one in rows_of(history["runs"])] == [row.id for row in roots if row.name == "etl"]
    cells = rows_of({"columns": history["cells"]})
    tasks = history["tasks"]["columns"]["group"]
    tuesday = [row.id for row in roots if row.name == "etl"].index(look.run("etl", 2))
    load = next(one for one in cells if tasks[one["task"]] == "load" and one["run"] == tuesday)
    assert (load["fate"], load["number"], load["bad"]) == ("failed", 12, 1)


def test_two_runs_side_by_side(look: Looked) -> None:
    document = look("/api/compare", f"a={look.run('etl', 2)}&b={look.run('etl', 3)}")
    (day,) = rows_of(document["parameters"])
    assert (day["a"], day["b"], day["same"]) == ("'tuesday'", "'monday'", False)
    tasks = {one["group"]: one for one in rows_of(document["tasks"])}
    assert (tasks["load"]["a_bad"], tasks["load"]["b_bad"]) == (1, 0)
    assert tasks["extract"]["same_code"] is True and tasks["extract"]["same_results"] is True
    assert tasks["report"]["same_results"] is False
    both = look("/api/compare", f"a={look.run('etl')}&b={look.run('etl')}")
    assert {one["same_results"] for one in rows_of(both["tasks"])} <= {True, None}


def test_what_takes_long_to_compare_is_counted_in_several_answers(
    example: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare, "COUNTING", 0.0001)  # of a processor: over when the first has been counted
    look = Looked(example)
    with closing(look.records):
        query = f"a={look.run('etl', 2)}&b={look.run('etl', 3)}"
        documents = [look("/api/compare", query) for _ in range(5)]
    assert [one["complete"] for one in documents] == [False, False, False, True, True]
    assert [one["outcomes"]["a"] is None for one in documents] == [True, False, False, False, False]
    assert [len(one["tasks"]["columns"]["group"]) for one in documents] == [0, 0, 0, 7, 7]


def test_about(look: Looked) -> None:
    document = look("/api/about")
    assert document["actions"] is False and document["nonce"] is None
    assert "home" in document["settings"]["columns"]["name"]


# --- all of them ---


def test_no_answer_is_large(look: Looked) -> None:
    wide = look.run("wide")
    targets = [("/api/runs", "limit=200"), (f"/api/runs/{wide}", ""), (f"/api/runs/{wide}/graph", "group=step")]
    targets += [(f"/api/runs/{wide}/timeline", "width=2000&open=step&rows=200"), (f"/api/runs/{wide}/graph", "")]
    targets += [(f"/api/runs/{wide}/tasks", "limit=200"), (f"/api/runs/{wide}/logs", "limit=500")]
    sizes = {path: len(json.dumps(look(path, query), separators=(",", ":"))) for path, query in targets}
    assert {path: size for path, size in sizes.items() if size > LARGEST} == {}


@pytest.mark.parametrize("path", ["", "/timeline", "/graph", "/tasks", "/logs"])
def test_a_run_that_is_not_there(path: str, look: Looked) -> None:
    with pytest.raises(LookupError, match="there is no run 0000"):
        look(f"/api/runs/{'0' * 32}{path}")


def test_texts_have_no_control_characters() -> None:
    assert line("a\x1b[2J\nb\u202e") == "a\\x1b[2J\\nb\\u202e"
    assert block("a\n\tb\x00\r") == "a\n    b\\x00\\r"
    assert line("x" * 1000) == "x" * 199 + "…"
