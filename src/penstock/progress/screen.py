"""Lines that stay below everything else that this process writes to a terminal.

The cursor rests on an empty row above these lines, not below them. So whatever is written past us (by a subprocess, by
C code) comes before them and is never overwritten, nothing depends on how a terminal rearranges rows when its width
changes, and taking the lines away is one command: clear from here to the end.

What this process writes itself comes by us: the `write` of the stream objects is wrapped, not the streams replaced, so
those who got hold of `sys.stderr` long ago (log handlers, progress bars) are seen as well. While somebody's line is
unfinished (a prompt, another progress bar) nothing is drawn, for where the cursor is then we do not know.
"""

from __future__ import annotations

import os
import re
import sys
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TextIO

_CLEAR = "\x1b[J"
# A line that is wider than we believe, because the terminal has just changed or disagrees about a character, is cut:
# if it were wrapped we would come back to the wrong row.
_NO_WRAPPING, _WRAPPING = "\x1b[?7l", "\x1b[?7h"
_LEAST_PAUSE = 0.01  # seconds between two drawings that follow something written: a flood of lines is not to be slowed
_ROWS_FOR_OTHERS = 3  # of the terminal's height
_END = 1_000  # characters of a text that say how it leaves the cursor
# Text after which the cursor is at the beginning of an empty line: a line's end, an erased line, a blanked one.
_FINISHED = re.compile(r"(?:\n|\x1b\[2K|(?:^|\r) *\r)(?:\r|\x1b\[[\d;]*m|\x1b\[\?25[hl])*\Z")

_open_screens: weakref.WeakSet[Screen] = weakref.WeakSet()


class Screen:
    """The lower end of the terminal that `stream` writes to. Thread-safe. No method raises because of the terminal."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.RLock()  # reentrant: a signal handler may write
        self._frame = ""
        self._drawn = False
        self._unfinished = False
        self._may_draw_at = 0.0
        self._wrapped: list[tuple[TextIO, Any, Any]] = []  # stream, its `write` as it was, ours
        self._write: Callable[[str], object] = stream.write

    def open(self) -> None:
        """Begin to watch what is written."""
        for stream in {id(stream): stream for stream in (self._stream, sys.stdout)}.values():
            if stream is self._stream or _same_terminal(stream, self._stream):
                self._wrap(stream)
        _open_screens.add(self)

    def _wrap(self, stream: TextIO) -> None:
        original = stream.write

        def write(text: str, /) -> int:
            return self._write_through(stream, original, text)

        with suppress(AttributeError, TypeError):  # not a stream whose attributes can be set
            stream.write = write  # type: ignore[method-assign]
            self._wrapped.append((stream, original, write))

    @property
    def plain(self) -> bool:
        """Whether it takes ASCII only."""
        try:
            return "━─…".encode(self._stream.encoding or "ascii") == b""
        except (UnicodeError, LookupError):
            return True

    def size(self) -> tuple[int, int]:
        """Width of the terminal, and how many lines there is room for."""
        try:
            width, height = os.get_terminal_size(self._stream.fileno())
        except (OSError, ValueError):
            width = height = 0
        return width or 80, max(1, (height or 24) - _ROWS_FOR_OTHERS)

    def in_foreground(self) -> bool:
        """Whether the terminal is this program's at the moment: not if the shell has put it into the background."""
        try:
            return os.tcgetpgrp(self._stream.fileno()) == os.getpgrp()
        except (OSError, ValueError):
            return True

    def show(self, lines: Sequence[str]) -> None:
        """Have these lines seen from now on. Not wider than the terminal, and no more than there is room for.

        Nothing is shown where what others write would not be noticed, or when the terminal is gone.
        """
        if not self._wrapped:
            return
        encoded = [_encodable(line, self._stream) for line in lines]
        with self._lock:
            # Line by line over what is there: to clear everything first would flicker. Each is cleared before it is
            # written: after it, the cursor may be on its last character.
            body = "".join(f"\r\n\x1b[K{line}" for line in encoded)
            self._frame = f"{_NO_WRAPPING}{body}\r\n{_CLEAR}\x1b[{len(lines) + 1}A\r{_WRAPPING}" if lines else ""
            if not self._unfinished:
                self._draw(self._frame or _CLEAR)
                self._drawn = bool(lines)

    def leave(self, lines: Sequence[str]) -> None:
        """Write lines that are to stay, above those that are shown."""
        text = "".join(f"{_encodable(line, self._stream)}\n" for line in lines)
        with self._lock:
            before = _CLEAR if self._drawn else "\n" if self._unfinished else ""
            self._unfinished = self._drawn = False
            self._draw(before + text + self._frame)
            self._drawn = bool(self._frame)

    def close(self) -> None:
        """Take the lines away; everybody writes as before."""
        self.show(())
        _open_screens.discard(self)
        with self._lock:
            self._unwrap()

    def abandon(self) -> None:
        """Take the lines away because the process ends at this moment. Takes no lock."""
        if self._drawn:
            with suppress(OSError, ValueError):
                os.write(self._stream.fileno(), _CLEAR.encode())

    def _unwrap(self) -> None:
        for stream, original, ours in self._wrapped:
            if vars(stream).get("write") is ours:  # else somebody has wrapped it again, and ours just passes on
                del stream.write
                if stream.write != original:
                    stream.write = original  # type: ignore[method-assign]
        self._wrapped.clear()
        self._frame = ""
        self._drawn = False

    def _draw(self, text: str) -> None:
        try:
            self._write(text)
            self._stream.flush()
        except (OSError, ValueError):  # the terminal is gone
            self._unwrap()

    def _write_through(self, stream: TextIO, write: Callable[[str], int], text: str) -> int:
        with self._lock:
            if not self._frame or type(text) is not str or not text:
                return write(text)
            finished = _FINISHED.search(text[-_END:]) is not None
            redraws = finished and time.monotonic() >= self._may_draw_at
            before, after = _CLEAR if self._drawn else "", self._frame if redraws else ""
            self._drawn, self._unfinished = redraws, not finished
            write(before + text + after)
            if redraws:
                self._may_draw_at = time.monotonic() + _LEAST_PAUSE
            if before or after:
                stream.flush()  # the next one may come by the other stream
            return len(text)


def _same_terminal(one: TextIO | None, other: TextIO) -> bool:
    try:
        return one is not None and one.isatty() and os.fstat(one.fileno()).st_rdev == os.fstat(other.fileno()).st_rdev
    except (OSError, ValueError, AttributeError):
        return False


def _encodable(text: str, stream: TextIO) -> str:
    encoding = stream.encoding or "utf-8"
    return text.encode(encoding, "replace").decode(encoding)


def _forget_in_child() -> None:
    """A forked child writes past us: the lock may have been held, and the thread that draws is not there."""
    for screen in list(_open_screens):
        screen._lock = threading.RLock()
        screen._unwrap()
        _open_screens.discard(screen)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
