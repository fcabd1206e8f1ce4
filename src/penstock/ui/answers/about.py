"""What is shown here, and by what."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import version

from penstock import settings, storing
from penstock.exceptions import ConfigurationError
from penstock.settings import reference
from penstock.store.opening import SCHEMA_VERSION
from penstock.ui.answers.documents import Document, document, line, table
from penstock.ui.asking import Asked
from penstock.ui.records import Records

_USER = re.compile(r"(?<=://)[^/@\s]*(?=@)")


def answer(records: Records, asked: Asked) -> Document:
    return document(
        version=version("penstock"),
        home=line(storing.name_of(records.home, records.url)),
        store="sqlite" if records.url is None else "postgres",
        store_schema=SCHEMA_VERSION,
        actions=False,
        nonce=None,
        settings=table("name value source", _settings()),
    )


def _settings() -> Iterator[tuple[str | None, ...]]:
    """Without what stands in front of the host in a URL, which may be a password."""
    try:
        for one in settings.stated():
            yield one.name, line(_USER.sub("***", reference.shown(one.value))), line(one.where or one.source)
    except ConfigurationError as error:
        yield "error", line(error), None
