"""The command line: what `ls` and `show` print, where, and with which exit status; the installed command."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import textwrap
import time
from contextlib import closing
from pathlib import Path

import pytest
from looking import ETL, EXTRACT, FLOW, LOAD, NOON, REPORT, TRACEBACK, penstock, task

from penstock.cli.text import columns_of, table
from penstock.store.base import AttemptRow, EdgeRow
from penstock.store.sqlite import SQLiteStore
from penstock.testing.store_suite import batch, result_row, run_row

pytestmark = pytest.mark.usefixtures("greenwich")

# ls


def test_ls_lists_root_runs_latest_first(store: SQLiteStore) -> None:
    store.write(ETL)
    other = run_row(9, id="01a3" + "0" * 28, created=NOON + 60, started=NOON + 60, ended=NOON + 260)
    store.write(batch(other._replace(state_name="Completed", status="COMPLETED")))
    result = penstock("ls")
    assert (result.exit_code, result.stderr) == (0, "")
    tasks = "4 (1 failed, 1 blocked, 1 retried)"
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
    assert document["next"] is None


@pytest.mark.parametrize(("arguments", "printed"), [((), ""), (("--json",), '{"schema": 1, "runs": [], "next": null}')])
def test_ls_without_a_store_says_so_and_makes_none(own_store: Path, arguments: tuple[str, ...], printed: str) -> None:
    result = penstock("ls", *arguments)
    assert result.exit_code == 0
    assert " ".join(result.stdout.split()).replace("{ ", "{").replace(" }", "}") == printed
    assert result.stderr == f"there is no run store at {own_store}/penstock.db: nothing was recorded yet.\n"
    assert not own_store.exists()


@pytest.mark.parametrize("arguments", [(), ("--json",)])
def test_a_store_that_is_named_must_be_there(own_store: Path, arguments: tuple[str, ...]) -> None:
    result = penstock("ls", "--store", own_store, *arguments)
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr == f"Error: there is no run store at {own_store}/penstock.db\n"


def test_ls_says_that_it_lists_nothing(store: SQLiteStore) -> None:
    store.write(ETL)
    result = penstock("ls", "--flow", "nosuch")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "No such run was recorded.\n")
    assert penstock("ls", "--flow", "nosuch", "--json").stderr == ""
    assert penstock("ls", "--flow", "etl").stderr == ""


@pytest.mark.parametrize("arguments", [("ls",), ("show", "@last"), ("ui",), ("prune", "--keep", "1d")])
def test_a_file_is_no_place_for_a_store(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "census.py"
    file.write_text("")
    monkeypatch.setenv("PENSTOCK_HOME", str(file))
    result = penstock(*arguments)
    assert result.exit_code == 2
    assert f"{file} is a file, not a directory: let PENSTOCK_HOME name" in result.stderr


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
        etl/brave-otter FAILED in 4.2 s · 4 task runs (1 failed, 1 blocked, 1 retried)
          id          {FLOW.id}
          flow        shop:etl, version v7
          started     2023-11-15 12:00:00
          duration    4.2 s
          parameters  day='monday', n=3
          tags        nightly, shop
          message     1/3 states failed.

        Errors
          load-0, attempt 1 of 2: OSError: reset\\x1b[31m
          load-0, attempt 2 of 2: KeyError: 'price'
            {place}
          not started because of these: report-0

        RUN        STATE           ATTEMPTS  START   DURATION  WAITED FOR
        extract-0  Completed       1         +2.0 s  500 ms
          page-0   Completed       1         +5.0 s  500 ms
        load-0     Failed          2         +3.0 s  500 ms    extract-0
        report-0   UpstreamFailed  0         -       -         load-0

        Log (2 lines)
          2023-11-15 12:00:00.250 INFO     etl/brave-otter  begin
          2023-11-15 12:00:03.500 WARNING  load-0  two\\nlines \\x1b[2J
        """
    )


@pytest.mark.parametrize("name", ["01a2", FLOW.id, "01A20000-0000", "brave-otter", "@last"])
def test_show_finds_a_run_by(store: SQLiteStore, name: str) -> None:
    store.write(ETL)
    assert penstock("show", name).stdout.startswith("etl/brave-otter FAILED in 4.2 s")


def test_show_of_a_task_run(store: SQLiteStore) -> None:
    key = result_row(1, address=LOAD.id, cache_key="k1", task_key=LOAD.key, expires=NOON + 3600, sealed=b"x", size=812)
    done = LOAD._replace(status="COMPLETED", state_name="Completed", result_key=LOAD.id, result="3", error_type=None)
    store.write(ETL)
    store.write(batch(done, key))
    result = penstock("show", "@last/load-0")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == textwrap.dedent(
        f"""\
        load-0 COMPLETED in 500 ms
          id         {LOAD.id}
          task       shop:load
          in         etl/brave-otter, {FLOW.id}
          started    2023-11-15 12:00:03
          duration   500 ms
          attempts   2
          result     3
          kept       812 bytes in the run store, until 2023-11-15 13:00:00, {LOAD.id}: it is cut off: 1 bytes
          cache key  k1

        Errors
          load-0, attempt 1 of 2: OSError: reset\\x1b[31m

        ATTEMPT  STATE      START  DURATION  ERROR
        1        Failed     +0 ms  100 ms    reset\\x1b[31m
        2        Completed  -      -         'price'

        WAITED FOR  STATE      AS    DURATION
        extract-0   Completed  rows  500 ms

        WAITED FOR BY  STATE           AS        DURATION
        report-0       UpstreamFailed  wait_for  -

        Log (1 line)
          2023-11-15 12:00:03.500 WARNING  load-0  two\\nlines \\x1b[2J
        """
    )


def test_show_of_a_task_run_has_what_it_called_and_nothing_else(store: SQLiteStore) -> None:
    store.write(ETL)
    output = penstock("show", EXTRACT.id).stdout
    assert output.startswith("extract-0 COMPLETED in 500 ms · 1 task run\n")
    assert "page-0" in output and "WAITED FOR BY  STATE   AS    DURATION\nload-0" in output


def test_show_of_a_blocked_run_names_what_it_was_blocked_by(store: SQLiteStore) -> None:
    store.write(ETL)
    after = task(8, "after-0", state_name="UpstreamFailed", status="FAILED", attempts=0, started=None)
    store.write(batch(after, EdgeRow(after.id, REPORT.id, "data", "x"), EdgeRow(after.id, EXTRACT.id, "data", "y")))
    output = penstock("show", "@last/after-0").stdout
    place = "/home/me/etl.py:12 in load: return rows[key]"
    assert f"  because of load-0, attempt 2 of 2: KeyError: 'price'\n    {place}\n" in output
    assert "report-0" not in output.partition("WAITED FOR")[0]


def test_show_counts_failures_beyond_the_first_of_a_task(store: SQLiteStore) -> None:
    failed = [task(n, f"load-0[{n}]", status="FAILED", state_name="Failed", name="load") for n in range(10, 16)]
    store.write(batch(FLOW, *(row._replace(error_type="OSError", error=str(row.id[-1])) for row in failed)))
    errors = penstock("show", "@last", "-n", 1).stdout.partition("Errors\n")[2].partition("\n\n")[0]
    assert errors.splitlines() == [
        "  etl/brave-otter: KeyError: 'price'",
        "    /home/me/etl.py:12 in load: return rows[key]",
        *(f"  load-0[{n}]: OSError: {n:x}" for n in (10, 11, 12)),
        "  ... and 3 more of load: penstock ls --in @last --name load --state failed",
    ]


def test_show_tells_what_was_tried_again_and_came_right(store: SQLiteStore) -> None:
    done = task(3, "load-0", attempts=2)
    store.write(batch(FLOW._replace(status="COMPLETED", state_name="Completed", error_type=None), done))
    store.write(batch(AttemptRow(done.id, 1, NOON, NOON + 1, "TimedOut", "TaskRunTimeoutError", "0.3 s")))
    output = penstock("show", "@last").stdout
    assert output.startswith("etl/brave-otter COMPLETED in 4.2 s · 1 task run (1 retried)\n")
    assert "\n\nTried again\n  load-0, attempt 1 of 2: TaskRunTimeoutError: 0.3 s\n" in output
    assert "Errors" not in output


def test_show_as_json(store: SQLiteStore) -> None:
    store.write(ETL)
    result = penstock("show", "@last", "--json", "--limit", 1)
    document = json.loads(result.stdout)
    assert {name: len(value) for name, value in document.items() if isinstance(value, list)} == {
        "runs": 4,
        "attempts": 5,
        "edges": 2,
        "downstreams": 0,
        "logs": 2,
    }
    assert document["schema"] == 1
    assert document["run"]["run_name"] == "brave-otter"
    assert document["edges"][0] == EdgeRow(LOAD.id, EXTRACT.id, "data", "rows")._asdict()
    assert document["logs"][1]["message"] == "two\nlines \x1b[2J"


def test_show_says_when_it_does_not_show_all(store: SQLiteStore) -> None:
    store.write(ETL)
    output = penstock("show", "@last", "--limit", 1).stdout
    assert "extract-0 " in output and "page-0" not in output
    assert "... and 3 more: --limit 4\n" in output
    assert "Log (1 line)\n  2023-11-15 12:00:03.500 WARNING" in output


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
    assert f"  {rows[1].id}  load-1  Running\n  {rows[0].id}  load-0  Running\n" in result.stderr


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
    from penstock.cli.failures import user_line

    inside = TRACEBACK.replace("/home/me/etl.py", "/venv/lib/python3.11/site-packages/x.py")
    assert user_line(inside) == "/usr/lib/python3.11/collections/__init__.py:5 in __missing__: raise KeyError(key)"
    assert user_line("") == ""
    assert user_line('  File "<stdin>", line 1, in f\nKeyError: 1\n') == "<stdin>:1 in f"


# On a terminal.


def on_a_terminal(*arguments: str, columns: int = 80, **environment: str) -> str:
    """What the installed command writes to a terminal so wide."""
    leader, follower = pty.openpty()
    with open(leader, "rb", buffering=0, closefd=True) as screen:
        fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        command = [str(Path(sys.executable).with_name("penstock")), *arguments]
        unset = {"COLUMNS", "NO_COLOR", "FORCE_COLOR"}
        kept = {name: value for name, value in os.environ.items() if name not in unset}
        with subprocess.Popen(
            command, stdin=follower, stdout=follower, stderr=follower, env={**kept, "TERM": "xterm", **environment}
        ):
            os.close(follower)
            written = b""
            # The end of the terminal is an error on Linux.
            with contextlib.suppress(OSError):
                while chunk := screen.read(65536):
                    written += chunk
    return written.decode().replace("\r\n", "\n")


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[\d;]*m", "", text)


def test_a_terminal_gets_colours_and_tables_that_fit(store: SQLiteStore) -> None:
    names = {"run_name": "a-name-that-is-longer-than-others-and-has-\u4e2d\u6587-in-it"}
    store.write(ETL)
    store.write(batch(FLOW._replace(**names, error="e" * 200), task(9, "x" * 60), task(10, "\u4e2d" * 50)))
    for columns in (80, 120):
        for arguments in (["ls"], ["show", "@last"], ["ls", "--in", "@last"]):
            written = on_a_terminal(*arguments, columns=columns)
            assert "\x1b[3" in written
            tables = [line for line in plain(written).splitlines() if "Completed" in line or "Failed" in line]
            assert len(tables) >= (1 if arguments == ["ls"] else 5)
            assert max(map(columns_of, tables)) <= columns
    assert "…" in plain(on_a_terminal("ls"))


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_a_terminal_may_be_plain(store: SQLiteStore, environment: dict[str, str]) -> None:
    store.write(ETL)
    assert "\x1b" not in on_a_terminal("show", "@last", **environment)


def test_a_pipe_gets_no_colours_and_everything(store: SQLiteStore) -> None:
    store.write(batch(FLOW._replace(run_name="x" * 300)))
    assert "\x1b" not in installed("show", "@last").stdout
    assert f"etl/{'x' * 300}" in installed("ls", COLUMNS="80").stdout
    assert "\x1b[31mFailed" in installed("ls", FORCE_COLOR="1").stdout


def test_a_terminal_gets_times_in_short(store: SQLiteStore) -> None:
    store.write(batch(FLOW, run_row(9, created=time.time())))
    written = on_a_terminal("ls")
    assert re.search(r"load-9 .* \d\d:\d\d:\d\d ", written)
    assert "  2023-11-15 12:00  4.2 s" in written


def test_columns_that_do_not_fit_are_cut_the_last_ones_first() -> None:
    wide = "\u4e2d"  # takes two columns
    rows = [("load-0[12345]", "Completed", "c" * 40), ("load-0[1]", "Failed", wide * 20)]

    def fitted(width: int) -> list[str]:
        lines = table(("RUN", "STATE", "ERROR"), rows, width).splitlines()
        assert max(map(columns_of, lines)) <= max(width, 15)
        return lines

    assert fitted(70)[1:] == [f"load-0[12345]  Completed  {'c' * 40}", f"load-0[1]      Failed     {wide * 20}"]
    assert fitted(40)[1:] == [f"load-0[12345]  Completed  {'c' * 13}…", f"load-0[1]      Failed     {wide * 6}…"]
    assert fitted(36)[1:] == [f"load-0[1234…  Completed  {'c' * 10}…", f"load-0[1]     Failed     {wide * 5}…"]
    assert fitted(15)[1:] == ["…  Completed  …", "…  Failed     …"]


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


HEAVY = {"asyncio", "cloudpickle", "ctypes", "multiprocessing", "pydantic", "rich", "socket", "subprocess", "tomllib"}
LOADING = """
import sys
from penstock.cli import main
main(sys.argv[1:], standalone_mode=False)
print(*sys.modules, file=sys.stderr)
"""


@pytest.mark.parametrize(
    "arguments",
    [["ls"], ["show", "@last"], ["logs", "@last"], ["explain", "@last/load-0"], ["graph", "@last"]],
    ids=lambda arguments: arguments[0],
)
def test_what_looks_loads_only_what_it_needs(store: SQLiteStore, arguments: list[str]) -> None:
    """Its start is most of what it takes: `python -m benchmarks look`."""
    store.write(ETL)
    command = [sys.executable, "-c", LOADING, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded = set(done.stderr.split())
    assert done.stdout and "sqlite3" in loaded
    assert loaded & HEAVY == set()


def test_the_command_loads_the_modules_of_no_command_before_it_is_typed() -> None:
    unwanted = {"asyncio", "pydantic", "rich", "sqlite3", "penstock.cli.ls"}
    code = f"import sys, penstock.cli; print(*{unwanted} & set(sys.modules))"
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
    looks = [[name, run] for name in ("show", "logs", "result", "explain", "graph") for run in ("@last", "@last/make")]
    for arguments in (["ls"], *looks):
        for extra in ([], ["--json"]):
            result = penstock(*arguments, *extra)
            assert result.exit_code == 0, result.output
    assert penstock("result", "@last", "--to", tmp_path / "payload").exit_code == 0
    assert b"sprung" in (tmp_path / "payload").read_bytes()
    assert not (tmp_path / "sprung").exists()
