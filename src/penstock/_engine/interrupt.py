"""Stopping code that runs on another thread, and signals.

An exception that lands in the middle of the engine could leave a lock held or a run half recorded. So nothing is
ever raised into a thread unless the innermost frame of ours on its stack is a *safe* one: the frame below the
user's code (`attempt.call_user`) or, for signals, the frame in which a thread waits. Looking at the frames costs
nothing while nobody is stopped, and it is exact, because the target cannot move while we hold the interpreter
lock. If the thread is somewhere else we look again a few milliseconds later.
"""

from __future__ import annotations

import importlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any

from penstock._engine import clock
from penstock.exceptions import CancelSignal

if TYPE_CHECKING:
    from penstock._engine.attempt import Call
    from penstock._engine.run import Run

_LOOK_AGAIN = 0.005  # seconds
_LONG_ENOUGH = 0.05  # seconds: to look at some frames takes a thousandth of that

_safe: set[CodeType] = set()
_interruptible: set[CodeType] = set()
_innermost: dict[int, Call] = {}  # thread -> the body that it is in
_alarm_armed = False
MAIN = threading.main_thread().ident


def mark_safe(function: Callable[..., Any]) -> None:
    """Declare the frames of `function` a place where an exception may arrive."""
    _safe.add(function.__code__)


def mark_interruptible(function: Callable[..., Any]) -> None:
    """Declare the frames of `function` a place where the exception of a signal may arrive."""
    _interruptible.add(function.__code__)


def enter(call: Call) -> None:
    """This thread is about to enter the body of `call`."""
    thread = threading.get_ident()
    call.outer = _innermost.get(thread)
    _innermost[thread] = call
    call.thread = thread


def leave(call: Call, thread: int) -> None:
    """This thread has left the body; an interruption that has not arrived yet never will."""
    if _innermost.get(thread) is not call:
        return
    if call.outer is None:
        del _innermost[thread]
    else:
        _innermost[thread] = call.outer
    if call.stopping:
        _withdraw()


class _Withdrawal(BaseException):
    """Takes the place of an interruption that is not wanted any more."""


def _withdraw() -> None:
    """Let no interruption of this thread be pending.

    Not by setting none: CPython would look for one at every turn of every loop from then on, and a tracer's thread
    would hang. One that has been raised leaves nothing behind.
    """
    try:
        _raise_in(threading.get_ident(), _Withdrawal)
        while True:
            pass  # it arrives at the next turn
    except _Withdrawal:
        pass


def stop_thread(call: Call) -> None:
    """Raise `CancelSignal` in the body of `call` as soon as its thread is in user code. Does not block."""
    _python_api()  # loaded before anything is looked at
    with call.run.lock:
        thread = call.thread
        if call.ended or call.gate is not None:
            return
        if thread is not None and _innermost.get(thread) is call and _strike(thread):
            return
    clock.get().call_later(_LOOK_AGAIN, lambda: stop_thread(call))


def _strike(thread: int) -> bool:
    """Raise `CancelSignal` in a thread that is in user code; False if it is somewhere else just now."""
    if thread == MAIN and _alarm_armed:
        signal.pthread_kill(thread, signal.SIGALRM)
        return True
    with _undisturbed():
        reachable = _reachable(thread)
        if reachable:
            _raise_in(thread, CancelSignal)
    return reachable


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Keep the interpreter lock for a moment: the thread that is looked at must not move before it is struck.

    A thread that wants the lock asks for it after the switch interval; one that has asked already gets it in the loop
    here, before anything is looked at.
    """
    interval = sys.getswitchinterval()
    sys.setswitchinterval(_LONG_ENOUGH)
    try:
        for _ in range(3):
            pass
        yield
    finally:
        sys.setswitchinterval(interval)


def _reachable(thread: int) -> bool:
    frame = sys._current_frames().get(thread)
    return frame is not None and is_safe(frame)


def is_safe(frame: FrameType | None, *, waits_too: bool = False) -> bool:
    """Whether the innermost of our frames at or below `frame` is one where an exception may arrive."""
    while frame is not None:
        if frame.f_code in _safe or (waits_too and frame.f_code in _interruptible):
            return True
        if frame.f_globals.get("__name__", "").startswith("penstock."):
            return False
        frame = frame.f_back
    return True


def _raise_in(thread: int, error: type[BaseException]) -> None:
    ctypes = _python_api()
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(error))


@cache
def _python_api() -> Any:
    return importlib.import_module("ctypes")  # takes 10 ms, and most programs never interrupt anything


def where(call: Call) -> str:
    """Where a body that does not stop is, for a message: thread and source line."""
    if call.away is not None:
        return call.away.where(call)
    task = call.asyncio_task
    thread = call.thread if task is None else call.loop_thread
    frame = sys._current_frames().get(thread or 0)
    if task is not None and sys.modules["asyncio"].current_task(task.get_loop()) is not task:
        frame = _suspended_at(task.get_coro())  # the loop is doing something else
    while frame is not None and frame.f_globals.get("__name__", "").startswith("penstock."):
        frame = frame.f_back
    at = "" if frame is None else f" at {frame.f_code.co_filename}:{frame.f_lineno}"
    name = next((t.name for t in threading.enumerate() if t.ident == thread), "an event loop")
    return f"thread {name}{at}"


def _suspended_at(coroutine: Any) -> FrameType | None:
    """The innermost line of the user's at which a coroutine waits: below it may be the standard library's."""
    frame = None
    while coroutine is not None and getattr(coroutine, "cr_frame", None) is not None:
        if not coroutine.cr_frame.f_globals.get("__name__", "").startswith(("penstock.", "asyncio.")):
            frame = coroutine.cr_frame
        coroutine = coroutine.cr_await
    return frame


# --- the main thread --------------------------------------------------------------------------------------------
# A signal reaches the main thread even inside a blocking call of the operating system, which an exception set from
# another thread does not.


def arm_alarm() -> None:
    """Use SIGALRM to stop bodies on the main thread, unless the program uses it. Main thread only."""
    global _alarm_armed
    if hasattr(signal, "SIGALRM") and signal.getsignal(signal.SIGALRM) is signal.SIG_DFL:
        signal.signal(signal.SIGALRM, _on_alarm)
        _alarm_armed = True


def disarm_alarm() -> None:
    global _alarm_armed
    if _alarm_armed:
        _alarm_armed = False
        signal.signal(signal.SIGALRM, signal.SIG_DFL)


def _on_alarm(number: int, frame: FrameType | None) -> None:
    call = _innermost.get(MAIN or 0)
    if call is None or not call.stopping or call.gate is not None:
        return
    if is_safe(frame):
        raise CancelSignal
    clock.get().call_later(_LOOK_AGAIN, lambda: stop_thread(call))


# --- root runs --------------------------------------------------------------------------------------------------

roots: dict[Run, None] = {}
"""The root runs of this process that are going on."""


@contextmanager
def known(run: Run) -> Iterator[None]:
    """In the block, a thread that knows of no run can find this one."""
    roots[run] = None
    try:
        yield
    finally:
        del roots[run]


def runs_are_active() -> bool:
    return bool(roots)


def sole_root_run() -> Run | None:
    """The one root run that is going on; None if there is none, or more than one."""
    active = list(roots)
    return active[0] if len(active) == 1 else None
