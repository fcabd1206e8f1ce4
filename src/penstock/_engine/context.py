"""The context variables: which run is the code that is executing now part of, under which tags, in which transaction.

Everything ambient lives in these variables; nothing else in the package keeps "current" state.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from penstock._engine.run import Run

current_run: ContextVar[Run | None] = ContextVar("penstock_run", default=None)
"""The task or flow run whose body is executing, if any."""

current_transaction: ContextVar[Any] = ContextVar("penstock_transaction", default=None)
"""The innermost transaction around the code that is executing, if any."""

current_tags: ContextVar[frozenset[str]] = ContextVar("penstock_tags", default=frozenset())
"""The tags of the enclosing `with tags(...)` blocks."""
