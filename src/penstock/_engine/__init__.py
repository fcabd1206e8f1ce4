"""The shell: threads, time and ambient context live here and nowhere else.

What a process shares between flow runs is ended by `shutdown`, in this order: first nothing new is begun (timers,
the background loop, idle workers), then what is left to record is written and the store is closed.
"""

from __future__ import annotations

from penstock._engine import clock, limits, loop, recorder
from penstock.task_runners.base import close_shared_workers


def shutdown() -> None:
    """End the helpers that outlive a flow run; the next flow run starts new ones. Blocks for a moment."""
    clock.stop_timers()
    loop.stop_background()
    close_shared_workers()
    recorder.close_recorders()
    limits.rest()
