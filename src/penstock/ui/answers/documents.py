"""What answers are made of: tables in columns, texts that do no harm, runs as people name them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from penstock import tallies
from penstock.cli.common import title as title
from penstock.cli.text import printable, printable_lines, unpacked
from penstock.store.base import RunRow

SCHEMA = 1
"""Version of the documents: grows when a field changes its meaning or goes away."""

SHORT, PLACE, LONG, LONGEST = 200, 1_000, 4_000, 32_000  # characters
FATES = tallies.FATES

Document = dict[str, Any]


def document(**parts: Any) -> Document:
    return {"schema": SCHEMA, **parts}


def columns(names: str, rows: Iterable[Sequence[Any]]) -> dict[str, list[Any]]:
    """Rows as columns. Numbers that JSON has no word for become null."""
    turned = list(zip(*rows, strict=True))
    return {name: [*map(finite, turned[place])] if turned else [] for place, name in enumerate(names.split())}


def table(names: str, rows: Iterable[Sequence[Any]], **more: Any) -> Document:
    return {"columns": columns(names, rows), **more}


def finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def line(text: object, longest: int = SHORT) -> str | None:
    """On one line, without control characters, and not endless."""
    if text is None:
        return None
    shown = printable(str(text)[: longest + 1])
    return shown if len(shown) <= longest else f"{shown[: longest - 1]}…"


def name_of_group(text: str) -> str:
    """Of a group or its place. Runs deep inside are told apart by the end, and the groups are asked for by it."""
    return line(text, PLACE) or ""


def block(text: str | None, longest: int = LONG) -> str | None:
    """On as many lines as it has, otherwise like `line`. The end of a text that is too long is what says most."""
    if text is None:
        return None
    kept = text if len(text) <= longest else f"…{text[-longest:]}"
    return printable_lines(kept)


def fate(row: Any) -> str:
    return tallies.fate(row.status, row.state_name)


def error(row: Any, longest: int = SHORT) -> str | None:
    """`KeyError: 'price'` on one line."""
    return None if row.error_type is None else line(f"{row.error_type}: {row.error or row.message or ''}", longest)


def parameters(row: RunRow) -> list[tuple[str, str]]:
    return pairs(row.parameters)


def pairs(text: str | None) -> list[tuple[str, str]]:
    """The names and values of a JSON object; of damaged JSON nothing."""
    found = unpacked(text)
    if not isinstance(found, dict):
        return []
    return [(line(name) or "", line(value, LONG) or "") for name, value in found.items()]


def info(row: RunRow) -> list[tuple[str, str]]:
    """Where and how it ran. The parameters that are kept there, for running it again, are shown as such."""
    return [(name, value) for name, value in pairs(row.info) if name != "parameters"]


def parameters_line(row: RunRow) -> str | None:
    return line(", ".join(f"{name}={value}" for name, value in parameters(row)))


def tags(row: RunRow) -> list[str]:
    found = unpacked(row.tags)
    return [line(tag) or "" for tag in found[:50]] if isinstance(found, list) else []


def group_id(place: str, kind: str, name: str) -> str:
    """As the API calls all runs of a task or flow in one place."""
    return f"{place}{name}/" if kind == "flow" else f"{place}{name}"


def named(group: Any) -> tuple[str, str, str, str | None]:
    """Id, place, kind and name."""
    return name_of_group(group.id), name_of_group(group.place), group.kind, line(group.name)


def by_fate(groups: Sequence[Mapping[str, int]]) -> dict[str, list[int]]:
    """How many there are of each fate, as columns."""
    return {name: [numbers.get(name, 0) for numbers in groups] for name in FATES}
