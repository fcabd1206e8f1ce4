"""The command line: what it prints, where, and with which exit status."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from penstock.cli import main
from penstock.store.base import AttemptRow, EdgeRow, LogRow, RunRow
from penstock.store.sqlite import SQLiteStore
from penstock.testing.store_suite import batch, child_row, run_row

NOON = 1_700_049_600.0  # 2023-11-15 12:00:00 UTC

TRACEBACK = """Traceback (most recent call last):
  File "/venv/lib/python3.11/site-packages/penstock/_engine/attempt.py", line 9, in call
    return fn(x)
  File "/home/me/etl.py", line 12, in load
    return rows[key]
           ~~~~^^^^^
  File "/usr/lib/python3.11/collections/__init__.py", line 5, in __missing__
    raise KeyError(key)
KeyError: 'price'
"""

FLOW = run_row(
    1,
    id="01a2" + "0" * 28,
    root_id="01a2" + "0" * 28,
    kind="flow",
    name="etl",
    run_name="brave-otter",
    key="shop:etl",
    status="FAILED",
    state_name="Failed",
    created=NOON,
    started=NOON,
    ended=NOON + 4.2,
    error_type="KeyError",
    error="'price'",
    traceback=TRACEBACK,
    message="1/3 states failed.",
    parameters='{"day": "\'monday\'", "n": "3"}',
    tags='["nightly", "shop"]',
    version="v7",
)


def task(number: int, run_name: str, parent: RunRow = FLOW, **changes: object) -> RunRow:
    times = {"created": NOON + number, "started": NOON + number, "ended": NOON + number + 0.5}
    done = {"status": "COMPLETED", "state_name": "Completed"}
    return child_row(number, parent, run_name=run_name, **{**times, **done, **changes})


EXTRACT = task(2, "extract-0")
LOAD = task(3, "load-0", status="FAILED", state_name="Failed", attempts=2)._replace(
    error_type="KeyError", error="'price'", traceback=TRACEBACK
)
REPORT = task(4, "report-0", state_name="UpstreamFailed", status="FAILED", attempts=0, started=None)._replace(
    error_type="UpstreamTaskError", error="load-0 failed"
)
NESTED = task(5, "page-0", EXTRACT)
ETL = batch(
    FLOW,
    EXTRACT,
    LOAD,
    REPORT,
    NESTED,
    AttemptRow(LOAD.id, 1, NOON + 3, NOON + 3.1, "Failed", "OSError", "reset\x1b[31m"),
    EdgeRow(LOAD.id, EXTRACT.id, "data", "rows"),
    EdgeRow(REPORT.id, LOAD.id, "wait_for"),
    LogRow(FLOW.id, NOON + 0.25, 20, "penstock", "begin"),
    LogRow(LOAD.id, NOON + 3.5, 30, "shop", "two\nlines \x1b[2J"),
)


@pytest.fixture(autouse=True)
def greenwich(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "UTC")
        time.tzset()
        yield
    time.tzset()


@pytest.fixture
def store(own_store: Path) -> Iterator[SQLiteStore]:
    """The store that the command finds by itself."""
    with closing(SQLiteStore(own_store)) as store:
        yield store


def penstock(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


# ls


def test_ls_lists_root_runs_latest_first(store: SQLiteStore) -> None:
    store.write(ETL)
    other = run_row(9, id="01a3" + "0" * 28, created=NOON + 60, started=NOON + 60, ended=NOON + 260)
    store.write(batch(other._replace(state_name="Completed", status="COMPLETED")))
    result = penstock("ls")
    assert (result.exit_code, result.stderr) == (0, "")
    tasks = "4 (1 Failed, 1 UpstreamFailed)"
    assert result.stdout.splitlines() == [
        "ID        RUN              STATE      STARTED              DURATION    TASKS",
        "01a30000  load-9           Completed  2023-11-15 12:01:00  3 min 20 s  -",
        f"01a20000  etl/brave-otter  Failed     2023-11-15 12:00:00  4.2 s       {tasks}",
    ]


def test_ls_shows_ids_long_enough_to_be_typed(store: SQLiteStore) -> None:
    rows = [run_row(n, id=f"01a2{n:012x}" + "0" * 16, created=NOON + n) for n in range(1, 4)]
    store.write(batch(*rows))
    ids = [line.split()[0] for line in penstock("ls", "--limit", 2).stdout.splitlines()[1:]]
    assert ids == [rows[2].id[:16], rows[1].id[:16]]
    assert [penstock("show", run_id).exit_code for run_id in ids] == [0, 0]


def test_ls_filters(store: SQLiteStore) -> None:
    store.write(ETL)
    store.write(batch(run_row(9, created=NOON)))
    assert penstock("ls", "--name", "etl").stdout.count("\n") == 2
    assert "load-9" in penstock("ls", "--status", "running").stdout
    assert penstock("ls", "--status", "COMPLETED").stdout == ""
    assert penstock("ls", "--status", "great").exit_code == 2
    assert penstock("ls", "--limit", 0).exit_code == 2


def test_ls_as_json(store: SQLiteStore) -> None:
    store.write(ETL)
    document = json.loads(penstock("ls", "--json").stdout)
    (run,) = document["runs"]
    assert document["schema"] == 1
    assert run["tasks"] == {"Completed": 2, "Failed": 1, "UpstreamFailed": 1}
    assert run["parameters"] == {"day": "'monday'", "n": "3"}
    assert run["tags"] == ["nightly", "shop"]
    assert run["info"] is None
    assert set(run) == {*RunRow._fields, "tasks"}


@pytest.mark.parametrize(("arguments", "printed"), [((), ""), (("--json",), '{"schema": 1, "runs": []}')])
def test_ls_without_a_store_says_so_and_makes_none(own_store: Path, arguments: tuple[str, ...], printed: str) -> None:
    result = penstock("ls", *arguments)
    assert result.exit_code == 0
    assert " ".join(result.stdout.split()).replace("{ ", "{").replace(" }", "}") == printed
    assert result.stderr == f"there is no run store at {own_store}/penstock.db: nothing was recorded yet.\n"
    assert not own_store.exists()


def test_the_store_may_be_named(tmp_path: Path) -> None:
    with closing(SQLiteStore(tmp_path / "there")) as store:
        store.write(ETL)
    assert "etl/brave-otter" in penstock("ls", "--store", tmp_path / "there").stdout
    assert penstock("show", "@last", "--store", tmp_path / "there").exit_code == 0


# show


def test_show(store: SQLiteStore) -> None:
    store.write(ETL)
    result = penstock("show", "brave-otter")
    assert (result.exit_code, result.stderr) == (0, "")
    place = "/home/me/etl.py:12 in load: return rows[key]"
    assert result.stdout == textwrap.dedent(
        f"""\
        etl/brave-otter: Failed
          id          {FLOW.id}
          flow        shop:etl, version v7
          started     2023-11-15 12:00:00
          duration    4.2 s
          parameters  day='monday', n=3
          tags        nightly, shop
          message     1/3 states failed.
          tasks       4 (1 Failed, 1 UpstreamFailed)

        RUN        STATE           ATTEMPTS  START   DURATION  WAITED FOR
        extract-0  Completed       1         +2.0 s  500 ms
          page-0   Completed       1         +5.0 s  500 ms
        load-0     Failed          2         +3.0 s  500 ms    extract-0
        report-0   UpstreamFailed  0         -       -         load-0

        Errors
          etl/brave-otter: KeyError: 'price'
            {place}
          load-0, attempt 1 of 2: OSError: reset\\x1b[31m
          load-0, attempt 2 of 2: KeyError: 'price'
            {place}

        Log (2 lines)
          12:00:00.250 INFO     etl/brave-otter  begin
          12:00:03.500 WARNING  load-0  two\\nlines \\x1b[2J
        """
    )


@pytest.mark.parametrize("name", ["01a2", FLOW.id, "01A20000-0000", "brave-otter", "@last"])
def test_show_finds_a_run_by(store: SQLiteStore, name: str) -> None:
    store.write(ETL)
    assert penstock("show", name).stdout.startswith("etl/brave-otter: Failed\n")


def test_show_of_a_task_run_names_its_parent(store: SQLiteStore) -> None:
    store.write(ETL)
    output = penstock("show", EXTRACT.id).stdout
    assert output.startswith("extract-0: Completed\n")
    assert f"  parent    {FLOW.id}\n" in output
    assert "page-0" in output and "load-0" not in output


def test_show_as_json(store: SQLiteStore) -> None:
    store.write(ETL)
    result = penstock("show", "@last", "--json", "--limit", 1)
    document = json.loads(result.stdout)
    assert {name: len(value) for name, value in document.items() if isinstance(value, list)} == {
        "runs": 4,
        "attempts": 5,
        "edges": 2,
        "logs": 2,
    }
    assert document["schema"] == 1
    assert document["run"]["run_name"] == "brave-otter"
    assert document["edges"][0] == EdgeRow(LOAD.id, EXTRACT.id, "data", "rows")._asdict()
    assert document["logs"][1]["message"] == "two\nlines \x1b[2J"


def test_show_says_when_it_does_not_show_all(store: SQLiteStore) -> None:
    store.write(ETL)
    output = penstock("show", "@last", "--limit", 1).stdout
    assert "extract-0" in output and "report-0" not in output
    assert "... and 3 more: --limit 4\n" in output
    assert "Log (1 line)\n  12:00:03.500 WARNING" in output


def test_show_shortens_long_lists_of_upstreams(store: SQLiteStore) -> None:
    upstreams = [task(number, f"up-{number}") for number in range(10, 15)]
    total = task(20, "total-0")
    edges = [EdgeRow(total.id, upstream.id, "data") for upstream in upstreams]
    store.write(batch(FLOW, *upstreams, total, *edges))
    assert "up-10, up-11, up-12 and 2 more" in penstock("show", "@last").stdout


def test_show_of_a_run_that_is_not_there(store: SQLiteStore) -> None:
    store.write(ETL)
    result = penstock("show", "calm-heron")
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr == "Error: no run has the id or name 'calm-heron'. Type: penstock ls\n"


def test_show_without_a_store(own_store: Path) -> None:
    result = penstock("show", "@last")
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr == f"Error: there is no run store at {own_store}/penstock.db\n"
    assert not own_store.exists()


def test_show_of_an_ambiguous_id_lists_the_candidates(store: SQLiteStore) -> None:
    rows = [run_row(n, id=f"01a{n}" + "0" * 28, created=NOON) for n in range(2)]
    store.write(batch(*rows))
    result = penstock("show", "01a")
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"  {rows[1].id}  load-1\n  {rows[0].id}  load-0\n" in result.stderr


def test_a_store_that_cannot_be_read(own_store: Path) -> None:
    own_store.mkdir()
    (own_store / "penstock.db").write_bytes(b"no database at all" * 100)
    for arguments in (("ls",), ("ls", "--json"), ("show", "@last")):
        result = penstock(*arguments)
        assert (result.exit_code, result.stdout) == (5, "")
        assert result.stderr == f"Error: {own_store}/penstock.db: file is not a database\n"


def test_damaged_and_odd_records_are_shown_anyway(store: SQLiteStore) -> None:
    odd = run_row(
        1,
        run_name="\u202eevil\n",
        parameters="{broken",
        tags="null",
        info="NaN",
        created=float("inf"),
        started=1e300,
        traceback="no traceback",
        error_type="X",
    )
    store.write(batch(odd))
    assert "\\u202eevil\\n" in penstock("ls").stdout
    shown = penstock("show", "@last")
    assert shown.exit_code == 0 and "{broken" in shown.stdout
    run = json.loads(penstock("show", "@last", "--json").stdout)["run"]
    assert (run["created"], run["info"], run["parameters"]) == (None, None, "{broken")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (-1.0, "0 ms"),
        (0.0004, "0 ms"),
        (0.9994, "999 ms"),
        (0.9996, "1.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 0 s"),
        (3599.4, "59 min 59 s"),
        (3600.0, "1 h 0 min"),
        (90_000.0, "25 h 0 min"),
        (float("inf"), "-"),
    ],
)
def test_durations(seconds: float | None, text: str) -> None:
    from penstock.cli.text import duration

    assert duration(seconds) == text


def test_a_traceback_without_own_code_gives_its_last_line() -> None:
    from penstock.cli.show import user_line

    inside = TRACEBACK.replace("/home/me/etl.py", "/venv/lib/python3.11/site-packages/x.py")
    assert user_line(inside) == "/usr/lib/python3.11/collections/__init__.py:5 in __missing__: raise KeyError(key)"
    assert user_line("") == ""
    assert user_line('  File "<stdin>", line 1, in f\nKeyError: 1\n') == "<stdin>:1 in f"


# The installed command.


def installed(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("penstock")), *arguments]
    encoding = environment.get("PYTHONIOENCODING", "utf-8")
    environment = {**os.environ, **environment}
    return subprocess.run(command, capture_output=True, encoding=encoding, env=environment)


def test_the_installed_command(store: SQLiteStore) -> None:
    store.write(ETL._replace(runs=[FLOW._replace(run_name="lädt-🚰")]))
    listed = installed("ls", PYTHONIOENCODING="latin-1")
    assert (listed.returncode, listed.stderr) == (0, "")
    assert "etl/l\xe4dt-\\U0001f6b0" in listed.stdout
    assert installed("show", "nobody").returncode == 3
    assert installed("bogus").returncode == 2


def test_the_command_prints_its_version() -> None:
    from importlib.metadata import version

    assert installed("--version").stdout == f"penstock {version('penstock')}\n"


def test_the_command_loads_only_what_it_needs() -> None:
    code = "import sys, penstock.cli; print(*{'asyncio', 'pydantic', 'rich', 'sqlite3'} & set(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout == "\n"


def test_looking_never_unpickles(tmp_path: Path) -> None:
    """A kept value whose unpickling would leave a trace: no command that looks does so."""
    trap = tmp_path / "trap.py"
    trap.write_text(
        textwrap.dedent(
            f"""
            from pathlib import Path
            from penstock import flow, task

            class Trap:
                def __reduce__(self):
                    return Path({str(tmp_path / "sprung")!r}).touch, ()

            @task
            def make():
                return Trap()

            @flow(persist_result=True)
            def main(trap):
                make()
                return Trap()

            main(Trap())
            """
        )
    )
    subprocess.run([sys.executable, trap], check=True, capture_output=True)
    for arguments in (["ls"], ["ls", "--json"], ["show", "@last"], ["show", "@last", "--json"]):
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, result.output
    assert not (tmp_path / "sprung").exists()
