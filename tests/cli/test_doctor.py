"""`penstock doctor`: each thing that it looks for is found, and only then."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import pytest
from click.testing import CliRunner, Result
from example_runs import ETL

from penstock.cli import doctor, main
from penstock.store.sqlite import SQLiteStore
from penstock.testing.store_suite import batch, result_row, run_row


class Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.fixture
def store(own_store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SQLiteStore]:
    """A store on a machine on which all is well."""
    for name in os.environ:
        if name.startswith("PENSTOCK_") and name != "PENSTOCK_HOME":
            monkeypatch.delenv(name)
    monkeypatch.setattr(doctor, "mounts", lambda: [("/", "ext4")])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**12, 0, 10**12))
    monkeypatch.setattr(doctor.sqlite3, "sqlite_version_info", (3, 51, 3))
    with closing(SQLiteStore(own_store)) as store:
        yield store


def penstock(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["doctor", *map(str, arguments)])


def found(about: str, *arguments: object) -> list[tuple[str, str, str | None]]:
    """Status, text and cure of the lines about something."""
    result = penstock("--json", *arguments)
    findings = json.loads(result.stdout)["findings"]
    bad = any(finding["status"] == "problem" for finding in findings)
    assert result.exit_code == bad, result.output
    return [(one["status"], one["text"], one["cure"]) for one in findings if one["about"] == about]


def test_all_is_well(store: SQLiteStore, own_store: Path) -> None:
    store.write(ETL)
    result = penstock()
    assert (result.exit_code, result.stderr) == (0, "")
    lines = [line.split(maxsplit=1) for line in result.stdout.splitlines()]
    abouts = ["store", "file system", "space", "processes", "schema", "integrity", "sqlite", "python"]
    assert [rest.split("  ")[0] for status, rest in lines if status == "ok"][:8] == abouts
    assert {status for status, _ in lines} == {"ok"}
    assert f"{own_store} (as PENSTOCK_HOME says)" in result.stdout
    assert "the database is whole" in result.stdout
    document = json.loads(penstock("--json").stdout)
    assert document["schema"] == 1
    assert document["findings"][0].keys() == {"about", "status", "text", "cure"}


def test_a_file_is_no_place_for_a_store(store: SQLiteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "census.py"
    file.write_text("")
    monkeypatch.setenv("PENSTOCK_HOME", str(file))
    text = f"{file} (as PENSTOCK_HOME says): a file, not a directory"
    assert found("store") == [("problem", text, "name the directory of the run store")]


def test_each_place_has_its_reason(store: SQLiteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found("store", "--store", tmp_path / "there")[0][1].startswith(f"{tmp_path}/there (as --store says)")
    monkeypatch.delenv("PENSTOCK_HOME")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    [(status, text, _)] = found("store")
    assert (status, text) == (
        "note",
        f"{tmp_path}/state/penstock (the default: there is no .penstock here or above, and no setting): nothing has"
        " been recorded there yet",
    )
    (tmp_path / ".penstock").mkdir()
    assert found("store")[0][1].startswith(f"{tmp_path}/.penstock (the nearest .penstock)")
    (tmp_path / "penstock.toml").write_text('home = "runs"\n')
    assert found("store")[0][1].startswith(f"{tmp_path}/runs (as {tmp_path}/penstock.toml:1 says)")


def test_a_store_that_is_not_there_yet_is_a_note(store: SQLiteStore, own_store: Path) -> None:
    assert [status for status, _, _ in found("store")] == ["note"]
    assert found("integrity") == found("schema") == found("processes") == []
    assert not own_store.exists()


# The store.


def test_files_that_others_may_read(store: SQLiteStore, own_store: Path) -> None:
    store.write(ETL)
    os.chmod(own_store / "penstock.db", 0o644)
    [(status, text, _)] = found("modes")
    assert status == "problem" and text.endswith(f"Type: chmod 600 {own_store}/penstock.db")


def test_a_damaged_database(store: SQLiteStore, own_store: Path) -> None:
    own_store.mkdir(mode=0o700)
    (own_store / "penstock.db").write_bytes(b"no database at all" * 100)
    os.chmod(own_store / "penstock.db", 0o600)
    [(status, text, cure)] = found("database")
    assert (status, "file is not a database" in text, "use a backup" in (cure or "")) == ("problem", True, True)
    assert found("schema")[0][0] == "problem"


def test_many_problems_of_one_kind_are_counted(store: SQLiteStore) -> None:
    rows = [result_row(number, path=f"gone-{number}", size=1, sealed=None) for number in range(15)]
    store.write(batch(run_row(1, ended=2.0), *rows))
    assert len(found("results")) == 10
    assert found("integrity") == [("problem", "and 5 more", "penstock check lists all")]


def test_a_schema_of_the_past_and_of_the_future(store: SQLiteStore, own_store: Path) -> None:
    store.write(ETL)
    assert found("schema") == [("ok", "version 2", None)]
    change(own_store, "PRAGMA user_version = 99")
    [(status, text, _)] = found("schema")
    assert status == "problem" and "was written by a newer penstock" in text


def test_an_old_schema_is_a_note(store: SQLiteStore, own_store: Path) -> None:
    own_store.mkdir(mode=0o700)
    script = (Path(__file__).parents[1] / "store" / "schema_v1.sql").read_text("utf-8")
    change(own_store, script)
    [(status, text, cure)] = found("schema")
    assert (status, text) == ("note", "version 1, from an older penstock") and "version 2" in (cure or "")


def change(home: Path, script: str) -> None:
    import sqlite3

    with closing(sqlite3.connect(home / "penstock.db")) as connection:
        connection.executescript(script)
    os.chmod(home / "penstock.db", 0o600)


def test_a_process_that_died(store: SQLiteStore, own_store: Path) -> None:
    script = """
import os, signal
from penstock import flow, task

@task(persist_result=True)
def kept():  # who has its result knows that it is recorded, and so is the flow
    return 1

@flow
def doomed():
    kept()
    os.kill(os.getpid(), signal.SIGKILL)

doomed()
"""
    assert subprocess.run([sys.executable, "-c", script]).returncode == -signal.SIGKILL
    first, second = found("processes")
    assert first[0] == "note" and "died before it had finished 1 run: now recorded as crashed" in first[1]
    assert (first[2] or "").startswith("penstock resume ")
    assert second[:2] == ("ok", "0 recording here now")
    assert found("processes") == [second]  # it is told once


def test_a_process_that_records(store: SQLiteStore, own_store: Path) -> None:
    from penstock.store import owners

    store.write(ETL)
    owners.own(own_store)
    try:
        assert found("processes") == [("ok", f"1 recording here now: {os.getpid()} on {os.uname().nodename}", None)]
    finally:
        owners.disown(own_store)


# What it is on.


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("ext4", "ok"),
        ("overlay", "ok"),
        ("tmpfs", "note"),
        ("nfs", "problem"),
        ("nfs4", "problem"),
        ("cifs", "problem"),
        ("9p", "problem"),
        ("fuse.sshfs", "problem"),
        ("fuse.ntfs", "ok"),
    ],
)
def test_file_systems(
    store: SQLiteStore, own_store: Path, monkeypatch: pytest.MonkeyPatch, kind: str, status: str
) -> None:
    mounts = [("/", "ext4"), (str(own_store.parent), kind), (f"{own_store}-besides", "nfs")]
    monkeypatch.setattr(doctor, "mounts", lambda: mounts)
    [(told, _, cure)] = found("file system")
    assert (told, "set PENSTOCK_HOME" in (cure or "")) == (status, status == "problem")


def test_where_file_systems_cannot_be_told(store: SQLiteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "mounts", lambda: [])
    assert found("file system")[0][0] == "note"


def test_mounts_of_this_machine_are_read() -> None:
    assert doctor.file_system_of(Path("/proc/self"), doctor.mounts()) == "proc"


def test_the_innermost_and_latest_mount_counts() -> None:
    mounts = [("/", "ext4"), ("/a b", "nfs"), ("/a b", "xfs"), ("/a b/c", "tmpfs"), ("/a", "cifs")]
    places = ("/a b/x", "/a b/c", "/a bc", "/a/b", "/")
    assert [doctor.file_system_of(Path(place), mounts) for place in places] == ["xfs", "tmpfs", "ext4", "cifs", "ext4"]


@pytest.mark.parametrize(("free", "status"), [(10**12, "ok"), (10**9, "note"), (10**7, "problem")])
def test_space(store: SQLiteStore, monkeypatch: pytest.MonkeyPatch, free: int, status: str) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**13, 0, free))
    [(told, _, cure)] = found("space")
    assert (told, "penstock prune" in (cure or "")) == (status, status != "ok")


def test_a_log_that_has_grown(store: SQLiteStore, own_store: Path) -> None:
    own_store.mkdir(mode=0o700)
    (own_store / "penstock.db-wal").touch(0o600)
    assert found("log") == []
    os.truncate(own_store / "penstock.db-wal", 100 * 2**20)
    assert found("log")[0][:2] == (
        "note",
        "the log beside the database has 105 MB: some program keeps reading in one transaction",
    )


# What is installed, what is set.


@pytest.mark.parametrize(
    ("version", "has"),
    [
        ((3, 6, 23), False),
        ((3, 7, 0), True),
        ((3, 40, 1), True),
        ((3, 44, 5), True),
        ((3, 44, 6), False),
        ((3, 45, 0), True),
        ((3, 50, 6), True),
        ((3, 50, 7), False),
        ((3, 51, 2), True),
        ((3, 51, 3), False),
        ((4, 0, 0), False),
    ],
)
def test_versions_of_sqlite(
    store: SQLiteStore, monkeypatch: pytest.MonkeyPatch, version: tuple[int, ...], has: bool
) -> None:
    monkeypatch.setattr(doctor.sqlite3, "sqlite_version_info", version)
    [(status, text, _)] = found("sqlite")
    assert (status, "penstock works around it" in text) == (("note", True) if has else ("ok", False))
    assert text.startswith(f"SQLite {'.'.join(map(str, version))}")


def test_extras(store: SQLiteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"distributed": "2023.1.0", "ray": "2.100.0"}
    real = metadata.version

    def version(package: str) -> str:
        if package in ("distributed", "ray", "fsspec") and package not in installed:
            raise metadata.PackageNotFoundError(package)
        return installed.get(package) or real(package)

    monkeypatch.setattr(metadata, "version", version)
    assert found("dask") == [
        ("problem", "distributed 2023.1.0 is older than 2024.8", "pip install 'penstock[dask]' --upgrade")
    ]
    assert found("ray") == [("ok", "ray 2.100.0", None)]
    assert found("remote")[0][:2] == ("ok", "fsspec is not installed; if it is wanted: pip install 'penstock[remote]'")
    assert found("dev") == found("docs") == []


def test_settings_that_are_not_the_default(store: SQLiteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found("setting") == []
    monkeypatch.setenv("PENSTOCK_TASKS_DISABLE_CACHING", "true")
    monkeypatch.setenv("PENSTOCK_RUNER", "threads")
    monkeypatch.setenv("PENSTOCK__RUNTIME__FLOW_RUN__NAME", "x")
    assert found("setting") == [
        ("note", "PENSTOCK_RUNER is no setting, and ignored. Did you mean PENSTOCK_RUNNER?", None),
        ("note", "tasks_disable_caching = true, as PENSTOCK_TASKS_DISABLE_CACHING says", None),
    ]


def test_settings_that_cannot_be_read_do_not_end_the_examination(
    store: SQLiteStore, own_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write(ETL)
    monkeypatch.setenv("PENSTOCK_PROGRESS", "loud")
    [(status, text, cure)] = found("setting")
    assert (status, "PENSTOCK_PROGRESS='loud' is not valid" in text, cure is None) == ("problem", True, False)
    assert found("integrity") == [("note", "not looked at: the settings cannot be read", None)]
    assert found("python")[0][0] == "ok"


def test_a_store_that_the_settings_do_not_name(
    store: SQLiteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PENSTOCK_HOME")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "penstock.toml").write_text("hom = 3\n")
    assert [status for status, _, _ in found("store")] == ["problem"]
    assert found("sqlite")[0][0] == "ok"
