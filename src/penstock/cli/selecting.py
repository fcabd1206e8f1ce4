"""Which run is meant by what somebody typed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module

import click

from penstock.cli.common import NotFound, title
from penstock.cli.text import printable
from penstock.store.base import Reader, RunRow

RUN_HELP = (
    "RUN is an id or the beginning of one, a run name, flow/run-name, @last or @last-failed. RUN/TASK is a task run"
    " inside: its name, such as load-0 or load-0[3], the name of its task if it is the only one, or its id."
)
"""For the help of commands that take a run."""

SHOWN = 10  # candidates
_NEAR = 3
_REMEMBERED = 200  # runs whose names are compared with one that does not exist
_FAILED = ("FAILED", "CRASHED")


def the_run(reader: Reader, text: str) -> RunRow:
    """The run that `text` means, in the words of `RUN_HELP`.

    Raises `NotFound` if there is none, naming near ones, and a usage error if there are several.
    """
    found = _found(reader, text)
    if found:
        return _only(text, found)
    for outer, inner in _splits(text):
        if found := _found(reader, outer):
            return _inside(reader, _only(outer, found), outer, inner)
    raise NotFound(_no_run(reader, text))


def _found(reader: Reader, text: str) -> list[RunRow]:
    if text == "@last-failed":
        return reader.runs(states=_FAILED, limit=1)
    return reader.find(text, limit=SHOWN + 1)


def _splits(text: str) -> Iterator[tuple[str, str]]:
    """RUN and TASK, the longest RUN first: flow/run-name has a slash, too."""
    for place in range(len(text) - 1, -1, -1):
        if text[place] == "/":
            yield text[:place], text[place + 1 :]


def _only(text: str, found: Sequence[RunRow]) -> RunRow:
    if len(found) > 1:
        raise _ambiguous(f"{text!r} is the beginning of several ids", found)
    return found[0]


def _inside(reader: Reader, run: RunRow, outer: str, text: str) -> RunRow:
    found = reader.inside(run.id, text, limit=SHOWN + 1)
    found = [row for row in found if row.run_name == text] or found
    if not found:
        raise NotFound(f"{_no_task(reader, run, text)}. Type: penstock show {outer}")
    if len(found) > 1:
        raise _ambiguous(f"{text!r} means several runs inside {title(run)}", found)
    return found[0]


def _ambiguous(problem: str, found: Sequence[RunRow]) -> click.UsageError:
    lines = [f"  {row.id}  {title(row)}  {printable(row.state_name)}" for row in found[:SHOWN]]
    if len(found) > SHOWN:
        lines.append("  ...")
    return click.UsageError("\n".join([f"{problem}:", *lines]))


def _no_run(reader: Reader, text: str) -> str:
    if text.startswith("@"):
        return f"{text!r} means no run: there is @last and @last-failed" + (
            ", and none has failed" if text == "@last-failed" else ""
        )
    if latest := reader.runs(name=text, limit=1):
        return f"{text!r} is a {latest[0].kind}, not a run. Its latest run is {title(latest[0])}"
    runs = reader.runs(limit=_REMEMBERED)
    near = _near(text, {name: title(row) for row in reversed(runs) for name in (row.run_name, title(row))})
    return f"no run has the id or name {text!r}{near}. Type: penstock ls"


def _no_task(reader: Reader, run: RunRow, text: str) -> str:
    rows = reader.tree(run.id)
    near = _near(text, {name: printable(name) for row in rows for name in (row.run_name, row.name)})
    return f"no run inside {title(run)} has the name or id {text!r}{near}"


def _near(text: str, names: dict[str, str]) -> str:
    """`names`: what could have been typed, and how to say it."""
    difflib = import_module("difflib")  # for those who mistyped only
    found: Iterable[str] = difflib.get_close_matches(text, names, n=_NEAR, cutoff=0.6)
    said = list(dict.fromkeys(names[name] for name in found))
    return f"; near: {', '.join(said)}" if said else ""
