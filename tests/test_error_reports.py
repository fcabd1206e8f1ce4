"""What somebody sees whose flow has failed: their own lines, which run it was, where, and how many more."""

from __future__ import annotations

import asyncio
import gc
import os
import pdb
import subprocess
import sys
import textwrap
import threading
import time
import traceback
import weakref
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from penstock import Future, flow, get_run_logger, task
from penstock._core import tracebacks
from penstock._core.errors import add_note, brief
from penstock.exceptions import (
    CrashedRun,
    InternalError,
    ParameterBindError,
    SerializationError,
    TaskRunTimeoutError,
    UpstreamTaskError,
    WorkerLost,
)
from penstock.store.sqlite import SQLiteStore
from penstock.task_runners import ProcessPoolTaskRunner, SequentialTaskRunner, ThreadPoolTaskRunner
from penstock.testing import temporary_settings

RUNNERS: dict[str, Callable[[], Any]] = {
    "threads": ThreadPoolTaskRunner,
    "sequential": SequentialTaskRunner,
    "processes": lambda: ProcessPoolTaskRunner(1),
}
HERE = Path(__file__).name


def inner(n: int) -> int:
    if n % 3 == 2:
        raise ValueError(f"bad {n}")
    return n


@task
def load(n: int) -> int:
    return inner(n)


@task
async def load_async(n: int) -> int:
    await asyncio.sleep(0)
    return inner(n)


@task
def use(n: int) -> int:
    return n


def line_of(code: str) -> str:
    """Where in this file the line is that consists of `code`."""
    (number,) = (n for n, line in enumerate(Path(__file__).read_text().splitlines(), 1) if line.strip() == code)
    return f"{HERE}:{number}"


RAISES = line_of('raise ValueError(f"bad {n}")')


def failing(body: Callable[..., Any], runner: Any = None, **options: Any) -> BaseException:
    """The exception that leaves a flow with that body."""
    subject = flow(name="etl", task_runner=runner, **options)(body)
    with pytest.raises(BaseException) as caught:
        asyncio.run(subject()) if asyncio.iscoroutinefunction(body) else subject()
    return caught.value


def functions(error: BaseException, trace: TracebackType | None = None) -> list[str]:
    """The functions that the traceback leads through, from the flow's body on."""
    names = [frame.name for frame in traceback.extract_tb(trace or error.__traceback__)]
    return names[names.index("failing") + 1 :] if "failing" in names else names


def shown(error: BaseException) -> str:
    """What Python prints about it, without lines of carets."""
    lines = "".join(traceback.format_exception(error)).splitlines()
    return "\n".join(line for line in lines if not set(line) <= set(" ^~"))


def is_free_of_ours(error: BaseException) -> bool:
    return all(not tracebacks.is_ours(line.split('"')[1]) for line in shown(error).splitlines() if 'File "' in line)


# --- frames -----------------------------------------------------------------------------------------------------


def called_directly() -> None:
    load(2)


def submitted() -> None:
    load.submit(2).result()


def mapped() -> None:
    load.map([2]).result()


def in_a_subflow() -> None:
    @flow
    def sub() -> None:
        load(2)

    sub()


def in_a_submitted_subflow() -> None:
    @flow
    def sub() -> None:
        load.submit(2).result()

    sub.submit().result()


def in_a_task() -> None:
    @task
    def around() -> None:
        load(2)

    around.submit().result()


def of_an_asynchronous_task() -> None:
    load_async.submit(2).result()


def of_a_generator() -> None:
    @task
    def generate() -> Any:
        yield 1
        inner(2)

    list(generate())


def from_the_state() -> None:
    load.submit(2, return_state=True).result()


async def awaited() -> None:
    await load_async(2)


async def submitted_and_awaited() -> None:
    await load.submit(2)


async def mapped_and_awaited() -> None:
    await load.map([2])


async def in_an_asynchronous_subflow() -> None:
    @flow
    async def sub() -> None:
        await load_async(2)

    await sub()


LEADS_THROUGH: dict[Callable[..., Any], list[str]] = {
    called_directly: ["called_directly", "load", "inner"],
    submitted: ["submitted", "load", "inner"],
    mapped: ["mapped", "load", "inner"],
    in_a_subflow: ["in_a_subflow", "sub", "load", "inner"],
    in_a_submitted_subflow: ["in_a_submitted_subflow", "sub", "load", "inner"],
    in_a_task: ["in_a_task", "around", "load", "inner"],
    of_an_asynchronous_task: ["of_an_asynchronous_task", "load_async", "inner"],
    of_a_generator: ["of_a_generator", "generate", "inner"],
    from_the_state: ["from_the_state", "load", "inner"],
    awaited: ["run", "run", "run_until_complete", "awaited", "load_async", "inner"],
    submitted_and_awaited: ["run", "run", "run_until_complete", "submitted_and_awaited", "load", "inner"],
    mapped_and_awaited: ["run", "run", "run_until_complete", "mapped_and_awaited", "load", "inner"],
    in_an_asynchronous_subflow: [
        *("run", "run", "run_until_complete"),
        *("in_an_asynchronous_subflow", "sub", "load_async", "inner"),
    ],
}


@pytest.mark.parametrize("body", LEADS_THROUGH, ids=lambda body: body.__name__)
class TestFrames:
    @pytest.mark.parametrize("runner", ["threads", "sequential"])
    def test_only_the_users(self, body: Callable[..., Any], runner: str) -> None:
        error = failing(body, RUNNERS[runner]())
        assert functions(error) == LEADS_THROUGH[body]
        assert str(error) == "bad 2"

    def test_all_on_request(self, body: Callable[..., Any]) -> None:
        with temporary_settings({"traceback": "full"}):
            error = failing(body)
        assert [name for name in functions(error) if name in LEADS_THROUGH[body]] == LEADS_THROUGH[body]
        assert "outcome" in functions(error)
        assert not is_free_of_ours(error)

    def test_inside_the_flow_as_well(self, body: Callable[..., Any]) -> None:
        """Whoever catches it there, or logs it, sees the same."""
        seen: list[list[str]] = []

        def around() -> None:
            try:
                body()
            except ValueError as error:
                seen.append([frame.name for frame in traceback.extract_tb(error.__traceback__)])

        async def around_async() -> None:
            try:
                await body()
            except ValueError as error:
                seen.append([frame.name for frame in traceback.extract_tb(error.__traceback__)])

        if asyncio.iscoroutinefunction(body):
            asyncio.run(flow(around_async)())
            assert seen == [["around_async", *LEADS_THROUGH[body][3:]]]
        else:
            flow(around)()
            assert seen == [["around", *LEADS_THROUGH[body]]]


@pytest.mark.parametrize("runner", RUNNERS)
class TestOnEachRunner:
    def test_the_line_that_failed_is_shown(self, runner: str) -> None:
        error = failing(submitted, RUNNERS[runner]())
        assert is_free_of_ours(error)
        assert 'raise ValueError(f"bad {n}")' in shown(error)
        assert "load.submit(2).result()" in shown(error)

    def test_frames_between_calls_are_hidden_there_too(self, runner: str) -> None:
        error = failing(in_a_task, RUNNERS[runner]())
        assert is_free_of_ours(error)
        assert "in around" in shown(error)

    def test_a_blocked_run_tells_what_failed_and_where(self, runner: str) -> None:
        error = failing(lambda: use.submit(use.submit(load.submit(2))).result(), RUNNERS[runner]())
        assert isinstance(error, UpstreamTaskError)
        text = f"Task run 'use-1' did not run: upstream 'load-0' failed with ValueError: bad 2 ({RAISES})"
        assert str(error) == text
        assert is_free_of_ours(error)
        assert "direct cause of the following exception" in shown(error)

    def test_a_map_tells_the_first_failures_and_how_many(self, runner: str) -> None:
        def body() -> None:
            futures = load.map(range(14))
            futures.wait()
            futures.result()

        note = failing(body, RUNNERS[runner]()).__notes__[-1].splitlines()
        assert note[1:] == [
            "4 of 14 runs of 'load' failed:",
            *(f"  load-0[{n}]: ValueError: bad {n} at {RAISES}" for n in (2, 5, 8)),
            "  and 1 more",
        ]
        assert note[0].startswith("raised in task run 'load-0[")

    def test_a_map_that_fails_alike_says_it_once(self, runner: str) -> None:
        def body() -> None:
            futures = load.map([2, 2, 2, 2, 3])
            futures.wait()
            futures.result()

        note = failing(body, RUNNERS[runner]()).__notes__[-1].splitlines()
        assert note[1:] == ["4 of 5 runs of 'load' failed alike: load-0[0], load-0[1], load-0[2] and 1 more"]

    def test_a_map_that_nobody_looked_at(self, runner: str) -> None:
        error = failing(lambda: load.map(range(8)).wait(), RUNNERS[runner]())
        assert isinstance(error, ExceptionGroup)
        assert error.message == (
            "2 of 8 runs of 'load' failed and nobody looked at them: "
            f"load-0[2] (ValueError: bad 2) at {RAISES}, load-0[5] (ValueError: bad 5) at {RAISES}"
        )
        assert is_free_of_ours(error)

    def test_a_run_that_was_retried(self, runner: str) -> None:
        error = failing(lambda: load.with_options(retries=2).submit(2).result(), RUNNERS[runner]())
        assert error.__notes__[-1] == "raised in task run 'load-0', attempt 3"
        assert len(error.__notes__) == len(set(error.__notes__))

    def test_what_blocks_a_map(self, runner: str) -> None:
        def body() -> None:
            loaded = load.map([1, 2, 5])
            loaded.wait()
            use.map(loaded).result()

        error = failing(body, RUNNERS[runner]())
        assert isinstance(error, UpstreamTaskError)
        assert error.__notes__[-1].splitlines()[0] == "2 of 3 runs of 'load' failed:"

    def test_the_record_shows_what_was_printed(self, runner: str, own_store: Path) -> None:
        failing(in_a_task, RUNNERS[runner]())
        store = SQLiteStore(own_store)
        try:
            (root,) = store.runs(limit=2)
            texts = [row.traceback or "" for row in (root, *store.tree(root.id))]
        finally:
            store.close()
        assert len(texts) == 3
        for text in texts:
            assert "in inner" in text
            assert "invocation.py" not in text


def test_errors_that_the_library_raises_show_the_line_that_is_wrong() -> None:
    error = failing(lambda: load.submit(1, 2))
    assert isinstance(error, ParameterBindError)
    assert functions(error) == ["<lambda>"]
    with pytest.raises(ParameterBindError) as caught:
        flow(lambda: None)(1)
    assert [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)] == [
        "test_errors_that_the_library_raises_show_the_line_that_is_wrong"
    ]


def test_waiting_too_long_shows_the_line_that_waits() -> None:
    gate = threading.Event()

    @task
    def slow() -> None:
        gate.wait(5)

    def body() -> None:
        future = slow.submit()
        try:
            future.result(timeout=0)
        finally:
            gate.set()

    error = failing(body)
    assert isinstance(error, TimeoutError)
    assert functions(error) == ["body"]


@pytest.mark.parametrize("is_async", [False, True])
def test_a_timeout_shows_where_the_body_was(is_async: bool) -> None:
    @task(timeout_seconds=0.05)
    def slow() -> None:
        while True:
            time.sleep(0.001)

    @task(timeout_seconds=0.05)
    async def slow_async() -> None:
        await asyncio.sleep(60)

    subject = slow_async if is_async else slow
    error = failing(lambda: subject.submit().result())
    assert isinstance(error, TaskRunTimeoutError)
    assert functions(error)[:2] == ["<lambda>", subject.name]
    assert is_free_of_ours(error)


def test_a_worker_that_died_names_the_run() -> None:
    @task
    def die() -> None:
        os._exit(3)

    error = failing(lambda: die.submit().result(), ProcessPoolTaskRunner(1))
    assert isinstance(error, WorkerLost)
    assert functions(error) == ["<lambda>"]
    assert error.__notes__ == ["raised in task run 'die-0'"]


def test_system_exit_of_a_task_shows_its_line() -> None:
    @task
    def leave() -> None:
        sys.exit(3)

    error = failing(lambda: leave.submit().result())
    assert isinstance(error, CrashedRun)
    assert is_free_of_ours(error)
    assert "sys.exit(3)" in shown(error)


def test_what_cannot_be_pickled_is_named_without_pickles_own_words() -> None:
    error = failing(lambda: use.submit(threading.Lock()).result(), ProcessPoolTaskRunner(1))  # type: ignore[arg-type]
    assert isinstance(error, SerializationError)
    assert functions(error) == ["<lambda>"]
    assert shown(error).count("Traceback") == 1


def test_code_of_the_users_that_cannot_be_pickled_is_shown() -> None:
    class Stubborn:
        def __reduce__(self) -> Any:
            raise RuntimeError("not me")

    error = failing(lambda: use.submit(Stubborn()).result(), ProcessPoolTaskRunner(1))  # type: ignore[arg-type]
    assert isinstance(error, SerializationError)
    assert "in __reduce__" in shown(error)
    assert is_free_of_ours(error) or "cloudpickle" in shown(error)


def test_causes_contexts_and_groups_are_cleaned_as_well() -> None:
    @task
    def chained() -> None:
        try:
            load(2)
        except ValueError as error:
            raise RuntimeError("cannot go on") from error

    async def body() -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(load_async(2))
                group.create_task(load_async(5))
        except ExceptionGroup:
            chained()

    error = failing(body)
    assert is_free_of_ours(error)
    assert isinstance(error.__context__, ExceptionGroup)
    (first, second) = error.__context__.exceptions
    assert functions(first) == functions(second) == ["load_async", "inner"]
    assert functions(error.__cause__) == ["chained", "load", "inner"]  # type: ignore[arg-type]


# --- the root run -----------------------------------------------------------------------------------------------


def test_a_task_outside_any_flow() -> None:
    with pytest.raises(ValueError) as caught:
        load(2)
    names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert names == ["test_a_task_outside_any_flow", "load", "inner"]


def test_the_state_of_a_flow_can_be_asked_again_and_again() -> None:
    state = flow(called_directly)(return_state=True)
    found = []
    for _ in range(3):
        with pytest.raises(ValueError) as caught:
            state.result()
        found.append([frame.name for frame in traceback.extract_tb(caught.value.__traceback__)])
    here = "test_the_state_of_a_flow_can_be_asked_again_and_again"
    assert found == [[here, "called_directly", "load", "inner"]] * 3


def test_a_future_that_outlives_its_flow() -> None:
    futures: list[Future[int]] = []
    assert failing(lambda: futures.append(load.submit(2)) or futures[0].wait()).args == ("bad 2",)
    with pytest.raises(ValueError) as caught:
        futures[0].result()
    names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert names == ["test_a_future_that_outlives_its_flow", "load", "inner"]


def test_post_mortem_debugging_begins_in_the_body() -> None:
    error = failing(submitted)
    out = StringIO()
    debugger = pdb.Pdb(stdin=StringIO("p n\nup\np 'outer'\nq\n"), stdout=out, readrc=False, nosigint=True)
    debugger.reset()
    debugger.interaction(None, error.__traceback__)
    assert "inner()" in out.getvalue().splitlines()[0]
    assert "(Pdb) 2" in out.getvalue()
    assert "load()" in out.getvalue()


def test_nothing_is_kept_alive() -> None:
    class Thing:
        pass

    things: list[weakref.ref[Thing]] = []

    def hold() -> None:
        thing = Thing()
        things.append(weakref.ref(thing))
        raise ValueError("held")

    def body() -> None:
        subject = task(hold)
        try:
            subject()
        except ValueError:
            subject.submit().exception()

    flow(body)()
    gc.collect()
    assert [thing() for thing in things] == [None, None]


def test_the_exception_stays_the_same_object() -> None:
    own = ValueError("own")

    def body() -> None:
        raise own

    assert failing(body) is own


# --- the parts --------------------------------------------------------------------------------------------------


def caught(function: Callable[[], Any]) -> BaseException:
    try:
        function()
    except BaseException as error:
        return error
    raise AssertionError("it did not raise")


def from_the_library(source: str) -> Callable[[], Any]:
    """A function that looks as if it were one of the library's."""
    space: dict[str, Any] = {"inner": inner}
    exec(compile(source, tracebacks.__file__, "exec"), space)
    function: Callable[[], Any] = space["function"]
    return function


def test_a_defect_of_the_library_keeps_its_frames() -> None:
    for kind in ("AttributeError", "AssertionError", "KeyError", "IndexError", "NameError"):
        error = caught(from_the_library(f"def function(): raise {kind}('x')"))
        tracebacks.hide(error)
        assert functions(error) == ["caught", "function"], kind
    error = InternalError("x")
    error.__traceback__ = caught(from_the_library("def function(): inner(2)")).__traceback__
    tracebacks.hide(error)
    assert functions(error) == ["caught", "function", "inner"]


def test_an_error_of_the_users_code_loses_the_frames_above_it() -> None:
    error = caught(from_the_library("def function(): inner(2)"))
    tracebacks.hide(error)
    assert functions(error) == ["caught", "inner"]
    error = caught(from_the_library("def function(): raise TypeError('x')"))
    tracebacks.hide(error)
    assert functions(error) == ["caught"]


def test_what_has_no_frames_of_ours_is_left_as_it_is() -> None:
    error = caught(lambda: inner(2))
    trace = error.__traceback__
    tracebacks.hide(error)
    assert error.__traceback__ is trace


def test_exceptions_that_refer_to_each_other_end() -> None:
    first, second = caught(from_the_library("def function(): inner(2)")), ValueError("second")
    first.__context__, second.__context__ = second, first
    tracebacks.hide(first)
    assert functions(first) == ["caught", "inner"]


def test_an_exception_that_takes_no_attributes() -> None:
    class Hard(ValueError):
        def __setattr__(self, name: str, value: Any) -> None:
            raise TypeError(name)

    @task
    def hard(n: int) -> None:
        raise Hard("x")

    error = failing(lambda: hard.map([1, 2]).result())
    assert functions(error) == ["<lambda>", "hard"]
    assert not hasattr(error, "__notes__")


def test_places() -> None:
    error = caught(lambda: inner(2))
    assert tracebacks.place(error, error.__traceback__) == RAISES
    assert tracebacks.place(ValueError("never raised"), None) is None
    # Where an installed library raised, the line that called it is of more use.
    error = caught(lambda: textwrap.indent(3, ""))  # type: ignore[arg-type]
    assert tracebacks.place(error, error.__traceback__) == line_of(
        'error = caught(lambda: textwrap.indent(3, ""))  # type: ignore[arg-type]'
    )
    error = ValueError("far away")
    error.add_note('In the worker process:\nTraceback:\n  File "/far/away/etl.py", line 12, in load\n    x\n')
    assert tracebacks.place(error, None) == "etl.py:12"


def test_a_note_is_made_once() -> None:
    error = ValueError("x")
    for _ in range(3):
        add_note(error, "once")
    assert error.__notes__ == ["once"]


def test_long_texts_are_cut_in_lists() -> None:
    assert brief(ValueError("a\n  b")) == "ValueError: a b"
    assert len(brief(ValueError("x" * 10_000))) == 200


def test_lines_of_loggers_are_cleaned(own_store: Path) -> None:
    def body() -> None:
        try:
            load.submit(2).result()
        except ValueError:
            get_run_logger().exception("it failed")

    flow(body)()
    store = SQLiteStore(own_store)
    try:
        (root,) = store.runs(limit=1)
        text = "".join(row.message for row in store.logs(root.id))
    finally:
        store.close()
    assert "in inner" in text
    assert "penstock/futures.py" not in text


# --- as a script ------------------------------------------------------------------------------------------------

SCRIPT = """
    from penstock import flow, task

    @task
    def load(n):
        if n % 40 == 4:
            raise ValueError(f"no data for {n}")
        return n

    @flow(flow_run_name="brave-otter")
    def etl():
        loaded = load.map(range(100))
        loaded.wait()
        return sum(loaded.result())

    if __name__ == "__main__":
        etl()
"""


def printed(script: str, directory: Path, **environment: str) -> list[str]:
    path = directory / "etl.py"
    path.write_text(textwrap.dedent(script).lstrip())
    everything = {**os.environ, "PENSTOCK_LOGGING_LEVEL": "ERROR", "PENSTOCK_PROGRESS": "off", **environment}
    command = [sys.executable, str(path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, env=everything)
    assert (ended.returncode, ended.stdout) == (1, "")
    return [line for line in ended.stderr.replace(str(path), "etl.py").splitlines() if set(line) - set(" ^~")]


def test_a_script_shows_its_own_lines_and_the_failures(tmp_path: Path) -> None:
    lines = printed(SCRIPT, tmp_path)
    assert lines[:-1] == [
        "Traceback (most recent call last):",
        '  File "etl.py", line 16, in <module>',
        "    etl()",
        '  File "etl.py", line 13, in etl',
        "    return sum(loaded.result())",
        '  File "etl.py", line 6, in load',
        '    raise ValueError(f"no data for {n}")',
        "ValueError: no data for 4",
        "raised in task run 'load-0[4]'",
        "3 of 100 runs of 'load' failed:",
        "  load-0[4]: ValueError: no data for 4 at etl.py:6",
        "  load-0[44]: ValueError: no data for 44 at etl.py:6",
    ]
    assert lines[-1] == "  load-0[84]: ValueError: no data for 84 at etl.py:6"


def test_a_script_shows_everything_on_request(tmp_path: Path) -> None:
    text = "\n".join(printed(SCRIPT, tmp_path, PENSTOCK_TRACEBACK="full"))
    assert "invocation.py" in text
    assert "raised in task run 'load-0[4]'" in text
