"""Whatever is sent: it is understood or refused, and what is found is what a filter written in Python finds."""

from __future__ import annotations

import json
import logging
import random
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from string import ascii_lowercase, ascii_uppercase
from typing import Any
from urllib.parse import urlencode

import pytest
from dashboards import HOST, TOKEN, Looked, running
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from test_ui_guard import METHODS, TRICKS, target

from penstock.store.base import Batch, RunRow
from penstock.store.sqlite import SQLiteStore
from penstock.testing.store_suite import child_row, run_row
from penstock.ui import app, asking, guard, live, routes
from penstock.ui.asking import Refused
from penstock.ui.guard import HEADERS, Refusal, Rules

# --- what is found ---

TEXTS = (
    *("etl", "ETL", "a' OR '1'='1", 'say "no"', "50%", "5_0", "back\\slash", "\u2019quoted\u2019", "\u0130stanbul"),
    *("$.x[0]", "';--", "{parents}", ":name", "tab\there", "\U0001f600", "SORT DESC", "a,b", "[1]", "null", "%_%"),
    *("STRASSE stra\u00dfe", "\x1b[2J", "line\nline", "x" * 300, "0", "*", "?", "\ud83d", " "),
)
STATES = ("Completed", "TimedOut", "Failed", "UpstreamFailed", "Cached")
STATUSES = {"TimedOut": "FAILED", "UpstreamFailed": "FAILED", "Cached": "COMPLETED"}
_LOWER = str.maketrans(ascii_uppercase, ascii_lowercase)


def texts_of(number: int) -> dict[str, Any]:
    def text(step: int) -> str:
        return TEXTS[(number * step + step) % len(TEXTS)]

    state = STATES[number % len(STATES)]
    fields = {"name": text(1), "run_name": text(2), "message": text(3), "error_type": text(5), "error": text(7)}
    fields = {name: value for name, value in fields.items() if name != ("message", "error", "-")[number % 3]}
    parameters = {text(11): repr(text(13)), "day": repr(text(17))}
    times = {"started": number + 0.5, "ended": number + 0.5 + number % 7 / 4} if number % 4 else {}
    return {
        **fields,
        **times,
        "status": STATUSES.get(state, state.upper()),
        "state_name": state,
        "attempts": number % 3,
        "created": float(number // 3),  # several at the same time
        "parameters": json.dumps(parameters),
        "tags": json.dumps([text(19), "nightly"]),
    }


def rows() -> list[RunRow]:
    root = run_row(1, kind="flow", status="COMPLETED", created=0.0, name="root", ended=1e6)
    flows = [run_row(100 + number, kind="flow", **texts_of(number)) for number in range(60)]
    # All have ended: who goes on without a process would be shown as crashed.
    flows = [flow._replace(ended=flow.ended or 1e6) for flow in flows]
    return [root, *flows, *(child_row(300 + number, root, **texts_of(number)) for number in range(90))]


@pytest.fixture(scope="module")
def odd_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("odd") / "store"
    with closing(SQLiteStore(home)) as store:
        batch = Batch.empty()
        batch.runs.extend(rows())
        store.write(batch)
    return home


class Odd:
    """The answers, and what is stored."""

    def __init__(self, home: Path) -> None:
        self.look = Looked(home)
        stored = [self.look.records.reader.get(row.id) for row in rows()]
        self.rows = [row for row in stored if row is not None]


@pytest.fixture
def odd(odd_home: Path) -> Iterator[Odd]:
    made = Odd(odd_home)
    with closing(made.look.records):
        yield made


def has(text: str, field: str | None) -> bool:
    return text.translate(_LOWER) in (field or "").translate(_LOWER)


def is_like(row: RunRow, text: str | None) -> bool:
    fields = (row.name, row.run_name, row.message, row.error_type, row.error)
    return not text or any(has(text, one) for one in fields) or has(json.dumps(text)[1:-1], row.parameters)


def is_in(row: RunRow, states: list[str]) -> bool:
    given = {one.translate(_LOWER) for one in states}
    return not given or bool(given & {row.status.translate(_LOWER), row.state_name.translate(_LOWER)})


def has_parameter(row: RunRow, wanted: str | None) -> bool:
    name, _, value = (wanted or "").partition("=")
    parameters = json.loads(row.parameters)
    return wanted is None or (name.strip() in parameters and has(value.strip(), parameters[name.strip()]))


def pieces() -> st.SearchStrategy[str]:
    """Texts, and parts of those that are recorded."""
    usable = [text for text in TEXTS if text != "\ud83d"]  # half a character has no place in an address
    part = st.tuples(st.sampled_from(usable), st.integers(0, 8), st.integers(1, 9)).map(lambda t: t[0][t[1] :][: t[2]])
    free = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)
    return st.one_of(st.sampled_from(usable), part, free)


def asked_for(**parameters: Any) -> str:
    return urlencode({name: value for name, value in parameters.items() if value not in (None, "", [])}, doseq=True)


def all_pages(look: Looked, path: str, query: str) -> list[str]:
    found: list[str] = []
    after = ""
    while True:
        page = look(path, query + after)
        found += page["columns"]["id"]
        if page["next"] is None:
            return found
        after = f"&after={page['next']}"


quickly = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
maybe = st.one_of(st.none(), pieces())
states = st.lists(st.one_of(st.sampled_from([*STATES, "FAILED", "completed"]), pieces()), max_size=3)


@quickly
@given(maybe, states, st.lists(pieces(), max_size=2), maybe, st.one_of(st.none(), st.tuples(pieces(), pieces())))
@example("50%", [], [], None, None)
@example("5_0", [], [], None, ("day", ""))
@example("\\", [], [], "50%", ("day", "%"))
def test_the_list_finds_what_python_finds(
    odd: Odd,
    text: str | None,
    state: list[str],
    tag: list[str],
    flow: str | None,
    pair: tuple[str, str] | None,
) -> None:
    parameter = None if pair is None else "=".join(pair)
    state, tag = [one for one in state if one], [one for one in tag if one]
    expected = [
        row.id
        for row in sorted(odd.rows, key=lambda row: (row.created, row.id), reverse=True)
        if row.parent_id is None
        and is_like(row, text)
        and is_in(row, state)
        and set(tag) <= set(json.loads(row.tags))
        and (not flow or row.name == flow)
        and has_parameter(row, parameter)
    ]
    query = asked_for(text=text, state=state, tag=tag, flow=flow, parameter=parameter)
    assert all_pages(odd.look, "/api/runs", f"{query}&limit=7") == expected


KEYS: dict[str, Callable[[RunRow], Any]] = {
    "created": lambda row: row.created,
    "duration": lambda row: -1 if row.ended is None or row.started is None else row.ended - row.started,
    "name": lambda row: row.name.encode("utf-8"),
    "state": lambda row: row.state_name.encode(),
    "attempts": lambda row: row.attempts,
}


@quickly
@given(maybe, states, maybe, maybe, st.sampled_from([*KEYS]), st.booleans(), st.sampled_from([1, 13, 200]))
@example("%", [], None, None, "name", True, 13)
def test_the_table_finds_what_python_finds_in_its_order(
    odd: Odd,
    text: str | None,
    state: list[str],
    name: str | None,
    group: str | None,
    sort: str,
    descends: bool,
    limit: int,
) -> None:
    state = [one for one in state if one and one not in ("blocked",)]
    wanted = ["upstreamfailed" if one == "blocked" else one for one in state]
    expected = [
        row.id
        for row in sorted(odd.rows, key=lambda row: (KEYS[sort](row), row.id), reverse=descends)
        if row.parent_id is not None
        and is_like(row, text)
        and is_in(row, wanted)
        and (not name or row.name == name)
        and (not group or row.name == group)
    ]
    direction = "desc" if descends else "asc"
    query = asked_for(text=text, state=state, name=name, group=group, sort=sort, direction=direction, limit=limit)
    assert all_pages(odd.look, f"/api/runs/{1:032x}/tasks", query) == expected


@quickly
@given(
    st.one_of(st.floats(), st.integers(-(2**70), 2**70), st.none(), st.text(), st.just("\ud83d")),
    st.sampled_from([*KEYS]),
)
def test_a_cursor_that_was_made_up_is_a_place_or_refused(odd: Odd, value: Any, sort: str) -> None:
    ids = {row.id for row in odd.rows}
    for path in (f"/api/runs/{1:032x}/tasks", "/api/runs"):
        query = f"sort={sort}&" if path != "/api/runs" else ""
        with suppress(Refused):
            assert set(odd.look(path, f"{query}after={asking.as_cursor(value, 'f' * 32)}")["columns"]["id"]) <= ids


# --- what is understood ---

ASKING = [route for route in routes.ROUTES if route.parameters]


@settings(max_examples=300)
@given(
    st.sampled_from(ASKING),
    st.lists(
        st.tuples(st.one_of(st.sampled_from(["limit", "after", "sort", "from"]), st.text()), st.text()), max_size=4
    ),
    st.text(max_size=20),
)
def test_a_query_is_understood_or_refused(route: routes.Route, pairs: list[tuple[str, str]], rest: str) -> None:
    for query in (urlencode(pairs, errors="replace"), rest, urlencode(pairs, errors="replace") + rest):
        with suppress(Refused):
            assert set(asking.read(query, route.parameters)) == set(route.parameters)
        with suppress(Refused):
            live.view_of(query)


@settings(max_examples=300)
@given(st.binary(max_size=60))
@example(b'{"run": NaN, "nonce": 1e999}')
@example(b'{"run":"' + b"0" * 32 + b'","nonce":"\\ud800"}')
@example(b"[" * 60_000)
@example(b'{"a":' * 9_000)
@example(b"9" * 60_000)
def test_a_body_is_understood_or_refused(body: bytes) -> None:
    with suppress(Refusal, Refused):
        run_id, _ = app._wanted(body)
        assert asking.RUN_ID.fullmatch(run_id)


TARGETS = [*map(target, routes.ROUTES), *TRICKS]
NAMES = ("host", "origin", "authorization", "sec-fetch-site", "content-length", "content-type", "transfer-encoding")
VALUES = (
    HOST,
    f"http://{HOST}",
    f"Bearer {TOKEN}",
    "same-origin",
    "none",
    "0",
    "54",
    "application/json",
    "chunked",
    "",
)


@settings(max_examples=500)
@given(
    st.sampled_from([*METHODS, "\xe9"]),
    st.one_of(st.sampled_from(TARGETS), st.text(st.characters(max_codepoint=255), max_size=40)),
    st.lists(
        st.tuples(
            st.sampled_from(NAMES), st.one_of(st.sampled_from(VALUES), st.text(st.characters(max_codepoint=255)))
        ),
        max_size=7,
    ),
)
def test_a_request_is_let_through_by_the_rules_or_refused(
    method: str, target_: str, headers: list[tuple[str, str]]
) -> None:
    path, _, query = target_.partition("?")
    scope: dict[str, Any] = {
        "method": method,
        "path": path,
        "raw_path": path.encode("latin-1"),
        "query_string": query.encode("latin-1"),
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers],
    }
    try:
        found = guard.check(scope, Rules(frozenset({HOST}), TOKEN, actions=True))
    except Refusal as refusal:
        assert 400 <= refusal.status < 500
        return
    given = dict(headers)
    assert [value for name, value in headers if name == "host"] == [HOST]
    assert given.get("origin", f"http://{HOST}") == f"http://{HOST}"
    assert found.route.kind in guard.BROWSED or given["authorization"] == f"Bearer {TOKEN}"
    assert found.route.kind != "action" or "origin" in given


# --- what is no HTTP ---

NUMBER = 1_500
PARTS = (
    *(
        b"GET ",
        b"POST ",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"/",
        b"/healthz",
        b"/api/runs",
        b" HTTP/1.1\r\n",
        b"\r\n",
    ),
    *(b" HTTP/1.0\r\n", b" HTTP/9.9\r\n", b"Host: @\r\n", b"Host:\r\n", b"Content-Length: 5\r\n", b"\n", b"\r", b"\0"),
    *(
        b"Transfer-Encoding: chunked\r\n",
        b"5\r\nabcde\r\n",
        b"0\r\n\r\n",
        b"ffffffffffffffff\r\n",
        b"Expect: 100-continue\r\n",
    ),
    *(
        b"Authorization: Bearer %\r\n",
        b"Connection: close\r\n",
        b"Connection: Upgrade, HTTP2-Settings\r\n",
        b" \t folded\r\n",
    ),
    *(
        b"Upgrade: h2c\r\n",
        b"\xff\xfe",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b":",
        b"X: " + b"a" * 17_000,
        b"Content-Length: -1\r\n",
    ),
    *(
        b"GET /healthz HTTP/1.1\r\nHost: @\r\n\r\n",
        b"GET /api/about HTTP/1.1\r\nHost: @\r\nAuthorization: Bearer %\r\n\r\n",
    ),
)


def inputs(chance: random.Random) -> Iterator[bytes]:
    """Requests, their parts in any order, and what a broken line makes of them."""
    for _ in range(NUMBER):
        text = b"".join(chance.choices(PARTS, k=chance.randint(1, 9)))
        text = chance.choice([b"", b"GET /healthz HTTP/1.1\r\nHost: @\r\n"]) + text
        if chance.random() < 0.3:
            place = chance.randrange(len(text))
            text = text[:place] + chance.randbytes(chance.randint(0, 3)) + text[place + chance.randint(0, 2) :]
        yield text


def test_what_is_no_http_harms_nothing(odd_home: Path, caplog: pytest.LogCaptureFixture) -> None:
    seen: dict[bytes, int] = {}
    slowest = 0.0
    with running(odd_home) as server, caplog.at_level(logging.DEBUG):
        place = b"127.0.0.1:%d" % server.port
        for text in inputs(random.Random(2)):
            began = time.monotonic()
            answer = _answer(server.port, text.replace(b"@", place).replace(b"%", str(server.token).encode()))
            slowest = max(slowest, time.monotonic() - began)
            if answer:
                status = answer[9:12]
                seen[status] = seen.get(status, 0) + 1
                _check(answer)
        server.json("/api/about")
    errors = [one for one in caplog.records if one.levelno >= logging.WARNING]
    assert [one.getMessage() for one in errors] == []
    assert {b"200", b"400", b"403", b"411", b"431"} <= set(seen) and not set(seen) & {b"500", b"503"}, seen
    assert slowest < 5


def _answer(port: int, text: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), 8) as client:
        try:
            client.sendall(text)
            client.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: client.recv(2**16), b""))
        except ConnectionError:
            return b""


def _check(answer: bytes) -> None:
    for part in answer.split(b"HTTP/1.1 ")[1:]:
        if not part.startswith(b"100"):
            head = part.partition(b"\r\n\r\n")[0]
            assert all(b"%s: %s" % header in head for header in HEADERS), part[:300]
