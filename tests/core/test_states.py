"""States: predicates, results, text, equality, groups, and what a return value becomes."""

from __future__ import annotations

import copy
import doctest
import pickle
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock import states
from penstock.exceptions import CancelledRun, CrashedRun, FailedRun, MissingResult, UnfinishedRun
from penstock.states import (
    MISSING,
    AwaitingRetry,
    Cancelled,
    Cancelling,
    Completed,
    Crashed,
    Failed,
    Pending,
    Retrying,
    Running,
    Scheduled,
    State,
    StateDetails,
    StateGroup,
    StateType,
    Status,
    any_alive,
    get_state_exception,
    is_state_iterable,
    raise_state_exception,
    return_value_to_state,
)

RUN_ID = UUID("12345678123456781234567812345678")
CONSTRUCTORS: dict[str, tuple[Any, StateType]] = {
    "Scheduled": (Scheduled, StateType.SCHEDULED),
    "AwaitingRetry": (AwaitingRetry, StateType.SCHEDULED),
    "Pending": (Pending, StateType.PENDING),
    "Running": (Running, StateType.RUNNING),
    "Retrying": (Retrying, StateType.RUNNING),
    "Completed": (Completed, StateType.COMPLETED),
    "Failed": (Failed, StateType.FAILED),
    "Crashed": (Crashed, StateType.CRASHED),
    "Cancelling": (Cancelling, StateType.CANCELLING),
    "Cancelled": (Cancelled, StateType.CANCELLED),
}
BAD: list[tuple[Any, type[Exception], str]] = [
    (Failed, FailedRun, "Run failed."),
    (Crashed, CrashedRun, "Run crashed."),
    (Cancelled, CancelledRun, "Run cancelled."),
]
each_bad = pytest.mark.parametrize("make, wrapper, default", BAD, ids=["Failed", "Crashed", "Cancelled"])
each_way = pytest.mark.parametrize(
    "duplicate",
    [lambda x: pickle.loads(pickle.dumps(x)), copy.copy, copy.deepcopy],
    ids=["pickle", "copy", "deepcopy"],
)


class TestStatus:
    def test_the_seven(self) -> None:
        assert [(status.name, status.value, status.final) for status in Status] == [
            ("PENDING", 0, False),
            ("RUNNING", 1, False),
            ("WAITING", 2, False),
            ("COMPLETED", 3, True),
            ("FAILED", 4, True),
            ("CRASHED", 5, True),
            ("CANCELLED", 6, True),
        ]

    def test_hashes_as_an_int(self) -> None:
        assert Status.__hash__ is int.__hash__

    def test_lookup_and_pickle_keep_the_member(self) -> None:
        assert Status(4) is Status.FAILED
        assert pickle.loads(pickle.dumps(Status.CRASHED)) is Status.CRASHED


class TestConstructors:
    @pytest.mark.parametrize("name", CONSTRUCTORS)
    def test_type_and_default_name(self, name: str) -> None:
        make, state_type = CONSTRUCTORS[name]
        state = make()
        assert (state.type, state.name, state.message, state.data) == (state_type, name, None, None)
        assert state.state_details == StateDetails(flow_run_id=None, task_run_id=None)

    @pytest.mark.parametrize("name", CONSTRUCTORS)
    def test_every_keyword(self, name: str) -> None:
        details = StateDetails(task_run_id=RUN_ID)
        state = CONSTRUCTORS[name][0](name="Label", message="m", data=[1], state_details=details)
        assert (state.name, state.message, state.data) == ("Label", "m", [1])
        assert state.state_details.task_run_id == RUN_ID
        assert state.state_details.flow_run_id is None

    @pytest.mark.parametrize("name", CONSTRUCTORS)
    def test_a_mistyped_keyword_is_an_error_that_names_the_constructor(self, name: str) -> None:
        with pytest.raises(TypeError, match=rf"^{name}\(\) got an unexpected keyword argument 'mesage'"):
            CONSTRUCTORS[name][0](mesage="m")

    @pytest.mark.parametrize("name", CONSTRUCTORS)
    def test_positional_arguments_are_an_error(self, name: str) -> None:
        with pytest.raises(TypeError):
            CONSTRUCTORS[name][0]("m")

    def test_constructors_pickle_by_reference_and_are_documented(self) -> None:
        assert pickle.loads(pickle.dumps(AwaitingRetry)) is AwaitingRetry
        assert AwaitingRetry.__doc__ == "A SCHEDULED state, named 'AwaitingRetry' unless `name` is given."

    def test_timestamp_is_now_in_utc_and_ids_differ(self) -> None:
        state = Completed()
        assert state.timestamp.tzinfo is UTC
        assert abs(datetime.now(UTC) - state.timestamp) < timedelta(seconds=5)
        assert isinstance(state.id, UUID)
        assert state.id != Completed().id

    def test_timestamp_and_id_can_be_given(self) -> None:
        when = datetime(2024, 1, 1, tzinfo=UTC)
        state: State[None] = State(StateType.RUNNING, timestamp=when, id=RUN_ID)
        assert (state.name, state.timestamp, state.id) == ("Running", when, RUN_ID)


PREDICATES = ["scheduled", "pending", "running", "completed", "failed", "cancelled", "crashed", "cancelling"]


@pytest.mark.parametrize("state_type", StateType)
def test_predicates(state_type: StateType) -> None:
    state: State[None] = State(state_type)
    assert [p for p in PREDICATES if getattr(state, f"is_{p}")()] == [state_type.value.lower()]
    assert state.is_final() is (state_type.name in {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"})


class TestText:
    @pytest.mark.parametrize(
        "state, text",
        [
            (Completed(), "Completed()"),
            (Failed(message="msg"), "Failed('msg')"),
            (Completed(name="Foo"), "Foo(type=COMPLETED)"),
            (Failed(name="TimedOut", message="too slow"), "TimedOut('too slow', type=FAILED)"),
            (AwaitingRetry(), "AwaitingRetry(type=SCHEDULED)"),
            (Completed(data=5), "Completed()"),
        ],
    )
    def test_str(self, state: State[Any], text: str) -> None:
        assert str(state) == text

    def test_repr_shows_the_data(self) -> None:
        assert repr(Completed(data=5)) == "Completed(message=None, type=COMPLETED, data=5)"
        assert repr(Failed(message="m")) == "Failed(message='m', type=FAILED, data=None)"

    def test_repr_is_bounded_and_survives_a_failing_repr(self) -> None:
        class Rude:
            def __repr__(self) -> str:
                raise ValueError

        assert len(repr(Completed(data=list(range(100_000))))) < 100
        assert "Rude" in repr(Completed(data=Rude()))


class TestValue:
    @pytest.mark.parametrize(
        "field", ["type", "name", "message", "timestamp", "id", "data", "state_details", "anything_else"]
    )
    def test_immutable(self, field: str) -> None:
        with pytest.raises(AttributeError):
            setattr(Completed(), field, 1)

    def test_different_states_differ(self) -> None:
        assert Completed() != Completed()
        assert Completed() != "Completed()"

    @pytest.mark.parametrize(
        "change",
        [
            {"type": StateType.FAILED},
            {"name": "x"},
            {"message": "x"},
            {"timestamp": datetime(2025, 1, 1, tzinfo=UTC)},
            {"id": UUID(int=1)},
            {"state_details": StateDetails(flow_run_id=RUN_ID)},
        ],
        ids=lambda change: next(iter(change)),
    )
    def test_every_field_counts_for_equality(self, change: dict[str, Any]) -> None:
        fields: dict[str, Any] = {
            "type": StateType.COMPLETED,
            "name": "n",
            "message": "m",
            "timestamp": datetime(2024, 1, 1, tzinfo=UTC),
            "id": RUN_ID,
            "state_details": StateDetails(),
        }
        assert State(**fields) == State(**fields)
        assert hash(State(**fields)) == hash(State(**fields))
        assert State(**fields) != State(**(fields | change))

    def test_hashable_whatever_the_data(self) -> None:
        state = Completed(data=[])
        assert len({state, copy.copy(state), Completed(data=[])}) == 2

    def test_comparing_never_touches_the_data(self) -> None:
        class Booby:
            __hash__ = None  # type: ignore[assignment]

            def __eq__(self, other: object) -> bool:
                raise AssertionError("the data was compared")

        state = Completed(data=Booby())
        assert state == copy.deepcopy(state)

    @each_way
    @pytest.mark.parametrize("data", [None, 5, [1, {2: 3}], MISSING, [Completed(data=1)]], ids=repr)
    def test_duplicates_are_equal_with_equal_data(self, duplicate: Any, data: Any) -> None:
        state = Completed(name="n", message="m", data=data, state_details=StateDetails(RUN_ID, RUN_ID))
        twin = duplicate(state)
        assert twin == state
        assert twin is not state
        assert twin.data == data
        assert type(twin.state_details) is StateDetails

    @each_way
    def test_missing_stays_the_one_object(self, duplicate: Any) -> None:
        assert duplicate(Completed(data=MISSING)).data is MISSING

    @each_way
    def test_exceptions_travel_in_the_data(self, duplicate: Any) -> None:
        twin = duplicate(Failed(data=ValueError("boom")))
        assert type(twin.data) is ValueError
        assert twin.data.args == ("boom",)

    def test_an_exception_that_does_not_pickle_does_not_stop_the_state(self) -> None:
        error = ValueError("boom")
        error.lock = threading.Lock()  # type: ignore[attr-defined]
        twin = pickle.loads(pickle.dumps(Failed(data=error)))
        assert type(twin.data) is FailedRun
        assert str(twin.data) == "ValueError: boom"

    def test_subscriptable(self) -> None:
        assert State[int].__origin__ is State  # type: ignore[attr-defined]
        assert State[int](StateType.COMPLETED, data=1).result() == 1


class TestResult:
    @pytest.mark.parametrize("data", [42, None, [], "text", ValueError("returned"), Failed()], ids=repr)
    @pytest.mark.parametrize("raise_on_failure", [True, False])
    def test_completed_gives_the_data(self, data: Any, raise_on_failure: bool) -> None:
        assert Completed(data=data).result(raise_on_failure=raise_on_failure) is data

    @pytest.mark.parametrize("raise_on_failure", [True, False])
    def test_a_value_that_is_gone(self, raise_on_failure: bool) -> None:
        with pytest.raises(MissingResult, match=r"no longer available.*@task\(persist_result=True\)"):
            Completed(data=MISSING).result(raise_on_failure=raise_on_failure)

    @pytest.mark.parametrize(
        "make", [Scheduled, AwaitingRetry, Pending, Running, Retrying, Cancelling], ids=lambda f: f.__name__
    )
    @pytest.mark.parametrize("raise_on_failure", [True, False])
    def test_not_final(self, make: Any, raise_on_failure: bool) -> None:
        with pytest.raises(UnfinishedRun) as info:
            make(data=1).result(raise_on_failure=raise_on_failure)
        type_name = make().type.name
        assert str(info.value) == f"Run is in {type_name} state, its result is not available."

    @each_bad
    def test_raises_the_stored_exception_itself(self, make: Any, wrapper: Any, default: str) -> None:
        error = KeyError("k")
        with pytest.raises(KeyError) as info:
            make(data=error).result()
        assert info.value is error
        assert make(data=error).result(raise_on_failure=False) is error

    @each_bad
    def test_string(self, make: Any, wrapper: Any, default: str) -> None:
        with pytest.raises(wrapper) as info:
            make(data="what went wrong", message="ignored").result()
        assert type(info.value) is wrapper
        assert str(info.value) == "what went wrong"
        assert make(data="what went wrong").result(raise_on_failure=False) == "what went wrong"

    @each_bad
    @pytest.mark.parametrize("data", [None, MISSING], ids=["nothing", "missing"])
    @pytest.mark.parametrize("message", [None, "", "m"])
    def test_no_data(self, make: Any, wrapper: Any, default: str, data: Any, message: str | None) -> None:
        state = make(data=data, message=message)
        with pytest.raises(wrapper) as info:
            state.result()
        assert (type(info.value), str(info.value)) == (wrapper, message or default)
        returned = state.result(raise_on_failure=False)
        assert (type(returned), str(returned)) == (wrapper, message or default)

    @each_bad
    def test_nested_state(self, make: Any, wrapper: Any, default: str) -> None:
        error = KeyError("k")
        nested = Failed(data=error)
        with pytest.raises(KeyError) as info:
            make(data=make(data=nested)).result()
        assert info.value is error
        assert make(data=nested).result(raise_on_failure=False) is nested

    @each_bad
    @pytest.mark.parametrize("container", [list, tuple])
    def test_first_bad_state_of_several(self, make: Any, wrapper: Any, default: str, container: Any) -> None:
        members = container([Completed(), Running(), Cancelled(data="first"), Failed(data="second")])
        with pytest.raises(CancelledRun) as info:
            make(data=members).result()
        assert str(info.value) == "first"
        assert make(data=members).result(raise_on_failure=False) is members

    @pytest.mark.parametrize("data", [[Completed(), Running()], {Completed()}, Completed()], ids=repr)
    def test_no_bad_state_inside(self, data: Any) -> None:
        with pytest.raises(ValueError, match="FAILED, CRASHED or CANCELLED"):
            Failed(data=data).result()

    @each_bad
    @pytest.mark.parametrize("data", [5, [], [5], {"a": 1}, [Failed(), 5], b"x"], ids=repr)
    def test_any_other_data(self, make: Any, wrapper: Any, default: str, data: Any) -> None:
        with pytest.raises(TypeError) as info:
            make(data=data).result()
        assert repr(type(data).__name__) in str(info.value)
        assert f"{make().name}(data=ValueError('what went wrong'))" in str(info.value)
        assert make(data=data).result(raise_on_failure=False) is data


class TestExceptionHelpers:
    @pytest.mark.parametrize("state", [Completed(data=ValueError("x")), Running(), Pending()], ids=str)
    def test_states_that_are_not_bad(self, state: State[Any]) -> None:
        assert raise_state_exception(state) is None  # type: ignore[func-returns-value]
        with pytest.raises(ValueError, match="Expected a FAILED, CRASHED or CANCELLED state, got"):
            get_state_exception(state)

    @each_bad
    def test_bad_states(self, make: Any, wrapper: Any, default: str) -> None:
        error = KeyError("k")
        assert get_state_exception(make(data=error)) is error
        with pytest.raises(KeyError):
            raise_state_exception(make(data=error))
        with pytest.raises(wrapper, match=default):
            raise_state_exception(make())


class TestStateGroup:
    def test_counts(self) -> None:
        members = [Completed(), Completed(), Failed(), Crashed(), Cancelled(), Running()]
        group = StateGroup(iter(members))
        assert group.states == members
        assert (group.total_count, group.final_count, group.not_final_count) == (6, 5, 1)
        assert (group.fail_count, group.cancelled_count) == (2, 1)
        assert group.type_counts == {
            StateType.COMPLETED: 2,
            StateType.FAILED: 1,
            StateType.CRASHED: 1,
            StateType.CANCELLED: 1,
            StateType.RUNNING: 1,
        }

    @pytest.mark.parametrize(
        "members, true",
        [
            ([], {"all_completed", "all_final"}),
            ([Completed(), Completed()], {"all_completed", "all_final"}),
            ([Completed(), Failed()], {"any_failed", "all_final"}),
            ([Completed(), Crashed()], {"any_failed", "all_final"}),
            ([Cancelled()], {"any_cancelled", "all_final"}),
            ([Completed(), Running()], set()),
            ([Cancelling(), Scheduled()], set()),
        ],
    )
    def test_questions(self, members: list[State[Any]], true: set[str]) -> None:
        group = StateGroup(members)
        names = ["all_completed", "any_cancelled", "any_failed", "any_paused", "all_final"]
        assert {name for name in names if getattr(group, name)()} == true


@pytest.mark.parametrize(
    "x, expected",
    [
        ([Completed()], True),
        ((Completed(), Running()), True),
        ({Completed()}, True),
        ([], False),
        ((), False),
        (set(), False),
        ([Completed(), 1], False),
        ([[Completed()]], False),
        ({"a": Completed()}, False),
        (frozenset({Completed()}), False),
        (iter([Completed()]), False),
        (Completed(), False),
        ("ab", False),
    ],
)
def test_is_state_iterable(x: object, expected: bool) -> None:
    assert is_state_iterable(x) is expected


class TestReturnValue:
    @pytest.mark.parametrize("name", CONSTRUCTORS)
    def test_a_hand_made_state_is_taken_as_it_is(self, name: str) -> None:
        state = CONSTRUCTORS[name][0](message="m")
        assert return_value_to_state(state) is state

    @pytest.mark.parametrize(
        "state, type_name, message",
        [
            (Completed(state_details=StateDetails(task_run_id=RUN_ID)), "COMPLETED", "All states completed."),
            (Failed(state_details=StateDetails(flow_run_id=RUN_ID)), "FAILED", "1/1 states failed."),
        ],
    )
    def test_the_state_of_another_run(self, state: State[Any], type_name: str, message: str) -> None:
        outcome = return_value_to_state(state)
        assert outcome is not state
        assert (outcome.type.name, outcome.message) == (type_name, message)
        assert outcome.data is state

    @pytest.mark.parametrize("container", [list, tuple, set])
    @pytest.mark.parametrize(
        "members, text",
        [
            ([Completed(), Completed(name="Cached")], "Completed('All states completed.')"),
            ([Completed(), Cancelled(), Failed()], "Cancelled('1/3 states cancelled.')"),
            ([Completed(), Crashed(), Failed()], "Failed('2/3 states failed.')"),
            ([Failed(), Running()], "Failed('1/2 states failed.')"),
            ([Completed(), Running(), Completed()], "Failed('1/3 states are not final.')"),
        ],
    )
    def test_states_only(self, container: Any, members: list[State[Any]], text: str) -> None:
        value = container(members)
        outcome = return_value_to_state(value)
        assert str(outcome) == text
        assert outcome.data is value
        if outcome.is_completed():
            assert outcome.result() is value

    @pytest.mark.parametrize(
        "value",
        [None, 5, [], (), {"a": Failed()}, (Failed(), 5), frozenset({Failed()}), ValueError("x")],
        ids=repr,
    )
    def test_anything_else_completes(self, value: Any) -> None:
        outcome = return_value_to_state(value)
        assert (str(outcome), outcome.is_completed()) == ("Completed()", True)
        assert outcome.result() is value

    @given(st.lists(st.sampled_from(list(CONSTRUCTORS)), min_size=1, max_size=8))
    def test_aggregate_rule(self, names: list[str]) -> None:
        members = [CONSTRUCTORS[name][0]() for name in names]
        outcome = return_value_to_state(members)
        expected = StateType.FAILED
        if set(names) == {"Completed"}:
            expected = StateType.COMPLETED
        elif "Cancelled" in names:
            expected = StateType.CANCELLED
        assert outcome.type is expected
        assert outcome.is_final()
        assert StateGroup(members).any_failed() is bool({"Failed", "Crashed"} & set(names))


ALIVE_SCRIPT = """
import copy, pickle
from penstock import states

class Annotated:
    __slots__ = ("_alive",)
    def __init__(self):
        self._alive = states._ALIVE

def alive_after(make):
    held = make()
    inside = states.any_alive()
    del held
    return inside, states.any_alive()

assert not states.any_alive(), "something is alive after the import"
text = pickle.dumps(states.Completed(data=[1]))
assert not states.any_alive()
makers = [
    states.Failed, Annotated, lambda: pickle.loads(text), lambda: copy.copy(states.Completed()),
    lambda: copy.deepcopy(states.Completed()), lambda: [states.Pending() for _ in range(100)],
]
for make in makers:
    assert alive_after(make) == (True, False), make
"""


class TestAlive:
    def test_while_an_object_exists_and_not_before_or_after(self) -> None:
        # In a process of its own: in this one the test modules hold states.
        subprocess.run([sys.executable, "-c", ALIVE_SCRIPT], check=True, timeout=30)

    def test_objects_made_and_dropped_by_many_threads_leave_no_trace(self) -> None:
        before = sys.getrefcount(states._ALIVE)

        def churn() -> None:
            for _ in range(500):
                pickle.loads(pickle.dumps(Completed()))

        threads = [threading.Thread(target=churn) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        after = sys.getrefcount(states._ALIVE)  # not inside the assert, which keeps what it has evaluated
        assert after == before
        assert any_alive()


def test_the_examples_in_the_docstrings_run() -> None:
    assert doctest.testmod(states) == (0, 6)
