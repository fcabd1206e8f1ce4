"""The corners of what is promised about keeping values: options, odd values, odd storages, odd calls, odd moments."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from penstock import allow_failure, flow, task, unmapped
from penstock._engine import clock as clocks
from penstock.cache_policies import DEFAULT, FLOW_PARAMETERS, INPUTS, NO_CACHE, TASK_SOURCE, CachePolicy
from penstock.exceptions import CancelledRun, ConfigurationError
from penstock.futures import wait
from penstock.settings import home
from penstock.store.base import RunRow
from penstock.store.sqlite import SQLiteReader
from penstock.task_runners import ThreadPoolTaskRunner
from penstock.testing import temporary_settings
from penstock.testing.clock import ManualClock

executed: list[Any] = []
failing: set[Any] = set()


@pytest.fixture(autouse=True)
def fresh() -> None:
    executed.clear()
    failing.clear()


def rows(name: str | None = None) -> list[RunRow]:
    """The root runs of a name, latest first."""
    reader = SQLiteReader(home())
    try:
        return reader.runs(name=name)
    finally:
        reader.close()


def below(run_id: str) -> list[RunRow]:
    reader = SQLiteReader(home())
    try:
        return reader.tree(run_id)
    finally:
        reader.close()


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


# --- what is kept at all ----------------------------------------------------------------------------------------


@task(persist_result=None)
def plain() -> int:
    return 1


@task(persist_result=True)
def eager() -> int:
    return 1


@task(persist_result=False)
def shy() -> int:
    return 1


TASKS = {None: plain, True: eager, False: shy}
NOBODY_SAYS = (None, True, False)


@pytest.mark.parametrize(("by_flow", "by_tasks", "by_default"), list(product(NOBODY_SAYS, NOBODY_SAYS, (True, False))))
def test_who_decides_whether_a_value_is_kept(by_flow: bool | None, by_tasks: bool | None, by_default: bool) -> None:
    @flow(persist_result=by_flow)
    def main() -> None:
        inner()

    @flow
    def inner() -> None:
        for one in TASKS.values():
            one()

    said = {"results_persist_by_default": by_default, "tasks_default_persist_result": by_tasks}
    with temporary_settings(said):
        main()
    kept = {row.name: row.result_key is not None for row in below(rows("main")[0].id)}
    inherited = by_flow if by_flow is not None else by_tasks if by_tasks is not None else by_default
    assert kept["plain"] is inherited
    assert (kept["eager"], kept["shy"]) == (True, False)
    assert kept["inner"] is (by_default if by_flow is None else by_flow)


@pytest.mark.parametrize(
    "options",
    [
        {"cache_policy": INPUTS},
        {"cache_key_fn": lambda context, parameters: "one"},
        {"cache_expiration": timedelta(hours=1)},
        {"result_storage_key": "one"},
        {"result_serializer": "json"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_options_that_imply_keeping(options: dict[str, Any]) -> None:
    task(name="implied", **options)(lambda: 1)()
    assert rows("implied")[0].result_key is not None


def test_options_are_kept_replaced_and_cleared() -> None:
    base = task(cache_policy=INPUTS, cache_expiration=timedelta(hours=1), persist_result=True)(lambda x: x)
    assert base.with_options(name="other").keeping.policy == INPUTS
    assert base.with_options(cache_expiration=None).keeping.expiration is None
    assert base.with_options(persist_result=False, cache_policy=None, cache_expiration=None).keeping.persist is False


def test_settings_that_say_how_to_cache() -> None:
    @task(persist_result=True)
    def one() -> int:
        executed.append(1)
        return 1

    @flow
    def main() -> list[str]:
        return [one(return_state=True).name for _ in range(2)]

    assert main() == ["Completed", "Cached"]
    with temporary_settings({"tasks_default_no_cache": True}):
        assert main() == ["Completed", "Completed"]
    with temporary_settings({"tasks_disable_caching": True}):
        assert main() == ["Completed", "Completed"]
    with temporary_settings({"tasks_refresh_cache": True}):
        assert main() == ["Completed", "Completed"]
    assert all(row.result_key is not None for row in below(rows("main")[0].id))


def test_settings_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PENSTOCK_RESULTS_PERSIST_BY_DEFAULT", "true")
    monkeypatch.setenv("PENSTOCK_RESULTS_DEFAULT_SERIALIZER", "json")
    monkeypatch.setenv("PENSTOCK_RESULTS_LOCAL_STORAGE_PATH", str(tmp_path / "elsewhere"))

    @task(cache_policy=INPUTS)
    def large() -> str:
        return "x" * 100_000

    assert large() == large()
    (path,) = (tmp_path / "elsewhere").iterdir()
    assert b'"xxxx' in path.read_bytes()
    monkeypatch.setenv("PENSTOCK_RESULTS_DEFAULT_SERIALIZER", "yaml")
    with pytest.raises(ConfigurationError, match="yaml"):
        large()


def test_a_flow_hands_on_storage_and_serializer(tmp_path: Path) -> None:
    @task
    def value() -> list[int]:
        return [1]

    @flow
    def inner() -> list[int]:
        return value()

    @flow(persist_result=True, result_storage=tmp_path / "there", result_serializer="json")
    def main() -> list[int]:
        return inner()

    main()
    kept = list((tmp_path / "there").iterdir())
    assert len(kept) == 3  # of the task, the flow inside, and the whole
    assert all(path.read_bytes().find(b"[1]") > 0 for path in kept)
    assert all(row.result_storage is not None for row in below(rows("main")[0].id))


# --- keys -------------------------------------------------------------------------------------------------------


@dataclass
class Model:
    weight: int

    @task(cache_policy=INPUTS)
    def predict(self, x: int) -> int:
        executed.append((self.weight, x))
        return self.weight * x

    @task(cache_policy=INPUTS - "self")
    def shared(self, x: int) -> int:
        executed.append(x)
        return x

    @classmethod
    @task(cache_policy=INPUTS)
    def of_class(cls, x: int) -> str:
        executed.append(x)
        return cls.__name__


class Special(Model):
    pass


def test_the_instance_of_a_method_counts_unless_it_is_left_out() -> None:
    one, other = Model(2), Model(3)
    assert [one.predict(1), other.predict(1), Model(2).predict(1), one.predict(1)] == [2, 3, 2, 2]
    assert executed == [(2, 1), (3, 1)]
    executed.clear()
    assert [one.shared(5), other.shared(5), Model.shared(other, 5)] == [5, 5, 5]
    assert executed == [5]


def test_class_methods_of_two_classes_do_not_share() -> None:
    assert [Model.of_class(1), Special.of_class(1), Model.of_class(1)] == ["Model", "Special", "Model"]
    assert len(executed) == 2


class Opaque:
    @task(cache_policy=INPUTS)
    def ask(self, x: int) -> int:
        executed.append(x)
        return x


def test_an_instance_that_cannot_be_compared_is_named(caplog: pytest.LogCaptureFixture) -> None:
    one = Opaque()
    assert [one.ask(1), one.ask(1)] == [1, 1]
    assert executed == [1, 1]
    assert any("INPUTS - 'self'" in line for line in messages(caplog))


def test_keys_see_the_values_of_futures() -> None:
    seen: list[Any] = []

    def key(context: Any, parameters: dict[str, Any]) -> str:
        seen.append((context.task.name, dict(parameters)))
        return f"{parameters['x']}"

    @task
    def source(x: int) -> int:
        return x

    @task(cache_key_fn=key)
    def sink(x: int, y: int = 7) -> int:
        executed.append(x)
        return x

    @flow
    def main() -> list[int]:
        futures = source.map([1, 1, 2])
        return [*sink.map(futures).result(), sink.submit(source.submit(2)).result()]

    assert main() == [1, 1, 2, 2]
    assert sorted(executed) == [1, 2]
    assert ("sink", {"x": 1, "y": 7}) in seen


@pytest.mark.parametrize("bad", [lambda c, p: 1 / 0, lambda c, p: 5, lambda c, p: b"x"], ids=["raises", "int", "bytes"])
def test_key_functions_that_fail_leave_the_task_uncached(
    bad: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    @task(cache_key_fn=bad)
    def one() -> int:
        executed.append(1)
        return 1

    assert [one(), one()] == [1, 1]
    assert len(executed) == 2
    said = [line for line in messages(caplog) if "cache key" in line]
    assert len(said) == 1
    assert "'one'" in said[0]


def test_key_functions_may_say_no_and_may_be_async_or_objects() -> None:
    class Key:
        def __call__(self, context: Any, parameters: dict[str, Any]) -> str | None:
            return None if parameters["x"] < 0 else str(abs(parameters["x"]))

    @task(cache_key_fn=Key())
    def one(x: int) -> int:
        executed.append(x)
        return x

    assert [one(-1), one(-1), one(2), one(2)] == [-1, -1, 2, 2]
    assert executed == [-1, -1, 2]
    assert rows("one")[-1].result_key is not None  # kept, but not for the cache


def test_an_empty_key_is_a_key() -> None:
    one = task(cache_key_fn=lambda context, parameters: "")(lambda x: x)
    assert [one(1), one(2)] == [1, 1]


def test_flow_parameters_count_where_they_are_asked_for() -> None:
    @task(cache_policy=FLOW_PARAMETERS)
    def one() -> int:
        executed.append(1)
        return len(executed)

    @flow
    def main(n: int, *more: int, **named: int) -> int:
        return one()

    assert [main(1), main(1), main(2), main(1, 5), main(1, a=5), main(1)] == [1, 1, 2, 3, 4, 1]
    assert one() == 5  # outside of any flow there is nothing to compare: no key


def test_one_name_and_two_definitions() -> None:
    def make(number: int) -> Any:
        @task(cache_policy=INPUTS)
        def same(x: int) -> int:
            return x * number

        return same

    assert [make(2)(1), make(3)(1), make(2)(1)] == [2, 3, 2]


# --- calls of every kind ----------------------------------------------------------------------------------------


@task(cache_policy=INPUTS)
def double(x: Any, y: Any = None) -> Any:
    executed.append(x)
    return x * 2


@task
def fail_on(x: int) -> int:
    if x in failing:
        raise ValueError(x)
    return x


def test_maps_with_annotations_and_waits() -> None:
    failing.add(2)

    @flow
    def main() -> tuple[Any, ...]:
        first = fail_on.submit(1)
        states = double.map([1, 1, 2], unmapped({"a": [1]}), wait_for=[first], return_state=True)
        maybe = fail_on.map([1, 2])
        seen = show.map(allow_failure(maybe))
        again = show.map(allow_failure(maybe))
        blocked = double.submit(maybe[1])
        return [state.result() for state in states], seen.result(), again.result(), type(blocked.exception()).__name__

    @task(cache_policy=INPUTS)
    def show(x: Any) -> str:
        executed.append("show")
        return repr(x)

    values, seen, again, blocked = main()
    assert values == [2, 2, 4]
    assert seen == again == ["1", "ValueError(2)"]
    assert blocked == "UpstreamTaskError"
    assert sorted(map(str, executed))[:2] == ["1", "2"]


def test_hits_come_in_every_way_of_calling() -> None:
    double(4)

    @flow
    def main() -> list[Any]:
        future = double.submit(4)
        state = double.submit(4, return_state=True)
        mapped = double.map([4, 4], return_state=True)
        assert future.result() == state.result() == double(4) == 8
        assert double(4, return_state=True).result() == 8
        assert list(double.map([4])[0:1].result()) == [8]
        return [future.state.name, state.name, *(one.name for one in mapped)]

    assert main() == ["Cached"] * 4
    assert executed == [4]


def test_async_flows_share_what_sync_ones_have_computed() -> None:
    @flow
    async def main() -> list[Any]:
        return [double(3), await double.submit(3), *(await double.map([3, 3]))]

    assert double(3) == 6
    assert asyncio.run(main()) == [6] * 4
    assert executed == [3]


def test_cached_inside_cached() -> None:
    @task(cache_policy=INPUTS)
    def outer(x: int) -> Any:
        executed.append("outer")
        return double(x) + double.submit(x).result()

    assert [outer(1), outer(1)] == [4, 4]
    assert executed == ["outer", 1]
    assert double(1, return_state=True).name == "Cached"


def test_a_hit_has_no_children_and_takes_no_slot() -> None:
    started, go_on = threading.Event(), threading.Event()

    @task
    def occupy() -> None:
        started.set()
        assert go_on.wait(20)

    @flow(task_runner=ThreadPoolTaskRunner(max_workers=1))
    def main() -> Any:
        busy = occupy.submit()
        assert started.wait(20)
        value = double.submit(9).result(timeout=20)
        go_on.set()
        busy.wait()
        return value

    double(9)
    assert main() == 18


# --- what can be seen of a hit ----------------------------------------------------------------------------------


def test_hooks_rows_and_the_last_line(caplog: pytest.LogCaptureFixture) -> None:
    fired: list[str] = []

    @task(
        cache_policy=INPUTS,
        task_run_name="the {x}",
        on_completion=[lambda task, run, state: fired.append(f"{state.name} {run.name}")],
    )
    def one(x: int) -> int:
        return x

    @flow
    def main() -> None:
        one(1)
        one.map([1, 1, 2]).wait()

    with caplog.at_level(logging.INFO, "penstock"):
        main()
    assert sorted(fired) == ["Cached the 1", "Cached the 1", "Completed the 1", "Completed the 2"]
    assert "(2 cached)" in next(line for line in messages(caplog) if "main/" in line and "COMPLETED" in line)
    hits = [row for row in below(rows("main")[0].id) if row.state_name == "Cached"]
    assert [(row.attempts, row.status, row.run_name, row.started, row.result) for row in hits] == [
        (0, "COMPLETED", "the 1", None, "1")
    ] * 2
    assert all(row.ended is not None and row.result_key is not None for row in hits)


def test_explanations_for_every_reason() -> None:
    clock = ManualClock()

    def make(**options: Any) -> Any:
        return task(name="explained", **options)(explained)

    def explained(x: Any, y: int = 1) -> Any:
        return x

    with clocks.use(clock):
        one = make(cache_policy=INPUTS, cache_expiration=timedelta(seconds=10))
        assert "no result of this task" in str(one.explain_cache(1))
        one(1)
        assert one.explain_cache(1).hit
        assert "argument x differs" in str(one.explain_cache(2))
        assert "argument y differs" in str(one.explain_cache(1, y=2))
        clock.advance(11)
        assert "expired" in str(one.explain_cache(1))
        assert "refresh_cache" in str(one.with_options(refresh_cache=True).explain_cache(1))
        assert "gives no key" in str(make(cache_key_fn=lambda c, p: None).explain_cache(1))
        assert not make(cache_policy=NO_CACHE, persist_result=True).explain_cache(1).hit
        assert "cannot be part" in str(one.explain_cache(threading.Lock()))
        assert "'x'" in str(one.explain_cache(threading.Lock()))
        other = make(cache_key_fn=lambda context, parameters: f"custom {parameters['x']}")
        other(1)
        assert "custom 2" in str(other.explain_cache(2))
        assert other.explain_cache(1).hit


def test_an_explanation_names_the_part_of_the_code() -> None:
    def make(number: int) -> Any:
        def coded(x: int) -> int:
            return x + number

        coded.__qualname__ = "coded"
        return task(cache_policy=INPUTS + TASK_SOURCE)(coded)

    make(1)(1)
    assert make(1).explain_cache(1).hit
    assert "closure number" in str(make(2).explain_cache(1))


def test_an_explanation_runs_and_records_nothing() -> None:
    double.explain_cache(5)
    assert executed == []
    assert not (home() / "penstock.db").exists()


def test_an_explanation_of_a_key_function_that_raises() -> None:
    def bad_key(context: Any, parameters: dict[str, Any]) -> str:
        raise ZeroDivisionError

    one = task(cache_key_fn=bad_key)(lambda: 1)
    said = one.explain_cache()
    assert not said.hit
    assert "ZeroDivisionError" in str(said)
    with temporary_settings({"tasks_disable_caching": True}):
        assert "a setting turns caching off" in str(double.explain_cache(1))
    assert "argument x" in str(double.with_options(cache_policy=INPUTS - "y").explain_cache(threading.Lock(), object()))


# --- one computation per key ------------------------------------------------------------------------------------


@pytest.fixture
def gate() -> Iterator[tuple[threading.Event, threading.Event]]:
    started, go_on = threading.Event(), threading.Event()
    yield started, go_on
    go_on.set()


def test_who_waits_for_a_turn_can_be_waited_for_with_a_limit(gate: tuple[threading.Event, threading.Event]) -> None:
    started, go_on = gate

    @task(cache_key_fn=lambda context, parameters: "one", timeout_seconds=30)
    def slow() -> int:
        started.set()
        assert go_on.wait(20)
        return 1

    @flow
    def main() -> list[Any]:
        first = slow.submit()
        assert started.wait(20)
        second = slow.submit()
        with pytest.raises(TimeoutError, match="did not complete"):
            second.result(timeout=0.05)
        assert not wait([second], timeout=0).done
        name = second.state.name
        go_on.set()
        return [first.result(), second.result(), name]

    assert main() in ([1, 1, "Pending"], [1, 1, "Scheduled"])


def test_a_time_limit_does_not_count_the_wait_for_a_turn(gate: tuple[threading.Event, threading.Event]) -> None:
    started, go_on = gate
    clock = ManualClock()

    @task(cache_key_fn=lambda context, parameters: "one")
    def slow(waits: bool) -> int:
        executed.append(waits)
        started.set()
        if waits:
            assert go_on.wait(20)
            raise ValueError("the first")
        return 1

    @flow
    def main() -> int:
        first = slow.submit(True)
        assert started.wait(20)
        second = slow.with_options(timeout_seconds=5).submit(False)
        clock.advance(60)
        go_on.set()
        assert isinstance(first.exception(), ValueError)
        return second.result()

    with clocks.use(clock):
        assert main() == 1
    assert executed == [True, False]


def test_a_time_limit_of_the_flow_reaches_who_waits_for_a_turn() -> None:
    started, go_on = threading.Event(), threading.Event()

    @task(cache_key_fn=lambda context, parameters: "one")
    def slow() -> None:
        started.set()
        go_on.wait(20)

    @flow(timeout_seconds=0.3)
    def main() -> None:
        futures = [slow.submit() for _ in range(3)]
        started.wait(20)
        wait(futures)

    with temporary_settings({"cancel_grace_seconds": 0.1}):
        state = main(return_state=True)
    go_on.set()
    assert state.name == "TimedOut"


def test_the_first_is_cancelled_and_the_next_computes() -> None:
    started, go_on = threading.Event(), threading.Event()

    @task(cache_key_fn=lambda context, parameters: "one")
    async def slow() -> int:
        executed.append(1)
        started.set()
        while not go_on.is_set():
            await asyncio.sleep(0.01)
        return 1

    @flow
    def main() -> list[Any]:
        first, second, third = slow.submit(), slow.submit(), slow.submit()
        started.wait(20)
        first.cancel()
        with pytest.raises(CancelledRun):
            first.result()
        go_on.set()
        return [second.result(timeout=20), third.result(timeout=20)]

    assert main() == [1, 1]
    assert len(executed) == 2


def test_equal_direct_calls_in_a_gather() -> None:
    @task(cache_policy=INPUTS)
    async def slow(x: int) -> int:
        executed.append(x)
        await asyncio.sleep(0.01)
        return x

    @flow
    async def main() -> list[int]:
        return await asyncio.gather(*(slow(1) for _ in range(10)))

    assert asyncio.run(main()) == [1] * 10
    assert executed == [1]
    assert asyncio.run(_gathered_outside(slow)) == [2] * 5


async def _gathered_outside(slow: Any) -> Any:
    return await asyncio.gather(*(slow(2) for _ in range(5)))


def test_equal_calls_in_threads_of_the_users_own() -> None:
    ready = threading.Barrier(4)
    found: list[int] = []

    @task(cache_policy=INPUTS)
    def one() -> int:
        executed.append(1)
        return 1

    def call() -> None:
        ready.wait(20)
        found.append(one())

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [1] * 4
    assert len(executed) == 1


def test_policies_added_up() -> None:
    class Mine(CachePolicy):
        def compute_key(self, task_ctx: Any, inputs: Any, flow_parameters: Any, **kw: Any) -> str | None:
            return None

    @task(cache_policy=Mine() + INPUTS - "y")
    def one(x: int, y: int) -> int:
        executed.append(x)
        return x

    assert [one(1, 1), one(1, 2), one(2, 1)] == [1, 1, 2]
    assert executed == [1, 2]
    assert DEFAULT - "x" == DEFAULT - "x"


def test_retries_keep_the_value_of_the_attempt_that_completes() -> None:
    @task(cache_policy=INPUTS, retries=2)
    def flaky() -> int:
        executed.append(1)
        if len(executed) < 3:
            raise ValueError("again")
        return len(executed)

    assert [flaky(), flaky()] == [3, 3]
