"""For tests of code that uses penstock, and of task runners and stores made for it.

`isolated_store` keeps a test's records out of your own store, `temporary_settings` changes settings for a block,
`ManualClock` lets delays and deadlines pass at once, and `ScriptedRunner` executes tasks when, and in the order
in which, the test says so. `check_runner` and `check_store` are the conformance suites; `penstock.testing.conformance`
has their checks one by one.

pytest finds the fixture `penstock_store` by itself.
"""

from __future__ import annotations

from penstock.settings import temporary_settings
from penstock.testing.clock import ManualClock
from penstock.testing.isolation import isolated_store
from penstock.testing.runner_suite import check_runner
from penstock.testing.scripted import ScriptedRunner
from penstock.testing.store_suite import check_store

__all__ = [
    "ManualClock",
    "ScriptedRunner",
    "check_runner",
    "check_store",
    "isolated_store",
    "temporary_settings",
]
