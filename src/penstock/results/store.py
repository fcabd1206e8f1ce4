"""Values kept by hand: what tasks do by themselves with `persist_result`, for any value and key."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, Generic, Protocol, TypeVar

from penstock import settings
from penstock.exceptions import ConfigurationError, MissingResult, ResultCorrupt
from penstock.results.sealed import Header, seal, unseal
from penstock.results.secret import secret_of
from penstock.results.storages import Storage, storage_for
from penstock.serializers import get_serializer

R = TypeVar("R")
_NOBODY = "0" * 32  # instead of the id of a run


class LockManager(Protocol):
    """What `penstock.locking` has two of."""

    def acquire_lock(
        self, key: str, holder: str, acquire_timeout: float | None = None, hold_timeout: float | None = None
    ) -> bool: ...

    def release_lock(self, key: str, holder: str) -> None: ...

    def is_locked(self, key: str) -> bool: ...

    def is_lock_holder(self, key: str, holder: str) -> bool: ...

    def wait_for_lock(self, key: str, timeout: float | None = None) -> bool: ...


@dataclass(frozen=True, slots=True)
class ResultMetadata:
    """What is known about a kept value besides itself."""

    storage_key: str
    created: datetime
    expiration: datetime | None
    serializer: str


@dataclass(frozen=True, slots=True)
class ResultRecord(Generic[R]):
    """A kept value and what is known about it."""

    result: R
    metadata: ResultMetadata


class ResultStore:
    """Keeps values under keys of your choice. Thread-safe; all methods block.

    Args:
        result_storage: A directory, a URL (with the extra `remote`), or an object with `read`, `write` and `exists`.
            By default the directory `storage` in penstock's home.
        serializer: See `penstock.serializers`. By default as the settings say.
        secret: 32 bytes that values are sealed with, by default those in `results.key` in penstock's home: then only
            programs with the same home can read them.
        lock_manager: See `penstock.locking`. Locks are between those who ask for them: reading and writing do not.

    Reads what tasks have kept in the same storage, too: under the key that their `result_storage_key` gave.

    >>> import tempfile
    >>> store = ResultStore(tempfile.mkdtemp(), serializer="json")
    >>> store.write("report/2024", {"total": 3})
    >>> store.read("report/2024").result
    {'total': 3}
    """

    def __init__(
        self,
        result_storage: Any = None,
        serializer: Any = None,
        *,
        secret: bytes | None = None,
        lock_manager: LockManager | None = None,
    ) -> None:
        self.storage: Storage = storage_for(settings.home() / "storage" if result_storage is None else result_storage)
        self.serializer = get_serializer(serializer or settings.current().results_default_serializer, "serializer")
        self.lock_manager = lock_manager
        self._given_secret = secret
        self._home = settings.home()

    @cached_property
    def _secret(self) -> bytes:
        return secret_of(self._home) if self._given_secret is None else self._given_secret

    def write(self, key: str, value: Any, expiration: datetime | timedelta | None = None) -> None:
        """Keep a value, in the place of one that is there, until `expiration` (a moment, or a time from now).

        Raises `SerializationError` if it cannot be written, `ConfigurationError` for a key that cannot name a file,
        and what the storage raises.
        """
        now = time.time()
        header = Header(_NOBODY, key, "", self.serializer.type, now, _expiry(expiration, now))
        self.storage.write(key, seal(header, self.serializer.dumps(value), self._secret))

    def read(self, key: str) -> ResultRecord[Any]:
        """The value with this key.

        Raises `MissingResult` if there is none, or it has expired; `ResultCorrupt` if it is not what was kept there:
        then nothing of it has been looked at. Raises what the storage and the serializer raise.
        """
        if not self.storage.exists(key):
            raise MissingResult(f"Nothing is kept under {key!r} in {self.storage.uri}")
        header, payload = self._unsealed(key)
        if _is_over(header):
            raise MissingResult(f"What was kept under {key!r} in {self.storage.uri} has expired")
        value = self._reader(header.serializer).loads(payload)
        expiration = None if header.expires is None else _moment(header.expires)
        return ResultRecord(value, ResultMetadata(key, _moment(header.created), expiration, header.serializer))

    def exists(self, key: str) -> bool:
        """Whether `read` would find a value: one that has not expired, and is what was kept there."""
        try:
            return self.storage.exists(key) and not _is_over(self._unsealed(key)[0])
        except ResultCorrupt:
            return False

    def _unsealed(self, key: str) -> tuple[Header, bytes]:
        header, payload = unseal(self.storage.read(key), self._secret, key)
        # Without this, values could be exchanged for one another by renaming files.
        if (header.cache_key or header.address) != key:
            raise ResultCorrupt(key, "it is what was kept under another key")
        return header, payload

    def _reader(self, name: str) -> Any:
        return self.serializer if name == self.serializer.type else get_serializer(name, "serializer")

    # --- locks ---

    def acquire_lock(
        self,
        key: str,
        holder: str | None = None,
        acquire_timeout: float | None = None,
        hold_timeout: float | None = None,
    ) -> bool:
        """Wait for the lock of this name and take it; False if that takes more than `acquire_timeout` seconds.

        The holder is by default the calling thread. Like the other methods about locks, raises `ConfigurationError` if
        the store has no lock manager.
        """
        return self._locks.acquire_lock(key, holder or _this_thread(), acquire_timeout, hold_timeout)

    def release_lock(self, key: str, holder: str | None = None) -> None:
        """Give the lock back. Raises ValueError if this holder does not have it."""
        self._locks.release_lock(key, holder or _this_thread())

    def is_locked(self, key: str) -> bool:
        return self._locks.is_locked(key)

    def is_lock_holder(self, key: str, holder: str | None = None) -> bool:
        return self._locks.is_lock_holder(key, holder or _this_thread())

    def wait_for_lock(self, key: str, timeout: float | None = None) -> bool:
        """Wait until nobody has the lock; False if that takes more than `timeout` seconds."""
        return self._locks.wait_for_lock(key, timeout)

    @property
    def _locks(self) -> LockManager:
        if self.lock_manager is None:
            raise ConfigurationError(
                "This ResultStore has no lock manager: give it one, e.g. lock_manager=MemoryLockManager()."
            )
        return self.lock_manager


def _this_thread() -> str:
    import socket

    return f"{socket.gethostname()}:{os.getpid()}:{threading.get_ident()}"


def _is_over(header: Header) -> bool:
    return header.expires is not None and header.expires <= time.time()


def _expiry(expiration: datetime | timedelta | None, now: float) -> float | None:
    if isinstance(expiration, timedelta):
        return now + expiration.total_seconds()
    return None if expiration is None else expiration.timestamp()


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
