"""What the record says of the runs of a test, in a form that is easy to make assertions about."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import overload

from penstock import calls
from penstock.store.base import Reader, RunRow, StoreMissing

_MOST = 100_000  # rows that are read at once


class RecordedRun:
    """One flow run or task run, as it is recorded."""

    def __init__(self, row: RunRow, reader: Reader) -> None:
        self._row = row
        self._reader = reader

    @property
    def name(self) -> str:
        """The name of the task or flow."""
        return self._row.name

    @property
    def run_name(self) -> str:
        """The name of the run: "load-0", "load-1[3]", or what `task_run_name` made of it."""
        return self._row.run_name

    @property
    def kind(self) -> str:
        """ "flow" or "task"."""
        return self._row.kind

    @property
    def state(self) -> str:
        """The name of the state: "Completed", "Cached", "Failed", "TimedOut", ..."""
        return self._row.state_name

    @property
    def attempts(self) -> int:
        """How many attempts were started: 0 if the run was cached, or never started."""
        return self._row.attempts

    @property
    def attempt_states(self) -> list[str]:
        """The state in which each attempt ended: ["Failed", "Failed", "Completed"]."""
        return [row.state_name for row in self._reader.attempts(self._row.id) if row.run_id == self._row.id]

    @property
    def inputs(self) -> dict[str, str]:
        """The parameters as the record shows them: their `repr`, shortened, and masked if a name tells of a secret."""
        shown: dict[str, str] = json.loads(self._row.parameters)
        return shown

    @property
    def result(self) -> str | None:
        """The result as the record shows it; None if the run did not complete."""
        return self._row.result if self._row.status == "COMPLETED" else None

    @property
    def error(self) -> str | None:
        """What it failed with: "ValueError: no such path"; None if it did not."""
        return None if self._row.error_type is None else f"{self._row.error_type}: {self._row.error}"

    @property
    def logs(self) -> list[str]:
        """The lines that were logged in the run, without those of the runs below it."""
        lines = self._reader.logs(self._row.id, limit=_MOST)
        return [line.message for line in lines if line.run_id == self._row.id]

    @property
    def map_index(self) -> int | None:
        """Its place among the runs of one `map`; None if it is no part of one."""
        return self._row.map_index

    @property
    def tags(self) -> list[str]:
        """The tags, sorted."""
        tags: list[str] = json.loads(self._row.tags)
        return tags

    @property
    def cached(self) -> bool:
        """Was its result there already? Restored ones count, too."""
        return self._row.state_name == "Cached"

    @property
    def restored(self) -> bool:
        """Does the result come from an earlier life of a flow run that was resumed?"""
        if not self.cached or self._row.result_key is None:
            return False
        maker = self._reader.get(self._row.result_key)
        lives = {life.id for life in self._reader.lives(self._row.root_id)}
        return maker is not None and maker.root_id != self._row.root_id and maker.root_id in lives

    @property
    def waited_for(self) -> list[str]:
        """The names of the runs whose results it was given, or that were in its `wait_for`."""
        ids = [edge.upstream_id for edge in self._reader.edges(self._row.id) if edge.downstream_id == self._row.id]
        return [row.run_name for row in map(self._reader.get, ids) if row is not None]

    @property
    def parent(self) -> str | None:
        """The name of the run whose body called it; None if no run did."""
        row = None if self._row.parent_id is None else self._reader.get(self._row.parent_id)
        return None if row is None else row.run_name

    @property
    def seconds(self) -> float | None:
        """From the start of the first attempt to the end of the last, pauses included; None if it did not start."""
        started, ended = self._row.started, self._row.ended
        return None if started is None or ended is None else ended - started

    def __repr__(self) -> str:
        return f"<{self.run_name}: {self.state}>"


class RunList(Sequence[RecordedRun]):
    """Runs in the order in which they were called. What can be asked of one can be asked of all: a list of answers."""

    def __init__(self, runs: Sequence[RecordedRun]) -> None:
        self._runs = runs

    @property
    def states(self) -> list[str]:
        return [run.state for run in self._runs]

    @property
    def attempts(self) -> list[int]:
        return [run.attempts for run in self._runs]

    @property
    def inputs(self) -> list[dict[str, str]]:
        return [run.inputs for run in self._runs]

    @property
    def results(self) -> list[str | None]:
        return [run.result for run in self._runs]

    @property
    def errors(self) -> list[str | None]:
        return [run.error for run in self._runs]

    @property
    def logs(self) -> list[str]:
        """The lines of all of them, run by run."""
        return [line for run in self._runs for line in run.logs]

    @property
    def cached(self) -> list[bool]:
        return [run.cached for run in self._runs]

    @property
    def restored(self) -> list[bool]:
        return [run.restored for run in self._runs]

    @overload
    def __getitem__(self, index: int) -> RecordedRun: ...
    @overload
    def __getitem__(self, index: slice) -> RunList: ...
    def __getitem__(self, index: int | slice) -> RecordedRun | RunList:
        return RunList(self._runs[index]) if isinstance(index, slice) else self._runs[index]

    def __len__(self) -> int:
        return len(self._runs)

    def __repr__(self) -> str:
        return repr(list(self._runs))


class RecordedRuns:
    """All runs since some moment, by the name of their task or flow; read afresh whenever it is asked."""

    def __init__(self, before: frozenset[str] = frozenset()) -> None:
        self._before = before

    def __getitem__(self, name: str) -> RunList:
        """The runs of the task or flow with this name, or the run that has it itself; empty if there are none."""
        everything = self.all
        found = [run for run in everything if run.name == name]
        return RunList(found or [run for run in everything if run.run_name == name])

    @property
    def all(self) -> RunList:
        """All runs, each flow run before what it called."""
        reader = calls.process_recorder().reader
        roots = [row for row in _roots(reader) if row.id not in self._before]
        rows = [row for root in reversed(roots) for row in (root, *reader.tree(root.id, limit=_MOST))]
        return RunList([RecordedRun(row, reader) for row in rows])

    def __iter__(self) -> Iterator[RecordedRun]:
        return iter(self.all)

    def __len__(self) -> int:
        return len(self.all)

    def __repr__(self) -> str:
        return repr(self.all)


def recorded_runs() -> RecordedRuns:
    """The runs that are recorded from now on, in the store of this process. Complete when the root call has returned.

    >>> from penstock import flow, task
    >>> @task
    ... def double(x): return 2 * x
    >>> @flow
    ... def main(): return double.map([1, 2]).result()
    >>> with isolated_store():
    ...     runs = recorded_runs()
    ...     main()
    ...     runs["double"].states, runs["double"].inputs
    [2, 4]
    (['Completed', 'Completed'], [{'x': '1'}, {'x': '2'}])
    """
    return RecordedRuns(frozenset(row.id for row in _roots(calls.process_recorder().reader)))


def _roots(reader: Reader) -> Sequence[RunRow]:
    try:
        return reader.runs(limit=_MOST)
    except StoreMissing:
        return []
