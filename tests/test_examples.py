"""Every file in examples/ runs as it stands, on an empty store, and prints what it promises."""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from penstock.store.base import RunRow
from penstock.store.sqlite import SQLiteReader
from penstock.task_runners import SequentialTaskRunner, ThreadPoolTaskRunner

EXAMPLES = Path(__file__).parents[1] / "examples"
FILES = sorted(path.name for path in EXAMPLES.glob("*.py"))

EXACT = {
    "async_flow.py": "1 2 a 6 b 7 c 8 d 9 ",
    "caching.py": (
        "computing 2\ncomputing 3\n[4, 9]\ncomputing 4\n[4, 9, 16]\nsquare: miss\n  argument number differs\n"
    ),
    "hello_world.py": "<class 'str'>\nHello Marvin!\n",
    "map_constant.py": "[6, 7, 8]\n",
    "map_results.py": "[0, 10, 20, 30, 40]\n",
    "map_simple.py": "1\n2\n3\n5\n8\n13\n1\n4\n9\n25\n64\n169\n",
    "own_runner.py": "9592\n",
    "nested_maps.py": (
        "\nAnalysis Results:\n"
        "  Word counts: [9, 11, 10]\n"
        "  Extracted emails: [['visitor@example.com'], ['developer@example.com'], ['events@company.org']]\n\n"
    ),
    "result_or_exception.py": "returned: \"I'm a task!\"\nfailed: ValueError('no luck')\n",
    "results.py": "42\n",
    "resume.py": (
        "measure Oslo\nmeasure Bern\nmeasure Lima\nended by SIGKILL\nmeasure Lima\nmeasure Quito\ntotal 17\n"
    ),
    "transactions.py": "deleted\nFailed, the report is not there\nCompleted, the report is there\n",
    "unmapped.py": "[10, 11, 12]\n",
}


def run(name: str, *arguments: str, home: Path | None = None) -> str:
    """Run an example as a user would, with warnings as errors, and return what it printed.

    Not unbuffered, whatever the caller's environment says: then Python itself writes a line and its end
    separately, and the lines of several threads mix.
    """
    own = {} if home is None else {"PENSTOCK_HOME": str(home)}
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / name), *arguments],
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8", "PYTHONUNBUFFERED": "", **own},
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    # On stderr there may be the library's own lines about how its runs went, and nothing that went wrong.
    assert not re.search("Traceback|Warning|WARNING|ERROR", done.stderr), done.stderr
    return done.stdout


Ran = Callable[[str], tuple[str, Path]]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """What an example has printed, and the store in which its record is: each is run once, on an empty one."""

    @functools.cache
    def ran(name: str) -> tuple[str, Path]:
        home = tmp_path_factory.mktemp("example")
        return run(name, home=home), home

    return ran


def imported(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{Path(name).stem}", EXAMPLES / name)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Where dataclasses look up the module that they are defined in.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def recorded(home: Path) -> tuple[RunRow, list[RunRow]]:
    """The latest flow run of the store in `home`, and the runs below it."""
    reader = SQLiteReader(home)
    try:
        (root,) = reader.find("@last")
        return root, reader.tree(root.id, limit=100_000)
    finally:
        reader.close()


def check_elevator(printed: str, elevators: int) -> None:
    """Ten floors served, never more of them under way than there are elevators."""
    moving: set[int] = set()
    begun: list[int] = []
    for line in printed.splitlines():
        match = re.fullmatch(r"elevator (moving to|stops on) floor (\d+)", line)
        assert match, f"not a whole line: {line!r}"
        floor = int(match[2])
        if match[1] == "moving to":
            moving.add(floor)
            begun.append(floor)
        else:
            moving.remove(floor)
        assert len(moving) <= elevators
    assert not moving
    assert sorted(begun) == list(range(1, 11))
    # Runs begin in the order of submission; several threads may be slow to say so, a single one cannot.
    if elevators == 1:
        assert begun == list(range(10, 0, -1))


def check_wait_for(printed: str) -> None:
    assert sorted(printed[:4]) == ["\n", "\n", "a", "b"]
    assert printed[4:] == "c\nd\n"


def check_model_grid(printed: str) -> None:
    best = re.fullmatch(
        r"\nBest model: \{'dataset': '(customers|products|orders)', "
        r"'model': '(random_forest|gradient_boosting)', 'score': ([\d.e-]+)\}\n",
        printed,
    )
    assert best is not None, printed
    assert 0 <= float(best[3]) < 1


def check_nested_flows(printed: str) -> None:
    lines = printed.splitlines()
    assert sorted(lines[:2]) == ["Hello ford!", "Hello marvin!"]
    assert lines[2:] == ["Hello one!", "Hello two!", "Hello three!"]


def check_dask_parallel(printed: str) -> None:
    assert sorted(re.findall("AAAA|BBBB", printed)) == ["AAAA"] * 15 + ["BBBB"] * 10
    assert re.search("BBBB.*AAAA.*BBBB", printed, re.S), "one after the other"


def check_dask_nested(printed: str) -> None:
    lines = printed.splitlines()
    assert sorted(lines[:2]) == ["Hello ford!", "Hello marvin!"]
    assert lines[2:] == ["Hello from Dask!"]


# Runs that are not executed because their values were kept.
CACHED = {"caching.py": ["square-0", "square-1"], "resume.py": ["measure-0", "measure-1"]}

CHECKS: dict[str, Callable[[str], None]] = {
    "dask_nested.py": check_dask_nested,
    "dask_parallel.py": check_dask_parallel,
    "elevator.py": lambda printed: check_elevator(printed, 3),
    "model_grid.py": check_model_grid,
    "nested_flows.py": check_nested_flows,
    "wait_for.py": check_wait_for,
}


def test_each_example_is_tested_and_listed() -> None:
    assert set(FILES) == {"demo.py", *EXACT, *CHECKS}
    page = (EXAMPLES / "README.md").read_text("utf-8")
    listed = re.findall(r"^\| \[(\w+\.py)\]\((\w+\.py)\) \|", page, re.M)
    assert all(text == target for text, target in listed)
    assert sorted(text for text, _ in listed) == FILES


@pytest.mark.parametrize("name", EXACT)
def test_prints_exactly(name: str, ran: Ran) -> None:
    assert ran(name)[0] == EXACT[name]


@pytest.mark.parametrize("name", CHECKS)
def test_prints(name: str, ran: Ran) -> None:
    CHECKS[name](ran(name)[0])


@pytest.mark.parametrize("name", sorted([*EXACT, *CHECKS]))
def test_leaves_a_complete_record(name: str, ran: Ran) -> None:
    root, below = recorded(ran(name)[1])
    assert (root.kind, root.state_name) == ("flow", "Completed")
    cached = [row for row in below if row.state_name == "Cached"]
    assert [row.run_name for row in cached] == CACHED.get(name, [])
    failed = [row.run_name for row in below if row.state_name not in ("Completed", "Cached")]
    assert failed == (["my_task-0"] if name == "result_or_exception.py" else [])
    assert below and all(row.ended is not None and row.attempts == (row not in cached) for row in below)


def test_grid_runs_have_the_names_of_their_template(ran: Ran) -> None:
    _, below = recorded(ran("model_grid.py")[1])
    assert sorted(row.run_name for row in below) == [
        f"train on {data} with {model}"
        for data in ("customers", "orders", "products")
        for model in ("gradient_boosting", "random_forest")
    ]


@pytest.mark.parametrize("workers", [3, 1])
def test_elevator_again_and_again(
    workers: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = imported("elevator.py")
    monkeypatch.setattr(module, "SECONDS_PER_FLOOR", 0.0005)
    elevator = module.elevator.with_options(task_runner=ThreadPoolTaskRunner(max_workers=workers))
    for _ in range(20):
        elevator()
        check_elevator(capsys.readouterr().out, workers)


def test_elevator_in_the_calling_thread(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    module = imported("elevator.py")
    monkeypatch.setattr(module, "SECONDS_PER_FLOOR", 0)
    module.elevator.with_options(task_runner=SequentialTaskRunner())()
    expected = "".join(
        f"elevator moving to floor {floor}\nelevator stops on floor {floor}\n" for floor in range(10, 0, -1)
    )
    assert capsys.readouterr().out == expected


class TestDemo:
    @pytest.fixture
    def library(self, tmp_path: Path) -> Path:
        files = {
            "plain.py": b"# Call ann@example.org or bob@example.org: this this that\n",
            "package/notes.txt": b"Write to ann@example.org.",
            "package/short.txt": b"a bc def",
            "package/data.json": b'{"ignored": "eve@example.org"}',
            "site-packages/other.py": b"# also ignored: eve@example.org",
            "__pycache__/cached.py": b"# also ignored: eve@example.org",
        }
        for name, content in files.items():
            path = tmp_path / "library" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return tmp_path / "library"

    def test_report(self, library: Path) -> None:
        report, _, rest = run("demo.py", str(library)).partition("\n$ penstock ls")
        inbox = re.search("for '(.*)damaged.py'", report)
        assert inbox is not None
        assert report.splitlines() == [
            "4 texts, 11 words of four letters and more",
            "Most frequent: example 4, this 2, coding 1, latin 1, call 1, that 1",
            "E-mail addresses: 3 different ones; most frequent:",
            "     2 ann@example.org",
            "     1 josé@example.org",
            "     1 bob@example.org",
            "Largest texts, in characters:",
            "         58 plain.py",
            "         54 old.py",
            "         25 notes.txt",
            "Files that could not be read: 1",
            f"  read damaged.py: invalid or missing encoding declaration for '{inbox[1]}damaged.py'",
        ]
        assert rest.endswith("Shorter examples: examples/README.md.\n")

    def test_record_tells_the_retry_and_the_failure(self, library: Path, own_store: Path) -> None:
        printed = run("demo.py", str(library))
        root, below = recorded(own_store)
        assert (root.name, root.state_name) == ("library-statistics", "Completed")
        assert [(row.run_name, row.state_name, row.attempts) for row in below] == [
            ("list_files-0", "Completed", 1),
            ("read damaged.py", "Failed", 2),
            ("read old.py", "Completed", 2),
            ("read plain.py", "Completed", 1),
            ("read notes.txt", "Completed", 1),
            ("read short.txt", "Completed", 1),
            ("measure-0[0]", "UpstreamFailed", 0),  # its template is for runs that begin
            ("measure old.py", "Completed", 1),
            ("measure plain.py", "Completed", 1),
            ("measure notes.txt", "Completed", 1),
            ("measure short.txt", "Completed", 1),
            ("summarize-0", "Completed", 1),
        ]
        assert below[1].error_type == "SyntaxError"
        assert f"{root.id[:8]}  {root.name}/{root.run_name}  Completed" in printed
        assert re.search(r"^read old\.py +Completed +2 ", printed, re.M)
        assert re.search(r"^  read old\.py, attempt 1 of 2: UnicodeDecodeError: 'utf-8' codec", printed, re.M)

    def test_standard_library(self, own_store: Path) -> None:
        printed = run("demo.py")
        root, below = recorded(own_store)
        states = Counter(row.state_name for row in below)
        number = re.match(r"([\d,]+) texts, ", printed)
        problems = re.search(r"^Files that could not be read: (\d+)$", printed, re.M)
        assert number is not None and problems is not None
        texts, failed = int(number[1].replace(",", "")), int(problems[1])
        assert texts > 500 and failed >= 1
        assert states == {"Completed": 2 * texts + 2, "Failed": failed, "UpstreamFailed": failed}
        assert "Most frequent: self " in printed
        assert root.state_name == "Completed"
