"""For tests of code that uses penstock, and of task runners and stores made for it.

`isolated_store` keeps a test's records out of your own store, `recorded_runs` tells what happened in it, `stub` lets a
task return something else, `temporary_settings` changes settings for a block, `SkippingClock` lets delays and time
limits pass at once, and `ManualClock` when you say so. `ScriptedRunner` executes tasks when, and in the order in which,
the test says so. `check_runner` and `check_store` are the conformance suites; `penstock.testing.conformance` has their
checks one by one.

pytest finds the fixtures `penstock_runs`, `penstock_stub`, `penstock_clock`, `penstock_runner` and `penstock_store` by
itself, and gives every test a store of its own.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from penstock.settings import temporary_settings
from penstock.testing.clock import ManualClock
from penstock.testing.isolation import isolated_store
from penstock.testing.runs import RecordedRun, RecordedRuns, RunList, recorded_runs
from penstock.testing.scripted import ScriptedRunner
from penstock.testing.skipping import SkippingClock
from penstock.testing.stubs import MakeStub, Stub, stub

if TYPE_CHECKING:
    from penstock.testing.runner_suite import check_runner
    from penstock.testing.store_suite import check_store

__all__ = [
    "MakeStub",
    "ManualClock",
    "RecordedRun",
    "RecordedRuns",
    "RunList",
    "ScriptedRunner",
    "SkippingClock",
    "Stub",
    "check_runner",
    "check_store",
    "isolated_store",
    "recorded_runs",
    "stub",
    "temporary_settings",
]


def __getattr__(name: str) -> Any:
    """The suites take longer to load than all the rest, and few tests need them."""
    if name in ("check_runner", "check_store"):
        return getattr(import_module("penstock.testing.conformance"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
