"""What tasks and flows have in common: a function, checked options, hooks, and `with_options`.

A definition is immutable apart from its hook decorators. It holds what the user wrote; what a run needs is
worked out from it once per engine, as a `Plan`.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self, TypeVar

from penstock import keeping_options
from penstock._core.binding import Binder
from penstock._core.canonical import module_name
from penstock._core.policy import (
    NotSet,
    RetryPolicy,
    check_hooks,
    check_timeout,
    retry_policy,
)
from penstock._engine import capture, substitutes
from penstock._engine.plan import Plan

if TYPE_CHECKING:
    from penstock._core.graph import Link
    from penstock._engine.engine import Engine
    from penstock._engine.run import Run
    from penstock._engine.travel import Shared
    from penstock.futures import Future

F = TypeVar("F", bound=Callable[..., Any])

HOOKS = ("on_running", "on_completion", "on_failure", "on_cancellation", "on_crashed")


class Definition:
    """The part of `Task` and `Flow` that does not depend on which of them it is."""

    kind: ClassVar[str]
    hook_names: ClassVar[tuple[str, ...]] = HOOKS
    __qualname__: str  # the function's, if it has one

    def __init__(self: Self, fn: Callable[..., Any], options: Mapping[str, Any]) -> None:
        if isinstance(fn, staticmethod | classmethod):
            self._method_kind: type | None = type(fn)
            fn = fn.__func__
        else:
            self._method_kind = None
        if not callable(fn):
            raise TypeError("'fn' must be callable")
        self.fn = fn
        self._bound: Any = NotSet
        self._original: Self = self
        self._binder: Binder | None = None
        self.warned_frames: set[str] = set()  # data frame parameters whose mapping has been warned about
        self._options = dict(options)
        self._apply(self._options)
        functools.update_wrapper(self, fn, updated=())
        self.__name__ = getattr(fn, "__name__", self.name)
        self.__qualname__ = getattr(fn, "__qualname__", self.__name__)
        self.__doc__ = inspect.getdoc(fn) if inspect.isroutine(fn) else fn.__doc__

    def _apply(self, options: Mapping[str, Any]) -> None:
        """Check the options and keep them as attributes."""
        self.name: str = self._checked_name(options.get("name"))
        self.description: str | None = options.get("description") or inspect.getdoc(self.fn)
        self._version: str | None = options.get("version")
        self.retries: int | None = options.get("retries")
        self.retry_delay_seconds: Any = options.get("retry_delay_seconds")
        self.timeout_seconds = check_timeout(options.get("timeout_seconds"))
        self.log_prints: bool | None = options.get("log_prints")
        self.keeping = keeping_options.Options(options, self.name)
        self.persist_result: bool | None = self.keeping.persist
        self.result_storage: Any = self.keeping.storage
        self.result_serializer: Any = self.keeping.serializer
        self.warned_arguments: set[str] = set()  # what could not be part of a cache key
        self._hooks = {name: check_hooks(name, options.get(name)) for name in self.hook_names}
        self._fixed_retries = self._retry_policy(self.retries or 0, self.retry_delay_seconds)

    def _checked_name(self, name: Any) -> str:
        if name is None:
            return self._default_name()
        if not isinstance(name, str):
            raise TypeError(f"'name' must be a string; got {type(name).__name__}")
        return name or self._default_name()

    def _default_name(self) -> str:
        return _function_name(self.fn)

    def _retry_policy(self, retries: int, delay: Any) -> RetryPolicy:
        return retry_policy(retries, delay)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Carry out one run; its value."""
        raise NotImplementedError

    @property
    def version(self) -> str | None:
        return self._version

    @property
    def source_code(self) -> str | None:
        """The text of the function; None where there is none to be had."""
        try:
            return inspect.getsource(self.fn)
        except (OSError, TypeError):
            return None

    @property
    def isasync(self) -> bool:
        """Whether calling the function gives something to await or to iterate over asynchronously."""
        return _is(inspect.iscoroutinefunction, self.fn) or _is(inspect.isasyncgenfunction, self.fn)

    @property
    def isgenerator(self) -> bool:
        return _is(inspect.isgeneratorfunction, self.fn) or _is(inspect.isasyncgenfunction, self.fn)

    @property
    def binder(self) -> Binder:
        """The function's parameters; looked at when first needed, because inspecting is slow."""
        original = self._original
        if original._binder is None:
            original._binder = Binder(original.fn)
        return original._binder

    def _with_self(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return args if self._bound is NotSet else (self._bound, *args)

    def __get__(self, instance: Any, owner: type | None = None, /) -> Any:
        """A view bound to the instance, made afresh: nothing of the instance is kept on the shared definition."""
        if self._method_kind is classmethod:
            return self._bind_to(owner if owner is not None else type(instance))
        if instance is None or self._method_kind is staticmethod:
            return self
        return self._bind_to(instance)

    def __repr__(self) -> str:
        return f"<{self.kind.capitalize()} {self.name!r}>"

    def _repr_html_(self) -> str:
        return str(importlib.import_module("penstock.notebooks").of_definition(self))

    def __eq__(self, other: object) -> bool:
        """Two views of one method are equal if they are bound to the same instance, as bound methods are."""
        if not isinstance(other, Definition):
            return NotImplemented
        return self._original is other._original and self._bound is other._bound

    def __hash__(self) -> int:
        return hash((id(self._original), id(self._bound)))

    def __penstock_hash__(self) -> Any:
        """What it is for cache keys, as an argument or where code refers to it."""
        return self.fn if self._bound is NotSet else (self.fn, self._bound)

    def _bind_to(self, instance: Any) -> Self:
        view = object.__new__(type(self))  # not copy.copy: that goes by __reduce__, which may give a reference
        view.__dict__.update(self.__dict__)
        view._bound = instance
        return view

    def with_options(self, **options: Any) -> Self:
        """A new definition with some options changed; this one stays as it is.

        An option that is left out, or is `NotSet`, is kept; any other value replaces, so None, [], "" and 0
        clear it.
        """
        unknown = set(options) - self._option_names()
        if unknown:
            raise TypeError(f"with_options() got an unexpected keyword argument {min(unknown)!r}")
        given = {name: value for name, value in options.items() if value is not NotSet}
        hooks = {name: list(hooks) for name, hooks in self._hooks.items() if hooks}
        fn: Any = self.fn if self._method_kind is None else self._method_kind(self.fn)
        fresh = type(self)(fn, **{**self._options, **hooks, **given})
        return fresh if self._bound is NotSet else fresh._bind_to(self._bound)

    @classmethod
    @functools.cache
    def _option_names(cls) -> frozenset[str]:
        parameters = inspect.signature(cls.__init__).parameters
        return frozenset(parameters) - {"self", "fn"}

    def _add_hook(self, name: str, fn: F) -> F:
        check_hooks(name, [fn])
        self._original._hooks[name].append(fn)
        return fn

    def on_running(self, fn: F) -> F:
        """Add a hook that is called before every attempt; usable as a decorator."""
        return self._add_hook("on_running", fn)

    def on_completion(self, fn: F) -> F:
        """Add a hook that is called when a run has completed; usable as a decorator."""
        return self._add_hook("on_completion", fn)

    def on_failure(self, fn: F) -> F:
        """Add a hook that is called when a run has failed for good; usable as a decorator."""
        return self._add_hook("on_failure", fn)

    def on_cancellation(self, fn: F) -> F:
        """Add a hook that is called when a run has been cancelled; usable as a decorator."""
        return self._add_hook("on_cancellation", fn)

    def on_crashed(self, fn: F) -> F:
        """Add a hook that is called when a run has crashed; usable as a decorator."""
        return self._add_hook("on_crashed", fn)

    # --- for engines ------------------------------------------------------------------------------------------

    def plan_in(self, engine: Engine) -> Plan:
        """The plan by which runs of this definition are executed in `engine`."""
        plan = engine.plans.get(id(self._original))
        if plan is None:
            plan = engine.plans.setdefault(id(self._original), self._original._plan(engine))
        return plan

    def next_number(self, parent: Run) -> int:
        """Number a call in its flow run."""
        return next(self.plan_in(parent.engine).calls)

    def start(
        self,
        parent: Run,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        waits: Sequence[Link],
        number: int,
        index: int | None = None,
        shared: Shared | None = None,
    ) -> Future[Any]:
        """Submit one run below `parent`. `shared`: the arguments it has in common with others."""
        raise NotImplementedError

    def _plan(self, engine: Engine) -> Plan:
        policy = self._policy_in(engine)
        logs_prints = self._logs_prints_in(engine)
        keeping = keeping_options.keeping_in(self, engine)
        if logs_prints:
            capture.capture_prints()
        plan = Plan(
            kind=self.kind,
            definition=self,
            name=self.name,
            key=self._key(),
            fn=self.fn,
            binder=self.binder,
            is_async=self.isasync,
            is_generator=self.isgenerator,
            retry=policy,
            retries=policy.retries,
            timeout=self.timeout_seconds,
            hooks=self._hooks,
            log_prints=logs_prints,
            version=self.version,
            portable=self._portable_function(),
            cached=keeping is not None,
            keeping=keeping,
        )
        return substitutes.put_into(plan, engine.substitutes)

    def _key(self) -> str:
        """Module and qualified name. The module of a script is what it would be imported as: see `main_name`."""
        module = module_name(getattr(self.fn, "__module__", "?"))
        return f"{module}.{getattr(self.fn, '__qualname__', self.name)}"

    def _policy_in(self, engine: Engine) -> RetryPolicy:
        if self.retries is not None and self.retry_delay_seconds is not None:
            return self._fixed_retries
        retries, delay = self._default_retries(engine)
        return self._retry_policy(
            retries if self.retries is None else self.retries,
            delay if self.retry_delay_seconds is None else self.retry_delay_seconds,
        )

    def _default_retries(self, engine: Engine) -> tuple[int, Any]:
        raise NotImplementedError

    def _logs_prints_in(self, engine: Engine) -> bool:
        if self.log_prints is not None:
            return self.log_prints
        return engine.logs_prints

    def __reduce__(self) -> Any:
        """By reference if a module attribute leads to this definition or its function, else by value."""
        if self._bound is not NotSet:
            if getattr(self._bound, self.__name__, None) == self:
                return getattr, (self._bound, self.__name__)
            return _bind_again, (self._original, self._bound)
        if _lookup(self.__module__, self.__qualname__) is self:
            return _lookup, (self.__module__, self.__qualname__)
        return _rebuild, (type(self), self._portable_function(), self._method_kind, self._options, self._hooks)

    def _portable_function(self) -> Any:
        """What to pickle for the function: a reference, if it can be found under its definition's name."""
        named = _lookup(self.__module__, self.__qualname__)
        beside = isinstance(named, Definition) and named.fn is self.fn
        return _FunctionOf(self.__module__, self.__qualname__) if beside else self.fn


class _FunctionOf(NamedTuple):
    """A function that pickle cannot find by its name, because its definition has that name. Unpickled, it is that."""

    module: str
    qualname: str

    def __reduce__(self) -> Any:
        return _function_of, (self.module, self.qualname)


def _function_of(module: str, qualname: str) -> Any:
    return _lookup(module, qualname).fn


def _rebuild(cls: type[Definition], fn: Any, method_kind: Any, options: Any, hooks: Any) -> Definition:
    return cls(fn if method_kind is None else method_kind(fn), **{**options, **hooks})


def _bind_again(definition: Definition, instance: Any) -> Definition:
    return definition._bind_to(instance)


def _lookup(module: str, qualname: str) -> Any:
    """What a module has under this name, not bound to anything; None if nothing, or if it is only known here."""
    if module == "__main__":
        return None
    found: Any = sys.modules.get(module)
    if found is None:
        try:
            found = importlib.import_module(module)
        except Exception:
            return None
    for part in qualname.split("."):
        try:
            found = inspect.getattr_static(found, part)
        except AttributeError:
            return None
    return found.__func__ if isinstance(found, staticmethod | classmethod) else found


def _function_name(fn: Any) -> str:
    name = getattr(fn, "__name__", None)
    if name is None and isinstance(fn, functools.partial):
        return _function_name(fn.func)
    return name if isinstance(name, str) else type(fn).__name__


def _is(test: Callable[[Any], bool], fn: Any) -> bool:
    """Whether `test` holds for a function, also behind a partial or as the `__call__` of an object."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    return test(fn) or (not inspect.isroutine(fn) and not inspect.isclass(fn) and test(fn.__call__))
