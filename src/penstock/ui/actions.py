"""What the dashboard does to runs: it starts the command that does it, in a process of its own.

So nothing of the user's is ever imported here, and what the command says is what the page tells. Each action is written
down before it is done, in `BOOK` in the home: when, what, of which run, and from which address it was asked for. A
nonce makes that a request, seen by somebody else, cannot be sent again.
"""

from __future__ import annotations

import json
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

from penstock.exceptions import StoreUnavailable
from penstock.ui.answers.documents import LONG, block, columns, document

REMEMBERED = 50
NONCES = 100  # that are valid at the same time
BOOK = "actions.jsonl"
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
    """`home`, or the database at `url`: the store whose runs are acted on."""

    def __init__(
        self, home: str, url: str | None = None, command: Sequence[str] = (sys.executable, "-m", "penstock.cli")
    ) -> None:
        self._home = home
        # A URL may have a password in it, and what is on a command line everybody can read.
        self._store = ["--store", home] if url is None else []
        self._variables = {} if url is None else {"PENSTOCK_HOME": home, "PENSTOCK_STORE_URL": url}
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
        """Begin; what has become of it is told by `told`. Raises `Replayed` or `StoreUnavailable`."""
        with self._lock:
            if nonce not in self._nonces:
                raise Replayed("this was sent before, or long ago: ask /api/about for a new nonce")
            self._nonces.remove(nonce)
        self._write_down(name, run_id, client)
        action = Action(name, run_id, time.time(), self._process(name, run_id))
        _log.warning("%s of run %s, asked for by %s: process %d", name, run_id, client, action.process.pid)
        self._done.append(action)
        threading.Thread(target=_follow, args=(action,), name="penstock-ui-action", daemon=True).start()
        return document(action=name, run=run_id, nonce=self.nonce(), started=True)

    def _write_down(self, name: str, run_id: str, client: str) -> None:
        """For good. What cannot be written down is not done."""
        line = json.dumps({"time": time.time(), "action": name, "run": run_id, "client": client}) + "\n"
        way = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
        path = os.path.join(self._home, BOOK)
        try:
            os.makedirs(self._home, mode=0o700, exist_ok=True)  # with the runs in a database there may be none
            descriptor = os.open(path, way, 0o600)
            try:
                os.write(descriptor, line.encode())
            finally:
                os.close(descriptor)
        except OSError as error:
            raise StoreUnavailable(f"nothing was done, because it cannot be written down: {error}") from error

    def _process(self, name: str, run_id: str) -> subprocess.Popen[bytes]:
        verb, *options = COMMANDS[name]
        return subprocess.Popen(
            [*self._command, verb, run_id, *options, *self._store],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "NO_COLOR": "1", "PENSTOCK_PROGRESS": "off", **self._variables},
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
