"""Sphinx: fills in what pages leave to the code, where they say `<!-- generated: commands -->`."""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import EnumType

import commands
import dashboard_api
import machine
from sphinx.application import Sphinx
from sphinx.ext.napoleon import Config
from sphinx.ext.napoleon.docstring import GoogleDocstring
from sphinx.pycode import ModuleAnalyzer

import api
from penstock.settings import reference

GENERATORS: dict[str, Callable[..., str]] = {
    "api": api.page,
    "commands": commands.page,
    "dashboard-request": dashboard_api.request,
    "dashboard-routes": dashboard_api.routes,
    "dashboard-views": dashboard_api.views,
    "machine": lambda: f"```{{raw}} html\n{machine.drawing()}\n```",
    "settings": reference.markdown,
    "transitions": machine.table,
}


def fill(app: Sphinx, name: str, source: list[str]) -> None:
    """What stands in a page is text, so links, headings and the search index come as for any other page."""
    source[0] = re.sub(r"^<!-- generated: (.*?) -->$", lambda found: _text(*found[1].split()), source[0], flags=re.M)


def _text(kind: str, *arguments: str) -> str:
    return GENERATORS[kind](*arguments)


def forget_overloads(app: Sphinx, found: object, bound_method: bool) -> None:
    """One signature is for people; eight overloads of it are for type checkers."""
    module = getattr(found, "__module__", None)
    if isinstance(module, str) and module.startswith("penstock"):
        analyzer = ModuleAnalyzer.for_module(module)
        analyzer.analyze()
        analyzer.overloads.clear()


def hide_constructor(app: Sphinx, what: str, name: str, found: object, *rest: object) -> tuple[str, None] | None:
    """No signature for what only the library makes."""
    made_elsewhere = name.rpartition(".")[2] in api.MADE_BY_THE_LIBRARY or isinstance(found, EnumType)
    return ("", None) if what == "class" and made_elsewhere else None


def mark_up(app: Sphinx, what: str, name: str, found: object, options: object, lines: list[str]) -> None:
    """Docstrings as reStructuredText. Napoleon as an extension would take `the name: a text` for a type and a text."""
    config = Config(napoleon_use_rtype=False)  # its own class, whatever the annotation says
    lines[:] = GoogleDocstring(api.marked_up("\n".join(lines)), config).lines()  # type: ignore[arg-type]


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("source-read", fill)
    app.connect("autodoc-before-process-signature", forget_overloads)
    app.connect("autodoc-process-signature", hide_constructor)
    app.connect("autodoc-process-docstring", mark_up)
    return {"parallel_read_safe": True}
