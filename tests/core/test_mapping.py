from __future__ import annotations

import io
import sys
import tempfile
from collections.abc import Iterator
from itertools import count
from typing import Any

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock import states
from penstock._core.graph import Upstream
from penstock._core.mapping import expand, pull
from penstock.annotations import allow_failure, opaque, quote, unmapped
from penstock.exceptions import MappingLengthMismatch, MappingMissingIterable


class F(Upstream):
    def __init__(self) -> None:
        self._alive = states._ALIVE

    def __iter__(self) -> Iterator[Any]:
        raise AssertionError("iterating would wait for the run")


class Model(pydantic.BaseModel):
    a: int


class Frame:
    def __iter__(self) -> Iterator[str]:
        return iter(["col"])


class Broken:
    def __iter__(self) -> Iterator[Any]:
        raise RuntimeError("broken")


def values(x: Any) -> list[Any]:
    """What the children of `f.map([0, 0], x)` get for x, or fail if their number differs."""
    return [args[1] for args, _ in expand(([0, 0], x), {}, ("n", "x")).calls]


@pytest.mark.parametrize(
    "x",
    [
        [1, 2],
        (1, 2),
        {1: "a", 2: "b"},
        range(1, 3),
        {1: 0, 2: 0}.keys(),
        iter([1, 2]),
        (i for i in [1, 2]),
        quote([1, 2]).value,
    ],
)
def test_iterables_are_mapped(x: Any) -> None:
    assert expand((x,), {}, ("x",)).calls == [((1,), {}), ((2,), {})]


def test_sets_and_dict_items_are_mapped() -> None:
    assert expand(({7},), {}, ("x",)).calls == [((7,), {})]
    assert expand(({7: 8}.items(),), {}, ("x",)).calls == [(((7, 8),), {})]


@pytest.mark.parametrize(
    "x",
    [
        "ab",
        b"ab",
        bytearray(b"ab"),
        memoryview(b"ab"),
        5,
        None,
        io.StringIO("a\nb"),
        io.BytesIO(b"a\nb"),
        Model(a=1),
        F(),
        states.Completed(),
        ValueError("x"),
    ],
    ids=lambda x: type(x).__name__,
)
def test_one_thing_is_static(x: Any) -> None:
    result = values(x)
    assert result[0] is x and result[1] is x
    with pytest.raises(MappingMissingIterable):
        expand((x,), {}, ("x",))


def test_temporary_files_are_static() -> None:
    with tempfile.NamedTemporaryFile() as file:
        assert values(file) == [file, file]


def test_names_of_static_arguments_are_reported() -> None:
    result = expand(([1], 2), {"y": [3], "z": unmapped([4])}, ("a", "b"))
    assert result.static == {"b", "z"}
    assert result.frames == ()
    assert result.calls == [((1, 2), {"y": 3, "z": [4]})]


def test_unmapped_is_static_by_reference_and_unwrapped() -> None:
    x = [1, 2, 3]
    assert all(value is x for value in values(unmapped(x)))
    assert all(value is x for value in values(unmapped(unmapped(x))))


def test_effects_of_stacked_annotations_add_up() -> None:
    x = [1, 2, 3]
    assert values(allow_failure(unmapped(x))) == [allow_failure(x)] * 2
    assert values(unmapped(allow_failure(x))) == [allow_failure(x)] * 2
    assert values(opaque(unmapped(allow_failure(x)))) == [opaque(allow_failure(x))] * 2


@pytest.mark.parametrize("cls", [allow_failure, quote, opaque])
def test_elements_are_wrapped_again(cls: Any) -> None:
    assert values(cls([1, "b"])) == [cls(1), cls("b")]
    assert values(cls(allow_failure([1, 2]))) == [cls(allow_failure(1)), cls(allow_failure(2))]
    assert values(cls("ab")) == [cls("ab"), cls("ab")]


def test_missing_iterables_are_named() -> None:
    with pytest.raises(MappingMissingIterable) as caught:
        expand((5,), {"y": "b", "password": "hunter2"}, ("x",))
    assert str(caught.value).startswith(
        "No iterable parameters were received. Parameters for map must include at least one iterable. Parameters: {"
    )
    assert '"x":"5"' in str(caught.value) and "hunter2" not in str(caught.value)
    with pytest.raises(MappingMissingIterable):
        pull((5,), {}, ("x",))
    with pytest.raises(MappingMissingIterable):
        expand((), {}, ())
    with pytest.raises(MappingMissingIterable):
        expand((unmapped([1]),), {}, ("x",))


def test_different_lengths_are_named() -> None:
    with pytest.raises(MappingLengthMismatch, match=r"Got lengths: \{'x': 3, 'args\[1\]': 2, 'z': 0\}$"):
        expand(([1, 2, 3], iter("ab"), 5), {"z": []}, ("x", "args[1]", "s"))


def test_empty_iterables_give_no_children() -> None:
    assert expand(([], 3), {"y": ()}, ("x", "s")).calls == []


def test_each_child_has_its_own_keyword_dict() -> None:
    for calls in (
        expand(([1, 2],), {}, ("x",)).calls,
        expand((), {"x": [1, 2]}, ()).calls,
    ):
        assert calls[0][1] is not calls[1][1]


@pytest.mark.parametrize("module", ["pandas.core.frame", "polars.dataframe.frame"])
def test_data_frames_map_and_are_reported(module: str) -> None:
    base = type("DataFrame", (Frame,), {"__module__": module})
    frame = type("GeoDataFrame", (base,), {"__module__": "geopandas"})()
    result = expand((frame,), {"y": [1]}, ("df",))
    assert result.calls == [(("col",), {"y": 1})] and result.frames == ("df",)
    assert expand((Frame(),), {}, ("df",)).frames == ()
    assert expand((unmapped(frame), [1]), {}, ("df", "x")).frames == ()
    assert pull((frame,), {}, ("df",)).frames == ("df",)


def test_what_an_iterable_raises_passes_through() -> None:
    with pytest.raises(RuntimeError, match="broken"):
        expand((Broken(),), {}, ("x",))


def test_pull_takes_elements_only_when_asked() -> None:
    taken = []

    def source() -> Iterator[int]:
        for i in count():
            taken.append(i)
            yield i

    calls = pull((source(), "s"), {"y": allow_failure("abc"), "z": "xy"}, ("x", "s")).calls
    assert taken == []
    assert next(calls) == ((0, "s"), {"y": allow_failure("abc"), "z": "xy"})
    assert taken == [0]


def test_pull_ends_with_the_shortest() -> None:
    result = pull((count(), [1, 2, 3]), {"k": 5, "z": iter("xy")}, ("a", "b"))
    assert list(result.calls) == [((0, 1), {"k": 5, "z": "x"}), ((1, 2), {"k": 5, "z": "y"})]
    assert result.static == {"k"}


def test_pull_passes_on_what_the_input_raises() -> None:
    def source() -> Iterator[int]:
        yield 1
        raise OSError("disk")

    calls = pull((source(),), {}, ("x",)).calls
    assert next(calls) == ((1,), {})
    with pytest.raises(OSError, match="disk"):
        next(calls)


@given(st.lists(st.tuples(st.integers(), st.text())), st.booleans())
def test_children_are_the_rows(rows: list[tuple[int, str]], as_keyword: bool) -> None:
    xs, ys = [x for x, _ in rows], [y for _, y in rows]
    if as_keyword:
        assert expand((xs,), {"y": ys}, ("x",)).calls == [((x,), {"y": y}) for x, y in rows]
    else:
        assert expand((xs, ys), {}, ("x", "y")).calls == [((x, y), {}) for x, y in rows]


def test_no_data_library_is_imported() -> None:
    assert not {"pandas", "polars"} & sys.modules.keys()
