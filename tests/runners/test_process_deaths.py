"""Bodies and values that misbehave in other processes: what they cost, and whom."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import process_bodies as bodies
import pytest
from process_bodies import KINDS, BadElsewhere, BadState, BadToPack, BadToUnpack
from test_processes import in_flow, no_children

from penstock import task
from penstock.exceptions import FailedRun, SerializationError, TaskRunTimeoutError, WorkerLost

__all__ = ["no_children"]  # a fixture

# Where a body or a value misbehaves -> the argument of the task, what its body does.
PLACES: dict[str, Callable[[str], tuple[Any, Callable[[str], Any]]]] = {
    "argument": lambda kind: (BadToUnpack(kind), lambda kind: None),
    "argument's state": lambda kind: ({"a": [BadState(kind)]}, lambda kind: None),
    "body": lambda kind: (None, bodies.misbehave),
    "pickling the result": lambda kind: (None, BadToPack),
    "rebuilding the result": lambda kind: (None, BadToUnpack),
    "rebuilding a part of it": lambda kind: (None, lambda kind: [{"a": BadState(kind)}]),
    "rebuilding the error": lambda kind: (None, bodies.fail_badly),
    "result of a trusted class": lambda kind: (None, lambda kind: deque([BadToUnpack(kind)])),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", PLACES)
def test_what_misbehaves_harms_nothing_else(place: str, kind: str) -> None:
    if kind in ("_exit", "segfault") and place.startswith("result of"):
        _check_in_a_child(place, kind)
    else:
        check_cell(place, kind)


def _check_in_a_child(place: str, kind: str) -> None:
    """If the value is rebuilt here, without a trial, it ends this very process."""
    import subprocess
    import sys

    code = f"import sys; sys.path[:] = {sys.path!r}; import test_process_deaths as t; t.check_cell({place!r}, {kind!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=10)
    assert done.returncode == 0, done.stderr[-2000:]


def check_cell(place: str, kind: str) -> None:
    argument, act = PLACES[place](kind)

    @task(timeout_seconds=0.4 if kind == "hang" else None)
    def victim(x: Any, kind: str) -> Any:
        return act(kind)

    @task
    def bystander(n: int) -> int:
        return n

    def body() -> Any:
        before = bystander.map(range(3))
        future = victim.submit(argument, kind)
        beside = bystander.map(range(3, 6))
        future.wait(4)
        after = bystander.map(range(6, 9)).result()
        return future.state, future.exception(0), [*before.result(), *beside.result(), *after]

    state, error, others = in_flow(body, 2, 6)
    assert others == list(range(9))
    assert isinstance(error, Exception), "a run's failure must not end whoever asks for its result"
    check_end(place, kind, state, error)


def check_end(place: str, kind: str, state: Any, error: Any) -> None:
    if kind == "hang":
        assert (state.type, state.name, type(error)) == ("FAILED", "TimedOut", TaskRunTimeoutError)
    elif kind in ("_exit", "segfault"):
        assert (state.type, type(error)) == ("CRASHED", WorkerLost)
        assert error.exitcode == (3 if kind == "_exit" else -signal.SIGSEGV)
        assert ("exit code 3" if kind == "_exit" else "SIGSEGV") in str(error)
    elif kind == "exit":
        assert state.type in ("FAILED", "CRASHED")
        assert state.type == "CRASHED" or place != "body"
    elif place == "rebuilding the error":
        assert (state.type, type(error)) == ("FAILED", FailedRun)
        assert "BadError" in str(error)
    else:
        assert (state.type, state.name) == ("FAILED", "Failed")
        assert "bad" in str(error)
        assert type(error) is (SerializationError if "result" in place or "rebuilding" in place else ValueError)


@pytest.mark.parametrize("kind", ["exception", "exit"])
@pytest.mark.parametrize("what", ["result", "error"])
def test_a_value_that_misbehaves_only_at_home_fails_its_run(kind: str, what: str) -> None:
    class AtHome(Exception):
        def __reduce__(self) -> Any:
            return BadElsewhere(kind).__class__, (kind,), {"kind": kind, "pid": os.getpid()}

    @task
    def give() -> Any:
        if what == "error":
            raise AtHome
        return BadElsewhere(kind)

    @task
    def bystander() -> str:
        return "fine"

    def body() -> Any:
        future = give.submit()
        future.wait(3)
        return future.state.type, future.exception(0), bystander.submit().result(3)

    state, error, other = in_flow(body)
    assert other == "fine"
    assert state in ("FAILED", "CRASHED")
    assert isinstance(error, Exception)


@pytest.mark.parametrize("kind", ["exception", "exit"])
def test_an_argument_that_misbehaves_when_it_is_pickled_fails_its_run(kind: str) -> None:
    @task
    def take(x: Any) -> Any:
        return x

    def body() -> Any:
        future = take.submit(BadToPack(kind))
        future.wait(3)
        return future.state.type, future.exception(0), take.submit(1).result(3)

    state, error, other = in_flow(body)
    assert (state, other) == ("FAILED", 1)
    assert isinstance(error, Exception)


def test_an_argument_whose_error_carries_a_buffer_fails_its_run() -> None:
    def explode(data: Any) -> None:
        raise bodies.WithBlob(bodies.blob(3))

    class Explosive:
        def __reduce__(self) -> Any:
            return explode, (None,)

    @task
    def take(x: Any) -> Any:
        return x

    def body() -> Any:
        future = take.submit(Explosive())
        future.wait(3)
        return future.state.type, future.exception(0), take.submit(1).result(3)

    state, error, other = in_flow(body)
    assert (state, other) == ("FAILED", 1)
    assert isinstance(error, bodies.WithBlob | FailedRun)


# --- batches ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
@pytest.mark.parametrize("retries", [0, 1])
def test_a_death_costs_the_call_that_was_executed_and_no_other(tmp_path: Path, large: bool, retries: int) -> None:
    file = str(tmp_path / "executed")
    fatal = 350

    @task(retries=retries)
    def work(n: int, load: Any) -> int:
        bodies.append(file, n)
        if n == fatal and bodies.lines(file).count(str(n)) == 1:
            os.kill(os.getpid(), 9)
        return n

    def body() -> Any:
        loads = [bodies.blob() if large and n == fatal else None for n in range(700)]
        futures = work.map(range(700), loads)
        futures.wait()
        return [(n, future.state.type, future.exception()) for n, future in enumerate(futures)]

    answers = in_flow(body)
    lost = [n for n, kind, _ in answers if kind != "COMPLETED"]
    assert lost == ([] if retries else [fatal])
    if not retries:
        error: Any = answers[fatal][2]
        assert (type(error), error.exitcode) == (WorkerLost, -9)
    executed = Counter(map(int, bodies.lines(file)))
    assert executed.pop(fatal) == 1 + retries
    assert executed == {n: 1 for n in range(700) if n != fatal}


def test_every_third_call_ends_its_worker(tmp_path: Path) -> None:
    file = str(tmp_path / "executed")

    @task
    def work(n: int) -> int:
        bodies.append(file, n)
        if n % 3 == 2:
            os._exit(1)
        return n

    def body() -> Any:
        futures = work.map(range(24))
        futures.wait()
        return [future.state.type for future in futures], [future.exception() for future in futures]

    states, errors = in_flow(body, 2)
    assert states == ["CRASHED" if n % 3 == 2 else "COMPLETED" for n in range(24)]
    assert sorted(map(int, bodies.lines(file))) == list(range(24))
    assert {type(error) for error in errors[2::3]} == {WorkerLost}


@pytest.mark.parametrize("next_task", ["the same", "another", "with a buffer"])
def test_a_worker_that_died_while_it_had_nothing_to_do_costs_nothing(next_task: str) -> None:
    @task
    def work(x: Any = None) -> int:
        return os.getpid()

    @task
    def other() -> int:
        return os.getpid()

    def body() -> Any:
        pid = work.submit().result()
        os.kill(pid, 9)
        while bodies.is_alive(pid):
            time.sleep(0.002)
        then = {"the same": work.submit, "another": other.submit, "with a buffer": lambda: work.submit(bodies.blob())}
        future = then[next_task]()
        future.wait(3)
        return pid, future.state.type, future.result(0)

    before, state, after = in_flow(body)
    assert state == "COMPLETED"
    assert after != before


def test_what_a_body_has_forked_does_not_hide_its_death(tmp_path: Path) -> None:
    file = str(tmp_path / "forked")

    @task
    def work() -> None:
        forked = os.fork()
        if not forked:
            bodies.wait_for_file(file + ".end", 20)
            os._exit(0)
        bodies.append(file, forked)
        os._exit(3)

    def body() -> Any:
        future = work.submit()
        try:
            future.wait(3)
        finally:
            bodies.append(file + ".end", "")
        return future.state.type, future.exception(3)

    state, error = in_flow(body)
    assert (state, type(error), error.exitcode) == ("CRASHED", WorkerLost, 3)
