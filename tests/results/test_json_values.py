"""JSON: each value comes back with its exact type, and what is planted brings nothing to life."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
import sys
import uuid
from collections import OrderedDict, deque
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import json_classes as classes
import numpy
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock._core.classes import find
from penstock.exceptions import ConfigurationError, SerializationError, TaskRunTimeoutError, WorkerLost
from penstock.serializers import JSONSerializer

serializer = JSONSerializer()


def there_and_back(value: Any) -> Any:
    return serializer.loads(serializer.dumps(value))


def same(a: Any, b: Any) -> bool:
    """Equal, of the same type, at every depth; the signs of zeros and nan included."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return a.hex() == b.hex()
    if isinstance(a, complex):
        return same(a.real, b.real) and same(a.imag, b.imag)
    if isinstance(a, Decimal):
        return str(a) == str(b)
    if isinstance(a, datetime | time):
        return (a.replace(tzinfo=None), a.fold, a.tzinfo) == (b.replace(tzinfo=None), b.fold, b.tzinfo)
    if isinstance(a, dict):
        return len(a) == len(b) and all(map(same, a.items(), b.items()))
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, set | frozenset):
        return a == b and sorted(map(typed, a)) == sorted(map(typed, b))
    if dataclasses.is_dataclass(a):
        return all(same(getattr(a, field.name), getattr(b, field.name)) for field in dataclasses.fields(a))
    if isinstance(a, pydantic.BaseModel):
        return same(vars(a), vars(b)) and a.model_fields_set == b.model_fields_set and a.model_extra == b.model_extra
    return bool(a == b)


def typed(x: Any) -> str:
    """A text for each value and type; the members of sets in one order."""
    if dataclasses.is_dataclass(x):
        parts = [typed(getattr(x, field.name)) for field in dataclasses.fields(x)]
    elif isinstance(x, tuple | frozenset):
        parts = [typed(part) for part in x]
    else:
        parts = [repr(x)]
    return f"{type(x).__name__}({sorted(parts) if isinstance(x, frozenset) else parts})"


any_text = st.text(st.characters(exclude_categories=[])) | st.text("$\ud800\udc00ax")
zones = st.none() | st.just(UTC) | st.builds(timezone, st.timedeltas(timedelta(hours=-23), timedelta(hours=23)))
zones |= st.builds(timezone, st.just(timedelta(hours=1)), st.just("CET")) | st.just(ZoneInfo("Europe/Berlin"))
folds = st.sampled_from([0, 1])
hashable = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.builds(lambda factor, power: factor * 10**power, st.integers(-5, 5), st.integers(580, 700))
    | st.floats(allow_nan=False)
    | any_text
    | st.binary()
    | st.complex_numbers(allow_nan=False)
    | st.dates()
    | st.times()
    | st.timedeltas()
    | st.builds(lambda moment, zone, fold: moment.replace(tzinfo=zone, fold=fold), st.datetimes(), zones, folds)
    | st.builds(lambda moment, zone, fold: moment.replace(tzinfo=zone, fold=fold), st.times(), zones, folds)
    | st.uuids()
    | st.decimals(allow_nan=False)
    | st.builds(Path, any_text.filter(lambda text: "\0" not in text))
    | st.builds(pathlib.PureWindowsPath, st.text("ab\\/:.")).filter(lambda path: type(path)(str(path)) == path)
    | st.builds(pathlib.PurePosixPath, st.text("ab/."))
    | st.sampled_from([*classes.Color, *classes.Level, *classes.Word, *classes.Access])
    | st.sets(st.sampled_from(classes.Access)).map(lambda flags: sum_of(flags)),
    lambda inner: (
        st.tuples(inner)
        | st.tuples(inner, inner)
        | st.frozensets(inner, max_size=3)
        | st.builds(classes.Frozen, inner, inner)
        | st.builds(classes.Named, inner, inner)
        | st.builds(classes.Pair, inner, inner)
    ),
    max_leaves=5,
)
anything = st.recursive(
    hashable | st.floats() | st.complex_numbers() | st.decimals(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(any_text, inner, max_size=4)
        | st.dictionaries(hashable, inner, max_size=4)
        | st.sets(hashable, max_size=4)
        | st.builds(classes.Point, inner, inner)
        | st.builds(classes.Strict, st.just(3), st.just(2))
        | st.builds(classes.Named, inner, inner)
        | st.builds(classes.Outer.Inner, inner)
        | st.builds(classes.Model, x=inner)
    ),
    max_leaves=10,
)


def sum_of(flags: set[classes.Access]) -> classes.Access:
    total = classes.Access(0)
    for flag in flags:
        total |= flag
    return total


@settings(max_examples=400)
@given(anything)
def test_values_come_back(value: Any) -> None:
    assert same(there_and_back(value), value)


@given(st.recursive(st.none() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)))
def test_what_json_has_is_written_as_it_is(value: Any) -> None:
    text = serializer.dumps(value)
    if b"$" not in text:
        assert json.loads(text) == value


@pytest.mark.parametrize(
    "value",
    [
        -0.0,
        math.nan,
        -math.inf,
        Decimal("sNaN12"),
        Decimal("-0E-7"),
        True,
        10**10_000,
        "\ud800\udc00",
        {"\ud800": 1},
        {"$tuple": [1]},
        {"$": 1, "x": 2},
        {1: "a", "1": "b", (1,): "c", None: "d", 1.5: "e"},
        {frozenset({1, (2,)}): set()},
        datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Berlin")),
        datetime.max,
        timezone(timedelta(seconds=1, microseconds=1), "odd"),
        classes.Access(0),
        classes.Access.READ | classes.Access.RUN,
        classes.Box[int](3),
        classes.Crate(3, "x"),
        classes.Open(x=1, more=[(2,)]),  # type: ignore[call-arg]
        classes.Root([1, 2]),
        uuid.UUID(int=0),
        pathlib.PurePosixPath("/a/\udcff"),
    ],
    ids=range(24),
)
def test_odd_values(value: Any) -> None:
    if type(value) is classes.Box:
        assert there_and_back(value) == value  # the parameter of the type is forgotten
    else:
        assert same(there_and_back(value), value)


def test_dicts_keep_their_order() -> None:
    assert list(there_and_back({3: 0, 1: 0, 2: 0})) == [3, 1, 2]
    assert list(there_and_back({"c": 0, "a": 0})) == ["c", "a"]


def test_nothing_of_a_class_is_called_to_rebuild_it() -> None:
    value = classes.Strict(3, 2)
    before = classes.Strict.made
    twin = there_and_back(value)
    assert (twin.x, twin.scaled, classes.Strict.made) == (3, 6, before)
    broken = classes.Checked.model_construct(x=-1)  # which validation would refuse
    assert there_and_back(broken) == broken


def test_models_keep_what_was_set_and_what_is_hidden() -> None:
    model = classes.Model(x=1)
    model._hidden = (1, 2)
    twin = there_and_back(model)
    assert twin == model and twin.model_fields_set == {"x"} and twin._hidden == (1, 2)
    twin.y = 3
    assert twin.model_dump() == {"x": 1, "y": 3}


# --- exceptions ---


def raised(error: BaseException, cause: BaseException | None = None) -> Any:
    try:
        raise error from cause
    except BaseException as caught:
        return caught


@pytest.mark.parametrize(
    "error",
    [
        ValueError("why", 7),
        KeyError("k"),
        FileNotFoundError(2, "none", "file"),
        OSError(5, "broken", "a", None, "b"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        SyntaxError("bad", ("file", 1, 2, "text", 1, 3)),
        StopIteration(5),
        SystemExit(3),
        KeyboardInterrupt(),
        ExceptionGroup("several", [ValueError(1), ExceptionGroup("inner", [KeyError(2)])]),
        classes.Failure(7, detail=(1, 2)),
        classes.DiskFailure("sda"),
        classes.DataFailure(7),
        classes.Both(7, detail="x"),
        classes.Odd(5, "broken", "file"),
        ConfigurationError("why"),
        WorkerLost("died", exitcode=-9, worker="w"),
        TaskRunTimeoutError("too long"),
    ],
    ids=repr,
)
def test_exceptions(error: BaseException) -> None:
    error.add_note("seen in shard 3")
    twin = there_and_back(raised(error, cause=classes.Failure(1, detail=None)))
    assert type(twin) is type(error)
    assert (str(twin), repr(twin.args)) == (str(error), repr(error.args))
    assert same(without_exceptions(vars(twin)), without_exceptions(vars(error)))
    for name in ("errno", "strerror", "filename", "filename2", "object", "reason", "lineno", "text", "value", "code"):
        assert getattr(twin, name, None) == getattr(error, name, None)
    assert twin.__notes__ == ["seen in shard 3"]
    assert type(twin.__cause__) is classes.Failure and twin.__suppress_context__
    assert twin.__traceback__ is None


def without_exceptions(held: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in held.items() if not isinstance(value, BaseException)}


def test_import_errors() -> None:
    twin = there_and_back(ImportError("none", name="module", path="here"))
    assert (twin.msg, twin.name, twin.path, twin.__suppress_context__) == ("none", "module", "here", False)


# --- what cannot be written ---


class Local:
    pass


def circular() -> list[Any]:
    inner: list[Any] = []
    inner.append({"x": inner})
    return inner


def deep() -> list[Any]:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    return value


def local_dataclass() -> Any:
    from dataclasses import dataclass

    @dataclass
    class Here:
        x: int

    return Here(1)


def extended() -> Any:
    value = classes.Extended(1)
    value.more = 1  # type: ignore[attr-defined]
    return value


class Thief(classes.Point):
    """Says that it is somebody else."""


Thief.__qualname__ = "Point"
Thief.__module__ = classes.__name__


@pytest.mark.parametrize(
    ("value", "path", "what"),
    [
        (object(), "result", "object"),
        ({"a": [1, (2, Local())]}, "result['a'][1][1]", "Local"),
        ({1: {"x": Local()}}, "result[1]['x']", "Local"),
        ({(1,): Local()}, "result.items()[0][1]", "Local"),
        ({Local: 1}, "result.items()[0][0]", "type"),
        ({Local}, "result{…}", "type"),
        ([classes.Point({"k": Local()})], "result[0].x['k']", "Local"),
        ([classes.Model(x=Local())], "result[0].x", "Local"),
        ([classes.Named(1, Local())], "result[0].y", "Local"),
        (ValueError(1, Local()), "result.args[1]", "Local"),
        (classes.Failure(1, detail=[Local()]), "result.detail[0]", "Local"),
        (raised(ValueError(), cause=classes.Failure(1, detail=Local())), "result.__cause__.detail", "Local"),
        ([numpy.float64(1)], "result[0]", "numpy.float64"),
        ([numpy.arange(3)], "result[0]", "numpy.ndarray"),
        ([OrderedDict()], "result[0]", "OrderedDict"),
        ([deque()], "result[0]", "deque"),
        ([Fraction(1, 2)], "result[0]", "Fraction"),
        (circular(), "result[0]['x']", "contains itself"),
        (local_dataclass(), "result", "cannot be found"),
        (Thief(1), "result", "cannot be found"),
        (classes.Swelling(), "result", "built-in"),
        (extended(), "result", "besides its fields"),
        (len, "result", "function"),
        (classes.Point, "result", "type"),
    ],
    ids=range(24),
)
def test_what_cannot_be_written_is_named(value: Any, path: str, what: str) -> None:
    with pytest.raises(SerializationError) as caught:
        serializer.dumps(value)
    assert caught.value.path == path
    assert str(caught.value).startswith(path) and what in str(caught.value)


def test_too_deep() -> None:
    with pytest.raises(SerializationError, match="deep"):
        serializer.dumps(deep())
    with pytest.raises(SerializationError):
        serializer.loads(b"[" * 100_000 + b"]" * 100_000)


# --- what is planted ---

HERE = "json_classes"


@pytest.mark.parametrize(
    "tree",
    [
        {"$eval": "1"},
        {"$tuple": [1], "x": 2},
        {"$tuple": 5},
        {"$dict": [[[], 1]]},
        {"$set": [[1]]},
        {"$int": 5},
        {"$str": [-1]},
        {"$bytes": 7},
        {"$UUID": "x"},
        {"$datetime": ["2024-01-01", 0]},
        {"$datetime": ["2024-01-01", 0, "UTC"]},
        {"$ZoneInfo": "../../../etc/passwd"},
        {"$WindowsPath": "x"},
        {"$dataclass": [f"{HERE}:Plain", {}]},
        {"$dataclass": [f"{HERE}:make_anything", {}]},
        {"$dataclass": [f"{HERE}:Color", {}]},
        {"$dataclass": [f"{HERE}:Failure", {}]},
        {"$dataclass": [f"{HERE}:Frozen", {"unknown": 1}]},
        {"$dataclass": [f"{HERE}:Swelling", {}]},
        {"$dataclass": [f"{HERE}:Outer", {}]},
        {"$dataclass": [f"{HERE}:Point.__init__", {}]},
        {"$dataclass": ["builtins:dict", {}]},
        {"$dataclass": ["os:system", {}]},
        {"$dataclass": ["subprocess:Popen", {}]},
        {"$dataclass": [7, {}]},
        {"$model": [f"{HERE}:Point", {}, {}]},
        {"$model": ["pydantic:NoSuch", {}, {}]},
        {"$enum": [f"{HERE}:Color", "GREEN"]},
        {"$enum": [f"{HERE}:Color", 1]},
        {"$enum": [f"{HERE}:Point", "x"]},
        {"$enum": [f"{HERE}:Access", 64]},
        {"$exception": [f"{HERE}:Plain", [], {}, None, False]},
        {"$exception": ["builtins:ValueError", [], {}, "cause", False]},
        {"$exception": ["builtins:UnicodeDecodeError", [1], {}, None, False]},
        {"$exception": ["builtins:print", ["x"], {}, None, False]},
        {"$namedtuple": [f"{HERE}:Named", [1]]},
        {"$namedtuple": ["builtins:tuple", [1]]},
    ],
    ids=json.dumps,
)
def test_planted_trees(tree: Any) -> None:
    before = classes.Plain.made
    for blob in (tree, [1, {"x": tree}]):
        with pytest.raises(SerializationError):
            serializer.loads(json.dumps(blob).encode())
    assert classes.Plain.made == before


@pytest.mark.parametrize("text", [b"", b"{", b"NaN", b"[Infinity]", b"\xff", b"9" * 5000, b"1 2", b"\xef\xbb\xbf1"])
def test_what_is_no_json(text: bytes) -> None:
    with pytest.raises(SerializationError):
        serializer.loads(text)


def test_state_is_put_past_properties_and_setters() -> None:
    tree = {"$dataclass": [f"{HERE}:Point", {"x": 1, "__class__": 2, "__init__": 3}]}
    value = serializer.loads(json.dumps(tree).encode())
    assert type(value) is classes.Point and vars(value) == {"x": 1, "__class__": 2, "__init__": 3}


# fmt: off
TAGS = [
    "$tuple", "$set", "$dict", "$str", "$int", "$float", "$bytes", "$enum", "$exception", "$model", "$dataclass",
    "$namedtuple", "$datetime", "$timezone", "$timedelta", "$Decimal", "$UUID", "$PosixPath", "$complex", "x",
]
# fmt: on
planted = st.recursive(
    st.none() | st.integers() | st.text("ab:.$") | st.sampled_from([f"{HERE}:Point", "builtins:ValueError"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(TAGS), inner, max_size=2),
)


@given(planted)
def test_any_tree_is_a_value_or_a_serialization_error(tree: Any) -> None:
    try:
        serializer.loads(json.dumps(tree).encode())
    except SerializationError:
        pass


MODULES = {
    "penstock_test_data": "from dataclasses import dataclass\n@dataclass\nclass Data:\n    x: int\n",
    "penstock_test_calls": "from collections import namedtuple\nif True:\n    Made = namedtuple('Made', 'x')\n",
    "penstock_test_face": "from penstock_test_data import Data\nData.__module__ = __name__\n",
    "penstock_test_star": "from penstock_test_data import *\nData.__module__ = __name__\n",
    "penstock_test_bomb": "import pathlib\npathlib.Path({marker!r}).touch()\nclass Data: pass\ndef run(): pass\n",
    "penstock_test_exit": "from dataclasses import dataclass\n@dataclass\nclass Data: pass\nraise SystemExit(3)\n",
    "penstock_test_package/__init__": "",
    "penstock_test_package/inner": "import enum\nclass Outer:\n    class Color(enum.Enum):\n        RED = 1\n",
}


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Modules that are not loaded yet; the file that one of them makes if it is."""
    marker = tmp_path / "executed"
    for name, source in MODULES.items():
        file = tmp_path / "modules" / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source.format(marker=str(marker)) if "{marker" in source else source)
    monkeypatch.syspath_prepend(tmp_path / "modules")
    yield marker
    for name in [name for name in sys.modules if name.startswith("penstock_test_")]:
        del sys.modules[name]


def loaded(tree: Any) -> Any:
    return serializer.loads(json.dumps(tree).encode())


def test_modules_are_imported_for_a_class_of_data(marker: Path) -> None:
    assert loaded({"$dataclass": ["penstock_test_data:Data", {"x": 1}]}).x == 1
    assert loaded({"$namedtuple": ["penstock_test_calls:Made", [1]]}).x == 1
    assert loaded({"$enum": ["penstock_test_package.inner:Outer.Color", "RED"]}).value == 1


@pytest.mark.parametrize("name", ["face", "star"])
def test_classes_may_say_that_they_are_of_a_module_which_gathers_them(marker: Path, name: str) -> None:
    assert loaded({"$dataclass": [f"penstock_test_{name}:Data", {"x": 1}]}).x == 1


@pytest.mark.parametrize("name", ["Data", "run", "pathlib", "missing", "Data.x"])
@pytest.mark.parametrize("kind", ["dataclass", "exception", "enum", "namedtuple", "model"])
def test_modules_are_not_imported_for_anything_else(marker: Path, kind: str, name: str) -> None:
    with pytest.raises(SerializationError):
        loaded({f"${kind}": [f"penstock_test_bomb:{name}", {}]})
    assert not marker.exists() and "penstock_test_bomb" not in sys.modules


def test_the_bomb_goes_off(marker: Path) -> None:
    __import__("penstock_test_bomb")
    assert marker.exists()


def test_a_module_that_ends_the_program_does_not(marker: Path) -> None:
    with pytest.raises(SerializationError, match="SystemExit"):
        loaded({"$dataclass": ["penstock_test_exit:Data", {}]})


@pytest.mark.parametrize(
    "name", ["no_such_module:X", "no_such.module:X", "os.path.x:Y", "a b:X", ":X", "x:", "x", "..os:X"]
)
def test_modules_that_are_none(name: str) -> None:
    with pytest.raises(SerializationError):
        loaded({"$dataclass": [name, {}]})


def test_only_classes_of_data_are_found() -> None:
    assert find(f"{HERE}:Outer.Inner") is classes.Outer.Inner
    for name in (f"{HERE}:Plain", f"{HERE}:Outer", f"{HERE}:make_anything", f"{HERE}:HERE", "builtins:dict"):
        with pytest.raises(LookupError):
            find(name)


def test_dates_are_not_moments() -> None:
    assert type(there_and_back(date(2024, 1, 1))) is date
    assert type(there_and_back(datetime(2024, 1, 1))) is datetime


def test_a_path_is_written_only_if_it_comes_back() -> None:
    path = pathlib.PureWindowsPath("./a::")  # without a drive, but its text has one, in some Pythons
    try:
        assert there_and_back(path) == path
    except SerializationError as error:
        assert "told from another" in str(error)
