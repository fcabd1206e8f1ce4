"""Bodies on a Ray cluster: construction, connecting, options, values that stay, stopping, deaths, nesting."""

from __future__ import annotations

import glob
import logging
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
import ray
import ray_bodies as bodies
from ray.experimental.internal_kv import _internal_kv_list
from test_processes import within

from penstock import flow, task, unmapped
from penstock.exceptions import CancelledRun
from penstock.task_runners import RayTaskRunner, ThreadPoolTaskRunner, remote_options
from penstock.task_runners import ray as runners


def in_flow(body: Callable[[], Any], seconds: float = 20, runner: RayTaskRunner | None = None) -> Any:
    return within(seconds, flow(name="main", task_runner=runner or RayTaskRunner())(body))


def wait_for(condition: Callable[[], Any], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


@pytest.fixture
def leaves_nothing(running_ray: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Neither what Ray's head keeps nor files of a shipment are there when a flow has ended."""
    shipped = []
    ship = runners.RayCluster.ship
    monkeypatch.setattr(runners.RayCluster, "ship", lambda self, one: shipped.append(one.id) or ship(self, one))
    before = set(_internal_kv_list("", namespace="penstock"))
    yield
    assert shipped
    assert set(_internal_kv_list("", namespace="penstock")) <= before
    left = glob.glob(f"{tempfile.gettempdir()}/penstock-*")
    assert [path for path in left if any(one in path for one in shipped)] == []


# --- construction -----------------------------------------------------------------------------------------------------


def test_what_it_is() -> None:
    runner = RayTaskRunner("auto", {"num_cpus": 2})
    assert (runner.name, runner.address, runner.init_kwargs) == ("ray", "auto", {"num_cpus": 2})
    assert repr(RayTaskRunner()) == "RayTaskRunner()"
    assert repr(runner) == "RayTaskRunner(address='auto')"


def test_a_duplicate_is_equal() -> None:
    options = {"num_cpus": 2}
    runner = RayTaskRunner("auto", options)
    options["num_cpus"] = 3
    copy = runner.duplicate()
    assert copy == runner == RayTaskRunner("auto", {"num_cpus": 2})
    assert copy is not runner
    assert hash(copy) == hash(runner)


@pytest.mark.parametrize("other", [RayTaskRunner(), RayTaskRunner("auto"), ThreadPoolTaskRunner(2)], ids=repr)
def test_other_settings_are_not_equal(other: Any) -> None:
    assert other != RayTaskRunner("auto", {"num_cpus": 2})


def test_ray_client_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'ray://head:10001' is for Ray Client.*address='auto'"):
        RayTaskRunner("ray://head:10001")


def test_without_the_package_the_import_says_what_to_install() -> None:
    code = "import sys; sys.modules['ray'] = None\nfrom penstock.task_runners import remote_options"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=5)
    assert """remote_options needs the 'ray' package: pip install "penstock[ray]\"""" in done.stderr


# --- connecting -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", [None, "auto", "local", "its own"])
def test_a_running_ray_is_used_and_goes_on(address: str | None, running_ray: None) -> None:
    if address == "its own":
        address = ray.get_runtime_context().gcs_address
    runner = RayTaskRunner(address, {"num_cpus": 7})
    assert in_flow(lambda: (bodies.pid.submit().result(), runner.slots), runner=runner)[1] == 2
    assert ray.is_initialized()


def test_another_address_than_the_running_one_fails_the_tasks(running_ray: None) -> None:
    def body() -> Any:
        return bodies.pid.submit().exception()

    error = in_flow(body, runner=RayTaskRunner("10.0.0.1:6379"))
    running = ray.get_runtime_context().gcs_address
    assert (type(error), str(error)) == (
        ValueError,
        f"Cannot connect to Ray at '10.0.0.1:6379': this process is connected to {running!r}",
    )


OWN = """
    import os, threading
    import ray
    from penstock import flow, task
    from penstock.task_runners import RayTaskRunner

    @task
    def where(first, second):
        os.close(os.open(first, os.O_CREAT))
        while not os.path.exists(second):
            pass
        if first == "a":
            print("printed by a task")
        return ray.get_runtime_context().gcs_address

    debugger = os.environ.get("PYTHONBREAKPOINT")

    def listening():
        for name in ("tcp", "tcp6"):
            for line in open(f"/proc/net/{name}").read().splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A":
                    yield fields[9], fields[1].partition(":")[0]

    def sockets():
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                session = int(open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[3])
                if session == os.getsid(0):
                    yield from (os.readlink(f"/proc/{pid}/fd/{fd}")[8:-1] for fd in os.listdir(f"/proc/{pid}/fd"))
            except OSError:
                pass

    @flow(task_runner=RayTaskRunner(init_kwargs={"num_cpus": 2}))
    def main(first, second):
        found = where.submit(first, second).result()
        addresses, ours = dict(listening()), set(sockets())
        return found, ray.is_initialized(), {addresses[one] for one in ours if one in addresses}

    answers = []
    threads = [threading.Thread(target=lambda *way: answers.append(main(*way)), args=way) for way in ("ab", "ba")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (one, here, listening_at), (other, _, _) = answers
    print(one == other, here, ray.is_initialized(), {address[-8:] for address in listening_at})
    print(os.environ.get("PYTHONBREAKPOINT") == debugger)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_flows_share_a_ray_of_their_own_that_nobody_else_can_reach(tmp_path: Path) -> None:
    """It ends with the last of them, when what tasks have printed is there. No main guard, and nothing else is said."""
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(OWN))
    variables = {**os.environ, "PENSTOCK_LOGGING_LEVEL": "WARNING", "PENSTOCK_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, script],
        capture_output=True,
        text=True,
        timeout=40,
        cwd=tmp_path,
        env=variables,
        start_new_session=True,
    )
    printed, *others = done.stdout.splitlines()
    assert "printed by a task" in printed
    assert (others, done.stderr) == (["True True False {'0100007F'}", "True"], "")


TERMINATED = """
    import sys, time
    from penstock import flow, task
    from penstock.task_runners import RayTaskRunner

    @task
    def stuck(entered):
        open(entered, "w").close()
        time.sleep(100)  # nothing interrupts it: it ends with its process

    @flow(task_runner=RayTaskRunner(init_kwargs={"num_cpus": 1, "log_to_driver": False}))
    def main():
        stuck.submit(sys.argv[1]).result()

    main()
"""


@pytest.mark.timeout(120)
def test_a_termination_signal_is_answered_in_good_order(tmp_path: Path) -> None:
    """Ray would abort the program three seconds after the signal, which is before this one has ended its tasks."""
    script, entered = tmp_path / "script.py", tmp_path / "entered"
    script.write_text(textwrap.dedent(TERMINATED))
    with subprocess.Popen(
        [sys.executable, script, entered],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PENSTOCK_HOME": str(tmp_path)},
        start_new_session=True,
    ) as program:
        try:
            wait_for(entered.exists, 60)  # a Ray of its own is started meanwhile
        finally:
            program.terminate()
        _, said = program.communicate(timeout=20)
    assert program.returncode == -signal.SIGTERM
    assert "CRASHED" in said
    assert "SIGTERM received" not in said


def test_modules_that_only_this_process_finds(running_ray: None, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "only_here.py").write_text("def answer():\n    return 42\n")
    monkeypatch.syspath_prepend(tmp_path)
    import only_here  # type: ignore[import-not-found]

    answer = task(only_here.answer)
    assert in_flow(lambda: answer.submit().result()) == 42


def test_flows_that_end_at_once(leaves_nothing: None) -> None:
    """Ray ends the whole process if it is told to cancel a task in the moment of its end."""
    for number in range(30):
        assert in_flow(lambda number=number: len(bodies.pid.map(range(number % 5)).result())) == number % 5


# --- options ----------------------------------------------------------------------------------------------------------


def test_options_nest_and_hold_for_what_is_submitted_inside(running_ray: None) -> None:
    own = bodies.resources.with_options(remote_options={"num_cpus": 0.5, "memory": 1000})
    cleared = own.with_options(remote_options=None)

    def body() -> Any:
        outside = bodies.resources.submit()
        with remote_options(num_cpus=2, resources={"cup": 1}):
            inside = bodies.resources.submit()
            with remote_options(num_cpus=0):
                innermost = bodies.resources.submit()
            again = bodies.resources.submit()
            of_task = own.submit()
        futures = [outside, inside, innermost, again, of_task, own.submit(), cleared.submit()]
        return [future.result() for future in futures]

    assert in_flow(body) == [
        {"CPU": 1.0},
        {"CPU": 2.0, "cup": 1.0},
        {"cup": 1.0},
        {"CPU": 2.0, "cup": 1.0},
        {"CPU": 2.0, "cup": 1.0, "memory": 1000.0},
        {"CPU": 0.5, "memory": 1000.0},
        {"CPU": 1.0},
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_cups": 1}, "num_cups"),
        ({"num_cpus": -1}, "num_cpus"),
        ({"max_retries": 3}, "remote_options(max_retries=...) is not for task runs: write @task(retries=...)"),
        ({"num_returns": 2}, "remote_options(num_returns=...) is not for task runs"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_an_option_that_cannot_be_fails_the_run(options: dict[str, Any], message: str, running_ray: None) -> None:
    def body() -> Any:
        with remote_options(**options):
            future = bodies.pid.submit()
        return future.exception(), future.state.type, bodies.pid.submit().exception()

    error, state, other = in_flow(body)
    assert (type(error), state, other) == (ValueError, "FAILED", None)
    assert message in str(error)


def test_options_of_a_task_are_a_mapping() -> None:
    with pytest.raises(TypeError, match="'remote_options' must be a mapping of Ray's options; got int"):
        task(remote_options=3)(print)  # type: ignore[arg-type]


def test_other_runners_do_not_look_at_options() -> None:
    @flow(task_runner=ThreadPoolTaskRunner(1))
    def main() -> int:
        with remote_options(num_cups=1):
            return task(remote_options={"num_cups": 2})(abs).submit(-1).result()

    assert main() == 1


def test_a_demand_that_cannot_be_met_is_warned_about_once(
    leaves_nothing: None, monkeypatch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """It holds up nobody else, and what waits for it can be cancelled."""
    monkeypatch.setattr(runners, "_PATIENCE", 0.2)

    def body() -> Any:
        with remote_options(num_gpus=1, resources={"moon": 2}):
            futures = bodies.pid.map(range(100))
        others = bodies.pid.map(range(100)).result()
        wait_for(lambda: caplog.messages)
        time.sleep(0.3)
        before = time.monotonic()
        futures.cancel()
        futures.wait()
        return len(others), {future.state.name for future in futures}, time.monotonic() - before

    with caplog.at_level(logging.WARNING):
        others, states, took = in_flow(body)
    assert (others, states) == (100, {"Cancelled"})
    assert took < 2
    (said,) = caplog.messages
    assert said.startswith("Task 'pid' waits for a node with 1 CPU, 1 GPU, 2 moon; Ray has 2 CPU and ")


# --- values that stay -------------------------------------------------------------------------------------------------


def test_large_values_come_home_only_when_asked_for(leaves_nothing: None, monkeypatch: Any) -> None:
    fetched = []
    fetch = runners.RayCluster.fetch
    monkeypatch.setattr(runners.RayCluster, "fetch", lambda *args: fetched.append(1) or fetch(*args))

    def body() -> Any:
        array = bodies.make_array.submit(1_000_000)
        sums = bodies.add_up.map([array, array], [1, 2]).result()
        before = len(fetched)
        return sums, before, array.result().sum(), len(fetched)

    assert in_flow(body) == ([1_000_000] * 2, 0, 1_000_000, 1)


def test_a_value_outlives_the_worker_that_made_it_and_the_flow(leaves_nothing: None) -> None:
    @task
    def make() -> tuple[int, bytes]:
        return os.getpid(), b"x" * 1_000_000

    @task
    def look(made: tuple[int, bytes]) -> tuple[int, int]:
        return made[0], len(made[1])

    def body() -> Any:
        future = make.submit()
        maker, _ = look.submit(future).result()
        os.kill(maker, signal.SIGKILL)
        wait_for(lambda: not os.path.exists(f"/proc/{maker}"))
        futures.append(future)
        return look.submit(future).result(), maker

    futures: list[Any] = []
    looked, maker = in_flow(body)
    assert looked == (maker, 1_000_000)
    assert (futures[0].result()[0], len(futures[0].result()[1])) == (maker, 1_000_000)


def test_large_arguments_are_placed_once_for_a_map(leaves_nothing: None, monkeypatch: Any) -> None:
    placed = []
    place = runners.RayCluster.place
    monkeypatch.setattr(runners.RayCluster, "place", lambda *args: placed.append(1) or place(*args))
    array = numpy.ones(1_000_000, "u1")

    def body() -> Any:
        return bodies.add_up.map(unmapped(array), range(20)).result()

    assert in_flow(body) == [1_000_000] * 20
    assert len(placed) == 1
    assert array.sum() == 1_000_000, "bodies have copies"


# --- stopping ---------------------------------------------------------------------------------------------------------


def test_a_running_body_is_cancelled_soon(leaves_nothing: None, tmp_path: Path) -> None:
    entered = tmp_path / "entered"

    def body() -> Any:
        future = bodies.spin.submit(str(entered))
        wait_for(entered.exists)
        before = time.monotonic()
        future.cancel()
        error = future.exception()
        return type(error), time.monotonic() - before

    kind, took = in_flow(body)
    assert kind is CancelledRun
    assert took < 1


def test_what_has_not_begun_is_over_at_once_and_never_executed(leaves_nothing: None, tmp_path: Path) -> None:
    """Neither is it executed twice, if it is cancelled in the moment in which it begins."""
    files = [str(tmp_path / str(number)) for number in range(60)]
    entered = [tmp_path / "first", tmp_path / "second"]

    def body() -> Any:
        holding = bodies.spin.map(list(map(str, entered)))
        wait_for(lambda: all(path.exists() for path in entered))
        waiting = bodies.touch.map(files)
        time.sleep(0.1)  # some of them are at Ray by now, where there is no room for them
        before = time.monotonic()
        for future in waiting[1::2]:
            future.cancel()
        for future in waiting[1::2]:
            future.wait()
        took = time.monotonic() - before
        holding.cancel()
        for future in waiting[::2]:
            future.result()
        return took, [future.state.name for future in waiting]

    took, states = in_flow(body)
    assert took < 1
    assert states == ["Completed", "Cancelled"] * 30
    assert [os.path.exists(path) for path in files] == [True, False] * 30


def test_cancelling_while_they_begin_executes_nothing_twice(leaves_nothing: None, tmp_path: Path) -> None:
    @task
    def append(number: int) -> None:
        with open(tmp_path / str(number), "a") as file:
            file.write("x")

    def body() -> Any:
        futures = [append.submit(number) for number in range(200)]
        for future in futures[::3]:
            future.cancel()
            time.sleep(0.002)
        for future in futures:
            future.wait()
        return [future.state.name for future in futures]

    states = in_flow(body)
    for number, state in enumerate(states):
        written = (tmp_path / str(number)).read_text() if (tmp_path / str(number)).exists() else ""
        assert (state, written) in (("Completed", "x"), ("Cancelled", "")), number
    assert "Cancelled" in states


# --- deaths -----------------------------------------------------------------------------------------------------------


def test_a_lost_run_says_what_ray_says(leaves_nothing: None) -> None:
    error = in_flow(lambda: bodies.die.submit().exception())
    assert str(error).startswith("Lost on Ray: WorkerCrashedError: The worker died unexpectedly")
    assert error.worker.startswith("process ")


NODES = """
    import os, sys, tempfile, time
    import ray, ray_bodies as bodies
    from ray.cluster_utils import Cluster
    from penstock import flow
    from penstock.task_runners import RayTaskRunner, remote_options

    elsewhere = tempfile.mkdtemp(dir=os.getcwd())
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    node = cluster.add_node(num_cpus=2, resources={"there": 9}, env_vars={"TMPDIR": elsewhere})

    @flow(task_runner=RayTaskRunner(cluster.address, {"log_to_driver": False}))
    def main():
        with remote_options(resources={"there": 1}):
            spinning = bodies.spin.submit(os.path.join(elsewhere, "entered"))
            while not os.path.exists(os.path.join(elsewhere, "entered")):
                time.sleep(0.01)
            before = time.monotonic()
            spinning.cancel()
            spinning.wait()
            print(spinning.state.name, time.monotonic() - before < 2)
            bystanders = bodies.pid.map(range(200))
            print(len(bystanders.result()), type(bodies.die.submit().exception()).__name__)
            array = bodies.make_array.submit(1_000_000)
            print(bodies.add_up.submit(array).result())
        print(bodies.add_up.submit(array).result())
        while os.listdir(elsewhere) != ["entered"]:
            time.sleep(0.01)
        with remote_options(resources={"there": 1}):
            array = bodies.make_array.submit(1_000_000)
            array.wait()
        cluster.remove_node(node, allow_graceful=False)
        sum = bodies.add_up.submit(array)
        sum.wait()
        print(type(sum.exception()).__name__, "ObjectReconstructionFailed" in str(sum.exception()))
        try:
            array.result()
        except Exception as error:
            print(type(error).__name__, "lost" in str(error))
        return bodies.pid.submit().result() > 0

    print(main())
    ray.shutdown()
    cluster.shutdown()
"""


def test_several_nodes_one_of_which_is_lost(tmp_path: Path) -> None:
    """Two that do not see each other's files. Stopping and boxes work from far; a lost value is a lost run."""
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(NODES))
    variables = {
        **os.environ,
        "PENSTOCK_HOME": str(tmp_path),
        "PYTHONPATH": os.path.dirname(bodies.__file__),
        "RAY_health_check_failure_threshold": "1",
        "RAY_health_check_period_ms": "300",
        "RAY_health_check_initial_delay_ms": "300",
        "RAY_health_check_timeout_ms": "300",
    }
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=55, cwd=tmp_path, env=variables
    )
    expected = [
        "Cancelled True",
        "200 WorkerLost",
        "1000000",
        "1000000",
        "WorkerLost True",
        "WorkerLost True",
        "True",
    ]
    assert [line for line in done.stdout.splitlines() if line in expected] == expected, done


# --- nesting ----------------------------------------------------------------------------------------------------------


def test_tasks_below_tasks_are_executed_by_other_workers(leaves_nothing: None) -> None:
    @task
    def outer() -> tuple[int, int]:
        return os.getpid(), bodies.pid.submit().result()

    first, second = in_flow(lambda: outer.submit().result())
    assert first != second


def test_nesting_needs_no_more_cpus_than_there_are(leaves_nothing: None) -> None:
    assert in_flow(lambda: bodies.fibonacci.submit(6).result(), 50) == 8


def test_a_flow_inside_a_task_of_rays_own(running_ray: None, own_store: Path) -> None:
    def work(home: str) -> int:
        os.environ["PENSTOCK_HOME"] = home
        return flow(task_runner=RayTaskRunner())(lambda: bodies.pid.submit().result())()

    there = ray.get(ray.remote(work).remote(str(own_store)), timeout=20)
    assert there != os.getpid()
    assert ray.is_initialized()
