"""Log lines and prints of bodies: recorded with the run that they came from.

Both hooks are process-wide, installed once, and decide by context which run a line belongs to. Handlers would
not do: a handler on the root logger turns `logging.basicConfig` into a no-op and misses loggers that do not
propagate. The factory of log records sees every line that passes its logger's level, and changes nothing else.
"""

from __future__ import annotations

import builtins
import logging
import os
import platform
import sys
import threading
import traceback
from typing import Any

from penstock._core.binding import short
from penstock._engine.context import current_run
from penstock._engine.ids import as_hex
from penstock.store.base import LogRow

_QUIET = "penstock.store"  # a failing store must not be asked to record that it fails
_make_record = logging.getLogRecordFactory()
_print = builtins.print
_installed = False
_token = os.urandom(8).hex()  # process ids are few, and containers have names in common
_console: logging.Handler | None = None


def install(level_name: str) -> None:
    """Begin to capture; may be called for every root run. The level is that of the library's own loggers."""
    global _installed, _console
    logger = logging.getLogger("penstock")
    level = logging.getLevelNamesMapping()[level_name]
    if logger.level != level:
        logger.setLevel(level)
    if not _installed:
        _installed = True
        logging.setLogRecordFactory(_record)
        _console = _Console()
        logger.addHandler(_console)


def capture_prints() -> None:
    """Install the print dispatcher, at the first run that wants its prints logged."""
    if builtins.print is not _dispatch_print:
        global _print
        _print = builtins.print
        builtins.print = _dispatch_print


class _Console(logging.StreamHandler[Any]):
    """Shows the library's log lines on stderr, for programs that have not set up logging themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(
            logging.Formatter("%(asctime)s | %(levelname)-7s | %(penstock_run)s - %(message)s", "%H:%M:%S")
        )

    def emit(self, record: logging.LogRecord) -> None:
        if logging.root.handlers:
            return  # the program's own handlers get the line by propagation
        self.stream = sys.stderr  # whatever it is now: tests and notebooks replace it
        super().emit(record)


def _record(*args: Any, **kwargs: Any) -> logging.LogRecord:
    record = _make_record(*args, **kwargs)
    run = current_run.get()
    record.penstock_run = "penstock" if run is None else run.path
    if run is not None and record.name != _QUIET:
        row = LogRow(as_hex(run.id), record.created, record.levelno, record.name, _text(record))
        run.engine.recorder.log(row)
    return record


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception as error:  # logging reports it through its handlers; the record keeps what there is
        return f"{record.msg} (cannot be formatted: {error})"


def _text(record: logging.LogRecord) -> str:
    text = _message(record)
    if record.exc_info and record.exc_info[0] is not None:
        text += "\n" + logging.Formatter().formatException(record.exc_info)
    return text


def _dispatch_print(
    *values: object, sep: str | None = " ", end: str | None = "\n", file: Any = None, flush: bool = False
) -> None:
    run = current_run.get()
    logged = run is not None and run.plan.log_prints and file in (None, sys.stdout, sys.stderr)
    if run is None or not logged or _logging_print.on or not isinstance(sep, str | None):
        _print(*values, sep=sep, end=end, file=file, flush=flush)
        return
    text = (" " if sep is None else sep).join(map(str, values))
    _logging_print.on = True  # a handler that prints prints
    try:
        logging.getLogger(f"penstock.{run.plan.kind}_runs").info("%s", text, extra=run.log_extra())
    finally:
        _logging_print.on = False


class _LoggingPrint(threading.local):
    on = False


_logging_print = _LoggingPrint()


# --- between processes ------------------------------------------------------------------------------------------------


def this_process() -> str:
    """Its name among all. A worker of a cluster may be a thread of the flow's own process."""
    return f"{platform.node()}-{os.getpid()}-{_token}"


def levels() -> dict[str, int]:
    """The levels that this process's loggers have been given: a worker must neither drop nor add lines."""
    named = logging.root.manager.loggerDict.items()
    found = {name: logger.level for name, logger in named if isinstance(logger, logging.Logger) and logger.level}
    return {"root": logging.root.level, **found}


def forward(at_home: dict[str, int]) -> None:
    """In a worker: log lines go home, where the handlers are."""
    for name, level in at_home.items():
        logging.getLogger(None if name == "root" else name).setLevel(level)
    if not any(isinstance(handler, _Forwarder) for handler in logging.root.handlers):
        logging.root.addHandler(_Forwarder())


class _Forwarder(logging.Handler):
    """Passes on the lines of runs that are away from home; in their process there may be others."""

    def emit(self, record: logging.LogRecord) -> None:
        run = current_run.get()
        send = None if run is None else run.engine.recorder.send_home
        if send is not None:
            send(("handle", _portable(record)))


def _portable(record: logging.LogRecord) -> dict[str, Any]:
    """The attributes of a record as plain values."""
    facts = {name: value for name, value in record.__dict__.items() if type(value) in _PLAIN}
    for name, value in record.__dict__.items():
        if name not in facts and name not in _REPLACED:
            facts[name] = short(value)
    if record.exc_info and record.exc_info[0] is not None:
        facts["exc_text"] = logging.Formatter().formatException(record.exc_info)
    return {**facts, "msg": _message(record), "args": None, "exc_info": None}


_REPLACED = ("msg", "args", "exc_info")
_PLAIN = (type(None), bool, int, float, str)


def handle(facts: dict[str, Any]) -> None:
    """At home: hand a worker's line to the handlers."""
    record = logging.makeLogRecord(facts)
    logger = logging.getLogger(record.name)
    if logger.isEnabledFor(record.levelno):
        try:
            logger.handle(record)
        except Exception:  # in the body it would have raised there; here it has no business to
            traceback.print_exc()
