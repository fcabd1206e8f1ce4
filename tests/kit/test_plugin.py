"""The pytest plugin, as a project sees it that uses penstock, or does not: each in a pytest of its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

SHOP = """
from penstock import flow, task

@task(retries=1, retry_delay_seconds=60)
def load(path: str) -> int:
    raise RuntimeError("the real one")

@flow
def etl() -> int:
    return load.submit("a").result()

@flow
def hello() -> str:
    return "hello"
"""


@pytest.fixture
def home(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where everything of the user's is, who has set nothing; temporary files are there, too."""
    home = pytester.path / "home"
    (home / "tmp").mkdir(parents=True)
    for name in [name for name in os.environ if name.startswith(("PENSTOCK_", "XDG_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("TMPDIR", str(home / "tmp"))
    pytester.makepyfile(shop=SHOP)
    return home


def run(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return pytester.runpytest_subprocess("-p", "no:cacheprovider", "--basetemp=basetemp", *arguments, timeout=50)


def files_in(home: Path) -> list[str]:
    return sorted(path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file())


TESTS_THAT_RECORD = """
import subprocess, sys, threading
import pytest, shop

shop.hello()  # while pytest collects

@pytest.fixture(scope="session", autouse=True)
def prepared():
    shop.hello()

def test_here(penstock_runs):
    shop.hello()
    assert penstock_runs["hello"].states == ["Completed"]

def test_in_a_thread(penstock_runs):
    thread = threading.Thread(target=shop.hello)
    thread.start()
    thread.join()
    assert penstock_runs["hello"].states == ["Completed"]

def test_in_another_process():
    subprocess.run([sys.executable, "-c", "import shop; shop.hello()"], check=True)

def test_nothing_is_left_of_the_others(penstock_runs):
    assert len(penstock_runs) == 0
"""


@pytest.mark.parametrize("processes", ["0", "2"])
def test_the_users_store_is_not_touched(pytester: pytest.Pytester, home: Path, processes: str) -> None:
    pytester.makepyfile(TESTS_THAT_RECORD)
    run(pytester, "-n", processes).assert_outcomes(passed=4)
    assert files_in(home) == []


def test_that_it_would_be_seen(pytester: pytest.Pytester, home: Path) -> None:
    """The test of the test above: without isolation there is something to be found."""
    pytester.makeini("[pytest]\npenstock_isolation = off")
    pytester.makepyfile(TESTS_THAT_RECORD)
    run(pytester, "-k", "here or thread").assert_outcomes(passed=2)
    assert any(name.startswith(".local/state/penstock/") for name in files_in(home))


def test_a_process_of_xdist_that_is_killed_leaves_nothing_behind(pytester: pytest.Pytester, home: Path) -> None:
    pytester.makepyfile(
        """
        import os, signal

        def test_it():
            import shop
            shop.hello()
            os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    result = run(pytester, "-n", "1", "--max-worker-restart=0")
    result.stdout.fnmatch_lines(["*worker 'gw0' crashed*"])
    assert files_in(home) == []


def test_one_store_for_a_session(pytester: pytest.Pytester, home: Path) -> None:
    pytester.makeini("[pytest]\npenstock_isolation = session")
    pytester.makepyfile(
        """
        import os, shop
        from penstock.testing.runs import RecordedRuns

        def test_one(penstock_runs):
            shop.hello()
            assert len(penstock_runs) == 1

        def test_two(penstock_runs):
            shop.hello()
            assert len(penstock_runs) == 1  # those of this test
            assert len(RecordedRuns()) == 2
            assert os.path.isfile(os.path.join(os.environ["PENSTOCK_HOME"], "penstock.db"))
        """
    )
    run(pytester).assert_outcomes(passed=2)
    assert files_in(home) == []


def test_a_store_that_the_test_run_has_chosen_is_used(pytester: pytest.Pytester, home: Path) -> None:
    pytester.makepyfile(
        """
        import os
        import pytest, shop

        @pytest.fixture(scope="session", autouse=True)
        def chosen(tmp_path_factory):
            os.environ["PENSTOCK_HOME"] = str(tmp_path_factory.mktemp("chosen"))

        @pytest.mark.parametrize("number", [1, 2, 3])
        def test_it(chosen, number):
            shop.hello()
            assert os.path.isfile(os.path.join(os.environ["PENSTOCK_HOME"], "penstock.db"))

        def test_one_of_its_own(monkeypatch, tmp_path):
            monkeypatch.setenv("PENSTOCK_HOME", str(tmp_path))
            shop.hello()
            assert (tmp_path / "penstock.db").is_file()
        """
    )
    run(pytester).assert_outcomes(passed=4)
    assert files_in(home) == []


def test_who_does_not_use_penstock_does_not_load_it(pytester: pytest.Pytester, home: Path) -> None:
    pytester.makepyfile(
        """
        import os, sys

        def test_it():
            assert [name for name in sys.modules if name.startswith("penstock")] == []
            assert not os.path.exists(os.environ["PENSTOCK_HOME"])
        """
    )
    run(pytester).assert_outcomes(passed=1)


def test_fixtures_that_are_the_first_to_import_it(pytester: pytest.Pytester, home: Path) -> None:
    pytester.makepyfile(
        """
        import os, sys

        def test_it(penstock_runs, penstock_stub, penstock_clock, penstock_runner):
            import shop
            assert penstock_runner is None
            penstock_stub(shop.load, side_effect=[OSError("busy"), 7])
            assert shop.etl() == 7
            assert penstock_runs["load"].attempts == [2]
            assert os.path.basename(os.environ["PENSTOCK_HOME"]) == "1"
        """
    )
    run(pytester).assert_outcomes(passed=1)


def test_nobody_is_shown_progress_and_everything_is_as_before_in_the_end(
    pytester: pytest.Pytester, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENSTOCK_PROGRESS", "on")
    pytester.makeconftest(
        """
        import atexit, os

        atexit.register(lambda: print("PROGRESS", os.environ["PENSTOCK_PROGRESS"], "PENSTOCK_HOME" in os.environ))
        """
    )
    pytester.makepyfile(
        """
        def test_it(capfd):
            import penstock.settings, shop
            shop.hello()
            assert penstock.settings.current().progress == "off"
            assert capfd.readouterr() == ("", "")
        """
    )
    result = run(pytester)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["PROGRESS on False"])


def test_a_stub_that_is_not_called_as_often_as_it_should(pytester: pytest.Pytester, home: Path) -> None:
    pytester.makepyfile(
        """
        import shop

        def test_it(penstock_stub):
            penstock_stub(shop.load, returns=1, times=2)
            shop.etl()

        def test_the_next(penstock_stub):
            penstock_stub(shop.load, returns=2)
            assert shop.etl() == 2
        """
    )
    result = run(pytester)
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["'load' was called 1 time(s), expected 2: [[]{'path': 'a'}]"])


RUNNER_TESTS = """
import os
import pytest, shop

def test_it(penstock_runner, penstock_stub):
    penstock_stub(shop.load, side_effect=pid)
    assert (shop.etl() == os.getpid()) is (penstock_runner in (None, "sequential", "threads"))

def test_without(): ...

@pytest.mark.parametrize("penstock_runner", ["sequential"], indirect=True)
def test_that_says_itself(penstock_runner):
    assert penstock_runner == "sequential"

def pid(path):
    return os.getpid()
"""
# Stands for an environment in which neither Dask nor Ray is installed.
WITHOUT_CLUSTERS = """
import importlib.util

find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name in ("ray", "distributed") else find_spec(name, *rest)
"""


def test_every_runner(pytester: pytest.Pytester, home: Path) -> None:
    pytester.makepyfile(RUNNER_TESTS)
    pytester.makeconftest(WITHOUT_CLUSTERS)
    result = run(pytester, "--penstock-runner=all", "-v", "-rs")
    result.assert_outcomes(passed=5, skipped=2)
    for name in ("sequential", "threads", "processes"):
        result.stdout.fnmatch_lines([f"*::test_it[[]{name}[]] PASSED*"])
    result.stdout.fnmatch_lines(['SKIPPED*the dask runner needs the package *pip install "penstock[[]dask[]]"'])


def test_no_runner(pytester: pytest.Pytester, home: Path) -> None:
    pytester.makepyfile(RUNNER_TESTS)
    result = run(pytester, "-v")
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["*::test_it PASSED*"])


def test_some_runners_in_several_processes(pytester: pytest.Pytester, home: Path) -> None:
    pytester.makepyfile(RUNNER_TESTS)
    run(pytester, "-n", "2", "--penstock-runner", "processes, threads").assert_outcomes(passed=4)
    assert files_in(home) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--penstock-runner=treads",), "there is no runner 'treads', choose from all, sequential, threads,"),
        (("-o", "penstock_isolation=none"), "penstock_isolation must be test, session or off; got 'none'"),
    ],
    ids=["runner", "isolation"],
)
def test_misspelt(pytester: pytest.Pytester, home: Path, arguments: tuple[str, ...], message: str) -> None:
    result = run(pytester, *arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*{message}*"])
