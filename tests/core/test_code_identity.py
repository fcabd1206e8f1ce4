from __future__ import annotations

import functools
import gc
import math
import operator
import pickle
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from code_texts import BASE, NAME, Loader, executed, loading

from penstock._core import canonical, source
from penstock._core.canonical import KEPT_AT
from penstock._core.code import carry, code_digest, code_parts, identity_of, remember
from penstock._core.keys import Unhashable, assume_main, digest_of, main_name


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Loader]:
    yield from loading(tmp_path, monkeypatch)


def changed(load: Loader, one: str, other: str) -> set[str]:
    """The names of the parts of `f` in which two texts differ."""
    before, after = code_parts(load(one).f), code_parts(load(other).f)
    assert (before == after) == (code_digest(load(one).f) == code_digest(load(other).f))
    return {name for name in {*before, *after} if before.get(name) != after.get(name)}


# --- Other callables ---


def plus(x: int, by: int = 1) -> int:
    return x + by


class Adder:
    def __init__(self, by: Any) -> None:
        self.by = by

    def __call__(self, x: int) -> Any:
        return x + self.by

    def method(self, x: int) -> int:
        return x


def test_code_of_callables_that_are_no_functions() -> None:
    partial = functools.partial
    callables: list[Any] = [
        plus,
        partial(plus, 1),
        partial(plus, 2),
        Adder(1),
        Adder(2),
        Adder,
        len,
        math.sin,
        Adder.method,
    ]
    assert len({code_digest(fn) for fn in callables}) == len(callables)
    assert code_digest(partial(plus, 1)) == code_digest(partial(plus, 1))
    assert code_digest(Adder(1)) == code_digest(Adder(1))
    assert code_digest(Adder(1).method) == code_digest(Adder(2).method) == code_digest(Adder.method)
    assert "helper plus" in code_parts(partial(plus, 1))
    assert "helper Adder.__call__" in code_parts(Adder(1))


class Definition:
    """As tasks and flows are: made from a function, which they hand out for hashing."""

    def __init__(self, fn: Any) -> None:
        self.fn: Any = fn
        self.lock = threading.Lock()
        functools.update_wrapper(self, fn, updated=())  # type: ignore[arg-type]

    def __penstock_hash__(self) -> Any:
        return self.fn


def test_a_definition_among_the_variables_is_followed(load: Loader) -> None:
    text = """
        from test_code_identity import Definition
        @Definition
        def g(x): return x
        def f(x): return g(x)
        """
    assert changed(load, text, text.replace("return x\n", "return -x\n")) == {"helper g"}
    one, other = load(text).g, load(text.replace("return x\n", "return -x\n")).g
    assert digest_of(one) != digest_of(other)


# --- Identity ---


def test_identity_is_module_and_qualified_name() -> None:
    assert identity_of(plus) == f"{__name__}.plus"
    assert identity_of(Adder.method) == identity_of(Adder(1).method) == f"{__name__}.Adder.method"
    assert identity_of(len) == "builtins.len"
    assert identity_of(Adder) == f"{__name__}.Adder"
    assert identity_of(functools.cache(plus)) == identity_of(plus)


def test_identity_of_local_functions_tells_their_code_apart() -> None:
    def make(n: int) -> Any:
        return lambda: n

    one, other = make(1), make(2)
    assert identity_of(one) == identity_of(make(1)) != identity_of(other)
    assert identity_of(one).startswith(f"{__name__}.{one.__qualname__}#")


def test_identity_includes_what_is_bound() -> None:
    fns: list[Any] = [
        functools.partial(plus, 1),
        functools.partial(plus, 2),
        functools.partial(plus, by=1),
        Adder(1),
        Adder(2),
    ]
    fns += [operator.itemgetter(1), operator.itemgetter(2)]
    for strict in (False, True):
        identities = [identity_of(fn, strict=strict) for fn in fns]
        assert len(set(identities)) == len(fns)
        assert identities[0].startswith(f"{__name__}.plus(")
        assert identity_of(functools.partial(plus, 1), strict=strict) == identities[0]
        assert identity_of(Adder(1), strict=strict) == identities[3]


def test_what_is_bound_and_unhashable_is_an_error_if_it_matters() -> None:
    lock: Any = threading.Lock()
    bound: list[Any] = [functools.partial(plus, lock), Adder(threading.Lock())]
    for fn in bound:
        assert identity_of(fn)
        with pytest.raises(Unhashable, match=r"_thread.lock"):
            identity_of(fn, strict=True)
    for fn, path in zip(bound, ["partial[0][0]", "Adder.by"], strict=True):
        with pytest.raises(Unhashable) as caught:
            identity_of(fn, strict=True)
        assert caught.value.path == path


MAIN = """
import dataclasses, multiprocessing, sys
from penstock._core.code import identity_of, code_digest
from penstock._core.keys import digest_of

@dataclasses.dataclass
class Config:
    a: int = 1

def f(x, by=3):
    return x + by

def facts(_=None):
    return identity_of(f), code_digest(f), digest_of(Config()), digest_of(f)

if __name__ == "__main__":
    print(facts())
    for method in sys.argv[1:]:
        with multiprocessing.get_context(method).Pool(1) as pool:
            print(pool.apply(facts))
            pool.close()
            pool.join()
"""


def output(command: list[str], where: Path, text: str | None = None) -> list[str]:
    done = subprocess.run(command, cwd=where, input=text, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_script_is_called_what_it_is_imported_as(tmp_path: Path) -> None:
    (tmp_path / "pipeline.py").write_text(MAIN)
    python = sys.executable
    as_script = output([python, "pipeline.py", "fork", "spawn"], tmp_path)
    as_module = output([python, "-m", "pipeline"], tmp_path)
    imported = output([python, "-c", "import pipeline; print(pipeline.facts())"], tmp_path)
    assert len(as_script) == 3
    assert {*as_script, *as_module, *imported} == set(imported)
    assert imported[0].startswith("('pipeline.f', ")


def test_what_cannot_be_imported_is_called_main(tmp_path: Path) -> None:
    (line,) = output([sys.executable, "-"], tmp_path, MAIN)
    assert line.startswith("('__main__.f', ")


def test_a_worker_can_be_told_what_the_main_program_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canonical, "_assumed_main", None)
    assume_main("pipeline")
    assert main_name() == "pipeline"
    assert canonical.module_name("__main__") == canonical.module_name("__mp_main__") == "pipeline"


# --- In other processes ---

BY_VALUE = """
import cloudpickle, pickle, sys
from penstock._core.code import identity_of, code_digest

LIMITS = {"a": 1}

class Helper:
    def go(self, x): return x + LIMITS["a"]

def f(x, by=3):
    # a comment
    return Helper().go(x) + by

FACTS = identity_of(f), code_digest(f)
if __name__ == "__main__":
    from pathlib import Path
    names = [lambda x, n=n: x + n for n in range(2)]
    facts = [(identity_of(fn), code_digest(fn)) for fn in [f, *names]]
    Path("pickled").write_bytes(cloudpickle.dumps((facts, [f, *names])))
"""

ARRIVAL = """
import pickle, sys
from penstock._core.code import identity_of, code_digest
facts, fns = pickle.loads(open("pickled", "rb").read())
assert facts == [(identity_of(fn), code_digest(fn)) for fn in fns], "differs"
assert fns[0](1) == 5
print("same")
"""


def test_a_function_pickled_by_value_keeps_identity_and_digest(tmp_path: Path) -> None:
    script = tmp_path / "pipeline.py"
    script.write_text(BY_VALUE)
    output([sys.executable, str(script)], tmp_path)
    script.unlink()  # on the other machine there is no such file
    assert output([sys.executable, "-c", ARRIVAL], tmp_path) == ["same"]


def test_on_the_same_machine_the_digest_needs_not_be_carried(load: Loader) -> None:
    module = load(BASE)
    expected = code_parts(module.f)
    for fn in (module.f, module.helper, module.deeper):
        fn.__dict__.pop(KEPT_AT, None)
    copied = pickle.loads(by_value(module))
    assert KEPT_AT not in copied.__dict__
    source._bodies.clear()
    assert code_parts(copied) == expected
    assert code_digest(copied) == code_digest(module.f)


def by_value(module: Any) -> bytes:
    cloudpickle.register_pickle_by_value(module)
    try:
        data: bytes = cloudpickle.dumps(module.f)
    finally:
        cloudpickle.unregister_pickle_by_value(module)
    return data


def test_what_is_carried_is_believed_for_the_same_code_only() -> None:
    carried = pickle.loads(pickle.dumps(carry(plus)))
    same = executed("def f(x, by=1): return x + by")
    same.__code__ = plus.__code__
    assert code_digest(same) == code_digest(same) != ""
    remember(same, carried)
    assert (identity_of(same), code_digest(same)) == (identity_of(plus), code_digest(plus))
    again = pickle.loads(pickle.dumps(carry(same)))
    assert (again.identity, again.digest) == (identity_of(plus), code_digest(plus))
    other = executed("def f(x, by=1): return x - by")
    before = code_digest(other)
    remember(other, carried)
    assert code_digest(other) == before
    assert identity_of(other) == f"{NAME}.f"


def test_wrapping_a_function_does_not_pass_on_its_digest() -> None:
    code_digest(plus)

    @functools.wraps(plus)
    def wrapper(x: int) -> int:
        return -plus(x)

    assert KEPT_AT in wrapper.__dict__
    assert code_digest(wrapper) != code_digest(plus)


# --- Cost ---


def test_a_function_can_be_collected() -> None:
    def make() -> Any:
        def fn() -> Any:
            return big, fn

        big = [1, 2, 3]
        return fn

    fn = make()
    code_digest(fn)
    gone = weakref.ref(fn)
    del fn
    gc.collect()
    assert gone() is None


def test_a_large_variable_that_was_replaced_is_not_kept(load: Loader) -> None:
    module = load("class Big: pass\nbig = Big()\ndef f(): return big\n")
    code_digest(module.f)
    gone = weakref.ref(module.big)
    module.big = None
    gc.collect()
    assert gone() is None


def test_a_second_digest_takes_microseconds(load: Loader) -> None:
    from test_keys import fastest

    module = load(BASE)
    code_digest(module.f)
    assert fastest(lambda: code_digest(module.f)) < 25e-6  # 2 µs
    assert fastest(lambda: identity_of(module.f)) < 10e-6  # 0.5 µs


def test_nothing_is_read_before_a_digest_is_asked_for(load: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def reading(text: str) -> Iterator[Any]:
        read.append(text)
        return iter(())

    monkeypatch.setattr(source, "_read", reading)
    module = load(BASE)
    assert identity_of(module.f) == f"{NAME}.f"
    assert read == []
    code_digest(module.f)
    code_digest(module.helper)
    assert len(read) == 1, "once for a file"
