"""What the crash tests have in common: where they are carried out, how much of it, and where their figures go."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator

import pytest
from sweeping import Stages

SWEEP = "PENSTOCK_TEST_SWEEP"


def pytest_configure(config: pytest.Config) -> None:
    del config
    # The library complains about names that begin like its own and that it does not know.
    os.environ["CRASH_SWEEP"] = os.environ.pop(SWEEP, os.environ.get("CRASH_SWEEP", ""))


@pytest.fixture(scope="session")
def full() -> bool:
    """Whether every point is wanted, however long that takes: `PENSTOCK_TEST_SWEEP=full`."""
    return os.environ["CRASH_SWEEP"] == "full"


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Thousands of crashed runs are reported as such here: nobody would find a complaint among them."""
    caplog.set_level(logging.CRITICAL, "penstock.store")


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stages]:
    found = Stages(tmp_path_factory.mktemp("crash"))
    try:
        yield found
    finally:
        found.close()


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Print figures, which are what these tests are for, whether or not output is captured."""

    def print_it(line: str) -> None:
        with capsys.disabled():
            print(f"\n  {line}", end="", flush=True)

    return print_it
