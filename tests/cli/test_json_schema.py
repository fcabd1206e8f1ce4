"""The fields of every JSON document, written down: programs rely on them.

A field that goes away or changes its meaning needs a higher `SCHEMA`; one that is new needs a line here.
"""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from looking import penstock

from penstock.cli import main
from penstock.cli.text import SCHEMA

ANYTHING = "anything"  # names that are the user's, or values of any form

RUN = {
    **dict.fromkeys(("id", "root_id", "parent_id", "flow_run_id", "kind", "name", "run_name", "key", "map_index")),
    **dict.fromkeys(("status", "state_name", "attempts", "created", "ready", "started", "attempt_started", "ended")),
    **dict.fromkeys(("message", "error_type", "error", "traceback", "result", "version", "owner", "resumed_from")),
    **dict.fromkeys(("position", "result_key", "result_storage", "code")),
    **dict.fromkeys(("parameters", "tags", "info"), ANYTHING),
}
ATTEMPT = dict.fromkeys(
    ("run_id", "number", "started", "ended", "state_name", "error_type", "error", "traceback"),
)
EDGE = dict.fromkeys(("downstream_id", "upstream_id", "kind", "parameter"))
KEPT = dict.fromkeys(
    ("key", "storage", "computed_by", "cache_key", "serializer", "size", "created", "expires", "trouble"),
)
EXPLANATION = {subject: [None] for subject in ("ran", "waited", "attempts", "longest", "cache")}
NODE = dict.fromkeys(("id", "kind", "name", "parent"))
GRAPH = {"title": None, "of": None, "edges": [dict.fromkeys(("source", "target", "kind", "number"))]}

DOCUMENTS: dict[str, Any] = {
    "ls": {"runs": [{**RUN, "tasks": ANYTHING}], "next": None},
    "show @last": {
        "run": RUN,
        "runs": [RUN],
        "attempts": [ATTEMPT],
        "edges": [EDGE],
        "downstreams": [],
        "kept": KEPT,
        "logs": [dict.fromkeys(("run_id", "time", "level", "logger", "message"))],
    },
    "show @last/half-0": {
        "run": RUN,
        "runs": [],
        "attempts": [ATTEMPT],
        "edges": [],
        "downstreams": [EDGE],
        "kept": KEPT,
        "logs": [],
    },
    "logs @last -n 1": dict.fromkeys(
        ("number", "run_id", "time", "level", "logger", "message", "kind", "name", "run_name", "level_name"),
    ),
    "result @last": {"run": None, "run_name": None, "kept": KEPT, "shown": None, "value": None, "load": [None]},
    "explain @last/half-1": {"run": RUN, "explanation": EXPLANATION},
    "graph @last": {**GRAPH, "nodes": [{**NODE, "runs": None, "fates": ANYTHING}]},
    "graph etl.py:etl": {**GRAPH, "nodes": [{**NODE, "lines": [None], "ways": [None]}]},
    "watch @last": {"run": RUN},
    "cancel @last": {"run": RUN},
    "prune --dry-run": dict.fromkeys(
        ("dry_run", "root_runs", "runs", "results", "files", "bytes"),
    ),
    "check": {"store": None, "problems": []},
    "version": dict.fromkeys(("penstock", "platform", "python", "sqlite")),
}
RUNS = {"run": RUN, "restored": None}
"""What commands print that run a flow."""


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `etl.py` is, and a store in which it has run."""
    made = tmp_path_factory.mktemp("schema")
    (made / "etl.py").write_text(
        textwrap.dedent(
            """
            from penstock import flow, task

            @task(retries=1, persist_result=True)
            def half(n):
                if n == 3 and not half.tried:
                    half.tried = True
                    raise ValueError("odd")
                return n / 2

            half.tried = False

            @flow(persist_result=True)
            def etl(n: int = 6):
                return half(half.submit(n))
            """
        )
    )
    return made


@pytest.fixture
def run(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory and the store are those of `directory`."""
    monkeypatch.chdir(directory)
    monkeypatch.setenv("PENSTOCK_HOME", str(directory / "home"))
    if not (directory / "home").exists():
        executed("run etl.py:etl")
    yield directory


def executed(command: str) -> Any:
    arguments = [sys.executable, "-m", "penstock.cli", *command.split(), "--json"]
    return json.loads(subprocess.run(arguments, capture_output=True, text=True, check=False).stdout)


def misfits(document: Any, expected: Any, place: str = "document") -> Iterator[str]:
    """What is not as it is written down."""
    if expected == ANYTHING:
        return
    if isinstance(expected, dict):
        if not isinstance(document, dict) or set(document) != set(expected):
            fields = sorted(document) if isinstance(document, dict) else repr(document)
            yield f"{place} has {fields}, not {sorted(expected)}"
            return
        for name, shape in expected.items():
            yield from misfits(document[name], shape, f"{place}.{name}")
    elif isinstance(expected, list):
        if not isinstance(document, list) or (bool(document) and not expected):
            yield f"{place} is {document!r:.100}"
            return
        for item in document:
            yield from misfits(item, expected[0], f"{place}[]")
    elif isinstance(document, dict | list):
        yield f"{place} is {document!r:.100}"


@pytest.mark.parametrize("command", DOCUMENTS)
def test_fields_are_those_that_are_written_down(run: Path, command: str) -> None:
    result = penstock(*command.split(), "--json")
    assert result.exit_code == 0, result.output
    assert list(misfits(json.loads(result.stdout), {"schema": None, **DOCUMENTS[command]})) == []


def test_fields_of_commands_that_run_a_flow(run: Path) -> None:
    for command in ("run etl.py:etl", "rerun @last"):  # the others print the same, where there is something to do
        document = executed(command)
        assert list(misfits(document, {"schema": None, **RUNS})) == [], command


def test_the_lists_are_not_empty_by_chance(run: Path) -> None:
    """Else nothing would be known about the fields of their items."""
    document = json.loads(penstock("show", "@last", "--json").stdout)
    assert all(document[name] for name in ("runs", "attempts", "edges", "logs"))
    assert json.loads(penstock("graph", "etl.py:etl", "--json").stdout)["edges"]


def test_the_version_of_the_documents() -> None:
    assert SCHEMA == 1


def test_every_command_with_json_is_written_down() -> None:
    elsewhere = {"config", "doctor"}  # tested with their commands
    written = {command.split()[0] for command in DOCUMENTS} | {"run", "rerun", "retry", "resume"} | elsewhere
    context = click.Context(main)
    for name in main.list_commands(context):
        command = main.get_command(context, name)
        assert command is not None
        has_json = any("--json" in parameter.opts for parameter in command.params)
        assert name in written or not has_json, f"write down what `penstock {name} --json` prints"


@pytest.mark.parametrize(
    ("document", "expected", "said"),
    [
        ({"a": 1}, {"a": None, "b": None}, "document has ['a'], not ['a', 'b']"),
        ({"a": {"b": 1}}, {"a": None}, "document.a is {'b': 1}"),
        ({"a": [{"b": 1}]}, {"a": [{"c": None}]}, "document.a[] has ['b'], not ['c']"),
        ({"a": [1]}, {"a": []}, "document.a is [1]"),
        ([], {"a": None}, "document has [], not ['a']"),
    ],
)
def test_a_change_would_be_seen(document: Any, expected: Any, said: str) -> None:
    assert list(misfits(document, expected)) == [said]
