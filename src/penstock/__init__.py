"""penstock: run ordinary functions as observable, concurrent, resumable work."""

from __future__ import annotations

import functools as _functools

from penstock import runtime
from penstock._engine import interrupt as _interrupt
from penstock._engine import visit as _visit
from penstock.annotations import allow_failure, opaque, quote, unmapped
from penstock.concurrency import concurrency, rate_limit  # the attribute is the function, not the module
from penstock.context import tags
from penstock.flows import Flow, flow
from penstock.futures import Future, FutureList, as_completed, wait
from penstock.logging import get_run_logger
from penstock.resuming import resume
from penstock.sessions import Session as _Session
from penstock.states import State
from penstock.storing import open_store as _open_store
from penstock.task_runners import base as _runners
from penstock.task_runners import errand as _errand
from penstock.tasks import Task, task
from penstock.transactions import transaction

# A runner may not import what stands above it.
_runners.open_session = _Session
_runners.open_home = _functools.partial(_visit.Home, open_store=_open_store)
_runners.make_errand = _errand.Errand
_runners.preparations.append(_interrupt.arm_alarm)

__all__ = [
    "Flow",
    "Future",
    "FutureList",
    "State",
    "Task",
    "allow_failure",
    "as_completed",
    "concurrency",
    "flow",
    "get_run_logger",
    "opaque",
    "quote",
    "rate_limit",
    "resume",
    "runtime",
    "tags",
    "task",
    "transaction",
    "unmapped",
    "wait",
]
