"""Exceptions of users, which may refuse to be shown, noted on or re-raised: what can be done all the same."""

from __future__ import annotations

import traceback

from penstock._core.tracebacks import name_cells

_LONGEST = 200  # characters of an exception in a list


def text_of(error: BaseException) -> str:
    """What the exception says; if it cannot say it, that."""
    try:
        return str(error)
    except Exception as broken:
        return f"(its text cannot be shown: {type(broken).__name__})"


def describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {text_of(error)}"


def brief(error: BaseException) -> str:
    """`describe` on one line of bounded length."""
    text = " ".join(describe(error).split())
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def traceback_of(error: BaseException) -> str:
    try:
        return name_cells("".join(traceback.format_exception(error)))
    except Exception as broken:
        return f"(the traceback cannot be shown: {type(broken).__name__})"


def add_note(error: BaseException, note: str) -> None:
    """Like `error.add_note`, once for each note; an exception that takes no attributes does without."""
    try:
        if note not in getattr(error, "__notes__", ()):
            error.add_note(note)
    except Exception:
        return
