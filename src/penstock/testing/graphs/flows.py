"""Makes real flows of described ones, runs them, and tells what can be seen of them."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from penstock import runtime
from penstock.annotations import allow_failure, unmapped
from penstock.context import tags
from penstock.exceptions import UpstreamTaskError
from penstock.flows import flow
from penstock.futures import Future, FutureList, as_completed
from penstock.states import State, get_state_exception
from penstock.store.base import AttemptRow, Reader, RunRow
from penstock.task_runners.base import TaskRunner
from penstock.tasks import task
from penstock.testing.graphs.bodies import act, arranged, shown, told
from penstock.testing.graphs.description import ROOT, Argument, Graph, Node, Source, misbehaves, width
from penstock.testing.graphs.telling import Edge, Key, Line, Told, attempt_text, error_text, in_order
from penstock.testing.isolation import isolated_store

_ALL = 1_000_000  # runs: more than any flow has
_PAUSE = 0.001  # seconds of a slow body: enough for others to be submitted meanwhile
_template: ContextVar[TaskRunner | None] = ContextVar("template", default=None)  # not known in other processes


def observe(description: Node, template: TaskRunner) -> Told:
    """Run a described flow; how it ended, and what its record says."""
    token = _template.set(template)
    try:
        with _errors_logged() as trouble, isolated_store() as store:
            answer = _defined(description, ROOT)(Job(description, ROOT), return_state=True)
            state: State[Any] = asyncio.run(answer) if description.is_async else answer
            return _observed(store, state, trouble)
    finally:
        _template.reset(token)


@contextmanager
def _errors_logged() -> Iterator[list[str]]:
    """Notice what penstock logs as an error: trouble that it could not tell anybody about in another way."""
    found: list[str] = []

    def note(record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        found.append(record.getMessage() if error is None else f"{record.getMessage()} ({error!r})")
        return True

    handler = logging.NullHandler(logging.ERROR)
    handler.handle = note  # type: ignore[method-assign]
    logging.getLogger("penstock").addHandler(handler)
    try:
        yield found
    finally:
        logging.getLogger("penstock").removeHandler(handler)


# --- the record -------------------------------------------------------------------------------------------------------


def _observed(store: Reader, state: State[Any], trouble: list[str]) -> Told:
    (root,) = store.runs()
    rows = store.tree(root.id, limit=_ALL)
    record = _Record(store, root, rows)
    seen = Told(_told_state(state), record.lines(root), set(_edges(store, root, rows)), trouble=trouble)
    seen.blamed.update(record.blamed(root, ()))
    return seen


def _told_state(state: State[Any]) -> str:
    value = state.result() if state.is_completed() else get_state_exception(state)
    return f"{state.name} {shown(value)}"


class _Record:
    """The rows of one flow run, as a tree."""

    def __init__(self, store: Reader, root: RunRow, rows: Sequence[RunRow]) -> None:
        self._children: dict[str | None, list[RunRow]] = {}
        for row in rows:
            self._children.setdefault(row.parent_id, []).append(row)
        self._attempts: dict[str, list[AttemptRow]] = {}
        for attempt in store.attempts(root.id):
            self._attempts.setdefault(attempt.run_id, []).append(attempt)

    def lines(self, row: RunRow, depth: int = 0) -> list[str]:
        attempts = [attempt_text(one.state_name, _error(one)) for one in self._attempts.get(row.id, ())]
        if len(attempts) != row.attempts:
            attempts.append(f"but there have been {row.attempts}")
        tagged = re.findall(r'"([^"]*)"', row.tags)
        result = _error(row) or str(row.result)
        state = f"{row.status} {row.state_name}"
        own = Line(row.run_name, row.kind, row.map_index, tagged, state, result, attempts)
        return in_order(own, depth, [self.lines(child, depth + 1) for child in self._children.get(row.id, ())])

    def blamed(self, row: RunRow, key: Key) -> Iterator[tuple[Key, str]]:
        """The runs below this one that could not start, and the names of those that they blame."""
        namesakes: Counter[str] = Counter()
        for child in self._children.get(row.id, ()):  # in order of creation
            below = (*key, (child.run_name, namesakes[child.run_name]))
            namesakes[child.run_name] += 1
            if child.state_name == "UpstreamFailed":
                yield below, _culprit(child)
            yield from self.blamed(child, below)


_CULPRIT = re.compile(r"(?:upstream|result of) '([^']*)'")


def _culprit(row: RunRow | AttemptRow) -> str:
    found = _CULPRIT.search(row.error or "")
    return "" if found is None else found[1]


def _error(row: RunRow | AttemptRow) -> str | None:
    return None if row.error_type is None else error_text(row.error_type, str(row.error), _culprit(row))


def _edges(store: Reader, root: RunRow, rows: Sequence[RunRow]) -> Iterator[Edge]:
    names = {row.id: row.run_name for row in rows}
    for edge in store.edges(root.id):
        yield names[edge.downstream_id], names[edge.upstream_id], edge.kind


# --- definitions ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """What a body is told about itself."""

    node: Node
    path: str


def _defined(node: Node, path: str) -> Any:
    """The flow or task of a node: one for each, so that it has a name, numbers and options of its own."""
    options: dict[str, Any] = {"name": path, "retries": node.retries, "retry_delay_seconds": 0}
    if node.kind == "task":
        condition = _after_value_errors if node.picky else None
        options.update(tags=list(node.own_tags), retry_condition_fn=condition)
    else:
        runner = _template.get() if node.own_runner or path == ROOT else None
        unseen = None if node.forgives is None else "warn" if node.forgives else "fail"
        options.update(flow_run_name=path, task_runner=runner, on_unobserved_failure=unseen)
    make: Any = task if node.kind == "task" else flow
    return make(**options)(_BODIES[node.is_async, node.is_generator])


def _after_value_errors(_task: Any, _run: Any, state: State[Any]) -> bool:
    return isinstance(get_state_exception(state), ValueError)


# --- bodies -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Facts:
    name: str
    attempt: int
    index: int | None
    tags: Sequence[str]


def _facts(kind: str) -> _Facts:
    if kind == "flow":
        return _Facts(runtime.flow_run.name, runtime.flow_run.run_count, None, runtime.flow_run.tags)
    name = runtime.task_run.name
    place = re.search(r"\[(\d+)\]$", name)
    return _Facts(name, runtime.task_run.run_count, None if place is None else int(place[1]), runtime.task_run.tags)


class _Body:
    """What the bodies of both colors have in common; they differ in how they wait."""

    def __init__(self, job: Job, given: Mapping[str, Any]) -> None:
        self._job = job
        self._facts = _facts(job.node.kind)
        self._graph = job.node.inner or Graph(())
        self._misbehaves = misbehaves(job.node, self._facts.attempt, self._facts.index)
        self._given = {name: value for name, value in given.items() if value is not None}
        self._handles: list[Any] = []
        for number, node in enumerate(self._graph.nodes):
            self._handles.append(self._submit(node, f"{job.path}.{number}"))

    def to_wait_for(self) -> list[Any]:
        """What must have ended before the body looks, or does what it should not."""
        numbers = range(len(self._handles)) if self._misbehaves else self._graph.looked_at
        return [self._handles[number] for number in numbers if not isinstance(self._handles[number], State)]

    def finish(self) -> Any:
        """What the body returns."""
        report = {f"{self._job.path}.{number}": _seen(self._handles[number]) for number in self._graph.looked_at}
        value = act(self._job.node, self._facts, told(self._facts, self._facts.tags, self._given, report))
        returns = self._graph.returns
        return value if returns is None or self._misbehaves else self._argument(returns)

    def _submit(self, node: Node, path: str) -> Any:
        definition, job = _defined(node, path), Job(node, path)
        arguments = {f"a{place}": self._argument(argument) for place, argument in enumerate(node.arguments)}
        waits = None if node.wait_for is None else self._argument(node.wait_for)
        with tags(*node.tags_around):
            if node.is_map:
                return definition.map(job, wait_for=waits, **self._mapped(node), **_unmapped(arguments))
            if node.called:
                return definition(job, wait_for=waits, return_state=True, **arguments)
            return definition.submit(job, wait_for=waits, **arguments)

    def _mapped(self, node: Node) -> dict[str, Any]:
        """What differs from child to child. A list that may fail as a whole needs another one that tells how many."""
        elements: Any = [self._element(place, source) for place, source in enumerate(node.elements or ())]
        if node.over is not None:
            elements = self._handles[node.over]
        if not node.map_allowed:
            return {"element": elements}
        beside = {} if node.over is None else {"beside": range(width(self._graph.nodes, node.over))}
        return {"element": allow_failure(elements), **beside}

    def _element(self, place: int, source: Source | None) -> Any:
        return f"e{place}" if source is None else self._source(source)

    def _argument(self, argument: Argument) -> Any:
        made = arranged(argument.shape, [self._source(source) for source in argument.sources])
        return allow_failure(made) if argument.allowed else made

    def _source(self, source: Source) -> Any:
        handle = self._handles[source.node]
        found = handle if source.element is None else handle[source.element]
        return allow_failure(found) if source.allowed else found


def _unmapped(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {name: unmapped(argument) for name, argument in arguments.items()}


def _seen(handle: Any) -> Any:
    """What can be read from a State, a future that is done, or a list of them."""
    if isinstance(handle, State):
        return _told_state(handle)
    if isinstance(handle, Future):
        return f"{handle.state.name} {shown(handle.result(raise_on_failure=False))}"
    try:
        return [_seen(future) for future in handle]
    except UpstreamTaskError as error:
        return shown(error)


def _sync_body(job: Job, element: Any = None, beside: Any = None, **inputs: Any) -> Any:
    if job.node.slow:
        time.sleep(_PAUSE)
    body = _Body(job, {"element": element, "beside": beside, **inputs})
    for handle in body.to_wait_for():
        handle.wait()
    return body.finish()


async def _async_body(job: Job, element: Any = None, beside: Any = None, **inputs: Any) -> Any:
    if job.node.slow:
        await asyncio.sleep(_PAUSE)
    body = _Body(job, {"element": element, "beside": beside, **inputs})
    for handle in body.to_wait_for():
        await _wait_in_loop(handle)
    return body.finish()


async def _wait_in_loop(handle: Future[Any] | FutureList[Any]) -> None:
    """Wait for the end without blocking the loop; only for a list that may still be to come this means to look."""
    futures = [handle] if isinstance(handle, Future) else await _members(handle)
    async for _ in as_completed(futures):
        pass


async def _members(futures: FutureList[Any]) -> list[Future[Any]]:
    """The futures of a list, which exist when it has been awaited; none if it could not be made."""
    with suppress(Exception):  # of one of them: the others may go on
        await futures
    try:
        return list(futures)
    except UpstreamTaskError:
        return []


def _sync_generator(job: Job, element: Any = None, beside: Any = None, **inputs: Any) -> Iterator[Any]:
    yield from _sync_body(job, element, beside, **inputs)


async def _async_generator(job: Job, element: Any = None, beside: Any = None, **inputs: Any) -> AsyncIterator[Any]:
    for item in await _async_body(job, element, beside, **inputs):
        yield item


_BODIES: dict[tuple[bool, bool], Callable[..., Any]] = {
    (False, False): _sync_body,
    (True, False): _async_body,
    (False, True): _sync_generator,
    (True, True): _async_generator,
}
