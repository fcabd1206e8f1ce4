"""Bodies in other processes of this machine."""

from __future__ import annotations

import itertools
import mmap
import os
import signal
import socket
import subprocess
import sys
import threading
from _thread import allocate_lock
from collections.abc import Callable
from concurrent.futures import Future as StandardFuture
from typing import Any, NamedTuple, Self

from penstock import settings
from penstock._core import serial
from penstock.exceptions import WorkerLost
from penstock.store import owners
from penstock.task_runners.backlog import Backlog, apart, is_wanted
from penstock.task_runners.base import Call, Capabilities, TaskRunner
from penstock.task_runners.channel import MARKS, Channel, close_all, lay_out, new_marks, pick_up

_BATCH_SECONDS = 0.01  # about how long a worker is to be busy with what it is sent at once
_MOST = 256  # calls sent at once
_COMMONS = 4  # large arguments of maps that a process keeps
_ATTEMPTS = 3  # at sending calls to processes that are found dead
_LISTEN = 0.25  # seconds after which a process that says nothing is looked at
_LOOK = 0.05  # seconds after which what a worker is busy with is said to run
_NO_BUFFERS = serial.Packed(b"")
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

    capabilities = Capabilities(shares_memory=False, runs_async=True, can_kill=True, interrupts_calls=True)

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
        self._pool.put(call)
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
        self._backlog = Backlog(_BATCH_SECONDS, _MOST)
        self._work = threading.Condition()
        self._waiting = 0
        self._workers: list[Worker] = []

    def put(self, call: Any) -> None:
        with self._work:
            self._backlog.add(call)
            if not self._wake(1) and len(self._workers) < self.size:
                worker = Worker(self)
                self._workers.append(worker)
                worker.start()

    def put_back(self, calls: list[Any]) -> None:
        """Calls that a worker had and did not begin: they are next, but for those that are said to have begun."""
        calls = [call for call in calls if call.leave()]
        with self._work:
            self._backlog.add_back(calls)
            self._wake(len(calls))

    def _wake(self, number: int) -> int:
        """Wake so many of those who wait for work, and no one twice; how many there were."""
        number = min(number, self._waiting)
        self._waiting -= number
        self._work.notify(number)
        return number

    def take(self, most: int) -> list[Any]:
        """Wait for work; the calls that a worker is to have at once. Closed: an empty list."""
        with self._work:
            while not self.closed:
                if self._backlog:
                    return self._backlog.take(self.size, most)
                self._waiting += 1
                self._take_back()
                self._work.wait()
            return []

    def _take_back(self) -> None:
        """A worker is idle: whoever has more than it can begin now gives the rest back."""
        for worker in self._workers:
            worker.give_back()

    def note_speed(self, key: str, seconds: float) -> None:
        self._backlog.note_speed(key, seconds)

    def close(self) -> None:
        """End the workers; blocks until their processes are gone, but that of a worker that calls it.

        Nobody waits for what they still do.
        """
        with self._work:
            self.closed = True
            self._wake(self._waiting)
        for worker in self._workers:
            worker.end()
        for worker in self._workers:
            if worker is not threading.current_thread():  # which ends a flow run whose pool this is
                worker.join()


class Worker(threading.Thread):
    """The thread that looks after one worker process."""

    def __init__(self, pool: Pool) -> None:
        super().__init__(name=f"penstock-process-{next(_numbers)}", daemon=True)
        self._pool = pool
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None
        self._calls: dict[int, Any] = {}  # sent and not answered, in order
        self._numbers = itertools.count()
        self._marks: mmap.mmap | bytearray = bytearray(MARKS)  # shared with the process: which calls not to begin
        # What the process has been sent once and for all; kept, so that their ids stay theirs.
        self._homes: dict[int, serial.Packed] = {}
        self._commons: dict[int, serial.Packed] = {}
        self._served = 0
        self._asked_back = False
        self._begun = False  # the process has begun what it was sent
        self._early_deaths = 0  # in a row, before anything had begun
        self._killing = allocate_lock()

    # --- the thread -----------------------------------------------------------------------------------------------

    def run(self) -> None:
        while batch := self._pool.take(self._room()):
            batch = [call for call in batch if call.board(self)]
            try:
                self._serve(batch)
            except BaseException as error:  # whatever it is, the calls must not wait for ever
                self._give_up(batch, error)
        self._let_go()

    def _room(self) -> int:
        """How many calls the process may still be sent."""
        most = self._pool.most_calls
        if most is None:
            return _MOST
        if self._served >= most:
            self._let_go()
        return min(_MOST, most - self._served)

    def _give_up(self, batch: list[Any], error: BaseException) -> None:
        self._discard()
        self._calls.clear()
        if not isinstance(error, Exception):
            error = WorkerLost(f"The thread of a worker process ended with {type(error).__name__}", worker=self.name)
        for call in batch:
            if call.away is self:  # else another worker has it by now
                apart(call, call.refuse, error)

    def _serve(self, batch: list[Any]) -> None:
        parcels = [parcel for call in batch if (parcel := _pack(call)) is not None]
        if not self._send_to_living(parcels):
            return
        try:
            while self._calls:
                self._hear()
            self._forget()
        except (EOFError, OSError):
            self._mourn()

    def _send_to_living(self, parcels: list[Parcel]) -> bool:
        """Send calls to a process; if it turns out to be dead, none of them has begun, and the next one gets them."""
        if parcels and not parcels[0].call.claimed:
            parcels[0].call.start_away()
        for attempt in range(_ATTEMPTS):
            parcels = [parcel for parcel in parcels if is_wanted(parcel.call)]
            if not parcels:
                return False
            self._ensure_process()
            try:
                self._send(parcels)
                return True
            except OSError:
                if self._some_were_sent(parcels):
                    return True
                self._discard()
                if attempt == _ATTEMPTS - 1:
                    raise
        return False

    def _some_were_sent(self, parcels: list[Parcel]) -> bool:
        """The process has died while it was sent calls: those that it has not got are queued again."""
        sent = set(map(id, self._calls.values()))
        if not sent:
            return False
        kept = self._hand_back([call for call, *_ in parcels if id(call) not in sent])
        self._calls.update((next(self._numbers), call) for call in kept)  # `_mourn` sees to them
        return True

    def _hand_back(self, calls: list[Any]) -> list[Any]:
        """Let others have calls that this process has not begun; those that are said to have begun stay."""
        self._pool.put_back(calls)
        return [call for call in calls if call.away is self and is_wanted(call)]

    def _ensure_process(self) -> None:
        if self._process is not None and self._process.poll() is not None:
            self._discard()
        if self._process is None:
            self._start_process()

    def _send(self, parcels: list[Parcel]) -> None:
        for _, household, common, _ in parcels:
            self._introduce("home", self._homes, household)
            if common is not None:
                self._introduce("common", self._commons, common)
        small: dict[int, Any] = {}
        facts: list[Any] = []
        for call, household, common, visit in parcels:
            if not is_wanted(call):  # asked again: all that is above takes its time
                continue
            number = next(self._numbers)
            fact = (number, id(household), None if common is None else id(common), visit.data)
            if visit.buffers:
                self._send_calls(small, facts)  # they come first
                small, facts = {}, []
                self._send_calls({number: call}, [fact], visit)
            else:
                small[number] = call
                facts.append(fact)
        self._send_calls(small, facts)
        for number, call in list(self._calls.items()):
            if call.stopping:  # the channel may have been too busy to say so
                self._the_channel.send(("stop", number, call.run.id))

    def _send_calls(self, calls: dict[int, Any], facts: list[Any], visit: serial.Packed = _NO_BUFFERS) -> None:
        if not calls:
            return
        # Later ones have begun when those before them are answered; of the first, the process has to say so.
        announced = not self._calls
        if announced:
            self._begun = False
        for number in calls:
            self._marks[number % MARKS] = 0
        self._calls.update(calls)  # before they are sent: a request to stop must find them
        try:
            self._send_with_buffers(("calls", facts, announced), visit)
        except OSError:
            for number in calls:
                del self._calls[number]
            raise

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
        """Take in one message; if none comes for a while, what the process is busy with is running, or it is dead."""
        running = next(iter(self._calls.values()))
        heard = self._the_channel.receive(_LISTEN if running.claimed else _LOOK)
        if heard is not None:
            message, descriptors = heard
            getattr(self, f"_on_{message[0]}")(descriptors, *message[1:])
        elif not running.claimed:
            running.start_away()
        elif self._process is None or self._process.poll() is not None:
            raise EOFError  # a child of its own may keep the socket open

    def _on_begun(self, descriptors: list[int]) -> None:
        self._begun = True
        self._early_deaths = 0

    def _on_back(self, descriptors: list[int], numbers: list[int]) -> None:
        self._asked_back = False
        returned = [self._calls.pop(number) for number in numbers]
        self._send([Parcel(call, *call.pack()) for call in self._hand_back(returned)])

    def _on_note(self, descriptors: list[int], message: Any) -> None:
        next(iter(self._calls.values())).note(message)

    def _on_done(self, descriptors: list[int], number: int, data: bytes) -> None:
        call = self._calls.pop(number)
        self._served += 1
        self._begun = True
        try:
            report = serial.unpack(pick_up(data, descriptors))
        except Exception as error:
            call.refuse(error)
            return
        self._pool.note_speed(call.key, report[-1] - report[-2])  # a report ends with its beginning and its end
        apart(call, call.arrive, report)

    def _on_refused(self, descriptors: list[int], number: int, data: bytes) -> None:
        call = self._calls.pop(number)
        self._served += 1
        self._begun = True
        apart(call, call.refuse, serial.unpack(serial.Packed(data)))

    def _mourn(self) -> None:
        """The process is gone: the call that it was executing is lost, the others were not begun."""
        exitcode = self._discard()
        calls, self._calls = list(self._calls.values()), {}
        if not calls:
            return
        if not self._begun and self._early_deaths < _ATTEMPTS:
            self._early_deaths += 1
            self._serve(self._hand_back(calls))
            return
        lost, *rest = calls
        died = f"signal {-exitcode} ({signal.Signals(-exitcode).name})" if exitcode < 0 else f"exit code {exitcode}"
        apart(lost, lost.lose, WorkerLost(f"Worker process died: {died}", exitcode=exitcode, worker=self.name))
        self._serve(self._hand_back(rest))

    # --- the process ----------------------------------------------------------------------------------------------

    def _start_process(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            code = f"from penstock.task_runners.worker import main; main({theirs.fileno()})"
            command = [sys.executable, *subprocess._args_from_interpreter_flags(), "-P", "-c", code]  # type: ignore[attr-defined]
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])
        self._channel = Channel(ours)
        self._marks, descriptor = new_marks()
        self._the_channel.send(("marks",), [descriptor])
        os.close(descriptor)
        packed = serial.pack(self._pool.initializer, "initializer")
        self._send_with_buffers(("init", owners.ties(), sys.path, packed.data), packed)
        self._await_readiness()

    def _await_readiness(self) -> None:
        heard = None
        try:
            while heard is None:
                heard = self._the_channel.receive(_LISTEN)
                if self._pool.closed:
                    raise EOFError
        except (EOFError, OSError):
            exitcode = self._discard()
            message = f"A worker process ended before it was ready, with exit code {exitcode}"
            raise WorkerLost(message, exitcode=exitcode, worker=self.name) from None
        (kind, *content), _ = heard
        if kind == "unfit":
            self._discard()
            raise serial.unpack(serial.Packed(content[0]))

    def _discard(self) -> int:
        """Clear away a process that has ended, or is to; its exit code."""
        with self._killing:
            process, self._process = self._process, None
        channel, self._channel = self._channel, None
        self._marks = bytearray(MARKS)  # whoever still marks a call marks nothing; the memory, and its file, are let go
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
            self._marks[number % MARKS] = 1  # it is not begun, from this moment on
            channel.send_if_free(("stop", number, call.run.id))

    def give_back(self) -> None:
        """Have the process return what it has not begun."""
        channel = self._channel
        if channel is None or self._asked_back or len(self._calls) < 2:
            return
        self._asked_back = channel.send_if_free(("back",))

    def kill(self, call: Any) -> None:
        with self._killing:
            if self._process is not None and call.away is self:
                self._process.kill()

    def where(self, call: Any) -> str:
        return f"worker process {self.name}"

    def end(self) -> None:
        """Nobody waits for what the process still does."""
        if self._calls:
            with self._killing:
                if self._process is not None:
                    self._process.kill()


class Parcel(NamedTuple):
    """A call with what is to be sent of it."""

    call: Any
    household: serial.Packed
    common: serial.Packed | None
    visit: serial.Packed


def _pack(call: Any) -> Parcel | None:
    """None, if that cannot be done: then the call has failed."""
    try:
        return Parcel(call, *call.pack())
    except Exception as error:
        apart(call, call.refuse, error)
        return None
