"""Ctrl-C and SIGTERM, as a program gets them: what ends, in which state, with which exit code, and how soon."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock.store.base import RunRow
from penstock.store.sqlite import SQLiteReader

SIGINT, SIGTERM = signal.SIGINT, signal.SIGTERM
BOTH = [SIGINT, SIGTERM]
# Code that every script begins with. `ready()` tells the test that the moment has come.
PRELUDE = """
import asyncio, os, signal, sys, threading, time
from penstock import FutureList, as_completed, flow, get_run_logger, task, wait
from penstock.concurrency import concurrency
from penstock.exceptions import *
from penstock.task_runners import *

def ready(): print("ready", flush=True)
def say(*words): print(*words, flush=True)
def hook(owner, run, state): say("hook", state.name, state.message)

def spin(*_):
    for _ in range(20_000):
        time.sleep(0.001)

def doze():
    for _ in range(40):
        time.sleep(0.5)  # not at once: CPython hears of a signal that comes just before a sleep at the end of it

async def aspin(*_):
    await asyncio.sleep(20)

polite, apolite, quick = task(name="polite")(spin), task(name="apolite")(aspin), task(name="quick")(lambda x=1: x)
stuck = task(name="stuck")(lambda: time.sleep(60))
"""


class Program:
    """A Python script in a process of its own, with a store of its own."""

    def __init__(self, directory: Path, code: str, grace: float | None = 0.5, **variables: str) -> None:
        script = directory / "script.py"
        script.write_text(PRELUDE + textwrap.dedent(code))
        self.home = directory / "home"
        environment = {**os.environ, "PENSTOCK_HOME": str(self.home), **variables}
        if grace is not None:
            environment["PENSTOCK_CANCEL_GRACE_SECONDS"] = str(grace)
        self.process = subprocess.Popen(
            [sys.executable, str(script)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,
        )
        self.output = ""
        self.errors = ""
        self.seconds = 0.0

    def wait_until_ready(self) -> Program:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line == "ready\n", line + self.process.communicate(timeout=5)[1]
        return self

    def send(self, number: int) -> Program:
        self.process.send_signal(number)
        return self

    def end(self, timeout: float = 10) -> Program:
        began = time.monotonic()
        try:
            self.output, self.errors = self.process.communicate(timeout=timeout)
        finally:
            self.kill()
        self.seconds = time.monotonic() - began
        return self

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()

    @property
    def exit_code(self) -> int:
        """As a shell shows it: 128 + n for a process that signal n ended."""
        code = self.process.returncode
        return code if code >= 0 else 128 - code

    def rows(self) -> tuple[RunRow, dict[str, RunRow]]:
        """The root run, and what is below it by name."""
        reader = SQLiteReader(self.home)
        try:
            (root,) = reader.runs()
            return root, {row.run_name: row for row in reader.tree(root.id)}
        finally:
            reader.close()

    def states(self) -> dict[str, str]:
        return {name: row.state_name for name, row in self.rows()[1].items()}

    def logs(self) -> list[str]:
        reader = SQLiteReader(self.home)
        try:
            (root,) = reader.runs()
            return [log.message for log in reader.logs(root.id)]
        finally:
            reader.close()


Start = Callable[..., Program]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    programs: list[Program] = []

    def start(code: str, **options: Any) -> Program:
        programs.append(Program(tmp_path, code, **options))
        return programs[-1]

    yield start
    for program in programs:
        program.kill()


def code_of(number: int) -> int:
    return 130 if number == SIGINT else 143


def words_of(number: int) -> str:
    return "an interrupt signal" if number == SIGINT else "a termination signal"


def check_crashed(program: Program, number: int, kind: str = "Flow") -> None:
    """The root run ended as it has to, and nothing below it is left open."""
    root, below = program.rows()
    message = f"{kind} run was aborted by {words_of(number)}."
    assert (root.status, root.state_name, root.message) == ("CRASHED", "Crashed", message)
    assert root.ended is not None
    for row in below.values():
        assert row.status in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"), row
        assert row.ended is not None
        assert row.ended <= root.ended, "no child is non-terminal under a terminal parent"


# --- what the flow is doing when the signal comes -----------------------------------------------------------------

FLOWS = {
    "spins": "ready(); spin()",
    "sleeps": "ready(); doze()",
    "blocks on a lock": "lock = threading.Lock(); lock.acquire(); ready(); lock.acquire()",
    "waits for an event": "ready(); threading.Event().wait()",
    "result": "f = polite.submit(); ready(); f.result()",
    "result with timeout": "f = polite.submit(); ready(); f.result(30)",
    "wait": "f = polite.submit(); ready(); f.wait()",
    "exception": "f = polite.submit(); ready(); f.exception()",
    "list": "f = polite.map([1, 2]); ready(); f.result()",
    "wait()": "f = polite.map([1, 2]); ready(); wait(f)",
    "as_completed": "f = polite.map([1, 2]); ready(); list(as_completed(f))",
    "imap": "i = polite.imap(range(9), max_pending=2); ready(); list(i)",
    "return_state": "ready(); polite.submit(return_state=True)",
    "end of body": "f = polite.submit(); ready(); return f",
    "exit of flow": "polite.submit(); ready()",
    "direct call": "ready(); polite()",
    "direct call that waits": "f = polite.submit(); ready(); quick(f)",
    "direct call in a pause": (
        "t = task(retries=1, retry_delay_seconds=60, on_failure=[])(lambda: 1 / 0); ready(); t()"
    ),
    "async task": "f = apolite.submit(); ready(); f.result()",
    "subflow": "flow(lambda: (ready(), polite.submit().result()))()",
    "submitted subflow": "f = flow(name='sub')(lambda: polite.submit().result()).submit(); ready(); f.result()",
    "limit": "polite.submit(); ready()\n    with concurrency('x', limit=1):\n        with concurrency('x'): pass",
    "own finally": "ready()\n    try: spin()\n    finally: say('cleaned up')",
}


@pytest.mark.parametrize("number", BOTH, ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("doing", FLOWS)
def test_the_flow_ends_in_order(start: Start, number: int, doing: str) -> None:
    program = start(f"""
@flow(on_crashed=[hook], on_failure=[hook], on_cancellation=[hook], retries=3)
def main():
    {FLOWS[doing]}

main()
say("not reached")
""")
    program.wait_until_ready()
    time.sleep(0.02)
    program.send(number).end()
    assert program.exit_code == code_of(number), program.errors
    cleaned = "cleaned up\n" if doing == "own finally" else ""
    assert program.output == f"{cleaned}hook Crashed Flow run was aborted by {words_of(number)}.\n", program.errors
    assert program.seconds < 2
    check_crashed(program, number)
    for name, state in program.states().items():
        if name.startswith("polite") and doing != "direct call":
            assert state == "Cancelled", name


ASYNC_FLOWS = {
    "sleeps": "ready(); await asyncio.sleep(20)",
    "awaits a task": "f = polite.submit(); ready(); await f",
    "awaits an async task": "f = apolite.submit(); ready(); await f",
    "direct call": "ready(); await apolite()",
    "gather": "ready(); await asyncio.gather(apolite(), apolite(), asyncio.sleep(20))",
    "as_completed": "f = polite.map([1, 2]); ready()\n    async for x in as_completed(f): pass",
    "end of body": "polite.submit(); ready()",
}


@pytest.mark.parametrize("number", BOTH, ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("doing", ASYNC_FLOWS)
def test_an_async_flow_ends_in_order(start: Start, number: int, doing: str) -> None:
    program = start(f"""
@flow(on_crashed=[hook], on_failure=[hook], on_cancellation=[hook], retries=3)
async def main():
    {ASYNC_FLOWS[doing]}

asyncio.run(main())
say("not reached")
""")
    program.wait_until_ready()
    time.sleep(0.02)
    program.send(number).end()
    assert program.exit_code == code_of(number), program.errors
    assert program.output == f"hook Crashed Flow run was aborted by {words_of(number)}.\n", program.errors
    assert program.seconds < 2
    check_crashed(program, number)


@pytest.mark.parametrize("number", BOTH, ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("doing", ["spins", "result", "exit of flow"])
def test_a_synchronous_flow_in_a_running_loop_ends_in_order(start: Start, number: int, doing: str) -> None:
    """It blocks the loop, as flows in the cells of notebooks do: nobody could cancel the task that it is called in."""
    program = start(f"""
@flow(on_crashed=[hook], on_failure=[hook], on_cancellation=[hook], retries=3)
def main():
    {FLOWS[doing]}

async def around():
    main()

asyncio.run(around())
say("not reached")
""")
    program.wait_until_ready()
    time.sleep(0.02)
    program.send(number).end()
    assert program.exit_code == code_of(number), program.errors
    assert program.output == f"hook Crashed Flow run was aborted by {words_of(number)}.\n", program.errors
    assert program.seconds < 2
    check_crashed(program, number)


@pytest.mark.parametrize("number", BOTH, ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("body", ["ready(); doze()", "f = polite.submit(); ready(); f.result()"])
def test_a_task_outside_of_a_flow_ends_in_order(start: Start, number: int, body: str) -> None:
    program = start(f"""
@task(on_crashed=[hook], on_failure=[hook], on_cancellation=[hook], retries=3)
def main():
    {body}

main()
""")
    program.wait_until_ready().send(number).end()
    assert program.exit_code == code_of(number), program.errors
    assert program.output == f"hook Crashed Task run was aborted by {words_of(number)}.\n"
    check_crashed(program, number, "Task")


# --- what becomes of the runs -------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", BOTH, ids=["SIGINT", "SIGTERM"])
def test_the_states_of_the_runs(start: Start, number: int) -> None:
    program = start("""
@task
def done():
    return 1

@task(retries=1, retry_delay_seconds=60)
def pausing():
    raise ValueError

@flow(task_runner=ThreadPoolTaskRunner(max_workers=4))
def main():
    done.submit().result()
    p = pausing.submit()
    while p.state.name != "AwaitingRetry": time.sleep(0.001)
    futures = [polite.submit(), apolite.submit(), stuck.submit()]
    while any(f.state.name != "Running" for f in futures): time.sleep(0.001)
    quick.submit(futures[0])
    filler = task(name="filler")(spin).submit()
    while filler.state.name != "Running": time.sleep(0.001)
    task(name="queued")(spin).submit()
    ready()
    futures[0].result()

main()
""")
    program.wait_until_ready().send(number).end()
    assert program.exit_code == code_of(number), program.errors
    check_crashed(program, number)
    assert program.states() == {
        "done-0": "Completed",
        "pausing-0": "Cancelled",
        "polite-0": "Cancelled",
        "apolite-0": "Cancelled",
        "stuck-0": "Crashed",
        "filler-0": "Cancelled",
        "queued-0": "Cancelled",
        "quick-0": "Cancelled",
    }
    stuck = program.rows()[1]["stuck-0"]
    assert "did not stop within 0.5 s; still running in thread" in (stuck.message or "")
    assert "script.py:" in (stuck.message or "")


@pytest.mark.parametrize("number", BOTH, ids=["SIGINT", "SIGTERM"])
def test_it_is_over_within_5_seconds_whatever_tasks_do(start: Start, number: int) -> None:
    """With the grace that is the default: 3 seconds."""
    program = start(
        """
@task
def stubborn():
    while True:
        try:
            time.sleep(60)
        except BaseException:
            pass

@task
async def astubborn():
    while True:
        try:
            await asyncio.sleep(60)
        except BaseException:
            pass

@flow
def main():
    futures = [stuck.submit(), stubborn.submit(), astubborn.submit()]
    while any(f.state.name != "Running" for f in futures): time.sleep(0.001)
    ready()
    wait(futures)

main()
""",
        grace=None,
    )
    program.wait_until_ready().send(number).end()
    assert program.exit_code == code_of(number), program.errors
    assert 2.5 < program.seconds < 5
    check_crashed(program, number)
    assert set(program.states().values()) == {"Crashed"}


def test_nothing_new_starts_after_the_signal(start: Start) -> None:
    program = start("""
@flow
def main():
    try:
        ready()
        spin()
    finally:
        late = quick.submit()
        say("late", late.state.name)
        try:
            quick()
            say("called")
        except BaseException as error:
            say(type(error).__name__)

main()
""")
    program.wait_until_ready().send(SIGINT).end()
    assert program.exit_code == 130
    assert program.output.startswith("late Cancelled\n"), program.errors
    assert "called" not in program.output
    check_crashed(program, SIGINT)


def test_a_flow_that_swallows_the_interrupt_still_ends_crashed(start: Start) -> None:
    """The signal, not the body, has the last word on the run."""
    program = start("""
@flow(on_crashed=[hook])
def main():
    try:
        ready()
        spin()
    except BaseException:
        pass
    return 5

main()
say("not reached")
""")
    program.wait_until_ready().send(SIGTERM).end()
    assert program.exit_code == 143
    assert "not reached" not in program.output


def test_logs_are_flushed(start: Start) -> None:
    program = start("""
@task
def talks():
    get_run_logger().info("before the signal")
    try:
        ready()
        spin()
    finally:
        get_run_logger().info("after the signal")

@flow
def main():
    talks.submit().result()

main()
""")
    program.wait_until_ready().send(SIGTERM).end()
    logs = program.logs()
    assert "before the signal" in logs
    assert "after the signal" in logs


@pytest.mark.parametrize("pause", [0.0, 0.005, 0.02, 0.05])
@pytest.mark.parametrize("number", BOTH, ids=["SIGINT", "SIGTERM"])
def test_a_signal_in_the_middle_of_a_storm_of_submissions(start: Start, number: int, pause: float) -> None:
    """Whatever the engine is in the middle of, it ends in order."""
    program = start("""
@flow(on_unobserved_failure="warn")
def main():
    ready()
    while True:
        futures = [quick.submit(n) for n in range(50)]
        quick.map(futures).wait()
        quick()

main()
""")
    program.wait_until_ready()
    time.sleep(pause)
    program.send(number).end()
    assert program.exit_code == code_of(number), program.errors
    assert program.seconds < 4
    check_crashed(program, number)
    assert set(program.states().values()) <= {"Completed", "Cancelled", "UpstreamFailed", "Crashed"}


# --- the second signal --------------------------------------------------------------------------------------------


def test_a_second_interrupt_exits_at_once(start: Start) -> None:
    program = start(
        """
@task
def stubborn():
    while True:
        try:
            time.sleep(60)
        except BaseException:
            pass

@flow
def main():
    futures = [stubborn.submit(), stuck.submit()]
    while any(f.state.name != "Running" for f in futures): time.sleep(0.001)
    ready()
    futures[0].result()

main()
""",
        grace=20,
    )
    program.wait_until_ready().send(SIGINT)
    time.sleep(0.3)
    assert program.process.poll() is None
    program.send(SIGINT).end()
    assert program.exit_code == 130
    assert program.seconds < 1


# --- handlers -----------------------------------------------------------------------------------------------------


def test_handlers_are_as_before_after_a_flow(start: Start) -> None:
    program = start("""
def mine(number, frame): pass

signal.signal(signal.SIGTERM, mine)
before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)]

@flow
def inner():
    return signal.getsignal(signal.SIGTERM)

@flow
def main():
    installed = signal.getsignal(signal.SIGTERM)
    assert installed is not mine
    assert inner() == installed == inner.submit().result()
    assert signal.getsignal(signal.SIGTERM) == installed, "a subflow leaves the handlers alone"

main()
try:
    flow(lambda: 1 / 0)()
except ZeroDivisionError:
    pass
asyncio.run(flow(name='a')(asyncio.sleep)(0))
assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)] == before
say("fine")
""")
    program.end()
    assert (program.exit_code, program.output) == (0, "fine\n"), program.errors


def test_a_flow_in_another_thread_installs_nothing(start: Start) -> None:
    program = start("""
before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
inside = []

@flow
def main():
    inside.append([signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)])

thread = threading.Thread(target=main)
thread.start()
thread.join()
assert inside == [before]
say("fine")
""")
    program.end()
    assert (program.exit_code, program.output) == (0, "fine\n"), program.errors


@pytest.mark.parametrize("number", BOTH, ids=["SIGINT", "SIGTERM"])
def test_a_handler_of_the_users_is_called_once_and_decides(start: Start, number: int) -> None:
    program = start(f"""
calls = []

def mine(number, frame):
    calls.append(number)

signal.signal({int(number)}, mine)

@flow(on_crashed=[hook])
def main():
    f = polite.submit()
    ready()
    f.result()

try:
    main()
except BaseException as error:
    say(type(error).__name__)
assert calls == [{int(number)}], calls
assert signal.getsignal({int(number)}) is mine
say("goes on")
sys.exit(7)
""")
    program.wait_until_ready().send(number).end()
    error = "KeyboardInterrupt\n" if number == SIGINT else "TerminationSignal\n"
    hook = f"hook Crashed Flow run was aborted by {words_of(number)}.\n"
    assert program.output in (f"{hook}{error}goes on\n", f"{hook}goes on\n"), program.errors
    assert program.exit_code == 7
    check_crashed(program, number)


@pytest.mark.parametrize("is_async", [False, True])
def test_a_program_may_catch_the_interrupt_and_go_on(start: Start, is_async: bool) -> None:
    call = "asyncio.run(main())" if is_async else "main()"
    prefix = "async " if is_async else ""
    wait = "await asyncio.sleep(20)" if is_async else "doze()"
    program = start(f"""
@flow
{prefix}def main():
    ready()
    {wait}

try:
    {call}
except KeyboardInterrupt:
    say("caught")

@flow
def second():
    return quick.submit(5).result()

say(second())
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
ready()
doze()
""")
    program.wait_until_ready().send(SIGINT)
    assert program.process.stdout is not None
    assert [program.process.stdout.readline() for _ in range(3)] == ["caught\n", "5\n", "ready\n"]
    program.send(SIGINT).end()
    assert program.exit_code == 130


@pytest.mark.parametrize("number", BOTH, ids=["SIGINT", "SIGTERM"])
def test_a_signal_that_the_program_ignores_stays_ignored(start: Start, number: int) -> None:
    program = start(f"""
signal.signal({int(number)}, signal.SIG_IGN)

@flow
def main():
    f = task(lambda: time.sleep(0.2) or "fine").submit()
    ready()
    return f.result()

say(main())
assert signal.getsignal({int(number)}) is signal.SIG_IGN
""")
    program.wait_until_ready().send(number).end()
    assert (program.exit_code, program.output) == (0, "fine\n"), program.errors


def test_a_flow_in_a_thread_does_not_see_the_interrupt_of_the_main_thread(start: Start) -> None:
    program = start("""
started = threading.Event()

@flow
def main():
    started.set()
    return task(lambda: time.sleep(0.2) or "fine").submit().result()

results = []
thread = threading.Thread(target=lambda: results.append(main()))
thread.start()
try:
    started.wait()
    ready()
    spin()  # one long sleep could begin just after the signal, which CPython then hears of at its end
except KeyboardInterrupt:
    thread.join()
    say(*results)
""")
    program.wait_until_ready().send(SIGINT).end()
    assert (program.exit_code, program.output) == (0, "fine\n"), program.errors


def test_an_outer_loop_handler_of_asyncio_gets_its_interrupt(start: Start) -> None:
    """`asyncio.run` turns Ctrl-C into a cancellation of its main task, and then into KeyboardInterrupt."""
    program = start("""
@flow
async def main():
    try:
        ready()
        await asyncio.sleep(20)
    except asyncio.CancelledError:
        say("cancelled")
        raise

async def around():
    try:
        await main()
    finally:
        say("around")

try:
    asyncio.run(around())
except KeyboardInterrupt:
    say("KeyboardInterrupt")
""")
    program.wait_until_ready().send(SIGINT).end()
    assert program.output == "cancelled\naround\nKeyboardInterrupt\n", program.errors
    check_crashed(program, SIGINT)


# --- without signals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "code", "text"),
    [
        ("sys.exit(5)", 5, "Flow run was ended by a Python system exit call."),
        ("raise KeyboardInterrupt", 130, "Flow run was aborted by an interrupt signal."),
    ],
)
def test_exits_of_the_body_itself(start: Start, line: str, code: int, text: str) -> None:
    program = start(f"""
@flow(on_crashed=[hook], retries=3)
def main():
    polite.submit()
    {line}

main()
""")
    program.end()
    assert program.exit_code == code, program.errors
    assert program.output.startswith("hook Crashed Flow run")
    root, _ = program.rows()
    assert (root.state_name, root.attempts) == ("Crashed", 1)
    wanted = "Python system exit call." if code == 5 else text
    assert (root.message or "").endswith(wanted)
    assert set(program.states().values()) == {"Cancelled"}


def test_a_script_whose_flow_failed_ends_by_a_traceback(start: Start) -> None:
    program = start("""
@flow
def main():
    task(name="bad")(lambda: 1 / 0).submit()

main()
""")
    program.end()
    assert program.exit_code == 1
    assert "ZeroDivisionError" in program.errors
    assert "Traceback" in program.errors


def test_one_signal_for_many_flows_in_threads_ends_the_program(start: Start) -> None:
    """The flow on the main thread ends in order; those in daemon threads do not keep the program alive."""
    program = start("""
@flow(name="side")
def side():
    polite.submit().result()

@flow
def main():
    threading.Thread(target=side, daemon=True).start()
    f = polite.submit()
    ready()
    f.result()

main()
""")
    program.wait_until_ready().send(SIGTERM).end()
    assert program.exit_code == 143, program.errors
    assert program.seconds < 3


def test_send_signal_while_the_flow_ends(start: Start) -> None:
    """A signal after the body has returned does not overwrite what the flow has achieved."""
    program = start("""
def slow_hook(flow, run, state):
    ready()
    time.sleep(0.3)
    say("hook", state.name)

@flow(on_completion=[slow_hook])
def main():
    return 5

main()
""")
    program.wait_until_ready().send(SIGINT).end()
    assert program.exit_code == 130, program.errors
    root, _ = program.rows()
    assert root.state_name == "Completed"
