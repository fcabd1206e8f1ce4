"""Every test gets a store of its own and must leave no thread and no open file behind."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

import groups
import leaks
import penstock._engine
from browser import browser as browser
from dask_clusters import running_cluster
from postgres_server import server as server

# The same examples every time: a failure must be about the change at hand. `--hypothesis-profile=default`
# explores. No deadline: a slow machine is not a bug.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.load_profile("repeatable")


_channel = groups.Channel()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    groups.tell(config, items)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    _channel.open_for(node)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> groups.Groups | None:
    return groups.Groups(config, log, _channel) if config.getoption("dist") == "loadgroup" else None


def pytest_unconfigure() -> None:
    _channel.close()


def pytest_collection_finish() -> None:
    """What has been imported by now stays: to look through all of it at each collection would take a minute in all."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    before = leaks.snapshot()
    yield
    # Missing until the engine has helpers (timers, loop, writer) to stop.
    shutdown = getattr(penstock._engine, "shutdown", None)
    if shutdown is not None:
        shutdown()
    logging.getLogger("penstock").setLevel(logging.NOTSET)  # a run has set it, for the runs of its test
    if found := leaks.since(before):
        pytest.fail("the test leaked:\n" + "\n".join(found), pytrace=False)


@pytest.fixture(autouse=True)
def own_store(no_leaks: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The test's PENSTOCK_HOME. Asks for `no_leaks` so that leaks are looked for after its own teardown."""
    home = tmp_path / "penstock-home"
    monkeypatch.setenv("PENSTOCK_HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))  # where nobody has settings of his own
    return home


@pytest.fixture(scope="session")
def dask_address() -> Iterator[str]:
    """Of a Dask cluster that goes on from test to test: two workers with one thread each."""
    with running_cluster() as address:
        yield address


@pytest.fixture(scope="session")
def running_ray() -> Iterator[None]:
    """This process is connected to a Ray of two CPUs, and five cups, that goes on from test to test."""
    from penstock.task_runners import ray  # takes half a second, and most tests do without it

    with ray.connected("local", {"num_cpus": 2, "resources": {"cup": 5}, "log_to_driver": False}):
        yield
