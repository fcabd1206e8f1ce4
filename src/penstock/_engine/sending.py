"""Calls that a runner pickles, to have them executed by processes that are its own business.

The engine learns of such a call twice: when it is pickled, and when the runner's future is done. In between nobody can
reach the body or hear of it, so being pickled has to count as its beginning, and one that does not end in time is
written off. What travels is an `Errand`; what comes back, a `Homecoming`.
"""

from __future__ import annotations

import threading
from contextvars import Context
from typing import TYPE_CHECKING, Any

from penstock._core import serial
from penstock._core.errors import text_of
from penstock._core.machine import Event
from penstock._core.outcome import Outcome
from penstock._engine.requests import deliver
from penstock.exceptions import SerializationError
from penstock.task_runners import base

if TYPE_CHECKING:
    from concurrent.futures import Future as StandardFuture

    from penstock._engine.attempt import Call
    from penstock.task_runners.base import Homecoming


class Trip:
    """Whoever executes a pickled call: out of reach. An `Away`."""

    def __init__(self) -> None:
        self.error: Exception | None = None  # why the call could not be pickled
        self.hooks: threading.Thread | None = None  # in which those for the beginning are called

    def ask_to_stop(self, call: Any) -> None: ...
    def kill(self, call: Any) -> None: ...
    def where(self, call: Any) -> str:
        return "a process that cannot be reached"


def send(call: Call) -> Any:
    """The errand that a call becomes; an empty one, if its body is not to be called any more.

    Raises `SerializationError`.
    """
    trip = _trip_of(call)
    if trip is None:
        return base.make_errand()
    household, common, visit = _pack(call, trip)
    if not _begin(call, trip):
        return base.make_errand()
    return base.make_errand(household, common, visit, call.run.plan.timeout)


def _trip_of(call: Call) -> Trip | None:
    """None if the call has been begun here, or is over."""
    run = call.run
    if isinstance(call.away, Trip):
        return call.away  # pickled once more: the pool may have lost the process that it had sent it to
    if run.engine.closing and run.engine.root is not run and not call.claimed:
        run.engine.cancel(run)  # its turn comes too late
    trip = Trip()
    return trip if call.board(trip) else None


def _pack(call: Call, trip: Trip) -> Any:
    try:
        return call.pack()
    except Exception as error:
        # Kept, and another one is raised: pools wrap and change what they hand back.
        trip.error = error
        raise SerializationError(text_of(error), path=getattr(error, "path", None)) from None


def _begin(call: Call, trip: Trip) -> bool:
    run = call.run
    call.on_worker = True
    if not call.claimed and call.begin() and run.plan.hooks["on_running"]:
        # Not here: a hook may submit tasks and wait for them, and this is the pool's own thread.
        trip.hooks = _start(run.engine.about_to_run, run)
    return run.pending is call and not call.stopping


def _start(function: Any, *args: Any) -> threading.Thread:
    thread = threading.Thread(target=function, args=args, name="penstock-aside", daemon=True)
    thread.start()
    return thread


def fail(call: Call, error: Exception) -> None:
    """The runner has raised instead of taking the call."""
    trip = call.away
    if isinstance(trip, Trip) and trip.error is not None:
        call.refuse(trip.error)
        return
    call.end()
    deliver(call.run, call, Outcome(Event.CRASHED, error=error))


def receive(call: Call, trip: Trip, result: StandardFuture[Any]) -> None:
    """The runner is done with a pickled call. What follows may block: not on the pool's thread."""
    if call.may_block:
        _start(_receive, call, trip, result)
    else:
        _receive(call, trip, result)


def _receive(call: Call, trip: Trip, result: StandardFuture[Any]) -> None:
    if trip.hooks is not None:
        trip.hooks.join()
    error = None if result.cancelled() else result.exception()
    if trip.error is not None:
        call.refuse(trip.error)
    elif error is not None:
        call.lose(error)
    elif result.cancelled() or result.result() is None:  # it was not to be executed any more
        call.end()
        deliver(call.run, call, Outcome(Event.STOPPED))
    else:
        _unpack(call, result.result())


def _note_all(call: Call, homecoming: Homecoming) -> None:
    for message in homecoming.notes:
        call.note(message)


def _unpack(call: Call, homecoming: Homecoming) -> None:
    # Not in the context of this thread, which may be in a body: these lines are not that one's.
    Context().run(_note_all, call, homecoming)
    if call.run.pending is not call:
        return  # written off: what became of it in the end changes nothing
    try:
        if homecoming.report is None:
            call.refuse(serial.unpack(serial.Packed(homecoming.refusal or b"")))
            return
        report = serial.unpack(homecoming.report)
    except Exception as error:
        call.refuse(error)
    else:
        call.arrive(report)
