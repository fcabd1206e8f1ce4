"""Errors: what they derive from, and that nothing of them is lost by pickle or copy."""

from __future__ import annotations

import asyncio
import concurrent.futures
import copy
import pickle
import threading
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock import exceptions, states
from penstock.exceptions import (
    CancelledRun,
    CancelSignal,
    CrashedRun,
    FailedRun,
    PenstockError,
    Portable,
    SerializationError,
    TaskRunTimeoutError,
    TerminationSignal,
    UpstreamTaskError,
    WorkerLost,
)

BASES: dict[str, tuple[type[BaseException], ...]] = {
    "PenstockError": (Exception,),
    "FailedRun": (PenstockError,),
    "UpstreamTaskError": (FailedRun,),
    "CrashedRun": (PenstockError,),
    "WorkerLost": (CrashedRun,),
    "CancelledRun": (PenstockError, concurrent.futures.CancelledError),
    "UnfinishedRun": (PenstockError,),
    "MissingResult": (PenstockError,),
    "TaskRunTimeoutError": (PenstockError, TimeoutError),
    "FlowRunTimeoutError": (PenstockError, TimeoutError),
    "ParameterBindError": (PenstockError, TypeError),
    "ParameterTypeError": (PenstockError, TypeError),
    "ReservedArgumentError": (PenstockError, TypeError),
    "SignatureMismatchError": (PenstockError, TypeError),
    "InvalidNameError": (PenstockError, ValueError),
    "MappingLengthMismatch": (PenstockError, ValueError),
    "MappingMissingIterable": (PenstockError, ValueError),
    "MissingContextError": (PenstockError, RuntimeError),
    "SerializationError": (PenstockError,),
    "ResumeError": (PenstockError,),
    "ConfigurationError": (PenstockError, ValueError),
    "ResultCorrupt": (PenstockError,),
    "StoreUnavailable": (PenstockError,),
    "InternalError": (PenstockError,),
    "TerminationSignal": (BaseException,),
    "CancelSignal": (BaseException,),
}
ERRORS = [getattr(exceptions, name) for name in BASES if not name.endswith("Signal")]
RUN_ID = UUID("12345678123456781234567812345678")


def by_pickle(x: Any) -> Any:
    return pickle.loads(pickle.dumps(x))


each_error = pytest.mark.parametrize("cls", ERRORS, ids=lambda cls: cls.__name__)
each_way = pytest.mark.parametrize("duplicate", [by_pickle, copy.copy, copy.deepcopy], ids=lambda f: f.__name__)


def raised(error: BaseException, cause: BaseException | None = None) -> Any:
    """`error` after it was raised and caught, as in real life."""
    try:
        raise error from cause
    except BaseException as caught:
        return caught


class Needy(PenstockError):
    """A subclass whose constructor cannot be called with `args` alone."""

    def __init__(self, code: int, *, detail: str) -> None:
        super().__init__(f"code {code}")
        self.detail = detail


class NeedyForeign(Exception):
    def __init__(self, code: int, detail: str) -> None:
        super().__init__(f"code {code}, {detail}")


class Rude(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")

    def __reduce__(self) -> Any:
        raise ValueError("no pickle")


class NotAnException(Exception):
    def __reduce__(self) -> Any:
        return (int, ("7",))


def test_the_module_has_exactly_these_exceptions() -> None:
    found = {
        name for name, value in vars(exceptions).items() if isinstance(value, type) and issubclass(value, BaseException)
    }
    assert found == set(BASES)


@pytest.mark.parametrize("name", BASES)
def test_bases(name: str) -> None:
    assert getattr(exceptions, name).__bases__ == BASES[name]


def test_a_cancelled_run_is_an_ordinary_exception_and_not_asyncios() -> None:
    assert issubclass(CancelledRun, Exception)
    assert not issubclass(CancelledRun, asyncio.CancelledError)


@pytest.mark.parametrize("cls", [TerminationSignal, CancelSignal])
def test_signals_pass_except_exception(cls: type[BaseException]) -> None:
    assert not issubclass(cls, Exception)
    assert by_pickle(cls("stop")).args == ("stop",)


@each_error
def test_message_alone_is_enough(cls: type[PenstockError]) -> None:
    assert str(cls("what went wrong")) == "what went wrong"
    assert cls("what went wrong").args == ("what went wrong",)
    assert str(cls()) == ""


@each_way
@each_error
def test_nothing_is_lost(cls: type[PenstockError], duplicate: Any) -> None:
    error = raised(cls("what went wrong"), cause=ValueError("why"))
    error.add_note("seen in shard 3")
    error.extra = [1, 2]
    twin = duplicate(error)
    assert type(twin) is cls
    assert twin is not error
    assert (str(twin), twin.args) == ("what went wrong", ("what went wrong",))
    assert twin.__notes__ == ["seen in shard 3"]
    assert twin.extra == [1, 2]
    assert type(twin.__cause__) is ValueError
    assert twin.__cause__.args == ("why",)
    assert twin.__suppress_context__ is True
    assert "in raised" in twin.traceback_text
    assert twin.traceback_text.endswith(": what went wrong\n")


@each_way
def test_fields(duplicate: Any) -> None:
    state = states.Failed(message="disk full")
    error = UpstreamTaskError("did not run", task_run_id=RUN_ID, task_run_name="load-0", state=state)
    twin = duplicate(error)
    assert (twin.task_run_id, twin.task_run_name, twin.state) == (RUN_ID, "load-0", state)
    lost = duplicate(WorkerLost("gone", exitcode=-9, worker="w-1"))
    assert (lost.exitcode, lost.worker) == (-9, "w-1")
    assert duplicate(SerializationError("no", path="x['a']")).path == "x['a']"


def test_fields_default_to_none_and_are_keywords() -> None:
    error = UpstreamTaskError("m")
    assert (error.task_run_id, error.task_run_name, error.state) == (None, None, None)
    assert (WorkerLost("m").exitcode, WorkerLost("m").worker) == (None, None)
    assert SerializationError("m").path is None
    with pytest.raises(TypeError):
        WorkerLost("m", 1)  # type: ignore[misc]


@each_way
def test_a_constructor_with_other_arguments_does_not_matter(duplicate: Any) -> None:
    twin = duplicate(Needy(7, detail="d"))
    assert (type(twin), str(twin), twin.detail) == (Needy, "code 7", "d")


def test_copies_keep_the_very_cause_and_separate_notes() -> None:
    error = raised(FailedRun("m"), cause=ValueError("why"))
    error.add_note("first")
    twin = copy.copy(error)
    twin.add_note("second")
    assert twin.__cause__ is error.__cause__
    assert copy.deepcopy(error).__cause__ is error.__cause__
    assert error.__notes__ == ["first"]


def test_an_error_that_was_never_raised_has_no_traceback_text() -> None:
    assert FailedRun("m").traceback_text is None
    assert by_pickle(FailedRun("m")).traceback_text is None


def test_a_second_journey_keeps_the_first_traceback() -> None:
    def far_away() -> None:
        raise FailedRun("m")

    with pytest.raises(FailedRun) as info:
        far_away()
    arrived = raised(by_pickle(info.value))
    again = by_pickle(arrived)
    assert "in far_away" in again.traceback_text
    assert again.traceback_text == arrived.traceback_text


def test_suppressed_context_stays_suppressed_and_other_context_becomes_text() -> None:
    def fail(suppress: bool) -> None:
        try:
            raise KeyError("inner")
        except KeyError:
            if suppress:
                raise FailedRun("outer") from None
            raise FailedRun("outer")  # noqa: B904 -- an implicit context is what this is about

    with pytest.raises(FailedRun) as shown:
        fail(suppress=False)
    with pytest.raises(FailedRun) as hidden:
        fail(suppress=True)
    twin, quiet = by_pickle(shown.value), by_pickle(hidden.value)
    assert (twin.__suppress_context__, quiet.__suppress_context__) == (False, True)
    assert "KeyError: 'inner'" in twin.traceback_text
    assert "KeyError" not in quiet.traceback_text


def test_the_cause_brings_its_traceback_text() -> None:
    error = raised(FailedRun("outer"), cause=raised(ValueError("inner"), cause=KeyError("deepest")))
    cause = by_pickle(error).__cause__
    assert type(cause) is ValueError
    assert "ValueError: inner" in cause.traceback_text
    assert "KeyError: 'deepest'" in cause.traceback_text


def test_the_text_of_the_cause_survives_a_second_journey() -> None:
    once = by_pickle(raised(FailedRun("outer"), cause=raised(ValueError("inner"))))
    first = once.__cause__.traceback_text
    with pytest.raises(ValueError):
        raise once.__cause__  # from another line than the first time
    assert by_pickle(once).__cause__.traceback_text == first


def locked() -> Exception:
    error = ValueError("holds a lock")
    error.lock = threading.Lock()  # type: ignore[attr-defined]
    return error


class TestPortable:
    @pytest.mark.parametrize(
        "exception, summary",
        [
            (locked(), "ValueError: holds a lock"),
            (NeedyForeign(7, "d"), f"{__name__}.NeedyForeign: code 7, d"),
            (Rude(), f"{__name__}.Rude: <its message cannot be shown>"),
            (NotAnException("x"), f"{__name__}.NotAnException: x"),
        ],
        ids=lambda x: type(x).__name__,
    )
    def test_what_cannot_travel_is_replaced_by_its_text(self, exception: Exception, summary: str) -> None:
        arrived = by_pickle(Portable(raised(exception))).exception
        assert type(arrived) is FailedRun
        assert str(arrived) == summary
        assert "in raised" in arrived.traceback_text

    def test_a_local_class_is_replaced_too(self) -> None:
        class Local(Exception):
            pass

        arrived = by_pickle(Portable(Local("here"))).exception
        assert str(arrived).endswith("<locals>.Local: here")

    @pytest.mark.parametrize("exception", [SystemExit(3), KeyboardInterrupt(), TerminationSignal("x")])
    def test_base_exceptions_travel(self, exception: BaseException) -> None:
        arrived = by_pickle(Portable(exception)).exception
        assert (type(arrived), arrived.args) == (type(exception), exception.args)

    def test_an_error_with_an_impossible_cause_still_travels(self) -> None:
        error = raised(UpstreamTaskError("did not run", task_run_name="load-0"), cause=locked())
        twin = by_pickle(error)
        assert twin.task_run_name == "load-0"
        assert str(twin.__cause__) == "ValueError: holds a lock"

    def test_notes_of_foreign_exceptions_travel(self) -> None:
        exception = ValueError("x")
        exception.add_note("n")
        assert by_pickle(Portable(exception)).exception.__notes__ == ["n"]

    def test_copies_share_the_exception(self) -> None:
        carrier = Portable(locked())
        assert copy.copy(carrier) is carrier
        assert copy.deepcopy(carrier) is carrier


@pytest.mark.parametrize("make", [FailedRun, ValueError], ids=["ours", "foreign"])
def test_a_chain_longer_than_the_stack_travels(make: type[Exception]) -> None:
    error: BaseException = make("link 0")
    for number in range(1, 1500):
        error = raised(make(f"link {number}"), cause=error)
    top = raised(FailedRun("top"), cause=error)
    text, link = "", by_pickle(top)
    while link is not None:
        text += link.traceback_text or str(link)
        link = link.__cause__
    assert "link 1499" in text
    assert "link 1\n" in text


@given(
    message=st.text(),
    exitcode=st.none() | st.integers(),
    worker=st.none() | st.text(),
    notes=st.lists(st.text(), max_size=3),
)
def test_any_fields_survive(message: str, exitcode: int | None, worker: str | None, notes: list[str]) -> None:
    error = WorkerLost(message, exitcode=exitcode, worker=worker)
    for note in notes:
        error.add_note(note)
    twin = by_pickle(error)
    assert (str(twin), twin.exitcode, twin.worker) == (message, exitcode, worker)
    assert getattr(twin, "__notes__", []) == notes


def test_timeouts_are_not_mistaken_for_operating_system_errors() -> None:
    error = by_pickle(TaskRunTimeoutError("Task run 'x-0' exceeded timeout of 0.3 second(s)"))
    assert error.errno is None
    assert str(error) == "Task run 'x-0' exceeded timeout of 0.3 second(s)"
