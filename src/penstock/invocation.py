"""Calling, submitting and mapping: what tasks and flows share, and what their calls look like to type checkers.

The first overloads of a method are the exact ones. A keyword of ours cannot stand beside `P.args` and `P.kwargs` (PEP
612): the arguments of a call with `wait_for` or `return_state` are not checked, its result is. Of three overloads that
differ in `self`, the first is for coroutine functions (and for those that return futures), the second for generators,
which give a list when they are submitted. (One that is annotated as an `Iterator` looks like any function that returns
one: `Generator` and `AsyncIterator` say what it is.) How a future can take the place of a value is said in `_typing`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Generic, Literal, ParamSpec, TypeAlias, TypeVar, overload

from penstock import calls, generators, maps
from penstock._raising import leave
from penstock.definitions import Definition

if TYPE_CHECKING:
    from penstock._core.graph import Link
    from penstock._engine.run import Run
    from penstock.futures import Future, FutureList
    from penstock.states import State

    WaitFor: TypeAlias = Iterable[Any] | Future[Any] | State[Any] | None
    """What is waited for: futures, or states, or one of them."""

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")

Coro: TypeAlias = Coroutine[Any, Any, T]
Yields: TypeAlias = Generator[T, Any, Any] | AsyncIterator[T]


class Invocable(Definition, Generic[P, R_co]):
    """A definition with the ways to start a run of it."""

    if TYPE_CHECKING:

        @property  # an attribute, but pyright does not find a type's parameters in one that can be called
        def fn(self) -> Callable[P, R_co]: ...  # type: ignore[override]

    def _new_run(self, /, parameters: dict[str, Any], waits: Sequence[Link]) -> Run:
        """A run for a direct call."""
        raise NotImplementedError

    # --- direct call ------------------------------------------------------------------------------------------

    @overload
    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
    @overload
    def __call__(  # pyright: ignore[reportOverlappingOverload]
        self: Invocable[P, Future[T]],
        /,
        *args: Any,
        wait_for: WaitFor = None,
        return_state: Literal[True],
        **kwargs: Any,
    ) -> State[T]: ...
    @overload
    def __call__(
        self: Invocable[P, Coro[T]], /, *args: Any, wait_for: WaitFor = None, return_state: Literal[True], **kwargs: Any
    ) -> Coro[State[T]]: ...
    @overload
    def __call__(
        self, /, *args: Any, wait_for: WaitFor = None, return_state: Literal[True], **kwargs: Any
    ) -> State[R_co]: ...
    @overload
    def __call__(
        self, /, *args: Any, wait_for: WaitFor, return_state: Literal[False] = False, **kwargs: Any
    ) -> R_co: ...
    def __call__(self, /, *args: Any, wait_for: WaitFor = None, return_state: Any = False, **kwargs: Any) -> Any:
        """Carry out one run and return its value; a coroutine if the function is one, an iterator if it is a generator.

        Futures among the arguments, and in `wait_for`, are waited for. With `return_state=True` the result is the
        final State, and a failure does not raise.
        """
        try:
            parameters = self.binder.bind(self._with_self(args), kwargs)
            waits = calls.find_waits(wait_for)
            if self.isgenerator:
                return generators.iterate(lambda: self._new_run(parameters, waits), return_state, self.isasync)
            if self.isasync:
                return self._call_async(parameters, waits, return_state)
            return calls.call(self._new_run(parameters, waits), return_state)
        except BaseException as error:
            leave(error)
            raise

    async def _call_async(self, parameters: dict[str, Any], waits: Sequence[Link], return_state: bool) -> Any:
        try:
            return await calls.call_async(self._new_run(parameters, waits), return_state)
        except BaseException as error:
            leave(error)
            raise

    # --- submitting -------------------------------------------------------------------------------------------

    @overload
    def submit(self: Invocable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]: ...
    @overload
    def submit(self: Invocable[P, Yields[T]], /, *args: P.args, **kwargs: P.kwargs) -> Future[list[T]]: ...
    @overload
    def submit(self: Invocable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]: ...
    @overload
    def submit(
        self: Invocable[P, Awaitable[T]],
        /,
        *args: Any,
        wait_for: WaitFor = None,
        return_state: Literal[True],
        **kwargs: Any,
    ) -> State[T]: ...
    @overload
    def submit(
        self: Invocable[P, Yields[T]],
        /,
        *args: Any,
        wait_for: WaitFor = None,
        return_state: Literal[True],
        **kwargs: Any,
    ) -> State[list[T]]: ...
    @overload
    def submit(
        self: Invocable[P, T], /, *args: Any, wait_for: WaitFor = None, return_state: Literal[True], **kwargs: Any
    ) -> State[T]: ...
    @overload
    def submit(
        self: Invocable[P, Awaitable[T]],
        /,
        *args: Any,
        wait_for: WaitFor,
        return_state: Literal[False] = False,
        **kwargs: Any,
    ) -> Future[T]: ...
    @overload
    def submit(
        self: Invocable[P, Yields[T]],
        /,
        *args: Any,
        wait_for: WaitFor,
        return_state: Literal[False] = False,
        **kwargs: Any,
    ) -> Future[list[T]]: ...
    @overload
    def submit(
        self: Invocable[P, T], /, *args: Any, wait_for: WaitFor, return_state: Literal[False] = False, **kwargs: Any
    ) -> Future[T]: ...
    def submit(self, /, *args: Any, wait_for: WaitFor = None, return_state: Any = False, **kwargs: Any) -> Any:
        """Start a run in the background; returns its future at once, also for an asynchronous function.

        Futures among the arguments, and in `wait_for`, are waited for without holding a thread. A flow runs on a
        thread of its own. With `return_state=True` this blocks and returns the final State instead. Raises
        `RuntimeError` outside a run, `ParameterBindError` for wrong arguments.
        """
        parent = calls.submitting_run(f"{self.name}.submit")
        waits = () if wait_for is None else calls.find_waits(wait_for)
        future = self.start(parent, self._with_self(args), kwargs, waits, self.next_number(parent))
        return calls.final_state(future) if return_state else future

    @overload
    def map(
        self: Invocable[P, Awaitable[T]],
        /,
        *args: Any,
        wait_for: WaitFor = None,
        return_state: Literal[False] = False,
        **kwargs: Any,
    ) -> FutureList[T]: ...
    @overload
    def map(
        self: Invocable[P, Yields[T]],
        /,
        *args: Any,
        wait_for: WaitFor = None,
        return_state: Literal[False] = False,
        **kwargs: Any,
    ) -> FutureList[list[T]]: ...
    @overload
    def map(
        self: Invocable[P, T],
        /,
        *args: Any,
        wait_for: WaitFor = None,
        return_state: Literal[False] = False,
        **kwargs: Any,
    ) -> FutureList[T]: ...
    @overload
    def map(
        self: Invocable[P, Awaitable[T]],
        /,
        *args: Any,
        wait_for: WaitFor = None,
        return_state: Literal[True],
        **kwargs: Any,
    ) -> list[State[T]]: ...
    @overload
    def map(
        self: Invocable[P, Yields[T]],
        /,
        *args: Any,
        wait_for: WaitFor = None,
        return_state: Literal[True],
        **kwargs: Any,
    ) -> list[State[list[T]]]: ...
    @overload
    def map(
        self: Invocable[P, T], /, *args: Any, wait_for: WaitFor = None, return_state: Literal[True], **kwargs: Any
    ) -> list[State[T]]: ...
    def map(self, /, *args: Any, wait_for: WaitFor = None, return_state: Any = False, **kwargs: Any) -> Any:
        """Start one run for each element of the iterable arguments; returns the list of futures at once.

        Arguments that are not iterable, strings, and what is wrapped in `unmapped` are given to every run.
        Raises `MappingLengthMismatch` and `MappingMissingIterable` in the caller; then nothing has started.
        """
        parent = calls.submitting_run(f"{self.name}.map")
        futures = maps.submit_all(self, parent, self._with_self(args), kwargs, calls.find_waits(wait_for))
        return calls.final_states(futures) if return_state else futures
