"""What a task runner is.

A runner executes calls and knows nothing else: no retries, no states, no dependencies. A new one implements
`execute`; everything a user sees (`submit`, `map`, futures, logs) is inherited.
"""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future as StandardFuture
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, Self

from penstock._core import serial


class Call(Protocol):
    """One attempt at a body, as a runner sees it.

    `execute` can be pickled, by pickle and cloudpickle, and executed in another process; what it returns there can be
    pickled, too. From then on the run is said to be running, its time limit begins, and nobody can reach its body.
    Pickling raises `SerializationError` if the function or an argument cannot be pickled; the run then fails with that.
    """

    worker: Any  # the thread that executes it, if it is a pool's
    slot: Any  # what an asynchronous body holds, if the runner counts them
    claimed: bool  # somebody has begun to execute it
    wishes: Any  # of the user as to where; only its runner understands them

    @property
    def remote_options(self) -> Mapping[str, Any]:
        """What the task's definition says to Ray."""
        ...

    def ask(self, question: Callable[[], Any]) -> Any:
        """The answer where the task was submitted: in the context of that."""
        ...

    @property
    def was_released(self) -> bool:
        """Whether the run had to wait for others, or is tried again."""
        ...

    @property
    def needs_thread(self) -> bool: ...
    def execute(self) -> Any:
        """Call the body on this thread; returns the outcome. Of a pickled call, what is to be sent back."""
        ...

    def report(self, outcome: Any) -> None:
        """Hand in what `execute` returned."""
        ...

    def perform(self) -> None:
        """Call the body and report, on this thread; an asynchronous one on the background loop."""
        ...


class Slot(Protocol):
    """The permission to execute one body, held by a thread."""

    def release(self) -> None:
        """Hand it on while the body waits."""
        ...

    def acquire(self) -> None:
        """Get one again; blocks until one is free."""
        ...


class LoopSlot(Protocol):
    """A slot held by an asynchronous body, which has no thread."""

    def release(self) -> None: ...
    def acquire(self, granted: Callable[[], None]) -> None:
        """Have `granted` called when there is a slot again. Does not block."""
        ...

    def write_off(self) -> None: ...


class Worker(Protocol):
    """The thread of a pool that executes a call."""

    def write_off(self) -> None:
        """Go on without it: it is stuck in a body."""
        ...


class Away(Protocol):
    """The process that executes a call, or whoever speaks for it."""

    def ask_to_stop(self, call: Any) -> None:
        """Interrupt the body. Does not block."""
        ...

    def kill(self, call: Any) -> None:
        """End the process, whatever the body does; the call is then lost. Does not block.

        If the runner cannot kill: have others go on without what executes the call. It is over already.
        """
        ...

    def where(self, call: Any) -> str:
        """Where the body is executed, for a message."""
        ...


class _Here(threading.local):
    """What this thread is to the engine."""

    slot: Slot | None = None  # a worker's
    depth: int = 0  # bodies that it executes for ones that wait, one inside the other
    resting: int = 0  # coroutines of a loop on this thread that wait for runs
    background_loop: bool = False


here = _Here()

_sharing: list[Callable[[], None]] = []


def at_shutdown(close: Callable[[], None]) -> None:
    """Have `close` called when the workers that runners share between flow runs are to be ended."""
    _sharing.append(close)


def close_shared_workers() -> None:
    for close in _sharing:
        close()


class Kept(serial.Reference):
    """A result that has stayed where it was made; the value comes home when somebody asks for it.

    A runner whose capabilities say `keeps_values` puts one in the place of the value into a report. Users never see
    it. It comes back among the handles of a visit (`Call.pack`) if that call is for the same runner; nobody needs the
    value any more when it is garbage.
    """

    holder: TaskRunner  # of the flow run; its calls can have the value without its coming home
    shown: str  # the value for people: what `short` says of it

    def fetch(self) -> Any:
        """The value. Blocks; thread-safe; may be asked again. Raises `WorkerLost` or the like if it is gone.

        Called on a thread of its own, and must not need the one that handed in the report: that may be waiting for it,
        in a callback of the user's.
        """
        raise NotImplementedError

    def __repr__(self) -> str:
        return self.shown


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a runner can do; the engine makes up for what it cannot."""

    shares_memory: bool = True  # bodies run in this process: arguments and results are the very same objects
    runs_async: bool = False  # it executes coroutine functions itself; else they go to the background loop
    can_kill: bool = False  # a body can be ended whatever it does
    can_interrupt: bool = True  # a running body can be asked to stop; else it is written off, and ends by itself
    interrupts_calls: bool = False  # those of the operating system, too: bodies are on main threads
    outlives_workers: bool = False  # a process that dies costs the attempts that it had; the runner goes on
    same_surroundings: bool = True  # bodies find the environment variables and the directory of the flow's process
    keeps_values: bool = False  # results may stay where they were made, as a `Kept`; no call is executed at home
    immediate: bool = False  # submitting executes at once, in the submitting thread


class TaskRunner(ABC):
    """Decides where the tasks of a flow run are executed.

    The instance given to `@flow(task_runner=...)` is a template: every flow run uses its own `duplicate()`. A
    runner can also be used alone, as a context manager whose end waits for everything submitted:

        >>> from penstock import task
        >>> from penstock.task_runners import ThreadPoolTaskRunner
        >>> @task
        ... def double(x): return 2 * x
        >>> with ThreadPoolTaskRunner() as runner:
        ...     runner.submit(double, {"x": 3}).result()
        6
    """

    capabilities = Capabilities()
    _session: Any = None

    @property
    def name(self) -> str:
        """The class name in lower case, without "taskrunner"."""
        return type(self).__name__.lower().removesuffix("taskrunner")

    @property
    def slots(self) -> int:
        """How many bodies it executes at once, roughly: what "as many as fit" means for `.imap()`."""
        return os.cpu_count() or 1

    def start(self) -> None:  # noqa: B027  # not abstract: many runners have nothing to do here
        """Get ready to execute. Called once, before the first call. Workers may still be created lazily."""

    @abstractmethod
    def execute(self, call: Call) -> StandardFuture[Any] | None:
        """Execute `call`, somewhere and some time. Must not block.

        Returns a future whose value is what `call.execute()` returned, in this process or another one, and whose
        exception means that the machinery failed (a worker died): that attempt is lost. A future that is cancelled
        cancels the run. Or None, if `call.perform()` is used, which reports by itself.
        """

    def close(self, *, cancel: bool = False) -> None:  # noqa: B027  # likewise
        """Give everything back. Nothing is executing any more, or nobody waits for it."""

    @abstractmethod
    def duplicate(self) -> Self:
        """A runner of equal configuration that has not been started; equal to this one."""

    def _settings(self) -> tuple[Any, ...]:
        """What makes two runners of one class equal."""
        return ()

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self._settings() == other._settings()

    def __hash__(self) -> int:
        try:
            return hash((type(self), self._settings()))
        except TypeError:  # arguments for an initializer may be anything
            return hash(type(self))

    # --- used alone ---------------------------------------------------------------------------------------

    def submit(self, task: Any, parameters: dict[str, Any], wait_for: Any = None) -> Any:
        """Submit a task with its arguments by name; returns its future. Only inside `with runner:`."""
        return self._open_session().submit(task, parameters, wait_for)

    def map(self, task: Any, parameters: dict[str, Any], wait_for: Any = None) -> Any:
        """Map a task over the iterables among its arguments by name; returns the list of futures."""
        return self._open_session().map(task, parameters, wait_for)

    def cancel_all(self) -> None:
        """Ask for everything submitted to this runner to be cancelled. Does not block."""
        self._open_session().cancel_all()

    def _open_session(self) -> Any:
        if self._session is None:
            raise RuntimeError("Task runner is not started: use it as `with runner:`")
        return self._session

    def __enter__(self) -> Self:
        if self._session is not None:
            raise RuntimeError("This task runner is already started")
        self._session = open_session(self)
        self._session.__enter__()
        return self

    def __exit__(self, *exc_info: Any) -> None:
        session, self._session = self._session, None
        session.__exit__(*exc_info)


def _no_sessions(runner: TaskRunner) -> Any:
    raise RuntimeError("import penstock before using a task runner")


open_session: Any = _no_sessions
"""Makes the run that stands for a runner used alone. Set by `penstock`: a runner may not import what is above it."""

open_home: Any = None
"""In a worker process, makes what receives the visits of a household. Set by `penstock`, for the same reason."""


make_errand: Any = None
"""Makes what a pickled call becomes: see `errand`. Set by `penstock`; the engine knows no runner's helpers."""


class Homecoming(NamedTuple):
    """What the `execute` of a pickled call returns: for the engine that sent the call."""

    report: serial.Packed | None  # of the visit
    refusal: bytes | None  # the error, if there is no report
    notes: Sequence[Any]  # what the body had to say meanwhile


def prepare_worker() -> None:
    """In a worker process: let bodies on the main thread be interrupted, in the operating system's calls too."""
    for prepare in preparations:
        prepare()


preparations: list[Callable[[], None]] = []
"""What has to be done first in a worker process. Added to by `penstock`."""
