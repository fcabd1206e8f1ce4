"""What the key of a task's cached result is made of: `@task(cache_policy=INPUTS + TASK_SOURCE)`.

Policies are added (`+`), and inputs left out (`INPUTS - "debug"`). The identity of the task, module and qualified name,
is part of every key and no policy's business. A policy does not give its key at once but its *ingredients*, digests by
name: the key is their digest, and they are kept with the result, so that a later miss can say what has changed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Self

from penstock._core.code import code_digest, code_parts
from penstock._core.keys import combine, digest_of, register_hasher

__all__ = [
    "DEFAULT",
    "FLOW_PARAMETERS",
    "INPUTS",
    "NONE",
    "NO_CACHE",
    "RUN_ID",
    "TASK_SOURCE",
    "CachePolicy",
    "register_hasher",
]

_SETTINGS = ("key_storage", "isolation_level", "lock_manager")


class CachePolicy:
    """Says what the key of a cached result is made of. Subclasses define `compute_key`.

    `key_storage`, `isolation_level` and `lock_manager` say where the results of tasks with this policy are kept, and
    who keeps others from computing the same; see `configure`.
    """

    key_storage: Any = None
    isolation_level: Any = None
    lock_manager: Any = None

    @property
    def exclude(self) -> frozenset[str]:
        """The inputs that are left out."""
        return frozenset().union(*(policy.left_out for policy in self._members() if isinstance(policy, _Inputs)))

    def compute_key(
        self, task_ctx: Any, inputs: Mapping[str, Any], flow_parameters: Mapping[str, Any] | None, **kw: Any
    ) -> str | None:
        """The key; None: this call is not cached.

        `task_ctx` has the attributes `task` and `task_run`; `inputs` are the call's arguments by parameter,
        `flow_parameters` those of the flow run, None if there is none.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define compute_key()")

    @classmethod
    def from_cache_key_fn(cls, cache_key_fn: Callable[[Any, dict[str, Any]], str | None], /) -> CachePolicy:
        """A policy whose keys are what `cache_key_fn(task_ctx, parameters)` returns."""
        return _KeyFunction(cache_key_fn)

    def configure(self, *, key_storage: Any = None, isolation_level: Any = None, lock_manager: Any = None) -> Self:
        """A copy with these settings; what is None stays as it is."""
        given = {"key_storage": key_storage, "isolation_level": isolation_level, "lock_manager": lock_manager}
        configured = copy.copy(self)
        for name, value in given.items():
            if value is not None:
                object.__setattr__(configured, name, value)  # a subclass may be a frozen dataclass
        return configured

    def __add__(self, other: CachePolicy) -> CachePolicy:
        """Both: a key that differs as soon as one of theirs does. One that is None does not count."""
        if not isinstance(other, CachePolicy):
            return NotImplemented
        return _compound([*self._members(), *other._members()], _common_settings(self, other))

    def __sub__(self, name: str) -> CachePolicy:
        """Without this input. Changes nothing about policies that do not look at the inputs one by one."""
        _check_name(name)
        return self

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other) == vars(self)

    def __hash__(self) -> int:
        return hash(type(self))

    def __repr__(self) -> str:
        return type(self).__name__

    def _members(self) -> tuple[CachePolicy, ...]:
        return (self,)

    def _ingredients(
        self, task_ctx: Any, inputs: Mapping[str, Any], flow_parameters: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        flow = None if flow_parameters is None else dict(flow_parameters)
        key = self.compute_key(task_ctx=task_ctx, inputs=dict(inputs), flow_parameters=flow)
        if key is not None and not isinstance(key, str):
            raise TypeError(f"{self!r} must make a string or None of a call; it made a {type(key).__name__}")
        return {} if key is None else {"key": key}


class _Known(CachePolicy):
    """The base of the policies below, whose key follows from their ingredients."""

    def compute_key(
        self, task_ctx: Any, inputs: Mapping[str, Any], flow_parameters: Mapping[str, Any] | None, **kw: Any
    ) -> str | None:
        return key_of(self._ingredients(task_ctx, inputs, flow_parameters))


class _KeyFunction(CachePolicy):
    def __init__(self, cache_key_fn: Callable[[Any, dict[str, Any]], str | None]) -> None:
        if not callable(cache_key_fn):
            raise TypeError(f"'cache_key_fn' must be callable; got {type(cache_key_fn).__name__}")
        self.cache_key_fn = cache_key_fn

    def compute_key(
        self, task_ctx: Any, inputs: Mapping[str, Any], flow_parameters: Mapping[str, Any] | None, **kw: Any
    ) -> str | None:
        return self.cache_key_fn(task_ctx, dict(inputs))

    def __repr__(self) -> str:
        return getattr(self.cache_key_fn, "__qualname__", None) or repr(self.cache_key_fn)


class _Nothing(_Known):
    """No key: what is kept is not found again."""

    def _ingredients(self, task_ctx: Any, inputs: Any, flow_parameters: Any) -> dict[str, Any]:
        return {}

    def __repr__(self) -> str:
        return "NO_CACHE"


class _Inputs(_Known):
    """The arguments, by value and exact type."""

    def __init__(self, left_out: Iterable[str] = ()) -> None:
        self.left_out = frozenset(left_out)

    def __sub__(self, name: str) -> CachePolicy:
        fresh = copy.copy(self)
        fresh.left_out = self.left_out | {_check_name(name)}
        return fresh

    def _ingredients(self, task_ctx: Any, inputs: Any, flow_parameters: Any) -> dict[str, Any]:
        return {"inputs": {name: digest_of(inputs[name], name) for name in inputs if name not in self.left_out}}

    def __repr__(self) -> str:
        return " - ".join(["INPUTS", *map(repr, sorted(self.left_out))])


class _TaskSource(_Known):
    """The code of the task and of what it uses in its module."""

    def compute_key(self, task_ctx: Any, inputs: Any, flow_parameters: Any, **kw: Any) -> str | None:
        return combine("code", code_digest(task_ctx.task.fn))  # no need to condense the parts each time

    def _ingredients(self, task_ctx: Any, inputs: Any, flow_parameters: Any) -> dict[str, Any]:
        return {"code": code_parts(task_ctx.task.fn)}

    def __repr__(self) -> str:
        return "TASK_SOURCE"


class _FlowParameters(_Known):
    """The parameters of the flow run."""

    def _ingredients(self, task_ctx: Any, inputs: Any, flow_parameters: Any) -> dict[str, Any]:
        if flow_parameters is None:
            return {}
        names = flow_parameters.items()
        return {"flow_parameters": {name: digest_of(value, f"flow_parameters[{name!r}]") for name, value in names}}

    def __repr__(self) -> str:
        return "FLOW_PARAMETERS"


class _RunId(_Known):
    """The flow run; outside of any, the task run."""

    def _ingredients(self, task_ctx: Any, inputs: Any, flow_parameters: Any) -> dict[str, Any]:
        run = task_ctx.task_run
        return {"run_id": str(getattr(run, "flow_run_id", None) or run.id)}

    def __repr__(self) -> str:
        return "RUN_ID"


class _Compound(_Known):
    """Several policies, none of them a compound itself and at most one about inputs."""

    def __init__(self, policies: Iterable[CachePolicy]) -> None:
        self.policies = tuple(policies)

    def __sub__(self, name: str) -> CachePolicy:
        _check_name(name)
        fresh = copy.copy(self)
        fresh.policies = tuple(policy - name for policy in self.policies)
        return fresh

    def _members(self) -> tuple[CachePolicy, ...]:
        return self.policies

    def _ingredients(self, task_ctx: Any, inputs: Any, flow_parameters: Any) -> dict[str, Any]:
        found: dict[str, Any] = {}
        own: list[str | None] = []
        for policy in self.policies:
            part = policy._ingredients(task_ctx, inputs, flow_parameters)
            if not isinstance(policy, _Known):
                own.append(part.pop("key", None))
            found |= part
        if any(key is not None for key in own):
            found["key"] = own[0] if len(own) == 1 else own
        return found

    def __repr__(self) -> str:
        return " + ".join(map(repr, self.policies))


def _compound(members: list[CachePolicy], settings: dict[str, Any]) -> CachePolicy:
    """Settings belong to the whole; the same policy twice counts once, and inputs left out by one are left out."""
    inputs = [policy for policy in members if isinstance(policy, _Inputs)]
    merged: list[CachePolicy] = []
    for policy in members:
        if isinstance(policy, _Inputs):
            policy = _Inputs(frozenset().union(*(other.left_out for other in inputs)))
        elif isinstance(policy, _Known):
            policy = type(policy)()
        if policy not in merged:
            merged.append(policy)
    return _Compound(merged).configure(**settings)


def _common_settings(one: CachePolicy, other: CachePolicy) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for name in _SETTINGS:
        values = [value for value in (getattr(one, name), getattr(other, name)) if value is not None]
        if len(values) == 2 and values[0] != values[1]:
            both = f"{values[0]!r} and {values[1]!r}"
            raise ValueError(f"cannot add {one!r} and {other!r}: their values of {name} are {both}")
        settings[name] = values[0] if values else None
    return settings


def _check_name(name: Any) -> str:
    if not isinstance(name, str):
        raise TypeError(f"only the name of an input can be left out of a cache policy; got {type(name).__name__}")
    return name


INPUTS = _Inputs()
TASK_SOURCE = _TaskSource()
FLOW_PARAMETERS = _FlowParameters()
RUN_ID = _RunId()
NO_CACHE = NONE = _Nothing()
DEFAULT = INPUTS + TASK_SOURCE + RUN_ID


def task_input_hash(task_ctx: Any, parameters: Mapping[str, Any]) -> str | None:
    """A `cache_key_fn`: the same code with the same arguments."""
    return (INPUTS + TASK_SOURCE).compute_key(task_ctx, parameters, None)


# --- Ingredients ---

_SECTIONS = {"inputs": "argument {}", "code": "code: {}", "flow_parameters": "flow parameter {}"}


def ingredients(
    policy: CachePolicy, task_ctx: Any, inputs: Mapping[str, Any], flow_parameters: Mapping[str, Any] | None
) -> dict[str, Any]:
    """What goes into the key of this call, as JSON: digests by name in "inputs", "code", "flow_parameters"; "run_id";
    and "key", what policies of other people have made (a list if there are several).

    Raises `Unhashable`. `key_of` makes the key of it, so nothing needs to be hashed twice.
    """
    return policy._ingredients(task_ctx, inputs, flow_parameters)


def key_of(ingredients: Mapping[str, Any]) -> str | None:
    """The key that `compute_key` would give; None: do not cache."""
    if not ingredients:
        return None
    key = ingredients.get("key")
    if len(ingredients) == 1 and isinstance(key, str):
        return key
    return combine(*(text for name in sorted(ingredients) for text in (name, _condensed(ingredients[name]))))


def _condensed(section: Any) -> str:
    if isinstance(section, Mapping):  # for code this is what `code_digest` gives
        return combine(*(text for pair in sorted(section.items()) for text in pair))
    if isinstance(section, list):
        return combine(*("-" if key is None else f"+{key}" for key in section))
    return str(section)


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Sentences that name what differs between the ingredients of two keys; none if nothing does."""
    found: list[str] = []
    for name, phrase in _SECTIONS.items():
        before, after = old.get(name), new.get(name)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            found += _changes(before, after, phrase)
        elif before != after:
            found.append(_whole_section(name, before is None))
    if old.get("run_id") != new.get("run_id"):
        found.append("it belongs to another flow run")
    if old.get("key") != new.get("key"):
        found.append(f"the custom key was {old.get('key')!r} and is {new.get('key')!r}")
    return found


def _changes(before: Mapping[str, Any], after: Mapping[str, Any], phrase: str) -> Iterator[str]:
    verb = "changed" if phrase.startswith("code") else "differs"
    for name in dict.fromkeys([*after, *before]):
        if name not in before:
            yield phrase.format(name) + " is new"
        elif name not in after:
            yield phrase.format(name) + " is gone"
        elif before[name] != after[name]:
            yield f"{phrase.format(name)} {verb}"


def _whole_section(name: str, is_new: bool) -> str:
    what = {"inputs": "arguments", "code": "the code", "flow_parameters": "parameters of the flow"}[name]
    return f"{what} {'did not count before' if is_new else 'counted before'}"
