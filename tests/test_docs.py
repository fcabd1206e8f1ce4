"""What README and the design page say is so: examples and their output, the table of a run's life, the map."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import penstock
from pages import DOCS, ROOT, steady
from penstock._core.machine import TRANSITIONS
from penstock.task_runners import Capabilities
from penstock.testing.conformance import RUNNER_CHECKS

README = (ROOT / "README.md").read_text("utf-8")
DESIGN = (DOCS / "design.md").read_text("utf-8")
OWN_RUNNER = (DOCS / "own_runner.md").read_text("utf-8")


def block(after: str, page: str = README) -> str:
    """The first fenced block after a line that begins so."""
    text = page[page.index(after) :]
    found = re.search(r"^```\w+\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found.group(1)


def run(*command: str, home: Path, status: int = 0) -> str:
    environment = {**os.environ, "PENSTOCK_HOME": str(home), "PYTHONUNBUFFERED": ""}
    done = subprocess.run(
        command, cwd=home, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60
    )
    assert done.returncode == status, done.stdout
    return done.stdout


def test_the_example_of_the_readme_prints_what_it_says(tmp_path: Path) -> None:
    (tmp_path / "census.py").write_text(block("`census.py`:"), "utf-8")
    printed = run(sys.executable, "census.py", home=tmp_path)
    assert ["$ python census.py", *steady(printed)] == steady(block("It prints its result"))
    shown = run(sys.executable, "-m", "penstock.cli", "show", "@last", home=tmp_path)
    promised = steady(block("The record tells the rest"))
    assert promised[0] == "$ penstock show @last"
    assert steady(shown)[: len(promised) - 1] == promised[1:]


def test_the_flow_of_the_readme_survives_its_death(tmp_path: Path) -> None:
    (tmp_path / "squares.py").write_text(block("`squares.py`:"), "utf-8")
    killed = run(sys.executable, "squares.py", home=tmp_path, status=-signal.SIGKILL)
    (tmp_path / "more-memory").touch()
    resumed = run(sys.executable, "-m", "penstock.cli", "resume", "@last", home=tmp_path)
    typed = ["Killed", "$ touch more-memory", "$ penstock resume @last"]  # and what the shell says
    promised = steady(block("What was completed before the kill"))
    assert ["$ python squares.py", *steady(killed), *typed, *steady(resumed)] == promised


def test_the_table_of_the_design_page_is_the_machines() -> None:
    table, status, event = [], "", ""
    rows = DESIGN[DESIGN.index("| status | event |") :].split("\n\n")[0].splitlines()[2:]
    for row in rows:
        first, second, guard, target, command = (cell.strip() for cell in row.strip("|").split("|"))
        status, event = first or status, second.partition(":")[0] or event
        table.append((status, event, bool(guard), target, command))
    assert table == [
        (before.name, event.name, rule.guard is not None, rule.status.name, rule.command.name)
        for (before, event), rules in TRANSITIONS.items()
        for rule in rules
    ]


def test_the_runner_on_its_page_is_the_example() -> None:
    assert block("## An example", OWN_RUNNER) == (ROOT / "examples" / "own_runner.py").read_text("utf-8")


def test_the_page_of_runners_names_every_capability() -> None:
    fields = dataclasses.fields(Capabilities)
    told = re.findall(r"^\| `(\w+)` \| (yes|no) \|", OWN_RUNNER, re.M)
    assert sorted(told) == sorted((field.name, "yes" if field.default else "no") for field in fields)


def test_the_conformance_tests_of_that_page_find_the_checks(tmp_path: Path) -> None:
    (tmp_path / "test_own.py").write_text(block("## Testing it", OWN_RUNNER), "utf-8")
    (tmp_path / "own_runner.py").write_text(block("## An example", OWN_RUNNER), "utf-8")
    command = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_own.py")
    printed = run(*command, "-k", "returns_values or duplicates_are_equal", home=tmp_path)
    assert f"2 passed, {len(RUNNER_CHECKS) - 2} deselected" in printed


# Small helpers, and what belongs together with something that is named.
LEFT_OUT = {"_core/errors", "_engine/ids", "_engine/upstream", "words", "store/text"}
LEFT_OUT |= {"task_runners/guard", "task_runners/versions"}


def on_the_map() -> set[str]:
    """Modules and rooms that the map names; in the rows of a room, the modules inside it that are explained."""
    found: set[str] = set()
    page = DESIGN[DESIGN.index("## The map") : DESIGN.index("Imports point down")]
    for row in re.findall(r"^\| (`.*?) \| (.*) \|$", page, re.M):
        names = re.findall(r"`([\w/]+)`", row[0])
        found.update(name.rstrip("/") for name in names)
        rooms = [name for name in names if name.endswith("/")]
        found.update(room + name for room in rooms for name in re.findall(r"`([a-z_]+)`", row[1]))  # no classes
    return found


@pytest.mark.parametrize(("room", "page"), [("cli", "design_daily.md"), ("ui", "design_dashboard.md")])
def test_the_maps_of_the_other_design_pages_name_every_module(room: str, page: str) -> None:
    modules = {f"{room}/{path.stem}" for path in (Path(penstock.__file__).parent / room).glob("*.py")}
    named = set(re.findall(r"`([\w/]+)`", (ROOT / "docs" / page).read_text("utf-8")))
    assert {module for module in modules if "__" not in module} - named == set()


def test_the_map_of_the_design_page_names_every_module() -> None:
    package = Path(penstock.__file__).parent
    modules = {path.relative_to(package).with_suffix("").as_posix() for path in package.rglob("*.py")}
    told = {module for module in modules if not module.rpartition("/")[2].startswith("__")}
    told = {module for module in told if not module.startswith(("testing/", "cli/", "ui/"))}
    named = on_the_map()
    assert told - named == LEFT_OUT
    files = {path.relative_to(package).as_posix() for path in package.rglob("*")}
    assert {name for name in named if not {name, f"{name}.py"} & files} == set()
