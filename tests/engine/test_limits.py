"""The lines in front of limits: whose turn it is, and what is left after an interrupt."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from types import FrameType

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from lines import MODULE, Caller, fresh_limits, held, in_thread, waiting

from penstock._engine import company, leasing, limits, sources
from penstock._engine.limits import Limits, Request
from penstock.concurrency import concurrency, set_limit
from penstock.store import leases
from penstock.testing.clock import ManualClock


@pytest.fixture(autouse=True)
def clock() -> Iterator[ManualClock]:
    with fresh_limits() as clock:
        yield clock


@pytest.fixture
def table() -> Limits:
    table = Limits()
    table.define_slots("a", 2)
    table.define_slots("b", 1)
    return table


class TestRequests:
    def test_granted_while_there_is_room(self, table: Limits) -> None:
        first, second, third = (Caller(table, "a").submit() for _ in range(3))
        assert [first.granted, second.granted, third.granted] == [True, True, False]
        first.request.release()
        assert third.granted
        assert [first.told, second.told, third.told] == [0, 0, 1]

    def test_nobody_is_overtaken_by_a_smaller_request(self, table: Limits) -> None:
        holder = Caller(table, "a").submit()
        large = Caller(table, "a", amount=2).submit()
        small = Caller(table, "a").submit()
        assert [large.granted, small.granted] == [False, False]
        holder.request.release()
        assert [large.granted, small.granted] == [True, False]
        large.request.release()
        assert small.granted

    def test_one_release_may_admit_several(self, table: Limits) -> None:
        large = Caller(table, "a", amount=2).submit()
        small = [Caller(table, "a").submit() for _ in range(3)]
        large.request.release()
        assert [one.granted for one in small] == [True, True, False]

    def test_all_or_nothing(self, table: Limits) -> None:
        Caller(table, "a").submit()
        holder = Caller(table, "b").submit()
        both = Caller(table, "a", "b").submit()
        assert not both.granted
        (a,) = table.slots(["a"])
        assert sum(a.source.holders.values()) == 1  # waiting for b, it holds nothing of a
        holder.request.release()
        assert both.granted
        assert sum(a.source.holders.values()) == 2

    def test_opposite_orders_do_not_block_each_other(self, table: Limits) -> None:
        one = Caller(table, "a", "b", amount=1).submit()
        two = Caller(table, "b", "a", amount=1).submit()
        one.request.release()
        assert two.granted

    def test_cancel_leaves_the_line(self, table: Limits) -> None:
        holder = Caller(table, "b").submit()
        quitter, next_one = Caller(table, "b").submit(), Caller(table, "b").submit()
        assert [quitter.request.cancel(), quitter.request.cancel()] == [True, False]
        holder.request.release()
        assert next_one.granted
        assert (quitter.granted, quitter.told) == (False, 0)

    def test_cancel_of_the_first_lets_the_next_one_in(self, table: Limits) -> None:
        Caller(table, "a").submit()
        large, small = Caller(table, "a", amount=2).submit(), Caller(table, "a").submit()
        assert large.request.cancel()
        assert (small.granted, small.told) == (True, 1)

    def test_cancel_comes_too_late_for_a_granted_request(self, table: Limits) -> None:
        caller = Caller(table, "b").submit()
        assert caller.request.cancel() is False
        assert not Caller(table, "b").submit().granted

    def test_release_counts_once(self, table: Limits) -> None:
        first = Caller(table, "b").submit()
        second, third = Caller(table, "b").submit(), Caller(table, "b").submit()
        first.request.release()
        first.request.release()
        assert [second.granted, third.granted] == [True, False]

    def test_release_before_submit_means_never(self, table: Limits) -> None:
        holder, caller = Caller(table, "b").submit(), Caller(table, "b")
        caller.request.release()
        assert not caller.submit().granted
        (b,) = table.slots(["b"])
        assert not b.line
        holder.request.release()
        assert Caller(table, "b").submit().granted

    def test_more_than_the_limit(self, table: Limits) -> None:
        with pytest.raises(ValueError, match=r"occupy=3 is more than the limit 'a' allows \(2\)"):
            Caller(table, "a", amount=3).submit()
        assert Caller(table, "a", amount=2).submit().granted

    def test_raised_limit_admits_at_once(self, table: Limits) -> None:
        callers = [Caller(table, "b").submit() for _ in range(4)]
        table.define_slots("b", 3)
        assert [one.granted for one in callers] == [True, True, True, False]

    def test_lowered_limit_is_kept_from_then_on(self, table: Limits) -> None:
        callers = [Caller(table, "a").submit() for _ in range(4)]
        table.define_slots("a", 1)
        callers[0].request.release()
        assert not callers[2].granted
        callers[1].request.release()
        assert [callers[2].granted, callers[3].granted] == [True, False]

    def test_lowered_limit_refuses_who_could_never_enter(self, table: Limits) -> None:
        Caller(table, "a").submit()
        large, small = Caller(table, "a", amount=2).submit(), Caller(table, "a").submit()
        table.define_slots("a", 1)
        assert (large.granted, large.told) == (False, 1)
        assert str(large.request.error) == "occupy=2 is more than the limit 'a' allows (1)"
        assert not small.granted

    def test_who_is_refused_leaves_all_lines(self, table: Limits) -> None:
        table.define_slots("c", 3)
        Caller(table, "c", amount=2).submit()
        refused = Caller(table, "a", "c", amount=2).submit()
        behind = Caller(table, "a").submit()
        table.define_slots("c", 1)
        assert (refused.granted, behind.granted) == (False, True)

    def test_removed_limit_admits_everybody_and_counts_again_when_it_is_back(self, table: Limits) -> None:
        callers = [Caller(table, "b").submit() for _ in range(3)]
        table.define_slots("b", None)
        assert all(one.granted for one in callers)
        assert table.slots(["b"]) == []
        table.define_slots("b", 3)
        assert not Caller(table, "b").submit().granted

    def test_tags(self, table: Limits) -> None:
        table.define_slots("tag:db", 1)
        table.define_slots("tag:gone", None)
        assert [limit.name for limit in table.tag_slots({"a", "db", "gone"})] == ["tag:db"]
        assert Limits().tag_slots({"db"}) == []

    def test_a_caller_who_cannot_be_told_loses_the_slot_and_nothing_else(
        self, table: Limits, caplog: pytest.LogCaptureFixture
    ) -> None:
        holder = Caller(table, "b").submit()
        broken = [Caller(table, "b") for _ in range(2000)]  # more than could be told by recursion
        for one in broken:
            one.request.notify = lambda: 1 / 0
            one.submit()
        last = Caller(table, "b").submit()
        holder.request.release()
        assert last.granted
        assert {record.getMessage() for record in caplog.records} == {"Could not tell a test that its turn has come"}

    def test_callers_are_told_without_the_lock(self, table: Limits) -> None:
        others: list[bool] = []

        def look_from_another_thread() -> None:
            with in_thread(lambda: others.append(Caller(table, "a").submit().granted)):
                pass

        holder, waiter = Caller(table, "b").submit(), Caller(table, "b")
        waiter.request.notify = look_from_another_thread
        waiter.submit()
        holder.request.release()
        assert others == [True]


NAMES = ("x", "y", "z")


class LimitsMachine(RuleBasedStateMachine):
    """The limits against a model that scans everybody who waits, in the order of their coming."""

    def __init__(self) -> None:
        super().__init__()
        self.table = Limits()
        self.capacity: dict[str, int | None] = dict.fromkeys(NAMES)
        self.callers: list[tuple[Caller, frozenset[str]]] = []
        self.waiting: list[int] = []
        self.holding: set[int] = set()
        self.expected_told: list[int] = []

    def used(self, name: str) -> int:
        return sum(self.callers[i][0].request.amount for i in self.holding if name in self.callers[i][1])

    def room(self, index: int) -> bool:
        caller, names = self.callers[index]
        ahead = {name for i in self.waiting[: self.waiting.index(index)] for name in self.callers[i][1]}
        return not names & ahead and all(
            (most := self.capacity[name]) is None or self.used(name) + caller.request.amount <= most for name in names
        )

    def settle(self) -> None:
        while (turn := next(filter(self.room, self.waiting), None)) is not None:
            self.waiting.remove(turn)
            self.holding.add(turn)
            self.expected_told[turn] += 1

    @rule(name=st.sampled_from(NAMES), capacity=st.none() | st.integers(1, 4))
    def define(self, name: str, capacity: int | None) -> None:
        self.table.define_slots(name, capacity)
        self.capacity[name] = capacity
        for index in list(self.waiting):
            caller, names = self.callers[index]
            if name in names and capacity is not None and caller.request.amount > capacity:
                self.waiting.remove(index)
                self.expected_told[index] += 1
                assert isinstance(caller.request.error, ValueError)
        self.settle()

    @rule(names=st.sets(st.sampled_from(NAMES)), amount=st.integers(1, 3))
    def ask(self, names: set[str], amount: int) -> None:
        defined = {name: most for name in names if (most := self.capacity[name]) is not None}
        caller = Caller(self.table, *names, amount=amount)
        if any(amount > most for most in defined.values()):
            with pytest.raises(ValueError):
                caller.submit()
            return
        self.callers.append((caller, frozenset(defined)))
        self.waiting.append(len(self.callers) - 1)
        self.expected_told.append(0)
        caller.submit()
        self.settle()
        if caller.granted:
            self.expected_told[-1] = 0  # whoever need not wait is not told

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        index = data.draw(st.sampled_from(self.waiting))
        assert self.callers[index][0].request.cancel()
        self.waiting.remove(index)
        self.settle()

    @precondition(lambda self: self.holding)
    @rule(data=st.data(), twice=st.booleans())
    def release(self, data: st.DataObject, twice: bool) -> None:
        index = data.draw(st.sampled_from(sorted(self.holding)))
        request = self.callers[index][0].request
        assert not request.cancel()
        request.release()
        self.holding.remove(index)
        self.settle()
        if twice:
            request.release()

    @invariant()
    def agrees(self) -> None:
        for index, (caller, _) in enumerate(self.callers):
            request = caller.request
            assert (request.granted and not request.closed) == (index in self.holding)
            assert (not request.granted and not request.closed) == (index in self.waiting)
            assert caller.told == self.expected_told[index]
        for limit in self.table.slots(NAMES):
            assert sum(limit.source.holders.values()) == self.used(limit.name)
            assert len(limit.line) == sum(limit.name in self.callers[i][1] for i in self.waiting)


TestLimitsMachine = LimitsMachine.TestCase


class Strike:
    """Raises KeyboardInterrupt when the code of the limits has executed a number of lines."""

    FILES = frozenset(
        {limits.__file__, leasing.__file__, MODULE.__file__, sources.__file__, company.__file__, leases.__file__}
    )

    def __init__(self, line: int) -> None:
        self.left = line
        self.where: str | None = None

    def __call__(self, frame: FrameType, event: str, arg: object) -> Strike | None:
        # Finalizers are left out: an interrupt in one is reported and dropped by the interpreter.
        if frame.f_code.co_filename not in self.FILES or frame.f_code.co_name == "__del__":
            return None
        self.left -= 1
        if self.left == 0:
            self.where = f"{frame.f_code.co_name}:{frame.f_lineno} ({event})"
            raise KeyboardInterrupt
        return self


@contextlib.contextmanager
def tracing(strike: Strike) -> Iterator[None]:
    before = sys.gettrace()
    sys.settrace(strike)
    try:
        yield
    finally:
        sys.settrace(before)


class TestInterrupts:
    def strikes(self, scenario: Callable[[], None]) -> Iterator[str]:
        """Run `scenario` once for each line that it executes, and interrupt it there."""
        for line in range(1, 2000):
            strike = Strike(line)
            with contextlib.suppress(KeyboardInterrupt), tracing(strike):
                scenario()
            if strike.where is None:
                assert line > 40  # the interrupts did strike
                return
            yield strike.where
        pytest.fail("the scenario does not come to an end")

    def test_no_slot_is_lost(self, clock: ManualClock) -> None:
        def scenario() -> None:
            with concurrency("db"):
                pass

        set_limit("db", 1)
        for where in self.strikes(scenario):
            clock.advance(0)  # where a dropped lease gives back what it holds
            assert (held("db"), waiting("db")) == (0, 0), where

    def test_no_slot_is_lost_in_a_coroutine(self, clock: ManualClock) -> None:
        async def enter() -> None:
            async with concurrency("db"):
                pass

        def scenario() -> None:
            with contextlib.suppress(StopIteration):
                enter().send(None)

        set_limit("db", 1)
        loop = asyncio.new_event_loop()
        asyncio.events._set_running_loop(loop)  # the coroutine is driven by hand: a loop would catch interrupts
        try:
            for where in self.strikes(scenario):
                clock.advance(0)
                assert (held("db"), waiting("db")) == (0, 0), where
        finally:
            asyncio.events._set_running_loop(None)
            loop.close()

    def test_nobody_in_line_is_forgotten(self, clock: ManualClock) -> None:
        callers: list[Caller] = []

        def scenario() -> None:
            callers[0].request.release()

        set_limit("db", 1)
        set_limit("api", 1)

        def line_up() -> None:
            callers[:] = [Caller(limits.of(), "db", "api").submit() for _ in range(3)]

        line_up()
        for where in self.strikes(scenario):
            if where.startswith("release") and not callers[1].granted:
                callers[0].request.release()  # struck before it began: a lease would do this when dropped
            assert [one.granted for one in callers] == [True, True, False], where
            assert (held("db"), held("api"), waiting("db"), waiting("api")) == (1, 1, 1, 1), where
            # Between being taken from the queue and being told is the one place where the news can be lost.
            assert callers[1].told == 1 or where.startswith("_notify"), where
            for one in callers:
                one.request.release()
            line_up()

    def test_a_signal_handler_may_cancel_what_is_being_admitted(self, table: Limits) -> None:
        holder, waiter, last = (Caller(table, "b").submit() for _ in range(3))
        (b,) = table.slots(["b"])
        take = b.source.take
        cancelled: list[bool] = []

        def interrupted(request: Request) -> None:
            if request is waiter.request:
                cancelled.append(request.cancel())
            take(request)

        b.source.take = interrupted  # type: ignore[method-assign]
        holder.request.release()
        assert (cancelled, waiter.granted, waiter.told) == ([True], False, 0)
        assert last.granted
        last.request.release()
        assert not b.source.holders

    def test_a_dropped_lease_gives_back_later(self, clock: ManualClock) -> None:
        set_limit("db", 1)
        concurrency("db").__enter__()
        gc.collect()
        assert held("db") == 1  # not in the middle of whatever the collector interrupted
        clock.advance(0)
        assert held("db") == 0


FORK = """
import os, signal, threading
from penstock._engine import limits
from penstock.concurrency import concurrency
db = concurrency("db", limit=1)
locked, forked = threading.Event(), threading.Event()
reading, writing = os.pipe()

def keep_locked():
    with limits.of()._lock:
        locked.set()
        forked.wait()

with db:
    other = threading.Thread(target=keep_locked)
    other.start()
    locked.wait()
    child = os.fork()
    forked.set()
    if child == 0:
        signal.alarm(10)
        try:
            with concurrency("db", timeout_seconds=0):
                os._exit(1)
        except TimeoutError as error:
            assert f"in process {os.getppid()}" in str(error), error
        os.write(writing, b"!")
        with concurrency("db"):
            try:
                with concurrency("db", timeout_seconds=0):
                    pass
            except TimeoutError:
                os._exit(0)
        os._exit(1)
    os.read(reading, 1)
    other.join()
_, status = os.waitpid(child, 0)
raise SystemExit(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_is_another_process_and_holds_nothing() -> None:
    subprocess.run([sys.executable, "-W", "ignore", "-c", FORK], check=True, timeout=30)
