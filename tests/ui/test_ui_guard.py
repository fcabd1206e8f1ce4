"""Who is answered: every route, method, name of the host, origin and token, from the table of routes itself.

`violations` holds the rules against an application; that it can find something is tested with each rule taken away.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dashboards import HOST, TOKEN, Asked, Headers, Response, good_headers, without

from penstock.ui import guard
from penstock.ui.actions import Actions
from penstock.ui.routes import ROUTES, Route

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "get", "BREW")
BAD_HOSTS = (
    *("attacker.example", "attacker.example:8000", "127.0.0.1.attacker.example:8000", "127.0.0.1", "127.0.0.1:80"),
    *("127.0.0.1:8001", "localhost.:8000", "LOCALHOST:8000", "localhost", "[::1]", "[::1%25lo]:8000", "0.0.0.0:8000"),
    *("[::ffff:127.0.0.1]:8000", "127.1:8000", "2130706433:8000", "user@127.0.0.1:8000", "127.0.0.1:8000, evil", ""),
    *("127.0.0.1:8000.", " 127.0.0.1:8000", "127.0.0.1:08000", "penstock:8000", "127.0.0.1:8000/", "\xe9:8000"),
)
BAD_TOKENS = (
    *("", "Bearer", "Bearer ", f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN}x", f"bearer {TOKEN}", f"Basic {TOKEN}"),
    *(TOKEN, f"Bearer  {TOKEN}", f"Bearer {TOKEN} ", f"Bearer {TOKEN.upper()}", "Bearer \xe9", f"Token {TOKEN}"),
)
BAD_ORIGINS = (
    *("http://attacker.example", "null", "https://127.0.0.1:8000", "http://127.0.0.1", "http://localhost:8000", ""),
    *("http://127.0.0.1:8000/", "HTTP://127.0.0.1:8000", "http://127.0.0.1:8000.attacker.example", "file://"),
)
TRICKS = (
    *("/x/healthz", "/healthz/../api/runs", "//healthz", "/healthz/", "/healthz.", "/healthz;x", "/healthz%2f"),
    *("/%68ealthz", "/api/runs/healthz", "/api/%72uns", "/api//runs", "/api/runs/", "/api/runs/.", "/API/runs"),
    *("/assets/../api/runs", "/assets/..%2f..%2fetc%2fpasswd", "/assets/%2e%2e/a.js", "/assets/a.js/", "/assets/"),
    *("/api/runs;/healthz", "/api/runs%00", "/api/runs\\", "/api/live/healthz", "/index.html", "/api", "/.well-known"),
    *("api/runs", "http://127.0.0.1:8000/api/runs", "http://attacker.example/api/runs", "*", "", "/../../etc/passwd"),
    *("/assets/C:%5cwindows", "/assets/%252e%252e%252fa.js", "/assets/con", "/runs/../assets/a.js", "/a" * 1500),
)


def target(route: Route) -> str:
    """The route with something in the place of each parameter."""
    path = route.path.replace("{id}", "0" * 32).replace("{name}", "etl").replace("{file}", "a.js")
    path = path.replace("{action}", "cancel")
    return path + ("?view=runs" if path == "/api/live" else "")


def violations(asked: Asked) -> Iterator[str]:
    """What breaks the rules, of everything that can be asked."""
    for route in ROUTES:
        for what, method, headers, body in _forbidden(route):
            response = asked.ask(method, target(route), headers, body)
            if response.status < 400:
                yield f"{route.method} {route.path}, {what}: {response.status}"
            yield from _unprotected(what, response)
    for trick in TRICKS:
        for headers in (good_headers(), without(good_headers(), "authorization")):
            response = asked.ask("GET", trick, headers)
            if response.status < 400:
                yield f"{trick}: {response.status}"
            yield from _unprotected(trick, response)


def _forbidden(route: Route) -> Iterator[tuple[str, str, Headers, bytes]]:
    method, good, body = route.method, good_headers(route.method), _body(route)
    for host in BAD_HOSTS:
        yield f"host {host}", method, [("host", host), *without(good, "host")], body
    yield "no host", method, without(good, "host"), body
    yield "two hosts", method, [("host", HOST), *good], body
    for other in METHODS:
        if other != method:
            yield f"method {other}", other, good_headers("POST"), body
    if route.kind in guard.PRIVATE:
        yield from _without_token(method, good, body)
    for origin in BAD_ORIGINS:
        if origin != "":
            yield f"origin {origin}", method, [("origin", origin), *without(good, "origin")], body
    for site in ("cross-site", "same-site", "whatever"):
        yield f"from {site}", method, [("sec-fetch-site", site), *without(good, "sec-fetch-site")], body
    yield "a body that has no length", method, [("transfer-encoding", "chunked"), *good], body
    yield "a large body", method, [("content-length", str(2**20)), *good], body
    yield "a length that is none", method, [("content-length", "-1"), *good], body
    if route.kind == "action":
        yield from _of_forms(good, body)


def _without_token(method: str, good: Headers, body: bytes) -> Iterator[tuple[str, str, Headers, bytes]]:
    bare = without(good, "authorization")
    yield "no token", method, bare, body
    yield "a token in a cookie", method, [("cookie", f"token={TOKEN}"), *bare], body
    yield "two tokens", method, [("authorization", "Bearer x"), *good], body
    for text in BAD_TOKENS:
        yield f"token {text!r}", method, [("authorization", text), *bare], body


def _of_forms(good: Headers, body: bytes) -> Iterator[tuple[str, str, Headers, bytes]]:
    """What a page of somebody else can make a browser send."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "", "text/json"):
        yield f"type {kind}", "POST", [("content-type", kind), *without(good, "content-type")], body
    yield "no type", "POST", without(good, "content-type"), body
    yield "no origin", "POST", without(good, "origin"), body


def _body(route: Route) -> bytes:
    return b'{"run": "%s", "nonce": "x"}' % (b"0" * 32) if route.kind == "action" else b""


def _unprotected(what: str, response: Response) -> Iterator[str]:
    for name, value in guard.HEADERS:
        if response.header(name.decode()) != value.decode():
            yield f"{what}: {response.status} without {name.decode()}"
    for name, _ in response.headers:
        if name.startswith("access-control-") or name in ("set-cookie", "server", "location"):
            yield f"{what}: {response.status} with {name}"
    if TOKEN.encode() in response.body:
        yield f"{what}: the token is in the answer"


class _Spied(Actions):
    """Starts nothing, and says so."""

    started: list[tuple[str, str]]

    def __init__(self) -> None:
        super().__init__("/nowhere")
        self.started = []

    def start(self, name: str, run_id: str, nonce: str, client: str) -> dict[str, Any]:
        self.started.append((name, run_id))
        return {"started": True}


@pytest.fixture
def acting(example: Path) -> Iterator[Asked]:
    with Asked(example, _Spied()) as asked:
        yield asked


def _digest(home: Path) -> str:
    return hashlib.sha256((home / "penstock.db").read_bytes()).hexdigest()


def test_nothing_is_answered_that_no_rule_allows(acting: Asked, example: Path) -> None:
    before = _digest(example)
    assert list(violations(acting)) == []
    assert _digest(example) == before
    spied: Any = acting.dashboard._actions
    assert spied.started == []


@pytest.mark.parametrize(
    ("rule", "replaced"),
    [
        ("_host", lambda headers, rules: HOST),
        ("_token", lambda headers, rules: None),
        ("_from_where", lambda headers, origins, route: None),
        ("_body", lambda headers, route: None),
        ("_with_headers", lambda send: send),
    ],
)
def test_each_rule_is_needed(
    rule: str, replaced: Callable[..., Any], acting: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, rule, replaced)
    assert next(violations(acting), None) is not None


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_what_is_asked_for_rightly_is_answered(route: Route, acting: Asked) -> None:
    response = acting.ask(route.method, target(route), good_headers(route.method), _body(route))
    expected = {200, 202, 404} if "{" in route.path else {200}
    if route.path == "/api/compare":
        expected = {400}
    assert response.status in expected, response.body
    assert list(_unprotected(route.path, response)) == []


def test_each_kind_of_route_has_rules() -> None:
    assert {route.kind for route in ROUTES} == guard.KNOWN


def test_a_page_needs_no_token_and_holds_no_data(asked: Asked) -> None:
    response = asked.ask("GET", "/runs/" + "0" * 32, [("host", HOST)])
    assert response.status == 200
    assert b'src="../assets/a.js"' in response.body
    assert asked.ask("GET", "/assets/a.js", [("host", HOST)]).header("content-type") == "text/javascript; charset=utf-8"


def test_a_slash_in_a_name_is_no_part_of_the_path(asked: Asked) -> None:
    response = asked.ask("GET", "/flows/a%2Fb", [("host", HOST)])
    assert response.status == 200 and b'src="../assets/a.js"' in response.body


def test_a_link_on_another_page_may_lead_here_but_not_into_a_frame(asked: Asked) -> None:
    link = [("host", HOST), ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")]
    assert asked.ask("GET", "/runs", [*link, ("sec-fetch-dest", "document")]).status == 200
    assert asked.ask("GET", "/runs", [*link, ("sec-fetch-dest", "iframe")]).status == 403
    assert asked.ask("GET", "/api/runs", [*link, ("sec-fetch-dest", "document")]).status == 403


def test_a_proxy_may_have_tls_where_it_was_allowed(asked: Asked) -> None:
    origin = ("origin", f"https://{HOST}")
    assert asked.get("/api/runs", origin).status == 403
    asked.rules.proxied = frozenset({HOST})
    assert asked.get("/api/runs", origin).status == 200


def test_who_only_looks_cannot_act(asked: Asked) -> None:
    response = asked.ask("POST", "/api/actions/cancel", good_headers("POST"), b"{}")
    assert response.status == 403
    assert "--allow-actions" in response.json()["error"]["hint"]


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"[]", b"{}", b'{"run": 1, "nonce": "x"}', b'{"run": "../x", "nonce": "x"}', b"\xff", b"[" * 30_000),
        b'{"run": "%s", "nonce": "x", "command": "rm"}' % (b"0" * 32),
    ],
    ids=range(8),
)
def test_an_action_says_exactly_what_it_means(body: bytes, acting: Asked) -> None:
    response = acting.ask("POST", "/api/actions/cancel", good_headers("POST"), body)
    assert response.status == 400
    spied: Any = acting.dashboard._actions
    assert spied.started == []


@pytest.mark.parametrize(
    ("busy", "target", "status"),
    [
        ({"all": 64}, "/api/runs", 503),
        ({"all": 64}, "/healthz", 503),
        ({"all": 63}, "/api/runs", 200),
        ({("live", "127.0.0.1"): 16}, "/api/live?view=runs", 429),
        ({("live", "127.0.0.1"): 15}, "/api/live?view=runs", 200),
        ({("live", "192.0.2.1"): 16}, "/api/live?view=runs", 200),
        ({"live": 48}, "/api/live?view=runs", 429),
        ({"live": 48}, "/api/runs", 200),
    ],
)
def test_requests_at_the_same_time_are_limited(
    busy: dict[Hashable, int], target: str, status: int, asked: Asked
) -> None:
    asked.rules.busy.update(busy)
    response = asked.get(target)
    assert response.status == status
    assert (response.header("retry-after") is not None) == (status != 200)
    assert asked.rules.busy == busy, "a place was not given back"


def test_actions_at_the_same_time_are_limited(acting: Asked) -> None:
    acting.rules.busy.update({"action": 4})
    body = b'{"run": "%s", "nonce": "x"}' % (b"0" * 32)
    assert acting.ask("POST", "/api/actions/cancel", good_headers("POST"), body).status == 429


def test_there_are_no_sockets(asked: Asked) -> None:
    import asyncio

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        raise AssertionError

    asyncio.run(asked.dashboard.guarded({"type": "websocket", "headers": []}, receive, send))
    assert [one["type"] for one in sent] == ["websocket.close"]


def test_who_opens_an_address_at_which_there_is_nothing_gets_a_page(asked: Asked) -> None:
    opened = [("host", HOST), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")]
    response = asked.ask("GET", "/no/where", opened)
    assert response.status == 404
    assert b'src="../assets/a.js"' in response.body
    for others in (opened[:2], [*opened[1:], ("host", "attacker.example")]):
        assert asked.ask("GET", "/no/where", others).header("content-type") == "application/json"
    assert asked.ask("POST", "/no/where", opened).header("content-type") == "application/json"
