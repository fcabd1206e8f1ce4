"""The dashboard as a process on a database: runs of other processes, followed and cancelled; what it shows nobody."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from dashboards import Looked, Place, rows_of
from test_ui_live import awaited, going_on
from test_ui_process import CRAWL, started

from penstock.exceptions import StoreUnavailable
from penstock.store.postgres import PostgresStore
from penstock.storing import name_of
from penstock.testing.store_suite import batch, run_row
from penstock.ui.records import Records, TookTooLong
from penstock.ui.window_postgres import PostgresWindow
from postgres_server import Server

SECRET = "S3cretOfTheTests"


@pytest.fixture
def static(tmp_path: Path) -> Path:
    """A front end, whether or not the real one was built."""
    made = tmp_path / "static"
    (made / "assets").mkdir(parents=True)
    (made / "index.html").write_text("<!doctype html>")
    return made


@pytest.fixture
def url(server: Server) -> str:
    """Of a database that is empty; with a password, which this server does not ask for."""
    return server.new_database().replace("penstock@", f"penstock:{SECRET}@")


class Client:
    """Of a dashboard that was started as a command, at the address that it has printed."""

    def __init__(self, address: str) -> None:
        place, _, token = address.partition("/#token=")
        self._place = place.removeprefix("http://")
        self._headers = {"Authorization": f"Bearer {token}", "Origin": place}

    def ask(self, method: str, target: str, document: object = None) -> tuple[int, Any]:
        with closing(http.client.HTTPConnection(self._place, timeout=20)) as connection:
            headers = {**self._headers, "Content-Type": "application/json"} if document else self._headers
            connection.request(method, target, json.dumps(document) if document else None, headers)
            response = connection.getresponse()
            return response.status, json.loads(response.read())

    def get(self, target: str) -> Any:
        status, document = self.ask("GET", target)
        assert status == 200, document
        return document

    def documents(self, target: str) -> Iterator[Any]:
        """Those that a stream brings until it ends."""
        with closing(http.client.HTTPConnection(self._place, timeout=60)) as connection:
            connection.request("GET", target, headers=self._headers)
            for line in connection.getresponse():
                if line.startswith(b"data: "):
                    yield json.loads(line.removeprefix(b"data: "))


@contextmanager
def dashboard(static: Path, url: str, monkeypatch: pytest.MonkeyPatch, *options: str) -> Iterator[Any]:
    monkeypatch.setenv("PENSTOCK_STORE_URL", url)
    with started(static, *options) as (process, address):
        assert SECRET not in address
        assert SECRET not in Path(f"/proc/{process.pid}/cmdline").read_text()
        yield process, Client(address)


def test_runs_of_another_process_are_followed_and_cancelled(
    static: Path, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with dashboard(static, url, monkeypatch, "--allow-actions") as (process, client):
        assert client.get("/api/runs")["columns"]["id"] == []  # nothing was recorded yet
        monkeypatch.setenv("PENSTOCK_HOME", str(tmp_path / "home of another"))
        with going_on(tmp_path):
            (run_id,) = awaited(lambda: client.get("/api/runs")["columns"]["id"])
            documents = client.documents(f"/api/live?view=run&id={run_id}")
            assert next(documents)["run"]["status"] == "RUNNING"
            (tmp_path / "first").touch()
            while sum(next(documents)["groups"]["fates"]["completed"]) < 58:
                pass
            request = {"run": run_id, "nonce": client.get("/api/about")["nonce"]}
            assert client.ask("POST", "/api/actions/cancel", request)[0] == 202
            *_, last, _ = documents
            assert last["run"]["status"] == "CANCELLED"
        (done,) = awaited(lambda: [one for one in _actions(client, run_id) if one["status"] is not None])
        assert done["status"] == 0, done
        about = json.dumps(client.get("/api/about"))
        assert '"postgres"' in about and name_of("", url) in about and SECRET not in about
        process.terminate()
        _, errors = process.communicate(timeout=20)
        assert SECRET not in errors and "Traceback" not in errors


def _actions(client: Client, run_id: str) -> list[dict[str, Any]]:
    return rows_of(client.get(f"/api/actions?run={run_id}"))


def test_without_a_server_it_says_so_and_not_the_password(static: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"postgresql://me:{SECRET}@127.0.0.1:1/runs"
    with dashboard(static, url, monkeypatch) as (_, client):
        for target in ("/api/runs", f"/api/runs/{'0' * 32}", "/api/flows"):
            status, document = client.ask("GET", target)
            assert status == 503
            assert "postgresql://me@127.0.0.1:1/runs" in json.dumps(document) and SECRET not in json.dumps(document)
        assert SECRET not in json.dumps(client.get("/api/about"))


def test_a_directory_that_is_named_goes_first(static: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with dashboard(static, "postgresql://127.0.0.1:1/runs", monkeypatch, "--store", str(tmp_path)) as (_, client):
        assert client.get("/api/about")["store"] == "sqlite"
        assert client.get("/api/runs")["columns"]["id"] == []


def test_nothing_is_unpickled_and_nothing_that_could_is_imported(tmp_path: Path, url: str) -> None:
    make = """
        import sys
        from penstock import flow, task
        @task(persist_result=True, retries=1)
        def one(number): return number
        @flow(persist_result=True)
        def kept(): return [one.submit(number).result() for number in range(5)]
        kept()
    """
    environment = {**os.environ, "PENSTOCK_STORE_URL": url, "PENSTOCK_HOME": str(tmp_path / "home")}
    subprocess.run([sys.executable, "-c", textwrap.dedent(make)], env=environment, check=True, capture_output=True)
    crawl = textwrap.dedent(CRAWL).replace("Asked(home)", "Asked(home, url=sys.argv[2])")
    script = f"TESTS = {str(Path(__file__).parent)!r}\n" + crawl.replace("Looked(home)", "Looked(home, sys.argv[2])")
    command = [sys.executable, "-c", script, str(tmp_path), url]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "penstock.ui.window_postgres" in result.stdout


# --- the connection ---


@pytest.fixture
def window(url: str) -> Iterator[PostgresWindow]:
    with closing(PostgresStore(url)) as store:
        store.write(batch(run_row(1)))
    with closing(PostgresWindow(url)) as window:
        yield window


@pytest.mark.parametrize(
    "text",
    [
        "INSERT INTO runs (id) VALUES ('x')",
        "DELETE FROM runs",
        "DROP TABLE runs",
        "CREATE TABLE x (y TEXT)",
        "WITH gone AS (DELETE FROM runs RETURNING *) SELECT * FROM gone",
        "SELECT setval('logs_seq_seq', 1)",
        "SELECT set_config('transaction_read_only', 'off', FALSE)",
        "SELECT * FROM runs FOR UPDATE",
        "SELECT 1; DELETE FROM runs",
        "COMMIT; BEGIN READ WRITE; DELETE FROM runs",
    ],
)
def test_the_connection_only_looks(text: str, window: PostgresWindow) -> None:
    with pytest.raises(StoreUnavailable, match=r"read-only transaction|transaction read-write mode|multiple commands"):
        window.ask(text, {})
    assert [row.id for row in window.runs()] == [run_row(1).id]


def test_a_session_that_was_talked_into_writing_still_only_looks(window: PostgresWindow) -> None:
    window.ask("SELECT set_config('default_transaction_read_only', 'off', FALSE)", {})
    with pytest.raises(StoreUnavailable, match="read-only transaction"):
        window.ask("DELETE FROM runs", {})


def test_limits_are_those_of_one_statement(window: PostgresWindow) -> None:
    for seconds in (0.05, 0.1):
        with pytest.raises(TookTooLong, match=rf"after {3 * seconds:.3g} s"):
            window.ask_within(seconds, "SELECT pg_sleep(20)", {})
    assert window.ask("SHOW statement_timeout", {}) == [("600ms",)]
    assert window.ask_within(0.8, "SHOW statement_timeout", {}) == [("2400ms",)]


@contextmanager
def commits_waiting(server: Server) -> Iterator[None]:
    """Commits are in the server's log, and wait for a standby that never comes before they can be seen."""
    for statement in ("ALTER SYSTEM SET synchronous_standby_names = 'nobody'", "SELECT pg_reload_conf()"):
        server.ask("postgres", statement)
    try:
        yield
    finally:
        for statement in ("ALTER SYSTEM RESET synchronous_standby_names", "SELECT pg_reload_conf()"):
            server.ask("postgres", statement)


def test_the_version_tells_what_can_be_seen(server: Server, url: str, window: PostgresWindow) -> None:
    """What is written, but cannot be seen yet, must not be taken for what was seen: nobody would look again."""
    with closing(PostgresStore(url)) as store:
        writing = threading.Thread(target=store.write, args=(batch(run_row(2)),))
        waiting = "SELECT COUNT(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
        with commits_waiting(server):
            writing.start()
            awaited(lambda: server.ask("postgres", waiting) == "1")
            before = window.version()
            assert [row.id for row in window.runs()] == [run_row(1).id]
        writing.join(20)
        assert window.version() != before
        assert [row.id for row in window.runs()] == [run_row(2).id, run_row(1).id]


def test_a_lost_connection_is_made_again(server: Server, url: str, window: PostgresWindow) -> None:
    assert window.runs()
    server.ask("postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'penstock'")
    assert window.runs()


def test_the_dashboard_of_a_guest_looks(server: Server, url: str, window: PostgresWindow, tmp_path: Path) -> None:
    """Of somebody who may only read: what has died is shown as crashed, though it cannot be recorded."""
    database = url.split("/")[3].partition("?")[0]
    server.ask(database, f"CREATE ROLE guest_{database} LOGIN; GRANT USAGE ON SCHEMA penstock TO guest_{database}")
    server.ask(database, f"GRANT SELECT ON ALL TABLES IN SCHEMA penstock TO guest_{database}")
    look = Looked(tmp_path, url.replace(f"penstock:{SECRET}@", f"guest_{database}@"))
    with closing(look.records):
        assert look("/api/runs")["columns"]["id"] == [run_row(1).id]
        assert look(f"/api/runs/{run_row(1).id}")["run"]["status"] == "RUNNING"


def test_answers_are_made_with_a_fixed_number_of_connections(server: Server, url: str, window: PostgresWindow) -> None:
    window.close()
    place = Place(Path("/nowhere"), url)
    with closing(Records(*place)) as records:
        for _ in range(3):
            records._looked = 0.0
            records.look_for_deaths()
            records.reader.runs()
        count = (
            "SELECT COUNT(*) FROM pg_stat_activity WHERE application_name = 'penstock' AND datname = current_database()"
        )
        assert server.ask(url.split("/")[3].partition("?")[0], count) == "2"
