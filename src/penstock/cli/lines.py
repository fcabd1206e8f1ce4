"""Log lines as people read them."""

from __future__ import annotations

import logging

from penstock.cli.text import Shade, coloured, moment, printable
from penstock.store.base import LineRow, LogRow


def line_text(row: LogRow | LineRow, name: str, form: str = "%H:%M:%S") -> str:
    """`12:31:05.123 WARNING  load-0  3 rows are empty`: `name` is that of the run, `form` that of the time."""
    time = f"{moment(row.time, form)}.{int(row.time % 1 * 1000):03d}"
    colour = "red" if row.level >= logging.ERROR else "yellow" if row.level >= logging.WARNING else None
    level = coloured(Shade(f"{logging.getLevelName(row.level):<8}", colour))
    return f"{time} {level} {name}  {printable(row.message)}"
