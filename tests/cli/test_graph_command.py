"""`penstock graph`: of runs by the record, of flows by their source."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import pytest
from looking import ETL, EXTRACT, FLOW, LOAD, document, penstock, task

from penstock.store.base import EdgeRow
from penstock.store.sqlite import SQLiteStore
from penstock.testing.store_suite import batch


def drawn(*arguments: object) -> str:
    result = penstock("graph", *arguments)
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    return result.stdout


def named(graph: dict[str, Any]) -> tuple[dict[str, Any], set[tuple[str, str, str, int]]]:
    """Nodes by name, and edges between names."""
    names = {node["id"]: node["name"] for node in graph["nodes"]}
    edges = {(names[edge["source"]], names[edge["target"]], edge["kind"], edge["number"]) for edge in graph["edges"]}
    return {node["name"]: {**node, "parent": names.get(node["parent"])} for node in graph["nodes"]}, edges


# --- of runs ---


@pytest.fixture
def mapped(store: SQLiteStore) -> SQLiteStore:
    """Three pages are read and loaded; the last is not. A subflow sums them up, after them."""
    pages = [task(10 + n, f"extract-0[{n}]", name="extract") for n in range(3)]
    loads = [task(20 + n, f"load-0[{n}]", name="load") for n in range(2)]
    bad = task(22, "load-0[2]", name="load", status="FAILED", state_name="Failed", attempts=2)
    sub = task(30, "calm-heron", kind="flow", name="sum-up")
    inner = [task(31, "total-0", sub, name="total"), task(32, "load-0", sub, name="load")]
    edges = [EdgeRow(down.id, up.id, "data", "page") for up, down in zip(pages, [*loads, bad], strict=True)]
    store.write(batch(FLOW, *pages, *loads, bad, sub, *inner, *edges, EdgeRow(sub.id, loads[0].id, "wait_for")))
    return store


def test_runs_of_a_task_are_one_node(mapped: SQLiteStore) -> None:
    graph = document("graph", "@last")
    assert (graph["schema"], graph["title"], graph["of"]) == (1, "etl/brave-otter", "record")
    assert [(node["id"], node["parent"], node["kind"], node["name"], node["runs"]) for node in graph["nodes"]] == [
        ("0", None, "flow", "etl/brave-otter", 1),
        ("1", "0", "task", "extract", 3),
        ("2", "0", "task", "load", 3),
        ("3", "0", "flow", "sum-up", 1),
        ("4", "3", "task", "total", 1),
        ("5", "3", "task", "load", 1),
    ]
    assert graph["nodes"][2]["fates"] == {"completed": 2, "failed": 1, "retried": 1}
    assert graph["edges"] == [
        {"source": "1", "target": "2", "kind": "data", "number": 3},
        {"source": "2", "target": "3", "kind": "wait_for", "number": 1},
    ]


def test_each_run_may_be_a_node(mapped: SQLiteStore) -> None:
    nodes, edges = named(document("graph", "@last", "--each"))
    assert len(nodes) == 10
    assert nodes["total-0"]["parent"] == "calm-heron"
    assert ("extract-0[2]", "load-0[2]", "data", 1) in edges and len(edges) == 4


def test_mermaid(mapped: SQLiteStore) -> None:
    assert drawn("@last") == textwrap.dedent(
        """\
        %% etl/brave-otter, as recorded
        flowchart TD
            subgraph n0["etl/brave-otter<br/>failed"]
                n1["extract<br/>3 runs"]
                n2["load<br/>3 runs (1 failed, 1 retried)"]
                subgraph n3["sum-up"]
                    n4["total"]
                    n5["load"]
                end
            end
            n1 -->|3| n2
            n2 -.-> n3
            classDef failed stroke:#c62828,stroke-width:3px
            class n0,n2 failed
        """
    )


def test_dot(mapped: SQLiteStore) -> None:
    assert drawn("@last", "--format", "dot") == textwrap.dedent(
        """\
        // etl/brave-otter, as recorded
        digraph {
            node [shape=box, style=rounded];
            subgraph cluster_n0 {
                n0 [label="etl/brave-otter\\nfailed", peripheries=2, color="#c62828", penwidth=3];
                n1 [label="extract\\n3 runs"];
                n2 [label="load\\n3 runs (1 failed, 1 retried)", color="#c62828", penwidth=3];
                subgraph cluster_n3 {
                    n3 [label="sum-up", peripheries=2];
                    n4 [label="total"];
                    n5 [label="load"];
                }
            }
            n1 -> n2 [label="3"];
            n2 -> n3 [style=dashed];
        }
        """
    )


def test_a_part_of_a_run(store: SQLiteStore) -> None:
    store.write(ETL)
    nodes, edges = named(document("graph", f"@last/{EXTRACT.id}"))
    assert set(nodes) == {"extract-0", "load"}  # its page, which is a run of the task load
    assert edges == set()  # what waits for it is elsewhere


def test_names_cannot_break_out_of_their_quotes(store: SQLiteStore) -> None:
    evil = task(2, "x", name='a"]; B --> C <b> #quot; `x` \\ \n')
    store.write(batch(FLOW, evil))
    assert "#34;]#59; B --#62; C #60;b#62; #35;quot#59; #96;x#96; \\ \\n" in drawn("@last")
    assert 'label="a\\"]; B --> C <b> #quot; `x` \\\\ \\\\n"' in drawn("@last", "--format", "dot")


def test_a_run_that_is_not_there(store: SQLiteStore) -> None:
    store.write(ETL)
    assert penstock("graph", "nobody").exit_code == 3
    assert LOAD.id in drawn(LOAD.id, "--each", "--format", "json")


# --- of sources ---


HEAD = """
from penstock import allow_failure, flow, task, unmapped
from penstock.futures import wait

@task
def extract(n): ...

@task(name="clean it")
def clean(rows, factor=1): ...

@task
def load(rows): ...

@flow(name="sum up")
def sum_up(x): ...

def helper(given, again=False):
    mended = clean.submit(given)
    return mended

"""


def source(tmp_path: Path, body: str, head: str = HEAD, name: str = "etl.py") -> Path:
    path = tmp_path / name
    path.write_text(f"{head}\n@flow\ndef my_etl(day, numbers):\n{textwrap.indent(textwrap.dedent(body), '    ')}\n")
    return path


def read(tmp_path: Path, body: str, *arguments: str, head: str = HEAD) -> tuple[dict[str, Any], set[tuple[Any, ...]]]:
    path = source(tmp_path, body, head)
    nodes, edges = named(document("graph", f"{path}:my_etl", *arguments))
    return nodes, {(up, down) if kind == "data" else (up, down, kind) for up, down, kind, _ in edges}


def edges_of(tmp_path: Path, body: str) -> set[tuple[Any, ...]]:
    return read(tmp_path, body)[1]


def test_the_source_of_a_flow(tmp_path: Path) -> None:
    body = """
        raw = extract.map(numbers)
        cleaned = clean.map(raw, factor=unmapped(2))
        loaded = load.map(cleaned)
        sum_up(loaded, wait_for=[raw])
    """
    nodes, edges = read(tmp_path, body)
    assert {name: (node["kind"], node["parent"], node["ways"]) for name, node in nodes.items()} == {
        "my-etl": ("flow", None, []),
        "extract": ("task", "my-etl", ["map"]),
        "clean it": ("task", "my-etl", ["map"]),
        "load": ("task", "my-etl", ["map"]),
        "sum up": ("flow", "my-etl", ["call"]),
    }
    assert edges == {
        ("extract", "clean it"),
        ("clean it", "load"),
        ("load", "sum up"),
        ("extract", "sum up", "wait_for"),
    }
    assert nodes["load"]["lines"] == [27]


def test_it_says_that_it_is_what_the_source_says(tmp_path: Path) -> None:
    path = source(tmp_path, "extract(1)")
    says = f"{path}:my-etl, as its source says: what is called where, whatever conditions and loops decide"
    assert drawn(f"{path}:my_etl").startswith(f"%% {says}\nflowchart TD\n")
    assert drawn(f"{path}:my-etl", "--format", "dot").startswith(f"// {says}\ndigraph {{\n")
    assert document("graph", f"{path}:my_etl")["of"] == "source"


@pytest.mark.parametrize(
    ("body", "edges"),
    [
        ("load(extract(1))", {("extract", "load")}),
        ("load(await extract(1))", {("extract", "load")}),
        ("x = extract(1)\nx = 3\nload(x)", set()),
        ("x = extract(1)\nif day:\n    x = clean(2)\nload(x)", {("extract", "load"), ("clean it", "load")}),
        (
            "try:\n    x = extract(1)\nexcept OSError:\n    x = clean(1)\nload(x)",
            {("extract", "load"), ("clean it", "load")},
        ),
        ("x = extract(1) if day else clean(1)\nload(x)", {("extract", "load"), ("clean it", "load")}),
        ("x = clean(1) if extract(1) else 2\nload(x)", {("clean it", "load")}),
        ("a, b = extract(1), clean(2)\nload(a)", {("extract", "load")}),
        ("a, *b = extract(1)\nload(b[0].x)", {("extract", "load")}),
        ("found = []\nfor n in numbers:\n    found.append(extract.submit(n))\nload(found)", {("extract", "load")}),
        (
            "found = {}\nfor n in numbers:\n    found[n] = extract.submit(n)\nload(found.values())",
            {("extract", "load")},
        ),
        ("found = [extract.submit(n) for n in numbers]\nload([f.result() for f in found])", {("extract", "load")}),
        (
            "raw = extract.map(numbers)\nload([clean.submit(r) for r in raw])",
            {("extract", "clean it"), ("clean it", "load")},
        ),
        ("load({n: extract(n) for n in numbers})", {("extract", "load")}),
        ("x = 0\nfor n in numbers:\n    x = load.submit(x)", {("load", "load")}),
        ("x = 0\nwhile x:\n    y = clean(x)\n    x = extract(y)", {("clean it", "extract"), ("extract", "clean it")}),
        ("f = extract.submit(1)\nwait([f])\nload(1, wait_for=[f])", {("extract", "load", "wait_for")}),
        ("load(allow_failure(extract.submit(1)))", {("extract", "load")}),
        ("if (x := extract(1)):\n    load(x)", {("extract", "load")}),
        ("with open(day) as file:\n    x = extract(file)\nload(x)", {("extract", "load")}),
        ("load(f'{extract(1)} {clean(2)!r}')", {("extract", "load"), ("clean it", "load")}),
        ("load(helper(extract(1)))", {("extract", "clean it"), ("clean it", "load")}),
        ("load(helper(again=extract(1), given=2))", {("clean it", "load")}),
        ("load(helper(*[extract(1)]))", {("extract", "clean it"), ("clean it", "load")}),
        ("def inner(x):\n    return load(x)\ninner(extract(1))", {("extract", "load")}),
        ("y = extract(1)\ndef inner():\n    return load(y)\ninner()", {("extract", "load")}),
        ("def inner(x):\n    return inner(extract(x))\nload(inner(1))", {("extract", "load")}),
        ("quick = extract.with_options(retries=3)\nload(quick(1))", {("extract", "load")}),
        ("load(extract.with_options(retries=3).submit(1))", {("extract", "load")}),
        ("match day:\n    case 1:\n        x = extract(1)\n    case _:\n        x = 2\nload(x)", {("extract", "load")}),
        ("total = 0\nfor n in numbers:\n    total += extract(n)\nload(total)", {("extract", "load")}),
        ("extract = open\nload(extract(1))", set()),
        ("pool.submit(extract, 1)\nnumbers.map(2)", set()),
        ("return load(extract(1))", {("extract", "load")}),
        ("yield extract(1)", set()),
    ],
)
def test_what_flows_into_what(tmp_path: Path, body: str, edges: set[tuple[Any, ...]]) -> None:
    assert edges_of(tmp_path, body) == edges


def test_each_place_of_a_call_may_be_a_node(tmp_path: Path) -> None:
    path = source(tmp_path, "a = extract(1)\nb = extract(2)\nload(b)")
    graph = document("graph", str(path) + ":my_etl", "--each")
    assert [(node["name"], node["lines"]) for node in graph["nodes"]] == [
        ("my-etl", []),
        ("extract", [24]),
        ("extract", [25]),
        ("load", [26]),
    ]
    assert [(edge["source"], edge["target"]) for edge in graph["edges"]] == [("2", "3")]
    assert '["extract<br/>2 places"]' in drawn(f"{path}:my_etl")


def test_other_ways_to_make_tasks(tmp_path: Path) -> None:
    head = """
import penstock as ps
from penstock.tasks import task as make
from penstock import flow

def one(): ...
first = ps.task(one)
second = make(name="zwei")(one)
third = second.with_options(name="drei", retries=2)

class Shop:
    @make
    def sell(self, x): ...

@ps.flow
async def below(x): ...

shop = Shop()
"""
    body = """
        a = first.submit()
        b = second(a)
        c = third.map(b)
        shop.sell.submit(c)
        await below(c)
    """
    nodes, edges = read(tmp_path, body, head=head)
    assert set(nodes) == {"my-etl", "one", "zwei", "drei", "sell", "below"}
    assert edges == {("one", "zwei"), ("zwei", "drei"), ("drei", "sell"), ("drei", "below")}


def test_tasks_of_other_modules(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").write_text("from .tasks import extract as fetch\nfrom shop import tasks\n")
    (tmp_path / "shop" / "tasks.py").write_text(
        "from penstock import task\nfrom shop import *\nfrom shop import fetch\nimport shop\n"
        "@task(name='fetch it')\ndef extract(n): ...\n@task\ndef load(x): ...\n"
        "def both(x):\n    return load(extract(x))\n"
    )
    head = """
from penstock import flow
import shop, shop.tasks as parts
from shop import fetch
from far.away import send
"""
    body = """
        a = fetch(1)
        b = parts.load.submit(a)
        send.submit(b)
        send(b)
        shop.tasks.both(send.map(a))
    """
    nodes, edges = read(tmp_path, body, head=head)
    assert set(nodes) == {"my-etl", "fetch it", "load", "send"}
    assert edges == {
        ("fetch it", "load"),
        ("load", "send"),
        ("fetch it", "send"),
        ("send", "fetch it"),
    }


def test_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "my_shop"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('this must not be executed')\n")
    source(package, "load(extract(1))")
    monkeypatch.chdir(tmp_path)
    nodes, edges = named(document("graph", "my_shop.etl:my_etl"))
    assert set(nodes) == {"my-etl", "extract", "load"} and len(edges) == 1


def test_nothing_is_executed(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    path = source(tmp_path, "load(extract(1))", head=f"{HEAD}\nopen({str(trace)!r}, 'w').close()\n")
    assert "extract" in drawn(f"{path}:my_etl")
    assert not trace.exists()


def test_the_only_flow_need_not_be_named(tmp_path: Path) -> None:
    path = tmp_path / "one.py"
    path.write_text("from penstock import flow\n@flow\ndef only(): ...\n")
    assert drawn(path) == drawn(f"{path}:only")
    several = source(tmp_path, "pass")
    result = penstock("graph", several)
    assert result.exit_code == 2
    assert f"has several flows. Name one of them: {several}:sum_up, {several}:my_etl" in result.stderr


@pytest.mark.parametrize(
    ("target", "status", "said"),
    [
        ("nowhere.py:etl", 3, "nowhere.py: No such file or directory"),
        ("no.module:etl", 3, "there is no source of a module 'no.module', here or where Python looks for modules"),
        ("etl.py:nothing", 3, "the source of etl.py has no flow 'nothing'; it has sum_up, my_etl"),
        ("etl.py:load", 3, "the source of etl.py has no flow 'load'; it has sum_up, my_etl"),
        ("plain.py", 3, "the source of plain.py has no function with @flow"),
        ("broken.py", 2, "broken.py cannot be read: invalid syntax (broken.py, line 1)"),
    ],
)
def test_what_is_no_flow(
    tmp_path: Path, store: SQLiteStore, monkeypatch: pytest.MonkeyPatch, target: str, status: int, said: str
) -> None:
    store.write(ETL)
    source(tmp_path, "pass")
    (tmp_path / "plain.py").write_text("def f(): ...\n")
    (tmp_path / "broken.py").write_text("def def\n")
    monkeypatch.chdir(tmp_path)
    result = penstock("graph", target)
    assert (result.exit_code, result.stdout) == (status, "")
    assert said in result.stderr


def test_a_run_may_have_a_name_that_looks_like_a_target(store: SQLiteStore) -> None:
    store.write(batch(FLOW._replace(run_name="daily:monday")))
    assert json.loads(drawn("daily:monday", "--json"))["title"] == "etl/daily:monday"


def test_a_flow_of_the_examples() -> None:
    path = Path(__file__).parents[2] / "examples" / "demo.py"
    _, edges = named(document("graph", f"{path}:library_statistics"))
    assert {(up, down) for up, down, _, _ in edges} == {
        ("list_files", "read_text"),
        ("list_files", "measure"),
        ("read_text", "measure"),
        ("measure", "summarize"),
    }
