"""System calls of a process handed to another one, which decides: go on, fail, or die before the call is carried out.

By `seccomp` user notification, which Linux has without any tool and without privileges. The process asks for it
itself (`hand_over`), and all its threads and descendants are in it. The calls arrive at the supervisor one by one, so
that "the 137th write" means the same whichever thread makes it. Only calls that change files or locks are handed over.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import struct
from typing import NamedTuple

_MACHINES = {
    "x86_64": (
        0xC000003E,
        317,
        {
            "write": 1, "pwrite64": 18, "writev": 20, "pwritev": 296, "fsync": 74, "fdatasync": 75, "ftruncate": 77,
            "fallocate": 285, "rename": 82, "renameat": 264, "renameat2": 316, "unlink": 87, "unlinkat": 263,
            "link": 86, "linkat": 265, "mkdir": 83, "mkdirat": 258, "rmdir": 84, "open": 2, "openat": 257,
            "fcntl": 72, "flock": 73,
        },
    ),
    "aarch64": (
        0xC00000B7,
        277,
        {
            "write": 64, "pwrite64": 68, "writev": 66, "pwritev": 70, "fsync": 82, "fdatasync": 83, "ftruncate": 46,
            "fallocate": 47, "renameat": 38, "renameat2": 276, "unlinkat": 35, "linkat": 37, "mkdirat": 34,
            "openat": 56, "fcntl": 25, "flock": 32,
        },
    ),
}  # fmt: skip
_ARCHITECTURE, _SECCOMP, NUMBERS = _MACHINES.get(platform.machine(), (0, 0, {}))
NAMES = {number: name for name, number in NUMBERS.items()}

_FLAGS_ARGUMENT = {"open": 1, "openat": 2}
_CHANGING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_LOCKING = (fcntl.F_SETLK, fcntl.F_SETLKW, 37, 38)  # the last two: those of open file descriptions

_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_ALLOW, _NOTIFY = 0x7FFF0000, 0x7FC00000
_NEW_LISTENER, _WAIT_KILLABLE = 1 << 3, 1 << 5
_NO_NEW_PRIVILEGES = 38
_RECEIVE, _SEND, _IS_VALID = 0xC0502100, 0xC0182101, 0x40082102
_GO_ON = 1
_GET_DESCRIPTOR = 438


class Notice(NamedTuple):
    """A system call that waits for a decision."""

    id: int
    thread: int
    name: str
    arguments: tuple[int, ...]


def _instruction(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("HBBI", code, yes, no, value)


def _argument(number: int) -> bytes:
    return _instruction(_LOAD, 16 + 8 * number)


def _program() -> bytes:
    allow, notify = _instruction(_RETURN, _ALLOW), _instruction(_RETURN, _NOTIFY)
    parts = [_instruction(_LOAD, 4), _instruction(_EQUAL, _ARCHITECTURE, 1, 0), allow, _instruction(_LOAD, 0)]
    for name, number in NUMBERS.items():
        if name in _FLAGS_ARGUMENT:
            block = [_argument(_FLAGS_ARGUMENT[name]), _instruction(_ANY_BIT, _CHANGING, 0, 1), notify, allow]
        elif name == "fcntl":
            block = [_argument(1), *(_instruction(_EQUAL, kind, 4 - n, 0) for n, kind in enumerate(_LOCKING)), allow]
            block.append(notify)
        else:
            block = [notify]
        parts += [_instruction(_EQUAL, number, 0, len(block)), *block]
    return b"".join([*parts, allow])


def hand_over() -> int:
    """From now on this process waits at each such call for the holder of the descriptor that is returned.

    Raises OSError where the kernel does not offer it.
    """
    if not NUMBERS:
        raise OSError(errno.ENOSYS, f"the numbers of system calls on {platform.machine()} are not known")
    libc = ctypes.CDLL(None, use_errno=True)
    program = _program()
    buffer = ctypes.create_string_buffer(program, len(program))
    wanted = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))
    if libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    for flags in (_NEW_LISTENER | _WAIT_KILLABLE, _NEW_LISTENER):  # the second: Linux before 5.19
        descriptor = libc.syscall(_SECCOMP, 1, flags, wanted)
        if descriptor >= 0:
            return int(descriptor)
    raise OSError(ctypes.get_errno(), "seccomp")


def receive(listener: int) -> Notice | None:
    """The next call; None if whoever made it has died meanwhile."""
    buffer = bytearray(80)
    try:
        fcntl.ioctl(listener, _RECEIVE, buffer)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EINTR):
            return None
        raise
    number, thread, _, call = struct.unpack_from("QIIi", buffer)
    return Notice(number, thread, NAMES[call], struct.unpack_from("6Q", buffer, 32))


def answer(listener: int, notice: Notice, *, error: int | None = None, value: int | None = None) -> None:
    """Let the call be carried out; or let it fail with `error`, or return `value`, without being carried out."""
    flags = _GO_ON if error is None and value is None else 0
    response = bytearray(struct.pack("QqiI", notice.id, value or 0, -(error or 0), flags))
    try:
        fcntl.ioctl(listener, _SEND, response)
    except OSError as reason:
        if reason.errno != errno.ENOENT:  # it has died
            raise


def borrow(thread: int, descriptor: int) -> int:
    """The same open file as another process has it, with the position in it: whoever writes, moves it for both."""
    libc = ctypes.CDLL(None, use_errno=True)
    handle = os.pidfd_open(process_of(thread))
    try:
        borrowed = int(libc.syscall(_GET_DESCRIPTOR, handle, descriptor, 0))
    finally:
        os.close(handle)
    if borrowed < 0:
        raise OSError(ctypes.get_errno(), "pidfd_getfd")
    return borrowed


def process_of(thread: int) -> int:
    """The process that a thread is part of. Raises OSError if it has gone."""
    with open(f"/proc/{thread}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("Tgid:"))


def works() -> bool:
    """Whether this kernel, and what stands before it, lets a process do this."""
    pid = os.fork()
    if pid == 0:
        try:
            hand_over()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1] == 0
