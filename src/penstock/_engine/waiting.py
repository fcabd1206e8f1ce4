"""How a thread or a coroutine waits: every wait for a run goes through here.

A body that waits holds no slot, can be asked to stop while it waits, and is told when its wait could never end.
"""

from __future__ import annotations

import sys
import warnings
from _thread import get_ident
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from penstock._core import notebook
from penstock._engine import clock, loop
from penstock._engine.context import current_run
from penstock._engine.trampoline import drain
from penstock.exceptions import CancelSignal
from penstock.futures import Gate, loop_waiter
from penstock.task_runners.base import here

if TYPE_CHECKING:
    import asyncio

    from penstock._engine.attempt import Call
    from penstock._engine.run import Run
    from penstock.task_runners.base import LoopSlot

_blocked: dict[Any, Any] = {}  # run whose body waits for one other run -> that run
_LOOK_AGAIN = 0.02  # seconds
_HELP_DEPTH = 20  # bodies that a thread may have open at once for each other; each takes a dozen stack frames
ADVICE = "use `await fut`, `await futures` or `async for fut in as_completed(futures)`"


def block(gate: Gate, timeout: float | None, among: Sequence[Any] = (), *, advice: str = ADVICE) -> bool:
    """Let this thread wait at `gate`; False after `timeout` seconds.

    `advice` is what to write instead in a coroutine; without one, blocking an event loop is nothing to mention.
    Raises `CancelSignal` if the body on this thread is asked to stop, `ValueError` if it waits for itself.
    """
    if advice:
        _mind_the_loop(advice)
    drain()
    run = current_run.get()
    call = None if run is None else run.call
    if call is None or call.thread != get_ident():
        return without_slot(gate, timeout)  # not in a body: in a hook, a callback, or the user's own thread
    if timeout is None and call.on_worker and here.slot is None:
        return _help_until_open(call, gate, among)
    if len(among) != 1:
        return _suspend(call, gate, timeout)
    with _known_to_wait(call.run, among[0]):
        if timeout is None and _help(call, among):
            drain()
        return _suspend(call, gate, timeout)


@contextmanager
def _known_to_wait(run: Run, target: Any) -> Iterator[None]:
    refuse_cycle(run, target)
    _blocked[run] = target
    try:
        yield
    finally:
        del _blocked[run]


def _suspend(call: Call, gate: Gate, timeout: float | None, *, look: bool = False) -> bool:
    """`look`: the caller only wants to look around now and then, whatever the clock says."""
    with call.run.lock:
        if call.stopping:
            raise CancelSignal
        call.gate = gate
    try:
        opened = gate.wait(timeout) if look else without_slot(gate, timeout)
    finally:
        call.gate = None
    stop_if_asked(call)
    return opened


def without_slot(gate: Gate, timeout: float | None) -> bool:
    """Wait at `gate` while others have this thread's slot; False after `timeout` seconds."""
    slot = here.slot
    if slot is None:
        return _wait(gate, timeout)
    slot.release()
    try:
        return _wait(gate, timeout)
    finally:
        slot.acquire()


def _wait(gate: Gate, timeout: float | None) -> bool:
    return gate.wait(timeout) if timeout is None or timeout <= 0 else clock.get().wait(gate, timeout)


def stop_if_asked(call: Call | None) -> None:
    """Raise `CancelSignal` if the body of `call` has been asked to stop."""
    if call is not None and call.stopping:
        raise CancelSignal


def tell_to_stop(call: Call) -> None:
    """Raise `CancelSignal` if it is on this thread that the body of `call`, which is to stop, calls into the engine."""
    if call.thread == get_ident() and not isinstance(sys.exception(), CancelSignal):  # else it has heard, and cleans up
        raise CancelSignal


def _help_until_open(call: Call, gate: Gate, among: Sequence[Any]) -> bool:
    """Wait inside a runner that cannot lend a blocked worker's slot: what is waited for may be queued behind it."""
    with _known_to_wait(call.run, among[0]) if len(among) == 1 else nullcontext():
        while True:
            if _help(call, among):
                drain()
            if _suspend(call, gate, _LOOK_AGAIN, look=True):
                return True


def _help(call: Call, among: Sequence[Any]) -> bool:
    """Execute a run that this body waits for, if it is ready and nobody has begun: no thread needs to switch.

    Only ever what is waited for: a stranger could want a lock that this body holds. Only inside a runner's worker,
    which is idle meanwhile: on the flow's own thread it would be one body too many.
    """
    if not call.on_worker or here.depth >= _HELP_DEPTH:
        return False
    request = _ready_call(among)
    if request is None:
        return False
    here.depth += 1
    try:
        request.perform()
    finally:
        here.depth -= 1
    return True


def _ready_call(among: Sequence[Any]) -> Any:
    """The call of a run that is waited for, or of one that it needs, if it is ready and nobody has begun it."""
    ahead, seen = list(reversed(among)), set()
    while ahead:
        run = ahead.pop()
        request: Any = getattr(run, "pending", None)
        if getattr(request, "needs_thread", False) and not request.claimed and _may_be_executed_here(run):
            return request
        if here.slot is None and run not in seen and not run.done:  # with slots, others do the rest
            seen.add(run)
            ahead.extend((*run.living_children(), *_needs(run)))
    return None


def _may_be_executed_here(run: Run) -> bool:
    """Not if its runner executes bodies elsewhere: there it may have begun, and there its arguments may be."""
    return run.plan.kind == "task" and run.engine.runner.capabilities.shares_memory


async def rest(waiter: asyncio.Future[None], among: Sequence[Any] = ()) -> None:
    """`block` for a coroutine: await `waiter` without holding a slot."""
    run = current_run.get()
    if run is not None and len(among) == 1:
        refuse_cycle(run, among[0])
    call = None if run is None else _call_in_this_loop(run)
    if call is None:
        await _rest_on_thread(waiter)
        return
    call.resting += 1
    if call.resting == 1:
        call.slot.release()
    try:
        await waiter
    finally:
        call.resting -= 1
        if not call.resting and not call.ended:  # else what the others wait for may need the slot
            await _take_again(call.slot)


async def _rest_on_thread(waiter: asyncio.Future[None]) -> None:
    """In a loop that a synchronous body runs: the body's slot is lent while any of the loop's coroutines waits."""
    slot = here.slot
    if slot is None:
        await waiter
        return
    here.resting += 1
    slot.release()
    try:
        await waiter
    finally:
        here.resting -= 1
        if not here.resting:  # else what the others wait for may need the slot
            slot.acquire()


def _call_in_this_loop(run: Run) -> Any:
    """The body that holds a slot for the caller: direct calls are nested inside one, and so is what it gathers."""
    here_now = sys.modules["asyncio"].get_running_loop()
    for ancestor in run.ancestors():
        call = ancestor.call
        if call is not None and call.slot is not None and not call.ended and call.asyncio_task is not None:
            return call if call.asyncio_task.get_loop() is here_now else None
    return None


async def _take_again(slot: LoopSlot) -> None:
    granted, grant = loop_waiter()
    slot.acquire(grant)
    cancellation = await loop.uncancelled(granted)
    if cancellation is not None:
        raise cancellation  # whatever the body does about it, it does with a slot


# --- deadlocks --------------------------------------------------------------------------------------------------


def refuse_cycle(run: Run, target: Any) -> None:
    """Raise `ValueError` if `target` cannot end before `run` does, which is about to wait for it."""
    own = set(run.ancestors())
    seen = set()
    ahead = [target]
    while ahead:
        other = ahead.pop()
        if other in own:
            raise ValueError(
                f"Discovered a task depending on itself. {run.label} waits for {target.label}, which cannot end "
                f"before {run.label} does: let the flow wait for it, or pass the future on as an argument"
            )
        if other not in seen and not other.done:
            seen.add(other)
            ahead.extend(_needs(other))


def refuse_circular_inputs(run: Run) -> None:
    """Raise `ValueError` if an input of `run` cannot end before a run that `run` is part of.

    Only below a submitted run: nobody holds a future of the others. Runs with the same parent were checked when
    they were submitted, and what they wait for cannot change.
    """
    if not any(ancestor.has_future for ancestor in run.ancestors() if ancestor is not run):
        return
    for upstream in run.upstream_runs():
        if getattr(upstream, "parent", None) is not run.parent:
            refuse_cycle(run, upstream)


def _needs(run: Any) -> Iterator[Any]:
    """The runs that must end before `run` can."""
    if run in _blocked:
        yield _blocked[run]
    yield from (child for child in run.living_children() if child in _blocked)
    if not run.has_started:
        yield from run.upstream_runs()


# --- event loops ------------------------------------------------------------------------------------------------

_warned = False


def _mind_the_loop(advice: str) -> None:
    asyncio_events = sys.modules.get("asyncio.events")
    if asyncio_events is None or asyncio_events._get_running_loop() is None:
        return
    if here.background_loop:
        raise RuntimeError(f"blocking here would stop the event loop that all submitted async tasks share: {advice}")
    if not _is_cell():
        _warn_once(advice)


def _is_cell() -> bool:
    """Whether this is a notebook's cell, or a synchronous body called in one: the loop is there to wait for that."""
    run = current_run.get()
    return notebook.shell() is not None and not (run and run.plan.is_async)


def _warn_once(advice: str) -> None:
    global _warned
    if not _warned:
        _warned = True
        message = f"this wait blocks the thread's event loop: {advice}"
        warnings.warn(message, RuntimeWarning, stacklevel=_depth_of_user())


def _depth_of_user() -> int:
    """How many frames above `_warn_once` the user's line is."""
    depth, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("penstock."):
        depth, frame = depth + 1, frame.f_back
    return depth
