"""Another run for one that is recorded: it goes on with that, or has the same parameters."""

from __future__ import annotations

import functools
import importlib
import json
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from penstock import calls, generators, settings
from penstock._core.code import code_digest
from penstock._core.errors import describe
from penstock._engine import clock, keeping
from penstock._engine.context import current_run
from penstock._engine.ids import as_hex, id_block
from penstock._engine.past import Past, Place
from penstock._engine.record import parameters_address, process_facts
from penstock._raising import leave, leaves
from penstock.definitions import Definition
from penstock.exceptions import ParameterBindError, ResultCorrupt, ResumeError, StoreUnavailable
from penstock.flows import Flow
from penstock.recovery import recover
from penstock.store.base import RunRow
from penstock.storing import name_of

if TYPE_CHECKING:
    from penstock._engine.archive import Archive
    from penstock._engine.recorder import Recorder
    from penstock._engine.run import Run
    from penstock.store.base import KeptRow

__all__ = ["rerun", "resume", "retry"]

_NAMED_AT_MOST = 10
_ALL = 1_000_000_000


@leaves
def resume(
    flow_run_id: UUID | str,
    *,
    flow: Flow[..., Any] | None = None,
    parameters: Mapping[str, Any] | None = None,
    rerun: Iterable[str] | str = (),
    from_task: Iterable[str] | str = (),
    return_state: bool = False,
) -> Any:
    """Carry out a flow run again that failed, crashed or was cancelled, without repeating what it completed and kept.

    A new run starts, linked to the old one, with the recorded parameters, and `parameters` in place of those of the
    same names. The flow's function runs again; a task run that the old run, or another of its lives, completed with a
    persisted result is restored instead of executed. Matched are task, inputs, and the number among equals, whatever
    the order in which runs end. What cannot be restored is said in a warning before the run starts.

    `rerun` names tasks that are executed in any case, `from_task` tasks that are together with all that depend on
    their futures. `flow` is needed if the flow's function cannot be imported.

    Returns what calling the flow would: its value, a coroutine if it is asynchronous, an iterator if it is a
    generator, with `return_state=True` the final state. Blocks as that call does. Raises `ResumeError`, before
    anything has started, if the run is unknown, goes on, or has completed; if the flow cannot be found; if a
    parameter was not recorded; if `rerun` or `from_task` names a task that it has not called. May be called in any
    number of processes at once: one of them goes on, the others get `ResumeError`.
    """
    old = OldRun.find(flow_run_id)
    if old.row.status == "COMPLETED":
        raise ResumeError(
            f"Run {old.row.run_name!r} has completed: there is nothing to resume. "
            f"`penstock retry {old.row.id}` runs again what failed in it"
        )
    return _go_on(old, flow, parameters, _Again(_names(rerun), _names(from_task)), return_state)


@leaves
def retry(
    flow_run_id: UUID | str,
    *,
    flow: Flow[..., Any] | None = None,
    parameters: Mapping[str, Any] | None = None,
    return_state: bool = False,
) -> Any:
    """Carry out a flow run again for the sake of what failed in it: `resume`, also for a run that completed.

    A flow may complete although tasks of it failed, if it expected that; those tasks, and all others that did not
    complete, are executed again. So are the completed runs in which something failed: subflows are entered, and what
    is kept of them is restored. Raises `ResumeError` as `resume` does, and if the run completed and nothing failed.
    """
    old = OldRun.find(flow_run_id)
    entered = old.around_failures()
    if entered is None and old.row.status == "COMPLETED":
        raise ResumeError(
            f"Run {old.row.run_name!r} has completed, and nothing in it failed. "
            f"`penstock rerun {old.row.id}` runs all of it again"
        )
    return _go_on(old, flow, parameters, _Again(entered=entered or ()), return_state)


@leaves
def rerun(
    flow_run_id: UUID | str,
    *,
    flow: Flow[..., Any] | None = None,
    parameters: Mapping[str, Any] | None = None,
    return_state: bool = False,
) -> Any:
    """Call the flow again with the parameters that a run of it had, and `parameters` in place of some.

    It is a run of its own: nothing is restored, though the cache may answer. Returns what calling the flow would.
    Raises `ResumeError` if the run is unknown or part of another one, if its flow cannot be found, or if a parameter
    was not recorded.
    """
    old = OldRun.find(flow_run_id, ended=False)
    definition = old.flow() if flow is None else flow
    args, kwargs = definition.binder.call(old.parameters(definition, parameters or {}))
    return definition(*args, return_state=return_state, **kwargs)


class _Again(NamedTuple):
    """What is not restored."""

    rerun: Collection[str] = ()  # tasks of these names
    starts: Collection[str] = ()  # likewise, and all that depend on them
    entered: Collection[str] = ()  # what is at these positions


def _go_on(
    old: OldRun, flow: Flow[..., Any] | None, others: Mapping[str, Any] | None, again: _Again, return_state: bool
) -> Any:
    definition = old.flow() if flow is None else flow
    values = old.parameters(definition, others or {})
    start = functools.partial(_start, old, definition, values, again)
    if definition.isgenerator:
        return generators.iterate(start, return_state, definition.isasync)
    if definition.isasync:
        return _go_on_async(start, return_state)
    return calls.call(start(), return_state)


async def _go_on_async(start: Any, return_state: bool) -> Any:
    try:
        return await calls.call_async(start(), return_state)
    except BaseException as error:
        leave(error)
        raise


def _names(option: Iterable[str] | str) -> frozenset[str]:
    return frozenset((option,) if isinstance(option, str) else option)


# --- the old run ------------------------------------------------------------------------------------------------


class OldRun:
    """A run that is to have another one, as it is recorded."""

    def __init__(self, row: RunRow, recorder: Recorder, archive: Archive) -> None:
        self.row = row
        self.recorder = recorder
        self._archive = archive
        self.facts: dict[str, Any] = json.loads(row.info or "{}")

    @classmethod
    def find(cls, flow_run_id: UUID | str, *, ended: bool = True) -> OldRun:
        """Raises `ResumeError` if there is no such run, if it is part of another one, or, with `ended`, goes on."""
        if current_run.get() is not None:
            raise ResumeError("resume() starts a run of its own: call it outside of flows and tasks")
        home = settings.home()
        recorder = calls.process_recorder()
        recover(home, recorder.reader)
        row = recorder.get(_hex(flow_run_id))
        if row is None:
            place = name_of(home, settings.store_url())
            raise ResumeError(f"There is no run {flow_run_id} in {place}: `penstock ls` shows those that there are")
        _refuse(row, ended)
        return cls(row, recorder, calls.archive_for(home, recorder, settings.current()))

    def flow(self) -> Flow[..., Any]:
        """The flow, imported if need be."""
        found = definition_named(self.row.key)
        if not isinstance(found, Flow):
            raise ResumeError(
                f"Flow {self.row.key!r} of run {self.row.run_name!r} cannot be imported: "
                f"give it, resume({self.row.id!r}, flow=…)"
            )
        return found

    def parameters(self, flow: Flow[..., Any], others: Mapping[str, Any]) -> dict[str, Any]:
        """Values for all parameters of the flow: `others`, and for the rest those that are recorded."""
        names = set(flow.binder.names)
        unknown = set(others) - names
        if unknown:
            raise ParameterBindError(f"Flow {flow.name!r} has no parameter {min(unknown)!r}")
        recorded = self._recorded()
        # A record has all parameters that the flow had: others are new, and have their defaults if there are any.
        values = {**others} if recorded is None else {**_defaults(flow), **recorded, **others}
        missing = [name for name in flow.binder.names if name not in values]
        if missing:
            named = ", ".join(f"{name!r}: …" for name in missing)
            raise ResumeError(
                f"Parameter {missing[0]!r} of run {self.row.run_name!r} was not recorded: "
                f"give it, resume({self.row.id!r}, parameters={{{named}}})"
            )
        return {name: values[name] for name in flow.binder.names}

    def _recorded(self) -> dict[str, Any] | None:
        plain = self.facts.get("parameters")
        if plain is not None:
            return dict(plain)
        try:
            return dict(self._archive.read(Place(parameters_address(self.row.id), None)))
        except (LookupError, OSError, ResultCorrupt, StoreUnavailable):
            return None

    def around_failures(self) -> list[str] | None:
        """Positions of the kept runs in which something failed, directly or further down; None: nothing failed."""
        rows = {row.id: row for row in self.recorder.reader.tree(self.row.id, limit=_ALL)}
        failed = [row for row in rows.values() if row.status != "COMPLETED"]
        parents = {row.parent_id for row in failed}
        ahead = list(parents)
        while ahead:
            above = rows.get(ahead.pop() or "")
            if above is not None and above.parent_id not in parents:
                parents.add(above.parent_id)
                ahead.append(above.parent_id)
        positions = (rows[run_id].position for run_id in parents if run_id in rows)
        return [position for position in positions if position is not None] if failed else None

    def lives(self) -> list[RunRow]:
        """The run, those it was resumed from, and those that resumed one of them; the latest first."""
        return self.recorder.reader.lives(self.row.id)


def _defaults(flow: Flow[..., Any]) -> dict[str, Any]:
    parameters = flow.binder.signature.parameters.values()
    return {each.name: each.default for each in parameters if each.default is not each.empty}


def _hex(run_id: UUID | str) -> str:
    try:
        return UUID(str(run_id)).hex
    except ValueError:
        raise ResumeError(f"{run_id!r} is not the id of a run: give all 32 digits of it") from None


def _refuse(row: RunRow, ended: bool) -> None:
    if row.parent_id is not None or row.kind != "flow":
        raise ResumeError(
            f"{row.kind.capitalize()} run {row.run_name!r} cannot be resumed by itself: resume({row.root_id!r}) "
            "goes on with the run that it is part of"
        )
    if ended and row.ended is None:
        raise ResumeError(f"Run {row.run_name!r} is still going on{_whereabouts(row)}")


def _whereabouts(row: RunRow) -> str:
    facts = json.loads(row.info or "{}")
    return f" in process {facts['pid']} on {facts['host']}" if "pid" in facts else ""


def definition_named(key: str) -> Definition | None:
    """The task or flow with this identity; None if it cannot be imported."""
    main = sys.modules.get("__main__")
    parts = key.split(".")
    for end in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:end])
        found = _attribute(main, parts[end:], key) or _attribute(_imported(module), parts[end:], key)
        if found is not None:
            return found
    return None


def _imported(name: str) -> Any:
    try:
        return sys.modules.get(name) or importlib.import_module(name)
    except Exception:  # whatever the module raises, it is not there
        return None


def _attribute(module: Any, names: Sequence[str], key: str) -> Definition | None:
    found = module
    for name in names:
        found = getattr(found, name, None)
    if isinstance(found, Definition) and found._key() == key:
        return found
    return None


# --- the new run ------------------------------------------------------------------------------------------------


def _start(old: OldRun, flow: Flow[..., Any], parameters: dict[str, Any], again: _Again) -> Run:
    """Claim the old run, make the new one and say what it will have to do again. Raises `ResumeError`."""
    lives = old.lives()
    ids = [row.id for row in lives]
    _check_names(old, ids, {*again.rerun, *again.starts})
    number = next(id_block())
    life = calls.Life(number, Past(old.recorder, ids, *again), old.row.id, old.facts.get("script"))
    run = calls.flow_run(flow, None, parameters, (), life)
    # Last: nothing may come between the claim and the start, or nobody could claim the run as long as this process is.
    _claim(old, lives, as_hex(number))
    for line in _forecast_if_possible(old.recorder, ids, run.created):
        keeping.warn(run, line)
    return run


def _check_names(old: OldRun, lives: Sequence[str], asked: set[str]) -> None:
    """Raise `ResumeError` for names that no life knows: what is misspelt would be restored without a word."""
    store = old.recorder.reader
    if not asked or not (asked - {row.name for row in store.kept(lives)}):
        return
    known = {row.name for life in lives for row in store.tree(life, limit=_ALL)}
    if unknown := sorted(asked - known):
        raise ResumeError(
            f"Run {old.row.run_name!r} has no task {unknown[0]!r}: those that it has called are "
            f"{', '.join(map(repr, sorted(known))) or 'none'}"
        )


def _claim(old: OldRun, lives: Sequence[RunRow], new_id: str) -> None:
    """Of all who want to go on with a run at the same time, one may."""
    row = old.row
    facts = json.dumps({**old.facts, **process_facts()})
    claim = RunRow(
        id=new_id,
        root_id=new_id,
        parent_id=None,
        flow_run_id=None,
        kind="flow",
        name=row.name,
        run_name=row.run_name,
        key=row.key,
        map_index=None,
        status="PENDING",
        state_name="Pending",
        attempts=0,
        created=clock.get().now(),
        version=row.version,
        info=facts,
        owner=calls.owner_of(settings.home()),
        resumed_from=row.id,
    )
    other = old.recorder.exclusively(lambda store: store.claim(claim, [life.id for life in lives]))
    if other is None:
        return
    if other.ended is None:
        raise ResumeError(f"Run {row.run_name!r} is being resumed by run {other.id}{_whereabouts(other)}")
    raise ResumeError(f"Run {row.run_name!r} was resumed by run {other.id}, which has completed")


# --- what will not be restored ----------------------------------------------------------------------------------


def _forecast_if_possible(recorder: Recorder, lives: Sequence[str], now: float) -> list[str]:
    try:
        return forecast(recorder, lives, now)
    except Exception as error:  # of the store, or of user code that is imported to be compared
        return [f"what will run again cannot be told: {describe(error)}"]


def forecast(recorder: Recorder, lives: Sequence[str], now: float) -> list[str]:
    """What the new run will have to do again although it was done, and what it may be wrong about."""
    store = recorder.reader
    kept = list(store.kept(lives))
    lines = []
    if not_kept := store.not_kept(lives):
        lines.append(
            f"{_counted(Counter(not_kept))} completed, but their results were not kept, so they run again: "
            "persist_result=True keeps them"
        )
    if odd := Counter(row.name for row in kept if row.position is None):
        lines.append(f"the inputs of {_counted(odd)} cannot be compared, so they run again")
    if lost := store.lost(lives, now):
        lines.append(f"the results of {_counted(Counter(lost))} are missing or have expired, so they run again")
    if changed := _changed(kept):
        names = ", ".join(changed)
        lines.append(
            f"the code of {names} has changed since: their results are restored all the same, unless rerun=… names them"
        )
    return lines


def _counted(names: Counter[str]) -> str:
    total = names.total()
    shown = [f"{name} ({number})" for name, number in names.most_common(_NAMED_AT_MOST)]
    more = len(names) - len(shown)
    listed = ", ".join(shown) + (f" and {more} more" if more else "")
    return (
        f"{total} task run{'s' * (total != 1)} ({listed})"
        if len(names) > 1
        else f"{total} task run{'s' * (total != 1)} of {next(iter(names))}"
    )


def _changed(kept: Sequence[KeptRow]) -> list[str]:
    known = {(row.key, row.name, row.code) for row in kept if row.code is not None}
    changed = set()
    for key, name, code in known:
        definition = definition_named(key)
        if definition is not None and code_digest(definition.fn) != code:
            changed.add(name)
    return sorted(changed)
