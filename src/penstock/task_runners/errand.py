"""A call where it arrives, after somebody else's pool has pickled it: executed by whatever thread unpickles it.

There is no way to reach it there, and none to send messages: what the body has to say meanwhile is told with its end.
"""

from __future__ import annotations

import pickle
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from penstock._core import serial
from penstock._core.serial import Packed
from penstock.store import owners
from penstock.task_runners import base
from penstock.task_runners.base import Homecoming
from penstock.task_runners.reports import pack_report, packed_error
from penstock.task_runners.threads import ThreadPoolTaskRunner

_HOUSEHOLDS = 64  # kept by each thread that executes errands


@dataclass(frozen=True)
class Errand:
    """What it takes to execute a call; an empty one has nothing to execute."""

    household: Packed | None = None
    common: Packed | None = None
    visit: Packed | None = None
    timeout: float | None = None
    ties: tuple[owners.Tie, ...] = ()  # of the flow's process

    def __reduce__(self) -> Any:
        ties = self.ties or owners.ties()
        return Errand, (_whole(self.household), _whole(self.common), _whole(self.visit), self.timeout, ties)

    def execute(self) -> Homecoming | None:
        """Call the body; what is to be sent home. Does not raise."""
        return self.carry_out()

    def carry_out(self) -> Homecoming | None:
        if self.household is None or self.visit is None:
            return None
        notes: list[Any] = []
        try:
            with owners.joined(self.ties), _desks.borrowed(self.household, self.timeout) as desk:
                desk.notes = notes
                common = {} if self.common is None else serial.unpack(self.common)
                report = desk.home.visit(serial.unpack(self.visit), common, lambda: False)
            return Homecoming(_whole(pack_report(report)), None, notes)
        except BaseException as error:
            return Homecoming(None, packed_error(error), notes)


def _whole(packed: Packed | None) -> Packed | None:
    """As one pickle, which any protocol can write: buffers apart are a matter between the two ends of a channel."""
    if packed is None:
        return None
    return Packed(packed.data, [bytearray(pickle.PickleBuffer(buffer).raw()) for buffer in packed.buffers])


class Desk:
    """A home for the visits of one household, and where what they have to say is written down."""

    def __init__(self, household: Any) -> None:
        self.notes: list[Any] = []
        self.home = base.open_home(household, ThreadPoolTaskRunner, lambda message: self.notes.append(message))


class _Desks(threading.local):
    """Those of one thread that are free: a home is for one visit at a time."""

    def __init__(self) -> None:
        self._free: OrderedDict[Any, Desk] = OrderedDict()

    @contextmanager
    def borrowed(self, household: Packed, timeout: float | None) -> Iterator[Desk]:
        key = _digest(household), timeout
        desk = self._free.pop(key, None) or Desk(serial.unpack(household)._replace(timeout=timeout))
        yield desk
        self._free[key] = desk
        if len(self._free) > _HOUSEHOLDS:
            self._free.popitem(last=False)


_desks = _Desks()


def _digest(packed: Packed) -> bytes:
    """The same for the same household, in whatever errand it comes."""
    import hashlib  # takes some milliseconds, and only workers need it

    digest = hashlib.blake2b(packed.data, digest_size=16)
    for buffer in packed.buffers:
        digest.update(buffer)
    return digest.digest()
