"""What users may type to name a run."""

from __future__ import annotations

_HEX = frozenset("0123456789abcdef")


def id_prefix(text: str) -> str:
    """Return `text` as the beginning of an id (without dashes, lower case), or "" if it cannot be one."""
    digits = text.replace("-", "").lower()
    return digits if len(digits) <= 32 and _HEX.issuperset(digits) else ""
