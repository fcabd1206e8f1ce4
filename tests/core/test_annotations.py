from __future__ import annotations

import copy
import pickle
import sys
from typing import Any

import pytest

from penstock import states
from penstock.annotations import Annotation, allow_failure, carries, opaque, quote, strip, unmapped

ALL = [unmapped, allow_failure, quote, opaque]


@pytest.mark.parametrize("cls", ALL)
def test_an_annotation_is_a_frozen_value(cls: type[Annotation[Any]]) -> None:
    x = [1]
    a = cls(x)
    assert a.value is x and a.unwrap() is x
    assert a == cls([1]) and a != cls([2]) and a != [1]
    assert hash(cls(1)) == hash(cls(1))
    assert repr(a) == f"{cls.__name__}([1])"
    assert type(a.rewrap(5)) is cls and a.rewrap(5).value == 5
    with pytest.raises(AttributeError, match="immutable"):
        a.value = 2
    with pytest.raises(AttributeError, match="immutable"):
        del a.value
    with pytest.raises(TypeError, match="unhashable"):
        hash(a)


@pytest.mark.parametrize("cls", ALL)
@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda a: pickle.loads(pickle.dumps(a))])
def test_copies_are_equal_and_not_wrapped_again(cls: type[Annotation[Any]], again: Any) -> None:
    twin = again(cls({"a": [1]}))
    assert twin == cls({"a": [1]}) and type(twin.value) is dict


def test_equality_needs_the_same_class() -> None:
    assert len({cls(1) for cls in ALL}) == 4
    assert unmapped(float("nan")) != unmapped(float("nan"))
    nan = float("nan")
    assert unmapped(nan) == unmapped(nan)  # as containers compare: the same object is equal


def test_quote_unquotes() -> None:
    assert quote(3).unquote() == 3


def test_subscripted_classes_make_instances() -> None:
    assert unmapped[int](3).value == 3


def test_a_living_annotation_counts_as_alive() -> None:
    # Counted rather than asked: objects of other tests may be alive.
    before = sys.getrefcount(states._ALIVE)
    held = pickle.loads(pickle.dumps(quote(1)))
    during, alive = sys.getrefcount(states._ALIVE), states.any_alive()
    del held
    after = sys.getrefcount(states._ALIVE)
    assert (during - before, alive, after - before) == (1, True, 0)


def test_strip_returns_the_stack() -> None:
    wrappers, core = strip(allow_failure(unmapped(3)))
    assert core == 3 and [type(w) for w in wrappers] == [allow_failure, unmapped]
    assert carries(wrappers, unmapped) and not carries(wrappers, quote)
    assert strip(3) == ([], 3)
