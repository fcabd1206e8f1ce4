"""Kept values, as far as they can be looked at without deserialising them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

from penstock import settings
from penstock.exceptions import ConfigurationError, ResultCorrupt
from penstock.results import files
from penstock.results.sealed import LONGEST_HEADER, Header, peek, unseal
from penstock.results.secret import NAME, secret_of
from penstock.results.storages import storage_from
from penstock.store.base import Reader, ResultRow, RunRow

_BEGINNING = LONGEST_HEADER + 1024  # bytes of a file that its header is in, whatever is around it


class Kept(NamedTuple):
    """What is known about the value of a run. Only `payload` verifies it: this is to be shown, not to be believed."""

    key: str  # where it is in its storage
    storage: str | None  # None: the run store
    computed_by: str | None  # id of the run that computed it
    cache_key: str | None
    serializer: str | None
    size: int | None  # bytes, sealed
    created: float | None
    expires: float | None
    trouble: str | None  # why it cannot be read, as far as that can be told


def about(reader: Reader, run: RunRow, home: Path) -> Kept | None:
    """What is known about the kept value of a run; None if none is kept. Reads no storage but the run store."""
    if run.result_key is None:
        return None
    nothing = Kept(run.result_key, run.result_storage, None, None, None, None, None, None, None)
    if run.result_storage is not None:
        return nothing
    row = reader.result(run.result_key)
    if row is None:
        return nothing._replace(trouble="it is not in the run store any more")
    told = nothing._replace(
        computed_by=row.address, cache_key=row.cache_key, size=row.size, created=row.created, expires=row.expires
    )
    try:
        return told._replace(serializer=header_of(row, home).serializer)
    except (ResultCorrupt, LookupError, OSError) as error:
        return told._replace(trouble=str(error))


def header_of(row: ResultRow, home: Path) -> Header:
    """What a value says of itself, unverified. Raises `ResultCorrupt`, `LookupError` or `OSError` if it cannot."""
    if row.sealed is not None:
        return peek(row.sealed, row.address)
    return peek(_file(row, home, _BEGINNING, whole=False), row.address)


def payload(reader: Reader, run: RunRow, home: Path) -> tuple[Header, bytes]:
    """The value as it was serialised, and what it says of itself; verified.

    Raises `LookupError` if it is gone, `ResultCorrupt` if it is not what was kept, `ConfigurationError` if storage or
    key cannot be used, and what the storage raises.
    """
    assert run.result_key is not None
    if run.result_storage is not None:
        sealed = storage_from(run.result_storage).read(run.result_key)
        header, found = unseal(sealed, _secret(home), run.result_key)
        answers_to = header.cache_key or header.address
    else:
        header, found = unseal(_sealed(reader, run.result_key, home), _secret(home), run.result_key)
        answers_to = header.address
    if answers_to != run.result_key:
        raise ResultCorrupt(run.result_key, f"it is the result of {answers_to}")
    return header, found


def _sealed(reader: Reader, address: str, home: Path) -> bytes:
    row = reader.result(address)
    if row is None:
        raise LookupError("it is not in the run store any more")
    return row.sealed if row.sealed is not None else _file(row, home, row.size, whole=True)


def _file(row: ResultRow, home: Path, size: int, *, whole: bool) -> bytes:
    directory = settings.current().results_local_storage_path or home / "results"
    if row.path is None:
        raise ResultCorrupt(row.address, "neither value nor file")
    try:
        return files.read(directory, row.path, size) if whole else files.beginning(directory, row.path, size)
    except FileNotFoundError:
        raise LookupError(f"the file {row.path} is gone from {directory}") from None


def _secret(home: Path) -> bytes:
    """The key that values are sealed with. Who only looks makes none."""
    place: Any = settings.current().results_key_path or home / NAME
    if not os.path.lexists(place):
        raise ConfigurationError(f"the key that it was sealed with is gone: there is no file {place}")
    return secret_of(home, place)
