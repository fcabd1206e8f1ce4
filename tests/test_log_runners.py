"""What bodies log and print is recorded once, in order and in full, wherever they are executed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from penstock import flow, get_run_logger, task
from penstock.context import with_context
from penstock.recovery import open_reader
from penstock.store.base import LogRow
from penstock.task_runners import (
    DaskTaskRunner,
    ProcessPoolTaskRunner,
    RayTaskRunner,
    SequentialTaskRunner,
    TaskRunner,
    ThreadPoolTaskRunner,
)

TASKS, LINES = 50, 1_000


class Handler(logging.Handler):
    """What reaches the handlers of the program."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@contextmanager
def alone(handler: logging.Handler) -> Iterator[None]:
    """The only one on the root logger: pytest's own would format every line, and raise if that fails."""
    before, logging.root.handlers = logging.root.handlers, [handler]
    try:
        yield
    finally:
        logging.root.handlers = before


@pytest.fixture
def handler() -> Iterator[Handler]:
    own = logging.getLogger("of_a_program")
    own.setLevel(logging.INFO)
    yield Handler()
    own.setLevel(logging.NOTSET)


def recorded(home: Path) -> dict[str, list[LogRow]]:
    """The lines of each run below the latest flow run, by name of the run; those of the flow run under ""."""
    with closing(open_reader(home)) as reader:
        (root,) = reader.runs(limit=1)
        names = {row.id: row.run_name for row in reader.tree(root.id, limit=10_000)}
        found: dict[str, list[LogRow]] = {}
        for line in reader.logs(root.id, limit=10**7):
            found.setdefault(names.get(line.run_id, ""), []).append(line)
    return found


def said(home: Path, run_name: str) -> list[str]:
    return [line.message for line in recorded(home).get(run_name, ())]


@task(log_prints=True)
def count(number: int, lines: int) -> None:
    """Three ways to say something, in turn."""
    ours, own = get_run_logger(), logging.getLogger("of_a_program")
    for line in range(lines):
        (ours.info, own.info, print)[line % 3](f"{number}:{line}")


def numbered_lines(runner: TaskRunner, own_store: Path, handler: Handler) -> None:
    with alone(handler):
        flow(name="counts", task_runner=runner)(lambda: count.map(range(TASKS), LINES).result())()
    lines = recorded(own_store)
    assert len(lines) == TASKS + 1
    for number in range(TASKS):
        of_task = lines[f"count-0[{number}]"]
        assert [line.message for line in of_task] == [f"{number}:{line}" for line in range(LINES)]
        assert [line.logger for line in of_task[:3]] == ["penstock.task_runs", "of_a_program", "penstock.task_runs"]
    heard: dict[str, list[str]] = {}
    for record in handler.records[1:-1]:
        heard.setdefault(record.getMessage().partition(":")[0], []).append(record.getMessage())
    assert heard == {str(n): [f"{n}:{line}" for line in range(LINES)] for n in range(TASKS)}


class Broken:
    def __str__(self) -> str:
        raise ValueError("no text")


@task(log_prints=True)
def odd() -> None:
    own = logging.getLogger("of_a_program")
    own.info("two\nlines")
    own.info("n\0l")
    own.info("half \ud800 of a pair")
    own.info("x" * 10_000_000)
    own.info(Broken())
    own.info("%d", "no number")
    try:
        {}["key"]
    except KeyError:
        own.exception("was not there")
    own.info("with the stack", stack_info=True)
    print("ends with a newline\n", end="")
    print("in", "parts", sep="-")


def any_text_is_recorded_in_full(runner: TaskRunner, own_store: Path, handler: Handler) -> None:
    with alone(handler):
        flow(name="odd", task_runner=runner)(lambda: odd.submit().result())()
    two, nul, half, long, broken, wrong, missing, stack, newline, parts = said(own_store, "odd-0")
    assert two == "two\nlines"
    assert nul in ("n\0l", r"n\x00l")  # beside what SQLite refuses it is made readable, too
    assert half == r"half \ud800 of a pair"
    assert long == "x" * 10_000_000
    assert "Broken> (cannot be formatted: ValueError: no text, in " in broken and __file__ in broken
    assert wrong.startswith("%d (cannot be formatted: TypeError: ")
    assert missing.startswith("was not there\nTraceback (most recent call last):\n")
    assert missing.endswith("\nKeyError: 'key'") and __file__ in missing
    assert stack.startswith("with the stack\nStack (most recent call last):\n") and __file__ in stack
    assert (newline, parts) == ("ends with a newline", "in-parts")


@task
def starts_threads() -> list[str]:
    failures = []

    def talk() -> None:
        try:
            get_run_logger().info("asked for the logger")
            logging.getLogger("of_a_program").info("knows of no run")
        except Exception as error:
            failures.append(repr(error))

    def carried() -> None:
        logging.getLogger("of_a_program").info("carried along")

    for work in (talk, with_context(carried)):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    return failures


def threads_of_the_bodys_own(runner: TaskRunner, own_store: Path, handler: Handler) -> None:
    """`with_context` takes the run along. Without it, a run logger is there all the same: that of the only run."""
    assert flow(name="threads", task_runner=runner)(lambda: starts_threads.submit().result())() == []
    lines = [line.message for of_run in recorded(own_store).values() for line in of_run]
    assert said(own_store, "starts_threads-0")[-1] == "carried along"
    assert lines.count("asked for the logger") == 1 and "knows of no run" not in lines


def two_attempts(runner: TaskRunner, own_store: Path, handler: Handler) -> None:
    @task(retries=1)
    def again(mark: str) -> None:
        logging.getLogger("of_a_program").info("said")
        if not Path(mark).exists():
            Path(mark).touch()
            raise ValueError

    flow(name="retries", task_runner=runner)(lambda: again.submit(str(own_store.parent / "mark")).result())()
    assert said(own_store, "again-0") == ["said", "said"]


def where_a_line_comes_from(runner: TaskRunner, own_store: Path, handler: Handler) -> None:
    """Not a place in the library."""
    with alone(handler):
        flow(name="counts", task_runner=runner)(lambda: count.submit(0, 3).result())()
    places: set[Any] = {(record.filename, record.funcName) for record in handler.records[1:-1]}
    assert places == {(Path(__file__).name, "count")}


# --- on every runner --------------------------------------------------------------------------------------------------

Check = Callable[[TaskRunner, Path, Handler], None]
RUNNERS: dict[str, Callable[[], TaskRunner]] = {
    "sequential": SequentialTaskRunner,
    "threads": lambda: ThreadPoolTaskRunner(max_workers=8),
    "processes": lambda: ProcessPoolTaskRunner(max_workers=2),
}
checks = pytest.mark.parametrize(
    "check",
    [numbered_lines, any_text_is_recorded_in_full, threads_of_the_bodys_own, two_attempts, where_a_line_comes_from],
    ids=lambda check: check.__name__,
)


@checks
@pytest.mark.parametrize("name", RUNNERS)
def test_on_this_machine(check: Check, name: str, own_store: Path, handler: Handler) -> None:
    check(RUNNERS[name](), own_store, handler)


@checks
def test_on_dask(check: Check, dask_address: str, own_store: Path, handler: Handler) -> None:
    check(DaskTaskRunner(address=dask_address), own_store, handler)


@checks
def test_on_ray(check: Check, running_ray: None, own_store: Path, handler: Handler) -> None:
    check(RayTaskRunner(), own_store, handler)
