"""A store in this process's memory: for tests, and for runs whose records nobody wants to keep."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Unpack

from penstock.store.base import (
    AttemptRow,
    Batch,
    EdgeRow,
    KeptRow,
    LineRow,
    LogRow,
    OwnerDeclaredDead,
    ResultRow,
    RunRow,
    StateCount,
    Tally,
    Wanted,
)
from penstock.store.text import id_prefix, is_wanted, possible_names


class MemoryStore:
    """Keeps rows in dictionaries and lists. Thread-safe, never full, never locked."""

    generation = 0

    def __init__(self) -> None:
        self._lock = Lock()
        self._runs: dict[str, RunRow] = {}
        self._attempts: dict[tuple[str, int], AttemptRow] = {}
        self._edges: dict[tuple[str, str, str], EdgeRow] = {}
        self._logs: list[LogRow] = []
        self._results: dict[str, ResultRow] = {}
        self._dead: set[str | None] = set()  # owners

    def write(self, batch: Batch, *, patience: float = 1.0, power: bool = False) -> None:
        with self._lock:
            self._refuse_the_dead(batch)
            for row in batch.runs:
                self._put(row)
            for attempt in batch.attempts:
                self._attempts.setdefault((attempt.run_id, attempt.number), attempt)
            for edge in batch.edges:
                self._edges.setdefault((edge.downstream_id, edge.upstream_id, edge.kind), edge)
            self._logs += batch.logs
            self._results.update((row.address, row) for row in batch.results)

    def declare_dead(self, owner: str, now: float, message: str, *, patience: float = 1.0) -> list[str]:
        changed = [row.id for row in reversed(self.unfinished(owner))]
        ids = set[str]().union(*map(self._ids, changed))
        with self._lock:
            self._dead.add(owner)
            for row in [self._runs[run_id] for run_id in ids]:
                if row.ended is None:
                    self._runs[row.id] = _crashed(row, now, message)
        return changed

    def claim(self, row: RunRow, lives: Sequence[str], *, patience: float = 1.0) -> RunRow | None:
        with self._lock:
            line = self._line(row.resumed_from)
            taken = [
                other
                for other in self._runs.values()
                if other.resumed_from in lives
                and other.id not in line
                and other.parent_id is None
                and (other.ended is None or other.status == "COMPLETED")
            ]
            if not taken:
                self._put(row)
        return max(taken, key=_creation, default=None)

    def drop_results(self, addresses: Sequence[str], *, patience: float = 1.0) -> None:
        with self._lock:
            for address in addresses:
                self._results.pop(address, None)

    def get(self, run_id: str) -> RunRow | None:
        return self._runs.get(run_id)

    def find(self, text: str, *, limit: int = 10) -> list[RunRow]:
        if text == "@last":
            return self.runs(limit=1)
        latest_first = sorted(self._all(), key=_creation, reverse=True)
        roots = [row for row in latest_first if row.parent_id is None]
        prefix = id_prefix(text)
        by_id = [row for row in roots if prefix and row.id.startswith(prefix)] or [
            row for row in sorted(latest_first) if prefix and row.id.startswith(prefix)
        ]
        by_name = [
            row
            for name, run_name in possible_names(text)
            for row in latest_first
            if row.run_name == run_name and name in (None, row.name) and (row.parent_id is None or row.kind == "flow")
        ]
        return by_id[:limit] or by_name[:1]

    def inside(self, run_id: str, text: str, *, limit: int = 10) -> list[RunRow]:
        prefix = id_prefix(text)
        found = [
            row
            for row in self.tree(run_id, limit=sys.maxsize)
            if text in (row.run_name, row.name) or (prefix and row.id.startswith(prefix))
        ]
        return sorted(found, key=lambda row: row.run_name != text)[:limit]

    def runs(self, *, before: RunRow | None = None, limit: int = 50, **wanted: Unpack[Wanted]) -> list[RunRow]:
        below = wanted.get("below")
        rows = (
            [row for row in self._all() if row.parent_id is None]
            if below is None
            else self.tree(below, limit=sys.maxsize)
        )
        found = [
            row for row in rows if is_wanted(row, wanted) and (before is None or _creation(row) < _creation(before))
        ]
        return sorted(found, key=_creation, reverse=True)[:limit]

    def children(self, run_id: str) -> list[RunRow]:
        return sorted((row for row in self._all() if row.parent_id == run_id), key=_creation)

    def tree(self, run_id: str, *, limit: int = 1000) -> list[RunRow]:
        below = self._ids(run_id) - {run_id}
        return sorted((row for row in self._all() if row.id in below), key=_creation)[:limit]

    def counts(self, run_id: str) -> list[StateCount]:
        below = self._ids(run_id) - {run_id}
        rows = [row for row in self._all() if row.id in below]
        found = Counter((row.kind, row.status, row.state_name) for row in rows)
        with self._lock:
            again = {run_id for run_id, _ in self._attempts}
        retried = Counter((row.kind, row.status, row.state_name) for row in rows if row.id in again)
        return [StateCount(*state, number, retried[state]) for state, number in sorted(found.items())]

    def tally(self, run_id: str) -> list[Tally]:
        rows: dict[str | None, RunRow] = {row.id: row for row in self.tree(run_id, limit=sys.maxsize)}
        with self._lock:
            again = {run_id for run_id, _ in self._attempts}
        found: dict[tuple[str, str, str, str, str], list[RunRow]] = {}
        for row in rows.values():
            found.setdefault((_place(row, rows), row.kind, row.name, row.status, row.state_name), []).append(row)
        return [
            Tally(*key, len(same), sum(row.id in again for row in same), min(row.created for row in same))
            for key, same in sorted(found.items())
        ]

    def failures(self, run_id: str, *, limit: int = 100) -> list[RunRow]:
        found = [
            row
            for row in self.tree(run_id, limit=sys.maxsize)
            if row.status in ("FAILED", "CRASHED") and row.state_name != "UpstreamFailed"
        ]
        return sorted(found, key=lambda row: (row.ended or 0.0, row.id))[:limit]

    def attempts(self, run_id: str) -> list[AttemptRow]:
        ids = self._ids(run_id)
        with self._lock:
            found = dict(self._attempts)
            for row in self._runs.values():
                if row.attempts:
                    found.setdefault((row.id, row.attempts), _latest_attempt(row))
        return [found[key] for key in sorted(found) if key[0] in ids]

    def edges(self, run_id: str) -> list[EdgeRow]:
        ids = self._ids(run_id)
        with self._lock:
            return [self._edges[key] for key in sorted(self._edges) if key[0] in ids]

    def logs(self, run_id: str, *, limit: int = 1000) -> list[LogRow]:
        ids = self._ids(run_id)
        with self._lock:
            found = [row for row in self._logs if row.run_id in ids]
        return found[max(0, len(found) - limit) :]

    def line_numbers(self, run_id: str | None = None) -> tuple[int, int]:
        if run_id is None:
            return 0, len(self._logs)
        ids = self._ids(run_id)
        with self._lock:
            found = [number for number, row in enumerate(self._logs, 1) if row.run_id in ids]
        return (found[0], found[-1]) if found else (0, 0)

    def lines(
        self, run: RunRow, after: int, last: int, *, level: int = 0, since: float | None = None, name: str | None = None
    ) -> list[LineRow]:
        ids = self._ids(run.id)
        found: list[LineRow] = []
        with self._lock:
            for number, row in enumerate(self._logs[after:last], after + 1):
                of = self._runs.get(row.run_id)
                names = (None, None, None) if of is None else (of.kind, of.name, of.run_name)
                wanted = of is None or (of.id in ids and name in (None, of.name, of.run_name))
                if wanted and row.level >= level and (since is None or row.time >= since):
                    found.append(LineRow(number, *row, *names))
        return found

    def result(self, address: str) -> ResultRow | None:
        return self._results.get(address)

    def cached(self, cache_key: str) -> ResultRow | None:
        with self._lock:
            found = [row for row in self._results.values() if row.cache_key == cache_key]
        return max(found, key=_result_creation, default=None)

    def results_of(self, task_key: str, *, limit: int = 20) -> list[ResultRow]:
        with self._lock:
            found = [row for row in self._results.values() if row.task_key == task_key]
        return sorted(found, key=_result_creation, reverse=True)[:limit]

    def kept(self, root_ids: Sequence[str]) -> list[KeptRow]:
        return [
            KeptRow(row.position, row.result_key, row.result_storage, row.name, row.key, row.code, row.root_id)
            for root_id in root_ids
            for row in self._all()
            if row.root_id == root_id and row.result_key is not None and row.status == "COMPLETED"
        ]

    def not_kept(self, root_ids: Sequence[str]) -> dict[str, int]:
        ids = set[str]().union(*map(self._ids, root_ids))
        return Counter(
            row.name
            for row in self._all()
            if row.id in ids and row.kind == "task" and row.status == "COMPLETED" and row.result_key is None
        )

    def lost(self, root_ids: Sequence[str], now: float) -> dict[str, int]:
        ids = set[str]().union(*map(self._ids, root_ids))
        return Counter(
            row.name
            for row in self._all()
            if row.id in ids and row.status == "COMPLETED" and row.result_key is not None and row.result_storage is None
            if (result := self.result(row.result_key)) is None or (result.expires is not None and result.expires <= now)
        )

    def lives(self, run_id: str) -> list[RunRow]:
        found: dict[str, RunRow] = {}
        fresh = [row for row in self._all() if row.id == run_id]
        while fresh:
            found.update((row.id, row) for row in fresh)
            origins = {row.resumed_from for row in found.values()}
            related = [row for row in self._all() if row.id in origins or row.resumed_from in found]
            fresh = [row for row in related if row.id not in found]
        return sorted(found.values(), key=_creation, reverse=True)

    def unfinished(self, owner: str | None = None) -> list[RunRow]:
        found = [
            row for row in self._all() if row.parent_id is None and row.ended is None and owner in (None, row.owner)
        ]
        return sorted(found, key=_creation, reverse=True)

    def owners(self) -> list[str]:
        return sorted({row.owner for row in self.unfinished() if row.owner is not None})

    def vouches_for(self, owner: str) -> bool:
        return False

    def close(self) -> None:
        """Nothing to let go of: the records stay readable as long as the object lives."""

    def _line(self, run_id: str | None) -> set[str]:
        """The run and those that it goes on from, one after another."""
        ids = set[str]()
        while run_id in self._runs and run_id not in ids:
            ids.add(run_id)
            run_id = self._runs[run_id].resumed_from
        return ids

    def _put(self, row: RunRow) -> None:
        before = self._runs.get(row.id)
        if before is None or before.ended is None or row.ended is not None:
            self._runs[row.id] = row

    def _refuse_the_dead(self, batch: Batch) -> None:
        if self._dead:
            roots = [self._runs.get(row.root_id, row) for row in batch.runs]
            if found := {row.owner for row in (*batch.runs, *roots)} & self._dead:
                raise OwnerDeclaredDead(f"the process that owns these runs is dead by record (owner {found.pop()})")

    def _all(self) -> list[RunRow]:
        with self._lock:
            return list(self._runs.values())

    def _ids(self, run_id: str) -> set[str]:
        """The ids of the run and of every run below it."""
        children: dict[str | None, list[str]] = {}
        for row in self._all():
            children.setdefault(row.parent_id, []).append(row.id)
        ids, fresh = set[str](), [run_id]
        while fresh:
            current = fresh.pop()
            ids.add(current)
            fresh += [child for child in children.get(current, ()) if child not in ids]
        return ids


def _creation(row: RunRow) -> tuple[float, str]:
    return row.created, row.id


def _place(row: RunRow, rows: Mapping[str | None, RunRow]) -> str:
    names = []
    above = rows.get(row.parent_id)
    while above is not None:
        if above.kind == "flow":
            names.append(above.name)
        above = rows.get(above.parent_id)
    return "/".join(reversed(names))


def _result_creation(row: ResultRow) -> tuple[float, str]:
    return row.created, row.address


def _crashed(row: RunRow, now: float, message: str) -> RunRow:
    error_type = "CrashedRun" if row.kind == "flow" else row.error_type
    return row._replace(status="CRASHED", state_name="Crashed", ended=now, message=message, error_type=error_type)


def _latest_attempt(row: RunRow) -> AttemptRow:
    return AttemptRow(
        row.id,
        row.attempts,
        row.attempt_started,
        row.ended,
        row.state_name,
        row.error_type,
        row.error,
        row.traceback,
    )
