"""Random flows end as the rules say: a flow is drawn, a model predicts its end, and a runner is held to that.

A flow is data (`description`), so it can be drawn (`drawing`), predicted without an engine (`model`), made into a real
flow and observed (`flows`), and read when something is wrong. What its bodies compute is said once (`bodies`); what is
seen and what is expected are compared as lines of text (`telling`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from itertools import islice

from penstock.task_runners.base import TaskRunner
from penstock.testing.graphs.description import Argument, Graph, Node, Source
from penstock.testing.graphs.drawing import draw_flow
from penstock.testing.graphs.flows import observe
from penstock.testing.graphs.model import worlds
from penstock.testing.graphs.telling import differences

__all__ = ["Argument", "Graph", "Node", "Source", "check_flow", "check_graphs", "draw_flow"]

_MOST_WORLDS = 2_000  # ways to end that are tried; a flow that ends in none of them is wrong


def check_graphs(make: Callable[[], TaskRunner], seeds: Iterable[int], most: int = 10) -> None:
    """Check for each seed that a random flow ends on a runner, and in the record, as the rules say.

    The flows have at most `most` nodes each: tasks, maps, generators, subflows and tasks that submit tasks, with
    failures, retries, tags, and inputs of all kinds. `make` is called once, and each flow uses a duplicate of what it
    returns. AssertionError shows the flow and what is wrong. Records go to a throw-away store. Blocks, and has no time
    limit of its own.

    >>> from penstock.task_runners import ThreadPoolTaskRunner
    >>> check_graphs(lambda: ThreadPoolTaskRunner(max_workers=2), range(10))
    """
    template = make()
    for seed in seeds:
        flow = draw_flow(random.Random(seed).randrange, most, immediate=template.capabilities.immediate)
        try:
            check_flow(flow, template)
        except BaseException as error:
            error.add_note(f"with seed {seed}")
            raise


def check_flow(flow: Node, template: TaskRunner) -> None:
    """Check that one described flow ends in one of the ways that the rules allow.

    >>> from penstock.task_runners import SequentialTaskRunner
    >>> fails, uses = Node(deed="ValueError"), Node(arguments=(Argument("bare", (Source(0, allowed=True),)),))
    >>> check_flow(Node(kind="flow", inner=Graph((fails, uses))), SequentialTaskRunner())
    """
    try:
        seen = observe(flow, template)
    except BaseException as error:
        error.add_note(f"in the flow {flow!r}")
        raise
    nearest: list[str] = []
    for world in islice(worlds(flow, seen.blamed), _MOST_WORLDS):
        found = differences(seen, world)
        if not found:
            return
        nearest = min(nearest or found, found, key=len)
    raise AssertionError("\n".join([f"the flow {flow!r}", "did not end as it should:", *nearest]))
