"""Before multiprocessing starts workers: scripts without the main guard, which they would run again; Ctrl-C."""

from __future__ import annotations

import ast
import multiprocessing.process
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
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


def require_children(name: str) -> None:
    """Raise `RuntimeError` if this is a process that multiprocessing does not allow to start others."""
    if multiprocessing.process.current_process().daemon:
        raise RuntimeError(
            f"{name} cannot be started here: this is a worker process, which may not start others. Use the cluster "
            "that there is (`address=...`), or threads (`cluster_kwargs={'processes': False}`)"
        )


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


@contextmanager
def deaf_to_interrupts() -> Iterator[None]:
    """Ctrl-C reaches all processes of a terminal. Workers, whose ends would be losses, leave it to this one.

    What a thread blocks, the threads and processes that it starts do, too: also workers that are started again.
    """
    resource_tracker.ensure_running()  # which would unblock it
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


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
