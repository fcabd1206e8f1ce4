"""ResultStore: values kept by hand."""

from __future__ import annotations

import os
import pickle
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import fsspec
import pytest

from penstock.exceptions import ConfigurationError, MissingResult, ResultCorrupt, SerializationError
from penstock.locking import FileSystemLockManager, MemoryLockManager
from penstock.results import ResultRecord, ResultStore
from penstock.results.sealed import Header, seal
from penstock.results.secret import secret_of
from penstock.serializers import CompressedSerializer
from penstock.testing import temporary_settings


@pytest.mark.parametrize("serializer", ["pickle", "json", "compressed/pickle", CompressedSerializer("json", "lzma")])
def test_written_and_read(tmp_path: Path, serializer: Any) -> None:
    store = ResultStore(tmp_path, serializer)
    before = datetime.now(UTC)
    store.write("a/key", {"x": (1, 2)})
    record = store.read("a/key")
    assert isinstance(record, ResultRecord)
    assert record.result == {"x": (1, 2)}
    assert record.metadata.storage_key == "a/key"
    assert record.metadata.serializer == store.serializer.type
    assert before - timedelta(seconds=1) < record.metadata.created <= datetime.now(UTC)
    assert record.metadata.expiration is None
    assert store.exists("a/key")


def test_by_default_in_the_home(own_store: Path) -> None:
    ResultStore().write("key", 1)
    assert stat.S_IMODE((own_store / "storage" / "key").stat().st_mode) == 0o600
    assert stat.S_IMODE(own_store.stat().st_mode) == 0o700
    assert ResultStore().read("key").result == 1
    with temporary_settings({"results_default_serializer": "json"}):
        assert ResultStore().serializer.type == "json"


def test_a_value_is_read_whatever_the_store_writes_with(tmp_path: Path) -> None:
    ResultStore(tmp_path, "compressed/json").write("key", (1, 2))
    assert ResultStore(tmp_path, "pickle").read("key").result == (1, 2)


def test_nothing_there(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    assert not store.exists("key")
    with pytest.raises(MissingResult, match=r"'key' in file://"):
        store.read("key")


def test_overwriting(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    store.write("key", 1)
    store.write("key", 2)
    assert store.read("key").result == 2
    with pytest.raises(SerializationError):
        store.write("key", (x for x in ()))
    assert store.read("key").result == 2


def test_expiration(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    moment = datetime(2100, 1, 1, tzinfo=UTC)
    store.write("moment", 1, moment)
    assert store.read("moment").metadata.expiration == moment
    store.write("soon", 1, timedelta(hours=1))
    assert store.exists("soon")
    for expiration in (timedelta(0), timedelta(days=-1), datetime(2000, 1, 1), datetime(2000, 1, 1, tzinfo=UTC)):
        store.write("over", 1, expiration)
        assert not store.exists("over")
        with pytest.raises(MissingResult, match="expired"):
            store.read("over")


def test_another_home_cannot_read_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ResultStore(tmp_path / "shared").write("key", 1)
    monkeypatch.setenv("PENSTOCK_HOME", str(tmp_path / "other"))
    with pytest.raises(ResultCorrupt):
        ResultStore(tmp_path / "shared").read("key")


def test_the_home_is_that_of_when_it_was_made(tmp_path: Path, own_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ResultStore(tmp_path / "shared")
    monkeypatch.setenv("PENSTOCK_HOME", str(tmp_path / "other"))
    store.write("key", 1)
    assert (own_store / "results.key").exists() and not (tmp_path / "other").exists()


@pytest.mark.parametrize("cache_key", ["key", None])
def test_reads_what_tasks_have_kept(tmp_path: Path, own_store: Path, cache_key: str | None) -> None:
    key = cache_key or "a" * 32
    header = Header("a" * 32, cache_key, "module.task", "pickle", 1.0)
    (tmp_path / key).write_bytes(seal(header, pickle.dumps(7), secret_of(own_store)))
    assert ResultStore(tmp_path).read(key).result == 7
    os.rename(tmp_path / key, tmp_path / "other")
    with pytest.raises(ResultCorrupt, match="another key"):
        ResultStore(tmp_path).read("other")


def test_behind_a_url() -> None:
    store = ResultStore("memory://penstock-store", "json")
    store.write("key", (1, 2))
    assert store.read("key").result == (1, 2)
    system = fsspec.filesystem("memory")
    system.pipe_file("/penstock-store/key", system.cat_file("/penstock-store/key")[:-1])
    with pytest.raises(ResultCorrupt):
        store.read("key")
    system.store.clear()


@pytest.mark.parametrize("key", ["../x", "/x", "", "a\0b"])
def test_bad_keys(tmp_path: Path, key: str) -> None:
    store = ResultStore(tmp_path / "results")
    for attempt in (lambda: store.write(key, 1), lambda: store.read(key), lambda: store.exists(key)):
        with pytest.raises(ConfigurationError):
            attempt()


def test_locks(tmp_path: Path) -> None:
    for manager in (MemoryLockManager(), FileSystemLockManager(tmp_path / "locks")):
        store = ResultStore(tmp_path, lock_manager=manager)
        assert store.acquire_lock("key")
        assert store.is_locked("key") and store.is_lock_holder("key") and not store.is_lock_holder("key", "you")
        assert not store.acquire_lock("key", "you", acquire_timeout=0)
        assert not store.wait_for_lock("key", timeout=0)
        store.release_lock("key")
        assert store.wait_for_lock("key")
        with pytest.raises(ValueError):
            store.release_lock("key")


def test_no_lock_manager(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="lock_manager=MemoryLockManager"):
        ResultStore(tmp_path).acquire_lock("key")
