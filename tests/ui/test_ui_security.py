"""Rules that a table of requests does not show: names of hosts on every route and method, where the token may be,
who else is on the machine, what files are for whom, what is opened, and what is written down."""

from __future__ import annotations

import hmac
import json
import logging
import os
import re
import stat
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from dashboards import HOST, TOKEN, Asked, Response, good_headers, make_example, rows_of, running, scope_of, without
from test_ui_guard import BAD_HOSTS, BAD_TOKENS, METHODS, TRICKS, target

from penstock.ui import front, guard
from penstock.ui.actions import BOOK, Actions, Replayed
from penstock.ui.guard import Refusal, Rules
from penstock.ui.routes import ROUTES, VIEWS

# --- S2, S3: host and token ---


def hosts() -> Iterator[list[tuple[str, str]]]:
    yield from ([("host", host)] for host in BAD_HOSTS)
    yield from ([], [("host", HOST), ("host", HOST)], [("host", HOST), ("Host", "attacker.example")])


def test_the_host_comes_first_on_every_route_and_method() -> None:
    rules = Rules(frozenset({HOST}), TOKEN, actions=True)
    for path in [*map(target, ROUTES), "/nothing", "/api/live?view=logs", *TRICKS]:
        for method in METHODS:
            for host in hosts():
                with pytest.raises(Refusal) as refusal:
                    guard.check(scope_of(method, path, [*host, *without(good_headers(method), "host")]), rules)
                assert refusal.value.status == 403, (method, path, host)


def test_every_token_is_compared_in_constant_time(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []
    compare = hmac.compare_digest

    def spy(given: bytes, right: bytes) -> bool:
        assert right == TOKEN.encode()
        compared.append(given)
        return compare(given, right)

    monkeypatch.setattr(hmac, "compare_digest", spy)
    given = [text.removeprefix("Bearer ") for text in BAD_TOKENS if text.startswith("Bearer ")]
    for text in given:
        assert asked.ask("GET", "/api/about", [("host", HOST), ("authorization", f"Bearer {text}")]).status == 401
    assert compared == [text.encode("latin-1") for text in given]


@pytest.mark.parametrize(
    "path",
    ["/api/runs?token=@", "/api/runs?access_token=@", "/api/about?authorization=Bearer%20@", "/api/runs;token=@"],
)
def test_a_token_in_an_address_opens_nothing(path: str, asked: Asked) -> None:
    headers = [("host", HOST), ("referer", f"http://{HOST}/#token={TOKEN}"), ("cookie", f"token={TOKEN}")]
    assert asked.ask("GET", path.replace("@", TOKEN), headers).status in (401, 404, 403)


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("box.example", "https://box.example", 400),
        ("box.example", "http://box.example", 400),
        ("box.example", "https://127.0.0.1", 403),
        ("box.example.", "https://box.example.", 403),
        ("www.box.example", "https://www.box.example", 403),
        ("127.0.0.1", "https://box.example", 403),
    ],
)
def test_a_proxy_has_its_own_name_and_scheme(host: str, origin: str, status: int, example: Path) -> None:
    with running(example, allow_host=("box.example",), allow_actions=True) as server:
        connection = server.connection()
        headers = {**server.headers(), "Host": host, "Origin": origin, "Content-Type": "application/json"}
        connection.request("POST", "/api/actions/cancel", "{}", headers)
        assert connection.getresponse().status == status
        connection.close()


# --- S17, S18, S21: what is in answers ---

KINDS = {"application/json", "text/event-stream; charset=utf-8", *front.KINDS.values(), "text/html"}


def everything(asked: Asked) -> Iterator[tuple[str, Response]]:
    """An answer to each route and view, and to what is refused; with addresses that would be redirected elsewhere."""
    runs = asked.json("/api/runs")
    ids = [*runs["columns"]["id"][:3], "0" * 32]
    views = [f"/api/live?view={view}&{'name=etl' if view == 'flow' else 'id='}" for view in VIEWS if view != "runs"]
    paths = {*map(target, ROUTES), *TRICKS, "/api/runs?next=//evil.example&url=javascript:alert(1)", "//evil.example"}
    paths |= {"/\\evil.example", "/api/live?view=runs", *(f"/api/compare?a={one}&b={ids[0]}" for one in ids)}
    for path in sorted(paths) + [view.replace("id=", f"id={one}") for view in views for one in ids]:
        for one in ids if "0" * 32 in path else ids[:1]:
            for method in ("GET", "POST", "HEAD"):
                path_of_one = path.replace("0" * 32, one) + ("&after=0" if "view=logs" in path else "")
                yield f"{method} {path_of_one}", asked.ask(method, path_of_one, good_headers(method))
                yield f"{method} {path_of_one}", asked.ask(method, path_of_one, [("host", HOST)])


def test_answers_lead_nowhere_are_of_few_kinds_and_tell_no_token(
    asked: Asked, caplog: pytest.LogCaptureFixture
) -> None:
    """There is nothing to download, and no page is made of what was recorded."""
    seen = set()
    for what, response in everything(asked):
        names = {name for name, _ in response.headers}
        assert not names & {"location", "refresh", "set-cookie", "link", "content-location", "content-disposition"}, (
            what
        )
        assert not [name for name in names if name.startswith("access-control")], what
        assert not 300 <= response.status < 400, what
        assert response.header("content-type") in KINDS, what
        assert response.header("x-content-type-options") == "nosniff", what
        if "html" in str(response.header("content-type")):
            assert response.body.replace(b"../", b"./").replace(b'"././', b'"./').count(b"./") == 1, what
            assert b"evil" not in response.body and b"javascript:" not in response.body, what
        assert TOKEN not in str(response.headers) + response.body.decode("latin-1"), what
        seen.add(response.status)
    assert {200, 401, 403, 404, 405} <= seen and 500 not in seen
    assert TOKEN not in caplog.text


def test_the_token_is_nowhere_where_others_look(example: Path, tmp_path: Path) -> None:
    """Not among arguments and variables of the process, not in any file; of the address it is in the fragment."""
    script = """
        import sys
        sys.path.insert(0, sys.argv[2])
        from dashboards import FRONT
        from penstock.ui.server import Server, Wish
        server = Server(Wish(sys.argv[1]), FRONT)
        server.serve(lambda: print(server.address, flush=True))
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(example), str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path) as process:
        assert process.stdout is not None and process.stderr is not None
        try:
            address, _, token = process.stdout.readline().strip().partition(b"#token=")
            assert re.fullmatch(rb"http://127\.0\.0\.1:\d+/", address) and len(token) == 43
            for name in ("cmdline", "environ", "comm"):
                assert token not in Path(f"/proc/{process.pid}/{name}").read_bytes()
        finally:
            process.terminate()
            said = process.stderr.read()
    assert token not in said
    assert [*tmp_path.iterdir()] == []
    assert not [path for path in example.rglob("*") if path.is_file() and token in path.read_bytes()]


def test_nothing_of_the_environment_is_told(example: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """S15, of what is not recorded: variables, and passwords in the URLs of settings."""
    canary = "c4n4ry"
    monkeypatch.setenv("DATABASE_PASSWORD", canary)
    monkeypatch.setenv("PENSTOCK_STORE_URL", f"postgresql://me:{canary}@127.0.0.1:1/x")
    with Asked(example) as asked:
        assert "127.0.0.1:1/x" in str(asked.json("/api/about")), "the settings are not told at all"
        for what, response in everything(asked):
            assert canary.encode() not in response.body, what
            assert canary not in str(response.headers), what


# --- S8: the page itself ---


class _Scanned(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.faults: list[str] = []
        self._in_script = False
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        self.faults += [f"{tag} {name}" for name in given if name.startswith("on") or name in ("style", "srcdoc")]
        self.faults += [f"{tag} {value}" for value in given.values() if value and re.match(r"\w+:|//", value)]
        if tag in ("base", "iframe", "object", "embed", "form", "style") or (tag == "meta" and "http-equiv" in given):
            self.faults.append(tag)
        self._in_script = tag == "script"

    def handle_data(self, data: str) -> None:
        if self._in_script and data.strip():
            self.faults.append("a script within the page")

    def handle_endtag(self, tag: str) -> None:
        self._in_script = False


@pytest.mark.parametrize(
    "page",
    [
        "<a onclick=x>",
        "<script>x</script>",
        "<b style=x>",
        "<form>",
        "<base href=x>",
        "<img src=//x>",
        "<a href=javascript:x>",
    ],
    ids=range(7),
)
def test_the_scan_finds_what_it_looks_for(page: str) -> None:
    assert _Scanned(page).faults


def test_the_page_has_no_code_of_its_own() -> None:
    try:
        pages = [one for one in front.files().values() if one.kind.startswith("text/html")]
    except front.NotBuilt:
        pytest.skip("the front end was not built; type: make ui")
    assert pages
    for page in pages:
        assert _Scanned(page.content.decode()).faults == []


# --- S9: nothing is loaded ---

TRAP = """
    import os, sys
    from penstock import flow, task

    class Trap:
        def __init__(self, place):
            self.place = place
        def __reduce__(self):
            return os.mkdir, (self.place,)
        def __repr__(self):
            return "a trap"

    @task(persist_result=True, result_serializer="pickle")
    def small(place):
        return Trap(place)

    @task(persist_result=True, result_serializer="pickle")
    def large(place):
        return [Trap(place), "x" * 2_000_000]

    @task
    def odd(trap):
        raise ValueError("a trap was set", trap.place)

    @flow(persist_result=True, result_serializer="pickle")
    def trapped(place):
        small.submit(place), large.submit(place)
        odd(Trap(place), return_state=True)
        return Trap(place)

    trapped(sys.argv[1])
"""
COMMANDS = (
    *("ls", "ls --json", "show @last", "show @last --json", "logs @last", "explain @last/small-0", "graph @last"),
    *("export @last --html -o -", "export @last --trace -o -", "watch @last", "check", "doctor", "prune --dry-run"),
    *("backup copy", "config show", "result @last", "result @last --to value.pickle"),
)


def test_no_look_at_a_result_loads_it(own_store: Path, tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    script = tmp_path / "trapped.py"
    script.write_text(textwrap.dedent(TRAP))
    subprocess.run([sys.executable, script, sprung], check=True, capture_output=True, cwd=tmp_path)
    with Asked(own_store) as asked:
        assert [one["name"] for one in rows_of(asked.json("/api/runs"))] == ["trapped"]
        for what, response in everything(asked):
            assert response.status != 500, what
        run_id = asked.json("/api/runs")["columns"]["id"][0]
        tasks = asked.json(f"/api/runs/{run_id}/tasks")["columns"]["id"]
        for task_id in tasks:
            assert "trap" in str(asked.json(f"/api/tasks/{task_id}"))
    for command in COMMANDS:
        done = subprocess.run(
            [sys.executable, "-m", "penstock.cli", *command.split()], capture_output=True, text=True, cwd=tmp_path
        )
        assert done.returncode in (0, 1) and "Usage:" not in done.stderr, (command, done.stderr)
    assert not sprung.exists()
    load = "import pickle; pickle.load(open('value.pickle', 'rb'))"
    subprocess.run([sys.executable, "-c", load], check=True, cwd=tmp_path)
    assert sprung.exists(), "the trap would not have shown anything"


# --- S13: files ---


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077], ids=oct)
def test_all_that_is_made_is_for_its_owner(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    home = tmp_path / "store"
    try:
        make_example(home)
        assert _open_to_others(home) == []
        (socket_path := tmp_path / "sockets").mkdir(0o700)
        with running(home, socket=str(socket_path / "ui")):
            assert _open_to_others(socket_path) == []
        writing = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('PRAGMA user_version'); c.execute("
        writing += "'UPDATE runs SET name = name'); print(1, flush=True); input()"
        command = [sys.executable, "-c", writing, str(home / "penstock.db")]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None and process.stdout.readline()
            with Asked(home, _Recorded(str(home))) as asked:
                asked.json("/api/runs")
                assert asked.dashboard._actions is not None
                asked.dashboard._actions.start("cancel", "0" * 32, asked.dashboard._actions.nonce(), "x")
                names = {path.name for path in home.iterdir()}
                assert _open_to_others(home) == []
            process.communicate(b"\n")
    finally:
        os.umask(before)
    assert {"penstock.db", "penstock.db-wal", "penstock.db-shm", "owners", "results.key", BOOK} <= names


def _open_to_others(place: Path) -> list[str]:
    return [
        f"{path} {oct(path.lstat().st_mode)}"
        for path in [place, *place.rglob("*")]
        if stat.S_IMODE(path.lstat().st_mode) != (0o700 if path.is_dir() else 0o600)
    ]


# --- S14: another user of this machine ---

STRANGER = """
    import encodings.idna, http.client, json, os, sys
    port, home, pid = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    paths, socket_path = json.loads(sys.argv[4]), sys.argv[5]
    import socket
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
    assert os.stat(os.path.dirname(home)).st_mode & 0o005 == 5 and os.listdir(os.path.dirname(home))
    found = {}
    for path in paths:
        for method in ("GET", "POST"):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            connection.request(method, path, headers={"Authorization": "Bearer guessed", "Origin": f"http://127.0.0.1:{port}"})
            found[f"{method} {path}"] = connection.getresponse().status
            connection.close()
    read = []
    for name in [home, *(os.path.join(home, one) for one in ("penstock.db", "results.key", "owners", "actions.jsonl")),
                 f"/proc/{pid}/environ", f"/proc/{pid}/mem", f"/proc/{pid}/fd", f"/proc/{pid}/cwd/x"]:
        for look in (os.listdir, lambda name: os.open(name, os.O_RDONLY), lambda name: os.open(name, os.O_WRONLY)):
            try:
                look(name)
                read.append(name)
            except (PermissionError, NotADirectoryError, IsADirectoryError):
                pass
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(socket_path)
            read.append(socket_path)
        except PermissionError:
            pass
    print(json.dumps([found, read]))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_another_user_of_the_machine_finds_nothing() -> None:
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)  # where everybody may look
        home = Path(place) / "store"
        make_example(home)
        socket_path = str(Path(place) / "ui.sock")
        with running(home) as server, running(home, socket=socket_path):
            paths = sorted({target(route) for route in ROUTES})
            arguments = [str(server.port), str(home), str(os.getpid()), json.dumps(paths), socket_path]
            command = [sys.executable, "-c", textwrap.dedent(STRANGER), *arguments]
            done = subprocess.run(command, capture_output=True, text=True, cwd="/")
        assert done.returncode == 0, done.stderr
        statuses, read = json.loads(done.stdout)
    assert read == []
    public = {f"GET {target(route)}" for route in ROUTES if route.kind in guard.BROWSED}
    assert {request for request, status in statuses.items() if status < 400} == public
    assert len(statuses) > 40


# --- S23: what is done is written down, and only once ---


class _Recorded(Actions):
    """Does nothing, but as usual."""

    def __init__(self, home: str) -> None:
        super().__init__(home, command=(sys.executable, "-c", "pass"))


def _book(home: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (home / BOOK).read_text().splitlines()]


def test_what_is_done_is_written_down_for_good(tmp_path: Path) -> None:
    for number in range(2):  # two servers, one after the other
        actions = _Recorded(str(tmp_path / "home"))
        actions.start("cancel", f"{number:032x}", actions.nonce(), "192.0.2.7")
        _done(actions)
    first, second = _book(tmp_path / "home")
    assert (first["action"], first["run"], first["client"]) == ("cancel", "0" * 32, "192.0.2.7")
    assert first["time"] <= second["time"]
    assert stat.S_IMODE((tmp_path / "home" / BOOK).stat().st_mode) == 0o600


def test_what_cannot_be_written_down_is_not_done(
    example: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "elsewhere").touch()
    (tmp_path / BOOK).symlink_to(tmp_path / "elsewhere")
    actions = _Recorded(str(tmp_path))
    with Asked(example, actions) as asked, caplog.at_level(logging.WARNING):
        run_id = asked.json("/api/runs")["columns"]["id"][0]
        body = json.dumps({"run": run_id, "nonce": actions.nonce()}).encode()
        response = asked.ask("POST", "/api/actions/cancel", good_headers("POST"), body)
    assert response.status == 503
    assert "nothing was done" in response.json()["error"]["message"]
    assert (tmp_path / "elsewhere").read_text() == "" and caplog.text == ""
    assert actions.told(None)["columns"]["run"] == []


def test_a_request_that_was_seen_cannot_be_sent_again(tmp_path: Path) -> None:
    """Also not by many at the same time."""
    actions = _Recorded(str(tmp_path))
    nonce, together = actions.nonce(), threading.Barrier(8)
    refused: list[Exception] = []

    def send() -> None:
        together.wait()
        try:
            actions.start("cancel", "0" * 32, nonce, "x")
        except Replayed as error:
            refused.append(error)

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    _done(actions)
    assert len(refused) == 7
    assert len(_book(tmp_path)) == 1


def test_a_nonce_is_of_one_server(tmp_path: Path) -> None:
    before, after = _Recorded(str(tmp_path)), _Recorded(str(tmp_path))
    with pytest.raises(Replayed):
        after.start("cancel", "0" * 32, before.nonce(), "x")
    assert not (tmp_path / BOOK).exists()


def _done(actions: Actions) -> None:
    for one in threading.enumerate():
        if one.name == "penstock-ui-action":
            one.join(20)
    assert None not in actions.told(None)["columns"]["status"]
