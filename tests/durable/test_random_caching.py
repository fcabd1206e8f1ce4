"""Random cache workloads: each key is computed as often as it must be, by one at a time, and nobody waits for ever."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from typing import Any, NamedTuple

import pytest

from penstock import flow, task
from penstock._engine import clock as clocks
from penstock.cache_policies import INPUTS
from penstock.exceptions import CancelledRun
from penstock.task_runners import SequentialTaskRunner, TaskRunner, ThreadPoolTaskRunner
from penstock.testing.clock import ManualClock

LIFETIME = 10.0  # seconds that a value is good for
PATIENCE = 20.0  # seconds until somebody is believed to wait for ever


class Ask(NamedTuple):
    """One call."""

    key: int
    how: str = "submit"
    refresh: bool = False
    cancel: bool = False  # as soon as it is submitted


class Round(NamedTuple):
    """Calls at the same time, some of which fail; and how long it is to the next round."""

    asks: tuple[Ask, ...]
    failures: dict[int, int]  # by key: how many executions fail
    rest: float


@dataclass
class World:
    """What bodies see and write down."""

    needs: dict[int, tuple[int, ...]] = field(default_factory=dict)  # by key: those that it asks for inside
    failures: Counter[int] = field(default_factory=Counter)  # yet to come
    executions: Counter[int] = field(default_factory=Counter)
    failed: Counter[int] = field(default_factory=Counter)
    inside: Counter[int] = field(default_factory=Counter)  # now
    crowd: int = 0  # the most that have ever been inside one key
    lock: threading.Lock = field(default_factory=threading.Lock)

    def enter(self, key: int) -> None:
        with self.lock:
            self.executions[key] += 1
            self.inside[key] += 1
            self.crowd = max(self.crowd, self.inside[key])

    def leave(self, key: int) -> None:
        with self.lock:
            self.inside[key] -= 1
            if self.failures[key]:
                self.failures[key] -= 1
                self.failed[key] += 1
                raise ValueError(key)


def value_of(key: int) -> list[int]:
    return [key, key * key]


world = World()  # of the example at hand. Not in a closure: what local tasks close over is part of their keys.
OPTIONS: dict[str, Any] = {"cache_policy": INPUTS, "cache_expiration": timedelta(seconds=LIFETIME)}


@task(**OPTIONS)
def compute(key: int, example: int) -> list[int]:
    world.enter(key)
    world.leave(key)
    return value_of(key)


@task(**OPTIONS)
async def compute_async(key: int, example: int) -> list[int]:
    world.enter(key)
    world.leave(key)
    return value_of(key)


def key_of(context: Any, parameters: dict[str, Any]) -> str:
    return f"{parameters['key']} of {parameters['example']}"


@task(cache_key_fn=key_of)
def dig(key: int, example: int, depth: int = 3) -> list[int]:
    """Asks for other keys inside, which may ask for this one again."""
    world.enter(key)
    for other in world.needs[key] if depth else ():
        assert dig(other, example, depth - 1) == value_of(other)
    world.leave(key)
    return value_of(key)


@task(cache_key_fn=key_of)
async def dig_async(key: int, example: int, depth: int = 3) -> list[int]:
    world.enter(key)
    for other in world.needs[key] if depth else ():
        assert await dig_async(other, example, depth - 1) == value_of(other)
    world.leave(key)
    return value_of(key)


HOWS: dict[str, Any] = {"submit": compute, "async": compute_async, "call": compute, "dig": dig, "dig async": dig_async}
fresh = compute.with_options(refresh_cache=True)


@flow(on_unobserved_failure="warn")
def main(this: Any, example: int) -> list[str]:
    """Make all calls of a round; what has come of them."""
    asked = [_ask(ask, example) for ask in this.asks]
    return [_end_of(one) if isinstance(one, _Asked) else one for one in asked]


def _ask(ask: Ask, example: int) -> Any:
    chosen = fresh if ask.refresh else HOWS[ask.how]
    if ask.how == "call":
        state = chosen(ask.key, example, return_state=True)
        return "failed" if state.is_failed() else _checked(ask.key, state.result())
    future = chosen.submit(ask.key, example)
    if ask.cancel:
        future.cancel()
    return _Asked(ask.key, future)


@pytest.fixture(autouse=True)
def new_world() -> None:
    world.__init__()  # type: ignore[misc]


class _Asked(NamedTuple):
    key: int
    future: Any


def _end_of(asked: _Asked) -> str:
    try:
        return _checked(asked.key, asked.future.result(timeout=PATIENCE))
    except CancelledRun:
        return "cancelled"
    except ValueError:
        return "failed"


def _checked(key: int, value: Any) -> str:
    assert value == value_of(key)
    return "value"


def draw_rounds(choose: random.Random, hows: tuple[str, ...], *, cancels: bool) -> list[Round]:
    keys = 1 + choose.randrange(3)
    rounds = []
    for _ in range(1 + choose.randrange(4)):
        asks = tuple(
            Ask(
                choose.randrange(keys),
                choose.choice(hows),
                refresh=choose.randrange(6) == 0,
                cancel=cancels and choose.randrange(4) == 0,
            )
            for _ in range(1 + choose.randrange(8))
        )
        failures = {key: max(0, choose.randrange(6) - 3) for key in range(keys)}
        rounds.append(Round(asks, failures, choose.choice((0.0, 4.0, 11.0))))
    return rounds


_examples = count()
RUNNERS: dict[str, Callable[[], TaskRunner]] = {
    "sequential": SequentialTaskRunner,
    "threads": ThreadPoolTaskRunner,
    "threads-1": lambda: ThreadPoolTaskRunner(max_workers=1),
    "threads-2": lambda: ThreadPoolTaskRunner(max_workers=2),
}


class Model:
    """How often each key is executed in a round: what is said here, and no more."""

    def __init__(self) -> None:
        self._good_until: dict[int, float] = {}

    def check(self, this: Round, now: float, ends: list[str]) -> None:
        for key in {ask.key for ask in this.asks}:
            mine = [(ask, end) for ask, end in zip(this.asks, ends, strict=True) if ask.key == key]
            plain = sum(not ask.refresh for ask, _ in mine)
            least, most = self._bounds(key, now, plain, len(mine) - plain, this.failures.get(key, 0))
            executed = world.executions[key]
            assert least <= executed <= most, f"{key}: executed {executed} times, not {least} to {most}"
            assert sum(end == "failed" for _, end in mine) == world.failed[key]
            if executed > world.failed[key]:
                self._good_until[key] = now + LIFETIME

    def _bounds(self, key: int, now: float, plain: int, refreshing: int, failures: int) -> tuple[int, int]:
        if self._good_until.get(key, 0.0) > now:
            return refreshing, refreshing
        least = max(refreshing, min(plain + refreshing, failures + 1))
        return least, refreshing + min(plain, failures + 1)


@pytest.mark.parametrize("name", RUNNERS)
def test_each_key_is_computed_as_often_as_it_must_be(name: str) -> None:
    for seed in range(25):
        choose = random.Random(f"{name} {seed}")
        rounds = draw_rounds(choose, ("submit", "submit", "call"), cancels=False)
        world.__init__()  # type: ignore[misc]
        model, clock, example = Model(), ManualClock(), next(_examples)
        running = main.with_options(task_runner=RUNNERS[name]())
        with clocks.use(clock):
            for this in rounds:
                world.failures, world.executions, world.failed = Counter(this.failures), Counter(), Counter()
                ends = running(this, example)
                try:
                    model.check(this, clock.now(), ends)
                except AssertionError as error:
                    error.add_note(f"with seed {seed}: {this}, {ends}")
                    raise
                clock.advance(this.rest)
        assert world.crowd <= 1


@pytest.mark.parametrize("name", RUNNERS)
def test_nobody_waits_for_ever(name: str) -> None:
    """With cancellations, coroutines, and keys that need each other, also in circles."""
    for seed in range(25):
        choose = random.Random(f"{name} {seed}")
        rounds = draw_rounds(choose, tuple(HOWS), cancels=True)
        world.__init__()  # type: ignore[misc]
        world.needs = {key: tuple(choose.sample(range(3), choose.randrange(3))) for key in range(3)}
        running, example = main.with_options(task_runner=RUNNERS[name]()), next(_examples)
        for this in rounds:
            world.failures = Counter()
            ends = running(this, example)
            for ask, end in zip(this.asks, ends, strict=True):
                assert end == "value" or (end == "cancelled" and ask.cancel), f"with seed {seed}: {this}, {ends}"
