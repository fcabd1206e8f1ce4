"""What transactions are made of: how their ends are carried out, and how what they have staged gets to the store.

The end of a transaction takes time: it waits for runs, calls hooks, writes. It is told in *steps*, a generator of
requests, like the life of a run: `drive` carries them out while a thread waits, `drive_in_loop` while a coroutine
does, and where they are part of a run's end, the run's driver does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from penstock._engine import loop, waiting
from penstock._engine.context import current_run, current_transaction
from penstock._engine.record import Foreign, Snapshot
from penstock._engine.requests import Aside, Awaited, deliver
from penstock._engine.run import Run
from penstock.exceptions import StoreUnavailable
from penstock.futures import Countdown, Gate, await_in_loop
from penstock.store.base import Batch, ResultRow, RunRow
from penstock.task_runners.base import here

if TYPE_CHECKING:
    from penstock._engine.archive import Archive
    from penstock._engine.recorder import Recorder

Steps = Generator[Any, Any, Any]

_ADVICE = "use `async with transaction()`"

# --- carrying out -----------------------------------------------------------------------------------------------------


class Ends:
    """Wait until these runs have ended, or lists of them exist."""

    def __init__(self, runs: Sequence[Any]) -> None:
        self.runs = runs

    def arm(self, run: Run) -> None:
        Countdown(self.runs, lambda: deliver(run, self, None)).start()


class Lent(Aside):
    """Call what may block for long; meanwhile others have the slot of the thread that waits."""

    __slots__ = ()

    def perform(self) -> None:
        slot = here.slot
        if slot is None:
            super().perform()
            return
        slot.release()
        try:
            super().perform()
        finally:
            slot.acquire()


def aside(action: Callable[[], Any], *, lends: bool = False) -> Steps:
    """Call what may block where that does no harm; what it returns, or raises."""
    values: list[Any] = []
    errors: list[BaseException] = []

    def act() -> None:
        try:
            values.append(action())
        except BaseException as error:
            errors.append(error)

    yield Lent(act) if lends else Aside(act)
    if errors:
        raise errors[0]
    return values[0]


def drive(steps: Steps) -> Any:
    """Carry out steps while the calling thread waits."""
    go_on: Callable[[Any], Any] = steps.send
    value: Any = None
    while True:
        try:
            request = go_on(value)
        except StopIteration as end:
            return end.value
        try:
            go_on, value = steps.send, _perform(request)
        except BaseException as error:
            go_on, value = steps.throw, error


def _perform(request: Any) -> Any:
    if type(request) is Ends:
        return _await_ends(request.runs)
    if type(request) is Awaited:
        return loop.outcome_elsewhere(request.awaitable)
    return request.perform()


def _await_ends(runs: Sequence[Any]) -> None:
    gate = Gate()
    countdown = Countdown(runs, gate.open)
    if not countdown.pending:
        return
    countdown.start()
    needed = [run for one in countdown.pending for run in getattr(one, "causes", (one,))]
    try:
        waiting.block(gate, None, needed, advice=_ADVICE)
    finally:
        countdown.stop()


async def drive_in_loop(steps: Steps) -> Any:
    """Carry out steps while the calling coroutine waits."""
    go_on: Callable[[Any], Any] = steps.send
    value: Any = None
    while True:
        try:
            request = go_on(value)
        except StopIteration as end:
            return end.value
        try:
            go_on, value = steps.send, await _perform_in_loop(request)
        except BaseException as error:
            go_on, value = steps.throw, error


async def _perform_in_loop(request: Any) -> Any:
    if type(request) is Ends:
        return await await_in_loop(request.runs)
    if type(request) is Awaited:
        return await loop.outcome_of(request.awaitable)
    cancellation = await loop.aside(request.perform)
    if cancellation is not None:
        raise cancellation
    return None


@contextmanager
def inside(run: Run | None) -> Iterator[None]:
    """In the context of a run, and in no transaction: what a hook calls is not part of the one that is ending."""
    tokens = current_run.set(run), current_transaction.set(None)
    try:
        yield
    finally:
        current_run.reset(tokens[0])
        current_transaction.reset(tokens[1])


async def await_inside(run: Run | None, awaitable: Awaitable[Any]) -> Any:
    with inside(run):
        return await awaitable


@contextmanager
def able_to_call(run: Run | None) -> Iterator[None]:
    """A root run has closed its engine at its end; that is opened again for hooks that call tasks."""
    engine = None if run is None or not run.engine.root.done else run.engine
    if engine is None or not engine.closing:  # a hook of what a hook has called
        yield
        return
    engine.closing = False
    try:
        yield
    finally:
        engine.closing = True
        engine.rest()


def stand_in(run: Run) -> Run:
    """The run without what it holds, for hooks after its end: they log as part of it, and it can have children."""
    copied = Run(run.id, run.plan, run.engine, run.parent, {}, run.tags, run.number, run.index)
    copied.custom_name, copied.attempt, copied.memo = run.custom_name, run.attempt, run.memo
    copied.created, copied.started, copied.ended = run.created, run.started, run.ended
    copied.status, copied.reason = run.status, run.reason
    return copied


# --- custom storages --------------------------------------------------------------------------------------------------


class Later(NamedTuple):
    """Something that is to be written to a custom storage."""

    storage: Any
    key: str
    data: bytes
    durable: bool


class Postponed:
    def __init__(self, storage: Any, writes: list[Later]) -> None:
        self.uri = storage.uri
        self._storage = storage
        self._writes = writes

    def write(self, key: str, data: bytes, *, durable: bool = False) -> None:
        self._writes.append(Later(self._storage, key, data, durable))


# --- what is stored ---------------------------------------------------------------------------------------------------


class Staged(Protocol):
    """Part of a transaction, as far as it is about the store."""

    def write_apart(self) -> None: ...
    def contribute(self, part: Callable[[Recorder], Part]) -> None: ...
    def take_back_apart(self) -> None: ...
    def take_back(self, part: Callable[[Recorder], Part]) -> None: ...


class Entry:
    """What is recorded of a run that has ended, as it is when it is written.

    The recorder may have it in hand for a moment, and then writes it after what has been handed in later. So a row that
    is to replace it takes its place here, too.
    """

    unstarted = power = False

    __slots__ = ("_attempts", "_edges", "row")

    def __init__(self, snapshot: Snapshot) -> None:
        batch = Batch.empty()
        snapshot.rows(batch)
        self._attempts, self._edges, self.row = tuple(batch.attempts), tuple(batch.edges), batch.runs[0]

    def taken(self, ticket: object) -> Entry:
        return self

    def rows(self, batch: Batch) -> None:
        batch.attempts.extend(self._attempts)
        batch.edges.extend(self._edges)
        batch.runs.append(self.row)


class Part:
    """What goes to one store at once, or vanishes from it."""

    def __init__(self) -> None:
        self.batch = Batch.empty()
        self.entries: list[Entry] = []  # which the runs in the batch replace
        self.archive: Archive | None = None
        self.power = False
        self.waits = False

    def replace(self, entry: Entry, row: RunRow) -> None:
        self.entries.append(entry)
        self.batch.runs.append(row)

    def replaced(self) -> Batch:
        """The rows of runs only, which from here on are what the entries say."""
        for entry, row in zip(self.entries, self.batch.runs, strict=True):
            entry.row = row
        changed = Batch.empty()
        changed.runs.extend(self.batch.runs)
        return changed

    def add(self, archive: Archive | None, rows: Sequence[ResultRow]) -> None:
        self.archive = archive
        self.batch.results.extend(rows)


class Parts(dict["Recorder", Part]):
    def __missing__(self, recorder: Recorder) -> Part:
        self[recorder] = part = Part()
        return part


def store(nodes: Sequence[Staged]) -> None:
    """Store everything that is staged, in one transaction of the store. Blocks; raises what prevents it."""
    parts = Parts()
    for node in nodes:
        node.write_apart()  # first: what is recorded must be there
    for node in nodes:
        node.contribute(parts.__getitem__)
    for recorder, part in parts.items():
        _write(recorder, part)


def _write(recorder: Recorder, part: Part) -> None:
    if not part.batch.size:
        return
    if not part.waits and recorder.send_home is None:
        part.replaced()
        recorder.add(Foreign(part.batch))
        if part.archive is not None:
            part.archive.unsettled = True
        return
    # Not through the queue: what is in there is written some time, and this is to be written now or never. But
    # after what is in there, because of two rows about one run the later one counts.
    if not recorder.commit():
        raise StoreUnavailable("the run store cannot be written")
    _exclusively(recorder, lambda store: store.write(part.batch, patience=recorder.lock_patience, power=part.power))
    _tell_home(recorder, part)


def _exclusively(recorder: Recorder, action: Callable[[Any], object]) -> None:
    if recorder.send_home is None:
        recorder.exclusively(action)
    else:
        action(recorder.reader)  # a worker's own connection


def _tell_home(recorder: Recorder, part: Part) -> None:
    """A worker's runs are recorded by the process of the flow: its rows about them must not be older than ours."""
    if recorder.send_home is not None and part.batch.runs:
        recorder.send_home(("changed", tuple(part.replaced())))


def erase(nodes: Sequence[Staged], stored: bool) -> None:
    """Record that runs have been rolled back, and see to it that their results are gone. Blocks."""
    parts = Parts()
    for node in nodes:
        node.take_back_apart()
    for node in nodes:
        node.take_back(parts.__getitem__)
    for recorder, part in parts.items():
        if stored:
            recorder.commit()  # else some of it might be written after it has been taken back
        if recorder.send_home is not None:
            _tell_home(recorder, part)
        elif part.entries:
            recorder.add(Foreign(part.replaced()))
        if stored and part.batch.results:
            _drop(recorder, [row.address for row in part.batch.results])
        if part.archive is not None:
            part.archive.discard(part.batch.results)


def _drop(recorder: Recorder, addresses: Sequence[str]) -> None:
    _exclusively(recorder, lambda store: store.drop_results(addresses))
