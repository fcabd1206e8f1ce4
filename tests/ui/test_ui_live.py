"""Runs that go on in other processes, followed over a real connection to their end; and acting on them."""

from __future__ import annotations

import logging
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from dashboards import Place, Running, rows_of, running

from penstock import storing
from penstock.ui import live, records
from penstock.ui.answers import runs

ON_BOTH_STORES = True
FLOW = """
    import sys, time
    from pathlib import Path
    from penstock import flow, get_run_logger, task

    here = Path(__file__).parent

    def wait_for(name):
        while not (here / name).exists():
            time.sleep(0.01)

    @task(retries=1, retry_delay_seconds=0.01)
    def work(number, go):
        get_run_logger().info("work %d", number)
        if number % 50 == 7:
            raise ValueError(number)
        wait_for(go)
        return number

    @flow(persist_result=True)
    def followed(number: int = 60):
        first = work.map(range(number), go="first")
        first.wait()
        second = work.map(range(number), go="second")
        second.wait()
        if not (here / "good").exists():
            raise RuntimeError("it is not good")

    if __name__ == "__main__":
        try:
            followed()
        except RuntimeError:
            pass
"""


@contextmanager
def going_on(directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    script = directory / "followed.py"
    script.write_text(textwrap.dedent(FLOW))
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait(20)


def awaited(what: Callable[[], Any], seconds: float = 30.0) -> Any:
    until = time.monotonic() + seconds
    while True:
        found = what()
        if found:
            return found
        assert time.monotonic() < until, "it did not come about"
        time.sleep(0.02)


def the_run(server: Running) -> str:
    def found() -> Any:
        connection = server.connection()
        try:
            connection.request("GET", "/api/runs", headers=server.headers())
            response = connection.getresponse()
            body = response.read()
        finally:
            connection.close()
        if response.status == 404:
            return None
        import json

        ids = json.loads(body)["columns"]["id"]
        return ids and ids[0]

    return str(awaited(found))


def test_a_run_is_followed_to_its_end(tmp_path: Path, own: Place) -> None:
    with running(own) as server, going_on(tmp_path):
        run_id = the_run(server)
        events = server.events(f"/api/live?view=run&id={run_id}")
        seen = []
        for name, document in events:
            seen.append((name, document))
            numbers = _numbers(document)
            if numbers.get("running", 0) or numbers.get("waiting", 0):
                (tmp_path / "first").touch()
            if numbers.get("completed", 0) >= 58:
                (tmp_path / "second").touch()
        assert seen[-1][0] == "end"
        documents = [document for name, document in seen if name == "document"]
        assert documents[0]["run"]["ended"] is None
        assert documents[-1]["run"]["status"] == "FAILED"
        assert _numbers(documents[-1]) == {"completed": 116, "failed": 4}
        assert documents[-1] == server.json(f"/api/runs/{run_id}")


def _numbers(document: Any) -> dict[str, int]:
    if "groups" not in document:
        return {}
    return {name: sum(column) for name, column in document["groups"]["fates"].items() if sum(column)}


def test_a_log_is_followed_line_by_line(tmp_path: Path, own: Place) -> None:
    (tmp_path / "first").touch()
    with running(own) as server, going_on(tmp_path):
        run_id = the_run(server)
        page = server.json(f"/api/runs/{run_id}/logs?text=work&limit=3")
        found = [*page["columns"]["seq"]]
        for name, document in server.events(f"/api/live?view=logs&id={run_id}&after={page['last']}&text=work"):
            if name == "lines":
                found += document["columns"]["seq"]
                (tmp_path / "second").touch()
        everything: list[int] = []
        place: int | None = 0
        while place is not None:
            page = server.json(f"/api/runs/{run_id}/logs?text=work&limit=500&after={place}")
            everything += page["columns"]["seq"]
            place = page["after"]
        assert sorted(found) == [number for number in everything if number >= min(found)]
        assert len(set(found)) == len(found)


def test_who_is_far_behind_a_log_catches_up(shown: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "PAGES", 2)
    monkeypatch.setattr(live, "PAUSE", 0.0)
    monkeypatch.setattr(live, "BACK", 100)
    with running(shown) as server:
        run_id = next(one["id"] for one in rows_of(server.json("/api/runs")) if one["name"] == "wide")
        expected = server.json(f"/api/runs/{run_id}/logs")
        events = list(server.events(f"/api/live?view=logs&id={run_id}&after=0&limit=500"))
        found = [number for name, document in events if name == "lines" for number in document["columns"]["seq"]]
    assert events[-1][0] == "end" and len(events) > 4
    assert found == sorted(set(found)) and (found[0], found[-1]) == (expected["first"], expected["last"])


def test_a_log_is_followed_from_its_last_lines_on(tmp_path: Path, own: Place) -> None:
    (tmp_path / "first").touch()
    with running(own) as server, going_on(tmp_path):
        run_id = the_run(server)
        awaited(lambda: len(server.json(f"/api/runs/{run_id}/logs")["columns"]["seq"]) > 3)
        events = server.events(f"/api/live?view=logs&id={run_id}&limit=3")
        name, page = next(events)
        assert (name, len(page["columns"]["seq"])) == ("document", 3)
        (tmp_path / "second").touch()
        found = [number for name, lines in events if name == "lines" for number in lines["columns"]["seq"]]
        assert found
        expected = server.json(f"/api/runs/{run_id}/logs?after={page['columns']['seq'][0] - 1}&limit=500")
        assert sorted([*page["columns"]["seq"], *found]) == expected["columns"]["seq"]


@pytest.mark.parametrize("view", ["runs", "timeline", "tasks", "graph"])
def test_every_view_can_be_followed(view: str, tmp_path: Path, own: Place) -> None:
    with running(own) as server, going_on(tmp_path):
        run_id = the_run(server)
        which = "" if view == "runs" else f"&id={run_id}"
        events = server.events(f"/api/live?view={view}{which}")
        first = next(events)
        assert first[0] == "document"
        (tmp_path / "first").touch()
        (tmp_path / "second").touch()
        following = next(events)
        assert following[0] == "document" and following[1] != first[1]
        if view == "runs":
            document = following[1]
            while rows_of(document)[0]["ended"] is None:
                _, document = next(events)
        else:
            assert [name for name, _ in events][-1] == "end"


def test_what_there_was_no_time_to_count_comes_later(shown: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "PAUSE", 0.0)
    monkeypatch.setattr(runs, "COUNTING", -1.0)
    with running(shown) as server:
        events = server.events("/api/live?view=runs")
        assert None in next(events)[1]["tasks"]["completed"]
        monkeypatch.setattr(runs, "COUNTING", 60.0)
        assert None not in next(events)[1]["tasks"]["completed"]
        events.close()  # type: ignore[attr-defined]


def test_a_run_whose_process_is_killed_has_crashed(own: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "LOOK_FOR_DEATHS", 0.2)
    with running(own) as server, going_on(tmp_path) as process:
        run_id = the_run(server)
        events = server.events(f"/api/live?view=run&id={run_id}")
        assert next(events)[1]["run"]["status"] == "RUNNING"
        process.kill()
        *_, (_, last), (name, _) = events
        assert (name, last["run"]["status"], last["run"]["fate"]) == ("end", "CRASHED", "crashed")
        assert not {"running", "waiting", "pending"} & set(_numbers(last))


def test_who_follows_a_run_that_has_crashed_is_told_when_that_is_recorded(
    own: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "LOOK_FOR_DEATHS", 0.2)
    with running(own) as server, going_on(tmp_path) as process:
        run_id = the_run(server)
        with monkeypatch.context() as patch:
            patch.setattr("penstock.recovery.recover", lambda *_: [])  # nobody can
            process.kill()
            process.wait(20)
            events = server.events(f"/api/live?view=run&id={run_id}")
            _, first = next(events)
            assert (first["run"]["status"], first["run"]["ended"]) == ("CRASHED", None)
        *_, (_, last), (name, _) = events
        assert (name, last["run"]["status"]) == ("end", "CRASHED")
        assert last["run"]["ended"] > last["run"]["started"]


def test_a_run_that_was_just_killed_is_recorded_as_crashed_at_the_first_look(
    own: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "LOOK_FOR_DEATHS", 1e9)
    with running(own) as server, going_on(tmp_path) as process:
        run_id = the_run(server)
        killed = time.time()
        process.kill()
        process.wait(20)
        [(_, only), (name, _)] = server.events(f"/api/live?view=run&id={run_id}")
        assert (name, only["run"]["status"]) == ("end", "CRASHED")
        with closing(storing.open_store(own.home, own.url)) as store:
            recorded = store.get(run_id)
        assert recorded is not None
        assert only["run"]["ended"] == recorded.ended
        assert recorded.ended is not None and recorded.ended >= killed
        assert not {"running", "waiting", "pending"} & set(_numbers(only))


def test_nothing_new_is_no_event(own: Place, tmp_path: Path) -> None:
    (tmp_path / "first").touch()
    (tmp_path / "second").touch()
    with running(own) as server:
        with going_on(tmp_path) as process:
            run_id = the_run(server)
            process.wait(30)
        assert [name for name, _ in server.events(f"/api/live?view=run&id={run_id}")] == ["document", "end"]


def test_a_run_that_is_not_there_ends_the_stream(own: Place, tmp_path: Path) -> None:
    (tmp_path / "first").touch()
    with running(own) as server, going_on(tmp_path):
        the_run(server)
        events = list(server.events(f"/api/live?view=run&id={'0' * 32}"))
        assert [name for name, _ in events] == ["problem", "end"]
        assert "there is no run" in events[0][1]["error"]["message"]


def test_streams_end_with_the_server(own: Place, tmp_path: Path) -> None:
    with running(own) as server, going_on(tmp_path):
        the_run(server)
        events = server.events("/api/live?view=runs")
        next(events)
        before = time.monotonic()
        server.server.stop()
        assert list(events) == []
        assert time.monotonic() - before < 5


def test_a_client_that_goes_away_leaves_its_place(own: Place, tmp_path: Path) -> None:
    with running(own) as server, going_on(tmp_path):
        the_run(server)
        for _ in range(20):
            events = server.events("/api/live?view=runs")
            next(events)
            events.close()  # type: ignore[attr-defined]


# --- acting ---


def test_actions_are_done_once_and_written_down(own: Place, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "good").touch()
    with running(own, allow_actions=True) as server, going_on(tmp_path):
        run_id = the_run(server)
        about = server.json("/api/about")
        assert about["actions"] is True
        request = {"run": run_id, "nonce": about["nonce"]}
        with caplog.at_level(logging.WARNING, "penstock.ui"):
            status, answer = server.post("/api/actions/cancel", request)
        assert (status, answer["started"]) == (202, True)
        assert f"cancel of run {run_id}, asked for by 127.0.0.1" in caplog.text
        assert server.post("/api/actions/cancel", request)[0] == 409
        assert server.post("/api/actions/cancel", {"run": run_id, "nonce": "made up"})[0] == 409
        assert server.post("/api/actions/delete", request)[0] == 400
        assert server.post("/api/actions/cancel", {"run": "0" * 32, "nonce": answer["nonce"]})[0] == 404
        run = awaited(lambda: _ended(server, run_id))
        assert run["status"] == "CANCELLED"
        (done,) = awaited(lambda: [one for one in _actions(server, run_id) if one["status"] is not None])
        assert (done["action"], done["status"]) == ("cancel", 0)
        (tmp_path / "first").touch()
        (tmp_path / "second").touch()
        status, _ = server.post("/api/actions/resume", {"run": run_id, "nonce": answer["nonce"]})
        assert status == 202
        done = awaited(lambda: next((one for one in _actions(server, run_id) if one["action"] == "resume"), None))
        done = awaited(lambda: next((one for one in _actions(server, run_id) if one["status"] is not None), None))
        latest = awaited(lambda: _resumed(server, run_id))
        run = awaited(lambda: _ended(server, latest))
        assert run["resumed_from"] == run_id
        lives = rows_of(server.json(f"/api/runs/{run_id}")["lives"])
        assert [one["id"] for one in lives] == [latest, run_id]
        awaited(lambda: all(one["status"] is not None for one in _actions(server, run_id)))


def _ended(server: Running, run_id: str) -> Any:
    run = server.json(f"/api/runs/{run_id}")["run"]
    return run if run["ended"] is not None else None


def _actions(server: Running, run_id: str) -> list[dict[str, Any]]:
    return rows_of(server.json(f"/api/actions?run={run_id}"))


def _resumed(server: Running, run_id: str) -> Any:
    runs = rows_of(server.json("/api/runs"))
    return next((one["id"] for one in runs if one["resumed_from"] == run_id), None)
