"""The future list of a map over something that is still to come."""

from __future__ import annotations

from collections.abc import Generator
from importlib import import_module
from typing import Any, Protocol, TypeVar

from penstock import futures as waits
from penstock._core import graph
from penstock.futures import Future, FutureList, Waitable, await_all, await_in_loop, await_one, check_timeout

T = TypeVar("T")


class UnexpandedFutureList(FutureList[T], graph.Upstream):
    """The futures of a `.map()` over a future that is not done: they exist once it is.

    Waiting, cancelling and passing it on work at once; whatever needs the elements waits for them first.
    """

    def __init__(self, expansion: Expansion) -> None:
        super().__init__()
        self._expansion: Expansion | None = expansion
        self._promise = expansion

    def expand(self, timeout: float | None = None) -> bool:
        """Block until the elements exist; False after `timeout` seconds. Raises what prevented the expansion."""
        expansion = self._expansion
        if expansion is None:
            return True
        if not expansion.expanded.done and not await_one(expansion.expanded, timeout):
            return False
        futures = expansion.futures()
        if self._expansion is not None:
            self._expansion = None
            super().extend(futures)
        return True

    def wait(self, timeout: float | None = None) -> None:
        check_timeout(timeout)
        await_all([self._promise], timeout)

    def result(self, timeout: float | None = None, raise_on_failure: bool = True) -> list[T]:
        check_timeout(timeout)
        started = waits.monotonic()
        if not self.expand(timeout):
            raise TimeoutError(f"Timed out waiting for all futures to complete within {timeout:g} seconds")
        left = None if timeout is None else max(0.0, timeout - (waits.monotonic() - started))
        return super().result(left, raise_on_failure)

    def cancel(self) -> None:
        self._promise.cancel()

    def __await__(self) -> Generator[Any, None, list[T]]:
        if self._expansion is not None:
            yield from await_in_loop([self._expansion.expanded]).__await__()
        return (yield from super().__await__())

    def _repr_html_(self) -> str:
        if self._expansion is None:
            return super()._repr_html_()
        return str(import_module("penstock.notebooks").of_unexpanded(self._promise.label))

    def __repr__(self) -> str:
        return super().__repr__() if self._expansion is None else f"<FutureList of {self._promise.label}, unexpanded>"


def _expanding(name: str) -> Any:
    """The list method `name`, preceded by expansion."""
    method = getattr(FutureList, name)

    def expanded(self: UnexpandedFutureList[Any], *args: Any, **kwargs: Any) -> Any:
        self.expand()
        return method(self, *args, **kwargs)

    expanded.__name__ = name
    expanded.__doc__ = method.__doc__
    return expanded


for _name in (
    *("__len__", "__iter__", "__getitem__", "__contains__", "__reversed__", "__add__", "__mul__", "__rmul__"),
    *("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "__setitem__", "__delitem__", "__iadd__"),
    *("append", "clear", "copy", "count", "extend", "index", "insert", "pop", "remove", "reverse", "sort"),
):
    setattr(UnexpandedFutureList, _name, _expanding(_name))
UnexpandedFutureList.__hash__ = None  # as for every list


class Expansion(Waitable, Protocol):
    """The promise behind an unexpanded list: done when every element is."""

    @property
    def label(self) -> str: ...
    def cancel(self) -> bool: ...
    @property
    def expanded(self) -> Waitable: ...
    def futures(self) -> list[Future[Any]]:
        """The elements, once `expanded` is done; raises what prevented the expansion."""
        ...
