"""What random flows have found (see test_random_graphs.py), at its smallest."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import pytest

from penstock import flow, task, unmapped
from penstock.exceptions import CancelledRun
from penstock.states import Failed
from penstock.task_runners import ProcessPoolTaskRunner, SequentialTaskRunner


@task
def late_items() -> list[int]:
    time.sleep(0.02)  # whoever maps over them does not find them there
    return [1, 2]


@task
def late_failure() -> list[int]:
    time.sleep(0.02)
    raise ValueError("root")


@task
def fail() -> None:
    raise ValueError("x")


@task
def use(*values: Any) -> Any:
    return values


def test_unmapped_beside_a_list_that_is_still_to_come() -> None:
    """If the annotation were lost, nothing would tell where the lengths happen to agree."""

    @flow
    def main() -> Any:
        return use.map(late_items.submit(), unmapped(["a", "b"])).result()

    assert main() == [(1, ["a", "b"]), (2, ["a", "b"])]


def test_a_returned_list_that_is_still_to_come_fails_with_the_exception_of_its_member() -> None:
    @task
    def odd(number: int) -> int:
        if number == 2:
            raise ValueError(number)
        return number

    @flow
    def main() -> Any:
        return odd.map(late_items.submit())

    assert isinstance(main(return_state=True).data, ValueError)


def test_a_map_that_could_not_be_made_is_not_to_blame_for_that() -> None:
    """`UpstreamTaskError` has the name of the first run of the chain that went wrong."""

    @flow
    def main() -> str:
        error: Any = use.submit(use.map(late_failure.submit())).exception()
        return str(error.task_run_name)

    assert main() == "late_failure-0"


def test_the_state_that_a_body_returned_is_that_of_its_run() -> None:
    """Whoever waits for it is blocked by a failure that has been looked at, and does not fail by itself."""

    @task
    def by_hand() -> Any:
        return Failed(message="m")

    @flow
    def main() -> None:
        use.submit(by_hand(return_state=True))

    assert main(return_state=True).is_completed()


def test_a_flow_that_ends_on_a_thread_of_its_own_pool_closes_it(caplog: pytest.LogCaptureFixture) -> None:
    @flow(task_runner=ProcessPoolTaskRunner(max_workers=1))
    def inner() -> None:
        use.submit()

    @flow
    def main() -> None:
        inner.submit().result()

    main()
    errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    caplog.clear()  # its traceback keeps the pool
    assert errors == []


def test_flows_in_other_processes_take_over_that_failures_are_forgiven() -> None:
    @flow
    def inner() -> None:
        fail.submit()

    @task
    def through() -> None:
        inner()

    @flow(task_runner=ProcessPoolTaskRunner(max_workers=1), on_unobserved_failure="warn")
    def main() -> None:
        through.submit().result()

    assert main(return_state=True).is_completed()


def test_cancelled_while_the_failure_of_an_input_is_on_its_way() -> None:
    @flow
    def main() -> BaseException | None:
        failing = late_failure.submit()
        waiting = use.submit(failing)
        failing.add_done_callback(lambda _: waiting.cancel())
        error = waiting.exception()
        assert waiting.cancelled()
        return error

    assert isinstance(main(), CancelledRun)


HANGING = {
    "a runner that executes at once": """
        @task
        async def outer(): return await double.submit(one_later.submit())
        runner = SequentialTaskRunner()
    """,
    "a synchronous body, by way of a coroutine, waits for what needs its worker": """
        @task
        async def middle(): return await double.submit(1)
        @task
        def outer(): return middle.submit().result()
        runner = Executor()
    """,
    "a body waits for a map over a list that is still to come, which needs its worker": """
        @task
        def outer(): return double.map(items.submit()).result()[0]
        runner = Executor()
    """,
    "a body calls a task whose input needs its worker": """
        @task
        def outer(): return double(one.submit())
        runner = Executor()
    """,
    "a body calls a task that leaves something behind which needs its worker": """
        @task
        def leaves():
            double.submit(1)
            return 2
        @task
        def outer(): return leaves()
        runner = Executor()
    """,
}
SCRIPT = """
from concurrent.futures import ThreadPoolExecutor
from penstock import flow, task
from penstock.task_runners import SequentialTaskRunner, TaskRunner

class Executor(TaskRunner):
    def start(self): self.pool = ThreadPoolExecutor(1)
    def execute(self, call): return self.pool.submit(call.execute)
    def close(self, *, cancel=False): self.pool.shutdown(wait=False)
    def duplicate(self): return Executor()

@task
def items(): return [1]
@task
def one(): return 1
@task
async def one_later(): return 1
@task
def double(x): return 2 * x
{}
@flow(task_runner=runner)
def main(): return outer.submit().result()

print(main())
"""


@pytest.mark.parametrize("name", HANGING)
def test_what_would_hang(name: str) -> None:
    """In a process of its own, because it would hang for ever."""
    lines = [line.removeprefix(" " * 8) for line in HANGING[name].splitlines()]
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format("\n".join(lines))],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        output, _ = process.communicate(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
    assert output == "2\n"


@pytest.mark.xfail(
    strict=True, raises=RuntimeError, reason="the body is executed on the event loop, where it may not wait"
)
def test_a_synchronous_task_inside_an_asynchronous_one_may_wait_on_the_sequential_runner() -> None:
    """It may on every other one. While it may not, `draw_flow(immediate=True)` draws no such flows."""

    @task
    async def one() -> int:
        return 1

    @task
    def waits() -> Any:
        return one.submit().result()

    @task
    async def outer() -> Any:
        return await waits.submit()

    @flow(task_runner=SequentialTaskRunner())
    def main() -> Any:
        return outer.submit().result()

    assert main() == 1
