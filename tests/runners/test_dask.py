"""Bodies on a Dask cluster: construction, clusters of several kinds, annotations, what travels, nesting."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import importlib.util
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import cloudpickle
import dask
import distributed
import numpy as np
import process_bodies as bodies
import psutil
import pytest
from test_processes import within

from dask_clusters import ANY_PORT, another_worker, running_cluster
from penstock import flow, runtime, task, unmapped
from penstock.exceptions import SerializationError
from penstock.task_runners import DaskTaskRunner, ThreadPoolTaskRunner, get_dask_client

SMALL = {"n_workers": 1, "threads_per_worker": 1}


def in_flow(body: Callable[[], Any], runner: Any, seconds: float = 10) -> Any:
    """What `body` returns as a flow on `runner`, or on the cluster of that address."""
    if isinstance(runner, str):
        runner = DaskTaskRunner(address=runner)
    return within(seconds, flow(name="main", task_runner=runner)(body))


def eventually(find: Callable[[], Any], expected: Any, seconds: float = 3) -> None:
    """What is told to a cluster takes a moment to arrive."""
    deadline = time.monotonic() + seconds
    while (found := find()) != expected and time.monotonic() < deadline:
        time.sleep(0.01)
    assert found == expected


@task
def pid(*_: Any) -> int:
    return os.getpid()


@task
def die() -> None:
    os._exit(3)


# --- construction -----------------------------------------------------------------------------------------------------

CONFLICTS: dict[str, tuple[dict[str, Any], str]] = {
    "both": (
        {"address": "tcp://there", "cluster": object()},
        "Cannot specify `address` and `cluster`: the cluster has an address",
    ),
    "address and class": (
        {"address": "tcp://there", "cluster_class": "distributed.LocalCluster"},
        "Cannot specify `address` and `cluster_class`, which is for a temporary cluster",
    ),
    "cluster and kwargs": (
        {"cluster": object(), "cluster_kwargs": {"n_workers": 1}},
        "Cannot specify `cluster` and `cluster_kwargs`, which is for a temporary cluster",
    ),
    "address and adapt": (
        {"address": "tcp://there", "adapt_kwargs": {"maximum": 2}},
        "Cannot specify `address` and `adapt_kwargs`: only a cluster object can be adapted",
    ),
    "asynchronous cluster": (
        {"cluster_kwargs": {"asynchronous": True}},
        "`asynchronous` cannot be set in `cluster_kwargs`: the runner sees to that itself",
    ),
    "asynchronous client": (
        {"client_kwargs": {"asynchronous": False}},
        "`asynchronous` cannot be set in `client_kwargs`: the runner sees to that itself",
    ),
}


@pytest.mark.parametrize("name", CONFLICTS)
def test_combinations_without_sense_are_refused(name: str) -> None:
    arguments, message = CONFLICTS[name]
    with pytest.raises(ValueError) as raised:
        DaskTaskRunner(**arguments)
    assert str(raised.value) == message


def test_a_duplicate_is_equal() -> None:
    runner = DaskTaskRunner(
        cluster_class="distributed.LocalCluster",
        cluster_kwargs={"n_workers": 3},
        adapt_kwargs={"maximum": 4},
        client_kwargs={"name": "me"},
        performance_report_path="report.html",
    )
    copy = runner.duplicate()
    assert (copy, hash(copy)) == (runner, hash(runner))
    assert copy is not runner
    assert (copy.cluster_class, copy.cluster_kwargs) == ("distributed.LocalCluster", {"n_workers": 3})
    assert (copy.adapt_kwargs, copy.client_kwargs) == ({"maximum": 4}, {"name": "me"})
    assert copy.performance_report_path == "report.html"


@pytest.mark.parametrize(
    "other",
    [
        DaskTaskRunner(address="tcp://there"),
        DaskTaskRunner(cluster=object()),
        DaskTaskRunner(cluster_class=distributed.LocalCluster),
        DaskTaskRunner(cluster_kwargs={"n_workers": 3}),
        DaskTaskRunner(adapt_kwargs={"maximum": 3}),
        DaskTaskRunner(client_kwargs={"name": "me"}),
        DaskTaskRunner(performance_report_path="report.html"),
        ThreadPoolTaskRunner(3),
    ],
    ids=["address", "cluster", "class", "cluster_kwargs", "adapt_kwargs", "client_kwargs", "report", "runner"],
)
def test_other_settings_are_not_equal(other: Any) -> None:
    assert other != DaskTaskRunner()


def test_what_it_was_given_can_be_changed_afterwards() -> None:
    sizes = {"n_workers": 3}
    runner = DaskTaskRunner(cluster_kwargs=sizes)
    sizes["n_workers"] = 4
    assert runner.cluster_kwargs == {"n_workers": 3}


def test_it_says_what_it_is() -> None:
    assert repr(DaskTaskRunner()) == "DaskTaskRunner()"
    assert repr(DaskTaskRunner(address="tcp://there")) == "DaskTaskRunner(address='tcp://there')"
    assert DaskTaskRunner().name == "dask"


def test_without_the_package_the_import_says_what_to_install() -> None:
    code = "import sys; sys.modules['distributed'] = None\nfrom penstock.task_runners import DaskTaskRunner"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=5)
    *_, line, message = done.stderr.strip().splitlines()
    assert message == """ImportError: DaskTaskRunner needs the 'distributed' package: pip install "penstock[dask]\""""
    assert "task_runners/__init__.py" not in line
    assert "<string>" in done.stderr


# --- clusters ---------------------------------------------------------------------------------------------------------


def worker_processes() -> list[int]:
    """Our children, but for the resource tracker of multiprocessing."""
    tracker = getattr(sys.modules.get("multiprocessing.resource_tracker"), "_resource_tracker", None)
    return [pid for pid in bodies.children() if tracker is None or pid != tracker._pid]


def make_cluster(**options: Any) -> Any:
    return distributed.LocalCluster(**ANY_PORT, **options)


@pytest.mark.parametrize("kind", ["default", "class", "dotted", "callable"])
def test_a_temporary_cluster_lives_as_long_as_the_flow(kind: str) -> None:
    choice: Any = {
        "default": None,
        "class": distributed.LocalCluster,
        "dotted": "distributed.LocalCluster",
        "callable": make_cluster,
    }[kind]
    runner = DaskTaskRunner(cluster_class=choice, cluster_kwargs=SMALL)

    def body() -> tuple[list[int], int]:
        return worker_processes(), pid.submit().result()

    before = worker_processes()
    lazily, worker = in_flow(body, runner)
    assert lazily == before, "it is started by the first task"
    assert worker != os.getpid()
    assert not bodies.is_alive(worker)
    assert worker_processes() == before


def test_a_cluster_that_cannot_be_made_fails_the_tasks() -> None:
    def refuse(**options: Any) -> Any:
        raise LookupError("no cluster today")

    def body() -> Any:
        futures = pid.map(range(3))
        futures.wait()
        return [(future.state.type, future.exception()) for future in futures]

    for state, error in in_flow(body, DaskTaskRunner(cluster_class=refuse)):
        assert (state, type(error), str(error)) == ("FAILED", LookupError, "no cluster today")


def test_a_cluster_whose_making_exits_fails_the_tasks() -> None:
    def leave(**options: Any) -> Any:
        sys.exit(3)

    def body() -> Any:
        futures = pid.map(range(3000))
        futures.wait()
        return {(future.state.type, str(future.exception())) for future in futures}

    answers = in_flow(body, DaskTaskRunner(cluster_class=leave))
    assert answers == {("FAILED", "The cluster could not be had: SystemExit: 3")}


def test_an_unknown_dotted_name_fails_the_tasks() -> None:
    error = in_flow(lambda: pid.submit().exception(), DaskTaskRunner(cluster_class="no_such_module.Cluster"))
    assert isinstance(error, ModuleNotFoundError)


def test_clusters_at_the_same_time_are_in_nobodys_way(capfd: pytest.CaptureFixture[str]) -> None:
    """Not even their ports; and none of them begins to talk when another one ends."""

    @flow(task_runner=DaskTaskRunner(cluster_kwargs=SMALL))
    def inner(n: int) -> int:
        return pid.submit().result()

    @flow
    def outer() -> list[int]:
        return [future.result() for future in [inner.submit(1), inner.submit(2)]]

    assert len(set(within(10, outer))) == 2
    assert "distributed" not in capfd.readouterr().err


@pytest.fixture
def cluster() -> Iterator[Any]:
    with distributed.LocalCluster(**ANY_PORT, **SMALL) as cluster:
        yield cluster


def test_a_given_cluster_goes_on(cluster: Any) -> None:
    runner = DaskTaskRunner(cluster=cluster)
    assert runner == runner.duplicate()
    pids = {in_flow(lambda: pid.submit().result(), runner) for _ in range(2)}
    assert len(pids) == 1
    assert bodies.is_alive(pids.pop())
    with distributed.Client(cluster, set_as_default=False) as client:
        eventually(lambda: client.run_on_scheduler(facts_of_scheduler), NOTHING)
        assert client.submit(sum, [1, 2]).result(5) == 3


NOTHING = {"tasks": [], "topics": [], "recalled": 0}


def facts_of_scheduler(dask_scheduler: Any) -> dict[str, Any]:
    """What penstock has left there."""
    return {
        "tasks": [str(key) for key in dask_scheduler.tasks],
        "topics": [name for name in dask_scheduler._broker._topics if name.startswith("penstock")],
        "recalled": len(dask_scheduler.plugins["penstock"].recalled),
    }


def test_a_cluster_that_adapts_grows_with_the_work(tmp_path: Path) -> None:
    """From no worker at all, also for tasks whose arguments are large."""

    @task
    def meet(mine: str, other: str, data: bytes) -> tuple[int, bool]:
        bodies.append(mine, "here")
        return os.getpid(), bodies.wait_for_file(other, 8)

    def body() -> Any:
        a, b, data = str(tmp_path / "a"), str(tmp_path / "b"), b"x" * 1_000_000
        return [future.result() for future in [meet.submit(a, b, data), meet.submit(b, a, data)]]

    runner = DaskTaskRunner(
        cluster_kwargs={"n_workers": 0, "threads_per_worker": 1},
        adapt_kwargs={"minimum": 0, "maximum": 2, "interval": "100ms", "target_duration": "100ms"},
    )
    (first, met), (second, met_too) = in_flow(body, runner, 15)
    assert (met, met_too) == (True, True)
    assert first != second


def test_a_temporary_cluster_has_its_workers_however_often_they_die() -> None:
    def body() -> list[Any]:
        return [(die.submit().exception(), pid.submit().result())[1] for _ in range(3)]

    with dask.config.set({"distributed.deploy.lost-worker-timeout": "1ms"}):
        assert len(set(in_flow(body, DaskTaskRunner(cluster_kwargs=SMALL), 15))) == 3


# --- annotations ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def special() -> Iterator[str]:
    """A cluster of one worker with one thread, which has a resource."""
    with running_cluster(n_workers=1, resources={"GPU": 1}) as address:
        yield address


def test_priorities_decide_about_the_order(special: str, tmp_path: Path) -> None:
    """Also among more tasks than are sent to the cluster at once."""
    gate, order = str(tmp_path / "gate"), str(tmp_path / "order")

    @task
    def work(n: int) -> None:
        bodies.append(order, n)

    @task
    def hold() -> None:
        bodies.wait_for_file(gate)

    def body() -> None:
        holding = hold.submit()
        first = work.map(range(300))
        with dask.annotate(priority=10):
            urgent = work.map([-1, -2])
            with dask.annotate(priority=20):
                most_urgent = work.submit(-3)
        with dask.annotate(priority=-10):
            last = work.submit(1000)
        bodies.append(gate, "")
        for futures in (first, urgent, most_urgent, last, holding):
            futures.result()

    in_flow(body, special)
    written = [int(line) for line in bodies.lines(order)]
    begin = written.index(-3)
    assert begin <= 3, "the worker had something at hand already"
    assert written[begin : begin + 3] == [-3, -1, -2]
    assert written[-1] == 1000
    assert sorted(written) == [-3, -2, -1, *range(300), 1000]


def test_workers_can_be_chosen(dask_address: str) -> None:
    with distributed.Client(dask_address, set_as_default=False) as client:
        workers = client.run(os.getpid)

    def body() -> Any:
        chosen = []
        for address in workers:
            with dask.annotate(workers=address):
                chosen.append((workers[address], {pid.submit().result(), *pid.map(range(5)).result()}))
        return chosen

    chosen = in_flow(body, dask_address)
    assert [pids for _, pids in chosen] == [{expected} for expected, _ in chosen]


def test_what_has_to_wait_for_a_resource_holds_nobody_up(dask_address: str) -> None:
    def body() -> Any:
        with dask.annotate(resources={"GPU": 1}):
            nowhere = pid.map(range(200))
        others = pid.map(range(200)).result()
        nowhere.cancel()
        nowhere.wait(3)
        return len(others), {future.state.name for future in nowhere}

    assert in_flow(body, dask_address) == (200, {"Cancelled"})


def test_tasks_go_where_what_they_need_is(special: str) -> None:
    def body(client: Any) -> Any:
        with dask.annotate(resources={"GPU": 1}):
            needy = [*pid.map(range(20)).result(), pid.submit().result()]
        eventually(lambda: len(client.nthreads()), 2, 10)
        return set(needy), set(pid.map(range(50)).result())

    with distributed.Client(special, set_as_default=False) as client:
        ((address, owner),) = client.run(os.getpid).items()
        with another_worker(special) as other:
            eventually(lambda: len(client.nthreads()), 2, 10)
            needy, others = in_flow(lambda: body(client), special, 20)
        eventually(lambda: list(client.nthreads()), [address], 10)
    assert needy == {owner}
    assert others == {owner, other}


def test_attempts_on_the_cluster(dask_address: str, tmp_path: Path) -> None:
    file = str(tmp_path / "attempts")

    @task
    def third_time_lucky(n: int, seen: list[int]) -> list[int]:
        bodies.append(file, n)
        seen.append(n)
        if bodies.lines(file).count(str(n)) < 3:
            raise ValueError(n)
        return seen

    def body() -> Any:
        with dask.annotate(retries=2):
            lucky = third_time_lucky.map([1, 2], [[0], [0]])
        with dask.annotate(retries=lambda key: 1):
            unlucky = third_time_lucky.submit(3, [])
        with dask.annotate(retries=-1):
            unluckier = third_time_lucky.submit(4, [])
        return lucky.result(), unlucky.exception(), unluckier.exception()

    values, *errors = in_flow(body, dask_address)
    assert values == [[0, 1], [0, 2]], "each attempt has its own copy of the arguments"
    assert [(type(error), error.args) for error in errors] == [(ValueError, (3,)), (ValueError, (4,))]
    assert sorted(bodies.lines(file)) == ["1"] * 3 + ["2"] * 3 + ["3"] * 2 + ["4"]


def test_annotations_of_the_moment_of_the_submission_count(special: str) -> None:
    """Not those of the moment when the task is sent."""

    @task
    def wait() -> None:
        time.sleep(0.1)

    def body() -> Any:
        first = wait.submit()
        with dask.annotate(retries=1):
            failing = third.submit(wait_for=[first])
        return failing.result()

    @task
    def third() -> int:
        if not hasattr(bodies, "_was_here"):
            bodies._was_here = True  # type: ignore[attr-defined]
            raise ValueError
        del bodies._was_here
        return 3

    assert in_flow(body, special) == 3


# --- what travels -----------------------------------------------------------------------------------------------------


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Key and size of whatever is submitted to Dask."""
    seen: list[tuple[str, int]] = []
    submit = distributed.Client.submit

    def listen(self: Any, function: Any, packed: Any, *cargo: Any, **options: Any) -> Any:
        size = len(pickle.dumps((function, packed, [one for one in cargo if not hasattr(one, "key")])))
        seen.append((options["key"], size))
        return submit(self, function, packed, *cargo, **options)

    monkeypatch.setattr(distributed.Client, "submit", listen)
    return seen


def test_keys_begin_with_the_name_of_the_task(dask_address: str, sent: list[tuple[str, int]]) -> None:
    named = task(name="my task")(lambda n: n)
    in_flow(lambda: (named.map(range(300)).result(), pid.submit().result()), dask_address)
    keys = [key for key, _ in sent]
    assert {key.rpartition("-")[0] for key in keys} == {"my task", "pid"}
    assert len(set(keys)) == len(keys)


def test_little_travels_beside_function_and_arguments(dask_address: str, sent: list[tuple[str, int]]) -> None:
    @task
    def work(data: bytes) -> None: ...

    function = len(cloudpickle.dumps(work.fn))
    in_flow(lambda: work.submit(b"x" * 10_000).result(), dask_address)
    ((_, size),) = sent
    assert size - function - 10_000 < 4000


def test_small_arguments_of_many_tasks_travel_in_portions(dask_address: str, sent: list[tuple[str, int]]) -> None:
    """Dask warns about more than 10 MB at once."""

    @task
    def size(data: bytes) -> int:
        return len(data)

    def body() -> Any:
        size.map([b""] * 50).result()  # they are known to be quick
        return size.map([bytes([n % 256]) * 200_000 for n in range(400)]).result()

    assert in_flow(body, dask_address) == [200_000] * 400
    assert max(size for _, size in sent) < 3_000_000


# --- values that stay on the cluster ----------------------------------------------------------------------------------


@task
def make(size: int, fill: int = 1) -> Any:
    return np.full(size, fill, np.uint8)


@task
def total(*arrays: Any) -> int:
    return sum(int(array.sum(dtype=np.int64)) for array in arrays)


def bytes_here() -> int:
    return int(psutil.Process().memory_info().rss)


def bytes_on_workers(address: str) -> int:
    with distributed.Client(address, set_as_default=False) as client:
        return sum(client.run(bytes_here).values())


def test_large_results_stay_on_the_cluster(dask_address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[Any] = []
    gather = distributed.Client._gather
    monkeypatch.setattr(
        distributed.Client, "_gather", lambda self, *args, **kw: (fetched.append(args), gather(self, *args, **kw))[1]
    )

    def body() -> Any:
        made = make.submit(5_000_000)
        sums = [total.submit(made), *total.map([made, made])]
        chained = total.submit(double.submit(double.submit(made)))
        values = [future.result() for future in [*sums, chained]]
        return values, list(fetched), made.state.type, str(made.state), int(made.result()[:3].sum()), len(fetched)

    @task
    def double(array: Any) -> Any:
        return array * 2

    values, while_working, state, _, first, after = in_flow(body, dask_address)
    assert values == [5_000_000] * 3 + [20_000_000]
    assert (while_working, state, first, after) == ([], "COMPLETED", 3, 1)


def test_a_result_is_writable_and_a_copy(dask_address: str) -> None:
    @task
    def spoil(array: Any) -> int:
        array[:] = 9
        return total.fn(array)

    def body() -> Any:
        made = make.submit(1_000_000)
        spoilt = [spoil.submit(made).result() for _ in range(3)]
        made.result()[:] = 7
        return spoilt, total.submit(made).result(), int(made.result()[0])

    assert in_flow(body, dask_address) == ([9_000_000] * 3, 1_000_000, 1)


def received_from_workers(dask_worker: Any) -> int:
    return sum(transfer["total"] for transfer in dask_worker.transfer_incoming_log)


def test_what_many_tasks_share_travels_once_to_each_worker(
    dask_address: str, sent: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    scattered: list[Any] = []
    scatter = distributed.Client.scatter
    monkeypatch.setattr(
        distributed.Client, "scatter", lambda *args, **kw: (scattered.append(args[1]), scatter(*args, **kw))[1]
    )

    @task
    def take(array: Any, n: int) -> int:
        return int(array[n])

    with distributed.Client(dask_address, set_as_default=False) as client:
        # Every two seconds Dask drops copies that no task needs at that moment, and has them sent again.
        client.amm.stop()
        before = sum(client.run(received_from_workers).values())
        answers = in_flow(lambda: take.map(unmapped(np.ones(5_000_000, np.uint8)), range(1000)).result(), dask_address)
        between_workers = sum(client.run(received_from_workers).values()) - before
        client.amm.start()
    assert answers == [1] * 1000
    assert len(scattered) == 1
    assert max(size for _, size in sent) < 500_000
    assert between_workers < 5_500_000


def test_what_nobody_needs_any_more_is_let_go(dask_address: str) -> None:
    def body() -> Any:
        futures = [make.submit(10_000_000) for _ in range(4)]
        assert total.submit(*futures).result() == 40_000_000
        full = bytes_on_workers(dask_address)
        del futures
        gc.collect()
        deadline = time.monotonic() + 3
        while (left := bytes_on_workers(dask_address)) > full - 35_000_000 and time.monotonic() < deadline:
            time.sleep(0.01)
        return full - left

    assert in_flow(body, dask_address) > 35_000_000


def test_results_can_be_asked_for_after_the_cluster_is_gone() -> None:
    kept: list[Any] = []

    def body() -> Any:
        kept.extend([make.submit(1_000_000, 3), make.submit(10, 3), make.submit(1_000_000, 4)])
        return kept[2]

    returned = in_flow(body, DaskTaskRunner(cluster_kwargs=SMALL))
    assert [future.result().sum() for future in kept[:2]] == [3_000_000, 30]
    assert returned.sum() == 4_000_000


@pytest.mark.parametrize("size", [10, 1_000_000], ids=["small", "large"])
def test_flows_return_futures(dask_address: str, size: int) -> None:
    value = in_flow(lambda: {"a": [make.submit(size)]}, dask_address)
    assert value["a"][0].sum() == size


def test_results_are_asked_for_from_threads_and_coroutines(dask_address: str) -> None:
    async def body() -> Any:
        futures = make.map([1_000_000] * 3)
        awaited = await futures[0]
        from_thread = await asyncio.to_thread(futures[1].result)
        found = []
        thread = threading.Thread(target=lambda: found.append(futures[2].result()))
        thread.start()
        await asyncio.to_thread(thread.join)
        return [int(array.sum()) for array in (awaited, from_thread, *found)]

    main = flow(name="main", task_runner=DaskTaskRunner(address=dask_address))(body)
    assert within(10, lambda: asyncio.run(main())) == [1_000_000] * 3


def test_values_go_from_one_flow_to_another(dask_address: str) -> None:
    """Each has a client of its own."""

    @flow(task_runner=DaskTaskRunner(address=dask_address))
    def inner(array: Any) -> int:
        return total.submit(array, make.submit(1_000_000)).result()

    def body() -> Any:
        made = make.submit(1_000_000)
        return inner(made), inner.submit(made).result()

    assert in_flow(body, dask_address) == (2_000_000, 2_000_000)


# --- nesting ----------------------------------------------------------------------------------------------------------


@task
def fib(n: int) -> int:
    return n if n < 2 else sum(future.result() for future in [fib.submit(n - 1), fib.submit(n - 2)])


def test_tasks_submit_tasks_on_a_single_thread(special: str) -> None:
    assert in_flow(lambda: fib.submit(8).result(), special) == 21


def test_tasks_map_tasks_on_a_single_thread(special: str) -> None:
    @task
    def square(n: int) -> int:
        return n * n

    @task
    def squares(n: int) -> list[int]:
        first = square.map(range(n))
        return square.map(first).result()

    def body() -> Any:
        return squares.map([3, 4, 200]).result()

    assert in_flow(body, special) == [[n**4 for n in range(k)] for k in (3, 4, 200)]


def test_coroutines_submit_tasks(special: str) -> None:
    @task
    async def outer(n: int) -> int:
        return await fib.submit(n) + sum([await future for future in fib.map([1, 2])])

    assert in_flow(lambda: outer.map([3, 4]).result(), special) == [2 + 2, 3 + 2]


def test_a_loop_inside_a_body_waits_for_several_tasks(special: str) -> None:
    async def gather() -> list[int]:
        async def one(n: int) -> int:
            return await fib.submit(n)

        return await asyncio.gather(*[one(n) for n in range(4)])

    @task
    def outer() -> Any:
        return asyncio.run(gather()), asyncio.run(gather()), fib.submit(4).result()

    assert in_flow(lambda: outer.submit().result(), special) == ([0, 1, 1, 2], [0, 1, 1, 2], 3)


def test_large_values_pass_between_tasks_below_a_task(special: str) -> None:
    @task
    def outer() -> Any:
        made = make.submit(1_000_000)
        again = total.submit(made, unmapped_array)
        return made.result().sum() + again.result()

    unmapped_array = np.ones(300_000, np.uint8)
    assert in_flow(lambda: outer.submit().result(), special) == 2_300_000


def test_flows_with_other_runners_run_in_tasks(dask_address: str) -> None:
    @flow(task_runner=ThreadPoolTaskRunner(2))
    def on_threads() -> list[int]:
        return pid.map(range(2)).result()

    @flow(task_runner=DaskTaskRunner(address=dask_address))
    def on_dask() -> list[int]:
        return pid.map(range(2)).result()

    @task
    def outer() -> Any:
        return os.getpid(), on_threads(), on_dask()

    here, threads, workers = in_flow(lambda: outer.submit().result(), dask_address)
    assert here != os.getpid()
    assert threads == [here, here]
    assert os.getpid() not in workers


def test_a_temporary_cluster_in_a_worker(dask_address: str) -> None:
    """Dask's worker processes may have no children: so it is one of threads."""

    @flow
    def inner(n: int) -> int:
        return pid.submit().result()

    @task
    def outer(processes: bool) -> Any:
        runner = DaskTaskRunner(cluster_kwargs={**SMALL, "processes": processes})
        return os.getpid(), inner.with_options(task_runner=runner)(1)

    def body() -> Any:
        return outer.submit(False).result(), outer.submit(True).exception()

    (here, there), error = in_flow(body, dask_address)
    assert here == there != os.getpid()
    assert type(error) is RuntimeError
    assert "A temporary Dask cluster cannot be started here: this is a worker process" in str(error)


def test_a_dask_flow_in_a_flow_on_threads(dask_address: str) -> None:
    @flow(task_runner=DaskTaskRunner(address=dask_address))
    def inner(n: int) -> list[int]:
        return pid.map(range(n)).result()

    @task
    def through() -> list[int]:
        return inner(3)

    @flow(name="main")
    def outer() -> Any:
        return [inner.submit(2).result(), through.submit().result(), inner(1)]

    found = within(10, outer)
    assert [len(pids) for pids in found] == [2, 3, 1]
    assert os.getpid() not in {pid for pids in found for pid in pids}


def test_two_flows_at_the_same_time_on_one_cluster(dask_address: str) -> None:
    @flow(task_runner=DaskTaskRunner(address=dask_address))
    def inner(start: int) -> list[int]:
        return fib.map(range(start, start + 6)).result()

    @flow(name="main")
    def outer() -> Any:
        return [future.result() for future in [inner.submit(0), inner.submit(1), inner.submit(0)]]

    fibs = [0, 1, 1, 2, 3, 5, 8]
    assert within(15, outer) == [fibs[:6], fibs[1:7], fibs[:6]]


def facts_of_worker(dask_worker: Any) -> dict[str, Any]:
    client = dask_worker._client
    return {
        "threads": [thread.name for thread in threading.enumerate() if thread.name.startswith("penstock")],
        "handlers": [] if client is None else [name for name in client._event_handlers if name.startswith("penstock")],
    }


def test_nothing_of_a_flow_stays_in_the_workers_or_the_scheduler() -> None:
    def body() -> Any:
        return fib.submit(3).result(), fib.map(range(3)).result(), make.submit(1_000_000).result().sum()

    with running_cluster(n_workers=1) as address:
        for _ in range(3):
            assert in_flow(body, address) == (2, [0, 1, 1], 1_000_000)
        with distributed.Client(address, set_as_default=False) as client:
            eventually(lambda: client.run_on_scheduler(facts_of_scheduler), NOTHING)
            (facts,) = client.run(facts_of_worker).values()
    assert facts["handlers"] == []
    assert [name for name in facts["threads"] if "dask" in name or "fetch" in name] == []


def double(n: int) -> int:
    return 2 * n


def test_the_client_of_distributed_in_a_task(dask_address: str) -> None:
    @task
    def outer() -> Any:
        client = distributed.get_client()
        return client.gather(client.map(double, [3, 4])), distributed.get_worker().address

    values, worker = in_flow(lambda: outer.submit().result(), dask_address)
    assert values == [6, 8]
    assert worker.startswith("tcp://127.0.0.1")


def test_a_client_for_a_task(special: str) -> None:
    """On one thread: what it waits for is executed in its place. Penstock's tasks become runs."""

    @task
    def outer() -> Any:
        with get_dask_client() as client:
            futures = [client.submit(fib, 5), *client.map(fib, [3, 4])]
            plain = client.gather([client.submit(double, 4), *client.map(double, [1, 2])])
            collection = dask.delayed(double)(21).compute()
            return [future.result() for future in futures], plain, collection, runtime.task_run.name

    assert in_flow(lambda: outer.submit().result(), special) == ([5, 2, 3], [8, 2, 4], 42, "outer-0")


def test_a_client_for_a_coroutine(special: str) -> None:
    @task
    async def outer() -> Any:
        async with get_dask_client(timeout=5) as client:
            plain = await client.gather([client.submit(double, 4), *client.map(double, [1, 2])])
            futures = [client.submit(fib, 5), *client.map(fib, [3, 4])]
            return plain, [await future for future in futures]

    assert in_flow(lambda: outer.submit().result(), special) == ([8, 2, 4], [5, 2, 3])


def test_a_client_anywhere_else_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"get_dask_client\(\) works inside a task that a DaskTaskRunner executes"):
        get_dask_client()


# --- reports and versions ---------------------------------------------------------------------------------------------


def test_a_performance_report(dask_address: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "report.html"

    def body() -> Any:
        future = pid.submit()
        return future.exception() or future.result()

    answer = in_flow(body, DaskTaskRunner(address=dask_address, performance_report_path=path))
    if importlib.util.find_spec("bokeh") is None:
        assert type(answer) is ImportError
        assert str(answer) == "performance_report_path needs the 'bokeh' package where the Dask scheduler runs"
    else:
        assert isinstance(answer, int)
        assert "<html" in path.read_text()[:1000].lower()


def test_a_report_that_cannot_be_written_costs_nothing(
    dask_address: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Report:
        def __init__(self, filename: str) -> None: ...
        def __enter__(self) -> None: ...
        def __exit__(self, *exc_info: object) -> None:
            raise OSError("disk full")

    monkeypatch.setattr(distributed, "performance_report", Report)
    monkeypatch.setattr("penstock.task_runners.dask._has_bokeh", lambda: True)
    runner = DaskTaskRunner(address=dask_address, performance_report_path=tmp_path / "x")
    assert in_flow(lambda: pid.submit().result(), runner) > 0
    (warning,) = [line.getMessage() for line in caplog.records if line.levelname == "WARNING"]
    assert warning.endswith("could not be written: OSError: disk full")


def test_other_versions_on_the_cluster_are_named_once(
    dask_address: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "0.0.1" if name == "cloudpickle" else version(name))
    assert in_flow(lambda: pid.submit().result(), dask_address) > 0
    (warning,) = [line.getMessage() for line in caplog.records if line.levelname == "WARNING"]
    assert warning.startswith("Versions differ on the Dask cluster: cloudpickle ")
    assert warning.count(", 0.0.1 here") == 3, "for the scheduler and each worker"


def test_equal_versions_are_not_worth_a_word(dask_address: str, caplog: pytest.LogCaptureFixture) -> None:
    assert in_flow(lambda: pid.submit().result(), dask_address) > 0
    assert [line for line in caplog.records if line.levelname == "WARNING"] == []


def test_a_cluster_without_penstock(dask_address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.task_runners.versions.versions_reporter", lambda: lambda: {"penstock": None})
    error = in_flow(lambda: pid.submit().exception(), dask_address)
    assert type(error) is RuntimeError
    assert str(error) == "penstock is not installed on the Dask scheduler: install None there"


# --- many at once -----------------------------------------------------------------------------------------------------


def test_many_coroutines_wait_at_the_same_time(dask_address: str) -> None:
    @task
    async def rest(n: int) -> int:
        await asyncio.sleep(0.2)
        return n

    began = time.monotonic()
    assert in_flow(lambda: rest.map(range(100)).result(), dask_address) == list(range(100))
    assert time.monotonic() - began < 5, "one after the other, they take 10 s on two threads"


def test_what_cannot_be_sent_costs_nobody_else_in_its_batch(dask_address: str) -> None:
    lock = threading.Lock()

    @task
    def work(x: Any) -> Any:
        return threading.Lock() if x == 150 else x

    def body() -> Any:
        work.map(range(100)).result()
        futures = work.map([*range(100), lock, *range(101, 200)])
        futures.wait()
        return [future.exception() or future.result() for future in futures]

    answers = in_flow(body, dask_address)
    first, second = answers[100], answers[150]
    assert (type(first), first.path) == (SerializationError, "x")
    assert (type(second), second.path) == (SerializationError, "return value")
    assert [n for n, answer in enumerate(answers) if answer != n] == [100, 150]


def test_a_retry_waits_for_its_delay_and_hooks_are_called_at_home(dask_address: str, tmp_path: Path) -> None:
    file, called = str(tmp_path / "times"), []

    @task(
        retries=1,
        retry_delay_seconds=0.2,
        on_running=[lambda *_: called.append(("running", os.getpid()))],
        on_completion=[lambda *_: called.append(("completed", pid.submit().result()))],
    )
    def second_time() -> int:
        bodies.append(file, time.monotonic())
        if len(bodies.lines(file)) < 2:
            raise ValueError("first")
        return os.getpid()

    worker = in_flow(lambda: second_time.submit().result(), dask_address)
    first, second = map(float, bodies.lines(file))
    assert second - first >= 0.2
    assert called[:2] == [("running", os.getpid())] * 2
    assert called[2][0] == "completed"
    assert worker != os.getpid()


def test_a_body_may_wait_for_one_that_was_submitted_right_after_it(dask_address: str, tmp_path: Path) -> None:
    """What is in a batch behind one that takes long is not held up while another worker has nothing to do."""
    file = str(tmp_path / "met")

    @task
    def work(n: int) -> bool:
        if n == 300:
            return bodies.wait_for_file(file, 5)
        if n == 301:
            bodies.append(file, "here")
        return True

    assert all(in_flow(lambda: work.map(range(700)).result(), dask_address))


def test_threads_submit_at_the_same_time(dask_address: str) -> None:
    def body() -> Any:
        found: list[int] = []
        context = contextvars.copy_context()
        threads = [
            threading.Thread(target=context.copy().run, args=(lambda: found.append(pid.submit().result()),))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return found

    assert len(in_flow(body, dask_address)) == 8
