"""What a record consists of, and what a store of records must be able to do.

Rows are plain tuples of strings and numbers, so that a store never meets a user's object. Times are seconds
since the epoch, ids 32 hexadecimal digits. A row describes a run completely: writing it again replaces it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol, TypedDict, Unpack

from penstock.exceptions import StoreUnavailable


class StoreLocked(StoreUnavailable):
    """Another process kept the store locked for longer than the caller would wait. Trying again helps."""


class StoreMissing(StoreUnavailable):
    """Nothing was ever recorded there."""


class OwnerDeclaredDead(StoreUnavailable):
    """The runs were recorded as crashed because their process seemed dead: its records come too late."""


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
    owner: str | None = None  # root runs: token of the process that owns it
    resumed_from: str | None = None  # root runs: the run whose work this one goes on with
    position: str | None = None  # where the run is in its root run's tree, the same in every life; if it is kept
    result_key: str | None = None  # where its value is kept; None: it is not
    result_storage: str | None = None  # the storage that holds it; None: this store
    code: str | None = None  # digest of the task's code; if the value is kept


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


class LineRow(NamedTuple):
    """One line of a log, with its place in the store and the names of its run."""

    number: int  # grows in the order in which lines were written
    run_id: str
    time: float
    level: int
    logger: str
    message: str
    kind: str | None  # these three are None if the run is not recorded yet
    name: str | None
    run_name: str | None


class ResultRow(NamedTuple):
    """A kept value. Several may answer to one cache key: the one that was created last does."""

    address: str  # id of the run that made it
    cache_key: str | None
    task_key: str  # identity of the task
    created: float
    expires: float | None
    size: int  # bytes of the sealed value
    path: str | None  # name of the file that holds it, in the directory of large results
    sealed: bytes | None  # the value itself, with header and digest; None if it is in the file


class KeptRow(NamedTuple):
    """Of a completed run, what is needed to find its value and to decide whether that may be used again."""

    position: str | None
    result_key: str
    result_storage: str | None
    name: str
    key: str
    code: str | None
    root_id: str


class Batch(NamedTuple):
    """Rows that are written together: all of them or none."""

    runs: list[RunRow]
    attempts: list[AttemptRow]
    edges: list[EdgeRow]
    logs: list[LogRow]
    results: list[ResultRow]

    @classmethod
    def empty(cls) -> Batch:
        return cls([], [], [], [], [])

    @property
    def size(self) -> int:
        return sum(len(rows) for rows in self)


class StateCount(NamedTuple):
    """How many runs of a kind are in a state."""

    kind: str
    status: str
    state_name: str
    number: int
    retried: int = 0  # of these


class Tally(NamedTuple):
    """How many runs of one task or flow, called in one place, are in a state."""

    place: str  # names of the flows around them below the root run, from the outside in, with slashes between
    kind: str
    name: str
    status: str
    state_name: str
    number: int
    retried: int  # of these
    created: float  # the first of them


class Wanted(TypedDict, total=False):
    """Which runs somebody wants to see. What is left out, None or empty does not matter."""

    below: str | None  # id: runs below this one, rather than root runs
    kind: str | None
    name: str | None  # of the flow or task
    states: Sequence[str]  # statuses or names of states, one of them, in either case
    tags: Sequence[str]  # all of them
    since: float | None  # created at that time or later
    until: float | None  # created before
    text: str | None  # part of a name, of the parameters, the message or the error; letters of ASCII in either case


class Reader(Protocol):
    """The reading half of a store. Thread-safe. Every method may raise `StoreUnavailable`."""

    def get(self, run_id: str) -> RunRow | None:
        """Return the run with exactly this id."""
        ...

    def find(self, text: str, *, limit: int = 10) -> list[RunRow]:
        """Return the runs whose id starts with `text`; if there are none, the latest one with that run name.

        By name, flow runs and root task runs are found, also by name of the flow or task and run name with a slash
        between them. `@last` means the root run created last.
        """
        ...

    def inside(self, run_id: str, text: str, *, limit: int = 10) -> list[RunRow]:
        """Return runs below this one: those with `text` as run name, name of the task, or beginning of the id.

        Those with the run name come first, the others in order of creation.
        """
        ...

    def runs(self, *, before: RunRow | None = None, limit: int = 50, **wanted: Unpack[Wanted]) -> list[RunRow]:
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

    def tally(self, run_id: str) -> list[Tally]:
        """Count every run below this one by place, kind, name and state."""
        ...

    def failures(self, run_id: str, *, limit: int = 100) -> list[RunRow]:
        """Return the runs below this one that failed or crashed themselves, in the order in which they ended."""
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

    def line_numbers(self, run_id: str | None = None) -> tuple[int, int]:
        """Return the first and the last number of a log line of this run or one below it; of all: 0 and the last.

        Without lines, both are 0.
        """
        ...

    def lines(
        self, run: RunRow, after: int, last: int, *, level: int = 0, since: float | None = None, name: str | None = None
    ) -> list[LineRow]:
        """Return the log lines of this run, and of every run below it, with numbers beyond `after` up to `last`.

        Only those of `level` or above, written at `since` or later, of runs with this name or run name. Also those of
        runs that are not recorded yet, whoever they belong to. The caller keeps the range small.
        """
        ...

    def result(self, address: str) -> ResultRow | None:
        """Return the kept value with this address. Whether it has expired is for the caller to see."""
        ...

    def cached(self, cache_key: str) -> ResultRow | None:
        """Return the value that answers to this cache key: of several the one created last."""
        ...

    def results_of(self, task_key: str, *, limit: int = 20) -> list[ResultRow]:
        """Return the values of a task, latest first."""
        ...

    def kept(self, root_ids: Sequence[str]) -> Iterable[KeptRow]:
        """Return the completed runs in the trees of these root runs, themselves included, that have a kept value."""
        ...

    def not_kept(self, root_ids: Sequence[str]) -> dict[str, int]:
        """Count the completed task runs in these trees whose value is not kept, by name of the task."""
        ...

    def lost(self, root_ids: Sequence[str], now: float) -> dict[str, int]:
        """Count the completed runs in these trees whose value, kept in this store, is gone or has expired, by name."""
        ...

    def lives(self, run_id: str) -> list[RunRow]:
        """Return the run, those it goes on from, and those that went on from one of these, latest first."""
        ...

    def unfinished(self, owner: str | None = None) -> list[RunRow]:
        """Return the root runs that have not ended, of this owner or of all, latest first."""
        ...

    def owners(self) -> list[str]:
        """Return the owners of root runs that have not ended."""
        ...

    def vouches_for(self, owner: str) -> bool:
        """Whether the store itself knows that an owner may be alive, as one does that other machines use, too."""
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

    def write(self, batch: Batch, *, patience: float = 1.0, power: bool = False) -> None:
        """Store `batch` in one transaction: it is committed when this returns. With `power`, it survives a power cut.

        A run row replaces the one with its id, unless that run has ended and the new row says that it has not.
        A result replaces the one with its address; attempts and edges that are already there are ignored.
        Thread-safe. Waits at most `patience` seconds for other processes, then raises `StoreLocked`; raises
        `OwnerDeclaredDead` if the rows belong to an owner that is dead by record, and `StoreUnavailable` for
        everything else that stands in the way.
        """
        ...

    def declare_dead(self, owner: str, now: float, message: str, *, patience: float = 1.0) -> list[str]:
        """Record that all unfinished runs in the trees of this owner's root runs crashed, in one transaction.

        Returns the ids of the root runs that changed: none the second time. Rows that the owner writes later
        are refused. Waits and raises like `write`.
        """
        ...

    def claim(self, row: RunRow, lives: Sequence[str], *, patience: float = 1.0) -> RunRow | None:
        """Store the root run `row`, which goes on from one of `lives`; or return the run that already does.

        That is one with `resumed_from` in `lives` that has not ended, or has completed; but none of those that `row`
        itself goes on from, one after another. Of two processes that ask at the same time one gets the other's row.
        Waits and raises like `write`.
        """
        ...

    def drop_results(self, addresses: Sequence[str], *, patience: float = 1.0) -> None:
        """Forget these kept values; the files of large ones are the caller's. Waits and raises like `write`."""
        ...
