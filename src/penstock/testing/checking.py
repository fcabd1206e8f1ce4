"""What the checks of the runners' conformance suite have in common."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from types import FunctionType
from typing import Any, TypeVar

from penstock.exceptions import FailedRun
from penstock.flows import flow
from penstock.futures import Future
from penstock.store.base import Reader, RunRow
from penstock.task_runners.base import TaskRunner
from penstock.tasks import task

Check = Callable[[TaskRunner], None]
F = TypeVar("F", bound=Callable[..., Any])
R = TypeVar("R")


def in_flow(runner: TaskRunner, body: Callable[[], R]) -> R:
    """Call `body` as the body of a flow that uses `runner`."""
    result: R = flow(name="check", task_runner=runner)(body)()
    return result


def users(function: F) -> F:
    """Make a body that is to be interrupted look like a user's: code of this package is left alone otherwise.

    Not by `mark_safe`, which is about this process: what tells is the name of the module, which travels along.
    """
    assert isinstance(function, FunctionType)
    theirs = {**function.__globals__, "__name__": "of_a_user"}
    copy: Any = FunctionType(function.__code__, theirs, function.__name__, function.__defaults__, function.__closure__)
    copy.__module__ = function.__module__
    copy.__annotations__ = function.__annotations__
    return copy  # type: ignore[no-any-return]


def same(got: object, expected: object) -> None:
    assert got == expected, f"expected {expected!r:.1000}, got {got!r:.1000}"


def contains(text: str | None, *parts: str) -> None:
    for part in parts:
        assert text is not None and part in text, f"{part!r} is not in {text!r:.1000}"


def ended(future: Future[Any], status: str, name: str | None = None) -> None:
    """Check how a run has ended; without a name, the status in its usual spelling."""
    same((future.state.type, future.state.name), (status, name or status.capitalize()))


def is_or_tells_of(error: BaseException | None, kind: type[BaseException]) -> None:
    """Check that this is an exception of that type, or the one that takes its place and names it."""
    if type(error) is FailedRun:
        contains(str(error), kind.__name__)
    else:
        assert isinstance(error, kind), f"expected {kind.__name__}, got {type(error).__name__}: {error!r:.1000}"


def told(error: BaseException | None) -> str:
    """All that Python would print about an exception."""
    assert error is not None, "there is no exception"
    return "".join(traceback.format_exception(error))


def named(store: Reader, run_name: str) -> RunRow:
    (root,) = store.runs()
    (row,) = [row for row in store.tree(root.id) if row.run_name == run_name]
    return row


def lines(store: Reader, run_name: str) -> list[str]:
    return [line.message for line in store.logs(named(store, run_name).id)]


# --- tasks for the checks ---------------------------------------------------------------------------------------------


@task(name="echo")
def echo(value: Any) -> Any:
    return value


@task(name="add")
def add(a: int, b: int = 1) -> int:
    return a + b


@task(name="fail")
def fail(error: BaseException) -> None:
    raise error


@task(name="say")
async def say(value: Any) -> Any:
    return value


def still_works() -> None:
    """Check, inside a flow, that its runner goes on."""
    same(add.map([1, 2, 3]).result(), [2, 3, 4])
    same(say.submit("still there").result(), "still there")
