"""Values that prove they are what was kept: a header that says whose they are, the payload, a digest with a key.

The layout of a sealed value, all numbers with the most significant byte first:

    magic (7 bytes)  format (1)  length of header (4)  length of payload (8)  header (JSON)  payload  digest (32)

The digest covers everything before it, so neither part can be exchanged for that of another value. It is a BLAKE2b
whose key is only in a file of the user's: who can write the values, but not read that file, cannot make one. Nothing
but magic and format is looked at before the digest is found right, and nothing is deserialised.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

from penstock.exceptions import ResultCorrupt, SerializationError

FORMAT = 1
LONGEST_HEADER = 2**20  # bytes
_MAGIC = b"pstkval"
_FRAME = struct.Struct(">7sBIQ")
_DIGEST = 32  # bytes
_LATEST = 1e11  # seconds since the epoch; what is later is no time that Python has

Sealed = bytes | bytearray | memoryview


class Header(NamedTuple):
    """Whose a kept value is."""

    address: str  # id of the run that made it
    cache_key: str | None  # what it answers to
    task_key: str  # identity of the task
    serializer: str  # name of the one that wrote the payload
    created: float  # seconds since the epoch
    expires: float | None = None
    ingredients: dict[str, Any] | None = None  # what the cache key was made of, for explanations


def seal(header: Header, payload: bytes, secret: bytes) -> bytes:
    """Return payload and header as one sealed value.

    Ingredients that would make the header longer than `LONGEST_HEADER` are left out: they explain, they decide nothing.
    Raises `SerializationError` if it is too long without them, or its times are no numbers.
    """
    head = _encoded(header)
    if len(head) > LONGEST_HEADER:
        head = _encoded(header._replace(ingredients=None))
    if len(head) > LONGEST_HEADER:
        raise SerializationError(f"the cache key of {header.address} is too long to be kept ({len(head):,} bytes)")
    frame = _FRAME.pack(_MAGIC, FORMAT, len(head), len(payload))
    return b"".join((frame, head, payload, _digest(secret, frame, head, payload)))


def unseal(sealed: Sealed, secret: bytes, place: str = "") -> tuple[Header, bytes]:
    """Return header and payload of a sealed value that is what was sealed with this secret.

    Raises `ResultCorrupt`, with `place` in it, for anything else. Whether it is the value that was asked for is for
    the caller to see: the header says.
    """
    view = memoryview(sealed)
    _check_kind(view, place)
    found, body = bytes(view[-_DIGEST:]), view[:-_DIGEST]
    # The digest itself is told to nobody: how far it is right must not be told by the time this takes either.
    from hmac import compare_digest

    if not compare_digest(_digest(secret, body), found):
        raise ResultCorrupt(
            place, "its digest is wrong: damaged, or sealed with another key (see PENSTOCK_RESULTS_KEY_PATH)"
        )
    _, _, head_size, payload_size = _FRAME.unpack_from(body)
    start = _FRAME.size + head_size
    if start + payload_size != len(body):
        raise ResultCorrupt(place, "its lengths do not add up")
    return _decoded(bytes(body[_FRAME.size : start]), place), bytes(body[start:])


def peek(sealed: Sealed, place: str = "") -> Header:
    """Return what the header says, unverified: to be shown, not to be believed. The beginning of the value is enough.

    Raises `ResultCorrupt` if there is no header.
    """
    view = memoryview(sealed)
    _check_kind(view, place)
    _, _, head_size, _ = _FRAME.unpack_from(view)
    head = bytes(view[_FRAME.size : _FRAME.size + min(head_size, LONGEST_HEADER + 1)])
    if head_size > LONGEST_HEADER or len(head) != head_size:
        raise ResultCorrupt(place, "its header is cut off")
    return _decoded(head, place)


def _check_kind(view: memoryview, place: str) -> None:
    if len(view) < _FRAME.size + _DIGEST:
        raise ResultCorrupt(place, f"it is cut off: {len(view)} bytes")
    magic, number, _, _ = _FRAME.unpack_from(view)
    if magic != _MAGIC:
        raise ResultCorrupt(place, "it is no kept value")
    if number != FORMAT:
        raise ResultCorrupt(place, f"it has format {number}; this version of penstock reads format {FORMAT}")


def _digest(secret: bytes, *parts: bytes | memoryview) -> bytes:
    from hashlib import blake2b  # not needed by programs that keep nothing

    hashed = blake2b(key=secret, digest_size=_DIGEST, person=b"penstock result")
    for part in parts:
        hashed.update(part)
    return hashed.digest()


def _encoded(header: Header) -> bytes:
    try:
        text = json.dumps(header._asdict(), sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise SerializationError(f"the header of a kept value cannot be written: {error}") from error
    return text.encode("ascii")


def _decoded(head: bytes, place: str) -> Header:
    try:
        fields = json.loads(head.decode("ascii"), parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise ResultCorrupt(place, "its header cannot be read") from error
    if not _fits(fields):
        raise ResultCorrupt(place, "its header is not one of a kept value")
    return Header(**cast("dict[str, Any]", fields))


def _refuse(constant: str) -> None:
    raise ValueError(constant)


_TYPES: Mapping[str, tuple[type, ...]] = {
    "address": (str,),
    "cache_key": (str, type(None)),
    "task_key": (str,),
    "serializer": (str,),
    "created": (int, float),
    "expires": (int, float, type(None)),
    "ingredients": (dict, type(None)),
}


def _fits(fields: object) -> bool:
    # By exact type: a bool is an int, and no time.
    return (
        type(fields) is dict
        and fields.keys() == _TYPES.keys()
        and all(type(fields[name]) in types for name, types in _TYPES.items())
        and all(abs(fields[name] or 0) < _LATEST for name in ("created", "expires"))
    )
