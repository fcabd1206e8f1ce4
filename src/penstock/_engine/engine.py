"""One engine per flow run (or per task called outside any flow): wires runner, recorder and clock together.

An engine decides nothing about a run: that is the machine's. It knows what all runs of one flow run share: where
they are executed, where they are recorded, how they are numbered, which of them failed, whether new ones may
still start.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextvars import copy_context
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from penstock._core import graph
from penstock._core.binding import name_uses, render_name, short_parameters
from penstock._core.errors import describe
from penstock._core.machine import Command, Event, step
from penstock._core.outcome import Outcome
from penstock._core.tracebacks import name_cells_of
from penstock._engine import capture, counting, drive, interrupt, keeping, limits, loop, record, sending, substitutes
from penstock._engine import clock as clocks
from penstock._engine.attempt import Call, run_body_async, timeout_error
from penstock._engine.context import current_run, current_tags, current_transaction
from penstock._engine.counting import Ends
from penstock._engine.failing import is_settled
from penstock._engine.ids import id_block
from penstock._engine.past import NOTHING, Past
from penstock._engine.plan import Plan
from penstock._engine.record import Foreign
from penstock._engine.requests import deliver
from penstock._engine.run import Child, Run
from penstock._engine.travel import Report, Unseen
from penstock._engine.upstream import promise_of, value_of
from penstock.exceptions import CrashedRun, WorkerLost
from penstock.futures import Future
from penstock.settings.table import LEVELS
from penstock.states import Status
from penstock.store.base import Batch, LogRow
from penstock.task_runners.base import here

if TYPE_CHECKING:
    from concurrent.futures import Future as StandardFuture

    from penstock._core.graph import Link
    from penstock._engine.archive import Archive
    from penstock._engine.recorder import Recorder
    from penstock._engine.travel import Shared
    from penstock._engine.upstream import Take
    from penstock.settings import Settings
    from penstock.task_runners.base import Kept, TaskRunner

_logger = logging.getLogger("penstock")
_task_log = logging.getLogger(capture.TASK_RUNS)
_NO_LINKS: tuple[Any, ...] = ()


class Spectator(Protocol):
    """Whoever shows how a flow run gets on."""

    def begin(self, root: Run) -> None:
        """The root run starts."""
        ...

    def end(self, root: Run) -> None:
        """Everything in it is over; also called if it has never started. Its last line has not been logged yet."""
        ...


class Engine:
    """What the runs inside one flow run have in common."""

    def __init__(
        self,
        runner: TaskRunner,
        recorder: Recorder,
        settings: Settings,
        outer: Engine | None = None,
        make_archive: Callable[[], Archive | None] | None = None,
        owner: str | None = None,
    ) -> None:
        self.runner = runner
        self.recorder = recorder
        self.settings = settings
        self.outer = outer
        self.clock = clocks.get()
        self.now = self.clock.now
        self.ids: Iterator[int] = id_block()
        self.plans: dict[int, Plan] = {}  # by id of the definition, which the plan keeps alive
        self.substitutes: substitutes.Substitutes = substitutes.active if outer is None else outer.substitutes
        self.failures: list[Run] = []  # root failures below this engine's root, in the order of their ends
        self.root: Run = None  # type: ignore[assignment]  # set by open_root, before anything else happens
        self.closing: bool = outer is not None and outer.closing  # nothing new starts
        self.logs_prints: bool = settings.logging_log_prints if outer is None else outer.logs_prints
        self.forgives: bool = (
            (settings.flows_default_on_unobserved_failure == "warn") if outer is None else outer.forgives
        )
        self.records_from: int = LEVELS.get(settings.logging_record_level or "", 0)  # level of lines that are recorded
        self._make_archive = make_archive
        self.past: Past = NOTHING if outer is None else outer.past
        self.defaults: Any = None  # what the root run says about keeping values, for the runs below it
        self.facts: str | None = record.root_facts() if outer is None else None
        self.owner = owner
        self.home: str | None = None if outer is None else outer.home  # the directory of the store
        self.resumed_from: str | None = None
        self.script: str | None = None  # where it was started, if not here
        self._runner_started = False
        self._starting = threading.Lock()
        self.ends = Ends()
        self.spectator: Spectator | None = None
        self.chatty = _task_log.isEnabledFor(logging.DEBUG)

    @property
    def is_outermost(self) -> bool:
        return self.outer is None

    @functools.cached_property
    def archive(self) -> Archive | None:
        """Where values are kept; None: nowhere. Made when somebody asks: most flows keep none."""
        if self.outer is not None:
            return self.outer.archive
        return None if self._make_archive is None else self._make_archive()

    @functools.cached_property
    def outermost(self) -> Run:
        """The root run of everything."""
        return self.root if self.outer is None else self.outer.outermost

    @functools.cached_property
    def flow_hex(self) -> str | None:
        """The id of the flow run that this engine's runs are part of, as the record writes it."""
        return self.root.hex if self.root.plan.kind == "flow" else self.outer_flow_hex

    @property
    def outer_flow_hex(self) -> str | None:
        return None if self.outer is None else self.outer.flow_hex

    @functools.cached_property
    def limit_table(self) -> limits.Limits:
        """The limits that hold for the runs here."""
        return limits.of(self.home)

    # --- starting runs ----------------------------------------------------------------------------------------

    def new_root(
        self,
        plan: Plan,
        parameters: dict[str, Any],
        parent: Run | None,
        tags: frozenset[str],
        run_id: int | None = None,
    ) -> Run:
        """Make the run that this engine exists for."""
        self.root = Run(next(self.ids) if run_id is None else run_id, plan, self, parent, parameters, tags)
        _note_transaction(self.root, current_transaction.get())
        return self.root

    def new_run(self, plan: Plan, parameters: dict[str, Any], parent: Run, number: int, index: int | None) -> Run:
        """Make a task run. Its parent waits for it from the moment that a driver takes it over."""
        tags = current_tags.get() | plan.tags if plan.tags else current_tags.get()
        run = Run(next(self.ids), plan, self, parent, parameters, tags, number, index)
        transaction = current_transaction.get()
        if transaction is not None or plan.hooks.get("on_commit"):
            _note_transaction(run, transaction)
        return run

    def attach(self, run: Run, waits: Sequence[Link], shared: Shared | None = None) -> None:
        """Find the runs that `run` depends on, in its arguments (but those that are shared) and in its `wait_for`."""
        if self.closing:
            self.cancel(run)
        run.shared = shared
        found = graph.find(run.parameters, skip=() if shared is None else shared.names)
        if found is not None:
            run.inputs = found
            run.links = (*found.links, *waits)
        elif waits:
            run.links = tuple(waits)
        else:
            return
        run.fresh_edges = run.links
        for link in run.links:
            if link.allowed:
                promise_of(link.upstream).looked = True

    def submit(self, run: Run) -> Future[Any]:
        """Let `run` go its way; its future. Does not block, unless the runner executes at once."""
        run.context = copy_context()
        if self.runner.capabilities.immediate and run.plan.kind == "task" and not here.background_loop:
            drive.execute_at_once(run)
        else:
            drive.callback.start(run)
        return Future(run)

    def lacking(self, run: Run, kept: Sequence[Kept]) -> list[Kept]:
        """Those of an input's values that runners have kept and that are needed here, before the run can start."""
        stays = not self._goes_away(run) or _is_named_after_inputs(run) or run.plan.keeping is not None
        return [one for one in kept if stays or one.holder is not self.runner]

    def _goes_away(self, run: Run) -> bool:
        """Whether a runner that may keep values executes the body."""
        plan, can = run.plan, self.runner.capabilities
        submitted = plan.kind == "task" and run.has_future and not can.immediate
        return can.keeps_values and submitted and (can.runs_async or not plan.is_async)

    def resolve(self, run: Run, take: Take | None = None) -> None:
        """All inputs are there: put them in place, name the run, note its parameters. May raise.

        `take` says what is to be in the places of values that a runner has kept.
        """
        if run.inputs is not None:
            run.parameters = run.inputs.resolve(value_of if take is None else functools.partial(value_of, take=take))
            run.inputs = None
        plan = run.plan
        if plan.check is not None:
            run.parameters = plan.check(run.parameters)
        if plan.run_name is not None and run.custom_name is None:
            run.custom_name = self._render_name(run)
        run.shown = short_parameters(run.parameters)
        if run.tags:
            run.limited = plan.kind == "task" and bool(self.limit_table.tag_slots(run.tags))
        run.ready = self.now()
        if run is self.root and plan.kind == "flow":
            if self.outer is None:
                self.facts = record.root_facts(run)
            if self.spectator is not None:
                self.spectator.begin(run)
            self.log(logging.INFO, f"{run.path} started", run)

    def _render_name(self, run: Run) -> str:
        token = current_run.set(run)  # a callable may ask `runtime` about the run that it names
        try:
            return render_name(run.plan.run_name, run.parameters, f"{run.plan.kind}_run_name")
        finally:
            current_run.reset(token)

    # --- executing bodies -------------------------------------------------------------------------------------

    def execute(self, call: Call) -> None:
        """Have a body executed somewhere; the call reports by itself."""
        if call.run is self.root and call.run.plan.kind == "flow":
            self._execute_apart(call)
            return
        if not call.needs_thread and not self.runner.capabilities.runs_async:
            self.perform(call)
            return
        try:
            if not self._runner_started:
                self._start_runner()
            reported = self.runner.execute(call)
        except Exception as error:
            sending.fail(call, error)
            return
        if reported is not None:
            reported.add_done_callback(call.reported)

    def _start_runner(self) -> None:
        with self._starting:  # several threads may submit at once
            if not self._runner_started:
                self.runner.start()
                self._runner_started = True

    def perform(self, call: Call) -> None:
        """Execute a body here and now (an asynchronous one: on the background loop) and report."""
        run = call.run
        if not call.needs_thread:
            loop.background().start(lambda: _perform_async(call), run.context)
        else:
            call.report(call.carry_out())

    def receive(self, call: Call, result: StandardFuture[Outcome | None]) -> None:
        """The outcome of a call that was executed elsewhere; an exception means that it was lost on the way."""
        if isinstance(call.away, sending.Trip):
            sending.receive(call, call.away, result)
        elif result.cancelled():
            if call.run.pending is call:
                self.cancel(call.run)
        elif (error := result.exception()) is not None:
            self.lose(call, error)
        else:
            call.report(result.result())

    def lose(self, call: Call, error: BaseException) -> None:
        """Whatever executed the call is gone: because it was to be stopped so, or by itself."""
        # A lost attempt counts, also if its worker died before it could enter the body.
        if not call.claimed and not call.begin():
            return
        call.end()
        deliver(call.run, call, _ended_by_us(call) or Outcome(Event.LOST, error=_lost_error(error)))

    def refuse(self, call: Call, error: BaseException) -> None:
        """The call could not be sent to where it was to be executed."""
        if call.claimed or call.begin():
            call.end()
            deliver(call.run, call, _ended_by_us(call) or Outcome(Event.RAISED, error=error))

    def arrive(self, call: Call, facts: Sequence[Any]) -> None:
        """The report of a visit to another process."""
        if not call.claimed and not call.begin():
            return
        call.end()
        report = Report._make(facts)
        self.failures.extend(Unseen(stray) for stray in report.strays)  # type: ignore[misc]
        for error in (report.error, *(stray.error for stray in report.strays)):
            if error is not None:
                name_cells_of(error)
        expired = Outcome(Event.TIMED_OUT, error=timeout_error(call.run)) if call.expired else None
        deliver(call.run, call, expired or report.outcome())

    def note(self, message: Any) -> None:
        """What a visiting body has sent home meanwhile."""
        kind, content = message
        if kind == "rows":
            for row in Batch._make(content).runs:
                self.ends.count_row(row)
        if self.recorder.send_home is not None:  # this is not home either
            self.recorder.send_home(message)
        elif kind == "line":
            self.recorder.log(LogRow._make(content))
        elif kind == "handle":
            capture.handle(content)
        else:
            self.recorder.add(Foreign(Batch._make(content)))

    def _execute_apart(self, call: Call) -> None:
        """A submitted flow's body has a thread of its own, and takes no slot of any runner."""
        name = f"penstock-{call.run.name}"
        threading.Thread(target=_perform_apart, args=(call,), name=name, daemon=True).start()

    def about_to_run(self, run: Run) -> None:
        """The body is next: fire the hooks for that."""
        if run.plan.hooks["on_running"]:
            drive.fire_now(run, run.plan.hooks["on_running"])

    async def about_to_run_async(self, run: Run) -> None:
        if run.plan.hooks["on_running"]:
            await drive.fire_in_loop(run, run.plan.hooks["on_running"])

    def position_abroad(self, run: Run) -> str | None:
        """What a process that executes the run must know of its place; see `keeping`."""
        return keeping.position_abroad(run)

    def reopen(self) -> None:
        """Another attempt at the root run follows: it starts anew, but for what has been completed and kept."""
        self.failures.clear()
        self.ends.start_over()
        keeping.forget_children(self.root)
        if self.root.memo is not None and self.archive is not None:
            self.past = self.past.again(self.recorder, self.outermost.hex)
        self.closing = self.outer is not None and self.outer.closing

    def refuse_new_runs(self) -> None:
        """From now on nothing starts, here and in the engines of runs below."""
        self.closing = True
        for child in self.root.living_children():
            if isinstance(child, Run) and child.engine is not self:
                child.engine.refuse_new_runs()

    def cancel_all_below(self) -> None:
        """Ask everything that the root run has started to stop, whatever its body does about it."""
        _cancel_all(self.root.living_children(), self.settings.cancel_grace_seconds)

    # --- stopping ---------------------------------------------------------------------------------------------

    def cancel(self, run: Run, grace: float | None = None) -> bool:
        """Ask for `run` to be cancelled; False if it has ended. Does not block."""
        tell = self.begin_to_cancel(run, grace)
        if tell is None:
            return False
        tell()
        return True

    def begin_to_cancel(self, run: Run, grace: float | None = None) -> Callable[[], object] | None:
        """See to it that `run` does not start any more; what is left to do about it. None if it has ended."""
        if isinstance(run.pending, Call) and run.pending.away is not None:
            run.pending.begin(if_away=True)  # another process may be about to execute it: it says when that is over
        with run.lock:
            if run.done:
                return None
            command = step(run, Event.CANCEL_ASKED, run.plan)
            request, driver = run.pending, run.driver
            if command is Command.FINISH:
                run.pending = None
        if command is Command.FINISH and request is not None and driver is not None:
            return functools.partial(driver.resume, run, None)
        if command is Command.INTERRUPT:
            return functools.partial(self._interrupt, run, grace)
        return _nothing

    def _interrupt(self, run: Run, grace: float | None) -> None:
        self.recorder.touch(run)
        self.stop(run, self.settings.cancel_grace_seconds if grace is None else grace)

    def stop(self, run: Run, grace: float) -> None:
        """Make everything that `run` started end, then its body; written off after `grace` seconds."""
        if run.engine.root is run:
            run.engine.closing = True
        call = run.call
        # Marked first: the end of a child may let the body go on, which would never hear of it.
        asked = call is not None and call.mark_as_stopping()
        _cancel_all(run.living_children(), grace)
        if call is not None and asked:
            call.interrupt()
            self.clock.call_later(grace, lambda: self._write_off(call, grace))

    def expire(self, call: Call) -> None:
        """The time of an attempt is over."""
        if call.away is not None and self.runner.capabilities.can_kill:
            call.away.kill(call)
            return
        of_flow = call.run.plan.kind == "flow"
        grace = self.settings.cancel_grace_seconds if of_flow else self.settings.timeout_grace_seconds
        self.stop(call.run, grace)

    def _write_off(self, call: Call, grace: float) -> None:
        """Stop counting on a body that does not stop."""
        run = call.run
        with run.lock:
            if call.ended or run.call is not call:
                return
            if call.away is not None:
                call.away.kill(call)
                if self.runner.capabilities.can_kill:
                    return
            waited_for = run.pending is call
        place = interrupt.where(call)
        _logger.warning("%s did not stop within %g s; still running in %s%s", run.label, grace, place, _cure(call))
        if not waited_for:
            return  # a direct call: its caller's own thread is in it and cannot be released
        if call.asyncio_task is not None:
            loop.replace_if_stuck(call.asyncio_task.get_loop())
        for place_of_call in (call.worker, call.slot):
            if place_of_call is not None:
                place_of_call.write_off()
        deliver(run, call, self._lost(call, grace, place))

    def _lost(self, call: Call, grace: float, place: str) -> Outcome:
        if call.expired:
            return Outcome(Event.TIMED_OUT, error=timeout_error(call.run))
        message = f"{call.run.label} did not stop within {grace:g} s; still running in {place}"
        return Outcome(Event.CRASHED, error=CrashedRun(message), message=message)

    def wind_down(self, run: Run, event: Event) -> None:
        """The body has not returned: what it submitted and has not started never will."""
        everything = event in (Event.CRASHED, Event.STOPPED) or (event is Event.TIMED_OUT and run.plan.kind == "flow")
        children = run.living_children()
        _cancel_all(children if everything else [child for child in children if not child.has_started])

    # --- limits -----------------------------------------------------------------------------------------------

    def acquire_limits(self, run: Run, granted: Callable[[], object]) -> None:
        """Have `granted` called when the limits named by the run's tags let it pass."""
        table = self.limit_table
        request = limits.Request(table, table.tag_slots(run.tags), 1, granted, run.label)
        run.lease = request
        if request.submit():
            granted()

    def release_limits(self, run: Run) -> None:
        if run.lease is not None:
            lease, run.lease = run.lease, None
            lease.release()

    # --- the end ----------------------------------------------------------------------------------------------

    def close(self) -> None:
        """The root run is over: give the runner back."""
        self.closing = True
        self.rest()
        if self.root.plan.kind != "flow":
            return
        if self.forgives and self.root.status is Status.COMPLETED:
            self.ends.unhandled += sum(not is_settled(failed) for failed in self.failures)
        if self.outer is not None:
            self.outer.ends.absorb(self.root.plan.name, self.ends)
        if self.spectator is not None:
            self.spectator.end(self.root)
        self.log(logging.INFO, self.summary(self.root), self.root)

    def rest(self) -> None:
        """Nothing is to be executed for now: give back what the runner holds, until it is needed again."""
        if self._runner_started:
            self._runner_started = False
            self.runner.close(cancel=True)

    def log(self, level: int, message: str, run: Run) -> None:
        """Write a line to the log of `run`, from wherever this thread is."""
        token = current_run.set(run)
        try:
            logging.getLogger(f"penstock.{run.plan.kind}_runs").log(level, message, extra=run.log_extra())
        finally:
            current_run.reset(token)

    def note_end(self, run: Run) -> None:
        """A run below the root has ended."""
        self.ends.count(run)
        if self.chatty and run.plan.kind == "task":  # a flow run has a last line of its own
            self.log(logging.DEBUG, self.summary(run), run)

    def note_retry(self, run: Run, error: BaseException | None) -> None:
        """An attempt at a run has ended and another one will follow."""
        if self.chatty:
            failed = f"attempt {run.attempt} of {run.plan.retries + 1} failed"
            self.log(logging.DEBUG, f"{run.path} {failed}" + (f" with {describe(error)}" if error else ""), run)

    def summary(self, run: Run) -> str:
        """One sentence about how a run ended."""
        tallies = import_module("penstock.tallies")  # for those who read it only
        took = (run.ended or self.now()) - (run.first_started or run.created)
        groups = counting.groups(run, living=False) if run.engine.root is run else ()
        handled = run.status is Status.COMPLETED and not self.ends.unhandled
        state = tallies.state_words(run.status.name, run.state_name())
        text: str = tallies.sentence(run.path, state, took, groups, handled=handled)
        return text


def _note_transaction(run: Run, transaction: Any) -> None:
    """Let the run be part of the transaction around its caller; without one, of one of its own if it has such hooks."""
    if transaction is not None and transaction._join(run):
        return
    if run.plan.hooks.get("on_commit"):
        keeping.memo_of(run)


def _ended_by_us(call: Call) -> Outcome | None:
    """What an end means that the body was not asked about: None, unless we wanted it."""
    if call.expired:
        return Outcome(Event.TIMED_OUT, error=timeout_error(call.run))
    return Outcome(Event.STOPPED) if call.stopping else None


def _is_named_after_inputs(run: Run) -> bool:
    name = run.plan.run_name
    return name is not None and run.inputs is not None and name_uses(name, run.inputs.names)


def _lost_error(error: BaseException) -> WorkerLost:
    if isinstance(error, WorkerLost):
        return error
    lost = WorkerLost(f"The worker was lost: {describe(error)}")
    lost.__cause__ = error
    return lost


def _cancel_all(children: Sequence[Child], grace: float | None = None) -> None:
    """Cancel those first that have not started: else the end of one could still start or block another."""
    # Latest first: a run that waits for another one is younger, and must not be woken by its end.
    latest_first = reversed(children)
    ordered = sorted(latest_first, key=lambda child: child.has_started)
    # None starts any more before the first is told: what somebody does about that may let others start.
    for tell in [_begin_to_cancel(child, grace) for child in ordered]:
        if tell is not None:
            tell()


def _begin_to_cancel(child: Child, grace: float | None) -> Callable[[], object] | None:
    if isinstance(child, Run):
        return child.engine.begin_to_cancel(child, grace)
    return functools.partial(child.cancel, grace)


def _nothing() -> None: ...


def _perform_apart(call: Call) -> None:
    if call.needs_thread:
        call.report(call.execute())
        return
    import asyncio

    context = call.run.context
    if context is not None:  # else the run was cancelled, and is over, before this thread came to it
        call.report(context.run(asyncio.run, run_body_async(call)))


def _cure(call: Call) -> str:
    is_called_directly = not (call.on_worker or call.away or call.asyncio_task)
    return "" if not is_called_directly else ". The caller waits for it; `.submit()` would not"


async def _perform_async(call: Call) -> None:
    outcome = await run_body_async(call)
    if call.slot is not None:
        call.slot.release()
    call.report(outcome)
