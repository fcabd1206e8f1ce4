"""Run ids: UUIDs of version 7, so that they sort by time.

Drawing each id from the operating system would cost a system call per task. One flow run draws 74 random
bits once and numbers its task runs upwards from there, which RFC 9562 (section 6.2, method 2) provides for.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from itertools import count
from uuid import UUID

_VERSION = 7 << 76
_VARIANT = 2 << 62


def id_block() -> Iterator[int]:
    """Return an endless iterator of fresh 128-bit ids; `next` on it is atomic."""
    stamp = int(time.time() * 1000) & (2**48 - 1)
    random = int.from_bytes(os.urandom(10), "big")
    high, low = random >> 68, random & (2**61 - 1)  # bit 61 stays clear: counting up cannot reach the variant
    return count((stamp << 80) | _VERSION | (high << 64) | _VARIANT | low)


def as_uuid(number: int) -> UUID:
    return UUID(int=number)


def as_hex(number: int) -> str:
    """The 32 hexadecimal digits under which the record keeps the id."""
    return f"{number:032x}"
