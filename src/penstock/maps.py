"""`.map()`: one run for each element, at once, or as soon as the future that is mapped over has its value."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

from penstock._core import graph, mapping
from penstock._engine.arrival import Arrival, Happening
from penstock._engine.plan import Plan
from penstock._engine.travel import Shared
from penstock._engine.upstream import promise_of, upstream_error
from penstock._unexpanded import UnexpandedFutureList
from penstock.annotations import allow_failure, carries, strip, unmapped
from penstock.exceptions import CancelledRun, UpstreamTaskError
from penstock.futures import Countdown, Future, FutureList
from penstock.states import Failed, State, Status

if TYPE_CHECKING:
    from penstock._core.graph import Link
    from penstock._engine.run import Run
    from penstock._engine.upstream import Take
    from penstock.definitions import Definition
    from penstock.task_runners.base import Kept

_logger = logging.getLogger("penstock")


class MapCall:
    """One call of `.map()` with everything that its children need."""

    def __init__(
        self,
        definition: Definition,
        parent: Run,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        waits: Sequence[Link],
    ) -> None:
        self.definition = definition
        self.parent = parent
        self.names = positional_names(definition, args, kwargs)
        self.args = args
        self.kwargs = kwargs
        self.waits = waits
        self.number = definition.next_number(parent)
        self._values_to_come: dict[Any, _Value] = {}  # by promise

    def unresolved(self) -> list[Any]:
        """What cannot be mapped over now, or ever: whole arguments whose runs go on, or did not complete."""
        found = []
        for argument in (*self.args, *self.kwargs.values()):
            wrappers, core = strip(argument)
            if isinstance(core, graph.Upstream | State) and not carries(wrappers, unmapped):
                promise = promise_of(core)
                source = self.source(promise)
                still_to_come = not source.done or isinstance(source, _Value)
                if still_to_come or (_is_bad(promise) and not carries(wrappers, allow_failure)):
                    found.append(promise)
        return found

    def source(self, promise: Any) -> Any:
        """What to wait for before mapping over it: the value of a run, but of a list only that its elements exist."""
        if isinstance(promise, Expanding):
            return promise.expanded
        if not _may_be_kept(promise):
            return promise
        if promise not in self._values_to_come:
            self._values_to_come[promise] = _Value(promise)
        return self._values_to_come[promise]

    def keep_for_later(self) -> None:
        """Look at the arguments as they are now; raises what is wrong with them already."""
        self.args, self.kwargs = mapping.snapshot(self.args, self.kwargs, self.names)

    def expand(self) -> list[Future[Any]]:
        """Start the children. Raises what is wrong with the arguments before any has started."""
        args, kwargs = self._values()
        expansion = mapping.expand(args, kwargs, self.names)
        self._warn_about(expansion.frames)
        shared = self._shared(args, kwargs, expansion.static)
        start = self.definition.start
        number = len(expansion.calls)
        self.definition.plan_in(self.parent.engine).map_sizes[self.number] = number
        self.parent.engine.log(logging.DEBUG, f"{self.definition.name} mapped over {number:,} items", self.parent)
        return [
            start(self.parent, child_args, child_kwargs, self.waits, self.number, index, shared)
            for index, (child_args, child_kwargs) in enumerate(expansion.calls)
        ]

    def pull(self) -> Iterator[mapping.Arguments]:
        """The arguments of the children, made when they are asked for. Raises if there is nothing to map over."""
        pulled = mapping.pull(*self._values(), self.names)
        self._warn_about(pulled.frames)
        return pulled.calls

    def start(self, arguments: mapping.Arguments, index: int) -> Future[Any]:
        """Start one child."""
        return self.definition.start(self.parent, *arguments, self.waits, self.number, index)

    def _values(self) -> mapping.Arguments:
        self.waits = (*self.waits, *self._mapped_over())
        kept = {id(value.kept): value for value in self._values_to_come.values()}
        self._values_to_come = {}
        args = tuple(_with_value(argument, kept) for argument in self.args)
        return args, {name: _with_value(argument, kept) for name, argument in self.kwargs.items()}

    def _mapped_over(self) -> Iterator[Link]:
        """The runs whose whole values the children's elements come from: no child's arguments tell of them."""
        for name, argument in (*zip(self.names, self.args, strict=True), *self.kwargs.items()):
            wrappers, core = strip(argument)
            if isinstance(core, Future | State) and not carries(wrappers, unmapped):
                allowed = carries(wrappers, allow_failure)
                yield graph.Link(core, name, not allowed, allowed)

    def _shared(self, args: tuple[Any, ...], kwargs: dict[str, Any], static: frozenset[str]) -> Shared | None:
        """The static arguments, if they hold nothing to replace: looked at once instead of once for each child."""
        named = dict(zip(self.names, args, strict=True)) | kwargs
        values = {name: _bare(named[name]) for name in static if name in self.definition.binder.names}
        return Shared(values) if values and graph.find(values) is None else None

    def _warn_about(self, frames: Sequence[str]) -> None:
        for frame in frames:
            if frame in self.definition.warned_frames:
                continue
            self.definition.warned_frames.add(frame)
            _logger.warning(
                "%s.map() iterates over the column names of data frame %r: to map over rows write "
                "df.itertuples(), to give every run the whole frame write unmapped(df)",
                self.definition.name,
                frame,
            )


def _bare(argument: Any) -> Any:
    """A static argument as its task gets it, if it is not annotated in other ways as well."""
    return argument.value if type(argument) is unmapped else argument


class _Value(Happening):
    """The value of a run that is to be mapped over: here, also if the task runner has kept it."""

    def __init__(self, promise: Any) -> None:
        super().__init__("value to map over")
        self.kept: Any = None
        self._arrival: Arrival | None = None
        if not promise.subscribe(self._fetch):
            self._fetch(promise)

    def _fetch(self, promise: Any) -> None:
        if promise.kept:
            (self.kept,) = promise.kept
            self._arrival = Arrival(self.kept)
        if self._arrival is None or not self._arrival.subscribe(lambda _: self.happen()):
            self.happen()

    def get(self) -> Any:
        """It, or an exception, if it was kept and has come."""
        assert self._arrival is not None
        return self._arrival.outcome()


def _may_be_kept(promise: Any) -> bool:
    return bool(promise.kept) or (not promise.done and promise.engine.runner.capabilities.keeps_values)


def _with_value(argument: Any, kept: dict[int, _Value]) -> Any:
    """The argument, with a whole future or State that is to be mapped over replaced by its value."""
    wrappers, core = strip(argument)
    if not isinstance(core, Future | UnexpandedFutureList | State) or carries(wrappers, unmapped):
        return argument
    promise = promise_of(core)
    if _is_bad(promise):
        if not carries(wrappers, allow_failure):
            name = promise.culprit().name
            raise upstream_error(promise, f"Cannot map over the result of {name!r}, which did not complete")
        promise.looked = True
        return unmapped(promise.given())  # its exception object stands for the whole argument
    if isinstance(promise, Expanding):
        value: Any = list(promise.futures())
    else:
        value = kept[id(promise.kept[0])].get() if promise.kept else core.result()
    for wrapper in reversed(wrappers):
        value = wrapper.rewrap(value)
    return value


def positional_names(definition: Definition, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[str]:
    """What the positional arguments are called; raises `ParameterBindError` if the call does not fit."""
    return list(definition.binder.bind_partial_names(args, kwargs))[: len(args)]


def submit_all(
    definition: Definition, parent: Run, args: tuple[Any, ...], kwargs: dict[str, Any], waits: Sequence[Link]
) -> FutureList[Any]:
    """Carry out one call of `.map()`. Does not block."""
    call = MapCall(definition, parent, args, kwargs, waits)
    unresolved = call.unresolved()
    if not unresolved:
        return FutureList(call.expand())
    call.keep_for_later()
    return UnexpandedFutureList(Expanding(call, unresolved))


class Expanding(Happening):
    """The future list of a map over futures that are not done. Happens when all of its elements are done."""

    has_started = False

    def __init__(self, call: MapCall, sources: Sequence[Any]) -> None:
        super().__init__(f"map of {call.definition.name!r}")
        engine = call.parent.engine
        self.id = next(engine.ids)
        self.name = f"{call.definition.name}-{call.number}"
        self.created = engine.now()
        self.plan: Plan = call.definition.plan_in(engine)
        self.expanded = Happening(self.label, sources)
        self.error: BaseException | None = None
        self.status = Status.FAILED  # only asked for when there is an error
        self.blocked: list[Run] = []
        self._seen = self._looked = False
        self._sources = sources
        self._call = call
        self._engine = engine
        self._context = copy_context()
        self._futures: list[Future[Any]] = []
        self._cancelled = False
        self._blamed: Any = self
        self._begun: list[None] = [None]  # popped by whoever expands: once
        call.parent.adopt(self)
        Countdown([call.source(promise) for promise in sources], self._expand_once).start()

    def _expand_once(self) -> None:
        try:
            self._begun.pop()
        except IndexError:
            return
        self._context.run(self._expand)

    def _expand(self) -> None:
        try:
            if self._cancelled:
                raise CancelledRun(f"The {self.label} was cancelled.")
            self._futures = self._call.expand()
            if self._looked:
                self.looked = True
        except Exception as error:
            self.error = error
            self.failed = True
            self._account_for(error)
        self.expanded.happen()
        Countdown([future._promise for future in self._futures], self._all_ended).start()
        self._call.parent.release(self)

    def _account_for(self, error: Exception) -> None:
        """The list could not be made: that is a failure like that of a run, or like a run that was blocked."""
        if isinstance(error, UpstreamTaskError):
            bad = [promise for promise in self._sources if _is_bad(promise)]
            for promise in bad:
                promise.note_blocked(self)
            self._blamed = bad[0].culprit() if bad else self
        elif not self._cancelled:
            self._engine.failures.append(self)  # type: ignore[arg-type]

    def _all_ended(self) -> None:
        self.failed = self.failed or any(future._promise.failed for future in self._futures)
        self.ended = self._engine.now()
        self.happen()

    @property
    def looked(self) -> bool:
        return self._looked or self._seen

    @looked.setter
    def looked(self, looked: bool) -> None:
        """To look at the list is to look at its elements, also at those that are still to come."""
        self._looked = looked
        for future in self._futures:
            future._promise.looked = looked

    def futures(self) -> list[Future[Any]]:
        self._seen = True  # whether the list could be made; each element is to be looked at by itself
        if self.error is not None:
            raise self.error
        return self._futures

    # --- for finding out who waits for whom ---------------------------------------------------------------------

    def living_children(self) -> list[Any]:
        return []

    def upstream_runs(self) -> list[Any]:
        """What must end before this does."""
        promises = [future._promise for future in self._futures] if self.expanded.done else self._sources
        return [promise for promise in promises if not promise.done]

    # --- as an upstream -------------------------------------------------------------------------------------------

    @property
    def elements(self) -> list[Any]:
        """Those that stand for the list where it is asked which runs went wrong."""
        return [self] if self.error is not None else [future._promise for future in self._futures]

    def _first_bad(self) -> Any:
        return next((f._promise for f in self._futures if f._promise.done and f._promise.failed), None)

    def culprit(self) -> Any:
        bad = self._first_bad()
        return self._blamed if bad is None else bad.culprit()

    def note_blocked(self, run: Run) -> None:
        self.blocked.append(run)
        for future in self._futures:
            if future._promise.failed:
                future._promise.note_blocked(run)  # type: ignore[attr-defined]

    @property
    def kept(self) -> Sequence[Kept]:
        return [kept for future in self._futures for kept in future._promise.kept]

    def given(self, take: Take | None = None) -> Any:
        return self.error if self.error is not None else [f._promise.given(take) for f in self._futures]  # type: ignore[attr-defined]

    def outcome(self, raise_on_failure: bool) -> Any:
        return [future._promise.outcome(raise_on_failure) for future in self.futures()]

    def state(self) -> State[Any]:
        bad = self._first_bad()
        state: State[Any] = bad.state() if bad is not None else Failed(data=self.error)
        return state

    def uuid(self, kind: str) -> Any:
        return None

    def cancel(self, grace: float | None = None) -> bool:
        if self.done:
            return False
        self._cancelled = True
        if self.expanded.done:
            for future in self._futures:
                future.cancel()
        else:
            self._expand_once()
        return True


def _is_bad(promise: Any) -> bool:
    """Whether there is nothing to map over: a run has failed, or a list could not be made."""
    return promise.error is not None if isinstance(promise, Expanding) else bool(promise.failed)
