"""Corners where two rules meet, each found by trying to break the library."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import time
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from penstock import allow_failure, flow, get_run_logger, task
from penstock.exceptions import CancelledRun, MappingMissingIterable
from penstock.flows import cancel_run
from penstock.states import Completed, Failed, Pending
from penstock.task_runners import ThreadPoolTaskRunner
from penstock.testing import isolated_store


@task
def same(x: Any) -> Any:
    return x


def until(condition: Any) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.parametrize("way", ["submit", "generator", "call"])
def test_a_body_that_only_calls_the_engine_can_be_cancelled(way: str) -> None:
    @task
    def numbers() -> Iterator[int]:
        yield 1

    steps = {"submit": lambda: same.submit(1), "generator": lambda: list(numbers()), "call": lambda: same(1)}

    @task
    def loop() -> None:
        while True:
            steps[way]()

    @flow
    def main() -> str:
        future = loop.submit()
        until(lambda: future.state.name == "Running")
        time.sleep(0.005)
        future.cancel()
        assert isinstance(future.exception(5), CancelledRun)
        return future.state.name

    assert main() == "Cancelled"


@pytest.mark.parametrize("how", ["await", "gather", "map"])
def test_a_loop_inside_a_synchronous_body_lends_its_slot(how: str) -> None:
    async def inside() -> Any:
        if how == "await":
            return [await same.submit(1)]
        if how == "map":
            return await same.map([1])
        return await asyncio.gather(same.submit(1), same.submit(1))

    @flow(task_runner=ThreadPoolTaskRunner(max_workers=1))
    def main() -> Any:
        return task(lambda: asyncio.run(inside())).submit().result(5)

    assert set(main()) == {1}


def test_exceptions_need_not_be_hashable() -> None:
    @dataclass
    class Unhashable(Exception):
        code: int

    error = Unhashable(3)

    @task
    def bad() -> None:
        raise error

    @flow
    def main() -> None:
        bad.submit()

    with pytest.raises(Unhashable) as caught:
        main()
    assert caught.value is error


def test_exceptions_may_refuse_attributes_and_text() -> None:
    class Stubborn(Exception):
        def __setattr__(self, name: str, value: object) -> None:
            raise AttributeError(name)

        def __str__(self) -> str:
            raise RuntimeError("no")

    @task
    def bad() -> None:
        raise Stubborn

    @flow
    def main() -> None:
        bad.submit()

    assert main(return_state=True).name == "Failed"
    with pytest.raises(Stubborn):
        main()


def test_states_of_runs_that_go_on() -> None:
    @flow
    def main() -> Any:
        return [Completed(), Pending()]

    state = main(return_state=True)
    assert (state.name, state.message) == ("Failed", "1/2 states are not final.")


def test_a_returned_map_that_cannot_expand() -> None:
    @flow
    def main() -> Any:
        return same.map(task(lambda: time.sleep(0.01) or 5).submit())

    with pytest.raises(MappingMissingIterable):
        main()


def test_a_state_under_allow_failure_is_a_static_argument_of_a_map() -> None:
    @flow
    def main() -> Any:
        futures = task(lambda x, y: (type(x), y)).map(allow_failure(Failed(message="q")), [1, 2])
        return futures.result()

    assert [name.__name__ for name, _ in main()] == ["FailedRun", "FailedRun"]


def test_what_a_hook_submits_ends_before_the_flow() -> None:
    gate, futures = threading.Event(), []

    def hook(*_: Any) -> None:
        futures.append(task(lambda: gate.wait(5)).submit())
        threading.Timer(0.02, gate.set).start()

    @flow(on_completion=[hook])
    def main() -> None: ...

    main()
    assert futures[0].done()


def test_idle_workers_keep_no_results() -> None:
    class Result:
        pass

    @flow(task_runner=ThreadPoolTaskRunner(max_workers=4))
    def main() -> None:
        futures = task(lambda n: Result()).map(range(8))
        results = [weakref.ref(future.result()) for future in futures]
        del futures
        gc.collect(1)
        until(lambda: not any(result() for result in results))

    main()


def test_lines_of_a_logger_in_a_thread_without_context_are_recorded() -> None:
    with isolated_store() as store:

        @flow
        def main() -> None:
            thread = threading.Thread(target=lambda: get_run_logger().info("from outside"))
            thread.start()
            thread.join()

        main()
        (root,) = store.runs()
        assert "from outside" in [line.message for line in store.logs(root.id)]


def test_errors_of_hooks_are_recorded_with_their_run() -> None:
    def hook(*_: Any) -> None:
        raise ValueError("in the hook")

    with isolated_store() as store:

        @flow
        def main() -> None:
            task(lambda: 1, name="hooked", on_completion=[hook]).submit().result()

        main()
        (root,) = store.runs()
        (child,) = store.children(root.id)
        assert any("in the hook" in line.message for line in store.logs(child.id))


def test_a_handler_that_prints_does_not_print_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    class Printing(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            print("handled")

    handler = Printing()
    logger = logging.getLogger("penstock.task_runs")
    logger.addHandler(handler)
    try:

        @flow
        def main() -> None:
            task(lambda: print("a line"), log_prints=True, name="prints").submit().result()

        main()
    finally:
        logger.removeHandler(handler)
    (record,) = [record for record in caplog.records if record.getMessage() == "a line"]
    assert record.task_run_name == "prints-0"  # type: ignore[attr-defined]


def test_a_word_that_is_no_id_is_a_lookup_error() -> None:
    with pytest.raises(LookupError, match="nope"):
        cancel_run("nope")


class TestMapsOfMaps:
    """A list that has not been expanded yet, under `allow_failure`, quoted, and mapped over again."""

    @staticmethod
    def run(use: Any) -> Any:
        @task
        def numbers() -> list[int]:
            time.sleep(0.01)
            return [1, 0, 2]

        @flow
        def main() -> Any:
            return use(task(lambda n: 2 // n, name="halves").map(numbers.submit()))

        return main()

    def test_passed_on(self) -> None:
        def use(futures: Any) -> Any:
            return task(lambda xs: [type(x).__name__ for x in xs]).submit(allow_failure(futures)).result()

        assert self.run(use) == ["int", "ZeroDivisionError", "int"]

    def test_waited_for(self) -> None:
        assert self.run(lambda futures: same.submit("well", wait_for=allow_failure(futures)).result()) == "well"

    def test_returned(self) -> None:
        values = self.run(allow_failure)
        assert [type(value).__name__ for value in values] == ["int", "ZeroDivisionError", "int"]

    def test_mapped_over(self) -> None:
        def use(futures: Any) -> Any:
            return task(lambda x: type(x).__name__).map(allow_failure(futures)).result()

        assert self.run(use) == ["int", "ZeroDivisionError", "int"]

    def test_mapped_over_one_by_one(self) -> None:
        """As for a list that has been expanded: an element does not wait for the others, nor fail with them."""

        def use(futures: Any) -> Any:
            again = same.map(futures)
            return again.result(raise_on_failure=False)

        assert [type(value).__name__ for value in self.run(use)] == ["int", "UpstreamTaskError", "int"]

    def test_mapped_over_lazily(self) -> None:
        def use(futures: Any) -> Any:
            return [future.result() for future in same.imap(allow_failure(futures), ordered=True)]

        values = self.run(use)
        assert [type(value).__name__ for value in values] == ["int", "ZeroDivisionError", "int"]
