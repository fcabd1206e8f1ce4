"""One example store for all tests that only look."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from dashboards import Asked, Looked, make_example

from penstock.recovery import open_reader
from penstock.store.base import Reader


@pytest.fixture(scope="session")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which much has happened: nobody may change it."""
    home = tmp_path_factory.mktemp("dashboard") / "store"
    make_example(home)
    return home


@pytest.fixture
def look(example: Path) -> Iterator[Looked]:
    looked = Looked(example)
    with closing(looked.records):
        yield looked


@pytest.fixture
def reader(example: Path) -> Iterator[Reader]:
    with closing(open_reader(example)) as reader:
        yield reader


@pytest.fixture
def asked(example: Path) -> Iterator[Asked]:
    with Asked(example) as asked:
        yield asked
