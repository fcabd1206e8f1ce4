from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import weakref
from collections import ChainMap, Counter, OrderedDict, UserDict, defaultdict, deque, namedtuple
from collections.abc import Callable, Iterator
from dataclasses import InitVar, dataclass, field
from enum import EnumMeta
from functools import cached_property
from types import MappingProxyType, SimpleNamespace
from typing import Any, ClassVar, NamedTuple
from unittest.mock import MagicMock

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock import states
from penstock._core import graph
from penstock._core.graph import Inputs, Link, Upstream, find, find_waits, replace
from penstock.annotations import allow_failure, carries, opaque, quote, strip, unmapped


class F(Upstream):
    def __init__(self, value: Any = None) -> None:
        self._alive = states._ALIVE
        self.value = value


def value_of(upstream: Any) -> Any:
    return upstream.value if isinstance(upstream, F) else upstream.result()


def resolve(x: Any, **options: Any) -> Any:
    """`x` as a body would get it."""
    found = find({"x": x}, **options)
    return x if found is None else found.resolve(value_of)["x"]


def found(x: Any, **options: Any) -> Inputs:
    inputs = find({"x": x}, **options)
    assert inputs is not None
    return inputs


@pytest.fixture(autouse=True)
def something_alive() -> Iterator[F]:
    keep = F()
    yield keep


# What is found ----------------------------------------------------------------------------------------


def test_nothing_is_looked_at_when_nothing_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(states, "any_alive", lambda: False)
    assert find({"x": F()}) is None


def test_upstreams_are_listed_once_in_order() -> None:
    a, b, c = F(), F(), F()
    inputs = find({"x": 1, "y": [b, {"k": (a, b)}], "z": a, "w": c})
    assert inputs is not None
    assert inputs.links == (Link(b, "y", True, False), Link(a, "y", True, False), Link(c, "w", True, False))


def test_dict_items_are_in_order_of_entries() -> None:
    a, b, c = F(), F(), F()
    assert [link.upstream for link in found({a: b, "k": c}).links] == [a, b, c]
    d = OrderedDict(x=a, y=b)
    d.move_to_end("x")
    assert [link.upstream for link in found(d).links] == [b, a]


def test_direct_upstreams() -> None:
    a, parameters = F("A"), {}
    parameters.update(x=a, y=a, z=3, s=states.Completed(data=4))
    find(parameters)  # types are learnt at first sight, and take the short cut from then on
    inputs = find(parameters)
    assert inputs is not None
    assert [(link.upstream, link.parameter) for link in inputs.links] == [(a, "x"), (parameters["s"], "s")]
    parameters["z"] = "changed later"
    assert inputs.resolve(value_of) == {"x": "A", "y": "A", "z": 3, "s": 4}


def test_required_and_allowed_are_told_apart() -> None:
    a, b, c = F(), F(), F()
    shared = [b]
    inputs = find({"x": allow_failure([a, shared]), "y": shared, "z": [[allow_failure({"k": c})]]})
    assert inputs is not None
    assert inputs.links == (Link(a, "x", False, True), Link(b, "x", True, True), Link(c, "z", False, True))


def test_value_of_is_asked_once_for_each_upstream() -> None:
    a, b = F(1), F(2)
    asked: list[Any] = []
    inputs = found([b, a, [a, b]])

    def ask(upstream: Any) -> Any:
        asked.append(upstream)
        return upstream.value

    assert inputs.resolve(ask) == {"x": [2, 1, [1, 2]]}
    assert asked == [b, a]


def test_what_value_of_raises_passes_through() -> None:
    def fail(upstream: Any) -> Any:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        found([F()]).resolve(fail)


def test_resolving_twice_gives_separate_containers() -> None:
    inputs = found([F(1)])
    first, second = inputs.resolve(value_of), inputs.resolve(value_of)
    assert first == second == {"x": [1]} and first["x"] is not second["x"]


def test_skipped_parameters_are_not_looked_at() -> None:
    a, b = F("A"), F("B")
    assert find({"x": [a], "y": b}, skip={"x", "y"}) is None
    inputs = find({"x": a, "y": b}, skip={"x"})
    assert inputs is not None and inputs.resolve(value_of) == {"x": a, "y": "B"}
    inputs = find({"x": [a], "y": [b]}, skip={"x"})
    assert inputs is not None and inputs.resolve(value_of) == {"x": [a], "y": ["B"]}


def test_a_container_is_taken_as_it_was_when_it_was_found() -> None:
    x = [F(1), 2]
    inputs = found(x)
    x.insert(0, "later")
    assert inputs.resolve(value_of) == {"x": [1, 2]}


def test_arguments_are_free_once_the_inputs_are_dropped() -> None:
    f = F(1)
    gone = weakref.ref(f)
    inputs: Any = found([[{"k": f}]])
    del f
    gc.disable()  # no cyclic garbage may be needed
    try:
        del inputs
        assert gone() is None
    finally:
        gc.enable()


# Containers -------------------------------------------------------------------------------------------

Point = namedtuple("Point", "x y")


class Typed(NamedTuple):
    a: Any
    b: Any = 0


class MyList(list[Any]):
    def __init__(self, label: str, items: Any = ()) -> None:
        super().__init__(items)
        self.label = label


class MyDict(dict[Any, Any]):
    label = "class"

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key, ("set", value))


class MyTuple(tuple[Any, ...]):
    label: str


class MySet(set[Any]):
    pass


class MyFrozen(frozenset[Any]):
    pass


class MyDeque(deque[Any]):
    pass


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda f: [0, f], [0, 1]),
        (lambda f: (0, f), (0, 1)),
        (lambda f: {f}, {1}),
        (lambda f: frozenset([f]), frozenset([1])),
        (lambda f: {"k": f}, {"k": 1}),
        (lambda f: {f: "v"}, {1: "v"}),
        (lambda f: OrderedDict(b=f, a=2), OrderedDict(b=1, a=2)),
        (lambda f: deque([0, f], maxlen=2), deque([0, 1], maxlen=2)),
        (lambda f: defaultdict(list, k=f), defaultdict(list, k=1)),
        (lambda f: Point(f, 2), Point(1, 2)),
        (lambda f: Typed(a=[f]), Typed(a=[1])),
        (lambda f: Counter({"k": f}), Counter({"k": 1})),
        (lambda f: MySet([f]), MySet([1])),
        (lambda f: MyFrozen([f]), MyFrozen([1])),
        (lambda f: MyDeque([f], 3), MyDeque([1], 3)),
        (lambda f: {"k": f}.values(), [1]),
        (lambda f: {f: 0}.keys(), [1]),
        (lambda f: {"k": f}.items(), [("k", 1)]),
        (lambda f: OrderedDict(k=f).values(), [1]),
        (lambda f: OrderedDict(k=f).items(), [("k", 1)]),
        (lambda f: [[[({"k": [f]},)]]], [[[({"k": [1]},)]]]),
    ],
)
def test_containers_are_rebuilt_in_their_type(make: Callable[[Any], Any], expected: Any) -> None:
    original = make(F(1))
    result = resolve(original)
    assert result == expected and type(result) is type(expected)
    assert result is not original


def test_extras_are_kept() -> None:
    assert resolve(defaultdict(list, k=F(1))).default_factory is list
    assert resolve(deque([F(1)], maxlen=7)).maxlen == 7
    assert resolve(MyDeque([F(1)], 7)).maxlen == 7
    labelled = resolve(MyList("L", [F(1), 2]))
    assert labelled == [1, 2] and type(labelled) is MyList and labelled.label == "L"
    x = MyTuple([F(1)])
    x.label = "T"
    result = resolve(x)
    assert result == (1,) and type(result) is MyTuple and result.label == "T"


def test_subclasses_are_refilled_behind_their_methods() -> None:
    x = MyDict()
    dict.__setitem__(x, "k", F(1))
    assert dict(resolve(x)) == {"k": 1} and type(resolve(x)) is MyDict


def test_a_subclass_that_copies_to_itself_is_not_emptied() -> None:
    class Shared(list[Any]):
        def __copy__(self) -> Shared:
            return self

    f = F(1)
    x = Shared([f])
    with pytest.raises(ValueError, match="parameter 'x' at x: TypeError: copy"):
        resolve(x)
    assert list(x) == [f]


def test_a_model_that_copies_to_itself_is_not_changed() -> None:
    class Shared(Open):
        def __copy__(self) -> Shared:
            return self

    f = F(1)
    x = Shared(a=f)
    with pytest.raises(ValueError, match="parameter 'x' at x: TypeError: copy"):
        resolve(x)
    assert x.a is f


class Futures(list[Any]):
    _rebuild_as = list


def test_a_list_class_can_arrive_as_a_plain_list() -> None:
    for x, expected in ((Futures([F(1), F(2)]), [1, 2]), (Futures(), []), (Futures([5]), [5])):
        assert type(resolve(x)) is list and resolve(x) == expected
        assert resolve([x]) == [expected] and type(resolve([x])[0]) is list
        assert type(resolve(x, keep_quotes=True)) is list


def test_a_subclass_can_keep_its_type_again() -> None:
    class Kept(Futures):
        _rebuild_as = None  # type: ignore[assignment]

    assert type(resolve(Kept([F(1)]))) is Kept


def test_an_unexpanded_list_is_one_upstream() -> None:
    class Unexpanded(Futures, F):
        pass

    x = Unexpanded()
    x.value = [1, 2]
    assert [link.upstream for link in found([x]).links] == [x]
    assert resolve([x]) == [[1, 2]]


@pytest.mark.parametrize("x", [[1, (2, {"a": {3}})], (), {}, "s", None, deque(), Point(1, 2), {1: 2}.keys()])
def test_what_holds_nothing_is_not_touched(x: Any) -> None:
    assert find({"x": x}) is None


def test_only_the_way_to_a_future_is_rebuilt() -> None:
    clean, inner_clean = [1, [2]], {"k": [3]}
    x = [clean, {"a": inner_clean, "b": (F(1),)}]
    result = resolve(x)
    assert result == [[1, [2]], {"a": {"k": [3]}, "b": (1,)}]
    assert result[0] is clean and result[1]["a"] is inner_clean


def test_shared_references_stay_shared() -> None:
    shared = [F(1)]
    result = resolve([shared, (shared,), {"k": shared}])
    assert result[0] is result[1][0] is result[2]["k"]
    assert result[0] == [1]


def test_a_value_is_not_searched_again() -> None:
    inner = F(1)
    assert resolve([F([inner])]) == [[inner]]


# Dataclasses and models ---------------------------------------------------------------------------------


@dataclass
class Data:
    a: Any
    b: Any = 2
    shared: ClassVar[list[int]] = []
    hint: InitVar[int] = 0

    def __post_init__(self, hint: int) -> None:
        self.made = hint

    @cached_property
    def length(self) -> int:
        return 42


@dataclass(frozen=True, slots=True)
class Frozen:
    a: Any
    b: Any = field(default=0, compare=False)

    def __post_init__(self) -> None:
        if type(self.a) is int:
            raise AssertionError("must not run again")


@dataclass(slots=True)
class Base:
    _a: Any


@dataclass(slots=True)
class Derived(Base):
    later: Any = field(init=False)
    b: Any = field(init=False, default=5)


@dataclass
class Slotted:
    __slots__ = ("__a",)
    __a: Any


def test_dataclasses_are_copied_field_by_field() -> None:
    x = Data(F(1), hint=7)
    x.extra = [F(2)]  # type: ignore[attr-defined]
    result = resolve(x)
    assert type(result) is Data and (result.a, result.b, result.made) == (1, 2, 7)
    assert result.extra is x.extra  # type: ignore[attr-defined]
    assert result.length == 42 and isinstance(x.a, F)


def test_frozen_slotted_dataclasses_are_copied_without_their_constructor() -> None:
    x = Frozen(F(1), b="b")
    result = resolve([x])[0]
    assert type(result) is Frozen and (result.a, result.b) == (1, "b")


def test_fields_that_were_never_set_stay_unset() -> None:
    result = resolve(Derived([F(1)]))
    assert type(result) is Derived and (result._a, result.b) == ([1], 5)
    assert not hasattr(result, "later")


def test_mangled_slots() -> None:
    assert resolve(Slotted(F(1)))._Slotted__a == 1


def test_dataclass_classes_are_no_containers() -> None:
    assert find({"x": Data}) is None


def test_frozen_dataclasses_in_sets_are_complete_when_hashed() -> None:
    @dataclass(frozen=True)
    class Key:
        a: Any

    assert resolve({Key(F(1))}) == {Key(1)}
    assert resolve(frozenset([(Key(F(1)), 2)])) == frozenset([(Key(1), 2)])
    assert resolve({Key((F(1),)): F(2)}) == {Key((1,)): 2}


class Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, arbitrary_types_allowed=True)
    a: int
    b: Any = None
    _private: Any = pydantic.PrivateAttr(default=None)


class Open(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    a: Any


def test_models_are_copied_without_validation_with_private_attributes() -> None:
    x = Model.model_construct(a=F("not an int"), b=[F(2)])
    object.__setattr__(x, "__pydantic_private__", {"_private": "secret"})
    result = resolve(x)
    assert type(result) is Model and (result.a, result.b, result._private) == ("not an int", [2], "secret")
    assert isinstance(x.a, F)
    assert result.model_fields_set == {"a", "b"}


def test_extra_fields_of_models_are_searched() -> None:
    x = Open(a=1, more=F(2))
    result = resolve(x)
    assert result.a == 1 and result.model_extra == {"more": 2}
    assert isinstance(x.more, F)  # type: ignore[attr-defined]


def test_root_models() -> None:
    x = pydantic.RootModel[Any]([F(1)])
    assert resolve(x).root == [1]


def test_models_without_futures_keep_identity() -> None:
    assert find({"x": [Model(a=1, b=[2])]}) is None


def test_half_made_models_do_not_break_the_walk() -> None:
    assert find({"x": Open.__new__(Open)}) is None


# Annotations ----------------------------------------------------------------------------------------------


def test_annotations_are_unwrapped() -> None:
    x = [1]
    assert resolve(unmapped(x)) is x and resolve(allow_failure(x)) is x and resolve(opaque(x)) is x
    assert resolve({"k": unmapped(F(1))}) == {"k": 1}
    assert resolve([allow_failure(unmapped([F(1)]))]) == [[1]]
    assert found(unmapped(x)).links == ()


def test_quote_is_untouched() -> None:
    f = F(1)
    x = [f]
    assert resolve(quote(f)) is f
    assert resolve(quote(x)) is x
    assert resolve([quote(f), f]) == [f, 1]
    assert resolve(allow_failure(quote(x))) is x and resolve(quote(opaque(x))) is x
    assert found(quote(f)).links == ()


def test_quotes_can_be_kept() -> None:
    f = F(1)
    q = quote([f])
    assert find({"x": q}, keep_quotes=True) is None
    assert find({"x": [q]}, keep_quotes=True) is None
    result = resolve([q, f, allow_failure(q)], keep_quotes=True)
    assert result == [q, 1, q] and result[0] is q and result[2] is q


def test_opaque_replaces_at_the_top_only() -> None:
    f = F(1)
    x = [f]
    assert resolve(opaque(f)) == 1
    assert resolve(opaque(x)) is x
    assert resolve([opaque(x), opaque(allow_failure(f))]) == [x, 1]
    assert found(allow_failure(opaque(f))).links == (Link(f, "x", False, True),)
    assert found(opaque(allow_failure(f))).links == (Link(f, "x", False, True),)


# Depth, cycles, size --------------------------------------------------------------------------------------


def nested_in(x: Any, depth: int) -> Any:
    for _ in range(depth // 4):
        x = ({"k": [Point(0, x)]},)
    return x


def test_depth_is_not_limited() -> None:
    result = resolve(nested_in(F(1), 100_000))
    for _ in range(25_000):
        result = result[0]["k"][0].y
    assert result == 1
    assert find({"x": nested_in(1, 100_000)}) is None


def test_deeply_stacked_annotations() -> None:
    x: Any = F(1)
    for _ in range(100_000):
        x = unmapped(x)
    assert resolve(x) == 1


def test_cycles_stay_cycles() -> None:
    x: list[Any] = [F(1)]
    x.append(x)
    result = resolve(x)
    assert result[0] == 1 and result[1] is result


def test_a_cycle_without_a_future_is_left_alone() -> None:
    x: list[Any] = []
    x.append((x, {"k": x}))
    assert find({"x": x}) is None
    result = resolve([x, F(1)])
    assert result[0] is x


def test_a_tuple_inside_its_own_list() -> None:
    items: list[Any] = [F(1)]
    x = (items, "t")
    items.append(x)
    result = resolve(x)
    assert result[0][0] == 1 and result[0][1] is result and result[1] == "t"


def test_tuples_on_a_cycle_through_several_lists() -> None:
    # outer -> first list -> inner tuple -> outer: the inner tuple must wait for the outer one.
    first: list[Any] = [F(1)]
    outer = (first,)
    first.append((outer, F(2)))
    result = resolve(outer)
    assert result[0][0] == 1
    assert result[0][1][0] is result and result[0][1][1] == 2


def test_tuples_that_point_to_their_parents() -> None:
    root = top = ([F(1)], None)
    for _ in range(5_000):
        child: Any = ([F(1)], top)
        top[0].append(child)
        top = child
    result = resolve(root)
    for _ in range(5_000):
        items, _ = result
        assert items[0] == 1 and items[1][1] is result
        result = items[1]


def test_a_dataclass_on_a_cycle() -> None:
    x = Data(F(1))
    x.b = {"me": x}
    result = resolve(x)
    assert result.a == 1 and result.b["me"] is result


def test_many_containers_of_a_clean_kind_beside_a_future() -> None:
    clean = [(i, [i]) for i in range(100)]
    result = resolve([*clean, F("last")])
    assert result == [*clean, "last"]
    assert all(a is b for a, b in zip(result, clean, strict=False))


# Objects that must not be touched ---------------------------------------------------------------------------


class Trap:
    """Every way to touch an instance is an error, as with lazy proxies that load when touched."""

    def _sprung(self, *args: Any) -> Any:
        raise AssertionError("touched")

    __getattribute__ = __getattr__ = __eq__ = __bool__ = __len__ = __iter__ = _sprung  # type: ignore[assignment]
    __contains__ = __getitem__ = __copy__ = __reduce_ex__ = __repr__ = __str__ = _sprung  # type: ignore[assignment]
    __hash__ = object.__hash__
    __class__ = property(_sprung)  # type: ignore[assignment]


class UnhashableTrap(Trap):
    __hash__ = None  # type: ignore[assignment]


class TrapList(list[Any]):
    __iter__ = __len__ = __getitem__ = __eq__ = __bool__ = Trap._sprung  # type: ignore[assignment]


class TrapDict(dict[Any, Any]):
    __iter__ = __len__ = __getitem__ = items = values = keys = Trap._sprung  # type: ignore[assignment]


@pytest.mark.parametrize("make", [Trap, UnhashableTrap, lambda: TrapList([1]), lambda: TrapDict(a=1), MagicMock])
def test_objects_are_not_touched(make: Callable[[], Any]) -> None:
    trap = make()
    assert find({"x": trap}) is None
    assert find({"x": [trap, (trap,)]}) is None
    result = resolve([trap, F(1)])
    assert result[0] is trap and result[1] == 1
    assert resolve(unmapped(trap)) is trap
    assert find_waits([trap]) == ()


def test_futures_inside_trapped_containers_are_found() -> None:
    f = F(1)
    assert [link.upstream for link in found([TrapList([f]), TrapDict(a=f)]).links] == [f]


def test_attributes_mocks_and_mappings_are_not_searched() -> None:
    f = F(1)
    mock = MagicMock()
    mock.attribute = f
    for x in (
        SimpleNamespace(f=f),
        mock,
        ChainMap({"k": f}),
        MappingProxyType({"k": f}),
        iter([f]),
        lambda: f,
    ):
        assert find({"x": x}) is None
        assert find({"x": [x]}) is None


def test_iterators_are_not_consumed() -> None:
    f = F(1)
    x = iter([f])
    assert resolve([x, f])[0] is x and next(x) is f


def test_classes_that_cannot_be_hashed() -> None:
    class Meta(type):
        def __eq__(cls, other: object) -> bool:
            raise AssertionError("compared")

    class Strange(metaclass=Meta):
        pass

    x = Strange()
    assert find({"x": x}) is None
    assert find({"x": [x, 1]}) is None
    assert find({"x": (x, [2])}) is None
    result = resolve([x, {"k": (F(1), x)}])
    assert result[0] is x and result[1]["k"] == (1, x)


def test_a_metaclass_does_not_interfere() -> None:
    class Meta(EnumMeta):
        def __subclasscheck__(cls, other: type) -> bool:
            raise AssertionError("asked")

        def __instancecheck__(cls, other: object) -> bool:
            raise AssertionError("asked")

    class Strange(type):
        def __getattribute__(cls, name: str) -> Any:
            if name in ("__mro__", "__dict__", "__dataclass_fields__"):
                raise AssertionError("asked")
            return super().__getattribute__(name)

    class Guarded(metaclass=Strange):
        pass

    assert find({"x": [Guarded()]}) is None


def test_the_memory_of_types_is_bounded() -> None:
    for i in range(graph._REMEMBERED_TYPES + 100):
        assert find({"x": [type(f"T{i}", (), {})()]}) is None
    assert len(graph._KINDS) <= graph._REMEMBERED_TYPES
    assert resolve([F(1), (2,)]) == [1, (2,)]


# Failures -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "place"),
    [
        (lambda s: {"a": [0, 1, 2, s]}, "x['a'][3]"),
        (lambda s: s, "x"),
        (lambda s: [Data(s)], "x[0].a"),
        (lambda s: Open(a=1, e=(s,)), "x.e[0]"),
        (lambda s: {(1, 2): s}, "x[<tuple>]"),
        (lambda s: deque([Point(0, unmapped(s))]), "x[0][1]"),
        (lambda s: {(frozenset(s), 1): "v"}, "x.keys()[0]"),
    ],
)
def test_an_impossible_rebuild_says_where(make: Callable[[Any], Any], place: str) -> None:
    with pytest.raises(ValueError) as caught:
        resolve(make({F([])}))
    assert str(caught.value) == (
        f"Failed to resolve inputs in parameter 'x' at {place}: TypeError: unhashable type: 'list'; "
        "wrap the argument in quote() or opaque()"
    )
    assert type(caught.value.__cause__) is TypeError


def test_the_place_of_a_failure_is_bounded() -> None:
    x: Any = {F([])}
    for _ in range(10_000):
        x = [x]
    with pytest.raises(ValueError) as caught:
        resolve(x)
    assert len(str(caught.value)) < 400 and "x[0][0]" in str(caught.value)


# replace ----------------------------------------------------------------------------------------------------


def test_replace() -> None:
    f = F(1)
    x = [1, {"k": 2}]
    assert replace(x, value_of) is x
    assert replace(f, value_of) == 1
    assert replace({"k": [f, states.Completed(data=2)]}, value_of) == {"k": [1, 2]}
    q = quote(f)
    assert replace(q, value_of) is q
    assert type(replace(Futures([f]), value_of)) is list


# wait_for ---------------------------------------------------------------------------------------------------


def upstreams(wait_for: Any) -> list[Any]:
    return [link.upstream for link in find_waits(wait_for)]


@pytest.mark.parametrize(
    "make",
    [
        lambda f: f,
        lambda f: [f],
        lambda f: (f, f),
        lambda f: {f},
        lambda f: {"k": f},
        lambda f: {f: 1}.keys(),
        lambda f: {1: f}.values(),
        lambda f: (x for x in [f]),
        lambda f: iter([f]),
        lambda f: zip([f], strict=True),
        lambda f: [[f], {"k": (f,)}, 3, "direct result", None],
        lambda f: unmapped([f]),
        lambda f: [unmapped(f)],
        lambda f: opaque(f),
        lambda f: Data(f),
        lambda f: [opaque(iter("x")), f],
        lambda f: [quote(iter("x")), f],
    ],
)
def test_waits_are_found(make: Callable[[Any], Any]) -> None:
    f = F()
    assert find_waits(make(f)) == (Link(f, "wait_for", True, False),)


@pytest.mark.parametrize(
    "make",
    [
        lambda f: allow_failure(f),
        lambda f: allow_failure([f]),
        lambda f: [allow_failure(f)],
        lambda f: allow_failure(iter([f])),
        lambda f: unmapped(allow_failure(f)),
    ],
)
def test_waits_may_be_allowed_to_fail(make: Callable[[Any], Any]) -> None:
    f = F()
    assert find_waits(make(f)) == (Link(f, "wait_for", False, True),)


@pytest.mark.parametrize("x", [None, [], (), {}, [1, "a"], range(3), iter([])])
def test_nothing_to_wait_for(x: Any) -> None:
    assert find_waits(x) == ()


def test_quoted_and_opaque_waits_are_not_waited_for() -> None:
    f = F()
    assert upstreams(quote(f)) == upstreams([quote([f])]) == upstreams(opaque([f])) == []


def test_states_are_waited_for() -> None:
    s = states.Completed()
    assert upstreams([s]) == [s]


def test_waits_are_found_when_nothing_seems_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(states, "any_alive", lambda: False)
    with pytest.raises(TypeError, match=r"wait_for\[0\] is a list_iterator"):
        find_waits([iter([1])])


class Awaitable:
    def __await__(self) -> Any:
        raise AssertionError


async def agen() -> Any:
    yield 1


@pytest.mark.parametrize(
    "make",
    [
        lambda: iter([1]),
        lambda: (x for x in "a"),
        lambda: ChainMap({}),
        lambda: MappingProxyType({}),
        lambda: UserDict(),
        Awaitable,
        agen,
        concurrent.futures.Future,
    ],
)
def test_what_would_be_lost_inside_is_an_error(make: Callable[[], Any]) -> None:
    lost = make()
    name = type(lost).__name__
    with pytest.raises(TypeError, match=rf"^wait_for\[1\] is a {name}: .*wait_for=\[\*x\]"):
        find_waits([3, lost])
    with pytest.raises(TypeError, match=rf"^wait_for\['a'\]\[0\] is a {name}"):
        find_waits({"a": (lost,)})
    with pytest.raises(TypeError, match=rf"^wait_for\[0\] is a {name}"):
        find_waits(x for x in [allow_failure(lost)])
    assert find({"x": [lost]}) is None  # as an argument it is an ordinary value


@pytest.mark.parametrize(
    "make",
    [
        lambda: 5,
        lambda: "text",
        lambda: b"text",
        object,
        lambda: ChainMap({}),
        lambda: MappingProxyType({}),
        Awaitable,
        agen,
        concurrent.futures.Future,
    ],
)
def test_what_cannot_be_waited_for_is_an_error(make: Callable[[], Any]) -> None:
    x = make()
    with pytest.raises(TypeError, match=rf"wait_for=\[x\]; got {type(x).__name__}$"):
        find_waits(x)


def test_coroutines_and_asyncio_tasks_are_errors() -> None:
    async def coroutine() -> None:
        pass

    async def main() -> None:
        for lost in (coroutine(), asyncio.ensure_future(coroutine())):
            with pytest.raises(TypeError, match=r"^wait_for\[0\] is a"):
                find_waits([lost])
            with pytest.raises(TypeError, match=r"wait_for=\[x\]"):
                find_waits(lost)
            await lost

    asyncio.run(main())


def test_what_a_drained_iterator_raises_passes_through() -> None:
    def source() -> Iterator[Any]:
        yield F()
        raise TypeError("mine")

    with pytest.raises(TypeError, match=r"^mine$"):
        find_waits(source())


# Properties ---------------------------------------------------------------------------------------------


def naive(x: Any) -> Any:
    """The specification, written recursively; keeps what holds nothing."""
    if isinstance(x, F):
        return x.value
    if isinstance(x, unmapped | allow_failure):
        wrappers, core = strip(x)
        return core if carries(wrappers, quote) else naive(core)
    if isinstance(x, quote):
        return strip(x)[1]
    if isinstance(x, dict):
        parts = {naive(k): naive(v) for k, v in x.items()}
        same = all(a is b for a, b in zip([*x, *x.values()], [*parts, *parts.values()], strict=True))
        return x if same else parts
    if isinstance(x, list | tuple | set | frozenset | deque):
        items = [naive(item) for item in x]
        if all(a is b for a, b in zip(x, items, strict=True)):
            return x
        return type(x)(*items) if isinstance(x, Point) else type(x)(items)
    return x


def same(a: Any, b: Any, original: Any) -> bool:
    """Equal, of the same types, and the very original wherever the specification kept it."""
    if b is original and isinstance(original, list | tuple | set | dict | deque):
        return a is original
    return type(a) is type(b) and a == b


keys = st.integers(0, 50) | st.text(max_size=2) | st.builds(F, st.integers(100, 200))
leaves = keys | st.none() | st.builds(object) | st.builds(F, st.lists(st.integers(), max_size=2))
hashables = st.recursive(keys, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=4)


def nest(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.lists(inner, max_size=4).map(deque),
        st.builds(Point, inner, inner),
        st.dictionaries(hashables, inner, max_size=3),
        st.sets(hashables, max_size=3),
        st.frozensets(hashables, max_size=3),
        st.builds(unmapped, inner),
        st.builds(allow_failure, inner),
        st.builds(quote, inner),
    )


nested = st.recursive(leaves, nest, max_leaves=25)


@given(st.dictionaries(st.text(max_size=3), nested, max_size=4))
def test_exactly_the_futures_are_replaced(parameters: dict[str, Any]) -> None:
    expected = {name: naive(value) for name, value in parameters.items()}
    inputs = find(parameters)
    if inputs is None:
        assert all(expected[name] is value for name, value in parameters.items())
        return
    result = inputs.resolve(value_of)
    assert list(result) == list(parameters)
    assert all(same(result[name], expected[name], parameters[name]) for name in parameters)


@given(nested)
def test_nothing_found_means_nothing_changes(x: Any) -> None:
    inputs = find({"x": x})
    if inputs is not None and not inputs.links:
        result = inputs.resolve(value_of)["x"]
        assert same(result, naive(x), x)


@given(nested, nested)
def test_the_walk_changes_nothing_it_is_given(x: Any, y: Any) -> None:
    before = repr([x, y])
    inputs = find({"x": x, "y": y})
    if inputs is not None:
        inputs.resolve(value_of)
    assert repr([x, y]) == before
