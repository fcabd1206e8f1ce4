"""Starting the dashboard: what is refused, sockets on this machine, and the address to open."""

from __future__ import annotations

import errno
import ipaddress
import os
import secrets
import socket
import stat
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from penstock.exceptions import ConfigurationError
from penstock.ui.actions import Actions
from penstock.ui.app import Dashboard
from penstock.ui.front import File, NotBuilt, files
from penstock.ui.guard import Rules
from penstock.ui.wire import QUEUE, Wire

LOOPBACK = ("127.0.0.1", "::1")
LEAST_BITS, LEAST_DIFFERENT = 128, 8
TRIES = 20  # of ports that are free in one kind of addresses and taken in the other


@dataclass
class Wish:
    """How the dashboard is to be started."""

    home: str
    url: str | None = None  # of a database, in place of the store in `home`
    host: str | None = None  # None: both addresses of this machine for itself
    port: int = 0  # 0: one that is free
    socket: str | None = None  # path of a Unix socket, in place of host and port
    token: str | None = None  # None: a new one
    no_token: bool = False
    allow_host: Sequence[str] = ()
    allow_actions: bool = False


def check(wish: Wish) -> None:
    """Raises `ConfigurationError` for what would let others in."""
    if wish.no_token and wish.allow_actions:
        raise ConfigurationError("actions need a token: leave out --no-token or --allow-actions")
    if wish.no_token and not _is_local(wish):
        raise ConfigurationError(f"everybody could read what is at {wish.host}: leave out --no-token")
    if wish.token is not None:
        _check_token(wish.token)
    if not _is_local(wish) and wish.token is None:
        raise ConfigurationError(
            f"{wish.host} can be reached from other machines: give a token of at least {LEAST_BITS} bits"
            " with --token-file, for example one made by: python -c 'import secrets; print(secrets.token_urlsafe(32))'"
        )


def _check_token(token: str) -> None:
    if not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigurationError("a token is one word of ASCII characters")
    # What was drawn from few characters, or typed over and over, is long and yet no secret.
    bits = len(token) * (4 if set(token.lower()) <= set("0123456789abcdef") else 6)
    if bits < LEAST_BITS or len(set(token)) < LEAST_DIFFERENT:
        raise ConfigurationError(
            f"the token is too easy to guess: it must have at least {LEAST_BITS} bits, which is 22 random letters and"
            " digits, or 32 hexadecimal digits"
        )


def _is_local(wish: Wish) -> bool:
    if wish.socket is not None or wish.host is None or wish.host == "localhost":
        return True
    try:
        return ipaddress.ip_address(wish.host).is_loopback
    except ValueError:
        return False


# --- sockets ---


def sockets(wish: Wish) -> list[socket.socket]:
    """Raises OSError if an address cannot be had."""
    if wish.socket is not None:
        return [_unix(wish.socket)]
    if wish.host not in (None, "localhost"):
        return [_bound(str(wish.host), wish.port)]
    for _ in range(TRIES):
        first = _bound(LOOPBACK[0], wish.port)
        try:
            return [first, _bound(LOOPBACK[1], first.getsockname()[1])]
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                return [first]  # there is no IPv6 here
            first.close()
            if wish.port:
                raise
    raise OSError(errno.EADDRINUSE, "no port is free on both 127.0.0.1 and ::1")


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind((host, port))
        made.listen(QUEUE)
    except BaseException:
        made.close()
        raise
    return made


def _unix(path: str) -> socket.socket:
    """For its owner only, from its first moment on."""
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise OSError(errno.EEXIST, f"{path} exists, and is no socket")
        os.unlink(path)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        made.bind(path)
        made.listen(QUEUE)
    except BaseException:
        made.close()
        raise
    finally:
        os.umask(before)
    return made


def hosts(wish: Wish, bound: Sequence[socket.socket]) -> frozenset[str]:
    """What a Host header may be: the addresses as they are typed, with their port. A name that was allowed may also be
    without: a proxy has the port of its scheme, which browsers leave out."""
    names = [*wish.allow_host]
    port = 80
    for one in bound:
        if one.family == socket.AF_UNIX:
            names.append("localhost")
            continue
        address, port = one.getsockname()[:2]
        names += [f"[{address}]" if ":" in address else address, "localhost"]
    return frozenset(
        [f"{name}:{port}" for name in names if not _has_port(name)]
        + [name for name in names if _has_port(name) or port == 80 or name in wish.allow_host]
    )


def _has_port(name: str) -> bool:
    head, _, tail = name.rpartition(":")
    return bool(head) and tail.isdigit() and not head.endswith(":")


def address_of(wish: Wish, bound: Sequence[socket.socket], token: str | None) -> str:
    """What to open. The token is in the part that a browser sends nobody."""
    fragment = "" if token is None else f"#token={token}"
    if wish.socket is not None:
        return f"unix:{wish.socket}{fragment}"
    host, port = bound[0].getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/{fragment}"


# --- the server ---


class Server:
    """The dashboard, bound and ready. `serve` returns when it was stopped, by a signal or by `stop`."""

    def __init__(self, wish: Wish, front: dict[str, File] | None = None) -> None:
        check(wish)
        self._front = files() if front is None else front
        self.token = None if wish.no_token else wish.token or secrets.token_urlsafe(32)
        self._wish = wish
        self._sockets = sockets(wish)
        self.hosts = hosts(wish, self._sockets)
        self.address = address_of(wish, self._sockets, self.token)
        self._wire: Wire | None = None
        self._stopped = threading.Event()

    @property
    def port(self) -> int:
        return int(self._sockets[0].getsockname()[1])

    def serve(self, ready: Callable[[], None] = lambda: None) -> None:
        try:
            self._run(ready)
        finally:
            self._let_go()

    def _let_go(self) -> None:
        for one in self._sockets:
            one.close()
        if self._wish.socket is not None:
            with suppress(OSError):
                os.unlink(self._wish.socket)

    def stop(self) -> None:
        """From any thread."""
        self._stopped.set()
        if self._wire is not None:
            self._wire.should_exit = True

    def _run(self, ready: Callable[[], None]) -> None:
        proxied = frozenset(host for host in self.hosts if host.rpartition(":")[0] in self._wish.allow_host)
        rules = Rules(self.hosts, self.token, self._wish.allow_actions, proxied | {*self._wish.allow_host})
        actions = Actions(self._wish.home, self._wish.url) if self._wish.allow_actions else None
        dashboard = Dashboard(self._wish.home, rules, self._front, actions, self._wish.url)
        server = Wire(dashboard, ready, self._let_go)
        self._wire = server
        if not self._stopped.is_set():
            server.run(self._sockets)


__all__ = ["NotBuilt", "Server", "Wish", "check"]
