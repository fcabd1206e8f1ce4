"""Log lines as people read them."""

from __future__ import annotations

import logging
import time

from penstock.cli.text import Shade, coloured, moment, printable
from penstock.store.base import LineRow, LogRow, RunRow


def form_of(run: RunRow) -> str:
    """Of the times of its log: without the day if the run began today, and has ended today or still goes on."""
    now = time.time()
    days = {moment(at, "%Y-%m-%d") for at in (run.created, run.ended or now, now)}
    return "%H:%M:%S" if len(days) == 1 else "%Y-%m-%d %H:%M:%S"


def line_text(row: LogRow | LineRow, name: str, form: str) -> str:
    """`12:31:05.123 WARNING  load-0  3 rows are empty`: `name` is that of the run, `form` that of the time."""
    at = f"{moment(row.time, form)}.{int(row.time % 1 * 1000):03d}"
    colour = "red" if row.level >= logging.ERROR else "yellow" if row.level >= logging.WARNING else None
    level = coloured(Shade(f"{logging.getLevelName(row.level):<8}", colour))
    return f"{at} {level} {name}  {printable(row.message)}"
