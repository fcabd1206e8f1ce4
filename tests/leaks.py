"""What a test may leave behind: nothing. Threads and open files are compared before and after it."""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
import traceback
from collections import Counter
from dataclasses import dataclass

_KEPT = ("Dask-",)  # Dask's helpers for the whole process


@dataclass(frozen=True)
class Snapshot:
    threads: frozenset[threading.Thread]
    files: Counter[str]  # target of each descriptor -> how many descriptors lead there


def snapshot() -> Snapshot:
    return Snapshot(frozenset(threading.enumerate()), _open_files())


def since(before: Snapshot, grace: float = 1.0) -> list[str]:
    """Describe what is there now and was not `before`, after giving it `grace` seconds to go away."""
    deadline = time.monotonic() + grace
    turn = 0
    while found := _new_threads(before) + _new_files(before):
        if time.monotonic() >= deadline:
            return found
        turn += 1
        if turn % 4 == 0:
            gc.collect()  # an open file may only be waiting for a reference cycle to be collected
        time.sleep(0.001 * min(turn, 5))
    return []


def _new_threads(before: Snapshot) -> list[str]:
    return [
        f"thread {thread.name!r} (daemon={thread.daemon}) still runs:\n{_stack(thread)}"
        for thread in threading.enumerate()
        if thread not in before.threads and not thread.name.startswith(_KEPT)
    ]


def _stack(thread: threading.Thread) -> str:
    frame = sys._current_frames().get(thread.ident or 0)
    return "".join(traceback.format_stack(frame)) if frame else "  (ended meanwhile)\n"


def _new_files(before: Snapshot) -> list[str]:
    new = _open_files() - before.files - _tracker_pipe()
    if _is_on_ray():  # its connections to workers come and go
        new = Counter({target: count for target, count in new.items() if not target.startswith("socket:")})
    return [f"{count} descriptor(s) still open on {target}" for target, count in sorted(new.items())]


def _open_files() -> Counter[str]:
    try:
        descriptors = os.listdir("/proc/self/fd")
    except FileNotFoundError:  # no procfs on this system: threads are still compared
        return Counter()
    return Counter(target for fd in descriptors if (target := _target(fd)))


def _is_on_ray() -> bool:
    ray = sys.modules.get("ray")
    return ray is not None and ray.is_initialized()


def _target(fd: str) -> str | None:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except FileNotFoundError:  # the descriptor that listed the directory, or one closed meanwhile
        return None


def _tracker_pipe() -> Counter[str]:
    """The pipe to multiprocessing's resource tracker, which is started once and kept on purpose."""
    tracker = sys.modules.get("multiprocessing.resource_tracker")
    fd = tracker._resource_tracker._fd if tracker else None
    return Counter([_target(str(fd))]) if fd is not None else Counter()
