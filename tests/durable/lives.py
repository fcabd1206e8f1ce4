"""Random flows that fail at scripted places and are resumed until they complete: as data, as flows, and judged.

A flow is a tuple of `Step`s, each of which may have steps of its own. What a step computes follows from its name and
from what it uses, so the end of a flow is known without an engine (`expected`). A step fails as long as its script
says, counted over all lives. Bodies write down what they do, in whatever process they are (`Notes`), and runs have the
names of their steps: so what happened in each life is known from two sides, the notes and the record.
"""

from __future__ import annotations

import asyncio
import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

from penstock import flow, task, unmapped
from penstock.cache_policies import INPUTS, NO_CACHE
from penstock.flows import Flow
from penstock.futures import Future, FutureList
from penstock.tasks import Task

ALONE = "-"  # the element of what is not a map


@dataclass(frozen=True)
class Step:
    """One call, map, or group of equal calls in the body of a flow or task."""

    kind: str = "task"  # task, map, generator, nest (a task with steps), flow
    how: str = "submit"  # call, gather (in asynchronous bodies)
    is_async: bool = False
    uses: tuple[int, ...] = ()  # steps before it whose values it gets
    over: int | None = None  # of a map: the step whose value it maps over
    copies: int = 1  # equal calls; of a map: elements
    keep: str = "default"  # no_cache, inputs, off
    odd: bool = False  # one of the arguments cannot be compared
    fails: int = 0  # executions of each element that fail
    late: bool = False  # it fails at the end of its body
    retries: int = 0
    inner: tuple[Step, ...] = ()

    def __repr__(self) -> str:
        """What is not as usual, and can be typed in again."""
        said = (
            f"{each.name}={value!r}" for each in fields(self) if (value := getattr(self, each.name)) != each.default
        )
        return f"Step({', '.join(said)})"


class Odd:
    """An argument that cannot be part of a key."""


class Trouble(Exception):
    """What the script asks for."""


_open: dict[str, int] = {}  # notes that are open in this process


@contextmanager
def open_notes(directory: str) -> Iterator[None]:
    """Keep the notes open meanwhile: a body may be stopped at any line, also at the one after a file was opened."""
    path = os.path.join(directory, "notes")
    _open[path] = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        yield
    finally:
        os.close(_open.pop(path))


class Notes:
    """What bodies have done, in the order in which they did it."""

    def __init__(self, directory: str) -> None:
        self._path = os.path.join(directory, "notes")

    def add(self, *words: object) -> None:
        line = (" ".join(map(str, words)) + "\n").encode()
        if self._path in _open:
            os.write(_open[self._path], line)
            return
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)  # in a worker process
        try:
            os.write(descriptor, line)
        finally:
            os.close(descriptor)

    def all(self) -> list[tuple[str, ...]]:
        if not os.path.exists(self._path):
            return []
        with open(self._path) as file:
            return [tuple(line.split()) for line in file]

    def count(self, *words: str) -> int:
        return sum(note == words for note in self.all())


# --- what bodies do ---------------------------------------------------------------------------------------------


def value_of(label: str, values: Sequence[Any], items: int | None = None) -> Any:
    """What a step computes. Short, or values would grow from step to step."""
    text = f"{label}:{zlib.crc32(repr(values).encode()):08x}"
    return text if items is None else [f"{text}.{number}" for number in range(items)]


def label_of(name: str, element: str) -> str:
    return name if element == ALONE else f"{name}[{zlib.crc32(element.encode()):08x}]"


def begin(directory: str, step: Step, label: str) -> None:
    Notes(directory).add("begin", label)
    if not step.late:
        _fail_as_scripted(directory, step, label)


def end(directory: str, step: Step, label: str) -> None:
    if step.late:
        _fail_as_scripted(directory, step, label)
    Notes(directory).add("end", label)


def _fail_as_scripted(directory: str, step: Step, label: str) -> None:
    notes = Notes(directory)
    if notes.count("failed", label) < step.fails:
        notes.add("failed", label)
        raise Trouble(label)


@task(task_run_name="{name}|{element}")
def work(directory: str, step: Step, name: str, values: Any, odd: Any = None, element: str = ALONE) -> Any:
    label = label_of(name, element)
    begin(directory, step, label)
    inside = look_at_all(carry_out(directory, step.inner, name))
    end(directory, step, label)
    return value_of(label, [values, inside])


@task(task_run_name="{name}|{element}")
async def work_async(directory: str, step: Step, name: str, values: Any, odd: Any = None, element: str = ALONE) -> Any:
    label = label_of(name, element)
    begin(directory, step, label)
    inside = await await_all(await carry_out_async(directory, step.inner, name))
    end(directory, step, label)
    return value_of(label, [values, inside])


@task(task_run_name="{name}|{element}")
def items(directory: str, step: Step, name: str, values: Any, odd: Any = None, element: str = ALONE) -> Iterator[str]:
    label = label_of(name, element)
    begin(directory, step, label)
    yield from value_of(label, [values, []], 2)
    end(directory, step, label)


@flow(flow_run_name="{name}|{element}")
def part(directory: str, step: Any, name: str, values: Any, odd: Any = None, element: str = ALONE) -> Any:
    label = label_of(name, element)
    begin(directory, step, label)
    inside = look_at_all(carry_out(directory, step.inner, name))
    end(directory, step, label)
    return value_of(label, [values, inside])


@flow(flow_run_name="{name}|{element}")
async def part_async(directory: str, step: Any, name: str, values: Any, odd: Any = None, element: str = ALONE) -> Any:
    label = label_of(name, element)
    begin(directory, step, label)
    inside = await await_all(await carry_out_async(directory, step.inner, name))
    end(directory, step, label)
    return value_of(label, [values, inside])


@flow(persist_result=True, flow_run_name="root")
def whole(directory: str, steps: Any) -> Any:
    """Returns futures: what fails of them fails the flow."""
    return carry_out(directory, steps, "s")


@flow(persist_result=True, flow_run_name="root")
async def whole_async(directory: str, steps: Any) -> Any:
    return await carry_out_async(directory, steps, "s")


_BASES: dict[tuple[str, bool], Any] = {
    ("task", False): work, ("task", True): work_async, ("map", False): work, ("map", True): work_async,
    ("nest", False): work, ("nest", True): work_async, ("generator", False): items, ("generator", True): items,
    ("flow", False): part, ("flow", True): part_async,
}  # fmt: skip
_OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "no_cache": {"cache_policy": NO_CACHE},
    "inputs": {"cache_policy": INPUTS},
    "off": {"persist_result": False},
}


def _definition(step: Step) -> Task[..., Any] | Flow[..., Any]:
    base = _BASES[step.kind, step.is_async]
    options = dict(_OPTIONS[step.keep])
    if step.kind == "flow":
        options = {"persist_result": False if step.keep == "off" else None}
    made: Task[..., Any] | Flow[..., Any] = base.with_options(retries=step.retries, **options)
    return made


def _arguments(directory: str, step: Step, name: str, before: Sequence[Any]) -> dict[str, Any]:
    given: dict[str, Any] = {"directory": directory, "step": step, "name": name}
    given["values"] = [before[number] for number in step.uses]
    return given | {"odd": Odd()} if step.odd else given


def _mapped(directory: str, step: Step, name: str, before: Sequence[Any]) -> Any:
    definition = _definition(step)
    given = {key: unmapped(value) for key, value in _arguments(directory, step, name, before).items()}
    elements = [f"e{number}" for number in range(step.copies)] if step.over is None else before[step.over]
    return definition.map(**given, element=elements)


def carry_out(directory: str, steps: Sequence[Step], prefix: str) -> list[Any]:
    """Call, submit and map the steps in turn; their values, or futures of them."""
    found: list[Any] = []
    for number, step in enumerate(steps):
        found.append(
            _carry_out(directory, step, f"{prefix}.{number}", found, step.how != "submit" and not step.is_async)
        )
    return found


def _carry_out(directory: str, step: Step, name: str, before: list[Any], calls: bool) -> Any:
    if step.kind == "map":
        return _mapped(directory, step, name, before)
    definition, given = _definition(step), _arguments(directory, step, name, before)
    group = [_called(definition, given) if calls else definition.submit(**given) for _ in range(step.copies)]
    return group[0] if step.copies == 1 else group


def _called(definition: Callable[..., Any], given: dict[str, Any]) -> Any:
    value = definition(**given)
    return list(value) if hasattr(value, "__next__") else value


async def carry_out_async(directory: str, steps: Sequence[Step], prefix: str) -> list[Any]:
    """The same in a coroutine, where what is synchronous is never called: it would block the loop."""
    found: list[Any] = []
    for number, step in enumerate(steps):
        name = f"{prefix}.{number}"
        if step.how == "submit" or not step.is_async or step.kind == "map":
            found.append(_carry_out(directory, step, name, found, calls=False))
            continue
        definition, given = _definition(step), _arguments(directory, step, name, found)
        if step.how == "gather":
            group = list(await asyncio.gather(*(definition(**given) for _ in range(step.copies))))
        else:
            group = [await definition(**given) for _ in range(step.copies)]
        found.append(group[0] if step.copies == 1 else group)
    return found


def look_at_all(found: Any) -> Any:
    """The values behind futures; raises the first failure in order."""
    if isinstance(found, Future | FutureList):
        return found.result()
    return [look_at_all(member) for member in found] if isinstance(found, list) else found


async def await_all(found: Any) -> Any:
    if isinstance(found, Future | FutureList):
        return await found
    return [await await_all(member) for member in found] if isinstance(found, list) else found


# --- what is to be expected -------------------------------------------------------------------------------------


@dataclass
class Expected:
    """A step of which the engine has a run, or several equal ones."""

    step: Step
    parent: str | None  # label of the step around it
    copies: int
    restorable: bool  # what it has completed is kept, and can be found again


def expected(
    steps: Sequence[Step], prefix: str = "s", around: str | None = None, persists: bool = True
) -> tuple[list[Any], dict[str, Expected]]:
    """The values of the steps if nothing fails, and all runs by their labels. `persists`: what they inherit."""
    values: list[Any] = []
    runs: dict[str, Expected] = {}
    for number, step in enumerate(steps):
        name = f"{prefix}.{number}"
        used = [values[other] for other in step.uses]
        restorable = _keeps(step, persists) and not step.odd
        if step.kind == "map":
            elements = [f"e{place}" for place in range(step.copies)] if step.over is None else values[step.over]
            labels = [label_of(name, element) for element in elements]
            values.append([value_of(label, [used, []]) for label in labels])
            runs.update((label, Expected(step, around, 1, restorable)) for label in labels)
            continue
        inside, below = expected(step.inner, name, name, persists and not (step.kind == "flow" and step.keep == "off"))
        value = value_of(name, [used, inside], 2 if step.kind == "generator" else None)
        values.append(value if step.copies == 1 else [value] * step.copies)
        runs[name] = Expected(step, around, step.copies, restorable)
        runs.update(below)
    return values, runs


def _keeps(step: Step, persists: bool) -> bool:
    if step.kind == "generator" or step.keep == "off":
        return False
    return persists or (step.keep == "inputs" and step.kind != "flow")


class Judge:
    """Compares what has happened, life by life, with what must and must not happen."""

    def __init__(self, directory: str, steps: Sequence[Step], retries: int) -> None:
        self.values, self.runs = expected(steps)
        self._retries = retries
        self._notes = Notes(directory)
        self._read = 0
        self._ended: Counter[str] = Counter()  # in the lives before

    def life_is_over(self, state: Any, rows: Sequence[Any]) -> None:
        """`rows`: of all runs below the root run of this life."""
        completed = state.is_completed()
        notes = self._notes.all()
        new, self._read = notes[self._read :], len(notes)
        assert completed or any(kind == "failed" for kind, _ in new), f"failed without a reason: {state.data!r}"
        begun = Counter(label for kind, label in new if kind == "begin")
        ended = Counter(label for kind, label in new if kind == "end")
        states = states_by_label(rows)
        for label, run in self.runs.items():
            seen = states.get(label, Counter())
            assert seen["Completed"] == ended[label], f"{label}: {seen} in the record, {ended[label]} ends noted"
            if run.restorable and self._is_unique(run):
                self._judge_kept(label, run, seen, begun, ended)
            elif completed and not run.restorable:
                self._judge_not_kept(label, run, seen, begun, ended)
        self._ended += ended
        if completed:
            self._judge_whole()

    def judge_value(self, value: Any) -> None:
        wrong = {number: pair for number, pair in enumerate(zip(value, self.values, strict=True)) if pair[0] != pair[1]}
        assert not wrong, f"steps and their values, seen and expected: {wrong}"

    def _judge_kept(
        self, label: str, run: Expected, seen: Counter[str], begun: Counter[str], ended: Counter[str]
    ) -> None:
        before = self._ended[label]
        assert before + ended[label] <= run.copies, f"{label} was executed again: {before} + {ended[label]} times"
        if run.copies > 1:
            return
        if before:
            assert not begun[label], f"{label} has begun again"
            assert not set(seen) - {"Cached", "Cancelled", "UpstreamFailed"}, f"{label} was not restored: {seen}"
        else:
            assert ended[label] or not seen["Cached"], f"{label} was restored from nowhere"

    def _judge_not_kept(
        self, label: str, run: Expected, seen: Counter[str], begun: Counter[str], ended: Counter[str]
    ) -> None:
        """The life that completes executes all of them that it gets to, in every attempt at what is around them."""
        least, most = (1, 1 + self._retries) if run.parent is None else (ended[run.parent], begun[run.parent])
        assert run.copies * least <= ended[label] <= run.copies * most, f"{label}: executed {ended[label]} times"
        assert not seen["Cached"], f"{label} was restored: {seen}"

    def _judge_whole(self) -> None:
        for label, run in self.runs.items():
            if run.restorable and run.step.keep == "no_cache" and self._is_unique(run):
                assert self._ended[label] == run.copies, f"{label}: {self._ended[label]} of {run.copies} executed"

    def _is_unique(self, run: Expected) -> bool:
        """Whether all around the step is one call: equal calls do all that is in them, each for itself."""
        while run.parent is not None:
            run = self.runs[run.parent]
            if run.copies > 1:
                return False
        return True


def states_by_label(rows: Sequence[Any]) -> dict[str, Counter[str]]:
    states: dict[str, Counter[str]] = {}
    for row in rows:
        name, bar, element = row.run_name.partition("|")
        if bar:
            states.setdefault(label_of(name, element), Counter())[row.state_name] += 1
    return states
