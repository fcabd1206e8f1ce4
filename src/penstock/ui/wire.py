"""HTTP on the sockets, by uvicorn and h11, and what a client may cost before and after its request is answered.

The only module that knows uvicorn, which has no limits for this: it waits for ever for the rest of a head, or of a
body, and for a client to take what was sent; and what it counts are requests, not connections. Here whatever is awaited
of a client has `PATIENCE` seconds. There are `MOST_OPEN` connections; for one more, that is closed which has been
waited for longest, so whoever opens many and says nothing takes them from himself. Nobody is closed who is being
answered.
"""

from __future__ import annotations

import asyncio
import json
import logging
import resource
import socket
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from penstock.ui.app import Dashboard
from penstock.ui.guard import AT_ONCE, HEADERS, LARGEST_HEAD, problem

PATIENCE = 10.0  # seconds: for a head, for a body, for taking what was sent, for the next request
MOST_OPEN = AT_ONCE + 16  # connections: there is always room to hear whoever is then told that it is too much
TURNS = 5  # of the event loop, to accept as many connections: a new one must be read before it is an old one
OTHER_FILES = 32  # descriptors for the store, the sockets that are listened on, and the actions
RETRY = 1.0  # seconds after which asyncio accepts again when there was no descriptor
QUEUE = 1024  # connections that the kernel keeps until they are accepted

_log = logging.getLogger("penstock.ui")


class Protocol(H11Protocol):
    """A connection. `since`: since when something is awaited of the client, if anything is."""

    most_open = MOST_OPEN
    since = 0.0

    def connection_made(self, transport: object) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self.since = self.loop.time()
        make_room(self.connections, self.most_open)

    def data_received(self, data: bytes) -> None:
        if self.conn.their_state is h11.ERROR:
            return  # it was told so: if this were not taken in, the system would take that answer back
        before = self.cycle
        super().data_received(data)
        if self.cycle is not before:
            self.since = self.loop.time()

    def pause_writing(self) -> None:
        self.since = self.loop.time()
        super().pause_writing()

    def on_response_complete(self) -> None:
        self.since = self.loop.time()
        super().on_response_complete()

    def is_awaited(self) -> bool:
        """Whether it is the client's turn."""
        is_asking = self.conn.their_state in (h11.IDLE, h11.SEND_BODY, h11.ERROR)
        return is_asking or self.flow.write_paused or self.transport.is_closing()

    def lose_patience(self) -> None:
        if self.is_awaited() and self.loop.time() - self.since > PATIENCE:
            self.give_up()

    def give_up(self) -> None:
        self.connections.discard(self)  # at once: it is told that it is closed in the next turn only
        self.transport.abort()  # closing it would wait until the client has taken what it does not take

    def send_400_response(self, msg: str) -> None:
        """Also what is no HTTP at all is answered with our headers. Called where the error is handled."""
        if self.cycle is not None:  # its body is what is no HTTP, and its answer, if not yet begun, is this one
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):  # something is being answered, or was
            self.transport.abort()
            return
        status = getattr(sys.exception(), "error_status_hint", 400)
        message = "the headers are too large" if status == 431 else "this is no HTTP"
        body = json.dumps(problem(status, message)).encode()
        headers = [(b"content-type", b"application/json"), (b"connection", b"close"), *HEADERS]
        for event in (h11.Response(status_code=status, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.since = self.loop.time()
        self.transport.write_eof()


def make_room(connections: Iterable[object], most: int) -> None:
    """Until there are `most`, close those who have been awaited for longest."""
    everyone = [one for one in connections if isinstance(one, Protocol)]
    awaited = sorted((one for one in everyone if one.is_awaited()), key=lambda one: one.since)
    for one in awaited[: max(0, len(everyone) - most)]:
        one.give_up()


def _most_open() -> int:
    """Fewer connections where there are few descriptors: without any left nobody could be accepted."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed == resource.RLIM_INFINITY:
        return MOST_OPEN
    # Those that came in and those that are being closed are three turns more: three fifths.
    return max(TURNS, min(MOST_OPEN, (allowed - OTHER_FILES) * TURNS // (TURNS + 3)))


class Wire(uvicorn.Server):
    """`ready` is called when requests are answered, `let_go` when they are not any more."""

    def __init__(self, dashboard: Dashboard, ready: Callable[[], None], let_go: Callable[[], None]) -> None:
        most_open = _most_open()
        config = uvicorn.Config(
            dashboard.guarded,
            loop="asyncio",
            http=type("Protocol", (Protocol,), {"most_open": most_open}),
            ws="none",
            lifespan="on",
            log_config=None,
            log_level=logging.ERROR,  # what others send is no event: it could fill a terminal
            access_log=False,  # nobody is to find there who has looked at what
            proxy_headers=False,
            server_header=False,
            date_header=False,
            backlog=most_open // TURNS,
            timeout_keep_alive=60,  # longer than our patience
            timeout_graceful_shutdown=2,
            h11_max_incomplete_event_size=LARGEST_HEAD,
        )
        super().__init__(config)
        self._dashboard = dashboard
        self._eased = 0.0
        self._ready = ready
        self._let_go = let_go

    async def startup(self, sockets: Sequence[socket.socket] | None = None) -> None:
        await super().startup([*(sockets or ())])
        for one in sockets or ():
            one.listen(QUEUE)  # asyncio has one number for this and for how many it accepts in one turn
        asyncio.get_running_loop().set_exception_handler(self._on_error)
        self._ready()

    def _on_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if "socket" not in context or not isinstance(context.get("exception"), OSError):
            loop.default_exception_handler(context)
        elif loop.time() > self._eased + RETRY / 2:  # it says so for each of those it wanted to accept in this turn
            if not self._eased:
                _log.warning("No file descriptor is left (ulimit -n): connections that say nothing are closed")
            self._eased = loop.time()
            make_room(self.server_state.connections, len(self.server_state.connections) // 2)

    async def on_tick(self, counter: int) -> bool:
        if counter % 5 == 0:  # twice a second
            for one in [*self.server_state.connections]:
                if isinstance(one, Protocol):
                    one.lose_patience()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._dashboard.stop()
        await super().shutdown(sockets)
        self._let_go()  # now: after this the signal is sent again, which may be the end of the process
