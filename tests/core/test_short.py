"""The short form of values: what a run's record shows of its parameters."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import json
import pathlib
import sys
import types
import uuid
import zoneinfo
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock._core.binding import short, short_parameters


class Colour(enum.Enum):
    RED = 1


class Level(enum.IntEnum):
    HIGH = 3


class Permission(enum.Flag):
    READ = 1
    WRITE = 2


@dataclasses.dataclass
class Config:
    rate: float
    api_key: str = "k"
    hidden: int = dataclasses.field(default=1, repr=False)
    kind: dataclasses.InitVar[int] = 0


@dataclasses.dataclass(slots=True)
class Slotted:
    a: int
    b: Any = None


class Meddler(type):
    """A metaclass whose every answer is an accident."""

    def __hash__(cls) -> int:
        raise AssertionError("hashed")

    def __eq__(cls, other: object) -> bool:
        raise AssertionError("compared")

    def __repr__(cls) -> str:
        raise AssertionError("shown")

    def __instancecheck__(cls, instance: object) -> bool:
        raise AssertionError("checked")


class Hostile(metaclass=Meddler):
    def __repr__(self) -> str:
        raise AssertionError("repr")

    __str__ = __repr__

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"asked for {name}")

    def __getattribute__(self, name: str) -> Any:
        raise AssertionError(f"asked for {name}")

    @property
    def __class__(self) -> Any:
        raise AssertionError("asked for its class")

    def __len__(self) -> int:
        raise AssertionError("measured")

    __bool__ = __iter__ = __hash__ = __len__  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        raise AssertionError("compared")


class HostileText(str):
    def __repr__(self) -> str:
        raise AssertionError("repr")


class HostileZone(datetime.tzinfo):
    def __repr__(self) -> str:
        raise AssertionError("repr")


HERE = __name__
MOMENT = datetime.datetime(2020, 1, 2, 3, 4)


@pytest.mark.parametrize(
    "value",
    [
        *(0, -1, 10**17, -(10**18), 10**30, True, False, None, ..., 1.5, float("inf"), 1 + 2j),
        *("", "a'b", "é\ud800\n", b"ab", bytearray(b"ab")),
        *([], [1, "a"], (), (1,), (1, 2), set(), {1}, frozenset(), frozenset({1})),
        *({}, {"a": 1, 2: [None]}, range(3), range(1, 9, 2)),
        *(MOMENT, MOMENT.replace(tzinfo=datetime.UTC), MOMENT.date(), MOMENT.time()),
        *(MOMENT.replace(tzinfo=zoneinfo.ZoneInfo("UTC")), datetime.timedelta(1), datetime.UTC),
        *(decimal.Decimal("1.50"), fractions.Fraction(1, 3), uuid.UUID(int=5)),
        *(pathlib.PurePosixPath("/a"), pathlib.Path("b"), Slotted(1, [2])),
    ],
    ids=repr,
)
def test_known_values_look_as_their_repr(value: object) -> None:
    assert short(value) == repr(value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Colour.RED, "Colour.RED"),
        (Level.HIGH, "Level.HIGH"),
        (Permission.READ | Permission.WRITE, "Permission.READ|WRITE"),
        (Config(0.1), "Config(rate=0.1, api_key=********)"),
        (Config, f"{HERE}.Config"),
        (int, "builtins.int"),
        (Colour, f"{HERE}.Colour"),
        (len, "builtins.len"),
        ([].append, "list.append"),
        (short, "penstock._core.binding.short"),
        (decimal.Decimal("1").sqrt, "Decimal.sqrt"),
        (pathlib.PurePath().joinpath, "pathlib.PurePath.joinpath"),
        (functools.partial(len), "<functools.partial>"),
        (ValueError("secret"), "<builtins.ValueError>"),
        (object(), "<builtins.object>"),
        (collections.OrderedDict(a=1), "<collections.OrderedDict>"),
        (10**5000, "<int of 16610 bits>"),
        (fractions.Fraction(10**5000, 3), "Fraction(<int of 16610 bits>, 3)"),
        (HostileText("x"), f"<{HERE}.HostileText>"),
        (object.__new__(Slotted), f"<{HERE}.Slotted>"),
        (
            MOMENT.replace(tzinfo=HostileZone()),
            f"datetime.datetime(2020, 1, 2, 3, 4, tzinfo=<{HERE}.HostileZone>)",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_values_are_named(value: object, expected: str) -> None:
    assert short(value) == expected


def test_no_code_of_an_unknown_class_runs() -> None:
    # Not parametrized: pytest itself would look at the values.
    assert short(Hostile) == f"{HERE}.Hostile"
    assert short(Hostile()) == f"<{HERE}.Hostile>"
    assert short([Hostile(), {1: Hostile()}]) == f"[<{HERE}.Hostile>, {{1: <{HERE}.Hostile>}}]"
    assert short(Slotted(1, Hostile())) == f"Slotted(a=1, b=<{HERE}.Hostile>)"


def test_a_class_that_borrows_a_standard_name_is_not_trusted() -> None:
    class UUID:
        def __repr__(self) -> str:
            raise AssertionError("repr")

    UUID.__module__, UUID.__qualname__ = "uuid", "UUID"
    assert short(UUID()) == "<uuid.UUID>"


def test_properties_of_a_dataclass_are_not_run() -> None:
    @dataclasses.dataclass
    class Lazy:
        value: int

    def explode(self: object) -> int:
        raise AssertionError("run")

    lazy = Lazy(4)
    Lazy.value = property(explode)  # type: ignore[assignment]
    assert short(lazy).endswith("Lazy(value=4)")


def test_length_is_bounded() -> None:
    assert short("a" * 198) == "'" + "a" * 198 + "'"
    assert short("a" * 199) == "'" + "a" * 198 + "…"
    assert short("\ud800" * 150) == ("'" + "\\ud800" * 150)[:199] + "…"
    assert short(list(range(1000))) == repr(list(range(1000)))[:199] + "…"
    assert len(short({"k" * 500: "v" * 500})) == 200
    assert len(short(b"\x00" * 10**6)) == 200


def test_depth_is_bounded() -> None:
    cycle: list[Any] = []
    cycle.append(cycle)
    loop: dict[str, Any] = {}
    loop["loop"] = loop
    assert short(cycle) == "[[[[[…]]]]]"
    assert short(loop) == "{'loop': {'loop': {'loop': {'loop': {…}}}}}"
    assert len(short([cycle] * 10**5)) == 200


def test_secret_names_are_masked_at_any_depth() -> None:
    shown = short({"password": "p", "nested": {"db_secret": "s", "n": 1}, "kw": [Config(1.0)]})
    assert shown == (
        "{'password': ********, 'nested': {'db_secret': ********, 'n': 1}, 'kw': [Config(rate=1.0, api_key=********)]}"
    )


@pytest.mark.parametrize(
    "name",
    [
        *("password", "db_passwd", "PASSWORD", "passphrase", "secret", "client_secret", "secretKey", "token"),
        *("access_token", "accessToken", "token_2", "api_key", "apikey", "apiKey", "private_key"),
        *("authorization", "credential", "credentials", "aws_access_key_id"),
    ],
)
def test_secret_looking_parameters_are_masked(name: str) -> None:
    assert json.loads(short_parameters({name: "v"})) == {name: "********"}


@pytest.mark.parametrize("name", ["x", "key", "tokens", "max_tokens", "tokenizer", "author", "passenger"])
def test_ordinary_parameters_are_shown(name: str) -> None:
    assert json.loads(short_parameters({name: "v"})) == {name: "'v'"}


def test_parameters_are_one_compact_object() -> None:
    assert short_parameters({}) == "{}"
    assert short_parameters({"x": 3, "é": 'a"\n'}) == '{"x":"3","\\u00e9":"\'a\\"\\\\n\'"}'


class Shaped:
    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)

    def __repr__(self) -> str:
        raise AssertionError("repr")


def stand_in(module: str, name: str) -> type[Shaped]:
    return type(name, (Shaped,), {"__module__": module})


@pytest.mark.parametrize(
    ("module", "name", "attributes", "expected"),
    [
        (
            "numpy",
            "ndarray",
            {"shape": (3, 4), "dtype": "float64"},
            "<numpy.ndarray shape=(3, 4) dtype=float64>",
        ),
        ("pandas.core.frame", "DataFrame", {"shape": (2, 1)}, "<pandas.core.frame.DataFrame shape=(2, 1)>"),
        ("polars.series.series", "Series", {"shape": (2,)}, "<polars.series.series.Series shape=(2,)>"),
        ("torch", "Tensor", {}, "<torch.Tensor>"),
        ("mine", "ndarray", {"shape": (3, 4)}, "<mine.ndarray>"),
        ("pandas.core.groupby", "GroupBy", {"shape": (3, 4)}, "<pandas.core.groupby.GroupBy>"),
    ],
)
def test_arrays_show_their_shape(module: str, name: str, attributes: Any, expected: str) -> None:
    assert short(stand_in(module, name)(**attributes)) == expected


def test_an_array_that_fails_is_shown_by_its_class() -> None:
    def explode(self: object) -> Any:
        raise OSError("device lost")

    kind = type("Tensor", (), {"__module__": "torch", "shape": property(explode)})
    assert short(kind()) == "<torch.Tensor>"
    assert short([1, kind()]) == "<builtins.list>"


def test_numpy_scalars_look_as_pythons(monkeypatch: pytest.MonkeyPatch) -> None:
    class Generic:
        def __init__(self, plain: Any) -> None:
            self.plain = plain

        def item(self) -> Any:
            return self if self.plain is None else self.plain

    monkeypatch.setitem(sys.modules, "numpy", types.SimpleNamespace(generic=Generic))
    float64 = type("float64", (Generic,), {"__module__": "numpy"})
    assert short(float64(0.5)) == "0.5"
    assert short(float64(None)) == "<numpy.float64>"


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.complex_numbers(),
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner)
        | st.dictionaries(st.text() | st.integers(), inner)
        | st.builds(Slotted, inner)
    ),
)


@given(anything)
def test_any_value_is_short_and_json(value: object) -> None:
    shown = short(value)
    assert len(shown) <= 200
    assert json.loads(short_parameters({"x": value})) == {"x": shown}
