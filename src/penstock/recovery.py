"""The truth about runs whose process has died: nobody else will ever say that they have ended.

Every reader of a store comes by here first. Which processes live is `store.owners`' business; this module corrects the
record, and where that cannot be written, what is shown of it.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple, Unpack

from penstock import storing
from penstock.exceptions import StoreUnavailable
from penstock.store import owners
from penstock.store.base import (
    AttemptRow,
    EdgeRow,
    KeptRow,
    LineRow,
    LogRow,
    Reader,
    ResultRow,
    RunRow,
    StateCount,
    Store,
    StoreMissing,
    Tally,
    Wanted,
)
from penstock.store.text import is_wanted

__all__ = ["Loss", "is_orphan", "open_reader", "recover"]

_logger = logging.getLogger("penstock.store")
_PAGE = 100
_UNFINISHED = frozenset({"PENDING", "RUNNING", "WAITING"})


class Loss(NamedTuple):
    """A process that died with runs unfinished, which are now recorded as crashed."""

    token: str
    host: str | None
    pid: int | None
    runs: list[str]  # ids of its root runs that had not ended


def recover(home: str | os.PathLike[str], store: Store | None = None) -> list[Loss]:
    """Record the unfinished runs of dead processes as crashed; what was found. Each process is reported once, ever.

    Does not raise because of the store: where it cannot be written, nothing is found. Nothing is created where there
    is no store. Takes well below a millisecond if nobody has died. `store`: an open one, else the one in `home`.
    """
    opened = storing.open_store(home) if store is None else store
    try:
        return _recover(home, opened)
    except StoreUnavailable:  # what else is to be read will say so
        return []
    finally:
        if store is None:
            opened.close()


def _recover(home: str | os.PathLike[str], store: Store) -> list[Loss]:
    there = owners.tokens(home)  # also of processes that have recorded nothing, or had finished everything
    try:
        named = {*there, *store.owners()}
    except StoreMissing:
        for token in there:
            with owners.bury(home, token):
                pass
        return []
    dead = sorted(token for token in named if not _is_alive(home, store, token))
    return [loss for token in dead if (loss := _bury(home, store, token)) is not None]


def _is_alive(home: str | os.PathLike[str], store: Reader, token: str) -> bool:
    """Whether an owner lives. Of those of this home the lock is the proof; others the store may know, if any do."""
    if owners.is_alive(home, token):
        return True
    return token not in owners.tokens(home) and store.vouches_for(token)


def _bury(home: str | os.PathLike[str], store: Store, token: str) -> Loss | None:
    try:
        with owners.bury(home, token) as is_dead:
            loss = _declare_dead(home, store, token) if is_dead else None
    except StoreUnavailable:  # whoever can write to it will do this; until then see `open_reader`
        return None
    if loss is not None:
        _logger.warning(
            "%s ended without having finished %s: recorded as crashed. What had not been acknowledged as persisted may"
            " be missing from the last 0.1 s of the record",
            _process(loss.host, loss.pid),
            f"{len(loss.runs)} runs" if len(loss.runs) != 1 else f"run {loss.runs[0]}",
        )
    return loss


def _declare_dead(home: str | os.PathLike[str], store: Store, token: str) -> Loss | None:
    host, pid = _whereabouts(home, store, token)
    runs = store.declare_dead(token, time.time(), _message(host, pid))
    return Loss(token, host, pid, runs) if runs else None


def _whereabouts(home: str | os.PathLike[str], store: Reader, token: str) -> tuple[str | None, int | None]:
    """Where an owner was, by its file or by what its runs have noted."""
    facts = owners.facts(home, token)
    if facts is not None:
        return facts.host, facts.pid
    with suppress(StoreUnavailable, ValueError, TypeError, KeyError, IndexError):
        noted = json.loads(store.unfinished(token)[0].info or "")
        return str(noted["host"]), int(noted["pid"])
    return None, None


def _process(host: str | None, pid: int | None) -> str:
    return "A process" if pid is None else f"Process {pid} on {host}"


def _message(host: str | None, pid: int | None) -> str:
    which = "" if pid is None else f" (pid {pid} on {host})"
    return f"The process that owned this run{which} is gone"


# --- where the record cannot be corrected ---------------------------------------------------------------------


def is_orphan(home: str | os.PathLike[str], reader: Reader, root: RunRow) -> bool:
    """Whether the owner of a root run that is recorded as unfinished is dead."""
    return root.ended is None and root.owner is not None and not _is_alive(home, reader, root.owner)


def open_reader(home: str | os.PathLike[str], url: str | None = None) -> Reader:
    """A reader of the store that shows the runs of dead processes as crashed; recorded so, wherever possible."""
    store = storing.open_store(home, url)
    recover(home, store)
    return Truthful(store, home)


@dataclass
class Truthful:
    """Shows unfinished runs of dead owners as crashed, whatever is recorded. Thread-safe, as its reader is."""

    reader: Reader
    home: str | os.PathLike[str]

    def __post_init__(self) -> None:
        self._deaths: dict[str, float] = {}  # by root run, when this reader first noticed

    def get(self, run_id: str) -> RunRow | None:
        row = self.reader.get(run_id)
        return None if row is None else self._all_shown([row])[0]

    def find(self, text: str, *, limit: int = 10) -> list[RunRow]:
        return self._all_shown(self.reader.find(text, limit=limit))

    def inside(self, run_id: str, text: str, *, limit: int = 10) -> list[RunRow]:
        return self._all_shown(self.reader.inside(run_id, text, limit=limit))

    def runs(self, *, before: RunRow | None = None, limit: int = 50, **wanted: Unpack[Wanted]) -> list[RunRow]:
        states = wanted.get("states")
        if not states or not any(is_orphan(self.home, self.reader, row) for row in self.reader.unfinished()):
            return self._all_shown(self.reader.runs(before=before, limit=limit, **wanted))
        found: list[RunRow] = []
        anyhow: Wanted = {**wanted, "states": ()}  # what a run is shown as, the store does not know
        while len(found) < limit:
            page = self.reader.runs(before=before, limit=_PAGE, **anyhow)
            found += [row for row in self._all_shown(page) if is_wanted(row, {"states": states})]
            if len(page) < _PAGE:
                break
            before = page[-1]
        return found[:limit]

    def children(self, run_id: str) -> list[RunRow]:
        return self._all_shown(self.reader.children(run_id))

    def tree(self, run_id: str, *, limit: int = 1000) -> list[RunRow]:
        return self._all_shown(self.reader.tree(run_id, limit=limit))

    def counts(self, run_id: str) -> list[StateCount]:
        counted = self.reader.counts(run_id)
        if not any(one.status in _UNFINISHED for one in counted) or self._death(run_id) is None:
            return counted
        numbers: dict[tuple[str, str, str], tuple[int, int]] = {}
        for one in counted:
            shown = one._replace(status="CRASHED", state_name="Crashed") if one.status in _UNFINISHED else one
            state = shown[:3]
            number, retried = numbers.get(state, (0, 0))
            numbers[state] = number + one.number, retried + one.retried
        return [StateCount(*state, *number) for state, number in sorted(numbers.items())]

    def tally(self, run_id: str) -> list[Tally]:
        """As `Reader.tally`; a state may be in it twice, as it is recorded and as it is shown."""
        counted = self.reader.tally(run_id)
        if not any(one.status in _UNFINISHED for one in counted) or self._death(run_id) is None:
            return counted
        return [
            one._replace(status="CRASHED", state_name="Crashed") if one.status in _UNFINISHED else one
            for one in counted
        ]

    def failures(self, run_id: str, *, limit: int = 100) -> list[RunRow]:
        return self.reader.failures(run_id, limit=limit)

    def attempts(self, run_id: str) -> list[AttemptRow]:
        return self.reader.attempts(run_id)

    def edges(self, run_id: str) -> list[EdgeRow]:
        return self.reader.edges(run_id)

    def logs(self, run_id: str, *, limit: int = 1000) -> list[LogRow]:
        return self.reader.logs(run_id, limit=limit)

    def line_numbers(self, run_id: str | None = None) -> tuple[int, int]:
        return self.reader.line_numbers(run_id)

    def lines(
        self, run: RunRow, after: int, last: int, *, level: int = 0, since: float | None = None, name: str | None = None
    ) -> list[LineRow]:
        return self.reader.lines(run, after, last, level=level, since=since, name=name)

    def result(self, address: str) -> ResultRow | None:
        return self.reader.result(address)

    def cached(self, cache_key: str) -> ResultRow | None:
        return self.reader.cached(cache_key)

    def results_of(self, task_key: str, *, limit: int = 20) -> list[ResultRow]:
        return self.reader.results_of(task_key, limit=limit)

    def kept(self, root_ids: Sequence[str]) -> Iterable[KeptRow]:
        return self.reader.kept(root_ids)

    def not_kept(self, root_ids: Sequence[str]) -> dict[str, int]:
        return self.reader.not_kept(root_ids)

    def lost(self, root_ids: Sequence[str], now: float) -> dict[str, int]:
        return self.reader.lost(root_ids, now)

    def vouches_for(self, owner: str) -> bool:
        return self.reader.vouches_for(owner)

    def lives(self, run_id: str) -> list[RunRow]:
        return self._all_shown(self.reader.lives(run_id))

    def unfinished(self, owner: str | None = None) -> list[RunRow]:
        return [row for row in self._all_shown(self.reader.unfinished(owner)) if row.ended is None]

    def owners(self) -> list[str]:
        return [owner for owner in self.reader.owners() if owners.is_alive(self.home, owner)]

    def close(self) -> None:
        self.reader.close()

    def _all_shown(self, rows: Iterable[RunRow]) -> list[RunRow]:
        deaths: dict[str, str | None] = {}  # by root run
        return [row if row.ended is not None else self._shown(row, deaths) for row in rows]

    def _shown(self, row: RunRow, deaths: dict[str, str | None]) -> RunRow:
        if row.root_id not in deaths:
            deaths[row.root_id] = self._death(row.root_id)
        message = deaths[row.root_id]
        if message is None:
            return row
        ended = self._deaths.setdefault(row.root_id, time.time())
        return row._replace(status="CRASHED", state_name="Crashed", ended=ended, message=message)

    def _death(self, run_id: str) -> str | None:
        """What there is to say about the death of a run's owner; None if it lives."""
        run = self.reader.get(run_id)
        root = run if run is None or run.id == run.root_id else self.reader.get(run.root_id)
        if root is None or root.owner is None or not is_orphan(self.home, self.reader, root):
            return None
        return _message(*_whereabouts(self.home, self.reader, root.owner))
