"""Views that are followed: the same answer again whenever it has changed, as server-sent events.

Nothing is kept between two looks but what was sent last, so a stream that is lost can be begun anew at any time. It
looks at most every half second, and takes a rest of nine times what a look has cost.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from penstock.exceptions import StoreUnavailable
from penstock.store.base import RunRow
from penstock.ui import asking
from penstock.ui.answers import logs
from penstock.ui.answers.documents import document
from penstock.ui.guard import problem
from penstock.ui.records import Records
from penstock.ui.routes import VIEWS, Answer

PAUSE = 0.5  # seconds between two looks, at least
REST = 9  # times what a look has cost
BEAT = 15.0  # seconds of silence
MOVING = 1.0  # seconds after which a picture whose right edge is now is drawn again, although nothing was written
STILL = 99  # times what drawing it has cost, at least
BACK = 2_000  # numbers of lines that are looked at again
PAGES = 10  # of lines, at one look
MOVES = frozenset({"timeline"})

log = logging.getLogger("penstock.ui")
_view_names = asking.one_of(*VIEWS, needed=True)


class View(NamedTuple):
    name: str
    answer: Answer
    asked: dict[str, Any]


def view_of(query: str) -> View:
    """What a stream is to show. Raises `asking.Refused`."""
    names = [value for name, value in asking.split(query) if name == "view"]
    if len(names) != 1:
        raise asking.Refused(f"view must be {_view_names.expected}")
    name = asking.parsed("view", _view_names, names[0])
    answer, parameters = VIEWS[name]
    asked = asking.read(query, {"view": _view_names, **parameters})
    if name == "logs" and (asked["before"], asked["around"]) != (None, None):
        raise asking.Refused("a log is followed after a line, or from its last lines on")
    return View(name, answer, asked)


def as_json(document: Mapping[str, Any]) -> bytes:
    """In ASCII: a lone surrogate in a recorded text has no bytes in UTF-8."""
    return json.dumps(document, separators=(",", ":"), allow_nan=False).encode()


def event(name: str, data: bytes) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + data + b"\n\n"


class Stream:
    """`in_thread`: how to call what blocks. `closing`: set when the server is to end."""

    def __init__(
        self, records: Records, view: View, in_thread: Callable[..., Awaitable[Any]], closing: asyncio.Event
    ) -> None:
        self._records = records
        self._view = view
        self._in_thread = in_thread
        self._closing = closing
        self._last: bytes = b""
        self._version: object = None
        self._looked = 0.0
        self._cost = 0.0  # of the last answer, in seconds
        self._after: int | None = view.asked.get("after") if view.name == "logs" else 0
        self._known = self._after or 0  # up to there the page has the lines
        self._sent: set[int] = set()  # numbers of lines, the latest
        self._is_behind = False  # there is more than one look may hand out, or count

    async def events(self) -> AsyncIterator[bytes]:
        spoke = time.monotonic()
        yield b": here\n\n"
        while not self._closing.is_set():
            began = time.monotonic()
            found, is_over = await self._in_thread(self._look)
            cost = time.monotonic() - began
            for one in found:
                spoke = time.monotonic()
                yield one
            if is_over:
                yield event("end", b"{}")
                return
            if time.monotonic() - spoke > BEAT:
                spoke = time.monotonic()
                yield b": beat\n\n"
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._closing.wait(), max(PAUSE, REST * cost))

    def _look(self) -> tuple[list[bytes], bool]:
        """The events since the last look, and whether there will be none any more."""
        try:
            self._records.look_for_deaths()
            version = self._records.version()
            if version == self._version and not self._has_moved():
                return [], False
            began = time.monotonic()
            # The run is looked at first: all that belongs to it was recorded before its end was.
            run = self._run()
            found = self._lines(run) if run is not None and self._view.name == "logs" else self._document()
            self._version, self._looked = None if self._is_behind else version, time.monotonic()
            self._cost = self._looked - began
            return found, run is not None and run.ended is not None and not self._is_behind
        except (StoreUnavailable, LookupError) as error:
            self._version = None
            return self._changed("problem", as_json(problem(503, str(error)))), isinstance(error, LookupError)

    def _has_moved(self) -> bool:
        return self._view.name in MOVES and time.monotonic() - self._looked > max(MOVING, STILL * self._cost)

    def _run(self) -> RunRow | None:
        run_id = self._view.asked.get("id")
        return None if run_id is None else self._records.get(run_id)

    def _document(self) -> list[bytes]:
        found = self._view.answer(self._records, self._view.asked)
        self._is_behind = not _is_whole(found)
        return self._changed("document", as_json(found))

    def _changed(self, name: str, data: bytes) -> list[bytes]:
        if data == self._last:
            return []
        self._last = data
        return [event(name, data)]

    def _lines(self, run: RunRow) -> list[bytes]:
        """Also those that were there before their runs were, and so could not be found by the look before."""
        if self._after is None:
            return self._last_lines()
        search = logs.Search(self._records, run, self._view.asked)
        found: list[bytes] = []
        seen: set[int] = set()
        at = max(self._known, self._after - BACK)
        while at < search.last and len(found) < PAGES:
            page = search.after(at, self._view.asked["limit"])
            at = max(page.upto, at)
            fresh = [one for one in page.lines if one.number not in self._sent]
            seen.update(one.number for one in page.lines)
            if fresh:
                found.append(event("lines", as_json(document(columns=logs.as_columns(fresh), after=at))))
        self._sent, self._after, self._is_behind = seen, max(at, self._after), at < search.last
        return found

    def _last_lines(self) -> list[bytes]:
        """To begin with, for a page that has no lines yet."""
        page = logs.answer(self._records, self._view.asked)
        self._after = self._known = page["last"]
        return [event("document", as_json(page))]


def _is_whole(document: Mapping[str, Any]) -> bool:
    """Whether nothing was left out for lack of time: see `answers.runs` and `answers.flows`."""
    runs = document.get("runs", {}).get("columns", {}).get("id", ())
    return None not in document.get("tasks", {}).get("completed", ()) and document.get("counted", len(runs)) == len(
        runs
    )
