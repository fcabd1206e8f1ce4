"""What stands for a value that is elsewhere: on its way to another process, in texts, in States."""

from __future__ import annotations

import pickle
import threading
from typing import Any

import pytest

from penstock._core import graph
from penstock._core.binding import name_uses, short, short_parameters
from penstock._core.serial import LARGE, Packed, Reference, pack, unpack
from penstock.exceptions import SerializationError
from penstock.states import Completed, Deferred


class Handle(Reference):
    def __init__(self, shown: str = "<elsewhere>") -> None:
        self.shown = shown

    def __reduce__(self) -> Any:
        raise AssertionError("a reference is not pickled")


class Odd:
    """Says that it is a reference, as a mock would."""

    @property
    def __class__(self) -> Any:
        return Handle

    def __reduce__(self) -> Any:
        return Odd, ()


# --- pickles --------------------------------------------------------------------------------------------------------


def test_references_become_the_values_that_are_given() -> None:
    first, second = Handle(), Handle()
    handles: list[Any] = []
    packed = pack({"a": first, "b": [second, first], "c": (1, None)}, "x", handles=handles)
    assert packed.handles is handles
    assert handles == [first, second]
    one, two = object(), object()
    rebuilt = unpack(Packed(packed.data, packed.buffers), [one, two])
    assert rebuilt == {"a": one, "b": [two, one], "c": (1, None)}


def test_without_references_nothing_is_given() -> None:
    packed = pack([1, "x", Odd()], "x", handles=[])
    assert packed.handles == []
    assert unpack(packed)[:2] == [1, "x"]


def test_packed_without_handles_has_none() -> None:
    assert pack([1], "x").handles == ()
    assert pack(1, "x", plain=True, handles=[]).handles == ()


@pytest.mark.parametrize("size", [10, 70_000, LARGE])
def test_large_things_beside_references(size: int) -> None:
    """In frames, between frames, and out of the pickle."""
    handle = Handle()
    value = [b"x" * size, "y" * size, pickle.PickleBuffer(bytearray(size)), handle, list(range(1000))]
    packed = pack(value, "x", handles=[])
    assert len(packed.buffers) == (size >= LARGE)
    text, more, buffer, given, numbers = unpack(packed, ["value"])
    assert (text, more, bytes(buffer), given) == (b"x" * size, "y" * size, bytes(size), "value")
    assert numbers == list(range(1000))


def test_functions_by_value_hold_references_too() -> None:
    handle = Handle()
    packed = pack(lambda: handle, "x", handles=[])
    assert unpack(packed, [5])() == 5


def test_the_culprit_is_named_beside_references() -> None:
    value = {"good": [Handle()], "bad": [Handle(), {"lock": threading.Lock()}]}
    with pytest.raises(SerializationError) as caught:
        pack(value, "x", handles=[])
    assert caught.value.path == "x['bad'][1]['lock']"


def test_what_rebuilding_raises_with_values_given() -> None:
    packed = pack([Handle(), _Exits()], "x", handles=[])
    with pytest.raises(SerializationError, match="rebuilding a value raised SystemExit"):
        unpack(packed, [1])


class _Exits:
    def __reduce__(self) -> Any:
        return _exit, ()


def _exit() -> None:
    raise SystemExit


# --- texts ----------------------------------------------------------------------------------------------------------


def test_references_are_shown_as_what_they_stand_for() -> None:
    assert short(Handle("[1, 2, …]")) == "[1, 2, …]"
    assert short({"a": [Handle("<x>")]}) == "{'a': [<x>]}"
    assert short_parameters({"x": Handle("<x>"), "password": Handle("secret")}) == '{"x":"<x>","password":"********"}'


@pytest.mark.parametrize(
    ("template", "uses"),
    [
        ("{x}", True),
        ("{x.y[0]}-{other}", True),
        ("{x[0]!r:>5}", True),
        ("{other:{x}}", True),
        ("x {other} {xs}", False),
        ("plain", False),
        ("{", False),
    ],
)
def test_what_a_template_uses(template: str, uses: bool) -> None:
    assert name_uses(template, ["x"]) is uses
    assert name_uses(template, []) is False


def test_what_a_callable_uses() -> None:
    assert name_uses(lambda parameters: "", ["x"])
    assert not name_uses(lambda: "", ["x"])


# --- upstreams and States ---------------------------------------------------------------------------------------------


def test_the_parameters_that_hold_upstreams() -> None:
    state = Completed(data=1)
    flat = graph.find({"a": state, "b": 2, "c": state})
    nested = graph.find({"a": [state], "b": [2], "c": {"x": (state,)}, "d": state})
    assert flat is not None and set(flat.names) == {"a", "c"}
    assert nested is not None and set(nested.names) == {"a", "c", "d"}


def test_a_state_fetches_its_data_when_it_is_asked() -> None:
    fetched: list[Any] = []

    def fetch(handle: Handle) -> int:
        fetched.append(handle)
        return 42

    handle = Handle("<forty-two>")
    state = Completed(data=Deferred(handle, fetch))
    assert "data=<forty-two>" in repr(state) and state == state and hash(state)
    assert fetched == []
    assert (state.data, state.result(), state.result(raise_on_failure=False)) == (42, 42, 42)
    assert fetched == [handle] * 3
    assert pickle.loads(pickle.dumps(state)).result() == 42
