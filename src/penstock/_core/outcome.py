"""How one attempt at a body ended, as a value that can cross a process border."""

from __future__ import annotations

from typing import Any

from penstock._core.machine import Event


class Outcome:
    """What a worker reports: the machine's event, with the value or the exception that belongs to it."""

    __slots__ = ("error", "event", "message", "state", "value")

    def __init__(
        self,
        event: Event,
        value: Any = None,
        error: BaseException | None = None,
        message: str | None = None,
        state: Any = None,
    ) -> None:
        self.event = event
        self.value = value
        self.error = error
        self.message = message
        self.state = state  # a hand-made State that the body returned, to be shown as it is

    def __repr__(self) -> str:
        return f"<Outcome {self.event.name} {self.message or ''}>"

    def __reduce__(self) -> Any:
        return Outcome, (self.event, self.value, self.error, self.message, self.state)
