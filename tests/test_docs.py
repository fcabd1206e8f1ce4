"""What the pages say is what happens: the README's example with its output, and the table of a run's life."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

from penstock._core.machine import TRANSITIONS
from penstock.task_runners import Capabilities
from penstock.testing.conformance import RUNNER_CHECKS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
DESIGN = (ROOT / "docs" / "design.md").read_text("utf-8")
OWN_RUNNER = (ROOT / "docs" / "own_runner.md").read_text("utf-8")

# What differs from run to run.
CHANGES = {
    r"\d\d:\d\d:\d\d(\.\d+)?": "TIME",
    r"\d\d\d\d-\d\d-\d\d": "DATE",
    r"census/[a-z]+-[a-z]+": "census/NAME",
    r"\b[0-9a-f]{32}\b": "ID",
    r"[\d.e-]+ m?s\b": "DURATION",
    r" +": " ",
}


def block(after: str, page: str = README) -> str:
    """The first fenced block after a line that begins so."""
    text = page[page.index(after) :]
    found = re.search(r"^```\w+\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found.group(1)


def steady(text: str) -> list[str]:
    for pattern, replacement in CHANGES.items():
        text = re.sub(pattern, replacement, text)
    return [line.strip() for line in text.strip().splitlines()]


def run(*command: str, home: Path) -> str:
    environment = {**os.environ, "PENSTOCK_HOME": str(home), "PYTHONUNBUFFERED": ""}
    done = subprocess.run(
        command, check=True, cwd=home, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    return done.stdout


def test_the_example_of_the_readme_prints_what_it_says(tmp_path: Path) -> None:
    (tmp_path / "census.py").write_text(block("`census.py`:"), "utf-8")
    printed = run(sys.executable, "census.py", home=tmp_path)
    assert ["$ python census.py", *steady(printed)] == steady(block("It prints its result"))
    shown = run(sys.executable, "-m", "penstock.cli", "show", "@last", home=tmp_path)
    promised = steady(block("The record tells the rest"))
    assert promised[0] == "$ penstock show @last"
    assert steady(shown)[: len(promised) - 1] == promised[1:]


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


def test_the_code_on_the_page_of_clusters() -> None:
    page = (ROOT / "docs" / "clusters.md").read_text("utf-8")
    blocks = re.findall(r"^```python( no-run)?\n(.*?)^```", page, re.M | re.S)
    assert len(blocks) > 5
    for no_run, code in blocks:
        compile(code, "clusters.md", "exec")
        if not no_run:
            done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
            assert done.stdout.splitlines() == re.findall(r"print\(.*\)  # (.*)", code)
