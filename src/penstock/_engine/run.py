"""One run: its facts, who waits for it, and how it looks from outside.

Locking: what several threads change (the machine's facts, `done`, `callbacks`, `children`, `pending`) is changed
under `run.lock`. Callbacks are called after releasing it, and no code holds the locks of two runs at once.
"""

from __future__ import annotations

import logging
from _thread import allocate_lock
from collections.abc import Callable, Generator, Sequence
from contextvars import Context
from datetime import UTC, datetime
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol
from uuid import UUID

from penstock._core import tracebacks
from penstock._core.errors import text_of
from penstock._core.machine import COMPLETED, RUNNING, Command, Event, Reason, step
from penstock._engine import record, waiting
from penstock._engine.arrival import Arrival, fetch, with_values
from penstock._engine.ids import as_hex
from penstock._engine.upstream import promise_of
from penstock.states import Deferred, State, StateDetails, StateType, Status
from penstock.store.base import AttemptRow, Batch

if TYPE_CHECKING:
    import asyncio

    from penstock._core.graph import Inputs, Link
    from penstock._engine.attempt import Call
    from penstock._engine.engine import Engine
    from penstock._engine.keeping import Memo
    from penstock._engine.limits import Request as Lease
    from penstock._engine.plan import Plan
    from penstock._engine.recorder import Recordable, Ticket
    from penstock._engine.travel import Shared
    from penstock._engine.upstream import Take
    from penstock.futures import Gate, Waitable
    from penstock.task_runners.base import Kept

_TYPES = {
    Status.PENDING: StateType.PENDING,
    Status.RUNNING: StateType.RUNNING,
    Status.WAITING: StateType.SCHEDULED,
    Status.COMPLETED: StateType.COMPLETED,
    Status.FAILED: StateType.FAILED,
    Status.CRASHED: StateType.CRASHED,
    Status.CANCELLED: StateType.CANCELLED,
}
_NAMES = {
    Reason.CACHED: "Cached",
    Reason.DEADLINE: "TimedOut",
    Reason.UPSTREAM: "UpstreamFailed",
    Reason.SLOT: "AwaitingConcurrencySlot",
}


def _shown_as(status: Status, reason: Reason, attempt: int, cancel_asked: bool) -> tuple[StateType, str]:
    """Public type and name of a state: names are derived from facts, and nothing is decided by them."""
    if status is Status.RUNNING:
        if cancel_asked:
            return StateType.CANCELLING, "Cancelling"
        return StateType.RUNNING, "Retrying" if attempt > 1 else "Running"
    if status is Status.WAITING and reason is not Reason.SLOT:
        return (StateType.SCHEDULED, "AwaitingRetry") if attempt else (StateType.PENDING, "Pending")
    kind = _TYPES[status]
    return kind, _NAMES.get(reason) or kind.value.capitalize()


_logger = logging.getLogger("penstock")
_PENDING, _NO_REASON = Status.PENDING, Reason.NONE


class Driver(Protocol):
    """Whoever carries out a run's commands: see `drive`."""

    def resume(self, run: Run, value: Any) -> None:
        """Go on with the run's lifecycle, which was waiting and now gets `value`."""
        ...


class Run:
    """A task or flow run inside one engine. Implements the `Promise` that its future talks to."""

    __slots__ = (
        "attempt",
        "blamed",
        "blocked",
        "call",
        "callbacks",
        "cancel_asked",
        "children",
        "context",
        "created",
        "custom_name",
        "done",
        "driver",
        "ended",
        "engine",
        "error",
        "first_started",
        "fresh_edges",
        "generator",
        "hex_id",
        "id",
        "index",
        "inputs",
        "kept",
        "kept_inputs",
        "lease",
        "lifecycle",
        "limited",
        "links",
        "lock",
        "looked",
        "memo",
        "message",
        "number",
        "on_childless",
        "parameters",
        "parent",
        "past",
        "pending",
        "plan",
        "public",
        "ready",
        "reason",
        "retryable",
        "shared",
        "shown",
        "shown_result",
        "started",
        "status",
        "tags",
        "ticket",
        "trace",
        "value",
    )

    def __init__(
        self,
        id: int,
        plan: Plan,
        engine: Engine,
        parent: Run | None,
        parameters: dict[str, Any],
        tags: frozenset[str],
        number: int | None = None,
        index: int | None = None,
    ) -> None:
        self.id = id
        self.hex_id: str | None = None  # cached: the record writes it for every child
        self.plan = plan
        self.engine = engine
        self.parent = parent
        self.parameters = parameters
        self.tags = tags
        self.number = number
        self.index = index
        # The machine's.
        self.status = _PENDING
        self.reason = _NO_REASON
        self.attempt = 0
        self.limited = False
        self.retryable = True
        self.cancel_asked = False
        # What came out.
        self.value: Any = None
        self.kept: Sequence[Kept] = ()  # the value, if it has stayed with the runner
        self.error: BaseException | None = None
        self.trace: Any = None
        self.message: str | None = None
        self.public: State[Any] | None = None
        self.looked = False
        self.blamed: Any = None  # the root failure that kept this run from starting
        self.blocked: list[Run] | None = None  # runs that could not start because of this one
        # Who waits for whom.
        self.lock = allocate_lock()
        self.done = False
        self.callbacks: list[Callable[[Any], None]] | None = None
        self.children: dict[int, Child] | None = None
        self.on_childless: Callable[[], object] | None = None
        self.inputs: Inputs | None = None
        self.kept_inputs: Inputs | None = None  # if values have stayed with the runner: how to get at them
        self.links: Sequence[Link] = ()
        self.shared: Shared | None = None  # arguments that it has in common with the other children of its map
        self.context: Context | None = None
        self.lifecycle: Generator[Any, Any, None] | None = None
        self.driver: Driver | None = None
        self.pending: Any = None
        self.call: Call | None = None
        self.generator: Callable[[], Any] | None = None  # weak: the generator that a consumer iterates over
        self.lease: Lease | None = None  # its place within the limits that its tags name
        self.memo: Memo | None = None  # what is to be known about keeping its value, and those below it
        # For the record.
        self.custom_name: str | None = None
        self.shown: str | None = None  # the parameters' short representation; they themselves are let go
        self.shown_result: str | None = None
        self.created: float = engine.now()
        self.ready: float | None = None
        self.first_started: float | None = None
        self.started: float | None = None  # the latest attempt
        self.ended: float | None = None
        self.past: Sequence[AttemptRow] = ()  # attempts that ended without ending the run, not recorded yet
        self.fresh_edges: Sequence[Link] = ()  # what it depends on, not recorded yet
        self.ticket: Ticket | None = None  # in the recorder's queue

    # --- names ------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        if self.custom_name is not None:
            return self.custom_name
        if self.number is None:
            return self.plan.name
        suffix = "" if self.index is None else f"[{self.index}]"
        return f"{self.plan.name}-{self.number}{suffix}"

    @property
    def label(self) -> str:
        return f"{self.plan.kind.capitalize()} run {self.name!r}"

    @property
    def path(self) -> str:
        """The run's place for people: "flow run", or "flow run · task run"."""
        if self.plan.kind == "flow":
            return f"{self.plan.name}/{self.name}"
        return self.name if self.parent is None else f"{self.parent.path} · {self.name}"

    def log_extra(self) -> dict[str, Any]:
        """What a log line of the run says about where it comes from."""
        flow = self.flow
        extra: dict[str, Any] = {f"{self.plan.kind}_run_id": str(UUID(int=self.id))}
        extra[f"{self.plan.kind}_run_name"] = self.name
        extra[f"{self.plan.kind}_name"] = self.plan.name
        if flow is not None and flow is not self:
            extra["flow_run_id"] = str(UUID(int=flow.id))
            extra["flow_run_name"] = flow.name
            extra["flow_name"] = flow.plan.name
        return extra

    def uuid(self, kind: str) -> UUID | None:
        return UUID(int=self.id) if self.plan.kind == kind else None

    @property
    def flow(self) -> Run | None:
        """The nearest flow run: itself, or the one that it is part of."""
        run: Run | None = self
        while run is not None and run.plan.kind != "flow":
            run = run.parent
        return run

    @property
    def has_future(self) -> bool:
        """Whether it was submitted, so that somebody may hold its future."""
        return self.context is not None

    def ancestors(self) -> Generator[Run, None, None]:
        """The run itself, the run that called it, and so on up to the root run."""
        run: Run | None = self
        while run is not None:
            yield run
            run = run.parent

    # --- the machine ------------------------------------------------------------------------------------

    def advance(self, event: Event) -> Command:
        """Tell the machine; returns what to do. Thread-safe."""
        with self.lock:
            command = step(self, event, self.plan)
        if self.ticket is None:
            self.engine.recorder.touch(self)
        return command

    def fail(self, event: Event, error: BaseException, message: str | None = None) -> Command:
        """`advance` with the exception that the run ends with if the machine agrees that it ends."""
        self.blame(error)
        self.message = text_of(error) if message is None else message
        command = self.advance(event)
        if command is Command.IGNORE:
            self.error = self.trace = self.message = None  # it was cancelled meanwhile, which is how it ends
        return command

    def shorten(self, error: BaseException) -> None:
        if self.engine.settings.traceback != "full":
            tracebacks.hide(error)

    def blame(self, error: BaseException) -> None:
        """Keep the exception that the run or its attempt ends with, as users and the record are to see it."""
        self.shorten(error)
        self.error = error
        self.trace = error.__traceback__

    @property
    def failed(self) -> bool:
        return self.status.final and self.status is not COMPLETED

    @property
    def cancelled(self) -> bool:
        return self.status is Status.CANCELLED

    @property
    def unstarted(self) -> bool:
        return self.status is _PENDING

    @property
    def power(self) -> bool:
        return False  # what it has not ended with can be done again

    @property
    def has_started(self) -> bool:
        return self.status is RUNNING

    # --- the promise ------------------------------------------------------------------------------------

    def subscribe(self, callback: Callable[[Any], None]) -> bool:
        with self.lock:
            if self.done:
                return False
            if self.callbacks is None:
                self.callbacks = [callback]
            else:
                self.callbacks.append(callback)
            return True

    def unsubscribe(self, callback: Callable[[Any], None]) -> None:
        with self.lock:
            if self.callbacks is not None and callback in self.callbacks:
                self.callbacks.remove(callback)

    def conclude(self) -> None:
        """Make the end visible and tell everybody who waits for it. Called once, by the run's lifecycle."""
        with self.lock:
            self.done = True
            callbacks, self.callbacks = self.callbacks, None
        for callback in callbacks or ():
            try:
                callback(self)
            except Exception:  # one waiter's trouble must not keep the news from the others
                _logger.exception("internal error while telling that %s has ended; please report it", self.label)

    def block(self, gate: Gate, timeout: float | None, among: Sequence[Waitable]) -> bool:
        return waiting.block(gate, timeout, among)

    async def rest(self, waiter: asyncio.Future[None], among: Sequence[Waitable]) -> None:
        await waiting.rest(waiter, among)

    def outcome(self, raise_on_failure: bool) -> Any:
        self.looked = True
        if self.error is None:
            return fetch(self.value) if self.kept else self.value
        if raise_on_failure:
            # Every raise would append the raiser's frames to the one traceback that all waiters share.
            raise self.error.with_traceback(self.trace)
        return self.error

    def arriving(self) -> Arrival:
        """The value on its way home, if the runner has kept it."""
        return Arrival(self.kept[0])

    def cancel(self, grace: float | None = None) -> bool:
        return self.engine.cancel(self, grace)

    # --- as an upstream -----------------------------------------------------------------------------------

    def given(self, take: Take | None = None) -> Any:
        """What takes the run's place in arguments: the value, or under `allow_failure` the exception.

        For a value that a runner has kept, `take` says what it is to be; without it, the `Kept`.
        """
        if self.error is not None:
            return self.error
        return take(self.value) if self.kept and take is not None else self.value

    def culprit(self) -> Any:
        """The first failed run of the chain that this failed run is part of."""
        return self if self.blamed is None else self.blamed

    def note_blocked(self, run: Run) -> None:
        with self.lock:
            if self.blocked is None:
                self.blocked = []
            self.blocked.append(run)

    @property
    def home(self) -> Engine | None:
        """The engine of the run that this one is part of; None for the outermost run."""
        if self.engine.root is not self:
            return self.engine
        return None if self.parent is None else self.parent.engine

    def note_failure(self) -> None:
        """This run failed by itself: the engine that it is part of must account for it."""
        if self.home is not None:
            self.home.failures.append(self)

    def upstream_runs(self) -> list[Any]:
        return [promise for promise in (promise_of(link.upstream) for link in self.links) if not promise.done]

    # --- states -------------------------------------------------------------------------------------------

    def state(self) -> State[Any]:
        if self.memo is not None and self.memo.undone:
            self.public = None
        if self.public is not None and self.status.final:
            return self.public
        with self.lock:
            facts = (self.status, self.reason, self.attempt, self.cancel_asked)
        state = self._state(*facts)
        if state.is_final():
            self.public = state
        return state

    def _state(self, status: Status, reason: Reason, attempt: int, cancel_asked: bool) -> State[Any]:
        kind, name = _shown_as(status, reason, attempt, cancel_asked)
        if self.memo is not None and self.memo.undone:
            name = "RolledBack"
        data = Deferred(self.value, fetch) if self.kept else self.value
        changes = status * 1000 + attempt * 10 + reason  # the same facts give the same state id
        state: State[Any] = State(
            kind,
            name=name,
            message=self.message if status.final else None,
            data=data if self.error is None else self.error,
            timestamp=datetime.fromtimestamp(self.ended or self.started or self.created, UTC),
            id=UUID(int=self.id ^ (changes << 96)),
            state_details=self.details(),
        )
        state._trace = self.trace  # the exception's own may by now have frames of those who have raised it again
        return state

    def state_name(self) -> str:
        """The public name of the state, without making one."""
        if self.public is not None:
            return self.public.name
        if self.status is COMPLETED and self.reason is _NO_REASON:
            return "Completed"
        return _shown_as(self.status, self.reason, self.attempt, self.cancel_asked)[1]

    def details(self) -> StateDetails:
        flow = self.flow
        return StateDetails(None if flow is None else UUID(int=flow.id), self.uuid("task"))

    def view(self) -> RunView:
        return RunView(self)

    # --- the record ---------------------------------------------------------------------------------------

    def close_attempt(self, error: BaseException | None) -> None:
        """An attempt has ended and another one will follow."""
        self.past = (*self.past, record.attempt_row(self, error))
        self.value = self.error = self.trace = self.message = self.public = None

    @property
    def hex(self) -> str:
        if self.hex_id is None:
            self.hex_id = as_hex(self.id)
        return self.hex_id

    def taken(self, ticket: Ticket) -> Recordable:
        with self.lock:
            self.ticket = None
            return ticket[0]

    def rows(self, batch: Batch) -> None:
        record.Snapshot(self).rows(batch)

    # --- children ---------------------------------------------------------------------------------------

    def adopt(self, child: Child) -> None:
        """Take responsibility for `child`: this run does not end before it. Raises if this run has ended."""
        with self.lock:
            if self.done:
                raise RuntimeError(f"{self.label} has ended: work can be submitted only while it runs")
            if self.children is None:
                self.children = {}
            self.children[child.id] = child

    def release(self, child: Child) -> None:
        with self.lock:
            children = self.children
            if children is not None:
                children.pop(child.id, None)
            wake = None if children else self.on_childless
            if wake is not None:
                self.on_childless = None
        if wake is not None:
            wake()

    def living_children(self) -> list[Child]:
        with self.lock:
            return list(self.children.values()) if self.children else []


class Child(Protocol):
    """What a run that submitted work keeps until that work has ended."""

    id: int

    @property
    def has_started(self) -> bool: ...
    def cancel(self, grace: float | None = None) -> bool: ...


class RunView:
    """What hooks, conditions and `get_run_context()` see of a run: a snapshot, except for `state`."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.id = UUID(int=run.id)
        self.name = run.name
        self.run_count = run.attempt
        self.tags = sorted(run.tags)
        self._parameters, self._inputs = run.parameters, run.kept_inputs
        flow = run.flow if run.plan.kind == "task" else (run.parent.flow if run.parent else None)
        self.flow_run_id = None if flow is None else UUID(int=flow.id)

    @property
    def parameters(self) -> dict[str, Any]:
        """Blocks if some of the values have to be fetched."""
        inputs = self._inputs
        if inputs is not None:
            self._parameters = with_values(inputs)
            self._inputs = None
        return self._parameters

    @property
    def state(self) -> State[Any]:
        return self._run.state()

    def __repr__(self) -> str:
        return f"<{self._run.label}, {self.state}>"

    def _repr_html_(self) -> str:
        return str(import_module("penstock.notebooks").of_run(self))
