"""Looks at the flow runs of this process now and then, and shows how they get on.

On a terminal that is a picture below everything else, elsewhere a line of the log from time to time. A flow run does
nothing for it but say that it begins and ends: one thread looks, for as long as there is something to see, and takes
the longer a rest the longer a look has taken. What is slow to load is loaded when the first picture is due.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import time
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from penstock._engine import counting, signals
from penstock.progress.pace import Pace
from penstock.tallies import Group, duration, in_words

if TYPE_CHECKING:
    from penstock._engine.run import Run

_PATIENCE = 1.5  # seconds that a flow run takes before a picture of it is due: loading what draws it takes 15 ms
_PAUSE = 0.25  # seconds between two looks, at least
_REST = 150  # times what a look has cost: less than a percent of one processor
_SOON = 1.0  # seconds after a line of the log until there may be another one, if something that matters has changed

_logger = logging.getLogger("penstock.progress")


class Watched:
    """A flow run that goes on."""

    def __init__(self, root: Run) -> None:
        self.root = root
        self.began = time.monotonic()
        self.pace = Pace(self.began)
        self.shown = False  # there has been a picture of it
        self.said_at = self.began  # the latest line
        self.failing: set[tuple[str, ...]] = set()  # that has been said
        self.unfinished: set[tuple[str, ...]] = set()

    def age(self) -> float:
        return time.monotonic() - self.began

    def groups(self, *, living: bool = True) -> list[Group]:
        groups = counting.groups(self.root, living=living)
        self.pace.note(groups, time.monotonic())
        return groups


class View(Protocol):
    """How it is shown. Called by one thread at a time."""

    def get_ready(self, watched: Sequence[Watched]) -> None:
        """What is to be done once: it does not count as the cost of a look."""
        ...

    def look(self, watched: Sequence[Watched]) -> None: ...
    def end(self, watched: Watched, others: Sequence[Watched]) -> None: ...
    def close(self) -> None: ...


class Follower:
    """The engine's spectator: keeps a list, and a thread that looks through it. No method raises."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._start_afresh()

    def _start_afresh(self) -> None:
        self._watched: dict[Run, Watched] = {}
        self._lock = threading.Lock()
        self._looking = threading.Lock()  # held while the view is used, and before the other one
        self._bell = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self, root: Run) -> None:
        with self._lock:
            self._watched.setdefault(root, Watched(root))
            if self._thread is None:
                self._try(self._start)

    def _start(self) -> None:
        self._bell.clear()
        thread = threading.Thread(target=self._work, name="penstock-progress", daemon=True)
        thread.start()
        self._thread = thread

    def end(self, root: Run) -> None:
        with self._looking:  # else a picture could be drawn that still has it
            with self._lock:
                over, others = self._watched.pop(root, None), list(self._watched.values())
            if over is not None:
                self._try(self._view.end, over, others)

    def stop(self) -> None:
        """Look no more, and be gone."""
        with self._lock:
            thread = self._thread
        self._bell.set()
        if thread is not None:
            thread.join()
        with self._looking:
            self._try(self._view.close)

    def _work(self) -> None:
        pause = _PAUSE
        while not self._bell.wait(pause):
            with self._lock:
                if not self._watched:
                    self._thread = None
                    return
                lost = [root for root in self._watched if root.done]
            for root in lost:  # the engine has failed with it
                self.end(root)
            with self._looking:
                self._try(self._view.get_ready, list(self._watched.values()))
                before = time.thread_time()
                self._try(self._view.look, list(self._watched.values()))
                pause = max(_PAUSE, _REST * (time.thread_time() - before))
        self._thread = None

    def _try(self, action: Any, *arguments: Any) -> None:
        try:
            action(*arguments)
        except Exception:  # to show something is never worth a flow
            _logger.debug("progress cannot be shown", exc_info=True)


class Pictures:
    """On the terminal."""

    def __init__(self) -> None:
        self._screen: Any = None
        self._lines: Any = None
        self._paint: Any = None

    def get_ready(self, watched: Sequence[Watched]) -> None:
        if self._screen is None and _due(watched):
            self._lines = import_module("penstock.progress.lines")
            self._paint = self._lines.painter()
            self._screen = import_module("penstock.progress.screen").Screen(sys.stderr)
            self._screen.open()
            signals.last_act = self._screen.abandon

    def look(self, watched: Sequence[Watched]) -> None:
        due = _due(watched)
        if due and self._screen.in_foreground():
            self._show(due)

    def _show(self, watched: Sequence[Watched]) -> None:
        for one in watched:
            one.shown = True
        self._screen.show(self._drawn(watched))

    def _drawn(self, watched: Sequence[Watched], *, living: bool = True, height: int | None = None) -> list[str]:
        pictures = [self._lines.Picture(one.root.path, one.age(), one.groups(living=living)) for one in watched]
        width, room = self._screen.size()
        lines = self._lines.lines(pictures, width, height or room, plain=self._screen.plain)
        return [self._paint(line) for line in lines]

    def end(self, watched: Watched, others: Sequence[Watched]) -> None:
        if not watched.shown:
            return
        try:
            self._screen.leave(self._drawn([watched], living=False, height=sys.maxsize))
        finally:
            if shown := [one for one in others if one.shown]:
                self._show(shown)
            else:
                self.close()

    def close(self) -> None:
        if self._screen is not None:
            signals.last_act = int
            self._screen.close()
            self._screen = None


def _due(watched: Sequence[Watched]) -> list[Watched]:
    return [one for one in watched if one.shown or one.age() >= _PATIENCE]


class LogLines:
    """In the log of the flow run."""

    def get_ready(self, watched: Sequence[Watched]) -> None: ...

    def look(self, watched: Sequence[Watched]) -> None:
        for one in watched:
            settings, silence = one.root.engine.settings, time.monotonic() - one.said_at
            interval = settings.progress_interval_seconds
            # Unless asked for, there is none about a flow that ends soon: its last line says it all.
            first = settings.progress == "auto" and one.said_at == one.began
            if silence >= (interval if first else min(_SOON, interval)):
                self._look_at(one, silence >= interval)

    def _look_at(self, one: Watched, is_time: bool) -> None:
        groups = one.groups()
        failing = {(*group.path, group.name) for group in groups if group.number("failed", "crashed")}
        unfinished = {(*group.path, group.name) for group in groups if group.ended < group.total}
        if is_time or failing - one.failing or one.unfinished - unfinished:
            text = f"{one.root.path} after {duration(one.age())}: {in_words(groups)}"
            one.root.engine.log(logging.INFO, text, one.root)
            one.said_at, one.failing = time.monotonic(), failing
        one.unfinished = unfinished

    def end(self, watched: Watched, others: Sequence[Watched]) -> None: ...
    def close(self) -> None: ...


_pictures, _log_lines = Follower(Pictures()), Follower(LogLines())


def spectator(mode: str) -> Follower | None:
    """Who is to follow a flow run that begins now. `mode`: the setting, "auto" or "on"."""
    if _is_child():
        return None
    return _pictures if _is_terminal() and (mode == "on" or not os.environ.get("CI")) else _log_lines


def _is_terminal() -> bool:
    try:
        return sys.stderr.isatty() and (os.environ.get("TERM") or "dumb") != "dumb"
    except (AttributeError, ValueError):  # there is none, or it is closed
        return False


def _is_child() -> bool:
    """Whether this is a worker of somebody's process pool: its parent may be showing something on this terminal."""
    process = sys.modules.get("multiprocessing.process")
    return process is not None and process.parent_process() is not None


@atexit.register
def stop() -> None:
    """End the threads and take the pictures away; the next flow run starts anew. Also called at interpreter exit."""
    for follower in (_pictures, _log_lines):
        follower.stop()


def _forget_in_child() -> None:
    for follower in (_pictures, _log_lines):
        follower._start_afresh()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
