"""`penstock result`."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from penstock.cli import kept
from penstock.cli.common import NotFound, Opened, Unreadable, json_option, store_option, title
from penstock.cli.completing import run_argument
from penstock.cli.kept import Kept
from penstock.cli.selecting import RUN_HELP, the_run
from penstock.cli.text import as_json, moment, printable, size
from penstock.exceptions import ConfigurationError, ResultCorrupt, SerializationError
from penstock.results import files
from penstock.results.sealed import Header
from penstock.serializers import CompressedSerializer
from penstock.store.base import Reader, RunRow

_COMPRESSED = "compressed/"


@click.command(epilog=RUN_HELP)
@run_argument
@click.option(
    "--to",
    "target",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    metavar="FILE",
    help="Write the value there as it was serialised; - is standard output. A file of that name is replaced.",
)
@json_option
@store_option
def result(run: str, target: Path | None, json_wanted: bool, store: Path | None) -> None:
    """Print the result of a run, if it was kept.

    What was written as JSON is printed as JSON; what JSON does not have is an object with a mark: {"$tuple": [1, 2]}.
    Of anything else, what the record shows of it is printed, and the Python that loads it: to load a pickle is to
    execute it, so this command never does. Before anything is printed or written, the seal of the value is verified:
    it is what penstock has kept here. Without a kept result, the exit status is 3.

    For example, the result of the flow run that was started last, and the bytes of one in it:

    \b
        penstock result @last
        penstock result '@last/extract-0[3]' --to rows.pickle
    """
    opened = Opened(store)
    with opened as reader:
        row = the_run(reader, run)
        about = kept.about(reader, row, opened.home)
        if about is None:
            raise NotFound(_why_not(row))
        header, payload = _verified(reader, row, opened.home)
    if header.expires is not None and header.expires <= time.time():
        click.echo(f"It has expired, at {moment(header.expires)}: no run will use it any more.", err=True)
    if target is not None:
        _write(target, payload, header)
    elif json_wanted:
        click.echo(as_json(_as_document(row, about, header, payload, run)))
    else:
        click.echo(_as_text(row, about, header, payload, run))


def _why_not(row: RunRow) -> str:
    if row.status != "COMPLETED":
        return f"{title(row)} has no result: it is {printable(row.state_name)}. Type: penstock show {row.id}"
    seen = "" if row.result is None else f" The record shows of it: {printable(row.result)}"
    return f"the result of {title(row)} was not kept; persist_result=True keeps results.{seen}"


def _verified(reader: Reader, row: RunRow, home: Path) -> tuple[Header, bytes]:
    try:
        return kept.payload(reader, row, home)
    except LookupError as error:
        raise NotFound(f"the result of {title(row)} was kept, but {error.args[0]}") from error
    except (ResultCorrupt, ConfigurationError, OSError, ImportError) as error:
        raise Unreadable(f"the result of {title(row)} cannot be read: {error}") from error


def _write(target: Path, payload: bytes, header: Header) -> None:
    if str(target) == "-":
        sys.stdout.buffer.write(payload)
        return
    place = target.absolute()
    try:
        files.write(place.parent, place.name, payload, durable=False)
    except (OSError, ValueError) as error:
        raise click.UsageError(f"{target} cannot be written: {error}") from error
    click.echo(f"{target}: {size(len(payload))}, written by the serializer {printable(header.serializer)}", err=True)


def _as_document(row: RunRow, about: Kept, header: Header, payload: bytes, typed: str) -> dict[str, Any]:
    told = about._replace(serializer=header.serializer, created=header.created, expires=header.expires)
    return {
        "run": row.id,
        "run_name": row.run_name,
        "kept": told._asdict(),
        "shown": row.result,
        "value": next(_from_json(header.serializer, payload), None),
        "load": _python(about, header),
    }


def _as_text(row: RunRow, about: Kept, header: Header, payload: bytes, typed: str) -> str:
    for value in _from_json(header.serializer, payload):
        return _tamed(json.dumps(value, indent=2, ensure_ascii=False))
    how = f"{size(len(payload))} as {printable(header.serializer)}, from {moment(header.created)}"
    shown = printable(row.result or "(the record shows nothing of it)")
    code = "\n".join(f"    {line}" for line in _python(about, header))
    return f"{shown}\n\nKept: {how}.\n{_first(about, header, typed)}\n{code}"


def _tamed(text: str) -> str:
    """JSON that cannot move the cursor of a terminal."""
    return "".join(char if char.isprintable() or char == "\n" else json.dumps(char)[1:-1] for char in text)


def _from_json(serializer: str, payload: bytes) -> Iterator[Any]:
    """The value as JSON has it; nothing if it was not written as JSON. Executes nothing of the value's."""
    try:
        while serializer.startswith(_COMPRESSED):
            serializer = serializer.removeprefix(_COMPRESSED)
            payload = CompressedSerializer(_Raw()).loads(payload)
        if serializer == "json":
            yield json.loads(payload)
    except (SerializationError, ValueError, RecursionError) as error:
        raise Unreadable(f"it is not the JSON that it says it is: {error}") from error


class _Raw:
    """Takes bytes for what they are: what is left when they are expanded."""

    type = "raw"

    def dumps(self, obj: bytes, /) -> bytes:
        return obj

    def loads(self, blob: bytes, /) -> bytes:
        return blob


def _first(about: Kept, header: Header, typed: str) -> str:
    """What has to be done before Python can load it."""
    if about.storage is not None:
        return "To load it, in Python:"
    command = shlex.join(["penstock", "result", typed, "--to", _file(header)])
    return f"To load it, type: {command}, then in Python:"


def _python(about: Kept, header: Header) -> list[str]:
    """What to type to have the value itself."""
    if about.storage is not None:
        read = f"value = ResultStore({about.storage!r}).read({about.key!r}).result"
        return ["from penstock.results import ResultStore", read]
    where, reader = _reader(header.serializer)
    read = f"value = {reader}.loads(Path({_file(header)!r}).read_bytes())"
    return ["from pathlib import Path", f"from penstock.{where}", read]


def _file(header: Header) -> str:
    return "value." + header.serializer.rpartition("/")[2]


def _reader(serializer: str) -> tuple[str, str]:
    """What to import, and what to call `loads` of."""
    if serializer in ("pickle", "json"):
        name = {"pickle": "PickleSerializer", "json": "JSONSerializer"}[serializer]
        return f"serializers import {name}", f"{name}()"
    if serializer.startswith(_COMPRESSED):
        return (
            "serializers import CompressedSerializer",
            f"CompressedSerializer({serializer.removeprefix(_COMPRESSED)!r})",
        )
    return "results import ResultStore", f"ResultStore(serializer={serializer!r}).serializer"
