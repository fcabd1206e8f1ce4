"""Ways to break the library that the crash tests must find: a test that nothing can fail shows nothing.

Each is carried out in the process that is going to be killed, and nowhere else.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any


def _replace(owner: Any, name: str, replacement: Callable[..., Any]) -> Callable[..., Any]:
    """Raises AttributeError if it is called something else by now: a mutant that changes nothing proves nothing."""
    original: Callable[..., Any] = getattr(owner, name)
    setattr(owner, name, replacement)
    return original


def acknowledge_before_commit() -> None:
    """The record follows when it is convenient."""
    from penstock._engine.recorder import Recorder

    _replace(Recorder, "commit", lambda self: True)


def write_files_late() -> None:
    """The record names the file of a large value before the file is there."""
    import threading

    from penstock.results import files

    def later(*arguments: Any, **options: Any) -> None:
        threading.Timer(0.05, write, arguments, options).start()

    write = _replace(files, "write", later)


def write_files_in_place() -> None:
    """Under its own name from the first byte on, and whatever the disk says."""
    from penstock.results import files

    def write(directory: Any, name: str, data: bytes, *, durable: bool) -> None:
        os.makedirs(directory, exist_ok=True)
        try:
            with open(os.path.join(directory, name), "wb", buffering=0) as file:
                file.write(data)
        except OSError:
            pass

    _replace(files, "write", write)


def restore_nothing() -> None:
    """What was completed before is computed again."""
    from penstock._engine.past import Past

    _replace(Past, "at", lambda self, position: None)


def claim_without_looking() -> None:
    """Whoever wants to go on with a run may."""
    from penstock import resuming

    _replace(resuming, "_claim", lambda *_: None)


def keep_quiet() -> None:
    """What cannot be stored is nobody's business."""
    import logging

    logging.disable(logging.CRITICAL)


MUTANTS: dict[str, Callable[[], None]] = {
    mutant.__name__: mutant
    for mutant in (
        acknowledge_before_commit,
        write_files_late,
        write_files_in_place,
        restore_nothing,
        claim_without_looking,
        keep_quiet,
    )
}
