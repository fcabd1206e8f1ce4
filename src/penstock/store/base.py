"""What a record consists of, and what a store of records must be able to do.

Rows are plain tuples of strings and numbers, so that a store never meets a user's object. Times are seconds
since the epoch, ids 32 hexadecimal digits. A row describes a run completely: writing it again replaces it.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from penstock.exceptions import StoreUnavailable


class StoreLocked(StoreUnavailable):
    """Another process kept the store locked for longer than the caller would wait. Trying again helps."""


class StoreMissing(StoreUnavailable):
    """Nothing was ever recorded there."""


class RunRow(NamedTuple):
    """One flow run or task run as it is now."""

    id: str
    root_id: str  # the outermost run; its own id for that run itself
    parent_id: str | None  # the run whose body called this one
    flow_run_id: str | None  # the nearest flow run around it
    kind: str  # "flow" or "task"
    name: str  # of the flow or task
    run_name: str
    key: str  # identity of the task or flow, stable between processes
    map_index: int | None
    status: str  # PENDING RUNNING WAITING COMPLETED FAILED CRASHED CANCELLED
    state_name: str  # what users see: Completed, Cached, TimedOut, ...
    attempts: int  # started so far
    created: float
    ready: float | None = None  # all inputs were there
    started: float | None = None  # first attempt
    attempt_started: float | None = None  # latest attempt
    ended: float | None = None
    message: str | None = None
    error_type: str | None = None
    error: str | None = None
    traceback: str | None = None
    result: str | None = None  # short representation
    parameters: str = "{}"  # JSON object: name -> short representation
    tags: str = "[]"  # JSON array
    version: str | None = None
    info: str | None = None  # JSON object with further facts: host and pid of a root run, ...


class AttemptRow(NamedTuple):
    """An attempt that ended without ending its run. The latest attempt is part of the `RunRow`."""

    run_id: str
    number: int  # from 1
    started: float | None
    ended: float | None
    state_name: str
    error_type: str | None = None
    error: str | None = None
    traceback: str | None = None


class EdgeRow(NamedTuple):
    """One run waited for another. (Who called whom is `RunRow.parent_id`.)"""

    downstream_id: str
    upstream_id: str
    kind: str  # "data" or "wait_for"
    parameter: str | None = None


class LogRow(NamedTuple):
    """One line of a run's log. A store keeps lines in the order in which they were written."""

    run_id: str
    time: float
    level: int
    logger: str
    message: str


class Batch(NamedTuple):
    """Rows that are written together: all of them or none."""

    runs: list[RunRow]
    attempts: list[AttemptRow]
    edges: list[EdgeRow]
    logs: list[LogRow]

    @classmethod
    def empty(cls) -> Batch:
        return cls([], [], [], [])

    @property
    def size(self) -> int:
        return len(self.runs) + len(self.attempts) + len(self.edges) + len(self.logs)


class StateCount(NamedTuple):
    """How many runs of a kind are in a state."""

    kind: str
    status: str
    state_name: str
    number: int


class Reader(Protocol):
    """The reading half of a store. Thread-safe. Every method may raise `StoreUnavailable`."""

    def get(self, run_id: str) -> RunRow | None:
        """Return the run with exactly this id."""
        ...

    def find(self, text: str, *, limit: int = 10) -> list[RunRow]:
        """Return the runs whose id starts with `text`; if there are none, the latest one with that run name.

        By name, flow runs and root task runs are found. `@last` means the root run created last.
        """
        ...

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
        """Return root runs, latest first; the page after a page is the one `before` its last row."""
        ...

    def children(self, run_id: str) -> list[RunRow]:
        """Return the runs that this run called, in order of creation."""
        ...

    def tree(self, run_id: str, *, limit: int = 1000) -> list[RunRow]:
        """Return every run below this one, in order of creation."""
        ...

    def counts(self, run_id: str) -> list[StateCount]:
        """Count every run below this one by kind and state."""
        ...

    def attempts(self, run_id: str) -> list[AttemptRow]:
        """Return all attempts, the latest included, of this run and of every run below it."""
        ...

    def edges(self, run_id: str) -> list[EdgeRow]:
        """Return what this run, and every run below it, waited for."""
        ...

    def logs(self, run_id: str, *, limit: int = 1000) -> list[LogRow]:
        """Return the last `limit` lines of this run and of every run below it, oldest first."""
        ...

    def close(self) -> None:
        """Let go of the store. Further calls are errors, apart from `close`."""
        ...


class Store(Reader, Protocol):
    """A store of records: what a recorder writes to."""

    @property
    def generation(self) -> int:
        """Grows when the store had to start afresh, because somebody deleted or replaced it."""
        ...

    def write(self, batch: Batch, *, patience: float = 1.0) -> None:
        """Store `batch` in one transaction: it is committed when this returns.

        A run row replaces the one with its id; attempts and edges that are already there are ignored.
        Called by one thread at a time. Waits at most `patience` seconds for other processes, then raises
        `StoreLocked`; raises `StoreUnavailable` for everything else that stands in the way.
        """
        ...
