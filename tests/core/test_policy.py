from __future__ import annotations

import fractions
import math
import pickle
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock._core.policy import (
    NotSet,
    RetryPolicy,
    check_hooks,
    check_tags,
    check_timeout,
    exponential_backoff,
    retry_policy,
)


def notify() -> None: ...


# --- the retry policy ---


def test_the_default_policy_never_retries() -> None:
    policy = RetryPolicy()
    assert policy == retry_policy() == retry_policy(None, None, None)
    assert not policy.allows(1)
    assert policy.delay_before(2, 0.5) == 0.0


def test_n_retries_are_n_plus_one_attempts() -> None:
    policy = retry_policy(2)
    assert [policy.allows(made) for made in (0, 1, 2, 3, 4)] == [True, True, True, False, False]


@pytest.mark.parametrize(
    ("option", "delays", "expected"),
    [
        (None, (), [0, 0, 0]),
        (0, (0.0,), [0, 0, 0]),
        (5, (5.0,), [5, 5, 5]),
        (0.5, (0.5,), [0.5, 0.5, 0.5]),
        ([1, 2], (1.0, 2.0), [1, 2, 2]),
        ((1, 2, 3, 4), (1.0, 2.0, 3.0, 4.0), [1, 2, 3]),
        ([], (), [0, 0, 0]),
        (fractions.Fraction(1, 2), (0.5,), [0.5, 0.5, 0.5]),
        (lambda retries: [retries, 10 * retries], (3.0, 30.0), [3, 30, 30]),
        (lambda retries: (7,), (7.0,), [7, 7, 7]),
        (exponential_backoff(10), (10.0, 20.0, 40.0), [10, 20, 40]),
    ],
)
def test_delays_before_attempts_2_3_4(option: Any, delays: Any, expected: Any) -> None:
    policy = retry_policy(3, option)
    assert policy.delays == delays
    assert [policy.delay_before(attempt, 0.9) for attempt in (2, 3, 4)] == expected


def test_a_condition_is_noted() -> None:
    assert retry_policy(1, has_condition=True).has_condition is True
    assert retry_policy(1).has_condition is False


@pytest.mark.parametrize(
    ("retries", "error", "message"),
    [
        (-1, ValueError, "'retries' must be 0 or more; got -1."),
        (1.0, TypeError, "'retries' must be an integer; got float."),
        ("1", TypeError, "'retries' must be an integer; got str."),
        (True, TypeError, "'retries' must be an integer; got bool."),
    ],
)
def test_bad_retries(retries: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        retry_policy(retries)
    assert str(caught.value) == message


KINDS = (
    "'retry_delay_seconds' must be a number, a list or tuple of numbers, or a callable that gets "
    "the number of retries and returns a list; got "
)


@pytest.mark.parametrize(
    ("option", "error", "message"),
    [
        ("1", TypeError, KINDS + "str."),
        ({1: 2}, TypeError, KINDS + "dict."),
        (True, TypeError, "'retry_delay_seconds' must be a number; got bool."),
        ([1, "2"], TypeError, "'retry_delay_seconds' must be a number; got str."),
        (-1, ValueError, "'retry_delay_seconds' must be 0 or more; got -1."),
        ([1, -2.5], ValueError, "'retry_delay_seconds' must be 0 or more; got -2.5."),
        (math.nan, ValueError, "'retry_delay_seconds' must be a finite number; got nan."),
        ([math.inf], ValueError, "'retry_delay_seconds' must be a finite number; got inf."),
        (10**400, ValueError, "'retry_delay_seconds' must be a finite number; got inf."),
        ([1] * 51, ValueError, "Can not configure more than 50 retry delays per task."),
        (
            lambda retries: 1,
            TypeError,
            "The callable given as 'retry_delay_seconds' must return a list; it returned int.",
        ),
        (
            lambda retries: None,
            TypeError,
            "The callable given as 'retry_delay_seconds' must return a list; it returned NoneType.",
        ),
        (lambda retries: [-1], ValueError, "'retry_delay_seconds' must be 0 or more; got -1."),
        (lambda retries: [1] * 51, ValueError, "Can not configure more than 50 retry delays per task."),
    ],
)
def test_bad_delays(option: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        retry_policy(3, option)
    assert str(caught.value) == message


def test_fifty_delays_are_allowed() -> None:
    assert len(retry_policy(1, [1] * 50).delays) == 50
    assert len(retry_policy(50, exponential_backoff(1)).delays) == 50


@pytest.mark.parametrize("retries", [51, 10**6])
def test_more_than_fifty_backoff_delays_are_refused(retries: int) -> None:
    with pytest.raises(ValueError, match="more than 50 retry delays"):
        retry_policy(retries, exponential_backoff(1))


@pytest.mark.parametrize(
    ("jitter", "error", "message"),
    [
        (-0.1, ValueError, "'retry_jitter_factor' must be 0 or more; got -0.1."),
        (math.nan, ValueError, "'retry_jitter_factor' must be a finite number; got nan."),
        ("1", TypeError, "'retry_jitter_factor' must be a number; got str."),
    ],
)
def test_bad_jitter(jitter: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        retry_policy(1, 1, jitter)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("jitter", "rand", "expected"),
    [
        (0, 0.0, 10.0),
        (0, 0.99, 10.0),
        (0.5, 0.0, 5.0),
        (0.5, 0.5, 10.0),
        (0.5, 0.75, 12.5),
        (1, 0.0, 0.0),
        (1, 0.25, 5.0),
        (3, 0.0, 0.0),
        (3, 0.375, 5.0),  # three quarters of the draws are spread over [0, 10) ...
        (3, 0.75, 10.0),
        (3, 0.875, 25.0),  # ... one quarter over [10, 40)
    ],
)
def test_jitter_spreads_around_the_delay(jitter: float, rand: float, expected: float) -> None:
    assert retry_policy(1, 10, jitter).delay_before(2, rand) == pytest.approx(expected)


@given(
    delay=st.floats(0, 1e6),
    jitter=st.floats(0, 100),
    rand=st.floats(0, 1, exclude_max=True),
)
def test_a_jittered_delay_keeps_its_bounds(delay: float, jitter: float, rand: float) -> None:
    drawn = retry_policy(1, delay, jitter).delay_before(2, rand)
    assert 0 <= drawn <= delay * (1 + jitter)
    assert drawn >= delay * (1 - min(jitter, 1)) * (1 - 1e-9)


@pytest.mark.parametrize("jitter", [0.1, 0.5, 1, 2, 5])
def test_jitter_keeps_the_mean(jitter: float) -> None:
    policy, draws = retry_policy(1, 10, jitter), 10_000
    mean = sum(policy.delay_before(2, (draw + 0.5) / draws) for draw in range(draws)) / draws
    assert mean == pytest.approx(10, rel=1e-3)


def test_policies_are_values() -> None:
    policy = retry_policy(2, [1, 2], 0.5)
    assert pickle.loads(pickle.dumps(policy)) == policy
    assert hash(policy) == hash(retry_policy(2, [1, 2], 0.5))
    with pytest.raises(AttributeError):
        policy.retries = 3  # type: ignore[misc]


# --- exponential backoff ---


def test_backoff_doubles() -> None:
    assert exponential_backoff(1)(4) == [1, 2, 4, 8]
    assert exponential_backoff(0.5)(2) == [0.5, 1]
    assert exponential_backoff(10)(0) == []
    assert pickle.loads(pickle.dumps(exponential_backoff(3)))(2) == [3, 6]


def test_bad_backoff_factors() -> None:
    with pytest.raises(ValueError) as caught:
        exponential_backoff(-1)
    assert str(caught.value) == "'backoff_factor' must be 0 or more; got -1."
    with pytest.raises(TypeError) as refused:
        exponential_backoff("1")  # type: ignore[arg-type]
    assert str(refused.value) == "'backoff_factor' must be a number; got str."


# --- time limits ---


@pytest.mark.parametrize(("value", "expected"), [(None, None), (0, None), (0.0, None), (3, 3.0), (0.25, 0.25)])
def test_timeouts(value: Any, expected: Any) -> None:
    assert check_timeout(value) == expected


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (-1, ValueError, "'timeout_seconds' must be 0 or more; got -1."),
        (math.nan, ValueError, "'timeout_seconds' must be a finite number; got nan."),
        (-math.inf, ValueError, "'timeout_seconds' must be a finite number; got -inf."),
        (True, TypeError, "'timeout_seconds' must be a number; got bool."),
        ("3", TypeError, "'timeout_seconds' must be a number; got str."),
    ],
)
def test_bad_timeouts(value: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        check_timeout(value)
    assert str(caught.value) == message


def test_a_timeout_error_names_the_option() -> None:
    with pytest.raises(ValueError, match=r"^'limit' must be 0 or more"):
        check_timeout(-1, "limit")


# --- tags ---


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, set()),
        ("", set()),
        ((), set()),
        ("etl", {"etl"}),
        (["a", "b", "a"], {"a", "b"}),
        ({"a"}, {"a"}),
        ((tag for tag in "xy"), {"x", "y"}),
    ],
)
def test_tags(value: Any, expected: Any) -> None:
    tags = check_tags(value)
    assert tags == expected
    assert type(tags) is frozenset


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (3, "Expected a string or an iterable of strings for 'tags'; got int."),
        (["a", 3], "Expected strings in 'tags'; got int."),
        (b"ab", "Expected strings in 'tags'; got int."),
        ([["a"]], "Expected strings in 'tags'; got list."),
    ],
)
def test_bad_tags(value: Any, message: str) -> None:
    with pytest.raises(TypeError) as caught:
        check_tags(value)
    assert str(caught.value) == message


# --- hooks ---


@pytest.mark.parametrize("empty", [None, [], (), "", iter(())])
def test_no_hooks(empty: Any) -> None:
    assert check_hooks("on_completion", empty) == []


def test_hooks_are_a_new_list() -> None:
    given_hooks = [notify, mock.Mock()]
    hooks = check_hooks("on_completion", given_hooks)
    assert hooks == given_hooks
    assert hooks is not given_hooks
    assert check_hooks("on_completion", (hook for hook in [notify])) == [notify]


@pytest.mark.parametrize(
    ("value", "kind", "cure"),
    [
        (notify, "function", "on_completion=[notify]"),
        (mock.MagicMock(), "MagicMock", "on_completion=[hook]"),
        (3, "int", "on_completion=[hook]"),
    ],
)
def test_a_hook_without_list_is_refused_with_the_cure(value: Any, kind: str, cure: str) -> None:
    with pytest.raises(TypeError) as caught:
        check_hooks("on_completion", value)
    assert str(caught.value) == (
        f"Expected iterable for 'on_completion'; got {kind} instead. Give a list of hooks: {cure}"
    )


@pytest.mark.parametrize(("value", "kind"), [([notify, 3], "int"), ("notify", "str"), ([None], "NoneType")])
def test_hooks_must_be_callable(value: Any, kind: str) -> None:
    with pytest.raises(TypeError) as caught:
        check_hooks("on_failure", value)
    assert str(caught.value) == (
        f"Expected callables in 'on_failure'; got {kind} instead. Give a list of functions: on_failure=[hook]"
    )


# --- NotSet ---


def test_not_set_is_itself() -> None:
    assert repr(NotSet) == "NotSet"
    assert pickle.loads(pickle.dumps(NotSet)) is NotSet
