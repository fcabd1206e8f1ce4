"""`penstock explain`: why a run ran, waited, was tried again, and what the cache did, from the record alone."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from looking import ETL, EXTRACT, FLOW, LOAD, NOON, REPORT, document, penstock, task

import penstock as ps
from penstock.cache_policies import INPUTS, TASK_SOURCE
from penstock.settings import temporary_settings
from penstock.store.base import AttemptRow, EdgeRow, RunRow
from penstock.store.sqlite import SQLiteStore
from penstock.testing import ManualClock
from penstock.testing.store_suite import batch, run_row

pytestmark = pytest.mark.usefixtures("greenwich")


def explained(run: str, subject: str) -> list[str]:
    sentences: list[str] = document("explain", run)["explanation"][subject]
    return sentences


def test_as_text(store: SQLiteStore) -> None:
    store.write(ETL)
    result = penstock("explain", "@last/load-0")
    assert (result.exit_code, result.stderr) == (0, "")
    place = "/home/me/etl.py:12 in load: return rows[key]"
    assert result.stdout.splitlines() == [
        "load-0 FAILED in 500 ms",
        "",
        "Why it ran",
        "  etl/brave-otter called it, at 2023-11-15 12:00:03.",
        "  It ended as Failed.",
        "",
        "Attempts",
        "  1: Failed after 100 ms: OSError: reset\\x1b[31m",
        f"  2: Failed: KeyError: 'price', at {place}",
        "",
        "Cache",
        "  The record does not say: a run that is Failed leaves no result to compare.",
    ]


# --- why it ran ---


def test_a_root_run_was_called_by_a_process(store: SQLiteStore) -> None:
    flow = FLOW._replace(info='{"host": "box", "pid": 12, "script": "/home/me/etl.py"}', resumed_from=f"{9:032x}")
    store.write(batch(flow, run_row(9, kind="flow", name="etl", run_name="calm-heron")))
    assert explained("@last-failed", "ran") == [
        "Process 12 on box, /home/me/etl.py, called it at 2023-11-15 12:00:00.",
        "It goes on from etl/calm-heron.",
        "It ended as Failed: 1/3 states failed.",
    ]


def test_a_blocked_run_did_not_run_because_of_another(store: SQLiteStore) -> None:
    store.write(ETL)
    last = task(8, "last-0", state_name="UpstreamFailed", status="FAILED", attempts=0, started=None, map_index=2)
    store.write(batch(last, EdgeRow(last.id, REPORT.id, "data", "x")))
    place = "/home/me/etl.py:12 in load: return rows[key]"
    assert explained("@last/last-0", "ran") == [
        "etl/brave-otter called it, for item [2] of a map, at 2023-11-15 12:00:08.",
        f"Its body did not run because load-0 is Failed: KeyError: 'price', at {place}",
    ]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"status": "CANCELLED", "state_name": "Cancelled", "message": "asked to."},
            "Its body has not run: it is Cancelled: asked to.",
        ),
        ({"status": "PENDING", "state_name": "Pending", "ended": None}, "Its body has not run: it is Pending."),
    ],
)
def test_a_run_that_has_not_started(store: SQLiteStore, changes: dict[str, Any], said: str) -> None:
    store.write(batch(FLOW, task(2, "x-0", **{"attempts": 0, "started": None, **changes})))
    assert explained("@last/x-0", "ran")[1] == said


# --- what it waited for ---


def waiting(number: int, run_name: str, **changes: Any) -> RunRow:
    return task(number, run_name, **{"created": NOON, "ready": NOON, "started": NOON, "ended": NOON + 10, **changes})


def test_inputs_are_waited_for(store: SQLiteStore) -> None:
    quick, slow = waiting(2, "quick-0", ended=NOON + 1), waiting(3, "slow-0", ended=NOON + 5)
    early = waiting(4, "early-0", created=NOON - 9, started=NOON - 9, ended=NOON - 1)
    down = waiting(5, "down-0", ready=NOON + 5.001, started=NOON + 5.001)
    edges = [EdgeRow(down.id, up.id, "data", "x") for up in (quick, early)]
    store.write(batch(FLOW, quick, slow, early, down, *edges, EdgeRow(down.id, slow.id, "wait_for")))
    assert explained("@last/down-0", "waited") == [
        "5.0 s for slow-0 (wait_for), which took 5.0 s; of 2 it was the last to end."
    ]
    assert explained("@last/quick-0", "waited") == []


def test_inputs_are_still_waited_for(store: SQLiteStore) -> None:
    ups = [waiting(n, f"up-{n}", ended=None, status="RUNNING", state_name="Running") for n in range(2, 7)]
    down = waiting(9, "down-0", ready=None, started=None, ended=None, status="PENDING", state_name="Pending")
    store.write(batch(FLOW, *ups, down, *(EdgeRow(down.id, up.id, "data", "x") for up in ups)))
    assert explained("@last/down-0", "waited") == [
        "It waits for up-2 (Running), up-3 (Running), up-4 (Running) and 2 more."
    ]


def test_a_place_is_waited_for(store: SQLiteStore) -> None:
    others = [waiting(n, f"other-{n}") for n in range(2, 6)]
    done = waiting(7, "done-0", created=NOON - 9, started=NOON - 9, ended=NOON)
    late = waiting(8, "late-0", started=NOON + 3, tags='["db"]')
    brief = waiting(9, "brief-0", started=NOON + 0.02)
    stuck = waiting(10, "stuck-0", started=None, ended=None, status="WAITING", state_name="AwaitingConcurrencySlot")
    store.write(batch(FLOW, *others, done, late, brief, stuck))
    worker = "for a free worker of its task runner"
    assert explained("@last/late-0", "waited") == [
        f"3.0 s with all its inputs there, {worker} or for a limit on its tags (db); meanwhile, 5 other runs beside it"
        " went on."
    ]
    assert explained("@last/brief-0", "waited") == [f"20 ms with all its inputs there, {worker}."]
    assert explained("@last/stuck-0", "waited") == [f"It has its inputs, and still waits {worker}."]


def test_retry_delays_are_waited_for(store: SQLiteStore) -> None:
    again = waiting(2, "again-0", attempts=3, attempt_started=NOON + 8)
    waits = waiting(3, "waits-0", ended=None, status="WAITING", state_name="AwaitingRetry")
    store.write(
        batch(
            *(FLOW, again, waits),
            AttemptRow(again.id, 1, NOON, NOON + 1, "Failed", "OSError", "reset"),
            AttemptRow(again.id, 2, NOON + 2, NOON + 3, "TimedOut", "TaskRunTimeoutError", "too slow"),
            AttemptRow(waits.id, 1, NOON, NOON + 1, "Failed", "OSError", "reset"),
        )
    )
    assert explained("@last/again-0", "waited") == [
        "1.0 s between the attempts 1 and 2: its retry delay, and a place.",
        "5.0 s between the attempts 2 and 3: its retry delay, and a place.",
    ]
    assert explained("@last/again-0", "attempts") == [
        "1: Failed after 1.0 s: OSError: reset",
        "2: TimedOut after 1.0 s: TaskRunTimeoutError: too slow",
        "3: Completed after 2.0 s",
    ]
    assert explained("@last/waits-0", "waited") == ["It waits for attempt 2: its retry delay."]


# --- what it took so long for ---


def test_the_chain_that_ended_last(store: SQLiteStore) -> None:
    rows = [waiting(n, f"step-{n}", started=NOON + n, ended=NOON + n + 1) for n in range(1, 5)]
    aside = waiting(8, "aside-0", ended=NOON + 2)
    edges = [EdgeRow(down.id, up.id, "data", "x") for up, down in pairwise(rows)]
    store.write(batch(FLOW._replace(ended=NOON + 6), *rows, aside, *edges, EdgeRow(rows[2].id, aside.id, "wait_for")))
    assert explained("@last", "longest") == [
        f"step-{n} took 1.0 s, until {n + 1}.0 s after the start." for n in range(1, 5)
    ]
    assert explained("@last/step-1", "longest") == []


# --- what the cache did: of real runs ---


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with temporary_settings({"logging_level": "CRITICAL"}):
        yield


def cache_of(run: str) -> list[str]:
    return explained(run, "cache")


def test_a_hit_and_a_miss() -> None:
    @ps.task(cache_policy=INPUTS + TASK_SOURCE)
    def square(n: int, scale: int = 1) -> int:
        return n * n * scale

    @ps.flow(flow_run_name="{name}")
    def etl(name: str, n: int) -> None:
        square(n)

    etl("first", 2)
    assert cache_of("first/square")[0].startswith("Miss: when it was asked, nothing was to be used under its key ")
    assert cache_of("first/square")[1] == "No earlier result of this task is kept here to compare it with."
    etl("second", 2)
    (hit,) = cache_of("second/square")
    assert hit.startswith("Hit: square-0 in etl/first had computed it at 20")
    assert explained("second/square", "ran")[1] == "Its body did not run: its result was there already."
    assert cache_of("second") == ["1 run below it took what had been computed before."]
    etl("third", 3)
    _, nearest = cache_of("third/square")
    assert nearest.startswith("The nearest earlier result, by square-0 in etl/first at 20")
    assert nearest.endswith(": argument n differs.")


def test_a_miss_because_of_another_flow_run_goes_before_another_argument() -> None:
    @ps.task(persist_result=True)  # the default policy: in each flow run for itself
    def square(n: int) -> int:
        return n * n

    @ps.flow(flow_run_name="{name}")
    def etl(name: str) -> None:
        for n in range(3):
            square(n)

    etl("first")
    etl("second")
    assert cache_of("second/square-1")[1].endswith("it belongs to another flow run.")
    assert "square-1 in etl/first" in cache_of("second/square-1")[1]


def test_a_miss_because_of_other_code() -> None:
    def make(factor: int) -> Any:
        @ps.task(cache_policy=INPUTS + TASK_SOURCE)
        def scaled(n: int) -> int:
            return n * factor

        return scaled

    make(2)(1)
    make(3)(1)
    assert cache_of("@last")[1].endswith(": code: closure factor changed.")


def test_a_miss_because_it_had_expired() -> None:
    clock = ManualClock()

    @ps.task(cache_policy=INPUTS, cache_expiration=timedelta(hours=1))
    def load(n: int) -> int:
        return n

    with clock:
        load(1)
        clock.advance(3601)
        load(1)
    assert "but it had expired at " in cache_of("@last")[1]


def test_a_miss_because_it_was_wanted_anew() -> None:
    @ps.task(cache_policy=INPUTS)
    def load(n: int) -> int:
        return n

    load(1)
    load.with_options(refresh_cache=True)(1)
    assert "it was to be computed anew (refresh_cache, or rerun)" in cache_of("@last")[1]


def test_the_cache_was_not_asked() -> None:
    @ps.task
    def plain() -> int:
        return 1

    @ps.task(persist_result=True, cache_policy=ps.cache_policies.NO_CACHE)
    def kept() -> int:
        return 1

    plain()
    assert cache_of("@last")[0].startswith("Not asked: results of this task are not kept.")
    kept()
    assert cache_of("@last") == ["Not asked: it has no cache key. Its result is kept for resuming only."]


def test_large_results_are_compared_too() -> None:
    @ps.task(cache_policy=INPUTS)
    def blank(n: int) -> bytes:
        return bytes(100_000 + n)

    blank(1)
    blank(2)
    assert cache_of("@last")[1].endswith(": argument n differs.")


def test_what_was_restored_says_so() -> None:
    fail = [True]

    @ps.task
    def load() -> int:
        return 1

    @ps.flow(persist_result=True, flow_run_name="{name}")
    def etl(name: str) -> int:
        n = load()
        if fail[0]:
            raise ValueError("not yet")
        return n

    with pytest.raises(ValueError, match="not yet"):
        etl("first")
    fail[0] = False
    run_id = document("show", "@last")["run"]["id"]
    ps.resume(run_id, flow=etl)
    (restored,) = cache_of("@last/load")
    assert restored.startswith("Restored: in an earlier life of this flow run, load-0 in etl/first had computed it at ")


def test_results_elsewhere_are_not_read(tmp_path: Any) -> None:
    @ps.task(result_storage=tmp_path / "storage", cache_policy=INPUTS)
    def load() -> int:
        return 1

    load()
    assert cache_of("@last")[0].startswith("Miss, or not asked: its result was computed, and is kept under ")


def test_of_runs_that_are_not_there(store: SQLiteStore) -> None:
    store.write(ETL)
    assert penstock("explain", "nobody").exit_code == 3
    assert penstock("explain", f"{EXTRACT.id}/x").exit_code == 3
    assert LOAD.id in penstock("explain", LOAD.id, "--json").stdout
