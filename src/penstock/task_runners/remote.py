"""Calls on a cluster, as the flow's process sees them: what Dask and Ray have in common.

One thread, the dispatcher, owns everything: which calls wait, which are on their way, what was heard of them. Everybody
else, the cluster's own threads included, only puts something into its inbox; so there are no locks here.

Calls travel in shipments, which a cluster executes as one task of its own. A shipment sends messages home while it is
executed (`outpost` is the other side), numbered, each of which is in its box as well: a file that outlives the process
that writes it. So when a worker dies, the last lines that its body logged are not lost, and it is known which calls had
ended, which one is lost, and which ones have not begun and can be executed elsewhere.
"""

from __future__ import annotations

import itertools
import logging
import threading
import uuid
from abc import ABC, abstractmethod
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Self
from weakref import WeakSet

from penstock._core import serial
from penstock._core.errors import describe
from penstock.exceptions import FailedRun, WorkerLost
from penstock.store import owners
from penstock.task_runners.backlog import Lanes, apart, is_wanted, lane_of
from penstock.task_runners.base import Call, Kept, TaskRunner
from penstock.task_runners.outpost import Item, Order, copied, frames, messages, read_box

_BATCH_SECONDS = 0.03  # about how long a worker is to be busy with one shipment; a task of a cluster's own costs 1 ms
_MOST = 512  # calls in one shipment
_MOST_BYTES = 2 << 20  # likewise; what is too much for one goes with the next
_LEAST_AWAY = 64  # shipments of a lane that may always be on the way: an adaptive cluster grows with the work it sees
_ROUNDS = 4  # shipments on the way for each body that the cluster can execute at once
_PATIENCE = 2.0  # seconds for a cluster to be connected that nobody needs any more
_ATTEMPTS = 3  # at a shipment whose worker dies before it begins
_HEAVY = serial.LARGE  # bytes; what is larger is handed to the cluster by itself, once
_PLACED = 8  # such things that are kept on the cluster for calls to come

_logger = logging.getLogger("penstock")
_numbers = itertools.count(1)


class Cluster(ABC):
    """What the dispatcher needs of a cluster. Its thread calls all of this, and may be blocked by it."""

    dispatcher: Dispatcher

    @abstractmethod
    def open(self) -> None:
        """Connect, or start one."""

    @abstractmethod
    def slots(self) -> int:
        """How many bodies it can execute at once, now."""

    def rank(self, wishes: Any) -> tuple[float, str]:
        """How urgent it is, and its kind: what is less urgent waits until all others of its kind are sent."""
        return 0, repr(wishes)

    @abstractmethod
    def ship(self, shipment: Shipment) -> None:
        """Have the cluster execute `shipment.order` with what is in `shipment.cargo`, and tell the dispatcher."""

    @abstractmethod
    def recall(self, shipments: Sequence[Shipment]) -> Sequence[Shipment]:
        """Those of them that nobody has begun and nobody will."""

    def forget(self, shipment: Shipment) -> None:  # noqa: B027  # Dask forgets by itself
        """It has ended, and all of it has been heard."""

    @abstractmethod
    def stop(self, shipment: Shipment, number: int) -> None:
        """Interrupt a call that has begun, or see to it that it does not begin."""

    @abstractmethod
    def kill(self, shipment: Shipment, number: int) -> None:
        """End what executes a call, or have others go on without it."""

    @abstractmethod
    def box_of(self, shipment: Shipment) -> bytes | None:
        """The box of a shipment whose worker has died; None if nobody can read it."""

    @abstractmethod
    def place(self, packed: serial.Packed) -> Any:
        """Put a large value on the cluster; what stands for it in `cargo`. The cluster keeps it as long as that.

        May raise `NoWorkerYet`.
        """

    def has(self, cargo: Any) -> bool:
        """Whether the cluster still has what was put there."""
        return True

    @abstractmethod
    def fetch(self, cargo: Any) -> dict[int, Sequence[Any]]:
        """The frames of values left there, by number of call. Thread-safe; raises `WorkerLost` if they are gone."""

    @abstractmethod
    def close(self) -> None:
        """Disconnect; end what was started."""


class NoWorkerYet(Exception):
    """The cluster has no worker, and calls `Dispatcher.wake` when it has."""


class Shipment:
    """Calls that the cluster executes one after another, as one task of its own."""

    def __init__(self, calls: dict[int, Any], order: Order, cargo: list[Any]) -> None:
        self.id = order.shipment
        self.name = next(iter(calls.values())).name
        self.wishes = next(iter(calls.values())).wishes
        self.lane = lane_of(next(iter(calls.values())))
        self.calls = calls  # that have not ended, by number
        self.order = order
        self.cargo = cargo  # what stands for large values that it needs
        self.begun: int | None = None  # the call that is being executed, as far as is known
        self.heard = 0  # messages
        self.place = "a worker of the cluster"
        self.left: dict[int, Any] = {}  # what stands for the values that stayed there, by number of call
        self.handle: Any = None  # the cluster's own; stands for the values that are not in `left`


class Dispatcher:
    """Sends the calls of one flow run to a cluster, and hears what becomes of them."""

    def __init__(self, runner: TaskRunner, cluster: Cluster) -> None:
        self._thread = threading.Thread(target=self._run, name=f"penstock-{runner.name}", daemon=True)
        self.id = uuid.uuid4().hex
        self._runner = runner
        self._cluster = cluster
        self._inbox: SimpleQueue[tuple[Any, ...]] = SimpleQueue()
        self._backlog = Lanes(_BATCH_SECONDS, _MOST, cluster.rank)
        self._away: dict[str, Shipment] = {}
        self._away_of: Counter[str] = Counter()  # shipments, by lane
        self._of_call: dict[Any, tuple[Shipment, int]] = {}  # calls that are away
        self._to_recall: dict[str, Shipment] = {}
        self._to_stop: list[tuple[Shipment, int]] = []
        self._placed: OrderedDict[int, tuple[serial.Packed, Any]] = OrderedDict()
        self._keys: dict[int, tuple[serial.Packed, int]] = {}
        self._early_deaths: Counter[Any] = Counter()  # of workers that had not begun, by call
        self._beginnings: dict[Any, threading.Thread] = {}  # hooks that hear that a call is running
        self._kept: WeakSet[KeptThere] = WeakSet()
        self._broken: Exception | None = None
        self._closing = False
        self._is_open = threading.Event()  # or it has failed to open

    # --- from any thread ------------------------------------------------------------------------------------------

    def start(self) -> None:
        self._thread.start()

    def put(self, call: Call) -> None:
        lane_of(call)  # raises here, if at all
        self._inbox.put((self._add, call))

    def hear(self, shipment_id: str, data: bytes) -> None:
        """Messages from where a shipment is executed."""
        self._inbox.put((self._hear, shipment_id, data))

    def keep(self, shipment_id: str, number: int, cargo: Any) -> None:
        """What stands for a value that a call has left on the cluster; said before the call is said to be done."""
        self._inbox.put((self._keep, shipment_id, number, cargo))

    def end(self, shipment_id: str, error: BaseException | None = None) -> None:
        """The cluster is done with a shipment, or has lost it."""
        self._inbox.put((self._end, shipment_id, error))

    def wake(self, *_: Any) -> None:
        """There may be something to do."""
        self._inbox.put((lambda: None,))

    def ask_to_stop(self, call: Any) -> None:
        self._inbox.put((self._stop, call))

    def kill(self, call: Any) -> None:
        self._inbox.put((self._kill, call))

    def where(self, call: Any) -> str:
        found = self._of_call.get(call)
        return "a worker of the cluster" if found is None else found[0].place

    def unfinished(self) -> list[Shipment]:
        """With calls that have not ended. Only for the dispatcher's thread."""
        return [shipment for shipment in self._away.values() if shipment.calls]

    def close(self) -> None:
        """Blocks until the cluster is disconnected. Nobody waits for what is still being executed."""
        self._inbox.put((self._finish,))
        if self._thread is threading.current_thread():  # which ends a flow run that this is the dispatcher of
            return
        if self._is_open.wait(_PATIENCE):  # else it is disconnected as soon as it is connected
            self._thread.join()

    # --- the dispatcher's thread ----------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._cluster.open()
        except Exception as error:
            self._broken = error
        except BaseException as error:  # nor is code of the user's that makes a cluster to end this thread
            self._broken = FailedRun(f"The cluster could not be had: {describe(error)}")
        self._is_open.set()
        while not self._closing:
            for action, *arguments in self._take_all():
                self._act(action, arguments)
            self._act(self._recall_all, ())
            self._act(self._stop_all, ())
            self._act(self._dispatch, ())
        left_behind = list(self._away)
        self._act(self._bring_home, ())
        self._act(self._cluster.close, ())
        for shipment_id in left_behind:  # whoever executes one may have been killed
            read_box(shipment_id)

    def _bring_home(self) -> None:
        """The values that somebody may still ask for; the cluster can have the room of everything."""
        for kept in list(self._kept):
            kept.bring_home()
        for forgotten in (self._away, self._of_call, self._placed):
            forgotten.clear()

    def _act(self, action: Callable[..., object], arguments: Sequence[Any]) -> None:
        try:
            action(*arguments)
        except Exception:  # one call's trouble must not keep the news from the others
            _logger.exception("internal error while a cluster executes tasks; please report it")

    def _take_all(self) -> Iterator[tuple[Any, ...]]:
        yield self._inbox.get()
        try:
            while True:
                yield self._inbox.get_nowait()
        except Empty:
            pass

    def _finish(self) -> None:
        self._closing = True

    def _add(self, call: Any) -> None:
        self._backlog.add(call)

    def _dispatch(self) -> None:
        slots, waiting = 0, set()
        for lane, kind in self._backlog.names():
            while lane in self._backlog and kind not in waiting and not self._closing:
                slots = slots or max(1, self._slots())
                if self._away_of[lane] >= max(_LEAST_AWAY, _ROUNDS * slots):
                    waiting.add(kind)
                elif not self._send(self._backlog.take(lane, slots)):
                    return

    def _slots(self) -> int:
        return 1 if self._broken else self._cluster.slots()

    def _send(self, calls: list[Any]) -> bool:
        """False: not now."""
        calls = [call for call in calls if call.board(self)]
        if self._broken is not None:
            self._refuse(calls, self._broken)
            return True
        try:
            shipment = self._load(calls)
            if shipment is not None:
                self._ship(shipment)
        except NoWorkerYet:
            self._put_back([call for call in calls if not call.ended])
            return False
        except Exception as error:
            self._refuse(calls, error)
        return True

    def _refuse(self, calls: list[Any], error: Exception) -> None:
        for call in calls:
            if not call.ended:
                apart(call, call.lose if isinstance(error, WorkerLost) else call.refuse, error)

    def _ship(self, shipment: Shipment) -> None:
        self._away[shipment.id] = shipment
        self._away_of[shipment.lane] += 1
        self._of_call.update((call, (shipment, number)) for number, call in shipment.calls.items())
        try:
            self._cluster.ship(shipment)
        except BaseException:
            self._forget(shipment)
            raise

    def _forget(self, shipment: Shipment) -> None:
        if self._away.pop(shipment.id, None) is not None:
            self._away_of[shipment.lane] -= 1
        for call in shipment.calls.values():
            self._of_call.pop(call, None)

    # --- packing --------------------------------------------------------------------------------------------------

    def _load(self, calls: list[Any]) -> Shipment | None:
        cargo: list[Any] = []
        items: dict[int, Item] = {}
        shared: dict[int, Any] = {}
        on_board: dict[int, Any] = {}
        load = 0
        for index, call in enumerate(calls):
            if load > _MOST_BYTES:
                self._put_back(calls[index:])
                break
            try:
                household, common, visit = call.pack()
            except Exception as error:
                apart(call, call.refuse, error)
                continue
            if is_wanted(call):
                number = next(_numbers)
                on_board[number] = call
                home = self._share(household, shared, cargo)
                args = None if common is None else self._share(common, shared, cargo)
                is_light = (weight := _weight(visit)) < _HEAVY
                load += weight * is_light
                own = frames(visit) if is_light else _stow(cargo, self._cluster.place(visit))
                given = [(_stow(cargo, kept.cargo), kept.number) for kept in visit.handles]
                items[number] = Item(number, home, args, own, given)
        if not on_board:
            return None
        order = Order(uuid.uuid4().hex, self.id, list(items.values()), shared, ties=owners.ties())
        return Shipment(on_board, order, cargo)

    def _share(self, packed: serial.Packed, shared: dict[int, Any], cargo: list[Any]) -> int:
        """Load what many calls refer to, once; its key."""
        known = self._keys.get(id(packed))
        if known is None:
            known = self._keys[id(packed)] = packed, next(_numbers)  # kept, so that its id stays its own
        key = known[1]
        if key not in shared:
            shared[key] = frames(packed) if _weight(packed) < _HEAVY else _stow(cargo, self._place(packed))
        return key

    def _place(self, packed: serial.Packed) -> Any:
        known = self._placed.get(id(packed))
        if known is None or not self._cluster.has(known[1]):
            self._placed[id(packed)] = packed, self._cluster.place(packed)
            while len(self._placed) > _PLACED:
                self._keys.pop(self._placed.popitem(last=False)[0], None)
        self._placed.move_to_end(id(packed))
        return self._placed[id(packed)][1]

    # --- hearing --------------------------------------------------------------------------------------------------

    def _hear(self, shipment_id: str, data: bytes) -> None:
        shipment = self._away.get(shipment_id)
        if shipment is None:
            return
        for index, kind, *content in messages(data):
            if index >= shipment.heard:
                shipment.heard = index + 1
                getattr(self, f"_on_{kind}")(shipment, *content)

    def _on_begun(self, shipment: Shipment, number: int, place: str) -> None:
        is_first, shipment.begun, shipment.place = shipment.begun is None, number, place
        if number in shipment.calls:
            self._begin(shipment.calls[number])
        for other, call in shipment.calls.items() if is_first else ():
            if call.stopping:  # it was asked to while nobody knew where it is
                self._to_stop.append((shipment, other))

    def _begin(self, call: Any) -> None:
        """It is running. Hooks that want to know may take their time, but what follows waits for them."""
        if not call.may_block:
            call.start_away()
            return
        self._beginnings[call] = threading.Thread(target=call.start_away, name="penstock-aside", daemon=True)
        self._beginnings[call].start()

    def _tell(self, call: Any, action: Callable[[Any], object], argument: Any) -> None:
        """Tell a call how it has ended."""
        beginning = self._beginnings.pop(call, None)

        def after_beginning(argument: Any) -> None:
            if beginning is not None:
                beginning.join()
            action(argument)

        apart(call, after_beginning, argument)

    def _on_note(self, shipment: Shipment, number: int, message: Any) -> None:
        call = shipment.calls.get(number)
        if call is not None:
            call.note(message)

    def _on_done(self, shipment: Shipment, number: int, data: bytes, shown: str | None) -> None:
        """Its report; `shown` is None, unless the value stays there."""
        call = self._landed(shipment, number)
        if call is None:
            return
        try:
            report = serial.unpack(serial.Packed(data))
        except Exception as error:
            self._tell(call, call.refuse, error)
            return
        self._backlog.note_speed(call.key, report[-1] - report[-2])  # a report ends with its beginning and its end
        if shown is not None:
            self._backlog.never_batch(call.key)  # each of its values is to be held, and let go, by itself
            cargo = shipment.left.get(number, shipment.handle)
            if cargo is None:
                self._tell(call, call.lose, WorkerLost("The worker died with the result", worker=shipment.place))
                return
            kept = KeptThere(self._runner, self._cluster, cargo, number, shown)
            self._kept.add(kept)
            report = (report[0], kept, *report[2:])
        self._tell(call, call.arrive, report)

    def _on_refused(self, shipment: Shipment, number: int, data: bytes) -> None:
        call = self._landed(shipment, number)
        if call is not None:
            self._tell(call, call.refuse, serial.unpack(serial.Packed(data)))

    def _on_back(self, shipment: Shipment, numbers: Sequence[int]) -> None:
        """Calls that it has not begun and will not."""
        self._put_back([call for number in numbers if (call := self._landed(shipment, number)) is not None])

    def _landed(self, shipment: Shipment, number: int) -> Any:
        call = shipment.calls.pop(number, None)
        if call is not None:
            del self._of_call[call]
            self._early_deaths.pop(call, None)
        return call

    # --- endings --------------------------------------------------------------------------------------------------

    def _keep(self, shipment_id: str, number: int, cargo: Any) -> None:
        shipment = self._away.get(shipment_id)
        if shipment is not None:
            shipment.left[number] = cargo

    def _end(self, shipment_id: str, error: BaseException | None) -> None:
        shipment = self._away.get(shipment_id)
        if shipment is None:
            return
        if shipment.calls:
            self._mourn(shipment, error or WorkerLost("The cluster lost a call"))
        self._forget(shipment)
        self._cluster.forget(shipment)

    def _mourn(self, shipment: Shipment, error: BaseException) -> None:
        """Its worker is gone: the call that was being executed is lost, later ones have not begun."""
        box = self._cluster.box_of(shipment)
        if box is not None:
            self._hear(shipment.id, box)
        if isinstance(error, WorkerLost):
            error.worker = error.worker or shipment.place
        calls = dict(shipment.calls)
        self._forget(shipment)
        lost = self._lost_of(shipment, calls, is_known=box is not None)
        self._put_back([call for call in calls.values() if call not in lost])
        for call in lost:
            self._tell(call, call.lose, error)

    def _lost_of(self, shipment: Shipment, calls: dict[int, Any], *, is_known: bool) -> list[Any]:
        if shipment.begun in calls or (shipment.begun is not None and not is_known):
            # Without the box, any of them may have been executed.
            return [calls[shipment.begun]] if is_known else list(calls.values())
        self._early_deaths.update(calls.values())
        return [call for call in calls.values() if self._early_deaths[call] > _ATTEMPTS]

    def _put_back(self, calls: list[Any]) -> None:
        stays = [call for call in calls if not call.leave()]  # it is said to have begun, for it is being cancelled
        self._backlog.add_back([call for call in calls if call.away is None])
        for call in stays:
            call.ask_to_stop()  # whoever cancels it may not have come that far
            self._tell(call, call.lose, WorkerLost("Stopped before it began"))

    # --- stopping -------------------------------------------------------------------------------------------------

    def _stop(self, call: Any) -> None:
        found = self._of_call.get(call)
        if found is None:
            return
        shipment, _ = found
        if shipment.begun is None:
            self._to_recall[shipment.id] = shipment
        else:
            self._to_stop.append(found)

    def _stop_all(self) -> None:
        """When the others have been taken back: one of them could begin in the place of what ends."""
        to_stop, self._to_stop = self._to_stop, []
        for shipment, number in to_stop:
            self._cluster.stop(shipment, number)

    def _recall_all(self) -> None:
        """Take back what has not begun: the cancelled calls are over, the others are sent again."""
        asked, self._to_recall = list(self._to_recall.values()), {}
        asked = [shipment for shipment in asked if shipment.begun is None and shipment.id in self._away]
        if not asked:
            return
        for shipment in self._cluster.recall(asked):
            self._forget(shipment)
            self._put_back(list(shipment.calls.values()))

    def _kill(self, call: Any) -> None:
        found = self._of_call.get(call)
        if found is not None:
            self._cluster.kill(*found)


class ClusterTaskRunner(TaskRunner):
    """What a runner on a cluster consists of, beside the cluster itself."""

    _dispatcher: Dispatcher | None = None

    @abstractmethod
    def _new_cluster(self) -> Cluster: ...
    @abstractmethod
    def _wishes_of(self, call: Call) -> Any:
        """What the user has asked for where the task was submitted."""

    def start(self) -> None:
        cluster = self._new_cluster()
        cluster.dispatcher = self._dispatcher = Dispatcher(self, cluster)
        self._dispatcher.start()

    def execute(self, call: Call) -> None:
        assert self._dispatcher is not None
        call.wishes = self._wishes_of(call)
        self._dispatcher.put(call)

    def close(self, *, cancel: bool = False) -> None:
        dispatcher, self._dispatcher = self._dispatcher, None
        if dispatcher is not None:
            dispatcher.close()

    def duplicate(self) -> Self:
        return type(self)(*self._settings())


class KeptThere(Kept):
    """A result that stayed on the cluster."""

    def __init__(self, holder: TaskRunner, cluster: Cluster, cargo: Any, number: int, shown: str) -> None:
        self.holder = holder
        self.shown = shown
        self.cargo = cargo  # stands for the value, and for others if they came from the same shipment
        self.number = number
        self._cluster = cluster
        self._at_home: Any = None
        self._lost: WorkerLost | None = None  # why it cannot be had

    def fetch(self) -> Any:
        found = self._frames()
        return serial.unpack(serial.Packed(found[0], [copied(frame) for frame in found[1:]]))[1]

    def _frames(self) -> Any:
        try:
            return self._at_home or self._cluster.fetch(self.cargo)[self.number]
        except WorkerLost as error:
            self._lost = self._lost or error
            if self._at_home is None:
                raise self._lost from None
            return self._at_home  # meanwhile the cluster has gone

    def bring_home(self) -> None:
        """Before the cluster goes: somebody may still ask."""
        with suppress(WorkerLost):  # whoever asks hears of it
            self._at_home = [bytes(frame) for frame in self._frames()]
        self.cargo = None


def _weight(packed: serial.Packed) -> int:
    return len(packed.data) + sum(int(buffer.raw().nbytes) for buffer in packed.buffers)


def _stow(cargo: list[Any], one: Any) -> int:
    """Load it unless it is there already; where it is."""
    for index, other in enumerate(cargo):
        if other is one:
            return index
    cargo.append(one)
    return len(cargo) - 1
