"""Tasks: functions whose runs are recorded, retried, timed, and can be submitted."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar, Unpack, overload

from penstock import calls, maps
from penstock._core import policy
from penstock._core.binding import Binder, check_name_option, check_reserved
from penstock._core.policy import RetryPolicy, check_tags, exponential_backoff, retry_policy
from penstock.cache_policies import task_input_hash
from penstock.definitions import HOOKS
from penstock.futures import Future
from penstock.imap import Pulled
from penstock.invocation import Invocable, Yields

if TYPE_CHECKING:
    from datetime import timedelta

    from penstock._core.graph import Link
    from penstock._engine.engine import Engine
    from penstock._engine.plan import Plan
    from penstock._engine.run import Run
    from penstock._engine.travel import Shared
    from penstock._typing import Method, TaskOptions
    from penstock.cache_policies import CachePolicy
    from penstock.explaining import CacheExplanation
    from penstock.invocation import WaitFor

__all__ = ["NotSet", "Task", "exponential_backoff", "task", "task_input_hash"]

P = ParamSpec("P")
P2 = ParamSpec("P2")
R_co = TypeVar("R_co", covariant=True)
S = TypeVar("S")
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])
NotSet: Any = policy.NotSet  # Any: it fits every option
_RESERVED = ("return_state", "wait_for")


class Task(Invocable[P, R_co]):
    """A function whose calls are task runs. Made by the `task` decorator.

    Calling it runs the function in the calling thread and returns its value. `.submit()` starts it in the
    background and returns a future; `.map()` does so for every element of its arguments.
    """

    kind = "task"
    hook_names = (*HOOKS, "on_commit", "on_rollback")

    def __init__(
        self,
        fn: Callable[P, R_co],
        *,
        name: str | None = None,
        description: str | None = None,
        version: str | None = None,
        tags: Iterable[str] | str | None = None,
        task_run_name: str | Callable[..., str] | None = None,
        retries: int | None = None,
        retry_delay_seconds: Any = None,
        retry_jitter_factor: float | None = None,
        retry_condition_fn: Callable[..., Any] | None = None,
        timeout_seconds: float | None = None,
        log_prints: bool | None = None,
        cache_policy: CachePolicy | None = NotSet,
        cache_key_fn: Callable[[Any, dict[str, Any]], str | None] | None = None,
        cache_expiration: timedelta | None = None,
        refresh_cache: bool | None = None,
        persist_result: bool | None = None,
        result_storage: Any = None,
        result_storage_key: str | Callable[..., str] | None = None,
        result_serializer: Any = None,
        cache_result_in_memory: bool = True,
        remote_options: Mapping[str, Any] | None = None,
        on_running: Iterable[Callable[..., Any]] | None = None,
        on_completion: Iterable[Callable[..., Any]] | None = None,
        on_failure: Iterable[Callable[..., Any]] | None = None,
        on_cancellation: Iterable[Callable[..., Any]] | None = None,
        on_crashed: Iterable[Callable[..., Any]] | None = None,
        on_commit: Iterable[Callable[..., Any]] | None = None,
        on_rollback: Iterable[Callable[..., Any]] | None = None,
    ) -> None:
        options = dict(locals())
        for name_of_argument in ("self", "fn", "__class__"):
            options.pop(name_of_argument, None)
        super().__init__(fn, options)

    def _apply(self, options: Any) -> None:
        self.tags = set(check_tags(options.get("tags")))
        self.task_run_name = options.get("task_run_name") or None
        check_name_option(self.task_run_name, "task_run_name")
        self.retry_jitter_factor: float | None = options.get("retry_jitter_factor")
        self.retry_condition_fn: Callable[..., Any] | None = options.get("retry_condition_fn")
        if self.retry_condition_fn is not None and not callable(self.retry_condition_fn):
            raise TypeError(
                f"Expected a callable for 'retry_condition_fn'; got {type(self.retry_condition_fn).__name__}: "
                "give a function of (task, task_run, state)"
            )
        self.remote_options = _checked_remote_options(options.get("remote_options"))
        super()._apply(options)
        self.cache_policy: CachePolicy | None = self.keeping.policy
        self.cache_key_fn = self.keeping.key_fn
        self.cache_expiration: timedelta | None = options.get("cache_expiration")
        self.refresh_cache = self.keeping.refresh
        self.result_storage_key: str | Callable[..., str] | None = self.keeping.storage_key
        self.cache_result_in_memory = self.keeping.in_memory
        check_reserved(_parameter_names(self.fn), _RESERVED)

    def _retry_policy(self, retries: int, delay: Any) -> RetryPolicy:
        return retry_policy(retries, delay, self.retry_jitter_factor, has_condition=self.retry_condition_fn is not None)

    def _default_retries(self, engine: Engine) -> tuple[int, Any]:
        settings = engine.settings
        return settings.tasks_default_retries, settings.tasks_default_retry_delay_seconds

    def _plan(self, engine: Engine) -> Plan:
        plan = super()._plan(engine)
        plan.condition = self.retry_condition_fn
        plan.run_name = self.task_run_name
        plan.tags = frozenset(self.tags)
        plan.remote_options = self.remote_options
        return plan

    @property
    def task_key(self) -> str:
        """What identifies the task between processes: module and qualified name."""
        return self._key()

    _new_run = calls.task_run  # not a method that calls it: that would be a frame more on every call

    def on_commit(self, fn: F) -> F:
        """Add a hook that is called with the transaction when a run has been committed; usable as a decorator."""
        return self._add_hook("on_commit", fn)

    def on_rollback(self, fn: F) -> F:
        """Add a hook that is called with the transaction when a completed run is undone; usable as a decorator."""
        return self._add_hook("on_rollback", fn)

    def explain_cache(self, /, *args: Any, **kwargs: Any) -> CacheExplanation:
        """What the cache would do about this call, and why: which argument or which part of the code differs.

        Runs and records nothing. Futures among the arguments are waited for. Thread-safe.

        >>> @task(cache_policy=INPUTS)
        ... def double(x): return 2 * x
        >>> print(double.explain_cache(3))
        double: miss
          no result of this task is kept here
        """
        explaining = import_module("penstock.explaining")  # slow to load, and for people only
        explanation: CacheExplanation = explaining.explain(self, self._with_self(args), kwargs)
        return explanation

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
        parameters = self.binder.bind(args, kwargs)
        engine = parent.engine
        run = engine.new_run(self.plan_in(engine), parameters, parent, number, index)
        engine.attach(run, waits, shared)
        return engine.submit(run)

    @overload
    def imap(
        self: Task[P, Awaitable[T]],
        *args: Any,
        max_pending: int | None = None,
        ordered: bool = False,
        wait_for: WaitFor = None,
        **kwargs: Any,
    ) -> Pulled[T]: ...
    @overload
    def imap(
        self: Task[P, Yields[T]],
        *args: Any,
        max_pending: int | None = None,
        ordered: bool = False,
        wait_for: WaitFor = None,
        **kwargs: Any,
    ) -> Pulled[list[T]]: ...
    @overload
    def imap(
        self: Task[P, T],
        *args: Any,
        max_pending: int | None = None,
        ordered: bool = False,
        wait_for: WaitFor = None,
        **kwargs: Any,
    ) -> Pulled[T]: ...
    def imap(
        self,
        *args: Any,
        max_pending: int | None = None,
        ordered: bool = False,
        wait_for: WaitFor = None,
        **kwargs: Any,
    ) -> Pulled[Any]:
        """Map lazily over large or endless iterables, with at most `max_pending` runs at a time.

        Returns an iterator (`for` and `async for`) over the futures as they end, or in the order of submission
        with `ordered=True`. Input is taken only to replace a run that was handed out; the shortest argument
        ends it. None means twice the slots of the runner.
        """
        parent = calls.submitting_run(f"{self.name}.imap")
        check_reserved(_parameter_names(self.fn), ("max_pending", "ordered"))
        call = maps.MapCall(self, parent, self._with_self(args), kwargs, calls.find_waits(wait_for))
        return Pulled(call, max_pending, ordered)

    if TYPE_CHECKING:

        @overload  # class methods
        def __get__(self: Method[type[S], P2, T], instance: S | None, owner: type[S], /) -> Task[P2, T]: ...
        @overload
        def __get__(self, instance: None, owner: type | None = None, /) -> Self: ...
        @overload
        def __get__(self: Method[S, P2, T], instance: S, owner: type | None = None, /) -> Task[P2, T]: ...
        @overload  # static methods
        def __get__(self, instance: object, owner: type | None = None, /) -> Self: ...
        def __get__(self, instance: Any, owner: type | None = None, /) -> Any: ...

        def with_options(self, **options: Unpack[TaskOptions]) -> Self: ...  # type: ignore[override]


def _checked_remote_options(options: Any) -> dict[str, Any]:
    if not isinstance(options, Mapping | None):
        raise TypeError(f"'remote_options' must be a mapping of Ray's options; got {type(options).__name__}")
    return dict(options or {})


def _parameter_names(fn: Any) -> tuple[str, ...]:
    """The names of the parameters, without the cost of `inspect` where the code object tells."""
    code = getattr(fn, "__code__", None)
    if code is None:
        return tuple(Binder(fn).names)
    return tuple(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount])


@overload
def task(fn: Callable[P, T], /) -> Task[P, T]: ...
@overload
def task(**options: Unpack[TaskOptions]) -> Callable[[Callable[P, T]], Task[P, T]]: ...
def task(fn: Any = None, /, **options: Any) -> Any:
    """Make a task of a function; with or without options: `@task`, `@task(retries=3)`, `task(fn)`.

    >>> @task(retries=2)
    ... def double(x: int) -> int:
    ...     return 2 * x
    >>> double(4)
    8
    """
    if fn is None:
        return lambda function: Task(function, **options)
    return Task(fn, **options)
