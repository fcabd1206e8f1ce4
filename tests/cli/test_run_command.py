"""`penstock run`: a flow of a file or module, in this process, with its outcome as exit status."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from acting import PENSTOCK, RUNNERS, below, penstock, recorded, start, stopped, wait_for, write

SCRIPT = """
    import os
    import sys
    from dataclasses import dataclass
    from pathlib import Path
    from penstock import flow, task, runtime
    from penstock.cache_policies import INPUTS

    @dataclass
    class Day:
        name: str

    @task(cache_policy=INPUTS)
    def load(name: str) -> Day:
        return Day(name)

    @task
    def look(day: Day) -> tuple[int, bool]:
        return os.getpid(), type(day) is Day

    @flow
    def etl(day: str, n: int = 1, shops: list[str] | None = None) -> None:
        found = load.submit(day)
        pid, known = look.submit(found).result()
        print(repr(day), n, shops, type(found.result()) is Day, known, pid == os.getpid())

    @flow(name="in-words")
    def other(**words: object) -> None:
        print(words, runtime.flow_run.name, sorted(runtime.flow_run.tags))
        os.system("echo from a process")

    if "__main__" == __name__:
        etl("from the script")
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    return write(tmp_path / "my-etl.py", SCRIPT)


def output(script: Path, *arguments: object, typed: str | None = None, **environment: str) -> str:
    done = penstock("run", *arguments, directory=script.parent, typed=typed, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(directory: Path, *arguments: object, status: int = 2) -> str:
    done = penstock("run", *arguments, directory=directory)
    assert (done.returncode, done.stdout) == (status, ""), done.stderr
    assert recorded() == []
    return done.stderr


# --- parameters ---------------------------------------------------------------------------------------------------


def test_parameters_are_json_or_text(script: Path) -> None:
    printed = output(script, "my-etl.py:etl", "--param", "day=monday", "-p", "n=2", "-p", 'shops=["north", "a=b"]')
    assert printed == "'monday' 2 ['north', 'a=b'] True True True\n"
    (run,) = recorded()
    assert (run.name, run.status, run.key) == ("etl", "COMPLETED", "my-etl.etl")
    assert json.loads(run.parameters) == {"day": "'monday'", "n": "2", "shops": "['north', 'a=b']"}


@pytest.mark.parametrize(
    ("text", "shown"), [("12", "'12'"), ("1.10", "'1.10'"), ("true", "'true'"), ('"12"', "'12'"), ("[", "'['")]
)
def test_a_text_stays_one_where_a_text_is_wanted(script: Path, text: str, shown: str) -> None:
    assert output(script, "my-etl.py:etl", "--param", f"day={text}").startswith(shown)


def test_parameters_from_a_file(script: Path) -> None:
    as_json = write(script.parent / "p.json", '{"day": "friday", "n": 3}')
    as_toml = write(script.parent / "p.toml", 'day = "friday"\nn = 3\nshops = ["x"]')
    assert output(script, "my-etl.py:etl", "--params", as_json).startswith("'friday' 3 None")
    assert output(script, "my-etl.py:etl", "--params", as_toml, "-p", "n=4").startswith("'friday' 4 ['x']")
    assert output(script, "my-etl.py:etl", "--params", "-", typed='{"day": "x"}').startswith("'x' 1 None")


def test_a_flow_may_take_any_names(script: Path) -> None:
    printed = output(script, "my-etl.py:in-words", "-p", "a=1", "-p", "b=x", "--name", "n{a}me", "--tag", "t")
    assert printed.splitlines() == ["{'a': 1, 'b': 'x'} n{a}me ['t']", "from a process"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-p", "da=1"], ["flow 'etl' has no parameter 'da'", "day, n, shops"]),
        (["-p", "day"], ["--param day: expected NAME=VALUE"]),
        ([], ["missing a required argument: 'day': give it with -p day=..."]),
        (["-p", "day=x", "-p", "n=many"], ["n: Input should be a valid integer"]),
        (["--params", "bad.json"], ["bad.json cannot be read"]),
        (["--params", "list.json"], ["list.json holds no object"]),
        (["-p", "day=x", "-j", "2"], ["-j needs --runner"]),
        (["-p", "day=x", "--runner", "sequential", "-j", "2"], ["cannot have 2 workers"]),
        (["-p", "day=x", "--runner", "fibers"], ["'fibers'"]),
    ],
    ids=lambda value: " ".join(value[:2]).replace("/", "") if isinstance(value, list) else None,
)
def test_wrong_arguments_start_nothing(script: Path, arguments: list[str], words: list[str]) -> None:
    write(script.parent / "bad.json", "{")
    write(script.parent / "list.json", "[1]")
    said = refused(script.parent, "my-etl.py:etl", *arguments)
    assert all(word in said for word in words), said


BARE = """
    import sys
    sys.modules["distributed"] = None
    from penstock.cli import main
    main(sys.argv[1:])
"""


def bare(directory: Path, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command where the extra of Dask is not installed."""
    command = [sys.executable, "-c", textwrap.dedent(BARE), *map(str, arguments)]
    everything = {**os.environ, **environment}
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False, env=everything)


def test_a_runner_that_cannot_be_had_is_refused_wherever_it_is_asked_for(script: Path) -> None:
    arguments = ("run", "my-etl.py:etl", "-p", "day=x")
    cure = "DaskTaskRunner needs the 'distributed' package: pip install \"penstock[dask]\"\n"
    typed = bare(script.parent, *arguments, "--runner", "dask")
    assert (typed.returncode, typed.stderr.endswith(f"Error: {cure}")) == (2, True), typed.stderr
    done = bare(script.parent, *arguments, PENSTOCK_RUNNER="dask")
    assert (done.returncode, done.stderr.endswith(f"Error: the setting runner=dask: {cure}")) == (2, True), done.stderr
    assert recorded() == []
    other = bare(script.parent, *arguments, "--runner", "threads", PENSTOCK_RUNNER="dask")
    assert other.returncode == 0, other.stderr
    again = bare(script.parent, "rerun", "@last", PENSTOCK_RUNNER="dask")
    assert (again.returncode, "Traceback" in again.stderr) == (2, False), again.stderr


# --- targets ------------------------------------------------------------------------------------------------------


def test_a_file_with_one_flow_needs_no_name(tmp_path: Path) -> None:
    write(tmp_path / "one.py", "from penstock import flow\n@flow\ndef main():\n    print(__name__, __file__)")
    assert output(tmp_path / "one.py", "one.py") == f"__main__ {tmp_path / 'one.py'}\n"


def test_a_module_of_a_package_is_imported(tmp_path: Path) -> None:
    write(tmp_path / "shop" / "__init__.py", "")
    write(tmp_path / "shop" / "steps.py", "from penstock import flow\n@flow\ndef step(): ...")
    write(
        tmp_path / "shop" / "etl.py",
        """
        from penstock import flow, task
        from .steps import step
        @task
        def name(): return __name__
        @flow
        def etl(): print(name.submit().result())
        """,
    )
    assert output(tmp_path / "x", "shop.etl:etl") == "shop.etl\n"
    assert output(tmp_path / "x", "shop.etl", PENSTOCK_RUNNER="processes") == "shop.etl\n"
    assert output(tmp_path / "x", "shop.etl:step") == ""
    assert [run.key for run in recorded()] == ["shop.steps.step", "shop.etl.etl", "shop.etl.etl"]
    assert "part of a package" in penstock("run", "shop/etl.py", directory=tmp_path).stderr


@pytest.mark.parametrize(
    ("target", "status", "words"),
    [
        ("my-etl.py", 2, "\n  my-etl.py:etl\n  my-etl.py:other\n"),
        ("my-etl.py:load", 2, "'load' of my-etl.py is no flow, but a task"),
        ("my-etl.py:Day", 2, "'Day' of my-etl.py is no flow, but a type"),
        ("my-etl.py:elt", 3, "my-etl.py has no flow 'elt'; it has etl, other"),
        ("none.py", 3, "none.py has no flow"),
        ("missing.py:etl", 3, "missing.py: No such file"),
        ("none", 3, "none has no flow"),
        ("nothing.there:etl", 3, "there is no module 'nothing'"),
        ("imports", 2, "No module named 'nothing'"),
    ],
)
def test_what_is_no_target(script: Path, target: str, status: int, words: str) -> None:
    write(script.parent / "none.py", "x = 1")
    write(script.parent / "imports.py", "import nothing")
    assert words in refused(script.parent, target, status=status)


def test_a_script_that_starts_a_flow_itself_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "bare.py", "from penstock import flow\n\n@flow\ndef main():\n    print(1)\n\nmain()\n")
    said = refused(tmp_path, "bare.py")
    assert "line 7" in said and 'if __name__ == "__main__":' in said


@pytest.mark.parametrize("line", ["raise ValueError('broken')", "import sys; sys.exit(0)", "def f(:"])
def test_a_script_that_cannot_be_loaded(tmp_path: Path, line: str) -> None:
    write(tmp_path / "broken.py", f"x = 1\n{line}\n")
    said = refused(tmp_path, "broken.py")
    assert "broken.py cannot be loaded" in said and 'broken.py", line 2' in said
    assert "penstock/cli" not in said


def test_what_is_beside_the_guard_is_executed(tmp_path: Path) -> None:
    write(
        tmp_path / "both.py",
        """
        from __future__ import annotations
        from penstock import flow
        if __name__ != "__main__":
            raise ImportError
        @flow
        def main(x: Undefined = 1): print(x)
        if __name__ == "__main__" and main:
            raise ValueError
        else:
            print("else")
        """,
    )
    assert output(tmp_path / "both.py", "both.py") == "else\n1\n"


# --- runners ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("runner", RUNNERS)
def test_functions_of_a_script_are_executed_everywhere(script: Path, runner: str) -> None:
    printed = output(
        script, "my-etl.py:etl", "-p", "day=x", "--runner", runner, *(["-j", "1"] if runner != "sequential" else [])
    )
    assert printed == f"'x' 1 None True True {runner in ('sequential', 'threads')}\n"


def test_the_setting_is_for_all_flows_and_the_option_for_one(tmp_path: Path) -> None:
    write(
        tmp_path / "nested.py",
        """
        import os, threading
        from penstock import flow, task
        from penstock.task_runners import ThreadPoolTaskRunner
        @task
        def where():
            if os.getpid() != pid:
                return "process"
            return "here" if threading.current_thread() is threading.main_thread() else "thread"
        @flow(task_runner=ThreadPoolTaskRunner(2))
        def inner(): return where.submit().result()
        @flow
        def outer(): print(where.submit().result(), inner())
        pid = os.getpid()
        """,
    )
    script = tmp_path / "nested.py"
    assert output(script, "nested.py:outer") == "thread thread\n"
    assert output(script, "nested.py:outer", PENSTOCK_RUNNER="sequential") == "here here\n"
    assert output(script, "nested.py:outer", "--runner", "sequential") == "here thread\n"
    printed = output(script, "nested.py:outer", "--runner", "processes", PENSTOCK_RUNNER="sequential")
    assert printed == "process thread\n"


def test_a_run_is_the_same_as_that_of_the_script(script: Path) -> None:
    """The cache of one answers the other, with values of the script's own class."""
    subprocess.run([sys.executable, script], check=True, capture_output=True)
    printed = output(script, "my-etl.py:etl", "-p", "day=from the script")
    assert printed == "'from the script' 1 None True True True\n"
    mine, theirs = recorded()
    assert (mine.key, mine.version) == (theirs.key, theirs.version)
    assert json.loads(mine.info or "")["script"] == json.loads(theirs.info or "")["script"] == str(script)
    assert [run.state_name for run in below(mine) if run.name == "load"] == ["Cached"]


# --- outcomes -----------------------------------------------------------------------------------------------------

OUTCOMES = """
    import sys
    from pathlib import Path
    from penstock import flow, task
    from penstock.states import Cancelled

    @task
    def divide(n): return 1 / n

    @flow
    def fails(): divide.submit(0).result()
    @flow
    def cancelled(): return Cancelled()
    @flow
    def crashes(): sys.exit(0)
    @flow
    async def coroutine(n: int = 1): print("coroutine", await divide.submit(n))
    @flow
    def generator(n: int = 1):
        yield divide(n)
        print("generator")
    @flow
    async def async_generator(n: int = 1):
        yield divide(n)
        print("async_generator")
    @task
    def wait():
        Path("waits").touch()
        while True: pass
    @flow
    def waits():
        print("begins")
        wait.submit().result()
    @flow
    async def waits_too():
        print("begins")
        await wait.submit()
"""


@pytest.fixture
def outcomes(tmp_path: Path) -> Path:
    return write(tmp_path / "outcomes.py", OUTCOMES)


@pytest.mark.parametrize(
    ("flow", "status", "state"),
    [
        ("fails", 1, "Failed"),
        ("cancelled", 4, "Cancelled"),
        ("crashes", 5, "Crashed"),
    ],
)
def test_the_exit_status_is_the_outcome(outcomes: Path, flow: str, status: int, state: str) -> None:
    done = penstock("run", f"outcomes.py:{flow}", directory=outcomes.parent)
    assert done.returncode == status, done.stderr
    (run,) = recorded()
    assert run.state_name == state
    assert done.stderr.endswith(f"Type: penstock show {flow}/{run.run_name}\n")


def test_a_failure_is_shown_without_frames_of_the_library(outcomes: Path) -> None:
    said = penstock("run", "outcomes.py:fails", directory=outcomes.parent).stderr
    assert 'outcomes.py", line 8, in divide' in said and "ZeroDivisionError" in said
    assert "penstock/" not in said
    full = penstock("run", "outcomes.py:fails", directory=outcomes.parent, PENSTOCK_TRACEBACK="full").stderr
    assert "penstock/_engine" in full


@pytest.mark.parametrize("flow", ["coroutine", "generator", "async_generator"])
def test_flows_of_every_kind(outcomes: Path, flow: str) -> None:
    assert output(outcomes, f"outcomes.py:{flow}").startswith(flow)
    failed = penstock("run", f"outcomes.py:{flow}", "-p", "n=0", directory=outcomes.parent)
    assert (failed.returncode, failed.stdout) == (1, "")
    assert [run.status for run in recorded()] == ["FAILED", "COMPLETED"]


@pytest.mark.parametrize("flow", ["waits", "waits_too"])
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["INT", "TERM"])
def test_signals(outcomes: Path, flow: str, number: signal.Signals, status: int) -> None:
    process = start([*PENSTOCK, "run", f"outcomes.py:{flow}"], outcomes.parent)
    wait_for((outcomes.parent / "waits").exists)
    printed, said = stopped(process, number).communicate()
    # As a shell says it: by that signal a process may also have been ended.
    assert (process.returncode if process.returncode >= 0 else 128 - process.returncode) == status, said
    assert printed == "begins\n"
    (run,) = recorded()
    assert (run.status, [task.status for task in below(run)]) == ("CRASHED", ["CANCELLED"])


# --- for programs -------------------------------------------------------------------------------------------------


def test_json(script: Path) -> None:
    done = penstock("run", "my-etl.py:in-words", "-p", "n=2", "--json", directory=script.parent)
    assert done.returncode == 0
    assert "{'n': 2}" in done.stderr and "from a process" in done.stderr
    document = json.loads(done.stdout)
    (run,) = recorded()
    assert set(document) == {"schema", "run", "restored"}
    assert (document["run"]["id"], document["run"]["status"]) == (run.id, "COMPLETED")
    assert document["run"]["parameters"] == {"words": "{'n': 2}"}


def test_json_of_a_failure(outcomes: Path) -> None:
    done = penstock("run", "outcomes.py:fails", "--json", directory=outcomes.parent)
    run = json.loads(done.stdout)["run"]
    assert (done.returncode, run["id"]) == (1, recorded()[0].id)
    assert (run["status"], run["error_type"]) == ("FAILED", "ZeroDivisionError")


def test_the_store_may_be_named(script: Path) -> None:
    output(script, "my-etl.py:etl", "-p", "day=x", "--store", "there", "--runner", "processes")
    assert (script.parent / "there" / "penstock.db").exists()
    assert recorded() == []


def test_trouble_with_the_record_does_not_change_the_outcome(outcomes: Path) -> None:
    (outcomes.parent / "file").touch()
    done = penstock("run", "outcomes.py:coroutine", "--store", "file/store", directory=outcomes.parent)
    assert (done.returncode, done.stdout) == (0, "coroutine 1.0\n"), done.stderr
