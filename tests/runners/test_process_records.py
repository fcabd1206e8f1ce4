"""Bodies in other processes: what is recorded of them, and how they are stopped."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import process_bodies as bodies
import pytest
from test_processes import in_flow, no_children

from penstock import as_completed, flow, get_run_logger, task
from penstock.exceptions import CancelledRun, CancelSignal, TaskRunTimeoutError, WorkerLost
from penstock.store.sqlite import SQLiteReader
from penstock.testing import isolated_store
from placeless import placeless

__all__ = ["no_children"]  # a fixture


# --- the record -------------------------------------------------------------------------------------------------------


def record(home: Path) -> tuple[Any, dict[str, Any], list[Any]]:
    """The root run's row, the rows below it by name, and the log."""
    reader = SQLiteReader(home)
    try:
        (root,) = reader.runs()
        return root, {row.run_name: row for row in reader.tree(root.id)}, reader.logs(root.id)
    finally:
        reader.close()


def test_log_lines_before_a_death_are_kept(own_store: Path, caplog: pytest.LogCaptureFixture) -> None:
    @task(log_prints=True)
    def die() -> None:
        get_run_logger().warning("number %d", 1)
        print("number", 2)
        logging.getLogger("elsewhere").error("number 3")
        os._exit(3)

    logging.getLogger("elsewhere").setLevel(logging.INFO)
    with caplog.at_level(logging.INFO):
        error = in_flow(lambda: die.submit().exception())
    assert isinstance(error, WorkerLost)
    assert error.exitcode == 3
    _, below, logs = record(own_store)
    mine = [log for log in logs if log.message.startswith("number")]
    assert [(log.level, log.message) for log in mine if log.logger != "elsewhere"] == [
        (logging.WARNING, "number 1"),
        (logging.INFO, "number 2"),
    ]
    assert {log.run_id for log in mine} == {below["die-0"].id}
    shown = [(record.levelname, record.getMessage()) for record in caplog.records]
    for line in [("WARNING", "number 1"), ("INFO", "number 2"), ("ERROR", "number 3")]:
        assert shown.count(line) == 1, line


def test_lines_have_the_names_of_their_runs(caplog: pytest.LogCaptureFixture) -> None:
    @task
    def say() -> None:
        get_run_logger().info("hello")

    with caplog.at_level(logging.INFO):
        in_flow(lambda: say.submit().result())
    (line,) = [record for record in caplog.records if record.getMessage() == "hello"]
    assert line.task_run_name == "say-0"
    assert line.flow_name == "main"


def test_levels_at_home_count(own_store: Path) -> None:
    @task
    def say() -> None:
        get_run_logger().debug("no")
        get_run_logger().info("yes")
        try:
            raise ValueError("why")
        except ValueError:
            get_run_logger().exception("trouble")

    in_flow(lambda: say.submit().result())
    _, below, logs = record(own_store)
    mine = [log.message for log in logs if log.run_id == below["say-0"].id]
    assert mine[0] == "yes"
    assert mine[1].startswith("trouble\nTraceback")
    assert mine[1].endswith("ValueError: why")


def test_an_argument_of_a_line_needs_no_repr(own_store: Path) -> None:
    class Shy:
        def __str__(self) -> str:
            return "shown"

        def __repr__(self) -> str:
            raise RuntimeError("not me")

    @task
    def say() -> str:
        get_run_logger().info("it is %s", Shy())
        return "done"

    assert in_flow(lambda: say.submit().result()) == "done"
    assert "it is shown" in [log.message for log in record(own_store)[2]]


def test_a_handler_that_raises_stops_nothing(own_store: Path) -> None:
    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage() == "boom":
                raise RuntimeError("broken handler")

    @task
    def say() -> str:
        get_run_logger().info("boom")
        return "done"

    handler = Broken()
    logging.getLogger("penstock").addHandler(handler)
    try:
        result = in_flow(lambda: (say.submit().exception(3), say.submit().exception(3)))
    finally:
        logging.getLogger("penstock").removeHandler(handler)
    assert all(error is None or isinstance(error, RuntimeError) for error in result)


def test_runs_inside_workers_are_recorded(own_store: Path) -> None:
    @task
    def leaf(n: int) -> int:
        get_run_logger().info("leaf %d", n)
        return n

    @flow
    def inner(n: int) -> int:
        return sum(leaf.map(range(n)).result())

    @task
    def outer() -> Any:
        first = leaf.submit(5)
        return inner(3), first.result(), leaf(7), os.getpid()

    pid = in_flow(lambda: outer.submit().result())
    assert pid[:3] == (3, 5, 7)
    assert pid[3] != os.getpid()
    root, below, logs = record(own_store)
    visiting = below["outer-0"]
    (sub,) = [row for row in below.values() if row.kind == "flow"]
    assert (sub.name, sub.parent_id, visiting.parent_id) == ("inner", visiting.id, root.id)
    leaves = [row for row in below.values() if row.name == "leaf"]
    assert Counter((row.parent_id, row.flow_run_id) for row in leaves) == {
        (visiting.id, root.id): 2,
        (sub.id, sub.id): 3,
    }
    assert {(row.status, row.root_id) for row in below.values()} == {("COMPLETED", root.id)}
    assert len({row.id for row in below.values()}) == 7
    said = Counter(log.message for log in logs if log.message.startswith("leaf ") and "mapped" not in log.message)
    assert said == Counter(f"leaf {n}" for n in (0, 1, 2, 5, 7))
    assert logs[-1].message.endswith(" · 6 task runs, 1 subflow run")


def test_runs_are_recorded_in_a_store_of_any_kind() -> None:
    @task
    def leaf() -> None: ...

    @task
    def outer() -> None:
        leaf.submit()

    with isolated_store() as store:
        in_flow(lambda: outer.submit().result())
    (root,) = store.runs()
    assert [row.run_name for row in store.tree(root.id)] == ["outer-0", "leaf-0"]


def test_a_failure_inside_a_worker_that_nobody_looked_at_fails_the_flow(own_store: Path) -> None:
    @task
    def bad() -> None:
        raise ValueError("unseen")

    @task
    def outer() -> str:
        bad.submit().wait()
        return "fine"

    seen: list[str] = []
    with pytest.raises(ValueError, match="unseen"):
        in_flow(lambda: seen.append(outer.submit().result()))
    assert seen == ["fine"]
    root, below, _ = record(own_store)
    assert placeless(root.message) == "1 task run failed and nobody looked at it: bad-0 (ValueError: unseen)"
    assert {name: row.status for name, row in below.items()} == {"outer-0": "COMPLETED", "bad-0": "FAILED"}


def test_a_failure_inside_a_worker_that_was_looked_at_is_settled(own_store: Path) -> None:
    @task
    def bad() -> None:
        raise ValueError("seen")

    @task
    def outer() -> str:
        return str(bad.submit().exception())

    assert in_flow(lambda: outer.submit().result()) == "seen"
    assert record(own_store)[0].status == "COMPLETED"


def test_parameters_results_and_attempts_are_recorded(own_store: Path, tmp_path: Path) -> None:
    file = str(tmp_path / "tries")

    @task(retries=2)
    def flaky(path: str) -> int:
        bodies.append(path, os.getpid())
        number = len(bodies.lines(path))
        if number == 1:
            raise ValueError("first")
        if number == 2:
            os._exit(4)
        return number

    assert in_flow(lambda: flaky.submit(file).result()) == 3
    _, below, _ = record(own_store)
    row = below["flaky-0"]
    assert (row.status, row.attempts, row.result) == ("COMPLETED", 3, "3")
    assert file[-10:] in json.loads(row.parameters)["path"]
    reader = SQLiteReader(own_store)
    tries = [(one.number, one.state_name, one.error_type) for one in reader.attempts(row.id)]
    reader.close()
    assert [one[0] for one in tries] == [1, 2, 3]
    assert tries[0][2] == "ValueError"
    assert "WorkerLost" in tries[1][2]


def test_hooks_and_conditions_are_called_at_home() -> None:
    calls: list[Any] = []

    def note(_task: Any, run: Any, state: Any) -> None:
        calls.append((os.getpid(), run.name, state.name))

    @task(on_running=[note], on_completion=[note], on_failure=[note], retries=1, retry_condition_fn=lambda *_: False)
    def work(n: int) -> int:
        return 1 // n

    def body() -> Any:
        return work.submit(1).exception(), work.submit(0).exception()

    assert isinstance(in_flow(body)[1], ZeroDivisionError)
    by_run = defaultdict(list)
    for pid, name, state in calls:
        assert pid == os.getpid()
        by_run[name].append(state)
    assert by_run == {"work-0": ["Running", "Completed"], "work-1": ["Running", "Failed"]}


# --- cancellation -----------------------------------------------------------------------------------------------------


def test_a_running_body_is_cancelled_inside_a_call_of_the_system(tmp_path: Path) -> None:
    started, ended = str(tmp_path / "started"), str(tmp_path / "ended")

    @task
    def sleeps() -> None:
        bodies.append(started, os.getpid())
        try:
            time.sleep(bodies.FOREVER)
        except CancelSignal:
            bodies.append(ended, "signal")
            raise
        finally:
            bodies.append(ended, "finally")

    @task
    def pid() -> int:
        return os.getpid()

    def body() -> Any:
        future = sleeps.submit()
        assert bodies.wait_for_file(started)
        began = time.monotonic()
        assert future.cancel() is True
        error = future.exception(3)
        return error, future.state.name, time.monotonic() - began, pid.submit().result()

    error, name, seconds, same = in_flow(body)
    assert isinstance(error, CancelledRun)
    assert name == "Cancelled"
    assert seconds < 1
    assert bodies.lines(ended) == ["signal", "finally"]
    assert bodies.lines(started) == [str(same)], "the process is used again"


def test_a_running_coroutine_is_cancelled(tmp_path: Path) -> None:
    started = str(tmp_path / "started")

    @task
    async def sleeps() -> None:
        bodies.append(started, os.getpid())
        await asyncio.sleep(bodies.FOREVER)

    def body() -> Any:
        future = sleeps.submit()
        assert bodies.wait_for_file(started)
        future.cancel()
        return future.exception(3), future.state.name

    error, name = in_flow(body)
    assert (type(error), name) == (CancelledRun, "Cancelled")


@pytest.mark.parametrize("how", ["swallows", "holds the lock"])
def test_a_body_that_does_not_stop_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.setenv("PENSTOCK_CANCEL_GRACE_SECONDS", "0.2")
    started = str(tmp_path / "started")

    @task(retries=3)
    def stubborn() -> None:
        bodies.append(started, os.getpid())
        if how == "holds the lock":
            bodies.hold_interpreter_lock()
        while True:
            try:
                time.sleep(bodies.FOREVER)
            except BaseException:
                pass

    @task
    def work(n: int) -> int:
        return n

    def body() -> Any:
        future = stubborn.submit()
        assert bodies.wait_for_file(started)
        others = work.map(range(3))
        future.cancel()
        return future.exception(3), future.state.name, others.result()

    error, name, others = in_flow(body)
    assert (type(error), name, others) == (CancelledRun, "Cancelled", [0, 1, 2])
    (pid,) = bodies.lines(started)
    assert not bodies.is_alive(int(pid))


def test_cancelled_runs_that_wait_are_never_executed(tmp_path: Path) -> None:
    gate, started, done = (str(tmp_path / name) for name in ("gate", "started", "done"))

    @task
    def work(n: int) -> None:
        if n >= 0:
            bodies.append(done, n)

    @task
    def hold() -> None:
        bodies.append(started, "")
        bodies.wait_for_file(gate)

    def body() -> Any:
        work.map([-1] * 300).result()  # now it is known to be quick
        holding = hold.submit()
        assert bodies.wait_for_file(started)
        futures = work.map(range(400))
        futures.cancel()
        names = {future.state.name for future in futures}
        bodies.append(gate, "")
        holding.result()
        return names

    assert in_flow(body) == {"Cancelled"}
    assert bodies.lines(done) == []


def test_cancelled_runs_in_a_batch_are_not_executed(tmp_path: Path) -> None:
    gate, started, done = (str(tmp_path / name) for name in ("gate", "started", "done"))

    @task
    def work(n: int) -> None:
        if n == 200:
            bodies.append(started, "")
            bodies.wait_for_file(gate)
        if n > 200:
            bodies.append(done, n)

    def body() -> Any:
        futures = work.map(range(600))
        assert bodies.wait_for_file(started)
        waiting = futures[201:]
        for future in waiting:
            future.cancel()
        bodies.append(gate, "")
        futures[200].result()
        waiting.wait(5)  # a process has to confirm that it has not begun what it had been sent
        return {future.state.name for future in waiting}

    assert in_flow(body) == {"Cancelled"}
    assert bodies.lines(done) == []


def test_time_limits_end_the_process() -> None:
    @task(timeout_seconds=0.2, retries=1)
    def stuck(n: int) -> int:
        if n:
            bodies.hold_interpreter_lock()
        return os.getpid()

    def body() -> Any:
        good = stuck.submit(0)
        future = stuck.submit(1)
        error = future.exception(4)
        return good.result(), error, future.state.name, stuck.submit(0).result()

    before, error, name, after = in_flow(body)
    assert (type(error), name) == (TaskRunTimeoutError, "TimedOut")
    assert before != after


def test_the_first_to_end_is_first() -> None:
    @task
    def work(seconds: float) -> float:
        time.sleep(seconds)
        return seconds

    def body() -> list[float]:
        return [future.result() for future in as_completed([work.submit(0.3), work.submit(0.0)])]

    assert in_flow(body, 2) == [0.0, 0.3]
