"""One example store for all tests that only look, of each kind.

A module with `ON_BOTH_STORES = True` has its tests run on a file and on Postgres, as far as they use a store.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from dashboards import Asked, Looked, Place, make_example

from penstock.recovery import open_reader
from penstock.store.base import Reader

KINDS = ("sqlite", "postgres")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "kind" in metafunc.fixturenames and getattr(metafunc.module, "ON_BOTH_STORES", False):
        metafunc.parametrize("kind", KINDS, indirect=True, scope="session")


@pytest.fixture(scope="session")
def kind(request: pytest.FixtureRequest) -> str:
    """Of store."""
    return str(getattr(request, "param", KINDS[0]))


@pytest.fixture(scope="session")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which much has happened: nobody may change it."""
    home = tmp_path_factory.mktemp("dashboard") / "store"
    make_example(home)
    return home


@pytest.fixture(scope="session")
def shown(kind: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Likewise, of each kind."""
    if kind == "sqlite":
        return Place(request.getfixturevalue("example"))
    place = Place(tmp_path_factory.mktemp("dashboard") / "home", request.getfixturevalue("server").new_database())
    make_example(place)
    return place


@pytest.fixture
def own(kind: str, own_store: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Place:
    """The test's own store, of each kind; the settings name it."""
    if kind == "sqlite":
        return Place(own_store)
    url = request.getfixturevalue("server").new_database()
    monkeypatch.setenv("PENSTOCK_STORE_URL", url)
    return Place(own_store, url)


@pytest.fixture
def look(shown: Place) -> Iterator[Looked]:
    looked = Looked(*shown)
    with closing(looked.records):
        yield looked


@pytest.fixture
def reader(shown: Place) -> Iterator[Reader]:
    with closing(open_reader(*shown)) as reader:
        yield reader


@pytest.fixture
def asked(shown: Place) -> Iterator[Asked]:
    with Asked(shown.home, url=shown.url) as asked:
        yield asked
