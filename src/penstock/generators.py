"""Generator tasks and flows called directly: they yield lazily, and the run lasts as long as the iteration."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator
from typing import TYPE_CHECKING, Any

from penstock._engine import drive
from penstock._engine.attempt import Call
from penstock._engine.stepping import Stepper

if TYPE_CHECKING:
    from penstock._engine.run import Run


def iterate(make_run: Callable[[], Run], return_state: bool, is_async: bool) -> Any:
    """A generator that carries out a run while it is iterated over."""
    if return_state:
        raise ValueError("return_state=True does not go with a generator: iterate over it, or use .submit()")
    return _iterate_async(make_run) if is_async else _iterate(make_run)


def _iterate(make_run: Callable[[], Run]) -> Generator[Any, Any, Any]:
    run = make_run()
    driver = drive.Blocking()
    request = driver.begin(run)
    while request is not None:
        if type(request) is Call:
            answer = yield from _body(request)
        else:
            answer = driver.carry_out(run, request)
        request = driver.go_on(run, answer)
    run.looked = True
    if driver.escaped is not None:
        raise driver.escaped
    return run.outcome(True)


def _body(call: Call) -> Generator[Any, Any, Any]:
    if not call.begin():
        return None
    stepper = Stepper(call)
    item = stepper.first()
    while not stepper.over:
        try:
            sent = yield item
        except GeneratorExit:
            stepper.close()
        except BaseException as thrown:
            item = stepper.throw(thrown)
        else:
            item = stepper.send(sent)
    return stepper.outcome()


async def _iterate_async(make_run: Callable[[], Run]) -> AsyncGenerator[Any, Any]:
    # An asynchronous generator cannot delegate to another one, so the body's loop stands here.
    run = make_run()
    driver = drive.Awaiting()
    request = driver.begin(run)
    while request is not None:
        if type(request) is not Call:
            request = driver.go_on(run, await driver.carry_out(run, request))
            continue
        stepper = Stepper(request)
        item = await stepper.first_async() if request.begin() else stepper.skip()
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
    run.looked = True
    if driver.escaped is not None:
        raise driver.escaped
    run.outcome(True)
