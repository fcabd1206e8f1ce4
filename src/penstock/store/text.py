"""What users may type to name a run, or to look for some."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from string import ascii_lowercase, ascii_uppercase
from typing import Any

from penstock.store.base import RunRow, Wanted

_HEX = frozenset("0123456789abcdef")
_LOWER = str.maketrans(ascii_uppercase, ascii_lowercase)
_NOTHING = Wanted(below=None, kind=None, name=None, states=(), tags=(), since=None, until=None, text=None)


def id_prefix(text: str) -> str:
    """Return `text` as the beginning of an id (without dashes, lower case), or "" if it cannot be one."""
    digits = text.replace("-", "").lower()
    return digits if len(digits) <= 32 and _HEX.issuperset(digits) else ""


def possible_names(text: str) -> Iterator[tuple[str | None, str]]:
    """How `text` may name a run, likeliest first: name of the flow or task (None: any), run name."""
    yield None, text
    for place, char in enumerate(text):
        if char == "/":
            yield text[:place], text[place + 1 :]


def as_parameters(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """What is wanted as parameters of the query `runs`."""
    given = {**_NOTHING, **wanted}
    lists = {name: json.dumps([*given[name]]) for name in ("states", "tags")}
    text = given["text"] or None
    patterns = {"text": text and _pattern(text), "json_text": text and _pattern(_as_json(text))}
    return {**given, **lists, **patterns}


def _as_json(text: str) -> str:
    """How it is written inside of JSON, as the parameters are."""
    return json.dumps(text)[1:-1]


def _pattern(text: str) -> str:
    return f"%{_escaped(text)}%"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_")


def is_wanted(row: RunRow, wanted: Wanted) -> bool:
    """Whether a run is among those wanted, wherever it is in the tree."""
    given: dict[str, Any] = {**_NOTHING, **wanted}
    return (
        given["kind"] in (None, row.kind)
        and given["name"] in (None, row.name)
        and _in_time(row.created, given["since"], given["until"])
        and _in_states(row, given["states"])
        and (not given["tags"] or set(given["tags"]) <= set(_tags(row)))
        and _has(row, given["text"] or "")
    )


def _in_time(created: float, since: float | None, until: float | None) -> bool:
    return (since is None or created >= since) and (until is None or created < until)


def _in_states(row: RunRow, states: Sequence[str]) -> bool:
    return not states or not {row.status.lower(), row.state_name.lower()}.isdisjoint(map(str.lower, states))


def _tags(row: RunRow) -> list[str]:
    try:
        tags = json.loads(row.tags)
    except ValueError:
        return []
    return tags if isinstance(tags, list) else []


def _has(row: RunRow, text: str) -> bool:
    texts = (row.name, row.run_name, row.message, row.error_type, row.error)
    return any(_is_in(text, field) for field in texts) or _is_in(_as_json(text), row.parameters)


def _is_in(text: str, field: str | None) -> bool:
    return text.translate(_LOWER) in (field or "").translate(_LOWER)
