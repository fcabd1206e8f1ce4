"""Messages between a process and its workers, over a socket that only the two of them have.

A message is a pickled tuple of plain data, in which pickles of the user's values are bytes: reading a message never
executes anybody's code. Large buffers lie in anonymous memory whose descriptors travel with the message. The kernel
frees such memory when the last process that has it is gone, however it went: there is nothing to clean up.
"""

from __future__ import annotations

import mmap
import os
import pickle
import resource
import select
import socket
import struct
import tempfile
import threading
from collections import deque
from typing import Any
from weakref import WeakSet

from penstock._core.serial import MOST_BUFFERS, Packed

_HEADER = struct.Struct("!QH")  # bytes of the message, descriptors that belong to it
_CHUNK = 1 << 18
_MOMENT = 0.05  # seconds: another small message takes a thousandth of that
_MOST_MAPPED = 64  # buffers at a time, and a quarter of the descriptors that the process may have: each keeps one open

MARKS = 4096  # calls, several times as many as one process has at a time


class Channel:
    """One end. `send` is thread-safe; `receive` is for one thread."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._sending = threading.Lock()
        self._poll = select.poll()
        self._poll.register(end, select.POLLIN)
        self._data = bytearray()
        self._descriptors: deque[int] = deque()

    def send(self, message: Any, descriptors: list[int] | None = None) -> None:
        """Raises `OSError` if the other end is gone."""
        body = pickle.dumps(message, 5)
        header = _HEADER.pack(len(body), len(descriptors or ()))
        with self._sending:
            if descriptors:
                socket.send_fds(self._socket, [header], descriptors)
                self._socket.sendall(body)
            else:
                self._socket.sendall(header + body)

    def send_if_free(self, message: Any) -> bool:
        """Send a small message unless a large one is on its way: for threads that must not wait. False if it is."""
        if not self._sending.acquire(timeout=_MOMENT):
            return False
        try:
            body = pickle.dumps(message, 5)
            self._socket.sendall(_HEADER.pack(len(body), 0) + body)
        except OSError:
            return False  # the other end is gone, which the thread that receives will notice
        finally:
            self._sending.release()
        return True

    def receive(self, timeout: float | None = None) -> Any:
        """The next message with its descriptors; None after `timeout` seconds; raises `EOFError` at the end."""
        while True:
            message = self._next_message()
            if message is not None:
                return message
            if timeout is not None and not self._poll.poll(timeout * 1000):
                return None
            self._read()

    def _read(self) -> None:
        data, descriptors, _, _ = socket.recv_fds(self._socket, _CHUNK, MOST_BUFFERS)
        self._descriptors.extend(descriptors)
        if not data:
            raise EOFError
        self._data += data

    def _next_message(self) -> Any:
        if len(self._data) < _HEADER.size:
            return None
        size, count = _HEADER.unpack_from(self._data)
        end = _HEADER.size + size
        if len(self._data) < end:
            return None
        message = pickle.loads(memoryview(self._data)[_HEADER.size : end])
        del self._data[:end]
        return message, [self._descriptors.popleft() for _ in range(count)]

    def close(self) -> None:
        self._socket.close()
        while self._descriptors:
            os.close(self._descriptors.popleft())


def lay_out(packed: Packed) -> list[int]:
    """Copy the buffers of a pickle into anonymous memory; the descriptors, which the caller must close."""
    descriptors: list[int] = []
    try:
        for buffer in packed.buffers:
            descriptor = _anonymous()
            descriptors.append(descriptor)
            rest = buffer.raw()
            while rest.nbytes:
                rest = rest[os.write(descriptor, rest) :]
    except BaseException:
        close_all(descriptors)
        raise
    return descriptors


def pick_up(data: bytes, descriptors: list[int]) -> Packed:
    """The pickle again, with its buffers mapped: nothing is copied until somebody writes. Closes the descriptors."""
    try:
        return Packed(data, [_mapped(descriptor) for descriptor in descriptors])
    finally:
        close_all(descriptors)


def close_all(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def new_marks() -> tuple[mmap.mmap, int]:
    """A byte for each call that a worker process has, and the descriptor that the process opens them with.

    Said in shared memory and not in a message, so that a process that is busy with quick calls knows at once which
    ones are not to be begun: its reading thread may have to wait for the interpreter lock as long as they last.
    """
    descriptor = _anonymous()
    os.truncate(descriptor, MARKS)
    return open_marks(descriptor), descriptor


def open_marks(descriptor: int) -> mmap.mmap:
    return mmap.mmap(descriptor, MARKS)


def _anonymous() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("penstock")
    with tempfile.TemporaryFile() as file:  # has no name, so it is gone with its last descriptor
        return os.dup(file.fileno())


_alive: WeakSet[mmap.mmap] = WeakSet()


def _mapped(descriptor: int) -> mmap.mmap | bytearray:
    size = os.fstat(descriptor).st_size
    if len(_alive) < min(_MOST_MAPPED, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4):
        try:
            mapping = mmap.mmap(descriptor, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        except OSError:  # the program is short of descriptors
            return _copied(descriptor, size)
        _alive.add(mapping)
        return mapping
    return _copied(descriptor, size)


def _copied(descriptor: int, size: int) -> bytearray:
    data = bytearray(size)
    os.preadv(descriptor, [data], 0)
    return data
