"""What only type checkers see; nothing here exists at run time.

The types that Python has cannot say "this parameter, or a future of it" for the parameters of any function: there is
nothing that maps over a `ParamSpec`. So it is said of the future instead. What derives from `Any` is accepted wherever
a value is expected, and what its methods take and give is checked as usual. The price: `x: int = future` passes, for
mypy also `x: Future[str] = future`; only mypy notices a misspelt method; `isinstance(x, Future)` does not narrow
`int | Future[int]`.

What else has been tried, with mypy and pyright, and why it is worse:

- Overloads by arity, `submit(self: Invocable[[A, B], T], a: A | Future[A], b: B | Future[B])`, behind the exact one: no
  keywords, no defaults, no futures inside of lists, and a wrong argument is reported as one of twenty overloads that
  do not match.
- The same when the function is decorated, giving a `Task[[A | Future[A]], T]`: the names of the parameters are lost,
  for keywords, editors and messages.
- A last overload that takes anything if a future is among the arguments: "among" cannot be said, so it would take
  everything.
- `submit` giving the value's own type: then `.result()` is the error.
- A plugin for mypy: pyright and the editors built on it have none.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, Concatenate, ParamSpec, Protocol, TypedDict, TypeVar

from penstock.cache_policies import CachePolicy
from penstock.futures import Future
from penstock.task_runners.base import TaskRunner

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)
S_contra = TypeVar("S_contra", contravariant=True)
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class StandIn(Any):  # type: ignore[misc]
    """Base of what may be given in place of a value: futures, and arguments with an annotation around them."""

    def __getattr__(self, name: str, /) -> object:  # not Any, as it would be: so mypy notices misspelt methods
        raise NotImplementedError

    # What one does with a list, and not with a future of one. No types, so that both checkers refuse it. Of the other
    # operators they would accept most all the same: an int, asked whether it adds itself to `Any`, says yes.
    __contains__: None
    __getitem__: None
    __iter__: None
    __setitem__: None


if sys.version_info >= (3, 12):

    class AwaitableStandIn(Awaitable[T_co], StandIn):
        """Base of `Future`. Says what `await` gives: before `Any`, because the checkers look no further."""

else:

    class AwaitableStandIn(Awaitable[T_co], StandIn, Generator[Any, None, T_co]):
        """For `asyncio.gather` and `wait_for`, whose arguments were generators or awaitables: the same in both ways."""

        send: Any
        throw: Any
        __iter__: None  # type: ignore[assignment]


class Method(Protocol[S_contra, P, R_co]):
    """A definition of a function whose first parameter is an S.

    Told by `fn`, because in `Task[Concatenate[S, P], R]` mypy does not look at what S is.
    """

    @property
    def fn(self) -> Callable[Concatenate[S_contra, P], R_co]: ...


class _Futures(Sequence[Future[T]]):
    pass


class ListOfFutures(_Futures[T], list[Any]):
    """Base of `FutureList`: what one takes out are futures, and it is accepted where a list of values is expected.

    The order of the bases decides what it is a sequence of.
    """

    def __iter__(self) -> Iterator[Future[T]]:
        raise NotImplementedError

    def __reversed__(self) -> Iterator[Future[T]]:
        raise NotImplementedError

    def copy(self) -> list[Future[T]]:
        raise NotImplementedError

    def pop(self, index: Any = -1, /) -> Future[T]:
        raise NotImplementedError


Hooks = Iterable[Callable[..., Any]] | None


class _Options(TypedDict, total=False):
    name: str | None
    description: str | None
    version: str | None
    retries: int | None
    retry_delay_seconds: float | Sequence[float] | Callable[[int], list[float]] | None
    timeout_seconds: float | None
    log_prints: bool | None
    persist_result: bool | None
    result_storage: Any
    result_serializer: Any
    cache_result_in_memory: bool
    on_running: Hooks
    on_completion: Hooks
    on_failure: Hooks
    on_cancellation: Hooks
    on_crashed: Hooks


class TaskOptions(_Options, total=False):
    """The options of `task` and `Task.with_options`."""

    tags: Iterable[str] | str | None
    task_run_name: str | Callable[..., str] | None
    retry_jitter_factor: float | None
    retry_condition_fn: Callable[..., Any] | None
    cache_policy: CachePolicy | None
    cache_key_fn: Callable[[Any, dict[str, Any]], str | None] | None
    cache_expiration: timedelta | None
    refresh_cache: bool | None
    result_storage_key: str | Callable[..., str] | None
    remote_options: Mapping[str, Any] | None
    on_commit: Hooks
    on_rollback: Hooks


class FlowOptions(_Options, total=False):
    """The options of `flow` and `Flow.with_options`."""

    flow_run_name: str | Callable[..., str] | None
    task_runner: TaskRunner | type[TaskRunner] | None
    validate_parameters: bool
    durability: str | None
    on_unobserved_failure: str | None
