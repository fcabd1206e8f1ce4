"""Every test gets a store of its own and must leave no thread and no open file behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

import leaks
import penstock._engine

# The same examples every time: a failure must be about the change at hand. `--hypothesis-profile=default`
# explores. No deadline: a slow machine is not a bug.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    before = leaks.snapshot()
    yield
    # Missing until the engine has helpers (timers, loop, writer) to stop.
    shutdown = getattr(penstock._engine, "shutdown", None)
    if shutdown is not None:
        shutdown()
    if found := leaks.since(before):
        pytest.fail("the test leaked:\n" + "\n".join(found), pytrace=False)


@pytest.fixture(autouse=True)
def own_store(no_leaks: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The test's PENSTOCK_HOME. Asks for `no_leaks` so that leaks are looked for after its own teardown."""
    home = tmp_path / "penstock-home"
    monkeypatch.setenv("PENSTOCK_HOME", str(home))
    return home
