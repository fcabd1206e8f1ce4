"""Calling and submitting: the road from a definition and its arguments to a run.

The composition root: where runner, store, clock and settings meet in an engine. The blocking and the awaiting
call differ in their drivers and in nothing else.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple, cast
from uuid import UUID

from penstock import keeping_options, recovery, settings, storing, task_runners
from penstock._core import graph
from penstock._engine import capture, drive, interrupt, signals, waiting
from penstock._engine.context import current_run, current_tags
from penstock._engine.engine import Engine
from penstock._engine.mailbox import Mailbox
from penstock._engine.past import Past
from penstock._engine.recorder import Recorder, recorder_for
from penstock.settings.table import inline_bytes
from penstock.states import MISSING, State, StateDetails, StateType
from penstock.store import owners
from penstock.task_runners.threads import ThreadPoolTaskRunner
from penstock.words import two_words

if TYPE_CHECKING:
    from pathlib import Path

    from penstock._core.graph import Link
    from penstock._engine.archive import Archive
    from penstock._engine.run import Run
    from penstock.definitions import Definition
    from penstock.flows import Flow
    from penstock.futures import Future, FutureList
    from penstock.settings import Settings
    from penstock.store.base import RunRow
    from penstock.task_runners.base import TaskRunner

_TURN = 0.02  # seconds between looks at what another process does
_RECORD_TURNS = 25  # until a run that is not recorded is believed not to exist
_PATIENCE = 0.7  # of the grace of a run that is cancelled from outside: the rest is for the way there and back
_LOOK_EVERY = 0.5  # seconds between looks for requests in a database, which many processes look into
_ANSWER_TURNS = 150  # until a process that does not answer is believed to be dead


def process_recorder(home: Path | None = None, url: str | None = None) -> Recorder:
    """The recorder of the store in `home` or at `url`; by default the one that settings and environment name."""
    if home is None:
        home, url = settings.home(), settings.store_url()
    recorder = _file_recorder(home) if url is None else _shared_recorder(home, url)
    if not recorder.farewells:
        recorder.farewells.append(lambda: owners.disown(home))
        recorder.greet = lambda store: recovery.recover(home, store)
    return recorder


def _file_recorder(home: Path) -> Recorder:
    return recorder_for(home, lambda: storing.open_store(home), watch=lambda: _heed(Mailbox(home)))


def _shared_recorder(home: Path, url: str) -> Recorder:
    looked = 0.0

    def watch() -> None:
        nonlocal looked
        if time.monotonic() - looked >= _LOOK_EVERY:
            looked = time.monotonic()
            store = cast("storing.SharedStore", recorder.reader)
            store.beat()
            _heed(store)

    recorder = recorder_for(f"{home}\0{url}", lambda: storing.open_store(home, url), watch=watch)
    return recorder


def archive_for(home: Path, recorder: Recorder, current: Settings) -> Archive:
    """The values that a store keeps, the key and the large files of which are in `home`."""
    places = current.results_local_storage_path, current.results_key_path, inline_bytes(current)
    archives = _archives.setdefault(recorder, {})
    archive: Archive | None = archives.get(places)
    if archive is None:
        make = import_module("penstock._engine.archive").Archive  # slow to load, and most programs keep nothing
        archive = archives.setdefault(places, make(home, recorder, *places))
        assert archive is not None
        recorder.farewells.append(archive.locks.close)
    return archive


_archives: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()


def owner_of(home: Path) -> str | None:
    """This process as the owner of its runs; None where it cannot be one, and nobody can tell when it has died."""
    try:
        return owners.own(home)
    except OSError:
        return None


def new_engine(runner: TaskRunner, parent: Run | None) -> Engine:
    """An engine for a flow run, or for a task called outside any flow."""
    if parent is not None:
        outer = parent.engine
        engine = Engine(runner, outer.recorder, outer.settings, outer)
        engine.defaults = outer.defaults
        return engine
    current, home = settings.here()
    capture.install(current.logging_level, current.logging_format)
    recorder = process_recorder(home, current.store_url)
    recorder.window, recorder.lock_patience = current.store_window_seconds, current.store_patience_seconds
    engine = Engine(runner, recorder, current, None, lambda: archive_for(home, recorder, current), owner_of(home))
    engine.home = str(home)
    return engine


def task_run(task: Definition, parameters: dict[str, Any], waits: Sequence[Link]) -> Run:
    """A run for a direct call: a child of the run whose body calls, or a root run outside any."""
    parent = current_run.get()
    if parent is None:
        engine = new_engine(ThreadPoolTaskRunner(), None)
        plan = task.plan_in(engine)
        run = engine.new_root(plan, parameters, None, current_tags.get() | plan.tags)
    else:
        engine = parent.engine
        _heed_requests(parent)
        plan = task.plan_in(engine)
        run = engine.new_run(plan, parameters, parent, next(plan.calls), None)
    engine.attach(run, waits)
    return run


refusal: str | None = None
"""Why no flow may be started: a script is being loaded just to find one."""


def flow_run(
    flow: Flow[..., Any],
    runner: TaskRunner | None,
    parameters: dict[str, Any],
    waits: Sequence[Link],
    life: Life | None = None,
) -> Run:
    """A run of a flow, with an engine and a runner of its own. `life`: what it goes on with.

    Without a `runner` it has that of the setting, else the one that the flow asks for.
    """
    if refusal is not None:
        raise RuntimeError(refusal)
    parent = current_run.get()
    if parent is not None:
        _heed_requests(parent)
    engine = new_engine(flow.task_runner.duplicate() if runner is None else runner, parent)
    # A worker's flow keeps its own: a process of a pool or cluster could not start another one.
    if runner is None and engine.settings.runner is not None and engine.recorder.send_home is None:
        engine.runner = task_runners.named(engine.settings.runner)
    plan = flow.plan_in(engine)
    engine.logs_prints = plan.log_prints
    engine.forgives = plan.forgives
    engine.defaults = keeping_options.defaults_of(flow, engine)
    run_id = None
    if life is not None:
        run_id, engine.past, engine.resumed_from, engine.script = life
    run = engine.new_root(plan, parameters, parent, current_tags.get() | plan.tags, run_id)
    if plan.run_name is None:
        run.custom_name = two_words()
    if parent is None:
        engine.spectator = _spectator(engine.settings.progress)
    engine.attach(run, waits)
    return run


def _spectator(mode: str) -> Any:
    """Who shows the progress of a root flow, or None."""
    return None if mode == "off" else import_module("penstock.progress.following").spectator(mode)


def probe(task: Definition, parameters: dict[str, Any]) -> Run:
    """A run that is not to be started: only to be asked about."""
    parent = current_run.get()
    engine = new_engine(ThreadPoolTaskRunner(), None) if parent is None else parent.engine
    plan = task.plan_in(engine)
    if parent is None:
        run = engine.new_root(plan, parameters, None, current_tags.get())
    else:
        run = engine.new_run(plan, parameters, parent, 0, None)
    engine.attach(run, ())
    return run


class Life(NamedTuple):
    """What makes a root run go on with another one."""

    id: int
    past: Past
    resumed_from: str
    script: str | None  # from which the flow was started first


def call(run: Run, return_state: bool) -> Any:
    """Take a run to its end in this thread; its value or its state. Raises what the run raised."""
    driver = drive.Blocking()
    with signals.guard(run):
        driver.drive(run)
    return _answer(run, driver.escaped, return_state)


async def call_async(run: Run, return_state: bool) -> Any:
    """`call` in this coroutine."""
    driver = drive.Awaiting()
    with signals.guard(run):
        await driver.drive(run)
    return _answer(run, driver.escaped, return_state)


def _answer(run: Run, escaped: BaseException | None, return_state: bool) -> Any:
    run.looked = True
    if escaped is not None:
        raise escaped
    caller = current_run.get()
    if caller is not None:
        waiting.stop_if_asked(caller.call)  # it was not this run that was asked to stop, but the body around it
    return run.state() if return_state else run.outcome(True)


def submitting_run(what: str) -> Run:
    """The run that a submission belongs to; raises `RuntimeError` outside of any."""
    parent = current_run.get()
    if parent is None:
        raise RuntimeError(_no_run_message(what))
    _heed_requests(parent)
    return parent


def _heed_requests(parent: Run) -> None:
    """A body that calls into the engine again and again must hear that it is to stop."""
    call = parent.call
    if call is not None and call.stopping:
        waiting.tell_to_stop(call)
    if parent.engine.closing:
        signals.raise_pending()


def _no_run_message(what: str) -> str:
    if interrupt.runs_are_active():
        return (
            f"`{what}()` needs a running flow, and this thread does not know of one: start it with "
            "penstock.context.with_context(fn), which carries the context along"
        )
    name = what.rpartition(".")[0]
    return (
        f"`{what}()` needs a running flow: call it inside a function decorated with @flow, or call `{name}()` directly"
    )


def final_state(future: Future[Any]) -> State[Any]:
    """Block until the run has ended; its State."""
    future.wait()
    return future.state


def final_states(futures: FutureList[Any]) -> list[State[Any]]:
    futures.wait()
    return [future.state for future in futures]


def find_waits(wait_for: Any) -> Sequence[Link]:
    return () if wait_for is None else graph.find_waits(wait_for)


def find_live(run_id: UUID) -> Run | None:
    """The run with this id, if it is going on in this process."""
    ahead: list[Any] = list(interrupt.roots)
    while ahead:
        run = ahead.pop()
        if run.id == run_id.int:
            return cast("Run", run)
        ahead.extend(run.living_children())
    return None


def _heed(mailbox: Mailbox | storing.SharedStore) -> None:
    """Do what other processes ask for."""
    for run_id in mailbox.requests():
        run = find_live(UUID(run_id))
        if run is not None and mailbox.take(run_id):
            run.cancel(_PATIENCE * run.engine.settings.cancel_grace_seconds)


def cancel_elsewhere(run_id: UUID) -> State[Any]:
    """Ask the process that a run belongs to; the run's state. Raises `LookupError` if there is no such run."""
    recorder, mailbox = process_recorder(), _mailbox()
    row = _recorded(recorder, run_id)
    if row.ended is None and recovery.recover(settings.home(), recorder.reader):
        row = _recorded(recorder, run_id)
    if row.ended is not None:
        return _state_of(row, run_id)
    mailbox.post(row.id)
    for _ in range(_ANSWER_TURNS):
        time.sleep(_TURN)
        if row.id not in mailbox.requests():
            return State(StateType.CANCELLING, name="Cancelling", state_details=_details(row, run_id))
    mailbox.take(row.id)
    row = _recorded(recorder, run_id)
    if row.ended is not None:
        return _state_of(row, run_id)
    raise LookupError(f"run {run_id} is recorded as {row.state_name}, but no process answers for it: it may have died")


def _mailbox() -> Mailbox | storing.SharedStore:
    if settings.store_url() is None:
        return Mailbox(settings.home())
    return cast("storing.SharedStore", process_recorder().reader)


def _recorded(recorder: Recorder, run_id: UUID) -> RunRow:
    for _ in range(_RECORD_TURNS):
        row = recorder.get(run_id.hex)
        if row is not None:
            return row
        time.sleep(_TURN)  # its record may be a moment late
    raise LookupError(f"no run with id {run_id} is going on in this process, and none is recorded")


def _state_of(row: RunRow, run_id: UUID) -> State[Any]:
    details = _details(row, run_id)
    kind = StateType(row.status)
    return State(kind, name=row.state_name, message=row.message, data=MISSING, state_details=details)


def _details(row: RunRow, run_id: UUID) -> StateDetails:
    return StateDetails(run_id, None) if row.kind == "flow" else StateDetails(None, run_id)
