"""A store in this process's memory: for tests, and for runs whose records nobody wants to keep."""

from __future__ import annotations

from collections import Counter
from threading import Lock

from penstock.store.base import AttemptRow, Batch, EdgeRow, LogRow, RunRow, StateCount
from penstock.store.text import id_prefix


class MemoryStore:
    """Keeps rows in dictionaries and lists. Thread-safe, never full, never locked."""

    generation = 0

    def __init__(self) -> None:
        self._lock = Lock()
        self._runs: dict[str, RunRow] = {}
        self._attempts: dict[tuple[str, int], AttemptRow] = {}
        self._edges: dict[tuple[str, str, str], EdgeRow] = {}
        self._logs: list[LogRow] = []

    def write(self, batch: Batch, *, patience: float = 1.0) -> None:
        with self._lock:
            self._runs.update((row.id, row) for row in batch.runs)
            for attempt in batch.attempts:
                self._attempts.setdefault((attempt.run_id, attempt.number), attempt)
            for edge in batch.edges:
                self._edges.setdefault((edge.downstream_id, edge.upstream_id, edge.kind), edge)
            self._logs += batch.logs

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
        by_name = [row for row in latest_first if row.run_name == text and (row in roots or row.kind == "flow")]
        return by_id[:limit] or by_name[:1]

    def runs(
        self,
        *,
        kind: str | None = None,
        name: str | None = None,
        status: str | None = None,
        since: float | None = None,
        before: RunRow | None = None,
        limit: int = 50,
    ) -> list[RunRow]:
        found = [
            row
            for row in self._all()
            if row.parent_id is None
            and kind in (None, row.kind)
            and name in (None, row.name)
            and status in (None, row.status)
            and (since is None or row.created >= since)
            and (before is None or _creation(row) < _creation(before))
        ]
        return sorted(found, key=_creation, reverse=True)[:limit]

    def children(self, run_id: str) -> list[RunRow]:
        return sorted((row for row in self._all() if row.parent_id == run_id), key=_creation)

    def tree(self, run_id: str, *, limit: int = 1000) -> list[RunRow]:
        below = self._ids(run_id) - {run_id}
        return sorted((row for row in self._all() if row.id in below), key=_creation)[:limit]

    def counts(self, run_id: str) -> list[StateCount]:
        below = self._ids(run_id) - {run_id}
        found = Counter((row.kind, row.status, row.state_name) for row in self._all() if row.id in below)
        return [StateCount(*state, number) for state, number in sorted(found.items())]

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

    def close(self) -> None:
        """Nothing to let go of: the records stay readable as long as the object lives."""

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
