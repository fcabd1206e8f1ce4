"""What must be true of a store after its process has died: told from the store, and from what witnesses have seen.

Witnesses are a file that bodies write to and a pipe that callers write to; both outlive whoever wrote.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections import Counter
from collections.abc import Container, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import crash_flows

from penstock._engine.archive import Archive
from penstock._engine.past import Place
from penstock._engine.recorder import Recorder
from penstock.exceptions import StoreUnavailable
from penstock.recovery import recover
from penstock.store.base import RunRow, StoreMissing
from penstock.store.sqlite import SQLiteStore

TRUTHS = crash_flows.truths()


class Scene:
    """The directory in which one run lives and dies, any number of times."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.directory = directory
        self.home = directory / "home"
        self.bodies = directory / "bodies"
        self.bodies.touch()
        self._pipe = directory / "acknowledgements"
        os.mkfifo(self._pipe)
        self._reading = os.open(self._pipe, os.O_RDONLY | os.O_NONBLOCK)
        self.life = 0
        self.outcome = directory / "outcome"

    def begin_life(self) -> dict[str, str]:
        """The environment of the next process."""
        self.life += 1
        return {
            "PENSTOCK_HOME": str(self.home),
            "PENSTOCK_LOGGING_LEVEL": "WARNING",
            "CRASH_MESSAGES": str(self.messages_file),
            "CRASH_OUTCOME": str(self.outcome),
            crash_flows.BODIES: str(self.bodies),
            crash_flows.ACKNOWLEDGEMENTS: str(self._pipe),
            crash_flows.LIFE: str(self.life),
        }

    @property
    def watched(self) -> dict[str, str]:
        return {str(self._pipe): "acknowledgement", str(self.bodies): "body"}

    @property
    def messages_file(self) -> Path:
        return self.directory / f"messages-{self.life}"

    @property
    def messages(self) -> str:
        """What the process of this life has said."""
        return self.messages_file.read_text(errors="replace") if self.messages_file.exists() else ""

    def acknowledged(self) -> list[str]:
        """What callers have seen since this was last asked."""
        text = b""
        while True:
            try:
                part = os.read(self._reading, 65536)
            except BlockingIOError:
                break
            if not part:  # nobody has it open for writing
                break
            text += part
        return [line.partition(" ")[2] for line in text.decode().splitlines()]

    def executed(self) -> list[tuple[int, str]]:
        """(life, run name) for each time that a body was executed."""
        lines = (line.partition(" ") for line in self.bodies.read_text().splitlines())
        return [(int(life), name) for life, _, name in lines]

    def close(self) -> None:
        os.close(self._reading)


@dataclass
class Findings:
    """What is wrong, as lines to read; nothing, if it is right."""

    lost: list[str] = field(default_factory=list)  # acknowledged, and not kept
    wrong: list[str] = field(default_factory=list)  # kept, and not readable or not what was returned
    repeated: list[str] = field(default_factory=list)  # executed although it was acknowledged or kept
    stuck: list[str] = field(default_factory=list)  # the store is damaged, or the run cannot be gone on with

    def __add__(self, other: Findings) -> Findings:
        return Findings(
            self.lost + other.lost,
            self.wrong + other.wrong,
            self.repeated + other.repeated,
            self.stuck + other.stuck,
        )

    @property
    def all(self) -> list[str]:
        return [*self.lost, *self.wrong, *self.repeated, *self.stuck]


@dataclass
class State:
    """What a store says of its latest run."""

    root: RunRow | None
    rows: dict[str, RunRow]  # completed runs, by name
    kept: dict[str, Any]  # run name -> value
    findings: Findings

    @property
    def is_complete(self) -> bool:
        return self.root is not None and self.root.status == "COMPLETED"


def examine(home: Path) -> State:
    """Correct the record as every reader does first, and read all of it."""
    recover(home)
    store = SQLiteStore(home)
    recorder = Recorder(lambda: store)
    try:
        return _examined(home, store, Archive(home, recorder))
    except StoreMissing:
        return State(None, {}, {}, Findings())
    except StoreUnavailable as error:
        return State(None, {}, {}, Findings(stuck=[f"the store cannot be read: {error}"]))
    finally:
        recorder.close()
        store.close()


def _examined(home: Path, store: SQLiteStore, archive: Archive) -> State:
    roots = store.runs(limit=1)
    findings = Findings(stuck=list(_damage(home)))
    if not roots:
        return State(None, {}, {}, findings)
    root = roots[0]
    if root.ended is None:
        findings.stuck.append(f"the run is {root.status} although its process is dead")
    rows: dict[str, RunRow] = {}
    kept: dict[str, Any] = {}
    for row in [root, *store.tree(root.id)]:
        if root.ended is not None and row.ended is None:
            findings.stuck.append(f"{row.run_name} is {row.status} although its process is dead")
        if row.status != "COMPLETED":
            continue
        rows[row.run_name] = row
        if row.result_key is not None:
            _read(archive, row, kept, findings)
    return State(root, rows, kept, findings)


def _read(archive: Archive, row: RunRow, kept: dict[str, Any], findings: Findings) -> None:
    assert row.result_key is not None
    try:
        value = archive.read(Place(row.result_key, row.result_storage))
    except Exception as error:
        findings.wrong.append(f"{row.run_name} is COMPLETED, its value is not readable: {error!r}")
        return
    if value != TRUTHS[row.run_name]:
        findings.wrong.append(f"{row.run_name} is kept as {str(value)[:50]}")
    kept[row.run_name] = value


def _damage(home: Path) -> Iterator[str]:
    with closing(sqlite3.connect(home / "penstock.db")) as connection:
        answers = [line for (line,) in connection.execute("PRAGMA integrity_check")]
    if answers != ["ok"]:
        yield f"the database is damaged: {answers[:3]}"


def losses(acknowledged: list[str], state: State, restorable: Container[str]) -> Findings:
    """What callers of this life have seen and its record lacks.

    `restorable`: what earlier lives have kept. That this one, too, has seen it may be missing from the record.
    """
    found = Findings()
    for name in acknowledged:
        if name.startswith("answer "):
            flow = "main" if state.root is None else state.root.run_name
            if json.loads(name.removeprefix("answer ")) != TRUTHS[flow]:
                found.wrong.append(f"the flow returned {name[:80]}")
            name = flow
        if name in restorable:
            continue
        if name not in state.rows:
            found.lost.append(f"{name} was acknowledged and is not recorded as completed")
        elif name not in state.kept:
            found.lost.append(f"{name} was acknowledged and its value is not kept")
    return found


def repeats(scene: Scene, done: dict[str, int]) -> Findings:
    """What was executed although it was done in an earlier life. `done`: run name -> life."""
    found = Findings()
    executed = scene.executed()
    for life, name in executed:
        if life > done.get(name, life):
            found.repeated.append(f"{name} was done in life {done[name]} and executed again in life {life}")
    for (life, name), times in Counter(executed).items():
        if times > 1:
            found.repeated.append(f"{name} was executed {times} times in life {life}")
    return found
