"""Annotations: say at the call how an argument is treated.

An annotation wraps one argument, or something inside one. The body never sees the wrapper. Annotations
stack in any order and their effects add up: `allow_failure(unmapped(f))` equals `unmapped(allow_failure(f))`
in what it does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from penstock import states

if TYPE_CHECKING:
    from penstock._typing import StandIn
else:
    StandIn = object

T = TypeVar("T")


class Annotation(Generic[T], StandIn):
    """Base of the annotations: an immutable value object, equal by class and value.

    Hashable if the value is. Pickles and copies to an equal object. Subclasses add meaning, not state.
    """

    __slots__ = ("__weakref__", "_alive", "value")

    value: T

    def __init__(self, value: T) -> None:
        object.__setattr__(self, "value", value)
        # Makes `states.any_alive()` true, so that the search for annotations inside arguments is not skipped.
        object.__setattr__(self, "_alive", states._ALIVE)

    def unwrap(self) -> T:
        """Return the wrapped value."""
        return self.value

    def rewrap(self, value: Any) -> Self:
        """Return the same annotation around another value."""
        return type(self)(value)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable: use .rewrap(value) for one around another value")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable")

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return bool(self.value is other.value or self.value == other.value)

    def __hash__(self) -> int:
        return hash((type(self), self.value))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.value!r})"

    def __reduce__(self) -> tuple[type[Self], tuple[T]]:
        return type(self), (self.value,)


class unmapped(Annotation[T]):
    """Pass an iterable to every call of a `map` as it is. Elsewhere it changes nothing.

    >>> unmapped([1, 2]).unwrap()
    [1, 2]
    """

    __slots__ = ()


class allow_failure(Annotation[T]):
    """Let the run start although upstreams inside failed; the body gets the exception in place of the value.

    It covers everything inside, works in `wait_for`, and with `map` each element is wrapped.

    >>> allow_failure([1]).rewrap(2)
    allow_failure(2)
    """

    __slots__ = ()


class quote(Annotation[T]):
    """Pass a value exactly as it is: nothing inside is searched, waited for or replaced.

    The body may get a raw future. Also the cheap way to pass a huge object that holds no futures.

    >>> quote([1, 2]).unquote()
    [1, 2]
    """

    __slots__ = ()

    def unquote(self) -> T:
        """Return the wrapped value."""
        return self.value


class opaque(Annotation[T]):
    """Do not look inside the value: a future is replaced, one inside a container stays as it is.

    >>> opaque({"key": 1}).value
    {'key': 1}
    """

    __slots__ = ()


def strip(value: Any) -> tuple[list[Annotation[Any]], Any]:
    """Return the annotations around `value`, outermost first, and what they annotate."""
    wrappers: list[Annotation[Any]] = []
    while issubclass(type(value), Annotation):  # not isinstance: that would ask a stranger for its __class__
        wrappers.append(value)
        value = value.value
    return wrappers, value


def carries(wrappers: list[Annotation[Any]], effect: type[Annotation[Any]]) -> bool:
    """Whether one of the annotations is `effect`."""
    return any(isinstance(wrapper, effect) for wrapper in wrappers)
