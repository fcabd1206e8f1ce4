"""The graph of a run as it was recorded."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from penstock import tallies
from penstock.cli.common import title
from penstock.cli.drawing import RECORD, Edge, Graph, Node
from penstock.store.base import Reader, RunRow

_WORST_FIRST = ("crashed", "failed", "cancelled", "running")


def graph_of(reader: Reader, run: RunRow, *, each: bool) -> Graph:
    """With `each`, a node for each run; else one for all runs of a task or flow that the same node has called."""
    graph = Graph(title(run), RECORD)
    groups: dict[str, tallies.Group] = {}
    node_of: dict[str | None, str] = {}  # by id of the run
    known: dict[tuple[str | None, ...], str] = {}  # ids of nodes, by what makes them the same
    for row in _parents_first(reader, run):
        above = None if row is run else node_of[row.parent_id]
        key = (row.id,) if each else (above, row.kind, row.name)
        node_id = known.setdefault(key, row.id if each else str(len(known)))
        node_of[row.id] = node_id
        if node_id not in graph.nodes:
            name = title(run) if row is run else row.run_name if each else row.name
            graph.nodes[node_id] = Node(node_id, row.kind, name, above)
            groups[node_id] = tallies.Group(row.name, row.kind)
        _count(groups[node_id], row)
    for node_id, group in groups.items():
        _finish(graph.nodes[node_id], group)
    for edge in reader.edges(run.id):
        if edge.upstream_id in node_of and edge.downstream_id in node_of:
            graph.edges[Edge(node_of[edge.upstream_id], node_of[edge.downstream_id], edge.kind)] += 1
    return graph


def _parents_first(reader: Reader, run: RunRow) -> Iterator[RunRow]:
    children: dict[str | None, list[RunRow]] = {}
    for row in reader.tree(run.id, limit=sys.maxsize):
        children.setdefault(row.parent_id, []).append(row)
    ahead = [run]
    for row in ahead:
        yield row
        ahead += children.get(row.id, ())


def _count(group: tallies.Group, row: RunRow) -> None:
    group.add(tallies.fate(row.status, row.state_name))
    if row.attempts > 1:
        group.add("retried")


def _finish(node: Node, group: tallies.Group) -> None:
    node.look = next((fate for fate in _WORST_FIRST if group.number(fate)), "")
    node.facts = {"runs": group.total, "fates": group.numbers}
    if group.total > 1:
        node.note = tallies.counts(group, "run")
    else:
        node.note = ", ".join(fate for fate in group.numbers if fate != "completed")
