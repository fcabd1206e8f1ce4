"""What the dashboard does to runs: it starts the command that does it, in a process of its own.

So nothing of the user's is ever imported here, and what the command says is what the page tells. Each action is written
down with its time and who asked for it. A nonce makes that a request, seen by somebody else, cannot be sent again.
"""

from __future__ import annotations

import logging
import os
import secrets
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from penstock.ui.answers.documents import LONG, block, columns, document

REMEMBERED = 50
NONCES = 100  # that are valid at the same time
COMMANDS: dict[str, Sequence[str]] = {
    "cancel": ("cancel", "--wait", "0"),
    "retry": ("retry",),
    "resume": ("resume",),
}
_log = logging.getLogger("penstock.ui")


class Replayed(Exception):
    """The nonce is not one that can be used, any more."""


@dataclass
class Action:
    name: str
    run_id: str
    time: float
    process: subprocess.Popen[bytes]
    status: int | None = None
    output: str = ""


class Actions:
    """`home`: the store whose runs are acted on."""

    def __init__(self, home: str, command: Sequence[str] = (sys.executable, "-m", "penstock.cli")) -> None:
        self._home = home
        self._command = command
        self._nonces: deque[str] = deque(maxlen=NONCES)
        self._done: deque[Action] = deque(maxlen=REMEMBERED)
        self._lock = threading.Lock()

    def nonce(self) -> str:
        """A new one, good for one action."""
        made = secrets.token_urlsafe(16)
        with self._lock:
            self._nonces.append(made)
        return made

    def start(self, name: str, run_id: str, nonce: str, client: str) -> dict[str, Any]:
        """Begin; what has become of it is told by `told`. Raises `Replayed`."""
        with self._lock:
            if nonce not in self._nonces:
                raise Replayed("this was sent before, or long ago: ask /api/about for a new nonce")
            self._nonces.remove(nonce)
        action = Action(name, run_id, time.time(), self._process(name, run_id))
        _log.warning("%s of run %s, asked for by %s: process %d", name, run_id, client, action.process.pid)
        self._done.append(action)
        threading.Thread(target=_follow, args=(action,), name="penstock-ui-action", daemon=True).start()
        return document(action=name, run=run_id, nonce=self.nonce(), started=True)

    def _process(self, name: str, run_id: str) -> subprocess.Popen[bytes]:
        verb, *options = COMMANDS[name]
        return subprocess.Popen(
            [*self._command, verb, run_id, *options, "--store", self._home],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "NO_COLOR": "1", "PENSTOCK_PROGRESS": "off"},
            start_new_session=True,  # Ctrl-C at the dashboard's terminal ends the dashboard, and not the runs
        )

    def told(self, run_id: str | None) -> dict[str, Any]:
        """What has become of the actions of this server, the latest first."""
        rows = [
            (one.name, one.run_id, one.time, one.status, one.output)
            for one in reversed(self._done)
            if run_id in (None, one.run_id)
        ]
        return document(columns=columns("action run time status output", rows))


def _follow(action: Action) -> None:
    output, _ = action.process.communicate()
    action.output = block(output.decode("utf-8", "replace").strip(), LONG) or ""
    action.status = action.process.returncode
    _log.warning("%s of run %s ended with status %d", action.name, action.run_id, action.status)
