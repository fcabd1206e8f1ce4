"""Locks by name: one holder at a time, and none that is dead."""

from __future__ import annotations

import copy
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from penstock.locking import FileSystemLockManager, MemoryLockManager

Manager = MemoryLockManager | FileSystemLockManager


@pytest.fixture(params=["memory", "files"])
def locks(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    manager: Manager = MemoryLockManager() if request.param == "memory" else FileSystemLockManager(tmp_path / "locks")
    yield manager
    for key in ("key", "other"):
        for holder in ("me", "you"):
            if manager.is_lock_holder(key, holder):
                manager.release_lock(key, holder)


def test_one_holder_at_a_time(locks: Manager) -> None:
    assert not locks.is_locked("key")
    assert locks.acquire_lock("key", "me")
    assert locks.is_locked("key")
    assert locks.is_lock_holder("key", "me") and not locks.is_lock_holder("key", "you")
    assert not locks.acquire_lock("key", "you", acquire_timeout=0)
    assert not locks.acquire_lock("key", "you", acquire_timeout=0.01)
    assert not locks.wait_for_lock("key", timeout=0)
    assert locks.acquire_lock("other", "you", acquire_timeout=0)
    locks.release_lock("key", "me")
    assert not locks.is_locked("key") and locks.wait_for_lock("key")
    assert locks.acquire_lock("key", "you", acquire_timeout=0)
    locks.release_lock("key", "you")
    locks.release_lock("other", "you")


def test_the_same_holder_has_it_still(locks: Manager) -> None:
    assert locks.acquire_lock("key", "me")
    assert locks.acquire_lock("key", "me", acquire_timeout=0)
    locks.release_lock("key", "me")
    assert not locks.is_locked("key")


def test_who_does_not_hold_it_cannot_release_it(locks: Manager) -> None:
    with pytest.raises(ValueError, match="'me' does not hold the lock 'key'"):
        locks.release_lock("key", "me")
    locks.acquire_lock("key", "me")
    with pytest.raises(ValueError):
        locks.release_lock("key", "you")
    assert locks.is_lock_holder("key", "me")


def test_waiting_threads_take_turns(locks: Manager) -> None:
    inside, most, total = [0], [0], [0]

    def work(number: int) -> None:
        for _ in range(20):
            assert locks.acquire_lock("key", str(number), acquire_timeout=30)
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            total[0] += 1
            inside[0] -= 1
            locks.release_lock("key", str(number))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most[0], total[0]) == (1, 120)


def test_held_no_longer_than_allowed(locks: Manager) -> None:
    assert locks.acquire_lock("key", "me", hold_timeout=0.02)
    assert locks.acquire_lock("key", "you", acquire_timeout=10)
    assert not locks.is_lock_holder("key", "me")
    with pytest.raises(ValueError):
        locks.release_lock("key", "me")
    assert locks.is_lock_holder("key", "you")


def test_a_new_limit_replaces_the_old(locks: Manager) -> None:
    assert locks.acquire_lock("key", "me", hold_timeout=1000)
    assert locks.acquire_lock("key", "me", hold_timeout=0.01)
    assert locks.wait_for_lock("key", timeout=10)


def test_a_limit_of_the_past_does_not_end_a_new_hold(locks: Manager) -> None:
    locks.acquire_lock("key", "me", hold_timeout=0.02)
    locks.release_lock("key", "me")
    locks.acquire_lock("key", "me")
    assert not locks.wait_for_lock("key", timeout=0.06)
    assert locks.is_lock_holder("key", "me")


def test_waiting_ends_when_it_is_released(locks: Manager) -> None:
    locks.acquire_lock("key", "me")
    waiting = threading.Event()
    results: list[bool] = []

    def wait() -> None:
        waiting.set()
        results.append(locks.wait_for_lock("key", timeout=30))

    thread = threading.Thread(target=wait)
    thread.start()
    waiting.wait()
    locks.release_lock("key", "me")
    thread.join()
    assert results == [True] and not locks.is_locked("key")


# --- in memory ---


def test_there_is_one_in_memory() -> None:
    assert MemoryLockManager() is MemoryLockManager()
    assert pickle.loads(pickle.dumps(MemoryLockManager())) is MemoryLockManager()
    assert copy.deepcopy(MemoryLockManager()) is MemoryLockManager()


# --- in files ---

HOLDER = """
import sys
from penstock.locking import FileSystemLockManager
locks = FileSystemLockManager(sys.argv[1])
assert locks.acquire_lock("key", sys.argv[2])
print("held", flush=True)
sys.stdin.readline()
locks.release_lock("key", sys.argv[2])
print("released", flush=True)
sys.stdin.readline()
"""


@contextmanager
def another_process(directory: Path, holder: str = "they") -> Iterator[Any]:
    command = [sys.executable, "-c", HOLDER, str(directory), holder]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_between_processes(tmp_path: Path) -> None:
    locks = FileSystemLockManager(tmp_path)
    with another_process(tmp_path) as process:
        assert locks.is_locked("key") and locks.is_lock_holder("key", "they") and not locks.is_locked("other")
        assert not locks.acquire_lock("key", "me", acquire_timeout=0)
        # A name is no proof: two processes that call themselves the same are still two.
        assert not locks.acquire_lock("key", "they", acquire_timeout=0)
        with pytest.raises(ValueError):
            locks.release_lock("key", "they")
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "released\n"
        assert not locks.is_locked("key")
        assert locks.acquire_lock("key", "me", acquire_timeout=0)
        locks.release_lock("key", "me")


def test_death_releases(tmp_path: Path) -> None:
    locks = FileSystemLockManager(tmp_path)
    with another_process(tmp_path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not locks.is_locked("key") and not locks.is_lock_holder("key", "they")
        assert locks.acquire_lock("key", "me", acquire_timeout=0)
        locks.release_lock("key", "me")


def test_a_forked_child_holds_nothing(tmp_path: Path) -> None:
    """A copy of the descriptor in a child would keep the lock when the holder dies, and be of no use to it."""
    locks = FileSystemLockManager(tmp_path)
    memory = MemoryLockManager()
    locks.acquire_lock("key", "me")
    memory.acquire_lock("key", "me")
    heard, said = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover
        seen = [
            locks.is_lock_holder("key", "me"),
            locks.acquire_lock("key", "child", acquire_timeout=0),
            len([fd for fd in os.listdir("/proc/self/fd") if "lock" in link_of(fd)]),
            memory.is_locked("key"),
        ]
        os.write(said, repr(seen).encode())
        os._exit(0)
    os.waitpid(child, 0)
    found = os.read(heard, 1000).decode()
    os.close(heard)
    os.close(said)
    # The parent's lock is still seen, and named, but not the child's.
    assert found == repr([True, False, 0, False])
    assert locks.is_lock_holder("key", "me")
    locks.release_lock("key", "me")
    memory.release_lock("key", "me")


def link_of(descriptor: str) -> str:
    try:
        return os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}"))
    except FileNotFoundError:
        return ""


def test_managers_of_one_directory_are_one(tmp_path: Path) -> None:
    locks = FileSystemLockManager(tmp_path)
    locks.acquire_lock("key", "me")
    for twin in (FileSystemLockManager(str(tmp_path)), pickle.loads(pickle.dumps(locks)), copy.deepcopy(locks)):
        assert twin.is_lock_holder("key", "me") and twin.acquire_lock("key", "me", acquire_timeout=0)
        assert not twin.acquire_lock("key", "you", acquire_timeout=0)
    FileSystemLockManager(tmp_path).release_lock("key", "me")
    assert not locks.is_locked("key")


@pytest.mark.parametrize("key", ["", "../../x", "/etc/passwd", "a\0b", "\ud800", "x" * 100_000])
def test_any_text_is_a_key(tmp_path: Path, key: str) -> None:
    locks = FileSystemLockManager(tmp_path / "locks")
    assert locks.acquire_lock(key, "\ud800")
    assert locks.is_lock_holder(key, "\ud800")
    (file,) = (tmp_path / "locks").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600 and file.parent.stat().st_mode & 0o777 == 0o700
    locks.release_lock(key, "\ud800")
    assert list((tmp_path / "locks").iterdir()) == []


def test_a_lock_that_was_released_while_it_was_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file that was opened is deleted by then: a lock on it would exclude nobody."""
    locks, other = FileSystemLockManager(tmp_path), "other"
    locks.acquire_lock("key", "me")
    original, done = os.open, []

    def release_after_opening(path: Any, *args: Any, **kwargs: Any) -> int:
        descriptor = original(path, *args, **kwargs)
        if not done and str(path).endswith(".lock"):
            done.append(path)
            held = process.stdin
            held.write("\n")
            held.flush()
            assert process.stdout.readline() == "released\n"
        return descriptor

    locks.release_lock("key", "me")
    with another_process(tmp_path) as process:
        monkeypatch.setattr(os, "open", release_after_opening)
        assert locks.acquire_lock("key", other)
        monkeypatch.undo()
        assert done
        (file,) = tmp_path.iterdir()
        check = "import fcntl, sys; fcntl.flock(open(sys.argv[1]), fcntl.LOCK_EX | fcntl.LOCK_NB)"
        taken = subprocess.run([sys.executable, "-c", check, str(file)], capture_output=True, timeout=30)
        assert b"BlockingIOError" in taken.stderr
        locks.release_lock("key", other)


def test_a_full_disk_leaves_no_lock_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "full")

    locks = FileSystemLockManager(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match="full"):
            locks.acquire_lock("key", "me")
    assert not locks.is_locked("key")
    assert locks.acquire_lock("key", "you", acquire_timeout=0)
    locks.release_lock("key", "you")
