"""The front end: files that were built before, all read at the start. No path of a request becomes one of a file."""

from __future__ import annotations

import os
from typing import NamedTuple

KINDS = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
}
STATIC = os.path.join(os.path.dirname(__file__), "static")


class NotBuilt(Exception):
    """The front end has not been built."""


class File(NamedTuple):
    content: bytes
    kind: str


def files(directory: str = STATIC) -> dict[str, File]:
    """By the path under which they are asked for. Raises `NotBuilt` if there is no page."""
    names = [os.path.join(place, name) for place, _, names in os.walk(directory) for name in names]
    found = {_path_of(name, directory): _read(name) for name in names if os.path.splitext(name)[1] in KINDS}
    if "/index.html" not in found:
        raise NotBuilt
    return found


def _path_of(name: str, directory: str) -> str:
    return "/" + os.path.relpath(name, directory).replace(os.sep, "/")


def _read(name: str) -> File:
    with open(name, "rb") as file:
        return File(file.read(), KINDS[os.path.splitext(name)[1]])


def at_depth(page: File, path: str) -> File:
    """The page as it is served at a path: its addresses are relative, so a proxy may put any prefix before them."""
    up = b"../" * (path.count("/") - 1)
    return page._replace(content=page.content.replace(b'"./', b'"' + (up or b"./")))
