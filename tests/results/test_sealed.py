"""Sealed values: what is not what was kept is refused, and nothing of it is deserialised."""

from __future__ import annotations

import json
import pickle
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.exceptions import ResultCorrupt, SerializationError
from penstock.results import ResultStore
from penstock.results.sealed import LONGEST_HEADER, Header, peek, seal, unseal
from penstock.serializers import CompressedSerializer, JSONSerializer, PickleSerializer

SECRET = bytes(range(32))
HEADER = Header("a" * 32, "key", "module.task", "pickle", 1.5, 99.0, {"x": "digest", "code": ["f", "g"]})
SERIALIZERS = ["json", "pickle", "compressed/json", "compressed/pickle"]
FLIPS = 100_000  # of bits, among all serializers
FILE_FLIPS = 2_000

Spy = list[str]


class Shelf:
    """A storage in memory: how the rows of a database behave."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}

    def read(self, key: str) -> bytes:
        return self.values[key]

    def write(self, key: str, data: bytes) -> None:
        self.values[key] = data

    def exists(self, key: str) -> bool:
        return key in self.values


@pytest.fixture
def deserialised(monkeypatch: pytest.MonkeyPatch) -> Spy:
    """Names of whatever could make a value out of bytes, each time it is called."""
    calls: Spy = []
    for owner, name in [
        (pickle, "loads"),
        (pickle, "Unpickler"),
        (json, "loads"),
        (zlib, "decompressobj"),
        (PickleSerializer, "loads"),
        (JSONSerializer, "loads"),
        (CompressedSerializer, "loads"),
    ]:
        monkeypatch.setattr(owner, name, spied(getattr(owner, name), name, calls))
    return calls


def spied(original: Callable[..., Any], name: str, calls: Spy) -> Callable[..., Any]:
    def spy(*args: Any, **kwargs: Any) -> Any:
        calls.append(name)
        return original(*args, **kwargs)

    return spy


def flipped(data: bytes, chance: random.Random) -> bytes:
    """`data` with one to three bits flipped."""
    changed = bytearray(data)
    for bit in chance.sample(range(len(data) * 8), chance.choice((1, 1, 1, 2, 3))):
        changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def refused(sealed: bytes, secret: bytes = SECRET) -> ResultCorrupt:
    with pytest.raises(ResultCorrupt) as caught:
        unseal(sealed, secret, "here")
    assert caught.value.place == "here"
    return caught.value


# --- what goes in comes out ---


@given(
    st.builds(
        Header,
        st.text(),
        st.none() | st.text(),
        st.text(),
        st.text(),
        st.floats(-1e10, 1e10) | st.integers(0, 10**10),
        st.none() | st.floats(-1e10, 1e10),
        st.none() | st.dictionaries(st.text(), st.none() | st.text() | st.lists(st.integers())),
    ),
    st.binary(),
    st.binary(min_size=1, max_size=64),
)
def test_a_sound_value_comes_back(header: Header, payload: bytes, secret: bytes) -> None:
    sealed = seal(header, payload, secret)
    assert unseal(sealed, secret) == (header, payload)
    assert unseal(memoryview(sealed), secret) == (header, payload)
    assert peek(sealed) == header


def test_equal_values_are_sealed_equally_whatever_the_order_of_ingredients() -> None:
    turned = HEADER._replace(ingredients={"code": ["f", "g"], "x": "digest"})
    assert seal(HEADER, b"payload", SECRET) == seal(turned, b"payload", SECRET)


def test_the_format_is_this_one() -> None:
    """Values of today are read tomorrow: the layout is spelled out here independently."""
    head = json.dumps(HEADER._asdict(), sort_keys=True, separators=(",", ":")).encode()
    body = b"pstkval\x01" + struct.pack(">IQ", len(head), 7) + head + b"payload"
    digest = blake2b(body, key=SECRET, digest_size=32, person=b"penstock result").digest()
    assert seal(HEADER, b"payload", SECRET) == body + digest


def test_ingredients_that_are_too_long_are_left_out() -> None:
    header = HEADER._replace(ingredients={"x": "y" * LONGEST_HEADER})
    assert unseal(seal(header, b"payload", SECRET), SECRET) == (header._replace(ingredients=None), b"payload")


@pytest.mark.parametrize(
    "header",
    [
        HEADER._replace(cache_key="k" * LONGEST_HEADER),
        HEADER._replace(created=float("nan")),
        HEADER._replace(expires=float("inf")),
        HEADER._replace(ingredients={"x": object()}),
    ],
)
def test_what_cannot_be_a_header_is_refused_when_it_is_written(header: Header) -> None:
    with pytest.raises(SerializationError):
        seal(header, b"payload", SECRET)


# --- what is wrong is refused ---


def test_every_truncation_and_extension() -> None:
    sealed = seal(HEADER, b"payload", SECRET)
    for length in range(len(sealed)):
        refused(sealed[:length])
        refused(sealed[length + 1 :])
    for extra in (b"\0", b"x" * 1000, sealed):
        refused(sealed + extra)
        refused(extra + sealed)


def test_every_single_byte_counts() -> None:
    sealed = seal(HEADER, b"payload", SECRET)
    for place in range(len(sealed)):
        for change in (1, 0x80, 0xFF):
            refused(sealed[:place] + bytes([sealed[place] ^ change]) + sealed[place + 1 :])


def test_a_foreign_secret() -> None:
    assert "digest" in refused(seal(HEADER, b"payload", b"another"), SECRET).why


def test_parts_of_two_values_make_no_third() -> None:
    one = seal(HEADER, b"payload", SECRET)
    two = seal(HEADER._replace(address="b" * 32), b"PAYLOAD", SECRET)
    assert len(one) == len(two)
    for cut in range(1, len(one)):
        for mixed in (one[:cut] + two[cut:], two[:cut] + one[cut:]):
            if mixed not in (one, two):
                refused(mixed)


@pytest.mark.parametrize("number", [0, 2, 255])
def test_another_format_is_named(number: int) -> None:
    sealed = bytearray(seal(HEADER, b"payload", SECRET))
    sealed[7] = number
    assert f"format {number}" in refused(resealed(bytes(sealed[:-32]))).why


def resealed(body: bytes) -> bytes:
    """`body` with a right digest: what only a defect of ours, or another version, can have written."""
    return body + blake2b(body, key=SECRET, digest_size=32, person=b"penstock result").digest()


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b"[" * 100_000,
        json.dumps(HEADER._asdict() | {"more": 1}).encode(),
        json.dumps(HEADER._asdict() | {"created": True}).encode(),
        json.dumps(HEADER._asdict() | {"created": "1"}).encode(),
        json.dumps(HEADER._asdict() | {"address": None}).encode(),
        json.dumps(HEADER._asdict()).replace("99.0", "NaN").encode(),
        json.dumps(HEADER._asdict()).replace("99.0", "1e999").encode(),
        json.dumps(HEADER._asdict()).replace("99.0", "9" * 5000).encode(),
    ],
    ids=range(12),
)
def test_no_header_at_all(head: bytes) -> None:
    body = b"pstkval\x01" + struct.pack(">IQ", len(head), 7) + head + b"payload"
    refused(resealed(body))
    with pytest.raises(ResultCorrupt):
        peek(resealed(body))


@pytest.mark.parametrize(("head", "payload"), [(0, 8), (2**32 - 1, 0), (0, 2**64 - 1), (7, 2**64 - 7)])
def test_lengths_that_do_not_add_up(head: int, payload: int) -> None:
    refused(resealed(b"pstkval\x01" + struct.pack(">IQ", head, payload) + b"payload"))


def test_a_payload_of_another_length() -> None:
    head = json.dumps(HEADER._asdict()).encode()
    for length in (0, 6, 8):
        body = b"pstkval\x01" + struct.pack(">IQ", len(head), length) + head + b"payload"
        assert "lengths" in refused(resealed(body)).why


@pytest.mark.parametrize(("padding", "present"), [(LONGEST_HEADER, LONGEST_HEADER), (100, 50)])
def test_looking_reads_no_header_that_is_too_long_or_cut_off(padding: int, present: int) -> None:
    """Even if what is there would do."""
    head = json.dumps(HEADER._asdict()).encode()
    frame = b"pstkval\x01" + struct.pack(">IQ", len(head) + padding, 7)
    with pytest.raises(ResultCorrupt, match="cut off"):
        peek(frame + head + b" " * present)


@given(st.binary())
def test_looking_raises_nothing_else(data: bytes) -> None:
    for sealed in (data, b"pstkval\x01" + data, seal(HEADER, b"payload", SECRET)[:20] + data):
        with pytest.raises(ResultCorrupt):
            peek(sealed)
        refused(sealed)


def test_looking_survives_flips() -> None:
    chance = random.Random(7)
    sealed = seal(HEADER, b"payload", SECRET)
    for _ in range(5_000):
        try:
            assert isinstance(peek(flipped(sealed, chance)), Header)
        except ResultCorrupt:
            pass


def test_looking_needs_the_beginning_only_and_no_secret() -> None:
    sealed = seal(HEADER, b"p" * 100_000, SECRET)
    assert peek(sealed[:1000]) == HEADER


# --- nothing is deserialised ---


@pytest.fixture(params=SERIALIZERS)
def serializer(request: pytest.FixtureRequest) -> Iterator[str]:
    yield request.param


def test_the_spy_sees_a_sound_value(serializer: str, deserialised: Spy) -> None:
    store = ResultStore(Shelf(), serializer, secret=SECRET)
    store.write("key", ("value", 7))
    deserialised.clear()
    assert store.read("key").result == ("value", 7)
    kind = serializer.rpartition("/")[2]
    # The serializer's own, and one for the header.
    assert deserialised.count("loads") >= (2 if kind == "pickle" else 3), deserialised


def test_random_flips_of_rows(serializer: str, deserialised: Spy) -> None:
    shelf = Shelf()
    store = ResultStore(shelf, serializer, secret=SECRET)
    store.write("key", ("value", 7, {"x": [1.5, None]}))
    sound, chance = shelf.values["key"], random.Random(serializer)
    wrong = 0
    deserialised.clear()
    for _ in range(FLIPS // len(SERIALIZERS)):
        shelf.values["key"] = flipped(sound, chance)
        try:
            store.read("key")
        except ResultCorrupt:
            wrong += 1
    assert (wrong, deserialised) == (FLIPS // len(SERIALIZERS), [])


def test_random_flips_and_truncations_of_files(serializer: str, deserialised: Spy, tmp_path: Path) -> None:
    store = ResultStore(tmp_path, serializer, secret=SECRET)
    store.write("key", ("value", 7))
    file = tmp_path / "key"
    sound, chance = file.read_bytes(), random.Random(serializer)
    damaged = [sound[:length] for length in range(len(sound))]
    damaged += [flipped(sound, chance) for _ in range(FILE_FLIPS // len(SERIALIZERS))]
    deserialised.clear()
    for data in damaged:
        file.write_bytes(data)
        with pytest.raises(ResultCorrupt):
            store.read("key")
        assert not store.exists("key")
    assert deserialised == []
    file.write_bytes(sound)
    assert store.read("key").result == ("value", 7)


def test_two_files_swapped(serializer: str, deserialised: Spy, tmp_path: Path) -> None:
    store = ResultStore(tmp_path, serializer, secret=SECRET)
    store.write("a", 1)
    store.write("b", 2)
    (tmp_path / "a").rename(tmp_path / "c")
    (tmp_path / "b").rename(tmp_path / "a")
    (tmp_path / "c").rename(tmp_path / "b")
    for key in "ab":
        with pytest.raises(ResultCorrupt, match="another key"):
            store.read(key)
    assert "dumps" not in deserialised and not any(name != "loads" for name in deserialised)


def test_a_planted_file_is_not_executed(tmp_path: Path, deserialised: Spy) -> None:
    marker = tmp_path / "executed"
    store = ResultStore(tmp_path / "results", "pickle", secret=SECRET)
    store.write("key", 1)
    bomb = pickle.dumps(Bomb(marker))
    for planted in (bomb, seal(HEADER._replace(cache_key="key"), bomb, b"the thief's own")):
        (tmp_path / "results" / "key").write_bytes(planted)
        deserialised.clear()
        with pytest.raises(ResultCorrupt):
            store.read("key")
        assert deserialised == [] and not marker.exists()


class Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)
