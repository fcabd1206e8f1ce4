"""Turning recorded values into what a terminal, or a program, can take."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import time
import unicodedata
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import click

from penstock.tallies import duration as duration
from penstock.tallies import plural as plural

SCHEMA = 1
"""Version of the JSON documents: grows when a field changes its meaning or goes away."""


COLOURS = {
    "COMPLETED": "green",
    "FAILED": "red",
    "CRASHED": "magenta",
    "CANCELLED": "yellow",
    "RUNNING": "cyan",
    "WAITING": "blue",
}
"""Of states, by status."""

_JSON_COLUMNS = frozenset({"parameters", "tags", "info"})


def as_json(document: dict[str, Any]) -> str:
    return json.dumps({"schema": SCHEMA, **document}, indent=2, allow_nan=False)


def fields_of(row: Any) -> dict[str, Any]:
    """A row of the store as JSON-able fields. Columns that hold JSON are unpacked."""
    return {name: unpacked(value) if name in _JSON_COLUMNS else _finite(value) for name, value in row._asdict().items()}


def unpacked(text: str | None) -> Any:
    """The value that the JSON `text` stands for; the text itself if it is damaged."""
    try:
        return None if text is None else json.loads(text, parse_constant=lambda _: None)
    except ValueError:
        return text


def _finite(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def printable(text: object) -> str:
    """One line without control characters: a recorded name must not be able to move the cursor."""
    return "".join(char if char.isprintable() else _escaped(char) for char in str(text))


def printable_lines(text: str) -> str:
    """Likewise, on as many lines as it has."""
    return text if text.isprintable() else "\n".join(printable(part.replace("\t", "    ")) for part in text.split("\n"))


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode()


class Shade(str):
    """A cell of a table with a colour, which a terminal shows and a pipe does not get."""

    colour: str | None

    def __new__(cls, text: str, colour: str | None) -> Shade:
        made = super().__new__(cls, text)
        made.colour = colour
        return made


def state_of(row: Any) -> Shade:
    """The name of a run's state, in the colour of its status."""
    return Shade(printable(row.state_name), COLOURS.get(row.status))


def coloured(cell: str, text: str | None = None) -> str:
    """A cell, or `text` in its place, in the cell's colour."""
    shown = str(cell) if text is None else text
    colour = cell.colour if isinstance(cell, Shade) else None
    return shown if colour is None else click.style(shown, fg=colour)


def terminal_width() -> int | None:
    """How many columns a line may have; None where nobody minds: in a pipe or a file."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def columns_of(text: str) -> int:
    """How many columns of a terminal the text takes."""
    return len(text) if text.isascii() else sum(map(_columns, text))


def _columns(char: str) -> int:
    return 0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1


def cut(text: str, width: int | None) -> str:
    """The text, or as much of it as fits, with a mark at its end."""
    if width is None or columns_of(text) <= width:
        return text
    text = text[: 4 * width]  # marks that take no column come with letters that do
    while text and columns_of(text) > width - 1:
        text = text[:-1]
    return f"{text}…"


RIGID = frozenset({"ATTEMPT", "ATTEMPTS", "DURATION", "ID", "START", "STARTED", "STATE"})
"""Columns that say nothing any more when they are cut, by their heads."""
_LEGIBLE = 12  # columns of a text that still say something


def table(header: Sequence[str], rows: Sequence[Sequence[str]], width: int | None = None) -> str:
    """Left-aligned columns, two blanks apart. With `width`, those that can be cut are, until all fit."""
    lines = [header, *rows]
    widths = [max(map(columns_of, column)) for column in zip(*lines, strict=True)]
    if width is not None:
        _fit(widths, width, [place for place, head in enumerate(header) if head not in RIGID])
    return "\n".join(_line(cells, widths) for cells in lines)


def _fit(widths: list[int], width: int, places: Sequence[int]) -> None:
    """Names come first and are to be typed again: so the last columns give way first."""
    excess = sum(widths) + 2 * (len(widths) - 1) - width
    for least in (_LEGIBLE, 1):
        for place in reversed(places):
            given = max(0, min(excess, widths[place] - least))
            widths[place] -= given
            excess -= given


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    shown = [cut(cell, width) for cell, width in zip(cells, widths, strict=True)]
    last = max((place for place, text in enumerate(shown) if text), default=-1)
    padded = [
        coloured(cell, text + " " * (width - columns_of(text) if place < last else 0))
        for place, (cell, text, width) in enumerate(zip(cells, shown, widths, strict=True))
    ]
    return "  ".join(padded[: last + 1])


def when(seconds: float | None) -> str:
    """Local time; on a terminal no more of it than is needed."""
    if terminal_width() is None:
        return moment(seconds)
    today = moment(time.time(), "%Y-%m-%d")
    return moment(seconds, "%H:%M:%S" if moment(seconds, "%Y-%m-%d") == today else "%Y-%m-%d %H:%M")


def moment(seconds: float | None, form: str = "%Y-%m-%d %H:%M:%S") -> str:
    """Local time."""
    try:
        return "-" if seconds is None else datetime.fromtimestamp(seconds).strftime(form)
    except (ValueError, OverflowError, OSError):
        return "?"


def size(count: float) -> str:
    """A number of bytes: 512 bytes, 4.2 kB, 1.3 GB."""
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if count < 999.5 or unit == "TB":
            return f"{count:.0f} {unit}" if unit == "bytes" or count >= 9.95 else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError


def colour_wanted() -> bool | None:
    """Whether texts keep their colours; None: if they go to a terminal."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return True if os.environ.get("FORCE_COLOR") else None
