"""What every store must do, as checks that can be run against any of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from penstock.store.base import (
    AttemptRow,
    Batch,
    EdgeRow,
    KeptRow,
    LineRow,
    LogRow,
    OwnerDeclaredDead,
    ResultRow,
    RunRow,
    StateCount,
    Store,
    Tally,
)

Check = Callable[[Store], None]


def check_store(make: Callable[[], Store]) -> None:
    """Run every check against a fresh, empty store from `make`; AssertionError names the first difference.

    >>> from penstock.store.memory import MemoryStore
    >>> check_store(MemoryStore)
    """
    for check in CHECKS:
        store = make()
        try:
            check(store)
        finally:
            store.close()


def run_row(number: int, **changes: Any) -> RunRow:
    """Return a root task run, created `number` seconds after the epoch, with `changes` applied."""
    row = RunRow(
        id=f"{number:032x}",
        root_id=f"{number:032x}",
        parent_id=None,
        flow_run_id=None,
        kind="task",
        name="load",
        run_name=f"load-{number}",
        key="shop:load",
        map_index=None,
        status="RUNNING",
        state_name="Running",
        attempts=1,
        created=float(number),
    )
    return row._replace(**changes)


def child_row(number: int, parent: RunRow, **changes: Any) -> RunRow:
    """Return a task run called by `parent`."""
    flow_run_id = parent.id if parent.kind == "flow" else parent.flow_run_id
    links = {"parent_id": parent.id, "root_id": parent.root_id, "flow_run_id": flow_run_id}
    return run_row(number, **{**links, **changes})


def kept_row(number: int, parent: RunRow, **changes: Any) -> RunRow:
    """Return a task run called by `parent` that has completed, and whose value is kept."""
    ended = {"status": "COMPLETED", "state_name": "Completed", "ended": float(number) + 1}
    kept = {"position": f"p{number}", "result_key": f"{number:032x}", "code": "c1"}
    return child_row(number, parent, **{**ended, **kept, **changes})


def result_row(number: int, **changes: Any) -> ResultRow:
    """Return a small value that the run with this number made."""
    sealed = f"sealed {number}".encode()
    address = f"{number:032x}"
    row = ResultRow(address, None, "shop:load", float(number), None, len(sealed), None, sealed)
    return row._replace(**changes)


def batch(*rows: RunRow | AttemptRow | EdgeRow | LogRow | ResultRow) -> Batch:
    """Sort rows into a batch."""
    sorted_rows = Batch.empty()
    for row in rows:
        tables: dict[type, list[Any]] = {
            RunRow: sorted_rows.runs,
            AttemptRow: sorted_rows.attempts,
            EdgeRow: sorted_rows.edges,
            LogRow: sorted_rows.logs,
            ResultRow: sorted_rows.results,
        }
        tables[type(row)].append(row)
    return sorted_rows


def keeps_every_column(store: Store) -> None:
    full = RunRow(
        id="a" * 32,
        root_id="b" * 32,
        parent_id="c" * 32,
        flow_run_id="d" * 32,
        kind="task",
        name="load",
        run_name="lädt-0 🚰",
        key="shop:load",
        map_index=7,
        status="FAILED",
        state_name="TimedOut",
        attempts=3,
        created=1.25,
        ready=2.25,
        started=3.25,
        attempt_started=4.25,
        ended=5.25,
        message="too slow",
        error_type="TimeoutError",
        error="it's\nlate",
        traceback="Traceback…",
        result="'x'",
        parameters='{"n": "1"}',
        tags='["nightly"]',
        version="v2",
        info='{"pid": 1}',
        owner="o" * 32,
        resumed_from="e" * 32,
        position="f" * 32,
        result_key="a" * 32,
        result_storage="memory://x",
        code="9" * 32,
    )
    store.write(batch(full))
    _same(store.get(full.id), full)


def replaces_a_run(store: Store) -> None:
    first, last = run_row(1), run_row(1, status="COMPLETED", state_name="Completed", ended=2.0)
    store.write(batch(first))
    store.write(batch(last))
    _same(store.get(first.id), last)
    _same(store.runs(), [last])


def takes_the_last_of_two_versions_in_one_batch(store: Store) -> None:
    store.write(batch(run_row(1), run_row(1, status="FAILED")))
    _same(store.get(run_row(1).id), run_row(1, status="FAILED"))


def knows_no_unwritten_run(store: Store) -> None:
    store.write(batch(run_row(1)))
    _same(store.get("f" * 32), None)
    _same(store.find("nobody"), [])
    _same(store.find(""), [])
    _same(store.tree("f" * 32), [])
    _same(store.logs("f" * 32), [])


def finds_by_id_and_by_prefix(store: Store) -> None:
    one = run_row(1, id="01a2" + "0" * 28)
    two = run_row(2, id="01a3" + "0" * 28)
    store.write(batch(one, two))
    _same(store.find(one.id), [one])
    _same(store.find("01A2"), [one])
    _same(store.find("01a20000-0000-0000-0000-000000000000"), [one])
    _same(store.find("01a"), [two, one])
    _same(store.find("01a", limit=1), [two])


def finds_a_root_run_by_the_prefix_it_shares_with_its_tasks(store: Store) -> None:
    flow = run_row(16, kind="flow")
    child = child_row(17, flow)
    store.write(batch(flow, child))
    _same(store.find(flow.id[:31]), [flow])
    _same(store.find(child.id), [child])


def finds_the_latest_run_of_a_name(store: Store) -> None:
    flow = run_row(1, kind="flow", run_name="brave-otter")
    subflow = child_row(2, flow, kind="flow", run_name="calm-heron")
    task = child_row(3, subflow, run_name="load-0")
    root_task = run_row(4, run_name="brave-otter")
    store.write(batch(flow, subflow, task, root_task))
    _same(store.find("calm-heron"), [subflow])
    _same(store.find("brave-otter"), [root_task])
    _same(store.find("load-0"), [])
    _same(store.find("@last"), [root_task])


def finds_a_run_by_two_names(store: Store) -> None:
    older = run_row(1, kind="flow", name="etl", run_name="daily/monday")
    newer = run_row(2, kind="flow", name="report", run_name="daily/monday")
    store.write(batch(older, newer, child_row(3, older, name="etl", run_name="load-0")))
    _same(store.find("daily/monday"), [newer])
    _same(store.find("etl/daily/monday"), [older])
    _same(store.find("report/daily/monday"), [newer])
    _same(store.find("other/daily/monday"), [])
    _same(store.find("etl/load-0"), [])


def finds_runs_inside_a_run(store: Store) -> None:
    flow, other = run_row(1, kind="flow"), run_row(2, kind="flow")
    subflow = child_row(3, flow, kind="flow", name="sub", run_name="calm-heron")
    tasks = [child_row(4, flow, run_name="x-0"), child_row(5, subflow, run_name="x-0"), child_row(6, flow, name="x-0")]
    tasks[2] = tasks[2]._replace(created=3.5)
    store.write(batch(flow, other, subflow, *tasks, child_row(7, other, run_name="x-0")))
    _same(store.inside(flow.id, "x-0"), tasks)
    _same(store.inside(flow.id, "x-0", limit=2), tasks[:2])
    _same(store.inside(flow.id, "load"), tasks[:2])
    _same(store.inside(flow.id, "calm-heron"), [subflow])
    _same(store.inside(flow.id, tasks[0].id[:31]), [subflow, tasks[2], *tasks[:2]])
    _same(store.inside(flow.id, tasks[0].id.upper()), tasks[:1])
    _same(store.inside(other.id, tasks[0].id), [])
    _same(store.inside(flow.id, ""), [])


def pages_through_root_runs_latest_first(store: Store) -> None:
    flows = [run_row(number, kind="flow", created=float(number // 2)) for number in range(1, 8)]
    store.write(batch(*flows, child_row(100, flows[0])))
    seen: list[RunRow] = []
    while page := store.runs(limit=3, before=seen[-1] if seen else None):
        seen += page
    _same(seen, list(reversed(flows)))


def filters_root_runs(store: Store) -> None:
    flow = run_row(1, kind="flow", name="etl", status="FAILED", tags='["nightly", "a, b"]')
    task = run_row(2, state_name="AwaitingRetry", status="WAITING", tags='["nightly"]')
    store.write(batch(flow, task, child_row(3, flow, name="etl", status="FAILED")))
    _same(store.runs(kind="flow"), [flow])
    _same(store.runs(name="load"), [task])
    _same(store.runs(states=["FAILED"]), [flow])
    _same(store.runs(states=["failed", "awaitingretry"]), [task, flow])
    _same(store.runs(states=["Fail", ""]), [])
    _same(store.runs(since=2.0), [task])
    _same(store.runs(until=2.0), [flow])
    _same(store.runs(tags=["nightly"]), [task, flow])
    _same(store.runs(tags=["nightly", "a, b"]), [flow])
    _same(store.runs(tags=["a"]), [])
    _same(store.runs(tags=[", "]), [])
    _same(store.runs(kind="flow", states=["WAITING"]), [])
    _same(store.runs(kind=None, states=(), tags=(), since=None, text=None), [task, flow])


def finds_text_in_runs(store: Store) -> None:
    rows = [
        run_row(1, name="EtL"),
        run_row(2, run_name="etl-2"),
        run_row(3, parameters='{"x": "etl"}'),
        run_row(4, message="no etl"),
        run_row(5, error="etl is down"),
        run_row(6, error_type="EtlError"),
        run_row(7, result="etl", tags="{damaged", traceback="etl"),
        run_row(8, message="100% of a_b\\c"),
        run_row(9, message="100 of axb"),
        run_row(10, parameters=json.dumps({"x": 'käse\\"'})),
    ]
    store.write(batch(*rows))
    _same(store.runs(text="eTl"), rows[5::-1])
    for text in ("100%", "a_b", "b\\c"):
        _same(store.runs(text=text), [rows[7]])
    for text in ("käse", 'se\\"'):
        _same(store.runs(text=text), [rows[9]])
    _same(store.runs(text="\udc80"), [])
    _same(store.runs(tags=["damaged"]), [])


def filters_and_pages_below_a_run(store: Store) -> None:
    flow, other = run_row(1, kind="flow"), run_row(2, kind="flow")
    subflow = child_row(3, flow, kind="flow")
    tasks = [child_row(n, (flow, subflow)[n % 2], name=f"t{n % 3}") for n in range(4, 12)]
    store.write(batch(flow, other, subflow, *tasks, child_row(50, other)))
    everything = [*reversed(tasks), subflow]
    _same(store.runs(below=flow.id), everything)
    _same(store.runs(below=flow.id, name="t1"), [row for row in everything if row.name == "t1"])
    _same(store.runs(below=flow.id, limit=3, before=everything[2]), everything[3:6])
    _same(store.runs(below=tasks[0].id), [])


def walks_the_tree_below_a_run(store: Store) -> None:
    flow = run_row(1, kind="flow")
    subflow = child_row(3, flow, kind="flow", status="COMPLETED", state_name="Completed")
    tasks = [child_row(2, flow), child_row(4, subflow), child_row(5, flow, state_name="Cached")]
    nested = child_row(6, tasks[0])
    store.write(batch(run_row(9), nested, *tasks, subflow, flow))
    _same(store.children(flow.id), [tasks[0], subflow, tasks[2]])
    _same(store.tree(flow.id), [tasks[0], subflow, tasks[1], tasks[2], nested])
    _same(store.tree(flow.id, limit=2), [tasks[0], subflow])
    _same(
        store.counts(flow.id),
        [
            StateCount("flow", "COMPLETED", "Completed", 1),
            StateCount("task", "RUNNING", "Cached", 1),
            StateCount("task", "RUNNING", "Running", 3),
        ],
    )
    _same(store.counts(nested.id), [])


def counts_what_was_tried_again(store: Store) -> None:
    flow = run_row(1, kind="flow")
    done = [child_row(n, flow, attempts=3, state_name="Completed", status="COMPLETED") for n in (2, 3)]
    waits = child_row(4, done[0], attempts=1, state_name="AwaitingRetry", status="WAITING")
    earlier = [AttemptRow(row.id, number, 1.0, 2.0, "Failed") for row in done for number in (1, 2)]
    store.write(batch(flow, *done, waits, child_row(5, flow), *earlier, AttemptRow(waits.id, 1, 1.0, 2.0, "Failed")))
    _same(
        store.counts(flow.id),
        [
            StateCount("task", "COMPLETED", "Completed", 2, 2),
            StateCount("task", "RUNNING", "Running", 1, 0),
            StateCount("task", "WAITING", "AwaitingRetry", 1, 1),
        ],
    )


def tallies_runs_by_place(store: Store) -> None:
    flow = run_row(1, kind="flow")
    outer = child_row(2, flow, kind="flow", name="outer")
    inner = child_row(3, outer, kind="flow", name="inner", status="COMPLETED", state_name="Completed")
    caller = child_row(4, inner, name="calls")
    tasks = [child_row(n, parent) for n, parent in ((5, flow), (6, inner), (7, caller), (8, caller))]
    twin = child_row(9, flow, kind="flow", name="outer", status="COMPLETED", state_name="Completed")
    other = child_row(10, twin, kind="flow", name="inner", status="COMPLETED", state_name="Completed")
    again = AttemptRow(tasks[3].id, 1, 1.0, 2.0, "Failed")
    store.write(batch(flow, outer, inner, caller, *tasks, twin, other, child_row(11, other), run_row(12), again))
    running, done = ("RUNNING", "Running"), ("COMPLETED", "Completed")
    _same(
        store.tally(flow.id),
        [
            Tally("", "flow", "outer", *done, 1, 0, 9.0),
            Tally("", "flow", "outer", *running, 1, 0, 2.0),
            Tally("", "task", "load", *running, 1, 0, 5.0),
            Tally("outer", "flow", "inner", *done, 2, 0, 3.0),
            Tally("outer/inner", "task", "calls", *running, 1, 0, 4.0),
            Tally("outer/inner", "task", "load", *running, 4, 1, 6.0),
        ],
    )
    _same(store.tally(caller.id)[0].place, "")
    _same(store.tally(tasks[0].id), [])


def lists_what_failed_itself(store: Store) -> None:
    flow = run_row(1, kind="flow", status="FAILED", ended=9.0)
    crashed = child_row(2, flow, status="CRASHED", state_name="Crashed", ended=8.0)
    timed_out = child_row(3, crashed, status="FAILED", state_name="TimedOut", ended=4.0)
    blocked = child_row(4, flow, status="FAILED", state_name="UpstreamFailed", ended=3.0)
    cancelled = child_row(5, flow, status="CANCELLED", state_name="Cancelled", ended=2.0)
    store.write(batch(flow, crashed, timed_out, blocked, cancelled, child_row(6, flow)))
    _same(store.failures(flow.id), [timed_out, crashed])
    _same(store.failures(flow.id, limit=1), [timed_out])
    _same(store.failures(timed_out.id), [])


def lists_attempts_with_the_latest(store: Store) -> None:
    run = run_row(1, attempts=2, attempt_started=5.0, ended=6.0, state_name="Completed")
    first = AttemptRow(run.id, 1, 1.0, 2.0, "Failed", "ValueError", "no", "Traceback…")
    store.write(batch(run, first, run_row(2)))
    _same(store.attempts(run.id), [first, AttemptRow(run.id, 2, 5.0, 6.0, "Completed")])
    store.write(batch(first))  # a batch that is offered again
    _same(len(store.attempts(run.id)), 2)


def lists_attempts_of_a_run_that_waits_for_the_next(store: Store) -> None:
    run = run_row(1, attempts=1, status="WAITING", state_name="AwaitingRetry")
    ended = AttemptRow(run.id, 1, 1.0, 2.0, "Failed")
    store.write(batch(run, ended))
    _same(store.attempts(run.id), [ended])
    store.write(batch(run_row(2, attempts=0)))
    _same(store.attempts(run_row(2).id), [])


def lists_edges(store: Store) -> None:
    flow = run_row(1, kind="flow")
    up, down = child_row(2, flow), child_row(3, flow)
    edges = [EdgeRow(down.id, up.id, "data", "x"), EdgeRow(down.id, up.id, "wait_for")]
    store.write(batch(flow, up, down, *edges))
    store.write(batch(*edges))
    _same(store.edges(flow.id), edges)
    _same(store.edges(up.id), [])


def keeps_log_lines_in_order(store: Store) -> None:
    flow = run_row(1, kind="flow")
    task = child_row(2, flow)
    lines = [LogRow((flow, task)[n % 2].id, 9.0 - n, 20, "penstock", f"line {n}") for n in range(6)]
    store.write(batch(flow, task, *lines[:3]))
    store.write(batch(*lines[3:], LogRow(run_row(8).id, 0.0, 20, "x", "another run")))
    _same(store.logs(flow.id), lines)
    _same(store.logs(flow.id, limit=2), lines[-2:])
    _same(store.logs(task.id), lines[1::2])


def hands_out_log_lines_by_number(store: Store) -> None:
    flow, other = run_row(1, kind="flow", name="etl", run_name="brave-otter"), run_row(8, kind="flow")
    task = child_row(2, flow)
    nested = child_row(3, task, name="page", run_name="page-0")
    store.write(batch(flow))
    _same(store.line_numbers(), (0, 0))
    store.write(batch(other, task, nested, *(LogRow(other.id, 1.0, 20, "x", "earlier") for _ in range(3))))
    _same(store.line_numbers(flow.id), (0, 0))
    rows = [LogRow(run.id, 5.0 + n, 10 * n, "shop", f"line {n}") for n, run in enumerate((flow, task, nested, other))]
    unknown = LogRow("f" * 32, 9.0, 40, "shop", "whose?")
    store.write(batch(*rows, unknown))
    first, last = store.line_numbers()
    _same((first, last - 5), (0, store.line_numbers(other.id)[0] + 2))
    _same(store.line_numbers(flow.id), (last - 4, last - 2))
    lines = [
        LineRow(last - 4, *rows[0], "flow", "etl", "brave-otter"),
        LineRow(last - 3, *rows[1], "task", "load", "load-2"),
        LineRow(last - 2, *rows[2], "task", "page", "page-0"),
        LineRow(last, *unknown, None, None, None),
    ]
    _same(store.lines(flow, 0, last), lines)
    _same(store.lines(flow, last - 4, last - 2), lines[1:3])
    _same(store.lines(task, 0, last), lines[1:])
    _same(store.lines(flow, 0, last, level=20), lines[2:])
    _same(store.lines(flow, 0, last, since=6.0), lines[1:])
    _same(store.lines(flow, 0, last, name="load"), [lines[1], lines[3]])
    _same(store.lines(flow, 0, last, name="page-0"), lines[2:])


def takes_any_text_and_number(store: Store) -> None:
    odd = ("\0", "a\0b", "\udc80", "\x1b[31m", "\u202e", "x" * 2_000_000)
    rows = [run_row(n, run_name=text, error=text, message=text) for n, text in enumerate(odd, 10)]
    numbers = (float("nan"), float("inf"), float("-inf"), 2.0**80)
    rows += [run_row(n, created=number, ended=number) for n, number in enumerate(numbers, 20)]
    rows += [run_row(n, map_index=number, attempts=0) for n, number in enumerate((2**63, -(2**70)), 30)]
    lines = [LogRow(rows[0].id, 1.0, 2**64, "x", text) for text in odd]
    store.write(batch(*rows, *lines))
    for row in rows:
        found = store.get(row.id)
        assert found is not None, f"a run was not stored: {row!r:.200}"
    _same(len(store.logs(rows[0].id)), len(lines))
    _same(store.get(rows[3].id), rows[3])


def takes_more_rows_than_fit_into_one_statement(store: Store) -> None:
    flow = run_row(0, kind="flow")
    rows = [child_row(number, flow) for number in range(1, 2500)]
    lines = [LogRow(flow.id, float(n), 20, "x", str(n)) for n in range(7001)]
    store.write(batch(flow, *rows, *lines))
    _same(store.tree(flow.id, limit=5000), rows)
    _same(store.logs(flow.id, limit=10_000), lines)


def writes_an_empty_batch(store: Store) -> None:
    store.write(Batch.empty())
    _same(store.runs(), [])
    _same(store.generation, 0)


def keeps_what_has_ended(store: Store) -> None:
    ended = run_row(1, status="COMPLETED", state_name="Completed", ended=2.0)
    store.write(batch(ended))
    store.write(batch(run_row(1)))  # late: it has been overtaken
    _same(store.get(ended.id), ended)
    rolled_back = ended._replace(state_name="RolledBack", ended=3.0)
    store.write(batch(rolled_back))
    _same(store.get(ended.id), rolled_back)


def keeps_results(store: Store) -> None:
    small = result_row(1, cache_key="k", expires=99.5, sealed=b"\0\xff small", size=8)
    large = result_row(2, path="2.sealed", sealed=None, size=10**6)
    store.write(batch(run_row(1), small, large))
    _same(store.result(small.address), small)
    _same(store.result(large.address), large)
    _same(store.result("f" * 32), None)
    store.write(batch(small._replace(sealed=b"anew", size=4)))
    _same(store.result(small.address), small._replace(sealed=b"anew", size=4))


def keeps_a_result_byte_by_byte_although_its_batch_needs_cleaning(store: Store) -> None:
    store.write(batch(run_row(1, message="\udc80"), result_row(1, cache_key="a\0b", sealed=b"\0\xff", size=2)))
    found = store.result(result_row(1).address)
    _same(found and found.sealed, b"\0\xff")


def answers_a_cache_key_with_the_latest_result(store: Store) -> None:
    rows = [result_row(n, cache_key="k", created=float(created)) for n, created in enumerate((5, 9, 7, 9), 1)]
    store.write(batch(*rows, result_row(8, cache_key="other", created=50.0), result_row(9, created=60.0)))
    _same(store.cached("k"), rows[3])
    _same(store.cached("nothing"), None)
    store.drop_results([rows[3].address, "unknown"])
    _same(store.cached("k"), rows[1])
    store.drop_results([])
    _same(store.result(rows[3].address), None)


def lists_the_results_of_a_task_latest_first(store: Store) -> None:
    rows = [result_row(n) for n in range(1, 6)]
    store.write(batch(*rows, result_row(9, task_key="shop:save")))
    _same(store.results_of("shop:load"), rows[::-1])
    _same(store.results_of("shop:load", limit=2), rows[:-3:-1])
    _same(store.results_of("nothing"), [])


def lists_kept_values(store: Store) -> None:
    flow, other = run_row(1, kind="flow", status="FAILED", ended=90.0), run_row(50, kind="flow")
    subflow = child_row(2, flow, kind="flow")
    kept = [kept_row(3, flow), kept_row(4, subflow, result_storage="s3://x", name="save"), kept_row(51, other)]
    bare = [kept_row(n, flow, result_key=None) for n in (5, 6)]
    failed = kept_row(7, flow, status="FAILED")
    store.write(batch(flow, subflow, other, *kept, *bare, failed))
    expected = [
        KeptRow("p3", f"{3:032x}", None, "load", "shop:load", "c1", flow.id),
        KeptRow("p4", f"{4:032x}", "s3://x", "save", "shop:load", "c1", flow.id),
        KeptRow("p51", f"{51:032x}", None, "load", "shop:load", "c1", other.id),
    ]
    _same(list(store.kept([flow.id])), expected[:2])
    _same(list(store.kept([flow.id, other.id])), expected)
    _same(list(store.kept([])), [])
    _same(store.not_kept([flow.id, other.id]), {"load": 2})
    _same(store.not_kept([other.id, "f" * 32]), {})


def lists_many_kept_values(store: Store) -> None:
    flow = run_row(0, kind="flow")
    rows = [kept_row(number, flow) for number in range(1, 20_002)]
    store.write(batch(flow, *rows))
    _same([row.result_key for row in store.kept([flow.id])], [row.id for row in rows])
    _same(store.tree(flow.id, limit=50_000), rows)
    _same(store.tree(flow.id, limit=10_001), rows[:10_001])


def lists_the_lives_of_a_run(store: Store) -> None:
    first = run_row(1, kind="flow")
    second = run_row(2, kind="flow", resumed_from=first.id)
    rivals = [run_row(n, kind="flow", resumed_from=second.id) for n in (3, 4)]
    last = run_row(5, kind="flow", resumed_from=rivals[0].id)
    stranger = run_row(6, kind="flow", resumed_from="f" * 32)
    store.write(batch(first, second, *rivals, last, stranger, child_row(7, first)))
    for row in (first, second, *rivals, last):
        _same(store.lives(row.id), [last, rivals[1], rivals[0], second, first])
    _same(store.lives(stranger.id), [stranger])
    _same(store.lives("f" * 32), [])


def lists_root_runs_that_have_not_ended(store: Store) -> None:
    mine = [run_row(n, kind="flow", owner="me") for n in (1, 2)]
    theirs = run_row(3, owner="they")
    nobodys = run_row(4)
    ended = run_row(5, owner="gone", ended=6.0)
    store.write(batch(*mine, theirs, nobodys, ended, child_row(6, mine[0])))
    _same(store.unfinished(), [nobodys, theirs, mine[1], mine[0]])
    _same(store.unfinished("me"), [mine[1], mine[0]])
    _same(store.unfinished("gone"), [])
    _same(store.owners(), ["me", "they"])


def declares_an_owner_dead_once(store: Store) -> None:
    flow = run_row(1, kind="flow", owner="dead")
    subflow = child_row(2, flow, kind="flow", status="WAITING", state_name="AwaitingRetry")
    task, done = child_row(3, subflow), child_row(4, flow, status="COMPLETED", state_name="Completed", ended=5.0)
    lone, other = run_row(6, owner="dead"), run_row(7, owner="alive")
    store.write(batch(flow, subflow, task, done, lone, other, child_row(8, other)))
    crash: dict[str, Any] = {"status": "CRASHED", "state_name": "Crashed", "ended": 9.0, "message": "gone"}
    _same(store.declare_dead("dead", 9.0, "gone"), [flow.id, lone.id])
    for row in (flow, subflow):
        _same(store.get(row.id), row._replace(**crash, error_type="CrashedRun"))
    for row in (task, lone):
        _same(store.get(row.id), row._replace(**crash))
    for row in (done, other, child_row(8, other)):
        _same(store.get(row.id), row)
    _same(store.owners(), ["alive"])
    _same(store.declare_dead("dead", 10.0, "again"), [])
    _same(store.get(flow.id), flow._replace(**crash, error_type="CrashedRun"))


def refuses_what_a_dead_owner_writes(store: Store) -> None:
    flow = run_row(1, kind="flow", owner="dead")
    task = child_row(2, flow)
    store.write(batch(flow, task))
    store.declare_dead("dead", 9.0, "gone")
    done = task._replace(status="COMPLETED", state_name="Completed", ended=10.0)
    for late in (done, child_row(3, flow), run_row(4, owner="dead"), flow._replace(status="COMPLETED", ended=10.0)):
        try:
            store.write(batch(run_row(5), late))
        except OwnerDeclaredDead:
            pass
        else:
            raise AssertionError(f"a row of a dead owner was stored: {late!r:.1000}")
    _same([row.status for row in store.tree(flow.id)], ["CRASHED"])
    _same(store.runs(), [store.get(flow.id)])
    store.write(batch(run_row(5, owner="alive")))
    _same(store.get(run_row(5).id), run_row(5, owner="alive"))


def lets_one_of_two_go_on_from_a_run(store: Store) -> None:
    first = run_row(1, kind="flow", status="FAILED", ended=2.0)
    store.write(batch(first))
    winner, loser = (run_row(n, kind="flow", resumed_from=first.id, owner=f"o{n}") for n in (2, 3))
    _same(store.claim(winner, [first.id]), None)
    _same(store.get(winner.id), winner)
    _same(store.claim(loser, [first.id, winner.id]), winner)
    _same(store.get(loser.id), None)
    store.write(batch(winner._replace(status="FAILED", ended=4.0)))
    _same(store.claim(loser, [winner.id, first.id]), None)
    done = loser._replace(status="COMPLETED", ended=5.0)
    store.write(batch(done))
    _same(store.claim(run_row(6, kind="flow", resumed_from=first.id), [first.id]), done)
    again = run_row(7, kind="flow", resumed_from=done.id)
    _same(store.claim(again, [done.id, winner.id, first.id]), None)
    store.write(batch(again._replace(status="COMPLETED", ended=7.0)))
    _same(store.claim(run_row(8, kind="flow", resumed_from=again.id), [again.id, done.id, first.id]), None)


def survives_a_power_cut_if_asked_to(store: Store) -> None:
    store.write(batch(run_row(1), result_row(1)), power=True)
    store.write(batch(run_row(2)))
    _same(store.runs(), [run_row(2), run_row(1)])


CHECKS: tuple[Check, ...] = (
    keeps_every_column,
    replaces_a_run,
    takes_the_last_of_two_versions_in_one_batch,
    knows_no_unwritten_run,
    finds_by_id_and_by_prefix,
    finds_a_root_run_by_the_prefix_it_shares_with_its_tasks,
    finds_the_latest_run_of_a_name,
    finds_a_run_by_two_names,
    finds_runs_inside_a_run,
    pages_through_root_runs_latest_first,
    filters_root_runs,
    finds_text_in_runs,
    filters_and_pages_below_a_run,
    walks_the_tree_below_a_run,
    counts_what_was_tried_again,
    tallies_runs_by_place,
    lists_what_failed_itself,
    lists_attempts_with_the_latest,
    lists_attempts_of_a_run_that_waits_for_the_next,
    lists_edges,
    keeps_log_lines_in_order,
    hands_out_log_lines_by_number,
    takes_any_text_and_number,
    takes_more_rows_than_fit_into_one_statement,
    writes_an_empty_batch,
    keeps_what_has_ended,
    keeps_results,
    keeps_a_result_byte_by_byte_although_its_batch_needs_cleaning,
    answers_a_cache_key_with_the_latest_result,
    lists_the_results_of_a_task_latest_first,
    lists_kept_values,
    lists_many_kept_values,
    lists_the_lives_of_a_run,
    lists_root_runs_that_have_not_ended,
    declares_an_owner_dead_once,
    refuses_what_a_dead_owner_writes,
    lets_one_of_two_go_on_from_a_run,
    survives_a_power_cut_if_asked_to,
)


def _same(got: object, expected: object) -> None:
    assert got == expected, f"expected {expected!r:.1000}, got {got!r:.1000}"
