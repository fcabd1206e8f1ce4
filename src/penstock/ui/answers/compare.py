"""Two runs side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

from penstock.store.base import RunRow
from penstock.ui.answers import groups
from penstock.ui.answers.documents import Document, document, group_id, info, line, parameters, table
from penstock.ui.answers.run import facts, outcome
from penstock.ui.asking import Asked
from penstock.ui.records import Records

MOST_TASKS = 200
COUNTING = 0.06  # seconds, by the clock of the records, after which no further counting is begun in one answer

Made = TypeVar("Made")


class Content(NamedTuple):
    """What the runs of a group have that can be compared."""

    codes: int  # how many of them have a digest of their code
    different_codes: int
    code: str | None
    results: int
    different_results: int
    least: str | None
    most: str | None


class Side(NamedTuple):
    groups: dict[str, groups.Group]
    contents: dict[str, Content]


def answer(records: Records, asked: Asked) -> Document:
    a, b = (records.get(asked[name]) for name in ("a", "b"))
    until = records.clock() + COUNTING
    one, other = (_side(records, run, until) for run in (a, b))
    return document(
        complete=one is not None and other is not None,
        runs={"a": facts(a), "b": facts(b)},
        outcomes={"a": _outcome(a, one), "b": _outcome(b, other)},
        parameters=table("name a b same", _pairs(dict(parameters(a)), dict(parameters(b)))),
        info=table("name a b same", _pairs(_info(a), _info(b))),
        tasks=_tasks(one, other),
    )


def _side(records: Records, run: RunRow, until: float) -> Side | None:
    found = _counted(records, run, "groups", until, lambda: groups.of(records, run))
    contents = _counted(records, run, "contents", until, lambda: _contents(records, run))
    return None if found is None or contents is None else Side({group.id: group for group in found}, contents)


def _counted(records: Records, run: RunRow, what: str, until: float, make: Callable[[], Made]) -> Made | None:
    """None: there was no time for it; the next answer goes on, for of a run that has ended it is made once."""
    if run.ended is not None and records.clock() > until and not records.remembers(run, (what,)):
        return None
    return records.once(run, (what,), make)


def _outcome(run: RunRow, side: Side | None) -> str | None:
    return None if side is None else outcome(run, [*side.groups.values()])


def _contents(records: Records, run: RunRow) -> dict[str, Content]:
    rows = records.ask_below(run, "digests")
    return {group_id(place, kind, name): Content(*cells) for place, kind, name, *cells in rows}


def _info(run: RunRow) -> dict[str, str]:
    known = {"flow": line(run.key) or "", "version": line(run.version) or "", "tags": line(run.tags) or ""}
    return {**known, **dict(info(run))}


def _pairs(a: Mapping[str, str], b: Mapping[str, str]) -> Iterator[tuple[str, str | None, str | None, bool]]:
    for name in dict.fromkeys([*a, *b]):
        yield name, a.get(name), b.get(name), a.get(name) == b.get(name)


def _tasks(a: Side | None, b: Side | None) -> Document:
    names = (
        "group name kind a_total b_total a_bad b_bad a_seconds b_seconds a_wall b_wall a_retried b_retried same_code"
        " same_results"
    )
    if a is None or b is None:
        return table(names, (), more=0)
    known = [*dict.fromkeys([*a.groups, *b.groups])]
    rows = (_task(a, b, group_id) for group_id in known[:MOST_TASKS])
    return table(names, rows, more=max(0, len(known) - MOST_TASKS))


def _task(a: Side, b: Side, name: str) -> tuple[Any, ...]:
    one, other = a.groups.get(name), b.groups.get(name)
    known = one or other
    assert known is not None
    sides = [
        (None,) * 5 if group is None else (group.total, group.bad(), group.busy, _wall(group), group.retried)
        for group in (one, other)
    ]
    in_turn = [cell for both in zip(*sides, strict=True) for cell in both]
    return line(name), line(known.name), known.kind, *in_turn, *_same(a.contents.get(name), b.contents.get(name))


def _wall(group: groups.Group) -> float | None:
    return None if group.began is None or group.ended is None else group.ended - group.began


def _same(one: Content | None, other: Content | None) -> tuple[bool | None, bool | None]:
    """Of code, if all of both are recorded and of one kind; of results, by what is known of their short forms."""
    if one is None or other is None:
        return None, None
    code = one.code == other.code if one.different_codes == other.different_codes == 1 else None
    if not one.results or not other.results:
        return code, None
    return code, one[3:] == other[3:]
