"""What is shared is made by one process of a test run, and long files do not come last."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from groups import FIRST, Channel, Groups, group_of, tell

ROOT = Path(__file__).parents[1]
FILES = {f"tests/test_{name}.py::test_{number}": f"tests/test_{name}.py" for name in "abc" for number in range(5)}


class Node:
    """A process, as a scheduler sees it."""

    shutting_down = False

    def __init__(self, name: str) -> None:
        self.gateway = SimpleNamespace(id=name)
        self.workerinput: dict[str, Any] = {}
        self.sent: list[int] = []

    def send_runtest_some(self, indices: list[int]) -> None:
        self.sent += indices

    def shutdown(self) -> None:
        self.shutting_down = True


def dealt_out(groups: Mapping[str, str]) -> list[list[str]]:
    """The groups of the tests of each of two processes, in order, if both are equally fast."""
    channel, nodes = Channel(), [Node("one"), Node("two")]
    config: Any = SimpleNamespace(
        getvalue=lambda name: ["popen", "popen"], option=SimpleNamespace(loadscopereorder=True)
    )
    scheduler: Any = Groups(config, None, channel)
    names = list(groups)
    try:
        for node in nodes:
            channel.open_for(node)
            items: Any = [SimpleNamespace(nodeid=name, get_closest_marker=marker_of(groups[name])) for name in names]
            tell(SimpleNamespace(workerinput=node.workerinput), items)  # type: ignore[arg-type]
            scheduler.add_node(node)
            scheduler.add_node_collection(node, names)
        scheduler.schedule()
    finally:
        channel.close()
    for turn in range(len(names)):
        for node in nodes:
            if turn < len(node.sent):
                scheduler.mark_test_complete(node, node.sent[turn])
    return [[groups[names[index]] for index in node.sent] for node in nodes]


def marker_of(group: str) -> Any:
    return lambda name: SimpleNamespace(args=[group])


def test_a_group_is_for_one_process() -> None:
    groups = {**FILES, **{f"{name}[ray]": "ray" for name in FILES}, **{f"{name}[dask]": "dask" for name in FILES}}
    one, two = dealt_out(groups)
    assert len(one) + len(two) == len(groups)
    assert not set(one) & set(two)


def test_what_takes_longest_comes_first() -> None:
    last = {f"{name}[last]": "dask" for name in list(FILES)[:2]}  # less tests than a file has
    assert "dask" in [found[0] for found in dealt_out({**FILES, **last})]


def item(name: str, *fixtures: str, marker: Any = None) -> Any:
    return SimpleNamespace(nodeid=name, name=name, fixturenames=fixtures, get_closest_marker=lambda name: marker)


@pytest.mark.parametrize(
    ("of", "group"),
    [
        (item("tests/test_a.py::test_it"), "tests/test_a.py"),
        (item("tests/test_a.py::test_it[x::y]", "own_store"), "tests/test_a.py"),
        (item("tests/test_a.py::test_it", "running_ray"), "ray"),
        (item("tests/test_a.py::test_it[ray]"), "ray"),
        (item("tests/test_a.py::test_it[dask-2]"), "dask"),
        (item("tests/ui/test_a.py::test_it", "server"), "dashboard"),
        (item("tests/test_a.py::test_it", "running_ray", marker=SimpleNamespace(args=["own"])), "own"),
    ],
    ids=range(7),
)
def test_the_group_of_a_test(of: Any, group: str) -> None:
    assert group_of(of) == group


def test_what_comes_first_is_there() -> None:
    assert [name for name in FIRST if "/" in name and not (ROOT / name).exists()] == []
