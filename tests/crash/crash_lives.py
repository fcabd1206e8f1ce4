"""What the processes of the crash tests do: a life of a flow run each."""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import tempfile
import traceback
from contextlib import suppress
from time import monotonic
from typing import Any, NoReturn

import crash_flows

from penstock._core.code import code_digest
from penstock._engine.recorder import close_recorders
from penstock.definitions import Definition
from penstock.exceptions import ResumeError
from penstock.resuming import resume


def import_all() -> None:
    """Whatever a life imports on its way: told by one that is lived for that. Threads must not have been started."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        _live_to_tell(writing)
    os.close(writing)
    with open(reading, encoding="utf-8") as told:
        names = told.read().split()
    os.waitpid(pid, 0)
    for name in names:
        with suppress(ImportError):
            importlib.import_module(name)
    for definition in crash_flows.__dict__.values():
        if isinstance(definition, Definition):
            code_digest(definition.fn)  # of which it remembers the files that it has read


def _live_to_tell(writing: int) -> NoReturn:
    witness = os.open(os.devnull, os.O_RDWR)
    os.dup2(witness, 2)
    with tempfile.TemporaryDirectory() as home:
        os.environ.update({"PENSTOCK_HOME": home, crash_flows.LIFE: "0"})
        os.environ.update({crash_flows.BODIES: os.devnull, crash_flows.ACKNOWLEDGEMENTS: os.devnull})
        try:
            crash_flows.FLOWS["short"]()
            with suppress(ResumeError):
                resume("0" * 32)
            close_recorders()
        finally:
            os.write(writing, " ".join(sys.modules).encode())
    os._exit(0)


def begin(flow: str, mutant: str | None = None) -> None:
    _mutate(mutant)
    crash_flows.answer(crash_flows.FLOWS[flow]())


def go_on(run_id: str, mutant: str | None = None) -> None:
    _mutate(mutant)
    crash_flows.answer(resume(run_id))


def die_half_way(flow: str, acknowledgements: int) -> None:
    """Where nobody can see to it that a process dies at a certain point, it does so itself."""
    left = iter(range(acknowledgements))
    acknowledge = crash_flows.acknowledge

    def last(run_name: str) -> None:
        acknowledge(run_name)
        if next(left, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)

    crash_flows.acknowledge = last
    crash_flows.FLOWS[flow]()


def race(run_id: str, mutant: str | None = None) -> None:
    """Resume, and say what came of it and when."""
    _mutate(mutant)
    begun = monotonic()
    try:
        found: Any = resume(run_id)
    except ResumeError as error:
        _tell(begun, "refused", str(error))
    except BaseException:
        _tell(begun, "error", traceback.format_exc())
    else:
        _tell(begun, "won", found)


def _tell(begun: float, outcome: str, details: object) -> None:
    seconds = monotonic() - begun
    with open(os.environ["CRASH_OUTCOME"], "w") as file:
        json.dump({"outcome": outcome, "seconds": seconds, "details": details}, file)


def _mutate(name: str | None) -> None:
    """Break the library in the way that a test wants to see found."""
    if name is not None:
        importlib.import_module("crash_mutants").MUTANTS[name]()


def main() -> None:
    """As a script, for a life in an interpreter of its own: work, then its arguments as JSON."""
    globals()[sys.argv[1]](**json.loads(sys.argv[2]))


if __name__ == "__main__":
    main()
