"""Scripts without the main guard, where workers would run the script again to begin with."""

from __future__ import annotations

import ast
import multiprocessing.process
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_MESSAGE = """\
{name} starts processes that import this script, which would run it again. Put what starts the flow under a guard:

    if __name__ == "__main__":
        {line}"""


def require_main_guard(name: str, *, only_in_workers: bool = False) -> None:
    """Raise `RuntimeError` that shows the guard, if the main program is a script that is executing outside of one.

    `only_in_workers`: if this is a process that is importing it just now, in any case; else it need not be one.
    """
    if getattr(multiprocessing.process.current_process(), "_inheriting", False):
        raise RuntimeError(_MESSAGE.format(name=name, line="..."))
    frame = None if only_in_workers else _main_frame()
    if frame is not None:
        line = _unguarded(frame.f_code.co_filename, frame.f_lineno)
        if line is not None:
            raise RuntimeError(_MESSAGE.format(name=name, line=line))


@contextmanager
def hidden_input() -> Iterator[None]:
    """Workers would look for the file "<stdin>" if the main program comes from standard input."""
    main: Any = sys.modules.get("__main__")
    path = getattr(main, "__file__", None)
    if path is None or os.path.exists(path):
        yield
        return
    del main.__file__
    try:
        yield
    finally:
        main.__file__ = path


def _main_frame() -> FrameType | None:
    """Where the main program's own text is being executed by the main thread; None: in a notebook, say."""
    main: Any = sys.modules.get("__main__")
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    if not _is_imported_by_workers(main):
        return None
    while frame is not None and not (frame.f_globals is main.__dict__ and frame.f_code.co_name == "<module>"):
        frame = frame.f_back
    return frame


def _is_imported_by_workers(main: Any) -> bool:
    """As multiprocessing decides it: by name what `python -m` has started, but no package; else by its file."""
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return str(spec.name).rpartition(".")[2] != "__main__"
    return getattr(main, "__file__", None) is not None


def _unguarded(path: str, line: int) -> str | None:
    """The statement at that line, unless it is part of an `if` that asks for `__name__`."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
        statements = ast.parse(text).body
    except (OSError, SyntaxError, ValueError):
        return None
    for statement in statements:
        if statement.lineno <= line <= (statement.end_lineno or line):
            return None if _is_guard(statement) else ast.unparse(statement).splitlines()[0]
    return None


def _is_guard(statement: ast.stmt) -> bool:
    asked = ast.walk(statement.test) if isinstance(statement, ast.If) else ()
    return any(isinstance(node, ast.Name) and node.id == "__name__" for node in asked)
