"""`penstock cancel`: runs of plain scripts, from another terminal, on every runner, in time, with states that agree."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import CompletedProcess, Popen

import pytest
from acting import PENSTOCK, RUNNERS, below, penstock, recorded, start, stopped, wait_for, write

from penstock.store.base import RunRow

IN_TIME = 3.0  # seconds from typing the command to the end of the flow

SCRIPT = """
    import sys
    import time
    from pathlib import Path
    from penstock import flow, task
    from penstock.exceptions import CancelledRun
    from penstock.task_runners import named

    HERE = Path(__file__).parent
    RUNNER = sys.argv[1]
    WORKERS = 1 if RUNNER == "sequential" else 2

    @task
    def work(n, way):
        (HERE / f"begun-{way}-{n}").touch()
        WAYS[way]()

    def busy():
        while True:
            pass

    def napping():
        while True:
            time.sleep(0.01)

    def asleep():
        time.sleep(600)

    WAYS = {"busy": busy, "napping": napping, "asleep": asleep}

    @flow(task_runner=named(RUNNER, WORKERS))
    def whole(way):
        work.map(range(4), way).wait()
        (HERE / "went on").touch()

    if __name__ == "__main__":
        for way in WAYS:
            try:
                whole(way)
            except CancelledRun:
                if way == "asleep":  # the last one; what it leaves behind must not keep the process
                    raise
"""


@contextmanager
def going_on(tmp_path: Path, text: str, *arguments: str, number: int = 1) -> Iterator[Popen[str]]:
    """A script of whose tasks `number` have begun."""
    script = write(tmp_path / "script.py", text)
    process = start([sys.executable, script, *arguments], tmp_path)
    try:
        wait_until_begun(process, tmp_path, number)
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_until_begun(process: Popen[str], tmp_path: Path, number: int, what: str = "", runs: int = 1) -> None:
    wait_for(lambda: len(list(tmp_path.glob(f"begun-{what}*"))) >= number or process.poll() is not None)
    wait_for(lambda: len(recorded()) >= runs)
    assert process.poll() is None, process.communicate()


def cancelled(tmp_path: Path) -> tuple[CompletedProcess[str], float]:
    """Cancel the latest run; also when it must have ended.

    The time is for an idle machine. So it is longer by what another command takes here and now, most of which is
    loading Python and the library.
    """
    before = time.time()
    penstock("ls", directory=tmp_path)
    asked = time.time()
    done = penstock("cancel", "@last", directory=tmp_path)
    assert done.returncode == 0, done.stderr
    return done, asked + IN_TIME + asked - before


WAYS = ("busy", "napping", "asleep")


@pytest.mark.timeout(120)  # Ray takes its time to begin
@pytest.mark.parametrize("runner", RUNNERS)
def test_a_script_is_cancelled(tmp_path: Path, runner: str) -> None:
    """One flow after another, of one script: what is left of one does not harm the next."""
    number = 1 if runner == "sequential" else 2
    with going_on(tmp_path, SCRIPT, runner, number=number) as process:
        for runs, way in enumerate(WAYS, start=1):
            wait_until_begun(process, tmp_path, number, way, runs)
            done, late = cancelled(tmp_path)
            run = recorded()[-runs]  # the next one may be there already
            assert run.ended is not None and run.ended < late, way
            assert f"whole/{run.run_name}: Cancelled" in done.stderr
        _, said = process.communicate(timeout=30)
    assert process.returncode == 1, said
    assert not (tmp_path / "went on").exists()
    for run, way in zip(reversed(recorded()), WAYS, strict=True):
        assert run.status == "CANCELLED", said
        # Nobody can end what sleeps on a thread: it is said to be still there, which CANCELLED would deny.
        states = {task.status for task in below(run)}
        written_off = way == "asleep" and runner in ("threads", "dask")
        assert states == ({"CANCELLED", "CRASHED"} if written_off else {"CANCELLED"}), way
        assert len(below(run)) == (1 if runner == "sequential" else 4)
        assert_states_agree(run)


def assert_states_agree(run: RunRow) -> None:
    """Nothing has an end after that of what called it, or none at all."""
    rows = {row.id: row for row in (run, *below(run))}
    for row in rows.values():
        assert row.ended is not None, row
        above = rows.get(row.parent_id or "")
        assert above is None or (above.ended is not None and row.ended <= above.ended), (row, above)


BODIES = """
    import asyncio
    import sys
    import time
    from pathlib import Path
    from penstock import flow, runtime, task

    HERE = Path(__file__).parent

    def begun(what):
        (HERE / f"begun-{what}").touch()

    @task
    def work(n):
        begun(runtime.task_run.id)
        while True:
            time.sleep(0.01)

    @task
    async def tick(n):
        begun(runtime.task_run.id)
        await asyncio.sleep(600)

    @flow
    def inner(n):
        work.map(range(n)).result()

    @flow
    def nested():
        futures = [inner.submit(2), inner.submit(1)]
        inner(1)

    @flow
    def sleeps():
        begun("body")
        time.sleep(600)

    @flow
    def computes():
        begun("body")
        while True:
            pass

    @flow
    def stubborn():
        begun("body")
        while True:
            try:
                time.sleep(600)
            except BaseException:
                begun("told")

    @flow
    async def coroutine():
        await asyncio.gather(*[tick(n) for n in range(2)], tick.submit(2))

    @flow
    def quick():
        return 1

    if __name__ == "__main__":
        found = globals()[sys.argv[1]]()
        if sys.argv[1] == "coroutine":
            asyncio.run(found)
"""


@pytest.mark.parametrize(("flow", "number"), [("nested", 4), ("sleeps", 1), ("computes", 1), ("coroutine", 3)])
def test_flows_of_every_kind_are_cancelled(tmp_path: Path, flow: str, number: int) -> None:
    with going_on(tmp_path, BODIES, flow, number=number):
        _, late = cancelled(tmp_path)
    (run,) = recorded()
    assert run.ended is not None and run.ended < late
    assert {row.status for row in (run, *below(run))} == {"CANCELLED"}
    assert_states_agree(run)


def test_a_run_of_the_command_ends_with_the_status_of_a_cancelled_one(tmp_path: Path) -> None:
    write(tmp_path / "bodies.py", BODIES)
    process = start([*PENSTOCK, "run", "bodies.py:computes"], tmp_path)
    wait_for((tmp_path / "begun-body").exists)
    wait_for(lambda: penstock("show", "@last", directory=tmp_path).returncode == 0)  # the record is a moment behind
    assert penstock("cancel", "@last", directory=tmp_path).returncode == 0
    process.communicate()
    assert process.returncode == 4


def test_a_part_of_a_run_is_cancelled(tmp_path: Path) -> None:
    with going_on(tmp_path, BODIES, "nested", number=4) as process:
        (run,) = recorded()
        wait_for(lambda: any(row.kind == "flow" for row in below(run)))
        inner = next(row for row in below(run) if row.kind == "flow")
        done = penstock("cancel", inner.id, directory=tmp_path)
        assert (done.returncode, done.stderr) == (0, f"inner/{inner.run_name}: Cancelled\n")
        assert process.poll() is None and recorded()[0].ended is None


def test_json(tmp_path: Path) -> None:
    with going_on(tmp_path, BODIES, "computes"):
        done = penstock("cancel", "@last", "--json", directory=tmp_path)
    run = json.loads(done.stdout)["run"]
    assert (done.returncode, run["id"], run["status"]) == (0, recorded()[0].id, "CANCELLED")


def test_a_body_that_does_not_stop(tmp_path: Path) -> None:
    """Its caller's own thread is in it, so nobody can write it off."""
    with going_on(tmp_path, BODIES, "stubborn"):
        done = penstock("cancel", "@last", "--wait", "0", directory=tmp_path)
        assert (done.returncode, "was asked to stop, and has not ended yet" in done.stderr) == (0, True)
        wait_for((tmp_path / "begun-told").exists)
        done = penstock("cancel", "@last", "--wait", "0.1", directory=tmp_path)
        assert (done.returncode, "has not ended yet" in done.stderr) == (5, True)
        assert recorded()[0].state_name == "Cancelling"


# --- nothing to cancel --------------------------------------------------------------------------------------------


def test_a_run_that_has_ended_stays_as_it_is(tmp_path: Path) -> None:
    write(tmp_path / "bodies.py", BODIES)
    penstock("run", "bodies.py:quick", directory=tmp_path)
    (before,) = recorded()
    done = penstock("cancel", "@last", directory=tmp_path)
    assert (done.returncode, done.stderr) == (0, f"quick/{before.run_name} had ended already: Completed\n")
    assert recorded() == [before]


def test_a_run_whose_process_has_died(tmp_path: Path) -> None:
    with going_on(tmp_path, BODIES, "computes") as process:
        stopped(process, signal.SIGKILL)
        done = penstock("cancel", "@last", directory=tmp_path)
    assert done.returncode == 0
    assert done.stderr.endswith(f"computes/{recorded()[0].run_name} had ended already: Crashed\n")


def test_a_process_that_does_not_answer(tmp_path: Path) -> None:
    with going_on(tmp_path, BODIES, "computes") as process:
        process.send_signal(signal.SIGSTOP)
        done = penstock("cancel", "@last", directory=tmp_path)
        process.send_signal(signal.SIGCONT)
        assert (done.returncode, "no process answers for it" in done.stderr) == (5, True)
        assert recorded()[0].ended is None


def test_a_run_that_is_not_there(tmp_path: Path) -> None:
    done = penstock("cancel", "brave-otter", directory=tmp_path)
    assert (done.returncode, "there is no run store" in done.stderr) == (3, True)
