"""The runs below a run, as groups: all of one task or subflow in one place together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from penstock import tallies
from penstock.store.base import RunRow
from penstock.ui.answers.documents import Document, by_fate, columns, group_id, named
from penstock.ui.records import Records

MOST = 200  # groups in an answer
BAD = ("failed", "crashed")


@dataclass
class Group:
    place: str
    kind: str
    name: str
    created: float | None = None
    began: float | None = None
    ended: float | None = None  # None also while one goes on
    unfinished: int = 0
    busy: float = 0.0  # seconds from first starts to ends
    queued: float = 0.0
    waited: float = 0.0
    between: float = 0.0  # attempts
    retried: int = 0
    numbers: dict[str, int] = field(default_factory=dict)  # by fate
    firsts: dict[str, str] = field(default_factory=dict)  # by fate, the id of the first run

    @property
    def id(self) -> str:
        return group_id(self.place, self.kind, self.name)

    @property
    def total(self) -> int:
        return sum(self.numbers.values())

    def add(self, fate: str, number: int) -> None:
        self.numbers[fate] = self.numbers.get(fate, 0) + number

    def bad(self) -> int:
        return sum(self.numbers.get(fate, 0) for fate in BAD)


def of(records: Records, run: RunRow) -> list[Group]:
    """In the order in which the first of each was created."""
    return records.once(run, ("groups",), lambda: _counted(records, run))


def _counted(records: Records, run: RunRow) -> list[Group]:
    found: dict[str, Group] = {}
    is_dead = run.status == "CRASHED"
    for row in records.ask_below(run, "groups"):
        place, kind, name, status, state_name, number, retried, created, began, ended, going, *rest = row
        busy, queued, waited, between, first = rest
        # What a dead process has left unfinished can only not be corrected in a store that cannot be written.
        fate = "crashed" if is_dead and going else tallies.fate(status, state_name)
        group = found.setdefault(group_id(place, kind, name), Group(place, kind, name, created))
        group.add(fate, number)
        group.firsts.setdefault(fate, first)
        group.retried += retried or 0
        group.unfinished += 0 if is_dead else going or 0
        group.busy += busy or 0.0
        group.queued += max(0.0, queued or 0.0)
        group.waited += max(0.0, waited or 0.0)
        group.between += max(0.0, between or 0.0)
        group.began = _least(group.began, began)
        group.ended = _most(group.ended, ended)
    return list(found.values())


def _least(one: float | None, other: float | None) -> float | None:
    return min((moment for moment in (one, other) if moment is not None), default=None)


def _most(one: float | None, other: float | None) -> float | None:
    return max((moment for moment in (one, other) if moment is not None), default=None)


def tallied(groups: Sequence[Group]) -> list[tallies.Group]:
    """As the sentences about a run want them."""
    return [tallies.Group(group.name, group.kind, (), {**group.numbers, "retried": group.retried}) for group in groups]


def as_document(groups: Sequence[Group]) -> Document:
    shown = groups[:MOST]
    rows = ((*named(group), group.created, group.total, group.retried) for group in shown)
    return {
        "columns": columns("group place kind name created total retried", rows),
        "fates": by_fate([group.numbers for group in shown]),
        "more": len(groups) - len(shown),
    }
