"""Parameters of flows: resolved, validated, coerced, and never a reason to fail when they cannot be stored."""

from __future__ import annotations

import asyncio
import datetime
import enum
import logging
import os
import subprocess
import sys
import textwrap
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

import pydantic
import pytest

from penstock import flow, runtime, task
from penstock.exceptions import ParameterBindError, ParameterTypeError, PenstockError
from penstock.states import Completed, Failed, StateType
from penstock.store.sqlite import SQLiteReader


class Model(pydantic.BaseModel):
    n: int
    inner: Optional[Model] = None  # noqa: UP045  # as people write it


class Colour(enum.Enum):
    RED = "red"


class Plain:
    pass


@dataclass
class Point:
    x: int


Positive = Annotated[int, pydantic.Field(gt=0)]


@task
def passed(x: Any) -> Any:
    return x


def value_of(annotation: Any, given: Any, way: str = "direct") -> Any:
    """What the body of a flow gets for a parameter with this annotation."""
    got: list[Any] = []

    def body(p: Any) -> None:
        got.append(p)

    async def abody(p: Any) -> None:
        got.append(p)

    chosen: Any = abody if way == "async" else body
    chosen.__annotations__["p"] = annotation
    f: Any = flow(chosen)

    @flow
    def main() -> None:
        f.submit(given).result() if way == "submitted" else f(given)

    if way == "direct":
        f(given)
    elif way == "async":
        asyncio.run(f(given))
    else:
        main()
    (value,) = got
    return value


WAYS = ["direct", "async", "subflow", "submitted"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("annotation", "given", "expected"),
    [
        (int, "3", 3),
        (int, 3.0, 3),
        (float, 3, 3.0),
        (float, "1.5", 1.5),
        (bool, "true", True),
        (list[int], ("1", 2), [1, 2]),
        (list, (1, 2), [1, 2]),
        (tuple[int, str], [1, "a"], (1, "a")),
        (set[int], [1, 1], {1}),
        (dict[str, int], {"a": "1"}, {"a": 1}),
        (Model, {"n": "1"}, Model(n=1)),
        (Model, {"n": 1, "inner": {"n": 2}}, Model(n=1, inner=Model(n=2))),
        (list[Model], [{"n": 1}, Model(n=2)], [Model(n=1), Model(n=2)]),
        (Optional[Model], None, None),  # noqa: UP045
        (Optional[Model], {"n": 1}, Model(n=1)),  # noqa: UP045
        (int | str, "x", "x"),
        (Colour, "red", Colour.RED),
        (Literal["a", "b"], "a", "a"),
        (datetime.date, "2024-05-06", datetime.date(2024, 5, 6)),
        (Path, "/tmp", Path("/tmp")),
        (Point, {"x": "1"}, Point(1)),
        (Positive, "5", 5),
        (Any, "3", "3"),
    ],
)
def test_values_are_coerced(way: str, annotation: Any, given: Any, expected: Any) -> None:
    value = value_of(annotation, given, way)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("annotation", "given"),
    [
        (int, "x"),
        (int, 1.5),
        (int, None),
        (str, 3),
        (str, None),
        (list[int], ["x"]),
        (Model, {"n": "x"}),
        (Model, {}),
        (Plain, 3),
        (Positive, 0),
        (Literal["a"], "b"),
        (Colour, "blue"),
    ],
)
def test_values_that_do_not_fit_fail_the_run(way: str, annotation: Any, given: Any) -> None:
    with pytest.raises(ParameterTypeError) as raised:
        value_of(annotation, given, way)
    assert str(raised.value).startswith("Flow run received invalid parameters:\n - p")
    assert isinstance(raised.value, TypeError)
    assert isinstance(raised.value, PenstockError)


def test_the_message_lists_everything_that_does_not_fit() -> None:
    @flow
    def main(x: int, y: Model, z: list[int], fine: int) -> None: ...

    with pytest.raises(ParameterTypeError) as raised:
        main("a", {"n": "b"}, [1, "c"], 4)  # type: ignore[arg-type, list-item]
    lines = str(raised.value).split("\n")
    assert lines[0] == "Flow run received invalid parameters:"
    assert [line.partition(":")[0] for line in lines[1:]] == [" - x", " - y.n", " - z.1"]
    assert all("Input should be a valid integer" in line for line in lines[1:])


@pytest.mark.parametrize("is_async", [False, True])
def test_invalid_parameters_leave_a_failed_run(own_store: Path, is_async: bool) -> None:
    bodies: list[int] = []

    def body(n: int) -> None:
        bodies.append(n)

    async def abody(n: int) -> None:
        bodies.append(n)

    main: Any = flow(name="main", flow_run_name="mine")(abody if is_async else body)

    def call(**options: Any) -> Any:
        return asyncio.run(main("x", **options)) if is_async else main("x", **options)

    state = call(return_state=True)
    assert (state.type, state.name) == (StateType.FAILED, "Failed")
    assert isinstance(state.data, ParameterTypeError)
    assert "Flow run received invalid parameters" in (state.message or "")
    with pytest.raises(ParameterTypeError):
        state.result()
    assert bodies == []
    reader = SQLiteReader(own_store)
    try:
        (row,) = reader.runs()
        assert (row.name, row.status, row.state_name, row.attempts) == ("main", "FAILED", "Failed", 0)
        assert row.error_type == "ParameterTypeError"
    finally:
        reader.close()


def test_a_subflow_with_invalid_parameters_is_like_any_failed_run() -> None:
    @flow
    def inner(n: int) -> None: ...

    @flow
    def main() -> Any:
        future = inner.submit("x")
        error = future.exception()
        assert isinstance(error, ParameterTypeError)
        return future.state.type

    assert main() is StateType.FAILED

    @flow
    def careless() -> None:
        inner.submit("x")

    with pytest.raises(ParameterTypeError):
        careless()


@pytest.mark.parametrize("arguments", [((), {}), ((1, 2), {}), ((1,), {"n": 1}), ((), {"nope": 1})])
@pytest.mark.parametrize("is_async", [False, True])
def test_arguments_that_do_not_bind_make_no_run(own_store: Path, arguments: tuple[Any, Any], is_async: bool) -> None:
    hooks: list[Any] = []
    args, kwargs = arguments

    async def abody(n: int) -> None: ...
    def body(n: int) -> None: ...

    main: Any = flow(name="my-flow", on_failure=[lambda f, r, s: hooks.append(s)])(abody if is_async else body)
    with pytest.raises(ParameterBindError) as raised:
        call = main(*args, **kwargs)
        asyncio.run(call)
    assert "(n)" in str(raised.value)
    assert isinstance(raised.value, TypeError)
    with pytest.raises(ParameterBindError):
        main(*args, return_state=True, **kwargs)
    assert hooks == []
    assert not (own_store / "penstock.db").exists()


# --- identity -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("annotation", "given"),
    [
        (Any, [1, 2]),
        (list, [1, 2]),
        (dict, {"a": object()}),
        (object, object()),
        (Plain, Plain()),
        (Model, Model(n=1)),
        (Point, Point(1)),
        (Optional[Plain], Plain()),  # noqa: UP045
        (Plain | int, Plain()),
        (threading.Event, threading.Event()),
        (int, 10**30),
        (str, "some text that is not interned"),
    ],
)
def test_what_fits_passes_as_it_is(way: str, annotation: Any, given: Any) -> None:
    assert value_of(annotation, given, way) is given


def test_unannotated_parameters_pass_as_they_are() -> None:
    value = {"a": [1]}

    @flow
    def main(x, *args, **kwargs):  # type: ignore[no-untyped-def]
        return [x, args[0], kwargs["k"]]

    assert all(got is value for got in main(value, value, k=value))


@pytest.mark.parametrize("given", [True, 1.0, "1"])
def test_the_exact_type_counts_for_int(given: Any) -> None:
    value = value_of(int, given)
    assert (value, type(value)) == (1, int)


def test_a_subclass_of_str_is_made_a_plain_one() -> None:
    class Text(str):
        pass

    assert type(value_of(str, Text("x"))) is str


# --- kinds of parameters ------------------------------------------------------------------------------------------


def test_args_kwargs_and_positional_only_parameters_are_validated() -> None:
    @flow
    def main(a: int, /, b: int, *args: int, c: int, **kwargs: int) -> Any:
        return a, b, args, c, kwargs

    assert main("1", "2", "3", "4", c="5", d="6") == (1, 2, (3, 4), 5, {"d": 6})  # type: ignore[arg-type]
    assert main(1, 2, c=3) == (1, 2, (), 3, {})
    for args, kwargs in [
        (("x", 2), {"c": 3}),
        ((1, 2, "x"), {"c": 3}),
        ((1, 2), {"c": 3, "d": "x"}),
    ]:
        with pytest.raises(ParameterTypeError):
            main(*args, **kwargs)  # type: ignore[arg-type]


def test_parameters_may_have_any_name() -> None:
    @flow
    def main(model_config: int, json: int, copy: int, _private: int, __dunder: int = 1, schema: int = 2) -> Any:
        return model_config + json + copy + _private + __dunder + schema

    assert main("1", "2", "3", "4") == 13  # type: ignore[arg-type]


def test_self_is_not_validated() -> None:
    class Pipeline:
        @flow
        def run(self, n: int) -> Any:
            return self, n

    pipeline: Any = Pipeline()
    got, n = pipeline.run("3")
    assert got is pipeline
    assert n == 3


def test_defaults_are_validated() -> None:
    @flow
    def main(n: int = "3", m: Model = {"n": 1}) -> Any:  # type: ignore[assignment]  # noqa: B006
        return n, m

    assert main() == (3, Model(n=1))

    @flow
    def bad(n: int = "x") -> None: ...  # type: ignore[assignment]

    with pytest.raises(ParameterTypeError):
        bad()


def test_a_default_of_none_is_accepted_for_any_annotation() -> None:
    nothing: Any = None

    @flow
    def main(n: int = nothing, m: Model = nothing, p: Plain = nothing) -> Any:
        return n, m, p

    assert main() == (None, None, None)
    assert main(None, None, None) == (None, None, None)
    assert main("3")[0] == 3  # type: ignore[arg-type]


def test_an_annotation_out_of_reach_is_not_checked_and_warned_about_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @flow(name="main")
    def main(x: Nowhere, n: int) -> Any:  # type: ignore[name-defined]  # noqa: F821
        return x, n

    assert main("anything", "3") == ("anything", 3)
    assert main([1], 4) == ([1], 4)
    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "'x'" in warning.getMessage()
    assert "main" in warning.getMessage()
    with pytest.raises(ParameterTypeError):
        main(1, "x")


def test_validation_can_be_switched_off() -> None:
    @flow(validate_parameters=False)
    def main(n: int, m: Model) -> Any:
        return n, m

    assert main("3", {"n": "x"}) == ("3", {"n": "x"})  # type: ignore[arg-type]
    assert main.with_options(validate_parameters=True)("3", {"n": "1"}) == (3, Model(n=1))  # type: ignore[arg-type]


def test_validators_of_models_run_and_their_errors_are_told() -> None:
    class Even(pydantic.BaseModel):
        n: int

        @pydantic.field_validator("n")
        @classmethod
        def even(cls, n: int) -> int:
            if n % 2:
                raise ValueError("must be even")
            return n

    def body(m: Any) -> Any:
        return m.n

    body.__annotations__["m"] = Even
    main = flow(body)
    assert main({"n": 4}) == 4
    with pytest.raises(ParameterTypeError, match=r" - m\.n: .*must be even"):
        main({"n": 3})


# --- futures and States come first --------------------------------------------------------------------------------


def test_futures_and_states_are_resolved_before_they_are_validated() -> None:
    @flow
    def inner(n: int, items: list[int], m: Model) -> Any:
        return n, items, m

    @flow
    def main() -> Any:
        three = passed.submit("3")
        model = passed.submit({"n": three})
        state = passed("4", return_state=True)
        direct = inner(three, [three, state], model)
        return direct, inner.submit(three, [three, Completed(data=5)], model).result()

    first, second = main()
    assert first == (3, [3, 4], Model(n=3))
    assert second == (3, [3, 5], Model(n=3))


def test_a_future_whose_value_does_not_fit() -> None:
    @flow
    def inner(n: int) -> None: ...

    @flow
    def main() -> Any:
        state = inner(passed.submit("x"), return_state=True)
        return state.type, type(state.data), state.name

    assert main() == (StateType.FAILED, ParameterTypeError, "Failed")


def test_a_root_flow_may_get_states() -> None:
    @flow
    def main(n: int) -> int:
        return n

    assert main(Completed(data="3")) == 3  # type: ignore[arg-type]
    state = main(Failed(message="m"), return_state=True)  # type: ignore[arg-type]
    assert state.name == "UpstreamFailed"


def test_an_async_flow_awaits_futures_before_it_validates() -> None:
    @flow
    async def inner(n: int) -> int:
        return n

    @flow
    async def main() -> int:
        return await inner(passed.submit("3"))  # type: ignore[arg-type]

    assert asyncio.run(main()) == 3


def test_tasks_do_not_validate() -> None:
    @task
    def work(n: int) -> Any:
        return n

    assert work("3") == "3"  # type: ignore[arg-type]


# --- what cannot be stored ----------------------------------------------------------------------------------------


class Nasty:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    def __str__(self) -> str:
        raise RuntimeError("no str")

    def __reduce__(self) -> Any:
        raise RuntimeError("no pickle")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no eq")

    __hash__ = None  # type: ignore[assignment]


def circular() -> list[Any]:
    made: list[Any] = []
    made.append(made)
    return made


@pytest.mark.parametrize(
    "value",
    [
        Nasty(),
        [Nasty()],
        {"a": Nasty()},
        lambda: 1,
        threading.Lock(),
        circular(),
        b"\xff",
        "\ud800",
        float("nan"),
    ],
    ids=["object", "list", "dict", "lambda", "lock", "circle", "bytes", "surrogate", "nan"],
)
@pytest.mark.parametrize("way", WAYS)
def test_parameters_that_cannot_be_stored_never_fail_a_run(own_store: Path, value: Any, way: str) -> None:
    assert value_of(Any, value, way) is value
    reader = SQLiteReader(own_store)
    try:
        (root,) = reader.runs()
        assert root.status == "COMPLETED"
        assert '"p"' in (root.parameters if way in ("direct", "async") else reader.tree(root.id)[0].parameters)
    finally:
        reader.close()


# --- attempts, names and facts see validated values -----------------------------------------------------------------


def test_every_attempt_gets_the_validated_values() -> None:
    seen: list[Any] = []

    @flow(retries=1)
    def main(m: Model) -> None:
        seen.append((m, runtime.flow_run.parameters["m"]))
        if len(seen) == 1:
            raise ValueError

    main({"n": "1"})  # type: ignore[arg-type]
    assert all(m is parameter and m == Model(n=1) for m, parameter in seen)
    assert len(seen) == 2


def test_validate_parameters_and_schema_need_no_run(own_store: Path) -> None:
    @flow
    def main(n: int, m: Model, s: str = "x") -> None: ...

    validated = main.validate_parameters({"n": "3", "m": {"n": 1}, "s": "y"})
    assert validated == {"n": 3, "m": Model(n=1), "s": "y"}
    with pytest.raises(ParameterTypeError):
        main.validate_parameters({"n": "x", "m": {"n": 1}})
    schema = main.parameters
    assert list(schema["properties"]) == ["n", "m", "s"]
    assert schema["required"] == ["n", "m"]
    assert not own_store.exists()


def test_serialize_parameters_gives_json_values() -> None:
    @flow
    def main(n: int, m: Model) -> None: ...

    assert main.serialize_parameters({"n": 1, "m": Model(n=2)})["m"] == {"n": 2, "inner": None}


def test_pydantic_is_only_loaded_when_it_is_needed(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
            import sys
            from penstock import flow, task

            class Plain: ...

            @task
            def t(x: int): return x

            @flow
            def main(a: int, b: str, c: list, d: Plain, e, f: int | None = None, *args: float, **kwargs: bytes):
                return t.submit(a).result()

            main(1, "x", [1], Plain(), object(), None, 1.5, k=b"x")
            assert "pydantic" not in sys.modules, "loaded for values that fit"
            main("1", "x", [1], Plain(), object())
            assert "pydantic" in sys.modules
        """)
    )
    environment = {**os.environ, "PENSTOCK_HOME": str(tmp_path / "home")}
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=environment, timeout=30)
    assert done.returncode == 0, done.stderr
