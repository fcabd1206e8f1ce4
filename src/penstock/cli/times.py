"""Moments as people type them."""

from __future__ import annotations

import re
import time
from datetime import datetime, timedelta

import click

TIME_HELP = (
    "A TIME is how long ago (45s, 10m, 2h, 3d, 1w), today, yesterday, or a date or time such as 2026-05-31 or"
    " 2026-05-31T12:30."
)
"""For the help of commands that take one."""

_AGO = re.compile(r"(?P<number>\d+(\.\d+)?) ?(?P<unit>[smhdw])")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}
_DAYS = {"today": 0, "yesterday": 1}


class Moment(click.ParamType[float]):
    """Seconds since the epoch. What names no time zone is in that of this machine."""

    name = "TIME"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        text = str(value).strip()
        try:
            return seconds_of(text, time.time())
        except (ValueError, OverflowError, OSError):
            self.fail(f"{text!r} is no time. {TIME_HELP}", param, ctx)


def seconds_of(text: str, now: float) -> float:
    """The moment that `text` means at the time `now`. Raises ValueError, OverflowError or OSError if it means none."""
    if ago := _AGO.fullmatch(text):
        return now - float(ago["number"]) * _SECONDS[ago["unit"]]
    if text in _DAYS:
        midnight = datetime.fromtimestamp(now).replace(hour=0, minute=0, second=0, microsecond=0)
        return (midnight - timedelta(days=_DAYS[text])).timestamp()
    return datetime.fromisoformat(text).timestamp()
