"""The HTML report of a run: one file that needs nothing else, neither network nor penstock.

What was recorded is one JSON document in a `script` element that no browser executes; the script beside it puts each
text of it on the page as text, never as markup. The content security policy of the page allows exactly this script
and this style sheet, by their digests, and no request at all.

Ten thousand task runs are to be a megabyte or two. So the document holds columns rather than objects, times are
differences in microseconds, and texts that come again and again are written once.
"""

from __future__ import annotations

import json
import os
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import sha256
from importlib.metadata import version
from string import Template
from typing import Any

from penstock.cli.failures import user_line
from penstock.cli.text import printable_lines, unpacked
from penstock.cli.whole import Whole, how_it_went, microseconds, moment_of
from penstock.store.base import AttemptRow, RunRow

SCRIPTS = ("say", "model", "list", "timeline", "runs", "details", "log", "errors", "page")
"""The parts of the script, in this order: each uses what the ones before it define."""

ID_END = 5  # digits in which the ids of a flow's task runs differ, mostly
_FACTS = ("host", "pid", "python", "script")


def as_html(whole: Whole) -> str:
    """The report as a complete page, in ASCII."""
    parts = {
        "style": _text("report.css"),
        "script": '"use strict";\n(() => {\n' + "\n".join(_text(f"{name}.js") for name in SCRIPTS) + "})();\n",
    }
    digests = {f"{name}_digest": _digest(text) for name, text in parts.items()}
    return Template(_text("report.html")).substitute(parts, record=_embedded(_shown(as_document(whole))), **digests)


def _text(name: str) -> str:
    with open(os.path.join(os.path.dirname(__file__), name), encoding="ascii") as file:
        return file.read()


def _digest(text: str) -> str:
    return f"sha256-{b64encode(sha256(text.encode()).digest()).decode()}"


def _embedded(document: dict[str, Any]) -> str:
    """JSON that ends no script element, whatever it says; all beyond ASCII is escaped."""
    text = json.dumps(document, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _shown(value: Any) -> Any:
    """The same with no text in it that moves or hides others: direction and control characters are escaped."""
    if isinstance(value, str):
        return printable_lines(value)
    if isinstance(value, dict):
        return {_shown(name): _shown(item) for name, item in value.items()}
    return [_shown(item) for item in value] if isinstance(value, list | tuple) else value


def as_document(whole: Whole) -> dict[str, Any]:
    """What the page knows. `page.js` and `model.js` read it; it is no interface for others."""
    strings = _Strings()
    begin = moment_of(whole.run.created) or 0.0
    numbers = {row.id: number for number, row in enumerate(whole.runs)}
    return {
        "penstock": version("penstock"),
        "made": whole.seen * 1000,
        "begin": begin * 1000,
        "went": how_it_went(whole),
        "root": _root(whole.run),
        "runs": _runs(whole.runs, numbers, begin, strings),
        "attempts": _attempts(whole, numbers, begin),
        "errors": _errors(whole, numbers, strings),
        "edges": _edges(whole, numbers, strings),
        "logs": _logs(whole, numbers, begin, strings),
        "strings": strings.all,
    }


class _Strings:
    """Texts that may come again, by number."""

    def __init__(self) -> None:
        self.all: list[Any] = []
        self._numbers: dict[Any, int] = {}

    def number(self, text: Any) -> int:
        if text not in self._numbers:
            self._numbers[text] = len(self.all)
            self.all.append(text)
        return self._numbers[text]


def _root(run: RunRow) -> dict[str, Any]:
    facts = unpacked(run.info)
    known = facts if isinstance(facts, dict) else {}
    return {
        "id": run.id,
        "key": run.key,
        "version": run.version,
        "parent": run.parent_id,
        "resumed": run.resumed_from,
        "facts": {name: str(known[name]) for name in _FACTS if name in known},
    }


def _columns(names: str, rows: Iterable[Sequence[Any]]) -> dict[str, list[Any]]:
    columns = list(zip(*rows, strict=True))
    return {name: list(columns[place]) if columns else [] for place, name in enumerate(names.split())}


def _runs(rows: Sequence[RunRow], numbers: dict[str, int], begin: float, strings: _Strings) -> dict[str, Any]:
    few = [
        (
            strings.number(row.id[:-ID_END]),
            row.id[-ID_END:],
            numbers.get(row.parent_id or "", -1),
            strings.number(row.kind),
            strings.number(row.name),
            row.run_name,
            strings.number(row.status),
            strings.number(row.state_name),
            row.attempts,
            row.result,
            strings.number(_tags(row)),
        )
        for row in rows
    ]
    return {
        **_columns("block id parent kind name title status state attempts result tags", few),
        **_columns("created ready started ended", _times(rows, begin)),
        "parameters": [_parameters(row, strings) for row in rows],
        "messages": [[numbers[row.id], row.message] for row in rows if row.message],
    }


def _tags(row: RunRow) -> str:
    tags = unpacked(row.tags)
    return ", ".join(map(str, tags)) if isinstance(tags, list) else str(tags or "")


def _times(rows: Sequence[RunRow], begin: float) -> Iterator[list[int | None]]:
    """Of each run, its times as differences: each to the one before it, the first to that of the run before."""
    before = 0
    for row in rows:
        previous = before
        found: list[int | None] = []
        for seconds in (row.created, row.ready, row.started, row.ended):
            now = microseconds(seconds, begin)
            found.append(None if now is None else now - previous)
            previous = previous if now is None else now
            before = previous if len(found) == 1 else before
        yield found


def _parameters(row: RunRow, strings: _Strings) -> list[Any] | str:
    """A number of a list of names, and the values; or the text itself if it is damaged."""
    parameters = unpacked(row.parameters)
    if not isinstance(parameters, dict):
        return str(row.parameters)
    return [strings.number(tuple(parameters)), *map(str, parameters.values())]


def _attempts(whole: Whole, numbers: dict[str, int], begin: float) -> dict[str, Any]:
    """All attempts of runs that had more than one, or may yet have; of the others their run says everything."""
    rows = (
        (numbers[run.id], one.number, microseconds(one.started, begin), microseconds(one.ended, begin), one.state_name)
        for run in whole.runs
        for attempts in [whole.attempts.get(run.id, ())]
        if len(attempts) > 1 or run.ended is None
        for one in attempts
    )
    return _columns("run number started ended state", rows)


def _errors(whole: Whole, numbers: dict[str, int], strings: _Strings) -> dict[str, Any]:
    """Where they began: of the runs that these blocked, the table tells enough."""
    rows = (
        (numbers[run.id], number, final, *_described(run, end, strings.number))
        for run in whole.runs
        if run.state_name != "UpstreamFailed"
        for number, final, end in _bad_ends(whole, run)
    )
    return _columns("run number final type text place frames last", rows)


def _bad_ends(whole: Whole, run: RunRow) -> Iterator[tuple[int, bool, AttemptRow | RunRow]]:
    """Of each attempt that failed its number, and whether the run ended with it."""
    # A run without attempts was refused or cancelled before it could start.
    ends: Sequence[AttemptRow | RunRow] = whole.attempts.get(run.id) or [run]
    for end in ends:
        final = run.ended is not None and end is ends[-1]
        if end.error_type is not None or (final and run.status in ("FAILED", "CRASHED")):
            yield getattr(end, "number", 0), final, end


def _described(run: RunRow, end: AttemptRow | RunRow, number: Callable[[Any], int]) -> tuple[Any, ...]:
    # The last line is the message, which may be another one each time; the frames above it rarely are.
    frames, _, last = (end.traceback or "").rstrip("\n").rpartition("\n")
    place = user_line(end.traceback or "")
    return number(end.error_type or run.state_name), end.error or run.message or "", number(place), number(frames), last


def _edges(whole: Whole, numbers: dict[str, int], strings: _Strings) -> dict[str, Any]:
    rows = (
        (numbers[edge.downstream_id], numbers[edge.upstream_id], strings.number(edge.parameter or edge.kind))
        for edge in whole.edges
        if edge.downstream_id in numbers and edge.upstream_id in numbers
    )
    return _columns("down up parameter", rows)


def _logs(whole: Whole, numbers: dict[str, int], begin: float, strings: _Strings) -> dict[str, Any]:
    rows = (
        (numbers.get(row.run_id, 0), microseconds(row.time, begin), row.level, strings.number(row.logger), row.message)
        for row in whole.logs
    )
    return {"more": whole.more_logs, **_columns("run time level logger message", rows)}
