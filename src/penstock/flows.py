"""Flows: functions whose runs contain task runs."""

from __future__ import annotations

import functools
import logging
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar, Unpack, overload
from uuid import UUID

from penstock import calls
from penstock._core.binding import check_name_option, short
from penstock._core.parameters import ParameterChecker
from penstock.exceptions import InvalidNameError
from penstock.futures import Future
from penstock.invocation import Invocable
from penstock.task_runners.base import TaskRunner
from penstock.task_runners.threads import ThreadPoolTaskRunner

if TYPE_CHECKING:
    from penstock._core.graph import Link
    from penstock._engine.engine import Engine
    from penstock._engine.plan import Plan
    from penstock._engine.run import Run
    from penstock._engine.travel import Shared
    from penstock._typing import FlowOptions, Method
    from penstock.states import State

__all__ = ["Flow", "cancel_run", "flow"]

P = ParamSpec("P")
P2 = ParamSpec("P2")
R_co = TypeVar("R_co", covariant=True)
S = TypeVar("S")
T = TypeVar("T")
_logger = logging.getLogger("penstock")
_FORBIDDEN = "/%&><"


class Flow(Invocable[P, R_co]):
    """A function whose calls are flow runs. Made by the `flow` decorator.

    A synchronous flow runs in the calling thread; calling an asynchronous one gives a coroutine. A flow run
    ends when everything that was submitted in it has ended, and fails if a failure in it was never looked at.
    """

    kind = "flow"

    def __init__(
        self,
        fn: Callable[P, R_co],
        *,
        name: str | None = None,
        flow_run_name: str | Callable[..., str] | None = None,
        version: str | None = None,
        description: str | None = None,
        task_runner: TaskRunner | type[TaskRunner] | None = None,
        retries: int | None = None,
        retry_delay_seconds: Any = None,
        timeout_seconds: float | None = None,
        log_prints: bool | None = None,
        validate_parameters: bool = True,
        persist_result: bool | None = None,
        result_storage: Any = None,
        result_serializer: Any = None,
        cache_result_in_memory: bool = True,
        durability: str | None = None,
        on_unobserved_failure: str | None = None,
        on_running: Iterable[Callable[..., Any]] | None = None,
        on_completion: Iterable[Callable[..., Any]] | None = None,
        on_failure: Iterable[Callable[..., Any]] | None = None,
        on_cancellation: Iterable[Callable[..., Any]] | None = None,
        on_crashed: Iterable[Callable[..., Any]] | None = None,
    ) -> None:
        options = dict(locals())
        for name_of_argument in ("self", "fn", "__class__"):
            options.pop(name_of_argument, None)
        super().__init__(fn, options)

    def _apply(self, options: Any) -> None:
        self._parameter_checker: ParameterChecker | None = None
        self.warned_parameters: set[str] = set()
        self.flow_run_name = options.get("flow_run_name") or None
        check_name_option(self.flow_run_name, "flow_run_name")
        self.task_runner = _checked_runner(options.get("task_runner"))
        validate = options.get("validate_parameters")
        self.should_validate_parameters = True if validate is None else bool(validate)
        self.on_unobserved_failure: str | None = options.get("on_unobserved_failure")
        if self.on_unobserved_failure not in (None, "fail", "warn"):
            raise ValueError(f'\'on_unobserved_failure\' must be "fail" or "warn"; got {self.on_unobserved_failure!r}')
        super()._apply(options)

    def _checked_name(self, name: Any) -> str:
        checked = super()._checked_name(name)
        for character in _FORBIDDEN:
            if character in checked:
                raise InvalidNameError(
                    f"Flow name {checked!r} contains {character!r}: leave out {' '.join(_FORBIDDEN)}"
                )
        return checked

    def _default_name(self) -> str:
        name = super()._default_name()
        return "unknown-lambda" if name == "<lambda>" else name.replace("_", "-")

    def _default_retries(self, engine: Engine) -> tuple[int, Any]:
        settings = engine.settings
        return settings.flows_default_retries, settings.flows_default_retry_delay_seconds

    def _plan(self, engine: Engine) -> Plan:
        plan = super()._plan(engine)
        plan.run_name = self.flow_run_name
        plan.forgives = engine.forgives if self.on_unobserved_failure is None else self.on_unobserved_failure == "warn"
        plan.check = self._checked_parameters if self.should_validate_parameters else None
        return plan

    @property
    def version(self) -> str | None:
        """The version that was given, else a hash of the file that the function is in; None if there is none."""
        return self._version or _file_version(getattr(getattr(self.fn, "__code__", None), "co_filename", ""))

    @property
    def _checker(self) -> ParameterChecker:
        original = self._original
        if original._parameter_checker is None:
            original._parameter_checker = ParameterChecker(original.fn, original.binder)
        return original._parameter_checker

    def _checked_parameters(self, values: dict[str, Any]) -> dict[str, Any]:
        checked, unchecked = self._checker.validate(values)
        for name in unchecked:
            if name not in self.warned_parameters:
                self.warned_parameters.add(name)
                _logger.warning(
                    "Flow %r: the annotation of parameter %r cannot be checked, so its values are not validated",
                    self.name,
                    name,
                )
        return checked

    @property
    def parameters(self) -> dict[str, Any]:
        """The JSON schema of the parameters. Computed on demand; imports pydantic."""
        return self._checker.schema()

    def validate_parameters(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """The parameters as a run would get them; raises `ParameterTypeError`."""
        return self._checked_parameters(self.binder.bind((), parameters))

    def serialize_parameters(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """The parameters in a form that JSON can hold; a value that has none becomes its short representation."""
        return {name: _jsonable(value) for name, value in parameters.items()}

    def _new_run(self, /, parameters: dict[str, Any], waits: Sequence[Link]) -> Run:
        return calls.flow_run(self, None, parameters, waits)

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
        run = self._new_run(parameters, waits)
        run.index = index
        return run.engine.submit(run)

    if TYPE_CHECKING:

        @overload  # class methods
        def __get__(self: Method[type[S], P2, T], instance: S | None, owner: type[S], /) -> Flow[P2, T]: ...
        @overload
        def __get__(self, instance: None, owner: type | None = None, /) -> Self: ...
        @overload
        def __get__(self: Method[S, P2, T], instance: S, owner: type | None = None, /) -> Flow[P2, T]: ...
        @overload  # static methods
        def __get__(self, instance: object, owner: type | None = None, /) -> Self: ...
        def __get__(self, instance: Any, owner: type | None = None, /) -> Any: ...

        def with_options(self, **options: Unpack[FlowOptions]) -> Self: ...  # type: ignore[override]


def _jsonable(value: Any) -> Any:
    from pydantic_core import (
        to_jsonable_python,
    )  # only here: loading it costs more than the rest of the library

    try:
        return to_jsonable_python(value)
    except Exception:
        return short(value)


@functools.cache
def _file_version(path: str) -> str | None:
    try:
        with open(path, "rb") as file:
            return f"{zlib.crc32(file.read()):08x}"
    except OSError:
        return None


def _checked_runner(runner: Any) -> TaskRunner:
    if runner is None:
        return ThreadPoolTaskRunner()
    if isinstance(runner, type) and issubclass(runner, TaskRunner):
        return runner()
    if isinstance(runner, TaskRunner):
        return runner
    raise TypeError(
        f"'task_runner' must be a task runner; got {type(runner).__name__}: "
        "for example task_runner=ThreadPoolTaskRunner(max_workers=4)"
    )


@overload
def flow(fn: Callable[P, T], /) -> Flow[P, T]: ...
@overload
def flow(**options: Unpack[FlowOptions]) -> Callable[[Callable[P, T]], Flow[P, T]]: ...
def flow(fn: Any = None, /, **options: Any) -> Any:
    """Make a flow of a function; with or without options: `@flow`, `@flow(name="etl")`, `flow(fn)`.

    >>> @flow
    ... def answer() -> int:
    ...     return 42
    >>> answer()
    42
    """
    if fn is None:
        return lambda function: Flow(function, **options)
    return Flow(fn, **options)


def cancel_run(run_id: UUID | str) -> State[Any]:
    """Ask for a run to be cancelled, in whatever process of this host it goes on: what it started ends first.

    Returns the run's state after asking: a request is no fact, so it may still be CANCELLING; that of a run which
    has ended is returned unchanged. Raises `LookupError` if there is no such run, or if the process that it belongs
    to does not answer. Does not block for a run of this process; else until the request has arrived, at most 3
    seconds.
    """
    try:
        wanted = UUID(str(run_id))
    except ValueError:
        raise LookupError(f"{run_id!r} is not the id of a run: give the UUID, such as runtime.flow_run.id") from None
    run = calls.find_live(wanted)
    if run is not None:
        run.cancel()
        return run.state()
    return calls.cancel_elsewhere(wanted)
