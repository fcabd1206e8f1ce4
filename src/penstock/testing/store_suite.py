"""What every store must do, as checks that can be run against any of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from penstock.store.base import (
    AttemptRow,
    Batch,
    EdgeRow,
    KeptRow,
    LogRow,
    OwnerDeclaredDead,
    ResultRow,
    RunRow,
    StateCount,
    Store,
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
