"""Random flows end on every runner, and in the record, as a model of the rules says: the model knows no engine.

The flows are data (`penstock.testing.graphs`), so Hypothesis shrinks them, and what it shows can be typed in again:
`check_flow(Node(...), ThreadPoolTaskRunner())`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from lasting import lasting
from penstock.task_runners import (
    DaskTaskRunner,
    ProcessPoolTaskRunner,
    RayTaskRunner,
    SequentialTaskRunner,
    TaskRunner,
    ThreadPoolTaskRunner,
)
from penstock.testing.graphs import Argument, Graph, Node, Source, check_flow, check_graphs, draw_flow

# Where a runner executes a synchronous body in a coroutine's thread, its waits block that thread's event loop.
pytestmark = pytest.mark.filterwarnings("ignore:this wait blocks:RuntimeWarning")


class Case(NamedTuple):
    """A runner, and how many flows it is to be tried with."""

    make: Callable[[Any], TaskRunner]  # of what the session's fixture gives that it needs
    examples: int
    shrinks: bool = True  # a failure is made smaller; where a flow takes long, that would outlast the test's time
    lasts: bool = False  # its workers go on from flow to flow
    needs: str | None = None  # the fixture of a cluster, say


RUNNERS: dict[str, Case] = {
    "sequential": Case(lambda _: SequentialTaskRunner(), 150),
    "threads": Case(lambda _: ThreadPoolTaskRunner(), 150),
    "threads-1": Case(lambda _: ThreadPoolTaskRunner(max_workers=1), 150),
    "processes": Case(lambda _: ProcessPoolTaskRunner(max_workers=2), 60, lasts=True),
    "fresh processes": Case(lambda _: ProcessPoolTaskRunner(max_workers=2), 4, shrinks=False),
    "dask": Case(lambda address: DaskTaskRunner(address=address), 25, shrinks=False, needs="dask_address"),
    "ray": Case(lambda _: RayTaskRunner(), 25, shrinks=False, needs="running_ray"),
}


@st.composite
def flows(draw: Any, immediate: bool) -> Node:
    """Descriptions of flows."""
    return draw_flow(lambda options: draw(st.integers(0, options - 1)), immediate=immediate)


@pytest.fixture(scope="session", params=RUNNERS)  # before anybody counts threads and open files
def case(request: pytest.FixtureRequest) -> tuple[TaskRunner, Case]:
    case = RUNNERS[request.param]
    return case.make(None if case.needs is None else request.getfixturevalue(case.needs)), case


@pytest.fixture
def template(case: tuple[TaskRunner, Case]) -> Iterator[TaskRunner]:
    runner, its = case
    with lasting(runner) if its.lasts else nullcontext(runner) as template:
        yield template


def test_described_flows_end_as_predicted(case: tuple[TaskRunner, Case], template: TaskRunner) -> None:
    _, its = case
    phases = [Phase.generate, Phase.shrink] if its.shrinks else [Phase.generate]
    # A flow is a few hundred choices, which take a while to draw.
    healthy = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]

    @settings(derandomize=True, deadline=None, max_examples=its.examples, phases=phases, suppress_health_check=healthy)
    @given(flows(template.capabilities.immediate))
    def flow_ends_as_predicted(flow: Node) -> None:
        check_flow(flow, template)

    flow_ends_as_predicted()


FAILS = Node(deed="ValueError", items=2)
RARE: dict[str, Graph] = {
    "the flow answers for a failure inside a task": Graph((Node(inner=Graph((FAILS,), looks_at=())),)),
    "a flow inside takes over that failures are forgiven": Graph(
        (Node(kind="flow", inner=Graph((FAILS,), looks_at=())),), looks_at=()
    ),
    "to map over an allowed failure is to look at it": Graph((FAILS, Node(over=0, map_allowed=True)), looks_at=()),
    "who waits for a failure takes over the duty": Graph(
        (FAILS, Node(arguments=(Argument("bare", (Source(0),)),)), Node(wait_for=Argument("list", (Source(1),)))),
        looks_at=(2,),
    ),
}


@pytest.mark.parametrize("rule", RARE)
@pytest.mark.parametrize("forgives", [None, True])
def test_rules_that_chance_seldom_meets(rule: str, forgives: bool | None, template: TaskRunner) -> None:
    check_flow(Node(kind="flow", forgives=forgives, inner=RARE[rule]), template)


def test_seeded_flows_end_as_predicted(case: tuple[TaskRunner, Case], template: TaskRunner) -> None:
    """The same without Hypothesis, whose flows are the simpler ones. Each runner gets flows of its own."""
    _, its = case
    first = 1000 * list(RUNNERS.values()).index(its)
    check_graphs(lambda: template, range(first, first + its.examples))
