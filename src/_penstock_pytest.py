"""The pytest plugin: stores apart from yours for every test, and what `penstock.testing` offers as fixtures.

It lives outside the package because pytest imports plugins at every start, in every project of the environment
and before coverage is measured; importing anything inside the package would import all of it. So nothing of the
package is imported before a test has, and a test of something else pays for one look into `sys.modules`.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from penstock.store.base import Reader
    from penstock.testing import RecordedRuns, SkippingClock
    from penstock.testing.stubs import MakeStub

_HOME, _PROGRESS, _RUNNER = "PENSTOCK_HOME", "PENSTOCK_PROGRESS", "PENSTOCK_RUNNER"
_PREFIX = "penstock-pytest-"
_ISOLATION = "penstock-isolation"  # under this name the plugin below is found
_RUNNERS = {"sequential": None, "threads": None, "processes": None, "dask": "distributed", "ray": "ray"}
"""The names of runners, and the packages that they need."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("penstock").addoption(
        "--penstock-runner",
        metavar="NAMES",
        help="Run each test that uses the fixture `penstock_runner` once under each of these task runners:"
        f" {', '.join(_RUNNERS)}, several of them with commas between, or all.",
    )
    parser.addini(
        "penstock_isolation",
        "Where the runs of tests are recorded. test: each test has a store of its own, in memory. session: one"
        " throw-away store for all. off: wherever the settings say, which may be your own store.",
        default="test",
    )


def pytest_configure(config: pytest.Config) -> None:
    _wanted_runners(config)
    isolation = config.getini("penstock_isolation")
    if isolation not in ("test", "session", "off"):
        raise pytest.UsageError(f"penstock_isolation must be test, session or off; got {isolation!r}")
    if isolation != "off":
        config.pluginmanager.register(Isolation(each_test=isolation == "test"), _ISOLATION)


class Isolation:
    """Keeps what tests record out of the user's store, also in processes that they start."""

    def __init__(self, *, each_test: bool) -> None:
        self._each_test = each_test
        self._before = {name: os.environ.get(name) for name in (_HOME, _PROGRESS)}
        # Most sessions never write there. A directory that does not exist costs nothing, and nobody can guess its name.
        # That of a process that xdist starts, and may kill, is inside the one that goes with xdist's own end.
        around = os.environ.get(_HOME, "")
        place = around if _PREFIX in around else tempfile.gettempdir()
        self._home = os.path.join(place, f"{_PREFIX}{os.urandom(8).hex()}")
        self._tests = 0
        os.environ.update({_HOME: self._home, _PROGRESS: "off"})

    @pytest.hookimpl(hookwrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self) -> Generator[None, Any, None]:
        with self.own_home() if "penstock.calls" in sys.modules else nullcontext():
            yield

    def own_home(self) -> AbstractContextManager[object]:
        """A store in memory, unless there is one for this test already, or the test run has chosen one itself."""
        if not self._each_test or os.environ.get(_HOME) != self._home:
            return nullcontext()
        from penstock.testing.isolation import home_in_memory

        self._tests += 1
        return home_in_memory(os.path.join(self._home, str(self._tests)))

    def pytest_unconfigure(self) -> None:
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if "penstock.calls" in sys.modules:
            from penstock.testing.isolation import leave

            leave(self._home)
        elif os.path.isdir(self._home):  # another process has recorded something
            shutil.rmtree(self._home, ignore_errors=True)


# --- fixtures ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def _penstock_home(request: pytest.FixtureRequest) -> Iterator[None]:
    """For a test whose fixtures are the first to import penstock."""
    isolation: Isolation | None = request.config.pluginmanager.get_plugin(_ISOLATION)
    with nullcontext() if isolation is None else isolation.own_home():
        yield


@pytest.fixture
def penstock_store() -> Iterator[Reader]:
    """A throw-away store that the test's runs are recorded in: see `penstock.testing.isolated_store`."""
    from penstock.testing import isolated_store

    with isolated_store() as store:
        yield store


@pytest.fixture
def penstock_runs(_penstock_home: None) -> RecordedRuns:
    """The runs of this test, as they are recorded: `penstock_runs["load"].states == ["Completed", "Failed"]`."""
    from penstock.testing import recorded_runs

    return recorded_runs()


@pytest.fixture
def penstock_clock(_penstock_home: None) -> Iterator[SkippingClock]:
    """A clock that skips the time in which everything waits, so that retry delays and time limits take none."""
    from penstock.testing import SkippingClock

    with SkippingClock() as clock:
        yield clock


@pytest.fixture
def penstock_stub(_penstock_home: None) -> Iterator[MakeStub]:
    """`penstock_stub(task, returns=...)` puts something else in the place of a task's function, for this test.

    Takes the arguments of `penstock.testing.stub`, and returns what that yields.
    """
    from penstock.testing import stub

    stubs = ExitStack()

    def stub_for_this_test(task: Any, **behaviour: Any) -> Any:
        return stubs.enter_context(stub(task, **behaviour))

    try:
        with stubs:
            yield stub_for_this_test
    except AssertionError as error:  # not called as often as it should have been
        pytest.fail(str(error), pytrace=False)


@pytest.fixture
def penstock_runner(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str | None:
    """The name of the task runner that all flows of the test use; None: each uses what it asks for.

    With `--penstock-runner=all`, or with names, the test runs once under each.
    """
    name: str | None = getattr(request, "param", None)
    if name is not None:
        monkeypatch.setenv(_RUNNER, name)
    return name


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "penstock_runner" not in metafunc.fixturenames or _is_parametrized(metafunc):
        return
    names = _wanted_runners(metafunc.config)
    if names:
        metafunc.parametrize("penstock_runner", [_parameter(name) for name in names], indirect=True)


def _is_parametrized(metafunc: pytest.Metafunc) -> bool:
    """Whether the test says itself which runners it is for."""
    marks = metafunc.definition.iter_markers("parametrize")
    return any("penstock_runner" in str(mark.args[0]) for mark in marks if mark.args)


def _wanted_runners(config: pytest.Config) -> list[str]:
    text = config.getoption("penstock_runner") or ""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in (*_RUNNERS, "all"):
            raise pytest.UsageError(
                f"--penstock-runner={text}: there is no runner {name!r}, choose from all, {', '.join(_RUNNERS)}"
            )
    return list(_RUNNERS if "all" in names else dict.fromkeys(names))


def _parameter(name: str) -> Any:
    package = _RUNNERS[name]
    missing = package is not None and importlib.util.find_spec(package) is None
    reason = f'the {name} runner needs the package {package!r}: pip install "penstock[{name}]"'
    return pytest.param(name, marks=[pytest.mark.skip(reason=reason)] if missing else [])
