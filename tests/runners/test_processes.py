"""Bodies in other processes: construction, values, order, logs, nesting, cancellation."""

from __future__ import annotations

import array
import asyncio
import contextvars
import gc
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import process_bodies as bodies
import pytest

from penstock import flow, runtime, tags, task, unmapped
from penstock._core import serial
from penstock.exceptions import SerializationError, WorkerLost
from penstock.task_runners import ProcessPoolTaskRunner, ThreadPoolTaskRunner, processes


def within(seconds: float, call: Callable[[], Any]) -> Any:
    """What `call` returns or raises on a thread of its own; a failure, and no hang, if it takes too long."""
    answers: list[Any] = []

    def run() -> None:
        try:
            answers.append((call(), None))
        except BaseException as error:
            answers.append((None, error))

    broken: list[str] = []
    before, threading.excepthook = threading.excepthook, lambda args: broken.append(repr(args.exc_value))
    try:
        thread = threading.Thread(target=contextvars.copy_context().run, args=(run,), daemon=True)
        thread.start()
        thread.join(seconds)
    finally:
        threading.excepthook = before
    assert not broken, f"threads ended by {broken}"
    assert answers, f"still running after {seconds} s"
    value, error = answers[0]
    if error is not None:
        raise error
    return value


def in_flow(body: Callable[[], Any], workers: int = 1, seconds: float = 5, **options: Any) -> Any:
    runner = ProcessPoolTaskRunner(workers, **options)
    return within(seconds, flow(name="main", task_runner=runner)(body))


@pytest.fixture(autouse=True)
def no_children() -> Iterator[None]:
    """After any flow no process is left, and nothing in shared memory."""
    processes, shared = set(bodies.children()), bodies.shared_memory()
    yield
    left = set(bodies.children()) - processes
    for pid in left:
        os.kill(pid, signal.SIGKILL)  # so that the tests that follow are about themselves
    assert left == set()
    assert bodies.shared_memory() <= shared


def descriptors_of_memory() -> list[str]:
    found = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
    return [path for path in found if os.path.exists(path) and "memfd:penstock" in os.readlink(path)]


def test_what_is_shared_with_a_process_is_let_go_with_it() -> None:
    """At once: who waits until cycles are collected may have no descriptors left by then."""
    before = len(descriptors_of_memory())
    gc.disable()
    try:
        in_flow(lambda: task(abs).map(range(10)).result(), workers=2)
        assert len(descriptors_of_memory()) == before
    finally:
        gc.enable()


# --- construction -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["max_workers", "max_tasks_per_child"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "2", True])
def test_sizes_are_integers_of_at_least_one(name: str, value: Any) -> None:
    with pytest.raises(ValueError) as raised:
        ProcessPoolTaskRunner(**{name: value})
    assert str(raised.value) == f"{name} must be greater than 0, as an int; got {value!r}"


def test_an_initializer_has_to_be_callable() -> None:
    with pytest.raises(TypeError, match="'initializer' must be callable"):
        ProcessPoolTaskRunner(initializer="no")  # type: ignore[arg-type]


@pytest.mark.parametrize("context", ["fork", "", None])
def test_a_fork_is_refused(context: Any) -> None:
    with pytest.raises(ValueError, match=f"'spawn' or 'forkserver', got {context!r}"):
        ProcessPoolTaskRunner(mp_context=context)


def test_a_duplicate_is_equal() -> None:
    runner = ProcessPoolTaskRunner(3, print, (1, 2), max_tasks_per_child=4, mp_context="forkserver")
    copy = runner.duplicate()
    assert (copy, hash(copy)) == (runner, hash(runner))
    assert copy is not runner
    assert (copy.max_workers, copy.initializer, copy.initargs) == (3, print, (1, 2))
    assert (copy.max_tasks_per_child, copy.mp_context) == (4, "forkserver")


@pytest.mark.parametrize(
    "other",
    [
        ProcessPoolTaskRunner(2),
        ProcessPoolTaskRunner(3, initializer=print),
        ProcessPoolTaskRunner(3, initargs=(1,)),
        ProcessPoolTaskRunner(3, max_tasks_per_child=1),
        ProcessPoolTaskRunner(3, mp_context="forkserver"),
        ThreadPoolTaskRunner(3),
    ],
    ids=["size", "initializer", "initargs", "max_tasks_per_child", "context", "class"],
)
def test_other_settings_are_not_equal(other: Any) -> None:
    assert other != ProcessPoolTaskRunner(3)


def test_a_runner_with_unhashable_arguments_is_hashable() -> None:
    runner = ProcessPoolTaskRunner(initializer=print, initargs=([1],))
    assert hash(runner) == hash(runner.duplicate())


def test_it_says_what_it_is() -> None:
    runner = ProcessPoolTaskRunner(3)
    assert repr(runner) == "ProcessPoolTaskRunner(max_workers=3)"
    assert runner.name == "processpool"


def test_the_number_of_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ProcessPoolTaskRunner().slots == os.cpu_count()
    monkeypatch.setenv("PENSTOCK_TASKS_RUNNER_PROCESS_POOL_MAX_WORKERS", "5")
    assert ProcessPoolTaskRunner().slots == 5
    assert ProcessPoolTaskRunner(2).slots == 2


# --- the life of a worker ---------------------------------------------------------------------------------------------


def test_the_initializer_runs_once_in_every_worker(tmp_path: Path) -> None:
    file = str(tmp_path / "inits")

    def initialize(path: str, word: str) -> None:
        bodies.append(path, f"{os.getpid()} {word}")
        os.environ["SET_BY_INITIALIZER"] = word

    @task
    def work(n: int) -> tuple[int, str]:
        time.sleep(0.005)
        return os.getpid(), os.environ["SET_BY_INITIALIZER"]

    answers = in_flow(lambda: work.map(range(60)).result(), 2, initializer=initialize, initargs=(file, "hello"))
    pids = {pid for pid, _ in answers}
    assert {word for _, word in answers} == {"hello"}
    assert os.getpid() not in pids
    assert sorted(bodies.lines(file)) == sorted(f"{pid} hello" for pid in pids)


@pytest.mark.parametrize("kind", ["exception", "exit", "_exit", "segfault"])
def test_a_failing_initializer_fails_the_runs(kind: str) -> None:
    @task
    def work(n: int) -> int:
        return n

    def body() -> list[Any]:
        futures = work.map(range(3))
        futures.wait()
        return [(future.state.name, future.exception()) for future in futures]

    answers = in_flow(body, 2, initializer=bodies.misbehave, initargs=(kind,))
    for name, error in answers:
        assert name in ("Failed", "Crashed")
        if kind == "exception":
            assert (type(error), str(error)) == (ValueError, "bad")
        elif kind == "exit":
            assert "7" in str(error)
        else:
            assert isinstance(error, WorkerLost)
            assert error.exitcode == (3 if kind == "_exit" else -11)


def test_an_initializer_that_cannot_be_pickled_fails_the_runs() -> None:
    lock = threading.Lock()

    def initialize() -> None:
        lock.acquire()

    @task
    def work() -> None: ...

    error = in_flow(lambda: work.submit().exception(), initializer=initialize)
    assert isinstance(error, SerializationError)


@pytest.mark.parametrize("most", [1, 3])
def test_a_process_is_replaced_after_so_many_tasks(most: int) -> None:
    @task
    def work(n: int) -> int:
        return os.getpid()

    pids = in_flow(lambda: work.map(range(12)).result(), max_tasks_per_child=most)
    assert Counter(pids) == dict.fromkeys(pids, most)
    assert len(set(pids)) == 12 // most


def test_no_process_gets_more_tasks_than_it_may_in_a_batch() -> None:
    @task
    def work(n: int) -> int:
        return os.getpid()

    pids = in_flow(lambda: work.map(range(300)).result(), max_tasks_per_child=50)
    assert max(Counter(pids).values()) <= 50


def test_processes_are_used_again() -> None:
    @task
    def work(n: int) -> int:
        return os.getpid()

    def body() -> int:
        return len({work.submit(n).result() for n in range(20)})

    assert in_flow(body) == 1


def test_two_workers_execute_two_bodies_at_once_also_after_a_rest(tmp_path: Path) -> None:
    @task
    def meet(mine: str, other: str) -> bool:
        bodies.append(mine, "here")
        return bodies.wait_for_file(other, 3)

    @task
    def rest() -> None: ...

    def body() -> list[bool]:
        rest.submit().result()
        time.sleep(0.05)  # the worker's thread waits for work again
        a, b = str(tmp_path / "a"), str(tmp_path / "b")
        return [future.result() for future in [meet.submit(a, b), meet.submit(b, a)]]

    assert in_flow(body, 2) == [True, True]


def test_a_body_may_wait_for_one_that_was_submitted_right_after_it(tmp_path: Path) -> None:
    """Calls in a batch behind one that takes long are not held up while another worker has nothing to do."""
    file = str(tmp_path / "met")

    @task
    def work(n: int) -> bool:
        if n == 300:
            return bodies.wait_for_file(file, 3)
        if n == 301:
            bodies.append(file, "here")
        return True

    assert all(in_flow(lambda: work.map(range(700)).result(), 2))


def test_a_runner_used_alone() -> None:
    @task
    def double(x: int) -> int:
        return 2 * x

    def use() -> tuple[int, list[int]]:
        with ProcessPoolTaskRunner(1) as runner:
            return runner.submit(double, {"x": 3}).result(), runner.map(double, {"x": [1, 2]}).result()

    assert within(5, use) == (6, [2, 4])


# --- many small tasks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 3])
def test_many_tiny_tasks_return_in_order(workers: int) -> None:
    @task
    def double(n: int) -> int:
        return 2 * n

    assert in_flow(lambda: double.map(range(2000)).result(), workers) == [2 * n for n in range(2000)]


def test_a_mixture_of_tasks_returns_in_order() -> None:
    """Large arguments overtake small ones on their way: nothing may be mixed up by that."""

    @task
    def size(x: Any) -> int:
        return len(x.content) if isinstance(x, bodies.Blob) else x

    @task(timeout_seconds=20)
    def hurried(n: int) -> int:
        return -n

    def body() -> Any:
        inputs = [bodies.blob(size=300_000 + n) if n % 40 == 39 else n for n in range(400)]
        sizes = size.map(inputs)
        return sizes.result(), hurried.map(range(20)).result()

    sizes, others = in_flow(body, 2)
    assert sizes == [300_000 + n if n % 40 == 39 else n for n in range(400)]
    assert others == [-n for n in range(20)]


def test_results_are_arguments_of_other_tasks() -> None:
    @task
    def add(a: int, b: int) -> int:
        return a + b

    def body() -> int:
        total = add.submit(0, 0)
        for n in range(30):
            total = add.submit(total, n)
        return total.result()

    assert in_flow(body, 2) == sum(range(30))


def test_one_runner_for_flows_at_the_same_time() -> None:
    @task
    def double(n: int) -> int:
        return 2 * n

    @flow(task_runner=ProcessPoolTaskRunner(1))
    def inner(n: int) -> list[int]:
        return double.map(range(n)).result()

    @flow
    def outer() -> list[Any]:
        return [future.result() for future in [inner.submit(n) for n in (3, 4)]]

    assert within(5, outer) == [[0, 2, 4], [0, 2, 4, 6]]


# --- values -----------------------------------------------------------------------------------------------------------

FIFTY = 50_000_000
LARGE: dict[str, Callable[[], Any]] = {
    "bytes": lambda: b"x" * FIFTY,
    "bytearray": lambda: bytearray(b"x") * FIFTY,
    "array": lambda: array.array("d", [1.5]) * (FIFTY // 8),
    "blob": lambda: bodies.blob(size=FIFTY),
}


@pytest.mark.parametrize("name", LARGE)
def test_large_values_return_equal(name: str) -> None:
    @task
    def echo(value: Any) -> Any:
        return value

    value = LARGE[name]()
    got = in_flow(lambda: echo.submit(value).result())
    assert type(got) is type(value)
    if name == "blob":
        got, value = got.content, value.content
    assert got == value


def test_a_buffer_that_arrived_can_be_written_to() -> None:
    @task
    def fill(value: Any) -> Any:
        memoryview(value.data)[:3] = b"abc"
        return value

    mine = bodies.blob()
    got = in_flow(lambda: fill.submit(mine).result())
    assert (got.content[:4], mine.content[:4]) == (b"abc\1", b"\1\1\1\1")
    memoryview(got.data)[0:1] = b"x"


@pytest.mark.parametrize("count", [150, 220, 300])
def test_many_large_buffers_in_one_value(count: int) -> None:
    """More than the kernel takes along with one message."""

    @task
    def echo(value: Any) -> Any:
        return value

    value = [bodies.blob(n % 256, 1 << 18) for n in range(count)]
    got = in_flow(lambda: echo.submit(value).result())
    assert [one.content[:1] for one in got] == [bytes([n % 256]) for n in range(count)]


def test_a_closure_with_a_large_buffer_travels() -> None:
    data = bodies.blob(7)

    @task
    def first() -> int:
        return data.content[0]

    assert in_flow(lambda: first.submit().result()) == 7


def test_an_error_with_a_large_buffer_returns() -> None:
    @task
    def fail() -> None:
        raise bodies.WithBlob(bodies.blob(9))

    error = in_flow(lambda: fail.submit().exception())
    assert isinstance(error, bodies.WithBlob)
    assert error.args[0].content[:1] == b"\t"


def test_what_cannot_be_pickled_is_named() -> None:
    lock = threading.Lock()

    @task
    def take(x: Any) -> None: ...

    @task
    def give() -> Any:
        return {"deep": [1, threading.Lock()]}

    @task
    def generate() -> Any:
        return (n for n in range(3))

    def body() -> list[BaseException | None]:
        futures = [take.submit({"a": [lock]}), give.submit(), generate.submit()]
        return [future.exception() for future in futures]

    first, second, third = in_flow(body)
    assert (type(first), first.path) == (SerializationError, "x['a'][0]")
    assert (type(second), second.path) == (SerializationError, "return value['deep'][1]")
    assert isinstance(third, SerializationError)
    assert "return list(...) instead" in str(third)


def test_errors_arrive_with_their_traceback() -> None:
    class Own(Exception):
        def __init__(self, a: int, *, b: int) -> None:
            super().__init__(a, b)

    @task
    def fail() -> None:
        raise KeyError("what")

    @task
    def fail_oddly() -> None:
        raise Own(1, b=2)

    def body() -> Any:
        return fail.submit().exception(), fail_oddly.submit().exception()

    plain, odd = in_flow(body)
    assert (type(plain), plain.args) == (KeyError, ("what",))
    assert "in fail" in "".join(plain.__notes__)
    assert "Own: (1, 2)" in str(odd)  # its constructor wants more than pickle gives it


def test_generators_asynchronous_tasks_and_tags() -> None:
    @task
    async def say(value: Any) -> Any:
        await asyncio.sleep(0)
        return value, os.getpid()

    @task
    def count(n: int) -> Iterator[int]:
        yield from range(n)

    @task(tags=["own"])
    def facts() -> Any:
        return runtime.task_run.name, sorted(runtime.task_run.tags), runtime.flow_run.name, os.getpid()

    def body() -> Any:
        with tags("around"):
            asked = facts.submit()
        return say.map([1, 2]).result(), count.submit(3).result(), asked.result(), runtime.flow_run.name

    said, counted, (name, its_tags, flow_name, pid), expected = in_flow(body)
    assert [value for value, _ in said] == [1, 2]
    assert counted == [0, 1, 2]
    assert (name, its_tags, flow_name) == ("facts-0", ["around", "own"], expected)
    assert {pid, *(pid for _, pid in said)}.isdisjoint([os.getpid()])


def test_a_large_argument_of_a_map_is_sent_once_to_each_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    @task
    def size_of(_: int, blob: Any) -> int:
        return len(blob.data)

    sent: list[int] = []
    lay_out = processes.lay_out

    def counting(packed: serial.Packed) -> list[int]:
        sent.extend(buffer.raw().nbytes for buffer in packed.buffers)
        return lay_out(packed)

    monkeypatch.setattr(processes, "lay_out", counting)
    blob = bodies.Blob(bytearray(1_000_000))
    assert in_flow(lambda: size_of.map(range(200), unmapped(blob)).result(), workers=2) == [1_000_000] * 200
    assert 1 <= len(sent) <= 2, f"sent {len(sent)} times to 2 workers"
