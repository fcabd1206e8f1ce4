"""What the limits of a process need of the files that it shares with others, and the thread that watches them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from time import monotonic
from typing import Protocol

logger = logging.getLogger("penstock.limits")

Definition = tuple[float | None, float | None]
UNDEFINED: Definition = (None, None)
NOBODY = (1 << 64) - 1  # a ticket that is later than all

QUICK = 0.002  # seconds between looks after something has changed
STEADY = 0.02  # after nothing has for a while: the longest that a slot lies idle
ALONE = 0.1  # while no other process has to do with the limits: it could redefine them
ALIVE = 0.25  # seconds after which those in line say that they still look


class Sheet(Protocol):
    """What processes say about one limit. All but `definition` and `changed` need the lock of the `Ledger`."""

    def definition(self) -> Definition | None: ...  # None: the file is new
    def define(self, numbers: Definition) -> None: ...
    def paid(self) -> tuple[float, float]: ...
    def pay(self, until: float, now: float) -> None: ...
    def load(self) -> Definition | None: ...
    def changed(self) -> bool: ...
    def held_elsewhere(self) -> int: ...
    def first_elsewhere(self) -> int: ...
    def holders(self) -> list[str]: ...
    def ahead(self, ticket: int) -> int: ...
    def drop_dead(self) -> bool: ...
    def write(self, held: int, ticket: int, who: str) -> None: ...
    def look(self) -> None: ...
    @property
    def has_company(self) -> bool: ...
    @property
    def is_listed(self) -> bool: ...  # this process has a row of its own


class Ledger(Protocol):
    """The sheets of one store. Every method may raise `OSError`."""

    def lock(self) -> bool:
        """Be alone with them. Whether they are new to this process; may be called again by whoever has the lock."""
        ...

    def unlock(self) -> None: ...
    def is_current(self) -> bool:
        """Whether this process is still the one that has written its rows."""
        ...

    def ticket(self) -> int:
        """A number that nobody had before."""
        ...

    def sheet(self, kind: str, name: str, *, create: bool) -> Sheet | None: ...
    def rest(self) -> None:
        """Let go of everything, until it is needed again."""
        ...


class Watch:
    """Has a thread look at what other processes do, as long as somebody here waits.

    Polling, because nothing else works everywhere and notices every death: a look costs some microseconds, and there is
    none while nobody waits.
    """

    def __init__(self, look: Callable[[bool], float | None]) -> None:
        """`look` is told whether it is time to say that this process still looks.

        It returns the seconds until the next look at the latest, 0 if something has changed, None if nobody waits.
        """
        self._look = look
        self.start_afresh()

    def start_afresh(self) -> None:
        self._changing = threading.RLock()  # reentrant: a signal handler may want to wait, too
        self._bell = threading.Event()
        self._thread: threading.Thread | None = None
        self._wanted = self._ending = False
        self._pause = 0.0  # that the thread makes just now

    def begin(self, *, hurry: bool) -> None:
        """Somebody waits, from now on; `hurry`: for others than this process."""
        with self._changing:
            self._wanted = True
            if self._thread is None:
                self._start()
            elif hurry and self._pause > STEADY:
                self._bell.set()

    def end(self) -> None:
        """Let the thread end. Blocks for a moment."""
        thread = self._thread
        self._ending = True
        self._bell.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join(1.0)
        self._ending = False

    def _start(self) -> None:
        thread = threading.Thread(target=self._watch, name="penstock-limits", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # no more threads: what happens here still moves the lines on
            return
        self._thread = thread

    def _watch(self) -> None:
        said_at, quiet = 0.0, QUICK
        while True:
            self._bell.clear()
            self._wanted = False
            is_time = monotonic() - said_at > ALIVE
            said_at = monotonic() if is_time else said_at
            longest = self._try_look(is_time)
            quiet = QUICK if longest == 0 else min(quiet * 1.3, longest or STEADY)
            self._pause = ALONE if longest is None else quiet
            self._bell.wait(self._pause)
            if longest is None and self._retire():
                return

    def _try_look(self, is_time: bool) -> float | None:
        try:
            return self._look(is_time)
        except OSError:  # said by whoever uses the limits
            return ALONE
        except Exception:
            logger.exception("Could not look at the limits of other processes")
            return ALONE

    def _retire(self) -> bool:
        """Nobody waits: end, unless somebody has begun to meanwhile."""
        with self._changing:
            if self._wanted and not self._ending:
                return False
            self._thread = None
            return True
