"""A process that has imported everything and done nothing: its forks are the fresh processes of the crash tests.

A new interpreter takes a quarter of a second to begin, a fork some milliseconds. As a script this is the server; the
tests hold a `ForkServer`.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

HERE = Path(__file__).parent
TOO_LONG = 20.0  # seconds after which a child says where its threads are
_LENGTH = 65536


@dataclass
class Child:
    """A fork that waits for `go`."""

    server: ForkServer
    pid: int
    handshake: socket.socket
    listener: int | None  # through which it is supervised; whoever takes it closes it

    def go(self) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):
            self.handshake.sendall(b"!")
        self.handshake.close()

    def kill(self) -> None:
        """Safe: until `wait` nobody else gets its number."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        """Its exit code; that of a signal is negative. Blocks; once only."""
        self.server.send({"wait": self.pid})
        return int(self.server.receive()["status"])


class ForkServer:
    """For one thread at a time."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, str(HERE / "fork_server.py"), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
        self.can_supervise = bool(self.receive()["can_supervise"])

    def fork(self, work: str, environment: Mapping[str, str], *, supervised: bool = False, **arguments: Any) -> Child:
        """A child that, after `go`, calls the function `work` of `crash_lives` and ends as interpreters do.

        Its messages go to the file named by CRASH_MESSAGES.
        """
        ours, theirs = socket.socketpair()
        order = {"work": work, "environment": dict(environment), "supervised": supervised, "arguments": arguments}
        with theirs:
            socket.send_fds(self._socket, [json.dumps(order).encode()], [theirs.fileno()])
        pid = int(self.receive()["pid"])
        _, descriptors, *_ = socket.recv_fds(ours, 16, 1)
        return Child(self, pid, ours, descriptors[0] if descriptors else None)

    def send(self, message: object) -> None:
        self._socket.sendall(json.dumps(message).encode())

    def receive(self) -> dict[str, Any]:
        message = self._socket.recv(_LENGTH)
        if not message:
            raise RuntimeError("the fork server has died")
        found: dict[str, Any] = json.loads(message)
        return found

    def close(self) -> None:
        self._socket.close()
        self._process.wait(10)


# --- in the server ---


def _serve(connection: socket.socket) -> None:
    import crash_lives
    import seccomp_notify

    crash_lives.import_all()
    _send(connection, {"can_supervise": seccomp_notify.works()})
    while True:
        message, descriptors, *_ = socket.recv_fds(connection, _LENGTH, 1)
        if not message:
            return
        order = json.loads(message)
        if "wait" in order:
            status = os.waitstatus_to_exitcode(os.waitpid(order["wait"], 0)[1])
            _send(connection, {"status": status})
            continue
        pid = os.fork()
        if pid == 0:
            connection.close()
            _become(order, socket.socket(fileno=descriptors[0]))
        os.close(descriptors[0])
        _send(connection, {"pid": pid})


def _send(connection: socket.socket, message: object) -> None:
    connection.sendall(json.dumps(message).encode())


def _become(order: dict[str, Any], handshake: socket.socket) -> NoReturn:
    import crash_lives

    os.environ.update(order["environment"])
    _write_messages_to(os.environ["CRASH_MESSAGES"])
    if order["supervised"]:
        import seccomp_notify

        listener = seccomp_notify.hand_over()
        socket.send_fds(handshake, [b"x"], [listener])
        os.close(listener)
    else:
        handshake.sendall(b"x")
    if not handshake.recv(1):
        os._exit(3)  # the test has given up
    handshake.close()
    faulthandler.dump_traceback_later(TOO_LONG, file=2)
    getattr(crash_lives, order["work"])(**order["arguments"])
    sys.exit()  # as every script ends: with what the libraries do at exit


def _write_messages_to(path: str) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
