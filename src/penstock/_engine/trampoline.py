"""Runs that wake each other go on one after another on a thread, never inside each other.

A chain of ten thousand tasks that all finish at once would otherwise be ten thousand nested calls.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

_logger = logging.getLogger("penstock")
_Step = tuple[Callable[[Any, Any], None], Any, Any]


class _Backlog(threading.local):
    steps: deque[_Step] | None = None


_backlog = _Backlog()


def bounce(action: Callable[[Any, Any], None], run: Any, value: Any) -> None:
    """Call `action(run, value)` now, or after the step that this thread is in the middle of."""
    steps = _backlog.steps
    if steps is not None:
        steps.append((action, run, value))
        return
    steps = _backlog.steps = deque()
    try:
        _take(action, run, value)
        while steps:
            _take(*steps.popleft())
    finally:
        _backlog.steps = None


def drain() -> None:
    """Do what has piled up on this thread. Called before it blocks: the wait may be for just that."""
    steps = _backlog.steps
    while steps:
        _take(*steps.popleft())


def _take(action: Callable[[Any, Any], None], run: Any, value: Any) -> None:
    try:
        action(run, value)
    except Exception:  # a defect in the engine: one run is lost, the thread and the other runs are not
        _logger.exception("internal error while advancing %s; please report it", run)
