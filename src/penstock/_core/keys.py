"""Keys: what the rest of the library uses to compare values, functions and sequences of names over time.

`canonical` turns values into bytes, `forms` knows the types of other libraries, `source` and `code` do the same for
functions. A digest is 32 hex digits, the same in every process.
"""

from __future__ import annotations

from typing import Any

from penstock._core.canonical import LEAVES, Unhashable, assume_main, combine, main_name, register_hasher, short_digest
from penstock._core.code import ValueEncoder

__all__ = ["Unhashable", "assume_main", "combine", "digest_of", "main_name", "register_hasher"]


def digest_of(value: Any, path: str = "") -> str:
    """32 hex digits for a value: the same for the same value, others for any other.

    Types count: `1`, `1.0` and `True` differ. The order of dictionaries and sets does not. Functions and classes count
    by name and code. Raises `Unhashable` for what cannot be told from others of its kind; `path` is what its place
    begins with.
    """
    leaf = LEAVES.get(type(value))
    if leaf is not None:
        return short_digest(leaf(value))
    return ValueEncoder().digest(value, path)
