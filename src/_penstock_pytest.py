"""The pytest plugin: what `penstock.testing` offers as fixtures.

It lives outside the package because pytest imports plugins at every start, in every project of the environment
and before coverage is measured; importing anything inside the package would import all of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from penstock.store.base import Reader


@pytest.fixture
def penstock_store() -> Iterator[Reader]:
    """A throw-away store that the test's runs are recorded in: see `penstock.testing.isolated_store`."""
    from penstock.testing import isolated_store

    with isolated_store() as store:
        yield store
