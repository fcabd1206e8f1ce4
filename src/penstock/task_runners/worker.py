"""A worker process of `ProcessPoolTaskRunner`: executes calls one after another until its parent is gone.

The main thread executes bodies, so that signals reach them; another thread reads what the parent sends, so that a body
can be asked to stop, and calls that have not begun can be taken back.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections import OrderedDict, deque
from queue import SimpleQueue
from typing import Any

from penstock._core import serial
from penstock.exceptions import CancelledRun
from penstock.store import owners
from penstock.task_runners import base
from penstock.task_runners.channel import MARKS, Channel, close_all, lay_out, open_marks, pick_up
from penstock.task_runners.reports import pack_report, packed_error
from penstock.task_runners.threads import ThreadPoolTaskRunner

_HOUSEHOLDS = 64  # kept: a household's function and its flow run's facts


def main(descriptor: int) -> None:
    """The whole life of a worker; does not return."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the parent decides
    die_with_parent()
    channel = Channel(socket.socket(fileno=descriptor))
    try:
        worker = Worker(channel)
        worker.prepare()
        worker.work()
    except (EOFError, OSError, owners.OwnerGone):
        os._exit(1)  # the parent is gone
    owners.disown_all()
    sys.stdout.flush()
    os._exit(0)


def die_with_parent() -> None:
    """Where the system offers it: then not even a body that keeps the interpreter lock outlives the parent."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)


class Worker:
    """What the two threads share."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._calls: deque[tuple[int, int, int | None, bytes, list[int]]] = deque()
        self._bell: SimpleQueue[None] = SimpleQueue()
        self._packed_homes: dict[int, tuple[bytes, list[int]]] = {}
        self._commons: dict[int, tuple[bytes, list[int]]] = {}
        self._homes: OrderedDict[int, Any] = OrderedDict()
        self._current: tuple[Any, int] | None = None
        self._marks: Any = None  # see `new_marks`
        self._announced: set[int] = set()  # calls whose beginning the parent wants to hear of
        self._ending = False

    def prepare(self) -> None:
        """Be like the parent, run the initializer, say that it is done."""
        _, descriptors = self._channel.receive()
        self._marks = open_marks(descriptors[0])
        close_all(descriptors)
        (_, ties, path, data), descriptors = self._channel.receive()
        owners.join(ties)  # before anything of the user's: as long as this process lives, its owner is not dead
        sys.path[:] = path
        base.prepare_worker()
        try:
            initializer, arguments = serial.unpack(pick_up(data, descriptors))
            if initializer is not None:
                initializer(*arguments)
        except BaseException as error:
            self._channel.send(("unfit", packed_error(error)))
            raise EOFError from None
        self._channel.send(("ready",))
        threading.Thread(target=self._read, name="penstock-reader", daemon=True).start()

    # --- the reading thread ---------------------------------------------------------------------------------------

    def _read(self) -> None:
        try:
            while True:
                message, descriptors = self._channel.receive()
                getattr(self, f"_on_{message[0]}")(descriptors, *message[1:])
        except (EOFError, OSError):
            os._exit(1)

    def _on_home(self, descriptors: list[int], key: int, data: bytes) -> None:
        self._packed_homes[key] = data, descriptors

    def _on_common(self, descriptors: list[int], key: int, data: bytes) -> None:
        self._commons[key] = data, descriptors

    def _on_forget(self, descriptors: list[int], key: int) -> None:
        close_all(self._commons.pop(key)[1])

    def _on_calls(
        self, descriptors: list[int], calls: list[tuple[int, int, int | None, bytes]], announced: bool
    ) -> None:
        """Calls to execute one after another; large buffers come only with a single one."""
        if announced:
            self._announced.add(calls[0][0])
        self._calls.extend((*call, descriptors) for call in calls)
        for _ in calls:
            self._bell.put(None)

    def _on_stop(self, descriptors: list[int], number: int, run_id: int) -> None:
        current = self._current
        if current is not None and current[1] == number:
            current[0].ask_to_stop(run_id)
            return
        for call in list(self._calls):
            if call[0] == number:
                self._withdraw(call)

    def _withdraw(self, call: tuple[int, int, int | None, bytes, list[int]]) -> None:
        """It need not wait for its turn to be over."""
        try:
            self._calls.remove(call)
        except ValueError:
            return  # it has its turn now, and sees the mark
        close_all(call[-1])
        self._channel.send(("refused", call[0], packed_error(CancelledRun())))

    def _on_back(self, descriptors: list[int]) -> None:
        """Give back what has not begun: another worker is idle."""
        numbers = []
        while self._calls:
            try:
                number, _, _, _, held = self._calls.pop()
            except IndexError:
                break
            close_all(held)
            numbers.append(number)
        self._channel.send(("back", numbers[::-1]))

    def _on_end(self, descriptors: list[int]) -> None:
        self._ending = True
        self._bell.put(None)

    # --- the main thread ------------------------------------------------------------------------------------------

    def work(self) -> None:
        while not self._ending:
            self._bell.get()
            try:
                call = self._calls.popleft()
            except IndexError:
                continue  # taken back
            if call[0] in self._announced:
                self._announced.discard(call[0])
                self._channel.send(("begun",))
            self._execute(*call)

    def _execute(self, number: int, home_key: int, common_key: int | None, data: bytes, descriptors: list[int]) -> None:
        try:
            if self._is_marked(number):
                raise CancelledRun
            home = self._home(home_key)
            visit = serial.unpack(pick_up(data, descriptors))
            common = {} if common_key is None else self._common(common_key)
            self._current = home, number
            report = home.visit(visit, common, lambda: self._is_marked(number))
        except BaseException as error:
            self._channel.send(("refused", number, packed_error(error)))
            return
        finally:
            self._current = None
        self._report(number, report)

    def _is_marked(self, number: int) -> bool:
        return bool(self._marks[number % MARKS])

    def _common(self, key: int) -> dict[str, Any]:
        """The arguments that a map's children share: rebuilt for each, so that none sees what another does to them."""
        arguments: dict[str, Any] = serial.unpack(_kept(*self._commons[key]))
        return arguments

    def _home(self, key: int) -> Any:
        home = self._homes.get(key)
        if home is None:
            household = serial.unpack(_kept(*self._packed_homes[key]))
            home = base.open_home(household, ThreadPoolTaskRunner, self._send_home)
            self._homes[key] = home
            if len(self._homes) > _HOUSEHOLDS:
                self._homes.popitem(last=False)
        return home

    def _send_home(self, message: Any) -> None:
        self._channel.send(("note", message))

    def _report(self, number: int, report: Any) -> None:
        try:
            packed = pack_report(report)
        except BaseException as error:
            self._channel.send(("refused", number, packed_error(error)))
            return
        descriptors = lay_out(packed)
        self._channel.send(("done", number, packed.data), descriptors)
        close_all(descriptors)


def _kept(data: bytes, descriptors: list[int]) -> serial.Packed:
    """A pickle that will be needed again."""
    return pick_up(data, [os.dup(descriptor) for descriptor in descriptors])
