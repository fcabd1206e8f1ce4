"""Which run is meant by what somebody types."""

from __future__ import annotations

import click
import pytest
from looking import ETL, EXTRACT, FLOW, LOAD, NESTED, NOON, penstock, task

from penstock.cli.common import NotFound
from penstock.cli.selecting import SHOWN, the_run
from penstock.store.base import RunRow
from penstock.store.memory import MemoryStore
from penstock.testing.store_suite import batch, child_row, run_row


@pytest.fixture
def reader() -> MemoryStore:
    store = MemoryStore()
    store.write(ETL)
    return store


def refusal(reader: MemoryStore, text: str) -> str:
    with pytest.raises((NotFound, click.UsageError)) as raised:
        the_run(reader, text)
    status = raised.value.exit_code
    return f"{status}: {raised.value.message}"


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("01a2", FLOW),
        ("01A20000-0000", FLOW),
        ("brave-otter", FLOW),
        ("etl/brave-otter", FLOW),
        ("@last", FLOW),
        ("@last-failed", FLOW),
        (LOAD.id, LOAD),
        ("01a2/load-0", LOAD),
        ("brave-otter/load-0", LOAD),
        ("etl/brave-otter/load-0", LOAD),
        ("@last/page-0", NESTED),
        ("@last-failed/load-0", LOAD),
        (f"@last/{EXTRACT.id}", EXTRACT),
        (f"@last/{EXTRACT.id[:31].upper()}2", EXTRACT),
    ],
)
def test_a_run_is_named(reader: MemoryStore, text: str, meant: RunRow) -> None:
    assert the_run(reader, text) == meant


def test_a_task_run_may_be_named_by_its_task_if_that_ran_once(reader: MemoryStore) -> None:
    only, twice = task(20, "tidy up", name="tidy"), [task(n, f"mend-{n}", name="mend") for n in (21, 22)]
    reader.write(batch(only, *twice))
    assert the_run(reader, "@last/tidy") == only
    assert refusal(reader, "@last/mend").startswith("2: 'mend' means several runs inside etl/brave-otter:\n")


def test_a_run_name_goes_before_the_name_of_a_task(reader: MemoryStore) -> None:
    other = task(20, "mend", name="other")
    reader.write(batch(task(19, "x", name="mend"), other))
    assert the_run(reader, "@last/mend") == other


def test_names_with_slashes(reader: MemoryStore) -> None:
    flow = run_row(30, kind="flow", name="etl", run_name="2024/05/31", created=NOON - 60)
    read = child_row(31, flow, run_name="read a/b.txt")
    reader.write(batch(flow, read))
    assert the_run(reader, "2024/05/31") == flow
    assert the_run(reader, "etl/2024/05/31") == flow
    assert the_run(reader, "2024/05/31/read a/b.txt") == read


def test_failed_is_what_failed_or_crashed_last(reader: MemoryStore) -> None:
    states = ("CRASHED", "FAILED", "CANCELLED", "COMPLETED", "RUNNING")
    rows = [run_row(40 + n, created=NOON + n, status=status) for n, status in enumerate(states)]
    reader.write(batch(*rows))
    assert the_run(reader, "@last-failed") == rows[1]
    assert the_run(reader, "@last") == rows[4]


def test_nothing_has_failed() -> None:
    store = MemoryStore()
    store.write(batch(run_row(1)))
    assert refusal(store, "@last-failed") == (
        "3: '@last-failed' means no run: there is @last and @last-failed, and none has failed"
    )


def test_a_word_that_is_none(reader: MemoryStore) -> None:
    assert refusal(reader, "@first") == "3: '@first' means no run: there is @last and @last-failed"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("brave-oter", "no run has the id or name 'brave-oter'; near: etl/brave-otter. Type: penstock ls"),
        ("elt/brave-otter", "no run has the id or name 'elt/brave-otter'; near: etl/brave-otter. Type: penstock ls"),
        ("calm-heron", "no run has the id or name 'calm-heron'. Type: penstock ls"),
        ("", "no run has the id or name ''. Type: penstock ls"),
        ("etl", "'etl' is a flow, not a run. Its latest run is etl/brave-otter"),
        (
            "@last/laod-0",
            "no run inside etl/brave-otter has the name or id 'laod-0'; near: load-0, load. Type: penstock show @last",
        ),
        ("@last/", "no run inside etl/brave-otter has the name or id ''. Type: penstock show @last"),
    ],
)
def test_what_is_not_there_suggests_what_is_near(reader: MemoryStore, text: str, said: str) -> None:
    assert refusal(reader, text) == f"3: {said}"


def test_several_candidates_are_listed(reader: MemoryStore) -> None:
    rows = [run_row(n, id=f"01b{n:029x}") for n in range(SHOWN + 3)]
    reader.write(batch(*rows))
    first, *lines = refusal(reader, "01b").splitlines()
    assert first == "2: '01b' is the beginning of several ids:"
    assert lines == [*(f"  {row.id}  {row.run_name}  Running" for row in rows[:2:-1]), "  ..."]


def test_equal_names_inside_a_run_are_listed(reader: MemoryStore) -> None:
    twins = [task(n, "same", EXTRACT if n % 2 else FLOW) for n in (50, 51)]
    reader.write(batch(*twins))
    assert refusal(reader, "@last/same").splitlines()[1:] == [f"  {row.id}  same  Completed" for row in twins]
    assert the_run(reader, f"@last/{twins[1].id}") == twins[1]


def test_what_is_typed_cannot_move_the_cursor(reader: MemoryStore) -> None:
    reader.write(batch(task(60, "\x1b[2Jx"), task(61, "\x1b[2Jy")))
    assert "\x1b" not in refusal(reader, "@last/\x1b[2Jz")


def test_the_commands_say_so_by_their_exit_status(own_store: object) -> None:
    result = penstock("show", "@last-failed")
    assert (result.exit_code, result.stdout) == (3, "")
    assert "there is no run store" in result.stderr
