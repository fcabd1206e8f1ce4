"""What earlier lives of a root run have completed: found again by position."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple

from penstock.exceptions import StoreUnavailable

if TYPE_CHECKING:
    from penstock._engine.recorder import Recorder

_logger = logging.getLogger("penstock")


class Place(NamedTuple):
    """Where a value is kept."""

    key: str  # the address of its row, or its key in a storage
    storage: str | None  # the storage; None: the store of the record


class Found(NamedTuple):
    """What an earlier life has completed."""

    place: Place
    code: str | None  # digest of the code that did


class Label(NamedTuple):
    """What a kept value says about itself."""

    address: str  # id of the run that made it
    cache_key: str | None
    task_key: str  # identity of the task
    created: float
    expires: float | None
    ingredients: dict[str, Any] | None  # what the key was made of


class Past:
    """The kept values of some root runs' trees. Thread-safe; read from the store when first asked."""

    def __init__(
        self,
        recorder: Recorder | None = None,
        lives: Sequence[str] = (),
        rerun: Collection[str] = (),
        starts: Collection[str] = (),
        entered: Collection[str] = (),
    ) -> None:
        """`lives`: ids of root runs, the latest first. `rerun`: names of tasks that are not restored; of those in
        `starts`, what depends on them is not restored either. `entered`: positions of runs that are not restored.
        """
        self.rerun = frozenset(rerun)
        self.starts = frozenset(starts)
        self.entered = frozenset(entered)
        self.lives = tuple(lives)
        self._recorder = recorder
        self._reading = Lock()
        self._found: dict[str, Found] | None = None if lives else {}

    def at(self, position: str) -> Found | None:
        """The value of the run that was there; None if there was none, or none was kept."""
        found = self._found
        if found is None:
            with self._reading:
                if self._found is None:
                    self._found = self._read()
                found = self._found
        return found.get(position)

    def executes(self, name: str, position: str) -> bool:
        """Whether the run of this name that is there is to be executed whatever is known about it."""
        return name in self.rerun or position in self.entered

    def again(self, recorder: Recorder, life: str) -> Past:
        """The past of another attempt at the root run `life`."""
        others = [other for other in self.lives if other != life]
        return Past(recorder, (life, *others), self.rerun, self.starts, self.entered)

    def _read(self) -> dict[str, Found]:
        assert self._recorder is not None
        try:
            self._recorder.commit()  # of the attempt before this one, everything
            kept = self._recorder.reader.kept
            rows = [row for life in reversed(self.lives) for row in kept([life])]
        except StoreUnavailable as error:
            _logger.warning("Cannot read what has been completed before, so everything runs again: %s", error)
            return {}
        return {
            row.position: Found(Place(row.result_key, row.result_storage), row.code)
            for row in rows
            if row.position is not None
        }


NOTHING = Past()
