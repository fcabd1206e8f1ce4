"""What notebooks show of tasks, flows, futures, states and runs: small tables, readable on light and dark pages.

Everything is escaped, nothing is loaded from anywhere, and no code of the user's is executed. To be shown is not to be
looked at: a failure that nobody has dealt with still counts. Nothing blocks, but that a flow run's record is read.
"""

from __future__ import annotations

import html
import inspect
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

from penstock import calls, tallies
from penstock._core.binding import short
from penstock._core.errors import brief
from penstock._core.tracebacks import place, place_in
from penstock.exceptions import PenstockError
from penstock.states import State, StateType

if TYPE_CHECKING:
    from penstock._engine.run import RunView
    from penstock.definitions import Definition
    from penstock.futures import Future
    from penstock.store.base import Reader, RunRow, Tally

_ROWS = 10  # of a list of futures
_FAILURES = 3  # of a flow run
_BAD = (StateType.FAILED, StateType.CRASHED)

# Of a lightness that can be read on white and on black. Not by classes and a style sheet: what shows a notebook may
# throw those away.
_COLOURS: Mapping[str, str] = {
    "COMPLETED": "#2f9e50",
    "FAILED": "#e5484d",
    "CRASHED": "#e5484d",
    "CANCELLED": "#c07a1b",
    "CANCELLING": "#c07a1b",
    "RUNNING": "#3b82f6",
}
_OTHER_COLOUR = "#808890"
_CELL = "text-align:left;vertical-align:top;padding:2px 12px 2px 0;border:0;background:transparent"


# --- what there is to show ----------------------------------------------------------------------------------------


def of_future(future: Future[Any]) -> str:
    promise = future._promise
    state = promise.state()
    facts = [*_outcome(state), ("took", _took(promise)), ("", "" if promise.done else "goes on")]
    return _box(_line(promise.label, state), _facts(facts))


def of_futures(futures: Sequence[Future[Any]]) -> str:
    """A list of futures whose elements exist: how many in which state, the failures first, then the others."""
    if not futures:
        return _box("FutureList, empty")
    states = [(future._promise, future._promise.state()) for future in futures]
    counts = Counter((state.type.value, state.name) for _, state in states)
    title = f"FutureList of {len(futures):,}: " + ", ".join(
        f"{number:,} {_badge(*kind)}" for kind, number in counts.most_common()
    )
    states.sort(key=lambda entry: entry[1].type not in _BAD)
    rows = [
        (_text(_name_of(promise)), _badge(state.type.value, state.name), _text(_took(promise)), _summary(state))
        for promise, state in states[:_ROWS]
    ]
    more = f"and {len(states) - _ROWS:,} more" if len(states) > _ROWS else ""
    return _box(title, _table(("run", "state", "took", "outcome"), rows), _text(more))


def of_unexpanded(label: str) -> str:
    return _box(f"FutureList of {_text(label)}, unexpanded")


def of_state(state: State[Any]) -> str:
    shown = _of_flow_run(state)
    if shown is not None:
        return shown
    moment = state.timestamp.astimezone()
    facts = _outcome(state) or [("message", state.message or "")]
    facts.append(("since", f"{moment:%Y-%m-%d %H:%M:%S}"))
    return _box(_line("State", state), _facts(facts))


def of_run(view: RunView) -> str:
    """A run as hooks and contexts see it."""
    facts = [("id", str(view.id)), ("attempt", str(view.run_count)), ("tags", ", ".join(view.tags))]
    return _box(_line(view.name, view.state), _facts([*facts, *_outcome(view.state)]))


def of_definition(definition: Definition) -> str:
    """A task or flow: its signature, the first line of its description, and the options that were given."""
    try:
        signature = str(inspect.signature(definition))
    except (TypeError, ValueError):
        signature = "(…)"
    told = (inspect.cleandoc(definition.description or "").splitlines() or [""])[0]
    title = f"{definition.kind.capitalize()} <b>{_text(definition.name)}</b><code>{_text(signature)}</code>"
    return _box(title, _text(told), _facts(_given_options(definition)))


def _given_options(definition: Definition) -> Iterable[tuple[str, str]]:
    defaults = inspect.signature(type(definition).__init__).parameters
    for name, value in definition._options.items():
        if name not in ("name", "description") and value is not defaults[name].default:
            yield name, short(value)


# --- runs of flows, from the record -------------------------------------------------------------------------------


def _of_flow_run(state: State[Any]) -> str | None:
    """What is recorded of the flow run that this is the state of; None if it is of none, or nothing can be read."""
    details = state.state_details
    if details.flow_run_id is None or details.task_run_id is not None or not state.is_final():
        return None
    try:
        return _of_recorded(details.flow_run_id, state)
    except PenstockError:
        return None


def _of_recorded(run_id: UUID, state: State[Any]) -> str | None:
    recorder = calls.process_recorder()
    row = recorder.get(run_id.hex)
    if row is None or row.ended is None:
        return None
    groups = _groups(recorder.reader.tally(row.id))
    took = None if row.started is None else row.ended - row.started
    sentence = tallies.sentence("", "", took, groups, handled=state.is_completed())
    title = f"<b>{_text(row.name)}/{_text(row.run_name)}</b> {_badge(state.type.value, state.name)}{_text(sentence)}"
    rows = [(_text("/".join((*group.path, group.name))), f"{group.total:,}", _notes(group)) for group in groups]
    return _box(title, _facts(_outcome(state)), _table(("task", "runs", ""), rows), _failures(recorder.reader, row))


def _notes(group: tallies.Group) -> str:
    return _text(", ".join([f"{group.number('completed', 'cached'):,} completed", *tallies.notes(group)]))


def _groups(tally: Iterable[Tally]) -> list[tallies.Group]:
    groups: dict[tuple[str, str, str], tallies.Group] = {}
    for entry in tally:
        path = entry.place.split("/") if entry.place else ()
        group = groups.setdefault((entry.place, entry.kind, entry.name), tallies.Group(entry.name, entry.kind, path))
        group.add(tallies.fate(entry.status, entry.state_name), entry.number)
        group.add("retried", entry.retried)
    return list(groups.values())


def _failures(reader: Reader, run: RunRow) -> str:
    rows = [
        (_text(row.run_name), _text(f"{row.error_type}: {row.error}"), _text(place_in(row.traceback or "") or ""))
        for row in reader.failures(run.id, limit=_FAILURES)
    ]
    return _table(("first failures", "", ""), rows)


# --- pieces -------------------------------------------------------------------------------------------------------


def _outcome(state: State[Any]) -> list[tuple[str, str]]:
    """What came out, if anything has."""
    if not state.is_final():
        return []
    if isinstance(state._data, BaseException):
        where = place(state._data, state._trace)
        return [("error", brief(state._data)), ("raised at", where or "")]
    return [("result", _value(state))] if state.is_completed() else []


def _value(state: State[Any]) -> str:
    """The value in a few characters; one that its task runner keeps elsewhere is not fetched for that."""
    return str(state._stand_in.shown) if state._stand_in is not None else short(state._data)


def _summary(state: State[Any]) -> str:
    return _text(" at ".join(value for _, value in _outcome(state) if value))


def _name_of(promise: Any) -> str:
    return str(getattr(promise, "name", promise.label))


def _took(promise: Any) -> str:
    started, ended = getattr(promise, "first_started", None), promise.ended
    return "" if started is None or ended is None else tallies.duration(ended - started)


def _text(value: str) -> str:
    return html.escape(value)


def _badge(kind: str, name: str) -> str:
    colour = _COLOURS.get(kind, _OTHER_COLOUR)
    return f'<span style="color:{colour};white-space:nowrap">&#9679; {_text(name)}</span>'


def _line(title: str, state: State[Any]) -> str:
    return f"<b>{_text(title)}</b> {_badge(state.type.value, state.name)}"


def _facts(facts: Iterable[tuple[str, str]]) -> str:
    rows = [(f'<span style="opacity:.7">{_text(name)}</span>', _text(value)) for name, value in facts if value]
    return _table((), rows) if rows else ""


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The cells of `rows` are HTML, those of the head are text."""
    if not rows:
        return ""
    top = "".join(f'<th style="{_CELL};opacity:.7;font-weight:normal">{_text(name)}</th>' for name in head)
    body = "".join("<tr>" + "".join(f'<td style="{_CELL}">{cell}</td>' for cell in row) + "</tr>" for row in rows)
    head_row = f"<thead><tr>{top}</tr></thead>" if head else ""
    return f'<table style="border-collapse:collapse;margin:4px 0">{head_row}<tbody>{body}</tbody></table>'


def _box(*parts: str) -> str:
    shown = "".join(f"<div>{part}</div>" for part in parts if part)
    return f'<div style="border-left:3px solid rgba(128,136,144,.6);padding:2px 10px;margin:2px 0">{shown}</div>'
