"""Whether anything goes on in this process that needs no time to pass: looked up in the runs, without asking them.

A run that only waits says so: for a delay, a limit, its inputs, its children. A body is at rest if its thread waits at
a gate of ours, or if the event loop that it is in has nothing left to do but wait. Whatever is not understood (a body
that computes, waits for a socket, or is in another process) goes on.
"""

from __future__ import annotations

import asyncio
from asyncio.base_events import BaseEventLoop
from collections.abc import Iterator
from queue import Empty, SimpleQueue
from typing import Any

from penstock._engine import interrupt
from penstock._engine.attempt import Call
from penstock._engine.requests import Acquire, Childless, Ended, Sleep
from penstock._engine.run import Run
from penstock._engine.upstream import promise_of

Finding = tuple[Any, ...]
"""What all runs wait for: the same twice if nothing has changed."""

_AMONG_COROUTINES = {f"asyncio.{name}" for name in ("locks", "queues", "taskgroups", "tasks", "timeouts")}
"""Modules whose coroutines wait for the loop's time, or for other coroutines."""

_ANSWER = 0.05  # seconds for an event loop to say that it is at rest; one that needs longer is not


def look() -> tuple[Finding, set[BaseEventLoop]] | None:
    """What everything waits for, and the event loops of bodies; None if something goes on, or nothing is there."""
    found: list[Any] = []
    loops: set[Any] = set()
    for run in _living_runs():
        reason = _reason_to_wait(run, loops)
        if reason is None:
            return None
        found.append((run.id, run.attempt, reason))
    if not found or not all(map(_is_at_rest, loops)):
        return None
    return tuple(found), loops


def _living_runs() -> Iterator[Run]:
    ahead: list[Any] = list(interrupt.roots)
    while ahead:
        run = ahead.pop()
        if isinstance(run, Run) and not run.done:  # else the expansion of a map, which waits for a run
            yield run
            ahead.extend(run.living_children())


def _reason_to_wait(run: Run, loops: set[Any]) -> Any:
    """What the run waits for; None if it goes on, or if nobody can tell."""
    request, call = run.pending, run.call
    if isinstance(request, Ended):
        return None if all(promise_of(link.upstream).done for link in request.links) else id(request)
    if isinstance(request, Childless):
        return id(request) if run.children else None
    if isinstance(request, Sleep | Acquire):
        return id(request)
    if call is None or call.ended or request not in (None, call):
        return None  # on its way from one to the next, or still in a queue
    return _reason_of_body(run, call, loops)


def _reason_of_body(run: Run, call: Call, loops: set[Any]) -> Any:
    if call.away is not None:
        return None
    if call.asyncio_task is not None:
        loops.add(call.asyncio_task.get_loop())
        return "its event loop"
    if call.thread is None:
        return None if run.generator is None else "whoever iterates over it"
    if interrupt._innermost.get(call.thread) is not call:
        return "a body that it has called"
    gate = call.gate
    return id(gate) if gate is not None and gate._lock.locked() else None


# --- event loops ------------------------------------------------------------------------------------------------------


def _is_at_rest(loop: Any) -> bool:
    """Ask the loop itself, between two of its turns."""
    if not isinstance(loop, BaseEventLoop):  # of another make, which cannot be looked into
        return False
    answers: SimpleQueue[bool] = SimpleQueue()

    def answer() -> None:
        answers.put(_has_nothing_to_do(loop))

    try:
        loop.call_soon_threadsafe(loop.call_soon, answer)  # in its second turn: the first one is about being woken
        return answers.get(timeout=_ANSWER)
    except (RuntimeError, Empty):
        return False


def _has_nothing_to_do(loop: Any) -> bool:
    return (
        not loop._ready
        and not _has_connections(loop)
        and not _has_busy_threads(loop._default_executor)
        and all(map(_waits_for_us, asyncio.all_tasks(loop)))
    )


def _has_connections(loop: Any) -> bool:
    own = loop._ssock.fileno()  # by which other threads wake it
    return any(key.fd != own for key in loop._selector.get_map().values())


def _has_busy_threads(executor: Any) -> bool:
    return executor is not None and len(executor._threads) > executor._idle_semaphore._value


def _waits_for_us(task: Any) -> bool:
    """Whether a coroutine waits for a run, for the loop's time, or for other coroutines of the loop."""
    module = _innermost_module(task.get_coro())
    if module.startswith("penstock.") or module in _AMONG_COROUTINES:
        return True
    waiter = task._fut_waiter
    parts = getattr(waiter, "_children", (waiter,))  # of a `gather`
    return (
        all(isinstance(part, asyncio.Task) or part.done() for part in parts if part is not None) and waiter is not None
    )


def _innermost_module(coroutine: Any) -> str:
    """Where a coroutine waits: the module of the innermost one that it awaits."""
    module = ""
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
        if frame is not None:
            module = frame.f_globals.get("__name__", "")
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None)
    return module


def next_call(loop: Any) -> float | None:
    """The time, by the loop's clock, of the next call that somebody has asked it for."""
    return min((handle.when() for handle in list(loop._scheduled) if not handle.cancelled()), default=None)
