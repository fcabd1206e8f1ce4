"""Calls on a cluster, as a worker process sees them: what Dask and Ray have in common.

A shipment is executed by two threads. The cluster's own, which called `execute` or `steps`, is the pump: it sends home
what is to be known there, and speaks with the cluster (about its slot, say), which only this thread can. The other one
executes the bodies. One that does not stop can therefore be left behind: the pump goes on with the next call on a new
thread.

Everything that goes home is written into the shipment's box first, a file: see `remote`.
"""

from __future__ import annotations

import mmap
import os
import pickle
import struct
import tempfile
import threading
from abc import ABC, abstractmethod
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from contextvars import copy_context
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any, NamedTuple

from penstock._core import serial
from penstock._core.binding import short
from penstock._core.machine import Event
from penstock.exceptions import CancelledRun, WorkerLost
from penstock.store import owners
from penstock.task_runners import base
from penstock.task_runners.reports import pack_report, packed_error

SMALL = 16 * 1024  # bytes of a report that goes home as it is; the value of a larger one stays on the cluster
_PULSE = 0.05  # seconds between messages home while a body is executed
_PATIENCE = 0.2  # seconds that a body may take before those behind it are given back
_HOUSEHOLDS = 64  # kept: a household's function and its flow run's facts
_REQUESTS = ".stop"  # beside a box: numbers of calls that are to be stopped
_HUGE = 4 << 20  # bytes: two large pages
_FULL = 1 << 20  # bytes of a box that is emptied when what it holds has been sent
_FRAME = struct.Struct("!I")


class Item(NamedTuple):
    """One call of a shipment. Frames are a pickle and its buffers."""

    number: int
    home: int  # key of its household in `Order.shared`
    common: int | None  # of the arguments that it shares with others
    own: Sequence[Any] | int  # the visit: frames, or where they are in the cargo
    given: Sequence[tuple[int, int]]  # results of other calls: place in the cargo, number


class Order(NamedTuple):
    """What a shipment consists of, beside its cargo."""

    shipment: str
    sender: str
    items: Sequence[Item]
    shared: Mapping[int, Any]  # frames, or where they are in the cargo
    tries: int = 1  # at a body that raises
    ties: Sequence[owners.Tie] = ()  # of the flow's process


class Outlet(ABC):
    """What a shipment needs of the cluster that executes it. Called by the pump, but for `make_runner`."""

    place = "a worker of the cluster"  # its name at home

    def wait(self, jobs: SimpleQueue[Any], seconds: float) -> Any:
        """The next job for the pump; raises `Empty` if there is none for about so long."""
        return jobs.get(timeout=seconds)

    @abstractmethod
    def lend(self) -> None:
        """The body waits for others: let them have its slot."""

    @abstractmethod
    def regain(self) -> None:
        """The body goes on."""

    @abstractmethod
    def make_runner(self) -> base.TaskRunner:
        """For what a body submits: the same cluster."""


def execute(
    order: Order, cargo: Sequence[Any], outlet: Outlet, send: Callable[[bytes], object]
) -> dict[int, Sequence[Any]]:
    """Execute a shipment; returns the frames of the values that stay here, by number of call. Does not raise.

    `send` sends messages home, in order.
    """
    left: dict[int, Sequence[Any]] = {}
    for number, content in steps(order, cargo, outlet):
        if number is None:
            send(content)
        else:
            left[number] = frames(content)
    return left


def steps(order: Order, cargo: Sequence[Any], outlet: Outlet) -> Iterator[tuple[int | None, Any]]:
    """Execute a shipment for a cluster that is handed what is to be sent as it comes. Does not raise.

    Yields messages for home with None, and packed values that stay here with the numbers of their calls.
    """
    work = Work(order, cargo, outlet)
    _going_on[order.shipment] = work
    try:
        with owners.joined(order.ties):  # as long as it is executed, the owner is not dead
            yield from work.steps()
    except owners.OwnerGone:
        pass  # nobody is there who could be told
    finally:
        del _going_on[order.shipment]


def stop(shipment: str, number: int) -> None:
    """Interrupt a call, or see to it that it does not begin. From any thread."""
    work = _going_on.get(shipment)
    if work is not None:
        work.stop(number)


def abandon(shipment: str, number: int) -> None:
    """Go on without a call whose body does not stop. From any thread."""
    work = _going_on.get(shipment)
    if work is not None:
        work.abandon(number)


def read_box(shipment: str) -> bytes | None:
    """What a shipment has sent or would have, if its worker died on this machine; the box is then gone."""
    path = _box_path(shipment)
    try:
        with open(path, "rb") as box:
            content = box.read()
    except OSError:
        return None
    _tidy_up(path)
    return content


def is_going_on_here(shipment: str) -> bool:
    """Whether a process of this machine executes a shipment, or has died doing so."""
    return os.path.exists(_box_path(shipment))


def request_stop(shipment: str, number: int) -> bool:
    """Have another process of this machine stop a call; False if it does not execute that shipment."""
    if not is_going_on_here(shipment):
        return False
    path = _box_path(shipment)
    with suppress(OSError), open(path + _REQUESTS, "a") as file:
        file.write(f"{number}\n")
    if not is_going_on_here(shipment):  # it has ended meanwhile, and nobody would tidy up
        _tidy_up(path)
    return True


def heed_requests(shipment: str) -> None:
    """Stop those calls that other processes of this machine have asked for."""
    with suppress(OSError), open(_box_path(shipment) + _REQUESTS) as file:
        for number in file.read().split():
            stop(shipment, int(number))


def messages(data: bytes) -> Iterator[Any]:
    """The messages in a box, or in what was sent of it. One that was not written to its end is left out."""
    start = 0
    while start + _FRAME.size <= len(data):
        (size,) = _FRAME.unpack_from(data, start)
        start += _FRAME.size + size
        if start <= len(data):
            yield pickle.loads(data[start - size : start])


_going_on: dict[str, Work] = {}
_homes: OrderedDict[tuple[str, int], list[Desk]] = OrderedDict()  # that are free, by household
_homes_lock = threading.Lock()


class Work:
    """A shipment that is being executed."""

    def __init__(self, order: Order, cargo: Sequence[Any], outlet: Outlet) -> None:
        self._order = order
        self._cargo = cargo
        self._outlet = outlet
        self._items = deque(order.items)
        self._current: tuple[int, Desk, int] | None = None  # number of the call, and its run
        self._stopped: set[int] = set()
        self._jobs: SimpleQueue[Callable[[], Any]] = SimpleQueue()  # for the pump; what one returns is handed over
        self._outbox = Outbox(order.shipment)
        self._begun = monotonic()  # the body that is being executed
        self._hand = 0  # the thread that executes bodies; others have been left behind
        self._is_over = False

    # --- the pump -------------------------------------------------------------------------------------------------

    def steps(self) -> Iterator[tuple[int | None, Any]]:
        self._announce(self._order.items[0])
        try:
            yield None, self._outbox.take()  # first: a body may keep the interpreter to itself
            self._start()
            yield from self._pump()
        except BaseException:
            # Somebody has had the cluster cancel it. What becomes of the body that goes on is in the box.
            self._is_over = self._hand == 0
            self._stop_all()
            for _ in self._pump():
                pass
            self._outbox.close(keep_box=True)
            raise
        self._outbox.close()

    def _pump(self) -> Iterator[tuple[int | None, Any]]:
        while not self._is_over:
            with suppress(Empty):
                handed_over = self._outlet.wait(self._jobs, _PULSE)()
                if handed_over is not None:
                    yield handed_over
            if self._items and monotonic() - self._begun > _PATIENCE:
                self._give_back()
            data = self._outbox.take()
            if data:
                yield None, data

    def _give_back(self) -> None:
        """What waits behind a body that takes long may be executed elsewhere."""
        numbers = [item.number for item in list(self._items)]
        self._outbox.put("back", [number for number in numbers if self._withdraw(number)])

    def _start(self) -> None:
        """Have a new thread execute what is left."""
        self._hand += 1
        context = copy_context()  # the cluster says in it where this is
        name = f"penstock-body-{self._hand}"
        threading.Thread(target=context.run, args=(self._bodies, self._hand), name=name, daemon=True).start()

    def is_at_hand(self, hand: int) -> bool:
        return hand == self._hand

    def lend(self) -> None:
        self._jobs.put(self._outlet.lend)

    def regain(self) -> None:
        self._do(self._outlet.regain)

    def _do(self, job: Callable[[], Any]) -> None:
        """Have the pump do it, and hand over what it returns; when this returns, both is done."""
        done = threading.Event()
        self._jobs.put(job)
        self._jobs.put(done.set)
        while not (done.wait(1.0) or self._is_over):  # a body that was left behind may come too late
            pass

    # --- from any thread ------------------------------------------------------------------------------------------

    def stop(self, number: int) -> None:
        self._stopped.add(number)  # first: it may be about to begin
        current = self._current
        if current is not None and current[0] == number:
            current[1].home.ask_to_stop(current[2])
        elif self._withdraw(number):
            self._outbox.put("refused", number, packed_error(CancelledRun()))
            self._jobs.put(_wake)

    def _withdraw(self, number: int) -> bool:
        """Whether a call had not begun, and now does not."""
        with suppress(StopIteration, ValueError):  # it is not there, or not any more
            self._items.remove(next(item for item in list(self._items) if item.number == number))
            return True
        return False

    def _stop_all(self) -> None:
        self._items.clear()
        current = self._current
        if current is not None:
            self.stop(current[0])

    def abandon(self, number: int) -> None:
        self._jobs.put(lambda: self._abandon(number))

    def _abandon(self, number: int) -> None:
        current = self._current
        if current is not None and current[0] == number:
            self._current = None
            self._start()

    # --- the thread of bodies -------------------------------------------------------------------------------------

    def _bodies(self, hand: int) -> None:
        base.here.slot = Slot(self, hand)
        with owners.joined(self._order.ties):  # also when this thread has been left behind
            while hand == self._hand and (item := self._next_item()) is not None:
                self._body(item, hand)
        if hand == self._hand:
            self._jobs.put(self._end)

    def _next_item(self) -> Item | None:
        try:
            return self._items.popleft()
        except IndexError:
            return None

    def _end(self) -> None:
        self._is_over = True

    def _announce(self, item: Item) -> None:
        self._begun = monotonic()
        self._outbox.put("begun", item.number, self._outlet.place)

    def _body(self, item: Item, hand: int) -> None:
        if item is not self._order.items[0]:
            self._announce(item)
        message: tuple[Any, ...]
        try:
            message = self._visit(item, hand)
        except BaseException as error:
            message = ("refused", item.number, packed_error(error))
        if hand == self._hand:
            self._current = None
            self._outbox.put(*message)

    def _visit(self, item: Item, hand: int) -> tuple[Any, ...]:
        number = item.number
        if number in self._stopped:
            raise CancelledRun
        desk = self._desk(item.home)
        put = self._outbox.put  # not by way of `self`: the desk is kept, large values in the cargo are not to be
        desk.note = lambda message: put("note", number, message)
        report: Any = None
        for _ in range(self._order.tries):
            facts, common = self._arguments(item)
            self._current = number, desk, facts[0]
            report = desk.home.visit(facts, common, lambda: number in self._stopped)
            if report.event != Event.RAISED:
                break
        if hand == self._hand:
            _free(desk)
        return self._done(number, report)

    def _arguments(self, item: Item) -> tuple[Any, dict[str, Any]]:
        """Rebuilt for each try, so that none sees what another has done to them."""
        given = [_value(self._cargo[place].get(number)) for place, number in item.given]
        facts = serial.unpack(_packed(self._frames(item.own)), given)
        common = {} if item.common is None else serial.unpack(_packed(self._frames(self._order.shared[item.common])))
        return facts, common

    def _frames(self, where: Any) -> Sequence[Any]:
        frames: Sequence[Any] = self._cargo[where] if isinstance(where, int) else where
        return frames

    def _done(self, number: int, report: Any) -> tuple[Any, ...]:
        packed = pack_report(report)
        if (len(packed.data) <= SMALL and not packed.buffers) or report.error is not None or report.state is not None:
            return ("done", number, packed.data, None)
        self._do(lambda: (number, packed))
        bare = pack_report(report._replace(value=None))
        return ("done", number, bare.data, short(report.value))

    def _desk(self, key: int) -> Desk:
        name = self._order.sender, key
        with _homes_lock:
            _homes.setdefault(name, [])
            _homes.move_to_end(name)
            while len(_homes) > _HOUSEHOLDS:
                _homes.popitem(last=False)
            if _homes[name]:
                return _homes[name].pop()
        return Desk(name, serial.unpack(_packed(self._frames(self._order.shared[key]))), self._outlet)


class Desk:
    """A home for visits of one household, and where what it sends home goes just now."""

    def __init__(self, name: tuple[str, int], household: Any, outlet: Outlet) -> None:
        self.name = name
        self.note: Callable[[Any], object] = print
        self.home = base.open_home(household, outlet.make_runner, lambda message: self.note(message))


def _free(desk: Desk) -> None:
    with _homes_lock:
        free = _homes.get(desk.name)
        if free is not None:
            free.append(desk)


class Slot:
    """The permission to execute one body, which the cluster gave to the pump.

    A body whose event loop has several coroutines that wait lends it as often; one that was left behind has none.
    """

    def __init__(self, work: Work, hand: int) -> None:
        self._work = work
        self._hand = hand
        self._is_lent = False

    def release(self) -> None:
        if not self._is_lent and self._work.is_at_hand(self._hand):
            self._is_lent = True
            self._work.lend()

    def acquire(self) -> None:
        if self._is_lent and self._work.is_at_hand(self._hand):
            self._work.regain()
        self._is_lent = False


class Outbox:
    """Messages on their way home. Thread-safe."""

    def __init__(self, shipment: str) -> None:
        self._path = _box_path(shipment)
        self._lock = threading.Lock()
        self._messages: list[bytes] = []
        self._count = 0
        self._size = 0
        self._box: int | None = None
        with suppress(OSError):  # likewise below: a full disk must not stop the work
            self._box = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)

    def put(self, kind: str, *content: Any) -> None:
        with self._lock:
            body = pickle.dumps((self._count, kind, *content), 5)
            self._count += 1
            message = _FRAME.pack(len(body)) + body
            self._messages.append(message)
            self._write(message)

    def _write(self, message: bytes) -> None:
        if self._box is None:
            return
        with suppress(OSError):
            self._size += os.write(self._box, message)

    def take(self) -> bytes:
        """All that has not been sent."""
        with self._lock:
            taken, self._messages = b"".join(self._messages), []
            if self._size > _FULL and self._box is not None:
                os.truncate(self._box, 0)
                self._size = 0
            return taken

    def close(self, *, keep_box: bool = False) -> None:
        with self._lock:
            box, self._box = self._box, None
        if box is not None:
            os.close(box)
        if not keep_box:
            _tidy_up(self._path)


def _wake() -> None:
    """A job that is only to have the pump look for messages."""


def _box_path(shipment: str) -> str:
    return os.path.join(tempfile.gettempdir(), f"penstock-{shipment}.box")


def _tidy_up(box: str) -> None:
    for path in (box, box + _REQUESTS):
        with suppress(OSError):  # somebody else has
            os.unlink(path)


def _packed(frames: Sequence[Any]) -> serial.Packed:
    """Large buffers are copied: what a task does to its arguments is nobody else's business."""
    return serial.Packed(frames[0], [copied(frame) for frame in frames[1:]])


def copied(frame: Any) -> Any:
    """A copy that may be written to; in large pages, which cost a quarter of others, where the system has them."""
    size = memoryview(frame).nbytes
    if size < _HUGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return bytearray(frame)
    copy = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    copy.madvise(mmap.MADV_HUGEPAGE)
    copy[:] = frame
    return copy


def frames(packed: serial.Packed) -> list[Any]:
    """Copied: what it was made of may change."""
    return [packed.data, *(bytes(buffer.raw()) for buffer in packed.buffers)]


def _value(frames: Sequence[Any] | None) -> Any:
    """What a report holds that has stayed on the cluster."""
    if frames is None:
        raise WorkerLost("A result that it needs is lost with the worker that made it")
    return serial.unpack(_packed(frames))[1]
