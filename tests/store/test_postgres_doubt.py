"""A connection that is lost between a COMMIT and its answer: nothing is lost by it, and nothing is there twice."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from urllib.parse import urlsplit

import pytest

from penstock import flow, get_run_logger, task
from penstock.store import postgres_link
from penstock.store.base import LogRow
from penstock.store.postgres import PostgresReader, PostgresStore
from penstock.testing.store_suite import batch, run_row
from postgres_server import Server

COMMIT, DONE = b"COMMIT\0", b"C\0\0\0\x0bCOMMIT\0"  # as they go over the wire


class Proxy:
    """Stands between a client and the server. Cuts the connection that sends a COMMIT, `before` or `after` it was
    done, as often as `cuts` says."""

    def __init__(self, place: str) -> None:
        self._place = place
        self.cuts: list[str] = []
        self.made = 0
        self._sockets: list[socket.socket] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def url(self, url: str) -> str:
        return f"postgresql://penstock@127.0.0.1:{self.port}{urlsplit(url).path}?sslmode=disable&gssencmode=disable"

    def close(self) -> None:
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for one in self._sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(20)
        for one in self._sockets:
            one.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(f"{self._place}/.s.PGSQL.5432")
                self._sockets += [client, server]
                for source, target in ((client, server), (server, client)):
                    self._threads.append(threading.Thread(target=self._carry, args=(source, target, source is client)))
                    self._threads[-1].start()

    def _carry(self, source: socket.socket, target: socket.socket, is_asking: bool) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 20):
                if self._is_cut("before" if is_asking else "after", data, COMMIT if is_asking else DONE):
                    break
                target.sendall(data)
        for one in (source, target):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _is_cut(self, when: str, data: bytes, sign: bytes) -> bool:
        if self.cuts[:1] == [when] and sign in data:
            self.cuts.pop(0)
            self.made += 1
            return True
        return False


@pytest.fixture
def url(server: Server) -> str:
    return server.new_database()


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    with closing(Proxy(str(server.place))) as proxy:
        yield proxy


@pytest.fixture
def store(proxy: Proxy, url: str) -> Iterator[PostgresStore]:
    with closing(PostgresStore(proxy.url(url))) as store:
        store.write(batch(run_row(1)))
        yield store


@pytest.fixture
def messages(url: str) -> Iterator[Callable[[], list[str]]]:
    with closing(PostgresReader(url)) as reader:
        yield lambda: [row.message for row in reader.logs(run_row(1).id)]


def line(text: str) -> LogRow:
    return LogRow(run_row(1).id, 1.0, 20, "shop", text)


@pytest.mark.parametrize("when", ["before", "after"])
def test_what_is_offered_again_is_there_once(
    when: str, proxy: Proxy, store: PostgresStore, messages: Callable[[], list[str]]
) -> None:
    offered = batch(line("same"), line("same"), line("b"))
    proxy.cuts = [when]
    with pytest.raises(postgres_link.Lost):
        store.write(offered)
    store.write(offered)
    store.write(batch(line("same")))
    assert messages() == ["same", "same", "b", "same"]
    assert proxy.made == 1


@pytest.mark.parametrize("cuts", [["after", "after", "before"], ["after", "before", "after"], ["before", "after"]])
def test_however_often_it_happens_and_in_whatever_parts_it_comes(
    cuts: list[str], proxy: Proxy, store: PostgresStore, messages: Callable[[], list[str]]
) -> None:
    first, second = [line("a"), line("b"), line("c")], [line("d")]
    proxy.cuts = [*cuts]
    with pytest.raises(postgres_link.Lost):
        store.write(batch(*first))
    for _ in cuts[1:]:
        with pytest.raises(postgres_link.Lost):
            store.write(batch(*first[:2], *second))
    store.write(batch(*first[:2], *second))
    store.write(batch(first[2]))
    assert sorted(messages()) == ["a", "b", "c", "d"]
    assert proxy.made == len(cuts)
    assert store._doubt._there == {}


def test_a_store_that_was_made_again_has_none_of_them(
    server: Server, url: str, proxy: Proxy, store: PostgresStore, messages: Callable[[], list[str]]
) -> None:
    offered = batch(line("a"))
    proxy.cuts = ["after"]
    with pytest.raises(postgres_link.Lost):
        store.write(offered)
    server.ask(urlsplit(url).path[1:], "DROP SCHEMA penstock CASCADE")
    store.write(offered)
    assert messages() == ["a"]


def test_a_whole_flow(
    proxy: Proxy, url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PENSTOCK_STORE_URL", proxy.url(url))

    @task
    def say(number: int) -> int:
        get_run_logger().info("line %d", number)
        return number

    @flow
    def talk() -> int:
        for number in range(300):
            if number % 50 == 25:
                proxy.cuts.append("after")
            say.submit(number).result()
            while proxy.cuts:
                threading.Event().wait(0.005)
        return 1

    with caplog.at_level(logging.INFO):
        assert talk() == 1
    assert proxy.made == 6
    with closing(PostgresReader(url)) as reader:
        (root,) = reader.runs()
        said = [row.message for row in reader.logs(root.id) if row.message.startswith("line ")]
        assert sorted(said) == sorted(f"line {number}" for number in range(300))
        assert root.status == "COMPLETED"
