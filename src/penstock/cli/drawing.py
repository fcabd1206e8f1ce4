"""Graphs of runs, or of what a flow's source calls, in the languages of tools that draw them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from penstock.cli.text import as_json, printable

RECORD, SOURCE = "record", "source"
_COLOURS = {"failed": "#c62828", "crashed": "#ad1457", "cancelled": "#f9a825", "running": "#0277bd"}


@dataclass(slots=True)
class Node:
    """Runs of one task or flow in one place; or the places where a body calls one."""

    id: str
    kind: str  # task, flow
    name: str
    parent: str | None  # id of the node that called it
    note: str = ""  # what else there is to say
    look: str = ""  # one of the names of colours
    facts: dict[str, Any] = field(default_factory=dict)  # for JSON


class Edge(NamedTuple):
    """What comes out of one goes into the other; or one waits for the other."""

    source: str
    target: str
    kind: str  # data, wait_for


@dataclass(slots=True)
class Graph:
    title: str
    of: str  # what says so: the record, or the source
    nodes: dict[str, Node] = field(default_factory=dict)
    edges: Counter[Edge] = field(default_factory=Counter)  # with how many there are

    def children(self) -> dict[str | None, list[Node]]:
        found: dict[str | None, list[Node]] = {}
        for node in self.nodes.values():
            found.setdefault(node.parent, []).append(node)
        return found


def says(graph: Graph) -> str:
    if graph.of == RECORD:
        return f"{graph.title}, as recorded"
    return f"{graph.title}, as its source says: what is called where, whatever conditions and loops decide"


# --- JSON -------------------------------------------------------------------------------------------------------


def json_text(graph: Graph) -> str:
    return as_json(
        {
            "title": graph.title,
            "of": graph.of,
            "nodes": [
                {"id": node.id, "kind": node.kind, "name": node.name, "parent": node.parent, **node.facts}
                for node in graph.nodes.values()
            ],
            "edges": [{**edge._asdict(), "number": number} for edge, number in graph.edges.items()],
        }
    )


# --- Mermaid ----------------------------------------------------------------------------------------------------


def mermaid(graph: Graph) -> str:
    """A flowchart. What has called others is a box around them."""
    names = {node_id: f"n{number}" for number, node_id in enumerate(graph.nodes)}
    lines = [f"%% {printable(says(graph))}", "flowchart TD"]
    lines += _mermaid_nodes(graph.children(), None, names, "    ")
    for edge, number in graph.edges.items():
        arrow = "-.->" if edge.kind == "wait_for" else "-->"
        shown = f"|{number:,}|" if number > 1 else ""
        lines.append(f"    {names[edge.source]} {arrow}{shown} {names[edge.target]}")
    for look, colour in _COLOURS.items():
        drawn = [names[node.id] for node in graph.nodes.values() if node.look == look]
        if drawn:
            lines += [f"    classDef {look} stroke:{colour},stroke-width:3px", f"    class {','.join(drawn)} {look}"]
    return "\n".join(lines)


def _mermaid_nodes(
    children: dict[str | None, list[Node]], parent: str | None, names: dict[str, str], indent: str
) -> Iterator[str]:
    for node in children.get(parent, ()):
        label = "<br/>".join(_for_mermaid(text) for text in (node.name, node.note) if text)
        if node.id in children:
            yield f'{indent}subgraph {names[node.id]}["{label}"]'
            yield from _mermaid_nodes(children, node.id, names, f"{indent}    ")
            yield f"{indent}end"
        else:
            left, right = ("[[", "]]") if node.kind == "flow" else ("[", "]")
            yield f'{indent}{names[node.id]}{left}"{label}"{right}'


_ENTITIES = {ord(char): f"#{ord(char)};" for char in '#"&<>`;'}


def _for_mermaid(text: str) -> str:
    return printable(text).translate(_ENTITIES)


# --- DOT --------------------------------------------------------------------------------------------------------


def dot(graph: Graph) -> str:
    """A directed graph. What has called others is in a box with them: an edge of DOT cannot end at a box."""
    names = {node_id: f"n{number}" for number, node_id in enumerate(graph.nodes)}
    lines = [f"// {printable(says(graph))}", "digraph {", "    node [shape=box, style=rounded];"]
    lines += _dot_nodes(graph.children(), None, names, "    ")
    for edge, number in graph.edges.items():
        looks = [f"label={_for_dot(f'{number:,}')}"] * (number > 1) + ["style=dashed"] * (edge.kind == "wait_for")
        lines.append(f"    {names[edge.source]} -> {names[edge.target]}{_in_brackets(looks)};")
    return "\n".join([*lines, "}"])


def _dot_nodes(
    children: dict[str | None, list[Node]], parent: str | None, names: dict[str, str], indent: str
) -> Iterator[str]:
    for node in children.get(parent, ()):
        looks = [f"label={_for_dot(*filter(None, (node.name, node.note)))}"]
        looks += ["peripheries=2"] * (node.kind == "flow")
        looks += [f'color="{_COLOURS[node.look]}", penwidth=3'] if node.look else []
        itself = f"{names[node.id]}{_in_brackets(looks)};"
        if node.id in children:
            yield f"{indent}subgraph cluster_{names[node.id]} {{"
            yield f"{indent}    {itself}"
            yield from _dot_nodes(children, node.id, names, f"{indent}    ")
            yield f"{indent}}}"
        else:
            yield f"{indent}{itself}"


def _for_dot(*lines: str) -> str:
    escaped = (printable(line).replace("\\", "\\\\").replace('"', '\\"') for line in lines)
    return '"' + "\\n".join(escaped) + '"'


def _in_brackets(looks: list[str]) -> str:
    return f" [{', '.join(looks)}]" if looks else ""


FORMATS = {"mermaid": mermaid, "dot": dot, "json": json_text}
