"""Serializers by name, and what the pickling and compressing ones promise."""

from __future__ import annotations

import lzma
import pickle
import subprocess
import sys
import tracemalloc
import zlib
from importlib import metadata
from pathlib import Path
from threading import Lock
from typing import Any

import numpy
import pytest

from penstock.exceptions import ConfigurationError, SerializationError
from penstock.serializers import (
    CompressedSerializer,
    JSONSerializer,
    PickleSerializer,
    Serializer,
    get_serializer,
)


class Upper:
    """A serializer of a user's: texts, in capitals."""

    type: str = "upper"

    def dumps(self, obj: Any, /) -> bytes:
        return str(obj).upper().encode()

    def loads(self, blob: bytes, /) -> Any:
        return blob.decode()


class Needy(Upper):
    def __init__(self, needed: int) -> None:
        self.needed = needed


class Fake:
    """An entry point that is installed nowhere."""

    def __init__(self, name: str, loaded: Any) -> None:
        self.name, self.value, self.loaded = name, "package:thing", loaded

    def load(self) -> Any:
        if isinstance(self.loaded, Exception):
            raise self.loaded
        return self.loaded


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> list[Fake]:
    entries: list[Fake] = []

    def entry_points(*, group: str) -> list[Fake]:
        return entries if group == "penstock.serializers" else []

    monkeypatch.setattr(metadata, "entry_points", entry_points)
    return entries


# --- by name ---


@pytest.mark.parametrize("name", ["pickle", "json", "compressed/pickle", "compressed/json"])
def test_names(name: str) -> None:
    serializer = get_serializer(name)
    assert serializer.type == name
    value = {"x": [1, (2, 3)], "y": {4}}
    assert serializer.loads(serializer.dumps(value)) == value
    assert get_serializer(serializer.type).loads(serializer.dumps(value)) == value


@pytest.mark.parametrize("spec", [Upper, Upper()])
def test_own_ones(spec: Any) -> None:
    serializer: Serializer = get_serializer(spec)
    assert serializer.dumps("text") == b"TEXT"


@pytest.mark.parametrize("spec", ["jsn", "", "compressed/", "compressed/zip", "json/compressed", "COMPRESSED/json"])
def test_unknown_names(spec: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        get_serializer(spec, "serializer_of_mine")
    assert "serializer_of_mine" in str(caught.value)
    for known in ("'json'", "'pickle'", "'compressed/json'", "'compressed/pickle'"):
        assert known in str(caught.value)


@pytest.mark.parametrize("spec", [None, 7, object(), Needy, int, pickle])
def test_what_is_no_serializer(spec: Any) -> None:
    with pytest.raises(ConfigurationError, match="result_serializer"):
        get_serializer(spec)


@pytest.mark.parametrize("loaded", [Upper, Upper()])
def test_an_entry_point_is_a_name_like_any_other(installed: list[Fake], loaded: Any) -> None:
    installed.append(Fake("upper", loaded))
    assert get_serializer("upper").dumps("text") == b"TEXT"
    assert get_serializer("compressed/upper").type == "compressed/upper"
    with pytest.raises(ConfigurationError, match=r"'upper'.*'compressed/upper'"):
        get_serializer("lower")


@pytest.mark.parametrize("loaded", [ModuleNotFoundError("no arrow"), Needy, object()])
def test_a_broken_entry_point_says_whose_it_is(installed: list[Fake], loaded: Any) -> None:
    installed.append(Fake("upper", loaded))
    with pytest.raises(ConfigurationError, match="package:thing"):
        get_serializer("upper")
    assert get_serializer("json").type == "json"  # nobody else is troubled


def test_an_entry_point_must_be_found_again_by_the_type_it_stores(installed: list[Fake]) -> None:
    installed.append(Fake("other", Upper))
    with pytest.raises(ConfigurationError, match="'upper'"):
        get_serializer("other")


# --- pickle ---


class Holder:
    def __init__(self, lock: Any = None) -> None:
        self.lock = lock


class Rude:
    def __reduce__(self) -> Any:
        raise SystemExit("no")


@pytest.mark.parametrize(
    ("value", "path", "what"),
    [
        (Lock(), "result", "lock"),
        ({"a": [1, Holder(Lock())]}, "result['a'][1].lock", "lock"),
        ((x for x in ()), "result", "generator"),
        ([Rude()], "result[0]", "SystemExit"),
    ],
)
def test_what_cannot_be_pickled_is_named(value: Any, path: str, what: str) -> None:
    for serializer in (PickleSerializer(), CompressedSerializer("pickle")):
        with pytest.raises(SerializationError) as caught:
            serializer.dumps(value)
        assert caught.value.path == path
        assert str(caught.value).startswith(f"{path} cannot be pickled") and what in str(caught.value)


def test_functions_and_closures() -> None:
    offset = 3
    twin = PickleSerializer().loads(PickleSerializer().dumps({"f": lambda x: x + offset}))
    assert twin["f"](4) == 7


def test_classes_that_can_be_imported_stay_the_same() -> None:
    twin = PickleSerializer().loads(PickleSerializer().dumps([Holder, Holder(5), numpy.arange(3)]))
    assert twin[0] is Holder and type(twin[1]) is Holder and twin[1].lock == 5
    assert twin[2].tolist() == [0, 1, 2]


def test_plain_values_are_plain_pickles() -> None:
    assert PickleSerializer().dumps("text") == pickle.dumps("text", 5)


class Escape:
    def __reduce__(self) -> Any:
        return sys.exit, (3,)


def test_loading_does_not_end_the_program() -> None:
    with pytest.raises(SerializationError, match="SystemExit"):
        PickleSerializer().loads(pickle.dumps(Escape()))


SCRIPT = """
import enum, sys, threading
from dataclasses import dataclass
from penstock.serializers import PickleSerializer

lock = threading.Lock()

@dataclass
class Point:
    x: int
    def twice(self):
        return helper(self.x)

class Color(enum.Enum):
    RED = 1

class Locked:
    def use(self):
        with lock:
            return 1

def helper(x):
    return 2 * x

if sys.argv[1] == "write":
    with open(sys.argv[2], "wb") as file:
        file.write(PickleSerializer().dumps([Point(3), Color.RED]))
    with open(sys.argv[2] + ".locked", "wb") as file:
        file.write(PickleSerializer().dumps([Locked()]))
else:
    with open(sys.argv[2], "rb") as file:
        point, color = PickleSerializer().loads(file.read())
    with open(sys.argv[2] + ".locked", "rb") as file:
        assert type(PickleSerializer().loads(file.read())[0]) is Locked
    assert point == Point(3) and color is Color.RED
    print("same classes")
"""


def test_classes_of_scripts(tmp_path: Path) -> None:
    script, data = tmp_path / "script.py", tmp_path / "data"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script)]
    subprocess.run([*command, "write", str(data)], check=True, timeout=30)
    read = subprocess.run([*command, "read", str(data)], check=True, timeout=30, capture_output=True, text=True)
    assert read.stdout == "same classes\n"
    # Elsewhere, the class is there by value; what it needs of the script cannot always be.
    point, color = PickleSerializer().loads(data.read_bytes())
    assert point.twice() == 6 and color.name == "RED"
    with pytest.raises(AttributeError, match="Locked"):
        PickleSerializer().loads(Path(f"{data}.locked").read_bytes())


# --- compressed ---


@pytest.mark.parametrize("library", ["zlib", "lzma"])
def test_compressed(library: str) -> None:
    serializer = CompressedSerializer("json", library)
    data = serializer.dumps(["x" * 100_000])
    assert len(data) < 1000
    assert CompressedSerializer("json").loads(data) == ["x" * 100_000]
    assert serializer.type == "compressed/json"
    assert serializer.loads(serializer.dumps(None)) is None


def test_an_unknown_library() -> None:
    with pytest.raises(ConfigurationError, match=r"compressionlib='zip'.*'zlib', 'lzma'"):
        CompressedSerializer("json", "zip")


def test_an_unknown_inner_serializer() -> None:
    with pytest.raises(ConfigurationError, match="serializer='jsn'"):
        CompressedSerializer("jsn")


@pytest.mark.parametrize(("mark", "compress"), [(b"z", zlib.compress), (b"x", lzma.compress)])
@pytest.mark.parametrize("said", [10, 50_000_000, 2**62], ids=["little", "all", "too much"])
def test_bombs(mark: bytes, compress: Any, said: int) -> None:
    """50 MB of zeros, with a header that lies, or says what is not allowed."""
    bomb = mark + said.to_bytes(8, "big") + compress(bytes(50_000_000))
    serializer = CompressedSerializer("json", largest=1_000_000)
    tracemalloc.start()
    try:
        with pytest.raises(SerializationError):
            serializer.loads(bomb)
        assert tracemalloc.get_traced_memory()[1] < 15_000_000  # lzma itself takes 8 MB
    finally:
        tracemalloc.stop()


def test_what_could_not_be_read_is_not_written() -> None:
    serializer = CompressedSerializer("json", largest=100)
    assert serializer.loads(serializer.dumps("x" * 98)) == "x" * 98
    with pytest.raises(SerializationError, match="more than 100"):
        serializer.dumps("x" * 99)


@pytest.mark.parametrize("library", ["zlib", "lzma"])
def test_every_truncation_extension_and_byte_of_compressed(library: str) -> None:
    """Without a seal around it: errors of one kind only, and never another value."""
    serializer = CompressedSerializer("json", library)
    data = serializer.dumps([1, 2, 3])
    damaged = [data[:length] for length in range(len(data))] + [data + b"\0", data + data]
    damaged += [data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :] for place in range(len(data))]
    for blob in damaged:
        try:
            # zlib's first two bytes have flags that change nothing.
            assert serializer.loads(blob) == [1, 2, 3]
        except SerializationError:
            pass


@pytest.mark.parametrize("blob", [b"", b"z", b"q" + bytes(8) + zlib.compress(b"")])
def test_what_is_not_compressed(blob: bytes) -> None:
    with pytest.raises(SerializationError):
        CompressedSerializer("json").loads(blob)


@pytest.mark.parametrize("serializer", [PickleSerializer(), JSONSerializer(), CompressedSerializer()], ids=repr)
def test_they_travel(serializer: Any) -> None:
    twin = pickle.loads(pickle.dumps(serializer))
    assert twin.type == serializer.type and repr(twin) == repr(serializer)
    assert twin.loads(serializer.dumps(1)) == 1
