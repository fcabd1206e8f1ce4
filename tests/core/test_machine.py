"""The life of a run: every reachable situation, against a table written here, and laws that hold in all of them.

The table below says what a run does. `WORLD` says what can be reported to a run, depending on what it was last told
to do; walking both together visits everything that can happen to a run with a small policy. Each rule of the
library's own table is then deleted, and otherwise damaged, and every damage must be noticed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, NamedTuple

import pytest

from penstock._core import machine
from penstock._core.machine import Command, Event, Reason, step
from penstock.states import Status

# --- what is expected ---------------------------------------------------------------------------------------------

# Of the lines with the status and event at hand, the first one whose condition holds; without one: ignored.
# now      event         if          then       command    reason
TABLE = """
PENDING    READY         cached      PENDING    LOOKUP     NONE
PENDING    READY         limited     WAITING    ACQUIRE    SLOT
PENDING    READY         -           PENDING    ATTEMPT    NONE
PENDING    HIT           -           COMPLETED  FINISH     CACHED
PENDING    MISS          limited     WAITING    ACQUIRE    SLOT
PENDING    MISS          -           PENDING    ATTEMPT    NONE
PENDING    STARTED       -           RUNNING    RUN        NONE
PENDING    BLOCKED       -           FAILED     FINISH     UPSTREAM
PENDING    REFUSED       -           FAILED     FINISH     NONE
PENDING    CRASHED       -           CRASHED    FINISH     NONE
PENDING    CANCEL_ASKED  -           CANCELLED  FINISH     NONE

WAITING    GRANTED       -           WAITING    ATTEMPT    NONE
WAITING    DELAY_OVER    limited     WAITING    ACQUIRE    SLOT
WAITING    DELAY_OVER    -           WAITING    ATTEMPT    RETRY
WAITING    STARTED       -           RUNNING    RUN        NONE
WAITING    REFUSED       -           FAILED     FINISH     NONE
WAITING    CRASHED       -           CRASHED    FINISH     NONE
WAITING    CANCEL_ASKED  -           CANCELLED  FINISH     NONE

RUNNING    RETURNED      -           COMPLETED  FINISH     NONE
RUNNING    RAISED        may_retry   WAITING    DELAY      RETRY
RUNNING    RAISED        -           FAILED     FINISH     NONE
RUNNING    TIMED_OUT     may_retry   WAITING    DELAY      RETRY
RUNNING    TIMED_OUT     -           FAILED     FINISH     DEADLINE
RUNNING    LOST          may_retry   WAITING    DELAY      RETRY
RUNNING    LOST          -           CRASHED    FINISH     NONE
RUNNING    CRASHED       -           CRASHED    FINISH     NONE
RUNNING    STOPPED       -           CANCELLED  FINISH     NONE
RUNNING    CANCEL_ASKED  not_asked   RUNNING    INTERRUPT  NONE
"""


class Line(NamedTuple):
    now: Status
    event: Event
    condition: str
    then: Status
    command: Command
    reason: Reason


def read(table: str) -> list[Line]:
    lines = [line.split() for line in table.splitlines() if line]
    return [
        Line(Status[now], Event[event], condition, Status[then], Command[command], Reason[reason])
        for now, event, condition, then, command, reason in lines
    ]


EXPECTED = read(TABLE)

# What can be reported after a command was given; None: the run is new and its inputs are waited for. An attempt that
# is lost has begun: a worker that dies before it enters the body is charged with the attempt, too.
ALWAYS = {Event.CANCEL_ASKED, Event.CRASHED}
WORLD: Mapping[Command | None, set[Event]] = {
    None: ALWAYS | {Event.READY, Event.BLOCKED, Event.REFUSED},
    Command.LOOKUP: ALWAYS | {Event.HIT, Event.MISS},
    Command.ACQUIRE: ALWAYS | {Event.GRANTED},
    Command.ATTEMPT: ALWAYS | {Event.STARTED, Event.REFUSED},
    Command.DELAY: ALWAYS | {Event.DELAY_OVER},
    Command.RUN: ALWAYS | {Event.RETURNED, Event.RAISED, Event.TIMED_OUT, Event.LOST, Event.STOPPED},
}


@dataclass(frozen=True)
class Policy:
    """What does not change while a run lives. (Whether limits apply is a fact of the run: its tags say.)"""

    retries: int
    cached: bool
    limited: bool


@dataclass
class Facts:
    status: Status = Status.PENDING
    reason: Reason = Reason.NONE
    attempt: int = 0
    retryable: bool = True
    cancel_asked: bool = False
    limited: bool = False


class Situation(NamedTuple):
    """A run's facts, and what it was last told to do apart from being interrupted."""

    status: Status
    reason: Reason
    attempt: int
    retryable: bool
    cancel_asked: bool
    told: Command | None
    attempts_ordered: int

    def facts(self, policy: Policy) -> Facts:
        return Facts(*self[:5], limited=policy.limited)


POLICIES = [Policy(*options) for options in product((0, 1, 2), (False, True), (False, True))]
NEW = Situation(Status.PENDING, Reason.NONE, 0, True, False, None, 0)


class Move(NamedTuple):
    policy: Policy
    before: Situation
    event: Event
    command: Command
    after: Situation


def moves_from(situation: Situation, policy: Policy) -> Iterator[Move]:
    """All that can be reported now. Whether to try again is asked at each failure, so both answers are possible."""
    events = set() if situation.status.final else WORLD.get(situation.told, set())
    for event, retryable in product(sorted(events), (True, False)):
        before = situation._replace(retryable=retryable)
        facts = before.facts(policy)
        command = step(facts, event, policy)
        told = situation.told if command in (Command.IGNORE, Command.INTERRUPT) else command
        ordered = situation.attempts_ordered + (command is Command.ATTEMPT)
        after = Situation(facts.status, facts.reason, facts.attempt, True, facts.cancel_asked, told, ordered)
        yield Move(policy, before, event, command, after)


def walk(policy: Policy) -> Iterator[Move]:
    """Every move that a run of this policy can make."""
    seen, ahead = {NEW}, deque([NEW])
    while ahead:
        for move in moves_from(ahead.popleft(), policy):
            yield move
            assert len(seen) < 1000, "the walk does not end"
            if move.after not in seen:
                seen.add(move.after)
                ahead.append(move.after)


def all_moves() -> Iterator[Move]:
    return (move for policy in POLICIES for move in walk(policy))


# --- the table ----------------------------------------------------------------------------------------------------


def holds(condition: str, run: Facts, policy: Policy) -> bool:
    return {
        "-": True,
        "cached": policy.cached,
        "limited": run.limited,
        "may_retry": run.attempt <= policy.retries and run.retryable and not run.cancel_asked,
        "not_asked": not run.cancel_asked,
    }[condition]


def line_for(run: Facts, event: Event, policy: Policy) -> Line | None:
    for line in EXPECTED:
        if (line.now, line.event) == (run.status, event) and holds(line.condition, run, policy):
            return line
    return None


def expected(run: Facts, event: Event, policy: Policy) -> tuple[Command, Facts]:
    line = line_for(run, event, policy)
    if line is None:
        return Command.IGNORE, run
    after = replace(
        run,
        status=line.then,
        reason=line.reason,
        attempt=run.attempt + (event is Event.STARTED),
        cancel_asked=run.cancel_asked or event is Event.CANCEL_ASKED,
    )
    return line.command, after


def check_moves_against_the_table() -> None:
    for move in all_moves():
        command, after = expected(move.before.facts(move.policy), move.event, move.policy)
        assert move.command is command, move
        assert move.after.facts(move.policy) == replace(after, retryable=True), move


def check_every_event_in_every_situation() -> None:
    """Also what cannot be reported, as far as we know: it is ignored, or does what the table says."""
    situations = {(move.policy, situation) for move in all_moves() for situation in (move.before, move.after)}
    for (policy, situation), event in product(situations, Event):
        facts = situation.facts(policy)
        command, after = expected(situation.facts(policy), event, policy)
        assert step(facts, event, policy) is command, (policy, situation, event)
        assert facts == after, (policy, situation, event)


def test_moves_against_the_table() -> None:
    check_moves_against_the_table()


def test_every_event_in_every_situation() -> None:
    check_every_event_in_every_situation()


def test_everything_expected_happens() -> None:
    """No line of the table here is idle: the walk comes by each of them."""
    moves = [(move.before.facts(move.policy), move.event, move.policy) for move in all_moves()]
    assert {line_for(*move) for move in moves} - {None} == set(EXPECTED)


# --- laws ---------------------------------------------------------------------------------------------------------


def check_laws() -> None:
    for policy in POLICIES:
        moves = list(walk(policy))
        for move in moves:
            for law in LAWS:
                assert law(move), (law.__name__, move)
        check_every_run_can_end(moves)


def nothing_is_dropped_that_matters(move: Move) -> bool:
    """What the world reports in answer to a command is never ignored: the run would hang. Asking twice may be."""
    return move.command is not Command.IGNORE or (move.event is Event.CANCEL_ASKED and move.before.cancel_asked)


def ignoring_changes_nothing(move: Move) -> bool:
    return move.command is not Command.IGNORE or move.after == move.before._replace(retryable=True)


def final_means_finished(move: Move) -> bool:
    return move.after.status.final == (move.command is Command.FINISH)


def attempts_are_counted_when_bodies_are_entered(move: Move) -> bool:
    return move.after.attempt - move.before.attempt == (move.command is Command.RUN)


def attempts_are_bounded(move: Move) -> bool:
    most = move.policy.retries + 1
    return move.after.attempt <= most and move.after.attempts_ordered <= most


def bodies_run_while_running(move: Move) -> bool:
    return (move.after.status is Status.RUNNING) == (move.after.told is Command.RUN)


def a_cancelled_run_starts_nothing(move: Move) -> bool:
    return not move.after.cancel_asked or move.command in (Command.IGNORE, Command.INTERRUPT, Command.FINISH)


def cancelling_is_at_once_unless_a_body_runs(move: Move) -> bool:
    if move.event is not Event.CANCEL_ASKED:
        return True
    if move.before.status is Status.RUNNING:
        return move.after.status is Status.RUNNING and move.after.cancel_asked
    return move.after.status is Status.CANCELLED


def only_cancelling_cancels(move: Move) -> bool:
    """...or the body itself, by ending as one that was stopped does."""
    return move.after.status is not Status.CANCELLED or move.event in (Event.CANCEL_ASKED, Event.STOPPED)


def only_failures_are_retried(move: Move) -> bool:
    failures = (Event.RAISED, Event.TIMED_OUT, Event.LOST)
    return move.command is not Command.DELAY or (move.event in failures and move.before.retryable)


def failures_are_retried_while_that_is_allowed(move: Move) -> bool:
    failures = (Event.RAISED, Event.TIMED_OUT, Event.LOST)
    left = move.before.attempt <= move.policy.retries and move.before.retryable and not move.before.cancel_asked
    return not (move.event in failures and left) or move.command is Command.DELAY


def the_cache_is_asked_first(move: Move) -> bool:
    asks = move.event is Event.READY and move.policy.cached
    return asks == (move.command is Command.LOOKUP)


def every_attempt_stands_in_line_for_limits(move: Move) -> bool:
    if move.command is Command.ACQUIRE:
        return move.policy.limited
    return move.command is not Command.ATTEMPT or move.policy.limited == (move.event is Event.GRANTED)


def only_the_cache_completes_without_a_body(move: Move) -> bool:
    if move.after.status is not Status.COMPLETED:
        return True
    return move.event is (Event.RETURNED if move.after.attempt else Event.HIT)


def upstream_and_cache_need_no_attempt(move: Move) -> bool:
    return move.after.reason not in (Reason.UPSTREAM, Reason.CACHED) or move.after.attempt == 0


LAWS = (
    nothing_is_dropped_that_matters,
    ignoring_changes_nothing,
    final_means_finished,
    attempts_are_counted_when_bodies_are_entered,
    attempts_are_bounded,
    bodies_run_while_running,
    a_cancelled_run_starts_nothing,
    cancelling_is_at_once_unless_a_body_runs,
    only_cancelling_cancels,
    only_failures_are_retried,
    failures_are_retried_while_that_is_allowed,
    the_cache_is_asked_first,
    every_attempt_stands_in_line_for_limits,
    only_the_cache_completes_without_a_body,
    upstream_and_cache_need_no_attempt,
)

UNKIND = {Event.CANCEL_ASKED, Event.CRASHED}


def check_every_run_can_end(moves: list[Move]) -> None:
    """From everywhere there is a way to an end on which nobody intervenes."""
    situations = {move.before._replace(retryable=True) for move in moves} | {move.after for move in moves}
    ending = {situation for situation in situations if situation.status.final}
    kind = [move for move in moves if move.event not in UNKIND]
    while more := {move.before._replace(retryable=True) for move in kind if move.after in ending} - ending:
        ending |= more
    assert situations == ending


def test_laws() -> None:
    check_laws()


@pytest.mark.parametrize("status", [status for status in Status if status.final])
@pytest.mark.parametrize("event", Event)
@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_the_end_is_the_end(status: Status, event: Event, policy: Policy) -> None:
    for reason, attempt, cancel_asked in product(Reason, range(3), (False, True)):
        facts = Facts(status, reason, attempt, True, cancel_asked)
        before = replace(facts)
        assert step(facts, event, policy) is Command.IGNORE
        assert facts == before


def test_the_ends_that_a_plain_run_can_come_to() -> None:
    plain = Policy(retries=0, cached=False, limited=False)
    ends = {(move.after.status, move.after.reason) for move in walk(plain) if move.after.status.final}
    assert ends == {
        (Status.COMPLETED, Reason.NONE),
        (Status.FAILED, Reason.NONE),
        (Status.FAILED, Reason.DEADLINE),
        (Status.FAILED, Reason.UPSTREAM),
        (Status.CRASHED, Reason.NONE),
        (Status.CANCELLED, Reason.NONE),
    }


# --- lives, told in full ------------------------------------------------------------------------------------------

CACHED = Policy(retries=0, cached=True, limited=False)
PLAIN = Policy(retries=0, cached=False, limited=False)
ONCE_MORE = Policy(retries=1, cached=False, limited=False)
EVERYTHING = Policy(retries=1, cached=True, limited=True)

LIVES: list[tuple[Policy, str, str, Facts]] = [
    (PLAIN, "READY STARTED RETURNED", "ATTEMPT RUN FINISH", Facts(Status.COMPLETED, attempt=1)),
    (CACHED, "READY HIT", "LOOKUP FINISH", Facts(Status.COMPLETED, Reason.CACHED)),
    (PLAIN, "READY STARTED RAISED", "ATTEMPT RUN FINISH", Facts(Status.FAILED, attempt=1)),
    (
        EVERYTHING,
        "READY MISS GRANTED STARTED TIMED_OUT DELAY_OVER GRANTED STARTED TIMED_OUT",
        "LOOKUP ACQUIRE ATTEMPT RUN DELAY ACQUIRE ATTEMPT RUN FINISH",
        Facts(Status.FAILED, Reason.DEADLINE, attempt=2),
    ),
    (
        ONCE_MORE,
        "READY STARTED CANCEL_ASKED CANCEL_ASKED RAISED",
        "ATTEMPT RUN INTERRUPT IGNORE FINISH",
        Facts(Status.FAILED, attempt=1, cancel_asked=True),
    ),
    (
        ONCE_MORE,
        "READY STARTED CANCEL_ASKED RETURNED STOPPED",
        "ATTEMPT RUN INTERRUPT FINISH IGNORE",
        Facts(Status.COMPLETED, attempt=1, cancel_asked=True),
    ),
    (
        ONCE_MORE,
        "READY STARTED RAISED CANCEL_ASKED DELAY_OVER",
        "ATTEMPT RUN DELAY FINISH IGNORE",
        Facts(Status.CANCELLED, attempt=1, cancel_asked=True),
    ),
    (
        ONCE_MORE,
        "READY STARTED LOST DELAY_OVER STARTED LOST",
        "ATTEMPT RUN DELAY ATTEMPT RUN FINISH",
        Facts(Status.CRASHED, attempt=2),
    ),
    (PLAIN, "BLOCKED READY", "FINISH IGNORE", Facts(Status.FAILED, Reason.UPSTREAM)),
]


@pytest.mark.parametrize(("policy", "events", "commands", "end"), LIVES)
def test_life(policy: Policy, events: str, commands: str, end: Facts) -> None:
    run = Facts(limited=policy.limited)
    assert [step(run, Event[event], policy).name for event in events.split()] == commands.split()
    assert run == replace(end, limited=policy.limited)


# --- every rule is needed -----------------------------------------------------------------------------------------

Table = dict[tuple[Status, Event], tuple[machine.Rule, ...]]


def with_rule(key: tuple[Status, Event], index: int, *instead: machine.Rule) -> Table:
    rules = machine.TRANSITIONS[key]
    return {**machine.TRANSITIONS, key: (*rules[:index], *instead, *rules[index + 1 :])}


def damages() -> Iterator[Any]:
    for key, rules in machine.TRANSITIONS.items():
        for index, rule in enumerate(rules):
            name = f"{key[0].name}-{key[1].name}-{index}"
            yield pytest.param(with_rule(key, index), id=f"{name}-deleted")
            for field, value in damaged_fields(rule):
                changed = rule._replace(**{field: value})
                yield pytest.param(with_rule(key, index, changed), id=f"{name}-{field}-{getattr(value, 'name', value)}")


def damaged_fields(rule: machine.Rule) -> Iterator[tuple[str, Any]]:
    yield from (("status", status) for status in Status if status is not rule.status)
    yield from (("command", command) for command in Command if command is not rule.command)
    yield from (("reason", reason) for reason in Reason if reason is not rule.reason)
    if rule.guard is not None:
        yield "guard", None


def every_check() -> None:
    check_moves_against_the_table()
    check_laws()


@pytest.mark.parametrize("table", list(damages()))
def test_every_damage_to_the_table_is_noticed(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "TRANSITIONS", table)
    with pytest.raises(AssertionError):
        every_check()


@pytest.mark.parametrize(
    "table",
    [
        pytest.param(with_rule(key, index), id=f"{key[0].name}-{key[1].name}-{index}")
        for key, rules in machine.TRANSITIONS.items()
        for index in range(len(rules))
    ],
)
def test_the_laws_alone_notice_every_deletion(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    """They were not copied from any table."""
    monkeypatch.setattr(machine, "TRANSITIONS", table)
    with pytest.raises(AssertionError):
        check_laws()
