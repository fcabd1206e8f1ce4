"""The life of a run as a table: the only place where a status changes.

A run is driven by events ("its inputs are there", "its body raised"). `step` looks the pair (status, event)
up in `TRANSITIONS`, takes the first rule whose guard holds, moves the run to the rule's status and answers
with the command that the shell must carry out. A pair that is not in the table changes nothing and answers
`Command.IGNORE`: that is how a late report about a run that has ended is dropped.

The module is pure. It knows no clock, no thread and no store, so a test can walk every reachable
interleaving; the shell calls `step` under the run's own lock and acts after releasing it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import IntEnum
from typing import NamedTuple, Protocol

from penstock.states import Status


class Event(IntEnum):
    """What can happen to a run. IntEnum: these are dictionary keys on the hot path, and an int hashes at C speed."""

    READY = 0  # every input is there
    HIT = 1  # the cache, or an earlier run that is being resumed, has the result
    MISS = 2  # it has not
    GRANTED = 3  # a limit that the run needs gave it a place
    STARTED = 4  # a worker is about to call the body
    RETURNED = 5  # the body returned a value
    RAISED = 6  # the body raised an exception, or returned a state that is not completed
    TIMED_OUT = 7  # the attempt passed its deadline
    LOST = 8  # the worker died under the attempt
    CRASHED = 9  # something that is no failure of the body ended the attempt: SystemExit, Ctrl-C, a stuck thread
    STOPPED = 10  # the body noticed that it was asked to stop
    DELAY_OVER = 11  # the pause before the next attempt has passed
    BLOCKED = 12  # an input's run did not complete
    REFUSED = 13  # the engine could not prepare the run: unresolvable argument, bad run-name template
    CANCEL_ASKED = 14  # somebody asked for the run to be cancelled


class Command(IntEnum):
    """What the shell must do next."""

    IGNORE = 0  # nothing: the event came too late
    LOOKUP = 1  # ask the cache
    ACQUIRE = 2  # stand in line for the limits
    ATTEMPT = 3  # hand the next attempt to the runner
    RUN = 4  # call the body now
    DELAY = 5  # let the retry delay pass
    FINISH = 6  # the run is final: record it, tell everybody
    INTERRUPT = 7  # ask the running body to stop


class Reason(IntEnum):
    """Why a run is in its status: what public state names are derived from."""

    NONE = 0
    RETRY = 1
    SLOT = 2
    CACHED = 3
    DEADLINE = 4
    UPSTREAM = 5


# CPython 3.11 takes 0.1 µs to read a member of an Enum, and every run reads dozens: hot code uses these names.
READY, MISS, STARTED, RETURNED = Event.READY, Event.MISS, Event.STARTED, Event.RETURNED
BODY_CRASHED, CANCEL_ASKED = Event.CRASHED, Event.CANCEL_ASKED
IGNORE, ATTEMPT, RUN, DELAY = Command.IGNORE, Command.ATTEMPT, Command.RUN, Command.DELAY
RUNNING, COMPLETED = Status.RUNNING, Status.COMPLETED
UPSTREAM, CACHED = Reason.UPSTREAM, Reason.CACHED


class Policy(Protocol):
    """What the machine needs to know about how a run is to be executed."""

    @property
    def retries(self) -> int: ...
    @property
    def cached(self) -> bool: ...


class Facts(Protocol):
    """The part of a run that belongs to the machine."""

    status: Status
    reason: Reason
    attempt: int
    limited: bool  # a limit applies to the run: it must stand in line before each attempt
    retryable: bool
    cancel_asked: bool


Guard = Callable[[Facts, Policy], bool]


class Rule(NamedTuple):
    """One line of the table: if `guard` holds, go to `status` because of `reason` and carry out `command`."""

    status: Status
    command: Command
    reason: Reason = Reason.NONE
    guard: Guard | None = None


def may_retry(run: Facts, policy: Policy) -> bool:
    """Attempts are left, the retry condition (asked by the shell) agreed, and nobody wants the run to stop."""
    return run.attempt <= policy.retries and run.retryable and not run.cancel_asked


def is_cached(run: Facts, policy: Policy) -> bool:
    return policy.cached


def is_limited(run: Facts, policy: Policy) -> bool:
    return run.limited


def not_yet_asked(run: Facts, policy: Policy) -> bool:
    return not run.cancel_asked


_RETRY = Rule(Status.WAITING, Command.DELAY, Reason.RETRY, may_retry)
_ACQUIRE = Rule(Status.WAITING, Command.ACQUIRE, Reason.SLOT, is_limited)
_CANCEL = (Rule(Status.CANCELLED, Command.FINISH),)
_REFUSE = (Rule(Status.FAILED, Command.FINISH),)
_CRASH = (Rule(Status.CRASHED, Command.FINISH),)

TRANSITIONS: Mapping[tuple[Status, Event], tuple[Rule, ...]] = {
    # Before the first attempt.
    (Status.PENDING, Event.READY): (
        Rule(Status.PENDING, Command.LOOKUP, guard=is_cached),
        _ACQUIRE,
        Rule(Status.PENDING, Command.ATTEMPT),
    ),
    (Status.PENDING, Event.HIT): (Rule(Status.COMPLETED, Command.FINISH, Reason.CACHED),),
    (Status.PENDING, Event.MISS): (_ACQUIRE, Rule(Status.PENDING, Command.ATTEMPT)),
    (Status.PENDING, Event.STARTED): (Rule(Status.RUNNING, Command.RUN),),
    (Status.PENDING, Event.BLOCKED): (Rule(Status.FAILED, Command.FINISH, Reason.UPSTREAM),),
    (Status.PENDING, Event.REFUSED): _REFUSE,
    (Status.PENDING, Event.CRASHED): _CRASH,
    (Status.PENDING, Event.CANCEL_ASKED): _CANCEL,
    # Between attempts, and in line for a limit.
    (Status.WAITING, Event.GRANTED): (Rule(Status.WAITING, Command.ATTEMPT),),
    (Status.WAITING, Event.DELAY_OVER): (_ACQUIRE, Rule(Status.WAITING, Command.ATTEMPT, Reason.RETRY)),
    (Status.WAITING, Event.STARTED): (Rule(Status.RUNNING, Command.RUN),),
    (Status.WAITING, Event.REFUSED): _REFUSE,
    (Status.WAITING, Event.CRASHED): _CRASH,
    (Status.WAITING, Event.CANCEL_ASKED): _CANCEL,
    # While the body runs.
    (Status.RUNNING, Event.RETURNED): (Rule(Status.COMPLETED, Command.FINISH),),
    (Status.RUNNING, Event.RAISED): (_RETRY, Rule(Status.FAILED, Command.FINISH)),
    (Status.RUNNING, Event.TIMED_OUT): (_RETRY, Rule(Status.FAILED, Command.FINISH, Reason.DEADLINE)),
    (Status.RUNNING, Event.LOST): (_RETRY, *_CRASH),
    (Status.RUNNING, Event.CRASHED): _CRASH,
    (Status.RUNNING, Event.STOPPED): _CANCEL,
    (Status.RUNNING, Event.CANCEL_ASKED): (Rule(Status.RUNNING, Command.INTERRUPT, guard=not_yet_asked),),
}

_NO_RULES: tuple[Rule, ...] = ()


def step(run: Facts, event: Event, policy: Policy) -> Command:
    """Tell `run` that `event` happened; return what to do now.

    Changes `run` in place and nothing else. The caller holds the run's lock. Terminal statuses have no rows,
    so they never change.
    """
    for status, command, reason, guard in TRANSITIONS.get((run.status, event), _NO_RULES):
        if guard is None or guard(run, policy):
            run.status = status
            run.reason = reason
            if command is RUN:
                run.attempt += 1
            elif event is CANCEL_ASKED:
                run.cancel_asked = True
            return command
    return IGNORE
