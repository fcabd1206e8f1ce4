"""Concurrency and rate limits: who may go on, who waits, and what is left after an interrupt."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from penstock._engine import clock as clocks
from penstock._engine import limits
from penstock._engine.limits import Limits, Request
from penstock.concurrency import concurrency, rate_limit, set_limit
from penstock.exceptions import ConfigurationError
from penstock.testing.clock import ManualClock

# The attribute `penstock.concurrency` is the function.
MODULE = sys.modules["penstock.concurrency"]


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[ManualClock]:
    """Every test has limits of its own and moves time by hand."""
    monkeypatch.setattr(limits, "shared", Limits())
    monkeypatch.setattr(MODULE, "_warned", set())
    clock = ManualClock()
    with clocks.use(clock):
        yield clock


class Caller:
    """Somebody who wants slots and notes what becomes of it."""

    def __init__(self, table: Limits, *names: str, amount: int = 1) -> None:
        self.told = 0
        self.request = Request(table, table.slots(names), amount, self._tell, "a test")

    def _tell(self) -> None:
        self.told += 1

    def submit(self) -> Caller:
        assert self.request.submit() is self.request.granted
        return self

    @property
    def granted(self) -> bool:
        return self.request.granted


@pytest.fixture
def table() -> Limits:
    table = Limits()
    table.define_slots("a", 2)
    table.define_slots("b", 1)
    return table


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.0005)


def waiting(name: str) -> int:
    (limit,) = limits.shared.slots([name]) or limits.shared.rates([name])
    return len(limit.line)


def held(name: str) -> int:
    (limit,) = limits.shared.slots([name])
    return sum(limit.source.holders.values())


@contextlib.contextmanager
def in_thread(work: Callable[[], object]) -> Iterator[threading.Thread]:
    thread = threading.Thread(target=work)
    thread.start()
    yield thread
    thread.join(5)
    assert not thread.is_alive()


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
        assert {record.getMessage() for record in caplog.records} == {
            "Could not tell a test that its turn has come"
        }

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
            (most := self.capacity[name]) is None or self.used(name) + caller.request.amount <= most
            for name in names
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


class TestBlocking:
    def test_holds_while_inside(self) -> None:
        with concurrency("db", 2, limit=3) as nothing:
            assert held("db") == 2
            with concurrency(["db", "api"], limit=4):
                assert (held("db"), held("api")) == (3, 1)
        assert nothing is None
        assert (held("db"), held("api")) == (0, 0)

    def test_gives_back_when_the_body_raises(self) -> None:
        with pytest.raises(KeyError), concurrency("db", limit=1):
            raise KeyError
        assert held("db") == 0

    def test_waits_and_is_handed_the_slot_at_once(self) -> None:
        entered = threading.Event()
        moments: list[float] = []

        def work() -> None:
            with concurrency("db", limit=1):
                moments.append(time.perf_counter())
                entered.set()

        with concurrency("db", limit=1):
            thread = threading.Thread(target=work)
            thread.start()
            wait_until(lambda: waiting("db") == 1)
            assert not entered.is_set()
            left = time.perf_counter()
        assert entered.wait(5)
        thread.join()
        assert moments[0] - left < 0.05

    def test_one_object_in_many_threads(self) -> None:
        slots = concurrency("db", limit=3)
        inside: list[int] = []
        most = 0
        lock = threading.Lock()

        def work() -> None:
            nonlocal most
            for _ in range(50):
                with slots:
                    with lock:
                        inside.append(1)
                        most = max(most, len(inside))
                    with lock:
                        inside.pop()

        with contextlib.ExitStack() as threads:
            for _ in range(8):
                threads.enter_context(in_thread(work))
        assert 1 <= most <= 3
        assert (held("db"), waiting("db")) == (0, 0)

    def test_several_names_never_deadlock(self) -> None:
        set_limit("a", 1)
        set_limit("b", 1)
        set_limit("c", 1)

        def work(names: tuple[str, ...]) -> None:
            for _ in range(100):
                with concurrency(names):
                    pass

        with contextlib.ExitStack() as threads:
            for names in (("a", "b"), ("b", "a"), ("b", "c"), ("c", "a"), ("a", "b", "c"), ("c",)):
                threads.enter_context(in_thread(lambda names=names: work(names)))
        assert [held(name) for name in "abc"] == [0, 0, 0]

    def test_waiting_is_surrounded_by_the_hook(self, monkeypatch: pytest.MonkeyPatch) -> None:
        events: list[str] = []

        @contextlib.contextmanager
        def around() -> Iterator[None]:
            events.append("waits")
            yield
            events.append("goes on")

        monkeypatch.setattr(limits, "around_wait", around)
        with concurrency("db", limit=1):
            assert events == []
            with in_thread(lambda: concurrency("db").__enter__()):
                wait_until(lambda: events == ["waits"])
                set_limit("db", 2)
        assert events == ["waits", "goes on"]

    def test_refused_while_waiting(self) -> None:
        errors: list[ValueError] = []

        def work() -> None:
            with pytest.raises(ValueError) as caught, concurrency("db", 3):
                pytest.fail("entered")
            errors.append(caught.value)

        with concurrency("db", limit=3), in_thread(work):
            wait_until(lambda: waiting("db") == 1)
            set_limit("db", 2)
        assert str(errors[0]) == "occupy=3 is more than the limit 'db' allows (2)"


class TestTimeouts:
    def test_names_the_limit_and_its_holders(self, clock: ManualClock) -> None:
        messages: list[str] = []

        def work() -> None:
            with pytest.raises(TimeoutError) as caught, concurrency("db", timeout_seconds=2.5):
                pytest.fail("entered")
            messages.append(str(caught.value))

        with concurrency("db", 3, limit=3), in_thread(work):
            clock.wait_for_timers()
            clock.advance(2.4)
            assert waiting("db") == 1
            clock.advance(0.1)
        assert messages == [
            "Timed out after 2.5 s waiting for concurrency limit 'db' "
            "(3 of 3 slots taken, held by thread 'MainThread')"
        ]
        assert (held("db"), waiting("db")) == (0, 0)

    def test_zero_does_not_wait(self) -> None:
        with concurrency("db", limit=1, timeout_seconds=0):
            with pytest.raises(TimeoutError, match="after 0 s waiting for concurrency limit 'db'"):
                concurrency("db", timeout_seconds=0).__enter__()
            assert waiting("db") == 0

    def test_names_only_what_stands_in_the_way(self) -> None:
        set_limit("free", 1)
        with concurrency("full", limit=1), pytest.raises(TimeoutError) as caught:
            concurrency(["free", "full"], timeout_seconds=0).__enter__()
        assert "'full'" in str(caught.value)
        assert "'free'" not in str(caught.value)

    def test_says_how_many_are_ahead(self) -> None:
        set_limit("db", 2)
        first = Caller(limits.shared, "db", amount=1).submit()
        Caller(limits.shared, "db", amount=2).submit()
        with pytest.raises(TimeoutError) as caught:
            concurrency("db", timeout_seconds=0).__enter__()
        assert "(1 of 2 slots taken, held by a test) with 1 ahead in line" in str(caught.value)
        first.request.release()

    def test_names_at_most_ten_holders(self) -> None:
        set_limit("db", 13)
        holders = [Caller(limits.shared, "db").submit() for _ in range(13)]
        with pytest.raises(TimeoutError) as caught:
            concurrency("db", timeout_seconds=0).__enter__()
        assert str(caught.value).count("a test") == 10
        assert "and 3 more" in str(caught.value)
        assert all(one.granted for one in holders)

    def test_a_grant_cancels_the_timeout(self, clock: ManualClock) -> None:
        slots = concurrency("db", limit=1)
        slots.__enter__()
        with in_thread(lambda: concurrency("db", timeout_seconds=5).__enter__()):
            clock.wait_for_timers()
            slots.__exit__(None, None, None)
        # The thread dropped its context manager without leaving it, which is the only timer now.
        assert clock.timers() == 1
        clock.advance(0)
        assert held("db") == 0


class TestCoroutines:
    def test_holds_and_hands_over_between_coroutines(self) -> None:
        async def work(log: list[str], name: str) -> None:
            async with concurrency("db", limit=1):
                log.append(f"{name} in")
                await asyncio.sleep(0)
                log.append(f"{name} out")

        async def main() -> list[str]:
            log: list[str] = []
            await asyncio.gather(*(work(log, name) for name in "abc"))
            return log

        assert asyncio.run(main()) == ["a in", "a out", "b in", "b out", "c in", "c out"]
        assert (held("db"), waiting("db")) == (0, 0)

    def test_threads_and_coroutines_stand_in_one_line(self) -> None:
        order: list[str] = []

        def block(slots: Any) -> None:
            with slots:
                order.append("thread")

        async def rest(slots: Any) -> None:
            async with slots:
                order.append("coroutine")

        async def main() -> None:
            slots = concurrency("db", limit=1)
            with slots:
                thread = threading.Thread(target=block, args=(slots,))
                thread.start()
                wait_until(lambda: waiting("db") == 1)
                task = asyncio.create_task(rest(slots))
                await asyncio.sleep(0)
                assert waiting("db") == 2
            await task
            thread.join()

        asyncio.run(main())
        assert order == ["thread", "coroutine"]

    def test_a_cancelled_coroutine_leaves_the_line(self) -> None:
        async def main() -> None:
            with concurrency("db", limit=1):
                task = asyncio.create_task(concurrency("db").__aenter__())
                await asyncio.sleep(0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            assert (held("db"), waiting("db")) == (0, 0)

        asyncio.run(main())

    def test_cancelled_between_grant_and_waking_up(self, caplog: pytest.LogCaptureFixture) -> None:
        async def main() -> None:
            with concurrency("db", limit=1):
                task = asyncio.create_task(concurrency("db").__aenter__())
                await asyncio.sleep(0)
            assert held("db") == 1  # granted, and the coroutine does not know it yet
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert held("db") == 0

        asyncio.run(main())
        assert caplog.records == []

    def test_timeout(self, clock: ManualClock) -> None:
        async def main() -> None:
            with concurrency("db", limit=1):
                task = asyncio.create_task(concurrency("db", timeout_seconds=1).__aenter__())
                await asyncio.sleep(0)
                clock.advance(1)
                with pytest.raises(TimeoutError, match="after 1 s waiting for concurrency limit 'db'"):
                    await task

        asyncio.run(main())

    def test_a_loop_that_is_gone_does_not_keep_the_slot(self, caplog: pytest.LogCaptureFixture) -> None:
        with concurrency("db", limit=1):
            loop = asyncio.new_event_loop()
            task = loop.create_task(concurrency("db").__aenter__())
            loop.run_until_complete(asyncio.sleep(0))
            loop.close()
            assert waiting("db") == 1
        assert (held("db"), waiting("db")) == (0, 0)
        assert [record.levelno for record in caplog.records] == [logging.ERROR]
        task._log_destroy_pending = False  # its loop is gone: there is no other way to end it


class TestRates:
    def test_even_distances(self, clock: ManualClock) -> None:
        moments: list[float] = []

        def work() -> None:
            for _ in range(4):
                rate_limit("api", per_second=4)
                moments.append(clock.monotonic())

        with in_thread(work):
            for _ in range(3):
                clock.wait_for_timers()
                clock.advance(0.25)
        assert moments == [0.0, 0.25, 0.5, 0.75]

    def test_burst_after_a_quiet_time(self, clock: ManualClock) -> None:
        set_limit("api", 3, per_second=10)
        moments: list[float] = []

        def work() -> None:
            for _ in range(5):
                rate_limit("api")
                moments.append(round(clock.monotonic(), 6))

        with in_thread(work):
            for _ in range(2):
                clock.wait_for_timers()
                clock.advance(0.1)
        assert moments == [0.0, 0.0, 0.0, 0.1, 0.2]

    def test_quiet_times_are_not_saved_up_beyond_the_burst(self, clock: ManualClock) -> None:
        set_limit("api", 2, per_second=1)
        clock.advance(100)
        for _ in range(2):
            rate_limit("api", timeout_seconds=0)
        with pytest.raises(TimeoutError):
            rate_limit("api", timeout_seconds=0)

    def test_a_large_request_makes_the_next_one_wait(self, clock: ManualClock) -> None:
        rate_limit("api", 5, per_second=10)
        clock.advance(0.49)
        with pytest.raises(TimeoutError, match=r"waiting for rate limit 'api' \(10 per second\)"):
            rate_limit("api", timeout_seconds=0)
        clock.advance(0.01)
        rate_limit("api", timeout_seconds=0)

    def test_first_come_first_served(self, clock: ManualClock) -> None:
        set_limit("api", None, per_second=1)
        rate_limit("api")
        order: list[str] = []
        with contextlib.ExitStack() as threads:
            for place, name in enumerate("abc", 1):
                threads.enter_context(in_thread(lambda name=name: (rate_limit("api"), order.append(name))))
                wait_until(lambda place=place: waiting("api") == place)
            for done in range(1, 4):
                clock.advance(1)
                wait_until(lambda done=done: len(order) == done)
        assert order == ["a", "b", "c"]

    def test_several_names_wait_for_the_slowest(self, clock: ManualClock) -> None:
        set_limit("fast", None, per_second=10)
        set_limit("slow", None, per_second=1)
        rate_limit(["fast", "slow"])
        rate_limit([])
        with in_thread(lambda: rate_limit(["slow", "fast"])):
            clock.wait_for_timers()
            clock.advance(0.5)
            assert (waiting("fast"), waiting("slow")) == (1, 1)
            clock.advance(0.5)

    def test_timeout_gives_the_turn_to_the_next(self, clock: ManualClock) -> None:
        rate_limit("api", per_second=1)

        def give_up() -> None:
            with pytest.raises(TimeoutError):
                rate_limit("api", timeout_seconds=0.5)

        with in_thread(give_up):
            clock.wait_for_timers(2)
            with in_thread(lambda: rate_limit("api")):
                wait_until(lambda: waiting("api") == 2)
                clock.advance(0.5)
                wait_until(lambda: waiting("api") == 1)
                assert clock.timers() == 1  # the one of the next in line: nobody's timer is left behind
                clock.advance(0.5)

    def test_a_new_rate_counts_for_those_who_wait(self, clock: ManualClock) -> None:
        rate_limit("api", per_second=0.001)
        with in_thread(lambda: rate_limit("api")):
            clock.wait_for_timers()
            set_limit("api", None)

    def test_a_name_given_twice_counts_once(self, clock: ManualClock) -> None:
        rate_limit(["api", "api"], per_second=1)
        clock.advance(1)
        rate_limit("api", timeout_seconds=0)

    def test_leaves_nothing_behind(self, clock: ManualClock) -> None:
        rate_limit("api", per_second=1)
        gc.collect()
        assert clock.timers() == 0

    def test_limit_and_rate_of_one_name_are_independent(self) -> None:
        with concurrency("api", limit=1):
            rate_limit("api", per_second=1, timeout_seconds=0)
        set_limit("api", 5)
        assert limits.shared.rates(["api"]) == []


class TestArguments:
    @pytest.mark.parametrize("names", ["", [], (), None, iter(())])
    def test_no_names_no_limit(self, names: Any, caplog: pytest.LogCaptureFixture) -> None:
        with concurrency(names, limit=1), concurrency(names, strict=True):
            rate_limit(names, strict=True)
        assert caplog.records == []

    def test_names_count_once(self) -> None:
        with concurrency(iter(["db", "db"]), limit=1):
            assert held("db") == 1

    def test_undefined_is_one_warning_per_name(self, caplog: pytest.LogCaptureFixture) -> None:
        for _ in range(2):
            with concurrency(["db", "other"]):
                pass
        rate_limit("api")
        assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
            (
                logging.WARNING,
                f"No {kind} is defined for {name!r}, so it limits nothing: define it with {cure}",
            )
            for kind, name, cure in (
                ("concurrency limit", "db", "set_limit('db', 10)"),
                ("concurrency limit", "other", "set_limit('other', 10)"),
                ("rate limit", "api", "set_limit('api', 10, per_second=5)"),
            )
        ]

    def test_undefined_does_not_switch_off_what_is_defined(self) -> None:
        with concurrency("db", limit=1), pytest.raises(TimeoutError):
            concurrency(["db", "other"], timeout_seconds=0).__enter__()

    def test_strict(self) -> None:
        set_limit("db", 1)
        with pytest.raises(ConfigurationError, match=r"'other': define it with set_limit\('other', 10\)"):
            concurrency(["db", "other"], strict=True).__enter__()
        with pytest.raises(ConfigurationError, match="No rate limit is defined for 'db'"):
            rate_limit("db", strict=True)
        assert held("db") == 0

    @pytest.mark.parametrize(
        ("call", "error", "message"),
        [
            (lambda: concurrency("db", 0), ValueError, "occupy must be at least 1, got 0"),
            (lambda: rate_limit("db", -1), ValueError, "occupy must be at least 1, got -1"),
            (lambda: concurrency("db", 1.5), TypeError, "occupy must be a whole number, got 1.5"),
            (lambda: concurrency("db", 3, limit=2), ValueError, "occupy=3 is more than limit=2"),
            (lambda: concurrency("db", limit=0), ValueError, "limit must be at least 1, got 0"),
            (lambda: set_limit("db", 0), ValueError, "None removes the limit"),
            (lambda: set_limit("db", "3"), TypeError, "limit must be a whole number, got '3'"),
            (lambda: set_limit("", 3), ValueError, "needs a name"),
            (lambda: set_limit("db", 3, per_second=0), ValueError, "per_second must be a positive number"),
            (lambda: rate_limit("db", per_second=float("inf")), ValueError, "per_second must be a positive"),
            (lambda: concurrency("db", timeout_seconds=-1), ValueError, "must not be negative, got -1"),
            (lambda: rate_limit("db", timeout_seconds=float("nan")), ValueError, "must not be negative"),
            (lambda: concurrency(["db", 3]), TypeError, "names of limits must be strings, got 3"),
        ],
    )
    def test_wrong(self, call: Callable[[], object], error: type[Exception], message: str) -> None:
        with pytest.raises(error) as caught:
            call()
        assert message in str(caught.value)

    def test_more_than_the_defined_limit(self) -> None:
        set_limit("db", 2, per_second=5)
        with pytest.raises(ValueError, match=r"occupy=3 is more than the limit 'db' allows \(2\)"):
            concurrency("db", 3).__enter__()
        with pytest.raises(ValueError, match="occupy=3"):
            rate_limit("db", 3)


class Strike:
    """Raises KeyboardInterrupt when the code of the limits has executed a number of lines."""

    FILES = frozenset({limits.__file__, MODULE.__file__})

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
        asyncio.events._set_running_loop(
            loop
        )  # the coroutine is driven by hand: a loop would catch interrupts
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
            callers[:] = [Caller(limits.shared, "db", "api").submit() for _ in range(3)]

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

def keep_locked():
    with limits.shared._lock:
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
        with concurrency("db", timeout_seconds=0):
            pass
        try:
            with concurrency("db"), concurrency("db", timeout_seconds=0):
                pass
        except TimeoutError:
            os._exit(0)
        os._exit(1)
    _, status = os.waitpid(child, 0)
    other.join()
raise SystemExit(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_has_the_limits_and_holds_nothing() -> None:
    subprocess.run([sys.executable, "-W", "ignore", "-c", FORK], check=True, timeout=30)


def test_import_loads_no_event_loop() -> None:
    code = "import sys, penstock.concurrency; sys.exit('asyncio' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


@pytest.mark.parametrize(
    "imports",
    [
        "import penstock",
        "import penstock.concurrency",
        "import penstock; import penstock.concurrency",
        "from penstock.concurrency import set_limit; import penstock",
        "import importlib, penstock; importlib.import_module('penstock.concurrency')",
    ],
)
def test_the_attribute_is_the_function_whatever_was_imported_first(imports: str) -> None:
    code = f"""{imports}
from penstock.concurrency import concurrency, set_limit
assert penstock.concurrency is concurrency, penstock.concurrency
assert callable(set_limit)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
