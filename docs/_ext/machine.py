"""The table of a run's life as a drawing and as a table for the pages, from the table that the engine goes by."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import NamedTuple

from penstock._core.machine import TRANSITIONS, Command, Event, Rule
from penstock.states import Status

# A status that is missing here fails the build: whoever adds one says where it stands. In order from above to below.
PLACES: dict[Status, tuple[int, int]] = {
    Status.PENDING: (360, 120),
    Status.RUNNING: (360, 360),
    Status.WAITING: (360, 600),
    Status.COMPLETED: (930, 90),
    Status.FAILED: (930, 270),
    Status.CRASHED: (930, 450),
    Status.CANCELLED: (930, 630),
}
WIDTH, HEIGHT = 1010, 720
HALF = (74, 46)  # of a box
GUARDS = {
    "may_retry": "may retry",
    "is_cached": "cached",
    "is_limited": "limited",
    "not_yet_asked": "not yet asked",
}

Point = tuple[float, float]


class Edge(NamedTuple):
    """Everything that leads from one status to another."""

    before: Status
    after: Status
    label: str


def rows() -> Iterator[tuple[Status, Event, Rule]]:
    """The table, one rule at a time."""
    for (status, event), rules in TRANSITIONS.items():
        for rule in rules:
            yield status, event, rule


def guard(rule: Rule) -> str:
    """What must hold for a rule, in words."""
    return "" if rule.guard is None else GUARDS[rule.guard.__name__]


def edges() -> list[Edge]:
    """One for each pair of statuses; its label names the events, and a guard if all of them have it."""
    found: dict[tuple[Status, Status], dict[str, set[str]]] = {}
    for before, event, rule in rows():
        found.setdefault((before, rule.status), {}).setdefault(event.name, set()).add(guard(rule))
    return [Edge(before, after, _label(events)) for (before, after), events in found.items()]


def _label(events: dict[str, set[str]]) -> str:
    guards = set[str]().union(*events.values())
    common = guards.pop() if len(guards) == 1 else ""
    return ", ".join(events) + (f" [{common}]" if common else "")


def meaning(kind: type[Event] | type[Command]) -> dict[str, str]:
    """The comment behind each member, which is where the module explains them."""
    return dict(re.findall(r"^ +([A-Z_]+) = \d+  # (.*)$", inspect.getsource(kind), re.M))


def table() -> str:
    """The whole table in Markdown."""
    happened = meaning(Event)
    lines = ["| status | event | if | goes to | and the engine |", "|---|---|---|---|---|"]
    previous: tuple[object, object] = (None, None)
    does = meaning(Command)
    for status, event, rule in rows():
        first = f"`{status.name}`" if status is not previous[0] else ""
        second = f"`{event.name}`: {happened[event.name]}" if (status, event) != previous else ""
        asks = does[rule.command.name].partition(":")[0]
        lines.append(f"| {first} | {second} | {guard(rule)} | `{rule.status.name}` | {asks} |")
        previous = status, event
    return "\n".join(lines)


def drawing() -> str:
    """The table as a picture: live statuses on the left, final ones on the right, events on the arrows."""
    paths, labels = zip(*(_path(index, edge) for index, edge in enumerate(edges())), strict=True)
    inside = "\n".join([_STYLE, _ARROW, *paths, *labels, *map(_box, PLACES)])
    return (
        f'<svg class="machine" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="The statuses of a run, and what leads from one to the other">\n{inside}\n</svg>'
    )


_STYLE = """<style>
.machine { width: 100%; height: auto; font-family: inherit; }
.machine path.edge { fill: none; stroke: var(--color-foreground-muted, #666); stroke-width: 1.3; }
.machine rect { fill: var(--color-background-secondary, #f6f6f6); stroke: var(--color-foreground-primary, #222); }
.machine rect.final { stroke-width: 2.5; }
.machine text { fill: var(--color-foreground-primary, #222); font-size: 15px; text-anchor: middle; }
.machine text { paint-order: stroke; stroke: var(--color-background-primary, #fff); stroke-width: 4px; }
.machine text.status { font-size: 17px; stroke: none; }
.machine marker path { fill: var(--color-foreground-muted, #666); }
</style>"""
_ARROW = (
    '<defs><marker id="machine-tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="9" markerHeight="9" '
    'orient="auto"><path d="M0 0 L8 4 L0 8 z"/></marker></defs>'
)


def _box(status: Status) -> str:
    x, y = PLACES[status]
    kind = "final" if status.final else "live"
    size = f'width="{2 * HALF[0]}" height="{2 * HALF[1]}"'
    return (
        f'<rect class="{kind}" x="{x - HALF[0]}" y="{y - HALF[1]}" {size} rx="8"/>'
        f'<text class="status" x="{x}" y="{y + 5}">{status.name}</text>'
    )


def _path(index: int, edge: Edge) -> tuple[str, str]:
    """The line, and its label: in front of all lines."""
    if edge.after.final:
        line, label = _straight(edge), _along(index, edge, 6, "start")
    elif edge.before is edge.after:
        line, label = _loop(edge)
    elif _neighbours(edge):
        line, label = _upright(edge)
    else:
        line, label = _around(edge), _along(index, edge, 50, "middle")
    return f'<path class="edge" id="machine-{index}" d="{line}" marker-end="url(#machine-tip)"/>', label


def _along(index: int, edge: Edge, percent: int, anchor: str) -> str:
    path = f'<textPath href="#machine-{index}" startOffset="{percent}%">{edge.label}</textPath>'
    return f'<text dy="-4" style="text-anchor: {anchor}">{path}</text>'


def _beside(edge: Edge, x: float, y: float, anchor: str) -> str:
    """A label that does not follow its line: the events, and below them the guard."""
    events, bracket, condition = edge.label.partition(" [")
    below = f'<tspan x="{x}" dy="17">[{condition}</tspan>' if bracket else ""
    return f'<text x="{x}" y="{y}" style="text-anchor: {anchor}">{events}{below}</text>'


def _straight(edge: Edge) -> str:
    (x, y), (to_x, to_y) = PLACES[edge.before], PLACES[edge.after]
    start = y + _port(edge.before, edge.after, outgoing=True)
    end = to_y + _port(edge.after, edge.before, outgoing=False)
    return f"M {x + HALF[0]} {start} L {to_x - HALF[0]} {end}"


def _loop(edge: Edge) -> tuple[str, str]:
    """On the left; at the uppermost box above it, at the lowest below it: there the left side has other lines."""
    (x, y), live = PLACES[edge.before], _live()
    if edge.before in (live[0], live[-1]):
        side = -1 if edge.before is live[0] else 1
        end, far = y + side * HALF[1], y + side * (HALF[1] + 40)
        return f"M {x - 16} {end} C {x - 40} {far}, {x + 40} {far}, {x + 16} {end}", _beside(edge, x + 34, far, "start")
    left = x - HALF[0]
    line = f"M {left} {y - 14} C {left - 42} {y - 34}, {left - 42} {y + 34}, {left} {y + 14}"
    return line, _beside(edge, left - 38, y, "end")


def _live() -> list[Status]:
    return [status for status in PLACES if not status.final]


def _neighbours(edge: Edge) -> bool:
    return abs(_live().index(edge.before) - _live().index(edge.after)) == 1


def _upright(edge: Edge) -> tuple[str, str]:
    """Downwards on the left, upwards on the right."""
    (x, y), (_, to_y) = PLACES[edge.before], PLACES[edge.after]
    side = -1 if to_y > y else 1
    at, start, end = x + 28 * side, y - HALF[1] * side, to_y + HALF[1] * side
    anchor = "end" if side < 0 else "start"
    return f"M {at} {start} L {at} {end}", _beside(edge, at + 8 * side, (y + to_y) / 2, anchor)


def _around(edge: Edge) -> str:
    (x, y), (_, to_y) = PLACES[edge.before], PLACES[edge.after]
    left = x - HALF[0]
    return f"M {left} {y} C {left - 340} {y}, {left - 340} {to_y}, {left} {to_y}"


def _port(status: Status, other: Status, *, outgoing: bool) -> float:
    """How far from the middle of a box's side the line to `other` begins or ends: in the order of the others."""
    pairs = {(edge.before, edge.after) for edge in edges()}
    mine = [other for other in PLACES if ((status, other) if outgoing else (other, status)) in pairs]
    mine = [one for one in mine if one.final is outgoing]
    step = 2 * (HALF[1] - 8) / max(1, len(mine) - 1)
    return round((mine.index(other) - (len(mine) - 1) / 2) * step, 1)
