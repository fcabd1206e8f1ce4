"""What a worker sends home: reports of visits and errors, so packed that rebuilding them at home does no harm."""

from __future__ import annotations

from typing import Any

from penstock._core import serial
from penstock._core.errors import add_note, describe, traceback_of
from penstock._core.tracebacks import WORKER_NOTE
from penstock.exceptions import FailedRun, SerializationError

_HARMLESS = frozenset({type(None), bool, int, float, complex, str, bytes, bytearray, range})
_HARMLESS_NAMES = frozenset(
    {"datetime", "date", "time", "timedelta", "Decimal", "Fraction", "UUID", "PosixPath", "array"}
)
_HARMLESS_MODULES = frozenset({"datetime", "decimal", "fractions", "uuid", "pathlib"})


def pack_report(report: Any) -> serial.Packed:
    """What the parent can rebuild without harm: values of foreign types are rebuilt here first, as a trial."""
    if report.is_plain:
        return serial.pack(tuple(report), "return value", plain=True)
    if report.error is not None:
        report = report._replace(error=portable_error(report.error))
    strays = [stray._replace(error=portable_error(stray.error)) for stray in report.strays]
    try:
        packed = serial.pack(tuple(report._replace(strays=strays)), "return value")
    except SerializationError:
        serial.pack(report.value, "return value")  # said again, with a path that begins at the value
        raise
    if not _is_trusted(report.value):
        _try_out(packed)
    return packed


def _try_out(packed: serial.Packed) -> None:
    try:
        serial.unpack(packed)
    except Exception as error:
        message = f"return value cannot be rebuilt: {describe(error)}"
        raise SerializationError(message, path="return value") from error


def _is_trusted(value: Any) -> bool:
    """Whether rebuilding it executes nobody's code. Large containers are not looked through: trying out is cheaper."""
    kind = type(value)
    if kind in _HARMLESS:
        return True
    if kind in (list, tuple, set, frozenset):
        return len(value) < 100 and all(map(_is_trusted, value))
    if kind is dict:
        return len(value) < 100 and all(map(_is_trusted, value)) and all(map(_is_trusted, value.values()))
    if kind.__module__ == "numpy" and kind.__name__ == "ndarray":
        return not value.dtype.hasobject
    return kind.__module__ in _HARMLESS_MODULES and kind.__name__ in _HARMLESS_NAMES


def portable_error(error: BaseException) -> BaseException:
    """The exception with its traceback as a note; a `FailedRun` that tells of it, if it cannot be sent."""
    substitute = FailedRun(describe(error))
    note = f"{WORKER_NOTE}\n{traceback_of(error).rstrip()}"
    substitute.add_note(note)
    add_note(error, note)
    try:
        rebuilt = serial.unpack(serial.pack(error, "exception", apart=False))
    except Exception:
        return substitute
    return error if type(rebuilt).__qualname__ == type(error).__qualname__ else substitute


def packed_error(error: BaseException) -> bytes:
    """An error of the machinery: what would end the program at home is told there as a failure."""
    portable = portable_error(error)
    if not isinstance(portable, Exception):
        portable = FailedRun(describe(error))
    return serial.pack(portable, "exception", apart=False).data
