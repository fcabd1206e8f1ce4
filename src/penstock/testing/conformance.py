"""What task runners and stores must do, as checks to be run against one's own.

`check_runner` and `check_store` run all of them. For one test each, parametrize with `RUNNER_CHECKS` and `run_check`:

>>> from penstock.task_runners import ThreadPoolTaskRunner
>>> for check in RUNNER_CHECKS[:2]:
...     run_check(check, ThreadPoolTaskRunner)

A check asks a runner only for what its `capabilities` say that it can do. For stores, call the functions in
`STORE_CHECKS` with a store that is empty.
"""

from __future__ import annotations

from penstock.testing.runner_suite import CHECKS as RUNNER_CHECKS
from penstock.testing.runner_suite import check_runner, run_check
from penstock.testing.store_suite import CHECKS as STORE_CHECKS
from penstock.testing.store_suite import check_store

__all__ = ["RUNNER_CHECKS", "STORE_CHECKS", "check_runner", "check_store", "run_check"]
