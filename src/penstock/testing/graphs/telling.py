"""What can be seen of a flow, as lines of text: made of a real flow and of the model in the same way, and compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from penstock.exceptions import UpstreamTaskError

Edge: TypeAlias = tuple[str, str, str]
"""The names of a run and of one that it waited for, and whether for data or by `wait_for`."""


Key: TypeAlias = tuple[tuple[str, int], ...]
"""A run among all of a flow: its name, and how many of its siblings had it before, below the key of its parent."""


@dataclass
class Told:
    """What can be seen of a flow: its end, its record, and what was logged as an error."""

    flow: str
    runs: list[str]
    edges: set[Edge] = field(default_factory=set)
    possible_edges: set[Edge] = field(default_factory=set)  # depending on what was there in time
    trouble: list[str] = field(default_factory=list)
    blamed: dict[Key, str] = field(default_factory=dict)  # by runs that could not start: the name of the culprit


@dataclass(frozen=True)
class Line:
    """A run as the record shows it."""

    name: str
    kind: str
    index: int | None
    tags: Sequence[str]
    state: str
    result: str
    attempts: Sequence[str]

    def text(self, depth: int) -> str:
        place = "" if self.index is None else f" at {self.index}"
        tagged = f" tagged {', '.join(self.tags)}" if self.tags else ""
        attempts = f"{len(self.attempts)} attempts{''.join(f'; {attempt}' for attempt in self.attempts)}"
        return f"{'  ' * depth}{self.kind} {self.name}{place}{tagged}: {self.state}, {self.result} ({attempts})"


def in_order(own: Line, depth: int, others: Sequence[list[str]]) -> list[str]:
    """The lines of a run, and of those below it; in an order of which time is no part."""
    return [own.text(depth), *(line for lines in sorted(others) for line in lines)]


def attempt_text(state: str, error: str | None) -> str:
    return state if error is None else f"{state} by {error}"


def error_text(kind: str, text: str, culprit: str | None) -> str:
    """An error in the record. The engine's own texts are left out, but for who is to blame."""
    if kind == UpstreamTaskError.__name__:
        return f"{kind}<{culprit}>"
    return kind if kind.endswith("Group") else f"{kind}({text})"


def differences(seen: Told, expected: Told) -> list[str]:
    """What is wrong with what was seen, as lines."""
    lines = [f"expected: {expected.flow}\n     got: {seen.flow}"] if seen.flow != expected.flow else []
    lines += [f"expected: {line}" for line in expected.runs if line not in seen.runs]
    lines += [f"     got: {line}" for line in seen.runs if line not in expected.runs]
    if not lines and seen.runs != expected.runs:
        lines = ["expected:", *expected.runs, "got:", *seen.runs]
    lines += [f"no edge {edge}" for edge in sorted(expected.edges - seen.edges)]
    lines += [f"an edge {edge}" for edge in sorted(seen.edges - expected.edges - expected.possible_edges)]
    return lines + [f"logged: {line}" for line in seen.trouble]
