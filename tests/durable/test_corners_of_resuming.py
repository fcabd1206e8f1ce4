"""The corners of going on with a flow run: changed programs, odd flows and parameters, lost values, other processes."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from penstock import flow, resume, task
from penstock.cache_policies import INPUTS
from penstock.exceptions import CancelledRun, ConfigurationError, ParameterBindError, ParameterTypeError, ResumeError
from penstock.settings import home
from penstock.states import Completed
from penstock.store.base import RunRow
from penstock.store.sqlite import SQLiteReader
from penstock.store.upkeep import prune
from penstock.task_runners import ProcessPoolTaskRunner

executed: list[Any] = []
failing: set[Any] = set()


@pytest.fixture(autouse=True)
def fresh() -> None:
    executed.clear()
    failing.clear()


def last_run(name: str | None = None) -> RunRow:
    reader = SQLiteReader(home())
    try:
        return reader.runs(name=name, limit=1)[0]
    finally:
        reader.close()


def below(run_id: str) -> list[RunRow]:
    reader = SQLiteReader(home())
    try:
        return reader.tree(run_id)
    finally:
        reader.close()


def said(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(record.getMessage() for record in caplog.records)


@task
def step(x: Any) -> Any:
    executed.append(x)
    return x


@task
def trip(x: Any = 0) -> None:
    if x in failing:
        raise ValueError("tripped")


def fail_once(call: Any) -> str:
    """Call a flow that trips; the id of its run. What has been executed is forgotten, and nothing trips any more."""
    failing.add(0)
    with pytest.raises(ValueError, match="tripped"):
        call()
    failing.clear()
    executed.clear()
    return last_run().id


# --- a changed program ------------------------------------------------------------------------------------------


def test_changed_code_is_said_and_restored_all_the_same(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    @flow(persist_result=True)
    def main() -> int:
        first = changing(1)
        trip()
        return first

    run = fail_once(main)
    monkeypatch.setattr(sys.modules[__name__], "changing", task(_other_version))
    with caplog.at_level(logging.WARNING, "penstock"):
        assert resume(run, flow=main) == 1
    assert "the code of changing has changed" in said(caplog)
    failing.add(0)
    with pytest.raises(ResumeError):
        resume(run, flow=main)


@task
def changing(x: int) -> int:
    return x


def _other_version(x: int) -> int:
    return x + 1


_other_version.__name__ = _other_version.__qualname__ = "changing"


def test_a_renamed_task_runs_under_its_new_name(caplog: pytest.LogCaptureFixture) -> None:
    @flow(persist_result=True)
    def main() -> int:
        value = chosen[0](3)
        trip()
        return value

    def old_name(x: int) -> int:
        executed.append("old")
        return x

    def new_name(x: int) -> int:
        executed.append("new")
        return x

    chosen = [task(old_name)]
    run = fail_once(main)
    chosen[0] = task(new_name)
    assert resume(run, flow=main) == 3
    assert executed == ["new"]


def test_parameters_that_do_not_validate_any_more() -> None:
    @flow(persist_result=True)
    def main(n: Any) -> None:
        trip()

    @flow(persist_result=True)
    def stricter(n: int) -> None:
        trip()

    run = fail_once(lambda: main("many"))
    with pytest.raises(ParameterTypeError):
        resume(run, flow=stricter)
    assert last_run().status == "FAILED"
    assert resume(run, flow=stricter, parameters={"n": 3}) is None


def test_parameters_that_came_and_went() -> None:
    @flow(persist_result=True)
    def main(a: int, b: int = 2) -> Any:
        trip()
        return a, b

    @flow(persist_result=True)
    def grown(a: int, c: int = 5) -> Any:
        trip()
        return a, c

    @flow(persist_result=True)
    def demanding(a: int, d: int) -> Any:
        return a, d

    run = fail_once(lambda: main(1))
    with pytest.raises(ParameterBindError, match="no parameter 'z'"):
        resume(run, flow=main, parameters={"z": 1})
    with pytest.raises(ResumeError, match="'d'"):
        resume(run, flow=demanding)
    assert resume(run, flow=grown) == (1, 5)


def test_names_that_no_life_knows_are_refused() -> None:
    @flow(persist_result=True)
    def main() -> None:
        step(1)
        trip()

    run = fail_once(main)
    for names in ({"rerun": "stepp"}, {"from_task": ["step", "stepp"]}):
        options: Any = names
        with pytest.raises(ResumeError, match=r"no task 'stepp'.*'step', 'trip'"):
            resume(run, flow=main, **options)
    assert last_run().id == run  # nothing has started
    assert resume(run, flow=main, rerun=["step", "trip"]) is None
    assert executed == [1]


# --- flows of all kinds -----------------------------------------------------------------------------------------


@flow(persist_result=True)
def many(a: int, /, b: int = 2, *rest: int, c: int, **named: int) -> Any:
    step((a, b, rest, c))
    trip()
    return a, b, rest, c, named


@pytest.mark.parametrize("call", [((1,), {"c": 3}), ((1, 2, 3, 4), {"c": 5, "d": 6}), ((1,), {"c": 1, "a": 9})])
def test_parameters_of_every_kind(call: tuple[tuple[Any, ...], dict[str, Any]]) -> None:
    args, kwargs = call
    run = fail_once(lambda: many(*args, **kwargs))
    expected = resume(run)
    assert executed == []
    assert expected == many(*args, **kwargs)


class Plant:
    def __init__(self, name: str = "oak") -> None:
        self.name = name

    @flow(persist_result=True)
    def grow(self, n: int) -> str:
        step(n)
        trip()
        return f"{self.name} {n}"

    @staticmethod
    @flow(persist_result=True)
    def water(n: int) -> int:
        trip()
        return n

    @classmethod
    @flow(persist_result=True)
    def name_of(cls, n: int) -> str:
        trip()
        return f"{cls.__name__} {n}"


def test_methods_as_flows() -> None:
    run = fail_once(lambda: Plant("elm").grow(3))
    assert resume(run) == "elm 3"
    assert executed == []
    assert resume(fail_once(lambda: Plant.water(4))) == 4
    assert resume(fail_once(lambda: Plant.name_of(5))) == "Plant 5"


@flow(persist_result=True)
def asking() -> Any:
    value = step(1)
    trip()
    return value


@flow(persist_result=True)
async def asking_async() -> Any:
    value = step(1)
    trip()
    return value


@flow(persist_result=True)
def outer(kind: str) -> Any:
    if kind == "submit":
        return asking.submit().result()
    if kind == "map":
        return numbered.map([1, 2]).result()
    return asking_async.submit()


@flow
def numbered(n: int) -> int:
    step(n)
    trip()
    return n


@pytest.mark.parametrize(("kind", "value"), [("submit", 1), ("map", [1, 2]), ("async", 1)])
def test_submitted_and_mapped_flows(kind: str, value: Any) -> None:
    failing.add(0)
    assert outer(kind, return_state=True).is_failed()
    failing.clear()
    executed.clear()
    assert resume(last_run("outer").id) == value
    assert executed == []


@flow(persist_result=True)
def handing_out() -> Any:
    yield step(1)
    trip()
    yield step(2)


def test_generator_flows() -> None:
    run = fail_once(lambda: list(handing_out()))
    assert list(resume(run)) == [1, 2]
    assert executed == [2]


@flow(persist_result=True)
def judging() -> Any:
    stated()
    values = [listed(), stated(return_state=True).result()]
    trip()
    return Completed(name="Odd", data=values)


@flow
def stated() -> Any:
    executed.append("stated")
    return Completed(name="Skipped", data=7)


@flow
def listed() -> Any:
    executed.append("listed")
    return {"futures": step.map([1, 2]), "one": step.submit(3)}


def test_flows_that_give_states_and_futures() -> None:
    run = fail_once(judging)
    state = resume(run, return_state=True)
    assert state.name == "Odd"
    assert state.result() == [{"futures": [1, 2], "one": 3}, 7]
    assert executed == []


@flow(persist_result=True)
def cancelled_one() -> Any:
    value = step(1)
    if "cancel" in failing:
        raise CancelledRun("enough")
    return value


def test_cancelled_and_crashed_runs_go_on() -> None:
    @flow(persist_result=True)
    def crashing() -> Any:
        value = step(1)
        if "exit" in failing:
            raise SystemExit(3)
        return value

    failing.update({"cancel", "exit"})
    with pytest.raises(CancelledRun):
        cancelled_one()
    with pytest.raises(SystemExit):
        crashing()
    failing.clear()
    executed.clear()
    assert resume(last_run("cancelled-one").id) == 1
    assert last_run("crashing").status == "CRASHED"
    assert resume(last_run("crashing").id, flow=crashing) == 1
    assert executed == []


# --- lost values ------------------------------------------------------------------------------------------------


def test_values_that_were_pruned_are_computed_again(caplog: pytest.LogCaptureFixture) -> None:
    @flow(persist_result=True)
    def main() -> Any:
        values = [step(1), step("x" * 100_000)]
        trip()
        return len(values)

    run = fail_once(main)
    for path in (home() / "results").iterdir():
        path.unlink()
    with caplog.at_level(logging.WARNING, "penstock"):
        assert resume(run, flow=main) == 2
    assert executed == ["x" * 100_000]
    assert "counts as absent" in said(caplog)


def test_a_run_that_was_pruned_is_unknown() -> None:
    @flow(persist_result=True)
    def main() -> Any:
        step(1)
        trip()

    run = fail_once(main)
    prune(home(), older_than=0, keep=0)
    with pytest.raises(ResumeError, match="no run"):
        resume(run, flow=main)


def test_a_key_file_that_is_gone_makes_all_values_absent(caplog: pytest.LogCaptureFixture) -> None:
    script = """
        from penstock import flow, task, resume
        import sys, os
        @task
        def step(x):
            print("step", x)
            return x
        @flow(persist_result=True)
        def main():
            step(1)
            if sys.argv[1] == "fail":
                raise ValueError("no")
        if sys.argv[1] == "fail":
            main(return_state=True)
        else:
            resume(sys.argv[2], flow=main)
    """
    path = home().parent / "script.py"
    path.write_text(textwrap.dedent(script))
    assert run_python(path, "fail").stdout == "step 1\n"
    (home() / "results.key").unlink()
    again = run_python(path, "resume", last_run().id)
    assert again.stdout == "step 1\n"
    assert "counts as absent" in again.stderr


def run_python(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, check=True, timeout=40, **options
    )


# --- other processes --------------------------------------------------------------------------------------------

PACKAGE = """
from penstock import flow, task

@task
def step(x):
    print("step", x)
    return x

@flow(persist_result=True)
def main(directory, n=2):
    values = [step(number) for number in range(n)]
    if (directory / "fail").exists():
        raise ValueError("told to")
    return sum(values)
"""


def test_a_flow_of_a_package_goes_on_in_another_process(tmp_path: Path) -> None:
    package = tmp_path / "shop" / "flows"
    package.mkdir(parents=True)
    (tmp_path / "shop" / "__init__.py").touch()
    (package / "__init__.py").touch()
    (package / "night.ly.py").touch()
    (package / "daily.py").write_text(PACKAGE)
    (tmp_path / "fail").touch()
    start = "import pathlib; from shop.flows.daily import main; main(pathlib.Path(), return_state=True)"
    assert run_python("-c", start, cwd=tmp_path).stdout == "step 0\nstep 1\n"
    (tmp_path / "fail").unlink()
    run = last_run().id
    go_on = f"import penstock; print(penstock.resume({run!r}, parameters={{'n': 3}}))"
    assert run_python("-c", go_on, cwd=tmp_path).stdout == "step 2\n3\n"
    with pytest.raises(ResumeError, match="was resumed"):
        resume(run, flow=asking)


def test_a_script_goes_on_by_command_and_by_itself(tmp_path: Path) -> None:
    script = tmp_path / "nightly.py"
    call = (
        '\nif __name__ == "__main__":\n    import pathlib\n    main(pathlib.Path(__file__).parent, return_state=True)'
    )
    script.write_text(PACKAGE + call)
    (tmp_path / "fail").touch()
    assert run_python(script).stdout == "step 0\nstep 1\n"
    (tmp_path / "fail").unlink()
    done = run_python("-m", "penstock.cli", "resume", last_run().id, cwd="/")
    assert "step" not in done.stdout
    assert last_run().status == "COMPLETED"


def test_the_same_flow_from_another_place_of_the_program(tmp_path: Path) -> None:
    """What a script has kept is found by who imports the script as a module."""
    script = tmp_path / "weekly.py"
    call = (
        '\nif __name__ == "__main__":\n    import pathlib\n    main(pathlib.Path(__file__).parent, return_state=True)'
    )
    script.write_text(PACKAGE + call)
    (tmp_path / "fail").touch()
    run_python(script)
    (tmp_path / "fail").unlink()
    go_on = f"import penstock, weekly; print(penstock.resume({last_run().id!r}))"
    assert run_python("-c", go_on, cwd=tmp_path).stdout == "1\n"


@task(persist_result=False)
def around(directory: Path, x: int) -> int:
    return inside(directory, x) + inside.submit(directory, x + 1).result()


@task
def inside(directory: Path, x: int) -> int:
    with (directory / "executed").open("a") as file:
        file.write(f"{x} ")
    return x


@task(persist_result=False)
def further_in(directory: Path, x: int) -> int:
    return around.submit(directory, x).result()


@flow(persist_result=True, task_runner=ProcessPoolTaskRunner(max_workers=2))
def abroad(directory: Path) -> int:
    values = [*around.map([directory] * 2, [1, 1]), further_in.submit(directory, 3)]
    total = sum(value.result() for value in values)
    trip()
    return total


def test_what_was_kept_inside_of_what_was_not_is_restored_in_workers(tmp_path: Path) -> None:
    run = fail_once(lambda: abroad(tmp_path))
    assert sorted((tmp_path / "executed").read_text().split()) in (["1", "2", "3", "4"], ["1", "1", "2", "2", "3", "4"])
    (tmp_path / "executed").write_text("")
    assert resume(run) == 13
    assert (tmp_path / "executed").read_text() == ""


# --- interruptions ----------------------------------------------------------------------------------------------


class Interrupting:
    """A serializer during which the user presses Ctrl-C."""

    type = "interrupting"

    def dumps(self, obj: Any) -> bytes:
        if "interrupt" in failing:
            failing.discard("interrupt")
            os.kill(os.getpid(), signal.SIGINT)
        return str(obj).encode()

    def loads(self, blob: bytes) -> int:
        return int(blob)


def test_ctrl_c_while_a_value_is_written() -> None:
    @task(result_serializer=Interrupting())
    def precious() -> int:
        executed.append("precious")
        return 1

    @flow(persist_result=True)
    def main() -> Any:
        return precious() + step(1)

    failing.add("interrupt")
    with pytest.raises(KeyboardInterrupt):
        main()
    assert executed == ["precious"]
    assert last_run().status == "CRASHED"
    assert [row.status for row in below(last_run().id)] == ["COMPLETED"]
    assert resume(last_run().id, flow=main) == 2
    assert executed == ["precious", 1]


def test_ctrl_c_while_a_value_of_a_task_alone_is_written(caplog: pytest.LogCaptureFixture) -> None:
    @task(cache_policy=INPUTS, result_serializer=Interrupting())
    def precious() -> int:
        executed.append("precious")
        return 1

    failing.add("interrupt")
    with pytest.raises(KeyboardInterrupt):
        precious()
    assert "internal error" not in said(caplog)
    assert precious() == 1
    assert executed == ["precious"]  # what had ended when the interrupt came is kept


def test_a_retry_of_the_flow_after_a_resume() -> None:
    @flow(persist_result=True, retries=1)
    def main() -> Any:
        values = [step(1)]
        trip()
        values.append(step(2))
        trip("late")
        return values

    failing.update({0, "late"})
    with pytest.raises(ValueError, match="tripped"):
        main()
    assert executed == [1]
    failing.discard(0)
    executed.clear()
    with pytest.raises(ValueError, match="tripped"):
        resume(last_run().id, flow=main)
    assert executed == [2]
    failing.clear()
    assert resume(last_run().id, flow=main) == [1, 2]
    assert executed == [2]


def test_no_forecast_is_no_reason_not_to_start(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    @flow(persist_result=True)
    def main() -> None:
        trip()

    run = fail_once(main)

    def broken(*args: Any) -> Any:
        raise RuntimeError("no forecast today")

    monkeypatch.setattr("penstock.resuming.forecast", broken)
    assert resume(run, flow=main) is None
    assert "cannot be told: RuntimeError: no forecast today" in said(caplog)


def test_what_cannot_start_claims_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    @flow(persist_result=True)
    def main() -> None:
        trip()

    run = fail_once(main)
    with monkeypatch.context() as patch:
        patch.setenv("PENSTOCK_RESULTS_DEFAULT_SERIALIZER", "yaml")
        with pytest.raises(ConfigurationError):
            resume(run, flow=main)
    assert resume(run, flow=main) is None


def test_a_coroutine_that_nobody_awaits_claims_nothing() -> None:
    failing.add(0)
    with pytest.raises(ValueError, match="tripped"):
        asyncio.run(asking_async())
    failing.clear()
    run = last_run().id
    resume(run).close()
    assert asyncio.run(resume(run)) == 1
