"""What every store must do, as checks that can be run against any of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from penstock.store.base import AttemptRow, Batch, EdgeRow, LogRow, RunRow, StateCount, Store

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


def batch(*rows: RunRow | AttemptRow | EdgeRow | LogRow) -> Batch:
    """Sort rows into a batch."""
    sorted_rows = Batch.empty()
    for row in rows:
        tables: dict[type, list[Any]] = {
            RunRow: sorted_rows.runs,
            AttemptRow: sorted_rows.attempts,
            EdgeRow: sorted_rows.edges,
            LogRow: sorted_rows.logs,
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


def pages_through_root_runs_latest_first(store: Store) -> None:
    flows = [run_row(number, kind="flow", created=float(number // 2)) for number in range(1, 8)]
    store.write(batch(*flows, child_row(100, flows[0])))
    seen: list[RunRow] = []
    while page := store.runs(limit=3, before=seen[-1] if seen else None):
        seen += page
    _same(seen, list(reversed(flows)))


def filters_root_runs(store: Store) -> None:
    flow = run_row(1, kind="flow", name="etl", status="FAILED")
    task = run_row(2)
    store.write(batch(flow, task))
    _same(store.runs(kind="flow"), [flow])
    _same(store.runs(name="load"), [task])
    _same(store.runs(status="FAILED"), [flow])
    _same(store.runs(since=2.0), [task])
    _same(store.runs(kind="flow", status="RUNNING"), [])


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


CHECKS: tuple[Check, ...] = (
    keeps_every_column,
    replaces_a_run,
    takes_the_last_of_two_versions_in_one_batch,
    knows_no_unwritten_run,
    finds_by_id_and_by_prefix,
    finds_a_root_run_by_the_prefix_it_shares_with_its_tasks,
    finds_the_latest_run_of_a_name,
    pages_through_root_runs_latest_first,
    filters_root_runs,
    walks_the_tree_below_a_run,
    lists_attempts_with_the_latest,
    lists_attempts_of_a_run_that_waits_for_the_next,
    lists_edges,
    keeps_log_lines_in_order,
    takes_any_text_and_number,
    takes_more_rows_than_fit_into_one_statement,
    writes_an_empty_batch,
)


def _same(got: object, expected: object) -> None:
    assert got == expected, f"expected {expected!r:.1000}, got {got!r:.1000}"
