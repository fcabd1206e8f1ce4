"""`concurrency`, `rate_limit` and `set_limit` as users call them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from lines import Caller, fresh_limits, held, in_thread, wait_until, waiting

from penstock import flow, task
from penstock._engine import limits
from penstock.concurrency import concurrency, rate_limit, set_limit
from penstock.exceptions import ConfigurationError
from penstock.task_runners import ThreadPoolTaskRunner
from penstock.testing.clock import ManualClock


@pytest.fixture(autouse=True)
def clock() -> Iterator[ManualClock]:
    with fresh_limits() as clock:
        yield clock


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

    @pytest.mark.parametrize("is_async", [False, True])
    def test_a_body_that_waits_for_a_limit_lends_its_slot(self, is_async: bool) -> None:
        order: list[str] = []

        def waits() -> None:
            with concurrency("db"):
                order.append("got it")

        async def awaits() -> None:
            async with concurrency("db"):
                order.append("got it")

        @flow(task_runner=ThreadPoolTaskRunner(max_workers=1))
        def main() -> None:
            with concurrency("db", limit=1):
                first = task(awaits if is_async else waits).submit()
                wait_until(lambda: waiting("db") == 1)
                task(lambda: order.append("meanwhile")).submit().result()
            first.result()

        main()
        assert order == ["meanwhile", "got it"]

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
            "Timed out after 2.5 s waiting for concurrency limit 'db' (3 of 3 slots taken, held by thread 'MainThread')"
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
        first = Caller(limits.of(), "db", amount=1).submit()
        Caller(limits.of(), "db", amount=2).submit()
        with pytest.raises(TimeoutError) as caught:
            concurrency("db", timeout_seconds=0).__enter__()
        assert "(1 of 2 slots taken, held by a test) with 1 ahead in line" in str(caught.value)
        first.request.release()

    def test_names_at_most_ten_holders(self) -> None:
        set_limit("db", 13)
        holders = [Caller(limits.of(), "db").submit() for _ in range(13)]
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
        assert limits.of().rates(["api"]) == []


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
