"""Texts as modules: for tests of what an edit does to the digest of a function."""

from __future__ import annotations

import importlib.util
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock._core import source

Loader = Callable[..., Any]
NAME = "module_with_code"

BASE = """
LIMIT = 3
OTHER = 4

def helper(x):
    return x + deeper(x)

def deeper(x):
    return x * OTHER

def unrelated(x):
    return x

def f(x, by=2, *, scale=1.0):
    total = helper(x)
    if total > LIMIT:
        return [y for y in range(total)]
    return total
"""


def loading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Loader]:
    """Imports a text as a module, always of the same name but each time from another file."""
    count = 0

    def load(text: str, edited: str | None = None) -> Any:
        nonlocal count
        count += 1
        source._bodies.clear()  # two texts may have equal functions, of which only one is still in its file
        path = tmp_path / str(count) / f"{NAME}.py"
        path.parent.mkdir()
        path.write_text(textwrap.dedent(text), "utf-8")
        spec = importlib.util.spec_from_file_location(NAME, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, NAME, module)
        spec.loader.exec_module(module)
        if edited is not None:
            path.write_text(textwrap.dedent(edited), "utf-8")
        return module

    yield load
    source._indexes.clear()


def executed(text: str) -> Any:
    """The function `f` of a text that no file has."""
    space: dict[str, Any] = {"__name__": NAME}
    exec(compile(textwrap.dedent(text), "<nowhere>", "exec", dont_inherit=True), space)
    return space["f"]
