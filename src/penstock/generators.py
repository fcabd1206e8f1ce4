"""Generator tasks and flows called directly: they yield lazily, and the run lasts as long as the iteration."""

from __future__ import annotations

import weakref
from collections.abc import AsyncGenerator, Callable, Generator
from typing import TYPE_CHECKING, Any

from penstock._engine import drive
from penstock._engine.attempt import Call
from penstock._engine.stepping import Stepper
from penstock._raising import leave

if TYPE_CHECKING:
    from penstock._engine.run import Run


def iterate(make_run: Callable[[], Run], return_state: bool, is_async: bool) -> Any:
    """A generator that carries out a run while it is iterated over."""
    if return_state:
        raise ValueError("return_state=True does not go with a generator: iterate over it, or use .submit()")
    itself: list[Any] = []
    generator = _iterate_async(make_run, itself) if is_async else _iterate(make_run, itself)
    itself.append(weakref.ref(generator))
    return generator


# The loops stand in these two functions and not in one that they delegate to: closing a generator that delegates
# raises in it again whatever the inner one made of it, and an asynchronous one cannot delegate.


def _iterate(make_run: Callable[[], Run], itself: list[Any]) -> Generator[Any, Any, Any]:
    run = make_run()
    run.generator = itself[0]
    driver = drive.Blocking()
    request = driver.begin(run)
    while request is not None:
        if type(request) is not Call:
            request = driver.go_on(run, driver.carry_out(run, request))
            continue
        stepper = Stepper(request)
        item = None
        if request.begin():
            item = stepper.first()
        else:
            stepper.skip()
        while not stepper.over:
            try:
                sent = yield item
            except GeneratorExit:
                stepper.close()
            except BaseException as thrown:
                item = stepper.throw(thrown)
            else:
                item = stepper.send(sent)
        request = driver.go_on(run, stepper.outcome())
    try:
        return _answer(run, driver.escaped)
    except BaseException as error:
        leave(error)
        raise


async def _iterate_async(make_run: Callable[[], Run], itself: list[Any]) -> AsyncGenerator[Any, Any]:
    run = make_run()
    run.generator = itself[0]
    driver = drive.Awaiting()
    request = driver.begin(run)
    while request is not None:
        if type(request) is not Call:
            request = driver.go_on(run, await driver.carry_out(run, request))
            continue
        stepper = Stepper(request)
        item = None
        if request.begin():
            item = await stepper.first_async()
        else:
            stepper.skip()
        while not stepper.over:
            try:
                sent = yield item
            except GeneratorExit:
                await stepper.close_async()
            except BaseException as thrown:
                item = await stepper.step_async("athrow", thrown)
            else:
                item = await stepper.step_async("asend", sent)
        request = driver.go_on(run, stepper.outcome())
    try:
        _answer(run, driver.escaped)
    except BaseException as error:
        leave(error)
        raise


def _answer(run: Run, escaped: BaseException | None) -> Any:
    run.looked = True
    if escaped is not None:
        raise escaped
    return run.outcome(True)
