"""`import penstock` is paid by every script, so it loads only what every script needs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

LISTING = """
import sys
before = set(sys.modules)
import penstock
import json
print(json.dumps(sorted(set(sys.modules) - before)))
"""
THIRD_PARTY = [
    *("click", "cloudpickle", "dask", "distributed", "fsspec", "psycopg", "pydantic", "ray", "rich"),
    *("starlette", "uvicorn"),
]
STANDARD_LIBRARY = ["asyncio", "multiprocessing", "sqlite3"]
OURS = ["penstock.cli", "penstock.testing", "penstock.ui"]


@pytest.fixture(scope="module")
def loaded() -> frozenset[str]:
    command = [sys.executable, "-I", "-c", LISTING]
    run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    return frozenset(json.loads(run.stdout))


def test_the_listing_sees_the_import(loaded: frozenset[str]) -> None:
    assert "penstock" in loaded


@pytest.mark.parametrize("module", [*THIRD_PARTY, *STANDARD_LIBRARY, *OURS])
def test_import_does_not_load(module: str, loaded: frozenset[str]) -> None:
    assert module not in loaded
