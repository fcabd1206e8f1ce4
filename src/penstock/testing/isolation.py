"""A store that a test has to itself."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from penstock._engine.recorder import recorder_for
from penstock.settings import temporary_settings
from penstock.store.base import Reader
from penstock.store.memory import MemoryStore

_VARIABLE = "PENSTOCK_HOME"


@contextmanager
def isolated_store() -> Iterator[Reader]:
    """Record the runs of the block in a throw-away store; yields it, for reading.

    It holds for the whole process, all threads of it, and blocks nest; so there can be one at a time. The
    records are kept in memory. `PENSTOCK_HOME` names a new temporary directory meanwhile, so that processes
    started inside the block leave your own store alone, too. What a run recorded can be read as soon as the
    outermost call has returned. At the end everything is thrown away; the yielded store remains readable.

    >>> from penstock import flow
    >>> @flow
    ... def nightly(): ...
    >>> with isolated_store() as store:
    ...     nightly()
    >>> [(run.name, run.status) for run in store.runs()]
    [('nightly', 'COMPLETED')]
    """
    home = tempfile.mkdtemp(prefix="penstock-test-")
    try:
        store = MemoryStore()
        # The process finds the recorder of a store by the store's directory: from any thread it will find this one.
        recorder = recorder_for(home, lambda: store)
        with _environment(home), temporary_settings({_VARIABLE: home}):
            try:
                yield store
            finally:
                recorder.close()
    finally:
        shutil.rmtree(home, ignore_errors=True)


@contextmanager
def _environment(home: str) -> Iterator[None]:
    before = os.environ.get(_VARIABLE)
    os.environ[_VARIABLE] = home
    try:
        yield
    finally:
        if before is None:
            del os.environ[_VARIABLE]
        else:
            os.environ[_VARIABLE] = before
