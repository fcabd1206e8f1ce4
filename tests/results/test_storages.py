"""Where results go: directories, URLs, objects; and the keys that may name them there."""

from __future__ import annotations

import builtins
import gc
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.exceptions import ConfigurationError, ResultCorrupt
from penstock.results import files
from penstock.results.keys import check_key
from penstock.results.remote import RemoteStorage
from penstock.results.storages import Storage, storage_for, storage_from

GOOD_KEYS = ["k", "a/b/c", "2024-01-01T10:00:00", "k-[1, 2]", "ü/漢", ".hidden", "...", "a..b", "console", "x" * 255]
BAD_KEYS = [
    *("", ".", "..", "/", "/etc/passwd", "../x", "a/../../x", "a//b", "a/", "a/./b", "a/.."),
    *("a\\b", "..\\x", "a\0b", "a\nb", "\x7f", "\udcff"),
    *("x" * 256, "/".join(["x" * 200] * 6), "ü" * 128),
    *("nul", "CON", "aux.txt", "a/Com1/b", "lpt9.x.y", "nul .x"),
    f"{files.TEMPORARY}1-00",
    f"a/{files.TEMPORARY}1-00/b",
]


class Shelf:
    """A storage of a user's."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}

    def read(self, key: str) -> Any:
        return self.values[key]

    def write(self, key: str, data: bytes) -> None:
        self.values[key] = data

    def exists(self, key: str) -> bool:
        return key in self.values


class Bucket(Shelf):
    def __init__(self, uri: str) -> None:
        super().__init__()
        self.uri = uri


class Slotted:
    """Not even weak references can be made to it."""

    __slots__ = ()
    read = write = exists = lambda *_: None


@pytest.fixture(params=["directory", "text", "file://", "local://", "fsspec file://", "memory://", "object"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    place = tmp_path / "with space, ü and %41"
    match request.param:
        case "directory":
            yield storage_for(place)
        case "text":
            yield storage_for(str(place))
        case "file://":
            yield storage_for(place.as_uri())
        case "local://":
            yield storage_for(f"local://{place}")
        case "fsspec file://":
            yield RemoteStorage(f"file://{tmp_path}/plain")
        case "memory://":
            yield storage_for("memory://penstock/results")
            fsspec.filesystem("memory").store.clear()
        case _:
            shelf = Shelf()
            yield storage_for(shelf)


def test_written_and_read(storage: Storage) -> None:
    for key in GOOD_KEYS:
        assert not storage.exists(key)
        with pytest.raises((FileNotFoundError, KeyError)):
            storage.read(key)
        for data in (b"", b"first", b"x" * 100_000):
            storage.write(key, data)
            assert storage.read(key) == data
        storage.write(key, key.encode(), durable=True)
    for key in GOOD_KEYS:
        assert storage.exists(key) and storage.read(key) == key.encode()
    assert not storage.exists("a")
    assert not storage.exists("a/b")


def test_made_again_from_its_uri(storage: Storage) -> None:
    storage.write("a/b", b"data")
    twin = storage_from(storage.uri)
    assert twin.uri == storage.uri
    assert twin.read("a/b") == b"data"


def test_it_travels(storage: Storage) -> None:
    storage.write("a/b", b"data")
    twin = pickle.loads(pickle.dumps(storage))
    assert (twin.uri, twin.read("a/b"), repr(twin)) == (storage.uri, b"data", repr(storage))


def test_given_again_it_is_the_same(storage: Storage) -> None:
    assert storage_for(storage) is storage


@pytest.mark.parametrize("key", BAD_KEYS)
def test_keys_that_leave_or_are_no_names(storage: Storage, key: str) -> None:
    for attempt in (lambda: storage.read(key), lambda: storage.write(key, b""), lambda: storage.exists(key)):
        with pytest.raises(ConfigurationError, match="cannot be kept under the key"):
            attempt()


def test_the_key_is_named_but_not_at_any_length() -> None:
    with pytest.raises(ConfigurationError, match=r"'\.\./x'"):
        check_key("../x")
    with pytest.raises(ConfigurationError) as caught:
        check_key("x" * 10_000_000)
    assert len(str(caught.value)) < 500
    with pytest.raises(ConfigurationError, match="int"):
        check_key(7)  # type: ignore[arg-type]


@given(st.text(st.sampled_from("./\\ab\0 :~%")) | st.text())
def test_a_key_that_passes_stays_inside(key: str) -> None:
    try:
        check_key(key)
    except ConfigurationError:
        return
    root = Path("/some/directory")
    joined = root / key
    assert joined.is_relative_to(root) and joined != root and ".." not in joined.parts


# --- directories ---


def test_directories_are_absolute_from_the_beginning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    storage = storage_for("here")
    monkeypatch.chdir("/")
    storage.write("k", b"data")
    assert (tmp_path / "here" / "k").read_bytes() == b"data"


def test_home_is_meant_by_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    storage_for("~/results").write("k", b"data")
    assert (tmp_path / "results" / "k").exists()


def test_links_inside_a_directory_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "a").symlink_to(tmp_path / "outside")
    storage = storage_for(tmp_path / "root")
    with pytest.raises(OSError):
        storage.write("a/k", b"data")
    with pytest.raises(ResultCorrupt):
        storage.read("a/k")
    assert list((tmp_path / "outside").iterdir()) == []


@pytest.mark.parametrize("spec", ["", b"bytes", "a\0b", "file://host/x", "file://relative", "file://"])
def test_no_directories(spec: Any) -> None:
    with pytest.raises(ConfigurationError, match="my_option"):
        storage_for(spec, "my_option")


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for spec in (tmp_path / "file", str(tmp_path / "file"), (tmp_path / "file").as_uri()):
        with pytest.raises(ConfigurationError, match="is a file"):
            storage_for(spec)


# --- URLs ---


def test_an_unknown_protocol() -> None:
    with pytest.raises(ConfigurationError, match=r"result_storage='nosuch://x'.*nosuch"):
        storage_for("nosuch://x")


@pytest.mark.parametrize("url", ["ftp://me:hush@host/x", "sftp://:hush@host", "simplecache::ftp://me:hush@host/x"])
def test_passwords_are_refused_and_not_shown(url: str) -> None:
    with pytest.raises(ConfigurationError, match="password") as caught:
        storage_for(url)
    assert "hush" not in str(caught.value)


def test_without_the_extra_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "fsspec"]:
        monkeypatch.delitem(sys.modules, name)
    original = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "fsspec":
            raise ModuleNotFoundError(f"No module named {name!r}", name="fsspec")
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r'pip install "penstock\[remote\]"'):
        storage_for("s3://bucket/x")
    assert storage_for("file:///x").uri == "file:///x"  # needs no extra


def test_what_others_have_written_since_is_seen() -> None:
    mine, theirs = storage_for("memory://penstock-shared"), storage_for("memory://penstock-shared/")
    assert mine.uri == theirs.uri
    assert not mine.exists("k")
    theirs.write("k", b"data")
    assert mine.exists("k") and mine.read("k") == b"data"
    fsspec.filesystem("memory").store.clear()


def test_a_network_out_of_reach_is_no_miss(monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_reach(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(fsspec.get_filesystem_class("memory"), "info", out_of_reach)
    with pytest.raises(ConnectionError):
        storage_for("memory://x").exists("k")


# --- objects ---


class Incomplete:
    def read(self, key: str) -> bytes:
        return b""


class Async(Shelf):
    async def read(self, key: str) -> Any:
        return b""


@pytest.mark.parametrize("spec", [None, 7, Shelf, Incomplete(), Async(), ["x"]], ids=range(6))
def test_no_storages(spec: Any) -> None:
    with pytest.raises(ConfigurationError, match="result_storage"):
        storage_for(spec)


def test_errors_of_an_object_pass() -> None:
    with pytest.raises(KeyError):
        storage_for(Shelf()).read("k")


def test_an_object_must_return_bytes() -> None:
    shelf = Shelf()
    storage = storage_for(shelf)
    for right in (bytearray(b"data"), memoryview(b"data")):
        shelf.values["k"] = right  # type: ignore[assignment]
        assert storage.read("k") == b"data"
    shelf.values["k"] = "data"  # type: ignore[assignment]
    with pytest.raises(TypeError, match="str, not bytes"):
        storage.read("k")


def test_objects_are_told_apart() -> None:
    one, two = Shelf(), Shelf()
    first, second = storage_for(one), storage_for(two)
    assert first.uri != second.uri
    assert storage_for(one).uri == first.uri
    second.write("k", b"two")
    assert storage_from(second.uri).read("k") == b"two"
    assert not storage_from(first.uri).exists("k")


def test_an_object_may_say_which_it_is() -> None:
    bucket = Bucket("bucket:a")
    assert storage_for(bucket).uri == "object:bucket:a"
    assert storage_from("object:bucket:a").uri == "object:bucket:a"


def test_an_object_that_is_not_here() -> None:
    with pytest.raises(ConfigurationError, match=r"other\.Thing"):
        storage_from("object:other.Thing")


def test_an_object_that_is_gone_is_not_held_on_to() -> None:
    uri = storage_for(Bucket("bucket:gone")).uri
    gc.collect()
    with pytest.raises(ConfigurationError):
        storage_from(uri)


def test_an_object_without_weak_references() -> None:
    slotted = Slotted()
    uri = storage_for(slotted).uri
    assert storage_from(uri).uri == uri == storage_for(slotted).uri
    assert storage_for(Slotted()).uri != uri
