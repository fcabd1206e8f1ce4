from __future__ import annotations

import array
import collections
import dataclasses
import datetime
import decimal
import enum
import functools
import itertools
import json
import math
import multiprocessing
import os
import pathlib
import pickle
import re
import subprocess
import sys
import threading
import types
import zoneinfo
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import key_samples
import numpy
import pydantic
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from penstock._core import canonical
from penstock._core.canonical import DEEPEST
from penstock._core.forms import FORMS
from penstock._core.keys import Unhashable, combine, digest_of, register_hasher


class Number(int):
    pass


class Text(str):
    pass


class Items(list[Any]):
    pass


class Pair(NamedTuple):
    a: Any
    b: Any


class OtherPair(NamedTuple):
    a: Any
    b: Any


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Level(enum.IntEnum):
    RED = 1


@dataclasses.dataclass
class Point:
    x: Any
    y: Any = 0


@dataclasses.dataclass
class Place:
    x: Any
    y: Any = 0


class Model(pydantic.BaseModel):
    a: int = 1
    b: set[str] = set()


class Plain:
    def __init__(self, value: Any = None) -> None:
        self.value = value


def text_with(**attributes: Any) -> Text:
    text = Text("a")
    text.__dict__.update(attributes)
    return text


# --- Different ---

DISTINCT: list[Any] = [
    *(None, False, True, 0, 1, -1, 2, 0.0, -0.0, 1.0, math.nan, math.inf, -math.inf, 0j, 1 + 0j, complex(0.0, -0.0)),
    *(
        "",
        "1",
        "a",
        "?",
        "\ud800",
        "\ud801",
        "\U00010000",
        "\ud800\udc00",
        b"",
        b"1",
        b"a",
        bytearray(b"a"),
        memoryview(b"a"),
    ),
    *(..., NotImplemented, Number(1), Text("a"), Text("b"), text_with(x=1), text_with(x=2), Items([1])),
    *([], (), {}, set(), frozenset(), [1], (1,), [True], [1.0], [[1]], [(1,)], [[], []], [[[]]], [[1], 2], [[1, 2]]),
    *({1: 2}, {"1": 2}, {1: "2"}, {1: 2, 3: 4}, {1: 4, 3: 2}, {1, 2}, frozenset({1, 2}), {(1, 2)}, ["ab"], ["a", "b"]),
    *(Pair(1, 2), OtherPair(1, 2), (1, 2), Pair(2, 1)),
    *(collections.OrderedDict({1: 2, 3: 4}), collections.OrderedDict({3: 4, 1: 2}), collections.Counter({1: 2})),
    *(collections.defaultdict(list), collections.defaultdict(set), collections.deque(), collections.deque(maxlen=2)),
    *(range(3), range(0, 3, 2), slice(3), slice(0, 3), array.array("i", [1]), array.array("l", [1])),
    *(datetime.date(2024, 1, 1), datetime.datetime(2024, 1, 1), datetime.datetime(2024, 1, 1, fold=1)),
    datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC),
    datetime.datetime(2024, 1, 1, tzinfo=datetime.timezone(datetime.timedelta(hours=1))),
    datetime.datetime(2024, 1, 1, tzinfo=zoneinfo.ZoneInfo("UTC")),
    *(datetime.time(1), datetime.time(1, fold=1), datetime.timedelta(1), datetime.UTC, zoneinfo.ZoneInfo("UTC")),
    *(decimal.Decimal("1"), decimal.Decimal("1.0"), decimal.Decimal("NaN")),
    *(pathlib.PurePosixPath("a"), pathlib.PureWindowsPath("a"), pathlib.PurePosixPath("b")),
    *(re.compile("a"), re.compile("a", re.IGNORECASE), re.compile(b"a")),
    *(Colour.RED, Colour.BLUE, Level.RED, Point(1), Point(2), Place(1), Point(1, 1), Point([1]), Point((1,))),
    *(Model(), Model(a=1), Model(a=2), Model(b={"x"})),
    *(int, float, Point, Place, list[int], list[str], dict[str, int], int | None, int | str),
    *(len, print, str.upper, str.lower, "a".upper, "b".upper, math.sqrt, functools.partial(print), json, re),
    *(functools.partial(print, 1), functools.partial(print, "1"), functools.partial(print, end="1")),
    *(ValueError(), ValueError(1), TypeError(1), OSError(2, "x"), OSError(2, "x", "file"), KeyError(1)),
    *(types.SimpleNamespace(), types.SimpleNamespace(a=1), types.MappingProxyType({})),
]


def test_none_of_these_shares_a_digest_with_another() -> None:
    by_digest: dict[str, list[Any]] = {}
    for value in DISTINCT:
        by_digest.setdefault(digest_of(value), []).append(value)
    assert [values for values in by_digest.values() if len(values) > 1] == []


def test_none_of_these_shares_a_digest_inside_a_container() -> None:
    wrapped = [[value] for value in DISTINCT] + [{"k": value} for value in DISTINCT] + [Point(v) for v in DISTINCT]
    assert len({digest_of(value) for value in wrapped}) == len(wrapped)


@pytest.mark.parametrize("size", [100, 511, 512, 513, 100_000])
@pytest.mark.parametrize("make", [lambda n: "a" * n, lambda n: b"a" * n, lambda n: [1] * n, lambda n: [[2] * n, 1]])
def test_long_values_differ_by_their_last_part(make: Callable[[int], Any], size: int) -> None:
    assert digest_of(make(size)) == digest_of(make(size))
    assert digest_of(make(size)) != digest_of(make(size + 1))


def test_a_digest_in_place_of_its_value_is_another_value() -> None:
    long = [1] * 1000
    inner = canonical.Encoder().encode(long)
    assert digest_of([long]) != digest_of([inner])
    assert digest_of("a" * 1000) != digest_of(b"a" * 1000)


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.integers()
    | st.sampled_from([0.0, -0.0, 1.0, math.nan, 1.5])
    | st.floats()
    | st.text("as:1", max_size=3)
    | st.text(st.characters(exclude_categories=()), max_size=2)
    | st.binary(max_size=2),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.integers(0, 2) | st.text("ab", max_size=2) | st.booleans(), inner, max_size=3)
        | st.sets(st.integers(0, 3) | st.text("ab", max_size=2), max_size=3)
        | st.frozensets(st.integers(0, 3) | st.floats(allow_nan=False), max_size=3)
    ),
    max_leaves=8,
)


def structure(value: Any) -> Any:
    """A value that is equal exactly if type and content are, at every level; what the digests are compared with."""
    if isinstance(value, list | tuple):
        return type(value), tuple(structure(item) for item in value)
    if isinstance(value, dict):
        return dict, frozenset((structure(key), structure(item)) for key, item in value.items())
    if isinstance(value, set | frozenset):
        return type(value), frozenset(structure(item) for item in value)
    return type(value), repr(value)


@settings(max_examples=500)
@given(PLAIN, PLAIN)
def test_digests_are_equal_exactly_if_values_are(one: Any, other: Any) -> None:
    assert (digest_of(one) == digest_of(other)) == (structure(one) == structure(other))


@settings(max_examples=200)
@given(st.lists(PLAIN, min_size=2, max_size=12))
def test_no_two_of_many_values_share_a_digest(values: list[Any]) -> None:
    assert len({digest_of(value) for value in values}) == len({structure(value) for value in values})


@given(PLAIN)
def test_copies_have_the_same_digest(value: Any) -> None:
    assert digest_of(pickle.loads(pickle.dumps(value))) == digest_of(value)


NAMES = st.lists(st.text("as1:\ud800", max_size=3), max_size=4)


@given(NAMES, NAMES)
@example(["a", "sb"], ["as", "b"])
@example(["a1:s", "b"], ["a", "1:sb"])
def test_combine_is_unambiguous(one: list[str], other: list[str]) -> None:
    assert (combine(*one) == combine(*other)) == (one == other)


@pytest.mark.parametrize(
    ("one", "other"),
    [(["a", "sb"], ["as", "b"]), ([b"a", b"bb"], [b"ab", b"b"]), ([1, [2]], [[1, 2]]), ([[1], 2], [[1, 2]])],
)
def test_neighbours_do_not_run_into_each_other(one: Any, other: Any) -> None:
    assert digest_of(one) != digest_of(other)


def test_digests_are_32_hex_digits() -> None:
    for digest in (digest_of(1), digest_of([1]), digest_of("a" * 10_000), combine(), combine("a", "b")):
        assert re.fullmatch("[0-9a-f]{32}", digest)


# --- The same ---


def test_order_and_sharing_do_not_matter() -> None:
    shared = [1, 2]
    assert digest_of([shared, shared]) == digest_of([[1, 2], [1, 2]])
    assert digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})
    assert digest_of({2**61 - 1, 0, "x"}) == digest_of({"x", 0, 2**61 - 1})


def test_nan_is_nan() -> None:
    assert digest_of(float("nan")) == digest_of(-math.nan) == digest_of(math.inf - math.inf)


def test_what_has_been_looked_at_does_not_matter() -> None:
    seen, unseen = key_samples.Config("a", {"x"}), key_samples.Config("a", {"x"})
    assert seen.shout == "A"
    assert "shout" in vars(seen)
    assert digest_of(seen) == digest_of(unseen)
    path = Path("a/b")
    assert digest_of(path) == digest_of(Path("a") / "b")
    assert (hash(path), str(path)) == (hash(Path("a/b")), "a/b")
    assert digest_of(path) == digest_of(Path("a/b")) == digest_of(pathlib.PurePath("a/b"))


def other_interpreter(seed: str) -> dict[str, str]:
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    command = [sys.executable, key_samples.__file__]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=50)
    found: dict[str, str] = json.loads(done.stdout)
    return found


def test_the_same_under_any_hash_seed_and_as_a_script() -> None:
    here = key_samples.digests() | key_samples.optional_digests()
    assert len(here) > 25
    for seed in ("1", "2"):
        assert other_interpreter(seed) == here


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_the_same_in_a_child_process(method: str) -> None:
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.apply(key_samples.everything) == key_samples.everything()
        pool.close()
        pool.join()


# --- What cannot be hashed ---


class Refusing:
    def __eq__(self, other: object) -> bool:
        raise AssertionError("nobody may ask")

    __hash__ = None  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("value", "path", "kind"),
    [
        (threading.Lock(), "x", "_thread.lock"),
        ([1, threading.Lock()], "x[1]", "_thread.lock"),
        ({"a": {"b": (1, threading.Lock())}}, "x['a']['b'][1]", "_thread.lock"),
        (Point(1, threading.Lock()), "x.y", "_thread.lock"),
        (Model.model_construct(a=threading.Lock()), "x.a", "_thread.lock"),
        ({threading.Lock(): 1}, "x.keys()[0]", "_thread.lock"),
        ({threading.Lock()}, "x{...}", "_thread.lock"),
        (types.SimpleNamespace(a=[threading.Lock()]), "x['a'][0]", "_thread.lock"),
        (iter([1]), "x", "list_iterator"),
        ((n for n in "ab"), "x", "generator"),
        (object(), "x", "object"),
        ([Plain()], "x[0]", f"{__name__}.Plain"),
        (Refusing(), "x", f"{__name__}.Refusing"),
        (sys.stdout, "x", f"{type(sys.stdout).__module__}.{type(sys.stdout).__qualname__}"),
    ],
)
def test_what_cannot_be_hashed_is_named(value: Any, path: str, kind: str) -> None:
    with pytest.raises(Unhashable) as caught:
        digest_of(value, "x")
    assert (caught.value.path, caught.value.kind) == (path, kind)
    assert str(caught.value) == f"{path}: {kind} cannot be part of a cache key"
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.path, again.kind, str(again)) == (path, kind, str(caught.value))


def recursive_list() -> Any:
    value: list[Any] = []
    value += [value, value]
    return value


def recursive_dict() -> Any:
    value: dict[str, Any] = {}
    value["a"] = [value]
    return value


def recursive_object() -> Any:
    point = Point(1)
    point.y = {"p": point}
    return point


@pytest.mark.parametrize("make", [recursive_list, recursive_dict, recursive_object])
def test_what_contains_itself_is_refused(make: Callable[[], Any]) -> None:
    with pytest.raises(Unhashable, match="contains itself"):
        digest_of(make(), "x")


def nested(depth: int, wrap: Callable[[Any], Any] = lambda inner: [inner]) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = wrap(value)
    return value


@pytest.mark.parametrize("wrap", [lambda v: [v], lambda v: (v,), lambda v: {1: v}, Point, lambda v: frozenset({v})])
def test_depth_is_limited_with_a_clear_error(wrap: Callable[[Any], Any]) -> None:
    with pytest.raises(Unhashable, match=f"more than {DEEPEST} levels") as caught:
        # A set asks for the hash of what it holds, all the way down, and Python's stack is not deep enough for that.
        digest_of(nested(300 if wrap(1) == frozenset({1}) else 100_000, wrap), "x")
    assert caught.value.path.startswith("x")
    assert len(caught.value.path) <= canonical.LONGEST_PATH


def test_reasonable_depth_is_no_problem() -> None:
    assert digest_of(nested(DEEPEST)) != digest_of(nested(DEEPEST - 1))


def test_a_short_stack_gives_the_same_clear_error() -> None:
    def with_frames(count: int) -> str:
        return digest_of(nested(DEEPEST), "x") if count == 0 else with_frames(count - 1)

    used = len(list(iterate_frames()))
    with pytest.raises(Unhashable, match="left of the stack"):
        with_frames(sys.getrecursionlimit() - used - 100)


def iterate_frames() -> Iterator[types.FrameType]:
    frame: types.FrameType | None = sys._getframe()
    while frame is not None:
        yield frame
        frame = frame.f_back


def test_widely_shared_parts_are_read_once() -> None:
    value: Any = [1]
    for _ in range(90):
        value = [value, value]
    assert digest_of(value) == digest_of(value)  # 2**90 paths


# --- numpy ---


def test_memory_layout_of_arrays_does_not_matter() -> None:
    a = numpy.arange(24).reshape(2, 3, 4)
    same = [numpy.asfortranarray(a), a[:, :, ::-1][:, :, ::-1], a.copy(), a.T.copy().T, numpy.array(a.tolist())]
    same.append(a.astype(">i8"))
    assert {digest_of(each) for each in same} == {digest_of(a)}
    readonly = a.copy()
    readonly.flags.writeable = False
    assert digest_of(readonly) == digest_of(a)


ARRAYS: list[Any] = [
    numpy.array([1, 2], dtype="i8"),
    numpy.array([1, 2], dtype="i4"),
    numpy.array([1, 2], dtype="u8"),
    numpy.array([[1, 2]]),
    numpy.array([[1], [2]]),
    numpy.array([2, 1]),
    numpy.array([1.0, 2.0]),
    numpy.array([0.0, -0.0]),
    numpy.array([0.0, 0.0]),
    numpy.array([True, False]),
    numpy.array(["a", "b"]),
    numpy.array([b"a", b"b"]),
    numpy.array(["a", "b"], dtype=object),
    numpy.array(["a", None], dtype=object),
    numpy.array([[1], (1,), {1}, None], dtype=object),
    numpy.array([], dtype="f8"),
    numpy.array([], dtype="f4"),
    numpy.zeros((0, 2)),
    numpy.zeros((2, 0)),
    numpy.array(1),
    numpy.int64(1),
    numpy.int32(1),
    numpy.float64(1),
    numpy.float32(1),
    numpy.bool_(True),
    numpy.str_("a"),
    numpy.array(["2020", "2021"], dtype="M8[D]"),
    numpy.array(["2020", "2021"], dtype="M8[s]"),
    numpy.array([1, 2], dtype="m8[s]"),
    numpy.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
    numpy.array([(1, 2.0)], dtype=[("a", "i4"), ("c", "f8")]),
    numpy.array([(1, 2.0)], dtype=numpy.dtype([("a", "i4"), ("b", "f8")], align=True)),
    numpy.array([(1, "x")], dtype=[("a", "i4"), ("b", object)]),
    numpy.array([1.0], dtype="g"),
    numpy.array([b"12345678"], dtype="V8"),
    numpy.ma.array([1, 2], mask=[False, True]),
    numpy.ma.array([1, 2], mask=[True, False]),
    numpy.dtype("i4"),
    numpy.dtype("i8"),
    numpy.int64,
    numpy.add,
    numpy.multiply,
    numpy.mean,
    numpy.sum,
    1,
    [1, 2],
    (1, 2),
]


def test_none_of_these_arrays_shares_a_digest_with_another() -> None:
    digests = [digest_of(each) for each in ARRAYS]
    assert len(set(digests)) == len(ARRAYS)
    assert [digest_of(pickle.loads(pickle.dumps(each))) for each in ARRAYS] == digests


def test_padding_between_fields_does_not_matter() -> None:
    dtype = numpy.dtype([("a", "u1"), ("b", "i8")], align=True)
    one, other = numpy.zeros(3, dtype), numpy.frombuffer(b"\xff" * 48, dtype).copy()
    other["a"] = other["b"] = 0
    assert one.tobytes() != other.tobytes()
    assert digest_of(one) == digest_of(other)


def test_an_unhashable_element_of_an_array_is_named() -> None:
    with pytest.raises(Unhashable) as caught:
        digest_of(numpy.array([1, threading.Lock()], dtype=object), "x")
    assert caught.value.kind == "_thread.lock"
    assert caught.value.path.startswith("x[")


def test_a_mapped_file_counts_by_its_content(tmp_path: Path) -> None:
    for name, content in (("a", b"1234"), ("b", b"1234"), ("c", b"1235")):
        (tmp_path / name).write_bytes(content)
    a, b, c = (digest_of(numpy.memmap(tmp_path / name, "u1", "r")) for name in "abc")
    assert a == b != c


def test_classes_written_in_c_may_hold_more_than_is_seen(own_hashers: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(FORMS, "numpy.generic")
    with pytest.raises(Unhashable, match=r"numpy.float64"):
        digest_of(numpy.float64(1))


def test_fields_behind_a_tuple_count() -> None:
    one, other = ((*range(10), 0, 0, 0, n) for n in (1, 2))
    assert os.stat_result(one) == os.stat_result(other)
    assert digest_of(os.stat_result(one)) != digest_of(os.stat_result(other))


# --- pandas, if it is there ---


def frames() -> list[Any]:
    pandas: Any = pytest.importorskip("pandas")
    base = {"a": [1, 2], "b": ["x", "y"]}
    zoned = pandas.to_datetime(["2020-01-01", "2020-01-02"]).tz_localize("Europe/Berlin")
    return [
        pandas.DataFrame(base),
        pandas.DataFrame({"a": [1, 3], "b": ["x", "y"]}),
        pandas.DataFrame({"b": ["x", "y"], "a": [1, 2]}),
        pandas.DataFrame({"a": [1.0, 2.0], "b": ["x", "y"]}),
        pandas.DataFrame(base, index=[1, 2]),
        pandas.DataFrame(base, index=["p", "q"]),
        pandas.DataFrame([[1, 2], [3, 4]], columns=["a", "a"]),
        pandas.DataFrame([[1, 2], [3, 5]], columns=["a", "a"]),
        pandas.Series([1, 2]),
        pandas.Series([1, 2], name="n"),
        pandas.Series([1, 2], dtype="Int64"),
        pandas.Series([1, None], dtype="Int64"),
        pandas.Series(["x", "y"], dtype="category"),
        pandas.Series(["x", "y"], dtype=pandas.CategoricalDtype(["x", "y", "z"])),
        pandas.Series(["x", None], dtype="string"),
        pandas.Series(zoned),
        pandas.Series(zoned.tz_convert("UTC")),
        pandas.Series(zoned.tz_localize(None)),
        pandas.Index([0, 1]),
        pandas.RangeIndex(2),
        pandas.MultiIndex.from_tuples([(1, "a"), (2, "b")]),
        pandas.MultiIndex.from_tuples([(1, "a"), (2, "c")]),
        pandas.period_range("2020", periods=2, freq="M"),
        pandas.Timestamp("2020-01-01"),
        pandas.Timestamp("2020-01-01", tz="UTC"),
        pandas.Timestamp(1, unit="ns"),
        pandas.Timestamp(2, unit="ns"),
        pandas.Timedelta(1, unit="ns"),
        pandas.Period("2020-01"),
        pandas.Interval(0, 1),
        pandas.NaT,
        pandas.NA,
    ]


def test_none_of_these_frames_shares_a_digest_with_another() -> None:
    digests = [digest_of(each) for each in frames()]
    assert len(set(digests)) == len(digests)
    assert [digest_of(pickle.loads(pickle.dumps(each))) for each in frames()] == digests


# --- Types of others ---


class Client:
    def __init__(self, url: str) -> None:
        self.url = url
        self.lock = threading.Lock()


class SpecialClient(Client):
    pass


class OtherClient(Client):
    pass


@pytest.fixture
def own_hashers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(canonical, "_hashers", {})
    canonical._ways.clear()
    yield
    canonical._ways.clear()


def test_a_registered_type_counts_as_its_hasher_says(own_hashers: None) -> None:
    with pytest.raises(Unhashable):
        digest_of(Client("a"))
    register_hasher(Client, lambda client: client.url)
    assert digest_of(Client("a")) == digest_of(Client("a")) != digest_of(Client("b"))
    assert digest_of(Client("a")) != digest_of("a")
    assert digest_of(SpecialClient("a")) not in (digest_of(Client("a")), digest_of(SpecialClient("b")))
    register_hasher(OtherClient, lambda client: 0)
    assert digest_of(OtherClient("a")) == digest_of(OtherClient("b"))
    assert digest_of(Client("a")) != digest_of(Client("b"))


def test_a_registered_function_goes_before_what_is_known(own_hashers: None) -> None:
    before = digest_of(Point(1, 2))
    register_hasher(Point, lambda point: point.x)
    assert digest_of(Point(1, 2)) == digest_of(Point(1, 3)) != before


def test_a_hasher_that_fails_makes_the_value_unhashable(own_hashers: None) -> None:
    register_hasher(Client, lambda client: client.missing)
    with pytest.raises(Unhashable, match=r"AttributeError.*missing") as caught:
        digest_of([Client("a")], "x")
    assert caught.value.path == "x[0]"
    register_hasher(Client, lambda client: client)
    with pytest.raises(Unhashable, match="contains itself"):
        digest_of(Client("a"))


def test_a_class_can_say_itself_what_counts() -> None:
    class Own:
        def __init__(self, a: int, b: int) -> None:
            self.a, self.b = a, b

        def __penstock_hash__(self) -> Any:
            return self.a

    assert digest_of(Own(1, 2)) == digest_of(Own(1, 3)) != digest_of(Own(2, 2))


@pytest.mark.parametrize("cls", [object, int, str, dict, list, "Client", None])
def test_what_cannot_be_registered(cls: Any) -> None:
    with pytest.raises(TypeError):
        register_hasher(cls, repr)
    with pytest.raises(TypeError):
        register_hasher(Client, "url")  # type: ignore[arg-type]


def test_a_class_that_is_not_needed_any_more_goes() -> None:
    import gc
    import weakref

    @dataclasses.dataclass(slots=True)
    class Local:
        a: int

    digest_of(Local(1))
    gone = weakref.ref(Local)
    del Local
    gc.collect()
    assert gone() is None


# --- Code among the arguments ---


def add(x: int) -> int:
    return x + 1


def add_again(x: int) -> int:
    return x + 1


def adder(n: int) -> Callable[[int], int]:
    return lambda x: x + n


def test_functions_count_by_name_and_code() -> None:
    assert digest_of(add) == digest_of(add)
    assert digest_of(add) != digest_of(add_again)
    assert digest_of(adder(1)) == digest_of(adder(1)) != digest_of(adder(2))
    one, other = lambda x: x + 1, lambda x: x + 2
    assert digest_of(one) != digest_of(other)
    assert digest_of(functools.partial(add, 1)) != digest_of(functools.partial(add, 2))
    assert digest_of(Point(1).__eq__) != digest_of(Point(2).__eq__)


def test_classes_count_by_name_and_code() -> None:
    def local(n: int) -> type:
        class Local:
            limit = n

        return Local

    assert digest_of(local(1)) == digest_of(local(1)) != digest_of(local(2))


# --- Speed, with wide margins: the measured values are in the comments ---


def fastest(call: Callable[[], object], number: int = 2000) -> float:
    import timeit

    return min(timeit.repeat(call, number=number, repeat=7)) / number


@pytest.mark.parametrize("value", [3, "abc", None, 1.5, (1, "a"), [1, 2, 3], {"a": 1, "b": "x"}], ids=repr)
def test_small_values_take_microseconds(value: Any) -> None:
    digest_of(value)
    assert fastest(lambda: digest_of(value)) < 15e-6  # 0.6 to 2.5 µs


def test_large_buffers_are_not_copied() -> None:
    import tracemalloc

    array = numpy.ones(4_000_000)
    digest_of(array)
    tracemalloc.start()
    digest_of(array)
    digest_of(b"x" * 100)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000  # the array has 32 MB


def test_everything_that_is_distinct_is_tested_in_pairs() -> None:
    assert len(DISTINCT) > 100
    assert all(a is not b for a, b in itertools.pairwise(DISTINCT))
