"""What a TARGET consists of: where a flow is defined, and which one is meant."""

from __future__ import annotations

import os

TARGET_HELP = (
    "TARGET is file.py:flow or package.module:flow, by the name of the function or of the flow; the part after the"
    " colon may be left out where there is only one flow."
)
"""For the help of commands that take one."""


def split(target: str) -> tuple[str, str]:
    """File or module, and flow; the flow is empty if none is named."""
    if os.path.exists(target):  # with a colon in its name
        return target, ""
    place, _, name = target.partition(":")
    return place, name


def is_file(place: str) -> bool:
    """Whether it means a file rather than a module."""
    return place.endswith(".py") or os.sep in place or os.path.isfile(place)
