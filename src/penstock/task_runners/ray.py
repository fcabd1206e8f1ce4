"""Bodies on a Ray cluster.

A shipment is one Ray task that yields what it has to say as it goes on: bytes are messages, a number announces that the
next thing is the value of that call. Such a value is an object of its own, which stays where it was made and belongs to
this process: it outlives the worker. Ray executes nothing twice here, neither tasks nor what made a lost object.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future as StandardFuture
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from functools import partial
from queue import SimpleQueue
from types import MappingProxyType
from typing import Any

import ray
from ray._private import ray_constants
from ray.exceptions import GetTimeoutError, RayTaskError
from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_put
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from penstock._core.errors import describe
from penstock._core.serial import Packed
from penstock.exceptions import WorkerLost
from penstock.task_runners import outpost
from penstock.task_runners.base import Call, Capabilities, TaskRunner
from penstock.task_runners.remote import Cluster, ClusterTaskRunner, Shipment

_logger = logging.getLogger("penstock")
_COUNTED = 0.5  # seconds for which the number of slots is believed
_NAMESPACE = "penstock"
_PATIENCE = 5.0  # seconds until it is asked whether a shipment can begin at all
_ENDING = 2.0  # seconds for a task that has nothing more to do
_WINDING_UP = 10.0  # seconds at the end of a flow run for Ray to say of every task that it has ended
_MOMENT = 5.0  # seconds for a small task on another node, which may have to start a process for it
_LAST_PRINTS = 0.5  # seconds for what tasks have printed to arrive; Ray takes as many at the exit of a program
_OURS = {
    "num_returns": "it is how the runner hears of a run",
    "max_retries": "write @task(retries=...)",
    "retry_exceptions": "write @task(retries=..., retry_condition_fn=...)",
}  # options of Ray's that a task run cannot have

_options: ContextVar[Mapping[str, Any]] = ContextVar("penstock_remote_options", default=MappingProxyType({}))


@contextmanager
def remote_options(**options: Any) -> Iterator[None]:
    """A context in which tasks are submitted to a `RayTaskRunner` with these options of Ray's `.options()`.

    For what they need (`num_cpus`, `num_gpus`, `memory`, `resources`, `accelerator_type`) and where they are to be
    executed (`scheduling_strategy`, `runtime_env`). Contexts nest; the innermost value of each option counts, and goes
    before one that the task itself has (`@task(remote_options=...)`). Other runners do not look at them. A run with an
    option that Ray does not know fails with `ValueError`.

        >>> from penstock import flow, task
        >>> @task
        ... def train(model): ...
        >>> @flow(task_runner=RayTaskRunner)
        ... def main():
        ...     with remote_options(num_cpus=4, num_gpus=2):
        ...         return train.submit("large")
    """
    token = _options.set({**_options.get(), **options})
    try:
        yield
    finally:
        _options.reset(token)


class RayTaskRunner(ClusterTaskRunner):
    """Executes tasks on a Ray cluster.

    On the Ray that this process is connected to, if it is; else on the one at `address`, or on one of its own, which
    is shut down when no flow run needs it any more. It listens on the loopback interface only and has no dashboard.
    Large results stay on the cluster as objects of Ray's: tasks that depend on them get them there, and this process
    when it asks for them. `with remote_options(...)` says what tasks need. A worker that dies costs the tasks that it
    was executing one attempt; what has ended is not executed again.

    Args:
        address: As for `ray.init`: of a cluster, or "auto". Ray Client (`ray://...`) cannot do what is needed here.
        init_kwargs: For `ray.init`, if that is to be called.

    Raises `ValueError` for an address of Ray Client.

        >>> from penstock import flow
        >>> @flow(task_runner=RayTaskRunner(init_kwargs={"num_cpus": 4}))
        ... def crunch(): ...
    """

    capabilities = Capabilities(
        shares_memory=False,
        runs_async=True,
        can_kill=True,
        outlives_workers=True,
        same_surroundings=False,
        keeps_values=True,
    )

    def __init__(self, address: str | None = None, init_kwargs: dict[str, Any] | None = None) -> None:
        if address is not None and address.startswith("ray://"):
            raise ValueError(
                f"{address!r} is for Ray Client, which has no streaming tasks: run the flow on a machine of the "
                "cluster, with address='auto'"
            )
        self.address = address
        self.init_kwargs = dict(init_kwargs or {})

    @property
    def slots(self) -> int:
        return _cpus() if ray.is_initialized() else super().slots

    def _new_cluster(self) -> Cluster:
        return RayCluster(self)

    def _wishes_of(self, call: Call) -> Any:
        return {**call.remote_options, **call.ask(_options.get)}

    def _settings(self) -> tuple[Any, ...]:
        return self.address, self.init_kwargs

    def __repr__(self) -> str:
        shown = "" if self.address is None else f"address={self.address!r}"
        return f"{type(self).__name__}({shown})"


class RayCluster(Cluster):
    """The dispatcher's side of Ray."""

    def __init__(self, runner: RayTaskRunner) -> None:
        self._runner = runner
        self._exits = ExitStack()
        self._streams: dict[str, Any] = {}  # of shipments, until Ray is done with them
        self._unwanted: dict[str, Shipment] = {}  # those of them that have been recalled
        self._claims: set[str] = set()  # that have to be deleted
        self._impossible: set[str] = set()  # demands that have been warned about
        self._slots = 1
        self._counted = 0.0  # when
        self._loop: asyncio.AbstractEventLoop

    # --- beginning and end ----------------------------------------------------------------------------------------

    def open(self) -> None:
        self._exits.enter_context(connected(self._runner.address, self._runner.init_kwargs))
        self._exits.callback(self._delete_claims)
        self._loop = self._exits.enter_context(_loop_on_thread())
        self._exits.callback(self._cancel_all)

    def close(self) -> None:
        self._exits.close()

    def _cancel_all(self) -> None:
        """What nobody waits for. Most have nothing more to do, and end by themselves."""
        for shipment in self.dispatcher.unfinished():
            self._cancel(shipment.id, force=True)
        for shipment_id in list(self._unwanted):
            self._cancel(shipment_id)

    def _delete_claims(self) -> None:
        for shipment in self._unwanted.values():  # Ray may still begin them
            self._claims.discard(_claim_of(shipment.order))
        for claim in self._claims:
            _unclaim(claim)

    def slots(self) -> int:
        if time.monotonic() - self._counted > _COUNTED:
            self._counted = time.monotonic()
            self._slots = _cpus()
        return self._slots

    # --- sending --------------------------------------------------------------------------------------------------

    def ship(self, shipment: Shipment) -> None:
        wishes = {"name": shipment.name, **shipment.wishes}
        _refuse_ours(wishes)
        packed = pickle.dumps((shipment.order, [entry or os.getcwd() for entry in sys.path]), 5)
        stream = _perform.options(**wishes).remote(packed, *shipment.cargo)
        self._streams[shipment.id] = stream
        self._claims.add(_claim_of(shipment.order))
        asyncio.run_coroutine_threadsafe(self._listen(shipment, stream), self._loop)

    def place(self, packed: Packed) -> Any:
        return ray.put(_apart(packed))

    def fetch(self, cargo: Any) -> dict[int, Sequence[Any]]:
        try:
            values: dict[int, Sequence[Any]] = ray.get(cargo)
        except Exception as error:
            reason = describe(error).splitlines()[0]
            raise WorkerLost(f"A result that stayed on the cluster is lost ({reason})") from error
        return values

    # --- hearing, in the event loop -------------------------------------------------------------------------------

    async def _listen(self, shipment: Shipment, stream: Any) -> None:
        doubt = self._loop.call_later(_PATIENCE, self._doubt, shipment)
        error = None
        try:
            async for ref in stream:
                doubt.cancel()
                await self._hear(shipment, stream, ref)
        except Exception as raised:
            error = raised
        doubt.cancel()
        del self._streams[shipment.id]
        self._unwanted.pop(shipment.id, None)
        self.dispatcher.end(shipment.id, None if error is None else _lost(error))

    async def _hear(self, shipment: Shipment, stream: Any, ref: Any) -> None:
        said = await ref
        if isinstance(said, bytes):
            self.dispatcher.hear(shipment.id, said)
        else:
            # Awaiting a value would bring it here; this only waits until it exists.
            self.dispatcher.keep(shipment.id, said, await asyncio.to_thread(next, stream, None))

    def forget(self, shipment: Shipment) -> None:
        claim = _claim_of(shipment.order)
        self._claims.discard(claim)
        asyncio.run_coroutine_threadsafe(asyncio.to_thread(_unclaim, claim), self._loop)

    def _doubt(self, shipment: Shipment) -> None:
        """It has not begun: warn if it never will."""
        demand = _demand(shipment.wishes)
        offers = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        shown = ", ".join(f"{amount:g} {name}" for name, amount in demand.items())
        if shown not in self._impossible and not any(_meets(offer, demand) for offer in offers):
            self._impossible.add(shown)
            _logger.warning("Task %r waits for a node with %s; Ray has %s", shipment.name, shown, _shown(offers))

    # --- stopping -------------------------------------------------------------------------------------------------

    def recall(self, shipments: Sequence[Shipment]) -> Sequence[Shipment]:
        recalled = [shipment for shipment in shipments if _claim(shipment.order)]
        for shipment in recalled:
            self._unwanted[shipment.id] = shipment
            self._cancel_soon(shipment.id)
        return recalled

    def stop(self, shipment: Shipment, number: int) -> None:
        # If it has not begun, this is called again when it does.
        if shipment.begun is not None and not outpost.request_stop(shipment.id, number):
            _on_node(_node_of(shipment.place), outpost.request_stop, shipment.id, number)

    def kill(self, shipment: Shipment, number: int) -> None:
        if _is_here(shipment) and not outpost.is_going_on_here(shipment.id):
            self._cancel_soon(shipment.id, force=True)
        else:
            self._cancel(shipment.id, force=True)

    def _cancel(self, shipment_id: str, *, force: bool = False) -> None:
        stream = self._streams.get(shipment_id)
        if stream is not None:
            ray.cancel(stream, force=force)

    def _cancel_soon(self, shipment_id: str, *, force: bool = False) -> None:
        """Unless it ends by itself. Ray ends this very process if it is told to cancel what is just ending."""
        cancel = partial(self._cancel, shipment_id, force=force)
        self._loop.call_soon_threadsafe(self._loop.call_later, _ENDING, cancel)

    def box_of(self, shipment: Shipment) -> bytes | None:
        box = outpost.read_box(shipment.id)
        if box is not None:
            return box
        others = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["NodeID"] != _this_node()]
        begun_on = [node for node in others if node == _node_of(shipment.place)]
        asked = [_on_node(node, outpost.read_box, shipment.id) for node in begun_on or others]
        return next((box for one in asked if (box := _answer(one)) is not None), None)


def _cpus() -> int:
    return int(ray.cluster_resources().get("CPU", 1)) or 1


def _refuse_ours(wishes: Mapping[str, Any]) -> None:
    for name, instead in _OURS.items():
        if name in wishes:
            raise ValueError(f"remote_options({name}=...) is not for task runs: {instead}")


def _lost(error: Exception) -> WorkerLost:
    cause = error.cause if isinstance(error, RayTaskError) else error  # else it is a report with a traceback of Ray's
    lost = WorkerLost(f"Lost on Ray: {describe(cause).splitlines()[0]}")
    lost.__cause__ = error
    return lost


def _demand(wishes: Mapping[str, Any]) -> dict[str, float]:
    """What a task needs, in the names that nodes use."""
    given = {"num_cpus": 1, **wishes}
    named = {"CPU": given["num_cpus"], "GPU": given.get("num_gpus"), "memory": given.get("memory")}
    return {name: amount for name, amount in {**named, **(given.get("resources") or {})}.items() if amount}


def _meets(offer: Mapping[str, float], demand: Mapping[str, float]) -> bool:
    return all(offer.get(name, 0) >= amount for name, amount in demand.items())


def _shown(offers: Sequence[Mapping[str, float]]) -> str:
    """Without what Ray makes up: a resource for each address, and the store of its objects."""
    nodes = [
        " and ".join(
            f"{amount:g} {name}"
            for name, amount in sorted(offer.items())
            if name != "object_store_memory" and not name.startswith("node:")
        )
        for offer in offers
    ]
    return "; ".join(nodes) or "no nodes"


def _node_of(place: str) -> str:
    return place.rpartition(" ")[2]


def _this_node() -> str:
    node: str = ray.get_runtime_context().get_node_id()
    return node


def _is_here(shipment: Shipment) -> bool:
    return _node_of(shipment.place) == _this_node()


def _on_node(node: str, function: Callable[..., Any], *args: Any) -> Any:
    """Have a node call a function, whatever else it has to do."""
    there = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(function).options(num_cpus=0, max_retries=0, scheduling_strategy=there).remote(*args)


def _answer(ref: Any) -> Any:
    with suppress(Exception):  # the node is gone, too
        return ray.get(ref, timeout=_MOMENT)
    return None


@contextmanager
def _loop_on_thread() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="penstock-ray-ear", daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        asyncio.run_coroutine_threadsafe(_wind_up(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _wind_up() -> None:
    going_on = asyncio.all_tasks() - {asyncio.current_task()}
    if going_on:
        _, rest = await asyncio.wait(going_on, timeout=_WINDING_UP)
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)


# --- who begins -------------------------------------------------------------------------------------------------------


def _claim(order: outpost.Order) -> bool:
    """Decide whether a shipment is executed or has been recalled: whoever is first has it.

    Ray's own cancellation cannot tell: of a task that has begun meanwhile, it drops what it has to say.
    """
    return not _internal_kv_put(_claim_of(order), b"", overwrite=False, namespace=_NAMESPACE)


def _claim_of(order: outpost.Order) -> str:
    return f"{order.sender}/{order.shipment}"


def _unclaim(name: str) -> None:
    _internal_kv_del(name, namespace=_NAMESPACE)


# --- connecting -------------------------------------------------------------------------------------------------------


class Keeper(threading.Thread):
    """Connects this process to Ray, and disconnects it when the last flow run that uses it has ended.

    A thread of its own: the processes that Ray starts are killed when the thread ends that started them.
    """

    def __init__(self, address: str | None, init_kwargs: Mapping[str, Any]) -> None:
        super().__init__(name="penstock-ray-keeper", daemon=True)
        self.address = address
        self.users = 0
        self._init_kwargs = init_kwargs
        self._connected: StandardFuture[None] = StandardFuture()
        self._over = threading.Event()

    def connect(self) -> None:
        self.start()
        self._connected.result()

    def disconnect(self) -> None:
        self._over.set()
        self.join()

    def run(self) -> None:
        try:
            _init(self.address, self._init_kwargs)
        except BaseException as error:
            self._connected.set_exception(error)
            return
        self._connected.set_result(None)
        self._over.wait()
        if self._init_kwargs.get("log_to_driver", True):
            time.sleep(_LAST_PRINTS)
        ray.shutdown()


_lock = threading.Lock()
_keeper: Keeper | None = None  # if Ray is connected, and not by the program itself


@contextmanager
def connected(address: str | None, init_kwargs: Mapping[str, Any]) -> Iterator[None]:
    """Have this process connected to Ray: as it is, or to `address`, or to a Ray of its own."""
    with _lock:
        keeper = _enter(address, init_kwargs)
    try:
        yield
    finally:
        with _lock:
            _leave(keeper)


def _enter(address: str | None, init_kwargs: Mapping[str, Any]) -> Keeper | None:
    global _keeper
    if not ray.is_initialized():
        _keeper = Keeper(address, init_kwargs)
        _keeper.connect()
    elif _keeper is None or _keeper.address != address:
        _require_address(address)
    if _keeper is not None:
        _keeper.users += 1
    return _keeper


def _leave(keeper: Keeper | None) -> None:
    global _keeper
    if keeper is None:
        return
    keeper.users -= 1
    if keeper.users == 0:
        keeper.disconnect()
        _keeper = None


def _require_address(address: str | None) -> None:
    running = ray.get_runtime_context().gcs_address
    if address not in (None, "auto", "local", running):
        raise ValueError(f"Cannot connect to Ray at {address!r}: this process is connected to {running!r}")


def _init(address: str | None, init_kwargs: Mapping[str, Any]) -> None:
    options: dict[str, Any] = {"configure_logging": False}
    if address in (None, "local"):
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        options["include_dashboard"] = False
    with _loopback_only(address, init_kwargs), _quietly(), _handler_of_the_program(), _debugger_of_the_program():
        ray.init(address, **{**options, **init_kwargs})


@contextmanager
def _loopback_only(address: str | None, init_kwargs: Mapping[str, Any]) -> Iterator[None]:
    """Ray has no option for it: a node's address 127.0.0.1 is replaced by another one, unless clusters are disabled."""
    before = getattr(ray_constants, "ENABLE_RAY_CLUSTER", True)
    ray_constants.ENABLE_RAY_CLUSTER = before and (address not in (None, "local") or "_node_ip_address" in init_kwargs)
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def _debugger_of_the_program() -> Iterator[None]:
    """Ray has `breakpoint()` call its own debugger in this process and its children, also when Ray is gone."""
    before = os.environ.get("PYTHONBREAKPOINT")
    try:
        yield
    finally:
        os.environ.pop("PYTHONBREAKPOINT", None)
        if before is not None:
            os.environ["PYTHONBREAKPOINT"] = before


@contextmanager
def _handler_of_the_program() -> Iterator[None]:
    """Ray's core puts a handler of its own in front, which aborts the process three seconds after a SIGTERM.

    By way of the C library, because Python's `signal` is for the main thread, and did not notice.
    """
    library, handler = ctypes.CDLL(None), ctypes.create_string_buffer(1024)  # more than any system's `struct sigaction`
    library.sigaction(signal.SIGTERM, None, handler)
    try:
        yield
    finally:
        library.sigaction(signal.SIGTERM, handler, None)


@contextmanager
def _quietly() -> Iterator[None]:
    """Without warnings that are none: the program keeps its handler for SIGTERM, and others cannot use this Ray."""
    with ExitStack() as exits:
        for name in ("worker", "authentication.authentication_token_setup"):
            logger = logging.getLogger(f"ray._private.{name}")
            logger.addFilter(_is_of_interest)
            exits.callback(logger.removeFilter, _is_of_interest)
        yield


def _is_of_interest(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(("SIGTERM handler is not set", "Token authentication is enabled"))


# --- on a worker ------------------------------------------------------------------------------------------------------


def perform(packed: bytes, *cargo: Any) -> Iterator[Any]:
    """What Ray executes: a shipment."""
    order, path = pickle.loads(packed)
    sys.path.extend(entry for entry in path if entry not in sys.path)
    if not _claim(order):
        _unclaim(_claim_of(order))  # recalled, and this was the only time that Ray would begin it
        return
    for number, content in outpost.steps(order, cargo, RayOutlet(order)):
        if number is None:
            yield content
        else:
            yield number
            yield {number: _apart(content)}


def _apart(packed: Packed) -> list[pickle.PickleBuffer]:
    """So that Ray copies the parts into its store, and nowhere else."""
    return [pickle.PickleBuffer(packed.data), *packed.buffers]


_perform = ray.remote(num_returns="streaming", max_retries=0)(perform)


class RayOutlet(outpost.Outlet):
    """A shipment's way to the Ray worker that executes it."""

    def __init__(self, order: outpost.Order) -> None:
        self._shipment = order.shipment
        self._never = ray.ObjectRef.from_random()  # an object that nobody will make
        self._lent: float | None = None  # since when
        self.place = f"process {os.getpid()} on node {_this_node()}"

    def wait(self, jobs: SimpleQueue[Any], seconds: float) -> Any:
        outpost.heed_requests(self._shipment)
        if self._lent is None:
            return jobs.get(timeout=seconds)
        if jobs.empty():
            # Ray lets others have a worker's resources while its main thread waits for an object, and at no other time.
            # It cannot be woken, so it looks up: after a tenth of the time that it has waited.
            waited = time.monotonic() - self._lent
            with suppress(GetTimeoutError):
                ray.get(self._never, timeout=min(seconds, max(0.002, waited / 10)))
        return jobs.get_nowait()

    def lend(self) -> None:
        self._lent = time.monotonic()

    def regain(self) -> None:
        self._lent = None

    def make_runner(self) -> TaskRunner:
        return RayTaskRunner()
