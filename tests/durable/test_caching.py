"""Equal work is computed once, and a cache never gives the answer to another question."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from penstock import flow, task
from penstock._engine import clock as clocks
from penstock.cache_policies import DEFAULT, INPUTS, NO_CACHE, RUN_ID, TASK_SOURCE, CachePolicy
from penstock.exceptions import ConfigurationError
from penstock.states import State
from penstock.task_runners import ProcessPoolTaskRunner, SequentialTaskRunner, TaskRunner, ThreadPoolTaskRunner
from penstock.testing import temporary_settings
from penstock.testing.clock import ManualClock


class Counted:
    """Counts what is executed, in whatever process, with a line in a file for each."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def note(self, what: object = "") -> None:
        with self.path.open("a") as file:
            file.write(f"{what}\n")

    @property
    def notes(self) -> list[str]:
        return self.path.read_text().splitlines() if self.path.exists() else []


@pytest.fixture
def counted(tmp_path: Path) -> Counted:
    return Counted(tmp_path / "executed")


RUNNERS: list[Callable[[], TaskRunner]] = [
    SequentialTaskRunner,
    lambda: ThreadPoolTaskRunner(max_workers=2),
    lambda: ProcessPoolTaskRunner(max_workers=1),
]


@pytest.mark.parametrize("make", RUNNERS, ids=["sequential", "threads", "processes"])
def test_equal_inputs_are_computed_once(make: Callable[[], TaskRunner], counted: Counted) -> None:
    @task(cache_policy=INPUTS)
    def double(x: int) -> int:
        counted.note(x)
        return 2 * x

    @flow(task_runner=make())
    def main() -> list[State[int]]:
        first = double.submit(1, return_state=True)
        return [first, *double.map([1, 2, 1], return_state=True)]

    states = main(return_state=True).data
    assert [state.result() for state in states] == [2, 2, 4, 2]
    assert [state.name for state in states] == ["Completed", "Cached", "Completed", "Cached"]
    assert sorted(counted.notes) == ["1", "2"]
    assert [state.result() for state in main(return_state=True).data] == [2, 2, 4, 2]
    assert sorted(counted.notes) == ["1", "2"]


def test_the_default_policy_is_for_one_flow_run(counted: Counted) -> None:
    @task(persist_result=True)
    def once() -> int:
        counted.note()
        return 1

    @flow
    def main() -> tuple[int, int]:
        return once(), once()

    assert main() == (1, 1)
    assert main() == (1, 1)
    assert len(counted.notes) == 2


def test_off_by_default(counted: Counted, own_store: Path) -> None:
    @task
    def once() -> int:
        counted.note()
        return 1

    @flow
    def main() -> None:
        once(), once()

    main()
    assert len(counted.notes) == 2
    assert not (own_store / "results.key").exists()


def test_two_tasks_with_equal_inputs_do_not_share(counted: Counted) -> None:
    @task(cache_policy=INPUTS)
    def double(x: int) -> int:
        return 2 * x

    @task(cache_policy=INPUTS)
    def triple(x: int) -> int:
        return 3 * x

    assert double(2) == 4
    assert triple(2) == 6
    by_key = {"cache_key_fn": lambda context, parameters: "same"}
    assert task(**by_key)(lambda: 1)() == 1
    assert task(**by_key)(lambda: 2)() == 2


@pytest.mark.parametrize(
    ("one", "other"),
    [([1, 2], (1, 2)), ({1: 2}, {"1": 2}), (1, True), (1, 1.0), (1.0, True), (0.0, -0.0), ("1", 1), (b"1", "1")],
)
def test_values_of_other_types_are_other_questions(one: Any, other: Any) -> None:
    @task(cache_policy=INPUTS)
    def show(x: Any) -> str:
        return repr(x)

    assert show(one) == repr(one)
    assert show(other) == repr(other)


def test_none_is_cached_and_a_failure_is_not(counted: Counted) -> None:
    @task(cache_policy=INPUTS)
    def nothing() -> None:
        counted.note("nothing")

    @task(cache_policy=INPUTS)
    def fail() -> None:
        counted.note("fail")
        raise ValueError("x")

    assert nothing() is None
    assert nothing(return_state=True).name == "Cached"
    for _ in range(2):
        with pytest.raises(ValueError, match="x"):
            fail()
    assert counted.notes == ["nothing", "fail", "fail"]


def test_a_hit_has_no_attempt_and_fires_the_hook_of_completion_only() -> None:
    fired = []

    @task(
        cache_policy=INPUTS,
        on_running=[lambda task, run, state: fired.append("running")],
        on_completion=[lambda task, run, state: fired.append((state.name, run.run_count))],
    )
    def one() -> int:
        return 1

    one()
    one()
    assert fired == ["running", ("Completed", 1), ("Cached", 0)]


@pytest.fixture
def clock() -> Iterator[ManualClock]:
    clock = ManualClock()
    with clocks.use(clock):
        yield clock


def test_expiration_counts_from_completion(clock: ManualClock) -> None:
    calls = []

    @task(cache_policy=INPUTS, cache_expiration=timedelta(seconds=10))
    def one() -> int:
        calls.append(1)
        return 1

    one()
    clock.advance(9.9)
    one()
    assert len(calls) == 1
    clock.advance(0.2)
    one()
    assert len(calls) == 2


def test_refresh_recomputes_and_overwrites(counted: Counted) -> None:
    @task(cache_policy=INPUTS)
    def count() -> int:
        counted.note()
        return len(counted.notes)

    assert count() == 1
    assert count.with_options(refresh_cache=True)() == 2
    assert count() == 2
    with temporary_settings({"tasks_refresh_cache": True}):
        assert count() == 3
        assert count.with_options(refresh_cache=False)() == 3
    with temporary_settings({"tasks_disable_caching": True}):
        assert count() == 4
    assert count() == 3


def test_what_cannot_be_hashed_runs_uncached_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    class Config:
        def __init__(self) -> None:
            self.client = threading.Lock()

    calls = []

    @task(cache_policy=INPUTS)
    def load(lock: Any, x: int) -> int:
        calls.append(x)
        return x

    with caplog.at_level(logging.WARNING, "penstock"):
        load(threading.Lock(), 1)
        load(threading.Lock(), 1)
    assert calls == [1, 1]
    warnings = [record.getMessage() for record in caplog.records if "cache key" in record.getMessage()]
    assert warnings == [
        "argument lock: _thread.lock cannot be part of a cache key; 'load' runs uncached. "
        "Leave it out with INPUTS - 'lock'"
    ]
    without = load.with_options(cache_policy=INPUTS - "lock")
    without(threading.Lock(), 2)
    without(threading.Lock(), 2)
    assert calls == [1, 1, 2]


def test_equal_keys_at_the_same_time_compute_once(counted: Counted) -> None:
    started, go_on = threading.Event(), threading.Event()

    @task(cache_policy=INPUTS)
    def slow(x: int) -> int:
        counted.note(x)
        started.set()
        go_on.wait(20)
        return x

    @flow(task_runner=ThreadPoolTaskRunner(max_workers=4))
    def main() -> list[str]:
        futures = [slow.submit(1) for _ in range(20)]
        started.wait(20)
        go_on.set()
        futures[0].wait()
        for future in futures:
            assert future.result() == 1
        return [future.state.name for future in futures]

    assert sorted(main()) == ["Cached"] * 19 + ["Completed"]
    assert counted.notes == ["1"]


def test_if_the_first_fails_the_next_one_computes(counted: Counted) -> None:
    started, go_on = threading.Event(), threading.Event()

    @task(cache_policy=INPUTS)
    def flaky() -> int:
        counted.note()
        if len(counted.notes) == 1:
            started.set()
            go_on.wait(20)
            raise ValueError("the first")
        return 1

    @flow
    def main() -> list[str]:
        futures = [flaky.submit() for _ in range(3)]
        started.wait(20)
        go_on.set()
        futures[0].wait()
        return [future.wait() or future.state.name for future in futures]

    assert main() == ["Failed", "Completed", "Cached"] or len(counted.notes) == 2


def test_recursion_with_equal_keys_does_not_wait_for_itself() -> None:
    @task(cache_policy=CachePolicy.from_cache_key_fn(lambda context, parameters: "one for all"))
    def down(n: int) -> int:
        return 0 if n == 0 else down(n - 1) + 1

    assert down(3) == 3


def test_two_keys_that_need_each_other_do_not_wait_for_ever() -> None:
    both = threading.Barrier(2)

    @task(cache_policy=INPUTS)
    def ping(deep: bool) -> int:
        if deep:
            both.wait(20)
            return pong(False) + 1
        return 1

    @task(cache_policy=INPUTS)
    def pong(deep: bool) -> int:
        if deep:
            both.wait(20)
            return ping(False) + 1
        return 1

    @flow
    def main() -> list[int]:
        return [future.result() for future in (ping.submit(True), pong.submit(True))]

    assert main() == [2, 2]


def test_a_crossing_of_keys_does_not_wait_for_ever() -> None:
    """Each computes one key and asks, inside, for the one that the other computes."""
    both = threading.Barrier(2)
    calls = []

    @task(cache_key_fn=lambda context, parameters: parameters["key"])
    def compute(key: str, other: str | None) -> str:
        calls.append(key)
        if other is not None:
            both.wait(20)
            return key + compute(other, None)
        return key

    @flow
    def main() -> list[str]:
        futures = [compute.submit("a", "b"), compute.submit("b", "a")]
        return [future.result() for future in futures]

    answer = main()
    assert sorted(answer) in (["ab", "ba"], ["ab", "bab"], ["aba", "ba"], ["abab", "bab"])


def test_a_cancelled_waiter_leaves_the_line() -> None:
    started, go_on = threading.Event(), threading.Event()

    @task(cache_policy=INPUTS)
    def slow() -> int:
        started.set()
        go_on.wait(20)
        return 1

    @flow
    def main() -> list[str]:
        first, second, third = slow.submit(), slow.submit(), slow.submit()
        started.wait(20)
        second.cancel()
        second.wait()
        go_on.set()
        return [future.wait() or future.state.name for future in (first, second, third)]

    assert sorted(main()) == ["Cached", "Cancelled", "Completed"]


async def _nothing() -> None: ...


def test_async_tasks_are_cached_too(counted: Counted) -> None:
    import asyncio

    @task(cache_policy=INPUTS)
    async def double(x: int) -> int:
        counted.note(x)
        await asyncio.sleep(0)
        return 2 * x

    @flow
    async def main() -> list[int]:
        direct = [await double(1), await double(1)]
        return direct + [await future for future in double.map([1, 2, 2])]

    assert asyncio.run(main()) == [2, 2, 2, 4, 4]
    assert sorted(counted.notes) == ["1", "2"]


def test_a_result_that_cannot_be_serialised_is_returned_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    @task(cache_policy=INPUTS, result_serializer="json")
    def lock() -> Any:
        return threading.Lock()

    @flow
    def main() -> bool:
        return lock() is not None

    with caplog.at_level(logging.WARNING, "penstock"):
        assert main()
    assert any("its result is not kept" in record.getMessage() for record in caplog.records)


def test_large_values_are_in_files_and_come_back(own_store: Path) -> None:
    @task(cache_policy=INPUTS)
    def large(n: int) -> bytes:
        return b"x" * n

    assert large(200_000) == b"x" * 200_000
    assert large(200_000, return_state=True).name == "Cached"
    assert large(200_000) == b"x" * 200_000
    assert len(list((own_store / "results").iterdir())) == 1


@pytest.mark.parametrize("damage", ["gone", "flipped", "truncated", "swapped"])
def test_a_damaged_value_counts_as_absent_and_is_reported(
    damage: str, own_store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    calls = []

    @task(cache_policy=INPUTS)
    def large(n: int) -> bytes:
        calls.append(n)
        return bytes([n]) * 100_000

    large(1)
    large(2)
    first, second = sorted((own_store / "results").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    data = bytearray(first.read_bytes())
    if damage == "gone":
        first.unlink()
    elif damage == "flipped":
        data[5000] ^= 1
        first.write_bytes(data)
    elif damage == "truncated":
        first.write_bytes(data[:-1])
    else:
        first.write_bytes(second.read_bytes())
    with caplog.at_level(logging.WARNING, "penstock"):
        assert large(1) == bytes([1]) * 100_000
    assert calls == [1, 2, 1]
    assert any("counts as absent" in record.getMessage() for record in caplog.records)


def test_a_directory_as_storage(tmp_path: Path, counted: Counted) -> None:
    storage = tmp_path / "shared"

    @task(cache_policy=INPUTS, result_storage=storage)
    def double(x: int) -> int:
        counted.note()
        return 2 * x

    assert [double(3), double(3)] == [6, 6]
    assert len(counted.notes) == 1
    assert len(list(storage.iterdir())) == 1


def test_a_storage_key_is_the_address(tmp_path: Path, counted: Counted) -> None:
    storage = tmp_path / "shared"

    @task(result_storage=storage, result_storage_key="double-{parameters[x]}")
    def double(x: int) -> int:
        counted.note()
        return 2 * x

    assert [double(3), double(3), double(4)] == [6, 6, 8]
    assert sorted(path.name for path in storage.iterdir()) == ["double-3", "double-4"]
    assert len(counted.notes) == 2


def test_not_kept_in_memory(counted: Counted) -> None:
    @task(cache_policy=INPUTS, cache_result_in_memory=False)
    def value(x: int) -> list[int]:
        counted.note()
        return [x]

    @task
    def use(values: list[int]) -> int:
        return values[0]

    @flow
    def main() -> tuple[Any, Any, Any]:
        first = value.submit(1)
        first.wait()
        assert first._promise.value != [1]
        return first.result(), use.submit(first).result(), value(1)

    assert main() == ([1], 1, [1])
    assert len(counted.notes) == 1


def test_options_that_contradict(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "penstock"):

        @task(persist_result=False, cache_policy=INPUTS)
        def one() -> int:
            return 1

        task(cache_policy=INPUTS, cache_key_fn=lambda context, parameters: "x")(lambda: 1)
    assert [record.getMessage() for record in caplog.records] == [
        "'one' is not cached, although it says how: it has persist_result=False",
        "'<lambda>' has both 'cache_policy' and 'cache_key_fn': the function decides",
    ]
    assert one(return_state=True).name == "Completed"
    assert one(return_state=True).name == "Completed"
    with pytest.raises(ConfigurationError):
        task(result_serializer="yaml")(lambda: 1)
    with pytest.raises(TypeError, match="cache_policy"):
        task(cache_policy="INPUTS")(lambda: 1)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="timedelta"):
        task(cache_expiration=3)(lambda: 1)  # type: ignore[call-overload]
    with pytest.raises(ConfigurationError, match="durability"):
        flow(durability="ram")(lambda: 1)


def test_policies_that_do_not_cache_still_keep() -> None:
    @task(persist_result=True, cache_policy=NO_CACHE)
    def one() -> int:
        return 1

    @flow
    def main() -> list[str]:
        return [one(return_state=True).name for _ in range(2)]

    assert main() == ["Completed", "Completed"]
    assert (DEFAULT, RUN_ID, TASK_SOURCE) is not None


# --- explanations -----------------------------------------------------------------------------------------------


def test_explanations() -> None:
    @task(cache_policy=INPUTS)
    def load(path: str, limit: int = 1) -> str:
        return path

    assert "no result of this task" in str(load.explain_cache("a"))
    load("a")
    assert load.explain_cache("a").hit
    missed = load.explain_cache("b")
    assert not missed.hit
    assert "path" in str(missed)
    assert "limit" not in str(missed)
    assert "cannot be part of a cache key" in str(load.explain_cache(threading.Lock()))
    assert "not kept" in str(task(lambda: 1).explain_cache())


def test_a_serializer_of_the_users_own() -> None:
    class Shouting:
        type = "shouting"

        def dumps(self, obj: Any) -> bytes:
            return str(obj).upper().encode()

        def loads(self, blob: bytes) -> str:
            return blob.decode()

    @task(cache_policy=INPUTS, result_serializer=Shouting())
    def say(what: str) -> str:
        return what

    assert say("hello") == "hello"
    assert say("hello") == "HELLO"


def test_a_policy_of_the_users_own() -> None:
    class ByParity(CachePolicy):
        def compute_key(self, task_ctx: Any, inputs: Any, flow_parameters: Any, **kw: Any) -> str | None:
            return None if inputs["n"] == 0 else str(inputs["n"] % 2)

    calls = []

    @task(cache_policy=ByParity())
    def look(n: int) -> int:
        calls.append(n)
        return n

    assert [look(n) for n in (1, 2, 3, 4, 0, 0)] == [1, 2, 1, 2, 0, 0]
    assert calls == [1, 2, 0, 0]


def test_a_task_as_an_argument_is_known_by_its_code() -> None:
    @task
    def one() -> int:
        return 1

    @task
    def two() -> int:
        return 2

    @task(cache_policy=INPUTS)
    def apply(step: Any) -> int:
        return step()

    assert [apply(one), apply(two), apply(one)] == [1, 2, 1]
    assert apply(two, return_state=True).name == "Cached"


def test_an_edited_helper_misses_and_a_comment_hits(tmp_path: Path) -> None:
    import subprocess
    import sys

    script = tmp_path / "script.py"
    text = """
from penstock import task
from penstock.cache_policies import INPUTS, TASK_SOURCE

LIMIT = 10

def helper(x):
    return x + 1

@task(cache_policy=INPUTS + TASK_SOURCE)
def step(x):
    return helper(x) + LIMIT

print(step(1, return_state=True).name)
"""

    def run(text: str) -> str:
        script.write_text(text)
        return subprocess.run([sys.executable, script], capture_output=True, text=True, check=True).stdout.strip()

    assert run(text) == "Completed"
    assert run(text) == "Cached"
    assert run(text.replace("    return x + 1", "    # a comment\n\n    return (x  +  1)")) == "Cached"
    assert run(text.replace("x + 1", "x + 2")) == "Completed"
    assert run(text.replace("LIMIT = 10", "LIMIT = 11")) == "Completed"
    assert run(text) == "Cached"


def test_switched_off_it_is_off_for_storage_keys_too(tmp_path: Path, counted: Counted) -> None:
    @task(result_storage=tmp_path / "shared", result_storage_key="one")
    def one() -> int:
        counted.note()
        return 1

    with temporary_settings({"tasks_disable_caching": True}):
        assert [one(), one()] == [1, 1]
    assert len(counted.notes) == 2
