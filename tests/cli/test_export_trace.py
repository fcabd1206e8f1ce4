"""The trace for Perfetto and others: whole, consistent, and in the format that they read."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from example_runs import ETL, EXTRACT, NOON, flow_row, large, task_row

from penstock.cli import main
from penstock.store.base import EdgeRow
from penstock.store.sqlite import SQLiteStore
from penstock.testing.store_suite import batch

Event = dict[str, Any]
Trace = dict[str, Any]


@pytest.fixture
def store(own_store: Path) -> Iterator[SQLiteStore]:
    with closing(SQLiteStore(own_store)) as store:
        yield store


def exported(run: str = "@last") -> Trace:
    result = CliRunner().invoke(main, ["export", run, "--trace", "-o", "-"])
    assert (result.exit_code, result.stderr) == (0, "")
    trace: Trace = json.loads(result.stdout)
    assert_well_formed(trace["traceEvents"])
    return trace


def events(trace: Trace, phase: str, **wanted: Any) -> list[Event]:
    found = [event for event in trace["traceEvents"] if event["ph"] == phase]
    return [event for event in found if all(event.get(name) == value for name, value in wanted.items())]


def assert_well_formed(found: list[Event]) -> None:
    """What the format asks of each kind of event; and that slices of a lane lie inside each other or apart."""
    needed = {
        "M": {"name", "args"},
        "X": {"name", "cat", "ts", "dur", "args"},
        "i": {"name", "ts", "s"},
        "C": {"name", "ts", "args"},
        "s": {"name", "cat", "id", "ts"},
        "f": {"name", "cat", "id", "ts", "bp"},
    }
    for event in found:
        assert needed[event["ph"]] <= event.keys(), event
        assert event["pid"] == 1
        assert all(isinstance(event[name], int) for name in ("ts", "dur", "tid") if name in event), event
        assert event.get("dur", 0) >= 0
    assert_nested([event for event in found if event["ph"] == "X"])
    assert_arrows_bind(found)


def assert_nested(slices: list[Event]) -> None:
    open_until: dict[int, list[int]] = {}
    for event in sorted(slices, key=lambda event: (event["ts"], -event["dur"])):
        ends = open_until.setdefault(event["tid"], [])
        while ends and ends[-1] <= event["ts"]:
            ends.pop()
        assert not ends or event["ts"] + event["dur"] <= ends[-1], event
        ends.append(event["ts"] + event["dur"])


def assert_arrows_bind(found: list[Event]) -> None:
    """Each arrow has a beginning and an end, and both are inside a slice of their lane."""
    arrows = [event for event in found if event["ph"] in "sf"]
    ends = Counter((event["id"], event["ph"]) for event in arrows)
    assert set(ends.values()) <= {1}
    assert {number for number, phase in ends if phase == "s"} == {number for number, phase in ends if phase == "f"}
    slices = [event for event in found if event["ph"] == "X"]
    for arrow in arrows:
        around = [
            one for one in slices if one["tid"] == arrow["tid"] and one["ts"] <= arrow["ts"] < one["ts"] + one["dur"]
        ]
        assert around, arrow


def test_runs_are_slices_on_lanes(store: SQLiteStore) -> None:
    store.write(ETL)
    trace = exported()
    assert trace["displayTimeUnit"] == "ms"
    assert trace["otherData"]["run"] == "etl/brave-otter" and trace["otherData"]["state"] == "Completed"
    [flow] = events(trace, "X", cat="flow", name="etl/brave-otter")
    assert (flow["ts"], flow["dur"], flow["tid"]) == (10_000, 9_990_000, 0)
    [extract] = events(trace, "X", name="extract-0")
    assert (extract["ts"], extract["dur"], extract["cat"]) == (1_000_000, 1_000_000, "task")
    assert extract["args"] == {
        "id": EXTRACT.id,
        "state": "Completed",
        "attempts": 1,
        "waited for inputs": "100.000 ms",
        "waited to be started": "400.000 ms",
        "parameters": {"n": "2"},
        "result": "'result of extract-0'",
    }
    lanes = {event["tid"] for event in events(trace, "X")}
    assert lanes == {0, 1, 2}  # never more than two beside the flow
    named = {event["tid"]: event["args"]["name"] for event in events(trace, "M", name="thread_name")}
    assert named == {0: "lane 1", 1: "lane 2", 2: "lane 3"}
    assert events(trace, "M", name="process_name")[0]["args"] == {"name": "etl/brave-otter"}


def test_attempts_and_pauses_are_inside_their_run(store: SQLiteStore) -> None:
    store.write(ETL)
    trace = exported()
    [load] = events(trace, "X", name="load-0")
    inner = [e for e in events(trace, "X", tid=load["tid"]) if load["ts"] <= e["ts"] < load["ts"] + load["dur"]]
    assert [(event["name"], event["ts"], event["dur"], event["args"].get("error")) for event in inner[1:]] == [
        ("attempt 1", 2_500_000, 500_000, "OSError: reset by peer"),
        ("waiting to try again", 3_000_000, 1_000_000, None),
        ("attempt 2", 4_000_000, 500_000, "KeyError: 'price'"),
    ]


def test_what_never_started_is_an_instant(store: SQLiteStore) -> None:
    store.write(ETL)
    instants = {event["name"]: event["ts"] for event in events(exported(), "i")}
    assert instants == {"clean-0: Cached": 5_000_000, "report-0: UpstreamFailed": 4_500_000}


def test_arrows_follow_the_data(store: SQLiteStore) -> None:
    store.write(ETL)
    trace = exported()
    [start], [end] = events(trace, "s"), events(trace, "f")  # to report-0, which never started, there is none
    assert (start["cat"], start["name"], start["id"]) == ("data", "rows", end["id"])
    assert start["ts"] == 1_999_999  # inside extract-0
    assert (end["ts"], end["bp"]) == (2_500_000, "e")  # the beginning of load-0


def test_counters_tell_how_many_waited_and_ran(store: SQLiteStore) -> None:
    flow = flow_row()
    tasks = [task_row(number, flow, f"load-0[{number}]", 1.0, number / 2) for number in range(1, 4)]
    store.write(batch(flow, *tasks))
    names = ("waiting for inputs", "waiting to be started", "running")
    counted = [(e["ts"], *(e["args"][name] for name in names)) for e in events(exported(), "C")]
    assert counted == [
        (500_000, 3, 0, 0),
        (600_000, 0, 3, 0),
        (1_000_000, 0, 0, 3),
        (1_500_000, 0, 0, 2),
        (2_000_000, 0, 0, 1),
        (2_500_000, 0, 0, 0),
    ]


def test_a_large_run_needs_as_many_lanes_as_ran_at_once(store: SQLiteStore) -> None:
    store.write(large(2000))
    trace = exported()
    runs = [event for event in events(trace, "X") if event["cat"] in ("task", "flow")]
    assert len(runs) == 2001
    assert len({event["tid"] for event in runs}) == 91  # 0.9 s each, every 0.01 s one begins; and the flow
    assert events(trace, "C")[-1]["args"]["running"] == 0


def test_unfinished_and_odd_runs_are_in_it(store: SQLiteStore) -> None:
    flow = flow_row(status="RUNNING", state_name="Running", ended=None)
    instant = task_row(2, flow, "instant-0", 1.0, 0.0)
    backwards = task_row(3, flow, "backwards-0", 2.0, -5.0)
    odd = task_row(4, flow, "odd-0", 3.0, 1.0, created=float("inf"), ready=1e300, parameters="{broken")
    late = task_row(5, flow, "late-0", 4.0, started=None, ended=None, status="PENDING", attempts=0)
    store.write(batch(flow, instant, backwards, odd, late, EdgeRow(backwards.id, instant.id, "data")))
    trace = exported()
    lengths = {event["name"]: event["dur"] for event in events(trace, "X")}
    assert lengths.pop("etl/brave-otter") > 10**9  # until now
    assert lengths == {"instant-0": 1, "backwards-0": 1, "odd-0": 1_000_000}
    assert len(events(trace, "s")) == 1


def test_a_task_run_alone(store: SQLiteStore) -> None:
    store.write(ETL)
    trace = exported("brave-otter/load-0")
    assert trace["otherData"]["begin"] == NOON + 2
    assert next(event["name"] for event in events(trace, "X")) == "load-0"
