"""How tests are dealt out to several processes: by file, but only one of them has a Ray, a Dask cluster, a browser.

pytest-xdist has this by itself, as `--dist loadgroup`. With pytest 9.2 it overlooks all groups, without a word: each
process then started everything. And it hands out single tests, so that what a file shares was made in each process.
"""

from __future__ import annotations

import json
import os
import tempfile
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

FIXTURES = {"running_ray": "ray", "dask_address": "dask", "server": "postgres"}
"""What takes long to start, and lasts until its process ends: the name of its fixture, and of the group."""

FIRST = (
    "dask",
    "ray",
    "dashboard",
    "postgres",
    "tests/runners/test_dask_scripts.py",
    "tests/test_docs_pages.py",
    "tests/cli/test_cancel_command.py",
    "tests/test_runner_conformance.py",
    "tests/runners/test_dask_deaths.py",
    "tests/test_random_graphs.py",
    "tests/cli/test_export_html.py",
    "tests/crash/test_kill_sweep.py",
    "tests/api/test_signals.py",
    "tests/runners/test_process_deaths.py",
)
"""What takes longest begins first: at the end no process then waits long for the others."""


def group_of(item: pytest.Item) -> str:
    """The tests of a group are for one process, one after the other."""
    if marker := item.get_closest_marker("xdist_group"):
        return str(marker.args[0])
    if item.nodeid.startswith("tests/ui/"):
        return "dashboard"
    names = getattr(item, "fixturenames", ())
    for fixture, group in FIXTURES.items():
        if fixture in names or f"[{group}" in item.name:
            return group
    return item.nodeid.partition("::")[0]


class Channel:
    """A file in which a process that has collected the tests says what their groups are: only names of tests travel."""

    def __init__(self) -> None:
        self._file = Path(tempfile.gettempdir()) / f"penstock-groups-{uuid.uuid4().hex}.json"

    def open_for(self, node: Any) -> None:
        node.workerinput["groups"] = str(self._file)

    def close(self) -> None:
        self._file.unlink(missing_ok=True)

    def heard(self) -> dict[str, str]:
        found: dict[str, str] = json.loads(self._file.read_text("utf-8"))
        return found


def tell(config: pytest.Config, items: Iterable[pytest.Item]) -> None:
    """Say which groups the tests are in, if anybody wants to know. All processes say the same."""
    file = getattr(config, "workerinput", {}).get("groups")
    if file is not None:
        mine = Path(f"{file}.{os.getpid()}")
        mine.write_text(json.dumps({item.nodeid: group_of(item) for item in items}), "utf-8")
        mine.replace(file)  # so that nobody reads half of it


class Groups(LoadScopeScheduling):
    """Deals out group after group, those in `FIRST` before the others."""

    groups: Mapping[str, str] = {}

    def __init__(self, config: pytest.Config, log: Any, channel: Channel) -> None:
        super().__init__(config, log)
        self._channel = channel

    def schedule(self) -> None:
        if self.collection is None:
            self.groups = self._channel.heard()
        super().schedule()

    def _split_scope(self, nodeid: str) -> str:
        return self.groups[nodeid]

    def _assign_work_unit(self, node: Any) -> None:
        waiting = list(self.workqueue)
        self.workqueue.move_to_end(min(waiting, key=lambda group: _rank(group)), last=False)
        super()._assign_work_unit(node)


def _rank(group: str) -> int:
    return FIRST.index(group) if group in FIRST else len(FIRST)
