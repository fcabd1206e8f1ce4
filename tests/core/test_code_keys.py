from __future__ import annotations

import linecache
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from code_texts import BASE, NAME, Loader, executed, loading

from penstock._core import source
from penstock._core.canonical import KEPT_AT
from penstock._core.code import code_digest, code_parts


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Loader]:
    yield from loading(tmp_path, monkeypatch)


def changed(load: Loader, one: str, other: str) -> set[str]:
    """The names of the parts of `f` in which two texts differ."""
    before, after = code_parts(load(one).f), code_parts(load(other).f)
    assert (before == after) == (code_digest(load(one).f) == code_digest(load(other).f))
    return {name for name in {*before, *after} if before.get(name) != after.get(name)}


def test_the_parts_have_names(load: Loader) -> None:
    assert set(code_parts(load(BASE).f)) == {
        *("body", "default by", "default scale", "helper helper", "helper deeper", "constant LIMIT", "constant OTHER"),
    }


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        ("return total\n", "return total + 1\n", {"body"}),
        ("range(total)", "range(total - 1)", {"body"}),
        ("> LIMIT", ">= LIMIT", {"body"}),
        ("by=2", "by=3", {"default by"}),
        ("by=2", "by=2.0", {"default by"}),
        ("by=2", "by", {"default by"}),
        ("scale=1.0", "scale=True", {"default scale"}),
        ("def f(x, by=2, *, ", "def f(x, by=2, ", {"body"}),
        ("return x + deeper(x)", "return x - deeper(x)", {"helper helper"}),
        ("return x * OTHER", "return OTHER * x", {"helper deeper"}),
        ("def helper(x):", "def helper(x, y=1):", {"helper helper"}),
        ("LIMIT = 3", "LIMIT = 5", {"constant LIMIT"}),
        ("LIMIT = 3", "LIMIT = 3.0", {"constant LIMIT"}),
        ("OTHER = 4", "OTHER = [4]", {"constant OTHER"}),
        ("OTHER = 4", "from math import pi as OTHER", {"constant OTHER"}),
        ("LIMIT = 3", "def LIMIT(): pass", {"constant LIMIT", "helper LIMIT"}),
        ("LIMIT = 3", "", {"constant LIMIT"}),
    ],
)
def test_an_edit_that_matters_is_seen(load: Loader, old: str, new: str, parts: set[str]) -> None:
    assert old in BASE
    assert changed(load, BASE, BASE.replace(old, new)) == parts


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("    total = helper(x)\n", "    # why\n\n    total = helper(x)  # what\n"),
        ("    total = helper(x)\n", '    """Doc."""\n    total = helper(x)\n'),
        ("    total = helper(x)\n", "    total = (\n        helper(\n            x,\n        )\n    )\n"),
        ("    total = helper(x)\n", "    pass\n    total = helper(x); 'a string as a comment'\n"),
        ("    if total > LIMIT:\n        return [", "    if (total > LIMIT): return ["),
        ("def helper(x):\n", 'def helper(x):\n    """Doc."""\n'),
        ("def f(x, by=2, *, scale=1.0):", "def f(x: int, by: int = 2, *, scale: float = 1.0) -> object:"),
        ("LIMIT = 3", "LIMIT: int = 1 + 2  # three"),
        ("OTHER = 4", "\n\n\nOTHER = 4"),
        ("return x\n", "return x + 100\n"),  # nobody calls it
        ("", "'''About.'''\n"),
        ("", "import json\n"),
    ],
)
def test_an_edit_that_does_not_matter_is_not_seen(load: Loader, old: str, new: str) -> None:
    assert old in BASE
    assert changed(load, BASE, BASE.replace(old, new, 1)) == set()


def test_options_of_decorators_do_not_matter_but_what_they_do(load: Loader) -> None:
    text = """
        from functools import wraps

        def twice(n, label=None):
            def deco(fn):
                @wraps(fn)
                def inner(x):
                    return fn(x) * n
                return inner
            return deco

        @twice(2)
        def f(x):
            return x
        """
    assert changed(load, text, text.replace("@twice(2)", "@twice(2, 'label')")) == set()
    assert changed(load, text, text.replace("@twice(2)", "@twice(3)")) == {"closure n"}
    assert changed(load, text, text.replace("fn(x) * n", "fn(x) + n")) == {"body"}
    assert changed(load, text, text.replace("return x\n", "return -x\n")) == {"helper f"}


def test_what_a_library_wraps_is_followed(load: Loader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = tmp_path / "a_library.py"
    library.write_text("COUNT = []\ndef quiet(fn):\n    return lambda x: COUNT.append(x) or fn(x)\n")
    monkeypatch.syspath_prepend(tmp_path)
    text = """
        from a_library import quiet
        def inner(x): return x
        outer = quiet(inner)
        def f(x): return outer(x)
        """
    parts = changed(load, text, text.replace("return x\n", "return -x\n"))
    sys.modules.pop("a_library")
    assert parts == {"helper inner"}


def test_other_modules_count_by_name(load: Loader) -> None:
    text = "from math import sin as g\nimport json as m\ndef f(x): return g(m.loads(x))\n"
    assert changed(load, text, text.replace("sin", "cos")) == {"constant g"}
    assert changed(load, text, text.replace("json", "pickle")) == {"constant m"}


@pytest.mark.parametrize(
    ("text", "old", "new"),
    [
        ("class C:\n    def go(self): return 1\ndef f(): return C().go()", "return 1", "return 2"),
        ("class C:\n    rate = 1\ndef f(): return C.rate", "rate = 1", "rate = 2"),
        ("class C:\n    rates = [1]\ndef f(): return C.rates", "[1]", "[2]"),
        ("class C:\n    @property\n    def go(self): return 1\ndef f(): return C().go", "return 1", "return 2"),
        ("class C:\n    @staticmethod\n    def go(): return 1\ndef f(): return C.go()", "return 1", "return 2"),
        ("class C:\n    @classmethod\n    def go(cls): return 1\ndef f(): return C.go()", "return 1", "return 2"),
        ("class B:\n    def go(self): return 1\nclass C(B): pass\ndef f(): return C().go()", "return 1", "return 2"),
        ("class C:\n    def go(self): return g()\ndef g(): return 1\ndef f(): return C()", "return 1", "return 2"),
        ("from dataclasses import dataclass\n@dataclass\nclass C:\n    a: int = 1\ndef f(): return C()", "= 1", "= 2"),
        ("from dataclasses import dataclass\n@dataclass\nclass C:\n    a: int = 1\ndef f(): return C()", "a:", "b:"),
        ("from enum import Enum\nclass C(Enum):\n    A = 1\ndef f(): return C.A", "A = 1", "A = 2"),
        ("from typing import NamedTuple\nclass C(NamedTuple):\n    a: int = 1\ndef f(): return C()", "= 1", "= 2"),
        ("from pydantic import BaseModel\nclass C(BaseModel):\n    a: int = 1\ndef f(): return C()", "= 1", "= 2"),
        ("class C:\n    def __init__(self, n): self.n = n\nc = C(1)\ndef f(): return c.n", "C(1)", "C(2)"),
        ("class C:\n    def go(self): return 1\nc = C()\ndef f(): return c.go()", "return 1", "return 2"),
        ("def a(): return 1\nTABLE = {'a': [a]}\ndef f(): return TABLE", "return 1", "return 2"),
        ("TABLE = {'a': lambda: 1, 'b': lambda: 2}\ndef f(): return TABLE", "1, 'b': lambda: 2", "2, 'b': lambda: 1"),
        ("from functools import partial\ndef g(n): return n\nh = partial(g, 1)\ndef f(): return h()", "g, 1", "g, 2"),
        ("from functools import cache\n@cache\ndef g(): return 1\ndef f(): return g()", "return 1", "return 2"),
        ("def g(a=1): return a\ndef f(): return g()", "a=1", "a=2"),
        ("def make(n):\n    def f(): return n\n    return f\nf = make(1)", "make(1)", "make(2)"),
        ("def make(n):\n    def g(): return n\n    return g\ng = make(1)\ndef f(): return g()", "make(1)", "make(2)"),
        ("f = lambda x: x + 1", "+ 1", "+ 2"),
        ("f = lambda x, y=1: x", "y=1", "y=2"),
        ("async def f(x): return x", "async ", ""),
        ("def f(x):\n    def g(y=1): return y\n    return g()", "y=1", "y=2"),
        ("def f(x):\n    return f'{x:>{10}}'", "10", "11"),
        ("def f(x):\n    match x:\n        case 1: return 2", "case 1", "case 3"),
        ("def f(x):\n    try: return x\n    except KeyError: return 1", "KeyError", "ValueError"),
        ("def f(x): return [1, 2]", "[1, 2]", "(1, 2)"),
        ("def f(x): return x in {1, 2}", "{1, 2}", "{1, 3}"),
        ("N = 1\ndef f(x): return [N for _ in x]", "N = 1", "N = 2"),
        ("N = 1\ndef f(x):\n    class C:\n        n = N\n    return C", "N = 1", "N = 2"),
        ("async def g(): return 1\nasync def f(): return await g()", "return 1", "return 2"),
    ],
)
def test_everything_that_the_code_refers_to_counts(load: Loader, text: str, old: str, new: str) -> None:
    assert text.count(old) == 1
    assert changed(load, text, text.replace(old, new)) != set()
    assert changed(load, text, "\n# moved\n" + text) == set()
    assert code_digest(executed(text)) == code_digest(executed("\n" + text))
    assert code_digest(executed(text)) != code_digest(executed(text.replace(old, new)))


def test_recursion_ends(load: Loader) -> None:
    text = """
        def even(n): return n == 0 or odd(n - 1)
        def odd(n): return n != 0 and even(n - 1)
        def f(n): return even(n) or f(n - 1)
        TABLE = {"f": f}
        def g(): return TABLE
        """
    module = load(text)
    assert set(code_parts(module.f)) == {"body", "helper even", "helper odd"}
    assert code_digest(module.g) == code_digest(load(text).g)
    assert changed(load, text, text.replace("n != 0", "n > 0")) == {"helper odd"}
    alone, first = load(text), load(text)
    code_digest(first.g)
    assert code_digest(first.f) == code_digest(alone.f)


@pytest.mark.parametrize("lambdas", ["lambda x: x + 1, lambda x: x + 2", "lambda: (lambda: 1), lambda: (lambda: 2)"])
def test_lambdas_of_one_line_are_told_apart(load: Loader, lambdas: str) -> None:
    text = f"fs = [{lambdas}]\nf, g = fs\n"
    module, moved = load(text), load("\n" + text.replace(", ", ",   "))
    assert source.body_of(module.f.__code__, {}) != source.instructions_of(module.f.__code__), "not read from the text"
    assert code_digest(module.f) != code_digest(module.g)
    assert code_digest(module.f) == code_digest(moved.f)
    assert code_digest(module.g) == code_digest(moved.g)


def test_the_body_of_a_nested_lambda_is_its_own(load: Loader) -> None:
    module = load("f = lambda: lambda: 1\n")
    expected = load("\nf = lambda: 1\n")
    assert code_parts(module.f()) == code_parts(expected.f)


# --- What runs, not what a file says ---


def test_the_text_is_believed_only_if_it_is_what_runs(load: Loader) -> None:
    edited = load(BASE, edited=BASE.replace("return total\n", "return total + 1\n"))
    now, then = load(BASE.replace("return total\n", "return total + 1\n")), load(BASE)
    assert code_digest(edited.f) not in (code_digest(now.f), "")
    from_instructions = code_parts(edited.f)["body"]
    source._bodies.clear()
    assert code_parts(then.f)["body"] != from_instructions
    again = load(BASE, edited="not python at all (")
    assert code_parts(again.f)["body"] == from_instructions


def test_a_file_that_is_edited_and_imported_again_is_read_again(load: Loader, tmp_path: Path) -> None:
    path = tmp_path / f"{NAME}.py"

    def run(text: str) -> Any:
        path.write_text(text, "utf-8")
        space: dict[str, Any] = {"__name__": NAME}
        exec(compile(text, str(path), "exec", dont_inherit=True), space)
        return space["f"]

    one = run("def f(): return 1\n")
    code_digest(one)
    other = run("def f():\n    return 2  # longer\n")
    assert code_parts(other) == code_parts(load("def f(): return 2\n").f)
    assert code_parts(one) == code_parts(load("def f(): return 1\n").f), "kept, as what runs has not changed"


def test_instructions_stand_in_where_there_is_no_text() -> None:
    text = "def f(x, y=2):\n    '''Doc.'''\n    return [g(x, 'a'), {1: y}]\ndef g(*a): return a\n"
    one = code_parts(executed(text))
    assert set(one) == {"body", "default y", "helper g"}
    assert one == code_parts(executed("\n\n" + text.replace("Doc", "Other") + "# comment\n"))
    for old, new in [("'a'", "'b'"), ("{1: y}", "{1: x}"), ("[g(", "[f("), ("return a", "return a[0]")]:
        assert one != code_parts(executed(text.replace(old, new))), old
    inside, outside = "def f():\n try: a(); b()\n except E: pass\n", "def f():\n a()\n try: b()\n except E: pass\n"
    assert code_parts(executed(inside)) != code_parts(executed(outside))
    assert code_parts(executed("def f(): raise E")) != code_parts(executed("def f(): raise F"))


def test_a_cell_of_a_notebook_has_a_text(load: Loader) -> None:
    text = "def f(x):\n    if x: return 1\n"
    name = "<ipython-input-1>"
    linecache.cache[name] = len(text), None, [*text.splitlines(keepends=True)], name
    space: dict[str, Any] = {"__name__": NAME}
    exec(compile(text, name, "exec", dont_inherit=True), space)
    assert code_parts(space["f"]) == code_parts(load("def f(x):\n  if x:\n    return 1").f)
    del linecache.cache[name]


def test_reading_a_text_repeats_no_warning(load: Loader) -> None:
    text = "def f(x):\n    return x is 1, '\\d'\n"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = load(text)
    filters = len(warnings.filters)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        body = source.body_of(module.f.__code__, {})
    assert caught == []
    assert body != source.instructions_of(module.f.__code__)
    assert len(warnings.filters) == filters


# --- What changes while the program runs ---


def test_a_variable_that_is_bound_anew_is_noticed(load: Loader) -> None:
    module, fresh = load(BASE), load(BASE.replace("LIMIT = 3", "LIMIT = 9"))
    before = code_digest(module.f)
    module.LIMIT = 9
    assert code_digest(module.f) == code_digest(fresh.f) != before
    module.LIMIT = 3
    assert code_digest(module.f) == before
    module.LIMIT = 3.0
    assert code_digest(module.f) != before
    del module.LIMIT
    assert "constant LIMIT" not in code_parts(module.f)


def test_a_helper_or_its_inside_that_is_replaced_is_noticed(load: Loader) -> None:
    module = load(BASE)
    seen = {code_digest(module.f)}
    module.deeper = module.unrelated
    seen.add(code_digest(module.f))
    module.helper.__code__ = module.unrelated.__code__
    seen.add(code_digest(module.f))
    module.f.__defaults__ = (7,)
    seen.add(code_digest(module.f))
    module.f.__kwdefaults__["scale"] = 7
    seen.add(code_digest(module.f))
    assert len(seen) == 5


def test_a_mutable_value_that_changes_is_noticed(load: Loader) -> None:
    module = load(
        """
        TABLE = {"a": [1]}
        class Settings:
            names = ["a"]
            rate = 1
        settings = Settings()
        def f(x, acc=[]): return TABLE["a"], settings, acc
        """
    )
    seen = {code_digest(module.f)}
    for change in (
        lambda: module.TABLE["a"].append(2),
        lambda: module.Settings.names.append("b"),
        lambda: setattr(module.Settings, "rate", 2),
        lambda: setattr(module.Settings, "more", 2),
        lambda: setattr(module.settings, "rate", 3),
        lambda: module.f.__defaults__[0].append(1),
    ):
        change()
        seen.add(code_digest(module.f))
    assert len(seen) == 7


def test_a_cell_that_changes_is_noticed() -> None:
    n: Any = 1

    def f() -> Any:
        return n

    before = code_digest(f)
    n = 2
    after = code_digest(f)
    n = [1]
    code_digest(f)
    n.append(2)
    assert len({before, after, code_digest(f)}) == 3


@pytest.mark.parametrize(
    ("setup", "statement"),
    [
        ("S = []", "S.append(x)"),
        ("S = []", "S += [x]"),
        ("S = {}", "S[x] = x"),
        ("S = {}", "S[x, 1] = [y for y in range(x)]"),
        ("S = {}", "S[str(x)] = x"),
        ("S = {'n': 0}", "S['n'] += 1"),
        ("S = {1: 2}", "del S[1]; S[1] = x"),
        ("S = {1}", "S.add(x)"),
        ("S = {}", "S.setdefault(x, []).append(x)"),
        ("S = {}", "S.update(x=x)"),
        ("S = 0", "S += 1"),
        ("S = None", "S = S or object()"),
        ("class S: n = 0", "S.n += 1"),
        ("class S: n = 0", "S.n = x"),
        ("from types import SimpleNamespace as N\nS = N(n=0)", "S.n += x"),
        ("S = []", "(lambda: S.append(x))()"),
        ("S = []\ndef log(y): S.append(y)", "log(x)"),
    ],
)
def test_what_the_code_changes_itself_is_state(load: Loader, setup: str, statement: str) -> None:
    text = f"{setup}\ndef f(x):\n    global S\n    {statement}\n    return S\n"
    if not statement.startswith(("S +=", "S =")):
        text = text.replace("    global S\n", "")
    module = load(text)
    before = code_digest(module.f)
    module.f(1)
    module.f(2)
    if "class S" not in setup:  # a class is code, and code that changes is other code
        assert code_digest(module.f) == before
        assert "constant S" not in code_parts(module.f)
        del module.f.__dict__[KEPT_AT]
        assert code_digest(module.f) == before, "worked out again"
    assert code_digest(load(text).f) == before


def test_what_others_change_is_no_state(load: Loader) -> None:
    module = load("S = []\ndef f(x): return len(S)\ndef g(x): S.append(x)\n")
    before = code_digest(module.f)
    module.g(1)
    assert code_digest(module.f) != before


def test_local_state_is_state_too() -> None:
    calls: list[int] = []
    count = 0

    def f(x: int) -> int:
        nonlocal count
        count += 1
        calls.append(x)
        return x

    before = code_digest(f)
    f(1)
    f(2)
    assert calls == [1, 2] and count == 2
    assert code_digest(f) == before
    assert set(code_parts(f)) == {"body"}


def test_what_cannot_be_hashed_counts_by_type(load: Loader) -> None:
    text = """
        import logging, threading
        log = logging.getLogger("a")
        lock = threading.Lock()
        table = {"lock": lock, "rate": 1}
        class Node:
            def __init__(self): self.me, self.lock, self.n = self, lock, 1
        node = Node()
        def f(x, by=lock): return log, lock, table, node
        """
    module = load(text)
    before = code_parts(module.f)
    module.log.setLevel("INFO")
    assert code_parts(module.f) == before == code_parts(load(text).f)
    assert changed(load, text, text.replace('"rate": 1', '"rate": 2')) == {"constant table"}
    assert changed(load, text, text.replace("lock, 1", "lock, 2")) == {"constant node", "helper Node.__init__"}
    assert changed(load, text, text.replace("threading.Lock()", "threading.Condition()")) >= {"constant lock"}


def test_code_without_source_that_calls_with_keywords() -> None:
    made: dict[str, Any] = {}
    exec("def step(x):\n    print(x, flush=True)\n    return x", made)
    other: dict[str, Any] = {}
    exec("def step(x):\n    print(x, end=True)\n    return x", other)
    assert code_digest(made["step"]) != code_digest(other["step"])
