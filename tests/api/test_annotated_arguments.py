"""What `quote`, `opaque`, `unmapped` and `allow_failure` do to arguments."""

from __future__ import annotations

import copy
import pickle
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from roots import RUNNERS, WAYS, give, give_flow, in_flow

from penstock import (
    allow_failure,
    opaque,
    quote,
    task,
    unmapped,
)
from penstock.exceptions import CancelledRun, CrashedRun, UpstreamTaskError
from penstock.states import Failed
from penstock.task_runners import ThreadPoolTaskRunner

ERROR = ValueError("x")


@task
def number(n: Any = 1) -> Any:
    return n


@task
def bad() -> None:
    raise ERROR


@pytest.fixture(params=WAYS)
def arrived(request: pytest.FixtureRequest) -> Callable[[Any], Any]:
    """What a body gets for an argument, inside a flow."""
    return WAYS[request.param]


@pytest.fixture(params=RUNNERS)
def runner(request: pytest.FixtureRequest) -> Any:
    return RUNNERS[request.param]()


class TestAnnotations:
    def test_quote(self, arrived: Any) -> None:
        def body() -> bool:
            f = number.submit()
            inside = [f]
            alone, nested = arrived(quote(f)), arrived([quote(f), f])
            return alone is f and arrived(quote(inside)) is inside and nested[0] is f and nested[1] == 1

        assert in_flow(body)

    def test_quote_does_not_wait_nor_care(self) -> None:
        gate = threading.Event()

        @task
        def late() -> None:
            gate.wait(5)

        def body() -> Any:
            future = late.submit()
            assert give.submit(quote(future)).result(timeout=5).value is future
            assert give.submit([quote([future])]).result(timeout=5).value[0][0] is future
            assert number.submit(6, wait_for=quote(future)).result(timeout=5) == 6
            assert number.submit(6, wait_for=[quote(future)]).result(timeout=5) == 6
            gate.set()

        in_flow(body)

    def test_opaque(self, arrived: Any) -> None:
        def body() -> bool:
            f = number.submit()
            inside = [f]
            return arrived(opaque(f)) == 1 and arrived(opaque(inside)) is inside and arrived([opaque([f])])[0][0] is f

        assert in_flow(body)

    def test_unmapped_is_unwrapped(self, arrived: Any) -> None:
        thing = object()
        assert in_flow(lambda: arrived(unmapped(thing))) is thing
        assert in_flow(lambda: arrived([unmapped(thing)]))[0] is thing
        assert in_flow(lambda: arrived(unmapped([number.submit()]))) == [1]

    def test_annotations_without_any_future(self, arrived: Any) -> None:
        """The body never sees a wrapper, whatever else there is."""
        thing = [1]
        for wrapper in (quote, opaque, unmapped, allow_failure):
            assert in_flow(lambda wrapper=wrapper: arrived(wrapper(thing))) is thing
            assert in_flow(lambda wrapper=wrapper: arrived({"a": wrapper(thing)}))["a"] is thing

    def test_allow_failure(self, arrived: Any) -> None:
        def body() -> Any:
            f, ok = bad.submit(), number.submit()
            return [
                arrived(allow_failure(f)),
                *arrived(allow_failure([f, ok])),
                *arrived([allow_failure(f), ok]),
                arrived({"a": (allow_failure({"b": f}),)})["a"][0]["b"],
                arrived(allow_failure(3)),
            ]

        assert in_flow(body) == [ERROR, ERROR, 1, ERROR, 1, ERROR, 3]

    def test_allow_failure_of_every_kind(self) -> None:
        gate, started = threading.Event(), threading.Event()

        @task
        def leaves() -> None:
            raise SystemExit(1)

        @task(timeout_seconds=0.01)
        def slow() -> None:
            while True:
                time.sleep(0.001)

        @task
        def hold() -> None:
            started.set()
            gate.wait(5)

        def body() -> Any:
            crashed, late, blocked = leaves.submit(), slow.submit(), number.submit(bad.submit())
            for future in (crashed, late, blocked):
                future.wait()
            hold.submit()
            started.wait(5)
            cancelled = number.submit()
            cancelled.cancel()
            gate.set()
            return give.submit(allow_failure([crashed, late, blocked, cancelled])).result().value

        kinds = [type(x) for x in in_flow(body, task_runner=ThreadPoolTaskRunner(max_workers=1))]
        assert kinds[0] is CrashedRun
        assert issubclass(kinds[1], TimeoutError)
        assert kinds[2:] == [UpstreamTaskError, CancelledRun]

    def test_allow_failure_waits(self) -> None:
        gate = threading.Event()

        @task
        def late() -> None:
            gate.wait(5)
            raise ERROR

        def body() -> Any:
            taken = give.submit(allow_failure(late.submit()))
            taken.wait(0.02)
            assert not taken.done()
            gate.set()
            return taken.result().value

        assert in_flow(body) is ERROR

    def test_allow_failure_in_wait_for(self, arrived: Any) -> None:
        def body() -> Any:
            f, g = bad.submit(), bad.submit()
            return [
                number(1, wait_for=allow_failure(f)),
                number.submit(2, wait_for=[allow_failure(f)]).result(),
                number.submit(3, wait_for=allow_failure([f, g])).result(),
                number.submit(4, wait_for=[allow_failure([f, number.submit()])]).result(),
                give_flow(5, wait_for=allow_failure(f)).value,
            ]

        assert in_flow(body) == [1, 2, 3, 4, 5]

    def test_allowed_here_required_there(self) -> None:
        def body() -> Any:
            f = bad.submit()
            return give.submit([allow_failure(f), f]).exception(), number.submit(
                allow_failure(f), wait_for=[f]
            ).exception()

        assert [type(error) for error in in_flow(body)] == [UpstreamTaskError, UpstreamTaskError]

    def test_allowed_state(self) -> None:
        assert in_flow(lambda: give.submit(allow_failure(Failed(data=ERROR))).result().value) is ERROR

    @pytest.mark.parametrize(
        "wrap",
        [
            lambda f: allow_failure(unmapped(f)),
            lambda f: unmapped(allow_failure(f)),
            lambda f: allow_failure(opaque(f)),
            lambda f: opaque(allow_failure(f)),
            lambda f: unmapped(opaque(allow_failure(unmapped(f)))),
            lambda f: allow_failure(allow_failure(f)),
        ],
    )
    def test_effects_add_up(self, arrived: Any, wrap: Any) -> None:
        def body() -> Any:
            f = bad.submit()
            return arrived(wrap(f)), arrived([wrap(f)])[0]

        assert in_flow(body) == (ERROR, ERROR)

    @pytest.mark.parametrize(
        "wrap",
        [
            lambda f: quote(allow_failure(f)),
            lambda f: allow_failure(quote(f)),
            lambda f: unmapped(quote(opaque(f))),
            lambda f: opaque(quote(f)),
            lambda f: quote(quote(f)),
        ],
    )
    def test_quote_wins(self, arrived: Any, wrap: Any) -> None:
        def body() -> bool:
            f = number.submit()
            return arrived(wrap(f)) is f and arrived((wrap(f),))[0] is f

        assert in_flow(body)

    def test_on_every_runner(self, runner: Any) -> None:
        def body() -> Any:
            f, ok = bad.submit(), number.submit()
            return [
                give.submit(allow_failure([f, ok])).result().value,
                give.submit([unmapped(ok)]).result().value,
                give.submit(quote(ok)).result().value is ok,
            ]

        assert in_flow(body, task_runner=runner) == [[ERROR, 1], [1], True]

    @pytest.mark.parametrize("wrapper", [quote, opaque, unmapped, allow_failure])
    def test_value_objects(self, wrapper: Any) -> None:
        one = wrapper([1])
        assert (one.value, one.unwrap()) == ([1], [1])
        assert one == wrapper([1]) != wrapper([2])
        assert all(one != other([1]) for other in (quote, opaque, unmapped, allow_failure) if other is not wrapper)
        assert one.rewrap(5) == wrapper(5)
        for twin in (pickle.loads(pickle.dumps(one)), copy.copy(one), copy.deepcopy(one)):
            assert type(twin) is wrapper
            assert twin == one
        with pytest.raises(AttributeError):
            one.value = 3
        assert hash(wrapper(3)) == hash(wrapper(3))

    def test_unquote(self) -> None:
        assert quote({"a": 1}).unquote() == {"a": 1}
