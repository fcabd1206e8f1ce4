"""A store that a test has to itself."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from penstock._engine.recorder import close_recorder, recorder_for
from penstock.settings import store_url, temporary_settings
from penstock.store.base import Reader
from penstock.store.memory import MemoryStore

_VARIABLE, _DATABASE = "PENSTOCK_HOME", "PENSTOCK_STORE_URL"


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
    with home_in_memory(home) as store, temporary_settings({_VARIABLE: home, _DATABASE: None}):
        yield store


@contextmanager
def home_in_memory(home: str) -> Iterator[Reader]:
    """Let `PENSTOCK_HOME` be `home`, with a store in memory. The directory need not exist, and does not afterwards.

    Code inside may name another home in the environment: it gets what it asks for.
    """
    store = MemoryStore()
    # The process finds the recorder of a store by the store's directory: from any thread it will find this one.
    recorder_for(home, lambda: store)
    try:
        with _environment(home):
            yield store
    finally:
        leave(home)


def leave(home: str) -> None:
    """Let go of the store in `home`, and throw everything there away."""
    close_recorder(home)
    shutil.rmtree(home, ignore_errors=True)


@contextmanager
def _environment(home: str) -> Iterator[None]:
    wanted = {_VARIABLE: home} if store_url() is None else {_VARIABLE: home, _DATABASE: "none"}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, text in before.items():
            if os.environ.get(name) != wanted[name]:
                continue  # somebody has chosen another one, for longer than this
            if text is None:
                del os.environ[name]
            else:
                os.environ[name] = text
