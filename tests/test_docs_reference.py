"""The reference is complete: every public name, option, command, setting and state is explained, with an example."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import itertools
import re
import sys
from collections.abc import Iterator

import click
import pytest

from pages import DOCS, ROOT, blocks_of
from penstock._core.machine import TRANSITIONS, Reason
from penstock._engine.run import _shown_as
from penstock.cli import main as command_line
from penstock.cli.common import EXIT_STATUSES
from penstock.flows import Flow
from penstock.settings.reference import entries
from penstock.states import Status
from penstock.tasks import Task
from test_public_surface import PUBLIC

sys.path.insert(0, str(DOCS / "_ext"))
import commands
import machine

PAGES = {path.relative_to(DOCS).as_posix(): path.read_text("utf-8") for path in DOCS.rglob("*.md")}
BLOCKS = [block for page in PAGES.values() for block in blocks_of(page)]


def rows(page: str, heading: str) -> dict[str, list[str]]:
    """The table below a heading: the cells of each row by the code in its first one."""
    section = PAGES[page].partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in re.findall(r"^\| .*", section, re.M)]
    return {found[1]: line for line in lines if (found := re.match(r"`([\w.]+)", line[0]))}


# --- names ---

# What users meet, or test for, but do not call: an example would show nothing.
SELF_EVIDENT = {"penstock.states": "Scheduled AwaitingRetry Pending Running Retrying Crashed Cancelling Cancelled"}


def used_in_blocks() -> set[str]:
    """Every name that the code on the pages uses."""
    code = [block.code for block in BLOCKS if block.language == "python" and "no-run" not in block.flags]
    nodes = [node for text in code for node in ast.walk(ast.parse(text))]
    imported = {alias.name for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names}
    return imported | {node.attr for node in nodes if isinstance(node, ast.Attribute)}


def test_every_public_name_has_an_example_that_runs() -> None:
    used = used_in_blocks()
    without = []
    for module, name in PUBLIC:
        found = getattr(importlib.import_module(module), name)
        is_error = inspect.isclass(found) and issubclass(found, BaseException)
        shown = ">>>" in (inspect.getdoc(found) or "") or name in used
        if not (shown or is_error or name in SELF_EVIDENT.get(module, "").split()):
            without.append(f"{module}.{name}")
    assert without == []


RUN_ELSEWHERE = "check_runner"  # all of a conformance suite: see test_runner_conformance.py


def examples() -> Iterator[doctest.DocTest]:
    """The doctests of the docstrings of public names and of their members."""
    finder = doctest.DocTestFinder()
    offered = {name: getattr(importlib.import_module(module), name) for module, name in PUBLIC}
    seen = set[int]()
    for module, name in PUBLIC:
        found = getattr(importlib.import_module(module), name)
        if name == RUN_ELSEWHERE or id(found) in seen or not (inspect.isclass(found) or inspect.isroutine(found)):
            continue
        seen.add(id(found))
        home = sys.modules[found.__module__]
        names = {**offered, **vars(home)}
        yield from (test for test in finder.find(found, f"{module}.{name}", home, names) if test.examples)


def test_the_examples_of_docstrings_are_right() -> None:
    said: list[str] = []
    for test in examples():
        doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=said.append)
    assert "".join(said) == ""


def test_every_public_module_has_its_page() -> None:
    told = re.findall(r"^<!-- generated: api (\S+) -->$", "\n".join(PAGES.values()), re.M)
    assert len(told) == len(set(told))
    assert set(told) - {"penstock.logging", "penstock.store.upkeep"} == {module for module, _ in PUBLIC}


# --- options, states, settings ---


def test_every_option_of_tasks_and_flows_is_told() -> None:
    task_only, flow_only = rows("options.md", "Of tasks only"), rows("options.md", "Of flows only")
    both = rows("options.md", "Of tasks and flows")
    assert {*both, *task_only} == Task._option_names()
    assert {*both, *flow_only} == Flow._option_names()
    assert not set(both) & {*task_only, *flow_only}
    assert set(task_only) == Task._option_names() - Flow._option_names()


def test_the_keywords_of_calls_are_told() -> None:
    told = rows("options.md", "Of a call")
    ways = {"call": Task.__call__, "submit": Task.submit, "map": Task.map, "imap": Task.imap}
    for way, method in ways.items():
        keywords = {p.name for p in inspect.signature(method).parameters.values() if p.kind is p.KEYWORD_ONLY}
        assert keywords == {name for name, cells in told.items() if re.search(rf"\b{way}\b", cells[1])}


def test_every_state_is_told() -> None:
    reached = {(rule.status, rule.reason) for rules in TRANSITIONS.values() for rule in rules}
    possible = itertools.product([(Status.PENDING, Reason.NONE), *reached], (1, 2), (False, True))
    names = {name: kind.value for facts, *rest in possible for kind, name in [_shown_as(*facts, *rest)]}
    told = dict(re.findall(r"^\| `(\w+)` \| ([A-Z]+) \| [A-Z]+ \|", PAGES["states.md"], re.M))
    assert told == {**names, "RolledBack": "COMPLETED"}


def test_every_setting_is_explained() -> None:
    assert all(entry.help.endswith(".") and entry.variable.startswith("PENSTOCK_") for entry in entries())


# --- the command line ---


def all_commands(group: click.Group, *path: str) -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield " ".join([*path, name]), command
        if isinstance(command, click.Group):
            yield from all_commands(command, *path, name)


def test_every_command_and_option_is_explained() -> None:
    lacking = [f"{name}: {what}" for name, command in all_commands(command_line) for what in lacks(name, command)]
    assert lacking == []


def lacks(name: str, command: click.Command) -> Iterator[str]:
    help_text = command.help or ""
    if not re.match(r"[A-Z].*[.:]", help_text, re.S):
        yield "a text"
    if not isinstance(command, click.Group) and f"penstock {name}" not in help_text:
        yield "an example"
    yield from (
        f"what {'/'.join(parameter.opts)} means"
        for parameter in command.params
        if isinstance(parameter, click.Option) and not parameter.help
    )


def test_the_page_of_commands_has_all_of_them() -> None:
    page = commands.page()
    for name, command in all_commands(command_line):
        section = page.partition(f"# penstock {name}\n")[2].partition("\n## ")[0]
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert all(f"{option}" in section for option in parameter.opts), parameter.opts


def test_the_page_of_commands_tells_the_exit_statuses() -> None:
    told = rows("commands.md", "Exit status")
    for status, number in EXIT_STATUSES.items():
        assert status.lower() in told[str(number)][1]


# --- the machine ---


def test_the_picture_shows_every_rule() -> None:
    picture, table = machine.drawing(), machine.table()
    for (before, event), rules in TRANSITIONS.items():
        assert f"`{event.name}`: " in table
        for rule in rules:
            (edge,) = (edge for edge in machine.edges() if (edge.before, edge.after) == (before, rule.status))
            assert re.search(rf"\b{event.name}\b", edge.label)
    assert picture.count("<path class=") == len(machine.edges())
    assert table.count("\n") == 1 + sum(map(len, TRANSITIONS.values()))


def test_the_picture_changes_with_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    first = next(iter(TRANSITIONS))
    monkeypatch.setattr(machine, "TRANSITIONS", {key: rules for key, rules in TRANSITIONS.items() if key != first})
    assert "READY" not in machine.drawing()


# --- the repository's own pages ---


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "examples/README.md"])
def test_links_to_files_lead_somewhere(name: str) -> None:
    page = ROOT / name
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text("utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_pages_of_the_documentation_say_only_what_is_public() -> None:
    code = "\n".join(block.code for block in BLOCKS if block.language == "python")
    assert re.findall(r"\bpenstock\._\w+", code) == []
