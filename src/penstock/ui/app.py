"""The application behind the guard: pages, answers, streams and actions, as the route that was found says.

The only module that knows Starlette.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from penstock.exceptions import StoreUnavailable
from penstock.store.base import StoreMissing
from penstock.ui import asking, live
from penstock.ui.actions import Actions, Replayed
from penstock.ui.answers import about
from penstock.ui.front import File, at_depth
from penstock.ui.guard import LARGEST_BODY, Guard, Message, Receive, Refusal, Rules, Scope, Send, refuse
from penstock.ui.records import Records
from penstock.ui.routes import ACTION, ASSET, HEALTH, IN_PATH, LIVE, PAGE, READ, Found

READING, WATCHING = 4, 2  # threads
LONGEST_LINE, LONGEST_ANSWER = 1.0, 5.0  # seconds on the clock
Made = TypeVar("Made")


class Dashboard:
    """An ASGI application. `files`: the front end, by path."""

    def __init__(
        self,
        home: str,
        rules: Rules,
        files: Mapping[str, File],
        actions: Actions | None = None,
        url: str | None = None,
    ) -> None:
        self._records = Records(home, url)
        self._watching = Records(home, url)  # streams look often: pages do not stand in line behind them
        self._files = files
        self._actions = actions
        self._reading = ThreadPoolExecutor(READING, "penstock-ui-read")
        self._following = ThreadPoolExecutor(WATCHING, "penstock-ui-live")
        self._closing = asyncio.Event()
        self._by_kind: dict[str, Callable[[Request, Found], Awaitable[Response]]] = {
            PAGE: self._page,
            ASSET: self._asset,
            HEALTH: self._health,
            READ: self._read,
            LIVE: self._live,
            ACTION: self._act,
        }
        self.guarded = Guard(self, rules, self._lost)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live_and_die(receive, send)
            return
        found: Found = scope["penstock"]
        try:
            response = await self._by_kind[found.route.kind](Request(scope, receive), found)
        except Exception as error:
            await refuse(_refusal(error), send)
            return
        await response(scope, receive, send)

    async def _live_and_die(self, receive: Receive, send: Send) -> None:
        while True:
            message: Message = await receive()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                self.close()
                return

    def stop(self) -> None:
        """End the streams; to be called in the event loop."""
        self._closing.set()

    def close(self) -> None:
        self._closing.set()
        self._reading.shutdown()
        self._following.shutdown()
        self._records.close()
        self._watching.close()

    async def _in_thread(self, function: Callable[..., Made], *arguments: Any) -> Made:
        """What it returns. Raises `Refusal` if it is not begun soon, or takes long.

        What was begun has more time than what stands in line: each of its statements has its own limit, and on a busy
        machine it would be refused although it is nearly done.
        """
        work = self._reading.submit(function, *arguments)
        answer = asyncio.wrap_future(work)
        for patience in (LONGEST_LINE, LONGEST_ANSWER - LONGEST_LINE):
            await asyncio.wait((answer,), timeout=patience)
            if answer.done():
                return answer.result()
            if work.cancel():  # not of what runs: it goes on to its end, which nobody waits for
                break
        answer.cancel()
        raise Refusal(503, "this would take too long now", "ask again in a moment", **{"retry-after": "2"})

    async def _in_other_thread(self, function: Callable[..., Made], *arguments: Any) -> Made:
        return await asyncio.get_running_loop().run_in_executor(self._following, function, *arguments)

    # --- the kinds ---

    async def _page(self, request: Request, found: Found) -> Response:
        return _file(at_depth(self._files["/index.html"], request.scope["raw_path"].decode("ascii")), "no-cache")

    async def _lost(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The page, which says that there is nothing at this address."""
        file = at_depth(self._files["/index.html"], scope["raw_path"].decode("ascii"))
        await _file(file, "no-cache", 404)(scope, receive, send)

    async def _asset(self, request: Request, found: Found) -> Response:
        file = self._files.get(request.scope["raw_path"].decode("ascii"))
        if file is None:
            raise Refusal(404, "there is no such file in the front end")
        return _file(file, "public, max-age=31536000, immutable")  # a file that changes has another name

    async def _health(self, request: Request, found: Found) -> Response:
        return _json({"schema": 1, "ok": True})

    async def _read(self, request: Request, found: Found) -> Response:
        asked = _asked(request, found)
        if found.route.answer is None:
            return _json(self._told(asked))
        document = await self._in_thread(found.route.answer, self._records, asked)
        if found.route.answer is about.answer and self._actions is not None:
            document = {**document, "actions": True, "nonce": self._actions.nonce()}
        return _json(document)

    def _told(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        if self._actions is None:
            raise Refusal(404, "the dashboard only looks", "start it with --allow-actions")
        return self._actions.told(asked["run"])

    async def _live(self, request: Request, found: Found) -> Response:
        query = request.scope["query_string"].decode("ascii", "replace")
        stream = live.Stream(self._watching, live.view_of(query), self._in_other_thread, self._closing)
        return _Stream(stream.events())

    async def _act(self, request: Request, found: Found) -> Response:
        if self._actions is None:
            raise Refusal(403, "the dashboard only looks", "start it with --allow-actions")
        action = asking.in_path("action", IN_PATH["action"], found.in_path["action"])
        run_id, nonce = _wanted(await _body_of(request))
        await self._in_thread(self._records.get, run_id)
        client = request.client.host if request.client else "?"
        return _json(self._actions.start(action, run_id, nonce, client), 202)


def _asked(request: Request, found: Found) -> dict[str, Any]:
    query = request.scope["query_string"].decode("ascii", "replace")
    values = {name: asking.in_path(name, IN_PATH[name], segment) for name, segment in found.in_path.items()}
    return {**asking.read(query, found.route.parameters), **values}


async def _body_of(request: Request) -> bytes:
    """Up to the length that the guard has checked, whatever else is sent."""
    parts: list[bytes] = []
    async for part in request.stream():
        parts.append(part)
        if sum(map(len, parts)) > LARGEST_BODY:
            raise Refusal(413, "the body is too large")
    return b"".join(parts)


def _wanted(body: bytes) -> tuple[str, str]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, "the body is no JSON") from error
    if not isinstance(document, dict) or set(document) != {"run", "nonce"}:
        raise Refusal(400, 'the body must be {"run": ID, "nonce": NONCE}')
    run_id, nonce = document["run"], document["nonce"]
    if not isinstance(run_id, str) or not isinstance(nonce, str):
        raise Refusal(400, "run and nonce must be texts")
    return asking.parsed("run", asking.run_id(), run_id), nonce


def _refusal(error: Exception) -> Refusal:
    status = next(
        (status for kind, status in _STATUSES if isinstance(error, kind)),
        500,
    )
    if isinstance(error, Refusal):
        return error
    if status == 500:
        live.log.exception("An answer of the dashboard failed")
        return Refusal(500, f"the dashboard has failed: {type(error).__name__}", "its terminal says more")
    headers = {"retry-after": "2"} if status == 503 else {}
    return Refusal(status, str(error.args[0] if isinstance(error, LookupError) and error.args else error), **headers)


_STATUSES: tuple[tuple[type[Exception], int], ...] = (
    (asking.Refused, 400),
    (Replayed, 409),
    (StoreMissing, 404),
    (StoreUnavailable, 503),
    (LookupError, 404),
)


def _json(document: Mapping[str, Any], status: int = 200) -> Response:
    return Response(live.as_json(document), status, {"cache-control": "no-store"}, "application/json")


def _file(file: File, caching: str, status: int = 200) -> Response:
    return Response(file.content, status, {"cache-control": caching, "content-type": file.kind})


class _Stream(StreamingResponse):
    """Server-sent events; closed also when the client goes away."""

    def __init__(self, events: AsyncIterator[bytes]) -> None:
        super().__init__(events, 200, {"cache-control": "no-store", "x-accel-buffering": "no"}, "text/event-stream")
        self._events = events

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            close = getattr(self._events, "aclose", None)
            if close is not None:
                with suppress(RuntimeError):
                    await close()
