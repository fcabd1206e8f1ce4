"""The options of tasks and flows that say how values are kept, and what a flow run hands on of them.

What they amount to in an engine is worked out in `caching`, which is loaded when something is to be kept: most programs
never do.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import timedelta
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from penstock._core import binding
from penstock._core.policy import NotSet
from penstock._engine import keeping
from penstock.exceptions import ConfigurationError

if TYPE_CHECKING:
    from penstock._engine.engine import Engine
    from penstock._engine.keeping import Keeping
    from penstock.definitions import Definition

DURABILITIES = ("memory", "process", "power")
_logger = logging.getLogger("penstock")


class Defaults(NamedTuple):
    """What the tasks and subflows of a flow run have in common, unless they say otherwise."""

    persist: bool | None = None
    storage: Any = None
    serializer: Any = None
    durability: str | None = None


_NOTHING_SAID = Defaults()


class Options:
    """The options of one definition that say how its values are kept; checked."""

    def __init__(self, options: Mapping[str, Any], name: str) -> None:
        self.policy: Any = None if options.get("cache_policy") is NotSet else options.get("cache_policy")
        self.key_fn: Callable[..., Any] | None = options.get("cache_key_fn")
        self.expiration = _seconds(options.get("cache_expiration"))
        self.refresh: bool | None = options.get("refresh_cache")
        self.storage: Any = options.get("result_storage")
        self.storage_key: Any = options.get("result_storage_key") or None
        self.serializer: Any = options.get("result_serializer")
        self.in_memory = options.get("cache_result_in_memory") is not False
        self.durability = _checked_durability(options.get("durability"))
        self._check(name)
        self.persist = self._persist(options.get("persist_result"), name)
        keeping.wanted = keeping.wanted or bool(self.persist)

    def _check(self, name: str) -> None:
        if self.key_fn is not None and not callable(self.key_fn):
            raise TypeError(f"Expected a callable for 'cache_key_fn'; got {type(self.key_fn).__name__}")
        binding.check_name_option(self.storage_key, "result_storage_key")
        self.caches = self.policy is not None
        """Whether the policy says how to cache: one that does not cache says nothing."""
        if (self.policy, self.serializer, self.storage) != (None, None, None):
            self.caches = import_module("penstock.caching").check(self)
        if self.key_fn is not None and self.policy is not None:
            _logger.warning("%r has both 'cache_policy' and 'cache_key_fn': the function decides", name)

    def _persist(self, asked: Any, name: str) -> bool | None:
        asks_to_cache = self.caches or (self.key_fn, self.storage_key, self.expiration) != (None, None, None)
        implied = asks_to_cache or self.storage is not None or self.serializer is not None
        if asked is None:
            return True if implied else None
        if not asked and asks_to_cache:
            _logger.warning("%r is not cached, although it says how: it has persist_result=False", name)
        return bool(asked)


def _checked_durability(value: Any) -> str | None:
    if value is None or value in DURABILITIES:
        return None if value is None else str(value)
    raise ConfigurationError(f"'durability' must be one of {', '.join(map(repr, DURABILITIES))}; got {value!r}")


def _seconds(expiration: Any) -> float | None:
    if expiration is None:
        return None
    if not isinstance(expiration, timedelta):
        raise TypeError(
            f"'cache_expiration' must be a timedelta; got {type(expiration).__name__}: "
            "for example cache_expiration=timedelta(hours=1)"
        )
    return expiration.total_seconds()


def defaults_of(definition: Definition, engine: Engine) -> Defaults:
    """What a flow run hands on to what it calls: what it says itself, else what it was given."""
    own, inherited = definition.keeping, engine.defaults or _NOTHING_SAID
    return Defaults(
        inherited.persist if own.persist is None else own.persist,
        own.storage or inherited.storage,
        own.serializer or inherited.serializer,
        own.durability or inherited.durability,
    )


def keeping_in(definition: Definition, engine: Engine) -> Keeping | None:
    """How the values of a definition are kept in an engine; None if they are not."""
    if not _persists(definition, engine) or definition.isgenerator or (archive := engine.archive) is None:
        return None
    keeping: Keeping = import_module("penstock.caching").keeping_in(definition, engine, archive)
    return keeping


def _persists(definition: Definition, engine: Engine) -> bool:
    if definition.keeping.persist is not None:
        return definition.keeping.persist
    inherited = (engine.defaults or _NOTHING_SAID).persist
    if inherited is not None:
        return bool(inherited)
    settings = engine.settings
    if definition.kind == "task" and settings.tasks_default_persist_result is not None:
        return settings.tasks_default_persist_result
    return settings.results_persist_by_default
