"""Whether this process is a notebook's kernel, and what its cells are called there."""

from __future__ import annotations

import sys
from typing import Any


def shell() -> Any:
    """IPython's shell: that of a kernel, or of its own prompt. None where there is none."""
    current = getattr(sys.modules.get("IPython"), "get_ipython", None)  # which is not there while it is being imported
    return None if current is None else current()


def cell(file: str) -> str | None:
    """What the cell is called that this file name stands for: `Cell In[3]`. None if it stands for none."""
    name_of = getattr(getattr(shell(), "compile", None), "format_code_name", None)
    name = None if name_of is None else name_of(file)
    return None if name is None else " ".join(name)
