"""`@task` and `@flow`: options, attributes, `with_options`, methods, pickling."""

from __future__ import annotations

import asyncio
import copy
import functools
import inspect
import io
import operator
import pickle
import subprocess
import sys
import textwrap
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from penstock import Flow, Task, flow, task, unmapped
from penstock.cache_policies import INPUTS
from penstock.exceptions import (
    InvalidNameError,
    ParameterBindError,
    PenstockError,
    ReservedArgumentError,
)
from penstock.task_runners import ConcurrentTaskRunner, SequentialTaskRunner, ThreadPoolTaskRunner
from penstock.tasks import NotSet, exponential_backoff

TASK_HOOKS = ["on_running", "on_completion", "on_failure", "on_cancellation", "on_crashed"]
DECORATORS = [pytest.param(task, Task, id="task"), pytest.param(flow, Flow, id="flow")]


# At module level, to be found again by name.
@task(tags=["a"], retries=1)
def module_task(x: int) -> int:
    """Doubles."""
    return 2 * x


@flow(name="renamed")
def module_flow(x: int) -> int:
    return module_task(x)


def undecorated(x: int) -> int:
    return x + 1


aliased = task(undecorated)


class Scale:
    def __init__(self, factor: int) -> None:
        self.factor = factor

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Scale) and other.factor == self.factor

    def __hash__(self) -> int:
        return hash(self.factor)

    @task
    def times(self, x: int) -> int:
        return self.factor * x


# --- making definitions ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("decorate", "cls"), DECORATORS)
def test_three_ways_to_make_one(decorate: Any, cls: type) -> None:
    def double(x: int, *, y: int = 2) -> int:
        """Doubles."""
        return x * y

    for made in (decorate(double), decorate(name="n")(double), cls(fn=double, name="n"), decorate()(double)):
        assert type(made) is cls
        assert made.fn is double
        assert made(3) == 6


@pytest.mark.parametrize(("decorate", "cls"), DECORATORS)
def test_the_function_stays_recognisable(decorate: Any, cls: type) -> None:
    def double(x: int, *, y: int = 2) -> int:
        """Doubles.

        Twice.
        """
        return x * y

    made = decorate(double)
    assert made.__name__ == "double"
    assert made.__qualname__ == double.__qualname__
    assert inspect.cleandoc(made.__doc__) == "Doubles.\n\nTwice."
    assert made.__module__ == __name__
    assert made.__wrapped__ is double
    assert inspect.signature(made) == inspect.signature(double)


@pytest.mark.parametrize(("decorate", "cls"), DECORATORS)
def test_options_are_keyword_only(decorate: Any, cls: type) -> None:
    with pytest.raises(TypeError):
        decorate(undecorated, "name")
    with pytest.raises(TypeError):
        cls(undecorated, "name")


@pytest.mark.parametrize(("decorate", "cls"), DECORATORS)
def test_an_unknown_option_is_refused(decorate: Any, cls: type) -> None:
    with pytest.raises(TypeError, match="retry_count"):
        decorate(retry_count=3)(undecorated)
    with pytest.raises(TypeError, match="retry_count"):
        decorate(undecorated).with_options(retry_count=3)


@pytest.mark.parametrize(("decorate", "cls"), DECORATORS)
@pytest.mark.parametrize("thing", [1, "name", None, [undecorated]])
def test_something_not_callable_is_refused(decorate: Any, cls: type, thing: Any) -> None:
    with pytest.raises(TypeError, match=r"^'fn' must be callable$"):
        cls(fn=thing)


def test_a_task_has_the_built_in_defaults() -> None:
    made = task(module_task.fn)
    assert made.name == "module_task"
    assert made.description == "Doubles."
    assert made.version is None
    assert set(made.tags) == set()
    assert made.task_run_name is None
    assert made.timeout_seconds is None
    assert made.log_prints is None
    assert made.retry_jitter_factor is None
    assert made.retry_condition_fn is None
    assert made.isasync is False
    assert made.isgenerator is False


def test_a_flow_has_the_built_in_defaults() -> None:
    def etl_of_today(x: int) -> int:
        """Loads."""
        return x

    made = flow(etl_of_today)
    assert made.name == "etl-of-today"
    assert made.description == "Loads."
    assert made.flow_run_name is None
    assert made.timeout_seconds is None
    assert made.log_prints is None
    assert isinstance(made.task_runner, ThreadPoolTaskRunner)
    assert made.task_runner == ThreadPoolTaskRunner()
    assert flow(lambda: 1).name == "unknown-lambda"


def test_the_version_of_a_flow_is_a_hash_of_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def version(text: str, module: str) -> Any:
        (tmp_path / f"{module}.py").write_text(f"from penstock import flow\n@flow\ndef f(): return {text}\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        return __import__(module).f.version

    first, same, other = version("1", "gv_first"), version("1", "gv_same"), version("2", "gv_other")
    assert isinstance(first, str) and first
    assert first == same != other
    assert flow(version="7")(undecorated).version == "7"


def test_given_options_are_attributes() -> None:
    made = task(
        name="n", description="d", version="1", tags=["a", "b"], task_run_name="r-{x}", retries=3,
        retry_delay_seconds=2, retry_jitter_factor=0.5, timeout_seconds=1.5, log_prints=True,
    )(undecorated)  # fmt: skip
    assert (made.name, made.description, made.version) == ("n", "d", "1")
    assert set(made.tags) == {"a", "b"}
    assert (made.task_run_name, made.retries, made.retry_delay_seconds) == ("r-{x}", 3, 2)
    assert (made.retry_jitter_factor, made.timeout_seconds, made.log_prints) == (0.5, 1.5, True)


def test_how_values_are_kept_is_told_by_attributes() -> None:
    made = task(cache_policy=INPUTS, cache_expiration=timedelta(hours=1), refresh_cache=True)(undecorated)
    assert (made.persist_result, made.cache_policy, made.cache_key_fn) == (True, INPUTS, None)
    assert (made.cache_expiration, made.refresh_cache) == (timedelta(hours=1), True)
    assert (made.result_storage, made.result_storage_key, made.result_serializer) == (None, None, None)
    assert made.cache_result_in_memory is True
    kept = flow(persist_result=True, result_serializer="json")(undecorated)
    assert (kept.persist_result, kept.result_storage, kept.result_serializer) == (True, None, "json")


# --- validation --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("decorate", "cls"), DECORATORS)
@pytest.mark.parametrize("name", [1, b"n", ["n"], object()])
def test_a_name_must_be_a_string(decorate: Any, cls: type, name: Any) -> None:
    with pytest.raises(TypeError, match="name"):
        decorate(name=name)(undecorated)


@pytest.mark.parametrize("character", list("/%&><"))
def test_some_characters_are_not_for_flow_names(character: str) -> None:
    with pytest.raises(InvalidNameError) as caught:
        flow(name=f"a{character}b")(undecorated)
    assert isinstance(caught.value, ValueError) and isinstance(caught.value, PenstockError)
    assert character in str(caught.value)
    with pytest.raises(InvalidNameError):
        module_flow.with_options(name=f"a{character}b")
    assert task(name=f"a{character}b")(undecorated).name == f"a{character}b"


def test_one_plain_string_is_one_tag() -> None:
    assert set(task(tags="nightly")(undecorated).tags) == {"nightly"}
    assert set(task(tags=(t for t in ["a", "b"]))(undecorated).tags) == {"a", "b"}
    for wrong in (5, ["a", 5]):
        with pytest.raises(TypeError, match="tags"):
            task(tags=wrong)(undecorated)  # type: ignore[call-overload]


@pytest.mark.parametrize(("decorate", "cls"), DECORATORS)
def test_time_limits_and_retries_are_checked(decorate: Any, cls: type) -> None:
    assert decorate(timeout_seconds=0)(undecorated).timeout_seconds in (None, 0)
    for options, error in [
        ({"timeout_seconds": -1}, ValueError),
        ({"timeout_seconds": "soon"}, TypeError),
        ({"retries": -1}, ValueError),
        ({"retries": 2, "retry_delay_seconds": -1}, ValueError),
        ({"retries": 2, "retry_delay_seconds": [1, -1]}, ValueError),
        ({"retries": 2, "retry_delay_seconds": "1"}, TypeError),
        ({"retries": 60, "retry_delay_seconds": [1] * 51}, ValueError),
    ]:
        with pytest.raises(error, match=list(options)[-1] if "retries" not in options or len(options) == 1 else None):
            decorate(**options)(undecorated)
    for delays in (1, 0.5, [1, 2], (1, 2), exponential_backoff(2), lambda retries: [1.0] * retries):
        assert decorate(retries=2, retry_delay_seconds=delays)(undecorated).retry_delay_seconds == delays


@pytest.mark.parametrize("name", ["return_state", "wait_for"])
@pytest.mark.parametrize(
    "shape", ["def f({}): pass", "def f(x, *, {}=None): pass", "async def f({}=1): yield", "f = lambda {}: 1"]
)
def test_reserved_parameter_names_of_tasks(name: str, shape: str) -> None:
    names: dict[str, Any] = {}
    exec(shape.format(name), names)
    with pytest.raises(ReservedArgumentError) as caught:
        task(names["f"])
    assert str(caught.value).startswith(f"'{name}' is a reserved argument name and cannot be used.")
    assert isinstance(caught.value, TypeError)


def test_reserved_parameter_names_of_callable_objects() -> None:
    class Waiting:
        def __call__(self, wait_for: int) -> int:
            return wait_for

    with pytest.raises(ReservedArgumentError):
        task(Waiting())


def test_keywords_of_imap_are_reserved_when_it_is_called() -> None:
    @task
    def f(x: int, ordered: bool = True) -> int:
        return x

    @flow
    def main() -> None:
        with pytest.raises(ReservedArgumentError, match="'ordered'"):
            f.imap([1])
        assert f.submit(1, ordered=False).result() == 1

    main()


@pytest.mark.parametrize(("decorate", "cls"), DECORATORS)
@pytest.mark.parametrize("hook", TASK_HOOKS)
def test_hooks_are_checked(decorate: Any, cls: type, hook: str) -> None:
    def notify(a: Any, b: Any, c: Any) -> None: ...

    with pytest.raises(TypeError) as caught:
        decorate(**{hook: notify})(undecorated)
    assert str(caught.value).startswith(f"Expected iterable for '{hook}'; got function instead.")
    with pytest.raises(TypeError) as caught:
        decorate(**{hook: [notify, "notify"]})(undecorated)
    assert str(caught.value).startswith(f"Expected callables in '{hook}'; got str")
    with pytest.raises(TypeError):
        decorate(undecorated).with_options(**{hook: 1})


@pytest.mark.parametrize(("decorate", "cls"), DECORATORS)
@pytest.mark.parametrize("hook", TASK_HOOKS)
def test_hook_decorators_append_and_return_the_function(decorate: Any, cls: type, hook: str) -> None:
    fired: list[str] = []
    made = decorate(on_running=[lambda *_: fired.append("first")])(undecorated)

    def second(*_: Any) -> None:
        fired.append("second")

    assert getattr(made, hook)(second) is second
    made(1)
    expected = {"on_running": ["first", "second"], "on_completion": ["first", "second"]}
    assert fired == expected.get(hook, ["first"])
    with pytest.raises(TypeError, match=hook):
        getattr(made, hook)("no function")


def test_hook_lists_given_by_the_user_are_not_changed() -> None:
    hooks: list[Any] = []
    made = task(on_completion=hooks)(undecorated)
    made.on_completion(lambda *_: None)
    assert hooks == []


def test_a_task_runner_is_an_instance_or_a_class() -> None:
    assert flow(task_runner=SequentialTaskRunner)(undecorated).task_runner == SequentialTaskRunner()
    given = ThreadPoolTaskRunner(max_workers=3)
    assert flow(task_runner=given)(undecorated).task_runner == given
    assert ConcurrentTaskRunner is ThreadPoolTaskRunner
    for wrong in ("threads", 4, object(), int, [ThreadPoolTaskRunner()]):
        with pytest.raises(TypeError, match="task_runner"):
            flow(task_runner=wrong)(undecorated)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="task_runner"):
        module_flow.with_options(task_runner=4)


def test_every_flow_run_uses_a_duplicate_of_the_runner() -> None:
    used: list[Any] = []

    class Noting(ThreadPoolTaskRunner):
        def execute(self, call: Any) -> Any:
            used.append(self)
            return super().execute(call)

    template = Noting(max_workers=1)

    @flow(task_runner=template)
    def main() -> int:
        return module_task.submit(1).result()

    assert (main(), main()) == (2, 2)
    first, second = used
    assert first is not second
    assert first == second == template
    assert template is not first and template is not second


def test_unobserved_failures_option_is_checked() -> None:
    for right in ("fail", "warn"):
        flow(on_unobserved_failure=right)(undecorated)
    with pytest.raises(ValueError, match="on_unobserved_failure"):
        flow(on_unobserved_failure="ignore")(undecorated)


@pytest.mark.parametrize("wrong", [5, ["a"], object()])
def test_run_names_are_strings_or_callables(wrong: Any) -> None:
    kind = type(wrong).__name__
    with pytest.raises(TypeError, match=f"^Expected string or callable for 'task_run_name'; got {kind} instead"):
        task(task_run_name=wrong)(undecorated)
    with pytest.raises(TypeError, match=f"^Expected string or callable for 'flow_run_name'; got {kind} instead"):
        flow(flow_run_name=wrong)(undecorated)


# --- what can be a task ------------------------------------------------------------------------------------


class Adder:
    """Adds."""

    def __init__(self, to: int) -> None:
        self.to = to

    def __call__(self, x: int) -> int:
        return x + self.to


class AsyncAdder(Adder):
    async def __call__(self, x: int) -> int:  # type: ignore[override]
        await asyncio.sleep(0)
        return x + self.to


def run_each(t: Any, *args: Any) -> list[Any]:
    """The results of the direct call, of submit and of map with one element, in a flow."""

    @flow
    def main() -> Any:
        return [t(*args), t.submit(*args).result(), t.map(*[[arg] for arg in args]).result()[0]]

    return main()


@pytest.mark.parametrize(
    ("fn", "name", "args", "expected"),
    [
        pytest.param(operator.add, "add", (2, 3), 5, id="builtin"),
        pytest.param(len, "len", ([1, 2],), 2, id="len"),
        pytest.param(max, "max", (4, 7), 7, id="no signature"),
        pytest.param(dict, "dict", ([("a", 1)],), {"a": 1}, id="class without signature"),
        pytest.param(complex, "complex", (1, 2), 1 + 2j, id="class"),
        pytest.param(functools.partial(pow, 2), "pow", (5,), 32, id="partial"),
        pytest.param(functools.partial(undecorated), "undecorated", (5,), 6, id="partial of function"),
        pytest.param(Adder(10), "Adder", (5,), 15, id="object"),
        pytest.param(lambda x: -x, "<lambda>", (5,), -5, id="lambda"),
        pytest.param(operator.itemgetter(1), "itemgetter", ("abc",), "b", id="itemgetter"),
        pytest.param(operator.methodcaller("upper"), "methodcaller", ("abc",), "ABC", id="methodcaller"),
        pytest.param("x".join, "join", (["a", "b"],), "axb", id="bound builtin method"),
        pytest.param(str.upper, "upper", ("a",), "A", id="method descriptor"),
        pytest.param(Adder(1).__call__, "__call__", (2,), 3, id="bound method"),
        pytest.param(Adder, "Adder", (2,), None, id="user class"),
    ],
)
def test_any_callable_is_accepted(fn: Any, name: str, args: tuple[Any, ...], expected: Any) -> None:
    made = task(fn)
    assert made.fn is fn or made.fn == fn
    if name != "pow":  # what a partial is called is left open
        assert made.name == name
    direct, submitted = (made(*args), run_submitted(made, *args))
    if expected is None:
        assert (direct.to, submitted.to) == (2, 2)
    else:
        assert (direct, submitted) == (expected, expected)


def run_submitted(t: Any, *args: Any, **kwargs: Any) -> Any:
    @flow
    def main() -> Any:
        return t.submit(*args, **kwargs).result()

    return main()


def test_map_works_for_any_operator() -> None:
    @flow
    def main() -> Any:
        return task(operator.mul).map([1, 2, 3], unmapped(10)).result(), task(max).map([1, 9], [5, 5]).result()

    assert main() == ([10, 20, 30], [5, 9])


def test_callable_objects_are_described_by_their_class() -> None:
    made = task(Adder(1))
    assert made.name == "Adder"
    assert flow(Adder(1)).name == "Adder"
    assert made.description == "Adds."


@pytest.mark.parametrize("make", [lambda: AsyncAdder(10), lambda: functools.partial(AsyncAdder(10))])
def test_objects_with_an_async_call_are_async(make: Any) -> None:
    made = task(make())
    assert made.isasync is True
    assert asyncio.run(made(5)) == 15
    assert run_submitted(made, 5) == 15
    assert flow(make()).isasync is True
    assert asyncio.run(flow(make())(5)) == 15


def test_kinds_of_functions_are_recognised() -> None:
    async def coroutine() -> None: ...
    def generator() -> Any:
        yield 1

    async def async_generator() -> Any:
        yield 1

    class AsyncGenerating:
        async def __call__(self) -> Any:
            yield 1

    for decorate in (task, flow):
        kinds = [
            (d.isasync, d.isgenerator)
            for d in map(decorate, (undecorated, coroutine, generator, async_generator, AsyncGenerating()))  # type: ignore[call-overload]
        ]
        assert kinds == [(False, False), (True, False), (False, True), (True, True), (True, True)]


def test_a_task_of_a_task_is_a_task() -> None:
    # The contract is silent: any callable is accepted, and a task is one.
    assert task(module_task)(4) == 8


def test_source_code_and_key_of_a_task() -> None:
    assert "return 2 * x" in module_task.source_code
    assert "module_task" in module_task.task_key
    assert task(undecorated).task_key == aliased.task_key != module_task.task_key
    assert task(len).task_key  # no source there, yet an identity
    task(len).source_code


# --- with_options ------------------------------------------------------------------------------------------


def full_task() -> Task[Any, Any]:
    def hook(*_: Any) -> None: ...

    return task(
        name="n", description="d", version="1", tags=["a"], task_run_name="r", retries=3, retry_delay_seconds=2,
        retry_jitter_factor=0.5, retry_condition_fn=hook, timeout_seconds=1.5, log_prints=True,
        **{name: [hook] for name in TASK_HOOKS},
    )(undecorated)  # fmt: skip


TASK_OPTIONS = [
    *("name", "description", "version", "tags", "task_run_name", "retries", "retry_delay_seconds"),
    *("retry_jitter_factor", "retry_condition_fn", "timeout_seconds", "log_prints"),
]


def shown(definition: Any, options: list[str]) -> dict[str, Any]:
    return {option: getattr(definition, option) for option in options}


def hooks_of(definition: Any) -> dict[str, list[Any]]:
    return {name: list(hooks) for name, hooks in definition._hooks.items() if name in TASK_HOOKS}


def test_with_options_keeps_what_is_omitted_and_the_original() -> None:
    original = full_task()
    before = shown(original, TASK_OPTIONS)
    for fresh in (
        original.with_options(),
        original.with_options(**dict.fromkeys(TASK_OPTIONS + TASK_HOOKS, NotSet)),
    ):
        assert fresh is not original
        assert isinstance(fresh, Task)
        assert fresh.fn is original.fn
        assert shown(fresh, TASK_OPTIONS) == before
        assert hooks_of(fresh) == hooks_of(original)
    changed = original.with_options(name="other", tags=["b"], retries=1, timeout_seconds=9)
    assert (changed.name, set(changed.tags), changed.retries, changed.timeout_seconds) == (
        "other",
        {"b"},
        1,
        9,
    )
    assert shown(original, TASK_OPTIONS) == before


def test_none_clears_every_option_of_a_task() -> None:
    cleared = full_task().with_options(**dict.fromkeys(TASK_OPTIONS + TASK_HOOKS, None))
    bare = task(undecorated)
    assert shown(cleared, TASK_OPTIONS) == shown(bare, TASK_OPTIONS)
    assert hooks_of(cleared) == hooks_of(bare) == {name: [] for name in TASK_HOOKS}


@pytest.mark.parametrize(
    ("option", "empty", "expected"),
    [
        ("name", "", "undecorated"),
        ("tags", [], set()),
        ("task_run_name", "", None),
        ("retries", 0, 0),
        ("retry_delay_seconds", 0, 0),
        ("retry_delay_seconds", [], []),
        ("retry_jitter_factor", 0, 0),
        ("timeout_seconds", 0, None),
        ("log_prints", False, False),
        ("description", "", None),
    ],
)
def test_empty_values_clear(option: str, empty: Any, expected: Any) -> None:
    value = getattr(full_task().with_options(**{option: empty}), option)
    assert value == expected or (not value and not expected)


def test_hooks_are_replaced_and_do_not_leak_between_copies() -> None:
    fired: list[str] = []

    def hook(name: str) -> Any:
        return lambda *_: fired.append(name)

    original = task(on_completion=[hook("option")])(undecorated)
    original.on_completion(hook("decorator"))
    copied = original.with_options(name="copy")
    copied.on_completion(hook("copy"))
    replaced = original.with_options(on_completion=[hook("new")])
    cleared = original.with_options(on_completion=[])
    for definition in (original, copied, replaced, cleared):
        fired.append(definition.name)
        definition(1)
    assert fired == [
        *("undecorated", "option", "decorator"),
        *("copy", "option", "decorator", "copy"),
        *("undecorated", "new", "undecorated"),
    ]


def test_none_clears_every_option_of_a_flow() -> None:
    def hook(*_: Any) -> None: ...

    options = {
        "name": "n", "flow_run_name": "r", "version": "1", "description": "d",
        "task_runner": ThreadPoolTaskRunner(max_workers=2), "retries": 2, "retry_delay_seconds": 1,
        "timeout_seconds": 5, "log_prints": True, "on_unobserved_failure": "warn",
    }  # fmt: skip
    full = flow(**options, **{name: [hook] for name in TASK_HOOKS}, validate_parameters=False)(undecorated)
    assert shown(full, list(options)) == options
    kept = full.with_options()
    assert shown(kept, list(options)) == options and hooks_of(kept) == hooks_of(full)
    cleared = full.with_options(**dict.fromkeys([*options, *TASK_HOOKS], None))
    bare = flow(undecorated)
    assert shown(cleared, list(options)) == shown(bare, list(options))
    assert hooks_of(cleared) == hooks_of(bare)
    assert shown(full, list(options)) == options


def test_validate_parameters_goes_back_to_on() -> None:
    def needs_int(x: int) -> int:
        return x

    lax = flow(validate_parameters=False)(needs_int)
    assert lax("3") == "3"
    assert lax.with_options()("3") == "3"
    assert lax.with_options(validate_parameters=None)("3") == 3
    assert lax.with_options(validate_parameters=True)("3") == 3


def test_with_options_checks_like_the_decorator() -> None:
    for options, error in [
        ({"name": 3}, TypeError),
        ({"retries": -1}, ValueError),
        ({"timeout_seconds": -1}, ValueError),
        ({"on_failure": undecorated}, TypeError),
        ({"task_run_name": 3}, TypeError),
        ({"retry_condition_fn": 3}, TypeError),
    ]:
        with pytest.raises(error):
            module_task.with_options(**options)
    assert module_task.with_options(tags="one").tags == {"one"}


def test_with_options_keeps_a_method_bound() -> None:
    three = Scale(3)
    assert three.times.with_options(name="other")(4) == 12
    assert Scale.times.with_options(name="other")(three, 4) == 12


# --- methods -----------------------------------------------------------------------------------------------


class Falsy:
    """Empty, and so false."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return 0

    def __eq__(self, other: object) -> bool:
        return True  # all of them look the same: only identity tells them apart

    __hash__ = None  # type: ignore[assignment]

    @task
    def me(self, x: int = 0) -> Any:
        return self, self.n + x

    @task
    async def ame(self, x: int = 0) -> Any:
        return self, self.n + x

    @flow
    def my_flow(self, x: int = 0) -> Any:
        return self.n + x

    @task
    @classmethod
    def outer_class(cls, x: int) -> Any:
        return cls, x

    @classmethod
    @task
    def inner_class(cls, x: int) -> Any:
        return cls, x

    @task
    @staticmethod
    def outer_static(x: int) -> Any:
        return x

    @staticmethod
    @task
    def inner_static(x: int) -> Any:
        return x

    @flow
    @classmethod
    def outer_class_flow(cls, x: int) -> Any:
        return cls, x

    @classmethod
    @flow
    def inner_class_flow(cls, x: int) -> Any:
        return cls, x

    @flow
    @staticmethod
    def outer_static_flow(x: int) -> Any:
        return x

    @staticmethod
    @flow
    def inner_static_flow(x: int) -> Any:
        return x


class SubFalsy(Falsy):
    pass


def test_methods_are_tasks() -> None:
    a = Falsy(1)
    assert isinstance(a.me, Task) and isinstance(Falsy.me, Task)
    assert isinstance(a.my_flow, Flow)
    for name in ("outer_class", "inner_class", "outer_static", "inner_static"):
        assert isinstance(getattr(a, name), Task), name
        assert isinstance(getattr(Falsy, name), Task), name


def test_instance_methods_run_with_their_own_instance() -> None:
    a, b = Falsy(1), Falsy(2)
    first, second = a.me, b.me  # both views are made before either is called
    assert first(10)[0] is a and second(10)[0] is b
    assert first(10)[1] == 11 and second(10)[1] == 12
    assert Falsy.me(a, 5)[1] == 6
    assert Falsy.me(self=a, x=5)[0] is a
    assert a.my_flow(4) == 5 and Falsy.my_flow(b, 4) == 6
    assert a.me is not a.me


def test_submitted_and_mapped_methods_get_their_own_instance() -> None:
    a, b = Falsy(1), Falsy(2)

    @flow
    def main() -> None:
        one, two = a.me.submit(10), b.me.submit(10)
        assert one.result()[0] is a and two.result()[0] is b
        assert [n for _, n in a.me.map([1, 2, 3]).result()] == [2, 3, 4]
        assert all(me is b for me, _ in b.me.map(x=[1, 2]).result())
        assert Falsy.me.submit(a, 1).result()[0] is a
        assert a.ame.submit(3).result()[0] is a
        assert a.my_flow.submit(4).result() == 5
        assert [me for me, _ in Falsy.me.map([a, b], [1, 2]).result()][1] is b

    main()


def test_async_methods_are_awaited() -> None:
    a = Falsy(1)
    assert asyncio.run(a.ame(4))[0] is a


@pytest.mark.parametrize("name", ["outer_class", "inner_class", "outer_class_flow", "inner_class_flow"])
def test_class_methods_in_either_order(name: str) -> None:
    assert getattr(Falsy, name)(1) == (Falsy, 1)
    assert getattr(Falsy(1), name)(1) == (Falsy, 1)
    assert getattr(SubFalsy, name)(1) == (SubFalsy, 1)

    @flow
    def main() -> Any:
        return getattr(SubFalsy(2), name).submit(3).result(), getattr(SubFalsy, name).map([4]).result()

    assert main() == ((SubFalsy, 3), [(SubFalsy, 4)])


@pytest.mark.parametrize("name", ["outer_static", "inner_static", "outer_static_flow", "inner_static_flow"])
def test_static_methods_in_either_order(name: str) -> None:
    assert getattr(Falsy, name)(7) == 7
    assert getattr(Falsy(1), name)(7) == 7

    @flow
    def main() -> Any:
        return getattr(Falsy(2), name).submit(3).result(), getattr(Falsy, name).map([4]).result()

    assert main() == (3, [4])


def test_self_is_among_the_parameters() -> None:
    seen: list[Any] = []

    class Named:
        label = "north"

        @task(task_run_name="{self.label}-{x}", on_completion=[lambda t, run, s: seen.append(run.name)])
        def work(self, x: int) -> int:
            return x

    assert Named().work(3) == 3
    assert seen == ["north-3"]


def test_hooks_added_through_an_instance_belong_to_the_task() -> None:
    fired: list[str] = []

    class Hooked:
        @task
        def work(self) -> None: ...

    Hooked().work.on_completion(lambda *_: fired.append("x"))
    Hooked().work()
    assert fired == ["x"]


def test_a_bound_method_binds_its_arguments() -> None:
    with pytest.raises(ParameterBindError):
        Falsy(1).me(1, 2)


# --- copying and pickling ----------------------------------------------------------------------------------


def test_importable_definitions_pickle_by_reference() -> None:
    for definition in (module_task, module_flow):
        data = pickle.dumps(definition)
        assert pickle.loads(data) is definition
        assert len(data) < 200
        assert copy.deepcopy([definition])[0] is definition


def test_a_definition_of_a_partial_pickles() -> None:
    loaded = pickle.loads(pickle.dumps(task(functools.partial(pow, 2), name="power")))
    assert (loaded(5), loaded.name) == (32, "power")


def test_a_definition_beside_its_function_pickles() -> None:
    loaded = pickle.loads(pickle.dumps(aliased))
    assert isinstance(loaded, Task)
    assert loaded(1) == 2
    changed = pickle.loads(pickle.dumps(module_task.with_options(name="other", retries=5)))
    assert (changed.name, changed.retries, changed.tags) == ("other", 5, {"a"})
    assert changed(4) == 8


def test_bound_methods_pickle_with_their_instance() -> None:
    loaded = pickle.loads(pickle.dumps(Scale(3).times))
    assert isinstance(loaded, Task)
    assert loaded(5) == 15
    other = pickle.loads(pickle.dumps(Scale(3).times.with_options(name="other")))
    assert (other.name, other(5)) == ("other", 15)


def round_trip_by_value(definition: Any) -> Any:
    """Pickle with functions carried apart, as a by-value pickler would: the definition has to do the rest."""
    functions: list[Any] = []

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: Any) -> Any:
            if not inspect.isfunction(obj) or "<locals>" not in obj.__qualname__:
                return None
            functions.append(obj)
            return len(functions) - 1

    class Unpickler(pickle.Unpickler):
        def persistent_load(self, number: Any) -> Any:
            return functions[number]

    buffer = io.BytesIO()
    Pickler(buffer).dump(definition)
    buffer.seek(0)
    return Unpickler(buffer).load()


def test_local_definitions_pickle_by_value() -> None:
    offset, fired = 10, []

    @task(name="local", tags=["x"], retries=2, on_completion=[lambda *_: fired.append(1)])
    def local(x: int) -> int:
        return x + offset

    local.on_completion(lambda *_: fired.append(2))

    @flow(task_runner=ThreadPoolTaskRunner(max_workers=2), name="local flow")
    def local_flow(x: int) -> int:
        return x + offset

    loaded = round_trip_by_value(local)
    assert loaded is not local
    assert (loaded.name, loaded.tags, loaded.retries, loaded(1), fired) == ("local", {"x"}, 2, 11, [1, 2])
    loaded_flow = round_trip_by_value(local_flow)
    assert loaded_flow is not local_flow
    assert (loaded_flow.name, loaded_flow.task_runner, loaded_flow(1)) == (
        "local flow",
        local_flow.task_runner,
        11,
    )
    assert round_trip_by_value(task(lambda x: x * 2))(4) == 8


def test_local_class_and_static_methods_pickle_by_value() -> None:
    class Local:
        @task
        @staticmethod
        def static(x: int) -> int:
            return x + 1

    assert round_trip_by_value(Local.static)(4) == 5


def test_definitions_of_a_script_pickle_by_value(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            import sys
            import cloudpickle
            from penstock import flow, task
            @task(retries=2)
            def double(x): return 2 * x
            @flow
            def main(x): return double(x)
            sys.stdout.buffer.write(cloudpickle.dumps([double, main]))
            """
        )
    )
    data = subprocess.run([sys.executable, script], check=True, capture_output=True).stdout
    double, main = pickle.loads(data)
    assert (double(4), double.retries, main(5)) == (8, 2, 10)


# --- flow extras -------------------------------------------------------------------------------------------


def test_parameters_of_a_flow() -> None:
    @flow
    def f(x: int, names: list[str], y: float = 1.5) -> None: ...

    schema = f.parameters
    assert schema["type"] == "object"
    assert schema["properties"]["x"]["type"] == "integer"
    assert schema["properties"]["y"]["default"] == 1.5
    assert sorted(schema["required"]) == ["names", "x"]
    assert f.validate_parameters({"x": "3", "names": ["a"]}) == {"x": 3, "names": ["a"], "y": 1.5}
    assert f.serialize_parameters({"x": 3, "names": ("a",)}) == {"x": 3, "names": ["a"]}
    with pytest.raises(ParameterBindError):
        f.validate_parameters({"names": []})


@pytest.mark.parametrize("name", ["delay", "apply_async", "serve", "deploy", "from_source", "visualize"])
def test_later_names_do_not_exist_half_working(name: str) -> None:
    assert not hasattr(module_task, name)
    assert not hasattr(module_flow, name)
