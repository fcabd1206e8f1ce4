"""`penstock logs`: which lines it prints, and how it follows a run that goes on."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from looking import ETL, EXTRACT, FLOW, LOAD, NOON, penstock, task

from penstock.cli import logs
from penstock.cli.lines import form_of
from penstock.cli.text import moment
from penstock.recovery import Truthful
from penstock.store.base import LogRow, RunRow
from penstock.store.sqlite import SQLiteStore
from penstock.testing.store_suite import batch, child_row, run_row

pytestmark = pytest.mark.usefixtures("greenwich")

DAY = "2023-11-15 "
NESTED = task(5, "page-0", EXTRACT, name="page")
LINES = (
    LogRow(FLOW.id, NOON + 0.25, 20, "penstock", "begin"),
    LogRow(EXTRACT.id, NOON + 1.0, 10, "shop", "row 1"),
    LogRow(NESTED.id, NOON + 1.5, 30, "shop", "row 2 is empty"),
    LogRow(LOAD.id, NOON + 3.5, 40, "shop", "lost:\nTraceback\n\x1b[2J"),
)


@pytest.fixture
def store(store: SQLiteStore) -> SQLiteStore:
    other = run_row(9, id="01a1" + "0" * 28, root_id="01a1" + "0" * 28, created=NOON - 60)
    store.write(ETL._replace(logs=[], runs=[row for row in ETL.runs if row.id != NESTED.id]))
    store.write(batch(other, NESTED, LINES[0], LogRow(other.id, NOON, 20, "x", "somebody else"), *LINES[1:]))
    return store


def printed(*arguments: object) -> list[str]:
    result = penstock("logs", *arguments)
    assert result.exit_code == 0, result.output
    assert result.stderr.startswith("No line of the log is of that kind.") is not bool(result.stdout), result.output
    return result.stdout.splitlines()


def messages(*arguments: object) -> list[str]:
    return [json.loads(line)["message"].partition("\n")[0] for line in printed(*arguments, "--json")]


def test_a_log_is_printed_in_order_with_that_of_everything_below(store: SQLiteStore) -> None:
    assert printed("@last") == [
        f"{DAY}12:00:00.250 INFO     etl/brave-otter  begin",
        f"{DAY}12:00:01.000 DEBUG    extract-0  row 1",
        f"{DAY}12:00:01.500 WARNING  page-0  row 2 is empty",
        f"{DAY}12:00:03.500 ERROR    load-0  lost:",
        "    Traceback",
        "    \\x1b[2J",
    ]


@pytest.mark.parametrize(
    ("created", "ended", "short"),
    [
        (NOON - 60, NOON - 50, True),
        (NOON - 60, None, True),
        (NOON - 13 * 3600, NOON - 50, False),
        (NOON - 13 * 3600, None, False),
        (NOON - 60, NOON + 13 * 3600, False),  # by the clock of another machine
    ],
)
def test_the_day_is_left_out_if_there_is_one_only(
    created: float, ended: float | None, short: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time", lambda: NOON)
    assert (form_of(run_row(1, created=created, ended=ended)) == "%H:%M:%S") is short


def test_show_has_the_days_of_a_log_of_many(store: SQLiteStore) -> None:
    now = time.time()
    long = run_row(71, created=now - 2 * 86400, started=now - 2 * 86400, ended=now)
    today = run_row(72, created=now)
    store.write(batch(long, today, LogRow(long.id, now, 20, "x", "late"), LogRow(today.id, now, 20, "x", "now")))
    assert f"  {moment(now, '%Y-%m-%d %H:%M:%S')}." in penstock("show", long.id).stdout.partition("\nLog")[2]
    assert f"\n  {moment(now, '%H:%M:%S')}." in penstock("show", today.id).stdout.partition("\nLog")[2]


def test_the_day_is_left_out_today(store: SQLiteStore) -> None:
    today = run_row(70, created=time.time())
    store.write(batch(today, LogRow(today.id, today.created, 20, "x", "now")))
    (line,) = printed(today.id)
    assert line[2] == ":" and line.endswith("INFO     load-70  now")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["@last"], ["begin", "row 1", "row 2 is empty", "lost:"]),
        (["@last/extract-0"], ["row 1", "row 2 is empty"]),
        (["@last", "--level", "warning"], ["row 2 is empty", "lost:"]),
        (["@last", "--level", "ERROR"], ["lost:"]),
        (["@last", "--task", "page"], ["row 2 is empty"]),
        (["@last", "--task", "load-0"], ["lost:"]),
        (["@last", "--task", "etl"], ["begin"]),
        (["@last", "--grep", r"^row \d"], ["row 1", "row 2 is empty"]),
        (["@last", "--grep", "TRACE"], []),
        (["@last", "--grep", "(?i)TRACE"], ["lost:"]),
        (["@last", "--since", "2023-11-15T12:00:01.5"], ["row 2 is empty", "lost:"]),
        (["@last", "-n", "2"], ["row 2 is empty", "lost:"]),
        (["@last", "-n", "1", "--grep", "row"], ["row 2 is empty"]),
        (["@last", "-n", "0"], []),
        (["01a1"], ["somebody else"]),
        (["@last/report-0"], []),
    ],
)
def test_lines_are_chosen(store: SQLiteStore, arguments: list[str], expected: list[str]) -> None:
    assert messages(*arguments) == expected


def test_json_lines_say_whose_they_are(store: SQLiteStore) -> None:
    line = json.loads(printed("@last/load-0", "--json")[0])
    number = line.pop("number")
    assert isinstance(number, int)
    assert line == {
        "schema": 1,
        "run_id": LOAD.id,
        "time": NOON + 3.5,
        "level": 40,
        "logger": "shop",
        "message": LINES[3].message,
        "kind": "task",
        "name": "load",
        "run_name": "load-0",
        "level_name": "ERROR",
    }


def test_long_logs_are_read_piece_by_piece(store: SQLiteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "SPAN", 7)
    big = run_row(70, kind="flow", created=NOON + 60, ended=NOON + 61)
    rows = [LogRow((big.id, FLOW.id)[n % 3 == 0], NOON, 20, "x", str(n)) for n in range(100)]
    store.write(batch(big, *rows))
    assert messages("@last") == [str(n) for n in range(100) if n % 3]


def test_what_cannot_be_meant(store: SQLiteStore) -> None:
    assert penstock("logs", "nobody").exit_code == 3
    result = penstock("logs", "@last", "--grep", "(")
    assert result.exit_code == 2
    assert "'(' is no regular expression" in result.stderr
    assert penstock("logs", "@last", "--level", "loud").exit_code == 2


# --- following ---

ID = "01b0" + "0" * 28
RUNNING = run_row(80, id=ID, root_id=ID, kind="flow", name="etl", run_name="calm-heron", created=NOON + 600)
ENDED = RUNNING._replace(status="FAILED", state_name="Failed", ended=NOON + 700)
RUNNING_TASK = child_row(81, RUNNING, id=f"{ID[:-1]}1", run_name="load-0", created=NOON + 601)


def line(row: RunRow, message: str) -> LogRow:
    return LogRow(row.id, NOON, 20, "x", message)


@pytest.fixture
def meanwhile(store: SQLiteStore, monkeypatch: pytest.MonkeyPatch) -> Callable[[list[Callable[[], None]]], None]:
    """Let something happen in each pause between two looks at the run."""

    def arrange(happenings: list[Callable[[], None]]) -> None:
        steps: Iterator[Callable[[], None]] = iter(happenings)
        monkeypatch.setattr(logs.time, "sleep", lambda seconds: next(steps)())

    return arrange


def writer(store: SQLiteStore, *rows: RunRow | LogRow) -> Callable[[], None]:
    return lambda: store.write(batch(*rows))


def test_a_run_is_followed_to_its_end(store: SQLiteStore, meanwhile: Callable[..., None]) -> None:
    store.write(batch(RUNNING, line(RUNNING, "begin")))
    meanwhile(
        [
            writer(store, line(RUNNING, "one"), line(FLOW, "of another run")),
            writer(store),
            writer(store, line(RUNNING, "two"), line(RUNNING, "three")),
            writer(store, ENDED, line(RUNNING, "last words")),
        ]
    )
    assert messages("@last", "--follow", "-n", "0") == ["one", "two", "three", "last words"]


def test_last_words_between_two_looks_are_not_lost(
    store: SQLiteStore, meanwhile: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write(batch(RUNNING))
    meanwhile([writer(store)])
    get = Truthful.get

    def get_late(reader: Truthful, run_id: str) -> RunRow | None:
        store.write(batch(ENDED, line(RUNNING, "last words")))
        return get(reader, run_id)

    monkeypatch.setattr(Truthful, "get", get_late)
    assert messages("@last", "-f") == ["last words"]


def test_a_run_that_has_ended_is_not_waited_for(store: SQLiteStore, meanwhile: Callable[..., None]) -> None:
    meanwhile([])
    assert messages("@last", "-f")[0] == "begin"


def test_filters_hold_for_what_follows(store: SQLiteStore, meanwhile: Callable[..., None]) -> None:
    store.write(batch(RUNNING, RUNNING_TASK))
    meanwhile(
        [
            writer(store, line(RUNNING, "good x"), line(RUNNING_TASK, "good 1"), line(RUNNING_TASK, "bad 2")),
            writer(store, ENDED),
        ]
    )
    assert messages("@last", "-f", "--task", "load", "--grep", "good") == ["good 1"]


def test_lines_that_are_there_before_their_runs_are_not_lost(
    store: SQLiteStore, meanwhile: Callable[..., None]
) -> None:
    """What runs inside a task on a worker is recorded when that task has ended; its lines come at once."""
    store.write(batch(RUNNING))
    inner = RUNNING_TASK._replace(id=f"{ID[:-1]}2", parent_id=RUNNING_TASK.id, run_name="inner-0")
    stranger = run_row(90)
    meanwhile(
        [
            writer(store, line(inner, "inner"), line(stranger, "stranger"), line(RUNNING, "outer")),
            writer(store, line(RUNNING, "later")),
            writer(store, RUNNING_TASK, inner, stranger),
            writer(store, ENDED),
        ]
    )
    assert messages("@last", "-f") == ["outer", "later", "inner"]


def test_a_task_run_is_followed(store: SQLiteStore, meanwhile: Callable[..., None]) -> None:
    store.write(batch(RUNNING, RUNNING_TASK))
    done = RUNNING_TASK._replace(status="COMPLETED", state_name="Completed", ended=NOON + 650)
    meanwhile([writer(store, line(RUNNING, "outer"), line(RUNNING_TASK, "inner")), writer(store, done)])
    assert messages("@last/load-0", "-f") == ["inner"]


def test_a_run_that_is_removed_is_followed_no_further(store: SQLiteStore, meanwhile: Callable[..., None]) -> None:
    store.write(batch(RUNNING))

    def remove() -> None:
        with store.transaction() as connection:
            connection.execute("DELETE FROM runs WHERE id = ?", (RUNNING.id,))

    meanwhile([remove])
    assert messages("@last", "-f") == []


def test_ctrl_c_ends_it_with_130(store: SQLiteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write(batch(RUNNING))

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(logs.time, "sleep", interrupt)
    assert penstock("logs", "@last", "-f").exit_code == 130


def test_a_script_is_followed_by_another_process(tmp_path: Path) -> None:
    script = tmp_path / "etl.py"
    script.write_text(
        "import sys, logging\n"
        "from penstock import flow, task\n"
        "@task\n"
        "def step(n):\n"
        "    logging.getLogger('shop').warning('step %d', n)\n"
        "@flow\n"
        "def main():\n"
        "    step(1)\n"
        "    print('ready', flush=True)\n"
        "    sys.stdin.readline()\n"
        "    for n in range(2, 5):\n"
        "        step(n)\n"
        "main()\n"
    )
    follow = [sys.executable, "-m", "penstock.cli", "logs", "@last", "-f", "--json", "--grep", "step"]
    with subprocess.Popen(
        [sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as run:
        assert run.stdin is not None and run.stdout is not None
        assert run.stdout.readline() == "ready\n"
        with subprocess.Popen(follow, stdout=subprocess.PIPE, text=True) as followed:
            assert followed.stdout is not None
            first = followed.stdout.readline()
            run.stdin.write("\n")
            run.stdin.flush()
            rest = followed.stdout.read()
    assert [json.loads(text)["message"] for text in (first, *rest.splitlines())] == [f"step {n}" for n in range(1, 5)]
    assert followed.returncode == 0
