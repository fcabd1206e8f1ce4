"""The options of tasks and flows as checked values: retries and their delays, time limits, tags, hooks.

Each `check_...` function turns what the user wrote into one form, or raises the error that names the option.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from math import isfinite
from numbers import Integral, Real
from typing import Any

MAX_DELAYS = 50


class _Repr(type):
    def __repr__(cls) -> str:
        return cls.__name__


class NotSet(metaclass=_Repr):
    """The class itself is the value of an option that was not given, where None means something else."""


# --- retries ---


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often, and after which pauses, a run that failed is tried again."""

    retries: int = 0
    delays: tuple[float, ...] = ()
    """Seconds before the first retry, the second, ...; the last one repeats, none at all means 0."""
    jitter: float | None = None
    has_condition: bool = False
    """Whether a function of the user's is asked before each retry."""

    def allows(self, attempts_made: int) -> bool:
        """Whether another attempt may follow."""
        return attempts_made <= self.retries

    def delay_before(self, attempt: int, rand: float) -> float:
        """Seconds to wait before attempt number `attempt` (the first retry is attempt 2).

        `rand` in [0, 1) is the draw; larger draws give longer delays. With a jitter of k the delay d becomes
        a value between d·(1 - min(k, 1)) and d·(1 + k), uniform on either side of d, with mean d: retries of
        many runs spread out without taking longer on the whole.
        """
        if not self.delays:
            return 0.0
        delay = self.delays[min(attempt - 2, len(self.delays) - 1)]
        return delay if self.jitter is None else delay * _spread(self.jitter, rand)


def _spread(jitter: float, rand: float) -> float:
    """A factor from [1 - min(jitter, 1), 1 + jitter] with mean 1."""
    if jitter == 0:
        return 1.0
    down = min(jitter, 1.0)
    # The share of draws below 1 that balances a long upper side with a short lower one.
    below = jitter / (jitter + down)
    if rand < below:
        return 1 - down * (1 - rand / below)
    return 1 + jitter * (rand - below) / (1 - below)


def retry_policy(
    retries: int | None = None,
    retry_delay_seconds: object = None,
    retry_jitter_factor: float | None = None,
    *,
    has_condition: bool = False,
) -> RetryPolicy:
    """The policy for the options of these names. None means none: no retry, no delay, no jitter.

    `retry_delay_seconds` is a number, a list or tuple of numbers, or a callable that gets `retries` and
    returns a list. Raises `TypeError` and `ValueError`, each naming the option.
    """
    count = 0 if retries is None else _check_retries(retries)
    jitter = None
    if retry_jitter_factor is not None:
        jitter = check_number("retry_jitter_factor", retry_jitter_factor)
    return RetryPolicy(count, _check_delays(retry_delay_seconds, count), jitter, has_condition)


def _check_retries(retries: object) -> int:
    if isinstance(retries, bool) or not isinstance(retries, Integral):
        raise TypeError(f"'retries' must be an integer; got {type(retries).__name__}.")
    if retries < 0:
        raise ValueError(f"'retries' must be 0 or more; got {retries}.")
    return int(retries)


def _check_delays(option: object, retries: int) -> tuple[float, ...]:
    if option is None:
        return ()
    if callable(option):
        delays = option(retries)
        if not isinstance(delays, list | tuple):
            raise TypeError(
                f"The callable given as 'retry_delay_seconds' must return a list; it returned {type(delays).__name__}."
            )
    elif isinstance(option, list | tuple):
        delays = option
    elif isinstance(option, Real):
        delays = (option,)
    else:
        raise TypeError(
            "'retry_delay_seconds' must be a number, a list or tuple of numbers, or a callable that gets "
            f"the number of retries and returns a list; got {type(option).__name__}."
        )
    if len(delays) > MAX_DELAYS:
        raise ValueError(f"Can not configure more than {MAX_DELAYS} retry delays per task.")
    return tuple(check_number("retry_delay_seconds", delay) for delay in delays)


def check_number(name: str, value: object) -> float:
    """`value` as a finite float of 0 or more."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name!r} must be a number; got {type(value).__name__}.")
    try:
        number = float(value)
    except OverflowError:
        number = float("inf")
    if not isfinite(number):
        raise ValueError(f"{name!r} must be a finite number; got {number}.")
    if number < 0:
        raise ValueError(f"{name!r} must be 0 or more; got {value}.")
    return number


def exponential_backoff(backoff_factor: float) -> Callable[[int], list[float]]:
    """A value for `retry_delay_seconds`: pauses that double, starting at `backoff_factor` seconds.

    Raises `TypeError` if the factor is not a number and `ValueError` if it is negative.

    >>> exponential_backoff(10)(4)
    [10.0, 20.0, 40.0, 80.0]
    """
    return partial(_doubling, check_number("backoff_factor", backoff_factor))


def _doubling(factor: float, retries: int) -> list[float]:
    # One more than allowed is enough to be refused; 2.0**1024 would overflow.
    return [factor * 2.0**retry for retry in range(min(retries, MAX_DELAYS + 1))]


# --- the other options ---


def check_timeout(value: object, name: str = "timeout_seconds") -> float | None:
    """A time limit in seconds. None and 0 mean that there is none."""
    return None if value is None else check_number(name, value) or None


def check_tags(value: object) -> frozenset[str]:
    """Tags from an iterable of strings. One plain string is one tag; None and "" mean no tag."""
    if value is None:
        return frozenset()
    if isinstance(value, str):
        return frozenset((value,) if value else ())
    if not isinstance(value, Iterable):
        raise TypeError(f"Expected a string or an iterable of strings for 'tags'; got {type(value).__name__}.")
    tags = list(value)
    for tag in tags:
        if not isinstance(tag, str):
            raise TypeError(f"Expected strings in 'tags'; got {type(tag).__name__}.")
    return frozenset(tags)


def check_hooks(name: str, value: object) -> list[Callable[..., Any]]:
    """The hooks of option `name` from an iterable of callables; None means none."""
    if value is None:
        return []
    # A callable that is iterable too (a mock, a class of enum members) is one hook without its list.
    if callable(value) or not isinstance(value, Iterable):
        shown = getattr(value, "__name__", "hook")
        raise TypeError(
            f"Expected iterable for '{name}'; got {type(value).__name__} instead. "
            f"Give a list of hooks: {name}=[{shown}]"
        )
    hooks = list(value)
    for hook in hooks:
        if not callable(hook):
            raise TypeError(
                f"Expected callables in '{name}'; got {type(hook).__name__} instead. "
                f"Give a list of functions: {name}=[hook]"
            )
    return hooks
