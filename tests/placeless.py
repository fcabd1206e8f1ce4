"""Messages about failures without the places in the code that they name: those have tests of their own."""

from __future__ import annotations

import re


def placeless(text: object) -> str:
    return re.sub(r" at \w+\.py:\d+| \(\w+\.py:\d+\)", "", str(text))
