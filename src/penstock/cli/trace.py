"""The trace of a run: JSON in Chrome's trace event format, which Perfetto and others show.

What ran is on lanes: as many as there were runs at the same time, each run on the first lane that was free. A run with
several attempts has them, and the pauses between them, inside. What waited before its first attempt would need a lane
of its own for each of ten thousand runs; so counters tell how many were waiting, and each run how long it did. Arrows
lead from a run to those that waited for it.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from typing import Any

from penstock.cli.common import title
from penstock.cli.text import unpacked
from penstock.cli.whole import Whole, how_it_went, microseconds, moment_of
from penstock.store.base import AttemptRow, EdgeRow, RunRow

_PROCESS = 1
_SHORTEST = 1  # microseconds: viewers drop what takes no time
_WAITS = ("waiting for inputs", "waiting to be started", "running")

Event = dict[str, Any]


def as_trace(whole: Whole) -> str:
    """The trace as one JSON object, in ASCII, one event a line."""
    begin = moment_of(whole.run.created) or 0.0
    facts = {
        "run": title(whole.run),
        "id": whole.run.id,
        "state": whole.run.state_name,
        "went": how_it_went(whole),
        "begin": begin,
        "penstock": version("penstock"),
    }
    events = ",\n".join(json.dumps(event, allow_nan=False) for event in _events(whole, begin))
    head = json.dumps({"displayTimeUnit": "ms", "otherData": facts}, allow_nan=False)
    return f'{head[:-1]}, "traceEvents": [\n{events}\n]}}\n'


def _events(whole: Whole, begin: float) -> Iterator[Event]:
    spans = [span for run in whole.runs if (span := _Span.of(run, whole, begin)) is not None]
    lanes = _assign_lanes(spans)
    yield from _names(whole.run, lanes)
    for span in spans:
        yield from span.events()
    for run in whole.runs:
        if run.started is None:
            yield from _instant(run, begin)
    yield from _arrows(whole.edges, {span.run.id: span for span in spans})
    yield from _counters(whole.runs, begin)


def _names(run: RunRow, lanes: int) -> Iterator[Event]:
    def name(what: str, lane: int, **args: Any) -> Event:
        return {"ph": "M", "name": what, "pid": _PROCESS, "tid": lane, "args": args}

    yield name("process_name", 0, name=title(run))
    for lane in range(lanes):
        yield name("thread_name", lane, name=f"lane {lane + 1}")
        yield name("thread_sort_index", lane, sort_index=lane)


class _Span:
    """A run that has started: from its first attempt to its end."""

    def __init__(self, run: RunRow, begin: float, start: int, end: int, attempts: Sequence[AttemptRow]) -> None:
        self.run = run
        self.start = start
        self.end = max(end, start + _SHORTEST)
        self.lane = 0
        self._begin = begin
        self._attempts = attempts

    @classmethod
    def of(cls, run: RunRow, whole: Whole, begin: float) -> _Span | None:
        start = microseconds(run.started, begin)
        if start is None:
            return None
        end = microseconds(whole.seen if run.ended is None else run.ended, begin)
        return cls(run, begin, start, start if end is None else end, whole.attempts.get(run.id, ()))

    def events(self) -> Iterator[Event]:
        run = self.run
        yield self._slice(title(run), run.kind, self.start, self.end, _facts(run))
        if len(self._attempts) < 2:
            return
        before: int | None = None
        for attempt in self._attempts:
            start = self._inside(attempt.started, self.start)
            end = self._inside(attempt.ended, self.end)
            if before is not None and start > before:
                yield self._slice("waiting to try again", "retry", before, start, {})
            facts = {"state": attempt.state_name, "error": _error(attempt)}
            yield self._slice(f"attempt {attempt.number}", "attempt", start, end, facts)
            before = max(start, end)

    def _inside(self, seconds: float | None, otherwise: int) -> int:
        moment = microseconds(seconds, self._begin)
        return min(max(otherwise if moment is None else moment, self.start), self.end)

    def _slice(self, name: str, kind: str, start: int, end: int, args: Event) -> Event:
        place = {"pid": _PROCESS, "tid": self.lane, "ts": start, "dur": max(0, end - start)}
        return {"ph": "X", "name": name, "cat": kind, **place, "args": args}


def _facts(run: RunRow) -> Event:
    facts = {
        "id": run.id,
        "state": run.state_name,
        "attempts": run.attempts,
        "waited for inputs": _milliseconds(run.created, run.ready),
        "waited to be started": _milliseconds(run.ready, run.started),
        "parameters": unpacked(run.parameters),
        "result": run.result,
        "message": run.message,
        "error": _error(run),
    }
    return {name: value for name, value in facts.items() if value not in (None, {})}


def _error(end: RunRow | AttemptRow) -> str | None:
    return None if end.error_type is None else f"{end.error_type}: {end.error}"


def _milliseconds(start: float | None, end: float | None) -> str | None:
    first, last = moment_of(start), moment_of(end)
    return None if first is None or last is None else f"{1000 * max(0.0, last - first):.3f} ms"


def _assign_lanes(spans: Sequence[_Span]) -> int:
    """Give each run the first lane that is free; how many there are. The outermost run has the first to itself."""
    free: list[int] = []
    busy: list[tuple[int, int]] = []  # until when, lane
    number = 0
    for span in sorted(spans, key=lambda span: (span.start, -span.end)):
        while busy and busy[0][0] <= span.start:
            heapq.heappush(free, heapq.heappop(busy)[1])
        if free:
            span.lane = heapq.heappop(free)
        else:
            span.lane, number = number, number + 1
        heapq.heappush(busy, (span.end, span.lane))
    return number


def _instant(run: RunRow, begin: float) -> Iterator[Event]:
    """A run that ended without an attempt: cached, blocked, cancelled before its turn."""
    if (moment := microseconds(run.ended, begin)) is not None:
        place = {"pid": _PROCESS, "tid": 0, "ts": moment}
        yield {
            "ph": "i",
            "s": "p",
            "name": f"{title(run)}: {run.state_name}",
            "cat": run.kind,
            **place,
            "args": _facts(run),
        }


def _arrows(edges: Sequence[EdgeRow], spans: dict[str, _Span]) -> Iterator[Event]:
    for number, edge in enumerate(edges, start=1):
        source, target = spans.get(edge.upstream_id), spans.get(edge.downstream_id)
        if source is None or target is None:
            continue
        kind = {"name": edge.parameter or edge.kind, "cat": edge.kind, "id": number, "pid": _PROCESS}
        # Just inside: an arrow belongs to the slice that is open at its time.
        yield {"ph": "s", "tid": source.lane, "ts": source.end - _SHORTEST, **kind}
        yield {"ph": "f", "bp": "e", "tid": target.lane, "ts": target.start, **kind}


def _counters(runs: Iterable[RunRow], begin: float) -> Iterator[Event]:
    """How many task runs were waiting, and how many were running, whenever that changed."""
    changes: dict[int, list[int]] = {}
    for run in runs:
        if run.kind != "task":
            continue
        for what, (start, end) in enumerate(_phases(run, begin)):
            if start is not None and end is not None and start < end:
                changes.setdefault(start, [0, 0, 0])[what] += 1
                changes.setdefault(end, [0, 0, 0])[what] -= 1
    numbers = [0, 0, 0]
    for moment, change in sorted(changes.items()):
        numbers = [number + by for number, by in zip(numbers, change, strict=True)]
        args = dict(zip(_WAITS, numbers, strict=True))
        yield {"ph": "C", "name": "task runs", "pid": _PROCESS, "ts": moment, "args": args}


def _phases(run: RunRow, begin: float) -> list[tuple[int | None, int | None]]:
    moments = [microseconds(seconds, begin) for seconds in (run.created, run.ready, run.started, run.ended)]
    created, ready, started, ended = moments
    first = ended if started is None else started
    return [(created, first if ready is None else ready), (ready, first), (started, ended)]
