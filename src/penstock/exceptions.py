"""Every error of the library, grouped by who can act on it.

All of them derive from `PenstockError`, so one `except` catches them, and where a builtin exception says
the same (`TypeError`, `TimeoutError`, ...) also from that one. They carry their facts as attributes, and
survive pickling and copying with attributes, notes, cause and the text of their traceback. The two signals
near the end are no errors: they only unwind user code that has to stop.
"""

from __future__ import annotations

import concurrent.futures
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from uuid import UUID

    from penstock.states import State

__all__ = [
    "CancelSignal",
    "CancelledRun",
    "ConfigurationError",
    "CrashedRun",
    "FailedRun",
    "FlowRunTimeoutError",
    "InternalError",
    "InvalidNameError",
    "MappingLengthMismatch",
    "MappingMissingIterable",
    "MissingContextError",
    "MissingResult",
    "ParameterBindError",
    "ParameterTypeError",
    "PenstockError",
    "ReservedArgumentError",
    "ResultCorrupt",
    "ResumeError",
    "SerializationError",
    "SignatureMismatchError",
    "StoreUnavailable",
    "TaskRunTimeoutError",
    "TerminationSignal",
    "UnfinishedRun",
    "UpstreamTaskError",
    "WorkerLost",
]

E = TypeVar("E", bound="PenstockError")


class PenstockError(Exception):
    """Base of the library's errors.

    `traceback_text` is None on an error raised in this process; on one that was unpickled or copied it is the
    text of the traceback that the original had at that time.
    """

    traceback_text: str | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        # The builtin way calls the class again with `args` alone: it loses keyword fields, the cause and the
        # traceback, and fails for a subclass whose constructor wants more. This never calls a constructor.
        return _rebuild, (type(self), self.args), self._carried()

    def _carried(self) -> dict[str, Any]:
        carried = dict(self.__dict__)
        if "__notes__" in carried:
            # A list shared with the copy would show the notes of either on both.
            carried["__notes__"] = list(carried["__notes__"])
        carried["traceback_text"] = self.traceback_text or _traceback_text(self, chain=self.__cause__ is None)
        if self.__cause__ is not None:
            carried["__cause__"] = Portable(self.__cause__)
        # Last, because assigning the cause above switches it on.
        carried["__suppress_context__"] = self.__suppress_context__
        return carried

    def __setstate__(self, state: dict[str, Any] | None) -> None:
        cause = (state or {}).get("__cause__")
        if isinstance(cause, Portable):
            state = {**(state or {}), "__cause__": cause.exception}
        super().__setstate__(state)


# --- How a run ended: raised by `.result()` when no exception object is stored ---


class FailedRun(PenstockError):
    """The run failed, and all that is known is this message."""


class UpstreamTaskError(FailedRun):
    """The run could not start because a run that it depends on did not complete.

    `task_run_id`, `task_run_name` and `state` are those of the root failure, the first run of the chain that
    went wrong; `__cause__` is its exception.
    """

    def __init__(
        self,
        message: str = "",
        *,
        task_run_id: UUID | None = None,
        task_run_name: str | None = None,
        state: State[Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.task_run_id = task_run_id
        self.task_run_name = task_run_name
        self.state = state


class CrashedRun(PenstockError):
    """Something that is no failure of its code ended the run; `__cause__` is the original exception."""


class WorkerLost(CrashedRun):
    """The worker that executed the run died.

    `exitcode` (negative: number of the signal that killed it) and `worker` (its name) are None if unknown.
    """

    def __init__(self, message: str = "", *, exitcode: int | None = None, worker: str | None = None) -> None:
        super().__init__(message)
        self.exitcode = exitcode
        self.worker = worker


class CancelledRun(PenstockError, concurrent.futures.CancelledError):
    """The run was cancelled. An ordinary `Exception`, unlike asyncio's `CancelledError`."""


class UnfinishedRun(PenstockError):
    """The run is not final yet, so it has no result."""


class MissingResult(PenstockError):
    """The run completed, but its value is not available any more."""


class TaskRunTimeoutError(PenstockError, TimeoutError):
    """An attempt of a task run passed its `timeout_seconds`."""


class FlowRunTimeoutError(PenstockError, TimeoutError):
    """A flow run passed its `timeout_seconds`."""


# --- Mistakes in the calling code: change the line that the traceback names ---


class ParameterBindError(PenstockError, TypeError):
    """The arguments do not fit the function's signature."""


class ParameterTypeError(PenstockError, TypeError):
    """A flow's arguments do not have the annotated types and cannot be converted."""


class ReservedArgumentError(PenstockError, TypeError):
    """The function has a parameter whose name the library needs for itself."""


class SignatureMismatchError(PenstockError, TypeError):
    """A callable does not have the signature that is needed in its place."""


class InvalidNameError(PenstockError, ValueError):
    """A name contains characters that names may not contain."""


class MappingLengthMismatch(PenstockError, ValueError):
    """The iterables given to `map` have different lengths."""


class MappingMissingIterable(PenstockError, ValueError):
    """`map` was called without anything to map over."""


class MissingContextError(PenstockError, RuntimeError):
    """This needs a running flow or task, and there is none."""


class SerializationError(PenstockError):
    """An object cannot be pickled or rebuilt; `path` says where inside the object, e.g. `x['a'].lock`."""

    def __init__(self, message: str = "", *, path: str | None = None) -> None:
        super().__init__(message)
        self.path = path


class ResumeError(PenstockError):
    """The flow run cannot be resumed; nothing was started."""


# --- The surroundings: settings, files, the machine ---


class ConfigurationError(PenstockError, ValueError):
    """A setting or an option has a value that cannot be used."""


class ResultCorrupt(PenstockError):
    """A kept value is not what was kept there, so nothing of it was looked at; it counts as absent.

    `place` says where it is (address, key or file), `why` what is wrong with it.
    """

    def __init__(self, place: str = "", why: str = "") -> None:
        super().__init__(": ".join(part for part in (place, why) if part))
        self.place = place
        self.why = why


class StoreUnavailable(PenstockError):
    """The store of run records cannot be opened, read or written."""


# --- Defects of the library itself: please report ---


class InternalError(PenstockError):
    """The library found itself in a situation that must not occur."""


# --- Signals: not errors, and not caught by `except Exception` ---


class TerminationSignal(BaseException):
    """Raised inside user code when the process receives SIGTERM."""


class CancelSignal(BaseException):
    """Raised inside the body of a run that was asked to stop."""


# --- Carrying exceptions ---


class Portable:
    """Carries any exception through pickle without ever failing because of it.

    The exception is pickled apart from what surrounds it. If it cannot be pickled here or rebuilt there, a
    `FailedRun` with its type and message arrives in its place; either way `traceback_text` is set on what
    arrives. Pickling it inline instead would lose the surrounding object as well. Copies keep the very
    exception.
    """

    __slots__ = ("exception",)

    def __init__(self, exception: BaseException) -> None:
        self.exception = exception

    def __copy__(self) -> Portable:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Portable:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        payload = _dumped(self.exception)
        return _unpack, (payload, _summary(self.exception), self._text(payload))

    def _text(self, payload: bytes | None) -> str | None:
        # One of ours carries its own chain: repeating the text of the whole chain at each link would be
        # quadratic.
        carries_chain = payload is not None and isinstance(self.exception, PenstockError)
        known: str | None = self.exception.__dict__.get("traceback_text")
        return known or _traceback_text(self.exception, chain=not carries_chain)


def _unpack(payload: bytes | None, summary: str, text: str | None) -> Portable:
    exception = _loaded(payload)
    if exception is None:
        exception = FailedRun(summary)
    # Not by assignment, which a class may have forbidden.
    exception.__dict__["traceback_text"] = text
    return Portable(exception)


def _dumped(exception: BaseException) -> bytes | None:
    import copyreg
    import io
    import pickle

    sink = io.BytesIO()
    pickler = pickle.Pickler(sink)
    # A library (tblib, which comes with Dask) may have registered ways of its own for exceptions: with their tracebacks
    # and causes, which need not be picklable and need not be few.
    pickler.dispatch_table = {cls: way for cls, way in copyreg.dispatch_table.items() if not _is_exception(cls)}
    try:
        pickler.dump(exception)
    except Exception:
        return None  # a lock in its attributes, a local class, a __reduce__ that raises
    return sink.getvalue()


def _is_exception(cls: Any) -> bool:
    return isinstance(cls, type) and issubclass(cls, BaseException)


def keep_own_pickling() -> None:
    """Have the exceptions of this module pickled as they say, whatever a library has registered for them."""
    import copyreg

    for cls in list(copyreg.dispatch_table):
        if _is_exception(cls) and cls.__module__ == __name__:
            del copyreg.dispatch_table[cls]


def _loaded(payload: bytes | None) -> BaseException | None:
    import pickle

    if payload is None:
        return None
    try:
        loaded = pickle.loads(payload)
    except Exception:
        return None  # its class is unknown here, or its constructor wants other arguments
    return loaded if isinstance(loaded, BaseException) else None


def _rebuild(cls: type[E], args: tuple[Any, ...]) -> E:
    # `args` is assigned because OSError's __new__ (timeouts derive from it) ignores its arguments when the
    # class has a constructor of its own.
    error = cls.__new__(cls)
    error.args = args
    return error


def _traceback_text(exception: BaseException, *, chain: bool) -> str | None:
    import traceback

    if exception.__traceback__ is None:
        return None
    if chain:
        return "".join(traceback.format_exception(exception))
    # Not format_exception(chain=False): it leaves the chain out of its output only after examining all of it.
    frames = "".join(traceback.format_tb(exception.__traceback__))
    return f"Traceback (most recent call last):\n{frames}{_summary(exception)}\n"


def _summary(exception: BaseException) -> str:
    cls = type(exception)
    name = cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"
    try:
        message = str(exception)
    except Exception:
        message = "<its message cannot be shown>"
    return f"{name}: {message}" if message else name
