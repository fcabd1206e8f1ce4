"""Tasks that are not to be called for real: something else takes the place of their functions for a while."""

from __future__ import annotations

import inspect
import itertools
import os
import pickle
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, Protocol

from penstock._core import serial
from penstock._engine import interrupt, substitutes
from penstock._engine.context import current_run
from penstock._engine.substitutes import Substitute
from penstock.definitions import Definition
from penstock.exceptions import SerializationError
from penstock.flows import Flow
from penstock.tasks import Task

Error = BaseException | type[BaseException]


class Stub:
    """What a stubbed task was called with. Made by `stub`."""

    def __init__(self, name: str, ledger: _Ledger) -> None:
        self._name = name
        self._ledger = ledger

    @property
    def calls(self) -> list[dict[str, Any]]:
        """The parameters of each call, by name and with defaults, in the order in which the calls began."""
        return self._ledger.calls()

    @property
    def count(self) -> int:
        """How often it was called: each attempt of a run is a call."""
        return self._ledger.count()

    def __repr__(self) -> str:
        return f"<stub of {self._name!r}, called {self.count} time(s)>"


class MakeStub(Protocol):
    """The fixture `penstock_stub`: `stub` for the rest of the test."""

    def __call__(
        self,
        task: Task[..., Any] | Flow[..., Any],
        *,
        returns: Any = None,
        raises: Error | None = None,
        side_effect: Callable[..., Any] | Iterable[Any] | None = None,
        times: int | None = None,
    ) -> Stub: ...


@contextmanager
def stub(
    task: Task[..., Any] | Flow[..., Any],
    *,
    returns: Any = None,
    raises: Error | None = None,
    side_effect: Callable[..., Any] | Iterable[Any] | None = None,
    times: int | None = None,
) -> Iterator[Stub]:
    """Let a task (or flow) return or raise something in this block, without calling its function.

    It does not matter how the task was imported or is started; copies made by `with_options` are meant too, and
    so are calls in other processes. All else is as ever: retries, limits, hooks, names, states, the record. Only the
    result is neither kept nor looked for in a cache.

    `returns` is what each call returns (a generator task: what it yields), and `raises` what each raises, an
    exception or its class. `side_effect` is a function to call instead, or an iterable with one item for each
    call; items that are exceptions are raised. `times` says how often the task has to be called: any other number
    is an `AssertionError` at the end of the block. Calls on other machines are not counted.

    >>> from penstock import task
    >>> @task(retries=1)
    ... def ask(question: str) -> str:
    ...     raise NotImplementedError
    >>> with stub(ask, side_effect=[ConnectionError("no route"), "fine"], times=2) as asked:
    ...     ask("How are you?")
    'fine'
    >>> asked.calls[0]
    {'question': 'How are you?'}
    """
    definition = _checked(task)
    behaviour = _behaviour(definition.name, returns, raises, side_effect)
    with _ledger() as ledger, _in_place_of(definition, behaviour, ledger):
        stubbed = Stub(definition.name, ledger)
        yield stubbed
        __tracebackhide__ = True
        if times is not None and stubbed.count != times:
            raise AssertionError(
                f"{definition.name!r} was called {stubbed.count} time(s), expected {times}: {stubbed.calls!r:.1000}"
            )


def _checked(task: Any) -> Definition:
    if not isinstance(task, Definition):
        raise TypeError(f"stub() takes a task or flow; got {type(task).__name__}: decorate the function with @task")
    if current_run.get() is not None:
        raise RuntimeError("stub() is for whoever calls a flow: enter it before the flow is called, not inside of it")
    return task


@contextmanager
def _in_place_of(definition: Definition, behaviour: _Behaviour, ledger: _Ledger) -> Iterator[None]:
    fn = definition.fn
    kind = _Kind(definition.name, _bare_signature(definition), definition.isasync, definition.isgenerator)
    before = substitutes.active.get(id(fn))
    substitutes.active[id(fn)] = Substitute(fn, _portable(definition), _Double(kind, ledger, behaviour))
    try:
        yield
    finally:
        if before is None:
            del substitutes.active[id(fn)]
        else:
            substitutes.active[id(fn)] = before


# --- what it does -----------------------------------------------------------------------------------------------------


class _Behaviour(NamedTuple):
    name: str
    function: Callable[..., Any] | None = None
    items: Sequence[Any] = ()  # one for each call
    returns: Any = None
    raises: Error | None = None

    def answer(self, number: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What the call with this number comes to."""
        if self.function is not None:
            return self.function(*args, **kwargs)
        if self.raises is not None:
            raise self.raises
        if not self.items:
            return self.returns
        if number >= len(self.items):
            raise AssertionError(f"the stub of {self.name!r} has {len(self.items)} item(s), but was called once more")
        item = self.items[number]
        if isinstance(item, BaseException) or (isinstance(item, type) and issubclass(item, BaseException)):
            raise item
        return item


interrupt.mark_safe(_Behaviour.answer)  # below it is user code, which can be asked to stop


def _behaviour(name: str, returns: Any, raises: Any, side_effect: Any) -> _Behaviour:
    answers = {"returns": returns, "raises": raises, "side_effect": side_effect}
    given = [name_of for name_of, value in answers.items() if value is not None]
    if len(given) > 1:
        raise TypeError(f"stub() takes one of returns, raises and side_effect; got {' and '.join(given)}")
    if callable(side_effect):
        return _Behaviour(name, function=side_effect)
    if side_effect is not None:
        items = tuple(side_effect)
        if not items:
            raise ValueError("side_effect is empty: give an item for each call")
        return _Behaviour(name, items=items)
    return _Behaviour(name, returns=returns, raises=raises)


class _Kind(NamedTuple):
    """What a double has in common with the function in whose place it is called."""

    name: str
    signature: inspect.Signature
    is_async: bool
    is_generator: bool


class _Double:
    """What is called instead of a function; here, and where it is sent."""

    def __init__(self, kind: _Kind, ledger: _Ledger, behaviour: _Behaviour | serial.Packed | str) -> None:
        self.__name__ = kind.name
        self.__signature__ = kind.signature
        self._kind = kind
        self._ledger = ledger
        self._behaviour = behaviour

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        number = self._ledger.note(self._kind.signature.bind(*args, **kwargs).arguments)
        if self._kind.is_generator:
            return (self._items_async if self._kind.is_async else self._items)(number, args, kwargs)
        return (self._later if self._kind.is_async else self._answer)(number, args, kwargs)

    def _answer(self, number: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        behaviour = self._behaviour
        if isinstance(behaviour, str):
            raise SerializationError(behaviour)
        if isinstance(behaviour, serial.Packed):  # not before it is wanted: its module may be missing here
            behaviour = self._behaviour = serial.unpack(behaviour)
        assert isinstance(behaviour, _Behaviour)
        return behaviour.answer(number, args, kwargs)

    async def _later(self, *call: Any) -> Any:
        answer = self._answer(*call)
        return await answer if inspect.isawaitable(answer) else answer

    def _items(self, *call: Any) -> Iterator[Any]:
        yield from self._answer(*call) or ()

    async def _items_async(self, *call: Any) -> AsyncIterator[Any]:
        items = self._answer(*call) or ()
        if isinstance(items, AsyncIterator):
            async for item in items:
                yield item
        else:
            for item in items:
                yield item

    def __reduce__(self) -> Any:
        return _Double, (self._kind, self._ledger, self._packed())

    def _packed(self) -> serial.Packed | str:
        """The behaviour as one pickle; else why it has none: it need not matter to the task that takes it along."""
        if not isinstance(self._behaviour, _Behaviour):
            return self._behaviour
        try:
            return serial.pack(self._behaviour, f"the stub of {self._kind.name!r}", apart=False)
        except SerializationError as error:
            return str(error)


def _bare_signature(definition: Definition) -> inspect.Signature:
    """The parameters without annotations and defaults, which need not be known where it is sent: calls are complete."""
    parameters = definition.binder.signature.parameters.values()
    return inspect.Signature(
        [parameter.replace(annotation=parameter.empty, default=parameter.empty) for parameter in parameters]
    )


# --- how a function is known elsewhere --------------------------------------------------------------------------------


class _ByName(NamedTuple):
    """A function that is found under its definition's name. Unpickled, it is that; None where there is none."""

    reference: Any

    def __reduce__(self) -> Any:
        make, arguments = self.reference.__reduce__()
        return _found, (make, arguments)


def _found(make: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    with suppress(Exception):
        return make(*arguments)
    return None


def _portable(definition: Definition) -> Any:
    portable = definition._portable_function()
    if portable is not definition.fn:
        return _ByName(portable)
    try:
        serial.pack(portable, definition.name)
    except SerializationError:
        return None  # nothing that is sent can refer to it, then
    return portable


# --- the count --------------------------------------------------------------------------------------------------------


class _Ledger:
    """The calls of one stub: numbered across all processes, by a file that each call makes longer by a byte."""

    def __init__(self, directory: str, *, at_home: bool) -> None:
        self._directory = directory
        self._at_home = at_home
        self._here: dict[int, dict[str, Any]] = {}
        self._last: list[dict[str, Any]] | None = None  # after the end
        self._alone = itertools.count()

    def note(self, parameters: dict[str, Any]) -> int:
        """Write a call down; its number, from 0."""
        try:
            number = self._next()
        except OSError:  # on another machine, or after the end
            return next(self._alone)
        if self._at_home:
            self._here[number] = parameters
        else:
            self._send(number, parameters)
        return number

    def _next(self) -> int:
        descriptor = os.open(os.path.join(self._directory, "numbers"), os.O_WRONLY | os.O_APPEND)
        try:
            os.write(descriptor, b".")
            return os.lseek(descriptor, 0, os.SEEK_CUR) - 1  # where this very byte is, whoever else writes
        finally:
            os.close(descriptor)

    def _send(self, number: int, parameters: dict[str, Any]) -> None:
        path = os.path.join(self._directory, str(number))
        with open(f"{path}.part", "wb") as file:
            file.write(serial.pack(parameters, "the arguments", apart=False).data)
        os.rename(f"{path}.part", path)

    def calls(self) -> list[dict[str, Any]]:
        if self._last is not None:
            return list(self._last)
        known = dict(self._here)
        for name in os.listdir(self._directory):
            if name.isdecimal():
                with open(os.path.join(self._directory, name), "rb") as file:
                    known[int(name)] = pickle.load(file)
        return [known[number] for number in sorted(known)]

    def count(self) -> int:
        return os.path.getsize(os.path.join(self._directory, "numbers")) if self._last is None else len(self._last)

    def close(self) -> None:
        self._last = self.calls()

    def __reduce__(self) -> Any:
        return _ledger_of, (self._directory,)


_ledgers: dict[str, _Ledger] = {}
"""Those that are at home in this process, by directory."""


def _ledger_of(directory: str) -> _Ledger:
    return _ledgers.get(directory) or _Ledger(directory, at_home=False)


@contextmanager
def _ledger() -> Iterator[_Ledger]:
    directory = tempfile.mkdtemp(prefix="penstock-stub-")
    try:
        with open(os.path.join(directory, "numbers"), "xb"):
            pass
        ledger = _ledgers[directory] = _Ledger(directory, at_home=True)
        try:
            yield ledger
        finally:
            ledger.close()
    finally:
        _ledgers.pop(directory, None)
        shutil.rmtree(directory, ignore_errors=True)
