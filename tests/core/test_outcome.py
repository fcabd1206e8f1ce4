"""Outcomes: how one attempt ended, as a value."""

from __future__ import annotations

import pickle

from penstock import states
from penstock._core.machine import Event
from penstock._core.outcome import Outcome


def test_fields_default_to_nothing() -> None:
    outcome = Outcome(Event.RETURNED)
    assert (outcome.event, outcome.value, outcome.error, outcome.message, outcome.state) == (
        Event.RETURNED,
        *(None,) * 4,
    )


def test_positional_fields() -> None:
    error, state = ValueError("x"), states.Failed()
    outcome = Outcome(Event.RAISED, 1, error, "because", state)
    assert outcome.event is Event.RAISED
    assert (outcome.value, outcome.error, outcome.message, outcome.state) == (1, error, "because", state)


def test_is_small() -> None:
    assert not hasattr(Outcome(Event.RETURNED), "__dict__")


def test_repr_names_the_event_and_the_message() -> None:
    assert repr(Outcome(Event.TIMED_OUT, message="too slow")) == "<Outcome TIMED_OUT too slow>"
    assert repr(Outcome(Event.RETURNED, "not shown")) == "<Outcome RETURNED >"


def test_pickles_with_everything() -> None:
    state = states.Completed(data=7, message="m")
    copy = pickle.loads(pickle.dumps(Outcome(Event.LOST, [1], OSError("gone"), "message", state)))
    assert (copy.event, copy.value, copy.message, copy.state) == (Event.LOST, [1], "message", state)
    assert copy.event is Event.LOST
    assert (type(copy.error), copy.error.args) == (OSError, ("gone",))
    assert copy.state.data == 7
