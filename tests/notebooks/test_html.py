"""What `_repr_html_` makes of tasks, flows, futures, states and runs."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from typing import Any

import pytest

from penstock import Future, FutureList, State, flow, task
from penstock.context import get_run_context
from penstock.states import Completed, Failed, Pending
from penstock.task_runners import ThreadPoolTaskRunner

EVIL = "<script>alert('x')</script> & <b>"


class Page(HTMLParser):
    """The elements and the text of a piece of HTML; fails if it is not balanced."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self._open: list[str] = []
        self.feed(source)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes.update(name for name, _ in attrs)
        self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag
        self.text += " "

    def handle_data(self, data: str) -> None:
        self.text += data


def shown(thing: Any) -> str:
    """The text of what a notebook shows, after a look at what it is made of."""
    page = Page(thing._repr_html_())
    assert page.tags <= {"div", "table", "thead", "tbody", "tr", "th", "td", "span", "b", "code"}
    assert page.attributes <= {"style"}  # nothing that could load or execute anything
    return re.sub(r"\s+", " ", page.text).strip()


@task
def load(n: int) -> str:
    if n % 4 == 1:
        raise ValueError(f"{EVIL} {n}")
    return EVIL


@task
def use(x: Any) -> Any:
    return x


def in_flow(body: Callable[[], Any]) -> State[Any]:
    state: State[Any] = flow(name="etl", flow_run_name="brave-otter", on_unobserved_failure="warn")(body)(
        return_state=True
    )
    return state


def kept(make: Callable[[], Any]) -> Any:
    """What `make` gives inside a flow, when everything in it is over."""
    box: list[Any] = []
    in_flow(lambda: box.append(make()))
    return box[0]


@contextmanager
def going_on(made: list[Any], body: Callable[[threading.Event], None]) -> Iterator[None]:
    """Meanwhile the body of a flow waits for an event to be set."""
    gate, ready = threading.Event(), threading.Event()

    def main() -> None:
        body(gate)
        ready.set()
        gate.wait(5)

    thread = threading.Thread(target=lambda: flow(main)())
    thread.start()
    try:
        assert ready.wait(5)
        yield
    finally:
        gate.set()
        thread.join()


class TestFuture:
    def test_completed(self) -> None:
        text = shown(kept(lambda: load.submit(0)))
        assert text.startswith("Task run 'load-0' ● Completed")
        assert f'result "{EVIL}"' in text

    def test_failed(self) -> None:
        text = shown(kept(lambda: load.submit(1)))
        assert "● Failed" in text
        assert f"error ValueError: {EVIL} 1" in text
        assert re.search(r"raised at test_html\.py:\d+", text)

    def test_blocked(self) -> None:
        text = shown(kept(lambda: use.submit(load.submit(1))))
        assert "UpstreamFailed" in text
        assert "upstream 'load-0' failed" in text

    def test_showing_is_not_looking(self) -> None:
        def body() -> None:
            futures = load.map([1, 1])
            futures.wait()
            shown(futures)
            shown(futures[0])

        state = flow(body)(return_state=True)
        assert "2 of 2 runs of 'load' failed and nobody looked at them" in str(state.message)

    def test_running_and_pending(self) -> None:
        made: list[Future[Any]] = []

        def body(gate: threading.Event) -> None:
            first = task(name="slow")(lambda: gate.wait(5)).submit()
            made.extend([first, use.submit(first)])
            while not first.state.is_running():
                pass

        with going_on(made, body):
            running, pending = map(shown, made)
        assert "● Running goes on" in running
        assert "● Pending goes on" in pending


class TestFutureList:
    def test_counts_and_failures_first(self) -> None:
        text = shown(kept(lambda: load.map(range(14))))
        assert text.startswith("FutureList of 14: 10 ● Completed , 4 ● Failed")
        rows = re.findall(r"load-0\[(\d+)\]", text)
        assert rows == ["1", "5", "9", "13", "0", "2", "3", "4", "6", "7"]
        assert text.endswith("and 4 more")

    def test_empty(self) -> None:
        assert shown(FutureList()) == "FutureList, empty"

    def test_one_that_does_not_exist_yet_does_not_block(self) -> None:
        made: list[Any] = []

        def body(gate: threading.Event) -> None:
            made.append(use.map(task(lambda: gate.wait(5) and [1, 2]).submit()))

        with going_on(made, body):
            assert shown(made[0]) == "FutureList of map of 'use', unexpanded"
        assert shown(made[0]) == "FutureList of map of 'use', unexpanded"
        assert len(made[0]) == 2
        assert shown(made[0]).startswith("FutureList of 2")


class TestState:
    def test_made_by_hand(self) -> None:
        assert f"result '{EVIL[:5]}" not in shown(Pending())
        assert f'result "{EVIL}"' in shown(Completed(data=EVIL))
        assert f"message {EVIL}" in shown(Failed(message=EVIL))
        assert "error KeyError" in shown(Failed(data=KeyError(EVIL)))

    def test_of_a_task_run(self) -> None:
        text = shown(kept(lambda: load.submit(0, return_state=True)))
        assert text.startswith("State ● Completed result")

    def test_of_a_flow_run_tells_of_its_tasks(self) -> None:
        def body() -> None:
            flow(name="sub")(lambda: load(0))()
            load.map(range(6)).wait()
            load.with_options(name="other").submit(1).wait()

        text = shown(in_flow(body))
        assert text.startswith("etl/brave-otter ● Completed")
        assert "8 task runs (3 failed and handled), 1 subflow run" in text
        assert "load 6 4 completed, 2 failed" in text
        assert "sub/load 1 1 completed" in text
        assert "first failures load-0[1]" in text
        assert text.count("test_html.py:") == 3

    def test_of_a_flow_run_whose_store_is_another_one(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
        state = in_flow(lambda: load(0))
        monkeypatch.setenv("PENSTOCK_HOME", str(tmp_path / "other"))
        assert shown(state).startswith("State ● Completed")

    def test_of_a_failed_flow_run(self) -> None:
        text = shown(in_flow(lambda: load(1)))
        assert "● Failed" in text
        assert f"error ValueError: {EVIL} 1" in text

    def test_a_long_result_is_cut(self) -> None:
        assert len(Completed(data="x" * 100_000)._repr_html_()) < 2_000

    def test_no_code_of_the_users_is_executed(self) -> None:
        class Evil:
            def __repr__(self) -> str:
                raise AssertionError

            _repr_html_ = __str__ = __repr__

        assert "Evil" in shown(Completed(data=Evil()))


def test_a_run_as_hooks_see_it() -> None:
    view = kept(lambda: get_run_context().flow_run)  # type: ignore[union-attr]
    text = shown(view)
    assert text.startswith("brave-otter ● Completed id ")
    assert "attempt 1" in text


class TestDefinitions:
    def test_task(self) -> None:
        @task(retries=2, tags=[EVIL], timeout_seconds=30)
        def fetch(url: str, *, times: int = 1) -> bytes:
            """Fetch <it>.

            More about it.
            """
            return b""

        text = shown(fetch)
        assert text.startswith("Task fetch (url: 'str', *, times: 'int' = 1) -> 'bytes' Fetch <it>. ")
        assert "retries 2" in text
        assert "timeout_seconds 30" in text
        assert EVIL in text
        assert "log_prints" not in text
        assert "More about it" not in text
        assert repr(fetch) == "<Task 'fetch'>"

    def test_flow(self) -> None:
        etl = flow(name="etl", task_runner=ThreadPoolTaskRunner())(lambda n=3: n)
        assert shown(etl).startswith("Flow etl (n=3) task_runner <penstock.task_runners.threads.ThreadPoolTaskRunner>")
        assert repr(etl) == "<Flow 'etl'>"

    def test_without_a_signature(self) -> None:
        assert shown(task(name="least")(min)).startswith("Task least (")
