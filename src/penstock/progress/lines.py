"""Counts of runs as lines of a terminal: a heading with the flow run, then one for each task or subflow in it.

Plain data in, text out, nothing is looked up: the progress of this process and `penstock watch` show the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Any, NamedTuple

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from penstock.tallies import Group, clock, duration

_GAP = 2
_NARROWEST_NAME = 12
_BAR_FROM, _BAR_TO = 8, 30


@dataclass(slots=True)
class Picture:
    """A flow run at one moment."""

    title: str  # "etl/brave-otter"
    seconds: float  # since it began
    groups: Sequence[Group]  # the runs below it, each group before those inside it


class _Column(NamedTuple):
    """What is said of each group. Columns that have nothing to say are left out."""

    long: str
    short: str
    style: str
    fates: tuple[str, ...] = ()


_COLUMNS = (
    _Column("done", "done", ""),
    _Column("running", "run", "cyan", ("running",)),
    _Column("waiting", "wait", "yellow", ("waiting",)),
    _Column("failed", "fail", "bold red", ("failed", "crashed")),
    _Column("blocked", "block", "red", ("blocked",)),
    _Column("cancelled", "canc", "magenta", ("cancelled",)),
    _Column("cached", "cache", "blue", ("cached",)),
    _Column("retried", "retry", "yellow", ("retried",)),
    _Column("rate", "rate", "dim"),
    _Column("left", "left", ""),
)
_DISPENSABLE = (8, 6, 5, 4, 2, 7, 9, 1)  # which columns go first where the terminal is too narrow
_DONE, _RATE, _LEFT = 0, 8, 9


class _Row(NamedTuple):
    name: str
    group: Group | None  # None: the heading of a flow run
    cells: list[str]


def lines(pictures: Sequence[Picture], width: int, height: int, *, plain: bool = False) -> list[Text]:
    """At most `height` lines, at most `width` cells wide. `plain`: with ASCII characters, apart from names."""
    rows = [row for picture in pictures for row in _rows(picture)]
    kept, hidden = _most_telling(rows, height)
    form = _Form(kept, width, plain)
    shown = [form.heading(row) if row.group is None else form.line(row, row.group) for row in kept]
    if hidden:
        shown.append(Text(f"  and {hidden:,} more", "dim"))
    for line in shown:
        line.rstrip()
        line.truncate(width, overflow=form.overflow)
    return shown[:height]


def _rows(picture: Picture) -> Iterable[_Row]:
    yield _Row(f"{printable(picture.title)} {duration(picture.seconds)}", None, [""] * len(_COLUMNS))
    for group in picture.groups:
        yield _Row(f"{'  ' * (len(group.path) + 1)}{printable(group.name)}", group, _cells(group))


def painter() -> Callable[[Text], str]:
    """What makes the text for the terminal out of a line: with the colours that it has, none if NO_COLOR is set."""
    console = Console(file=StringIO(), force_terminal=True, legacy_windows=False)

    def paint(line: Text) -> str:
        with console.capture() as captured:
            console.print(line, soft_wrap=True, end="")
        return captured.get()

    return paint


def printable(text: str) -> str:
    """Without characters that could move the cursor."""
    return text if text.isprintable() else "".join(char if char.isprintable() else "?" for char in text)


def _cells(group: Group) -> list[str]:
    numbers = [group.number(*column.fates) for column in _COLUMNS]
    cells = [f"{number:,}" if number else "" for number in numbers]
    cells[_DONE] = f"{group.ended:,}/{group.total:,}" if group.total else ""
    cells[_RATE] = rate(group.rate)
    cells[_LEFT] = "" if group.left is None else clock(group.left)
    return cells


def rate(per_second: float | None) -> str:
    """256/s, 2.5/s, 12/min; nothing, if there is nothing to say."""
    if not per_second:
        return ""
    if per_second >= 0.995:
        return f"{per_second:,.0f}/s" if per_second >= 9.95 else f"{per_second:.1f}/s"
    per_minute = per_second * 60
    return f"{per_minute:.0f}/min" if per_minute >= 0.995 else f"{per_minute * 60:.0f}/h"


def _most_telling(rows: list[_Row], room: int) -> tuple[list[_Row], int]:
    """Those that fit, in their order, and how many do not: headings first, then what goes on or has failed."""
    if len(rows) <= room:
        return rows, 0
    ranked = sorted(range(len(rows)), key=lambda place: (_rank(rows[place].group), -place))
    kept = sorted(ranked[: max(1, room - 1)])
    return [rows[place] for place in kept], len(rows) - len(kept)


def _rank(group: Group | None) -> int:
    if group is None:
        return 0
    if group.number("running", "waiting"):
        return 1
    return 2 if group.number("failed", "crashed") else 3


def _is_over(group: Group) -> bool:
    return group.ended == group.total and not group.number("cancelled")


class _Form:
    """Where the columns are: as wide as what is in them, the bars take what is left."""

    def __init__(self, rows: Sequence[_Row], width: int, plain: bool) -> None:
        self._full, self._rest = ("#", "-") if plain else ("━", "─")
        self.overflow: Any = "crop" if plain else "ellipsis"
        self._rows = rows
        self._columns = [n for n in range(len(_COLUMNS)) if any(row.cells[n] for row in rows)]
        self._heads = [column.long for column in _COLUMNS]
        self._name = max((cell_len(row.name) for row in rows if row.group is not None), default=0)
        self._fit(width)
        left = width - self._taken() - self._name
        self._bar = min(left - _GAP, _BAR_TO) if left - _GAP >= _BAR_FROM and self._columns else 0
        # A long heading has the place of the bars as well, and then what is left at the right.
        beside = self._place_of_bar()
        self._name = max(self._name, min(self._longest_heading() - beside, width - self._taken() - beside))
        self._widths = {n: self._width(n) for n in self._columns}

    def _fit(self, width: int) -> None:
        if self._taken() + max(self._name, self._longest_heading()) > width:
            self._heads = [column.short for column in _COLUMNS]
        for n in _DISPENSABLE:
            self._name = min(self._name, max(_NARROWEST_NAME, width - self._taken()))
            if self._taken() + self._name <= width:
                return
            self._columns = [column for column in self._columns if column != n]

    def _longest_heading(self) -> int:
        """How wide the names would have to be for the headings' sake."""
        return max((cell_len(row.name) for row in self._rows if row.group is None), default=0) - self._room()

    def _width(self, n: int) -> int:
        return max(len(self._heads[n]), *(len(row.cells[n]) for row in self._rows))

    def _place_of_bar(self) -> int:
        return self._bar + _GAP if self._bar else 0

    def _room(self) -> int:
        """How far a heading may reach into the first column, above its numbers and beside its head."""
        return self._width(self._columns[0]) - len(self._heads[self._columns[0]]) if self._columns else 0

    def _taken(self) -> int:
        return sum(self._width(n) + _GAP for n in self._columns)

    def heading(self, row: _Row) -> Text:
        """The flow run, from the left edge to where the head of the first column begins."""
        heads = "".join(" " * _GAP + self._heads[n].rjust(self._widths[n]) for n in self._columns)
        title = Text(row.name, "bold")
        if self._columns:
            title.truncate(self._name + self._place_of_bar() + self._room(), overflow=self.overflow, pad=True)
        return Text().append(title).append(" " * _GAP * bool(heads) + heads.lstrip(), "dim")

    def line(self, row: _Row, group: Group) -> Text:
        name = Text(row.name, "" if group.kind == "task" else "italic")
        name.truncate(self._name, overflow=self.overflow, pad=True)
        line = Text().append(name)
        if self._bar:
            line.append(" " * _GAP).append(self._bar_of(group))
        for n in self._columns:
            style = "green" if n == _DONE and _is_over(group) else _COLUMNS[n].style
            line.append(" " * _GAP).append(row.cells[n].rjust(self._widths[n]), style)
        return line

    def _bar_of(self, group: Group) -> Text:
        size = group.total or 1
        filled = self._bar * (group.ended - group.number("cancelled")) // size
        bad = min(filled, -(-self._bar * group.number("failed", "crashed", "blocked") // size))
        text = Text().append(self._full * (filled - bad), "green").append(self._full * bad, "red")
        return text.append(self._rest * (self._bar - filled), "dim")
