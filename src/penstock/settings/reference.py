"""The settings described: for the documentation, and for editors of TOML files."""

from __future__ import annotations

from itertools import groupby
from typing import Any, NamedTuple

from penstock.settings.table import KNOWN, TABLES, Kind, as_text, key_of


class Entry(NamedTuple):
    """One setting, in words."""

    name: str
    variable: str
    key: str  # in a file
    expected: str
    default: str
    help: str


def entries() -> list[Entry]:
    """All settings, in the order of the table."""
    return [
        Entry(
            field.name,
            variable,
            key_of(field.name),
            field.metadata["kind"].expected,
            shown(field.default),
            field.metadata["help"],
        )
        for variable, field in KNOWN.items()
    ]


def shown(value: object) -> str:
    """A value as one would write it into a variable; `unset` if there is none."""
    return str(value).lower() if isinstance(value, bool) else as_text(value) or "unset"


def markdown() -> str:
    """All settings as Markdown: a table for each table of a file."""
    parts = []
    for table, group in groupby(entries(), lambda entry: entry.key.rpartition(".")[0]):
        parts += [f"### {f'`[{table}]`' if table else 'Outside any table'}", "", _table(list(group)), ""]
    return "\n".join(parts)


def _table(group: list[Entry]) -> str:
    lines = ["| key in a file | variable | expected | default | |", "|---|---|---|---|---|"]
    for entry in group:
        key = entry.key.rpartition(".")[2]
        lines.append(f"| `{key}` | `{entry.variable}` | {entry.expected} | `{entry.default}` | {entry.help} |")
    return "\n".join(lines)


def schema() -> dict[str, Any]:
    """The JSON schema of a file: of penstock.toml as a whole, and of the table `[tool.penstock]`."""
    tables: dict[str, dict[str, Any]] = {table: {} for table in TABLES}
    flat: dict[str, Any] = {}
    for field in KNOWN.values():
        kind: Kind = field.metadata["kind"]
        described = {**kind.schema, "description": field.metadata["help"]}
        if field.default is not None and field.default != ():
            described["default"] = field.default
        flat[field.name] = described
        table, _, key = key_of(field.name).rpartition(".")
        if table:
            tables[table][key] = described
    objects = {table: _closed(properties) for table, properties in tables.items()}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Settings of penstock",
        **_closed({**flat, **objects}),
    }


def _closed(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "additionalProperties": False}
