"""Runs counted by what has become of them, and said in words: one wording for logs, progress and the command line.

Pure: plain data in, text out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

ENDS = ("completed", "cached", "failed", "crashed", "blocked", "cancelled")
FATES = ("pending", "waiting", "running", *ENDS)
"""What can have become of a run. Each run has one; beside that it may have been `retried`."""

_OF_STATE = {"Cached": "cached", "UpstreamFailed": "blocked"}
_NAMED_AT_MOST = 8  # tasks in one line
_SAID = ("failed", "crashed", "blocked", "cancelled", "cached")
_BAD = ("failed", "crashed")


class Group:
    """The runs of one task or flow in one place: directly in the root flow run, or inside subflows of some name."""

    __slots__ = ("kind", "left", "name", "numbers", "path", "rate")

    def __init__(
        self, name: str, kind: str = "task", path: Sequence[str] = (), numbers: Mapping[str, int] | None = None
    ) -> None:
        """`numbers`: how many, by fate; "retried" counts some of them again. `path`: names of the flows around."""
        self.name = name
        self.kind = kind
        self.path = tuple(path)
        self.numbers = dict(numbers or {})
        self.rate: float | None = None  # that get done per second, lately
        self.left: float | None = None  # seconds until all that are known will have ended, at that rate

    def add(self, fate: str, number: int = 1) -> None:
        self.numbers[fate] = self.numbers.get(fate, 0) + number

    def number(self, *fates: str) -> int:
        return sum(self.numbers.get(fate, 0) for fate in fates)

    @property
    def total(self) -> int:
        return self.number(*FATES)

    @property
    def ended(self) -> int:
        return self.number(*ENDS)


def fate(status: str, state_name: str) -> str:
    """What has become of a run that is recorded with this status and this name of its state."""
    return _OF_STATE.get(state_name) or status.lower()


def total(groups: Iterable[Group], kind: str) -> Group:
    """All runs of a kind together."""
    whole = Group("", kind)
    for group in groups:
        if group.kind == kind:
            for name, number in group.numbers.items():
                whole.add(name, number)
    return whole


# --- in words ---------------------------------------------------------------------------------------------------------


def sentence(path: str, state: str, seconds: float | None, groups: Sequence[Group], *, handled: bool = False) -> str:
    """How a run ended: "etl/brave-otter COMPLETED in 4.2 s · 26 task runs (1 failed and handled, 3 cached)".

    `groups`: the runs below it. `handled`: somebody has looked at each failure.
    """
    counted = [counts(whole, noun, handled=handled) for noun, whole in _nouns(groups) if whole.total]
    took = "" if seconds is None else f" in {duration(seconds)}"
    return f"{path} {state}{took}" + (f" · {', '.join(counted)}" if counted else "")


def _nouns(groups: Sequence[Group]) -> list[tuple[str, Group]]:
    return [("task run", total(groups, "task")), ("subflow run", total(groups, "flow"))]


def counts(group: Group, noun: str, *, handled: bool = False) -> str:
    """How many there are, and what there is to know about them: "26 task runs (1 failed, 3 cached)"."""
    said = notes(group, handled=handled)
    return plural(group.total, noun) + (f" ({', '.join(said)})" if said else "")


def notes(group: Group, *, handled: bool = False) -> list[str]:
    """What there is to know about runs beside their number: "8 running", "1 failed", "3 cached"."""
    return [*_unfinished(group), *_ends(group, handled)]


def _ends(group: Group, handled: bool) -> Iterable[str]:
    for fate in _SAID:
        earlier = group.number(f"{fate} earlier") if fate in _BAD else 0
        now = group.number(fate) - earlier
        if now:
            yield f"{now:,} {fate}" + (" and handled" if handled and fate in _BAD else "")
        if earlier:
            yield f"{earlier:,} {fate} in an earlier attempt"
    if group.number("retried"):
        yield f"{group.number('retried'):,} retried"


def _unfinished(group: Group) -> Iterable[str]:
    return [f"{group.number(fate):,} {fate}" for fate in ("running", "waiting") if group.number(fate)]


def in_words(groups: Sequence[Group]) -> str:
    """What goes on, in one line: `extract 9,803/10,000 (8 running, 3 failed, 37 retried), 0:27 left; load 12/12`."""
    if not groups:
        return "nothing has begun"
    first = sorted(groups, key=lambda group: group.ended == group.total)[:_NAMED_AT_MOST]
    said = [_one_in_words(group) for group in groups if group in first]
    more = len(groups) - len(said)
    return "; ".join(said) + (f"; and {more} more" if more else "")


def _one_in_words(group: Group) -> str:
    said = notes(group)
    left = "" if group.left is None else f", {clock(group.left)} left"
    name = "/".join((*group.path, group.name))
    return f"{name} {group.ended:,}/{group.total:,}" + (f" ({', '.join(said)})" if said else "") + left


def state_words(status: str, state_name: str) -> str:
    """COMPLETED, or FAILED (TimedOut): the status, and the name of the state where that says more."""
    return status if state_name.upper() == status else f"{status} ({state_name})"


def duration(seconds: float | None) -> str:
    """A length of time in the two units that matter: 12 ms, 4.2 s, 3 min 20 s, 2 h 5 min."""
    if seconds is None or not math.isfinite(seconds):
        return "-"
    if seconds < 0.9995:
        return f"{max(0.0, seconds) * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def clock(seconds: float) -> str:
    """A length of time in little space: 0:27, 3:20, 2:05:00."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def plural(number: int, word: str) -> str:
    return f"{number:,} {word}" if number == 1 else f"{number:,} {word}s"
