"""Turning recorded values into what a terminal, or a program, can take."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from datetime import datetime
from typing import Any

SCHEMA = 1
"""Version of the JSON documents: grows when a field changes its meaning or goes away."""


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


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode()


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Left-aligned columns, two blanks apart."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (header, *rows)
    )


def moment(seconds: float | None, form: str = "%Y-%m-%d %H:%M:%S") -> str:
    """Local time."""
    try:
        return "-" if seconds is None else datetime.fromtimestamp(seconds).strftime(form)
    except (ValueError, OverflowError, OSError):
        return "?"


def duration(seconds: float | None) -> str:
    """A length of time in the two units that matter: 12 ms, 4.2 s, 3 min 20 s, 2 h 5 min."""
    if seconds is None or not math.isfinite(seconds):
        return "-"
    if seconds < 0.9995:
        return f"{max(0.0, seconds) * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def plural(number: int, word: str) -> str:
    return f"{number:,} {word}" if number == 1 else f"{number:,} {word}s"
