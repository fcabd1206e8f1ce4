"""What a described flow must come to, worked out from the rules in docs/design.md, without an engine.

Some rules leave room: which of several failed inputs is found first is a matter of time. The model asks `_Picks` then,
and `worlds` goes through all answers; a flow is right if it ends as in one of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeAlias

from penstock._core.binding import short
from penstock.exceptions import CancelledRun, CrashedRun, FailedRun, UnfinishedRun, UpstreamTaskError
from penstock.states import State, StateType
from penstock.testing.graphs.bodies import act, arranged, shown, told
from penstock.testing.graphs.description import ROOT, Argument, Graph, Node, Source, misbehaves, width
from penstock.testing.graphs.telling import Edge, Key, Line, Told, attempt_text, error_text, in_order

_NOBODY: Mapping[Key, str] = MappingProxyType({})


def worlds(flow: Node, blamed: Mapping[Key, str] = _NOBODY) -> Iterator[Told]:
    """Every way in which the flow may end; with `blamed`, those in which these runs blame these culprits."""
    picks: _Picks | None = _Picks(blamed)
    while picks is not None:
        yield _predict(flow, picks)
        picks = picks.next()


def _predict(flow: Node, picks: _Picks) -> Told:
    model = _Model(picks)
    run = _Run(ROOT, "flow", None, frozenset())
    model.live(run, flow, _Scope(_NO_GRAPH, ROOT, run, _Engine(), frozenset()), {})
    return Told(run.told(), run.lines(), model.edges, model.possible_edges)


class _Picks:
    """Answers to the questions that the rules leave open. What `blamed` tells is not asked."""

    def __init__(self, blamed: Mapping[Key, str], path: Sequence[tuple[int, int]] = ()) -> None:
        self._blamed = blamed
        self._path = list(path)  # an answer and the number of options, for each question
        self._asked = 0

    def blocker(self, key: Key, options: Sequence[Any]) -> Any:
        """The one of several failed upstreams that keeps a run from starting."""
        options = [option for option in options if option.culprit.name == self._blamed.get(key)] or options
        if len(options) == 1:
            return options[0]
        if self._asked == len(self._path):
            self._path.append((0, len(options)))
        answer, _ = self._path[self._asked]
        self._asked += 1
        return options[answer]

    def next(self) -> _Picks | None:
        """Other answers; None if all have been given."""
        path = list(self._path)
        while path:
            answer, options = path.pop()
            if answer + 1 < options:
                return _Picks(self._blamed, [*path, (answer + 1, options)])
        return None


# --- runs and lists of them -------------------------------------------------------------------------------------------


@dataclass(eq=False)
class _Run:
    """A run. `given`, `look`, `culprit`, ... are what it is to those that depend on it."""

    name: str
    kind: str
    index: int | None
    tags: frozenset[str]
    is_state: bool = False  # it was called directly, so others have its State
    state: str = ""
    event: str = ""  # what ended it
    value: Any = None
    error: BaseException | None = None
    attempt: int = 0
    past: list[str] = field(default_factory=list)
    children: list[_Run] = field(default_factory=list)
    looked: bool = False
    blocked: list[_Upstream] = field(default_factory=list)
    blamed: Any = None
    key: Key = ()

    def adopt(self, child: _Run) -> None:
        namesakes = sum(other.name == child.name for other in self.children)
        child.key = (*self.key, (child.name, namesakes))
        self.children.append(child)

    @property
    def failed(self) -> bool:
        return self.error is not None

    @property
    def culprit(self) -> Any:
        return _GivenState() if self.is_state else self.blamed or self

    @property
    def blockers(self) -> list[_Upstream]:
        """What may be found to have failed: itself."""
        return [self]

    @property
    def members(self) -> Sequence[_Upstream]:
        return [self]

    def given(self) -> Any:
        return self.value if self.error is None else self.error

    def look(self) -> None:
        self.looked = True

    def note_blocked(self, other: _Upstream) -> None:
        if not self.is_state:  # whoever has the State has looked
            self.blocked.append(other)

    def told(self) -> str:
        return f"{self.state} {shown(self.given())}"

    def lines(self, depth: int = 0) -> list[str]:
        """Its record, and that of the runs below it."""
        attempts = [*self.past, attempt_text(self.state, _recorded(self.error))] if self.attempt else []
        result = _recorded(self.error) or short(self.value)
        state = f"{_STATUSES.get(self.event, 'FAILED')} {self.state}"
        own = Line(self.name, self.kind, self.index, sorted(self.tags), state, result, attempts)
        return in_order(own, depth, [child.lines(depth + 1) for child in self.children])


class _GivenState:
    """What is to blame if a State that was passed on is: there is no more to be known about it."""

    name = "state"


@dataclass(eq=False)
class _List:
    """The futures of a map."""

    name: str
    is_late: bool  # it was mapped over another node's list, and may have been one thing until that was there
    runs: list[_Run] = field(default_factory=list)
    error: BaseException | None = None  # they could not be made
    event: str = "BLOCKED"  # if so
    looked: bool = False
    blocked: list[_Upstream] = field(default_factory=list)
    blamed: Any = None

    @property
    def bad_runs(self) -> list[_Run]:
        return [run for run in self.runs if run.failed]

    @property
    def failed(self) -> bool:
        return self.error is not None or bool(self.bad_runs)

    @property
    def culprit(self) -> Any:
        return self.bad_runs[0].culprit if self.bad_runs else self.blamed

    @property
    def blockers(self) -> list[_Upstream]:
        """What may be found to have failed: the list as a whole, or, if it was there in time, one of its runs."""
        return [self, *self.bad_runs]

    @property
    def members(self) -> Sequence[_Upstream]:
        """Those by whose ends it is judged."""
        return self.runs if self.error is None else [self]

    def given(self) -> Any:
        return [run.given() for run in self.runs] if self.error is None else self.error

    def look(self) -> None:
        self.looked = True
        for run in self.runs:
            run.look()

    def note_blocked(self, other: _Upstream) -> None:
        self.blocked.append(other)
        for run in self.bad_runs:
            run.note_blocked(other)


_Upstream: TypeAlias = _Run | _List


def _is_settled(failed: _Upstream) -> bool:
    """Somebody has looked at it, or at all that it blocked."""
    return failed.looked or (bool(failed.blocked) and all(map(_is_settled, failed.blocked)))


def _recorded(error: BaseException | None) -> str | None:
    if error is None:
        return None
    return error_text(type(error).__name__, str(error), getattr(error, "task_run_name", None))


def _upstream_error(upstream: _Upstream) -> UpstreamTaskError:
    return UpstreamTaskError(task_run_name=upstream.culprit.name)


# --- bodies -----------------------------------------------------------------------------------------------------------


class _Engine:
    """What the runs of one flow run share."""

    def __init__(self, forgives: bool = False) -> None:
        self.failures: list[_Run] = []
        self.forgives = forgives


@dataclass
class _Scope:
    """A body that submits the nodes of a graph."""

    graph: Graph
    path: str
    run: _Run
    engine: _Engine
    tags: frozenset[str]  # around its submissions
    handles: list[_Upstream] = field(default_factory=list)

    def upstreams(self, source: Source) -> Sequence[_Upstream]:
        """What a source stands for: a run, the runs of a list, or a list that may not have been there in time."""
        handle = self.handles[source.node]
        if isinstance(handle, _Run):
            return [handle]
        if source.element is not None:
            return [handle.runs[source.element]]
        return [handle] if handle.is_late else handle.runs

    def value(self, argument: Argument) -> Any:
        """What takes the argument's place."""
        return arranged(argument.shape, [self._given(source) for source in argument.sources])

    def _given(self, source: Source) -> Any:
        handle = self.handles[source.node]
        if isinstance(handle, _List) and source.element is not None:
            return handle.runs[source.element].given()
        return handle.given()

    def report(self) -> dict[str, Any]:
        """What the body sees of the futures that it looks at."""
        for number in self.graph.looked_at:
            self.handles[number].look()
        return {f"{self.path}.{number}": _seen(self.handles[number]) for number in self.graph.looked_at}


_NO_GRAPH = Graph(())


def _seen(handle: _Upstream) -> Any:
    if isinstance(handle, _Run):
        return handle.told()
    return [run.told() for run in handle.runs] if handle.error is None else shown(handle.error)


@dataclass(frozen=True)
class _End:
    """What one attempt came to."""

    event: str
    value: Any = None
    error: BaseException | None = None
    label: str | None = None  # the name of a State that was returned


@dataclass(frozen=True)
class _Inputs:
    """The arguments of one run: values, and those that depend on others."""

    values: dict[str, Any]
    arguments: dict[str, Argument]


# --- the rules --------------------------------------------------------------------------------------------------------


class _Model:
    def __init__(self, picks: _Picks) -> None:
        self._picks = picks
        self.edges: set[Edge] = set()
        self.possible_edges: set[Edge] = set()

    # --- submissions --------------------------------------------------------------------------------------------------

    def _submit(self, scope: _Scope, node: Node, path: str) -> _Upstream:
        if not node.is_map:
            return self._start(scope, node, path, None, _Inputs({}, _named(node)))
        made = _List(f"{path}-0", is_late=node.over is not None)
        columns = _elements(node) if node.over is None else self._late_elements(scope, node, node.over, made)
        for index, column in enumerate(columns):
            inputs = _Inputs({"beside": index} if node.over is not None and node.map_allowed else {}, _named(node))
            holder: dict[str, Any] = inputs.arguments if isinstance(column, Argument) else inputs.values
            holder["element"] = column
            made.runs.append(self._start(scope, node, path, index, inputs))
            if node.over is not None and isinstance(scope.handles[node.over], _Run):
                self._note_edges(made.runs[-1], scope.handles[node.over], "data")
        return made

    def _late_elements(self, scope: _Scope, node: Node, over: int, made: _List) -> Sequence[Any]:
        """The elements of a map over another node's list: sources, if that is one of futures, else values."""
        source = scope.handles[over]
        if isinstance(source, _List) and source.error is None:
            return [Argument("bare", (Source(over, place, node.map_allowed),)) for place in range(len(source.runs))]
        if not source.failed:
            return list(source.given())
        if node.map_allowed:  # its exception takes the place of the whole
            source.look()
            return [source.error] * width(scope.graph.nodes, over)
        made.error, made.blamed = _upstream_error(source), source.culprit
        source.note_blocked(made)
        return []

    def _start(self, scope: _Scope, node: Node, path: str, index: int | None, inputs: _Inputs) -> _Run:
        place = "" if index is None else f"[{index}]"
        name = path if node.kind == "flow" else f"{path}-0{place}"
        around = scope.tags | set(node.tags_around)
        run = _Run(name, node.kind, index, around | set(node.own_tags), node.called, looked=node.called)
        scope.run.adopt(run)
        blockers = self._blockers(scope, run, node, inputs)
        if blockers:
            self._block(run, self._picks.blocker(run.key, blockers))
        else:
            values = {name: scope.value(argument) for name, argument in inputs.arguments.items()}
            body = _Scope(node.inner or _NO_GRAPH, path, run, scope.engine, around)
            self.live(run, node, body, {**inputs.values, **values})
        return run

    def _blockers(self, scope: _Scope, run: _Run, node: Node, inputs: _Inputs) -> list[_Upstream]:
        """The failed upstreams that the run cannot do without."""
        found: dict[int, _Upstream] = {}
        for upstream, kind, allowed in _uses(scope, node, inputs):
            self._note_edges(run, upstream, kind)
            if allowed:
                upstream.look()
            elif upstream.failed:
                found.update((id(blocker), blocker) for blocker in upstream.blockers)
        return list(found.values())

    def _note_edges(self, run: _Run, upstream: _Upstream, kind: str) -> None:
        if isinstance(upstream, _Run):
            self.edges.add((run.name, upstream.name, kind))
        else:
            self.possible_edges.update((run.name, member.name, kind) for member in upstream.runs)

    def _block(self, run: _Run, upstream: _Upstream) -> None:
        upstream.note_blocked(run)
        run.state, run.event, run.blamed = "UpstreamFailed", "BLOCKED", upstream.culprit
        run.error = _upstream_error(upstream)

    # --- the life of a run --------------------------------------------------------------------------------------------

    def live(self, run: _Run, node: Node, scope: _Scope, given: dict[str, Any]) -> None:
        """All attempts of a run. `scope` is that of its body, but still with the engine around it."""
        outer = scope.engine
        if node.kind == "flow":
            scope.engine = _Engine(outer.forgives if node.forgives is None else node.forgives)
        end = self._attempt(run, node, scope, given)
        while _is_tried_again(run, node, end):
            state = "TimedOut" if isinstance(end.error, TimeoutError) else "Failed"
            run.past.append(attempt_text(state, _recorded(end.error)))
            if node.kind == "flow":
                scope.engine.failures.clear()  # only the last attempt counts
            end = self._attempt(run, node, scope, given)
        _finish(run, end)
        if run.failed and run.event != "STOPPED":
            outer.failures.append(run)

    def _attempt(self, run: _Run, node: Node, scope: _Scope, given: dict[str, Any]) -> _End:
        run.attempt += 1
        scope = _Scope(node.inner or _NO_GRAPH, scope.path, run, scope.engine, scope.tags)
        for number, child in enumerate(scope.graph.nodes):
            scope.handles.append(self._submit(scope, child, f"{scope.path}.{number}"))
        end = self._body(run, node, scope, given)
        return _account(scope.engine, end) if node.kind == "flow" else end

    def _body(self, run: _Run, node: Node, scope: _Scope, given: dict[str, Any]) -> _End:
        text = told(run, sorted(run.tags), given, scope.report())
        try:
            value = act(node, run, text)
        except BaseException as error:
            return _raised(run, error)
        returns = scope.graph.returns
        if returns is None or misbehaves(node, run.attempt, run.index):
            return _returned(run, value)
        return _returned_futures(run, scope, returns)


def _uses(scope: _Scope, node: Node, inputs: _Inputs) -> Iterator[tuple[_Upstream, str, bool]]:
    """What a run depends on: for data or by `wait_for`, and whether under `allow_failure`."""
    arguments = [(argument, "data") for argument in inputs.arguments.values()]
    if node.wait_for is not None:
        arguments.append((node.wait_for, "wait_for"))
    for argument, kind in arguments:
        for source in argument.sources:
            for upstream in scope.upstreams(source):
                yield upstream, kind, source.allowed or argument.allowed


def _named(node: Node) -> dict[str, Argument]:
    return {f"a{place}": argument for place, argument in enumerate(node.arguments)}


def _elements(node: Node) -> Sequence[Any]:
    """The elements of a map that are there: text, and futures of others."""
    return [
        f"e{place}" if source is None else Argument("bare", (source,), node.map_allowed)
        for place, source in enumerate(node.elements or ())
    ]


# --- what an attempt amounts to ---------------------------------------------------------------------------------------

_EVENTS = {StateType.FAILED: "RAISED", StateType.CRASHED: "LOST", StateType.CANCELLED: "STOPPED"}
_ERRORS = {StateType.FAILED: FailedRun, StateType.CRASHED: CrashedRun, StateType.CANCELLED: CancelledRun}
_STATUSES = {"RETURNED": "COMPLETED", "CRASHED": "CRASHED", "LOST": "CRASHED", "STOPPED": "CANCELLED"}  # else FAILED
_STATES = {"TIMED_OUT": "TimedOut", "CRASHED": "Crashed", "LOST": "Crashed", "STOPPED": "Cancelled"}


def _raised(run: _Run, error: BaseException) -> _End:
    if isinstance(error, TimeoutError):
        return _End("TIMED_OUT", error=error)
    if isinstance(error, Exception):
        return _End("RAISED", error=error)
    how = f"crashed with {type(error).__name__}: {error}"
    if isinstance(error, SystemExit):
        how = "was ended by a Python system exit call."
    return _End("CRASHED", error=CrashedRun(f"{run.kind.capitalize()} run {how}"))


def _returned(run: _Run, value: Any) -> _End:
    """A returned State decides, and so does the first bad one of several; anything else is a value."""
    if isinstance(value, State):
        if value.is_completed():
            return _End("RETURNED", value.data, label=value.name)
        return _by_state(run, value, value.name)
    members = value if isinstance(value, list) else []
    bad = [member for member in members if isinstance(member, State) and not member.is_completed()]
    return _by_state(run, bad[0], None) if bad else _End("RETURNED", value)


def _by_state(run: _Run, state: State[Any], label: str | None) -> _End:
    if not state.is_final():
        text = f"Run is in {state.type.name} state, its result is not available."
        return _End("RAISED", error=UnfinishedRun(text))
    error = state.data
    if not isinstance(error, BaseException):
        error = _ERRORS[state.type](error or state.message)
    return _End(_EVENTS[state.type], error=error, label=label)


def _returned_futures(run: _Run, scope: _Scope, returns: Argument) -> _End:
    """They decide with their values or with their failures; to return them is to look at them."""
    required: dict[int, Any] = {}
    for source in returns.sources:
        for upstream in scope.upstreams(source):
            upstream.look()
            if not source.allowed:
                required.update((id(member), member) for member in upstream.members)
    bad = [upstream for upstream in required.values() if upstream.failed]
    if not bad:
        return _End("RETURNED", scope.value(returns))
    roots = [upstream for upstream in bad if upstream.culprit is upstream or upstream.culprit not in bad]
    error = _one_of([upstream.error for upstream in roots])
    if any(upstream.event != "STOPPED" for upstream in bad):
        return _End("RAISED", error=error)
    if not isinstance(error, CancelledRun):
        error = CancelledRun(f"{run.kind.capitalize()} run {run.name!r} was cancelled.")
    return _End("STOPPED", error=error)


def _one_of(errors: Sequence[BaseException]) -> BaseException:
    return errors[0] if len(errors) == 1 else BaseExceptionGroup("several", errors)


def _account(engine: _Engine, end: _End) -> _End:
    """A flow whose body has returned answers for failures that nobody has looked at."""
    unseen = [failed.error for failed in engine.failures if failed.error is not None and not _is_settled(failed)]
    if not unseen or end.event != "RETURNED" or engine.forgives:
        return end
    return _End("RAISED", error=_one_of(unseen))


def _is_tried_again(run: _Run, node: Node, end: _End) -> bool:
    if end.event not in ("RAISED", "TIMED_OUT", "LOST") or run.attempt > node.retries:
        return False
    return not node.picky or isinstance(end.error, ValueError)


def _finish(run: _Run, end: _End) -> None:
    run.event, run.value, run.error = end.event, end.value, end.error
    usual = "Completed" if end.error is None else _STATES.get(end.event, "Failed")
    run.state = end.label or usual
