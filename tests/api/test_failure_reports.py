"""How a run reports failures that nobody looked at."""

from __future__ import annotations

import logging
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from roots import ROUTES, made, run

from penstock import State, flow, task
from penstock.states import StateType
from placeless import placeless

COMPLETED, FAILED, CANCELLED, CRASHED = (
    StateType.COMPLETED,
    StateType.FAILED,
    StateType.CANCELLED,
    StateType.CRASHED,
)
ERROR = ValueError("x")
# Some bodies block on unfinished work inside an event loop: allowed, with a warning that has its own test.


@pytest.fixture(autouse=True)
def fresh_error() -> None:
    """`ERROR` is one object, to be compared by identity; notes of other tests do not belong on it."""
    ERROR.__dict__.pop("__notes__", None)
    ERROR.__traceback__ = None


@task
def bad() -> None:
    raise ERROR


@task
def fine() -> int:
    return 1


@task
def use(*values: Any) -> Any:
    return values


@pytest.fixture(params=ROUTES)
def ended(request: pytest.FixtureRequest) -> Callable[[Callable[[], Any]], State[Any]]:
    """The final State of a root run with the given body."""
    return ROUTES[request.param]


class TestReport:
    def test_state_of_a_run_that_was_looked_at(self) -> None:
        """Whoever holds the State of a run has looked at the run."""

        @flow
        def main() -> str:
            use.submit(bad(return_state=True))
            return "seen"

        assert main() == "seen"

    def test_several(self) -> None:
        gate = threading.Event()

        @task
        def extract(n: int) -> None:
            if n == 1:
                gate.wait(5)
                raise ValueError("x")

        @task
        def load() -> None:
            raise KeyError("k")

        @flow
        def main() -> None:
            futures = extract.submit(0), extract.submit(1), load.submit()
            futures[2].wait()
            gate.set()  # the first in order of submission fails last

        with pytest.raises(ExceptionGroup) as caught:
            main()
        gate.clear()
        text = "2 task runs failed and nobody looked at them: extract-1 (ValueError: x), load-0 (KeyError: 'k')"
        assert [type(error) for error in caught.value.exceptions] == [ValueError, KeyError]
        assert placeless(caught.value.message) == text
        state = main(return_state=True)
        assert (state.type, state.name, placeless(state.message)) == (FAILED, "Failed", text)
        with pytest.raises(ExceptionGroup):
            state.result()

    def test_names_ten_at_most(self) -> None:
        @task
        def fails(n: int) -> None:
            raise ValueError(f"e{n}")

        @flow
        def main() -> None:
            fails.map(range(12))

        with pytest.raises(ExceptionGroup) as caught:
            main()
        assert [str(error) for error in caught.value.exceptions] == [f"e{n}" for n in range(12)]
        message = placeless(caught.value.message)
        start = "12 of 12 runs of 'fails' failed and nobody looked at them: fails-0[0] (ValueError: e0), "
        assert message.startswith(start)
        assert [n for n in range(12) if f"fails-0[{n}] (ValueError: e{n})" in message] == list(range(10))

    def test_in_order_of_submission(self) -> None:
        @task
        def first() -> None:
            time.sleep(0.03)
            raise KeyError("first")

        @task
        def second() -> None:
            raise ValueError("second")

        @flow
        def main() -> None:
            first.submit()
            second.submit()

        with pytest.raises(ExceptionGroup) as caught:
            main()
        assert [type(error) for error in caught.value.exceptions] == [KeyError, ValueError]

    def test_charged_to_the_flow_not_to_the_task_between(self) -> None:
        parents = []

        @task
        def parent() -> str:
            bad.submit()
            return "well"

        @flow
        def main() -> None:
            parents.append(parent.submit())
            parents[0].wait()

        with pytest.raises(ValueError) as caught:
            main()
        assert caught.value is ERROR
        assert (parents[0].state.type, parents[0].result()) == (COMPLETED, "well")

    def test_charged_to_the_root_task(self) -> None:
        @task
        def parent() -> str:
            bad.submit()
            return "well"

        @task
        def root() -> str:
            assert parent.submit().result() == "well"
            assert parent() == "well"
            return "root"

        state = root(return_state=True)
        assert state.type is FAILED
        assert str(state.message).startswith("2 task runs failed and nobody looked at them: bad")

    def test_subflow_takes_over(self) -> None:
        """A subflow's failures make it fail; whoever looks at it has seen them."""

        @flow
        def sub() -> str:
            bad.submit()
            return "lost"

        @flow
        def calls() -> str:
            assert sub(return_state=True).data is ERROR
            future = sub.submit()
            assert future.exception() is ERROR
            return "seen"

        @flow
        def drops() -> str:
            sub.submit(wait_for=[])
            return "not seen"

        assert calls() == "seen"
        state = drops(return_state=True)
        assert state.data is ERROR
        assert str(state.message).startswith("1 ")
        assert "nobody looked at it" in str(state.message)
        assert "(ValueError: x)" in str(state.message)

    def test_body_raised(self, caplog: pytest.LogCaptureFixture) -> None:
        own = RuntimeError("own")

        @flow
        def main() -> None:
            bad.submit().wait()
            raise own

        with caplog.at_level(logging.WARNING, "penstock"), pytest.raises(RuntimeError) as caught:
            main()
        assert caught.value is own
        assert [note for note in own.__notes__ if "bad-0 (ValueError: x)" in note]
        assert [record for record in caplog.records if "bad-0 (ValueError: x)" in record.getMessage()]
        state = main(return_state=True)
        assert state.message == "Flow run encountered an exception: RuntimeError: own"

    def test_returned_and_unseen(self) -> None:
        """What is returned has been looked at; its failure wins over those that were not."""

        @flow
        def main() -> Any:
            bad.submit().wait()
            return task(name="other")(lambda: {}["k"]).submit()

        with pytest.raises(KeyError) as caught:
            main()
        assert any("bad-0 (ValueError: x)" in note for note in caught.value.__notes__)

    def test_value_is_not_lost_silently(self) -> None:
        @flow
        def main() -> int:
            bad.submit()
            return 5

        with pytest.raises(ValueError):
            main()

    def test_script_ends_with_a_traceback(self) -> None:
        script = """
            from penstock import flow, task
            @task
            def extract(): raise ValueError("disk on fire")
            @flow
            def etl(): extract.submit()
            etl()
        """
        command = [sys.executable, "-c", textwrap.dedent(script)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        assert ended.returncode == 1
        assert ended.stderr.splitlines()[-2].startswith("ValueError: disk on fire")
        assert "extract-0" in ended.stderr.splitlines()[-1]


class TestWarn:
    @pytest.mark.parametrize("color", ["sync", "async"])
    def test_one_warning_and_the_outcome_stands(self, color: str, caplog: pytest.LogCaptureFixture) -> None:
        def body() -> str:
            bad.submit()
            bad.submit()
            return "stands"

        subject = made(flow, body, color, on_unobserved_failure="warn")
        with caplog.at_level(logging.WARNING):
            state = run(subject, return_state=True)
        assert (state.type, state.result()) == (COMPLETED, "stands")
        warnings = [record for record in caplog.records if "nobody looked" in record.getMessage()]
        assert [record.levelno for record in warnings] == [logging.WARNING]
        assert placeless(warnings[0].getMessage()) == (
            "2 task runs failed and nobody looked at them: bad-0 (ValueError: x), bad-1 (ValueError: x)"
        )

    @pytest.mark.parametrize("submit", [False, True])
    def test_inherited_by_subflows(self, submit: bool) -> None:
        @flow
        def inherits() -> str:
            bad.submit()
            return "inherits"

        @flow(on_unobserved_failure="fail")
        def fails() -> None:
            bad.submit()

        @flow(on_unobserved_failure="warn")
        def main() -> Any:
            if submit:
                return inherits.submit().result(), fails.submit().exception()
            return inherits(), fails(return_state=True).data

        assert main() == ("inherits", ERROR)

    def test_warns_inside_failing_flows(self) -> None:
        @flow(on_unobserved_failure="warn")
        def sub() -> str:
            bad.submit()
            return "stands"

        @flow
        def main() -> str:
            return sub()

        assert main() == "stands"

    def test_returned_failures_still_fail(self) -> None:
        @flow(on_unobserved_failure="warn")
        def main() -> Any:
            return bad.submit()

        with pytest.raises(ValueError):
            main()

    @pytest.mark.parametrize("option", ["ignore", "", True, 3])
    def test_other_values_are_refused(self, option: Any) -> None:
        with pytest.raises(ValueError, match="on_unobserved_failure"):
            flow(on_unobserved_failure=option)(fine.fn)


class TestRetriedFlows:
    def test_unseen_failures_are_retried(self) -> None:
        attempts = []

        @task
        def first_fails() -> int:
            attempts.append(1)
            if len(attempts) == 1:
                raise ERROR
            return len(attempts)

        @flow(retries=1)
        def main() -> str:
            first_fails.submit()
            return "second attempt"

        assert main() == "second attempt"
        assert len(attempts) == 2

    def test_only_the_last_attempt_decides(self) -> None:
        attempts = []

        @flow(retries=2)
        def main() -> None:
            attempts.append(1)
            task(name=f"t{len(attempts)}")(bad.fn).submit()

        state = main(return_state=True)
        assert len(attempts) == 3
        assert placeless(state.message) == "1 task run failed and nobody looked at it: t3-0 (ValueError: x)"
