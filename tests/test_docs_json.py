"""The page about JSON documents says what the commands print: which keys, and which fields below them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from pages import DOCS
from penstock.cli import main

PAGE = (DOCS / "json.md").read_text("utf-8")

SURVEY = """
from penstock import flow, get_run_logger, task

@task(retries=1)
def halve(number):
    get_run_logger().info("halving %s", number)
    return 2 / number

@task
def add_up(numbers):
    return sum(numbers)

@flow(persist_result=True)
def survey(numbers: list[int] = [1, 2]):
    return add_up(halve.map(numbers))
"""

ARGUMENTS = {
    "run": "survey.py:survey",
    "resume": "@last-failed -p numbers=[1]",
    "retry": "first -p numbers=[1]",
    "prune": "--dry-run",
    **dict.fromkeys(("show", "logs", "explain", "graph"), "@last-failed"),
    **dict.fromkeys(("result", "rerun", "cancel", "watch"), "@last"),
}
"""What follows the commands that want more than their name."""


def with_json(group: click.Group, *path: str) -> Iterator[str]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from with_json(command, *path, name)
        elif any("--json" in parameter.opts for parameter in command.params):
            yield " ".join([*path, name])


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What each command prints with `--json`, after a flow that failed and one that completed."""
    place = tmp_path_factory.mktemp("documents")
    (place / "survey.py").write_text(SURVEY, "utf-8")
    files = {name: place / f"{name.replace(' ', '_')}.json" for name in with_json(main)}
    script = [f"penstock run survey.py --name {name} -p 'numbers=[1,0]'" for name in ("first", "second")]
    script += [f"penstock {name} {ARGUMENTS.get(name, '')} --json >{file}" for name, file in files.items()]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PENSTOCK_HOME": str(place / "home")}
    subprocess.run(["bash", "-c", "\n".join(script)], cwd=place, env=environment, check=True, capture_output=True)
    texts = {name: file.read_text("utf-8") for name, file in files.items()}
    return {name: json.loads(text.splitlines()[0] if name == "logs" else text) for name, text in texts.items()}


def told() -> dict[str, str]:
    """What the page says about each command."""
    found: dict[str, str] = {}
    for commands, keys in re.findall(r"^\| (`penstock .*?) \| (.*) \|$", PAGE, re.M):
        found.update(dict.fromkeys(re.findall(r"`(?:penstock )?([\w ]+)`", commands), keys))
    return found


def fields(heading: str) -> set[str]:
    """The first column of a table."""
    section = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return set(re.findall(r"^\| `(\w+)` \|", section, re.M))


def parts() -> dict[str, set[str]]:
    """Of each part of a run, its fields."""
    section = PAGE.partition("## The parts of a run\n")[2].partition("\n## ")[0]
    found = {
        name: set(re.findall(r"`(\w+)`", cell))
        for name, cell in re.findall(r"^\| `(\w+)`.*? \| (.*) \|$", section, re.M)
    }
    found["edges"] -= {"data", "wait_for"}
    found["downstreams"] = found["edges"]
    return found


def test_every_document_is_told(documents: dict[str, Any]) -> None:
    assert set(told()) == set(documents)
    for name, document in documents.items():
        assert document["schema"] == 1
        if name != "logs":
            assert {key for key in document if f"`{key}`" not in told()[name]} == {"schema"}, name


def test_the_fields_of_runs_are_told(documents: dict[str, Any]) -> None:
    assert set(documents["show"]["run"]) == fields("A run")
    assert set(documents["ls"]["runs"][0]) == fields("A run") | {"tasks"}


def test_the_parts_of_a_run_are_told(documents: dict[str, Any]) -> None:
    shown = documents["show"]
    for part, names in parts().items():
        if part != "downstreams":
            assert set(shown[part][0]) == names, part
    assert set(documents["logs"]) == parts()["logs"] | set(re.findall(r"`(\w+)`", told()["logs"])) | {"schema"}


def test_a_kept_result_is_told(documents: dict[str, Any]) -> None:
    assert set(documents["result"]["kept"]) == fields("A kept result")
