from __future__ import annotations

import dataclasses
import json
import pickle
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock._core.keys import Unhashable
from penstock.cache_policies import (
    DEFAULT,
    FLOW_PARAMETERS,
    INPUTS,
    NO_CACHE,
    NONE,
    RUN_ID,
    TASK_SOURCE,
    CachePolicy,
    differences,
    ingredients,
    key_of,
    task_input_hash,
)


def load(x: Any, debug: bool = False) -> Any:
    return x


def save(x: Any, debug: bool = False) -> Any:
    return x, debug


def context(fn: Any = load, flow_run_id: Any = "flow-1", run_id: str = "run-1") -> Any:
    task = SimpleNamespace(fn=fn, task_key="t", name=fn.__name__)
    return SimpleNamespace(task=task, task_run=SimpleNamespace(id=run_id, flow_run_id=flow_run_id, name="load-0"))


def key(policy: CachePolicy, *, flow: Any = None, ctx: Any = None, **inputs: Any) -> str | None:
    return policy.compute_key(task_ctx=ctx or context(), inputs=inputs, flow_parameters=flow)


def by_day(task_ctx: Any, parameters: dict[str, Any]) -> str | None:
    day: str | None = parameters.get("day")
    return day


class Always(CachePolicy):
    def compute_key(self, task_ctx: Any, inputs: Any, flow_parameters: Any, **kw: Any) -> str | None:
        return f"{task_ctx.task.name}-{len(inputs)}"


@dataclasses.dataclass(frozen=True)
class Versioned(CachePolicy):
    version: int = 1

    def compute_key(self, task_ctx: Any, inputs: Any, flow_parameters: Any, **kw: Any) -> str | None:
        return f"v{self.version}"


# --- What each one looks at ---


def test_inputs() -> None:
    assert key(INPUTS, x=1) == key(INPUTS, x=1, ctx=context(save, "flow-2"), flow={"p": 1})
    assert len({key(INPUTS, x=1), key(INPUTS, x=True), key(INPUTS, y=1), key(INPUTS, x=1, y=2), key(INPUTS)}) == 5
    assert key(INPUTS, x=1, y=2) == key(INPUTS, y=2, x=1)


def test_inputs_that_are_left_out() -> None:
    policy = INPUTS - "debug"
    assert key(policy, x=1, debug=True) == key(policy, x=1, debug=False) == key(policy, x=1)
    assert key(policy, x=1, debug=threading.Lock()) == key(policy, x=1)
    assert key(policy - "x", x=1, debug=2) == key(policy - "x")
    assert key(INPUTS, x=1, debug=True) != key(INPUTS, x=1, debug=False), "the original is as it was"


def test_task_source() -> None:
    assert key(TASK_SOURCE, x=1) == key(TASK_SOURCE, x=2, ctx=context(load, "flow-2"))
    assert key(TASK_SOURCE) != key(TASK_SOURCE, ctx=context(save))


def test_flow_parameters() -> None:
    assert key(FLOW_PARAMETERS, flow={"p": 1}, x=1) == key(FLOW_PARAMETERS, flow={"p": 1}, x=2)
    keys = {key(FLOW_PARAMETERS, flow=flow) for flow in ({"p": 1}, {"p": 2}, {"q": 1}, {})}
    assert len(keys) == 4 and None not in keys
    assert key(FLOW_PARAMETERS, flow=None) is None, "there is no flow run"


def test_run_id() -> None:
    assert key(RUN_ID, x=1) == key(RUN_ID, x=2, ctx=context(run_id="run-2"))
    assert key(RUN_ID) != key(RUN_ID, ctx=context(flow_run_id="flow-2"))
    alone, other = context(flow_run_id=None), context(flow_run_id=None, run_id="run-2")
    assert key(RUN_ID, ctx=alone) not in (None, key(RUN_ID, ctx=other))


def test_no_cache() -> None:
    assert NONE is NO_CACHE
    assert key(NO_CACHE, x=1) is None


def test_default_is_inputs_code_and_flow_run() -> None:
    assert DEFAULT == INPUTS + TASK_SOURCE + RUN_ID
    same = key(DEFAULT, x=1)
    assert same == key(DEFAULT, x=1, flow={"p": 1})
    different = [
        key(DEFAULT, x=2),
        key(DEFAULT, x=1, ctx=context(save)),
        key(DEFAULT, x=1, ctx=context(flow_run_id="flow-2")),
    ]
    assert len({same, *different}) == 4


def test_a_key_function() -> None:
    policy = CachePolicy.from_cache_key_fn(by_day)
    assert key(policy, day="monday") == "monday"
    assert key(policy) is None
    with pytest.raises(TypeError, match="callable"):
        CachePolicy.from_cache_key_fn("monday")  # type: ignore[arg-type]


def test_a_policy_of_ones_own() -> None:
    assert key(Always(), x=1) == "load-1"
    assert key(Versioned(2)) == "v2"
    with pytest.raises(NotImplementedError):
        key(CachePolicy())


def test_a_key_that_is_no_string_is_an_error() -> None:
    policy = CachePolicy.from_cache_key_fn(lambda ctx, parameters: 3)  # type: ignore[arg-type,return-value]
    with pytest.raises(TypeError, match=r"string or None.*int"):
        ingredients(policy, context(), {}, None)
    with pytest.raises(TypeError, match=r"string or None.*int"):
        key(policy + INPUTS)


def test_what_cannot_be_hashed_is_named() -> None:
    with pytest.raises(Unhashable) as caught:
        key(INPUTS, x=1, config=SimpleNamespace(client=threading.Lock()))
    assert (caught.value.path, caught.value.kind) == ("config['client']", "_thread.lock")
    with pytest.raises(Unhashable) as caught:
        key(FLOW_PARAMETERS, flow={"p": [threading.Lock()]})
    assert caught.value.path == "flow_parameters['p'][0]"


def test_task_input_hash() -> None:
    same = task_input_hash(context(), {"x": 1})
    assert same == task_input_hash(context(flow_run_id="flow-2"), {"x": 1})
    assert len({same, task_input_hash(context(), {"x": 2}), task_input_hash(context(save), {"x": 1})}) == 3
    with pytest.raises(Unhashable):
        task_input_hash(context(), {"x": threading.Lock()})


# --- Together ---

SINGLE = [INPUTS, TASK_SOURCE, FLOW_PARAMETERS, RUN_ID, NO_CACHE, INPUTS - "debug", Always(), Versioned(3)]


def test_adding_is_flat_and_keeps_the_originals() -> None:
    total = (INPUTS + TASK_SOURCE) + (RUN_ID + (Always() + INPUTS))
    assert repr(total) == "INPUTS + TASK_SOURCE + RUN_ID + Always"
    assert repr(INPUTS) == "INPUTS"
    assert total == INPUTS + (TASK_SOURCE + RUN_ID) + Always()
    with pytest.raises(TypeError):
        INPUTS + "x"  # type: ignore[operator]


def test_inputs_left_out_are_merged() -> None:
    assert (INPUTS - "a" + (RUN_ID + (INPUTS - "b"))).exclude == {"a", "b"}
    assert RUN_ID.exclude == DEFAULT.exclude == Always().exclude == frozenset()
    assert (INPUTS - "a") + (INPUTS - "b") == INPUTS - "a" - "b" + INPUTS
    assert repr((INPUTS - "a") + RUN_ID + (INPUTS - "b")) == "INPUTS - 'a' - 'b' + RUN_ID"
    assert key(DEFAULT - "debug", x=1, debug=1) == key(DEFAULT - "debug", x=1, debug=2)
    assert key((INPUTS - "a") + RUN_ID - "b", a=1, b=2) == key(INPUTS - "a" - "b" + RUN_ID)


@pytest.mark.parametrize("policy", [TASK_SOURCE, RUN_ID, NO_CACHE, Always(), TASK_SOURCE + RUN_ID], ids=repr)
def test_leaving_out_an_input_needs_inputs(policy: CachePolicy) -> None:
    assert policy - "x" == policy
    assert key(policy - "x", x=1) == key(policy, x=1)


@pytest.mark.parametrize("policy", [INPUTS, RUN_ID, DEFAULT, Always()], ids=repr)
@pytest.mark.parametrize("name", [1, None, b"x", ["x"], INPUTS])
def test_only_names_can_be_left_out(policy: CachePolicy, name: Any) -> None:
    with pytest.raises(TypeError, match="name of an input"):
        policy - name


def test_keys_that_are_none_do_not_count() -> None:
    assert key(INPUTS + NO_CACHE, x=1) == key(INPUTS, x=1)
    assert key(INPUTS + FLOW_PARAMETERS, x=1) == key(INPUTS, x=1)
    by_day_too = INPUTS - "day" + CachePolicy.from_cache_key_fn(by_day)
    assert key(by_day_too, x=1) == key(INPUTS, x=1) != key(by_day_too, x=1, day="monday")
    assert key(NO_CACHE + FLOW_PARAMETERS) is None


def test_keys_of_others_keep_their_places() -> None:
    one = CachePolicy.from_cache_key_fn(lambda ctx, p: p.get("a"))
    other = CachePolicy.from_cache_key_fn(lambda ctx, p: p.get("b"))
    cases: list[dict[str, str]] = [{"a": "k"}, {"b": "k"}, {"a": "k", "b": "l"}, {"a": "l", "b": "k"}, {"a": "kl"}]
    keys = {key(one + other, **case) for case in cases}
    assert len(keys) == len(cases) and None not in keys
    assert key(one + other) is None


@given(st.lists(st.sampled_from(SINGLE), min_size=1, max_size=5))
def test_no_sum_confuses_what_one_of_its_parts_tells_apart(parts: list[CachePolicy]) -> None:
    total = parts[0]
    for part in parts[1:]:
        total += part
    left_out = any(part == INPUTS - "debug" for part in parts)
    calls: list[tuple[dict[str, Any], Any, Any]] = [
        ({"x": 1, "debug": 1}, {"p": 1}, context()),
        ({"x": 2, "debug": 1}, {"p": 1}, context()),
        ({"x": 1, "debug": 2}, {"p": 1}, context()),
        ({"x": 1, "debug": 1}, {"p": 2}, context()),
        ({"x": 1, "debug": 1}, {"p": 1}, context(save)),
        ({"x": 1, "debug": 1}, {"p": 1}, context(flow_run_id="flow-2")),
    ]
    first, *others = [
        (total.compute_key(ctx, inputs, flow), [part.compute_key(ctx, inputs, flow) for part in parts])
        for inputs, flow, ctx in calls
    ]
    for place, (whole, own) in enumerate(others):
        expected = own != first[1] and not (left_out and place == 1)
        assert (whole != first[0]) == expected, calls[place + 1]


# --- Settings ---


def test_configure_gives_a_copy() -> None:
    policy = INPUTS.configure(key_storage="keys", isolation_level="serializable")
    assert (policy.key_storage, policy.isolation_level, policy.lock_manager) == ("keys", "serializable", None)
    assert (INPUTS.key_storage, INPUTS.isolation_level) == (None, None)
    again = policy.configure(lock_manager="locks")
    assert (again.key_storage, again.lock_manager, policy.lock_manager) == ("keys", "locks", None)
    assert key(again, x=1) == key(INPUTS, x=1)
    assert policy != INPUTS
    assert Versioned(2).configure(key_storage="keys").version == 2
    with pytest.raises(TypeError):
        INPUTS.configure(storage="keys")  # type: ignore[call-arg]


def test_settings_survive_adding_and_leaving_out() -> None:
    policy = INPUTS.configure(key_storage=Path("keys")) + TASK_SOURCE.configure(lock_manager="locks") - "x"
    assert (policy.key_storage, policy.lock_manager, policy.isolation_level) == (Path("keys"), "locks", None)
    total = policy + RUN_ID.configure(key_storage=Path("keys"))
    assert (total.key_storage, total.lock_manager) == (Path("keys"), "locks")
    assert (INPUTS.configure(key_storage="a") - "x").key_storage == "a"


@pytest.mark.parametrize("setting", ["key_storage", "isolation_level", "lock_manager"])
def test_settings_that_contradict_each_other(setting: str) -> None:
    one, other = INPUTS.configure(**{setting: "a"}), RUN_ID.configure(**{setting: "b"})
    with pytest.raises(ValueError, match=rf"{setting}.*'a' and 'b'"):
        one + other
    with pytest.raises(ValueError, match=setting):
        (one + TASK_SOURCE) + (Always() + other)


@pytest.mark.parametrize("policy", [*SINGLE, DEFAULT, DEFAULT - "x"], ids=repr)
def test_policies_can_be_pickled(policy: CachePolicy) -> None:
    again = pickle.loads(pickle.dumps(policy))
    assert again == policy and hash(again) == hash(policy)
    assert key(again, x=1) == key(policy, x=1)


# --- Ingredients ---

EVERYTHING = DEFAULT + FLOW_PARAMETERS + CachePolicy.from_cache_key_fn(by_day)


@pytest.mark.parametrize("policy", [*SINGLE, DEFAULT, EVERYTHING, EVERYTHING + Always()], ids=repr)
def test_the_key_follows_from_the_ingredients(policy: CachePolicy) -> None:
    inputs, flow = {"x": 1, "day": "monday"}, {"p": 1}
    found = ingredients(policy, context(), inputs, flow)
    assert json.loads(json.dumps(found)) == found
    assert key_of(found) == policy.compute_key(context(), inputs, flow)


def test_ingredients_have_names() -> None:
    found = ingredients(EVERYTHING - "day", context(), {"x": 1, "day": "monday"}, {"p": 1})
    assert set(found) == {"inputs", "code", "flow_parameters", "run_id", "key"}
    assert set(found["inputs"]) == {"x"}
    assert set(found["code"]) == {"body", "default debug"}
    assert set(found["flow_parameters"]) == {"p"}
    assert (found["run_id"], found["key"]) == ("flow-1", "monday")
    several = ingredients(EVERYTHING + Always(), context(), {"x": 1}, {"p": 1})
    assert several["key"] == [None, "load-1"]


def explained(before: tuple[Any, Any, dict[str, Any], Any], after: tuple[Any, Any, dict[str, Any], Any]) -> list[str]:
    return differences(ingredients(*before), ingredients(*after))


def test_differences_are_named() -> None:
    base: tuple[Any, Any, dict[str, Any], Any] = (EVERYTHING, context(), {"x": 1, "day": "a"}, {"p": 1})
    policy, ctx, inputs, flow = base
    assert explained(base, base) == []
    assert explained(base, (policy, ctx, {"x": 2, "day": "a"}, flow)) == ["argument x differs"]
    assert explained(base, (policy, ctx, {**inputs, "y": 1}, flow)) == ["argument y is new"]
    assert explained((policy, ctx, {**inputs, "y": 1}, flow), base) == ["argument y is gone"]
    assert explained(base, (policy, context(save), inputs, flow)) == ["code: body changed"]
    assert explained(base, (policy, ctx, inputs, {"p": 2})) == ["flow parameter p differs"]
    assert explained(base, (policy, context(flow_run_id="2"), inputs, flow)) == ["it belongs to another flow run"]
    assert explained(base, (policy, ctx, {"x": 1, "day": "b"}, flow)) == [
        "argument day differs",
        "the custom key was 'a' and is 'b'",
    ]


def test_differences_of_policies_are_named() -> None:
    ctx = context()
    assert explained((INPUTS, ctx, {"x": 1}, None), (INPUTS + TASK_SOURCE, ctx, {"x": 1}, None)) == [
        "the code did not count before"
    ]
    assert explained((DEFAULT, ctx, {"x": 1}, None), (RUN_ID, ctx, {"x": 1}, None)) == [
        "arguments counted before",
        "the code counted before",
    ]
    assert differences({}, {}) == []
    assert differences({"inputs": "nonsense"}, {"inputs": {}}) == ["arguments counted before"]


@given(
    st.dictionaries(st.sampled_from("abc"), st.integers(0, 1)),
    st.dictionaries(st.sampled_from("abc"), st.integers(0, 1)),
)
def test_there_are_differences_exactly_if_the_keys_differ(one: dict[str, int], other: dict[str, int]) -> None:
    found = explained((INPUTS, context(), one, None), (INPUTS, context(), other, None))
    assert (found == []) == (key(INPUTS, **one) == key(INPUTS, **other))
    assert len(found) == sum(one.get(name) != other.get(name) for name in {*one, *other})
