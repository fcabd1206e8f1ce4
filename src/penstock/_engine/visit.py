"""A body away from home: one attempt at a task, executed in a process that is not the flow's.

The task may do all that it may do elsewhere: log, ask `runtime`, submit tasks (they run on threads of this process),
call flows. What is to be recorded of that goes home as it happens; the outcome goes home last. What travels, and what
stays at home, is said in `travel`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext
from contextvars import copy_context
from importlib import import_module
from threading import Lock
from typing import TYPE_CHECKING, Any

from penstock._core import tracebacks
from penstock._core.binding import Binder
from penstock._core.canonical import assume_main
from penstock._core.machine import Event
from penstock._core.outcome import Outcome
from penstock._engine import capture, drive, ending, interrupt, keeping, substitutes
from penstock._engine.attempt import Call
from penstock._engine.context import current_tags
from penstock._engine.engine import Engine
from penstock._engine.failing import is_settled
from penstock._engine.past import Past
from penstock._engine.plan import Plan
from penstock._engine.run import Run
from penstock._engine.travel import Ancestor, Household, Report, Stray, Visit
from penstock.exceptions import StoreUnavailable
from penstock.settings import as_on_a_worker, of_the_flow, overrides
from penstock.settings.table import inline_bytes
from penstock.states import Status
from penstock.store.base import Batch, Store

if TYPE_CHECKING:
    from penstock._engine.archive import Archive
    from penstock._engine.lifecycle import Life
    from penstock.task_runners.base import TaskRunner

_HOOKS = ("on_running", "on_completion", "on_failure", "on_cancellation", "on_crashed")
_NO_HOOKS: dict[str, list[Any]] = {name: [] for name in _HOOKS}


class Relay:
    """The recorder of a worker: what the runs below the visiting one have come to goes home.

    Kept values do not wait for that: whoever has asked for one may be told only when it is stored, so this process
    stores it, with the record of its run, which the rows at home will replace.
    """

    def __init__(
        self, send_home: Callable[[Any], object], open_store: Callable[[], Store] | None, lock_patience: float
    ) -> None:
        self.send_home = send_home
        self.lock_patience = lock_patience
        self._open_store = open_store
        self._store: Store | None = None
        self._storing = Lock()
        self._unstored: list[tuple[Batch, bool]] = []  # and whether it must survive a power cut

    def touch(self, run: Run) -> None: ...
    def log(self, row: Any) -> None:
        self.send_home(("line", tuple(row)))

    def finish(self, run: Run, snapshot: Any) -> None:
        batch = Batch.empty()
        snapshot.rows(batch)
        if batch.results:
            self._unstored.append((batch, snapshot.power))
        self.send_home(("rows", tuple(batch)))

    def add(self, rows: Any) -> None:
        batch = Batch.empty()
        rows.rows(batch)
        self._unstored.append((batch, rows.power))

    @property
    def reader(self) -> Store:
        if self._store is None:
            assert self._open_store is not None
            self._store = self._open_store()
        return self._store

    def commit(self) -> bool:
        """Store the values that are waiting; False if the store cannot take them."""
        with self._storing:
            batches, self._unstored = self._unstored, []
            try:
                for batch, power in batches:
                    self.reader.write(batch, patience=self.lock_patience, power=power)
            except StoreUnavailable:
                self._unstored = batches + self._unstored
                return False
        return True

    def barrier(self, patience: float = 0.0) -> bool:
        return True


class Home:
    """What this process keeps for the visits of one household. `visit` is for one thread at a time."""

    def __init__(
        self,
        household: Household,
        make_runner: Callable[[], TaskRunner],
        send_home: Callable[[Any], object],
        *,
        open_store: Callable[[str, str | None], Store],
    ) -> None:
        self._away = household.home != capture.this_process()
        if self._away:
            _capture(household)
        keeps = household.keeps
        reach = None if keeps is None else lambda: open_store(keeps.home, household.settings.store_url)
        relay = Relay(send_home, reach, household.settings.store_patience_seconds)
        self._engine = _engine_for(household, make_runner, relay)
        self._plan = _plan_for(household)
        self._settings = as_on_a_worker(household.settings, None if keeps is None else keeps.home)
        self._overrides = household.overrides
        self._run: Run | None = None

    def visit(self, facts: tuple[Any, ...], common: dict[str, Any], is_stopped: Callable[[], bool]) -> Report:
        """Call the body and see to everything that it leaves behind. Does not raise.

        `is_stopped` says whether it is to be stopped before it begins; later on, `ask_to_stop` does.
        """
        engine, visit = self._engine, Visit._make(facts)
        visit.parameters.update(common)
        run = Run(visit.id, self._plan, engine, engine.root, visit.parameters, visit.tags)
        run.custom_name, run.attempt = visit.run_name, visit.attempt - 1
        # Where its place is not known, nobody below it finds anything of another life: an id is in no other.
        keeping.memo_of(run).position = visit.position or run.hex
        run.context = copy_context()
        run.context.run(current_tags.set, visit.context_tags)
        run.context.run(of_the_flow.set, self._settings)
        run.context.run(overrides.set, self._overrides)
        self._run = run
        if is_stopped():  # asked now, when `ask_to_stop` would find it: none of the two misses what the other does
            run.cancel()
        started = engine.now()
        with interrupt.known(run) if self._away else nullcontext():  # at home the flow run is
            drive.Blocking(advice="", life=_stay).drive(run)
        self._run = None
        engine.root.release(run)
        engine.rest()  # nobody says here when the flow run is over
        unseen, engine.failures = [failed for failed in engine.failures if not is_settled(failed)], []
        strays = [Stray(run.id, run.plan.kind, run.name, run.created, run.error) for run in unseen if run.error]
        outcome = _outcome(run)
        if outcome.error is not None and engine.settings.traceback != "full":
            tracebacks.hide(outcome.error)
        # Runs and calls refer to each other: large values are not to wait for the collector.
        run.value = run.call = run.context = run.driver = None
        run.parameters = {}
        return Report(
            int(outcome.event),
            outcome.value,
            outcome.error,
            outcome.message,
            outcome.state,
            strays,
            started,
            engine.now(),
        )

    def ask_to_stop(self, run_id: int) -> None:
        """Interrupt the body of this run, if it is the one that goes on. May be called by any thread."""
        run = self._run
        if run is not None and run.id == run_id:
            run.cancel()


def _capture(household: Household) -> None:
    capture.install(household.settings.logging_level, household.settings.logging_format)
    capture.forward(household.levels)
    if household.log_prints:
        capture.capture_prints()


class _CallHere(Call):
    """A coroutine's: on the background loop, though the runner here executes coroutines elsewhere."""

    __slots__ = ()

    def arm(self, run: Run) -> None:
        run.engine.perform(self)


def _stay(run: Run) -> Life:
    """The part of a lifecycle that takes place here."""
    run.advance(Event.READY)
    outcome = yield _CallHere(run) if run.plan.is_async else Call(run)
    if outcome is not None and ending.leaves_something(run, outcome):
        outcome = yield from ending.wind_up(run, outcome)
    run.value = outcome
    run.conclude()


def _outcome(run: Run) -> Outcome:
    if type(run.value) is Outcome:
        return run.value
    # Asked to stop before it could begin, or the engine has failed with it.
    return Outcome(Event.STOPPED) if run.error is None else Outcome(Event.CRASHED, error=run.error)


def _engine_for(household: Household, make_runner: Callable[[], TaskRunner], relay: Any) -> Engine:
    """An engine whose root is the flow run at home: the visiting run is one of its runs, like any task run."""
    engine: Engine | None = None
    keeps = household.keeps
    for ancestor in reversed([one for one in household.ancestors if one.kind == "flow"]):
        engine = Engine(make_runner(), relay, household.settings, engine, lambda: _archive_for(household, relay))
        engine.root = _stand_in(engine, ancestor)
        engine.substitutes = substitutes.unpacked(household.substitutes)
        if keeps is not None:
            engine.home, engine.defaults = keeps.home, keeps.defaults
            engine.past = Past(relay, keeps.lives, keeps.rerun, keeps.starts, keeps.entered)
            assume_main(keeps.main)
        engine.logs_prints, engine.forgives = household.log_prints, household.forgives
    assert engine is not None  # only a flow run has a runner of its own
    return engine


def _archive_for(household: Household, relay: Any) -> Archive | None:
    """Where values are kept: nowhere, if the store is on another host."""
    keeps, settings = household.keeps, household.settings
    if keeps is None or not os.path.isdir(keeps.home):
        return None
    make = import_module("penstock._engine.archive").Archive  # slow to load, and most bodies keep nothing
    places = settings.results_local_storage_path, settings.results_key_path
    archive: Archive = make(keeps.home, relay, *places, inline_bytes(settings))
    return archive


def _stand_in(engine: Engine, ancestor: Ancestor) -> Run:
    """A run that goes on at home."""
    plan = Plan(
        kind=ancestor.kind,
        definition=None,
        name=ancestor.name,
        key=ancestor.key,
        fn=_nowhere,
        binder=Binder(_nowhere),
        version=ancestor.version,
        hooks=_NO_HOOKS,
    )
    parent = None if engine.outer is None else engine.outer.root
    run = Run(ancestor.id, plan, engine, parent, ancestor.parameters, ancestor.tags)
    run.custom_name, run.created, run.attempt = ancestor.run_name, ancestor.created, ancestor.attempt
    keeping.memo_of(run).position = ancestor.position or run.hex
    run.status = Status.RUNNING  # as far as this process can know
    return run


def _plan_for(household: Household) -> Plan:
    return Plan(
        kind="task",
        definition=None,
        name=household.name,
        key=household.key,
        fn=household.fn,
        binder=Binder(household.fn),
        is_async=household.is_async,
        is_generator=household.is_generator,
        timeout=household.timeout,
        log_prints=household.log_prints,
        version=household.version,
        hooks=_NO_HOOKS,
    )


def _nowhere() -> None:
    """The body of a run that is executed elsewhere."""
