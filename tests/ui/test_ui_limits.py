"""What clients may cost: those who are slow, silent, or many, and answers that take long."""

from __future__ import annotations

import contextlib
import gzip
import os
import resource
import select
import signal
import socket
import statistics
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from dashboards import FRONT, Asked, Running, good_headers, running

from penstock.ui import app, live, routes, wire
from penstock.ui.front import File
from penstock.ui.guard import HEADERS, LARGEST_HEAD

HEALTH = b"GET /healthz HTTP/1.1\r\nHost: %s\r\n\r\n"
LARGE = {**FRONT, "/assets/large.js": File(b"x" * 2**24, "text/javascript; charset=utf-8")}


@pytest.fixture
def client(example: Path) -> Iterator[Running]:
    with running(example, allow_actions=True) as server:
        yield server


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "PATIENCE", 0.4)


@contextmanager
def connected(port: int, first: bytes = b"") -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), 10) as made:
        if first:
            made.sendall(first.replace(b"%s", b"127.0.0.1:%d" % port))
        yield made


def is_closed(one: socket.socket, within: float = 0.0) -> bool:
    """Whether the other side has closed it, or does in so many seconds. What has arrived is thrown away."""
    until = time.monotonic() + within
    while True:
        readable, _, _ = select.select([one], [], [], max(0.0, until - time.monotonic()))
        if not readable:
            return False
        try:
            if not one.recv(2**16):
                return True
        except ConnectionResetError:
            return True


def answer_of(one: socket.socket) -> bytes:
    return b"".join(iter(lambda: one.recv(2**16), b""))


def is_healthy(port: int, timeout: float = 10.0) -> bool:
    with socket.create_connection(("127.0.0.1", port), timeout) as one:
        one.sendall(HEALTH % (b"127.0.0.1:%d" % port))
        return one.recv(1000).startswith(b"HTTP/1.1 200")


# --- who is slow ---

ACT = b"POST /api/actions/cancel HTTP/1.1\r\nHost: %s\r\nOrigin: http://%s\r\nAuthorization: Bearer @\r\n"
ACT += b"Content-Type: application/json\r\nContent-Length: 90\r\n\r\n"


@pytest.mark.parametrize(
    ("first", "trickle"),
    [
        (b"", b""),
        (b"GET /healthz HTT", b""),
        (b"GET /healthz HTTP/1.1\r\nX: ", b"y"),
        (b"GET /healthz HTTP/1.1\r\n", b"X: y\r\n"),
        (HEALTH, b""),
        (HEALTH + b"GET /hea", b"l"),
        (ACT, b""),
        (ACT + b'{"run": "', b"0"),
        (b"POST /api/runs HTTP/1.1\r\nHost: %s\r\nContent-Length: 1000000000000\r\n\r\n", b"z"),
        (b"POST /api/runs HTTP/1.1\r\nHost: %s\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nz\r\n"),
    ],
    ids=range(10),
)
def test_who_says_too_little_is_closed(impatient: None, first: bytes, trickle: bytes, client: Running) -> None:
    began = time.monotonic()
    with connected(client.port, first.replace(b"@", str(client.token).encode())) as one:
        while not is_closed(one, 0.05):
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                one.sendall(trickle)
            assert time.monotonic() - began < 8
    assert time.monotonic() - began > 0.3


@pytest.mark.parametrize("more", [b"", b"Connection: close\r\n"])
@pytest.mark.parametrize("buffer", [2**16, 2**26], ids=["paused", "not-paused"])
def test_who_does_not_take_the_answer_is_closed(
    impatient: None, more: bytes, buffer: int, example: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dashboards.FRONT", LARGE)
    made = wire.Protocol.connection_made

    def with_buffer(self: wire.Protocol, transport: Any) -> None:
        transport.set_write_buffer_limits(buffer)
        made(self, transport)

    monkeypatch.setattr(wire.Protocol, "connection_made", with_buffer)
    request = b"GET /assets/large.js HTTP/1.1\r\nHost: @\r\n" + more + b"\r\n"
    with running(example) as server, socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        before = files_of(os.getpid())
        one.connect(("127.0.0.1", server.port))
        one.sendall(request.replace(b"@", b"127.0.0.1:%d" % server.port))
        awaited(lambda: files_of(os.getpid()) > before)
        awaited(lambda: files_of(os.getpid()) == before)


def test_a_stream_may_be_taken_slowly_but_not_left(client: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(*_: object) -> dict[str, Any]:
        return {"schema": 1, "text": "x" * 2**21, "time": time.monotonic()}

    monkeypatch.setattr(wire, "PATIENCE", 1.5)
    monkeypatch.setattr(live, "PAUSE", 0.0)
    monkeypatch.setattr(live, "REST", 0)
    monkeypatch.setattr(live.Stream, "_has_moved", lambda self: True)
    monkeypatch.setitem(routes.VIEWS, "runs", (answer, {}))  # type: ignore[arg-type]
    request = b"GET /api/live?view=runs HTTP/1.1\r\nHost: %%s\r\nAuthorization: Bearer %s\r\n\r\n"
    with connected(client.port, request % str(client.token).encode()) as one:
        began = time.monotonic()
        while time.monotonic() - began < 3:  # it is always full, but never for long
            time.sleep(0.05)
            for _ in range(16):
                assert one.recv(2**16)
        assert len(connections_of(client)) == 1
        awaited(lambda: not connections_of(client))


def connections_of(server: Running) -> Any:
    found: Any = server.server._wire
    return found.server_state.connections


def awaited(what: Callable[[], Any]) -> None:
    until = time.monotonic() + 8
    while not what():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_who_is_being_answered_is_not_closed(impatient: None, client: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream lasts for many times the patience."""
    monkeypatch.setattr(live, "PAUSE", 0.05)
    monkeypatch.setattr(live, "BEAT", 0.1)
    request = b"GET /api/live?view=runs HTTP/1.1\r\nHost: %%s\r\nAuthorization: Bearer %s\r\n\r\n"
    with connected(client.port, request % str(client.token).encode()) as one:
        began, beats = time.monotonic(), 0
        while time.monotonic() - began < 2:
            part = one.recv(2**16)
            assert part
            beats += part.count(b": beat")
    assert beats > 3


def test_a_body_that_is_none_any_more_after_the_answer(client: Running, caplog: pytest.LogCaptureFixture) -> None:
    with connected(client.port, b"POST /api/runs HTTP/1.1\r\nHost: %s\r\nTransfer-Encoding: chunked\r\n\r\n") as one:
        assert one.recv(1000).startswith(b"HTTP/1.1 405")
        one.sendall(b"nonsense\r\n")
        assert is_closed(one, 8)
    assert is_healthy(client.port)
    assert caplog.records == []


# --- who is many ---


def test_one_connection_too_many_takes_the_place_of_who_is_awaited_longest(client: Running) -> None:
    with ExitStack() as stack:
        many = [stack.enter_context(connected(client.port, b"GET /he")) for _ in range(wire.MOST_OPEN)]
        awaited(lambda: len(connections_of(client)) == wire.MOST_OPEN)
        assert is_healthy(client.port)
        awaited(lambda: is_closed(many[0]))
        assert not any(map(is_closed, many[1:]))
        many[1].sendall(HEALTH.removeprefix(b"GET /he") % (b"127.0.0.1:%d" % client.port))
        assert many[1].recv(1000).startswith(b"HTTP/1.1 200")


def test_streams_keep_their_places(client: Running) -> None:
    request = b"GET /api/live?view=runs HTTP/1.1\r\nHost: %%s\r\nAuthorization: Bearer %s\r\n\r\n"
    with ExitStack() as stack:
        streams = [stack.enter_context(connected(client.port, request % str(client.token).encode())) for _ in range(17)]
        heads = [one.recv(20) for one in streams]
        assert sorted(heads)[-1].startswith(b"HTTP/1.1 429") and sorted(heads)[-2].startswith(b"HTTP/1.1 200")
        for _ in range(2 * wire.MOST_OPEN):
            stack.enter_context(connected(client.port, b"GET /he"))
        assert is_healthy(client.port)
        open_ = [one for one, head in zip(streams, heads, strict=True) if head.startswith(b"HTTP/1.1 200")]
        assert not any(map(is_closed, open_))
        assert len(connections_of(client)) <= wire.MOST_OPEN


SERVE = """
    import resource, sys
    from pathlib import Path

    def allow(files):
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(int(files), hard), hard))

    home, tests, files, later = sys.argv[1:]
    sys.path.insert(0, tests)
    from dashboards import FRONT
    from penstock.ui.server import Server, Wish
    allow(files)
    server = Server(Wish(home), FRONT)

    def ready():
        allow(min(int(files), int(later)))
        print(server.port, flush=True)

    server.serve(ready)
"""


@contextmanager
def served(
    home: Path, errors: Path, files: int = 20_000, later: int = 20_000
) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A dashboard in a process of its own. `files`: how many it may have open, `later`: once it has begun. `errors`:
    what it says goes there."""
    command = [sys.executable, "-c", textwrap.dedent(SERVE), home, Path(__file__).parent, files, later]
    with (
        errors.open("w") as file,
        subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, stderr=file, text=True) as process,
    ):
        assert process.stdout is not None
        try:
            yield process, int(process.stdout.readline())
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(20)


def spent(pid: int) -> float:
    """Seconds of a processor."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(pid: int) -> int:
    """Bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


def files_of(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


@contextmanager
def besieged(port: int, number: int) -> Iterator[list[int]]:
    """So many connections that begin a head, for ever: who is closed comes again."""
    over = threading.Event()
    lost = [0]

    def again(stack: ExitStack) -> socket.socket | None:
        with contextlib.suppress(OSError):
            made = stack.enter_context(socket.create_connection(("127.0.0.1", port), 5))
            made.sendall(b"GET /he")
            return made
        return None

    def siege() -> None:
        with ExitStack() as stack:
            mine = [again(stack) for _ in range(number)]
            while not over.wait(0.02):
                for place, one in enumerate(mine[:20]):
                    if one is None or is_closed(one):
                        lost[0] += 1
                        if one is not None:
                            one.close()
                        mine[place] = again(stack)
                mine = mine[20:] + mine[:20]

    thread = threading.Thread(target=siege, name="siege")
    thread.start()
    try:
        yield lost
    finally:
        over.set()
        thread.join(30)
        assert not thread.is_alive()


def test_a_thousand_slow_connections_are_in_nobodys_way(example: Path, tmp_path: Path) -> None:
    with served(example, tmp_path / "errors") as (process, port):
        assert is_healthy(port)
        before = memory(process.pid)
        with besieged(port, 1000) as lost:
            awaited(lambda: lost[0] > 300)
            took = []
            for _ in range(30):
                began = time.monotonic()
                assert is_healthy(port)
                took.append(time.monotonic() - began)
                assert files_of(process.pid) < 2 * wire.MOST_OPEN
            grown = memory(process.pid) - before
        assert statistics.median(took) < 0.25
        assert sorted(took)[26] < 1  # a busy machine may make somebody wait
        assert grown < 16 * 2**20


@pytest.mark.parametrize(("files", "later"), [(64, 20_000), (20_000, 50)], ids=["few", "too-few"])
def test_few_descriptors_are_enough(files: int, later: int, example: Path, tmp_path: Path) -> None:
    """And if there are none left it does not turn round and round, and goes on as soon as there are some again."""
    with served(example, tmp_path / "errors", files, later) as (process, port), ExitStack() as stack:
        for _ in range(120):
            stack.enter_context(connected(port, b"GET /he"))
        before, began = spent(process.pid), time.monotonic()
        while time.monotonic() - began < 1.2:
            time.sleep(0.1)
        assert spent(process.pid) - before < 0.6
        assert is_healthy(port)
    said = (tmp_path / "errors").read_text()
    assert said.count("ulimit") == said.count("\n") == (later == 50), said


# --- who says too much ---


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ([b"X: " + b"y" * LARGEST_HEAD], 431),
        ([b"X: " + b"y" * 80 * LARGEST_HEAD], 431),
        ([b"X: y"] * (LARGEST_HEAD // 5), 431),
        ([b"X" * LARGEST_HEAD + b": y"], 431),
        ([b"Cookie: " + b"y" * (LARGEST_HEAD // 2)] * 3, 431),
        ([b"X: " + b"y" * (LARGEST_HEAD // 2)], 200),
    ],
    ids=range(6),
)
@pytest.mark.parametrize("size", [500, 10**7], ids=["in-pieces", "at-once"])
def test_a_head_that_is_too_long(lines: list[bytes], status: int, size: int, client: Running) -> None:
    lines = [b"GET /healthz HTTP/1.1", b"Host: 127.0.0.1:%d" % client.port, *lines, b"Connection: close", b"", b""]
    head = b"\r\n".join(lines)
    with connected(client.port) as one:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for place in range(0, len(head), size):
                one.sendall(head[place : place + size])
                if select.select([one], [], [], 0.002)[0]:
                    break
        head, _, body = answer_of(one).partition(b"\r\n\r\n")
    assert int(head.split()[1]) == status, head
    assert b'"schema"' in body
    assert all(b"%s: %s" % header in head for header in HEADERS)


@pytest.mark.parametrize(
    ("target", "status"),
    [("/" + "a" * 1999, 404), ("/" + "a" * 2000, 414), ("/api/runs?text=" + "a" * 10_000, 414)],
    ids=range(3),
)
def test_an_address_that_is_too_long(target: str, status: int, asked: Asked) -> None:
    assert asked.get(target).status == status


def test_nothing_is_unpacked(example: Path) -> None:
    from penstock.ui.actions import Actions

    bomb = gzip.compress(b'{"run": "' + b"0" * 2**20 + b'"}')
    with Asked(example, Actions(str(example))) as asked:
        headers = [*good_headers("POST"), ("content-encoding", "gzip"), ("content-length", str(len(bomb)))]
        assert asked.ask("POST", "/api/actions/cancel", headers, bomb).status == 400


# --- answers that take long ---


@pytest.fixture
def hurried(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> Asked:
    monkeypatch.setattr(app, "LONGEST_LINE", 0.05)
    monkeypatch.setattr(app, "LONGEST_ANSWER", 0.2)
    return asked


Answering = Callable[[Callable[[], object]], None]


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Answering:
    """Has something done for each answer of /api/flows, in the thread that makes it."""

    def replace(act: Callable[[], object]) -> None:
        def answer(*_: object) -> dict[str, Any]:
            act()
            return {"schema": 1}

        changed = [one._replace(answer=answer) if one.path == "/api/flows" else one for one in routes.ROUTES]
        monkeypatch.setattr(routes, "ROUTES", tuple(changed))

    return replace


def test_who_stands_in_line_too_long_is_sent_away(
    hurried: Asked, answering: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "LONGEST_ANSWER", 20.0)
    done: list[bool] = []
    answering(lambda: done.append(True))
    free = threading.Event()
    for _ in range(app.READING):
        hurried.dashboard._reading.submit(free.wait)
    try:
        began = time.monotonic()
        response = hurried.get("/api/flows")
        assert (response.status, response.header("retry-after")) == (503, "2")
        assert time.monotonic() - began < 10
        assert hurried.get("/healthz").status == 200
    finally:
        free.set()
    assert hurried.get("/api/flows").status == 200
    assert len(done) == 1, "what nobody waited for was done all the same"
    assert not hurried.rules.busy


def test_an_answer_that_takes_too_long_is_not_awaited(hurried: Asked, answering: Answering) -> None:
    free = threading.Event()
    answering(lambda: free.wait(20))
    began = time.monotonic()
    try:
        response = hurried.get("/api/flows")
    finally:
        free.set()
    assert (response.status, response.header("retry-after")) == (503, "2")
    assert 0.2 <= time.monotonic() - began < 10
    assert hurried.get("/api/flows").status == 200


def test_what_has_begun_may_take_longer_than_what_has_not(
    hurried: Asked, answering: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "LONGEST_ANSWER", 20.0)
    answering(lambda: threading.Event().wait(0.2))
    assert hurried.get("/api/flows").status == 200


def test_the_limits_are_those_that_were_promised() -> None:
    assert app.LONGEST_LINE <= 1 and app.LONGEST_ANSWER <= 5 and wire.PATIENCE <= 10
