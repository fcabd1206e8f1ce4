"""Exceptions on their way from the library to the code that called it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from penstock import settings
from penstock._core import tracebacks
from penstock._engine.context import current_run
from penstock.exceptions import ConfigurationError

P = ParamSpec("P")
T = TypeVar("T")


def leave(error: BaseException) -> None:
    """Hide the library's frames of an exception that is about to be raised again by a bare `raise`.

    Such a `raise` adds no frame for the function that it is in, so nothing is left of the library. Not an excepthook:
    debuggers, notebooks and loggers show `__traceback__` as well.
    """
    if not isinstance(error, GeneratorExit) and not _all_frames_wanted():
        tracebacks.hide(error)


def leaves(function: Callable[P, T]) -> Callable[P, T]:
    """Decorate a function from which exceptions go to the user, where a frame more on the way in does no harm."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except BaseException as error:
            leave(error)
            raise

    return call


def _all_frames_wanted() -> bool:
    run = current_run.get()
    try:
        return (settings.current() if run is None else run.engine.settings).traceback == "full"
    except ConfigurationError:
        return False  # which may be the very error that is on its way
