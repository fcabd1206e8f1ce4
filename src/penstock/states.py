"""States: what is known about a run at one moment.

`Status` is what the engine decides with: seven values, changed in one place. `State` is what users see: an
immutable value with a type, a name derived from facts, a message and the result. The engine makes one from
a run's facts when somebody asks; tasks and flows may return hand-made ones (`Completed(name="Skipped")`).
"""

from __future__ import annotations

import reprlib
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from enum import Enum, IntEnum, StrEnum
from importlib import import_module
from typing import Any, Generic, Literal, NamedTuple, Protocol, TypeGuard, TypeVar, overload
from uuid import UUID, uuid4

from penstock.exceptions import (
    CancelledRun,
    CrashedRun,
    FailedRun,
    MissingResult,
    PenstockError,
    Portable,
    UnfinishedRun,
)

__all__ = [
    "AwaitingRetry",
    "Cancelled",
    "Cancelling",
    "Completed",
    "Crashed",
    "Failed",
    "Pending",
    "Retrying",
    "Running",
    "Scheduled",
    "State",
    "StateGroup",
    "StateType",
    "get_state_exception",
    "is_state_iterable",
    "raise_state_exception",
    "return_value_to_state",
]

R = TypeVar("R")
D = TypeVar("D")

# Every Future, State and annotation object keeps a reference to this object, so its reference count says
# whether any of them exists: one comparison tells that arguments need no search for futures. Unlike a
# counter kept by __init__ and __del__ this costs nothing when an object dies, needs no lock, and cannot get
# out of step. Reach it through the module (`states._ALIVE`): an imported name would be one more reference
# for ever.
_ALIVE = object()


class Status(IntEnum):
    """What a run is doing, as the engine sees it; `final` says whether that can change any more.

    An IntEnum because statuses are dictionary keys on the hot path, and an int hashes at C speed.
    """

    final: bool

    PENDING = 0, False
    RUNNING = 1, False
    WAITING = 2, False  # between attempts, or in line for a limit
    COMPLETED = 3, True
    FAILED = 4, True
    CRASHED = 5, True
    CANCELLED = 6, True

    def __new__(cls, value: int, final: bool) -> Status:
        status = int.__new__(cls, value)
        status._value_ = value
        status.final = final
        return status


class StateType(StrEnum):
    """The public kinds of state."""

    SCHEDULED = "SCHEDULED"
    PENDING = "PENDING"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    CRASHED = "CRASHED"
    CANCELLING = "CANCELLING"


class _Missing(Enum):
    """The type of `MISSING`: an enumeration, so that pickle and copy keep the one instance."""

    MISSING = "MISSING"


MISSING: Literal[_Missing.MISSING] = _Missing.MISSING
"""As a state's data: there was a value, but it is not available any more."""


class _Ending(NamedTuple):
    """What `result()` raises for a bad state that holds no exception."""

    error: type[PenstockError]
    message: str


_BAD = {
    StateType.FAILED: _Ending(FailedRun, "Run failed."),
    StateType.CRASHED: _Ending(CrashedRun, "Run crashed."),
    StateType.CANCELLED: _Ending(CancelledRun, "Run cancelled."),
}
_FINAL = frozenset({StateType.COMPLETED, *_BAD})


class StateDetails(NamedTuple):
    """Which run a state belongs to; both None for a hand-made state."""

    flow_run_id: UUID | None = None
    task_run_id: UUID | None = None


_NO_DETAILS = StateDetails()


class Deferred:
    """A state's data that are somewhere else: `fetch(stand_in)` brings them, and blocks meanwhile."""

    __slots__ = ("_fetch", "stand_in")

    def __init__(self, stand_in: Any, fetch: Callable[[Any], Any]) -> None:
        self.stand_in = stand_in
        self._fetch = fetch

    def get(self) -> Any:
        return self._fetch(self.stand_in)

    def __repr__(self) -> str:
        return str(self.stand_in.shown)


class State(Generic[R]):
    """What is known about a run at one moment: immutable, hashable, safe to share between threads.

    States are equal if their fields are; `data` is not compared, because `id` determines it and its own
    idea of equality may be anything (arrays, exceptions). `timestamp` is an aware UTC datetime. A state
    pickles if its data does, or is an exception.

    >>> state = Completed(data=42)
    >>> state.is_completed(), state.result()
    (True, 42)
    """

    __slots__ = ("_alive", "_data", "_id", "_message", "_name", "_state_details", "_timestamp", "_trace", "_type")

    def __init__(
        self,
        type: StateType,
        *,
        name: str | None = None,
        message: str | None = None,
        data: Any = None,
        timestamp: datetime | None = None,
        id: UUID | None = None,
        state_details: StateDetails | None = None,
    ) -> None:
        self._alive = _ALIVE
        self._type = type
        self._name = type.value.capitalize() if name is None else name
        self._message = message
        self._data = data
        self._trace = data.__traceback__ if isinstance(data, BaseException) else None
        self._timestamp = datetime.now(UTC) if timestamp is None else timestamp
        self._id = uuid4() if id is None else id
        self._state_details = _NO_DETAILS if state_details is None else state_details

    @property
    def type(self) -> StateType:
        return self._type

    @property
    def name(self) -> str:
        return self._name

    @property
    def message(self) -> str | None:
        return self._message

    @property
    def data(self) -> Any:
        return self._data.get() if type(self._data) is Deferred else self._data

    @property
    def _stand_in(self) -> Any:
        """What is in the place of data that are somewhere else; None if they are here."""
        return self._data.stand_in if type(self._data) is Deferred else None

    @property
    def timestamp(self) -> datetime:
        return self._timestamp

    @property
    def id(self) -> UUID:
        return self._id

    @property
    def state_details(self) -> StateDetails:
        return self._state_details

    def told_of(self, run: StateDetails) -> State[R]:
        """This state as that of a run, if it was made by hand and says of none."""
        if self._state_details != _NO_DETAILS:
            return self
        told: State[R] = State(self._type, name=self._name, message=self._message, data=self._data, state_details=run)
        told._id, told._timestamp = self._id, self._timestamp
        return told

    def is_scheduled(self) -> bool:
        return self._type is StateType.SCHEDULED

    def is_pending(self) -> bool:
        return self._type is StateType.PENDING

    def is_running(self) -> bool:
        return self._type is StateType.RUNNING

    def is_cancelling(self) -> bool:
        return self._type is StateType.CANCELLING

    def is_completed(self) -> bool:
        return self._type is StateType.COMPLETED

    def is_failed(self) -> bool:
        return self._type is StateType.FAILED

    def is_crashed(self) -> bool:
        return self._type is StateType.CRASHED

    def is_cancelled(self) -> bool:
        return self._type is StateType.CANCELLED

    def is_final(self) -> bool:
        return self._type in _FINAL

    @overload
    def result(self, raise_on_failure: Literal[True] = True) -> R: ...

    @overload
    def result(self, raise_on_failure: bool) -> Any: ...

    def result(self, raise_on_failure: bool = True) -> Any:
        """The run's value; never waits for the run. A value that its task runner has kept elsewhere is fetched.

        Raises the run's exception if the state is FAILED, CRASHED or CANCELLED; with
        `raise_on_failure=False` returns the state's data instead, or that exception if there is none.
        Raises `UnfinishedRun` if the state is not final and `MissingResult` if the value is not available
        any more.
        """
        if self._type not in _FINAL:
            raise UnfinishedRun(f"Run is in {self._type.name} state, its result is not available.")
        if self._type in _BAD:
            if not raise_on_failure:
                return get_state_exception(self) if _holds_nothing(self._data) else self._data
            error = get_state_exception(self)
            trace = self._trace if error is self._data else error.__traceback__
            try:
                raise error
            except BaseException:
                # Without this frame, and those of whoever asked before: the bare `raise` adds none.
                BaseException.with_traceback(error, trace)
                raise
        if self._data is MISSING:
            raise MissingResult(
                "The run completed, but its result was not kept and is no longer available. "
                "To keep results: @task(persist_result=True)"
            )
        return self.data

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, State):
            return NotImplemented
        return self is other or self._compared() == other._compared()

    def __hash__(self) -> int:
        return hash(self._id)

    def _compared(self) -> tuple[object, ...]:
        return (self._id, self._type, self._name, self._message, self._timestamp, self._state_details)

    def __str__(self) -> str:
        shown = [] if not self._message else [repr(self._message)]
        if self._name.upper() != self._type.value:
            shown.append(f"type={self._type.value}")
        return f"{self._name}({', '.join(shown)})"

    def __repr__(self) -> str:
        data = reprlib.repr(self._data)  # bounded: this ends up in logs, and the data may be large
        return f"{self._name}(message={self._message!r}, type={self._type.value}, data={data})"

    def _repr_html_(self) -> str:
        return str(import_module("penstock.notebooks").of_state(self))

    def __reduce__(self) -> tuple[Any, ...]:
        data = Portable(self._data) if isinstance(self._data, BaseException) else self.data
        fields = (self._type, self._name, self._message, data, self._timestamp, self._id, self._state_details)
        return _rebuild, (type(self), *fields)


def _rebuild(
    cls: type[State[Any]],
    type: StateType,
    name: str,
    message: str | None,
    data: Any,
    timestamp: datetime,
    id: UUID,
    state_details: StateDetails,
) -> State[Any]:
    if isinstance(data, Portable):
        data = data.exception
    return cls(type, name=name, message=message, data=data, timestamp=timestamp, id=id, state_details=state_details)


class StateConstructor(Protocol):
    """Makes a state of one type by hand; `name` is a free label, by default the constructor's own name."""

    @overload
    def __call__(
        self,
        *,
        name: str | None = None,
        message: str | None = None,
        state_details: StateDetails | None = None,
    ) -> State[None]: ...

    @overload
    def __call__(
        self,
        *,
        name: str | None = None,
        message: str | None = None,
        data: D,
        state_details: StateDetails | None = None,
    ) -> State[D]: ...


def _constructor(default_name: str, state_type: StateType) -> StateConstructor:
    def construct(
        *,
        name: str | None = None,
        message: str | None = None,
        data: Any = None,
        state_details: StateDetails | None = None,
    ) -> State[Any]:
        name = default_name if name is None else name
        return State(state_type, name=name, message=message, data=data, state_details=state_details)

    # So that a mistyped keyword is reported as one of `Completed()`, and the function pickles by reference.
    construct.__name__ = construct.__qualname__ = default_name
    construct.__doc__ = f"A {state_type.value} state, named {default_name!r} unless `name` is given."
    return construct


Scheduled = _constructor("Scheduled", StateType.SCHEDULED)
AwaitingRetry = _constructor("AwaitingRetry", StateType.SCHEDULED)
Pending = _constructor("Pending", StateType.PENDING)
Running = _constructor("Running", StateType.RUNNING)
Retrying = _constructor("Retrying", StateType.RUNNING)
Completed = _constructor("Completed", StateType.COMPLETED)
Failed = _constructor("Failed", StateType.FAILED)
Crashed = _constructor("Crashed", StateType.CRASHED)
Cancelling = _constructor("Cancelling", StateType.CANCELLING)
Cancelled = _constructor("Cancelled", StateType.CANCELLED)


class StateGroup:
    """Counts over several states.

    >>> group = StateGroup([Completed(), Failed()])
    >>> group.total_count, group.fail_count, group.all_completed(), group.any_failed()
    (2, 1, False, True)
    """

    def __init__(self, states: Iterable[State[Any]]) -> None:
        self.states = list(states)
        self.type_counts = Counter(state.type for state in self.states)
        self.total_count = len(self.states)
        self.final_count = sum(state.is_final() for state in self.states)
        self.not_final_count = self.total_count - self.final_count
        self.cancelled_count = self.type_counts[StateType.CANCELLED]
        self.fail_count = self.type_counts[StateType.FAILED] + self.type_counts[StateType.CRASHED]

    def all_completed(self) -> bool:
        return self.type_counts[StateType.COMPLETED] == self.total_count

    def any_cancelled(self) -> bool:
        return self.cancelled_count > 0

    def any_failed(self) -> bool:
        """Whether any state is FAILED or CRASHED."""
        return self.fail_count > 0

    def any_paused(self) -> bool:
        """Always False: runs cannot be paused."""
        return False

    def all_final(self) -> bool:
        return self.not_final_count == 0


def is_state_iterable(x: object) -> TypeGuard[list[State[Any]] | tuple[State[Any], ...] | set[State[Any]]]:
    """Whether `x` is a non-empty list, tuple or set of states and nothing else."""
    return isinstance(x, (list, tuple, set)) and bool(x) and all(isinstance(item, State) for item in x)


def get_state_exception(state: State[Any]) -> BaseException:
    """The exception that stands for a FAILED, CRASHED or CANCELLED state.

    That is the exception stored as data, or one made from the data: a string or nothing gives `FailedRun`,
    `CrashedRun` or `CancelledRun`; a state, or a list, tuple or set of states, gives the exception of the
    first bad one. Raises `ValueError` if there is no bad state, `TypeError` if the data is anything else.

    >>> get_state_exception(Failed(message="disk full"))
    FailedRun('disk full')
    """
    ending = _BAD.get(state.type)
    if ending is None:
        raise ValueError(f"Expected a FAILED, CRASHED or CANCELLED state, got {state}.")
    data = state.data
    if isinstance(data, BaseException):
        return data
    if isinstance(data, str):
        return ending.error(data)
    if _holds_nothing(data):
        return ending.error(state.message or ending.message)
    if isinstance(data, State):
        return get_state_exception(data)
    if is_state_iterable(data):
        return _first_exception(state, data)
    raise TypeError(
        f"The data of {state} is of type {type(data).__name__!r}: expected an exception, a string or states. "
        f"For example: {state.type.value.capitalize()}(data=ValueError('what went wrong'))"
    )


def raise_state_exception(state: State[Any]) -> None:
    """Raise the exception of a FAILED, CRASHED or CANCELLED state; do nothing for any other state."""
    if state.type in _BAD:
        raise get_state_exception(state)


def _holds_nothing(data: object) -> bool:
    return data is None or data is MISSING


def _first_exception(state: State[Any], states: Iterable[State[Any]]) -> BaseException:
    for member in states:
        if member.type in _BAD:
            return get_state_exception(member)
    raise ValueError(f"{state} holds states none of which is FAILED, CRASHED or CANCELLED.")


def return_value_to_state(x: Any) -> State[Any]:
    """The state of a run whose function returned `x`.

    A hand-made state is taken as it is. The state of another run, or a non-empty list, tuple or set of
    states only, gives one state for all of them, with `x` as data. Anything else completes the run with `x`
    as its value.

    >>> print(return_value_to_state([Completed(), Failed(), Failed()]))
    Failed('2/3 states failed.')
    """
    if isinstance(x, State):
        return x if x.state_details == _NO_DETAILS else _aggregate(x, [x])
    if is_state_iterable(x):
        return _aggregate(x, x)
    return Completed(data=x)


def _aggregate(data: object, states: Iterable[State[Any]]) -> State[Any]:
    group = StateGroup(states)
    if group.all_completed():
        return Completed(message="All states completed.", data=data)
    if group.any_cancelled():
        return Cancelled(message=f"{group.cancelled_count}/{group.total_count} states cancelled.", data=data)
    if group.any_failed():
        return Failed(message=f"{group.fail_count}/{group.total_count} states failed.", data=data)
    return Failed(message=f"{group.not_final_count}/{group.total_count} states are not final.", data=data)


def any_alive() -> bool:
    """Whether any Future, State or annotation object exists in this process. O(1); exact under the GIL."""
    return sys.getrefcount(_ALIVE) > _AT_REST


_AT_REST = sys.getrefcount(_ALIVE)
