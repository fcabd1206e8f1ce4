"""Names of runs, tags, and what code can find out about the run around it."""

from __future__ import annotations

import asyncio
import re
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from penstock import flow, runtime, tags, task
from penstock.context import FlowRunContext, TagsContext, TaskRunContext, get_run_context, with_context
from penstock.exceptions import MissingContextError, ParameterTypeError, PenstockError
from penstock.states import StateType
from penstock.store.sqlite import SQLiteReader
from penstock.task_runners import SequentialTaskRunner, ThreadPoolTaskRunner


@task
def name_of(x: Any = None) -> str:
    return runtime.task_run.name


@task
async def aname_of(x: Any = None) -> str:
    return runtime.task_run.name


@task
def tags_of(x: Any = None) -> list[str]:
    return runtime.task_run.tags


@task
async def atags_of(x: Any = None) -> list[str]:
    return runtime.task_run.tags


@task
def passed(x: Any) -> Any:
    return x


# --- names of task runs -----------------------------------------------------------------------------------------


def test_outside_a_flow_a_task_run_has_the_name_of_its_task() -> None:
    assert name_of() == "name_of"
    assert asyncio.run(aname_of()) == "aname_of"
    assert name_of.with_options(name="other")() == "other"


def test_calls_are_numbered_in_order_of_submission_whatever_the_way() -> None:
    @flow
    def main() -> list[str]:
        first = name_of.submit()
        second = name_of()
        third = name_of.submit()
        return [first.result(), second, third.result()]

    assert main() == ["name_of-0", "name_of-1", "name_of-2"]


def test_order_of_submission_counts_not_of_execution() -> None:
    gate = threading.Event()

    @task
    def held() -> None:
        gate.wait(5)

    @flow
    def main() -> list[str]:
        late = name_of.submit(wait_for=[held.submit()])
        early = name_of.submit()
        early.wait()
        gate.set()
        return [late.result(), early.result()]

    assert main() == ["name_of-0", "name_of-1"]


def test_asynchronous_calls_are_numbered() -> None:
    @flow
    async def main() -> list[str]:
        first = aname_of.submit()
        rest = await asyncio.gather(aname_of(), aname_of())
        return [await first, *rest]

    assert asyncio.run(main()) == ["aname_of-0", "aname_of-1", "aname_of-2"]


def test_every_task_has_a_count_of_its_own() -> None:
    other = name_of.with_options(name="other")

    @flow
    def main() -> list[str]:
        return [name_of(), other(), name_of(), other()]

    assert main() == ["name_of-0", "other-0", "name_of-1", "other-1"]


def test_every_flow_run_counts_from_0() -> None:
    @flow
    def inner() -> str:
        return name_of()

    @flow
    def main() -> list[str]:
        return [name_of(), inner(), name_of(), inner()]

    for _ in range(2):
        assert main() == ["name_of-0", "name_of-0", "name_of-1", "name_of-0"]


def test_calls_inside_tasks_count_in_the_flow_run() -> None:
    @task
    def outer() -> list[str]:
        return [name_of(), name_of.submit().result()]

    @flow
    def main() -> list[str]:
        return [name_of(), *outer(), name_of()]

    assert main() == [f"name_of-{n}" for n in range(4)]


def test_the_children_of_one_map_share_a_number() -> None:
    @flow
    def main() -> list[Any]:
        first = name_of.submit()
        mapped = name_of.map([10, 20, 30])
        return [first.result(), mapped.result(), name_of(), name_of.map([1]).result()]

    assert main() == [
        "name_of-0",
        ["name_of-1[0]", "name_of-1[1]", "name_of-1[2]"],
        "name_of-2",
        ["name_of-3[0]"],
    ]


def test_a_map_that_expands_later_keeps_the_number_of_its_call() -> None:
    gate = threading.Event()

    @task
    def numbers() -> list[int]:
        gate.wait(5)
        return [1, 2]

    @flow
    def main() -> list[Any]:
        mapped = name_of.map(numbers.submit())
        between = name_of()
        gate.set()
        return [mapped.result(), between]

    assert main() == [["name_of-0[0]", "name_of-0[1]"], "name_of-1"]


def test_all_attempts_have_one_name() -> None:
    seen = []

    @task(retries=2)
    def flaky() -> None:
        seen.append(runtime.task_run.name)
        if len(seen) < 3:
            raise ValueError

    @flow
    def main() -> None:
        flaky.submit().result()

    main()
    assert seen == ["flaky-0"] * 3


def test_the_record_has_the_names(own_store: Path) -> None:
    @flow
    def main() -> None:
        name_of.map([1, 2]).wait()
        name_of()

    main()
    reader = SQLiteReader(own_store)
    try:
        (root,) = reader.runs(kind="flow")
        assert [row.run_name for row in reader.tree(root.id)] == ["name_of-0[0]", "name_of-0[1]", "name_of-1"]
        assert {row.name for row in reader.tree(root.id)} == {"name_of"}
        assert {row.flow_run_id for row in reader.tree(root.id)} == {root.id}
    finally:
        reader.close()


def test_many_threads_submit_without_duplicate_names() -> None:
    @flow
    def main() -> list[str]:
        @with_context
        def some() -> list[str]:
            return [name_of.submit().result() for _ in range(20)]

        with ThreadPoolExecutor(8) as pool:
            return [name for part in [pool.submit(some) for _ in range(8)] for name in part.result()]

    assert sorted(main()) == sorted(f"name_of-{n}" for n in range(160))


# --- templates --------------------------------------------------------------------------------------------------


@dataclass
class Named:
    name: str


WAYS = ["direct", "submitted", "mapped", "sequential", "async direct", "async submitted"]


def named(way: str, fn: Any, option: Any, *args: Any, **kwargs: Any) -> str:
    """The run name of one call of `fn` as a task in a flow."""
    seen: list[str] = []

    def note(task: Any, run: Any, state: Any) -> None:
        seen.append(run.name)

    if way.startswith("async"):

        async def body(*a: Any, **k: Any) -> Any:
            return fn(*a, **k)

        body.__signature__ = __import__("inspect").signature(fn)  # type: ignore[attr-defined]
    else:
        body = fn
    t = task(name="work", task_run_name=option, on_running=[note])(body)
    runner = SequentialTaskRunner() if way == "sequential" else ThreadPoolTaskRunner()

    @flow(task_runner=runner)
    def main() -> None:
        if way == "direct":
            t(*args, **kwargs)
        elif way == "mapped":
            t.map(*[[arg] for arg in args], **{key: [arg] for key, arg in kwargs.items()}).result()
        else:
            t.submit(*args, **kwargs).result()

    @flow
    async def amain() -> None:
        await t(*args, **kwargs)

    asyncio.run(amain()) if way == "async direct" else main()
    (name,) = seen
    return name


@pytest.mark.parametrize("way", WAYS)
def test_a_template_sees_attributes_indexes_and_format_specs(way: str) -> None:
    def train(dataset: Named, model_config: Named, x: int, d: dict[str, int], y: str = "dflt") -> None: ...

    template = "train on {dataset.name} with {model_config.name} {x:03d}|{d[k]} {y} {y!r}"
    name = named(way, train, template, Named("iris"), Named("svm"), 7, {"k": 5})
    assert name == "train on iris with svm 007|5 dflt 'dflt'"


@pytest.mark.parametrize("way", WAYS)
def test_a_template_sees_args_and_kwargs(way: str) -> None:
    def work(*args: int, **kwargs: int) -> None: ...

    assert named(way, work, "{args} {args[1]} {kwargs} {kwargs[a]}", 1, 2, a=3) == "(1, 2) 2 {'a': 3} 3"


def test_a_template_sees_self() -> None:
    class Model:
        a = "deep"

        @task(task_run_name="fit {self.a} {n}")
        def fit(self, n: int) -> str:
            return runtime.task_run.name

    @flow
    def main() -> list[str]:
        return [Model().fit(1), Model().fit.submit(2).result(), Model.fit(Model(), 3)]

    assert main() == ["fit deep 1", "fit deep 2", "fit deep 3"]


def test_a_template_sees_resolved_values() -> None:
    t = name_of.with_options(task_run_name="got {x}")

    @flow
    def main() -> list[Any]:
        future = passed.submit(5)
        return [
            t(future),
            t.submit(future).result(),
            t.submit([future]).result(),
            t.map([future, 6]).result(),
        ]

    assert main() == ["got 5", "got 5", "got [5]", ["got 5", "got 6"]]


def test_a_templated_name_works_outside_a_flow() -> None:
    assert name_of.with_options(task_run_name="n={x}")(3) == "n=3"


def test_a_template_without_fields_is_the_name() -> None:
    assert name_of.with_options(task_run_name="just this")() == "just this"
    assert name_of.with_options(task_run_name="{{x}}")() == "{x}"


def test_an_empty_template_clears() -> None:
    assert name_of.with_options(task_run_name="t").with_options(task_run_name="")() == "name_of"
    assert name_of.with_options(task_run_name="t").with_options(task_run_name=None)() == "name_of"


class CallableName:
    def __call__(self) -> str:
        return "from an object"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("option", "expected"),
    [
        (lambda: "from a lambda", "from a lambda"),
        (lambda parameters: f"x={parameters['x']} y={parameters['y']}", "x=1 y=2"),
        (CallableName(), "from an object"),
        (partial(lambda a, parameters: f"{a}{parameters['x']}", "p"), "p1"),
    ],
    ids=["no arguments", "parameters", "object", "partial"],
)
def test_a_callable_makes_the_name(way: str, option: Any, expected: str) -> None:
    def work(x: int, y: int = 2) -> None: ...

    assert named(way, work, option, 1) == expected


def test_the_callable_sees_resolved_parameters_and_the_runs_around_it() -> None:
    def name(parameters: dict[str, Any]) -> str:
        return f"{runtime.flow_run.name}/{parameters['x']}"

    @flow(flow_run_name="outer")
    def main() -> str:
        return name_of.with_options(task_run_name=name).submit(passed.submit(4)).result()

    assert main() == "outer/4"


@pytest.mark.parametrize("way", WAYS)
def test_the_name_is_computed_once_before_the_first_attempt_runs(way: str) -> None:
    events: list[str] = []

    def name() -> str:
        events.append("name")
        return "once"

    def body() -> None:
        events.append(runtime.task_run.name)
        if events.count("once") < 3:
            raise ValueError

    t = task(
        task_run_name=name,
        retries=2,
        on_running=[lambda task, run, state: events.append(f"running {run.name}")],
    )
    wanted: Any = body
    if way.startswith("async"):

        async def wanted() -> None:
            body()

    work = t(wanted)

    @flow(task_runner=SequentialTaskRunner() if way == "sequential" else ThreadPoolTaskRunner)
    def main() -> None:
        work() if way == "direct" else work.submit().result()

    @flow
    async def amain() -> None:
        await work()

    asyncio.run(amain()) if way == "async direct" else main()
    assert events == ["name", *["running once", "once"] * 3]


@pytest.mark.parametrize("option", ["task_run_name", "flow_run_name"])
def test_a_wrong_name_option_is_refused_at_decoration(option: str) -> None:
    make: Any = task if option == "task_run_name" else flow
    with pytest.raises(TypeError) as raised:
        make(**{option: 3})(lambda: None)
    assert str(raised.value) == f"Expected string or callable for '{option}'; got int instead."


@pytest.mark.parametrize("way", ["direct", "submitted", "sequential", "async direct", "async submitted"])
@pytest.mark.parametrize(
    ("option", "error", "facts"),
    [
        ("{nope}", Exception, ["{nope}", "task_run_name"]),
        ("{x.nope}", Exception, ["{x.nope}", "nope"]),
        ("{x[0]}", Exception, ["{x[0]}"]),
        ("{", Exception, ["{"]),
        ("{}", Exception, ["{}"]),
        (lambda: 3, TypeError, ["int"]),
        (lambda: None, TypeError, ["NoneType"]),
        (lambda parameters: parameters["nope"], KeyError, ["nope"]),
    ],
)
def test_a_name_that_fails_ends_the_run_failed(way: str, option: Any, error: Any, facts: list[str]) -> None:
    bodies: list[int] = []
    hooks: list[str] = []
    options: dict[str, Any] = {
        f"on_{event}": [lambda task, run, state, event=event: hooks.append(event)]
        for event in ("running", "completion", "failure", "cancellation", "crashed")
    }

    def work(x: int) -> None:
        bodies.append(x)

    async def awork(x: int) -> None:
        bodies.append(x)

    t: Any = task(task_run_name=option, retries=2, **options)(awork if "async" in way else work)

    @flow(task_runner=SequentialTaskRunner() if way == "sequential" else ThreadPoolTaskRunner())
    def main() -> Any:
        if way == "direct":
            state = t(1, return_state=True)
            with pytest.raises(error):
                t(1)
        else:
            future = t.submit(1)
            failed = future.exception(5)
            assert isinstance(failed, error)
            state = future.state
            assert state.data is failed
        return [state.type, state.name, str(state.data)]

    @flow
    async def amain() -> Any:
        state = await t(1, return_state=True)
        return [state.type, state.name, str(state.data)]

    kind, name, message = asyncio.run(amain()) if way == "async direct" else main()
    assert (kind, name) == (StateType.FAILED, "Failed")
    for fact in facts:
        assert fact in message
    assert bodies == []
    assert set(hooks) == {"failure"}


# --- names of flow runs -----------------------------------------------------------------------------------------


def test_a_flow_run_has_two_random_words_for_a_name() -> None:
    @flow
    def main() -> str:
        return runtime.flow_run.name

    names = {main() for _ in range(20)}
    assert all(re.fullmatch(r"[a-z]+-[a-z]+", name) for name in names)
    assert len(names) > 10


def test_flow_names_are_templates_over_validated_parameters() -> None:
    @flow(flow_run_name="{n:03d} for {who.name} {extra}")
    def main(n: int, who: Any, extra: str = "dflt") -> str:
        return runtime.flow_run.name

    assert main("7", Named("Ann")) == "007 for Ann dflt"  # type: ignore[arg-type]


def test_an_async_flow_is_named_by_template() -> None:
    @flow(flow_run_name="a{n}")
    async def main(n: int) -> str:
        return runtime.flow_run.name

    assert asyncio.run(main(1)) == "a1"


def test_the_callable_of_a_flow_may_use_the_runtime() -> None:
    def name() -> str:
        facts = runtime.flow_run
        return f"{facts.flow_name}:{facts.parameters['n']}:{uuid.UUID(facts.id).version}"

    @flow(flow_run_name=name)
    def my_main(n: int) -> str:
        return runtime.flow_run.name

    assert my_main("5") == "my-main:5:" + str(uuid.UUID(_own_id()).version)  # type: ignore[arg-type]


def _own_id() -> str:
    @flow
    def any_flow() -> str:
        return runtime.flow_run.id

    return any_flow()


def test_the_callable_of_a_subflow_sees_the_subflow_run() -> None:
    @flow(name="inner", flow_run_name=lambda: f"{runtime.flow_run.flow_name}")
    def inner() -> str:
        return runtime.flow_run.name

    @flow(name="outer")
    def outer() -> list[str]:
        return [inner(), inner.submit().result()]

    assert outer() == ["inner", "inner"]


def test_the_callable_of_a_flow_gets_the_parameters() -> None:
    @flow(flow_run_name=lambda parameters: f"n={parameters['n'] + 1}")
    def main(n: int) -> str:
        return runtime.flow_run.name

    assert main("1") == "n=2"  # type: ignore[arg-type]


@pytest.mark.parametrize("option", ["{nope}", lambda: 3])
def test_a_flow_name_that_fails_ends_the_run_failed(option: Any) -> None:
    hooks: list[str] = []

    @flow(flow_run_name=option, on_failure=[lambda flow, run, state: hooks.append(state.name)], retries=2)
    def main() -> None:
        raise AssertionError("the body must not run")

    state = main(return_state=True)
    assert (state.type, state.name) == (StateType.FAILED, "Failed")
    assert ("int" if callable(option) else "{nope}") in str(state.data)
    with pytest.raises(TypeError if callable(option) else Exception):
        main()
    assert hooks == ["Failed", "Failed"]


def test_invalid_parameters_win_over_the_name() -> None:
    @flow(flow_run_name="{n.nope}")
    def main(n: int) -> None: ...

    with pytest.raises(ParameterTypeError):
        main("x")  # type: ignore[arg-type]


# --- tags -------------------------------------------------------------------------------------------------------


def test_tags_nest_and_add_up() -> None:
    with tags("a", "b") as outer:
        assert set(outer) == {"a", "b"}
        with tags("c", "a") as inner:
            assert set(inner) == {"a", "b", "c"}
            assert tags_of() == ["a", "b", "c"]
        assert set(outer) == {"a", "b"}
        assert tags_of() == ["a", "b"]
    assert tags_of() == []


def test_changing_the_yielded_tags_changes_nothing() -> None:
    with tags("a") as current:
        current.add("hacked")
        assert tags_of() == ["a"]


def test_tags_end_with_their_block_even_if_it_raises() -> None:
    with pytest.raises(ValueError, match="stop"), tags("a"):
        raise ValueError("stop")
    assert tags_of() == []
    assert TagsContext.get().current_tags == set()


def test_one_string_is_one_tag() -> None:
    with tags("nightly"):
        assert tags_of() == ["nightly"]
    assert task(tags="eu")(lambda: runtime.task_run.tags)() == ["eu"]


@pytest.mark.parametrize("bad", [(1,), (["a"],), (None,)])
def test_tags_must_be_strings(bad: Any) -> None:
    with pytest.raises(TypeError, match="tags"), tags(*bad):
        pass
    assert tags_of() == []


def test_tags_of_block_flow_and_task_are_merged_everywhere() -> None:
    tagged = tags_of.with_options(tags=["own"])
    atagged = atags_of.with_options(tags=["own"])

    @task
    def nested() -> list[list[str]]:
        with tags("nested"):
            return [tagged(), tagged.submit().result()]

    @flow
    def inner() -> list[Any]:
        return [runtime.flow_run.tags, tagged.submit().result()]

    @flow
    def main() -> list[Any]:
        with tags("block"):
            found = [tagged(), tagged.submit().result(), tagged.map([1, 2]).result(), nested()]
            found += [atagged.submit().result(), inner(), inner.submit().result()]
        return [*found, tagged(), runtime.flow_run.tags]

    with tags("flow"):
        found = main()
    in_block = ["block", "flow", "own"]
    deep = ["block", "flow", "nested", "own"]
    sub = [["block", "flow"], in_block]
    assert found == [
        *(in_block, in_block, [in_block, in_block], [deep, deep], in_block, sub, sub),
        *(["flow", "own"], ["flow"]),
    ]


def test_an_async_flow_has_the_tags_too() -> None:
    @flow
    async def main() -> list[Any]:
        with tags("block"):
            return [runtime.flow_run.tags, await atags_of(), await atags_of.submit(), tags_of()]

    async def run() -> list[Any]:
        with tags("flow"):
            return await main()

    assert asyncio.run(run()) == [["flow"], *[["block", "flow"]] * 3]


def test_coroutines_do_not_see_each_others_tags() -> None:
    @flow
    async def main() -> list[Any]:
        async def one(name: str) -> list[Any]:
            with tags(name):
                before = await atags_of()
                await asyncio.sleep(0)
                return [before, await atags_of.submit(), tags_of()]

        return await asyncio.gather(one("a"), one("b"))

    assert asyncio.run(main()) == [[["a"]] * 3, [["b"]] * 3]


@pytest.mark.parametrize("runner", [ThreadPoolTaskRunner(max_workers=1), SequentialTaskRunner()], ids=repr)
def test_a_worker_keeps_no_tags_of_the_run_before(runner: Any) -> None:
    @task
    def leaky() -> list[str]:
        tags("leak").__enter__()
        return runtime.task_run.tags

    @flow(task_runner=runner)
    def main() -> list[Any]:
        with tags("one"):
            first = leaky.submit()
        second = tags_of.submit()
        with tags("three"):
            third = tags_of.submit()
        return [first.result(), second.result(), third.result(), tags_of.submit().result(), tags_of()]

    assert main() == [["one"], [], ["three"], [], []]


def test_tags_are_those_of_the_submission_not_of_the_execution() -> None:
    gate = threading.Event()

    @task
    def held() -> list[int]:
        gate.wait(5)
        return [1, 2]

    @flow
    def main() -> list[Any]:
        future = held.submit()
        with tags("then"):
            waiting = tags_of.submit(wait_for=[future])
            mapped = tags_of.map(future)
        with tags("now"):
            gate.set()
            return [waiting.result(), mapped.result()]

    assert main() == [["then"], [["then"], ["then"]]]


def test_with_options_replaces_tags() -> None:
    t = tags_of.with_options(tags=["a", "b"])
    assert t.with_options(tags=["c"])() == ["c"]
    assert t.with_options(tags=[])() == []
    assert t() == ["a", "b"]


def test_tags_are_recorded(own_store: Path) -> None:
    @flow
    def main() -> None:
        with tags("b"):
            tags_of.with_options(tags=["c"])()

    with tags("a"):
        main()
    reader = SQLiteReader(own_store)
    try:
        (root,) = reader.runs(kind="flow")
        assert root.tags == '["a"]'
        assert [row.tags for row in reader.tree(root.id)] == ['["a", "b", "c"]']
    finally:
        reader.close()


# --- runtime ----------------------------------------------------------------------------------------------------

OUTSIDE = {"id": None, "name": None, "tags": [], "parameters": {}, "run_count": 0}
OUTSIDE_FLOW = {
    **OUTSIDE,
    **dict.fromkeys(["flow_name", "flow_version", "scheduled_start_time", "parent_flow_run_id", "root_flow_run_id"]),
}
OUTSIDE_TASK = {**OUTSIDE, "task_name": None}


def flow_facts() -> dict[str, Any]:
    return {name: getattr(runtime.flow_run, name) for name in OUTSIDE_FLOW}


def task_facts() -> dict[str, Any]:
    return {name: getattr(runtime.task_run, name) for name in OUTSIDE_TASK}


def test_the_runtime_outside_of_any_run() -> None:
    assert flow_facts() == OUTSIDE_FLOW
    assert task_facts() == OUTSIDE_TASK
    runtime.flow_run.tags.append("x")
    runtime.flow_run.parameters["x"] = 1
    assert flow_facts() == OUTSIDE_FLOW


def test_the_runtime_in_a_flow_is_no_task_run() -> None:
    @flow
    def main() -> Any:
        return task_facts()

    assert main() == OUTSIDE_TASK


def test_the_runtime_in_a_task_outside_of_a_flow() -> None:
    @task
    def alone(x: int, y: int = 2) -> Any:
        return [flow_facts(), task_facts()]

    of_flow, of_task = alone(1)
    assert of_flow == OUTSIDE_FLOW
    assert uuid.UUID(of_task.pop("id"))
    assert of_task == {
        "name": "alone",
        "tags": [],
        "parameters": {"x": 1, "y": 2},
        "run_count": 1,
        "task_name": "alone",
    }


def test_the_runtime_in_a_task_of_a_flow() -> None:
    @task
    def work(x: int, y: int = 2) -> Any:
        return [flow_facts(), task_facts()]

    @flow(name="my flow", version="v7", flow_run_name="run")
    def main(n: int) -> Any:
        future = work.submit(passed.submit(1))
        of_flow, of_task = future.result()
        assert of_task["id"] == str(future.task_run_id)
        assert of_flow == flow_facts()
        return of_flow, of_task

    before = datetime.now(UTC)
    with tags("t"):
        of_flow, of_task = main("3")  # type: ignore[arg-type]
    uuid.UUID(of_task.pop("id"))
    assert of_task == {
        "name": "work-0",
        "tags": ["t"],
        "parameters": {"x": 1, "y": 2},
        "run_count": 1,
        "task_name": "work",
    }
    assert before <= of_flow.pop("scheduled_start_time") <= datetime.now(UTC)
    assert of_flow["root_flow_run_id"] == of_flow["id"] == str(uuid.UUID(of_flow.pop("id")))
    del of_flow["root_flow_run_id"]
    assert of_flow == {
        "name": "run",
        "tags": ["t"],
        "parameters": {"n": 3},
        "run_count": 1,
        "flow_name": "my flow",
        "flow_version": "v7",
        "parent_flow_run_id": None,
    }


def test_the_runtime_in_subflows_names_parent_and_root() -> None:
    @task
    def bridge() -> Any:
        return innermost()

    @flow
    def innermost() -> Any:
        return flow_facts()

    @flow
    def middle() -> Any:
        return [flow_facts(), innermost(), bridge.submit().result(), innermost.submit().result()]

    @flow
    def main() -> Any:
        return [flow_facts(), *middle()]

    root, mid, *deep = main()
    assert (root["parent_flow_run_id"], root["root_flow_run_id"]) == (None, root["id"])
    assert (mid["parent_flow_run_id"], mid["root_flow_run_id"]) == (root["id"], root["id"])
    for facts in deep:
        assert (facts["parent_flow_run_id"], facts["root_flow_run_id"]) == (mid["id"], root["id"])
    assert len({facts["id"] for facts in (root, mid, *deep)}) == 5


def test_run_count_counts_attempts() -> None:
    counts = []

    @task(retries=2)
    def flaky() -> None:
        counts.append((runtime.flow_run.run_count, runtime.task_run.run_count))
        raise ValueError

    @flow(retries=1)
    def main() -> None:
        flaky.submit().result()

    with pytest.raises(ValueError):
        main()
    assert counts == [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3)]


def test_the_runtime_in_async_code() -> None:
    @task
    async def work(n: int) -> Any:
        before = task_facts()
        await asyncio.sleep(0)
        assert task_facts() == before
        return before["parameters"]["n"], before["name"]

    @flow
    async def main() -> Any:
        direct = await asyncio.gather(*[work(n) for n in range(3)])
        return [*direct, *await work.map(range(2))]

    assert asyncio.run(main()) == [
        (0, "work-0"),
        (1, "work-1"),
        (2, "work-2"),
        (0, "work-3[0]"),
        (1, "work-3[1]"),
    ]


@pytest.mark.parametrize("facts", [runtime.flow_run, runtime.task_run])
def test_an_unknown_attribute_is_an_error(facts: Any) -> None:
    with pytest.raises(AttributeError, match="nope"):
        facts.nope
    with pytest.raises(AttributeError):
        runtime.task_run.flow_name
    assert not hasattr(facts, "__wrapped__")


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("name", "mine", "mine"),
        ("id", "abc", "abc"),
        ("run_count", "7", 7),
        ("tags", "a,b", ["a", "b"]),
        ("parameters", '{"x": 1}', {"x": 1}),
    ],
)
@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("kind", ["flow", "task"])
def test_a_variable_stands_in_for_a_fact(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str, expected: Any, inside: bool, kind: str
) -> None:
    monkeypatch.setenv(f"PENSTOCK__RUNTIME__{kind.upper()}_RUN__{name.upper()}", text)

    @task
    def ask() -> Any:
        return getattr(getattr(runtime, f"{kind}_run"), name)

    @flow
    def main() -> Any:
        return ask()

    assert (main() if inside else ask.fn()) == expected


def test_a_variable_for_the_start_time_is_cast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK__RUNTIME__FLOW_RUN__SCHEDULED_START_TIME", "2024-05-06T07:08:09+00:00")

    @flow
    def main() -> Any:
        return runtime.flow_run.scheduled_start_time

    assert main() == datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)


def test_a_variable_of_the_runtime_is_no_unknown_setting(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PENSTOCK__RUNTIME__TASK_RUN__NAME", "mine")
    assert name_of() == "mine"
    assert [record for record in caplog.records if record.levelname == "WARNING"] == []


# --- contexts ---------------------------------------------------------------------------------------------------


def test_there_is_no_context_outside_of_runs() -> None:
    assert FlowRunContext.get() is None
    assert TaskRunContext.get() is None
    with pytest.raises(MissingContextError) as raised:
        get_run_context()
    assert isinstance(raised.value, RuntimeError)
    assert isinstance(raised.value, PenstockError)


def test_the_context_in_a_flow() -> None:
    @flow(flow_run_name="run")
    def main(n: int) -> None:
        context = get_run_context()
        assert isinstance(context, FlowRunContext)
        assert TaskRunContext.get() is None
        assert context.flow is main
        assert context.parameters == {"n": 3}
        assert isinstance(context.start_time, datetime)
        assert context.start_time.utcoffset() is not None
        run = context.flow_run
        assert str(run.id) == runtime.flow_run.id
        assert (run.name, run.run_count, set(run.tags), run.flow_run_id) == ("run", 1, {"t"}, None)
        assert run.state.type is StateType.RUNNING

    with tags("t"):
        main("3")  # type: ignore[arg-type]


@pytest.mark.parametrize("submitted", [False, True])
def test_the_context_in_a_task(submitted: bool) -> None:
    @task(retries=1)
    def work(x: int, y: int = 2) -> None:
        context = get_run_context()
        assert isinstance(context, TaskRunContext)
        assert context.task is work
        assert context.parameters == {"x": 1, "y": 2}
        assert isinstance(context.start_time, datetime)
        run = context.task_run
        assert str(run.id) == runtime.task_run.id
        assert (run.name, set(run.tags)) == ("work-0", {"t"})
        around = FlowRunContext.get()
        assert around is not None
        assert around.flow is main
        assert run.flow_run_id == around.flow_run.id
        if run.run_count == 1:
            assert (run.state.type, run.state.name) == (StateType.RUNNING, "Running")
            raise ValueError
        assert (run.run_count, run.state.name) == (2, "Retrying")

    @flow
    def main() -> None:
        with tags("t"):
            work.submit(1).result() if submitted else work(1)

    main()


def test_a_task_outside_of_a_flow_has_no_flow_context() -> None:
    @task
    def alone() -> None:
        context = get_run_context()
        assert isinstance(context, TaskRunContext)
        assert FlowRunContext.get() is None
        assert context.task_run.flow_run_id is None

    alone()


def test_the_context_ends_with_the_run() -> None:
    @flow
    def main() -> None:
        passed(1)
        assert TaskRunContext.get() is None

    main()
    assert FlowRunContext.get() is None
    with pytest.raises(ZeroDivisionError):
        flow(lambda: 1 / 0)()
    assert FlowRunContext.get() is None


# --- with_context -----------------------------------------------------------------------------------------------


def in_thread(fn: Any) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(fn).result()


def test_a_thread_of_the_users_has_no_context_of_its_own() -> None:
    @flow
    def main() -> None:
        with tags("t"):
            assert in_thread(FlowRunContext.get) is None
            with pytest.raises(MissingContextError):
                in_thread(get_run_context)
            with pytest.raises(RuntimeError, match=r"with_context\(fn\)") as raised:
                in_thread(name_of.submit)
            assert "name_of.submit()" in str(raised.value)

    main()


def test_with_context_carries_run_and_tags_into_a_thread() -> None:
    @flow
    def main() -> None:
        def look(n: int, *, k: int) -> Any:
            """Doc."""
            return n, k, runtime.flow_run.id, name_of.submit().result(), tags_of()

        with tags("t"):
            wrapped = with_context(look)
        assert wrapped.__name__ == "look"
        assert wrapped.__doc__ == "Doc."
        assert in_thread(lambda: wrapped(1, k=2)) == (1, 2, runtime.flow_run.id, "name_of-0", ["t"])
        assert tags_of() == []

    main()


def test_a_wrapped_function_works_many_times_and_at_once() -> None:
    together = threading.Barrier(4, timeout=5)

    @flow
    def main() -> set[str]:
        @with_context
        def look() -> str:
            together.wait()
            return name_of.submit().result()

        with ThreadPoolExecutor(4) as pool:
            return {future.result() for future in [pool.submit(look) for _ in range(8)]}

    assert main() == {f"name_of-{n}" for n in range(8)}


def test_with_context_passes_exceptions_on() -> None:
    @flow
    def main() -> None:
        def fail() -> None:
            raise KeyError("k")

        with pytest.raises(KeyError):
            in_thread(with_context(fail))

    main()


def test_a_context_that_outlives_its_run_cannot_submit() -> None:
    @flow
    def main() -> Any:
        return [with_context(lambda: name_of.submit())]

    (late,) = main()
    with pytest.raises(RuntimeError, match="has ended"):
        in_thread(late)
