"""Calls that a runner pickles: what the engine makes of them, with a pool that does what the test says."""

from __future__ import annotations

import logging
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future as StandardFuture
from typing import Any, Self

import cloudpickle
import pytest

from penstock import flow, get_run_logger, task
from penstock._engine import capture
from penstock._engine import clock as clocks
from penstock.exceptions import CancelledRun, CrashedRun, SerializationError, TaskRunTimeoutError, WorkerLost
from penstock.task_runners import Capabilities, TaskRunner, base, errand
from penstock.testing import ManualClock, isolated_store


class Post(TaskRunner):
    """Keeps calls until the test sends and answers them."""

    capabilities = Capabilities(shares_memory=False, can_interrupt=False)

    def __init__(self) -> None:
        self.calls: list[tuple[Any, StandardFuture[Any]]] = []

    def execute(self, call: Any) -> StandardFuture[Any]:
        done: StandardFuture[Any] = StandardFuture()
        self.calls.append((call, done))
        return done

    def duplicate(self) -> Self:
        return self  # so that the test can talk to it


class Eager(Post):
    """Pickles a call at once, and has it executed on a thread."""

    def execute(self, call: Any) -> StandardFuture[Any]:
        done = super().execute(call)
        sent = pickle.dumps(call.execute)
        threading.Thread(target=lambda: done.set_result(elsewhere(sent))).start()
        return done


def elsewhere(sent: bytes) -> Any:
    """Execute what was sent on another thread, and send home what it returns: as another process would."""
    results: list[bytes] = []
    thread = threading.Thread(target=lambda: results.append(pickle.dumps(pickle.loads(sent)(), 2)))
    thread.start()
    thread.join()
    return pickle.loads(results[0])


@pytest.fixture(autouse=True)
def no_forwarder() -> Iterator[None]:
    """Such a process hands on its log lines; this one must not go on doing so."""
    yield
    for handler in logging.root.handlers[:]:
        if isinstance(handler, capture._Forwarder):
            logging.root.removeHandler(handler)


def in_flow(runner: TaskRunner, body: Callable[[], Any]) -> Any:
    return flow(name="around", task_runner=runner)(body)()


@task
def double(x: Any) -> Any:
    return 2 * x


# --- there and back ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dumps", [pickle.dumps, cloudpickle.dumps])
@pytest.mark.parametrize("whole", [True, False])
def test_it_is_executed_where_it_is_unpickled(dumps: Callable[[Any], bytes], whole: bool) -> None:
    """The method or the call itself; the run is running from the moment that it is pickled."""
    runner = Post()

    def body() -> None:
        future = double.submit(21)
        call, done = runner.calls.pop()
        assert future.state.name == "Pending"
        sent = dumps(call if whole else call.execute)
        assert future.state.name == "Running"
        assert not hasattr(pickle.loads(sent), "perform")
        if whole:
            sent = pickle.dumps(pickle.loads(sent).execute)
        done.set_result(elsewhere(sent))
        assert future.result() == 42

    in_flow(runner, body)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_any_protocol_carries_large_buffers(protocol: int) -> None:
    runner = Post()
    data = bytes(range(256)) * 4096

    @task
    def turn(data: Any) -> Any:
        data = bytearray(data)
        data.reverse()
        return pickle.PickleBuffer(data)

    def body() -> None:
        future = turn.submit(pickle.PickleBuffer(bytearray(data)))
        call, done = runner.calls.pop()
        done.set_result(elsewhere(pickle.dumps(call.execute, protocol)))
        assert bytes(future.result()) == data[::-1]

    in_flow(runner, body)


def test_it_is_executed_here_as_long_as_nobody_pickles_it() -> None:
    runner = Post()

    def body() -> None:
        value = object()
        future = task(lambda: value).submit()
        call, done = runner.calls.pop()
        done.set_result(call.execute())
        assert future.result() is value
        assert pickle.loads(pickle.dumps(call.execute))() is None  # and then there is nothing left to do

    in_flow(runner, body)


def test_it_can_be_sent_again_by_a_pool_that_has_lost_it() -> None:
    runner = Post()

    def body() -> None:
        future = double.submit(4)
        call, done = runner.calls.pop()
        pickle.dumps(call.execute)
        done.set_result(elsewhere(pickle.dumps(call.execute)))
        assert future.result() == 8
        assert pickle.loads(pickle.dumps(call.execute))() is None

    in_flow(runner, body)


def test_what_it_said_comes_home_with_its_end() -> None:
    """Log lines and prints, to the run's record and to no other one's."""
    runner = Post()

    @task(log_prints=True)
    def talk() -> None:
        get_run_logger().warning("logged %d", 1)
        print("printed", 2)
        logging.getLogger("elsewhere").error("error %d", 3)

    def body() -> None:
        talk.submit()
        call, done = runner.calls.pop()
        done.set_result(elsewhere(pickle.dumps(call.execute)))

    with isolated_store() as store:
        in_flow(runner, body)
    (root,) = store.runs()
    (child,) = store.children(root.id)
    assert [line.message for line in store.logs(child.id)] == ["logged 1", "printed 2", "error 3"]
    assert "" not in [line.message for line in store.logs(root.id)]


def test_a_thread_rebuilds_a_function_once(monkeypatch: pytest.MonkeyPatch) -> None:
    homes: list[Any] = []
    open_home = base.open_home
    monkeypatch.setattr(base, "open_home", lambda *args: homes.append(open_home(*args)) or homes[-1])
    monkeypatch.setattr(errand, "_desks", errand._Desks())
    runner = Post()

    def body() -> None:
        futures = [*double.map(range(5)), *double.with_options(timeout_seconds=9).map(range(5))]
        sent = [(pickle.dumps(call.execute), done) for call, done in runner.calls]

        def work() -> None:
            for each, done in sent:
                done.set_result(pickle.loads(each)())

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert [future.result() for future in futures] == [0, 2, 4, 6, 8] * 2

    in_flow(runner, body)
    assert [home._plan.timeout for home in homes] == [None, 9]


def test_a_thread_keeps_the_latest_households(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errand, "_HOUSEHOLDS", 3)
    monkeypatch.setattr(errand, "_desks", errand._Desks())
    runner = Post()

    def body() -> None:
        for name in "abcacdc":
            task(lambda: 1, name=name).submit()
            call, done = runner.calls.pop()
            done.set_result(pickle.loads(pickle.dumps(call.execute))())

    in_flow(runner, body)
    assert len(errand._desks._free) == 3


# --- what cannot be sent ----------------------------------------------------------------------------------------------


def refused(runner: Post, send: Callable[[Any, StandardFuture[Any]], None]) -> None:
    lock = threading.Lock()

    @task(name="holder")
    def holder() -> None:
        lock.acquire()

    def body() -> None:
        future = holder.submit()
        send(*runner.calls.pop())
        error = future.exception()
        assert isinstance(error, SerializationError)
        assert error.path == "holder[0].lock"
        assert "holder[0].lock cannot be sent to another process" in str(error)
        assert future.state.name == "Failed"

    in_flow(runner, body)


def test_a_pool_reports_that_it_cannot_be_pickled() -> None:
    def send(call: Any, done: StandardFuture[Any]) -> None:
        with pytest.raises(SerializationError, match=r"holder.*lock") as caught:
            pickle.dumps(call.execute)
        done.set_exception(caught.value)

    refused(Post(), send)


def test_a_pool_may_wrap_what_it_reports() -> None:
    def send(call: Any, done: StandardFuture[Any]) -> None:
        with pytest.raises(SerializationError):
            cloudpickle.dumps(call.execute)
        done.set_exception(pickle.PicklingError("Could not pickle the task to send it to the workers."))

    refused(Post(), send)


def test_a_runner_that_pickles_at_once_may_let_the_error_pass() -> None:
    def body() -> None:
        future = double.submit(threading.Lock())
        error = future.exception()
        assert isinstance(error, SerializationError)
        assert error.path == "x"
        assert future.state.name == "Failed"
        assert double.submit(3).result() == 6

    in_flow(Eager(), body)


def test_other_errors_of_a_runner_crash_the_run() -> None:
    class Broken(Post):
        def execute(self, call: Any) -> StandardFuture[Any]:
            raise OSError("no pool")

    def body() -> None:
        future = double.submit(3)
        assert isinstance(future.exception(), CrashedRun)
        assert future.state.name == "Crashed"

    in_flow(Broken(), body)


# --- cancelled --------------------------------------------------------------------------------------------------------


def test_a_run_that_was_cancelled_before_its_turn_is_not_executed() -> None:
    runner = Post()

    def body() -> None:
        future = double.submit(3)
        call, done = runner.calls.pop()
        assert future.cancel()
        assert future.state.name == "Cancelled"
        done.set_result(elsewhere(pickle.dumps(call.execute)))
        assert done.result() is None
        assert isinstance(future.exception(), CancelledRun)

    in_flow(runner, body)


def test_a_run_that_is_cancelled_while_it_is_pickled_is_not_executed() -> None:
    runner = Post()

    class Slow:
        def __reduce__(self) -> Any:
            (future,) = futures
            future.cancel()
            return list, ()

    futures: list[Any] = []

    def body() -> None:
        futures.append(double.submit(Slow()))
        call, done = runner.calls.pop()
        done.set_result(elsewhere(pickle.dumps(call.execute)))
        assert done.result() is None
        assert isinstance(futures[0].exception(), CancelledRun)
        assert futures[0].state.name == "Cancelled"

    in_flow(runner, body)


@pytest.mark.parametrize("sent", [True, False])
def test_a_future_that_is_cancelled_cancels_the_run(sent: bool) -> None:
    runner = Post()

    def body() -> None:
        future = double.submit(3)
        call, done = runner.calls.pop()
        if sent:
            pickle.dumps(call.execute)
        assert done.cancel()
        assert isinstance(future.exception(), CancelledRun)
        assert future.state.name == "Cancelled"

    in_flow(runner, body)


def test_what_is_pickled_after_the_end_of_the_flows_body_is_not_executed() -> None:
    runner = Post()

    @flow(name="around", task_runner=runner)
    def around() -> None:
        double.submit(1)
        raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"):
        around()
    call, _ = runner.calls.pop()
    assert pickle.loads(pickle.dumps(call.execute))() is None


def test_a_running_one_that_ends_by_itself_completes() -> None:
    runner = Post()

    def body() -> None:
        future = double.submit(3)
        call, done = runner.calls.pop()
        sent = pickle.dumps(call.execute)
        assert future.cancel()
        assert future.state.name == "Cancelling"
        done.set_result(elsewhere(sent))
        assert future.result() == 6

    in_flow(runner, body)


def test_a_running_one_that_does_not_end_is_written_off(caplog: pytest.LogCaptureFixture) -> None:
    """What becomes of it later changes nothing but its log."""
    runner = Post()

    @task(retries=2)
    def late() -> str:
        get_run_logger().info("late")
        return "late"

    def body() -> None:
        future = late.submit()
        call, done = runner.calls.pop()
        sent = pickle.dumps(call.execute)
        assert future.cancel()
        clock.advance(2.9)
        assert future.state.name == "Cancelling"
        clock.advance(0.1)
        error = future.exception()
        assert type(error) is CrashedRun
        assert "still running in a process that cannot be reached" in str(error)
        done.set_result(elsewhere(sent))
        assert future.state.name == "Crashed"
        assert runner.calls == []

    with clocks.use(clock := ManualClock()), isolated_store() as store:
        in_flow(runner, body)
    (root,) = store.runs()
    (child,) = store.children(root.id)
    assert (child.status, child.attempts) == ("CRASHED", 1)
    assert [line.message for line in store.logs(child.id)][-1] == "late"
    warning = "did not stop within 3 s; still running in a process that cannot be reached"
    assert [record.message for record in caplog.records if record.levelno == logging.WARNING] == [
        f"Task run 'late-0' {warning}"
    ]


def test_one_whose_pool_dies_while_it_is_to_stop_is_cancelled() -> None:
    runner = Post()

    def body() -> None:
        future = double.submit(3)
        call, done = runner.calls.pop()
        pickle.dumps(call.execute)
        assert future.cancel()
        done.set_exception(OSError("the pool is gone"))
        assert isinstance(future.exception(), CancelledRun)

    in_flow(runner, body)


def test_one_whose_pool_dies_is_lost_and_tried_again() -> None:
    runner = Post()

    def body() -> None:
        future = double.with_options(retries=1).submit(3)
        call, done = runner.calls.pop()
        pickle.dumps(call.execute)
        done.set_exception(OSError("the pool is gone"))
        again, done = runner.calls.pop()
        done.set_result(elsewhere(pickle.dumps(again.execute)))
        assert future.result() == 6
        lost = double.submit(3)
        call, done = runner.calls.pop()
        done.set_exception(OSError("gone again"))
        assert isinstance(lost.exception(), WorkerLost)
        assert "gone again" in str(lost.exception())

    in_flow(runner, body)


# --- time limits ------------------------------------------------------------------------------------------------------


def test_one_that_takes_too_long_is_timed_out_in_time() -> None:
    runner = Post()

    def body() -> None:
        future = double.with_options(timeout_seconds=0.2, retries=1).submit(3)
        call, done = runner.calls.pop()
        clock.advance(100)
        sent = pickle.dumps(call.execute)  # from now on
        clock.advance(0.19)
        assert runner.calls == []
        clock.advance(0.5)
        again, done_again = runner.calls.pop()
        done.set_result(elsewhere(sent))  # too late
        assert not future.done()
        pickle.dumps(again.execute)
        clock.advance(0.7)
        error = future.exception()
        assert type(error) is TaskRunTimeoutError
        assert "exceeded timeout of 0.2 second(s)" in str(error)
        done_again.set_exception(OSError("gone, later"))
        assert future.state.name == "TimedOut"

    with clocks.use(clock := ManualClock()):
        in_flow(runner, body)


@pytest.mark.parametrize("end", ["refused", "lost", "returned"])
def test_one_that_ends_when_its_time_is_over_is_timed_out(end: str) -> None:
    """However it ends, before it is written off."""
    runner = Post()

    def body() -> None:
        future = task(threading.Lock if end == "refused" else list, name="slow", timeout_seconds=0.1).submit()
        call, done = runner.calls.pop()
        sent = pickle.dumps(call.execute)
        clock.advance(0.1)
        if end == "lost":
            done.set_exception(OSError("gone"))
        else:
            done.set_result(elsewhere(sent))
        assert type(future.exception()) is TaskRunTimeoutError
        assert future.state.name == "TimedOut"

    with clocks.use(clock := ManualClock()):
        in_flow(runner, body)


def test_the_process_stops_the_body_when_its_time_is_over() -> None:
    """It is the only one who can: else the body would keep its worker."""
    runner = Post()
    seen: list[str] = []

    def body() -> None:
        future = task(_spin, timeout_seconds=0.1).submit()
        call, done = runner.calls.pop()
        sent = pickle.dumps(call.execute)
        before = time.monotonic()
        homecoming = elsewhere(sent)
        assert time.monotonic() - before < 2
        seen.extend(_seen)
        done.set_result(homecoming)
        assert type(future.exception()) is TaskRunTimeoutError

    in_flow(runner, body)
    assert seen == ["stopped"]


_seen: list[str] = []


def _spin() -> None:
    deadline = time.monotonic() + 5
    try:
        while time.monotonic() < deadline:
            time.sleep(0.002)
    finally:
        _seen.append("stopped" if time.monotonic() < deadline else "ended")


# --- hooks ------------------------------------------------------------------------------------------------------------


def test_hooks_may_wait_for_other_runs_of_the_same_pool() -> None:
    """They are not called on the pool's thread, and in their order whatever they take."""
    called: list[str] = []

    def started(definition: Any, run: Any, state: Any) -> None:
        assert double.submit(1).result() == 2
        called.append(f"{run.name} {state.name}")

    def ended(definition: Any, run: Any, state: Any) -> None:
        assert double.submit(2).result() == 4
        called.append(f"{run.name} {state.name}")

    def body() -> None:
        hooked = task(lambda: 7, name="hooked", on_running=[started], on_completion=[ended])
        assert hooked.submit().result() == 7

    in_flow(Eager(), body)
    assert called == ["hooked-0 Running", "hooked-0 Completed"]


def test_a_condition_is_asked_where_it_may_wait() -> None:
    def condition(definition: Any, run: Any, state: Any) -> bool:
        return bool(double.submit(1).result() == 2)

    @task(retries=1, retry_condition_fn=condition)
    def bad() -> None:
        raise ValueError("again")

    with isolated_store() as store:
        in_flow(Eager(), lambda: str(bad.submit().exception()))
    (root,) = store.runs()
    assert [row.attempts for row in store.children(root.id) if row.name == "bad"] == [2]
