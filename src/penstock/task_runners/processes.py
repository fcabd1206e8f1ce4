"""Bodies in other processes of this machine."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
from _thread import allocate_lock
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future as StandardFuture
from typing import Any, Self

from penstock import settings
from penstock._core import serial
from penstock.exceptions import SerializationError, WorkerLost
from penstock.task_runners.base import Call, Capabilities, TaskRunner
from penstock.task_runners.channel import Channel, close_all, lay_out, pick_up

_BATCH_SECONDS = 0.01  # about how long a worker is to be busy with what it is sent at once
_MOST = 256  # calls sent at once
_COMMONS = 4  # large arguments of maps that a process keeps
_LOOK = 0.05  # seconds after which what a worker is busy with is said to run
_numbers = itertools.count(1)


class ProcessPoolTaskRunner(TaskRunner):
    """Executes tasks in processes of their own: for work that keeps the interpreter busy.

    Processes are started when there is work, never by forking, and used again. Functions and arguments are pickled,
    those of a script or notebook by value, so a script needs no `if __name__ == "__main__":`. Small tasks travel in
    batches, large buffers through shared memory. A worker that dies costs the task that it was executing one attempt
    and is replaced. Time limits and cancellation end the worker's process, if they must.

    Args:
        max_workers: How many processes; None: the setting `PENSTOCK_TASKS_RUNNER_PROCESS_POOL_MAX_WORKERS`, else the
            number of CPUs.
        initializer: Called with `initargs` in every process before its first task. If it raises, tasks fail with that.
        max_tasks_per_child: Tasks after which a process is replaced by a new one; None: never.
        mp_context: "spawn" or "forkserver", which mean the same here: a fresh interpreter.

    Raises `ValueError` for sizes that are no integers of at least 1 and for other contexts.
    """

    capabilities = Capabilities(shares_memory=False, runs_async=True, can_kill=True)

    def __init__(
        self,
        max_workers: int | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        max_tasks_per_child: int | None = None,
        mp_context: str = "spawn",
    ) -> None:
        for name, value in (("max_workers", max_workers), ("max_tasks_per_child", max_tasks_per_child)):
            if value is not None and (type(value) is not int or value < 1):
                raise ValueError(f"{name} must be greater than 0, as an int; got {value!r}")
        if initializer is not None and not callable(initializer):
            raise TypeError("'initializer' must be callable")
        if mp_context not in ("spawn", "forkserver"):
            raise ValueError(
                f"mp_context must be 'spawn' or 'forkserver', got {mp_context!r}: threads do not survive a fork"
            )
        self.max_workers = max_workers
        self.initializer = initializer
        self.initargs = tuple(initargs)
        self.max_tasks_per_child = max_tasks_per_child
        self.mp_context = mp_context
        self._pool: Pool | None = None

    @property
    def slots(self) -> int:
        return self.max_workers or settings.current().tasks_runner_process_pool_max_workers or os.cpu_count() or 1

    def start(self) -> None:
        self._pool = Pool(self.slots, self.initializer, self.initargs, self.max_tasks_per_child)

    def execute(self, call: Call) -> StandardFuture[Any] | None:
        assert self._pool is not None
        self._pool.put(call, call.was_released)
        return None

    def close(self, *, cancel: bool = False) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()

    def duplicate(self) -> Self:
        return type(self)(
            self.max_workers,
            self.initializer,
            self.initargs,
            max_tasks_per_child=self.max_tasks_per_child,
            mp_context=self.mp_context,
        )

    def _settings(self) -> tuple[Any, ...]:
        return self.max_workers, self.initializer, self.initargs, self.max_tasks_per_child, self.mp_context

    def __repr__(self) -> str:
        return f"{type(self).__name__}(max_workers={self.max_workers})"


class Pool:
    """A queue of calls and the workers that empty it. Thread-safe.

    Each worker has a thread here, which sends it calls and hears what became of them. Such threads are started when
    there is more work than threads that wait for it.
    """

    def __init__(self, size: int, initializer: Any, initargs: tuple[Any, ...], most_calls: int | None) -> None:
        self.size = size
        self.most_calls = most_calls
        self.initializer = initializer, initargs
        self.closed = False
        self.seconds_per_call: dict[str, float] = {}  # by task, measured
        self._released: deque[Any] = deque()
        self._fresh: deque[Any] = deque()
        self._work = threading.Condition()
        self._waiting = 0
        self._workers: list[Worker] = []

    def put(self, call: Any, released: bool) -> None:
        with self._work:
            (self._released if released else self._fresh).append(call)
            if self._waiting:
                self._work.notify()
            elif len(self._workers) < self.size:
                worker = Worker(self)
                self._workers.append(worker)
                worker.start()

    def put_back(self, calls: list[Any]) -> None:
        """Calls that a worker had and did not begin: they are next."""
        with self._work:
            self._released.extendleft(reversed(calls))
            self._work.notify(len(calls))

    def take(self) -> list[Any]:
        """Wait for work; the calls that a worker is to have at once. None left and closed: an empty list."""
        with self._work:
            while not (self._released or self._fresh):
                if self.closed:
                    return []
                self._waiting += 1
                self._take_back()
                self._work.wait()
                self._waiting -= 1
            return self._batch(self._released or self._fresh)

    def _take_back(self) -> None:
        """A worker is idle: whoever has more than it can begin now gives the rest back."""
        for worker in self._workers:
            worker.give_back()

    def _batch(self, queue: deque[Any]) -> list[Any]:
        first = queue.popleft()
        batch = [first]
        if first.in_a_hurry:
            return batch
        seconds = self.seconds_per_call.get(first.key)
        size = 1 if seconds is None else int(_BATCH_SECONDS / max(seconds, 1e-6))
        # A fair share at most: the others are not to be idle at the end.
        size = min(size, _MOST, len(queue) // (2 * self.size))
        while len(batch) < size and queue and queue[0].key == first.key and not queue[0].in_a_hurry:
            batch.append(queue.popleft())
        return batch

    def note_speed(self, key: str, seconds: float) -> None:
        before = self.seconds_per_call.get(key, seconds)
        # Slowness counts at once, quickness gradually: a batch that is too long holds others up.
        self.seconds_per_call[key] = max(seconds, 0.8 * before + 0.2 * seconds)

    def close(self) -> None:
        """End the workers; blocks until their processes are gone. Nobody waits for what they still do."""
        with self._work:
            self.closed = True
            self._work.notify_all()
        for worker in self._workers:
            worker.end()
        for worker in self._workers:
            worker.join()


class Worker(threading.Thread):
    """The thread that looks after one worker process."""

    def __init__(self, pool: Pool) -> None:
        super().__init__(name=f"penstock-process-{next(_numbers)}", daemon=True)
        self._pool = pool
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None
        self._calls: dict[int, Any] = {}  # sent and not answered, in order
        # What the process has been sent once and for all; kept, so that their ids stay theirs.
        self._homes: dict[int, serial.Packed] = {}
        self._commons: dict[int, serial.Packed] = {}
        self._served = 0
        self._asked_back = False
        self._killing = allocate_lock()

    # --- the thread -----------------------------------------------------------------------------------------------

    def run(self) -> None:
        while batch := self._pool.take():
            batch = [call for call in batch if not call.claimed]
            if batch and self._has_process(batch):
                self._serve(batch)
        self._let_go()

    def _has_process(self, batch: list[Any]) -> bool:
        """Start a process if there is none; if that fails, the calls fail with it."""
        if self._process is not None and self._pool.most_calls is not None and self._served >= self._pool.most_calls:
            self._let_go()
        if self._process is not None:
            return True
        try:
            self._start_process()
        except Exception as error:
            self._discard()
            for call in batch:
                _call_apart(call, call.refuse, error)
            return False
        return True

    def _serve(self, batch: list[Any]) -> None:
        try:
            self._send(batch)
            while self._calls:
                self._hear()
            self._forget()
        except (EOFError, OSError):
            self._mourn()

    def _send(self, batch: list[Any]) -> None:
        packed = []
        for position, call in enumerate(batch):
            if position == 0 and not call.start_away():
                continue
            try:
                packed.append((call, *call.pack()))
            except SerializationError as error:
                call.refuse(error)
        small = []
        for call, household, common, visit in packed:
            number = next(_numbers)
            self._introduce("home", self._homes, household)
            if common is not None:
                self._introduce("common", self._commons, common)
            self._calls[number] = call
            call.away = self
            facts = (number, id(household), None if common is None else id(common), visit.data)
            if visit.buffers:
                self._send_with_buffers(("call", *facts), visit)
            else:
                small.append(facts)
        if small:
            self._the_channel.send(("calls", small))

    def _introduce(self, kind: str, known: dict[int, serial.Packed], packed: serial.Packed) -> None:
        """Send what many calls refer to, unless the process has it."""
        if id(packed) not in known:
            known[id(packed)] = packed
            self._send_with_buffers((kind, id(packed), packed.data), packed)

    def _forget(self) -> None:
        """Large arguments of maps that are over, or may be: only the latest are kept."""
        while len(self._commons) > _COMMONS:
            key = next(iter(self._commons))
            del self._commons[key]
            self._the_channel.send(("forget", key))

    def _send_with_buffers(self, message: Any, packed: serial.Packed) -> None:
        descriptors = lay_out(packed)
        try:
            self._the_channel.send(message, descriptors)
        finally:
            close_all(descriptors)

    @property
    def _the_channel(self) -> Channel:
        if self._channel is None:
            raise EOFError
        return self._channel

    def _hear(self) -> None:
        """Take in one message; if none comes for a while, what the process is busy with is running."""
        running = next(iter(self._calls.values()))
        heard = self._the_channel.receive(None if running.claimed else _LOOK)
        if heard is None:
            running.start_away()
            return
        message, descriptors = heard
        getattr(self, f"_on_{message[0]}")(descriptors, *message[1:])

    def _on_back(self, descriptors: list[int], numbers: list[int]) -> None:
        self._asked_back = False
        returned = [self._calls.pop(number) for number in numbers]
        self._pool.put_back([call for call in returned if not call.claimed])

    def _on_note(self, descriptors: list[int], message: Any) -> None:
        next(iter(self._calls.values())).note(message)

    def _on_done(self, descriptors: list[int], number: int, data: bytes) -> None:
        call = self._calls.pop(number)
        self._served += 1
        try:
            report = serial.unpack(pick_up(data, descriptors))
        except Exception as error:
            call.refuse(error)
            return
        self._pool.note_speed(call.key, report[-1] - report[-2])  # a report ends with its beginning and its end
        _call_apart(call, call.arrive, report)

    def _on_refused(self, descriptors: list[int], number: int, data: bytes) -> None:
        call = self._calls.pop(number)
        self._served += 1
        _call_apart(call, call.refuse, serial.unpack(serial.Packed(data)))

    def _mourn(self) -> None:
        """The process is gone: the call that it was executing is lost, the others were not begun."""
        exitcode = self._discard()
        calls, self._calls = list(self._calls.values()), {}
        if not calls:
            return
        lost, *rest = calls
        self._pool.put_back([call for call in rest if not call.claimed])
        died = f"signal {-exitcode} ({signal.Signals(-exitcode).name})" if exitcode < 0 else f"exit code {exitcode}"
        _call_apart(lost, lost.lose, WorkerLost(f"Worker process died: {died}", exitcode=exitcode, worker=self.name))

    # --- the process ----------------------------------------------------------------------------------------------

    def _start_process(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            code = f"from penstock.task_runners.worker import main; main({theirs.fileno()})"
            command = [sys.executable, *subprocess._args_from_interpreter_flags(), "-c", code]  # type: ignore[attr-defined]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])
        self._channel = Channel(ours)
        packed = serial.pack(self._pool.initializer, "initializer")
        self._send_with_buffers(("init", sys.path, packed.data), packed)
        self._await_readiness()

    def _await_readiness(self) -> None:
        try:
            message, _ = self._the_channel.receive()
        except EOFError:
            exitcode = self._discard()
            raise WorkerLost(
                f"A worker process ended before it was ready, with exit code {exitcode}", exitcode=exitcode
            ) from None
        if message[0] == "unfit":
            raise serial.unpack(serial.Packed(message[1]))

    def _discard(self) -> int:
        """Clear away a process that has ended, or is to; its exit code."""
        with self._killing:
            process, self._process = self._process, None
        channel, self._channel = self._channel, None
        self._homes.clear()
        self._commons.clear()
        self._asked_back = False
        self._served = 0
        if channel is not None:
            channel.close()
        if process is None:
            return 0
        process.kill()
        return process.wait()

    def _let_go(self) -> None:
        """End an idle process."""
        try:
            self._the_channel.send(("end",))
            assert self._process is not None
            self._process.wait(1)
        except (EOFError, OSError, subprocess.TimeoutExpired):
            pass
        self._discard()

    # --- from other threads ---------------------------------------------------------------------------------------

    def ask_to_stop(self, call: Any) -> None:
        number = next((number for number, other in list(self._calls.items()) if other is call), None)
        channel = self._channel
        if number is not None and channel is not None:
            channel.send_if_free(("stop", number, call.run.id))

    def give_back(self) -> None:
        """Have the process return what it has not begun."""
        channel = self._channel
        if channel is None or self._asked_back or len(self._calls) < 2:
            return
        self._asked_back = channel.send_if_free(("back",))

    def kill(self, call: Any) -> None:
        with self._killing:
            if self._process is not None and any(other is call for other in list(self._calls.values())):
                self._process.kill()

    def end(self) -> None:
        """Nobody waits for what the process still does."""
        if self._calls:
            with self._killing:
                if self._process is not None:
                    self._process.kill()


def _call_apart(call: Any, action: Callable[[Any], object], argument: Any) -> None:
    """What follows a body may wait for other calls of this very worker, if it calls user code: not on this thread."""
    if call.may_block:
        threading.Thread(target=action, args=(argument,), name="penstock-aside", daemon=True).start()
    else:
        action(argument)
