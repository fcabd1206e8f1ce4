"""What the dashboard looks through, whichever store is behind: it can do nothing else, and for a short time only.

A statement may use `QUICK` seconds; those few that look at every run of a tree may use `THOROUGH`, which is still less
than what is in the way of those who write. By which clock is the store's to say: see `Window.clock`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import cache
from threading import local
from typing import Any, Protocol

from penstock.exceptions import StoreUnavailable
from penstock.store.base import Reader
from penstock.store.opening import statements

QUICK, THOROUGH = 0.2, 0.8  # seconds


class TookTooLong(StoreUnavailable):
    """A question would have taken longer to answer than it may."""


class Window(Reader, Protocol):
    """A reader whose connection is for looking only, whatever it is asked."""

    clock: Callable[[], float]
    """Seconds that are used up by looking."""

    def view(self, name: str) -> str:
        """The query of this name."""
        ...

    def ask_within(self, seconds: float, view: str, parameters: dict[str, object]) -> list[tuple[Any, ...]]:
        """The rows that answer such a query; raises `TookTooLong`."""
        ...

    def version(self) -> object:
        """Another one whenever somebody has written."""
        ...


@cache
def view(name: str, file: str = "views.sql") -> str:
    """The query of this name in a file beside this module, else in views.sql."""
    here = os.path.dirname(__file__)
    views = {**statements(os.path.join(here, "views.sql")), **statements(os.path.join(here, file))}
    return re.sub(r"\{(\w+)\}", lambda part: views[part[1]], views[name])


class Allowance(local):
    """How many seconds the next statement may take; of each thread, because several may be in line for a connection."""

    seconds = QUICK


def too_long(seconds: float) -> TookTooLong:
    return TookTooLong(
        f"looking for this was given up after {seconds:.3g} s: it would be in the way of runs"
        " that go on. Ask for less: a shorter time, a task, no text"
    )
