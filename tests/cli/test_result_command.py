"""`penstock result`: kept values, without ever deserialising one that may execute something."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from looking import document, penstock

import penstock as ps
from penstock.cache_policies import INPUTS
from penstock.results.sealed import Header, seal, unseal
from penstock.results.secret import secret_of
from penstock.serializers import CompressedSerializer, JSONSerializer, PickleSerializer
from penstock.settings import temporary_settings
from penstock.store.base import RunRow
from penstock.store.sqlite import SQLiteStore
from penstock.testing.store_suite import batch, kept_row, result_row, run_row

PARENT = run_row(1, kind="flow", name="etl", run_name="brave-otter", status="COMPLETED", ended=9.0)
ROW = kept_row(2, PARENT, run_name="load-0", result="{'a': (1, 2)}")
VALUE = {"a": (1, 2)}


def keep(store: SQLiteStore, serializer: Any, value: Any = VALUE, row: RunRow = ROW, **changes: Any) -> bytes:
    """Record a run with a kept value; its payload."""
    home = Path(os.environ["PENSTOCK_HOME"])
    payload: bytes = serializer.dumps(value)
    header = Header(row.id, "k1", row.key, serializer.type, 1_700_000_000.0)._replace(**changes)
    sealed = seal(header, payload, secret_of(home))
    result = result_row(2, cache_key="k1", sealed=sealed, size=len(sealed), expires=header.expires)
    store.write(batch(PARENT, row, result))
    return payload


def test_json_is_printed_as_json(store: SQLiteStore) -> None:
    keep(store, JSONSerializer(), {"a": (1, 2), "k": "käse \x7f\x9b31m"})
    result = penstock("result", "@last/load-0")
    assert (result.exit_code, result.stderr) == (0, "")
    assert json.loads(result.stdout) == {"a": {"$tuple": [1, 2]}, "k": "käse \x7f\x9b31m"}
    assert '"käse \\u007f\\u009b31m"' in result.stdout  # nothing that could move the cursor
    keep(store, CompressedSerializer(CompressedSerializer("json")), [1, 2])
    assert json.loads(penstock("result", "@last/load-0").stdout) == [1, 2]


def test_anything_else_is_shown_as_recorded_with_the_python_that_loads_it(store: SQLiteStore) -> None:
    payload = keep(store, PickleSerializer())
    result = penstock("result", "@last/load-0")
    assert (result.exit_code, result.stderr) == (0, "")
    shown, _, rest = result.stdout.partition("\n\n")
    assert shown == "{'a': (1, 2)}"
    assert rest.startswith(f"Kept: {len(payload)} bytes as pickle, from 20")
    assert "type: penstock result @last/load-0 --to value.pickle, then in Python:\n" in rest


@pytest.mark.parametrize(
    "serializer", [PickleSerializer(), CompressedSerializer(), JSONSerializer(), CompressedSerializer("json")]
)
def test_the_python_that_is_printed_loads_it(
    store: SQLiteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serializer: Any
) -> None:
    keep(store, serializer)
    monkeypatch.chdir(tmp_path)
    told = document("result", "@last/load-0")
    (file,) = [word for word in " ".join(told["load"]).split("'") if word.startswith("value.")]
    assert penstock("result", "@last/load-0", "--to", file).exit_code == 0
    names: dict[str, Any] = {}
    exec("\n".join(told["load"]), names)
    assert names["value"] == VALUE


def test_as_json_document(store: SQLiteStore) -> None:
    keep(store, JSONSerializer(), expires=4_000_000_000.0)
    kept = store.result(ROW.id)
    assert document("result", "@last/load-0") == {
        "schema": 1,
        "run": ROW.id,
        "run_name": "load-0",
        "kept": {
            "key": ROW.id,
            "storage": None,
            "computed_by": ROW.id,
            "cache_key": "k1",
            "serializer": "json",
            "size": kept and kept.size,
            "created": 1_700_000_000.0,
            "expires": 4_000_000_000.0,
            "trouble": None,
        },
        "shown": "{'a': (1, 2)}",
        "value": {"a": {"$tuple": [1, 2]}},
        "load": [
            "from pathlib import Path",
            "from penstock.serializers import JSONSerializer",
            "value = JSONSerializer().loads(Path('value.json').read_bytes())",
        ],
    }


def test_the_payload_is_written_as_it_was_kept(store: SQLiteStore, tmp_path: Path) -> None:
    payload = keep(store, PickleSerializer())
    target = tmp_path / "value.pickle"
    target.write_text("something old")
    result = penstock("result", "@last/load-0", "--to", target)
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == f"{target}: {len(payload)} bytes, written by the serializer pickle\n"
    assert target.read_bytes() == payload
    assert target.stat().st_mode & 0o777 == 0o600
    assert penstock("result", "@last/load-0", "--to", "-").stdout_bytes == payload
    failed = penstock("result", "@last/load-0", "--to", tmp_path / "no" / "where" / "\n")
    assert failed.exit_code == 0  # directories are made
    assert penstock("result", "@last/load-0", "--to", target / "below").exit_code == 2


def test_a_value_that_was_tampered_with_is_not_written(store: SQLiteStore, tmp_path: Path) -> None:
    keep(store, PickleSerializer())
    row = store.result(ROW.id)
    assert row is not None and row.sealed is not None
    middle = len(row.sealed) - 40
    store.write(batch(row._replace(sealed=row.sealed[:middle] + b"?" + row.sealed[middle + 1 :])))
    result = penstock("result", "@last/load-0", "--to", tmp_path / "value")
    assert (result.exit_code, result.stdout) == (5, "")
    assert "its digest is wrong: damaged, or sealed with another key (see PENSTOCK_RESULTS_KEY_PATH)" in result.stderr
    assert not (tmp_path / "value").exists()


def test_a_value_of_another_run_is_not_taken_for_this_one(store: SQLiteStore) -> None:
    keep(store, JSONSerializer(), address="f" * 32)
    result = penstock("result", "@last/load-0")
    assert result.exit_code == 5
    assert f"it is the result of {'f' * 32}" in result.stderr


def test_without_the_key_nothing_is_verified_and_no_key_is_made(store: SQLiteStore, own_store: Path) -> None:
    keep(store, JSONSerializer())
    (own_store / "results.key").unlink()
    result = penstock("result", "@last/load-0")
    assert result.exit_code == 5
    assert "the key that it was sealed with is gone" in result.stderr
    assert not (own_store / "results.key").exists()


def test_an_expired_value_is_printed_with_a_note(store: SQLiteStore) -> None:
    keep(store, JSONSerializer(), 3, expires=1_700_000_001.0)
    result = penstock("result", "@last/load-0")
    assert (result.exit_code, result.stdout) == (0, "3\n")
    assert "It has expired, at 20" in result.stderr


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            ROW._replace(result_key=None),
            "the result of load-0 was not kept; persist_result=True keeps results."
            " The record shows of it: {'a': (1, 2)}",
        ),
        (
            ROW._replace(status="FAILED", state_name="TimedOut", result_key=None),
            f"load-0 has no result: it is TimedOut. Type: penstock show {ROW.id}",
        ),
        (ROW, "the result of load-0 was kept, but it is not in the run store any more"),
    ],
)
def test_without_a_kept_result_the_status_is_3(store: SQLiteStore, row: RunRow, said: str) -> None:
    store.write(batch(PARENT, row))
    result = penstock("result", "@last/load-0")
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr == f"Error: {said}\n"


# --- as real runs keep them ---


@pytest.fixture
def flow() -> Iterator[ps.Flow[..., Any]]:
    @ps.task(cache_policy=INPUTS, result_serializer="json", cache_expiration=timedelta(days=1))
    def square(n: int) -> int:
        return n * n

    @ps.task(persist_result=True)
    def large() -> bytes:
        return b"x" * 200_000

    @ps.flow(persist_result=True, name="etl")
    def etl() -> list[Any]:
        return [square(2), large()]

    with temporary_settings({"logging_level": "CRITICAL"}):
        yield etl


def test_of_real_runs(flow: ps.Flow[..., Any], tmp_path: Path) -> None:
    assert flow()[0] == 4
    assert penstock("result", "@last/square-0").stdout == "4\n"
    large = penstock("result", "@last/large-0", "--to", tmp_path / "large")
    assert large.exit_code == 0, large.output
    assert PickleSerializer().loads((tmp_path / "large").read_bytes()) == b"x" * 200_000
    shown = penstock("show", "@last/large-0").stdout
    assert " 200 kB in the run store as pickle\n" in shown
    flow()  # the cache answers
    assert penstock("result", "@last/square-0").stdout == "4\n"
    kept = document("show", "@last/square-0")["kept"]
    assert kept["serializer"] == "json"
    assert kept["computed_by"] != document("show", "@last/square-0")["run"]["id"]


def test_a_large_value_whose_file_is_gone(flow: ps.Flow[..., Any], own_store: Path) -> None:
    flow()
    for file in (own_store / "results").iterdir():
        file.unlink()
    result = penstock("result", "@last/large-0")
    assert result.exit_code == 3
    assert "was kept, but the file" in result.stderr
    assert "is gone from" in penstock("show", "@last/large-0").stdout


def test_a_value_in_a_storage_of_the_users(tmp_path: Path) -> None:
    storage = tmp_path / "storage"

    @ps.task(result_storage=storage, result_storage_key="squares/{parameters[n]}", result_serializer="json")
    def square(n: int) -> int:
        return n * n

    with temporary_settings({"logging_level": "CRITICAL"}):
        square(3)
    told = document("result", "@last")
    assert (told["value"], told["kept"]["storage"]) == (9, f"file://{storage}")
    names: dict[str, Any] = {}
    exec("\n".join(told["load"]), names)
    assert names["value"] == 9
    assert f"in file://{storage} under squares/3" in penstock("show", "@last").stdout
    sealed = (storage / "squares" / "3").read_bytes()
    assert unseal(sealed, secret_of(os.environ["PENSTOCK_HOME"]))[1] == b"9"
    (storage / "squares" / "3").unlink()
    assert penstock("result", "@last").exit_code == 5


def test_nothing_of_a_value_is_ever_executed(tmp_path: Path, own_store: Path) -> None:
    """The class of the value is in a module that would leave a trace if it were imported."""
    (tmp_path / "shapes.py").write_text(
        "from dataclasses import dataclass\nfrom pathlib import Path\n"
        f"Path({str(tmp_path / 'imported')!r}).touch()\n@dataclass\nclass Point:\n    x: int\n"
    )
    (tmp_path / "script.py").write_text(
        textwrap.dedent(
            """
            from penstock import task
            import shapes

            @task(persist_result=True, result_serializer="json")
            def make():
                return shapes.Point(3)

            make()
            """
        )
    )
    subprocess.run([sys.executable, tmp_path / "script.py"], check=True, capture_output=True)
    (tmp_path / "imported").unlink()
    looked = subprocess.run(
        [sys.executable, "-m", "penstock.cli", "result", "@last"], capture_output=True, text=True, cwd=tmp_path
    )
    assert json.loads(looked.stdout) == {"$dataclass": ["shapes:Point", {"x": 3}]}
    assert not (tmp_path / "imported").exists()


def test_a_store_may_be_named(store: SQLiteStore, own_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(store, JSONSerializer(), 1)
    monkeypatch.setenv("PENSTOCK_HOME", str(own_store.parent / "elsewhere"))
    with closing(SQLiteStore(own_store)):
        assert penstock("result", "@last/load-0", "--store", own_store).stdout == "1\n"
