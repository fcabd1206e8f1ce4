from __future__ import annotations

import dataclasses
import datetime
import enum
import functools
import subprocess
import sys
import typing
from collections.abc import Callable
from typing import Annotated, Any, Literal, Optional

import pytest
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from penstock._core.binding import Binder
from penstock._core.parameters import ParameterChecker
from penstock.exceptions import ParameterTypeError


class Model(BaseModel):
    a: int


class Opaque:
    pass


@dataclasses.dataclass
class Point:
    x: int


class Colour(enum.Enum):
    RED = "red"


class Options(TypedDict):
    a: int


class Text(str):
    pass


class Broken:
    """Its schema cannot be built."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        raise RuntimeError("no schema")


def check(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[dict[str, Any], list[str]]:
    binder = Binder(fn)
    return ParameterChecker(fn, binder).validate(binder.bind(args, kwargs))


def annotated(annotation: Any) -> Callable[..., Any]:
    def fn(x: Any) -> None: ...

    fn.__annotations__["x"] = annotation
    return fn


def without_models(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("pydantic was asked")

    monkeypatch.setattr("pydantic.create_model", refuse)


# --- what fits is left alone ---


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (int, 10**6),
        (float, 0.5),
        (str, "a b"),
        (bytes, b"ab"),
        (bool, True),
        (None, None),
        (Any, object()),
        (object, object()),
        (list, [1, "a"]),
        (dict, {"a": []}),
        (Opaque, Opaque()),
        (Model, Model(a=1)),
        (Point, Point(1)),
        (Colour, Colour.RED),
        (datetime.date, datetime.date(2020, 1, 1)),
        (int | None, None),
        (int | None, 10**6),
        (Optional[Opaque], Opaque()),  # noqa: UP045
        (typing.Union[int, str], "a b"),  # noqa: UP007
        ("int", 10**6),
        ("Opaque | None", Opaque()),
    ],
)
def test_a_fitting_value_keeps_its_identity(monkeypatch: pytest.MonkeyPatch, annotation: Any, value: object) -> None:
    without_models(monkeypatch)
    checked, unchecked = check(annotated(annotation), value)
    assert checked["x"] is value
    assert unchecked == []


def test_values_without_annotation_keep_their_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    without_models(monkeypatch)

    def fn(x, *args, **kwargs): ...  # type: ignore[no-untyped-def]

    one, two, three = object(), object(), object()
    checked, _ = check(fn, one, two, z=three)
    assert checked["x"] is one and checked["args"][0] is two and checked["kwargs"]["z"] is three


def test_fitting_values_keep_their_identity_beside_others() -> None:
    def fn(n: int, opaque: Opaque, free): ...  # type: ignore[no-untyped-def]

    opaque, free = Opaque(), [1]
    checked, _ = check(fn, "3", opaque, free)
    assert checked["n"] == 3
    assert checked["opaque"] is opaque
    assert checked["free"] is free


def test_pydantic_is_loaded_only_when_needed() -> None:
    code = """
import sys
from penstock._core.binding import Binder
from penstock._core.parameters import ParameterChecker
def fn(a: int, b: str | None = None, *c: float): ...
binder = Binder(fn)
checker = ParameterChecker(fn, binder)
checker.validate(binder.bind((1, "x", 0.5), {}))
assert "pydantic" not in sys.modules
checker.validate(binder.bind(("1",), {}))
assert "pydantic" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


# --- what does not fit is coerced ---


@pytest.mark.parametrize(
    ("annotation", "value", "expected"),
    [
        (int, "3", 3),
        (int, True, 1),
        (int, 3.0, 3),
        (float, 3, 3.0),
        (str, Text("x"), "x"),
        (list[int], ("1", 2), [1, 2]),
        ("list[int]", (1,), [1]),
        (dict[str, float], {"a": "1"}, {"a": 1.0}),
        (Model, {"a": "1"}, Model(a=1)),
        ("Model", {"a": 1}, Model(a=1)),
        (list[Model], [{"a": 1}], [Model(a=1)]),
        (Point, {"x": 1}, Point(1)),
        (Options, {"a": "1"}, {"a": 1}),
        (Colour, "red", Colour.RED),
        (datetime.date, "2020-01-02", datetime.date(2020, 1, 2)),
        (int | None, "3", 3),
        (Literal["a"], "a", "a"),
        (Annotated[int, Field(gt=0)], "1", 1),
        (typing.NewType("UserId", int), "1", 1),
    ],
)
def test_other_values_are_coerced(annotation: Any, value: Any, expected: Any) -> None:
    checked, unchecked = check(annotated(annotation), value)
    assert checked == {"x": expected}
    assert type(checked["x"]) is type(expected)
    assert unchecked == []


def test_variadic_and_positional_only_parameters_are_coerced() -> None:
    def fn(first: int, /, *rest: int, named: int, **more: float) -> None: ...

    checked, _ = check(fn, "1", "2", 3, named="4", z="5")
    assert checked == {"first": 1, "rest": (2, 3), "named": 4, "more": {"z": 5.0}}
    assert type(checked["rest"]) is tuple


def test_unpacked_keywords_are_checked_as_a_whole() -> None:
    def fn(**options: typing.Unpack[Options]) -> None: ...

    assert check(fn, a="1")[0] == {"options": {"a": 1}}
    with pytest.raises(ParameterTypeError, match=r"\n - options\.a: Field required$"):
        check(fn, b=1)


def test_the_callers_parameters_are_not_changed() -> None:
    def fn(x: int) -> None: ...

    binder = Binder(fn)
    parameters = {"x": "3"}
    ParameterChecker(fn, binder).validate(parameters)
    assert parameters == {"x": "3"}


def test_parameter_names_may_be_anything() -> None:
    def fn(schema: int, model_config: int, _x: int, value: int, __y: int) -> None: ...

    assert check(fn, "1", "2", "3", "4", "5")[0] == {
        "schema": 1,
        "model_config": 2,
        "_x": 3,
        "value": 4,
        "__y": 5,
    }


@pytest.mark.parametrize("wrap", [functools.partial, functools.wraps, staticmethod])
def test_annotations_are_resolved_where_the_function_was_defined(wrap: Any) -> None:
    def fn(x: Model) -> None: ...

    if wrap is functools.wraps:

        @functools.wraps(fn)
        def wrapped(*args: Any) -> None: ...
    else:
        wrapped = wrap(fn)
    assert check(wrapped, {"a": 1}) == ({"x": Model(a=1)}, [])


def test_callable_objects_and_classes_are_checked() -> None:
    class Job:
        def __init__(self, x: Model) -> None: ...

        def __call__(self, y: Model) -> None: ...

    assert check(Job, {"a": 1}) == ({"x": Model(a=1)}, [])
    assert check(Job(Model(a=1)), {"a": 2}) == ({"y": Model(a=2)}, [])


def test_callables_without_signature_take_anything() -> None:
    assert check(max, 1, 2) == ({"args": (1, 2), "kwargs": {}}, [])


# --- defaults ---


def test_a_default_of_none_is_accepted_for_any_annotation(monkeypatch: pytest.MonkeyPatch) -> None:
    without_models(monkeypatch)

    def fn(x: int = None, y: Nowhere = None) -> None: ...  # type: ignore[name-defined,assignment]  # noqa: F821, RUF013

    assert check(fn) == ({"x": None, "y": None}, [])
    assert check(fn, None) == ({"x": None, "y": None}, [])


def test_none_needs_that_default() -> None:
    with pytest.raises(ParameterTypeError, match=r" - x: Input should be a valid integer$"):
        check(annotated(int), None)


def test_other_defaults_are_validated() -> None:
    def fn(x: int = "3") -> None: ...  # type: ignore[assignment]
    def bad(x: int = "q") -> None: ...  # type: ignore[assignment]

    assert check(fn) == ({"x": 3}, [])
    with pytest.raises(ParameterTypeError, match=" - x: Input should be a valid integer, unable to parse"):
        check(bad)


# --- errors ---


def test_an_error_lists_everything_that_does_not_fit() -> None:
    def fn(x: int, model: Model, rest: list[int], *args: int, opaque: Opaque, **kwargs: float) -> None: ...

    with pytest.raises(ParameterTypeError) as caught:
        check(fn, "q", {"b": 1}, [1, "q"], 1, "z", opaque=3, k="q")
    assert str(caught.value) == (
        "Flow run received invalid parameters:\n"
        " - x: Input should be a valid integer, unable to parse string as an integer\n"
        " - model.a: Field required\n"
        " - rest.1: Input should be a valid integer, unable to parse string as an integer\n"
        " - args.1: Input should be a valid integer, unable to parse string as an integer\n"
        " - opaque: Input should be an instance of Opaque\n"
        " - kwargs.k: Input should be a valid number, unable to parse string as a number"
    )
    assert isinstance(caught.value, TypeError)


def test_an_error_does_not_show_the_value() -> None:
    with pytest.raises(ParameterTypeError) as caught:
        check(annotated(int), "my password")
    assert "password" not in str(caught.value)
    assert caught.value.__cause__ is caught.value.__context__ is None


# --- annotations that are no use ---


def test_only_the_parameter_with_the_bad_annotation_goes_unchecked() -> None:
    class Local:
        pass

    def fn(x: int, bad: Local, broken: Broken, text: "no type", free: int = 1) -> None: ...  # type: ignore[valid-type]  # noqa: F722

    checked, unchecked = check(fn, "1", "anything", "goes", "here", "2")
    assert checked == {"x": 1, "bad": "anything", "broken": "goes", "text": "here", "free": 2}
    assert unchecked == ["bad", "broken", "text"]


def test_a_bad_annotation_is_no_obstacle_to_a_schema() -> None:
    class Local:
        pass

    def fn(bad: Local) -> None: ...

    checker = ParameterChecker(fn, Binder(fn))
    assert checker.schema()["properties"] == {"bad": {"title": "bad"}}


# --- the schema ---


def test_the_schema_describes_every_parameter() -> None:
    def fn(
        x: int,
        model: Model,
        /,
        free,
        opaque: Opaque,
        *args: int,
        opt: int = None,  # noqa: RUF013
        schema: str = "s",
        **kw: float,
    ): ...  # type: ignore

    schema = ParameterChecker(fn, Binder(fn)).schema()
    assert schema["title"] == "Parameters"
    assert schema["type"] == "object"
    assert schema["required"] == ["x", "model", "free", "opaque"]
    assert list(schema["$defs"]) == ["Model"]
    assert schema["properties"] == {
        "x": {"title": "x", "type": "integer"},
        "model": {"title": "model", "$ref": "#/$defs/Model"},
        "free": {"title": "free"},
        "opaque": {"title": "opaque"},
        "args": {"title": "args", "type": "array", "items": {"type": "integer"}, "default": []},
        "opt": {"title": "opt", "anyOf": [{"type": "integer"}, {"type": "null"}], "default": None},
        "schema": {"title": "schema", "type": "string", "default": "s"},
        "kw": {"title": "kw", "type": "object", "additionalProperties": {"type": "number"}, "default": {}},
    }


def test_defaults_that_json_cannot_express_are_left_out_of_the_schema() -> None:
    def fn(opaque: Opaque = Opaque(), n: Any = 1j) -> None: ...  # noqa: B008

    schema = ParameterChecker(fn, Binder(fn)).schema()
    assert schema["properties"]["opaque"] == {"title": "opaque"}
    assert "required" not in schema


def test_no_parameters_make_an_empty_schema() -> None:
    assert ParameterChecker(lambda: None, Binder(lambda: None)).schema() == {
        "title": "Parameters",
        "type": "object",
        "properties": {},
    }
