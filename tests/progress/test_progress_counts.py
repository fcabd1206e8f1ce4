"""What is counted of the runs below a flow run, what its last line says of them, and lines of the log meanwhile."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from penstock import allow_failure, flow, task
from penstock._engine import counting
from penstock._engine.context import current_run
from penstock.cache_policies import INPUTS
from penstock.progress import following
from penstock.settings import temporary_settings
from penstock.task_runners import SequentialTaskRunner, ThreadPoolTaskRunner


class Lines(logging.Handler):
    """The lines of the library's loggers, and a bell for each."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []
        self.bell = threading.Condition()

    def emit(self, record: logging.LogRecord) -> None:
        with self.bell:
            self.said.append(record.getMessage())
            self.bell.notify_all()

    def wait_for(self, pattern: str) -> str:
        found: list[str] = []
        with self.bell:
            assert self.bell.wait_for(lambda: found.extend(re.findall(pattern, "\n".join(self.said))) or found, 20), (
                self.said
            )
        return found[0]


@pytest.fixture
def lines() -> Iterator[Lines]:
    handler = Lines()
    logging.getLogger("penstock").addHandler(handler)
    yield handler
    logging.getLogger("penstock").removeHandler(handler)


def last_line(lines: Lines, body: Callable[[], Any], **options: Any) -> str:
    """What is said at the end about a flow with this body: its state, and what has been counted."""
    flow(name="main", flow_run_name="it", task_runner=ThreadPoolTaskRunner(4), **options)(body)(return_state=True)
    match = re.fullmatch(r"main/it (.+) in (?:\d+ ms|[\d.]+ s)( · .+)?", lines.said[-1])
    assert match, lines.said
    return match[1] + (match[2] or "")


@task
def fine(x: Any = None) -> Any:
    return x


@task
def bad(x: Any = None) -> None:
    raise ValueError(x)


# --- the last line ----------------------------------------------------------------------------------------------------


def test_plain(lines: Lines) -> None:
    assert last_line(lines, lambda: None) == "COMPLETED"
    assert last_line(lines, lambda: fine()) == "COMPLETED · 1 task run"
    assert last_line(lines, lambda: fine.map(range(1_200)).result()) == "COMPLETED · 1,200 task runs"


def test_a_failure_is_handled_only_if_the_flow_completed(lines: Lines) -> None:
    def looks() -> None:
        assert bad.submit().exception()

    assert last_line(lines, looks) == "COMPLETED · 1 task run (1 failed and handled)"
    assert last_line(lines, lambda: bad()) == "FAILED · 1 task run (1 failed)"
    assert last_line(lines, lambda: [bad.submit(), None][1]) == "FAILED · 1 task run (1 failed)"


def test_a_failure_that_is_forgiven_is_not_handled(lines: Lines) -> None:
    def body(looked: bool) -> Callable[[], None]:
        def run() -> None:
            future = bad.submit()
            future.wait()
            if looked:
                future.exception()

        return run

    forgives = {"on_unobserved_failure": "warn"}
    assert last_line(lines, body(False), **forgives) == "COMPLETED · 1 task run (1 failed)"
    assert last_line(lines, body(True), **forgives) == "COMPLETED · 1 task run (1 failed and handled)"


def test_cached_retried_blocked_cancelled(lines: Lines) -> None:
    attempts, go_on = [], threading.Event()

    @task
    def waits() -> None:
        go_on.wait(20)

    @task(retries=2)
    def second_time() -> None:
        attempts.append(1)
        if len(attempts) == 1:
            raise ValueError

    @task(cache_policy=INPUTS)
    def remembered(x: int) -> int:
        return x

    def body() -> None:
        second_time()
        remembered(1)
        remembered(1)
        failed = bad.submit()
        blocked = fine.submit(failed)
        assert blocked.exception() and fine.submit(allow_failure(failed)).result()
        late = fine.submit(1, wait_for=[waits.submit()])
        late.cancel()
        go_on.set()

    assert last_line(lines, body) == (
        "COMPLETED · 8 task runs (1 failed and handled, 1 blocked, 1 cancelled, 1 cached, 1 retried)"
    )


def test_what_failed_in_an_earlier_attempt_of_the_flow(lines: Lines) -> None:
    attempts = []

    def body() -> None:
        attempts.append(1)
        if len(attempts) == 1:
            bad()
        bad.submit().exception()

    assert last_line(lines, body, retries=1) == (
        "COMPLETED · 2 task runs (1 failed and handled, 1 failed in an earlier attempt)"
    )


def test_subflows_are_part_of_the_whole(lines: Lines) -> None:
    @flow(on_unobserved_failure="warn")
    def inner(n: int) -> None:
        fine.map(range(n)).result()
        bad.submit().wait()

    @flow
    def fails() -> None:
        bad()

    def body() -> None:
        inner(2)
        inner(3)
        fails(return_state=True)

    assert last_line(lines, body) == "COMPLETED · 8 task runs (3 failed), 3 subflow runs (1 failed)"


def test_a_flow_that_times_out(lines: Lines) -> None:
    def body() -> None:
        while True:
            time.sleep(0.001)

    assert last_line(lines, body, timeout_seconds=0.05) == "FAILED (TimedOut)"


def test_one_start_and_one_end_line_per_flow_run(lines: Lines) -> None:
    @flow(flow_run_name="in")
    def inner() -> None:
        fine.map(range(3)).result()

    last_line(lines, inner)
    said = [re.sub(r" in \d+ ms", "", line) for line in lines.said]
    assert said == [
        "main/it started",
        "inner/in started",
        "inner/in COMPLETED · 3 task runs",
        "main/it COMPLETED · 3 task runs, 1 subflow run",
    ]


def test_housekeeping_is_told_at_debug(lines: Lines) -> None:
    attempts = []

    @task(retries=1)
    def second_time() -> None:
        attempts.append(1)
        if len(attempts) == 1:
            raise ValueError("not yet")

    def body() -> None:
        second_time()
        fine.map([1]).result()

    with temporary_settings({"logging_level": "DEBUG"}):
        last_line(lines, body)
    assert [re.sub(r" in \d+ ms", "", line) for line in lines.said] == [
        "main/it started",
        "main/it · second_time-0 attempt 1 of 2 failed with ValueError: not yet",
        "main/it · second_time-0 COMPLETED",
        "fine mapped over 1 items",
        "main/it · fine-0[0] COMPLETED",
        "main/it COMPLETED · 2 task runs (1 retried)",
    ]


# --- while it goes on -------------------------------------------------------------------------------------------------


def now() -> list[tuple[tuple[str, ...], str, dict[str, int]]]:
    run = current_run.get()
    assert run is not None
    while run.parent is not None:
        run = run.parent
    return [(group.path, group.name, group.numbers) for group in counting.groups(run, living=True)]


def test_counts_of_what_goes_on() -> None:
    go_on, entered = threading.Event(), threading.Barrier(3)

    @task
    def wait(x: int) -> None:
        if x < 2:
            entered.wait(20)
            go_on.wait(20)

    @task
    def parent() -> list[Any]:
        return [child(), now()][1]

    @task
    def child() -> None: ...

    @flow
    def inner() -> Any:
        return parent()

    @flow(task_runner=ThreadPoolTaskRunner(2))
    def main() -> None:
        futures = wait.map(range(5))
        entered.wait(20)
        assert now() == [((), "wait", {"running": 2, "pending": 3})]
        assert inner() == [
            ((), "wait", {"running": 2, "pending": 3}),
            ((), "inner", {"running": 1}),
            (("inner",), "child", {"completed": 1}),
            (("inner",), "parent", {"running": 1}),
        ]
        assert now()[1:] == [
            ((), "inner", {"completed": 1}),
            (("inner",), "child", {"completed": 1}),
            (("inner",), "parent", {"completed": 1}),
        ]
        go_on.set()
        futures.wait()
        assert now()[0] == ((), "wait", {"completed": 5})

    main()


def test_runs_between_attempts_and_later_attempts() -> None:
    seen: list[Any] = []
    attempts: list[int] = []

    @task(retries=1)
    def again() -> None:
        attempts.append(1)
        seen.append(now())
        if len(attempts) == 1:
            raise ValueError

    flow(task_runner=SequentialTaskRunner())(lambda: again())()
    assert seen == [[((), "again", {"running": 1})], [((), "again", {"running": 1, "retried": 1})]]


def test_a_flow_that_calls_itself_is_told_apart_up_to_a_depth() -> None:
    @flow
    def down(n: int) -> None:
        if n:
            down(n - 1)
        fine()

    found: list[Any] = []

    @flow
    def main() -> None:
        down(30)
        found.extend(now())

    main()
    assert max(len(path) for path, _, _ in found) == counting._DEEPEST + 1
    assert sum(sum(numbers.values()) for _, name, numbers in found if name == "fine") == 31


# --- lines of the log -------------------------------------------------------------------------------------------------


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(following, "_PAUSE", 0.005)
    monkeypatch.setattr(following, "_REST", 0)
    monkeypatch.setattr(following, "_SOON", 0.0)
    with temporary_settings({"progress": "on"}):
        yield
    following.stop()


def test_a_line_when_something_fails_and_when_a_task_is_done_with(lines: Lines, hurried: None) -> None:
    @task
    def work(x: int) -> None:
        if x == 1:
            raise ValueError
        if x == 2:
            lines.wait_for(r"main/it after .+: work 2/5 \(1 running, 1 failed\)")

    @task
    def other(x: Any) -> None:
        lines.wait_for(r": work 5/5 \(1 failed\); other 0/1 \(1 running\)$")

    @flow(flow_run_name="it", task_runner=ThreadPoolTaskRunner(1))
    def main() -> None:
        futures = work.map(range(5))
        futures.wait()
        other(1)
        futures[1].exception()

    main()
    assert len([line for line in lines.said if "after" in line]) == 2


def test_a_line_when_nothing_has_changed_for_long(lines: Lines, hurried: None) -> None:
    @flow(flow_run_name="it")
    def main() -> None:
        lines.wait_for(r"main/it after .+: nothing has begun")

    with temporary_settings({"progress_interval_seconds": 0.01}):
        main()


@pytest.mark.parametrize(
    ("mode", "age", "silence", "looks"),
    [
        ("auto", 5, 5, False),
        ("auto", 10, 10, True),
        ("auto", 15, 5, True),
        ("auto", 15, 0.5, False),
        ("on", 5, 5, True),
    ],
)
def test_unless_asked_for_the_first_line_comes_after_an_interval(
    monkeypatch: pytest.MonkeyPatch, mode: str, age: float, silence: float, looks: bool
) -> None:
    now, looked_at = time.monotonic(), list[Any]()
    settings = SimpleNamespace(progress=mode, progress_interval_seconds=10)
    watched: Any = SimpleNamespace(
        began=now - age, said_at=now - silence, root=SimpleNamespace(engine=SimpleNamespace(settings=settings))
    )
    monkeypatch.setattr(following.LogLines, "_look_at", lambda self, one, is_time: looked_at.append(one))
    following.LogLines().look([watched])
    assert (looked_at == [watched]) is looks


def test_off_means_off(lines: Lines, hurried: None) -> None:
    with temporary_settings({"progress": "off"}):
        flow(lambda: None)()
        assert following._log_lines._thread is None


def test_its_troubles_are_not_those_of_the_flow(lines: Lines, hurried: None, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = threading.Event()

    def fail(*_: object) -> None:
        tried.set()
        raise RuntimeError("cannot be shown")

    for name in ("look", "end"):
        monkeypatch.setattr(following.LogLines, name, fail)
    assert flow(lambda: tried.wait(20))() is True


def test_the_thread_ends_when_there_is_nothing_to_see(hurried: None) -> None:
    follower = following._log_lines
    for _ in range(2):
        thread = flow(lambda: follower._thread)()
        assert thread is not None
        thread.join(20)
        assert not thread.is_alive() and follower._thread is None


def test_a_run_that_the_engine_has_failed_with_is_forgotten(hurried: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock._engine.engine.Engine.close", lambda self: 1 / 0)
    flow(lambda: None)(return_state=True)
    thread = following._log_lines._thread
    assert thread is not None
    thread.join(20)
    assert not thread.is_alive() and not following._log_lines._watched


def test_a_process_without_room_for_a_thread(hurried: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: threading.Thread) -> None:
        if self.name == "penstock-progress":
            raise RuntimeError("can't start new thread")
        start(self)

    start = threading.Thread.start
    monkeypatch.setattr(threading.Thread, "start", fail)
    assert flow(lambda: 7)() == 7
