"""Log lines on standard error, for programs that have not set up logging: as text, or as JSON.

Nothing is added to any logger. Python has a handler of last resort for lines that no handler took; ours takes its
place. So it stands aside by itself, as soon as the program gives the root logger or the logger `penstock` a handler,
and `logging.basicConfig` works as ever. What has nothing to do with runs goes to the one that was there before.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

from penstock._core.binding import short
from penstock._core.errors import describe
from penstock._engine.context import current_run

OUTSIDE = "penstock"  # in the place of the run's name, for lines that come from no run


class TextFormatter(logging.Formatter):
    """`12:31:05.123 | INFO    | etl/brave-otter · extract-0[3] - message`: time, level, run and task run, message."""

    def __init__(self) -> None:
        super().__init__(datefmt="%H:%M:%S")

    def usesTime(self) -> bool:
        return True

    def format(self, record: logging.LogRecord) -> str:
        try:
            return super().format(record)
        except Exception:  # the caller's arguments: a line about that is worth more than a traceback of logging's
            return super().format(logging.makeLogRecord({**record.__dict__, "msg": text_of(record), "args": None}))

    def formatMessage(self, record: logging.LogRecord) -> str:
        where: str = getattr(record, "penstock_run", OUTSIDE)
        said = record.message
        if not said.startswith(f"{where} "):  # the library's own lines begin with it: they can stand alone
            said = f"{where} - {said}"
        return f"{record.asctime}.{int(record.msecs):03} | {record.levelname:<7} | {said}"


class JsonFormatter(logging.Formatter):
    """One JSON object on one line: what was said, when, and by which attempt at which run.

    Keys: `time` (ISO 8601, UTC), `level`, `logger`, `message`, `flow_run_id`, `flow_run_name`, `task_run_id`,
    `task_run_name`, `attempt`, `exception`. What there is not is null.
    """

    def format(self, record: logging.LogRecord) -> str:
        said = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": text_of(record),
            **origin(record),
            "exception": self._exception(record),
        }
        return json.dumps(said)

    def _exception(self, record: logging.LogRecord) -> str | None:
        if record.exc_info and record.exc_info[0] is not None:
            return self.formatException(record.exc_info)
        return record.exc_text


def text_of(record: logging.LogRecord) -> str:
    """The message with its arguments; if they do not fit, that, and where it was written. Never raises."""
    try:
        return record.getMessage()
    except Exception as error:
        said = record.msg if type(record.msg) is str else short(record.msg)
        return f"{said} (cannot be formatted: {describe(error)}, in {record.pathname}:{record.lineno})"


def origin(record: logging.LogRecord) -> dict[str, Any]:
    """The run that a line comes from: this thread's, or the one that was noted where the line was written."""
    noted: dict[str, Any] | None = getattr(record, "penstock_origin", None)
    if noted is not None:
        return noted
    run = current_run.get()
    facts = {} if run is None else {**run.log_extra(), "attempt": run.attempt or None}
    facts |= {name: value for name, value in record.__dict__.items() if name in _ORIGIN}
    return {name: facts.get(name) for name in _ORIGIN}


_ORIGIN = ("flow_run_id", "flow_run_name", "task_run_id", "task_run_name", "attempt")


class Console(logging.StreamHandler[Any]):
    """The handler of last resort."""

    def __init__(self, before: logging.Handler | None) -> None:
        super().__init__()
        self._before = before

    @property
    def stream(self) -> Any:
        """Standard error, whatever it is now: tests and notebooks replace it."""
        return sys.stderr

    @stream.setter
    def stream(self, _: Any) -> None: ...

    def speak(self, form: str) -> None:
        """Write lines as "text" or "json" from now on."""
        wanted = JsonFormatter if form == "json" else TextFormatter
        if type(self.formatter) is not wanted:
            self.setFormatter(wanted())

    def emit(self, record: logging.LogRecord) -> None:
        ours = record.name.startswith("penstock") or getattr(record, "penstock_run", OUTSIDE) != OUTSIDE
        if ours:
            super().emit(record)
        elif self._before is not None and record.levelno >= self._before.level:
            if type(self.formatter) is JsonFormatter:
                super().emit(record)  # who reads JSON can read nothing else
            else:
                self._before.handle(record)


def install(form: str) -> None:
    """Be the handler of last resort."""
    console = logging.lastResort
    if not isinstance(console, Console):
        console = logging.lastResort = Console(console)
    console.speak(form)
