"""Flows in the cells of real kernels: all runners, definitions made anew, interrupts, and what is shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from kernels import READY, Cell, Execute

from penstock.store.sqlite import SQLiteStore

pytestmark = pytest.mark.timeout(120)  # a kernel takes a second to start, and several where the machine is busy
EXAMPLE = Path(__file__).parents[2] / "examples" / "notebook.ipynb"

DEFINITIONS = """
import asyncio, time
from pathlib import Path
from penstock import flow, task
from penstock.cache_policies import INPUTS, TASK_SOURCE
from penstock.task_runners import ProcessPoolTaskRunner, SequentialTaskRunner, ThreadPoolTaskRunner

def helper(n):
    return n + 1

@task
def work(n):
    return helper(n)

@task
async def work_async(n):
    await asyncio.sleep(0)
    return helper(n)

@task(cache_policy=INPUTS + TASK_SOURCE)
def kept(n):
    return helper(n)

@flow
def main():
    return [*work.map([1, 2]).result(), work_async.submit(3).result(), work(4), kept.submit(5).result()]

@flow
async def main_async():
    return [*await work.map([1, 2]), await work_async.submit(3), await work_async(3), work(4), await kept.submit(5)]
"""
# What the flows call, and what that calls, is defined anew.
AGAIN = """
def helper(n):
    return n + 100

@task
def work(n):
    return 10 * helper(n)

@task(cache_policy=INPUTS + TASK_SOURCE)
def kept(n):
    return -helper(n)
"""


def texts(cells: list[Cell]) -> list[Any]:
    return [None if cell.text is None else json.loads(cell.text) for cell in cells]


def errors(cells: list[Cell]) -> list[str | None]:
    return [cell.error for cell in cells]


def root_states(home: Path) -> dict[str, str]:
    """By flow: the latest root run's state."""
    store = SQLiteStore(home)
    try:
        return {row.name: row.state_name for row in reversed(store.runs(limit=100)) if row.parent_id is None}
    finally:
        store.close()


def on(runner: str) -> list[str]:
    return [f"main.with_options(task_runner={runner})()", f"await main_async.with_options(task_runner={runner})()"]


def test_flows_on_each_runner_with_definitions_made_anew(execute: Execute) -> None:
    calls = [call for name in ("ThreadPool", "Sequential", "ProcessPool") for call in on(f"{name}TaskRunner()")]
    cells = execute([DEFINITIONS, *calls, AGAIN, *calls])
    assert errors(cells) == [None] * 14
    assert texts(cells)[1:7] == [[2, 3, 4, 5, 6], [2, 3, 4, 4, 5, 6]] * 3
    assert texts(cells)[8:] == [[1010, 1020, 103, 1040, -105], [1010, 1020, 103, 103, 1040, -105]] * 3
    assert not [cell.stderr for cell in cells if "Warning" in cell.stderr]


def test_what_is_outside_of_flows(execute: Execute) -> None:
    cells = execute(
        [
            DEFINITIONS,
            "work(1)",
            "await work_async(1)",
            "futures = []\n@flow\ndef keeps():\n    futures.append(work.submit(1))\n    futures[0].wait()\nkeeps()",
            "futures[0].result()",
            "await futures[0]",
            "running = asyncio.create_task(main_async())",
            "await running",
            "with ThreadPoolTaskRunner() as runner:\n    future = runner.submit(work, {'n': 5})\nfuture.result()",
        ]
    )
    assert errors(cells) == [None] * 9
    assert texts(cells) == [None, 2, 2, None, 2, 2, None, [2, 3, 4, 4, 5, 6], 6]


LONG = f"""
@task
def slow(path):
    Path(path).touch()
    for _ in range(2_000):
        time.sleep(0.01)

@task
async def slow_async(path):
    Path(path).touch()
    await asyncio.sleep(20)

def ready(path):
    while not Path(path).exists():
        time.sleep(0.005)
    print({READY!r}, flush=True)

def waits(path, subject):
    path = str(Path(path).absolute())
    future = subject.submit(path)
    ready(path)
    return future.result()

async def awaits(path, subject):
    path = str(Path(path).absolute())
    future = subject.submit(path)
    ready(path)
    return await future

async def awaits_directly():
    print({READY!r}, flush=True)
    await asyncio.sleep(20)

def spins():
    print({READY!r}, flush=True)
    while True:
        pass

def leaves_behind(path):
    slow.submit(path)
    ready(path)
"""


def interrupted(name: str, body: str, arguments: str, runner: str = "ThreadPoolTaskRunner()") -> str:
    wait = "await " if body.startswith("await") else ""
    return f"{wait}flow(name={name!r}, task_runner={runner})({body})({arguments})"


def test_an_interrupt_ends_the_flow_and_the_kernel_lives_on(execute: Execute, own_store: Path) -> None:
    process = "ProcessPoolTaskRunner(1)"
    cells = execute(
        [
            DEFINITIONS + LONG,
            interrupted("waits", "waits", "'1', slow"),
            interrupted("waits-async", "waits", "'2', slow_async"),
            interrupted("spins", "spins", "", "SequentialTaskRunner()"),
            interrupted("awaits", "awaits", "'4', slow"),
            interrupted("awaits-async", "awaits", "'5', slow_async"),
            interrupted("awaits-directly", "awaits_directly", ""),
            interrupted("leaves", "leaves_behind", "'6'"),
            interrupted("processes", "waits", "'7', slow", process),
            interrupted("processes-awaited", "awaits", "'8', slow", process),
            "main()",
            "await main_async()",
        ]
    )
    kinds = [None if cell.error is None else cell.error.partition(":")[0] for cell in cells]
    by_key, by_cancelling = ["KeyboardInterrupt"], ["CancelledError"]
    assert kinds == [None, *by_key * 3, *by_cancelling * 3, *by_key * 2, *by_cancelling, None, None]
    assert texts(cells)[10:] == [[2, 3, 4, 5, 6], [2, 3, 4, 4, 5, 6]]
    states = root_states(own_store)
    assert {states.pop("main"), states.pop("main-async")} == {"Completed"}
    assert len(states) == 9
    assert set(states.values()) == {"Crashed"}


def test_impatience_does_not_kill_the_kernel(execute: Execute, own_store: Path) -> None:
    """In a script the second Ctrl-C ends the process at once; a kernel would take everything in it along."""
    body = f"""
@flow
def tidies_up():
    try:
        print({READY!r}, flush=True)
        time.sleep(20)
    finally:
        print({READY!r}, flush=True)
        time.sleep(0.5)

tidies_up()
"""
    cells = execute([DEFINITIONS, body, "work(1)"])
    assert [cell.error and cell.error.partition(":")[0] for cell in cells] == [None, "KeyboardInterrupt", None]
    assert cells[2].text == "2"
    assert root_states(own_store)["tidies-up"] == "Crashed"


def test_failures_are_shown_with_the_lines_of_cells(execute: Execute) -> None:
    body = """
@task
def load(n):
    if n:
        raise ValueError(f"bad {n}")

@flow
def loads():
    loaded = load.map(range(3))
    loaded.wait()
    return loaded.result()
"""
    cells = execute(
        [
            "from penstock import flow, task\nfrom penstock.task_runners import ProcessPoolTaskRunner",
            body,
            "loads()",
            "loads.with_options(task_runner=ProcessPoolTaskRunner(1))()",
            "loads(return_state=True)",
            "import os\nos.environ['PENSTOCK_TRACEBACK'] = 'full'\nloads()",
        ]
    )
    for cell in cells[2:4]:
        assert cell.error is not None
        assert "2 of 3 runs of 'load' failed:" in cell.traceback
        assert "load-0[1]: ValueError: bad 1 at Cell In[2]:4" in cell.traceback
        assert "penstock" not in cell.traceback
    assert 'File "Cell In[2]", line 4, in load\n    raise ValueError(f"bad {n}")' in cells[3].traceback
    assert cells[4].html is not None and "ValueError: bad" in cells[4].html
    assert "invocation.py" in cells[5].traceback


def test_what_cells_show(execute: Execute) -> None:
    cells = execute(
        [
            DEFINITIONS,
            "work",
            "main",
            "main(return_state=True)",
            "futures = []\n@flow\ndef keeps():\n    futures.append(work.map([1, 2]))\n    futures[0].wait()\nkeeps()",
            "futures[0]",
            "futures[0][0]",
            "futures[0][0].state",
        ]
    )
    assert errors(cells) == [None] * 8
    for number, parts in {
        1: ("Task <b>work</b>", "(n)"),
        2: ("Flow <b>main</b>",),
        3: ("<b>main/", "Completed", "5 task runs"),
        5: ("FutureList of 2", "work-0[1]"),
        6: ("work-0[0]", "Completed"),
        7: ("Completed",),
    }.items():
        assert all(part in str(cells[number].html) for part in parts), cells[number].html


def test_on_dask(execute: Execute, dask_address: str, own_store: Path) -> None:
    runner = f"DaskTaskRunner(address={dask_address!r})"
    cells = execute(
        [
            DEFINITIONS + LONG + "from penstock.task_runners import DaskTaskRunner",
            *on(runner),
            AGAIN,
            *on(runner),
            interrupted("waits", "waits", "'1', slow", runner),
            interrupted("awaits", "awaits", "'2', slow", runner),
            "main()",
        ]
    )
    check_on_cluster(cells, own_store)


@pytest.mark.xdist_group("ray")
def test_on_ray(execute: Execute, own_store: Path) -> None:
    """On a Ray of the kernel's own, which goes on from cell to cell."""
    init = "import ray\nray.init('local', num_cpus=2, include_dashboard=False, log_to_driver=False)\n"
    quiet = "import warnings\nwarnings.simplefilter('ignore')\n"  # tqdm, which Ray imports, wants to be told of widgets
    cells = execute(
        [
            quiet + DEFINITIONS + LONG + init + "from penstock.task_runners import RayTaskRunner",
            *on("RayTaskRunner()"),
            AGAIN,
            *on("RayTaskRunner()"),
            interrupted("waits", "waits", "'1', slow", "RayTaskRunner()"),
            interrupted("awaits", "awaits", "'2', slow", "RayTaskRunner()"),
            "main()",
            "ray.shutdown()",
        ]
    )
    check_on_cluster(cells[:-1], own_store)


def check_on_cluster(cells: list[Cell], home: Path) -> None:
    kinds = [None if cell.error is None else cell.error.partition(":")[0] for cell in cells]
    assert kinds == [None] * 6 + ["KeyboardInterrupt", "CancelledError", None], [cell.traceback for cell in cells]
    assert texts(cells[:6]) == [
        *(None, [2, 3, 4, 5, 6], [2, 3, 4, 4, 5, 6]),
        *(None, [1010, 1020, 103, 1040, -105], [1010, 1020, 103, 103, 1040, -105]),
    ]
    states = root_states(home)
    assert (states["waits"], states["awaits"], states["main"]) == ("Crashed", "Crashed", "Completed")


def test_the_example(execute: Execute) -> None:
    first, shown, again, survey, failed = execute(str(EXAMPLE))
    assert (first.text, again.text) == ("909", "0.909")
    assert "3 task runs" in str(shown.html)
    assert survey.text == "['Glomma: 621 km', 'Aare: 288 km', 'Rimac: 160 km']"
    assert "KeyError" in str(failed.html) and "Cell In[3]:3" in str(failed.html)


def test_the_example_is_kept_without_outputs() -> None:
    cells = json.loads(EXAMPLE.read_text())["cells"]
    assert [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")] == []
