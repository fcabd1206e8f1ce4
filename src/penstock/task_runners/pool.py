"""Slots, a queue and threads: how calls are executed in this process.

The theory. A *slot* is the permission to execute one body. A pool has a fixed number of them. A thread that
finishes a body, or blocks inside one, hands its slot on: first to a thread that was blocked and may go on, then
to a queued call. So at most `size` bodies run at any time, and the pool cannot deadlock on bodies that wait for
each other: a blocked body holds no slot, only its thread.

The standard library's pool costs more per task, and it cannot give a blocked worker's slot back.

No lock is held on the way of a call. One that is taken by every submission and every end soon has a queue of its own:
whoever gets it waits for the interpreter lock next, and the other one, which has that, runs into the lock. Instead
slots, turns and calls lie in deques, whose ends are atomic, and every step is followed by a second look: work is put
down before a slot is looked for, and a slot is put down before work is looked for once more. So work and a free slot
cannot stay unaware of each other.
"""

from __future__ import annotations

import itertools
import threading
from _thread import allocate_lock
from collections import deque
from collections.abc import Callable

from penstock.task_runners.base import Call, here

IDLE_SECONDS = 10.0  # how long a thread without work is kept
_numbers = itertools.count(1)


class _Turn:
    """A body that was blocked and waits for a slot to go on."""

    __slots__ = ("come",)

    def __init__(self, come: Callable[[], None]) -> None:
        self.come = come


class Pool:
    """Executes calls on at most `size` slots; threads are created when needed and reused. Thread-safe."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.closed = False
        self._lock = allocate_lock()  # for workers that block or are written off
        self._free: deque[None] = deque([None] * size)
        self._turns: deque[_Turn] = deque()
        self._released: deque[Call] = deque()  # calls that had to wait for others: they go before fresh ones
        self._fresh: deque[Call] = deque()
        self._idle: list[Worker] = []

    def put(self, call: Call, released: bool = False) -> None:
        """Queue a call. Never waits for work to end."""
        worker = here.slot
        if released and isinstance(worker, Worker) and worker.inherits(self, call):
            return
        (self._released if released else self._fresh).append(call)
        if self._free:
            self._use_free_slot()

    def ask(self, come: Callable[[], None]) -> None:
        """Have `come` called when a body that was blocked may go on: now, or when its turn has come."""
        self._turns.append(_Turn(come))
        self._use_free_slot()

    def _use_free_slot(self) -> None:
        """There is work: if a slot is free, give it to whoever is first. Else whoever hands one on will."""
        try:
            self._free.pop()
        except IndexError:
            return
        self.hand_on()

    def hand_on(self) -> None:
        """A slot is at hand that its holder does not need any more, or not now."""
        while True:
            heir = self._heir()
            if heir is not None:
                self._give(heir)
                return
            self._free.append(None)
            if not (self._fresh or self._released or self._turns):
                return
            try:
                self._free.pop()
            except IndexError:  # somebody else was faster, and looks for work
                return

    def _heir(self) -> _Turn | Call | None:
        """Who gets the slot that is at hand; None: nobody waits for one."""
        if self._turns:
            try:
                return self._turns.popleft()
            except IndexError:  # another thread took the last one
                pass
        return _unclaimed(self._released) or _unclaimed(self._fresh)

    def _give(self, heir: _Turn | Call) -> None:
        if isinstance(heir, _Turn):
            heir.come()
        elif heir.needs_thread:
            self._wake(heir)
        else:
            heir.slot = _SlotWithoutThread(self)
            heir.perform()

    def _wake(self, call: Call) -> None:
        try:
            worker = self._idle.pop()
        except IndexError:
            Worker(self, call).start()
        else:
            worker.call = call
            worker.wake.release()

    @property
    def has_turns(self) -> bool:
        """Whether threads that were blocked wait for a slot: they go before everything else."""
        return bool(self._turns)

    def next_for(self, worker: Worker) -> Call | None:
        """The next call for a worker that has finished one; None: its slot is gone, and it is idle or must end."""
        heir = self._heir()
        if heir is not None and not isinstance(heir, _Turn) and heir.needs_thread:
            return heir
        self._idle.append(worker)
        if heir is not None:
            self._give(heir)
        else:
            self.hand_on()
        return None

    def get_slot(self, worker: Worker) -> None:
        """Wait until there is a slot for a worker that was blocked."""
        worker.holds_slot = True
        turn = allocate_lock()
        turn.acquire()
        self.ask(turn.release)
        turn.acquire()

    def take_slot_from(self, worker: Worker, *, for_good: bool = False) -> None:
        with self._lock:
            if worker.written_off:
                return
            worker.written_off = for_good
            held, worker.holds_slot = worker.holds_slot, False
        if held:
            self.hand_on()

    def retire(self, worker: Worker) -> bool:
        """Let an idle worker end; False if it has just been given a call."""
        try:
            self._idle.remove(worker)
        except ValueError:
            return False
        return True

    def close(self) -> None:
        """End the threads: idle ones now, others when they have finished their call. Does not wait for them."""
        self.closed = True
        while self._idle:
            try:
                self._idle.pop().wake.release()
            except IndexError:
                return


def _unclaimed(queue: deque[Call]) -> Call | None:
    """Take the next call that nobody has begun in passing."""
    while queue:
        try:
            call = queue.popleft()
        except IndexError:
            return None
        if not call.claimed:
            return call
    return None


class _SlotWithoutThread:
    """The slot of an asynchronous body, which runs on an event loop."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._held = True
        self._written_off = False

    def release(self) -> None:
        held, self._held = self._held, False
        if held:
            self._pool.hand_on()

    def acquire(self, granted: Callable[[], None]) -> None:
        if self._written_off:
            granted()
            return
        self._held = True
        self._pool.ask(granted)

    def write_off(self) -> None:
        self._written_off = True
        self.release()


class Worker(threading.Thread):
    """One thread of a pool, and the slot it holds. A daemon: a body that never ends must not keep Python alive."""

    def __init__(self, pool: Pool, call: Call) -> None:
        super().__init__(name=f"penstock-worker-{next(_numbers)}", daemon=True)
        self.call: Call | None = call
        self.wake = allocate_lock()
        self.wake.acquire()
        self.holds_slot = True
        self.written_off = False
        self._pool = pool
        self._reporting = False
        self._heir: Call | None = None

    def run(self) -> None:
        here.slot = self
        call = self.call
        while call is not None:
            self.call = None
            call.worker = self
            outcome = call.execute()
            self._reporting = True
            call.report(outcome)
            self._reporting = False
            call = outcome = None  # while it is idle, this thread must not keep a result alive
            if self.written_off:
                return
            heir, self._heir = self._heir, None
            call = heir or self._pool.next_for(self) or self._rest()

    def inherits(self, pool: Pool, call: Call) -> bool:
        """Take over a call that the end of this worker's body has released, without a change of threads."""
        if pool is not self._pool or not self._reporting or self._heir is not None or self.written_off:
            return False
        if pool.has_turns or not call.needs_thread:
            return False
        self._heir = call
        return True

    def _rest(self) -> Call | None:
        """Wait for the next call; None: it is time to end."""
        if self._pool.closed and self._pool.retire(self):
            return None
        while not self.wake.acquire(timeout=IDLE_SECONDS):
            if self._pool.retire(self):
                return None
        return self.call

    def release(self) -> None:
        """The body on this thread waits: its slot is somebody else's for as long."""
        heir, self._heir = self._heir, None
        if heir is not None:
            self._reporting = False  # what waits here now waits inside a callback: let others take the rest
            self._pool.put(heir, released=True)
        self._pool.take_slot_from(self)

    def acquire(self) -> None:
        """The body on this thread goes on; blocks until there is a slot for it."""
        if not self.written_off:
            self._pool.get_slot(self)

    def write_off(self) -> None:
        """Go on without this thread, which is stuck in a body."""
        self._pool.take_slot_from(self, for_good=True)
