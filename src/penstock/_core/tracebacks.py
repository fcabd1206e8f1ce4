"""Tracebacks as users want to see them: the frames of their own code, without those of the library between them."""

from __future__ import annotations

import linecache
import re
from collections.abc import Iterable, Iterator
from types import TracebackType

from penstock._core import notebook
from penstock.exceptions import InternalError

_HERE = __file__.rpartition("_core")[0]
_TESTING = f"{_HERE}testing"  # what runs there are bodies, as a user would write them
_DEFECTS = (InternalError, AssertionError, AttributeError, NameError, IndexError, KeyError)
_INSTALLED = r"[/\\](site-packages|dist-packages|lib[/\\]python[\d.]+)[/\\]|^<frozen "
_PLUMBING = r"[/\\](contextlib|(asyncio|concurrent[/\\]futures)[/\\]\w+)\.py$"  # the library's, where it called that
_FRAME = r'(?m)^([ |]*)File "([^"\n]+)", line (\d+)'
WORKER_NOTE = "In the worker process:"  # begins the note with the traceback that an exception had in a worker


def is_ours(file: str) -> bool:
    """Whether a frame with this file name is the library's."""
    return file.startswith(_HERE) and not file.startswith(_TESTING)


def is_users(file: str) -> bool:
    """Whether it is neither the library's nor of anything else that was installed."""
    return not is_ours(file) and re.search(_INSTALLED, file) is None


def frames(trace: TracebackType | None) -> Iterator[TracebackType]:
    while trace is not None:
        yield trace
        trace = trace.tb_next


def file_of(frame: TracebackType) -> str:
    return frame.tb_frame.f_code.co_filename


def without_ours(trace: TracebackType | None) -> TracebackType | None:
    """The traceback without the library's frames: rebuilt, because waiters share it; itself if it has none."""
    every = list(frames(trace))
    kept = list(_not_ours(every))
    if len(kept) == len(every):
        return trace
    rebuilt = None
    for frame in reversed(kept):
        rebuilt = TracebackType(rebuilt, frame.tb_frame, frame.tb_lasti, frame.tb_lineno)
    return rebuilt


def _not_ours(every: Iterable[TracebackType]) -> Iterator[TracebackType]:
    hidden = False
    for frame in every:
        file = file_of(frame)
        hidden = is_ours(file) or (hidden and re.search(_PLUMBING, file) is not None)
        if not hidden:
            yield frame


def hide(error: BaseException) -> None:
    """Take the library's frames out of the tracebacks of `error` and of everything that it came from.

    An error that looks like a defect of the library keeps them: they are what a report needs.
    """
    for link in _chain(error):
        trace = link.__traceback__
        shown = without_ours(trace)
        if shown is not trace and not _is_defect(link):
            BaseException.with_traceback(link, shown)  # also of one that refuses to have attributes set


def _chain(error: BaseException) -> Iterator[BaseException]:
    ahead: list[BaseException | None] = [error]
    seen = set()
    while ahead:
        link = ahead.pop()
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        ahead += link.__cause__, link.__context__
        if isinstance(link, BaseExceptionGroup):
            ahead.extend(link.exceptions)


def _is_defect(error: BaseException) -> bool:
    if not isinstance(error, _DEFECTS):
        return False
    *_, last = frames(error.__traceback__)
    return isinstance(error, InternalError) or is_ours(file_of(last))


def leads_to_user(error: BaseException) -> bool:
    return any(is_users(file_of(frame)) for frame in frames(error.__traceback__))


def place(error: BaseException, trace: TracebackType | None) -> str | None:
    """Where in the user's code it was raised, as far as `trace` knows: `etl.py:12`. None if nobody knows."""
    at_home = _last_of_users((file_of(frame), frame.tb_lineno) for frame in frames(trace))
    return at_home or place_in(_told_by_worker(error))


def place_in(text: str) -> str | None:
    """`place`, from the text of a traceback."""
    return _last_of_users((file, int(line)) for _, file, line in re.findall(_FRAME, text))


def _last_of_users(found: Iterable[tuple[str, int]]) -> str | None:
    theirs = [at for at in found if not is_ours(at[0])]
    if not theirs:
        return None
    file, line = next((at for at in reversed(theirs) if is_users(at[0])), theirs[-1])
    name = notebook.cell(file) or file.replace("\\", "/").rpartition("/")[2]
    return f"{name}:{line}"


def _told_by_worker(error: BaseException) -> str:
    told = [note for note in _notes(error) if note.startswith(WORKER_NOTE)]
    text = told[0] if told else getattr(error, "traceback_text", None)
    return text if isinstance(text, str) else ""


def _notes(error: BaseException) -> list[str]:
    return [note for note in getattr(error, "__notes__", ()) if isinstance(note, str)]


def name_cells_of(error: BaseException) -> None:
    """`name_cells` in what a worker has noted on the exception."""
    if any(note.startswith(WORKER_NOTE) for note in _notes(error)):
        error.__notes__ = [name_cells(f"{note}\n").removesuffix("\n") for note in _notes(error)]


def name_cells(text: str) -> str:
    """A traceback's text with a notebook's own names for its cells, and their lines where a worker had none."""
    if notebook.shell() is None:
        return text
    return re.sub(rf"{_FRAME}.*\n(?=(\1  \S)?)", _with_cell, text)


def _with_cell(match: re.Match[str]) -> str:
    indent, file, line, followed_by_source = match.groups()
    cell = notebook.cell(file)
    if cell is None:
        return match[0]
    source = "" if followed_by_source else linecache.getline(file, int(line)).strip()
    return match[0].replace(file, cell, 1) + (f"{indent}  {source}\n" if source else "")
