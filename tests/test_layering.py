"""The direction of imports and the house limits, read from the source; docs/design.md says why."""

from __future__ import annotations

import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import penstock
from structure import PACKAGE, Library, Module, nesting

# From the ground up. A room (first name below the package) may import from its own floor and those below.
FLOORS: list[set[str]] = [
    {"exceptions", "states", "annotations"},
    {"_core"},
    {"futures", "results", "serializers", "locking", "store", "task_runners", "settings", "_unexpanded"},
    {"_engine"},
    set(),  # everything not named here: tasks, flows, recovery, concurrency, runtime, ...
    {PACKAGE},  # the package's own face, which gathers the public names
    {"testing"},
    {"cli", "ui"},
]
REST = FLOORS.index(set())

# What a room may not know although it stands above it: protocols yes, implementations no.
HIDDEN_FROM = {
    "_engine": ("penstock.store", "penstock.task_runners"),
    "cli": ("penstock._engine", "penstock._core"),
    "ui": ("penstock._engine", "penstock._core"),
}
PROTOCOLS = {"penstock.store.base", "penstock.task_runners.base"}

# The core decides from values alone: no clock, thread, ambient context, file, socket or chance.
IMPURE = {
    *("_thread", "asyncio", "concurrent", "contextvars", "multiprocessing", "queue", "sched", "threading"),
    *("io", "logging", "os", "shutil", "signal", "subprocess", "tempfile"),
    *("select", "selectors", "socket", "sqlite3", "ssl", "urllib", "http"),
    *("random", "secrets", "time", "uuid"),
}

# Each optional or heavy package has one module that knows it; the command line counts as one.
ONE_HOME = {
    *("click", "cloudpickle", "dask", "distributed", "fsspec", "psycopg", "pydantic", "ray", "rich"),
    *("starlette", "uvicorn"),
}

CODE_LINES, NESTING, FILE_LINES = 30, 3, 700


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else module


def floor(module: str) -> int:
    return next((n for n, rooms in enumerate(FLOORS) if room(module) in rooms), REST)


def upward_imports(library: Library) -> Iterator[str]:
    for module in library.modules.values():
        for target, imported in library.own_imports(module):
            if floor(target) > floor(module.name):
                yield f"{module.name}:{imported.line} imports {target} from a floor above"


def hidden_imports(library: Library) -> Iterator[str]:
    for module in library.modules.values():
        hidden = HIDDEN_FROM.get(room(module.name), ())
        for target, imported in library.own_imports(module):
            if target.startswith(hidden or ("-",)) and target not in PROTOCOLS:
                yield f"{module.name}:{imported.line} must not know {target}"


def late_imports(library: Library) -> Iterator[str]:
    for module in library.modules.values():
        for target, imported in library.own_imports(module):
            if imported.late:
                yield f"{module.name}:{imported.line} imports {target} inside a function"


def impure_imports(library: Library) -> Iterator[str]:
    for module in library.modules.values():
        for imported in module.imports:
            if room(module.name) == "_core" and imported.target.split(".")[0] in IMPURE:
                yield f"{module.name}:{imported.line} imports {imported.target}"


def homes(library: Library) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for module in library.modules.values():
        home = "penstock.cli" if room(module.name) == "cli" else module.name
        for package in {imported.target.split(".")[0] for imported in module.imports} & ONE_HOME:
            found.setdefault(package, set()).add(home)
    return found


def cycle(library: Library) -> list[str]:
    graph = {
        name: {target for target, _ in library.own_imports(module)} - {name} for name, module in library.modules.items()
    }
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


@pytest.fixture(scope="module")
def library() -> Library:
    return Library.read(Path(penstock.__file__).parent)


def test_imports_point_down(library: Library) -> None:
    assert list(upward_imports(library)) == []


def test_implementations_stay_behind_their_protocols(library: Library) -> None:
    assert list(hidden_imports(library)) == []


def test_own_modules_are_imported_at_the_top(library: Library) -> None:
    assert list(late_imports(library)) == []


def test_no_import_cycle(library: Library) -> None:
    assert cycle(library) == []


def test_the_core_is_pure(library: Library) -> None:
    assert list(impure_imports(library)) == []


def test_optional_packages_have_one_home(library: Library) -> None:
    assert {package: where for package, where in homes(library).items() if len(where) > 1} == {}


def test_functions_are_short(library: Library) -> None:
    lengths = sorted(
        (module.code_lines(function), f"{module.name}:{function.lineno} {function.name}")
        for module in library.modules.values()
        for function in module.functions
    )
    assert lengths, "found no functions to measure"
    assert lengths[int(len(lengths) * 0.95)][0] <= CODE_LINES, lengths[-10:]


def test_functions_are_flat(library: Library) -> None:
    assert [
        f"{module.name}:{function.lineno} {function.name}"
        for module in library.modules.values()
        for function in module.functions
        if nesting(function) > NESTING
    ] == []


def test_files_are_short(library: Library) -> None:
    lengths = {name: len(module.source.splitlines()) for name, module in library.modules.items()}
    assert {name: lines for name, lines in lengths.items() if lines > FILE_LINES} == {}


# --- The rules above must be able to fail: each on a made-up library that breaks it. ---


def made_up(**sources: str) -> Library:
    """`made_up(_core__graph="import os")` holds penstock._core.graph; every name also exists as a package."""
    modules = {f"{PACKAGE}.{name.replace('__', '.')}": source for name, source in sources.items()}
    packages = {name.rpartition(".")[0] for name in modules} - set(modules)
    return Library.of(
        [Module(name, source) for name, source in modules.items()]
        + [Module(name, "", is_package=True) for name in packages]
    )


@pytest.mark.parametrize(
    "source",
    [
        "from penstock.flows import flow",
        "import penstock.flows",
        "from penstock import flows",
        "from .. import flows",
        "from ..flows import flow",
        "def f():\n    from penstock.flows import flow",
        "class A:\n    try:\n        import penstock.flows\n    except ImportError:\n        pass",
        "if TYPE_CHECKING:\n    pass\nelse:\n    import penstock.flows",
    ],
)
def test_every_spelling_of_an_upward_import_is_seen(source: str) -> None:
    (found,) = upward_imports(made_up(_core__graph=source, flows=""))
    assert found.startswith("penstock._core.graph:") and "imports penstock.flows" in found


@pytest.mark.parametrize("guard", ["TYPE_CHECKING", "typing.TYPE_CHECKING"])
def test_type_only_imports_are_free(guard: str) -> None:
    source = f"if {guard}:\n    from penstock.flows import flow"
    assert list(upward_imports(made_up(_core__graph=source, flows=""))) == []


def test_the_face_of_the_package_is_above_its_rooms() -> None:
    assert list(upward_imports(made_up(states="from penstock import task", testing__suite="import penstock"))) == [
        "penstock.states:1 imports penstock from a floor above"
    ]


def test_the_engine_knows_protocols_only() -> None:
    source = "from penstock.store.base import Store\nfrom penstock.store.sqlite import SqliteStore"
    library = made_up(_engine__engine=source, store__base="", store__sqlite="")
    assert list(hidden_imports(library)) == ["penstock._engine.engine:2 must not know penstock.store.sqlite"]


def test_a_late_import_is_seen_in_methods_and_relative_form() -> None:
    library = made_up(flows="class A:\n    async def f(self):\n        from . import states", states="")
    assert list(late_imports(library)) == ["penstock.flows:3 imports penstock.states inside a function"]


def test_a_cycle_is_seen() -> None:
    library = made_up(flows="import penstock.tasks", tasks="from penstock import flows", states="")
    assert set(cycle(library)) == {"penstock.flows", "penstock.tasks"}


@pytest.mark.parametrize("source", ["import time", "from os import path", "def f():\n    import threading"])
def test_impurity_is_seen_in_the_core_only(source: str) -> None:
    found = list(impure_imports(made_up(_core__graph=source, _engine__clock=source)))
    assert len(found) == 1 and found[0].startswith("penstock._core.graph:")


def test_homes_count_the_command_line_once() -> None:
    library = made_up(cli__ls="import click", cli__show="from click import echo", flows="import pydantic.fields")
    assert homes(library) == {"click": {"penstock.cli"}, "pydantic": {"penstock.flows"}}


@pytest.mark.parametrize(
    ("body", "depth"),
    [
        ("pass", 0),
        ("for x in y:\n  if x:\n    pass", 2),
        ("if a:\n  pass\nelif b:\n  pass\nelif c:\n  while d:\n    pass", 2),
        ("if a:\n  pass\nelse:\n  if b:\n    pass\n  x = 1", 2),
        ("try:\n  pass\nexcept E:\n  with a:\n    pass", 2),
        ("match a:\n  case 1:\n    if b:\n      pass", 1),
        ("if a:\n  match b:\n    case 1:\n      pass\n  while c:\n    if d:\n      pass", 3),
        ("match a:\n  case 1:\n    match b:\n      case 2:\n        pass", 1),
        ("if a:\n  def inner():\n    if b:\n      pass", 1),
    ],
)
def test_nesting(body: str, depth: int) -> None:
    indented = "".join(f"  {line}\n" for line in body.splitlines())
    (function, *_) = Module("m", f"def f():\n{indented}").functions
    assert nesting(function) == depth


def test_code_lines_leave_out_words() -> None:
    source = 'def f():\n    """Doc.\n\n    More.\n    """\n    # why\n    a = 1\n\n    return a\n'
    module = Module("m", source)
    (function,) = module.functions
    assert module.code_lines(function) == 2
