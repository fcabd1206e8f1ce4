"""What the tests and the program that executes their cells have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

READY = "ready to be interrupted"  # a cell that prints this is interrupted


class Cell(NamedTuple):
    """What a cell gave."""

    stdout: str
    stderr: str
    text: str | None  # of its value
    html: str | None
    error: str | None
    traceback: str


Execute = Callable[[Any], list[Cell]]
