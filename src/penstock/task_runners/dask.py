"""Bodies on a Dask cluster."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.util
import logging
import os
import pickle
import signal
import threading
import time
import uuid
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future as StandardFuture
from concurrent.futures import wait
from contextlib import ExitStack
from contextvars import copy_context
from dataclasses import replace
from typing import Any, cast

import distributed
from dask.base import annotate, get_annotations
from distributed.utils import silence_logging_cmgr
from distributed.versions import VersionMismatchWarning

from penstock._core.errors import describe
from penstock._core.serial import Packed
from penstock.exceptions import WorkerLost, keep_own_pickling
from penstock.task_runners import outpost
from penstock.task_runners.base import Call, Capabilities, TaskRunner, here
from penstock.task_runners.guard import deaf_to_interrupts, hidden_input, require_children, require_main_guard
from penstock.task_runners.remote import Cluster, ClusterTaskRunner, NoWorkerYet, Shipment
from penstock.task_runners.versions import compare_versions
from penstock.task_runners.worker import die_with_parent

keep_own_pickling()  # which the import of distributed has changed
_logger = logging.getLogger("penstock")
_RECALLED = 10_000  # shipments; each is on its way to the scheduler for a moment only
_COUNTED = 0.5  # seconds for which the number of slots is believed
_MOMENT = 2.0  # seconds for workers to hear something
_INSTANT = 0.3  # likewise, at the end
_PATIENCE = 5.0  # seconds for a scheduler's answer
_CUT_OFF = "The connection to the Dask scheduler is lost"


class DaskTaskRunner(ClusterTaskRunner):
    """Executes tasks on a Dask cluster.

    Without arguments, on a temporary `LocalCluster` that lives as long as the flow run and is started by its first
    task. Large results stay on the cluster: they travel from worker to worker and come to this process when it asks for
    them. `with dask.annotate(priority=..., resources=..., workers=..., retries=...):` holds for what is submitted
    inside. A worker that dies costs the tasks that it was executing one attempt; what has ended is not executed again.

    Cancelling and time limits interrupt a body if it is in Python code. One that does not stop is left behind: the
    task is over, others get its place.

    Args:
        cluster: A cluster that goes on afterwards.
        address: Of a scheduler, instead.
        cluster_class: What makes the temporary cluster: a class, a callable, or the dotted name of one.
        cluster_kwargs: For `cluster_class`.
        adapt_kwargs: For its `adapt` method: the cluster grows and shrinks with the work.
        client_kwargs: For `distributed.Client`.
        performance_report_path: Where to write Dask's report about the flow run. Needs bokeh.

    Raises `ValueError` for combinations that make no sense.

        >>> from penstock import flow
        >>> @flow(task_runner=DaskTaskRunner(cluster_kwargs={"n_workers": 4}))
        ... def crunch(): ...
    """

    capabilities = Capabilities(shares_memory=False, runs_async=True, outlives_workers=True, keeps_values=True)

    def __init__(
        self,
        cluster: Any = None,
        address: str | None = None,
        cluster_class: str | Callable[..., Any] | None = None,
        cluster_kwargs: dict[str, Any] | None = None,
        adapt_kwargs: dict[str, Any] | None = None,
        client_kwargs: dict[str, Any] | None = None,
        performance_report_path: str | os.PathLike[str] | None = None,
    ) -> None:
        self.cluster = cluster
        self.address = address
        self.cluster_class = cluster_class
        self.cluster_kwargs = dict(cluster_kwargs or {})
        self.adapt_kwargs = dict(adapt_kwargs or {})
        self.client_kwargs = dict(client_kwargs or {})
        self.performance_report_path = performance_report_path
        self._refuse_conflicts()
        if cluster is not None or address is not None:
            self.capabilities = replace(type(self).capabilities, same_surroundings=False)
        self._find_client: Callable[[], Any] | None = None  # on a worker: its own
        self._slots = os.cpu_count() or 1

    def _refuse_conflicts(self) -> None:
        given = [name for name in ("address", "cluster") if getattr(self, name) is not None]
        making = [name for name in ("cluster_class", "cluster_kwargs") if getattr(self, name)]
        if len(given) == 2:
            raise ValueError("Cannot specify `address` and `cluster`: the cluster has an address")
        if given and making:
            raise ValueError(f"Cannot specify `{given[0]}` and `{making[0]}`, which is for a temporary cluster")
        if self.address is not None and self.adapt_kwargs:
            raise ValueError("Cannot specify `address` and `adapt_kwargs`: only a cluster object can be adapted")
        for name in ("cluster_kwargs", "client_kwargs"):
            if "asynchronous" in getattr(self, name):
                raise ValueError(f"`asynchronous` cannot be set in `{name}`: the runner sees to that itself")

    @property
    def slots(self) -> int:
        return self._slots

    def _new_cluster(self) -> Cluster:
        return DaskCluster(self)

    def _wishes_of(self, call: Call) -> Any:
        return call.ask(get_annotations)

    def _settings(self) -> tuple[Any, ...]:
        return (
            self.cluster,
            self.address,
            self.cluster_class,
            self.cluster_kwargs,
            self.adapt_kwargs,
            self.client_kwargs,
            self.performance_report_path,
        )

    def __repr__(self) -> str:
        shown = [f"{name}={value!r}" for name in ("cluster", "address") if (value := getattr(self, name)) is not None]
        return f"{type(self).__name__}({', '.join(shown)})"


class DaskCluster(Cluster):
    """The dispatcher's side of a Dask client."""

    def __init__(self, runner: DaskTaskRunner) -> None:
        self._runner = runner
        self._exits = ExitStack()
        self._client: Any  # here and below: Dask's own types are incomplete
        self._shipments: dict[str, Shipment] = {}  # by Dask's key
        self._counted = 0.0
        self._line: Any = None  # to the scheduler
        self._lure: Any = None  # something to do for a cluster without workers
        self._to_stop: dict[str, list[int]] = {}  # calls by shipment
        self._told: dict[StandardFuture[None], tuple[str, Any]] = {}  # what workers are being told: which one, what
        self._own: TemporaryCluster | None = None

    # --- beginning and end ----------------------------------------------------------------------------------------

    def open(self) -> None:
        runner = self._runner
        if runner._find_client is not None:
            self._client = _connected(runner._find_client())
        else:
            self._client = self._connect()
            self._client.register_plugin(Referee())
            if self._own is not None:
                self._client.register_plugin(Mortal())
        self._line = self._client.scheduler_comm
        self._topic = f"penstock-{self.dispatcher.id}"
        self._client.subscribe_topic(self._topic, self._on_event)
        self._exits.callback(self._leave)
        if runner.performance_report_path is not None:
            self._exits.enter_context(_report(self._client, os.fspath(runner.performance_report_path)))

    def _leave(self) -> None:
        self._client._event_handlers.pop(self._topic, None)  # `unsubscribe_topic` leaves it there
        self._ask("penstock_leave", topic=self._topic, client=self._client.id)

    def _connect(self) -> Any:
        runner = self._runner
        target: Any = runner.address or runner.cluster or self._make_cluster()
        if runner.adapt_kwargs:
            target.adapt(**runner.adapt_kwargs)
        with _without_mismatch_warning():  # it is said below, in one sentence
            client: Any = distributed.Client(target, **{"set_as_default": False, **runner.client_kwargs})
        self._exits.enter_context(client)
        if runner.address or runner.cluster:
            compare_versions(client)
        return client

    def _make_cluster(self) -> Any:
        runner = self._runner
        make, given = runner.cluster_class or TemporaryCluster, runner.cluster_kwargs
        if isinstance(make, str):
            module, _, name = make.rpartition(".")
            make = getattr(importlib.import_module(module), name)
        if make is distributed.LocalCluster:
            make = TemporaryCluster
        is_local = isinstance(make, type) and issubclass(make, distributed.LocalCluster)
        makes_processes = is_local and given.get("processes", True)
        require_main_guard("DaskTaskRunner()", only_in_workers=not makes_processes)
        if makes_processes:
            require_children("A temporary Dask cluster")
        self._exits.enter_context(hidden_input())
        self._exits.enter_context(_quiet)
        with deaf_to_interrupts():
            cluster = self._exits.enter_context(make(**(_without_dashboard(given) if is_local else given)))
        self._own = cluster if isinstance(cluster, TemporaryCluster) else None
        return cluster

    def close(self) -> None:
        _, deaf = wait(list(self._told), _INSTANT)
        for told in deaf:
            self._give_up(*self._told.pop(told, ("", None)))
        self._shipments.clear()
        self._exits.close()

    def slots(self) -> int:
        if time.monotonic() - self._counted > _COUNTED:
            self._counted = time.monotonic()
            self._runner._slots = sum(self._ask("ncores", workers=None, otherwise={}).values()) or 1
        return self._runner._slots

    # --- the scheduler --------------------------------------------------------------------------------------------

    @property
    def _is_connected(self) -> bool:
        """Without interruption: a scheduler forgets what it was doing for a client that is gone for a moment."""
        return self._client.status == "running" and self._client.scheduler_comm is self._line

    def _require_connection(self) -> None:
        if not self._is_connected:
            raise WorkerLost(_CUT_OFF)

    def _ask(self, question: str, *, otherwise: Any = None, **arguments: Any) -> Any:
        """The scheduler's answer; `otherwise` if there is none, because it is gone or too busy."""
        with contextlib.suppress(Exception):
            if self._is_connected:
                function = getattr(self._client.scheduler, question)
                return self._client.sync(function, callback_timeout=_PATIENCE, **arguments)
        return otherwise

    # --- sending --------------------------------------------------------------------------------------------------

    def rank(self, wishes: Any) -> tuple[float, str]:
        priority = wishes.get("priority")
        others = {name: wish for name, wish in wishes.items() if name != "priority"}
        return priority if isinstance(priority, int | float) else 0, repr(others)

    def ship(self, shipment: Shipment) -> None:
        self._require_connection()
        wishes: dict[str, Any] = {**shipment.wishes}
        key = f"{shipment.name}-{shipment.id}"
        retries = wishes.pop("retries", 0)
        again = cast(int, retries(key) if callable(retries) else retries)
        order = shipment.order._replace(tries=1 + max(0, again))
        self._shipments[key] = shipment
        with annotate(**wishes):
            packed = pickle.dumps(order, 5)  # else Dask would look into it for futures and keys
            future = self._client.submit(perform, packed, *shipment.cargo, key=key, pure=False)
        shipment.handle = future
        future.add_done_callback(self._on_end)

    def place(self, packed: Packed) -> Any:
        self._require_connection()
        with contextlib.suppress(OSError):  # the worker that was to have it has just gone
            if self._ask("ncores", workers=None):
                return self._client.scatter([outpost.frames(packed)], hash=False, timeout=_MOMENT)[0]
        # Dask would wait here for a worker. There may be none before it has something to do.
        if self._lure is None:
            self._lure = self._client.submit(int, key=f"penstock-{uuid.uuid4().hex}", pure=False)
            self._lure.add_done_callback(self._on_lured)
        raise NoWorkerYet

    def _on_lured(self, _: distributed.Future) -> None:
        self._lure = None
        self.dispatcher.wake()

    def has(self, cargo: Any) -> bool:
        return cargo.status in ("finished", "pending")

    def fetch(self, cargo: Any) -> dict[int, Sequence[Any]]:
        try:
            values: dict[int, Sequence[Any]] = cargo.result()
        except Exception as error:
            raise WorkerLost(f"A result that stayed on the cluster cannot be had: {describe(error)}") from error
        if not values:
            raise WorkerLost("A result that stayed on the cluster is lost with the worker that had it")
        return values

    # --- hearing, on Dask's threads -------------------------------------------------------------------------------

    def _on_event(self, event: tuple[float, tuple[str, Any]]) -> None:
        """Messages of a shipment, or the referee's word that it is lost with its worker."""
        shipment_id, content = event[1]
        if isinstance(content, bytes):
            self.dispatcher.hear(shipment_id, content)
            return
        shipment = self._shipments.pop(shipment_id, None)
        if shipment is not None:
            shipment.place = content
            self.dispatcher.end(shipment.id, _lost(shipment))

    def _on_end(self, future: Any) -> None:
        shipment = self._shipments.pop(future.key, None)
        if shipment is not None:
            self.dispatcher.end(shipment.id, _lost(shipment, future) if self._is_connected else WorkerLost(_CUT_OFF))

    # --- stopping -------------------------------------------------------------------------------------------------

    def recall(self, shipments: Sequence[Shipment]) -> Sequence[Shipment]:
        keys = {shipment.handle.key: shipment for shipment in shipments}
        recalled = self._ask("penstock_recall", keys=list(keys), otherwise=[])
        for key in recalled:
            self._shipments.pop(key, None)
        return [keys[key] for key in recalled]

    def stop(self, shipment: Shipment, number: int) -> None:
        self._client.loop.add_callback(self._stop_soon, shipment, number)

    def _stop_soon(self, shipment: Shipment, number: int) -> None:
        """On Dask's thread. A message for all that are to be stopped now: it costs more than they do."""
        if shipment.id not in self._to_stop:
            self._to_stop[shipment.id] = []
            self._client.loop.add_callback(self._stop_all, shipment)
        self._to_stop[shipment.id].append(number)

    def _stop_all(self, shipment: Shipment) -> None:
        self._tell(stop_all, shipment, self._to_stop.pop(shipment.id))

    def kill(self, shipment: Shipment, number: int) -> None:
        self._tell(outpost.abandon, shipment, number)

    def _tell(self, function: Callable[..., object], shipment: Shipment, argument: Any) -> None:
        """Does not wait: the worker may be unable to listen."""
        call = self._call(shipment.place, function, shipment.id, argument)
        told = asyncio.run_coroutine_threadsafe(call, self._client.loop.asyncio_loop)
        self._told[told] = shipment.place, function
        told.add_done_callback(lambda told: self._told.pop(told, None))

    async def _call(self, worker: str, function: Callable[..., object], *arguments: Any) -> None:
        with contextlib.suppress(Exception):  # the worker is gone, which is heard otherwise
            try:
                call = self._client._run(function, *arguments, workers=[worker], on_error="ignore")
                await asyncio.wait_for(call, _MOMENT)
            except TimeoutError:
                self._give_up(worker, function)

    def _give_up(self, worker: str, function: Callable[..., object]) -> None:
        """A worker does not listen: a body that was to be left behind keeps the interpreter to itself.

        In somebody else's cluster, what is queued there has to wait.
        """
        if function is outpost.abandon and self._own is not None:
            self._own.kill(worker)

    def box_of(self, shipment: Shipment) -> bytes | None:
        box = outpost.read_box(shipment.id)
        if box is None and self._is_connected:
            with contextlib.suppress(Exception):
                ask = self._client._run(outpost.read_box, shipment.id, on_error="ignore")
                told = asyncio.run_coroutine_threadsafe(ask, self._client.loop.asyncio_loop)
                box = next((found for found in told.result(_MOMENT).values() if found is not None), None)
        return box


@contextlib.contextmanager
def _without_mismatch_warning() -> Iterator[None]:
    """Not `catch_warnings`: at its end it also takes away, or brings back, what other threads have set meanwhile."""
    ours = ("ignore", None, VersionMismatchWarning, None, 0)
    warnings.filters.insert(0, ours)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            warnings.filters.remove(ours)  # type: ignore[attr-defined]


def _connected(client: Any) -> Any:
    """A worker has one client, which another thread may have just begun to connect."""
    deadline = time.monotonic() + _PATIENCE
    while client.status in ("newly-created", "connecting") and time.monotonic() < deadline:
        time.sleep(0.002)
    return client


@contextlib.contextmanager
def _report(client: Any, path: str) -> Iterator[None]:
    if not client.run_on_scheduler(_has_bokeh):
        raise ImportError("performance_report_path needs the 'bokeh' package where the Dask scheduler runs")
    with client.as_current():
        report = distributed.performance_report(filename=path)
        report.__enter__()
        yield
        try:
            report.__exit__(None, None, None)
        except Exception as error:
            _logger.warning("The performance report %s could not be written: %s", path, describe(error))


def _has_bokeh() -> bool:
    return importlib.util.find_spec("bokeh") is not None


class TemporaryCluster(distributed.LocalCluster):  # type: ignore[misc]
    """Keeps its workers, however often they die.

    Of `LocalCluster`'s, one that is just being started again when 15 s have passed since an earlier death is gone for
    good; at the end nobody is left.
    """

    def _update_worker_status(self, op: str, msg: Any) -> None:
        super(distributed.SpecCluster, self)._update_worker_status(op, msg)

    def kill(self, address: str) -> None:
        """End the process of a worker; it is started again."""
        for nanny in list(self.workers.values()):
            if getattr(nanny, "worker_address", None) == address:  # else it is no process
                with contextlib.suppress(ProcessLookupError, TypeError):  # it has just gone
                    os.kill(nanny.pid, signal.SIGKILL)


def _without_dashboard(given: dict[str, Any]) -> dict[str, Any]:
    """Arguments for a `LocalCluster`. Unless somebody has asked for it: one flow at a time can have its port."""
    if "dashboard_address" in given:
        return given
    scheduler = {"dashboard_address": "127.0.0.1:0", **(given.get("scheduler_kwargs") or {})}  # it listens all the same
    return {**given, "dashboard_address": None, "scheduler_kwargs": scheduler}


class _Quiet:
    """Keeps back what Dask has to say about its own doings, while a temporary cluster lives.

    `LocalCluster` does that by itself, but the first of several that ends has the others talk.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._clusters = 0
        self._exits = ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            self._clusters += 1
            if self._clusters == 1:
                self._exits.enter_context(silence_logging_cmgr(logging.WARNING))

    def __exit__(self, *exc_info: object) -> None:
        with self._lock:
            self._clusters -= 1
            if not self._clusters:
                self._exits.close()


_quiet = _Quiet()


def _lost(shipment: Shipment, future: Any = None) -> WorkerLost:
    error = future.exception() if future is not None and future.status == "error" else None
    if error is None or isinstance(error, WorkerLost | distributed.KilledWorker):
        return WorkerLost(f"Dask worker died: {shipment.place}", worker=shipment.place)
    lost = WorkerLost(f"Dask could not execute it: {describe(error)}", worker=shipment.place)
    lost.__cause__ = error
    return lost


# --- on the scheduler -------------------------------------------------------------------------------------------------


class Referee(distributed.SchedulerPlugin):  # type: ignore[misc]
    """Sees to it that nothing is executed twice: Dask repeats what was being executed by a worker that died."""

    name = "penstock"
    idempotent = True

    async def start(self, scheduler: Any) -> None:
        self.scheduler = scheduler
        self.recalled: OrderedDict[str, None] = OrderedDict()  # before they were known here
        scheduler.handlers["penstock_begin"] = self.begin
        scheduler.handlers["penstock_hear"] = self.hear
        scheduler.handlers["penstock_recall"] = self.recall
        scheduler.handlers["penstock_leave"] = self.leave

    async def begin(self, key: str, worker: str, topic: str) -> bool:
        """Whether this is the first to begin; at most one ever is."""
        task = self.scheduler.tasks.get(key)
        if task is None or _beginning(task) or key in self.recalled:
            return False
        task.metadata = {**(task.metadata or {}), "penstock": (worker, topic)}
        return True

    async def hear(self, topic: str, shipment: str, data: bytes) -> None:
        self.scheduler.log_event(topic, (shipment, data))

    async def recall(self, keys: list[str]) -> list[str]:
        """Those that had not begun, and now never will."""
        unknown = [key for key in keys if key not in self.scheduler.tasks]
        self.recalled.update(dict.fromkeys(unknown))
        while len(self.recalled) > _RECALLED:
            self.recalled.popitem(last=False)
        return [key for key in keys if key in self.recalled or await self.begin(key, "", "")]

    def remove_worker(self, scheduler: Any, worker: str, **facts: Any) -> None:
        """Say what is lost. Dask would not, before another worker has taken it up."""
        for key, task in list(scheduler.tasks.items()):
            beginner, topic = _beginning(task) or ("", "")
            if beginner == worker and task.state != "memory":
                scheduler.log_event(topic, (key, worker))

    def log_event(self, topic: Any, msg: Any) -> None:
        """It has been sent on; Dask would keep the last hundred thousand, and the topic for ever."""
        if str(topic).startswith("penstock-"):
            self.scheduler._broker.truncate(topic)
            self._forget(topic)

    async def leave(self, topic: str, client: str) -> None:
        self.scheduler._broker.unsubscribe(topic, client)
        self._forget(topic)

    def remove_client(self, scheduler: Any, client: str) -> None:
        for topic in [name for name in scheduler._broker._topics if str(name).startswith("penstock-")]:
            scheduler._broker.unsubscribe(topic, client)
            self._forget(topic)

    def _forget(self, topic: str) -> None:
        """Unless somebody listens."""
        topics = self.scheduler._broker._topics
        if topic in topics and not topics[topic].subscribers:
            del topics[topic]


def _beginning(task: Any) -> tuple[str, str] | None:
    found: tuple[str, str] | None = (task.metadata or {}).get("penstock")
    return found


# --- on a worker ------------------------------------------------------------------------------------------------------


class Mortal(distributed.WorkerPlugin):  # type: ignore[misc]
    """Has a worker end with the process that started it, also when a body keeps the interpreter from noticing."""

    name = "penstock-mortal"

    def setup(self, worker: Any) -> None:
        if threading.current_thread() is threading.main_thread() and worker.nanny is not None:  # it is a process
            die_with_parent()


def perform(packed: bytes, *cargo: Any) -> dict[int, Sequence[Any]]:
    """What Dask executes: a shipment."""
    order: outpost.Order = pickle.loads(packed)
    outlet = DaskOutlet(distributed.get_worker(), order)
    if not outlet.begin():
        return {}  # Dask repeats it because a worker died
    return outpost.execute(order, cargo, outlet, outlet.send)


def stop_all(shipment: str, numbers: Sequence[int]) -> None:
    for number in numbers:
        outpost.stop(shipment, number)


class DaskOutlet(outpost.Outlet):
    """A shipment's way to the Dask worker that executes it."""

    def __init__(self, worker: Any, order: outpost.Order) -> None:
        self._worker = worker
        self._topic = f"penstock-{order.sender}"
        self._shipment = order.shipment
        self._context = copy_context()  # Dask says in it which worker this is
        self._key = worker.get_current_task()
        self.place = worker.address

    def begin(self) -> bool:
        return bool(self._ask("penstock_begin", key=self._key, worker=self.place))

    def send(self, data: bytes) -> None:
        """Waits until it is out of this process, which the next body may end."""
        self._ask("penstock_hear", shipment=self._shipment, data=data)

    def _ask(self, question: str, **arguments: Any) -> Any:
        asked = getattr(self._worker.scheduler, question)(topic=self._topic, **arguments)
        return asyncio.run_coroutine_threadsafe(asked, self._worker.loop.asyncio_loop).result()

    def lend(self) -> None:
        distributed.secede()

    def regain(self) -> None:
        distributed.rejoin()

    def make_runner(self) -> TaskRunner:
        runner = DaskTaskRunner()
        runner._find_client = lambda: self._context.copy().run(distributed.get_client)
        return runner


# --- for users --------------------------------------------------------------------------------------------------------


def get_dask_client(timeout: float | None = None) -> ClientInTask:
    """Inside a task on a `DaskTaskRunner`: a client of the cluster that executes it, for work of Dask's own.

    A context manager: `with` gives a client whose calls block, `async with` one whose calls are awaited. Inside the
    block the task holds no slot of its worker, so what it waits for can be executed there. Given a penstock task,
    the client's `submit` and `map` make task runs of this flow run and return penstock futures. `timeout`: seconds for
    connecting.

    Raises `RuntimeError` anywhere else.

        >>> from penstock import task
        >>> @task
        ... def total(frame):
        ...     with get_dask_client():
        ...         return frame.sum().compute()
    """
    return ClientInTask(timeout)


class ClientInTask:
    def __init__(self, timeout: float | None) -> None:
        self._timeout = timeout
        self._exits = ExitStack()
        self._own: Any = None
        try:
            self._worker = distributed.get_worker()
        except ValueError:
            raise RuntimeError("get_dask_client() works inside a task that a DaskTaskRunner executes") from None

    def __enter__(self) -> Any:
        client = distributed.get_client(timeout=self._timeout)
        self._exits.enter_context(_lent_slot())
        self._exits.enter_context(client.as_current())
        return ClientForTasks(client)

    def __exit__(self, *exc_info: Any) -> None:
        self._exits.close()

    async def __aenter__(self) -> Any:
        timeout: dict[str, Any] = {} if self._timeout is None else {"timeout": self._timeout}
        self._own = distributed.Client(
            self._worker.scheduler.address,
            asynchronous=True,
            set_as_default=False,
            security=self._worker.security,
            **timeout,
        )
        await self._own
        self._exits.enter_context(self._own.as_current())
        return ClientForTasks(self._own)

    async def __aexit__(self, *exc_info: Any) -> None:
        self._exits.close()
        await self._own.close()


class ClientForTasks:
    """A Dask client that knows penstock's tasks."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def submit(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        return (function if _is_task(function) else self._client).submit(
            *(() if _is_task(function) else (function,)), *args, **kwargs
        )

    def map(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        return function.map(*args, **kwargs) if _is_task(function) else self._client.map(function, *args, **kwargs)


def _is_task(function: Any) -> bool:
    return hasattr(function, "with_options") and hasattr(function, "submit")


@contextlib.contextmanager
def _lent_slot() -> Iterator[None]:
    slot, here.slot = here.slot, None  # so that nothing that waits inside gets it back
    if slot is not None:
        slot.release()
    try:
        yield
    finally:
        here.slot = slot
        if slot is not None:
            slot.acquire()
