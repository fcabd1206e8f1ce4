"""Who is answered. Everything that arrives comes by here first, and nothing is let through that no rule allows.

The rules, in the order in which they are applied, each against an attack that has happened to dashboards like this one:

1. Host: the addresses that the server listens on, exactly. Else a page on the web could have its own name point here
   and read everything (DNS rebinding).
2. The target: one path in plain characters, decoded once and by segments. No dots, no second decoding, no other host.
3. Where the browser says that the request comes from: from a page of ours, or from the address bar for pages.
4. The route: what is not in the table does not exist. What a request needs hangs on the kind of its route; there are no
   exceptions by the look of a path.
5. The token, in a header that no other page can send; also for reading, because other users of the machine reach this
   port as well.
6. For actions the exact origin, the content type and a length.
7. Budgets.

Every response gets the same headers, those of errors too. There are none that share anything with other origins.
"""

from __future__ import annotations

import hmac
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from penstock.ui.answers.documents import SCHEMA
from penstock.ui.routes import ACTION, ASSET, HEALTH, LIVE, PAGE, READ, Found, Route, find, methods_of

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LARGEST_HEAD, LARGEST_BODY = 16 * 2**10, 64 * 2**10
LONGEST_TARGET = 2_000
AT_ONCE = 64  # requests that are answered at the same time
AT_ONCE_OF_KIND = {ACTION: 4, LIVE: 48}  # of them; so there are always some left for who asks once
AT_ONCE_OF_ONE = {LIVE: 16}  # address of a client
PRIVATE = frozenset({READ, LIVE, ACTION})  # kinds of routes that need the token
BROWSED = frozenset({PAGE, ASSET, HEALTH})  # kinds that somebody may type into the address bar
KNOWN = PRIVATE | BROWSED
PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~/%@:!$&'()*+,=")

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; font-src 'self';"
    " frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
HEADERS = [
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
]


class Refusal(Exception):
    """The request is not answered, and why."""

    def __init__(self, status: int, message: str, hint: str | None = None, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.hint = hint
        self.headers = headers


@dataclass
class Rules:
    """`hosts`: what a Host header may be, exactly. `proxied`: those of them that a proxy may serve with TLS. `token`:
    None if there is none."""

    hosts: frozenset[str]
    token: str | None
    actions: bool = False
    proxied: frozenset[str] = frozenset()
    busy: Counter[Hashable] = field(default_factory=Counter)


class Guard:
    """An ASGI application in front of `app`, which finds what was asked for in `scope["penstock"]`.

    `lost`: what shows somebody that there is nothing at an address which was opened in a browser.
    """

    def __init__(self, app: App, rules: Rules, lost: App) -> None:
        self._app = app
        self._rules = rules
        self._lost = lost

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, receive, _with_headers(send))
        else:  # there are no sockets here
            await send({"type": "websocket.close", "code": 1008})

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            found = check(scope, self._rules)
            scope["penstock"] = found
            with _place(self._rules.busy, found.route.kind, _address(scope)):
                await self._app(scope, receive, send)
        except Refusal as refusal:
            if refusal.status == 404 and _is_opened(scope):
                await self._lost(scope, receive, send)
            else:
                await refuse(refusal, send)


def _is_opened(scope: Scope) -> bool:
    """Whether somebody looks at what is answered, and not a program."""
    headers = scope["headers"]
    opened = ((b"sec-fetch-mode", b"navigate"), (b"sec-fetch-dest", b"document"))
    return scope["method"] == "GET" and all(one in headers for one in opened)


def check(scope: Scope, rules: Rules) -> Found:
    """What was asked for. Raises `Refusal`."""
    if sum(len(name) + len(value) + 4 for name, value in scope["headers"]) > LARGEST_HEAD:
        raise Refusal(431, "the headers are too large")
    headers = _Headers(scope["headers"])
    host = _host(headers, rules)
    path = _path(scope)
    found = _route(scope["method"], path, rules)
    _from_where(headers, _origins(host, rules), found.route)
    if found.route.kind in PRIVATE:
        _token(headers, rules)
    _body(headers, found.route)
    return found


class _Headers:
    def __init__(self, raw: Sequence[tuple[bytes, bytes]]) -> None:
        self._all: dict[str, list[str]] = {}
        for name, value in raw:
            self._all.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))

    def only(self, name: str) -> str | None:
        """The value of a header; None if there is none. There must not be several."""
        values = self._all.get(name, [])
        if len(values) > 1:
            raise Refusal(400, f"there are {len(values)} headers {name}")
        return values[0] if values else None


def _host(headers: _Headers, rules: Rules) -> str:
    try:
        host = headers.only("host")
    except Refusal:
        host = None
    if host is None or host not in rules.hosts:
        raise Refusal(
            403,
            "this name is not one that the dashboard was started for",
            "open the address that `penstock ui` has printed, or start it with --allow-host NAME",
        )
    return host


def _path(scope: Scope) -> str:
    raw: bytes = scope.get("raw_path") or scope["path"].encode("utf-8", "surrogatepass")
    if len(raw) + len(scope.get("query_string", b"")) > LONGEST_TARGET + 8_000 or len(raw) > LONGEST_TARGET:
        raise Refusal(414, "the address is too long")
    if not raw.startswith(b"/") or not PLAIN.issuperset(raw):
        raise Refusal(403, "this is no path of the dashboard")
    return raw.decode("ascii")


def _route(method: str, path: str, rules: Rules) -> Found:
    found = find(method, path)
    if found is None:
        allowed = methods_of(path)
        if allowed:
            raise Refusal(405, f"only {', '.join(allowed)} is answered here", allow=", ".join(allowed))
        raise Refusal(404, "there is nothing at this address")
    if found.route.kind not in KNOWN:
        raise Refusal(403, "nobody has said who may ask for this")
    if found.route.kind == ACTION and not rules.actions:
        raise Refusal(403, "the dashboard only looks", "start it with --allow-actions to cancel, retry and resume")
    return found


def _origins(host: str, rules: Rules) -> set[str]:
    return {f"http://{host}", f"https://{host}"} if host in rules.proxied else {f"http://{host}"}


def _from_where(headers: _Headers, origins: set[str], route: Route) -> None:
    """What a browser says about the page that asks. Others say nothing of it, and cannot be led astray either."""
    site = headers.only("sec-fetch-site")
    allowed = {"same-origin", "none"} if route.kind in BROWSED else {"same-origin"}
    if site is not None and site not in allowed and not _is_link(headers, route):
        raise Refusal(403, "another site has asked for this")
    origin = headers.only("origin")
    if origin is not None and origin not in origins:
        raise Refusal(403, "another origin has asked for this")
    if origin is None and route.kind == ACTION:
        raise Refusal(403, "an action needs the header Origin")


def _is_link(headers: _Headers, route: Route) -> bool:
    """A link on another page may lead to a page of ours, which shows nothing before it has the token."""
    how = headers.only("sec-fetch-mode"), headers.only("sec-fetch-dest")
    return route.kind == PAGE and how == ("navigate", "document")


def _token(headers: _Headers, rules: Rules) -> None:
    if rules.token is None:
        return
    scheme, _, given = (headers.only("authorization") or "").partition(" ")
    # Both as bytes: a text beyond ASCII cannot be compared in constant time.
    if scheme != "Bearer" or not hmac.compare_digest(given.encode("latin-1"), rules.token.encode()):
        raise Refusal(
            401,
            "the token is missing or wrong",
            "open the address that `penstock ui` has printed: it holds the token of this start",
            **{"www-authenticate": "Bearer"},
        )


def _body(headers: _Headers, route: Route) -> None:
    length = headers.only("content-length")
    if headers.only("transfer-encoding") is not None:
        raise Refusal(411, "a body needs a length")
    if length is not None and (not length.isdigit() or not length.isascii()):
        raise Refusal(400, "the length of the body is no number")
    size = int(length[:20] or 0) if length else 0
    if size > (LARGEST_BODY if route.kind == ACTION else 0):
        raise Refusal(413, "the body is too large")
    if route.kind == ACTION:
        kind = (headers.only("content-type") or "").replace(" ", "").lower()
        if kind not in ("application/json", "application/json;charset=utf-8"):
            raise Refusal(415, "the body must be application/json")


@contextmanager
def _place(busy: Counter[Hashable], kind: str, address: str) -> Iterator[None]:
    """A place among those who are answered at the same time. Raises `Refusal` if there is none."""
    limits: list[tuple[Hashable, int | None, int]] = [
        ("all", AT_ONCE, 503),
        (kind, AT_ONCE_OF_KIND.get(kind), 429),
        ((kind, address), AT_ONCE_OF_ONE.get(kind), 429),
    ]
    for whose, most, status in limits:
        if most is not None and busy[whose] >= most:
            message = f"{most} of these are answered at the same time"
            raise Refusal(status, message, "close other tabs", **{"retry-after": "2"})
    mine = Counter(whose for whose, *_ in limits)
    busy += mine
    try:
        yield
    finally:
        busy -= mine  # this also forgets those who have none any more


def _address(scope: Scope) -> str:
    client = scope.get("client")
    return client[0] if client else "this machine"


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            given = [(name, value) for name, value in message.get("headers", ())]
            names = {name.lower() for name, _ in given}
            message = {**message, "headers": given + [one for one in HEADERS if one[0] not in names]}
        await send(message)

    return sending


async def refuse(refusal: Refusal, send: Send) -> None:
    body = json.dumps(problem(refusal.status, refusal.message, refusal.hint)).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        *((name.encode(), value.encode()) for name, value in refusal.headers.items()),
    ]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def problem(status: int, message: str, hint: str | None = None) -> Mapping[str, Any]:
    return {"schema": SCHEMA, "error": {"status": status, "message": message, "hint": hint}}
