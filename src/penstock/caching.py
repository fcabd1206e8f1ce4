"""How the values of a definition are kept in an engine: where, in which form, under which keys."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from penstock._core import binding
from penstock._core.code import code_digest, identity_of
from penstock._core.errors import describe
from penstock._core.keys import Unhashable, combine, digest_of
from penstock._engine.keeping import Keeping, Question
from penstock.cache_policies import DEFAULT, NO_CACHE, CachePolicy, ingredients, key_of
from penstock.context import TaskRunContext
from penstock.exceptions import ConfigurationError
from penstock.keeping_options import defaults_of
from penstock.results.storages import storage_for
from penstock.serializers import get_serializer
from penstock.transactions import IsolationLevel

if TYPE_CHECKING:
    from penstock._engine.archive import Archive
    from penstock._engine.engine import Engine
    from penstock._engine.run import Run
    from penstock.definitions import Definition
    from penstock.keeping_options import Options

_logger = logging.getLogger("penstock")


def check(options: Options) -> bool:
    """Check policy, serializer and storage; whether there is a policy that says how to cache.

    Raises `TypeError` and `ConfigurationError`, each naming the option.
    """
    if options.policy is not None and not isinstance(options.policy, CachePolicy):
        raise TypeError(
            f"'cache_policy' must be a cache policy; got {type(options.policy).__name__}: for example "
            "cache_policy=INPUTS, or CachePolicy.from_cache_key_fn(fn)"
        )
    if options.serializer is not None:
        get_serializer(options.serializer)
    if options.storage is not None:
        storage_for(options.storage)
    return options.policy is not None and options.policy != NO_CACHE


def keeping_in(definition: Definition, engine: Engine, archive: Archive) -> Keeping:
    """How the values of a definition are kept in an engine that keeps them."""
    own, settings = definition.keeping, engine.settings
    defaults = defaults_of(definition, engine)
    policy = policy_in(definition, engine)
    asker = _Asker(definition, policy, None if settings.tasks_disable_caching else own.storage_key)
    storage = defaults.storage if policy is None or policy.key_storage is None else policy.key_storage
    return Keeping(
        serializer=get_serializer(defaults.serializer or settings.results_default_serializer),
        archive=archive,
        storage=None if storage is None else storage_for(storage),
        durability=defaults.durability or settings.results_durability,
        in_memory=own.in_memory,
        expiration=own.expiration,
        refresh=settings.tasks_refresh_cache if own.refresh is None else own.refresh,
        compare=asker.inputs,
        ask=asker.ask,
        lock_manager=None if policy is None else lock_manager_of(policy),
    )


def policy_in(definition: Definition, engine: Engine) -> CachePolicy | None:
    """What makes the keys; None if the cache is neither read nor written."""
    own, settings = definition.keeping, engine.settings
    if definition.kind != "task" or settings.tasks_disable_caching:
        return None
    if own.key_fn is not None:
        return CachePolicy.from_cache_key_fn(own.key_fn)
    if own.policy is not None:
        return None if own.policy == NO_CACHE else own.policy
    return None if settings.tasks_default_no_cache else DEFAULT


def lock_manager_of(policy: Any) -> Any:
    if policy.isolation_level is not IsolationLevel.SERIALIZABLE:
        return None
    if policy.lock_manager is None:
        raise ConfigurationError(
            "isolation_level=SERIALIZABLE needs a lock manager: "
            "policy.configure(isolation_level=…, lock_manager=FileSystemLockManager(path))"
        )
    return policy.lock_manager


class _Asker:
    """Makes questions of runs: for one definition in one engine."""

    def __init__(self, definition: Definition, policy: CachePolicy | None, storage_key: Any) -> None:
        self._definition = definition
        self._storage_key = storage_key
        self._policy = policy
        self._left_out = frozenset(getattr(policy, "exclude", ()) or ())

    @functools.cached_property
    def _identity(self) -> str:
        return identity_of(self._definition.fn, self._definition.name, strict=True)

    def ask(self, run: Run) -> Question:
        own_key = self._own_key(run)
        if own_key is not None:
            return Question(own_key, self.inputs(run), self._code(), {"key": own_key})
        if self._policy is None:
            return Question(None, self.inputs(run), self._code())
        key, ingredients = self._key(run, self._policy)
        compared = None if ingredients is None else ingredients.get("inputs")
        inputs = self.inputs(run) if compared is None else _digest_of_all(compared)
        return Question(key, inputs, self._code(), ingredients)

    def _code(self) -> str:
        return code_digest(self._definition.fn)

    def _own_key(self, run: Run) -> str | None:
        option = self._storage_key
        if option is None:
            return None
        if callable(option):
            return binding.render_name(option, run.parameters, "result_storage_key")
        flow = run.flow
        about = {
            "parameters": run.parameters,
            "task_run": run.view(),
            "flow_run": None if flow is None else flow.view(),
        }
        try:
            return str(option.format(**about))
        except Exception as error:
            raise ValueError(f"result_storage_key {option!r} of {run.plan.name!r} failed: {describe(error)}") from error

    def inputs(self, run: Run) -> str | None:
        """Digest of the arguments but for those that the policy leaves out; None: they cannot be compared."""
        compared = {}
        try:
            for name, value in run.parameters.items():
                if name not in self._left_out:
                    compared[name] = digest_of(value, name)
        except Unhashable:
            return None
        return _digest_of_all(compared)

    def _key(self, run: Run, policy: CachePolicy) -> tuple[str | None, dict[str, Any] | None]:
        definition = self._definition
        arguments = (context_of(run), run.parameters, flow_parameters(run))
        try:
            parts = ingredients(policy, *arguments)
            key = key_of(parts)
            return (None, None) if key is None else (combine("cache", self._identity, key), parts)
        except Unhashable as error:
            if error.path not in definition.warned_arguments:
                definition.warned_arguments.add(error.path)
                _logger.warning("%s", refusal(error, definition.name))
        except Exception as error:
            if str(error) not in definition.warned_arguments:
                definition.warned_arguments.add(str(error))
                _logger.warning(
                    "The cache key of %r cannot be computed: %s; it runs uncached", definition.name, describe(error)
                )
        return None, None


def _digest_of_all(digests: Mapping[str, str]) -> str:
    return combine(*(text for pair in digests.items() for text in pair))


def refusal(error: Any, name: str) -> str:
    """Why a run cannot be cached, and the cure."""
    argument = error.path.partition(".")[0].partition("[")[0]
    return (
        f"argument {error.path}: {error.kind} cannot be part of a cache key; {name!r} runs uncached. "
        f"Leave it out with INPUTS - {argument!r}"
    )


def context_of(run: Run) -> Any:
    return TaskRunContext(run)


def flow_parameters(run: Run) -> dict[str, Any] | None:
    flow = run.flow
    return None if flow is None else flow.parameters
