"""What a test can ask the record about its runs."""

from __future__ import annotations

import pytest

from penstock import flow, get_run_logger, resume, task
from penstock.cache_policies import INPUTS
from penstock.task_runners import ProcessPoolTaskRunner
from penstock.testing import RecordedRuns, isolated_store, recorded_runs, stub


@task(tags=["b", "a"])
def halve(number: int) -> float:
    get_run_logger().info("halving %s", number)
    return 12 / number


@task
def add(numbers: list[float], secret_token: str = "x") -> float:
    return sum(numbers)


def test_of_a_map(penstock_runs: RecordedRuns) -> None:
    @flow(name="main")
    def main() -> float:
        return add.submit(halve.map([1, 2])).result()

    assert main() == 18
    runs = penstock_runs["halve"]
    assert (runs.states, runs.attempts) == (["Completed"] * 2, [1, 1])
    assert runs.inputs == [{"number": "1"}, {"number": "2"}]
    assert runs.results == ["12.0", "6.0"]
    assert (runs.errors, runs.cached, runs.restored) == ([None, None], [False, False], [False, False])
    assert runs.logs == ["halving 1", "halving 2"]
    assert [run.map_index for run in runs] == [0, 1]
    assert runs[0].tags == ["a", "b"]
    assert penstock_runs["add"][0].waited_for == ["halve-0[0]", "halve-0[1]"]
    assert penstock_runs["add"][0].parent == penstock_runs["main"][0].run_name
    assert "x" not in penstock_runs["add"][0].inputs["secret_token"]


def test_of_failures(penstock_runs: RecordedRuns) -> None:
    main = flow(name="main")(lambda: halve.with_options(retries=1).submit(0).result())
    assert main(return_state=True).is_failed()
    (run,) = penstock_runs["halve"]
    assert (run.state, run.attempts, run.attempt_states) == ("Failed", 2, ["Failed", "Failed"])
    assert (run.error, run.result) == ("ZeroDivisionError: division by zero", None)
    assert run.logs == ["halving 0"] * 2
    assert penstock_runs["main"].states == ["Failed"]


def test_one_run_by_its_own_name(penstock_runs: RecordedRuns) -> None:
    flow(name="main")(lambda: [halve(1), halve(2)])()
    (run,) = penstock_runs["halve-1"]
    assert run.inputs == {"number": "2"}
    assert repr(run) == "<halve-1: Completed>"


def test_order_and_size(penstock_runs: RecordedRuns) -> None:
    assert (len(penstock_runs), list(penstock_runs), list(penstock_runs["nothing"])) == (0, [], [])
    flow(name="one", flow_run_name="first")(lambda: halve(1))()
    flow(name="two", flow_run_name="second")(lambda: halve(2))()
    assert [run.run_name for run in penstock_runs] == ["first", "halve-0", "second", "halve-0"]
    assert [run.kind for run in penstock_runs.all[:2]] == ["flow", "task"]
    assert (repr(penstock_runs), len(penstock_runs)) == (repr(penstock_runs.all), 4)
    assert penstock_runs["halve"][1:].inputs == [{"number": "2"}]


def test_cached_and_restored(penstock_runs: RecordedRuns) -> None:
    first = task(persist_result=True, name="first")(lambda: 1)
    cached = task(cache_policy=INPUTS, name="cached")(lambda x: x)
    last = task(name="last")(lambda: 1 / 0)

    @flow(name="main")
    def main() -> None:
        first()
        cached(1)
        cached(1)
        last()

    failed = main(return_state=True)
    with stub(last, returns=None):
        resume(failed.state_details.flow_run_id, flow=main)
    assert penstock_runs["cached"].cached == [False, True, True, True]
    assert penstock_runs["cached"].restored == [False, False, True, True]
    assert penstock_runs["first"].restored == [False, True]
    assert penstock_runs["last"].states == ["Failed", "Completed"]


def test_runs_in_other_processes(penstock_runs: RecordedRuns) -> None:
    main = flow(name="main", task_runner=ProcessPoolTaskRunner(1))(lambda: halve.map([3, 4]).result())
    assert main() == [4, 3]
    assert penstock_runs["halve"].logs == ["halving 3", "halving 4"]


def test_only_what_comes_from_now_on() -> None:
    with isolated_store():
        halve(1)
        runs = recorded_runs()
        halve(2)
        assert runs["halve"].inputs == [{"number": "2"}]
        with pytest.raises(IndexError):
            runs["halve"][1]


def test_how_long_it_took(penstock_runs: RecordedRuns) -> None:
    blocked = task(name="blocked")(lambda x: x)
    flow(name="main")(lambda: blocked.submit(halve.submit(0)).wait())(return_state=True)
    assert penstock_runs["halve"][0].seconds is not None
    assert penstock_runs["blocked"][0].seconds is None
