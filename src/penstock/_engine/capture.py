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
from collections.abc import Callable
from types import FrameType
from typing import Any

from penstock._core.binding import short
from penstock._engine import console
from penstock._engine.context import current_run
from penstock._engine.ids import as_hex
from penstock.store.base import LogRow

FLOW_RUNS, TASK_RUNS = "penstock.flow_runs", "penstock.task_runs"
_QUIET = "penstock.store"  # a failing store must not be asked to record that it fails
_print = builtins.print
_factory: Callable[..., logging.LogRecord] | None = None
_token = os.urandom(8).hex()  # process ids are few, and containers have names in common
_level_set = logging.NOTSET
_FRAMES_OF_A_REPORT = 6  # from `Handler.handleError` through `traceback` to `print`


def install(level_name: str, form: str) -> None:
    """Begin to capture; may be called for every root run. The level is that of the library's own loggers."""
    global _factory
    if logging.getLogRecordFactory() is not _factory:
        _factory = _capturing(logging.getLogRecordFactory())
        logging.setLogRecordFactory(_factory)
    _set_level(logging.getLevelNamesMapping()[level_name])
    console.install(form)


def _set_level(level: int) -> None:
    """Unless the program has given the logger another one. `logging.config` disables what it finds: not these."""
    global _level_set
    logger = logging.getLogger("penstock")
    if logger.level in (logging.NOTSET, _level_set) and logger.level != level:
        logger.setLevel(level)
        _level_set = level
    logger.disabled = logging.getLogger(FLOW_RUNS).disabled = logging.getLogger(TASK_RUNS).disabled = False


def capture_prints() -> None:
    """Install the print dispatcher, at the first run that wants its prints logged."""
    if builtins.print is not _dispatch_print:
        global _print
        _print = builtins.print
        builtins.print = _dispatch_print


def _capturing(make: Callable[..., logging.LogRecord]) -> Callable[..., logging.LogRecord]:
    """The program's factory of log records, whatever that is, with capture."""

    def factory(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        if not hasattr(record, "penstock_run"):  # else `make` is ours, inside one that the program has set since
            _capture(record)
        return record

    return factory


def _capture(record: logging.LogRecord) -> None:
    run = current_run.get()
    record.penstock_run = console.OUTSIDE if run is None else run.path
    # Without a name it is an empty one that `makeLogRecord` is about to fill.
    if run is None or record.name is None or record.name == _QUIET:
        return
    if record.levelno >= run.engine.records_from:
        row = LogRow(as_hex(run.id), record.created, record.levelno, record.name, _text(record))
        run.engine.recorder.log(row)


def _text(record: logging.LogRecord) -> str:
    parts = [console.text_of(record)]
    if record.exc_info and record.exc_info[0] is not None:
        parts.append(logging.Formatter().formatException(record.exc_info))
    if record.stack_info:
        parts.append(record.stack_info)
    return "\n".join(parts)


def _dispatch_print(
    *values: object, sep: str | None = " ", end: str | None = "\n", file: Any = None, flush: bool = False
) -> None:
    run = current_run.get()
    logged = run is not None and run.plan.log_prints and file in (None, sys.stdout, sys.stderr)
    if run is None or not logged or _logging_print.on or not isinstance(sep, str | None) or _reports_logging_error():
        _print(*values, sep=sep, end=end, file=file, flush=flush)
        return
    text = (" " if sep is None else sep).join(map(str, values)).removesuffix("\n")
    _logging_print.on = True  # a handler that prints prints
    try:
        logger = logging.getLogger(f"penstock.{run.plan.kind}_runs")
        logger.info("%s", text, extra=run.log_extra(), stacklevel=2)  # the line is the caller's, not ours
    finally:
        _logging_print.on = False


def _reports_logging_error() -> bool:
    """Whether a handler is printing why it could not write a line: to log that would go in circles."""
    frame: FrameType | None = sys._getframe(2)
    for _ in range(_FRAMES_OF_A_REPORT):
        if frame is None or frame.f_code is logging.Handler.handleError.__code__:
            return frame is not None
        frame = frame.f_back
    return False


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
        elif logging.root.handlers == [self] and logging.lastResort is not None:
            logging.lastResort.handle(record)  # of a thread that knows of no run: nobody else would show it


def _portable(record: logging.LogRecord) -> dict[str, Any]:
    """The attributes of a record as plain values."""
    facts = {name: value for name, value in record.__dict__.items() if type(value) in _PLAIN}
    for name, value in record.__dict__.items():
        if name not in facts and name not in _REPLACED:
            facts[name] = short(value)
    if record.exc_info and record.exc_info[0] is not None:
        facts["exc_text"] = logging.Formatter().formatException(record.exc_info)
    said = {"msg": console.text_of(record), "args": None, "exc_info": None}
    return {**facts, **said, "penstock_origin": console.origin(record)}


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
