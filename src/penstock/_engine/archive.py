"""Where the values of completed runs are kept, and how they are found again.

A small value is part of the record and of its transaction. A large one is a file that is written, and in place, before
the record that names it. A storage of the user's holds files that are found by their keys alone. All are sealed: see
`results.sealed`. Nothing is deserialised whose digest has not been verified, or that answers to another name.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from penstock._engine.computing import Locks
from penstock._engine.past import Place
from penstock.exceptions import ResultCorrupt
from penstock.results import files
from penstock.results.sealed import Header, seal, unseal
from penstock.results.secret import secret_of
from penstock.results.storages import Storage, storage_from
from penstock.serializers import get_serializer
from penstock.store.base import ResultRow, StoreMissing
from penstock.task_runners.base import Kept

if TYPE_CHECKING:
    from penstock._engine.past import Label
    from penstock._engine.recorder import Recorder
    from penstock.serializers import Serializer

SMALL = 64 * 1024  # bytes up to which a sealed value is part of the record


class Stored(Kept):
    """A value that is not in memory: it is read again from where it is kept."""

    holder: Any = None

    def __init__(self, archive: Archive, place: Place, serializer: Serializer, shown: str) -> None:
        self._archive = archive
        self._place = place
        self._serializer = serializer
        self.shown = shown

    def fetch(self) -> Any:
        return self._archive.read(self._place, serializer=self._serializer)


class Latest(NamedTuple):
    """A value that answers to a cache key; verified."""

    place: Place
    header: Header
    payload: bytes | memoryview


class Archive:
    """The values that the store of a recorder keeps. Thread-safe."""

    def __init__(
        self,
        home: str | Path,
        recorder: Recorder,
        directory: Path | None = None,
        secret: Path | None = None,
        inline: int = SMALL,
    ) -> None:
        """Values of up to `inline` bytes become part of the record."""
        self.home = Path(home)
        self.locks = Locks(os.path.join(home, "computing.lock"))
        self.refused = False  # the store has not taken a value, which was said
        self.unsettled = False  # something has been handed to the recorder that it may not have written yet
        self._recorder = recorder
        self._directory = directory or self.home / "results"
        self._secret_path = secret
        self._inline = inline

    @functools.cached_property
    def secret(self) -> bytes:
        return secret_of(self.home, self._secret_path)

    def stored(self, place: Place, serializer: Serializer, shown: str) -> Stored:
        """What stands for a value that is not in memory."""
        return Stored(self, place, serializer, shown)

    # --- writing --------------------------------------------------------------------------------------------------

    def keep(
        self, label: Label, value: Any, serializer: Serializer, storage: Storage | None, *, durable: bool
    ) -> tuple[Place, Sequence[ResultRow]]:
        """Keep a value; where, and what has to be recorded for it. Raises what prevents that."""
        header = Header(*label[:3], serializer.type, *label[3:])
        payload = serializer.dumps(value)
        sealed = seal(header, payload, self.secret)
        if storage is not None:
            key = header.cache_key or header.address
            storage.write(key, sealed, durable=durable)
            return Place(key, storage.uri), ()
        path = None
        if len(sealed) > self._inline:
            path = header.address
            files.write(self._directory, path, sealed, durable=durable)
        row = ResultRow(
            header.address,
            header.cache_key,
            header.task_key,
            header.created,
            header.expires,
            len(sealed),
            path,
            sealed if path is None else None,
        )
        return Place(header.address, None), (row,)

    # --- reading --------------------------------------------------------------------------------------------------

    def latest(self, key: str, storage: Storage | None, now: float) -> Latest | None:
        """The latest value for a cache key, verified; None if there is none, or if it has expired.

        Raises `ResultCorrupt` if it is not what was kept, and whatever the storage raises.
        """
        found = self._latest(key) if storage is None else _in_storage(storage, key)
        if found is None:
            return None
        place, sealed = found
        header, payload = self.unseal(sealed, place.key, of_key=storage is not None)
        if header.cache_key != key:
            raise ResultCorrupt(place.key, "it answers another question")
        return None if _is_over(header.expires, now) else Latest(place, header, payload)

    def _latest(self, key: str) -> tuple[Place, bytes] | None:
        if self.unsettled:
            self.unsettled = not self._recorder.commit()
        try:
            row = self._recorder.reader.cached(key)
        except StoreMissing:
            return None
        return None if row is None else (Place(row.address, None), self.sealed_in(row))

    def read(self, place: Place, now: float = 0.0, serializer: Serializer | None = None) -> Any:
        """The value. Raises `LookupError` if it is gone or has expired, `ResultCorrupt` if it is not what was kept.

        `serializer`: one to be used if the value was written by one of its type.
        """
        header, payload = self.sealed(place)
        if _is_over(header.expires, now):
            raise LookupError("it has expired")
        return self.load(header, payload, serializer)

    def load(self, header: Header, payload: bytes | memoryview, serializer: Serializer | None) -> Any:
        """The value that was verified."""
        if serializer is None or serializer.type != header.serializer:
            serializer = self.serializer(header.serializer)
        return serializer.loads(bytes(payload))

    def sealed(self, place: Place) -> tuple[Header, bytes | memoryview]:
        """Header and payload, verified."""
        if place.storage is not None:
            return self.unseal(storage_from(place.storage).read(place.key), place.key, of_key=True)
        row = self._recorder.reader.result(place.key)
        if row is None:
            raise LookupError(f"there is no result of run {place.key} any more")
        return self.unseal(self.sealed_in(row), place.key, of_key=False)

    def sealed_in(self, row: ResultRow) -> bytes:
        """The value of a row, sealed, from wherever it is."""
        sealed = row.sealed if row.path is None else self._file(row.path, row.size)
        if sealed is None:
            raise ResultCorrupt(row.address, "neither value nor file")
        return sealed

    def discard(self, rows: Sequence[ResultRow]) -> None:
        """Remove the files of values that are not to be kept after all. May raise `OSError`."""
        for row in rows:
            if row.path is not None:
                files.remove(self._directory, row.path)

    def recent(self, task_key: str, limit: int) -> list[bytes]:
        """The latest results of a task that the store holds, sealed, at least as far as their headers go."""
        try:
            rows = self._recorder.reader.results_of(task_key, limit=limit)
        except StoreMissing:
            return []
        return [row.sealed for row in rows if row.sealed is not None]

    def _file(self, name: str, size: int) -> bytes:
        try:
            return files.read(self._directory, name, size)
        except FileNotFoundError:
            raise LookupError(f"the file {name} is gone from {self._directory}") from None

    def unseal(self, sealed: bytes, name: str, *, of_key: bool) -> tuple[Header, bytes | memoryview]:
        """Header and payload, verified, of what has to answer to this key or address."""
        header, payload = unseal(sealed, self.secret)
        answers_to = (header.cache_key or header.address) if of_key else header.address
        if answers_to != name:
            raise ResultCorrupt(name, f"it is the result of {answers_to}")
        return header, payload

    @functools.lru_cache(maxsize=64)  # noqa: B019  # one per process and store
    def serializer(self, name: str) -> Serializer:
        return get_serializer(name)


def _in_storage(storage: Storage, key: str) -> tuple[Place, bytes] | None:
    return (Place(key, storage.uri), storage.read(key)) if storage.exists(key) else None


def _is_over(expires: float | None, now: float) -> bool:
    return expires is not None and expires <= now
